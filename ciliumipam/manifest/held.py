"""What the nodes in a dump hold already, read so that one bad line stops nothing.

Who runs a cluster cannot mend a dump, and a block that is not adopted may be given out a second time. So whatever is unusable here
is refused by name and everything else goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any, NamedTuple

from ciliumipam.cidr import Prefix, parse_prefix
from ciliumipam.errors import InvalidCidrError
from ciliumipam.manifest.reader import Reader, cidr_problem
from ciliumipam.names import describe
from ciliumipam.requests import ExistingBlock


class Told(NamedTuple):
    """A block as a dump tells it: its path, the value there, and the pool that it is said to come from."""

    path: str
    value: object
    pool: str | None = None


def held_blocks(
    reader: Reader, where: str, node: str, metadata: Mapping[Any, object], told: Iterable[Told]
) -> list[ExistingBlock]:
    """The blocks of one node, each once, in the order in which they are told.

    Args:
        reader: Takes what is refused.
        where: The object, as in "CiliumNode node-1".
        node: The node's name.
        metadata: The object's, for the time of its claims.
        told: What it says it holds. Of one that is told twice the first counts, unless only a later one names its pool.
    """
    found: dict[Prefix, Told] = {}
    for each in told:
        prefix = _prefix(reader, f"{where}: {each.path}", each.value)
        if prefix is None:
            continue
        known = found.get(prefix)
        if known is not None and None not in (known.pool, each.pool) and known.pool != each.pool:
            reason = f"{prefix} is listed under pool {known.pool} as well ({known.path}), which counts"
            reader.refuse(f"{where}: {each.path}", reason)
        if known is None or known.pool is None:
            found[prefix] = each if known is None or each.pool is not None else known
    if not found:
        return []
    since = claimed_since(reader, where, metadata)
    return [
        ExistingBlock(node, prefix, each.pool, since, f"{reader.source}: {where}: {each.path}")
        for prefix, each in found.items()
    ]


def refused_mapping(reader: Reader, where: str, value: object) -> Mapping[Any, object]:
    """The mapping, or an empty one where there is none; anything else is refused."""
    if value is None or isinstance(value, Mapping):
        return value or {}
    reader.refuse(where, f"expected a mapping, found {describe(value)}; what it holds is not adopted")
    return {}


def refused_list(reader: Reader, where: str, value: object) -> list[object]:
    """The list, or an empty one where there is none; anything else is refused."""
    if value is None or isinstance(value, (list, tuple)):
        return [*(value or ())]
    reader.refuse(where, f"expected a list, found {describe(value)}; what it holds is not adopted")
    return []


def claimed_since(reader: Reader, where: str, metadata: Mapping[Any, object]) -> float:
    """The creation time of an object in seconds since the epoch; 0.0 where it has none, or one that is none."""
    value = metadata.get("creationTimestamp")
    if value is None:
        return 0.0
    moment = value if isinstance(value, datetime) else _moment(value)
    if moment is None:
        reason = f"{describe(value)} is not a time as in 2024-05-01T08:00:00Z; its claims count as the youngest"
        reader.refuse(f"{where}: metadata.creationTimestamp", reason)
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _moment(value: object) -> datetime | None:
    """A time with its zone out of RFC 3339 text."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found and found.tzinfo else None


def _prefix(reader: Reader, where: str, value: object) -> Prefix | None:
    """The block that a text names. Host bits are cut off, as everything in Kubernetes does: the node uses the whole block."""
    if not isinstance(value, str):
        reader.refuse(where, f"expected a CIDR, found {describe(value)}")
        return None
    try:
        prefix = parse_prefix(value)
    except InvalidCidrError as error:
        masked = _without_host_bits(value)
        if masked is None:
            reader.refuse(where, cidr_problem(error))
            return None
        prefix = masked
        reader.ignored.append(f"{reader.source}: {where}: the host bits of {value}: it is read as {prefix}")
    if prefix.length == 0:
        reader.refuse(where, f"{prefix} is a whole address family, which no node holds")
        return None
    return prefix


def _without_host_bits(text: str) -> Prefix | None:
    address, _, length = text.partition("/")
    if "%" in address or not (length.isascii() and length.isdigit() and len(length) <= 3):
        return None
    try:
        return parse_prefix(ip_network(text, strict=False))
    except (ValueError, InvalidCidrError):
        return None
