"""The facade by examples: what it gives, what it refuses, and that a refusal writes nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from random import Random
from typing import Any, Literal

import netaddr
import pytest

from ciliumipam import (
    Allocate,
    Allocation,
    Apply,
    Demand,
    Drain,
    ExistingBlock,
    ForceRelease,
    Grow,
    HandBack,
    Ipam,
    MemoryStore,
    Migrate,
    Node,
    NodeSelector,
    PoolSpec,
    Rebalance,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    RequestAddresses,
    Shrink,
    SqliteStore,
    Store,
    Utilization,
)
from ciliumipam.audit import audit
from ciliumipam.cidr import Prefix, parse_prefix
from ciliumipam.errors import (
    AlreadyAllocatedError,
    BlockNotEmptyError,
    InvalidAddressError,
    InvalidCidrError,
    InvalidNameError,
    InvalidPoolError,
    InvalidRequestError,
    InvalidSelectorError,
    IpamError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    OutOfRangeError,
    OverlapError,
    OwnerHoldsError,
    ReservedAddressError,
    StaleFenceError,
    StalePlanError,
    StoreClosedError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ciliumipam.executor import CollectorPause
from ciliumipam.records import KINDS, Entry, Key, Kind
from ciliumipam.requests import Request, Space
from ciliumipam.store import Listing
from ciliumipam.testing.faults import Fault, FaultyStore

EVERY = NodeSelector.everything()
POOL = PoolSpec(
    name="green", cidrs=["10.0.0.0/22", "fd00::/62"], selector=NodeSelector.parse("zone=a"), reserved=["10.0.0.16/28", "10.0.1.16/28"]
)
NODES = (Node("n1", {"zone": "a"}), Node("n2", {"zone": "a"}), Node("lost", {"zone": "b"}))


def pool(*cidrs: str, name: str = "p", selector: NodeSelector = EVERY, **more: Any) -> PoolSpec:
    return PoolSpec(name=name, cidrs=cidrs, selector=selector, **more)


def dump(*stores: Store) -> list[dict[Key, Entry]]:
    """Everything in the stores, with revisions."""
    return [{key: entry for kind in KINDS for key, entry in store.scan(kind).entries} for store in stores]


def addresses(given: tuple[Allocation, ...]) -> list[str]:
    return [str(each.address) for each in given]


def blocks(ipam: Ipam) -> dict[str, list[str]]:
    return {status.node.name: [str(block.prefix) for block in status.blocks] for status in ipam.nodes()}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def stale(store: MemoryStore) -> Ipam:
    """One that read everything before there was anything: to be asked for before `ipam`."""
    stale = Ipam(store)
    stale.refresh()
    return stale


@pytest.fixture
def ipam(store: MemoryStore) -> Ipam:
    """Three nodes, two of which have a block of each family; web holds an address of each on n1."""
    ipam = Ipam(store, clock=lambda: 100.0)
    ipam.apply([POOL], NODES)
    ipam.allocate("n1", "web", label="default/web")
    return ipam


# --------------------------------------------------------------------------------------------------------- giving


def test_a_node_gets_a_block_of_every_family_of_its_pool_and_the_one_that_no_pool_selects_is_told_why(store: MemoryStore) -> None:
    ipam = Ipam(store)

    applied = ipam.apply([POOL], NODES)

    assert [str(change) for change in applied.changes if change.action == "carve"] == [
        "carve block 10.0.0.0/24: for node n1 out of pool green",
        "carve block fd00::/64: for node n1 out of pool green",
        "carve block 10.0.1.0/24: for node n2 out of pool green",
        "carve block fd00:0:0:1::/64: for node n2 out of pool green",
    ]
    assert [(each.node, str(each)) for each in applied.refusals] == [("lost", "pool green: zone in (a) but the node has b")]
    assert blocks(ipam) == {"n1": ["10.0.0.0/24", "fd00::/64"], "n2": ["10.0.1.0/24", "fd00:0:0:1::/64"], "lost": []}
    assert [status.pod_cidrs for status in ipam.nodes()] == [(), ("10.0.0.0/24", "fd00::/64"), ("10.0.1.0/24", "fd00:0:0:1::/64")]
    (status,) = ipam.pools()
    assert (status.spec, status.orphans, status.conflicting, status.concerns) == (POOL, 0, None, ())
    assert status.spaces == {4: Space(4, 2, 2, 0, 23, 0.0), 6: Space(4, 2, 2, 0, 63, 0.0)}


def test_an_allocation_says_everything_about_itself(ipam: Ipam) -> None:
    v4, v6 = ipam.allocations("n1")

    assert v4._replace(fence=0) == Allocation(
        "n1", "web", "default/web", "green", ip_network("10.0.0.0/24"), ip_address("10.0.0.1"), 4, 0, 100.0
    )
    assert v6._replace(fence=0) == Allocation("n1", "web", "default/web", "green", ip_network("fd00::/64"), ip_address("fd00::1"), 6, 0, 100.0)
    assert min(v4.fence, v6.fence) >= 1
    assert ipam.allocations() == (v4, v6)
    assert ipam.allocations("n2") == ()
    assert ipam.nodes()[1].utilization[4] == Utilization(256, 237, 1, 0, 18)


def test_several_owners_get_their_addresses_in_the_order_in_which_they_were_named(ipam: Ipam) -> None:
    given = ipam.allocate("n2", "c", "a", "b")

    assert [(each.owner, str(each.address)) for each in given] == [
        ("c", "10.0.1.1"), ("c", "fd00:0:0:1::1"), ("a", "10.0.1.2"), ("a", "fd00:0:0:1::2"), ("b", "10.0.1.3"), ("b", "fd00:0:0:1::3"),
    ]  # fmt: skip


@pytest.mark.parametrize("address", ["10.0.0.77", IPv4Address("10.0.0.77"), netaddr.IPAddress("10.0.0.77")])
def test_a_given_address_is_given_however_it_is_written(ipam: Ipam, address: object) -> None:
    (given,) = ipam.allocate("n1", "db", address=address)

    assert given.address == ip_address("10.0.0.77")


def test_one_family_can_be_asked_for_and_the_other_later(ipam: Ipam) -> None:
    first = ipam.allocate("n1", "db", family=6)

    assert addresses(first) == ["fd00::2"]
    assert addresses(ipam.allocate("n1", "db")) == ["10.0.0.2", "fd00::2"]


def test_the_same_call_again_gives_the_same_and_writes_nothing(ipam: Ipam, store: MemoryStore) -> None:
    given = ipam.allocate("n1", "a", "b", label="x")
    (db,) = ipam.allocate("n1", "db", address="10.0.0.9")

    def again() -> None:
        assert ipam.allocate("n1", "a", "b", label="another") == given
        assert ipam.allocate("n1", "b", family=6) == given[3:]
        assert ipam.allocate("n1", "db", address="10.0.0.9") == (db,)
        assert ipam.apply([POOL], NODES).changes == ()
        assert Ipam(store).apply().changes == ()
        assert ipam.release("n1", "nobody", missing_ok=True) == ()

    again()  # the first call that relies on a claim settles that nobody takes it back any more
    before = dump(store)
    again()
    assert dump(store) == before


def test_what_is_released_can_be_given_again_under_a_later_fence(ipam: Ipam) -> None:
    released = ipam.release("n1", "web")

    assert [(each.owner, str(each.address)) for each in released] == [("web", "10.0.0.1"), ("web", "fd00::1")]
    (again,) = ipam.allocate("n1", "other", address="10.0.0.1")
    assert again.fence > released[0].fence
    assert ipam.allocations() == (again,)


def test_by_default_addresses_go_round_and_lowest_takes_the_lowest(store: MemoryStore) -> None:
    given = []
    policies: tuple[Literal["next", "lowest"], ...] = ("next", "lowest")
    for policy in policies:
        ipam = Ipam(store)
        ipam.apply([pool("10.0.0.0/24", address_policy=policy)], [Node("n")])
        given += addresses(ipam.allocate("n", f"{policy}-1"))
        ipam.release("n", f"{policy}-1")
        given += addresses(ipam.allocate("n", f"{policy}-2"))
    assert given == ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"]


@pytest.mark.parametrize(
    ("cidr", "length", "capacity", "first", "last"),
    [
        ("10.0.0.7/32", None, 1, "10.0.0.7", "10.0.0.7"),
        ("10.0.0.6/31", None, 2, "10.0.0.6", "10.0.0.7"),
        ("10.0.0.0/16", 20, 4096, "10.0.0.1", "10.0.15.254"),
        ("fd00::/64", None, 1 << 64, "fd00::1", "fd00::ffff:ffff:ffff:fffe"),
        ("fd00::/20", 24, 1 << 104, "fd00::1", "fd00:ff:ffff:ffff:ffff:ffff:ffff:fffe"),
        ("fd00::7/128", None, 1, "fd00::7", "fd00::7"),
    ],
)
def test_blocks_of_every_size_give_their_first_and_their_last_address(
    store: MemoryStore, cidr: str, length: int | None, capacity: int, first: str, last: str
) -> None:
    ipam = Ipam(store)
    family = ip_network(cidr).version
    lengths: dict[str, Any] = {f"block_length_v{family}": length}
    ipam.apply([pool(cidr, **lengths)], [Node("n")])

    assert addresses(ipam.allocate("n", "a")) == [first]
    if last != first:
        assert addresses(ipam.allocate("n", "z", address=last)) == [last]
        with pytest.raises(AlreadyAllocatedError):
            ipam.allocate("n", "y", address=last)
    assert ipam.nodes()[0].utilization[family].capacity == capacity
    assert ipam.nodes()[0].utilization[family].in_use == len(ipam.allocations())
    assert Ipam(store).allocations() == ipam.allocations()
    ipam.check_invariants()


def test_a_block_of_many_pages_fills_page_after_page(store: MemoryStore) -> None:
    ipam = Ipam(store)
    ipam.apply([pool("10.0.0.0/20", block_length_v4=20, reserved=["10.0.0.2-10.0.1.253"])], [Node("n")])

    given = addresses(ipam.allocate("n", *(f"o{number}" for number in range(5))))

    assert given == ["10.0.0.1", "10.0.1.254", "10.0.1.255", "10.0.2.0", "10.0.2.1"]
    assert audit(store).findings == ()


# -------------------------------------------------------------------------------------------------------- keeping


def test_a_node_keeps_its_block_when_its_labels_or_its_pool_change(ipam: Ipam) -> None:
    before = [block[:7] for block in ipam.blocks()]  # all but the counts
    ipam.apply([pool("10.9.0.0/16", name="blue", selector=NodeSelector.parse("zone=c"))])

    ipam.apply(nodes=[Node("n1", {"zone": "c"})])
    ipam.apply([pool("10.0.0.0/22", "fd00::/62", name="green", selector=NodeSelector.parse("zone=a,more"), block_length_v4=26)])

    assert [block[:7] for block in ipam.blocks()] == before
    assert "serves the node, which keeps its blocks although its labels changed" in str(ipam.explain("n1"))


def test_orphans_keep_their_addresses_and_take_nothing_new(ipam: Ipam, store: MemoryStore) -> None:
    ipam.remove_pool("green")

    assert {block.orphan for block in ipam.blocks()} == {True}
    assert [str(each.address) for each in ipam.allocations()] == ["10.0.0.1", "fd00::1"]
    assert addresses(ipam.allocate("n1", "web")) == ["10.0.0.1", "fd00::1"]
    before = dump(store)
    wants: tuple[dict[str, Any], ...] = ({}, {"address": "10.0.0.9"}, {"family": 6})
    for wanted in wants:
        with pytest.raises(NoBlockError, match="is an orphan: pool 'green' is gone or no longer covers it, so it takes nothing new"):
            ipam.allocate("n1", "db", **wanted)
    assert dump(store) == before
    assert len(ipam.release("n1", "web")) == 2
    ipam.apply([POOL])
    assert {block.orphan for block in ipam.blocks()} == {False}
    assert len(ipam.allocate("n1", "db")) == 2


def test_what_is_reserved_later_stays_held_and_is_not_given_again(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/22", "fd00::/62", name="green", reserved=["10.0.0.0/29"])])

    assert addresses(ipam.allocate("n1", "web")) == ["10.0.0.1", "fd00::1"]
    assert ipam.nodes()[1].utilization[4] == Utilization(256, 256 - 9, 1, 0, 8)
    ipam.release("n1", "web")
    with pytest.raises(ReservedAddressError):
        ipam.allocate("n1", "web", address="10.0.0.1")
    assert addresses(ipam.allocate("n1", "web", family=4)) == ["10.0.0.8"]


def test_a_removed_node_gives_its_blocks_to_the_next_one(ipam: Ipam) -> None:
    with pytest.raises(BlockNotEmptyError) as refused:
        ipam.remove_node("n1")
    assert (refused.value.block, refused.value.in_use, refused.value.holders) == ("10.0.0.0/24", 1, ("10.0.0.1 default/web",))
    fences = [block.fence for block in ipam.blocks() if block.node == "n1"]

    applied = ipam.remove_node("n1", force=True)

    assert [str(change) for change in applied.changes] == [
        "give back block 10.0.0.0/24: from node n1 to pool green",
        "give back block fd00::/64: from node n1 to pool green",
        "release address 10.0.0.1: on n1 from web, by force",
        "release address fd00::1: on n1 from web, by force",
        "remove node n1: with --force",
    ]
    ipam.apply(nodes=[Node("n3", {"zone": "a"})])
    assert blocks(ipam)["n3"] == ["10.0.0.0/24", "fd00::/64"]
    assert all(new.fence > old for new, old in zip((b for b in ipam.blocks() if b.node == "n3"), fences, strict=True))
    assert ipam.allocations() == ()


def test_a_full_pool_refuses_and_serves_as_soon_as_there_is_room(store: MemoryStore) -> None:
    ipam = Ipam(store)

    applied = ipam.apply([pool("10.0.0.0/25", "fd00::/64", block_length_v4=26)], [Node("a"), Node("b")])

    assert [str(each) for each in applied.refusals] == [
        (
            "pool p (IPv6): pool 'p' has no free IPv6 /64: nothing is free;"
            " add a CIDR to the pool, use a longer block length, or take blocks back from nodes that are gone"
        )
    ]
    assert blocks(ipam) == {"a": ["10.0.0.0/26", "fd00::/64"], "b": []}  # not only half of what it should have
    ipam.apply([pool("10.0.0.0/25", "fd00::/63", block_length_v4=26)])
    assert blocks(ipam)["b"] == ["10.0.0.64/26", "fd00:0:0:1::/64"]


# ------------------------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"cidrs": ["10.0.0.300/24"]}, "cidrs[0]: '10.0.0.300/24' is not a usable CIDR"),
        ({"cidrs": ["10.0.0.1/24"]}, "did you mean 10.0.0.0/24?"),
        ({"cidrs": ["0.0.0.0/0"]}, "cidrs[0]: 0.0.0.0/0 is a whole address family"),
        ({"cidrs": []}, "cidrs: the pool has no CIDR"),
        ({"cidrs": [""]}, "it is empty"),
        ({"cidrs": "10.0.0.0/24"}, "cidrs: expected a list of CIDRs"),
        ({"cidrs": ["10.0.0.0/16", "10.0.3.0/24"]}, "10.0.3.0/24 lies inside 10.0.0.0/16"),
        ({"cidrs": ["10.0.0.0/16", "10.0.0.0/16"]}, "10.0.0.0/16 is given twice"),
        ({"cidrs": ["10.0.0.0/16"], "block_length_v4": 8}, "block_length_v4: a /8 is larger than the CIDR 10.0.0.0/16"),
        ({"cidrs": ["10.0.0.0/16"], "block_length_v4": 33}, "block_length_v4: the number 33 is not a prefix length of IPv4"),
        ({"cidrs": ["10.0.0.0/16"], "block_length_v6": 64}, "block_length_v6: /64 is given, but the pool has no IPv6 CIDR"),
        ({"cidrs": ["10.0.0.0/16"], "block_length_v4": "24"}, "block_length_v4: expected a whole number"),
        ({"cidrs": ["10.0.0.0/16"], "reserved": ["10.1.0.0/24"]}, "reserved[0]: 10.1.0.0/24 is not inside the pool's CIDRs"),
        ({"cidrs": ["10.0.0.0/16"], "reserved": ["10.0.0.9-10.0.0.1"]}, "is the wrong way round"),
        ({"cidrs": ["10.0.0.0/16"], "reserved": ["fd00::1"]}, "reserved[0]: fd00::1 is not inside the pool's CIDRs"),
        ({"cidrs": ["10.0.0.0/16"], "selector": NodeSelector.nothing()}, "selector: it selects nothing"),
        ({"cidrs": ["10.0.0.0/16"], "selector": "a=b"}, "selector: expected a NodeSelector"),
        ({"cidrs": ["10.0.0.0/16"], "name": "Green_1"}, "name: 'Green_1' is not a valid pool name"),
        ({"cidrs": ["10.0.0.0/16"], "allow_first": "yes"}, "allow_first: expected true or false"),
    ],
)
def test_a_pool_that_cannot_work_never_reaches_the_store(ipam: Ipam, store: MemoryStore, given: Any, problem: str) -> None:
    before = dump(store)

    with pytest.raises(InvalidPoolError) as refused:
        ipam.apply([PoolSpec(**{"name": "bad", "selector": EVERY, **given})])

    assert problem in str(refused.value)
    assert dump(store) == before


REFUSED: list[tuple[str, Callable[[Ipam], object], type[IpamError], str]] = [
    ("selector", lambda _: NodeSelector.parse("zone in (a"), InvalidSelectorError, "zone in (a"),
    ("operator", lambda _: NodeSelector.from_label_selector({"matchExpressions": [{"key": "a", "operator": "Near"}]}), InvalidSelectorError, "'Near' is not one of"),
    ("node name", lambda ipam: ipam.apply(nodes=[Node("Node_1")]), InvalidNameError, "'Node_1' is not a valid node name"),
    ("label", lambda ipam: ipam.apply(nodes=[Node("n9", {"zone": "a b"})]), InvalidNameError, "'a b' is not a valid label value"),
    ("overlap", lambda ipam: ipam.apply([pool("10.0.2.0/24", name="red")]), OverlapError, "pool 'red' (10.0.2.0/24) overlaps pool 'green' (10.0.0.0/22)"),
    ("overlap of two", lambda ipam: ipam.apply([pool("10.8.0.0/24"), pool("10.8.0.0/16", name="q")]), OverlapError, "must be disjoint"),
    ("pool twice", lambda ipam: ipam.apply([POOL, POOL]), InvalidRequestError, "pool 'green' is given twice"),
    ("node twice", lambda ipam: ipam.apply(nodes=[*NODES, NODES[0]]), InvalidRequestError, "node 'n1' is given twice"),
    ("unknown node", lambda ipam: ipam.allocate("n7", "a"), NotFoundError, "no node 'n7'"),
    ("bad node", lambda ipam: ipam.allocate("N 7", "a"), InvalidNameError, "'N 7' is not a valid node name"),
    ("no owner", lambda ipam: ipam.allocate("n1"), InvalidRequestError, "at least one owner is needed"),
    ("owner twice", lambda ipam: ipam.allocate("n1", "a", "a"), InvalidRequestError, "owner 'a' is given twice"),
    ("empty owner", lambda ipam: ipam.allocate("n1", ""), InvalidNameError, "it has 0 characters"),
    ("owner", lambda ipam: ipam.allocate("n1", "a\nb"), InvalidNameError, "white space"),
    ("owner type", lambda ipam: ipam.allocate("n1", 7), InvalidNameError, "an owner id is text"),  # type: ignore[arg-type]  # on purpose
    ("long owner", lambda ipam: ipam.release("n1", "a" * 254), InvalidNameError, "it has 254 characters"),
    ("allocation label", lambda ipam: ipam.allocate("n1", "a", label="a\tb"), InvalidNameError, "white space"),
    ("family", lambda ipam: ipam.allocate("n1", "a", family=5), InvalidRequestError, "no IP family 5"),  # type: ignore[arg-type]  # on purpose
    ("two families", lambda ipam: ipam.allocate("n1", "a", address="10.0.0.9", family=6), InvalidRequestError, "10.0.0.9 is not an IPv6 address"),
    ("one address for two", lambda ipam: ipam.allocate("n1", "a", "b", address="10.0.0.9"), InvalidRequestError, "10.0.0.9 can be given to one owner, not to 2"),
    ("address", lambda ipam: ipam.allocate("n1", "a", address="10.0.0.256"), InvalidAddressError, "'10.0.0.256' is not an IP address"),
    ("prefix", lambda ipam: ipam.allocate("n1", "a", address="10.0.0.9/32"), InvalidAddressError, "a single address is wanted"),
    ("address type", lambda ipam: ipam.allocate("n1", "a", address=10), InvalidAddressError, "expected text or an address, got int"),
    ("zone", lambda ipam: ipam.allocate("n1", "a", address="fd00::9%eth0"), InvalidAddressError, "zone"),
    ("no block", lambda ipam: ipam.allocate("lost", "a"), NoBlockError, "node 'lost' has no block: pool green: zone in (a) but the node has b"),
    ("outside", lambda ipam: ipam.allocate("n1", "a", address="10.0.1.9"), OutOfRangeError, "10.0.1.9 is not in the blocks of node 'n1'; valid: 10.0.0.0/24"),
    ("first", lambda ipam: ipam.allocate("n1", "a", address="10.0.0.0"), ReservedAddressError, "10.0.0.0 is never handed out"),
    ("last", lambda ipam: ipam.allocate("n1", "a", address="10.0.0.255"), ReservedAddressError, "10.0.0.255 is never handed out"),
    ("reserved", lambda ipam: ipam.allocate("n1", "a", address="10.0.0.20"), ReservedAddressError, "it is reserved in block 10.0.0.0/24"),
    ("held", lambda ipam: ipam.allocate("n1", "a", address="10.0.0.1"), AlreadyAllocatedError, "10.0.0.1 is held by owner 'web' (default/web)"),
    ("holds another", lambda ipam: ipam.allocate("n1", "web", address="10.0.0.2"), OwnerHoldsError, "owner 'web' already holds 10.0.0.1"),
    ("release of nothing", lambda ipam: ipam.release("n1", "a"), NotFoundError, "'a'"),
    ("release of one too many", lambda ipam: ipam.release("n1", "web", "a"), NotFoundError, "'a'"),
    ("release elsewhere", lambda ipam: ipam.release("n2", "web"), NotFoundError, "'web'"),
    ("release on no node", lambda ipam: ipam.release("n7", "web"), NotFoundError, "no node 'n7'"),
    ("stale fence", lambda ipam: ipam.release_fenced("10.0.0.1", 10**6), StaleFenceError, "fence 1000000 is not the fence of a present holding"),
    ("fence of nothing", lambda ipam: ipam.release_fenced("10.9.0.1", 1), NotHeldError, "it is in no block that a node holds in the address space 'default'"),
    ("force of nothing", lambda ipam: ipam.force_release("10.0.0.2"), NotHeldError, "nobody holds it"),
    ("force of no address", lambda ipam: ipam.force_release("10.0.0.0/24"), InvalidAddressError, "a single address is wanted"),
    ("remove no node", lambda ipam: ipam.remove_node("n7", force=True), NotFoundError, "no node 'n7'; known: lost, n1, n2"),
    ("remove what is used", lambda ipam: ipam.remove_node("n1"), BlockNotEmptyError, "block 10.0.0.0/24 of node 'n1' has 1 address in use (10.0.0.1 default/web)"),
    ("remove no pool", lambda ipam: ipam.remove_pool("red"), NotFoundError, "no pool 'red'; known: green"),
    ("explain no node", lambda ipam: ipam.explain("n7"), NotFoundError, "no node 'n7'"),
    ("list no node", lambda ipam: ipam.allocations("n7"), NotFoundError, "no node 'n7'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "phrase"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
@pytest.mark.parametrize("old", [False, True], ids=["", "old view"])
def test_a_refused_call_says_why_and_writes_nothing(
    store: MemoryStore, stale: Ipam, ipam: Ipam, old: bool, call: Callable[[Ipam], object], kind: type[IpamError], phrase: str
) -> None:
    before = dump(store)

    with pytest.raises(kind) as refused:
        call(stale if old else ipam)

    assert phrase in str(refused.value)
    assert dump(store) == before
    ipam.check_invariants()


def test_an_exhausted_node_says_what_was_looked_at_and_nobody_gets_a_part(store: MemoryStore) -> None:
    ipam = Ipam(store)
    ipam.apply([pool("10.0.0.0/24", "fd00::/64", block_length_v4=29, reserved=["10.0.0.6"])], [Node("n")])
    ipam.allocate("n", "a", "b")
    before = dump(store)

    with pytest.raises(NodeExhaustedError) as refused:
        ipam.allocate("n", "c", "d", "e", "f")

    error = refused.value
    assert (error.node, error.family, error.blocks) == ("n", 4, ("10.0.0.0/29",))
    assert (error.capacity, error.in_use, error.reserved, error.wanted) == (8, 2, 3, 4)
    assert "node 'n' has 3 free IPv4 addresses, 4 wanted: looked at 10.0.0.0/29: 8 addresses, 2 in use, 3 reserved" in str(error)
    assert dump(store) == before
    assert addresses(ipam.allocate("n", "c", "d", "e", family=4)) == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]


def test_where_one_family_is_exhausted_the_other_is_not_taken(store: MemoryStore) -> None:
    ipam = Ipam(store)
    ipam.apply([pool("10.0.0.0/24", "fd00::/127")], [Node("n")])
    ipam.allocate("n", "a", "b")
    before = dump(store)

    with pytest.raises(NodeExhaustedError) as refused:
        ipam.allocate("n", "c")

    assert refused.value.family == 6
    assert dump(store) == before
    assert len(ipam.allocate("n", "c", family=4)) == 1


def test_a_late_release_of_an_earlier_holding_hits_nobody(ipam: Ipam, store: MemoryStore) -> None:
    (old, *_) = ipam.release("n1", "web")
    (new,) = ipam.allocate("n1", "db", address=old.address)
    before = dump(store)

    with pytest.raises(StaleFenceError) as refused:
        ipam.release_fenced(old.address, old.fence)

    assert (refused.value.named, refused.value.found) == (old.fence, new.fence)
    assert dump(store) == before
    assert ipam.release_fenced("10.0.0.1", new.fence) == new
    with pytest.raises(StaleFenceError):
        ipam.release_fenced("10.0.0.1", new.fence)


@pytest.mark.parametrize("length", [24, 25, 28])
def test_a_late_release_hits_nobody_even_where_the_space_was_carved_anew(store: MemoryStore, length: int) -> None:
    ipam = Ipam(store)
    ipam.apply([pool("10.0.0.0/22", block_length_v4=26)], [Node("n")])
    (old,) = ipam.allocate("n", "old", address="10.0.0.7")
    ipam.remove_node("n", force=True)
    ipam.apply([pool("10.0.0.0/22", block_length_v4=length)], [Node("m")])
    (new,) = ipam.allocate("m", "new", address="10.0.0.7")

    with pytest.raises(StaleFenceError):
        ipam.release_fenced("10.0.0.7", old.fence)

    assert ipam.allocations() == (new,)


def test_a_forced_release_takes_it_from_whoever_holds_it(ipam: Ipam) -> None:
    lost = ipam.force_release(IPv6Address("fd00::1"))

    assert (lost.owner, str(lost.address)) == ("web", "fd00::1")
    assert addresses(ipam.allocations()) == ["10.0.0.1"]


@pytest.mark.parametrize("make", [lambda path: SqliteStore(path, read_only=True), lambda path: _closed(SqliteStore(path))], ids=["read-only", "closed"])
def test_a_store_that_takes_no_writes_is_an_error_of_the_store_and_nothing_is_written(tmp_path: Path, make: Callable[[Path], Store]) -> None:
    path = tmp_path / "ipam.db"
    first = SqliteStore(path)
    Ipam(first).apply([POOL], NODES)
    before = dump(first)

    with pytest.raises((StoreRefusedError, StoreClosedError)):
        Ipam(make(path)).allocate("n1", "a")

    assert dump(first) == before


def _closed(store: Store) -> Store:
    store.close()
    return store


def test_a_reply_that_was_lost_is_found_out_and_a_refusal_of_the_store_is_passed_on(store: MemoryStore) -> None:
    faulty = FaultyStore(store)
    ipam = Ipam(faulty)
    ipam.apply([POOL], NODES)

    faulty.play([Fault.LOST, Fault.VANISHED, Fault.NONE, Fault.LOST, Fault.CONFLICT])
    given = ipam.allocate("n1", "a", "b")
    assert addresses(given)[:2] == ["10.0.0.1", "fd00::1"]
    assert faulty.fired == [Fault.LOST, Fault.VANISHED, Fault.LOST, Fault.CONFLICT]

    faulty.play([Fault.REFUSED])
    with pytest.raises(StoreUnavailableError):
        ipam.allocate("n1", "c")
    faulty.play((), [Fault.REFUSED])
    with pytest.raises(StoreUnavailableError):
        ipam.refresh()
    assert Ipam(store).allocations() == ipam.allocations()
    assert len(ipam.allocations()) == 4


# ---------------------------------------------------------------------------------------------------------- plans

REQUESTS: list[Request] = [
    Apply((pool("10.9.0.0/16", name="blue"),), (Node("n4", {"zone": "a"}), Node("n5"))),
    Apply((), (Node("n1", {"zone": "b"}),)),
    Allocate("n1", ("a", "b"), label="x"),
    Allocate("n1", ("a",), address=IPv4Address("10.0.0.9")),
    Release("n1", ("web",)),
    ReleaseFenced(IPv4Address("10.0.0.1"), 0),
    ForceRelease(IPv6Address("fd00::1")),
    RemoveNode("n2"),
    RemoveNode("n1", force=True),
    RemovePool("green"),
    Apply(existing=(ExistingBlock("n1", Prefix(4, int(IPv4Address("10.0.3.0")), 24)), ExistingBlock("n2", Prefix(4, int(IPv4Address("10.0.3.0")), 25)))),
    Grow("n1", 2),
    Drain("pool", "green"),
    Drain("node", "n2"),
    Drain("block", "10.0.1.0/24"),
    Migrate("n2", "other"),
    Shrink("green", (Prefix(4, int(IPv4Address("10.0.0.0")), 24),)),
    RequestAddresses("n1", (Demand("", 4, 300), Demand("green", 6, 7))),
    HandBack("n2", Prefix(4, int(IPv4Address("10.0.2.0")), 24)),
]


OTHER = pool("10.7.0.0/22", "fd07::/62", name="other", priority=-1)
"""A pool for every node that no other one serves."""


def seen(ipam: Ipam) -> tuple[object, ...]:
    return ipam.pools(), ipam.nodes(), ipam.blocks(), ipam.allocations()


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: f"{type(each).__name__} {REQUESTS.index(each)}")
def test_a_plan_writes_nothing_and_executing_it_does_what_the_call_does(  # noqa: PLR0915 - one case for each kind of request
    ipam: Ipam, store: MemoryStore, request_: Request
) -> None:
    if isinstance(request_, ReleaseFenced):
        request_ = ReleaseFenced(request_.address, ipam.allocations()[0].fence)
    twin_store = MemoryStore()
    twin = Ipam(twin_store, clock=lambda: 100.0)
    twin.apply([POOL], NODES)
    twin.allocate("n1", "web", label="default/web")
    if isinstance(request_, Drain | Migrate):
        ipam.apply([OTHER])
        twin.apply([OTHER])
    if isinstance(request_, HandBack):
        ipam.grow("n2", 2)
        twin.grow("n2", 2)
    before, known = dump(store), seen(ipam)

    plan = ipam.plan(request_)

    assert dump(store) == before
    assert seen(ipam) == known
    ipam.check_invariants()
    assert plan.changes
    assert ipam.plan(request_).changes == plan.changes
    result = ipam.execute(plan)
    assert result == plan.result
    match request_:
        case Apply(pools, nodes, existing):
            assert twin.apply(pools, nodes, existing) == plan.outcome
        case Grow(name, count):
            assert twin.grow(name, count) == plan.outcome
        case RequestAddresses(name, demand):
            assert twin.request(name, demand) == plan.outcome
        case HandBack(name, block, fence):
            assert twin.hand_back(name, str(block), fence=fence) == plan.outcome
        case Drain(kind, name):
            assert twin.drain(kind, name) == plan.outcome
        case Migrate(name, to):
            assert twin.migrate(name, to) == plan.outcome
        case Shrink(name, cidrs):
            assert twin.shrink(name, *cidrs) == plan.outcome
        case Rebalance(name, length, family):
            assert twin.rebalance(name, length, family=family) == plan.outcome
        case Allocate():
            assert twin.allocate("n1", *request_.owners, address=request_.address, label=request_.label) == result
        case Release():
            assert twin.release("n1", "web") == result
        case ReleaseFenced(address, fence):
            assert (twin.release_fenced(address, fence),) == result
        case ForceRelease(address):
            assert (twin.force_release(address),) == result
        case RemoveNode(name, force):
            assert twin.remove_node(name, force=force).changes == plan.changes
        case RemovePool(name):
            assert twin.remove_pool(name).changes == plan.changes
    assert seen(ipam) == seen(twin) == seen(Ipam(store))
    assert audit(store).findings == audit(twin_store).findings
    with pytest.raises(StalePlanError):
        ipam.execute(plan)
    ipam.check_invariants()


def test_a_plan_says_what_it_would_do_a_line_each(ipam: Ipam) -> None:
    plan = ipam.plan(Apply((), (Node("n3", {"zone": "a"}),)))

    assert [str(change) for change in plan.changes] == [
        "add node n3: zone=a",
        "carve block 10.0.2.0/24: for node n3 out of pool green",
        "carve block fd00:0:0:2::/64: for node n3 out of pool green",
    ]
    assert [str(change) for change in ipam.plan(Allocate("n1", ("a",), family=4)).changes] == ["allocate address 10.0.0.2: on n1 to a"]
    assert [str(change) for change in ipam.plan(Release("n1", ("web",))).changes] == [
        "release address 10.0.0.1: on n1 from web", "release address fd00::1: on n1 from web",
    ]  # fmt: skip
    assert ipam.plan(Apply()).changes == ()
    assert ipam.execute(ipam.plan(Apply())) == ()


def test_a_plan_that_cannot_be_made_raises_what_the_call_would_raise(ipam: Ipam, store: MemoryStore) -> None:
    before = dump(store)

    for request, kind in (
        (Allocate("n7", ("a",)), NotFoundError),
        (Allocate("n1", ("a",), address=IPv4Address("10.0.0.1")), AlreadyAllocatedError),
        (Release("n1", ("a",)), NotFoundError),
        (RemoveNode("n1"), BlockNotEmptyError),
        (Apply((pool("10.0.0.0/8"),)), OverlapError),
    ):
        with pytest.raises(kind):
            ipam.plan(request)

    assert dump(store) == before
    ipam.check_invariants()


def test_a_release_over_an_old_view_ends_what_its_owner_got_since_where_another_owner_was(store: MemoryStore) -> None:
    first, old = Ipam(store), Ipam(store)
    first.apply([pool("10.0.0.0/24")], [Node("n1")])
    old.allocate("n1", "a", address="10.0.0.5")
    first.release("n1", "a")
    first.allocate("n1", "b", address="10.0.0.5")

    assert [(each.owner, str(each.address)) for each in old.release("n1", "b")] == [("b", "10.0.0.5")]
    assert Ipam(store).allocations() == ()


def test_a_plan_is_refused_when_something_that_it_replaces_has_changed(ipam: Ipam, store: MemoryStore) -> None:
    plan = ipam.plan(Allocate("n1", ("a",)))
    Ipam(store).allocate("n1", "b", address="10.0.0.77")
    before = dump(store)

    with pytest.raises(StalePlanError) as refused:
        ipam.execute(plan)

    assert "address-page 10.0.0.0/24 changed" in refused.value.changed
    assert refused.value.written == 0
    assert dump(store) == before
    assert addresses(ipam.allocate("n1", "a")) == ["10.0.0.78", "fd00::2"]


def test_a_plan_that_becomes_stale_while_it_is_written_leaves_a_legal_state(store: MemoryStore) -> None:
    faulty = FaultyStore(store)
    ipam = Ipam(faulty)
    ipam.apply([POOL], NODES)
    plan = ipam.plan(Allocate("n1", ("a", "b")))
    faulty.play([Fault.NONE, Fault.CONFLICT])

    with pytest.raises(StalePlanError) as refused:
        ipam.execute(plan)

    assert refused.value.written == 1
    assert {finding.severity for finding in audit(store).findings if finding.where != "node lost"} == {"unfinished"}
    assert len(ipam.allocate("n1", "a", "b")) == 4
    assert [finding.where for finding in audit(store).findings] == ["node lost"]


# --------------------------------------------------------------------------------------------------------- explaining


def test_explain_says_pool_by_pool_why_a_node_was_served_or_refused(ipam: Ipam) -> None:
    ipam.apply([pool("10.9.0.0/24", name="blue", selector=NodeSelector.parse("zone")), pool("10.8.0.0/24", name="black")], [Node("n4", {"zone": "a"})])
    ipam.apply(nodes=[Node("n5")])

    assert str(ipam.explain("n1")).splitlines() == [
        "node n1",
        "  block 10.0.0.0/24 from pool green: 1 of 256 addresses in use, 18 reserved, 237 available",
        f"  block fd00::/64 from pool green: 1 of {1 << 64} addresses in use, 2 reserved, {(1 << 64) - 3} available",
        "  1. pool blue (1 requirement, 1 IPv4 block): matches (the node meets 'zone'), but the node keeps pool green, where its blocks came from",
        "  2. pool green (1 requirement, 4 IPv4 blocks, 4 IPv6 blocks): serves the node: the node meets 'zone=a'",
        "  3. pool black (0 requirements, 1 IPv4 block): matches (the selector selects every node), but the node keeps pool green, where its blocks came from",
    ]
    lines = str(ipam.explain("n5")).splitlines()
    assert lines[1].startswith("  block 10.8.0.0/24 from pool black:")
    assert lines[2].startswith("  1. pool blue (1 requirement, 1 IPv4 block): refused: zone must be present but the node has no such label")
    assert str(ipam.explain("lost")).splitlines()[1].startswith("  block 10.9.0.0/24") or "pool blue" in str(ipam.explain("lost"))


def test_explain_says_that_the_pool_is_full(store: MemoryStore) -> None:
    ipam = Ipam(store)
    ipam.apply([pool("10.0.0.0/24")], [Node("a"), Node("b")])

    assert ipam.explain("b").lines == (
        "node b",
        "  1. pool p (0 requirements, 1 IPv4 block): matches (the selector selects every node), but it has no free IPv4 /24",
    )


# ------------------------------------------------------------------------------------------------- stores and threads


def test_blocks_and_addresses_can_live_in_two_stores(tmp_path: Path) -> None:
    cluster, local = MemoryStore(), SqliteStore(tmp_path / "node.db")
    ipam = Ipam(cluster, local)
    ipam.apply([POOL], NODES)
    given = ipam.allocate("n1", "a", "b")
    ipam.release("n1", "a")

    kinds = [{key.kind for key in found} for found in dump(cluster, local)]
    assert kinds == [{"pool", "node", "block-page", "block-claims"}, {"address-page", "address-claims"}]
    again = Ipam(cluster, local)
    assert again.allocations() == given[2:]
    assert again.nodes() == ipam.nodes()
    with pytest.raises(BlockNotEmptyError):
        again.remove_node("n1")
    again.release("n1", "b")
    again.remove_node("n1")
    again.remove_node("lost")
    assert audit(cluster, local).findings == ()


@pytest.mark.parametrize("count", [1, 3], ids=["one object", "three objects"])
def test_threads_never_get_what_another_one_holds_and_the_counts_stay_exact(store: MemoryStore, count: int) -> None:
    ipams = [Ipam(store) for _ in range(count)]
    ipams[0].apply([pool("10.0.0.0/25", "fd00::/62", block_length_v4=26)], [Node("n0"), Node("n1")])
    threads, rounds = 6, 30

    def work(number: int) -> list[tuple[str, str]]:
        random = Random(number)
        ipam = ipams[number % count]
        mine: list[tuple[str, str]] = []
        for step in range(rounds):
            if len(mine) > 6:
                node, owner = mine.pop(random.randrange(len(mine)))
                assert {each.owner for each in ipam.release(node, owner)} == {owner}
            else:
                pod = (f"n{random.randrange(2)}", f"o{number}-{step}")
                assert len(ipam.allocate(*pod)) == 2
                mine.append(pod)
        return mine

    with ThreadPoolExecutor(threads) as executor:
        left = [pod for mine in executor.map(work, range(threads)) for pod in mine]

    fresh = Ipam(store)
    held = fresh.allocations()
    assert sorted((each.node, each.owner) for each in held) == sorted(left * 2)
    assert len({each.address for each in held}) == len(held)
    assert sum(status.utilization[4].in_use for status in fresh.nodes()) == len(left)
    assert audit(store).findings == ()
    for ipam in (*ipams, fresh):
        ipam.check_invariants()


def test_a_call_that_starts_while_another_one_is_being_named_gets_a_name_of_its_own(store: MemoryStore) -> None:
    # It was a generator that named the calls: two threads in it at once were "ValueError: generator already executing".
    class Interrupted(str):
        """A name that another call asks for while it is being written."""

        __slots__ = ()

        def __format__(self, form: str) -> str:
            if len(names) < 2:
                names.append(1)
                ipam.plan(Apply((POOL,)))
            return super().__format__(form)

    names: list[int] = []
    ipam = Ipam(store, identity=Interrupted("me"))

    ipam.apply([POOL], NODES)

    assert len(names) == 2
    assert len(ipam.blocks()) == 4


def test_the_library_can_be_closed_and_used_as_a_context(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ipam.db")

    with Ipam(store) as ipam:
        ipam.apply([POOL], NODES)

    with pytest.raises(StoreClosedError):
        store.scan("pool")


def test_invalid_cidrs_are_told_wherever_one_is_parsed() -> None:
    with pytest.raises(InvalidCidrError, match=r"it has no length; write 10\.0\.0\.1/32"):
        parse_prefix("10.0.0.1")


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.VANISHED, Fault.LOST, Fault.CONFLICT], ids=lambda fault: fault.value)
@pytest.mark.parametrize("writes", [3, 4, 5])
def test_blocks_chosen_for_writes_that_failed_are_free_again(fault: Fault, writes: int) -> None:
    store = FaultyStore(MemoryStore())
    ipam = Ipam(store)
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/22", "fd00::/62"], selector=NodeSelector.everything(), group_by="rack", carving="grouped")
    ipam.apply([pool])
    store.play([*[Fault.NONE] * writes, fault])

    with suppress(StoreUnavailableError):
        ipam.apply(nodes=[Node(f"n{number}", {"rack": str(number)}) for number in range(3)])

    assert store.fired == [fault]
    ipam.check_invariants()
    ipam.apply()
    ipam.check_invariants()
    assert [len(status.blocks) for status in ipam.nodes()] == [2, 2, 2]


# ------------------------------------------------------------------------------------------- the garbage collector


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_much_is_built_and_is_then_as_it_was(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    scan = MemoryStore.scan

    def noting(self: MemoryStore, kind: Kind) -> Listing:
        seen.append(gc.isenabled())
        return scan(self, kind)

    monkeypatch.setattr(MemoryStore, "scan", noting)
    gc.enable() if enabled else gc.disable()
    try:
        ipam = Ipam(MemoryStore())
        with CollectorPause(), CollectorPause():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
        with pytest.raises(OverlapError):
            ipam.apply([PoolSpec(name=name, cidrs=["10.0.0.0/16"], selector=NodeSelector.everything()) for name in ("p", "q")])
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
    assert seen
    assert not any(seen)
