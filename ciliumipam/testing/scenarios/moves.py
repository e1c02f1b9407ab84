"""Nodes grow, adopt, drain and move to other pools."""

from __future__ import annotations

from ciliumipam.testing.actors import Scenario
from ciliumipam.testing.scenarios.calls import (
    LATE,
    actor,
    adopt,
    allocate,
    apply,
    drain,
    grow,
    migrate,
    node,
    pool,
    release,
)

_TWO_POOLS = apply(pool("p", "10.0.0.0/30", v4=30), pool("q", "10.0.1.0/30", v4=30), node("n1"))
"""One node with the block of a pool, and a second pool with one block as well."""

MOVES: tuple[Scenario, ...] = (
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
            actor("A", drain("pool", "p"), may_end=LATE),
            actor("B", allocate("n1", "o"), may_end=LATE),
        ),
        lost=1,
        blocks_per_node=2,
    ),
    Scenario(
        "a migration that crashes anywhere, a second one, and an allocation by a caller with an old view",
        (_TWO_POOLS, allocate("n1", "x"), release("n1", "x")),
        (
            actor("A", migrate("n1", "q"), may_end=LATE, attempts=3),
            actor("B", migrate("n1", "q"), may_end=LATE, attempts=2),
            actor("C", allocate("n1", "o"), may_end=LATE, attempts=2),
        ),
        blocks_per_node=2,
    ),
    Scenario(
        "a node is moved to one pool and back to the other, by two operators with old views of each other",
        (_TWO_POOLS,),
        (
            actor("A", migrate("n1", "q"), may_end=(*LATE, "PoolExhaustedError"), apart=True),
            actor("B", migrate("n1", "p"), may_end=(*LATE, "PoolExhaustedError"), apart=True),
        ),
        blocks_per_node=2,
    ),
    Scenario(
        "a block drains and goes to another node, which allocates in it, while the first one's owner comes late",
        (apply(pool("p", "10.0.0.0/29", v4=30), node("n1")),),
        (
            actor("A", drain("block", "10.0.0.0/30"), apply(node("n2")), may_end=LATE),
            actor("B", allocate("n1", "o"), may_end=LATE),
            actor("C", allocate("n2", "o"), may_end=LATE),
        ),
        blocks_per_node=2,
    ),
)

__all__ = ["MOVES"]
