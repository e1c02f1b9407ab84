"""The codec: what was encoded is decoded, equal in value and type, and nothing else is read as a record."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ciliumipam.codec import Codec
from ciliumipam.demand import Demand
from ciliumipam.errors import CorruptRecordError, StoreRefusedError, UnsupportedVersionError
from ciliumipam.node import Node
from ciliumipam.pool import BlockLengths, PoolSpec
from ciliumipam.records import (
    ClaimPage,
    Cooling,
    Holding,
    Key,
    Lease,
    Leased,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Slot,
    Split,
)
from ciliumipam.selector import NodeSelector
from ciliumipam.strict_json import FORMAT
from ciliumipam.testing.record_strategies import EXAMPLES, FENCES, SLOTS, holdings, keyed_records, slot_tuples

PAGE = Key("address-page", "10.0.1.0/24")
CLAIMS = Key("address-claims", "node-1/0f")
POOL = Key("pool", "green")
NODE = Key("node", "node-1")
LEASE = Key("lease", "node-1")
WEB = Holding(4, 0x0A000105, 32, 7, "cni/3f2a/eth0", "default/web", 1.5)
BLOCK = Holding(6, 0xFD00 << 112, 63, 2, "node-1", "green", 0.1)
POOL_TEXT = (
    '{"format":1,"name":"green","since":2.5,"spec":{"cidrs":["10.0.0.0/16"],"nodeSelector":{"matchLabels":{"rack":"r1"}},'
    '"blockLength":{"ipv4":26},"reserved":["10.0.0.0/28"],"allowFirst":true}}'
)


def same(left: Any, right: Any) -> bool:
    """Equal in value and type, all the way down."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, frozenset):
        return left == right and all(any(same(a, b) for b in right) for a in left)
    return bool(left == right)


# -------------------------------------------------------------------------------------------------------- the format


def test_a_page_has_one_line_for_each_slot() -> None:
    page = Page(3, 2, (4, WEB, BLOCK, BLOCK, Split(5), 0))

    assert Codec().encode(PAGE, page) == (
        '{"format":1,"fence":3,"cursor":2,"slots":[\n'
        "4,\n"
        '["10.0.1.5",7,"cni/3f2a/eth0","default/web",1.5],\n'
        '["fd00::/63",2,"node-1","green",0.1],\n'
        "null,\n"
        '{"split":5},\n'
        "0\n"
        "]}"
    )


def test_a_claim_page_is_sorted_and_in_one_line() -> None:
    page = ClaimPage({"z": (), "cni/3f2a/eth0": (WEB, BLOCK)}, {"z": "t2", "a": "t1"}, frozenset({BLOCK, WEB}))

    row, block = '["10.0.1.5",7,"cni/3f2a/eth0","default/web",1.5]', '["fd00::/63",2,"node-1","green",0.1]'
    assert Codec().encode(CLAIMS, page) == (
        f'{{"format":1,"claims":{{"cni/3f2a/eth0":[{row},{block}],"z":[]}},'
        f'"tentative":{{"a":"t1","z":"t2"}},"closing":[{row},{block}]}}'
    )


def test_a_pool_is_the_spec_of_its_manifest() -> None:
    spec = PoolSpec(
        name="green",
        cidrs=["10.0.0.0/16"],
        selector=NodeSelector.parse("rack=r1"),
        block_length_v4=26,
        reserved=["10.0.0.0/28"],
        allow_first=True,
    )

    assert Codec().encode(POOL, PoolRecord(spec, 2.5)) == POOL_TEXT


def test_a_node_is_its_name_and_labels() -> None:
    text = Codec().encode(NODE, NodeRecord(Node("node-1", {"rack": "r1", "a": ""}), 2))

    assert text == '{"format":1,"name":"node-1","since":2.0,"labels":{"a":"","rack":"r1"}}'


def test_every_field_of_pools_and_nodes_is_written() -> None:
    """Guards the two lists in the codec: a field that is added to the class must be added there."""
    assert list(PoolSpec._fields) == [
        "name",
        "cidrs",
        "selector",
        "block_length_v4",
        "block_length_v6",
        "reserved",
        "allow_first",
        "allow_last",
        "priority",
        "address_space",
        "block_lengths",
        "blocks_per_node",
        "max_blocks_per_node",
        "overflow",
        "draining",
        "reuse_delay",
        "address_policy",
        "seed",
        "carving",
        "group_by",
    ]
    assert Node._fields == ("name", "label_pairs")
    assert BlockLengths._fields == ("selector", "v4", "v6")


