"""Values of the library to tables, JSON and YAML. JSON and YAML show the same value; `docs/reference/cli.md` describes each field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ciliumipam import Allocation, Block, Change, NodeStatus, PoolStatus, Refusal, Utilization
from ciliumipam.cli.text import plain, say

if TYPE_CHECKING:
    from ciliumipam.audit import Audit

Format: TypeAlias = Literal["table", "json", "yaml"]
Row: TypeAlias = dict[str, Any]

SHOWN_ADDRESSES = 3
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "pools": ("NAME", "CIDRS", "BLOCK", "BLOCKS HELD", "NODES", "STATUS"),
    "nodes": ("NAME", "POOL", "PODCIDRS", "ADDRESSES", "IN USE"),
    "blocks": ("BLOCK", "NODE", "POOL", "FENCE", "IN USE", "SINCE", "STATUS"),
    "addresses": ("ADDRESS", "NODE", "OWNER", "LABEL", "POOL", "BLOCK", "FENCE", "SINCE"),
    "changes": ("ACTION", "KIND", "NAME", "DETAIL"),
    "findings": ("SEVERITY", "WHERE", "WHAT", "REPAIR"),
}


def require(style: Format) -> None:
    """Load what printing in this style needs, so that its absence is found out before anything is changed.

    Raises:
        ModuleNotFoundError: The extra `cli` is not installed.
    """
    if style != "json":
        import_module("tabulate" if style == "table" else "yaml")


def write(style: Format, value: object, kind: str, rows: Iterable[Iterable[object]]) -> None:
    """Print `rows` as a table with the columns of `kind`, or `value` as JSON or YAML."""
    if style != "table":
        write_value(style, value)
        return
    from tabulate import tabulate  # noqa: PLC0415 - optional, and slow to load

    cells = [[plain(str(cell)) for cell in row] for row in rows]
    if not cells:
        say(f"no {kind}")
        return
    print(tabulate(cells, headers=COLUMNS[kind], tablefmt="plain", disable_numparse=True))


def write_value(style: Format, value: object) -> None:
    """Print a value as YAML if that was asked for, else as JSON."""
    if style == "yaml":
        import yaml  # noqa: PLC0415 - optional, and slow to load

        print(yaml.safe_dump(value, sort_keys=False), end="")
    else:
        print(json.dumps(value, indent=2))


def moment(since: float) -> str:
    """Seconds since the epoch as UTC in RFC 3339, to the second."""
    try:
        return datetime.fromtimestamp(since, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # some clock was far off
        return f"{since} s after 1970"


def write_allocations(style: Format, allocations: Iterable[Allocation]) -> None:
    """Addresses in somebody's hands."""
    values = [
        {
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
        for item in allocations
    ]
    fields = ("address", "node", "owner", "label", "pool", "block", "fence", "since")
    write(style, values, "addresses", ([value[field] for field in fields] for value in values))


def write_changes(style: Format, changes: Iterable[Change], refusals: Iterable[Refusal]) -> None:
    """What was or would be changed, and who was not served."""
    changed = [{"action": c.action, "kind": c.kind, "name": c.name, "detail": c.detail} for c in changes]
    refused = [{"node": r.node, "family": r.family, "pool": r.pool, "reason": r.reason} for r in refusals]
    value = {"changes": changed, "refusals": refused}
    write(style, value, "changes", (item.values() for item in changed))


def write_pools(style: Format, pools: Iterable[PoolStatus]) -> None:
    """Pools, with how many of their blocks are held."""
    values: list[Row] = []
    rows: list[list[object]] = []
    for pool in pools:
        spec = pool.spec
        blocks = {family: {"total": pool.blocks[family], "held": pool.held.get(family, 0)} for family in spec.families}
        values.append(
            {
                "name": spec.name,
                **spec.to_dict(),
                "blocks": {f"ipv{family}": count for family, count in blocks.items()},
                "conflictsWith": pool.conflicting,
            }
        )
        lengths = dict.fromkeys(f"/{spec.block_length(cidr)}" for cidr in spec.cidrs)
        held = ", ".join(f"{count['held']}/{size(count['total'])}" for count in blocks.values())
        status = f"conflicts with {pool.conflicting}" if pool.conflicting else "ready"
        rows.append(
            [
                spec.name,
                ", ".join(map(str, spec.cidrs)),
                ", ".join(lengths),
                held,
                str(spec.selector) or "every node",
                status,
            ]
        )
    write(style, values, "pools", rows)


def write_nodes(style: Format, nodes: Iterable[NodeStatus], allocations: Iterable[Allocation]) -> None:
    """Nodes, with their blocks and the addresses in use in them."""
    addresses: dict[str, list[str]] = {}
    for item in allocations:
        addresses.setdefault(item.node, []).append(str(item.address))
    values = [
        {
            "name": status.node.name,
            "labels": dict(status.node.labels),
            "pools": list(dict.fromkeys(block.pool for block in status.blocks)),
            "podCIDRs": list(status.pod_cidrs),
            "addresses": addresses.get(status.node.name, []),
            "utilization": {f"ipv{family}": counts(use) for family, use in sorted(status.utilization.items())},
        }
        for status in nodes
    ]
    write(style, values, "nodes", map(_node_cells, values))


def _node_cells(node: Row) -> list[object]:
    shown = node["addresses"][:SHOWN_ADDRESSES]
    more = len(node["addresses"]) - len(shown)
    return [
        node["name"],
        ", ".join(node["pools"]) or "-",
        ", ".join(node["podCIDRs"]) or "-",
        ", ".join(shown) + (f" +{more} more" if more else "") or "-",
        ", ".join(f"{use['inUse']}/{size(use['capacity'] - use['reserved'])}" for use in node["utilization"].values())
        or "-",
    ]


def write_blocks(style: Format, blocks: Iterable[Block]) -> None:
    """Blocks in the hands of nodes."""
    values = [
        {
            "block": str(block.prefix),
            "node": block.node,
            "pool": block.pool,
            "family": block.family,
            "fence": block.fence,
            "since": moment(block.since),
            "orphan": block.orphan,
            "utilization": counts(block.utilization),
        }
        for block in blocks
    ]
    write(style, values, "blocks", map(_block_cells, values))


def _block_cells(block: Row) -> list[object]:
    use = block["utilization"]
    in_use = f"{use['inUse']}/{size(use['capacity'] - use['reserved'])}"
    status = "orphan: its pool is gone" if block["orphan"] else "held"
    return [block["block"], block["node"], block["pool"], block["fence"], in_use, block["since"], status]


def cilium_node(node: NodeStatus) -> Row:
    """The node as the CiliumNode that Cilium's agent on it would read."""
    metadata = {"name": node.node.name, "labels": dict(node.node.labels)}
    spec = {"ipam": {"podCIDRs": list(node.pod_cidrs)}}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": metadata, "spec": spec}


def write_audit(style: Format, result: Audit) -> None:
    """What a check found, and what it looked at."""
    findings = [{"severity": f.severity, "where": f.where, "what": f.what, "repair": f.repair} for f in result.findings]
    write(
        style, {"findings": findings, "counts": dict(result.counts)}, "findings", (item.values() for item in findings)
    )
    if style == "table":
        print("checked: " + ", ".join(f"{count} {what}" for what, count in result.counts.items()))


def counts(use: Utilization) -> Row:
    """The numbers of addresses; capacity is the sum of the others where no holding is reserved."""
    return {"capacity": use.capacity, "inUse": use.in_use, "cooling": use.cooling, "reserved": use.reserved, "available": use.available}


def size(count: int) -> str:
    """A number for people: one that is too long to read as a power of two."""
    return str(count) if count < 1 << 32 else f"~2^{(count - 1).bit_length()}"
