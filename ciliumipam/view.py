"""What one process knows of the stores, and the free indexes that follow from it.

Takes records as they are read and written; `protocol` decides over it. The entries are the truth as last seen; everything else
here can be rebuilt from them: a carver for each pool and family, an index of free addresses for each block, both made when first
used and kept up to date page by page. A view may be old: whoever decides over it writes by compare-and-set, and reads again what
did not fit.

Not thread-safe; the facade serialises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from zlib import crc32

from ciliumipam.addresses import BlockAddresses
from ciliumipam.cidr import WIDTH, Family, Network, Prefix, parse_prefix
from ciliumipam.free_blocks import FreeBlocks, Place
from ciliumipam.lease import lease_key
from ciliumipam.ledger import ROOT_FENCE, Ledger, Status, address_ledger, block_ledger, status
from ciliumipam.pool import DEFAULT_SPACE
from ciliumipam.records import (
    NO_CLAIMS,
    ClaimPage,
    Cooling,
    Entry,
    Holding,
    Key,
    Kind,
    Lease,
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
        serves: Whether it takes anything new: it is no orphan and does not drain, and the node's lease, if there is one, names it.
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


class View:
    """Entries by key, and what follows from them.

    Attributes:
        entries: Every record by key, as last seen.
        pools, nodes: The records of users by name.
        free: The free blocks of every pool.
        derived: What others derive from the pools, by its type; forgotten when a pool changes.
    """

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self.pools: dict[str, PoolRecord] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self._block_ledgers: dict[tuple[int, str], Ledger] = {}
        self._address_ledgers: dict[Place, Ledger] = {}
        self._address_pages: dict[Place, set[Key]] = {}
        self._places: dict[Key, tuple[Place, Prefix]] = {}
        self._blocks: dict[Place, Holding] = {}
        self.free = FreeBlocks(self.pools, self.nodes, self._blocks)
        self.derived: dict[type, object] = {}
        self._addresses: dict[Place, BlockAddresses] = {}
        self._node_blocks: dict[str, tuple[NodeBlock, ...]] = {}

    # -------------------------------------------------------------------------------------- keeping it up to date

    def needs(self, key: Key) -> bool:  # noqa: ARG002 - see `partial_view`
        """Whether a call that depends on a record has to read it before it begins: what is known may be old."""
        return True

    def propose(self, block: NodeBlock, number: int) -> None:
        """An address of a block is about to be chosen; see `partial_view`."""

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
            self._follow_block_page(key, old, new, slots)  # type: ignore[arg-type]  # the kind says that it is a page
        elif kind == "block-claims":
            self._node_blocks.clear()
        elif kind == "pool":
            self._node_blocks.clear()
            self._follow_pool(key.name, new)  # type: ignore[arg-type]  # the kind says that it is a pool
        elif kind == "lease":
            self._node_blocks.pop(key.name, None)
        else:  # a node
            self._node_blocks.pop(key.name, None)
            self.free.regroup(old, new)  # type: ignore[arg-type]  # the kind says that it is a node
            if new is None:
                self.nodes.pop(key.name, None)
            else:
                self.nodes[key.name] = new  # type: ignore[assignment]  # the kind says that it is a node

    def _follow_pool(self, name: str, new: PoolRecord | None) -> None:
        self.free.forget()
        self.derived.clear()
        for place, holding in self._blocks.items():
            if holding.label == name:
                self._addresses.pop(place, None)
        if new is None:
            self.pools.pop(name, None)
        else:
            self.pools[name] = new

    def _follow_address_page(self, key: Key, old: Page | None, new: Page | None, slots: tuple[int, ...] | None) -> None:
        place = self._place(key)
        self._address_pages.setdefault(place[0], set()).add(key)
        if old is None or new is None or old.fence != new.fence:
            self._node_blocks.clear()  # a block may have been closed
        index = self._addresses.get(place[0])
        if index is not None:
            _index_page(index, place[1], old, new, slots)

    def _place(self, key: Key) -> tuple[Place, Prefix]:
        """Where a page lies: its space with the root of its ledger (for a page of blocks itself), and what it covers."""
        place = self._places.get(key)
        if place is None:
            space, named, name = key.name.rpartition("@")
            root, _, page = name.partition("+")
            place = self._places[key] = ((space if named else DEFAULT_SPACE, parse_prefix(root)), parse_prefix(page or root))
        return place

    def _follow_block_page(self, key: Key, old: Page | None, new: Page | None, slots: tuple[int, ...] | None) -> None:
        ended: dict[Place, Holding] = {}
        begun: dict[Place, Holding] = {}
        warmed: list[int] = []
        cooled: list[tuple[int, float]] = []
        left: Slot = 0
        right: Slot = 0
        for index, before, after in _changes(old, new, slots):
            if type(before) is Holding and before is not left:  # it stands in every slot that it covers
                ended[before.place] = before
            elif type(before) is Cooling:
                warmed.append(index)
            if type(after) is Holding and after is not right:
                begun[after.place] = after
            elif type(after) is Cooling:
                cooled.append((index, after.until))
            left, right = before, after
        for place, holding in ended.items():
            self._addresses.pop(place, None)
            self._blocks.pop(place, None)
            self.free.end(place, holding.label)
        for index in warmed:
            self.free.warm(self._slot_place(key, index, old))
        for place, holding in begun.items():
            self._blocks[place] = holding
            self.free.begin(place, holding.label, holding.holder)
        for index, until in cooled:
            self.free.cool(self._slot_place(key, index, new), until)

    def _slot_place(self, key: Key, index: int, page: Page | None) -> Place:
        (space, _), prefix = self._place(key)
        length = prefix.length + (len(page.slots) - 1).bit_length() if page is not None else prefix.length
        return space, Prefix(prefix.family, prefix.network + (index << (WIDTH[prefix.family] - length)), length)

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

    def lease(self, node: str) -> Lease | None:
        """The lease of a node as last seen, None where its claims on blocks do not expire."""
        entry = self.entries.get(lease_key(node))
        return entry.record if entry is not None else None  # type: ignore[return-value]  # the kind of the key says so

    def block_ledger(self, family: Family, space: str) -> Ledger:
        """The ledger of all blocks of a family in an address space."""
        ledger = self._block_ledgers.get((family, space))
        if ledger is None:
            ledger = self._block_ledgers[(family, space)] = block_ledger(family, space)
        return ledger

    def address_ledger(self, block: Holding) -> Ledger:
        """The address ledger of a block, its cache of keys kept."""
        place = block.place
        ledger = self._address_ledgers.get(place)
        if ledger is None:
            ledger = self._address_ledgers[place] = address_ledger(block.prefix, block.space)
        return ledger

    def advance(self, now: float) -> None:
        """Take note of the time: what cools until then becomes free. It never goes back."""
        self.free.advance(now)

    def cools_until(self, pool: str, now: float) -> float | None:
        """When somebody may get again what is given back to a pool now; None is at once."""
        record = self.pools.get(pool)
        return now + record.spec.reuse_delay if record is not None and record.spec.reuse_delay else None

    def blocks(self) -> list[Holding]:
        """Every block that a page shows as held, in address order."""
        return [self._blocks[place] for place in sorted(self._blocks)]

    def is_orphan(self, block: Holding) -> bool:
        """Whether the pool that a block came from is gone or no longer covers it. An orphan takes nothing new."""
        pool = self.pools.get(block.label)
        return pool is None or pool.spec.address_space != block.space or not pool.spec.covers(block.prefix)

    def addresses(self, block: Holding) -> BlockAddresses:
        """The free index of a block."""
        place = block.place
        prefix = place[1]
        index = self._addresses.get(place)
        if index is None:
            pool = self.pools.get(block.label)
            spec = pool.spec if pool is not None else None
            index = BlockAddresses(
                prefix,
                [(first, last) for family, first, last in spec.reserved if family == prefix.family] if spec else [],
                allow_first=spec is not None and spec.allow_first,
                allow_last=spec is not None and spec.allow_last,
                policy=spec.address_policy if spec is not None else "next",
            )
            for key in self._address_pages.get(place, ()):
                _index_page(index, self._places[key][1], None, self.page(key), None)
            self._addresses[place] = index
        index.expire(self.free.now)
        return index

    def is_closed(self, block: Holding) -> bool:
        """Whether a block's address ledger was closed, so that the block is on its way back."""
        ledger = self.address_ledger(block)
        page = self.page(ledger.key(block.network, block.length))
        return page is not None and page.fence > block.fence

    def address_pages(self, block: Holding) -> list[Key]:
        """The pages of a block's address ledger that are known, and its root, the upper ones first."""
        ledger = self.address_ledger(block)
        known = sorted(self._address_pages.get(block.place, ()), key=lambda key: (self._places[key][1].length, key))
        return list(dict.fromkeys([ledger.key(block.network, block.length), *known]))

    def node_blocks(self, node: str) -> tuple[NodeBlock, ...]:
        """The blocks of a node, in the order in which it got them; without those on their way back."""
        found = self._node_blocks.get(node)
        if found is None:
            claims = self.claims(block_claims_key(node))
            blocks = [
                block
                for block in claims.claims.get(node, ())
                if status(self, self.block_ledger(block.family, block.space), ROOT_FENCE, block) is Status.HELD
                and not self.is_closed(block)
            ]
            good = [block for block in blocks if not self.is_orphan(block)]
            record = self.nodes.get(node)
            if record is not None and record.draining:
                good = []
            lease = self.lease(node)
            if lease is not None:
                leased = {(each.space, each.prefix) for each in lease.blocks}
                good = [block for block in good if block.place in leased]
            staying = [block for block in good if not self.drains(block)]
            replaced = {block.family for block in staying}
            # what drains serves until the node has another block of the family: it must not stand there with nothing
            serving = {block for block in good if block in staying or block.family not in replaced}
            found = self._node_blocks[node] = tuple(self.node_block(block, serves=block in serving) for block in blocks)
        return found

    def drains(self, block: Holding) -> bool:
        """Whether a block drains, or its pool does. It takes nothing new once its node has another one of the family."""
        pool = self.pools.get(block.label)
        claims = self.claims(block_claims_key(block.holder))
        return (pool is not None and pool.spec.draining) or block in claims.draining

    def node_block(self, block: Holding, *, serves: bool) -> NodeBlock:
        """A block with what is needed to allocate from it."""
        return NodeBlock(block, self.address_ledger(block), self.addresses(block), serves=serves)

    def check_invariants(self) -> None:
        """Assert that everything here equals what is built anew from the entries. O(everything)."""
        fresh = View()
        fresh.advance(self.free.now)
        for key in sorted(self.entries, reverse=True):
            fresh.load(key, self.entries[key])
        assert fresh.blocks() == self.blocks(), "the blocks held are not those of the pages"
        self.free.check_invariants(fresh.free)
        for place, index in self._addresses.items():
            index.expire(self.free.now)
            index.check_invariants()
            other = fresh.addresses(self._blocks[place])
            counts = [(each.capacity, each.in_use, each.cooling, each.reserved, each.available) for each in (index, other)]
            assert counts[0] == counts[1], f"counts of {place} differ: {counts}"
            assert index.pick() == other.pick(), f"the next address of {place} differs"


