"""Everything in our own form: what is exported reads back as what it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ciliumipam.allocator import Utilization
from ciliumipam.cidr import Address, parse_prefix
from ciliumipam.errors import InvalidManifestError
from ciliumipam.ipam import Ipam
from ciliumipam.manifest import API_VERSION, Item, export, read_manifest, read_manifests
from ciliumipam.names import validate_name
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import Allocation, Block, ExistingBlock, NodeStatus, PoolStatus
from ciliumipam.selector import NodeSelector
from ciliumipam.store.memory import MemoryStore
from ciliumipam.testing.strategies import pools, prefixes

DUMPS = Path(__file__).parents[1] / "docs" / "examples" / "dumps"
EMPTY = Utilization(0, 0, 0, 0, 0)


def pool_status(spec: PoolSpec) -> PoolStatus:
    return PoolStatus(spec, {}, 0, None, ())


def node_status(node: Node, *blocks: Block) -> NodeStatus:
    return NodeStatus(node, blocks, {})


def block(
    node: str, cidr: str, pool: str = "green", *, fence: int = 1, since: float = 0.0, space: str = "default"
) -> Block:
    prefix = ip_network(cidr)
    return Block(node, pool, prefix, 4 if prefix.version == 4 else 6, fence, since, False, EMPTY, space=space)


def allocation(
    of: Block, address: Address, owner: str, label: str = "", fence: int = 1, since: float = 0.0
) -> Allocation:
    return Allocation(of.node, owner, label, of.pool, of.prefix, address, of.family, fence, since)


def green(**fields: Any) -> PoolSpec:
    known: dict[str, Any] = {
        "name": "green",
        "cidrs": ["10.0.0.0/16", "fd00::/48"],
        "selector": NodeSelector.everything(),
    }
    return PoolSpec(**known | fields)


def test_pools_nodes_and_blocks_stand_in_one_list_sorted() -> None:
    first = block("node-1", "10.0.1.0/24", fence=3, since=100.5)
    second = block("node-1", "fd00:0:0:1::/64", fence=2, since=100.0)
    third = block("node-2", "10.0.0.0/24", "", since=float("inf"))
    held = [
        allocation(first, ip_address("10.0.1.10"), "cni/b/eth0", "default/b", 7, 200.0),
        allocation(first, ip_address("10.0.1.9"), "cni/a/eth0", "", 1, 100.0),
    ]

    result = export(
        [pool_status(green()), pool_status(green(name="blue", cidrs=["10.9.0.0/16"]))],
        [node_status(Node("node-2")), node_status(Node("node-1", {"rack": "a"}), first, second)],
        [second, first, third],
        held,
    )

    assert {name: value for name, value in result.items() if name != "items"} == {
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {},
    }
    assert result["items"][:4] == [
        {"apiVersion": API_VERSION, "kind": "CIDRPool", "metadata": {"name": "blue"}, "spec": {"cidrs": ["10.9.0.0/16"], "nodeSelector": {}}},
        {"apiVersion": API_VERSION, "kind": "CIDRPool", "metadata": {"name": "green"}, "spec": {"cidrs": ["10.0.0.0/16", "fd00::/48"], "nodeSelector": {}}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": {"rack": "a"}}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2"}},
    ]  # fmt: skip
    assert result["items"][4:] == [
        {
            "apiVersion": API_VERSION,
            "kind": "CIDRBlock",
            "metadata": {"name": "node-2.10-0-0-0-24"},
            "spec": {"node": "node-2", "cidr": "10.0.0.0/24", "addressSpace": "default"},
            "status": {"fence": 1, "since": None, "addresses": []},
        },
        {
            "apiVersion": API_VERSION,
            "kind": "CIDRBlock",
            "metadata": {"name": "node-1.10-0-1-0-24", "creationTimestamp": "1970-01-01T00:01:40.500000Z"},
            "spec": {"node": "node-1", "cidr": "10.0.1.0/24", "addressSpace": "default", "pool": "green"},
            "status": {
                "fence": 3,
                "since": "1970-01-01T00:01:40.500000Z",
                "addresses": [
                    {
                        "address": "10.0.1.9",
                        "owner": "cni/a/eth0",
                        "label": "",
                        "fence": 1,
                        "since": "1970-01-01T00:01:40Z",
                    },
                    {
                        "address": "10.0.1.10",
                        "owner": "cni/b/eth0",
                        "label": "default/b",
                        "fence": 7,
                        "since": "1970-01-01T00:03:20Z",
                    },
                ],
            },
        },
        {
            "apiVersion": API_VERSION,
            "kind": "CIDRBlock",
            "metadata": {"name": "node-1.fd00-0-0-1-0-0-0-0-64", "creationTimestamp": "1970-01-01T00:01:40Z"},
            "spec": {"node": "node-1", "cidr": "fd00:0:0:1::/64", "addressSpace": "default", "pool": "green"},
            "status": {"fence": 2, "since": "1970-01-01T00:01:40Z", "addresses": []},
        },
    ]


# ----------------------------------------------------------------------------------------------------- round trip


def applied(items: Iterable[Item]) -> Ipam:
    """A facade on an empty store to which they were applied, without a conflict."""
    found = [*items]
    ipam = Ipam(MemoryStore())
    result = ipam.apply(
        [item for item in found if isinstance(item, PoolSpec)],
        [item for item in found if isinstance(item, Node)],
        [item for item in found if isinstance(item, ExistingBlock)],
    )
    assert result.conflicts == ()
    return ipam


def test_what_is_exported_and_applied_to_an_empty_store_gives_every_node_its_blocks_back() -> None:
    dumps = [
        (path.name, yaml.safe_load(path.read_text(encoding="utf-8"))) for path in sorted(DUMPS.glob("*node*.yaml"))
    ]
    ipam = applied([*read_manifests(dumps).items, green(blocks_per_node=2)])
    ipam.allocate("worker-c", "cni/a/eth0", label="default/a")
    ipam.remove_pool("green")

    result = export(ipam.pools(), ipam.nodes(), ipam.blocks(), ipam.allocations())
    other = applied(read_manifest(result, "x.yaml").items)

    def held(of: Ipam) -> list[tuple[object, ...]]:
        return [(each.node, each.prefix, each.space, round(each.since, 6)) for each in of.blocks()]

    assert len(held(ipam)) > 8
    assert held(other) == held(ipam)
    assert [each.node for each in other.nodes()] == [each.node for each in ipam.nodes()]
    addresses = [each for item in result["items"] for each in item.get("status", {}).get("addresses", [])]
    assert [each["owner"] for each in addresses] == ["cni/a/eth0"] * 2


NAMES = st.sampled_from(
    ["node-1", "node-2", "a.b", "10-0-0-0-24", "n" * 253, "n" * 220 + ".x", "n" * 219 + "-.x".replace("-.", "-y.")]
)
SPACES = st.sampled_from(["default", "blue", "s" * 253])


@st.composite
def holdings(draw: st.DrawFn) -> tuple[list[Block], list[Allocation]]:
    """Blocks of which no two have one prefix in one address space, and allocations in them."""
    places = draw(st.lists(st.tuples(SPACES, prefixes(min_length=1)), max_size=6, unique=True))
    blocks: list[Block] = []
    allocations: list[Allocation] = []
    for space, network in places:
        since = draw(st.sampled_from([0.0, 1.5, 1714550400.0]) | st.floats(0, 4e9).map(lambda value: round(value, 6)))
        pool = draw(st.sampled_from(["green", "gone", ""]))
        each = block(draw(NAMES), str(network), pool, fence=draw(st.integers(1, 9)), since=since, space=space)
        blocks.append(each)
        numbers = draw(st.lists(st.integers(0, network.num_addresses - 1), max_size=3, unique=True))
        allocations += [
            allocation(each, network[number], f"owner-{number}", "a/b", draw(st.integers(1, 9)), since)
            for number in numbers
        ]
    return blocks, allocations


NODES = st.dictionaries(NAMES, st.dictionaries(st.sampled_from(["a", "b.c/d"]), st.sampled_from(["", "x"])), max_size=4)
POOLS = st.lists(pools(), max_size=3, unique_by=lambda spec: spec.name)


@given(POOLS, NODES, holdings(), st.randoms(use_true_random=False))
@example([], {}, ([block("node-1", "::ffff:10.0.0.0/120", since=0.1 + 0.2)], []), None)
def test_what_is_exported_reads_back_as_equal_pools_nodes_and_blocks(
    specs: list[PoolSpec], nodes: dict[str, dict[str, str]], held: tuple[list[Block], list[Allocation]], chance: Any
) -> None:
    blocks, allocations = held
    made = [Node(name, labels) for name, labels in nodes.items()]

    result = export([*map(pool_status, specs)], [*map(node_status, made)], blocks, allocations)
    items, ignored, refused = read_manifest(json.loads(json.dumps(result)), "x.json")

    assert (ignored, refused) == ((), ())
    assert {item.name: item for item in items if isinstance(item, PoolSpec)} == {spec.name: spec for spec in specs}
    assert {item for item in items if isinstance(item, Node)} == {*made}
    found = [item for item in items if isinstance(item, ExistingBlock)]
    assert len(found) == len(blocks)
    assert {(each.node, each.prefix, each.pool, each.address_space, round(each.since, 6)) for each in found} == {
        (each.node, parse_prefix(each.prefix), each.pool or None, each.space, round(each.since, 6)) for each in blocks
    }
    assert read_manifest(yaml.safe_load(yaml.safe_dump(result)), "x.json").items == items
    if chance is not None:
        for some in (specs, made, blocks, allocations):
            chance.shuffle(some)
        again = export([*map(pool_status, specs)], [*map(node_status, made)], blocks, allocations)
        assert json.dumps(again) == json.dumps(result)


@given(holdings())
def test_every_address_stands_in_the_status_of_its_block_only(held: tuple[list[Block], list[Allocation]]) -> None:
    blocks, allocations = held
    kept = {
        each.node: each for each in blocks
    }  # one block a node, as pool and prefix name a block of a node in one space only
    mine = [each for each in allocations if kept[each.node].prefix == each.block and kept[each.node].pool == each.pool]

    result = export([], [], kept.values(), mine)

    told = [
        (
            item["spec"]["node"],
            item["spec"]["cidr"],
            each["address"],
            each["owner"],
            each["label"],
            each["fence"],
            each["since"],
        )
        for item in result["items"]
        for each in item["status"]["addresses"]
    ]
    assert sorted(told) == sorted(
        (each.node, str(each.block), str(each.address), each.owner, each.label, each.fence, moment(each.since))
        for each in mine
    )


def moment(since: float) -> str:
    return datetime.fromtimestamp(since, tz=UTC).isoformat().removesuffix("+00:00") + "Z"


@given(holdings())
def test_names_of_blocks_are_names_in_kubernetes_and_no_two_are_the_same(
    held: tuple[list[Block], list[Allocation]],
) -> None:
    blocks, _ = held

    names = [item["metadata"]["name"] for item in export([], [], blocks, [])["items"]]

    assert all(validate_name("block name", name) for name in names)
    assert len(set(names)) == len(names)


def test_one_prefix_in_two_address_spaces_of_one_long_named_node_has_two_names() -> None:
    blocks = [
        block("n" * 250 + end, "10.0.0.0/24", space=space)
        for end in ("aaa", "bbb")
        for space in ("default", "blue", "red")
    ]

    names = [item["metadata"]["name"] for item in export([], [], blocks, [])["items"]]

    assert len({*names}) == 6
    assert {len(name) for name in names} == {253}


def test_a_long_name_is_cut_where_a_name_may_end() -> None:
    (item,) = export([], [], [block("n" * 227 + "." + "x" * 20, "10.0.0.0/24")], [])["items"]

    assert validate_name("block name", item["metadata"]["name"]).startswith("n" * 227 + "-")


# -------------------------------------------------------------------------------------------------------- CIDRBlock


def cidr_block(**spec: Any) -> dict[str, Any]:
    fields = {"node": "node-1", "cidr": "10.0.0.0/24"} | spec
    return {"apiVersion": API_VERSION, "kind": "CIDRBlock", "metadata": {"name": "x"}, "spec": fields}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (cidr_block(), ExistingBlock("node-1", parse_prefix("10.0.0.0/24"), None, 0.0, "x.yaml: CIDRBlock x: spec.cidr")),
        (cidr_block(pool=None, addressSpace=None), ExistingBlock("node-1", parse_prefix("10.0.0.0/24"), None, 0.0, "x.yaml: CIDRBlock x: spec.cidr")),
        (cidr_block(pool="green", addressSpace="blue"), ExistingBlock("node-1", parse_prefix("10.0.0.0/24"), "green", 0.0, "x.yaml: CIDRBlock x: spec.cidr", "blue")),
        (cidr_block() | {"status": {"since": "2024-05-01T08:00:00Z", "addresses": 5}}, ExistingBlock("node-1", parse_prefix("10.0.0.0/24"), None, 0.0, "x.yaml: CIDRBlock x: spec.cidr")),
    ],
    ids=range(4),
)  # fmt: skip
def test_a_block_is_read_and_its_status_is_not(document: dict[str, Any], expected: ExistingBlock) -> None:
    assert read_manifest(document, "x.yaml") == ((expected,), (), ())
    assert read_manifest({"apiVersion": API_VERSION, "kind": "CIDRBlockList", "items": [document]}, "x.yaml") == (
        (expected,),
        (),
        (),
    )


@pytest.mark.parametrize(
    ("spec", "path", "reason"),
    [
        ({"node": None}, "spec.node", "it is required"),
        ({"node": "Node"}, "spec.node", "'Node' is not a valid node name"),
        ({"pool": "Green"}, "spec.pool", "'Green' is not a valid pool name"),
        ({"addressSpace": 5}, "spec.addressSpace", "expected text, found the number 5"),
        ({"cidr": None}, "spec.cidr", "it is required"),
        ({"cidr": "10.0.0.1/24"}, "spec.cidr", "host bits are set; did you mean 10.0.0.0/24?"),
        ({"cidr": "x" * 100_000}, "spec.cidr", "is not a usable CIDR"),
        ({"cidrs": []}, "spec.cidrs", "unknown field; did you mean 'cidr'?"),
    ],
)
def test_a_problem_names_its_path_and_what_was_expected(spec: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_manifest(cidr_block(**spec), "x.yaml")

    assert caught.value.path == path
    assert reason in caught.value.reason
    assert len(str(caught.value)) < 400


def test_an_export_tells_what_drains() -> None:
    ipam = Ipam(MemoryStore())
    spec = PoolSpec(name="p", cidrs=["10.0.0.0/16"], selector=NodeSelector.everything())
    ipam.apply([spec], [Node("n1"), Node("n2")])
    ipam.allocate("n1", "web")
    ipam.drain("block", "10.0.0.0/24")
    ipam.drain("node", "n2")

    items = export(ipam.pools(), ipam.nodes(), ipam.blocks(), ipam.allocations())["items"]

    assert [item["metadata"].get("annotations") for item in items if item["kind"] == "Node"] == [None, {"ciliumipam.io/draining": "true"}]
    blocks = [(item["spec"]["cidr"], item["status"].get("draining")) for item in items if item["kind"] == "CIDRBlock"]
    assert blocks == [("10.0.0.0/24", True), ("10.0.2.0/24", None)]
    assert len(read_manifest({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}, "x").items) == len(items)
