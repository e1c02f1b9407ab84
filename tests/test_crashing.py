"""Crash at every step: every kind of call, on one store and on two, killed after each of its writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, Store
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import NotFoundError, NotHeldError, StaleFenceError, StalePlanError
from ciliumipam.requests import (
    Allocate,
    Apply,
    Drain,
    ExistingBlock,
    ForceRelease,
    Grow,
    Migrate,
    Release,
    RemoveNode,
    RemovePool,
    Request,
)
from ciliumipam.testing import crashing
from ciliumipam.testing.crashing import Remains, Sound, check, crash_everywhere, held
from ciliumipam.testing.faults import Crash, FaultyStore, crash_after

EVERY = NodeSelector.everything()
BOTH = PoolSpec(name="both", cidrs=["10.0.0.0/24", "fd00::/62"], selector=EVERY, block_length_v4=28, block_length_v6=64)
OTHER = PoolSpec(name="other", cidrs=["10.1.0.0/24", "fd01::/62"], selector=EVERY, block_length_v4=28, priority=-1)
GONE = (NotFoundError, NotHeldError, StaleFenceError)


def lived_in(stores: Sequence[Store]) -> Sequence[Store]:
    """Two nodes with blocks of both families, one with owners on it, and a node without anything."""
    ipam = Ipam(*stores, clock=lambda: 0.0, identity="before")
    ipam.apply([BOTH, OTHER], [Node("m"), Node("n")])
    ipam.allocate("n", "x", "y")
    ipam.allocate("m", "z")
    ipam.release("m", "z")
    return stores


def one() -> Sequence[Store]:
    return lived_in([MemoryStore()])


def two() -> Sequence[Store]:
    return lived_in([MemoryStore(), MemoryStore()])


def with_remains(stores: Callable[[], Sequence[Store]]) -> Callable[[], Sequence[Store]]:
    """The same with an allocation and a removal that were killed in the middle."""

    def make() -> Sequence[Store]:
        found = stores()
        calls: tuple[tuple[int, Callable[[Ipam], Any]], ...] = (
            (2, lambda ipam: ipam.allocate("n", "left")),
            (3, lambda ipam: ipam.remove_node("m")),
        )
        for writes, call in calls:
            script = iter(crash_after(writes))
            with suppress(Crash):
                call(Ipam(*[FaultyStore(store, script) for store in found], clock=lambda: 0.0, identity=f"killed-{writes}"))
        return found

    return make


CALLS: dict[str, Callable[[Ipam], Any]] = {
    "apply": lambda ipam: ipam.apply([BOTH], [Node("o"), Node("p")]),
    "adopt": lambda ipam: ipam.apply([], [Node("o")], [ExistingBlock("o", parse_prefix("10.0.0.128/28"))]),
    "allocate": lambda ipam: ipam.allocate("n", "a", "b", "c"),
    "allocate an address": lambda ipam: ipam.allocate("n", "a", address="10.0.0.20"),
    "release": lambda ipam: ipam.release("n", "x", "y"),
    "force release": lambda ipam: ipam.force_release("10.0.0.17"),
    "grow": lambda ipam: ipam.grow("n", 2),
    "drain a node": lambda ipam: ipam.drain("node", "m"),
    "drain a pool": lambda ipam: ipam.drain("pool", "both"),
    "migrate": lambda ipam: ipam.migrate("m", "other"),
    "remove a node": lambda ipam: ipam.remove_node("m"),
    "remove a node by force": lambda ipam: ipam.remove_node("n", force=True),
    "remove a pool": lambda ipam: ipam.remove_pool("other"),
    "repair": lambda ipam: ipam.repair(),
}


@pytest.mark.parametrize("world", [one, two])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_killed_anywhere_is_finished_by_the_next_one(name: str, world: Callable[[], Sequence[Store]]) -> None:
    begin = with_remains(world) if name == "repair" else world
    per_node = 2

    writes = crash_everywhere(begin, CALLS[name], done=GONE, blocks_per_node=per_node)

    assert writes >= (1 if name == "remove a pool" else 2)


@pytest.mark.parametrize(
    "request_",
    [
        Apply((BOTH,), (Node("o"),)),
        Allocate("n", ("a", "b")),
        Release("n", ("x", "y")),
        Grow("n", 2),
        Drain("pool", "both"),
        Migrate("m", "other"),
        RemoveNode("n", force=True),
        RemovePool("both"),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_stored_plan_that_is_killed_anywhere_is_finished_by_planning_again(request_: Request) -> None:
    def carry_out(ipam: Ipam) -> None:
        ipam.execute(ipam.plan(request_))

    assert crash_everywhere(two, carry_out, done=GONE, blocks_per_node=2) >= 1


def test_a_plan_of_which_a_part_was_written_is_stale() -> None:
    plan = Ipam(*one(), clock=lambda: 0.0).plan(Allocate("n", ("a", "b")))
    seen: list[int] = []

    def judge(remains: Remains) -> None:
        check(remains.stores)
        if remains.written > 0:
            with pytest.raises(StalePlanError):
                Ipam(*remains.stores).execute(plan)
            seen.append(remains.written)

    assert crash_everywhere(one, lambda ipam: ipam.execute(plan), judge) == len(plan.steps) == len(seen)


def test_the_judge_sees_what_was_written_and_what_would_have_been() -> None:
    seen: list[Remains] = []

    assert crash_everywhere(one, lambda ipam: ipam.allocate("n", "a"), seen.append) == 3

    assert [remains.written for remains in seen] == [0, 1, 2, 3]
    assert {remains.writes for remains in seen} == {3}
    assert ("a", "n", 4, "default", 1) in seen[0].whole
    assert [("a", "n", 4, "default", 1) in held(remains.stores) for remains in seen] == [False, False, True, True]


def test_a_call_that_goes_on_with_something_else_leaks() -> None:
    with pytest.raises(AssertionError, match=r"^killed after 0 of 3 writes: held is .*'b'.* too much, and .*'a'.* is missing$"):
        crash_everywhere(one, lambda ipam: ipam.allocate("n", "a"), Sound(lambda ipam: ipam.allocate("n", "b")))


def nothing_more(remains: Remains) -> None:
    """Judge what was begun, and go on with nothing."""
    if remains.written:
        Sound(lambda ipam: None)(remains)


def test_a_repair_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ipam, "repair", lambda self: None)

    with pytest.raises(AssertionError, match=r"killed after 1 of 3 writes: left over after a repair"):
        crash_everywhere(one, lambda ipam: ipam.allocate("n", "a"), nothing_more)


def test_a_call_that_writes_claims_after_pages_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address in a page that no claim names: what the order of writes is for."""

    class Swapped(FaultyStore):
        def put_in_order(self, writes: Sequence[Any]) -> list[Any]:
            done = {write.key: self.put(write.key, write.record, expect=write.expect) for write in reversed(writes)}
            return [done[write.key] for write in writes]

    monkeypatch.setattr(crashing, "FaultyStore", Swapped)

    with pytest.raises(AssertionError, match=r"killed after 1 of 3 writes: .* counts, but no claim names it"):
        crash_everywhere(one, lambda ipam: ipam.allocate("n", "a"))


def test_a_call_that_is_another_one_every_time_is_refused() -> None:
    times: list[int] = []

    def call(ipam: Ipam) -> None:
        times.append(1)
        if len(times) == 1:
            ipam.allocate("n", "a")

    with pytest.raises(AssertionError, match="it is not the same every time"):
        crash_everywhere(one, call)


def test_force_release_is_a_call_like_any_other() -> None:
    request = ForceRelease(BOTH.cidrs[0].to_network()[17])

    assert crash_everywhere(one, lambda ipam: ipam.execute(ipam.plan(request)), done=GONE) >= 1
