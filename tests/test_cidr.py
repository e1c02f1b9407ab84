"""`ciliumipam.cidr` against the standard library, against plain integers, and against input that means harm."""

from __future__ import annotations

import pickle
import subprocess
import sys
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    collapse_addresses,
    ip_network,
    summarize_address_range,
)
from typing import cast

import netaddr
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ciliumipam.cidr import (
    WIDTH,
    Family,
    Prefix,
    format_address,
    merge,
    parse_address,
    parse_prefix,
    range_to_prefixes,
    to_address,
)
from ciliumipam.errors import InvalidAddressError, InvalidCidrError, InvalidError
from ciliumipam.testing import strategies

families = st.sampled_from([4, 6]).map(lambda value: cast("Family", value))


def prefixes(shortest: int = 0) -> st.SearchStrategy[Prefix]:
    return strategies.prefixes(min_length=shortest).map(parse_prefix)


@st.composite
def crowded_prefixes(draw: st.DrawFn) -> Prefix:
    """Prefixes inside one /27 of each family, so that they often touch, nest and repeat."""
    family = draw(families)
    width, base = WIDTH[family], {4: 0x0A000000, 6: 0xFD << 120}[family]
    length = width - draw(st.integers(0, 5))
    size = 1 << (width - length)
    return Prefix(family, base + draw(st.integers(0, 32 // size - 1)) * size, length)


def addresses_of(items: list[Prefix]) -> set[tuple[int, int]]:
    return {(prefix.family, number) for prefix in items for number in range(prefix.network, prefix.last + 1)}


# ------------------------------------------------------------------------------------------------------- values


@given(prefixes())
@example(Prefix(4, 0, 0))
@example(Prefix(6, 0, 0))
@example(Prefix(4, (1 << 32) - 1, 32))
@example(Prefix(6, (1 << 128) - 1, 128))
def test_size_last_and_network_agree_with_the_standard_library(prefix: Prefix) -> None:
    network = prefix.to_network()

    assert isinstance(network, IPv4Network if prefix.family == 4 else IPv6Network)
    assert int(network.network_address) == prefix.network
    assert network.prefixlen == prefix.length
    assert prefix.size == network.num_addresses
    assert prefix.last == int(network.broadcast_address)


@given(prefixes(), prefixes())
def test_covers_and_overlaps_agree_with_the_standard_library(left: Prefix, right: Prefix) -> None:
    check_relation(left, right)


@given(crowded_prefixes(), crowded_prefixes())
def test_covers_and_overlaps_agree_with_the_standard_library_where_prefixes_are_close(
    left: Prefix, right: Prefix
) -> None:
    check_relation(left, right)


def check_relation(left: Prefix, right: Prefix) -> None:
    one, other = left.to_network(), right.to_network()
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):  # noqa: SIM114 - each branch narrows both types
        expected = other.subnet_of(one), one.overlaps(other)
    elif isinstance(one, IPv6Network) and isinstance(other, IPv6Network):
        expected = other.subnet_of(one), one.overlaps(other)
    else:
        expected = False, False

    assert (left.covers(right), left.overlaps(right)) == expected
    assert right.overlaps(left) == left.overlaps(right)


def test_prefixes_sort_by_family_then_network_then_length() -> None:
    texts = ["10.0.0.0/8", "10.0.0.0/16", "10.0.1.0/24", "192.0.2.0/24", "::/1", "fd00::/8", "fd00::/64"]

    by_hand = [parse_prefix(text) for text in texts]

    assert sorted(set(by_hand)) == by_hand


@given(prefixes())
def test_a_prefix_is_hashable_and_survives_pickling(prefix: Prefix) -> None:
    copy = pickle.loads(pickle.dumps(prefix))  # noqa: S301 - our own bytes

    assert copy == prefix
    assert hash(copy) == hash(prefix)


# ------------------------------------------------------------------------------------------------------ parsing


@given(prefixes())
def test_every_form_of_a_prefix_parses_to_the_same_value(prefix: Prefix) -> None:
    network = prefix.to_network()

    forms = [str(prefix), str(network), network.exploded, network, prefix, netaddr.IPNetwork(str(prefix))]

    assert [parse_prefix(form) for form in forms] == [prefix] * len(forms)


@given(families.flatmap(lambda family: st.tuples(st.just(family), st.integers(0, (1 << WIDTH[family]) - 1))))
def test_every_form_of_an_address_parses_to_the_same_value(pair: tuple[Family, int]) -> None:
    family, number = pair
    address = to_address(family, number)

    forms = [format_address(family, number), str(address), address.exploded, address, netaddr.IPAddress(str(address))]

    assert [parse_address(form) for form in forms] == [pair] * len(forms)


@given(prefixes(shortest=1))
def test_a_prefix_with_host_bits_is_refused_and_the_right_one_is_named(prefix: Prefix) -> None:
    host_bits = WIDTH[prefix.family] - prefix.length + 1
    shorter = Prefix(prefix.family, prefix.network >> host_bits << host_bits, prefix.length - 1)
    text = f"{format_address(prefix.family, prefix.network)}/{shorter.length}"
    if shorter.network == prefix.network:
        assert parse_prefix(text) == shorter
        return

    with pytest.raises(InvalidCidrError, match="host bits are set") as caught:
        parse_prefix(text)

    assert caught.value.value == text
    assert f"{shorter}?" in caught.value.reason


@given(st.text())
@example("10.0.0.0/8\n")
@example("1.2.3.4/3\u0662")
@example("::%/64")
@example("/")
@example("\0/8")
def test_any_text_is_a_prefix_that_the_standard_library_knows_or_a_typed_error(text: str) -> None:
    try:
        prefix = parse_prefix(text)
    except InvalidCidrError as error:
        assert error.value == text  # noqa: PT017 - either outcome is right
    else:
        assert prefix.to_network() == ip_network(text)


@given(st.text(alphabet="0123456789.:/abcdefx%-+ ", max_size=24))
@example("10.0.0.0/8")
@example("10.0.0.0/255.0.0.0")
@example("10.0.0.0/0.255.255.255")
@example("10.0.0.0/08")
@example("010.0.0.0/8")
@example("fd00::/+8")
@example("fd00:: /8")
def test_text_that_looks_like_a_prefix_parses_strictly_or_not_at_all(text: str) -> None:
    try:
        prefix = parse_prefix(text)
    except InvalidCidrError:
        return

    assert prefix.to_network() == ip_network(text)
    assert str(prefix.length) == text.partition("/")[2]


@given(st.text(alphabet="0123456789.:/abcdef%-+ ", max_size=24) | st.text())
def test_any_text_is_an_address_that_the_standard_library_knows_or_a_typed_error(text: str) -> None:
    try:
        family, number = parse_address(text)
    except InvalidAddressError as error:
        assert error.value == text  # noqa: PT017 - either outcome is right
    else:
        assert to_address(family, number) == (IPv4Address(text) if family == 4 else IPv6Address(text))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "it is empty"),
        ("10.0.0.0", "it has no length; write 10.0.0.0/32 for a single address"),
        ("fd00::", "it has no length; write fd00::/128 for a single address"),
        ("nonsense", "write address/length, as in 10.0.0.0/16 or fd00::/48"),
        ("fd00::%1", "an IPv6 zone has no meaning here"),
        ("10.0.0.0/", "the length '' is not a plain number"),
        ("10.0.0.0/33", "an IPv4 length is 0 to 32"),
        ("fd00::/129", "an IPv6 length is 0 to 128"),
        ("10.0.0.0/-1", "the length '-1' is not a plain number"),
        ("10.0.0.0/08", "the length '08' is not a plain number"),
        ("10.0.0.0/255.0.0.0", "masks are not accepted"),
        ("10.0.0.0/0.255.255.255", "masks are not accepted"),
        ("10.0.0.0/8/8", "the length '8/8' is not a plain number"),
        ("10.0.0.5/24", "host bits are set; did you mean 10.0.0.0/24?"),
        ("fd00::1/64", "host bits are set; did you mean fd00::/64?"),
        ("fe80::%eth0/64", "an IPv6 zone has no meaning"),
        ("010.0.0.0/8", "Leading zeros are not permitted"),
        ("10.0.0/8", "Expected 4 octets"),
        ("256.0.0.0/8", "not permitted"),
        (" 10.0.0.0/8", "Only decimal digits permitted"),
        ("10.0.0.0/8 ", "the length '8 ' is not a plain number"),
        ("10.0.0.0/8\n", "is not a plain number"),
    ],
)
def test_a_text_that_is_no_prefix_is_refused_with_the_reason(value: str, reason: str) -> None:
    with pytest.raises(InvalidCidrError) as caught:
        parse_prefix(value)

    assert caught.value.value == value
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    "value",
    [
        None,
        167772160,
        True,
        b"10.0.0.0/8",
        1.5,
        ["10.0.0.0/8"],
        ("10.0.0.0", 8),
        IPv4Address("10.0.0.0"),
        IPv4Interface("10.0.0.0/8"),
    ],
)
def test_a_value_that_is_no_network_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(InvalidCidrError, match=f"expected text or a network, got {type(value).__name__}"):
        parse_prefix(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        167772161,
        True,
        b"10.0.0.1",
        1.5,
        ["10.0.0.1"],
        IPv4Network("10.0.0.1/32"),
        netaddr.IPNetwork("10.0.0.1/32"),
    ],
)
def test_a_value_that_is_no_address_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(InvalidAddressError, match=f"expected text or an address, got {type(value).__name__}"):
        parse_address(value)


