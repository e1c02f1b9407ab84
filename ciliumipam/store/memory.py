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
        self._last = "0"
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
            revision = Revision(self._last)
        return Listing(tuple(sorted(found, key=lambda item: item[0])), revision)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record. O(1)."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("put")
            return self._put(key, record, expect)

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes in order under one lock, or none of them."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("put")
            before = [self._entries.get(write.key) for write in writes]
            done: list[Revision] = []
            try:
                for key, record, expect in writes:
                    done.append(self._put(key, record, expect))
            except ConflictError:
                for write, entry in reversed(list(zip(writes, before, strict=True))[: len(done)]):
                    if entry is None:
                        del self._entries[write.key]
                    else:
                        self._entries[write.key] = entry
                raise
            return done

    def _put(self, key: Key, record: Record, expect: Expect) -> Revision:
        self._check(key, expect)
        revision = Revision(str(next(self._revisions)))
        self._entries[key] = Entry(record, revision)
        self._last = revision
        return revision

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record. O(1)."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("delete")
            self._check(key, expect)
            del self._entries[key]
            self._last = str(next(self._revisions))

    def _check(self, key: Key, expect: Expect) -> None:
        present = self._entries.get(key)
        if (present is None) != (expect is ABSENT) or (present is not None and present.revision != expect):
            wanted = "nothing" if expect is ABSENT else f"revision {expect}"
            raise ConflictError(str(key), wanted, f"revision {present.revision}" if present else "nothing")

    def close(self) -> None:
        """Refuse every later call."""
        with self._lock:
            self._closed = True
