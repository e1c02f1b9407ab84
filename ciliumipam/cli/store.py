"""Which store the command works on, and how it is opened: for reading, for writing, or to be created."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ciliumipam.cli.text import say
from ciliumipam.errors import InvalidRequestError
from ciliumipam.ipam import Ipam
from ciliumipam.store import Store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore


def store_path(option: str | None) -> Path:
    """The file that `--store`, else `$CILIUMIPAM_STORE`, else the user's state directory names.

    Raises:
        InvalidRequestError: It is not of the form sqlite:PATH.
    """
    if option is not None:
        return parse_store("--store", option)
    if given := os.environ.get("CILIUMIPAM_STORE"):
        return parse_store("$CILIUMIPAM_STORE", given)
    return _state_directory() / "ciliumipam" / "ipam.db"


def parse_store(origin: str, text: str) -> Path:
    """The file that a store's name stands for.

    Args:
        origin: Where the name was given, for the error.
        text: The name.

    Raises:
        InvalidRequestError: It is not of the form sqlite:PATH.
    """
    scheme, _, path = text.partition(":")
    if scheme != "sqlite" or not path:
        raise InvalidRequestError(f"{origin} {text!r} names no store; write sqlite:PATH, as in sqlite:ipam.db")
    return Path(path).expanduser()


def _state_directory() -> Path:
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return given if given.is_absolute() else Path("~/.local/state").expanduser()


@contextmanager
def reading(option: str | None, *, absent_is_empty: bool = False) -> Iterator[Store]:
    """The store, opened so that nothing can be written. One that is absent is an error, or on request as good as an empty one."""
    path = store_path(option)
    if absent_is_empty and not path.exists():
        yield MemoryStore()
        return
    with closing(SqliteStore(path, read_only=True, must_exist=True)) as store:
        yield store


@contextmanager
def writing(option: str | None, *, create: bool = False) -> Iterator[Store]:
    """The store, opened for writing. Creating one is told, since a mistyped path would otherwise be a new, empty store."""
    path = store_path(option)
    is_new = create and not path.exists()
    with closing(SqliteStore(path, must_exist=not create)) as store:
        if is_new:
            say(f"created the store {path}")
        yield store


@contextmanager
def deciding(store: Store, journal: str | None) -> Iterator[Ipam]:
    """An `Ipam` on a store, with a journal where `--journal` or `$CILIUMIPAM_JOURNAL` names one."""
    file = journal or os.environ.get("CILIUMIPAM_JOURNAL")
    if not file:
        yield Ipam(store)
        return
    from ciliumipam.journal import JournaledIpam  # noqa: PLC0415 - loaded only for those who keep one

    ipam = JournaledIpam(store, journal=Path(file).expanduser())
    try:
        yield ipam
    finally:
        ipam.close_journal()
    if ipam.journal_error is not None:
        say(f"the journal {file} could not be written ({ipam.journal_error}); what the command did is done")


@contextmanager
def both(source: str, target: str) -> Iterator[tuple[Store, Store]]:
    """Two stores: one to read out of, and one to write into, which may be new.

    Raises:
        InvalidRequestError: They are one, or one of them is not of the form sqlite:PATH.
    """
    first, second = parse_store("--from", source), parse_store("--to", target)
    if first.resolve() == second.resolve():
        raise InvalidRequestError(f"--from and --to are both {first}; copy into another file")
    is_new = not second.exists()
    with closing(SqliteStore(first, read_only=True, must_exist=True)) as left, closing(SqliteStore(second)) as right:
        if is_new:
            say(f"created the store {second}")
        yield left, right
