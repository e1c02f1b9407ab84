"""The tasks that finish or undo what crashed calls left behind, and give claims back to what lost them in a damaged store.

Nothing that counts as held is freed here: a holding without a claim gets its claim again, so that its holder can release it.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from ciliumipam.draft import CLAIM, UNCLAIM, Draft
from ciliumipam.ledger import holdings
from ciliumipam.levels import AddressLevel, BlockLevel
from ciliumipam.protocol import Standing, cancel, forget, look, release
from ciliumipam.records import ClaimPage, Holding, Key
from ciliumipam.requests import Change
from ciliumipam.tasks import AddressTask, Task, block_change
from ciliumipam.view import View, address_claims_key, address_claims_keys, block_claims_key


class RepairBlocks(NamedTuple):
    """Asked by `Ipam.repair`, of nobody else: `RepairBlocksTask`."""


class RepairAddresses(NamedTuple):
    """Asked by `Ipam.repair`, of nobody else: `RepairAddressesTask`."""

    node: str


Repair: TypeAlias = RepairBlocks | RepairAddresses


def _claim_again(draft: Draft, key: Key, pieces: Iterable[Holding]) -> None:
    """Name pieces in the claims of who holds them."""
    claims = draft.claims(key)
    changed = dict(claims.claims)
    for piece in pieces:
        changed[piece.holder] = (*changed.get(piece.holder, ()), piece)
    draft.put(key, ClaimPage(MappingProxyType(changed), claims.tentative, claims.closing, claims.draining), CLAIM)


def _repaired(block: Holding, what: str) -> Change:
    return block_change("repair", block, f"of {block.holder}: {what}")


class RepairBlocksTask(Task):
    """Blocks: those that no claim names, those that somebody began to take back, and what a node that is gone had only begun to take.

    An apply finishes what was begun for nodes that are known.
    """

    lists = ("pool", "node", "block-claims", "block-page")

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        lost: dict[Key, list[Holding]] = {}
        for block in view.blocks():
            key = block_claims_key(block.holder)
            if block not in view.claims(key).claims.get(block.holder, ()):
                lost.setdefault(key, []).append(block)
        for key, blocks in lost.items():
            _claim_again(draft, key, blocks)
            for block in blocks:
                self._note(_repaired(block, "no claim named it; it does again"))
        if draft:
            return False
        level = BlockLevel(view, self.confirmed, self.now)
        for name in sorted({name for key in view.entries if key.kind == "block-claims" for name in view.claims(key).claims}):
            self._finish(view, draft, level, look(draft, level, name))
        return True

    def _finish(self, view: View, draft: Draft, level: BlockLevel, standing: Standing) -> None:
        gone = standing.holder not in view.nodes
        ending = (*standing.closing, *(standing.pending if gone else ()))
        dead = [piece for piece in standing.pieces if piece not in (*standing.good, *standing.closing)] if gone else []
        if ending:
            release(draft, level, standing, ending)
        elif dead:
            forget(draft, standing, dead, UNCLAIM)
        for piece in ending:
            what = "it was being given back; it is now" if piece in standing.closing else "the node is gone; what was begun for it is undone"
            self._note(_repaired(piece, what))
        for piece in dead:
            self._note(_repaired(piece, "a claim named it that came to nothing; it is forgotten"))


class RepairAddressesTask(AddressTask):
    """The addresses of one node."""

    lists = ("pool", "node", "block-claims", "block-page")

    def __init__(self, node: str, now: float) -> None:
        super().__init__(now)
        self.node = node

    def before(self, view: View) -> Iterable[Key]:
        blocks = [block.holding for block in view.node_blocks(self.node)]
        return [*address_claims_keys(self.node), *(key for block in blocks for key in view.address_pages(block))]

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.node, tuple(address_claims_keys(self.node))

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        level = AddressLevel(view, self.node, self.confirmed, self.now)
        lost: dict[Key, list[Holding]] = {}
        for block in level.blocks:
            for piece in holdings(view, block.ledger, block.holding.fence):
                key = address_claims_key(self.node, piece.holder)
                named = view.claims(key).claims.get(piece.holder, ())
                if piece not in named and all(other.family != piece.family for other in named):
                    lost.setdefault(key, []).append(piece)
        for key, pieces in lost.items():
            _claim_again(draft, key, pieces)
            for piece in pieces:
                self._note(self._repaired(piece, "no claim named it; it does again"))
        if draft:
            return False
        for key in address_claims_keys(self.node):
            for owner in sorted(draft.claims(key).claims):
                self._finish(draft, level, look(draft, level, owner))
        return not draft  # a claim may have to be looked at once more

    def _finish(self, draft: Draft, level: AddressLevel, standing: Standing) -> None:
        ending = standing.closing or standing.pending
        dead = [piece for piece in standing.pieces if piece not in (*standing.held, *standing.closing, *standing.pending)]
        if standing.closing:
            release(draft, level, standing, standing.closing)
        elif ending or dead:
            cancel(draft, level, standing, standing.pending)
        for piece in ending:
            what = "its release was begun; it is done" if piece in standing.closing else "a call was cut short; what it began is undone"
            self._note(self._repaired(piece, what))
        for piece in dead:
            self._note(self._repaired(piece, "a claim named it that came to nothing; it is forgotten"))

    def _repaired(self, piece: Holding, what: str) -> Change:
        return Change("repair", "address", piece.piece, f"of {piece.holder}: on {self.node}, {what}", self.node)
