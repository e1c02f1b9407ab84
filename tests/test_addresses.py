"""`BlockAddresses` against a recomputation from scratch, and fixed cases of it and of `draw`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam.addresses import POLICIES, BlockAddresses, Policy, draw
from ciliumipam.cidr import Family, Prefix, parse_prefix
from ciliumipam.errors import InvalidRequestError

SMALL_FOUR = ("10.0.0.8/29", "10.0.0.4/30", "10.0.0.2/31", "10.0.0.1/32")
SMALL_SIX = ("2001:db8::8/125", "2001:db8::4/126", "2001:db8::2/127", "2001:db8::1/128")
FLAGS = [(False, False), (True, False), (False, True), (True, True)]


def take_all(block: BlockAddresses) -> list[int]:
    """Allocate until nothing is left; what came out, in order."""
    taken = []
    while (number := block.pick()) is not None:
        assert block.occupy(number)
        position = number - block.block.network
        block.set_cursor(position >> 8, (position & 255) + 1)
        taken.append(number)
    return taken


@pytest.mark.parametrize(("allow_first", "allow_last"), FLAGS)
@pytest.mark.parametrize("cidr", [*SMALL_FOUR, *SMALL_SIX])
def test_first_and_last_are_handed_out_if_allowed_or_if_there_is_nothing_else(
    cidr: str, allow_first: bool, allow_last: bool
) -> None:
    prefix = parse_prefix(cidr)
    block = BlockAddresses(prefix, allow_first=allow_first, allow_last=allow_last)
    first = prefix.network + (prefix.size > 2 and not allow_first)
    last = prefix.last - (prefix.size > 2 and not allow_last)

    assert (block.capacity, block.available) == (prefix.size, last - first + 1)
    assert take_all(block) == list(range(first, last + 1))

    assert (block.available, block.in_use, block.reserved) == (0, last - first + 1, prefix.size - (last - first + 1))
    block.check_invariants()


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "10.0.0.0/12", "::/0", "2001:db8::/64"])
def test_blocks_of_any_length_count_without_being_filled(cidr: str) -> None:
    prefix = parse_prefix(cidr)

    block = BlockAddresses(prefix)

    assert (block.capacity, block.available, block.reserved) == (prefix.size, prefix.size - 2, 2)
    assert block.pick() == prefix.network + 1
    block.check_invariants()


def test_reserved_ranges_are_clipped_and_merged() -> None:
    prefix = parse_prefix("10.0.0.16/28")
    net = prefix.network
    ranges = [(net - 100, net + 2), (net + 3, net + 4), (net + 4, net + 5), (net + 9, net + 9), (net + 14, net + 900)]
    outside = [(net - 9, net - 1), (net + 16, net + 20)]

    block = BlockAddresses(prefix, ranges + outside)

    assert [n - net for n in range(net - 2, net + 18) if block.is_reserved(n)] == [0, 1, 2, 3, 4, 5, 9, 14, 15]
    assert (block.reserved, block.available) == (9, 7)
    assert [n - net for n in take_all(block)] == [6, 7, 8, 10, 11, 12, 13]
    block.check_invariants()


def test_a_reserved_half_of_a_64_costs_nothing_and_is_skipped() -> None:
    prefix = parse_prefix("2001:db8::/64")
    half = 2**63

    block = BlockAddresses(prefix, [(prefix.network, prefix.network + half + 4)])

    assert (block.reserved, block.available) == (half + 6, half - 6)
    assert block.pick() == prefix.network + half + 5
    block.check_invariants()


def test_a_block_reserved_altogether_gives_nothing() -> None:
    prefix = parse_prefix("10.0.0.0/24")

    block = BlockAddresses(prefix, [(0, 2**32 - 1)])

    assert (block.pick(), block.available, block.reserved, block.in_use) == (None, 0, 256, 0)
    assert not block.vacate(prefix.network + 7)
    assert block.pick() is None


def test_lowest_gives_a_released_address_at_once_but_next_goes_on() -> None:
    prefix = parse_prefix("10.0.0.0/24")
    policies: tuple[Policy, ...] = ("lowest", "next")
    got = {}
    for policy in policies:
        block = BlockAddresses(prefix, policy=policy)
        for slot in (1, 2, 3):
            block.occupy(prefix.network + slot)
        block.set_cursor(0, 4)
        block.vacate(prefix.network + 2)
        got[policy] = cast("int", block.pick()) - prefix.network

    assert got == {"lowest": 2, "next": 4}


def test_next_goes_round_inside_the_lowest_page_that_has_room_before_it_looks_at_the_next_page() -> None:
    prefix = parse_prefix("10.0.0.0/22")
    block = BlockAddresses(prefix)
    taken = take_all(block)
    for position in (900, 5, 300, 2):
        block.vacate(prefix.network + position)
    block.set_cursor(0, 4)

    assert taken == list(range(prefix.network + 1, prefix.last))
    assert [number - prefix.network for number in take_all(block)] == [5, 2, 300, 900]


def test_a_cursor_after_the_last_slot_of_a_page_is_its_first_slot() -> None:
    small, wide = BlockAddresses(parse_prefix("10.0.0.0/28")), BlockAddresses(parse_prefix("10.0.0.0/20"))

    for block, slots in ((small, 16), (wide, 256)):
        block.set_cursor(0, slots - 1)
        assert (block.cursor(0), block.cursor(1)) == (slots - 1, 0)
        block.set_cursor(0, slots)
        assert block.cursor(0) == 0
        block.check_invariants()


def test_pick_changes_nothing() -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/23"))

    picks = [block.pick() for _ in range(3)]

    assert picks == [block.block.network + 1] * 3
    assert (block.in_use, block.available) == (0, 510)


def test_an_address_held_before_it_was_reserved_counts_as_in_use_and_does_not_become_available() -> None:
    prefix = parse_prefix("10.0.0.0/29")
    block = BlockAddresses(prefix, [(prefix.network + 1, prefix.network + 2)])

    assert block.occupy(prefix.network + 2)
    assert not block.occupy(prefix.network + 2)
    assert (block.in_use, block.reserved, block.available) == (1, 3, 4)
    assert block.is_used(prefix.network + 2)
    assert block.is_reserved(prefix.network + 2)
    assert not block.is_used(prefix.network + 1)

    assert block.vacate(prefix.network + 2)
    assert not block.vacate(prefix.network + 2)
    assert (block.in_use, block.reserved, block.available) == (0, 4, 4)
    assert block.pick() == prefix.network + 3
    block.check_invariants()


def test_an_address_outside_its_block_is_neither_used_nor_reserved_and_cannot_be_occupied() -> None:
    block = BlockAddresses(parse_prefix("10.0.0.16/28"))
    for number in (block.block.network - 1, block.block.last + 1):
        assert not block.is_used(number)
        assert not block.is_reserved(number)
        assert not block.vacate(number)
        with pytest.raises(IndexError):
            block.occupy(number)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no policy 'sparse'; known: lowest, next, random"):
        BlockAddresses(parse_prefix("10.0.0.0/24"), policy=cast("Policy", "sparse"))


# ---------------------------------------------------------------------------------------------------- random


def test_a_draw_is_the_same_everywhere_and_for_ever() -> None:
    assert draw(0, "a") == 0xDE4113DB_C390DA87_9FDB19FF_7222BF92
    assert draw(-7, "cbr0/\u00fc/eth0") == 0xB6EA2493_5E82912B_AF3B28EF_5C23E497
    assert draw(0, "\udcff") not in (draw(0, "?"), draw(0, "\udcfe"))


def test_draws_of_owners_that_hardly_differ_spread_evenly_in_every_byte() -> None:
    draws = [draw(seed, f"cbr0/{order}/eth0") for seed in range(4) for order in range(6400)]

    assert len(set(draws)) == len(draws)
    for shift in range(0, 128, 8):
        counts = Counter(drawn >> shift & 255 for drawn in draws)
        assert set(counts) == set(range(256))
        assert max(counts.values()) < 160  # 100 expected
        assert min(counts.values()) > 50


def test_random_takes_the_first_free_address_from_the_drawn_position_on_and_goes_round_at_the_end() -> None:
    prefix = parse_prefix("10.0.0.16/28")
    net = prefix.network
    block = BlockAddresses(prefix, [(net + 4, net + 5)], policy="random")
    block.occupy(net + 6)
    block.occupy(net + 13)
    block.cool(net + 7, 9.0)

    picks = [cast("int", block.pick(drawn)) - net for drawn in range(16)]

    assert picks == [1, 1, 2, 3, 8, 8, 8, 8, 8, 9, 10, 11, 12, 14, 14, 1]
    assert [block.pick(drawn + 16 * 12345) for drawn in range(16)] == [net + pick for pick in picks]
    assert block.pick() == net + 1


def test_random_fills_a_block_to_the_last_address() -> None:
    prefix = parse_prefix("10.0.0.0/22")
    block = BlockAddresses(prefix, policy="random")

    taken = []
    for order in range(1022):
        number = cast("int", block.pick(draw(1, str(order))))
        assert block.occupy(number)
        taken.append(number)

    assert sorted(taken) == list(range(prefix.network + 1, prefix.last))
    assert taken != sorted(taken)
    assert block.pick(draw(1, "one too many")) is None
    block.check_invariants()


def test_random_finds_its_way_out_of_a_huge_reserved_range() -> None:
    prefix = parse_prefix("2001:db8::/64")
    net, half = prefix.network, 2**63
    block = BlockAddresses(prefix, [(net + 7, net + half), (prefix.last - 9, prefix.last)], policy="random")

    assert block.pick(5) == net + 5
    assert block.pick(7) == net + half + 1
    assert block.pick(half - 12345) == net + half + 1
    assert block.pick(half + 99) == net + half + 99
    assert block.pick(2**64 - 4) == net + 1
    block.check_invariants()


# ---------------------------------------------------------------------------------------------------- cooling


def counts(block: BlockAddresses) -> tuple[int, int, int, int]:
    block.check_invariants()
    return block.available, block.in_use, block.cooling, block.reserved


@pytest.mark.parametrize("policy", POLICIES)
def test_what_cools_is_neither_available_nor_in_use_until_its_time_and_not_a_moment_longer(policy: Policy) -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/30"), policy=policy)
    one, two = block.block.network + 1, block.block.network + 2
    block.occupy(one)
    block.vacate(one)

    block.cool(one, 100.5)

    assert counts(block) == (1, 0, 1, 2)
    assert (block.pick(), block.is_used(one), block.until(one), block.until(two)) == (two, False, 100.5, None)
    assert (block.cools_until, block.coolings()) == (100.5, [(one, 100.5)])
    assert block.expire(100.25) == 0
    assert counts(block) == (1, 0, 1, 2)
    assert block.expire(100.5) == 1
    assert counts(block) == (2, 0, 0, 2)
    assert (block.pick(), block.until(one), block.cools_until, block.coolings()) == (one, None, None, [])


def test_a_block_in_which_everything_cools_gives_nothing_and_says_from_when_on_it_does() -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/29"))
    for order, number in enumerate(take_all(block)):
        block.vacate(number)
        block.cool(number, 60 - order)

    assert (block.pick(), block.cools_until, counts(block)) == (None, 55, (0, 0, 6, 2))
    assert [block.expire(now) for now in (54, 55, 58, 57, 60)] == [0, 1, 3, 0, 2]
    assert counts(block) == (6, 0, 0, 2)


def test_a_cooling_address_that_is_occupied_is_held_and_no_time_takes_it_away() -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/29"))
    number = block.block.network + 3
    block.cool(number, 10)

    assert block.occupy(number)
    assert not block.occupy(number)

    assert counts(block) == (5, 1, 0, 2)
    assert (block.is_used(number), block.until(number), block.cools_until) == (True, None, None)
    assert block.expire(10) == 0
    assert counts(block) == (5, 1, 0, 2)


def test_a_cooling_address_is_not_held_so_it_cannot_be_vacated() -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/29"))
    number = block.block.network + 3
    block.cool(number, 10)

    assert not block.vacate(number)

    assert (counts(block), block.until(number)) == ((5, 0, 1, 2), 10)


def test_a_later_word_on_the_time_replaces_the_earlier_one_whichever_is_sooner() -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/29"))
    longer, shorter = block.block.network + 1, block.block.network + 2
    for number, until in ((longer, 10), (shorter, 90), (longer, 50), (shorter, 20)):
        block.cool(number, until)

    assert counts(block) == (4, 0, 2, 2)
    assert [block.expire(now) for now in (10, 19)] == [0, 0]
    assert block.cools_until == 20
    assert [block.expire(now) for now in (20, 49, 50, 90)] == [1, 0, 1, 0]


def test_what_is_warmed_is_available_at_once_and_may_cool_again_until_the_same_time() -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/29"))
    number = block.block.network + 1
    block.cool(number, 10)

    assert block.warm(number)
    assert not block.warm(number)

    assert (counts(block), block.cools_until) == ((6, 0, 0, 2), None)
    block.cool(number, 10)
    assert (block.expire(9), counts(block)) == (0, (5, 0, 1, 2))
    assert (block.expire(10), counts(block)) == (1, (6, 0, 0, 2))


def test_a_reserved_address_counts_as_reserved_whether_it_cools_or_not() -> None:
    prefix = parse_prefix("10.0.0.0/29")
    number = prefix.network + 3
    block = BlockAddresses(prefix, [(number, number)])
    block.occupy(number)
    block.vacate(number)

    block.cool(number, 10)

    assert (counts(block), block.until(number), block.cools_until) == ((5, 0, 0, 3), None, None)
    assert not block.warm(number)
    assert block.expire(10) == 0
    assert counts(block) == (5, 0, 0, 3)


def test_what_is_held_or_outside_cannot_cool() -> None:
    prefix = parse_prefix("10.0.0.16/29")
    block = BlockAddresses(prefix, [(prefix.network + 3, prefix.network + 3)])
    for position in (2, 3):
        block.occupy(prefix.network + position)
        with pytest.raises(ValueError, match=rf"address {position} of block 10\.0\.0\.16/29 is held"):
            block.cool(prefix.network + position, 10)
    for number in (prefix.network - 1, prefix.last + 1):
        with pytest.raises(IndexError):
            block.cool(number, 10)
        assert not block.warm(number)
        assert block.until(number) is None

    assert counts(block) == (4, 2, 0, 2)


def test_addresses_that_never_come_to_their_time_leave_nothing_behind() -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/24"))
    numbers = range(block.block.network + 1, block.block.network + 11)
    for round_ in range(1000):
        for number in numbers:
            block.cool(number, 1e9 + round_)
            assert block.warm(number) if round_ % 2 else block.occupy(number)
            block.vacate(number)

    assert len(block._due) <= 2 * len(numbers) + 16
    assert counts(block) == (254, 0, 0, 2)


@pytest.mark.parametrize("times", range(10, 100))
def test_times_that_are_put_off_again_and_again_are_still_kept_in_order(times: int) -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/24"))
    first = block.block.network + 1

    for time in range(times):
        position = time % 10
        block.cool(first + position, time + 1000 * (position * 7 % 10))

    block.check_invariants()
    assert len(block._due) <= 36
    assert [block.expire(999 + 1000 * order) for order in range(10)] == [1] * 10


# ---------------------------------------------------------------------------------------------------- self-check


def _count_wrong(block: BlockAddresses) -> None:
    block._total_reserved += 1


def _cursor_outside(block: BlockAddresses) -> None:
    block._cursors[0] = 256


def _reserved_available(block: BlockAddresses) -> None:
    block._taken.discard(0)
    block._taken.add(9)


def _held_as_reserved(block: BlockAddresses) -> None:
    block._held_reserved.add(block.block.network + 9)


def _ranges_not_merged(block: BlockAddresses) -> None:
    block._bounds[1:1] = [block._bounds[0] + 1, block._bounds[0] + 1]


def _cooling_available(block: BlockAddresses) -> None:
    block._taken.discard(6)
    block._taken.add(9)


def _reserved_cooling(block: BlockAddresses) -> None:
    block._cooling[block.block.network] = 9
    block._due.append((9, block.block.network))


def _never_due(block: BlockAddresses) -> None:
    block._due.clear()


@pytest.mark.parametrize(
    "fault",
    [
        _count_wrong,
        _cursor_outside,
        _reserved_available,
        _held_as_reserved,
        _ranges_not_merged,
        _cooling_available,
        _reserved_cooling,
        _never_due,
    ],
)
def test_the_self_check_of_a_block_tells_a_fault(fault: Callable[[BlockAddresses], None]) -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/24"))
    block.occupy(block.block.network + 5)
    block.cool(block.block.network + 6, 7)
    block.check_invariants()

    fault(block)

    with pytest.raises(AssertionError):
        block.check_invariants()


TIMES = st.sampled_from((0.0, 1.0, 1.5, 2.0, 3.0, 1e9))
DRAWS = st.one_of(st.integers(0, 1100), st.integers(0, 2**128 - 1))


class BlockMachine(RuleBasedStateMachine):
    """A block of up to four pages, every answer computed anew out of plain sets, and out of a block built anew."""

    @initialize(
        data=st.data(),
        length=st.sampled_from((32, 31, 30, 29, 28, 25, 24, 24, 23, 23, 22)),
        family=st.sampled_from((4, 6)),
        allow=st.sampled_from(FLAGS),
        policy=st.sampled_from(POLICIES),
    )
    def begin(self, data: st.DataObject, length: int, family: Family, allow: tuple[bool, bool], policy: Policy) -> None:
        network = 10 << 24 if family == 4 else 0x20010DB8 << 96
        self.prefix = Prefix(family, network + (1 << 12), length if family == 4 else length + 96)
        self.first, self.last = self.prefix.network, self.prefix.last
        near = st.integers(self.first - 40, self.last + 40)
        ends = data.draw(st.lists(st.tuples(near, near), max_size=4))
        self.ranges = [(min(pair), max(pair)) for pair in ends]
        self.allow = allow
        self.policy = policy
        self.block = self.new_block()
        self.everything = range(self.first, self.last + 1)
        self.reserved = {n for n in self.everything if any(low <= n <= high for low, high in self.ranges)}
        if self.prefix.size > 2:
            self.reserved |= {self.first} if not allow[0] else set()
            self.reserved |= {self.last} if not allow[1] else set()
        self.used: set[int] = set()
        self.cooling: dict[int, float] = {}
        self.cursors: dict[int, int] = {}

    def new_block(self) -> BlockAddresses:
        first, last = self.allow
        return BlockAddresses(self.prefix, self.ranges, allow_first=first, allow_last=last, policy=self.policy)

    def free(self) -> list[int]:
        return [n for n in self.everything if n not in self.reserved and n not in self.used and n not in self.cooling]

    def expected_pick(self, drawn: int) -> int | None:
        free = self.free()
        if not free or self.policy == "lowest":
            return free[0] if free else None
        if self.policy == "random":
            position = drawn % self.prefix.size
            return next((n for n in free if n >= self.first + position), free[0])
        page = (free[0] - self.first) // 256
        there = [n for n in free if (n - self.first) // 256 == page]
        ahead = [n for n in there if (n - self.first) % 256 >= self.cursors.get(page, 0)]
        return (ahead or there)[0]

    @rule(times=st.sampled_from((1, 1, 1, 7, 260)), drawn=DRAWS)
    def allocate(self, times: int, drawn: int) -> None:
        for _ in range(times):
            number = self.block.pick(drawn)
            assert number == self.expected_pick(drawn)
            if number is None:
                break
            assert self.block.occupy(number)
            page, slot = divmod(number - self.first, 256)
            self.block.set_cursor(page, slot + 1)
            self.cursors[page] = (slot + 1) % min(256, self.prefix.size)
            self.used.add(number)

    @rule(data=st.data())
    def occupy(self, data: st.DataObject) -> None:
        self.occupy_this(data.draw(st.integers(self.first, self.last)))

    @precondition(lambda self: self.cooling)
    @rule(data=st.data())
    def occupy_what_cools(self, data: st.DataObject) -> None:
        self.occupy_this(data.draw(st.sampled_from(sorted(self.cooling))))

    def occupy_this(self, number: int) -> None:
        assert self.block.occupy(number) == (number not in self.used)
        self.used.add(number)
        self.cooling.pop(number, None)

    @rule(data=st.data())
    def vacate(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.first - 2, self.last + 2))

        assert self.block.vacate(number) == (number in self.used)
        self.used.discard(number)

    @precondition(lambda self: self.used)
    @rule(data=st.data(), until=st.none() | TIMES, many=st.booleans())
    def vacate_what_is_used(self, data: st.DataObject, until: float | None, many: bool) -> None:
        one = data.draw(st.sampled_from(sorted(self.used)))
        for number in sorted(self.used) if many else [one]:
            assert self.block.vacate(number)
            self.used.discard(number)
            if until is not None:
                self.cool_this(number, until)

    @rule(data=st.data(), until=TIMES)
    def cool(self, data: st.DataObject, until: float) -> None:
        number = data.draw(st.integers(self.first, self.last))
        if number in self.used:
            with pytest.raises(ValueError, match="is held"):
                self.block.cool(number, until)
        else:
            self.cool_this(number, until)

    def cool_this(self, number: int, until: float) -> None:
        self.block.cool(number, until)
        if number not in self.reserved:
            self.cooling[number] = until

    @precondition(lambda self: self.cooling)
    @rule(data=st.data(), until=st.none() | TIMES)
    def warm_or_cool_anew(self, data: st.DataObject, until: float | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.cooling)))
        if until is None:
            assert self.block.warm(number)
            del self.cooling[number]
        else:
            self.cool_this(number, until)

    @rule(data=st.data())
    def warm(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.first - 2, self.last + 2))

        assert self.block.warm(number) == (number in self.cooling)
        self.cooling.pop(number, None)

    @rule()
    def ask_when_the_first_is_due(self) -> None:
        assert self.block.cools_until == min(self.cooling.values(), default=None)

    @rule(now=TIMES)
    def expire(self, now: float) -> None:
        due = {number for number, until in self.cooling.items() if until <= now}

        assert self.block.expire(now) == len(due)
        self.cooling = {number: until for number, until in self.cooling.items() if number not in due}

    @rule(data=st.data(), slot=st.integers(0, 255))
    def set_cursor(self, data: st.DataObject, slot: int) -> None:
        page = data.draw(st.integers(0, (self.prefix.size - 1) // 256))
        slot %= min(256, self.prefix.size)

        self.block.set_cursor(page, slot)
        self.cursors[page] = slot

    @rule(now=TIMES, drawn=DRAWS)
    def build_anew_from_the_facts(self, now: float, drawn: int) -> None:
        fresh = self.new_block()
        for number in self.used:
            fresh.occupy(number)
        for number, until in self.cooling.items():
            fresh.cool(number, until)
        for page, slot in self.cursors.items():
            fresh.set_cursor(page, slot)

        self.expire(now)
        fresh.expire(now)

        assert fresh.pick(drawn) == self.block.pick(drawn)
        assert (counts(fresh), fresh.coolings()) == (counts(self.block), self.block.coolings())
        self.block = fresh

    @rule(drawn=DRAWS)
    def pick(self, drawn: int) -> None:
        assert self.block.pick(drawn) == self.expected_pick(drawn)

    @invariant()
    def agrees(self) -> None:
        assert self.block.pick() == self.expected_pick(0)
        assert counts(self.block) == (
            len(self.free()), len(self.used), len(self.cooling), len(self.reserved - self.used),
        )  # fmt: skip
        assert self.block.coolings() == sorted(self.cooling.items())
        around = range(self.first - 2, self.last + 3)
        assert {n for n in around if self.block.is_used(n)} == self.used
        assert {n for n in around if self.block.is_reserved(n)} == self.reserved
        assert {n: until for n in around if (until := self.block.until(n)) is not None} == self.cooling
        pages = range(-(-self.prefix.size // 256))
        assert [self.block.cursor(page) for page in pages] == [self.cursors.get(page, 0) for page in pages]


TestBlockMachine = BlockMachine.TestCase
