"""What a node asks for and hands back: Cilium's arithmetic, the hysteresis, and who gets a further block first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciliumipam import Demand, HandBack, Ipam, MemoryStore, Node, NodeSelector, PoolSpec, RequestAddresses, Store
from ciliumipam.cidr import Prefix
from ciliumipam.codec import Codec
from ciliumipam.demand import BlockUse, Decision, DemandWatch, Watermark, decide, needed, normalize
from ciliumipam.errors import (
    BlockNeededError,
    BlockNotEmptyError,
    CorruptRecordError,
    InvalidRequestError,
    NotFoundError,
    NotHeldError,
    StaleFenceError,
)
from ciliumipam.journal.lines import read_request, request_to_document
from ciliumipam.records import Key, NodeRecord
from ciliumipam.requests import Request
from ciliumipam.testing.crashing import crash_everywhere


def pool(*cidrs: str, **others: Any) -> PoolSpec:
    return PoolSpec(**{"name": "pods", "cidrs": cidrs or ["10.0.0.0/22"], "selector": NodeSelector.everything(), **others})


def world(*names: str, **others: Any) -> Ipam:
    ipam = Ipam(MemoryStore(), clock=lambda: 100.0)
    ipam.apply([pool(**others)], [Node(name) for name in names or ("a",)])
    return ipam


def v4(*addresses: int) -> list[Demand]:
    return [Demand("", 4, count) for count in addresses]


def blocks(ipam: Ipam, node: str) -> list[str]:
    return [str(block.prefix) for block in ipam.blocks() if block.node == node]


# ------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("count", "spare", "asked"),
    [(0, 0, 0), (5, 0, 5), (0, 8, 8), (1, 8, 16), (7, 8, 16), (8, 8, 16), (9, 8, 24), (15, 8, 24), (16, 8, 24), (17, 8, 32), (0, 1, 1), (3, 1, 4)],
)
def test_a_node_asks_for_the_next_multiple_and_one_spare_more(count: int, spare: int, asked: int) -> None:
    assert needed(count, spare) == asked


@given(st.integers(0, 5000), st.integers(1, 300))
def test_what_is_asked_for_leaves_the_spare_and_less_than_twice_of_it(count: int, spare: int) -> None:
    assert spare <= needed(count, spare) - count < 2 * spare
    assert needed(count, spare) % spare == 0


def use(place: int, in_use: int = 0, *, idle: float = 1000.0, cooling: int = 0, draining: bool = False, usable: int = 14, name: str = "") -> BlockUse:
    return BlockUse(Prefix(4, 0x0A000000 + 16 * place, 28), name, usable, in_use, cooling, 0.0 if in_use else idle, draining)


def given_back(uses: Sequence[BlockUse], pending: int = 0, **others: Any) -> list[int]:
    watermark = Watermark(**{"spare": 4, "slack": 4, "idle": 60.0, **others})
    found = decide(uses, {("", 4): pending}, watermark).hand_back
    return [(prefix.network - 0x0A000000) // 16 for prefix in found]


def test_empty_blocks_go_back_last_to_first_as_long_as_enough_stays() -> None:
    assert given_back([use(0, 4), use(1), use(2), use(3)]) == [3, 2, 1]
    assert given_back([use(0, 5), use(1), use(2), use(3)]) == [3, 2]  # 12 asked for: 14 would stay, which is not 4 more
    assert given_back([use(0, 5), use(1, 1), use(2)]) == [2]
    assert given_back([use(0), use(1, 5), use(2, 1)]) == [0]
    assert given_back([use(0), use(1)]) == [1]
    assert given_back([use(0), use(1)], least=2) == []
    assert given_back([use(0, 1), use(1), use(2)], pending=9) == [2]


def test_a_block_goes_back_only_after_it_was_empty_for_a_while() -> None:
    assert given_back([use(0, 1), use(1, idle=59.9)]) == []
    assert given_back([use(0, 1), use(1, idle=60.0)]) == [1]


def test_what_drains_goes_as_soon_as_it_is_empty_and_something_else_stays() -> None:
    assert given_back([use(0, draining=True, idle=0), use(1, 5)]) == [0]
    assert given_back([use(0, 1, draining=True), use(1, 5)]) == []
    assert given_back([use(0, draining=True)]) == []


def test_what_cools_is_asked_for_on_top_and_what_drains_is_counted_by_its_holders_only() -> None:
    assert decide([use(0, 5, cooling=3), use(1, 2, draining=True, cooling=6)], {}, Watermark(spare=4)).demand == (Demand("", 4, 15),)


def test_pools_and_families_are_counted_apart_and_nothing_is_asked_for_where_nothing_is_needed() -> None:
    six = BlockUse(Prefix(6, 0xFD << 120, 124), "p", 14, 3)
    found = decide([use(0, 1, name="p"), six, use(1, name="q")], {("r", 6): 2, ("s", 4): 0}, Watermark(spare=0))

    assert found.demand == (Demand("p", 4, 1), Demand("p", 6, 3), Demand("r", 6, 2))


def test_one_owner_that_fails_again_counts_once_and_is_forgotten_after_five_minutes() -> None:
    watch = DemandWatch(Watermark(spare=0))
    watch.failed("a", 4, now=0)
    watch.failed("a", 4, now=100)
    watch.failed("b", 4, now=50)
    watch.failed("a", 6, now=0)

    assert watch.pending(300) == {("", 4): 2, ("", 6): 1}
    assert watch.pending(350) == {("", 4): 2}
    assert watch.pending(350.5) == {("", 4): 1}
    watch.served("a", 4)
    assert watch.pending(351) == {}


def test_a_watch_knows_since_when_a_block_is_empty_and_forgets_it_when_it_is_used() -> None:
    watch = DemandWatch(Watermark(spare=4, slack=4, idle=60))
    empty, used = [use(0, 1), use(1)], [use(0, 1), use(1, 1)]

    assert [watch.decide(uses, now).hand_back for uses, now in ((empty, 0), (empty, 59), (used, 61), (empty, 62), (empty, 121))] == [()] * 5
    assert watch.decide(empty, 122) == Decision((Demand("", 4, 8),), (use(1).block,))


@pytest.mark.parametrize("field", ["spare", "slack", "idle", "least"])
def test_a_watermark_below_zero_is_refused(field: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{field} is a number from 0 on, not -1"):
        DemandWatch(Watermark(**{field: -1}))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 6), st.integers(0, 6))
def test_load_that_swings_by_no_more_than_the_slack_moves_no_block_back_and_forth(swings: list[int], spare: int, slack: int) -> None:
    """Against blocks of 14 that fill in order: what was handed back is never asked for again while the load is within the slack."""
    watermark = Watermark(spare, slack, idle=0.0)
    for base in swings:
        count = -(-needed(base, spare) // 14) + 3
        uses = [use(place, min(14, max(0, base - 14 * place))) for place in range(count)]
        left = count - len(decide(uses, {}, watermark).hand_back)
        assert needed(base, spare) + slack <= 14 * left or left == count
        assert left == 1 or needed(base, spare) + slack > 14 * (left - 1)


# ------------------------------------------------------------------------------------------------------ the records


def test_a_demand_is_written_only_where_there_is_one_and_read_back() -> None:
    record = NodeRecord(Node("n"), 1.0, draining=False, demand=normalize([Demand("pods", 6, 9), Demand("", 4, 300), Demand("", 6, 0)]))
    text = Codec().encode(Key("node", "n"), record)

    assert text == (
        '{"format":1,"name":"n","since":1.0,"labels":{},"demand":[{"family":4,"addresses":300},{"family":6,"addresses":9,"pool":"pods"}]}'
    )
    assert Codec(0).decode(Key("node", "n"), text) == record


@pytest.mark.parametrize(
    ("demand", "says"),
    [
        ("[7]", "demand[0]: expected an object"),
        ('[{"family":4}]', "demand[0].addresses: missing"),
        ('[{"family":5,"addresses":1}]', "no IP family 5"),
        ('[{"family":4,"addresses":-1}]', "demand[0].addresses"),
        ('[{"family":4,"addresses":1,"since":0}]', "demand[0].since: unknown field"),
        ('[{"family":4,"addresses":1},{"family":4,"addresses":2}]', "asked for twice"),
    ],
)
def test_a_demand_that_is_none_makes_the_record_corrupt(demand: str, says: str) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        Codec().decode(Key("node", "n"), f'{{"format":1,"name":"n","since":1.0,"labels":{{}},"demand":{demand}}}')

    assert says in str(caught.value)


@pytest.mark.parametrize(
    "asked", [RequestAddresses("n", (Demand("", 4, 300), Demand("p", 6, 1))), HandBack("n", Prefix(4, 0x0A000100, 24), 7, "blue"), HandBack("n", Prefix(6, 0, 64))]
)
def test_a_journal_line_holds_the_request(asked: Request) -> None:
    assert read_request(request_to_document(asked)) == asked


# ------------------------------------------------------------------------------------------------------ growing


def test_a_node_gets_blocks_until_it_has_what_it_asks_for() -> None:
    ipam = world("a", "b")

    applied = ipam.request("a", v4(255))

    assert [str(change) for change in applied.changes] == [
        "change node a: asks for 255 IPv4 addresses",
        "carve block 10.0.2.0/24: for node a out of pool pods",
    ]
    assert ipam.request("a", v4(508)).changes[1:] == ()
    assert ipam.nodes()[0].demand == (Demand("", 4, 508),)
    assert ipam.request("a", []).changes[0].detail == "asks for no more than it gets at once"
    assert blocks(ipam, "a") == ["10.0.0.0/24", "10.0.2.0/24"]
    ipam.check_invariants()


def test_reserved_addresses_do_not_count() -> None:
    ipam = world(reserved=["10.0.0.0-10.0.0.200", "10.0.1.255"])

    ipam.request("a", v4(55))
    assert blocks(ipam, "a") == ["10.0.0.0/24", "10.0.1.0/24"]
    ipam.request("a", v4(54 + 254))
    assert len(blocks(ipam, "a")) == 2


def test_a_limit_and_a_full_pool_end_it_and_what_there_is_is_given() -> None:
    ipam = world("a", "b", max_blocks_per_node=2)
    limited = ipam.request("a", v4(1000))
    ipam.apply([pool(max_blocks_per_node=None)])

    assert blocks(ipam, "a") == ["10.0.0.0/24", "10.0.2.0/24", "10.0.3.0/24"]
    assert [refusal.reason for refusal in limited.refusals] == [
        "it gives a node at most 2 IPv4 blocks, which the node has; the node asks for 1000 IPv4 addresses and has 508"
    ]
    (full,) = ipam.apply().refusals
    assert full.reason.startswith("pool 'pods' has no free IPv4 /24: nothing is free")
    assert full.reason.endswith("; the node asks for 1000 IPv4 addresses and has 762")


def test_a_demand_names_its_pool_and_one_that_cannot_serve_says_why() -> None:
    ipam = world()
    picky = pool("10.9.0.0/23", name="picky", selector=NodeSelector.parse("disk=ssd"), priority=-1)
    ipam.apply([picky, pool("10.8.0.0/23", name="other", priority=-2)])

    told = {each.pool: each.reason.partition(";")[0] for each in ipam.request("a", [Demand(name, 4, 300) for name in ("picky", "other", "gone")]).refusals}

    assert blocks(ipam, "a") == ["10.0.0.0/24", "10.8.0.0/24", "10.8.1.0/24"]
    assert told.keys() == {"picky", "gone"}
    assert told["gone"] == "there is no such pool"
    assert "disk" in told["picky"]


def test_a_pool_that_overflows_passes_what_it_cannot_give_on() -> None:
    ipam = world(cidrs=["10.0.0.0/24"], overflow=True)
    ipam.apply([pool("10.8.0.0/23", name="other", priority=-2)])

    assert not ipam.request("a", v4(600)).refusals
    assert blocks(ipam, "a") == ["10.0.0.0/24", "10.8.0.0/24", "10.8.1.0/24"]


def test_a_node_that_drains_or_has_no_block_gets_nothing_further() -> None:
    ipam = world("a", "b", "c", cidrs=["10.0.0.0/23"])
    ipam.drain("node", "a")

    assert not [change for change in ipam.request("c", v4(300)).changes if change.action == "carve" and "node b" in change.detail]
    assert blocks(ipam, "c") == ["10.0.0.0/24"]  # c comes before anybody's second block
    ipam.request("a", v4(300))
    assert blocks(ipam, "a") == []


def test_who_asks_for_addresses_must_be_known() -> None:
    with pytest.raises(NotFoundError):
        world().request("x", v4(1))


# ------------------------------------------------------------------------------------------------ who comes first


def share_slowly(sizes: dict[str, tuple[int, int]], free: int, room: int, limit: int) -> dict[str, int]:
    """Blocks by node, given one by one by going through all nodes each time; `sizes` has what each has and asks for."""
    have = {name: count for name, (count, _) in sizes.items()}
    while free:
        short = [name for name, (_, asked) in sizes.items() if have[name] * room < asked and have[name] < limit]
        if not short:
            break
        least = min(have[name] for name in short)
        short = [name for name in short if have[name] == least]
        part = min(have[name] * room * 10**9 // sizes[name][1] for name in short)
        first = min(name for name in short if have[name] * room * 10**9 // sizes[name][1] == part)
        have[first] += 1
        free -= 1
    return have


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 3), st.integers(0, 120)), min_size=1), st.integers(0, 12), st.integers(3, 6))
def test_blocks_are_shared_as_an_oracle_shares_them_one_by_one(sizes: dict[str, tuple[int, int]], spare: int, limit: int) -> None:
    """Nobody passes a node that is below its demand and has fewer blocks; a tie goes to who has the smaller part, then by name."""
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: 100.0)
    total = sum(count for count, _ in sizes.values()) + spare
    cidrs = [f"10.0.{place}.0/28" for place in range(total)]
    ipam.apply([pool(*cidrs, block_length_v4=28, max_blocks_per_node=limit)], [Node(name) for name in sizes])
    for name, (count, _) in sizes.items():
        ipam.grow(name, count)
    for name, (_, asked) in sizes.items():
        entry = store.get(Key("node", name))
        assert entry is not None
        assert isinstance(entry.record, NodeRecord)
        store.put(Key("node", name), entry.record._replace(demand=normalize(v4(asked))), expect=entry.revision)

    applied = Ipam(store).apply()

    have = {name: len(blocks(Ipam(store), name)) for name in sizes}
    assert have == share_slowly(sizes, spare, 14, limit)
    assert {refusal.node for refusal in applied.refusals} == {name for name, (_, asked) in sizes.items() if have[name] * 14 < asked}
    assert Ipam(store).apply().changes == ()


def test_a_node_without_a_block_is_served_before_one_that_lacks_its_second() -> None:
    ipam = world("a", cidrs=["10.0.0.0/23"])
    ipam.apply([pool("10.0.0.0/23", blocks_per_node=2, draining=True)], [Node("z")])
    ipam.apply([pool("10.0.0.0/24", "10.0.1.0/24", draining=False)])

    assert [len(blocks(ipam, name)) for name in "az"] == [1, 1]


def test_a_new_node_comes_before_a_further_block_and_explain_says_behind_whom_one_waits() -> None:
    ipam = world("a", "b", cidrs=["10.0.0.0/24"], block_length_v4=26)
    ipam.request("a", v4(100))
    ipam.request("b", v4(130))
    ipam.apply(nodes=[Node("c")])
    ipam.request("a", v4(190))

    assert [len(blocks(ipam, name)) for name in "abc"] == [2, 2, 0]
    assert ipam.explain("a").lines[-1] == (
        "  asks for 190 IPv4 addresses and has 124: it waits (pool pods: it has no free IPv4 /26, and this node is the first that waits)"
    )
    assert ipam.explain("b").lines[-1] == (
        "  asks for 130 IPv4 addresses and has 124: it waits (pool pods: it has no free IPv4 /26, and this node is behind"
        " a (2 blocks, 124 of 190 addresses))"
    )
    ipam.request("c", v4(10))
    assert ipam.explain("c").lines[-1] == (
        "  asks for 10 IPv4 addresses and has 0: it waits for its first block, which nodes get before anybody gets a further one"
    )
    ipam.request("b", v4(60))
    assert [change.name for change in ipam.hand_back("b", "10.0.0.192/26").changes] == ["10.0.0.192/26"]
    assert ipam.explain("a").lines[-1] == (
        "  asks for 190 IPv4 addresses and has 124: the next 'ciliumipam apply' serves those that wait"
        " (pool pods: it can give more, and this node is the first that waits)"
    )
    ipam.apply()
    assert blocks(ipam, "c") == ["10.0.0.192/26"]


def test_explain_names_the_limit_that_keeps_a_node_from_more() -> None:
    ipam = world("a", max_blocks_per_node=1)
    ipam.request("a", v4(300))

    assert ipam.explain("a").lines[-1] == (
        "  asks for 300 IPv4 addresses and has 254: it waits (pool pods: it gives a node at most 1 IPv4 blocks, which the node has)"
    )


def test_a_node_that_asks_twice_for_the_same_pool_is_counted_once_for_each_block() -> None:
    # the second demand's place changes while it stands in the queue, by the blocks that the first one got
    ipam = world("a", "b", cidrs=["10.0.0.0/21"])
    ipam.request("b", v4(600))
    ipam.request("a", [Demand("", 4, 700), Demand("pods", 4, 1000)])

    assert [len(blocks(ipam, name)) for name in "ab"] == [4, 3]


@pytest.mark.parametrize("family", [0, 5, "4"])
def test_a_demand_of_no_family_is_refused(family: Any) -> None:
    with pytest.raises(InvalidRequestError, match=rf"no IP family {family!r}; valid: 4, 6"):
        world().request("a", [Demand("", family, 1)])


@pytest.mark.parametrize("addresses", [-1, 1.5, True, "4"])
def test_a_demand_of_no_whole_number_is_refused(addresses: Any) -> None:
    with pytest.raises(InvalidRequestError, match=rf"a whole number of addresses from 0 on, not {addresses!r}"):
        world().request("a", [Demand("", 4, addresses)])


# ------------------------------------------------------------------------------------------------------ handing back


def test_an_empty_block_that_is_not_needed_goes_back_and_cools() -> None:
    ipam = world("a", "b", reuse_delay=30, cidrs=["10.0.0.0/23"])
    ipam.remove_node("b")
    ipam = Ipam(ipam._executor.store, clock=lambda: 200.0)
    ipam.request("a", v4(300))
    fence = ipam.blocks()[1].fence
    ipam.request("a", [])

    with pytest.raises(StaleFenceError):
        ipam.hand_back("a", "10.0.1.0/24", fence=fence + 4)
    applied = ipam.hand_back("a", "10.0.1.0/24", fence=fence)

    assert [str(change) for change in applied.changes] == ["give back block 10.0.1.0/24: from node a to pool pods"]
    assert ipam.due() == 230.0
    with pytest.raises(NotHeldError):
        ipam.hand_back("a", "10.0.1.0/24", fence=fence)
    with pytest.raises(NotHeldError):
        ipam.hand_back("a", "10.0.0.0/25")
    with pytest.raises(NotFoundError):
        ipam.hand_back("x", "10.0.0.0/24")
    ipam.check_invariants()


def test_a_block_in_use_or_needed_stays_where_it_is() -> None:
    ipam = world()
    ipam.request("a", v4(300))
    ipam.allocate("a", "web", address="10.0.1.7", label="default/web")

    with pytest.raises(BlockNotEmptyError, match=r"10\.0\.1\.7 default/web"):
        ipam.hand_back("a", "10.0.1.0/24")
    ipam.release("a", "web")
    with pytest.raises(BlockNeededError) as needs:
        ipam.hand_back("a", "10.0.1.0/24")
    ipam.request("a", [])
    ipam.hand_back("a", "10.0.1.0/24")
    with pytest.raises(BlockNeededError) as least:
        ipam.hand_back("a", "10.0.0.0/24")

    assert str(needs.value) == "node 'a' needs block 10.0.1.0/24: it asks for 300 IPv4 addresses and would have 254; ask for less first"
    assert str(least.value) == "node 'a' needs block 10.0.0.0/24: pool pods gives a node 1 IPv4 block, and it would have 0"
    ipam.drain("node", "a")
    assert blocks(ipam, "a") == []


def test_a_drained_block_serves_until_there_is_another_and_an_orphan_may_always_go() -> None:
    ipam = world(cidrs=["10.0.0.0/24"])
    ipam.drain("block", "10.0.0.0/24")

    with pytest.raises(BlockNeededError, match="it drains, and serves until the node has another IPv4 block"):
        ipam.hand_back("a", "10.0.0.0/24")
    ipam.remove_pool("pods")
    assert ipam.hand_back("a", "10.0.0.0/24").changes[0].detail == "from node a to pool pods"


def test_a_demand_survives_labels_that_change() -> None:
    ipam = world()
    ipam.request("a", v4(300))
    ipam.apply(nodes=[Node("a", {"rack": "r2"})])

    assert ipam.nodes()[0].demand == (Demand("", 4, 300),)


@pytest.mark.parametrize("two", [False, True], ids=["one store", "two stores"])
@pytest.mark.parametrize("what", ["request", "hand back"])
def test_a_crash_at_any_write_is_finished_by_the_same_call(what: str, two: bool) -> None:
    def make() -> list[Store]:
        stores: list[Store] = [MemoryStore() for _ in range(1 + two)]
        ipam = Ipam(*stores, clock=lambda: 0.0)
        ipam.apply([pool("10.0.0.0/16", "fd00::/48")], [Node("a"), Node("b")])
        if what == "hand back":
            ipam.request("a", v4(600))
            ipam.allocate("a", "web")
            ipam.request("a", v4(300))
        return stores

    if what == "request":
        assert crash_everywhere(make, lambda ipam: ipam.request("a", v4(600)), blocks_per_node=3) > 2
    else:
        writes = crash_everywhere(make, lambda ipam: ipam.hand_back("a", "10.0.3.0/24"), done=(NotHeldError,), blocks_per_node=3)
        assert writes == 3  # its addresses are closed, then it is free, then the claim forgets it


# ---------------------------------------------------------------------------------------- agents and a pool, round by round


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 45), st.integers(0, 45)), min_size=1, max_size=12))
def test_no_node_is_below_its_watermark_after_a_round_while_a_block_is_free(loads: list[tuple[int, int]]) -> None:
    """Two agents whose loads move: after each round everybody has the spare, or nothing is free; and handing back is never refused."""
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: 0.0)
    ipam.apply([pool("10.0.0.0/25", block_length_v4=28)], [Node("a"), Node("b")])
    watches = {name: DemandWatch(Watermark(spare=3, slack=3, idle=20)) for name in "ab"}
    running: dict[str, list[str]] = {"a": [], "b": []}
    for turn, load in enumerate(loads):
        now = 10.0 * turn
        for name, want in zip("ab", load, strict=True):
            while len(running[name]) > want:
                ipam.release(name, running[name].pop())
            mine = [block for block in ipam.blocks() if block.node == name]
            for number in range(want - len(running[name])):
                owner = f"{name}-{turn}-{number}"
                if sum(block.utilization.available for block in mine) > number:
                    ipam.allocate(name, owner)
                    running[name].append(owner)
                else:
                    watches[name].failed(owner, 4, now)
        for name, watch in watches.items():
            status = next(each for each in ipam.nodes() if each.node.name == name)
            uses = [
                BlockUse(Prefix(4, int(each.prefix.network_address), 28), "", each.utilization.capacity - each.utilization.reserved, each.utilization.in_use)
                for each in status.blocks
            ]
            decision = watch.decide(uses, now)
            ipam.request(name, decision.demand)
            for prefix in decision.hand_back:
                ipam.hand_back(name, str(prefix))
        ipam.apply()
        free = ipam.pools()[0].spaces[4].available
        for name, watch in watches.items():
            have = sum(each.utilization.capacity - each.utilization.reserved for each in ipam.blocks() if each.node == name)
            wanted = len(running[name]) + watch.pending(now).get(("", 4), 0) + 3
            assert have >= wanted or not free, f"{name} has {have} and wants {wanted}, and {free} blocks are free"


def test_a_load_that_swings_over_a_border_moves_a_block_once() -> None:
    """Twenty swings by 2 around the edge of a block: one block comes, none goes; without slack one goes after its wait, and without a wait ten do."""

    def moves(watermark: Watermark) -> tuple[int, int]:
        ipam = world(cidrs=["10.0.0.0/24"], block_length_v4=28)
        watch, came, went = DemandWatch(watermark), 0, 0
        for turn in range(20):
            in_use = 11 if turn % 2 else 13
            uses = [use(place, in_use if place == 0 else 0) for place in range(len(blocks(ipam, "a")))]
            decision = watch.decide(uses, 10.0 * turn)
            came += len([each for each in ipam.request("a", decision.demand).changes if each.action == "carve"])
            for prefix in decision.hand_back:
                ipam.hand_back("a", str(prefix))
                went += 1
        return came, went

    assert moves(Watermark(spare=2, slack=4, idle=0)) == (1, 0)
    assert moves(Watermark(spare=2, slack=0, idle=100)) == (2, 1)  # once in 100 seconds of 200
    assert moves(Watermark(spare=2, slack=0, idle=0)) == (10, 10)
