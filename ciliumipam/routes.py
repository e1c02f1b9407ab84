"""What routers announce for groups of nodes, and what grouping saves: a report over blocks that are held.

Takes blocks with the groups of their holders, wherever they came from, and changes nothing. `grouping` is the policy that keeps
these figures small; this module judges any carving, also one from before the policy was set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import WIDTH, Prefix, merge, parse_prefix
from ciliumipam.errors import InvalidRequestError


class GroupBlock(NamedTuple):
    """A block that a node holds.

    Attributes:
        prefix: The block.
        group: The group of the node.
        since: When it was carved, in seconds of any one clock.
    """

    prefix: Prefix
    group: str
    since: float


class GroupRoutes(NamedTuple):
    """The routes of one group.

    Attributes:
        group: The group.
        blocks: How many blocks its nodes hold.
        announced: The fewest prefixes that are exactly these blocks, sorted.
        supernets: The fewest prefixes that hold these blocks and otherwise only space of the CIDRs that is neither held nor
            reserved, each as long as can be, sorted. Never more than `announced`.
        ungrouped: How many `announced` would be, had the present blocks been carved lowest first in the order of their age.
    """

    group: str
    blocks: int
    announced: tuple[Prefix, ...]
    supernets: tuple[Prefix, ...]
    ungrouped: int


def group_routes(
    blocks: Iterable[GroupBlock], cidrs: Iterable[Prefix], reserved: Iterable[Prefix] = ()
) -> list[GroupRoutes]:
    """The routes of each group, sorted by its name.

    Args:
        blocks: Everything that is held in the CIDRs: disjoint, of one family or both. A block that lies in no CIDR, or in what
            was reserved later, is announced as it is and stays where it is.
        cidrs: The disjoint CIDRs that these blocks were carved out of.
        reserved: What is never carved out of them: nobody holds it here, but somebody else may use it.

    Raises:
        InvalidRequestError: Two blocks overlap.
        InvalidCidrError: Two CIDRs overlap.

    Complexity:
        O(n log n) for n blocks and reserved prefixes.
    """
    held = sorted(blocks)
    for lower, upper in pairwise(held):
        if lower.prefix.covers(upper.prefix):
            raise InvalidRequestError(f"blocks {lower.prefix} and {upper.prefix} overlap; routes are those of blocks that do not")
    exact: dict[str, list[Prefix]] = {block.group: [] for block in held}
    supernets: dict[str, list[Prefix]] = {group: [] for group in exact}
    lowest_first: dict[str, list[Prefix]] = {group: [] for group in exact}
    for block in held:
        exact[block.group].append(block.prefix)
    roots, never = list(cidrs), list(reserved)
    for family in (4, 6):
        mine = [block for block in held if block.prefix.family == family]
        inside = [root for root in roots if root.family == family]
        blocked = [prefix for prefix in never if prefix.family == family]
        for group, prefix in _supernets(mine, merge(inside), blocked):
            supernets[group].append(prefix)
        for group, prefix in _lowest_first(mine, inside, blocked):
            lowest_first[group].append(prefix)
    return [
        GroupRoutes(
            group,
            len(exact[group]),
            tuple(merge(exact[group])),
            tuple(merge(supernets[group])),  # with what lies outside
            len(merge(lowest_first[group])),
        )
        for group in sorted(exact)
    ]


def _supernets(blocks: list[GroupBlock], roots: list[Prefix], reserved: list[Prefix]) -> Iterator[tuple[str, Prefix]]:
    """The smallest prefix around the blocks of each region, a region being a largest prefix of the CIDRs that one group has.

    From the smallest prefix around everything in a CIDR downwards: what is of several groups is cut in the middle. The CIDRs
    come merged, since a route may go on where the next CIDR begins.
    """
    pieces: list[tuple[Prefix, str | None]] = [(block.prefix, block.group) for block in blocks]
    pieces += [(wall, None) for wall in _walls(blocks, roots, reserved)]
    pieces.sort(key=lambda piece: piece[0])
    starts = [prefix.network for prefix, _ in pieces]
    parts: list[tuple[int, int]] = []
    done = 0
    for root in roots:
        low, high = bisect_left(starts, root.network), bisect_left(starts, root.last + 1)
        parts += [*((index, index + 1) for index in range(done, low)), (low, high)]
        done = high
    parts += [(index, index + 1) for index in range(done, len(pieces))]
    while parts:
        low, high = parts.pop()
        if low == high:
            continue
        (first, group), (last, _) = pieces[low], pieces[high - 1]
        host = (first.network ^ last.last).bit_length()
        if any(pieces[index][1] != group for index in range(low, high)):
            cut = bisect_left(starts, last.network >> (host - 1) << (host - 1), low, high)
            parts += [(low, cut), (cut, high)]
        elif group is not None:
            yield group, Prefix(first.family, first.network >> host << host, WIDTH[first.family] - host)


def _walls(blocks: list[GroupBlock], roots: list[Prefix], reserved: list[Prefix]) -> list[Prefix]:
    """What is reserved in the CIDRs and nobody holds, as the fewest prefixes."""
    if not roots or not reserved:
        return []
    usable = CidrCarver(roots, blocked=reserved).free_prefixes()
    walls = CidrCarver(roots, blocked=[*usable, *(block.prefix for block in blocks)])
    return [parse_prefix(wall) for wall in walls.free_prefixes()]


def _lowest_first(blocks: list[GroupBlock], roots: list[Prefix], reserved: list[Prefix]) -> Iterator[tuple[str, Prefix]]:
    """Where each block would lie.

    Best fit finds room for any blocks, in any order, for which there is an arrangement that has it, as long as none is given
    back. Here there is one: the present one.
    """
    fixed = set(blocks)
    if roots:
        trial = CidrCarver(roots, blocked=reserved)
        fixed = {block for block in blocks if not trial.occupy_bits(block.prefix.network, block.prefix.length)}
        carver = CidrCarver(roots, blocked=[*reserved, *(block.prefix for block in fixed)])
        for block in sorted(blocks, key=lambda block: block.since):  # they come sorted, so of one age the lowest first
            if block not in fixed:
                family, _, length = block.prefix
                yield block.group, Prefix(family, carver.take(length), length)
    for block in fixed:
        yield block.group, block.prefix
