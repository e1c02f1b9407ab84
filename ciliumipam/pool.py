"""What exists: a named set of CIDRs, how blocks are cut from it, and which nodes may have them.

`PoolSpec` is the one description of a pool; `manifest` reads it and the carver cuts blocks out of it. It is frozen and in normal
form (CIDRs sorted, reserved ranges merged), so two specs that mean the same are equal. Everything that is wrong with a spec is told
at once, each problem as `field: sentence` or `field[index]: sentence`, so that a reader of manifests can map it to its own paths.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from ciliumipam.addresses import POLICIES, Policy
from ciliumipam.cidr import WIDTH, Family, Prefix, PrefixLike, parse_prefix
from ciliumipam.errors import InvalidCidrError, InvalidNameError, InvalidPoolError
from ciliumipam.names import describe, label_key_problem, shorten, validate_name
from ciliumipam.node import Node
from ciliumipam.ranges import Range, RangeLike, format_range, merge_ranges, parse_range
from ciliumipam.selector import NodeSelector
from ciliumipam.value import Value

_TOLD = 400

DEFAULT_SPACE = "default"
"""The address space of pools that name none."""

Carving: TypeAlias = Literal["lowest", "sparse", "grouped"]
CARVING: tuple[Carving, ...] = ("lowest", "sparse", "grouped")

_MOST_BLOCKS = 65536
_LONGEST_DELAY = 315_360_000

class BlockLengths(NamedTuple):
    """Other block lengths than the pool's, for some of its nodes.

    Attributes:
        selector: The nodes.
        v4: Prefix length of their IPv4 blocks; None is the pool's.
        v6: The same for IPv6.
    """

    selector: NodeSelector
    v4: int | None = None
    v6: int | None = None


class PoolSpec(Value):
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
        priority: Of several pools that select a node, the one with the highest serves it; any whole number of 32 bits.
        address_space: Pools of one address space are disjoint. Pools of different ones may overlap, and know nothing of each other.
        block_lengths: Other lengths for some nodes, such as larger blocks for dense ones. The first one that selects a node counts.
        blocks_per_node: How many blocks of a family a node gets at once.
        max_blocks_per_node: How many of this pool's a node may hold at the most; None is no limit.
        overflow: Whether a node that finds this pool full is served by the next pool that selects it. Without it a node's first
            pool is its only one, as in Cilium's per-node pools.
        draining: Takes nothing new. Who holds something keeps it.
        reuse_delay: Seconds that a released address, and a block that was given back, waits before anybody gets it again.
        address_policy: How the addresses of its blocks are picked: "next", "lowest" or "random" (see `addresses`).
        seed: What "random" starts from.
        carving: How blocks are picked: "lowest"; "sparse" leaves the neighbours free (RFC 3531), so that a node's further
            blocks can join its first; "grouped" keeps nodes with one value of the label `group_by` in one prefix.
        group_by: The label key, for "grouped" only, else "".
    """

    __slots__ = (
        "address_policy",
        "address_space",
        "allow_first",
        "allow_last",
        "block_length_v4",
        "block_length_v6",
        "block_lengths",
        "blocks_per_node",
        "carving",
        "cidrs",
        "draining",
        "group_by",
        "max_blocks_per_node",
        "name",
        "overflow",
        "priority",
        "reserved",
        "reuse_delay",
        "seed",
        "selector",
    )
    name: str
    cidrs: tuple[Prefix, ...]
    selector: NodeSelector
    block_length_v4: int | None
    block_length_v6: int | None
    reserved: tuple[Range, ...]
    allow_first: bool
    allow_last: bool
    priority: int
    address_space: str
    block_lengths: tuple[BlockLengths, ...]
    blocks_per_node: int
    max_blocks_per_node: int | None
    overflow: bool
    draining: bool
    reuse_delay: float
    address_policy: Policy
    seed: int
    carving: Carving
    group_by: str

    def __init__(  # noqa: D417 - the class says what the others are
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
        priority: int = 0,
        address_space: str = DEFAULT_SPACE,
        block_lengths: Iterable[BlockLengths] = (),
        blocks_per_node: int = 1,
        max_blocks_per_node: int | None = None,
        overflow: bool = False,
        draining: bool = False,
        reuse_delay: float = 0,
        address_policy: Policy = "next",
        seed: int = 0,
        carving: Carving = "lowest",
        group_by: str = "",
    ) -> None:
        """Check everything and bring it into normal form.

        Args:
            name: The pool's name.
            cidrs: Text, `ipaddress` or netaddr networks, or `Prefix` values.
            selector: Which nodes may use it; `NodeSelector.everything()` for all.
            reserved: Each a CIDR ("10.0.1.0/28"), a range ("10.0.1.10-10.0.1.20"), one address, or a pair (first, last), inclusive.
            address_space: A DNS-1123 subdomain.
            reuse_delay: 0 to 315,360,000, which is ten years.

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
        lengths = _read_block_lengths(block_lengths, prefixes, problems)
        for field, flag in (("allow_first", allow_first), ("allow_last", allow_last), ("overflow", overflow), ("draining", draining)):
            _check_flag(field, flag, problems)
        _check_whole("priority", priority, -(1 << 31), (1 << 31) - 1, problems)
        _check_whole("seed", seed, 0, (1 << 63) - 1, problems)
        try:
            validate_name("address space", address_space)
        except InvalidNameError as error:
            problems.append(f"address_space: {error}")
        if _check_whole("blocks_per_node", blocks_per_node, 1, _MOST_BLOCKS, problems) and max_blocks_per_node is not None:
            _check_whole("max_blocks_per_node", max_blocks_per_node, blocks_per_node, _MOST_BLOCKS, problems)
        _check_delay(reuse_delay, problems)
        _check_choice("address_policy", address_policy, POLICIES, problems)
        _check_choice("carving", carving, CARVING, problems)
        _check_group_by(carving, group_by, problems)
        if problems:
            raise InvalidPoolError(shown, tuple(problems))
        self._put(
            name,
            tuple(sorted(prefix for prefix in prefixes if prefix)),
            selector,
            block_length_v4,
            block_length_v6,
            ranges,
            allow_first,
            allow_last,
            priority,
            address_space,
            lengths,
            blocks_per_node,
            max_blocks_per_node,
            overflow,
            draining,
            float(reuse_delay),
            address_policy,
            seed,
            carving,
            group_by,
        )

    def replace(self, **changes: Any) -> PoolSpec:
        """A pool that differs in these fields only, checked and brought into normal form like any other.

        Raises:
            InvalidPoolError: As the constructor.
            TypeError: A pool has no such field.
        """
        return PoolSpec(**{name: getattr(self, name) for name in self._fields} | changes)

    def block_length(self, cidr: Prefix) -> int:
        """The prefix length of the blocks that are cut out of one of the pool's CIDRs."""
        chosen = self.block_length_v4 if cidr.family == 4 else self.block_length_v6
        if chosen is not None:
            return chosen
        if cidr.family == 4:
            return max(24, cidr.length)
        return 64 if cidr.length <= 64 else max(120, cidr.length)

    def block_length_for(self, node: Node, cidr: Prefix) -> int:
        """The same for one node."""
        for selector, *lengths in self.block_lengths:
            if selector.matches(node.labels, node.name):
                length = lengths[0 if cidr.family == 4 else 1]
                return length if length is not None else self.block_length(cidr)
        return self.block_length(cidr)

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

    def usable(self, block: Prefix) -> int:
        """How many addresses of a block are handed out: all but the reserved ones, and but its first and last where these are not.

        Complexity:
            O(log r) for r reserved ranges, and those inside the block.
        """
        first, last = block.network, block.last
        if last - first > 1:
            first += not self.allow_first
            last -= not self.allow_last
        count = last - first + 1
        at = bisect_right(self.reserved, (block.family, first, last))
        for family, low, high in self.reserved[max(at - 1, 0) :]:
            if (family, low) > (block.family, last):
                break
            if family == block.family:
                count -= max(0, min(high, last) - max(low, first) + 1)
        return count

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
            "nodeSelector": self.selector.to_manifest(),
        }
        lengths = {"ipv4": self.block_length_v4, "ipv6": self.block_length_v6}
        if any(length is not None for length in lengths.values()):
            spec["blockLength"] = {name: length for name, length in lengths.items() if length is not None}
        if self.reserved:
            spec["reserved"] = [format_range(*given) for given in self.reserved]
        if self.allow_first:
            spec["allowFirst"] = True
        if self.allow_last:
            spec["allowLast"] = True
        if self.block_lengths:
            spec["blockLengths"] = [
                {"nodeSelector": each.selector.to_manifest()}
                | {name: length for name, length in (("ipv4", each.v4), ("ipv6", each.v6)) if length is not None}
                for each in self.block_lengths
            ]
        for name, value, default in (
            ("priority", self.priority, 0),
            ("addressSpace", self.address_space, DEFAULT_SPACE),
            ("blocksPerNode", self.blocks_per_node, 1),
            ("maxBlocksPerNode", self.max_blocks_per_node, None),
            ("overflow", self.overflow, False),
            ("draining", self.draining, False),
            ("reuseDelaySeconds", self.reuse_delay, 0),
            ("addressPolicy", self.address_policy, "next"),
            ("seed", self.seed, 0),
            ("carving", self.carving, "lowest"),
            ("groupBy", self.group_by, ""),
        ):
            if value != default:
                spec[name] = value  # noqa: PERF403 - a comprehension over a table of triples reads worse
        return spec

    def __repr__(self) -> str:
        """CIDRs, block lengths and selector on one line."""
        cidrs = ", ".join(f"{cidr} in /{self.block_length(cidr)}" for cidr in self.cidrs)
        return f"<PoolSpec {self.name}: {cidrs}, for {str(self.selector) or 'every node'}>"