def test_every_field_of_the_other_records_is_written() -> None:
    """The same guard: who adds a field must add it to the codec, and to the strategies, which name each one."""
    fields_of = {kind: kind._fields for kind in (Page, ClaimPage, PoolRecord, NodeRecord, Holding, Cooling, Split, Lease, Leased)}

    assert fields_of == {
        Page: ("fence", "cursor", "slots"),
        ClaimPage: ("claims", "tentative", "closing", "draining"),
        PoolRecord: ("spec", "since"),
        NodeRecord: ("node", "since", "draining", "demand"),
        Holding: ("family", "network", "length", "fence", "holder", "label", "since", "space"),
        Cooling: ("fence", "until"),
        Split: ("fence",),
        Lease: ("node", "boot", "confirmed", "stop_after", "blocks", "returning", "reason"),
        Leased: ("prefix", "fence", "space"),
    }


def test_what_is_new_in_a_page_stands_where_it_acts_and_nowhere_else() -> None:
    page = Page(3, 2, (Cooling(5, 9.5), BLOCK._replace(space="tenant-b"), Cooling(6, 9)))

    assert Codec().encode(PAGE, page).splitlines()[1:-1] == [
        '{"cooling":5,"until":9.5},',
        '["fd00::/63",2,"node-1","green",0.1,"tenant-b"],',
        '{"cooling":6,"until":9.0}',
    ]


def test_a_lease_says_what_a_node_may_rely_on() -> None:
    blocks = (Leased(BLOCK.prefix, 7), Leased(BLOCK.prefix, 8, "tenant-b"))

    text = Codec().encode(LEASE, Lease("node-1", "0b6f", 12, 30.5, blocks[:1], blocks[1:], "it is silent"))

    assert text == (
        '{"format":1,"node":"node-1","boot":"0b6f","confirmed":12.0,"stopAfterSeconds":30.5,"blocks":[["fd00::/63",7]],'
        '"returning":[["fd00::/63",8,"tenant-b"]],"reason":"it is silent"}'
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("blocks", '[["10.0.0.1/24",1]]', "blocks[0][0]: '10.0.0.1/24' is not a usable CIDR"),
        ("blocks", '[["10.0.0.0/24"]]', "blocks[0]: expected [block, fence] or a space as well"),
        ("returning", '[["10.0.0.0/24",-1]]', "returning[0]: expected [block, fence] or a space as well"),
        ("returning", '[["10.0.0.0/24",1,2]]', "returning[0]: expected [block, fence] or a space as well"),
        ("confirmed", "null", "confirmed: expected a finite number, found null"),
        ("stopAfterSeconds", '"60"', "stopAfterSeconds: expected a finite number"),
        ("reason", "1", "reason: expected text, found 1"),
    ],
)
def test_a_lease_that_is_damaged_names_the_field(field: str, value: str, message: str) -> None:
    fields = {"node": '"n"', "boot": '"b"', "confirmed": "1", "stopAfterSeconds": "2", "blocks": "[]", "returning": "[]", "reason": '""'}
    text = ",".join(f'"{name}":{each}' for name, each in (fields | {field: value}).items())

    with pytest.raises(CorruptRecordError) as caught:
        Codec().decode(LEASE, f'{{"format":1,{text}}}')

    assert message in str(caught.value)


def test_what_drains_is_marked_in_claims_and_nodes() -> None:
    claims = ClaimPage({"node-1": (BLOCK,)}, draining=frozenset({BLOCK}))

    row = '["fd00::/63",2,"node-1","green",0.1]'
    assert Codec().encode(CLAIMS, claims) == (
        f'{{"format":1,"claims":{{"node-1":[{row}]}},"tentative":{{}},"closing":[],"draining":[{row}]}}'
    )
    assert Codec().encode(NODE, NodeRecord(Node("node-1"), 2, draining=True)) == (
        '{"format":1,"name":"node-1","since":2.0,"labels":{},"draining":true}'
    )


