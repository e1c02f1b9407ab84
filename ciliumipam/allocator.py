"""Addresses of one node over all its blocks: who holds which, under which fence, and which still cool.

Takes blocks from the carver and keeps one `side` for each family. Holds everything in memory and decides alone: the
facade keeps its holdings in a store instead. Reads no clock: where time matters, the caller says what time it is, always in seconds
since the epoch. Not thread-safe; the caller serialises.
"""

from __future__ import annotations

from collections.abc import Iterable

from ciliumipam import errors
from ciliumipam.addresses import BlockAddresses, Policy, draw
from ciliumipam.cidr import AddressLike, Family, Prefix, PrefixLike, format_address, parse_address, parse_prefix
from ciliumipam.side import AddressCooling, AddressHolding, Side, SideBlock, Utilization

__all__ = ["AddressCooling", "AddressHolding", "NodeAllocator", "Utilization"]

_NEVER = float("inf")


class NodeAllocator:
    """Addresses of one node over all its blocks, with owners and fences. Holds everything in memory and decides alone.

    Blocks serve in the order given, the first with room: early ones fill, late ones run empty. An owner has at most one address
    of a family. Every holding of an address has a higher fence than the one before, also across `remove_block` and `add_block`.

    With a reuse delay, a released address cools: it is in nobody's hands, not available, and not given out before its time. Time is
    what the calls say: each one that gets `now`, in seconds since the epoch, first makes available what is due by then.

    * blocks: `add_block`, `remove_block`
    * addresses: `allocate`, `allocate_many`, `release`, `release_fenced`, `expire`
    * restore: `occupy` for each of `holdings`, `cool` for each of `coolings`
    * look: `holdings`, `coolings`, `utilization`

    Every call raises InvalidCidrError or InvalidAddressError for what it cannot parse; what raises changes nothing, but for what
    is due by the time that it was given.

    Complexity:
        `allocate` and `release` are O(1) in addresses and holdings, O(log b) in blocks, and O(log c) for each of c cooling
        addresses once when it is released and once when it is due.

    Example:
        >>> node = NodeAllocator(["10.0.1.0/29"], policy="lowest", reuse_delay=30)
        >>> node.allocate("a", now=1000).address
        IPv4Address('10.0.1.1')
        >>> _ = node.release("a", now=1010)
        >>> [str(node.allocate(owner, now=now).address) for owner, now in (("b", 1039), ("c", 1040))]
        ['10.0.1.2', '10.0.1.1']
    """

    def __init__(
        self,
        blocks: Iterable[PrefixLike] = (),
        *,
        reserved: Iterable[PrefixLike | tuple[AddressLike, AddressLike]] = (),
        allow_first: bool = False,
        allow_last: bool = False,
        policy: Policy = "next",
        seed: int = 0,
        reuse_delay: float = 0,
        node: str = "",
    ) -> None:
        """Take over blocks, none of their addresses held.

        Args:
            blocks: Blocks of either family, in the order in which they serve.
            reserved: Prefixes, or pairs of first and last address, both inclusive. They may stick out of the blocks.
            allow_first: Hand out the first address of a block too.
            allow_last: Hand out the last address of a block too.
            policy: "next", "lowest" or "random"; see `addresses`.
            seed: What "random" starts from: this and the owner's id decide where the search for its address begins.
            reuse_delay: Seconds before a released address is given out again. With it `allocate` and `release` need `now`.
            node: Name of the node, for errors.

        Raises:
            InvalidRequestError: Blocks overlap, a reserved range is upside down, there is no such policy, or the delay is negative
                or no finite number.
        """
        if not 0 <= reuse_delay < _NEVER:
            raise errors.InvalidRequestError(f"a reuse delay is a finite number of seconds, 0 or more, not {reuse_delay}")
        self.node = node
        self._seed = seed
        self._reuse_delay = reuse_delay
        self._timed = reuse_delay > 0
        self._allow_first, self._allow_last = allow_first, allow_last
        self._policy: Policy = policy
        self._sides: dict[int, Side] = {4: Side(4), 6: Side(6)}
        self._only: Side | None = None
        self._reserved: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for value in reserved:
            family, low, high = _parse_range(value)
            self._reserved[family].append((low, high))
        for block in blocks:
            self.add_block(block)

    def __repr__(self) -> str:
        """Node and blocks, with their counts."""
        blocks = [repr(block.addresses) for side in self._sides.values() for block in side.blocks]
        return f"<NodeAllocator {self.node!r}: {', '.join(blocks) or 'no blocks'}>"

    def add_block(self, block: PrefixLike) -> None:
        """Let a further block serve, after all others. Does nothing if the node has that very block.

        Raises:
            InvalidRequestError: It overlaps another block of the node.
        """
        prefix = parse_prefix(block)
        side = self._sides[prefix.family]
        for other in side.blocks:
            if other.addresses.block == prefix:
                return
            if prefix.overlaps(other.addresses.block):
                raise errors.InvalidRequestError(f"block {prefix} overlaps block {other.network} of node {self.node!r}")
        addresses = BlockAddresses(
            prefix,
            self._reserved[prefix.family],
            allow_first=self._allow_first,
            allow_last=self._allow_last,
            policy=self._policy,
        )
        self._set_blocks(side, [*side.blocks, SideBlock(addresses)])

    def remove_block(self, block: PrefixLike, *, now: float | None = None) -> None:
        """Take a block away that has no address in use, and none that cools: whoever gets the block next would not know.

        Raises:
            NotFoundError: The node has no such block.
            BlockNotEmptyError: Addresses of it are in use (three holders are named), or cool.
        """
        if now is not None:
            self.expire(now)
        prefix = parse_prefix(block)
        side = self._sides[prefix.family]
        found = side.block_of(prefix.network)
        if found is None or found.addresses.block != prefix:
            raise errors.NotFoundError("block", str(prefix), side.names())
        if found.addresses.in_use:
            inside = sorted(number for number in side.held if found.first <= number <= found.last)
            holders = tuple(side.held[number].owner for number in inside[:3])
            raise errors.BlockNotEmptyError(str(prefix), self.node, found.addresses.in_use, holders)
        if found.addresses.cooling:
            last = max(until for _, until in found.addresses.coolings())
            raise errors.BlockNotEmptyError(str(prefix), self.node, 0, (), found.addresses.cooling, last)
        self._set_blocks(side, [other for other in side.blocks if other is not found])

    def _set_blocks(self, side: Side, blocks: list[SideBlock]) -> None:
        side.set_blocks(blocks)
        there = [side for side in self._sides.values() if side.blocks]
        self._only = there[0] if len(there) == 1 else None

    # ------------------------------------------------------------------------------------------------ allocate

    def allocate(
        self,
        owner: str,
        *,
        family: Family | None = None,
        address: AddressLike | None = None,
        label: str = "",
        now: float | None = None,
    ) -> AddressHolding:
        """Give an owner an address of a family: the one it holds, else a given one, else the next one.

        Args:
            owner: Id of the owner, not empty.
            family: Which family; None if the address says it or the blocks are of one family only.
            address: The very address wanted.
            label: Name of the owner for people. Kept from the first call if the owner already holds an address.
            now: What time it is. Needed with a reuse delay, and after `cool`.

        Raises:
            InvalidRequestError: The family is needed, or contradicts the address, or the time is needed.
            InvalidNameError: The owner is empty.
            NoBlockError: The node has no block of the family.
            NodeExhaustedError: No address of the family is available.
            OwnerHoldsError: The owner holds another address of that family than the given one.
            OutOfRangeError: The given address is in no block.
            AlreadyAllocatedError: Another owner holds the given address.
            ReservedAddressError: The given address is reserved.
            CoolingAddressError: The given address was released and still cools.
        """
        if self._timed:
            self._at(now)
        if address is not None:
            return self._allocate_given(owner, family, address, label)
        side = self._only if family is None else self._sides.get(family)
        if side is None:
            raise self._which_family(family)
        number = side.numbers.get(owner)
        if number is not None:
            return side.held[number]
        holding = side.take(owner, label, draw(self._seed, owner) if self._policy == "random" else 0)
        if holding is None:
            raise self._no_room(side, 1)
        return holding

    def _allocate_given(self, owner: str, family: Family | None, address: AddressLike, label: str) -> AddressHolding:
        found, number = parse_address(address)
        text = format_address(found, number)
        if family is not None and family != found:
            raise errors.InvalidRequestError(f"{text} is an IPv{found} address, but family {family} was asked for")
        side = self._sides[found]
        mine = side.numbers.get(owner)
        if mine is not None:
            if mine == number:
                return side.held[number]
            raise errors.OwnerHoldsError(owner, format_address(found, mine), text)
        block = self._block_for(side, number)
        holder = side.held.get(number)
        if holder is not None:
            raise errors.AlreadyAllocatedError(text, holder.owner, holder.label)
        if block.addresses.is_reserved(number):
            raise errors.ReservedAddressError(text, self._why_reserved(block, number))
        until = block.addresses.until(number)
        if until is not None:
            raise errors.CoolingAddressError(text, until)
        return side.hold(block, number, owner, label)

    def allocate_many(
        self, owners: Iterable[str], *, family: Family | None = None, now: float | None = None
    ) -> tuple[AddressHolding, ...]:
        """Give every owner an address of one family, or raise and give none. Owners that hold one keep it.

        Returns:
            A holding for each owner, in the order given.

        Raises:
            InvalidRequestError: The family or the time is needed; see `allocate`.
            InvalidNameError: An owner is empty.
            NoBlockError: The node has no block of the family.
            NodeExhaustedError: There is not room for all.
        """
        if self._timed:
            self._at(now)
        side = self._only if family is None else self._sides.get(family)
        if side is None:
            raise self._which_family(family)
        wanted = list(owners)
        if "" in wanted:
            raise errors.InvalidNameError("owner id", "", "it is empty")
        new = len(set(wanted) - side.numbers.keys())
        if new > sum(block.addresses.available for block in side.blocks):
            raise self._no_room(side, new)
        return tuple(self.allocate(owner, family=side.family, now=now) for owner in wanted)

    def occupy(self, address: AddressLike, owner: str, fence: int, label: str = "") -> AddressHolding:
        """Take down a holding that is known from elsewhere, on restore. A reserved or cooling address is taken too.

        The owner's own holding of that address may be given again, or with a higher fence, which then replaces it.

        Raises:
            InvalidNameError: The owner is empty.
            InvalidRequestError: The fence is below 1.
            NoBlockError: The node has no block of the family.
            OutOfRangeError: The address is in no block.
            OwnerHoldsError: The owner holds another address of that family.
            AlreadyAllocatedError: Another owner holds the address.
            StaleFenceError: The address has had a later holding, or a later one of that owner is present.
        """
        family, number = parse_address(address)
        text = format_address(family, number)
        if fence < 1:
            raise errors.InvalidRequestError(f"{text}: a holding has a fence of 1 or more, not {fence}")
        side = self._sides[family]
        block = self._block_for(side, number)
        mine = side.numbers.get(owner, number)
        if mine != number:
            raise errors.OwnerHoldsError(owner, format_address(family, mine), text)
        present = side.held.get(number)
        if present is None:
            last = side.fences.get(number, 0)
            if fence <= last:
                raise errors.StaleFenceError(text, fence, last)
            return side.hold(block, number, owner, label, fence=fence)
        if present.owner != owner:
            raise errors.AlreadyAllocatedError(text, present.owner, present.label)
        if fence < present.fence:
            raise errors.StaleFenceError(text, fence, present.fence)
        if fence > present.fence:
            side.held[number] = present._replace(fence=fence, label=label)
        return side.held[number]

    def release(self, owner: str, *, now: float | None = None) -> tuple[AddressHolding, ...]:
        """Take back whatever an owner holds. With a reuse delay it cools from `now` on.

        Returns:
            What it held, IPv4 first; empty if it held nothing.

        Raises:
            InvalidRequestError: The time is needed; see `allocate`.
        """
        until = self._until(now)
        released = []
        for side in self._sides.values():
            number = side.numbers.get(owner)
            if number is not None:
                released.append(side.vacate(number, until))
        return tuple(released)

    def release_fenced(self, address: AddressLike, fence: int, *, now: float | None = None) -> AddressHolding:
        """Take back one holding of an address, and no other. With a reuse delay it cools from `now` on.

        Raises:
            InvalidRequestError: The time is needed; see `allocate`.
            StaleFenceError: The address has had holdings, but that fence is not the one of a present holding.
            NotHeldError: Nobody has held the address so far.
        """
        until = self._until(now)
        family, number = parse_address(address)
        side = self._sides[family]
        holding = side.held.get(number)
        if holding is not None and holding.fence == fence:
            return side.vacate(number, until)
        text = format_address(family, number)
        last = holding.fence if holding is not None else side.fences.get(number)
        if last is None:
            raise errors.NotHeldError(text, "nobody has held it so far")
        raise errors.StaleFenceError(text, fence, last)

    # ------------------------------------------------------------------------------------------------ cool

    def cool(self, address: AddressLike, fence: int, until: float) -> None:
        """Take down an address that is known to cool, on restore. Nothing changes for a reserved one, which nobody gets anyway.

        Args:
            address: The address.
            fence: That of its last holding, which was released.
            until: When it becomes available.

        Raises:
            InvalidRequestError: The fence is below 1, or the time is no finite number.
            NoBlockError: The node has no block of the family.
            OutOfRangeError: The address is in no block.
            AlreadyAllocatedError: Somebody holds the address.
            StaleFenceError: The address has had a later holding.
        """
        family, number = parse_address(address)
        text = format_address(family, number)
        if fence < 1:
            raise errors.InvalidRequestError(f"{text}: what cools was held with a fence of 1 or more, not {fence}")
        _check_time(until)
        side = self._sides[family]
        block = self._block_for(side, number)
        holder = side.held.get(number)
        if holder is not None:
            raise errors.AlreadyAllocatedError(text, holder.owner, holder.label)
        last = side.fences.get(number, 0)
        if fence < last:
            raise errors.StaleFenceError(text, fence, last)
        side.fences[number] = fence
        side.cool(block, number, until)
        self._timed = True

    def expire(self, now: float) -> int:
        """Make available what is due by a time, as every call does that gets one; `until` itself is late enough.

        Returns:
            How many addresses became available.

        Raises:
            InvalidRequestError: The time is no finite number.
        """
        _check_time(now)
        return self._sides[4].expire(now) + self._sides[6].expire(now)

    def _at(self, now: float | None) -> float:
        if now is None:
            raise errors.InvalidRequestError(
                f"node {self.node!r} has a reuse delay of {self._reuse_delay} s or cooling addresses:"
                " say what time it is, as now=<seconds since the epoch>"
            )
        self.expire(now)
        return now

    def _until(self, now: float | None) -> float | None:
        """Until when an address cools that is released now; None if it does not."""
        if not self._timed:
            return None
        until = self._at(now) + self._reuse_delay
        return until if self._reuse_delay else None

    # ------------------------------------------------------------------------------------------------ look

    def holdings(self) -> list[AddressHolding]:
        """Everything held, by family and address."""
        return [side.held[number] for side in self._sides.values() for number in sorted(side.held)]

    def coolings(self, *, now: float | None = None) -> list[AddressCooling]:
        """Everything that cools, by family and address: at a time, or else at the last one that a call named."""
        if now is not None:
            self.expire(now)
        return [cooling for side in self._sides.values() for cooling in side.coolings()]

    def utilization(self, family: Family, *, now: float | None = None) -> Utilization:
        """Counts over all blocks of a family, at a time, or else at the last one that a call named; all zero without blocks. O(blocks)."""
        if now is not None:
            self.expire(now)
        return self._sides[family].utilization()

    def check_invariants(self) -> None:
        """Assert that blocks, holdings and owners agree, and that counts equal a recount. O(holdings + pages stored)."""
        for family, side in self._sides.items():
            assert side.family == family
            side.check_invariants()
        assert self._timed or not self.coolings(), "something cools, but the calls need not say what time it is"

    # ------------------------------------------------------------------------------------------------ refuse

    def _block_for(self, side: Side, number: int) -> SideBlock:
        block = side.block_of(number)
        if block is not None:
            return block
        if not side.blocks:
            raise self._no_block(side.family)
        raise errors.OutOfRangeError(
            format_address(side.family, number), f"the blocks of node {self.node!r}", side.names()
        )

    def _why_reserved(self, block: SideBlock, number: int) -> str:
        first = number == block.first and not self._allow_first
        last = number == block.last and not self._allow_last
        if (first or last) and block.addresses.capacity > 2:
            return f"it is the {'first' if first else 'last'} address of its block {block.network}"
        return f"it lies in a reserved range of node {self.node!r}"

    def _which_family(self, family: int | None) -> Exception:
        """Why there is no side to allocate from: no blocks at all, two families and none chosen, or no such family."""
        if family is not None:
            return errors.InvalidRequestError(f"no address family {family}; it is 4 or 6")
        if any(side.blocks for side in self._sides.values()):
            return errors.InvalidRequestError(
                f"node {self.node!r} has IPv4 and IPv6 blocks; say which family is wanted"
            )
        return self._no_block(0)

    def _no_block(self, family: int) -> errors.NoBlockError:
        return errors.NoBlockError(self.node, family, ("it was given none",))

    def _no_room(self, side: Side, wanted: int) -> Exception:
        if not side.blocks:
            return self._no_block(side.family)
        counts = side.utilization()
        return errors.NodeExhaustedError(
            self.node,
            side.family,
            side.names(),
            counts.capacity,
            counts.in_use,
            counts.reserved,
            wanted,
            counts.cooling,
            side.cools_until,
        )


def _check_time(seconds: float) -> None:
    if not -_NEVER < seconds < _NEVER:
        raise errors.InvalidRequestError(f"a time is a finite number of seconds since the epoch, not {seconds}")


def _parse_range(value: PrefixLike | tuple[AddressLike, AddressLike]) -> tuple[Family, int, int]:
    """Family and both ends, inclusive, of a prefix or a pair of addresses."""
    if isinstance(value, tuple) and not isinstance(value, Prefix):
        (family, low), (other, high) = parse_address(value[0]), parse_address(value[1])
        if family != other or low > high:
            raise errors.InvalidRequestError(
                f"reserved range {value[0]} to {value[1]}: the ends must be of one family, the lower one first"
            )
        return family, low, high
    prefix = parse_prefix(value)
    return prefix.family, prefix.network, prefix.last
