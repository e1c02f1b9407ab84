"""Tables for people: which columns a kind has, and what stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from ciliumipam import Allocation, Block, GroupRoutes, NodeStatus, PoolStatus, Utilization
from ciliumipam.cidr import Family
from ciliumipam.cli import values
from ciliumipam.cli.style import Style, write_document
from ciliumipam.cli.text import Colour, drawable, paint, plain, say
from ciliumipam.cli.values import Row
from ciliumipam.pool import DEFAULT_SPACE
from ciliumipam.requests import Space
from ciliumipam.words import counted

T = TypeVar("T")

SHOWN_ADDRESSES = 3
_CELLS = 10
_FULL, _NEARLY = 0.9, 0.75


class NodeRow(NamedTuple):
    """A node and its addresses that are in use."""

    status: NodeStatus
    addresses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """How a kind is listed.

    Attributes:
        kind: What many are called.
        one: What one is called by `-o name`.
        name: Its name.
        value: It as a plain value.
        columns: Heads and cells.
        wide: Those that only `-o wide` has.
        colours: Of some columns.
    """

    kind: str
    one: str
    name: Callable[[T], str]
    value: Callable[[T], Row]
    columns: Mapping[str, Callable[[T], object]]
    wide: Mapping[str, Callable[[T], object]] = field(default_factory=dict)
    colours: Mapping[str, Callable[[T], Colour | None]] = field(default_factory=dict)

    def head(self, style: Style) -> list[str]:
        """What stands above the columns."""
        return [*self.columns, *(self.wide if style.name == "wide" else ())]

    def cells(self, style: Style, item: T) -> list[str]:
        """What stands in the columns; what a terminal would obey is escaped."""
        columns = {**self.columns, **self.wide}
        found = {head: plain(str(columns[head](item))) for head in self.head(style)}
        return [paint(text, self.colours[head](item)) if head in self.colours else text for head, text in found.items()]

    def write(self, style: Style, items: Iterable[T]) -> None:
        """Print items in any style."""
        listed = [*items]
        if style.is_document:
            write_document(style, values.items(map(self.value, listed)))
        elif style.name == "name":
            for item in listed:
                print(self.full_name(item))
        else:
            write_table(self.kind, self.head(style), [self.cells(style, item) for item in listed])

    def full_name(self, item: T) -> str:
        """Kind and name, as kubectl's `-o name` has them."""
        return f"{self.one}/{plain(self.name(item))}"