# what the version before spaces, cooldown and draining wrote, letter by letter
OLD: tuple[tuple[Key, str, Record], ...] = (
    (
        POOL,
        ('{"format":1,"name":"green","since":1.5,"spec":{"cidrs":["10.0.0.0/16","fd00::/48"],"nodeSelector":{"matchExpressions":'
        '[{"key":"cordoned","operator":"DoesNotExist"},{"key":"rack","operator":"In","values":["r1","r2"]}]},'
        '"blockLength":{"ipv4":26},"reserved":["10.0.0.3-10.0.0.9"],"allowLast":true}}'),
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
        NODE,
        '{"format":1,"name":"node-1","since":0.0,"labels":{"empty":"","rack":"r1"}}',
        NodeRecord(Node("node-1", {"empty": "", "rack": "r1"}), 0.0, draining=False),
    ),
    (
        Key("block-page", "10.0.0.0/10"),
        '{"format":1,"fence":1,"cursor":4,"slots":[\n0,\n{"split":2},\n["10.0.0.0/22",3,"node-1","green",-1.0],\nnull,\nnull,\nnull,\n5\n]}',
        Page(1, 4, (0, Split(2), *[Holding(4, 0x0A000000, 22, 3, "node-1", "green", -1.0, "default")] * 4, 5)),
    ),
    (
        Key("block-claims", "0f"),
        ('{"format":1,"claims":{"node-0":[],"node-1":[["10.0.0.0/22",3,"node-1","green",-1.0]]},"tentative":{"node-0":"ipam-1"},'
        '"closing":[["10.0.0.0/22",3,"node-1","green",-1.0]]}'),
        ClaimPage(
            {"node-0": (), "node-1": (Holding(4, 0x0A000000, 22, 3, "node-1", "green", -1.0, "default"),)},
            {"node-0": "ipam-1"},
            frozenset({Holding(4, 0x0A000000, 22, 3, "node-1", "green", -1.0, "default")}),
            frozenset(),
        ),
    ),
    (
        CLAIMS,
        ('{"format":1,"claims":{"x":[["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",18446744073709551616,"x","gr\\u00fcn \\ud83d\\udca5",0.1]]},'
        '"tentative":{},"closing":[]}'),
        ClaimPage({"x": (Holding(6, (1 << 128) - 1, 128, 1 << 64, "x", "grün \U0001f4a5", 0.1, "default"),)}, {}, frozenset(), frozenset()),
    ),
)


@pytest.mark.parametrize(("key", "text", "record"), OLD, ids=[key.kind for key, _, _ in OLD])
def test_what_the_version_before_wrote_is_read_and_written_the_same(key: Key, text: str, record: Record) -> None:
    assert same(Codec().decode(key, text), record)
    assert Codec().encode(key, record) == text


# -------------------------------------------------------------------------------------------------------- round trip


@given(keyed_records())
@example((PAGE, Page(1, 0, ())))
@example((PAGE, Page(1, 256, (0,) * 256)))
@example((PAGE, Page(1, 0, (WEB, WEB._replace(since=1.5), 0, WEB))))
@example((CLAIMS, ClaimPage({})))
@example((CLAIMS, ClaimPage({"\ud800": (), "\udc00\ud800": ()})))
@example((NODE, NodeRecord(Node("node-1"), 0.0, demand=(Demand("", 4, 1), Demand("p", 4, 1 << 64)))))
@example((LEASE, Lease("\ud800", "\udc00", -1.5, 0.0, (Leased(BLOCK.prefix, 0, ""),), (Leased(WEB.prefix, 1),), "null")))
def test_what_was_encoded_is_decoded_equal_in_value_and_type(keyed: tuple[Key, Record]) -> None:
    key, record = keyed

    text = Codec().encode(key, record)

    assert text.isascii()
    json.loads(text)
    assert same(Codec().decode(key, text), record)


@given(keyed_records())
def test_any_other_spelling_of_the_same_json_is_the_same_record(keyed: tuple[Key, Record]) -> None:
    key, record = keyed
    parsed = json.loads(Codec().encode(key, record))

    assert same(Codec().decode(key, json.dumps(parsed, indent=2)), record)
    assert same(Codec().decode(key, json.dumps(parsed, ensure_ascii=False, sort_keys=True)), record)


@pytest.mark.parametrize(("key", "record"), EXAMPLES, ids=[str(key) for key, _ in EXAMPLES])
def test_every_example_of_the_testing_kit_comes_back(key: Key, record: Record) -> None:
    assert same(Codec().decode(key, Codec().encode(key, record)), record)


def test_a_whole_number_of_seconds_is_a_float_again_after_an_api_server_had_it() -> None:
    text = Codec().encode(PAGE, Page(1, 0, (WEB._replace(since=2.0),))).replace("2.0]", "2]")

    assert same(Codec().decode(PAGE, text), Page(1, 0, (WEB._replace(since=2.0),)))


def test_a_run_is_decoded_as_one_object_in_all_its_slots() -> None:
    page = Codec().decode(PAGE, Codec().encode(PAGE, Page(1, 0, (BLOCK,) * 4)))

    assert isinstance(page, Page)
    assert all(slot is page.slots[0] for slot in page.slots)


# ------------------------------------------------------------------------------------------------------ the memory

Change = tuple[int, Slot, int]


