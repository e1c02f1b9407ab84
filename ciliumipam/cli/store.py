"""Which store the command works on, and how it is opened: for reading, for writing, or to be created."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ciliumipam.cli.text import say
from ciliumipam.errors import InvalidRequestError
from ciliumipam.store import Store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore


def store_path(option: str | None) -> Path:
    """The file that `--store`, else `$CILIUMIPAM_STORE`, else the user's state directory names.

    Raises:
        InvalidRequestError: It is not of the form sqlite:PATH.
    """
    for origin, text in (("--store", option), ("$CILIUMIPAM_STORE", os.environ.get("CILIUMIPAM_STORE"))):
        if text is None or (origin.startswith("$") and not text):
            continue
        scheme, _, path = text.partition(":")
        if scheme != "sqlite" or not path:
            raise InvalidRequestError(f"{origin} {text!r} names no store; write sqlite:PATH, as in sqlite:ipam.db")
        return Path(path).expanduser()
    return _state_directory() / "ciliumipam" / "ipam.db"


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