def pool_order(spec: PoolSpec, requirements: int | None = None) -> tuple[int, int, int, str]:
    """The sort key by which pools are tried for a node that they select: a total order, since names are unique.

    First the pool with the higher priority; then the one with more requirements; then the one with fewer configured blocks, of
    the scarcest family that it has (node-ipam-controller's order, which counts capacity and not what is free); then by name.

    Args:
        spec: The pool.
        requirements: How many requirements the term of the selector has that selects the node; by default the most of any term.
    """
    count = spec.selector.requirements if requirements is None else requirements
    return -spec.priority, -count, min(spec.blocks(each) for each in spec.families), spec.name


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


def _read_block_lengths(
    given: Iterable[BlockLengths], prefixes: list[Prefix | None], problems: list[str]
) -> tuple[BlockLengths, ...]:
    """The other block lengths, each checked like the pool's own."""
    found = []
    for index, value in enumerate(_items("block_lengths", "block lengths for a selector", given, problems) or ()):
        field = f"block_lengths[{index}]"
        if not isinstance(value, BlockLengths):
            problems.append(f"{field}: expected a BlockLengths, found {describe(value)}")
            continue
        mine: list[str] = []
        _check_selector(value.selector, mine)
        _check_block_length(4, value.v4, prefixes, mine)
        _check_block_length(6, value.v6, prefixes, mine)
        if value.v4 is None and value.v6 is None:
            mine.append("block_length: neither an IPv4 nor an IPv6 length is given; give one, or leave the entry out")
        problems.extend(f"{field}.{problem}" for problem in mine)
        found.append(value)
    return tuple(found)


