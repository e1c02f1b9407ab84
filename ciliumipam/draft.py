"""A draft: the writes of one decision, collected over a view and put into the one order in which every prefix is a legal state.

Several requests may put into one draft; what falls into one record becomes one write. The order:

    records of users ─▶ claims that name what will be taken ─▶ pages to close, deepest first ─▶ claims on what was closed
      ─▶ pages to fill or free, those that link first ─▶ claims that name no longer what was freed ─▶ records to delete

A record is written once in a draft. What needs it at two places of the order raises `Later`, and its request goes on in the next
round, over what this one has written. Nothing here is done: `protocol` decides, the facade writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from ciliumipam.ledger import Ledger, Spot, locate
from ciliumipam.records import NO_CLAIMS, ClaimPage, Entry, Holding, Key, Page, Record
from ciliumipam.store import ABSENT, Expect

RECORD, CLAIM, CLOSE, DROP, FILL, UNCLAIM, DELETE = range(7)


class Later(Exception):  # noqa: N818 - not an error: the request goes on in the next round
    """A record is needed at a second place of the order."""


class Step(NamedTuple):
    """One compare-and-set of a plan.

    Attributes:
        key: What is written.
        record: The record to put, None to delete.
        expect: The revision that it replaces.
        slots: Slots of a page that may have changed; None for perhaps all.
    """

    key: Key
    record: Record | None
    expect: Expect
    slots: tuple[int, ...] | None


class Reader(Protocol):
    """Where a draft reads: the entries as last seen."""

    @property
    def entries(self) -> Mapping[Key, Entry]:
        """Every record by key; what is not here is absent."""
        ...


class Draft:
    """Changed records over the entries of a view. Used for one round, then thrown away."""

    __slots__ = ("_entries", "_located", "_records", "undo")

    def __init__(self, view: Reader) -> None:
        self._entries = view.entries
        self._records: dict[Key, tuple[Record | None, int, int, tuple[int, ...] | None]] = {}
        self._located: tuple[Ledger, int, int, int, Spot | None] | None = None
        self.undo: list[Callable[[], object]] = []
        """Takes back what this draft marked as taken in the free indexes of the view."""

    def page(self, key: Key) -> Page | None:
        """A page as this draft would leave it."""
        put = self._records.get(key)
        if put is not None:
            return put[0]  # type: ignore[return-value]  # the kind of the key says so
        entry = self._entries.get(key)
        return entry.record if entry is not None else None  # type: ignore[return-value]  # the same

    def locate(self, ledger: Ledger, fence: int, network: int, length: int) -> Spot | None:
        """Where a piece lies (`ledger.locate`); the last answer is kept, since what was chosen is filled next."""
        known = self._located
        if known is not None and known[1] == network and known[2] == length and known[3] == fence and known[0] is ledger:
            return known[4]
        spot = locate(self, ledger, fence, network, length)
        self._located = ledger, network, length, fence, spot
        return spot

    def claims(self, key: Key) -> ClaimPage:
        """A claim page as this draft would leave it; empty where there is none."""
        put = self._records.get(key)
        if put is not None:
            return put[0] or NO_CLAIMS  # type: ignore[return-value]  # the kind of the key says so
        entry = self._entries.get(key)
        return entry.record if entry is not None else NO_CLAIMS  # type: ignore[return-value]  # the same

    def put(self, key: Key, record: Record | None, phase: int) -> None:
        """Put a record other than a page at a place of the order."""
        self._put(key, record, phase, 0, None)

    def put_page(self, key: Key, page: Page, level: int, slots: tuple[int, ...] | None, *, closing: bool = False) -> None:
        """Put a page. Addresses are closed before blocks and filled after them."""
        self._located = None
        depth = level + 256 if key.kind == "address-page" else level
        if closing:
            self._put(key, page, CLOSE, -depth, slots)
        else:
            self._put(key, page, FILL, depth, slots)

    def _put(self, key: Key, record: Record | None, phase: int, depth: int, slots: tuple[int, ...] | None) -> None:
        before = self._records.get(key)
        if before is not None:
            if before[1] != phase:
                raise Later
            slots = None if slots is None or before[3] is None else before[3] + slots
        self._records[key] = (record, phase, depth, slots)

    def __bool__(self) -> bool:
        return bool(self._records)

    def claims_in(self, key: Key) -> bool:
        """Whether this draft already writes a claim page before the pages."""
        put = self._records.get(key)
        return put is not None and put[1] == CLAIM

    def steps(self) -> list[Step]:
        """All writes in order. O(n log n)."""
        entries = self._entries
        puts = [(phase, depth, key, record, slots) for key, (record, phase, depth, slots) in self._records.items()]
        puts.sort()  # never looks further than the key
        steps = []
        for _, _, key, record, slots in puts:
            entry = entries.get(key)
            steps.append(Step(key, record, entry.revision if entry is not None else ABSENT, slots))
        return steps

    def take_back(self) -> None:
        """Undo the marks in the free indexes; after writes that were not all done, before the view is brought up to date."""
        while self.undo:
            self.undo.pop()()


__all__ = ["CLAIM", "DELETE", "DROP", "RECORD", "UNCLAIM", "Draft", "Holding", "Later", "Step"]
