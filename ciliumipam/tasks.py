"""One task a request: what to read for it, what to write next for it, and when it has been done.

`session` runs tasks: each round it asks every open task to `step`, which looks at where things stand in the view and puts the next
writes into the common draft, all or nothing for its own part. A task that raises an error has put nothing. If the error still
stands after everything concerned was read again, the task is asked to `undo` what it had written and nobody has relied on yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from ciliumipam.cidr import WIDTH, Family, format_address, parse_address, to_address
from ciliumipam.draft import Draft
from ciliumipam.errors import (
    AlreadyAllocatedError,
    IpamError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    OutOfRangeError,
    OwnerHoldsError,
    ReservedAddressError,
    StaleFenceError,
)
from ciliumipam.ledger import ROOT_FENCE, fence_of, free, locate
from ciliumipam.levels import AddressLevel
from ciliumipam.protocol import Call, Standing, look, release, take
from ciliumipam.reconcile import Pools, refusals, want
from ciliumipam.records import Holding, Key
from ciliumipam.requests import Allocate, Allocation, Change, ForceRelease, Refusal, Release, ReleaseFenced
from ciliumipam.view import NodeBlock, View, address_claims_key, block_claims_key

Blocks: TypeAlias = tuple[NodeBlock, ...]
Pieces: TypeAlias = Iterable[Holding]


class Task:
    """What all tasks have. `now` is in seconds since the epoch.

    Attributes:
        result: What was allocated or released.
        changes: What was done, in words.
        refusals: Which pools refused which nodes.
        failed: The error to raise once everything of this task's own has been taken back.
        reread: Whether everything concerned has been read again in this session.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self.result: tuple[Allocation, ...] = ()
        self.changes: list[Change] = []
        self.refusals: list[Refusal] = []
        self.failed: IpamError | None = None
        self.reread = False
        self._noted: list[Change] = []

    def step(self, view: View, draft: Draft) -> bool:
        """Put the next writes; returns whether the task is done once they are."""
        raise NotImplementedError

    def undo(self, view: View, draft: Draft) -> bool:  # noqa: ARG002 - for those that override it
        """Like `step`, once `failed` is set: take back what this task wrote and nobody relies on."""
        return True

    def settle(self, *, done: bool) -> None:
        """The writes of the round were all done, or some of them perhaps not."""
        if done:
            self.changes += self._noted
        self._noted.clear()

    def verify(self, view: View) -> Iterable[Key]:  # noqa: ARG002 - for those that override it
        """What must be read again, unless this round wrote it, before the task may call itself done."""
        return ()

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - for those that override it
        """What an error depends on: a node (with its blocks and addresses) and further records. None: all blocks and nodes."""
        return None, ()

    def before(self, view: View) -> Iterable[Key]:  # noqa: ARG002 - for those that override it
        """What must be read before the first step, however fresh the view is."""
        return ()


# -------------------------------------------------------------------------------------------------- addresses


class AddressTask(Task):
    """What the tasks about addresses of one node share."""

    node: str

    def _allocation(self, view: View, piece: Holding, blocks: Iterable[NodeBlock]) -> Allocation:
        for block in blocks:
            held = block.holding
            if held.family == piece.family and held.prefix.covers(piece.prefix):
                return to_allocation(self.node, block, piece)
        raise AssertionError(f"{piece.piece} is in no block of {self.node}")

    def before(self, view: View) -> Iterable[Key]:
        """The pools of the node's blocks: what they reserve may have changed."""
        return {Key("pool", block.holding.label) for block in view.node_blocks(self.node)}


def to_allocation(node: str, block: NodeBlock, piece: Holding) -> Allocation:
    """A holding of an address as users see it."""
    return Allocation(
        node,
        piece.holder,
        piece.label,
        block.holding.label,
        block.network,
        to_address(piece.family, piece.network),
        piece.family,
        piece.fence,
        piece.since,
    )


