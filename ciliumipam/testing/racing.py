"""What threads that race over a store do."""

from __future__ import annotations

from ciliumipam.errors import ConflictError
from ciliumipam.records import Key, Revision
from ciliumipam.store import Store
from ciliumipam.testing.record_strategies import number_of, numbered
from ciliumipam.testing.threads import together

__all__ = ["increment", "together"]


def increment(store: Store, key: Key, times: int) -> list[tuple[int, Revision]]:
    """Add one to a numbered record by compare-and-set, as often as asked; returns the numbers written and their revisions."""
    done: list[tuple[int, Revision]] = []
    while len(done) < times:
        entry = store.get(key)
        number = number_of(entry) + 1
        assert entry is not None
        try:
            done.append((number, store.put(key, numbered(number), expect=entry.revision)))
        except ConflictError:
            continue
    return done
