"""Which pool serves which node: the one reconcile function, over a snapshot of pools, nodes and what is held.

Takes pools and nodes as applied and what the block ledger shows as held; says for every node what it still lacks and which pools
may give it, in order, or why none does. `block_tasks` turns that into writes. Pure and deterministic: nodes without a block first,
then by name; pools by `pool_order`. Further blocks, for nodes that ask for more addresses than they have, are `waiting`'s.

* A node without a block is served by the first pool in order that selects it. Where that one is full, the node waits (its own pool
  is exclusive, as in Cilium's documentation of per-node pools), unless the pool overflows: then the next one in order is asked.
* A node keeps the pool that its blocks came from, whatever becomes of its labels. Only where all of that drains does another one
  take over.
* It gets what it lacks of every family out of one pool, or nothing.
* A node stays in one address space: that of its first block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ciliumipam.cidr import Family, Prefix
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec, pool_order
from ciliumipam.records import Holding, NodeRecord, PoolRecord
from ciliumipam.requests import Refusal
from ciliumipam.selector_index import SelectorIndex
from ciliumipam.view import View


class Offer(NamedTuple):
    """What a pool may give a node: the number of blocks of each family, none of them 0, by family."""

    pool: PoolSpec
    blocks: tuple[tuple[Family, int], ...]


class Want(NamedTuple):
    """What a node should get.

    Attributes:
        node: Its name.
        offers: Which pools may give it, in the order in which they are asked; the first that can gives everything.
            Empty if the node lacks nothing, or if no pool serves it.
        refusals: Why no pool serves it.
    """

    node: str
    offers: tuple[Offer, ...]
    refusals: tuple[Refusal, ...]


class Match(NamedTuple):
    """A pool that selects a node, and how many requirements the term has that does."""

    pool: PoolSpec
    requirements: int


class Held(NamedTuple):
    """What a node has or is about to take, in the order in which it got it; `draining` has those that have to be replaced."""

    blocks: Sequence[Holding]
    draining: frozenset[Holding] = frozenset()


NOTHING = Held(())


class Pools:
    """All pools, with those that may not serve because an older pool has their space.

    Attributes:
        by_name: The pools by name, the oldest first.
        conflicting: Pools that overlap an older one of their address space that serves, with its name.
    """

    def __init__(self, records: Iterable[PoolRecord]) -> None:
        by_age = sorted(records, key=lambda record: (record.since, record.spec.name))
        self.by_name = {record.spec.name: record.spec for record in by_age}
        self.conflicting = _conflicting([record.spec for record in by_age])
        self._by_position = sorted(self.by_name.values(), key=pool_order)
        self._index = SelectorIndex([spec.selector for spec in self._by_position])
        self._matching: dict[str, tuple[Node, tuple[Match, ...]]] = {}
        self._alike: dict[tuple[tuple[int, int], ...], tuple[Match, ...]] = {}

    @classmethod
    def of(cls, view: View) -> Pools:
        """All pools of a view, made anew when one has changed."""
        found = view.derived.get(cls)
        if not isinstance(found, cls):
            found = view.derived[cls] = cls(view.pools.values())
        return found

    @property
    def ordered(self) -> Sequence[PoolSpec]:
        """All pools, in the order of their longest terms."""
        return self._by_position

    def matching(self, node: Node) -> tuple[Match, ...]:
        """The pools that select a node, in the order in which they are asked. Remembered by the node's name."""
        known = self._matching.get(node.name)
        if known is not None and known[0] is node:
            return known[1]
        places = tuple(self._index.matching(node.labels, node.name))
        found = self._alike.get(places)  # one answer for all nodes of a rack, however many
        if found is None:
            matches = [Match(self._by_position[place], count) for place, count in places]
            found = self._alike[places] = tuple(sorted(matches, key=lambda match: pool_order(match.pool, match.requirements)))
        self._matching[node.name] = node, found
        return found

    def forget_all_but(self, records: Sequence[NodeRecord]) -> None:
        """Forget what other nodes matched, once they are many: nodes come and go for years while no pool changes."""
        if len(self._matching) > 2 * len(records) + 100:
            names = {record.node.name for record in records}
            self._matching = {name: known for name, known in self._matching.items() if name in names}

    def why_not(self, spec: PoolSpec) -> str:
        """Why a pool serves nobody new; "" if it does."""
        if spec.name in self.conflicting:
            return f"it overlaps the older pool {self.conflicting[spec.name]!r}, so it serves nobody"
        return "it is draining, so it gives no new blocks" if spec.draining else ""


def _conflicting(by_age: Sequence[PoolSpec]) -> dict[str, str]:
    """Pools that overlap an older one of their address space that serves, with its name."""
    spans: dict[str, list[tuple[Prefix, str]]] = {}
    for spec in by_age:
        spans.setdefault(spec.address_space, []).extend((cidr, spec.name) for cidr in spec.cidrs)
    if not any(left[0].overlaps(right[0]) for each in spans.values() for left, right in pairwise(sorted(each))):
        return {}
    found: dict[str, str] = {}
    for index, spec in enumerate(by_age):
        for older in by_age[:index]:
            if older.name not in found and older.address_space == spec.address_space and spec.overlaps(older):
                found[spec.name] = older.name
                break
    return found


def reconcile(nodes: Iterable[NodeRecord], pools: Pools, held: Mapping[str, Held]) -> Iterator[Want]:
    """What every node should get, nodes without a block first and then by name. O(nodes), each with the pools that select it.

    Args:
        nodes: The nodes to look at.
        pools: All pools.
        held: By node, what it has or is about to take.
    """
    records = sorted(nodes, key=lambda each: (bool(held.get(each.node.name, NOTHING).blocks), each.node.name))
    pools.forget_all_but(records)
    for record in records:
        yield want(record, pools, held.get(record.node.name, NOTHING))


