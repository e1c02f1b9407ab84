"""What callers who race rely on: promises 3, 6, 7, 10 and 11."""

# ruff: noqa: D102
# The name of a test is its sentence.

from __future__ import annotations

from functools import partial
from itertools import pairwise
from threading import Event

import pytest

from ciliumipam.errors import ConflictError, IpamError, StoreClosedError
from ciliumipam.records import Entry, Key, Kind, Revision
from ciliumipam.store import ABSENT, Store, SupportsOrderedPuts, Write
from ciliumipam.testing.conformance.promises import UNKNOWN, A, B, Promises, in_order
from ciliumipam.testing.racing import increment, race, together
from ciliumipam.testing.record_strategies import number_of, numbered


class ManyCallers(Promises):
    """Tests in which several threads call at once, and what a listing shows meanwhile."""

    # ------------------------------------------------------------------------------------------------- 3: one wins

    def test_3_of_two_writers_that_expect_the_same_revision_exactly_one_wins(self, store: Store, peer: Store) -> None:
        revision = store.put(A, numbered(0), expect=ABSENT)
        for turn in range(1, self.rounds):
            results = race(
                partial(store.put, A, numbered(2 * turn), expect=revision),
                partial(peer.put, A, numbered(2 * turn + 1), expect=revision),
            )

            won = [number for number, result in enumerate(results) if result is not None]
            assert len(won) == 1, (
                f"round {turn}: {len(won)} of 2 writers of {A} at revision {revision} were told that they had won"
            )
            revision = results[won[0]] or UNKNOWN
            assert store.get(A) == Entry(numbered(2 * turn + won[0]), revision)

    def test_3_of_many_writers_that_create_exactly_one_wins(self, store: Store, peer: Store) -> None:
        for turn in range(self.rounds // 4):
            key = Key("block-page", str(turn))
            results = race(*[partial((store, peer)[n % 2].put, key, numbered(n), expect=ABSENT) for n in range(8)])

            won = [number for number, result in enumerate(results) if result is not None]
            assert len(won) == 1, f"{len(won)} of 8 writers that created {key} were told that they had won"
            assert number_of(store.get(key)) == won[0]

    def test_3_of_a_put_and_a_delete_that_expect_the_same_revision_exactly_one_wins(
        self, store: Store, peer: Store
    ) -> None:
        def delete(key: Key, expect: Revision) -> Revision:
            peer.delete(key, expect=expect)
            return Revision("deleted")

        for turn in range(self.rounds):
            key = Key("block-page", str(turn))
            revision = store.put(key, numbered(1), expect=ABSENT)
            put, deleted = race(partial(store.put, key, numbered(2), expect=revision), partial(delete, key, revision))

            assert (put is None) != (deleted is None), f"put {key}: {put}, delete: {deleted}"
            assert store.get(key) == (Entry(numbered(2), put) if put else None)

    # ----------------------------------------------------------------------------------------------- 6: visibility

    def test_6_what_put_returned_for_everybody_sees(self, store: Store, peer: Store) -> None:
        revision = store.put(A, numbered(0), expect=ABSENT)
        for number in range(1, self.rounds):
            writer, reader = ((store, peer), (peer, store))[number % 2]
            revision = writer.put(A, numbered(number), expect=revision)

            assert reader.get(A) == Entry(numbered(number), revision)
            assert dict(reader.scan(A.kind).entries)[A] == Entry(numbered(number), revision)

    def test_6_what_delete_returned_for_nobody_sees(self, store: Store, peer: Store) -> None:
        for writer, reader in ((store, peer), (peer, store)) * 2:
            revision = writer.put(A, numbered(1), expect=ABSENT)
            assert reader.get(A) is not None
            writer.delete(A, expect=revision)

            assert reader.get(A) is None
            assert reader.scan(A.kind).entries == ()

    def test_6_readers_never_go_back(self, store: Store, peer: Store) -> None:
        store.put(A, numbered(0), expect=ABSENT)
        finished = Event()

        def read() -> list[int]:
            numbers = []
            while not finished.is_set():
                numbers.append(number_of(peer.get(A)))
                numbers.append(number_of(dict(peer.scan(A.kind).entries)[A]))
            return numbers

        def write() -> list[int]:
            try:
                return [number for number, _ in increment(store, A, self.rounds)]
            finally:
                finished.set()

        for numbers in together(read, read, write):
            assert [pair for pair in pairwise(numbers) if pair[0] > pair[1]] == []

    def test_6_what_was_seen_is_never_taken_back(self, store: Store, peer: Store) -> None:
        ordered = in_order(store)
        store.put(A, numbered(0), expect=ABSENT)
        finished = Event()

        def write() -> list[int]:
            try:
                for number in range(1, 10 * self.rounds):
                    entry = store.get(A)
                    assert entry is not None
                    with pytest.raises(ConflictError):
                        ordered.put_in_order(
                            [Write(A, numbered(number), entry.revision), Write(B, numbered(1), UNKNOWN)]
                        )
            finally:
                finished.set()
            return []

        def read() -> list[int]:
            numbers = [0]
            while not finished.is_set():
                numbers.append(number_of(peer.get(A)))
            return [*numbers, number_of(peer.get(A))]

        for numbers in together(write, read, read):
            assert numbers == sorted(numbers)

    # --------------------------------------------------------------------------------------------------- 7: moments

    def test_7_a_listing_holds_what_get_returns_sorted_by_key(self, store: Store, peer: Store) -> None:
        names = ["b", "a", "é", "Z", "a/1", "a-1", "\U0001f4a5", "\uffee"]
        for number, name in enumerate(names):
            store.put(Key("block-page", name), numbered(number), expect=ABSENT)
        store.put(Key("address-page", "c"), numbered(99), expect=ABSENT)

        listing = peer.scan("block-page")

        assert [key for key, _ in listing.entries] == [Key("block-page", name) for name in sorted(names)]
        assert all(type(key) is Key and entry == store.get(key) for key, entry in listing.entries)

    def test_7_a_listing_of_thousands_is_complete(self, store: Store, peer: Store) -> None:
        keys = [Key("block-page", f"{number:06}") for number in range(self.many)]
        if isinstance(store, SupportsOrderedPuts):
            revisions = store.put_in_order([Write(key, numbered(number), ABSENT) for number, key in enumerate(keys)])
        else:
            revisions = [store.put(key, numbered(number), expect=ABSENT) for number, key in enumerate(keys)]
        for key, revision in list(zip(keys, revisions, strict=True))[:: self.many // 10]:
            store.delete(key, expect=revision)
        left = [number for number in range(self.many) if number % (self.many // 10)]

        entries = peer.scan("block-page").entries

        assert [key for key, _ in entries] == [keys[number] for number in left]
        assert [entry for _, entry in entries] == [Entry(numbered(number), revisions[number]) for number in left]

    def test_7_a_listing_never_shows_a_later_write_without_an_earlier_one(self, store: Store, peer: Store) -> None:
        kinds: tuple[Kind, ...] = ("block-page", "address-page")
        for kind in kinds:
            low, high = Key(kind, "low"), Key(kind, "high")
            first, second = (
                (low, high) if kind == "block-page" else (high, low)
            )  # against the listing's order, and in it
            finished = Event()
            for key in (low, high):
                store.put(key, numbered(0), expect=ABSENT)

            def write(first: Key = first, second: Key = second, finished: Event = finished) -> list[tuple[int, int]]:
                try:
                    for _ in range(self.rounds):
                        increment(store, first, 1)
                        increment(store, second, 1)
                finally:
                    finished.set()
                return []

            def read(first: Key = first, second: Key = second, finished: Event = finished) -> list[tuple[int, int]]:
                seen = []
                while not finished.is_set():
                    entries = dict(peer.scan(first.kind).entries)
                    seen.append((number_of(entries[first]), number_of(entries[second])))
                return seen

            for seen in together(write, read, read):
                wrong = [pair for pair in seen if pair[0] - pair[1] not in (0, 1)]
                assert wrong == [], (
                    f"{first} is always put before {second}, but a listing showed these numbers of the two"
                )

    def test_7_a_listing_during_creates_and_deletes_is_one_moment(self, store: Store, peer: Store) -> None:
        """One record moves from key to key, created before it is deleted: at every moment there are one or two, side by side."""
        revision = store.put(Key("block-page", "000"), numbered(0), expect=ABSENT)
        finished = Event()

        def write() -> list[list[int]]:
            now = revision
            try:
                for number in range(1, self.rounds):
                    later = store.put(Key("block-page", f"{number:03}"), numbered(number), expect=ABSENT)
                    store.delete(Key("block-page", f"{number - 1:03}"), expect=now)
                    now = later
            finally:
                finished.set()
            return []

        def read() -> list[list[int]]:
            seen = []
            while not finished.is_set():
                seen.append([number_of(entry) for _, entry in peer.scan("block-page").entries])
            return seen

        for seen in together(write, read, read):
            assert [
                numbers
                for numbers in seen
                if numbers[:1] == [] or numbers not in (numbers[:1], [numbers[0], numbers[0] + 1])
            ] == []

    # --------------------------------------------------------------------------------------------------- 10: closed

    def test_10_a_store_that_is_closed_meanwhile_says_so_and_nothing_else(self, store: Store) -> None:
        store.put(A, numbered(0), expect=ABSENT)
        under_way, closed = Event(), Event()

        def work() -> type[IpamError] | None:
            late = 0
            try:
                while late < 2:  # the call that `close` waits for, and the one after it
                    late += closed.is_set()
                    increment(store, A, 1)
                    store.scan(A.kind)
                    under_way.set()
            except IpamError as error:
                return type(error)
            finally:
                under_way.set()
            return None

        def close() -> type[IpamError]:
            under_way.wait()
            store.close()
            closed.set()
            return StoreClosedError

        assert set(together(work, work, work, close)) == {StoreClosedError}

    # --------------------------------------------------------------------------------------------------- 11: threads

    def test_11_no_update_of_several_threads_is_lost(self, store: Store, peer: Store) -> None:
        threads, times = 8, max(self.rounds // 2, 2)
        store.put(A, numbered(0), expect=ABSENT)

        done = together(*[partial(increment, (store, peer)[n % 2], A, times) for n in range(threads)])

        numbers = sorted(number for part in done for number, _ in part)
        revisions = {revision for part in done for _, revision in part}
        assert numbers == list(range(1, threads * times + 1)), f"{threads} threads added 1 to {A} {times} times each"
        assert len(revisions) == threads * times
        assert number_of(store.get(A)) == threads * times
