"""`ciliumipam.manifest`: our own kinds and the seed's, round trips, and everything that a manifest can have wrong."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given

from ciliumipam.errors import InvalidManifestError, InvalidPoolError
from ciliumipam.manifest import API_VERSION, Item, pool_to_manifest, read_manifest, read_manifests
from ciliumipam.node import Node
from ciliumipam.pool import BlockLengths, PoolSpec
from ciliumipam.requests import ExistingBlock
from ciliumipam.selector import NodeSelector
from ciliumipam.testing.strategies import pools

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

SEED_TEXT = """
apiVersion: cilium.io/v2alpha1
kind: CiliumNodeConfig
metadata:
name: node-{n}-ipam-config
spec:
nodeSelector:
matchLabels:
kubernetes.io/hostname: node-{n}
ipam:
operator:
clusterPoolIPv4PodCIDRs:
- 10.0.{n}.0/24
"""


def read(document: object) -> tuple[Item, ...]:
    """The items of a document that has nothing to tell beside them."""
    items, ignored, refused = read_manifest(document, "x.yaml")
    assert (ignored, refused) == ((), ())
    return items


def read_files(directory: str) -> list[PoolSpec | Node]:
    items: list[PoolSpec | Node] = []
    for path in sorted((EXAMPLES / directory).iterdir()):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            items += [item for item in read(document) if not isinstance(item, ExistingBlock)]
    return items


# -------------------------------------------------------------------------------------------------------- examples


def test_the_seeds_manifests_are_two_pools_of_one_block_each_for_their_own_node() -> None:
    items = {item.name: item for item in read_files("seed")}

    assert sorted(items) == ["node-1", "node-1-ipam-config", "node-2", "node-2-ipam-config"]
    for n in (1, 2):
        spec, node, other = items[f"node-{n}-ipam-config"], items[f"node-{n}"], items[f"node-{3 - n}"]
        assert isinstance(spec, PoolSpec)
        assert isinstance(node, Node)
        assert isinstance(other, Node)
        assert spec == PoolSpec(
            name=f"node-{n}-ipam-config",
            cidrs=[f"10.0.{n}.0/24"],
            selector=NodeSelector.parse(f"kubernetes.io/hostname=node-{n}"),
        )
        assert spec.blocks(4) == 1
        assert spec.selector.matches(node.labels)
        assert not spec.selector.matches(other.labels)


@pytest.mark.parametrize("n", [1, 2])
def test_the_seeds_manifests_are_the_text_of_the_seed_with_its_indentation_back(n: int) -> None:
    text = (EXAMPLES / "seed" / f"node-{n}-ipam-config.yaml").read_text(encoding="utf-8")

    assert [line.strip() for line in text.splitlines()] == SEED_TEXT.format(n=n).split("\n")[1:-1]


def test_the_dual_stack_example_has_two_disjoint_dual_stack_pools_and_three_nodes() -> None:
    items = read_files("dual-stack")
    pools = {item.name: item for item in items if isinstance(item, PoolSpec)}
    nodes = {item.name: item for item in items if isinstance(item, Node)}
    rack, single = pools["rack-a"], pools["node-c-ipam-config"]

    assert (len(pools), sorted(nodes)) == (2, ["node-a", "node-b", "node-c"])
    assert rack.overlaps(single) is None
    assert [str(cidr) for cidr in rack.cidrs] == ["10.64.0.0/16", "fd00:64::/48"]
    assert [rack.block_length(cidr) for cidr in rack.cidrs] == [24, 64]
    assert rack.to_dict()["reserved"] == ["10.64.0.1-10.64.0.10", "fd00:64::53"]
    assert [str(cidr) for cidr in single.cidrs] == ["10.65.0.0/20", "fd00:65::/104"]
    assert (single.block_length_v4, single.block_length_v6) == (26, 120)
    assert [name for name, node in nodes.items() if rack.selector.matches(node.labels)] == ["node-a", "node-b"]
    assert [name for name, node in nodes.items() if single.selector.matches(node.labels)] == ["node-c"]


# ----------------------------------------------------------------------------------------------------- good input


def cidr_pool(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "CIDRPool",
        "metadata": {"name": "green"},
        "spec": {"cidrs": ["10.0.0.0/16"], "nodeSelector": {}} | spec,
    }


def node_config(version: str = "cilium.io/v2alpha1", **operator: Any) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": "CiliumNodeConfig",
        "metadata": {"name": "green"},
        "spec": {"nodeSelector": {}, "ipam": {"operator": {"clusterPoolIPv4PodCIDRs": ["10.0.0.0/16"]} | operator}},
    }


def core_node(**metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"} | metadata}


def green(**fields: Any) -> PoolSpec:
    known: dict[str, Any] = {"name": "green", "cidrs": ["10.0.0.0/16"], "selector": NodeSelector.everything()} | fields
    return PoolSpec(**known)


TERMS = {
    "nodeSelectorTerms": [
        {"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["15"]}]},
        {"matchExpressions": [{"key": "big", "operator": "Exists"}]},
    ]
}
LENGTHS = [{"nodeSelector": {"matchLabels": {"a": "b"}}, "ipv4": 20}, {"nodeSelector": TERMS, "ipv4": 28}]
MORE: list[tuple[dict[str, Any], PoolSpec | Node]] = [
    (cidr_pool(nodeSelector=TERMS), green(selector=NodeSelector.from_terms(TERMS))),
    (cidr_pool(blockLengths=LENGTHS), green(block_lengths=[BlockLengths(NodeSelector.parse("a=b"), 20), BlockLengths(NodeSelector.from_terms(TERMS), 28)])),
    (cidr_pool(blockLengths=[]), green()),
    (cidr_pool(priority=-7), green(priority=-7)),
    (cidr_pool(addressSpace="blue"), green(address_space="blue")),
    (cidr_pool(blocksPerNode=2, maxBlocksPerNode=4), green(blocks_per_node=2, max_blocks_per_node=4)),
    (cidr_pool(overflow=True), green(overflow=True)),
    (cidr_pool(draining=True), green(draining=True)),
    (cidr_pool(reuseDelaySeconds=1.5), green(reuse_delay=1.5)),
    (cidr_pool(reuseDelaySeconds=300), green(reuse_delay=300)),
    (cidr_pool(addressPolicy="random", seed=7), green(address_policy="random", seed=7)),
    (cidr_pool(carving="sparse"), green(carving="sparse")),
    (cidr_pool(carving="grouped", groupBy="rack"), green(carving="grouped", group_by="rack")),
    (cidr_pool(**dict.fromkeys(["blockLengths", "priority", "addressSpace", "blocksPerNode", "maxBlocksPerNode", "overflow", "draining", "reuseDelaySeconds", "addressPolicy", "seed", "carving", "groupBy"])), green()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (cidr_pool(), green()),
        (cidr_pool(blockLength=None, reserved=None, allowFirst=None, allowLast=None), green()),
        (cidr_pool(blockLength={}, reserved=[], allowFirst=False, allowLast=False), green()),
        (cidr_pool(blockLength={"ipv4": 26, "ipv6": None}), green(block_length_v4=26)),
        (cidr_pool(cidrs=["fd00::/48"], blockLength={"ipv6": 56}), green(cidrs=["fd00::/48"], block_length_v6=56)),
        (cidr_pool(reserved=["10.0.0.0/28", "10.0.1.1-10.0.1.3", "10.0.9.9"]), green(reserved=["10.0.0.0/28", ("10.0.1.1", "10.0.1.3"), "10.0.9.9"])),
        (cidr_pool(allowFirst=True), green(allow_first=True)),
        (cidr_pool(allowLast=True), green(allow_last=True)),
        (cidr_pool(nodeSelector={"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}), green(selector=NodeSelector.parse("a!=b"))),
        (cidr_pool() | {"status": {"anything": 1}}, green()),
        (node_config(), green()),
        (node_config("cilium.io/v2"), green()),
        (node_config(clusterPoolIPv4MaskSize=26), green(block_length_v4=26)),
        (node_config(clusterPoolIPv6PodCIDRs=["fd00::/48"], clusterPoolIPv6MaskSize=56), green(cidrs=["10.0.0.0/16", "fd00::/48"], block_length_v6=56)),
        (node_config(clusterPoolIPv4PodCIDRs=None, clusterPoolIPv6PodCIDRs=["fd00::/48"]), green(cidrs=["fd00::/48"])),
        (core_node(), Node("node-1")),
        (core_node(labels=None), Node("node-1")),
        (core_node(labels={"a": "", "b.c/d": "1"}), Node("node-1", {"a": "", "b.c/d": "1"})),
        (core_node(uid="x", creationTimestamp="t", annotations={}, managedFields=[{}]) | {"spec": {"taints": [{}], "podCIDR": "", "podCIDRs": None}, "status": {"x": [1]}}, Node("node-1")),
        *MORE,
    ],
    ids=range(19 + len(MORE)),
)  # fmt: skip
def test_each_form_is_read_as_what_it_means(document: dict[str, Any], expected: PoolSpec | Node) -> None:
    before = copy.deepcopy(document)

    assert read(document) == (expected,)
    assert document == before


def test_what_is_known_and_means_nothing_here_is_listed_and_does_not_get_in_the_way() -> None:
    document = node_config()
    document["spec"]["defaults"] = {"debug": "true"}
    document["metadata"] |= {
        "namespace": "kube-system",
        "labels": {"a": "b"},
        "annotations": {"example.com/owner": "me", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }

    items, ignored, refused = read_manifest({"apiVersion": "v1", "kind": "List", "items": [document]}, "x.yaml")

    assert (items, refused) == ((green(),), ())
    assert ignored == tuple(
        f"x.yaml: items[0].{path}: known, without meaning here"
        for path in (
            "metadata.labels",
            "metadata.namespace",
            "metadata.annotations['example.com/owner']",
            "spec.defaults",
        )
    )


def test_paths_of_several_documents_are_each_documents_own() -> None:
    labelled = cidr_pool()
    labelled["metadata"]["labels"] = {"a": "b"}

    found = read_manifests(
        [("x.yaml", {"apiVersion": "v1", "kind": "List", "items": [core_node()]}), ("y.yaml", labelled)]
    )

    assert found == ((Node("node-1"), green()), ("y.yaml: metadata.labels: known, without meaning here",), ())


@pytest.mark.parametrize("document", [cidr_pool(), node_config()], ids=["pool", "config"])
def test_a_pool_that_is_being_deleted_takes_nothing_new(document: dict[str, Any]) -> None:
    document["metadata"]["deletionTimestamp"] = "2024-05-01T08:00:00Z"

    assert read(document) == (green(draining=True),)


def test_a_list_gives_its_items_in_order() -> None:
    document = {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [core_node(), cidr_pool(), node_config()]}

    assert read(document) == (Node("node-1"), green(), green())


@pytest.mark.parametrize(
    ("version", "kind", "item", "expected"),
    [
        ("v1", "NodeList", core_node(), Node("node-1")),
        (API_VERSION, "CIDRPoolList", cidr_pool(), green()),
        ("cilium.io/v2", "CiliumNodeConfigList", node_config(), green()),
        ("cilium.io/v2alpha1", "CiliumNodeConfigList", node_config(), green()),
    ],
    ids=["nodes", "pools", "configs-v2", "configs-v2alpha1"],
)
def test_the_items_of_a_typed_list_need_not_say_their_kind_as_an_api_server_leaves_it_out(
    version: str, kind: str, item: dict[str, Any], expected: object
) -> None:
    bare = {name: value for name, value in item.items() if name not in {"apiVersion", "kind"}}
    document = {"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "1"}, "items": [bare, item]}

    assert read(document) == (expected, expected)


@pytest.mark.parametrize("items", [None, []])
def test_an_empty_list_is_empty(items: Any) -> None:
    assert read({"apiVersion": "v1", "kind": "List", "items": items}) == ()


# ----------------------------------------------------------------------------------------------------- round trip


@given(pools())
def test_a_pool_written_as_a_manifest_reads_back_as_an_equal_pool(spec: PoolSpec) -> None:
    manifest = pool_to_manifest(spec)

    assert read(manifest) == (spec,)
    assert read(json.loads(json.dumps(manifest))) == (spec,)
    assert read(yaml.safe_load(yaml.safe_dump(manifest))) == (spec,)
    assert json.dumps(pool_to_manifest(*read(manifest))) == json.dumps(manifest)  # type: ignore[arg-type]  # it is a pool


@given(pools())
def test_the_seeds_form_can_say_cidrs_selector_and_block_lengths(spec: PoolSpec) -> None:
    operator: dict[str, Any] = {}
    for family, cidrs_field, size_field, size in (
        (4, "clusterPoolIPv4PodCIDRs", "clusterPoolIPv4MaskSize", spec.block_length_v4),
        (6, "clusterPoolIPv6PodCIDRs", "clusterPoolIPv6MaskSize", spec.block_length_v6),
    ):
        operator[cidrs_field] = [str(cidr) for cidr in spec.cidrs if cidr.family == family]
        operator[size_field] = size
    document = {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumNodeConfig",
        "metadata": {"name": spec.name},
        "spec": {"nodeSelector": {"matchLabels": {"a": "b"}}, "ipam": {"operator": operator}},
    }

    (found,) = read(document)

    expected = PoolSpec(
        name=spec.name,
        cidrs=spec.cidrs,
        selector=NodeSelector.parse("a=b"),
        block_length_v4=spec.block_length_v4,
        block_length_v6=spec.block_length_v6,
    )
    assert found == expected


# ------------------------------------------------------------------------------------------------------ bad input


def without(document: dict[str, Any], *path: str) -> dict[str, Any]:
    result = copy.deepcopy(document)
    inner = result
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return result


def changed(document: dict[str, Any], value: Any, *path: str) -> dict[str, Any]:
    result = copy.deepcopy(document)
    inner = result
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return result


POOL, CONFIG, NODE = cidr_pool(), node_config(), core_node(labels={"a": "b"})
OPERATOR = ("spec", "ipam", "operator")
KNOWN = (
    "known: CIDRBlock (ciliumipam.io/v1alpha1), CIDRPool (ciliumipam.io/v1alpha1), CiliumNode (cilium.io/v2),"
    " CiliumNodeConfig (cilium.io/v2, cilium.io/v2alpha1), CiliumPodIPPool (cilium.io/v2, cilium.io/v2alpha1),"
    " ClusterCIDR (networking.k8s.io/v1alpha1, networking.x-k8s.io/v1), IPPool (crd.projectcalico.org/v1, projectcalico.org/v3),"
    " Node (v1), and List (v1) of these"
)

BAD: list[tuple[Any, str, str]] = [
    # the document
    (None, "", "expected a manifest, which is a mapping with apiVersion, kind and metadata; found nothing"),
    ([], "", "found a list"),
    ("kind: Node", "", "found the text 'kind: Node'"),
    (5, "", "found the number 5"),
    ({}, "apiVersion", "it is required; kind: it is required"),
    (without(POOL, "kind"), "kind", "it is required"),
    (without(POOL, "apiVersion"), "apiVersion", "it is required"),
    (changed(POOL, 1, "apiVersion"), "apiVersion", "expected text, found the number 1; put it in quotes"),
    (changed(POOL, [], "kind"), "kind", "expected text, found a list"),
    (changed(POOL, "CIDRpool", "kind"), "kind", f"CIDRpool (ciliumipam.io/v1alpha1) is not a kind that is read here; {KNOWN}"),
    (changed(POOL, "v1", "apiVersion"), "kind", f"CIDRPool (v1) is not a kind that is read here; {KNOWN}"),
    (changed(CONFIG, "cilium.io/v1", "apiVersion"), "kind", f"CiliumNodeConfig (cilium.io/v1) is not a kind that is read here; {KNOWN}"),
    ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}, "kind", f"Pod (v1) is not a kind that is read here; {KNOWN}"),
    # fields that are not known
    (POOL | {"sepc": {}}, "sepc", "unknown field; did you mean 'spec'? (known: apiVersion, kind, metadata, spec, status)"),
    (POOL | {1: {}}, "", "a field name is text, found the number 1"),
    (POOL | {True: {}}, "", "a field name is text, found the boolean true"),
    (changed(POOL, "x", "metadata", "label"), "metadata.label", "unknown field; did you mean 'labels'?"),
    (changed(POOL, [], "spec", "cidr"), "spec.cidr", "unknown field; did you mean 'cidrs'?"),
    (changed(POOL, {"ip4": 24}, "spec", "blockLength"), "spec.blockLength.ip4", "unknown field; did you mean 'ipv4'? (known: ipv4, ipv6)"),
    (changed(POOL, {"matchLabel": {}}, "spec", "nodeSelector"), "spec.nodeSelector.matchLabel", "unknown field; did you mean 'matchLabels'?"),
    (changed(POOL, {1: {}}, "spec", "nodeSelector"), "spec.nodeSelector", "a field name is text, found the number 1"),
    (changed(CONFIG, {}, "spec", "impa"), "spec.impa", "unknown field; did you mean 'ipam'? (known: defaults, ipam, nodeSelector)"),
    (changed(CONFIG, {}, "spec", "ipam", "operators"), "spec.ipam.operators", "unknown field; did you mean 'operator'?"),
    (changed(CONFIG, [], *OPERATOR, "clusterPoolIPv4PodCIDRList"), "spec.ipam.operator.clusterPoolIPv4PodCIDRList", "unknown field; did you mean 'clusterPoolIPv4PodCIDRs'?"),
    (changed(CONFIG, 24, *OPERATOR, "clusterPoolIPv6Masksize"), "spec.ipam.operator.clusterPoolIPv6Masksize", "unknown field; did you mean 'clusterPoolIPv6MaskSize'?"),
    (NODE | {"labels": {}}, "labels", "unknown field (known: apiVersion, kind, metadata, spec, status)"),
    (changed(NODE, {}, "metadata", "lables"), "metadata.lables", "unknown field; did you mean 'labels'?"),
    # names
    (without(POOL, "metadata"), "metadata", "expected a mapping with name, labels, annotations, namespace, generateName, uid; found nothing"),
    (changed(POOL, "green", "metadata"), "metadata", "expected a mapping with name"),
    (without(POOL, "metadata", "name"), "metadata.name", "it is required"),
    (changed(POOL, None, "metadata", "name"), "metadata.name", "it is required"),
    (changed(POOL, 5, "metadata", "name"), "metadata.name", "expected text, found the number 5; put it in quotes"),
    (changed(POOL, "Green", "metadata", "name"), "metadata.name", "'Green' is not a valid pool name"),
    (changed(CONFIG, "a/b", "metadata", "name"), "metadata.name", "'a/b' is not a valid pool name"),
    (changed(NODE, "node_1", "metadata", "name"), "metadata.name", "'node_1' is not a valid node name"),
    # selectors
    (without(POOL, "spec", "nodeSelector"), "spec.nodeSelector", "it is required, since a selector that is absent selects nothing; write {} to select every node"),
    (changed(POOL, None, "spec", "nodeSelector"), "spec.nodeSelector", "a selector that is absent selects nothing"),
    (without(CONFIG, "spec", "nodeSelector"), "spec.nodeSelector", "a selector that is absent selects nothing"),
    (changed(POOL, "a=b", "spec", "nodeSelector"), "spec.nodeSelector", "expected a mapping with matchLabels or matchExpressions, or with nodeSelectorTerms; found the text 'a=b'"),
    (changed(POOL, {"matchLabels": {"a": 1}}, "spec", "nodeSelector"), "spec.nodeSelector.matchLabels['a']", "expected text, found the number 1; put it in quotes"),
    (changed(POOL, {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}, "spec", "nodeSelector"), "spec.nodeSelector.matchExpressions[0]", "operator 'in' is not one of In"),
    (changed(CONFIG, {"matchLabels": {"a b": "c"}}, "spec", "nodeSelector"), "spec.nodeSelector.matchLabels['a b']", "the key 'a b' is not a label key"),
    # the spec of a pool
    (without(POOL, "spec"), "spec", "expected a mapping with cidrs, nodeSelector, blockLength, reserved, allowFirst, allowLast; found nothing"),
    (changed(POOL, [], "spec"), "spec", "found a list"),
    (without(POOL, "spec", "cidrs"), "spec.cidrs", "the pool has no CIDR"),
    (changed(POOL, [], "spec", "cidrs"), "spec.cidrs", "the pool has no CIDR"),
    (changed(POOL, "10.0.0.0/16", "spec", "cidrs"), "spec.cidrs", "expected a list, found the text '10.0.0.0/16'"),
    (changed(POOL, ["10.0.0.0/16", 10.1], "spec", "cidrs"), "spec.cidrs[1]", "expected text, found the number 10.1; put it in quotes"),
    (changed(POOL, [None], "spec", "cidrs"), "spec.cidrs[0]", "expected text, found nothing"),
    (changed(POOL, ["10.0.0.0/16", "10.1.0.1/24"], "spec", "cidrs"), "spec.cidrs[1]", "host bits are set; did you mean 10.1.0.0/24?"),
    (changed(POOL, ["10.0.0.0/16", "10.0.1.0/24"], "spec", "cidrs"), "spec.cidrs[1]", "10.0.1.0/24 lies inside 10.0.0.0/16"),
    (changed(POOL, ["0.0.0.0/0"], "spec", "cidrs"), "spec.cidrs[0]", "0.0.0.0/0 is a whole address family"),
    (changed(POOL, 24, "spec", "blockLength"), "spec.blockLength", "expected a mapping with ipv4 and ipv6; found the number 24"),
    (changed(POOL, {"ipv4": "24"}, "spec", "blockLength"), "spec.blockLength.ipv4", "expected a whole number, found the text '24'"),
    (changed(POOL, {"ipv4": True}, "spec", "blockLength"), "spec.blockLength.ipv4", "expected a whole number, found the boolean true"),
    (changed(POOL, {"ipv4": 12}, "spec", "blockLength"), "spec.blockLength.ipv4", "a /12 is larger than the CIDR 10.0.0.0/16"),
    (changed(POOL, {"ipv6": 64}, "spec", "blockLength"), "spec.blockLength.ipv6", "/64 is given, but the pool has no IPv6 CIDR"),
    (changed(POOL, {"ipv4": 1 << 20000}, "spec", "blockLength"), "spec.blockLength.ipv4", "a number of 20001 bits is not a prefix length"),
    (changed(POOL, "10.0.0.1", "spec", "reserved"), "spec.reserved", "expected a list, found the text '10.0.0.1'"),
    (changed(POOL, ["10.0.0.1", {}], "spec", "reserved"), "spec.reserved[1]", "expected text, found a mapping"),
    (changed(POOL, ["10.0.0.1", "10.1.0.0"], "spec", "reserved"), "spec.reserved[1]", "10.1.0.0 is not inside the pool's CIDRs"),
    (changed(POOL, "yes", "spec", "allowFirst"), "spec.allowFirst", "expected true or false, found the text 'yes'"),
    (changed(POOL, 0, "spec", "allowFirst"), "spec.allowFirst", "expected true or false, found the number 0"),
    (changed(POOL, "", "spec", "allowLast"), "spec.allowLast", "expected true or false, found the text ''"),
    (changed(POOL, 0, "spec", "blockLength"), "spec.blockLength", "expected a mapping with ipv4 and ipv6; found the number 0"),
    (changed(POOL, {"ipv4": 0}, "spec", "blockLength"), "spec.blockLength.ipv4", "the number 0 is not a prefix length"),
    (changed(POOL, {"ipv4": ""}, "spec", "blockLength"), "spec.blockLength.ipv4", "expected a whole number, found the text ''"),
    (changed(POOL, 1, "spec", "allowLast"), "spec.allowLast", "expected true or false, found the number 1"),
    (changed(POOL, "high", "spec", "priority"), "spec.priority", "expected a whole number, found the text 'high'"),
    (changed(POOL, 1 << 31, "spec", "priority"), "spec.priority", "the number 2147483648 is out of range"),
    (changed(POOL, "Blue", "spec", "addressSpace"), "spec.addressSpace", "'Blue' is not a valid address space"),
    (changed(POOL, 5, "spec", "addressSpace"), "spec.addressSpace", "is not a valid address space"),
    (changed(POOL, 0, "spec", "blocksPerNode"), "spec.blocksPerNode", "the number 0 is out of range, which is 1 to 65536"),
    (cidr_pool(blocksPerNode=3, maxBlocksPerNode=2), "spec.maxBlocksPerNode", "the number 2 is out of range, which is 3 to 65536"),
    (changed(POOL, 1, "spec", "overflow"), "spec.overflow", "expected true or false, found the number 1"),
    (changed(POOL, "yes", "spec", "draining"), "spec.draining", "expected true or false, found the text 'yes'"),
    (changed(POOL, "5m", "spec", "reuseDelaySeconds"), "spec.reuseDelaySeconds", "expected a number of seconds, found the text '5m'"),
    (changed(POOL, 1 << 20000, "spec", "reuseDelaySeconds"), "spec.reuseDelaySeconds", "a number of 20001 bits is out of range"),
    (changed(POOL, float("nan"), "spec", "reuseDelaySeconds"), "spec.reuseDelaySeconds", "the number nan is out of range"),
    (changed(POOL, "first", "spec", "addressPolicy"), "spec.addressPolicy", "the text 'first' is none of"),
    (changed(POOL, -1, "spec", "seed"), "spec.seed", "the number -1 is out of range"),
    (changed(POOL, "dense", "spec", "carving"), "spec.carving", "the text 'dense' is none of lowest, sparse, grouped"),
    (changed(POOL, "rack", "spec", "groupBy"), "spec.groupBy", 'it goes with carving "grouped"'),
    (cidr_pool(carving="grouped", groupBy="a b"), "spec.groupBy", "'a b' is not a label key"),
    (changed(POOL, {}, "spec", "blockLengths"), "spec.blockLengths", "expected a list, found a mapping"),
    (changed(POOL, [5], "spec", "blockLengths"), "spec.blockLengths[0]", "expected a mapping with nodeSelector, ipv4, ipv6; found the number 5"),
    (changed(POOL, [{"ipv4": 24}], "spec", "blockLengths"), "spec.blockLengths[0].nodeSelector", "it is required"),
    (changed(POOL, [{"nodeSelector": {"matchLabels": {"a": 1}}, "ipv4": 24}], "spec", "blockLengths"), "spec.blockLengths[0].nodeSelector.matchLabels['a']", "expected text, found the number 1"),
    (changed(POOL, [{"nodeSelector": {"nodeSelectorTerms": [{}]}, "ipv4": 24}], "spec", "blockLengths"), "spec.blockLengths[0].nodeSelector", "it selects nothing"),
    (changed(POOL, [{"nodeSelector": {}}], "spec", "blockLengths"), "spec.blockLengths[0]", "neither an IPv4 nor an IPv6 length is given"),
    (changed(POOL, [{"nodeSelector": {}, "ipv4": 24, "v6": 64}], "spec", "blockLengths"), "spec.blockLengths[0].v6", "unknown field; did you mean"),
    (changed(POOL, [None, {"nodeSelector": {}, "ipv4": 12}], "spec", "blockLengths"), "spec.blockLengths[0]", "found nothing; spec.blockLengths[1].ipv4: a /12 is larger than the CIDR 10.0.0.0/16"),
    (changed(POOL, [{"nodeSelector": {}, "ipv6": True}], "spec", "blockLengths"), "spec.blockLengths[0].ipv6", "expected a whole number, found the boolean true"),
    (changed(POOL, {"nodeSelectorTerms": []}, "spec", "nodeSelector"), "spec.nodeSelector.nodeSelectorTerms", "it needs at least one term"),
    (changed(POOL, {"nodeSelectorTerms": [{}]}, "spec", "nodeSelector"), "spec.nodeSelector", "it selects nothing"),
    (changed(POOL, TERMS | {"matchLabels": {}}, "spec", "nodeSelector"), "spec.nodeSelector.matchLabels", "it stands beside nodeSelectorTerms"),
    (changed(CONFIG, TERMS, "spec", "nodeSelector"), "spec.nodeSelector.nodeSelectorTerms", "unknown field (known: matchExpressions, matchLabels)"),
    # the seed's form
    (without(CONFIG, "spec"), "spec", "expected a mapping with nodeSelector, ipam, defaults; found nothing"),
    (without(CONFIG, "spec", "ipam"), "spec.ipam", "it is required; the CIDRs belong into spec.ipam.operator.clusterPoolIPv4PodCIDRs"),
    (changed(without(CONFIG, "spec", "ipam"), {"debug": "true"}, "spec", "defaults"), "spec.defaults", "it configures Cilium's agent and holds no pool"),
    (changed(CONFIG, [], "spec", "ipam"), "spec.ipam", "expected a mapping with operator; found a list"),
    (changed(CONFIG, {}, "spec", "ipam"), "spec.ipam.operator", "expected a mapping with clusterPoolIPv4PodCIDRs"),
    (changed(CONFIG, {}, *OPERATOR), "spec.ipam.operator", "the pool has no CIDR"),
    (changed(CONFIG, "10.0.0.0/16", *OPERATOR, "clusterPoolIPv4PodCIDRs"), "spec.ipam.operator.clusterPoolIPv4PodCIDRs", "expected a list, found the text"),
    (changed(CONFIG, ["10.0.0.0/16", "fd00::/48"], *OPERATOR, "clusterPoolIPv4PodCIDRs"), "spec.ipam.operator.clusterPoolIPv4PodCIDRs[1]", "'fd00::/48' is an IPv6 CIDR where IPv4 is wanted; it belongs into spec.ipam.operator.clusterPoolIPv6PodCIDRs"),
    (changed(CONFIG, ["10.1.0.0/16"], *OPERATOR, "clusterPoolIPv6PodCIDRs"), "spec.ipam.operator.clusterPoolIPv6PodCIDRs[0]", "'10.1.0.0/16' is an IPv4 CIDR where IPv6 is wanted; it belongs into spec.ipam.operator.clusterPoolIPv4PodCIDRs"),
    (changed(CONFIG, ["fd00::/48", "fd00::1/64"], *OPERATOR, "clusterPoolIPv6PodCIDRs"), "spec.ipam.operator.clusterPoolIPv6PodCIDRs[1]", "host bits are set"),
    (changed(CONFIG, ["fd00::/48", "fd00::/64"], *OPERATOR, "clusterPoolIPv6PodCIDRs"), "spec.ipam.operator.clusterPoolIPv6PodCIDRs[1]", "fd00::/64 lies inside fd00::/48"),
    (changed(CONFIG, "24", *OPERATOR, "clusterPoolIPv4MaskSize"), "spec.ipam.operator.clusterPoolIPv4MaskSize", "expected a whole number, found the text '24'"),
    (changed(CONFIG, 33, *OPERATOR, "clusterPoolIPv4MaskSize"), "spec.ipam.operator.clusterPoolIPv4MaskSize", "the number 33 is not a prefix length of IPv4"),
    (changed(CONFIG, 64, *OPERATOR, "clusterPoolIPv6MaskSize"), "spec.ipam.operator.clusterPoolIPv6MaskSize", "/64 is given, but the pool has no IPv6 CIDR"),
    # nodes
    (changed(NODE, [], "metadata", "labels"), "metadata.labels", "expected a mapping of label values by key; found a list"),
    (changed(NODE, {1: "a"}, "metadata", "labels"), "metadata.labels", "a label key is text, found the number 1"),
    (changed(NODE, {"a": 1}, "metadata", "labels"), "metadata.labels['a']", "expected text, found the number 1; put it in quotes"),
    (changed(NODE, {"a": None}, "metadata", "labels"), "metadata.labels['a']", "expected text, found nothing"),
    (changed(NODE, {"a b": "c"}, "metadata", "labels"), "metadata.labels['a b']", "the key is not a label key"),
    (changed(NODE, {"a": "b c"}, "metadata", "labels"), "metadata.labels['a']", "the text 'b c' is not a label value"),
    # lists
    ({"apiVersion": "v1", "kind": "List", "items": {}}, "items", "expected a list, found a mapping"),
    ({"apiVersion": "v1", "kind": "List", "items": [], "item": []}, "item", "unknown field; did you mean 'items'?"),
    ({"apiVersion": "v1", "kind": "List", "items": [NODE, None]}, "items[1]", "expected a manifest, which is a mapping"),
    ({"apiVersion": "v1", "kind": "List", "items": [without(NODE, "kind")]}, "items[0].kind", "it is required"),
    ({"apiVersion": "v1", "kind": "List", "items": [{}]}, "items[0].apiVersion", "it is required; items[0].kind: it is required"),
    ({"apiVersion": "v1", "kind": "List", "items": [NODE, changed(POOL, [], "spec", "cidrs")]}, "items[1].spec.cidrs", "the pool has no CIDR"),
    ({"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "List", "items": []}]}, "items[0].kind", "a List inside a List is not read"),
    ({"apiVersion": "v1", "kind": "NodeList", "items": [{"apiVersion": "v1", "kind": "NodeList"}]}, "items[0].kind", "a List inside a List is not read"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "path", "reason"), BAD, ids=range(len(BAD)))
def test_a_problem_names_its_path_and_what_was_expected(document: Any, path: str, reason: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(document, "x.yaml")

    assert (caught.value.source, caught.value.path) == ("x.yaml", path)
    assert reason in caught.value.reason
    assert str(caught.value).startswith(f"x.yaml: {path}: " if path else "x.yaml: ")


def test_all_problems_of_a_document_are_told_at_once() -> None:
    document = cidr_pool(cidrs=["10.0.0.5/24", "10.0.0.0/16"], reserved=["x"], allowFirst="x", typo=1) | {"extra": 1}
    document["metadata"] = {"name": "Green"}
    document["spec"]["nodeSelector"] = {"matchLabels": []}

    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(document, "x.yaml")

    assert caught.value.path == "extra"
    for path in (
        "metadata.name",
        "spec.typo",
        "spec.nodeSelector.matchLabels",
        "spec.cidrs[0]",
        "spec.reserved[0]",
        "spec.allowFirst",
    ):
        assert f"; {path}: " in caught.value.reason
    assert "spec.name" not in caught.value.reason
    assert "spec.selector" not in caught.value.reason
    assert isinstance(caught.value.__cause__, InvalidPoolError)


@pytest.mark.parametrize(("field", "path"), [("cidrs", "spec.cidrs[0]"), ("reserved", "spec.reserved[0]")])
def test_an_item_of_the_wrong_type_is_the_only_problem_told(field: str, path: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(cidr_pool(**{field: [5]}), "x.yaml")

    assert str(caught.value) == f"x.yaml: {path}: expected text, found the number 5; put it in quotes"


def test_all_problems_of_all_items_are_told_at_once_up_to_a_readable_number() -> None:
    broken = changed(POOL, [], "spec", "cidrs")
    document = {"apiVersion": "v1", "kind": "List", "items": [broken] * 30}

    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(document, "x.yaml")

    assert caught.value.path == "items[0].spec.cidrs"
    assert "items[20].spec.cidrs: " in caught.value.reason
    assert "items[21]" not in caught.value.reason
    assert caught.value.reason.endswith("and 9 more problems")


def test_the_problem_of_a_whole_document_is_told_without_a_path() -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(POOL | {1: {}, 2: {}}, "x.yaml")

    assert (
        str(caught.value)
        == "x.yaml: a field name is text, found the number 1; a field name is text, found the number 2"
    )


def bomb() -> Any:
    """What a few YAML aliases can make: 2^60 leaves in 60 small lists."""
    value: Any = ["x"]
    for _ in range(60):
        value = [value, value]
    return value


def loop() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "make",
    [bomb, loop, lambda: {"a": bomb()}, lambda: [bomb()], lambda: "x" * 1_000_000, lambda: ["x" * 1_000_000]],
    ids=["bomb", "loop", "mapped", "listed", "long", "long-item"],
)
@pytest.mark.parametrize("path", [(), ("kind",), ("metadata",), ("metadata", "name"), ("spec",), ("spec", "cidrs"), ("spec", "nodeSelector"), ("spec", "blockLength"), ("spec", "reserved"), ("spec", "allowFirst"), ("spec", "typo")], ids=".".join)  # fmt: skip
def test_a_value_that_would_fill_the_memory_is_refused_in_a_short_sentence(
    make: Callable[[], Any], path: tuple[str, ...]
) -> None:
    value = make()
    document = changed(POOL, value, *path) if path else value

    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(document, "x.yaml")

    assert len(str(caught.value)) < 2000


def test_nothing_is_read_from_a_document_with_one_broken_item() -> None:
    with pytest.raises(InvalidManifestError):
        read_manifest(
            {"apiVersion": "v1", "kind": "List", "items": [NODE, POOL, changed(NODE, {"a": 1}, "metadata", "labels")]},
            "x.yaml",
        )


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("CIDRBlock", "ciliumipam.io/v1alpha1"),
        ("CiliumPodIPPool", "cilium.io/v2"),
        ("ClusterCIDR", "networking.x-k8s.io/v1"),
        ("IPPool", "crd.projectcalico.org/v1"),
    ],
)
def test_a_document_without_a_spec_is_refused_whatever_its_kind(kind: str, version: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest({"apiVersion": version, "kind": kind, "metadata": {"name": "green"}}, "x.yaml")

    assert caught.value.path == "spec"
    assert re.fullmatch("expected a mapping with .*; found nothing", caught.value.reason)
