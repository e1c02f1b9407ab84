"""The free addresses of one block: which one is next, which are held, which still cool, which are never handed out.

`BlockAddresses` is the free index of one block, in plain integers: the view of the ledger keeps one per block, and `allocator` one
per block of a node. A position of its bitset is the distance from the first address of the block, a leaf word is a page of the
block's ledger, and a cursor is what that page records: the slot after the one last allocated. So the next address is a function of
what is persisted, never of what a process happens to remember.

Three policies. "lowest" takes the lowest free address. "next" takes the lowest page that has room and goes round inside it from
the cursor: low pages fill first, so that late pages and late blocks run empty and can be given back, and yet an address that
was just released is not the next to be given out. "random" takes the first free address from a drawn position on, going round at the
end of the block; the caller draws it from a seed and the owner's id (`draw`), so equal input still gives equal output, and an
owner that comes back finds its address again if it is free. It spreads over all pages, so they do not run empty.

A released address may have to cool before anybody gets it again: it is neither in use nor available until a given time. There is no clock
here: an address becomes available when `expire` is told a time that is late enough. An address that was occupied while it cooled is
held: whoever took it had a clock that said so.

Reserved addresses are never handed out: the ranges asked for, and the first and last of a block in both families as Cilium has
it, but not of a /31 or /127 (RFC 3021, RFC 6164), a /32 or /128. An address that was held before it was reserved stays
held and counts as in use; released, it becomes reserved, not available.

Nothing here is thread-safe; the caller serialises.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Literal, TypeAlias

from ciliumipam import errors
from ciliumipam.bitset import Bitset
from ciliumipam.cidr import WIDTH, Prefix

Policy: TypeAlias = Literal["next", "lowest", "random"]

POLICIES: tuple[Policy, ...] = ("lowest", "next", "random")
"""Every policy, sorted."""

_BELOW = tuple((1 << slot) - 1 for slot in range(256))


def draw(seed: int, owner: str) -> int:
    """128 bits that nothing but a seed and an owner's id decide, for `BlockAddresses.pick` under the policy "random".

    The same on every machine and in every version: BLAKE2b of "<seed>/<owner>" in UTF-8, read big end first. An owner that differs in one
    character, or another seed, gives another number altogether.
    """
    from hashlib import blake2b  # noqa: PLC0415 - loads OpenSSL, which only this policy needs

    text = f"{seed}/{owner}".encode(errors="surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=16).digest(), "big")


class BlockAddresses:
    """The addresses of one block: free, in use, cooling or reserved. Addresses are absolute integers, pages count from the block's first.

    Complexity:
        `pick`, `occupy` and `vacate` are O(1) in the number of addresses and of those in use (O(levels) of the bitset
        when a page fills, and to pick at random), and O(log r) for r reserved ranges; `cool` and `expire` are O(log c) more for
        each of c cooling addresses. Memory: pages partly in use, a cursor per page set, and what cools.

    Attributes:
        block: The block.
        policy: How `pick` chooses.
        capacity: All addresses of the block. Always `available` + `in_use` + `cooling` + `reserved`.
    """

    __slots__ = (
        "_bounds", "_cooling", "_cursors", "_due", "_first", "_full", "_held_reserved", "_slots", "_taken", "_total_reserved",
        "block", "capacity", "policy",
    )  # fmt: skip

    def __init__(
        self,
        block: Prefix,
        reserved: Sequence[tuple[int, int]] = (),
        *,
        allow_first: bool = False,
        allow_last: bool = False,
        policy: Policy = "next",
    ) -> None:
        """Index an unused block. O(r log r) for r reserved ranges, whatever their lengths.

        Args:
            block: The block.
            reserved: Ranges of addresses of the block's family, both ends inclusive. They may overlap and stick out.
            allow_first: Hand out the first address too.
            allow_last: Hand out the last address too.
            policy: How to choose, one of `POLICIES`.

        Raises:
            InvalidRequestError: There is no such policy.
        """
        if policy not in POLICIES:
            raise errors.InvalidRequestError(f"no policy {policy!r}; known: {', '.join(POLICIES)}")
        self.block = block
        self.policy: Policy = policy
        self.capacity = block.size
        self._first = first = block.network
        last = block.last
        self._slots = min(256, self.capacity)
        self._full = (1 << self._slots) - 1
        self._taken = Bitset(WIDTH[block.family] - block.length)
        self._cursors: dict[int, int] = {}
        self._held_reserved: set[int] = set()
        self._cooling: dict[int, float] = {}
        self._due: list[tuple[float, int]] = []  # a heap of what cools, with entries that no longer count among them
        ranges = [(max(low, first), min(high, last)) for low, high in reserved if low <= last and high >= first]
        if self.capacity > 2:
            ranges += [] if allow_first else [(first, first)]
            ranges += [] if allow_last else [(last, last)]
        # flat: start of a reserved range, start of what follows it, and so on; an odd rank is inside one
        self._bounds: list[int] = []
        for low, high in sorted(ranges):
            if self._bounds and low <= self._bounds[-1]:
                self._bounds[-1] = max(self._bounds[-1], high + 1)
            else:
                self._bounds += (low, high + 1)
        for low, end in zip(self._bounds[::2], self._bounds[1::2], strict=True):
            self._taken.add_range(low - first, end - 1 - first)
        self._total_reserved = self._taken.count

    def __repr__(self) -> str:
        """Block, policy and counts."""
        counts = f"{self.in_use}/{self.capacity} in use, {self.cooling} cooling, {self.reserved} reserved"
        return f"<BlockAddresses {self.block} {self.policy}: {counts}>"

    @property
    def in_use(self) -> int:
        """Addresses held, those held inside a range reserved later among them."""
        return self._taken.count - self._total_reserved + len(self._held_reserved) - len(self._cooling)

    @property
    def cooling(self) -> int:
        """Addresses that nobody holds and that nobody gets before their time; see `expire`."""
        return len(self._cooling)

    @property
    def cools_until(self) -> float | None:
        """When the first of the cooling addresses becomes available, in seconds since the epoch; None if none cools."""
        due = self._due
        while due and self._cooling.get(due[0][1]) != due[0][0]:
            heappop(due)
        return due[0][0] if due else None

    @property
    def held_reserved(self) -> int:
        """Addresses held inside a range reserved later."""
        return len(self._held_reserved)

    @property
    def reserved(self) -> int:
        """Addresses reserved and not held."""
        return self._total_reserved - len(self._held_reserved)

    @property
    def available(self) -> int:
        """Addresses that `pick` can still give."""
        return self.capacity - self._taken.count

    def is_reserved(self, number: int) -> bool:
        """Whether an address of the block is never handed out, held or not; False outside the block."""
        return bisect_right(self._bounds, number) & 1 == 1

    def is_used(self, number: int) -> bool:
        """Whether an address is held; False outside the block."""
        if bisect_right(self._bounds, number) & 1:
            return number in self._held_reserved
        return number - self._first in self._taken and number not in self._cooling

    def until(self, number: int) -> float | None:
        """Until when an address cools, in seconds since the epoch; None if it does not."""
        return self._cooling.get(number)

    def coolings(self) -> list[tuple[int, float]]:
        """Every cooling address with the time until which it cools, in address order. O(c log c)."""
        return sorted(self._cooling.items())

    def pick(self, draw: int = 0) -> int | None:
        """The address to hand out next, None if none is available. Changes nothing.

        Args:
            draw: Where "random" begins: the position in the block, from 0, modulo its capacity. The others do not look at it.
        """
        taken = self._taken
        page = taken.lowest
        word = taken.leaves.get(page, 0)
        if word == self._full:
            page = taken.lowest_open()
            word = taken.leaves.get(page, 0)
        if page == taken.words:
            return None
        if self.policy == "next":
            ahead = word | _BELOW[self._cursors.get(page, 0)]
            if ahead != self._full:
                word = ahead
        elif self.policy == "random":
            position = taken.first_clear(draw & (self.capacity - 1))
            if position is not None:
                return self._first + position
        return self._first + (page << 8) + (word ^ (word + 1)).bit_length() - 1

    def occupy(self, number: int) -> bool:
        """Mark an address as held; a reserved one too, as it may have been held before it was reserved, and a cooling one.

        Returns:
            True if it was not held.

        Raises:
            IndexError: The address is not in the block.
        """
        if self._taken.add(number - self._first):
            return True
        if self._cooling.pop(number, None) is not None:
            return True
        if number in self._held_reserved or not bisect_right(self._bounds, number) & 1:
            return False
        self._held_reserved.add(number)
        return True

    def vacate(self, number: int) -> bool:
        """Mark an address as not held. It becomes available unless it is reserved; see also `cool`.

        Returns:
            True if it was held; False also outside the block, and for a cooling one, which cools on.
        """
        if bisect_right(self._bounds, number) & 1:
            if number not in self._held_reserved:
                return False
            self._held_reserved.remove(number)
            return True
        if number in self._cooling:
            return False
        return self._taken.discard(number - self._first)

    def cool(self, number: int, until: float) -> None:
        """Keep an address that nobody holds from being handed out until a time. A reserved one is reserved anyway and does not change.

        Args:
            number: The address. If it cools already, the new time replaces the old one.
            until: Seconds since the epoch, never NaN. At that very time it becomes available, once `expire` is told.

        Raises:
            IndexError: The address is not in the block.
            ValueError: The address is held.
        """
        reserved = bisect_right(self._bounds, number) & 1
        if reserved:
            held = number in self._held_reserved
        else:
            held = number not in self._cooling and not self._taken.add(number - self._first)
        if held:
            raise ValueError(f"address {number - self._first} of block {self.block} is held, so it cannot cool")
        if reserved:
            return
        self._cooling[number] = until
        heappush(self._due, (until, number))
        if len(self._due) > 2 * len(self._cooling) + 16:
            self._due = [(time, address) for address, time in self._cooling.items()]
            heapify(self._due)

    def hide(self, first: int, last: int) -> None:
        """Let none of some addresses be picked, whatever they are. They count as in use: for an index that is thrown away."""
        self._taken.add_range(first - self._first, last - self._first)

    def warm(self, number: int) -> bool:
        """Let an address cool no longer: it is available at once.

        Returns:
            True if it was cooling; False also for a reserved one.
        """
        if self._cooling.pop(number, None) is None:
            return False
        return self._taken.discard(number - self._first)

    def expire(self, now: float) -> int:
        """Make every address available whose time has come: `until` is at most `now`. O(1) if there is none.

        Returns:
            How many became available.
        """
        due, cooling = self._due, self._cooling
        count = 0
        while due and due[0][0] <= now:
            until, number = heappop(due)
            if cooling.get(number) == until:
                del cooling[number]
                self._taken.discard(number - self._first)
                count += 1
        return count

    def cursor(self, page: int) -> int:
        """The slot at which "next" begins in a page, 0 where none was set."""
        return self._cursors.get(page, 0)

    def set_cursor(self, page: int, slot: int) -> None:
        """Let "next" begin at a slot of a page. The slot after the last one is slot 0."""
        self._cursors[page] = slot & (self._slots - 1)

    def check_invariants(self) -> None:
        """Assert that the counts add up and equal a recount. O(pages stored + reserved ranges + cooling)."""
        self._taken.check_invariants()
        bounds = self._bounds
        assert all(low < high for low, high in pairwise(bounds)), "reserved ranges are not merged"
        reserved = 0
        for low, end in zip(bounds[::2], bounds[1::2], strict=True):
            reserved += end - low
            clear = self._taken.first_clear(low - self._first)
            assert clear is None or clear >= end - self._first, "a reserved address is available"
        assert reserved == self._total_reserved, f"counted {self._total_reserved} reserved, recounted {reserved}"
        assert all(self.is_reserved(number) for number in self._held_reserved), "held as reserved, but it is not"
        due = set(self._due)
        for number, until in self._cooling.items():
            assert number - self._first in self._taken, "a cooling address is available"
            assert not self.is_reserved(number), "a reserved address counts as cooling"
            assert (until, number) in due, "a cooling address would never become available"
        counts = (self.available, self.in_use, self.cooling, self.reserved)
        assert self.capacity == sum(counts), "the counts do not add up"
        assert min(counts) >= 0, "a count is negative"
        assert all(0 <= slot < self._slots for slot in self._cursors.values()), "a cursor is outside its page"
