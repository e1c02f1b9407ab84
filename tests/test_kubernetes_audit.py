"""What node objects say against what the ledgers hold: single cases in words, and every overlap against brute force."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam import NodeSelector, PoolSpec
from ciliumipam.cidr import parse_prefix
from ciliumipam.kubernetes.audit import ClusterObjects, audit_cluster
from ciliumipam.records import Holding

EVERY = NodeSelector.everything()
POOL = PoolSpec(name="green", cidrs=["10.0.0.0/16", "fd00::/56"], selector=EVERY)


def block(node: str, cidr: str, space: str = "default") -> Holding:
    prefix = parse_prefix(cidr)
    return Holding(prefix.family, prefix.network, prefix.length, 1, node, "green", 0.0, space)


def cilium(name: str, *cidrs: object, ignored: bool = True, pools: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    annotations = {"annotations": {"ipam.cilium.io/ignore": "true"}} if ignored else {}
    return {"metadata": {"name": name, **annotations}, "spec": {"ipam": {"podCIDRs": [*cidrs], "pools": {"allocated": [*pools]}}}}


def core(name: str, *cidrs: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podCIDRs": [*cidrs]} if cidrs else {}}


def look(
    blocks: Iterable[Holding] = (), *, nodes: Iterable[dict[str, Any]] = (), ciliums: Iterable[dict[str, Any]] = (), config: dict[str, str] | None = None
) -> list[tuple[str, str, str]]:
    found, _ = audit_cluster(blocks, [POOL], ClusterObjects([*nodes], [*ciliums], config or {}))
    return [(each.severity, each.where, each.what) for each in found]


def test_nodes_that_say_what_they_hold_are_in_order_and_everything_is_counted() -> None:
    blocks = [block("a", "10.0.0.0/24"), block("a", "fd00::/64"), block("b", "10.0.1.0/24")]
    objects = ClusterObjects(
        [core("a"), core("b", "10.0.1.0/24")], [cilium("a", "10.0.0.0/24", "fd00::/64", pools=[{"pool": "green", "cidrs": ["10.0.0.0/24"]}])]
    )

    assert audit_cluster(blocks, [POOL], objects) == ((), {"Nodes": 2, "CiliumNodes": 1, "CIDRs that they say": 3})


def test_a_block_of_a_pool_that_no_ledger_shows_is_an_error() -> None:
    (finding,) = audit_cluster([], [POOL], ClusterObjects([], [cilium("a", "10.0.7.0/24")]))[0]

    assert finding == (
        "error",
        "it says 10.0.7.0/24, which is of pool 'green', and no ledger shows it as held: another node may be given it",
        "CiliumNode a",
        "the operator adopts it in its next round; if it runs and cannot, it says why: kubectl describe ciliumnode a",
    )


def test_a_block_that_another_node_holds_is_an_error() -> None:
    (found, _) = look([block("b", "10.0.7.0/25")], nodes=[core("b")], ciliums=[cilium("a", "10.0.7.0/24")])

    assert found == (
        "error",
        "CiliumNode a",
        "it says 10.0.7.0/24, and the ledger has given 10.0.7.0/25 of node b: pods of two nodes may have one address",
    )


def test_a_wider_block_than_the_node_holds_is_an_error() -> None:
    found = look([block("a", "10.0.7.0/25")], ciliums=[cilium("a", "10.0.7.0/24")])

    assert ("error", "CiliumNode a", "it says 10.0.7.0/24, and the ledger has given the node 10.0.7.0/25 instead") in found


def test_two_nodes_that_say_the_same_are_an_error_also_outside_of_all_pools() -> None:
    found = look(nodes=[core("a", "192.168.0.0/24"), core("b", "192.168.0.0/25")])

    assert found == [
        ("error", "Node b", "Node a says 192.168.0.0/24 and Node b says 192.168.0.0/25: pods of two nodes may have one address")
    ]


def test_the_last_address_of_a_cidr_is_of_it() -> None:
    (found,) = look(nodes=[core("a", "192.168.0.0/31"), core("b", "192.168.0.1/32")])

    assert found[1] == "Node b"


def test_what_two_nodes_hold_in_two_address_spaces_is_in_order() -> None:
    blocks = [block("a", "10.0.7.0/24"), block("b", "10.0.7.0/24", "other")]

    assert look(blocks, ciliums=[cilium("a", "10.0.7.0/24"), cilium("b", "10.0.7.0/24")]) == []


def test_one_node_may_say_it_on_both_objects() -> None:
    assert look([block("a", "10.0.7.0/24")], nodes=[core("a", "10.0.7.0/24")], ciliums=[cilium("a", "10.0.7.0/24")]) == []


def test_what_is_held_and_not_said_is_unfinished_and_of_a_further_block_only_a_notice() -> None:
    blocks = [block("a", "10.0.0.0/24"), block("a", "10.0.1.0/24"), block("b", "10.0.2.0/24"), block("gone", "10.0.3.0/24")]

    assert look(blocks, ciliums=[cilium("a", "10.0.0.0/24"), cilium("b")]) == [
        ("notice", "block 10.0.1.0/24", "node a holds it, and no object says so, so the node does not use it"),
        ("unfinished", "block 10.0.2.0/24", "node b holds it, and no object says so, so the node does not use it"),
    ]


def test_what_others_gave_out_of_their_own_cidrs_is_no_matter_of_ours() -> None:
    assert look(nodes=[core("a", "10.244.0.0/24")], ciliums=[cilium("b", "10.244.1.0/24", ignored=False)]) == []


def test_a_block_of_no_pool_on_a_node_of_ours_is_a_notice() -> None:
    assert look(ciliums=[cilium("a", "10.244.1.0/24")]) == [
        ("notice", "CiliumNode a", "it says 10.244.1.0/24, which is of no pool and in no ledger, so only this node knows of it")
    ]


def test_what_is_no_cidr_is_an_error_and_host_bits_are_cut_off_as_agents_do() -> None:
    assert look([block("b", "10.0.7.0/24")], ciliums=[cilium("a", "10.0.0.0", 7), cilium("b", "10.0.7.9/24")]) == [
        ("error", "CiliumNode a", "it says '10.0.0.0', which is no CIDR, so nobody can tell what the node uses"),
        ("error", "CiliumNode a", "it says 7, which is no CIDR, so nobody can tell what the node uses"),
    ]


@pytest.mark.parametrize("key", ["cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"])
def test_a_pool_that_overlaps_ciliums_cluster_pool_is_an_error(key: str) -> None:
    theirs = {"cluster-pool-ipv4-cidr": "192.168.0.0/16 10.0.0.0/8", "cluster-pool-ipv6-cidr": "fd00::/104,fd01::/104"}

    ((severity, where, what),) = look(config={"ipam": "cluster-pool", key: theirs[key]})

    assert (severity, where) == ("error", "pool green")
    assert key in what
    assert look(config={"ipam": "kubernetes", key: theirs[key]}) == []
    assert look(config={key: "172.16.0.0/12"}) == []


def test_a_cluster_pool_that_is_no_cidr_is_a_notice() -> None:
    assert look(config={"cluster-pool-ipv4-cidr": "10.0.0.0"}) == [
        ("notice", "ConfigMap kube-system/cilium-config", "cluster-pool-ipv4-cidr has '10.0.0.0', which is no CIDR")
    ]


def test_old_nodes_with_a_single_pod_cidr_are_read_too() -> None:
    assert look([block("a", "10.0.7.0/24")], nodes=[{"metadata": {"name": "a"}, "spec": {"podCIDR": "10.0.7.0/24"}}]) == []


def test_a_cilium_node_without_its_node_is_a_notice_where_there_are_nodes() -> None:
    blocks = [block("a", "10.0.0.0/24"), block("b", "10.0.1.0/24")]
    ciliums = [cilium("a", "10.0.0.0/24"), cilium("b", "10.0.1.0/24")]

    (finding,) = audit_cluster(blocks, [POOL], ClusterObjects([core("a")], ciliums))[0]

    assert finding == (
        "notice",
        "there is no Node of this name, and as long as this object is there, its blocks do not go back: 10.0.1.0/24",
        "CiliumNode b",
        "if the machine is gone for good: kubectl delete ciliumnode b; the operator takes its blocks back after the grace time",
    )
    assert look(blocks, ciliums=ciliums) == [], "a cluster of CiliumNodes alone"


CIDRS = st.builds(
    lambda number, length: str(ip_network((0x0A000000 + number * 64, length), strict=False)), st.integers(0, 15), st.integers(22, 28)
)
NAMES = st.sampled_from("abc")


@given(held=st.lists(st.tuples(NAMES, CIDRS), max_size=6), said=st.lists(st.tuples(NAMES, CIDRS), max_size=6))
def test_every_node_that_uses_what_is_not_its_own_is_found_and_no_other(held: list[tuple[str, str]], said: list[tuple[str, str]]) -> None:
    ours: list[tuple[str, str]] = []
    for node, cidr in held:  # what ledgers hold is disjoint
        if not any(ip_network(cidr).overlaps(ip_network(other)) for _, other in ours):
            ours.append((node, cidr))
    of_node: dict[str, list[str]] = {}
    for node, cidr in said:
        of_node.setdefault(node, []).append(cidr)

    found = look([block(*each) for each in ours], ciliums=[cilium(node, *cidrs) for node, cidrs in of_node.items()])

    wrong = {f"CiliumNode {node}" for node, cidr in said if (node, cidr) not in ours}
    twice = {
        frozenset((f"CiliumNode {left}", f"CiliumNode {right}"))
        for left, one in said
        for right, two in said
        if left != right and ip_network(one).overlaps(ip_network(two)) and not {(left, one), (right, two)} <= {*ours}
    }
    unpublished = {cidr for node, cidr in ours if node in of_node and cidr not in of_node[node]}
    errors = [each for each in found if each[0] == "error"]
    assert {where for _, where, what in errors if what.startswith("it says")} == wrong
    assert {frozenset((words[0] + " " + words[1], words[5] + " " + words[6])) for _, _, what in errors if (words := what.split(" ")) and words[0] == "CiliumNode"} == twice
    assert {where.removeprefix("block ") for severity, where, _ in found if severity != "error"} == unpublished
