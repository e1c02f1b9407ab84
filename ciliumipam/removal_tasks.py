"""The tasks that forget a node or a pool."""

from __future__ import annotations

from collections.abc import Iterable

from ciliumipam.draft import DELETE, Draft
from ciliumipam.drain_tasks import forget_owners, gives_back
from ciliumipam.errors import BlockNotEmptyError, NotFoundError
from ciliumipam.ledger import holdings
from ciliumipam.levels import BlockLevel
from ciliumipam.protocol import Standing, look, release
from ciliumipam.records import Holding, Key
from ciliumipam.requests import Change, RemoveNode, RemovePool
from ciliumipam.tasks import Task, block_change
from ciliumipam.view import View, address_claims_keys, block_claims_key
from ciliumipam.words import counted


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
        return [*address_claims_keys(name), *(key for block in blocks for key in view.address_pages(block))]

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.request.name, ()

    def verify(self) -> Iterable[Key]:
        """The node's claims: somebody who knew the node until it was forgotten may have given it blocks again."""
        return (block_claims_key(self.request.name),)

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        name = self.request.name
        level = BlockLevel(view, self.confirmed, self.now, force=self.request.force)
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
                self._note(gives_back(block))
            for piece in dropped:
                self._note(Change("release", "address", piece.piece, f"on {name} from {piece.holder}, by force", name))
            forget_owners(draft, name, (*standing.held, *standing.closing))
            release(draft, level, standing, standing.pieces)
            return False  # the node goes in a round of its own: see `verify`
        draft.put(Key("node", name), None, DELETE)
        self._note(Change("remove", "node", name, "with --force" if self.request.force else "it holds nothing"))
        return True

    def _dropped(self, view: View, draft: Draft, standing: Standing) -> list[Holding]:
        dropped: list[Holding] = []
        for block in standing.held:
            inside = list(holdings(draft, view.address_ledger(block), block.fence))
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
        orphans = [block for block in view.blocks() if block.label == name]
        draft.put(Key("pool", name), None, DELETE)
        what = counted(len(orphans), "block becomes an orphan", "blocks become orphans") if orphans else "it holds nothing"
        self._note(Change("remove", "pool", name, what))
        for block in orphans:
            if not view.is_orphan(block):
                self._note(block_change("orphan", block, f"of node {block.holder}: pool {name} is gone"))
        return True

