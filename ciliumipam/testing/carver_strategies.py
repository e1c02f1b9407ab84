"""Small pools for carvers, anywhere in an address space: Hypothesis strategies, biased to the edges of a family and of a CIDR."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import WIDTH, Family, Prefix
from ciliumipam.testing.carver_oracle import CarverOracle

CELLS = 6
"""The window of a scenario has 2^6 cells, so that the oracle can look at all of them."""


@dataclass(frozen=True)
class Scenario:
    """CIDRs in one small window of the address space; nothing is longer than `longest`, so that the oracle can count cells."""

    family: Family
    longest: int
    cidrs: tuple[str, ...]
    blocked: tuple[str, ...]
    window: Prefix

    def carver(self) -> CidrCarver:
        """The real one, nothing taken."""
        return CidrCarver(self.cidrs, blocked=self.blocked)

    def oracle(self) -> CarverOracle:
        """Its twin."""
        return CarverOracle(self.cidrs, self.longest, self.blocked)


def inside(window: Prefix, longest: int, shortest: int = 0) -> st.SearchStrategy[Prefix]:
    """Any aligned prefix of the window, up to the window itself or a length, long ones as likely as short ones."""

    def prefix(length: int, index: int) -> Prefix:
        shift = WIDTH[window.family] - length
        return Prefix(window.family, window.network + ((index >> (longest - length)) << shift), length)

    return st.builds(prefix, st.integers(max(window.length, shortest), longest), st.integers(0, (1 << (longest - window.length)) - 1))


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """CIDRs, many of them neighbours, and blocked prefixes of any size, at the beginning, in the middle or at the end of a family."""
    spaces: list[tuple[Family, int]] = [(4, 32), (4, 24), (6, 128), (6, 64), (6, 6), (4, 6)]
    family, longest = draw(st.sampled_from(spaces))
    width = WIDTH[family]
    size = 1 << (width - longest + CELLS)
    places = sorted({0, (1 << width) - size, ((10 << (width - 8)) // size) * size})
    window = Prefix(family, draw(st.sampled_from(places)), longest - CELLS)
    cidrs: list[Prefix] = []
    for prefix in draw(st.lists(inside(window, longest), min_size=1, max_size=8)):
        if not any(prefix.overlaps(other) for other in cidrs):
            halves = prefix.length < longest and draw(st.booleans())
            middle = prefix.network + prefix.size // 2
            cidrs += [Prefix(family, n, prefix.length + 1) for n in (prefix.network, middle)] if halves else [prefix]
    wider = st.integers(0, window.length).map(
        lambda length: Prefix(family, window.network >> (width - length) << (width - length), length)
    )
    inner = inside(window, longest)
    few = inside(window, longest, shortest=longest - 2)
    blocked = draw(st.just([]) | st.lists(few, max_size=4) | st.lists(inner, max_size=4) | st.lists(inner | wider, max_size=4))
    return Scenario(family, longest, tuple(map(str, cidrs)), tuple(map(str, blocked)), window)


def around(scenario: Scenario) -> st.SearchStrategy[Prefix]:
    """A prefix of the window, one that covers it, or one beside it."""
    window, width = scenario.window, WIDTH[scenario.window.family]

    def wider(length: int, flip: int) -> Prefix:
        network = window.network ^ (1 << (width - 1 - flip))
        return Prefix(window.family, network >> (width - length) << (width - length), length)

    inner = inside(window, scenario.longest)
    return inner | inner | st.builds(wider, st.integers(0, scenario.longest), st.integers(0, width - 1))


def lengths(scenario: Scenario) -> st.SearchStrategy[int]:
    """Of a block: any that can be free in the window, and one that cannot; more often long, so that there is room for many."""
    shortest = max(0, scenario.window.length - 1)
    return st.integers(scenario.longest - 2, scenario.longest) | st.integers(shortest, scenario.longest)


__all__ = ["CELLS", "Scenario", "around", "inside", "lengths", "scenarios"]
