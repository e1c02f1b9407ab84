"""What is sound, and somebody may want to know: pools, blocks and nodes that are not as they were meant to be."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from ciliumipam.audit.findings import Findings
from ciliumipam.cidr import WIDTH, Family, Prefix
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec, pool_order
from ciliumipam.records import Holding, NodeRecord, PoolRecord


def notice_pools(
    findings: Findings,
    pools: Mapping[str, PoolRecord],
    nodes: Mapping[str, NodeRecord],
    blocks: Mapping[str, Sequence[Holding]],
) -> None:
    """Pools that serve nobody, and pools that cannot serve all. O(nodes without a block x pools)."""
    for name, other in sorted(_conflicts(pools.values()).items()):
        what = f"it overlaps the older pool {other!r}, so it serves nobody"
        findings.notice(what, f"pool {name}", f"change its CIDRs and apply it again, or: ciliumipam delete pool {name}")
    wanted: dict[str, int] = {}
    ordered = sorted((record.spec for record in pools.values()), key=pool_order)
    for record in nodes.values():
        name = _serving(record.node, ordered, blocks)
        if name in pools:
            wanted[name] = wanted.get(name, 0) + 1
    for name, count in sorted(wanted.items()):
        spec = pools[name].spec
        for family in spec.families:
            made = _usable_blocks(spec, family)
            if made < count:
                what = f"it makes {made} IPv{family} blocks, but {count} nodes are or want to be served by it"
                findings.notice(what, f"pool {name}", "add a CIDR to the pool or make its block length longer, and apply it again")


def _serving(node: Node, ordered: Iterable[PoolSpec], blocks: Mapping[str, Sequence[Holding]]) -> str:
    """The pool that a node has its block from, or would be served by."""
    if node.name in blocks:
        return blocks[node.name][0].label
    return next((spec.name for spec in ordered if spec.selector.matches(node.labels)), "")


def _conflicts(records: Iterable[PoolRecord]) -> dict[str, str]:
    """Pools that overlap an older one which serves, with its name. O(c log c) for c CIDRs that are disjoint."""
    age = {record.spec.name: (record.since, record.spec.name) for record in records}
    partners: dict[str, set[str]] = {}
    around: list[tuple[Prefix, str]] = []
    for cidr, name in sorted((cidr, record.spec.name) for record in records for cidr in record.spec.cidrs):
        while around and not around[-1][0].covers(cidr):
            around.pop()
        for _, other in around:
            partners.setdefault(name, set()).add(other)
            partners.setdefault(other, set()).add(name)
        around.append((cidr, name))
    found: dict[str, str] = {}
    for name in sorted(partners, key=lambda each: age[each]):
        older = [other for other in partners[name] if age[other] < age[name] and other not in found]
        if older:
            found[name] = min(older, key=lambda each: age[each])
    return found


def _usable_blocks(spec: PoolSpec, family: Family) -> int:
    """How many blocks of a family a pool makes that are not wholly reserved."""
    count = 0
    for cidr in spec.cidrs_of(family):
        bits = WIDTH[family] - spec.block_length(cidr)
        count += 1 << (spec.block_length(cidr) - cidr.length)
        for reserved_family, first, last in spec.reserved:
            if reserved_family == family:
                low, high = max(first, cidr.network), min(last, cidr.last)
                count -= max(0, ((high + 1) >> bits) - (-(-low >> bits)))
    return count


def notice_blocks(
    findings: Findings,
    pools: Mapping[str, PoolRecord],
    nodes: Mapping[str, NodeRecord],
    blocks: Iterable[Holding],
    addresses: Iterable[tuple[Holding, Holding]],
) -> None:
    """Blocks whose node or pool is no longer what it was, and addresses that were reserved since. O(n log n)."""
    inside: dict[Holding, list[Holding]] = {}
    for block, address in addresses:
        inside.setdefault(block, []).append(address)
    for block in blocks:
        where, node = f"block {block.piece}", block.holder
        delete = f"ciliumipam delete node {node}"
        pool = pools.get(block.label)
        if node not in nodes:
            what = f"it is held by node {node}, which is not known"
            findings.notice(what, where, f"apply the node, or take the block back: {delete}")
        if pool is None or not pool.spec.covers(block.prefix):
            gone = "is gone" if pool is None else "no longer covers it"
            what = f"an orphan: its pool {block.label!r} {gone}, so it gives out no new addresses"
            findings.notice(what, where, f"apply the pool with a CIDR that covers it, or once node {node} is empty: {delete}")
        elif node in nodes and not pool.spec.selector.matches(labels := nodes[node].node.labels):
            why = pool.spec.selector.explain(labels)
            what = f"node {node} keeps it, although pool {block.label!r} no longer selects the node: {why}"
            findings.notice(what, where, f"to move the node: drain it, {delete}, and apply it again")
        if pool is not None:
            _notice_reserved(findings, pool.spec, block, inside.get(block, ()))


def _notice_reserved(findings: Findings, spec: PoolSpec, block: Holding, addresses: Iterable[Holding]) -> None:
    ranges = [(first, last) for family, first, last in spec.reserved if family == block.family]
    starts = [first for first, _ in ranges]
    first, last = block.network, block.prefix.last
    for address in addresses:
        number = address.network
        at = bisect_right(starts, number) - 1
        edge = (number == first and not spec.allow_first) or (number == last and not spec.allow_last)
        if (edge and last - first > 1) or (at >= 0 and number <= ranges[at][1]):
            what = f"owner {address.holder!r} on node {block.holder} holds it, but pool {spec.name!r} has reserved it since"
            release = f"ciliumipam release --address {address.piece} --fence {address.fence}"
            findings.notice(what, f"address {address.piece}", f"if it has to be free: {release}")


def notice_nodes(
    findings: Findings,
    pools: Mapping[str, PoolRecord],
    nodes: Mapping[str, NodeRecord],
    blocks: Mapping[str, Sequence[Holding]],
) -> None:
    """Nodes that have less than they should."""
    for name in sorted(nodes):
        held = blocks.get(name, ())
        pool = pools.get(held[0].label) if held else None
        lacking = sorted(set(pool.spec.families) - {block.family for block in held}) if pool is not None else ()
        which = ["block"] if not held else [f"IPv{family} block" for family in lacking]
        for each in which:
            findings.notice(f"it holds no {each}", f"node {name}", f"ciliumipam explain {name} says why")
