"""Records to test with: examples of all kinds, and Hypothesis strategies for every legal value, biased to what breaks an encoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from ciliumipam.cidr import WIDTH, Family, Prefix
from ciliumipam.demand import Demand, normalize
from ciliumipam.node import Node
from ciliumipam.pool import DEFAULT_SPACE, BlockLengths, PoolSpec
from ciliumipam.records import (
    KINDS,
    ClaimPage,
    Cooling,
    Entry,
    Holding,
    Key,
    Kind,
    Lease,
    Leased,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Slot,
    Split,
)
from ciliumipam.requirement import Requirement
from ciliumipam.selector import NodeSelector, Term
from ciliumipam.testing.strategies import nodes, pools

_WEB = Holding(4, 0x0A000105, 32, 7, "cni/3f2a/eth0", "default/web", 1732354000.25)
_ODD = Holding(6, (1 << 128) - 1, 128, 1 << 64, "\u2028\x00'\"\\", "grün \U0001f4a5", 0.1)
_BLOCK = Holding(4, 0x0A000000, 22, 3, "node-1", "green", -1.0)
_APART = _BLOCK._replace(label="", space="tenant-b")
EXAMPLES: tuple[tuple[Key, Record], ...] = (
    (
        Key("pool", "green"),
        PoolRecord(
            PoolSpec(
                name="green",
                cidrs=["10.0.0.0/16", "fd00::/48"],
                selector=NodeSelector.parse("rack in (r1,r2),!cordoned"),
                block_length_v4=26,
                reserved=["10.0.0.3-10.0.0.9"],
                allow_last=True,
            ),
            1.5,
        ),
    ),
    (
        Key("pool", "blue.example.com"),
        PoolRecord(
            PoolSpec(
                name="blue.example.com",
                cidrs=["10.0.0.0/16"],
                selector=NodeSelector((Term((Requirement("cpus", "Gt", ("15",)),)), Term((Requirement("rack", "Exists", ()),)))),
                priority=-1,
                address_space="tenant-b",
                block_lengths=[BlockLengths(NodeSelector.parse("dense"), v4=20)],
                blocks_per_node=2,
                max_blocks_per_node=4,
                overflow=True,
                draining=True,
                reuse_delay=0.1,
                address_policy="random",
                seed=(1 << 63) - 1,
                carving="grouped",
                group_by="topology.kubernetes.io/zone",
            ),
            0.0,
        ),
    ),
    (Key("node", "node-1"), NodeRecord(Node("node-1", {"rack": "r1", "empty": ""}), 0.0)),
    (Key("node", "node-2"), NodeRecord(Node("node-2"), 1e9, draining=True)),
    (Key("node", "node-3"), NodeRecord(Node("node-3"), 0.1, demand=(Demand("", 4, 1), Demand("", 6, 1 << 64), Demand("green", 4, 16)))),
    (Key("block-page", "10.0.0.0/10"), Page(1, 4, (0, Split(2), *[_BLOCK] * 4, 5))),
    (Key("block-page", "tenant-b@10.0.0.0/10"), Page(1, 4, (Cooling(2, 9.5), *[_APART] * 4, *[Cooling(1 << 64, 0.1)] * 3))),
    (
        Key("block-claims", "0f"),
        ClaimPage({"node-1": (_BLOCK,), "node-0": ()}, {"node-0": "ipam-1"}, frozenset({_BLOCK})),
    ),
    (Key("block-claims", "10"), ClaimPage({"node-1": (_BLOCK, _APART)}, draining=frozenset({_APART}))),
    (Key("address-page", "fd00::/64+fd00::/72"), Page(1 << 63, 256, (*[_WEB] * 2, *[0] * 252, _ODD, Split(0)))),
    (Key("address-claims", "node-1/0f"), ClaimPage({_ODD.holder: (_ODD, _WEB)})),
    (Key("address-claims", "grün/'\"\x00"), ClaimPage({})),
    (Key("lease", "node-1"), Lease("node-1", "0b6f-4c", 12.5, 30.0, (Leased(_BLOCK.prefix, 3),))),
    (
        Key("lease", "node-2"),
        Lease("node-2", "", 0.1, 1e9, (), (Leased(_APART.prefix, 1 << 64, "tenant-b"), Leased(Prefix(6, 0, 0), 0)), "grün \u2028"),
    ),
)
"""Records of all kinds, with what encodings like to lose."""

DEMANDS = st.lists(
    st.builds(Demand, st.sampled_from(("", "green", "p")), st.sampled_from((4, 6)), st.integers(0, 1 << 64)),
    max_size=4,
    unique_by=lambda each: each[:2],
).map(normalize)
"""What a node asks for, in its one form: another one is never stored, and is read back as this one."""


def numbered(number: int) -> Page:
    """A small record that carries a number."""
    return Page(number, 0, (number, _WEB, 0))


def number_of(entry: Entry | None) -> int:
    """The number of a record made by `numbered`."""
    assert entry is not None
    assert isinstance(entry.record, Page)
    return entry.record.fence


def deep_types(value: Any) -> Any:
    """The types of a value and of everything in it."""
    if isinstance(value, tuple):
        return type(value), [deep_types(item) for item in value]
    if isinstance(value, Mapping):
        return Mapping, {key: deep_types(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return frozenset, sorted(repr((type(item), item)) for item in value)
    return type(value)


# ------------------------------------------------------------------------------------------------------ strategies

TEXTS = st.one_of(
    st.text(max_size=12),
    # with lone surrogates, which do not encode as UTF-8; JSON cannot tell two that make a pair from the character that they make
    st.text(st.characters(), max_size=4).map(lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")),
    st.sampled_from(
        ("", "default/web", 'a"b\\c', "],\n[", ",\n", "null", "\x00", "\u2028", "grün", "\U0001f4a5", "\ud800")
    ),
)
"""Holders and labels: also such as the library would refuse, since a store keeps what it is given."""
NAMES = st.one_of(
    st.text(min_size=1, max_size=12),
    st.sampled_from(("10.0.1.0/24", "node-1/0f", "fd00::/64+fd00::/72", "tenant-b@fd00::/64+fd00::/72")),
)
"""Names of keys."""
FENCES = st.one_of(st.integers(0, 3), st.integers(0, 1 << 64))
TIMES = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from((0.0, 1.0, 0.1, 1732354000.25)))
SPACES = st.one_of(st.just(DEFAULT_SPACE), TEXTS)
"""Address spaces; most holdings are in the default one."""


@st.composite
def holdings(draw: st.DrawFn) -> Holding:
    """A block or an address of either family; every second one is a single address, as most are."""
    family: Family = draw(st.sampled_from((4, 6)))
    width = WIDTH[family]
    length = draw(st.one_of(st.just(width), st.integers(0, width)))
    special = st.sampled_from((0, 1, (1 << width) - 1, 0xFFFF0A000001, 0x0A0001FF))  # 0xFFFF...: an IPv4-mapped address
    network = (
        draw(st.one_of(st.integers(0, (1 << width) - 1), special)) % (1 << width)
        >> (width - length)
        << (width - length)
    )
    return Holding(family, network, length, draw(FENCES), draw(TEXTS), draw(TEXTS), draw(TIMES), draw(SPACES))


# every field is named for `builds`: of a NamedTuple it would make up those that are left out, by their type alone
SLOTS: st.SearchStrategy[Slot] = st.one_of(FENCES, st.builds(Split, FENCES), st.builds(Cooling, FENCES, TIMES), holdings())
"""What may stand in a slot."""


@st.composite
def slot_tuples(draw: st.DrawFn, max_runs: int = 12) -> tuple[Slot, ...]:
    """The slots of a page: runs of free, cooling, split and held ones, a holding standing in every slot that it covers."""
    slots: list[Slot] = []
    for slot in draw(st.lists(SLOTS, max_size=max_runs)):
        slots += [slot] * draw(st.sampled_from((1, 1, 2, 5)))
    return tuple(slots)


def pages() -> st.SearchStrategy[Page]:
    """Pages with up to 60 slots."""
    return st.builds(Page, FENCES, st.integers(0, 256), slot_tuples())


def claim_pages() -> st.SearchStrategy[ClaimPage]:
    """Claim pages; what they name need not fit together."""
    pieces = st.lists(holdings(), max_size=3).map(tuple)
    return st.builds(
        ClaimPage,
        st.dictionaries(TEXTS, pieces, max_size=4),
        st.dictionaries(TEXTS, TEXTS, max_size=3),
        st.frozensets(holdings(), max_size=3),
        st.frozensets(holdings(), max_size=3),
    )


def leases() -> st.SearchStrategy[Lease]:
    """Leases; their times and blocks need not be possible ones."""
    blocks = st.lists(st.builds(Leased, holdings().map(lambda each: each.prefix), FENCES, SPACES), max_size=3).map(tuple)
    return st.builds(Lease, TEXTS, TEXTS, TIMES, TIMES, blocks, blocks, TEXTS)


def records_of(kind: Kind) -> st.SearchStrategy[Record]:
    """Records of one kind."""
    if kind == "pool":
        return st.builds(PoolRecord, pools(), TIMES)
    if kind == "node":
        return st.builds(NodeRecord, nodes(), TIMES, st.booleans(), DEMANDS)
    if kind == "lease":
        return leases()
    return pages() if kind.endswith("-page") else claim_pages()


def keys(kind: Kind) -> st.SearchStrategy[Key]:
    """Keys of one kind."""
    return NAMES.map(lambda name: Key(kind, name))


def keyed_records() -> st.SearchStrategy[tuple[Key, Record]]:
    """A key of any kind with a record of that kind."""
    return st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(keys(kind), records_of(kind)))


__all__ = ["EXAMPLES", "FENCES", "NAMES", "SLOTS", "SPACES", "TEXTS", "TIMES", "claim_pages", "deep_types", "holdings", "keyed_records", "keys", "leases", "number_of", "numbered", "pages", "records_of", "slot_tuples"]
