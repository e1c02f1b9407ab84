"""The free blocks of every pool: which one a node would get next.

Takes what the pages show as held or cooling from `view`, and picks blocks by the policy of the pool (`carver`, `grouping`). Everything
here follows from pools, nodes and pages: a carver for each pool and family is built when first used, and kept up to date.

Not thread-safe; the facade serialises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ciliumipam.cidr import WIDTH, Family, Prefix, parse_prefix, range_to_prefixes
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Holding, NodeRecord, PoolRecord

if TYPE_CHECKING:
    from ciliumipam.carver import CidrCarver
    from ciliumipam.grouping import Grouping

Place: TypeAlias = tuple[str, Prefix]
"""An address space and a prefix in it."""


class CidrGroup(NamedTuple):
    """The CIDRs of a pool and family that have the same block length, and what carves them.

    Attributes:
        length: The block length of the pool there, which some nodes have another one of.
        cidrs: The CIDRs.
        carver: Their free and taken blocks.
        grouping: Which blocks are of which group, where the pool keeps groups together.
    """

    length: int
    cidrs: tuple[Prefix, ...]
    carver: CidrCarver
    grouping: Grouping | None

    def covers(self, prefix: Prefix) -> bool:
        """Whether a prefix lies in one of the CIDRs."""
        return any(cidr.covers(prefix) for cidr in self.cidrs)

    def occupy(self, prefix: Prefix, group: str) -> bool:
        """Mark a free block as taken."""
        if not self.carver.occupy_bits(prefix.network, prefix.length):
            return False
        if self.grouping is not None:
            self.grouping.note(prefix.network, prefix.length, group)
        return True

    def give_back(self, prefix: Prefix) -> bool:
        """Mark a taken block as free."""
        if not self.carver.give_back_bits(prefix.network, prefix.length):
            return False
        if self.grouping is not None:
            self.grouping.forget(prefix.network, prefix.length)
        return True


class FreeBlocks:
    """What is free of every pool.

    Args:
        pools: The pools by name; kept up to date by the owner, as are the others.
        nodes: The nodes by name.
        blocks: What is held, by place.

    Attributes:
        now: The latest time that anybody told, in seconds since the epoch. What cools until then is free.
    """

    def __init__(
        self, pools: Mapping[str, PoolRecord], nodes: Mapping[str, NodeRecord], blocks: Mapping[Place, Holding]
    ) -> None:
        self._pools, self._nodes, self._blocks = pools, nodes, blocks
        self.now = 0.0
        self._cooling: dict[Place, float] = {}
        self._due: list[tuple[float, Place]] = []
        self._chosen: dict[Place, CidrGroup] = {}
        self._carvers: dict[tuple[str, Family], list[CidrGroup]] = {}

    # -------------------------------------------------------------------------------------- keeping it up to date

    def forget(self) -> None:
        """A pool changed: blocks may have become orphans, or be covered again."""
        self._carvers.clear()

    def regroup(self, old: NodeRecord | None, new: NodeRecord | None) -> None:
        """Forget the carvers that knew a node by another group."""
        if not self._blocks:
            return
        for name, family in [each for each, groups in self._carvers.items() if groups[0].grouping is not None]:
            key = self._pools[name].spec.group_by
            labels = [record.node.labels.get(key, "") if record is not None else "" for record in (old, new)]
            if labels[0] != labels[1]:
                del self._carvers[(name, family)]

    def cool(self, place: Place, until: float) -> None:
        """A part of a block that was given back waits until then."""
        if until > self.now:
            self._cooling[place] = until
            heappush(self._due, (until, place))
            self.begin(place, "", "")

    def warm(self, place: Place) -> None:
        """It no longer does."""
        if self._cooling.pop(place, None) is not None:
            self.end(place, "")

    def advance(self, now: float) -> None:
        """Take note of the time: what cools until then becomes free. O(1) where nothing is due. Never goes back."""
        if now <= self.now:
            return
        self.now = now
        while self._due and self._due[0][0] <= now:
            until, place = heappop(self._due)
            if self._cooling.get(place) == until:
                self.warm(place)

    @property
    def due(self) -> float | None:
        """When the next one that cools becomes free; None if none cools. It may have been taken since."""
        return self._due[0][0] if self._due else None

    def begin(self, place: Place, pool: str, node: str) -> None:
        """A block of a pool is in the hands of a node."""
        chosen = self._chosen.pop(place, None)
        if chosen is not None and chosen in self._carvers.get((pool, place[1].family), ()):
            return  # `hold` has marked it
        for name, group in self._groups_over(place, pool):
            if not group.occupy(place[1], self.group_of(name, node) if group.grouping is not None else ""):
                self._carvers.pop((name, place[1].family), None)  # it does not fit that pool: build its carver anew

    def end(self, place: Place, pool: str) -> None:
        """It no longer is."""
        for name, group in self._groups_over(place, pool):
            if not group.give_back(place[1]):
                self._carvers.pop((name, place[1].family), None)

    def group_of(self, pool: str, node: str) -> str:
        """The value of the label by which a pool groups its nodes; "" for none, and for what nobody holds."""
        record = self._nodes.get(node)
        return record.node.labels.get(self._pools[pool].spec.group_by, "") if record is not None else ""

    def _groups_over(self, place: Place, pool: str) -> list[tuple[str, CidrGroup]]:
        """What carves the space of a block, of what has been built: its own pool's carver, else all that overlap it."""
        space, prefix = place
        for group in self._carvers.get((pool, prefix.family), ()):
            if group.covers(prefix) and self._pools[pool].spec.address_space == space:
                return [(pool, group)]
        return [
            (name, group)
            for (name, family), groups in self._carvers.items()
            if family == prefix.family and self._pools[name].spec.address_space == space
            for group in groups
            if any(cidr.overlaps(prefix) for cidr in group.cidrs)
        ]

    # ------------------------------------------------------------------------------------------------- choosing

    def carvers(self, spec: PoolSpec, family: Family) -> list[CidrGroup]:
        """The CIDRs of a pool and family by block length, each group with its carver; the group of the lowest CIDR first."""
        groups = self._carvers.get((spec.name, family))
        if groups is None:
            groups = self._carvers[(spec.name, family)] = [
                self._group(spec, length, cidrs) for length, cidrs in _by_length(spec, family).items()
            ]
        return groups

    def _group(self, spec: PoolSpec, length: int, cidrs: list[Prefix]) -> CidrGroup:
        reserved = list(reserved_blocks(spec, length, cidrs[0].family))
        taken = [
            prefix
            for places in (self._blocks, self._cooling)
            for space, prefix in places
            if space == spec.address_space and any(cidr.overlaps(prefix) for cidr in cidrs)
        ]
        misfits: list[Prefix] = []
        while True:
            from ciliumipam.carver import CidrCarver  # noqa: PLC0415 - who carves no blocks need not load it

            carver = CidrCarver(cidrs, blocked=[*reserved, *misfits], pool=spec.name)
            known = set(misfits)
            # larger than the CIDR by now, or inside what was reserved later; or around another one, where one of two pages cannot be read
            failed = [prefix for prefix in taken if prefix not in known and not carver.occupy_bits(prefix.network, prefix.length)]
            if not failed:
                break
            misfits += failed
        grouping = None
        if spec.group_by:
            from ciliumipam.grouping import Grouping  # noqa: PLC0415 - the same

            grouping = Grouping(carver)
            for prefix in taken:
                if prefix not in known:
                    held = self._blocks.get((spec.address_space, prefix))
                    grouping.note(prefix.network, prefix.length, self.group_of(spec.name, held.holder) if held else "")
        return CidrGroup(length, tuple(cidrs), carver, grouping)

    def choose(self, spec: PoolSpec, node: Node, family: Family, held: Iterable[Holding]) -> tuple[CidrGroup, Prefix] | None:
        """The block that a node would get out of a pool next, by the pool's policy; None if none is free.

        A further block joins one that the node has: the lowest free one in the smallest prefix around it that has one.

        Args:
            spec: The pool.
            node: The node.
            family: The family.
            held: What the node has.
        """
        for group in self.carvers(spec, family):
            length = spec.block_length_for(node, group.cidrs[0])
            near = [block.network for block in held if block.space == spec.address_space and group.covers(block.prefix)]
            useless: list[Prefix] = []
            network = self._peek(spec, group, length, node, near)
            # what is wholly reserved at the pool's own length is blocked in the carver; at a longer one it is passed over here
            while network >= 0 and length > group.length and _is_reserved(spec, Prefix(family, network, length)):
                useless.append(Prefix(family, network, length))
                group.occupy(useless[-1], "")
                network = self._peek(spec, group, length, node, near)
            for prefix in useless:
                group.give_back(prefix)
            if network >= 0:
                return group, Prefix(family, network, length)
        return None

    def hold(self, spec: PoolSpec, group: CidrGroup, prefix: Prefix, node: str) -> None:
        """Mark a block as taken that `choose` named, until a page shows it (`begin`) or it is `let_go`."""
        group.occupy(prefix, self.group_of(spec.name, node) if group.grouping is not None else "")
        self._chosen[(spec.address_space, prefix)] = group

    def let_go(self, places: Iterable[Place] | None = None) -> None:
        """Mark as free what is held and no page shows: these places, or all."""
        for place in [*(self._chosen if places is None else places)] if self._chosen else ():
            self._chosen.pop(place).give_back(place[1])

    def _peek(self, spec: PoolSpec, group: CidrGroup, length: int, node: Node, near: list[int]) -> int:
        if group.grouping is not None:
            return group.grouping.choose(length, node.labels.get(spec.group_by, ""), near)
        network = group.carver.peek_beside(near, length) if near else -1
        return network if network >= 0 else group.carver.peek(length, sparse=spec.carving == "sparse")

    def mark(self, piece: Holding) -> Callable[[], object] | None:
        """Keep a block that a claim names, and no page shows yet, from being chosen; returns what takes that back."""
        marks: list[Callable[[], object]] = []
        for name, record in sorted(self._pools.items()):
            spec = record.spec
            if spec.address_space != piece.space or piece.family not in spec.families:
                continue
            for group in self.carvers(spec, piece.family):
                if not any(cidr.overlaps(piece.prefix) for cidr in group.cidrs):
                    continue
                node_group = self.group_of(name, piece.holder)
                inside = [piece.prefix]
                if not group.occupy(piece.prefix, node_group):  # larger than the CIDR, or partly reserved: it covers what is free there
                    free = (parse_prefix(each) for each in group.carver.free_prefixes())
                    inside = [each for each in free if piece.prefix.covers(each) and group.occupy(each, node_group)]
                marks += [partial(group.give_back, each) for each in inside]
        return partial(_undo, marks) if marks else None

    def cooling(self, spec: PoolSpec, family: Family) -> int:
        """Addresses of a pool's blocks that were given back and wait. O(what cools)."""
        return sum(
            prefix.size
            for space, prefix in self._cooling
            if space == spec.address_space and prefix.family == family and spec.covers(prefix)
        )

    def cooling_in(self, space: str, family: Family) -> Iterator[Prefix]:
        """What was given back in an address space and waits."""
        return (prefix for each, prefix in self._cooling if each == space and prefix.family == family)

    def check_invariants(self, fresh: FreeBlocks) -> None:
        """Assert that everything here equals what was built anew."""
        assert self._cooling == fresh._cooling, "what cools is not what the pages say"
        for (name, family), groups in self._carvers.items():
            for group, rebuilt in zip(groups, fresh.carvers(self._pools[name].spec, family), strict=True):
                group.carver.check_invariants()
                assert (group.length, group.cidrs) == (rebuilt.length, rebuilt.cidrs), f"the CIDRs of pool {name} differ"
                assert group.carver.free_prefixes() == rebuilt.carver.free_prefixes(), f"free blocks of pool {name} differ"
                assert (group.grouping is None) == (rebuilt.grouping is None), f"the groups of pool {name} differ"
                if group.grouping is not None and rebuilt.grouping is not None:
                    group.grouping.check_invariants()
                    assert group.grouping.groups() == rebuilt.grouping.groups(), f"the groups of pool {name} differ"


