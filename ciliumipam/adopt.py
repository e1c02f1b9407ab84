"""Taking over what nodes have already, by what another allocator wrote down: the oldest claim first, each conflict named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from ciliumipam.cidr import WIDTH, Prefix
from ciliumipam.draft import Draft
from ciliumipam.levels import BlockLevel
from ciliumipam.pool import DEFAULT_SPACE, PoolSpec
from ciliumipam.protocol import Standing
from ciliumipam.reconcile import Pools
from ciliumipam.records import Holding
from ciliumipam.requests import Conflict, ExistingBlock
from ciliumipam.view import View


class Adopted(NamedTuple):
    """What nodes get, by node, and what they cannot have."""

    pieces: dict[str, list[Holding]]
    conflicts: list[Conflict]


class _Taken:
    """Prefixes that somebody has or is about to take; finds one that overlaps another in O(lengths)."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, Prefix], Holding] = {}
        self._around: dict[tuple[str, Prefix], Holding] = {}

    def add(self, piece: Holding) -> None:
        self._holders[piece.place] = piece
        for outer in _outward(piece.prefix):
            self._around.setdefault((piece.space, outer), piece)

    def overlapping(self, space: str, prefix: Prefix) -> Holding | None:
        for outer in _outward(prefix):
            found = self._holders.get((space, outer))
            if found is not None:
                return found
        return self._around.get((space, prefix))


def _outward(prefix: Prefix) -> Iterable[Prefix]:
    family, network, length = prefix
    for outer in range(length, -1, -1):
        shift = WIDTH[family] - outer
        yield Prefix(family, network >> shift << shift, outer)


def adopt(
    view: View,
    draft: Draft,
    level: BlockLevel,
    pools: Pools,
    standings: Mapping[str, Standing],
    existing: Sequence[ExistingBlock],
    now: float,
) -> Adopted:
    """Decide what of the blocks that nodes are said to have they get. Puts nothing but marks in the carvers.

    A block belongs to the pool that it is said to be from, if that covers it, else to the first pool in order that covers it. One
    that no pool covers is adopted as an orphan: nobody else can be given its space.

    What a node is said to have and cannot get is left out of what is carved for others all the same: its agent may be using it. All but
    a whole family, which would leave nobody anything.
    """
    result = Adopted({}, [])
    denied: list[Holding] = []
    if not existing:
        return result
    taken = _Taken()
    for block in view.blocks():
        taken.add(block)
    for standing in standings.values():
        for piece in standing.pending:
            taken.add(piece)
    for each in sorted(existing, key=lambda each: (each.since or inf, each.node, each.prefix)):
        known = standings.get(each.node)
        mine = (*(known.good if known is not None else ()), *result.pieces.get(each.node, ()))
        pool = _pool_of(pools, each, mine[0].space if mine else None)
        space = pool.address_space if pool is not None else each.address_space or DEFAULT_SPACE
        name = pool.name if pool is not None else each.pool or ""
        reason = _reason(each, known, result.pieces.get(each.node, ()), space)
        other = taken.overlapping(space, each.prefix)
        if other is not None and not reason:
            if other.holder == each.node and other.prefix == each.prefix:
                continue
            reason = f"node {other.holder!r} has {other.piece}" + (f" (pool {other.label})" if other.label else "")
        if not reason and not level.is_free(draft, space, each.prefix):
            reason = "the ledger shows some of it as held; read again and check the store"
        if reason:
            result.conflicts.append(Conflict(each, reason))
            if each.prefix.length and not (other is not None and other.prefix.covers(each.prefix)):
                denied.append(Holding(*each.prefix, 0, each.node, name, now, space))
            continue
        piece = level.next(draft, each.node, name, space, each.prefix)
        piece = piece._replace(since=each.since or now)
        taken.add(piece)
        undo = view.free.mark(piece)
        if undo is not None:
            draft.undo.append(undo)
        result.pieces.setdefault(each.node, []).append(piece)
    for piece in denied:
        undo = view.free.mark(piece)
        if undo is not None:
            draft.undo.append(undo)
    return result


def _reason(each: ExistingBlock, standing: Standing | None, adopted: Sequence[Holding], space: str) -> str:
    if standing is None:
        return "the node is not known; apply it as well"
    if each.prefix.length == 0:
        return "it is a whole address family"
    for block in (*standing.good, *adopted):
        if block.space != space:
            return f"it is in the address space {space!r}, and the node's blocks are in {block.space!r}"
    return ""


def _pool_of(pools: Pools, each: ExistingBlock, space: str | None) -> PoolSpec | None:
    """The pool that it is said to be from, or the first that covers it: of the space that the node is in, where there is one."""
    covering = [
        spec
        for spec in pools.ordered
        if spec.covers(each.prefix) and spec.name not in pools.conflicting and each.address_space in (None, spec.address_space)
    ]
    named = next((spec for spec in covering if spec.name == each.pool), None)
    return named or next((spec for spec in covering if spec.address_space == space), covering[0] if covering else None)
