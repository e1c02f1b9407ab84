"""Why a node has the blocks that it has, or none: pool by pool, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Iterator

from ciliumipam.addresses import BlockAddresses
from ciliumipam.errors import NotFoundError
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.reconcile import Pools, want
from ciliumipam.records import Holding
from ciliumipam.requests import Explanation
from ciliumipam.view import View, block_claims_key


def explain(view: View, name: str) -> Explanation:
    """Explain a node. O(pools).

    Raises:
        NotFoundError: The node is neither applied nor holds a block.
    """
    held = [block.holding for block in view.node_blocks(name)]
    record = view.nodes.get(name)
    claimed = view.claims(block_claims_key(name)).claims.get(name, ())
    if record is None and not claimed:
        raise NotFoundError("node", name, tuple(sorted(view.nodes)[:8]))
    lines = [f"node {name}" + ("" if record else " is not known, but holds blocks: apply it, or delete it to take them back")]
    lines += [
        "  " + (_block(view, block) if block in held else f"block {block.piece}: being taken or given back") for block in claimed
    ]
    if record is not None:
        lines += ["  " + line for line in _pools(view, record.node, held)]
    return Explanation(name, tuple(lines))


def _block(view: View, block: Holding) -> str:
    counts: BlockAddresses = view.addresses(block)
    text = (
        f"block {block.piece} from pool {block.label}: {counts.in_use} of {counts.capacity} addresses in use,"
        f" {counts.reserved} reserved, {counts.available} available"
    )
    return text + ("; an orphan: its pool is gone or no longer covers it, so it takes nothing new" if view.is_orphan(block) else "")


def _pools(view: View, node: Node, held: list[Holding]) -> Iterator[str]:
    pools = Pools(view.pools.values())
    if not pools.ordered:
        yield "no pool has been applied"
    serving = want(node, pools, held)
    keeps = held[0].label if held else None
    for place, spec in enumerate(pools.ordered, 1):
        yield f"{place}. pool {spec.name} ({_order(spec)}): {_verdict(view, node, pools, spec, serving.pool, keeps)}"


def _order(spec: PoolSpec) -> str:
    blocks = ", ".join(f"{spec.blocks(family)} IPv{family} blocks" for family in spec.families)
    return f"{spec.selector.requirements} requirements, {blocks}"


def _verdict(view: View, node: Node, pools: Pools, spec: PoolSpec, serving: PoolSpec | None, keeps: str | None) -> str:
    matches = spec.selector.matches(node.labels)
    why = spec.selector.explain(node.labels)
    if keeps == spec.name:
        return f"serves the node: {why}" if matches else f"serves the node, which keeps its blocks although its labels changed: {why}"
    if not matches:
        return f"refused: {why}"
    if spec.name in pools.conflicting:
        return f"refused: it overlaps the older pool {pools.conflicting[spec.name]!r}, so it serves nobody"
    if keeps is not None:
        return f"matches ({why}), but the node keeps pool {keeps}, where its blocks came from"
    if serving is not None and spec.name != serving.name:
        return f"matches ({why}), but pool {serving.name} comes first, and a node is served by its first pool only"
    full = []
    for family in spec.families:
        groups = view.carvers(spec, family)
        if all(group.carver.peek(group.length) < 0 for group in groups):
            full.append(f"no free IPv{family} /{groups[0].length}")
    return f"matches ({why}), but it has {' and '.join(full)}" if full else f"will serve the node: {why}"
