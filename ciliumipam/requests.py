"""What can be asked of an `Ipam`, what comes back, and what a plan is: values only.

A request is decided by a task (`tasks`), executed or printed by the facade (`ipam`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from ciliumipam.cidr import WIDTH, Address, Family, Network, Prefix
from ciliumipam.demand import Demand, normalize
from ciliumipam.draft import Step
from ciliumipam.errors import InvalidRequestError
from ciliumipam.names import validate_name, validate_owner
from ciliumipam.node import Node
from ciliumipam.pool import DEFAULT_SPACE, PoolSpec
from ciliumipam.records import Entry, Key, Kind
from ciliumipam.side import Utilization
from ciliumipam.value import Value
from ciliumipam.words import counted

# --------------------------------------------------------------------------------------------------- requests


class ExistingBlock(NamedTuple):
    """A block that a node has by what another allocator wrote down.

    Attributes:
        node: The node's name.
        prefix: The block.
        pool: The pool that it is said to be from; None is the one that covers it.
        since: Seconds since the epoch; 0 where that is not known.
        source: Where it is said, for people.
        address_space: The address space that it is said to be in; None is its pool's.
    """

    node: str
    prefix: Prefix
    pool: str | None = None
    since: float = 0.0
    source: str = ""
    address_space: str | None = None


class Apply(Value):
    """Make pools and nodes known, or change them, and give every node the blocks that it should have.

    Without pools and nodes it only does the latter.

    Attributes:
        pools: Pools, whole; what is not named stays as it is.
        nodes: Nodes, the same.
        existing: Blocks that nodes have already, by what another allocator wrote down. They are adopted, the oldest first.
    """

    __slots__ = ("existing", "nodes", "pools")
    pools: tuple[PoolSpec, ...]
    nodes: tuple[Node, ...]
    existing: tuple[ExistingBlock, ...]

    def __init__(
        self, pools: tuple[PoolSpec, ...] = (), nodes: tuple[Node, ...] = (), existing: tuple[ExistingBlock, ...] = ()
    ) -> None:
        for kind, names in (("pool", [each.name for each in pools]), ("node", [each.name for each in nodes])):
            if len(set(names)) != len(names):
                twice = sorted(name for name in set(names) if names.count(name) > 1)
                raise InvalidRequestError(f"{kind} {twice[0]!r} is given twice; leave one of them out")
        self._put(pools, nodes, existing)


class Allocate(Value):
    """Give each owner an address of every family of the node's blocks, or of one family: all of them or none.

    Attributes:
        node: The node's name.
        owners: Ids that are never used again, as network/container/interface in CNI.
        address: A given address, for a single owner; its family only.
        family: Only this family.
        label: A name for people, as namespace/pod.
    """

    __slots__ = ("address", "family", "label", "node", "owners")
    node: str
    owners: tuple[str, ...]
    address: Address | None
    family: Family | None
    label: str

    def __init__(
        self, node: str, owners: tuple[str, ...], address: Address | None = None, family: Family | None = None, label: str = ""
    ) -> None:
        _check_owners(node, owners)
        if label:
            validate_owner(label)
        if address is not None:
            if len(owners) != 1:
                raise InvalidRequestError(f"{address} can be given to one owner, not to {len(owners)}")
            if family is not None and family != address.version:
                raise InvalidRequestError(f"{address} is not an IPv{family} address; leave out the family")
        if family not in (None, 4, 6):
            raise InvalidRequestError(f"no IP family {family!r}; valid: 4, 6")
        self._put(node, owners, address, family, label)


class Release(Value):
    """Take every address from owners: from all of them or, if one holds none, from none (unless `missing_ok`)."""

    __slots__ = ("missing_ok", "node", "owners")
    node: str
    owners: tuple[str, ...]
    missing_ok: bool

    def __init__(self, node: str, owners: tuple[str, ...], missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002 - a field
        _check_owners(node, owners)
        self._put(node, owners, missing_ok)


class ReleaseFenced(Value):
    """Release one address if it is held under this very fence."""

    __slots__ = ("address", "fence", "space")
    address: Address
    fence: int
    space: str

    def __init__(self, address: Address, fence: int, space: str = DEFAULT_SPACE) -> None:
        self._put(address, fence, space)


class ForceRelease(Value):
    """Release one address, whoever holds it. The holder is not asked: it may still be using it."""

    __slots__ = ("address", "space")
    address: Address
    space: str

    def __init__(self, address: Address, space: str = DEFAULT_SPACE) -> None:
        self._put(address, space)


class Grow(Value):
    """See that a node has at least so many blocks of each family, out of the pool that serves it."""

    __slots__ = ("blocks", "node")
    node: str
    blocks: int

    def __init__(self, node: str, blocks: int) -> None:
        validate_name("node name", node)
        if not 1 <= blocks <= 65536:
            raise InvalidRequestError(f"a node has 1 to 65536 blocks of a family, not {blocks}")
        self._put(node, blocks)


class Drain(Value):
    """Let a pool, a node or a block take nothing new; replace what nodes lose by that; take back what is empty.

    Asked again, it goes on from there. What it could not take back is told as blockers.

    Attributes:
        kind: What drains.
        name: Its name; a block's CIDR.
        cancel: Let it take new ones again.
        space: The address space of a block.
    """

    __slots__ = ("cancel", "kind", "name", "space")
    kind: Literal["pool", "node", "block"]
    name: str
    cancel: bool
    space: str

    def __init__(
        self,
        kind: Literal["pool", "node", "block"],
        name: str,
        cancel: bool = False,  # noqa: FBT001, FBT002 - a field
        space: str = DEFAULT_SPACE,
    ) -> None:
        if kind not in ("pool", "node", "block"):
            raise InvalidRequestError(f"a {kind!r} cannot drain; valid: pool, node, block")
        self._put(kind, name, cancel, space)


class Migrate(Value):
    """Give a node blocks out of a pool, let all its others drain, and take back what is empty. Asked again, it goes on from there."""

    __slots__ = ("node", "pool")
    node: str
    pool: str

    def __init__(self, node: str, pool: str) -> None:
        self._put(node, pool)

class Shrink(Value):
    """Let a pool give up CIDRs, or parts of them: what lies there moves to the rest of it, and once that is empty it is no more the pool's.

    Asked again, it goes on from there. What is still held is told as blockers; nothing held is ever freed.

    Attributes:
        pool: The pool's name.
        cidrs: What it gives up: its own CIDRs, or parts of them that are whole blocks.
    """

    __slots__ = ("cidrs", "pool")
    pool: str
    cidrs: tuple[Prefix, ...]

    def __init__(self, pool: str, cidrs: tuple[Prefix, ...]) -> None:
        if not cidrs:
            raise InvalidRequestError(f"say what pool {pool!r} is to give up: at least one CIDR")
        for index, part in enumerate(ordered := sorted(cidrs)):
            if index and ordered[index - 1].overlaps(part):
                raise InvalidRequestError(f"{part} lies in {ordered[index - 1]}, which is given as well; leave one of them out")
        self._put(pool, cidrs)


class Rebalance(Value):
    """Get a free prefix of a length in a pool, by moving as few blocks as possible. Asked again, it goes on from there.

    Attributes:
        pool: The pool's name.
        length: How long the prefix is to be.
        family: Of which family; None is the only one that the pool has.
    """

    __slots__ = ("family", "length", "pool")
    pool: str
    length: int
    family: Family | None

    def __init__(self, pool: str, length: int, family: Family | None = None) -> None:
        if family not in (None, 4, 6):
            raise InvalidRequestError(f"no IP family {family!r}; valid: 4, 6")
        if not 1 <= length <= WIDTH[family or 6]:
            raise InvalidRequestError(f"{length} is not a prefix length, which is 1 to {WIDTH[family or 6]}")
        self._put(pool, length, family)


class RequestAddresses(Value):
    """Say how many addresses a node asks for, in place of what it asked for before, and give nodes what they ask for.

    Attributes:
        node: The node's name.
        demand: What it asks for, by pool and family; brought into its one form (`demand.normalize`).
    """

    __slots__ = ("demand", "node")
    node: str
    demand: tuple[Demand, ...]

    def __init__(self, node: str, demand: tuple[Demand, ...] = ()) -> None:
        validate_name("node name", node)
        self._put(node, normalize(demand))


class HandBack(Value):
    """Take an empty block that a node does not need back from it.

    Attributes:
        node: The node's name.
        block: The block.
        fence: Under which fence the node holds it; None is whichever.
        space: Its address space.
    """

    __slots__ = ("block", "fence", "node", "space")
    node: str
    block: Prefix
    fence: int | None
    space: str

    def __init__(self, node: str, block: Prefix, fence: int | None = None, space: str = DEFAULT_SPACE) -> None:
        validate_name("node name", node)
        self._put(node, block, fence, space)


class RemoveNode(Value):
    """Take all blocks back from a node and forget it. With `force` the addresses in use there are dropped."""

    __slots__ = ("force", "name")
    name: str
    force: bool

    def __init__(self, name: str, force: bool = False) -> None:  # noqa: FBT001, FBT002 - a field
        self._put(name, force)


class RemovePool(Value):
    """Forget a pool. Blocks carved out of it stay with their nodes as orphans, which take nothing new."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        self._put(name)


