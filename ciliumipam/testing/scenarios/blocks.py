"""Operators give blocks to nodes, of one length and of several."""

from __future__ import annotations

from ciliumipam.pool import BlockLengths, PoolSpec
from ciliumipam.selector import NodeSelector
from ciliumipam.testing.actors import Scenario
from ciliumipam.testing.scenarios.calls import LATE, actor, allocate, apply, node, pool, remove

_FOUR = apply(pool("p", "10.0.0.0/28", v4=30), node("n0"))
"""Four blocks of two addresses, one of them held, so that the links down to their page exist."""


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

BLOCKS: tuple[Scenario, ...] = (
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
            actor("B", apply(node("n3", "s")), remove("n3"), may_end=LATE, attempts=2),
        ),
    ),
    Scenario(
        "the same under earlier fences than the large one's, while another operator gives its node another block",
        _USED_UNEVENLY,
        (
            actor("A", apply(node("n2")), attempts=3),
            actor("B", apply(node("n3", "s")), remove("n3"), may_end=LATE, attempts=1),
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
            actor("B", apply(node("n1")), allocate("n1", "o"), may_end=LATE, apart=True),
        ),
    ),
    Scenario(
        "one IPv6 block is left for two nodes that want both families",
        (apply(pool("p", "10.0.0.0/28", "fd00::/125", v4=30, v6=126), node("n0")),),
        (actor("A", apply(node("n1")), apart=True), actor("B", apply(node("n2")), apart=True)),
    ),
)

__all__ = ["BLOCKS"]
