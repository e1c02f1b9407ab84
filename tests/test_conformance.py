"""The conformance suite finds what it is for: it passes a right store, and names the broken promise of each wrong one."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import ModuleType

import pytest

from ciliumipam import store as contract
from ciliumipam.errors import StoreError
from ciliumipam.records import Key
from ciliumipam.store import ABSENT, Store
from ciliumipam.testing.conformance import PROMISES, StoreConformance
from ciliumipam.testing.racing import increment
from ciliumipam.testing.record_strategies import numbered
from ciliumipam.testing.wrong_stores import WRONG_STORES, WrongStore
from ciliumipam.testing.wrong_watches import WRONG_WATCHES

WRONG = WRONG_STORES + WRONG_WATCHES


class Judged(StoreConformance):
    """The suite, made small: what is wrong with these stores shows at once."""

    rounds = 8
    many = 600
    judged: type[WrongStore]

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = self.judged()
        yield store
        with suppress(StoreError):
            store.close()

    @pytest.fixture
    def peer(self, store: Store) -> Store:
        assert isinstance(store, WrongStore)
        return store.peer()

    @pytest.fixture
    def losses(self, store: Store) -> Sequence[Callable[[], AbstractContextManager[Store]]]:
        assert isinstance(store, WrongStore)
        return [lambda: nullcontext(store.losing())]

    @pytest.fixture
    def forget(self, store: Store) -> Callable[[], None]:
        def write_on() -> None:
            store.put(Key("address-page", "busy"), numbered(0), expect=ABSENT)
            increment(store, Key("address-page", "busy"), 200)

        return write_on


class Reports:
    """A plugin of pytest that keeps what became of every test."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed and report.when == "call":
            self.passed.append(report.nodeid.rpartition("::")[2])

    def pytest_exception_interact(self, node: pytest.Item, call: pytest.CallInfo[None]) -> None:
        assert call.excinfo is not None
        self.failed[node.name] = str(call.excinfo.value)


QUICK = [
    "-qq",
    "--tb=native",
    *(f"-pno:{name}" for name in ("cacheprovider", "unraisableexception", "threadexception", "xdist")),
]


def judge(store: type[WrongStore], folder: Path, patience: float = Judged.patience) -> Reports:
    """Run the whole suite on a store, by a pytest of its own."""
    module = ModuleType("judged")
    vars(module)["TestIt"] = type("TestIt", (Judged,), {"judged": store, "patience": patience})
    file = folder / f"test_{store.__name__}.py"
    file.write_text("from judged import TestIt\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    reports = Reports()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "judged", module)
        pytest.main([*QUICK, str(file)], plugins=[reports])
    return reports


def test_a_right_store_passes_every_test(tmp_path: Path) -> None:
    reports = judge(WrongStore, tmp_path)

    assert reports.failed == {}
    assert {promise_of(name) for name in reports.passed} == set(PROMISES)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_store_fails_by_the_name_of_the_promise_that_it_breaks(wrong: type[WrongStore], tmp_path: Path) -> None:
    reports = judge(wrong, tmp_path, patience=0.3)

    assert wrong.breaks in {promise_of(name) for name in reports.failed}, f"{wrong.__name__}: {wrong.__doc__}"
    for name, message in reports.failed.items():
        number = promise_of(name)
        assert message.startswith(f"promise {number} is broken: {PROMISES[number]}\n")


def test_wrong_stores_are_many_and_break_every_promise_but_none_twice_the_same() -> None:
    assert len(WRONG) >= 20
    assert len({wrong.__doc__ for wrong in WRONG}) == len(WRONG)
    assert {wrong.breaks for wrong in WRONG} == set(PROMISES)


def test_promises_are_the_sentences_of_the_contract() -> None:
    assert list(PROMISES) == list(range(1, 17))
    assert PROMISES[3] == "Of two writers that expect the same revision, exactly one wins."
    assert PROMISES[12].endswith(
        "none of them has taken effect, after any other error some first part of them may have."
    )
    flat = " ".join((contract.__doc__ or "").split())
    assert all(f"{number}. {sentence}" in flat for number, sentence in PROMISES.items())


def promise_of(name: str) -> int:
    match = re.match(r"test_(\d+)_", name)
    assert match, name
    return int(match[1])


def test_the_how_to_shows_every_promise_word_for_word() -> None:
    page = (Path(__file__).parent.parent / "docs/how-to/test-your-store.md").read_text()

    assert re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE) == [(str(number), text) for number, text in PROMISES.items()]