def _undo(marks: list[Callable[[], object]]) -> None:
    while marks:
        marks.pop()()


def _by_length(spec: PoolSpec, family: Family) -> dict[int, list[Prefix]]:
    groups: dict[int, list[Prefix]] = {}
    for cidr in spec.cidrs_of(family):
        groups.setdefault(spec.block_length(cidr), []).append(cidr)
    return groups


def reserved_blocks(spec: PoolSpec, length: int, family: Family) -> Iterator[Prefix]:
    """Prefixes of whole blocks that have no address to give: reserved, or reserved but for a first or last one that is not used."""
    host_bits = WIDTH[family] - length
    inside = (1 << host_bits) - 1
    for reserved_family, first, last in spec.reserved:
        if reserved_family != family:
            continue
        low, high = first, last
        if host_bits > 1:
            low -= not spec.allow_first and first & inside == 1
            high += not spec.allow_last and last & inside == inside - 1
        start, stop = -(-low >> host_bits) << host_bits, (high + 1) >> host_bits << host_bits
        if start < stop:
            yield from range_to_prefixes(family, start, stop - 1)


def _is_reserved(spec: PoolSpec, block: Prefix) -> bool:
    """Whether a block has no address to give."""
    return any(part.covers(block) for part in reserved_blocks(spec, block.length, block.family))
