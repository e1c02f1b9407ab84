"""`ciliumipam.testing.strategies`: only valid values, all of them, and what they shrink to."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument, NoSuchExample

from ciliumipam import MemoryStore, Node, NodeSelector, PoolSpec, testing
from ciliumipam.allocator import NodeAllocator
from ciliumipam.cidr import Network
from ciliumipam.ipam import Ipam
from ciliumipam.manifest import pool_to_manifest, read_manifest
from ciliumipam.ranges import parse_range
from ciliumipam.requirement import NAME_FIELD, Requirement, check_name_requirement, check_requirement
from ciliumipam.testing import selector_oracle as oracle
from ciliumipam.testing import strategies
from ciliumipam.testing.strategies import (
    PodStep,
    addresses,
    churns,
    disjoint_prefixes,
    families,
    fleets,
    label_keys,
    label_selectors,
    label_values,
    labels,
    node_names,
    nodes,
    pool_sets,
    pools,
    prefixes,
    range_texts,
    requirements,
    selectors,
    term_selectors,
)
from ciliumipam.testing.strategies.matching import _opposite

T = TypeVar("T")
FEW = settings(max_examples=max(20, settings().max_examples // 4))
"""For values that take milliseconds to draw."""
FLEET = (Node("node-1", {"rack": "r1", "cpus": "8"}), Node("node-2", {"rack": "r2", "cpus": "16"}), Node("node-3"))
# no explaining, and no looking for a second one: neither changes what is found, both take most of the time
QUICK = settings(max_examples=1000, database=None, derandomize=True, report_multiple_bugs=False, phases=[Phase.generate, Phase.shrink])


def least(strategy: st.SearchStrategy[T], condition: Callable[[T], Any] = lambda _: True) -> T:
    """What a strategy shrinks to."""
    return find(strategy, lambda value: bool(condition(value)), settings=QUICK)


def missing(strategy: st.SearchStrategy[T], **conditions: Callable[[T], Any]) -> list[str]:
    """Which of the conditions hold for no value; it stops looking when each was seen to hold."""
    left = dict(conditions)

    def look(value: T) -> bool:
        for name in [name for name, condition in left.items() if condition(value)]:
            del left[name]
        return not left

    with suppress(NoSuchExample):
        find(strategy, look, settings=settings(QUICK, phases=[Phase.generate]))
    return [*left]


# ---------------------------------------------------------------------------------------------- what it shrinks to


@pytest.mark.parametrize(
    ("strategy", "condition", "shown"),
    [
        (families(), None, "4"),
        (addresses(), None, "10.0.0.1"),
        (addresses(family=6), None, "fd00::1"),
        (addresses(within="192.168.7.0/24"), None, "192.168.7.1"),
        (prefixes(), None, "10.0.0.0/24"),
        (prefixes(family=6), None, "fd00::/64"),
        (prefixes(family=4), lambda prefix: prefix.prefixlen > 28, "10.0.0.0/29"),
        (prefixes(within="192.168.7.0/28"), None, "192.168.7.0/28"),
        (range_texts("10.0.0.0/24"), None, "10.0.0.1"),
        (range_texts("10.0.0.0/24"), lambda text: "-" in text, "10.0.0.1-10.0.0.9"),
        (range_texts("10.0.0.0/16"), lambda text: "/" in text, "10.0.0.0/24"),
        (label_keys(), None, "rack"),
        (label_values("zone"), None, "a"),
        (labels(), None, "{}"),
        (labels(), bool, "{'rack': 'r1'}"),
        (node_names(), None, "node-1"),
        (nodes(), None, "Node('node-1', {})"),
        (requirements(), None, "rack=r1"),
        (requirements(), lambda one: one.operator == "Lt", "rack<0"),
        (requirements(on_name=True), None, "metadata.name=node-1"),
        (selectors(), None, ""),
        (selectors(), lambda one: one.requirements, "rack=r1"),
        (term_selectors(), None, "rack=r1"),
        (label_selectors(refuses=FLEET[:1]), None, "rack!=r1"),
        (label_selectors(refuses=FLEET), None, "rack=elsewhere-0"),
    ],
)  # fmt: skip
def test_a_value_shrinks_to_what_a_person_would_have_written(strategy: st.SearchStrategy[Any], condition: Any, shown: str) -> None:
    found = least(strategy, condition or (lambda _: True))

    assert str(found) == shown


def test_prefixes_shrink_to_neighbours() -> None:
    three = least(disjoint_prefixes(family=4), lambda some: len(some) == 3)
    both = least(disjoint_prefixes(), lambda some: len({each.version for each in some}) == 2)

    assert least(disjoint_prefixes()) == ()
    assert [*map(str, three)] == ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]
    assert {*map(str, both)} == {"10.0.0.0/24", "fd00::/64"}


def test_a_fleet_shrinks_to_one_node_without_labels() -> None:
    assert least(fleets()) == (Node("node-1"),)
    assert least(fleets(), lambda fleet: len(fleet) == 3) == (Node("node-1"), Node("node-2"), Node("node-3"))
    assert least(fleets(max_size=1), lambda fleet: "rack" in fleet[0].labels) == (Node("node-1", {"rack": "r1"}),)


def test_pools_shrink_to_one_block_for_every_node() -> None:
    plain: dict[str, Any] = {"name": "pool-a", "selector": NodeSelector.everything()}

    assert least(pools()) == PoolSpec(cidrs=["10.0.0.0/24"], **plain)
    assert least(pools(families=(6,))) == PoolSpec(cidrs=["fd00::/64"], **plain)
    assert least(pools(), lambda pool: pool.draining and pool.reserved) == PoolSpec(cidrs=["10.0.0.0/24"], reserved=["10.0.0.1"], draining=True, **plain)
    assert least(pools(min_blocks=5)) == PoolSpec(cidrs=["10.0.0.0/21"], **plain)


def test_sets_of_pools_shrink_to_neighbours() -> None:
    every = NodeSelector.everything()

    assert least(pool_sets()) == ()
    assert least(pool_sets(), lambda some: len(some) == 2) == (
        PoolSpec(name="pool-a", cidrs=["10.0.0.0/24"], selector=every),
        PoolSpec(name="pool-b", cidrs=["10.0.1.0/24"], selector=every),
    )


def test_churn_shrinks_to_the_pods_that_matter() -> None:
    assert least(churns()) == ()
    assert least(churns(), lambda steps: any(step.action == "release" for step in steps)) == (
        PodStep("allocate", "node-1", "pod-1"),
        PodStep("release", "node-1", "pod-1"),
    )
    assert least(churns(FLEET), lambda steps: steps and steps[-1] == PodStep("allocate", "node-3", "pod-2")) == (
        PodStep("allocate", "node-1", "pod-1"),
        PodStep("allocate", "node-3", "pod-2"),
    )


# ------------------------------------------------------------------------------------------- only what is valid


@FEW
@given(st.data(), prefixes())
def test_everything_drawn_within_a_prefix_lies_in_it(data: st.DataObject, outer: Network) -> None:
    assert data.draw(addresses(within=outer)) in outer
    for inner in (data.draw(prefixes(within=outer)), *data.draw(disjoint_prefixes(within=outer))):
        assert inner.subnet_of(outer)  # type: ignore[arg-type]  # of one family
    _, first, last = parse_range(data.draw(range_texts(outer)))
    assert int(outer.network_address) <= first <= last <= int(outer.broadcast_address)


@given(disjoint_prefixes(min_length=1, max_length=64, min_size=2))
def test_disjoint_prefixes_share_no_address(found: tuple[Network, ...]) -> None:
    assert len(found) >= 2
    assert all(1 <= each.prefixlen <= 64 for each in found)
    assert not any(one.version == other.version and one.overlaps(other) for one, other in combinations(found, 2))


@given(nodes(), labels())
def test_names_and_labels_are_what_kubernetes_takes(node: Node, more: dict[str, str]) -> None:
    assert oracle.is_subdomain(node.name)
    for key, value in (*node.label_pairs, *more.items()):
        assert oracle.is_label_key(key)
        assert oracle.is_label_value(value)


@given(fleets(min_size=2, max_size=5))
def test_the_nodes_of_a_fleet_have_names_of_their_own_and_a_rack_lies_in_one_zone(fleet: tuple[Node, ...]) -> None:
    zones: dict[str, set[str]] = {}
    for node in fleet:
        if {"rack", "zone"} <= node.labels.keys():
            zones.setdefault(node.labels["rack"], set()).add(node.labels["zone"])

    assert 2 <= len(fleet) <= 5
    assert len({node.name for node in fleet}) == len(fleet)
    assert all(len(some) == 1 for some in zones.values())


@given(requirements(), requirements(compares=False), requirements(on_name=True))
def test_a_requirement_is_in_the_form_that_the_constructors_make(one: Requirement, plain: Requirement, on_name: Requirement) -> None:
    assert check_requirement("it", *one) == one
    assert plain.operator not in {"Gt", "Lt"}
    assert check_name_requirement("it", *on_name) == on_name


@FEW
@given(selectors(), label_selectors())
def test_a_selector_selects_something_and_reads_back_from_its_form(one: NodeSelector, of_labels: NodeSelector) -> None:
    assert not one.selects_nothing
    assert NodeSelector.from_manifest(one.to_manifest()) == one
    assert NodeSelector.from_label_selector(of_labels.to_label_selector()) == of_labels


@FEW
@given(st.data(), fleets())
def test_a_selector_selects_or_refuses_the_nodes_that_were_asked_for(data: st.DataObject, fleet: tuple[Node, ...]) -> None:
    for strategy in (label_selectors, term_selectors, selectors):
        chosen, refusing = data.draw(strategy(selects=fleet)), data.draw(strategy(refuses=fleet))

        assert all(chosen.matches(node.labels, node.name) for node in fleet)
        assert not any(refusing.matches(node.labels, node.name) for node in fleet)


@pytest.mark.parametrize("text", ["cpus>7", "cpus<7", "cpus=7", "cpus!=7", "cpus in (7,8)", "cpus", "!cpus"])
def test_the_opposite_of_a_requirement_holds_exactly_where_that_does_not(text: str) -> None:
    (requirement,) = NodeSelector.parse(text).terms[0].expressions
    (opposite,) = _opposite(requirement)

    for found in ({"cpus": "6"}, {"cpus": "7"}, {"cpus": "8"}, *([] if requirement.operator in {"Gt", "Lt"} else [{}])):
        assert opposite.holds(found) is not requirement.holds(found)


@FEW
@given(st.data(), fleets(), st.integers(1, 20), st.integers(0, 6))
def test_pools_are_as_was_asked_for(data: st.DataObject, fleet: tuple[Node, ...], least_blocks: int, more: int) -> None:
    most = (1 << (least_blocks - 1).bit_length()) << more
    pool = data.draw(pools(selects=fleet, min_blocks=least_blocks, max_blocks=most))
    two = data.draw(pool_sets(families=(6,), selects=fleet, min_blocks=least_blocks, max_blocks=most, min_size=2))

    for each in (pool, *two):
        assert all(each.selector.matches(node.labels, node.name) for node in fleet)
        assert all(each.blocks(family) >= least_blocks for family in each.families)
        assert max(each.blocks_per_node, each.max_blocks_per_node or 1) <= most
        for cidr in each.cidrs:
            longest = [other.v4 if cidr.family == 4 else other.v6 for other in each.block_lengths]
            assert all(1 << (length - cidr.length) <= most for length in (each.block_length(cidr), *longest) if length)
    assert len(two) >= 2
    assert {each.families for each in two} == {(6,)}


@FEW
@given(pool_sets())
def test_pools_of_a_set_can_be_applied_together(some: tuple[PoolSpec, ...]) -> None:
    assert len({pool.address_space for pool in some}) <= 1

    Ipam(MemoryStore()).apply(pools=some)  # which refuses what overlaps, and two of one name


@FEW
@given(pools())
def test_a_pool_can_be_written_as_a_manifest_and_read_back(pool: PoolSpec) -> None:
    assert read_manifest(pool_to_manifest(pool), "it").items == (pool,)


@given(churns(FLEET, min_size=1, max_size=9))
def test_churn_releases_what_is_held_and_never_uses_an_owner_twice(steps: tuple[PodStep, ...]) -> None:
    held: set[tuple[str, str]] = set()
    owners: set[str] = set()
    for step in steps:
        if step.action == "allocate":
            assert step.owner not in owners
            owners.add(step.owner)
            held.add((step.node, step.owner))
        else:
            held.remove((step.node, step.owner))

    assert 1 <= len(steps) <= 9
    assert {step.node for step in steps} <= {node.name for node in FLEET}


@given(churns())
def test_churn_is_for_any_allocator(steps: tuple[PodStep, ...]) -> None:
    allocator = NodeAllocator(["10.0.0.0/24"])
    for step in steps:
        getattr(allocator, step.action)(step.owner)


# ---------------------------------------------------------------------------------------------- all that is valid


def test_addresses_and_prefixes_come_from_both_families_and_from_their_edges() -> None:
    def shown(*texts: str) -> dict[str, Callable[[object], bool]]:
        return {text: lambda value, text=text: str(value) == text for text in texts}  # type: ignore[misc]  # a default binds it

    last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    assert missing(addresses(), **shown("0.0.0.0", "255.255.255.255", "::", last)) == []  # noqa: S104 - no socket listens there
    assert missing(addresses(within="10.1.0.0/16"), **shown("10.1.0.0", "10.1.255.255")) == []
    assert missing(prefixes(), **shown("0.0.0.0/0", "255.255.255.255/32", "10.0.0.0/24", "fd00::/64", "::/0", f"{last}/128")) == []
    assert missing(
        disjoint_prefixes(),
        neighbours=lambda found: any(int(one.broadcast_address) + 1 == int(other.network_address) for one in found for other in found),
        first=lambda found: any(not int(each.network_address) for each in found),
        last=lambda found: any(int(each.broadcast_address) + 1 == 1 << each.max_prefixlen for each in found),
        mapped=lambda found: any(str(each).startswith("::ffff:") for each in found),
        many=lambda found: len(found) == 6,
    ) == []  # fmt: skip
    assert missing(range_texts("10.0.0.0/24"), dash=lambda text: "-" in text, cidr=lambda text: "/" in text, one=lambda text: len(text) < 9) == []


def test_labels_are_also_such_as_kubernetes_only_just_allows() -> None:
    assert missing(
        nodes(),
        long_name=lambda node: len(node.name) == 253,
        dots=lambda node: "." in node.name,
        empty=lambda node: "" in node.labels.values(),
        long_value=lambda node: any(len(value) == 63 for value in node.labels.values()),
        long_prefix=lambda node: any(len(key) == 253 + 2 for key in node.labels),
        like_the_field=lambda node: NAME_FIELD in node.labels,
        several=lambda node: len(node.labels) == 4,
    ) == []  # fmt: skip
    assert missing(fleets(), **{key: lambda fleet, key=key: key in fleet[0].labels for key in ("rack", "zone", "size", "cpus")}) == []


def test_selectors_have_all_operators_and_all_forms() -> None:
    operators = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")

    def parts(selector: NodeSelector) -> list[Requirement]:
        return [each for term in selector.terms for each in (*term.expressions, *term.names)]

    assert missing(
        selectors(),
        several_terms=lambda found: len(found.terms) == 3,
        both=lambda found: any(term.names and term.expressions for term in found.terms),
        several_values=lambda found: any(len(each.values) == 3 for each in parts(found)),
        everything=lambda found: found == NodeSelector.everything(),
        **{name: lambda found, name=name: any(each.operator == name for each in parts(found)) for name in operators},
    ) == []  # fmt: skip
    for strategy in (selectors(selects=FLEET), selectors(refuses=FLEET)):
        signs = (">", "!=", " or ", "field")
        assert missing(strategy, **{sign: lambda found, sign=sign: sign in str(found) for sign in signs}) == []


def test_every_field_of_a_pool_varies() -> None:
    plain = PoolSpec(name="pool-a", cidrs=["10.0.0.0/24"], selector=NodeSelector.everything())

    assert missing(
        pools(),
        **{name: lambda pool, name=name: getattr(pool, name) != getattr(plain, name) for name in PoolSpec._fields},
        only_v4=lambda pool: pool.families == (4,),
        only_v6=lambda pool: pool.families == (6,),
        both=lambda pool: pool.families == (4, 6),
        many_cidrs=lambda pool: len(pool.cidrs) > 3,
        neighbours=lambda pool: any(one.last + 1 == other.network for one in pool.cidrs for other in pool.cidrs),
        range=lambda pool: any(first != last for _, first, last in pool.reserved),
        lengths_of_v6=lambda pool: any(length.v4 is None for length in pool.block_lengths),
        lengths_of_both=lambda pool: any(length.v4 and length.v6 for length in pool.block_lengths),
        several_lengths=lambda pool: len(pool.block_lengths) == 2,
        part_of_a_second=lambda pool: pool.reuse_delay % 1,
        extreme_priority=lambda pool: abs(pool.priority) >= (1 << 31) - 1,
        large_seed=lambda pool: pool.seed >> 32,
        sparse=lambda pool: pool.carving == "sparse",
        random=lambda pool: pool.address_policy == "random",
        as_many_as_at_once=lambda pool: pool.max_blocks_per_node == pool.blocks_per_node,
        one_block=lambda pool: pool.blocks(pool.families[0]) == 1,
        very_many_blocks=lambda pool: pool.blocks(pool.families[0]) > 1 << 20,
    ) == []  # fmt: skip


def test_churn_fills_and_empties_several_nodes() -> None:
    assert missing(
        churns(FLEET),
        all_nodes=lambda steps: len({step.node for step in steps}) == 3,
        many_pods=lambda steps: sum(step.action == "allocate" for step in steps) > 15,
        all_gone=lambda steps: steps and sum(1 if step.action == "allocate" else -1 for step in steps) == 0,
        not_in_order=lambda steps: (gone := [step.owner for step in steps if step.action == "release"]) != sorted(gone),
    ) == []  # fmt: skip


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: addresses(family=6, within="10.0.0.0/24"), "10.0.0.0/24 is not a prefix of IPv6"),
        (lambda: prefixes(within="10.0.0.0/24", max_length=23), "no prefix of 10.0.0.0/24 has a length of 0 to 23"),
        (lambda: find(selectors(selects=FLEET, refuses=FLEET), bool), "not both"),
        (lambda: find(pools(min_blocks=3, max_blocks=3), bool), "no CIDR makes 3 to 3 blocks"),
        (lambda: find(pools(families=(4, 5)), bool), "no family 5"),
        (lambda: find(pools(families=(4,), min_blocks=1 << 32), bool), "fits the family"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_reason(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        make()


def test_every_public_name_is_there() -> None:
    assert all(hasattr(strategies, name) for name in strategies.__all__)


def test_every_module_of_the_kit_and_every_strategy_is_named_on_its_page() -> None:
    folder = Path(testing.__file__).parent
    page = (folder.parents[1] / "docs" / "reference" / "testing.md").read_text()
    modules = {each.stem for each in folder.iterdir() if (each.suffix == ".py" or (each / "__init__.py").exists()) and each.stem[0] != "_"}
    strategies_named = set(strategies.__all__)

    assert len(modules) > 15
    assert sorted(name for name in modules if f"`{name}`" not in page) == []
    assert sorted(name for name in strategies_named if not re.search(rf"`{name}\b", page)) == []
