"""Blocks for groups of nodes: those of one rack or zone out of one prefix, so that a router announces one route for all of them.

Sits beside a `CidrCarver` (one pool, family and block length), which knows what is free, and keeps which group each taken block
belongs to. It chooses; whoever takes the block tells both. A group is a label's value; nodes without the label are the group "".

**Theory.** A prefix inside a CIDR is *pure* if a group has a block in it and no other group has. The largest pure prefixes are
the group's *regions*: disjoint, and each can be announced as one route. Free space in a pure prefix can be taken by its group
without making a route more; that is growing in place. So, for a node of group g:

1. If the node has blocks already: the smallest prefix around one of them that has room (`CidrCarver.peek_beside`), if it is
   pure. The buddy of a node's own block is one route less than any other place, for as long as routes are announced by node.
2. Else g's regions in address order. From the lowest block of the region up through the prefixes that cover it, the smallest
   one that has room, while it is pure; in there the best fitting free block. Going up from one end keeps a group dense: the
   other end of its region stays free whole, to be grown into, or to be another group's beginning.
3. Else (g has no block, or its regions are full) the first block of the largest free prefix of all: a new region where it has
   most room to grow. If other groups hold all the rest, this halves the emptiest stretch that one of them still has. No
   block is refused while any is free.

Three groups in a /20 of sixteen /24s, one block a letter, in the order a b a c a a a b::

    a · · · · · · · | · · · · · · · ·     a, the first: its region is the whole /20
    a · · · · · · · | b · · · · · · ·     b at the largest free prefix: two regions, a /21 each
    a a · · c · · · | b · · · · · · ·     a beside itself; c at the first of two largest free prefixes
    a a a a c · · · | b b · · a · · ·     a's /22 is full and the /21 around it mixed: a begins anew

Blocked space belongs to nobody and neither ends a region nor is room. A region that goes on behind a reserved range costs no
more routes than one that begins elsewhere, and leaves elsewhere to others. `routes` says what may be announced then.

The answer follows from what is free and whose the taken blocks are; the order in which they came does not count, so what is
restored chooses as what has lived on.

**Structure.** A prefix is one integer, a bit 1 and then its bits: half of it is the prefix around it, its last bit flipped the
buddy. `_owners` has each prefix in which a block lies: whose all of them are, or `_MIXED`. This follows from the two halves, so
a change goes up only as far as an owner changes; in a region that exists that is a step or two. "Is it pure?" is one look.

The prefixes of step 2 are not tried one by one. `peek_beside` finds the smallest one with room, whoever's it is. If that is not
pure, then the half of it that the group's block lies in has no room at all, neither has any region in there, and the search
goes on behind it.

**Complexity**, with w lengths between CIDR and block: `note` and `forget` are O(w) dictionary operations and O(log b) for the b
blocks of the group; `choose` is at most one `peek_beside` for each block of the node and each region of the group.

**Invariants** (`check_invariants`): the owners are those of the blocks; every taken block of the carver is known; none is free.

Not thread-safe; the facade serialises.
"""

from __future__ import annotations

from collections.abc import Iterable

from sortedcontainers import SortedList

from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import WIDTH, parse_prefix


