"""The life of pools, blocks and addresses, rule by rule: each as an example that a person can follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any, Literal

import pytest

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import (
    BlockNotEmptyError,
    CoolingAddressError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    OverlapError,
    PoolExhaustedError,
    PoolRefusedError,
    StalePlanError,
)
from ciliumipam.plan_file import plan_from_document, plan_to_document
from ciliumipam.pool import BlockLengths
from ciliumipam.reconcile import Pools, reconcile
from ciliumipam.records import KINDS, NodeRecord, PoolRecord
from ciliumipam.requests import Drain, ExistingBlock, Release
from ciliumipam.testing.faults import Crash, Fault, FaultyStore, crash_after
from ciliumipam.testing.life_reading import read_records

EVERY = NodeSelector.everything()


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def ipam(store: MemoryStore, clock: Clock) -> Ipam:
    return Ipam(store, clock=clock)


def pool(*cidrs: str, name: str = "p", **fields: Any) -> PoolSpec:
    return PoolSpec(**{"name": name, "cidrs": cidrs, "selector": EVERY, **fields})


def has(text: str, node: str, pool: str | None = None, since: float = 0.0) -> ExistingBlock:
    return ExistingBlock(node, parse_prefix(text), pool, since, "a list")


def blocks(ipam: Ipam, node: str) -> list[str]:
    """The blocks of a node in the order in which it got them, each with its pool."""
    found = [status for status in ipam.nodes() if status.node.name == node]
    return [f"{block.pool} {block.prefix}" for status in found for block in status.blocks]


def addresses(found: Iterable[Any]) -> list[str]:
    return [str(each.address) for each in found]


def records(store: MemoryStore) -> dict[Any, Any]:
    return {key: entry for kind in KINDS for key, entry in store.scan(kind).entries}


def loose(store: MemoryStore) -> list[str]:
    """What crashed calls left."""
    return read_records({(key.kind, key.name): entry.record for key, entry in records(store).items()}).loose


# ------------------------------------------------------------------------------------------------ which pool serves


def test_the_pool_with_the_higher_priority_serves_though_another_one_asks_for_more(ipam: Ipam) -> None:
    picky = pool("10.1.0.0/24", name="picky", selector=NodeSelector.parse("zone=a,disk=ssd"))
    ipam.apply([picky, pool("10.2.0.0/16", name="first", priority=1)], [Node("n1", {"zone": "a", "disk": "ssd"})])

    assert blocks(ipam, "n1") == ["first 10.2.0.0/24"]


def test_then_more_requirements_of_the_term_that_matched_then_fewer_blocks_then_the_name(ipam: Ipam) -> None:
    terms = NodeSelector.from_terms(
        [
            {"matchExpressions": [{"key": key, "operator": "Exists"} for key in ("zone", "disk", "rack")]},
            {"matchExpressions": [{"key": "zone", "operator": "Exists"}]},
        ]
    )
    pools = [
        pool("10.1.0.0/16", name="long", selector=terms),
        pool("10.2.0.0/16", name="two", selector=NodeSelector.parse("zone,disk")),
        pool("10.3.0.0/20", name="small"),
        pool("10.4.0.0/20", name="also-small"),
        pool("10.5.0.0/16", name="a-large-one"),
    ]
    ipam.apply(pools, [Node("n1", {"zone": "a", "disk": "ssd"}), Node("n2", {"zone": "a", "disk": "ssd", "rack": "1"}), Node("n3")])

    assert blocks(ipam, "n1") == ["two 10.2.0.0/24"]  # of the long pool's terms it meets the one with a single requirement
    assert blocks(ipam, "n2") == ["long 10.1.0.0/24"]
    assert blocks(ipam, "n3") == ["also-small 10.4.0.0/24"]


def test_a_full_pool_passes_a_node_on_only_where_it_says_so(ipam: Ipam) -> None:
    own, next_one = pool("10.1.0.0/24", priority=2), pool("10.2.0.0/24", name="q", priority=1)
    ipam.apply([own, next_one], [Node("n1")])

    applied = ipam.apply(nodes=[Node("n2")])
    assert blocks(ipam, "n2") == []
    assert [(refusal.node, refusal.pool, refusal.family) for refusal in applied.refusals] == [("n2", "p", 4)]

    ipam.apply([pool("10.1.0.0/24", priority=2, overflow=True)])
    assert blocks(ipam, "n2") == ["q 10.2.0.0/24"]
    applied = ipam.apply([pool("10.3.0.0/24", name="r")], [Node("n3")])
    assert blocks(ipam, "n3") == []  # q does not overflow
    assert {refusal.pool for refusal in applied.refusals} == {"p", "q"}


def test_overflow_gives_every_family_that_is_lacking_out_of_one_pool(ipam: Ipam) -> None:
    ipam.apply([pool("10.1.0.0/23", "fd00:1::/64", overflow=True, priority=9), pool("10.2.0.0/24", name="q", overflow=True, priority=8)], [Node("n1")])
    ipam.apply([pool("10.3.0.0/24", "fd00:3::/64", name="r")], [Node("n2")])

    assert blocks(ipam, "n2") == ["r 10.3.0.0/24", "r fd00:3::/64"]  # p has an IPv4 block left, q has no IPv6


def test_a_retry_does_not_make_the_pool_that_was_overflowed_into_the_nodes_own(store: MemoryStore) -> None:
    first = pool("10.0.0.64/27", blocks_per_node=2, overflow=True, priority=7)
    second = pool("10.1.0.0/19", "fd00:2::/127", name="r", blocks_per_node=2)
    faulty = FaultyStore(store)
    ipam = Ipam(faulty)
    ipam.apply([first, second])
    faulty.play([Fault.NONE, Fault.NONE, Fault.VANISHED])

    ipam.apply(nodes=[Node("n0")])

    assert blocks(ipam, "n0") == ["r 10.1.0.0/24", "r 10.1.1.0/24"]


def test_lengths_per_selector_the_first_that_selects_a_node_counts(ipam: Ipam) -> None:
    lengths = [BlockLengths(NodeSelector.parse("size=large"), 23), BlockLengths(NodeSelector.parse("size"), 26)]
    nodes = [Node("n1", {"size": "large"}), Node("n2", {"size": "small"}), Node("n3")]
    ipam.apply([pool("10.0.0.0/16", block_lengths=lengths)], nodes)

    assert [blocks(ipam, each.name) for each in nodes] == [["p 10.0.0.0/23"], ["p 10.0.2.0/26"], ["p 10.0.3.0/24"]]


def test_a_block_that_is_wholly_reserved_is_given_at_no_length(ipam: Ipam) -> None:
    lengths = [BlockLengths(NodeSelector.parse("tiny"), 28)]
    ipam.apply([pool("10.0.0.0/16", reserved=["10.0.0.0/27"], block_lengths=lengths)], [Node("n1", {"tiny": ""}), Node("n2", {"tiny": ""})])

    assert (blocks(ipam, "n1"), blocks(ipam, "n2")) == (["p 10.0.0.32/28"], ["p 10.0.0.48/28"])
    ipam.check_invariants()


# ------------------------------------------------------------------------------------------------ several blocks


def test_a_node_gets_several_blocks_at_once_or_none(ipam: Ipam) -> None:
    applied = ipam.apply([pool("10.0.0.0/24", "fd00::/62", block_length_v4=26, blocks_per_node=3)], [Node("n1"), Node("n2")])

    assert blocks(ipam, "n1") == ["p 10.0.0.0/26", "p 10.0.0.64/26", "p 10.0.0.128/26", "p fd00::/64", "p fd00:0:0:1::/64", "p fd00:0:0:2::/64"]
    assert blocks(ipam, "n2") == []
    assert [(refusal.node, refusal.family) for refusal in applied.refusals] == [("n2", 4)]


def test_nobody_grows_beyond_the_most_that_a_pool_gives_a_node(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/20", max_blocks_per_node=2)], [Node("n1")])

    refusals = ipam.grow("n1", 3).refusals

    assert [refusal.reason for refusal in refusals] == ["it gives a node at most 2 IPv4 blocks; the node has 1 and wants 2 more"]
    assert ipam.grow("n1", 2).refusals == ()
    assert len(blocks(ipam, "n1")) == 2
    assert ipam.grow("n1", 1).changes == ()
    with pytest.raises(NotFoundError):
        ipam.grow("n9", 2)


def test_growing_does_not_pass_a_waiting_node_on_to_a_pool_that_is_not_its_own(ipam: Ipam) -> None:
    ipam.apply([pool("10.1.0.0/24", priority=2, max_blocks_per_node=1), pool("10.2.0.0/20", name="q")], [Node("n1"), Node("n2")])

    refusals = ipam.grow("n2", 2).refusals

    assert blocks(ipam, "n2") == []
    assert [refusal.pool for refusal in refusals] == ["p"]


def test_a_node_whose_own_pool_is_full_grows_into_another_one_only_where_its_own_overflows(ipam: Ipam) -> None:
    ipam.apply([pool("10.1.0.0/24", priority=2), pool("10.2.0.0/20", name="q")], [Node("n1")])

    assert [refusal.pool for refusal in ipam.grow("n1", 2).refusals] == ["p"]
    assert blocks(ipam, "n1") == ["p 10.1.0.0/24"]
    ipam.apply([pool("10.1.0.0/24", priority=2, overflow=True)])
    ipam.grow("n1", 2)
    assert blocks(ipam, "n1") == ["p 10.1.0.0/24", "q 10.2.0.0/24"]


def test_sparse_blocks_grow_in_place(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/20", carving="sparse")], [Node("n1"), Node("n2"), Node("n3")])
    assert [blocks(ipam, each) for each in ("n1", "n2", "n3")] == [["p 10.0.0.0/24"], ["p 10.0.8.0/24"], ["p 10.0.4.0/24"]]

    ipam.grow("n2", 4)

    assert blocks(ipam, "n2") == ["p 10.0.8.0/24", "p 10.0.9.0/24", "p 10.0.10.0/24", "p 10.0.11.0/24"]  # one /22


def test_grouped_blocks_of_one_rack_lie_together(ipam: Ipam) -> None:
    nodes = [Node(f"n{index}", {"rack": "ab"[index % 2]}) for index in range(6)]
    ipam.apply([pool("10.0.0.0/20", carving="grouped", group_by="rack")], nodes)

    racks = {rack: {ip_network(text.split()[1]) for node in nodes if node.labels["rack"] == rack for text in blocks(ipam, node.name)} for rack in "ab"}
    assert racks["a"] == {ip_network(f"10.0.{each}.0/24") for each in (0, 1, 2)}
    assert racks["b"] == {ip_network(f"10.0.{each}.0/24") for each in (8, 9, 10)}


# ------------------------------------------------------------------------------------------------ drain, migrate


def test_a_block_that_drains_is_replaced_and_taken_back_once_it_is_empty(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/20")], [Node("n1")])
    ipam.allocate("n1", "web", label="default/web")

    (blocker,) = ipam.drain("block", "10.0.0.0/24").blockers

    assert (blocker.node, str(blocker.address), blocker.owner, blocker.label, blocker.since) == ("n1", "10.0.0.1", "web", "default/web", 1000.0)
    assert blocks(ipam, "n1") == ["p 10.0.0.0/24", "p 10.0.1.0/24"]
    assert addresses(ipam.allocate("n1", "db")) == ["10.0.1.1"]
    ipam.release("n1", "web")
    assert ipam.drain("block", "10.0.0.0/24").blockers == ()
    assert blocks(ipam, "n1") == ["p 10.0.1.0/24"]
    with pytest.raises(NotHeldError):
        ipam.drain("block", "10.0.0.0/24")


def test_a_block_goes_on_draining_when_its_node_grows(ipam: Ipam, store: MemoryStore) -> None:
    ipam.apply([pool("10.0.0.0/20")], [Node("n1")])
    ipam.allocate("n1", "web")
    ipam.drain("block", "10.0.0.0/24")

    ipam.grow("n1", 2)

    shown = [(str(block.prefix), block.draining) for block in Ipam(store).blocks()]
    assert shown == [("10.0.0.0/24", True), ("10.0.1.0/24", False), ("10.0.2.0/24", False)]
    assert addresses(ipam.allocate("n1", "db")) == ["10.0.1.1"]


def test_a_block_that_cannot_be_replaced_goes_on_serving_and_says_so(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24")], [Node("n1")])

    applied = ipam.drain("block", "10.0.0.0/24")

    assert [str(blocker.block) for blocker in applied.blockers] == ["10.0.0.0/24"]
    assert [refusal.pool for refusal in applied.refusals] == ["p"]
    assert addresses(ipam.allocate("n1", "web")) == ["10.0.0.1"]


def test_an_orphan_does_not_replace_the_block_that_serves(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/23", blocks_per_node=2)], [Node("n1")])
    ipam.apply([pool("10.0.0.0/24")])  # 10.0.1.0/24 is an orphan now

    applied = ipam.drain("block", "10.0.0.0/24")

    assert [str(blocker.block) for blocker in applied.blockers] == ["10.0.0.0/24"]
    assert addresses(ipam.allocate("n1", "web")) == ["10.0.0.1"]


def test_a_pool_that_drains_gives_nothing_new_and_its_nodes_move_to_the_next(ipam: Ipam) -> None:
    ipam.apply([pool("10.1.0.0/20", priority=2), pool("10.2.0.0/20", name="q")], [Node("n1"), Node("n2")])
    ipam.allocate("n1", "web")

    applied = ipam.drain("pool", "p")

    assert [blocker.owner for blocker in applied.blockers] == ["web"]
    assert (blocks(ipam, "n1"), blocks(ipam, "n2")) == (["p 10.1.0.0/24", "q 10.2.0.0/24"], ["q 10.2.1.0/24"])
    ipam.apply(nodes=[Node("n3")])
    assert blocks(ipam, "n3") == ["q 10.2.2.0/24"]
    ipam.drain("pool", "p", cancel=True)
    ipam.apply(nodes=[Node("n4")])
    assert blocks(ipam, "n4") == ["p 10.1.1.0/24"]


def test_a_node_that_drains_gives_out_nothing_and_gets_nothing_until_that_is_cancelled(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/20")], [Node("n1")])
    ipam.allocate("n1", "web")

    assert [blocker.owner for blocker in ipam.drain("node", "n1").blockers] == ["web"]

    with pytest.raises(NoBlockError):
        ipam.allocate("n1", "db")
    ipam.release("n1", "web")
    ipam.drain("node", "n1")
    ipam.apply()
    assert blocks(ipam, "n1") == []
    ipam.drain("node", "n1", cancel=True)
    ipam.apply()
    assert blocks(ipam, "n1") == ["p 10.0.0.0/24"]


def test_a_migration_goes_on_where_it_was_stopped(ipam: Ipam, store: MemoryStore) -> None:
    ipam.apply([pool("10.1.0.0/20", priority=2), pool("10.2.0.0/20", name="q")], [Node("n1")])
    ipam.allocate("n1", "web")

    for writes in (0, 1, 2):  # killed later each time, and asked again
        with pytest.raises(Crash):
            Ipam(FaultyStore(store, crash_after(writes))).migrate("n1", "q")
    applied = Ipam(store).migrate("n1", "q")
    assert [blocker.owner for blocker in applied.blockers] == ["web"]
    assert addresses(Ipam(store).allocate("n1", "db")) == ["10.2.0.1"]
    Ipam(store).release("n1", "web")
    assert Ipam(store).migrate("n1", "q").blockers == ()
    assert blocks(Ipam(store), "n1") == ["q 10.2.0.0/24"]
    assert loose(store) == []


def test_a_migration_is_refused_with_the_reason_and_changes_nothing(ipam: Ipam, store: MemoryStore) -> None:
    ssd = pool("10.3.0.0/24", name="ssd", selector=NodeSelector.parse("disk=ssd"))
    pools = [pool("10.1.0.0/20", priority=9), ssd, pool("10.4.0.0/24", name="full", reserved=["10.4.0.0/24"]), pool("10.5.0.0/24", name="off", draining=True)]
    ipam.apply([*pools, pool("10.1.0.0/20", name="far", address_space="blue")], [Node("n1")])
    before = records(store)

    for name, reason in (("ssd", "disk in (ssd) but the node has no such label"), ("off", "draining"), ("far", "address space 'blue'")):
        with pytest.raises(PoolRefusedError) as refused:
            ipam.migrate("n1", name)
        assert reason in refused.value.reason
    with pytest.raises(PoolExhaustedError):
        ipam.migrate("n1", "full")
    with pytest.raises(NotFoundError):
        ipam.migrate("n1", "none")
    assert records(store) == before


# ------------------------------------------------------------------------------------------------ cooling


def test_an_address_cools_over_a_restart_and_is_told_so(tmp_path: Any, clock: Clock) -> None:
    with Ipam(SqliteStore(tmp_path / "ipam.db"), clock=clock) as ipam:
        ipam.apply([pool("10.0.0.0/30", reuse_delay=30.5)], [Node("n1")])
        ipam.allocate("n1", "a", "b")
        clock.now = 1010.25
        ipam.release("n1", "a")

    with Ipam(SqliteStore(tmp_path / "ipam.db"), clock=clock) as ipam:
        clock.now = 1040.5
        assert ipam.nodes()[0].utilization[4] == (4, 0, 1, 1, 2)
        with pytest.raises(NodeExhaustedError) as full:
            ipam.allocate("n1", "c")
        assert "cooling" in str(full.value)
        with pytest.raises(CoolingAddressError) as early:
            ipam.allocate("n1", "c", address="10.0.0.1")
        assert early.value.until == 1040.75
        clock.now = 1040.75
        assert ipam.nodes()[0].utilization[4] == (4, 1, 1, 0, 2)
        assert addresses(ipam.allocate("n1", "c")) == ["10.0.0.1"]


def test_a_block_that_was_given_back_cools_over_a_restart(ipam: Ipam, store: MemoryStore, clock: Clock) -> None:
    ipam.apply([pool("10.0.0.0/24", reuse_delay=60)], [Node("n1")])
    ipam.remove_node("n1")
    clock.now = 1059.0

    other = Ipam(store, clock=clock)
    assert other.apply(nodes=[Node("n2")]).refusals[0].pool == "p"
    assert other.pools()[0].spaces[4].cooling == 256
    clock.now = 1060.0
    other.apply()
    assert blocks(other, "n2") == ["p 10.0.0.0/24"]


def test_what_a_crashed_release_left_cools_as_well_whoever_finishes_it(store: MemoryStore, clock: Clock) -> None:
    Ipam(store, clock=clock).apply([pool("10.0.0.0/30", "fd00::/126", reuse_delay=30, block_length_v6=126)], [Node("n1")])
    Ipam(store, clock=clock).allocate("n1", "a")
    with pytest.raises(Crash):
        Ipam(FaultyStore(store, crash_after(1)), clock=clock).release("n1", "a")

    ipam = Ipam(store, clock=clock)
    ipam.allocate("n1", "a")  # finishes the release, and gives the owner the other address

    assert ipam.nodes()[0].utilization[4] == (4, 0, 1, 1, 2)
    assert ipam.nodes()[0].utilization[6] == (4, 0, 1, 1, 2)


def test_repair_lets_what_a_crashed_release_left_cool(store: MemoryStore, clock: Clock) -> None:
    Ipam(store, clock=clock).apply([pool("10.0.0.0/30", "fd00::/126", reuse_delay=30, block_length_v6=126)], [Node("n1")])
    Ipam(store, clock=clock).allocate("n1", "a")
    with pytest.raises(Crash):
        Ipam(FaultyStore(store, crash_after(1)), clock=clock).release("n1", "a")

    ipam = Ipam(store, clock=clock)
    ipam.repair()

    assert loose(store) == []
    assert ipam.nodes()[0].utilization[4] == (4, 1, 0, 1, 2)


def test_an_address_that_cools_still_does_when_its_block_goes_back_after_the_delay_was_dropped(ipam: Ipam, clock: Clock) -> None:
    ipam.apply([pool("10.0.0.0/24", reuse_delay=60)], [Node("n1")])
    ipam.allocate("n1", "a")
    ipam.release("n1", "a")
    ipam.apply([pool("10.0.0.0/24", address_policy="lowest")])
    ipam.remove_node("n1")

    ipam.apply(nodes=[Node("n2")])

    assert blocks(ipam, "n2") == []
    clock.now = 1060.0
    ipam.apply()
    assert addresses(ipam.allocate("n2", "b")) == ["10.0.0.1"]


def test_an_address_that_cools_still_does_when_its_block_goes_back_after_it_was_reserved(ipam: Ipam, clock: Clock) -> None:
    ipam.apply([pool("10.0.0.0/24", reuse_delay=60)], [Node("n1")])
    ipam.allocate("n1", "a")
    ipam.release("n1", "a")
    ipam.apply([pool("10.0.0.0/24", reserved=["10.0.0.1"])])
    ipam.remove_node("n1")

    ipam.apply(nodes=[Node("n2")])

    assert blocks(ipam, "n2") == []
    clock.now = 1060.0
    ipam.apply()
    assert blocks(ipam, "n2") == ["p 10.0.0.0/24"]


@pytest.mark.parametrize("writes", range(3))
@pytest.mark.parametrize("force", [False, True])
def test_an_address_that_cools_still_does_when_the_removal_of_its_node_broke_off(
    store: MemoryStore, clock: Clock, writes: int, force: bool
) -> None:
    """Fuzzing, seed 1, life 11: who finished the removal found the block's addresses closed, and nothing that said they cool."""
    ipam = Ipam(store, clock=clock)
    ipam.apply([pool("10.0.0.0/24", reuse_delay=60)], [Node("n1")])
    ipam.allocate("n1", "a")
    ipam.release("n1", "a")
    ipam.apply([pool("10.0.0.0/24")])
    with pytest.raises(Crash):
        Ipam(FaultyStore(store, crash_after(writes)), clock=clock).remove_node("n1", force=force)

    other = Ipam(store, clock=clock)
    with suppress(NotFoundError):
        other.remove_node("n1", force=force)
    other.apply(nodes=[Node("n2")])

    assert blocks(other, "n2") == []
    clock.now = 1060.0
    other.apply()
    assert blocks(other, "n2") == ["p 10.0.0.0/24"]


