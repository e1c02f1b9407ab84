"""Stores that are wrong on purpose, each with one fault that real backends have had, to see that the conformance suite finds it.

Each is a `MemoryStore` but for what its docstring says. `breaks` is the number of the promise (`ciliumipam.store`) that
the fault is about; others may fall with it.
"""

# ruff: noqa: ARG002 - what is wrong with a store is often what it ignores

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from threading import get_ident
from time import sleep
from typing import Any, ClassVar, cast
from zlib import crc32

from ciliumipam.errors import StoreClosedError, StoreRefusedError, StoreUnavailableError
from ciliumipam.records import ClaimPage, Entry, Holding, Key, Kind, Page, Record, Revision
from ciliumipam.store import ABSENT, Expect, Listing, Store, Write
from ciliumipam.store.memory import MemoryStore
from ciliumipam.testing.faults import Fault, FaultyStore


class WrongStore(MemoryStore):
    """Nothing is wrong yet."""

    breaks: ClassVar[int]

    def __init__(self) -> None:
        """Start empty, with a short memory for watches."""
        super().__init__(history=200)

    def peer(self) -> Store:
        """The same records, reached another way."""
        return self

    def losing(self) -> Store:
        """The same records, with the reply of the next write lost."""
        return FaultyStore(self, [Fault.LOST])

    def present(self, key: Key) -> Expect:
        """What a writer would expect who had just read."""
        entry = self.get(key)
        return entry.revision if entry else ABSENT


# --------------------------------------------------------------------------------------------------------- absence


class LosesDeletes(WrongStore):
    """A delete is acknowledged and forgotten."""

    breaks = 1

    def delete(self, key: Key, *, expect: Revision) -> None:
        if self.present(key) != expect:
            super().delete(key, expect=expect)


class MixesKinds(WrongStore):
    """Records are kept by their names alone."""

    breaks = 1

    def get(self, key: Key) -> Entry | None:
        found = super().get(key)
        return found or next((entry for other, entry in sorted(self._entries.items()) if other.name == key.name), None)


class _Folds(WrongStore):
    """Some names are taken for one another."""

    def fold(self, name: str) -> str:
        return name

    def get(self, key: Key) -> Entry | None:
        return super().get(Key(key.kind, self.fold(key.name)))

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        return super().put(Key(key.kind, self.fold(key.name)), record, expect=expect)


class FoldsCase(_Folds):
    """Names differ only if they differ without regard to upper and lower case."""

    breaks = 1

    def fold(self, name: str) -> str:
        return name.lower()


class FoldsUnicode(_Folds):
    """Names are normalised: an accent is the same whether it is part of its letter or follows it."""

    breaks = 1

    def fold(self, name: str) -> str:
        return unicodedata.normalize("NFC", name)


class TrimsNames(_Folds):
    """White space at the end of a name is lost."""

    breaks = 1

    def fold(self, name: str) -> str:
        return name.rstrip()


class CutsNames(_Folds):
    """Names end after 253 characters."""

    breaks = 1

    def fold(self, name: str) -> str:
        return name[:253]


# ------------------------------------------------------------------------------------------------- compare and set


class NeverCompares(WrongStore):
    """The last writer wins."""

    breaks = 2

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        return super().put(key, record, expect=self.present(key))


class WritesBeforeItCompares(WrongStore):
    """A conflict is told, but the record has been replaced."""

    breaks = 2

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        present = self.present(key)
        super().put(key, record, expect=present)
        return super().put(key, record, expect=self.present(key) if expect == present else expect)


class ComparesValues(WrongStore):
    """An old revision is as good as the present one if the record was the same then."""

    breaks = 5

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[Expect, Record] = {}

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        entry = self.get(key)
        same = entry is not None and self._records.get(expect) == entry.record
        revision = super().put(key, record, expect=entry.revision if entry and same else expect)
        self._records[revision] = record
        return revision


class DeletesBlindly(WrongStore):
    """A delete takes whatever is there."""

    breaks = 8

    def delete(self, key: Key, *, expect: Revision) -> None:
        present = self.present(key)
        super().delete(key, expect=expect if present is ABSENT else present)


class LosesUpdates(WrongStore):
    """Comparing and setting are two steps, and another thread may come between them."""

    breaks = 3

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        present = self.present(key)
        sleep(0)
        return super().put(key, record, expect=self.present(key) if expect == present else expect)