class _Group:
    """The first addresses of a group's blocks, sorted."""

    __slots__ = ("blocks", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks: SortedList[int] = SortedList()


_MIXED = _Group("of several groups")


class Grouping:
    """Whose each block of a carver is, and which block a node of a group should get.

    Blocks that were blocked when the carver was made, because they no longer fit its CIDRs, are noted as well.

    Args:
        carver: What the blocks are taken from and given back to. It is only read.
    """

    def __init__(self, carver: CidrCarver) -> None:
        self._carver = carver
        self._width = WIDTH[carver.family]
        roots = map(parse_prefix, carver.cidrs)
        self._roots = frozenset(1 << root.length | root.network >> (self._width - root.length) for root in roots)
        self._owners: dict[int, _Group] = {}
        self._groups: dict[str, _Group] = {}

    def __repr__(self) -> str:
        """How many blocks each group has."""
        counts = ", ".join(f"{name!r} {len(self._groups[name].blocks)}" for name in sorted(self._groups))
        return f"<Grouping of pool {self._carver.pool!r}: {counts or 'no blocks'}>"

    def groups(self) -> dict[str, list[int]]:
        """First addresses of the blocks of each group, sorted. O(blocks)."""
        return {name: list(self._groups[name].blocks) for name in sorted(self._groups)}

    def note(self, network: int, length: int, group: str) -> bool:
        """Remember whose a block is.

        Returns:
            Whether it is known now. False, and nothing changed, if it is no prefix inside one of the CIDRs, or shares an address
            with a block that is known.
        """
        key = self._key(network, length)
        owners, roots = self._owners, self._roots
        if key in owners:
            return False
        above = key
        while above not in roots:
            if (above ^ 1) in owners and (above ^ 1) not in roots:
                break  # so what is above both is around a block, and inside a CIDR
            above >>= 1
            if above in owners or not above:
                return False
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = _Group(group)
        found.blocks.add(network)
        owners[key] = found
        self._lift(key)
        return True

    def forget(self, network: int, length: int) -> bool:
        """Forget a block.

        Returns:
            Whether it was known. False, and nothing changed, if it was not known as this very block.
        """
        key = self._key(network, length)
        group = self._owners.get(key)
        if group is None or not self._is_block(key):
            return False
        del self._owners[key]
        group.blocks.remove(network)
        if not group.blocks:
            del self._groups[group.name]
        self._lift(key)
        return True

    def choose(self, length: int, group: str, held: Iterable[int] = ()) -> int:
        """The block that a node should get, by the rule of this module. Changes nothing.

        Args:
            length: Prefix length of the block.
            group: The node's group.
            held: First addresses of the blocks that the node has already.

        Returns:
            The first address of the block, or -1 if no block of that length is free.
        """
        mine = self._groups.get(group)
        if mine is None:
            return self._carver.peek(length, sparse=True)
        own = [found for start in held if (found := self._grown(start, length))[2] is mine]
        if own:
            return min((reach, near) for reach, near, _ in own)[1]
        blocks, index = mine.blocks, 0
        while index < len(blocks):
            start = blocks[index]
            reach, near, owner = self._grown(start, length)
            if owner is mine or near < 0:
                return near
            index = blocks.bisect_left((start >> (reach - 1)) + 1 << (reach - 1))
        return self._carver.peek(length, sparse=True)

    def check_invariants(self) -> None:
        """Recount everything from the blocks, and compare with the carver.

        Raises:
            AssertionError: This object is broken, or was not told of what became of a block.

        Complexity:
            O(b log b) for b blocks.
        """
        width, carver = self._width, self._carver
        blocks: dict[str, list[int]] = {}
        groups: dict[int, set[str]] = {}
        known = []
        for key in filter(self._is_block, self._owners):
            length = key.bit_length() - 1
            network = (key ^ 1 << length) << (width - length)
            name = self._owners[key].name
            blocks.setdefault(name, []).append(network)
            known.append((network, length))
            assert carver.peek_within(network, length, width) < 0, "a block of a group is free"
            while key not in self._roots:
                assert key, "a block lies outside the CIDRs"
                groups.setdefault(key, set()).add(name)
                key >>= 1  # noqa: PLW2901 - up from the block
            groups.setdefault(key, set()).add(name)
        owners = {key: owner.name for key, owner in self._owners.items() if owner is not _MIXED}
        assert owners == {key: min(names) for key, names in groups.items() if len(names) == 1}, "owners of pure prefixes"
        assert self._owners.keys() == groups.keys(), "prefixes that have blocks"
        assert {name: list(group.blocks) for name, group in self._groups.items()} == {
            name: sorted(networks) for name, networks in blocks.items()
        }, "blocks of the groups"
        taken = {(prefix.network, prefix.length) for prefix in map(parse_prefix, carver.taken())}
        assert taken.issubset(known), "a taken block is in no group"

    # ------------------------------------------------------------------------------------------------- within

    def _key(self, network: int, length: int) -> int:
        """A bit 1 and then the bits of the prefix; 0 if it is no prefix of the family."""
        host = self._width - length
        if length < 0 or host < 0 or network >> self._width or network >> host << host != network:
            return 0
        return 1 << length | network >> host

    def _is_block(self, key: int) -> bool:
        """Whether a prefix that has an owner is a block, and not around some."""
        return key << 1 not in self._owners and key << 1 | 1 not in self._owners

    def _lift(self, key: int) -> None:
        """Carry a change of a prefix's owner up, as far as something changes."""
        owners, roots = self._owners, self._roots
        while key not in roots:
            half, other = owners.get(key), owners.get(key ^ 1)
            owner = other if half is None else half if other is None or other is half else _MIXED
            key >>= 1
            if owners.get(key) is owner:
                return
            if owner is None:
                del owners[key]
            else:
                owners[key] = owner

    def _grown(self, start: int, length: int) -> tuple[int, int, _Group | None]:
        """The smallest prefix around a block that has room: its host bits, the block to take in it, and whose it is."""
        near = self._carver.peek_beside((start,), length)
        if near < 0:
            return 0, near, None
        reach = (start ^ near).bit_length()
        return reach, near, self._owners.get(1 << (self._width - reach) | start >> reach)