def test_the_cooling_of_a_plan_begins_when_it_is_executed(ipam: Ipam, clock: Clock) -> None:
    ipam.apply([pool("10.0.0.0/30", reuse_delay=30)], [Node("n1")])
    ipam.allocate("n1", "a", "b")
    document = json.dumps(plan_to_document(ipam.plan(Release("n1", ("a",)))))
    clock.now = 2000.0

    ipam.execute(plan_from_document(json.loads(document), "a test"))

    with pytest.raises(NodeExhaustedError):
        ipam.allocate("n1", "c")
    clock.now = 2030.0
    assert addresses(ipam.allocate("n1", "c")) == ["10.0.0.1"]


def test_adopting_a_part_of_a_block_that_cools_ends_the_cooling_of_that_part_only(ipam: Ipam, clock: Clock) -> None:
    ipam.apply([pool("10.0.0.0/24", reuse_delay=60)], [Node("n1")])
    ipam.remove_node("n1")

    ipam.apply([pool("10.0.0.0/24", block_length_v4=28)], [Node("n2"), Node("n3")], [has("10.0.0.16/28", "n2")])

    assert blocks(ipam, "n2") == ["p 10.0.0.16/28"]
    ipam.apply()
    assert blocks(ipam, "n3") == []
    clock.now = 1060.0
    ipam.apply()
    assert blocks(ipam, "n3") == ["p 10.0.0.0/28"]


