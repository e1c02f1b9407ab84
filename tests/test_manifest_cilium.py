"""Cilium's kinds: `CiliumPodIPPool`, and `CiliumNode` with what its node holds."""

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


# ------------------------------------------------------------------------------------------------------- pools


def pod_ip_pool(version: str = "cilium.io/v2", **spec: Any) -> dict[str, Any]:
    fields = {"ipv4": {"cidrs": ["10.0.0.0/16"], "maskSize": 27}} | spec
    return {"apiVersion": version, "kind": "CiliumPodIPPool", "metadata": {"name": "green"}, "spec": fields}


def green(**fields: Any) -> PoolSpec:
    known: dict[str, Any] = {
        "name": "green",
        "cidrs": ["10.0.0.0/16"],
        "selector": NodeSelector.everything(),
        "block_length_v4": 27,
    }
    return PoolSpec(**known | fields)


IPV6 = {"cidrs": ["fd00::/104", "fd01::/104"], "maskSize": 120}
RESERVED = [
    {
        "cidr": "10.0.0.0/16",
        "reservedRanges": [{"start": "10.0.0.0", "end": "10.0.0.9"}, {"start": "10.0.1.1", "end": "10.0.1.1"}],
    }
]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (pod_ip_pool(), green()),
        (pod_ip_pool("cilium.io/v2alpha1"), green()),
        (pod_ip_pool(ipv6=IPV6), green(cidrs=["10.0.0.0/16", *IPV6["cidrs"]], block_length_v6=120)),  # type: ignore[misc]  # a list
        (pod_ip_pool(ipv4=None, ipv6=IPV6), green(cidrs=IPV6["cidrs"], block_length_v4=None, block_length_v6=120)),
        (pod_ip_pool(allowFirstIP=True), green(allow_first=True)),
        (pod_ip_pool(allowLastIP=True, allowFirstIP=False), green(allow_last=True)),
        (pod_ip_pool(podSelector=None, namespaceSelector=None, allowFirstIP=None), green()),
        (pod_ip_pool(ipv4={"cidrs": ["10.0.0.0/16"], "maskSize": 27, "pool": RESERVED}), green(reserved=["10.0.0.0-10.0.0.9", "10.0.1.1"])),
        (pod_ip_pool(ipv4={"cidrs": ["10.0.0.0/16"], "maskSize": 27, "pool": [{"cidr": "10.0.0.0/16"}]}), green()),
        (pod_ip_pool() | {"status": {}}, green()),
    ],
    ids=range(10),
)  # fmt: skip
def test_each_form_of_a_pool_is_read_as_what_it_means(document: dict[str, Any], expected: PoolSpec) -> None:
    assert read(document) == (expected,)
    assert read({"apiVersion": document["apiVersion"], "kind": "CiliumPodIPPoolList", "items": [document]}) == (
        expected,
    )


def test_a_pool_serves_every_node_unless_it_is_being_deleted() -> None:
    document = pod_ip_pool()
    document["metadata"]["deletionTimestamp"] = "2024-05-01T08:00:00Z"

    assert read(document) == (green(selector=NodeSelector.everything(), draining=True),)


@pytest.mark.parametrize("field", ["podSelector", "namespaceSelector"])
def test_a_selector_for_pods_is_refused_unless_it_selects_all_of_them(field: str) -> None:
    given: dict[str, Any] = {field: {}}
    assert read_manifest(pod_ip_pool(**given), "x.yaml") == (
        (green(),),
        (f"x.yaml: spec.{field}: it selects everything",),
        (),
    )

    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(pod_ip_pool(**given | {field: {"matchLabels": {"a": "b"}}}), "x.yaml")

    assert (
        str(caught.value)
        == f"x.yaml: spec.{field}: it selects pods, and pools here are chosen by node; leave it out to let every pod use the pool"
    )


def ipv4(**fields: Any) -> dict[str, Any]:
    return {"ipv4": {"cidrs": ["10.0.0.0/16"], "maskSize": 27} | fields}


