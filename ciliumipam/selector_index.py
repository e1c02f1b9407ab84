"""Which of many selectors match a node, without trying each: one look-up and one OR for each label of the node.

Every term of every selector is one bit. A requirement that fails where its label is missing (In, Exists, Gt, Lt) is *demanding*:
only a label that the node has can meet it. One that holds there (NotIn, DoesNotExist) is *tolerant*: only a label that the node
has can break it. So all that a label does to all terms is one number, made of rows of bits that lie side by side:

    row 0   bit t: the label breaks a tolerant requirement of term t
    row j   bit t: the label meets the j-th demanding requirement of term t

The numbers of a node's labels are OR-ed, onto the rows that a term does not need. A term holds where its bit is set in every row
from 1 on and not in row 0. A selector's terms lie together, largest first, so of several that hold the lowest bit is the one that
counts. It is the same work whatever the operators are, and whether all selectors share a few label keys or each has its own.

The number of a label is put together at its first use and kept, but not where no selector asks for the value: a value that every
node has for itself, such as a host name, takes no memory. `Gt` and `Lt` are found by bisection. The index gives exactly what
`NodeSelector.matched` gives. It never changes: building it again costs a few microseconds for each requirement.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress
from typing import NamedTuple

from ciliumipam.requirement import NAME_FIELD, Requirement, whole_number
from ciliumipam.selector import NodeSelector, Term

_DEMANDING = frozenset(("In", "Exists", "Gt", "Lt"))
_MEMO_BITS = 1 << 25
"""What the kept numbers of one label key may take, 4 MiB; `_FEWEST` of them are always kept."""
_FEWEST = 64
_RUNGS = 256
"""How many steps of one key's thresholds are summed up beforehand; what lies between two steps is added when it is asked for."""
_SPARSE = 16
"""From one match in so many terms on, one sweep over all terms lists them faster than going from match to match (measured)."""
_TRUTH = bytes.maketrans(b"01", b"\0\1")


class Match(NamedTuple):
    """A selector that matches.

    Attributes:
        position: Its place among the selectors that the index was built from, from 0.
        requirements: How many the largest of its terms that hold has, as `NodeSelector.matched` says.
    """

    position: int
    requirements: int


class Matches:
    """The selectors that match one node, by ascending position. They are listed when one iterates, and only as far."""

    __slots__ = ("_held", "_terms")

    def __init__(self, held: int, terms: list[Match]) -> None:
        self._held, self._terms = held, terms

    def __len__(self) -> int:
        return self._held.bit_count()

    def __iter__(self) -> Iterator[Match]:
        held = self._held
        if held.bit_count() * _SPARSE >= held.bit_length():
            return compress(self._terms, f"{held:b}"[::-1].encode().translate(_TRUTH))
        return self._one_by_one()

    def _one_by_one(self) -> Iterator[Match]:
        held = self._held
        while held:
            lowest = held & -held
            yield self._terms[lowest.bit_length() - 1]
            held ^= lowest

    def __repr__(self) -> str:
        """All of them."""
        return f"<Matches: {', '.join(f'{position} ({requirements})' for position, requirements in self) or 'none'}>"


