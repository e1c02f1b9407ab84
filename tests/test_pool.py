"""`ciliumipam.pool` against plain sets of addresses and the standard library's networks."""

from __future__ import annotations

import copy
import pickle
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import permutations
from typing import Any

import netaddr
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ciliumipam.cidr import WIDTH, Family, Prefix, format_address, parse_prefix
from ciliumipam.errors import InvalidPoolError
from ciliumipam.node import Node
from ciliumipam.pool import BlockLengths, PoolSpec, pool_order
from ciliumipam.selector import NodeSelector
from ciliumipam.testing.strategies import pools

EVERY = NodeSelector.everything()
BASE = {4: 0x0A000000, 6: 0xFD << 120}
"""10.0.0.0 and fd00::. Pools in these tests live in the 64 addresses from there on, so that a set can hold them."""


def pool(*cidrs: Any, **fields: Any) -> PoolSpec:
    given_fields: dict[str, Any] = {"name": "green", "cidrs": cidrs, "selector": EVERY} | fields
    return PoolSpec(**given_fields)


def problems_of(*cidrs: Any, **fields: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidPoolError) as caught:
        pool(*cidrs, **fields)
    return caught.value.problems


def small(family: int, start: int, bits: int) -> Prefix:
    """A prefix of 2^bits addresses within the 64 of its family; `start` is rounded down to where it may begin."""
    return Prefix(6 if family == 6 else 4, BASE[family] + (start >> bits << bits), WIDTH[family] - bits)


small_prefixes = st.builds(small, st.sampled_from([4, 6]), st.integers(0, 63), st.integers(0, 6))


def numbers(prefix: Prefix) -> set[tuple[int, int]]:
    network = prefix.to_network()
    return {(network.version, int(address)) for address in network}


@st.composite
def disjoint_prefixes(draw: st.DrawFn) -> list[Prefix]:
    taken: set[tuple[int, int]] = set()
    chosen = []
    for prefix in draw(st.lists(small_prefixes, min_size=1, max_size=8)):
        if not taken & numbers(prefix):
            taken |= numbers(prefix)
            chosen.append(prefix)
    return chosen


# ---------------------------------------------------------------------------------------------------- normal form


def test_every_way_to_write_a_cidr_makes_the_same_pool() -> None:
    forms: list[list[Any]] = [
        ["10.0.0.0/16", "fd00::/48"],
        [IPv6Network("fd00::/48"), IPv4Network("10.0.0.0/16")],
        [netaddr.IPNetwork("10.0.0.0/16"), netaddr.IPNetwork("fd00::/48")],
        [parse_prefix("10.0.0.0/16"), "fd00:0:0::/48"],
    ]

    pools = [pool(*form) for form in forms] + [PoolSpec(name="green", cidrs=iter(forms[0]), selector=EVERY)]

    assert len(set(pools)) == 1
    assert pools[0].cidrs == (parse_prefix("10.0.0.0/16"), parse_prefix("fd00::/48"))


@pytest.mark.parametrize(
    "form",
    [
        "10.0.0.16/28",
        "10.0.0.16-10.0.0.31",
        " 10.0.0.16 - 10.0.0.31 ",
        ("10.0.0.16", "10.0.0.31"),
        (IPv4Address("10.0.0.16"), netaddr.IPAddress("10.0.0.31")),
        IPv4Network("10.0.0.16/28"),
        netaddr.IPNetwork("10.0.0.16/28"),
        parse_prefix("10.0.0.16/28"),
        (4, 0x0A000010, 0x0A00001F),
    ],
    ids=repr,
)
def test_every_way_to_reserve_a_range_means_the_same(form: Any) -> None:
    assert pool("10.0.0.0/16", reserved=[form]).reserved == ((4, 0x0A000010, 0x0A00001F),)


