"""What became of pools: counts, and sentences that somebody should read before it hurts."""

from __future__ import annotations

from collections.abc import Iterator

from ciliumipam.cidr import WIDTH, Family
from ciliumipam.errors import NotFoundError
from ciliumipam.free_blocks import reserved_blocks
from ciliumipam.ledger import holdings
from ciliumipam.pool import PoolSpec
from ciliumipam.reconcile import Pools
from ciliumipam.records import Holding
from ciliumipam.requests import Concern, PoolStatus, Space
from ciliumipam.routes import GroupBlock, GroupRoutes, group_routes
from ciliumipam.view import View
from ciliumipam.words import counted, some


def statuses(view: View) -> tuple[PoolStatus, ...]:
    """All pools by name, with what became of them. O(blocks + pools), and the concerns."""
    pools = Pools.of(view)
    held: dict[tuple[str, Family], int] = {}
    orphans: dict[str, int] = {}
    for block in view.blocks():
        held[(block.label, block.family)] = held.get((block.label, block.family), 0) + 1
        orphans[block.label] = orphans.get(block.label, 0) + view.is_orphan(block)
    known: dict[str, list[str]] = {}
    for concern in concerns(view, pools):
        known.setdefault(concern.pool, []).append(concern.what)
    return tuple(
        PoolStatus(
            record.spec,
            {family: space_of(view, record.spec, family, held.get((name, family), 0)) for family in record.spec.families},
            orphans.get(name, 0),
            pools.conflicting.get(name),
            tuple(known.get(name, ())),
        )
        for name, record in sorted(view.pools.items())
    )


def routes(view: View, pool: str, group_by: str | None) -> tuple[GroupRoutes, ...]:
    """What routers announce for the blocks in the CIDRs of a pool, by the values of a label of their nodes.

    Raises:
        NotFoundError: There is no such pool.
    """
    record = view.pools.get(pool)
    if record is None:
        raise NotFoundError("pool", pool, tuple(sorted(view.pools)[:8]))
    spec = record.spec
    key = spec.group_by if group_by is None else group_by
    labels = {name: known.node.labels for name, known in view.nodes.items()}
    blocks = [
        GroupBlock(block.prefix, labels.get(block.holder, {}).get(key, ""), block.since)
        for block in view.blocks()
        if block.space == spec.address_space and any(cidr.overlaps(block.prefix) for cidr in spec.cidrs)
    ]
    reserved = [
        prefix
        for family in spec.families
        for group in view.free.carvers(spec, family)
        for prefix in reserved_blocks(spec, group.length, family)
        if group.covers(prefix)
    ]
    return tuple(group_routes(blocks, spec.cidrs, reserved))


def space_of(view: View, spec: PoolSpec, family: Family, held: int) -> Space:
    """Counts of one family of a pool, of whose blocks so many are held. O(CIDRs + what cools)."""
    carvers = [(group.length, group.carver) for group in view.free.carvers(spec, family)]
    free = sum(carver.free for _, carver in carvers)
    largest = min((carver.largest_free for _, carver in carvers if carver.largest_free is not None), default=None)
    return Space(
        spec.blocks(family),
        held,
        sum(carver.available(length) for length, carver in carvers),
        view.free.cooling(spec, family),
        largest,
        0.0 if largest is None else 1 - (1 << (WIDTH[family] - largest)) / free,
    )


def concerns(view: View, pools: Pools) -> Iterator[Concern]:
    """Concerns about pools, by pool, then about blocks of no pool.

    Complexity:
        O(nodes + blocks), and a match of every node where a pool has fewer blocks than there are nodes.
    """
    held: dict[str, list[Holding]] = {}
    for block in view.blocks():
        held.setdefault(block.label, []).append(block)
    served = _Served(view, pools)
    for name in sorted(pools.by_name):
        spec = pools.by_name[name]
        blocks = held.get(name, [])
        for what in (
            _too_few(view, served, spec),
            _moved_away(view, spec, blocks),
            _orphans(view, name, blocks),
            _reserved(view, spec, blocks),
        ):
            if what:
                yield Concern(name, what)
    for name in sorted(held.keys() - pools.by_name.keys()):
        blocks = held[name]
        where = "the pool is gone" if name else "no pool covers " + ("it" if len(blocks) == 1 else "them")
        yield Concern(name, f"{counted(len(blocks), 'block is an orphan', 'blocks are orphans')} ({where}): {_named(blocks)}")


class _Served:
    """How many nodes each pool serves first. Counted when first asked for: only pools with few blocks need to know."""

    def __init__(self, view: View, pools: Pools) -> None:
        self._view, self._pools = view, pools
        self._counts: dict[str, int] | None = None

    def count(self, spec: PoolSpec) -> int:
        if self._counts is None:
            self._counts = {}
            for record in self._view.nodes.values():
                first = next(iter(self._pools.matching(record.node)), None)
                if first is not None:
                    self._counts[first.pool.name] = self._counts.get(first.pool.name, 0) + 1
        return self._counts.get(spec.name, 0)


def _too_few(view: View, served: _Served, spec: PoolSpec) -> str:
    for family in spec.families if not spec.overflow else ():
        blocks = spec.blocks(family) // spec.blocks_per_node
        if blocks < len(view.nodes) and (nodes := served.count(spec)) > blocks:
            each = f" at {spec.blocks_per_node} each" if spec.blocks_per_node > 1 else ""
            return (
                f"it makes IPv{family} blocks for {counted(blocks, 'node', 'nodes')}{each}, and selects {nodes}: add a CIDR,"
                " or use a longer block length"
            )
    return ""


def _moved_away(view: View, spec: PoolSpec, blocks: list[Holding]) -> str:
    names = dict.fromkeys(block.holder for block in blocks)
    records = [view.nodes[name] for name in names if name in view.nodes]
    away = [each.node.name for each in records if not spec.selector.matches(each.node.labels, each.node.name)]
    if not away:
        return ""
    keep = "node keeps a block of it although its labels changed" if len(away) == 1 else "nodes keep blocks of it although their labels changed"
    return f"{len(away)} {keep}: {some(away)}; move them with: ciliumipam migrate NODE --to POOL"


def _orphans(view: View, name: str, blocks: list[Holding]) -> str:
    orphans = [block for block in blocks if view.is_orphan(block)]
    if not orphans:
        return ""
    what = counted(len(orphans), "block is an orphan", "blocks are orphans")
    return f"{what}, since {name} no longer covers {'it' if len(orphans) == 1 else 'them'}: {_named(orphans)}"


def _reserved(view: View, spec: PoolSpec, blocks: list[Holding]) -> str:
    if not spec.reserved:
        return ""
    held = [
        f"{piece.piece} by {piece.label or piece.holder}"
        for block in blocks
        if (index := view.addresses(block)).held_reserved
        for piece in holdings(view, view.address_ledger(block), block.fence)
        if index.is_reserved(piece.network)
    ]
    if not held:
        return ""
    stay = "it stays until it is released" if len(held) == 1 else "they stay until they are released"
    return f"{counted(len(held), 'address is', 'addresses are')} held inside reserved ranges: {some(held)}; {stay}"


def _named(blocks: list[Holding]) -> str:
    return some([f"{block.piece} of {block.holder}" for block in blocks])
