"""The contract's sentences, and the base of all tests that are named after one: what fails says which promise is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ClassVar, Final

import pytest

from ciliumipam import store as contract
from ciliumipam.records import Key, Revision
from ciliumipam.store import Store, SupportsOrderedPuts, SupportsWatch

PROMISES: Final[dict[int, str]] = {
    int(number): " ".join(sentence.split())
    for number, sentence in re.findall(r"^(\d+)\. (.+(?:\n {3,}.+)*)", contract.__doc__ or "", re.MULTILINE)
}
"""The sentences of the contract, word for word, by their numbers."""

A, B = Key("address-page", "10.0.1.0/24"), Key("address-page", "10.0.2.0/24")
UNKNOWN: Final = Revision("no revision of any store")
_NAMED = re.compile(r"test_(\d+)_")


class Promises:
    """What the parts of the suite share: the fixtures that a backend overrides, and the sentence in every failure."""

    rounds: ClassVar[int] = 40
    """How often callers race in each test that races. A backend far away may lower it."""
    many: ClassVar[int] = 2000
    """How many records the largest listing has."""
    patience: ClassVar[float] = 10.0
    """Seconds after which a change that no watch tells of is taken for lost. Nothing waits so long unless it fails."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """An empty store."""
        raise NotImplementedError

    @pytest.fixture
    def peer(self, store: Store) -> Store:
        """The same records, reached another way where there is one."""
        return store

    @pytest.fixture
    def losses(self, store: Store) -> Sequence[Callable[[], AbstractContextManager[Store]]]:
        """Ways in which a write of this store fails or loses its reply, each around one write: what is entered is the store to call."""
        pytest.skip(f"how {type(store).__name__} loses a reply is not told: override the fixture `losses`")

    @pytest.fixture
    def forget(self, store: Store) -> Callable[[], None]:
        """Makes the store forget the changes made so far, so that no watch can go on from before them."""
        watched(store)
        pytest.skip(f"how {type(store).__name__} forgets changes is not told: override the fixture `forget`")

    def __init_subclass__(cls) -> None:
        """Make every test of the class name its promise when it fails."""
        super().__init_subclass__()
        for name, test in list(vars(cls).items()):
            if (match := _NAMED.match(name)) and int(match[1]) in PROMISES and callable(test):
                setattr(cls, name, _naming(int(match[1]), test))


def _naming(number: int, test: Callable[..., None]) -> Callable[..., None]:
    @wraps(test)
    def named(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        try:
            test(*args, **kwargs)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - whatever it is, the promise was broken
            detail = (
                str(error)
                if isinstance(error, AssertionError | pytest.fail.Exception)
                else f"{type(error).__name__}: {error}"
            )
            broken = AssertionError(f"promise {number} is broken: {PROMISES[number]}\n{detail}")
            raise broken.with_traceback(error.__traceback__) from None

    return named


def in_order(store: Store) -> SupportsOrderedPuts:
    """The store, if it can put in order; else the test is skipped."""
    if not isinstance(store, SupportsOrderedPuts):
        pytest.skip(f"{type(store).__name__} has no put_in_order")
    return store


def watched(store: Store) -> SupportsWatch:
    """The store, if it can be watched; else the test is skipped."""
    if not isinstance(store, SupportsWatch):
        pytest.skip(f"{type(store).__name__} has no watch")
    return store
