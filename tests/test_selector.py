"""`ciliumipam.selector` and the rules for names against the oracle, and against what Kubernetes' own tests and sources say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ciliumipam.errors import InvalidNameError, InvalidSelectorError
from ciliumipam.names import (
    describe,
    label_key_problem,
    label_value_problem,
    unknown_field,
    validate_name,
    validate_owner,
)
from ciliumipam.node import Node
from ciliumipam.requirement import Requirement, whole_number
from ciliumipam.selector import NodeSelector, Term
from ciliumipam.testing import selector_oracle as oracle

# Few keys and values, so that requirements meet labels; words of the syntax and a number in a strange form among them.
CHARACTERS = "allowed are letters, digits, '-', '_' and '.'; it begins and ends with a letter or digit"
NAME = (
    "allowed are lower-case letters, digits, '-' and '.';"
    " every part between dots begins and ends with a letter or digit, as in node-1.example.com"
)
KEYS = ["a", "in", "metadata.name"]
VALUES = ["", "1", "notin", "007"]
NUMBERS = ["0", "1", "06", "7", "9223372036854775807"]
NAMES = ["", "node-1", "node-2"]
keys = st.sampled_from(KEYS)
values = st.sampled_from(VALUES)
ALL_LABELS = [
    {key: value for key, value in zip(KEYS, chosen, strict=True) if value is not None}
    for chosen in product([None, *VALUES], repeat=len(KEYS))
]
"""Every node that there can be with these keys and values: 125."""
label_sets = st.sampled_from(ALL_LABELS)


@st.composite
def expressions(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
    item: dict[str, Any] = {"key": draw(keys), "operator": operator}
    if operator in {"In", "NotIn"}:
        item["values"] = draw(st.lists(values, min_size=1, max_size=4))
    elif draw(st.booleans()):
        item["values"] = draw(st.sampled_from([[], None]))
    return item


@st.composite
def term_expressions(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        return draw(expressions())
    return {
        "key": draw(keys),
        "operator": draw(st.sampled_from(["Gt", "Lt"])),
        "values": [draw(st.sampled_from(NUMBERS))],
    }


name_expressions = st.fixed_dictionaries(
    {
        "key": st.just("metadata.name"),
        "operator": st.sampled_from(["In", "NotIn"]),
        "values": st.lists(st.sampled_from(NAMES[1:]), min_size=1, max_size=1),
    }
)
terms = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "matchExpressions": st.none() | st.lists(term_expressions(), max_size=2),
        "matchFields": st.none() | st.lists(name_expressions, max_size=2),
    },
)
term_lists: st.SearchStrategy[list[Any]] = st.lists(terms, min_size=1, max_size=4)


@st.composite
def label_selectors(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly one or two requirements, since a selector with many seldom matches anything."""
    mapping: dict[str, Any] = {}
    if draw(st.booleans()):
        mapping["matchLabels"] = draw(st.none() | st.dictionaries(keys, values, min_size=1, max_size=2))
    if not mapping or draw(st.booleans()):
        mapping["matchExpressions"] = draw(st.lists(expressions(), min_size=1, max_size=3))
    return mapping


spaces = st.text(" \t\r\n", max_size=2)
tokens = st.sampled_from(
    [
        *KEYS,
        *VALUES[1:],
        "notin",
        "x.y/Z_1",
        "=",
        "==",
        "!=",
        "!",
        "(",
        ")",
        ",",
        ",",
        ">",
        "<",
        "12",
        "-bad",
        "a b",
        "ä",
        "\0",
        "\f",
    ]
)


@st.composite
def almost_selectors(draw: st.DrawFn) -> str:
    """Texts from the alphabet of selectors: right ones, near misses and nonsense."""
    parts = draw(st.lists(st.tuples(spaces, tokens), max_size=9))
    return "".join(space + token for space, token in parts) + draw(spaces)


@st.composite
def list_texts(draw: st.DrawFn) -> str:
    inside = draw(st.lists(st.sampled_from([",", ",", "a", "1", "in", " ", "\t"]), max_size=8))
    return f"a {draw(st.sampled_from(['in', 'notin']))} ({''.join(inside)})"


# ----------------------------------------------------------------------------------------------------- semantics


@given(label_selectors())
def test_matching_agrees_with_the_oracle_on_every_node_that_there_can_be(mapping: dict[str, Any]) -> None:
    selector = NodeSelector.from_label_selector(mapping)

    found = [labels for labels in ALL_LABELS if selector.matches(labels)]

    assert found == [labels for labels in ALL_LABELS if oracle.matches(oracle.read(mapping), labels)]


@given(label_selectors())
def test_the_explanation_names_exactly_the_requirements_that_fail(mapping: dict[str, Any]) -> None:
    selector = NodeSelector.from_label_selector(mapping)
    read = oracle.read(mapping) or []

    for labels in ALL_LABELS:
        text = selector.explain(labels)

        failing = oracle.failing(read, labels)
        if failing:
            assert sorted(part.split(" ")[0] for part in text.split("; ")) == sorted(key for key, _, _ in failing)
        elif read:
            assert text == f"the node meets {str(selector)!r}"
        else:
            assert text == "the selector selects every node"


@given(label_selectors())
def test_every_entry_and_every_expression_counts_one(mapping: dict[str, Any]) -> None:
    selector = NodeSelector.from_label_selector(mapping)

    assert selector.requirements == len(mapping.get("matchLabels") or {}) + len(mapping.get("matchExpressions") or [])


@given(label_sets)
def test_an_absent_selector_selects_nothing_and_an_empty_one_everything(labels: dict[str, str]) -> None:
    assert not NodeSelector.from_label_selector(None).matches(labels)
    assert NodeSelector.from_label_selector({}).matches(labels)
    assert NodeSelector.from_label_selector({"matchLabels": None, "matchExpressions": []}).matches(labels)
    assert NodeSelector.parse("").matches(labels)
    assert NodeSelector.parse(" \t\r\n").matches(labels)


