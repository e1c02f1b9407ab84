"""What callers of `put_in_order` rely on: promise 12."""

# ruff: noqa: D102
# The name of a test is its sentence.

from __future__ import annotations

from functools import partial
from threading import Event

import pytest

from ciliumipam.errors import ConflictError
from ciliumipam.records import Entry, Key
from ciliumipam.store import ABSENT, Store, SupportsOrderedPuts, Write
from ciliumipam.testing.conformance.promises import UNKNOWN, A, B, Promises, in_order
from ciliumipam.testing.racing import together
from ciliumipam.testing.record_strategies import number_of, numbered


class OrderedPuts(Promises):
    """Skipped where the store cannot put in order."""

    def test_12_writes_in_order_are_done(self, store: Store, peer: Store) -> None:
        ordered = in_order(store)
        old = store.put(B, numbered(1), expect=ABSENT)

        revisions = ordered.put_in_order([Write(A, numbered(2), ABSENT), Write(B, numbered(3), old)])

        assert [peer.get(A), peer.get(B)] == [Entry(numbered(2), revisions[0]), Entry(numbered(3), revisions[1])]
        assert ordered.put_in_order([]) == []

    def test_5_a_revision_of_writes_in_order_is_never_used_again(self, store: Store, peer: Store) -> None:
        ordered, other = in_order(store), in_order(peer)
        a = b = None
        seen = []
        for _ in range(4):
            b, a = ordered.put_in_order([Write(B, numbered(1), b or ABSENT), Write(A, numbered(1), a or ABSENT)])
            seen.append(a)
            seen.append(store.put(A, numbered(1), expect=a))
            (a,) = other.put_in_order([Write(A, numbered(1), seen[-1])])
            seen.append(a)
            store.delete(A, expect=a)
            (a,) = ordered.put_in_order([Write(A, numbered(1), ABSENT)])
            seen.append(a)

        assert len(set(seen)) == len(seen), f"{A} had these revisions one after the other: {', '.join(seen)}"

    @pytest.mark.parametrize("wrong", range(3))
    def test_12_with_a_conflict_none_of_them_is_done(self, store: Store, peer: Store, wrong: int) -> None:
        ordered = in_order(store)
        b = store.put(B, numbered(1), expect=ABSENT)
        keys = [A, B, Key("block-page", "c")]
        writes = [Write(key, numbered(2), b if key == B else ABSENT) for key in keys]
        writes[wrong] = writes[wrong]._replace(expect=UNKNOWN)
        before = store.scan(A.kind)

        with pytest.raises(ConflictError) as caught:
            ordered.put_in_order(writes)

        assert caught.value.key == str(keys[wrong])
        assert [store.get(key) for key in keys] == [None, Entry(numbered(1), b), None]
        assert peer.scan(A.kind).entries == before.entries

    def test_12_a_later_write_of_the_same_key_meets_the_earlier_one(self, store: Store) -> None:
        ordered = in_order(store)

        with pytest.raises(ConflictError):
            ordered.put_in_order([Write(A, numbered(5), ABSENT), Write(A, numbered(6), ABSENT)])

        assert store.get(A) is None
        store.put(A, numbered(7), expect=ABSENT)  # and the store goes on

    def test_12_nobody_sees_a_later_one_without_the_earlier_ones(self, store: Store, peer: Store) -> None:
        ordered = in_order(store)
        keys = [Key("block-page", name) for name in ("b", "c", "a")]
        revisions = [store.put(key, numbered(0), expect=ABSENT) for key in keys]
        finished = Event()

        def write() -> list[list[int]]:
            now = revisions
            try:
                for number in range(1, self.rounds):
                    now = ordered.put_in_order(
                        [Write(key, numbered(number), expect) for key, expect in zip(keys, now, strict=True)]
                    )
            finally:
                finished.set()
            return []

        def get() -> list[list[int]]:
            seen = []
            while not finished.is_set():
                seen.append([number_of(peer.get(key)) for key in reversed(keys)][::-1])  # the last one is read first
            return seen

        def scan() -> list[list[int]]:
            seen = []
            while not finished.is_set():
                entries = dict(peer.scan("block-page").entries)
                seen.append([number_of(entries[key]) for key in keys])
            return seen

        for seen in together(write, get, scan):
            wrong = [numbers for numbers in seen if numbers != sorted(numbers, reverse=True)]
            assert wrong == [], (
                f"{', '.join(map(str, keys))} are put in this order, but these numbers of them were seen"
            )

    def test_12_writes_in_order_of_several_threads_do_not_mix(self, store: Store, peer: Store) -> None:
        writers: tuple[SupportsOrderedPuts, SupportsOrderedPuts] = (in_order(store), in_order(peer))
        for key in (A, B):
            store.put(key, numbered(0), expect=ABSENT)

        def work(mine: SupportsOrderedPuts) -> int:
            done = conflicts = 0
            while done < self.rounds and conflicts < 10_000:
                a, b = store.get(A), peer.get(B)
                assert a is not None
                assert b is not None
                writes = [
                    Write(A, numbered(number_of(a) + 1), a.revision),
                    Write(B, numbered(number_of(b) + 1), b.revision),
                ]
                try:
                    mine.put_in_order(writes)
                except ConflictError:
                    conflicts += 1
                else:
                    done, conflicts = done + 1, 0
            return done

        assert together(*[partial(work, writers[n % 2]) for n in range(4)]) == [self.rounds] * 4
        assert (number_of(store.get(A)), number_of(store.get(B))) == (4 * self.rounds, 4 * self.rounds)
