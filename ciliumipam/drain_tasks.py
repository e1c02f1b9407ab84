"""The tasks that move nodes off what they have: draining a pool, a node or a block, and migrating a node to another pool.

Both mark first, then give replacements, then take back what is empty. What is not is told as blockers. Every part can be the last
one that a process does: the same request, asked again, goes on from where things stand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ciliumipam.adopt import leave_out
from ciliumipam.block_tasks import BlockTask, exhausted
from ciliumipam.cidr import parse_prefix, to_address
from ciliumipam.draft import CLAIM, DROP, RECORD, Draft
from ciliumipam.errors import NotFoundError, NotHeldError, PoolRefusedError
from ciliumipam.ledger import holdings
from ciliumipam.levels import BlockLevel
from ciliumipam.protocol import Standing, Unsure, forget, look, release, take
from ciliumipam.reconcile import Held, Offer, Pools, Want, want
from ciliumipam.records import Holding, Key
from ciliumipam.requests import Action, Applied, Blocker, Change, Drain, ExistingBlock, Migrate, Refusal
from ciliumipam.tasks import block_change
from ciliumipam.view import View, address_claims_keys, block_claims_key

TAKES_NOTHING = "takes nothing new"
TAKES_AGAIN = "takes new ones again"


class TakeBackTask(BlockTask):
    """What the tasks that take back empty blocks share."""

    def __init__(self, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now, token, listed)
        self.blockers: list[Blocker] = []
        self._touched: set[str] = set()

    @property
    def outcome(self) -> Applied:
        return Applied(tuple(self.changes), tuple(self.refusals), (), tuple(self.blockers))

    def leaving(self, view: View) -> list[Holding]:
        """The blocks that are to be taken back once they are empty, in address order."""
        raise NotImplementedError

    def before(self, view: View) -> Iterable[Key]:
        """What is allocated in those blocks: whether they are empty must be known before the first of them is closed."""
        blocks = self.leaving(view)
        nodes = dict.fromkeys(block.holder for block in blocks)
        return [
            *(key for node in nodes for key in address_claims_keys(node)),
            *(key for block in blocks for key in view.address_pages(block)),
        ]

    def let_drain(self, view: View, draft: Draft, blocks: Iterable[Holding], *, cancel: bool = False) -> None:
        """Mark blocks as draining in the claims of their nodes, or take that back."""
        action: Action = "change" if cancel else "drain"
        for block in blocks:
            key = block_claims_key(block.holder)
            claims = draft.claims(key)
            known = block in claims.claims.get(block.holder, ())
            if not known and not BlockLevel(view, self.confirmed, self.now).is_confirmed(key):
                raise Unsure(key, block)  # it just went back, or just came: one was read before the other
            if (block in claims.draining) == cancel:
                changed = claims.draining - {block} if cancel else claims.draining | {block}
                draft.put(key, claims._replace(draining=changed), CLAIM)
                self._note(block_change(action, block, TAKES_AGAIN if cancel else TAKES_NOTHING))

    def replace(self, view: View, draft: Draft, level: BlockLevel, pools: Pools, standings: dict[str, Standing]) -> None:
        """Give the nodes whose blocks are to go what they lack by that."""
        holders = {block.holder for block in self.leaving(view)}
        kept = {piece for standing in standings.values() for piece in standing.good}
        wants = []
        for name, record in sorted(view.nodes.items()):
            if name in holders:
                wants.append(want(record, pools, Held(standings[name].good, view.claims(standings[name].key).draining)))
            elif record.demand:  # a holder that asks for more is not to overtake it
                wants.append(Want(name, (), ()))
        kept |= self.serve(view, draft, level, standings, wants)
        self.carved = [piece for piece in self.tried if piece in kept]

    def take_back(self, view: View, draft: Draft, level: BlockLevel, standings: dict[str, Standing], *, bare: bool) -> None:
        """Put the release of what is empty and has a replacement, or where a node may be left `bare`; tell the rest."""
        self.blockers = []
        by_node: dict[str, list[Holding]] = {}
        leaving = dict.fromkeys(self.leaving(view))
        for block in leaving:
            standing = standings[block.holder]
            if block not in standing.held:
                continue
            bad = view.is_orphan(block)  # an orphan gives out nothing: it replaces nothing but another one
            others = [
                each
                for each in standing.held
                if each.family == block.family and each not in leaving and (bad or not view.is_orphan(each))
            ]
            inside = list(holdings(draft, view.address_ledger(block), block.fence))
            said = next((each for each in self.listed if each.node == block.holder and each.prefix.overlaps(block.prefix)), None)
            if inside:
                self.blockers += [_held_by(block, piece) for piece in inside]
            elif said is not None:
                self.blockers.append(_listed_in(block, said.source))
            elif not others and not bare:
                reason = "it is empty, but the node has no other block of the family; see why none is offered, or remove the node"
                self.blockers.append(Blocker(block.holder, block.prefix.to_network(), None, "", "", block.since, reason))
            else:
                by_node.setdefault(block.holder, []).append(block)
        for node in sorted(self._touched - by_node.keys()):  # a write that was lost: the block is gone, and its claim still there
            after = standings.get(node)
            if after is not None and after.pieces != after.good:
                release(draft, level, after, ())
        self._touched.update(by_node)
        for node, blocks in by_node.items():
            self.targets.update(dict.fromkeys(blocks, ""))
            forget_owners(draft, node, blocks)
            release(draft, level, standings[node], blocks)
            for block in blocks:
                self._note(gives_back(block))


def _held_by(block: Holding, piece: Holding) -> Blocker:
    owner = f"{piece.holder} ({piece.label})" if piece.label else piece.holder
    address = to_address(piece.family, piece.network)
    reason = f"{piece.piece} is held by {owner}"
    return Blocker(block.holder, block.prefix.to_network(), address, piece.holder, piece.label, piece.since, reason)


def _listed_in(block: Holding, source: str) -> Blocker:
    reason = (
        f"{source} lists it, so the node may give out addresses of it at any moment: take the node out of service and delete its objects;"
        " its blocks go back after that"
    )
    return Blocker(block.holder, block.prefix.to_network(), None, "", "", block.since, reason)


def gives_back(block: Holding) -> Change:
    """A block that goes back, in words."""
    return block_change("give back", block, f"from node {block.holder}" + (f" to pool {block.label}" if block.label else ""))


def forget_owners(draft: Draft, node: str, blocks: Collection[Holding]) -> None:
    """Let no claim name an address of blocks that are closed by then: what crashed calls left, and what is dropped by force."""
    prefixes = [block.prefix for block in blocks]
    for key in address_claims_keys(node):
        for owner, pieces in sorted(draft.claims(key).claims.items()):
            inside = {piece for piece in pieces if any(prefix.covers(piece.prefix) for prefix in prefixes)}
            if inside:
                forget(draft, Standing(owner, key, pieces, (), (), (), "", ()), inside, DROP)


class DrainTask(TakeBackTask):
    """A pool, a node or a block that takes nothing new."""

    def __init__(self, request: Drain, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now, token, listed)
        self.request = request
        self._found = False
        self._block = parse_prefix(request.name) if request.kind == "block" else None

    def leaving(self, view: View) -> list[Holding]:
        if self.request.cancel:
            return []
        return [block for block in view.blocks() if self._covers(block)]

    def _covers(self, block: Holding) -> bool:
        name = self.request.name
        match self.request.kind:
            case "pool":
                return block.label == name
            case "node":
                return block.holder == name
            case "block":  # pragma: no branch - mypy checks that the match is exhaustive
                return block.prefix == self._block and block.space == self.request.space

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        self._mark(view, draft)
        if draft:
            return False
        self.refusals = []
        if self.request.cancel:
            return True
        pools = Pools.of(view)
        level = BlockLevel(view, self.confirmed, self.now)
        holders = {block.holder for block in self.leaving(view)}
        standings = {name: look(draft, level, name) for name in {*view.nodes, *holders}}
        if self.finish_what_was_begun(view, draft, level, standings.values()):
            return False
        leave_out(view, draft, pools, standings, self.listed, self.now)
        self.replace(view, draft, level, pools, standings)
        if draft:
            return False
        self.take_back(view, draft, level, standings, bare=self.request.kind == "node")
        return True

    def _mark(self, view: View, draft: Draft) -> None:
        kind, name, cancel = self.request.kind, self.request.name, self.request.cancel
        action: Action = "change" if cancel else "drain"
        what = TAKES_AGAIN if cancel else TAKES_NOTHING
        if kind == "pool":
            pool = view.pools.get(name)
            if pool is None:
                raise NotFoundError("pool", name, tuple(sorted(view.pools)[:8]))
            if pool.spec.draining == cancel:
                draft.put(Key("pool", name), pool._replace(spec=pool.spec.replace(draining=not cancel)), RECORD)
                self._note(Change(action, kind, name, what))
        elif kind == "node":
            node = view.nodes.get(name)
            if node is None:
                raise NotFoundError("node", name, tuple(sorted(view.nodes)[:8]))
            if node.draining == cancel:
                draft.put(Key("node", name), node._replace(draining=not cancel), RECORD)
                self._note(Change(action, kind, name, what))
        else:
            blocks = [block for block in view.blocks() if self._covers(block)]
            if not blocks and not self._found:
                raise NotHeldError(name, "no node holds this very block")
            self.let_drain(view, draft, blocks, cancel=cancel)
            self._found = True


class MigrateTask(TakeBackTask):
    """A node moved to another pool."""

    def __init__(self, request: Migrate, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now, token, listed)
        self.request = request
        self._marked: set[Holding] = set()

    def leaving(self, view: View) -> list[Holding]:
        return [block for block in view.blocks() if block.holder == self.request.node and self._leaves(view, block)]

    def _leaves(self, view: View, block: Holding) -> bool:
        return block.label != self.request.pool or view.is_orphan(block)

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        record, pool = view.nodes.get(self.request.node), view.pools.get(self.request.pool)
        if record is None:
            raise NotFoundError("node", self.request.node, tuple(sorted(view.nodes)[:8]))
        if pool is None:
            raise NotFoundError("pool", self.request.pool, tuple(sorted(view.pools)[:8]))
        node, spec = record.node, pool.spec
        pools = Pools.of(view)
        level = BlockLevel(view, self.confirmed, self.now)
        standings = {name: look(draft, level, name) for name in view.nodes}
        if self.finish_what_was_begun(view, draft, level, standings.values()):
            return False
        leave_out(view, draft, pools, standings, self.listed, self.now)
        standing = standings[node.name]
        reason = pools.why_not(spec)
        if not spec.selector.matches(node.labels, node.name):
            reason = spec.selector.explain(node.labels, node.name)
        elif record.draining:
            reason = "the node is draining; cancel that first"
        elif any(block.space != spec.address_space for block in standing.good):
            reason = f"it is in the address space {spec.address_space!r}, and the node's blocks are in another one"
        if reason:
            raise PoolRefusedError(spec.name, node.name, reason)
        claims = draft.claims(standing.key)
        old = [block for block in standing.good if self._leaves(view, block)]
        have = [block for block in standing.good if block not in old]
        lacks = tuple(
            (family, missing)
            for family in spec.families
            if (missing := spec.blocks_per_node - sum(block.family == family for block in have)) > 0
        )
        refused: list[Refusal] = []
        chosen = self.carve(view, draft, level, node, Offer(spec, lacks), have, refused)
        if chosen is None:
            raise exhausted(view, spec, node, refused[0].family or 4)
        if chosen or standing.pending or standing.good != standing.pieces or standing.tentative:
            take(draft, level, standing, tuple(chosen), self.call, group=False)
            self.tried.update(dict.fromkeys(chosen))
        claims = draft.claims(standing.key)
        marked = claims.draining.union(old).difference(have)  # a node that comes back is not to lose what it comes back to
        if marked != claims.draining:
            draft.put(standing.key, claims._replace(draining=marked), CLAIM)
            self._marked.update(set(old) - claims.draining)
            for block in old:
                self._note(block_change("drain", block, f"node {node.name} moves to pool {spec.name}"))
        self.carved = [piece for piece in self.tried if piece in (*standing.good, *chosen)]
        if draft:
            return False
        self.take_back(view, draft, level, standings, bare=False)
        return True

    def undo(self, view: View, draft: Draft) -> bool:
        """Give back what this call took, where nobody has relied on it, and let the old blocks serve again."""
        level = BlockLevel(view, self.confirmed, self.now)
        standing = look(draft, level, self.request.node)
        added = self.call.added.get(standing.holder, ())
        mine = [piece for piece in (standing.pieces if self.call.owns(standing) else standing.pending) if piece in added]
        if mine:
            release(draft, level, standing, mine)
            return False
        claims = draft.claims(standing.key)
        if claims.draining & self._marked:
            draft.put(standing.key, claims._replace(draining=claims.draining - self._marked), CLAIM)
        return True