def test_nothing_and_everything_are_two_different_values() -> None:
    assert NodeSelector.from_label_selector(None) == NodeSelector.nothing()
    assert NodeSelector.from_label_selector({}) == NodeSelector.everything()
    assert NodeSelector.nothing() != NodeSelector.everything()
    assert NodeSelector.nothing().to_label_selector() is None
    assert NodeSelector.everything().to_label_selector() == {}


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("x=y", {"x": "y"}, True),
        ("x=y,z=w", {"x": "y", "z": "w"}, True),
        ("x=y,z=w", {"x": "y"}, False),
        ("x!=y", {}, True),
        ("x!=y", {"x": ""}, True),
        ("x notin (y)", {}, True),
        ("x notin (y)", {"x": "y"}, False),
        ("x in (y,z)", {}, False),
        ("x=", {}, False),
        ("x=", {"x": ""}, True),
        ("x in (,y)", {}, False),
        ("x in (,y)", {"x": ""}, True),
        ("x notin (,y)", {"x": ""}, False),
        ("x notin (,y)", {}, True),
        ("x", {"x": ""}, True),
        ("x", {}, False),
        ("!x", {"x": ""}, False),
        ("!x", {}, True),
        ("notin=in", {"notin": "in"}, True),
        ("a in (x,notin,in)", {"a": "in"}, True),
        ("x", {"X": "1"}, False),
        ("x=Y", {"x": "y"}, False),
    ],
)
def test_the_rules_that_are_easily_got_wrong(text: str, labels: dict[str, str], matches: bool) -> None:
    assert NodeSelector.parse(text).matches(labels) is matches
    assert oracle.matches(oracle.parse(text), labels) is matches


def test_matching_takes_any_mapping_and_leaves_it_alone() -> None:
    node = Node("node-1", {"kubernetes.io/hostname": "node-1"})

    assert NodeSelector.parse("kubernetes.io/hostname=node-1,!rack").matches(node.labels)
    assert dict(node.labels) == {"kubernetes.io/hostname": "node-1"}


# ---------------------------------------------------------------------------------------------------------- text


def as_expressions(selector: NodeSelector) -> list[oracle.Expression]:
    """Of a selector that a LabelSelector or a text can say."""
    assert len(selector.terms) < 2
    assert not any(term.names for term in selector.terms)
    return [(r.key, r.operator, frozenset(r.values)) for term in selector.terms for r in term.expressions]


def check_text(text: str) -> None:
    try:
        expected = oracle.parse(text)
    except ValueError:
        with pytest.raises(InvalidSelectorError):
            NodeSelector.parse(text)
    else:
        by_key = sorted(expected, key=lambda expression: (expression[0], expression[1], sorted(expression[2])))
        assert as_expressions(NodeSelector.parse(text)) == by_key


@given(almost_selectors())
@example("x=a||y=b")
@example("!x in (a)")
@example("x in (a b)")
@example("a\0,b")
@example("\0 anything")
@example("a,\0")
@example("a) , b(")
@example("! x")
@example("\fx")
@example("x=\u00a0a")
@example("x=-a")
@example("x =! a")
@example("x > 1,x<\t07")
@example("x>1_0")
@example("x>9223372036854775807")
@example("x>9223372036854775808")
@example("x>\u0661")
@example("x in (a>1)")
@example("in>1")
@example("x in>1")
@example("!x>1")
@example("x>1>2")
@example("x=>1")
@example("x>")
@example("x>,y")
def test_parsing_accepts_and_refuses_what_the_oracle_does(text: str) -> None:
    check_text(text)


@given(list_texts())
@example("a in (1,,)")
@example("a in (1,,,)")
@example("a in (,,)")
@example("a in (,)")
@example("a in (1,,,,1)")
def test_superfluous_commas_in_a_list_mean_what_they_mean_in_kubernetes(text: str) -> None:
    check_text(text)


@given(st.text())
def test_any_text_is_a_selector_or_a_typed_error(text: str) -> None:
    check_text(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("x in (b,a)", "x in (a,b)"),
        ("x in (a)", "x=a"),
        ("x==a", "x=a"),
        ("x notin (a)", "x!=a"),
        ("x notin(b,a,b)", "x notin (a,b)"),
        ("x in ()", "x="),
        ("x in (a,)", "x in (,a)"),
        (" z , ! y , x = a ", "x=a,!y,z"),
        ("in in (in)", "in=in"),
        ("notin notin (notin,in)", "notin notin (in,notin)"),
        ("x\tin\r\n(a,b)", "x in (a,b)"),
        ("a=,b", "a=,b"),
        ("x=a,x=a", "x=a,x=a"),
        ("x=b,x=a", "x=a,x=b"),
        ("!in", "!in"),
        ("foo.example.com/bar", "foo.example.com/bar"),
        ("x > 1", "x>1"),
        ("x<\r\n007,x>1", "x>1,x<7"),
        ("x<000", "x<0"),
    ],
)
def test_a_selector_has_one_canonical_text(text: str, canonical: str) -> None:
    assert str(NodeSelector.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (",", "expected a label key, found ','"),
        ("x,", "expected a requirement after the comma, found the end"),
        (",x", "expected a label key, found ','"),
        ("x,,y", "expected a label key, found ','"),
        ("!x=a", "expected a comma or the end, found '='"),
        ("!x in (a)", "expected a comma or the end, found 'in'"),
        ("!!x", "expected a label key, found '!'"),
        ("!", "expected a label key, found the end"),
        ("x==a==b", "expected a comma or the end, found '=='"),
        ("x===a", "expected a value, found '='"),
        ("x=a||y=b", f"the value 'a||y' is not a label value: {CHARACTERS}"),
        ("x in a", "expected '(', found 'a'"),
        ("x in", "expected '(', found the end"),
        ("x in (a b)", "expected ',' or ')', found 'b'"),
        ("x in (a", "expected ',' or ')', found the end"),
        ("x in (a,", "expected a value, ',' or ')', found the end"),
        ("x in (", "expected a value, ',' or ')', found the end"),
        ("x in (a,,)", "expected a value, ',' or ')', found ')'"),
        ("x in ((a))", "expected a value, ',' or ')', found '('"),
        ("x In (a)", "expected in, notin, =, ==, !=, > or < after 'x', found 'In'"),
        ("x (a)", "expected in, notin, =, ==, !=, > or < after 'x', found '('"),
        ("x y", "expected in, notin, =, ==, !=, > or < after 'x', found 'y'"),
        ("x>=1", "expected a value, found '='"),
        ("x<<1", "expected a value, found '<'"),
        ("x>(1)", "expected a value, found '('"),
        ("x>1 2", "expected a comma or the end, found '2'"),
        ("!x>1", "expected a comma or the end, found '>'"),
        ("x>", "Gt compares with a whole number of 64 bits, found ''"),
        ("x<a", "Lt compares with a whole number of 64 bits, found 'a'"),
        ("x>1_0", "Gt compares with a whole number of 64 bits, found '1_0'"),
        ("x>1.5", "Gt compares with a whole number of 64 bits, found '1.5'"),
        ("x>9223372036854775808", "Gt compares with a whole number of 64 bits, found '9223372036854775808'"),
        ("x>-1", f"the value '-1' is not a label value: {CHARACTERS}"),
        ("x>+1", f"the value '+1' is not a label value: {CHARACTERS}"),
        ("x=a\0", "it contains a NUL character"),
        ("/x", "the key '/x' is not a label key: the part before '/': it is empty"),
        ("a/", "the key 'a/' is not a label key: its name part is empty"),
        ("a/b/c", "the key 'a/b/c' is not a label key: it has more than one '/'"),
        ("Example.com/x", f"the key 'Example.com/x' is not a label key: the part before '/': {NAME}"),
        ("x=-a", f"the value '-a' is not a label value: {CHARACTERS}"),
        ("x=ä", f"the value 'ä' is not a label value: {CHARACTERS}"),
        ("x" * 64, f"the key '{'x' * 64}' is not a label key: it has 64 characters, allowed are 63"),
    ],
)
def test_a_text_that_kubernetes_refuses_is_refused_with_the_part_at_fault(text: str, reason: str) -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        NodeSelector.parse(text)

    assert caught.value.expression == text
    assert caught.value.reason == reason


