"""What nodes hold, as users see it: their blocks with what became of these, and the addresses in them."""

from __future__ import annotations

from ciliumipam.allocator import Utilization
from ciliumipam.errors import NotFoundError
from ciliumipam.ledger import holdings
from ciliumipam.records import Holding
from ciliumipam.requests import Allocation, Block, NodeStatus
from ciliumipam.tasks import to_allocation
from ciliumipam.view import View, block_claims_key


def node_statuses(view: View) -> tuple[NodeStatus, ...]:
    """All nodes by name, with their blocks and counts."""
    found = []
    for name, record in sorted(view.nodes.items()):
        blocks = tuple(_block(view, block.holding) for block in view.node_blocks(name))
        counts = {
            family: Utilization(*map(sum, zip(*(b.utilization for b in blocks if b.family == family), strict=True)))
            for family in sorted({block.family for block in blocks})
        }
        found.append(NodeStatus(record.node, blocks, counts, record.draining, record.demand))
    return tuple(found)


def all_blocks(view: View) -> tuple[Block, ...]:
    """All blocks that nodes hold, by address space and address."""
    return tuple(_block(view, block) for block in view.blocks())


def _block(view: View, held: Holding) -> Block:
    index = view.addresses(held)
    return Block(
        held.holder,
        held.label,
        held.prefix.to_network(),
        held.family,
        held.fence,
        held.since,
        view.is_orphan(held),
        Utilization(index.capacity, index.available, index.in_use, index.cooling, index.reserved),
        view.drains(held),
        held.space,
    )


def blocks_by_node(view: View, *, closing: bool) -> dict[str, tuple[Holding, ...]]:
    """What every node holds, in the order in which its claim names it; what that does not name comes last.

    Args:
        view: What is known.
        closing: Whether to name blocks that are on their way back as well.
    """
    found: dict[str, list[Holding]] = {}
    for block in view.blocks():
        if closing or not view.is_closed(block):
            found.setdefault(block.holder, []).append(block)
    for node, blocks in found.items():
        if len(blocks) > 1:
            named = view.claims(block_claims_key(node)).claims.get(node, ())
            blocks.sort(key=lambda block: named.index(block) if block in named else len(named))
    return {node: tuple(blocks) for node, blocks in found.items()}


def allocations(view: View, node: str | None) -> tuple[Allocation, ...]:
    """All addresses held, or those on one node, in address order.

    Raises:
        NotFoundError: The node is not known and holds nothing.
    """
    blocks = [block for block in view.blocks() if node in (None, block.holder)]
    if node is not None and node not in view.nodes and not blocks:
        raise NotFoundError("node", node, tuple(sorted(view.nodes)[:8]))
    found = []
    for held in blocks:
        block = view.node_block(held, serves=True)
        found += [to_allocation(held.holder, block, piece) for piece in holdings(view, block.ledger, held.fence)]
    return tuple(found)