@pytest.mark.parametrize(
    ("spec", "path", "reason"),
    [
        ({"ipv4": None}, "spec", "the pool has neither ipv4 nor ipv6"),
        ({"ipv4": []}, "spec.ipv4", "expected a mapping with cidrs, maskSize, pool; found a list"),
        ({"ipv44": {}}, "spec.ipv44", "unknown field; did you mean 'ipv4'?"),
        (ipv4(cidrs=None), "spec.ipv4.cidrs", "it is required, with at least one CIDR"),
        (ipv4(cidrs=[]), "spec.ipv4.cidrs", "it is required, with at least one CIDR"),
        (ipv4(cidrs=["10.0.0.0/16", 5]), "spec.ipv4.cidrs[1]", "expected text, found the number 5; put it in quotes"),
        (ipv4(cidrs=["fd00::/104"]), "spec.ipv4.cidrs[0]", "'fd00::/104' is an IPv6 CIDR where IPv4 is wanted; it belongs into spec.ipv6.cidrs"),
        ({"ipv6": {"cidrs": ["10.1.0.0/16"], "maskSize": 120}}, "spec.ipv6.cidrs[0]", "it belongs into spec.ipv4.cidrs"),
        ({"ipv6": {"cidrs": ["fd00::/104", "fd00::1/120"], "maskSize": 120}}, "spec.ipv6.cidrs[1]", "host bits are set; did you mean fd00::/120?"),
        (ipv4(cidrs=["10.0.0.0/16", "10.0.1.0/24"]), "spec.ipv4.cidrs[1]", "10.0.1.0/24 lies inside 10.0.0.0/16"),
        (ipv4(maskSize=None), "spec.ipv4.maskSize", "it is required"),
        (ipv4(maskSize="27"), "spec.ipv4.maskSize", "expected a whole number, found the text '27'"),
        (ipv4(maskSize=8), "spec.ipv4.maskSize", "a /8 is larger than the CIDR 10.0.0.0/16"),
        ({"ipv6": {"cidrs": ["fd00::/104"], "maskSize": 129}}, "spec.ipv6.maskSize", "the number 129 is not a prefix length of IPv6"),
        ({"allowFirstIP": "yes"}, "spec.allowFirstIP", "expected true or false, found the text 'yes'"),
        ({"allowFirst": True}, "spec.allowFirst", "unknown field; did you mean 'allowFirstIP'?"),
        (ipv4(pool={}), "spec.ipv4.pool", "expected a list, found a mapping"),
        (ipv4(pool=[5]), "spec.ipv4.pool[0]", "expected a mapping with cidr, reservedRanges; found the number 5"),
        (ipv4(pool=[{}]), "spec.ipv4.pool[0].cidr", "it is required"),
        (ipv4(pool=[{"cidr": "10.1.0.0/16"}]), "spec.ipv4.pool[0].cidr", "'10.1.0.0/16' is not one of the CIDRs of this family"),
        (ipv4(pool=[{"cidr": "10.0.0.0/16", "reserved": []}]), "spec.ipv4.pool[0].reserved", "unknown field; did you mean 'reservedRanges'?"),
        (ipv4(pool=[{"cidr": "10.0.0.0/16", "reservedRanges": [{"start": "10.0.0.1"}]}]), "spec.ipv4.pool[0].reservedRanges[0].end", "it is required"),
        (ipv4(pool=[{"cidr": "10.0.0.0/16", "reservedRanges": [{"start": "10.0.0.2", "end": "10.0.0.1"}]}]), "spec.ipv4.pool[0].reservedRanges[0]", "the wrong way round"),
        (ipv4(pool=[{"cidr": "10.0.0.0/16", "reservedRanges": [{"start": "10.1.0.2", "end": "10.1.0.3"}]}]), "spec.ipv4.pool[0].reservedRanges[0]", "is not inside the pool's CIDRs"),
        (ipv4(pool=[{"cidr": "10.0.0.0/16", "reservedRanges": [7]}]), "spec.ipv4.pool[0].reservedRanges[0]", "expected a mapping with start, end"),
    ],
)  # fmt: skip
def test_a_problem_of_a_pool_names_its_path_and_what_was_expected(spec: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(pod_ip_pool(**spec), "x.yaml")

    assert caught.value.path == path
    assert reason in caught.value.reason


def test_the_example_dump_is_two_pools() -> None:
    everything = NodeSelector.everything()

    assert read_manifest(load("ciliumpodippools.yaml"), "x.yaml") == (
        (
            PoolSpec(name="default", cidrs=["10.245.0.0/16", "fd00:245::/104"], selector=everything, block_length_v4=27, block_length_v6=120),
            PoolSpec(
                name="mars",
                cidrs=["10.246.0.0/20", "10.247.0.0/20"],
                selector=everything,
                block_length_v4=27,
                reserved=["10.246.0.0-10.246.0.9"],
                allow_first=True,
                allow_last=True,
            ),
        ),
        ("x.yaml: items[0].metadata.annotations['ipam.cilium.io/skip-masquerade']: known, without meaning here",),
        (),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- nodes


def cilium_node(name: str = "node-1", labels: Any = None, **ipam: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels, "creationTimestamp": "1970-01-01T00:01:40Z"}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": metadata, "spec": {"ipam": ipam}}


def held(cidr: str, path: str, pool: str | None = None, node: str = "node-1") -> ExistingBlock:
    return ExistingBlock(node, parse_prefix(cidr), pool, 100.0, f"x.yaml: CiliumNode {node}: spec.ipam.{path}")


def test_a_node_holds_its_pod_cidrs_and_what_its_pools_allocated() -> None:
    document = cilium_node(
        labels={"a": "b"},
        podCIDRs=["10.0.0.0/24", "fd00::/120"],
        pools={
            "allocated": [
                {"pool": "green", "cidrs": ["10.1.0.0/27", "10.1.0.32/27"], "allowFirstIP": True},
                {"pool": "red", "cidrs": None},
            ],
            "requested": [{"pool": "green", "needed": {"ipv4-addrs": 8}}],
        },
    )

    assert read(document) == (
        Node("node-1", {"a": "b"}),
        held("10.1.0.0/27", "pools.allocated[0].cidrs[0]", "green"),
        held("10.1.0.32/27", "pools.allocated[0].cidrs[1]", "green"),
        held("10.0.0.0/24", "podCIDRs[0]"),
        held("fd00::/120", "podCIDRs[1]"),
    )


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"ipam": None},
        {"ipam": {}},
        {"ipam": {"pools": {}, "podCIDRs": []}},
        {"ipam": {"pools": {"allocated": None}}},
    ],
)
def test_a_node_that_holds_nothing_is_a_node(spec: Any) -> None:
    assert read(cilium_node() | {"spec": spec}) == (Node("node-1"),)