class AllocateTask(AddressTask):
    """Addresses for owners of one node."""

    def __init__(self, request: Allocate, now: float) -> None:
        super().__init__(now)
        self.request, self.node = request, request.node
        self._call = Call()
        self._verify: list[Key] = []

    def settle(self, *, done: bool) -> None:
        super().settle(done=done)
        self._call.settle(done=done)

    def verify(self, view: View) -> Iterable[Key]:  # noqa: ARG002 - see the base
        return self._verify

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.node, tuple(address_claims_key(self.node, owner) for owner in self.request.owners)

    def step(self, view: View, draft: Draft) -> bool:
        request = self.request
        blocks = view.node_blocks(self.node)
        level = AddressLevel(self.node, blocks)
        standings = [look(draft, level, owner) for owner in request.owners]
        families = self._families(view, blocks)
        if closing := [standing for standing in standings if standing.closing]:
            for standing in closing:
                release(draft, level, standing, standing.closing)
            return False
        group = len(standings) > 1
        plan = self._choose(view, draft, level, blocks, standings, families)
        self.result = ()
        self._verify = []
        for standing, chosen in plan:
            take(draft, level, standing, chosen, self._call, group=group)
            pieces = [piece for piece in standing.good + chosen if piece.family in families]
            if group or len(pieces) > 1:
                self._verify.append(standing.key)
            self._verify += [key for piece in pieces if (key := level.page_key(piece)) is not None]
            pieces.sort()
            self.result += tuple([self._allocation(view, piece, blocks) for piece in pieces])
            for piece in chosen:
                self._noted.append(Change("allocate", "address", piece.piece, f"on {self.node} to {piece.holder}"))
        return True

    def undo(self, view: View, draft: Draft) -> bool:
        """Release what this call took, where no other call has relied on it meanwhile."""
        level = AddressLevel(self.node, view.node_blocks(self.node))
        for owner in self.request.owners:
            standing = look(draft, level, owner)
            added = self._call.added.get(owner, ())
            if self._call.owns(standing):
                release(draft, level, standing, [piece for piece in standing.pieces if piece in added])
            elif standing.closing and set(standing.closing) <= set(added):
                release(draft, level, standing, standing.closing)
        return True

    def _families(self, view: View, blocks: Blocks) -> tuple[Family, ...]:
        request = self.request
        if not blocks and self.node not in view.nodes:
            raise NotFoundError("node", self.node, tuple(sorted(view.nodes)[:8]))
        have = sorted({block.holding.family for block in blocks})
        wanted = request.address.version if request.address is not None else request.family
        if not have or (wanted is not None and wanted not in have):
            raise NoBlockError(self.node, wanted or 0, why_no_block(view, self.node))
        return tuple(have) if wanted is None else (wanted,)

    def _choose(
        self,
        view: View,
        draft: Draft,
        level: AddressLevel,
        blocks: Blocks,
        standings: list[Standing],
        families: tuple[Family, ...],
    ) -> list[tuple[Standing, tuple[Holding, ...]]]:
        """What each owner gets in addition; puts nothing into the draft but marks in the free indexes."""
        plan = []
        missing = {family: 0 for family in families}
        for standing in standings:
            good = {piece.family: piece for piece in standing.good}
            for family in families:
                missing[family] += family not in good
        for standing in standings:
            good = {piece.family: piece for piece in standing.good}
            chosen = []
            for family in families:
                if self.request.address is not None:
                    number = int(self.request.address)
                    if family in good and good[family].network != number:
                        raise OwnerHoldsError(standing.holder, good[family].piece, str(self.request.address))
                    if family not in good:
                        chosen.append(self._given(draft, level, blocks, standing.holder, family, number))
                elif family not in good:
                    chosen.append(self._pick(view, draft, level, blocks, standing.holder, family, missing[family]))
                    missing[family] -= 1
            plan.append((standing, tuple(chosen)))
        return plan

    def _pick(
        self, view: View, draft: Draft, level: AddressLevel, blocks: Blocks, owner: str, family: Family, wanted: int
    ) -> Holding:
        for block in blocks:
            if block.holding.family == family and not view.is_orphan(block.holding):
                number = block.addresses.pick()
                if number is not None:
                    block.addresses.occupy(number)
                    draft.undo.append(lambda: block.addresses.vacate(number))
                    return level.next(draft, block, number, owner, self.request.label, self.now)
        mine = [block for block in blocks if block.holding.family == family]
        if all(view.is_orphan(block.holding) for block in mine):
            raise NoBlockError(self.node, family, why_no_block(view, self.node))
        counts = [(block.addresses.capacity, block.addresses.in_use, block.addresses.reserved) for block in mine]
        capacity, in_use, reserved = (sum(column) for column in zip(*counts, strict=True))
        taken = len(draft.undo)  # picked for the other owners of this call, and for those of others decided with it
        names = tuple(block.holding.piece for block in mine)
        raise NodeExhaustedError(self.node, family, names, capacity, in_use - min(taken, in_use), reserved, wanted)

    def _given(
        self, draft: Draft, level: AddressLevel, blocks: Blocks, owner: str, family: Family, number: int
    ) -> Holding:
        text = format_address(family, number)
        block = level.block_of(family, number)
        if block is None:
            valid = tuple(each.holding.piece for each in blocks if each.holding.family == family)
            raise OutOfRangeError(text, f"the blocks of node {self.node!r}", valid)
        if block.addresses.is_reserved(number):
            raise ReservedAddressError(text, f"it is reserved in block {block.holding.piece}, or the first or last of it")
        spot = locate(draft, block.ledger, block.holding.fence, number, WIDTH[family])
        slot = spot.page.slots[spot.start] if spot is not None else 0
        if type(slot) is Holding:
            raise AlreadyAllocatedError(text, slot.holder, slot.label)
        return level.next(draft, block, number, owner, self.request.label, self.now)


