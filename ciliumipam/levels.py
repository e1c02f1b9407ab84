"""The two levels of the ledger, as `protocol` sees them: blocks of nodes, and addresses of one node's owners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ciliumipam.cidr import Prefix
from ciliumipam.draft import Draft
from ciliumipam.errors import CorruptRecordError
from ciliumipam.ledger import ROOT_FENCE, Ledger, Pages, close, next_fence
from ciliumipam.records import ClaimPage, Cooling, Holding, Key, Revision
from ciliumipam.view import NodeBlock, View, address_claims_key, block_claims_key

Confirmed: TypeAlias = Mapping[Key, Revision | None]
"""Claim pages after which everything was read again, with the revision that they had."""


class BlockLevel:
    """Nodes take blocks out of the block ledgers, whose root is never closed.

    Args:
        now: What a block that is given back starts to cool from.
        force: Whether a block is taken back with addresses in use, which are dropped.
    """

    marks = False  # each block goes back by itself; that its address ledger is closed is the mark

    def __init__(self, view: View, confirmed: Confirmed, now: float, *, force: bool = False) -> None:
        self.pages: Pages = view
        self._view, self._confirmed, self._now, self._force = view, confirmed, now, force

    def is_confirmed(self, key: Key) -> bool:
        """Whether the task had the blocks read again after the claim page as it is now."""
        return key in self._confirmed and self._confirmed[key] == self._view.revision(key)

    def claims_key(self, holder: str) -> Key:
        """Where the claims of a node are kept."""
        return block_claims_key(holder)

    def ledger_of(self, piece: Holding) -> tuple[Ledger, int]:
        """The block ledger of the family."""
        return self._view.block_ledger(piece.family, piece.space), ROOT_FENCE

    def is_closing(self, piece: Holding, claims: ClaimPage) -> bool:  # noqa: ARG002 - the other level looks there
        """Whether the block's address ledger is closed."""
        return self._view.is_closed(piece)

    def close_below(self, draft: Draft, piece: Holding) -> int:
        """Close the block's address ledger."""
        ledger = self._view.address_ledger(piece)
        until = self._view.cools_until(piece.label, self._now)
        return close(draft, ledger, piece.length, piece.network, piece.fence, force=self._force, until=until)

    def cools_until(self, piece: Holding) -> float | None:
        """As long from now as its pool says, and as long as an address in it cools that was released before."""
        until = self._view.cools_until(piece.label, self._now)
        times = [until] if until is not None else []
        for key in self._view.address_pages(piece):
            page = self._view.page(key)
            times += [slot.until for slot in page.slots if type(slot) is Cooling and slot.until > self._now] if page is not None else ()
        return max(times, default=None)

    def next(self, draft: Draft, node: str, pool: str, space: str, prefix: Prefix) -> Holding:
        """The holding that a node would get of a block that the carver calls free."""
        ledger = self._view.block_ledger(prefix.family, space)
        fence = _next(draft, ledger, ROOT_FENCE, prefix.network, prefix.length)
        return Holding(*prefix, fence, node, pool, self._now, space)

    def is_free(self, draft: Draft, space: str, prefix: Prefix) -> bool:
        """Whether nothing of a block is held, by what the pages say."""
        ledger = self._view.block_ledger(prefix.family, space)
        spot = draft.locate(ledger, ROOT_FENCE, prefix.network, prefix.length)
        return spot is not None and next_fence(draft, ledger, spot) is not None


class AddressLevel:
    """Owners take addresses out of the blocks of one node.

    Args:
        now: What an address that is released starts to cool from; None where nobody was ever told of it.

    Attributes:
        blocks: The node's blocks, in the order in which it got them.
    """

    marks = True

    def __init__(self, view: View, node: str, confirmed: Confirmed, now: float | None = None) -> None:
        self.pages: Pages = view
        self._view, self._node, self._confirmed, self._now = view, node, confirmed, now
        self.blocks = view.node_blocks(node)

    def is_confirmed(self, key: Key) -> bool:
        """Whether the task had the node read again after the claim page as it is now."""
        return key in self._confirmed and self._confirmed[key] == self._view.revision(key)

    def claims_key(self, holder: str) -> Key:
        """Where the claims of an owner on this node are kept."""
        return address_claims_key(self._node, holder)

    def block_of(self, family: int, number: int) -> NodeBlock | None:
        """The node's block that has an address."""
        for block in self.blocks:
            if block.first <= number <= block.last and block.family == family:
                return block
        return None

    def ledger_of(self, piece: Holding) -> tuple[Ledger, int] | None:
        """The address ledger of the block that has the address, if the node still has that block."""
        block = self.block_of(piece.family, piece.network)
        # the same prefix of another address space is another ledger, whose fences say nothing of this piece
        return (block.ledger, block.holding.fence) if block is not None and block.holding.space == piece.space else None

    def is_closing(self, piece: Holding, claims: ClaimPage) -> bool:
        """Whether the claim marks the address so."""
        return piece in claims.closing if claims.closing else False

    def close_below(self, draft: Draft, piece: Holding) -> int:  # noqa: ARG002 - the other level has something there
        """Nothing lies below an address."""
        return piece.fence

    def cools_until(self, piece: Holding) -> float | None:
        """As long from now as the pool of its block says."""
        block = self.block_of(piece.family, piece.network) if self._now is not None else None
        return self._view.cools_until(block.holding.label, self._now) if block is not None and self._now is not None else None

    def next(self, draft: Draft, block: NodeBlock, number: int, owner: str, label: str, now: float) -> Holding:
        """The holding that an owner would get of an address that the free index calls free."""
        ledger = block.ledger
        fence = _next(draft, ledger, block.holding.fence, number, ledger.width)
        return Holding(block.family, number, ledger.width, fence, owner, label, now, block.holding.space)


def _next(draft: Draft, ledger: Ledger, root_fence: int, network: int, length: int) -> int:
    """The fence that a new holding of a piece would get."""
    spot = draft.locate(ledger, root_fence, network, length)
    fence = next_fence(draft, ledger, spot) if spot is not None else None
    if fence is None:
        piece = Holding(ledger.family, network, length, 0, "", "", 0).piece
        raise CorruptRecordError(piece, "the pages show it as held, but it was found free")
    return fence
