"""What one process knows of the stores, and the free indexes that follow from it.

Takes records as they are read and written; `protocol` decides over it. The entries are the truth as last seen; everything else
here can be rebuilt from them: a carver for each pool and family, an index of free addresses for each block, both made when first
used and kept up to date page by page. A view may be old: whoever decides over it writes by compare-and-set, and reads again what
did not fit.

Not thread-safe; the facade serialises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from ciliumipam.addresses import BlockAddresses, Policy
from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import WIDTH, Family, Network, Prefix, parse_prefix, range_to_prefixes
from ciliumipam.ledger import ROOT_FENCE, Ledger, Status, address_ledger, block_ledger, status
from ciliumipam.pool import PoolSpec
from ciliumipam.records import (
    NO_CLAIMS,
    ClaimPage,
    Entry,
    Holding,
    Key,
    Kind,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Revision,
    Slot,
)

BLOCK_BUCKETS = 256
"""Claim pages of all nodes. 5,000 nodes make about 20 claims in each."""
ADDRESS_BUCKETS = 64
"""Claim pages of one node. A node of 254 pods makes about 4 claims in each."""


def block_claims_key(node: str) -> Key:
    """Where a node's claims on blocks are kept."""
    return Key("block-claims", f"{crc32(node.encode()) % BLOCK_BUCKETS:02x}")


def address_claims_key(node: str, owner: str) -> Key:
    """Where an owner's claims on addresses of a node are kept."""
    return _bucket_key(node, crc32(owner.encode()) % ADDRESS_BUCKETS)


def address_claims_keys(node: str) -> list[Key]:
    """Where claims of all owners on a node may be kept."""
    return [_bucket_key(node, bucket) for bucket in range(ADDRESS_BUCKETS)]


@lru_cache(maxsize=4096)
def _bucket_key(node: str, bucket: int) -> Key:
    return Key("address-claims", f"{node}/{bucket:02x}")


class NodeBlock:
    """A block that a node can allocate from.

    Attributes:
        holding: The node's holding of it, whose fence its address ledger counts under.
        ledger: Its address ledger.
        addresses: Its free index.
        serves: Whether it takes anything new: it is no orphan.
        family: 4 or 6.
        first, last: Its first and last address, both inclusive.
    """

    __slots__ = ("_network", "addresses", "family", "first", "holding", "last", "ledger", "serves")

    def __init__(self, holding: Holding, ledger: Ledger, addresses: BlockAddresses, *, serves: bool) -> None:
        self.holding, self.ledger, self.addresses, self.serves = holding, ledger, addresses, serves
        self.family: Family = holding.family
        self.first = holding.network
        self.last = ledger.root.last
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """The block as an `ipaddress` network, made when first asked for."""
        if self._network is None:
            self._network = self.ledger.root.to_network()
        return self._network


class CidrGroup(NamedTuple):
    """The CIDRs of a pool and family that have the same block length, and what carves them."""

    length: int
    cidrs: tuple[Prefix, ...]
    carver: CidrCarver


