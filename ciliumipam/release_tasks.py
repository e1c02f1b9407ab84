"""The tasks that release addresses: all of an owner's, or one under a fence or by force."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from ciliumipam.cidr import WIDTH, Family, format_address, parse_address
from ciliumipam.draft import Draft
from ciliumipam.errors import NotFoundError, NotHeldError, StaleFenceError
from ciliumipam.ledger import ROOT_FENCE, Pages, Status, fence_of, free, locate, status
from ciliumipam.levels import AddressLevel
from ciliumipam.protocol import Standing, Unsure, look, release
from ciliumipam.records import Holding, Key
from ciliumipam.requests import Allocation, Change, ForceRelease, Release, ReleaseFenced
from ciliumipam.tasks import AddressTask, Pieces, to_allocation
from ciliumipam.view import View, address_claims_key


def _released(node: str, piece: Holding) -> Change:
    return Change("release", "address", piece.piece, f"on {node} from {piece.holder}", node)


def _is_held(pages: Pages, level: AddressLevel, piece: Holding) -> bool:
    place = level.ledger_of(piece)
    return place is not None and status(pages, *place, piece) is Status.HELD


class EndTask(AddressTask):
    """What the tasks that release addresses share.

    Such a task ends what it found at its beginning, and does not pursue what other calls allocate meanwhile. `result` has what
    was held when this call ended it, and is not any more.
    """

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self._ending: dict[Holding, Allocation] = {}

    def settle(self, *, done: bool) -> None:
        super().settle(done=done)
        if done and self._ending:
            self._ended(self._ending)

    def _ended(self, pieces: Pieces) -> None:
        self.result += tuple([self._ending.pop(piece) for piece in sorted(pieces)])

    def _end(self, draft: Draft, level: AddressLevel, standing: Standing, pieces: Pieces) -> None:
        # of what is marked as closing some was never held: nobody is told that it was released
        held = standing.held + tuple([piece for piece in standing.closing if _is_held(level.pages, level, piece)])
        if self._ending:
            self._ended([piece for piece in self._ending if piece.holder == standing.holder and piece not in held])
        ending = [piece for piece in standing.pieces if piece in pieces]
        if not ending:
            return
        self.targets.update(dict.fromkeys(ending, self.node))
        try:
            release(draft, level, standing, ending)
        finally:  # it may put a part only, and leave the rest to the next round
            for piece in ending:
                if piece in held and piece not in self._ending and not _is_held(draft, level, piece):
                    self._ending[piece] = to_allocation(self.node, self._block(level, piece), piece)
                    self._noted.append(partial(_released, self.node, piece))


class ReleaseTask(EndTask):
    """All addresses of owners of one node."""

    def __init__(self, request: Release, now: float) -> None:
        super().__init__(now)
        self.request, self.node = request, request.node
        self._found: dict[str, tuple[Holding, ...]] = {}

    def before(self, view: View) -> Iterable[Key]:  # noqa: ARG002 - see the base
        """What the owners hold now."""
        return [address_claims_key(self.node, owner) for owner in self.request.owners]

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.node, tuple(address_claims_key(self.node, owner) for owner in self.request.owners)

    def step(self, view: View, draft: Draft) -> bool:
        level = AddressLevel(view, self.node, self.confirmed, self.now)
        if not level.blocks and self.node not in view.nodes:
            raise NotFoundError("node", self.node, tuple(sorted(view.nodes)[:8]))
        standings = [look(draft, level, owner) for owner in self.request.owners]
        for standing in standings:
            found = self._found.get(standing.holder, ())
            # what joined the claim while something of it was still held goes with it: whoever added it counts on both
            if standing.pieces and (not found or any(piece in found for piece in standing.pieces)):
                self._found[standing.holder] = (*found, *standing.pieces)
        unknown = [owner for owner in self.request.owners if owner not in self._found]
        if unknown and not self.request.missing_ok:
            raise NotFoundError(f"allocation on node {self.node!r} for owner", unknown[0])
        for standing in standings:
            self._end(draft, level, standing, self._found.get(standing.holder, ()))
        return True


class ReleaseAddressTask(EndTask):
    """One address, under a fence or by force."""

    def __init__(self, request: ReleaseFenced | ForceRelease, now: float) -> None:
        super().__init__(now)
        self.request = request
        self.node = ""
        self._family, self._number = parse_address(request.address)
        self._fence = request.fence if isinstance(request, ReleaseFenced) else None
        self._target: Holding | None = None

    def before(self, view: View) -> Iterable[Key]:
        """The pages that decide the address now."""
        outer = block_over(view, self.request.space, self._family, self._number)
        if outer is None:
            return ()
        ledger = view.address_ledger(outer)
        return [ledger.key(self._number, level) for level in ledger.levels]

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        keys = () if self._target is None else (address_claims_key(self.node, self._target.holder),)
        return self.node or None, keys

    def step(self, view: View, draft: Draft) -> bool:
        text = format_address(self._family, self._number)
        outer = block_over(view, self.request.space, self._family, self._number)
        if outer is None:
            raise NotHeldError(text, f"it is in no block that a node holds in the address space {self.request.space!r}")
        level = AddressLevel(view, outer.holder, self.confirmed, self.now)
        block = level.block_of(self._family, self._number)
        if block is None:
            self.node = ""  # somebody else may have the block by now: then all blocks have to be read again, not those of this node
            raise NotHeldError(text, f"its block {outer.piece} is on its way back, empty")
        self.node = outer.holder
        spot = draft.locate(block.ledger, block.holding.fence, self._number, WIDTH[self._family])
        slot = spot.page.slots[spot.start] if spot is not None else 0
        if self._target is None:
            if type(slot) is not Holding and (self._fence is None or not slot):
                raise NotHeldError(text, "nobody holds it")
            if type(slot) is not Holding or self._fence not in (None, slot.fence):
                raise StaleFenceError(text, self._fence or 0, fence_of(slot))
            self._target = slot
        standing = look(draft, level, self._target.holder)
        if slot == self._target and slot not in standing.pieces:  # nobody claims it: only a damaged store shows that
            if not level.is_confirmed(standing.key):
                raise Unsure(standing.key, slot)
            self._ending[slot] = to_allocation(self.node, block, slot)
            self.targets[slot] = self.node
            free(draft, block.ledger, block.holding.fence, slot, slot.fence, level.cools_until(slot))
            return True
        self._end(draft, level, standing, (self._target,))
        if not self._ending and not self.result:
            raise NotHeldError(text, "somebody else released it just now")
        return True


def block_over(view: View, space: str, family: Family, number: int) -> Holding | None:
    """The block that has an address, whoever holds it."""
    spot = locate(view, view.block_ledger(family, space), ROOT_FENCE, number, WIDTH[family])
    if spot is None or spot.covered_by is not None:
        return spot.covered_by if spot is not None else None
    slot = spot.page.slots[spot.start]
    return slot if type(slot) is Holding else None