@st.composite
def page_histories(draw: st.DrawFn) -> list[tuple[Key, Page]]:
    """Pages of two keys as they change: slots set one by one or in runs, sometimes another number of slots."""
    names = st.sampled_from((PAGE, Key("block-page", "10.0.0.0/10")))
    now: dict[Key, tuple[Slot, ...]] = {}
    history = []
    for _ in range(draw(st.integers(1, 12))):
        key = draw(names)
        slots = list(now.get(key, ()))
        if not slots or draw(st.integers(0, 7)) == 0:
            slots = list(draw(slot_tuples()))
        for _ in range(draw(st.integers(0, 3))):
            if slots:
                first = draw(st.integers(0, len(slots) - 1))
                for index in range(first, min(len(slots), first + draw(st.sampled_from((1, 1, 2, 4))))):
                    slots[index] = slots[first - 1] if draw(st.booleans()) and first else draw(SLOTS)
        now[key] = tuple(slots)
        history.append((key, Page(draw(FENCES), draw(st.integers(0, 9)), now[key])))
    return history


@given(page_histories(), st.sampled_from((0, 1, 512)))
def test_a_codec_that_remembers_writes_and_reads_as_one_that_does_not(
    history: list[tuple[Key, Page]], remembered: int
) -> None:
    writer, reader, both = Codec(remembered), Codec(remembered), Codec(remembered)
    for key, page in history:
        text = Codec(0).encode(key, page)

        assert writer.encode(key, page) == text
        assert same(reader.decode(key, text), page)
        assert both.encode(key, page) == text
        assert same(both.decode(key, text), page)


OTHER = BLOCK._replace(fence=3)
COOL = Cooling(2, 9.5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((BLOCK,) * 4, (OTHER,) * 4, id="a-run-becomes-another"),
        pytest.param((BLOCK,) * 4, (OTHER, *(BLOCK,) * 3), id="a-run-loses-its-first-slot"),
        pytest.param((BLOCK,) * 4, (BLOCK, OTHER, BLOCK, BLOCK), id="a-run-is-cut-in-two"),
        pytest.param((OTHER, *(BLOCK,) * 3), (BLOCK,) * 4, id="a-run-grows-at-its-head"),
        pytest.param((BLOCK, BLOCK, 0), (0, BLOCK, BLOCK), id="a-run-moves"),
        pytest.param((BLOCK,) * 4, (5, 5, 5, 5), id="a-run-is-released"),
        pytest.param((BLOCK,) * 4, (COOL,) * 4, id="a-run-begins-to-cool"),
        pytest.param((COOL, COOL, BLOCK, BLOCK), (COOL, BLOCK, COOL, BLOCK), id="a-run-cools-in-part"),
        pytest.param((COOL, COOL), (COOL, COOL._replace(until=9.75)), id="a-slot-cools-longer"),
        pytest.param((BLOCK,) * 2, (BLOCK, BLOCK._replace(space="b")), id="the-same-in-another-space"),
    ],
)
def test_a_codec_that_remembers_a_run_sees_how_it_changes(before: tuple[Slot, ...], after: tuple[Slot, ...]) -> None:
    writer, reader = Codec(), Codec()
    for slots in (before, after, before):
        text = Codec(0).encode(PAGE, Page(1, 0, slots))

        assert writer.encode(PAGE, Page(1, 0, slots)) == text
        assert same(reader.decode(PAGE, text), Page(1, 0, slots))


def test_what_did_not_change_is_decoded_as_the_same_objects() -> None:
    codec = Codec()
    before = codec.decode(PAGE, Codec().encode(PAGE, Page(1, 0, (WEB, 0, BLOCK))))
    after = codec.decode(PAGE, Codec().encode(PAGE, Page(1, 1, (WEB, 9, BLOCK))))

    assert isinstance(before, Page)
    assert isinstance(after, Page)
    assert after.slots[0] is before.slots[0]
    assert after.slots[2] is before.slots[2]
    assert after.slots[1] == 9


def test_no_more_pages_are_remembered_than_were_asked_for_and_the_oldest_goes_first() -> None:
    codec = Codec(2)
    for name in ("a", "b", "a", "c"):
        codec.encode(Key("block-page", name), Page(1, 0, (0,)))

    assert [key.name for key in codec._seen] == ["a", "c"]


def test_a_corrupt_page_is_not_remembered() -> None:
    codec = Codec()
    good = codec.encode(PAGE, Page(1, 0, (WEB, 0)))

    with pytest.raises(CorruptRecordError):
        codec.decode(PAGE, good.replace("7,", "seven,"))

    assert same(codec.decode(PAGE, good), Page(1, 0, (WEB, 0)))


# ---------------------------------------------------------------------------------------------------- bad input

ROW = '["10.0.1.5",7,"o","l",1.5]'