def test_what_is_ciliums_own_is_not_looked_at() -> None:
    ipam: dict[str, Any] = {"min-allocate": 5, "static-ip-tags": {}, "pool": {}, "pod-cidr-release-threshold": 2}
    document = cilium_node(**ipam)
    document["spec"] |= {"addresses": [{"ip": 5}], "bootid": 7, "eni": [], "from-the-future": {}}
    document["status"] = {"ipam": {"operator-status": {"error": "x"}}}

    assert read(document) == (Node("node-1"),)


def test_a_block_that_is_listed_twice_is_held_once_and_of_the_pool_that_was_named_first() -> None:
    pools = {
        "allocated": [
            {"cidrs": ["10.0.0.0/24"]},
            {"pool": "green", "cidrs": ["10.0.0.0/24"]},
            {"pool": "red", "cidrs": ["10.0.0.0/24"]},
        ]
    }

    items, ignored, refused = read_manifest(cilium_node(podCIDRs=["10.0.0.0/24", "10.0.0.0/24"], pools=pools), "x.yaml")

    assert items == (Node("node-1"), held("10.0.0.0/24", "pools.allocated[1].cidrs[0]", "green"))
    assert ignored == ()
    assert refused == (
        "x.yaml: CiliumNode node-1: spec.ipam.pools.allocated[2].cidrs[0]: 10.0.0.0/24 is listed under pool green as well (spec.ipam.pools.allocated[1].cidrs[0]), which counts",
    )


