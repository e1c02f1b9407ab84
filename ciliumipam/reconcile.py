"""Which pool serves which node: the one reconcile function, over a snapshot of pools, nodes and what is held.

Takes pools and nodes as applied and what the block ledger shows as held; says for every node which families it still lacks and
from which pool, or why not. `tasks` turns that into writes. Pure and deterministic: nodes by name, pools by `pool_order`.

A node keeps the pool that its first block came from, whatever becomes of its labels. A node without a block is served by the
first pool in order that selects it, and by no other: where that one is full, the node waits (its own pool is exclusive, as in
Cilium's documentation of per-node pools). It gets a block of every family that the pool has, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ciliumipam.cidr import Family
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec, pool_order
from ciliumipam.records import Holding, PoolRecord
from ciliumipam.requests import Refusal


class Want(NamedTuple):
    """What a node should get.

    Attributes:
        node: Its name.
        pool: Where from; None if no pool serves it.
        families: The families that it lacks, ascending; empty if it has everything.
        refusals: Why no pool serves it.
    """

    node: str
    pool: PoolSpec | None
    families: tuple[Family, ...]
    refusals: tuple[Refusal, ...]


class Pools:
    """Pools in the order in which they are asked, with those that may not serve because an older pool has their space."""

    def __init__(self, records: Iterable[PoolRecord]) -> None:
        by_age = sorted(records, key=lambda record: (record.since, record.spec.name))
        self.by_name = {record.spec.name: record.spec for record in by_age}
        self.ordered = sorted(self.by_name.values(), key=pool_order)
        self.conflicting = _conflicting([record.spec for record in by_age])


def _conflicting(by_age: Sequence[PoolSpec]) -> dict[str, str]:
    """Pools that overlap an older one that serves, with its name."""
    spans = sorted((cidr, spec.name) for spec in by_age for cidr in spec.cidrs)
    if not any(left[0].overlaps(right[0]) for left, right in pairwise(spans)):
        return {}
    found: dict[str, str] = {}
    for index, spec in enumerate(by_age):
        for older in by_age[:index]:
            if older.name not in found and spec.overlaps(older):
                found[spec.name] = older.name
                break
    return found


def reconcile(nodes: Iterable[Node], pools: Pools, held: Mapping[str, Sequence[Holding]]) -> Iterator[Want]:
    """What every node should get. O(nodes x pools) selector matches for nodes without a block.

    Args:
        nodes: The nodes to look at.
        pools: All pools.
        held: By node, the blocks that it has or is about to take.
    """
    for node in sorted(nodes, key=lambda each: each.name):
        yield want(node, pools, held.get(node.name, ()))


def want(node: Node, pools: Pools, held: Sequence[Holding]) -> Want:
    """What one node should get, and why from there."""
    if held:
        spec = pools.by_name.get(held[0].label)
        if spec is None:
            return Want(node.name, None, (), ())
        have = {block.family for block in held}
        missing = tuple(family for family in spec.families if family not in have)
        other = pools.conflicting.get(spec.name)
        if missing and other is not None:
            return Want(node.name, None, (), (_refuse(node, spec, f"it overlaps the older pool {other!r}, so it serves nobody"),))
        return Want(node.name, spec, missing, ())
    for spec in pools.ordered:
        if spec.selector.matches(node.labels) and spec.name not in pools.conflicting:
            return Want(node.name, spec, spec.families, ())
    return Want(node.name, None, (), tuple(refusals(node, pools)))


def refusals(node: Node, pools: Pools) -> Iterator[Refusal]:
    """Why each pool that does not serve a node does not, in the order in which they are asked, up to the one that does."""
    for spec in pools.ordered:
        if not spec.selector.matches(node.labels):
            yield _refuse(node, spec, spec.selector.explain(node.labels))
        elif spec.name in pools.conflicting:
            yield _refuse(node, spec, f"it overlaps the older pool {pools.conflicting[spec.name]!r}, so it serves nobody")
        else:
            return


def _refuse(node: Node, spec: PoolSpec, reason: str) -> Refusal:
    return Refusal(node.name, spec.name, None, reason)