def page_text(*lines: str) -> str:
    return '{"format":1,"fence":1,"cursor":0,"slots":[\n' + ",\n".join(lines) + "\n]}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "not JSON: Expecting value: line 1 column 1 (char 0)", id="empty"),
        pytest.param("\x00\x01", "not JSON: Expecting value: line 1 column 1 (char 0)", id="binary"),
        pytest.param("[" * 100_000, "not JSON: maximum recursion depth exceeded", id="too-deep"),
        pytest.param("[]", "not a JSON object", id="list"),
        pytest.param('{"fence":1}', "format: missing", id="no-format"),
        pytest.param('{"format":"1"}', 'format: expected a number from 0 on, found "1"', id="format-text"),
        pytest.param('{"format":true}', "format: expected a number from 0 on, found true", id="format-bool"),
        pytest.param('{"format":0}', "format: 0, the first one is 1", id="format-0"),
        pytest.param('{"format":1,"cursor":0,"slots":[\n0\n]}', "fence: missing", id="no-fence"),
        pytest.param('{"format":1,"fence":1,"slots":[\n0\n]}', "cursor: missing", id="no-cursor"),
        pytest.param('{"format":1,"fence":1,"cursor":0}', "slots: missing", id="no-slots"),
        pytest.param(
            '{"format":1,"fence":1,"cursor":0,"slots":{}}', "slots: expected a list, found {}", id="slots-object"
        ),
        pytest.param(
            '{"format":1,"fence":-1,"cursor":0,"slots":[\n0\n]}',
            "fence: expected a number from 0 on, found -1",
            id="fence",
        ),
        pytest.param(
            '{"format":1,"fence":1,"cursor":1.0,"slots":[\n0\n]}',
            "cursor: expected a number from 0 on, found 1.0",
            id="cursor",
        ),
        pytest.param('{"format":1,"fence":1,"cursor":0,"x":1,"slots":[\n0\n]}', "x: unknown field", id="unknown"),
        pytest.param(
            '{"format":1,"fence":1,"fence":2,"cursor":0,"slots":[\n0\n]}',
            "a field stands twice: ['cursor', 'fence', 'fence', 'format', 'slots']",
            id="twice",
        ),
        pytest.param(page_text(*["0"] * 257), "slots: 257 slots, a page has at most 256", id="too-many"),
        pytest.param(page_text("0", "x"), "slots[1]: not JSON: x", id="line"),
        pytest.param(page_text("0", ""), "slots[1]: not JSON: ", id="empty-line"),
        pytest.param(page_text("0", "1 2"), "slots[1]: not JSON: 1 2", id="two-in-a-line"),
        pytest.param(page_text("-1"), "slots[0]: neither free, held, split, cooling nor a repetition: -1", id="negative"),
        pytest.param(page_text("true"), "slots[0]: neither free, held, split, cooling nor a repetition: true", id="bool"),
        pytest.param(page_text("1.0"), "slots[0]: neither free, held, split, cooling nor a repetition: 1.0", id="float"),
        pytest.param(page_text("null"), "slots[0]: neither free, held, split, cooling nor a repetition: null", id="null-first"),
        pytest.param(
            page_text("0", "null"), "slots[1]: neither free, held, split, cooling nor a repetition: null", id="null-free"
        ),
        pytest.param(
            page_text('{"x":1}'), 'slots[0]: neither free, held, split, cooling nor a repetition: {"x":1}', id="object"
        ),
        pytest.param(page_text('{"split":-1}'), "slots[0].split: expected a number from 0 on, found -1", id="split"),
        pytest.param(page_text('{"split":1,"split":2}'), "slots[0]: a field stands twice: ['split', 'split']", id="split-twice"),
        pytest.param(
            page_text("0", '{"cooling":1,"cooling":1,"until":1.0}'),
            "slots[1]: a field stands twice: ['cooling', 'cooling', 'until']",
            id="cooling-twice",
        ),
        *(
            pytest.param(page_text(line), f"slots[0]: neither free, held, split, cooling nor a repetition: {line}", id=f"cooling-{name}")
            for name, line in (
                ("without-time", '{"cooling":1}'),
                ("unknown", '{"cooling":1,"until":1.0,"x":1}'),
                ("and-split", '{"cooling":1,"until":1.0,"split":1}'),
                ("time-text", '{"cooling":1,"until":"1"}'),
                ("time-null", '{"cooling":1,"until":null}'),
                ("time-nan", '{"cooling":1,"until":NaN}'),
                ("time-endless", '{"cooling":1,"until":Infinity}'),
                ("time-bool", '{"cooling":1,"until":true}'),
            )
        ),
        pytest.param(page_text('{"cooling":-1,"until":1.0}'), "slots[0].cooling: expected a number from 0 on, found -1", id="cooling"),
        pytest.param(page_text('{"cooling":"1","until":1.0}'), 'slots[0].cooling: expected a number from 0 on, found "1"', id="cooling-text"),
        pytest.param(
            page_text('{"cooling":1,"until":1.0}', "null"),
            "slots[1]: neither free, held, split, cooling nor a repetition: null",
            id="null-cooling",
        ),
        pytest.param(page_text("[" * 9999), "slots[0]: not JSON: " + "[" * 80 + "...", id="line-too-deep"),
        pytest.param(page_text("9" * 5000), "slots[0]: not JSON: " + "9" * 80 + "...", id="line-too-long"),
        pytest.param(
            page_text('["10.0.1.5",7,"o","l"]'),
            'slots[0]: expected [piece, fence, holder, label, since] or a space as well, found ["10.0.1.5", 7, "o", "l"]',
            id="short-row",
        ),
    ],
)
def test_a_text_that_is_not_a_page_is_corrupt_and_the_error_says_where(text: str, reason: str) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        Codec().decode(PAGE, text)

    assert caught.value.key == "address-page 10.0.1.0/24"
    if "recursion" in reason:
        assert caught.value.reason.startswith(reason)
    else:
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 5),
        (0, "10.0.1"),
        (0, "10.0.1.256"),
        (0, "10.0.1.05"),
        (0, "10.0.1.5/23"),
        (0, "10.0.1.5/33"),
        (0, "fd00::12345"),
        (0, "fd00::g"),
        (0, "fd00::0x1"),
        (0, "fd00::1_0"),
        (0, "fd00::٣"),
        (0, "fd00:::1"),
        (0, "1:2:3:4:5:6:7:8:9"),
        (0, "fd00::1%eth0"),
        (0, ""),
        (1, -1),
        (1, True),
        (1, 1.0),
        (1, "1"),
        (2, None),
        (3, 3),
        (4, "1.5"),
        (4, None),
        (4, True),
        (4, float("nan")),
        (4, float("inf")),
        (4, 10**400),
        (4, 1 << 63),
    ],
)
def test_a_row_with_one_wrong_field_is_corrupt(position: int, value: object) -> None:
    row: list[object] = ["10.0.1.5", 7, "o", "l", 1.5]
    row[position] = value

    with pytest.raises(CorruptRecordError, match=r"slots\[1\]"):
        Codec().decode(PAGE, page_text("0", json.dumps(row)))


