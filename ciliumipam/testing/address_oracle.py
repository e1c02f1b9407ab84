"""The slow twins of `Bitset`, `BlockAddresses` and `NodeAllocator`: lists, searched from the start every time.

For judging allocators, ours and others. They share no code with what they judge (standard library and `errors` only) and have
none of its ideas: no words, no levels, no counters. What is free is looked for number by number, and counts are taken by
counting. Long stretches are runs, a first and a last number, so an IPv6 /64 with a huge reserved range can be judged as well;
cost is proportional to what is held or cools and to the number of runs.

Make one beside what is judged, ask both the same, and compare answers and errors:

>>> twin = AddressOracle(["10.0.0.0/30"], policy="lowest")
>>> owner, _, address, *_ = twin.allocate("pod-1")
>>> owner, str(address), twin.utilization(4)
('pod-1', '10.0.0.1', (4, 1, 1, 0, 2))
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from ciliumipam.errors import (
    AlreadyAllocatedError,
    BlockNotEmptyError,
    CoolingAddressError,
    InvalidNameError,
    InvalidRequestError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    OutOfRangeError,
    OwnerHoldsError,
    ReservedAddressError,
    StaleFenceError,
)

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Holding: TypeAlias = tuple[str, str, Address, int, Network, int]
"""Owner, label, address, family, block, fence: equal to the `AddressHolding` it stands for."""
Cooling: TypeAlias = tuple[Address, int, Network, int, float]
"""Address, family, block, fence, until: equal to the `AddressCooling` it stands for."""

PAGE = 256


class RunSet:
    """Numbers 0 to size - 1, the set ones as a list of disjoint runs that is built anew at every change."""

    def __init__(self, size: int) -> None:
        """All clear."""
        self.size = size
        self.runs: list[tuple[int, int]] = []

    @property
    def count(self) -> int:
        """How many are set."""
        return sum(last - first + 1 for first, last in self.runs)

    def run_of(self, number: int) -> tuple[int, int] | None:
        """The run that has a number, both ends inclusive."""
        return next(((first, last) for first, last in self.runs if first <= number <= last), None)

    def __contains__(self, number: int) -> bool:
        """Whether a number is set."""
        return self.run_of(number) is not None

    def add_range(self, first: int, last: int) -> int:
        """Set a run, both ends inclusive; returns how many were clear."""
        before = self.count
        outside = [(low, high) for low, high in self.runs if high < first or low > last]
        inside = [(low, high) for low, high in self.runs if not (high < first or low > last)]
        merged = (min([first, *(low for low, _ in inside)]), max([last, *(high for _, high in inside)]))
        self.runs = sorted([*outside, merged])
        return self.count - before

    def add(self, number: int) -> bool:
        """Set a number; returns whether it was clear."""
        return self.add_range(number, number) == 1

    def discard(self, number: int) -> bool:
        """Clear a number; returns whether it was set."""
        run = self.run_of(number)
        if run is None:
            return False
        left, right = (run[0], number - 1), (number + 1, run[1])
        self.runs = sorted({*self.runs, left, right} - {run})
        self.runs = [(first, last) for first, last in self.runs if first <= last]
        return True

    def first_clear(self, start: int = 0) -> int | None:
        """The lowest clear number from `start` on."""
        while (run := self.run_of(start)) is not None:
            start = run[1] + 1
        return start if start < self.size else None


class AddressOracle:
    """What `NodeAllocator` must do, method by method, with plain tuples for its results."""

    def __init__(
        self,
        blocks: Iterable[str | Network] = (),
        *,
        reserved: Iterable[tuple[Address, Address]] = (),
        allow_first: bool = False,
        allow_last: bool = False,
        policy: str = "next",
        seed: int = 0,
        reuse_delay: float = 0,
        node: str = "",
    ) -> None:
        """Blocks in the order in which they serve; reserved ranges with both ends inclusive."""
        self.node = node
        self.policy = policy
        self.seed = seed
        self.reuse_delay = reuse_delay
        self.timed = reuse_delay > 0
        self.cooling: dict[Address, float] = {}
        self.allow_first, self.allow_last = allow_first, allow_last
        self.blocks: list[Network] = []
        self.reserved = list(reserved)
        self.held: list[Holding] = []
        self.fences: dict[Address, int] = {}
        self.cursors: dict[tuple[Network, int], int] = {}
        for block in blocks:
            self.add_block(block)

    # ------------------------------------------------------------------------------------------------ blocks

    def add_block(self, block: str | Network) -> None:
        """Append a block unless it is there.

        Raises:
            InvalidRequestError: It overlaps another.
        """
        network = ip_network(block)
        if network in self.blocks:
            return
        if any(network.overlaps(other) for other in self.blocks if other.version == network.version):
            raise InvalidRequestError(f"{network} overlaps")
        self.blocks.append(network)

    def remove_block(self, block: str | Network, *, now: float | None = None) -> None:
        """Remove a block, with the cursors of its pages.

        Raises:
            NotFoundError: There is no such block.
            BlockNotEmptyError: An address of it is held, or cools.
        """
        self._pass(now)
        network = ip_network(block)
        if network not in self.blocks:
            raise NotFoundError("block", str(network))
        inside = sorted((holding[2], holding[0]) for holding in self.held if holding[4] == network)
        if inside:
            raise BlockNotEmptyError(str(network), self.node, len(inside), tuple(owner for _, owner in inside[:3]))
        times = [until for address, until in self.cooling.items() if address in network]
        if times:
            raise BlockNotEmptyError(str(network), self.node, 0, (), len(times), max(times))
        self.blocks.remove(network)
        self.cursors = {key: slot for key, slot in self.cursors.items() if key[0] != network}

    # ------------------------------------------------------------------------------------------------ allocate

    def allocate(
        self,
        owner: str,
        *,
        family: int | None = None,
        address: str | Address | None = None,
        label: str = "",
        now: float | None = None,
    ) -> Holding:
        """See `NodeAllocator.allocate`; raises the same errors."""
        self._pass(now, needed=self.timed)
        if address is not None:
            wanted = ip_address(address)
            if family is not None and wanted.version != family:
                raise InvalidRequestError("the family contradicts the address")
            return self._allocate_given(owner, wanted, label)
        family = self._family(family)
        mine = self._of(owner, family)
        if mine is not None:
            return mine
        for block in self._blocks(family):
            number = self._pick(block, owner)
            if number is not None:
                return self._hold(owner, label, block, number)
        raise self._exhausted(family, 1)

    def _allocate_given(self, owner: str, address: Address, label: str) -> Holding:
        mine = self._of(owner, address.version)
        if mine is not None and mine[2] != address:
            raise OwnerHoldsError(owner, str(mine[2]), str(address))
        if mine is not None:
            return mine
        block = self._block(address)
        for holding in self.held:
            if holding[2] == address:
                raise AlreadyAllocatedError(str(address), holding[0], holding[1])
        if int(address) in self._reserved(block):
            raise ReservedAddressError(str(address), "reserved")
        if address in self.cooling:
            raise CoolingAddressError(str(address), self.cooling[address])
        return self._hold(owner, label, block, int(address))

    def allocate_many(
        self, owners: Iterable[str], *, family: int | None = None, now: float | None = None
    ) -> tuple[Holding, ...]:
        """See `NodeAllocator.allocate_many`: tries one by one, and puts everything back if one fails."""
        self._pass(now, needed=self.timed)
        family = self._family(family)
        wanted = list(owners)
        if "" in wanted:
            raise InvalidNameError("owner", "", "empty")
        before = (list(self.held), dict(self.fences), dict(self.cursors))
        try:
            return tuple(self.allocate(owner, family=family, now=now) for owner in wanted)
        except NodeExhaustedError:
            self.held, self.fences, self.cursors = before
            new = {owner for owner in wanted if self._of(owner, family) is None}
            raise self._exhausted(family, len(new)) from None

    def occupy(self, address: str | Address, owner: str, fence: int, label: str = "") -> Holding:
        """See `NodeAllocator.occupy`; raises the same errors."""
        address = ip_address(address)
        if fence < 1:
            raise InvalidRequestError("the fence is below 1")
        block = self._block(address)
        mine = self._of(owner, address.version)
        if mine is not None and mine[2] != address:
            raise OwnerHoldsError(owner, str(mine[2]), str(address))
        for holding in self.held:
            if holding[2] == address and holding[0] != owner:
                raise AlreadyAllocatedError(str(address), holding[0], holding[1])
        last = self.fences.get(address, 0)
        if fence < last or (mine is None and fence == last):
            raise StaleFenceError(str(address), fence, last)
        if not owner:
            raise InvalidNameError("owner", "", "empty")
        if mine is not None and fence == last:
            return mine
        self.held = [holding for holding in self.held if holding != mine]
        self.held.append((owner, label, address, address.version, block, fence))
        self.fences[address] = fence
        self.cooling.pop(address, None)
        return self.held[-1]

    def _pick(self, block: Network, owner: str) -> int | None:
        first, last = int(block[0]), int(block[-1])
        never = self._reserved(block)
        used = {int(holding[2]) for holding in self.held if holding[3] == block.version}
        used |= {int(address) for address in self.cooling if address.version == block.version}

        def from_on(number: int) -> int:
            while number in used or number in never:
                run = never.run_of(number)
                number = run[1] + 1 if run is not None else number + 1
            return number

        lowest = from_on(first)
        if lowest > last:
            return None
        if self.policy == "lowest":
            return lowest
        if self.policy == "random":
            digest = hashlib.blake2b(f"{self.seed}/{owner}".encode(), digest_size=16).hexdigest()
            found = from_on(first + int(digest, 16) % block.num_addresses)
            return found if found <= last else lowest
        start = lowest - (lowest - first) % PAGE
        page = range(start, min(start + PAGE, last + 1))
        room = [number for number in page if number not in used and number not in never]
        cursor = start + self.cursors.get((block, (start - first) // PAGE), 0)
        return min([number for number in room if number >= cursor] or room)

    def _hold(self, owner: str, label: str, block: Network, number: int) -> Holding:
        if not owner:
            raise InvalidNameError("owner", "", "empty")
        address: Address = IPv4Address(number) if block.version == 4 else IPv6Address(number)
        page, slot = divmod(number - int(block[0]), PAGE)
        self.cursors[block, page] = (slot + 1) % min(PAGE, block.num_addresses)
        self.fences[address] = self.fences.get(address, 0) + 1
        self.held.append((owner, label, address, block.version, block, self.fences[address]))
        return self.held[-1]

    # ------------------------------------------------------------------------------------------------ release

    def release(self, owner: str, *, now: float | None = None) -> tuple[Holding, ...]:
        """See `NodeAllocator.release`."""
        self._pass(now, needed=self.timed)
        released = [holding for holding in self.holdings() if holding[0] == owner]
        for holding in released:
            self._release(holding, now)
        return tuple(released)

    def release_fenced(self, address: str | Address, fence: int, *, now: float | None = None) -> Holding:
        """See `NodeAllocator.release_fenced`; raises the same errors."""
        self._pass(now, needed=self.timed)
        address = ip_address(address)
        for holding in self.held:
            if holding[2] == address and holding[5] == fence:
                self._release(holding, now)
                return holding
        if address not in self.fences:
            raise NotHeldError(str(address), "never held")
        raise StaleFenceError(str(address), fence, self.fences[address])

    def _release(self, holding: Holding, now: float | None) -> None:
        self.held.remove(holding)
        if self.reuse_delay and now is not None and int(holding[2]) not in self._reserved(holding[4]):
            self.cooling[holding[2]] = now + self.reuse_delay

    # ------------------------------------------------------------------------------------------------ cool

    def cool(self, address: str | Address, fence: int, until: float) -> None:
        """See `NodeAllocator.cool`; raises the same errors."""
        address = ip_address(address)
        if fence < 1:
            raise InvalidRequestError("the fence is below 1")
        block = self._block(address)
        for holding in self.held:
            if holding[2] == address:
                raise AlreadyAllocatedError(str(address), holding[0], holding[1])
        if fence < self.fences.get(address, 0):
            raise StaleFenceError(str(address), fence, self.fences[address])
        self.fences[address] = fence
        self.timed = True
        if int(address) not in self._reserved(block):
            self.cooling[address] = until

    def expire(self, now: float) -> int:
        """See `NodeAllocator.expire`."""
        before = len(self.cooling)
        self._pass(now)
        return before - len(self.cooling)

    # ------------------------------------------------------------------------------------------------ look

    def holdings(self) -> list[Holding]:
        """Everything held, by family and address."""
        return sorted(self.held, key=lambda holding: (holding[3], int(holding[2])))

    def coolings(self, *, now: float | None = None) -> list[Cooling]:
        """Everything that cools, by family and address."""
        self._pass(now)
        found = [
            (address, address.version, self._block(address), self.fences[address], until)
            for address, until in self.cooling.items()
        ]
        return sorted(found, key=lambda cooling: (cooling[1], int(cooling[0])))

    def utilization(self, family: int, *, now: float | None = None) -> tuple[int, int, int, int, int]:
        """Capacity, available, in use, cooling, reserved."""
        self._pass(now)
        capacity = in_use = cooling = reserved = 0
        for block in self._blocks(family):
            here = [int(holding[2]) for holding in self.held if holding[4] == block]
            never = self._reserved(block)
            capacity += block.num_addresses
            in_use += len(here)
            cooling += sum(address in block for address in self.cooling)
            reserved += never.count - sum(number in never for number in here)
        return capacity, capacity - in_use - cooling - reserved, in_use, cooling, reserved

    # ------------------------------------------------------------------------------------------------ inside

    def _pass(self, now: float | None, *, needed: bool = False) -> None:
        """Let time pass: what is due is free."""
        if now is not None:
            self.cooling = {address: until for address, until in self.cooling.items() if until > now}
        elif needed:
            raise InvalidRequestError("the time is needed")

    def _reserved(self, block: Network) -> RunSet:
        """Addresses of a block that are never handed out."""
        first, last = int(block[0]), int(block[-1])
        never = RunSet(last + 1)
        for low, high in self.reserved:
            if low.version == block.version and int(low) <= last and int(high) >= first:
                never.add_range(max(int(low), first), min(int(high), last))
        if block.num_addresses > 2:
            if not self.allow_first:
                never.add(first)
            if not self.allow_last:
                never.add(last)
        return never

    def _blocks(self, family: int) -> list[Network]:
        return [block for block in self.blocks if block.version == family]

    def _block(self, address: Address) -> Network:
        if not self._blocks(address.version):
            raise NoBlockError(self.node, address.version, ())
        for block in self.blocks:
            if address in block:
                return block
        names = tuple(str(block) for block in self._blocks(address.version))
        raise OutOfRangeError(str(address), "the blocks of the node", names)

    def _of(self, owner: str, family: int) -> Holding | None:
        return next((holding for holding in self.held if holding[0] == owner and holding[3] == family), None)

    def _family(self, family: int | None) -> int:
        there = sorted({block.version for block in self.blocks})
        if family is None and len(there) != 1:
            raise InvalidRequestError("which family?") if there else NoBlockError(self.node, 0, ())
        return there[0] if family is None else family

    def _exhausted(self, family: int, wanted: int) -> Exception:
        names = tuple(str(block) for block in self._blocks(family))
        if not names:
            return NoBlockError(self.node, family, ())
        capacity, _, in_use, cooling, reserved = self.utilization(family)
        due = min((until for address, until in self.cooling.items() if address.version == family), default=None)
        return NodeExhaustedError(self.node, family, names, capacity, in_use, reserved, wanted, cooling, due)


__all__ = ["Address", "AddressOracle", "Cooling", "Holding", "Network", "RunSet"]
