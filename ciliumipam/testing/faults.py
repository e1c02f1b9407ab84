"""`FaultyStore`: a store that fails, dawdles, forgets and is cut off when told to, to see what its callers make of it.

    faulty = FaultyStore(MemoryStore(), [Fault.NONE, Fault.LOST])       # the second write is done, and its reply is lost
    faulty = FaultyStore(store, Script.seeded(7, rate=0.05))            # one write in twenty goes wrong, the same ones for this seed
    faulty = FaultyStore(store, crash_after(3))                         # the process dies right after the third write

Every single-record write takes the next fault of the script, also those of one `put_in_order`: so a caller is stopped between any
two of its writes. Reads have a script of their own. When a script has ended, nothing fails any more.

What several handles of one store have in common is in their `Surroundings`: who is cut off from when to when, what was written
before, and what a slow operation waits for. With a `VirtualTime` nobody really waits: what others do meanwhile is done meanwhile.

Failures, conflicts, latency and partitions are what every store may do to its callers. `STALE` and `TORN` are not: they break the
contract of `Store`, and show which of its promises a caller lives by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from itertools import count, groupby
from random import Random
from typing import NamedTuple, Self

from ciliumipam.errors import ConflictError, StoreUnavailableError
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.store import Expect, Listing, Store, Write


class Crash(BaseException):
    """The process died here. No library code may catch this and go on."""


class Fault(Enum):
    """What becomes of one operation. For a read "it is done" means that something is read."""

    NONE = "none"
    """It is done."""
    REFUSED = "refused"
    """It is not done, and the caller is told that it was not."""
    VANISHED = "vanished"
    """It is not done, and the caller is told that nobody knows."""
    LOST = "lost"
    """It is done, and the caller is told that nobody knows."""
    CONFLICT = "conflict"
    """Writes only. It is not done; the caller is told that somebody else was faster."""
    SLOW = "slow"
    """It takes its time, and is done at the end of that."""
    SLOW_REPLY = "slow reply"
    """It is done, and the caller hears of it some time later."""
    CRASH_BEFORE = "crash before"
    """It is not done, and the caller dies."""
    CRASH_AFTER = "crash after"
    """It is done, and the caller dies."""
    STALE = "stale"
    """Reads only, against the contract of a store: what is read is how it was some writes ago."""
    TORN = "torn"
    """Lists only, against the contract of a store: their first half is how it was some writes ago, the rest is how it is."""

    @property
    def takes_effect(self) -> bool:
        """Whether the operation is done."""
        return self not in (Fault.REFUSED, Fault.VANISHED, Fault.CONFLICT, Fault.CRASH_BEFORE)


WRITE_FAULTS = (Fault.REFUSED, Fault.VANISHED, Fault.LOST, Fault.CONFLICT, Fault.SLOW, Fault.SLOW_REPLY, Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
"""What a store that keeps its contract may do to a write."""
READ_FAULTS = (Fault.REFUSED, Fault.VANISHED, Fault.SLOW, Fault.SLOW_REPLY, Fault.CRASH_BEFORE)
"""The same for a read."""


@dataclass(frozen=True)
class Script:
    """What becomes of the operations of a store, in order. Prints as text that `parse` reads: `2*none, lost, 17*none, crash after`."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def seeded(cls, seed: int, *, rate: float = 0.05, length: int = 1000, among: Sequence[Fault] = WRITE_FAULTS) -> Self:
        """Faults by chance; the same seed gives the same ones, on every machine.

        Args:
            seed: Any number.
            rate: The share of the operations to which something happens, 0 to 1.
            length: For how many operations.
            among: What may happen.
        """
        chance = Random(seed)  # noqa: S311 - a seed is asked for, no secret
        return cls(tuple(among[int(chance.random() * len(among))] if chance.random() < rate else Fault.NONE for _ in range(length)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a script prints.

        Raises:
            ValueError: A word is no fault.
        """
        faults: list[Fault] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            times, star, name = part.rpartition("*")
            try:
                faults += [Fault(name.strip())] * (int(times) if star else 1)
            except ValueError:
                names = ", ".join(fault.value for fault in Fault)
                raise ValueError(f"{part!r} is no fault; write one of {names}, with '3*' in front for three of them") from None
        return cls(tuple(faults))

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def __str__(self) -> str:
        runs = [(len([*run]), fault) for fault, run in groupby(self.faults)]
        return ", ".join(fault.value if times == 1 else f"{times}*{fault.value}" for times, fault in runs)


def crash_after(writes: int) -> list[Fault]:
    """The script of a process that dies right after so many writes; 0 is right before the first."""
    return [Fault.NONE] * (writes - 1) + [Fault.CRASH_AFTER] if writes else [Fault.CRASH_BEFORE]


class VirtualTime:
    """A clock that moves when somebody sleeps, and lets happen meanwhile what was set for then. Seconds from any start."""

    def __init__(self, now: float = 0.0) -> None:
        """Nothing is set to happen."""
        self.now = now
        self._set: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def __call__(self) -> float:
        """What time it is."""
        return self.now

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Set something to happen in so many seconds: during a sleep that lasts until then."""
        heappush(self._set, (self.now + seconds, next(self._numbers), action))

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._set and self._set[0][0] <= until:
            when, _, action = heappop(self._set)
            self.now = max(self.now, when)
            action()
        self.now = max(self.now, until)


class Partition(NamedTuple):
    """Handles that cannot reach their store for a while.

    Attributes:
        handles: Their names.
        first, last: From which to which operation, both included, counted from 0 over all handles of the surroundings.
        unknown: Whether callers are told that nobody knows what became of their write. Nothing becomes of it.
    """

    handles: frozenset[str]
    first: int
    last: int
    unknown: bool = False


class Surroundings:
    """What the handles of one store have in common.

    Args:
        partitions: Who is cut off when. `cut` and `heal` do it by hand.
        sleep: What a slow operation calls. By default a `VirtualTime` of its own, so that nobody waits.
        latency: Seconds that a slow operation takes.
        age: How many writes a stale read lies back; with 0 nothing is remembered, and every read is fresh.

    Attributes:
        operations: How many operations were asked for, of all handles.
    """

    def __init__(
        self,
        partitions: Iterable[Partition] = (),
        *,
        sleep: Callable[[float], object] | None = None,
        latency: float = 1.0,
        age: int = 1,
    ) -> None:
        self.operations = 0
        self.latency, self.age = latency, age
        self.sleep = sleep if sleep is not None else VirtualTime().sleep
        self._partitions = tuple(partitions)
        self._cut: dict[str, bool] = {}
        self._past: deque[tuple[Key, Entry | None]] = deque(maxlen=age)

    def cut(self, *handles: str, unknown: bool = False) -> None:
        """Cut handles off until they are healed."""
        self._cut.update(dict.fromkeys(handles, unknown))

    def heal(self, *handles: str) -> None:
        """Let handles reach their store again."""
        for handle in handles:
            self._cut.pop(handle, None)

    def reach(self, handle: str, operation: str) -> None:
        """Count an operation.

        Raises:
            StoreUnavailableError: The handle is cut off.
        """
        number = self.operations
        self.operations += 1
        unknown = self._cut.get(handle)
        for each in self._partitions:
            if handle in each.handles and each.first <= number <= each.last:
                unknown = each.unknown
        if unknown is not None:
            raise StoreUnavailableError(operation, f"planted: handle {handle!r} is cut off", unknown)

    def remember(self, key: Key, before: Entry | None) -> None:
        """Note what a write replaced."""
        self._past.append((key, before))

    def changed(self) -> dict[Key, Entry | None]:
        """What was written lately, as it was before."""
        return dict(reversed(self._past))


class FaultyStore:
    """A store around another one. As thread-safe as the script's iterator.

    Attributes:
        writes: How many single-record writes were asked for.
        fired: The faults other than `Fault.NONE` that were played.
    """

    def __init__(
        self,
        inner: Store,
        script: Iterable[Fault] = (),
        reads: Iterable[Fault] = (),
        *,
        name: str = "",
        around: Surroundings | None = None,
    ) -> None:
        """Nothing has been written yet.

        Args:
            inner: Where it really goes.
            script: What becomes of each write, in order.
            reads: The same for `get` and `scan`.
            name: By which partitions know this handle.
            around: What it has in common with others; by default nothing.
        """
        self.inner = inner
        self.writes = 0
        self.fired: list[Fault] = []
        self.name = name
        self._around = around if around is not None else Surroundings()
        self.play(script, reads)

    def play(self, script: Iterable[Fault] = (), reads: Iterable[Fault] = ()) -> None:
        """Begin another script; without one, nothing fails from now on."""
        self._script: Iterator[Fault] = iter(script)
        self._reads: Iterator[Fault] = iter(reads)

    def get(self, key: Key) -> Entry | None:
        """The record of a key, or None."""
        fault = self._read("get")
        if fault is Fault.TORN:
            raise ValueError("one record cannot be torn; a get can be stale")
        changed = self._around.changed() if fault is Fault.STALE else {}
        found = changed[key] if key in changed else self.inner.get(key)
        self._end("get", fault)
        return found

    def scan(self, kind: Kind) -> Listing:
        """Every record of a kind."""
        fault = self._read("scan")
        listing = self.inner.scan(kind)
        if fault in (Fault.STALE, Fault.TORN):
            listing = self._aged(kind, listing, torn=fault is Fault.TORN)
        self._end("scan", fault)
        return listing

    def _aged(self, kind: Kind, listing: Listing, *, torn: bool) -> Listing:
        changed = {key: entry for key, entry in self._around.changed().items() if key.kind == kind}
        present = dict(listing.entries)
        keys = sorted({*present, *changed})
        old = keys[: (len(keys) + 1) // 2] if torn else keys
        present.update({key: changed[key] for key in old if key in changed})  # type: ignore[misc]  # None is sorted out below
        return Listing(tuple((key, present[key]) for key in keys if present.get(key) is not None), listing.revision)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record, or fail."""
        fault = self._next(key, "put")
        before = self._before(key)
        revision = self.inner.put(key, record, expect=expect)
        self._around.remember(key, before)
        self._end("put", fault)
        return revision

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes one by one, each with a fault of its own."""
        return [self.put(write.key, write.record, expect=write.expect) for write in writes]

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record, or fail."""
        fault = self._next(key, "delete")
        before = self._before(key)
        self.inner.delete(key, expect=expect)
        self._around.remember(key, before)
        self._end("delete", fault)

    def close(self) -> None:
        """Close the store inside."""
        self.inner.close()

    def _read(self, operation: str) -> Fault:
        """The next fault of a read; raises here if nothing is to be read."""
        self._around.reach(self.name, operation)
        fault = next(self._reads, Fault.NONE)
        self._begin(operation, fault)
        return fault

    def _next(self, key: Key, operation: str) -> Fault:
        """The next fault of a write; raises here if it is not to be done."""
        self.writes += 1
        self._around.reach(self.name, operation)
        fault = next(self._script, Fault.NONE)
        if fault in (Fault.STALE, Fault.TORN):
            raise ValueError(f"a write cannot be {fault.value}; give such faults as `reads`")
        if fault is Fault.CONFLICT:
            self.fired.append(fault)
            raise ConflictError(str(key), "what the script does not tell", "a planted conflict")
        self._begin(operation, fault)
        return fault

    def _before(self, key: Key) -> Entry | None:
        """What is there, for those who will read that later."""
        return self.inner.get(key) if self._around.age else None

    def _begin(self, operation: str, fault: Fault) -> None:
        if fault is Fault.NONE:
            return
        if fault is Fault.CONFLICT:
            raise ValueError("a read cannot meet a conflict; give such faults as `script`")
        self.fired.append(fault)
        if fault is Fault.SLOW:
            self._around.sleep(self._around.latency)
        if not fault.takes_effect:
            self._fail(operation, fault)

    def _end(self, operation: str, fault: Fault) -> None:
        if fault is Fault.SLOW_REPLY:
            self._around.sleep(self._around.latency)
        elif fault in (Fault.LOST, Fault.CRASH_AFTER):
            self._fail(operation, fault)

    def _fail(self, operation: str, fault: Fault) -> None:
        if fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            raise Crash
        raise StoreUnavailableError(operation, f"planted: {fault.value}", fault is not Fault.REFUSED)


__all__ = [
    "READ_FAULTS",
    "WRITE_FAULTS",
    "Crash",
    "Fault",
    "FaultyStore",
    "Partition",
    "Script",
    "Surroundings",
    "VirtualTime",
    "crash_after",
]
