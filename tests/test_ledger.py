"""The ledger's pages by themselves: against intervals in a list, through the checker's own reader, and fixed cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam.cidr import Prefix, parse_prefix
from ciliumipam.ledger import (
    Ledger,
    Link,
    Spot,
    Status,
    address_ledger,
    block_ledger,
    close,
    counted,
    fence_of,
    fill,
    free,
    holdings,
    locate,
    next_fence,
    status,
    use_up,
)
from ciliumipam.records import Cooling, Holding, Key, Page, Slot, Split
from ciliumipam.testing.raw import Piece, addresses_in, blocks_in


class Put(NamedTuple):
    """What was put, beside the page."""

    key: str
    level: int
    slots: tuple[int, ...] | None
    closing: bool


class Book:
    """Pages in a dictionary, with the promises that whoever puts a page makes to whoever reads it."""

    def __init__(self) -> None:
        self.pages: dict[Key, Page] = {}
        self.puts: list[Put] = []

    def page(self, key: Key) -> Page | None:
        return self.pages.get(key)

    def locate(self, ledger: Ledger, fence: int, network: int, length: int) -> Spot | None:
        return locate(self, ledger, fence, network, length)

    def put_page(self, key: Key, page: Page, level: int, slots: tuple[int, ...] | None, *, closing: bool = False) -> None:
        before = self.pages.get(key)
        assert key.name.endswith(f"/{level}"), "the level is not the page's"
        if slots is not None:
            assert before is not None, "a new page changed everywhere"
            assert page.fence == before.fence, "a page that was raised changed everywhere"
            assert len(slots) == len(set(slots))
            assert all(page.slots[i] == slot for i, slot in enumerate(before.slots) if i not in slots), "changed elsewhere"
        if before is not None:
            assert len(page.slots) == len(before.slots)
            assert page.fence >= before.fence
            assert all(last(new) >= last(old) for new, old in zip(page.slots, before.slots, strict=True)), "a fence fell"
        if closing:
            assert before is None or page.fence > before.fence
            assert all(type(slot) in (int, Cooling) for slot in page.slots), "it is closed, but not empty"
        self.pages[key] = page
        self.puts.append(Put(str(key), level, slots, closing))

    def walk(self, ledger: Ledger, fence: int) -> list[Piece]:
        """What is held or cools, in the eyes of the checker."""
        records: dict[tuple[str, str], Page] = {(key.kind, key.name): page for key, page in self.pages.items()}
        if ledger.kind == "block-page":
            return [piece for piece in blocks_in(records, ledger.space) if piece.family == ledger.family]
        return list(addresses_in(records, ledger.space, ledger.root.to_network(), fence))


def last(slot: Slot) -> int:
    return slot if isinstance(slot, int) else slot.fence


def ticket(book: Book, ledger: Ledger, fence: int, piece: Prefix, holder: str = "x") -> Holding:
    """The holding that somebody would get now."""
    spot = locate(book, ledger, fence, piece.network, piece.length)
    assert spot is not None
    following = next_fence(book, ledger, spot)
    assert following is not None
    return Holding(*piece, following, holder, "", 0.0)


def taken(book: Book, ledger: Ledger, fence: int, piece: str, holder: str = "x") -> Holding:
    """Claim and fill."""
    found = ticket(book, ledger, fence, parse_prefix(piece), holder)
    fill(book, ledger, fence, found)
    return found


# Ledgers are made inside the tests, so that mutants of what makes them are seen there.
def blocks() -> Ledger:
    return block_ledger(4)


def addresses(block: str) -> Ledger:
    return address_ledger(parse_prefix(block))


PLACES: tuple[tuple[Callable[[], Ledger], tuple[int, ...]], ...] = (
    (blocks, (9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27, 32)),
    (lambda: block_ledger(6), (58, 60, 64, 66, 68, 74)),
    (lambda: addresses("10.0.0.0/22"), (23, 24, 25, 31, 32)),
    (lambda: addresses("2001:db8::/109"), (110, 112, 114, 120, 121, 128)),
)


class LedgerMachine(RuleBasedStateMachine):
    """One ledger, any pieces, claimed, filled, ended and closed in any order; compared with plain intervals."""

    @initialize(place=st.sampled_from(PLACES))
    def begin(self, place: tuple[Callable[[], Ledger], tuple[int, ...]]) -> None:
        self.ledger, self.lengths = place[0](), place[1]
        self.book = Book()
        self.fence = 1
        self.base = self.ledger.root.network or int(parse_prefix({4: "10.0.0.0/8", 6: "2001:db8::/32"}[self.ledger.family]).network)
        self.held: list[Holding] = []
        self.tickets: list[Holding] = []
        self.ended: list[Holding] = []
        self.used: list[Holding] = []
        self.cooling: list[tuple[int, int, float]] = []
        self.once: list[tuple[int, int, float]] = []
        self.compared = -1

    def piece(self, data: st.DataObject) -> Prefix:
        length = data.draw(st.sampled_from(self.lengths))
        start = data.draw(st.sampled_from(self.lengths))
        width = self.ledger.width
        number = self.base + (data.draw(st.integers(0, 3)) << (width - start))
        network = number >> (width - length) << (width - length)
        return Prefix(self.ledger.family, network if self.ledger.root.covers(Prefix(self.ledger.family, network, length)) else self.base, length)

    def end(self, pieces: list[Holding]) -> None:
        for each in pieces:
            self.held.remove(each)
            self.ended.append(each)

    def warm(self, first: int, to: int) -> None:
        """Nothing in a range cools any longer."""
        parts: list[tuple[int, int, float]] = []
        for low, high, until in self.cooling:
            if high < first or low > to:
                parts.append((low, high, until))
                continue
            if low < first:
                parts.append((low, first - 1, until))
            if high > to:
                parts.append((to + 1, high, until))
        self.cooling = parts

    @rule(data=st.data(), fills=st.booleans())
    def claim(self, data: st.DataObject, fills: bool) -> None:
        piece = self.piece(data)
        spot = locate(self.book, self.ledger, self.fence, piece.network, piece.length)
        assert spot is not None

        fence = next_fence(self.book, self.ledger, spot)

        over = [each for each in self.held if each.prefix.overlaps(piece)]
        assert (fence is None) == bool(over)
        if fence is not None:
            used = [each.fence for each in self.used if each.prefix.overlaps(piece)]
            assert fence > max(used, default=0)
            holding = Holding(*piece, fence, f"o{len(self.tickets) + len(self.ended) + len(self.used)}", "", 0.0)
            assert status(self.book, self.ledger, self.fence, holding) is Status.PENDING
            if fills:
                self.fill(holding)
            else:
                self.tickets.append(holding)

    def fill(self, holding: Holding) -> None:
        fill(self.book, self.ledger, self.fence, holding)
        self.held.append(holding)
        self.used.append(holding)
        self.warm(holding.network, holding.prefix.last)
        assert status(self.book, self.ledger, self.fence, holding) is Status.HELD

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), fills=st.sampled_from((True, True, False)))
    def use(self, data: st.DataObject, fills: bool) -> None:
        holding = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(holding)
        state = status(self.book, self.ledger, self.fence, holding)
        over = [each for each in self.held if each.prefix.overlaps(holding.prefix)]
        assert state is not Status.TORN
        if state is Status.PENDING and fills:
            assert not over
            assert holding.fence > max((each.fence for each in self.used if each.prefix.overlaps(holding.prefix)), default=0)
            self.fill(holding)
        elif state is Status.PENDING:
            free(self.book, self.ledger, self.fence, holding, holding.fence)
            self.warm(holding.network, holding.prefix.last)
            self.ended.append(holding)
        elif state is Status.CROSSED:
            assert all(holding.prefix.covers(each.prefix) for each in over)
            assert over
            if fills:  # else it is left, as a caller does that sleeps on
                assert use_up(self.book, self.ledger, self.fence, holding)
                assert status(self.book, self.ledger, self.fence, holding) is Status.DEAD
                self.ended.append(holding)
            else:
                self.tickets.append(holding)
        else:
            assert state is Status.DEAD or any(each.prefix.covers(holding.prefix) for each in over)
            self.ended.append(holding)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), until=st.sampled_from((None, 50.0, 70.0)), later=st.integers(0, 2))
    def give_back(self, data: st.DataObject, until: float | None, later: int) -> None:
        holding = data.draw(st.sampled_from(self.held))

        free(self.book, self.ledger, self.fence, holding, holding.fence + later, until)

        self.end([holding])
        self.used.append(holding._replace(fence=holding.fence + later))
        if until is not None:
            self.cooling.append((holding.network, holding.prefix.last, until))
            self.once.append(self.cooling[-1])

    @precondition(lambda self: self.used)
    @rule(data=st.data(), force=st.booleans())
    def close_below_a_link(self, data: st.DataObject, force: bool) -> None:
        spot = locate(self.book, self.ledger, self.fence, *self.piece(data)[1:])
        assert spot is not None
        if spot.links or spot.level == self.ledger.levels[0]:
            return
        region = Prefix(self.ledger.family, spot.network, spot.level)
        inside = [each for each in self.held if region.covers(each.prefix)]
        if inside and not force:
            kept = dict(self.book.pages)  # what raises is not written
            with pytest.raises(AssertionError, match=r"^closing .*, in which .* is held$"):
                close(self.book, self.ledger, spot.level, spot.network, spot.page.fence)
            self.book.pages = kept
            return

        found = close(self.book, self.ledger, spot.level, spot.network, spot.page.fence, force=force)

        assert found > spot.page.fence
        assert found > max((each.fence for each in self.used if region.covers(each.prefix)), default=0)
        self.end(inside)
        self.warm(region.network, region.last)
        again = locate(self.book, self.ledger, self.fence, spot.network, spot.level + 1)
        assert again is not None
        assert again.links, "the link is not dead"
        following = next_fence(self.book, self.ledger, again)
        assert following is not None
        assert following > found
        assert close(self.book, self.ledger, spot.level, spot.network, spot.page.fence) == found

    @precondition(lambda self: self.ledger.kind == "address-page")
    @rule(skips=st.integers(0, 9))
    def close_all_and_begin_again(self, skips: int) -> None:
        if skips:
            return
        found = close(self.book, self.ledger, self.ledger.root.length, self.ledger.root.network, self.fence, force=True)

        assert locate(self.book, self.ledger, self.fence, self.base, self.ledger.width) is None
        assert self.book.walk(self.ledger, self.fence) == []
        self.end(list(self.held))
        self.ended += self.tickets
        self.tickets.clear()
        self.cooling.clear()
        for each in self.ended:
            assert status(self.book, self.ledger, self.fence, each) is Status.DEAD
        self.fence = found + 1

    @invariant()
    def agrees(self) -> None:
        if self.compared == len(self.book.puts):
            return  # a claim alone writes nothing
        self.compared = len(self.book.puts)
        ordered = sorted(self.held, key=lambda each: each.network)
        assert list(holdings(self.book, self.ledger, self.fence)) == ordered
        walked = self.book.walk(self.ledger, self.fence)
        assert [(each.first, each.length, each.fence, each.holder) for each in walked if each.holder is not None] == [
            (each.network, each.length, each.fence, each.holder) for each in ordered
        ]
        shown = runs((each.first, each.last, each.until) for each in walked if each.holder is None)
        if self.ledger.kind == "block-page":
            assert shown == runs(self.cooling)
        else:  # an address goes on cooling in a page that was closed, and shows it where the page is used again
            assert all(any(low <= first and last <= high and end == until for low, high, end in shown) for first, last, until in runs(self.cooling))
            assert all(any(low <= edge <= high and end == until for low, high, end in self.once) for *edges, until in shown for edge in edges)

    @invariant()
    def what_ended_stays_so(self) -> None:
        for each in self.held:
            assert status(self.book, self.ledger, self.fence, each) is Status.HELD
        for each in self.ended[-6:]:
            assert status(self.book, self.ledger, self.fence, each) in (Status.DEAD, Status.BLOCKED)


def runs(pieces: Iterable[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """Sorted, neighbours of the same time joined."""
    joined: list[tuple[int, int, float]] = []
    for first, to, until in sorted(pieces):
        if joined and joined[-1][1] + 1 == first and joined[-1][2] == until:
            joined[-1] = (joined[-1][0], to, until)
        else:
            joined.append((first, to, until))
    return joined


TestLedgerMachine = LedgerMachine.TestCase


# ---------------------------------------------------------------------------------------------------- where pages lie


@pytest.mark.parametrize(
    ("make", "levels", "sizes"),
    [
        (lambda: block_ledger(4), (0, 2, 10, 18, 26), [4, 256, 256, 256, 64]),
        (lambda: block_ledger(6), (0, *range(2, 128, 8)), [4, *[256] * 15, 64]),
        (lambda: addresses("10.0.1.0/24"), (24,), [256]),
        (lambda: addresses("10.0.1.64/26"), (26,), [64]),
        (lambda: addresses("10.0.0.0/22"), (22, 24), [4, 256]),
        (lambda: addresses("10.0.1.1/32"), (32,), [1]),
        (lambda: addresses("2001:db8::/64"), tuple(range(64, 128, 8)), [256] * 8),
        (lambda: addresses("2001:db8::/109"), (109, 112, 120), [8, 256, 256]),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_a_ledger_has_its_levels_where_pages_of_many_lengths_meet(
    make: Callable[[], Ledger], levels: tuple[int, ...], sizes: list[int]
) -> None:
    ledger = make()

    assert ledger.root.length == levels[0]
    assert ledger.root.network & (ledger.root.size - 1) == 0
    assert ledger.levels == levels
    assert [ledger.sizes[level] for level in levels] == sizes
    assert [ledger.next_levels[level] for level in levels] == [*levels[1:], ledger.width]


@pytest.mark.parametrize(
    ("make", "address", "level", "name"),
    [
        (lambda: block_ledger(4), "10.77.3.9", 10, "block-page 10.64.0.0/10"),
        (lambda: block_ledger(4), "10.77.3.9", 0, "block-page 0.0.0.0/0"),
        (lambda: block_ledger(4, "blue"), "10.77.3.9", 10, "block-page blue@10.64.0.0/10"),
        (lambda: block_ledger(6), "2001:db8::", 18, "block-page 2001::/18"),
        (lambda: addresses("10.0.0.0/22"), "10.0.1.9", 22, "address-page 10.0.0.0/22"),
        (lambda: addresses("10.0.0.0/22"), "10.0.1.9", 24, "address-page 10.0.0.0/22+10.0.1.0/24"),
        (lambda: address_ledger(parse_prefix("10.0.0.0/22"), "blue"), "10.0.1.9", 22, "address-page blue@10.0.0.0/22"),
        (lambda: address_ledger(parse_prefix("10.0.0.0/22"), "blue"), "10.0.1.9", 24, "address-page blue@10.0.0.0/22+10.0.1.0/24"),
    ],
)
def test_a_page_is_named_after_what_it_covers(
    make: Callable[[], Ledger], address: str, level: int, name: str
) -> None:
    ledger = make()
    number = parse_prefix(f"{address}/{ledger.width}").network

    assert str(ledger.key(number, level)) == name
    assert ledger.key(number + 1, level) is ledger.key(number, level), "one key for all addresses of a page"


def test_a_slot_begins_after_all_slots_before_it() -> None:
    tree = blocks()
    assert tree.slot_network(0, 0, 3) == 3 << 30
    assert tree.slot_network(10 << 24, 10, 5) == (10 << 24) + (5 << 14)
    assert tree.slot_network(10 << 24, 26, 63) == (10 << 24) + 63


# ----------------------------------------------------------------------------------------------------- how pages count


def test_a_page_counts_as_it_is_only_under_the_fence_of_its_link() -> None:
    held = Holding(4, 0, 32, 5, "o", "", 0.0)
    page = Page(3, 7, (held, Cooling(9, 60.0), Split(2), 1))

    assert fence_of(held) == 5
    assert counted(page, 3, 4) is page
    assert counted(page, 4, 4) == Page(4, 0, (5, Cooling(9, 60.0), 4, 4))
    assert counted(page, 10, 4) == Page(10, 0, (10, Cooling(10, 60.0), 10, 10))
    assert counted(page, 2, 4) is None
    assert counted(None, 6, 4) == Page(6, 0, (6, 6, 6, 6))


def test_the_first_block_is_placed_with_all_links_that_are_missing() -> None:
    tree = blocks()
    book = Book()

    spot = locate(book, tree, 1, 10 << 24, 24)

    assert spot is not None
    assert (spot.level, spot.network, spot.raw, spot.start, spot.stop, spot.covered_by) == (18, 10 << 24, None, 0, 4, None)
    assert spot.page == Page(4, 0, (4,) * 256)
    assert spot.links == (
        Link(0, 0, Page(1, 0, (1,) * 4), 0, 2),
        Link(2, 0, Page(2, 0, (2,) * 256), 10 * 4, 3),
        Link(10, 10 << 24, Page(3, 0, (3,) * 256), 0, 4),
    )
    assert next_fence(book, tree, spot) == 5


def test_filling_writes_the_pages_of_new_links_whole_and_then_only_the_slots_that_change() -> None:
    tree = blocks()
    book = Book()
    taken(book, tree, 1, "10.0.0.0/24")
    first = book.puts.copy()
    book.puts.clear()
    second = taken(book, tree, 1, "10.0.2.0/24")

    assert first == [
        Put("block-page 0.0.0.0/0", 0, None, False),
        Put("block-page 0.0.0.0/2", 2, None, False),
        Put("block-page 10.0.0.0/10", 10, None, False),
        Put("block-page 10.0.0.0/18", 18, None, False),
    ]
    assert book.puts == [Put("block-page 10.0.0.0/18", 18, (8, 9, 10, 11), False)]
    assert book.pages[tree.key(10 << 24, 18)].slots[7:13] == (4, second, second, second, second, 4)
    assert book.pages[tree.key(0, 0)].slots == (Split(2), 1, 1, 1)


def test_the_cursor_stands_behind_the_address_that_was_allocated_last_and_blocks_leave_it() -> None:
    tree = blocks()
    book = Book()
    ledger = addresses("10.0.0.0/24")
    held, cursors = [], []
    for piece in ("10.0.0.7/32", "10.0.0.254/32", "10.0.0.255/32", "10.0.0.9/32"):
        held.append(taken(book, ledger, 1, piece))
        cursors.append(book.pages[ledger.key(ledger.root.network, 24)].cursor)
    free(book, ledger, 1, held[0], held[0].fence)

    assert cursors == [8, 255, 0, 10]
    assert book.pages[ledger.key(ledger.root.network, 24)].cursor == 10
    other = Book()
    taken(other, tree, 1, "10.0.0.0/32")
    taken(other, tree, 1, "10.0.0.32/27")
    taken(other, tree, 1, "10.0.1.0/24")
    assert [page.cursor for page in other.pages.values() if page.cursor] == [1]


def test_a_piece_inside_a_larger_holding_is_covered_by_it() -> None:
    tree = blocks()
    book = Book()
    large = taken(book, tree, 1, "10.0.0.0/16")

    spot = locate(book, tree, 1, 10 << 24, 24)

    assert spot is not None
    assert spot.covered_by == large
    assert next_fence(book, tree, spot) is None
    small = Holding(4, 10 << 24, 24, 9, "x", "", 0.0)
    assert status(book, tree, 1, small) is Status.BLOCKED
    with pytest.raises(AssertionError, match=r"^10\.0\.0\.0/24 is not pending$"):
        fill(book, tree, 1, small)


def test_nothing_is_filled_under_a_root_that_is_closed() -> None:
    book = Book()
    ledger = addresses("10.0.0.0/24")
    waiting = ticket(book, ledger, 1, parse_prefix("10.0.0.7/32"))
    close(book, ledger, 24, ledger.root.network, 1)

    with pytest.raises(AssertionError, match=r"^10\.0\.0\.7 is not pending$"):
        fill(book, ledger, 1, waiting)
    before = dict(book.pages)
    free(book, ledger, 1, waiting, waiting.fence)
    assert book.pages == before


def test_a_page_with_a_holding_is_closed_by_force_only() -> None:
    book = Book()
    ledger = addresses("10.0.0.0/24")
    held = taken(book, ledger, 1, "10.0.0.7/32")
    waiting = ticket(book, ledger, 1, parse_prefix("10.0.0.8/32"))

    with pytest.raises(AssertionError, match=r"^closing address-page 10\.0\.0\.0/24, in which 10\.0\.0\.7 is held$"):
        close(book, ledger, 24, ledger.root.network, 1)
    assert close(book, ledger, 24, ledger.root.network, 1, force=True) == held.fence + 1

    assert book.pages == {ledger.key(ledger.root.network, 24): Page(2, 0, (3,) * 256)}
    assert book.puts[-1] == Put("address-page 10.0.0.0/24", 24, None, True)
    assert [status(book, ledger, 1, each) for each in (held, waiting)] == [Status.DEAD] * 2
    assert [status(book, ledger, 4, each) for each in (held, waiting)] == [Status.DEAD] * 2


def test_a_page_that_was_never_written_is_closed_by_creating_it() -> None:
    book = Book()
    ledger = addresses("10.0.0.0/30")

    assert close(book, ledger, 30, ledger.root.network, 5) == 6

    assert book.pages == {ledger.key(ledger.root.network, 30): Page(6, 0, (6,) * 4)}
    assert close(book, ledger, 30, ledger.root.network, 5) == 6


def test_a_larger_piece_closes_the_pages_below_it_before_it_takes_their_place() -> None:
    tree = blocks()
    book = Book()
    small = taken(book, tree, 1, "10.0.0.0/26")
    tiny = taken(book, tree, 1, "10.0.0.64/28")
    free(book, tree, 1, small, small.fence)
    spot = locate(book, tree, 1, 10 << 24, 24)
    assert spot is not None
    assert next_fence(book, tree, spot) is None, "10.0.0.64/28 is still held"
    free(book, tree, 1, tiny, tiny.fence + 5, 70.0)
    book.puts.clear()

    large = taken(book, tree, 1, "10.0.0.0/24")

    assert large.fence == tiny.fence + 6
    assert book.puts == [
        Put("block-page 10.0.0.64/26", 26, None, True),
        Put("block-page 10.0.0.0/18", 18, (0, 1, 2, 3), False),
    ]
    assert list(holdings(book, tree, 1)) == [large]


def test_what_is_not_taken_of_a_piece_that_cools_goes_on_to_cool() -> None:
    tree = blocks()
    book = Book()
    large = taken(book, tree, 1, "10.0.0.0/26")
    free(book, tree, 1, large, large.fence, 70.0)
    assert book.pages[tree.key(10 << 24, 18)].slots[0] == Cooling(large.fence, 70.0)

    small = taken(book, tree, 1, "10.0.0.0/27")

    page = book.pages[tree.key(10 << 24, 26)]
    assert page.slots == (small,) * 32 + (Cooling(large.fence + 1, 70.0),) * 32
    assert small.fence == large.fence + 2


def test_the_last_fence_of_a_region_is_found_however_deep_it_was_used() -> None:
    book = Book()
    tree = blocks()
    deep = taken(book, tree, 1, "10.0.64.64/28")
    free(book, tree, 1, deep, deep.fence + 7)
    other = taken(book, tree, 1, "10.0.64.128/27")
    free(book, tree, 1, other, other.fence)
    book.puts.clear()

    large = taken(book, tree, 1, "10.0.64.0/18")

    assert large.fence == deep.fence + 8
    assert [(put.key, put.closing) for put in book.puts] == [
        ("block-page 10.0.64.64/26", True),
        ("block-page 10.0.64.128/26", True),
        ("block-page 10.0.64.0/18", True),
        ("block-page 10.0.0.0/10", False),
    ]
    assert book.puts[-1].slots == (1,)
    assert status(book, tree, 1, deep) is Status.DEAD
    assert list(holdings(book, tree, 1)) == [large]


def test_a_region_whose_page_was_never_written_ends_at_the_fence_of_its_link() -> None:
    book = Book()
    tree = blocks()
    gone = taken(book, tree, 1, "10.0.64.64/28")
    del book.pages[tree.key(gone.network, 26)]

    assert ticket(book, tree, 1, parse_prefix("10.0.64.0/24")).fence == gone.fence
    assert status(book, tree, 1, gone) is Status.PENDING


def test_a_run_that_is_partly_split_and_partly_cools_takes_the_highest_of_their_fences() -> None:
    book = Book()
    tree = blocks()
    small = taken(book, tree, 1, "10.0.1.128/28")
    free(book, tree, 1, small, 20)
    assert ticket(book, tree, 1, parse_prefix("10.0.1.0/24")).fence == 21

    cool = taken(book, tree, 1, "10.0.1.0/26")
    free(book, tree, 1, cool, 30, 70.0)

    assert ticket(book, tree, 1, parse_prefix("10.0.1.0/24")).fence == 31
    held = taken(book, tree, 1, "10.0.1.64/26")
    spot = locate(book, tree, 1, held.network & ~255, 24)
    assert spot is not None
    assert next_fence(book, tree, spot) is None
    assert status(book, tree, 1, held._replace(network=held.network & ~255, length=24, fence=99)) is Status.CROSSED


def test_an_address_goes_on_to_cool_where_its_page_is_closed_and_used_anew() -> None:
    book = Book()
    ledger = addresses("10.0.0.0/22")
    early = taken(book, ledger, 1, "10.0.1.7/32")
    free(book, ledger, 1, early, early.fence, 70.0)
    late = taken(book, ledger, 1, "10.0.1.8/32")

    used = close(book, ledger, 22, ledger.root.network, 1, force=True, until=90.0)

    ended = book.pages[ledger.key(late.network, 24)]
    assert ended == Page(3, 0, (4,) * 7 + (Cooling(4, 70.0), Cooling(4, 90.0)) + (4,) * 247)
    again = taken(book, ledger, used + 1, "10.0.1.9/32")
    page = book.pages[ledger.key(late.network, 24)]
    assert page.slots[6:11] == (6, Cooling(6, 70.0), Cooling(6, 90.0), again, 6)


def test_a_block_that_cools_does_so_no_longer_once_a_larger_one_is_taken_over_it() -> None:
    book = Book()
    tree = blocks()
    small = taken(book, tree, 1, "10.0.0.64/28")
    free(book, tree, 1, small, small.fence, 70.0)

    taken(book, tree, 1, "10.0.0.0/24")

    assert book.pages[tree.key(small.network, 26)] == Page(6, 0, (small.fence + 1,) * 64)


def test_a_larger_piece_is_not_put_over_what_is_held_below_it() -> None:
    book = Book()
    tree = blocks()
    taken(book, tree, 1, "10.0.0.64/28")

    with pytest.raises(AssertionError, match=r"^closing block-page 10\.0\.0\.64/26, in which 10\.0\.0\.64/28 is held$"):
        fill(book, tree, 1, Holding(4, 10 << 24, 24, 99, "x", "", 0.0))


def test_a_link_never_names_an_older_fence_than_its_page_has() -> None:
    book = Book()
    tree = blocks()
    small = taken(book, tree, 1, "10.0.0.64/28")
    free(book, tree, 1, small, small.fence)
    assert close(book, tree, 26, small.network, small.fence - 1) == small.fence + 1
    book.pages[tree.key(small.network, 26)] = Page(90, 0, (90,) * 64)

    spot = locate(book, tree, 1, small.network, 28)

    assert spot is not None
    assert [link.fence for link in spot.links] == [90]
    assert ticket(book, tree, 1, small.prefix).fence == 91


def test_a_closed_page_is_linked_again_under_a_newer_fence() -> None:
    book = Book()
    tree = blocks()
    small = taken(book, tree, 1, "10.0.0.64/28")
    free(book, tree, 1, small, small.fence)
    close(book, tree, 26, small.network, small.fence - 1)

    again = taken(book, tree, 1, "10.0.0.64/28")

    assert again.fence == small.fence + 2
    assert book.pages[tree.key(small.network, 18)].slots[1] == Split(small.fence)
    assert list(holdings(book, tree, 1)) == [again]


def test_a_page_that_is_void_is_closed_with_all_it_holds() -> None:
    book = Book()
    ledger = addresses("10.0.0.0/24")
    held = taken(book, ledger, 1, "10.0.0.7/32")

    assert close(book, ledger, 24, ledger.root.network, held.fence + 3) == held.fence + 4

    assert book.pages[ledger.key(ledger.root.network, 24)] == Page(held.fence + 4, 0, (held.fence + 4,) * 256)


def test_whatever_a_void_page_leads_to_is_closed_before_it_is_raised() -> None:
    book = Book()
    ledger = addresses("10.0.0.0/22")
    held = taken(book, ledger, 1, "10.0.1.7/32")

    again = taken(book, ledger, 5, "10.0.2.9/32")

    assert book.pages[ledger.key(held.network, 24)] == Page(3, 0, (held.fence + 1,) * 256)
    assert list(holdings(book, ledger, 5)) == [again]


def test_a_larger_piece_that_is_pending_is_ended_with_the_pages_below_it() -> None:
    book = Book()
    tree = blocks()
    below = taken(book, tree, 1, "10.0.1.64/28")
    free(book, tree, 1, below, below.fence)
    waiting = ticket(book, tree, 1, parse_prefix("10.0.1.0/24"))

    free(book, tree, 1, waiting, waiting.fence)

    assert book.pages[tree.key(10 << 24, 18)].slots == (4, 4, 4, 4, 7, 7, 7, 7, *[4] * 248)
    assert book.pages[tree.key(below.network, 26)] == Page(6, 0, (below.fence + 1,) * 64)
    assert (below.fence, waiting.fence) == (6, 7)


# ------------------------------------------------------------------------------------------------------------- tickets


def test_a_ticket_is_good_once() -> None:
    tree = blocks()
    book = Book()
    filled = taken(book, tree, 1, "10.0.0.0/24")
    free(book, tree, 1, filled, filled.fence)
    waiting = ticket(book, tree, 1, parse_prefix("10.0.1.0/24"))
    free(book, tree, 1, waiting, waiting.fence)

    assert [status(book, tree, 1, each) for each in (filled, waiting)] == [Status.DEAD] * 2


def test_a_ticket_for_a_page_that_nothing_leads_to_is_ended_with_the_links_that_do() -> None:
    tree = blocks()
    book = Book()
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/24"))

    free(book, tree, 1, waiting, waiting.fence)

    assert [put.key for put in book.puts] == ["block-page 0.0.0.0/0", "block-page 0.0.0.0/2", "block-page 10.0.0.0/10", "block-page 10.0.0.0/18"]
    assert book.pages[tree.key(10 << 24, 18)] == Page(4, 0, (5,) * 4 + (4,) * 252)
    assert status(book, tree, 1, waiting) is Status.DEAD
    assert taken(book, tree, 1, "10.0.0.0/24").fence == 6


def test_a_ticket_inside_what_is_held_leaves_it_alone_when_it_is_ended() -> None:
    tree = blocks()
    book = Book()
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/28"))
    large = taken(book, tree, 1, "10.0.0.0/24")
    before = dict(book.pages)

    free(book, tree, 1, waiting, waiting.fence)

    assert book.pages == before
    free(book, tree, 1, large, large.fence)
    assert status(book, tree, 1, waiting) is Status.DEAD


@pytest.mark.parametrize("piece", ["10.0.0.0/24", "10.0.0.0/18", "10.0.0.0/12"])
def test_a_ticket_is_dead_once_a_part_was_taken_under_its_fence_or_a_later_one_and_given_back(piece: str) -> None:
    tree = blocks()
    book = Book()
    early = taken(book, tree, 1, "10.0.0.64/28")
    free(book, tree, 1, early, early.fence)
    waiting = ticket(book, tree, 1, parse_prefix(piece))
    part = taken(book, tree, 1, "10.0.0.64/28")

    found = [status(book, tree, 1, waiting)]
    free(book, tree, 1, part, part.fence)
    found.append(status(book, tree, 1, waiting))

    assert part.fence == waiting.fence
    assert found == [Status.DEAD] * 2
    taken(book, tree, 1, piece)
    assert status(book, tree, 1, waiting) is Status.DEAD


@pytest.mark.parametrize("crashes", [1, 2, 3])
def test_a_ticket_is_good_while_pages_are_closed_for_it_one_by_one(crashes: int) -> None:
    """Whoever closes may crash, and whoever finds the ticket goes on: both must find it good, or it is forgotten while it is filled."""
    tree = blocks()
    book = Book()
    for piece in ("10.0.0.64/28", "10.0.64.0/24"):
        early = taken(book, tree, 1, piece)
        free(book, tree, 1, early, early.fence)
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/16"))
    for network, level in ((10 << 24, 26), (10 << 24, 18), ((10 << 24) + (64 << 8), 18))[:crashes]:
        spot = locate(book, tree, 1, network, level + 1)
        assert spot is not None
        close(book, tree, level, spot.network, spot.page.fence)

        assert status(book, tree, 1, waiting) is Status.PENDING

    fill(book, tree, 1, waiting)
    assert status(book, tree, 1, waiting) is Status.HELD
    assert max(last(slot) for page in book.pages.values() for slot in page.slots) == waiting.fence


def test_ending_a_small_ticket_in_a_closed_page_ends_the_large_one_for_which_it_was_closed() -> None:
    """Only by a write to the page in which the large one would be filled: else whoever closed it would still fill it."""
    tree = blocks()
    book = Book()
    early = taken(book, tree, 1, "10.0.0.64/28")
    free(book, tree, 1, early, early.fence)
    large = ticket(book, tree, 1, parse_prefix("10.0.0.0/24"))
    spot = locate(book, tree, 1, early.network, 28)
    assert spot is not None
    close(book, tree, 26, spot.network, spot.page.fence)
    small = ticket(book, tree, 1, early.prefix)
    book.puts.clear()

    free(book, tree, 1, small, small.fence)

    assert small.fence > large.fence
    assert status(book, tree, 1, large) is Status.DEAD
    assert [put.key for put in book.puts] == ["block-page 10.0.0.0/18", "block-page 10.0.0.64/26"]


@pytest.mark.parametrize("block", ["10.0.0.0/24", "10.0.0.0/23", "2001:db8::/64"])
def test_a_ticket_of_one_holding_of_a_block_is_dead_under_the_next_one(block: str) -> None:
    """Also where its page was never written, so that closing the block could not mark it.

    A holder's claim is forgotten while the block is closed, and a sleeper that had read the claim filled it under the next holding.
    """
    book = Book()
    ledger = addresses(block)
    waiting = ticket(book, ledger, 1, Prefix(ledger.family, ledger.root.last, ledger.width))

    used = close(book, ledger, ledger.root.length, ledger.root.network, 1)

    assert status(book, ledger, 1, waiting) is Status.DEAD
    assert status(book, ledger, used + 1, waiting) is Status.DEAD


@pytest.mark.parametrize(
    ("later", "part", "marked"),
    [
        ("10.0.1.0/24", "10.0.0.0/28", "10.0.0.16/32"),
        ("10.0.1.0/24", "10.0.0.0/24", "10.0.1.0/26"),
        ("10.0.0.32/28", "10.0.0.0/28", "10.0.0.16/32"),
    ],
)
def test_a_ticket_of_which_a_part_is_held_under_an_older_fence_would_be_good_again_and_is_used_up(later: str, part: str, marked: str) -> None:
    tree = blocks()
    book = Book()
    first = taken(book, tree, 1, later)
    free(book, tree, 1, first, first.fence + 9, 70.0 if later == "10.0.1.0/24" and part == "10.0.0.0/24" else None)
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/23"))
    held = taken(book, tree, 1, part)
    assert held.fence < waiting.fence
    assert status(book, tree, 1, waiting) is Status.CROSSED
    kept = dict(book.pages)
    free(book, tree, 1, held, held.fence)
    assert status(book, tree, 1, waiting) is Status.PENDING
    book.pages = kept

    assert use_up(book, tree, 1, waiting)

    assert status(book, tree, 1, waiting) is Status.DEAD
    spot = locate(book, tree, 1, *parse_prefix(marked)[1:])
    assert spot is not None
    assert last(spot.page.slots[spot.start]) == waiting.fence
    assert list(holdings(book, tree, 1)) == [held]
    free(book, tree, 1, held, held.fence)
    assert status(book, tree, 1, waiting) is Status.DEAD


def test_a_slot_whose_page_is_closed_is_free_to_use_up_a_ticket_in() -> None:
    tree = blocks()
    book = Book()
    for piece in ("10.0.0.0/28", "10.0.0.64/28"):
        early = taken(book, tree, 1, piece)
        free(book, tree, 1, early, early.fence + (9 if piece == "10.0.0.0/28" else 0))
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/25"))
    closed = locate(book, tree, 1, 10 << 24, 28)
    assert closed is not None
    close(book, tree, 26, closed.network, closed.page.fence)
    held = taken(book, tree, 1, "10.0.0.64/28")
    assert status(book, tree, 1, waiting) is Status.CROSSED

    assert use_up(book, tree, 1, waiting)

    assert book.pages[tree.key(10 << 24, 18)].slots[0] == waiting.fence
    assert status(book, tree, 1, waiting) is Status.DEAD
    assert list(holdings(book, tree, 1)) == [held]


def test_a_split_slot_of_which_all_is_held_is_passed_over_to_use_up_a_ticket() -> None:
    tree = blocks()
    book = Book()
    early = taken(book, tree, 1, "10.0.0.64/26")
    free(book, tree, 1, early, early.fence + 9)
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/25"))
    halves = [taken(book, tree, 1, half) for half in ("10.0.0.0/27", "10.0.0.32/27")]
    assert status(book, tree, 1, waiting) is Status.CROSSED

    assert use_up(book, tree, 1, waiting)

    assert book.pages[tree.key(10 << 24, 18)].slots[1] == waiting.fence
    assert status(book, tree, 1, waiting) is Status.DEAD
    assert list(holdings(book, tree, 1)) == halves


def test_a_page_below_a_split_slot_that_was_not_read_shows_nothing() -> None:
    tree = blocks()
    book = Book()
    early = taken(book, tree, 1, "10.0.0.64/26")
    free(book, tree, 1, early, early.fence + 9)
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/25"))
    taken(book, tree, 1, "10.0.0.0/27")

    del book.pages[tree.key(10 << 24, 26)]

    assert status(book, tree, 1, waiting) is Status.PENDING


def test_a_slot_that_cools_is_free_to_use_up_a_ticket_in_and_cools_on() -> None:
    tree = blocks()
    book = Book()
    early = taken(book, tree, 1, "10.0.0.192/26")
    free(book, tree, 1, early, early.fence + 9, 70.0)
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.128/25"))
    held = taken(book, tree, 1, "10.0.0.128/26")
    assert status(book, tree, 1, waiting) is Status.CROSSED

    assert use_up(book, tree, 1, waiting)

    assert book.pages[tree.key(10 << 24, 18)].slots[1:4] == (early.fence - 1, held, Cooling(waiting.fence, 70.0))
    assert status(book, tree, 1, waiting) is Status.DEAD


def test_a_ticket_is_used_up_in_a_page_below_that_was_not_read() -> None:
    tree = blocks()
    book = Book()
    early = taken(book, tree, 1, "10.0.0.128/28")
    free(book, tree, 1, early, early.fence + 9)
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.128/25"))
    taken(book, tree, 1, "10.0.0.192/26")
    below = tree.key(early.network, 26)
    linked = book.pages.pop(below).fence
    assert status(book, tree, 1, waiting) is Status.CROSSED

    assert use_up(book, tree, 1, waiting)

    assert book.pages[below] == Page(linked, 0, (waiting.fence,) + (linked,) * 63)
    assert status(book, tree, 1, waiting) is Status.DEAD


def test_only_what_is_crossed_can_be_used_up() -> None:
    tree = blocks()
    book = Book()
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/24"))
    assert not use_up(book, tree, 1, waiting), "nothing leads there"
    taken(book, tree, 1, "10.0.0.0/16")
    assert not use_up(book, tree, 1, waiting), "it is covered"
    ledger = addresses("10.0.0.0/30")
    every = [taken(book, ledger, 1, f"10.0.0.{number}/32") for number in range(2)]
    assert not use_up(book, ledger, 1, every[0]._replace(length=31)), "all of it is held"
    close(book, ledger, 30, ledger.root.network, 1, force=True)
    assert not use_up(book, ledger, 1, every[0]), "the root is closed"


def test_a_holding_in_a_page_that_does_not_count_was_read_while_it_changed() -> None:
    book = Book()
    ledger = addresses("10.0.0.0/24")
    held = taken(book, ledger, 1, "10.0.0.7/32")
    key = ledger.key(ledger.root.network, 24)

    assert status(book, ledger, 2, held) is Status.TORN
    book.pages[key] = book.pages[key]._replace(fence=2)
    assert status(book, ledger, 2, held) is Status.HELD
    assert list(holdings(book, ledger, 1)) == []
    assert list(holdings(book, ledger, 2)) == [held]


@pytest.mark.parametrize("part", ["10.0.0.0/28", "10.0.0.0/25"])
def test_a_page_in_use_that_nothing_leads_to_was_read_after_the_page_above_it(part: str) -> None:
    tree = blocks()
    book = Book()
    taken(book, tree, 1, "10.32.0.0/24")
    above = book.pages[tree.key(10 << 24, 10)]
    waiting = ticket(book, tree, 1, parse_prefix("10.0.0.0/24"))._replace(fence=99)
    taken(book, tree, 1, part)
    assert status(book, tree, 1, waiting) is Status.CROSSED

    book.pages[tree.key(10 << 24, 10)] = above

    assert status(book, tree, 1, waiting) is Status.TORN


def test_two_pieces_of_one_holder_side_by_side_are_two_holdings() -> None:
    tree = blocks()
    book = Book()
    pieces = [taken(book, tree, 1, piece) for piece in ("10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/26", "10.0.3.0/28")]

    assert list(holdings(book, tree, 1)) == pieces


def test_what_a_store_read_again_is_equal_and_not_the_same_object() -> None:
    book = Book()
    tree = blocks()
    held = taken(book, tree, 1, "10.0.0.0/24")
    for key, page in book.pages.items():
        copies = tuple(Holding(*slot) if isinstance(slot, Holding) else slot for slot in page.slots)
        book.pages[key] = page._replace(slots=copies)

    assert list(holdings(book, tree, 1)) == [held]
    assert status(book, tree, 1, held) is Status.HELD
