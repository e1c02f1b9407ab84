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
            return self._put(key, self._entries.get(key), record, expect)

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes in order under one lock, or none of them."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("put")
            before: list[tuple[Key, Entry | None]] = []
            done: list[Revision] = []
            try:
                for key, record, expect in writes:
                    present = self._entries.get(key)
                    done.append(self._put(key, present, record, expect))
                    before.append((key, present))
            except ConflictError:
                for key, present in reversed(before):
                    if present is None:
                        del self._entries[key]
                    else:
                        self._entries[key] = present
                raise
            return done

    def _put(self, key: Key, present: Entry | None, record: Record, expect: Expect) -> Revision:
        if (present.revision if present is not None else ABSENT) != expect:
            raise _conflict(key, present, expect)
        self._last = revision = Revision(str(next(self._revisions)))
        self._entries[key] = Entry(record, revision)
        return revision

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
