"""`ciliumipam.selector_index` against the oracle and against `NodeSelector.matched`, one selector after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ciliumipam import selector_index
from ciliumipam.node import Node
from ciliumipam.selector import NodeSelector
from ciliumipam.selector_index import Match, SelectorIndex
from ciliumipam.testing import selector_oracle as oracle

KEYS = ["a", "b", "metadata.name"]
VALUES = ["", "1", "7", "x"]
NAMES = ["", "node-1", "node-2"]
ALL_LABELS = [
    {key: value for key, value in zip(KEYS, chosen, strict=True) if value is not None}
    for chosen in product([None, *VALUES], repeat=len(KEYS))
]
OPERATORS = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
Items = list[dict[str, Any]]
"""Node selector terms; None stands for the LabelSelector that selects everything, which they cannot say."""


@st.composite
def expressions(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(OPERATORS))
    item: dict[str, Any] = {"key": draw(st.sampled_from(KEYS)), "operator": operator}
    if operator in {"In", "NotIn"}:
        item["values"] = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=2))
    elif operator in {"Gt", "Lt"}:
        item["values"] = [draw(st.sampled_from(["0", "1", "3", "7", "007", "9"]))]
    return item


def on_name(operator: str, name: str) -> dict[str, Any]:
    return {"key": "metadata.name", "operator": operator, "values": [name]}


name_expressions = st.builds(on_name, st.sampled_from(["In", "NotIn"]), st.sampled_from(NAMES[1:]))
terms = st.fixed_dictionaries(
    {},
    optional={
        "matchExpressions": st.lists(expressions(), min_size=1, max_size=3),
        "matchFields": st.lists(name_expressions, min_size=1, max_size=2),
    },
)
many_items = st.lists(st.none() | st.lists(terms, min_size=1, max_size=4), max_size=7)


def selectors_of(many: Sequence[Items | None]) -> list[NodeSelector]:
    return [NodeSelector.everything() if items is None else NodeSelector.from_terms(items) for items in many]


def expected_matches(many: Sequence[Items | None], labels: Mapping[str, str], name: str) -> list[tuple[int, int]]:
    found = []
    for position, items in enumerate(many):
        count = 0 if items is None else oracle.matched(oracle.read_terms(items), labels, name)
        if count is not None:
            found.append((position, count))
    return found


def one_after_the_other(
    selectors: Sequence[NodeSelector], labels: Mapping[str, str], name: str
) -> list[tuple[int, int]]:
    tried = [(position, selector.matched(labels, name)) for position, selector in enumerate(selectors)]
    return [(position, count) for position, count in tried if count is not None]


@given(many_items)
@example([])
@example([None])
@example([[{}], None, [{}]])
@example([[{"matchFields": [on_name("In", "node-1")]}], [{"matchFields": [on_name("NotIn", "node-1")]}]])
@example([[{"matchExpressions": [on_name("In", "node-1")], "matchFields": [on_name("In", "node-1")]}]])
@example(
    [
        [
            {
                "matchExpressions": [
                    {"key": "a", "operator": "Gt", "values": ["1"]},
                    {"key": "a", "operator": "Lt", "values": ["9"]},
                ]
            }
        ]
    ]
)
@example(
    [
        [
            {"matchExpressions": [{"key": key, "operator": "Exists"}] * times}
            for key, times in (("a", 3), ("b", 2), ("b", 1))
        ],
        None,
    ]
)
def test_the_index_finds_what_the_oracle_matches_on_every_node_that_there_can_be(many: list[Items | None]) -> None:
    index = SelectorIndex(iter(selectors_of(many)))

    for labels, name in product(ALL_LABELS, NAMES):
        found = index.matching(labels, name)

        expected = expected_matches(many, labels, name)
        assert list(found) == list(found) == expected
        assert len(found) == len(expected)


# ------------------------------------------------------------------------------------------- many selectors, many nodes


def some_nodes(chance: Random, count: int) -> list[Node]:
    nodes = []
    for number in range(count):
        labels = {"host": f"node-{number}", "zone": chance.choice("abc"), "cpus": str(chance.choice((4, 8, 16)))}
        labels |= {"rack": f"r{chance.randrange(40)}"} if chance.random() < 0.9 else {}
        labels |= {"since": str(chance.randrange(10**6))} if chance.random() < 0.9 else {}
        labels |= {f"team-{chance.randrange(100)}": ""} if chance.random() < 0.5 else {}
        nodes.append(Node(f"node-{number}", labels))
    return nodes


def some_selector(chance: Random, operators: Sequence[str]) -> NodeSelector:
    """One to three terms of one to three requirements; the label keys repeat, or belong to few selectors."""
    items: Items = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        wanted = []
        for _ in range(chance.randint(1, 3)):
            operator = chance.choice(operators)
            key = chance.choice(("host", "zone", "rack", f"team-{chance.randrange(100)}"))
            item: dict[str, Any] = {"key": key, "operator": operator}
            if operator in {"Gt", "Lt"}:
                item |= {"key": "since", "values": [str(chance.randrange(10**6))]}
            elif operator in {"In", "NotIn"}:
                pool = {"zone": list("abcd"), "rack": [f"r{i}" for i in range(50)]}.get(
                    key, [f"node-{i}" for i in range(60)]
                )
                item["values"] = chance.sample(pool, chance.randint(1, 3))
            wanted.append(item)
        items.append({"matchExpressions": wanted})
        if chance.random() < 0.1:
            items[-1]["matchFields"] = [on_name(chance.choice(("In", "NotIn")), f"node-{chance.randrange(60)}")]
    return NodeSelector.from_terms(items)


@pytest.mark.parametrize("operators", [OPERATORS, *([each] for each in OPERATORS)], ids="-".join)
@pytest.mark.parametrize("small", [False, True], ids=["as-it-is", "with-the-smallest-memory"])
def test_the_index_agrees_with_each_selector_by_itself(
    operators: list[str], small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is made small so that it overflows, and steps so wide that thresholds lie between two of them."""
    if small:
        monkeypatch.setattr(selector_index, "_FEWEST", 1)
        monkeypatch.setattr(selector_index, "_MEMO_BITS", 1)
        monkeypatch.setattr(selector_index, "_RUNGS", 7)
    chance = Random(f"{operators} {small}")
    selectors = [some_selector(chance, operators) for _ in range(120)]
    index = SelectorIndex(selectors)
    found = 0

    for node in some_nodes(chance, 60):
        matches = list(index.matching(node.labels, node.name))
        assert matches == one_after_the_other(selectors, node.labels, node.name)
        found += len(matches)

    assert found


