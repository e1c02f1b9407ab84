"""The carver: what one block costs, in pools that are small, large, in use for long, or full of holes.

`churn`: a random block is given back, another is taken; lengths /24 to /28 in equal parts unless one is named. Before anything is
measured each block has been replaced several times. `holes`: twice as many blocks were carved and half of them, at random, given
back just before. The median of several rounds is reported. `policy`: the same churn of /24s with each carving policy, groups at
random, beside plain lowest-first measured by the same loop; a pair tells carver and grouping. `one level`: the three structures that were tried for the free
prefixes of one length, each doing what the carver asks of it, and nothing else: the lowest goes, a random one comes (take, give
back), a random one goes and comes (a merge and a split).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from statistics import median
from time import perf_counter

from sortedcontainers import SortedList, SortedSet

from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import Prefix
from ciliumipam.grouping import Grouping
from ciliumipam.routes import GroupBlock, group_routes

MIXED = (24, 25, 26, 27, 28)
Row = tuple[str, float, str]


def timed(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


def filled(chance: random.Random, live: int, lengths: tuple[int, ...]) -> tuple[CidrCarver, list[tuple[int, int]]]:
    carver = CidrCarver(["10.0.0.0/8"])
    wanted = [chance.choice(lengths) for _ in range(live)]
    return carver, [(carver.take(length), length) for length in wanted]


def churn(
    carver: CidrCarver, held: list[tuple[int, int]], chance: random.Random, lengths: tuple[int, ...], pairs: int
) -> float:
    """Seconds for that many pairs."""
    picks = [chance.randrange(len(held)) for _ in range(pairs)]
    wanted = [chance.choice(lengths) for _ in range(pairs)]

    def work() -> None:
        give_back, take = carver.give_back_bits, carver.take
        for pick, length in zip(picks, wanted, strict=True):
            network, old = held[pick]
            give_back(network, old)
            held[pick] = take(length), length

    seconds = timed(work)
    assert min(held)[0] >= 0, "the pool was large enough"
    return seconds


def steady(live: int, lengths: tuple[int, ...], pairs: int) -> float:
    chance = random.Random(live)
    carver, held = filled(chance, live, lengths)
    churn(carver, held, chance, lengths, 5 * live)
    seconds = median(churn(carver, held, chance, lengths, pairs) for _ in range(5))
    carver.check_invariants()
    return seconds / pairs * 1e6


def with_holes(live: int, pairs: int) -> tuple[float, int]:
    """Microseconds for a pair while there are still many holes, and how many free prefixes there were."""
    rounds = []
    free = 0
    for seed in range(5):
        chance = random.Random(seed)
        carver, held = filled(chance, 2 * live, MIXED)
        chance.shuffle(held)
        for network, length in held[live:]:
            carver.give_back_bits(network, length)
        del held[live:]
        free = len(carver.free_prefixes())
        rounds.append(churn(carver, held, chance, MIXED, pairs))
    return median(rounds) / pairs * 1e6, free


def first_of_an_untouched(cidr: str, length: int) -> float:
    carvers = [CidrCarver([cidr]) for _ in range(201)]
    return median(timed(partial(carver.take, length)) for carver in carvers) * 1e6


def typed_pair(live: int, pairs: int) -> float:
    carver, _ = filled(random.Random(live), live, MIXED)

    def work() -> None:
        for _ in range(pairs):
            carver.give_back(carver.carve(26))

    return median(timed(work) for _ in range(5)) / pairs * 1e6


def construct(blocked: int) -> float:
    chance = random.Random(blocked)
    _, held = filled(chance, 2 * blocked, MIXED)
    prefixes = [Prefix(4, network, length) for network, length in chance.sample(held, blocked)]
    return median(timed(lambda: CidrCarver(["10.0.0.0/8"], blocked=prefixes)) for _ in range(7)) * 1e3


# ----------------------------------------------------------------------------------------------- policies


class Pool:
    """A carver, its grouping, and who holds what."""

    def __init__(self, live: int, groups: int, length: int, policy: str) -> None:
        self.chance = random.Random(live)
        self.carver = CidrCarver(["10.0.0.0/8"])
        self.grouping = Grouping(self.carver)
        self.length, self.policy = length, policy
        self.names = [f"rack-{number:03}" for number in range(groups)]
        self.held: list[tuple[int, str]] = [(-1, "")] * live
        self.give(list(range(live)))

    def give(self, places: list[int]) -> None:
        """A block for each place, whose old one, if any, is given back just before."""
        carver, grouping, length, held, policy = self.carver, self.grouping, self.length, self.held, self.policy
        grouped = policy == "grouped"
        for place, group in zip(places, self.chance.choices(self.names, k=len(places)), strict=True):
            network = held[place][0]
            if network >= 0:
                carver.give_back_bits(network, length)
                if grouped:
                    grouping.forget(network, length)
            if grouped:
                network = grouping.choose(length, group)
                carver.occupy_bits(network, length)
                grouping.note(network, length, group)
            elif policy == "beside":
                network = carver.peek_beside((max(0, held[place - 1][0]),), length)
                carver.occupy_bits(network, length)
            else:
                network = carver.take(length, sparse=policy == "sparse")
            held[place] = network, group
            assert network >= 0, "the pool was large enough"

    def pair(self, pairs: int) -> float:
        """Microseconds to give back and carve one block."""
        rounds = []
        for _ in range(5):
            places = [self.chance.randrange(len(self.held)) for _ in range(pairs)]
            rounds.append(timed(partial(self.give, places)))
        self.carver.check_invariants()
        if self.policy == "grouped":
            self.grouping.check_invariants()
        return median(rounds) / pairs * 1e6

    def report(self) -> tuple[float, int]:
        """Milliseconds for the routes of all groups, and how many are announced."""
        blocks = [GroupBlock(Prefix(4, network, self.length), group, place) for place, (network, group) in enumerate(self.held)]
        cidrs = [Prefix(4, 10 << 24, 8)]
        announced = sum(len(route.announced) for route in group_routes(blocks, cidrs))
        return timed(lambda: group_routes(blocks, cidrs)) * 1e3, announced


def policies(live: int, groups: int, length: int, pairs: int, others: tuple[str, ...]) -> list[Row]:
    """Each policy beside lowest-first in one run: time, ratio, and what routers would announce for the groups."""
    name = f"/{length}, {live:,} live, {groups} groups"
    rows: list[Row] = []
    plain = 0.0
    for policy in ("lowest", *others):
        pool = Pool(live, groups, length, policy)
        cost = pool.pair(pairs)
        plain = plain or cost
        rows.append((f"policy {policy}, {name}", cost, "µs/pair"))
        if policy != "lowest":
            rows.append((f"policy {policy} ÷ lowest, {name}", cost / plain, "times"))
        if policy in ("lowest", "grouped"):
            seconds, announced = pool.report()
            rows.append((f"policy {policy}, {name}: routes announced", announced, "routes"))
            if policy == "grouped":
                rows.append((f"report of the routes, {name}", seconds, "ms"))
    return rows


# ------------------------------------------------------------------------------- structures for one level


class ListAndSet:
    def __init__(self, values: Iterable[int]) -> None:
        self.present = set(values)
        self.order: SortedList[int] = SortedList(self.present)

    def add(self, value: int) -> None:
        self.present.add(value)
        self.order.add(value)

    def remove(self, value: int) -> None:
        self.present.remove(value)
        self.order.remove(value)

    def lowest(self) -> int:
        value = self.order.pop(0)
        self.present.remove(value)
        return value


class OneSet:
    def __init__(self, values: Iterable[int]) -> None:
        self.order: SortedSet[int] = SortedSet(values)

    def add(self, value: int) -> None:
        self.order.add(value)

    def remove(self, value: int) -> None:
        self.order.remove(value)

    def lowest(self) -> int:
        return self.order.pop(0)


class HeapAndSet:
    """Removed entries stay in the heap until they come up, or until they are more than half of it."""

    def __init__(self, values: Iterable[int]) -> None:
        self.present = set(values)
        self.heap = sorted(self.present)
        self.moved = 0

    def add(self, value: int) -> None:
        self.present.add(value)
        heappush(self.heap, value)

    def remove(self, value: int) -> None:
        self.present.remove(value)
        if len(self.heap) > 2 * len(self.present) + 64:
            self.moved = max(self.moved, len(self.heap))
            self.heap = list(self.present)
            heapify(self.heap)

    def lowest(self) -> int:
        value = heappop(self.heap)
        while value not in self.present:
            value = heappop(self.heap)
        self.present.remove(value)
        return value


Level = ListAndSet | OneSet | HeapAndSet


def level(structure: Callable[[Iterable[int]], Level], size: int, steps: int) -> tuple[float, Level]:
    """Microseconds for one step of four calls, and what it left."""
    chance = random.Random(size)
    low = chance.sample(range(1 << 23), size // 2 + steps)
    high = [number + (1 << 23) for number in chance.sample(range(1 << 23), size - size // 2)]
    instance = structure((*low[: size // 2], *high))

    def work() -> None:
        for fresh in low[size // 2 :]:
            moved = high[fresh % len(high)]
            instance.remove(moved)
            instance.add(moved)
            instance.add(fresh)
            instance.lowest()

    return timed(work) / steps * 1e6, instance


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002 - all benchmarks are called like this
    """All rows; `quick` measures less of each and leaves out the largest."""
    pairs = 2_000 if quick else 100_000
    sizes = (1_000,) if quick else (1_000, 20_000, 100_000)
    rows: list[Row] = [
        (f"mixed /24 to /28, churn, {live:,} live", steady(live, MIXED, pairs), "µs/pair") for live in sizes
    ]
    live = 1_000 if quick else 20_000
    rows += [
        (f"/{length} only, churn, {live:,} live", steady(live, (length,), pairs), "µs/pair")
        for length in (24, 25, 26, 28)
    ]
    cost, free = with_holes(live, live // 4)
    rows += [
        (f"mixed /24 to /28, holes ({free:,} free prefixes), {live:,} live", cost, "µs/pair"),
        (f"carve and give back a /26 as ipaddress values, {live:,} live", typed_pair(live, pairs // 10), "µs/pair"),
        ("first /64 out of an untouched /32", first_of_an_untouched("2001:db8::/32", 64), "µs"),
        ("first /24 out of an untouched /8", first_of_an_untouched("10.0.0.0/8", 24), "µs"),
        (f"construct with {live:,} blocked", construct(live), "ms"),
    ]
    rows += policies(live, 50, 24, pairs // 5, ("sparse", "beside", "grouped"))
    if not quick:
        rows += policies(100_000, 100, 26, pairs // 5, ("sparse", "grouped"))
    for size in sizes[:2]:
        for name, structure in (("SortedList + set", ListAndSet), ("SortedSet", OneSet), ("heap + set", HeapAndSet)):
            rounds = [level(structure, size, max(2_000, pairs // 2)) for _ in range(5)]
            rows.append((f"one level of {size:,}, {name}", median(cost for cost, _ in rounds), "µs/step"))
            left = rounds[0][1]
            if isinstance(left, HeapAndSet):
                rows.append((f"one level of {size:,}, {name}: moved by one call, at most", left.moved, "entries"))
    return rows


if __name__ == "__main__":
    for label, value, unit in run():
        print(f"{label:<72} {value:>10.2f} {unit}")