def _changes(old: Page | None, new: Page | None, slots: tuple[int, ...] | None) -> list[tuple[int, Slot, Slot]]:
    """The slots of a page that differ: index, what stood there, what stands there now."""
    before: Sequence[Slot] = old.slots if old is not None else (0,) * len(new.slots) if new is not None else ()
    after: Sequence[Slot] = new.slots if new is not None else (0,) * len(before)
    found = []
    known: tuple[Slot, Slot] | None = None
    for index in range(len(before)) if slots is None else slots:
        left, right = before[index], after[index]
        if left is right or (known is not None and left is known[0] and right is known[1]):
            continue
        if left != right:
            found.append((index, left, right))
            # a holding stands in every slot that it covers, and is looked at once; what cools does so slot by slot
            known = None if type(left) is Cooling or type(right) is Cooling else (left, right)
    return found


def _index_page(
    index: BlockAddresses, page: Prefix, old: Page | None, new: Page | None, slots: tuple[int, ...] | None
) -> None:
    width = WIDTH[page.family]
    for slot, before, after in _changes(old, new, slots):
        if type(before) is Holding and before.length == width:
            index.vacate(before.network)
        elif type(before) is Cooling:
            index.warm(page.network + slot)  # only single addresses cool, and these lie in the lowest pages
        if type(after) is Holding and after.length == width:
            index.occupy(after.network)
        elif type(after) is Cooling:
            index.cool(page.network + slot, after.until)
    if width - page.length <= 8:
        index.set_cursor((page.network - index.block.network) >> 8, new.cursor if new is not None else 0)
