"""The tasks that give nodes blocks: making pools and nodes known, adopting what nodes have, further blocks, growing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from ciliumipam.adopt import adopt, leave_out
from ciliumipam.cidr import Family
from ciliumipam.draft import RECORD, Draft
from ciliumipam.errors import NoBlockError, NotFoundError, OverlapError, PoolExhaustedError
from ciliumipam.levels import BlockLevel
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.pool_status import concerns
from ciliumipam.protocol import Call, Standing, look, release, take
from ciliumipam.reconcile import Held, Offer, Pools, Want, own_pool, reconcile, want
from ciliumipam.records import Holding, Key, NodeRecord, PoolRecord
from ciliumipam.requests import Applied, Apply, Change, Concern, Conflict, ExistingBlock, Grow, Refusal
from ciliumipam.tasks import Task, block_change, why_no_block
from ciliumipam.view import View
from ciliumipam.waiting import Waiting, share, waiting

Adopted: TypeAlias = Mapping[str, Sequence[Holding]]
NONE_ADOPTED: Adopted = MappingProxyType({})


class BlockTask(Task):
    """What the tasks about blocks share.

    Attributes:
        listed: What nodes are said to have, by what the store knows of them beside its records.
        carved: The blocks that this call gave to nodes.
        tried: What it set out to give them.
        adopted: Those of them that the nodes had before.
    """

    lists = ("pool", "node", "block-claims", "block-page")

    def __init__(self, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now)
        self.listed = listed
        self.call = Call(token)
        self.carved: list[Holding] = []
        self.tried: dict[Holding, None] = {}
        self.adopted: set[Holding] = set()

    @property
    def changes(self) -> list[Change]:
        noted = super().changes
        carved = [_adopted(piece) if piece in self.adopted else _carved(piece) for piece in self.carved]
        return [
            *(change for change in noted if change.action != "give back"),
            *carved,
            *(change for change in noted if change.action == "give back"),
        ]

    def finish_what_was_begun(self, view: View, draft: Draft, level: BlockLevel, standings: Iterable[Standing]) -> bool:
        """Put the release of what somebody began to take back, and of what a crashed call claimed out of a pool that changed since.

        Returns:
            Whether there was any; else what is pending is marked, so that no other node is given it.
        """
        ending = [(standing, pieces) for standing in standings if (pieces := _ending(view, standing))]
        for standing, pieces in ending:
            release(draft, level, standing, pieces)
        if not ending:
            for standing in standings:
                for piece in standing.pending:
                    undo = view.free.mark(piece)
                    if undo is not None:
                        draft.undo.append(undo)
        return bool(ending)

    def serve(
        self, view: View, draft: Draft, level: BlockLevel, standings: Mapping[str, Standing], wants: Iterable[Want], adopted: Adopted = NONE_ADOPTED
    ) -> set[Holding]:
        """Give nodes what the first pool can that is able to give everything, and then further blocks to those that ask for more.

        Returns:
            What the nodes have then.
        """
        chosen: dict[str, list[Holding]] = {}
        kept: set[Holding] = set()
        for wanted in wants:
            self.refusals += wanted.refusals
            standing, mine = standings[wanted.node], adopted.get(wanted.node, ())
            pieces = self._first(view, draft, level, standing, view.nodes[wanted.node].node, wanted.offers, mine)
            if pieces is not None:
                chosen[wanted.node] = [*mine, *pieces]
            else:
                kept.update(piece for piece in standing.good if piece not in self.call.added[wanted.node])
        self._further(view, draft, level, standings, chosen)
        for name, pieces in sorted(chosen.items()):
            standing = standings[name]
            if pieces or standing.pending or standing.good != standing.pieces or standing.tentative:
                take(draft, level, standing, tuple(pieces), self.call, group=False)
            self.tried.update(dict.fromkeys(pieces))
            kept.update(standing.good, pieces)
        return kept

    def _first(
        self, view: View, draft: Draft, level: BlockLevel, standing: Standing, node: Node, offers: Sequence[Offer], adopted: Sequence[Holding]
    ) -> list[Holding] | None:
        """The blocks that a node should have in any case, or as many as there are pools for; None if this call gives a part back."""
        # what this call chose in an earlier round and still has is what was decided: a pool that it overflowed into does not
        # become the node's own, and lack something, only because a write has to be tried again
        mine = [piece for piece in self.call.added.get(node.name, ()) if piece not in self.adopted]
        if mine and all(piece in standing.good for piece in mine):
            return []
        refused: list[Refusal] = []
        for offer in offers:
            chosen = self.carve(view, draft, level, node, offer, (*standing.good, *adopted), refused)
            if chosen is not None:
                return chosen
        self.refusals += refused
        part = [piece for piece in standing.good if piece in mine] if offers else []
        if part and self.call.owns(standing):
            release(draft, level, standing, part)
            return None
        return []

    def _further(self, view: View, draft: Draft, level: BlockLevel, standings: Mapping[str, Standing], chosen: dict[str, list[Holding]]) -> None:
        """Choose further blocks for the nodes that ask for more than they have."""
        pools = Pools.of(view)
        waits: list[Waiting] = []
        for name, pieces in chosen.items():
            record = view.nodes[name]
            if record.demand:
                standing = standings[name]
                waits += waiting(record, pools, Held((*standing.good, *pieces), view.claims(standing.key).draining))

        def give(asks: Waiting, pool: PoolSpec) -> str:
            pieces, node, family = chosen[asks.node], view.nodes[asks.node].node, asks.demand.family
            refused: list[Refusal] = []
            found = self.carve(view, draft, level, node, Offer(pool, ((family, 1),)), (*standings[asks.node].good, *pieces), refused)
            if found is None:
                return refused[0].reason
            pieces += found
            asks.stock.add(pool, found[0])
            return ""

        if waits:
            self.refusals += share(waits, give)

    def carve(
        self, view: View, draft: Draft, level: BlockLevel, node: Node, offer: Offer, have: Sequence[Holding], refused: list[Refusal]
    ) -> list[Holding] | None:
        """All blocks of an offer, marked as taken, or none."""
        pool = offer.pool
        chosen: list[Holding] = []
        for family, count in offer.blocks:
            for _ in range(count):
                found = view.free.choose(pool, node, family, (*have, *chosen))
                if found is None:
                    view.free.let_go([piece.place for piece in chosen])
                    refused.append(Refusal(node.name, pool.name, family, str(exhausted(view, pool, node, family))))
                    return None
                group, prefix = found
                view.free.hold(pool, group, prefix, node.name)
                chosen.append(level.next(draft, node.name, pool.name, pool.address_space, prefix))
        return chosen


def exhausted(view: View, pool: PoolSpec, node: Node, family: Family) -> PoolExhaustedError:
    """That a pool has no block of a family for a node."""
    groups = view.free.carvers(pool, family)
    largest = min((group.carver.largest_free for group in groups if group.carver.largest_free is not None), default=None)
    return PoolExhaustedError(pool.name, family, pool.block_length_for(node, groups[0].cidrs[0]), largest)


def _ending(view: View, standing: Standing) -> tuple[Holding, ...]:
    """What somebody began to take back, and what a crashed call claimed out of a pool that is gone or was changed since."""
    return (*standing.closing, *(piece for piece in standing.pending if piece.label and view.is_orphan(piece)))


def _carved(piece: Holding) -> Change:
    return block_change("carve", piece, f"for node {piece.holder} out of pool {piece.label}")


class ReconcileTask(BlockTask):
    """Records first, in a round of their own; then blocks for every node that should have some."""

    existing: tuple[ExistingBlock, ...] = ()

    def __init__(self, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now, token, listed)
        self.conflicts: list[Conflict] = []
        self._concerns: tuple[Concern, ...] = ()

    @property
    def outcome(self) -> Applied:
        return Applied(tuple(self.changes), tuple(self.refusals), tuple(self.conflicts), (), self._concerns)

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        self._put_records(view, draft)
        if draft:
            return False
        self.refusals = []
        pools = Pools.of(view)
        level = BlockLevel(view, self.confirmed, self.now)
        standings = {name: look(draft, level, name) for name in view.nodes}
        if self.finish_what_was_begun(view, draft, level, standings.values()):
            return False
        adopted = adopt(view, draft, level, pools, standings, (*self.existing, *self.listed), self.now)
        self.conflicts = adopted.conflicts
        self.adopted.update(piece for pieces in adopted.pieces.values() for piece in pieces)
        held = {
            name: Held((*standing.good, *adopted.pieces.get(name, ())), view.claims(standing.key).draining)
            for name, standing in standings.items()
        }
        kept = self.serve(view, draft, level, standings, reconcile(view.nodes.values(), pools, held), adopted.pieces)
        self.carved = [piece for piece in self.tried if piece in kept]
        self._concerns = tuple(concerns(view, pools))
        return True

    def _put_records(self, view: View, draft: Draft) -> None:
        """Put the records that the request is about; nothing once they are there."""
        raise NotImplementedError


class ApplyTask(ReconcileTask):
    """Pools and nodes made known or changed, and what nodes have adopted."""

    def __init__(self, request: Apply, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now, token, listed)
        self.request = request
        self.existing = request.existing

    def _put_records(self, view: View, draft: Draft) -> None:
        request = self.request
        after = {name: record.spec for name, record in view.pools.items()} | {spec.name: spec for spec in request.pools}
        changed = {spec.name for spec in request.pools if spec.name not in view.pools or view.pools[spec.name].spec != spec}
        for name in sorted(changed):
            for other, spec in sorted(after.items()):
                if other == name or spec.address_space != after[name].address_space:
                    continue
                if (overlap := after[name].overlaps(spec)) is not None:
                    raise OverlapError(name, str(overlap[0]), other, str(overlap[1]))
        for spec in sorted(request.pools, key=lambda each: each.name):
            if spec.name in changed:
                known = view.pools.get(spec.name)
                draft.put(Key("pool", spec.name), PoolRecord(spec, known.since if known else self.now), RECORD)
                self._note(Change("change" if known else "add", "pool", spec.name, _pool_change(known, spec)))
                for block in _orphaned(view, spec):
                    self._note(block_change("orphan", block, f"of node {block.holder}: pool {spec.name} no longer covers it"))
        for node in sorted(request.nodes, key=lambda each: each.name):
            record = view.nodes.get(node.name)
            if record is None or record.node != node:
                put = record._replace(node=node) if record is not None else NodeRecord(node, self.now)
                draft.put(Key("node", node.name), put, RECORD)
                labels = ", ".join(f"{key}={value}" for key, value in node.label_pairs)
                self._note(Change("change" if record else "add", "node", node.name, labels or "no labels"))


def _adopted(piece: Holding) -> Change:
    return block_change("adopt", piece, f"of node {piece.holder} " + (f"into pool {piece.label}" if piece.label else "outside every pool"))


def _pool_change(known: PoolRecord | None, spec: PoolSpec) -> str:
    """A new pool by its CIDRs; of a changed one each field that changed, as in "draining: false -> true"."""
    if known is None:
        return ", ".join(map(str, spec.cidrs))
    before, after = _fields(known.spec), _fields(spec)
    fields = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
    return "; ".join(f"{name}: {_shown(before.get(name))} -> {_shown(after.get(name))}" for name in fields)


def _fields(spec: PoolSpec) -> dict[str, Any]:
    """A pool's fields as its manifest names them, selectors as people write them."""
    fields = {**spec.to_dict(), "nodeSelector": str(spec.selector) or "every node"}
    if spec.block_lengths:
        lengths = ((str(each.selector) or "every node", (each.v4, each.v6)) for each in spec.block_lengths)
        fields["blockLengths"] = [f"{who} {' and '.join(f'/{length}' for length in both if length)}" for who, both in lengths]
    return fields


