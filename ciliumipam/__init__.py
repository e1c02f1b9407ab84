"""ciliumipam: CIDR pools chosen by node labels, carved into blocks per node, allocated address by address, on any store.

The flow, in the order in which to read it::

    cidr, names      prefixes and names, checked at the door
    selector, node   who may use a pool (`requirement`, `selector_text`); `selector_index` for many at once
    pool             what exists (`ranges`: what of it is kept out of use)
    bitset, carver   free blocks of a pool; `grouping`, `routes`: kept together by rack or zone
    addresses        free addresses of a block
    allocator        the addresses of a node, in memory (`side`: of one family)
    records, ledger  what is persisted, and the discipline that lets two writers never hold one piece
    view             what one process knows of it; `free_blocks`: which block is next
    protocol         taking and releasing, decided over a draft
    demand           what a node asks for and can hand back
    reconcile        which pool serves which node; `waiting`: who gets a further block first
    tasks, session   requests, round by round, without touching a store: addresses (`tasks`, `release_tasks`), blocks (`block_tasks`,
                     `adopt`), further ones on demand (`demand_tasks`), moving off (`drain_tasks`), forgetting (`removal_tasks`), mending (`repair_tasks`)
    ipam             the facade: stores, clock, threads; `explain`, `pool_status`: why, and what became of it
    store            where records are kept

Beside the flow: `manifest` reads and writes what users write, `plan_file` keeps plans, `transfer` copies stores, `audit` gives a second
opinion, `observer`, `meter` and `prometheus` tell how it goes, `journal` writes down all that it follows from and does it again, `cli` is
the command, `testing` the kit.
"""

from ciliumipam._version import __version__
from ciliumipam.allocator import NodeAllocator, Utilization
from ciliumipam.carver import CidrCarver
from ciliumipam.demand import Demand
from ciliumipam.ipam import Ipam
from ciliumipam.node import Node
from ciliumipam.observer import Observer
from ciliumipam.pool import BlockLengths, PoolSpec
from ciliumipam.requests import (
    Allocate,
    Allocation,
    Applied,
    Apply,
    Block,
    Blocker,
    Change,
    Concern,
    Conflict,
    Drain,
    ExistingBlock,
    Explanation,
    ForceRelease,
    Grow,
    HandBack,
    Migrate,
    NodeStatus,
    Plan,
    PoolStatus,
    Refusal,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    RequestAddresses,
    Space,
)
from ciliumipam.routes import GroupRoutes
from ciliumipam.selector import NodeSelector
from ciliumipam.selector_index import SelectorIndex
from ciliumipam.store import Store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore

__all__ = [
    "Allocate",
    "Allocation",
    "Applied",
    "Apply",
    "Block",
    "BlockLengths",
    "Blocker",
    "Change",
    "CidrCarver",
    "Concern",
    "Conflict",
    "Demand",
    "Drain",
    "ExistingBlock",
    "Explanation",
    "ForceRelease",
    "GroupRoutes",
    "Grow",
    "HandBack",
    "Ipam",
    "MemoryStore",
    "Migrate",
    "Node",
    "NodeAllocator",
    "NodeSelector",
    "NodeStatus",
    "Observer",
    "Plan",
    "PoolSpec",
    "PoolStatus",
    "Refusal",
    "Release",
    "ReleaseFenced",
    "RemoveNode",
    "RemovePool",
    "RequestAddresses",
    "SelectorIndex",
    "Space",
    "SqliteStore",
    "Store",
    "Utilization",
    "__version__",
]
