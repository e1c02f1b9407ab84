"""What can be asked of an `Ipam`, what comes back, and what a plan is: values only.

A request is decided by a task (`tasks`), executed or printed by the facade (`ipam`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple, TypeAlias

from ciliumipam.allocator import Utilization
from ciliumipam.cidr import Address, Family, Network
from ciliumipam.draft import Step
from ciliumipam.errors import InvalidRequestError
from ciliumipam.names import validate_name, validate_owner
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Key, Revision

# --------------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class Apply:
    """Make pools and nodes known, or change them, and give every node the blocks that it should have.

    Without pools and nodes it only does the latter.
    """

    pools: tuple[PoolSpec, ...] = ()
    nodes: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        for kind, names in (("pool", [each.name for each in self.pools]), ("node", [each.name for each in self.nodes])):
            if len(set(names)) != len(names):
                twice = sorted(name for name in set(names) if names.count(name) > 1)
                raise InvalidRequestError(f"{kind} {twice[0]!r} is given twice; leave one of them out")


@dataclass(frozen=True, slots=True)
class Allocate:
    """Give each owner an address of every family of the node's blocks, or of one family: all of them or none.

    Attributes:
        node: The node's name.
        owners: Ids that are never used again, as network/container/interface in CNI.
        address: A given address, for a single owner; its family only.
        family: Only this family.
        label: A name for people, as namespace/pod.
    """

    node: str
    owners: tuple[str, ...]
    address: IPv4Address | IPv6Address | None = None
    family: Family | None = None
    label: str = ""

    def __post_init__(self) -> None:
        _check_owners(self.node, self.owners)
        if self.label:
            validate_owner(self.label)
        if self.address is not None:
            if len(self.owners) != 1:
                raise InvalidRequestError(f"{self.address} can be given to one owner, not to {len(self.owners)}")
            if self.family is not None and self.family != self.address.version:
                raise InvalidRequestError(f"{self.address} is not an IPv{self.family} address; leave out the family")
        if self.family not in (None, 4, 6):
            raise InvalidRequestError(f"no IP family {self.family!r}; valid: 4, 6")


@dataclass(frozen=True, slots=True)
class Release:
    """Take every address from owners: from all of them or, if one holds none, from none (unless `missing_ok`)."""

    node: str
    owners: tuple[str, ...]
    missing_ok: bool = False

    def __post_init__(self) -> None:
        _check_owners(self.node, self.owners)


@dataclass(frozen=True, slots=True)
class ReleaseFenced:
    """Release one address if it is held under this very fence."""

    address: IPv4Address | IPv6Address
    fence: int


@dataclass(frozen=True, slots=True)
class ForceRelease:
    """Release one address, whoever holds it. The holder is not asked: it may still be using it."""

    address: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """Take all blocks back from a node and forget it. With `force` the addresses in use there are dropped."""

    name: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class RemovePool:
    """Forget a pool. Blocks carved out of it stay with their nodes as orphans, which take nothing new."""

    name: str


Request: TypeAlias = Apply | Allocate | Release | ReleaseFenced | ForceRelease | RemoveNode | RemovePool


@lru_cache(maxsize=1024)
def _check_node(name: str) -> None:
    validate_name("node name", name)


def _check_owners(node: str, owners: tuple[str, ...]) -> None:
    if type(node) is str:
        _check_node(node)
    else:
        validate_name("node name", node)
    if not owners:
        raise InvalidRequestError("at least one owner is needed")
    if len(owners) > 1 and len(set(owners)) != len(owners):
        twice = sorted({owner for owner in owners if owners.count(owner) > 1})
        raise InvalidRequestError(f"owner {twice[0]!r} is given twice; an owner gets one address of a family")
    for owner in owners:
        validate_owner(owner)


# ---------------------------------------------------------------------------------------------------- results


class Block(NamedTuple):
    """A block in the hands of a node.

    Attributes:
        node: Who holds it.
        pool: The pool that it was carved from.
        prefix: The block.
        family: 4 or 6.
        fence: Number of this holding among all of its space.
        since: Seconds since the epoch.
        orphan: Whether its pool is gone or no longer covers it.
        utilization: Counts of its addresses.
    """

    node: str
    pool: str
    prefix: Network
    family: Family
    fence: int
    since: float
    orphan: bool
    utilization: Utilization


class Allocation(NamedTuple):
    """An address in the hands of an owner."""

    node: str
    owner: str
    label: str
    pool: str
    block: Network
    address: Address
    family: Family
    fence: int
    since: float


class PoolStatus(NamedTuple):
    """A pool and what became of it.

    Attributes:
        spec: As applied.
        blocks: Configured blocks by family.
        held: Blocks held by nodes, by family; their lengths may differ from the present one.
        conflicting: Name of the older pool that it overlaps, because of which it serves nobody.
    """

    spec: PoolSpec
    blocks: dict[Family, int]
    held: dict[Family, int]
    conflicting: str | None


class NodeStatus(NamedTuple):
    """A node, its blocks in the order in which it got them, and the counts of its addresses by family."""

    node: Node
    blocks: tuple[Block, ...]
    utilization: dict[Family, Utilization]

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """The blocks as text, IPv4 first, as `CiliumNode.spec.ipam.podCIDRs` lists them."""
        return tuple(str(block.prefix) for block in sorted(self.blocks, key=lambda block: block.family))


class Refusal(NamedTuple):
    """Why a pool did not serve a node. `family` is None where it is no matter of one family."""

    node: str
    pool: str
    family: Family | None
    reason: str

    def __str__(self) -> str:
        which = f" (IPv{self.family})" if self.family else ""
        return f"pool {self.pool}{which}: {self.reason}"


class Change(NamedTuple):
    """One thing that a plan does, in words."""

    action: Literal["add", "change", "remove", "carve", "give back", "allocate", "release"]
    kind: Literal["pool", "node", "block", "address"]
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.name}: {self.detail}"


class Applied(NamedTuple):
    """What was changed, and which pools refused which nodes."""

    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]


class Explanation(NamedTuple):
    """Why a node has what it has, a line a pool and block."""

    node: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Plan(NamedTuple):
    """What a request would do, decided and not done.

    Attributes:
        request: What was asked.
        changes: In words.
        steps: Compare-and-set writes in an order in which every first part leaves a legal state.
        reads: Pools and nodes that it was decided over and does not write, with their revisions.
        refusals: Which pools refused which nodes.
        result: What executing it returns.
    """

    request: Request
    changes: tuple[Change, ...]
    steps: tuple[Step, ...]
    reads: tuple[tuple[Key, Revision], ...]
    refusals: tuple[Refusal, ...]
    result: tuple[Allocation, ...]
