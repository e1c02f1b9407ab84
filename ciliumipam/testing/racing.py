"""Threads that race on purpose: they meet at a barrier, and the interpreter switches between them as often as it can."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from ciliumipam.errors import ConflictError
from ciliumipam.records import Key, Revision
from ciliumipam.store import Store
from ciliumipam.testing.record_strategies import number_of, numbered

_T = TypeVar("_T")
_HOPELESS = 10_000
"""Conflicts in a row after which nobody can have won that often: the store makes them up."""


def together(*works: Callable[[], _T]) -> list[_T]:
    """Do all works at once, each in a thread of its own, which take turns as often as possible; returns what they return."""
    barrier = Barrier(len(works))
    interval = sys.getswitchinterval()

    def begin(work: Callable[[], _T]) -> _T:
        barrier.wait()
        return work()

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            return list(pool.map(begin, works))
    finally:
        sys.setswitchinterval(interval)


def race(*writes: Callable[[], Revision]) -> list[Revision | None]:
    """Do all writes at once; None for each that met a conflict."""

    def attempt(write: Callable[[], Revision]) -> Callable[[], Revision | None]:
        def work() -> Revision | None:
            try:
                return write()
            except ConflictError:
                return None

        return work

    return together(*map(attempt, writes))


def increment(store: Store, key: Key, times: int) -> list[tuple[int, Revision]]:
    """Add one to a numbered record by compare-and-set, as often as asked; returns the numbers written and their revisions."""
    done: list[tuple[int, Revision]] = []
    conflicts = 0
    while len(done) < times:
        entry = store.get(key)
        number = number_of(entry) + 1
        assert entry is not None
        try:
            done.append((number, store.put(key, numbered(number), expect=entry.revision)))
        except ConflictError:
            conflicts += 1
            assert conflicts < _HOPELESS, f"{conflicts} conflicts in a row on {key}"
        else:
            conflicts = 0
    return done
