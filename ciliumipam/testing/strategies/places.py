"""Addresses, prefixes and ranges: `ipaddress` values, and the texts that people write.

Nothing shrinks to 0.0.0.0/0 or to ::/128. The first choice is 10.0.0.0/24 and fd00::/64, and inside a given prefix its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from ciliumipam.cidr import WIDTH, Address, Family, Network, Prefix, parse_prefix, to_address

FAMILIES: tuple[Family, ...] = (4, 6)
USUAL = {4: 24, 6: 64}
"""The length that lengths shrink to."""
_HOME = {4: 0x0A000000, 6: 0xFD << 120}
_MAPPED = 0xFFFF << 32 | 0x0A000000
"""::ffff:10.0.0.0, which can be written in two ways."""
_NEAR = 8
GAPS = st.just(0) | st.integers(0, (1 << 128) - 1)
"""Between neighbours: mostly none."""


def families() -> st.SearchStrategy[Family]:
    """4 or 6; shrinks to 4."""
    return st.sampled_from(FAMILIES)


def addresses(*, family: Family | None = None, within: str | Network | None = None) -> st.SearchStrategy[Address]:
    """Addresses near 10.0.0.1 or fd00::1, at the edges of the family, and anywhere.

    Args:
        family: Only this one.
        within: Only addresses of this prefix, with a bias to its edges; the family is its own.
    """
    return st.one_of([_addresses_of(outer) for outer in _outers(family, within)])


def prefixes(
    *, family: Family | None = None, within: str | Network | None = None, min_length: int = 0, max_length: int = 128
) -> st.SearchStrategy[Network]:
    """Prefixes without host bits, of all lengths, at the edges and anywhere; they shrink to 10.0.0.0/24 or fd00::/64.

    Args:
        family: Only this one.
        within: Only prefixes inside this one, itself included; the family is its own.
        min_length: None that is wider. A family that has no such length is left out.
        max_length: None that is longer.
    """
    lengths = _lengths(family, within, min_length, max_length)
    return st.one_of([_some(found).flatmap(_prefixes_of(outer)) for outer, found in lengths.items()])


@st.composite
def disjoint_prefixes(
    draw: st.DrawFn,
    *,
    family: Family | None = None,
    within: str | Network | None = None,
    min_length: int = 0,
    max_length: int = 128,
    min_size: int = 0,
    max_size: int = 6,
) -> tuple[Network, ...]:
    """Prefixes of which no two share an address, many of them neighbours.

    The arguments are those of `prefixes`, and how many; there may be fewer than were drawn where there is no room for more.
    """
    lengths = _lengths(family, within, min_length, max_length)
    places = Places(draw, lengths)
    sizes = st.one_of([st.tuples(st.just(outer.family), _some(found), GAPS) for outer, found in lengths.items()])
    placed = [places.take(*size) for size in draw(st.lists(sizes, min_size=min_size, max_size=max_size))]
    found = tuple(network for network in placed if network is not None)
    assume(len(found) >= min_size)
    return found


@lru_cache
def range_texts(within: str | Network) -> st.SearchStrategy[str]:
    """Addresses of a prefix as `PoolSpec.reserved` takes them: 10.0.0.1, 10.0.0.1-10.0.0.9 or 10.0.0.0/28."""
    outer = parse_prefix(within)
    one, other = _addresses_of(outer), _addresses_of(outer, _NEAR + 1)
    both = st.tuples(one, other).map(lambda pair: "-".join(map(str, sorted(pair, key=int))))
    return one.map(str) | both | prefixes(within=within).map(str)


class Places:
    """Disjoint prefixes, one after the other, so that many are neighbours; from the usual place on, or from an edge of the space."""

    def __init__(self, draw: st.DrawFn, outers: Iterable[Prefix] = ()) -> None:
        """Nothing is taken; the space is that of all families unless prefixes are given, one a family."""
        self._draw = draw
        self._outers = {outer.family: outer for outer in tuple(outers) or _outers(None, None)}
        self._used: dict[Family, int] = {}
        self._backwards: set[Family] = set()

    def take(self, family: Family, length: int, gap: int) -> Network | None:
        """The next prefix of a length, after a gap of so many (as there is room for); None if there is no room."""
        outer = self._outers[family]
        size = 1 << (WIDTH[family] - length)
        used = self._used.get(family)
        at = self._start(outer) // size if used is None else -(-used // size)
        room = outer.size // size - at
        if room <= 0:
            return None
        at += gap % room
        self._used[family] = (at + 1) * size
        network = outer.size - (at + 1) * size if family in self._backwards else at * size
        return Prefix(family, outer.network + network, length).to_network()

    def _start(self, outer: Prefix) -> int:
        starts = [0, -1] if outer.length else [_HOME[outer.family], 0, -1, *([_MAPPED] if outer.family == 6 else [])]
        start = self._draw(st.sampled_from(starts))
        if start < 0:
            self._backwards.add(outer.family)
        return max(start, 0)


def nearest(usual: int, least: int, most: int) -> list[int]:
    """The numbers from `least` to `most`, the nearest to the usual one first, so that drawing one shrinks there."""
    return sorted(range(least, most + 1), key=lambda number: (abs(number - usual), number))


def _some(lengths: list[int]) -> st.SearchStrategy[int]:
    return st.sampled_from(lengths) | st.sampled_from([min(lengths), max(lengths)])


def _outers(family: Family | None, within: str | Network | None) -> tuple[Prefix, ...]:
    """The prefix that is asked for, or all of a family, or of both."""
    if within is None:
        return tuple(Prefix(each, 0, 0) for each in FAMILIES if family in (None, each))
    outer = parse_prefix(within)
    if family not in (None, outer.family):
        raise InvalidArgument(f"{outer} is not a prefix of IPv{family}; leave out the family")
    return (outer,)


def _lengths(family: Family | None, within: str | Network | None, least: int, most: int) -> dict[Prefix, list[int]]:
    """The lengths that there are between two, by the prefix in which they are looked for."""
    found = {
        outer: nearest(USUAL[outer.family], max(least, outer.length), min(most, WIDTH[outer.family]))
        for outer in _outers(family, within)
    }
    if not any(found.values()):
        raise InvalidArgument(f"no prefix of {' or '.join(map(str, found))} has a length of {least} to {most}")
    return {outer: lengths for outer, lengths in found.items() if lengths}


def _number(count: int, start: int) -> st.SearchStrategy[int]:
    """One of so many numbers: near the start, which it shrinks to, anywhere, and at the edges.

    It takes the same choices however many numbers there are: what needs fewer choices would count as simpler, as ::/0 does.
    """
    forward = st.integers(0, _NEAR) | st.integers(0, (1 << 128) - 1)
    return st.one_of(
        forward.map(lambda number: (start + number) % count),
        st.sampled_from((0, 1, -2, -1)).map(lambda number: number % count),
    )


def _addresses_of(outer: Prefix, start: int = 1) -> st.SearchStrategy[Address]:
    start += 0 if outer.length else _HOME[outer.family]
    return _number(outer.size, start).map(lambda number: to_address(outer.family, outer.network + number))


def _prefixes_of(outer: Prefix) -> Callable[[int], st.SearchStrategy[Network]]:
    def of_length(length: int) -> st.SearchStrategy[Network]:
        shift = WIDTH[outer.family] - length
        start = 0 if outer.length else _HOME[outer.family] >> shift
        return _number(1 << (length - outer.length), start).map(
            lambda number: Prefix(outer.family, outer.network + (number << shift), length).to_network()
        )

    return of_length
