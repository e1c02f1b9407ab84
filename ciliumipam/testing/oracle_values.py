"""What the slow twin of `Ipam` is told and remembers: values only.

`Reading` is what the oracle compares itself with: made by whoever drives, out of the records (`life_reading.read_records`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from ciliumipam.testing.life_reading import Found
from ciliumipam.testing.pool_oracle import Address, Network, OraclePool

Pod: TypeAlias = tuple[str, str]
"""Node and owner."""


Asked: TypeAlias = Mapping[tuple[str, int], int]
"""What a node asks for: addresses by pool ("" for whichever serves it) and family."""


class HeldBlock(NamedTuple):
    """A block that a node was told to have."""

    pool: str
    network: Network
    fence: int
    space: str


class Held(NamedTuple):
    """An address that an owner was told to have."""

    address: Address
    fence: int
    label: str


class Existing(NamedTuple):
    """A block that a node is said to have."""

    node: str
    network: Network
    pool: str | None
    since: float


class Told(NamedTuple):
    """What an answer to a call about blocks says beside what it did: nodes refused, blocks not adopted, blocks not taken back."""

    refused: frozenset[str] = frozenset()
    conflicts: tuple[tuple[str, Network], ...] = ()
    blockers: frozenset[tuple[str, Network]] = frozenset()


class Reading(NamedTuple):
    """Pools, nodes with their labels, nodes that drain, what counts, and what nodes ask for by pool and family."""

    pools: Mapping[str, OraclePool]
    nodes: Mapping[str, Mapping[str, str]]
    draining: frozenset[str]
    found: Found
    demand: Mapping[str, Asked] = MappingProxyType({})


__all__ = ["Asked", "Existing", "Held", "HeldBlock", "Pod", "Reading", "Told"]
