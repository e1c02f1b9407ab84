"""Pools, and sets of them that do not overlap."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from ciliumipam.addresses import POLICIES
from ciliumipam.cidr import WIDTH, Family, Network
from ciliumipam.node import Node
from ciliumipam.pool import CARVING, DEFAULT_SPACE, BlockLengths, PoolSpec
from ciliumipam.testing.strategies.fleet import label_keys
from ciliumipam.testing.strategies.matching import selectors
from ciliumipam.testing.strategies.places import FAMILIES, GAPS, USUAL, Places, nearest, range_texts

_NAMES = ("pool-{}", "pool-{}", "rack-{}.example.com", "{}", "p" * 251 + ".{}")
_SPACES = (DEFAULT_SPACE, "tenant-b", "a.b", "s" * 253)
_LONGEST_DELAY = 315_360_000
_MOST_BLOCKS = 65536
_EXPLICIT = {4: 26, 6: 80}
"""The block length that a length which is given shrinks to."""
_NEAR = 9
_EDGES = (-(1 << 31), (1 << 31) - 1)

# built once: Hypothesis looks a strategy through when it is new
_PRIORITIES = st.integers(-2, 2) | st.integers(*_EDGES) | st.sampled_from(_EDGES)
_DELAYS = st.just(0) | st.integers(0, _LONGEST_DELAY) | st.floats(0, _LONGEST_DELAY)
_POLICIES = st.sampled_from(sorted(POLICIES, key=lambda policy: policy != "next"))
_SEEDS = st.just(0) | st.integers(0, (1 << 63) - 1)
_CARVING = st.sampled_from(CARVING)
_INDEXES = st.integers(0, 15)


@st.composite
def pools(
    draw: st.DrawFn,
    *,
    families: Collection[int] = (),
    selects: Iterable[Node] = (),
    min_blocks: int = 1,
    max_blocks: int | None = None,
) -> PoolSpec:
    """Pools with every field varied; they shrink to pool-a with 10.0.0.0/24 in one block, for every node.

    Where a field must have a certain value: `pools().map(lambda pool: pool.replace(draining=False))`.

    Args:
        families: Exactly these; by default any.
        selects: Nodes that the selector selects, all of them.
        min_blocks: How many blocks each CIDR makes at least, at the pool's own block length.
        max_blocks: For small pools, that can be filled or gone through: no CIDR makes more blocks for any node, and no node is
            given more. By default whatever is valid, which is up to 2^127 blocks, and 65,536 for a node.
    """
    bounds = _Bounds.of(families, selects, min_blocks, max_blocks)
    spec = _pool(draw, Places(draw), draw(_names(0)), draw(st.sampled_from(_SPACES)), bounds)
    assume(spec is not None)
    assert spec is not None
    return spec


@st.composite
def pool_sets(
    draw: st.DrawFn,
    *,
    families: Collection[int] = (),
    selects: Iterable[Node] = (),
    min_blocks: int = 1,
    max_blocks: int | None = None,
    min_size: int = 0,
    max_size: int = 4,
) -> tuple[PoolSpec, ...]:
    """Pools of one address space, of which no two overlap or have one name; many are neighbours.

    The arguments are those of `pools`, and how many; there may be fewer than were drawn where there is no room for more.
    """
    bounds = _Bounds.of(families, selects, min_blocks, max_blocks)
    places, space = Places(draw), draw(st.sampled_from(_SPACES))
    found: list[PoolSpec] = []
    # whether there is one more, asked before each, lets Hypothesis drop one without touching the others
    for number in range(max_size):
        if number >= min_size and not draw(st.booleans()):
            break
        spec = _pool(draw, places, draw(_names(number)), space, bounds)
        if spec is not None:
            found.append(spec)
    assume(len(found) >= min_size)
    return tuple(found)


@dataclass(frozen=True)
class _Bounds:
    """What the pools are to be like; blocks of a CIDR as bits."""

    families: tuple[Family, ...]
    selects: tuple[Node, ...]
    least: int
    most: int
    per_node: int

    @classmethod
    def of(cls, families: Collection[int], selects: Iterable[Node], min_blocks: int, max_blocks: int | None) -> _Bounds:
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown:
            raise InvalidArgument(f"there is no family {unknown[0]}; valid: 4, 6")
        least, most = (min_blocks - 1).bit_length(), 127 if max_blocks is None else max_blocks.bit_length() - 1
        per_node = min(max_blocks or _MOST_BLOCKS, _MOST_BLOCKS)
        if not 0 <= least <= most or any(least >= WIDTH[each] for each in families or FAMILIES):
            raise InvalidArgument(f"no CIDR makes {min_blocks} to {max_blocks} blocks: their number is a power of two, and fits the family")
        return cls(tuple(each for each in FAMILIES if each in families), tuple(selects), least, most, per_node)


def _pool(draw: st.DrawFn, places: Places, name: str, space: str, bounds: _Bounds) -> PoolSpec | None:
    """A pool in the places that are left; None if there is no room for it."""
    # all CIDRs in one list, and whatever depends on their number drawn in the same way, so that Hypothesis can leave any of them out
    lengths = {each: draw(_given_lengths(each, bounds.least)) for each in bounds.families or FAMILIES}
    sizes = [st.tuples(st.just(each), _cidr_lengths(each, given, bounds.least, bounds.most), GAPS) for each, given in lengths.items()]
    chosen = [draw(size) for size in (sizes if bounds.families else [st.one_of(sizes)])] + draw(st.lists(st.one_of(sizes), max_size=3))
    cidrs = [network for size in chosen if (network := places.take(*size)) is not None]
    present = {family for family in FAMILIES if any(cidr.version == family for cidr in cidrs)}
    if not cidrs or not present.issuperset(bounds.families):
        return None
    fields: dict[str, Any] = {f"block_length_v{family}": lengths[family] for family in sorted(present)}
    others = _block_lengths(cidrs, bounds)
    per_node = draw(st.just(1) | st.integers(1, bounds.per_node))
    carving = draw(_CARVING)
    return PoolSpec(
        name=name,
        cidrs=cidrs,
        selector=draw(selectors(selects=bounds.selects)),
        reserved=[draw(range_texts(cidrs[index % len(cidrs)])) for index in draw(st.lists(_INDEXES, max_size=3))],
        allow_first=draw(st.booleans()),
        allow_last=draw(st.booleans()),
        priority=draw(_PRIORITIES),
        address_space=space,
        block_lengths=draw(st.lists(others, max_size=2)),
        blocks_per_node=per_node,
        max_blocks_per_node=draw(st.none() | st.integers(per_node, bounds.per_node)),
        overflow=draw(st.booleans()),
        draining=draw(st.booleans()),
        reuse_delay=draw(_DELAYS),
        address_policy=draw(_POLICIES),
        seed=draw(_SEEDS),
        carving=carving,
        group_by=draw(label_keys()) if carving == "grouped" else "",
        **fields,
    )


@cache
def _given_lengths(family: Family, least: int) -> st.SearchStrategy[int | None]:
    """Block lengths of a pool of which some CIDR makes enough blocks, as bits; None is the default."""
    given = st.sampled_from(nearest(_EXPLICIT[family], least + 1, WIDTH[family]))
    return st.none() | given if least < USUAL[family] else given


@cache
def _cidr_lengths(family: Family, blocks: int | None, least: int, most: int) -> st.SearchStrategy[int]:
    """Lengths of a CIDR that makes so many blocks of a length, as bits."""
    fitting = [
        each
        for each in nearest(USUAL[family], 1, WIDTH[family])
        if least <= (blocks or _default_length(family, each)) - each <= most
    ]
    return st.sampled_from(fitting[:_NEAR]) | st.sampled_from(fitting)


def _default_length(family: Family, cidr: int) -> int:
    """The block length of a CIDR in a pool that names none."""
    return max(cidr, 24 if family == 4 else 64 if cidr <= 64 else 120)


@st.composite
def _block_lengths(draw: st.DrawFn, cidrs: list[Network], bounds: _Bounds) -> BlockLengths:
    """Other lengths for some nodes, of one family of the CIDRs or of both."""
    lengths: dict[str, int] = {}
    present: list[Family] = sorted({4 if cidr.version == 4 else 6 for cidr in cidrs})
    for family in draw(st.sampled_from([(each,) for each in present] + [tuple(present)])):
        all_of = [cidr.prefixlen for cidr in cidrs if cidr.version == family]
        fitting = nearest(USUAL[family], max(all_of), min(WIDTH[family], min(all_of) + bounds.most))
        if fitting:
            lengths[f"v{family}"] = draw(st.sampled_from(fitting))
    assume(lengths)
    return BlockLengths(draw(selectors()), **lengths)


def _names(number: int) -> st.SearchStrategy[str]:
    """Of the pool with a number, which are unique by it: pool-a, pool-b, ..., pool-z, pool-aa, ..."""
    letter = chr(ord("a") + number % 26) * (number // 26 + 1)
    return st.sampled_from(_NAMES).map(lambda form: form.format(letter)[:253])
