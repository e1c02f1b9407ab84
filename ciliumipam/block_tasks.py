"""The tasks about blocks: making pools and nodes known, giving nodes what they should have, taking it back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from ciliumipam.cidr import Family
from ciliumipam.draft import DELETE, DROP, RECORD, Draft
from ciliumipam.errors import BlockNotEmptyError, NotFoundError, OverlapError, PoolExhaustedError
from ciliumipam.ledger import holdings
from ciliumipam.levels import BlockLevel
from ciliumipam.pool import PoolSpec
from ciliumipam.protocol import Call, Standing, forget, look, release, take
from ciliumipam.reconcile import Pools, reconcile
from ciliumipam.records import Holding, Key, NodeRecord, PoolRecord
from ciliumipam.requests import Apply, Change, Refusal, RemoveNode, RemovePool
from ciliumipam.tasks import Task
from ciliumipam.view import View, address_claims_keys, block_claims_key


class ApplyTask(Task):
    """Pools and nodes first, in a round of their own; then a block for every node that should have one.

    Attributes:
        carved: The blocks that this call gave to nodes.
    """

    lists = ("pool", "node", "block-claims", "block-page")

    def __init__(self, request: Apply, now: float, token: str) -> None:
        super().__init__(now)
        self.request = request
        self._call = Call(token)
        self.carved: list[Holding] = []
        self._tried: dict[Holding, None] = {}

    @property
    def changes(self) -> list[Change]:
        return [*super().changes, *map(_carved, self.carved)]

    def step(self, view: View, draft: Draft) -> bool:
        self._put_records(view, draft)
        if draft:
            return False
        self.refusals = []
        pools = Pools(view.pools.values())
        level = BlockLevel(view, self.confirmed)
        standings = {name: look(draft, level, name) for name in view.nodes}
        ending = {name: _ending(view, standing) for name, standing in standings.items()}
        if any(ending.values()):
            for name, standing in standings.items():
                if ending[name]:
                    release(draft, level, standing, ending[name])
            return False
        kept: set[Holding] = set()
        for standing in standings.values():
            for piece in standing.pending:
                _mark(view, draft, pools, piece)
        good = {name: standing.good for name, standing in standings.items()}
        for want in reconcile((record.node for record in view.nodes.values()), pools, good):
            standing = standings[want.node]
            self.refusals += want.refusals
            if want.families and want.pool is not None:
                kept.update(self._serve(view, draft, level, standing, want.pool, want.families))
                continue
            if standing.pending or standing.good != standing.pieces or standing.tentative:
                take(draft, level, standing, (), self._call, group=False)
            kept.update(standing.good)
        self.carved = [piece for piece in self._tried if piece in kept]
        return True

    def _put_records(self, view: View, draft: Draft) -> None:
        request = self.request
        after = {name: record.spec for name, record in view.pools.items()} | {spec.name: spec for spec in request.pools}
        changed = {spec.name for spec in request.pools if spec.name not in view.pools or view.pools[spec.name].spec != spec}
        for name in sorted(changed):
            for other, spec in sorted(after.items()):
                if other != name and (overlap := after[name].overlaps(spec)) is not None:
                    raise OverlapError(name, str(overlap[0]), other, str(overlap[1]))
        for spec in sorted(request.pools, key=lambda each: each.name):
            if spec.name in changed:
                known = view.pools.get(spec.name)
                draft.put(Key("pool", spec.name), PoolRecord(spec, known.since if known else self.now), RECORD)
                self._note(Change("change" if known else "add", "pool", spec.name, ", ".join(map(str, spec.cidrs))))
        for node in sorted(request.nodes, key=lambda each: each.name):
            record = view.nodes.get(node.name)
            if record is None or record.node != node:
                draft.put(Key("node", node.name), NodeRecord(node, record.since if record else self.now), RECORD)
                labels = ", ".join(f"{key}={value}" for key, value in node.label_pairs)
                self._note(Change("change" if record else "add", "node", node.name, labels or "no labels"))

    def _serve(
        self, view: View, draft: Draft, level: BlockLevel, standing: Standing, pool: PoolSpec, missing: tuple[Family, ...]
    ) -> tuple[Holding, ...]:
        """Blocks of all the families that a node lacks, or of none. Returns what the node has then."""
        chosen: list[Holding] = []
        for family in missing:
            piece = self._carve(view, draft, level, standing.holder, pool, family)
            if piece is None:
                groups = view.carvers(pool, family)
                largest = min((group.carver.largest_free for group in groups if group.carver.largest_free is not None), default=None)
                error = PoolExhaustedError(pool.name, family, groups[0].length, largest)
                self.refusals.append(Refusal(standing.holder, pool.name, family, str(error)))
                if self._call.owns(standing):
                    mine = [piece for piece in standing.good if piece in self._call.added.get(standing.holder, ())]
                    release(draft, level, standing, mine)
                    return ()
                chosen = []
                break
            chosen.append(piece)
        if chosen or standing.pending or standing.good != standing.pieces:
            take(draft, level, standing, tuple(chosen), self._call, group=False)
        self._tried.update(dict.fromkeys(chosen))
        return (*standing.good, *chosen)

    def _carve(
        self, view: View, draft: Draft, level: BlockLevel, node: str, pool: PoolSpec, family: Family
    ) -> Holding | None:
        for group in view.carvers(pool, family):
            network = group.carver.take(group.length)
            if network >= 0:
                draft.undo.append(partial(group.carver.give_back_bits, network, group.length))
                return level.next(draft, node, pool.name, family, network, group.length, self.now)
        return None


def _ending(view: View, standing: Standing) -> tuple[Holding, ...]:
    """What somebody began to take back, and what a crashed call claimed out of a pool that is gone or was changed since."""
    return (*standing.closing, *(piece for piece in standing.pending if view.is_orphan(piece)))


def _carved(piece: Holding) -> Change:
    return Change("carve", "block", piece.piece, f"for node {piece.holder} out of pool {piece.label}")


def _mark(view: View, draft: Draft, pools: Pools, piece: Holding) -> None:
    """Keep other nodes of this round from getting a block that a claim names and no page shows yet."""
    for spec in pools.ordered:
        for group in view.carvers(spec, piece.family) if piece.family in spec.families else ():
            if group.carver.occupy_bits(piece.network, piece.length):
                draft.undo.append(partial(group.carver.give_back_bits, piece.network, piece.length))
                return


class RemoveNodeTask(Task):
    """All blocks of a node back, then the node forgotten."""

    lists = ("pool", "node", "block-claims", "block-page")

    def __init__(self, request: RemoveNode, now: float) -> None:
        super().__init__(now)
        self.request = request
        self._found = False

    def before(self, view: View) -> Iterable[Key]:
        """What is allocated on the node: whether its blocks are empty must be known before the first of them is closed."""
        name = self.request.name
        blocks = view.claims(block_claims_key(name)).claims.get(name, ())
        return [*address_claims_keys(name), *(key for block in blocks for key in view.address_pages(block.prefix))]

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.request.name, ()

    def step(self, view: View, draft: Draft) -> bool:
        name = self.request.name
        level = BlockLevel(view, self.confirmed, force=self.request.force)
        standing = look(draft, level, name)
        if not standing.pieces and name not in view.nodes:
            if self._found:
                return True
            raise NotFoundError("node", name, tuple(sorted(view.nodes)[:8]))
        dropped = self._dropped(view, draft, standing)
        self._found = True
        self.targets.update(dict.fromkeys(standing.pieces, ""))
        self.targets.update(dict.fromkeys(dropped, name))
        if standing.pieces:
            for block in (*standing.held, *standing.closing):
                self._note(Change("give back", "block", block.piece, f"from node {name} to pool {block.label}"))
            for piece in dropped:
                self._note(Change("release", "address", piece.piece, f"on {name} from {piece.holder}, by force"))
            self._forget_owners(draft, (*standing.held, *standing.closing))
            release(draft, level, standing, standing.pieces)
        if name in view.nodes:
            draft.put(Key("node", name), None, DELETE)
            self._note(Change("remove", "node", name, "with --force" if self.request.force else "it holds nothing"))
        return True

    def _forget_owners(self, draft: Draft, blocks: tuple[Holding, ...]) -> None:
        """Let no claim name an address of blocks that are closed by then: what crashed calls left, and what is dropped by force."""
        prefixes = [block.prefix for block in blocks]
        for key in address_claims_keys(self.request.name):
            for owner, pieces in sorted(draft.claims(key).claims.items()):
                inside = {piece for piece in pieces if any(prefix.covers(piece.prefix) for prefix in prefixes)}
                if inside:
                    forget(draft, Standing(owner, key, pieces, (), (), (), "", ()), inside, DROP)

    def _dropped(self, view: View, draft: Draft, standing: Standing) -> list[Holding]:
        dropped: list[Holding] = []
        for block in standing.held:
            inside = list(holdings(draft, view.address_ledger(block.prefix), block.fence))
            if inside and not self.request.force:
                names = tuple(f"{piece.piece} {piece.label or piece.holder}" for piece in inside[:5])
                raise BlockNotEmptyError(block.piece, standing.holder, len(inside), names)
            dropped += inside
        return dropped


class RemovePoolTask(Task):
    """A pool forgotten; what was carved out of it stays where it is."""

    lists = ("pool", "block-page")

    def __init__(self, request: RemovePool, now: float) -> None:
        super().__init__(now)
        self.request = request
        self._found = False

    def step(self, view: View, draft: Draft) -> bool:
        name = self.request.name
        if name not in view.pools:
            if self._found:
                return True
            raise NotFoundError("pool", name, tuple(sorted(view.pools)[:8]))
        self._found = True
        orphans = sum(block.label == name for block in view.blocks())
        draft.put(Key("pool", name), None, DELETE)
        self._note(Change("remove", "pool", name, f"{orphans} blocks become orphans" if orphans else "it holds nothing"))
        return True

