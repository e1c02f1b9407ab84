"""From one store into another: every record, in an order in which every first part is legal, read back and audited.

The order follows the discipline of the ledger, and who might read a half-filled target:

1. What is claimed, after the leases of nodes, which no other machine can rely on until it has confirmed them. A claim of what the pages do not show yet is a call that was cut short.
2. Every page with its fences and nothing in it, from the roots down. No page is ever ahead of the slot above it.
3. Every page whole, from the roots down. What a page links to is there by then, under the right fence.
4. Nodes, then pools. Without a pool every block is an orphan and takes nothing new: nothing is handed out of a part of a copy.

A revision is a store's own, so plans that were made on the source do not fit the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, TypeAlias

from ciliumipam.audit import Audit, audit
from ciliumipam.errors import StateError
from ciliumipam.records import KINDS, Entry, Holding, Key, Kind, Page, Record, Split
from ciliumipam.store import ABSENT, Store, SupportsOrderedPuts, Write
from ciliumipam.words import counted, some

Progress: TypeAlias = Callable[[int, int], None]
"""Told the records that are done, and all of them."""

_TOGETHER = 256
"""Writes that are committed in one go at the most."""


class TargetInUseError(StateError):
    """A store that was to be copied into, and holds something else, or that somebody else writes to."""

    def __init__(self, keys: tuple[str, ...], written: int) -> None:
        super().__init__(keys, written)
        self.keys, self.written = keys, written

    def __str__(self) -> str:
        held = f"{counted(len(self.keys), 'record', 'records')} that the source does not have in that form ({some(self.keys)})"
        if self.written:
            return f"the target has {held} after it was filled, so somebody else writes to it; copy into a new store"
        return f"the target is not empty: it holds {held}; nothing was written: copy into a new store"


class SourceChangedError(StateError):
    """A store that was written to while it was copied."""

    def __init__(self, keys: tuple[str, ...], written: int) -> None:
        super().__init__(keys, written)
        self.keys, self.written = keys, written

    def __str__(self) -> str:
        what = "the target is a copy of what was there before: delete it" if self.written else "nothing was written"
        return f"the source changed while it was copied ({some(self.keys)}); {what}; stop what writes to it and copy again"


class Copied(NamedTuple):
    """What a copy came to.

    Attributes:
        records: How many records of each kind the target has, equal to the source's.
        written: How many of them this call wrote; the others an interrupted copy had written.
        audit: The audit of the target. What is wrong there is wrong in the source too.
    """

    records: dict[Kind, int]
    written: int
    audit: Audit


def copy(source: Store, target: Store, progress: Progress | None = None) -> Copied:
    """Copy all records into an empty store. After an interruption the same call goes on.

    Args:
        source: Read only. Whether it changed meanwhile is found out.
        target: Empty, or holding nothing but what an earlier copy of the same source put there.
        progress: Told now and then how far it is.

    Raises:
        TargetInUseError: The target holds anything else. Nothing was written.
        SourceChangedError: Somebody wrote to the source.
        ConflictError: Somebody writes to the target.
        StoreError: One of the two failed.

    Complexity:
        O(records) reads, four times over, and up to two writes a page.
    """
    wanted = _everything(source)
    _require_unchanged(source, wanted, 0)  # two equal listings: what was read is one moment, over all kinds
    found = _everything(target)
    strange = [key for key, entry in found.items() if key not in wanted or entry.record not in _forms(wanted[key].record)]
    if strange:
        raise TargetInUseError(tuple(map(str, strange)), 0)
    written = _fill(target, wanted, found, progress)
    _require_unchanged(source, wanted, written)
    copied = _everything(target)
    different = [key for key in dict.fromkeys((*wanted, *copied)) if _record(wanted, key) != _record(copied, key)]
    if different:
        raise TargetInUseError(tuple(map(str, different)), len(wanted))
    return Copied({kind: sum(key.kind == kind for key in copied) for kind in KINDS}, written, audit(target))


def _record(entries: Mapping[Key, Entry], key: Key) -> Record | None:
    entry = entries.get(key)
    return entry.record if entry is not None else None


def _everything(store: Store) -> dict[Key, Entry]:
    return {key: entry for kind in KINDS for key, entry in store.scan(kind).entries}


def _require_unchanged(source: Store, known: Mapping[Key, Entry], written: int) -> None:
    now = _everything(source)
    changed = [
        key
        for key in dict.fromkeys((*known, *now))
        if key not in known or key not in now or known[key].revision != now[key].revision
    ]
    if changed:
        raise SourceChangedError(tuple(map(str, changed)), written)


def _fill(target: Store, wanted: Mapping[Key, Entry], found: Mapping[Key, Entry], progress: Progress | None) -> int:
    """Write what the target lacks. Returns the number of records that were touched."""
    known = dict(found)
    touched: set[Key] = set()
    done = sum(entry.record == wanted[key].record for key, entry in found.items())
    for phase in _phases(wanted):
        lacking = (
            Write(key, record, known[key].revision if key in known else ABSENT)
            for key, record in phase
            if key not in known or known[key].record not in (record, wanted[key].record)
        )
        while writes := list(islice(lacking, _TOGETHER)):
            if isinstance(target, SupportsOrderedPuts):
                revisions = target.put_in_order(writes)
            else:
                revisions = [target.put(key, record, expect=expect) for key, record, expect in writes]
            for write, revision in zip(writes, revisions, strict=True):
                known[write.key] = Entry(write.record, revision)
            touched.update(write.key for write in writes)
            done += sum(write.record == wanted[write.key].record for write in writes)
            if progress is not None:
                progress(done, len(wanted))
    return len(touched)


def _phases(wanted: Mapping[Key, Entry]) -> Iterator[list[tuple[Key, Record]]]:
    """What to write, in order; a key at most once in each."""
    of_kind: dict[Kind, list[tuple[Key, Record]]] = {kind: [] for kind in KINDS}
    for key, entry in wanted.items():
        of_kind[key.kind].append((key, entry.record))
    pages = [item for kind in ("block-page", "address-page") for item in sorted(of_kind[kind], key=_depth)]
    yield of_kind["lease"] + of_kind["block-claims"] + of_kind["address-claims"]
    yield [(key, _forms(record)[-1]) for key, record in pages]
    yield pages
    yield of_kind["node"]
    yield of_kind["pool"]


def _depth(item: tuple[Key, Record]) -> int:
    """The prefix length of a page, with which its key ends: the page above it has a shorter one."""
    return int(item[0].name.rpartition("/")[2])


def _forms(record: Record) -> tuple[Record, ...]:
    """The record as it is, and for a page also without anything in it."""
    if not isinstance(record, Page):
        return (record,)
    slots = tuple(slot.fence if isinstance(slot, (Holding, Split)) else slot for slot in record.slots)
    return (record, record._replace(slots=slots))
