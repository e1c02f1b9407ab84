"""Files to plain values: what is read, and the sentence for everything that is not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam.cli import input as manifests
from ciliumipam.cli import yaml_input
from ciliumipam.cli.input import read_documents
from ciliumipam.cli.yaml_input import parse_yaml
from ciliumipam.errors import InvalidManifestError


def short(value: object) -> str:
    return ascii(value)[:50]


def read(path: Path, content: str | bytes) -> list[tuple[str, object]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(source.removeprefix(f"{path.parent}/"), document) for source, document in read_documents(str(path))]


def refusal(path: Path, content: str | bytes) -> str:
    with pytest.raises(InvalidManifestError) as caught:
        read(path, content)
    return str(caught.value).removeprefix(f"{path.parent}/")


def test_every_document_of_a_file_is_read_with_the_line_where_it_starts(tmp_path: Path) -> None:
    text = "# two\na: 1\n---\n---\nb: [x, {y: null}]\nc: true\n...\n"

    assert read(tmp_path / "m.yaml", text) == [
        ("m.yaml:2", {"a": 1}),
        ("m.yaml:5", {"b": ["x", {"y": None}], "c": True}),
    ]


def test_json_is_read_as_json_and_by_the_yaml_reader_alike(tmp_path: Path) -> None:
    document = {"kind": "List", "items": [{"a": 1, "b": [True, None, "x\u00e9", 2.5]}, {}]}

    assert read(tmp_path / "m.json", json.dumps(document)) == [("m.json", document)]
    assert read(tmp_path / "m.yaml", json.dumps(document)) == [("m.yaml:1", document)]


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    assert read(tmp_path / "m.yaml", b"\xef\xbb\xbfa: b\n") == [("m.yaml:1", {"a": "b"})]
    assert read(tmp_path / "m.json", b'\xef\xbb\xbf{"a": "b"}') == [("m.json", {"a": "b"})]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", True),
        ("no", False),
        ("12", 12),
        ("010", 8),
        ("1:30", 90),
        ("1e3", "1e3"),
        ("1.5", 1.5),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("2024-02-30", "2024-02-30"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("=", "="),
        ("|\n  two\n  lines", "two\nlines\n"),
        ("! [x]", ["x"]),
        ("&anchor x", "x"),
    ],
    ids=short,
)
def test_a_plain_scalar_is_what_yaml_says_but_for_timestamps(tmp_path: Path, text: str, value: object) -> None:
    assert read(tmp_path / "m.yaml", f"key: {text}\n") == [("m.yaml:1", {"key": value})]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "m.yaml: it is empty; a manifest has at least apiVersion, kind and metadata"),
        ("---\n# nothing\n---\n", "m.yaml: it is empty; a manifest has at least apiVersion, kind and metadata"),
        (
            "a: 1\nb:\n  c: 2\n  d: 3\n  c: 4\n",
            "m.yaml:5: the key 'c' stands twice in one mapping; remove one of the two",
        ),
        ("{a: 1, a: 1}", "m.yaml:1: the key 'a' stands twice in one mapping; remove one of the two"),
        ("a: &x [1]\nb: *x\n", "m.yaml:2: aliases (*x) are not read; write the value out"),
        ("a: &x [*x]\n", "m.yaml:1: aliases (*x) are not read; write the value out"),
        ("\n? [a]\n: b\n", "m.yaml:2: a list or a mapping cannot be a key"),
        ("a: b\n<<: {c: d}\n", "m.yaml:2: merge keys (<<) are not read; a manifest holds plain values"),
        (
            "a: !!python/name:os.system ''\n",
            "m.yaml:1: the tag tag:yaml.org,2002:python/name:os.system is not read; a manifest holds plain values",
        ),
        ("a: !!set {b}\n", "m.yaml:1: the tag tag:yaml.org,2002:set is not read; a manifest holds plain values"),
        ("a: !mine [b]\n", "m.yaml:1: the tag !mine is not read; a manifest holds plain values"),
        ("a: !!binary aGk=\n", "m.yaml:1: the tag tag:yaml.org,2002:binary is not read; a manifest holds plain values"),
        ("a: !!int x\n", "m.yaml:1: 'x' cannot be read as int"),
        ("a: !!bool maybe\n", "m.yaml:1: 'maybe' cannot be read as bool"),
        ("a: !!int ''\n", "m.yaml:1: '' cannot be read as int"),
        ("a: " + "9" * 5000, f"m.yaml:1: '{'9' * 40}' cannot be read as int"),
        ("a: 1\n\tb: 2\n", "m.yaml:2: it is not YAML: found a tab character that violates indentation"),
        ("a: 1\nb: [1, 2\n", "m.yaml:3: it is not YAML: did not find expected ',' or ']'"),
        ("a: b: c\n", "m.yaml:1: it is not YAML: mapping values are not allowed in this context"),
        ("a: 1\nb: \x00\n", "m.yaml:2: it has characters that no text has, so it is not a manifest"),
        ("[" * 100_000, "m.yaml:1: it is nested too deeply to be a manifest"),
        ("{a: " * 100_000, "m.yaml:1: it is nested too deeply to be a manifest"),
        ("- " * 100_000, "m.yaml:1: it is nested too deeply to be a manifest"),
    ],
    ids=short,
)
def test_yaml_that_is_not_read_is_told_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    assert refusal(tmp_path / "m.yaml", text) == sentence


def test_a_bomb_of_aliases_is_refused_at_its_first_alias(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))

    assert refusal(tmp_path / "m.yaml", bomb) == "m.yaml:2: aliases (*a) are not read; write the value out"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" \n", "m.json: it is empty; a manifest has at least apiVersion, kind and metadata"),
        ('{"a": 1,\n "b": {"c": 1, "c": 2}}', "m.json: the key 'c' stands twice in one object; remove one of the two"),
        ('{"a":\n}', "m.json:2: it is not JSON: Expecting value (column 1)"),
        ('{"a": 1}\n{"b": 2}', "m.json:2: it is not JSON: Extra data (column 1)"),
        ('{"a": NaN}', "m.json: NaN is not JSON"),
        ("[" * 1_000_000, "m.json: it is nested too deeply to be a manifest"),
        ('{"a": ' + "9" * 5000 + "}", "m.json: a number in it has more digits than can be read"),
    ],
    ids=short,
)
def test_json_that_is_not_read_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    assert refusal(tmp_path / "m.json", text) == sentence


def test_a_file_that_is_not_text_is_told_with_its_line(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "m.yaml", b"a: b\n\x7fELF\xff\xfe")
        == "m.yaml:2: it is not UTF-8 text, so it is not a manifest"
    )


def test_a_file_that_is_too_large_is_refused_and_one_just_below_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "MAX_BYTES", 1 << 20)

    assert read(tmp_path / "m.yaml", "a: b\n" + "#" * ((1 << 20) - 5)) == [("m.yaml:1", {"a": "b"})]
    assert refusal(tmp_path / "m.yaml", "a: b\n" + "#" * ((1 << 20) - 4)) == "m.yaml: it is larger than 1 MiB; split it"


def test_a_directory_is_its_manifests_by_name_and_not_those_below_it(tmp_path: Path) -> None:
    for name in ("c.yml", "a.yaml", "b.json", "notes.txt", ".hidden.yaml"):
        (tmp_path / name).write_text(f'{{"from": "{name}"}}')
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.yaml").write_text("from: d.yaml")

    documents = [document for _, document in read_documents(str(tmp_path))]

    assert documents == [{"from": "a.yaml"}, {"from": "b.json"}, {"from": "c.yml"}]


def test_a_directory_without_manifests_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")

    with pytest.raises(InvalidManifestError) as caught:
        list(read_documents(str(tmp_path)))
    assert str(caught.value) == f"{tmp_path}: the directory has no manifests (files in .json, .yaml, .yml)"


def test_a_file_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        list(read_documents(str(tmp_path / "absent.yaml")))
    assert str(caught.value) == f"{tmp_path}/absent.yaml: it cannot be read: No such file or directory"


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a: 1\n---\nb: 2\n")))

    assert list(read_documents("-")) == [("standard input:1", {"a": 1}), ("standard input:3", {"b": 2})]


def test_standard_input_that_is_closed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)

    with pytest.raises(InvalidManifestError, match="standard input: it is closed"):
        list(read_documents("-"))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="ascii")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN.filter(lambda value: value is not None), st.booleans())
def test_what_pyyaml_writes_is_read_back_equal(value: Any, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow)

    assert list(parse_yaml("m", text)) == [("m:1", value)]


@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("[]{}:,-?&*!|>'\"#%@`~ \nab1<=", max_size=40))
def test_any_text_is_read_or_refused_with_a_sentence(text: str) -> None:
    told, documents = "m:", []
    try:
        documents = list(parse_yaml("m", text))
    except InvalidManifestError as error:
        told = str(error)

    assert told.startswith("m:")
    assert told.isprintable() or not text.isprintable()
    assert all(document is not None for _, document in documents)


def test_both_parsers_of_pyyaml_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: [1, {b: ~}]\n---\n- x\n- on\n"
    documents = list(parse_yaml("m", text))

    monkeypatch.setattr(yaml_input, "_LOADER", yaml.SafeLoader)

    assert list(parse_yaml("m", text)) == documents == [("m:1", {"a": [1, {"b": None}]}), ("m:3", ["x", True])]
