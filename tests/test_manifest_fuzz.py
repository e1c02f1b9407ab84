"""Whatever stands in a manifest, it is read or refused with a sentence: nothing else is ever raised, and nothing gets lost."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ciliumipam.errors import InvalidManifestError
from ciliumipam.manifest import Manifest, read_manifest
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import ExistingBlock

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

Place = tuple[Any, ...]


def objects() -> Iterator[dict[str, Any]]:
    """Every object of every example, dumps taken apart, and one with all fields of a pool."""
    for file in sorted(EXAMPLES.rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            yield from document.get("items", [document])
    terms = [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["3"]}], "matchFields": []}]
    yield {
        "apiVersion": "ciliumipam.io/v1alpha1",
        "kind": "CIDRPool",
        "metadata": {"name": "green"},
        "spec": {
            "cidrs": ["10.0.0.0/16", "fd00::/48"],
            "nodeSelector": {"nodeSelectorTerms": terms},
            "blockLength": {"ipv4": 24, "ipv6": 64},
            "reserved": ["10.0.0.1-10.0.0.3"],
            "allowFirst": True,
            "allowLast": False,
            "blockLengths": [{"nodeSelector": {"matchLabels": {"a": "b"}}, "ipv4": 20, "ipv6": 60}],
            "priority": 1,
            "addressSpace": "blue",
            "blocksPerNode": 2,
            "maxBlocksPerNode": 3,
            "overflow": True,
            "draining": False,
            "reuseDelaySeconds": 1.5,
            "addressPolicy": "random",
            "seed": 7,
            "carving": "grouped",
            "groupBy": "zone",
        },
    }
    spec = {"node": "node-1", "cidr": "10.0.0.0/24", "pool": "green", "addressSpace": "blue"}
    yield {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRBlock", "metadata": {"name": "x"}, "spec": spec}


OBJECTS = [*objects()]


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """The path of every value inside."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([1 << 2000, -(1 << 2000), float("nan"), float("inf"), 0, 1, 24, 64])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["10.0.0.0/24", "10.0.0.7/24", "fd00::/64", "10.0.0.1", "::/0", "node-1", "all()", "a == 'x'", "2024-05-01T08:00:00Z", "x" * 70, "\0", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers() | st.none(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FIELDS = sorted({str(key) for each in OBJECTS for path in places(each) for key in path if isinstance(key, str)})


def look(document: object) -> Manifest | InvalidManifestError:
    before = copy.deepcopy(document)
    found: Manifest | InvalidManifestError
    try:
        found = read_manifest(document, "x.yaml")
    except InvalidManifestError as error:
        found = error
    if isinstance(found, InvalidManifestError):
        assert found.source == "x.yaml"
        assert found.reason
        assert len(str(found)) < 12_000
    else:
        assert all(isinstance(item, PoolSpec | Node | ExistingBlock) for item in found.items)
        for line in (*found.ignored, *found.refused):
            assert line.startswith("x.yaml: ")
            assert len(line) < 600
    assert [document] == [before], (
        "reading changed the document"
    )  # in lists, as a number that is none equals itself there
    return found


@given(JSON)
def test_any_value_is_read_or_refused(document: object) -> None:
    look(document)


@given(
    st.sampled_from(sorted({(each["apiVersion"], each["kind"]) for each in OBJECTS} | {("v1", "List"), ("cilium.io/v2", "CiliumNodeList")})),
    st.dictionaries(st.sampled_from(["metadata", "spec", "items", "status"]), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5) | JSON, max_size=3),
)  # fmt: skip
def test_any_object_of_a_kind_is_read_or_refused(kind: tuple[str, str], fields: dict[str, Any]) -> None:
    look({"apiVersion": kind[0], "kind": kind[1], "metadata": {"name": "x"}} | fields)


@st.composite
def edited(draw: st.DrawFn) -> dict[str, Any]:
    """One of the objects with up to three values replaced, removed, or put beside others."""
    document: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(OBJECTS)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([place for place in places(document) if place]))
        inner: Any = document
        for key in path[:-1]:
            inner = inner[key]
        match draw(st.sampled_from(["replace", "remove", "rename", "add"])):
            case "remove":
                del inner[path[-1]]
            case "rename" if isinstance(inner, dict):
                inner[draw(st.sampled_from(FIELDS))] = inner.pop(path[-1])
            case "add" if isinstance(inner, dict):
                inner[draw(st.sampled_from(FIELDS) | st.integers() | st.text(max_size=3))] = draw(JSON)
            case _:
                inner[path[-1]] = draw(JSON)
        if not document:
            break
    return document


@given(edited())
@example(OBJECTS[-2] | {"spec": OBJECTS[-2]["spec"] | {"reuseDelaySeconds": 1 << 2000}})
def test_whatever_is_changed_in_a_manifest_it_is_read_or_refused(document: dict[str, Any]) -> None:
    look(document)


@given(edited())
def test_a_broken_object_in_a_list_breaks_the_list_with_the_same_words_and_a_good_one_is_read_the_same(
    document: dict[str, Any],
) -> None:
    alone = look(document)
    listed = look({"apiVersion": "v1", "kind": "List", "items": [document]})

    if isinstance(alone, Manifest):
        assert isinstance(listed, Manifest)
        assert listed.items == alone.items
        assert listed.refused == alone.refused
        assert [line.replace("items[0].", "") for line in listed.ignored] == [*alone.ignored]
    else:
        assert isinstance(listed, InvalidManifestError)
        assert listed.path == ".".join(part for part in ("items[0]", alone.path) if part)


def test_every_object_of_the_examples_is_read() -> None:
    assert len(OBJECTS) > 20
    for each in OBJECTS:
        assert isinstance(look(each), Manifest), each
