"""What is sound, and somebody may want to know: pools, blocks and nodes that are not as they were meant to be."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from ciliumipam.audit.findings import Findings, in_space, release_of
from ciliumipam.audit.snapshot import Room, Snapshot, shown
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Holding


def notice_pools(findings: Findings, snapshot: Snapshot) -> None:
    """Pools that serve nobody, and pools that cannot serve all. O(nodes x pools)."""
    for name, other in sorted(snapshot.conflicting.items()):
        what = f"it overlaps the older pool {other!r}, so it serves nobody"
        findings.notice(what, f"pool {name}", f"change its CIDRs and apply it again, or: ciliumipam delete pool {name}")
    rooms = {name: Room(record.spec) for name, record in snapshot.pools.items()}
    waiting = []
    for name in sorted(snapshot.nodes):
        own = snapshot.keeps(name)
        if own is not None:
            rooms[own.name].add(snapshot.nodes[name].node)
        elif not snapshot.nodes[name].draining and not snapshot.staying(name):
            waiting.append(name)
    for name in waiting:
        node, held = snapshot.nodes[name].node, snapshot.of_node.get(name)
        chain = [rooms[spec.name] for spec in snapshot.asked(node, held[0].space if held else None)]
        room = next((room for room in chain if room.fits(node)), chain[-1] if chain else None)
        if room is not None:
            room.add(node)
    for name, room in sorted(rooms.items()):
        for family in room.short:
            findings.notice(room.says(family), f"pool {name}", "add a CIDR to the pool or make its block length longer, and apply it again")


def notice_blocks(findings: Findings, snapshot: Snapshot) -> None:
    """Blocks whose node or pool is no longer what it was, and addresses that were reserved since. O(n log n)."""
    for block in snapshot.blocks:
        where, node = f"block {block.piece}", block.holder
        pool = snapshot.pools.get(block.label)
        record = snapshot.nodes.get(node)
        if record is None:
            what = f"it is held by node {node}, which is not known"
            findings.notice(what, where, f"apply the node, or take the block back: ciliumipam delete node {node}")
        reason = _orphaned(snapshot, block)
        if reason:
            move = f"once it is empty: ciliumipam delete node {node}"
            if pool is not None and pool.spec.address_space == block.space:
                move = f"to move the node off it: ciliumipam drain block {block.piece}{in_space(block.space)}"
            elif record is not None:
                move = _migrate(snapshot, block)
            repair = f"apply the pool with a CIDR that covers it, or {move}" if block.label else move
            findings.notice(f"an orphan: {reason}, so it gives out no new addresses", where, repair)
        elif record is not None and pool is not None and not pool.spec.selector.matches(record.node.labels, node):
            why = pool.spec.selector.explain(record.node.labels, node)
            what = f"node {node} keeps it, although pool {block.label!r} no longer selects the node: {why}"
            findings.notice(what, where, _migrate(snapshot, block))
        if pool is not None and pool.spec.address_space == block.space:
            _notice_reserved(findings, pool.spec, block, snapshot.inside.get(block, ()))


def _orphaned(snapshot: Snapshot, block: Holding) -> str:
    pool = snapshot.pools.get(block.label)
    if not block.label:
        return "it was adopted as it is, and is of no pool"
    if pool is None:
        return f"its pool {block.label!r} is gone"
    if pool.spec.address_space != block.space:
        return f"its pool {block.label!r} is in the address space {pool.spec.address_space!r} now, and it is in {block.space!r}"
    return "" if pool.spec.covers(block.prefix) else f"its pool {block.label!r} no longer covers it"


def _migrate(snapshot: Snapshot, block: Holding) -> str:
    """The command that moves the node of a block to the pool that would serve it now."""
    node = snapshot.nodes[block.holder].node
    pool = next((spec.name for spec in snapshot.asked(node, block.space)), None)
    command = f"ciliumipam migrate {node.name} --to"
    return f"to move the node: {command} {pool}" if pool is not None else f"to move the node, with another pool that selects it: {command} POOL"


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
            findings.notice(what, f"address {address.piece}", f"if it has to be free: {release_of(address, block.space)}")


def notice_nodes(findings: Findings, snapshot: Snapshot) -> None:
    """Nodes that have less than they should, or more than they may."""
    for name, record in sorted(snapshot.nodes.items()):
        held = snapshot.of_node.get(name, [])
        if not record.draining:
            for what in _lacks(snapshot, name, held):
                findings.notice(what, f"node {name}", f"ciliumipam explain {name} says why")
    for name, held in sorted(snapshot.of_node.items()):
        _notice_too_many(findings, snapshot, name, held)


def _lacks(snapshot: Snapshot, name: str, held: list[Holding]) -> Iterable[str]:
    own = snapshot.keeps(name)
    if not held:
        yield "it holds no block"
    if own is None:
        return
    staying = snapshot.staying(name)
    for family in own.families:
        count = sum(block.family == family for block in staying)
        if count == 0:
            yield f"it holds no IPv{family} block" + (" but such as drain" if any(block.family == family for block in held) else "")
        elif count < own.blocks_per_node:
            yield f"it holds {count} of {own.blocks_per_node} IPv{family} blocks"


def _notice_too_many(findings: Findings, snapshot: Snapshot, name: str, held: list[Holding]) -> None:
    for pool, family in sorted({(block.label, block.family) for block in held}):
        record = snapshot.pools.get(pool)
        most = record.spec.max_blocks_per_node if record is not None else None
        blocks = [block for block in held if (block.label, block.family) == (pool, family)]
        if most is not None and len(blocks) > most:
            what = f"it holds {len(blocks)} IPv{family} blocks of pool {pool!r} ({shown(blocks)}), which gives a node at most {most}"
            last = blocks[-1]
            repair = f"to take one back: ciliumipam drain block {last.piece}{in_space(last.space)}"
            findings.notice(what, f"node {name}", repair)
