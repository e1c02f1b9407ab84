"""Owners allocate and release: one address, or several pieces, all or nothing."""

from __future__ import annotations

from ciliumipam.testing.actors import Scenario
from ciliumipam.testing.scenarios.calls import (
    BLOCK,
    DUAL,
    LATE,
    PAGES,
    actor,
    allocate,
    apply,
    force_release,
    node,
    pool,
    release,
    release_fenced,
)

_SCARCE = apply(pool("p", "10.0.0.0/30", "fd00::/126", v4=30, v6=126, reserved=["fd00::2"]), node("n1"))
"""The same with one IPv6 address only."""

ADDRESSES: tuple[Scenario, ...] = (
    Scenario(
        "two calls of one owner",
        (BLOCK,),
        (actor("A", allocate("n1", "o"), apart=True), actor("B", allocate("n1", "o"), apart=True)),
        lost=1,
        late=1,
    ),
    Scenario(
        "two owners race for the last address",
        (BLOCK, allocate("n1", "x")),
        (actor("A", allocate("n1", "o"), may_end=LATE, apart=True), actor("B", allocate("n1", "q"), may_end=LATE, apart=True)),
        lost=1,
        late=1,
    ),
    Scenario(
        "a release races an allocation of the same owner and one of another",
        (BLOCK, allocate("n1", "o")),
        (actor("A", release("n1", "o")), actor("B", allocate("n1", "o")), actor("C", allocate("n1", "q"), may_end=LATE)),
        lost=1,
    ),
    Scenario(
        "an owner releases and allocates again while others do the same and one releases by fence",
        (BLOCK, allocate("n1", "o")),
        (
            actor("A", release("n1", "o"), allocate("n1", "o"), may_end=LATE),
            actor("B", release_fenced("10.0.0.1", 7), may_end=LATE),
            actor("C", allocate("n1", "q"), may_end=LATE),
        ),
    ),
    Scenario(
        "an allocation that crashes anywhere, a second call, a release, writes delivered late",
        (BLOCK,),
        (
            actor("A", allocate("n1", "o"), may_end=LATE),
            actor("B", allocate("n1", "o"), may_end=LATE),
            actor("C", release("n1", "o"), may_end=LATE),
        ),
        late=1,
    ),
    Scenario(
        "a caller with an old view asks for what another has released and given to somebody else",
        (BLOCK, allocate("n1", "o")),
        (
            actor("A", release("n1", "o"), allocate("n1", "q"), may_end=LATE),
            actor("B", allocate("n1", "x"), allocate("n1", "o"), release("n1", "o"), may_end=LATE),
        ),
    ),
    Scenario(
        "four calls: two of one owner, one of another, and a release",
        (BLOCK,),
        (
            actor("A", allocate("n1", "o"), may_end=LATE, attempts=2),
            actor("B", allocate("n1", "o"), may_end=LATE, attempts=2),
            actor("C", allocate("n1", "q"), may_end=LATE, attempts=2),
            actor("D", release("n1", "o"), may_end=LATE, attempts=2),
        ),
    ),
    Scenario(
        "five calls of three owners for two addresses",
        (BLOCK,),
        tuple(
            actor(name, allocate("n1", owner), may_end=LATE, attempts=1)
            for name, owner in zip("ABCDE", ("o", "o", "q", "q", "x"), strict=True)
        ),
    ),
    Scenario(
        "one owner goes for two pages at once",
        (PAGES,),
        (
            actor("A", allocate("n1", "o"), apart=True),
            actor("B", allocate("n1", "o", address="10.0.1.5"), may_end=("done", "OwnerHoldsError"), apart=True),
        ),
        lost=1,
    ),
    Scenario(
        "a forced release of whoever holds the address",
        (BLOCK, allocate("n1", "o")),
        (
            actor("A", force_release("10.0.0.1"), may_end=LATE, apart=True),
            actor("B", release("n1", "o"), allocate("n1", "q"), may_end=LATE, apart=True),
        ),
        lost=1,
    ),
    Scenario(
        "both families, two calls of one owner",
        (DUAL,),
        (actor("A", allocate("n1", "o")), actor("B", allocate("n1", "o"))),
        lost=1,
        late=1,
    ),
    Scenario(
        "both families, allocation against release of the same owner",
        (DUAL, allocate("n1", "o")),
        (actor("A", release("n1", "o"), may_end=LATE, apart=True), actor("B", allocate("n1", "o"), apart=True)),
        lost=1,
    ),
    Scenario(
        "both families, an allocation that crashes anywhere, a second call and a release",
        (DUAL,),
        (
            actor("A", allocate("n1", "o"), may_end=LATE, attempts=2),
            actor("B", allocate("n1", "o"), may_end=LATE, attempts=2),
            actor("C", release("n1", "o"), may_end=LATE, attempts=2),
        ),
    ),
    Scenario(
        "both families, the second exhausted for one of two owners, which gives the first back",
        (_SCARCE,),
        (
            actor("A", allocate("n1", "o"), may_end=LATE, apart=True),
            actor("B", allocate("n1", "q"), may_end=LATE, apart=True),
        ),
        lost=1,
    ),
    Scenario(
        "two owners or none, while one of them calls alone and another takes what is left",
        (BLOCK,),
        (
            actor("A", allocate("n1", "o", "q"), may_end=LATE),
            actor("B", allocate("n1", "o"), may_end=LATE),
            actor("C", allocate("n1", "x"), may_end=LATE),
        ),
    ),
)

__all__ = ["ADDRESSES"]