@pytest.mark.parametrize("tail", [[None], [1], ["b", "c"], [["b"]]])
def test_a_row_whose_space_is_no_text_is_corrupt(tail: list[object]) -> None:
    with pytest.raises(CorruptRecordError, match=r"slots\[0\]: expected \[piece, fence, holder, label, since\] or a space as well"):
        Codec().decode(PAGE, page_text(json.dumps(["10.0.1.5", 7, "o", "l", 1.5, *tail])))


def test_the_default_space_is_read_where_it_is_spelled_out_and_not_written() -> None:
    page = Codec().decode(PAGE, page_text('["10.0.1.5",7,"o","l",1.5,"default"]'))

    assert same(page, Page(1, 0, (Holding(4, 0x0A000105, 32, 7, "o", "l", 1.5),)))
    assert Codec().encode(PAGE, page) == page_text('["10.0.1.5",7,"o","l",1.5]')


@pytest.mark.parametrize(
    ("piece", "family", "network", "length"),
    [
        ("0.0.0.0", 4, 0, 32),  # noqa: S104 - an address that is read, not one that is listened on
        ("255.255.255.255", 4, (1 << 32) - 1, 32),
        ("10.0.0.0/8", 4, 10 << 24, 8),
        ("0.0.0.0/0", 4, 0, 0),
        ("::", 6, 0, 128),
        ("::1", 6, 1, 128),
        ("fd00::", 6, 0xFD00 << 112, 128),
        ("1:2:3:4:5:6:7:FfFf", 6, 0x0001000200030004000500060007FFFF, 128),
        ("::ffff:10.0.0.1", 6, 0xFFFF0A000001, 128),
        ("::ffff:a00:1", 6, 0xFFFF0A000001, 128),
        ("fd00::/63", 6, 0xFD00 << 112, 63),
    ],
)
def test_a_piece_is_read_in_each_of_its_spellings(piece: str, family: int, network: int, length: int) -> None:
    page = Codec().decode(PAGE, page_text(json.dumps([piece, 7, "o", "l", 1.5])))

    assert page == Page(1, 0, (Holding(4 if family == 4 else 6, network, length, 7, "o", "l", 1.5),))


