"""What exists: a named set of CIDRs, how blocks are cut from it, and which nodes may have them.

`PoolSpec` is the one description of a pool; `manifest` reads it and the carver cuts blocks out of it. It is frozen and in normal
form (CIDRs sorted, reserved ranges merged), so two specs that mean the same are equal. Everything that is wrong with a spec is told
at once, each problem as `field: sentence` or `field[index]: sentence`, so that a reader of manifests can map it to its own paths.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ciliumipam.cidr import WIDTH, AddressLike, Family, Prefix, PrefixLike, format_address, parse_address, parse_prefix
from ciliumipam.errors import InvalidCidrError, InvalidNameError, InvalidPoolError
from ciliumipam.names import describe, shorten, validate_name
from ciliumipam.selector import NodeSelector

_TOLD = 400

Range: TypeAlias = tuple[Family, int, int]
"""Family, first and last address as integers, both inclusive."""

RangeLike: TypeAlias = "PrefixLike | AddressLike | tuple[AddressLike, AddressLike] | Range"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class PoolSpec:
    """A pool, as somebody wants it. Immutable, hashable, equal by meaning.

    Attributes:
        name: A DNS-1123 subdomain.
        cidrs: Disjoint CIDRs, sorted; both families in one pool make it dual stack: a node gets a block of each.
        selector: The nodes that may use the pool; never the one that selects nothing.
        block_length_v4: Prefix length of IPv4 blocks; None is 24, or the CIDR's own length where that is longer.
        block_length_v6: Prefix length of IPv6 blocks; None is 64 where the CIDR is wide enough, else 120, or the CIDR's own length
            where that is longer.
        reserved: Addresses inside the CIDRs that are never handed out: sorted, disjoint, not adjacent.
        allow_first: Whether the first address of a block is handed out (always, in blocks of one or two addresses).
        allow_last: The same for the last address.
    """

    name: str
    cidrs: tuple[Prefix, ...]
    selector: NodeSelector
    block_length_v4: int | None
    block_length_v6: int | None
    reserved: tuple[Range, ...]
    allow_first: bool
    allow_last: bool

    def __init__(
        self,
        *,
        name: str,
        cidrs: Iterable[PrefixLike],
        selector: NodeSelector,
        block_length_v4: int | None = None,
        block_length_v6: int | None = None,
        reserved: Iterable[RangeLike] = (),
        allow_first: bool = False,
        allow_last: bool = False,
    ) -> None:
        """Check everything and bring it into normal form.

        Args:
            name: The pool's name.
            cidrs: Text, `ipaddress` or netaddr networks, or `Prefix` values.
            selector: Which nodes may use it; `NodeSelector.everything()` for all.
            block_length_v4: See the class.
            block_length_v6: See the class.
            reserved: Each a CIDR ("10.0.1.0/28"), a range ("10.0.1.10-10.0.1.20"), one address, or a pair (first, last), inclusive.
            allow_first: See the class.
            allow_last: See the class.

        Raises:
            InvalidPoolError: `problems` has all that is wrong, each one naming field and value.

        Complexity:
            O(n log n) for n CIDRs and reserved ranges.
        """
        problems: list[str] = []
        shown = name
        try:
            validate_name("pool name", name)
        except InvalidNameError as error:
            shown = error.name
            problems.append(f"name: {error}")
        prefixes = _read_cidrs(cidrs, problems)
        _check_selector(selector, problems)
        _check_block_length(4, block_length_v4, prefixes, problems)
        _check_block_length(6, block_length_v6, prefixes, problems)
        ranges = _read_reserved(reserved, prefixes, problems)
        _check_flag("allow_first", allow_first, problems)
        _check_flag("allow_last", allow_last, problems)
        if problems:
            raise InvalidPoolError(shown, tuple(problems))
        put = object.__setattr__
        put(self, "name", name)
        put(self, "cidrs", tuple(sorted(prefix for prefix in prefixes if prefix)))
        put(self, "selector", selector)
        put(self, "block_length_v4", block_length_v4)
        put(self, "block_length_v6", block_length_v6)
        put(self, "reserved", ranges)
        put(self, "allow_first", allow_first)
        put(self, "allow_last", allow_last)

    def block_length(self, cidr: Prefix) -> int:
        """The prefix length of the blocks that are cut out of one of the pool's CIDRs."""
        chosen = self.block_length_v4 if cidr.family == 4 else self.block_length_v6
        if chosen is not None:
            return chosen
        if cidr.family == 4:
            return max(24, cidr.length)
        return 64 if cidr.length <= 64 else max(120, cidr.length)

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that the pool has CIDRs of, ascending."""
        return tuple(sorted({cidr.family for cidr in self.cidrs}))

    def cidrs_of(self, family: Family) -> tuple[Prefix, ...]:
        """The CIDRs of one family, sorted."""
        return tuple(cidr for cidr in self.cidrs if cidr.family == family)

    def blocks(self, family: Family) -> int:
        """How many blocks of a family the CIDRs make, held or not; exact, and huge for wide IPv6 CIDRs. 0 without a CIDR of it."""
        return sum(1 << (self.block_length(cidr) - cidr.length) for cidr in self.cidrs_of(family))

    def covers(self, prefix: Prefix) -> bool:
        """Whether one of the CIDRs covers every address of the prefix."""
        return any(cidr.covers(prefix) for cidr in self.cidrs)

    def overlaps(self, other: PoolSpec) -> tuple[Prefix, Prefix] | None:
        """The lowest pair of CIDRs, one of each pool, that share an address; None if the pools are disjoint. O(n + m)."""
        mine, theirs = iter(self.cidrs), iter(other.cidrs)
        left, right = next(mine, None), next(theirs, None)
        while left is not None and right is not None:
            if left.overlaps(right):
                return left, right
            if left < right:
                left = next(mine, None)
            else:
                right = next(theirs, None)
        return None

    def to_dict(self) -> dict[str, Any]:
        """The `spec` of a `CIDRPool` manifest; what is left at its default is left out. `manifest.read_manifest` reads it back."""
        spec: dict[str, Any] = {
            "cidrs": [str(cidr) for cidr in self.cidrs],
            "nodeSelector": self.selector.to_label_selector(),
        }
        lengths = {"ipv4": self.block_length_v4, "ipv6": self.block_length_v6}
        if any(length is not None for length in lengths.values()):
            spec["blockLength"] = {name: length for name, length in lengths.items() if length is not None}
        if self.reserved:
            spec["reserved"] = [_format_range(*given) for given in self.reserved]
        if self.allow_first:
            spec["allowFirst"] = True
        if self.allow_last:
            spec["allowLast"] = True
        return spec

    def __repr__(self) -> str:
        """CIDRs, block lengths and selector on one line."""
        cidrs = ", ".join(f"{cidr} in /{self.block_length(cidr)}" for cidr in self.cidrs)
        return f"<PoolSpec {self.name}: {cidrs}, for {str(self.selector) or 'every node'}>"


def pool_order(spec: PoolSpec, family: Family | None = None) -> tuple[int, int, str]:
    """The sort key by which pools are tried for a node that they select: a total order, since names are unique.

    First the pool with more requirements in its selector; then the one with fewer configured blocks (of the family; without a
    family, of the scarcest one that the pool has); then by name.

    Args:
        spec: The pool.
        family: Compare the blocks of this family, which the pool should have.
    """
    families = spec.families if family is None else (family,)
    return -spec.selector.requirements, min(spec.blocks(each) for each in families), spec.name


def _read_cidrs(cidrs: Iterable[PrefixLike], problems: list[str]) -> list[Prefix | None]:
    """The CIDRs by their index, None for one that is not usable."""
    given = _items("cidrs", "CIDRs", cidrs, problems)
    if given is None:
        return [None]
    if not given:
        problems.append("cidrs: the pool has no CIDR; give at least one, as in 10.0.0.0/16")
    prefixes: list[Prefix | None] = []
    for index, value in enumerate(given):
        prefix = None
        try:
            prefix = parse_prefix(value)
        except InvalidCidrError as error:
            problems.append(f"cidrs[{index}]: {shorten(str(error), _TOLD)}")
        if prefix and prefix.length == 0:
            problems.append(
                f"cidrs[{index}]: {prefix} is a whole address family; give a CIDR with a length of at least 1"
            )
            prefix = None
        prefixes.append(prefix)
    ordered = sorted((prefix, index) for index, prefix in enumerate(prefixes) if prefix)
    outer: Prefix | None = None
    for prefix, index in ordered:
        if prefix == outer:
            problems.append(f"cidrs[{index}]: {prefix} is given twice")
        elif outer and outer.covers(prefix):
            problems.append(
                f"cidrs[{index}]: {prefix} lies inside {outer}, another CIDR of the pool; leave one of them out"
            )
        else:
            outer = prefix
    return prefixes


def _check_block_length(family: Family, length: object, prefixes: list[Prefix | None], problems: list[str]) -> None:
    if length is None:
        return
    field, width = f"block_length_v{family}", WIDTH[family]
    if not isinstance(length, int) or isinstance(length, bool):
        problems.append(f"{field}: expected a whole number, found {describe(length)}")
        return
    if not 1 <= length <= width:
        problems.append(f"{field}: {describe(length)} is not a prefix length of IPv{family}, which is 1 to {width}")
        return
    wide = [prefix for prefix in prefixes if prefix and prefix.family == family]
    problems.extend(
        f"{field}: a /{length} is larger than the CIDR {prefix}, so not one block fits; give at least {prefix.length}"
        for prefix in sorted(wide)
        if length < prefix.length
    )
    if not wide and None not in prefixes:
        problems.append(f"{field}: /{length} is given, but the pool has no IPv{family} CIDR")


def _check_selector(selector: object, problems: list[str]) -> None:
    if not isinstance(selector, NodeSelector):
        problems.append(f"selector: expected a NodeSelector, found {describe(selector)}")
    elif selector.selects_nothing:
        problems.append(
            "selector: it selects nothing, so no node could use the pool; the empty selector selects every node"
        )


def _check_flag(field: str, value: object, problems: list[str]) -> None:
    if not isinstance(value, bool):
        problems.append(f"{field}: expected true or false, found {describe(value)}")


def _read_reserved(
    reserved: Iterable[RangeLike], prefixes: list[Prefix | None], problems: list[str]
) -> tuple[Range, ...]:
    """The reserved ranges in normal form; what lies outside the CIDRs is a problem, unless a CIDR is not usable."""
    known = [prefix for prefix in prefixes if prefix]
    inside = _merge((prefix.family, prefix.network, prefix.last) for prefix in known)
    ranges: list[Range] = []
    for index, value in enumerate(_items("reserved", "addresses and ranges", reserved, problems) or ()):
        field = f"reserved[{index}]"
        try:
            family, first, last = _parse_range(value)
        except ValueError as error:
            problems.append(f"{field}: {shorten(str(error), _TOLD)}")
            continue
        ranges.append((family, first, last))
        if None not in prefixes and not any(f == family and low <= first and last <= high for f, low, high in inside):
            cidrs = ", ".join(str(prefix) for prefix in sorted(known)) or "none"
            problems.append(f"{field}: {_format_range(family, first, last)} is not inside the pool's CIDRs ({cidrs})")
    return _merge(ranges)


def _parse_range(value: RangeLike) -> Range:
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


def _pair(first: AddressLike, last: AddressLike) -> Range:
    (family, low), (other, high) = parse_address(first), parse_address(last)
    if family != other:
        raise ValueError(f"{first}-{last} mixes the families: first and last are of one family")
    if low > high:
        raise ValueError(f"{first}-{last} is the wrong way round: write {last}-{first}")
    return family, low, high


def _items(field: str, what: str, value: Any, problems: list[str]) -> list[Any] | None:
    """The items of a collection; a lone value in its place is a problem, also one that Python could iterate over."""
    if isinstance(value, (str, bytes, dict, Prefix)) or not isinstance(value, Iterable) or hasattr(value, "prefixlen"):
        problems.append(
            f"{field}: expected a list of {what}, found {describe(str(value) if hasattr(value, 'prefixlen') else value)}"
        )
        return None
    return list(value)


def _merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, with overlapping and adjacent ranges joined."""
    merged: list[Range] = []
    for family, first, last in sorted(ranges):
        if merged and merged[-1][0] == family and first <= merged[-1][2] + 1:
            merged[-1] = (family, merged[-1][1], max(last, merged[-1][2]))
        else:
            merged.append((family, first, last))
    return tuple(merged)


def _format_range(family: Family, first: int, last: int) -> str:
    if first == last:
        return format_address(family, first)
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        return str(Prefix(family, first, WIDTH[family] - size.bit_length() + 1))
    return f"{format_address(family, first)}-{format_address(family, last)}"
