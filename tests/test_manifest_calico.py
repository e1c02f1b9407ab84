"""Calico's `IPPool`: its expressions against an evaluator of their own text, and everything that an IPPool can say."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ciliumipam.errors import InvalidManifestError, InvalidSelectorError
from ciliumipam.manifest import Item, read_manifest
from ciliumipam.manifest.calico_selector import MAX_DEPTH, MAX_LENGTH, translate
from ciliumipam.manifest.label_logic import MAX_TERMS, Values, both, everything, inverse, where
from ciliumipam.pool import PoolSpec
from ciliumipam.selector import NodeSelector

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

# ------------------------------------------------------------------------------------- expressions: the oracle

CONDITION = re.compile(
    r"""has\([ \t]*(?P<has>[\w./-]+)[ \t]*\)|(?P<all>(?:all|global)\([ \t]*\))
    |(?P<key>[\w./-]+)[ \t]*(?:(?P<order>==|!=)[ \t]*(?P<value>'[^']*'|"[^"]*")
    |(?P<among>not[ \t]*in|in)[ \t]*\{(?P<values>[^}]*)\})""",
    re.VERBOSE,
)


def evaluate(expression: str, labels: dict[str, str]) -> bool:
    """What Calico says of these labels: every condition is replaced by its truth, and Python does the logic.

    Precedence of `!`, `&&` and `||` is that of `not`, `and` and `or`, in both languages.
    """

    def truth(match: re.Match[str]) -> str:
        if match["all"]:
            return " True "
        if match["has"]:
            return f" {match['has'] in labels} "
        found = labels.get(match["key"])
        if match["order"]:
            equal = found == match["value"][1:-1]
            return f" {equal if match['order'] == '==' else not equal} "
        among = found in {text[1:-1] for text in re.findall(r"'[^']*'|\"[^\"]*\"", match["values"])}
        return f" {among if match['among'] == 'in' else not among} "

    logic = CONDITION.sub(truth, expression)
    assert not re.search(r"[\"'{}=]", logic), logic
    logic = logic.replace("!", " not ").replace("&&", " and ").replace("||", " or ")
    return bool(eval(f"({logic.strip() or 'True'})", {"__builtins__": {}}))  # noqa: S307 - of True, False, and, or, not, brackets


KEYS = ("a", "in", "example.com/b-c")
VALUES = ("", "x", "y", "has.z")
SPACE = st.sampled_from(["", " ", "\t ", "  "])
EVERY_NODE = [
    {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}
    for values in itertools.product((*VALUES, "other", None), repeat=len(KEYS))
]


@st.composite
def conditions(draw: st.DrawFn) -> str:
    def quoted() -> str:
        quote = draw(st.sampled_from("'\""))
        return f"{quote}{draw(st.sampled_from(VALUES))}{quote}"

    s = [draw(SPACE) for _ in range(5)]
    key = draw(st.sampled_from(KEYS))
    match draw(st.sampled_from(["has", "all", "global", "==", "!=", "in", "not in", "notin"])):
        case "has":
            return f"has({s[0]}{key}{s[1]})"
        case "all" | "global" as word:
            return f"{word}({s[0]})"
        case "==" | "!=" as sign:
            return f"{key}{s[0]}{sign}{s[1]}{quoted()}"
        case word:
            values = [quoted() for _ in range(draw(st.integers(0, 3)))]
            comma = draw(st.sampled_from(["", ","])) if values else ""
            return f"{key} {word}{s[0]}{{{s[1]}{(s[2] + ',').join(values)}{comma}{s[3]}}}"


def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(SPACE, inner, SPACE).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        st.tuples(st.sampled_from(["!", "!!", "! "]), inner).map("".join),
        st.tuples(inner, SPACE, st.sampled_from(["&&", "||"]), SPACE, inner).map("".join),
    )


EXPRESSIONS = st.recursive(conditions(), joined, max_leaves=8)


def selects(expression: str) -> NodeSelector | None:
    """The selector, or None for an expression that is refused because it selects no node."""
    try:
        return NodeSelector.from_manifest(translate(expression))
    except InvalidSelectorError as error:
        assert "selects no node" in error.reason  # noqa: PT017 - any other refusal is a failure
        return None


@given(EXPRESSIONS)
@example("has(a) || has(in) && !has(a)")
@example("!a == 'x' && in != 'x'")
@example("!(has(a) && (in in {'x', 'y'} || a not in {'x'}))")
@example("(!has(a) || a == 'x') && (!has(in) || in == '')")
@example("a != 'x' && has(a)")
@example("has(a) && a in {'x'} || a not in {'x'}")
@example("a == 'x' && in == 'x' || a == 'y' && in == 'y'")
def test_an_expression_selects_exactly_the_nodes_that_it_selects_in_calico(expression: str) -> None:
    selector = selects(expression)

    for labels in EVERY_NODE:
        wanted = evaluate(expression, labels)
        assert (selector is not None and selector.matches(labels, "node-1")) == wanted, (labels, str(selector))


@given(EXPRESSIONS)
def test_an_expression_and_its_negation_share_the_nodes_out(expression: str) -> None:
    yes, no = selects(expression), selects(f"!({expression})")

    for labels in EVERY_NODE:
        found = [selector is not None and selector.matches(labels, "node-1") for selector in (yes, no)]
        assert sum(found) == 1, labels


# ------------------------------------------------------------------------------------ expressions: by example


def requirement(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator} | ({"values": list(values)} if values else {})


@pytest.mark.parametrize(
    ("expression", "requirements"),
    [
        ("", []),
        (" \t", []),
        ("all()", []),
        ("global( )", []),
        ("has(a) || !has(a)", []),
        ("a not in {}", []),
        ("a == 'x'", [requirement("a", "In", "x")]),
        ('a == ""', [requirement("a", "In", "")]),
        ("a != 'x'", [requirement("a", "NotIn", "x")]),
        ("a in {'y', 'x', 'y'}", [requirement("a", "In", "x", "y")]),
        ("a notin{'x',}", [requirement("a", "NotIn", "x")]),
        ("has(a)", [requirement("a", "Exists")]),
        ("!has(a)", [requirement("a", "DoesNotExist")]),
        ("!!has(a)", [requirement("a", "Exists")]),
        ("a == 'x' || a == 'y'", [requirement("a", "In", "x", "y")]),
        ("!(a == 'x' || has(b))", [requirement("a", "NotIn", "x"), requirement("b", "DoesNotExist")]),
        ("has(a) && a != 'x'", [requirement("a", "Exists"), requirement("a", "NotIn", "x")]),
        ("a in {'x', 'y'} && a != 'x'", [requirement("a", "In", "y")]),
        ("(a == 'x' && b == 'y') || (a == 'x' && b != 'y')", [requirement("a", "In", "x")]),
        ("contains in {'in'}", [requirement("contains", "In", "in")]),
        ("has(has)", [requirement("has", "Exists")]),
    ],
)
def test_what_a_label_selector_can_say_comes_out_as_one(expression: str, requirements: list[dict[str, Any]]) -> None:
    assert translate(expression) == ({"matchExpressions": requirements} if requirements else {})


def test_what_it_cannot_say_comes_out_as_terms() -> None:
    assert translate("a == 'x' || has(b) && c != 'y'") == {
        "nodeSelectorTerms": [
            {"matchExpressions": [requirement("a", "In", "x")]},
            {"matchExpressions": [requirement("b", "Exists"), requirement("c", "NotIn", "y")]},
        ]
    }
    assert translate("!has(a) || a == 'x'") == {
        "nodeSelectorTerms": [
            {"matchExpressions": [requirement("a", "DoesNotExist")]},
            {"matchExpressions": [requirement("a", "In", "x")]},
        ]
    }


@pytest.mark.parametrize(
    ("expression", "part", "reason"),
    [
        ("rack contains 'r'", "rack contains 'r'", "Kubernetes' selectors have no 'contains'"),
        ("has(b) && rack starts  with 'r'", "rack starts with 'r'", "Kubernetes' selectors have no 'starts with'"),
        ('!(rack endswith "r")', 'rack ends with "r"', "Kubernetes' selectors have no 'ends with'"),
        ("a == 'b c'", "'b c'", "no label in Kubernetes has this value"),
        (f"a == '{'x' * 64}'", f"'{'x' * 64}'", "it has 64 characters"),
        ("a/b/c == 'x'", "a/b/c", "no label in Kubernetes has this key: it has more than one '/'"),
        ("has(_a)", "_a", "no label in Kubernetes has this key"),
        ("!all()", "!all()", "it selects no node"),
        ("a in {}", "a in {}", "it selects no node"),
        ("has(a) && !has(a)", "has(a) && !has(a)", "it selects no node"),
        ("a == 'x' && a == 'y'", "a == 'x' && a == 'y'", "it selects no node"),
        ("a", "a", "expected ==, !=, in or not in after 'a', found the end"),
        ("a = 'x'", "a = 'x'", "found \"= 'x'\""),
        ("a == x", "a == x", "expected a value in quotes, found 'x'"),
        ("a == 'x", "a == 'x", 'found "\'x"'),
        ("a == 'x' &&", "a == 'x' &&", "expected a label, has(label), all() or '(', found the end"),
        ("a == 'x' & b == 'y'", "a == 'x' & b == 'y'", "found \"& b == 'y'\""),
        ("a == 'x' b == 'y'", "a == 'x' b == 'y'", "expected &&, || or the end, found"),
        ("(a == 'x'", "(a == 'x'", "expected ')', found the end"),
        ("a == 'x')", "a == 'x')", "expected &&, || or the end, found ')'"),
        ("a in 'x'", "a in 'x'", "expected '{'"),
        ("a in {x}", "a in {x}", "expected a value in quotes"),
        ("a in {,}", "a in {,}", "expected a value in quotes"),
        ("a in {'x' 'y'}", "a in {'x' 'y'}", "expected ',' or '}'"),
        ("a in {'x'", "a in {'x'", "expected ',' or '}', found the end"),
        ("a 'in' {'x'}", "a 'in' {'x'}", "expected ==, !=, in or not in after 'a'"),
        ("a has(in) {'x'}", "a has(in) {'x'}", "expected ==, !=, in or not in after 'a'"),
        ("a inb {'x'}", "a inb {'x'}", "expected ==, !=, in or not in after 'a'"),
        ("has()", "has()", "after 'has'"),
        ("has a", "has a", "after 'has'"),
        ("a == 'x'\n", "a == 'x'\n", "found '\\n'"),
        ("\u00e9 == 'x'", "\u00e9 == 'x'", "expected a label"),
    ],
)
def test_what_cannot_be_said_is_refused_and_the_part_is_named(expression: str, part: str, reason: str) -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        translate(expression)

    assert caught.value.expression == part
    assert reason in caught.value.reason


def choices(count: int) -> str:
    return " && ".join(f"(a{i} == 'x' || b{i} == 'x')" for i in range(count))


def test_terms_are_multiplied_out_up_to_a_bound() -> None:
    assert len(translate(choices(6))["nodeSelectorTerms"]) == MAX_TERMS == 64

    for beyond in (choices(7), f"!({choices(7).replace('&&', 'or').replace('||', '&&').replace('or', '||')})"):
        with pytest.raises(InvalidSelectorError, match="multiplied out it has more than 64 terms"):
            translate(beyond)


def test_terms_count_on_the_way_too() -> None:
    with pytest.raises(InvalidSelectorError, match="multiplied out it has more than 64 terms"):
        translate(f"{choices(7)} || all()")


def test_what_no_node_meets_is_no_term() -> None:
    one, other = (where("a", Values(frozenset(value), listed=True, missing=False)) for value in "xy")

    assert both(one, other) == []
    assert inverse(everything()) == []


def test_conditions_that_kubernetes_needs_two_terms_for_count_as_two() -> None:
    def either(count: int) -> str:
        return " && ".join(f"(!has(a{i}) || a{i} == 'x')" for i in range(count))

    assert len(translate(either(6))["nodeSelectorTerms"]) == 64
    for count in (7, 80):
        with pytest.raises(InvalidSelectorError, match="multiplied out it has more than 64 terms"):
            translate(either(count))


def test_many_conditions_on_one_label_are_one() -> None:
    expression = " || ".join(f"a == 'v{i}'" for i in range(200))

    assert len(translate(expression)["matchExpressions"][0]["values"]) == 200


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("a" * (MAX_LENGTH + 1), "it has 4097 characters"),
        ("(" * (MAX_DEPTH + 1) + "all()" + ")" * (MAX_DEPTH + 1), "nested deeper than 50"),
        ("!" * 4000 + "(" * 90, "nested deeper than 50"),
    ],
)
def test_an_expression_beyond_the_bounds_is_refused_in_a_short_sentence(expression: str, reason: str) -> None:
    with pytest.raises(InvalidSelectorError) as caught:
        translate(expression)

    assert reason in caught.value.reason
    assert len(str(caught.value)) < 300


def test_parentheses_side_by_side_are_not_nested() -> None:
    assert translate(" && ".join(["(has(a))"] * 60)) == {"matchExpressions": [requirement("a", "Exists")]}


def test_the_deepest_expression_that_is_read_is_read() -> None:
    assert translate("(" * MAX_DEPTH + "has(a)" + ")" * MAX_DEPTH) == {"matchExpressions": [requirement("a", "Exists")]}


@given(st.text(alphabet="ab(){}!&|=',\" \tinhasl.", max_size=30))
def test_whatever_the_text_it_is_translated_or_refused(text: str) -> None:
    try:
        NodeSelector.from_manifest(translate(text))
    except InvalidSelectorError as error:
        assert error.reason  # noqa: PT017 - either outcome is right


# --------------------------------------------------------------------------------------------------- the kind


def ip_pool(version: str = "projectcalico.org/v3", **spec: Any) -> dict[str, Any]:
    fields = {"cidr": "10.0.0.0/16"} | spec
    return {"apiVersion": version, "kind": "IPPool", "metadata": {"name": "green"}, "spec": fields}


def green(**fields: Any) -> PoolSpec:
    known: dict[str, Any] = {
        "name": "green",
        "cidrs": ["10.0.0.0/16"],
        "selector": NodeSelector.everything(),
        "block_length_v4": 26,
        "allow_first": True,
        "allow_last": True,
        "overflow": True,
    }
    return PoolSpec(**known | fields)


def read(document: object) -> tuple[Item, ...]:
    items, ignored, refused = read_manifest(document, "x.yaml")
    assert (ignored, refused) == ((), ())
    return items


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (ip_pool(), green()),
        (ip_pool("crd.projectcalico.org/v1"), green()),
        (ip_pool(blockSize=28), green(block_length_v4=28)),
        (
            ip_pool(
                blockSize=0, nodeSelector=None, disabled=None, allowedUses=None, assignmentMode=None, natOutgoing=None
            ),
            green(),
        ),
        (ip_pool(cidr="fd00::/64"), green(cidrs=["fd00::/64"], block_length_v4=None, block_length_v6=122)),
        (
            ip_pool(cidr="fd00::/64", blockSize=116),
            green(cidrs=["fd00::/64"], block_length_v4=None, block_length_v6=116),
        ),
        (ip_pool(nodeSelector=""), green()),
        (ip_pool(nodeSelector="rack == 'r1'"), green(selector=NodeSelector.parse("rack=r1"))),
        (ip_pool(disabled=True), green(draining=True)),
        (ip_pool(disabled=False), green()),
        (ip_pool(allowedUses=[]), green()),
        (ip_pool(allowedUses=["Workload"], assignmentMode="Automatic"), green()),
        (ip_pool() | {"status": {"conditions": []}}, green()),
    ],
    ids=range(13),
)
def test_each_form_is_read_as_what_it_means(document: dict[str, Any], expected: PoolSpec) -> None:
    assert read(document) == (expected,)
    assert read({"apiVersion": document["apiVersion"], "kind": "IPPoolList", "items": [document]}) == (expected,)


def test_a_pool_that_is_being_deleted_takes_nothing_new() -> None:
    document = ip_pool()
    document["metadata"]["deletionTimestamp"] = "2024-05-01T08:00:00Z"

    assert read(document) == (green(draining=True),)


def test_what_only_tells_calico_how_to_carry_packets_is_listed_as_ignored() -> None:
    idle: dict[str, Any] = {
        "ipipMode": "Never",
        "vxlanMode": "Always",
        "natOutgoing": True,
        "disableBGPExport": False,
        "nat-outgoing": True,
        "ipip": {},
    }
    document = ip_pool(**idle, allowedUses=["Tunnel", "Workload"], namespaceSelector="all()")

    items, ignored, refused = read_manifest(document, "x.yaml")

    assert (items, refused) == ((green(),), ())
    assert ignored == (
        *(f"x.yaml: spec.{field}: known, without meaning here" for field in idle),
        "x.yaml: spec.namespaceSelector: it selects everything",
        "x.yaml: spec.allowedUses: Tunnel: known, without meaning here",
    )


@pytest.mark.parametrize(
    ("spec", "path", "reason"),
    [
        ({"cidr": None}, "spec.cidr", "it is required"),
        ({"cidr": 10.1}, "spec.cidr", "expected text, found the number 10.1; put it in quotes"),
        ({"cidr": "10.0.0.1/16"}, "spec.cidr", "host bits are set; did you mean 10.0.0.0/16?"),
        ({"cidr": "10.0.0.0", "blockSize": 122}, "spec.cidr", "it has no length"),
        ({"cidr": "10.0.0.0/28"}, "spec.blockSize", "a /26 is larger than the CIDR 10.0.0.0/28"),
        ({"blockSize": "26"}, "spec.blockSize", "expected a whole number, found the text '26'"),
        ({"blockSize": False}, "spec.blockSize", "expected a whole number, found the boolean false"),
        ({"blockSize": 122}, "spec.blockSize", "the number 122 is not a prefix length of IPv4"),
        ({"nodeSelector": {}}, "spec.nodeSelector", "expected text, found a mapping"),
        (
            {"nodeSelector": "rack contains 'r'"},
            "spec.nodeSelector",
            "\"rack contains 'r'\": Kubernetes' selectors have no 'contains'",
        ),
        ({"nodeSelector": "!all()"}, "spec.nodeSelector", "it selects no node"),
        (
            {"namespaceSelector": "team == 'a'"},
            "spec.namespaceSelector",
            "it selects namespaces, and pools here are chosen by node",
        ),
        ({"namespaceSelector": "team"}, "spec.namespaceSelector", "expected ==, !=, in or not in"),
        ({"disabled": "true"}, "spec.disabled", "expected true or false, found the text 'true'"),
        ({"allowedUses": ["Tunnel"]}, "spec.allowedUses", "without Workload the pool is not for pods"),
        ({"allowedUses": ["LoadBalancer"]}, "spec.allowedUses", "without Workload the pool is not for pods"),
        ({"allowedUses": ["Pods"]}, "spec.allowedUses[0]", "the text 'Pods' is none of Workload, Tunnel, LoadBalancer"),
        ({"allowedUses": "Workload"}, "spec.allowedUses", "expected a list"),
        ({"assignmentMode": "Manual"}, "spec.assignmentMode", "leave the pool out"),
        ({"assignmentMode": "manual"}, "spec.assignmentMode", "the text 'manual' is none of Automatic, Manual"),
        ({"blocksize": 26}, "spec.blocksize", "unknown field; did you mean 'blockSize'?"),
    ],
)
def test_a_problem_names_its_path_and_what_was_expected(spec: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(ip_pool(**spec), "x.yaml")

    assert (caught.value.source, caught.value.path) == ("x.yaml", path)
    assert reason in caught.value.reason


def test_a_problem_is_told_once() -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(ip_pool(cidr="10.0.0.0", blockSize=122), "x.yaml")

    assert (
        str(caught.value)
        == "x.yaml: spec.cidr: '10.0.0.0' is not a usable CIDR: it has no length; write 10.0.0.0/32 for a single address"
    )


def test_the_example_dump_is_three_pools() -> None:
    document = yaml.safe_load((EXAMPLES / "dumps" / "ippools.yaml").read_text(encoding="utf-8"))

    items, ignored, refused = read_manifest(document, "ippools.yaml")

    flags = {"allow_first": True, "allow_last": True, "overflow": True}
    zones = NodeSelector.parse("topology.kubernetes.io/zone in (zone-1,zone-2),!example.com/legacy")
    host = {"key": "kubernetes.io/hostname", "operator": "Exists"}
    racks = [
        {"key": "dedicated", "operator": "NotIn", "values": ["storage"]},
        {"key": "rack", "operator": "In", "values": ["r1", "r2"]},
    ]
    assert items == (
        PoolSpec(name="default-ipv4-ippool", cidrs=["192.168.0.0/16"], selector=NodeSelector.everything(), block_length_v4=26, **flags),  # type: ignore[arg-type]  # flags
        PoolSpec(name="zone-1-ipv6", cidrs=["fd00:c:1::/112"], selector=zones, block_length_v6=122, draining=True, **flags),  # type: ignore[arg-type]  # flags
        PoolSpec(name="racks", cidrs=["172.20.0.0/16"], selector=NodeSelector.from_terms([{"matchExpressions": [each, host]} for each in racks]), block_length_v4=26, **flags),  # type: ignore[arg-type]  # flags
    )  # fmt: skip
    assert refused == ()
    assert [line.removeprefix("ippools.yaml: ").partition(": ")[0] for line in ignored] == [
        *(f"items[0].spec.{field}" for field in ("ipipMode", "natOutgoing", "vxlanMode", "allowedUses")),
        *(f"items[1].spec.{field}" for field in ("ipipMode", "vxlanMode")),
    ]