@pytest.mark.parametrize(
    "form", ["fd00::5", "fd00::5/128", "fd00::5-fd00::5", IPv6Address("fd00::5"), ("fd00::5", "fd00::5")], ids=repr
)
def test_every_way_to_reserve_one_address_means_the_same(form: Any) -> None:
    address = (0xFD << 120) + 5

    assert pool("fd00::/64", reserved=[form]).reserved == ((6, address, address),)


@given(
    st.lists(small_prefixes | st.tuples(st.sampled_from([4, 6]), st.integers(0, 15), st.integers(0, 15)), max_size=6)
)
@example([(4, 1, 2), (4, 3, 4)])
@example([(4, 1, 2), (4, 4, 5)])
@example([(4, 1, 9), (4, 2, 3), (4, 10, 10)])
def test_reserved_ranges_are_merged_to_the_same_addresses_in_the_fewest_ranges(items: list[Any]) -> None:
    given_ranges: list[Any] = []
    expected: set[tuple[int, int]] = set()
    for item in items:
        if isinstance(item, Prefix):
            given_ranges.append(item)
            expected |= numbers(item)
        else:
            family, *ends = item
            first, last = sorted(BASE[family] + end for end in ends)
            given_ranges.append((family, first, last))
            expected |= {(family, number) for number in range(first, last + 1)}

    spec = pool(small(4, 0, 6), small(6, 0, 6), reserved=given_ranges)

    assert {(family, n) for family, first, last in spec.reserved for n in range(first, last + 1)} == expected
    runs = sum((family, number - 1) not in expected for family, number in expected)
    assert len(spec.reserved) == runs
    assert spec.reserved == tuple(sorted(spec.reserved))
    assert spec.replace(reserved=spec.reserved) == spec


def test_ranges_of_two_families_are_never_merged_although_their_numbers_meet() -> None:
    spec = pool("10.0.0.0/24", "::/96", reserved=["10.0.0.1", "::a00:2"])

    assert spec.reserved == ((4, 0x0A000001, 0x0A000001), (6, 0x0A000002, 0x0A000002))


@given(disjoint_prefixes(), st.integers(0, 63), st.integers(0, 63), st.sampled_from([4, 6]))
@example([small(4, 0, 2), small(4, 4, 2)], 3, 5, 4)
@example([small(4, 0, 2), small(4, 8, 2)], 3, 8, 4)
def test_a_reserved_range_is_accepted_exactly_if_all_of_it_lies_in_the_cidrs(
    cidrs: list[Prefix], one: int, other: int, family: int
) -> None:
    first, last = sorted(BASE[family] + number for number in (one, other))
    inside = {(family, number) for number in range(first, last + 1)} <= set().union(*(numbers(cidr) for cidr in cidrs))

    if inside:
        assert pool(*cidrs, reserved=[(family, first, last)]).reserved == ((family, first, last),)
    else:
        (problem,) = problems_of(*cidrs, reserved=[(family, first, last)])
        assert problem.startswith("reserved[0]: ")
        assert "is not inside the pool's CIDRs" in problem


@given(pools())
def test_a_pool_is_a_value(spec: PoolSpec) -> None:
    again = spec.replace()
    other_order = spec.replace(cidrs=spec.cidrs[::-1], reserved=spec.reserved[::-1])

    assert again == spec == other_order
    assert hash(again) == hash(spec) == hash(other_order)
    assert repr(again) == repr(spec) == repr(other_order)
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301 - our own bytes
    assert copy.deepcopy(spec) == spec


def test_a_pool_cannot_be_changed() -> None:
    spec = pool("10.0.0.0/16")

    with pytest.raises(AttributeError, match="never changes"):
        spec.name = "blue"  # type: ignore[misc]  # the very thing that must not work


def test_the_representation_shows_cidrs_block_lengths_and_selector() -> None:
    spec = pool("10.64.0.0/16", "fd00:64::/48", selector=NodeSelector.parse("rack=a"))

    assert repr(spec) == "<PoolSpec green: 10.64.0.0/16 in /24, fd00:64::/48 in /64, for rack=a>"
    assert repr(pool("10.0.0.0/28")) == "<PoolSpec green: 10.0.0.0/28 in /28, for every node>"


