"""Ranges of addresses as people write them: a CIDR, two addresses and a dash, one address, or a pair. `pool` reserves them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from ciliumipam.cidr import WIDTH, AddressLike, Family, Prefix, PrefixLike, format_address, parse_address, parse_prefix
from ciliumipam.names import describe

Range: TypeAlias = tuple[Family, int, int]
"""Family, first and last address as integers, both inclusive."""

RangeLike: TypeAlias = "PrefixLike | AddressLike | tuple[AddressLike, AddressLike] | Range"


def parse_range(value: RangeLike) -> Range:
    """One reserved range out of any of its forms.

    Raises:
        ValueError: It is none of them, or first and last do not belong together; the errors of `cidr` are such as well.
    """
    if isinstance(value, str) and "-" in value:
        first_text, _, last_text = value.partition("-")
        return _pair(first_text.strip(), last_text.strip())
    if isinstance(value, tuple) and not isinstance(value, Prefix):
        if len(value) == 2:
            return _pair(*value)
        if len(value) == 3 and all(type(part) is int for part in value) and value[0] in WIDTH:
            family, first, last = value
            if 0 <= first <= last < 1 << WIDTH[family]:
                return family, first, last
        raise ValueError("a tuple is a pair (first, last) of addresses, or (family, first, last) as whole numbers")
    if "/" in value if isinstance(value, str) else isinstance(value, Prefix) or hasattr(value, "prefixlen"):
        prefix = parse_prefix(value)
        return prefix.family, prefix.network, prefix.last
    if value is None or isinstance(value, (int, float, dict, list)):
        raise ValueError(f"expected a CIDR, a range or an address, found {describe(value)}")
    family, number = parse_address(value)
    return family, number, number


def merge_ranges(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, with overlapping and adjacent ranges joined."""
    merged: list[Range] = []
    for family, first, last in sorted(ranges):
        if merged and merged[-1][0] == family and first <= merged[-1][2] + 1:
            merged[-1] = (family, merged[-1][1], max(last, merged[-1][2]))
        else:
            merged.append((family, first, last))
    return tuple(merged)


def format_range(family: Family, first: int, last: int) -> str:
    """A range as people write it, which `parse_range` reads back: an address, a CIDR where it is one, else both ends."""
    if first == last:
        return format_address(family, first)
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        return str(Prefix(family, first, WIDTH[family] - size.bit_length() + 1))
    return f"{format_address(family, first)}-{format_address(family, last)}"


def _pair(first: AddressLike, last: AddressLike) -> Range:
    (family, low), (other, high) = parse_address(first), parse_address(last)
    if family != other:
        raise ValueError(f"{first}-{last} mixes the families: first and last are of one family")
    if low > high:
        raise ValueError(f"{first}-{last} is the wrong way round: write {last}-{first}")
    return family, low, high
