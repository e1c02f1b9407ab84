"""Ledger records that cannot be read: nothing is decided about what they may say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ciliumipam import Ipam, Node, NodeSelector, PoolSpec
from ciliumipam.errors import UnsupportedVersionError
from ciliumipam.kubernetes.sealed import NOBODY, Unreadable, ledger_of
from ciliumipam.records import KINDS, Entry, Key, Revision
from ciliumipam.store import ABSENT
from ciliumipam.store.memory import MemoryStore

NEWER = UnsupportedVersionError("the record", "2", "1")
POOLS = [
    PoolSpec(name="wide", cidrs=["10.0.0.0/9"], selector=NodeSelector.parse("size=wide"), block_length_v4=17),
    PoolSpec(name="slim", cidrs=["10.128.0.0/22", "fd00::/48"], selector=NodeSelector.everything(), block_length_v4=26),
    PoolSpec(name="far", cidrs=["10.128.0.0/22"], selector=NodeSelector.parse("far"), address_space="other", priority=1),
]
SIZES = st.lists(st.sampled_from([{"size": "wide"}, {}, {"far": "yes"}]), min_size=1, max_size=5)


@given(SIZES, SIZES, st.data())
def test_nothing_is_given_or_taken_that_an_unreadable_record_may_be_about(
    before: list[dict[str, str]], after: list[dict[str, str]], data: st.DataObject
) -> None:
    first = MemoryStore()
    old = [Node(f"old-{number}", labels) for number, labels in enumerate(before)]
    Ipam(first, identity="first").apply(POOLS, old)
    records = [item for kind in KINDS for item in first.scan(kind).entries if kind not in ("pool", "node")]
    linked = [key for key, _ in records if key.kind in ("block-page", "block-claims")]
    bad = data.draw(st.sets(st.sampled_from(linked), min_size=1, max_size=3)) if linked else set()
    held = Ipam(first).held()

    ledger = ledger_of((key, Unreadable(NEWER, entry.revision) if key in bad else entry) for key, entry in records)

    second = MemoryStore()
    for key, entry in sorted(ledger.entries.items()):
        second.put(key, entry.record, expect=ABSENT)
    known = [node for node in old if not ledger.why_sealed(node.name)]
    new = [Node(f"new-{number}", labels) for number, labels in enumerate(after)]
    decides = Ipam(second, identity="second")
    decides.apply(POOLS, [*known, *(node for node in new if not ledger.why_sealed(node.name))])
    found = decides.held()
    for node in known:
        assert found.get(node.name, ()) == held.get(node.name, ()), "a node that nobody sealed keeps what it has"
    mine = [block for name, blocks in found.items() if name.startswith("new") for block in blocks]
    for block in mine:
        for other in (each for blocks in held.values() for each in blocks):
            assert block.space != other.space or not block.prefix.overlaps(other.prefix)
    for key in bad:
        assert ledger.unreadable[key] is NEWER
        stand_in = ledger.entries.get(key)
        assert stand_in is None or second.get(key) == Entry(stand_in.record, second.get(key).revision), "it is never written over"  # type: ignore[union-attr]  # it was put


def test_who_is_sealed_and_why() -> None:
    claims = Key("address-claims", "a/1f")
    assert ledger_of([]).why_sealed("a") == ""
    ledger = ledger_of([(claims, Unreadable(NEWER, Revision("7"))), (Key("node", "b"), Unreadable(NEWER, Revision("8")))])
    assert ledger.why_sealed("a") == "the record has format 2, this version reads up to 1; use a newer ciliumipam"
    assert ledger.why_sealed("b") != ""
    assert ledger.why_sealed("c") == ""
    assert ledger.why_sealed(NOBODY) != ""


def test_nothing_is_carved_around_a_page_that_can_be_read_below_one_that_cannot() -> None:
    first = MemoryStore()
    Ipam(first, identity="first").apply(POOLS, [Node("old", {})])
    records = [item for kind in ("block-page", "block-claims") for item in first.scan(kind).entries]
    bad = Key("block-page", "fd00::/50")
    ledger = ledger_of((key, Unreadable(NEWER, entry.revision) if key == bad else entry) for key, entry in records)
    second = MemoryStore()
    for key, entry in sorted(ledger.entries.items()):
        second.put(key, entry.record, expect=ABSENT)
    ipam = Ipam(second, identity="second")

    ipam.apply(POOLS, [Node("new", {})])

    assert [str(block.prefix) for block in ipam.held()["new"]] == ["10.128.0.64/26", "fd00:0:0:4000::/64"]
