"""A pool, for the slow oracles: what it makes and what it gives, found by going through all of it.

Shares no code with `pool`, `selector`, `carver` and `allocator`, which it judges: standard library only.

Describe a pool a second time, and compare:

>>> from ipaddress import ip_network
>>> twin = OraclePool("pool-a", (ip_network("10.0.0.0/24"),), lengths={4: 25})
>>> [(str(block), twin.room(block)) for block in twin.blocks(4)]
[('10.0.0.0/25', 126), ('10.0.0.128/25', 126)]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MOST_BITS = 12
"""Pools are gone through block by block, so these must not be more than 4,096 in a CIDR."""


Term: TypeAlias = tuple[tuple[str, str, tuple[str, ...]], ...]
"""Key, operator and values, all of which a node must meet; the key "metadata.name" is its name."""


@dataclass(frozen=True)
class OraclePool:
    """A pool, for the oracle.

    Attributes:
        name: Its name.
        cidrs: Disjoint networks.
        terms: Whom it selects: who meets every requirement of one of them.
        lengths: Block length by family; what is missing is the default of the issue.
        others: Other lengths by family for the nodes that one term selects; the first that does counts.
        reserved: First and last address of each range.
        allow_first, allow_last: Whether the first or last address of a block is given out.
        priority, space, per_node, most, overflow, draining, delay: As `PoolSpec` has them; `most` is None for no limit.
        since: When it was first applied, where that is read from a record.
    """

    name: str
    cidrs: tuple[Network, ...]
    terms: tuple[Term, ...] = ((),)
    lengths: Mapping[int, int] = field(default_factory=dict)
    others: tuple[tuple[Term, Mapping[int, int]], ...] = ()
    reserved: tuple[tuple[Address, Address], ...] = ()
    allow_first: bool = False
    allow_last: bool = False
    priority: int = 0
    space: str = "default"
    per_node: int = 1
    most: int | None = None
    overflow: bool = False
    draining: bool = False
    delay: float = 0.0
    since: float = field(default=0.0, compare=False)

    def requirements(self, node: str, labels: Mapping[str, str]) -> int | None:
        """How many requirements the longest term has that selects a node; None if none does."""
        return max((len(term) for term in self.terms if _meets(term, node, labels)), default=None)

    def length(self, cidr: Network, node: str = "", labels: Mapping[str, str] | None = None) -> int:
        """Block length in a CIDR: the pool's own, or that of a node."""
        for term, lengths in self.others if labels is not None else ():
            if _meets(term, node, labels or {}):
                if cidr.version in lengths:
                    return lengths[cidr.version]
                break
        default = 24 if cidr.version == 4 else 64 if cidr.prefixlen <= 64 else 120
        return self.lengths.get(cidr.version, max(default, cidr.prefixlen))

    def families(self) -> list[int]:
        """Ascending."""
        return sorted({cidr.version for cidr in self.cidrs})

    def count(self, family: int) -> int:
        """How many blocks it makes."""
        return sum(1 << (self.length(cidr) - cidr.prefixlen) for cidr in self.cidrs if cidr.version == family)

    def order(self, requirements: int | None = None) -> tuple[int, int, int, str]:
        """Which pool is asked first: by the term that selects the node, else by the longest."""
        longest = max(len(term) for term in self.terms)
        count = longest if requirements is None else requirements
        return -self.priority, -count, min(self.count(family) for family in self.families()), self.name

    def blocks(self, family: int, node: str = "", labels: Mapping[str, str] | None = None) -> Iterator[Network]:
        """Every block that it makes for a node, and that has an address to give."""
        for cidr in self.cidrs:
            if cidr.version == family:
                length = self.length(cidr, node, labels)
                assert length - cidr.prefixlen <= MOST_BITS, f"pool {self.name} is too large for an oracle"
                for block in cidr.subnets(new_prefix=length):
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


def conflicting(pools: Iterable[OraclePool]) -> set[str]:
    """The names of pools that serve nobody: an older one that serves has a part of their space.

    Two such pools are never applied; a call that was to change one and make the other, and broke off, leaves them.
    """
    serving: list[OraclePool] = []
    for pool in sorted(pools, key=lambda each: (each.since, each.name)):
        if not any(older.space == pool.space and overlap(a, b) for older in serving for a in older.cidrs for b in pool.cidrs):
            serving.append(pool)
    return {pool.name for pool in pools} - {pool.name for pool in serving}


NO_POOL = OraclePool("", ())


def _meets(term: Term, node: str, labels: Mapping[str, str]) -> bool:
    for key, operator, values in term:
        value = node if key == "metadata.name" else labels.get(key)
        match operator:
            case "In":
                met = value in values
            case "NotIn":
                met = value not in values
            case "Exists":
                met = value is not None
            case "DoesNotExist":
                met = value is None
            case "Gt":
                met = value is not None and value.isdigit() and int(value) > int(values[0])
            case "Lt":
                met = value is not None and value.isdigit() and int(value) < int(values[0])
            case _:
                raise ValueError(operator)
        if not met:
            return False
    return True


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


__all__ = ["MOST_BITS", "NO_POOL", "Address", "Network", "OraclePool", "Term", "conflicting", "inside", "overlap"]
