"""A pool, for the slow oracles: what it makes and what it gives, found by going through all of it.

Shares no code with `pool`, `selector`, `carver` and `allocator`, which it judges: standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MOST_BLOCKS = 4096
"""Pools are gone through block by block, so they have to be small."""


@dataclass(frozen=True)
class OraclePool:
    """A pool, for the oracle.

    Attributes:
        name: Its name.
        cidrs: Disjoint networks.
        labels: What a node must have: every one of these.
        lengths: Block length by family; what is missing is the default of the issue.
        reserved: First and last address of each range.
        allow_first, allow_last: Whether the first or last address of a block is given out.
    """

    name: str
    cidrs: tuple[Network, ...]
    labels: tuple[tuple[str, str], ...] = ()
    lengths: Mapping[int, int] = field(default_factory=dict)
    reserved: tuple[tuple[Address, Address], ...] = ()
    allow_first: bool = False
    allow_last: bool = False

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels may use it."""
        return all(labels.get(key) == value for key, value in self.labels)

    def length(self, cidr: Network) -> int:
        """Block length in a CIDR."""
        default = 24 if cidr.version == 4 else 64 if cidr.prefixlen <= 64 else 120
        return self.lengths.get(cidr.version, max(default, cidr.prefixlen))

    def families(self) -> list[int]:
        """Ascending."""
        return sorted({cidr.version for cidr in self.cidrs})

    def count(self, family: int) -> int:
        """How many blocks it makes."""
        return sum(1 << (self.length(cidr) - cidr.prefixlen) for cidr in self.cidrs if cidr.version == family)

    def order(self) -> tuple[int, int, str]:
        """Which pool is asked first."""
        return -len(self.labels), min(self.count(family) for family in self.families()), self.name

    def blocks(self, family: int) -> Iterator[Network]:
        """Every block that it makes, and that has an address to give."""
        assert self.count(family) <= MOST_BLOCKS, f"pool {self.name} is too large for an oracle"
        for cidr in self.cidrs:
            if cidr.version == family:
                for block in cidr.subnets(new_prefix=self.length(cidr)):
                    if self.room(block) > 0:
                        yield block

    def covers(self, block: Network) -> bool:
        """Whether a block lies in one of its CIDRs."""
        return any(inside(block, cidr) for cidr in self.cidrs)

    def is_reserved(self, block: Network, address: Address) -> bool:
        """Whether an address of a block is never handed out."""
        number, size = int(address), block.num_addresses
        if size > 2 and number == int(block.network_address) and not self.allow_first:
            return True
        if size > 2 and number == int(block.broadcast_address) and not self.allow_last:
            return True
        return any(low.version == address.version and int(low) <= number <= int(high) for low, high in self.reserved)

    def room(self, block: Network) -> int:
        """How many addresses of a block may be handed out, counted without looking at each."""
        first, last = int(block.network_address), int(block.broadcast_address)
        gone = [
            (max(first, int(low)), min(last, int(high)))
            for low, high in self.reserved
            if low.version == block.version and int(low) <= last and int(high) >= first
        ]
        if last - first > 1:
            gone += [] if self.allow_first else [(first, first)]
            gone += [] if self.allow_last else [(last, last)]
        left, upto = block.num_addresses, first - 1
        for low, high in sorted(gone):
            left -= max(0, high - max(low, upto + 1) + 1)
            upto = max(upto, high)
        return left


NO_POOL = OraclePool("", ())


def inside(inner: Network, outer: Network) -> bool:
    """Whether a network lies in another one."""
    return (
        inner.version == outer.version
        and int(outer.network_address) <= int(inner.network_address)
        and int(inner.broadcast_address) <= int(outer.broadcast_address)
    )


def overlap(left: Network, right: Network) -> bool:
    """Whether two networks share an address."""
    return inside(left, right) or inside(right, left)
