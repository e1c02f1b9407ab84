"""Addresses of one node over all its blocks: who holds which, and under which fence.

Takes blocks from the carver and keeps a free index (`addresses`) for each. Holds everything in memory and decides alone: the
facade keeps its holdings in a store instead. Not thread-safe; the caller serialises.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from ciliumipam import errors
from ciliumipam.addresses import BlockAddresses, Policy
from ciliumipam.cidr import (
    Address,
    AddressLike,
    Family,
    Network,
    Prefix,
    PrefixLike,
    format_address,
    parse_address,
    parse_prefix,
    to_address,
)


class AddressHolding(NamedTuple):
    """One address held by one owner.

    Attributes:
        owner: Id of the owner.
        label: Name of the owner for people, as given when the address was allocated.
        address: The address.
        family: 4 or 6.
        block: The block that it comes from.
        fence: Number of this holding among all of this address, from 1; a release that names it can hit no other.
    """

    owner: str
    label: str
    address: Address
    family: Family
    block: Network
    fence: int


class Utilization(NamedTuple):
    """Counts of addresses over all blocks of one family; capacity is the sum of the others."""

    capacity: int
    available: int
    in_use: int
    reserved: int


class _NodeBlock:
    """A block of a node, with what every allocation out of it needs at hand."""

    __slots__ = ("addresses", "first", "last", "network", "order")

    def __init__(self, addresses: BlockAddresses, order: int) -> None:
        self.addresses = addresses
        self.first = addresses.block.network
        self.last = addresses.block.last
        self.network = addresses.block.to_network()
        self.order = order


class _Side:
    """What a node has of one family: blocks in the order given and by first address, and holdings by owner and address."""

    __slots__ = ("blocks", "by_first", "family", "fences", "firsts", "held", "numbers", "open")

    def __init__(self, family: Family) -> None:
        self.family: Family = family
        self.blocks: list[_NodeBlock] = []
        self.by_first: list[_NodeBlock] = []
        self.firsts: list[int] = []
        self.open = 0  # every block before this one is full
        self.numbers: dict[str, int] = {}
        self.held: dict[int, AddressHolding] = {}
        self.fences: dict[int, int] = {}  # last fence of addresses no longer held

    def block_of(self, number: int) -> _NodeBlock | None:
        at = bisect_right(self.firsts, number) - 1
        if at < 0 or self.by_first[at].last < number:
            return None
        return self.by_first[at]

    def names(self) -> tuple[str, ...]:
        return tuple(str(block.network) for block in self.blocks)


class NodeAllocator:
    """Addresses of one node over all its blocks, with owners and fences. Holds everything in memory and decides alone.

    Blocks serve in the order given, the first with room: early ones fill, late ones run empty. An owner has at most one address
    of a family. Every holding of an address has a higher fence than the one before, also across `remove_block` and `add_block`.

    * blocks: `add_block`, `remove_block`
    * addresses: `allocate`, `allocate_many`, `release`, `release_fenced`, and `occupy` on restore
    * look: `holdings`, `utilization`

    Every call raises InvalidCidrError or InvalidAddressError for what it cannot parse; what raises changes nothing.

    Complexity:
        `allocate` and `release` are O(1) in addresses and holdings, O(log b) in blocks.
    """

    def __init__(
        self,
        blocks: Iterable[PrefixLike] = (),
        *,
        reserved: Iterable[PrefixLike | tuple[AddressLike, AddressLike]] = (),
        allow_first: bool = False,
        allow_last: bool = False,
        policy: Policy = "next",
        node: str = "",
    ) -> None:
        """Take over blocks, none of their addresses held.

        Args:
            blocks: Blocks of either family, in the order in which they serve.
            reserved: Prefixes, or pairs of first and last address, both inclusive. They may stick out of the blocks.
            allow_first: Hand out the first address of a block too.
            allow_last: Hand out the last address of a block too.
            policy: "next" or "lowest".
            node: Name of the node, for errors.

        Raises:
            InvalidRequestError: Blocks overlap, a reserved range is upside down, or there is no such policy.
        """
        self.node = node
        self._allow_first, self._allow_last = allow_first, allow_last
        self._policy: Policy = policy
        self._sides: dict[int, _Side] = {4: _Side(4), 6: _Side(6)}
        self._only: _Side | None = None
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
        self._set_blocks(side, [*side.blocks, _NodeBlock(addresses, len(side.blocks))])

    def remove_block(self, block: PrefixLike) -> None:
        """Take a block away that has no address in use.

        Raises:
            NotFoundError: The node has no such block.
            BlockNotEmptyError: Addresses of it are in use; three holders are named.
        """
        prefix = parse_prefix(block)
        side = self._sides[prefix.family]
        found = side.block_of(prefix.network)
        if found is None or found.addresses.block != prefix:
            raise errors.NotFoundError("block", str(prefix), side.names())
        if found.addresses.in_use:
            inside = sorted(number for number in side.held if found.first <= number <= found.last)
            holders = tuple(side.held[number].owner for number in inside[:3])
            raise errors.BlockNotEmptyError(str(prefix), self.node, found.addresses.in_use, holders)
        self._set_blocks(side, [other for other in side.blocks if other is not found])

    def _set_blocks(self, side: _Side, blocks: list[_NodeBlock]) -> None:
        side.blocks = blocks
        for order, block in enumerate(blocks):
            block.order = order
        side.by_first = sorted(blocks, key=lambda block: block.first)
        side.firsts = [block.first for block in side.by_first]
        side.open = 0
        there = [side for side in self._sides.values() if side.blocks]
        self._only = there[0] if len(there) == 1 else None

    # ------------------------------------------------------------------------------------------------ allocate

    def allocate(
        self, owner: str, *, family: Family | None = None, address: AddressLike | None = None, label: str = ""
    ) -> AddressHolding:
        """Give an owner an address of a family: the one it holds, else a given one, else the next one.

        Args:
            owner: Id of the owner, not empty.
            family: Which family; None if the address says it or the blocks are of one family only.
            address: The very address wanted.
            label: Name of the owner for people. Kept from the first call if the owner already holds an address.

        Raises:
            InvalidRequestError: The family is needed, or contradicts the address.
            InvalidNameError: The owner is empty.
            NoBlockError: The node has no block of the family.
            NodeExhaustedError: All blocks of the family are full.
            OwnerHoldsError: The owner holds another address of that family than the given one.
            OutOfRangeError: The given address is in no block.
            AlreadyAllocatedError: Another owner holds the given address.
            ReservedAddressError: The given address is reserved.
        """
        if address is not None:
            return self._allocate_given(owner, family, address, label)
        side = self._only if family is None else self._sides.get(family)
        if side is None:
            raise self._which_family(family)
        number = side.numbers.get(owner)
        if number is not None:
            return side.held[number]
        blocks = side.blocks
        for at in range(side.open, len(blocks)):
            block = blocks[at]
            number = block.addresses.pick()
            if number is not None:
                side.open = at
                return self._hold(side, block, number, owner, label)
        side.open = len(blocks)
        raise self._no_room(side, 1)

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
        return self._hold(side, block, number, owner, label)

    def allocate_many(self, owners: Iterable[str], *, family: Family | None = None) -> tuple[AddressHolding, ...]:
        """Give every owner an address of one family, or raise and give none. Owners that hold one keep it.

        Returns:
            A holding for each owner, in the order given.

        Raises:
            InvalidRequestError: The family is needed.
            InvalidNameError: An owner is empty.
            NoBlockError: The node has no block of the family.
            NodeExhaustedError: There is not room for all.
        """
        side = self._only if family is None else self._sides.get(family)
        if side is None:
            raise self._which_family(family)
        wanted = list(owners)
        if "" in wanted:
            raise _empty_owner()
        new = len(set(wanted) - side.numbers.keys())
        if new > sum(block.addresses.available for block in side.blocks):
            raise self._no_room(side, new)
        return tuple(self.allocate(owner, family=side.family) for owner in wanted)

    def occupy(self, address: AddressLike, owner: str, fence: int, label: str = "") -> AddressHolding:
        """Take down a holding that is known from elsewhere, on restore. A reserved address is taken too.

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
            return self._hold(side, block, number, owner, label, fence=fence)
        if present.owner != owner:
            raise errors.AlreadyAllocatedError(text, present.owner, present.label)
        if fence < present.fence:
            raise errors.StaleFenceError(text, fence, present.fence)
        if fence > present.fence:
            side.held[number] = present._replace(fence=fence, label=label)
        return side.held[number]

    def _hold(
        self, side: _Side, block: _NodeBlock, number: int, owner: str, label: str, *, fence: int = 0
    ) -> AddressHolding:
        """Take an address that nobody holds. Without a fence it is a new holding: next fence, and the cursor moves on."""
        if not owner:
            raise _empty_owner()
        addresses = block.addresses
        addresses.occupy(number)
        last = side.fences.pop(number, 0)
        if not fence:
            fence = last + 1
            position = number - block.first
            addresses.set_cursor(position >> 8, (position & 255) + 1)
        side.numbers[owner] = number
        side.held[number] = holding = AddressHolding(
            owner, label, to_address(side.family, number), side.family, block.network, fence
        )
        return holding

    def release(self, owner: str) -> tuple[AddressHolding, ...]:
        """Take back whatever an owner holds.

        Returns:
            What it held, IPv4 first; empty if it held nothing.
        """
        released = []
        for side in self._sides.values():
            number = side.numbers.get(owner)
            if number is not None:
                released.append(self._vacate(side, number))
        return tuple(released)

    def release_fenced(self, address: AddressLike, fence: int) -> AddressHolding:
        """Take back one holding of an address, and no other.

        Raises:
            StaleFenceError: The address has had holdings, but that fence is not the one of a present holding.
            NotHeldError: Nobody has held the address so far.
        """
        family, number = parse_address(address)
        side = self._sides[family]
        holding = side.held.get(number)
        if holding is not None and holding.fence == fence:
            return self._vacate(side, number)
        text = format_address(family, number)
        last = holding.fence if holding is not None else side.fences.get(number)
        if last is None:
            raise errors.NotHeldError(text, "nobody has held it so far")
        raise errors.StaleFenceError(text, fence, last)

    def _vacate(self, side: _Side, number: int) -> AddressHolding:
        holding = side.held.pop(number)
        del side.numbers[holding.owner]
        side.fences[number] = holding.fence
        block = side.by_first[bisect_right(side.firsts, number) - 1]
        block.addresses.vacate(number)
        side.open = min(side.open, block.order)
        return holding

    # ------------------------------------------------------------------------------------------------ look

    def holdings(self) -> list[AddressHolding]:
        """Everything held, by family and address."""
        return [side.held[number] for side in self._sides.values() for number in sorted(side.held)]

    def utilization(self, family: Family) -> Utilization:
        """Counts over all blocks of a family; all zero without blocks. O(blocks)."""
        blocks = [block.addresses for block in self._sides[family].blocks]
        return Utilization(
            sum(block.capacity for block in blocks),
            sum(block.available for block in blocks),
            sum(block.in_use for block in blocks),
            sum(block.reserved for block in blocks),
        )

    def check_invariants(self) -> None:
        """Assert that blocks, holdings and owners agree, and that counts equal a recount. O(holdings + pages stored)."""
        for family, side in self._sides.items():
            assert side.family == family
            assert [block.order for block in side.blocks] == list(range(len(side.blocks)))
            assert side.by_first == sorted(side.blocks, key=lambda block: block.first)
            assert side.firsts == [block.first for block in side.by_first]
            for left, right in pairwise(side.by_first):
                assert left.last < right.first, f"{left.network} overlaps {right.network}"
            for block in side.blocks:
                block.addresses.check_invariants()
                if block.order < side.open:
                    assert block.addresses.pick() is None, f"{block.network} has room, but is passed over"
            assert side.numbers == {holding.owner: number for number, holding in side.held.items()}
            assert not side.held.keys() & side.fences.keys(), "held, but also recorded as released"
            for number, holding in side.held.items():
                home = side.block_of(number)
                assert home is not None, f"{holding.address} is held outside all blocks"
                assert home.addresses.is_used(number), f"{holding.address} is held, but not marked"
                expected = (to_address(family, number), family, home.network)
                assert (holding.address, holding.family, holding.block) == expected
            assert min([1, *side.fences.values(), *(holding.fence for holding in side.held.values())]) == 1
            assert sum(block.addresses.in_use for block in side.blocks) == len(side.held), "marked, but held by nobody"

    # ------------------------------------------------------------------------------------------------ refuse

    def _block_for(self, side: _Side, number: int) -> _NodeBlock:
        block = side.block_of(number)
        if block is not None:
            return block
        if not side.blocks:
            raise self._no_block(side.family)
        raise errors.OutOfRangeError(
            format_address(side.family, number), f"the blocks of node {self.node!r}", side.names()
        )

    def _why_reserved(self, block: _NodeBlock, number: int) -> str:
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

    def _no_room(self, side: _Side, wanted: int) -> Exception:
        if not side.blocks:
            return self._no_block(side.family)
        counts = self.utilization(side.family)
        return errors.NodeExhaustedError(
            self.node, side.family, side.names(), counts.capacity, counts.in_use, counts.reserved, wanted
        )


def _empty_owner() -> errors.InvalidNameError:
    return errors.InvalidNameError("owner id", "", "it is empty")


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
