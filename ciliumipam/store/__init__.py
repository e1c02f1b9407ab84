"""The `Store` protocol: five verbs over typed, versioned records. Types only; the backends are modules beside this one.

The contract, one sentence a promise:

1. `get` of a key that was never put, or was deleted, returns None.
2. `put` writes only if the record's revision is the expected one, or the key is absent where `ABSENT` is expected; otherwise it
   raises `ConflictError` and changes nothing.
3. Of two writers that expect the same revision, exactly one wins.
4. What was put is what is read, equal in value and in type; what was returned can never change afterwards.
5. A revision is never used twice for one key, not even after a delete.
6. When `put` has returned, every later `get` and `scan`, by whomever, sees that record or a later one.
7. `scan` is one consistent moment: it never shows a later write of one caller without that caller's earlier ones.
8. `delete` asks for the present revision, as `put` does; deleting what is absent is a conflict.
9. Errors are `StoreError`s and nothing else. `StoreUnavailableError` with `unknown` is the only one after which a write may
   have taken effect.
10. After `close`, every call raises `StoreClosedError`; closing twice is allowed.
11. All calls may come from several threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """A store that can do several puts in one go (one commit, one lock), in the order given.

    With `ConflictError` none of them has taken effect; after any other error, some first part of them may have.
    """

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes in order and return their revisions.

        Raises:
            ConflictError: One of them met another revision. Nothing was written.
        """
        ...


__all__ = ["ABSENT", "Absent", "Expect", "Listing", "Store", "SupportsOrderedPuts", "Write"]
