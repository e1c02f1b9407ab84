"""How many addresses a node asks for, and which blocks it can hand back: Cilium's formula, and a hysteresis of our own.

Takes what a node uses of each block and what it could not serve; says what the node should ask for and which blocks it does not
need. Pure: time is what the calls say, in seconds of any clock that does not go back.

* A node asks for what is in use and pending, rounded up to the next multiple of `spare`, and `spare` more. So it asks again only
  after `spare` further addresses, and never has less than `spare` left while it gets what it asks for.
* What cools is asked for on top: it is in nobody's hands, and nobody can have it yet.
* A block goes back only if it has been empty for `idle` seconds and what stays is more than what is asked for, by `slack`; the one
  that the node got last is looked at first. So load that swings by no more than `slack` moves no block, and load that swings by more
  moves one at most once in `idle` seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ciliumipam.cidr import Family, Prefix
from ciliumipam.errors import InvalidRequestError
from ciliumipam.names import validate_name

PENDING_SECONDS = 300.0
"""How long a request that failed counts, unless it fails again or is served: as in Cilium's multi-pool mode."""

Side: TypeAlias = tuple[str, Family]
"""What is counted together: a pool ("" for all pools together) and a family."""


class Demand(NamedTuple):
    """How many addresses of a family a node asks for, all together and not in addition.

    Attributes:
        pool: Out of which pool; "" is whichever pool serves the node, and all its blocks of the family count.
        family: 4 or 6.
        addresses: How many it should be able to hand out, those in use included.
    """

    pool: str
    family: Family
    addresses: int


class BlockUse(NamedTuple):
    """What a node uses of one of its blocks.

    Attributes:
        block: The block.
        pool: What it is counted under; "" where all pools are counted together.
        usable: Addresses that are not reserved.
        in_use: Addresses in somebody's hands.
        cooling: Addresses that were released and nobody gets yet.
        idle: Seconds for which nothing of it has been in use; 0 if something is.
        draining: Whether it takes nothing new. What is in use of it is counted, since it will move; its free addresses are not.
    """

    block: Prefix
    pool: str
    usable: int
    in_use: int
    cooling: int = 0
    idle: float = 0.0
    draining: bool = False


class Watermark(NamedTuple):
    """When a node asks for more, and when it hands back.

    Attributes:
        spare: Addresses to have at hand beyond those in use; Cilium's pre-allocation.
        slack: How much more than what is asked for has to stay when a block goes back.
        idle: Seconds for which a block has to be empty before it goes back.
        least: Blocks of a family that never go back. The source has the last word: see `Ipam.hand_back`.
    """

    spare: int = 8
    slack: int = 8
    idle: float = 300.0
    least: int = 1


class Decision(NamedTuple):
    """What a node should do.

    Attributes:
        demand: What to ask for, by pool and family; nothing that is 0.
        hand_back: Blocks that can go back, in this order: the one that the node got last comes first.
    """

    demand: tuple[Demand, ...]
    hand_back: tuple[Prefix, ...]


