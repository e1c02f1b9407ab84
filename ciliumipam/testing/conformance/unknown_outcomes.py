"""What callers rely on when a write fails or its reply is lost: promises 3, 9, 12 and 13. Skipped where `losses` is not overridden."""

# ruff: noqa: D102
# The name of a test is its sentence.

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, suppress

import pytest

from ciliumipam.errors import ConflictError, StoreError, StoreUnavailableError
from ciliumipam.records import Entry, Key, Record, Revision
from ciliumipam.store import ABSENT, Change, Expect, Store, SupportsOrderedPuts, Write
from ciliumipam.testing.conformance.promises import Promises, watched
from ciliumipam.testing.conformance.reader import Reader
from ciliumipam.testing.record_strategies import number_of, numbered

Losses = Sequence[Callable[[], AbstractContextManager[Store]]]


class UnknownOutcomes(Promises):
    """Every way of `losses` is tried with every kind of write."""

    def test_9_a_put_that_failed_was_done_only_if_its_error_leaves_that_open(
        self, store: Store, peer: Store, losses: Losses
    ) -> None:
        answers = []
        for number, loss in enumerate(losses):
            key = Key("block-page", str(number))
            for record in (numbered(1), numbered(2)):  # it creates, and it replaces
                before = store.get(key)
                answers.append(_attempt(loss, _put(store, key, record)))
                _check(store, peer, key, before, record, answers[-1])
                if store.get(key) == before:
                    _put(store, key, record)(store)
        if all(answers):
            pytest.skip(f"the ways to lose a reply lost none: every one of {len(answers)} writes was acknowledged")

    def test_9_a_delete_that_failed_was_done_only_if_its_error_leaves_that_open(
        self, store: Store, peer: Store, losses: Losses
    ) -> None:
        for number, loss in enumerate(losses):
            key = Key("block-page", str(number))
            revision = store.put(key, numbered(1), expect=ABSENT)

            told = _attempt(loss, _delete(key, revision))

            _check(store, peer, key, Entry(numbered(1), revision), None, told)

    def test_9_who_reads_again_after_a_lost_reply_goes_on_exactly(self, store: Store, losses: Losses) -> None:
        for number, loss in enumerate(losses):
            key = Key("block-page", str(number))
            store.put(key, numbered(0), expect=ABSENT)
            for wanted in (1, 2, 3):
                _attempt(loss, _put(store, key, numbered(wanted)))
                for _ in range(self.rounds):  # what was lost may arrive late, and be the conflict
                    assert number_of(store.get(key)) in (wanted - 1, wanted)
                    if number_of(store.get(key)) == wanted:
                        break
                    with suppress(ConflictError):
                        _put(store, key, numbered(wanted))(store)

            assert number_of(store.get(key)) == 3

    def test_3_of_a_write_whose_reply_is_lost_and_another_one_exactly_one_wins(
        self, store: Store, peer: Store, losses: Losses
    ) -> None:
        for number, loss in enumerate(losses):
            key = Key("block-page", str(number))
            revision = store.put(key, numbered(0), expect=ABSENT)
            told = _attempt(loss, _put(store, key, numbered(1)))
            try:
                second = peer.put(key, numbered(2), expect=revision)
            except ConflictError:
                assert told is not False, f"{key}: the first writer was told that it had not won, and so was the second"
                assert number_of(store.get(key)) == 1
            else:
                assert told is not True, f"{key}: the first writer was told that it had won, and so was the second"
                assert store.get(key) == Entry(numbered(2), second)

    def test_12_of_writes_in_order_that_failed_some_first_part_was_done(
        self, store: Store, peer: Store, losses: Losses
    ) -> None:
        if not isinstance(store, SupportsOrderedPuts):
            pytest.skip(f"{type(store).__name__} has no put_in_order")
        for number, loss in enumerate(losses):
            keys = [Key("block-page", f"{number}-{name}") for name in ("c", "a", "d", "b")]
            told = _attempt(loss, _put_all(keys))

            done = [peer.get(key) == store.get(key) is not None for key in keys]
            assert done == sorted(done, reverse=True), (
                f"of {', '.join(map(str, keys))} in this order these were put: {done}"
            )
            assert all(done) or told is not True, f"all were acknowledged, these were put: {done}"

    def test_13_a_change_whose_reply_was_lost_is_told_like_any_other(self, store: Store, losses: Losses) -> None:
        last = Key("block-page", "last")
        for number, loss in enumerate(losses):
            key = Key("block-page", str(number))
            with closing(watched(store).watch("block-page", store.scan("block-page").revision)) as watch:
                _attempt(loss, _put(store, key, numbered(1)))
                found = store.get(key)
                present = store.get(last)
                revision = store.put(last, numbered(number), expect=present.revision if present else ABSENT)

                told = Reader(watch, self.patience).until(last)

            assert told == [*([Change(key, found)] if found else []), Change(last, Entry(numbered(number), revision))]


def _attempt(loss: Callable[[], AbstractContextManager[Store]], write: Callable[[Store], object]) -> bool | None:
    """Whether a write that may fail was done, as its caller is told: True, False, or None where nobody knows."""
    with loss() as failing:
        try:
            write(failing)
        except StoreError as error:
            return None if isinstance(error, StoreUnavailableError) and error.unknown else False
        return True


def _put(store: Store, key: Key, record: Record) -> Callable[[Store], object]:
    """Puts a record over what is in the store now."""
    present = store.get(key)
    expect: Expect = present.revision if present else ABSENT
    return lambda failing: failing.put(key, record, expect=expect)


def _delete(key: Key, revision: Revision) -> Callable[[Store], object]:
    return lambda failing: failing.delete(key, expect=revision)


def _put_all(keys: Sequence[Key]) -> Callable[[Store], object]:
    def write(failing: Store) -> None:
        assert isinstance(failing, SupportsOrderedPuts)
        failing.put_in_order([Write(key, numbered(1), ABSENT) for key in keys])

    return write


def _check(store: Store, peer: Store, key: Key, before: Entry | None, after: Record | None, told: bool | None) -> None:  # noqa: FBT001 - three answers
    found = store.get(key)
    assert found == peer.get(key) == dict(peer.scan(key.kind).entries).get(key)
    if found == before:
        assert told is not True, f"{key}: the write was acknowledged, but the record is as it was before"
        return
    assert told is not False, f"{key}: the error says that nothing was written, but the record has changed"
    assert (found and found.record) == after
    assert found is None or before is None or found.revision != before.revision