# --------------------------------------------------------------------------------------------------- block length


@pytest.mark.parametrize(
    ("cidr", "length"),
    [
        ("10.0.0.0/8", 24),
        ("10.0.0.0/24", 24),
        ("10.0.0.0/25", 25),
        ("10.0.0.0/32", 32),
        ("fd00::/8", 64),
        ("fd00::/64", 64),
        ("fd00::/65", 120),
        ("fd00::/104", 120),
        ("fd00::/120", 120),
        ("fd00::/121", 121),
        ("fd00::/128", 128),
    ],
)
def test_the_default_block_length_fits_every_cidr(cidr: str, length: int) -> None:
    spec = pool(cidr)

    assert spec.block_length(spec.cidrs[0]) == length


def test_a_given_block_length_counts_for_its_family_only() -> None:
    spec = pool("10.0.0.0/16", "fd00::/48", block_length_v4=26)

    assert [spec.block_length(cidr) for cidr in spec.cidrs] == [26, 64]


@given(pools(max_blocks=64))
def test_the_number_of_blocks_is_what_the_standard_library_counts(spec: PoolSpec) -> None:
    for family in spec.families:
        subnets = [
            subnet
            for cidr in spec.cidrs_of(family)
            for subnet in cidr.to_network().subnets(new_prefix=spec.block_length(cidr))
        ]
        assert spec.blocks(family) == len(subnets) == len(set(subnets))


def test_the_number_of_blocks_is_exact_however_huge() -> None:
    spec = pool("fd00::/8", block_length_v6=128)

    assert spec.blocks(6) == 1 << 120
    assert spec.blocks(4) == 0


def test_families_and_the_cidrs_of_each() -> None:
    dual = pool("fd00::/48", "10.1.0.0/16", "10.0.0.0/16")

    assert dual.families == (4, 6)
    assert dual.cidrs_of(4) == (parse_prefix("10.0.0.0/16"), parse_prefix("10.1.0.0/16"))
    assert dual.cidrs_of(6) == (parse_prefix("fd00::/48"),)
    assert pool("10.0.0.0/16").families == (4,)
    assert pool("fd00::/48").families == (6,)


# ------------------------------------------------------------------------------------------------ covers, overlaps


@given(disjoint_prefixes(), small_prefixes)
def test_a_pool_covers_a_prefix_exactly_if_one_of_its_cidrs_does(cidrs: list[Prefix], prefix: Prefix) -> None:
    assert pool(*cidrs).covers(prefix) == any(numbers(prefix) <= numbers(cidr) for cidr in cidrs)


@given(disjoint_prefixes(), disjoint_prefixes())
def test_two_pools_overlap_exactly_if_they_share_an_address_and_the_lowest_pair_is_named(
    one: list[Prefix], other: list[Prefix]
) -> None:
    left, right = pool(*one), pool(*other)
    expected = min(((a, b) for a in one for b in other if numbers(a) & numbers(b)), default=None)

    assert left.overlaps(right) == expected
    assert right.overlaps(left) == (expected and expected[::-1])


# ---------------------------------------------------------------------------------------------------------- order


def test_a_more_demanding_selector_comes_first_then_fewer_blocks_then_the_name() -> None:
    two = NodeSelector.parse("rack=a,zone=z")
    one = NodeSelector.parse("rack in (a,b)")
    in_order = [
        pool("10.0.0.0/8", name="z", selector=two),
        pool("10.0.0.0/17", name="z", selector=one),
        pool("10.0.0.0/16", name="a", selector=one),
        pool("10.0.0.0/16", name="b", selector=one),
        pool("10.0.0.0/32", name="a", selector=EVERY),
    ]

    for some_order in permutations(in_order):
        assert sorted(some_order, key=pool_order) == in_order


def test_without_a_family_the_scarcest_family_of_a_pool_counts() -> None:
    dual = pool("10.0.0.0/22", "fd00::/48", name="dual")

    assert pool_order(dual) == (0, 0, 4, "dual")
    assert pool_order(dual, 3) == (0, -3, 4, "dual")