@pytest.mark.parametrize(
    ("ipam", "path", "reason"),
    [
        ({"podCIDRs": "10.9.0.0/24"}, "podCIDRs", "expected a list, found the text '10.9.0.0/24'; what it holds is not adopted"),
        ({"podCIDRs": [5]}, "podCIDRs[0]", "expected a CIDR, found the number 5"),
        ({"podCIDRs": [None]}, "podCIDRs[0]", "expected a CIDR, found nothing"),
        ({"podCIDRs": ["10.9.0.0"]}, "podCIDRs[0]", "'10.9.0.0' is not a usable CIDR: it has no length"),
        ({"podCIDRs": ["10.9.0.0/33"]}, "podCIDRs[0]", "is not a usable CIDR: an IPv4 length is 0 to 32"),
        ({"podCIDRs": ["10.9.0.0/255.255.0.0"]}, "podCIDRs[0]", "masks are not accepted"),
        ({"podCIDRs": ["fe80::1%eth0/64"]}, "podCIDRs[0]", "an IPv6 zone has no meaning here"),
        ({"podCIDRs": ["0.0.0.0/0"]}, "podCIDRs[0]", "0.0.0.0/0 is a whole address family, which no node holds"),
        ({"podCIDRs": ["x" * 100_000]}, "podCIDRs[0]", "is not a usable CIDR"),
        ({"pools": []}, "pools", "expected a mapping, found a list; what it holds is not adopted"),
        ({"pools": {"alocated": []}}, "pools", "unknown field; did you mean 'allocated'? (known: allocated, requested); what it holds is not adopted"),
        ({"pools": {"allocated": {}}}, "pools.allocated", "expected a list, found a mapping"),
        ({"pools": {"allocated": [7]}}, "pools.allocated[0]", "expected a mapping, found the number 7"),
        ({"pools": {"allocated": [{"cidrs": {}}]}}, "pools.allocated[0].cidrs", "expected a list, found a mapping"),
        ({"pools": {"allocated": [{"pool": 7}]}}, "pools.allocated[0].pool", "is not a valid pool name: a name is text; its blocks are adopted as of no pool"),
        ({"podCIDR": []}, "podCIDR", "unknown field; did you mean 'podCIDRs'?; what it holds is not adopted"),
        ({"pool": {"10.9.0.1": {}}}, "pool", "single addresses, as of the modes crd, eni and azure, are not adopted; reserve them in the pools"),
        ({"ipv6-pool": {"fd00::1": {}}}, "ipv6-pool", "single addresses"),
    ],
)  # fmt: skip
def test_what_cannot_be_adopted_is_refused_by_name_and_stops_nothing(
    ipam: dict[str, Any], path: str, reason: str
) -> None:
    before, after = cilium_node("node-0", podCIDRs=["10.0.0.0/24"]), cilium_node("node-2", podCIDRs=["10.2.0.0/24"])
    document = {"apiVersion": "v1", "kind": "List", "items": [before, cilium_node(**ipam), after]}

    items, ignored, refused = read_manifest(document, "x.yaml")

    assert items == (
        Node("node-0"),
        held("10.0.0.0/24", "podCIDRs[0]", node="node-0"),
        Node("node-1"),
        Node("node-2"),
        held("10.2.0.0/24", "podCIDRs[0]", node="node-2"),
    )
    assert ignored == ()
    assert len(refused) == 1
    assert refused[0].startswith(f"x.yaml: CiliumNode node-1: spec.ipam.{path}: ")
    assert reason in refused[0]
    assert len(refused[0]) < 400


