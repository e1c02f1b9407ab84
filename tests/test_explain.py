"""`Ipam.explain`, line by line: what a node has, what each pool is to it, and where a call was cut short."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from ciliumipam import ExistingBlock, Ipam, MemoryStore, Node, NodeSelector, PoolSpec
from ciliumipam.cidr import parse_prefix
from ciliumipam.records import Key
from ciliumipam.testing.faults import Crash, FaultyStore, crash_after

EVERY = NodeSelector.everything()
SERVES = "serves the node: the selector selects every node"


def pool(*cidrs: str, name: str = "p", selector: NodeSelector = EVERY, **more: Any) -> PoolSpec:
    return PoolSpec(name=name, cidrs=cidrs, selector=selector, **more)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def ipam(store: MemoryStore) -> Ipam:
    return Ipam(store)


def test_without_a_pool_it_says_so(ipam: Ipam) -> None:
    ipam.apply(nodes=[Node("n")])

    assert ipam.explain("n").lines == ("node n", "  no pool has been applied")


def test_a_node_that_drains_says_so_before_and_after_it_lost_its_block(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/20")], [Node("n")])
    ipam.allocate("n", "web")
    title = "node n is draining: it gets no block, and nothing new out of those that it has"

    ipam.drain("node", "n")
    assert ipam.explain("n").lines == (
        title,
        "  block 10.0.0.0/24 from pool p: 1 of 256 addresses in use, 2 reserved, 253 available",
        f"  1. pool p (0 requirements, 16 IPv4 blocks): {SERVES}",
    )

    ipam.release("n", "web")
    ipam.drain("node", "n")
    assert ipam.explain("n").lines == (
        title,
        "  1. pool p (0 requirements, 16 IPv4 blocks): matches (the selector selects every node)",
    )


def test_a_node_that_was_forgotten_by_hand_and_holds_a_block_is_named_as_unknown(ipam: Ipam, store: MemoryStore) -> None:
    ipam.apply([pool("10.0.0.0/20")], [Node("n")])
    entry = store.get(Key("node", "n"))
    assert entry is not None
    store.delete(Key("node", "n"), expect=entry.revision)

    assert Ipam(store).explain("n").lines == (
        "node n is not known, but holds blocks: apply it, or delete it to take them back",
        "  block 10.0.0.0/24 from pool p: 0 of 256 addresses in use, 2 reserved, 254 available",
    )


def test_an_orphan_says_whose_it_was_and_what_helps(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24"), pool("10.1.0.0/24", name="q", priority=-1)], [Node("n")])
    ipam.remove_pool("p")

    assert ipam.explain("n").lines == (
        "node n",
        ("  block 10.0.0.0/24 from pool p: 0 of 256 addresses in use, 2 reserved, 254 available;"
        " an orphan: its pool is gone or no longer covers it, so it takes nothing new"),
        ("  1. pool q (priority -1, 0 requirements, 1 IPv4 block): matches (the selector selects every node),"
        " but the node holds orphans; move it with: ciliumipam migrate n --to q"),
    )


def test_a_block_that_was_adopted_without_a_pool_is_from_none(ipam: Ipam) -> None:
    ipam.apply(nodes=[Node("n")], existing=[ExistingBlock("n", parse_prefix("10.9.0.0/24"))])

    assert ipam.explain("n").lines[1] == (
        "  block 10.9.0.0/24 from pool (none): 0 of 256 addresses in use, 2 reserved, 254 available;"
        " an orphan: no pool covers it, so it takes nothing new"
    )


def test_behind_a_full_pool_that_does_not_overflow_no_other_one_is_asked(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24"), pool("10.1.0.0/24", name="q", priority=-1)], [Node("a"), Node("b")])

    assert ipam.explain("b").lines == (
        "node b",
        "  1. pool p (0 requirements, 1 IPv4 block): matches (the selector selects every node), but it has no free IPv4 /24",
        ("  2. pool q (priority -1, 0 requirements, 1 IPv4 block): matches (the selector selects every node), but pool p comes first,"
        " and it does not overflow"),
    )


def test_a_full_pool_of_both_families_lacks_both(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24", "fd00::/64")], [Node("a"), Node("b")])

    assert ipam.explain("b").lines[1].endswith("but it has no free IPv4 /24 and no free IPv6 /64")


def test_the_own_pool_that_is_full_says_what_the_node_would_still_get(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24")], [Node("a")])
    ipam.apply([pool("10.0.0.0/24", blocks_per_node=2)])

    assert ipam.explain("a").lines[2] == f"  1. pool p (0 requirements, 1 IPv4 block): {SERVES}; but it has no free IPv4 /24"


def test_a_block_that_drains_serves_until_there_is_another_one(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24", overflow=True), pool("10.1.0.0/24", name="q", priority=-1)], [Node("a"), Node("b"), Node("c")])

    ipam.drain("pool", "p")

    assert ipam.explain("a").lines == (
        "node a",
        ("  block 10.0.0.0/24 from pool p: 0 of 256 addresses in use, 2 reserved, 254 available;"
        " draining: serves until the node has another one"),
        f"  1. pool p (0 requirements, 1 IPv4 block): {SERVES}",
        "  2. pool q (priority -1, 0 requirements, 1 IPv4 block): matches (the selector selects every node), but it has no free IPv4 /24",
    )
    assert ipam.explain("c").lines[1] == "  1. pool p (0 requirements, 1 IPv4 block): refused: it is draining, so it gives no new blocks"


def test_a_node_on_its_way_from_one_pool_to_another_holds_blocks_of_both(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/22", selector=NodeSelector.parse("a"))], [Node("n", {"a": ""})])
    ipam.allocate("n", "web")
    ipam.apply([pool("10.4.0.0/24", name="q")], [Node("n")])

    ipam.drain("pool", "p")

    assert ipam.explain("n").lines == (
        "node n",
        "  block 10.0.0.0/24 from pool p: 1 of 256 addresses in use, 2 reserved, 253 available; draining: takes nothing new",
        "  block 10.4.0.0/24 from pool q: 0 of 256 addresses in use, 2 reserved, 254 available",
        ("  1. pool p (1 requirement, 4 IPv4 blocks): refused: a must be present but the node has no such label;"
        " the node still holds blocks of it"),
        f"  2. pool q (0 requirements, 1 IPv4 block): {SERVES}",
    )


def test_a_pool_of_another_address_space_is_refused_to_a_node_that_has_blocks(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24"), pool("10.0.0.0/23", name="q", address_space="x")], [Node("n")])

    ipam.drain("pool", "p")

    assert ipam.explain("n").lines[3] == (
        "  2. pool q (0 requirements, 2 IPv4 blocks): refused: it is in the address space 'x', and the node's blocks are in 'default'"
    )


@pytest.mark.parametrize(("writes", "taken"), [(3, ()), (4, ("  block 10.0.0.0/24: being taken or given back",))])
def test_where_an_apply_was_cut_short_it_says_what_the_next_one_does(store: MemoryStore, writes: int, taken: tuple[str, ...]) -> None:
    pools = [pool("10.0.0.0/24", overflow=True), pool("10.1.0.0/24", name="q", priority=-1)]
    with suppress(Crash):
        Ipam(FaultyStore(store, crash_after(writes))).apply(pools, [Node("n")])

    assert Ipam(store).explain("n").lines == (
        "node n",
        *taken,
        "  1. pool p (0 requirements, 1 IPv4 block): will serve the node: the selector selects every node",
        "  2. pool q (priority -1, 0 requirements, 1 IPv4 block): matches (the selector selects every node), and is asked when p is full",
    )