@given(st.lists(pools(), max_size=3))
def test_the_order_is_total_for_pools_with_different_names(specs: list[PoolSpec]) -> None:
    named = [spec.replace(name=f"p{index}") for index, spec in enumerate(specs)]

    assert len({pool_order(spec) for spec in named}) == len(named)


def test_a_higher_priority_comes_before_everything_else() -> None:
    demanding = pool("10.0.0.0/24", name="a", selector=NodeSelector.parse("rack=a,zone=z"))
    urgent = pool("10.0.0.0/8", name="z", priority=1)
    last = pool("10.0.0.0/30", name="b", selector=NodeSelector.parse("x,y,z"), priority=-1)

    assert sorted([last, demanding, urgent], key=pool_order) == [urgent, demanding, last]


def test_the_first_selector_that_matches_says_how_long_a_nodes_blocks_are() -> None:
    dense, gpu = NodeSelector.parse("size=dense"), NodeSelector.parse("gpu")
    spec = pool("10.0.0.0/16", "fd00::/48", block_lengths=[BlockLengths(dense, 22), BlockLengths(gpu, 23, 60)])
    v4, v6 = spec.cidrs

    assert [spec.block_length_for(Node("n", labels), v4) for labels in ({}, {"size": "dense", "gpu": ""}, {"gpu": "1"})] == [24, 22, 23]
    assert [spec.block_length_for(Node("n", labels), v6) for labels in ({}, {"size": "dense", "gpu": ""}, {"gpu": "1"})] == [64, 64, 60]


def test_what_is_left_at_its_default_is_not_in_the_manifest_and_everything_else_is() -> None:
    plain = pool("10.0.0.0/16")
    full = pool(
        *("10.0.0.0/16", "fd00::/48"), priority=-3, address_space="blue", block_lengths=[BlockLengths(EVERY, 22, 60)], blocks_per_node=2,
        max_blocks_per_node=4, overflow=True, draining=True, reuse_delay=1.5, address_policy="random", seed=7, carving="grouped", group_by="rack",
    )  # fmt: skip

    assert plain.to_dict() == {"cidrs": ["10.0.0.0/16"], "nodeSelector": {}}
    assert full.to_dict() == {
        "cidrs": ["10.0.0.0/16", "fd00::/48"],
        "nodeSelector": {},
        "blockLengths": [{"nodeSelector": {}, "ipv4": 22, "ipv6": 60}],
        "priority": -3,
        "addressSpace": "blue",
        "blocksPerNode": 2,
        "maxBlocksPerNode": 4,
        "overflow": True,
        "draining": True,
        "reuseDelaySeconds": 1.5,
        "addressPolicy": "random",
        "seed": 7,
        "carving": "grouped",
        "groupBy": "rack",
    }
    assert full.replace() == full


