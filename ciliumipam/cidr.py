"""Prefixes and addresses: parsing at the door, integers inside, `ipaddress` values at the boundary.

The first module of the flow: `selector`, `pool` and `carver` stand on it. Hot structures hold a `Prefix`, a tuple of plain
integers; users hand in text, `ipaddress` or `netaddr` objects and get `ipaddress` objects back. This is the only module that
sees netaddr, whose values are mutable and untyped (changing the length of an `IPNetwork` after it became a dict key loses the
key), so none of them leaves it. netaddr does the CIDR algebra and is loaded at the first call that needs it: it costs more to
import than everything else together.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, NetmaskValueError
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from ciliumipam.errors import InvalidAddressError, InvalidCidrError

Family: TypeAlias = Literal[4, 6]
Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
PrefixLike: TypeAlias = "str | IPv4Network | IPv6Network | Prefix | Any"
AddressLike: TypeAlias = "str | IPv4Address | IPv6Address | Any"

WIDTH: dict[int, int] = {4: 32, 6: 128}
"""Bits of an address by family."""


class Prefix(NamedTuple):
    """A network and its length, without host bits. Sorts by family, network, length. Immutable, hashable.

    Attributes:
        family: 4 or 6.
        network: The first address as an integer.
        length: Prefix length in bits, 0 to 32 or 128.
    """

    family: Family
    network: int
    length: int

    @property
    def size(self) -> int:
        """Number of addresses."""
        return 1 << (WIDTH[self.family] - self.length)

    @property
    def last(self) -> int:
        """The last address as an integer, inclusive."""
        return self.network + (1 << (WIDTH[self.family] - self.length)) - 1

    def covers(self, other: Prefix) -> bool:
        """Whether every address of `other` lies in this prefix (equal prefixes cover each other)."""
        return (
            self.family == other.family
            and self.length <= other.length
            and (self.network ^ other.network) >> (WIDTH[self.family] - self.length) == 0
        )

    def overlaps(self, other: Prefix) -> bool:
        """Whether the two share an address. Prefixes overlap only if one covers the other."""
        return self.covers(other) or other.covers(self)

    def to_network(self) -> Network:
        """The same prefix as an `ipaddress` network."""
        return IPv4Network((self.network, self.length)) if self.family == 4 else IPv6Network((self.network, self.length))

    def __str__(self) -> str:
        return f"{format_address(self.family, self.network)}/{self.length}"


def parse_prefix(value: PrefixLike) -> Prefix:
    """A CIDR out of text, an `ipaddress` network, a `netaddr.IPNetwork` or a `Prefix`.

    Strict: a length is required, and no host bits may be set. A netmask or hostmask in place of the length is refused, and so
    is an IPv6 zone.

    Raises:
        InvalidCidrError: It is none of these, with the nearest valid spelling where there is one.
    """
    if isinstance(value, Prefix):
        return _checked(value)
    if isinstance(value, IPv4Network):
        return Prefix(4, int(value.network_address), value.prefixlen)
    if isinstance(value, IPv6Network):
        if value.network_address.scope_id:
            raise InvalidCidrError(str(value), _ZONE)
        return Prefix(6, int(value.network_address), value.prefixlen)
    text = value if isinstance(value, str) else _netaddr_text(value, "IPNetwork")
    if text is None:
        raise InvalidCidrError(_shown(value), f"expected text or a network, got {type(value).__name__}")
    address, slash, length = text.partition("/")
    if not text:
        raise InvalidCidrError(text, "it is empty; write address/length, as in 10.0.0.0/16")
    if not slash:
        raise InvalidCidrError(text, _without_length(text))
    if not (length.isascii() and length.isdigit()) or len(length) > 3 or (len(length) > 1 and length[0] == "0"):
        raise InvalidCidrError(text[:80], f"the length {length[:20]!r} is not a plain number; masks are not accepted")
    family, number = _parse_number(text, address)
    bits = int(length)
    if bits > WIDTH[family]:
        raise InvalidCidrError(text, f"an IPv{family} length is 0 to {WIDTH[family]}")
    host = number & ((1 << (WIDTH[family] - bits)) - 1)
    if host:
        raise InvalidCidrError(text, f"host bits are set; did you mean {format_address(family, number - host)}/{bits}?")
    return Prefix(family, number, bits)


_ZONE = "an IPv6 zone has no meaning here; leave out everything from the %"


def _without_length(text: str) -> str:
    """What is wrong with a text that has no slash."""
    try:
        family, _ = _parse_number(text, text)
    except InvalidCidrError as error:
        return _ZONE if error.reason == _ZONE else "write address/length, as in 10.0.0.0/16 or fd00::/48"
    return f"it has no length; write {text}/{WIDTH[family]} for a single address"


def _checked(prefix: Prefix) -> Prefix:
    """A prefix that somebody made by hand, unless it is none."""
    family, network, length = prefix
    width = WIDTH.get(family)
    if width is None or not 0 <= length <= width or network >> width or network & ((1 << (width - length)) - 1):
        raise InvalidCidrError(repr(tuple(prefix)), "no such prefix: family 4 or 6, a length that fits, and no host bits")
    return prefix


def _parse_number(text: str, address: str) -> tuple[Family, int]:
    try:
        if ":" in address:
            if "%" in address:
                raise InvalidCidrError(text, _ZONE)
            return 6, int(IPv6Address(address))
        return 4, int(IPv4Address(address))
    except (AddressValueError, NetmaskValueError) as error:
        raise InvalidCidrError(text, str(error)) from error


def parse_address(value: AddressLike) -> tuple[Family, int]:
    """Family and integer of an address given as text, an `ipaddress` address or a `netaddr.IPAddress`.

    Raises:
        InvalidAddressError: It is none of these.
    """
    if type(value) is IPv4Address:  # not isinstance: an interface is an address with a length
        return 4, int(value)
    if type(value) is IPv6Address:
        if value.scope_id:
            raise InvalidAddressError(str(value), _ZONE)
        return 6, int(value)
    text = value if isinstance(value, str) else _netaddr_text(value, "IPAddress")
    if text is None:
        raise InvalidAddressError(_shown(value), f"expected text or an address, got {type(value).__name__}")
    if "/" in text:
        raise InvalidAddressError(text, f"a single address is wanted; leave out the length: {text.partition('/')[0]}")
    try:
        return _parse_number(text, text)
    except InvalidCidrError as error:
        raise InvalidAddressError(text, error.reason) from error


def _shown(value: object) -> str:
    """A refused value for a sentence; what may be huge or deeply nested is only named."""
    small = value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and value.bit_length() <= 128)
    return repr(value) if small else f"<{type(value).__name__}>"


def _netaddr_text(value: object, name: str) -> str | None:
    """The text of a netaddr object, recognised by its class without importing netaddr."""
    kind = type(value)
    return str(value) if kind.__name__ == name and kind.__module__.partition(".")[0] == "netaddr" else None


def to_address(family: int, number: int) -> Address:
    """An integer as an `ipaddress` address."""
    return IPv4Address(number) if family == 4 else IPv6Address(number)


def format_address(family: int, number: int) -> str:
    """An integer as text, in the canonical spelling of its family (RFC 5952 for IPv6, IPv4-mapped ones in hexadecimal too).

    The same on every Python: keys of records are made of it, and 3.13 spells IPv4-mapped addresses otherwise than 3.11.
    """
    if family == 4:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    if number >> 32 == 0xFFFF:
        return f"::ffff:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}"
    return str(IPv6Address(number))


# ----------------------------------------------------------------------------------------- algebra, by netaddr


def _networks(prefixes: Iterable[Prefix]) -> list[Any]:
    import netaddr  # noqa: PLC0415 - loaded when first needed: it takes 70 ms

    return [netaddr.IPNetwork((p.network, p.length), version=p.family) for p in prefixes]


def _prefixes(networks: Iterable[Any]) -> list[Prefix]:
    return [Prefix(cast("Family", n.version), int(n.first), int(n.prefixlen)) for n in networks]


def range_to_prefixes(family: Family, first: int, last: int) -> list[Prefix]:
    """The fewest prefixes that cover exactly the addresses `first` to `last`, both inclusive, in order.

    Raises:
        InvalidCidrError: `last` comes before `first`.
    """
    import netaddr  # noqa: PLC0415 - loaded when first needed: it takes 70 ms

    if last < first:
        raise InvalidCidrError(f"{format_address(family, first)}-{format_address(family, last)}", "it ends before it begins")

    low, high = (netaddr.IPAddress(number, version=family) for number in (first, last))
    return _prefixes(netaddr.iprange_to_cidrs(low, high))


def merge(prefixes: Iterable[Prefix]) -> list[Prefix]:
    """The fewest prefixes that cover the same addresses, sorted; both families may be given."""
    import netaddr  # noqa: PLC0415 - loaded when first needed: it takes 70 ms

    return sorted(_prefixes(netaddr.cidr_merge(_networks(prefixes))))