def needed(count: int, spare: int) -> int:
    """How many addresses to ask for where so many are in use or pending: Cilium's `neededIPCeil`.

    Example:
        >>> [needed(count, 8) for count in (0, 1, 7, 8, 9)]
        [8, 16, 16, 16, 24]
    """
    if spare == 0:
        return count
    return (count // spare + (2 if count % spare else 1)) * spare


def normalize(demand: Iterable[Demand]) -> tuple[Demand, ...]:
    """Demands in their one form: by pool and family, nothing that is 0.

    Raises:
        InvalidRequestError: Two are about one pool and family, or one is not a demand.
        InvalidNameError: No pool can have that name.
    """
    found: dict[Side, Demand] = {}
    for each in demand:
        if each.pool:
            validate_name("pool name", each.pool)
        if each.family not in (4, 6):
            raise InvalidRequestError(f"no IP family {each.family!r}; valid: 4, 6")
        if type(each.addresses) is not int or each.addresses < 0:
            raise InvalidRequestError(f"a node asks for a whole number of addresses from 0 on, not {each.addresses!r}")
        side = each.pool, each.family
        if side in found:
            which = f"pool {each.pool!r}" if each.pool else "whichever pool serves the node"
            raise InvalidRequestError(f"IPv{each.family} addresses of {which} are asked for twice; give the sum")
        found[side] = Demand(*each)
    return tuple(sorted(each for each in found.values() if each.addresses))


def decide(uses: Sequence[BlockUse], pending: Mapping[Side, int], watermark: Watermark) -> Decision:
    """What a node should ask for and can hand back. O(blocks).

    Args:
        uses: Its blocks, in the order in which it got them.
        pending: How many requests could not be served.
        watermark: When to ask for more and when to hand back.
    """
    sides: dict[Side, list[BlockUse]] = {}
    for use in uses:
        sides.setdefault((use.pool, use.block.family), []).append(use)
    demand: list[Demand] = []
    back: set[Prefix] = set()
    for side in sorted({*sides, *(each for each, count in pending.items() if count)}):
        mine = sides.get(side, [])
        wanted = needed(sum(use.in_use for use in mine) + pending.get(side, 0), watermark.spare)
        wanted += sum(use.cooling for use in mine if not use.draining)
        if wanted:
            demand.append(Demand(*side, wanted))
        back.update(_idle(mine, wanted, watermark))
    return Decision(tuple(demand), tuple(use.block for use in reversed(uses) if use.block in back))


def _idle(uses: Sequence[BlockUse], wanted: int, watermark: Watermark) -> list[Prefix]:
    """The blocks that are not needed, out of those that are counted together."""
    staying = [use for use in uses if not use.draining]
    # what drains gives nothing: once it is empty and there is another block it only has to go
    found = [use.block for use in uses if use.draining and not use.in_use and staying]
    count, usable = len(staying), sum(use.usable for use in staying)
    for use in reversed(staying):
        if use.in_use or use.idle < watermark.idle or count <= watermark.least:
            continue
        if usable - use.usable >= wanted + watermark.slack:
            found.append(use.block)
            count, usable = count - 1, usable - use.usable
    return found


class DemandWatch:
    """What a node has to remember for `decide`: whom it could not serve, and since when each block is empty.

    It is not kept anywhere: a node that starts anew finds out by itself, and hands nothing back before `idle` seconds have gone by.
    Not thread-safe; the caller serialises.

    Example:
        >>> watch = DemandWatch(Watermark(spare=8, slack=8, idle=60))
        >>> block = BlockUse(Prefix(4, 0x0A000000, 28), "", usable=14, in_use=14)
        >>> watch.failed("cni/1/eth0", 4, now=0)
        >>> watch.decide([block], now=0).demand
        (Demand(pool='', family=4, addresses=24),)
    """

    def __init__(self, watermark: Watermark = Watermark(), pending_seconds: float = PENDING_SECONDS) -> None:  # noqa: B008 - immutable
        """Nothing has failed yet.

        Args:
            watermark: When to ask for more and when to hand back.
            pending_seconds: How long a request that failed counts.

        Raises:
            InvalidRequestError: One of them is negative.
        """
        for name, value in (*watermark._asdict().items(), ("pending_seconds", pending_seconds)):
            if not 0 <= value < float("inf"):
                raise InvalidRequestError(f"{name} is a number from 0 on, not {value}")
        self.watermark = watermark
        self._pending_seconds = pending_seconds
        self._pending: dict[tuple[Side, str], float] = {}
        self._empty_since: dict[Prefix, float] = {}

    def failed(self, owner: str, family: Family, now: float, pool: str = "") -> None:
        """An owner could not be given an address. However often it tries, it counts once."""
        self._pending[((pool, family), owner)] = now + self._pending_seconds

    def served(self, owner: str, family: Family, pool: str = "") -> None:
        """It has one now, or wants none any more."""
        self._pending.pop(((pool, family), owner), None)

    def pending(self, now: float) -> dict[Side, int]:
        """How many owners wait. One is forgotten after its time, not at it."""
        self._pending = {each: until for each, until in self._pending.items() if now <= until}
        counts: dict[Side, int] = {}
        for side, _ in self._pending:
            counts[side] = counts.get(side, 0) + 1
        return counts

    def decide(self, uses: Iterable[BlockUse], now: float) -> Decision:
        """What the node should ask for and can hand back now; `idle` of the blocks is filled in from what was seen before."""
        seen = list(uses)
        self._empty_since = {use.block: self._empty_since.get(use.block, now) for use in seen if not use.in_use}
        timed = [use if use.in_use else use._replace(idle=now - self._empty_since[use.block]) for use in seen]
        return decide(timed, self.pending(now), self.watermark)
