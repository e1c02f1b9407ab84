"""One side of a node, IPv4 or IPv6, in plain integers: its blocks, who holds which address under which fence, and what cools.

`allocator` keeps two of them; it parses what it is given and refuses what cannot be. Reads no clock; times are seconds since the
epoch. Not thread-safe; the caller serialises.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from ciliumipam import errors
from ciliumipam.addresses import BlockAddresses
from ciliumipam.cidr import Address, Family, Network, to_address


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


class AddressCooling(NamedTuple):
    """One address that was released and that nobody gets before a time.

    Attributes:
        address: The address.
        family: 4 or 6.
        block: The block that it lies in.
        fence: Number of its last holding.
        until: When it becomes available, in seconds since the epoch.
    """

    address: Address
    family: Family
    block: Network
    fence: int
    until: float


class Utilization(NamedTuple):
    """Counts of addresses over all blocks of one family; capacity is the sum of the others."""

    capacity: int
    available: int
    in_use: int
    cooling: int
    reserved: int


class SideBlock:
    """A block of a node, with what every allocation out of it needs at hand.

    Attributes:
        order: Its place among the blocks that serve, which `Side.set_blocks` keeps.
    """

    __slots__ = ("addresses", "first", "last", "network", "order")

    def __init__(self, addresses: BlockAddresses) -> None:
        """Wrap the free index of a block."""
        self.addresses = addresses
        self.first = addresses.block.network
        self.last = addresses.block.last
        self.network = addresses.block.to_network()
        self.order = 0


class Side:
    """What a node has of one family.

    Attributes:
        family: 4 or 6.
        blocks: The blocks in the order in which they serve.
        by_first: The same by first address, which `firsts` has.
        open: Every block before this one has nothing available.
        numbers: The address of each owner.
        held: The holding of each address held.
        fences: Last fence of each address that is no longer held.
        due: A heap of times, each with an address into whose block to look then.
    """

    __slots__ = ("blocks", "by_first", "due", "family", "fences", "firsts", "held", "numbers", "open")

    def __init__(self, family: Family) -> None:
        """Without blocks."""
        self.family: Family = family
        self.blocks: list[SideBlock] = []
        self.by_first: list[SideBlock] = []
        self.firsts: list[int] = []
        self.open = 0
        self.numbers: dict[str, int] = {}
        self.held: dict[int, AddressHolding] = {}
        self.fences: dict[int, int] = {}
        self.due: list[tuple[float, int]] = []

    def set_blocks(self, blocks: list[SideBlock]) -> None:
        """Let these blocks serve, in this order."""
        self.blocks = blocks
        for order, block in enumerate(blocks):
            block.order = order
        self.by_first = sorted(blocks, key=lambda block: block.first)
        self.firsts = [block.first for block in self.by_first]
        self.open = 0

    def block_of(self, number: int) -> SideBlock | None:
        """The block that an address lies in. O(log b)."""
        at = bisect_right(self.firsts, number) - 1
        if at < 0 or self.by_first[at].last < number:
            return None
        return self.by_first[at]

    def names(self) -> tuple[str, ...]:
        """The blocks as people write them, in the order in which they serve."""
        return tuple(str(block.network) for block in self.blocks)

    # ------------------------------------------------------------------------------------------------ change

    def take(self, owner: str, label: str, drawn: int) -> AddressHolding | None:
        """Give an owner that holds nothing the next address of the first block that has one, None if none has.

        Args:
            owner: Id of the owner.
            label: Its name for people.
            drawn: See `BlockAddresses.pick`.

        Raises:
            InvalidNameError: The owner is empty.
        """
        blocks = self.blocks
        for at in range(self.open, len(blocks)):
            number = blocks[at].addresses.pick(drawn)
            if number is not None:
                self.open = at
                return self.hold(blocks[at], number, owner, label)
        self.open = len(blocks)
        return None

    def hold(self, block: SideBlock, number: int, owner: str, label: str, *, fence: int = 0) -> AddressHolding:
        """Take an address that nobody holds. Without a fence it is a new holding: next fence, and the cursor moves on.

        Raises:
            InvalidNameError: The owner is empty.
        """
        if not owner:
            raise errors.InvalidNameError("owner id", "", "it is empty")
        addresses = block.addresses
        addresses.occupy(number)
        last = self.fences.pop(number, 0)
        if not fence:
            fence = last + 1
            position = number - block.first
            addresses.set_cursor(position >> 8, (position & 255) + 1)
        self.numbers[owner] = number
        self.held[number] = holding = AddressHolding(
            owner, label, to_address(self.family, number), self.family, block.network, fence
        )
        return holding

    def vacate(self, number: int, until: float | None) -> AddressHolding:
        """Take back an address that is held; it cools until a time, or is available at once if that is None."""
        holding = self.held.pop(number)
        del self.numbers[holding.owner]
        self.fences[number] = holding.fence
        block = self.by_first[bisect_right(self.firsts, number) - 1]
        block.addresses.vacate(number)
        if until is None:
            self.open = min(self.open, block.order)
        else:
            self.cool(block, number, until)
        return holding

    def cool(self, block: SideBlock, number: int, until: float) -> None:
        """Let an address that nobody holds cool until a time."""
        block.addresses.cool(number, until)
        heappush(self.due, (until, number))

    def expire(self, now: float) -> int:
        """Make available what is due, and say how many; O(1) if there is nothing."""
        count = 0
        while self.due and self.due[0][0] <= now:
            block = self.block_of(heappop(self.due)[1])
            if block is not None:
                count += block.addresses.expire(now)
                self.open = min(self.open, block.order)
        return count

    # ------------------------------------------------------------------------------------------------ look

    def coolings(self) -> list[AddressCooling]:
        """Everything that cools, in address order."""
        return [
            AddressCooling(to_address(self.family, number), self.family, block.network, self.fences[number], until)
            for block in self.by_first
            for number, until in block.addresses.coolings()
        ]

    @property
    def cools_until(self) -> float | None:
        """When the first cooling address becomes available, None if none cools. O(blocks)."""
        times = (block.addresses.cools_until for block in self.blocks)
        return min((time for time in times if time is not None), default=None)

    def utilization(self) -> Utilization:
        """Counts over all blocks; all zero without blocks. O(blocks)."""
        blocks = [block.addresses for block in self.blocks]
        return Utilization(
            sum(block.capacity for block in blocks),
            sum(block.available for block in blocks),
            sum(block.in_use for block in blocks),
            sum(block.cooling for block in blocks),
            sum(block.reserved for block in blocks),
        )

    def check_invariants(self) -> None:
        """Assert that blocks, holdings and owners agree, and that counts equal a recount. O(holdings + pages stored)."""
        assert [block.order for block in self.blocks] == list(range(len(self.blocks)))
        assert self.by_first == sorted(self.blocks, key=lambda block: block.first)
        assert self.firsts == [block.first for block in self.by_first]
        for left, right in pairwise(self.by_first):
            assert left.last < right.first, f"{left.network} overlaps {right.network}"
        due = set(self.due)
        for block in self.blocks:
            block.addresses.check_invariants()
            for number, until in block.addresses.coolings():
                assert number in self.fences, "an address cools that nobody has held"
                assert (until, number) in due, "a cooling address would never become available"
            if block.order < self.open:
                assert block.addresses.pick() is None, f"{block.network} has room, but is passed over"
        assert self.numbers == {holding.owner: number for number, holding in self.held.items()}
        assert not self.held.keys() & self.fences.keys(), "held, but also recorded as released"
        for number, holding in self.held.items():
            home = self.block_of(number)
            assert home is not None, f"{holding.address} is held outside all blocks"
            assert home.addresses.is_used(number), f"{holding.address} is held, but not marked"
            expected = (to_address(self.family, number), self.family, home.network)
            assert (holding.address, holding.family, holding.block) == expected
        assert min([1, *self.fences.values(), *(holding.fence for holding in self.held.values())]) == 1
        assert sum(block.addresses.in_use for block in self.blocks) == len(self.held), "marked, but held by nobody"
