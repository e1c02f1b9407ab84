"""Which store the command works on, and how it is opened: for reading, for writing, or to be created. A file, or a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ciliumipam.cli.text import say
from ciliumipam.errors import InvalidRequestError
from ciliumipam.ipam import Ipam
from ciliumipam.store import Store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore

_FILE = "sqlite:PATH, as in sqlite:ipam.db"
_FORMS = f"{_FILE}, or kubernetes:[CONTEXT]"


class Cluster(NamedTuple):
    """A Kubernetes cluster: a context of the kubeconfig; None is the current one, or the cluster that the command runs in."""

    context: str | None

    def __str__(self) -> str:
        return f"kubernetes:{self.context or ''}"


Place: TypeAlias = Path | Cluster
"""Where a store is."""


def place_of(option: str | None) -> Place:
    """What `--store`, else `$CILIUMIPAM_STORE`, else the user's state directory names.

    Raises:
        InvalidRequestError: It names no store.
    """
    if option is not None:
        return parse_place("--store", option)
    if given := os.environ.get("CILIUMIPAM_STORE"):
        return parse_place("$CILIUMIPAM_STORE", given)
    return _state_directory() / "ciliumipam" / "ipam.db"


def parse_place(origin: str, text: str) -> Place:
    """What a store's name stands for.

    Args:
        origin: Where the name was given, for the error.
        text: The name.

    Raises:
        InvalidRequestError: It names no store.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "kubernetes" and colon:
        return Cluster(rest or None)
    return _parse_file(origin, text, _FORMS)


def parse_file(origin: str, text: str) -> Path:
    """The file that a store's name stands for, where only a file will do.

    Raises:
        InvalidRequestError: It is not of the form sqlite:PATH.
    """
    return _parse_file(origin, text, _FILE)


def _parse_file(origin: str, text: str, forms: str) -> Path:
    scheme, _, path = text.partition(":")
    if scheme != "sqlite" or not path:
        raise InvalidRequestError(f"{origin} {text!r} names no store; write {forms}")
    return Path(path).expanduser()


def is_absent(option: str | None) -> bool:
    """Whether the store is a file that is not there yet."""
    place = place_of(option)
    return isinstance(place, Path) and not place.exists()


def in_cluster(option: str | None) -> bool:
    """Whether the store is a cluster, in which nodes are what `kubectl get nodes` shows."""
    return isinstance(place_of(option), Cluster)


def _state_directory() -> Path:
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return given if given.is_absolute() else Path("~/.local/state").expanduser()


@contextmanager
def reading(option: str | None, *, absent_is_empty: bool = False) -> Iterator[Store]:
    """The store, opened so that nothing can be written. One that is absent is an error, or on request as good as an empty one."""
    place = place_of(option)
    if isinstance(place, Cluster):
        with _cluster(place, read_only=True) as store:
            yield store
        return
    if absent_is_empty and not place.exists():
        yield MemoryStore()
        return
    with closing(SqliteStore(place, read_only=True, must_exist=True)) as store:
        yield store


@contextmanager
def writing(option: str | None, *, create: bool = False) -> Iterator[Store]:
    """The store, opened for writing. Creating one is told, since a mistyped path would otherwise be a new, empty store."""
    place = place_of(option)
    if isinstance(place, Cluster):
        with _cluster(place) as store:
            yield store
        return
    is_new = create and not place.exists()
    with closing(SqliteStore(place, must_exist=not create)) as store:
        if is_new:
            say(f"created the store {place}")
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
        InvalidRequestError: They are one, or one of them is no store.
    """
    first, second = parse_place("--from", source), parse_place("--to", target)
    if (first.resolve() if isinstance(first, Path) else first) == (second.resolve() if isinstance(second, Path) else second):
        raise InvalidRequestError(f"--from and --to are both {first}; copy into another one")
    is_new = isinstance(second, Path) and not second.exists()
    with _whole(first, read_only=True) as left, _whole(second) as right:
        if is_new:
            say(f"created the store {second}")
        yield left, right


def _whole(place: Place, *, read_only: bool = False) -> AbstractContextManager[Store]:
    """A store to be copied out of or into."""
    if isinstance(place, Cluster):
        return _cluster(place, read_only=read_only)
    return closing(SqliteStore(place, read_only=read_only, must_exist=read_only))


def _cluster(place: Cluster, *, read_only: bool = False) -> AbstractContextManager[Store]:
    from ciliumipam.cli.cluster import open_cluster  # noqa: PLC0415 - a client of Kubernetes takes a while to load

    return open_cluster(place.context, read_only=read_only)