# ------------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "Green"}, "name: 'Green' is not a valid pool name: allowed are lower-case letters"),
        ({"name": ""}, "name: '' is not a valid pool name: it is empty"),
        ({"name": "green\n"}, "name: 'green\\n' is not a valid pool name"),
        ({"name": "a" * 254}, f"name: '{'a' * 80}...' is not a valid pool name: it has 254 characters, allowed are 253"),
        ({"name": 5}, "name: 'the number 5' is not a valid pool name: a name is text"),
        ({"cidrs": []}, "cidrs: the pool has no CIDR"),
        ({"cidrs": "10.0.0.0/16"}, "cidrs: expected a list of CIDRs, found the text '10.0.0.0/16'"),
        ({"cidrs": None}, "cidrs: expected a list of CIDRs, found nothing"),
        ({"cidrs": 5}, "cidrs: expected a list of CIDRs, found the number 5"),
        ({"cidrs": {"10.0.0.0/16": 1}}, "cidrs: expected a list of CIDRs, found a mapping"),
        ({"cidrs": IPv4Network("10.0.0.0/30")}, "cidrs: expected a list of CIDRs, found the text '10.0.0.0/30'"),
        ({"cidrs": parse_prefix("10.0.0.0/30")}, "cidrs: expected a list of CIDRs, found a list"),
        ({"cidrs": ["nonsense"]}, "cidrs[0]: 'nonsense' is not a usable CIDR"),
        ({"cidrs": ["10.0.0.5/24"]}, "cidrs[0]: '10.0.0.5/24' is not a usable CIDR: host bits are set; did you mean 10.0.0.0/24?"),
        ({"cidrs": ["10.0.0.0/16", "0.0.0.0/0"]}, "cidrs[1]: 0.0.0.0/0 is a whole address family"),
        ({"cidrs": ["::/0"]}, "cidrs[0]: ::/0 is a whole address family"),
        ({"cidrs": ["10.0.0.0/16", "10.0.0.0/16"]}, "cidrs[1]: 10.0.0.0/16 is given twice"),
        ({"cidrs": ["fd00::/48", "fd00:0::/48"]}, "cidrs[1]: fd00::/48 is given twice"),
        ({"cidrs": ["10.0.1.0/24", "10.0.0.0/16"]}, "cidrs[0]: 10.0.1.0/24 lies inside 10.0.0.0/16"),
        ({"selector": None}, "selector: expected a NodeSelector, found nothing"),
        ({"selector": {}}, "selector: expected a NodeSelector, found a mapping"),
        ({"selector": NodeSelector.nothing()}, "selector: it selects nothing"),
        ({"block_length_v4": 15}, "block_length_v4: a /15 is larger than the CIDR 10.0.0.0/16"),
        ({"block_length_v4": 0}, "block_length_v4: the number 0 is not a prefix length of IPv4, which is 1 to 32"),
        ({"block_length_v4": 33}, "block_length_v4: the number 33 is not a prefix length of IPv4, which is 1 to 32"),
        ({"block_length_v4": -1}, "block_length_v4: the number -1 is not a prefix length"),
        ({"block_length_v4": 1 << 20000}, "block_length_v4: a number of 20001 bits is not a prefix length"),
        ({"block_length_v4": "24"}, "block_length_v4: expected a whole number, found the text '24'"),
        ({"block_length_v4": True}, "block_length_v4: expected a whole number, found the boolean true"),
        ({"block_length_v4": 24.0}, "block_length_v4: expected a whole number, found the number 24.0"),
        ({"block_length_v6": 64}, "block_length_v6: /64 is given, but the pool has no IPv6 CIDR"),
        ({"cidrs": ["fd00::/48"], "block_length_v6": 129}, "block_length_v6: the number 129 is not a prefix length of IPv6"),
        ({"cidrs": ["fd00::/48"], "block_length_v6": 47}, "block_length_v6: a /47 is larger than the CIDR fd00::/48"),
        ({"cidrs": ["fd00::/48"], "block_length_v4": 24}, "block_length_v4: /24 is given, but the pool has no IPv4 CIDR"),
        ({"reserved": "10.0.0.1"}, "reserved: expected a list of addresses and ranges, found the text '10.0.0.1'"),
        ({"reserved": ["10.1.0.0"]}, "reserved[0]: 10.1.0.0 is not inside the pool's CIDRs (10.0.0.0/16)"),
        ({"reserved": ["10.0.255.255-10.1.0.0"]}, "reserved[0]: 10.0.255.255-10.1.0.0 is not inside the pool's CIDRs"),
        ({"reserved": ["10.0.0.0/15"]}, "reserved[0]: 10.0.0.0/15 is not inside the pool's CIDRs"),
        ({"reserved": ["fd00::1"]}, "reserved[0]: fd00::1 is not inside the pool's CIDRs"),
        ({"reserved": ["10.0.0.9-10.0.0.1"]}, "reserved[0]: 10.0.0.9-10.0.0.1 is the wrong way round: write 10.0.0.1-10.0.0.9"),
        ({"reserved": ["10.0.0.1-fd00::1"]}, "reserved[0]: 10.0.0.1-fd00::1 mixes the families"),
        ({"reserved": ["10.0.0.1-"]}, "reserved[0]: '' is not an IP address"),
        ({"reserved": ["-"]}, "reserved[0]: '' is not an IP address"),
        ({"reserved": ["10.0.0.1-10.0.0.2-10.0.0.3"]}, "reserved[0]: '10.0.0.2-10.0.0.3' is not an IP address"),
        ({"reserved": ["10.0.0.0/28-10.0.0.20"]}, "reserved[0]: '10.0.0.0/28' is not an IP address: a single address is wanted"),
        ({"reserved": ["10.0.0.1/28"]}, "reserved[0]: '10.0.0.1/28' is not a usable CIDR: host bits are set; did you mean 10.0.0.0/28?"),
        ({"reserved": ["nonsense"]}, "reserved[0]: 'nonsense' is not an IP address"),
        ({"reserved": ["10.0.0.1", None]}, "reserved[1]: expected a CIDR, a range or an address, found nothing"),
        ({"reserved": [["10.0.0.1"]]}, "reserved[0]: expected a CIDR, a range or an address, found a list"),
        ({"reserved": [{}]}, "reserved[0]: expected a CIDR, a range or an address, found a mapping"),
        ({"reserved": [5]}, "reserved[0]: expected a CIDR, a range or an address, found the number 5"),
        ({"reserved": [("10.0.0.1",)]}, "reserved[0]: a tuple is a pair (first, last) of addresses"),
        ({"reserved": [(4, 5, 3)]}, "reserved[0]: a tuple is a pair (first, last) of addresses"),
        ({"reserved": [(5, 0, 1)]}, "reserved[0]: a tuple is a pair (first, last) of addresses"),
        ({"reserved": [(4, 0, 1 << 32)]}, "reserved[0]: a tuple is a pair (first, last) of addresses"),
        ({"reserved": [(4, -1, 0)]}, "reserved[0]: a tuple is a pair (first, last) of addresses"),
        ({"reserved": [(4, 0.0, 1)]}, "reserved[0]: a tuple is a pair (first, last) of addresses"),
        ({"allow_first": 1}, "allow_first: expected true or false, found the number 1"),
        ({"allow_last": "yes"}, "allow_last: expected true or false, found the text 'yes'"),
        ({"overflow": 0}, "overflow: expected true or false, found the number 0"),
        ({"draining": "no"}, "draining: expected true or false, found the text 'no'"),
        ({"priority": 1.5}, "priority: expected a whole number, found the number 1.5"),
        ({"priority": 1 << 31}, "priority: the number 2147483648 is out of range, which is -2147483648 to 2147483647"),
        ({"priority": True}, "priority: expected a whole number, found the boolean true"),
        ({"seed": -1}, "seed: the number -1 is out of range, which is 0 to 9223372036854775807"),
        ({"address_space": "Blue"}, "address_space: 'Blue' is not a valid address space: allowed are lower-case letters"),
        ({"address_space": ""}, "address_space: '' is not a valid address space: it is empty"),
        ({"blocks_per_node": 0}, "blocks_per_node: the number 0 is out of range, which is 1 to 65536"),
        ({"blocks_per_node": 3, "max_blocks_per_node": 2}, "max_blocks_per_node: the number 2 is out of range, which is 3 to 65536"),
        ({"max_blocks_per_node": "2"}, "max_blocks_per_node: expected a whole number, found the text '2'"),
        ({"reuse_delay": -1}, "reuse_delay: the number -1 is out of range, which is 0 to 315360000 seconds"),
        ({"reuse_delay": float("nan")}, "reuse_delay: the number nan is out of range"),
        ({"reuse_delay": float("inf")}, "reuse_delay: the number inf is out of range"),
        ({"reuse_delay": 10**400}, "reuse_delay: a number of 1329 bits is out of range"),
        ({"reuse_delay": "5m"}, "reuse_delay: expected a number of seconds, found the text '5m'"),
        ({"address_policy": "first"}, "address_policy: the text 'first' is none of lowest, next, random"),
        ({"carving": "best"}, "carving: the text 'best' is none of lowest, sparse, grouped"),
        ({"carving": "grouped"}, 'group_by: it goes with carving "grouped": give both'),
        ({"group_by": "rack"}, 'group_by: it goes with carving "grouped": give both'),
        ({"carving": "grouped", "group_by": "a b"}, "group_by: 'a b' is not a label key"),
        ({"carving": "grouped", "group_by": 5}, "group_by: expected a label key, found the number 5"),
        ({"block_lengths": [5]}, "block_lengths[0]: expected a BlockLengths, found the number 5"),
        ({"block_lengths": BlockLengths(EVERY, 22)}, "block_lengths: expected a list of block lengths for a selector, found a list"),
        ({"block_lengths": [BlockLengths(EVERY)]}, "block_lengths[0].block_length: neither an IPv4 nor an IPv6 length is given"),
        ({"block_lengths": [BlockLengths(EVERY, 22), BlockLengths(EVERY, 8)]}, "block_lengths[1].block_length_v4: a /8 is larger than the CIDR"),
        ({"block_lengths": [BlockLengths(NodeSelector.nothing(), 22)]}, "block_lengths[0].selector: it selects nothing"),
        ({"block_lengths": [BlockLengths(EVERY, v6=64)]}, "block_lengths[0].block_length_v6: /64 is given, but the pool has no IPv6 CIDR"),
    ],
)  # fmt: skip
def test_a_problem_names_field_and_value(fields: dict[str, Any], expected: str) -> None:
    (problem,) = problems_of(**({"cidrs": ["10.0.0.0/16"]} | fields))

    assert problem.startswith(expected.partition(": ")[0] + ": ")
    assert expected in problem


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidPoolError) as caught:
        PoolSpec(
            name="Green",
            cidrs=["10.0.0.5/24", "10.0.1.0/24", "10.0.0.0/16", "10.0.0.0/16", "0.0.0.0/0"],
            selector=NodeSelector.nothing(),
            block_length_v4=12,
            block_length_v6=129,
            reserved=["nonsense", "fd00::1-10.0.0.1"],
            allow_first=None,  # type: ignore[arg-type]  # what a reader of YAML might hand in
            allow_last=None,  # type: ignore[arg-type]  # what a reader of YAML might hand in
        )

    fields = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert caught.value.pool == "Green"
    assert fields == [
        *("name", "cidrs[0]", "cidrs[4]", "cidrs[3]", "cidrs[1]", "selector"),
        *("block_length_v4", "block_length_v4", "block_length_v4", "block_length_v6"),
        *("reserved[0]", "reserved[1]", "allow_first", "allow_last"),
    ]
    assert str(caught.value) == f"pool 'Green' is not valid: {'; '.join(caught.value.problems)}"