@given(holdings())
def test_every_address_is_read_as_the_slow_parser_of_the_standard_library_reads_it(holding: Holding) -> None:
    from ipaddress import ip_network  # noqa: PLC0415 - the oracle, for this test only

    page = Codec().decode(PAGE, Codec().encode(PAGE, Page(1, 0, (holding,))))

    assert isinstance(page, Page)
    found = page.slots[0]
    assert isinstance(found, Holding)
    assert found.prefix.to_network() == ip_network(holding.piece)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format":1,"claims":{},"tentative":{}}', "closing: missing"),
        ('{"format":1,"claims":[],"tentative":{},"closing":[]}', "claims: expected an object, found []"),
        ('{"format":1,"claims":{"a":1},"tentative":{},"closing":[]}', "claims['a']: expected a list, found 1"),
        ('{"format":1,"claims":{"a":[],"a":[]},"tentative":{},"closing":[]}', "a field stands twice: ['a', 'a']"),
        (
            f'{{"format":1,"claims":{{"a":[{ROW},null]}},"tentative":{{}},"closing":[]}}',
            "claims['a'][1]: expected [piece, fence, holder, label, since] or a space as well, found null",
        ),
        ('{"format":1,"claims":{},"tentative":{"a":1},"closing":[]}', "tentative['a']: expected text, found 1"),
        ('{"format":1,"claims":{},"tentative":{},"closing":{}}', "closing: expected a list, found {}"),
        ('{"format":1,"claims":{},"tentative":{},"closing":[],"draining":{}}', "draining: expected a list, found {}"),
        ('{"format":1,"claims":{},"tentative":{},"closing":[],"draining":null}', "draining: expected a list, found null"),
        (
            '{"format":1,"claims":{},"tentative":{},"closing":[],"draining":[1]}',
            "draining[0]: expected [piece, fence, holder, label, since] or a space as well, found 1",
        ),
        ('{"format":1,"claims":{},"tentative":{},"closing":[],"drains":[]}', "drains: unknown field"),
        (
            '{"format":1,"claims":{},"tentative":{},"closing":[],"draining":[],"draining":[]}',
            "a field stands twice: ['claims', 'closing', 'draining', 'draining', 'format', 'tentative']",
        ),
    ],
)
def test_a_text_that_is_not_a_claim_page_is_corrupt(text: str, reason: str) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        Codec().decode(CLAIMS, text)

    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"since":2.5', '"since":"x"', 'since: expected a finite number, found "x"'),
        ('"since":2.5', '"since":NaN', "since: expected a finite number, found NaN"),
        ('"green"', "1", "name: expected text, found 1"),
        ('["10.0.0.0/16"]', "[1]", "spec.cidrs[0]: expected text, found 1"),
        ('"cidrs"', '"cidr"', "spec.cidrs: missing"),
        ('"allowFirst"', '"first"', "spec.first: unknown field"),
        ('"ipv4"', '"ipv5"', "spec.blockLength.ipv5: unknown field"),
        ('{"ipv4":26}', '{"ipv4":"26"}', 'spec.blockLength.ipv4: expected a number from 0 on, found "26"'),
        ('{"matchLabels":{"rack":"r1"}}', "null", "spec.nodeSelector: expected an object, found null"),
        ('"allowFirst":true', '"blockLengths":{}', "spec.blockLengths: expected a list, found {}"),
        ('"allowFirst":true', '"blockLengths":[1]', "spec.blockLengths[0]: expected an object, found 1"),
        ('"allowFirst":true', '"blockLengths":[{"ipv4":28}]', "spec.blockLengths[0].nodeSelector: missing"),
        ('"allowFirst":true', '"blockLengths":[{"nodeSelector":{},"v4":28}]', "spec.blockLengths[0].v4: unknown field"),
        (
            '"allowFirst":true',
            '"blockLengths":[{"nodeSelector":{},"ipv4":28.0}]',
            "spec.blockLengths[0].ipv4: expected a number from 0 on, found 28.0",
        ),
        ('"allowFirst":true', '"overflow":true,"overflow":true', "a field stands twice: {twice}"),
    ],
)
def test_a_text_that_is_not_a_pool_is_corrupt(old: str, new: str, reason: str) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        Codec().decode(POOL, POOL_TEXT.replace(old, new, 1))

    twice = ["blockLength", "cidrs", "nodeSelector", "overflow", "overflow", "reserved"]
    assert caught.value.reason == reason.replace("{twice}", str(twice))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("10.0.0.0/16", "10.0.0.1/16"),
        ("26", "8"),
        ('"rack"', '"/"'),
        ("green", "Green"),
        *(
            ('"allowFirst":true', field)
            for field in (
                '"allowFirst":1',
                '"allowLast":null',
                '"priority":1.5',
                '"priority":"1"',
                f'"priority":{1 << 31}',
                '"addressSpace":5',
                '"addressSpace":""',
                '"addressSpace":"a@b"',
                '"blocksPerNode":0',
                '"blocksPerNode":true',
                '"blocksPerNode":2,"maxBlocksPerNode":1',
                '"maxBlocksPerNode":0',
                '"overflow":1',
                '"draining":"true"',
                '"reuseDelaySeconds":-1',
                '"reuseDelaySeconds":"1"',
                '"reuseDelaySeconds":NaN',
                '"reuseDelaySeconds":Infinity',
                '"reuseDelaySeconds":315360001',
                f'"reuseDelaySeconds":1{"0" * 400}',
                '"addressPolicy":"last"',
                '"addressPolicy":[]',
                '"seed":-1',
                f'"seed":{1 << 63}',
                '"carving":"none"',
                '"carving":"grouped"',
                '"groupBy":"zone"',
                '"carving":"grouped","groupBy":"/"',
                '"carving":"grouped","groupBy":5',
                '"blockLengths":[{"nodeSelector":{}}]',
                '"blockLengths":[{"nodeSelector":{},"ipv4":8}]',
            )
        ),
    ],
)
def test_a_pool_that_could_not_have_been_applied_is_corrupt(old: str, new: str) -> None:
    with pytest.raises(CorruptRecordError):
        Codec().decode(POOL, POOL_TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format":1,"name":"node-1","since":2.0}', "labels: missing"),
        ('{"format":1,"name":"node-1","since":2.0,"labels":{"a":1}}', "labels.a: expected text, found 1"),
        ('{"format":1,"name":"node-1","since":2.0,"labels":[]}', "labels: expected an object, found []"),
        ('{"format":1,"name":"node-1","since":2.0,"labels":{},"draining":1}', "draining: expected true or false, found 1"),
        ('{"format":1,"name":"node-1","since":2.0,"labels":{},"draining":null}', "draining: expected true or false, found null"),
        ('{"format":1,"name":"node-1","since":2.0,"labels":{},"drains":true}', "drains: unknown field"),
    ],
)
def test_a_text_that_is_not_a_node_is_corrupt(text: str, reason: str) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        Codec().decode(NODE, text)

    assert caught.value.reason == reason


