"""The slow twin of `CidrCarver`: a set of free cells, and every aligned position looked at, every time.

For judging carvers, ours and others. It shares no code with what it judges (standard library and `errors` only) and has none of
its ideas: no free list, no buddies, no merging. A block is free if each of its cells is in the set. Cost is proportional to the
number of cells of all CIDRs, so keep these small: a few hundred cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

from ciliumipam.errors import BlockTakenError, InvalidRequestError, NotHeldError, OutOfRangeError, PoolExhaustedError

Network: TypeAlias = IPv4Network | IPv6Network


class CarverOracle:
    """What `CidrCarver` must do, by enumeration of cells, which are prefixes of the length `longest`.

    Nothing longer than a cell may be asked for or blocked: it could not be told from a whole cell.
    """

    def __init__(self, cidrs: Iterable[str | Network], longest: int, blocked: Iterable[str | Network] = ()) -> None:
        """Everything in `cidrs` that is not in `blocked` is free; `longest` is the length of a cell."""
        self.longest = longest
        self._cidrs: list[Network] = sorted(map(ip_network, cidrs), key=_first)
        self._family = self._cidrs[0].version
        self._width = self._cidrs[0].max_prefixlen
        self._cell_size = 1 << (self._width - longest)
        self._all = {cell for cidr in self._cidrs for cell in self._cells(cidr)}
        holes = [self._cells(prefix) for prefix in map(ip_network, blocked)]
        self._free = {cell for cell in self._all if not any(cell in hole for hole in holes)}
        self._taken: set[Network] = set()

    def carve(self, length: int) -> Network:
        """The lowest block of that length inside the smallest maximal free prefix that has one.

        Raises:
            PoolExhaustedError: No position of that length is free.
            InvalidRequestError: The family has no such length.
        """
        if not 0 <= length <= self._width:
            raise InvalidRequestError(f"no length {length}")
        fitting = [prefix for prefix in self.free_prefixes() if prefix.prefixlen <= length]
        if not fitting:
            raise PoolExhaustedError("", self._family, length, self.largest_free)
        smallest = max(prefix.prefixlen for prefix in fitting)
        whole = min((prefix for prefix in fitting if prefix.prefixlen == smallest), key=_first)
        block = next(position for position in self.positions(length) if _covers(whole, position))
        self.occupy(block)
        return block

    def sparse(self, length: int) -> Network | None:
        """The position of that length with the most free space around it, the lowest among equals; None if none is free."""
        room = self._room(length)
        return min(room, key=lambda position: (-room[position], _first(position)), default=None)

    def within(self, prefix: Network, length: int) -> Network | None:
        """The position of that length inside a prefix with the least free space around it there, the lowest among equals."""
        return _tightest(prefix, self._room(length))

    def beside(self, held: Iterable[Network], length: int) -> Network | None:
        """Of the prefixes around the first address of a block of `held`, the smallest that has a position; then as `within`."""
        room = self._room(length)
        found = []
        for block in held:
            for size in range(length if room else -1, -1, -1):
                best = _tightest(ip_network((block.network_address, size), strict=False), room)
                if best is not None:
                    found.append((-size, _first(best), best))
                    break
        return min(found)[2] if found else None

    def occupy(self, block: Network) -> None:
        """Take exactly this block.

        Raises:
            OutOfRangeError: No CIDR holds all of it.
            BlockTakenError: One of its cells is not free.
        """
        if not any(_covers(cidr, block) for cidr in self._cidrs):
            raise OutOfRangeError(str(block), "", tuple(map(str, self._cidrs)))
        if not self._free.issuperset(self._cells(block)):
            raise BlockTakenError(str(block), "", "not free")
        self._free.difference_update(self._cells(block))
        self._taken.add(block)

    def give_back(self, block: Network) -> None:
        """Free a block.

        Raises:
            NotHeldError: This very block is not taken.
        """
        if block not in self._taken:
            raise NotHeldError(str(block), "not taken")
        self._taken.remove(block)
        self._free.update(self._cells(block))

    def positions(self, length: int) -> list[Network]:
        """Every aligned position of that length inside one CIDR that is wholly free, sorted."""
        wide_enough = (cidr for cidr in self._cidrs if cidr.prefixlen <= length)
        return [
            p for cidr in wide_enough for p in cidr.subnets(new_prefix=length) if self._free.issuperset(self._cells(p))
        ]

    def free_prefixes(self) -> list[Network]:
        """The free positions that lie in no larger free position of the same CIDR, sorted."""
        maximal: list[Network] = []
        for length in range(self.longest + 1):
            for position in self.positions(length):
                if not any(_covers(larger, position) for larger in maximal):
                    maximal.append(position)
        return sorted(maximal, key=_first)

    def taken(self) -> list[Network]:
        """The blocks that are taken, sorted."""
        return sorted(self._taken, key=_first)

    def available(self, length: int) -> int:
        """The number of free positions of that length."""
        return len(self.positions(length))

    @property
    def largest_free(self) -> int | None:
        """The shortest length with a free position."""
        return next((length for length in range(self.longest + 1) if self.positions(length)), None)

    @property
    def capacity(self) -> int:
        """Addresses of all CIDRs."""
        return len(self._all) * self._cell_size

    @property
    def free(self) -> int:
        """Free addresses."""
        return len(self._free & self._all) * self._cell_size

    def fragmentation(self) -> float:
        """Share of the free addresses outside the largest free position."""
        largest = max((position.num_addresses for position in self.free_prefixes()), default=0)
        return 1 - largest / self.free if largest else 0.0

    def _room(self, length: int) -> dict[Network, int]:
        """Each free position of that length, and how many addresses the largest free position around it has."""
        maximal = self.free_prefixes()
        return {
            position: next(larger.num_addresses for larger in maximal if _covers(larger, position))
            for position in self.positions(length)
        }

    def _cells(self, prefix: Network) -> range:
        first = _first(prefix) // self._cell_size
        return range(first, first + (1 << (self.longest - prefix.prefixlen)))


def _first(prefix: Network) -> int:
    return int(prefix.network_address)


def _tightest(prefix: Network, room: dict[Network, int]) -> Network | None:
    inside = [position for position in room if _covers(prefix, position)]
    return min(inside, key=lambda p: (min(room[p], prefix.num_addresses), _first(p)), default=None)


def _covers(larger: Network, smaller: Network) -> bool:
    first = _first(smaller)
    return _first(larger) <= first and first + smaller.num_addresses <= _first(larger) + larger.num_addresses
