"""Taking over what nodes have already, by what another allocator wrote down: the oldest claim first, each conflict named.

What a node is said to have, and no ledger shows, comes from whoever asks (`Apply.existing`), or from the store itself: in a cluster the
nodes' objects list it, whoever wrote it there. No call may give such a block to another node, also one that adopts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol, runtime_checkable

from ciliumipam.cidr import WIDTH, Prefix
from ciliumipam.draft import Draft
from ciliumipam.levels import BlockLevel
from ciliumipam.pool import DEFAULT_SPACE, PoolSpec
from ciliumipam.protocol import Standing
from ciliumipam.reconcile import Pools
from ciliumipam.records import Holding, Page
from ciliumipam.requests import Conflict, ExistingBlock, Plan
from ciliumipam.store import Store
from ciliumipam.view import View


@runtime_checkable
class SupportsListed(Protocol):
    """A store that also knows what nodes use by other means than its records."""

    def listed(self, pools: Sequence[PoolSpec]) -> Sequence[ExistingBlock]:
        """Every block that a node is said to have, as of now, held or not.

        Args:
            pools: Pools that are about to be put; they count with those that there are.
        """
        ...


def listing_of(store: Store) -> Callable[[Sequence[PoolSpec]], Sequence[ExistingBlock]]:
    """How a store is asked for what nodes are said to have; nothing, of one that does not know."""
    return store.listed if isinstance(store, SupportsListed) else _nothing


def _nothing(_: Sequence[PoolSpec]) -> Sequence[ExistingBlock]:
    return ()


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
    lacking = unheld(view, existing)
    if not lacking:
        return result
    taken = _Taken()
    for block in view.blocks():
        taken.add(block)
    for standing in standings.values():
        for piece in standing.pending:
            taken.add(piece)
    for each in sorted(lacking, key=lambda each: (each.since or inf, each.node, each.prefix)):
        known = standings.get(each.node)
        mine = (*(known.good if known is not None else ()), *result.pieces.get(each.node, ()))
        space, name = _place_of(pools, each, mine)
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
    _leave_out(view, draft, denied)
    return result


def unheld(view: View, existing: Iterable[ExistingBlock]) -> list[ExistingBlock]:
    """What of it no page shows as held by that node; said without an address space it may be in any, also where its pool is not any more."""
    said = [*existing]
    if not said:
        return []
    held = {(block.holder, block.prefix, space) for block in view.blocks() for space in (block.space, None)}
    return [each for each in said if (each.node, each.prefix, each.address_space) not in held]


def leave_out(view: View, draft: Draft, pools: Pools, standings: Mapping[str, Standing], existing: Iterable[ExistingBlock], now: float) -> None:
    """Keep what nodes are said to have, and do not hold, out of what is carved, for a call that adopts nothing."""
    marks: list[Holding] = []
    for each in unheld(view, existing):
        known = standings.get(each.node)
        space, name = _place_of(pools, each, known.good if known is not None else ())
        if each.prefix.length:
            marks.append(Holding(*each.prefix, 0, each.node, name, now, space))
    _leave_out(view, draft, marks)


def _leave_out(view: View, draft: Draft, pieces: Iterable[Holding]) -> None:
    for piece in pieces:
        undo = view.free.mark(piece)
        if undo is not None:
            draft.undo.append(undo)


def overtaken(view: View, plan: Plan, existing: Iterable[ExistingBlock]) -> list[str]:
    """What nodes are said to have by now of the blocks that a plan gives to others, in words."""
    late = unheld(view, existing)
    if not late:
        return []
    before = dict(plan.before)
    given: dict[Holding, None] = {}
    for step in plan.steps:
        if step.key.kind == "block-page" and isinstance(step.record, Page):
            known = before.get(step.key)
            old = set(known.record.slots) if known is not None and isinstance(known.record, Page) else set()
            given.update(dict.fromkeys(slot for slot in step.record.slots if type(slot) is Holding and slot not in old))
    return [
        f"node {each.node} has {each.prefix} by now"
        for each in late
        if any(
            piece.holder != each.node and each.address_space in (None, piece.space) and piece.prefix.overlaps(each.prefix) for piece in given
        )
    ]


def _reason(each: ExistingBlock, standing: Standing | None, adopted: Sequence[Holding], space: str) -> str:
    if standing is None:
        return "the node is not known; apply it as well"
    if each.prefix.length == 0:
        return "it is a whole address family"
    for block in (*standing.good, *adopted):
        if block.space != space:
            return f"it is in the address space {space!r}, and the node's blocks are in {block.space!r}"
    return ""


def _place_of(pools: Pools, each: ExistingBlock, mine: Sequence[Holding]) -> tuple[str, str]:
    """The address space of a block that a node is said to have, and its pool, "" for none."""
    pool = _pool_of(pools, each, mine[0].space if mine else None)
    if pool is not None:
        return pool.address_space, pool.name
    return each.address_space or DEFAULT_SPACE, each.pool or ""


def _pool_of(pools: Pools, each: ExistingBlock, space: str | None) -> PoolSpec | None:
    """The pool that it is said to be from, or the first that covers it: of the space that the node is in, where there is one."""
    covering = [
        spec
        for spec in pools.ordered
        if spec.covers(each.prefix) and spec.name not in pools.conflicting and each.address_space in (None, spec.address_space)
    ]
    named = next((spec for spec in covering if spec.name == each.pool), None)
    return named or next((spec for spec in covering if spec.address_space == space), covering[0] if covering else None)