def test_a_netaddr_network_keeps_its_host_bits_and_is_therefore_refused() -> None:
    with pytest.raises(InvalidCidrError, match=r"did you mean 10\.0\.0\.0/24"):
        parse_prefix(netaddr.IPNetwork("10.0.0.5/24"))


def test_changing_a_netaddr_network_afterwards_changes_nothing_here() -> None:
    network = netaddr.IPNetwork("10.0.0.0/24")
    prefix = parse_prefix(network)

    network.prefixlen = 8

    assert str(prefix) == "10.0.0.0/24"


@pytest.mark.parametrize("text", ["10.0.0.1/32", "fd00::1/128"])
def test_an_address_with_a_length_is_refused_and_the_bare_address_is_named(text: str) -> None:
    with pytest.raises(InvalidAddressError, match=f"leave out the length: {text.partition('/')[0]}"):
        parse_address(text)


@pytest.mark.parametrize("value", ["fe80::1%eth0", IPv6Address("fe80::1%eth0")])
def test_an_address_with_a_zone_is_refused(value: object) -> None:
    with pytest.raises(InvalidAddressError, match="zone"):
        parse_address(value)


def test_a_length_of_thousands_of_digits_is_refused_as_any_other_bad_length() -> None:
    with pytest.raises(InvalidCidrError):
        parse_prefix("10.0.0.0/" + "1" * 5000)


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["positive", "negative"])
def test_a_huge_number_in_place_of_a_cidr_or_an_address_is_refused_as_any_other_number(value: int) -> None:
    with pytest.raises(InvalidCidrError):
        parse_prefix(value)
    with pytest.raises(InvalidAddressError):
        parse_address(value)


