"""The `Store` protocol: five verbs over typed, versioned records, and two more abilities. Types only; backends are modules beside this.

The contract, one sentence a promise (`ciliumipam.testing.conformance` reads them here, and tests each):

1. `get` of a key that was never put, or was deleted, returns None, and names are told apart to the last character.
2. `put` writes only if the record's revision is the expected one, or the key is absent where `ABSENT` is expected; otherwise it
   raises `ConflictError` and changes nothing.
3. Of two writers that expect the same revision, exactly one wins.
4. What was put is what is read, equal in value and in type; what was returned can never change afterwards.
5. A revision is never used twice for one key, not even after a delete.
6. When `put` or `delete` has returned, every later `get` and `scan`, by whomever, sees what it did or something later.
7. `scan` is one consistent moment, complete and sorted by key: it never shows a later write of one caller without that caller's
   earlier ones.
8. `delete` asks for the present revision, as `put` does; deleting what is absent is a conflict.
9. Errors are `StoreError`s and nothing else. `StoreUnavailableError` with `unknown` is the only one after which a write may
   have taken effect.
10. After `close`, every call raises `StoreClosedError`; closing twice is allowed.
11. All calls may come from several threads at once.

Of a store that can put in order (`SupportsOrderedPuts`):

12. `put_in_order` does its writes in the order given, and nobody sees a later one without the earlier ones; with `ConflictError`
    none of them has taken effect, after any other error some first part of them may have.

Of a store that can be watched (`SupportsWatch`):

13. A watch returns every change of a kind after the listing that it goes on from, deletes too, each once, in the order in which they
    took effect.
14. The revision of a watch is one to go on from, as that of a listing is: after it come exactly the changes not yet returned.
15. A revision that the store cannot go on from raises `RevisionExpiredError`; no change is left out in silence.
16. A watch ends when it is closed, by whichever thread and however often; after the store was closed it raises `StoreClosedError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

from ciliumipam.records import Entry, Key, Kind, Record, Revision


class Absent(Enum):
    """Type of `ABSENT`."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
"""To be expected by a `put` that creates."""

Expect = Revision | Literal[Absent.ABSENT]


class Write(NamedTuple):
    """One compare-and-set: put `record` under `key`, provided that its revision is `expect`."""

    key: Key
    record: Record
    expect: Expect


class Listing(NamedTuple):
    """All records of one kind at one moment, sorted by key."""

    entries: tuple[tuple[Key, Entry], ...]
    revision: Revision


class Store(Protocol):
    """Where records are kept. See the module for what each verb promises."""

    def get(self, key: Key) -> Entry | None:
        """The record of a key, or None."""
        ...

    def scan(self, kind: Kind) -> Listing:
        """Every record of a kind, as of one moment."""
        ...

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record; returns its new revision.

        Raises:
            ConflictError: The present revision is not the expected one. Nothing was written.
        """
        ...

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record.

        Raises:
            ConflictError: It is absent or has another revision. Nothing was changed.
        """
        ...

    def close(self) -> None:
        """Release everything that the store holds open."""
        ...


@runtime_checkable
class SupportsOrderedPuts(Protocol):
    """A store that can do several puts in one go (one commit, one lock), in the order given."""

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes in order and return their revisions.

        Raises:
            ConflictError: One of them met another revision. Nothing was written.
        """
        ...


@runtime_checkable
class SupportsPutTogether(Protocol):
    """A store at which several writes at once are quicker than one after another."""

    def put_together(self, writes: Sequence[Write]) -> list[Revision]:
        """Do writes of different keys at once, in any order, and return their revisions.

        Raises:
            StoreError: What went wrong with the first that did, by their order here. Any of the others may have been done.
        """
        ...


@runtime_checkable
class SupportsRoom(Protocol):
    """A store that can tell which slots of a page may be free for much less than reading who holds the others."""

    def room(self, key: Key) -> tuple[int, ...] | None:
        """The slots of a page that nobody holds, by index; None where that is not to be seen without reading the page."""
        ...


class Change(NamedTuple):
    """What became of a record: its new entry, or None where it was deleted."""

    key: Key
    entry: Entry | None


class Watch(Iterator[Change], Protocol):
    """The changes of one kind as they come; `next` waits for one. One thread iterates, and any thread may close it.

    Iteration ends when it is closed. It raises `RevisionExpiredError` when the store no longer has what comes next (list again, and
    watch from there), and `StoreUnavailableError` when it was cut off (watch again, from `revision`).
    """

    @property
    def revision(self) -> Revision:
        """Where another watch can go on. It may also move without a change, so that it does not expire where nothing changes."""
        ...

    def close(self) -> None:
        """End it, also while another thread waits in it."""
        ...


@runtime_checkable
class SupportsWatch(Protocol):
    """A store that tells of changes, by whomever they are made."""

    def watch(self, kind: Kind, revision: Revision) -> Watch:
        """Every change of a kind after a revision: that of a listing of this kind, or of a watch of it.

        Raises:
            RevisionExpiredError: The store cannot go on from there, now or (from `next`) later. List again.
        """
        ...


__all__ = [
    "ABSENT",
    "Absent",
    "Change",
    "Expect",
    "Listing",
    "Store",
    "SupportsOrderedPuts",
    "SupportsPutTogether",
    "SupportsRoom",
    "SupportsWatch",
    "Watch",
    "Write",
]