# ---------------------------------------------------------------------------------------------------- round trips


@given(label_selectors())
def test_the_canonical_text_reads_back_as_an_equal_selector(mapping: dict[str, Any]) -> None:
    selector = NodeSelector.from_label_selector(mapping)

    again = NodeSelector.parse(str(selector))

    assert again == selector
    assert hash(again) == hash(selector)
    assert str(again) == str(selector)


@given(st.none() | label_selectors())
def test_the_mapping_reads_back_as_an_equal_selector(mapping: dict[str, Any] | None) -> None:
    selector = NodeSelector.from_label_selector(mapping)

    again = NodeSelector.from_label_selector(selector.to_label_selector())

    assert again == selector
    assert again.requirements == selector.requirements


@given(label_selectors(), st.randoms(use_true_random=False))
def test_the_order_of_entries_and_values_makes_no_difference(mapping: dict[str, Any], random: Any) -> None:
    shuffled = copy.deepcopy(mapping)
    if shuffled.get("matchLabels"):
        pairs = list(shuffled["matchLabels"].items())
        random.shuffle(pairs)
        shuffled["matchLabels"] = dict(pairs)
    for item in shuffled.get("matchExpressions") or []:
        random.shuffle(item.get("values") or [])
    random.shuffle(shuffled.get("matchExpressions") or [])

    one, other = (NodeSelector.from_label_selector(each) for each in (mapping, shuffled))

    assert one == other
    assert (str(one), repr(one), one.to_label_selector()) == (str(other), repr(other), other.to_label_selector())


@given(st.none() | label_selectors(), label_sets)
def test_a_selector_survives_pickling_and_copying_and_still_matches(
    mapping: dict[str, Any] | None, labels: dict[str, str]
) -> None:
    selector = NodeSelector.from_label_selector(mapping)

    for again in (pickle.loads(pickle.dumps(selector)), copy.deepcopy(selector)):  # noqa: S301 - our own bytes
        assert again == selector
        assert again.matches(labels) == selector.matches(labels)


def test_a_selector_cannot_be_changed() -> None:
    selector = NodeSelector.parse("x=a")

    with pytest.raises(AttributeError, match="never changes"):
        selector.terms = ()  # type: ignore[misc]  # the very thing that must not work
    with pytest.raises((TypeError, AttributeError)):
        selector.surprise = 1  # type: ignore[attr-defined]  # the very thing that must not work


def test_the_representation_shows_which_selector_it_is() -> None:
    assert repr(NodeSelector.nothing()) == "NodeSelector.nothing()"
    assert repr(NodeSelector.everything()) == "NodeSelector.everything()"
    assert repr(NodeSelector.parse("x in (a,b)")) == "NodeSelector.parse('x in (a,b)')"
    assert str(NodeSelector.nothing()) == "<nothing>"
    assert str(NodeSelector.everything()) == ""


def test_the_text_of_nothing_never_reads_back_as_something_else() -> None:
    with pytest.raises(InvalidSelectorError):
        NodeSelector.parse(str(NodeSelector.nothing()))


# ---------------------------------------------------------------------------------------------------- explanation


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        (
            "kubernetes.io/hostname=node-1",
            {"kubernetes.io/hostname": "node-2"},
            "kubernetes.io/hostname in (node-1) but the node has node-2",
        ),
        ("rack in (a,b)", {}, "rack in (a, b) but the node has no such label"),
        ("rack in (,b)", {"rack": "c"}, 'rack in ("", b) but the node has c'),
        ("rack!=a", {"rack": "a"}, "rack notin (a) but the node has a"),
        ("rack", {}, "rack must be present but the node has no such label"),
        ("!rack", {"rack": "a"}, "rack must be absent but the node has a"),
        ("!rack", {"rack": ""}, "rack must be absent but the node has an empty value"),
        ("a in (1,2,3,4,5,6,7,8)", {}, "a in (1, 2, 3, 4, 5, 6, 7, 8) but the node has no such label"),
        ("a in (1,2,3,4,5,6,7,8,9)", {}, "a in (1, 2, 3, 4, 5, 6, 7, 8 and 1 more) but the node has no such label"),
        ("a<6", {"a": "7"}, "a must be less than 6 but the node has 7"),
        ("a=1,b=2", {"a": "1"}, "b in (2) but the node has no such label"),
        ("a=1,b=2", {}, "a in (1) but the node has no such label; b in (2) but the node has no such label"),
        ("a=1", {"a": "1"}, "the node meets 'a=1'"),
        ("", {"a": "1"}, "the selector selects every node"),
        ("a in (1,2,3,4,5,6,7,8,9,10)", {}, "a in (1, 10, 2, 3, 4, 5, 6, 7 and 2 more) but the node has no such label"),
    ],
)
def test_an_explanation_says_which_requirement_failed_and_what_the_node_has(
    text: str, labels: Mapping[str, str], expected: str
) -> None:
    assert NodeSelector.parse(text).explain(labels) == expected


def test_the_selector_of_nothing_explains_itself() -> None:
    assert NodeSelector.nothing().explain({"a": "1"}) == "the selector selects nothing"


# ---------------------------------------------------------------------------------------------- malformed mappings


