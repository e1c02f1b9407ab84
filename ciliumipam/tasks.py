"""One task a request: what to read for it, what to write next for it, and when it has been done.

`session` runs tasks: each round it asks every open task to `step`, which looks at where things stand in the view and puts the next
writes into the common draft, all or nothing for its own part. A task that raises an error has put nothing. If the error still
stands after everything concerned was read again, the task is asked to `undo` what it had written and nobody has relied on yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import TypeAlias

from ciliumipam.addresses import draw
from ciliumipam.cidr import WIDTH, Address, Family, format_address, to_address
from ciliumipam.draft import Draft
from ciliumipam.errors import (
    AlreadyAllocatedError,
    CoolingAddressError,
    IpamError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    OutOfRangeError,
    OwnerHoldsError,
    ReservedAddressError,
)
from ciliumipam.lease import NEVER, Moment, lease_key, require
from ciliumipam.levels import AddressLevel
from ciliumipam.protocol import Call, Standing, Unsure, cancel, look, release, take
from ciliumipam.reconcile import Held, Pools, own_pool, refusals, want
from ciliumipam.records import Cooling, Holding, Key, Kind, Revision
from ciliumipam.requests import Action, Allocate, Allocation, Applied, Change, Refusal
from ciliumipam.view import NodeBlock, View, address_claims_key, block_claims_key

Blocks: TypeAlias = tuple[NodeBlock, ...]
Pieces: TypeAlias = Iterable[Holding]
Note: TypeAlias = Callable[[], Change]
"""A change, put into words only for those who read it."""


class Task:
    """What all tasks have. `now` is in seconds since the epoch.

    Attributes:
        result: What was allocated or released.
        refusals: Which pools refused which nodes.
        targets: What the call set out to end, with the node that an address is on, "" for a block; complete before anything is.
        failed: The error to raise once everything of this task's own has been taken back.
        reread: Whether everything concerned has been read again in this session.
        confirmed: Claim pages after which everything concerned was read again, with the revision that they had.
    """

    result: tuple[Allocation, ...] = ()
    failed: IpamError | None = None
    reread = False

    def __init__(self, now: float) -> None:
        self.now = now
        self.refusals: list[Refusal] = []
        self.targets: dict[Holding, str] = {}
        self.confirmed: dict[Key, Revision | None] = {}
        self._done: list[Note] = []
        self._noted: list[Note] = []

    @property
    def changes(self) -> list[Change]:
        """What was done, in words."""
        return [note() for note in self._done]

    @property
    def outcome(self) -> Applied:
        """What came of it."""
        return Applied(tuple(self.changes), tuple(self.refusals))

    def _note(self, change: Change) -> None:
        """Note what the writes of this round do."""
        self._noted.append(lambda: change)

    def step(self, view: View, draft: Draft) -> bool:
        """Put the next writes; returns whether the task is done once they are."""
        raise NotImplementedError

    def undo(self, view: View, draft: Draft) -> bool:  # noqa: ARG002 - for those that override it
        """Like `step`, once `failed` is set: take back what this task wrote and nobody relies on."""
        return True

    def settle(self, *, done: bool) -> None:
        """The writes of the round were all done, or some of them perhaps not."""
        if done:
            self._done += self._noted
        self._noted = []

    def verify(self) -> Iterable[Key]:
        """What must be read again, unless this round wrote it, before the task may call itself done."""
        return ()

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - for those that override it
        """What an error depends on: a node (with its blocks and addresses) and further records. None: all blocks and nodes."""
        return None, ()

    lists: tuple[Kind, ...] = ()
    """Kinds that must be listed before the first step, however fresh the view is."""

    def before(self, view: View) -> Iterable[Key]:  # noqa: ARG002 - for those that override it
        """Records that must be read before the first step, however fresh the view is."""
        return ()


def block_change(action: Action, block: Holding, detail: str) -> Change:
    """What is done to a block."""
    return Change(action, "block", block.piece, detail, block.holder, block.label)


# -------------------------------------------------------------------------------------------------- addresses


class AddressTask(Task):
    """What the tasks about addresses of one node share."""

    node: str

    def _block(self, level: AddressLevel, piece: Holding) -> NodeBlock:
        """The block that an address of the node is in."""
        block = level.block_of(piece.family, piece.network)
        if block is None:
            raise AssertionError(f"{piece.piece} is in no block of {self.node}")
        return block


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


@lru_cache(maxsize=1024)
def _pool_key(name: str) -> Key:
    return Key("pool", name)


@lru_cache(maxsize=1024)
def _node_keys(name: str) -> tuple[Key, Key, Key]:
    return Key("node", name), block_claims_key(name), lease_key(name)


def _allocated(node: str, piece: Holding) -> Change:
    return Change("allocate", "address", piece.piece, f"on {node} to {piece.holder}", node)


class AllocateTask(AddressTask):
    """Addresses for owners of one node.

    Args:
        request: What is asked for.
        now: What time it is.
        token: Marks the claims of this call as its own.
        given: Given addresses for a single owner, one of a family; by default that of the request.
        clock: Tells what time it is, as leases count it.

    Attributes:
        moment: What it told last; NEVER as long as the node was not seen to have a lease.
        leased: Whether the node was seen to have a lease, so that the moment counted.
    """

    def __init__(self, request: Allocate, now: float, token: str, given: Iterable[Address] = (), *, clock: Callable[[], Moment] = lambda: NEVER) -> None:
        super().__init__(now)
        self.moment, self.leased = NEVER, False
        self._clock = clock
        self.request, self.node = request, request.node
        wanted = tuple(given) or ((request.address,) if request.address is not None else ())
        self._given_numbers: dict[Family, int] = {each.version: int(each) for each in wanted}
        self._call = Call(token)
        self._verify: list[Key] = []
        self._pools: dict[Key, None] = {}

    def verify(self) -> Iterable[Key]:
        return self._verify

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.node, (lease_key(self.node), *(address_claims_key(self.node, owner) for owner in self.request.owners))

    def before(self, view: View) -> Iterable[Key]:
        """The pools of the node's blocks, the node, its claims and its lease: what is reserved and what drains may have changed."""
        pools = self._pools = dict.fromkeys([_pool_key(block.holding.label) for block in view.node_blocks(self.node)])
        return [*pools, *_node_keys(self.node)]

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        request = self.request
        lease = view.lease(self.node)
        if lease is not None and (not self.leased or lease.confirmed > self.moment.seconds):
            # asked after the lease was read: one that is renewed while a call is under way is not one of the future
            self.moment, self.leased = self._clock(), True
        require(lease, self.moment)
        level = AddressLevel(view, self.node, self.confirmed, self.now)
        blocks = level.blocks
        self._see_all_blocks(view, level)
        for block in blocks:
            block.addresses.expire(view.free.now)  # also where a look was later: which blocks it looked at must not matter
        standings = [look(draft, level, owner) for owner in request.owners]
        families = self._families(view, blocks)
        ending = [(standing, unfit) for standing in standings if (unfit := _unfit(level, standing.pending)) or standing.closing]
        if ending:
            for standing, unfit in ending:
                if standing.closing:
                    release(draft, level, standing, standing.closing)
                else:
                    cancel(draft, level, standing, unfit)
            return False
        group = len(standings) > 1
        for standing in standings:
            for piece in standing.pending:
                mark(draft, level, piece)
        plan = self._choose(view, draft, level, blocks, standings, families)
        self.result = ()
        self._verify = [lease_key(self.node)] if lease is not None else []  # its time goes on, and blocks may have left it
        for standing, chosen in plan:
            take(draft, level, standing, chosen, self._call, group=group)
            held = [piece for piece in standing.good + chosen if piece.family in families]
            if group or len(held) > 1:
                self._verify.append(standing.key)
                held.sort()
            for piece in held:
                block = self._block(level, piece)
                self._verify.append(block.ledger.key(piece.network, block.ledger.levels[-1]))
                self.result += (to_allocation(self.node, block, piece),)
            self._noted += [partial(_allocated, self.node, piece) for piece in chosen]
        return True

    def _see_all_blocks(self, view: View, level: AddressLevel) -> None:
        """Read again where the node claims a block that no page shows: another process may have given it, and drain the others."""
        key = _node_keys(self.node)[1]
        named = view.claims(key).claims.get(self.node, ())
        new = [block for block in level.blocks if _pool_key(block.holding.label) not in self._pools]  # its pool was not read yet
        if (new or len(named) != len(level.blocks)) and not level.is_confirmed(key):
            shown = [block.holding for block in level.blocks]
            raise Unsure(key, next((piece for piece in named if piece not in shown), named[0] if named else shown[0]))

    def undo(self, view: View, draft: Draft) -> bool:
        """Release what this call took, where no other call has relied on it meanwhile."""
        level = AddressLevel(view, self.node, self.confirmed)
        for owner in self.request.owners:
            standing = look(draft, level, owner)
            added = self._call.added.get(owner, ())
            # what is not filled was told to nobody; what is, only this call may take back, and only while nobody relies on it
            mine = standing.pieces if self._call.owns(standing) else standing.pending
            ending = [piece for piece in mine if piece in added]
            if ending or standing.good != standing.pieces:
                release(draft, level, standing, ending)
        return True

    def _families(self, view: View, blocks: Blocks) -> tuple[Family, ...]:
        if not blocks and self.node not in view.nodes:
            raise NotFoundError("node", self.node, tuple(sorted(view.nodes)[:8]))
        have = sorted({block.family for block in blocks})
        wanted = sorted(self._given_numbers) or ([self.request.family] if self.request.family is not None else have)
        lacking = next((family for family in wanted if family not in have), None)
        if not have or lacking is not None:
            raise NoBlockError(self.node, lacking or 0, why_no_block(view, self.node))
        return tuple(wanted)

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
        given = self._given_numbers
        goods = [(standing, {piece.family: piece for piece in standing.good}) for standing in standings]
        if not given:
            for family in families:
                missing = 0
                for _, good in goods:
                    missing += family not in good
                if missing:
                    self._check_room(view, blocks, family, missing)
        for standing, good in goods:
            chosen: list[Holding] = []
            for family in families:
                if given:
                    number = given[family]
                    if family in good and good[family].network != number:
                        raise OwnerHoldsError(standing.holder, good[family].piece, format_address(family, number))
                    if family not in good:
                        chosen.append(self._given(view, draft, level, blocks, standing.holder, family, number))
                elif family not in good:
                    chosen.append(self._pick(view, draft, level, blocks, standing.holder, family))
            plan.append((standing, tuple(chosen)))
        return plan

    def _pick(self, view: View, draft: Draft, level: AddressLevel, blocks: Blocks, owner: str, family: Family) -> Holding:
        for block in blocks:
            if block.serves and block.family == family:
                number = block.addresses.pick(self._draw(view, block, owner))
                if number is not None:
                    view.propose(block, number)
                    block.addresses.occupy(number)
                    draft.undo.append(partial(block.addresses.vacate, number))
                    return level.next(draft, block, number, owner, self.request.label, self.now)
        raise AssertionError("the room was checked before")

    def _draw(self, view: View, block: NodeBlock, owner: str) -> int:
        """What a random choice starts from; every other policy needs nothing."""
        return draw(view.pools[block.holding.label].spec.seed, owner) if block.addresses.policy == "random" else 0

    def _check_room(self, view: View, blocks: Blocks, family: Family, wanted: int) -> None:
        serving = [block for block in blocks if block.serves and block.family == family]
        if not serving:
            raise NoBlockError(self.node, family, why_no_block(view, self.node))
        room = 0
        for block in serving:
            room += block.addresses.available
        if wanted > room:
            indexes = [block.addresses for block in serving]
            capacity, in_use, reserved, cooling = (
                sum(column) for column in zip(*((i.capacity, i.in_use, i.reserved, i.cooling) for i in indexes), strict=True)
            )
            due = min((i.cools_until for i in indexes if i.cools_until is not None), default=None)
            names = tuple(block.holding.piece for block in serving)
            raise NodeExhaustedError(self.node, family, names, capacity, in_use, reserved, wanted, cooling, due)

    def _given(
        self, view: View, draft: Draft, level: AddressLevel, blocks: Blocks, owner: str, family: Family, number: int
    ) -> Holding:
        text = format_address(family, number)
        block = level.block_of(family, number)
        if block is None:
            valid = tuple(each.holding.piece for each in blocks if each.holding.family == family)
            raise OutOfRangeError(text, f"the blocks of node {self.node!r}", valid)
        if not block.serves:
            raise NoBlockError(self.node, family, why_no_block(view, self.node))
        if block.addresses.is_reserved(number):
            raise ReservedAddressError(text, f"it is reserved in block {block.holding.piece}, or the first or last of it")
        spot = draft.locate(block.ledger, block.holding.fence, number, WIDTH[family])
        slot = spot.page.slots[spot.start] if spot is not None else 0
        if type(slot) is Holding:
            raise AlreadyAllocatedError(text, slot.holder, slot.label)
        if type(slot) is Cooling and slot.until > self.now:
            raise CoolingAddressError(text, slot.until)
        return level.next(draft, block, number, owner, self.request.label, self.now)


