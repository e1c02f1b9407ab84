"""What a single caller relies on: promises 1, 2, 4, 5, 8, 9 and 10."""

# ruff: noqa: D102
# The name of a test is its sentence.

from __future__ import annotations

from collections.abc import Callable

import pytest

from ciliumipam.errors import ConflictError, StoreClosedError, StoreError
from ciliumipam.node import Node
from ciliumipam.records import KINDS, ClaimPage, Entry, Holding, Key, NodeRecord, Page, Record, Revision
from ciliumipam.store import ABSENT, Store, SupportsOrderedPuts, SupportsWatch, Write
from ciliumipam.testing.conformance.promises import UNKNOWN, A, B, Promises
from ciliumipam.testing.record_strategies import EXAMPLES, deep_types, number_of, numbered

ALIKE = (
    "x",
    "X",
    "x ",
    " x",
    "x\x00",
    "x\x00y",
    "é",
    "e\u0301",
    "ß",
    "ss",
    "K",
    "\u212a",
    "\U0001f4a5",
    "10",
    "10.0",
    "1e1",
    "",
)
"""Names that something on the way may take for one another: letter cases, Unicode's forms, numbers, what is trimmed or cut."""


class OneCaller(Promises):
    """Tests in which nobody races."""

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
        for number, name in enumerate(ALIKE):
            assert store.get(Key("block-page", name)) is None, f"{name!r} is taken for one of {ALIKE[:number]}"
            store.put(Key("block-page", name), numbered(number), expect=ABSENT)

        assert [number_of(store.get(Key("block-page", name))) for name in ALIKE] == list(range(len(ALIKE)))
        assert [key.name for key, _ in store.scan("block-page").entries] == sorted(ALIKE)

    def test_1_long_names_are_told_apart_at_their_ends(self, store: Store) -> None:
        names = ["x" * 253 + end for end in ("", "a", "b")]
        for number, name in enumerate(names):
            store.put(Key("block-page", name), numbered(number), expect=ABSENT)

        assert [number_of(store.get(Key("block-page", name))) for name in names] == [0, 1, 2]

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

    # ----------------------------------------------------------------------------------------- 4: what is read

    @pytest.mark.parametrize(
        ("key", "record"), EXAMPLES, ids=[f"{number}-{key.kind}" for number, (key, _) in enumerate(EXAMPLES)]
    )
    def test_4_what_was_put_is_what_is_read(self, store: Store, peer: Store, key: Key, record: Record) -> None:
        revision = store.put(key, record, expect=ABSENT)

        for found in (store.get(key), peer.get(key), dict(peer.scan(key.kind).entries)[key]):
            assert found == Entry(record, revision)
            assert deep_types(found) == deep_types(Entry(record, revision))

    def test_4_a_page_of_256_slots_with_the_longest_names_is_what_is_read(self, store: Store, peer: Store) -> None:
        page = Page(
            7,
            255,
            tuple(
                Holding(4, 0x0A000000 + n, 32, n, f"{n:-<252}ü", "n" * 63 + "/" + "p" * 253, n / 3) for n in range(256)
            ),
        )

        revision = store.put(A, page, expect=ABSENT)

        for found in (store.get(A), peer.get(A), dict(peer.scan(A.kind).entries)[A]):
            assert found is not None
            assert found.revision == revision
            assert isinstance(found.record, Page)
            assert len(found.record.slots) == 256
            assert [n for n in range(256) if found.record.slots[n] != page.slots[n]] == []
            same_types = deep_types(found.record) == deep_types(page)  # compared here: pytest would search for minutes how they differ
            assert same_types, "its values have other types than what was put"

    def test_4_what_was_returned_never_changes(self, store: Store) -> None:
        first = store.put(A, numbered(1), expect=ABSENT)
        entry, listing = store.get(A), store.scan(A.kind)

        second = store.put(A, numbered(2), expect=first)
        store.put(B, numbered(3), expect=ABSENT)
        store.delete(A, expect=second)

        assert entry == Entry(numbered(1), first)
        assert listing.entries == ((A, Entry(numbered(1), first)),)

    def test_4_a_mapping_that_was_returned_never_changes(self, store: Store) -> None:
        key, claims = next((key, record) for key, record in EXAMPLES if isinstance(record, ClaimPage) and record.claims)
        first = store.put(key, claims, expect=ABSENT)
        entry, listing = store.get(key), store.scan(key.kind)

        second = store.put(key, ClaimPage({"node-9": ()}), expect=first)

        assert entry == Entry(claims, first)
        assert listing.entries == ((key, Entry(claims, first)),)
        assert store.get(key) == Entry(ClaimPage({"node-9": ()}), second)

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

    def test_9_whatever_a_call_fails_with_is_a_store_error(self, store: Store) -> None:
        revision = store.put(A, numbered(1), expect=ABSENT)
        calls: list[Callable[[], object]] = [
            lambda: store.delete(B, expect=revision),
            lambda: store.delete(A, expect=UNKNOWN),
            lambda: store.put(A, numbered(2), expect=ABSENT),
            lambda: store.put(B, numbered(2), expect=revision),
        ]

        for call in calls:
            with pytest.raises(StoreError):
                call()

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
        listed = store.scan(A.kind).revision
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
        if isinstance(store, SupportsWatch):
            calls.append(lambda: store.watch(A.kind, listed))

        for call in calls:
            with pytest.raises(StoreClosedError):
                call()

    def test_10_closing_twice_is_allowed(self, store: Store) -> None:
        store.close()
        store.close()
