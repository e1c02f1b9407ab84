"""Which part of a pool is emptied so that a large prefix is free again: the one that costs the fewest moves, and why.

A prefix becomes free when every block that overlaps it is moved, and no other one has to be: blocks lie where they lie, and what moves
goes into space that is free already. So the fewest moves are the fewest blocks that overlap one aligned prefix of the length, over
all of these. In this order the first is chosen:

1. fewest blocks that do not drain yet: what drains is on its way, so that a request asked again goes on where it was;
2. then fewest addresses in use, since each has to end before its block can go;
3. then fewest blocks that drain;
4. then the lowest.

A prefix whose blocks do not fit into the free space outside of it is left out, and so is one with a block in it that has no address to
give: it never becomes free. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ciliumipam.cidr import WIDTH, Family, Prefix
from ciliumipam.errors import InvalidRequestError, PoolExhaustedError
from ciliumipam.free_blocks import reserved_blocks
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Holding
from ciliumipam.requests import Rebalance
from ciliumipam.view import View
from ciliumipam.words import counted


class Region(NamedTuple):
    """What is to be free.

    Attributes:
        prefix: The prefix.
        why: Why this one, as a sentence.
    """

    prefix: Prefix
    why: str


class _Price(NamedTuple):
    """What a prefix costs, in the order in which prices are compared."""

    moves: int
    addresses: int
    draining: int
    prefix: Prefix


def choose_region(view: View, spec: PoolSpec, request: Rebalance) -> Region:
    """The prefix that costs the fewest moves. O(n log n) for n blocks and pieces that cool.

    Raises:
        InvalidRequestError: The pool has no prefix of that length, or has two families and none is named.
        PoolExhaustedError: What would have to move fits nowhere else.
    """
    family, length = _family(spec, request), request.length
    groups = view.free.carvers(spec, family)
    networks = [network for group in groups if (network := group.carver.peek(length)) >= 0]
    if networks:
        prefix = Prefix(family, min(networks), length)
        return Region(prefix, f"{prefix} is free: nothing has to move")
    free = sum(group.carver.free for group in groups)
    found = _inside(view, spec, family, length)
    prices = []
    for prefix, (blocks, cooling) in found.items():
        staying = [block for block in blocks if not view.drains(block)]
        # what a larger block holds beyond the prefix is free once that block has moved, but not before
        taken = sum(min(block.prefix.size, prefix.size) for block in blocks) + cooling
        room = free - (prefix.size - taken)
        if sum(block.prefix.size for block in staying) <= room or spec.overflow:
            addresses = sum(view.addresses(block).in_use for block in blocks)
            prices.append(_Price(len(staying), addresses, len(blocks) - len(staying), prefix))
    if not prices:
        largest = min((group.carver.largest_free for group in groups if group.carver.largest_free is not None), default=None)
        raise PoolExhaustedError(spec.name, family, length, largest)
    best = min(prices)
    return Region(best.prefix, _why(best, len(prices)))


def _family(spec: PoolSpec, request: Rebalance) -> Family:
    families = spec.families if request.family is None else (request.family,)
    if len(families) > 1:
        raise InvalidRequestError(f"pool {spec.name!r} has CIDRs of IPv4 and IPv6; say of which family the prefix is to be")
    (family,) = families
    widest = min((cidr.length for cidr in spec.cidrs_of(family)), default=None)
    if widest is None:
        raise InvalidRequestError(f"pool {spec.name!r} has no IPv{family} CIDR")
    if not widest <= request.length <= WIDTH[family]:
        raise InvalidRequestError(
            f"pool {spec.name!r} can have no free IPv{family} /{request.length}: its largest CIDR is a /{widest}; give {widest} to {WIDTH[family]}"
        )
    return family


def _inside(view: View, spec: PoolSpec, family: Family, length: int) -> dict[Prefix, tuple[list[Holding], int]]:
    """The prefixes of the length that something is in, with the blocks that overlap each and the addresses that cool there.

    Of those inside one larger block, which cost the same, only the first.
    """
    found: dict[Prefix, tuple[list[Holding], int]] = {}
    for block in view.blocks():
        if block.space == spec.address_space and block.family == family:
            for prefix in _over(spec, block.prefix, length):
                blocks, cooling = found.get(prefix, ([], 0))
                found[prefix] = [*blocks, block], cooling
    for cools in view.free.cooling_in(spec.address_space, family):
        for prefix in _over(spec, cools, length):
            blocks, cooling = found.get(prefix, ([], 0))
            found[prefix] = blocks, cooling + min(cools.size, prefix.size)
    return found


def _over(spec: PoolSpec, inner: Prefix, length: int) -> Iterator[Prefix]:
    """The first prefix of the length in each CIDR that overlaps another prefix and can become free."""
    step = 1 << (WIDTH[inner.family] - length)
    for cidr in spec.cidrs_of(inner.family):
        if cidr.length > length or not cidr.overlaps(inner):
            continue
        network, last = max(cidr.network, inner.network) // step * step, min(cidr.last, inner.last)
        never = sorted(reserved_blocks(spec, spec.block_length(cidr), inner.family))
        while network <= last:
            prefix = Prefix(inner.family, network, length)
            hole = next((each for each in never if each.overlaps(prefix)), None)
            if hole is None:
                yield prefix
                break
            network = max(hole.last + 1 + step - 1, network + step) // step * step


def _why(best: _Price, among: int) -> str:
    if not best.moves and not best.draining:
        return f"{best.prefix} is held by nobody, and free as soon as nothing there cools: nothing has to move"
    have = f"{counted(best.moves, 'block', 'blocks')} to move"
    if best.draining:
        have += f", {counted(best.draining, 'block', 'blocks')} draining"
    have += f" and {counted(best.addresses, 'address', 'addresses')} in use"
    others = f"; of {among} prefixes of that length that could become free none needs less" if among > 1 else ""
    return f"{best.prefix} is to become free: {have}{others}"
