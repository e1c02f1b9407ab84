"""`audit` on stores of which every kind of damage was made by hand, and on stores as crashes leave them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from zlib import crc32

import pytest

import ciliumipam.audit
from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore, Store
from ciliumipam.audit import Audit, Finding, audit
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import StoreClosedError
from ciliumipam.lease import Moment, lease_key
from ciliumipam.pool import BlockLengths
from ciliumipam.records import (
    ClaimPage,
    Cooling,
    Holding,
    Key,
    Kind,
    Lease,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Split,
)
from ciliumipam.requests import ExistingBlock
from ciliumipam.store import ABSENT, Expect, Listing
from ciliumipam.testing.faults import Crash, FaultyStore, crash_after

R = TypeVar("R", bound=Record)
EVERY = NodeSelector.everything()
POOL = PoolSpec(name="p", cidrs=["10.0.0.0/16", "fd00::/60"], selector=EVERY)
BLOCKS, LEAF, ROOT = Key("block-page", "10.0.0.0/18"), Key("address-page", "10.0.0.0/24"), Key("block-page", "0.0.0.0/0")
BACKUP = "restore this record from a backup"


def claims_key(node: str, owner: str = "") -> Key:
    if owner:
        return Key("address-claims", f"{node}/{crc32(owner.encode()) % 64:02x}")
    return Key("block-claims", f"{crc32(node.encode()) % 256:02x}")


@pytest.fixture
def store() -> MemoryStore:
    """Two nodes with a block of each family, n with addresses for x and y, m with one for z."""
    store = MemoryStore()
    ipam = Ipam(store)
    ipam.apply([POOL], [Node("m"), Node("n")])
    assert [str(block.prefix) for block in ipam.blocks()] == ["10.0.0.0/24", "10.0.1.0/24", "fd00::/64", "fd00:0:0:1::/64"]
    ipam.allocate("m", "x", "y")
    ipam.allocate("n", "z")
    return store


def change(store: Store, key: Key, edit: Callable[[Any], Record]) -> None:
    """Replace a record, whatever it is."""
    entry = store.get(key)
    assert entry is not None, key
    store.put(key, edit(entry.record), expect=entry.revision)


def lose(store: Store, key: Key) -> None:
    entry = store.get(key)
    assert entry is not None, key
    store.delete(key, expect=entry.revision)


def put_slots(store: Store, key: Key, slots: dict[int, Any]) -> None:
    change(store, key, lambda page: page._replace(slots=tuple(slots.get(at, slot) for at, slot in enumerate(page.slots))))


def put_claims(store: Store, key: Key, claims: dict[str, tuple[Holding, ...]], **marks: Any) -> None:
    change(store, key, lambda page: page._replace(claims={**page.claims, **claims}, **marks))


def held(store: Store, key: Key, index: int) -> Holding:
    entry = store.get(key)
    assert entry is not None
    assert isinstance(entry.record, Page)
    slot = entry.record.slots[index]
    assert isinstance(slot, Holding)
    return slot


def errors(store: Store) -> list[tuple[str, str]]:
    """Where and what, of the errors; there must be nothing else but notices."""
    findings = audit(store).findings
    assert not [finding for finding in findings if finding.severity == "unfinished"]
    return [(finding.where, finding.what) for finding in findings if finding.severity == "error"]


def only(result: Audit, severity: str) -> Finding:
    """The one finding that there is."""
    assert [finding.severity for finding in result.findings] == [severity], result.findings
    return result.findings[0]


# --------------------------------------------------------------------------------------------------------- sound


def test_a_sound_store_has_no_findings_and_everything_is_counted(store: MemoryStore) -> None:
    result = audit(store)

    pages = len(store.scan("block-page").entries) + len(store.scan("address-page").entries)
    assert result.findings == ()
    assert result.counts == {"pools": 1, "nodes": 2, "blocks": 4, "addresses": 6, "pages": pages, "claims": 5}
    assert [str(block.prefix) for block in result.blocks] == [str(block.prefix) for block in Ipam(store).blocks()]
    assert result.pools == tuple(status.spec for status in Ipam(store).pools())


@pytest.mark.parametrize(
    ("lease", "moment", "why"),
    [
        (Lease("n", "boot-1", 100.0, 30.0), Moment("boot-1", 130.0), None),
        (Lease("n", "boot-1", 100.0, 30.0), Moment("boot-1", 131.0), "its blocks were last confirmed 31 s ago, and that holds for 30 s"),
        (Lease("n", "boot-1", 100.0, 30.0), Moment("boot-1", 99.0), "its blocks were last confirmed -1 s ago, and that holds for 30 s"),
        (
            Lease("n", "boot-1", 100.0, 30.0),
            Moment("boot-2", 101.0),
            "since its blocks were last confirmed this machine was started, or it is another one",
        ),
        (Lease("n", "boot-1", 100.0, 30.0, reason="no such node"), Moment("boot-1", 101.0), "no such node"),
        (Lease("n", "boot-1", 100.0, 30.0), None, None),
        (Lease("n", "", 7.0, 30.0, reason="allocate there"), Moment("boot-1", 9999.0), None),  # a beat
    ],
)
def test_a_lease_that_does_not_hold_is_told_with_what_to_do(store: MemoryStore, lease: Lease, moment: Moment | None, why: str | None) -> None:
    store.put(lease_key("n"), lease, expect=ABSENT)

    found = audit(store, moment=None if moment is None else lambda: moment).findings

    repair = "see that 'ciliumipam agent n' runs and reaches the store that decides about blocks"
    wanted = () if why is None else (Finding("notice", f"it gives out no address: {why}; what is held stays", "node n", repair),)
    assert found == wanted


def test_an_empty_store_has_no_findings() -> None:
    assert audit(MemoryStore()) == Audit((), {"pools": 0, "nodes": 0, "blocks": 0, "addresses": 0, "pages": 0, "claims": 0})


@pytest.mark.parametrize("lengths", [(20, 61), (24, 64), (25, 66), (26, 120), (27, 122), (30, 127), (32, 128)])
def test_blocks_of_every_length_are_sound_before_and_after_they_were_used(lengths: tuple[int, int]) -> None:
    store = MemoryStore()
    ipam = Ipam(store)
    for v4, v6 in (lengths, (22, 62), (26, 123), lengths):
        pool = PoolSpec(
            name="p", cidrs=["10.0.0.0/18", "fd00::/56"], selector=EVERY, block_length_v4=v4, block_length_v6=v6,
            allow_first=True, allow_last=True,
        )  # fmt: skip
        ipam.apply([pool], [Node("m"), Node("n")])
        ipam.allocate("m", "x")
        ipam.allocate("n", "y")
        assert audit(store).findings == ()
        ipam.release("m", "x")
        ipam.remove_node("m")
        assert audit(store).findings == ()
        ipam.remove_node("n", force=True)
        ipam.remove_pool("p")
        assert audit(store).findings == ()


def test_two_stores_are_audited_together() -> None:
    cluster, local = MemoryStore(), MemoryStore()
    ipam = Ipam(cluster, local)
    ipam.apply([POOL], [Node("m")])
    ipam.allocate("m", "x")

    assert (audit(cluster, local).findings, audit(cluster, local).counts["addresses"]) == ((), 2)
    assert audit(cluster).counts["addresses"] == 0


def test_nothing_is_written() -> None:
    class ReadOnly(MemoryStore):
        def put(self, key: Key, record: Record, *, expect: Expect) -> Any:
            raise AssertionError(key)

    assert audit(ReadOnly()).findings == ()


def test_a_store_that_cannot_be_read_is_an_error_of_the_store(store: MemoryStore) -> None:
    store.close()

    with pytest.raises(StoreClosedError):
        audit(store)


# ------------------------------------------------------------------------------------------------ what looks wrong


class Busy(MemoryStore):
    """Somebody writes between the listings."""

    def __init__(self) -> None:
        super().__init__()
        self.between: Callable[[Kind], object] = lambda _: None

    def scan(self, kind: Kind) -> Listing:
        listing = super().scan(kind)
        self.between(kind)
        return listing


def test_a_call_that_is_under_way_is_no_finding() -> None:
    store = Busy()
    ipam = Ipam(store)
    ipam.apply([POOL], [Node("m")])
    ipam.allocate("m", "x")
    seen: list[Kind] = []

    def between(kind: Kind) -> None:
        seen.append(kind)
        if seen.count("address-page") == 1 and kind == "address-page":
            ipam.release("m", "x")  # its pages have been listed, its claim has not

    store.between = between

    assert audit(store).findings == ()
    assert seen.count("address-page") == 2  # what looked wrong was looked at again


def test_what_stays_wrong_while_others_write_is_a_finding() -> None:
    store = Busy()
    ipam = Ipam(store)
    ipam.apply([POOL], [Node("m")])
    ipam.allocate("m", "x")
    lose(store, claims_key("m", "x"))
    numbers = iter(range(1000))
    store.between = lambda kind: ipam.allocate("m", f"y{next(numbers)}") if kind == "node" else None

    assert [finding.where for finding in audit(store).findings] == ["address 10.0.0.1", "address fd00::1"]


# -------------------------------------------------------------------------------------------------------- errors


def test_overlapping_blocks_and_the_addresses_in_both_are_found(store: MemoryStore) -> None:
    thief = Holding(4, 10 << 24, 25, 9, "n", "p", 1.0)
    put_slots(store, BLOCKS, {0: thief, 1: thief})
    other = Holding(4, (10 << 24) + 1, 32, 99, "o", "", 1.0)
    store.put(Key("address-page", "10.0.0.0/25"), Page(9, 0, (0, other, *[0] * 126)), expect=ABSENT)

    found = errors(store)

    own = held(store, BLOCKS, 2).fence
    assert ("block 10.0.0.0/25", f"two holders share addresses: 10.0.0.0/24 ('m', fence {own}) and 10.0.0.0/25 ('n', fence 9)") in found
    assert [what for where, what in found if where == "address 10.0.0.1" and what.startswith("two holders")] == [
        f"two holders share addresses: 10.0.0.1 ('x', fence {held(store, LEAF, 1).fence}) and 10.0.0.1 ('o', fence 99)"
    ]
    assert (str(BLOCKS), f"10.0.0.0/24 held by 'm' (fence {own}) should stand in slots 0 to 3, and stands in 2, 3") in found


def test_an_owner_with_two_addresses_of_a_family_is_found(store: MemoryStore) -> None:
    second = Holding(4, (10 << 24) + 9, 32, 50, "x", "", 1.0)
    put_slots(store, LEAF, {9: second})
    change(store, claims_key("m", "x"), lambda page: page._replace(claims={**page.claims, "x": (*page.claims["x"], second)}))

    assert errors(store) == [("owner x on node m", "the owner holds 2 IPv4 addresses: 10.0.0.1, 10.0.0.9")]
    assert audit(store).findings[0].repair.endswith("ciliumipam release --address 10.0.0.9 --fence 50")


def test_what_is_held_and_named_by_no_claim_is_found(store: MemoryStore) -> None:
    x, x6 = held(store, LEAF, 1), held(store, Key("address-page", "fd00::/64+fd00::/120"), 1)
    v4, v6 = (block.fence for block in Ipam(store).nodes()[1].blocks)
    lose(store, claims_key("m", "x"))
    change(store, claims_key("n"), lambda _: ClaimPage({}))

    assert errors(store) == [
        ("address 10.0.0.1", f"owner 'x' on node m holds it (fence {x.fence}), but no claim names it"),
        ("address fd00::1", f"owner 'x' on node m holds it (fence {x6.fence}), but no claim names it"),
        ("block 10.0.1.0/24", f"node n holds the block (fence {v4}), but no claim names it, so no call gives it back"),
        ("block fd00:0:0:1::/64", f"node n holds the block (fence {v6}), but no claim names it, so no call gives it back"),
    ]
    assert f"ciliumipam release --address 10.0.0.1 --fence {x.fence}" in audit(store).findings[0].repair
    Ipam(store).release_fenced("10.0.0.1", x.fence)  # and that is so
    assert audit(store).findings[0].where == "address fd00::1"


def test_claims_that_contradict_themselves_are_found(store: MemoryStore) -> None:
    key, x = claims_key("m", "x"), held(store, LEAF, 1)
    stray = x._replace(network=x.network + 7)
    tentative = MappingProxyType({"nobody": "a token"})
    put_claims(store, key, {"empty": ()}, closing=frozenset({stray}), tentative=tentative)
    change(store, claims_key("m", "y"), lambda page: page._replace(claims={**page.claims, "y": tuple(p._replace(holder="q") for p in page.claims["y"])}))

    found = [(each.where, each.what) for each in audit(store).findings if each.severity == "error"]

    assert (str(key), "the claim of 'empty' names nothing") in found
    assert (str(key), f"10.0.0.8 of 'x' (fence {x.fence}) is marked as closing, but no claim names it") in found
    assert (str(key), "'nobody' is marked as tentative, but has no claim") in found
    assert (str(claims_key("m", "y")), "the claim of 'y' names 10.0.0.2 for 'q'") in found
    assert ("address 10.0.0.2", f"owner 'y' on node m holds it (fence {held(store, LEAF, 2).fence}), but no claim names it") in found


def test_a_claim_in_the_wrong_record_is_found(store: MemoryStore) -> None:
    right, wrong = claims_key("m", "x"), Key("address-claims", "m/3f")
    entry = store.get(right)
    assert entry is not None
    assert right != wrong
    store.put(wrong, entry.record, expect=ABSENT)
    lose(store, right)

    assert errors(store) == [(str(wrong), f"the claim of 'x' belongs into {right}, so nobody finds it here")]


@pytest.mark.parametrize(
    ("slot", "holding", "what"),
    [
        (7, Holding(6, (10 << 24) + 7, 128, 60, "x", "", 1.0), "::a00:7 held by 'x' (fence 60) is of the other family than its page"),
        (7, Holding(4, (10 << 24) + 8, 32, 60, "x", "", 1.0), "10.0.0.8 held by 'x' (fence 60) should stand in slots 8 to 8, and stands in 7"),
        (7, Holding(4, (11 << 24) + 8, 32, 60, "x", "", 1.0), "11.0.0.8 held by 'x' (fence 60) lies outside its page"),
        (7, Holding(4, (10 << 24) + 7, 31, 60, "x", "", 1.0), "10.0.0.7/31 held by 'x' (fence 60) lies outside its page"),
        (8, Holding(4, (10 << 24) + 8, 31, 60, "x", "", 1.0), "10.0.0.8/31 held by 'x' (fence 60) belongs into another page, by its length"),
    ],
)
def test_a_holding_in_the_wrong_place_is_found(store: MemoryStore, slot: int, holding: Holding, what: str) -> None:
    put_slots(store, LEAF, {slot: holding})

    found = [(each.where, each.what) for each in audit(store).findings if each.repair.endswith(BACKUP)]

    assert (str(LEAF), what) in found


@pytest.mark.parametrize("length", [16, 27])
def test_a_block_in_the_page_of_other_lengths_is_found(store: MemoryStore, length: int) -> None:
    put_slots(store, BLOCKS, {64: Holding(4, (10 << 24) + (16 << 8), length, 1, "q", "p", 1.0)})

    text = f"10.0.16.0/{length} held by 'q' (fence 1)"
    where = "lies outside its page" if length == 16 else "belongs into another page, by its length"
    assert (str(BLOCKS), f"{text} {where}") in errors(store)


def test_a_page_with_the_wrong_number_of_slots_is_found(store: MemoryStore) -> None:
    change(store, LEAF, lambda page: page._replace(slots=page.slots[:-1]))

    found = [(each.where, each.what) for each in audit(store).findings if each.severity == "error"]

    assert found == [(str(LEAF), "the page has 255 slots, it should have 256")]


def test_a_split_address_is_found(store: MemoryStore) -> None:
    put_slots(store, LEAF, {7: Split(3)})

    assert errors(store) == [(str(LEAF), "slot 7 is split, but a single address has nothing below it")]


def test_a_page_that_is_ahead_of_the_slot_above_it_is_found(store: MemoryStore) -> None:
    change(store, BLOCKS, lambda page: page._replace(fence=page.fence + 2))

    what = [each.what for each in audit(store).findings if each.where == str(BLOCKS)]

    assert len(what) == 2
    assert re.fullmatch(r"the page \(fence (\d+)\) does not count, since no slot above links to it .*", what[0])
    fences = re.fullmatch(r"the page has fence (\d+), but the slot above it never had a later one than (\d+): it was lost or rolled back", what[1])
    assert fences is not None
    assert int(fences[1]) == int(fences[2]) + 2


def test_addresses_that_are_ahead_of_their_block_are_found(store: MemoryStore) -> None:
    own = held(store, BLOCKS, 0).fence
    change(store, LEAF, lambda page: page._replace(fence=own + 2))

    what = [each.what for each in audit(store).findings if each.where == str(LEAF)]

    assert what == [
        f"the page (fence {own + 2}) does not count, since the block is held under fence {own}, but it shows as held 10.0.0.1 by 'x', 10.0.0.2 by 'y'",
        f"the page has fence {own + 2}, but the slot above it never had a later one than {own}: it was lost or rolled back",
    ]


def test_a_lost_page_is_found_by_the_pages_below_it(store: MemoryStore) -> None:
    own = held(store, BLOCKS, 0).fence
    lose(store, ROOT)

    found = [(each.where, each.what) for each in audit(store).findings if each.severity == "error"]

    assert found[0] == (
        "address-page 10.0.0.0/24",
        f"the page (fence {own}) does not count, since nobody holds the block, but it shows as held 10.0.0.1 by 'x', 10.0.0.2 by 'y'",
    )
    assert [what.partition("fence ")[2].partition(",")[2] for where, what in found if where == "block-page 0.0.0.0/2"] == [
        " but the page above it is missing"
    ]


def test_a_root_page_under_another_fence_is_found(store: MemoryStore) -> None:
    change(store, ROOT, lambda page: page._replace(fence=2))

    found = [(each.where, each.what) for each in audit(store).findings if each.severity == "error"]

    assert (str(ROOT), "the root page has fence 2, but it always counts under 1") in found


def test_holdings_in_pages_that_do_not_count_are_found(store: MemoryStore) -> None:
    many = tuple(Holding(4, (10 << 24) + (5 << 8) + at, 32, 1, f"o{at}", "", 1.0) for at in range(256))
    store.put(Key("address-page", "10.0.5.0/24"), Page(0, 0, many), expect=ABSENT)
    change(store, BLOCKS, lambda page: page._replace(fence=0))

    found = {each.where: each.what for each in audit(store).findings if each.severity == "error"}

    assert found["address-page 10.0.5.0/24"] == (
        "the page (fence 0) does not count, since nobody holds the block, but it shows as held"
        " 10.0.5.0 by 'o0', 10.0.5.1 by 'o1', 10.0.5.2 by 'o2' and 253 more"
    )
    assert found[str(BLOCKS)] == (
        "the page (fence 0) does not count, since no slot above links to it under this fence, but it shows as held"
        " 10.0.0.0/24 by 'm', 10.0.1.0/24 by 'n'"
    )


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("block-page", "nonsense", "write address/length"),
        ("block-page", "10.0.0.1/18", "host bits are set"),
        ("block-page", "10.0.0.0/17", "no page of blocks begins at that length"),
        ("block-page", "10.0.0.0/18+10.0.0.0/26", "no page of blocks begins at that length"),
        ("block-page", "fd00:0::/10", "not in the one spelling"),
        ("address-page", "10.0.0.0/24+10.0.0.0/26", "no page of addresses of that block begins there"),
        ("address-page", "10.0.0.0/20+10.1.0.0/24", "no page of addresses of that block begins there"),
        ("address-page", "10.0.0.0/24+10.0.0.0/24", "not in the one spelling"),
    ],
)
def test_a_key_that_nobody_looks_for_is_found(store: MemoryStore, kind: Kind, name: str, why: str) -> None:
    store.put(Key(kind, name), Page(1, 0, (0,) * 256), expect=ABSENT)

    ((where, what),) = errors(store)

    assert where == f"{kind} {name}"
    assert what.startswith("the key is not that of a page, so nobody reads what is in it: ")
    assert why in what


def test_records_under_the_name_of_others_are_found(store: MemoryStore) -> None:
    store.put(Key("pool", "other"), PoolRecord(POOL, 1.0), expect=ABSENT)
    store.put(Key("node", "other"), NodeRecord(Node("m"), 1.0), expect=ABSENT)
    store.put(Key("address-claims", "m/zz"), NodeRecord(Node("m"), 1.0), expect=ABSENT)

    assert errors(store) == [
        ("address-claims m/zz", "the record is a NodeRecord, which is not of its kind"),
        ("node other", "the record is of node 'm'"),
        ("pool other", "the record is of pool 'p'"),
    ]


def test_a_record_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ipam.db")
    Ipam(store).apply([POOL], [Node("m")])
    with sqlite3.connect(tmp_path / "ipam.db") as connection:
        connection.execute("UPDATE records SET body = '{' WHERE kind = 'node'")
    connection.close()

    finding = only(audit(store), "error")

    assert finding.where == "node m"
    assert finding.what.startswith("the record cannot be read: ")
    assert finding.repair.endswith(BACKUP)
    assert audit(store).counts["pool records"] == 1


# ---------------------------------------------------------------------------------------------------- unfinished


def crashed(store: Store, writes: int, call: Callable[[Ipam], object]) -> None:
    """A call of a process that dies after some writes."""
    with pytest.raises(Crash):
        call(Ipam(FaultyStore(store, crash_after(writes))))


def test_a_claim_without_its_address_is_unfinished_and_all_repairs_work(store: MemoryStore) -> None:
    repairs: tuple[Callable[[Ipam], object], ...] = (
        lambda ipam: ipam.allocate("n", "q"),
        lambda ipam: ipam.release("n", "q"),
        lambda ipam: ipam.repair(),
    )
    for finish in repairs:
        crashed(store, 1, lambda ipam: ipam.allocate("n", "q", family=4))

        finding = only(audit(store), "unfinished")
        assert finding.where == "owner q on node n"
        assert re.fullmatch(r"the owner claims 10\.0\.1\.\d under fence \d+, but does not hold it: a call was cut short", finding.what)
        assert finding.repair == "ciliumipam allocate n q finishes it, ciliumipam release n q ends it, and so does ciliumipam check --repair"

        finish(Ipam(store))
        assert audit(store).findings == ()
        Ipam(store).release("n", "q", missing_ok=True)


def test_a_release_that_was_begun_is_unfinished_until_it_is_repeated(store: MemoryStore) -> None:
    crashed(store, 1, lambda ipam: ipam.release("m", "x"))

    result = audit(store)

    assert [finding.severity for finding in result.findings] == ["unfinished", "unfinished"]
    assert [finding.where for finding in result.findings] == ["owner x on node m"] * 2
    assert result.findings[0].what.startswith("the release of 10.0.0.1 (fence ")
    assert result.findings[0].what.endswith(") was begun and not finished")
    assert result.findings[0].repair == "ciliumipam release m x, or: ciliumipam check --repair"
    Ipam(store).release("m", "x")
    assert audit(store).findings == ()


def test_a_block_that_was_claimed_only_is_unfinished_until_something_is_applied(store: MemoryStore) -> None:
    crashed(store, 2, lambda ipam: ipam.apply(nodes=[Node("q")]))

    findings = audit(store).findings

    assert [(each.severity, each.where) for each in findings] == [
        ("unfinished", "block 10.0.2.0/24"), ("unfinished", "block fd00:0:0:2::/64"), ("notice", "node q"),
    ]  # fmt: skip
    assert findings[0].what.startswith("node q claims the block under fence ")
    assert findings[0].repair == "ciliumipam check --repair, or apply any manifest again"
    Ipam(store).apply()
    assert audit(store).findings == ()


def test_a_block_that_a_node_claimed_which_is_not_known_is_ended_by_deleting_the_node(store: MemoryStore) -> None:
    crashed(store, 2, lambda ipam: ipam.apply(nodes=[Node("q")]))
    lose(store, Key("node", "q"))

    assert {each.repair for each in audit(store).findings} == {"ciliumipam check --repair, or: ciliumipam delete node q"}

    Ipam(store).remove_node("q")
    assert audit(store).findings == ()


@pytest.mark.parametrize("known", [True, False])
def test_a_block_on_its_way_back_is_unfinished(store: MemoryStore, known: bool) -> None:
    Ipam(store).release("n", "z")
    assert [str(each.prefix) for each in Ipam(store).nodes()[1].blocks] == ["10.0.1.0/24", "fd00:0:0:1::/64"]
    writes = 1
    while not any("is giving the block back" in each.what for each in audit(store).findings):
        crashed(store, writes, lambda ipam: ipam.remove_node("n"))
        writes += 1
    if not known:
        lose(store, Key("node", "n"))

    finding = next(each for each in audit(store).findings if "is giving the block back" in each.what)

    assert finding.severity == "unfinished"
    assert finding.what == "node n is giving the block back: its addresses are closed, and it gives out none"
    anew = ", which gives it back and carves anew, as applying any manifest does" if known else ""
    assert finding.repair == f"ciliumipam check --repair{anew}, or: ciliumipam delete node n"
    Ipam(store).remove_node("n")
    assert audit(store).findings == ()


def test_a_removal_by_force_leaves_nothing_that_is_an_error_wherever_it_stops(store: MemoryStore) -> None:
    big = PoolSpec(name="big", cidrs=["10.9.0.0/16"], selector=NodeSelector.parse("big"), block_length_v4=20)
    Ipam(store).apply([big], [Node("b", {"big": ""})])
    for number in range(3):
        Ipam(store).allocate("b", f"o{number}", address=f"10.9.{number}.7")
    seen = set()
    writes = 0
    while True:
        writes += 1
        copy = MemoryStore()
        for kind in ("pool", "node", "block-page", "block-claims", "address-page", "address-claims"):
            for key, entry in store.scan(kind).entries:
                copy.put(key, entry.record, expect=ABSENT)
        with suppress(Crash):
            Ipam(FaultyStore(copy, crash_after(writes))).remove_node("b", force=True)
            break
        findings = audit(copy).findings
        assert not [each for each in findings if each.severity == "error"], findings
        seen |= {re.sub(r" ?\(?\b(fence )?[\d.]+\b\)?", "", each.what) for each in findings}

    assert seen == {
        "the page is closed, but the page above still links to it",
        "the owner claims under, but does not hold it: a call was cut short",
        "node b is giving the block back: its addresses are closed, and it gives out none",
        "node b claims the block under, but does not hold it: a call was cut short",
        "it holds no block",
    }
    assert audit(copy).findings == ()


def test_a_claim_on_a_block_that_is_gone_is_unfinished_until_the_owner_calls_again(store: MemoryStore) -> None:
    x = held(store, LEAF, 1)
    Ipam(store).remove_node("m", force=True)
    Ipam(store).apply(nodes=[Node("o")])  # takes what m had
    Ipam(store).apply(nodes=[Node("m")])
    store.put(claims_key("m", "x"), ClaimPage({"x": (x,)}), expect=store.get(claims_key("m", "x")).revision)  # type: ignore[union-attr]  # it is there

    finding = only(audit(store), "unfinished")

    assert finding.where == "owner x on node m"
    assert finding.what == f"the owner claims 10.0.0.1 (fence {x.fence}), but the node no longer holds a block that has it"
    assert finding.repair == "nothing needs to be done: the next call of that owner on that node forgets it, and so does ciliumipam check --repair"
    Ipam(store).allocate("m", "x")
    assert audit(store).findings == ()


# ------------------------------------------------------------------------------------------------------- notices


def test_orphans_are_noticed_whether_the_pool_is_gone_or_has_shrunk(store: MemoryStore) -> None:
    Ipam(store).apply([PoolSpec(name="p", cidrs=["10.0.1.0/24", "fd00::/60"], selector=EVERY)])

    finding = next(each for each in audit(store).findings if each.where == "block 10.0.0.0/24")
    assert finding.severity == "notice"
    assert finding.what == "an orphan: its pool 'p' no longer covers it, so it gives out no new addresses"

    Ipam(store).remove_pool("p")
    result = audit(store)
    assert [(each.severity, each.where) for each in result.findings] == [
        ("notice", f"block {block}") for block in ("10.0.0.0/24", "10.0.1.0/24", "fd00:0:0:1::/64", "fd00::/64")
    ]
    assert result.findings[0].what == "an orphan: its pool 'p' is gone, so it gives out no new addresses"
    assert result.findings[0].repair == (
        "apply the pool with a CIDR that covers it, or to move the node, with another pool that selects it: ciliumipam migrate m --to POOL"
    )


@pytest.mark.parametrize("reserved", ["10.0.0.0/28", "10.0.0.1", "10.0.0.1-10.0.0.1"])
def test_an_address_that_was_reserved_later_is_noticed(store: MemoryStore, reserved: str) -> None:
    Ipam(store).release("m", "y")
    Ipam(store).apply([PoolSpec(name="p", cidrs=POOL.cidrs, selector=EVERY, reserved=[reserved, "10.0.0.250", "fd00::"])])

    finding = only(audit(store), "notice")

    assert finding.where == "address 10.0.0.1"
    assert finding.what == "owner 'x' on node m holds it, but pool 'p' has reserved it since"
    assert f"ciliumipam release --address 10.0.0.1 --fence {held(store, LEAF, 1).fence}" in finding.repair


def test_the_first_and_last_addresses_of_a_block_are_noticed_when_they_are_no_longer_given_out() -> None:
    store = MemoryStore()
    ipam = Ipam(store)
    spec = {"name": "p", "cidrs": ["10.0.0.0/24"], "selector": EVERY, "block_length_v4": 30}
    ipam.apply([PoolSpec(**spec, allow_first=True, allow_last=True)], [Node("m")])  # type: ignore[arg-type]  # as written above
    ipam.allocate("m", "a", "b", "c", "d")
    assert audit(store).findings == ()

    ipam.apply([PoolSpec(**spec, allow_last=True)])  # type: ignore[arg-type]  # as written above
    assert [each.where for each in audit(store).findings] == ["address 10.0.0.0"]
    ipam.apply([PoolSpec(**spec, allow_first=True)])  # type: ignore[arg-type]  # as written above
    assert [each.where for each in audit(store).findings] == ["address 10.0.0.3"]


def test_of_two_pools_that_overlap_the_newer_is_noticed() -> None:
    store = MemoryStore()
    for name, cidrs, since in (("new", ["10.0.5.0/24"], 3.0), ("old", ["10.0.0.0/16"], 1.0), ("free", ["10.0.5.0/25", "11.0.0.0/8"], 2.0)):
        store.put(Key("pool", name), PoolRecord(PoolSpec(name=name, cidrs=cidrs, selector=EVERY), since), expect=ABSENT)

    assert [(each.severity, each.where, each.what) for each in audit(store).findings] == [
        ("notice", "pool free", "it overlaps the older pool 'old', so it serves nobody"),
        ("notice", "pool new", "it overlaps the older pool 'old', so it serves nobody"),
    ]


def test_a_node_that_is_not_known_but_holds_blocks_is_noticed(store: MemoryStore) -> None:
    lose(store, Key("node", "n"))

    assert [(each.severity, each.where, each.what) for each in audit(store).findings] == [
        ("notice", f"block {block}", "it is held by node n, which is not known") for block in ("10.0.1.0/24", "fd00:0:0:1::/64")
    ]


def test_a_node_whose_labels_its_pool_no_longer_selects_is_noticed() -> None:
    store = MemoryStore()
    ipam = Ipam(store)
    ipam.apply([PoolSpec(name="p", cidrs=["10.0.0.0/24"], selector=NodeSelector.parse("zone=a"))], [Node("m", {"zone": "a"})])
    ipam.apply(nodes=[Node("m", {"zone": "b"})])

    finding = only(audit(store), "notice")

    assert finding.where == "block 10.0.0.0/24"
    assert finding.what == "node m keeps it, although pool 'p' no longer selects the node: zone in (a) but the node has b"


def test_a_pool_with_fewer_blocks_than_nodes_is_noticed_and_so_are_the_nodes_without_one() -> None:
    store = MemoryStore()
    ipam = Ipam(store)
    other = PoolSpec(name="own", cidrs=["10.1.0.0/24"], selector=NodeSelector.parse("own"))
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/23", "fd00::/62"], selector=EVERY, reserved=["10.0.0.0-10.0.1.128"], block_length_v4=25)
    ipam.apply([pool, other], [Node("a"), Node("b"), Node("c"), Node("d", {"own": ""})])

    assert [(each.severity, each.where, each.what) for each in audit(store).findings] == [
        ("notice", "node b", "it holds no block"),
        ("notice", "node c", "it holds no block"),
        ("notice", "pool p", "it makes 1 IPv4 blocks, but 3 nodes are or want to be served by it"),
    ]


def test_a_node_that_lacks_a_family_of_its_pool_is_noticed() -> None:
    store = MemoryStore()
    ipam = Ipam(store)
    ipam.apply([PoolSpec(name="p", cidrs=["10.0.0.0/24"], selector=EVERY)], [Node("m")])
    change(store, Key("pool", "p"), lambda record: record._replace(spec=PoolSpec(name="p", cidrs=["10.0.0.0/24", "fd00::/64"], selector=EVERY)))

    finding = only(audit(store), "notice")

    assert (finding.where, finding.what) == ("node m", "it holds no IPv6 block")
    assert finding.repair == "ciliumipam explain m says why"


# ------------------------------------------------------------------------------------------------ address spaces

NOW = 1_700_000_000.0
HERE = PoolSpec(name="here", cidrs=["10.0.0.0/16", "fd00::/60"], selector=NodeSelector.parse("!apart"))
THERE = PoolSpec(name="there", cidrs=["10.0.0.0/16", "fd00::/60"], selector=NodeSelector.parse("apart"), address_space="tenant-b")


@pytest.fixture
def spaces() -> MemoryStore:
    """Node m here and node far there have the same blocks, and owner x on both has the same addresses."""
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: NOW)
    ipam.apply([HERE, THERE], [Node("m"), Node("far", {"apart": ""})])
    ipam.allocate("m", "x")
    ipam.allocate("far", "x")
    assert {(block.node, str(block.prefix)) for block in ipam.blocks()} == {(node, block) for node in ("m", "far") for block in ("10.0.0.0/24", "fd00::/64")}
    return store


def notices(store: Store, *, now: float = NOW) -> list[tuple[str, str, str]]:
    """Where, what and what to do, of the notices; there must be nothing else."""
    findings = audit(store, clock=lambda: now).findings
    assert {finding.severity for finding in findings} <= {"notice"}, findings
    return [(finding.where, finding.what, finding.repair) for finding in findings]


def test_the_same_block_in_two_address_spaces_is_sound(spaces: MemoryStore) -> None:
    result = audit(spaces)

    assert result.findings == ()
    assert (result.counts["blocks"], result.counts["addresses"], result.counts["claims"]) == (4, 4, 4)
    Ipam(spaces).allocate("m", "y")
    Ipam(spaces).allocate("far", "z")  # the same addresses for others
    assert audit(spaces).findings == ()


def test_pools_with_the_same_cidr_in_two_address_spaces_are_sound() -> None:
    store = MemoryStore()
    Ipam(store).apply([PoolSpec(name=space, cidrs=["10.0.0.0/16"], selector=EVERY, address_space=space) for space in "ab"])

    assert audit(store).findings == ()


def test_a_claim_in_one_address_space_explains_no_page_of_another(spaces: MemoryStore) -> None:
    claimed = Holding(4, (10 << 24) + (9 << 8), 24, 70, "far", "there", 1.0, "tenant-b")
    put_claims(spaces, claims_key("far"), {"far": (*spaces.get(claims_key("far")).record.claims["far"], claimed)})  # type: ignore[union-attr]  # it is there
    for space in ("", "tenant-b@"):
        spaces.put(Key("address-page", f"{space}10.0.9.0/24"), Page(70, 0, (69,) * 256), expect=ABSENT)

    assert [each.where for each in audit(spaces).findings if each.severity == "error"] == ["address-page 10.0.9.0/24"]


def test_blocks_that_overlap_within_one_of_several_address_spaces_are_found(spaces: MemoryStore) -> None:
    key = Key("block-page", "tenant-b@10.0.0.0/18")
    thief = Holding(4, 10 << 24, 25, 9, "thief", "there", 1.0, "tenant-b")
    put_slots(spaces, key, {0: thief, 1: thief})
    own = held(spaces, BLOCKS, 0).fence

    assert ("block 10.0.0.0/25", f"two holders share addresses: 10.0.0.0/24 ('far', fence {own}) and 10.0.0.0/25 ('thief', fence 9)") in errors(spaces)
    assert not [where for where, _ in errors(spaces) if where == "block 10.0.0.0/24" or where.startswith("address")]


def test_a_node_in_two_address_spaces_is_found(spaces: MemoryStore) -> None:
    block = held(spaces, BLOCKS, 0)._replace(space="tenant-b", network=(10 << 24) + (9 << 8))
    put_slots(spaces, Key("block-page", "tenant-b@10.0.0.0/18"), dict.fromkeys(range(36, 40), block))
    put_claims(spaces, claims_key("m"), {"m": (*spaces.get(claims_key("m")).record.claims["m"], block)})  # type: ignore[union-attr]  # it is there

    (found,) = [each for each in audit(spaces).findings if each.severity == "error"]

    assert found.where == "node m"
    assert found.what == (
        "the node holds blocks in 2 address spaces, so one address may mean two things there"
        " (default: 10.0.0.0/24, fd00::/64; tenant-b: 10.0.9.0/24)"
    )
    assert found.repair == "move its pods away, then: ciliumipam delete node m, and apply it again"


@pytest.mark.parametrize(
    ("key", "index", "space"),
    [(BLOCKS, 12, "tenant-b"), (Key("block-page", "tenant-b@10.0.0.0/18"), 12, "default"), (Key("address-page", "tenant-b@10.0.0.0/24"), 12, "default")],
)
def test_a_holding_that_names_another_space_than_its_page_is_found(spaces: MemoryStore, key: Key, index: int, space: str) -> None:
    is_block = key.kind == "block-page"
    network, length = ((10 << 24) + (3 << 8), 24) if is_block else ((10 << 24) + 12, 32)
    stray = Holding(4, network, length, 60, "q", "", 1.0, space)
    put_slots(spaces, key, dict.fromkeys(range(12, 16), stray) if is_block else {12: stray})

    found = [each.what for each in audit(spaces).findings if each.where == str(key)]

    assert found == [f"{stray.piece} held by 'q' (fence 60) says that it is in the address space {space!r}, which its page is not of"]


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("block-page", "@10.0.0.0/18", "what stands before the @ is not the name of an address space"),
        ("block-page", "default@10.0.0.0/18", "not in the one spelling"),
        ("block-page", "tenant-b@10.0.0.0/17", "no page of blocks begins at that length"),
        ("block-page", "tenant-b@nonsense", "write address/length"),
        ("address-page", "tenant-b@10.0.0.0/24+tenant-b@10.0.0.0/26", "not the name of an address space"),
        ("address-page", "10.0.0.0/20+tenant-b@10.0.0.0/24", "not the name of an address space"),
        ("address-page", "default@10.0.0.0/24", "not in the one spelling"),
    ],
)
def test_a_key_that_nobody_looks_for_in_an_address_space_is_found(spaces: MemoryStore, kind: Kind, name: str, why: str) -> None:
    spaces.put(Key(kind, name), Page(1, 0, (0,) * 256), expect=ABSENT)

    ((where, what),) = errors(spaces)

    assert where == f"{kind} {name}"
    assert why in what


def test_what_is_lost_in_one_address_space_is_found_there(spaces: MemoryStore) -> None:
    fence = held(spaces, Key("address-page", "tenant-b@10.0.0.0/24"), 1).fence
    lose(spaces, claims_key("far", "x"))
    lose(spaces, Key("block-page", "tenant-b@fd00::/58"))

    found = {each.where: each for each in audit(spaces).findings if each.severity == "error"}

    assert found["address 10.0.0.1"].what == f"owner 'x' on node far holds it (fence {fence}), but no claim names it"
    assert found["address 10.0.0.1"].repair == (
        "ciliumipam check --repair, which names it again, or if the owner no longer uses it:"
        f" ciliumipam release --address 10.0.0.1 --fence {fence} --space tenant-b"
    )
    assert "does not count" in found["address-page tenant-b@fd00::/64+fd00::/120"].what
    assert "address fd00::1" not in found


def test_pools_overlap_within_one_address_space_only(spaces: MemoryStore) -> None:
    spaces.put(Key("pool", "late"), PoolRecord(PoolSpec(name="late", cidrs=["10.0.5.0/24"], selector=EVERY, address_space="tenant-b"), NOW + 5), expect=ABSENT)

    assert notices(spaces) == [
        ("pool late", "it overlaps the older pool 'there', so it serves nobody", "change its CIDRs and apply it again, or: ciliumipam delete pool late")
    ]


def test_a_pool_that_moved_to_another_address_space_leaves_orphans(spaces: MemoryStore) -> None:
    change(spaces, Key("pool", "there"), lambda record: record._replace(spec=PoolSpec(name="there", cidrs=THERE.cidrs, selector=THERE.selector, address_space="c")))

    assert notices(spaces)[0] == (
        "block 10.0.0.0/24",
        "an orphan: its pool 'there' is in the address space 'c' now, and it is in 'tenant-b', so it gives out no new addresses",
        "apply the pool with a CIDR that covers it, or to move the node, with another pool that selects it: ciliumipam migrate far --to POOL",
    )


# ------------------------------------------------------------------------------------------------------- cooling


@pytest.mark.parametrize("lengths", [(24, 64), (26, 120), (32, 128), (20, 61)])
def test_what_cools_is_free_and_sound(lengths: tuple[int, int]) -> None:
    now = [NOW]
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: now[0])
    spec = {"cidrs": ["10.0.0.0/18", "fd00::/56"], "selector": EVERY, "allow_first": True, "allow_last": True, "address_space": "tenant-b"}
    for v4, v6 in (lengths, (22, 62), lengths):
        pool = PoolSpec(name="p", block_length_v4=v4, block_length_v6=v6, reuse_delay=60, **spec)  # type: ignore[arg-type]  # as written above
        ipam.apply([pool], [Node("m"), Node("n")])
        ipam.allocate("m", "x")
        assert audit(store, clock=lambda: now[0]).findings == ()
        ipam.release("m", "x")
        ipam.remove_node("m")
        ipam.remove_node("n")
        cooling = [slot for kind in ("block-page", "address-page") for _, entry in store.scan(kind).entries for slot in entry.record.slots if isinstance(slot, Cooling)]  # type: ignore[union-attr]  # these are pages
        assert cooling
        assert audit(store, clock=lambda: now[0]).findings == ()
        now[0] += 61


def test_what_cools_keeps_its_fence_like_a_free_slot(store: MemoryStore) -> None:
    key = Key("address-page", "10.0.0.0/24")
    fence = held(store, BLOCKS, 0).fence
    Ipam(store).remove_node("m", force=True)

    put_slots(store, BLOCKS, dict.fromkeys(range(4), Cooling(fence + 1, NOW)))
    assert errors(store) == []
    put_slots(store, BLOCKS, dict.fromkeys(range(4), Cooling(fence - 1, NOW)))

    assert [what.partition(",")[2] for where, what in errors(store) if where == str(key)] == [
        f" but the slot above it never had a later one than {fence - 1}: it was lost or rolled back"
    ]


@pytest.mark.parametrize(("until", "wrong"), [(NOW - 5, False), (NOW + 315_360_000, False), (NOW + 315_360_001, True), (1e300, True)])
def test_what_cools_for_more_than_ten_years_is_noticed(spaces: MemoryStore, until: float, wrong: bool) -> None:
    put_slots(spaces, Key("address-page", "tenant-b@10.0.0.0/24"), {7: Cooling(6, until), 8: Cooling(6, NOW)})
    put_slots(spaces, BLOCKS, {70: Cooling(5, until), 71: Cooling(5, until)})

    when = "2033-11-11 22:13:21 UTC" if until < 1e300 else "second 1e+300 of 1970"
    assert notices(spaces) == wrong * [
        (
            "address-page tenant-b@10.0.0.0/24",
            f"a slot cools until {when}, which is more than ten years from now: a clock was wrong when it was released",
            ("set the clocks of all writers right, and to use it before: ciliumipam drain block 10.0.0.0/24 --space tenant-b,"
            " which gives it back once it is empty"),
        ),
        (
            str(BLOCKS),
            f"2 slots cool until {when}, which is more than ten years from now: a clock was wrong when it was released",
            "set the clocks of all writers right",
        ),
    ]


# ------------------------------------------------------------------------------------------------ several blocks


def several(most: int | None = None) -> PoolSpec:
    return PoolSpec(name="p", cidrs=["10.0.0.0/16", "fd00::/60"], selector=EVERY, blocks_per_node=2, max_blocks_per_node=most)


def test_several_blocks_of_a_node_are_sound_and_too_many_are_noticed() -> None:
    store = MemoryStore()
    ipam = Ipam(store)
    ipam.apply([several()], [Node("m")])
    ipam.grow("m", 3)
    assert notices(store) == []

    ipam.apply([several(2)])

    assert notices(store) == [
        ("node m", f"it holds 3 IPv{family} blocks of pool 'p' ({blocks}), which gives a node at most 2", f"to take one back: ciliumipam drain block {last}")
        for family, blocks, last in (
            (4, "10.0.0.0/24, 10.0.1.0/24, 10.0.2.0/24", "10.0.2.0/24"),
            (6, "fd00::/64, fd00:0:0:1::/64, fd00:0:0:2::/64", "fd00:0:0:2::/64"),
        )
    ]
    ipam.drain("block", "10.0.2.0/24")  # and that is so
    ipam.drain("block", "fd00:0:0:2::/64")
    assert notices(store) == []


def test_a_node_with_fewer_blocks_than_its_pool_gives_is_noticed() -> None:
    store = MemoryStore()
    ipam = Ipam(store)
    ipam.apply([PoolSpec(name="p", cidrs=POOL.cidrs, selector=EVERY)], [Node("m")])
    change(store, Key("pool", "p"), lambda record: record._replace(spec=several()))

    assert [(where, what) for where, what, _ in notices(store)] == [("node m", "it holds 1 of 2 IPv4 blocks"), ("node m", "it holds 1 of 2 IPv6 blocks")]


# ------------------------------------------------------------------------------------------------------ draining


def test_a_pool_that_drains_is_noticed_with_what_keeps_it_until_it_has_drained() -> None:
    times = iter(range(1_700_000_000, 1_800_000_000, 60))
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: next(times))
    ipam.apply([PoolSpec(name="old", cidrs=["10.0.0.0/16"], selector=EVERY, priority=1), PoolSpec(name="new", cidrs=["10.1.0.0/16"], selector=EVERY)], [Node("m"), Node("n")])
    ipam.allocate("n", "first", label="default/web")
    ipam.allocate("m", "second")
    ipam.drain("pool", "old")

    assert notices(store) == [
        (
            "pool old",
            ("it drains, and 2 blocks are still held; 2 addresses are in use, the oldest 10.0.1.1 by 'first' (default/web) on node n"
            " since 2023-11-14 22:14:20 UTC"),
            "ciliumipam drain pool old goes on",
        )
    ]
    ipam.release("n", "first")
    ipam.drain("pool", "old")
    assert notices(store)[0][1] == "it drains, and block 10.0.0.0/24 is still held; 1 address is in use, the oldest 10.0.0.1 by 'second' on node m since 2023-11-14 22:15:20 UTC"
    ipam.release("m", "second")
    assert notices(store)[0][1] == "it drains, and block 10.0.0.0/24 is still held; it drains and is empty"
    ipam.drain("pool", "old")
    assert notices(store) == [("pool old", "it drains, and no node holds a block of it any more", "ciliumipam delete pool old")]
    ipam.remove_pool("old")
    assert notices(store) == []


def test_a_node_that_drains_is_noticed_until_it_is_deleted(spaces: MemoryStore) -> None:
    ipam = Ipam(spaces, clock=lambda: NOW)
    ipam.drain("node", "far")

    ((where, what, repair),) = notices(spaces)
    assert (where, repair) == ("node far", "ciliumipam drain node far goes on")
    assert what == "it drains, and 2 blocks are still held; 2 addresses are in use, the oldest 10.0.0.1 by 'x' on node far since 2023-11-14 22:13:20 UTC"
    ipam.release("far", "x")
    ipam.drain("node", "far")
    assert notices(spaces) == [("node far", "it drains, and holds nothing any more", "ciliumipam delete node far")]
    ipam.remove_node("far")
    assert notices(spaces) == []


def test_a_block_that_drains_is_noticed_in_its_address_space(spaces: MemoryStore) -> None:
    ipam = Ipam(spaces, clock=lambda: NOW)
    ipam.drain("block", "10.0.0.0/24", space="tenant-b")

    assert notices(spaces) == [
        (
            "block 10.0.0.0/24",
            "node far holds it; 1 address is in use, the oldest 10.0.0.1 by 'x' on node far since 2023-11-14 22:13:20 UTC",
            "ciliumipam drain block 10.0.0.0/24 --space tenant-b goes on",
        )
    ]
    ipam.release("far", "x")
    assert notices(spaces)[0][1] == "node far holds it; it drains and is empty"
    ipam.drain("block", "10.0.0.0/24", space="tenant-b")
    assert notices(spaces) == []


def test_a_mark_of_what_no_claim_names_is_found(spaces: MemoryStore) -> None:
    block = held(spaces, BLOCKS, 0)
    put_claims(spaces, claims_key("m"), {}, draining=frozenset({block._replace(fence=99)}))

    assert errors(spaces) == [(str(claims_key("m")), "10.0.0.0/24 of 'm' (fence 99) is marked as draining, but no claim names it")]


def test_a_node_whose_only_block_drains_without_another_is_noticed_as_such() -> None:
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: NOW)
    ipam.apply([PoolSpec(name="p", cidrs=["10.0.0.0/24", "fd00::/60"], selector=EVERY)], [Node("m")])
    ipam.drain("block", "10.0.0.0/24")

    assert [(where, what) for where, what, _ in notices(store)] == [
        ("block 10.0.0.0/24", "node m holds it; it drains and is empty"),
        ("node m", "it holds no IPv4 block but such as drain"),
    ]


# ------------------------------------------------------------------------------------------------- moving and strays


def test_a_stray_that_was_adopted_is_an_orphan_of_no_pool_and_the_way_out_is_told() -> None:
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: NOW)
    ipam.apply([HERE], [Node("m")], [ExistingBlock("m", parse_prefix("192.168.0.0/24"))])

    assert notices(store) == [
        (
            "block 192.168.0.0/24",
            "an orphan: it was adopted as it is, and is of no pool, so it gives out no new addresses",
            "to move the node: ciliumipam migrate m --to here",
        )
    ]
    ipam.migrate("m", "here")
    assert notices(store) == []


def test_a_node_is_told_to_move_to_the_pool_that_would_serve_it_now() -> None:
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: NOW)
    pools = [PoolSpec(name=name, cidrs=[f"10.{at}.0.0/16"], selector=NodeSelector.parse(f"zone={name}"), priority=at) for at, name in enumerate("abc")]
    every = [PoolSpec(name=f"any{at}", cidrs=[f"10.{at}.0.0/16"], selector=EVERY, priority=-at) for at in (7, 8)]
    ipam.apply([*pools, *every], [Node("m", {"zone": "a"})])
    for zone, wanted in (("b", "b"), ("c", "c"), ("d", "any7")):
        ipam.apply(nodes=[Node("m", {"zone": zone})])
        assert notices(store) == [
            (
                "block 10.0.0.0/24",
                f"node m keeps it, although pool 'a' no longer selects the node: zone in (a) but the node has {zone}",
                f"to move the node: ciliumipam migrate m --to {wanted}",
            )
        ]
    ipam.migrate("m", "any7")  # and that is so
    assert notices(store) == []


def test_an_orphan_of_a_pool_that_shrank_goes_back_by_draining_it() -> None:
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: NOW)
    ipam.apply([PoolSpec(name="p", cidrs=["10.0.0.0/16"], selector=EVERY)], [Node("m")])
    ipam.apply([PoolSpec(name="p", cidrs=["10.0.1.0/24"], selector=EVERY)])

    assert notices(store)[0][2] == "apply the pool with a CIDR that covers it, or to move the node off it: ciliumipam drain block 10.0.0.0/24"
    ipam.drain("block", "10.0.0.0/24")
    assert notices(store) == []
    assert [str(block.prefix) for block in ipam.blocks()] == ["10.0.1.0/24"]


# ------------------------------------------------------------------------------------------------ too small pools

SMALL = {"cidrs": ["10.0.0.0/24"], "block_length_v4": 26}


@pytest.mark.parametrize(
    ("pools", "nodes", "found"),
    [
        pytest.param([PoolSpec(name="p", selector=EVERY, **SMALL)], 4, {}, id="just-enough"),  # type: ignore[arg-type]  # as written above
        pytest.param(
            [PoolSpec(name="p", selector=EVERY, **SMALL)],  # type: ignore[arg-type]  # the same
            5,
            {"p": "it makes 4 IPv4 blocks, but 5 nodes are or want to be served by it"},
            id="one-too-few",
        ),
        pytest.param(
            [PoolSpec(name="p", selector=EVERY, blocks_per_node=2, **SMALL)],  # type: ignore[arg-type]  # the same
            3,
            {"p": "it makes 4 IPv4 blocks, but 3 nodes are or want to be served by it, 2 blocks each"},
            id="two-each",
        ),
        pytest.param(
            [PoolSpec(name="p", selector=EVERY, overflow=True, **SMALL), PoolSpec(name="q", cidrs=["10.1.0.0/24"], block_length_v4=25, selector=EVERY, priority=-1)],  # type: ignore[arg-type]  # the same
            6,
            {},
            id="what-flows-over-fits-into-the-next",
        ),
        pytest.param(
            [PoolSpec(name="p", selector=EVERY, overflow=True, **SMALL), PoolSpec(name="q", cidrs=["10.1.0.0/24"], block_length_v4=25, selector=EVERY, priority=-1)],  # type: ignore[arg-type]  # the same
            7,
            {"q": "it makes 2 IPv4 blocks, but 3 nodes are or want to be served by it"},
            id="what-flows-over-does-not-fit",
        ),
        pytest.param(
            [PoolSpec(name="p", selector=EVERY, **SMALL), PoolSpec(name="q", cidrs=["10.1.0.0/16"], selector=EVERY, priority=-1)],  # type: ignore[arg-type]  # the same
            5,
            {"p": "it makes 4 IPv4 blocks, but 5 nodes are or want to be served by it"},
            id="without-overflow-the-first-is-the-only-one",
        ),
        pytest.param(
            [PoolSpec(name="p", selector=EVERY, draining=True, priority=1, **SMALL), PoolSpec(name="q", cidrs=["10.1.0.0/24"], block_length_v4=26, selector=EVERY)],  # type: ignore[arg-type]  # the same
            5,
            {
                "p": "it drains, and no node holds a block of it any more",
                "q": "it makes 4 IPv4 blocks, but 5 nodes are or want to be served by it",
            },
            id="one-that-drains-is-passed-over",
        ),
        pytest.param(
            [PoolSpec(name="p", selector=EVERY, block_lengths=[BlockLengths(NodeSelector.parse("dense"), v4=25)], **SMALL)],  # type: ignore[arg-type]  # the same
            4,
            {},
            id="lengths-by-selector-of-nobody",
        ),
        pytest.param(
            [PoolSpec(name="p", selector=EVERY, block_lengths=[BlockLengths(NodeSelector.parse("last"), v4=25)], **SMALL)],  # type: ignore[arg-type]  # the same
            4,
            {"p": "it has 256 IPv4 addresses in blocks, but 4 nodes are or want to be served by it and need 320 at least"},
            id="one-dense-node",
        ),
        pytest.param(
            [
                PoolSpec(
                    name="terms",
                    selector=NodeSelector.from_terms(
                        [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [f"n{at}"]}]} for at in range(5)]
                    ),
                    **SMALL,  # type: ignore[arg-type]  # the same
                ),
                PoolSpec(name="q", cidrs=["10.1.0.0/24"], block_length_v4=26, selector=EVERY),
            ],
            10,
            {
                "q": "it makes 4 IPv4 blocks, but 5 nodes are or want to be served by it",
                "terms": "it makes 4 IPv4 blocks, but 5 nodes are or want to be served by it",
            },
            id="terms-with-names",
        ),
    ],
)  # fmt: skip
def test_a_pool_that_is_too_small_is_noticed_as_nodes_are_served(pools: list[PoolSpec], nodes: int, found: dict[str, str]) -> None:
    store = MemoryStore()
    Ipam(store, clock=lambda: NOW).apply(pools, [Node(f"n{at}", {"last": ""} if at == nodes - 1 else {}) for at in range(nodes)])

    assert {where.removeprefix("pool "): what for where, what, _ in notices(store) if where.startswith("pool")} == found


def test_every_command_in_the_repairs_is_one_of_ours() -> None:
    """Each of them is tried above, through the library."""
    texts = [path.read_text("utf-8") for path in sorted(Path(ciliumipam.audit.__file__).parent.glob("*.py"))]
    commands = {found for text in texts for found in re.findall(r"ciliumipam ((?:check --repair|delete|drain|migrate|[a-z]+))", text)}

    assert commands == {"agent", "allocate", "check --repair", "delete", "drain", "explain", "migrate", "release"}