class SelectorIndex:
    """Selectors, in the order in which they are given, ready to be matched all at once. Safe to be used from several threads."""

    __slots__ = ("_all", "_columns", "_later", "_nameless", "_names", "_rows", "_terms", "_width")

    def __init__(self, selectors: Iterable[NodeSelector]) -> None:
        """Build it.

        Complexity:
            O(requirements and their values). Memory: the same, and what has been looked up, bounded for each label key.
        """
        self._terms: list[Match] = []
        terms: list[Term] = []
        later: list[int] = []
        for position, selector in enumerate(selectors):
            later += range(len(terms) + 1, len(terms) + len(selector.terms))
            terms += sorted(selector.terms, key=lambda term: -term.requirements)
            self._terms += [Match(position, term.requirements) for term in terms[len(self._terms) :]]
        width = self._width = len(terms)
        self._all = (1 << width) - 1
        self._later = _bits(later)

        on_labels: dict[str, list[_Placed]] = {}
        on_names: dict[str, list[_Placed]] = {}
        demanded = []
        for bit, term in enumerate(terms):
            row = 0
            for placed, requirements in ((on_labels, term.expressions), (on_names, term.names)):
                for each in requirements:
                    demanding = each.operator in _DEMANDING
                    row += demanding
                    placed.setdefault(each.key, []).append(((row if demanding else 0) * width + bit, each))
            demanded.append(row)
        self._rows = max(demanded, default=0) or 1
        unneeded = [row * width + bit for bit, met in enumerate(demanded) for row in range(met + 1, self._rows + 1)]
        room = max(_FEWEST, _MEMO_BITS // ((self._rows + 1) * width or 1))
        self._columns = {key: _Column(placed, room) for key, placed in on_labels.items()}
        named = on_names.get(NAME_FIELD, [])
        self._names = _Column(named, room, unneeded)
        self._nameless = _bits(unneeded + [slot for slot, each in named if each.operator in _DEMANDING])

    def matching(self, labels: Mapping[str, str], name: str = "") -> Matches:
        """The selectors that match a node; what `matched` of each gives for the same arguments.

        Complexity:
            O(labels x terms x (1 + most demanding requirements of a term) / 64), whatever the operators.
        """
        # Without a name, requirements on it are ignored: all that demand something are met and none is broken.
        seen = self._names[name] if name else self._nameless
        columns = self._columns
        for key, value in labels.items():
            if key in columns:
                seen |= columns[key][value]
        held = row = seen >> self._width
        for _ in range(1, self._rows):
            row >>= self._width
            held &= row
        held &= self._all & ~seen
        return Matches(self._one_each(held) if held & self._later else held, self._terms)

    def _one_each(self, held: int) -> int:
        """Of each selector only the lowest bit: its largest term that holds."""
        covered = 0
        step = held
        while step := (step << 1) & self._later & ~covered:
            covered |= step
        return held & ~covered


_Placed = tuple[int, Requirement]
"""A requirement and the bit that it sets."""


class _Column(dict[str, int]):
    """What each value of one label does to all terms."""

    __slots__ = ("_above", "_always", "_asked", "_below", "_compared", "_room")

    def __init__(self, placed: list[_Placed], room: int, always: Iterable[int] = ()) -> None:
        """Args: `always` are bits that every value sets, `room` is how many numbers may be kept."""
        self._room = room
        self._asked: dict[str, list[int]] = {}
        any_value, above, below = list(always), [], []
        for slot, (_, operator, values) in placed:
            match operator:
                case "In" | "NotIn":
                    for value in values:
                        self._asked.setdefault(value, []).append(slot)
                case "Exists" | "DoesNotExist":
                    any_value.append(slot)
                case "Gt":
                    above.append((int(values[0]), slot))
                case "Lt":  # pragma: no branch - mypy checks that the match is exhaustive
                    below.append((-int(values[0]), slot))
        self._always = _bits(any_value)
        self._above, self._below = _Ladder(above), _Ladder(below)
        self._compared = bool(above or below)

    def __missing__(self, value: str) -> int:
        asked = self._asked.get(value)
        if asked is None and not self._compared:
            return self._always
        found = self._always | _bits(asked) if asked else self._always
        number = whole_number(value) if self._compared else None
        if number is not None:
            found |= self._above.under(number) | self._below.under(-number)
        if len(self) >= self._room:
            self.clear()
        self[value] = found
        return found


class _Ladder:
    """Thresholds with a bit each, and the bits of all that lie under a number."""

    __slots__ = ("_every", "_slots", "_sums", "_thresholds")

    def __init__(self, steps: list[tuple[int, int]]) -> None:
        steps.sort()
        self._thresholds = [threshold for threshold, _ in steps]
        self._slots = [slot for _, slot in steps]
        self._every = 1 + len(steps) // _RUNGS
        self._sums = [0]
        for first in range(0, len(steps), self._every):
            self._sums.append(self._sums[-1] | _bits(self._slots[first : first + self._every]))

    def under(self, number: int) -> int:
        """The bits of the thresholds below the number."""
        count = bisect_left(self._thresholds, number)
        rung, rest = divmod(count, self._every)
        return self._sums[rung] | _bits(self._slots[count - rest : count]) if rest else self._sums[rung]


def _bits(positions: Iterable[int]) -> int:
    """The number in which exactly these bits are set."""
    listed = list(positions)
    room = bytearray((max(listed, default=0) >> 3) + 1)
    for position in listed:
        room[position >> 3] |= 1 << (position & 7)
    return int.from_bytes(room, "little")