def _check_whole(field: str, value: object, least: int, most: int, problems: list[str]) -> bool:
    if not isinstance(value, int) or isinstance(value, bool):
        problems.append(f"{field}: expected a whole number, found {describe(value)}")
        return False
    if not least <= value <= most:
        problems.append(f"{field}: {describe(value)} is out of range, which is {least} to {most}")
        return False
    return True


def _check_delay(value: object, problems: list[str]) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        problems.append(f"reuse_delay: expected a number of seconds, found {describe(value)}")
    elif not 0 <= value <= _LONGEST_DELAY:  # a NaN is not; `isfinite` would overflow on a huge whole number
        problems.append(f"reuse_delay: {describe(value)} is out of range, which is 0 to {_LONGEST_DELAY} seconds")


def _check_choice(field: str, value: object, known: tuple[str, ...], problems: list[str]) -> None:
    if value not in known:
        problems.append(f"{field}: {describe(value)} is none of {', '.join(known)}")


def _check_group_by(carving: object, group_by: object, problems: list[str]) -> None:
    if not isinstance(group_by, str):
        problems.append(f"group_by: expected a label key, found {describe(group_by)}")
    elif (carving == "grouped") != bool(group_by):
        problems.append('group_by: it goes with carving "grouped": give both, as in topology.kubernetes.io/zone, or neither')
    elif group_by and (problem := label_key_problem(group_by)):
        problems.append(f"group_by: {shorten(group_by)!r} is not a label key: {problem}")


def _check_flag(field: str, value: object, problems: list[str]) -> None:
    if not isinstance(value, bool):
        problems.append(f"{field}: expected true or false, found {describe(value)}")


def _read_reserved(
    reserved: Iterable[RangeLike], prefixes: list[Prefix | None], problems: list[str]
) -> tuple[Range, ...]:
    """The reserved ranges in normal form; what lies outside the CIDRs is a problem, unless a CIDR is not usable."""
    known = [prefix for prefix in prefixes if prefix]
    inside = merge_ranges((prefix.family, prefix.network, prefix.last) for prefix in known)
    ranges: list[Range] = []
    for index, value in enumerate(_items("reserved", "addresses and ranges", reserved, problems) or ()):
        field = f"reserved[{index}]"
        try:
            family, first, last = parse_range(value)
        except ValueError as error:
            problems.append(f"{field}: {shorten(str(error), _TOLD)}")
            continue
        ranges.append((family, first, last))
        if None not in prefixes and not any(f == family and low <= first and last <= high for f, low, high in inside):
            cidrs = ", ".join(str(prefix) for prefix in sorted(known)) or "none"
            problems.append(f"{field}: {format_range(family, first, last)} is not inside the pool's CIDRs ({cidrs})")
    return merge_ranges(ranges)


def _items(field: str, what: str, value: Any, problems: list[str]) -> list[Any] | None:
    """The items of a collection; a lone value in its place is a problem, also one that Python could iterate over."""
    if isinstance(value, (str, bytes, dict, Prefix, BlockLengths)) or not isinstance(value, Iterable) or hasattr(value, "prefixlen"):
        problems.append(
            f"{field}: expected a list of {what}, found {describe(str(value) if hasattr(value, 'prefixlen') else value)}"
        )
        return None
    return list(value)
