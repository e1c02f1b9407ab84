"""Blocks out of CIDRs: which prefix a node gets next, and what becomes of it when it is given back.

Takes the CIDRs of one pool and one family from `pool`, hands blocks to nodes, whose addresses `allocator` gives out. Pure
arithmetic over integers: no store, no clock, no policy about who gets what.

**Theory.** The free space is kept as its *maximal* free prefixes: the aligned prefixes inside one CIDR that are wholly free and
not part of a larger such prefix. That set is unique. A prefix of length L is free exactly if it is one of them or lies in one
of them, so a block of length L exists if and only if a maximal free prefix of length L or shorter does::

    10.0.0.0/22, of which 10.0.0.64/26 is taken

    /22  ·
    /23  ├─ ·                  └─ 10.0.2.0/23      free
    /24  │  ├─ ·  └─ 10.0.1.0/24                   free
    /25  │  │  ├─ ·  └─ 10.0.0.128/25              free
    /26  │  │  │  ├─ 10.0.0.0/26                   free
         │  │  │  └─ 10.0.0.64/26                  taken

*Best fit* takes the longest maximal free prefix that is not longer than asked, the lowest address among equals. What is left
over is split into one half of each length on the way down (buddies). Best fit means that none of these lengths had a free
prefix before, and so a larger prefix is never broken while a smaller one would do. Giving back joins a block with its buddy as
long as that is free whole, up to the CIDR as it was configured: neighbouring CIDRs stay two, because an operator may take
either away again.

**Choices.** Best fit fills a pool from one end and keeps large prefixes whole. Policies ask three more questions. *Sparse*: the
first block of the *largest* free prefix, the lowest address among equals. In an untouched /16 the /24s come as 0, 128, 64, 192,
32, 96, ...: RFC 3531's leftmost order, but for the order inside a level (the RFC mirrors that too: 32, 160, 96, 224). Each
block halves the largest gap either way, so the space behind it stays free as long as possible, and its holder can grow in
place. *Within*: best fit inside one prefix. *Beside*: best fit inside the smallest prefix that covers a given block and has
room: its buddy if that is free, for both together are one route. All answers follow from what is free and from nothing else,
so a restored carver gives the same ones.

**Structure.** Free prefixes are disjoint, so the first address names one: `_free` maps it to its length and answers "is this
buddy free, and whole?" in one look. For each length a `SortedList` keeps the same networks in order, for "which is the lowest?".
One integer has a bit for each length that has free prefixes: best fit is "highest bit at or below L", the largest free prefix
is the lowest bit. `_taken` maps the blocks that are out in the same way.

Why a `SortedList` and a dictionary: a `SortedSet` keeps one hash set for each length beside its list, which a dictionary over
all lengths does once, and its calls go through one more layer. A heap with lazy deletion is faster on average, but a
merge leaves dead entries in it, so now and then one call pays for a clean-up of all; and it knows only its lowest entry, where
*within* and *beside* need the order. `benchmarks/bench_carver.py` runs all three.

**Complexity**, with f free prefixes: a step at one length is O(log f) (as good as: the list is cut into pieces of bounded
size), and an operation touches at most the lengths between the prefix split or joined and the block, usually one or two.
`peek_within` and, for each block held, `peek_beside` look at most once at each length that has free prefixes.

**Invariants** (`check_invariants`): free, taken and blocked prefixes tile the CIDRs exactly; no two free buddies inside one
CIDR; the lists, the dictionary and the bits say the same.

Not thread-safe; the facade serialises.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise

from sortedcontainers import SortedList

from ciliumipam.cidr import WIDTH, Family, Network, Prefix, PrefixLike, parse_prefix
from ciliumipam.errors import (
    BlockTakenError,
    InvalidCidrError,
    InvalidRequestError,
    NotHeldError,
    OutOfRangeError,
    PoolExhaustedError,
)

_SIZES = {family: tuple(1 << (width - length) for length in range(width + 1)) for family, width in WIDTH.items()}
_MASKS = {family: tuple((1 << width) - size for size in _SIZES[family]) for family, width in WIDTH.items()}
_UP_TO = tuple((2 << length) - 1 for length in range(WIDTH[6] + 1))


class CidrCarver:
    """The free and taken blocks of one pool and one family; blocks of any mix of lengths.

    The typed methods (`carve`, `occupy`, `give_back`) take what a person has and raise what a person can read. The integer
    methods (`take`, `peek`, `occupy_bits`, `give_back_bits`) do the same work for callers that hold integers, and answer -1 or
    False. Both refuse what would break an invariant; neither knows who holds a block.

    Attributes:
        family: 4 or 6.
        pool: The name that errors carry.
        cidrs: What is carved, sorted, exactly as configured (neighbours are not joined).
        capacity: Addresses in `cidrs`, blocked ones included.
        blocked: Addresses in `cidrs` that can never be carved.
    """

    def __init__(self, cidrs: Iterable[PrefixLike], *, blocked: Iterable[PrefixLike] = (), pool: str = "") -> None:
        """Everything in `cidrs` that is not in `blocked` is free.

        Args:
            cidrs: One or more disjoint CIDRs of one family, in any order.
            blocked: Prefixes of the same family that are never carved: reserved ones, and blocks held from before that no
                longer fit (larger than a CIDR, across its edge, overlapping each other or a reserved prefix). What of them
                lies outside `cidrs` has no effect.
            pool: The name that errors carry.

        Raises:
            InvalidCidrError: A value is not a CIDR, two of `cidrs` overlap, or the families differ.
            InvalidRequestError: No CIDR was given.

        Complexity:
            O(b log b + f) for b blocked prefixes, which leave f free ones: at most one for each blocked prefix and length.
        """
        roots = sorted(parse_prefix(cidr) for cidr in cidrs)
        if not roots:
            raise InvalidRequestError("a carver needs at least one CIDR")
        self.family: Family = roots[0].family
        self.pool = pool
        self._width = WIDTH[self.family]
        self._sizes = _SIZES[self.family]
        self._masks = _MASKS[self.family]
        for lower, upper in pairwise(roots):
            self._check_family(upper)
            if upper.network <= lower.last:
                raise InvalidCidrError(str(upper), f"it overlaps {lower}; the CIDRs of a pool must be disjoint")
        self.cidrs: tuple[Network, ...] = tuple(root.to_network() for root in roots)
        self.capacity: int = sum(root.size for root in roots)
        self._roots: dict[int, int] = {root.network: root.length for root in roots}
        self._taken: dict[int, int] = {}
        holes = []
        for value in blocked:
            prefix = parse_prefix(value)
            self._check_family(prefix)
            holes.append((prefix.network, prefix.last))
        holes.sort()
        self._blocked: list[tuple[int, int]] = []
        self._free: dict[int, int] = {}
        by_length: list[list[int]] = [[] for _ in self._sizes]
        for first, last in self._gaps(roots, holes):
            for network, length in _maximal(first, last, self._width):
                self._free[network] = length
                by_length[length].append(network)
        self._levels: list[SortedList[int]] = [SortedList(networks) for networks in by_length]
        self._lengths: int = sum(1 << length for length, networks in enumerate(by_length) if networks)
        self.blocked: int = sum(last - first + 1 for first, last in self._blocked)

    def __repr__(self) -> str:
        """Pool, CIDRs and what is left."""
        largest = f"/{self.largest_free}" if self._lengths else "none"
        cidrs = ", ".join(map(str, self.cidrs))
        return f"<CidrCarver {self.pool!r} {cidrs}: {len(self._taken)} blocks taken, {self.free} addresses free, largest {largest}>"

    # -------------------------------------------------------------------------------------------- integers, hot

    def take(self, length: int, *, sparse: bool = False) -> int:
        """Carve the block that `peek` names.

        Returns:
            The first address of the block, or -1 if there is no free block of that length (and none of a length that the
            family does not have).
        """
        if not 0 <= length <= self._width:
            return -1
        fitting = self._lengths & _UP_TO[length]
        if not fitting:
            return -1
        at = (fitting & -fitting if sparse else fitting).bit_length() - 1
        level = self._levels[at]
        network = level.pop(0)
        del self._free[network]
        if not level:
            self._lengths ^= 1 << at
        if at < length:
            self._split(network, at, length)
        self._taken[network] = length
        return network

    def peek(self, length: int, *, sparse: bool = False) -> int:
        """What `take` would return now. Changes nothing.

        The first block of the smallest free prefix that is large enough, or if `sparse` of the largest; the lowest among equals.
        """
        fitting = self._lengths & _UP_TO[length] if 0 <= length <= self._width else 0
        return self._levels[(fitting & -fitting if sparse else fitting).bit_length() - 1][0] if fitting else -1

    def peek_within(self, network: int, prefix_length: int, length: int) -> int:
        """The best fitting free block inside a prefix, the lowest address among equals.

        Args:
            network: First address of the prefix, which may be larger than every CIDR.
            prefix_length: Length of the prefix.
            length: Prefix length of the block.

        Returns:
            The first address of the block, or -1 if the prefix has no free block of that length (or is none of the family).
        """
        if not 0 <= prefix_length <= length <= self._width or network & self._masks[prefix_length] != network:
            return -1
        last = network + self._sizes[prefix_length] - 1
        inside = self._lengths & (_UP_TO[length] ^ _UP_TO[prefix_length])
        while inside:
            at = inside.bit_length() - 1
            level = self._levels[at]
            index = level.bisect_left(network)
            if index < len(level) and level[index] <= last:
                return level[index]
            inside ^= 1 << at
        around = self._lengths & _UP_TO[prefix_length]
        while around:
            at = around.bit_length() - 1
            if self._free.get(network & self._masks[at]) == at:
                return network
            around ^= 1 << at
        return -1

    def peek_beside(self, held: Iterable[int], length: int) -> int:
        """The best fitting free block inside the smallest prefix that covers a block of somebody's and has a free one.

        The buddy of one of these blocks, if any is free. Among prefixes of one size the lowest counts.

        Args:
            held: First addresses of somebody's blocks, which need be neither of that length nor in the CIDRs.
            length: Prefix length of the block wanted.

        Returns:
            The first address of the block, or -1 if no block of that length is free anywhere, or none is held.
        """
        reach, index = self._width + 1, 0
        for network in held:
            bits = self._reach(network, length)
            reach, index = min((reach, index), (bits, network >> bits))
        return self.peek_within(index << reach, self._width - reach, length)

    def _reach(self, network: int, length: int) -> int:
        """Host bits of the smallest prefix that covers an address and has a free block of that length; width + 1 if none has.

        Of the free prefixes of one length, sorted, the last up to the address or the first behind it has most bits in common.
        """
        width = self._width
        reach = width + 1
        fitting = self._lengths & _UP_TO[length] if 0 <= length <= width else 0
        while fitting:
            at = fitting.bit_length() - 1
            if reach <= width - at:
                break  # one this large has no room beside the address in so small a prefix
            level = self._levels[at]
            index = level.bisect_right(network)
            if index:
                bits = (network ^ level[index - 1]).bit_length()
                reach = min(reach, bits if bits > width - at else width - length)  # or the address itself is free
            if index < len(level):
                reach = min(reach, (network ^ level[index]).bit_length())
            fitting ^= 1 << at
        return reach

    def occupy_bits(self, network: int, length: int) -> bool:
        """Take exactly this block, if it is wholly free.

        Returns:
            Whether it was taken. False, and nothing changed, if any of it is taken, blocked or outside the CIDRs, or if it is
            not a prefix of the family.
        """
        if not 0 <= length <= self._width or network & self._masks[length] != network:
            return False
        fitting = self._lengths & _UP_TO[length]
        while fitting:
            at = fitting.bit_length() - 1
            cover = network & self._masks[at]
            if self._free.get(cover) == at:
                self._remove(cover, at)
                self._split(network, at, length)
                self._taken[network] = length
                return True
            fitting ^= 1 << at
        return False

    def give_back_bits(self, network: int, length: int) -> bool:
        """Free a block and join it with its buddies.

        Returns:
            Whether it was given back. False, and nothing changed, if it was not taken as this very block.
        """
        if self._taken.get(network) != length:
            return False
        del self._taken[network]
        free, sizes = self._free, self._sizes
        buddy = network ^ sizes[length]
        while free.get(buddy) == length and self._roots.get(network) != length:
            self._remove(buddy, length)
            network &= buddy
            length -= 1
            buddy = network ^ sizes[length]
        free[network] = length
        self._levels[length].add(network)
        self._lengths |= 1 << length
        return True

    def _remove(self, network: int, length: int) -> None:
        """Drop one free prefix from all three places."""
        level = self._levels[length]
        level.remove(network)
        del self._free[network]
        if not level:
            self._lengths ^= 1 << length

    def _split(self, network: int, at: int, length: int) -> None:
        """Free what is left of the prefix of length `at` around a block: its buddy at each length on the way down."""
        free, levels, masks, sizes = self._free, self._levels, self._masks, self._sizes
        self._lengths |= _UP_TO[length] ^ _UP_TO[at]
        while at < length:
            at += 1
            buddy = network & masks[at] ^ sizes[at]
            free[buddy] = at
            levels[at].add(buddy)

    # ---------------------------------------------------------------------------------------------------- typed

    def carve(self, length: int, *, sparse: bool = False) -> Network:
        """Take the best fitting free block: out of the smallest free prefix that is large enough, lowest address first.

        Args:
            length: Prefix length of the block, 0 to 32 or 128.
            sparse: Out of the largest free prefix instead, so that the space behind each block stays free longest.

        Returns:
            A block inside `cidrs` that overlaps nothing that is taken or blocked.

        Raises:
            PoolExhaustedError: No aligned free block of that length exists. `largest_free` says what would fit.
            InvalidRequestError: The family has no such length.

        Example:
            >>> carver = CidrCarver(["10.0.0.0/22"])
            >>> carver.carve(24), carver.carve(26), carver.carve(24)
            (IPv4Network('10.0.0.0/24'), IPv4Network('10.0.1.0/26'), IPv4Network('10.0.2.0/24'))
        """
        self._check_length(length)
        network = self.take(length, sparse=sparse)
        if network < 0:
            raise PoolExhaustedError(self.pool, self.family, length, self.largest_free)
        return Prefix(self.family, network, length).to_network()

    def occupy(self, prefix: PrefixLike) -> None:
        """Take exactly this block, as on restore, when it is known to be held.

        Raises:
            BlockTakenError: Some of it is taken or blocked.
            OutOfRangeError: Some of it lies outside the CIDRs, or in two of them.
            InvalidCidrError: It is not a CIDR of this family.
        """
        block = self._parse(prefix)
        if self.occupy_bits(block.network, block.length):
            return
        if not any(parse_prefix(cidr).covers(block) for cidr in self.cidrs):
            raise OutOfRangeError(str(block), f"pool {self.pool!r}", tuple(map(str, self.cidrs)))
        raise BlockTakenError(str(block), self.pool, self._why_not_free(block))

    def give_back(self, prefix: PrefixLike) -> None:
        """Make a block that was carved or occupied free again.

        Raises:
            NotHeldError: It is not taken as this very block (a part of a block, or several together, cannot be given back).
            InvalidCidrError: It is not a CIDR of this family.
        """
        block = self._parse(prefix)
        if not self.give_back_bits(block.network, block.length):
            holder = self._holder(block)
            reason = f"it is part of block {holder}; give that back whole" if holder else "no such block is taken"
            raise NotHeldError(str(block), f"{reason} (pool {self.pool!r})")

    def free_prefixes(self) -> list[Network]:
        """The maximal free prefixes, sorted by address."""
        return [Prefix(self.family, network, length).to_network() for network, length in sorted(self._free.items())]

    def taken(self) -> list[Network]:
        """The blocks that are carved or occupied, sorted by address."""
        return [Prefix(self.family, network, length).to_network() for network, length in sorted(self._taken.items())]

    @property
    def largest_free(self) -> int | None:
        """Length of the largest free prefix (the smallest number that `carve` accepts now), or None if nothing is free."""
        return (self._lengths & -self._lengths).bit_length() - 1 if self._lengths else None

    @property
    def free(self) -> int:
        """Free addresses. Capacity less free less blocked is what is taken."""
        return self.available(self._width)

    def available(self, length: int) -> int:
        """How many blocks of that length could be carved now, if nothing else were. Exact.

        Raises:
            InvalidRequestError: The family has no such length.

        Complexity:
            O(number of lengths), whatever is free.
        """
        self._check_length(length)
        return sum(len(level) << (length - at) for at, level in enumerate(self._levels[: length + 1]))

    def fragmentation(self) -> float:
        """Share of the free addresses that is not in the largest free prefix: 0.0 (one piece, or nothing free) to below 1.0.

        CIDRs never join and blocked space is not free, so a pool of several CIDRs, or with a hole, has some from the beginning.
        """
        largest = self.largest_free
        return 0.0 if largest is None else 1 - self._sizes[largest] / self.free

    def check_invariants(self) -> None:
        """Recount everything from the prefixes themselves.

        Raises:
            AssertionError: This object is broken: a bug of ours.

        Complexity:
            O(n log n) for n free, taken and blocked prefixes.
        """
        held = [(n, n + self._sizes[length] - 1) for blocks in (self._free, self._taken) for n, length in blocks.items()]
        pieces = sorted(held + self._blocked)
        tiles = 0
        for network, length in sorted(self._roots.items()):
            end = network + self._sizes[length]
            inside = pieces[bisect_left(pieces, (network, 0)) : bisect_left(pieces, (end, 0))]
            tiles += len(inside)
            tiled = [network, *(last + 1 for _, last in inside)] == [*(first for first, _ in inside), end]
            _require(tiled, "tiles each CIDR")
        _require(tiles == len(pieces), "lies in the CIDRs")
        _require(self.capacity == sum(self._sizes[length] for length in self._roots.values()), "capacity")
        _require(self.blocked == sum(last - first + 1 for first, last in self._blocked), "blocked")
        by_length: list[list[int]] = [[] for _ in self._levels]
        for network, length in sorted(self._free.items()):
            by_length[length].append(network)
            whole = self._free.get(network ^ self._sizes[length]) != length or self._roots.get(network) == length
            _require(whole, "free buddies are joined")
        for network, length in (*self._free.items(), *self._taken.items()):
            _require(network & self._masks[length] == network, "is aligned")
        _require([list(level) for level in self._levels] == by_length, "lists of free prefixes")
        _require(self._lengths == sum(1 << length for length, level in enumerate(self._levels) if level), "lengths")

    # ------------------------------------------------------------------------------------------------- within

    def _check_family(self, prefix: Prefix) -> None:
        if prefix.family != self.family:
            raise InvalidCidrError(str(prefix), f"a carver has one family, and this one has IPv{self.family}")

    def _check_length(self, length: int) -> None:
        if not 0 <= length <= self._width:
            raise InvalidRequestError(f"an IPv{self.family} length is 0 to {self._width}, not {length}")

    def _parse(self, value: PrefixLike) -> Prefix:
        prefix = parse_prefix(value)
        self._check_family(prefix)
        return prefix

    def _holder(self, block: Prefix) -> Prefix | None:
        """The taken block that covers this one."""
        for length in range(block.length, -1, -1):
            network = block.network & self._masks[length]
            if self._taken.get(network) == length:
                return Prefix(self.family, network, length)
        return None

    def _why_not_free(self, block: Prefix) -> str:
        holder = self._holder(block)
        if holder is not None:
            return "it is taken already" if holder == block else f"it is part of block {holder}, which is taken"
        below = bisect_left(self._blocked, (block.last + 1, 0))
        if below and self._blocked[below - 1][1] >= block.network:
            return "some of it is blocked (reserved, or held from before)"
        return "some of it is taken by smaller blocks"

    def _gaps(self, roots: list[Prefix], holes: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The ranges of each root between the holes, both sorted; notes in `_blocked` what of the holes lies in the roots."""
        index = 0
        for root in roots:
            cursor, last = root.network, root.last
            while index < len(holes) and holes[index][0] <= last:
                hole_first, hole_last = holes[index]
                if hole_last >= cursor:
                    if hole_first > cursor:
                        yield cursor, hole_first - 1
                        cursor = hole_first
                    self._blocked.append((cursor, min(hole_last, last)))
                    cursor = hole_last + 1
                    if cursor > last:
                        break  # without going on: the hole may reach into the next CIDR
                index += 1
            if cursor <= last:
                yield cursor, last


def _maximal(first: int, last: int, width: int) -> Iterator[tuple[int, int]]:
    """The fewest aligned prefixes, as (network, length), that make up the range, both ends included."""
    while first <= last:
        bits = (last - first + 1).bit_length() - 1
        if first:
            bits = min(bits, (first & -first).bit_length() - 1)
        yield first, width - bits
        first += 1 << bits


def _require(holds: bool, what: str) -> None:  # noqa: FBT001 - one fact and its name
    if not holds:
        raise AssertionError(f"CidrCarver broken: {what}")
