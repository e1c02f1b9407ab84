"""Records as objects: names that never meet, texts that people read, sizes that fit, and what is refused on the way back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam.codec import Codec
from ciliumipam.errors import CorruptRecordError, StoreRefusedError, UnsupportedVersionError
from ciliumipam.kubernetes.api import WRITE
from ciliumipam.kubernetes.objects import (
    KIND,
    LARGEST_RECORD,
    SINCE,
    key_of,
    object_name,
    pool_record,
    to_entry,
    to_object,
)
from ciliumipam.kubernetes.pool_objects import read_pool
from ciliumipam.names import validate_name
from ciliumipam.records import KINDS, ClaimPage, Entry, Holding, Key, NodeRecord, Page, PoolRecord, Record, Revision
from ciliumipam.strict_json import FORMAT
from ciliumipam.testing.record_strategies import EXAMPLES, TIMES, deep_types, keyed_records, numbered
from ciliumipam.testing.strategies import pools

ETCD = 1_572_864
PAGE = Key("block-page", "10.0.0.0/10")
POOL, NODE, BLOCK_PAGE = (next(each for each in EXAMPLES if each[0].kind == kind) for kind in ("pool", "node", "block-page"))


def as_stored(obj: dict[str, Any], revision: str = "7") -> dict[str, Any]:
    """What an API server returns of an object: JSON, and a whole number where a float was one."""
    stored: dict[str, Any] = json.loads(
        json.dumps(obj), parse_float=lambda text: int(float(text)) if float(text).is_integer() else float(text)
    )
    stored["metadata"] |= {"resourceVersion": revision, "creationTimestamp": "2026-01-02T03:04:05Z", "uid": "u"}
    return stored


# ------------------------------------------------------------------------------------------------------------- names

SHOWN = {
    Key("pool", "green.example.com"): "green.example.com",
    Key("node", "node-1"): "node.node-1",
    Key("block-claims", "0f"): "block-claims.0f",
    PAGE: "block-page.10-0-0-0-10--",
    Key("block-page", "tenant-b@10.0.0.0/10"): "block-page.tenant-b-10-0-0-0-10--",
    Key("address-page", "fd00::/64+fd00::/72"): "address-page.fd00-64-fd00-72--",
    Key("address-claims", "node-1/0f"): "address-claims.node-1-0f--",
    Key("node", ""): "node.x--",
    Key("node", "a--b"): "node.a-b--",
}


@pytest.mark.parametrize("key", SHOWN, ids=repr)
def test_the_name_of_an_object_is_readable(key: Key) -> None:
    name = object_name(key)

    assert re.fullmatch(SHOWN[key] + ("[0-9a-f]{16}" if SHOWN[key].endswith("--") else ""), name)
    assert validate_name("name", name) == name


@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS[1:]), st.text(st.characters(codec="utf-8"), max_size=300) | st.text("ab-./", max_size=6)),
        min_size=2,
        unique=True,
    )
)
def test_distinct_keys_have_distinct_objects_whatever_they_are(pairs: list[tuple[Any, str]]) -> None:
    names = [object_name(Key(kind, name)) for kind, name in pairs]

    assert len(set(names)) == len(names)
    assert [validate_name("name", name) for name in names] == names


@pytest.mark.parametrize(
    "key", [Key("node", "\ud800"), Key("block-page", "x" * 1025), Key("pool", "A"), Key("pool", ""), Key("pool", "a/b")], ids=ascii
)
def test_a_key_that_no_object_can_have_is_refused(key: Key) -> None:
    with pytest.raises(StoreRefusedError):
        object_name(key)


# ------------------------------------------------------------------------------------------------------- there and back


@given(keyed_records())
def test_what_becomes_an_object_is_read_back_equal_in_value_and_type(keyed: tuple[Key, Record]) -> None:
    key, record = keyed
    if isinstance(record, PoolRecord):
        key = Key("pool", record.spec.name)

    found = to_entry(as_stored(to_object(key, record, Codec())), Codec())

    assert found == (key, Entry(record, Revision("7")))
    assert deep_types(found[1].record) == deep_types(record)


def test_a_page_is_text_with_a_slot_on_each_line() -> None:
    key, page = BLOCK_PAGE
    obj = to_object(key, page, Codec())

    assert obj["apiVersion"] == "ciliumipam.io/v1alpha1"
    assert obj["kind"] == "CIDRLedger"
    assert obj["metadata"]["labels"] == {KIND: "block-page"}
    assert {name: obj["spec"][name] for name in ("kind", "name")} == {"kind": "block-page", "name": "10.0.0.0/10"}
    assert obj["spec"]["record"].splitlines()[:4] == [
        '{"format":1,"fence":1,"cursor":4,"slots":[',
        "0,",
        '{"split":2},',
        '["10.0.0.0/22",3,"node-1","green",-1.0],',
    ]


def test_every_write_has_a_token_of_its_own() -> None:
    tokens = {to_object(PAGE, numbered(1), Codec())["metadata"]["annotations"][WRITE] for _ in range(100)}

    assert len(tokens) == 100
    assert all(re.fullmatch(r"[0-9a-f]{32}", token) for token in tokens)


def test_over_a_pool_that_is_there_only_what_is_ours_is_written() -> None:
    key, record = POOL
    theirs = {
        "labels": {"team": "net"},
        "annotations": {"note": "x", WRITE: "old"},
        "finalizers": ["a/b"],
        "managedFields": [{}],
        "resourceVersion": "5",
    }
    present: dict[str, Any] = {"metadata": {"name": "green", **theirs}, "spec": {"cidrs": ["10.9.0.0/16"], "priority": 4}, "status": {"orphans": 1}}

    obj = to_object(key, record, Codec(), present)

    assert obj["spec"] == record.spec.to_dict()  # type: ignore[union-attr] # a pool
    assert obj["metadata"]["labels"] == {"team": "net"}
    assert obj["metadata"]["finalizers"] == ["a/b"]
    assert obj["metadata"]["annotations"] == {"note": "x", SINCE: "1.5", WRITE: obj["metadata"]["annotations"][WRITE]}
    assert obj["metadata"]["annotations"][WRITE] != "old"
    assert obj["status"] == {"orphans": 1}
    assert present["spec"]["priority"] == 4
    assert "managedFields" not in obj["metadata"]


@given(pools(), TIMES)
def test_since_when_a_pool_is_there_is_kept_to_the_last_bit(pool: Any, since: float) -> None:
    obj = as_stored(to_object(Key("pool", pool.name), PoolRecord(pool, since), Codec()))

    assert pool_record(obj).since == since


def test_a_pool_that_kubectl_created_is_there_since_its_creation() -> None:
    obj = as_stored(to_object(*POOL, Codec()))
    del obj["metadata"]["annotations"]

    assert pool_record(obj).since == 1767323045.0


# ------------------------------------------------------------------------------------------------------ what is refused


def with_record(text: str, **metadata: Any) -> dict[str, Any]:
    obj = as_stored(to_object(PAGE, numbered(1), Codec()))
    obj["spec"]["record"] = text
    obj["metadata"] |= metadata
    return obj


def test_a_record_of_a_newer_format_is_refused_and_not_misread() -> None:
    with pytest.raises(UnsupportedVersionError) as caught:
        to_entry(with_record('{"format":2,"fence":1,"cursor":0,"slots":[{"new":1}]}'), Codec())

    assert FORMAT == 1
    assert str(caught.value) == "record block-page 10.0.0.0/10 has format 2, this version reads up to 1; use a newer ciliumipam"


def test_a_copy_of_a_record_is_found_by_its_name() -> None:
    with pytest.raises(CorruptRecordError) as caught:
        key_of(with_record("", name="my-copy"))

    assert str(caught.value).startswith(
        "record cidrledgers my-copy is corrupt: it says that it is block-page 10.0.0.0/10, whose object is"
        f" {object_name(PAGE)}; if it is a copy, delete it: kubectl delete cidrledger my-copy"
    )


@pytest.mark.parametrize("labels", [{}, {KIND: "node"}])
def test_a_record_with_another_label_is_found(labels: dict[str, str]) -> None:
    with pytest.raises(
        CorruptRecordError, match=r"kubectl label --overwrite cidrledger block-page.10-0-0-0-10--\w+ ciliumipam.io/kind=block-page"
    ):
        key_of(with_record("", labels=labels))


@pytest.mark.parametrize("since", ["soon", "nan", "-inf", ""])
def test_a_pool_with_a_time_that_is_none_is_refused(since: str) -> None:
    obj = as_stored(to_object(*POOL, Codec()))
    obj["metadata"]["annotations"][SINCE] = since

    with pytest.raises(CorruptRecordError, match=r"record cidrpools green is corrupt: annotation ciliumipam\.io/since: "):
        pool_record(obj)


def test_a_pool_that_is_no_usable_one_names_the_field() -> None:
    obj = as_stored(to_object(*POOL, Codec()))
    obj["spec"]["cidrs"] = ["10.0.0.1/16"]

    with pytest.raises(CorruptRecordError, match=r"spec\.cidrs\[0\]"):
        pool_record(obj)


@pytest.mark.parametrize(
    ("key", "record", "reason"),
    [
        (Key("pool", "green"), numbered(1), "a Page is not a record of this kind"),
        (Key("pool", "blue"), POOL[1], "the pool is named 'green'"),
        (Key("pool", "green"), POOL[1]._replace(since=float("nan")), "the time is not finite: nan"),  # type: ignore[call-arg] # a pool
        (PAGE, POOL[1], "a PoolRecord is not a record of this kind"),
        (Key("node", "node-1"), NODE[1]._replace(since=float("inf")), "the time is not finite: inf"),  # type: ignore[call-arg] # a node
    ],
    ids=["kind", "name", "since", "other-kind", "node-since"],
)
def test_what_no_object_can_hold_is_refused(key: Key, record: Record, reason: str) -> None:
    with pytest.raises(StoreRefusedError) as caught:
        to_object(key, record, Codec())

    assert reason in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------- size


def largest(kind: str) -> Record:
    """A page of 256 pieces with different holders, all of the longest names that Kubernetes has."""
    names = [f"n-{number:03}-{'n' * 247}" for number in range(256)]
    label = f"{'n' * 63}/{'p' * 253}"
    if kind == "block-page":
        return Page(
            9999, 255, tuple(Holding(4, 0x64400000 + (n << 14), 18, 99999, names[n], "g" * 253, 1732354000.123456) for n in range(256))
        )
    if kind == "address-page":
        return Page(
            9999,
            255,
            tuple(
                Holding(6, 0xFD00_1111_2222_3333_4444_5555_6666_7700 + n, 128, 99999, names[n], label, 1732354000.123456)
                for n in range(256)
            ),
        )
    return ClaimPage(
        {name: (Holding(4, 0x64400000 + (n << 14), 18, 99999, name, "g" * 253, 1732354000.123456),) for n, name in enumerate(names)}
    )


def stored_bytes(kind: Any, record: Record) -> int:
    return len(json.dumps(to_object(Key(kind, "10.0.0.0/10"), record, Codec()), separators=(",", ":")))


def usual(kind: str) -> Record:
    """The same with names as they are."""
    if kind == "address-page":
        owners = [f"cbr0/{n:064x}/eth0" for n in range(256)]
        return Page(
            1,
            255,
            tuple(Holding(4, 0x0A000100 + n, 32, 7, owners[n], f"default/web-6d4cf56db6-x{n:04}", 1732354000.25) for n in range(256)),
        )
    nodes = [f"ip-10-0-{n >> 4}-{n}.eu-west-1.compute.internal" for n in range(256)]
    held = [Holding(4, 0x0A000000 + (n << 8), 24, 3, node, "default-pool", 1732354000.25) for n, node in enumerate(nodes)]
    return ClaimPage({each.holder: (each,) for each in held}) if kind == "block-claims" else Page(1, 255, tuple(held))


def test_a_full_page_has_the_bytes_that_the_documentation_says() -> None:
    told = {
        kind: (stored_bytes(kind, usual(kind)), stored_bytes(kind, largest(kind)))
        for kind in ("block-page", "address-page", "block-claims")
    }

    assert told == {"block-page": (25_833, 144_664), "address-page": (37_885, 167_278), "block-claims": (37_349, 210_719)}
    assert max(most for _, most in told.values()) < ETCD / 4


def test_a_record_that_etcd_would_refuse_is_refused_before_it_is_sent() -> None:
    owner = "\U0001f4a5" * 253  # its JSON is twelve times as long, and is escaped once more
    page = Page(1, 0, tuple(Holding(4, n, 32, 1, owner, owner, 1.0) for n in range(200)))

    with pytest.raises(StoreRefusedError) as caught:
        to_object(PAGE, page, Codec())

    assert re.fullmatch(
        r"store: cannot store block-page 10\.0\.0\.0/10: it has \d{7} bytes, and an object of Kubernetes holds 1400000 at the most;"
        r" use shorter owner ids and labels",
        str(caught.value),
    )
    size = len(json.dumps(to_object(PAGE, Page(1, 0, page.slots[:160]), Codec())["spec"]["record"]))
    assert LARGEST_RECORD * 0.8 < size <= LARGEST_RECORD + 2 < ETCD


def test_a_node_is_one_line() -> None:
    obj = to_object(*NODE, Codec())

    assert isinstance(NODE[1], NodeRecord)
    assert obj["spec"] == {
        "kind": "node",
        "name": "node-1",
        "record": '{"format":1,"name":"node-1","since":0.0,"labels":{"empty":"","rack":"r1"}}',
    }


@pytest.mark.parametrize("since", ["nan", "-inf", "1e999"])
def test_a_pool_that_is_there_since_no_time_is_broken_and_equal_to_itself(since: str) -> None:
    metadata = {"name": "p", "annotations": {"ciliumipam.io/since": since}}
    spec = {"cidrs": ["10.0.0.0/16"], "nodeSelector": {}}
    found = [read_pool({"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": metadata, "spec": spec}) for _ in range(2)]

    assert "is no time" in found[0].problem
    assert (found[0].spec, found[0]) == (None, found[1])
