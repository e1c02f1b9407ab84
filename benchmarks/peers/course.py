"""What is raced over: the cases, who takes part, and which addresses or blocks are held.

What is held is the same for all: chosen uniformly at random with a fixed seed, but on one curve, where it is the lowest. Two pieces
are not left to chance. The first host address is always held, since host-local keeps it for the gateway, so it is free for nobody. And
the random one that stays free last is the middle one, so that a search from either end, or from a random place, has half of the pool
before it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

SEED = 20


class Case(NamedTuple):
    """One state of one pool."""

    job: str
    """`address` or `block`."""
    pool: str
    """Always the first CIDR of its length in 10.0.0.0/8."""
    length: int
    """Of what is given out."""
    held: int
    lowest: bool = False
    """Whether the lowest are held, in one piece, and not random ones."""

    @property
    def pieces(self) -> int:
        return 1 << (self.length - int(self.pool.partition("/")[2]))


class Curve(NamedTuple):
    """Cases that belong together, with the word that tells one from the next."""

    name: str
    title: str
    across: str
    cases: dict[str, Case]


class Contestant(NamedTuple):
    key: str
    """What the program that runs it calls it."""
    name: str
    home: str
    """`ours`, `Go` or `Python`."""
    job: str
    most: int | None = None
    """More than so many held are not tried: each would have to be acquired on its own, or is a file, and that takes minutes."""


MANY, MANY_FILES = 150_000, 35_000

CONTESTANTS = (
    Contestant("core", "core", "ours", "address"),
    Contestant("node-allocator", "NodeAllocator", "ours", "address"),
    Contestant("ipam", "Ipam", "ours", "address", MANY),
    Contestant("kubernetes-bitmap", "Kubernetes bitmap", "Go", "address"),
    Contestant("go-ipam", "go-ipam", "Go", "address"),
    Contestant("whereabouts", "whereabouts", "Go", "address"),
    Contestant("host-local", "host-local, in process", "Go", "address", MANY_FILES),
    Contestant("host-local-process", "host-local, the binary", "Go", "address", MANY_FILES),
    Contestant("netaddr", "netaddr IPSet", "Python", "address"),
    Contestant("ipaddress", "ipaddress", "Python", "address"),
    Contestant("core", "core", "ours", "block"),
    Contestant("carver", "CidrCarver", "ours", "block"),
    Contestant("kubernetes-cidrset", "Kubernetes CidrSet", "Go", "block"),
    Contestant("go-ipam", "go-ipam", "Go", "block"),
    Contestant("netaddr", "netaddr IPSet", "Python", "block"),
    Contestant("ipaddress", "ipaddress", "Python", "block"),
)

SHARES = {"empty": 0.0, "half": 0.5, "90 %": 0.9, "99 %": 0.99, "last free": 1.0}


def part(job: str) -> tuple[Contestant, ...]:
    """Who takes part in a job, ours first."""
    return tuple(each for each in CONTESTANTS if each.job == job)


def case(job: str, pool: int, length: int, share: float, *, lowest: bool = False) -> Case:
    """A pool of that prefix length, so full."""
    usable = (1 << (length - pool)) - (2 if job == "address" else 0)
    least = 1 if job == "address" else 0
    return Case(job, f"10.0.0.0/{pool}", length, max(least, min(int(usable * share), usable - 1)), lowest)


def curves(*, quick: bool) -> tuple[Curve, ...]:
    """All that is measured; cases that several curves share are measured once. `quick` is enough to see everybody do both jobs."""
    if quick:
        return (
            Curve("occupancy-24", "One address of a /24", "how full it is", {"99 %": case("address", 24, 32, 0.99)}),
            Curve("blocks", "One /24 of a /16", "how full it is", {"half": case("block", 16, 24, 0.5)}),
        )
    return (
        Curve(
            "occupancy-24",
            "One address of a /24",
            "how full it is",
            {name: case("address", 24, 32, share) for name, share in SHARES.items()},
        ),
        Curve(
            "occupancy",
            "One address of a /16",
            "how full it is",
            {name: case("address", 16, 32, share) for name, share in SHARES.items()},
        ),
        Curve(
            "lowest",
            "One address of a /16 whose lowest are held",
            "how full it is",
            {name: case("address", 16, 32, share, lowest=True) for name, share in SHARES.items()},
        ),
        Curve(
            "size",
            "One address of a pool that is 99 % full",
            "its size",
            {f"/{pool}": case("address", pool, 32, 0.99) for pool in (24, 20, 16, 12)},
        ),
        Curve(
            "held",
            "One address of a /14",
            "addresses held",
            {f"{held:,}": Case("address", "10.0.0.0/14", 32, held) for held in (1_000, 3_000, 10_000, 30_000, 100_000)},
        ),
        Curve(
            "blocks",
            "One /24 of a /8",
            "how full it is",
            {name: case("block", 8, 24, share) for name, share in SHARES.items()},
        ),
    )


def held(what: Case) -> Iterator[int]:
    """Which pieces of the pool are held, by number."""
    low, high = (1, what.pieces - 1) if what.job == "address" else (0, what.pieces)
    if what.lowest:
        yield from range(low, low + what.held)
        return
    middle = (low + high) // 2
    numbers = [number for number in range(low, high) if number != middle]
    if what.job == "address":
        yield numbers.pop(0)
    random.Random(SEED).shuffle(numbers)
    yield from numbers[: what.held - (1 if what.job == "address" else 0)]


def bitmap(what: Case) -> str:
    """The same as a number in hexadecimal whose n-th bit stands for the n-th piece."""
    octets = bytearray(what.pieces // 8 + 1)
    for number in held(what):
        octets[number >> 3] |= 1 << (number & 7)
    return f"{int.from_bytes(octets, 'little'):x}"