def _shown(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _orphaned(view: View, spec: PoolSpec) -> list[Holding]:
    """The blocks that a changed pool no longer covers."""
    if spec.name not in view.pools:
        return []
    return [
        block
        for block in view.blocks()
        if block.label == spec.name and not view.is_orphan(block) and not (spec.address_space == block.space and spec.covers(block.prefix))
    ]


class GrowTask(BlockTask):
    """More blocks for one node."""

    def __init__(self, request: Grow, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now, token, listed)
        self.request = request

    @property
    def outcome(self) -> Applied:
        return Applied(tuple(self.changes), tuple(self.refusals))

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        record = view.nodes.get(self.request.node)
        if record is None:
            raise NotFoundError("node", self.request.node, tuple(sorted(view.nodes)[:8]))
        self.refusals = []
        level = BlockLevel(view, self.confirmed, self.now)
        standings = {name: look(draft, level, name) for name in view.nodes}
        if self.finish_what_was_begun(view, draft, level, standings.values()):
            return False
        leave_out(view, draft, Pools.of(view), standings, self.listed, self.now)
        standing = standings[self.request.node]
        held = Held(standing.good, view.claims(standing.key).draining)
        if record.draining or (held.blocks and own_pool(Pools.of(view), held) is None):
            raise NoBlockError(record.node.name, 0, why_no_block(view, record.node.name))
        wanted = want(record, Pools.of(view), held, self.request.blocks)
        kept = self.serve(view, draft, level, {standing.holder: standing}, [wanted])
        self.carved = [piece for piece in self.tried if piece in kept]
        return True
