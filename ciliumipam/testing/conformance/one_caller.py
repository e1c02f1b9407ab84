"""What every store must do: each sentence of the contract in `ciliumipam.store`, as tests that a backend inherits.

A backend author writes::

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self) -> Iterator[Store]:
            with closing(MyStore()) as store:
                yield store

and, where the same records can be reached a second way (another connection, another process), overrides `peer` as well: then
"by whomever" is tested across both. The tests wait for nothing and measure no time; threads meet at a barrier and then only race.
"""

# ruff: noqa: D102
# The name of a test is its sentence.

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from threading import Barrier, Event

import pytest

from ciliumipam.errors import ConflictError, IpamError, StoreClosedError, StoreError
from ciliumipam.node import Node
from ciliumipam.records import KINDS, ClaimPage, Entry, Key, Kind, NodeRecord, Record, Revision
from ciliumipam.store import ABSENT, Store, SupportsOrderedPuts, Write
from ciliumipam.testing.racing import increment, together
from ciliumipam.testing.record_strategies import EXAMPLES, deep_types, number_of, numbered

A, B = Key("address-page", "10.0.1.0/24"), Key("address-page", "10.0.2.0/24")
UNKNOWN = Revision("no revision of any store")


class StoreConformance:
    """Inherit, and override `store`. Numbers in the names are those of the contract's sentences."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """An empty store."""
        raise NotImplementedError

    @pytest.fixture
    def peer(self, store: Store) -> Store:
        """The same records, reached another way where there is one."""
        return store

    # ------------------------------------------------------------------------------------------------- 1: absence

    def test_1_a_key_that_was_never_put_is_none(self, store: Store) -> None:
        assert store.get(A) is None
        assert [store.scan(kind).entries for kind in KINDS] == [()] * len(KINDS)

    def test_1_a_key_that_was_deleted_is_none(self, store: Store, peer: Store) -> None:
        revision = store.put(A, numbered(1), expect=ABSENT)
        store.delete(A, expect=revision)

        assert store.get(A) is None
        assert peer.get(A) is None
        assert store.scan(A.kind).entries == ()

    def test_1_a_key_of_another_kind_with_the_same_name_is_another_key(self, store: Store) -> None:
        store.put(Key("address-claims", "x"), ClaimPage({}), expect=ABSENT)

        assert store.get(Key("block-claims", "x")) is None
        assert store.scan("block-claims").entries == ()

    def test_1_names_are_told_apart_to_the_last_character(self, store: Store) -> None:
        names = ("x", "X", "x ", " x", "x\x00", "x\x00y", "é", "e\u0301", "10", "10.0", "1e1", "")
        for number, name in enumerate(names):
            store.put(Key("block-page", name), numbered(number), expect=ABSENT)

        assert [number_of(store.get(Key("block-page", name))) for name in names] == list(range(len(names)))

    # ----------------------------------------------------------------------------------------- 2: compare and set

    def test_2_a_put_over_the_expected_revision_replaces(self, store: Store, peer: Store) -> None:
        first = store.put(A, numbered(1), expect=ABSENT)
        second = store.put(A, numbered(2), expect=first)

        assert store.get(A) == Entry(numbered(2), second)
        assert peer.get(A) == Entry(numbered(2), second)

    def test_2_a_put_over_another_revision_is_a_conflict_and_changes_nothing(self, store: Store, peer: Store) -> None:
        old = store.put(A, numbered(1), expect=ABSENT)
        now = store.put(A, numbered(2), expect=old)
        before = store.scan(A.kind)

        for wrong in (old, UNKNOWN, Revision(""), Revision(f" {now}"), Revision(f"{now}.0"), Revision(f"{now}\x00")):
            with pytest.raises(ConflictError) as caught:
                store.put(A, numbered(3), expect=wrong)
            assert caught.value.args == (str(A), f"revision {wrong}", f"revision {now}")

        assert store.get(A) == peer.get(A) == Entry(numbered(2), now)
        assert store.scan(A.kind) == before

    def test_2_a_put_that_creates_is_a_conflict_where_a_record_is(self, store: Store) -> None:
        now = store.put(A, numbered(1), expect=ABSENT)

        with pytest.raises(ConflictError) as caught:
            store.put(A, numbered(2), expect=ABSENT)

        assert caught.value.args == (str(A), "nothing", f"revision {now}")
        assert store.get(A) == Entry(numbered(1), now)

    def test_2_a_put_that_replaces_is_a_conflict_where_no_record_is(self, store: Store) -> None:
        other = store.put(B, numbered(1), expect=ABSENT)

        with pytest.raises(ConflictError) as caught:
            store.put(A, numbered(2), expect=other)

        assert caught.value.args == (str(A), f"revision {other}", "nothing")
        assert store.get(A) is None

    def test_2_writes_in_order_are_done_in_order(self, store: Store, peer: Store) -> None:
        if not isinstance(store, SupportsOrderedPuts):
            pytest.skip("this store has no put_in_order")
        old = store.put(B, numbered(1), expect=ABSENT)

        revisions = store.put_in_order([Write(A, numbered(2), ABSENT), Write(B, numbered(3), old)])

        assert [peer.get(A), peer.get(B)] == [Entry(numbered(2), revisions[0]), Entry(numbered(3), revisions[1])]
        assert store.put_in_order([]) == []

    def test_2_after_a_conflict_no_later_one_of_writes_in_order_is_done(self, store: Store) -> None:
        if not isinstance(store, SupportsOrderedPuts):
            pytest.skip("this store has no put_in_order")
        b = store.put(B, numbered(1), expect=ABSENT)
        later = Key("block-page", "later")

        with pytest.raises(ConflictError) as caught:
            store.put_in_order(
                [Write(A, numbered(2), ABSENT), Write(B, numbered(3), UNKNOWN), Write(later, numbered(4), ABSENT)]
            )

        assert caught.value.key == str(B)
        assert store.get(B) == Entry(numbered(1), b)
        assert store.get(later) is None
        with pytest.raises(ConflictError):
            store.put_in_order([Write(later, numbered(5), ABSENT), Write(later, numbered(6), ABSENT)])
        now = store.get(later)
        store.put(later, numbered(7), expect=now.revision if now else ABSENT)  # and the store goes on

    # ------------------------------------------------------------------------------------------------- 3: one wins

    def test_3_of_two_writers_that_expect_the_same_revision_exactly_one_wins(self, store: Store, peer: Store) -> None:
        revision = store.put(A, numbered(0), expect=ABSENT)
        for turn in range(1, 30):
            results = self.race(
                partial(store.put, A, numbered(2 * turn), expect=revision),
                partial(peer.put, A, numbered(2 * turn + 1), expect=revision),
            )

            won = [number for number, result in enumerate(results) if result is not None]
            assert len(won) == 1
            revision = results[won[0]] or UNKNOWN
            assert store.get(A) == Entry(numbered(2 * turn + won[0]), revision)

    def test_3_of_many_writers_that_create_exactly_one_wins(self, store: Store, peer: Store) -> None:
        for turn in range(10):
            key = Key("block-page", str(turn))
            results = self.race(*[partial((store, peer)[n % 2].put, key, numbered(n), expect=ABSENT) for n in range(8)])

            won = [number for number, result in enumerate(results) if result is not None]
            assert len(won) == 1
            assert number_of(store.get(key)) == won[0]

    def test_3_of_a_put_and_a_delete_that_expect_the_same_revision_exactly_one_wins(
        self, store: Store, peer: Store
    ) -> None:
        def delete(key: Key, expect: Revision) -> Revision:
            peer.delete(key, expect=expect)
            return Revision("deleted")

        for turn in range(60):
            key = Key("block-page", str(turn))
            revision = store.put(key, numbered(1), expect=ABSENT)
            put, deleted = self.race(
                partial(store.put, key, numbered(2), expect=revision), partial(delete, key, revision)
            )

            assert (put is None) != (deleted is None)
            assert store.get(key) == (Entry(numbered(2), put) if put else None)

    @staticmethod
    def race(*writes: Callable[[], Revision]) -> list[Revision | None]:
        """Do all writes at once; None for each that met a conflict."""

        def attempt(write: Callable[[], Revision]) -> Callable[[], Revision | None]:
            def work() -> Revision | None:
                try:
                    return write()
                except ConflictError:
                    return None

            return work

        return together(*map(attempt, writes))

    # ----------------------------------------------------------------------------------------- 4: what is read

    @pytest.mark.parametrize(
        ("key", "record"), EXAMPLES, ids=[f"{number}-{key.kind}" for number, (key, _) in enumerate(EXAMPLES)]
    )
    def test_4_what_was_put_is_what_is_read(self, store: Store, peer: Store, key: Key, record: Record) -> None:
        revision = store.put(key, record, expect=ABSENT)

        for found in (store.get(key), peer.get(key), dict(peer.scan(key.kind).entries)[key]):
            assert found == Entry(record, revision)
            assert deep_types(found) == deep_types(Entry(record, revision))

    def test_4_a_listing_holds_what_get_returns_sorted_by_key(self, store: Store, peer: Store) -> None:
        names = ["b", "a", "é", "Z", "a/1", "a-1", "\U0001f4a5", "\uffee"]
        for number, name in enumerate(names):
            store.put(Key("block-page", name), numbered(number), expect=ABSENT)
        store.put(Key("address-page", "c"), numbered(99), expect=ABSENT)

        listing = peer.scan("block-page")

        assert [key for key, _ in listing.entries] == [Key("block-page", name) for name in sorted(names)]
        assert all(type(key) is Key and entry == store.get(key) for key, entry in listing.entries)

    def test_4_what_was_returned_never_changes(self, store: Store) -> None:
        first = store.put(A, numbered(1), expect=ABSENT)
        entry, listing = store.get(A), store.scan(A.kind)

        second = store.put(A, numbered(2), expect=first)
        store.put(B, numbered(3), expect=ABSENT)
        store.delete(A, expect=second)

        assert entry == Entry(numbered(1), first)
        assert listing.entries == ((A, Entry(numbered(1), first)),)

    # ------------------------------------------------------------------------------------------------ 5: revisions

    def test_5_a_revision_is_never_used_twice(self, store: Store, peer: Store) -> None:
        seen = []
        for writer in (store, peer) * 4:
            seen.append(writer.put(A, numbered(1), expect=ABSENT))
            seen.append(writer.put(A, numbered(1), expect=seen[-1]))
            peer.put(Key("block-page", str(len(seen))), numbered(1), expect=ABSENT)
            writer.delete(A, expect=seen[-1])

        assert len(set(seen)) == len(seen)

    def test_5_an_equal_record_gets_a_new_revision(self, store: Store) -> None:
        first = store.put(A, numbered(1), expect=ABSENT)
        second = store.put(A, numbered(1), expect=first)

        assert second != first
        with pytest.raises(ConflictError):
            store.put(A, numbered(1), expect=first)

    def test_5_a_revision_of_before_a_delete_is_never_expected_again(self, store: Store) -> None:
        old = store.put(A, numbered(1), expect=ABSENT)
        store.delete(A, expect=old)
        store.put(A, numbered(1), expect=ABSENT)

        with pytest.raises(ConflictError):
            store.put(A, numbered(2), expect=old)
        with pytest.raises(ConflictError):
            store.delete(A, expect=old)

    def test_5_a_listing_of_something_else_has_another_revision(self, store: Store) -> None:
        revisions = [store.scan(A.kind).revision]
        now = store.put(A, numbered(1), expect=ABSENT)
        revisions.append(store.scan(A.kind).revision)
        now = store.put(A, numbered(1), expect=now)
        revisions.append(store.scan(A.kind).revision)
        store.delete(A, expect=now)
        revisions.append(store.scan(A.kind).revision)

        assert len(set(revisions)) == len(revisions)

    def test_5_a_listing_of_the_same_has_the_same_revision(self, store: Store, peer: Store) -> None:
        store.put(A, numbered(1), expect=ABSENT)

        assert store.scan(A.kind) == store.scan(A.kind) == peer.scan(A.kind)

    # ----------------------------------------------------------------------------------------------- 6: visibility

    def test_6_what_put_returned_for_everybody_sees(self, store: Store, peer: Store) -> None:
        revision = store.put(A, numbered(0), expect=ABSENT)
        for number in range(1, 40):
            writer, reader = ((store, peer), (peer, store))[number % 2]
            revision = writer.put(A, numbered(number), expect=revision)

            assert reader.get(A) == Entry(numbered(number), revision)
            assert dict(reader.scan(A.kind).entries)[A] == Entry(numbered(number), revision)

    def test_6_readers_never_go_back(self, store: Store, peer: Store) -> None:
        store.put(A, numbered(0), expect=ABSENT)

        def read() -> list[int]:
            numbers = [0]
            while numbers[-1] < 60:
                numbers.append(number_of(peer.get(A)))
                numbers.append(number_of(dict(peer.scan(A.kind).entries)[A]))
            return numbers

        for numbers in together(read, read, lambda: [number for number, _ in increment(store, A, 60)]):
            assert all(earlier <= later for earlier, later in pairwise(numbers))

    def test_6_what_was_seen_is_never_taken_back(self, store: Store, peer: Store) -> None:
        if not isinstance(store, SupportsOrderedPuts):
            pytest.skip("this store has no put_in_order")
        ordered: SupportsOrderedPuts = store
        store.put(A, numbered(0), expect=ABSENT)
        finished = Event()

        def write() -> list[int]:
            for number in range(1, 400):
                entry = store.get(A)
                assert entry is not None
                with pytest.raises(ConflictError):
                    ordered.put_in_order([Write(A, numbered(number), entry.revision), Write(B, numbered(1), UNKNOWN)])
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

    def test_7_a_listing_never_shows_a_later_write_without_an_earlier_one(self, store: Store, peer: Store) -> None:
        last = 40

        def write(first: Key, second: Key) -> list[tuple[int, int]]:
            for _ in range(last):
                increment(store, first, 1)
                increment(store, second, 1)
            return []

        def read(first: Key, second: Key) -> list[tuple[int, int]]:
            seen = [(0, 0)]
            while seen[-1] != (last, last):
                entries = dict(peer.scan(first.kind).entries)
                seen.append((number_of(entries[first]), number_of(entries[second])))
            return seen

        kinds: tuple[Kind, ...] = ("block-page", "address-page")
        for kind in kinds:
            low, high = Key(kind, "low"), Key(kind, "high")
            first, second = (
                (low, high) if kind == "block-page" else (high, low)
            )  # in the listing's order, and against it
            for key in (low, high):
                store.put(key, numbered(0), expect=ABSENT)
            for seen in together(*[partial(work, first, second) for work in (write, read, read)]):
                assert all(earlier - later in (0, 1) for earlier, later in seen)

    # --------------------------------------------------------------------------------------------------- 8: delete

    def test_8_a_delete_at_another_revision_is_a_conflict_and_changes_nothing(self, store: Store) -> None:
        old = store.put(A, numbered(1), expect=ABSENT)
        now = store.put(A, numbered(2), expect=old)

        for wrong in (old, UNKNOWN):
            with pytest.raises(ConflictError) as caught:
                store.delete(A, expect=wrong)
            assert caught.value.args == (str(A), f"revision {wrong}", f"revision {now}")

        assert store.get(A) == Entry(numbered(2), now)

    def test_8_to_delete_what_is_absent_is_a_conflict(self, store: Store) -> None:
        with pytest.raises(ConflictError) as caught:
            store.delete(A, expect=UNKNOWN)

        assert caught.value.args == (str(A), f"revision {UNKNOWN}", "nothing")

    def test_8_a_delete_takes_one_record_only(self, store: Store) -> None:
        revision = store.put(A, numbered(1), expect=ABSENT)
        other = store.put(B, numbered(2), expect=ABSENT)
        same_name = Key("block-page", A.name)
        third = store.put(same_name, numbered(3), expect=ABSENT)

        store.delete(A, expect=revision)

        assert store.get(B) == Entry(numbered(2), other)
        assert store.get(same_name) == Entry(numbered(3), third)

    # --------------------------------------------------------------------------------------------------- 9: errors

    def test_9_what_cannot_be_stored_is_a_store_error_or_is_stored(self, store: Store) -> None:
        for key in (Key("node", "\ud800"), Key("node", "x" * 100_000)):
            record = NodeRecord(Node("node-1"), 1.0)
            try:
                store.put(key, record, expect=ABSENT)
            except StoreError:
                with pytest.raises(StoreError):
                    store.get(key)
            else:
                found = store.get(key)
                assert found is not None
                assert found.record == record

    # ---------------------------------------------------------------------------------------------------- 10: closed

    def test_10_after_close_every_call_raises(self, store: Store) -> None:
        revision = store.put(A, numbered(1), expect=ABSENT)
        store.close()
        calls: list[Callable[[], object]] = [
            lambda: store.get(A),
            lambda: store.scan(A.kind),
            lambda: store.put(A, numbered(2), expect=revision),
            lambda: store.put(B, numbered(2), expect=ABSENT),
            lambda: store.delete(A, expect=revision),
        ]
        if isinstance(store, SupportsOrderedPuts):
            calls += [lambda: store.put_in_order([Write(A, numbered(2), revision)]), lambda: store.put_in_order([])]

        for call in calls:
            with pytest.raises(StoreClosedError):
                call()

    def test_10_closing_twice_is_allowed(self, store: Store) -> None:
        store.close()
        store.close()

    def test_10_a_store_that_is_closed_meanwhile_says_so_and_nothing_else(self, store: Store) -> None:
        store.put(A, numbered(0), expect=ABSENT)
        started = Barrier(4)

        def work() -> type[IpamError]:
            increment(store, A, 1)
            started.wait()
            try:
                while True:
                    increment(store, A, 1)
                    store.scan(A.kind)
            except IpamError as error:
                return type(error)

        def close() -> type[IpamError]:
            started.wait()
            store.close()
            return StoreClosedError

        assert set(together(work, work, work, close)) == {StoreClosedError}

    # --------------------------------------------------------------------------------------------------- 11: threads

    def test_11_no_update_of_several_threads_is_lost(self, store: Store, peer: Store) -> None:
        threads, times = 8, 25
        store.put(A, numbered(0), expect=ABSENT)

        done = together(*[partial(increment, (store, peer)[n % 2], A, times) for n in range(threads)])

        numbers = sorted(number for part in done for number, _ in part)
        revisions = {revision for part in done for _, revision in part}
        assert numbers == list(range(1, threads * times + 1))
        assert len(revisions) == threads * times
        assert number_of(store.get(A)) == threads * times

    def test_11_writes_in_order_of_several_threads_do_not_mix(self, store: Store, peer: Store) -> None:
        if not (isinstance(store, SupportsOrderedPuts) and isinstance(peer, SupportsOrderedPuts)):
            pytest.skip("this store has no put_in_order")
        ordered: tuple[SupportsOrderedPuts, SupportsOrderedPuts] = (store, peer)
        for key in (A, B):
            store.put(key, numbered(0), expect=ABSENT)

        def work(mine: SupportsOrderedPuts) -> int:
            done = 0
            while done < 50:
                a, b = store.get(A), peer.get(B)
                assert a is not None
                assert b is not None
                try:
                    mine.put_in_order(
                        [
                            Write(A, numbered(number_of(a) + 1), a.revision),
                            Write(B, numbered(number_of(b) + 1), b.revision),
                        ]
                    )
                except ConflictError:
                    continue
                done += 1
            return done

        assert together(*[partial(work, ordered[n % 2]) for n in range(4)]) == [50] * 4
        assert number_of(store.get(B)) == 200
        assert number_of(store.get(A)) >= 200  # a first part of a list may have been done


__all__ = ["StoreConformance"]
