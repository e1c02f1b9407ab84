"""Ledger records that cannot be read, as those of a newer version: what they may say is left alone, and everything else goes on. Pure.

A page of blocks that cannot be read is taken as one that is wholly held, by nobody's name: so nothing is carved there. A free block
of whose addresses a page cannot be read is left out of what is carved too: nobody could take it back again. A node about
which an unreadable record may say something is sealed: nothing is decided about it, neither given nor taken, by whoever cannot read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from ciliumipam.cidr import Prefix, parse_prefix
from ciliumipam.errors import StoreError
from ciliumipam.ledger import ROOT_FENCE, block_ledger
from ciliumipam.pool import DEFAULT_SPACE
from ciliumipam.records import ClaimPage, Entry, Holding, Key, Page, Revision, Split
from ciliumipam.requests import ExistingBlock
from ciliumipam.view import block_claims_key

NOBODY: Final = "(unreadable)"
"""Who holds what cannot be read; no node can have that name."""


class Unreadable(NamedTuple):
    """A record that cannot be read, and why."""

    error: StoreError
    revision: Revision


class Ledger(NamedTuple):
    """What is known of the ledger.

    Attributes:
        entries: Every record, with pages that stand in for those of blocks that cannot be read.
        unreadable: Records that cannot be read.
        sealed: Nodes that they may be about, as far as their names are known, and why.
    """

    entries: dict[Key, Entry]
    unreadable: dict[Key, StoreError]
    sealed: dict[str, str]

    def why_sealed(self, node: str) -> str:
        """Why nothing may be decided about a node; "" if it may."""
        if not self.unreadable:
            return ""
        if node == NOBODY:
            return "it stands for what cannot be read"
        claims = self.unreadable.get(block_claims_key(node))
        return str(claims) if claims is not None else self.sealed.get(node, "")

    def shut(self) -> list[ExistingBlock]:
        """Blocks that nobody holds and whose addresses cannot be read, so that nobody can be given them, as what "nobody" is said to have."""
        pages = {key: error for key, error in self.unreadable.items() if key.kind == "address-page"}
        if not pages:
            return []
        slots = (slot for entry in self.entries.values() if isinstance(entry.record, Page) for slot in entry.record.slots)
        held = {(slot.space, slot.prefix) for slot in slots if type(slot) is Holding}
        places = {_place(key): error for key, error in pages.items()}
        return [
            ExistingBlock(NOBODY, prefix, None, 0.0, str(error), space) for (space, prefix), error in sorted(places.items(), key=lambda item: item[0]) if (space, prefix) not in held
        ]


def ledger_of(records: Iterable[tuple[Key, Entry | Unreadable]]) -> Ledger:
    """What is known of the ledger. O(records)."""
    entries: dict[Key, Entry] = {}
    bad: dict[Key, Unreadable] = {}
    for key, found in records:
        if isinstance(found, Unreadable):
            bad[key] = found
        else:
            entries[key] = found
    if not bad:
        return Ledger(entries, {}, {})
    places: list[tuple[str, Prefix, StoreError]] = []
    sealed: dict[str, str] = {}
    for key in sorted(bad):
        error = bad[key].error
        if key.kind in ("node", "address-claims", "lease"):
            sealed[key.name.partition("/")[0]] = str(error)
        elif key.kind in ("block-page", "address-page"):
            space, prefix = _place(key)
            places.append((space, prefix, error))
    pages = {key: _stand_in(key, entries) for key in bad if key.kind == "block-page"}
    for key, entry in entries.items():
        if key.kind == "block-claims" and isinstance(entry.record, ClaimPage):
            for node, pieces in entry.record.claims.items():
                for space, prefix, error in places:
                    if any(piece.space == space and piece.prefix.overlaps(prefix) for piece in pieces):
                        sealed.setdefault(node, str(error))
    for key, page in pages.items():
        if page is not None:
            entries[key] = Entry(page, bad[key].revision)
    return Ledger(entries, {key: found.error for key, found in bad.items()}, sealed)


def _place(key: Key) -> tuple[str, Prefix]:
    """The address space, and the part of it that a page of blocks covers, or the block whose addresses a page is about."""
    space, named, name = key.name.rpartition("@")
    root, _, page = name.partition("+")
    return space if named else DEFAULT_SPACE, parse_prefix((page or root) if key.kind == "block-page" else root)


def _stand_in(key: Key, entries: Mapping[Key, Entry]) -> Page | None:
    """A page that is wholly held, under the fence by which it is linked; None where no page that can be read links to it."""
    space, prefix = _place(key)
    ledger = block_ledger(prefix.family, space)
    at = ledger.levels.index(prefix.length)
    fence = ROOT_FENCE
    if at:
        above = ledger.levels[at - 1]
        shift = ledger.width - above
        parent = entries.get(ledger.key(prefix.network >> shift << shift, above))
        index = (prefix.network >> (ledger.width - prefix.length)) & (ledger.sizes[above] - 1)
        slot = parent.record.slots[index] if parent is not None and isinstance(parent.record, Page) else 0
        if type(slot) is not Split:
            return None
        fence = slot.fence
    held = Holding(prefix.family, prefix.network, prefix.length, fence, NOBODY, "", 0.0, space)
    return Page(fence, 0, (held,) * ledger.sizes[prefix.length])


__all__ = ["NOBODY", "Ledger", "Unreadable", "ledger_of"]
