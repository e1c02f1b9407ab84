"""The carver: examples first, then its laws, then a machine that walks it beside an oracle that looks at every position."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam.carver import CidrCarver
from ciliumipam.cidr import WIDTH, Network, Prefix, parse_prefix
from ciliumipam.errors import (
    BlockTakenError,
    InvalidCidrError,
    InvalidRequestError,
    IpamError,
    NotHeldError,
    OutOfRangeError,
    PoolExhaustedError,
)
from ciliumipam.testing.carver_strategies import Scenario, around, inside, lengths, scenarios


def texts(networks: list[Network]) -> list[str]:
    return [str(network) for network in networks]


def number(address: str) -> int:
    return int(ip_network(address).network_address)


# ------------------------------------------------------------------------------------------------------ carve


def test_blocks_come_lowest_first() -> None:
    carver = CidrCarver(["10.0.0.0/22"])

    blocks = [carver.carve(24) for _ in range(4)]

    assert texts(blocks) == ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]


def test_a_block_comes_out_of_the_smallest_free_prefix_that_is_large_enough() -> None:
    carver = CidrCarver(["10.0.0.0/22"])
    carver.occupy("10.0.2.64/26")

    block = carver.carve(26)

    assert str(block) == "10.0.2.0/26"
    assert texts(carver.free_prefixes()) == ["10.0.0.0/23", "10.0.2.128/25", "10.0.3.0/24"]


def test_a_split_frees_one_half_of_each_length() -> None:
    carver = CidrCarver(["10.0.0.0/22"])

    carver.occupy("10.0.0.64/26")

    assert texts(carver.free_prefixes()) == ["10.0.0.0/26", "10.0.0.128/25", "10.0.1.0/24", "10.0.2.0/23"]
    assert texts(carver.taken()) == ["10.0.0.64/26"]


def test_the_first_slash_64_out_of_a_slash_32_leaves_one_free_prefix_of_each_length() -> None:
    carver = CidrCarver(["2001:db8::/32"])

    block = carver.carve(64)

    assert block == IPv6Network("2001:db8::/64")
    assert [prefix.prefixlen for prefix in carver.free_prefixes()] == list(range(64, 32, -1))
    assert carver.free == 2**96 - 2**64
    carver.check_invariants()


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "::/0"])
def test_a_whole_family_can_be_carved_down_to_one_address_and_joined_again(cidr: str) -> None:
    carver = CidrCarver([cidr])
    width = WIDTH[carver.family]

    address = carver.carve(width)
    carver.check_invariants()
    carver.give_back(address)

    assert address.num_addresses == 1
    assert texts(carver.free_prefixes()) == [cidr]
    assert str(carver.carve(0)) == cidr
    assert carver.largest_free is None
    carver.check_invariants()


def test_the_last_address_of_a_family_is_like_any_other() -> None:
    carver = CidrCarver(["255.255.255.252/30"], blocked=["255.255.255.255/32"])

    blocks = [carver.carve(32) for _ in range(3)]

    assert texts(blocks) == ["255.255.255.254/32", "255.255.255.252/32", "255.255.255.253/32"]
    assert carver.take(32) == -1
    carver.check_invariants()


def test_an_exhausted_pool_says_what_it_could_still_give() -> None:
    carver = CidrCarver(["10.0.0.0/24"], pool="green")
    carver.carve(25)

    with pytest.raises(PoolExhaustedError) as caught:
        carver.carve(24)

    error = caught.value
    assert (error.pool, error.family, error.length, error.largest_free) == ("green", 4, 24, 25)


def test_a_full_pool_has_nothing_to_give() -> None:
    carver = CidrCarver(["10.0.0.0/24"])
    carver.carve(24)

    with pytest.raises(PoolExhaustedError) as caught:
        carver.carve(32)

    assert caught.value.largest_free is None
    assert (carver.largest_free, carver.free, carver.available(32), carver.fragmentation()) == (None, 0, 0, 0.0)


def test_a_block_larger_than_every_cidr_is_exhaustion_and_not_a_bad_request() -> None:
    carver = CidrCarver(["10.0.0.0/24", "10.0.1.0/24"])

    with pytest.raises(PoolExhaustedError) as caught:
        carver.carve(23)

    assert caught.value.largest_free == 24


@pytest.mark.parametrize(("cidr", "length"), [("10.0.0.0/8", -1), ("10.0.0.0/8", 33), ("2001:db8::/32", 129)])
def test_a_length_that_the_family_does_not_have_is_refused(cidr: str, length: int) -> None:
    carver = CidrCarver([cidr])
    width = WIDTH[carver.family]

    for call in (carver.carve, carver.available):
        with pytest.raises(InvalidRequestError) as caught:
            call(length)
        assert str(caught.value) == f"an IPv{carver.family} length is 0 to {width}, not {length}"
    assert (carver.take(length), carver.peek(length)) == (-1, -1)
    assert not carver.occupy_bits(number(cidr), length)
    assert texts(carver.free_prefixes()) == [cidr]
    carver.check_invariants()


def test_peek_names_the_block_that_take_returns_and_changes_nothing() -> None:
    carver = CidrCarver(["10.0.0.0/22"])
    carver.carve(26)
    before = carver.free_prefixes()

    peeked = carver.peek(24)

    assert peeked == number("10.0.1.0/24")
    assert carver.free_prefixes() == before
    assert carver.take(24) == peeked
    assert CidrCarver(["10.0.0.0/22"]).peek(21) == -1


# --------------------------------------------------------------------------------------- sparse, within, beside


def thirds(blocks: list[Network]) -> list[int]:
    """The third octets of some blocks."""
    return [int(block.network_address) >> 8 & 255 for block in blocks]


def test_sparse_blocks_bisect_the_largest_gap_level_by_level() -> None:
    carver = CidrCarver(["10.0.0.0/16"])

    blocks = [carver.carve(24, sparse=True) for _ in range(256)]

    assert thirds(blocks[:9]) == [0, 128, 64, 192, 32, 96, 160, 224, 16]
    levels = [[0], *([step // 2 + step * index for index in range(256 // step)] for step in (256, 128, 64, 32, 16, 8, 4, 2))]
    assert thirds(blocks) == [number for level in levels for number in level]
    assert carver.take(24, sparse=True) == carver.peek(24, sparse=True) == -1
    carver.check_invariants()


def test_sparse_starts_in_the_largest_cidr_and_not_in_the_lowest() -> None:
    carver = CidrCarver(["10.0.0.0/24", "10.0.2.0/23", "10.0.4.0/23"])

    assert thirds([carver.carve(24, sparse=True) for _ in range(5)]) == [2, 4, 0, 3, 5]


def test_sparse_takes_the_start_of_a_free_prefix_that_fits_exactly_when_there_is_no_larger() -> None:
    carver = CidrCarver(["10.0.0.0/23"])
    carver.occupy("10.0.0.0/25")

    assert texts([carver.carve(24, sparse=True)]) == ["10.0.1.0/24"]
    assert carver.take(24, sparse=True) == -1
    with pytest.raises(PoolExhaustedError) as caught:
        carver.carve(24, sparse=True)
    assert caught.value.largest_free == 25


@pytest.mark.parametrize("length", [-1, 33])
def test_the_choices_know_no_length_that_the_family_does_not_have(length: int) -> None:
    carver = CidrCarver(["0.0.0.0/0"])

    assert carver.take(length, sparse=True) == carver.peek(length, sparse=True) == -1
    assert carver.peek_within(0, 0, length) == carver.peek_within(0, length, 32) == -1
    assert carver.peek_beside([0], length) == -1


def test_within_a_prefix_the_smallest_free_piece_that_fits_is_taken() -> None:
    carver = CidrCarver(["10.0.0.0/20"])
    for block in ("10.0.0.0/24", "10.0.6.0/24", "10.0.9.0/24"):
        carver.occupy(block)

    def within(prefix: str, length: int) -> str:
        network = ip_network(prefix)
        found = carver.peek_within(int(network.network_address), network.prefixlen, length)
        return str(Prefix(4, found, length)) if found >= 0 else "none"

    assert within("10.0.0.0/20", 24) == "10.0.1.0/24"
    assert within("10.0.4.0/22", 24) == "10.0.7.0/24"
    assert within("10.0.4.0/22", 23) == "10.0.4.0/23"
    assert within("10.0.8.0/22", 24) == "10.0.8.0/24"
    assert within("10.0.12.0/23", 26) == "10.0.12.0/26"
    assert within("10.0.13.0/24", 24) == "10.0.13.0/24"
    assert within("10.0.12.0/22", 22) == "10.0.12.0/22"
    assert within("10.0.0.0/8", 22) == "10.0.12.0/22"
    assert within("10.0.0.0/22", 22) == "none"
    assert within("10.0.13.0/24", 23) == "none"
    assert within("10.0.0.0/24", 25) == "none"
    assert within("10.0.16.0/20", 24) == "none"
    assert carver.peek_within(number("10.0.13.0/24") + 1, 24, 32) == -1


def test_the_first_and_the_last_address_of_a_prefix_are_within_it() -> None:
    carver = CidrCarver(["10.0.0.0/29"])
    for address in ("10.0.0.1/32", "10.0.0.2/32", "10.0.0.5/32", "10.0.0.6/32", "10.0.0.4/32"):
        carver.occupy(address)
    first = number("10.0.0.0/32")

    assert [carver.peek_within(first, length, 32) - first for length in (30, 31, 32)] == [0, 0, 0]
    assert [carver.peek_within(first + start, length, 32) - first for start, length in ((2, 31), (4, 30), (6, 31), (7, 32))] == [3, 7, 7, 7]
    assert carver.peek_within(first + 1, 32, 32) == carver.peek_within(first + 4, 31, 32) == -1


def test_beside_a_block_comes_its_buddy_then_what_shares_the_smallest_prefix_with_it() -> None:
    carver = CidrCarver(["10.0.0.0/20"])
    carver.occupy("10.0.5.0/24")
    held = [number("10.0.5.0/24")]
    found = []

    for _ in range(15):
        network = carver.peek_beside(held, 24)
        assert carver.occupy_bits(network, 24)
        found.append(Prefix(4, network, 24).to_network())

    assert carver.peek_beside(held, 24) == -1
    assert thirds(found) == [4, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15]


def test_beside_several_blocks_the_one_with_the_nearest_room_counts_and_then_the_lowest() -> None:
    carver = CidrCarver(["10.0.0.0/20"])
    for block in ("10.0.0.0/23", "10.0.8.0/24", "10.0.14.0/24", "10.0.5.64/26"):
        carver.occupy(block)
    first, second, third, small = (number(f"10.0.{octets}/32") for octets in ("0.0", "8.0", "14.0", "5.64"))

    assert carver.peek_beside([first], 24) == number("10.0.2.0/24")
    assert carver.peek_beside([first, second], 24) == number("10.0.9.0/24")
    assert carver.peek_beside([third, first, second], 24) == number("10.0.9.0/24")
    assert carver.peek_beside([second, third, first], 24) == number("10.0.9.0/24")
    assert carver.peek_beside([small], 26) == number("10.0.5.0/26")
    assert carver.peek_beside([small], 25) == number("10.0.5.128/25")
    assert carver.peek_beside([small], 24) == number("10.0.4.0/24")
    assert carver.peek_beside([], 24) == -1


def test_beside_a_block_of_another_cidr_or_of_none_comes_the_nearest_one() -> None:
    carver = CidrCarver(["10.0.1.0/24", "10.0.6.0/23", "10.0.8.0/24"])
    carver.occupy("10.0.8.0/24")

    assert carver.peek_beside([number("10.0.0.0/24")], 24) == number("10.0.1.0/24")
    assert carver.peek_beside([number("10.0.8.0/24")], 24) == number("10.0.1.0/24")
    assert carver.peek_beside([number("10.0.8.0/24")], 23) == number("10.0.6.0/23")
    assert carver.peek_beside([number("10.0.5.0/24")], 24) == number("10.0.6.0/24")
    assert carver.peek_beside([number("192.168.0.0/24")], 25) == number("10.0.1.0/25")
    assert carver.peek_beside([number("10.0.8.0/24")], 22) == -1


def test_beside_a_block_the_nearest_of_several_free_ones_before_it_counts() -> None:
    carver = CidrCarver(["10.0.0.0/21"])
    blocks = [carver.take(24) for _ in range(8)]
    carver.give_back_bits(blocks[0], 24)
    carver.give_back_bits(blocks[4], 24)

    assert carver.peek_beside([blocks[5]], 24) == blocks[4]


def test_beside_an_address_that_is_free_itself_comes_the_block_around_it() -> None:
    assert CidrCarver(["10.0.0.0/22"]).peek_beside([number("10.0.2.7/32")], 24) == number("10.0.2.0/24")
    assert CidrCarver(["0.0.0.0/0"]).peek_beside([7], 0) == 0
    assert CidrCarver(["0.0.0.0/0"]).peek(0) == 0


def test_within_a_prefix_a_free_piece_that_is_too_small_does_not_count() -> None:
    carver = CidrCarver(["10.0.0.0/22"])
    for block in ("10.0.0.64/26", "10.0.0.128/25", "10.0.1.0/24", "10.0.2.0/23"):
        carver.occupy(block)

    assert texts(carver.free_prefixes()) == ["10.0.0.0/26"]
    assert carver.peek_within(number("10.0.0.0/22"), 22, 24) == -1


def test_a_node_that_grows_beside_its_sparse_block_stays_one_route() -> None:
    carver = CidrCarver(["2001:db8::/48"])
    held = [[carver.take(64, sparse=True)] for _ in range(16)]

    for _ in range(15):
        for blocks in held:
            network = carver.peek_beside(blocks, 64)
            assert carver.occupy_bits(network, 64)
            blocks.append(network)

    for blocks in held:
        assert sorted(blocks) == [min(blocks) + (index << 64) for index in range(16)]
        assert min(blocks) % (16 << 64) == 0


# -------------------------------------------------------------------------------------------------- give back


def test_giving_back_a_block_joins_it_with_both_neighbours() -> None:
    carver = CidrCarver(["10.0.0.0/22"])
    first, second, third = (carver.carve(24) for _ in range(3))
    carver.give_back(first)
    carver.give_back(third)
    assert texts(carver.free_prefixes()) == ["10.0.0.0/24", "10.0.2.0/23"]

    carver.give_back(second)

    assert texts(carver.free_prefixes()) == ["10.0.0.0/22"]


def test_neighbouring_prefixes_that_are_not_buddies_stay_apart() -> None:
    carver = CidrCarver(["10.0.0.0/22"])
    blocks = [carver.carve(24) for _ in range(4)]

    carver.give_back(blocks[1])
    carver.give_back(blocks[2])

    assert texts(carver.free_prefixes()) == ["10.0.1.0/24", "10.0.2.0/24"]


def test_a_block_does_not_join_a_buddy_that_is_only_partly_free() -> None:
    carver = CidrCarver(["10.0.0.0/23"])
    carver.occupy("10.0.1.128/25")
    block = carver.carve(24)

    carver.give_back(block)

    assert texts(carver.free_prefixes()) == ["10.0.0.0/24", "10.0.1.0/25"]


def test_neighbouring_cidrs_never_join() -> None:
    carver = CidrCarver(["10.0.1.0/24", "10.0.0.0/24", "10.0.2.0/25", "10.0.2.128/25"])
    untouched = texts(carver.free_prefixes())
    blocks = [carver.carve(26) for _ in range(12)]

    for block in blocks:
        carver.give_back(block)

    assert untouched == ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/25", "10.0.2.128/25"]
    assert texts(carver.free_prefixes()) == untouched
    assert carver.largest_free == 24


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        (
            "10.0.0.0/25",
            "10.0.0.0/25 cannot be released: it is part of block 10.0.0.0/24; give that back whole (pool 'green')",
        ),
        ("10.0.0.0/23", "10.0.0.0/23 cannot be released: no such block is taken (pool 'green')"),
        ("10.0.1.0/24", "10.0.1.0/24 cannot be released: no such block is taken (pool 'green')"),
    ],
)
def test_only_a_block_that_is_taken_as_such_can_be_given_back(piece: str, reason: str) -> None:
    carver = CidrCarver(["10.0.0.0/22"], pool="green")
    carver.carve(24)

    with pytest.raises(NotHeldError) as caught:
        carver.give_back(piece)

    assert str(caught.value) == reason
    assert texts(carver.taken()) == ["10.0.0.0/24"]
    carver.check_invariants()


def test_the_whole_family_is_a_block_like_any_other() -> None:
    carver = CidrCarver(["0.0.0.0/0"])

    carver.occupy("0.0.0.0/0")

    assert texts(carver.taken()) == ["0.0.0.0/0"]
    with pytest.raises(NotHeldError, match=r"^10\.0\.0\.0/8 cannot be released: it is part of block 0\.0\.0\.0/0; "):
        carver.give_back("10.0.0.0/8")
    carver.give_back("0.0.0.0/0")
    assert texts(carver.free_prefixes()) == ["0.0.0.0/0"]


def test_the_second_time_a_block_is_given_back_nothing_happens() -> None:
    carver = CidrCarver(["10.0.0.0/22"])
    network = carver.take(24)

    answers = [carver.give_back_bits(network, 24), carver.give_back_bits(network, 24)]

    assert answers == [True, False]
    carver.check_invariants()


# ----------------------------------------------------------------------------------------------------- occupy


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("10.0.0.0/24", "it is taken already"),
        ("10.0.0.64/26", "it is part of block 10.0.0.0/24, which is taken"),
        ("10.0.0.0/23", "some of it is taken by smaller blocks"),
        ("10.0.3.0/24", "some of it is blocked (reserved, or held from before)"),
        ("10.0.3.8/29", "some of it is blocked (reserved, or held from before)"),
    ],
)
def test_a_block_that_is_not_wholly_free_cannot_be_occupied(block: str, reason: str) -> None:
    carver = CidrCarver(["10.0.0.0/22"], blocked=["10.0.3.8/30"], pool="green")
    carver.carve(30)
    carver.occupy("10.0.0.0/24")
    before = carver.free_prefixes()

    with pytest.raises(BlockTakenError) as caught:
        carver.occupy(block)

    assert (caught.value.block, caught.value.pool, caught.value.reason) == (block, "green", reason)
    assert carver.free_prefixes() == before
    carver.check_invariants()


@pytest.mark.parametrize(
    ("blocked", "reason"),
    [
        (["10.0.1.0/32"], "some of it is blocked (reserved, or held from before)"),
        (["10.0.1.255/32"], "some of it is blocked (reserved, or held from before)"),
        (["10.0.0.0/32", "10.0.1.9/32"], "some of it is blocked (reserved, or held from before)"),
        (["10.0.0.255/32", "10.0.2.0/32"], "some of it is taken by smaller blocks"),
    ],
)
def test_only_what_is_blocked_inside_a_block_is_named_as_the_reason(blocked: list[str], reason: str) -> None:
    carver = CidrCarver(["10.0.0.0/22"], blocked=blocked)
    carver.occupy("10.0.1.64/26")

    with pytest.raises(BlockTakenError) as caught:
        carver.occupy("10.0.1.0/24")

    assert caught.value.reason == reason


@pytest.mark.parametrize("block", ["10.0.0.0/15", "10.2.0.0/24", "8.0.0.0/5", "0.0.0.0/0"])
def test_a_block_that_sticks_out_of_the_cidrs_cannot_be_occupied(block: str) -> None:
    carver = CidrCarver(["10.0.0.0/16", "10.1.0.0/16"], pool="green")

    with pytest.raises(OutOfRangeError) as caught:
        carver.occupy(block)

    error = caught.value
    assert (error.value, error.where, error.valid) == (block, "pool 'green'", ("10.0.0.0/16", "10.1.0.0/16"))
    assert carver.taken() == []


def test_a_number_with_host_bits_is_no_block() -> None:
    carver = CidrCarver(["10.0.0.0/22"])

    assert not carver.occupy_bits(number("10.0.0.0/24") + 1, 24)
    assert not carver.occupy_bits(number("10.0.0.0/24") + 2**32, 24)
    carver.check_invariants()


def test_an_error_about_a_taken_block_survives_pickling_and_says_what_to_do() -> None:
    error = BlockTakenError("10.0.0.0/24", "green", "it is taken already")

    assert pickle.loads(pickle.dumps(error)).args == error.args  # noqa: S301 - our own bytes
    assert str(error) == (
        "10.0.0.0/24 cannot be occupied in pool 'green': it is taken already; give that back first or take another block"
    )


# ------------------------------------------------------------------------------------------------ construction


def test_a_carver_needs_a_cidr() -> None:
    with pytest.raises(InvalidRequestError, match=r"^a carver needs at least one CIDR$"):
        CidrCarver([])


@pytest.mark.parametrize(
    ("cidrs", "value", "reason"),
    [
        (
            ["10.0.1.0/24", "10.0.0.0/16"],
            "10.0.1.0/24",
            "it overlaps 10.0.0.0/16; the CIDRs of a pool must be disjoint",
        ),
        (
            ["10.0.0.255/32", "10.0.0.0/24"],
            "10.0.0.255/32",
            "it overlaps 10.0.0.0/24; the CIDRs of a pool must be disjoint",
        ),
        (
            ["10.0.0.0/24", "10.0.0.0/24"],
            "10.0.0.0/24",
            "it overlaps 10.0.0.0/24; the CIDRs of a pool must be disjoint",
        ),
        (["2001:db8::/32", "10.0.0.0/8"], "2001:db8::/32", "a carver has one family, and this one has IPv4"),
        (["10.0.0.1/24"], "10.0.0.1/24", "host bits are set; did you mean 10.0.0.0/24?"),
    ],
)
def test_cidrs_are_disjoint_and_of_one_family(cidrs: list[str], value: str, reason: str) -> None:
    with pytest.raises(InvalidCidrError) as caught:
        CidrCarver(cidrs)

    assert (caught.value.value, caught.value.reason) == (value, reason)


def test_every_value_has_the_family_of_the_carver() -> None:
    carver = CidrCarver(["10.0.0.0/8"])
    calls: list[Callable[[str], object]] = [
        carver.occupy,
        carver.give_back,
        lambda value: CidrCarver(["10.0.0.0/8"], blocked=[value]),
    ]

    for call in calls:
        with pytest.raises(InvalidCidrError) as caught:
            call("::/96")
        assert caught.value.reason == "a carver has one family, and this one has IPv4"


def test_text_networks_and_prefixes_are_all_accepted() -> None:
    carver = CidrCarver([IPv4Network("10.0.0.0/24"), "10.0.1.0/24", Prefix(4, number("10.0.2.0/24"), 24)])

    assert texts(list(carver.cidrs)) == ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]
    assert (carver.family, carver.capacity, carver.blocked) == (4, 768, 0)


@pytest.mark.parametrize(
    ("blocked", "free", "count"),
    [
        (["10.0.0.0/25"], ["10.0.0.128/25", "10.0.1.0/24"], 128),
        (["10.0.0.255/32", "10.0.1.0/32"], None, 2),
        (["10.0.0.0/16"], [], 512),
        (["10.0.0.0/23"], [], 512),
        (["0.0.0.0/0", "10.0.0.0/24", "10.0.1.7/32"], [], 512),
        (["10.0.1.0/25", "10.0.1.64/26", "10.0.1.0/25"], ["10.0.0.0/24", "10.0.1.128/25"], 128),
        (["9.255.255.0/24", "10.0.2.0/24", "11.0.0.0/8"], ["10.0.0.0/24", "10.0.1.0/24"], 0),
    ],
)
def test_blocked_prefixes_of_any_size_are_never_carved(blocked: list[str], free: list[str] | None, count: int) -> None:
    carver = CidrCarver(["10.0.0.0/24", "10.0.1.0/24"], blocked=blocked)

    carver.check_invariants()
    assert free is None or texts(carver.free_prefixes()) == free
    assert (carver.blocked, carver.free) == (count, 512 - count)


def test_a_blocked_prefix_directly_behind_another_one_counts_up_to_the_last_address() -> None:
    carver = CidrCarver(["10.0.0.0/31"], blocked=["10.0.0.0/32", "10.0.0.1/32"])

    assert (carver.blocked, carver.free_prefixes()) == (2, [])
    assert repr(carver) == "<CidrCarver '' 10.0.0.0/31: 0 blocks taken, 0 addresses free, largest none>"


def test_a_blocked_prefix_across_two_cidrs_of_three_blocks_its_part_of_each() -> None:
    carver = CidrCarver(
        ["10.0.0.0/24", "10.0.2.0/24", "10.0.4.0/24"], blocked=["10.0.0.0/26", "10.0.0.0/22", "10.0.4.0/25"]
    )

    assert texts(carver.free_prefixes()) == ["10.0.4.128/25"]
    assert carver.blocked == 256 + 256 + 128
    carver.check_invariants()


# ----------------------------------------------------------------------------------------------------- reports


def test_the_counts_add_up() -> None:
    carver = CidrCarver(["10.0.0.0/23", "10.0.4.0/24"], blocked=["10.0.4.0/28"])
    carver.carve(25)
    carver.occupy("10.0.1.0/26")

    assert (carver.capacity, carver.blocked, carver.free) == (768, 16, 768 - 16 - 128 - 64)
    assert {length: carver.available(length) for length in range(23, 28)} == {23: 0, 24: 1, 25: 3, 26: 8, 27: 17}
    assert carver.available(32) == carver.free


def test_fragmentation_is_the_share_outside_the_largest_free_prefix() -> None:
    carver = CidrCarver(["10.0.0.0/24"])
    values = [carver.fragmentation()]
    for block in ("10.0.0.0/26", "10.0.0.128/26", "10.0.0.192/26", "10.0.0.64/26"):
        carver.occupy(block)
        values.append(carver.fragmentation())

    assert values == [0.0, 1 - 128 / 192, 0.5, 0.0, 0.0]


def test_blocked_space_is_neither_free_nor_available_nor_in_the_largest_free_prefix() -> None:
    carver = CidrCarver(["10.0.0.0/23"], blocked=["10.0.0.0/30", "10.0.1.64/27"])

    facts = (carver.capacity, carver.blocked, carver.free, carver.largest_free, carver.fragmentation())

    assert facts == (512, 36, 476, 25, 1 - 128 / 476)
    assert {length: carver.available(length) for length in range(23, 29)} == {23: 0, 24: 0, 25: 2, 26: 6, 27: 14, 28: 29}
    assert str(carver.carve(25)) == "10.0.0.128/25"
    assert (carver.largest_free, carver.fragmentation()) == (25, 1 - 128 / 348)


def test_a_carver_shows_what_is_left() -> None:
    carver = CidrCarver(["10.0.0.0/24", "10.0.2.0/26"], pool="green")
    carver.occupy("10.0.2.0/26")
    carver.carve(26)
    shown = repr(carver)
    carver.occupy("10.0.0.64/26")
    carver.occupy("10.0.0.128/25")

    assert shown == "<CidrCarver 'green' 10.0.0.0/24, 10.0.2.0/26: 2 blocks taken, 192 addresses free, largest /25>"
    assert repr(carver) == "<CidrCarver 'green' 10.0.0.0/24, 10.0.2.0/26: 4 blocks taken, 0 addresses free, largest none>"


def break_free(carver: CidrCarver) -> None:
    carver._free[number("10.0.0.0/32")] = 32


def break_taken(carver: CidrCarver) -> None:
    carver._taken.clear()


def break_outside(carver: CidrCarver) -> None:
    carver._taken[number("192.168.0.0/24")] = 24


def break_capacity(carver: CidrCarver) -> None:
    carver.capacity += 1


def break_blocked(carver: CidrCarver) -> None:
    carver.blocked += 1


def break_join(carver: CidrCarver) -> None:
    carver._remove(number("10.0.2.0/23"), 23)
    carver._split(number("10.0.2.0/24"), 23, 24)
    carver._free[number("10.0.2.0/24")] = 24


def break_alignment(carver: CidrCarver) -> None:
    base = number("10.0.0.0/24")
    carver._taken = {base: 26, base + 64: 25, base + 192: 26}


def break_list(carver: CidrCarver) -> None:
    carver._levels[24].clear()


def break_lengths(carver: CidrCarver) -> None:
    carver._lengths = 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_free, "tiles each CIDR"),
        (break_taken, "tiles each CIDR"),
        (break_outside, "lies in the CIDRs"),
        (break_capacity, "capacity"),
        (break_blocked, "blocked"),
        (break_join, "free buddies are joined"),
        (break_alignment, "is aligned"),
        (break_list, "lists of free prefixes"),
        (break_lengths, "lengths"),
    ],
)
def test_a_broken_carver_says_what_is_broken(fault: Callable[[CidrCarver], None], message: str) -> None:
    carver = CidrCarver(["10.0.0.0/22"])
    carver.carve(24)
    carver.check_invariants()

    fault(carver)

    with pytest.raises(AssertionError, match=rf"^CidrCarver broken: {message}$"):
        carver.check_invariants()


# ------------------------------------------------------------------------------------------------------- laws


def shown(block: int | Network | None) -> int:
    """The first address of an oracle's answer, -1 for none; a carver's answer as it is."""
    return block if isinstance(block, int) else -1 if block is None else int(block.network_address)


@given(st.data(), scenarios())
def test_blocks_are_disjoint_and_inside_the_cidrs(data: st.DataObject, scenario: Scenario) -> None:
    carver = scenario.carver()
    blocks: list[Prefix] = []

    for length in data.draw(st.lists(lengths(scenario), max_size=70)):
        network = carver.take(length)
        if network >= 0:
            blocks.append(Prefix(scenario.window.family, network, length))

    cidrs, blocked = ([parse_prefix(text) for text in some] for some in (scenario.cidrs, scenario.blocked))
    for index, block in enumerate(blocks):
        assert any(cidr.covers(block) for cidr in cidrs)
        assert not any(block.overlaps(other) for other in (*blocked, *blocks[:index]))
    carver.check_invariants()


@given(st.data(), scenarios())
def test_giving_everything_back_in_any_order_restores_what_was_free(data: st.DataObject, scenario: Scenario) -> None:
    carver = scenario.carver()
    before = carver.free_prefixes()
    blocks = [(carver.take(length), length) for length in data.draw(st.lists(lengths(scenario), max_size=70))]

    for network, length in data.draw(st.permutations([block for block in blocks if block[0] >= 0])):
        assert carver.give_back_bits(network, length)

    assert carver.free_prefixes() == before
    assert carver.taken() == []
    carver.check_invariants()


@given(st.data(), scenarios())
def test_what_is_free_depends_on_what_is_taken_and_not_on_how_it_came_about(
    data: st.DataObject, scenario: Scenario
) -> None:
    carver = scenario.carver()
    for length in data.draw(st.lists(lengths(scenario), max_size=40)):
        carver.take(length)
    for block in data.draw(st.lists(st.sampled_from(carver.taken()), unique=True) if carver.taken() else st.just([])):
        carver.give_back(block)

    again = scenario.carver()
    for block in data.draw(st.permutations(carver.taken())):
        again.occupy(block)
    restored = CidrCarver(scenario.cidrs, blocked=[*scenario.blocked, *carver.taken()])

    assert again.free_prefixes() == carver.free_prefixes() == restored.free_prefixes()
    assert again.taken() == carver.taken()


@given(st.data(), scenarios())
def test_the_order_of_the_input_does_not_matter(data: st.DataObject, scenario: Scenario) -> None:
    shuffled = CidrCarver(
        data.draw(st.permutations(scenario.cidrs)), blocked=data.draw(st.permutations(scenario.blocked))
    )
    carver = scenario.carver()

    wanted = data.draw(st.lists(lengths(scenario), max_size=20))

    assert [shuffled.take(length) for length in wanted] == [carver.take(length) for length in wanted]
    assert shuffled.free_prefixes() == carver.free_prefixes()


@given(st.data(), scenarios())
def test_carving_fails_exactly_if_no_aligned_position_is_free(data: st.DataObject, scenario: Scenario) -> None:
    carver, oracle = scenario.carver(), scenario.oracle()
    for length in data.draw(st.lists(lengths(scenario), max_size=30)):
        if carver.take(length) >= 0:
            oracle.carve(length)
    for block in data.draw(st.lists(st.sampled_from(carver.taken()), unique=True) if carver.taken() else st.just([])):
        carver.give_back(block)
        oracle.give_back(block)

    for length in range(scenario.longest + 1):
        free = oracle.positions(length)
        assert (carver.peek(length) >= 0) == bool(free)
        assert carver.available(length) == len(free)
        assert not free or Prefix(scenario.window.family, carver.peek(length), length).to_network() in free


@given(st.data(), scenarios())
def test_a_restored_carver_chooses_as_the_live_one_does(data: st.DataObject, scenario: Scenario) -> None:
    carver = scenario.carver()
    for length, sparse in data.draw(st.lists(st.tuples(lengths(scenario), st.booleans()), min_size=4, max_size=40)):
        carver.take(length, sparse=sparse)
    for block in data.draw(st.lists(st.sampled_from(carver.taken()), unique=True, max_size=3)) if carver.taken() else ():
        carver.give_back(block)

    restored = scenario.carver()
    for block in data.draw(st.permutations(carver.taken())):
        restored.occupy(block)

    held = [int(block.network_address) for block in carver.taken()]
    prefixes = data.draw(st.lists(around(scenario), max_size=8))
    for length in range(max(0, scenario.window.length), scenario.longest + 1):
        for one in (False, True):
            assert carver.peek(length, sparse=one) == restored.peek(length, sparse=one)
        for end in range(len(held) + 1):
            assert carver.peek_beside(held[end - 1 : end], length) == restored.peek_beside(held[end - 1 : end], length)
        for _, network, size in prefixes:
            assert carver.peek_within(network, size, length) == restored.peek_within(network, size, length)


@given(st.data(), scenarios())
def test_a_larger_prefix_is_never_split_while_a_smaller_one_fits(data: st.DataObject, scenario: Scenario) -> None:
    carver = scenario.carver()
    for length in data.draw(st.lists(lengths(scenario), max_size=40)):
        before = carver.free_prefixes()
        fitting = [prefix for prefix in before if prefix.prefixlen <= length]

        network = carver.take(length)

        if network >= 0:
            split = min(fitting, key=lambda prefix: (prefix.num_addresses, int(prefix.network_address)))
            assert network == int(split.network_address)
            assert set(before) - set(carver.free_prefixes()) == {split}
        else:
            assert fitting == []


# ---------------------------------------------------------------------------------------------------- machine


class CarverMachine(RuleBasedStateMachine):
    """Every operation on the carver and on the oracle; then everything that can be seen must be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.scenario = Scenario(4, 32, ("10.0.0.0/26",), (), Prefix(4, number("10.0.0.0/26"), 26))
        self.carver = self.scenario.carver()
        self.oracle = self.scenario.oracle()

    @initialize(scenario=scenarios())
    def begin(self, scenario: Scenario) -> None:
        self.scenario, self.carver, self.oracle = scenario, scenario.carver(), scenario.oracle()

    def both(self, mine: Callable[[], object], expected: Callable[[], object]) -> None:
        outcomes: list[object] = []
        for call in (mine, expected):
            try:
                outcomes.append(call())
            except IpamError as error:
                outcomes.append((type(error), getattr(error, "largest_free", None)))
        assert outcomes[0] == outcomes[1]

    @rule(data=st.data())
    def carve(self, data: st.DataObject) -> None:
        length = data.draw(lengths(self.scenario) | st.integers(-1, self.scenario.longest))
        peeked = self.carver.peek(length)
        self.both(lambda: self.carver.carve(length), lambda: self.oracle.carve(length))
        taken = {int(block.network_address) for block in self.oracle.taken()}
        assert peeked == -1 or peeked in taken

    @rule(data=st.data())
    def carve_sparse(self, data: st.DataObject) -> None:
        length = data.draw(lengths(self.scenario))
        expected = self.oracle.sparse(length)
        assert shown(self.carver.peek(length, sparse=True)) == shown(expected)
        assert shown(self.carver.take(length, sparse=True)) == shown(expected)
        if expected is not None:
            self.oracle.occupy(expected)

    @rule(data=st.data())
    def look_within(self, data: st.DataObject) -> None:
        places = st.tuples(around(self.scenario), lengths(self.scenario))
        for prefix, length in data.draw(st.lists(places, min_size=1, max_size=8)):
            expected = self.oracle.within(prefix.to_network(), length)
            assert shown(self.carver.peek_within(prefix.network, prefix.length, length)) == shown(expected)

    @rule(data=st.data())
    def look_beside(self, data: st.DataObject) -> None:
        anything = st.lists(around(self.scenario), max_size=3)
        taken = self.oracle.taken()
        held = [prefix.to_network() for prefix in data.draw(anything)]
        if taken:
            held += data.draw(st.lists(st.sampled_from(taken), max_size=3))
        length = data.draw(lengths(self.scenario))
        expected = self.oracle.beside(held, length)
        assert shown(self.carver.peek_beside([int(block.network_address) for block in held], length)) == shown(expected)

    @rule(data=st.data())
    def occupy(self, data: st.DataObject) -> None:
        block = data.draw(inside(self.scenario.window, self.scenario.longest)).to_network()
        self.both(lambda: self.carver.occupy(block), lambda: self.oracle.occupy(block))

    @rule(data=st.data())
    def occupy_a_part_of_a_free_prefix(self, data: st.DataObject) -> None:
        positions = [block for length in range(self.scenario.longest + 1) for block in self.oracle.positions(length)]
        if positions:
            block = data.draw(st.sampled_from(positions))
            self.oracle.occupy(block)
            assert self.carver.occupy_bits(int(block.network_address), block.prefixlen)

    @rule(data=st.data())
    def give_back_anything(self, data: st.DataObject) -> None:
        block = data.draw(inside(self.scenario.window, self.scenario.longest)).to_network()
        self.both(lambda: self.carver.give_back(block), lambda: self.oracle.give_back(block))

    @precondition(lambda self: self.oracle.taken())
    @rule(data=st.data())
    def give_back_with_another_length(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.oracle.taken()))
        length = data.draw(lengths(self.scenario).filter(lambda length: length != block.prefixlen))
        assert not self.carver.give_back_bits(int(block.network_address), length)

    @precondition(lambda self: self.oracle.taken())
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.oracle.taken()))
        self.oracle.give_back(block)
        assert self.carver.give_back_bits(int(block.network_address), block.prefixlen)

    @invariant()
    def the_same_is_seen(self) -> None:
        self.carver.check_invariants()
        assert self.carver.free_prefixes() == self.oracle.free_prefixes()
        assert self.carver.taken() == self.oracle.taken()
        assert self.carver.largest_free == self.oracle.largest_free
        assert (self.carver.capacity, self.carver.free) == (self.oracle.capacity, self.oracle.free)
        assert self.carver.fragmentation() == self.oracle.fragmentation()
        for length in range(max(0, self.scenario.window.length - 1), self.scenario.longest + 1):
            assert self.carver.available(length) == self.oracle.available(length)


TestCarverMachine: Any = CarverMachine.TestCase
