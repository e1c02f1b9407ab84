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
    one_shot         the same for a process that lives for one call, over a `partial_view`
    store            where records are kept

Beside the flow: `manifest` reads and writes what users write, `plan_file` keeps plans, `transfer` copies stores, `audit` gives a second
opinion, `observer`, `meter` and `prometheus` tell how it goes, `journal` writes down all that it follows from and does it again, `cli` is
the command, `testing` the kit.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ciliumipam._version import __version__

if TYPE_CHECKING:
    from ciliumipam.allocator import NodeAllocator, Utilization
    from ciliumipam.carver import CidrCarver
    from ciliumipam.demand import Demand
    from ciliumipam.ipam import Ipam
    from ciliumipam.node import Node
    from ciliumipam.observer import Observer
    from ciliumipam.one_shot import OneShot
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
        Cost,
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
        Rebalance,
        Refusal,
        Release,
        ReleaseFenced,
        RemoveNode,
        RemovePool,
        RequestAddresses,
        Shrink,
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
    "Cost",
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
    "OneShot",
    "Plan",
    "PoolSpec",
    "PoolStatus",
    "Rebalance",
    "Refusal",
    "Release",
    "ReleaseFenced",
    "RemoveNode",
    "RemovePool",
    "RequestAddresses",
    "SelectorIndex",
    "Shrink",
    "Space",
    "SqliteStore",
    "Store",
    "Utilization",
    "__version__",
]

_HOMES = {
    "Allocate": "ciliumipam.requests",
    "Allocation": "ciliumipam.requests",
    "Applied": "ciliumipam.requests",
    "Apply": "ciliumipam.requests",
    "Block": "ciliumipam.requests",
    "BlockLengths": "ciliumipam.pool",
    "Blocker": "ciliumipam.requests",
    "Change": "ciliumipam.requests",
    "CidrCarver": "ciliumipam.carver",
    "Concern": "ciliumipam.requests",
    "Conflict": "ciliumipam.requests",
    "Cost": "ciliumipam.requests",
    "Demand": "ciliumipam.demand",
    "Drain": "ciliumipam.requests",
    "ExistingBlock": "ciliumipam.requests",
    "Explanation": "ciliumipam.requests",
    "ForceRelease": "ciliumipam.requests",
    "GroupRoutes": "ciliumipam.routes",
    "Grow": "ciliumipam.requests",
    "HandBack": "ciliumipam.requests",
    "Ipam": "ciliumipam.ipam",
    "MemoryStore": "ciliumipam.store.memory",
    "Migrate": "ciliumipam.requests",
    "Node": "ciliumipam.node",
    "NodeAllocator": "ciliumipam.allocator",
    "NodeSelector": "ciliumipam.selector",
    "NodeStatus": "ciliumipam.requests",
    "Observer": "ciliumipam.observer",
    "OneShot": "ciliumipam.one_shot",
    "Plan": "ciliumipam.requests",
    "PoolSpec": "ciliumipam.pool",
    "PoolStatus": "ciliumipam.requests",
    "Rebalance": "ciliumipam.requests",
    "Refusal": "ciliumipam.requests",
    "Release": "ciliumipam.requests",
    "ReleaseFenced": "ciliumipam.requests",
    "RemoveNode": "ciliumipam.requests",
    "RemovePool": "ciliumipam.requests",
    "RequestAddresses": "ciliumipam.requests",
    "SelectorIndex": "ciliumipam.selector_index",
    "Shrink": "ciliumipam.requests",
    "Space": "ciliumipam.requests",
    "SqliteStore": "ciliumipam.store.sqlite",
    "Store": "ciliumipam.store",
    "Utilization": "ciliumipam.allocator",
}
"""Where each name is at home."""


if not TYPE_CHECKING:  # a type checker knows the names above, and tells of all others

    def __getattr__(name: str) -> object:
        """Load the module of a name when it is first asked for (PEP 562): a CNI plugin lives for one call, and needs few of them."""
        module = _HOMES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
