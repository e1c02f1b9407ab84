"""The definitions on a real API server: what it takes, what it refuses and in which words, beside what the library says of the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ciliumipam.errors import InvalidManifestError
from ciliumipam.kubernetes.cilium_crds import CILIUM_NODE_CONFIG, PAIR
from ciliumipam.kubernetes.crds import CIDR_POOL
from ciliumipam.kubernetes.install import OURS, install
from ciliumipam.kubernetes.kubeconfig import Chosen
from ciliumipam.kubernetes.lightkube_transport import LightkubeTransport
from ciliumipam.manifest import pool_to_manifest, read_manifest
from ciliumipam.pool import PoolSpec
from ciliumipam.testing.control_plane import ControlPlane
from ciliumipam.testing.strategies import pools

POOLS = "/apis/ciliumipam.io/v1alpha1/cidrpools"
LEDGERS = "/apis/ciliumipam.io/v1alpha1/cidrledgers"
CONFIGS = "/apis/cilium.io/v2alpha1/namespaces/default/ciliumnodeconfigs"


SEED = Path(__file__).parent.parent / "docs" / "examples" / "seed"
SELECTOR = "spec.nodeSelector"
SUBDOMAIN = "allowed are lower-case letters, digits, '-' and '.'; every part between dots begins and ends with a letter or digit, as in node-1.example.com"
LABEL_TEXT = "allowed are letters, digits, '-', '_' and '.'; it begins and ends with a letter or digit"
KEY = f"an optional DNS name of at most 253 characters and '/', then 1 to 63 characters: {LABEL_TEXT}"


class Told(NamedTuple):
    """One cause of a refusal: the field, and what is said of it without the value that the server puts before."""

    field: str
    message: str


@contextmanager
def talking(plane: ControlPlane, user: str = "") -> Iterator[LightkubeTransport]:
    """Connections as admin, or as somebody else in whose name the admin asks."""
    access = {"token": plane.tokens["admin"]} | ({"as": user} if user else {})
    chosen = Chosen("test", plane.kubeconfig, {"server": plane.url, "certificate-authority": str(plane.certificate)}, access)
    with closing(LightkubeTransport(chosen)) as transport:
        yield transport


def refusal(transport: LightkubeTransport, path: str, obj: Mapping[str, Any]) -> list[Told]:
    """Why the server would refuse to create an object; nothing if it would not. Nothing is created."""
    answer = transport.request("POST", path, query={"dryRun": "All", "fieldValidation": "Strict"}, body=obj)
    if answer.status == 201:
        return []
    assert answer.status in (400, 422), answer
    causes = answer.body.get("details", {}).get("causes") or [{"field": "", "message": answer.body["message"]}]
    return [
        Told(each.get("field", ""), re.sub(r'^Invalid value: (?:"[^"]*": )?', "", each["message"]))
        for each in causes
        if "some validation rules were not checked" not in each["message"]
    ]


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> Iterator[LightkubeTransport]:
    with talking(control_plane) as transport:
        list(install(transport))
        yield transport


def pool_object(spec: Mapping[str, Any], name: str = "green") -> dict[str, Any]:
    return {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": name}, "spec": spec}


def config_object(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumNodeConfig", "metadata": {"name": "green"}, "spec": spec}


def told(field: str, message: str) -> list[Told]:
    return [Told(field, message)]


# ------------------------------------------------------------------------------------------- what is said, exactly

POOL_CASES: list[tuple[dict[str, Any], list[Told]]] = [
    ({"cidrs": []}, told("spec.cidrs", "the pool has no CIDR; give at least one, as in 10.0.0.0/16")),
    (
        {"cidrs": ["10.0.0.0/16", "10.0.0.7"]},
        told("spec.cidrs[1]", "'10.0.0.7' is not a usable CIDR: it has no length; write 10.0.0.7/32 for a single address"),
    ),
    (
        {"cidrs": ["fd00::7"]},
        told("spec.cidrs[0]", "'fd00::7' is not a usable CIDR: it has no length; write fd00::7/128 for a single address"),
    ),
    (
        {"cidrs": ["10.0.0.0/33"]},
        told("spec.cidrs[0]", "'10.0.0.0/33' is not a usable CIDR: write address/length, as in 10.0.0.0/16 or fd00::/48"),
    ),
    (
        {"cidrs": ["10.0.0.1/16"]},
        told("spec.cidrs[0]", "'10.0.0.1/16' is not a usable CIDR: host bits are set; did you mean 10.0.0.0/16?"),
    ),
    (
        {"cidrs": ["::/0"]},
        told("spec.cidrs[0]", "::/0 is a whole address family; give a CIDR with a length of at least 1"),
    ),
    (
        {"cidrs": ["10.0.0.0/16", "10.0.1.0/24"]},
        told("spec.cidrs", "10.0.1.0/24 lies inside 10.0.0.0/16, another CIDR of the pool; leave one of them out"),
    ),
    ({"cidrs": ["FD00::/48", "fd00:0::/48"]}, told("spec.cidrs", "FD00::/48 is given twice")),
    (
        {"blockLength": {"ipv4": 12}},
        told("spec.blockLength.ipv4", "a /12 is larger than the CIDR 10.0.0.0/16, so not one block fits; give at least 16"),
    ),
    ({"blockLength": {"ipv6": 64}}, told("spec.blockLength.ipv6", "/64 is given, but the pool has no IPv6 CIDR")),
    (
        {"cidrs": ["fd00::/48"], "blockLength": {"ipv4": 24, "ipv6": 32}},
        [
            Told("spec.blockLength.ipv4", "/24 is given, but the pool has no IPv4 CIDR"),
            Told("spec.blockLength.ipv6", "a /32 is larger than the CIDR fd00::/48, so not one block fits; give at least 48"),
        ],
    ),
    (
        {"blockLength": {"ipv4": 33}},
        told("spec.blockLength.ipv4", "33: spec.blockLength.ipv4 in body should be less than or equal to 32"),
    ),
    (
        {"blockLengths": [{"nodeSelector": {}}]},
        told("spec.blockLengths[0]", "neither an IPv4 nor an IPv6 length is given; give one, or leave the entry out"),
    ),
    (
        {"blockLengths": [{"nodeSelector": {}, "ipv4": 20}, {"nodeSelector": {}, "ipv4": 8}]},
        told("spec.blockLengths", "a /8 is larger than the CIDR 10.0.0.0/16, so not one block fits; give at least 16"),
    ),
    (
        {"blockLengths": [{"nodeSelector": {}, "ipv6": 64}]},
        told("spec.blockLengths", "/64 is given, but the pool has no IPv6 CIDR"),
    ),
    (
        {"cidrs": ["fd00::/48"], "blockLengths": [{"nodeSelector": {}, "ipv4": 24, "ipv6": 32}]},
        [
            Told("spec.blockLengths", "/24 is given, but the pool has no IPv4 CIDR"),
            Told("spec.blockLengths", "a /32 is larger than the CIDR fd00::/48, so not one block fits; give at least 48"),
        ],
    ),
    ({"blockLengths": [{"ipv4": 24}]}, told("spec.blockLengths[0].nodeSelector", "Required value")),
    (
        {"reserved": ["10.0.0.1", "10.0.0.1/24-7"]},
        told(
            "spec.reserved[1]",
            "'10.0.0.1/24-7' is neither an address (10.0.1.7) nor a range (10.0.1.10-10.0.1.20) nor a CIDR (10.0.1.0/28)",
        ),
    ),
    (
        {"reserved": ["10.0.0.1/24"]},
        told("spec.reserved[0]", "'10.0.0.1/24' is not a usable CIDR: host bits are set; did you mean 10.0.0.0/24?"),
    ),
    (
        {"reserved": ["10.0.0.1-fd00::1"]},
        told("spec.reserved[0]", "10.0.0.1-fd00::1 mixes the families: first and last are of one family"),
    ),
    (
        {"reserved": ["10.0.0.20 - 10.0.0.3"]},
        told("spec.reserved[0]", "10.0.0.20 - 10.0.0.3 is the wrong way round: write 10.0.0.3-10.0.0.20"),
    ),
    (
        {"cidrs": ["10.0.0.0/16", "fd00::/48"], "reserved": ["10.0.0.1", "fd00:1::-fd00:1::7"]},
        told("spec.reserved", "fd00:1::-fd00:1::7 is not inside the pool's CIDRs (10.0.0.0/16, fd00::/48)"),
    ),
    ({"reserved": ["10.0.0.0/8"]}, told("spec.reserved", "10.0.0.0/8 is not inside the pool's CIDRs (10.0.0.0/16)")),
    ({"reserved": ["10.1.0.0"]}, told("spec.reserved", "10.1.0.0 is not inside the pool's CIDRs (10.0.0.0/16)")),
    (
        {"priority": 1 << 31},
        told("spec.priority", "2147483648: spec.priority in body should be less than or equal to 2147483647"),
    ),
    ({"overflow": "yes"}, told("spec.overflow", 'spec.overflow in body must be of type boolean: "string"')),
    (
        {"maxBlocksPerNode": 2, "blocksPerNode": 3},
        told("spec.maxBlocksPerNode", "the number 2 is out of range, which is 3 to 65536"),
    ),
    (
        {"carving": "grouped"},
        told("spec.groupBy", 'it goes with carving "grouped": give both, as in topology.kubernetes.io/zone, or neither'),
    ),
    ({"carving": "grouped", "groupBy": "a b"}, told("spec.groupBy", f"'a b' is not a label key: {KEY}")),
    ({"carving": "first"}, told("spec.carving", 'Unsupported value: "first": supported values: "lowest", "sparse", "grouped"')),
    ({"addressSpace": "Lab"}, told("spec.addressSpace", f"'Lab' is not a valid address space: {SUBDOMAIN}")),
    ({"cidrs": None}, told("spec.cidrs", "Required value")),
    ({"nodeSelector": None}, told("spec.nodeSelector", "Required value")),
    (
        {"cidr": "10.0.0.0/16"},
        told(
            "",
            'CIDRPool in version "v1alpha1" cannot be handled as a CIDRPool: strict decoding error: unknown field "spec.cidr"',
        ),
    ),
]
LABEL_SELECTOR_CASES: list[tuple[dict[str, Any], list[Told]]] = [
    ({"matchLabels": {"a b": "c"}}, told("matchLabels", f"the key 'a b' is not a label key: {KEY}")),
    ({"matchLabels": {"a": "c d"}}, told("matchLabels[a]", f"the value 'c d' is not a label value: {LABEL_TEXT}")),
    (
        {"matchExpressions": [{"key": "/a", "operator": "Exists"}]},
        told("matchExpressions[0].key", f"'/a' is not a label key: {KEY}"),
    ),
    (
        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "-"]}]},
        told("matchExpressions[0].values[1]", f"the value '-' is not a label value: {LABEL_TEXT}"),
    ),
    (
        {"matchExpressions": [{"key": "a", "operator": "NotIn"}]},
        told("matchExpressions[0].values", "NotIn needs at least one value"),
    ),
    (
        {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b", "c"]}]},
        told("matchExpressions[0].values", "Exists takes no values, found 2"),
    ),
    (
        {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]},
        told("matchExpressions[0].operator", 'Unsupported value: "Gt": supported values: "In", "NotIn", "Exists", "DoesNotExist"'),
    ),
]
TERM = "nodeSelectorTerms[0]"
SELECTOR_CASES: list[tuple[dict[str, Any], list[Told]]] = [
    *LABEL_SELECTOR_CASES,
    *(
        ({"nodeSelectorTerms": [case]}, [Told(f"{TERM}.{field}", message) for field, message in expected])
        for case, expected in LABEL_SELECTOR_CASES[2:-1]
    ),
    (
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Lt", "values": ["1", "2"]}]}]},
        told(f"{TERM}.matchExpressions[0].values", "Lt needs exactly one value, found 2"),
    ),
    (
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["9223372036854775808"]}]}]},
        told(f"{TERM}.matchExpressions[0].values", "Gt compares with a whole number of 64 bits, found '9223372036854775808'"),
    ),
    (
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["Node"]}]}]},
        told(f"{TERM}.matchFields[0].values[0]", f"'Node' is not a valid node name: {SUBDOMAIN}"),
    ),
    (
        {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}]},
        told(f"{TERM}.matchFields[0].values", "Too many: 2: must have at most 1 item"),
    ),
    ({"nodeSelectorTerms": []}, told("nodeSelectorTerms", "it needs at least one term, as Kubernetes requires")),
    (
        {"nodeSelectorTerms": [{}, {"matchFields": []}]},
        told("", "it selects nothing, so no node could use the pool; the empty selector selects every node"),
    ),
    (
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}], "matchLabels": {}},
        told(
            "",
            "matchLabels and matchExpressions cannot stand beside nodeSelectorTerms;"
            " a selector is either a LabelSelector or a list of terms",
        ),
    ),
]
LISTS = ("clusterPoolIPv4PodCIDRs", "clusterPoolIPv6PodCIDRs")
OPERATOR = "spec.ipam.operator"
CONFIG_CASES: list[tuple[dict[str, Any], list[Told]]] = [
    ({}, told(OPERATOR, "the pool has no CIDR; give at least one in clusterPoolIPv4PodCIDRs, as in 10.0.0.0/16")),
    (
        {LISTS[0]: ["fd00::/48"], LISTS[1]: ["10.0.0.0/16"]},
        [
            Told(f"{OPERATOR}.{LISTS[0]}[0]", "'fd00::/48' is not a usable CIDR: it is not of IPv4"),
            Told(f"{OPERATOR}.{LISTS[1]}[0]", "'10.0.0.0/16' is not a usable CIDR: it is not of IPv6"),
        ],
    ),
    *(
        case
        for name, cidrs, most in ((LISTS[0], ("10.0.0.0/16", "10.0.1.0/24", "10.0.0.1/16", "0.0.0.0/0", "10.0.0.7"), 32),
                                  (LISTS[1], ("fd00::/48", "fd00::/64", "fd00::1/48", "::/0", "fd00::7"), 128))
        for case in (
            (
                {name: [cidrs[0], cidrs[1]]},
                told(f"{OPERATOR}.{name}", f"{cidrs[1]} lies inside {cidrs[0]}, another CIDR of the pool; leave one of them out"),
            ),
            ({name: [cidrs[0], cidrs[0]]}, told(f"{OPERATOR}.{name}", f"{cidrs[0]} is given twice")),
            (
                {name: [cidrs[2]]},
                told(f"{OPERATOR}.{name}[0]", f"'{cidrs[2]}' is not a usable CIDR: host bits are set; did you mean {cidrs[0]}?"),
            ),
            (
                {name: [cidrs[3]]},
                told(f"{OPERATOR}.{name}[0]", f"{cidrs[3]} is a whole address family; give a CIDR with a length of at least 1"),
            ),
            (
                {name: [cidrs[4]]},
                told(
                    f"{OPERATOR}.{name}[0]",
                    f"'{cidrs[4]}' is not a usable CIDR: it has no length; write {cidrs[4]}/{most} for a single address",
                ),
            ),
            (
                {name: ["x/1" if most == 32 else "x::/1"]},
                told(
                    f"{OPERATOR}.{name}[0]",
                    f"'{'x/1' if most == 32 else 'x::/1'}' is not a usable CIDR: write address/length, as in 10.0.0.0/16 or fd00::/48",
                ),
            ),
        )
    ),
    (
        {LISTS[0]: ["10.0.0.0/16"], "clusterPoolIPv4MaskSize": 12},
        told(
            f"{OPERATOR}.clusterPoolIPv4MaskSize", "a /12 is larger than the CIDR 10.0.0.0/16, so not one block fits; give at least 16"
        ),
    ),
    (
        {LISTS[1]: ["fd00::/48"], "clusterPoolIPv6MaskSize": 12, "clusterPoolIPv4MaskSize": 24},
        [
            Told(f"{OPERATOR}.clusterPoolIPv4MaskSize", "/24 is given, but the pool has no IPv4 CIDR"),
            Told(f"{OPERATOR}.clusterPoolIPv6MaskSize", "a /12 is larger than the CIDR fd00::/48, so not one block fits; give at least 48"),
        ],
    ),
    (
        {LISTS[0]: ["10.0.0.0/16"], "clusterPoolIPv6MaskSize": 64},
        told(f"{OPERATOR}.clusterPoolIPv6MaskSize", "/64 is given, but the pool has no IPv6 CIDR"),
    ),
]
NEITHER = "it is neither a pool, which needs ipam.operator.clusterPoolIPv4PodCIDRs, nor configuration of Cilium's agent (defaults)"


def at(place: str, expected: list[Told]) -> list[Told]:
    return [Told(f"{place}.{field}" if field else place, message) for field, message in expected]


def cases() -> Iterator[tuple[str, dict[str, Any], list[Told]]]:
    """Every case of the tables: where it is created, the object, and what the server has to say."""
    good: dict[str, Any] = {"cidrs": ["10.0.0.0/16"], "nodeSelector": {}}
    for change, expected in POOL_CASES:
        yield POOLS, pool_object({name: value for name, value in (good | change).items() if value is not None}), expected
    for selector, expected in SELECTOR_CASES:
        yield POOLS, pool_object(good | {"nodeSelector": selector}), at(SELECTOR, expected)
        other = [{"nodeSelector": selector, "ipv4": 24}]
        yield POOLS, pool_object(good | {"blockLengths": other}), at("spec.blockLengths[0].nodeSelector", expected)
    for operator, expected in CONFIG_CASES:
        yield CONFIGS, config_object({"nodeSelector": {}, "ipam": {"operator": operator}}), expected
    for selector, expected in LABEL_SELECTOR_CASES:
        yield CONFIGS, config_object({"nodeSelector": selector, "defaults": {"a": "b"}}), at(SELECTOR, expected)
    yield CONFIGS, config_object({"nodeSelector": {}}), told("spec", NEITHER)
    yield CONFIGS, config_object({"defaults": {}}), told(SELECTOR, "Required value")


@pytest.mark.parametrize(
    ("path", "obj", "expected"), [pytest.param(*case, id=f"{case[1]['kind']} {json.dumps(case[1]['spec'])}") for case in cases()]
)
def test_the_server_refuses_what_is_wrong_in_these_words(
    server: LightkubeTransport, path: str, obj: dict[str, Any], expected: list[Told]
) -> None:
    assert refusal(server, path, obj) == expected
    with pytest.raises(InvalidManifestError):
        read_manifest(obj, "manifest")


def rules_of(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every rule of a schema, and the field that it is told of."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path + rule.get("fieldPath", ""), rule
    for name, inner in schema.get("properties", {}).items():
        yield from rules_of(inner, f"{path}.{name}" if path else name)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield from rules_of(schema[key], f"{path}[]")


def test_the_tables_have_a_case_for_every_sentence_of_every_rule() -> None:
    seen = {POOLS: set[Told](), CONFIGS: set[Told]()}
    for path, _, expected in cases():
        seen[path] |= {Told(re.sub(r"\[\w+\]", "[]", field), message) for field, message in expected}
    silent = []
    for place, definition in ((POOLS, CIDR_POOL), (CONFIGS, CILIUM_NODE_CONFIG)):
        for field, rule in rules_of(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], ""):
            sentences = re.findall(r"'((?:[^'\\]|\\.)*)'\.format", rule.get("messageExpression", "")) or [rule["message"]]
            for sentence in sentences:
                pattern = re.sub(r"%[sd]", ".*", re.escape(sentence.replace(r"\'", "'")))
                if not any(each.field == field and re.fullmatch(pattern, each.message) for each in seen[place]):
                    silent.append((place, field, sentence))

    assert silent == []


# ------------------------------------------------------------------------------------- the same as the library says

CIDRS = (
    *("10.0.0.0/24", "10.0.0.0/25", "10.0.0.128/25", "10.0.1.0/24", "10.0.0.0/16", "10.0.0.7/32", "192.168.0.0/31"),
    *("fd00::/64", "fd00::/120", "FD00:0::/48", "fd00::100/120", "fd00::7/128", "64:ff9b::10.0.0.0/104"),
    *("10.0.0.1/24", "fd00::1/64", "10.0.0.0", "fd00::", "0.0.0.0/0", "::/0", "10.0.0.0/33", "fd00::/129", "10.0.0.0/024", "10.0.0.0/-1"),
    *("", "/", "/24", "x", "10.0.0/24", "10.0.0.00/24", "10.0.0.0/255.255.255.0", "fd00::%eth0/64", "fd00:::/64", " 10.0.0.0/24", "10.0.0.0/24 "),
)


@st.composite
def reserved_texts(draw: st.DrawFn) -> str:
    def address() -> str:
        if draw(st.integers(0, 3)) == 0:
            return draw(st.sampled_from(["", "x", "10.0.0.256", "10.0.0.01", "::1%lo", "10.0.0.1/32", "fd00::ffff:ffff:ffff:ffff"]))
        number = draw(st.integers(0, 600) | st.sampled_from([0, 127, 128, 255, 256, 0xFFFF, 0x10000]))
        return f"10.0.{number >> 8 & 255}.{number & 255}" if draw(st.booleans()) else f"fd00::{number >> 16:x}:{number & 0xFFFF:x}"

    match draw(st.integers(0, 2)):
        case 0:
            return address()
        case 1:
            return draw(st.sampled_from(CIDRS))
        case _:
            return f"{address()}{draw(st.sampled_from(['-', '-', ' - ', '--']))}{address()}"


keys = st.sampled_from(["a", "a.b/c", "a b", "", "/a", "a/", "a/b/c", "A.b/c", "a" * 63, "a" * 64, "é", "a\n", f"{'a' * 253}/b", f"{'a' * 254}/b"])
label_texts = st.sampled_from(["", "b", "B_1.c", "-b", "b-", "b c", "b" * 63, "b" * 64, "é", "b\n", "0", "007", "-1", "9223372036854775807", "9223372036854775808"])
operators = st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "in", ""])
expressions = st.fixed_dictionaries({"key": keys, "operator": operators}, optional={"values": st.lists(label_texts, max_size=3)})
names = st.fixed_dictionaries(
    {"key": st.sampled_from(["metadata.name", "metadata.namespace"]), "operator": operators},
    optional={"values": st.lists(st.sampled_from(["node-1", "Node", "n" * 254, ""]), max_size=2)},
)
terms = st.fixed_dictionaries(
    {}, optional={"matchExpressions": st.lists(expressions, max_size=2), "matchFields": st.lists(names, max_size=1)}
)
label_selectors = st.fixed_dictionaries(
    {}, optional={"matchLabels": st.dictionaries(keys, label_texts, max_size=2), "matchExpressions": st.lists(expressions, max_size=2)}
)
selectors = st.just({}) | label_selectors | st.fixed_dictionaries({"nodeSelectorTerms": st.lists(terms, max_size=2)})
some_selectors = st.just({}) | st.just({}) | selectors
lengths = st.fixed_dictionaries(
    {}, optional={"ipv4": st.sampled_from([0, 1, 16, 24, 25, 32, 33]), "ipv6": st.sampled_from([0, 1, 48, 64, 120, 128, 129])}
)
odd = st.sampled_from([-1, 0, 1, 2, 3, 65536, 65537, -(1 << 31), -(1 << 31) - 1, (1 << 31) - 1, 1 << 31, (1 << 63) - 1, 1 << 63, 1.5, True, "1"])
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "blockLength": lengths,
    "blockLengths": st.lists(
        st.builds(lambda each, selector: each | {"nodeSelector": selector}, lengths, some_selectors), max_size=2
    ),
    "reserved": st.lists(reserved_texts(), max_size=3),
    "allowFirst": st.booleans() | odd,
    "priority": odd,
    "addressSpace": st.sampled_from(["default", "a.b", "A", "", "a..b", "s" * 253, "s" * 254]),
    "blocksPerNode": odd,
    "maxBlocksPerNode": odd,
    "reuseDelaySeconds": odd | st.sampled_from([0.5, 315_360_000, 315_360_001]),
    "seed": odd,
    "addressPolicy": st.sampled_from(["next", "lowest", "random", "first", ""]),
    "carving": st.sampled_from(["lowest", "sparse", "grouped", "Lowest"]),
    "groupBy": keys,
    "surplus": st.just(1),
}
specs = st.builds(
    lambda required, chosen: required | chosen,
    st.fixed_dictionaries({"cidrs": st.lists(st.sampled_from(CIDRS[:13]), min_size=1, max_size=3) | st.lists(st.sampled_from(CIDRS), max_size=3)})
    .flatmap(lambda cidrs: some_selectors.map(lambda selector: cidrs | {"nodeSelector": selector})),
    st.sampled_from([(), *((name,) for name in OPTIONAL), ("blocksPerNode", "maxBlocksPerNode"), ("carving", "groupBy"), tuple(OPTIONAL)[:3]])
    .flatmap(lambda chosen: st.fixed_dictionaries({name: OPTIONAL[name] for name in chosen})),
)


def problems(obj: Mapping[str, Any]) -> str:
    try:
        read_manifest(obj, "manifest")
    except InvalidManifestError as error:
        return str(error)
    return ""


BEYOND_CEL = r"manifest: spec\.reserved\[\d\]: (\S+) is not inside the pool's CIDRs \([^)]*\)"
"""What a server may take although the library does not: a range or CIDR that reaches from one CIDR into another over a gap."""


def is_beyond_cel(spec: Mapping[str, Any], said: str) -> bool:
    return bool(re.fullmatch(BEYOND_CEL + r"(; spec\.reserved\[\d\]: (\S+) is not inside the pool's CIDRs \([^)]*\))*", said)) and all(
        len(spec["cidrs"]) > 1 and ("-" in text or "/" in text) for text in re.findall(r"(\S+) is not inside", said)
    )


@settings(max_examples=400)
@given(specs)
@example({"cidrs": ["10.0.0.0/25", "10.0.1.0/24"], "nodeSelector": {}, "reserved": ["10.0.0.100-10.0.1.5", "10.0.0.0/16"]})
@example({"cidrs": ["10.0.0.0/25", "10.0.0.128/25"], "nodeSelector": {}, "reserved": ["10.0.0.100-10.0.0.200", "10.0.0.0/24"]})
@example({"cidrs": ["fd00::/64"], "nodeSelector": {}, "reserved": ["fd00::1:0-fd00::ffff"]})
@example({"cidrs": ["fd00::/64"], "nodeSelector": {}, "reserved": ["fd00::ffff-fd00::1:0"]})
def test_server_and_library_agree_on_what_is_a_pool(server: LightkubeTransport, spec: dict[str, Any]) -> None:
    obj = pool_object(spec)

    said, refused = problems(obj), refusal(server, POOLS, obj)

    assert bool(refused) == bool(said) or is_beyond_cel(spec, said), (said, refused)


@settings(max_examples=200)
@given(pools())
def test_the_server_takes_every_pool_that_the_library_makes(server: LightkubeTransport, spec: PoolSpec) -> None:
    assert refusal(server, POOLS, pool_to_manifest(spec)) == []


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            LISTS[0]: st.lists(st.sampled_from(CIDRS), max_size=2),
            LISTS[1]: st.lists(st.sampled_from(CIDRS), max_size=2),
            "clusterPoolIPv4MaskSize": st.sampled_from([0, 16, 24, 25, 32, 33]),
            "clusterPoolIPv6MaskSize": st.sampled_from([0, 48, 64, 120, 128, 129]),
        },
    ),
    st.just({}) | label_selectors,
)
def test_server_and_library_agree_on_what_is_a_pool_in_the_form_of_the_seed(
    server: LightkubeTransport, operator: dict[str, Any], selector: dict[str, Any]
) -> None:
    obj = config_object({"nodeSelector": selector, "ipam": {"operator": operator}})

    said, refused = problems(obj), refusal(server, CONFIGS, obj)

    assert bool(refused) == bool(said), (said, refused)