@pytest.mark.parametrize("spec", ["x", [], 5])
def test_a_node_whose_spec_is_no_mapping_is_adopted_without_blocks(spec: Any) -> None:
    items, _, refused = read_manifest(cilium_node() | {"spec": spec}, "x.yaml")

    assert items == (Node("node-1"),)
    assert [line.partition(": expected a mapping")[0] for line in refused] == ["x.yaml: CiliumNode node-1: spec"]


def test_the_blocks_of_a_pool_that_no_pool_here_can_be_are_adopted_all_the_same() -> None:
    pools = {"allocated": [{"pool": "Green!", "cidrs": ["10.0.0.0/24"]}]}

    items, _, refused = read_manifest(cilium_node(pools=pools), "x.yaml")

    assert items == (Node("node-1"), held("10.0.0.0/24", "pools.allocated[0].cidrs[0]"))
    assert "'Green!' is not a valid pool name" in refused[0]


def test_host_bits_are_cut_off_since_the_node_uses_the_whole_block() -> None:
    items, ignored, refused = read_manifest(cilium_node(podCIDRs=["10.0.0.7/24", "fd00::9/120"]), "x.yaml")

    assert items == (Node("node-1"), held("10.0.0.0/24", "podCIDRs[0]"), held("fd00::/120", "podCIDRs[1]"))
    assert refused == ()
    assert ignored == (
        "x.yaml: CiliumNode node-1: spec.ipam.podCIDRs[0]: the host bits of 10.0.0.7/24: it is read as 10.0.0.0/24",
        "x.yaml: CiliumNode node-1: spec.ipam.podCIDRs[1]: the host bits of fd00::9/120: it is read as fd00::/120",
    )


@pytest.mark.parametrize(
    ("given", "since"),
    [
        ("1970-01-01T00:01:40Z", 100.0),
        ("1970-01-01T01:01:40+01:00", 100.0),
        ("1970-01-01T00:01:40.250000Z", 100.25),
        (None, 0.0),
        (yaml.safe_load("1970-01-01T00:01:40Z"), 100.0),
        (yaml.safe_load("1970-01-01 00:01:40"), 100.0),
    ],
)
def test_claims_are_as_old_as_their_object(given: Any, since: float) -> None:
    document = cilium_node(podCIDRs=["10.0.0.0/24"])
    document["metadata"]["creationTimestamp"] = given

    _, block = read(document)

    assert isinstance(block, ExistingBlock)
    assert block.since == since