class ServesOneThread(WrongStore):
    """It can be used by the thread that made it only, like many a connection."""

    breaks = 11

    def __init__(self) -> None:
        super().__init__()
        self._thread = get_ident()

    def get(self, key: Key) -> Entry | None:
        if get_ident() != self._thread:
            raise StoreRefusedError("get", "it was opened in another thread")
        return super().get(key)


# ----------------------------------------------------------------------------------------------------- what is read


class ForgetsTypes(WrongStore):
    """Holdings come back as plain tuples, which are equal to them."""

    breaks = 4

    def get(self, key: Key) -> Entry | None:
        entry = super().get(key)
        if entry is None or not isinstance(entry.record, Page):
            return entry
        slots: Any = tuple(tuple(slot) if isinstance(slot, Holding) else slot for slot in entry.record.slots)
        return entry._replace(record=entry.record._replace(slots=slots))


class ReturnsLists(WrongStore):
    """Tuples come back as lists, as they do from JSON."""

    breaks = 4

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        if isinstance(record, Page):
            record = record._replace(slots=cast("tuple[Any, ...]", list(record.slots)))
        return super().put(key, record, expect=expect)


class CutsRecords(WrongStore):
    """Texts in records end after 191 bytes, as in a column that was made too short."""

    breaks = 4

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        if isinstance(record, Page):
            slots = (
                slot._replace(label=slot.label[:191]) if isinstance(slot, Holding) else slot for slot in record.slots
            )
            record = record._replace(slots=tuple(slots))
        return super().put(key, record, expect=expect)


class ChangesWhatItReturned(WrongStore):
    """A claim page is updated in place, also in the hands of those who read it before."""

    breaks = 4

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        if isinstance(record, ClaimPage):
            entry = self.get(key)
            mine = entry.record.claims if entry and isinstance(entry.record, ClaimPage) else {}
            if isinstance(mine, dict):
                mine.clear()
                mine.update(record.claims)
                record = record._replace(claims=mine)
        return super().put(key, record, expect=expect)


# -------------------------------------------------------------------------------------------------------- revisions


class _Numbers(WrongStore):
    """Revisions that are made in another way than one counter."""

    def number(self, present: Entry | None, record: Record) -> int:
        raise NotImplementedError

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        with self._lock:
            present = self._entries.get(key)
            if not self._closed and (present.revision if present else ABSENT) == expect:
                entry = self._entries[key] = Entry(record, Revision(str(self.number(present, record))))
                self._note(key, entry)
                return entry.revision
        return super().put(key, record, expect=expect)


class CountsEachRecord(_Numbers):
    """A revision counts the writes of a record, and starts anew after a delete."""

    breaks = 5

    def number(self, present: Entry | None, record: Record) -> int:
        return int(present.revision) + 1 if present else 1


class HashesRecords(_Numbers):
    """A revision is a checksum of the record."""

    breaks = 5

    def number(self, present: Entry | None, record: Record) -> int:
        return crc32(repr(record).encode(errors="replace"))


class CountsListsOnce(WrongStore):
    """All writes of one `put_in_order` are counted as one, so the writes after them get the same revisions again."""

    breaks = 5

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        before = self._last
        revisions = super().put_in_order(writes)
        self._last = min(self._last, before + 1)
        return revisions


# ------------------------------------------------------------------------------------------------ visibility, moments


class ShowsOthersLate(WrongStore):
    """Another connection sees what was there before the last write."""

    breaks = 6

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[Key, Entry] = {}

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        self.shown = dict(self._entries)
        return super().put(key, record, expect=expect)

    def peer(self) -> Store:
        return _Behind(self)


class _Behind(FaultyStore):
    """The other connection."""

    def __init__(self, store: ShowsOthersLate) -> None:
        super().__init__(store)
        self._store = store

    def get(self, key: Key) -> Entry | None:
        return self._store.shown.get(key)

    def scan(self, kind: Kind) -> Listing:
        found = sorted(item for item in self._store.shown.items() if item[0].kind == kind)
        return Listing(tuple(found), self._store.scan(kind).revision)


