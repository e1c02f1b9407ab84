"""Everything that there is, as one list of manifests in our own form, which `read_manifest` reads back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from ciliumipam.cidr import Network
from ciliumipam.manifest.ours import API_VERSION, pool_to_manifest
from ciliumipam.pool import DEFAULT_SPACE
from ciliumipam.requests import Allocation, Block, NodeStatus, PoolStatus

DRAINING = "ciliumipam.io/draining"
"""The annotation of a node that drains."""

_LONGEST_NAME = 253
_DIGEST = 12


def export(
    pools: Iterable[PoolStatus], nodes: Iterable[NodeStatus], blocks: Iterable[Block], allocations: Iterable[Allocation]
) -> dict[str, Any]:
    """Pools, nodes and blocks with their addresses as a `List`: a `CIDRPool`, `Node` or `CIDRBlock` each.

    Reading it back gives equal pools, equal nodes, and every block as one that its node holds, of the same pool and since the same
    moment. Addresses stand in the status of their block, for people and other programs; a status is never read. Nor is it read back
    that a node or a block drains, which an annotation and the status tell.

    Returns:
        Plain values, sorted by name, family and address, so that equal input gives equal output whatever its order.
    """
    held: defaultdict[tuple[str, str, Network], list[Allocation]] = defaultdict(list)
    for each in allocations:
        held[each.node, each.pool, each.block].append(each)
    items = [
        *(pool_to_manifest(spec) for spec in sorted((pool.spec for pool in pools), key=lambda spec: spec.name)),
        *(_node(status) for status in sorted(nodes, key=lambda status: status.node.name)),
        *(
            _block(block, held[block.node, block.pool, block.prefix])
            for block in sorted(blocks, key=lambda block: (block.family, block.prefix, block.space, block.node))
        ),
    ]
    return {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}


def _node(status: NodeStatus) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": status.node.name}
    if status.node.label_pairs:
        metadata["labels"] = dict(status.node.label_pairs)
    if status.draining:
        metadata["annotations"] = {DRAINING: "true"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def _block(block: Block, allocations: list[Allocation]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": _block_name(block)}
    since = _moment(block.since)
    if since is not None:
        metadata["creationTimestamp"] = since
    spec: dict[str, Any] = {"node": block.node, "cidr": str(block.prefix), "addressSpace": block.space}
    if block.pool:
        spec["pool"] = block.pool
    draining = {"draining": True} if block.draining else {}
    addresses = [_address(each) for each in sorted(allocations, key=lambda each: int(each.address))]
    return {
        "apiVersion": API_VERSION,
        "kind": "CIDRBlock",
        "metadata": metadata,
        "spec": spec,
        "status": {"fence": block.fence, "since": since, **draining, "addresses": addresses},
    }


def _address(allocation: Allocation) -> dict[str, Any]:
    return {
        "address": str(allocation.address),
        "owner": allocation.owner,
        "label": allocation.label,
        "fence": allocation.fence,
        "since": _moment(allocation.since),
    }


def _block_name(block: Block) -> str:
    """A name that no other block has: node and prefix, with a digest of the address space unless that is the usual one.

    The prefix has no dots and, with IPv6, no zeros left out, so that every part of the name begins and ends with a letter or digit.
    """
    first = block.prefix.network_address
    groups = str(first).replace(".", "-") if block.family == 4 else _groups(int(first))
    last = f"{groups}-{block.prefix.prefixlen}"
    if block.space != DEFAULT_SPACE:
        last += f"-{_digest(block.space)}"
    name = f"{block.node}.{last}"
    if len(name) > _LONGEST_NAME:
        room = _LONGEST_NAME - len(last) - _DIGEST - 2
        name = f"{block.node[:room].rstrip('-.')}-{_digest(block.node)}.{last}"
    return name


def _groups(number: int) -> str:
    return "-".join(f"{number >> shift & 0xFFFF:x}" for shift in range(112, -1, -16))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_DIGEST]


def _moment(since: float) -> str | None:
    """Seconds since the epoch in RFC 3339, to the microsecond; None for a time that has no such form."""
    try:
        moment = datetime.fromtimestamp(since, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat().replace("+00:00", "Z")