def test_a_cidr_that_is_not_usable_raises_no_problem_that_only_follows_from_it() -> None:
    assert len(problems_of("10.0.0.0/99", block_length_v4=24, reserved=["10.0.0.1"])) == 1


@given(st.lists(small_prefixes, min_size=1, max_size=6))
def test_cidrs_are_refused_exactly_if_two_of_them_share_an_address(cidrs: list[Prefix]) -> None:
    seen: set[tuple[int, int]] = set()
    disjoint = True
    for cidr in cidrs:
        disjoint &= not seen & numbers(cidr)
        seen |= numbers(cidr)

    if disjoint:
        assert pool(*cidrs).cidrs == tuple(sorted(cidrs))
    else:
        redundant = {
            i
            for i, inner in enumerate(cidrs)
            for j, outer in enumerate(cidrs)
            if i != j and numbers(inner) <= numbers(outer) and (inner != outer or j < i)
        }
        assert {int(problem.partition("]")[0].removeprefix("cidrs[")) for problem in problems_of(*cidrs)} == redundant


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["10.0.0.0/24", "10.0.0.1-10.0.0.3", "fd00::/64"])
)
json_like = st.recursive(
    values,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from(
        [
            *("name", "cidrs", "selector", "block_length_v4", "block_length_v6", "reserved", "allow_first", "allow_last"),
            *("priority", "address_space", "block_lengths", "blocks_per_node", "max_blocks_per_node", "overflow", "draining"),
            *("reuse_delay", "address_policy", "seed"),
        ]
    ),
    json_like,
)
def test_whatever_is_handed_in_makes_a_pool_or_a_typed_error(field: str, value: Any) -> None:
    try:
        spec = pool(**({"cidrs": ["10.0.0.0/16", "fd00::/48"]} | {field: value}))
    except InvalidPoolError as error:
        assert all(problem.startswith(field) for problem in error.problems)  # noqa: PT017 - either outcome is right
    else:
        assert spec.replace() == spec