def test_few_matches_among_many_selectors_are_listed_as_many_are() -> None:
    index = SelectorIndex([NodeSelector.parse(f"rack=r{i},!cordoned") for i in range(500)])

    assert list(index.matching({"rack": "r499"})) == [Match(499, 2)]
    assert list(index.matching({"rack": "r0"})) == [Match(0, 2)]
    assert list(index.matching({"rack": "r500"})) == []
    assert next(iter(index.matching({"rack": "r77"}))) == (77, 2)


def test_of_several_terms_that_hold_the_largest_counts_wherever_it_stands() -> None:
    large = {"matchExpressions": [{"key": key, "operator": "Exists"} for key in "ab"]}
    small = {"matchExpressions": [{"key": "c", "operator": "Exists"}]}
    other = {"matchExpressions": [{"key": "d", "operator": "Exists"}]}
    index = SelectorIndex([NodeSelector.from_terms(items) for items in ([small, large, other], [other, small])])

    assert list(index.matching(dict.fromkeys("abcd", ""))) == [Match(0, 2), Match(1, 1)]
    assert list(index.matching({"c": "", "d": ""})) == [Match(0, 1), Match(1, 1)]
    assert list(index.matching({"d": ""})) == [Match(0, 1), Match(1, 1)]
    assert list(index.matching({"a": "", "b": ""})) == [Match(0, 2)]


def test_the_matches_show_what_they_are() -> None:
    index = SelectorIndex([NodeSelector.everything(), NodeSelector.nothing(), NodeSelector.parse("a,b")])

    assert repr(index.matching({"a": "", "b": ""})) == "<Matches: 0 (0), 2 (2)>"
    assert repr(SelectorIndex([]).matching({})) == "<Matches: none>"
    assert not SelectorIndex([NodeSelector.nothing()]).matching({})


# ----------------------------------------------------------------------------------------------------------- memory


def kept(index: SelectorIndex) -> int:
    return sum(map(len, index._columns.values())) + len(index._names)


def test_values_that_no_selector_asks_for_are_not_kept() -> None:
    index = SelectorIndex(
        [NodeSelector.parse("host=node-7,rack in (r1,r2)"), NodeSelector.parse("host!=node-8,zone,!team")]
    )

    for number in range(1000):
        index.matching(
            {"host": f"node-{number}", "rack": f"r{number}", "zone": f"z{number}", "team": f"{number}"}, f"n{number}"
        )

    assert kept(index) == len(("node-7", "node-8", "r1", "r2"))


def test_numbers_that_are_compared_are_kept_only_up_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector_index, "_FEWEST", 10)
    monkeypatch.setattr(selector_index, "_MEMO_BITS", 1)
    index = SelectorIndex([NodeSelector.parse("since>500")])

    found = []
    for number in range(1000):
        found.append(len(index.matching({"since": str(number)})))
        assert kept(index) <= 10

    assert found == [0] * 501 + [1] * 499


def test_the_memory_of_a_key_grows_with_the_width_of_its_numbers() -> None:
    selectors = [NodeSelector.parse(f"since>{number}") for number in range(2000)]
    index = SelectorIndex(selectors)

    for number in range(20_000):
        assert len(index.matching({"since": str(number)})) == min(number, 2000)

    assert kept(index) <= selector_index._MEMO_BITS // (2 * 2000)


def test_threads_may_share_an_index_also_while_its_memory_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector_index, "_FEWEST", 2)
    monkeypatch.setattr(selector_index, "_MEMO_BITS", 1)
    chance = Random(4)
    selectors = [some_selector(chance, OPERATORS) for _ in range(40)]
    nodes = some_nodes(chance, 100)
    index = SelectorIndex(selectors)

    def look(_: int) -> list[list[Match]]:
        return [list(index.matching(node.labels, node.name)) for node in nodes]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(look, range(8)))

    expected = [one_after_the_other(selectors, node.labels, node.name) for node in nodes]
    assert all(result == expected for result in results)