@pytest.mark.parametrize(
    ("mapping", "path", "reason"),
    [
        ("x=a", "the text 'x=a'", "expected a mapping with matchLabels or matchExpressions, or nothing"),
        ([], "a list", "expected a mapping with matchLabels or matchExpressions, or nothing"),
        ({"matchLables": {}}, "matchLables", "unknown field; did you mean 'matchLabels'? (known: matchExpressions, matchLabels)"),
        ({"nodeSelectorTerms": []}, "nodeSelectorTerms", "unknown field (known: matchExpressions, matchLabels)"),
        ({1: {}}, "", "a field name is text, found the number 1"),
        ({"matchLabels": []}, "matchLabels", "expected a mapping of text to text, found a list"),
        ({"matchLabels": {1: "a"}}, "matchLabels", "a label key is text, found the number 1"),
        ({"matchLabels": {"a": 1}}, "matchLabels['a']", "expected text, found the number 1; put it in quotes"),
        ({"matchLabels": {"a": True}}, "matchLabels['a']", "expected text, found the boolean true; put it in quotes"),
        ({"matchLabels": {"a": None}}, "matchLabels['a']", "expected text, found nothing"),
        ({"matchLabels": {"a": {}}}, "matchLabels['a']", "expected text, found a mapping"),
        ({"matchLabels": {"a b": "c"}}, "matchLabels['a b']", f"the key 'a b' is not a label key: {CHARACTERS}"),
        ({"matchLabels": {"a": "b c"}}, "matchLabels['a']", f"the value 'b c' is not a label value: {CHARACTERS}"),
        ({"matchLabels": {"a": "b\n"}}, "matchLabels['a']", f"the value 'b\\n' is not a label value: {CHARACTERS}"),
        ({"matchLabels": {"a\n": "b"}}, "matchLabels['a\\n']", f"the key 'a\\n' is not a label key: {CHARACTERS}"),
        ({"matchLabels": {"a": "b" * 64}}, "matchLabels['a']", f"the value '{'b' * 64}' is not a label value: it has 64 characters, allowed are 63"),
        ({"matchExpressions": {}}, "matchExpressions", "expected a list, found a mapping"),
        ({"matchExpressions": "x"}, "matchExpressions", "expected a list, found the text 'x'"),
        ({"matchExpressions": ["x"]}, "matchExpressions[0]", "expected a mapping with key, operator and values, found the text 'x'"),
        ({"matchExpressions": [{}]}, "matchExpressions[0].key", "it is required"),
        ({"matchExpressions": [{"key": "a"}]}, "matchExpressions[0].operator", "it is required"),
        ({"matchExpressions": [{"key": 1, "operator": "In"}]}, "matchExpressions[0].key", "expected text, found the number 1; put it in quotes"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "in"}]}, "matchExpressions[1]", "operator 'in' is not one of In, NotIn, Exists, DoesNotExist"),
        ({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}, "matchExpressions[0]", "operator 'Gt' is not one of In, NotIn, Exists, DoesNotExist; it belongs to node selector terms"),
        ({"matchExpressions": [{"key": "a", "operator": "Lt", "values": ["1"]}]}, "matchExpressions[0]", "operator 'Lt' is not one of In, NotIn, Exists, DoesNotExist; it belongs to node selector terms"),
        ({"matchExpressions": [{"key": "a", "operator": "In"}]}, "matchExpressions[0]", "In needs at least one value"),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]}, "matchExpressions[0]", "NotIn needs at least one value"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, "matchExpressions[0]", "Exists takes no values, found 1"),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist", "values": ["b"]}]}, "matchExpressions[0]", "DoesNotExist takes no values, found 1"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": "b"}]}, "matchExpressions[0].values", "expected a list of texts, found the text 'b'"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", 1]}]}, "matchExpressions[0].values[1]", "expected text, found the number 1; put it in quotes"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "value": ["b"]}]}, "matchExpressions[0].value", "unknown field; did you mean 'values'? (known: key, operator, values)"),
    ],
)  # fmt: skip
def test_a_malformed_mapping_is_refused_with_path_and_reason(mapping: Any, path: str, reason: str) -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        NodeSelector.from_label_selector(mapping)

    assert caught.value.expression == path
    assert caught.value.reason == reason


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([*KEYS, "In", "Exists", "key", "operator", "values", "matchLabels", "matchExpressions"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["matchLabels", "matchExpressions", "key", "operator", "values"]) | st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["matchLabels", "matchExpressions", "x"]), json_like, max_size=2) | json_like)
def test_whatever_a_manifest_holds_is_a_selector_or_a_typed_error(value: Any) -> None:
    try:
        selector = NodeSelector.from_label_selector(value)
    except InvalidSelectorError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    else:
        assert as_expressions(selector) == sorted(oracle.read(value) or [])


@pytest.mark.parametrize(
    ("value", "found"), [(None, "nothing"), (1, "the number 1"), (b"x=a", "a value of type bytes"), (["x=a"], "a list")]
)
def test_parsing_something_that_is_no_text_is_refused(value: Any, found: str) -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        NodeSelector.parse(value)

    assert (caught.value.expression, caught.value.reason) == (found, "expected text")


def test_a_requirement_made_by_hand_is_checked_and_brought_into_normal_form() -> None:
    selector = NodeSelector((Term((Requirement("b", "In", ("2", "1", "2")), Requirement("a", "Exists", ()))),))

    assert selector == NodeSelector.parse("a,b in (1,2)")
    with pytest.raises(InvalidSelectorError, match="not a label key") as no_key:
        NodeSelector((Term((Requirement("a b", "Exists", ()),)),))
    assert no_key.value.expression == "a b"
    with pytest.raises(InvalidSelectorError, match=r"only metadata\.name can be matched as a field, found 'a'") as no_field:
        NodeSelector((Term((), (Requirement("a", "In", ("b",)),)),))
    assert no_field.value.expression == "a"
    with pytest.raises(InvalidSelectorError, match="Gt needs exactly one value, found 2"):
        NodeSelector((Term((Requirement("a", "Gt", ("1", "1")),)),))


def test_a_term_without_requirements_cannot_stand_beside_others_since_it_would_mean_everything() -> None:
    assert NodeSelector((Term(()), Term(()))) == NodeSelector.everything()
    with pytest.raises(InvalidSelectorError) as caught:
        NodeSelector((Term(()), Term((Requirement("a", "Exists", ()),))))
    assert caught.value.args == ("terms", "a term without requirements cannot stand beside others")


def test_the_error_of_a_huge_selector_does_not_repeat_it_whole() -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        NodeSelector.parse("x in (" + "a," * 100_000)

    assert len(str(caught.value)) < 400


# --------------------------------------------------------------------------------------------- node selector terms

ON_NODE_1 = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
HAS_A = {"matchExpressions": [{"key": "a", "operator": "Exists"}]}
MORE_THAN_SIX = {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["06"]}]}


