"""What callers of `watch` rely on: promises 13 to 16. Skipped where the store cannot be watched."""

# ruff: noqa: D102
# The name of a test is its sentence.

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from ciliumipam.errors import ConflictError, RevisionExpiredError, StoreClosedError
from ciliumipam.records import ClaimPage, Entry, Key, Revision
from ciliumipam.store import ABSENT, Change, Store, Watch, Write
from ciliumipam.testing.conformance.promises import UNKNOWN, A, B, Promises, in_order, watched
from ciliumipam.testing.conformance.reader import Reader
from ciliumipam.testing.racing import increment, together
from ciliumipam.testing.record_strategies import numbered

LAST = Key("address-page", "last")
OTHER = Key("address-claims", "of another kind")


def history(store: Store) -> list[Change]:
    """Put, replace and delete records, refused writes among them; returns the changes of the kind of `A`."""
    changes = []

    def put(key: Key, number: int, now: Revision | None = None) -> Revision:
        revision = store.put(key, numbered(number), expect=now or ABSENT)
        changes.append(Change(key, Entry(numbered(number), revision)))
        return revision

    first = put(A, 1)
    second = put(A, 2, first)
    other = store.put(OTHER, ClaimPage({}), expect=ABSENT)
    b = put(B, 3)
    for wrong in (first, UNKNOWN):
        with pytest.raises(ConflictError):
            store.put(A, numbered(9), expect=wrong)
    store.delete(A, expect=second)
    changes.append(Change(A, None))
    store.delete(OTHER, expect=other)
    put(A, 4)
    store.delete(B, expect=b)
    changes.append(Change(B, None))
    put(LAST, 5)
    return changes


