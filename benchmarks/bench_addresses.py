"""Addresses: allocate + release, in the core (integers) and through `NodeAllocator`, at five occupancies.

"core" and "node" allocate and release the same address over and over ("core random" one after the other, at drawn positions);
"churn" releases an address chosen at random out of those held before it allocates, as pods do, so that the lowest page with room
moves all the time. "cooldown" is churn with a reuse delay of 64 releases: every round one address begins to cool, the oldest becomes available
and one is allocated. "draw" is what "random" needs once an owner, besides.

Every figure is the best of many short batches, so that a busy machine disturbs it little. What is held is chosen by a seeded
shuffle, so the holes are random. A /64 cannot be filled: its occupancy is that of its first 65,536 addresses, which is where the
policies look first, and for "last free" all the rest is reserved.
"""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from ciliumipam.addresses import POLICIES, BlockAddresses, Policy, draw
from ciliumipam.allocator import NodeAllocator
from ciliumipam.cidr import Prefix, parse_prefix, to_address

Row = tuple[str, float, str]

SEED = 20
BATCH = 250
OCCUPANCIES = {"empty": 0.0, "half": 0.5, "90 %": 0.9, "99 %": 0.99, "last free": 1.0}
CORE_BLOCKS = ("10.0.0.0/24", "10.0.0.0/20", "10.0.0.0/16", "10.0.0.0/12", "2001:db8::/64")
NODE_BLOCKS = ("10.0.0.0/24", "10.0.0.0/16", "2001:db8::/64")
DELAY = 64


def _held(block: Prefix, share: float) -> list[int]:
    """The addresses held at an occupancy, in random order; always one less than there are."""
    end = block.last if block.family == 4 else block.network + (1 << 16)
    numbers = list(range(block.network + 1, end))
    random.Random(SEED).shuffle(numbers)
    return numbers[: min(int(len(numbers) * share), len(numbers) - 1)]


def _reserved(block: Prefix, share: float) -> list[tuple[int, int]]:
    return [(block.network + (1 << 16), block.last)] if block.family == 6 and share == 1 else []


def _best(batch: Callable[[], None], quick: bool, before: Callable[[], None] | None = None) -> float:  # noqa: FBT001 - every caller passes run()'s own flag on
    """Microseconds of one round of the best batch; what is called before each batch is not measured."""
    best = float("inf")
    for _ in range(20 if quick else 400):
        if before is not None:
            before()
        start = time.perf_counter()
        batch()
        best = min(best, time.perf_counter() - start)
    return best / BATCH * 1e6


def _block(cidr: str, share: float, policy: Policy) -> tuple[BlockAddresses, list[int]]:
    block = parse_prefix(cidr)
    addresses = BlockAddresses(block, _reserved(block, share), policy=policy)
    held = _held(block, share)
    for number in held:
        addresses.occupy(number)
    return addresses, held


def _core(cidr: str, share: float, policy: Policy, quick: bool) -> float:  # noqa: FBT001 - see _best
    addresses, _ = _block(cidr, share, policy)
    pick, occupy, set_cursor, vacate = addresses.pick, addresses.occupy, addresses.set_cursor, addresses.vacate
    first = addresses.block.network
    draws = _draws()

    def batch() -> None:
        for drawn in draws:
            number = pick(drawn)
            assert number is not None
            occupy(number)
            position = number - first
            set_cursor(position >> 8, (position & 255) + 1)
            vacate(number)

    return _best(batch, quick)


def _draws() -> list[int]:
    chance = random.Random(SEED)
    return [chance.getrandbits(128) for _ in range(BATCH)]


def _churn(cidr: str, share: float, policy: Policy, quick: bool) -> float:  # noqa: FBT001 - see _best
    addresses, held = _block(cidr, share, policy)
    pick, occupy, set_cursor, vacate = addresses.pick, addresses.occupy, addresses.set_cursor, addresses.vacate
    first = addresses.block.network
    chance = random.Random(SEED)
    victims: list[tuple[int, int]] = []
    draws = _draws()

    def choose() -> None:
        victims[:] = [(chance.randrange(len(held)), drawn) for drawn in draws]

    def batch() -> None:
        for victim, drawn in victims:
            vacate(held[victim])
            number = pick(drawn)
            assert number is not None
            occupy(number)
            position = number - first
            set_cursor(position >> 8, (position & 255) + 1)
            held[victim] = number

    return _best(batch, quick, choose)


