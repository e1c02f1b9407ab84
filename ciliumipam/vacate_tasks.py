"""Emptying a part of a pool: giving it up for good (`shrink`), or getting a large free prefix back (`rebalance`).

Both let the blocks that lie there drain, give their nodes others out of the rest of the pool, and take back what is empty. What is not
is told as blockers, and nothing held is ever freed. Asked again, they go on.

`shrink` also closes the part: it puts it into the pool's reserved ranges, so that nothing new is carved there between two calls. A
block whose node has no other one yet is left out of that, and goes on serving. When the part is empty, it leaves the pool's CIDRs.
`rebalance` keeps the space in the pool, so nothing is written but what drains: what others carve there meanwhile is moved as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from ciliumipam.adopt import leave_out
from ciliumipam.cidr import Prefix, range_to_prefixes
from ciliumipam.draft import RECORD, Draft
from ciliumipam.drain_tasks import TakeBackTask
from ciliumipam.errors import InvalidRequestError, IpamError, NotFoundError, OutOfRangeError
from ciliumipam.levels import BlockLevel
from ciliumipam.pool import PoolSpec
from ciliumipam.protocol import look
from ciliumipam.ranges import Range, merge_ranges
from ciliumipam.rebalance import Region, choose_region
from ciliumipam.reconcile import Pools
from ciliumipam.records import Holding, Key, PoolRecord
from ciliumipam.requests import Applied, Change, Concern, ExistingBlock, Rebalance, Shrink
from ciliumipam.view import View


class VacateTask(TakeBackTask):
    """What the tasks share that empty a part of a pool."""

    def __init__(self, pool: str, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now, token, listed)
        self._pool = pool

    def parts(self, view: View) -> tuple[Prefix, ...]:
        """The prefixes that are to be empty."""
        raise NotImplementedError

    def close(self, view: View, draft: Draft) -> None:
        """Put what has to be written before the blocks drain."""

    def finish(self, view: View, draft: Draft) -> None:
        """Put what has to be written once nothing is held there."""

    def _record(self, view: View) -> PoolRecord:
        record = view.pools.get(self._pool)
        if record is None:
            raise NotFoundError("pool", self._pool, tuple(sorted(view.pools)[:8]))
        return record

    def leaving(self, view: View) -> list[Holding]:
        record = view.pools.get(self._pool)
        if record is None:
            return []
        parts, space = self.parts(view), record.spec.address_space
        return [block for block in view.blocks() if block.space == space and any(part.overlaps(block.prefix) for part in parts)]

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        space = self._record(view).spec.address_space
        self.close(view, draft)
        self.let_drain(view, draft, self.leaving(view))
        if draft:
            return False
        self.refusals = []
        pools = Pools.of(view)
        level = BlockLevel(view, self.confirmed, self.now)
        standings = {name: look(draft, level, name) for name in {*view.nodes, *(block.holder for block in self.leaving(view))}}
        if self.finish_what_was_begun(view, draft, level, standings.values()):
            return False
        leave_out(view, draft, pools, standings, self.listed, self.now)
        for part in self.parts(view):
            undo = view.free.mark(Holding(*part, 0, "", "", self.now, space))
            if undo is not None:
                draft.undo.append(undo)
        self.replace(view, draft, level, pools, standings)
        if draft:
            return False
        self.take_back(view, draft, level, standings, bare=False)
        if draft:
            return False
        if not self.leaving(view):
            self.finish(view, draft)
        return True


class ShrinkTask(VacateTask):
    """A pool that gives up CIDRs of its own, or parts of them."""

    def __init__(self, request: Shrink, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(request.pool, now, token, listed)
        self.request = request
        self._begun = self._closed = False

    def parts(self, view: View) -> tuple[Prefix, ...]:  # noqa: ARG002 - see the base
        return self.request.cidrs

    def close(self, view: View, draft: Draft) -> None:
        """Reserve what is to go, but for the blocks there that their nodes still need."""
        record = self._record(view)
        spec = record.spec
        if not any(cidr.overlaps(part) for cidr in spec.cidrs for part in self.request.cidrs) and self._begun:
            return  # another call was faster
        shrunk(spec, self.request.cidrs)  # what cannot be in the end is refused before anything is written
        needed = [block.prefix for block in self.leaving(view) if not _is_replaced(view, block)]
        closed = merge_ranges([*spec.reserved, *without(_ranges(self.request.cidrs), _ranges(needed))])
        if closed != spec.reserved:
            draft.put(Key("pool", spec.name), record._replace(spec=spec.replace(reserved=closed)), RECORD)
            if not self._closed:
                self._note(Change("drain", "pool", spec.name, f"gives nothing new out of {_named(self.request.cidrs)}"))
            self._closed = True
        self._begun = True

    def finish(self, view: View, draft: Draft) -> None:
        """Take the CIDRs out of the pool."""
        record = self._record(view)
        spec = record.spec
        if any(cidr.overlaps(part) for cidr in spec.cidrs for part in self.request.cidrs):
            left = shrunk(spec, self.request.cidrs)
            draft.put(Key("pool", spec.name), record._replace(spec=left), RECORD)
            self._note(Change("change", "pool", spec.name, f"cidrs: {_named(spec.cidrs)} -> {_named(left.cidrs)}"))


class RebalanceTask(VacateTask):
    """A free prefix of a given length in a pool, by moving as few blocks as possible."""

    def __init__(self, request: Rebalance, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(request.pool, now, token, listed)
        self.request = request
        self._region: Region | None = None

    @property
    def outcome(self) -> Applied:
        told = (Concern(self._pool, self._region.why),) if self._region is not None else ()
        return super().outcome._replace(concerns=told)

    def before(self, view: View) -> Iterable[Key]:
        """The choice is made over what was just listed, and kept: where this call moves from does not change under it."""
        with suppress(IpamError):  # told by `close`, once it was read again
            self._choose(view)
        return super().before(view)

    def close(self, view: View, draft: Draft) -> None:  # noqa: ARG002 - nothing is written
        """See that there is something to empty."""
        self._choose(view)

    def _choose(self, view: View) -> None:
        if self._region is None:
            view.advance(self.now)
            self._region = choose_region(view, self._record(view).spec, self.request)

    def parts(self, view: View) -> tuple[Prefix, ...]:  # noqa: ARG002 - see the base
        return (self._region.prefix,) if self._region is not None else ()


def shrunk(spec: PoolSpec, parts: Sequence[Prefix]) -> PoolSpec:
    """A pool without a part of its CIDRs. What is reserved there goes with them; block lengths stay as they are.

    Raises:
        OutOfRangeError: A part is in none of its CIDRs.
        InvalidRequestError: A part cuts a block in two, or nothing of its family would be left.
        InvalidPoolError: What is left is too small for a block length of the pool.
    """
    for part in parts:
        around = next((cidr for cidr in spec.cidrs if cidr.covers(part)), None)
        if around is None:
            raise OutOfRangeError(str(part), f"the CIDRs of pool {spec.name!r}", tuple(map(str, spec.cidrs)))
        if part.length > spec.block_length(around):
            whole = Prefix(part.family, *_outer(part, spec.block_length(around)))
            raise InvalidRequestError(f"{part} is a part of a block of pool {spec.name!r}; a pool gives up whole blocks, as {whole}")
    gone = _ranges(parts)
    cidrs = [
        piece
        for cidr in spec.cidrs
        for family, first, last in without([(cidr.family, cidr.network, cidr.last)], gone)
        for piece in range_to_prefixes(family, first, last)
    ]
    for family in spec.families:
        if not any(cidr.family == family for cidr in cidrs):
            raise InvalidRequestError(
                f"that is all that pool {spec.name!r} has of IPv{family}, so nothing could move to the rest of it:"
                f" drain it and then delete it, or add a CIDR first"
            )
    return spec.replace(cidrs=tuple(cidrs), reserved=without(spec.reserved, gone))


def without(ranges: Iterable[Range], gone: Sequence[Range]) -> tuple[Range, ...]:
    """Ranges without the addresses of others; both need not be in order. O(n * m)."""
    left = list(ranges)
    for family, low, high in gone:
        left = [
            piece
            for each, first, last in left
            for piece in (
                [(each, first, last)] if each != family or last < low or first > high else [(each, first, low - 1), (each, high + 1, last)]
            )
            if piece[1] <= piece[2]
        ]
    return tuple(left)


def _is_replaced(view: View, block: Holding) -> bool:
    """Whether the node of a block has another one of the family that gives out addresses, so that this one no longer does."""
    return any(each.serves and each.family == block.family and each.holding != block for each in view.node_blocks(block.holder))


def _ranges(prefixes: Iterable[Prefix]) -> list[Range]:
    return [(each.family, each.network, each.last) for each in prefixes]


def _outer(prefix: Prefix, length: int) -> tuple[int, int]:
    shift = (32 if prefix.family == 4 else 128) - length
    return prefix.network >> shift << shift, length


def _named(prefixes: Iterable[Prefix]) -> str:
    return ", ".join(map(str, prefixes))