@given(term_lists)
@example([None, {}])
@example([ON_NODE_1])
@example([MORE_THAN_SIX, HAS_A])
def test_terms_match_what_the_oracle_matches_and_as_many_requirements_of_them(items: list[Any]) -> None:
    selector = NodeSelector.from_terms(items)
    read = oracle.read_terms(items)

    for labels, name in product(ALL_LABELS, NAMES):
        expected = oracle.matched(read, labels, name)
        assert selector.matched(labels, name) == expected
        assert selector.matches(labels, name) == (expected is not None)


@given(label_selectors())
def test_a_label_selector_is_matched_with_all_its_requirements_or_not_at_all(mapping: dict[str, Any]) -> None:
    selector = NodeSelector.from_label_selector(mapping)

    for labels in ALL_LABELS:
        expected = selector.requirements if oracle.matches(oracle.read(mapping), labels) else None
        assert selector.matched(labels) == selector.matched(labels, "node-1") == expected


def test_an_empty_term_selects_nothing_and_a_list_of_them_as_well() -> None:
    assert NodeSelector.from_terms([{}]) == NodeSelector.nothing()
    assert NodeSelector.from_terms([None, {"matchExpressions": [], "matchFields": None}]).selects_nothing
    assert NodeSelector.from_terms([{}, HAS_A]) == NodeSelector.parse("a")
    assert not NodeSelector.everything().selects_nothing
    assert NodeSelector.nothing().selects_nothing
    assert NodeSelector.nothing().matched({}) is None
    assert NodeSelector.everything().matched({}) == NodeSelector.everything().requirements == 0


def test_a_requirement_on_the_name_is_ignored_for_a_node_without_one() -> None:
    only, both = NodeSelector.from_terms([ON_NODE_1]), NodeSelector.from_terms([ON_NODE_1 | HAS_A])

    assert [only.matches({}, name) for name in ("node-1", "node-2", "")] == [True, False, True]
    assert [both.matched({}, name) for name in ("node-1", "node-2", "")] == [None, None, None]
    assert [both.matched({"a": ""}, name) for name in ("node-1", "node-2", "")] == [2, None, 2]


def test_a_label_called_like_the_field_is_not_the_field() -> None:
    field, label = NodeSelector.from_terms([ON_NODE_1]), NodeSelector.parse("metadata.name=node-1")

    assert field != label
    assert not field.matches({"metadata.name": "node-1"}, "node-2")
    assert not label.matches({}, "node-1")


@pytest.mark.parametrize(
    ("threshold", "above", "below"),
    [
        ("5", ["6", "0006", "+6", "9223372036854775807"], ["4", "0", "-0", "-9223372036854775808", "004"]),
        ("005", ["6"], ["4"]),
        ("9223372036854775807", [], ["9223372036854775806", "0"]),
        ("0", ["1"], ["-1"]),
    ],
)
def test_gt_and_lt_compare_as_numbers_and_never_hold_for_anything_else(
    threshold: str, above: list[str], below: list[str]
) -> None:
    more, less = NodeSelector.parse(f"x>{threshold}"), NodeSelector.parse(f"x<{threshold}")
    no_numbers = [
        "",
        "a",
        "5.0",
        "6_0",
        " 6",
        "6 ",
        "6\n",
        "0x6",
        "--6",
        "+",
        "٦",
        "6e1",
        "9223372036854775808",
        "6" * 5000,
    ]

    for value in (*above, *below, threshold, *no_numbers):
        assert more.matches({"x": value}) is (value in above)
        assert less.matches({"x": value}) is (value in below)
    assert not more.matches({})
    assert not less.matches({})


@given(st.text("+-0123456789_ ٣", max_size=24) | st.integers(-(1 << 64), 1 << 64).map(str) | st.text(max_size=3))
@example("9223372036854775807")
@example("9223372036854775808")
@example("-9223372036854775808")
@example("-9223372036854775809")
@example("0" * 5000 + "7")
@example("-0")
@example("+")
def test_a_whole_number_is_what_the_oracle_reads(text: str) -> None:
    assert whole_number(text) == oracle.integer(text)


@given(term_lists, st.randoms(use_true_random=False))
def test_terms_that_mean_the_same_are_equal_whatever_their_order(items: list[Any], random: Any) -> None:
    shuffled = copy.deepcopy([*items, random.choice(items)])
    random.shuffle(shuffled)
    for item in shuffled:
        for part in (item or {}).values():
            random.shuffle(part or [])

    one, other = NodeSelector.from_terms(items), NodeSelector.from_terms({"nodeSelectorTerms": shuffled})

    assert one == other
    assert hash(one) == hash(other)
    assert (str(one), repr(one), one.to_manifest()) == (str(other), repr(other), other.to_manifest())
    assert list(one.terms) == sorted(set(one.terms))


selectors = st.none().map(NodeSelector.from_label_selector) | label_selectors().map(NodeSelector.from_label_selector)
selectors |= term_lists.map(NodeSelector.from_terms) | st.just(NodeSelector.everything())


@given(selectors)
def test_a_selector_reads_back_from_each_form_that_can_say_it(selector: NodeSelector) -> None:
    one_term = len(selector.terms) == 1
    on_labels = one_term and not selector.terms[0].names
    compares = any(each.operator in {"Gt", "Lt"} for term in selector.terms for each in term.expressions)

    assert NodeSelector.from_manifest(selector.to_manifest()) == selector
    assert eval(repr(selector), {"NodeSelector": NodeSelector}) == selector  # noqa: S307 - our own text
    assert pickle.loads(pickle.dumps(selector)) == selector  # noqa: S301 - our own bytes
    if on_labels:
        assert NodeSelector.parse(str(selector)) == selector
    else:
        with pytest.raises(InvalidSelectorError):
            NodeSelector.parse(str(selector))
    if selector == NodeSelector.everything():
        with pytest.raises(InvalidSelectorError) as caught:
            selector.to_terms()
        reason = "the selector selects everything, which node selector terms cannot say; an empty LabelSelector can"
        assert (caught.value.expression, caught.value.reason) == ("nodeSelectorTerms", reason)
    else:
        assert NodeSelector.from_terms(selector.to_terms()) == selector
    if selector.selects_nothing or (on_labels and not compares):
        assert NodeSelector.from_label_selector(selector.to_label_selector()) == selector
    else:
        with pytest.raises(InvalidSelectorError, match="a LabelSelector cannot say it"):
            selector.to_label_selector()


@given(selectors, label_sets, st.sampled_from(NAMES))
def test_a_copy_matches_what_the_original_matches(selector: NodeSelector, labels: dict[str, str], name: str) -> None:
    for again in (pickle.loads(pickle.dumps(selector)), copy.deepcopy(selector)):  # noqa: S301 - our own bytes
        assert again.matched(labels, name) == selector.matched(labels, name)
        assert again.explain(labels, name) == selector.explain(labels, name)


