"""The scenarios that the interleaving checker walks, and what each is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ciliumipam.block_tasks import ApplyTask, GrowTask
from ciliumipam.cidr import parse_address, parse_prefix, to_address
from ciliumipam.drain_tasks import DrainTask, MigrateTask
from ciliumipam.node import Node
from ciliumipam.pool import BlockLengths, PoolSpec
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
from ciliumipam.testing.actors import Actor, Scenario, call

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


_LATE = ("done", "NodeExhaustedError", "NoBlockError", "NotFoundError", "NotHeldError", "StaleFenceError", "BlockNotEmptyError")
"""How a call may end that another one can come before."""

_FOUR = apply(pool("p", "10.0.0.0/28", v4=30), node("n0"))
"""Four blocks of two addresses, one of them held, so that the links down to their page exist."""

_BLOCK = apply(pool("p", "10.0.0.0/30", v4=30), node("n1"))
"""One node with one block of two addresses, 10.0.0.1 and 10.0.0.2."""

_PAGES = apply(
    pool("p", "10.0.0.0/23", v4=23, reserved=["10.0.0.2-10.0.1.4", "10.0.1.6-10.0.1.255"]), node("n1")
)
"""One node with one block over two pages, with one address in each: 10.0.0.1 and 10.0.1.5."""

_LAST_PAGE = apply(pool("p", "10.0.0.0/23", v4=23, reserved=["10.0.0.0-10.0.1.4", "10.0.1.6-10.0.1.255"]), node("n1"))
"""One node with one block over two pages, with one address in the second: 10.0.1.5."""

_DUAL = apply(pool("p", "10.0.0.0/30", "fd00::/126", v4=30, v6=126), node("n1"))
"""One node with a block of each family, two addresses in each."""

_SCARCE = apply(pool("p", "10.0.0.0/30", "fd00::/126", v4=30, v6=126, reserved=["fd00::2"]), node("n1"))
"""The same with one IPv6 address only."""


_TWO_POOLS = apply(pool("p", "10.0.0.0/30", v4=30), pool("q", "10.0.1.0/30", v4=30), node("n1"))
"""One node with the block of a pool, and a second pool with one block as well."""


def _two_lengths(cidr: str, *, large: int) -> PoolSpec:
    """A pool that has large blocks for nodes, and /28 for those in rack s."""
    return pool("p", cidr, v4=large, block_lengths=[BlockLengths(NodeSelector.parse("rack=s"), 28)])


_USED = (apply(_two_lengths("10.0.0.0/25", large=26), node("n1", "s")), remove("n1"))
"""Two blocks for nodes, of which one is split, and empty again."""

_USED_UNEVENLY = (
    apply(_two_lengths("10.0.0.0/25", large=26), node("n0", "s"), node("n1", "s")),
    remove("n1"),
    apply(node("n1", "s")),
    remove("n1"),
    remove("n0"),
)
"""The same, with an earlier last fence in the small block that is the next than in another one of the large block."""

_USED_DEEP = (apply(_two_lengths("10.0.0.0/17", large=18), node("n1", "s")), remove("n1"))
"""The same with two pages one below the other in a large block."""


def scenarios() -> list[Scenario]:
    """All that are walked in every test run."""
    return [
        *_blocks(),
        *_one_family(),
        *_several_pieces(),
        *_hand_back(),
        *_moves(),
        *_repairs(),
    ]


def _blocks() -> list[Scenario]:
    return [
        Scenario(
            "two operators give blocks to the same two nodes",
            (_FOUR,),
            (actor("A", apply(node("n1"), node("n2")), apart=True), actor("B", apply(node("n1"), node("n2")), apart=True)),
        ),
        Scenario(
            "two operators race for the last block",
            (apply(pool("p", "10.0.0.0/29", v4=30), node("n0")),),
            (
                actor("A", apply(node("n1")), apart=True),
                actor("B", apply(node("n2")), apart=True),
            ),
            lost=1,
        ),
        Scenario(
            "the first claims in an empty space, one of a page of its own below",
            (apply(pool("big", "10.0.0.0/24", v4=25, rack="b"), pool("small", "10.0.2.0/24", v4=28, rack="s")),),
            (actor("A", apply(node("n1", "b"))), actor("B", apply(node("n2", "s")))),
        ),
        Scenario(
            "a split region is joined for a large block while a small one is claimed in it, by operators with other pools",
            (
                apply(pool("p", "10.0.0.0/25", v4=28), node("n1")),
                remove("n1"),
            ),
            (
                actor("A", apply(pool("p", "10.0.0.0/25", v4=25), node("n2")), apart=True),
                actor("B", apply(pool("p", "10.0.0.0/25", v4=28), node("n3")), apart=True),
            ),
        ),
        Scenario(
            "a small block is taken and given back where a large one is claimed and not filled yet",
            _USED,
            (
                actor("A", apply(node("n2")), attempts=3),
                actor("B", apply(node("n3", "s")), remove("n3"), may_end=_LATE, attempts=2),
            ),
        ),
        Scenario(
            "the same under earlier fences than the large one's, while another operator gives its node another block",
            _USED_UNEVENLY,
            (
                actor("A", apply(node("n2")), attempts=3),
                actor("B", apply(node("n3", "s")), remove("n3"), may_end=_LATE, attempts=1),
                actor("C", apply(), attempts=1),
            ),
        ),
        Scenario(
            "two operators give one node a large block, for which two pages are closed one below the other",
            _USED_DEEP,
            (actor("A", apply(node("n2")), attempts=3), actor("B", apply(node("n2")), attempts=3)),
            lost=1,
        ),
        Scenario(
            "an operator moves a pool elsewhere while another gives out of it",
            (_FOUR,),
            (
                actor("A", apply(pool("p", "10.0.1.0/28", v4=30)), apart=True),
                actor("B", apply(node("n1")), allocate("n1", "o"), may_end=_LATE, apart=True),
            ),
        ),
        Scenario(
            "one IPv6 block is left for two nodes that want both families",
            (apply(pool("p", "10.0.0.0/28", "fd00::/125", v4=30, v6=126), node("n0")),),
            (actor("A", apply(node("n1")), apart=True), actor("B", apply(node("n2")), apart=True)),
        ),
    ]


def _one_family() -> list[Scenario]:
    return [
        Scenario(
            "two calls of one owner",
            (_BLOCK,),
            (actor("A", allocate("n1", "o"), apart=True), actor("B", allocate("n1", "o"), apart=True)),
            lost=1,
            late=1,
        ),
        Scenario(
            "two owners race for the last address",
            (_BLOCK, allocate("n1", "x")),
            (actor("A", allocate("n1", "o"), may_end=_LATE, apart=True), actor("B", allocate("n1", "q"), may_end=_LATE, apart=True)),
            lost=1,
            late=1,
        ),
        Scenario(
            "a release races an allocation of the same owner and one of another",
            (_BLOCK, allocate("n1", "o")),
            (actor("A", release("n1", "o")), actor("B", allocate("n1", "o")), actor("C", allocate("n1", "q"), may_end=_LATE)),
            lost=1,
        ),
        Scenario(
            "an owner releases and allocates again while others do the same and one releases by fence",
            (_BLOCK, allocate("n1", "o")),
            (
                actor("A", release("n1", "o"), allocate("n1", "o"), may_end=_LATE),
                actor("B", release_fenced("10.0.0.1", 7), may_end=_LATE),
                actor("C", allocate("n1", "q"), may_end=_LATE),
            ),
        ),
        Scenario(
            "an allocation that crashes anywhere, a second call, a release, writes delivered late",
            (_BLOCK,),
            (
                actor("A", allocate("n1", "o"), may_end=_LATE),
                actor("B", allocate("n1", "o"), may_end=_LATE),
                actor("C", release("n1", "o"), may_end=_LATE),
            ),
            late=1,
        ),
        Scenario(
            "a caller with an old view asks for what another has released and given to somebody else",
            (_BLOCK, allocate("n1", "o")),
            (
                actor("A", release("n1", "o"), allocate("n1", "q"), may_end=_LATE),
                actor("B", allocate("n1", "x"), allocate("n1", "o"), release("n1", "o"), may_end=_LATE),
            ),
        ),
        Scenario(
            "four calls: two of one owner, one of another, and a release",
            (_BLOCK,),
            (
                actor("A", allocate("n1", "o"), may_end=_LATE, attempts=2),
                actor("B", allocate("n1", "o"), may_end=_LATE, attempts=2),
                actor("C", allocate("n1", "q"), may_end=_LATE, attempts=2),
                actor("D", release("n1", "o"), may_end=_LATE, attempts=2),
            ),
        ),
        Scenario(
            "five calls of three owners for two addresses",
            (_BLOCK,),
            tuple(
                actor(name, allocate("n1", owner), may_end=_LATE, attempts=1)
                for name, owner in zip("ABCDE", ("o", "o", "q", "q", "x"), strict=True)
            ),
        ),
        Scenario(
            "one owner goes for two pages at once",
            (_PAGES,),
            (
                actor("A", allocate("n1", "o"), apart=True),
                actor("B", allocate("n1", "o", address="10.0.1.5"), may_end=("done", "OwnerHoldsError"), apart=True),
            ),
            lost=1,
        ),
        Scenario(
            "a forced release of whoever holds the address",
            (_BLOCK, allocate("n1", "o")),
            (
                actor("A", force_release("10.0.0.1"), may_end=_LATE, apart=True),
                actor("B", release("n1", "o"), allocate("n1", "q"), may_end=_LATE, apart=True),
            ),
            lost=1,
        ),
    ]


def _several_pieces() -> list[Scenario]:
    return [
        Scenario(
            "both families, two calls of one owner",
            (_DUAL,),
            (actor("A", allocate("n1", "o")), actor("B", allocate("n1", "o"))),
            lost=1,
            late=1,
        ),
        Scenario(
            "both families, allocation against release of the same owner",
            (_DUAL, allocate("n1", "o")),
            (actor("A", release("n1", "o"), may_end=_LATE, apart=True), actor("B", allocate("n1", "o"), apart=True)),
            lost=1,
        ),
        Scenario(
            "both families, an allocation that crashes anywhere, a second call and a release",
            (_DUAL,),
            (
                actor("A", allocate("n1", "o"), may_end=_LATE, attempts=2),
                actor("B", allocate("n1", "o"), may_end=_LATE, attempts=2),
                actor("C", release("n1", "o"), may_end=_LATE, attempts=2),
            ),
        ),
        Scenario(
            "both families, the second exhausted for one of two owners, which gives the first back",
            (_SCARCE,),
            (
                actor("A", allocate("n1", "o"), may_end=_LATE, apart=True),
                actor("B", allocate("n1", "q"), may_end=_LATE, apart=True),
            ),
            lost=1,
        ),
        Scenario(
            "two owners or none, while one of them calls alone and another takes what is left",
            (_BLOCK,),
            (
                actor("A", allocate("n1", "o", "q"), may_end=_LATE),
                actor("B", allocate("n1", "o"), may_end=_LATE),
                actor("C", allocate("n1", "x"), may_end=_LATE),
            ),
        ),
    ]


def _hand_back() -> list[Scenario]:
    return [
        Scenario(
            "a block goes back and to another node while the first still allocates",
            (apply(pool("p", "10.0.0.0/30", v4=30), node("n1")),),
            (
                actor("A", remove("n1"), apply(node("n2")), may_end=_LATE),
                actor("B", allocate("n1", "o"), may_end=_LATE),
                actor("C", allocate("n2", "q"), may_end=_LATE),
            ),
        ),
        Scenario(
            "a block goes back and to the same node again, whose old agent is still there",
            (_BLOCK,),
            (
                actor("A", remove("n1"), apply(node("n1")), allocate("n1", "q"), may_end=_LATE, attempts=4),
                actor("B", allocate("n1", "o"), may_end=_LATE, attempts=4),
            ),
            lost=1,
        ),
        Scenario(
            "a block goes back and to the same node again, with each read of both for itself",
            (_BLOCK,),
            (
                actor("A", remove("n1"), apply(node("n1")), allocate("n1", "q"), may_end=_LATE, apart=True, attempts=4),
                actor("B", allocate("n1", "o"), may_end=_LATE, apart=True, attempts=4),
            ),
        ),
        Scenario(
            "a block whose last page was never written goes back and to the same node again, with each read for itself",
            (_LAST_PAGE,),
            (
                actor("A", remove("n1"), apply(node("n1")), may_end=_LATE, attempts=3),
                actor("B", allocate("n1", "o"), may_end=_LATE, apart=True, attempts=3),
            ),
        ),
        Scenario(
            "two operators take the same block back, and one gives it to another node",
            (_BLOCK,),
            (
                actor("A", remove("n1"), may_end=_LATE),
                actor("B", remove("n1"), apply(node("n2")), may_end=_LATE),
                actor("C", allocate("n1", "o"), may_end=_LATE),
            ),
        ),
        Scenario(
            "a node that is gone loses its block by force, with further pages, while its agent sleeps in the middle of a call",
            (_PAGES, allocate("n1", "x")),
            (
                actor("A", remove("n1", force=True), apply(node("n2")), may_end=_LATE, attempts=3),
                actor("B", allocate("n1", "o"), may_end=_LATE, attempts=3),
            ),
            late=1,
        ),
        Scenario(
            "by force, and the new holder allocates while the old agent wakes up",
            (_BLOCK, allocate("n1", "x")),
            (
                actor("A", remove("n1", force=True), apply(node("n2")), allocate("n2", "q"), may_end=_LATE, apart=True),
                actor("B", allocate("n1", "o"), release("n1", "x"), may_end=_LATE, apart=True),
            ),
        ),
    ]


def _moves() -> list[Scenario]:
    return [
        Scenario(
            "two operators grow the same node to two blocks while a second node wants one of the three",
            (apply(pool("p", "10.0.0.0/28", v4=30, reserved=["10.0.0.12/30"]), node("n1")),),
            (
                actor("A", grow("n1", 2)),
                actor("B", grow("n1", 2), attempts=3),
                actor("C", apply(node("n2")), attempts=3),
            ),
            blocks_per_node=2,
        ),
        Scenario(
            "two operators adopt what two nodes say they have: the same block",
            (apply(pool("p", "10.0.0.0/29", v4=30)),),
            (
                actor("A", apply(node("n1"), node("n2")), adopt(("n1", "10.0.0.4/30")), attempts=3),
                actor("B", apply(node("n1"), node("n2")), adopt(("n2", "10.0.0.4/30")), attempts=3),
            ),
            blocks_per_node=2,
        ),
        Scenario(
            "a pool drains while its node allocates; the node gets a block of the other pool, the empty one goes to the next node",
            (_TWO_POOLS,),
            (
                actor("A", drain("pool", "p"), may_end=_LATE),
                actor("B", allocate("n1", "o"), may_end=_LATE),
            ),
            lost=1,
            blocks_per_node=2,
        ),
        Scenario(
            "a migration that crashes anywhere, a second one, and an allocation by a caller with an old view",
            (_TWO_POOLS, allocate("n1", "x"), release("n1", "x")),
            (
                actor("A", migrate("n1", "q"), may_end=_LATE, attempts=3),
                actor("B", migrate("n1", "q"), may_end=_LATE, attempts=2),
                actor("C", allocate("n1", "o"), may_end=_LATE, attempts=2),
            ),
            blocks_per_node=2,
        ),
        Scenario(
            "a node is moved to one pool and back to the other, by two operators with old views of each other",
            (_TWO_POOLS,),
            (
                actor("A", migrate("n1", "q"), may_end=(*_LATE, "PoolExhaustedError"), apart=True),
                actor("B", migrate("n1", "p"), may_end=(*_LATE, "PoolExhaustedError"), apart=True),
            ),
            blocks_per_node=2,
        ),
        Scenario(
            "a block drains and goes to another node, which allocates in it, while the first one's owner comes late",
            (apply(pool("p", "10.0.0.0/29", v4=30), node("n1")),),
            (
                actor("A", drain("block", "10.0.0.0/30"), apply(node("n2")), may_end=_LATE),
                actor("B", allocate("n1", "o"), may_end=_LATE),
                actor("C", allocate("n2", "o"), may_end=_LATE),
            ),
            blocks_per_node=2,
        ),
    ]


def _repairs() -> list[Scenario]:
    return [
        Scenario(
            "a repair beside two calls that are under way, over both families",
            (_DUAL,),
            (
                actor("A", allocate("n1", "o"), may_end=_LATE, attempts=2),
                actor("B", repair("n1"), may_end=_LATE, attempts=2),
                actor("C", release("n1", "o"), may_end=_LATE, attempts=2),
            ),
        ),
        Scenario(
            "a repair of what a crash left, with answers that are lost and writes that come late",
            (_BLOCK,),
            (
                actor("A", allocate("n1", "o"), may_end=_LATE, attempts=3),
                actor("B", repair("n1"), allocate("n1", "q"), may_end=_LATE, attempts=3),
            ),
            lost=1,
            late=1,
        ),
    ]


__all__ = ["scenarios"]