class View:
    """Entries by key, and what follows from them.

    Args:
        policy: How free addresses are picked.
    """

    def __init__(self, policy: Policy = "next") -> None:
        self.policy: Policy = policy
        self.entries: dict[Key, Entry] = {}
        self.pools: dict[str, PoolRecord] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.block_ledgers: dict[int, Ledger] = {4: block_ledger(4), 6: block_ledger(6)}
        self._address_ledgers: dict[Prefix, Ledger] = {}
        self._address_pages: dict[Prefix, set[Key]] = {}
        self._places: dict[Key, tuple[Prefix, Prefix]] = {}
        self._blocks: dict[Prefix, Holding] = {}
        self._carvers: dict[tuple[str, Family], list[CidrGroup]] = {}
        self._addresses: dict[Prefix, BlockAddresses] = {}
        self._node_blocks: dict[str, tuple[NodeBlock, ...]] = {}

    # -------------------------------------------------------------------------------------- keeping it up to date

    def load(self, key: Key, entry: Entry | None) -> bool:
        """Take over a record as read; None where there is none. Returns whether it differs from what was known."""
        known = self.entries.get(key)
        if entry is None:
            if known is None:
                return False
            del self.entries[key]
        else:
            if known is not None and known.revision == entry.revision:
                return False
            self.entries[key] = entry
        self._follow(key, known.record if known is not None else None, entry.record if entry is not None else None, None)
        return True

    def load_all(self, kind: Kind, entries: Iterable[tuple[Key, Entry]]) -> None:
        """Take over a listing of one kind; what is not in it is gone. O(records of all kinds)."""
        found = dict(entries)
        for key in [key for key in self.entries if key.kind == kind and key not in found]:
            self.load(key, None)
        for key, entry in found.items():
            self.load(key, entry)

    def written(self, key: Key, entry: Entry | None, slots: tuple[int, ...] | None) -> None:
        """Take over a record that was just written; `slots` are the ones of a page that may have changed, None for all."""
        known = self.entries.get(key)
        if entry is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = entry
        self._follow(key, known.record if known is not None else None, entry.record if entry is not None else None, slots)

    def _follow(self, key: Key, old: Record | None, new: Record | None, slots: tuple[int, ...] | None) -> None:
        kind = key.kind
        if kind == "address-claims":
            return  # the most frequent, and nothing follows from them
        if kind == "address-page":
            self._follow_address_page(key, old, new, slots)  # type: ignore[arg-type]  # the kind says that it is a page
        elif kind == "block-page":
            self._node_blocks.clear()
            self._follow_block_page(old, new, slots)  # type: ignore[arg-type]  # the kind says that it is a page
        elif kind == "block-claims":
            self._node_blocks.clear()
        elif kind == "pool":
            self._node_blocks.clear()
            self._follow_pool(key.name, new)  # type: ignore[arg-type]  # the kind says that it is a pool
        elif kind == "node":
            if new is None:
                self.nodes.pop(key.name, None)
            else:
                self.nodes[key.name] = new  # type: ignore[assignment]  # the kind says that it is a node

    def _follow_pool(self, name: str, new: PoolRecord | None) -> None:
        self._carvers.clear()  # blocks may have become orphans, or be covered again
        for prefix, holding in self._blocks.items():
            if holding.label == name:
                self._addresses.pop(prefix, None)
        if new is None:
            self.pools.pop(name, None)
        else:
            self.pools[name] = new

    def _follow_address_page(self, key: Key, old: Page | None, new: Page | None, slots: tuple[int, ...] | None) -> None:
        place = self._places.get(key)
        if place is None:
            root, _, page = key.name.partition("+")
            place = self._places[key] = (parse_prefix(root), parse_prefix(page or root))
            self._address_pages.setdefault(place[0], set()).add(key)
        if old is None or new is None or old.fence != new.fence:
            self._node_blocks.clear()  # a block may have been closed
        index = self._addresses.get(place[0])
        if index is not None:
            _index_page(index, place[1], old, new, slots)

    def _follow_block_page(self, old: Page | None, new: Page | None, slots: tuple[int, ...] | None) -> None:
        ended: dict[Prefix, Holding] = {}
        begun: dict[Prefix, Holding] = {}
        left: Slot = 0
        right: Slot = 0
        for before, after in _changes(old, new, slots):
            if type(before) is Holding and before is not left:  # it stands in every slot that it covers
                ended[before.prefix] = before
            if type(after) is Holding and after is not right:
                begun[after.prefix] = after
            left, right = before, after
        for prefix, holding in ended.items():
            self._addresses.pop(prefix, None)
            self._blocks.pop(prefix, None)
            for name, carver in self._carvers_over(holding):
                if not carver.give_back_bits(prefix.network, prefix.length):
                    self._carvers.pop((name, prefix.family), None)  # it did not fit its pool: build that carver anew
        for prefix, holding in begun.items():
            self._blocks[prefix] = holding
            for name, carver in self._carvers_over(holding):
                if not carver.occupy_bits(prefix.network, prefix.length):
                    self._carvers.pop((name, prefix.family), None)

    def _carvers_over(self, holding: Holding) -> list[tuple[str, CidrCarver]]:
        """The carvers, of those that have been built, whose space a block lies in: its own pool's, else all that overlap it."""
        prefix = holding.prefix
        for group in self._carvers.get((holding.label, prefix.family), ()):
            if any(cidr.covers(prefix) for cidr in group.cidrs):
                return [(holding.label, group.carver)]
        return [
            (name, group.carver)
            for (name, family), groups in self._carvers.items()
            if family == prefix.family
            for group in groups
            if any(cidr.overlaps(prefix) for cidr in group.cidrs)
        ]

    # --------------------------------------------------------------------------------------------- what follows

    def page(self, key: Key) -> Page | None:
        """A page as last seen."""
        entry = self.entries.get(key)
        return entry.record if entry is not None else None  # type: ignore[return-value]  # the kind of the key says so

    def revision(self, key: Key) -> Revision | None:
        """The revision of a record as last seen, None where there is none."""
        entry = self.entries.get(key)
        return entry.revision if entry is not None else None

    def claims(self, key: Key) -> ClaimPage:
        """A claim page as last seen; empty where there is none."""
        entry = self.entries.get(key)
        return entry.record if entry is not None else NO_CLAIMS  # type: ignore[return-value]  # the kind says so

    def address_ledger(self, block: Prefix) -> Ledger:
        """The address ledger of a block, its cache of keys kept."""
        ledger = self._address_ledgers.get(block)
        if ledger is None:
            ledger = self._address_ledgers[block] = address_ledger(block)
        return ledger

    def carvers(self, spec: PoolSpec, family: Family) -> list[CidrGroup]:
        """The CIDRs of a pool and family by block length, each group with its carver; the group of the lowest CIDR first."""
        groups = self._carvers.get((spec.name, family))
        if groups is None:
            groups = self._carvers[(spec.name, family)] = [
                CidrGroup(length, tuple(cidrs), self._carver(spec, length, cidrs))
                for length, cidrs in _by_length(spec, family).items()
            ]
        return groups

    def _carver(self, spec: PoolSpec, length: int, cidrs: list[Prefix]) -> CidrCarver:
        reserved = list(_reserved_blocks(spec, length, cidrs[0].family))
        held = [prefix for prefix in self._blocks if any(cidr.overlaps(prefix) for cidr in cidrs)]
        carver = CidrCarver(cidrs, blocked=reserved, pool=spec.name)
        misfits = [prefix for prefix in held if not carver.occupy_bits(prefix.network, prefix.length)]
        if misfits:  # larger than the CIDR by now, or inside what was reserved later
            carver = CidrCarver(cidrs, blocked=[*reserved, *misfits], pool=spec.name)
            for prefix in held:
                carver.occupy_bits(prefix.network, prefix.length)
        return carver

    def blocks(self) -> list[Holding]:
        """Every block that a page shows as held, in address order."""
        return [self._blocks[prefix] for prefix in sorted(self._blocks)]

    def is_orphan(self, block: Holding) -> bool:
        """Whether the pool that a block came from is gone or no longer covers it. An orphan takes nothing new."""
        pool = self.pools.get(block.label)
        return pool is None or not pool.spec.covers(block.prefix)

    def addresses(self, block: Holding) -> BlockAddresses:
        """The free index of a block."""
        prefix = block.prefix
        index = self._addresses.get(prefix)
        if index is None:
            pool = self.pools.get(block.label)
            spec = pool.spec if pool is not None else None
            index = BlockAddresses(
                prefix,
                [(first, last) for family, first, last in spec.reserved if family == prefix.family] if spec else [],
                allow_first=spec is not None and spec.allow_first,
                allow_last=spec is not None and spec.allow_last,
                policy=self.policy,
            )
            for key in self._address_pages.get(prefix, ()):
                _index_page(index, self._places[key][1], None, self.page(key), None)
            self._addresses[prefix] = index
        return index

    def is_closed(self, block: Holding) -> bool:
        """Whether a block's address ledger was closed, so that the block is on its way back."""
        ledger = self.address_ledger(block.prefix)
        page = self.page(ledger.key(block.network, block.length))
        return page is not None and page.fence > block.fence

    def address_pages(self, block: Prefix) -> list[Key]:
        """The pages of a block's address ledger that are known, and its root, the upper ones first."""
        ledger = self.address_ledger(block)
        known = sorted(self._address_pages.get(block, ()), key=lambda key: (self._places[key][1].length, key))
        return list(dict.fromkeys([ledger.key(block.network, block.length), *known]))

    def node_blocks(self, node: str) -> tuple[NodeBlock, ...]:
        """The blocks of a node, in the order in which it got them; without those on their way back."""
        found = self._node_blocks.get(node)
        if found is None:
            found = self._node_blocks[node] = tuple(
                self.node_block(block)
                for block in self.claims(block_claims_key(node)).claims.get(node, ())
                if status(self, self.block_ledgers[block.family], ROOT_FENCE, block) is Status.HELD and not self.is_closed(block)
            )
        return found

    def node_block(self, block: Holding) -> NodeBlock:
        """A block with what is needed to allocate from it."""
        return NodeBlock(block, self.address_ledger(block.prefix), self.addresses(block), serves=not self.is_orphan(block))

    def check_invariants(self) -> None:
        """Assert that everything here equals what is built anew from the entries. O(everything)."""
        fresh = View(self.policy)
        for key in sorted(self.entries, reverse=True):
            fresh.load(key, self.entries[key])
        assert fresh.blocks() == self.blocks(), "the blocks held are not those of the pages"
        for (name, family), groups in self._carvers.items():
            for group, rebuilt in zip(groups, fresh.carvers(self.pools[name].spec, family), strict=True):
                group.carver.check_invariants()
                assert (group.length, group.cidrs) == (rebuilt.length, rebuilt.cidrs), f"the CIDRs of pool {name} differ"
                assert group.carver.free_prefixes() == rebuilt.carver.free_prefixes(), f"free blocks of pool {name} differ"
        for prefix, index in self._addresses.items():
            index.check_invariants()
            other = fresh.addresses(self._blocks[prefix])
            counts = [(each.capacity, each.in_use, each.reserved, each.available) for each in (index, other)]
            assert counts[0] == counts[1], f"counts of {prefix} differ: {counts}"
            assert index.pick() == other.pick(), f"the next address of {prefix} differs"