@pytest.mark.parametrize(
    ("items", "part", "reason"),
    [
        ([HAS_A, ON_NODE_1], "nodeSelectorTerms", "it has 2 terms, of which one must hold"),
        ([ON_NODE_1 | HAS_A], "matchFields", "it matches the node's name"),
        ([MORE_THAN_SIX], "a>6", "Gt is not one of In, NotIn, Exists, DoesNotExist"),
    ],
)
def test_what_a_label_selector_cannot_say_is_named(items: list[Any], part: str, reason: str) -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        NodeSelector.from_terms(items).to_label_selector()

    assert caught.value.expression == part
    assert caught.value.reason == f"a LabelSelector cannot say it: {reason}; node selector terms can"


def test_match_labels_has_one_value_of_each_key_and_match_expressions_the_rest() -> None:
    selector = NodeSelector.parse("a=1,a=2,b in (3,4),c,d!=5,e=6")

    assert selector.to_label_selector() == {
        "matchLabels": {"a": "1", "e": "6"},
        "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["2"]},
            {"key": "b", "operator": "In", "values": ["3", "4"]},
            {"key": "c", "operator": "Exists"},
            {"key": "d", "operator": "NotIn", "values": ["5"]},
        ],
    }


def test_without_a_name_only_labels_are_looked_at() -> None:
    selector = NodeSelector.from_terms([HAS_A | ON_NODE_1])

    assert selector.matches({"a": "1"})
    assert selector.matched({"a": "1"}) == 2
    assert selector.explain({}) == "a must be present but the node has no such label"


@pytest.mark.parametrize(("terms", "end"), [(8, ""), (9, " and 1 more")])
def test_an_explanation_shows_eight_terms_and_counts_the_others(terms: int, end: str) -> None:
    items = [{"matchExpressions": [{"key": key, "operator": "Exists"} for key in (f"a{i}", f"b{i}")]} for i in range(terms)]
    missing = "must be present but the node has no such label"

    text = NodeSelector.from_terms(items).explain({})

    shown = " ".join(f"({i + 1}) a{i} {missing}; b{i} {missing}" for i in range(8))
    assert text == f"none of {terms} terms holds: {shown}{end}"


def test_terms_cannot_say_that_a_selector_selects_everything() -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        NodeSelector.everything().to_terms()

    assert caught.value.args == (
        "nodeSelectorTerms",
        "the selector selects everything, which node selector terms cannot say; an empty LabelSelector can",
    )


def test_a_selector_is_written_as_a_label_selector_where_one_can_say_it_and_as_terms_else() -> None:
    assert NodeSelector.everything().to_manifest() == {}
    assert NodeSelector.nothing().to_manifest() == {"nodeSelectorTerms": [{}]}
    assert NodeSelector.from_terms([HAS_A]).to_manifest() == HAS_A
    assert NodeSelector.parse("b=1").to_terms() == {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "b", "operator": "In", "values": ["1"]}]}]
    }
    assert NodeSelector.from_terms([MORE_THAN_SIX, ON_NODE_1 | HAS_A, ON_NODE_1]).to_manifest() == {
        "nodeSelectorTerms": [
            ON_NODE_1,
            HAS_A | ON_NODE_1,
            {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["6"]}]},
        ]
    }


def test_terms_are_shown_with_or_between_them_and_names_marked_as_fields() -> None:
    selector = NodeSelector.from_terms([MORE_THAN_SIX, ON_NODE_1 | HAS_A, {}])

    assert str(selector) == "a,field metadata.name=node-1 or a>6"
    assert repr(NodeSelector.parse("a>6")) == "NodeSelector.parse('a>6')"
    assert repr(NodeSelector.from_terms([ON_NODE_1])) == f"NodeSelector.from_terms([{ON_NODE_1}])"


@pytest.mark.parametrize(
    ("items", "labels", "name", "expected"),
    [
        ([MORE_THAN_SIX], {"a": "6"}, "", "a must be more than 6 but the node has 6"),
        ([MORE_THAN_SIX], {}, "", "a must be more than 6 but the node has no such label"),
        ([MORE_THAN_SIX], {"a": "b"}, "", "a must be more than 6 but the node has b, which is no whole number of 64 bits"),
        ([MORE_THAN_SIX, HAS_A], {"a": "7"}, "", "the node meets 'a'"),
        ([MORE_THAN_SIX, HAS_A | ON_NODE_1], {"a": "7"}, "", "the node meets 'a,field metadata.name=node-1'"),
        ([HAS_A | ON_NODE_1], {}, "node-2", "a must be present but the node has no such label; field metadata.name in (node-1) but the node has node-2"),
        ([HAS_A | ON_NODE_1], {}, "", "a must be present but the node has no such label"),
        ([HAS_A, ON_NODE_1], {}, "node-2", "none of 2 terms holds: (1) field metadata.name in (node-1) but the node has node-2 (2) a must be present but the node has no such label"),
        ([{"matchExpressions": [{"key": f"k{i}", "operator": "Exists"}]} for i in range(10)], {}, "n", "none of 10 terms holds: " + " ".join(f"({i + 1}) k{i} must be present but the node has no such label" for i in range(8)) + " and 2 more"),
        ([{}], {}, "", "the selector selects nothing"),
    ],
)  # fmt: skip
def test_an_explanation_of_terms_says_which_held_or_what_failed_in_each(
    items: list[Any], labels: dict[str, str], name: str, expected: str
) -> None:
    assert NodeSelector.from_terms(items).explain(labels, name) == expected


@given(term_lists, label_sets, st.sampled_from(NAMES))
def test_the_explanation_of_terms_agrees_with_the_oracle(items: list[Any], labels: Any, name: str) -> None:
    selector = NodeSelector.from_terms(items)
    read = oracle.read_terms(items)

    text = selector.explain(labels, name)

    assert text.startswith("the node meets ") == (oracle.matched(read, labels, name) is not None)
    if len(selector.terms) == 1 and not text.startswith("the node meets "):
        on_labels, on_names = next(term for term in read if any(term))
        failing = oracle.failing(on_labels, labels) + (
            oracle.failing(on_names, {"metadata.name": name}) if name else []
        )
        keys_named = [part.removeprefix("field ").split(" ")[0] for part in text.split("; ")]
        assert sorted(keys_named) == sorted(key for key, _, _ in failing)


def term(**fields: Any) -> dict[str, Any]:
    return {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}, fields]}


