"""`NodeAllocator` against its oracle, and fixed cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam.addresses import POLICIES, Policy, draw
from ciliumipam.allocator import AddressCooling, AddressHolding, NodeAllocator, Utilization
from ciliumipam.cidr import Address, Family, Prefix
from ciliumipam.errors import (
    AlreadyAllocatedError,
    BlockNotEmptyError,
    CoolingAddressError,
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
from ciliumipam.side import Side
from ciliumipam.testing.address_oracle import AddressOracle

FLAGS = [(False, False), (True, False), (False, True), (True, True)]


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
    assert node.utilization(4) == Utilization(256, 253, 1, 0, 2)
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


def test_random_places_an_owner_by_the_seed_and_its_id_whoever_came_before() -> None:
    def places(seed: int, owners: str) -> dict[str, list[str]]:
        node = NodeAllocator(["10.0.1.0/24", "2001:db8::/64"], policy="random", seed=seed)
        return {owner: [str(node.allocate(owner, family=family).address) for family in FAMILIES] for owner in owners}

    forth, back = places(7, "abcd"), places(7, "dcba")

    assert forth == back
    assert forth["a"] == [f"10.0.1.{draw(7, 'a') % 256}", str(IPv6Address((0x20010DB8 << 96) + draw(7, "a") % 2**64))]
    assert places(8, "abcd") != forth
    unseeded = NodeAllocator(["10.0.1.0/24"], policy="random")
    assert int(unseeded.allocate("a").address) & 255 == draw(0, "a") % 256


def test_random_fills_the_first_block_before_the_second_and_gives_an_owner_its_address_again() -> None:
    node = NodeAllocator(["10.0.1.0/28", "10.0.2.0/28"], policy="random", seed=3)

    got = {owner: str(node.allocate(owner).address) for owner in "abcdefghijklmnop"}

    assert sum(address.startswith("10.0.1.") for address in got.values()) == 14
    assert got["o"].startswith("10.0.2.")
    for owner in "cho":
        node.release(owner)
    assert {owner: str(node.allocate(owner).address) for owner in "c"} == {"c": got["c"]}
    node.check_invariants()


def test_a_full_node_says_what_it_looked_at() -> None:
    node = NodeAllocator(["10.0.1.0/30", "10.0.2.0/31"], node="node-1", reserved=["10.0.2.0/32"])
    for owner in "abc":
        node.allocate(owner)

    with pytest.raises(NodeExhaustedError) as caught:
        node.allocate("d")

    assert caught.value.args == ("node-1", 4, ("10.0.1.0/30", "10.0.2.0/31"), 6, 3, 3, 1, 0, None)


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
    for call in (node.allocate, node.allocate_many):
        with pytest.raises(InvalidRequestError, match=r"^no address family 5; it is 4 or 6$"):
            call("c", family=cast("Family", 5))


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
    with pytest.raises(NoBlockError) as without:
        node.allocate("b", address="2001:db8::1")
    assert without.value.args == ("node-1", 6, ("it was given none",))
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
        with pytest.raises(InvalidNameError) as caught:
            call()
        assert caught.value.args == ("owner id", "", "it is empty")

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
        with pytest.raises(NotHeldError) as nobody:
            node.release_fenced(never, 1)
        assert nobody.value.args == (never, "nobody has held it so far")
    node.check_invariants()


def test_restore_takes_holdings_as_they_were_reserved_ones_too() -> None:
    node = NodeAllocator(["10.0.1.0/24"], reserved=["10.0.1.0/28"])

    holding = node.occupy("10.0.1.3", "a", 7, "default/a")

    assert holding == ("a", "default/a", IPv4Address("10.0.1.3"), 4, IPv4Network("10.0.1.0/24"), 7)
    assert node.allocate("a") is holding
    assert node.utilization(4) == Utilization(256, 239, 1, 0, 16)
    assert node.release("a") == (holding,)
    assert node.utilization(4) == Utilization(256, 239, 0, 0, 17)
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
    with pytest.raises(OwnerHoldsError) as other:
        node.occupy("10.0.1.4", "a", 9)
    assert other.value.args == ("a", "10.0.1.3", "10.0.1.4")
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
    assert caught.value.args == ("10.0.1.0/29", "node-1", 4, ("d", "c", "b"), 0, None)
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


def test_a_block_of_which_only_the_last_address_is_in_use_names_its_holder() -> None:
    node = NodeAllocator(["10.0.1.0/29"], allow_last=True, node="node-1")
    node.allocate("a", address="10.0.1.7")

    with pytest.raises(BlockNotEmptyError) as caught:
        node.remove_block("10.0.1.0/29")

    assert caught.value.args == ("10.0.1.0/29", "node-1", 1, ("a",), 0, None)


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
    assert repr(node) == ("<NodeAllocator 'node-1': <BlockAddresses 10.0.1.0/24 next: 0/256 in use, 0 cooling, 2 reserved>>")
    assert repr(NodeAllocator()) == "<NodeAllocator '': no blocks>"
    node.add_block("2001:db8::/126")
    assert repr(node) == (
        "<NodeAllocator 'node-1': <BlockAddresses 10.0.1.0/24 next: 0/256 in use, 0 cooling, 2 reserved>,"
        " <BlockAddresses 2001:db8::/126 next: 0/4 in use, 0 cooling, 2 reserved>>"
    )


@pytest.mark.parametrize("pair", [("10.0.0.9", "10.0.0.8"), ("10.0.0.1", "2001:db8::1")])
def test_a_reserved_range_that_is_none_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        NodeAllocator(reserved=[pair])

    low, high = pair
    assert str(caught.value) == f"reserved range {low} to {high}: the ends must be of one family, the lower one first"


def test_a_reserved_prefix_may_be_any_form_of_prefix() -> None:
    prefix = Prefix(4, 10 << 24, 25)

    nodes = [NodeAllocator(["10.0.0.0/24"], reserved=[form]) for form in (prefix, prefix.to_network(), str(prefix))]

    assert [node.utilization(4).reserved for node in nodes] == [129, 129, 129]
    with pytest.raises(InvalidCidrError):
        NodeAllocator(reserved=["10.0.0.1"])


# ---------------------------------------------------------------------------------------------------- cooling


@pytest.mark.parametrize("policy", POLICIES)
def test_a_released_address_is_given_out_again_when_its_reuse_delay_is_over_and_not_before(policy: Policy) -> None:
    node = NodeAllocator(["10.0.1.0/30"], policy=policy, reuse_delay=30, node="node-1")
    holdings = node.allocate_many("ab", now=1000)
    assert node.release("a", now=1010) == (holdings[0],)
    node.release_fenced(holdings[1].address, 1, now=1020.5)
    assert node.utilization(4) == Utilization(4, 0, 0, 2, 2)

    for now in (1020.5, 1039.75):
        with pytest.raises(NodeExhaustedError) as caught:
            node.allocate("c", now=now)
        assert caught.value.args == ("node-1", 4, ("10.0.1.0/30",), 4, 0, 2, 1, 2, 1040)
    again = node.allocate("c", now=1040)

    assert (again.address, again.fence) == (holdings[0].address, 2)
    assert node.utilization(4) == Utilization(4, 0, 1, 1, 2)
    assert node.utilization(4, now=1050.5) == Utilization(4, 1, 1, 0, 2)
    node.check_invariants()


def test_a_reuse_delay_below_a_second_needs_the_time_as_any_other() -> None:
    node = NodeAllocator(["10.0.1.0/30"], reuse_delay=0.5, node="node-1")

    with pytest.raises(InvalidRequestError) as caught:
        node.allocate("a")

    assert str(caught.value) == (
        "node 'node-1' has a reuse delay of 0.5 s or cooling addresses:"
        " say what time it is, as now=<seconds since the epoch>"
    )


def test_what_is_due_is_counted_over_both_families() -> None:
    node = NodeAllocator(["10.0.1.0/29", "2001:db8::/125"], reuse_delay=5)
    for family in FAMILIES:
        node.allocate("a", family=family, now=0)
    node.release("a", now=1)

    assert node.expire(5) == 0
    assert node.expire(6) == 2


def test_an_early_block_serves_again_when_what_cooled_in_it_is_due() -> None:
    node = NodeAllocator(["10.0.1.0/30", "10.0.2.0/29"], reuse_delay=5)
    node.allocate_many("abc", now=0)
    node.release("a", now=1)

    got = [str(node.allocate(owner, now=now).address) for owner, now in (("d", 2), ("e", 6), ("f", 7))]

    assert got == ["10.0.2.2", "10.0.1.1", "10.0.2.3"]
    node.check_invariants()


def test_all_or_none_counts_what_cools_as_missing() -> None:
    node = NodeAllocator(["10.0.1.0/29"], reuse_delay=60)
    node.allocate_many("abcd", now=0)
    node.release("a", now=1)

    with pytest.raises(NodeExhaustedError) as caught:
        node.allocate_many("xyz", now=60)
    assert (caught.value.wanted, caught.value.cooling, caught.value.due) == (3, 1, 61)
    assert [holding.owner for holding in node.holdings()] == ["b", "c", "d"]

    assert last_bytes(node.allocate_many("xyz", now=61)) == [5, 6, 1]


def test_a_node_without_room_names_the_first_of_all_its_blocks_to_have_some() -> None:
    node = NodeAllocator(["10.0.1.0/32", "10.0.2.0/32", "10.0.3.0/32", "2001:db8::/128"])
    for address, until in (("10.0.1.0", 70), ("10.0.2.0", 50), ("10.0.3.0", 60), ("2001:db8::", 1)):
        node.cool(address, 1, until)

    with pytest.raises(NodeExhaustedError) as caught:
        node.allocate("a", family=4, now=0)

    assert (caught.value.cooling, caught.value.due) == (3, 50)


def test_a_given_address_that_cools_is_refused_with_the_time() -> None:
    node = NodeAllocator(["10.0.1.0/24"], reuse_delay=30)
    node.allocate("a", address="10.0.1.5", now=0)
    node.release("a", now=10)

    with pytest.raises(CoolingAddressError) as caught:
        node.allocate("a", address="10.0.1.5", now=39)

    assert caught.value.args == ("10.0.1.5", 40)
    assert node.allocate("a", address="10.0.1.5", now=40).fence == 2


def test_a_reserved_address_that_was_held_is_reserved_again_and_does_not_cool() -> None:
    node = NodeAllocator(["10.0.1.0/24"], reserved=["10.0.1.0/28"], reuse_delay=30)
    node.occupy("10.0.1.3", "a", 1)

    node.release("a", now=0)

    assert (node.utilization(4), node.coolings()) == (Utilization(256, 239, 0, 0, 17), [])
    with pytest.raises(ReservedAddressError):
        node.allocate("b", address="10.0.1.3", now=10)
    node.check_invariants()


def test_a_block_in_which_something_cools_stays_until_the_last_of_it_is_due() -> None:
    node = NodeAllocator(["10.0.1.0/24", "10.0.2.0/24"], reuse_delay=30, node="node-1")
    for owner in "ab":
        node.allocate(owner, now=0)
    for owner, now in (("a", 5), ("b", 1)):
        node.release(owner, now=now)

    with pytest.raises(BlockNotEmptyError) as both:
        node.remove_block("10.0.1.0/24")
    assert both.value.args == ("10.0.1.0/24", "node-1", 0, (), 2, 35)
    with pytest.raises(BlockNotEmptyError) as one:
        node.remove_block("10.0.1.0/24", now=31)
    assert one.value.args == ("10.0.1.0/24", "node-1", 0, (), 1, 35)
    node.remove_block("10.0.1.0/24", now=35)

    assert str(node.allocate("c", now=35).address) == "10.0.2.1"
    node.check_invariants()


def test_a_time_that_was_noted_for_a_block_that_is_gone_means_nothing() -> None:
    node = NodeAllocator(["10.0.1.0/24", "10.0.2.0/24"])
    node.cool("10.0.1.5", 1, 10)
    node.occupy("10.0.1.5", "a", 2)
    node.release("a", now=5)
    node.remove_block("10.0.1.0/24")

    assert node.expire(10) == 0

    assert node.utilization(4) == Utilization(256, 254, 0, 0, 2)
    node.check_invariants()


def test_what_cools_survives_a_restart() -> None:
    node = NodeAllocator(["10.0.1.0/30", "2001:db8::/126"], reuse_delay=30)
    for family in FAMILIES:
        node.allocate("a", family=family, now=0)
        node.allocate("b", family=family, now=0)
    node.release("a", now=10)

    assert node.coolings() == [
        AddressCooling(IPv4Address("10.0.1.1"), 4, IPv4Network("10.0.1.0/30"), 1, 40),
        AddressCooling(IPv6Address("2001:db8::1"), 6, IPv6Network("2001:db8::/126"), 1, 40),
    ]
    fresh = NodeAllocator(["10.0.1.0/30", "2001:db8::/126"])
    for holding in node.holdings():
        fresh.occupy(holding.address, holding.owner, holding.fence, holding.label)
    for cooling in node.coolings():
        fresh.cool(cooling.address, cooling.fence, cooling.until)

    assert (fresh.holdings(), fresh.coolings()) == (node.holdings(), node.coolings())
    assert [fresh.utilization(family) for family in FAMILIES] == [node.utilization(family) for family in FAMILIES]
    with pytest.raises(NodeExhaustedError):
        fresh.allocate("c", family=4, now=39)
    assert fresh.coolings(now=40) == []
    assert fresh.allocate("c", family=4, now=40).fence == 2
    assert fresh.expire(40) == 0
    fresh.check_invariants()


def test_restore_of_what_cools_never_contradicts_a_holding() -> None:
    node = NodeAllocator(["10.0.1.0/24"])
    node.occupy("10.0.1.3", "a", 4, "default/a")

    with pytest.raises(AlreadyAllocatedError) as held:
        node.cool("10.0.1.3", 4, 10)
    assert held.value.args == ("10.0.1.3", "a", "default/a")
    node.release("a")
    with pytest.raises(StaleFenceError) as stale:
        node.cool("10.0.1.3", 3, 10)
    assert stale.value.args == ("10.0.1.3", 3, 4)
    with pytest.raises(InvalidRequestError, match="fence of 1 or more, not 0"):
        node.cool("10.0.1.4", 0, 10)
    with pytest.raises(OutOfRangeError):
        node.cool("10.0.2.4", 1, 10)
    with pytest.raises(NoBlockError):
        node.cool("2001:db8::1", 1, 10)
    assert node.coolings() == []

    node.cool("10.0.1.3", 4, 10)
    node.cool("10.0.1.3", 5, 20)
    assert [(cooling.fence, cooling.until) for cooling in node.coolings(now=10)] == [(5, 20)]
    assert node.occupy("10.0.1.3", "b", 6).fence == 6
    assert node.utilization(4) == Utilization(256, 253, 1, 0, 2)
    node.check_invariants()


def test_the_time_must_be_told_where_it_matters_and_nowhere_else() -> None:
    plain = NodeAllocator(["10.0.1.0/24"])
    plain.allocate("a", now=1)
    plain.release("a")
    plain.allocate("b")
    slow = NodeAllocator(["10.0.1.0/24"], reuse_delay=30, node="node-1")
    plain.cool("10.0.1.9", 1, 99)

    for node in (slow, plain):
        for call in (
            partial(node.allocate, "a"),
            partial(node.allocate_many, ["a"]),
            partial(node.release, "b"),
            partial(node.release_fenced, "10.0.1.2", 1),
        ):
            with pytest.raises(InvalidRequestError, match=r"say what time it is, as now=<seconds since the epoch>"):
                call()
    assert slow.holdings() == []
    assert len(plain.holdings()) == 1
    assert plain.release("b", now=2)
    assert [str(cooling.address) for cooling in plain.coolings()] == ["10.0.1.9"]


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -float("inf")])
def test_a_time_or_delay_that_is_no_finite_number_is_refused(time: float) -> None:
    node = NodeAllocator(["10.0.1.0/24"], reuse_delay=30)

    for call in (
        lambda: node.allocate("a", now=time),
        lambda: node.release("a", now=time),
        lambda: node.expire(time),
        lambda: node.cool("10.0.1.1", 1, time),
    ):
        with pytest.raises(InvalidRequestError, match="a time is a finite number of seconds"):
            call()
    for delay in (time, -1.0):
        with pytest.raises(InvalidRequestError, match="a reuse delay is a finite number of seconds, 0 or more"):
            NodeAllocator(reuse_delay=delay)
    assert node.utilization(4) == Utilization(256, 254, 0, 0, 2)


# ---------------------------------------------------------------------------------------------------- self-check


def _pass_over_room(side: Side, _: int) -> None:
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
        pytest.param(lambda side, _: side.due.clear(), id="a cooling address that is never due"),
        pytest.param(lambda side, number: side.fences.pop(number + 1), id="cooling, but nobody has held it"),
    ],
)
def test_the_self_check_of_a_node_tells_a_fault(fault: Callable[[Side, int], object]) -> None:
    node = NodeAllocator(["10.0.1.0/30", "10.0.2.0/30"])
    number = int(node.allocate("a").address)
    node.cool("10.0.1.2", 1, 10)
    node.check_invariants()

    fault(node._sides[4], number)

    with pytest.raises(AssertionError):
        node.check_invariants()


def test_the_self_check_of_a_node_tells_when_nobody_would_be_asked_for_the_time() -> None:
    node = NodeAllocator(["10.0.1.0/30"])
    node.cool("10.0.1.2", 1, 10)

    node._timed = False

    with pytest.raises(AssertionError, match=r"^something cools, but the calls need not say what time it is$"):
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
    assert oracle.utilization(4) == (8, 0, 4, 0, 4)

    slow = AddressOracle(["10.0.1.0/30"], reuse_delay=30)
    slow.allocate("a", now=0)
    slow.release("a", now=10)
    assert slow.coolings() == [(IPv4Address("10.0.1.1"), 4, IPv4Network("10.0.1.0/30"), 1, 40)]
    assert (slow.utilization(4), slow.expire(39), slow.expire(40)) == ((4, 1, 0, 1, 2), 0, 1)

    # 0xde4113db...2bf92 is where "a" lies with seed 0: the last byte is 146
    assert int(AddressOracle(["10.0.1.0/24"], policy="random").allocate("a")[2]) & 255 == 0x92


class NodeMachine(RuleBasedStateMachine):
    """The same calls on `NodeAllocator` and its oracle: equal results, equal errors, equal state."""

    @initialize(
        four=st.lists(st.sampled_from(NODE_BLOCKS[:6]), max_size=3, unique=True),
        six=st.lists(st.sampled_from(NODE_BLOCKS[6:]), max_size=3, unique=True),
        reserved=st.lists(st.sampled_from(RESERVED), max_size=2, unique=True),
        allow=st.sampled_from(FLAGS),
        policy=st.sampled_from(POLICIES),
        seed=st.integers(0, 3),
        delay=st.sampled_from((0, 0, 2, 5.5)),
    )
    def begin(
        self,
        four: list[str],
        six: list[str],
        reserved: list[tuple[str, str]],
        allow: tuple[bool, bool],
        policy: Policy,
        seed: int,
        delay: float,
    ) -> None:
        ranges = [(ip_address(low), ip_address(high)) for low, high in reserved]

        def make(of: type[NodeAllocator | AddressOracle]) -> Any:
            return of(
                reserved=ranges,
                allow_first=allow[0],
                allow_last=allow[1],
                policy=policy,
                seed=seed,
                reuse_delay=delay,
                node="node-1",
            )

        self.make = make
        self.node: NodeAllocator = make(NodeAllocator)
        self.oracle: AddressOracle = make(AddressOracle)
        self.now = 1000.0
        for block in four + six:
            self.both("add_block", block)

    def both(self, method: str, *args: object, **keywords: object) -> None:
        """Call both; compare results, or the errors' classes and what they say in figures and names."""

        def outcome(of: object) -> tuple[object, object]:
            call: Callable[..., Any] = getattr(of, method)
            try:
                return None, call(*args, **keywords)
            except IpamError as error:
                same = (
                    OwnerHoldsError,
                    AlreadyAllocatedError,
                    StaleFenceError,
                    NodeExhaustedError,
                    BlockNotEmptyError,
                    CoolingAddressError,
                )
                return type(error), error.args if isinstance(error, same) else None

        assert outcome(self.node) == outcome(self.oracle)

    def both_at(self, method: str, *args: object, **keywords: object) -> None:
        """The same with the time, which is often not told where it need not be."""
        if self.oracle.timed or len(self.oracle.held) % 2:
            keywords["now"] = self.now
        self.both(method, *args, **keywords)

    @rule(by=st.sampled_from((0.5, 1, 2, 3, 6, -1)))
    def time_passes(self, by: float) -> None:
        self.now += by

    @rule(tell=st.booleans())
    def look_at_what_cools(self, tell: bool) -> None:
        self.both("coolings", now=self.now if tell else None)
        self.both("utilization", 4, now=self.now if tell else None)
        self.both("utilization", 6, now=self.now if tell else None)

    @rule()
    def expire(self) -> None:
        self.both("expire", self.now)

    @precondition(lambda self: self.oracle.timed)
    @rule(owner=st.sampled_from(OWNERS))
    def forget_the_time(self, owner: str) -> None:
        self.both("allocate", owner)
        self.both("release", owner)

    @rule(data=st.data(), fence=st.integers(0, 4), by=st.sampled_from((-1, 0, 1, 4)))
    def cool(self, data: st.DataObject, fence: int, by: float) -> None:
        self.both("cool", self.draw_address(data), fence, self.now + by)

    @precondition(lambda self: self.oracle.cooling)
    @rule(data=st.data(), fence=st.integers(-1, 1), by=st.sampled_from((-1, 0, 1, 4)))
    def cool_anew(self, data: st.DataObject, fence: int, by: float) -> None:
        address = data.draw(st.sampled_from(sorted(self.oracle.cooling, key=str)))
        self.both("cool", address, self.oracle.fences[address] + fence, self.now + by)

    @precondition(lambda self: self.oracle.cooling)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS), restored=st.booleans())
    def want_what_cools(self, data: st.DataObject, owner: str, restored: bool) -> None:
        address = data.draw(st.sampled_from(sorted(self.oracle.cooling, key=str)))
        if restored:
            self.both("occupy", address, owner, self.oracle.fences[address] + 1)
        else:
            self.both_at("allocate", owner, address=address)

    @rule()
    def restart(self) -> None:
        holdings, coolings = self.node.holdings(), self.node.coolings()
        blocks = self.oracle.blocks
        self.node, self.oracle = self.make(NodeAllocator), self.make(AddressOracle)
        for block in blocks:
            self.both("add_block", block)
        for holding in holdings:
            self.both("occupy", holding.address, holding.owner, holding.fence, holding.label)
        for cooling in coolings:
            self.both("cool", cooling.address, cooling.fence, cooling.until)
        assert (self.node.holdings(), self.node.coolings()) == (holdings, coolings)

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
                self.both_at("release_fenced", holding[2], holding[5])
        self.both_at("remove_block", block)

    @rule(data=st.data(), owner=owners, label=st.sampled_from(("", "default/web-0")))
    def allocate(self, data: st.DataObject, owner: str, label: str) -> None:
        self.both_at("allocate", owner, family=self.draw_family(data), label=label)

    @rule(owner=st.sampled_from(OWNERS), label=st.sampled_from(("", "default/web-0")))
    def allocate_of_both_families(self, owner: str, label: str) -> None:
        for family in FAMILIES:
            self.both_at("allocate", owner, family=family, label=label)

    @rule(data=st.data(), owner=owners)
    def allocate_given(self, data: st.DataObject, owner: str) -> None:
        self.both_at("allocate", owner, address=self.draw_address(data))

    @rule(data=st.data(), owner=owners)
    def allocate_given_with_a_family(self, data: st.DataObject, owner: str) -> None:
        self.both_at("allocate", owner, address=self.draw_address(data), family=self.draw_family(data))

    @rule(data=st.data(), wanted=st.lists(st.sampled_from((*OWNERS, *OWNERS, *OWNERS, "")), max_size=8))
    def allocate_many(self, data: st.DataObject, wanted: list[str]) -> None:
        self.both_at("allocate_many", wanted, family=self.draw_family(data))

    @precondition(lambda self: len(self.oracle.held) < 50 and any(b.num_addresses > 500 for b in self.oracle.blocks))
    @rule(data=st.data(), count=st.integers(240, 270))
    def allocate_over_a_page(self, data: st.DataObject, count: int) -> None:
        self.both_at("allocate_many", [f"many-{order}" for order in range(count)], family=self.draw_family(data))

    @precondition(lambda self: len(self.oracle.held) >= 50)
    @rule(keep=st.integers(2, 9))
    def release_most(self, keep: int) -> None:
        for holding in self.oracle.holdings():
            if int(holding[2]) % keep:
                self.both_at("release", holding[0])

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
        self.both_at("allocate", owner)

    @rule(owner=owners)
    def release(self, owner: str) -> None:
        self.both_at("release", owner)

    @precondition(lambda self: self.oracle.held)
    @rule(data=st.data(), by=st.sampled_from((0, 0, 0, -1, 1)))
    def release_fenced(self, data: st.DataObject, by: int) -> None:
        holding = data.draw(st.sampled_from(self.oracle.holdings()))
        self.both_at("release_fenced", holding[2], holding[5] + by)

    @rule(data=st.data(), fence=st.integers(0, 3))
    def release_fenced_of_any_address(self, data: st.DataObject, fence: int) -> None:
        self.both_at("release_fenced", self.draw_address(data), fence)

    @invariant()
    def agrees(self) -> None:
        self.node.check_invariants()
        assert self.node.holdings() == self.oracle.holdings()
        assert self.node.coolings() == self.oracle.coolings()
        for family in FAMILIES:
            assert self.node.utilization(family) == self.oracle.utilization(family)


TestNodeMachine = NodeMachine.TestCase