@pytest.mark.parametrize("given", ["yesterday", "2024-05-01", "2024-05-01T08:00:00", 1714550400, [], {}])
def test_an_object_whose_time_cannot_be_read_makes_the_youngest_claims(given: Any) -> None:
    document = cilium_node(podCIDRs=["10.0.0.0/24"])
    document["metadata"]["creationTimestamp"] = given

    (_, block), _, refused = read_manifest(document, "x.yaml")

    assert isinstance(block, ExistingBlock)
    assert block.since == 0.0
    assert len(refused) == 1
    assert refused[0].startswith("x.yaml: CiliumNode node-1: metadata.creationTimestamp: ")
    assert refused[0].endswith("is not a time as in 2024-05-01T08:00:00Z; its claims count as the youngest")


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ({"name": "Node_1"}, "metadata.name"),
        ({"name": "node-1", "labels": {"a": 5}}, "metadata.labels['a']"),
        ({"name": "node-1", "lable": {}}, "metadata.lable"),
    ],
)
def test_a_node_that_is_no_node_is_an_error(metadata: Any, path: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(cilium_node(podCIDRs=["10.0.0.0/24"]) | {"metadata": metadata}, "x.yaml")

    assert caught.value.path == path


def test_only_the_stored_version_of_a_cilium_node_is_read() -> None:
    with pytest.raises(
        InvalidManifestError, match=r"CiliumNode \(cilium.io/v2alpha1\) is not a kind that is read here"
    ):
        read_manifest(cilium_node() | {"apiVersion": "cilium.io/v2alpha1"}, "x.yaml")


# ------------------------------------------------------------------------- nodes that two kinds tell of, and dumps


def core_node(labels: Any = None, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": labels}, "spec": spec}


@pytest.mark.parametrize("order", [1, -1])
def test_the_labels_of_the_core_node_count_wherever_it_stands(order: int) -> None:
    documents = [
        ("nodes.yaml", core_node({"a": "core"})),
        ("cilium.yaml", cilium_node(labels={"a": "cilium"}, podCIDRs=["10.0.0.0/24"])),
    ]

    items, ignored, refused = read_manifests(documents[::order])

    nodes = [item for item in items if isinstance(item, Node)]
    assert nodes == [Node("node-1", {"a": "core"})]
    assert len(items) == 2
    assert ignored == (
        "cilium.yaml: CiliumNode node-1: metadata.labels: they differ from those of the Node node-1, which count",
    )
    assert refused == ()


def test_a_cilium_node_that_says_the_same_as_the_core_node_is_not_worth_a_word() -> None:
    document = {"apiVersion": "v1", "kind": "List", "items": [cilium_node(labels={"a": "b"}), core_node({"a": "b"})]}

    assert read(document) == (Node("node-1", {"a": "b"}),)


def test_two_manifests_of_one_kind_for_one_node_are_both_read_so_that_apply_can_refuse_them() -> None:
    same: list[dict[str, Any]] = [cilium_node(labels={"a": "1"}), cilium_node(labels={"a": "2"})]

    assert read({"apiVersion": "v1", "kind": "List", "items": same}) == (
        Node("node-1", {"a": "1"}),
        Node("node-1", {"a": "2"}),
    )


def test_the_example_dump_is_two_nodes_and_what_they_hold() -> None:
    items = read_manifest(load("ciliumnodes.yaml"), "x.yaml")

    assert (items.ignored, items.refused) == ((), ())
    assert [item.name for item in items.items if isinstance(item, Node)] == ["worker-a", "worker-b"]
    assert [
        (str(item.prefix), item.node, item.pool, item.since) for item in items.items if isinstance(item, ExistingBlock)
    ] == [
        ("10.244.0.0/24", "worker-a", None, 1714550400.0),
        ("fd00:244::/120", "worker-a", None, 1714550400.0),
        ("10.245.0.0/27", "worker-b", "default", 1718098200.0),
        ("10.245.0.32/27", "worker-b", "default", 1718098200.0),
        ("10.246.7.0/27", "worker-b", "mars", 1718098200.0),
    ]


def test_a_dump_with_duplicates_strays_and_garbage_is_read_to_its_end() -> None:
    document = load("ciliumnodes.yaml")
    first, second = document["items"]
    second["spec"]["ipam"]["podCIDRs"] = ["10.244.0.0/24", "garbage", "203.0.113.0/24"]
    first["spec"]["ipam"]["pools"] = {"allocated": [None, {"pool": "default", "cidrs": ["10.245.0.0/26", ""]}]}

    items, _, refused = read_manifest(document, "x.yaml")

    blocks = [(str(item.prefix), item.node) for item in items if isinstance(item, ExistingBlock)]
    assert blocks.count(("10.244.0.0/24", "worker-a")) == blocks.count(("10.244.0.0/24", "worker-b")) == 1
    assert ("203.0.113.0/24", "worker-b") in blocks
    assert ("10.245.0.0/26", "worker-a") in blocks
    assert [line.split(": ")[2] for line in refused] == [
        "spec.ipam.pools.allocated[1].cidrs[1]",
        "spec.ipam.podCIDRs[1]",
    ]
