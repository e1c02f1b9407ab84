"""Records to test with: examples of all kinds, and Hypothesis strategies for every legal value, biased to what breaks an encoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from ciliumipam.addresses import POLICIES
from ciliumipam.cidr import WIDTH, Family
from ciliumipam.node import Node
from ciliumipam.pool import CARVING, DEFAULT_SPACE, BlockLengths, PoolSpec
from ciliumipam.records import (
    KINDS,
    ClaimPage,
    Cooling,
    Entry,
    Holding,
    Key,
    Kind,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Slot,
    Split,
)
from ciliumipam.requirement import Requirement
from ciliumipam.selector import NodeSelector, Term

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
)
"""Records of all kinds, with what encodings like to lose."""


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
    st.text(st.characters(), max_size=4),  # with lone surrogates, which do not encode as UTF-8
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


_LABEL_KEYS = st.sampled_from(("rack", "zone", "kubernetes.io/hostname", "a.b/c_d"))
_LABEL_VALUES = st.sampled_from(("", "r1", "r2", "x-y.z_0"))
_REQUIREMENTS = st.one_of(
    st.builds(
        lambda key, operator, values: Requirement(key, operator, tuple(sorted(values))),
        _LABEL_KEYS,
        st.sampled_from(("In", "NotIn")),
        st.sets(_LABEL_VALUES, min_size=1, max_size=3),
    ),
    st.builds(
        lambda key, operator: Requirement(key, operator, ()), _LABEL_KEYS, st.sampled_from(("Exists", "DoesNotExist"))
    ),
    st.builds(
        lambda key, operator, value: Requirement(key, operator, (str(value),)),
        _LABEL_KEYS,
        st.sampled_from(("Gt", "Lt")),
        st.integers(0, (1 << 63) - 1),
    ),
)
_ON_NAME = st.builds(
    lambda operator, name: Requirement("metadata.name", operator, (name,)),
    st.sampled_from(("In", "NotIn")),
    st.sampled_from(("node-1", "a.b")),
)
_EVERYTHING = NodeSelector.everything()
SELECTORS = st.one_of(
    st.just(_EVERYTHING),
    st.lists(_REQUIREMENTS, max_size=3).map(lambda found: NodeSelector((Term(tuple(found)),))),
    st.lists(
        st.builds(lambda labels, names: Term(tuple(labels), tuple(names)), st.lists(_REQUIREMENTS, min_size=1, max_size=2), st.lists(_ON_NAME, max_size=1)),
        min_size=1,
        max_size=3,
    ).map(lambda terms: NodeSelector(tuple(terms))),
)  # fmt: skip
"""Selectors in both forms; never the one that selects nothing, which no pool may have."""
_CIDRS_V4 = ("10.0.0.0/16", "10.1.0.0/20", "192.168.0.0/24", "192.0.2.1/32")
_CIDRS_V6 = ("fd00::/48", "fd01::/64", "fd02::/120", "::ffff:10.2.0.0/112")
_RESERVED = {
    "10.0.0.0/16": "10.0.1.10-10.0.1.20",
    "192.168.0.0/24": "192.168.0.255",
    "fd00::/48": "fd00::/64",
    "fd02::/120": "fd02::1-fd02::f",
}


@st.composite
def pool_specs(draw: st.DrawFn) -> PoolSpec:
    """Pools of one or both families, every field set or left at its default."""
    cidrs = draw(st.lists(st.sampled_from(_CIDRS_V4 + _CIDRS_V6), min_size=1, unique=True))
    families = {6 if ":" in cidr else 4 for cidr in cidrs}
    v4 = st.one_of(st.none(), st.just(32)) if 4 in families else st.none()
    v6 = st.one_of(st.none(), st.integers(120, 128)) if 6 in families else st.none()
    lengths = st.builds(BlockLengths, SELECTORS, v4, v6).filter(lambda each: each.v4 is not None or each.v6 is not None)
    per_node = draw(st.sampled_from((1, 1, 2, 65536)))
    carving = draw(st.sampled_from(CARVING))
    return PoolSpec(
        name=draw(st.sampled_from(("green", "rack-1.example.com"))),
        cidrs=cidrs,
        selector=draw(SELECTORS),
        block_length_v4=draw(v4),
        block_length_v6=draw(v6),
        reserved=draw(
            st.lists(st.sampled_from([_RESERVED[cidr] for cidr in cidrs if cidr in _RESERVED] or [cidrs[0]]))
        ),
        allow_first=draw(st.booleans()),
        allow_last=draw(st.booleans()),
        priority=draw(st.one_of(st.just(0), st.integers(-(1 << 31), (1 << 31) - 1))),
        address_space=draw(st.sampled_from((DEFAULT_SPACE, "tenant-b", "a.b"))),
        block_lengths=draw(st.lists(lengths, max_size=2)),
        blocks_per_node=per_node,
        max_blocks_per_node=draw(st.one_of(st.none(), st.integers(per_node, 65536))),
        overflow=draw(st.booleans()),
        draining=draw(st.booleans()),
        reuse_delay=draw(st.one_of(st.just(0), st.integers(0, 315_360_000), st.floats(0, 315_360_000))),
        address_policy=draw(st.sampled_from(POLICIES)),
        seed=draw(st.one_of(st.just(0), st.integers(0, (1 << 63) - 1))),
        carving=carving,
        group_by=draw(_LABEL_KEYS) if carving == "grouped" else "",
    )


def nodes() -> st.SearchStrategy[Node]:
    """Nodes with up to three labels."""
    return st.builds(Node, st.sampled_from(("node-1", "a.b")), st.dictionaries(_LABEL_KEYS, _LABEL_VALUES, max_size=3))


def records_of(kind: Kind) -> st.SearchStrategy[Record]:
    """Records of one kind."""
    if kind == "pool":
        return st.builds(PoolRecord, pool_specs(), TIMES)
    if kind == "node":
        return st.builds(NodeRecord, nodes(), TIMES, st.booleans())
    return pages() if kind.endswith("-page") else claim_pages()


def keys(kind: Kind) -> st.SearchStrategy[Key]:
    """Keys of one kind."""
    return NAMES.map(lambda name: Key(kind, name))


def keyed_records() -> st.SearchStrategy[tuple[Key, Record]]:
    """A key of any kind with a record of that kind."""
    return st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(keys(kind), records_of(kind)))
