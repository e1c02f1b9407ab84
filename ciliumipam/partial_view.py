"""A view of which only a part was read, and which knows that.

What `Ipam` knows was read as a whole, so in its view a record that is not there is absent: its page is empty, its pool is gone. Here
a record that was not read is *unknown*. Every question about it raises `Unread`, whoever asks: the free index, the planner, the
protocol, or a draft on its way to the store. The session reads that record and decides anew, from nothing. So no decision is ever
made, and nothing ever written, over something that was not read, and what is decided is what a whole view would have decided.

The free index of a block is no exception. It knows nothing of pages that were not read, and so may propose an address in one; but
nobody can get that address without asking for its page. Then it is read, and the index proposes again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from ciliumipam.addresses import BlockAddresses
from ciliumipam.cidr import Prefix
from ciliumipam.free_blocks import FreeBlocks, Place
from ciliumipam.records import Entry, Holding, Key, Kind, NodeRecord, PoolRecord
from ciliumipam.view import NodeBlock, View

_V = TypeVar("_V")


class Unread(Exception):  # noqa: N818 - not an error: the record is read
    """A question about a record that was not read yet."""

    def __init__(self, key: Key) -> None:
        super().__init__(key)
        self.key = key


class Proposed(Unread):
    """The free index proposes an address in a page that was not read. If the store says that the page is full, it need not be."""

    def __init__(self, key: Key, view: PartialView, block: NodeBlock, page: Prefix) -> None:
        super().__init__(key)
        self._view, self._block, self._page = view, block, page

    def is_full(self, room: tuple[int, ...] | None) -> bool:
        """Whether nothing of the page can be had, by the slots that nobody holds. Then its index proposes none of it any more."""
        index = self._block.addresses
        if room is None or not all(index.is_reserved(self._page.network + slot) for slot in room):
            return False
        self._view.hide(self._block, self._page)
        return True


class _Reading:
    """Which records were read: one by one, or by their kind."""

    __slots__ = ("keys", "kinds")

    def __init__(self) -> None:
        self.keys: set[Key] = set()
        self.kinds: set[Kind] = set()

    def ask(self, key: Key) -> None:
        """Refuse to say anything of what was not read."""
        if key not in self.keys and key.kind not in self.kinds:
            raise Unread(key)


class _Entries(dict[Key, Entry]):
    """Entries by key. Only what was read and is absent is absent."""

    def __init__(self, reading: _Reading) -> None:
        super().__init__()
        self._reading = reading

    def get(self, key: Key, default: Any = None) -> Any:
        found = super().get(key)
        if found is None:
            self._reading.ask(key)
            return default
        return found


class _Named(dict[str, _V]):
    """Pools or nodes by name. Only what was read and is absent is absent."""

    def __init__(self, kind: Kind, reading: _Reading) -> None:
        super().__init__()
        self._kind: Kind = kind
        self._reading = reading

    def get(self, name: str, default: Any = None) -> Any:
        found = super().get(name)
        if found is None:
            self._reading.ask(Key(self._kind, name))
            return default
        return found

    def __contains__(self, name: object) -> bool:
        return self.get(str(name)) is not None

    def __missing__(self, name: str) -> _V:
        self._reading.ask(Key(self._kind, name))
        raise KeyError(name)


class PartialView(View):
    """A view that raises `Unread` where it is asked about a record that it was not given.

    Of the blocks of a node it is not asked whether they are on their way back before their first page is read: who takes an
    address, or looks for a holding, reads that page anyhow, and then it is known. So a node with forty blocks does not cost forty
    pages.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reading = _Reading()
        self._full: dict[Place, dict[Key, Prefix]] = {}
        self.entries = _Entries(self._reading)
        pools: dict[str, PoolRecord] = _Named("pool", self._reading)
        nodes: dict[str, NodeRecord] = _Named("node", self._reading)
        self.pools, self.nodes = pools, nodes
        self.free = FreeBlocks(self.pools, self.nodes, self._blocks)

    def propose(self, block: NodeBlock, number: int) -> None:
        """Ask whether it is worth while to read the page of an address.

        That is a hint and can only keep a page from being read. Before anything is refused, all pages are read.
        """
        ledger = block.ledger
        *uppers, level = ledger.levels
        for upper in uppers:  # a page is read after the one that links to it
            self._reading.ask(ledger.key(number, upper))
        key = ledger.key(number, level)
        if self.needs(key):
            shift = ledger.width - level
            raise Proposed(key, self, block, Prefix(block.family, number >> shift << shift, level))

    def hide(self, block: NodeBlock, page: Prefix) -> None:
        """Let nothing of a full page be proposed until it is read."""
        place = block.holding.place
        self._full.setdefault(place, {})[block.ledger.key(page.network, page.length)] = page
        block.addresses.hide(page.network, page.last)

    def addresses(self, block: Holding) -> BlockAddresses:
        """The free index of a block, without the pages that are known to be full and nothing more."""
        known = self._addresses.get(block.place)
        index = super().addresses(block)
        if index is not known:
            for page in self._full.get(block.place, {}).values():
                index.hide(page.network, page.last)
        return index

    def needs(self, key: Key) -> bool:
        """Whether a record was not read yet. What was read in this call is as fresh as a call needs it."""
        return key not in self._reading.keys and key.kind not in self._reading.kinds

    def load(self, key: Key, entry: Entry | None) -> bool:
        """Take over a record as read; from now on it is known."""
        self._reading.keys.add(key)
        if self._full and key.kind == "address-page":
            for place, pages in self._full.items():
                if pages.pop(key, None) is not None:  # from now on its slots count, and the index is built anew
                    self._addresses.pop(place, None)
                    self._node_blocks.clear()
        return super().load(key, entry)

    def load_all(self, kind: Kind, entries: Iterable[tuple[Key, Entry]]) -> None:
        """Take over a listing of one kind; from now on all of it is known."""
        self._reading.kinds.add(kind)
        super().load_all(kind, entries)

    def is_closed(self, block: Holding) -> bool:
        """Whether a block's address ledger was closed, as far as that was read."""
        key = self.address_ledger(block).key(block.network, block.length)
        return not self.needs(key) and super().is_closed(block)