def _cooldown(cidr: str, share: float, policy: Policy, quick: bool) -> float:  # noqa: FBT001 - see _best
    addresses, held = _block(cidr, share, policy)
    pick, occupy, set_cursor, vacate = addresses.pick, addresses.occupy, addresses.set_cursor, addresses.vacate
    cool, expire = addresses.cool, addresses.expire
    first = addresses.block.network
    chance = random.Random(SEED)
    victims: list[tuple[int, int]] = []
    draws = _draws()
    now = 0

    def choose() -> None:
        victims[:] = [(chance.randrange(len(held)), drawn) for drawn in draws]

    def batch() -> None:
        nonlocal now
        for victim, drawn in victims:
            now += 1
            number = held[victim]
            vacate(number)
            cool(number, now + DELAY)
            expire(now)
            found = pick(drawn)
            assert found is not None
            occupy(found)
            position = found - first
            set_cursor(position >> 8, (position & 255) + 1)
            held[victim] = found

    return _best(batch, quick, choose)


def _draw(quick: bool) -> float:  # noqa: FBT001 - see _best
    owner = f"cbr0/{0:064x}/eth0"

    def batch() -> None:
        for _ in range(BATCH):
            draw(SEED, owner)

    return _best(batch, quick)


def _node(cidr: str, share: float, quick: bool, **settings: Any) -> float:  # noqa: FBT001 - see _best
    block = parse_prefix(cidr)
    reserved = [(to_address(6, low), to_address(6, high)) for low, high in _reserved(block, share)]
    node = NodeAllocator([cidr], reserved=reserved, node="node-1", **settings)
    for order, number in enumerate(_held(block, share)):
        node.occupy(to_address(block.family, number), f"cbr0/{order:064x}/eth0", 1)
    allocate, release = node.allocate, node.release

    def batch() -> None:
        for _ in range(BATCH):
            allocate("cbr0/container/eth0", label="default/pod-0")
            release("cbr0/container/eth0")

    now = 0

    def batch_in_time() -> None:
        nonlocal now
        for _ in range(BATCH):
            now += 1
            allocate("cbr0/container/eth0", label="default/pod-0", now=now)
            release("cbr0/container/eth0", now=now)

    return _best(batch_in_time if "reuse_delay" in settings else batch, quick)


def _bytes_per_holding(cidr: str) -> float:
    """What a holding costs, the owners' strings not counted, with the block full."""
    count = parse_prefix(cidr).size - 2
    owners = [f"cbr0/{order:064x}/eth0" for order in range(count)]
    tracemalloc.start()
    node = NodeAllocator([cidr])
    for owner in owners:
        node.allocate(owner)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / count


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002 - all benchmarks here have this signature
    """(label, value, unit) of every measurement."""
    rows: list[Row] = []
    for policy in POLICIES:
        for cidr in CORE_BLOCKS:
            rows += [
                (f"core {policy} {cidr} {name}", _core(cidr, share, policy, quick), "µs")
                for name, share in OCCUPANCIES.items()
            ]
        for cidr in CORE_BLOCKS:
            for name in ("half", "99 %"):
                rows.append((f"churn {policy} {cidr} {name}", _churn(cidr, OCCUPANCIES[name], policy, quick), "µs"))
        for cidr in CORE_BLOCKS[1:]:
            rows.append((f"cooldown {policy} {cidr} half", _cooldown(cidr, 0.5, policy, quick), "µs"))
    rows.append(("draw", _draw(quick), "µs"))
    for cidr in NODE_BLOCKS:
        rows += [(f"node {cidr} {name}", _node(cidr, share, quick), "µs") for name, share in OCCUPANCIES.items()]
        rows.append((f"node random {cidr} half", _node(cidr, 0.5, quick, policy="random"), "µs"))
        rows.append((f"node cooldown {cidr} half", _node(cidr, 0.5, quick, reuse_delay=DELAY), "µs"))
    rows.append(("memory per holding, 10.0.0.0/16 full", _bytes_per_holding("10.0.0.0/16"), "bytes"))
    return rows


def main() -> None:
    print(f"Python {sys.version.split()[0]}; allocate + release, best batch")
    for label, value, unit in run(quick="--quick" in sys.argv[1:]):
        print(f"{label:44} {value:8.2f} {unit}")


if __name__ == "__main__":
    main()
