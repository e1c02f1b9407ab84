"""The slow twins of `CidrCarver`, `Grouping` and `group_routes`: sets of cells, and every aligned position looked at, every time.

For judging carvers, ours and others. They share no code with what they judge (standard library and `errors` only) and have none
of its ideas: no free list, no buddies, no merging, no tree of owners. A block is free if each of its cells is in the set. Cost
is proportional to the number of cells of all CIDRs, so keep these small: a few hundred cells.

Make one beside what is judged, ask both the same, and compare answers and errors:

>>> twin = CarverOracle(["10.0.0.0/24"], longest=28, blocked=["10.0.0.0/28"])
>>> str(twin.carve(26)), twin.available(26), twin.largest_free
('10.0.0.64/26', 2, 25)
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
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
        self._places: dict[int, list[tuple[Network, range]]] = {}
        for cidr in self._cidrs:
            for length in range(cidr.prefixlen, longest + 1):
                places = ((place, self._cells(place)) for place in cidr.subnets(new_prefix=length))
                self._places.setdefault(length, []).extend(places)

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
        room = self.room(length)
        return min(room, key=lambda position: (-room[position], _first(position)), default=None)

    def within(self, prefix: Network, length: int) -> Network | None:
        """The position of that length inside a prefix with the least free space around it there, the lowest among equals."""
        return _tightest(prefix, self.room(length))

    def beside(self, held: Iterable[Network], length: int) -> Network | None:
        """Of the prefixes around the first address of a block of `held`, the smallest that has a position; then as `within`."""
        room = self.room(length)
        found = []
        for block in held:
            cover = next((cover for cover in _around(block, length) if _tightest(cover, room)), None)
            if cover is not None:
                found.append(cover)
        smallest = min(found, key=lambda cover: (cover.num_addresses, _first(cover)), default=None)
        return _tightest(smallest, room) if smallest is not None else None

    def occupy(self, block: Network) -> None:
        """Take exactly this block.

        Raises:
            OutOfRangeError: No CIDR holds all of it.
            BlockTakenError: One of its cells is not free.
        """
        if not self.inside(block):
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
        return [position for position, cells in self._places.get(length, ()) if self._free.issuperset(cells)]

    def room(self, length: int) -> dict[Network, int]:
        """Each free position of that length, and how many addresses the largest free position around it has."""
        sizes = {cell: larger.num_addresses for larger in self.free_prefixes() for cell in self._cells(larger)}
        return {position: sizes[self._cells(position)[0]] for position in self.positions(length)}

    def free_prefixes(self) -> list[Network]:
        """The free positions that lie in no larger free position of the same CIDR, sorted."""
        maximal: list[Network] = []
        seen: set[int] = set()
        for length in sorted(self._places):
            for position, cells in self._places[length]:
                if self._free.issuperset(cells) and seen.isdisjoint(cells):
                    maximal.append(position)
                    seen.update(cells)
        return sorted(maximal, key=_first)

    def taken(self) -> list[Network]:
        """The blocks that are taken, sorted."""
        return sorted(self._taken, key=_first)

    def available(self, length: int) -> int:
        """The number of free positions of that length."""
        return len(self.positions(length))

    def inside(self, prefix: Network) -> bool:
        """Whether one CIDR holds the whole prefix."""
        return any(_covers(cidr, prefix) for cidr in self._cidrs)

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

    def _cells(self, prefix: Network) -> range:
        first = _first(prefix) // self._cell_size
        return range(first, first + (1 << (self.longest - prefix.prefixlen)))


def _first(prefix: Network) -> int:
    return int(prefix.network_address)


class GroupOracle:
    """What `Grouping` must choose: the rule of its module, read out loud.

    Attributes:
        carver: What is free.
        groups: The group of each block that is held.
    """

    def __init__(self, carver: CarverOracle) -> None:
        self.carver = carver
        self.groups: dict[Network, str] = {}

    def note(self, block: Network, group: str) -> bool:
        """Remember whose a block is, if it lies in a CIDR and shares nothing with another."""
        if not self.carver.inside(block) or any(block.overlaps(other) for other in self.groups):
            return False
        self.groups[block] = group
        return True

    def is_pure(self, prefix: Network, group: str) -> bool:
        """Whether it lies in a CIDR, and has blocks of this group and of no other."""
        return self.carver.inside(prefix) and {g for block, g in self.groups.items() if block.overlaps(prefix)} == {group}

    def choose(self, length: int, group: str, held: Iterable[Network] = ()) -> Network | None:
        """The block that a node of the group should get; None if none is free."""
        room = self.carver.room(length)
        own = []
        for block in held:
            cover = next((cover for cover in _around(block, length) if _tightest(cover, room)), None)
            if cover is not None and self.is_pure(cover, group):
                own.append(cover)
        if own:
            return _tightest(min(own, key=lambda cover: (cover.num_addresses, _first(cover))), room)
        seen: list[Network] = []
        for block in sorted((block for block, other in self.groups.items() if other == group), key=_first):
            if any(_covers(region, block) for region in seen):
                continue
            pure = [cover for cover in _around(block, block.prefixlen) if self.is_pure(cover, group)]
            seen.append(pure[-1])
            for cover in pure:
                if (best := _tightest(cover, room)) is not None:
                    return best
        return self.carver.sparse(length)


def group_routes_oracle(
    blocks: Iterable[tuple[Network, str, float]], cidrs: Iterable[Network], reserved: Iterable[Network], longest: int
) -> dict[str, tuple[list[Network], list[Network], int]]:
    """What is announced, the supernets, and how many would be announced had the blocks been carved lowest first; by group.

    Takes disjoint blocks of one family, and counts in cells of the length `longest`.
    """
    held, roots, never = list(blocks), list(cidrs), list(reserved)

    def cells(prefixes: Iterable[Network]) -> set[Network]:
        return {cell for prefix in prefixes for cell in prefix.subnets(new_prefix=longest)}

    def fewest(prefixes: Iterable[Network]) -> list[Network]:
        return sorted(collapse_addresses(list(prefixes)), key=_first)  # type: ignore[type-var]  # one family

    trial = CarverOracle(roots, longest, never)
    fixed = []
    for block, _, _ in held:
        try:
            trial.occupy(block)
        except (BlockTakenError, OutOfRangeError):
            fixed.append(block)
    replay = CarverOracle(roots, longest, [*never, *fixed])
    instead = {
        block: block if block in fixed else replay.carve(block.prefixlen)
        for _, _, block in sorted((since, _first(block), block) for block, _, since in held)
    }
    report = {}
    for group in {group for _, group, _ in held}:
        own = [block for block, other, _ in held if other == group]
        others = [block for block, other, _ in held if other != group]
        unused = {cell for cell in cells(roots) - cells(others) if not any(_covers(prefix, cell) for prefix in never)}
        allowed = unused | (cells(own) & cells(roots))
        supernets = [block for block in own if not any(_covers(root, block) for root in fewest(roots))]
        for region in fewest(allowed):
            inside = cells(own) & cells([region])
            if inside:
                covers = _around(min(inside, key=_first), longest)
                supernets.append(next(cover for cover in covers if inside <= cells([cover])))
        report[group] = fewest(own), fewest(supernets), len(fewest(instead[block] for block in own))
    return report


def _around(prefix: Network, length: int) -> list[Network]:
    """Every prefix around its first address, from that length on to /0."""
    return [type(prefix)((_first(prefix), size), strict=False) for size in range(length, -1, -1)]


def _tightest(prefix: Network, room: dict[Network, int]) -> Network | None:
    inside = [position for position in room if _covers(prefix, position)]
    return min(inside, key=lambda p: (min(room[p], prefix.num_addresses), _first(p)), default=None)


def _covers(larger: Network, smaller: Network) -> bool:
    first = _first(smaller)
    return _first(larger) <= first and first + smaller.num_addresses <= _first(larger) + larger.num_addresses


__all__ = ["CarverOracle", "GroupOracle", "Network", "group_routes_oracle"]
