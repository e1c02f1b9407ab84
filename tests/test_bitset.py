"""`Bitset` against a plain set (small) and a list of runs (any size)."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam.bitset import Bitset
from ciliumipam.testing.address_oracle import RunSet

SIZES = (0, 1, 4, 7, 8, 9, 12, 16, 17, 20, 24, 32, 64, 65, 128)


@pytest.mark.parametrize("size_bits", SIZES)
def test_a_new_set_is_empty_and_costs_nothing(size_bits: int) -> None:
    bits = Bitset(size_bits)

    assert (bits.count, bits.capacity, bits.first_clear(), bits.lowest_open()) == (0, 2**size_bits, 0, 0)
    assert bits.leaves == {}
    assert repr(bits) == f"<Bitset 2**{size_bits}: 0 set>"
    bits.check_invariants()


@pytest.mark.parametrize("size_bits", [-1, 129])
def test_sizes_outside_0_to_128_bits_are_refused(size_bits: int) -> None:
    with pytest.raises(ValueError, match="2\\*\\*0 to 2\\*\\*128"):
        Bitset(size_bits)


@pytest.mark.parametrize("size_bits", SIZES)
def test_positions_outside_are_never_members_and_cannot_be_set(size_bits: int) -> None:
    bits = Bitset(size_bits)
    for outside in (-1, 2**size_bits, 2**size_bits + 255, 2**130):
        assert outside not in bits
        assert not bits.discard(outside)
        assert bits.first_clear(outside) == (0 if outside < 0 else None)
        with pytest.raises(IndexError, match="no position"):
            bits.add(outside)

    bits.add_range(0, bits.capacity - 1)
    for outside in (-1, 2**size_bits, 2**size_bits + 255, 2**130):
        assert outside not in bits
        assert not bits.discard(outside)
        assert bits.first_clear(outside) is None
    bits.check_invariants()


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (5, 4), (0, 256), (256, 256)])
def test_an_empty_or_protruding_range_is_refused(first: int, last: int) -> None:
    bits = Bitset(8)

    with pytest.raises(IndexError, match=f"no positions {first} to {last}"):
        bits.add_range(first, last)

    assert bits.count == 0


def test_the_whole_of_2_to_the_64_is_marked_without_a_stored_word() -> None:
    bits = Bitset(64)

    assert bits.add_range(0, 2**64 - 1) == 2**64

    assert bits.count == 2**64
    assert bool(bits)
    assert bits.leaves == {}
    assert bits.first_clear() is None
    assert bits.lowest_open() == bits.words == 2**56
    bits.check_invariants()


def test_a_set_is_true_as_soon_as_one_position_is_set() -> None:
    bits = Bitset(128)
    assert not bits

    bits.add(2**127)

    assert bits


def test_the_only_position_can_be_set_and_cleared_again_and_again() -> None:
    bits = Bitset(0)

    for _ in range(3):
        assert bits.add(0)
        assert bits.first_clear() is None
        bits.check_invariants()
        assert bits.discard(0)
        assert bits.first_clear() == 0
        bits.check_invariants()


def test_a_count_beyond_what_len_can_say_is_read_from_count() -> None:
    bits = Bitset(64)
    bits.add_range(1, sys.maxsize)
    assert len(bits) == sys.maxsize

    bits.add(0)

    assert bits.count == sys.maxsize + 1
    with pytest.raises(OverflowError):
        len(bits)


def test_a_range_stores_at_most_two_words_a_level() -> None:
    bits = Bitset(64)

    assert bits.add_range(1, 2**64 - 2) == 2**64 - 2

    assert bits.leaves == {0: 2**256 - 2, 2**56 - 1: 2**255 - 1}
    assert bits.first_clear() == 0
    assert bits.first_clear(1) == 2**64 - 1
    bits.check_invariants()


def test_a_range_counts_only_what_it_flips() -> None:
    bits = Bitset(24)
    bits.add(70_000)
    bits.add_range(65_536, 65_536 + 511)
    bits.add(300)

    assert bits.add_range(200, 200_000) == 199_801 - 1 - 512 - 1

    assert bits.count == 199_801
    assert bits.first_clear(200) == 200_001
    bits.check_invariants()


def test_clearing_inside_a_marked_region_stores_only_its_path() -> None:
    bits = Bitset(64)
    bits.add_range(0, 2**64 - 1)

    assert bits.discard(2**40 + 77)
    assert not bits.discard(2**40 + 77)

    assert bits.leaves == {2**32: (2**256 - 1) ^ (1 << 77)}
    assert bits.word(2**32) == (2**256 - 1) ^ (1 << 77)
    assert bits.word(2**32 - 1) == 2**256 - 1
    assert (bits.count, bits.first_clear(), bits.lowest_open()) == (2**64 - 1, 2**40 + 77, 2**32)
    bits.check_invariants()


def test_clearing_what_is_clear_in_a_word_that_is_not_stored_changes_nothing() -> None:
    empty, marked = Bitset(24), Bitset(24)
    marked.add_range(512, 767)  # leaf word 2 is full and not stored, word 3 is empty and not stored

    for bits, position in ((empty, 5), (empty, 2**24 - 1), (marked, 800), (marked, 2**24 - 1), (marked, 2**24), (marked, 5)):
        count = bits.count
        assert not bits.discard(position)
        assert bits.count == count
        bits.check_invariants()


def test_setting_what_is_set_in_a_word_that_is_not_stored_changes_nothing() -> None:
    bits = Bitset(24)
    bits.add_range(512, 767)

    assert not bits.add(600)
    assert bits.add_range(520, 700) == 0

    assert bits.count == 256
    bits.check_invariants()


def test_words_that_become_full_or_empty_are_not_stored() -> None:
    bits = Bitset(24)
    for position in range(512, 768):
        assert bits.add(position)
    assert bits.leaves == {}
    assert bits.word(2) == 2**256 - 1

    assert bits.discard(600)
    assert bits.leaves == {2: (2**256 - 1) ^ (1 << 88)}
    for position in (*range(512, 600), *range(601, 768)):
        assert bits.discard(position)
    assert (bits.leaves, bits.count) == ({}, 0)
    bits.check_invariants()


def test_the_only_position_can_be_marked_and_cleared() -> None:
    bits = Bitset(0)

    assert bits.add_range(0, 0) == 1
    assert bits.discard(0)
    assert not bits.discard(0)

    assert (bits.leaves, bits.count, bits.first_clear()) == ({}, 0, 0)
    bits.check_invariants()


def test_two_ranges_that_fill_a_word_between_them_are_one_full_word() -> None:
    bits = Bitset(16)
    assert bits.add_range(300, 511) == 212
    assert bits.add_range(200, 299) == 100

    assert bits.leaves == {0: (2**56 - 1) << 200}
    assert bits.word(1) == 2**256 - 1
    assert bits.add_range(0, 2**16 - 1) == 2**16 - 312
    assert bits.add_range(0, 2**16 - 1) == 0
    assert bits.leaves == {}
    bits.check_invariants()


def test_the_last_clear_position_can_be_taken_and_given_back_again_and_again() -> None:
    bits = Bitset(24)
    bits.add_range(0, 2**24 - 1)
    bits.discard(123_456)

    for _ in range(3):
        assert bits.first_clear() == 123_456
        assert bits.add(123_456)
        assert not bits.add(123_456)
        bits.check_invariants()
        assert bits.first_clear() is None
        assert bits.discard(123_456)
        bits.check_invariants()


def test_clearing_before_a_word_that_has_just_become_full_keeps_it_full() -> None:
    bits = Bitset(17)
    bits.add_range(0, 1023)
    bits.add_range(1025, 2047)
    bits.add(1024)

    assert bits.discard(3)
    bits.check_invariants()
    assert bits.first_clear() == 3
    assert bits.first_clear(4) == 2048
    assert bits.add(3)

    assert bits.first_clear() == 2048
    assert bits.count == 2048


def test_filling_up_position_by_position_goes_through_all_of_them_in_order() -> None:
    bits = Bitset(10)

    taken = []
    while (position := bits.first_clear()) is not None:
        assert bits.add(position)
        taken.append(position)

    assert taken == list(range(1024))
    assert bits.leaves == {}


@pytest.mark.parametrize(
    ("leaves", "count", "lowest", "broken"),
    [
        ({}, 1, 3, "counted 1002, recounted 1001"),
        ({}, 0, 2, "the lowest word is marked full"),
        ({}, 0, 4, "a word before the lowest one has room"),
        ({7: 0}, 0, 3, "level 0 word 7 is stored, but empty, full or too wide"),
        ({7: 2**256 - 1}, 256, 3, "level 0 word 7 is stored, but empty, full or too wide"),
        ({1: 1}, 1, 3, "level 0 word 1 is stored under a full mark"),
        ({256: 1}, 1, 3, "level 0 word 256 does not exist"),
    ],
)
def test_the_self_check_tells_a_broken_structure(
    leaves: dict[int, int], count: int, lowest: int, broken: str
) -> None:
    bits = Bitset(16)
    bits.add_range(0, 1000)
    bits.check_invariants()

    bits.leaves.update(leaves)
    bits.count += count
    bits.lowest = lowest

    with pytest.raises(AssertionError, match=f"^{broken}$"):
        bits.check_invariants()


@pytest.mark.parametrize(
    ("level", "index", "broken"),
    [
        (0, 5, "level 0 word 5 is stored under a full mark"),  # the mark is two levels up
        (1, 256, "level 1 word 256 does not exist"),
        (2, 1, "level 2 word 1 does not exist"),
    ],
)
def test_the_self_check_looks_at_every_level(level: int, index: int, broken: str) -> None:
    bits = Bitset(24)
    bits.add_range(0, 2**16 - 1)
    bits.check_invariants()

    bits._levels[level][0][index] = 1

    with pytest.raises(AssertionError, match=f"^{broken}$"):
        bits.check_invariants()


@pytest.mark.parametrize(
    ("count", "lowest", "broken"),
    [
        (2**16, 0, "a full set has no word with room"),
        (2**16 - 1, 256, "nothing is stored, so the set is empty or full"),
        (0, 256, "a word before the lowest one has room"),
    ],
)
def test_the_self_check_tells_a_broken_full_set(count: int, lowest: int, broken: str) -> None:
    bits = Bitset(16)
    bits.add_range(0, 2**16 - 1)
    bits.check_invariants()

    bits.count, bits.lowest = count, lowest

    with pytest.raises(AssertionError, match=f"^{broken}$"):
        bits.check_invariants()


class CountingDict(dict[int, int]):
    """A dict that counts how often it was read."""

    reads = 0

    def get(self, key: int, default: Any = None) -> Any:
        self.reads += 1
        return super().get(key, default)


@pytest.mark.parametrize("size_bits", [16, 24, 64, 128])
def test_a_search_reads_each_level_at_most_once_up_and_once_down_wherever_it_starts(size_bits: int) -> None:
    bits = Bitset(size_bits)
    size = 2**size_bits
    bits.add_range(1, size // 2)
    bits.add_range(size // 2 + 3, size - 2)
    bits.add(size // 2 + 1)
    counting = [CountingDict(words) for words, _ in bits._levels]
    bits._levels = [(words, full) for words, (_, full) in zip(counting, bits._levels, strict=True)]
    bits._uppers = bits._levels[1:]
    bits.leaves = counting[0]
    edges = [size // 2, size // 2 + 2, size // 4, 3 * size // 4, size // 2 + size // 512, size - 1]
    edges += [256**level for level in range(size_bits // 8)]
    around = (-257, -256, -255, -1, 0, 1, 255, 256)

    for start in sorted({min(max(edge + by, 0), size - 1) for edge in edges for by in around}):
        for words in counting:
            words.reads = 0

        found = bits.first_clear(start)

        expected = 0 if start == 0 else size // 2 + 2 if start <= size // 2 + 2 else size - 1
        assert found == expected
        assert sum(words.reads for words in counting) <= 2 * len(counting) + 2


def test_the_lowest_clear_position_is_found_without_going_up_or_down() -> None:
    bits = Bitset(128)
    bits.add_range(0, 2**20 + 7)
    counting = [CountingDict(words) for words, _ in bits._levels]
    bits._levels = [(words, full) for words, (_, full) in zip(counting, bits._levels, strict=True)]
    bits.leaves = counting[0]

    assert bits.first_clear() == 2**20 + 8

    assert [words.reads for words in counting] == [2] + [0] * 15


def positions(size_bits: int) -> st.SearchStrategy[int]:
    """Positions of which every byte is likely to lie at an edge, so that words and levels meet."""
    byte = st.one_of(st.sampled_from((0, 1, 2, 254, 255)), st.integers(0, 255))
    count = max(1, -(-size_bits // 8))
    return st.lists(byte, min_size=count, max_size=count).map(
        lambda found: int.from_bytes(bytes(found)) & ((1 << size_bits) - 1)
    )


class SmallMachine(RuleBasedStateMachine):
    """Up to four words: everything compared, position by position."""

    @initialize(size_bits=st.integers(0, 10))
    def begin(self, size_bits: int) -> None:
        self.bits = Bitset(size_bits)
        self.model: set[int] = set()
        self.size = 2**size_bits

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, self.size - 1))

        assert self.bits.add(position) == (position not in self.model)
        self.model.add(position)

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, self.size - 1))

        assert self.bits.discard(position) == (position in self.model)
        self.model.discard(position)

    @rule(data=st.data())
    def add_range(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, self.size - 1))
        last = data.draw(st.integers(first, self.size - 1))

        flipped = set(range(first, last + 1)) - self.model

        assert self.bits.add_range(first, last) == len(flipped)
        self.model |= flipped

    @rule(data=st.data())
    def fill_a_word_by_its_last_clear_position(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.bits.words - 1))
        first, last = 256 * index, min(256 * index + 255, self.size - 1)
        final = data.draw(st.integers(first, last))
        for position in range(first, last + 1):
            if position != final:
                assert self.bits.add(position) == (position not in self.model)
        self.bits.check_invariants()

        assert self.bits.add(final) == (final not in self.model)
        self.model |= set(range(first, last + 1))

    @rule()
    def look_for_the_lowest_word(self) -> None:
        free = min(set(range(self.size)) - self.model, default=None)

        assert self.bits.lowest_open() == (self.bits.words if free is None else free // 256)

    @invariant()
    def agrees(self) -> None:
        self.bits.check_invariants()
        everything = range(self.size)
        assert {position for position in everything if position in self.bits} == self.model
        assert len(self.bits) == len(self.model)
        for index in range(self.bits.words):
            assert self.bits.word(index) == sum(1 << p - 256 * index for p in self.model if p // 256 == index)


class SparseMachine(RuleBasedStateMachine):
    """Any size up to 2**128: compared at the edges of all runs."""

    @initialize(size_bits=st.sampled_from((12, 16, 17, 20, 24, 64, 65, 128)))
    def begin(self, size_bits: int) -> None:
        self.bits = Bitset(size_bits)
        self.model = RunSet(2**size_bits)
        self.positions = positions(size_bits)

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        position = data.draw(self.positions)

        assert self.bits.add(position) == self.model.add(position)

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        position = data.draw(self.positions)

        assert self.bits.discard(position) == self.model.discard(position)

    @rule(data=st.data())
    def add_range(self, data: st.DataObject) -> None:
        first, last = sorted((data.draw(self.positions), data.draw(self.positions)))

        assert self.bits.add_range(first, last) == self.model.add_range(first, last)

    @rule(data=st.data(), down=st.integers(0, 300))
    def add_range_of_whole_words(self, data: st.DataObject, down: int) -> None:
        first = data.draw(self.positions) & ~255
        last = min(self.model.size - 1, first + 256 * (down + 1) - 1)

        assert self.bits.add_range(first, last) == self.model.add_range(first, last)

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data(), by=st.integers(-2, 2))
    def flip_beside_an_edge(self, data: st.DataObject, by: int) -> None:
        run = data.draw(st.sampled_from(self.model.runs))
        position = min(max(run[data.draw(st.integers(0, 1))] + by, 0), self.model.size - 1)

        if position in self.model:
            assert self.bits.discard(position)
            assert self.model.discard(position)
        else:
            assert self.bits.add(position)
            assert self.model.add(position)

    @rule()
    def take_the_lowest(self) -> None:
        position = self.model.first_clear()

        assert self.bits.first_clear() == position
        if position is not None:
            assert self.bits.add(position)
            assert self.model.add(position)

    @rule(data=st.data())
    def search(self, data: st.DataObject) -> None:
        start = data.draw(self.positions)

        assert self.bits.first_clear(start) == self.model.first_clear(start)

    @rule()
    def search_from_all_edges(self) -> None:
        for first, last in self.model.runs:
            for start in (first, last, last + 1):
                assert self.bits.first_clear(start) == self.model.first_clear(start)

    @invariant()
    def agrees(self) -> None:
        self.bits.check_invariants()
        assert self.bits.count == self.model.count
        for first, last in self.model.runs:
            for position in (first - 1, first, last, last + 1):
                assert (position in self.bits) == (position in self.model)


TestSmallMachine = SmallMachine.TestCase
TestSparseMachine = SparseMachine.TestCase


@given(st.data())
def test_the_first_clear_position_from_any_start_is_the_one_found_by_trying_all(data: st.DataObject) -> None:
    size_bits = data.draw(st.integers(0, 11))
    size = 2**size_bits
    clear = data.draw(st.sets(st.integers(0, size - 1), max_size=6))
    bits = Bitset(size_bits)
    for position in range(size):
        if position not in clear:
            bits.add(position)

    start = data.draw(st.integers(-1, size + 300))

    assert bits.first_clear(start) == min((position for position in clear if position >= start), default=None)
    bits.check_invariants()