def on_name(**fields: Any) -> dict[str, Any]:
    return term(matchFields=[{"key": "metadata.name", "operator": "In", "values": ["node-1"]} | fields])


@pytest.mark.parametrize(
    ("mapping", "path", "reason"),
    [
        ({"nodeSelectorTerms": []}, "nodeSelectorTerms", "it needs at least one term, as Kubernetes requires"),
        ({"nodeSelectorTerms": None}, "nodeSelectorTerms", "it needs at least one term, as Kubernetes requires"),
        ({"nodeSelectorTerms": {}}, "nodeSelectorTerms", "expected a list of terms, found a mapping"),
        ({"nodeSelectorTerms": "a"}, "nodeSelectorTerms", "expected a list of terms, found the text 'a'"),
        ({"nodeSelectorTerms": ["a"]}, "nodeSelectorTerms[0]", "expected a mapping with matchExpressions or matchFields, found the text 'a'"),
        ({"nodeSelectorTerms": [{}], "matchLabels": {}}, "matchLabels", "it stands beside nodeSelectorTerms; a selector is either a LabelSelector or a list of terms"),
        ({"nodeSelectorTerms": [{}], "matchExpressions": []}, "matchExpressions", "it stands beside nodeSelectorTerms; a selector is either a LabelSelector or a list of terms"),
        ({"nodeSelectorTerms": [{}], "x": 1}, "x", "unknown field (known: nodeSelectorTerms)"),
        (term(matchLabels={}), "nodeSelectorTerms[1].matchLabels", "unknown field; did you mean 'matchFields'? (known: matchExpressions, matchFields)"),
        (term(matchExpressions={}), "nodeSelectorTerms[1].matchExpressions", "expected a list, found a mapping"),
        (term(matchExpressions=[{"operator": "In"}]), "nodeSelectorTerms[1].matchExpressions[0].key", "it is required"),
        (term(matchExpressions=[{"key": "a", "operator": "gt", "values": ["1"]}]), "nodeSelectorTerms[1].matchExpressions[0]", "operator 'gt' is not one of In, NotIn, Exists, DoesNotExist, Gt, Lt"),
        (term(matchExpressions=[{"key": "a", "operator": "Gt"}]), "nodeSelectorTerms[1].matchExpressions[0]", "Gt needs exactly one value, found 0"),
        (term(matchExpressions=[{"key": "a", "operator": "Lt", "values": ["1", "1"]}]), "nodeSelectorTerms[1].matchExpressions[0]", "Lt needs exactly one value, found 2"),
        (term(matchExpressions=[{"key": "a", "operator": "Lt", "values": ["a"]}]), "nodeSelectorTerms[1].matchExpressions[0]", "Lt compares with a whole number of 64 bits, found 'a'"),
        (term(matchExpressions=[{"key": "a", "operator": "Lt", "values": [1]}]), "nodeSelectorTerms[1].matchExpressions[0].values[0]", "expected text, found the number 1; put it in quotes"),
        (term(matchExpressions=[{"key": "a", "operator": "Lt", "values": ["-1"]}]), "nodeSelectorTerms[1].matchExpressions[0]", f"the value '-1' is not a label value: {CHARACTERS}"),
        (term(matchExpressions=[{"key": "a", "operator": "In", "values": ["b c"]}]), "nodeSelectorTerms[1].matchExpressions[0]", f"the value 'b c' is not a label value: {CHARACTERS}"),
        (on_name(key="metadata.uid"), "nodeSelectorTerms[1].matchFields[0]", "only metadata.name can be matched as a field, found 'metadata.uid'"),
        (on_name(operator="Exists", values=None), "nodeSelectorTerms[1].matchFields[0]", "operator 'Exists' is not one of In, NotIn"),
        (on_name(operator="Gt"), "nodeSelectorTerms[1].matchFields[0]", "operator 'Gt' is not one of In, NotIn; it belongs to matchExpressions"),
        (on_name(values=[]), "nodeSelectorTerms[1].matchFields[0]", "In on metadata.name needs exactly one value, found 0"),
        (on_name(operator="NotIn", values=["a", "a"]), "nodeSelectorTerms[1].matchFields[0]", "NotIn on metadata.name needs exactly one value, found 2"),
        (on_name(values=["Node"]), "nodeSelectorTerms[1].matchFields[0]", f"the value 'Node' is not a node name: {NAME}"),
        (on_name(values=[1]), "nodeSelectorTerms[1].matchFields[0].values[0]", "expected text, found the number 1; put it in quotes"),
    ],
)  # fmt: skip
def test_malformed_terms_are_refused_with_path_and_reason(mapping: Any, path: str, reason: str) -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        NodeSelector.from_manifest(mapping)

    assert caught.value.expression == path
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", [None, [], (), {}, "a", 1, {"matchLabels": {}}])
def test_terms_need_a_list_with_a_term(value: Any) -> None:
    with pytest.raises(InvalidSelectorError):
        NodeSelector.from_terms(value)


@pytest.mark.parametrize("value", [[], ["a"], "a", 1])
def test_a_manifest_is_a_mapping_or_nothing(value: Any) -> None:
    with pytest.raises(InvalidSelectorError, match="expected a mapping"):
        NodeSelector.from_manifest(value)
    assert NodeSelector.from_manifest(None) == NodeSelector.nothing()


