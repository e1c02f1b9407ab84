"""Calls that are cut short, raced, or asked in vain: what the next call makes of it, and what each refusal says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from ciliumipam import ExistingBlock, Ipam, MemoryStore, Node, NodeSelector, PoolSpec
from ciliumipam.audit import audit
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import (
    ConflictError,
    CorruptRecordError,
    InvalidNameError,
    InvalidRequestError,
    IpamError,
    NoBlockError,
    NotFoundError,
    NotHeldError,
    PoolExhaustedError,
    PoolRefusedError,
    RetriesExhaustedError,
)
from ciliumipam.ledger import block_ledger
from ciliumipam.pool import BlockLengths
from ciliumipam.records import KINDS, Key, Page, Record, Revision
from ciliumipam.requests import Blocker, Concern, Drain, Grow
from ciliumipam.store import ABSENT, Expect, Write
from ciliumipam.testing.faults import Crash, Fault, FaultyStore, crash_after
from ciliumipam.view import block_claims_key

EVERY = NodeSelector.everything()
NOW = 1000.0


def pool(*cidrs: str, name: str = "p", **fields: Any) -> PoolSpec:
    return PoolSpec(**{"name": name, "cidrs": cidrs, "selector": EVERY, **fields})


def new(store: Any) -> Ipam:
    return Ipam(store, clock=lambda: NOW)


def blocks(ipam: Ipam, node: str) -> list[str]:
    return [f"{block.pool} {block.prefix}" for status in ipam.nodes() if status.node.name == node for block in status.blocks]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def ipam(store: MemoryStore) -> Ipam:
    return new(store)


# ------------------------------------------------------------------------------------------------ cut short

CALLS: dict[str, Callable[[Ipam], object]] = {
    "apply a node": lambda ipam: ipam.apply(nodes=[Node("m")]),
    "grow": lambda ipam: ipam.grow("a", 2),
    "drain a block": lambda ipam: ipam.drain("block", "10.0.0.0/24"),
    "drain a pool": lambda ipam: ipam.drain("pool", "p"),
    "drain a node": lambda ipam: ipam.drain("node", "a"),
    "migrate": lambda ipam: ipam.migrate("a", "q"),
    "remove a node": lambda ipam: ipam.remove_node("a"),
}


AGAIN = ("apply a node", "grow", "drain a block", "migrate")


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("first", CALLS)
def test_whatever_call_was_cut_short_wherever_the_next_one_finishes_it_and_does_its_own(first: str, again: str) -> None:
    begun = MemoryStore()
    new(begun).apply([pool("10.0.0.0/22", "fd00::/62"), pool("10.1.0.0/22", "fd01::/62", name="q", priority=-1)], [Node("a"), Node("b")])
    for writes in range(10):
        store = MemoryStore()
        for kind in KINDS:
            for key, entry in begun.scan(kind).entries:
                store.put(key, entry.record, expect=ABSENT)
        with suppress(Crash):
            CALLS[first](new(FaultyStore(store, crash_after(writes))))
        ipam = new(store)

        with suppress(NotFoundError, NotHeldError, NoBlockError, PoolRefusedError):
            CALLS[again](ipam)
        ipam.apply()

        ipam.check_invariants()
        left = [(each.severity, each.where, each.what) for each in audit(store, clock=lambda: NOW).findings if each.severity != "notice"]
        assert left == [], f"after {writes} writes"


@pytest.mark.parametrize("remove", [lambda ipam: ipam.remove_pool("p"), lambda ipam: ipam.remove_node("a")], ids=["pool", "node"])
def test_a_removal_whose_last_answer_was_lost_says_that_it_is_done(store: MemoryStore, remove: Callable[[Ipam], object]) -> None:
    faulty = FaultyStore(store)
    ipam = new(faulty)
    ipam.apply(nodes=[Node("a")])
    ipam.apply([pool("10.0.0.0/24", selector=NodeSelector.parse("none"))])

    faulty.play([Fault.LOST])
    remove(ipam)

    assert faulty.fired == [Fault.LOST]
    assert len(ipam.pools()) + len(ipam.nodes()) == 1
    assert [each for each in audit(store).findings if each.severity != "notice"] == []


def test_a_migration_that_loses_the_last_block_after_it_began_takes_back_what_it_did(store: MemoryStore) -> None:
    ipam, other = new(store), new(store)
    late = next(name for name in "bcdefgh" if block_claims_key(name) != block_claims_key("a"))
    ipam.apply([pool("10.0.0.0/22", selector=NodeSelector.parse("x")), pool("10.1.0.0/24", name="q")], [Node("a", {"x": ""})])

    def script() -> Iterator[Fault]:
        other.apply(nodes=[Node(late)])  # after the migration has chosen, before it writes
        yield Fault.NONE

    faulty = FaultyStore(store, script())
    with pytest.raises(PoolExhaustedError) as refused:
        new(faulty).migrate("a", "q")

    assert refused.value.args == ("q", 4, 24, None)
    assert faulty.writes > 2, "it had begun"
    assert [(block.node, str(block.prefix), block.draining) for block in new(store).blocks()] == [
        ("a", "10.0.0.0/24", False),
        (late, "10.1.0.0/24", False),
    ]
    assert [each for each in audit(store).findings if each.severity != "notice"] == []


class Contested(MemoryStore):
    """A store in which somebody else is always faster."""

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        raise ConflictError(str(key), str(expect), "another one")

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        return [self.put(write.key, write.record, expect=write.expect) for write in writes]


def test_a_call_gives_up_after_a_hundred_lost_races_and_names_what_it_raced_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)

    with pytest.raises(RetriesExhaustedError) as error:
        new(Contested()).apply(nodes=[Node("a")])

    assert error.value.args == (100, "node a")
    assert len(pauses) == 98, "there is no pause after the first attempt, nor after the last"
    assert all(0 <= pause <= 0.2 for pause in pauses)


# ------------------------------------------------------------------------------------------------ asked in vain

REFUSED = [
    ("drain no pool", lambda ipam: ipam.drain("pool", "red"), NotFoundError, ("pool", "red", ("p", "q"))),
    ("drain no node", lambda ipam: ipam.drain("node", "z"), NotFoundError, ("node", "z", ("a", "b"))),
    ("migrate no node", lambda ipam: ipam.migrate("z", "p"), NotFoundError, ("node", "z", ("a", "b"))),
    ("migrate to no pool", lambda ipam: ipam.migrate("a", "red"), NotFoundError, ("pool", "red", ("p", "q"))),
    ("migrate what drains", lambda ipam: ipam.migrate("b", "q"), PoolRefusedError, ("q", "b", "the node is draining; cancel that first")),
    (
        "grow what drains",
        lambda ipam: ipam.grow("b", 2),
        NoBlockError,
        ("b", 0, ("the node is draining; let it take new ones again with 'ciliumipam drain node --cancel'",)),
    ),
    ("grow no node", lambda ipam: ipam.grow("z", 2), NotFoundError, ("node", "z", ("a", "b"))),
    ("grow by nothing", lambda ipam: ipam.grow("a", 0), InvalidRequestError, ("a node has 1 to 65536 blocks of a family, not 0",)),
    (
        "grow by too many",
        lambda ipam: ipam.grow("a", 65537),
        InvalidRequestError,
        ("a node has 1 to 65536 blocks of a family, not 65537",),
    ),
    ("drain a cluster", lambda ipam: ipam.drain("cluster", "a"), InvalidRequestError, ("a 'cluster' cannot drain; valid: pool, node, block",)),
    ("a node by number", lambda ipam: ipam.allocate(5, "web"), InvalidNameError, ("node name", "the number 5", "a name is text")),
]


@pytest.mark.parametrize(("call", "kind", "args"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_a_call_in_vain_says_why_and_writes_nothing(
    store: MemoryStore, ipam: Ipam, call: Callable[[Ipam], object], kind: type[IpamError], args: tuple[object, ...]
) -> None:
    ipam.apply([pool("10.0.0.0/22"), pool("10.1.0.0/22", name="q", priority=-1)], [Node("a"), Node("b")])
    ipam.drain("node", "b")
    before = {key: entry for each in KINDS for key, entry in store.scan(each).entries}

    with pytest.raises(kind) as refused:
        call(ipam)

    assert refused.value.args == args
    assert {key: entry for each in KINDS for key, entry in store.scan(each).entries} == before


def test_what_a_block_or_a_pool_suffers_from_is_one_sentence() -> None:
    prefix = parse_prefix("10.0.0.0/24").to_network()

    assert str(Blocker("n", prefix, None, "", "", 0.0, "it is empty")) == "block 10.0.0.0/24 of node n: it is empty"
    assert str(Concern("p", "it is full")) == "pool p: it is full"
    assert str(Concern("", "1 block is an orphan")) == "1 block is an orphan"


def test_a_changed_override_of_block_lengths_is_told_with_before_and_after(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/16", "fd00::/56", block_lengths=(BlockLengths(NodeSelector.parse("big"), 22, None),))])

    applied = ipam.apply([pool("10.0.0.0/16", "fd00::/56", block_lengths=(BlockLengths(EVERY, 23, 62),))])

    assert [str(change) for change in applied.changes] == [
        "change pool p: blockLengths: big /22 -> every node /23 and /62",
    ]


def test_a_plan_tells_its_refusals(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/22", max_blocks_per_node=1)], [Node("a")])

    plan = ipam.plan(Grow("a", 2))

    assert [str(refusal) for refusal in plan.refusals] == ["pool p: it gives a node at most 1 IPv4 blocks; the node has 1 and wants 1 more"]
    assert ipam.plan(Drain("node", "a")).refusals == ()


def test_the_second_block_serves_when_the_first_is_full(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24", block_length_v4=30, blocks_per_node=2)], [Node("a")])

    given = [str(each.address) for owner in "wxyz" for each in ipam.allocate("a", owner)]

    assert given == ["10.0.0.1", "10.0.0.2", "10.0.0.5", "10.0.0.6"]


def test_a_block_of_another_space_than_the_nodes_is_not_adopted(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24")], [Node("a")])
    there = ExistingBlock("a", parse_prefix("10.0.0.0/24"), None, 0.0, "a list", "blue")

    applied = ipam.apply(existing=[there])

    assert [(each.existing, each.reason) for each in applied.conflicts] == [
        (there, "it is in the address space 'blue', and the node's blocks are in 'default'")
    ]
    assert str(applied.conflicts[0]).startswith("a list: ")


# ------------------------------------------------------------------------------------------------ a damaged store


@pytest.fixture
def closed(store: MemoryStore) -> MemoryStore:
    """The root of the block ledger is closed, which no call ever does."""
    store.put(block_ledger(4).key(0, 0), Page(2, 0, (0,) * 4), expect=ABSENT)
    return store


def test_where_the_root_of_the_blocks_is_closed_nothing_is_adopted_or_carved(closed: MemoryStore) -> None:
    ipam = new(closed)

    applied = ipam.apply(nodes=[Node("a")], existing=[ExistingBlock("a", parse_prefix("10.0.0.0/24"))])
    assert [each.reason for each in applied.conflicts] == ["the ledger shows some of it as held; read again and check the store"]

    with pytest.raises(CorruptRecordError) as error:
        ipam.apply([pool("10.0.0.0/24")])
    assert error.value.args == ("10.0.0.0/24", "the pages show it as held, but it was found free")


# ------------------------------------------------------------------------------------------------ groups of nodes


def test_a_node_that_moves_to_another_rack_gets_its_next_block_beside_those_of_that_rack(store: MemoryStore) -> None:
    ipam = new(store)
    spec = pool("10.0.0.0/20", carving="grouped", group_by="rack")
    ipam.apply([spec], [Node("a", {"rack": "1"}), Node("b", {"rack": "2"}), Node("c", {"rack": "2"})])
    ipam.apply(nodes=[Node("a", {"rack": "2", "x": ""})])

    ipam.grow("a", 2)

    assert blocks(ipam, "a") == blocks(new(store), "a")
    ipam.check_invariants()


def test_a_pool_that_shrank_below_a_block_gives_out_nothing_of_it(ipam: Ipam) -> None:
    spec = {"carving": "grouped", "group_by": "rack"}
    ipam.apply([pool("10.0.0.0/22", **spec)], [Node("a", {"rack": "1"}), Node("b", {"rack": "2"})])

    ipam.apply([pool("10.0.0.0/26", "10.0.2.0/24", block_length_v4=28, **spec)], [Node("c", {"rack": "1"})])

    assert blocks(ipam, "a") == ["p 10.0.0.0/24"]
    assert blocks(ipam, "b") == ["p 10.0.2.0/24"]
    assert blocks(ipam, "c") == []
    ipam.check_invariants()
    ipam.remove_node("b")
    ipam.apply()
    assert blocks(ipam, "c") == ["p 10.0.2.0/28"]
    ipam.check_invariants()