@pytest.mark.parametrize("value", [IPv4Interface("10.0.0.5/24"), IPv6Interface("fd00::5/64")])
def test_an_interface_is_not_taken_for_an_address_which_would_drop_its_length(value: object) -> None:
    with pytest.raises(InvalidAddressError):
        parse_address(value)


def test_a_network_with_a_zone_is_refused_as_its_text_is() -> None:
    with pytest.raises(InvalidCidrError, match="zone"):
        parse_prefix(IPv6Network("fe80::%eth0/64"))


@pytest.mark.parametrize(
    "value",
    [Prefix(4, 5, 24), Prefix(4, 0, 33), Prefix(4, 0, -1), Prefix(6, 1 << 128, 128), Prefix(cast("Family", 5), 0, 0)],
)
def test_a_prefix_made_by_hand_is_checked_as_any_other_value(value: Prefix) -> None:
    with pytest.raises(InvalidCidrError):
        parse_prefix(value)


def test_the_text_of_an_ipv4_mapped_address_is_the_same_on_every_python() -> None:
    assert format_address(6, int(IPv6Address("::ffff:10.0.0.1"))) == "::ffff:a00:1"
    assert str(parse_prefix("::ffff:10.0.0.0/104")) == "::ffff:a00:0/104"


# ------------------------------------------------------------------------------------------------------ algebra


@given(
    families.flatmap(
        lambda family: st.tuples(
            st.just(family), st.integers(0, (1 << WIDTH[family]) - 1), st.integers(0, (1 << WIDTH[family]) - 1)
        )
    )
)
def test_a_range_becomes_the_prefixes_that_the_standard_library_gives(triple: tuple[Family, int, int]) -> None:
    family, one, other = triple
    first, last = sorted((one, other))

    found = range_to_prefixes(family, first, last)

    low, high = to_address(family, first), to_address(family, last)
    if isinstance(low, IPv4Address) and isinstance(high, IPv4Address):  # noqa: SIM114 - each branch narrows both types
        assert [prefix.to_network() for prefix in found] == list(summarize_address_range(low, high))
    elif isinstance(low, IPv6Address) and isinstance(high, IPv6Address):
        assert [prefix.to_network() for prefix in found] == list(summarize_address_range(low, high))


@pytest.mark.parametrize("family", [4, 6])
def test_the_whole_of_a_family_is_one_prefix_and_one_address_is_one_too(family: Family) -> None:
    last = (1 << WIDTH[family]) - 1

    assert range_to_prefixes(family, 0, last) == [Prefix(family, 0, 0)]
    assert range_to_prefixes(family, last, last) == [Prefix(family, last, WIDTH[family])]


def test_a_range_the_wrong_way_round_is_not_silently_one_address() -> None:
    with pytest.raises(InvalidError):
        range_to_prefixes(4, 5, 3)


@given(st.lists(crowded_prefixes(), max_size=12))
def test_merging_keeps_every_address_and_adds_none(items: list[Prefix]) -> None:
    merged = merge(items)

    assert addresses_of(merged) == addresses_of(items)
    assert merged == sorted(merged)
    assert all(not one.overlaps(other) for i, one in enumerate(merged) for other in merged[:i])


@given(st.lists(crowded_prefixes(), max_size=12))
def test_merging_gives_the_fewest_prefixes_whatever_the_order(items: list[Prefix]) -> None:
    v4 = [n for n in (p.to_network() for p in items) if isinstance(n, IPv4Network)]
    v6 = [n for n in (p.to_network() for p in items) if isinstance(n, IPv6Network)]

    assert [p.to_network() for p in merge(items)] == [*collapse_addresses(v4), *collapse_addresses(v6)]
    assert merge(items) == merge(reversed(items))


def test_netaddr_is_loaded_only_by_the_algebra() -> None:
    script = (
        "import sys; from ciliumipam import cidr; cidr.parse_prefix('10.0.0.0/8'); cidr.parse_address('fd00::1');"
        "assert 'netaddr' not in sys.modules; cidr.merge([]); assert 'netaddr' in sys.modules"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
