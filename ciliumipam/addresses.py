"""The free addresses of one block: which one is next, which are held, which are never handed out.

`BlockAddresses` is the free index of one block, in plain integers: the view of the ledger keeps one per block, and `allocator` one
per block of a node. A position of its bitset is the distance from the first address of the block, a leaf word is a page of the
block's ledger, and a cursor is what that page records: the slot after the one last allocated. So the next address is a function of
what is persisted, never of what a process happens to remember.

Two policies. "lowest" takes the lowest free address. "next" takes the lowest page that has room and goes round inside it from
the cursor: low pages fill first, so that late pages and late blocks run empty and can be given back, and yet an address that
was just released is not the next to be given out.

Reserved addresses are never handed out: the ranges asked for, and the first and last of a block in both families as Cilium has
it, but not of a /31 or /127 (RFC 3021, RFC 6164), a /32 or /128. An address that was held before it was reserved stays
held and counts as in use; released, it becomes reserved, not available.

Nothing here is thread-safe; the caller serialises.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from ciliumipam import errors
from ciliumipam.bitset import Bitset
from ciliumipam.cidr import WIDTH, Prefix

Policy: TypeAlias = Literal["next", "lowest"]

_BELOW = tuple((1 << slot) - 1 for slot in range(256))


class BlockAddresses:
    """The addresses of one block: free, in use or reserved. Addresses are absolute integers, pages count from the block's first.

    Complexity:
        `pick`, `occupy` and `vacate` are O(1) in the number of addresses and of those in use (O(levels) of the bitset
        when a page fills), and O(log r) for r reserved ranges. Memory: pages partly in use, and a cursor per page set.

    Attributes:
        block: The block.
        policy: How `pick` chooses.
        capacity: All addresses of the block. Always `available` + `in_use` + `reserved`.
    """

    __slots__ = (
        "_bounds", "_cursors", "_first", "_full", "_held_reserved", "_slots", "_taken", "_total_reserved",
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
            policy: How to choose.

        Raises:
            InvalidRequestError: There is no such policy.
        """
        if policy not in ("next", "lowest"):
            raise errors.InvalidRequestError(f"no policy {policy!r}; known: lowest, next")
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
        return f"<BlockAddresses {self.block} {self.policy}: {self.in_use}/{self.capacity} in use, {self.reserved} reserved>"

    @property
    def in_use(self) -> int:
        """Addresses held, those held inside a range reserved later among them."""
        return self._taken.count - self._total_reserved + len(self._held_reserved)

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
        return number - self._first in self._taken

    def pick(self) -> int | None:
        """The address to hand out next, None if none is available. Changes nothing."""
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
        return self._first + (page << 8) + (word ^ (word + 1)).bit_length() - 1

    def occupy(self, number: int) -> bool:
        """Mark an address as held, a reserved one too: it may have been held before it was reserved.

        Returns:
            True if it was not held.

        Raises:
            IndexError: The address is not in the block.
        """
        if self._taken.add(number - self._first):
            return True
        if number in self._held_reserved or not bisect_right(self._bounds, number) & 1:
            return False
        self._held_reserved.add(number)
        return True

    def vacate(self, number: int) -> bool:
        """Mark an address as not held. It becomes available unless it is reserved.

        Returns:
            True if it was held; False also outside the block.
        """
        if bisect_right(self._bounds, number) & 1:
            if number not in self._held_reserved:
                return False
            self._held_reserved.remove(number)
            return True
        return self._taken.discard(number - self._first)

    def cursor(self, page: int) -> int:
        """The slot at which "next" begins in a page, 0 where none was set."""
        return self._cursors.get(page, 0)

    def set_cursor(self, page: int, slot: int) -> None:
        """Let "next" begin at a slot of a page. The slot after the last one is slot 0."""
        self._cursors[page] = slot & (self._slots - 1)

    def check_invariants(self) -> None:
        """Assert that the counts add up and equal a recount. O(pages stored + reserved ranges)."""
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
        assert self.capacity == self.available + self.in_use + self.reserved, "the counts do not add up"
        assert min(self.available, self.in_use, self.reserved) >= 0, "a count is negative"
        assert all(0 <= slot < self._slots for slot in self._cursors.values()), "a cursor is outside its page"
