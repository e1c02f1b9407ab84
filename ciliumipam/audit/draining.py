"""What drains and still holds something, with what keeps it and which command goes on; and what has drained."""

from __future__ import annotations

from collections.abc import Sequence

from ciliumipam.audit.findings import Findings, in_space, moment
from ciliumipam.audit.snapshot import Snapshot
from ciliumipam.records import Holding


def notice_draining(findings: Findings, snapshot: Snapshot) -> None:
    """Pools, nodes and blocks that drain. O(blocks + addresses in them)."""
    for name, record in sorted(snapshot.pools.items()):
        if record.spec.draining:
            blocks = [block for block in snapshot.blocks if block.label == name]
            on = _still(snapshot, blocks) if blocks else "it drains, and no node holds a block of it any more"
            findings.notice(on, f"pool {name}", f"ciliumipam drain pool {name} goes on" if blocks else f"ciliumipam delete pool {name}")
    for name, node in sorted(snapshot.nodes.items()):
        if node.draining:
            blocks = snapshot.of_node.get(name, [])
            on = _still(snapshot, blocks) if blocks else "it drains, and holds nothing any more"
            findings.notice(on, f"node {name}", f"ciliumipam drain node {name} goes on" if blocks else f"ciliumipam delete node {name}")
    for block in snapshot.blocks:
        if block in snapshot.marked:
            go_on = f"ciliumipam drain block {block.piece}{in_space(block.space)} goes on"
            findings.notice(f"node {block.holder} holds it; {_inside(snapshot, [block])}", f"block {block.piece}", go_on)


def _still(snapshot: Snapshot, blocks: Sequence[Holding]) -> str:
    held = f"{len(blocks)} blocks are" if len(blocks) > 1 else f"block {blocks[0].piece} is"
    return f"it drains, and {held} still held; {_inside(snapshot, blocks)}"


def _inside(snapshot: Snapshot, blocks: Sequence[Holding]) -> str:
    """What is allocated in blocks that drain, the oldest of it by name."""
    found = [(address.since, address, block) for block in blocks for address in snapshot.inside.get(block, ())]
    if not found:
        return f"{'they are' if len(blocks) > 1 else 'it drains and is'} empty"
    _, oldest, block = min(found)
    label = f" ({oldest.label})" if oldest.label else ""
    count = f"{len(found)} addresses are in use" if len(found) > 1 else "1 address is in use"
    return f"{count}, the oldest {oldest.piece} by {oldest.holder!r}{label} on node {block.holder} since {moment(oldest.since)}"
