"""What groups announce: examples first, then the same figures counted cell by cell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam.cidr import Prefix, parse_prefix
from ciliumipam.errors import InvalidCidrError, InvalidRequestError
from ciliumipam.routes import GroupBlock, GroupRoutes, group_routes
from ciliumipam.testing.carver_oracle import group_routes_oracle
from ciliumipam.testing.carver_strategies import Scenario, inside, scenarios


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(parse_prefix, texts))


def held(**groups: str) -> list[GroupBlock]:
    """Blocks by group, the older ones first in each text: `a="10.0.0.0/24 10.0.1.0/24"`; `a` is older than `b` as a whole."""
    blocks = [(group, text) for group, texts in groups.items() for text in texts.split()]
    return [GroupBlock(parse_prefix(text), group, float(age)) for age, (group, text) in enumerate(blocks)]


def test_adjacent_blocks_of_a_group_are_one_route() -> None:
    blocks = held(a="10.0.0.0/24 10.0.3.0/24 10.0.2.0/24 10.0.1.0/24 10.0.4.0/24", b="10.0.5.0/24 10.0.6.0/24")

    assert group_routes(blocks, prefixes("10.0.0.0/16")) == [
        GroupRoutes(
            group="a",
            blocks=5,
            announced=prefixes("10.0.0.0/22", "10.0.4.0/24"),
            supernets=prefixes("10.0.0.0/22", "10.0.4.0/24"),
            ungrouped=2,
        ),
        GroupRoutes(
            group="b",
            blocks=2,
            announced=prefixes("10.0.5.0/24", "10.0.6.0/24"),
            supernets=prefixes("10.0.5.0/24", "10.0.6.0/24"),
            ungrouped=2,
        ),
    ]


def test_a_supernet_takes_in_what_nobody_holds_and_is_no_larger_than_its_blocks_need() -> None:
    blocks = held(a="10.0.0.0/24 10.0.2.0/24 10.0.13.0/24", b="10.0.33.0/24", c="10.0.20.0/24 10.0.23.0/24")

    routes = {route.group: route.supernets for route in group_routes(blocks, prefixes("10.0.0.0/16"))}

    assert routes == {"a": prefixes("10.0.0.0/20"), "b": prefixes("10.0.33.0/24"), "c": prefixes("10.0.20.0/22")}


def test_a_supernet_never_covers_what_is_reserved_or_outside_the_cidrs() -> None:
    blocks = held(a="10.0.1.0/24 10.0.2.0/24 10.0.4.0/24 10.0.7.0/24 10.0.8.0/24")
    cidrs = prefixes("10.0.0.0/22", "10.0.4.0/22", "10.0.8.0/24")

    def supernets(*reserved: str) -> tuple[Prefix, ...]:
        return group_routes(blocks, cidrs, prefixes(*reserved))[0].supernets

    assert supernets() == prefixes("10.0.0.0/21", "10.0.8.0/24")
    assert supernets("10.0.0.0/28") == prefixes("10.0.1.0/24", "10.0.2.0/24", "10.0.4.0/22", "10.0.8.0/24")
    assert supernets("10.0.6.0/23") == prefixes("10.0.0.0/22", "10.0.4.0/24", "10.0.7.0/24", "10.0.8.0/24")
    assert supernets("10.0.1.0/26", "10.0.9.0/24") == prefixes("10.0.0.0/21", "10.0.8.0/24")
    assert supernets("0.0.0.0/0", "10.0.3.0/24") == prefixes("10.0.1.0/24", "10.0.2.0/24", "10.0.4.0/24", "10.0.7.0/24", "10.0.8.0/24")


def test_a_route_goes_on_where_the_next_cidr_begins() -> None:
    blocks = held(a="10.0.0.0/25 10.0.1.0/25", b="10.0.3.0/24 10.0.2.0/24")
    cidrs = prefixes("10.0.1.0/24", "10.0.0.0/24", "10.0.3.0/24", "10.0.2.0/24")

    routes = {route.group: (route.announced, route.supernets) for route in group_routes(blocks, cidrs)}

    assert routes["a"] == (prefixes("10.0.0.0/25", "10.0.1.0/25"), prefixes("10.0.0.0/23"))
    assert routes["b"] == (prefixes("10.0.2.0/23"), prefixes("10.0.2.0/23"))


def test_a_block_outside_the_cidrs_is_announced_as_it_is() -> None:
    blocks = held(a="10.0.0.0/24 10.0.1.0/24 10.9.0.0/24 172.16.0.0/24", b="9.0.0.0/8 11.0.0.0/24")

    routes = {route.group: route.supernets for route in group_routes(blocks, prefixes("10.0.1.0/24"))}

    assert routes["a"] == prefixes("10.0.0.0/23", "10.9.0.0/24", "172.16.0.0/24")
    assert routes["b"] == prefixes("9.0.0.0/8", "11.0.0.0/24")
    assert [route.supernets for route in group_routes(blocks, ())] == [route.announced for route in group_routes(blocks, ())]


def test_both_families_are_reported_together() -> None:
    blocks = held(a="2001:db8::/64 10.0.0.0/24", b="2001:db8:0:2::/64 10.0.1.0/24 2001:db8:0:3::/64")

    routes = group_routes(blocks, prefixes("2001:db8::/48", "10.0.0.0/16"), prefixes("2001:db8:0:1::/64"))

    assert [(route.group, route.blocks, route.announced, route.supernets) for route in routes] == [
        ("a", 2, prefixes("10.0.0.0/24", "2001:db8::/64"), prefixes("10.0.0.0/24", "2001:db8::/64")),
        ("b", 3, prefixes("10.0.1.0/24", "2001:db8:0:2::/63"), prefixes("10.0.1.0/24", "2001:db8:0:2::/63")),
    ]
    assert [route.ungrouped for route in routes] == [2, 2]


def test_without_grouping_the_same_blocks_would_lie_in_the_order_of_their_age() -> None:
    blocks = [
        GroupBlock(parse_prefix("10.0.8.0/24"), "b", 2.0),
        GroupBlock(parse_prefix("10.0.9.0/24"), "b", 4.0),
        GroupBlock(parse_prefix("10.0.0.0/24"), "a", 1.0),
        GroupBlock(parse_prefix("10.0.1.0/24"), "a", 3.0),
        GroupBlock(parse_prefix("10.0.2.0/24"), "a", 5.0),
        GroupBlock(parse_prefix("10.0.3.0/24"), "a", 6.0),
    ]
    cidrs = prefixes("10.0.0.0/16")

    assert [(route.group, len(route.announced), route.ungrouped) for route in group_routes(blocks, cidrs)] == [("a", 1, 3), ("b", 1, 2)]
    reserved = prefixes("10.0.1.0/24")
    assert [route.ungrouped for route in group_routes(blocks, cidrs, reserved)] == [2, 1]


def test_what_no_longer_fits_stays_where_it_is_and_keeps_others_out() -> None:
    blocks = held(a="10.0.2.0/24 10.0.3.0/24", b="10.0.0.0/23")

    routes = group_routes(blocks, prefixes("10.0.0.0/24", "10.0.2.0/23"))

    assert [(route.group, route.announced, route.ungrouped) for route in routes] == [
        ("a", prefixes("10.0.2.0/23"), 1),
        ("b", prefixes("10.0.0.0/23"), 1),
    ]


@pytest.mark.parametrize("second", ["10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/26"])
def test_blocks_that_overlap_have_no_routes(second: str) -> None:
    blocks = held(a=f"10.0.1.0/24 {second}", b="10.0.0.0/24")

    with pytest.raises(InvalidRequestError) as caught:
        group_routes(blocks, prefixes("10.0.0.0/16"))

    assert str(caught.value) == f"blocks 10.0.0.0/24 and {second} overlap; routes are those of blocks that do not"


def test_cidrs_that_overlap_are_refused() -> None:
    with pytest.raises(InvalidCidrError):
        group_routes(held(a="10.0.0.0/24"), prefixes("10.0.0.0/16", "10.0.0.0/20"))


def test_nothing_held_is_no_route() -> None:
    assert group_routes([], prefixes("10.0.0.0/16")) == []


# ------------------------------------------------------------------------------------------------------- laws


@st.composite
def holdings(draw: st.DrawFn) -> tuple[Scenario, list[GroupBlock]]:
    """Disjoint blocks of a window, in its CIDRs or not, some within what is reserved; often of one age."""
    scenario = draw(scenarios())
    blocks: list[GroupBlock] = []
    for prefix in draw(st.lists(inside(scenario.window, scenario.longest), max_size=40)):
        if not any(prefix.overlaps(block.prefix) for block in blocks):
            group, since = draw(st.sampled_from(["", "rack-a", "rack-b"])), draw(st.integers(0, 20))
            blocks.append(GroupBlock(prefix, group, float(since)))
    return scenario, blocks


@given(holdings())
def test_the_figures_are_those_that_are_counted_cell_by_cell(example: tuple[Scenario, list[GroupBlock]]) -> None:
    scenario, blocks = example
    cidrs, reserved = prefixes(*scenario.cidrs), prefixes(*scenario.blocked)

    routes = group_routes(blocks, cidrs, reserved)

    networks = [(block.prefix.to_network(), block.group, block.since) for block in blocks]
    expected = group_routes_oracle(
        networks, [each.to_network() for each in cidrs], [each.to_network() for each in reserved], scenario.longest
    )
    assert [route.group for route in routes] == sorted(expected)
    for route in routes:
        announced, supernets, ungrouped = expected[route.group]
        assert [prefix.to_network() for prefix in route.announced] == announced
        assert [prefix.to_network() for prefix in route.supernets] == supernets
        assert route.ungrouped == ungrouped
        assert route.blocks == sum(block.group == route.group for block in blocks)
        assert len(route.supernets) <= len(route.announced) <= route.blocks


@given(st.data(), holdings())
def test_the_order_of_the_input_does_not_matter(data: st.DataObject, example: tuple[Scenario, list[GroupBlock]]) -> None:
    scenario, blocks = example
    cidrs, reserved = prefixes(*scenario.cidrs), prefixes(*scenario.blocked)

    shuffled = [data.draw(st.permutations(each)) for each in (blocks, list(cidrs), list(reserved))]

    assert group_routes(*shuffled) == group_routes(blocks, cidrs, reserved)  # type: ignore[arg-type]  # lists of three kinds
