"""What is written to node objects, decided without a cluster."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ciliumipam.cidr import parse_prefix
from ciliumipam.demand import Demand
from ciliumipam.kubernetes.promises import (
    Promise,
    promise_text,
    read_blocks,
    read_promise,
    read_requested,
    to_requested,
)
from ciliumipam.kubernetes.publish import (
    NodeObject,
    Publication,
    claims,
    error_patch,
    lists,
    pod_cidrs,
    publish_cilium,
    publish_node,
    read_cilium_node,
    read_node,
)
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Holding
from ciliumipam.selector import NodeSelector


def block(cidr: str, pool: str = "p") -> Holding:
    return Holding(*parse_prefix(cidr), 1, "a", pool, 0.0)


def cilium(**ipam: Any) -> NodeObject:
    metadata = {"name": "a", "uid": "u", "creationTimestamp": "2024-05-01T08:00:00Z", "annotations": {"ipam.cilium.io/ignore": "true"}}
    return read_cilium_node({"metadata": metadata, "spec": {"ipam": ipam}})


def core(*cidrs: str) -> NodeObject:
    return read_node({"metadata": {"name": "a", "uid": "u"}, "spec": {"podCIDRs": list(cidrs), "podCIDR": cidrs[0]} if cidrs else {}})


V4, FURTHER, V6 = block("10.0.0.0/24"), block("10.0.9.0/24"), block("fd00::/64")
HELD = st.lists(st.sampled_from([V4, FURTHER, V6, block("10.0.5.0/24", "q"), block("fd00:1::/64", "")]), unique=True).map(tuple)
LISTED = st.lists(st.sampled_from(["10.0.0.0/24", "10.0.9.0/24", "fd00::/64", "10.0.5.7/24", "10.77.0.0/16", "nonsense"]), unique=True)


def merged(document: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386."""
    result = dict(document)
    for key, value in patch.items():
        result[key] = merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return result


@given(HELD, LISTED, st.booleans(), st.booleans())
def test_after_the_patch_an_object_lists_what_the_node_holds_and_nothing_was_taken_off_it(
    held: tuple[Holding, ...], listed: list[str], ignored: bool, uses_pools: bool
) -> None:
    pools = {"requested": [{"pool": "p"}]} if uses_pools else {}
    metadata = {"name": "a", "resourceVersion": "7", "annotations": {"ipam.cilium.io/ignore": "true"} if ignored else {}}
    document: dict[str, Any] = {"metadata": metadata, "spec": {"ipam": {"podCIDRs": listed, "pools": pools}}}
    before = read_cilium_node(document)

    publication = publish_cilium(before, "7", held)

    own = {str(each.prefix) for each in held}
    if publication.patch is None:
        assert publication.problem or not held or (before.cidrs == pod_cidrs(held) and ignored)
        return
    assert publication.patch["metadata"]["resourceVersion"] == "7"
    after = read_cilium_node(merged(document, publication.patch))
    assert after.cidrs == pod_cidrs(held)
    assert after.ignored
    assert set(after.listed) <= own
    assert {each.replace("10.0.5.7/24", "10.0.5.0/24") for each in listed} <= own
    assert {str(each.prefix) for each in publication.new} == own - set(listed)
    assert publish_cilium(after, "8", held) == Publication()


@given(HELD, st.lists(st.sampled_from(["10.0.0.0/24", "fd00::/64", "10.77.0.0/16"]), unique=True, max_size=2))
def test_a_core_node_is_written_once_with_one_block_of_each_family(held: tuple[Holding, ...], listed: list[str]) -> None:
    publication = publish_node(core(*listed), "7", held)

    if listed or not held:
        assert publication.patch is None
        assert bool(publication.problem) == (bool(set(listed) ^ {str(each.prefix) for each in held}) and bool(listed))
        return
    assert publication.patch is not None
    spec = publication.patch["spec"]
    assert spec["podCIDR"] == spec["podCIDRs"][0]
    assert len({":" in cidr for cidr in spec["podCIDRs"]}) == len(spec["podCIDRs"])
    assert {str(each.prefix) for each in publication.new} == set(spec["podCIDRs"])
    assert bool(publication.problem) == (len(held) > len(spec["podCIDRs"]))
    assert publication.patch["metadata"] == {"resourceVersion": "7"}


def test_each_family_in_the_order_in_which_the_node_got_its_blocks() -> None:
    assert pod_cidrs([V6, FURTHER, V4]) == ("10.0.9.0/24", "10.0.0.0/24", "fd00::/64")


def test_what_is_in_the_way_is_named() -> None:
    assert publish_cilium(cilium(podCIDRs=["10.77.0.0/24"]), "7", [V4]).problem == (
        "the CiliumNode lists 10.77.0.0/24 in its spec.ipam, which is not the node's by the ledger, so it is left as it is:"
        " drain the node and delete its CiliumNode; it gets its own blocks when it registers again"
    )
    assert publish_node(core("10.0.0.0/24"), "7", [V4, V6]).problem == (
        "the node also holds fd00::/64, but its spec.podCIDRs is 10.0.0.0/24, and Kubernetes lets that be set only once:"
        " drain and delete the Node and let it register again to use it"
    )


