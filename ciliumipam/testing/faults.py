"""`FaultyStore`: a store that fails when told to, before or after the effect, to see what its callers make of it.

    faulty = FaultyStore(MemoryStore(), [Fault.NONE, Fault.LOST])    # the second write is done, and its reply is lost
    faulty = FaultyStore(store, crash_after(3))                      # the process dies right after the third write

Every single-record write takes the next fault of the script, also those of one `put_in_order`: so a caller is stopped between any
two of its writes. When the script has ended, nothing fails any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

from ciliumipam.errors import ConflictError, StoreUnavailableError
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.store import Expect, Listing, Store, Write


class Crash(BaseException):
    """The process died here. No library code may catch this and go on."""


class Fault(Enum):
    """What becomes of one write."""

    NONE = "none"
    """It is done."""
    REFUSED = "refused"
    """It is not done, and the caller is told that it was not."""
    VANISHED = "vanished"
    """It is not done, and the caller is told that nobody knows."""
    LOST = "lost"
    """It is done, and the caller is told that nobody knows."""
    CONFLICT = "conflict"
    """It is not done; the caller is told that somebody else was faster."""
    CRASH_BEFORE = "crash before"
    """It is not done, and the caller dies."""
    CRASH_AFTER = "crash after"
    """It is done, and the caller dies."""

    @property
    def takes_effect(self) -> bool:
        """Whether the write is done."""
        return self in (Fault.NONE, Fault.LOST, Fault.CRASH_AFTER)


def crash_after(writes: int) -> list[Fault]:
    """The script of a process that dies right after so many writes; 0 is right before the first."""
    return [Fault.NONE] * (writes - 1) + [Fault.CRASH_AFTER] if writes else [Fault.CRASH_BEFORE]


class FaultyStore:
    """A store around another one. As thread-safe as the script's iterator.

    Attributes:
        writes: How many single-record writes were asked for.
        fired: The faults other than `Fault.NONE` that were played.
    """

    def __init__(self, inner: Store, script: Iterable[Fault] = (), reads: Iterable[Fault] = ()) -> None:
        """Nothing has been written yet.

        Args:
            inner: Where it really goes.
            script: What becomes of each write, in order.
            reads: The same for `get` and `scan`; `REFUSED` and the crashes make sense.
        """
        self.inner = inner
        self.writes = 0
        self.fired: list[Fault] = []
        self.play(script, reads)

    def play(self, script: Iterable[Fault] = (), reads: Iterable[Fault] = ()) -> None:
        """Begin another script; without one, nothing fails from now on."""
        self._script: Iterator[Fault] = iter(script)
        self._reads: Iterator[Fault] = iter(reads)

    def get(self, key: Key) -> Entry | None:
        """The record of a key, or None."""
        self._fail("get", next(self._reads, Fault.NONE))
        return self.inner.get(key)

    def scan(self, kind: Kind) -> Listing:
        """Every record of a kind."""
        self._fail("scan", next(self._reads, Fault.NONE))
        return self.inner.scan(kind)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record, or fail."""
        fault = self._next(key, "put")
        revision = self.inner.put(key, record, expect=expect)
        self._fail("put", fault)
        return revision

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes one by one, each with a fault of its own."""
        return [self.put(write.key, write.record, expect=write.expect) for write in writes]

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record, or fail."""
        fault = self._next(key, "delete")
        self.inner.delete(key, expect=expect)
        self._fail("delete", fault)

    def close(self) -> None:
        """Close the store inside."""
        self.inner.close()

    def _next(self, key: Key, operation: str) -> Fault:
        """The next fault; raises here if the write is not to be done."""
        self.writes += 1
        fault = next(self._script, Fault.NONE)
        if fault is not Fault.NONE:
            self.fired.append(fault)
        if fault is Fault.CONFLICT:
            raise ConflictError(str(key), "what the script does not tell", "a planted conflict")
        if not fault.takes_effect:
            self._fail(operation, fault)
        return fault

    def _fail(self, operation: str, fault: Fault) -> None:
        if fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            raise Crash
        if fault is not Fault.NONE:
            raise StoreUnavailableError(operation, f"planted: {fault.value}", fault is not Fault.REFUSED)


__all__ = ["Crash", "Fault", "FaultyStore", "crash_after"]