def why_no_block(view: View, node: str) -> tuple[str, ...]:
    """Pool by pool why a node has no block, or why its block gives nothing."""
    held = view.claims(block_claims_key(node)).claims.get(node, ())
    orphans = [
        f"block {block.piece} is an orphan: pool {block.label!r} is gone or no longer covers it, so it takes nothing new"
        for block in held
        if view.is_orphan(block)
    ]
    record = view.nodes.get(node)
    if record is None:
        return (*orphans, "the node is not known; apply it")
    pools = Pools(view.pools.values())
    wanted = want(record.node, pools, held)
    if wanted.pool is not None:
        if wanted.families:
            return (*orphans, f"pool {wanted.pool.name} serves it, but had no free block; see 'ciliumipam explain {node}'")
        return (*orphans, f"pool {wanted.pool.name} has no CIDR of that family")
    return (*orphans, *(str(refusal) for refusal in refusals(record.node, pools)))


class EndTask(AddressTask):
    """What the tasks that release addresses share: `result` has what this call ended, once the ledger shows it."""

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self._ending: list[Allocation] = []

    def settle(self, *, done: bool) -> None:
        super().settle(done=done)
        if done:
            self.result += tuple(self._ending)
        self._ending.clear()

    def _end(self, view: View, draft: Draft, level: AddressLevel, blocks: Blocks, standing: Standing, pieces: Pieces) -> None:
        for piece in pieces:
            if piece in standing.held or piece in standing.closing:
                self._ending.append(self._allocation(view, piece, blocks))
                self._noted.append(Change("release", "address", piece.piece, f"on {self.node} from {piece.holder}"))
        release(draft, level, standing, pieces)


class ReleaseTask(EndTask):
    """All addresses of owners of one node."""

    def __init__(self, request: Release, now: float) -> None:
        super().__init__(now)
        self.request, self.node = request, request.node
        self._seen: set[str] = set()

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.node, tuple(address_claims_key(self.node, owner) for owner in self.request.owners)

    def step(self, view: View, draft: Draft) -> bool:
        blocks = view.node_blocks(self.node)
        if not blocks and self.node not in view.nodes:
            raise NotFoundError("node", self.node, tuple(sorted(view.nodes)[:8]))
        level = AddressLevel(self.node, blocks)
        standings = [look(draft, level, owner) for owner in self.request.owners]
        unknown = [each.holder for each in standings if not each.pieces and each.holder not in self._seen]
        if unknown and not self.request.missing_ok:
            raise NotFoundError(f"allocation on node {self.node!r} for owner", unknown[0])
        for standing in standings:
            if standing.pieces:
                self._seen.add(standing.holder)
                self._end(view, draft, level, blocks, standing, standing.pieces)
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

    def before(self, view: View) -> Iterable[Key]:  # noqa: ARG002 - see the base
        return ()

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.node or None, ()

    def step(self, view: View, draft: Draft) -> bool:
        text = format_address(self._family, self._number)
        outer = block_over(view, self._family, self._number)
        if outer is None:
            raise NotHeldError(text, "it is in no block that a node holds")
        self.node = outer.holder
        blocks = view.node_blocks(self.node)
        level = AddressLevel(self.node, blocks)
        block = level.block_of(self._family, self._number)
        if block is None:
            raise NotHeldError(text, f"its block {outer.piece} is on its way back, empty")
        spot = locate(draft, block.ledger, block.holding.fence, self._number, WIDTH[self._family])
        slot = spot.page.slots[spot.start] if spot is not None else 0
        if self._target is None:
            if type(slot) is not Holding and (self._fence is None or not slot):
                raise NotHeldError(text, "nobody holds it")
            if type(slot) is not Holding or self._fence not in (None, slot.fence):
                raise StaleFenceError(text, self._fence or 0, fence_of(slot))
            self._target = slot
        standing = look(draft, level, self._target.holder)
        if self._target in standing.pieces:
            self._end(view, draft, level, blocks, standing, (self._target,))
        elif slot == self._target:  # nobody claims it: only a damaged store shows that
            self._ending.append(self._allocation(view, slot, blocks))
            free(draft, block.ledger, block.holding.fence, slot)
        elif not self.result:
            raise NotHeldError(text, "somebody else released it just now")
        return True


def block_over(view: View, family: Family, number: int) -> Holding | None:
    """The block that has an address, whoever holds it."""
    spot = locate(view, view.block_ledgers[family], ROOT_FENCE, number, WIDTH[family])
    if spot is None or spot.covered_by is not None:
        return spot.covered_by if spot is not None else None
    slot = spot.page.slots[spot.start]
    return slot if type(slot) is Holding else None
