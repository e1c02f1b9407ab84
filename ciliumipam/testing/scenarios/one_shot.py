"""Scenarios for the interleaving checker with one-shot callers: who has read a part only, beside each other and beside an `Ipam`.

A one-shot caller reads while it decides, so between any two of its reads the others go on: its view is of no one moment. Each of
its reads is a step of its own here.
"""

from __future__ import annotations

from collections.abc import Callable

from ciliumipam.release_tasks import ReleaseTask
from ciliumipam.requests import Release
from ciliumipam.tasks import Task
from ciliumipam.testing.actors import Actor, Scenario, call
from ciliumipam.testing.scenarios.calls import (
    NOW,
    actor,
    allocate,
    apply,
    drain,
    force_release,
    node,
    pool,
    release,
    remove,
)

_LATE = ("done", "NodeExhaustedError", "NoBlockError", "NotFoundError", "BlockNotEmptyError")
"""How a call may end that another one can come before."""

_BLOCK = apply(pool("p", "10.0.0.0/30", v4=30), node("n1"))
"""One node with one block of two addresses."""

_PAGES = apply(pool("p", "10.0.0.0/23", v4=23, reserved=["10.0.0.2-10.0.1.4", "10.0.1.6-10.0.1.255"]), node("n1"))
"""One node with one block over two pages, with one address in each: 10.0.0.1 and 10.0.1.5."""

_TWO_BLOCKS = apply(pool("p", "10.0.0.0/29", v4=30, blocks_per_node=2, reserved=["10.0.0.2", "10.0.0.6"]), node("n1"))
"""One node with two blocks of one address each."""

_DUAL = apply(pool("p", "10.0.0.0/30", "fd00::/126", v4=30, v6=126), node("n1"))
"""One node with a block of each family, two addresses in each."""


def give_up(name: str, owner: str) -> Callable[[str], Task]:
    """What a one-shot caller releases with: that nothing is there is no error."""
    return lambda _: ReleaseTask(Release(name, (owner,), missing_ok=True), NOW)


def one_shot(name: str, *tasks: Callable[[str], Task], may_end: tuple[str, ...] = ("done",), attempts: int = 6, apart: bool = True) -> Actor:
    """An actor whose calls begin with nothing read."""
    return Actor(name, call(*tasks, name=name, attempts=attempts, one_shot=True), may_end, apart)


ONE_SHOT: tuple[Scenario, ...] = (
    Scenario(
        "one-shot: one owner twice, with answers that are lost and writes that come late",
        (_BLOCK,),
        (one_shot("A", allocate("n1", "o")), one_shot("B", allocate("n1", "o"))),
        lost=1,
        late=1,
    ),
    Scenario(
        "one-shot: the last address, against an Ipam",
        (_BLOCK, allocate("n1", "x")),
        (one_shot("A", allocate("n1", "o"), may_end=_LATE), actor("B", allocate("n1", "q"), may_end=_LATE, apart=True)),
        lost=1,
        late=1,
    ),
    Scenario(
        "one-shot: an allocation while an Ipam releases the owner's address and gives it to another one",
        (_BLOCK, allocate("n1", "o")),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE),
            actor("B", release("n1", "o"), allocate("n1", "q"), may_end=_LATE),
            actor("C", allocate("n1", "r"), may_end=_LATE, attempts=2),
        ),
    ),
    Scenario(
        "one-shot: an allocation, a second one of the same owner by an Ipam, and a one-shot release",
        (_BLOCK,),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE),
            actor("B", allocate("n1", "o"), may_end=_LATE),
            one_shot("C", give_up("n1", "o"), may_end=_LATE),
        ),
        late=1,
    ),
    Scenario(
        "one-shot: one owner goes for two pages at once, the first of which is full for a while",
        (_PAGES, allocate("n1", "x")),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE),
            actor("B", release("n1", "x"), allocate("n1", "o"), may_end=_LATE),
        ),
        lost=1,
    ),
    Scenario(
        "one-shot: two owners go for the second block, the first being full for a while",
        (_TWO_BLOCKS, allocate("n1", "x")),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE),
            one_shot("B", give_up("n1", "x"), allocate("n1", "q"), may_end=_LATE),
        ),
        lost=1,
        blocks_per_node=2,
    ),
    Scenario(
        "one-shot: an allocation while the block goes back and to another node",
        (apply(pool("p", "10.0.0.0/30", v4=30), node("n1")),),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE),
            actor("B", remove("n1"), apply(node("n2")), may_end=_LATE, attempts=2),
            one_shot("C", allocate("n2", "q"), may_end=_LATE, attempts=2, apart=False),
        ),
    ),
    Scenario(
        "one-shot: an allocation while the block goes back and to the same node again",
        (apply(pool("p", "10.0.0.0/30", v4=30), node("n1")),),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE),
            actor("B", remove("n1"), apply(node("n1")), allocate("n1", "q"), may_end=_LATE, attempts=3),
        ),
    ),
    Scenario(
        "one-shot: an allocation while its block drains, goes to another node, and that allocates",
        (apply(pool("p", "10.0.0.0/29", v4=30), node("n1")),),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE),
            actor("B", drain("block", "10.0.0.0/30"), apply(node("n2")), may_end=_LATE),
            one_shot("C", allocate("n2", "q"), may_end=_LATE, apart=False),
        ),
        blocks_per_node=2,
    ),
    Scenario(
        "one-shot: both families, an allocation against a release of the same owner and an Ipam",
        (_DUAL, allocate("n1", "o")),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE, attempts=3),
            one_shot("B", give_up("n1", "o"), may_end=_LATE, attempts=2, apart=False),
            actor("C", release("n1", "o"), may_end=_LATE, attempts=2),
        ),
    ),
    Scenario(
        "one-shot: an address is taken by force while its owner asks for it",
        (_BLOCK, allocate("n1", "o")),
        (
            one_shot("A", allocate("n1", "o"), may_end=_LATE),
            actor("B", force_release("10.0.0.1"), allocate("n1", "q"), may_end=_LATE, apart=True),
        ),
        lost=1,
    ),
)


__all__ = ["ONE_SHOT"]
