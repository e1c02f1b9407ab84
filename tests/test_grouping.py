"""Grouping: examples first, then its laws, then a machine that walks it beside an oracle that reads the rule out loud."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import Network, Prefix, parse_prefix
from ciliumipam.errors import IpamError
from ciliumipam.grouping import Grouping
from ciliumipam.routes import GroupBlock, group_routes
from ciliumipam.testing.carver_oracle import GroupOracle
from ciliumipam.testing.carver_strategies import Scenario, around, inside, lengths, scenarios

GROUPS = ("", "rack-a", "rack-b", "rack-c")


def number(address: str) -> int:
    return int(ip_network(address).network_address)


class Pool:
    """A carver and its grouping, and who got what: what a caller keeps together."""

    def __init__(self, *cidrs: str, blocked: tuple[str, ...] = (), length: int = 24) -> None:
        self.carver = CidrCarver(cidrs, blocked=blocked)
        self.grouping = Grouping(self.carver)
        self.length = length
        self.blocks: dict[int, str] = {}

    def give(self, group: str, *held: str) -> int:
        """What a node of the group gets: the index of the block, counted from the beginning of the first CIDR; -1 for none."""
        network = self.grouping.choose(self.length, group, map(number, held))
        if network < 0:
            return -1
        assert self.carver.occupy_bits(network, self.length)
        assert self.grouping.note(network, self.length, group)
        self.blocks[network] = group
        return network - self.first >> self.carver.cidrs[0].max_prefixlen - self.length

    def occupy(self, group: str, *prefixes: str) -> None:
        for prefix in map(parse_prefix, prefixes):
            self.carver.occupy(prefix)
            assert self.grouping.note(prefix.network, prefix.length, group)

    def take_back(self, prefix: str) -> None:
        block = parse_prefix(prefix)
        self.carver.give_back(prefix)
        assert self.grouping.forget(block.network, block.length)

    @property
    def first(self) -> int:
        return int(self.carver.cidrs[0].network_address)


# ------------------------------------------------------------------------------------------------------- rule


def test_the_picture_of_the_module_is_what_happens() -> None:
    pool = Pool("10.0.0.0/20")
    rows = []
    for group in "abacaaab":
        pool.give(group)
        rows.append("".join(pool.blocks.get(pool.first + (index << 8), "·") for index in range(16)))

    assert rows[0] == "a···············"
    assert rows[1] == "a·······b·······"
    assert rows[3] == "aa··c···b·······"
    assert rows[7] == "aaaac···bb··a···"
    pool.grouping.check_invariants()


def test_a_group_fills_its_region_from_its_lowest_block_outwards_and_then_begins_a_new_one() -> None:
    pool = Pool("10.0.0.0/20")
    pool.occupy("a", "10.0.5.0/24")
    pool.occupy("b", "10.0.8.0/24")

    assert [pool.give("a") for _ in range(7)] == [4, 6, 7, 0, 1, 2, 3]
    assert [pool.give("a") for _ in range(8)] == [12, 13, 14, 15, 10, 11, 9, -1]


def test_a_group_goes_back_to_an_earlier_region_that_has_room_again() -> None:
    pool = Pool("10.0.0.0/21")
    assert [pool.give(group) for group in "abababa"] == [0, 4, 1, 5, 2, 6, 3]
    assert pool.give("a") == 7
    pool.take_back("10.0.1.0/24")
    pool.take_back("10.0.2.0/24")

    assert [pool.give("a") for _ in range(3)] == [1, 2, -1]


def test_nodes_without_the_label_are_a_group_like_any_other() -> None:
    pool = Pool("10.0.0.0/20")

    assert [pool.give(group) for group in ("", "a", "", "a", "", "")] == [0, 8, 1, 9, 2, 3]


def test_a_node_grows_beside_its_own_block_and_not_at_the_low_end_of_its_group() -> None:
    pool = Pool("10.0.0.0/20")
    pool.occupy("a", "10.0.0.0/24", "10.0.4.0/24", "10.0.6.0/24")

    assert pool.give("a", "10.0.4.0/24") == 5
    assert pool.give("a", "10.0.0.0/24", "10.0.6.0/24") == 1
    assert pool.give("a", "10.0.0.0/24", "10.0.6.0/24") == 7
    assert pool.give("a", "10.0.4.0/24", "10.0.5.0/24") == 2


def test_a_node_in_mixed_space_grows_with_its_group() -> None:
    pool = Pool("10.0.0.0/20")
    pool.occupy("a", "10.0.0.0/24", "10.0.12.0/24")
    pool.occupy("b", "10.0.8.0/24", "10.0.13.0/24")

    assert pool.give("a", "10.0.12.0/24") == 1
    assert pool.give("a", "10.0.8.0/24", "192.168.0.0/24") == 2
    assert pool.give("c", "10.0.12.0/24") == 4


def test_a_block_comes_out_of_the_smallest_piece_that_fits_in_the_pure_space() -> None:
    pool = Pool("10.0.0.0/20")
    pool.occupy("b", "10.0.8.0/24")
    pool.occupy("a", "10.0.0.0/23", "10.0.6.0/24")

    assert pool.give("a") == 2
    pool.occupy("a", "10.0.3.0/24")
    assert [pool.give("a") for _ in range(3)] == [7, 4, 5]


def test_no_block_is_refused_while_any_is_free() -> None:
    pool = Pool("10.0.0.0/22", "10.0.8.0/24")

    assert [pool.give(group) for group in "abcde"] == [0, 2, 1, 3, 8]
    assert [pool.give(group) for group in "abcdef"] == [-1] * 6


def test_a_region_ends_with_its_cidr() -> None:
    pool = Pool("10.0.0.0/23", "10.0.2.0/23", "10.0.4.0/22")
    pool.occupy("a", "10.0.0.0/24")

    assert [pool.give("a") for _ in range(4)] == [1, 4, 5, 6]
    assert pool.give("b") == 2
    assert [pool.give("a") for _ in range(2)] == [7, 3]


def test_blocked_space_neither_ends_a_region_nor_is_room() -> None:
    pool = Pool("10.0.0.0/21", "10.0.16.0/20", blocked=("10.0.1.0/24", "10.0.2.0/23"))
    pool.occupy("a", "10.0.0.0/24")

    assert [pool.give("a") for _ in range(5)] == [4, 5, 6, 7, 16]


def test_a_block_that_no_longer_fits_its_cidr_keeps_others_out_of_its_surroundings() -> None:
    pool = Pool("10.0.0.0/21", blocked=("10.0.2.0/24",))
    assert pool.grouping.note(number("10.0.2.0/24"), 24, "b")
    pool.occupy("a", "10.0.0.0/24")

    assert [pool.give(group) for group in ("a", "b", "a")] == [1, 3, 4]
    pool.grouping.check_invariants()


def test_a_whole_cidr_can_be_one_block() -> None:
    pool = Pool("10.0.0.0/24", "10.0.1.0/24")

    assert [pool.give(group) for group in "aba"] == [0, 1, -1]
    pool.grouping.check_invariants()
    pool.take_back("10.0.1.0/24")
    assert pool.give("a") == 1


def test_racks_of_shuffled_nodes_are_one_route_each_and_need_hundreds_without_grouping() -> None:
    nodes = [f"rack-{index % 16:02}" for index in range(16 * 16)]
    random.Random(4).shuffle(nodes)
    pool = Pool("10.0.0.0/16")

    for rack in nodes:
        pool.give(rack)

    blocks = [GroupBlock(Prefix(4, network, 24), rack, age) for age, (network, rack) in enumerate(pool.blocks.items())]
    routes = group_routes(blocks, [parse_prefix("10.0.0.0/16")])
    assert [(route.blocks, len(route.announced), len(route.supernets)) for route in routes] == [(16, 1, 1)] * 16
    assert {route.announced[0].length for route in routes} == {20}
    assert sum(route.ungrouped for route in routes) == 247


def test_ipv6_blocks_are_grouped_as_well() -> None:
    pool = Pool("2001:db8::/32", length=64)

    assert [pool.give(group) for group in "abaab"] == [0, 1 << 31, 1, 2, (1 << 31) + 1]
    pool.grouping.check_invariants()


def test_the_two_halves_of_a_whole_family_are_kept_apart() -> None:
    pool = Pool("0.0.0.0/0", length=32)

    assert [pool.give(group) for group in "abba"] == [0, 1 << 31, (1 << 31) + 1, 1]
    pool.grouping.check_invariants()


# ----------------------------------------------------------------------------------------------- note, forget


@pytest.mark.parametrize(
    ("network", "length"),
    [
        ("10.0.1.0/24", 24),
        ("10.0.1.0/24", 25),
        ("10.0.1.128/25", 25),
        ("10.0.1.77/32", 32),
        ("10.0.0.0/23", 23),
        ("10.0.0.0/22", 22),
        ("10.0.4.0/24", 24),
        ("10.0.4.0/25", 25),
        ("10.0.5.0/24", 24),
        ("10.0.0.0/21", 21),
        ("0.0.0.0/0", 0),
        ("255.255.255.255/32", 32),
        ("10.0.3.0/24", 23),
        ("10.0.3.0/24", -1),
        ("10.0.3.0/24", 33),
        ("0.0.0.0/0", -1),
    ],
)
def test_what_is_no_prefix_in_a_cidr_or_overlaps_a_known_block_is_not_noted(network: str, length: int) -> None:
    pool = Pool("10.0.0.0/22", "10.0.6.0/23")
    pool.occupy("a", "10.0.1.0/24", "10.0.6.0/23")

    assert not pool.grouping.note(number(network), length, "b")
    assert not pool.grouping.note(number(network) + 2**32, length, "b")
    assert not pool.grouping.note(-1, length, "b")
    assert repr(pool.grouping) == "<Grouping of pool '': 'a' 2>"
    pool.grouping.check_invariants()


@pytest.mark.parametrize(
    ("network", "length"),
    [("10.0.0.0/24", 24), ("10.0.0.0/24", 23), ("10.0.1.0/24", 25), ("10.0.1.0/24", -1), ("10.0.1.0/24", 33), ("10.0.0.0/22", 22)],
)
def test_only_a_block_that_is_known_as_such_is_forgotten(network: str, length: int) -> None:
    pool = Pool("10.0.0.0/22")
    pool.occupy("a", "10.0.1.0/24")

    assert not pool.grouping.forget(number(network), length)
    pool.grouping.check_invariants()


def test_a_block_is_forgotten_once() -> None:
    pool = Pool("10.0.0.0/22")
    pool.give("a")
    network = pool.carver.peek(24) - 256

    pool.carver.give_back_bits(network, 24)

    assert [pool.grouping.forget(network, 24) for _ in range(2)] == [True, False]
    assert repr(pool.grouping) == "<Grouping of pool '': no blocks>"
    pool.grouping.check_invariants()


def test_a_node_that_moves_to_another_rack_takes_its_block_along() -> None:
    pool = Pool("10.0.0.0/22")
    assert [pool.give(group) for group in "aab"] == [0, 1, 2]
    block = number("10.0.1.0/24")

    assert pool.grouping.forget(block, 24)
    assert pool.grouping.note(block, 24, "b")

    assert repr(pool.grouping) == "<Grouping of pool '': 'a' 1, 'b' 2>"
    assert pool.give("a") == 3
    pool.grouping.check_invariants()


# ------------------------------------------------------------------------------------------------- invariants


def key(prefix: str) -> int:
    length = int(prefix.partition("/")[2])
    return 1 << length | number(prefix) >> 32 - length


def break_owner(pool: Pool) -> None:
    pool.grouping._owners[key("10.0.0.0/22")] = pool.grouping._groups["b"]


def break_mixed(pool: Pool) -> None:
    pool.grouping._owners[key("10.0.0.0/20")] = pool.grouping._groups["a"]


def break_missing(pool: Pool) -> None:
    del pool.grouping._owners[key("10.0.0.0/21")]


def break_blocks(pool: Pool) -> None:
    pool.grouping._groups["a"].blocks.pop()


def break_groups(pool: Pool) -> None:
    pool.grouping._groups["c"] = type(pool.grouping._groups["a"])("c")


def break_outside(pool: Pool) -> None:
    pool.grouping._owners[key("192.168.0.0/24")] = pool.grouping._groups["a"]


def break_free(pool: Pool) -> None:
    pool.carver.give_back("10.0.1.0/24")


def break_part(pool: Pool) -> None:
    pool.carver.give_back("10.0.1.0/24")
    pool.carver.occupy("10.0.1.0/25")


def break_unknown(pool: Pool) -> None:
    pool.carver.carve(24)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_owner, "owners of pure prefixes"),
        (break_mixed, "owners of pure prefixes"),
        (break_missing, "prefixes that have blocks"),
        (break_blocks, "blocks of the groups"),
        (break_groups, "blocks of the groups"),
        (break_outside, "a block lies outside the CIDRs"),
        (break_free, "a block of a group is free"),
        (break_part, "a block of a group is free"),
        (break_unknown, "a taken block is in no group"),
    ],
)
def test_a_broken_grouping_says_what_is_broken(fault: Callable[[Pool], None], message: str) -> None:
    pool = Pool("10.0.0.0/20")
    assert [pool.give(group) for group in "abac"] == [0, 8, 1, 4]
    pool.grouping.check_invariants()

    fault(pool)

    with pytest.raises(AssertionError, match=f"^{message}"):
        pool.grouping.check_invariants()


# ------------------------------------------------------------------------------------------------------- laws


def carved(data: st.DataObject, scenario: Scenario) -> tuple[CidrCarver, Grouping, dict[Prefix, str]]:
    """Blocks of several groups, some where the rule puts them, some anywhere, some given back."""
    carver = scenario.carver()
    grouping = Grouping(carver)
    blocks: dict[Prefix, str] = {}
    steps = st.tuples(st.sampled_from(GROUPS), lengths(scenario), st.none() | inside(scenario.window, scenario.longest))
    for group, length, place in data.draw(st.lists(steps, max_size=40)):
        network, size = (grouping.choose(length, group), length) if place is None else place[1:]
        if network >= 0 and carver.occupy_bits(network, size):
            assert grouping.note(network, size, group)
            blocks[Prefix(scenario.family, network, size)] = group
    for block in data.draw(st.lists(st.sampled_from(sorted(blocks)), unique=True)) if blocks else ():
        assert carver.give_back_bits(block.network, block.length)
        assert grouping.forget(block.network, block.length)
        del blocks[block]
    return carver, grouping, blocks


@given(st.data(), scenarios())
def test_a_restored_grouping_chooses_as_the_live_one_does(data: st.DataObject, scenario: Scenario) -> None:
    _, grouping, blocks = carved(data, scenario)

    carver = scenario.carver()
    restored = Grouping(carver)
    for block in data.draw(st.permutations(sorted(blocks))):
        assert carver.occupy_bits(block.network, block.length)
        assert restored.note(block.network, block.length, blocks[block])

    held = data.draw(st.lists(st.sampled_from([block.network for block in sorted(blocks)] or [0]), max_size=3))
    for group in GROUPS:
        for length in range(scenario.longest + 1):
            assert restored.choose(length, group, held) == grouping.choose(length, group, held)
    restored.check_invariants()


@given(st.data(), scenarios())
def test_a_block_chosen_where_the_group_has_room_adds_no_route_to_anybody(data: st.DataObject, scenario: Scenario) -> None:
    carver, grouping, blocks = carved(data, scenario)
    roots = [parse_prefix(cidr) for cidr in scenario.cidrs]
    group, length = data.draw(st.sampled_from(GROUPS)), data.draw(lengths(scenario))

    def supernets() -> dict[str, tuple[Prefix, ...]]:
        held = [GroupBlock(block, other, 0.0) for block, other in blocks.items()]
        return {route.group: route.supernets for route in group_routes(held, roots)}

    before = supernets()
    network = grouping.choose(length, group)
    if network >= 0:
        block = Prefix(scenario.family, network, length)
        blocks[block] = group
        pure = [region for region in regions(roots, blocks, group) if region.covers(block)]
        if any(pure[0].covers(other) for other in blocks if other != block):
            after = supernets()
            assert {name: len(routes) for name, routes in after.items()} == {name: len(routes) for name, routes in before.items()}
        else:
            for region in regions(roots, {other: name for other, name in blocks.items() if other != block}, group):
                assert carver.peek_within(region.network, region.length, length) < 0


def regions(roots: list[Prefix], blocks: dict[Prefix, str], group: str) -> list[Prefix]:
    """The largest prefixes of the CIDRs that hold blocks of this group and of no other."""
    found: list[Prefix] = []
    for block in (block for block, other in blocks.items() if other == group):
        top = block
        for root in roots:
            for length in range(root.length, block.length + 1 if root.covers(block) else 0):
                cover = parse_prefix(block.to_network().supernet(new_prefix=length))
                if top == block and all(other == group for piece, other in blocks.items() if cover.overlaps(piece)):
                    top = cover
        found.append(top)
    return sorted(set(found))


# ---------------------------------------------------------------------------------------------------- machine


class GroupingMachine(RuleBasedStateMachine):
    """Every operation on carver and grouping and on their twins; then every choice must be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.begin(Scenario(4, 32, ("10.0.0.0/26",), (), Prefix(4, number("10.0.0.0/26"), 26)))

    @initialize(scenario=scenarios())
    def begin(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.carver = scenario.carver()
        self.grouping = Grouping(self.carver)
        self.oracle = GroupOracle(scenario.oracle())

    def same_choice(self, length: int, group: str, held: list[Network]) -> Network | None:
        expected = self.oracle.choose(length, group, held)
        network = self.grouping.choose(length, group, [int(block.network_address) for block in held])
        assert network == (-1 if expected is None else int(expected.network_address))
        return expected

    def take(self, block: Network, group: str) -> None:
        self.oracle.carver.occupy(block)
        assert self.oracle.note(block, group)
        assert self.carver.occupy_bits(int(block.network_address), block.prefixlen)
        assert self.grouping.note(int(block.network_address), block.prefixlen, group)

    @rule(data=st.data(), groups=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=8))
    def carve(self, data: st.DataObject, groups: list[str]) -> None:
        length = data.draw(lengths(self.scenario))
        for group in groups:
            block = self.same_choice(length, group, [])
            assert (block is None) == (not self.oracle.carver.positions(length))
            if block is not None:
                self.take(block, group)

    @rule(data=st.data(), group=st.sampled_from(GROUPS))
    def grow(self, data: st.DataObject, group: str) -> None:
        known = sorted(self.oracle.groups)
        anything = st.lists(around(self.scenario).map(Prefix.to_network), max_size=2)
        held = data.draw(st.lists(st.sampled_from(known), max_size=3) if known else anything) + data.draw(anything)
        block = self.same_choice(data.draw(lengths(self.scenario)), group, held)
        if block is not None:
            self.take(block, group)

    @rule(data=st.data(), group=st.sampled_from(GROUPS))
    def occupy(self, data: st.DataObject, group: str) -> None:
        positions = [block for length in range(self.scenario.longest + 1) for block in self.oracle.carver.positions(length)]
        if positions:
            self.take(data.draw(st.sampled_from(positions)), group)

    @rule(data=st.data(), group=st.sampled_from(GROUPS))
    def note_what_cannot_be_occupied(self, data: st.DataObject, group: str) -> None:
        block = data.draw(around(self.scenario))
        network = block.to_network()
        try:
            self.oracle.carver.occupy(network)
        except IpamError:
            if not self.oracle.carver.inside(network) or self.oracle.carver.within(network, self.scenario.longest) is None:
                assert self.grouping.note(block.network, block.length, group) == self.oracle.note(network, group)
        else:
            self.oracle.carver.give_back(network)

    @rule(data=st.data())
    def forget_anything(self, data: st.DataObject) -> None:
        block = data.draw(around(self.scenario))
        if block.to_network() not in self.oracle.groups:
            assert not self.grouping.forget(block.network, block.length)

    @precondition(lambda self: self.oracle.groups)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.oracle.groups)))
        del self.oracle.groups[block]
        if block in self.oracle.carver.taken():
            self.oracle.carver.give_back(block)
            assert self.carver.give_back_bits(int(block.network_address), block.prefixlen)
        assert self.grouping.forget(int(block.network_address), block.prefixlen)

    @precondition(lambda self: self.oracle.groups)
    @rule(data=st.data(), group=st.sampled_from(GROUPS))
    def move_to_another_group(self, data: st.DataObject, group: str) -> None:
        block = data.draw(st.sampled_from(sorted(self.oracle.groups)))
        self.oracle.groups[block] = group
        assert self.grouping.forget(int(block.network_address), block.prefixlen)
        assert self.grouping.note(int(block.network_address), block.prefixlen, group)

    @invariant()
    def the_same_is_chosen(self) -> None:
        self.grouping.check_invariants()
        self.carver.check_invariants()
        for group in GROUPS:
            held = sorted(block for block, other in self.oracle.groups.items() if other == group)
            self.same_choice(self.scenario.longest, group, [])
            self.same_choice(self.scenario.longest - 1, group, held[-4:])


TestGroupingMachine: Any = GroupingMachine.TestCase
