"""What is persisted: the typed records, their keys, and nothing that acts.

Seven kinds. A `Page` is the ledger's unit and is the same for blocks and for addresses; a `ClaimPage` says what a holder has or is
about to take, and is the one record that two calls of the same holder always share. Pools and nodes are what users applied. A `Lease` says what a node that keeps
its addresses in a store of its own may rely on.
Every record is a tuple of immutable values (a claim page's mapping is never changed once built), so a store may keep the object
itself and memory can never run ahead of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, NewType, TypeAlias

from ciliumipam.cidr import Family, Prefix, format_address
from ciliumipam.demand import Demand
from ciliumipam.node import Node
from ciliumipam.pool import DEFAULT_SPACE, PoolSpec

Kind: TypeAlias = Literal["pool", "node", "block-page", "block-claims", "address-page", "address-claims", "lease"]

KINDS: tuple[Kind, ...] = ("pool", "node", "block-page", "block-claims", "address-page", "address-claims", "lease")
ADDRESS_KINDS: frozenset[Kind] = frozenset({"address-page", "address-claims", "lease"})
"""The kinds that live in the store of the node; all others live in the store of the cluster."""

Revision = NewType("Revision", str)
"""A store's token for one state of one record. Only equality means anything."""


class Key(NamedTuple):
    """Where a record is kept. `name` is unique within the kind and readable."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Holding(NamedTuple):
    """One piece in the hands of one holder: a block held by a node, or an address held by an owner.

    Attributes:
        family: 4 or 6.
        network: First address of the piece, as an integer.
        length: Prefix length of the piece.
        fence: Number of this holding among all holdings of its slots; grows, is never used twice.
        holder: The node's name, or the owner's id.
        label: For a block the pool it was carved from; for an address a name for people, as namespace/pod.
        since: Seconds since the epoch at which it was decided.
        space: Its address space; that of an address is that of its block.
    """

    family: Family
    network: int
    length: int
    fence: int
    holder: str
    label: str
    since: float
    space: str = DEFAULT_SPACE

    @property
    def prefix(self) -> Prefix:
        """The piece."""
        return Prefix(self.family, self.network, self.length)

    @property
    def place(self) -> tuple[str, Prefix]:
        """The piece and its address space: no two blocks ever held share one."""
        return self.space, Prefix(self.family, self.network, self.length)

    @property
    def piece(self) -> str:
        """The piece as people write it: an address without its length, a block with it."""
        text = format_address(self.family, self.network)
        return text if self.length == (32 if self.family == 4 else 128) else f"{text}/{self.length}"


class Cooling(NamedTuple):
    """A free slot that nobody takes before a time: its last fence, and that time in seconds since the epoch."""

    fence: int
    until: float


class Split(NamedTuple):
    """A slot whose addresses are decided by the page below it, which counts only under this fence."""

    fence: int


Slot: TypeAlias = int | Cooling | Holding | Split
"""A free slot is its last fence, 0 if it never had one. A holding stands in every slot that it covers."""


class Page(NamedTuple):
    """At most 256 slots of a ledger.

    Attributes:
        fence: The page counts only under a link that names this fence.
        cursor: Slot after the one that was allocated last; where the policy "next" looks first.
        slots: One entry a slot, in address order.
    """

    fence: int
    cursor: int
    slots: tuple[Slot, ...]


class ClaimPage(NamedTuple):
    """What some holders hold or are about to take.

    Attributes:
        claims: Holder to its pieces, in the order in which they were taken. A piece named here that the ledger does not show
            as held is one that its call has not filled yet, or will never fill.
        tentative: Holders whose claim may still be taken back by the call that made it, with that call's token; whoever else
            wants to rely on the claim removes it from here first.
        closing: Pieces that are being released; they are released whatever else happens.
        draining: Blocks that take nothing new once their node has another one.
    """

    claims: Mapping[str, tuple[Holding, ...]]
    tentative: Mapping[str, str] = MappingProxyType({})
    closing: frozenset[Holding] = frozenset()
    draining: frozenset[Holding] = frozenset()


NO_CLAIMS = ClaimPage(MappingProxyType({}))
"""What is said where there is no claim page."""


class PoolRecord(NamedTuple):
    """A pool as applied; of two pools that overlap the one with the earlier `since` wins."""

    spec: PoolSpec
    since: float


class NodeRecord(NamedTuple):
    """A node as applied; one that drains gets no block, and nothing new out of those that it has.

    Attributes:
        node: Its name and labels.
        since: Seconds since the epoch at which it was first applied.
        draining: Whether it drains.
        demand: How many addresses it asks for, as `demand.normalize` orders them.
    """

    node: Node
    since: float
    draining: bool = False
    demand: tuple[Demand, ...] = ()


class Leased(NamedTuple):
    """A block that a node holds where blocks are decided, under the fence that it has there."""

    prefix: Prefix
    fence: int
    space: str = DEFAULT_SPACE


class Lease(NamedTuple):
    """What a node may rely on that keeps its addresses in a store of its own. It stands in that store; `lease` says what follows.

    Attributes:
        node: The node's name.
        boot: Id of the machine's start in which it was confirmed; seconds of another one cannot be compared. "" is none.
        confirmed: When the last confirmation was asked for that was given, in seconds since that start, sleep included.
        stop_after: Seconds after which nobody relies on it any more.
        blocks: What the node holds, and gives addresses out of.
        returning: Blocks that it has begun to hand back; under these fences it never gives out of them again.
        reason: Why it gives out nothing, as a sentence; "" if it does.
    """

    node: str
    boot: str
    confirmed: float
    stop_after: float
    blocks: tuple[Leased, ...] = ()
    returning: tuple[Leased, ...] = ()
    reason: str = ""


Record: TypeAlias = Page | ClaimPage | PoolRecord | NodeRecord | Lease


class Entry(NamedTuple):
    """A record as read, with the revision to name when it is replaced."""

    record: Record
    revision: Revision