class Watching(Promises):
    """A watch is read in a thread; `patience` bounds how long a test waits for what should come."""

    def watch_from(self, store: Store, revision: Revision) -> closing[Watch]:
        return closing(watched(store).watch(A.kind, revision))

    # ----------------------------------------------------------------------------------------------- 13: every change

    def test_13_every_change_after_a_listing_is_told_once_and_in_order(self, store: Store, peer: Store) -> None:
        watched(store)
        old = store.put(Key(A.kind, "old"), numbered(0), expect=ABSENT)
        store.delete(Key(A.kind, "old"), expect=old)
        listing = peer.scan(A.kind).revision

        changes = history(peer)

        with self.watch_from(store, listing) as watch:
            assert Reader(watch, self.patience).until(LAST) == changes

    def test_13_a_watch_that_waits_is_told_what_happens(self, store: Store, peer: Store) -> None:
        with self.watch_from(store, store.scan(A.kind).revision) as watch:
            reader = Reader(watch, self.patience)
            now = peer.put(A, numbered(0), expect=ABSENT)
            assert reader.next() == Change(A, Entry(numbered(0), now))
            for number in range(1, 5):
                now = peer.put(A, numbered(number), expect=now)
                assert reader.next() == Change(A, Entry(numbered(number), now))
            peer.delete(A, expect=now)
            assert reader.next() == Change(A, None)

    def test_13_several_watches_are_told_everything_each(self, store: Store) -> None:
        watched(store)
        revision = store.scan(A.kind).revision
        with self.watch_from(store, revision) as one, self.watch_from(store, revision) as two:
            readers = [Reader(one, self.patience), Reader(two, self.patience)]
            changes = history(store)

            assert [reader.until(LAST) for reader in readers] == [changes, changes]

    def test_13_a_listing_and_the_changes_after_it_are_a_later_listing(self, store: Store, peer: Store) -> None:
        watched(store)
        keys = [Key(A.kind, name) for name in ("a", "b")]
        for key in keys:
            store.put(key, numbered(0), expect=ABSENT)
        listing = peer.scan(A.kind)

        def delete_and_create() -> list[object]:
            for number in range(self.rounds):
                revision = peer.put(B, numbered(number), expect=ABSENT)
                peer.delete(B, expect=revision)
            return []

        with self.watch_from(store, listing.revision) as watch:
            reader = Reader(watch, self.patience)
            works: list[Callable[[], object]] = [partial(increment, peer, key, self.rounds) for key in keys]
            together(*works, partial(increment, store, keys[0], self.rounds), delete_and_create)
            store.put(LAST, numbered(0), expect=ABSENT)
            told = reader.until(LAST)

        seen = dict(listing.entries)
        for number, (key, entry) in enumerate(told):
            before = seen.pop(key, None)
            assert before != entry, f"change {number} of {len(told)} tells nothing new of {key}: {entry}"
            if entry is not None:
                seen[key] = entry
        assert tuple(sorted(seen.items())) == peer.scan(A.kind).entries
        assert len(told) == 5 * self.rounds + 1
        for key, times in zip(keys, (2 * self.rounds, self.rounds), strict=True):
            numbers = [entry.record for each, entry in told if each == key and entry is not None]
            assert numbers == [numbered(number) for number in range(1, times + 1)]

    def test_13_writes_in_order_are_told_in_order(self, store: Store) -> None:
        ordered, _ = in_order(store), watched(store)
        keys = [Key(A.kind, name) for name in ("c", "a", "b")]
        with self.watch_from(store, store.scan(A.kind).revision) as watch:
            with pytest.raises(ConflictError):
                ordered.put_in_order(
                    [*(Write(key, numbered(9), ABSENT) for key in keys), Write(A, numbered(9), UNKNOWN)]
                )
            revisions = ordered.put_in_order([Write(key, numbered(1), ABSENT) for key in keys])

            assert Reader(watch, self.patience).until(keys[-1]) == [
                Change(key, Entry(numbered(1), revision)) for key, revision in zip(keys, revisions, strict=True)
            ]

    # ------------------------------------------------------------------------------------------------ 14: going on

    def test_14_another_watch_goes_on_where_one_ended(self, store: Store) -> None:
        watched(store)
        revision = store.scan(A.kind).revision
        changes = history(store)
        for count in range(len(changes)):
            with self.watch_from(store, revision) as watch:
                assert [next(watch) for _ in range(count)] == changes[:count]
                reached = watch.revision
            with self.watch_from(store, reached) as watch:
                assert Reader(watch, self.patience).until(LAST) == changes[count:]

    def test_14_what_is_not_returned_yet_comes_after_the_revision_of_a_waiting_watch(self, store: Store) -> None:
        with self.watch_from(store, store.scan(A.kind).revision) as watch:
            reader = Reader(watch, self.patience)
            now = store.put(A, numbered(0), expect=ABSENT)
            reader.next()
            store.put(OTHER, ClaimPage({}), expect=ABSENT)
            reached = watch.revision
            changes = [Change(A, Entry(numbered(1), store.put(A, numbered(1), expect=now)))]
            changes.append(Change(LAST, Entry(numbered(2), store.put(LAST, numbered(2), expect=ABSENT))))

            assert reader.until(LAST) == changes
            with self.watch_from(store, reached) as another:
                assert Reader(another, self.patience).until(LAST) == changes

    # --------------------------------------------------------------------------------------------------- 15: expiry

    def test_15_a_revision_that_was_never_given_out_has_expired(self, store: Store) -> None:
        store.put(A, numbered(1), expect=ABSENT)
        for revision in (UNKNOWN, Revision(""), Revision("-1")):
            with pytest.raises(RevisionExpiredError), self.watch_from(store, revision) as watch:
                raise Reader(watch, self.patience).end()

    def test_15_a_revision_from_before_what_is_forgotten_has_expired(
        self, store: Store, forget: Callable[[], None]
    ) -> None:
        watched(store)
        revision = store.scan(A.kind).revision
        store.put(A, numbered(1), expect=ABSENT)
        forget()

        with pytest.raises(RevisionExpiredError), self.watch_from(store, revision) as watch:
            raise Reader(watch, self.patience).end()

        with self.watch_from(store, store.scan(A.kind).revision) as watch:  # list again, and it goes on
            now = store.put(LAST, numbered(2), expect=ABSENT)
            assert Reader(watch, self.patience).next() == Change(LAST, Entry(numbered(2), now))

    def test_15_a_watch_that_reads_too_late_is_told_so_or_everything(
        self, store: Store, forget: Callable[[], None]
    ) -> None:
        with self.watch_from(store, store.scan(A.kind).revision) as watch:
            changes = history(store)
            forget()
            reader = Reader(watch, self.patience)
            try:
                reader.until(LAST)
            except RevisionExpiredError:
                assert reader.told == changes[: len(reader.told)], (
                    "changes were left out before the watch said that it had expired"
                )
            else:
                assert reader.told == changes

    # ------------------------------------------------------------------------------------------------------ 16: end

    def test_16_a_watch_that_waits_ends_when_another_thread_closes_it(self, store: Store) -> None:
        with self.watch_from(store, store.scan(A.kind).revision) as watch:
            reader = Reader(watch, self.patience)
            store.put(A, numbered(1), expect=ABSENT)
            reader.next()

            watch.close()

            assert isinstance(reader.end(), StopIteration)

    def test_16_a_watch_that_was_closed_returns_nothing_more_and_others_go_on(self, store: Store) -> None:
        watched(store)
        revision = store.scan(A.kind).revision
        with self.watch_from(store, revision) as watch, self.watch_from(store, revision) as other:
            changes = history(store)
            assert next(watch) == changes[0]

            watch.close()
            watch.close()

            assert list(watch) == []
            assert Reader(other, self.patience).until(LAST) == changes

    def test_16_a_watch_says_that_the_store_was_closed(self, store: Store) -> None:
        watched(store)
        revision = store.scan(A.kind).revision
        with self.watch_from(store, revision) as watch, self.watch_from(store, revision) as idle:
            reader = Reader(watch, self.patience)
            store.put(A, numbered(1), expect=ABSENT)
            reader.next()

            store.close()

            assert isinstance(reader.end(), StoreClosedError)
            assert isinstance(Reader(idle, self.patience).end(), StoreClosedError)
