"""`MemoryStore`: the reference for the contract, and the fastest. It keeps the record objects themselves, nothing is encoded."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Lock
from typing import Self

from ciliumipam.errors import ConflictError, InvalidRequestError, RevisionExpiredError, StoreClosedError
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.store import ABSENT, Change, Expect, Listing, Watch, Write


class MemoryStore:
    """A store in this process's memory. Thread-safe; gone with the process.

    Args:
        history: How many changes of each kind are remembered, for watches that begin or come later; at least 1.
    """

    def __init__(self, *, history: int = 1000) -> None:
        """Start empty."""
        if history < 1:
            raise InvalidRequestError(f"history is {history}: a store that can be watched remembers at least 1 change of a kind")
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._waiting = 0
        self._entries: dict[Key, Entry] = {}
        self._last = 0
        self._history = history
        self._logs: dict[Kind, _Log] = {}
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
            revision = Revision(str(self._last))
        return Listing(tuple(sorted(found, key=lambda item: item[0])), revision)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record. O(1)."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("put")
            _compare(key, self._entries.get(key), expect)
            revision = Revision(str(self._last + 1))
            self._entries[key] = entry = Entry(record, revision)
            self._note(key, entry)
            return revision

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes in order under one lock, or none of them."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("put")
            staged: dict[Key, Entry] = {}
            done: list[tuple[Key, Entry]] = []
            for number, (key, record, expect) in enumerate(writes, self._last + 1):
                _compare(key, staged.get(key) or self._entries.get(key), expect)
                staged[key] = entry = Entry(record, Revision(str(number)))
                done.append((key, entry))
            self._entries.update(staged)  # at once: `get` takes no lock, and must not see what a conflict takes back
            for key, entry in done:
                self._note(key, entry)
            return [entry.revision for _, entry in done]

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record. O(1)."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("delete")
            _compare(key, self._entries.get(key), expect)
            del self._entries[key]
            self._note(key, None)

    def watch(self, kind: Kind, revision: Revision) -> Watch:
        """Every change of a kind after a revision. O(log history)."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("watch")
            log = self._logs.get(kind) or _Log()
            try:
                number = int(revision)
            except ValueError:
                number = -1
            if not log.forgotten <= number <= self._last or str(number) != revision:
                raise RevisionExpiredError(kind, revision)
            return _Watch(self._take, self._end, kind, log.gone + bisect_right(log.changes, number, key=_number), number)

    def close(self) -> None:
        """Refuse every later call, and end all watches."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def _note(self, key: Key, entry: Entry | None) -> None:
        """Remember a change that was made."""
        self._last += 1
        log = self._logs.get(key.kind)
        if log is None:
            log = self._logs[key.kind] = _Log()
        if len(log.changes) == self._history:
            log.forgotten = log.changes.popleft()[0]
            log.gone += 1
        log.changes.append((self._last, key, entry))
        if self._waiting:
            self._changed.notify_all()

    def _take(self, watch: _Watch) -> Change:
        """The next change for a watch; waits for it."""
        with self._changed:
            while not watch.closed:
                if self._closed:
                    raise StoreClosedError("watch")
                log = self._logs.get(watch.kind)
                if log is not None and watch.seen < log.gone:
                    raise RevisionExpiredError(watch.kind, watch.revision)
                if log is not None and watch.seen < log.gone + len(log.changes):
                    watch.number, key, entry = log.changes[watch.seen - log.gone]
                    watch.seen += 1
                    return Change(key, entry)
                self._waiting += 1
                try:
                    self._changed.wait()
                finally:
                    self._waiting -= 1
        raise StopIteration

    def _end(self, watch: _Watch) -> None:
        with self._changed:
            watch.closed = True
            self._changed.notify_all()


class _Log:
    """The last changes of one kind.

    Attributes:
        changes: Each with its number among all changes of the store.
        gone: How many were forgotten.
        forgotten: The number of the last one that was forgotten.
    """

    def __init__(self) -> None:
        """Nothing has changed yet."""
        self.changes: deque[tuple[int, Key, Entry | None]] = deque()
        self.gone = self.forgotten = 0


class _Watch:
    """One reader of a log.

    Attributes:
        seen: How many changes of the kind, since the store began, it is past.
        number: That of the change it returned last, or of the listing from which it went on.
    """

    def __init__(
        self, take: Callable[[_Watch], Change], end: Callable[[_Watch], None], kind: Kind, seen: int, number: int
    ) -> None:
        """`take` and `end` are the store's."""
        self._take, self._end = take, end
        self.kind, self.seen, self.number = kind, seen, number
        self.closed = False

    @property
    def revision(self) -> Revision:
        """Where another watch can go on."""
        return Revision(str(self.number))

    def __iter__(self) -> Self:
        """The watch itself."""
        return self

    def __next__(self) -> Change:
        """The next change."""
        return self._take(self)

    def close(self) -> None:
        """End it."""
        self._end(self)


def _compare(key: Key, present: Entry | None, expect: Expect) -> None:
    if (present.revision if present is not None else ABSENT) != expect:
        wanted = "nothing" if expect is ABSENT else f"revision {expect}"
        raise ConflictError(str(key), wanted, f"revision {present.revision}" if present else "nothing")


def _number(change: tuple[int, Key, Entry | None]) -> int:
    return change[0]