Request: TypeAlias = (
    Apply
    | Allocate
    | Release
    | ReleaseFenced
    | ForceRelease
    | Grow
    | Drain
    | Migrate
    | Shrink
    | Rebalance
    | RequestAddresses
    | HandBack
    | RemoveNode
    | RemovePool
)


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
        draining: Whether it takes nothing new once its node has another one.
        space: Its address space.
    """

    node: str
    pool: str
    prefix: Network
    family: Family
    fence: int
    since: float
    orphan: bool
    utilization: Utilization
    draining: bool = False
    space: str = DEFAULT_SPACE


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


class Space(NamedTuple):
    """What became of the CIDRs of one family of a pool.

    Attributes:
        blocks: Blocks that the CIDRs make, at the pool's block length.
        held: Blocks held by nodes; their lengths may differ from the present one.
        available: Blocks that could be carved now.
        cooling: Addresses of blocks that were given back and wait.
        largest: Length of the largest free prefix, None if nothing is free.
        fragmentation: Share of the free addresses that is not in that prefix, 0.0 to below 1.0.
    """

    blocks: int
    held: int
    available: int
    cooling: int
    largest: int | None
    fragmentation: float


class PoolStatus(NamedTuple):
    """A pool and what became of it.

    Attributes:
        spec: As applied.
        spaces: By family.
        orphans: Blocks that came from it and that it no longer covers.
        conflicting: Name of the older pool that it overlaps, because of which it serves nobody.
        concerns: What somebody should know, as sentences.
    """

    spec: PoolSpec
    spaces: dict[Family, Space]
    orphans: int
    conflicting: str | None
    concerns: tuple[str, ...]


class NodeStatus(NamedTuple):
    """A node, its blocks in the order in which it got them, the counts of its addresses by family, and what it asks for."""

    node: Node
    blocks: tuple[Block, ...]
    utilization: dict[Family, Utilization]
    draining: bool = False
    demand: tuple[Demand, ...] = ()

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


Action: TypeAlias = Literal[
    "add", "change", "remove", "carve", "adopt", "drain", "orphan", "give back", "allocate", "release", "repair"
]


class Change(NamedTuple):
    """One thing that a plan does.

    Attributes:
        action, kind, name: What it does to what.
        detail: More about it, in words.
        node: The node that a block or address is on; "" for a pool and a node.
        pool: The pool that a block is from; "" for a block of none, and for all else.
    """

    action: Action
    kind: Literal["pool", "node", "block", "address"]
    name: str
    detail: str
    node: str = ""
    pool: str = ""

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.name}: {self.detail}"


class Conflict(NamedTuple):
    """Why a block that a node is said to have was not adopted."""

    existing: ExistingBlock
    reason: str

    def __str__(self) -> str:
        where = f"{self.existing.source}: " if self.existing.source else ""
        return f"{where}node {self.existing.node!r} cannot have {self.existing.prefix}: {self.reason}"


class Blocker(NamedTuple):
    """What keeps a block from being taken back: an address that is held, or a node that would be left without one.

    Attributes:
        node: Who holds the block.
        block: The block.
        address: The address that is held; None if the node is the reason.
        owner: Who holds it, "" for nobody.
        label: A name for people.
        since: Seconds since the epoch, of the address or of the block.
        reason: As a sentence.
    """

    node: str
    block: Network
    address: Address | None
    owner: str
    label: str
    since: float
    reason: str

    def __str__(self) -> str:
        return f"block {self.block} of node {self.node}: {self.reason}"


class Concern(NamedTuple):
    """What somebody should know of a pool; the name is "" for blocks that no pool covers."""

    pool: str
    what: str

    def __str__(self) -> str:
        return f"pool {self.pool}: {self.what}" if self.pool else self.what


class Applied(NamedTuple):
    """What came of a request.

    Attributes:
        changes: What was changed.
        refusals: Which pools refused which nodes.
        conflicts: What could not be adopted.
        blockers: What could not be taken back.
        concerns: What somebody should know of the pools.
    """

    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    concerns: tuple[Concern, ...] = ()


class Explanation(NamedTuple):
    """Why a node has what it has, a line a pool and block."""

    node: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Cost(NamedTuple):
    """What it costs to move nodes off what they have.

    Attributes:
        blocks: Blocks to move: those that go back, and those that something keeps.
        addresses: Addresses in use in them, each of which has to end before its block goes back.
        writes: Records to write, without what is written once nothing is in the way.
    """

    blocks: int
    addresses: int
    writes: int

    def __str__(self) -> str:
        told = ((self.blocks, "block", "blocks"), (self.addresses, "address", "addresses"), (self.writes, "write", "writes"))
        blocks, addresses, writes = [counted(*each) for each in told]
        return f"{blocks} to move, {addresses} in use there, {writes}"


class Plan(NamedTuple):
    """What a request would do, decided and not done.

    Attributes:
        steps: Compare-and-set writes in an order in which every first part leaves a legal state.
        before: Every record that it writes or was decided over, as it was then; None where there was none. By key.
        lists: Kinds of which every record was looked at, so that a new one makes the plan stale as well.
        outcome: What executing it comes to.
        result: The addresses that executing it allocates or releases.
        now: When it was decided, in seconds since the epoch.
    """

    steps: tuple[Step, ...]
    before: tuple[tuple[Key, Entry | None], ...]
    lists: tuple[Kind, ...]
    outcome: Applied
    result: tuple[Allocation, ...]
    now: float

    @property
    def changes(self) -> tuple[Change, ...]:
        """What it does, in words."""
        return self.outcome.changes

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Which pools refuse which nodes."""
        return self.outcome.refusals

    @property
    def cost(self) -> Cost:
        """What it costs to move what `Drain`, `Migrate`, `Shrink` or `Rebalance` moves, and to give back what `RemoveNode` does."""
        blockers = self.outcome.blockers
        blocks = {(change.node, change.name) for change in self.changes if change.action == "give back"}
        blocks |= {(each.node, str(each.block)) for each in blockers}
        return Cost(len(blocks), sum(each.address is not None for each in blockers), len(self.steps))