def _changes(old: Page | None, new: Page | None, slots: tuple[int, ...] | None) -> list[tuple[Slot, Slot]]:
    """What stood in a page's slots and what stands there now, where it differs."""
    before: Sequence[Slot] = old.slots if old is not None else (0,) * len(new.slots) if new is not None else ()
    after: Sequence[Slot] = new.slots if new is not None else (0,) * len(before)
    found = []
    for index in range(len(before)) if slots is None else slots:
        left, right = before[index], after[index]
        if left is not right and left != right:
            found.append((left, right))
    return found


def _index_page(
    index: BlockAddresses, page: Prefix, old: Page | None, new: Page | None, slots: tuple[int, ...] | None
) -> None:
    width = WIDTH[page.family]
    for before, after in _changes(old, new, slots):
        if type(before) is Holding and before.length == width:
            index.vacate(before.network)
        if type(after) is Holding and after.length == width:
            index.occupy(after.network)
    if width - page.length <= 8:
        index.set_cursor((page.network - index.block.network) >> 8, new.cursor if new is not None else 0)


def _by_length(spec: PoolSpec, family: Family) -> dict[int, list[Prefix]]:
    groups: dict[int, list[Prefix]] = {}
    for cidr in spec.cidrs_of(family):
        groups.setdefault(spec.block_length(cidr), []).append(cidr)
    return groups


def _reserved_blocks(spec: PoolSpec, length: int, family: Family) -> Iterator[Prefix]:
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
