"""`MemoryStore`: the reference for the contract, and the fastest. It keeps the record objects themselves, nothing is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from threading import Lock

from ciliumipam.errors import ConflictError, StoreClosedError
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.store import ABSENT, Expect, Listing, Write


class MemoryStore:
    """A store in this process's memory. Thread-safe; gone with the process."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = Lock()
        self._entries: dict[Key, Entry] = {}
        self._revisions = count(1)
        self._last = Revision("0")
        self._closed = False

    def get(self, key: Key) -> Entry | None:
        """The record of a key, or None. O(1)."""
        if self._closed:
            raise StoreClosedError("get")
        return self._entries.get(key)

    def scan(self, kind: Kind) -> Listing:
        """Every record of a kind. O(n log n) in all records of the store."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("scan")
            found = [item for item in self._entries.items() if item[0].kind == kind]
            revision = self._last
        return Listing(tuple(sorted(found, key=lambda item: item[0])), revision)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record. O(1)."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("put")
            entry = self._entries[key] = self._next(key, self._entries.get(key), record, expect)
            return entry.revision

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes in order under one lock, or none of them."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("put")
            staged: dict[Key, Entry] = {}
            done: list[Revision] = []
            for key, record, expect in writes:
                staged[key] = self._next(key, staged.get(key) or self._entries.get(key), record, expect)
                done.append(staged[key].revision)
            self._entries.update(staged)  # at once: `get` takes no lock, and must not see what a conflict takes back
            return done

    def _next(self, key: Key, present: Entry | None, record: Record, expect: Expect) -> Entry:
        if (present.revision if present is not None else ABSENT) != expect:
            raise _conflict(key, present, expect)
        self._last = Revision(str(next(self._revisions)))
        return Entry(record, self._last)

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record. O(1)."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("delete")
            present = self._entries.get(key)
            if present is None or present.revision != expect:
                raise _conflict(key, present, expect)
            del self._entries[key]
            self._last = Revision(str(next(self._revisions)))

    def close(self) -> None:
        """Refuse every later call."""
        with self._lock:
            self._closed = True


def _conflict(key: Key, present: Entry | None, expect: Expect) -> ConflictError:
    wanted = "nothing" if expect is ABSENT else f"revision {expect}"
    return ConflictError(str(key), wanted, f"revision {present.revision}" if present else "nothing")
