"""What one look shows, arranged for those who say what somebody may want to know: which pool serves which node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ciliumipam.cidr import WIDTH, Family, Prefix
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec, pool_order
from ciliumipam.records import ClaimPage, Holding, NodeRecord, PoolRecord


class Snapshot:
    """Pools, nodes, and what counts as held.

    Attributes:
        pools, nodes: By name.
        blocks: Everything that nodes hold, by address space and address.
        inside: By block, the addresses that are held in it.
        of_node: By node, its blocks in the order in which it got them.
        marked: Blocks whose claim says that they drain.
        conflicting: Pools that overlap an older one of their address space which serves, with its name.
    """

    def __init__(
        self,
        pools: Mapping[str, PoolRecord],
        nodes: Mapping[str, NodeRecord],
        blocks: Iterable[Holding],
        addresses: Iterable[tuple[Holding, Holding]],
        claims: Iterable[ClaimPage],
    ) -> None:
        self.pools, self.nodes = pools, nodes
        self.blocks = sorted(blocks, key=lambda block: block.place)
        self.inside: dict[Holding, list[Holding]] = {}
        for block, address in addresses:
            self.inside.setdefault(block, []).append(address)
        order: dict[Holding, int] = {}
        marked: set[Holding] = set()
        for page in claims:
            marked |= page.draining
            for pieces in page.claims.values():
                order.update({piece: place for place, piece in enumerate(pieces)})
        self.of_node: dict[str, list[Holding]] = {}
        for block in sorted(self.blocks, key=lambda block: (order.get(block, len(order)), block.place)):
            self.of_node.setdefault(block.holder, []).append(block)
        self.marked = frozenset(marked)
        self.conflicting = _conflicts(pools.values())
        self._specs = [record.spec for record in pools.values()]

    def staying(self, node: str) -> list[Holding]:
        """The blocks of a node that need no replacement."""
        return [
            block
            for block in self.of_node.get(node, ())
            if block not in self.marked and not ((pool := self.pools.get(block.label)) is not None and pool.spec.draining)
        ]

    def keeps(self, node: str) -> PoolSpec | None:
        """The pool that a node has its blocks from and keeps; None if it has none, or that one drains or is gone."""
        staying = self.staying(node)
        pool = self.pools.get(staying[0].label) if staying else None
        return pool.spec if pool is not None else None

    def asked(self, node: Node, space: str | None = None) -> Iterator[PoolSpec]:
        """The pools that a node without a block would be given one of, in order: the first, and as long as they overflow the next."""
        found = []
        for spec in self._specs:
            count = spec.selector.matched(node.labels, node.name)
            if count is not None and space in (None, spec.address_space):
                found.append((pool_order(spec, count), spec))
        for _, spec in sorted(found, key=lambda each: each[0]):
            if spec.draining or spec.name in self.conflicting:
                continue
            yield spec
            if not spec.overflow:
                return


def _conflicts(records: Iterable[PoolRecord]) -> dict[str, str]:
    """Pools that overlap an older one of their address space which serves, with its name. O(c log c) for c CIDRs that are disjoint."""
    age = {record.spec.name: (record.since, record.spec.name) for record in records}
    partners: dict[str, set[str]] = {}
    around: list[tuple[str, Prefix, str]] = []
    for space, cidr, name in sorted((record.spec.address_space, cidr, record.spec.name) for record in records for cidr in record.spec.cidrs):
        while around and not (around[-1][0] == space and around[-1][1].covers(cidr)):
            around.pop()
        for _, _, other in around:
            partners.setdefault(name, set()).add(other)
            partners.setdefault(other, set()).add(name)
        around.append((space, cidr, name))
    found: dict[str, str] = {}
    for name in sorted(partners, key=lambda each: age[each]):
        older = [other for other in partners[name] if age[other] < age[name] and other not in found]
        if older:
            found[name] = min(older, key=lambda each: age[each])
    return found


class Room:
    """How much of a pool is asked for, against what it makes.

    Blocks are counted where all have the pool's length; addresses where some nodes get blocks of another one.
    """

    def __init__(self, spec: PoolSpec) -> None:
        self.spec = spec
        self.nodes = 0
        self.made = {family: self._made(family) for family in spec.families}
        self.wanted = dict.fromkeys(spec.families, 0)

    @property
    def short(self) -> list[Family]:
        """The families of which more is asked for than there is."""
        return [family for family in self.spec.families if self.wanted[family] > self.made[family]]

    def fits(self, node: Node) -> bool:
        """Whether there is room for one more."""
        return all(self.wanted[family] + self._needs(node, family) <= self.made[family] for family in self.spec.families)

    def add(self, node: Node) -> None:
        """One more is served, or wants to be."""
        self.nodes += 1
        for family in self.spec.families:
            self.wanted[family] += self._needs(node, family)

    def says(self, family: Family) -> str:
        """What is the matter, where a family is short."""
        nodes = f"{self.nodes} nodes are or want to be served by it" if self.nodes > 1 else "a node is or wants to be served by it"
        if self.spec.block_lengths:
            return f"it has {self.made[family]} IPv{family} addresses in blocks, but {nodes} and need {self.wanted[family]} at least"
        each = f", {self.spec.blocks_per_node} blocks each" if self.spec.blocks_per_node > 1 else ""
        return f"it makes {self.made[family]} IPv{family} blocks, but {nodes}{each}"

    def _needs(self, node: Node, family: Family) -> int:
        count = self.spec.blocks_per_node
        if not self.spec.block_lengths:
            return count
        longest = max(self.spec.block_length_for(node, cidr) for cidr in self.spec.cidrs_of(family))
        return count << (WIDTH[family] - longest)

    def _made(self, family: Family) -> int:
        """Blocks of the pool's length that are not wholly reserved, or the addresses in them."""
        count = 0
        for cidr in self.spec.cidrs_of(family):
            length = self.spec.block_length(cidr)
            bits = WIDTH[family] - length
            blocks = 1 << (length - cidr.length)
            for reserved_family, first, last in self.spec.reserved:
                if reserved_family == family:
                    low, high = max(first, cidr.network), min(last, cidr.last)
                    blocks -= max(0, ((high + 1) >> bits) - (-(-low >> bits)))
            count += blocks << bits if self.spec.block_lengths else blocks
        return count


def shown(pieces: Sequence[Holding], most: int = 3) -> str:
    """Pieces for people, the first few of them."""
    named = ", ".join(piece.piece for piece in pieces[:most])
    return named if len(pieces) <= most else f"{named} and {len(pieces) - most} more"
