"""`BlockAddresses` against a recomputation from scratch, `NodeAllocator` against its oracle, and fixed cases of both."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam.addresses import BlockAddresses, Policy
from ciliumipam.allocator import AddressHolding, NodeAllocator, Utilization, _Side
from ciliumipam.cidr import Address, Family, Prefix, parse_prefix
from ciliumipam.errors import (
    AlreadyAllocatedError,
    BlockNotEmptyError,
    InvalidAddressError,
    InvalidCidrError,
    InvalidNameError,
    InvalidRequestError,
    IpamError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    OutOfRangeError,
    OwnerHoldsError,
    ReservedAddressError,
    StaleFenceError,
)
from ciliumipam.testing.address_oracle import AddressOracle

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


# ---------------------------------------------------------------------------------------------------- one block


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
    with pytest.raises(InvalidRequestError, match="no policy 'sparse'; known: lowest, next"):
        BlockAddresses(parse_prefix("10.0.0.0/24"), policy=cast("Policy", "sparse"))


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


@pytest.mark.parametrize(
    "fault", [_count_wrong, _cursor_outside, _reserved_available, _held_as_reserved, _ranges_not_merged]
)
def test_the_self_check_of_a_block_tells_a_fault(fault: Callable[[BlockAddresses], None]) -> None:
    block = BlockAddresses(parse_prefix("10.0.0.0/24"))
    block.occupy(block.block.network + 5)
    block.check_invariants()

    fault(block)

    with pytest.raises(AssertionError):
        block.check_invariants()


class BlockMachine(RuleBasedStateMachine):
    """A block of up to four pages, every answer computed anew out of plain sets."""

    @initialize(
        data=st.data(),
        length=st.sampled_from((32, 31, 30, 29, 28, 25, 24, 24, 23, 23, 22)),
        family=st.sampled_from((4, 6)),
        allow=st.sampled_from(FLAGS),
        policy=st.sampled_from(("next", "lowest")),
    )
    def begin(self, data: st.DataObject, length: int, family: Family, allow: tuple[bool, bool], policy: Policy) -> None:
        network = 10 << 24 if family == 4 else 0x20010DB8 << 96
        self.prefix = Prefix(family, network + (1 << 12), length if family == 4 else length + 96)
        self.first, self.last = self.prefix.network, self.prefix.last
        near = st.integers(self.first - 40, self.last + 40)
        ends = data.draw(st.lists(st.tuples(near, near), max_size=4))
        ranges = [(min(pair), max(pair)) for pair in ends]
        self.block = BlockAddresses(self.prefix, ranges, allow_first=allow[0], allow_last=allow[1], policy=policy)
        self.everything = range(self.first, self.last + 1)
        self.reserved = {n for n in self.everything if any(low <= n <= high for low, high in ranges)}
        if self.prefix.size > 2:
            self.reserved |= {self.first} if not allow[0] else set()
            self.reserved |= {self.last} if not allow[1] else set()
        self.used: set[int] = set()
        self.cursors: dict[int, int] = {}
        self.policy = policy

    def free(self) -> list[int]:
        return [n for n in self.everything if n not in self.reserved and n not in self.used]

    def expected_pick(self) -> int | None:
        free = self.free()
        if not free or self.policy == "lowest":
            return free[0] if free else None
        page = (free[0] - self.first) // 256
        there = [n for n in free if (n - self.first) // 256 == page]
        ahead = [n for n in there if (n - self.first) % 256 >= self.cursors.get(page, 0)]
        return (ahead or there)[0]

    @rule(times=st.sampled_from((1, 1, 1, 7, 260)))
    def allocate(self, times: int) -> None:
        for _ in range(times):
            number = self.block.pick()
            assert number == self.expected_pick()
            if number is None:
                break
            assert self.block.occupy(number)
            page, slot = divmod(number - self.first, 256)
            self.block.set_cursor(page, slot + 1)
            self.cursors[page] = (slot + 1) % min(256, self.prefix.size)
            self.used.add(number)

    @rule(data=st.data())
    def occupy(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.first, self.last))

        assert self.block.occupy(number) == (number not in self.used)
        self.used.add(number)

    @rule(data=st.data())
    def vacate(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(self.first - 2, self.last + 2))

        assert self.block.vacate(number) == (number in self.used)
        self.used.discard(number)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def vacate_a_used_one(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.used)))

        assert self.block.vacate(number)
        self.used.discard(number)

    @rule(data=st.data(), slot=st.integers(0, 255))
    def set_cursor(self, data: st.DataObject, slot: int) -> None:
        page = data.draw(st.integers(0, (self.prefix.size - 1) // 256))
        slot %= min(256, self.prefix.size)

        self.block.set_cursor(page, slot)
        self.cursors[page] = slot

    @invariant()
    def agrees(self) -> None:
        self.block.check_invariants()
        assert self.block.pick() == self.expected_pick()
        assert self.block.in_use == len(self.used)
        assert self.block.reserved == len(self.reserved - self.used)
        assert self.block.available == len(self.free())
        around = range(self.first - 2, self.last + 3)
        assert {n for n in around if self.block.is_used(n)} == self.used
        assert {n for n in around if self.block.is_reserved(n)} == self.reserved
        pages = range(-(-self.prefix.size // 256))
        assert [self.block.cursor(page) for page in pages] == [self.cursors.get(page, 0) for page in pages]


TestBlockMachine = BlockMachine.TestCase


# ---------------------------------------------------------------------------------------------------- one node


def last_bytes(holdings: object) -> list[int]:
    return [int(holding.address) & 255 for holding in cast("list[AddressHolding]", holdings)]


def test_an_allocation_names_owner_label_address_block_and_fence() -> None:
    node = NodeAllocator(["10.0.1.0/24", "2001:db8:1::/64"], node="node-1")

    four = node.allocate("cbr0/c1/eth0", family=4, label="default/web-0")
    six = node.allocate("cbr0/c1/eth0", family=6, label="default/web-0")

    assert four == AddressHolding(
        "cbr0/c1/eth0", "default/web-0", IPv4Address("10.0.1.1"), 4, IPv4Network("10.0.1.0/24"), 1
    )
    assert six == AddressHolding(
        "cbr0/c1/eth0", "default/web-0", IPv6Address("2001:db8:1::1"), 6, IPv6Network("2001:db8:1::/64"), 1
    )
    assert node.holdings() == [four, six]
    assert node.release("cbr0/c1/eth0") == (four, six)
    assert node.release("cbr0/c1/eth0") == ()
    node.check_invariants()


def test_the_same_owner_gets_the_same_address_and_keeps_its_first_label() -> None:
    node = NodeAllocator(["10.0.1.0/24"])

    first = node.allocate("a", label="default/a")
    again = node.allocate("a", label="default/b")

    assert again is first
    assert node.allocate("a", address="10.0.1.1") is first
    assert node.utilization(4) == Utilization(256, 253, 1, 2)
    with pytest.raises(OwnerHoldsError) as caught:
        node.allocate("a", address="10.0.1.2")
    assert caught.value.args == ("a", "10.0.1.1", "10.0.1.2")


def test_early_blocks_fill_and_serve_again_as_soon_as_they_have_room() -> None:
    node = NodeAllocator(["10.0.9.0/30", "10.0.1.0/30", "10.0.5.0/30"])
    got = [str(node.allocate(owner).address) for owner in "abcdef"]
    assert got == ["10.0.9.1", "10.0.9.2", "10.0.1.1", "10.0.1.2", "10.0.5.1", "10.0.5.2"]

    node.release("c")
    node.release("a")

    assert [str(node.allocate(owner).address) for owner in "gh"] == ["10.0.9.1", "10.0.1.1"]
    with pytest.raises(NodeExhaustedError):
        node.allocate("i")
    node.check_invariants()


def test_a_full_node_says_what_it_looked_at() -> None:
    node = NodeAllocator(["10.0.1.0/30", "10.0.2.0/31"], node="node-1", reserved=["10.0.2.0/32"])
    for owner in "abc":
        node.allocate(owner)

    with pytest.raises(NodeExhaustedError) as caught:
        node.allocate("d")

    assert caught.value.args == ("node-1", 4, ("10.0.1.0/30", "10.0.2.0/31"), 6, 3, 3, 1)


def test_the_family_must_be_said_only_where_there_are_two() -> None:
    node = NodeAllocator(node="node-1")
    with pytest.raises(NoBlockError) as nothing:
        node.allocate("a")
    assert (nothing.value.node, nothing.value.family) == ("node-1", 0)

    node.add_block("2001:db8::/120")
    assert node.allocate("a").family == 6
    with pytest.raises(NoBlockError) as no_four:
        node.allocate("a", family=4)
    assert no_four.value.family == 4

    node.add_block("10.0.0.0/24")
    with pytest.raises(InvalidRequestError, match="say which family"):
        node.allocate("a")
    with pytest.raises(InvalidRequestError, match="say which family"):
        node.allocate_many(["a"])
    assert node.allocate("a", family=4).family == 4
    assert node.allocate("b", address="10.0.0.9").family == 4

    with pytest.raises(InvalidRequestError, match=r"10\.0\.0\.8 is an IPv4 address, but family 6"):
        node.allocate("c", family=6, address="10.0.0.8")
    with pytest.raises(InvalidRequestError, match="no address family 5"):
        node.allocate("c", family=cast("Family", 5))


def test_a_given_address_is_refused_with_the_reason() -> None:
    node = NodeAllocator(["10.0.1.0/24"], node="node-1", reserved=[("10.0.1.10", "10.0.1.12"), "10.0.1.64/28"])
    node.allocate("a", address="10.0.1.5", label="default/a")

    with pytest.raises(AlreadyAllocatedError) as taken:
        node.allocate("b", address="10.0.1.5")
    assert taken.value.args == ("10.0.1.5", "a", "default/a")
    with pytest.raises(OutOfRangeError) as outside:
        node.allocate("b", address="10.0.2.5")
    assert outside.value.args == ("10.0.2.5", "the blocks of node 'node-1'", ("10.0.1.0/24",))
    with pytest.raises(OutOfRangeError):
        node.allocate("b", address="10.0.0.255")
    with pytest.raises(NoBlockError):
        node.allocate("b", address="2001:db8::1")
    with pytest.raises(InvalidAddressError):
        node.allocate("b", address="10.0.1.300")
    for address, reason in [
        ("10.0.1.0", "it is the first address of its block 10.0.1.0/24"),
        ("10.0.1.255", "it is the last address of its block 10.0.1.0/24"),
        ("10.0.1.12", "it lies in a reserved range of node 'node-1'"),
        ("10.0.1.64", "it lies in a reserved range of node 'node-1'"),
    ]:
        with pytest.raises(ReservedAddressError) as reserved:
            node.allocate("b", address=address)
        assert reserved.value.args == (address, reason)
    assert [holding.owner for holding in node.holdings()] == ["a"]


def test_the_reason_names_a_range_where_first_and_last_are_allowed_or_do_not_count() -> None:
    node = NodeAllocator(["10.0.1.0/24", "10.0.2.0/31"], reserved=["10.0.0.0/8"], allow_first=True, allow_last=True)
    other = NodeAllocator(["10.0.2.0/31"], reserved=["10.0.0.0/8"])

    for allocator, address in ((node, "10.0.1.0"), (node, "10.0.1.255"), (other, "10.0.2.1")):
        with pytest.raises(ReservedAddressError, match="reserved range"):
            allocator.allocate("a", address=address)


def test_an_empty_owner_is_refused_everywhere_and_takes_nothing() -> None:
    node = NodeAllocator(["10.0.1.0/24"])

    for call in (
        lambda: node.allocate(""),
        lambda: node.allocate("", address="10.0.1.7"),
        lambda: node.allocate_many(["a", ""]),
        lambda: node.occupy("10.0.1.7", "", 1),
    ):
        with pytest.raises(InvalidNameError, match="owner id"):
            call()

    assert node.utilization(4).in_use == 0
    node.check_invariants()


def test_a_released_address_is_not_the_next_one_and_gets_the_next_fence_when_it_comes_again() -> None:
    node = NodeAllocator(["10.0.1.0/29"])
    node.allocate("a")
    node.release("a")

    holdings = [node.allocate(owner) for owner in "bcdefg"]

    assert last_bytes(holdings) == [2, 3, 4, 5, 6, 1]
    assert [holding.fence for holding in holdings] == [1, 1, 1, 1, 1, 2]


def test_a_given_address_moves_the_cursor_of_its_page_as_any_allocation_does() -> None:
    node = NodeAllocator(["10.0.1.0/24"])

    node.allocate("a", address="10.0.1.100")

    assert str(node.allocate("b").address) == "10.0.1.101"


def test_lowest_gives_released_addresses_again_at_once() -> None:
    node = NodeAllocator(["10.0.1.0/29"], policy="lowest")
    node.allocate("a")
    node.release("a")

    assert last_bytes([node.allocate(owner) for owner in "bc"]) == [1, 2]


def test_many_owners_get_addresses_all_or_none() -> None:
    node = NodeAllocator(["10.0.1.0/30", "10.0.2.0/30"], node="node-1")
    node.allocate("b")

    with pytest.raises(NodeExhaustedError) as caught:
        node.allocate_many(["a", "b", "c", "d", "e", "a"])
    assert (caught.value.wanted, caught.value.in_use) == (4, 1)
    assert [holding.owner for holding in node.holdings()] == ["b"]

    got = node.allocate_many(["c", "b", "a", "c", "d"])

    assert [(holding.owner, str(holding.address)) for holding in got] == [
        ("c", "10.0.1.2"),
        ("b", "10.0.1.1"),
        ("a", "10.0.2.1"),
        ("c", "10.0.1.2"),
        ("d", "10.0.2.2"),
    ]
    assert [holding.fence for holding in got] == [1, 1, 1, 1, 1]


def test_a_late_release_by_fence_hits_no_later_holding() -> None:
    node = NodeAllocator(["10.0.1.0/24"])
    old = node.allocate("a", address="10.0.1.5")
    node.release("a")

    for fence in (1, 2):
        with pytest.raises(StaleFenceError) as gone:
            node.release_fenced("10.0.1.5", fence)
        assert gone.value.args == ("10.0.1.5", fence, 1)
    new = node.allocate("b", address="10.0.1.5")
    with pytest.raises(StaleFenceError) as late:
        node.release_fenced("10.0.1.5", old.fence)
    assert late.value.args == ("10.0.1.5", 1, 2)
    assert node.holdings() == [new]

    assert node.release_fenced("10.0.1.5", new.fence) == new
    assert node.holdings() == []
    for never in ("10.0.1.6", "10.9.9.9", "2001:db8::1"):
        with pytest.raises(NotHeldError):
            node.release_fenced(never, 1)
    node.check_invariants()


def test_restore_takes_holdings_as_they_were_reserved_ones_too() -> None:
    node = NodeAllocator(["10.0.1.0/24"], reserved=["10.0.1.0/28"])

    holding = node.occupy("10.0.1.3", "a", 7, "default/a")

    assert holding == ("a", "default/a", IPv4Address("10.0.1.3"), 4, IPv4Network("10.0.1.0/24"), 7)
    assert node.allocate("a") is holding
    assert node.utilization(4) == Utilization(256, 239, 1, 16)
    assert node.release("a") == (holding,)
    assert node.utilization(4) == Utilization(256, 239, 0, 17)
    node.check_invariants()


def test_restore_takes_a_holding_again_or_with_a_higher_fence_but_never_goes_back() -> None:
    node = NodeAllocator(["10.0.1.0/24"])
    first = node.occupy("10.0.1.3", "a", 2, "one")

    assert node.occupy("10.0.1.3", "a", 2, "other") is first
    second = node.occupy("10.0.1.3", "a", 3, "two")
    assert (second.fence, second.label) == (3, "two")
    with pytest.raises(StaleFenceError) as older:
        node.occupy("10.0.1.3", "a", 2)
    assert older.value.args == ("10.0.1.3", 2, 3)
    with pytest.raises(AlreadyAllocatedError):
        node.occupy("10.0.1.3", "b", 9)
    with pytest.raises(OwnerHoldsError):
        node.occupy("10.0.1.4", "a", 9)
    with pytest.raises(OutOfRangeError):
        node.occupy("10.0.2.4", "c", 1)
    with pytest.raises(InvalidRequestError, match="fence of 1 or more, not 0"):
        node.occupy("10.0.1.4", "c", 0)

    node.release("a")
    with pytest.raises(StaleFenceError) as gone:
        node.occupy("10.0.1.3", "b", 3)
    assert gone.value.args == ("10.0.1.3", 3, 3)
    assert node.occupy("10.0.1.3", "b", 4).fence == 4
    node.check_invariants()


def test_a_block_in_use_stays_and_an_empty_one_goes_without_forgetting_its_fences() -> None:
    node = NodeAllocator(["10.0.1.0/29", "10.0.2.0/24"], node="node-1")
    for owner in "dcba":
        node.allocate(owner)

    with pytest.raises(BlockNotEmptyError) as caught:
        node.remove_block("10.0.1.0/29")
    assert caught.value.args == ("10.0.1.0/29", "node-1", 4, ("d", "c", "b"))
    with pytest.raises(NotFoundError) as unknown:
        node.remove_block("10.0.1.0/28")
    assert unknown.value.args == ("block", "10.0.1.0/28", ("10.0.1.0/29", "10.0.2.0/24"))
    with pytest.raises(NotFoundError):
        node.remove_block("2001:db8::/64")

    for owner in "abcd":
        node.release(owner)
    node.remove_block("10.0.1.0/29")
    assert str(node.allocate("e").address) == "10.0.2.1"
    node.add_block("10.0.1.0/29")
    assert node.allocate("f", address="10.0.1.1").fence == 2
    node.check_invariants()


def test_the_others_serve_on_after_a_block_that_never_had_room_is_removed() -> None:
    node = NodeAllocator(["10.0.1.0/30", "10.0.2.0/30"], reserved=["10.0.1.0/30"])
    node.allocate("a")

    node.remove_block("10.0.1.0/30")

    assert str(node.allocate("b").address) == "10.0.2.2"
    node.check_invariants()


def test_blocks_may_not_overlap_but_the_same_block_may_be_named_again() -> None:
    node = NodeAllocator(["10.0.1.0/24"], node="node-1")

    node.add_block(IPv4Network("10.0.1.0/24"))
    for block in ("10.0.0.0/16", "10.0.1.128/25"):
        with pytest.raises(InvalidRequestError, match=r"overlaps block 10\.0\.1\.0/24 of node 'node-1'"):
            node.add_block(block)

    assert node.utilization(4).capacity == 256
    assert repr(node) == ("<NodeAllocator 'node-1': <BlockAddresses 10.0.1.0/24 next: 0/256 in use, 2 reserved>>")
    assert repr(NodeAllocator()) == "<NodeAllocator '': no blocks>"


@pytest.mark.parametrize("pair", [("10.0.0.9", "10.0.0.8"), ("10.0.0.1", "2001:db8::1")])
def test_a_reserved_range_that_is_none_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match="the ends must be of one family, the lower one first"):
        NodeAllocator(reserved=[pair])


def test_a_reserved_prefix_may_be_any_form_of_prefix() -> None:
    prefix = Prefix(4, 10 << 24, 25)

    nodes = [NodeAllocator(["10.0.0.0/24"], reserved=[form]) for form in (prefix, prefix.to_network(), str(prefix))]

    assert [node.utilization(4).reserved for node in nodes] == [129, 129, 129]
    with pytest.raises(InvalidCidrError):
        NodeAllocator(reserved=["10.0.0.1"])


def _pass_over_room(side: _Side, _: int) -> None:
    side.open = 2


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(_pass_over_room, id="a block with room is passed over"),
        pytest.param(lambda side, number: side.fences.update({number: 1}), id="held and released"),
        pytest.param(lambda side, number: side.numbers.update({"b": number + 1}), id="an owner of nothing"),
        pytest.param(lambda side, number: side.blocks[0].addresses.vacate(number), id="held but not marked"),
        pytest.param(
            lambda side, _: side.blocks[1].addresses.occupy(side.blocks[1].first + 1), id="marked but not held"
        ),
        pytest.param(
            lambda side, number: side.held.update({number: side.held[number]._replace(fence=0)}), id="a fence below 1"
        ),
        pytest.param(
            lambda side, number: side.held.update({number: side.held[number]._replace(family=6)}), id="another family"
        ),
        pytest.param(lambda side, _: side.firsts.reverse(), id="blocks out of order"),
        pytest.param(lambda side, _: side.blocks.reverse(), id="order numbers"),
    ],
)
def test_the_self_check_of_a_node_tells_a_fault(fault: Callable[[_Side, int], object]) -> None:
    node = NodeAllocator(["10.0.1.0/30", "10.0.2.0/30"])
    number = int(node.allocate("a").address)
    node.check_invariants()

    fault(node._sides[4], number)

    with pytest.raises(AssertionError):
        node.check_invariants()


NODE_BLOCKS = (
    "10.0.1.0/29", "10.0.0.8/30", "10.0.3.0/31", "10.0.4.1/32", "10.0.4.0/23", "10.0.1.4/30",
    "2001:db8:0:1::/125", "2001:db8::8/126", "2001:db8::2/127", "2001:db8::1/128", "2001:db8:0:2::/64", "::/64",
)  # fmt: skip
RESERVED = (
    ("10.0.1.2", "10.0.1.3"),
    ("10.0.0.250", "10.0.1.1"),
    ("10.0.0.0", "10.0.1.255"),
    ("10.0.3.1", "10.0.4.9"),
    ("10.0.4.20", "10.0.5.250"),
    ("2001:db8:0:1::3", "2001:db8:0:1::3"),
    ("2001:db8::", "2001:db8:0:2:8000::"),
    ("::1", "::ffff:0"),
)
OWNERS = ("a", "b", "c", "d", "e", "f", "g", "h")
FAMILIES: tuple[Family, ...] = (4, 6)

owners = st.sampled_from((*OWNERS, *OWNERS, ""))


def test_the_oracle_gives_what_can_be_worked_out_by_hand() -> None:
    oracle = AddressOracle(["10.0.1.0/29"], reserved=[(IPv4Address("10.0.0.0"), IPv4Address("10.0.1.2"))])
    block = IPv4Network("10.0.1.0/29")

    assert oracle.allocate("a", label="x") == ("a", "x", IPv4Address("10.0.1.3"), 4, block, 1)
    assert oracle.release("a") == (("a", "x", IPv4Address("10.0.1.3"), 4, block, 1),)
    assert [str(holding[2]) for holding in oracle.allocate_many("bcde")] == [
        "10.0.1.4",
        "10.0.1.5",
        "10.0.1.6",
        "10.0.1.3",
    ]
    assert [holding[5] for holding in oracle.holdings()] == [2, 1, 1, 1]
    assert oracle.utilization(4) == (8, 0, 4, 4)


class NodeMachine(RuleBasedStateMachine):
    """The same calls on `NodeAllocator` and its oracle: equal results, equal errors, equal state."""

    @initialize(
        four=st.lists(st.sampled_from(NODE_BLOCKS[:6]), max_size=3, unique=True),
        six=st.lists(st.sampled_from(NODE_BLOCKS[6:]), max_size=3, unique=True),
        reserved=st.lists(st.sampled_from(RESERVED), max_size=2, unique=True),
        allow=st.sampled_from(FLAGS),
        policy=st.sampled_from(("next", "next", "lowest")),
    )
    def begin(
        self,
        four: list[str],
        six: list[str],
        reserved: list[tuple[str, str]],
        allow: tuple[bool, bool],
        policy: Policy,
    ) -> None:
        self.node = NodeAllocator(
            reserved=reserved, allow_first=allow[0], allow_last=allow[1], policy=policy, node="node-1"
        )
        ranges = [(ip_address(low), ip_address(high)) for low, high in reserved]
        self.oracle = AddressOracle(
            reserved=ranges, allow_first=allow[0], allow_last=allow[1], policy=policy, node="node-1"
        )
        for block in four + six:
            self.both("add_block", block)

    def both(self, method: str, *args: object, **keywords: object) -> None:
        """Call both; compare results, or the errors' classes and what they say in figures and names."""

        def outcome(of: object) -> tuple[object, object]:
            call: Callable[..., Any] = getattr(of, method)
            try:
                return None, call(*args, **keywords)
            except IpamError as error:
                same = (OwnerHoldsError, AlreadyAllocatedError, StaleFenceError, NodeExhaustedError, BlockNotEmptyError)
                return type(error), error.args if isinstance(error, same) else None

        assert outcome(self.node) == outcome(self.oracle)

    def draw_family(self, data: st.DataObject) -> Family | None:
        """Mostly one that there is, or None where that will do."""
        there = sorted({block.version for block in self.oracle.blocks})
        likely: list[Family | None] = [family for family in FAMILIES if family in there]
        return data.draw(st.sampled_from((likely + ([None] if len(there) == 1 else [])) * 4 + [None, *FAMILIES]))

    def draw_address(self, data: st.DataObject) -> Address:
        """Near either end of a block, mostly inside, or one that has been held."""
        kind = data.draw(st.sampled_from(("low", "low", "high", "used", "any")))
        if kind == "used" and self.oracle.fences:
            return data.draw(st.sampled_from(list(self.oracle.fences)))
        if kind == "any" or not self.oracle.blocks:
            return ip_address(data.draw(st.sampled_from(("10.0.5.17", "10.9.9.9", "2001:db8::9", "2001:db9::"))))
        block = data.draw(st.sampled_from(self.oracle.blocks))
        by = data.draw(st.integers(0, 5))
        return block[0] + by if kind == "low" else block[-1] - by + 1

    @rule(block=st.sampled_from(NODE_BLOCKS))
    def add_block(self, block: str) -> None:
        self.both("add_block", block)

    @rule(data=st.data(), empty=st.booleans())
    def remove_block(self, data: st.DataObject, empty: bool) -> None:
        block = data.draw(st.sampled_from([*self.oracle.blocks, "10.0.1.0/28"]))
        for holding in self.oracle.holdings():
            if empty and holding[4] == block:
                self.both("release_fenced", holding[2], holding[5])
        self.both("remove_block", block)

    @rule(data=st.data(), owner=owners, label=st.sampled_from(("", "default/web-0")))
    def allocate(self, data: st.DataObject, owner: str, label: str) -> None:
        self.both("allocate", owner, family=self.draw_family(data), label=label)

    @rule(owner=st.sampled_from(OWNERS), label=st.sampled_from(("", "default/web-0")))
    def allocate_of_both_families(self, owner: str, label: str) -> None:
        for family in FAMILIES:
            self.both("allocate", owner, family=family, label=label)

    @rule(data=st.data(), owner=owners)
    def allocate_given(self, data: st.DataObject, owner: str) -> None:
        self.both("allocate", owner, address=self.draw_address(data))

    @rule(data=st.data(), owner=owners)
    def allocate_given_with_a_family(self, data: st.DataObject, owner: str) -> None:
        self.both("allocate", owner, address=self.draw_address(data), family=self.draw_family(data))

    @rule(data=st.data(), wanted=st.lists(st.sampled_from((*OWNERS, *OWNERS, *OWNERS, "")), max_size=8))
    def allocate_many(self, data: st.DataObject, wanted: list[str]) -> None:
        self.both("allocate_many", wanted, family=self.draw_family(data))

    @precondition(lambda self: len(self.oracle.held) < 50 and any(b.num_addresses > 500 for b in self.oracle.blocks))
    @rule(data=st.data(), count=st.integers(240, 270))
    def allocate_over_a_page(self, data: st.DataObject, count: int) -> None:
        self.both("allocate_many", [f"many-{order}" for order in range(count)], family=self.draw_family(data))

    @precondition(lambda self: len(self.oracle.held) >= 50)
    @rule(keep=st.integers(2, 9))
    def release_most(self, keep: int) -> None:
        for holding in self.oracle.holdings():
            if int(holding[2]) % keep:
                self.both("release", holding[0])

    @rule(data=st.data(), owner=owners, fence=st.integers(0, 4))
    def occupy(self, data: st.DataObject, owner: str, fence: int) -> None:
        self.both("occupy", self.draw_address(data), owner, fence, "restored")

    @precondition(lambda self: self.oracle.held)
    @rule(data=st.data(), by=st.integers(-1, 2))
    def occupy_again(self, data: st.DataObject, by: int) -> None:
        holding = data.draw(st.sampled_from(self.oracle.holdings()))
        self.both("occupy", holding[2], holding[0], holding[5] + by, "again")

    @precondition(lambda self: self.oracle.fences)
    @rule(data=st.data(), owner=owners, by=st.integers(-1, 2))
    def occupy_what_was_held(self, data: st.DataObject, owner: str, by: int) -> None:
        address = data.draw(st.sampled_from(list(self.oracle.fences)))
        self.both("occupy", address, owner, self.oracle.fences[address] + by)

    @rule(owner=owners)
    def allocate_of_the_only_family(self, owner: str) -> None:
        self.both("allocate", owner)

    @rule(owner=owners)
    def release(self, owner: str) -> None:
        self.both("release", owner)

    @precondition(lambda self: self.oracle.held)
    @rule(data=st.data(), by=st.sampled_from((0, 0, 0, -1, 1)))
    def release_fenced(self, data: st.DataObject, by: int) -> None:
        holding = data.draw(st.sampled_from(self.oracle.holdings()))
        self.both("release_fenced", holding[2], holding[5] + by)

    @rule(data=st.data(), fence=st.integers(0, 3))
    def release_fenced_of_any_address(self, data: st.DataObject, fence: int) -> None:
        self.both("release_fenced", self.draw_address(data), fence)

    @invariant()
    def agrees(self) -> None:
        self.node.check_invariants()
        assert self.node.holdings() == self.oracle.holdings()
        for family in FAMILIES:
            assert self.node.utilization(family) == self.oracle.utilization(family)


TestNodeMachine = NodeMachine.TestCase
