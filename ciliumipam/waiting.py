"""Who gets a further block first: nodes that ask for more addresses than they have, in one total order, pool by pool.

A node's first blocks are `reconcile`'s, and come before anything here: a node without a block waits behind nobody. Then further
blocks are given one by one, each to the node that is first in this order:

1. fewest blocks of that pool and family;
2. then the smallest part of what it asks for;
3. then by name.

So nobody gets a further block of a pool while another node that waits for that pool has fewer: where space is scarce nodes end up
with the same number of blocks, but for those that ask for less. A node that a pool cannot serve (it has reached the pool's limit,
or nothing of its block length is free) lets the others pass, and asks the next pool where its own overflows.

Nothing is taken away from anybody, and a part of what is asked for is better than nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple, TypeAlias

from ciliumipam.cidr import Family
from ciliumipam.demand import Demand
from ciliumipam.pool import PoolSpec
from ciliumipam.reconcile import Held, Pools, elsewhere, own_pool, staying
from ciliumipam.records import Holding, NodeRecord
from ciliumipam.requests import Refusal

MOST_BLOCKS = 65536
"""Blocks of a pool and family that a node can have where the pool sets no limit."""

Place: TypeAlias = tuple[int, float, str]
"""Where somebody stands in the order: blocks, part of what is asked for, name. Lower is served first."""


class Stock:
    """What a node has to hand out, by pool and family: the blocks that stay, and their addresses that are not reserved."""

    __slots__ = ("_addresses", "_blocks")

    def __init__(self, pools: Pools, held: Held) -> None:
        """Count what a node has. Orphans and what drains hand out nothing new."""
        self._blocks: dict[tuple[str, int], int] = {}
        self._addresses: dict[tuple[str, int], int] = {}
        for block in staying(pools, held):
            spec = pools.by_name.get(block.label)
            if spec is not None and spec.address_space == block.space and spec.covers(block.prefix):
                self.add(spec, block)

    def add(self, spec: PoolSpec, block: Holding) -> None:
        """Count a further block of a pool."""
        key = spec.name, block.family
        usable = spec.usable(block.prefix)
        self._blocks[key] = self._blocks.get(key, 0) + 1
        for name in (spec.name, ""):
            self._addresses[name, block.family] = self._addresses.get((name, block.family), 0) + usable

    def blocks(self, pool: str, family: Family) -> int:
        """How many blocks of a pool."""
        return self._blocks.get((pool, family), 0)

    def addresses(self, pool: str, family: Family) -> int:
        """How many addresses of a pool, "" for all pools."""
        return self._addresses.get((pool, family), 0)


class Waiting(NamedTuple):
    """A node that has less than it asks for.

    Attributes:
        node: Its name.
        demand: What it asks for.
        stock: What it has.
        sources: The pools that may give more, in the order in which they are asked.
        refusals: Why others may not.
    """

    node: str
    demand: Demand
    stock: Stock
    sources: tuple[PoolSpec, ...]
    refusals: tuple[Refusal, ...]

    @property
    def missing(self) -> int:
        """How many addresses it lacks; 0 or less if it waits no longer."""
        return self.demand.addresses - self.stock.addresses(self.demand.pool, self.demand.family)

    def place(self, pool: PoolSpec) -> Place:
        """Where it stands among those that wait for a pool."""
        demand, stock = self.demand, self.stock
        return stock.blocks(pool.name, demand.family), stock.addresses(demand.pool, demand.family) / demand.addresses, self.node

    def limit(self, pool: PoolSpec) -> str:
        """Why a pool gives the node no further block, whatever is free; "" if it may."""
        most, family = pool.max_blocks_per_node, self.demand.family
        if self.stock.blocks(pool.name, family) < (MOST_BLOCKS if most is None else most):
            return ""
        return f"it gives a node at most {MOST_BLOCKS if most is None else most} IPv{family} blocks, which the node has"

    def refuse(self, pool: str, reason: str) -> Refusal:
        """That a pool gives it nothing more."""
        family = self.demand.family
        have = self.stock.addresses(self.demand.pool, family)
        return Refusal(self.node, pool, family, f"{reason}; the node asks for {self.demand.addresses} IPv{family} addresses and has {have}")


def waiting(record: NodeRecord, pools: Pools, held: Held) -> list[Waiting]:
    """What a node asks for and does not have. Nothing for one that drains, or that has yet to get its first blocks."""
    if not record.demand or record.draining or own_pool(pools, held) is None or not staying(pools, held):
        return []
    stock = Stock(pools, held)
    found = []
    for demand in record.demand:
        asks = Waiting(record.node.name, demand, stock, (), ())
        if asks.missing > 0:
            found.append(_sources(asks, record, pools, held))
    return found


def _sources(asks: Waiting, record: NodeRecord, pools: Pools, held: Held) -> Waiting:
    node, family, space = record.node, asks.demand.family, held.blocks[0].space
    sources: list[PoolSpec] = []
    refusals: list[Refusal] = []
    for spec, is_own in _asked(asks.demand, record, pools, held):
        reason = pools.why_not(spec) or elsewhere(spec, space)
        if not reason and family not in spec.families:
            reason = f"it has no IPv{family} CIDR"
        if not reason and not is_own and not spec.selector.matches(node.labels, node.name):
            reason = spec.selector.explain(node.labels, node.name)
        if reason:
            refusals.append(asks.refuse(spec.name, reason))
            if is_own and (not spec.overflow or spec.name in pools.conflicting):
                break
            continue
        sources.append(spec)
        if not spec.overflow:
            break
    if asks.demand.pool and asks.demand.pool not in pools.by_name:
        refusals.append(asks.refuse(asks.demand.pool, "there is no such pool"))
    return asks._replace(sources=tuple(sources), refusals=tuple(refusals))


def _asked(demand: Demand, record: NodeRecord, pools: Pools, held: Held) -> Iterator[tuple[PoolSpec, bool]]:
    """The pools that are asked as long as each passes on, and whether the node has blocks of it already."""
    if demand.pool:
        named = pools.by_name.get(demand.pool)
        if named is not None:
            yield named, any(block.label == named.name for block in held.blocks)
        return
    own = own_pool(pools, held)
    if own is not None:  # pragma: no branch - who waits has one
        yield own, True
    for match in pools.matching(record.node):
        if match.pool is not own:
            yield match.pool, False


def share(waits: Iterable[Waiting], give: Callable[[Waiting, PoolSpec], str]) -> list[Refusal]:
    """Give those who wait one block after the other, in order, until everybody has what it asks for or nothing can be given.

    Args:
        waits: Who waits; their stocks grow.
        give: Gives a node a further block of a pool and adds it to its stock; else says why not.

    Returns:
        Why who waits still does not get more.

    Complexity:
        O(log n) for each block given, for n who wait.
    """
    refusals: list[Refusal] = []
    queue: list[tuple[Place, int, int]] = []
    entries: list[tuple[Waiting, list[Refusal]]] = []
    for each in waits:
        if each.sources:
            queue.append((each.place(each.sources[0]), len(entries), 0))
        else:
            refusals += each.refusals
        entries.append((each, [*each.refusals]))
    heapify(queue)
    while queue:
        place, index, source = heappop(queue)
        asks, told = entries[index]
        if asks.missing <= 0:
            continue
        pool = asks.sources[source]
        now = asks.place(pool)
        if now == place:
            reason = asks.limit(pool) or give(asks, pool)
            if reason:
                told.append(asks.refuse(pool.name, reason))
                source += 1
                if source == len(asks.sources):
                    refusals += told
                    continue
            now = asks.place(asks.sources[source])
        heappush(queue, (now, index, source))
    return sorted(refusals, key=lambda each: (each.node, each.family or 0))


def ahead(waits: Iterable[Waiting], mine: Waiting, pool: PoolSpec) -> Sequence[Waiting]:
    """Who of those that wait for a pool is served before one of them, the next one first."""
    place, family = mine.place(pool), mine.demand.family
    before = [each for each in waits if each.demand.family == family and pool in each.sources and each.place(pool) < place]
    return sorted(before, key=lambda each: each.place(pool))


def why_needed(record: NodeRecord | None, pools: Pools, held: Held, block: Holding) -> str:
    """Why a node may not hand a block back, empty or not; "" if it may.

    It keeps the blocks that its pool gives at once, and those that its demand is served from: they would come back at once. What
    drains serves until there is another one. An orphan gives out nothing and may always go; so may everything of a node that drains.
    """
    spec = pools.by_name.get(block.label)
    if record is None or record.draining or spec is None or spec.address_space != block.space or not spec.covers(block.prefix):
        return ""
    stays = [each for each in staying(pools, held) if each != block and each.family == block.family]
    if block in held.draining or spec.draining:
        return "" if stays else f"it drains, and serves until the node has another IPv{block.family} block"
    left = Held(tuple(each for each in held.blocks if each != block), held.draining)
    own = own_pool(pools, left) or spec
    least = own.blocks_per_node if block.family in own.families else 0
    if len(stays) < least:
        return f"pool {own.name} gives a node {least} IPv{block.family} {'block' if least == 1 else 'blocks'}, and it would have {len(stays)}"
    stock = Stock(pools, left)
    for pool, family, addresses in record.demand:
        have = stock.addresses(pool, family)
        if family == block.family and pool in ("", block.label) and have < addresses:
            return f"it asks for {addresses} IPv{family} addresses and would have {have}; ask for less first"
    return ""