def write_table(kind: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head, or say that there are none."""
    if rows:
        print(layout(head, rows))
    else:
        say(f"no {kind}")


def layout(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text."""
    from tabulate import tabulate  # noqa: PLC0415 - optional, and slow to load

    return tabulate(rows, headers=head, tablefmt="plain", disable_numparse=True)


def size(count: int) -> str:
    """A number for people: one that is too long to read as a power of two."""
    return str(count) if count < 1 << 32 else f"~2^{(count - 1).bit_length()}"


# ------------------------------------------------------------------------------------------------------ pools


def left(pool: PoolStatus) -> float:
    """Share of a pool that can still be carved, of the family that ends first; 0.0 to 1.0."""
    return min((space.available / max(space.blocks, 1) for space in pool.spaces.values()), default=0.0)


def dies_first(pools: Iterable[PoolStatus]) -> list[PoolStatus]:
    """The pools in the order in which they end: the least share left first, then by name."""
    return sorted(pools, key=lambda pool: (left(pool), pool.spec.name))


def _used(pool: PoolStatus) -> str:
    used = 1.0 - left(pool)
    percent, filled = int(used * 100), int(used * _CELLS + 0.5)
    if used < 1.0:  # only what has nothing left is shown as full
        percent, filled = min(percent, 99), min(filled, _CELLS - 1)
    full, free = ("█", "░") if drawable("█░") else ("#", "-")
    return f"{full * filled}{free * (_CELLS - filled)} {percent}%"


def _used_colour(pool: PoolStatus) -> Colour:
    used = 1.0 - left(pool)
    return "red" if used >= _FULL else "yellow" if used >= _NEARLY else "green"


def _spaces(cell: Callable[[Space], str]) -> Callable[[PoolStatus], str]:
    return lambda pool: ", ".join(cell(space) for _, space in sorted(pool.spaces.items()))


def _lengths(pool: PoolStatus) -> str:
    return ", ".join(dict.fromkeys(f"/{pool.spec.block_length(cidr)}" for cidr in pool.spec.cidrs))


def _pool_status(pool: PoolStatus) -> str:
    found = [f"conflicts with {pool.conflicting}"] if pool.conflicting else []
    if pool.spec.draining:
        found.append("draining")
    if not left(pool):
        found.append("full")
    if pool.orphans:
        found.append(counted(pool.orphans, "orphan", "orphans"))
    return ", ".join(found) or "ready"


def _pool_colour(pool: PoolStatus) -> Colour | None:
    return "red" if pool.conflicting else None if _pool_status(pool) == "ready" else "yellow"


POOLS: Listed[PoolStatus] = Listed(
    "pools",
    "pool",
    lambda pool: pool.spec.name,
    values.pool,
    {
        "NAME": lambda pool: pool.spec.name,
        "CIDRS": lambda pool: ", ".join(map(str, pool.spec.cidrs)),
        "BLOCK": _lengths,
        "BLOCKS HELD": _spaces(lambda space: f"{space.held}/{size(space.blocks)}"),
        "USED": _used,
        "NODES": lambda pool: str(pool.spec.selector) or "every node",
        "STATUS": _pool_status,
    },
    {
        "SPACE": lambda pool: pool.spec.address_space,
        "PRIORITY": lambda pool: pool.spec.priority,
        "DRAINING": lambda pool: "yes" if pool.spec.draining else "no",
        "AVAILABLE": _spaces(lambda space: size(space.available)),
        "COOLING": _spaces(lambda space: size(space.cooling)),
        "LARGEST FREE": _spaces(lambda space: "-" if space.largest is None else f"/{space.largest}"),
        "FRAGMENTATION": _spaces(lambda space: f"{space.fragmentation:.0%}"),
    },
    {"USED": _used_colour, "STATUS": _pool_colour},
)

# -------------------------------------------------------------------------------------- nodes, blocks, addresses


def _in_use(use: Utilization) -> str:
    return f"{use.in_use}/{size(use.capacity - use.reserved)}"


def _addresses(node: NodeRow) -> str:
    more = len(node.addresses) - SHOWN_ADDRESSES
    return ", ".join(node.addresses[:SHOWN_ADDRESSES]) + (f" +{more} more" if more > 0 else "") or "-"


def _unique(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(text or "(none)" for text in texts)) or "-"


def _node_status(node: NodeRow) -> str:
    blocks = node.status.blocks
    found = ["draining"] if node.status.draining else []
    if not node.status.draining and (count := sum(block.draining for block in blocks)):
        found.append(counted(count, "block draining", "blocks draining"))
    if count := sum(block.orphan for block in blocks):
        found.append(counted(count, "orphan", "orphans"))
    if not blocks:
        found.append("no block")
    found += [f"short of {size(count)} IPv{family} addresses" for family, count in _short(node.status)]
    return ", ".join(found) or "ready"


def _short(status: NodeStatus) -> Iterator[tuple[Family, int]]:
    """How many addresses a node that has blocks lacks of what it asks for."""
    serving = [block for block in status.blocks if not (block.orphan or block.draining or status.draining)]
    for pool, family, addresses in status.demand if serving else ():
        mine = [block.utilization for block in serving if block.family == family and pool in ("", block.pool)]
        missing = addresses - sum(use.capacity - use.reserved for use in mine)
        if missing > 0:
            yield family, missing


def _asks(node: NodeRow) -> str:
    return ", ".join(size(each.addresses) + (f" of {each.pool}" if each.pool else "") for each in node.status.demand) or "-"


def _block_status(block: Block) -> str:
    found = ["orphan: its pool is gone or no longer covers it"] if block.orphan else []
    if block.draining:
        found.append("draining")
    if block.space != DEFAULT_SPACE:
        found.append(f"in space {block.space}")
    return ", ".join(found) or "held"


NODES: Listed[NodeRow] = Listed(
    "nodes",
    "node",
    lambda node: node.status.node.name,
    lambda node: values.node(node.status, node.addresses),
    {
        "NAME": lambda node: node.status.node.name,
        "POOL": lambda node: _unique(block.pool for block in node.status.blocks),
        "PODCIDRS": lambda node: ", ".join(node.status.pod_cidrs) or "-",
        "ADDRESSES": _addresses,
        "IN USE": lambda node: ", ".join(_in_use(use) for _, use in sorted(node.status.utilization.items())) or "-",
        "STATUS": _node_status,
    },
    {
        "ASKS FOR": _asks,
        "SPACE": lambda node: _unique(block.space for block in node.status.blocks),
        "COOLING": lambda node: ", ".join(size(use.cooling) for _, use in sorted(node.status.utilization.items())) or "-",
        "LABELS": lambda node: ",".join(f"{key}={value}" for key, value in node.status.node.label_pairs) or "-",
    },
    {"STATUS": lambda node: None if _node_status(node) == "ready" else "yellow"},
)
BLOCKS: Listed[Block] = Listed(
    "blocks",
    "block",
    lambda block: str(block.prefix),
    values.block,
    {
        "BLOCK": lambda block: block.prefix,
        "NODE": lambda block: block.node,
        "POOL": lambda block: block.pool or "-",
        "FENCE": lambda block: block.fence,
        "IN USE": lambda block: _in_use(block.utilization),
        "SINCE": lambda block: values.moment(block.since),
        "STATUS": _block_status,
    },
    {"SPACE": lambda block: block.space, "COOLING": lambda block: size(block.utilization.cooling)},
    {"STATUS": lambda block: "magenta" if block.orphan else "yellow" if block.draining else None},
)
ADDRESSES: Listed[Allocation] = Listed(
    "addresses",
    "address",
    lambda item: str(item.address),
    values.allocation,
    {
        "ADDRESS": lambda item: item.address,
        "NODE": lambda item: item.node,
        "OWNER": lambda item: item.owner,
        "LABEL": lambda item: item.label,
        "POOL": lambda item: item.pool,
        "BLOCK": lambda item: item.block,
        "FENCE": lambda item: item.fence,
        "SINCE": lambda item: values.moment(item.since),
    },
)
ROUTES: Listed[GroupRoutes] = Listed(
    "blocks in that pool",
    "group",
    lambda item: item.group,
    values.routes,
    {
        "GROUP": lambda item: item.group or "-",
        "BLOCKS": lambda item: item.blocks,
        "ANNOUNCED": lambda item: len(item.announced),
        "WITH FREE SPACE": lambda item: _unique(map(str, item.supernets)),
        "UNGROUPED": lambda item: item.ungrouped,
    },
    {"ROUTES": lambda item: _unique(map(str, item.announced))},
)
