"""What the actors of the scenarios call, and what several scenarios begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ciliumipam.block_tasks import ApplyTask, GrowTask
from ciliumipam.cidr import parse_address, parse_prefix, to_address
from ciliumipam.drain_tasks import DrainTask, MigrateTask
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.release_tasks import ReleaseAddressTask, ReleaseTask
from ciliumipam.removal_tasks import RemoveNodeTask
from ciliumipam.repair_tasks import RepairAddressesTask
from ciliumipam.requests import (
    Allocate,
    Apply,
    Drain,
    ExistingBlock,
    ForceRelease,
    Grow,
    Migrate,
    Release,
    ReleaseFenced,
    RemoveNode,
)
from ciliumipam.selector import NodeSelector
from ciliumipam.tasks import AllocateTask, Task
from ciliumipam.testing.actors import Actor, call

NOW = 1_000_000.0
"""One time for all: a clock would only make equal states look different."""


def pool(name: str, *cidrs: str, v4: int | None = None, v6: int | None = None, rack: str = "", **more: object) -> PoolSpec:
    """A pool for the nodes of a rack, or for all."""
    selector = NodeSelector.parse(f"rack={rack}") if rack else NodeSelector.everything()
    return PoolSpec(name=name, cidrs=cidrs, selector=selector, block_length_v4=v4, block_length_v6=v6, **more)  # type: ignore[arg-type]  # passed on


def node(name: str, rack: str = "") -> Node:
    """A node, in a rack or in none."""
    return Node(name, {"rack": rack} if rack else {})


def apply(*things: PoolSpec | Node) -> Callable[[str], Task]:
    """Apply pools and nodes."""
    pools = tuple(each for each in things if isinstance(each, PoolSpec))
    nodes = tuple(each for each in things if isinstance(each, Node))
    return lambda token: ApplyTask(Apply(pools, nodes), NOW, token)


def allocate(name: str, *owners: str, address: str | None = None) -> Callable[[str], Task]:
    """Allocate addresses."""
    given = to_address(*parse_address(address)) if address else None
    return lambda token: AllocateTask(Allocate(name, owners, given), NOW, token)


def release(name: str, *owners: str) -> Callable[[str], Task]:
    """Release owners' addresses."""
    return lambda _: ReleaseTask(Release(name, owners), NOW)


def release_fenced(address: str, fence: int) -> Callable[[str], Task]:
    """Release an address under a fence."""
    return lambda _: ReleaseAddressTask(ReleaseFenced(to_address(*parse_address(address)), fence), NOW)


def force_release(address: str) -> Callable[[str], Task]:
    """Release an address by force."""
    return lambda _: ReleaseAddressTask(ForceRelease(to_address(*parse_address(address))), NOW)


def remove(name: str, *, force: bool = False) -> Callable[[str], Task]:
    """Take back a node's blocks."""
    return lambda _: RemoveNodeTask(RemoveNode(name, force), NOW)


def adopt(*found: tuple[str, str]) -> Callable[[str], Task]:
    """Adopt blocks: pairs of node and CIDR."""
    existing = tuple(ExistingBlock(name, parse_prefix(cidr), None, NOW - 9) for name, cidr in found)
    return lambda token: ApplyTask(Apply(existing=existing), NOW, token)


def grow(name: str, blocks: int) -> Callable[[str], Task]:
    """See that a node has so many blocks."""
    return lambda token: GrowTask(Grow(name, blocks), NOW, token)


def drain(kind: Literal["pool", "node", "block"], name: str) -> Callable[[str], Task]:
    """Let something drain."""
    return lambda token: DrainTask(Drain(kind, name), NOW, token)


def migrate(name: str, to: str) -> Callable[[str], Task]:
    """Move a node to another pool."""
    return lambda token: MigrateTask(Migrate(name, to), NOW, token)


def repair(name: str) -> Callable[[str], Task]:
    """Finish or undo what calls about a node's addresses left."""
    return lambda _: RepairAddressesTask(name, NOW)


def actor(
    name: str, *tasks: Callable[[str], Task], may_end: tuple[str, ...] = ("done",), apart: bool = False, attempts: int = 6
) -> Actor:
    """An actor that reads everything and runs tasks."""
    return Actor(name, call(*tasks, name=name, attempts=attempts), may_end, apart)


LATE = ("done", "NodeExhaustedError", "NoBlockError", "NotFoundError", "NotHeldError", "StaleFenceError", "BlockNotEmptyError")
"""How a call may end that another one can come before."""

BLOCK = apply(pool("p", "10.0.0.0/30", v4=30), node("n1"))
"""One node with one block of two addresses, 10.0.0.1 and 10.0.0.2."""

PAGES = apply(pool("p", "10.0.0.0/23", v4=23, reserved=["10.0.0.2-10.0.1.4", "10.0.1.6-10.0.1.255"]), node("n1"))
"""One node with one block over two pages, with one address in each: 10.0.0.1 and 10.0.1.5."""

DUAL = apply(pool("p", "10.0.0.0/30", "fd00::/126", v4=30, v6=126), node("n1"))
"""One node with a block of each family, two addresses in each."""

__all__ = [
    "BLOCK",
    "DUAL",
    "LATE",
    "PAGES",
    "actor",
    "adopt",
    "allocate",
    "apply",
    "drain",
    "force_release",
    "grow",
    "migrate",
    "node",
    "pool",
    "release",
    "release_fenced",
    "remove",
    "repair",
]