def _unfit(level: AddressLevel, pending: tuple[Holding, ...]) -> tuple[Holding, ...]:
    """Of what a crashed call claimed and did not fill, what may not be given out any more."""
    found = []
    for piece in pending:
        block = level.block_of(piece.family, piece.network)
        if block is None or not block.serves or block.addresses.is_reserved(piece.network):
            found.append(piece)
    return tuple(found)


def mark(draft: Draft, level: AddressLevel, piece: Holding) -> None:
    """Keep others of this round from picking an address that a claim names and no page shows yet."""
    block = level.block_of(piece.family, piece.network)
    if block is None or block.addresses.until(piece.network) is not None:
        return  # what cools is not picked anyway
    if block.addresses.occupy(piece.network):
        draft.undo.append(partial(block.addresses.vacate, piece.network))


def why_no_block(view: View, node: str) -> tuple[str, ...]:
    """Pool by pool why a node has no block, or why its block gives nothing."""
    held = view.claims(block_claims_key(node)).claims.get(node, ())
    orphans = [
        f"block {block.piece} is an orphan: "
        + (f"pool {block.label!r} is gone or no longer covers it" if block.label else "no pool covers it")
        + ", so it takes nothing new"
        for block in held
        if view.is_orphan(block)
    ]
    lease = view.lease(node)
    named = {(each.space, each.prefix) for each in lease.blocks} if lease is not None else None
    orphans += [
        f"block {block.piece} is not in the node's lease: it was lost, or is on its way back, so it takes nothing new"
        for block in held
        if named is not None and block.place not in named
    ]
    record = view.nodes.get(node)
    if record is None:
        return (*orphans, "the node is not known; apply it")
    if record.draining:
        return (*orphans, "the node is draining; let it take new ones again with 'ciliumipam drain node --cancel'")
    pools = Pools.of(view)
    claims = Held(held, view.claims(block_claims_key(node)).draining)
    wanted = want(record, pools, claims)
    if wanted.offers:
        return (*orphans, f"pool {wanted.offers[0].pool.name} serves it, but had no free block; see 'ciliumipam explain {node}'")
    own = own_pool(pools, claims)
    if own is not None and not wanted.refusals:
        return (*orphans, f"pool {own.name} has no CIDR of that family")
    return (*orphans, *(str(refusal) for refusal in refusals(record.node, pools)))