def test_what_an_object_lists_is_a_claim_as_old_as_the_object() -> None:
    obj = cilium(podCIDRs=["10.0.5.7/24", "x"], pools={"allocated": [{"pool": "q", "cidrs": ["10.0.6.0/24"]}]})

    found = claims(obj)

    assert [(str(each.prefix), each.pool, each.since) for each in found.existing] == [
        ("10.0.6.0/24", "q", 1714550400.0),
        ("10.0.5.0/24", None, 1714550400.0),
    ]
    assert len(found.refused) == 1
    assert "'x' is not a usable CIDR" in found.refused[0]


def test_an_object_lists_a_block_if_it_lists_any_address_of_it_or_what_cannot_be_read() -> None:
    assert lists(cilium(podCIDRs=["10.0.0.128/25"]), V4)
    assert lists(cilium(podCIDRs=["10.0.0.9/16"]), V4)
    assert lists(cilium(pools={"allocated": [{"pool": "p", "cidrs": ["10.0.0.0/24"]}]}), V4)
    assert lists(cilium(podCIDRs=["nonsense"]), V4)
    assert not lists(cilium(podCIDRs=["10.0.1.0/24", "fd00::/64"]), V4)


def test_the_status_says_why_a_node_waits_and_nothing_when_it_does_not() -> None:
    obj = cilium()
    assert error_patch(obj, "") is None
    assert error_patch(obj, "no room") == {"status": {"ipam": {"operator-status": {"error": "no room"}}}}
    assert error_patch(obj._replace(error="no room"), "no room") is None
    assert error_patch(obj._replace(error="no room"), "") == {"status": {"ipam": {"operator-status": {"error": ""}}}}
    assert error_patch(core(), "no room") is None
    long = error_patch(obj, "x" * 2000)
    assert long is not None
    assert len(long["status"]["ipam"]["operator-status"]["error"]) == 1000


def test_a_block_stays_under_the_pool_by_whose_name_the_agent_uses_it() -> None:
    allocated = [{"pool": "", "cidrs": ["fd00::/64"]}, {"pool": "theirs", "cidrs": ["10.0.0.7/24"]}]
    obj = cilium(podCIDRs=["10.0.0.0/24", "fd00::/64"], pools={"allocated": allocated})

    found = publish_cilium(obj, "7", [V4, block("fd00::/64", ""), block("10.0.5.0/24", "q")])

    assert found.patch is not None
    assert found.patch["spec"]["ipam"]["pools"]["allocated"] == [
        {"pool": "", "cidrs": ["fd00::/64"]},
        {"pool": "q", "cidrs": ["10.0.5.0/24"]},
        {"pool": "theirs", "cidrs": ["10.0.0.0/24"]},
    ]


def test_annotations_of_somebody_else_are_read_as_nothing() -> None:
    assert read_blocks('{"10.0.0.0/24":7,"10.0.1.1/24":8,"fd00::/64":"9","x":1}') == {parse_prefix("10.0.0.0/24"): 7}
    assert [dict(read_blocks(text)) for text in ("", "[]", "{", "7")] == [{}, {}, {}, {}]
    assert read_promise('{"stopAfter":60,"draining":["a"],"pools":{"p":{"keep":2},"q":1}}') == Promise(60.0, frozenset({"a"}), {"p": {"keep": 2}})
    assert [read_promise(text) for text in ("", "[]", '{"stopAfter":"60"}', '{"stopAfter":true}')] == [Promise()] * 4


def test_what_is_asked_for_comes_back_as_it_was_written_and_what_nobody_can_serve_is_left_out() -> None:
    demand = (Demand("", 4, 24), Demand("", 6, 8), Demand("red", 4, 1))
    assert read_requested(to_requested(demand)) == demand
    needed = {"ipv4-addrs": 3, "ipv6-addrs": -1}
    asked = [{"pool": "a", "needed": needed}, {"pool": "a", "needed": {"ipv4-addrs": 5}}, {"pool": "A b", "needed": needed}, {"needed": needed}, {"pool": "c"}]
    assert read_requested(asked) == (Demand("a", 4, 5),)
    assert read_requested(None) == ()


def test_what_matters_of_pools_reaches_the_agent_and_nothing_else_is_said() -> None:
    pool = PoolSpec(
        name="p",
        cidrs=["10.0.0.0/16"],
        selector=NodeSelector.everything(),
        reserved=["10.0.0.250-10.0.1.5", "10.0.9.0/24"],
        reuse_delay=5,
        allow_first=True,
        address_policy="lowest",
        blocks_per_node=2,
    )
    held = [Holding(4, parse_prefix(cidr).network, 24, 1, "n", "p", 0.0) for cidr in ("10.0.0.0/24", "10.0.1.0/24")]

    text = promise_text(60.0, held, {"p": pool}, {held[1]}, leaves=False)

    told = {"reserved": ["10.0.0.250-10.0.0.255", "10.0.1.0-10.0.1.5"], "reuseDelay": 5.0, "allowFirst": True, "addressPolicy": "lowest", "keep": 2}
    assert json.loads(text) == {"stopAfter": 60.0, "draining": ["10.0.1.0/24"], "pools": {"p": told}}
    spec = read_promise(text).spec("p", [block.prefix for block in held])
    assert [spec.usable(block.prefix) for block in held] == [pool.usable(block.prefix) for block in held]
    assert (spec.reuse_delay, spec.address_policy, read_promise(text).keep("p")) == (5.0, "lowest", 2)
    assert promise_text(60.0, held, {}, (), leaves=True) == '{"stopAfter":60.0,"draining":["10.0.0.0/24","10.0.1.0/24"]}'