def staying(pools: Pools, held: Held) -> list[Holding]:
    """The blocks of a node that need no replacement: neither they nor their pools drain."""
    return [
        block
        for block in held.blocks
        if block not in held.draining and not ((spec := pools.by_name.get(block.label)) is not None and spec.draining)
    ]


def own_pool(pools: Pools, held: Held) -> PoolSpec | None:
    """The pool that a node keeps: where the first of its blocks came from that stays, or the first of all; None if it is gone."""
    blocks = staying(pools, held) or held.blocks
    return pools.by_name.get(blocks[0].label) if blocks else None


def want(record: NodeRecord, pools: Pools, held: Held, least: int = 0) -> Want:
    """What one node should get, and why from there.

    Args:
        record: The node.
        pools: All pools.
        held: What it has or is about to take.
        least: How many blocks of each family it should have, where its pool gives fewer at once.
    """
    node = record.node
    own = own_pool(pools, held)
    if record.draining or (held.blocks and own is None):
        return Want(node.name, (), ())
    kept = staying(pools, held)
    reasons: dict[str, str] = {}
    offers: list[Offer] = []
    if own is not None and not own.draining:
        lacks = _lacks(own, kept, least)
        if not lacks:
            return Want(node.name, (), ())
        reason = pools.why_not(own) or elsewhere(own, held.blocks[0].space) or _limit(own, kept, lacks)
        if reason and not (own.overflow and own.name not in pools.conflicting):
            return Want(node.name, (), (_refuse(node, own, reason),))
        if reason:
            reasons[own.name] = reason
        else:
            offers.append(Offer(own, lacks))
        if not own.overflow:
            return Want(node.name, tuple(offers), ())
        _extend(node, pools, kept, lacks, held.blocks[0].space, offers, reasons, {own.name})
        return Want(node.name, tuple(offers), () if offers else (*_refusals(node, pools, reasons),))
    space = held.blocks[0].space if held.blocks else None
    for spec, _ in pools.matching(node):
        lacks = _lacks(spec, kept, least)
        reason = pools.why_not(spec) or elsewhere(spec, space)
        if reason:
            reasons[spec.name] = reason
            continue
        if limit := _limit(spec, kept, lacks):
            reasons[spec.name] = limit
        else:
            offers.append(Offer(spec, lacks))
        if spec.overflow:
            _extend(node, pools, kept, lacks, spec.address_space, offers, reasons, {*reasons, spec.name})
        break
    return Want(node.name, tuple(offers), () if offers else (*_refusals(node, pools, reasons),))


def _extend(
    node: Node,
    pools: Pools,
    kept: Sequence[Holding],
    lacks: tuple[tuple[Family, int], ...],
    space: str,
    offers: list[Offer],
    reasons: dict[str, str],
    asked: set[str],
) -> None:
    """Add the pools that a full one passes a node on to: the next ones in order that select it, as long as each overflows."""
    for spec, _ in pools.matching(node):
        if spec.name in asked:
            continue
        reason = pools.why_not(spec) or elsewhere(spec, space) or _limit(spec, kept, lacks)
        missing = [family for family, _ in lacks if family not in spec.families]
        if not reason and missing:
            reason = f"it has no IPv{missing[0]} CIDR, and the node lacks a block of that family"
        if reason:
            reasons[spec.name] = reason
            continue
        offers.append(Offer(spec, lacks))
        if not spec.overflow:
            return


def _lacks(spec: PoolSpec, kept: Sequence[Holding], least: int) -> tuple[tuple[Family, int], ...]:
    """How many blocks of each family a node lacks that a pool gives."""
    found = []
    for family in spec.families:
        count = max(spec.blocks_per_node, least) - sum(block.family == family for block in kept)
        if count > 0:
            found.append((family, count))
    return tuple(found)


def _limit(spec: PoolSpec, kept: Sequence[Holding], lacks: tuple[tuple[Family, int], ...]) -> str:
    """Why a pool would give a node more blocks than it may; "" if not."""
    most = spec.max_blocks_per_node
    for family, count in lacks if most is not None else ():
        have = sum(block.label == spec.name and block.family == family for block in kept)
        if most is not None and have + count > most:
            return f"it gives a node at most {most} IPv{family} blocks; the node has {have} and wants {count} more"
    return ""


def elsewhere(spec: PoolSpec, space: str | None) -> str:
    """Why a pool cannot serve a node whose blocks are in an address space, None if it has none yet; "" if it can."""
    if space is None or spec.address_space == space:
        return ""
    return f"it is in the address space {spec.address_space!r}, and the node's blocks are in {space!r}"


def refusals(node: Node, pools: Pools) -> Iterator[Refusal]:
    """Why each pool that would not serve a node without a block would not, in the order in which they are asked."""
    return _refusals(node, pools, {})


def _refusals(node: Node, pools: Pools, reasons: Mapping[str, str]) -> Iterator[Refusal]:
    for spec in pools.ordered:
        if not spec.selector.matches(node.labels, node.name):
            yield _refuse(node, spec, spec.selector.explain(node.labels, node.name))
        elif reason := reasons.get(spec.name) or pools.why_not(spec):
            yield _refuse(node, spec, reason)


def _refuse(node: Node, spec: PoolSpec, reason: str) -> Refusal:
    return Refusal(node.name, spec.name, None, reason)
