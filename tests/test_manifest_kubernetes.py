"""Kinds of Kubernetes: what a core `Node` holds, and `ClusterCIDR`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import InvalidManifestError
from ciliumipam.manifest import Item, read_manifest, read_manifests
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import ExistingBlock
from ciliumipam.selector import NodeSelector

DUMPS = Path(__file__).parents[1] / "docs" / "examples" / "dumps"


def load(name: str) -> Any:
    return yaml.safe_load((DUMPS / name).read_text(encoding="utf-8"))


def read(document: object) -> tuple[Item, ...]:
    items, ignored, refused = read_manifest(document, "x.yaml")
    assert (ignored, refused) == ((), ())
    return items


# ------------------------------------------------------------------------------------------------------- nodes


def core_node(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "node-1", "creationTimestamp": "1970-01-01T00:01:40Z"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}


def held(cidr: str, path: str) -> ExistingBlock:
    return ExistingBlock("node-1", parse_prefix(cidr), None, 100.0, f"x.yaml: Node node-1: spec.{path}")


@pytest.mark.parametrize(
    ("spec", "blocks"),
    [
        ({}, []),
        ({"podCIDR": "", "podCIDRs": []}, []),
        ({"podCIDR": "10.0.0.0/24"}, [held("10.0.0.0/24", "podCIDR")]),
        (
            {"podCIDRs": ["10.0.0.0/24", "fd00::/120"]},
            [held("10.0.0.0/24", "podCIDRs[0]"), held("fd00::/120", "podCIDRs[1]")],
        ),
        ({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}, [held("10.0.0.0/24", "podCIDRs[0]")]),
        (
            {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.1.0/24"]},
            [held("10.0.1.0/24", "podCIDRs[0]"), held("10.0.0.0/24", "podCIDR")],
        ),
    ],
)
def test_a_node_holds_its_pod_cidrs(spec: dict[str, Any], blocks: list[ExistingBlock]) -> None:
    assert read(core_node(**spec)) == (Node("node-1"), *blocks)


@pytest.mark.parametrize(
    ("spec", "path", "reason"),
    [
        ({"podCIDR": ["10.0.0.0/24"]}, "spec.podCIDR", "expected a CIDR, found a list"),
        ({"podCIDRs": "10.0.0.0/24"}, "spec.podCIDRs", "expected a list, found the text '10.0.0.0/24'"),
        ({"podCIDRs": ["10.0.0.0/99"]}, "spec.podCIDRs[0]", "is not a usable CIDR"),
    ],
)
def test_what_cannot_be_adopted_is_refused_by_name(spec: dict[str, Any], path: str, reason: str) -> None:
    items, ignored, refused = read_manifest(core_node(**spec), "x.yaml")

    assert (items, ignored) == ((Node("node-1"),), ())
    assert len(refused) == 1
    assert refused[0].startswith(f"x.yaml: Node node-1: {path}: ")
    assert reason in refused[0]


def test_a_node_that_is_being_deleted_holds_what_it_holds() -> None:
    document = core_node(podCIDR="10.0.0.0/24")
    document["metadata"]["deletionTimestamp"] = "2024-05-01T08:00:00Z"

    assert read(document) == (Node("node-1"), held("10.0.0.0/24", "podCIDR"))


def test_the_example_dump_is_two_nodes_of_which_one_holds_blocks() -> None:
    items, ignored, refused = read_manifest(load("nodes.yaml"), "x.yaml")

    assert (ignored, refused) == ((), ())
    assert [item.name for item in items if isinstance(item, Node)] == ["worker-a", "worker-c"]
    assert [(str(item.prefix), item.node, item.since) for item in items if isinstance(item, ExistingBlock)] == [
        ("10.244.0.0/24", "worker-a", 1714550352.0),
        ("fd00:244::/120", "worker-a", 1714550352.0),
    ]


def test_dumps_of_nodes_and_of_cilium_nodes_go_together() -> None:
    names = ["ciliumnodes.yaml", "nodes.yaml"]

    items, ignored, refused = read_manifests((name, load(name)) for name in names)

    assert sorted(item.name for item in items if isinstance(item, Node)) == ["worker-a", "worker-b", "worker-c"]
    by_name = {item.name: item for item in items if isinstance(item, Node)}
    assert by_name["worker-a"].labels["node-role.kubernetes.io/worker"] == ""
    assert ignored == (
        "ciliumnodes.yaml: CiliumNode worker-a: metadata.labels: they differ from those of the Node worker-a, which count",
    )
    assert refused == ()


# ------------------------------------------------------------------------------------------------ ClusterCIDR

ZONES = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-9"]}]}]}  # fmt: skip


def cluster_cidr(version: str = "networking.x-k8s.io/v1", **spec: Any) -> dict[str, Any]:
    fields = {"ipv4": "10.0.0.0/16", "perNodeHostBits": 8} | spec
    return {
        "apiVersion": version,
        "kind": "ClusterCIDR",
        "metadata": {"name": "green", "finalizers": ["x"]},
        "spec": fields,
    }


def green(**fields: Any) -> PoolSpec:
    known: dict[str, Any] = {
        "name": "green",
        "cidrs": ["10.0.0.0/16"],
        "selector": NodeSelector.everything(),
        "block_length_v4": 24,
        "overflow": True,
    }
    return PoolSpec(**known | fields)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (cluster_cidr(), green()),
        (cluster_cidr("networking.k8s.io/v1alpha1"), green()),
        (cluster_cidr(nodeSelector=None), green()),
        (cluster_cidr(nodeSelector=ZONES), green(selector=NodeSelector.from_terms(ZONES))),
        (cluster_cidr(ipv6="fd00::/104"), green(cidrs=["10.0.0.0/16", "fd00::/104"], block_length_v6=120)),
        (
            cluster_cidr(ipv4="", ipv6="fd00::/104"),
            green(cidrs=["fd00::/104"], block_length_v4=None, block_length_v6=120),
        ),
        (
            cluster_cidr(ipv4=None, ipv6="fd00::/64", perNodeHostBits=64),
            green(cidrs=["fd00::/64"], block_length_v4=None, block_length_v6=64),
        ),
        (cluster_cidr(perNodeHostBits=4), green(block_length_v4=28)),
        (cluster_cidr(perNodeHostBits=16, ipv6=""), green(block_length_v4=16)),
    ],
    ids=range(9),
)
def test_each_form_is_read_as_what_it_means(document: dict[str, Any], expected: PoolSpec) -> None:
    assert read(document) == (expected,)
    assert read({"apiVersion": document["apiVersion"], "kind": "ClusterCIDRList", "items": [document]}) == (expected,)


@pytest.mark.parametrize(
    ("spec", "path", "reason"),
    [
        ({"perNodeHostBits": None}, "spec.perNodeHostBits", "it is required; 8 gives a node an IPv4 /24 and an IPv6 /120"),
        ({"perNodeHostBits": "8"}, "spec.perNodeHostBits", "expected a whole number, found the text '8'"),
        ({"perNodeHostBits": True}, "spec.perNodeHostBits", "expected a whole number, found the boolean true"),
        ({"perNodeHostBits": 3}, "spec.perNodeHostBits", "the number 3 is too small, a node needs at least 4"),
        ({"perNodeHostBits": 17}, "spec.perNodeHostBits", "the number 17 is too large, 10.0.0.0/16 has 16 host bits"),
        ({"perNodeHostBits": 1 << 20000}, "spec.perNodeHostBits", "a number of 20001 bits is too large"),
        ({"ipv6": "fd00::/120", "perNodeHostBits": 12}, "spec.perNodeHostBits", "fd00::/120 has 8 host bits"),
        ({"ipv4": None}, "spec", "it has neither ipv4 nor ipv6"),
        ({"ipv4": 10}, "spec.ipv4", "expected text, found the number 10"),
        ({"ipv4": ["10.0.0.0/16"]}, "spec.ipv4", "expected text, found a list"),
        ({"ipv4": "fd00::/104"}, "spec.ipv4", "'fd00::/104' is an IPv6 CIDR where IPv4 is wanted; it belongs into spec.ipv6"),
        ({"ipv6": "10.1.0.0/16"}, "spec.ipv6", "it belongs into spec.ipv4"),
        ({"ipv4": "10.0.0.1/16"}, "spec.ipv4", "host bits are set; did you mean 10.0.0.0/16?"),
        ({"ipv4": "0.0.0.0/0"}, "spec.ipv4", "0.0.0.0/0 is a whole address family"),
        ({"ipv6": "fd00::1/104"}, "spec.ipv6", "host bits are set; did you mean fd00::/104?"),
        ({"nodeSelector": []}, "spec.nodeSelector", "expected a mapping with nodeSelectorTerms; found a list"),
        ({"nodeSelector": {}}, "spec.nodeSelector.nodeSelectorTerms", "it needs at least one term"),
        ({"nodeSelector": {"nodeSelectorTerms": []}}, "spec.nodeSelector.nodeSelectorTerms", "it needs at least one term"),
        ({"nodeSelector": {"nodeSelectorTerms": [{}]}}, "spec.nodeSelector", "it selects nothing"),
        ({"nodeSelector": {"matchLabels": {}}}, "spec.nodeSelector.matchLabels", "unknown field (known: nodeSelectorTerms)"),
        ({"nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "name", "operator": "In", "values": ["x"]}]}]}}, "spec.nodeSelector.nodeSelectorTerms[0].matchFields[0]", "metadata.name"),
        ({"perNodeMaskSize": 24}, "spec.perNodeMaskSize", "unknown field; did you mean 'perNodeHostBits'?"),
    ],
)  # fmt: skip
def test_a_problem_names_its_path_and_what_was_expected(spec: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(cluster_cidr(**spec), "x.yaml")

    assert caught.value.path.startswith(path)
    assert reason in caught.value.reason
    assert caught.value.reason.count("; spec.") == 0


def test_the_example_dump_is_three_pools_of_which_the_one_that_is_being_deleted_drains() -> None:
    first, second, third = read(load("clustercidrs.yaml"))

    assert first == PoolSpec(name="everybody", cidrs=["10.250.0.0/16", "fd00:250::/104"], selector=NodeSelector.everything(), block_length_v4=24, block_length_v6=120, overflow=True)  # fmt: skip
    assert isinstance(second, PoolSpec)
    assert [second.selector.matches(labels, name) for labels, name in [({"example.com/cpus": "4"}, "x"), ({}, "edge-1"), ({"example.com/cpus": "5"}, "x")]] == [True, True, False]  # fmt: skip
    assert (second.block_length_v4, second.draining) == (27, False)
    assert third == PoolSpec(name="old", cidrs=["10.252.0.0/16"], selector=NodeSelector.everything(), block_length_v4=24, overflow=True, draining=True)  # fmt: skip
