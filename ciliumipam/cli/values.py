"""Values of the library as plain values: what JSON, YAML and templates show. `docs/reference/cli.md` describes each field."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from ciliumipam import Allocation, Applied, Block, GroupRoutes, NodeStatus, PoolStatus, Utilization
from ciliumipam.plan_file import outcome_to_document
from ciliumipam.requests import Space

if TYPE_CHECKING:
    from ciliumipam.audit import Audit, Finding

Row: TypeAlias = dict[str, Any]


def moment(since: float) -> str:
    """Seconds since the epoch as UTC in RFC 3339, to the second."""
    try:
        return datetime.fromtimestamp(since, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # some clock was far off
        return f"{since} s after 1970"


def items(values: Iterable[Row]) -> Row:
    """A list, in the mapping that a program finds it in."""
    return {"items": [*values]}


def allocation(item: Allocation) -> Row:
    """An address in somebody's hands."""
    return {
        "node": item.node,
        "owner": item.owner,
        "label": item.label,
        "pool": item.pool,
        "block": str(item.block),
        "address": str(item.address),
        "family": item.family,
        "fence": item.fence,
        "since": moment(item.since),
    }


def pool(status: PoolStatus) -> Row:
    """A pool and what became of it."""
    return {
        "name": status.spec.name,
        **status.spec.to_dict(),
        "blocks": {f"ipv{family}": _space(space) for family, space in sorted(status.spaces.items())},
        "orphans": status.orphans,
        "conflictsWith": status.conflicting,
        "concerns": list(status.concerns),
    }


def _space(space: Space) -> Row:
    return {
        "total": space.blocks,
        "held": space.held,
        "available": space.available,
        "coolingAddresses": space.cooling,
        "largestFree": space.largest,
        "fragmentation": round(space.fragmentation, 4),
    }


def node(status: NodeStatus, addresses: Iterable[str]) -> Row:
    """A node, with its blocks and the addresses in use in them."""
    blocks = status.blocks
    return {
        "name": status.node.name,
        "labels": dict(status.node.labels),
        "pools": list(dict.fromkeys(block.pool for block in blocks)),
        "spaces": list(dict.fromkeys(block.space for block in blocks)),
        "podCIDRs": list(status.pod_cidrs),
        "addresses": [*addresses],
        "utilization": {f"ipv{family}": counts(use) for family, use in sorted(status.utilization.items())},
        "demand": [each._asdict() for each in status.demand],
        "draining": status.draining,
        "drainingBlocks": [str(block.prefix) for block in blocks if block.draining],
        "orphans": [str(block.prefix) for block in blocks if block.orphan],
    }


def block(item: Block) -> Row:
    """A block in the hands of a node."""
    return {
        "block": str(item.prefix),
        "node": item.node,
        "pool": item.pool,
        "space": item.space,
        "family": item.family,
        "fence": item.fence,
        "since": moment(item.since),
        "orphan": item.orphan,
        "draining": item.draining,
        "utilization": counts(item.utilization),
    }


def counts(use: Utilization) -> Row:
    """The numbers of addresses; capacity is the sum of the others where no holding is reserved."""
    return {
        "capacity": use.capacity,
        "inUse": use.in_use,
        "reserved": use.reserved,
        "cooling": use.cooling,
        "available": use.available,
    }


def routes(item: GroupRoutes) -> Row:
    """The routes of a group."""
    return {
        "group": item.group,
        "blocks": item.blocks,
        "announced": [str(prefix) for prefix in item.announced],
        "supernets": [str(prefix) for prefix in item.supernets],
        "ungrouped": item.ungrouped,
    }


def cilium_node(status: NodeStatus) -> Row:
    """The node as the CiliumNode that Cilium's agent on it would read."""
    metadata = {"name": status.node.name, "labels": dict(status.node.labels)}
    spec = {"ipam": {"podCIDRs": list(status.pod_cidrs)}}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": metadata, "spec": spec}


def outcome(applied: Applied) -> Row:
    """What came of a request: a plan's first fields, with times for people."""
    value = outcome_to_document(applied)
    for each in (*value["blockers"], *value["conflicts"]):
        each["since"] = moment(each["since"])
    return value


def audit(result: Audit) -> Row:
    """What a check found, and what it looked at."""
    return {"findings": [finding(each) for each in result.findings], "counts": dict(result.counts)}


def finding(item: Finding) -> Row:
    """One thing that a check found."""
    return {"severity": item.severity, "where": item.where, "what": item.what, "repair": item.repair}
