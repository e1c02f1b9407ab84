"""Crash at every step: a call is begun anew for each of its writes and killed right after it, and the remains are judged.

    def world() -> list[Store]:                                   # as the call finds it, new every time; one store or two
        store = MemoryStore()
        Ipam(store).apply([pool], [Node("n")])
        return [store]

    writes = crash_everywhere(world, lambda ipam: ipam.allocate("n", "a", "b"))

Right before a write is right after the one before it, so `n` writes are `n + 1` places to die. What is asked of the remains by default
(`Sound`): no error in the audit, nothing broken to the eyes of `testing.raw`; then the same call again, by a process that knows
nothing, ends as it would have without the crash, and when `repair` has run nothing is held by anybody else, and nothing is unfinished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ciliumipam.audit import audit
from ciliumipam.errors import IpamError
from ciliumipam.ipam import Ipam
from ciliumipam.records import KINDS
from ciliumipam.store import Store
from ciliumipam.testing.faults import Crash, FaultyStore, crash_after
from ciliumipam.testing.raw import Told
from ciliumipam.testing.raw import judge as judge_records

Call: TypeAlias = Callable[[Ipam], Any]
World: TypeAlias = Callable[[], Sequence[Store]]


class Remains(NamedTuple):
    """What a call left that was killed.

    Attributes:
        stores: Where it wrote: one store, or one for blocks and one for addresses.
        written: How many of its writes were done.
        writes: How many it does when nobody kills it.
        whole: What is held when nobody kills it.
    """

    stores: Sequence[Store]
    written: int
    writes: int
    whole: frozenset[tuple[Any, ...]]


class Sound:
    """The usual judge.

    Args:
        again: The call that goes on; by default the one that was killed. It may not crash.
        done: Errors that the second call may end with, where the first had done all that it was asked for.
        blocks_per_node: How many blocks of a family a node may hold.
        clock: What time it is.
    """

    def __init__(
        self,
        again: Call,
        done: tuple[type[IpamError], ...] = (),
        *,
        blocks_per_node: int = 1,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._again, self._done, self._per_node, self._clock = again, done, blocks_per_node, clock

    def __call__(self, remains: Remains) -> None:
        """Judge.

        Raises:
            AssertionError: Something is broken, is lost or leaks.
        """
        stores = remains.stores
        check(stores, self._per_node)
        finished = False
        try:
            self._again(Ipam(*stores, clock=self._clock))
        except self._done:
            finished = True
        check(stores, self._per_node)
        Ipam(*stores, clock=self._clock).repair()
        unfinished = [each for each in audit(*stores).findings if each.severity != "notice"]
        assert not unfinished, f"left over after a repair: {unfinished}"
        left = held(stores, self._per_node)
        assert left == remains.whole, f"held is {_shown(left - remains.whole)} too much, and {_shown(remains.whole - left)} is missing"
        assert not finished or remains.written, "a call that had written nothing is told that it was done before"


def crash_everywhere(
    world: World,
    call: Call,
    judge: Callable[[Remains], object] | None = None,
    *,
    done: tuple[type[IpamError], ...] = (),
    blocks_per_node: int = 1,
    clock: Callable[[], float] = lambda: 0.0,
) -> int:
    """Kill a call after each of its writes, and before the first, and judge what is left each time.

    Args:
        world: Makes the stores as the call finds them.
        call: The call, on an `Ipam` that has read nothing yet.
        judge: Who judges; by default `Sound` with the same call.
        done: For `Sound`: errors that the call may end with when it is made again after all that mattered was done.
        blocks_per_node: How many blocks of a family a node may hold.
        clock: What time it is, for every `Ipam`.

    Returns:
        How many writes the call does.

    Raises:
        AssertionError: What `judge` raised, with the number of the write in front.

    Complexity:
        The call as often as it writes.
    """
    stores = world()
    writes = _run(stores, call, (), clock)
    whole = held(stores, blocks_per_node)
    verdict = judge if judge is not None else Sound(call, done, blocks_per_node=blocks_per_node, clock=clock)
    for written in range(writes + 1):
        remains = Remains(world(), written, writes, whole)
        try:
            _run(remains.stores, call, crash_after(written), clock)
        except Crash:
            pass
        else:
            raise AssertionError(f"the call that wrote {writes} times ended before write {written}: it is not the same every time")
        try:
            verdict(remains)
        except AssertionError as error:
            raise AssertionError(f"killed after {written} of {writes} writes: {error}") from error
    return writes


def _run(stores: Sequence[Store], call: Call, script: Iterable[Any], clock: Callable[[], float]) -> int:
    """Make a call; how many writes it did. The script is one for all stores."""
    faults = iter(script)
    faulty = [FaultyStore(store, faults) for store in stores]
    call(Ipam(*faulty, clock=clock, identity="first"))
    return sum(store.writes for store in faulty)


def held(stores: Sequence[Store], blocks_per_node: int = 1) -> frozenset[tuple[Any, ...]]:
    """Who holds how many blocks or addresses of which family, by the raw records; which ones is left to chance and crashes."""
    counts: dict[tuple[Any, ...], int] = {}
    for each in _judged(stores, blocks_per_node):
        who = (each.holder, each.node, each.family, each.space)
        counts[who] = counts.get(who, 0) + 1
    return frozenset((*who, count) for who, count in counts.items())


def check(stores: Sequence[Store], blocks_per_node: int = 1) -> None:
    """Assert what always holds, unfinished calls or not."""
    list(_judged(stores, blocks_per_node))
    errors = [each for each in audit(*stores).findings if each.severity == "error"]
    assert not errors, f"the audit finds {errors}"


def _judged(stores: Sequence[Store], blocks_per_node: int) -> Iterable[Told]:
    records: dict[tuple[str, str], Any] = {(kind, key.name): entry.record for store in stores for kind in KINDS for key, entry in store.scan(kind).entries}
    return judge_records(records, blocks_per_node)


def _shown(some: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(some, key=str)


__all__ = ["Remains", "Sound", "check", "crash_everywhere", "held"]
