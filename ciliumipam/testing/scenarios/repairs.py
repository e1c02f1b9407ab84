"""Repairs of what a crash left, beside calls that are under way."""

from __future__ import annotations

from ciliumipam.testing.actors import Scenario
from ciliumipam.testing.scenarios.calls import BLOCK, DUAL, LATE, actor, allocate, release, repair

REPAIRS: tuple[Scenario, ...] = (
    Scenario(
        "a repair beside two calls that are under way, over both families",
        (DUAL,),
        (
            actor("A", allocate("n1", "o"), may_end=LATE, attempts=2),
            actor("B", repair("n1"), may_end=LATE, attempts=2),
            actor("C", release("n1", "o"), may_end=LATE, attempts=2),
        ),
    ),
    Scenario(
        "a repair of what a crash left, with answers that are lost and writes that come late",
        (BLOCK,),
        (
            actor("A", allocate("n1", "o"), may_end=LATE, attempts=3),
            actor("B", repair("n1"), allocate("n1", "q"), may_end=LATE, attempts=3),
        ),
        lost=1,
        late=1,
    ),
)

__all__ = ["REPAIRS"]
