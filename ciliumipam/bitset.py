"""A sparse hierarchical bitset: any size up to 2**128 positions, at the same cost full, empty and nearly full.

A word has 256 slots, as a page of the ledger has. Leaf words (level 0) hold the positions; a slot of a word at level *k*
stands for a whole word of level *k - 1* and is set when that word is full::

    level 2           [ 0 1 . . ]                 slot 1: all 65,536 positions below it are set
                        |
    level 1     [ 1 1 0 . . . 1 ]                 slots 0 and 1: leaf words 0 and 1 are full
                      |
    level 0         word 2 = [ 1 1 0 1 . . . ]    a leaf word that is neither full nor empty

Only words that are neither empty nor full are stored, and a word that is not stored is full if the slot above it is set (or, above that, the slot of the word that is not stored either), else empty. An untouched
space costs nothing, and a range is marked with two words a level, whatever its length. Each set slot of a stored word at level
*k* stands for exactly 256**k positions, so the sum over the stored words is the count.

Every leaf word before `lowest` is full, so the lowest clear position is found without a descent. The word that `lowest` names
has room, or has just become full: it is marked in the levels above, and its successor looked for, only when somebody
searches or clears a position before it. So setting and clearing the last clear position of a word, or of the whole set, again
and again costs no more than elsewhere. This is the only full word that is ever stored.

Positions are plain integers. Not thread-safe, not even for searches; the caller serialises.
"""

from __future__ import annotations

STRIDE = 8
"""Bits of a position that one level decides; ledger pages lie at the same multiples from the low end."""

_BIT = tuple(1 << slot for slot in range(1 << STRIDE))
_FULL = (1 << (1 << STRIDE)) - 1