# ------------------------------------------------------------------------------------------------ pools that change


def test_a_pool_that_shrinks_leaves_orphans_that_keep_what_they_have(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/23")], [Node("n1"), Node("n2")])
    ipam.allocate("n2", "web")

    applied = ipam.apply([pool("10.0.0.0/24")])

    assert [str(change) for change in applied.changes if change.action == "orphan"] == [
        "orphan block 10.0.1.0/24: of node n2: pool p no longer covers it"
    ]
    assert ipam.pools()[0].orphans == 1
    assert any("orphan" in concern.what and "10.0.1.0/24 of n2" in concern.what for concern in applied.concerns)
    assert addresses(ipam.allocate("n2", "web")) == ["10.0.1.1"]
    with pytest.raises(NoBlockError):
        ipam.allocate("n2", "db")
    ipam.apply([pool("10.0.0.0/22")])
    assert addresses(ipam.allocate("n2", "db")) == ["10.0.1.2"]


def test_what_is_reserved_later_stays_held_is_told_and_is_not_given_again(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24")], [Node("n1")])
    ipam.allocate("n1", "web", address="10.0.0.9")

    applied = ipam.apply([pool("10.0.0.0/24", reserved=["10.0.0.0/28"])])

    assert [concern.what for concern in applied.concerns] == [
        "1 address is held inside reserved ranges: 10.0.0.9 by web; it stays until it is released"
    ]
    assert addresses(ipam.allocate("n1", "web")) == ["10.0.0.9"]
    ipam.release("n1", "web")
    assert ipam.nodes()[0].utilization[4] == (256, 239, 0, 0, 17)
    assert addresses(ipam.allocate("n1", "web")) == ["10.0.0.16"]


def test_a_node_keeps_its_pool_when_its_labels_change_and_that_is_told(ipam: Ipam) -> None:
    ipam.apply([pool("10.1.0.0/20", selector=NodeSelector.parse("zone=a")), pool("10.2.0.0/20", name="q")], [Node("n1", {"zone": "a"})])

    applied = ipam.apply(nodes=[Node("n1", {"zone": "b"})])

    assert blocks(ipam, "n1") == ["p 10.1.0.0/24"]
    assert [(concern.pool, concern.what.split(";")[0]) for concern in applied.concerns] == [
        ("p", "1 node keeps a block of it although its labels changed: n1")
    ]
    ipam.grow("n1", 2)
    assert blocks(ipam, "n1") == ["p 10.1.0.0/24", "p 10.1.1.0/24"]
    ipam.migrate("n1", "q")
    assert blocks(ipam, "n1") == ["q 10.2.0.0/24"]
    assert ipam.apply().concerns == ()


def test_a_pool_with_fewer_blocks_than_nodes_is_told(ipam: Ipam) -> None:
    applied = ipam.apply([pool("10.0.0.0/23")], [Node("n1"), Node("n2"), Node("n3")])

    assert [concern.what.split(":")[0] for concern in applied.concerns] == ["it makes IPv4 blocks for 2 nodes, and selects 3"]
    assert [status.concerns[0].split(":")[0] for status in ipam.pools()] == ["it makes IPv4 blocks for 2 nodes, and selects 3"]


# ------------------------------------------------------------------------------------------------ adoption


def test_a_node_keeps_the_very_block_that_it_has_and_gets_only_what_is_missing(ipam: Ipam) -> None:
    applied = ipam.apply([pool("10.0.0.0/16", "fd00::/56")], [Node("n1")], [has("10.0.7.0/24", "n1", since=5.0)])

    assert blocks(ipam, "n1") == ["p 10.0.7.0/24", "p fd00::/64"]
    assert [str(change) for change in applied.changes if change.action == "adopt"] == ["adopt block 10.0.7.0/24: of node n1 into pool p"]
    assert [block.since for block in ipam.blocks()] == [5.0, 1000.0]
    again = ipam.apply(existing=[has("10.0.7.0/24", "n1", since=5.0)])
    assert (again.changes, again.conflicts) == ((), ())


@pytest.mark.parametrize(
    ("existing", "reason"),
    [
        ([has("10.0.1.0/24", "n2", since=9.0), has("10.0.1.0/24", "n1", since=7.0)], "node 'n1' has 10.0.1.0/24 (pool p)"),
        ([has("10.0.1.0/24", "n2"), has("10.0.1.0/24", "n1", since=7.0)], "node 'n1' has 10.0.1.0/24 (pool p)"),
        ([has("10.0.1.0/24", "n2"), has("10.0.1.0/24", "n1")], "node 'n1' has 10.0.1.0/24 (pool p)"),
        ([has("10.0.0.0/22", "n2", since=9.0), has("10.0.1.0/24", "n1", since=7.0)], "node 'n1' has 10.0.1.0/24 (pool p)"),
        ([has("10.0.1.128/25", "n2", since=9.0), has("10.0.1.0/24", "n1", since=7.0)], "node 'n1' has 10.0.1.0/24 (pool p)"),
        ([has("10.0.1.0/24", "n9"), has("10.0.1.0/24", "n1", since=7.0)], "the node is not known; apply it as well"),
        ([has("0.0.0.0/0", "n2"), has("10.0.1.0/24", "n1", since=7.0)], "it is a whole address family"),
    ],
    ids=["the younger", "no time is younger", "the name breaks a tie", "around it", "inside it", "a stray node", "everything"],
)
def test_of_two_that_say_they_have_a_block_the_older_gets_it_and_the_other_is_told_why(ipam: Ipam, existing: list[ExistingBlock], reason: str) -> None:
    applied = ipam.apply([pool("10.0.0.0/16")], [Node("n1"), Node("n2")], existing)

    assert blocks(ipam, "n1") == ["p 10.0.1.0/24"]
    assert [(conflict.existing, conflict.reason) for conflict in applied.conflicts] == [(existing[0], reason)]
    around = existing[0].prefix == parse_prefix("10.0.0.0/22")  # what it cannot have may be in use there all the same: nobody gets any of it
    assert blocks(ipam, "n2") == ["p 10.0.4.0/24" if around else "p 10.0.0.0/24"]


def test_a_block_of_no_pool_is_adopted_as_an_orphan_and_its_space_is_safe(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/16")], [Node("n1")], [has("10.9.0.0/24", "n1")])

    assert [(block.pool, str(block.prefix), block.orphan) for block in ipam.blocks()] == [("", "10.9.0.0/24", True)]
    ipam.apply([pool("10.9.0.0/23", name="q", priority=1)], [Node("n2")])
    assert blocks(ipam, "n2") == ["q 10.9.1.0/24"]


def test_an_adopted_block_that_is_partly_reserved_is_not_given_to_others_in_the_same_call(ipam: Ipam) -> None:
    tiny = pool("10.0.0.0/26", block_length_v4=31, reserved=["10.0.0.5-10.0.0.18"], address_space="blue")

    applied = ipam.apply([tiny], [Node("n0"), Node("n1")], [has("10.0.0.0/27", "n0")])

    assert applied.conflicts == ()
    assert (blocks(ipam, "n0"), blocks(ipam, "n1")) == (["p 10.0.0.0/27"], ["p 10.0.0.32/31"])
    ipam.check_invariants()


def test_what_a_node_has_in_its_own_space_is_no_conflict_though_another_pool_covers_it_too(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24", name="here", address_space="blue"), pool("10.0.0.0/24", name="there", priority=1, selector=NodeSelector.parse("x"))], [Node("n1")])

    applied = ipam.apply(existing=[has("10.0.0.0/24", "n1")])

    assert (applied.changes, applied.conflicts) == ((), ())


def test_a_retry_does_not_give_up_what_was_adopted(store: MemoryStore) -> None:
    spec = pool("10.0.0.0/20", "fd00::/64", blocks_per_node=2)
    faulty = FaultyStore(store)
    ipam = Ipam(faulty)
    ipam.apply([spec], [Node("n1")])
    faulty.play([Fault.NONE, Fault.LOST])

    ipam.apply(existing=[has("10.0.3.0/24", "n1"), has("10.0.7.0/24", "n1")])

    assert blocks(ipam, "n1") == ["p 10.0.3.0/24", "p 10.0.7.0/24"]


# ------------------------------------------------------------------------------------------------ many nodes


def test_nodes_that_go_together_give_back_all_but_the_one_in_use_which_is_told(ipam: Ipam, store: MemoryStore) -> None:
    ipam.apply([pool("10.0.0.0/22")], [Node("n1"), Node("n2"), Node("n3")])
    ipam.allocate("n2", "web")

    with pytest.raises(BlockNotEmptyError) as caught:
        ipam.remove_nodes(["n3", "n2", "n1", "n1", "nobody"])

    assert (caught.value.node, caught.value.in_use) == ("n2", 1)
    assert [(block.node, str(block.prefix)) for block in ipam.blocks()] == [("n2", "10.0.1.0/24")]
    assert [str(change) for change in ipam.remove_nodes(["n2", "n1"], force=True).changes] == [
        "give back block 10.0.1.0/24: from node n2 to pool p",
        "release address 10.0.1.1: on n2 from web, by force",
        "remove node n2: with --force",
    ]
    assert (ipam.held(), ipam.remove_nodes([]).changes, loose(store)) == ({}, (), [])


def test_what_is_held_is_told_in_the_order_in_which_a_node_got_it(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/16", "fd00::/56")], [Node("n0"), Node("n1")], [has("10.0.7.0/24", "n1")])
    ipam.grow("n1", 2)

    held = {node: [block.piece for block in blocks] for node, blocks in ipam.held().items()}

    assert held == {
        "n0": ["10.0.6.0/24", "fd00::/64"],
        "n1": ["10.0.7.0/24", "fd00:0:0:1::/64", "10.0.4.0/24", "fd00:0:0:2::/64"],
    }


def test_what_is_on_its_way_back_is_held_only_for_who_asks_for_it(ipam: Ipam, store: MemoryStore, clock: Clock) -> None:
    ipam.apply([pool("10.0.0.0/16", reuse_delay=30)], [Node("n1"), Node("n2")])
    with suppress(Crash):
        Ipam(FaultyStore(store, crash_after(1)), clock=clock).remove_node("n1")
    ipam.refresh()

    assert [*ipam.held()] == ["n2"]
    assert [*ipam.held(closing=True)] == ["n1", "n2"]
    assert ipam.due() is None
    ipam.remove_node("n1")
    assert ipam.due() == 1030.0
    clock.now = 1030.0
    assert ipam.due() is None


# ------------------------------------------------------------------------------------------------ address spaces


def test_pools_of_two_address_spaces_overlap_and_know_nothing_of_each_other(ipam: Ipam) -> None:
    pools = [
        pool("10.0.0.0/24", name="red", address_space="red", selector=NodeSelector.parse("space=red")),
        pool("10.0.0.0/24", name="blue", address_space="blue", selector=NodeSelector.parse("space=blue")),
    ]
    ipam.apply(pools, [Node("n1", {"space": "red"}), Node("n2", {"space": "blue"})])

    assert (blocks(ipam, "n1"), blocks(ipam, "n2")) == (["red 10.0.0.0/24"], ["blue 10.0.0.0/24"])
    assert [addresses(ipam.allocate(node, "web")) for node in ("n1", "n2")] == [["10.0.0.1"], ["10.0.0.1"]]
    assert ipam.force_release("10.0.0.1", space="red").node == "n1"
    assert [(each.node, str(each.address)) for each in ipam.allocations()] == [("n2", "10.0.0.1")]
    with pytest.raises(OverlapError):
        ipam.apply([pool("10.0.0.128/25", name="late", address_space="red")])


def test_a_node_whose_pool_moved_to_another_space_gets_nothing_out_of_it(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/20")], [Node("n1")])

    applied = ipam.apply([pool("10.0.0.0/20", address_space="blue", blocks_per_node=2)])

    assert {block.space for block in ipam.blocks()} == {"default"}
    assert [refusal.reason for refusal in applied.refusals] == ["it is in the address space 'blue', and the node's blocks are in 'default'"]


# ------------------------------------------------------------------------------------------------ plans, repair


def test_a_plan_to_drain_is_not_carried_out_once_an_address_was_taken_there(ipam: Ipam, store: MemoryStore) -> None:
    ipam.apply([pool("10.0.0.0/20")], [Node("n1")])
    document = json.loads(json.dumps(plan_to_document(ipam.plan(Drain("block", "10.0.0.0/24")))))
    Ipam(store).allocate("n1", "web")
    before = records(store)

    with pytest.raises(StalePlanError) as stale:
        ipam.execute(plan_from_document(document, "a test"))

    assert stale.value.written == 0
    assert records(store) == before


@pytest.mark.parametrize("writes", range(8))
def test_repair_finishes_or_undoes_what_any_crash_left_and_frees_nothing_that_is_held(store: MemoryStore, writes: int) -> None:
    Ipam(store).apply([pool("10.0.0.0/24", "fd00::/62", block_length_v4=26)], [Node("n1"), Node("n2")])
    Ipam(store).allocate("n1", "kept")
    calls: list[Callable[[Ipam], object]] = [
        lambda ipam: ipam.allocate("n1", "a", "b"),
        lambda ipam: ipam.release("n1", "a", "b"),
        lambda ipam: ipam.grow("n2", 2),
        lambda ipam: ipam.drain("node", "n2"),
    ]
    for call in calls:
        with suppress(Crash, NotFoundError):
            call(Ipam(FaultyStore(store, crash_after(writes))))
        Ipam(store).repair()
        assert loose(store) == []
        kept = [each for each in Ipam(store).allocations() if each.owner == "kept"]
        assert addresses(kept) == ["10.0.0.1", "fd00::1"]
        Ipam(store).check_invariants()


def test_a_random_address_is_the_owners_own_and_is_found_again(ipam: Ipam, store: MemoryStore) -> None:
    ipam.apply([pool("10.0.0.0/20", block_length_v4=20, address_policy="random", seed=7)], [Node("n1")])
    first = addresses(ipam.allocate("n1", "a"))
    ipam.release("n1", "a")

    assert addresses(Ipam(store).allocate("n1", "a")) == first
    assert ip_address(first[0]) in ip_network("10.0.0.0/20")


def test_a_node_can_go_back_to_the_pool_that_it_is_leaving(ipam: Ipam) -> None:
    # Its old block stayed marked as draining, and another one was carved beside it, or none was left.
    ipam.apply([pool("10.0.0.0/24", name="old", priority=1), pool("10.1.0.0/24", name="new")], [Node("n1")])
    ipam.allocate("n1", "web")
    ipam.migrate("n1", "new")

    applied = ipam.migrate("n1", "old")

    assert [(str(block.prefix), block.draining) for block in ipam.blocks()] == [("10.0.0.0/24", False)]
    assert applied.blockers == ()
    assert addresses(ipam.allocate("n1", "db")) == ["10.0.0.2"]


@pytest.mark.parametrize(("kind", "name"), [("pool", "old"), ("block", "10.0.0.0/24")])
def test_a_process_that_has_been_running_for_long_gives_nothing_out_of_what_another_one_drains(
    store: MemoryStore, kind: Literal["pool", "block"], name: str
) -> None:
    both = [pool("10.0.0.0/24", name="old", priority=1, overflow=True), pool("10.1.0.0/24", name="new")]
    running, command = Ipam(store), Ipam(store)
    running.apply(both, [Node("n1")])
    assert addresses(running.allocate("n1", "a")) == ["10.0.0.1"]

    command.drain(kind, name)

    assert addresses(running.allocate("n1", "b")) == ["10.1.0.1"]


def test_a_process_that_has_been_running_for_long_gives_nothing_on_a_node_that_another_one_drains(store: MemoryStore) -> None:
    running, command = Ipam(store), Ipam(store)
    running.apply([pool("10.0.0.0/24")], [Node("n1")])
    running.allocate("n1", "a")

    command.drain("node", "n1")

    with pytest.raises(NoBlockError, match="the node is draining"):
        running.allocate("n1", "b")


# ---------------------------------------------------------------------------------- what the store knows that nodes have


class Knowing(MemoryStore):
    """A store that says what nodes have, as a cluster does."""

    def __init__(self, *said: ExistingBlock) -> None:
        super().__init__()
        self.said = said
        self.asked: list[tuple[str, ...]] = []

    def listed(self, pools: Iterable[PoolSpec]) -> tuple[ExistingBlock, ...]:
        self.asked.append(tuple(each.name for each in pools))
        return self.said


def test_whoever_applies_takes_over_what_the_store_knows_that_nodes_have(clock: Clock) -> None:
    store = Knowing(has("10.0.0.0/24", "b"))
    ipam = Ipam(store, clock=clock)

    done = ipam.apply([pool("10.0.0.0/16")], [Node("a"), Node("b")])

    assert {str(change) for change in done.changes if change.action in ("adopt", "carve")} == {
        "adopt block 10.0.0.0/24: of node b into pool p",
        "carve block 10.0.1.0/24: for node a out of pool p",
    }
    assert store.asked == [("p",)]


def test_whoever_takes_nothing_over_gives_it_to_nobody_else_either(clock: Clock) -> None:
    store = Knowing()
    ipam = Ipam(store, clock=clock)
    ipam.apply([pool("10.0.0.0/22")], [Node("a")])
    store.said = (has("10.0.1.0/24", "b"), has("10.0.2.0/25", "unknown"), has("10.0.0.0/24", "a"), has("0.0.0.0/0", "all"))

    refused = ipam.grow("a", 3).refusals
    assert len(refused) == 1
    assert blocks(ipam, "a") == ["p 10.0.0.0/24"], "it is all or nothing"

    ipam.grow("a", 2)

    assert blocks(ipam, "a") == ["p 10.0.0.0/24", "p 10.0.3.0/24"]


def test_what_nodes_that_came_and_went_matched_is_not_remembered() -> None:
    record = PoolRecord(pool("10.0.0.0/8"), 0.0)
    pools = Pools([record])

    for number in range(400):
        assert [want.offers[0].pool.name for want in reconcile([NodeRecord(Node(f"n{number}"), 0.0, draining=False)], pools, {})] == ["p"]

    assert len(pools._matching) < 150
