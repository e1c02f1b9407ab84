"""Ours and the Python peers, measured one job at a time: the same lines of JSON as `race/main.go`, in and out.

Three of ours for addresses. `core` is what decides, on integers: pick, occupy, move the cursor, vacate. `node-allocator` adds owners,
fences and `ipaddress` values. `ipam` is the whole: a request, a plan, compare-and-set writes of a claim and a page into `MemoryStore`.
For blocks `core` is the carver on integers and `carver` the same with `ipaddress` values.

netaddr keeps what is free in an `IPSet`, as Neutron and NetBox use it: it takes the lowest, removes it and adds it again. With
`ipaddress` there is no structure to use: what is held stands in a set, and the lowest that is not in it is looked for from the
beginning, which is what people write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from time import perf_counter_ns
from typing import Any, NamedTuple

from netaddr import IPNetwork, IPRange, IPSet

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec
from ciliumipam.addresses import BlockAddresses
from ciliumipam.allocator import NodeAllocator
from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import parse_prefix

OWNER, LABEL = "cbr0/pair/eth0", "default/pair"


class Pool(NamedTuple):
    """What a request says, in the terms of this program."""

    cidr: str
    length: int
    held: int
    """A bitmap: bit n stands for piece n."""

    @property
    def network(self) -> IPv4Network:
        return IPv4Network(self.cidr)

    @property
    def first(self) -> int:
        return int(self.network.network_address)

    @property
    def pieces(self) -> int:
        return 1 << (self.length - self.network.prefixlen)

    def number(self, integer: int) -> int:
        """Which piece an address or a block's network is."""
        return (integer - self.first) >> (32 - self.length)

    def integer(self, number: int) -> int:
        return self.first + (number << (32 - self.length))

    def taken(self) -> Iterator[int]:
        """The integers of what is held, in order."""
        octets = self.held.to_bytes(self.pieces // 8 + 1, "little")
        return (self.integer(n) for n in range(self.pieces) if octets[n >> 3] >> (n & 7) & 1)


class Ready(NamedTuple):
    run: Callable[[int], None]
    """Does so many pairs."""
    once: Callable[[], int]
    """Does one, and says what was given, as an integer."""


def core(pool: Pool) -> Ready:
    addresses = BlockAddresses(parse_prefix(pool.cidr), policy="next")
    for number in pool.taken():
        addresses.occupy(number)
    pick, occupy, set_cursor, vacate, first = (
        addresses.pick,
        addresses.occupy,
        addresses.set_cursor,
        addresses.vacate,
        pool.first,
    )

    def run(pairs: int) -> None:
        for _ in range(pairs):
            number = pick()
            assert number is not None
            occupy(number)
            position = number - first
            set_cursor(position >> 8, (position & 255) + 1)
            vacate(number)

    def once() -> int:
        number = pick()
        assert number is not None
        return number

    return Ready(run, once)


def node_allocator(pool: Pool) -> Ready:
    node = NodeAllocator([pool.cidr], node="node-1")
    for integer in pool.taken():
        node.occupy(IPv4Address(integer), f"cbr0/{integer:064x}/eth0", 1)
    allocate, release = node.allocate, node.release

    def run(pairs: int) -> None:
        for _ in range(pairs):
            allocate(OWNER, label=LABEL)
            release(OWNER)

    def once() -> int:
        given = allocate(OWNER).address
        release(OWNER)
        return int(given)

    return Ready(run, once)


def ipam(pool: Pool) -> Ready:
    whole = Ipam(MemoryStore())
    length = pool.network.prefixlen
    spec = PoolSpec(name="all", cidrs=["10.0.0.0/8"], selector=NodeSelector.everything(), block_length_v4=length)
    whole.apply([spec], [Node("node-1")])
    assert [str(block.prefix) for block in whole.blocks()] == [pool.cidr]
    for integer in pool.taken():
        whole.allocate("node-1", f"cbr0/{integer:064x}/eth0", address=IPv4Address(integer))
    allocate, release = whole.allocate, whole.release

    def run(pairs: int) -> None:
        for _ in range(pairs):
            allocate("node-1", OWNER, label=LABEL)
            release("node-1", OWNER)

    def once() -> int:
        (given,) = allocate("node-1", OWNER)
        release("node-1", OWNER)
        return int(given.address)

    return Ready(run, once)


def carver_core(pool: Pool) -> Ready:
    carver = CidrCarver([pool.cidr])
    length = pool.length
    for integer in pool.taken():
        carver.occupy_bits(integer, length)
    take, give_back = carver.take, carver.give_back_bits

    def run(pairs: int) -> None:
        for _ in range(pairs):
            give_back(take(length), length)

    def once() -> int:
        given = take(length)
        give_back(given, length)
        return given

    return Ready(run, once)


def carver_values(pool: Pool) -> Ready:
    carver = CidrCarver([pool.cidr])
    length = pool.length
    for integer in pool.taken():
        carver.occupy_bits(integer, length)
    carve, give_back = carver.carve, carver.give_back

    def run(pairs: int) -> None:
        for _ in range(pairs):
            give_back(carve(length))

    def once() -> int:
        given = carve(length)
        give_back(given)
        return int(given.network_address)

    return Ready(run, once)


def free_ranges(pool: Pool, low: int, high: int) -> Iterator[IPRange]:
    """What is free between two integers, both of them pieces, as netaddr's ranges."""
    size = 1 << (32 - pool.length)
    for integer in (*pool.taken(), high + size):
        if low < integer:
            yield IPRange(low, integer - 1)
        low = integer + size


def netaddr_addresses(pool: Pool) -> Ready:
    free = IPSet(cidr for piece in free_ranges(pool, pool.first + 1, pool.integer(pool.pieces - 2)) for cidr in piece.cidrs())

    def once() -> int:
        address = next(iter(free))
        free.remove(address)
        free.add(address)
        return int(address)

    return Ready(repeated(once), once)


def netaddr_blocks(pool: Pool) -> Ready:
    free = IPSet(cidr for piece in free_ranges(pool, pool.first, pool.integer(pool.pieces - 1)) for cidr in piece.cidrs())

    def once() -> int:
        cidr: IPNetwork = next(each for each in free.iter_cidrs() if each.prefixlen <= pool.length)
        block = next(cidr.subnet(pool.length))
        free.remove(block)
        free.add(block)
        return int(block.network)

    return Ready(repeated(once), once)


def ipaddress_addresses(pool: Pool) -> Ready:
    network, taken = pool.network, set(map(IPv4Address, pool.taken()))

    def once() -> int:
        address = next(each for each in network.hosts() if each not in taken)
        taken.add(address)
        taken.remove(address)
        return int(address)

    return Ready(repeated(once), once)


def ipaddress_blocks(pool: Pool) -> Ready:
    network, taken = pool.network, {IPv4Network((integer, pool.length)) for integer in pool.taken()}

    def once() -> int:
        block = next(each for each in network.subnets(new_prefix=pool.length) if each not in taken)
        taken.add(block)
        taken.remove(block)
        return int(block.network_address)

    return Ready(repeated(once), once)


def repeated(once: Callable[[], int]) -> Callable[[int], None]:
    def run(pairs: int) -> None:
        for _ in range(pairs):
            once()

    return run


MAKERS: dict[tuple[str, str], Callable[[Pool], Ready]] = {
    ("address", "core"): core,
    ("address", "node-allocator"): node_allocator,
    ("address", "ipam"): ipam,
    ("address", "netaddr"): netaddr_addresses,
    ("address", "ipaddress"): ipaddress_addresses,
    ("block", "core"): carver_core,
    ("block", "carver"): carver_values,
    ("block", "netaddr"): netaddr_blocks,
    ("block", "ipaddress"): ipaddress_blocks,
}


class Race:
    """One contestant, ready to be measured, after one pair that had to give something that was not held."""

    def __init__(self, request: dict[str, Any]) -> None:
        pool = Pool(request["pool"], request["length"], int("0" + request["held"], 16))
        self.ready = MAKERS[request["job"], request["peer"]](pool)
        self.told = {key: request[key] for key in ("peer", "job", "pool")} | {"held": pool.held.bit_count()}
        self.batch = 1
        given = self.ready.once()
        assert given in range(pool.first, pool.integer(pool.pieces)), f"was given {IPv4Address(given)}, outside {pool.cidr}"
        assert not pool.held >> pool.number(given) & 1, f"was given {IPv4Address(given)}, which was held"

    def measure(self, budget: int) -> dict[str, Any]:
        """Pairs for about the budget, at least one."""
        while True:
            begin = perf_counter_ns()
            self.ready.run(self.batch)
            spent = perf_counter_ns() - begin + 1
            done = self.batch
            self.batch = max(1, min(done * budget // spent, 100 * done))
            if spent >= budget / 2:
                return self.told | {"pairs": done, "nanoseconds": spent / done}


def main() -> None:
    race: Race | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "prepare":
            race = None  # what was measured before is freed first
            race = Race(request)
            reply = race.told
        else:
            assert race is not None
            reply = race.measure(request["budget"])
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