class Bitset:
    """Positions 0 to 2**size_bits - 1, each set or clear.

    * change: `add`, `add_range`, `discard`
    * look: `in`, `word`, `count`, `len`
    * search: `first_clear`, `lowest_open`

    Complexity:
        Add, discard, membership and search are O(levels) at worst, levels being size_bits / 8, and O(1) in the common case:
        a leaf word that neither becomes full nor was. Memory: one integer per word that is neither empty nor full.

    Attributes:
        size_bits: Binary logarithm of the number of positions, 0 to 128.
        capacity: Number of positions.
        count: Number of set positions. `len()` gives the same, but Python limits that to sys.maxsize.
        words: Number of leaf words; the only one is narrower where size_bits is below 8.
        lowest: Every leaf word before this index is full; see `lowest_open`. Others only read it.
        leaves: Stored leaf words by index. Others only read it. A missing word is empty *or full*, but if `lowest` names it,
            it is empty.
    """

    __slots__ = ("_full", "_levels", "_uppers", "capacity", "count", "leaves", "lowest", "size_bits", "words")

    def __init__(self, size_bits: int) -> None:
        """Make it with every position clear; costs a dict per level.

        Raises:
            ValueError: size_bits is not in 0 to 128.
        """
        if not 0 <= size_bits <= 128:
            raise ValueError(f"a bitset has 2**0 to 2**128 positions, not 2**{size_bits}")
        height = max(1, -(-size_bits // STRIDE))
        top = (1 << (1 << (size_bits - STRIDE * (height - 1)))) - 1  # the top word may be narrower
        self.size_bits = size_bits
        self.capacity = 1 << size_bits
        self.count = 0
        self.words = 1 << max(0, size_bits - STRIDE)
        self.lowest = 0
        self._levels: list[tuple[dict[int, int], int]] = [
            ({}, _FULL if level < height - 1 else top) for level in range(height)
        ]
        self._uppers = self._levels[1:]
        self.leaves, self._full = self._levels[0]

    def __len__(self) -> int:
        """Number of set positions, if it is at most sys.maxsize; see `count`."""
        return self.count

    def __bool__(self) -> bool:
        """Whether any position is set (and no OverflowError where len() would raise one)."""
        return self.count > 0

    def __repr__(self) -> str:
        """Size and count."""
        return f"<Bitset 2**{self.size_bits}: {self.count} set>"

    def __contains__(self, position: int) -> bool:
        """Whether the position is set; False outside."""
        if position >> self.size_bits:
            return False
        word = self.leaves.get(position >> 8)
        if word is None:
            return self._stands_for_full(position >> 8)
        return word & _BIT[position & 255] != 0

    def word(self, index: int) -> int:
        """The leaf word of positions 256 * index to 256 * index + 255: bit *s* is slot *s*."""
        word = self.leaves.get(index)
        if word is not None:
            return word
        return self._full if self._stands_for_full(index) else 0

    # ------------------------------------------------------------------------------------------------ change

    def add(self, position: int) -> bool:
        """Set a position.

        Returns:
            True if it was clear.

        Raises:
            IndexError: The position does not exist.
        """
        if position >> self.size_bits:
            raise IndexError(f"no position {position} among 2**{self.size_bits}")
        index = position >> 8
        bit = _BIT[position & 255]
        leaves = self.leaves
        word = leaves.get(index)
        if word is None:
            if index != self.lowest and self._stands_for_full(index):
                return False
            word = bit
        elif word & bit:
            return False
        else:
            word |= bit
        self.count += 1
        if word == self._full and index != self.lowest:
            self._mark_full(index)
        else:
            leaves[index] = word
        return True

    def _mark_full(self, index: int) -> int:
        """Forget a leaf word that is full and mark it above; the level of the first word that has room, or one too high."""
        del self.leaves[index]
        for level, (words, full) in enumerate(self._uppers, 1):
            bit = _BIT[index & 255]
            index >>= 8
            word = words.get(index, 0) | bit  # not stored means empty: what was marked just now was not full before
            if word != full:
                words[index] = word
                return level
            del words[index]
        return len(self._levels)

    def discard(self, position: int) -> bool:
        """Clear a position.

        Returns:
            True if it was set; False also outside.
        """
        index = position >> 8
        bit = _BIT[position & 255]
        word = self.leaves.get(index)
        if word is None:
            return self._discard_from_full(position)
        if not word & bit:
            return False
        word ^= bit
        if word:
            self.leaves[index] = word
        else:
            del self.leaves[index]
        self.count -= 1
        return True

    def _discard_from_full(self, position: int) -> bool:
        """Clear a position whose leaf word is not stored: if that stands for full, store the words on its path."""
        if position >> self.size_bits:
            return False
        index = position >> 8
        lowest = self.lowest
        if index < lowest:
            if self.leaves.get(lowest) == self._full:
                self._mark_full(lowest)
            self.lowest = index
        path = [(self.leaves, index, self._full ^ _BIT[position & 255])]
        child = index
        for words, full in self._uppers:
            bit = _BIT[child & 255]
            child >>= 8
            word = words.get(child)
            if word is None:
                path.append((words, child, full ^ bit))
                continue
            if not word & bit:
                return False
            path.append((words, child, word ^ bit))
            break
        else:
            if self.count != self.capacity:
                return False
        for words, child, word in path:
            if word:
                words[child] = word
            else:
                words.pop(child, None)
        self.count -= 1
        return True

    def add_range(self, first: int, last: int) -> int:
        """Set the positions `first` to `last`, both inclusive.

        Returns:
            How many of them were clear.

        Raises:
            IndexError: The range is empty or sticks out.

        Complexity:
            O(levels), independent of the length, plus one pass over the stored words if any lie below a marked slot.
        """
        if not 0 <= first <= last < self.capacity:
            raise IndexError(f"no positions {first} to {last} among 2**{self.size_bits}")
        before = self.count
        if self.lowest_open() < self.words:
            top = len(self._levels) - 1
            self.lowest = self.words if self._cover(top, 0, first, last) else self._descend(top, 0)
        return self.count - before

    def _cover(self, level: int, index: int, first: int, last: int) -> bool:
        """Set a range, counted from the start of a word that is not full; True if that fills the word."""
        words, full = self._levels[level]
        word = words.pop(index, 0)
        shift = STRIDE * level
        inside = (1 << shift) - 1
        low, high = first >> shift, last >> shift
        whole_low = low + 1 if first & inside else low
        whole_high = high - 1 if last & inside != inside else high
        for slot in sorted({low, high}):
            if not whole_low <= slot <= whole_high and not word & _BIT[slot]:
                start = slot << shift
                if self._cover(level - 1, index << 8 | slot, max(first - start, 0), min(last - start, inside)):
                    word |= _BIT[slot]
        if whole_low <= whole_high:
            mask = (_BIT[whole_high - whole_low] * 2 - 1) << whole_low
            self.count += (mask & ~word).bit_count() << shift
            word |= mask
            self._forget(level, index << 8 | whole_low, index << 8 | whole_high)
        if word == full:
            return True
        if word:
            words[index] = word
        return False

    def _forget(self, level: int, first: int, last: int) -> None:
        """Drop all words stored under the slots `first` to `last` of a level, numbered through the level."""
        for below in range(level):
            words = self._levels[below][0]
            shift = STRIDE * (level - 1 - below)
            low, high = first << shift, (last + 1) << shift
            for index in [index for index in words if low <= index < high]:
                self.count -= words.pop(index).bit_count() << STRIDE * below

    # ------------------------------------------------------------------------------------------------ search

    def lowest_open(self) -> int:
        """Index of the lowest leaf word with a clear position; equal to `words` when there is none."""
        index = self.lowest
        if self.leaves.get(index) == self._full:
            level = self._mark_full(index)
            self.lowest = self._descend(level, index >> STRIDE * level) if level < len(self._levels) else self.words
        return self.lowest

    def first_clear(self, start: int = 0) -> int | None:
        """The lowest clear position that is at least `start`, None if there is none.

        Complexity:
            O(levels) from any start: up to the first word with room ahead, and down again. O(1) if the leaf word of `start`
            is stored and has room ahead.
        """
        if start >= self.capacity:
            return None
        lowest = self.lowest_open()
        if lowest == self.words:
            return None
        start = max(start, lowest << STRIDE)
        levels = self._levels
        level, index, slot = 0, start >> 8, start & 255
        word = self.leaves.get(index)
        while word is None:  # full or empty, as the first stored word above says
            level += 1
            if level == len(levels):
                return start
            index, slot = index >> 8, index & 255
            word = levels[level][0].get(index)
            if word is not None and not word & _BIT[slot]:
                return start
        ahead = word | (_BIT[slot] - 1)
        while ahead == levels[level][1]:
            level += 1
            if level == len(levels):
                return None
            index, slot = index >> 8, index & 255
            # what is not stored here is empty: a word above one that is stored is never full
            ahead = levels[level][0].get(index, 0) | ((_BIT[slot] << 1) - 1)
        index = index << 8 | (ahead ^ (ahead + 1)).bit_length() - 1
        if level == 0:
            return index
        leaf = self._descend(level - 1, index)
        word = self.leaves.get(leaf, 0)
        return leaf << 8 | (word ^ (word + 1)).bit_length() - 1

    def _descend(self, level: int, index: int) -> int:
        """Index of the lowest leaf word with room under a word that is not full."""
        while level:
            word = self._levels[level][0].get(index, 0)
            index = index << 8 | (word ^ (word + 1)).bit_length() - 1
            level -= 1
        return index

    def _stands_for_full(self, index: int) -> bool:
        """Whether a leaf word that is not stored is full; it is empty otherwise."""
        for words, _ in self._uppers:
            word = words.get(index >> 8)
            if word is not None:
                return word & _BIT[index & 255] != 0
            index >>= 8
        return self.count == self.capacity

    # ------------------------------------------------------------------------------------------------ self-check

    def check_invariants(self) -> None:
        """Assert what the module text says of the structure. O(stored words * levels)."""
        recount = before_lowest = 0
        for level, (words, full) in enumerate(self._levels):
            for index, word in words.items():
                just_full = word == full and level == 0 and index == self.lowest
                where = f"level {level} word {index}"
                assert 0 < word < full or just_full, f"{where} is stored, but empty, full or too wide"
                assert 0 <= index < max(1, self.words >> STRIDE * level), f"{where} does not exist"
                ancestor = index
                for uppers, _ in self._uppers[level:]:
                    marked = uppers.get(ancestor >> 8, 0) & _BIT[ancestor & 255]
                    assert not marked, f"{where} is stored under a full mark"
                    ancestor >>= 8
                recount += word.bit_count() << STRIDE * level
                if level:  # what lies before `lowest` is whole words, hence marked here
                    marks = self.lowest - (index << STRIDE * level) >> STRIDE * (level - 1)
                    before = (1 << max(0, min(256, marks))) - 1
                    before_lowest += (word & before).bit_count() << STRIDE * level
        if recount or not self.count:
            assert recount == self.count, f"counted {self.count}, recounted {recount}"
            assert before_lowest == self.lowest << STRIDE, "a word before the lowest one has room"
            marked = self.lowest not in self.leaves and self._stands_for_full(self.lowest)
            assert not marked, "the lowest word is marked full"
        else:
            assert self.count == self.capacity, "nothing is stored, so the set is empty or full"
            assert self.lowest == self.words, "a full set has no word with room"
