"""What threads that race over a store do."""

from __future__ import annotations

from collections.abc import Callable

from ciliumipam.errors import ConflictError
from ciliumipam.records import Key, Revision
from ciliumipam.store import Store
from ciliumipam.testing.record_strategies import number_of, numbered
from ciliumipam.testing.threads import together

__all__ = ["increment", "race", "together"]

_HOPELESS = 10_000
"""Conflicts in a row after which nobody can have won that often: the store makes them up."""


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
