"""ciliumipam: CIDR pools chosen by node labels, carved into blocks per node, allocated address by address, on any store.

The flow, in the order in which to read it::

    cidr, names      prefixes and names, checked at the door
    selector, node   who may use a pool
    pool             what exists
    bitset, carver   free blocks of a pool
    addresses        free addresses of a block
    allocator        the addresses of a node, in memory
    records, ledger  what is persisted, and the discipline that lets two writers never hold one piece
    protocol         taking and releasing, decided over a draft
    reconcile        which pool serves which node
    tasks, session   requests, round by round, without touching a store
    ipam             the facade: stores, clock, threads
    store            where records are kept
"""

from ciliumipam._version import __version__
from ciliumipam.allocator import NodeAllocator, Utilization
from ciliumipam.carver import CidrCarver
from ciliumipam.ipam import Ipam
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import (
    Allocate,
    Allocation,
    Applied,
    Apply,
    Block,
    Change,
    Explanation,
    ForceRelease,
    NodeStatus,
    Plan,
    PoolStatus,
    Refusal,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
)
from ciliumipam.selector import NodeSelector
from ciliumipam.store import Store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore

__all__ = [
    "Allocate",
    "Allocation",
    "Applied",
    "Apply",
    "Block",
    "Change",
    "CidrCarver",
    "Explanation",
    "ForceRelease",
    "Ipam",
    "MemoryStore",
    "Node",
    "NodeAllocator",
    "NodeSelector",
    "NodeStatus",
    "Plan",
    "PoolSpec",
    "PoolStatus",
    "Refusal",
    "Release",
    "ReleaseFenced",
    "RemoveNode",
    "RemovePool",
    "SqliteStore",
    "Store",
    "Utilization",
    "__version__",
]
