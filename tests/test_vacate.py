"""Shrinking a pool, and getting a large prefix back: rules by example, fewest moves against an exhaustive search, crashes, two writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, ip_network
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, Rebalance, Shrink
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import InvalidRequestError, NotFoundError, OutOfRangeError, PoolExhaustedError
from ciliumipam.journal.lines import read_request, request_to_document
from ciliumipam.plan_file import plan_from_document, plan_to_document
from ciliumipam.records import Key, Record, Revision
from ciliumipam.requests import Cost, ExistingBlock
from ciliumipam.store import Expect, Store, Write
from ciliumipam.testing.crashing import crash_everywhere
from ciliumipam.testing.threads import together


def pool(*cidrs: str, **fields: Any) -> PoolSpec:
    return PoolSpec(name="p", cidrs=cidrs, selector=NodeSelector.everything(), **fields)


def ipam_of(store: Store | None = None) -> Ipam:
    return Ipam(store or MemoryStore(), clock=lambda: 1000.0)


def blocks(ipam: Ipam) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for block in ipam.blocks():
        found.setdefault(block.node, []).append(str(block.prefix))
    return found


def three() -> Ipam:
    """Three nodes with a /24 each from 10.0.0.0 on; a pod on the second."""
    ipam = ipam_of()
    ipam.apply([pool("10.0.0.0/21")], [Node(f"n-{number}") for number in range(3)])
    ipam.allocate("n-1", "web", label="default/web")
    return ipam


def test_a_pool_that_shrinks_moves_what_is_there_and_loses_the_range_once_it_is_empty() -> None:
    ipam = three()
    begun = ipam.shrink("p", "10.0.0.0/23")
    assert [str(each) for each in begun.blockers] == ["block 10.0.1.0/24 of node n-1: 10.0.1.1 is held by web (default/web)"]
    assert begun.blockers[0].since == 1000.0
    assert blocks(ipam) == {"n-0": ["10.0.3.0/24"], "n-1": ["10.0.1.0/24", "10.0.4.0/24"], "n-2": ["10.0.2.0/24"]}
    assert ipam.allocations("n-1")[0].owner == "web"
    assert str(ipam.allocate("n-1", "more")[0].address) == "10.0.4.1"
    ipam.apply([], [Node("n-3")])
    assert blocks(ipam)["n-3"] == ["10.0.5.0/24"], "what is to go is given to nobody, though it is lower"
    ipam.release("n-1", "web")
    done = ipam.shrink("p", "10.0.0.0/23")
    assert done.blockers == ()
    (status,) = ipam.pools()
    assert [str(cidr) for cidr in status.spec.cidrs] == ["10.0.2.0/23", "10.0.4.0/22"]
    assert status.spec.reserved == ()
    assert status.orphans == 0
    with pytest.raises(OutOfRangeError, match=r"10\.0\.0\.0/23 is not in the CIDRs of pool 'p'"):
        ipam.shrink("p", "10.0.0.0/23")
    ipam.check_invariants()


def test_a_node_that_cannot_be_given_another_block_goes_on_with_the_one_that_is_to_go() -> None:
    ipam = ipam_of()
    ipam.apply([pool("10.0.0.0/23")], [Node("n-0"), Node("n-1")])
    told = ipam.shrink("p", "10.0.1.0/24")
    assert [each.node for each in told.blockers] == ["n-1"]
    assert "has no other block of the family" in told.blockers[0].reason
    assert str(ipam.allocate("n-1", "web")[0].address) == "10.0.1.1"
    ipam.remove_node("n-0")
    assert [str(each) for each in ipam.shrink("p", "10.0.1.0/24").blockers] == ["block 10.0.1.0/24 of node n-1: 10.0.1.1 is held by web"]
    assert str(ipam.allocate("n-1", "next")[0].address) == "10.0.0.1"


def test_what_the_user_reserved_outside_of_the_range_stays_reserved() -> None:
    ipam = ipam_of()
    ipam.apply([pool("10.0.0.0/22", reserved=["10.0.0.250-10.0.1.5", "10.0.2.1"])], [Node("n-0"), Node("n-1")])
    assert ipam.shrink("p", "10.0.1.0/24").blockers == ()
    (status,) = ipam.pools()
    assert status.spec.to_dict()["reserved"] == ["10.0.0.250-10.0.0.255", "10.0.2.1"]
    assert status.spec.to_dict()["cidrs"] == ["10.0.0.0/24", "10.0.2.0/23"]


@pytest.mark.parametrize(
    ("part", "error", "reason"),
    [
        ("10.0.0.0/25", InvalidRequestError, "gives up whole blocks, as 10.0.0.0/24"),
        ("10.0.0.0/21", InvalidRequestError, "all that pool 'p' has of IPv4"),
        ("10.9.0.0/24", OutOfRangeError, "is not in the CIDRs of pool 'p'; valid: 10.0.0.0/21"),
    ],
)
def test_what_would_leave_no_pool_is_refused_and_nothing_is_written(part: str, error: type[Exception], reason: str) -> None:
    ipam = three()
    before = ipam.pools(), ipam.blocks()
    with pytest.raises(error, match=reason):
        ipam.shrink("p", part)
    assert (ipam.pools(), ipam.blocks()) == before


@pytest.mark.parametrize("request_", [Shrink("p", (parse_prefix("10.0.0.0/23"),)), Rebalance("p", 22)])
def test_a_plan_is_kept_costs_what_it_says_and_is_carried_out(request_: Shrink | Rebalance) -> None:
    ipam = ipam_of()
    ipam.apply([pool("10.0.0.0/21")], [Node(f"n-{number}") for number in range(6)])
    ipam.remove_nodes(["n-1", "n-5"])
    ipam.allocate("n-0", "web")
    plan = ipam.plan(request_)
    assert plan.cost == (Cost(1, 1, len(plan.steps)) if isinstance(request_, Shrink) else Cost(1, 0, len(plan.steps)))
    assert read_request(request_to_document(request_)) == request_
    ipam.execute(plan_from_document(plan_to_document(plan), "file"))
    after = ipam.plan(request_)
    assert after.outcome.blockers == plan.outcome.blockers
    assert [each for each in after.changes if each.action in ("carve", "drain")] == []


def test_the_prefix_with_the_fewest_blocks_is_emptied_and_among_these_the_one_with_the_fewest_pods() -> None:
    ipam = ipam_of()
    nodes = [Node(f"n-{number:02}") for number in range(16)]
    ipam.apply([pool("10.0.0.0/20")], nodes)
    for number in (0, 2, 4, 5, 8, 9, 12, 13):
        ipam.remove_node(f"n-{number:02}")
    for number in (1, 3, 6, 7, 10, 11):
        ipam.allocate(f"n-{number:02}", *[f"{number}/{each}" for each in range(2 if number < 10 else 1)])
    for number in (14, 15):
        ipam.allocate(f"n-{number:02}", f"{number}/0", f"{number}/1")
    told = ipam.rebalance("p", 22)
    assert [str(each) for each in told.concerns] == [
        (
            "pool p: 10.0.8.0/22 is to become free: 2 blocks to move and 2 addresses in use;"
            " of 4 prefixes of that length that could become free none needs less"
        )
    ]
    assert {str(each.block) for each in told.blockers} == {"10.0.10.0/24", "10.0.11.0/24"}
    carved = [ip_network(change.name) for change in told.changes if change.action == "carve"]
    assert len(carved) == 2
    assert not any(each.overlaps(ip_network("10.0.8.0/22")) for each in carved)
    ipam.release("n-01", "1/0", "1/1")  # another one is cheaper by now, but what was begun is gone on with
    ipam.release("n-03", "3/0", "3/1")
    assert {str(each.block) for each in ipam.rebalance("p", 22).blockers} == {"10.0.10.0/24", "10.0.11.0/24"}
    ipam.release("n-10", "10/0")
    ipam.release("n-11", "11/0")
    assert ipam.rebalance("p", 22).blockers == ()
    assert ipam.rebalance("p", 22).concerns[0].what == "10.0.8.0/22 is free: nothing has to move"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda ipam: ipam.shrink("p"), "say what pool 'p' is to give up: at least one CIDR"),
        (lambda ipam: ipam.shrink("p", "10.0.0.0/23", "10.0.1.0/24"), "10.0.1.0/24 lies in 10.0.0.0/23, which is given as well"),
        (lambda ipam: ipam.rebalance("p", 23, family=5), "no IP family 5; valid: 4, 6"),
        (lambda ipam: ipam.rebalance("p", 33, family=4), "33 is not a prefix length, which is 1 to 32"),
        (lambda ipam: ipam.rebalance("p", 0), "0 is not a prefix length, which is 1 to 128"),
        (lambda ipam: ipam.rebalance("p", 63, family=6), "pool 'p' has no IPv6 CIDR"),
    ],
    ids=["nothing", "twice", "no family", "too long", "too short", "not its family"],
)
def test_what_cannot_be_asked_for_is_refused(wrong: Callable[[Ipam], object], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        wrong(three())


@pytest.mark.parametrize("ask", [lambda ipam: ipam.shrink("q", "10.0.0.0/24"), lambda ipam: ipam.rebalance("q", 23)], ids=["shrink", "rebalance"])
def test_a_pool_that_is_not_there_is_named_with_those_that_are(ask: Callable[[Ipam], object]) -> None:
    with pytest.raises(NotFoundError, match=r"'q'.*p"):
        ask(three())


def test_a_prefix_with_a_block_that_has_no_address_to_give_never_becomes_free_and_is_not_chosen() -> None:
    ipam = ipam_of()
    ipam.apply([pool("10.0.0.0/21", "fd00::/61", reserved=["10.0.0.0-10.0.0.255"])], [Node(f"n-{number}") for number in range(7)])
    ipam.remove_nodes(["n-1", "n-3"])  # 10.0.2.0/24 and 10.0.4.0/24

    told = ipam.rebalance("p", 23, family=4)

    assert told.concerns[0].what == (
        "10.0.2.0/23 is to become free: 1 block to move and 0 addresses in use;"
        " of 3 prefixes of that length that could become free none needs less"
    )
    assert [change.name for change in told.changes if change.action == "carve"] == ["10.0.4.0/24"]


def test_what_fits_nowhere_else_is_not_begun() -> None:
    ipam = ipam_of()
    ipam.apply([pool("10.0.0.0/22")], [Node(f"n-{number}") for number in range(3)])
    before = ipam.blocks()
    with pytest.raises(PoolExhaustedError, match="no free IPv4 /23"):
        ipam.rebalance("p", 23)
    assert ipam.blocks() == before


def test_a_pool_of_both_families_asks_which_and_moves_only_that_one() -> None:
    ipam = ipam_of()
    ipam.apply([pool("10.0.0.0/22", "fd00::/62")], [Node(f"n-{number}") for number in range(3)])
    ipam.remove_node("n-1")
    with pytest.raises(InvalidRequestError, match="say of which family"):
        ipam.rebalance("p", 63)
    with pytest.raises(InvalidRequestError, match="its largest CIDR is a /62; give 62 to 128"):
        ipam.rebalance("p", 61, family=6)
    ipam.apply([], [Node("n-3")])
    ipam.remove_node("n-2")
    assert ipam.rebalance("p", 63, family=6).concerns[0].what == "fd00:0:0:2::/63 is free: nothing has to move"
    told = ipam.shrink("p", "fd00::/64")
    assert told.blockers == ()
    assert blocks(ipam)["n-0"] == ["10.0.0.0/24", "fd00:0:0:2::/64"]


def test_what_cools_is_waited_for_and_nothing_else_moves_for_it() -> None:
    now = [1000.0]
    ipam = Ipam(MemoryStore(), clock=lambda: now[0])
    ipam.apply([pool("10.0.0.0/22", reuse_delay=60)], [Node(f"n-{number}") for number in range(3)])
    ipam.remove_node("n-2")
    told = ipam.rebalance("p", 23)
    assert told.changes == ()
    assert told.concerns[0].what == "10.0.2.0/23 is held by nobody, and free as soon as nothing there cools: nothing has to move"
    now[0] += 61
    assert ipam.rebalance("p", 23).concerns[0].what == "10.0.2.0/23 is free: nothing has to move"


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 7), max_size=6), st.integers(0, 2), st.data())
def test_whatever_shrinks_nobody_loses_an_address_and_nothing_new_comes_there(taken: set[int], bits: int, data: st.DataObject) -> None:
    ipam = ipam_of()
    place = {f"n-{slot}": slot for slot in sorted(taken)}
    ipam.apply([pool("10.0.0.0/21")], [Node(node) for node in place], [ExistingBlock(node, parse_prefix(f"10.0.{slot}.0/24")) for node, slot in place.items()])
    busy = sorted(data.draw(st.sets(st.sampled_from(sorted(place))))) if place else []
    for node in busy:
        ipam.allocate(node, f"{node}/pod")
    before = ipam.allocations()
    start = data.draw(st.integers(0, 7 >> bits)) << bits
    part = ip_network(f"10.0.{start}.0/{24 - bits}")
    inside = {node for node, slot in place.items() if start <= slot < start + (1 << bits)}
    plan = ipam.plan(Shrink("p", (parse_prefix(part),)))
    assert (plan.cost.blocks, plan.cost.addresses) == (len(inside), len(inside.intersection(busy)))
    told = ipam.shrink("p", part)
    assert ipam.allocations() == before
    room = 8 - (1 << bits) - len(taken - {place[node] for node in inside})
    stuck = [each for each in told.blockers if each.address is None]
    assert {each.node for each in told.blockers if each.address is not None} == inside.intersection(busy)
    assert bool(stuck) <= (room < len(inside))
    for node in busy:
        ipam.release(node, f"{node}/pod")
    again = ipam.shrink("p", part) if told.blockers else told
    assert len(again.blockers) == max(0, len(inside) - room)
    if not again.blockers:
        assert not any(part.overlaps(ip_network(str(cidr))) for cidr in ipam.pools()[0].spec.cidrs)
        assert sum(cidr.size for cidr in ipam.pools()[0].spec.cidrs) == 2048 - part.num_addresses
    assert sorted(blocks(ipam)) == sorted(place)
    ipam.check_invariants()


# --------------------------------------------------------------------------------------------- fewest moves


def fewest(taken: set[int], slots: int, size: int) -> int | None:
    """The fewest pieces to move so that `size` aligned slots are free: every set of pieces, and every place to move them to."""
    for count in range(len(taken) + 1):
        for moved in combinations(sorted(taken), count):
            stay = taken - {*moved}
            for to in combinations(sorted({*range(slots)} - taken), count):
                after = stay | {*to}
                if any(not after & {*range(start, start + size)} for start in range(0, slots, size)):
                    return count
    return None


@settings(deadline=None, max_examples=150)
@given(st.sets(st.integers(0, 7)), st.integers(0, 3), st.data())
def test_no_other_way_needs_fewer_moves(taken: set[int], bits: int, data: st.DataObject) -> None:
    ipam = ipam_of()
    place = {f"n-{slot}": slot for slot in sorted(taken)}
    existing = [ExistingBlock(node, parse_prefix(f"10.0.{slot}.0/24")) for node, slot in place.items()]
    ipam.apply([pool("10.0.0.0/21")], [Node(node) for node in place], existing)
    busy = data.draw(st.sets(st.sampled_from(sorted(place)))) if place else set()
    for node in sorted(busy):
        ipam.allocate(node, f"{node}/pod")
    least = fewest(taken, 8, 1 << bits)
    if least is None:
        with pytest.raises(PoolExhaustedError):
            ipam.rebalance("p", 24 - bits)
        return
    plan = ipam.plan(Rebalance("p", 24 - bits))
    assert plan.cost.blocks == least
    told = ipam.rebalance("p", 24 - bits)
    region = IPv4Network(told.concerns[0].what.split()[0])
    assert region.prefixlen == 24 - bits
    in_use = [
        sum(f"n-{slot}" in busy for slot in range(start, start + (1 << bits)))
        for start in range(0, 8, 1 << bits)
        if len(taken & {*range(start, start + (1 << bits))}) == least
    ]
    assert plan.cost.addresses == min(in_use)
    for node in sorted(busy):
        ipam.release(node, f"{node}/pod")
    ipam.rebalance("p", 24 - bits)
    assert not any(region.overlaps(ip_network(str(block.prefix))) for block in ipam.blocks())
    assert len(ipam.blocks()) == len(taken)
    ipam.check_invariants()


# ------------------------------------------------------------------------------------- crashes, two writers


def world() -> list[Store]:
    store = MemoryStore()
    ipam = ipam_of(store)
    ipam.apply([pool("10.0.0.0/21")], [Node(f"n-{number}") for number in range(5)])
    ipam.remove_node("n-4")
    ipam.remove_node("n-1")
    ipam.allocate("n-2", "web")
    return [store]


def test_a_shrink_that_is_killed_anywhere_goes_on() -> None:
    assert crash_everywhere(world, lambda ipam: ipam.shrink("p", "10.0.0.0/24"), done=(OutOfRangeError,), blocks_per_node=2, clock=lambda: 1000.0) == 8


def test_a_rebalance_that_is_killed_anywhere_goes_on() -> None:
    def crowded() -> list[Store]:
        store = MemoryStore()
        ipam = ipam_of(store)
        ipam.apply([pool("10.0.0.0/21")], [Node(f"n-{number}") for number in range(5)])
        ipam.remove_node("n-1")
        return [store]

    assert crash_everywhere(crowded, lambda ipam: ipam.rebalance("p", 22), blocks_per_node=2, clock=lambda: 1000.0) == 6


@pytest.mark.parametrize("turn", range(5))
def test_two_that_shrink_while_others_come_leave_no_orphan_and_nobody_twice(turn: int) -> None:
    store = world()[0]

    def shrink() -> None:
        with suppress(OutOfRangeError):  # the other was done before this one began
            ipam_of(store).shrink("p", "10.0.0.0/24")

    def come() -> None:
        ipam_of(store).apply([], [Node("new")])

    together(shrink, shrink, come)
    ipam = ipam_of(store)
    assert sorted(blocks(ipam)) == ["n-0", "n-2", "n-3", "new"]
    assert all(len(mine) == 1 for mine in blocks(ipam).values())
    assert [str(cidr) for cidr in ipam.pools()[0].spec.cidrs] == ["10.0.1.0/24", "10.0.2.0/23", "10.0.4.0/22"]
    assert [each.owner for each in ipam.allocations()] == ["web"]


def test_who_finds_the_range_gone_while_it_shrinks_is_done() -> None:
    class Overtaken(MemoryStore):
        """Lets another call do everything right before the first write of a pool."""

        armed = False

        def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
            self._overtake([each.key for each in writes])
            return super().put_in_order(writes)

        def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
            self._overtake([key])
            return super().put(key, record, expect=expect)

        def _overtake(self, keys: list[Key]) -> None:
            if self.armed and any(key.kind == "pool" for key in keys):
                self.armed = False
                ipam_of(self).shrink("p", "10.0.0.0/24")

    store = Overtaken()
    ipam = ipam_of(store)
    ipam.apply([pool("10.0.0.0/22")], [Node("n-0")])
    store.armed = True
    assert ipam.shrink("p", "10.0.0.0/24").blockers == ()
    assert not store.armed
    assert [str(cidr) for cidr in ipam.pools()[0].spec.cidrs] == ["10.0.1.0/24", "10.0.2.0/23"]