class ListsFromCache(WrongStore):
    """A listing is made anew only when records were created or deleted."""

    breaks = 6

    def __init__(self) -> None:
        super().__init__()
        self._listed: dict[tuple[Key, ...], Listing] = {}

    def scan(self, kind: Kind) -> Listing:
        listing = super().scan(kind)
        return self._listed.setdefault(tuple(key for key, _ in listing.entries), listing)


class ListsRecordByRecord(WrongStore):
    """A listing reads one record after the other, and others write meanwhile."""

    breaks = 7

    def scan(self, kind: Kind) -> Listing:
        listing = super().scan(kind)
        found = []
        for key, _ in listing.entries:
            sleep(0)
            entry = self.get(key)
            if entry is not None:
                found.append((key, entry))
        return listing._replace(entries=tuple(found))


class ListsUnsorted(WrongStore):
    """A listing is in no order that anybody could rely on."""

    breaks = 7

    def scan(self, kind: Kind) -> Listing:
        listing = super().scan(kind)
        return listing._replace(
            entries=tuple(sorted(listing.entries, key=lambda item: crc32(item[0].name.encode(errors="replace"))))
        )


class ListsOnePage(WrongStore):
    """A listing ends after 500 records, since nobody asked the server for the next page."""

    breaks = 7

    def scan(self, kind: Kind) -> Listing:
        listing = super().scan(kind)
        return listing._replace(entries=listing.entries[:500])


# ------------------------------------------------------------------------------------------------------ errors, end


class LeaksKeyErrors(WrongStore):
    """To delete what is absent is a `KeyError`."""

    breaks = 9

    def delete(self, key: Key, *, expect: Revision) -> None:
        if super().get(key) is None:
            raise KeyError(key)
        super().delete(key, expect=expect)


class LeaksEncodingErrors(WrongStore):
    """A name that is not valid Unicode is a `UnicodeEncodeError`."""

    breaks = 9

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        key.name.encode()
        return super().put(key, record, expect=expect)


class DeniesWhatItDid(WrongStore):
    """A reply that is lost is told as a write that was not done."""

    breaks = 9

    def losing(self) -> Store:
        return _Denying(self, [Fault.LOST])


class _Denying(FaultyStore):
    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        try:
            return super().put(key, record, expect=expect)
        except StoreUnavailableError as error:
            raise StoreUnavailableError(error.operation, error.reason) from error


class WorksWhenClosed(WrongStore):
    """Nothing is ever closed."""

    breaks = 10

    def close(self) -> None:
        pass


class ClosesOnce(WrongStore):
    """To close it again is an error."""

    breaks = 10

    def close(self) -> None:
        if self._closed:
            raise StoreClosedError("close")
        super().close()


# ----------------------------------------------------------------------------------------------------- put in order


class StopsHalfWay(WrongStore):
    """After a conflict, the writes before it have been done."""

    breaks = 12

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        super().put_in_order(())
        return [self.put(key, record, expect=expect) for key, record, expect in writes]


class PutsInOwnOrder(WrongStore):
    """The writes are done, but the last one first."""

    breaks = 12

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        if any(self.present(write.key) != write.expect for write in writes):
            return super().put_in_order(writes)
        revisions = []
        for key, record, expect in reversed(writes):
            revisions.append(self.put(key, record, expect=expect))
            sleep(0)
        return revisions[::-1]


WRONG_STORES: tuple[type[WrongStore], ...] = (
    LosesDeletes, MixesKinds, FoldsCase, FoldsUnicode, TrimsNames, CutsNames, NeverCompares,
    WritesBeforeItCompares, ComparesValues, DeletesBlindly, LosesUpdates, ServesOneThread, ForgetsTypes,
    ReturnsLists, CutsRecords, ChangesWhatItReturned, CountsEachRecord, HashesRecords, CountsListsOnce,
    ShowsOthersLate, ListsFromCache, ListsRecordByRecord, ListsUnsorted, ListsOnePage, LeaksKeyErrors,
    LeaksEncodingErrors, DeniesWhatItDid, WorksWhenClosed, ClosesOnce, StopsHalfWay, PutsInOwnOrder,
)  # fmt: skip
"""All of them; `ciliumipam.testing.wrong_watches` has those whose watches are wrong."""

__all__ = ["WRONG_STORES", "WrongStore"]