@given(keyed_records(), st.data())
def test_a_text_with_one_character_changed_is_a_record_or_a_store_error(
    keyed: tuple[Key, Record], data: st.DataObject
) -> None:
    key, record = keyed
    text = Codec().encode(key, record)
    position = data.draw(st.integers(0, len(text) - 1))
    changed = (
        text[:position] + data.draw(st.sampled_from(("", "0", '"', "]", "\n", ",", "/", "é"))) + text[position + 1 :]
    )

    try:
        found = Codec().decode(key, changed)
    except (CorruptRecordError, UnsupportedVersionError):
        return

    assert type(found) is type(record)


@pytest.mark.parametrize("key", [PAGE, CLAIMS, POOL, NODE])
def test_a_newer_format_is_told_and_not_guessed_at(key: Key) -> None:
    with pytest.raises(UnsupportedVersionError) as caught:
        Codec().decode(key, f'{{"format":{FORMAT + 1},"whatever":[\n1\n]}}')

    assert caught.value.args == (f"record {key}", str(FORMAT + 1), str(FORMAT))


def test_a_newer_format_is_told_although_it_is_laid_out_as_a_page_is() -> None:
    with pytest.raises(UnsupportedVersionError):
        Codec().decode(PAGE, page_text("x").replace('"format":1', '"format":2'))


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(StoreRefusedError, match="a Page is not a record of this kind"):
        Codec().encode(CLAIMS, Page(1, 0, ()))


@pytest.mark.parametrize("since", [float("nan"), float("inf"), -float("inf")])
def test_a_time_that_is_not_finite_is_refused(since: float) -> None:
    holding = WEB._replace(since=since)
    records: list[tuple[Key, Record]] = [
        (PAGE, Page(1, 0, (holding,))),
        (PAGE, Page(1, 0, (Cooling(1, since),))),
        (CLAIMS, ClaimPage({"a": (holding,)})),
        (CLAIMS, ClaimPage({}, draining=frozenset({holding}))),
        (NODE, NodeRecord(Node("node-1"), since)),
    ]
    for key, record in records:
        with pytest.raises(StoreRefusedError, match="not finite"):
            Codec().encode(key, record)


def test_the_size_of_a_full_page_stays_near_its_strings() -> None:
    slots = tuple(
        Holding(4, 0x0A000100 + n, 32, n, f"cni/{n:064x}/eth0", f"default/web-{n}", 1732354000.25 + n)
        for n in range(256)
    )
    strings = sum(len(slot.holder) + len(slot.label) for slot in slots)

    text = Codec().encode(PAGE, Page(1, 0, slots))

    assert len(text) < 1.5 * strings
    assert sys.getsizeof(text) < len(text) + 100  # one byte a character