# --------------------------------------------------------------------------------------------------------- mapping


def test_the_mapping_leaves_out_what_is_default() -> None:
    assert pool("10.0.0.0/16").to_dict() == {"cidrs": ["10.0.0.0/16"], "nodeSelector": {}}


def test_the_mapping_has_each_field_by_itself() -> None:
    bare = {"cidrs": ["10.0.0.0/16", "fd00::/48"], "nodeSelector": {}}

    def mapping(**fields: Any) -> dict[str, Any]:
        return pool("10.0.0.0/16", "fd00::/48", **fields).to_dict()

    assert mapping(block_length_v4=26) == bare | {"blockLength": {"ipv4": 26}}
    assert mapping(block_length_v6=64) == bare | {"blockLength": {"ipv6": 64}}
    assert mapping(allow_first=True) == bare | {"allowFirst": True}
    assert mapping(allow_last=True) == bare | {"allowLast": True}
    assert mapping(reserved=["10.0.0.1"]) == bare | {"reserved": ["10.0.0.1"]}


def test_the_mapping_has_everything_that_is_not_default() -> None:
    spec = pool(
        "fd00:64::/48",
        "10.64.0.0/16",
        selector=NodeSelector.parse("rack=a,!cordoned"),
        block_length_v4=26,
        block_length_v6=64,
        reserved=["10.64.0.0/28", "10.64.1.1-10.64.1.3", "fd00:64::53"],
        allow_first=True,
        allow_last=True,
    )

    assert spec.to_dict() == {
        "cidrs": ["10.64.0.0/16", "fd00:64::/48"],
        "nodeSelector": {
            "matchLabels": {"rack": "a"},
            "matchExpressions": [{"key": "cordoned", "operator": "DoesNotExist"}],
        },
        "blockLength": {"ipv4": 26, "ipv6": 64},
        "reserved": ["10.64.0.0/28", "10.64.1.1-10.64.1.3", "fd00:64::53"],
        "allowFirst": True,
        "allowLast": True,
    }


@given(
    small_prefixes.flatmap(
        lambda prefix: st.tuples(st.just(prefix), st.integers(0, prefix.size - 1), st.integers(0, prefix.size - 1))
    )
)
def test_a_reserved_range_is_written_as_a_cidr_exactly_if_it_is_one(drawn: tuple[Prefix, int, int]) -> None:
    prefix, one, other = drawn
    assume(one != other)
    first, last = sorted((prefix.network + one, prefix.network + other))

    (text,) = pool(prefix, reserved=[(prefix.family, first, last)]).to_dict()["reserved"]

    if "/" in text:
        network = ip_network(text)
        assert (int(network.network_address), int(network.broadcast_address)) == (first, last)
    else:
        assert text == f"{format_address(prefix.family, first)}-{format_address(prefix.family, last)}"
        size = last - first + 1
        assert size.bit_count() != 1 or first % size


def test_a_family_is_a_literal_for_type_checkers() -> None:
    families: tuple[Family, ...] = pool("10.0.0.0/16").families

    assert families == (4,)