json_terms = st.recursive(
    st.none() | st.integers() | st.sampled_from([*KEYS, *NUMBERS, "In", "Exists", "Gt", "NotIn"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["matchFields", "matchExpressions", "key", "operator", "values"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(json_terms, max_size=3) | term_lists, st.booleans())
def test_whatever_a_list_of_terms_holds_is_a_selector_or_a_typed_error(value: Any, wrapped: bool) -> None:
    try:
        selector = (
            NodeSelector.from_manifest({"nodeSelectorTerms": value}) if wrapped else NodeSelector.from_terms(value)
        )
    except InvalidSelectorError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    else:
        read = oracle.read_terms(value)
        assert all(selector.matched(labels) == oracle.matched(read, labels, "") for labels in ALL_LABELS)


@given(
    term_lists, st.sampled_from(["matchExpressions", "matchFields"]), st.sampled_from([*NUMBERS, "-1", "a b", "A", ""])
)
def test_terms_are_refused_where_the_oracle_refuses_them(items: list[Any], part: str, value: str) -> None:
    for operator, key in product(("In", "NotIn", "Exists", "Gt", "Lt", "gt"), ("metadata.name", "a b", "a")):
        for values in ([value], [value, value], []):
            changed = [*items, {part: [{"key": key, "operator": operator, "values": values}]}]
            try:
                expected = oracle.read_terms(changed)
            except ValueError:
                with pytest.raises(InvalidSelectorError):
                    NodeSelector.from_terms(changed)
            else:
                assert NodeSelector.from_terms(changed).matched({"a": "5"}) == oracle.matched(expected, {"a": "5"}, "")


# ---------------------------------------------------------------------------------------------------------- names

name_texts = st.text(alphabet="abzAZ09-._/ ä\n", max_size=12) | st.text(max_size=8)


@given(name_texts)
@example("a\n")
@example("\u0661")
@example("a..b")
@example("a.-b")
@example("A/b")
@example("a/b/c")
def test_label_keys_and_values_are_what_the_oracle_says(text: str) -> None:
    assert (label_key_problem(text) == "") == oracle.is_label_key(text)
    assert (label_value_problem(text) == "") == oracle.is_label_value(text)


@given(name_texts)
def test_names_are_dns_subdomains_as_the_oracle_has_them(text: str) -> None:
    if oracle.is_subdomain(text):
        assert validate_name("node name", text) == text
    else:
        with pytest.raises(InvalidNameError) as caught:
            validate_name("node name", text)
        assert (caught.value.kind, caught.value.name) == ("node name", text)


@pytest.mark.parametrize("length", [1, 63, 64, 253, 254])
def test_lengths_are_limited_where_kubernetes_limits_them(length: int) -> None:
    text = "a" * length

    assert (label_value_problem(text) == "") == (length <= 63)
    assert (label_key_problem(text) == "") == (length <= 63)
    assert (label_key_problem(f"{text}/a") == "") == (length <= 253)
    assert oracle.is_subdomain(text) == (length <= 253)
    if length > 253:
        with pytest.raises(InvalidNameError, match="it has 254 characters, allowed are 253"):
            validate_name("pool name", text)
    else:
        assert validate_name("pool name", text) == text


@pytest.mark.parametrize("value", [None, 1, b"node-1", ["node-1"]])
def test_a_name_or_owner_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InvalidNameError, match="a name is text"):
        validate_name("node name", value)
    with pytest.raises(InvalidNameError, match="an owner id is text"):
        validate_owner(value)


@given(st.text(max_size=6))
@example("a b")
@example("a\u00a0b")
@example("a\u200bb")
@example("\ud800")
@example("\x7f")
def test_an_owner_is_accepted_exactly_if_it_is_printable_and_without_white_space(text: str) -> None:
    visible = 1 <= len(text) <= 253 and text.isprintable() and not any(c.isspace() for c in text)

    if visible:
        assert validate_owner(text) == text
        assert text.encode().decode() == text
    else:
        with pytest.raises(InvalidNameError) as caught:
            validate_owner(text)
        assert caught.value.kind == "owner id"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has 0 characters, allowed are 1 to 253"),
        ("a" * 254, "it has 254 characters, allowed are 1 to 253"),
        ("default/web 1", "character 12 is ' '"),
        ("web\n", "character 4 is '\\n'"),
        ("\ud800", "character 1 is '\\ud800'"),
    ],
)
def test_an_owner_that_is_refused_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        validate_owner(text)

    assert reason in caught.value.reason


def test_owners_as_they_are_used_are_accepted() -> None:
    for owner in ("cbr0/0123abcd/eth0", "default/web-1", "a" * 253, "größe/π"):
        assert validate_owner(owner) == owner


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "the boolean true"),
        (False, "the boolean false"),
        (24, "the number 24"),
        (1 << 200, "a number of 201 bits"),
        (1 << 100_000, "a number of 100001 bits"),
        (2.5, "the number 2.5"),
        ("x", "the text 'x'"),
        ("x" * 100, f"the text '{'x' * 80}...'"),
        ({}, "a mapping"),
        ([], "a list"),
        ((), "a list"),
        (b"", "a value of type bytes"),
    ],
    ids=range(13),
)
def test_a_found_value_is_told_without_printing_what_is_inside(value: object, text: str) -> None:
    assert describe(value) == text


def test_an_unknown_field_is_told_with_the_nearest_known_one() -> None:
    assert unknown_field("valeus", ("key", "values")) == "unknown field; did you mean 'values'? (known: key, values)"
    assert unknown_field("colour", ("cidrs", "nodeSelector")) == "unknown field (known: cidrs, nodeSelector)", "nothing is near: nothing is guessed"
    assert unknown_field("", ("operator",)) == "unknown field (known: operator)"
    assert unknown_field(1, ("operator",)) == "a field name is text, found the number 1"


# ----------------------------------------------------------------------------------------------------------- node


@given(label_sets)
def test_a_node_is_a_value(labels: dict[str, str]) -> None:
    node = Node("node-1", labels)
    other = Node("node-1", dict(reversed(labels.items())))

    assert node == other
    assert hash(node) == hash(other)
    assert repr(node) == repr(other)
    assert node.label_pairs == tuple(sorted(labels.items()))
    assert dict(node.labels) == labels
    assert pickle.loads(pickle.dumps(node)) == node  # noqa: S301 - our own bytes
    assert dict(copy.deepcopy(node).labels) == labels


def test_a_node_is_not_changed_by_changing_the_mapping_it_was_made_of() -> None:
    labels = {"a": "1"}
    node = Node("node-1", labels)

    labels["a"] = "2"

    assert dict(node.labels) == {"a": "1"}
    with pytest.raises(TypeError):
        node.labels["a"] = "3"  # type: ignore[index]  # the very thing that must not work
    with pytest.raises(AttributeError, match="never changes"):
        node.name = "node-2"  # type: ignore[misc]  # the very thing that must not work


@given(name_texts, name_texts)
def test_a_node_refuses_labels_that_kubernetes_would_refuse(key: str, value: str) -> None:
    assume(not (oracle.is_label_key(key) and oracle.is_label_value(value)))

    with pytest.raises(InvalidNameError) as caught:
        Node("node-1", {key: value})

    assert caught.value.kind == ("label value" if oracle.is_label_key(key) else "label key")


@pytest.mark.parametrize("labels", [{1: "a"}, {"a": 1}, {"a": None}])
def test_a_node_refuses_labels_that_are_no_text(labels: Any) -> None:
    with pytest.raises(InvalidNameError, match="it is not text"):
        Node("node-1", labels)


@pytest.mark.parametrize("name", ["", "Node-1", "node_1", "node-1\n", "-node", "a" * 254])
def test_a_node_refuses_a_name_that_kubernetes_would_refuse(name: str) -> None:
    with pytest.raises(InvalidNameError, match="is not a valid node name"):
        Node(name)
