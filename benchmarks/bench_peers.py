"""The two Python peers beside ours, in one run: netaddr's `IPSet`, as Neutron and NetBox use it, and the standard library's `ipaddress`.

The same two jobs for each, with the same already taken: one address out of a /16 and back, one /24 out of a /8 and back. netaddr keeps
what is free in an `IPSet`, takes the lowest, removes it and adds it again. With `ipaddress` there is no structure to use: what is taken
stands in a set, and the lowest that is not in it is looked for from the beginning, which is what people write. What is in use are the
lowest ones: the free rest is one piece, the best case of `IPSet`.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from statistics import median
from time import perf_counter

from netaddr import IPNetwork, IPSet

from ciliumipam.addresses import BlockAddresses
from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import parse_prefix

Row = tuple[str, float, str]


def per_call(call: Callable[[], None], rounds: int, calls: int) -> float:
    """Median µs of a call."""
    seconds = []
    for _ in range(rounds):
        begin = perf_counter()
        for _ in range(calls):
            call()
        seconds.append((perf_counter() - begin) / calls)
    return median(seconds) * 1e6


def addresses(used: int) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """One address out of a /16 of which the lowest `used` are in use."""
    block = parse_prefix("10.0.0.0/16")
    index = BlockAddresses(block, policy="lowest")
    for number in range(block.network + 1, block.network + 1 + used):
        index.occupy(number)

    def ours() -> None:
        number = index.pick()
        assert number == block.network + 1 + used
        index.occupy(number)
        index.vacate(number)

    free = IPSet(IPNetwork("10.0.0.0/16")) - IPSet(str(IPv4Network("10.0.0.0/16")[number]) for number in range(used + 1))

    def with_netaddr() -> None:
        address = next(iter(free))
        assert int(address) == block.network + 1 + used
        free.remove(address)
        free.add(address)

    network = IPv4Network("10.0.0.0/16")
    taken = {network[number] for number in range(used + 1)}

    def with_ipaddress() -> None:
        address = next(each for each in network.hosts() if each not in taken)
        assert int(address) == block.network + 1 + used
        taken.add(address)
        taken.remove(address)

    return ours, with_netaddr, with_ipaddress


def blocks(used: int) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """One /24 out of a /8 of which the lowest `used` are in use."""
    carver = CidrCarver(["10.0.0.0/8"])
    for _ in range(used):
        carver.take(24)
    first = (10 << 24) + (used << 8)

    def ours() -> None:
        network = carver.take(24)
        assert network == first
        carver.give_back_bits(network, 24)

    whole = IPv4Network("10.0.0.0/8")
    held = [subnet for subnet, _ in zip(whole.subnets(new_prefix=24), range(used), strict=False)]
    free = IPSet(["10.0.0.0/8"]) - IPSet(map(str, held))

    def with_netaddr() -> None:
        cidr = next(each for each in free.iter_cidrs() if each.prefixlen <= 24)
        block = next(cidr.subnet(24))
        assert int(block.network) == first
        free.remove(block)
        free.add(block)

    taken = set(held)

    def with_ipaddress() -> None:
        block = next(each for each in whole.subnets(new_prefix=24) if each not in taken)
        assert int(block.network_address) == first
        taken.add(block)
        taken.remove(block)

    return ours, with_netaddr, with_ipaddress


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002 - all benchmarks here have this signature
    rows: list[Row] = []
    for what, make, counts in (
        ("an address of a /16", addresses, (256, 4096) if quick else (256, 4096, 16_384)),
        ("a /24 of a /8", blocks, (256, 1024) if quick else (256, 1024, 4096)),
    ):
        for used in counts:
            ours, *peers = make(used)
            mine = per_call(ours, 5, 2000)
            rows.append((f"peers: {what}, {used:,} in use, ours", mine, "µs/pair"))
            for name, call in zip(("netaddr", "ipaddress"), peers, strict=True):
                theirs = per_call(call, 3, 2)
                rows.append((f"peers: {what}, {used:,} in use, {name} ÷ ours", theirs / mine, "x"))
    return rows


def main() -> None:
    for label, value, unit in run():
        print(f"{label:60} {value:12,.2f} {unit}")


if __name__ == "__main__":
    main()
