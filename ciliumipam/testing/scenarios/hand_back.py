"""Blocks go back, from nodes that still allocate and from nodes that are gone."""

from __future__ import annotations

from ciliumipam.testing.actors import Scenario
from ciliumipam.testing.scenarios.calls import BLOCK, LATE, PAGES, actor, allocate, apply, node, pool, release, remove

_LAST_PAGE = apply(pool("p", "10.0.0.0/23", v4=23, reserved=["10.0.0.0-10.0.1.4", "10.0.1.6-10.0.1.255"]), node("n1"))
"""One node with one block over two pages, with one address in the second: 10.0.1.5."""

HAND_BACK: tuple[Scenario, ...] = (
    Scenario(
        "a block goes back and to another node while the first still allocates",
        (apply(pool("p", "10.0.0.0/30", v4=30), node("n1")),),
        (
            actor("A", remove("n1"), apply(node("n2")), may_end=LATE),
            actor("B", allocate("n1", "o"), may_end=LATE),
            actor("C", allocate("n2", "q"), may_end=LATE),
        ),
    ),
    Scenario(
        "a block goes back and to the same node again, whose old agent is still there",
        (BLOCK,),
        (
            actor("A", remove("n1"), apply(node("n1")), allocate("n1", "q"), may_end=LATE, attempts=4),
            actor("B", allocate("n1", "o"), may_end=LATE, attempts=4),
        ),
        lost=1,
    ),
    Scenario(
        "a block goes back and to the same node again, with each read of both for itself",
        (BLOCK,),
        (
            actor("A", remove("n1"), apply(node("n1")), allocate("n1", "q"), may_end=LATE, apart=True, attempts=4),
            actor("B", allocate("n1", "o"), may_end=LATE, apart=True, attempts=4),
        ),
    ),
    Scenario(
        "a block whose last page was never written goes back and to the same node again, with each read for itself",
        (_LAST_PAGE,),
        (
            actor("A", remove("n1"), apply(node("n1")), may_end=LATE, attempts=3),
            actor("B", allocate("n1", "o"), may_end=LATE, apart=True, attempts=3),
        ),
    ),
    Scenario(
        "two operators take the same block back, and one gives it to another node",
        (BLOCK,),
        (
            actor("A", remove("n1"), may_end=LATE),
            actor("B", remove("n1"), apply(node("n2")), may_end=LATE),
            actor("C", allocate("n1", "o"), may_end=LATE),
        ),
    ),
    Scenario(
        "a node that is gone loses its block by force, with further pages, while its agent sleeps in the middle of a call",
        (PAGES, allocate("n1", "x")),
        (
            actor("A", remove("n1", force=True), apply(node("n2")), may_end=LATE, attempts=3),
            actor("B", allocate("n1", "o"), may_end=LATE, attempts=3),
        ),
        late=1,
    ),
    Scenario(
        "by force, and the new holder allocates while the old agent wakes up",
        (BLOCK, allocate("n1", "x")),
        (
            actor("A", remove("n1", force=True), apply(node("n2")), allocate("n2", "q"), may_end=LATE, apart=True),
            actor("B", allocate("n1", "o"), release("n1", "x"), may_end=LATE, apart=True),
        ),
    ),
)

__all__ = ["HAND_BACK"]
