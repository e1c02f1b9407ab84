"""Files to plain values: YAML and JSON, several documents, directories. What the values mean is decided in `manifest`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, NoReturn

from ciliumipam.errors import InvalidManifestError

MAX_BYTES = 16 * 1024 * 1024
MAX_PLAN_BYTES = 512 * 1024 * 1024
SUFFIXES = (".json", ".yaml", ".yml")


def read_documents(argument: str, most: int | None = None) -> Iterator[tuple[str, object]]:
    """Every document behind one `-f` argument, each with where it stands: "file", or "file:line".

    Args:
        argument: A file, a directory (its manifests by name, not those of directories in it), or "-" for standard input.
        most: Size of a file in bytes; `MAX_BYTES` if not given.

    Raises:
        InvalidManifestError: A file that cannot be read, or does not hold what its name says; the line is named where there is one.
    """
    for path in _files(argument):
        name = "standard input" if path is None else str(path)
        text = _text(name, path, MAX_BYTES if most is None else most)
        found = False
        for source, document in [(name, _json(name, text))] if name.endswith(".json") else _yaml(name, text):
            found = True
            yield source, document
        if not found:
            raise InvalidManifestError(name, "", "it is empty; a manifest has at least apiVersion, kind and metadata")


def _files(argument: str) -> list[Path] | list[None]:
    if argument == "-":
        return [None]
    path = Path(argument)
    if not path.is_dir():
        return [path]
    try:
        found = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES and not entry.name.startswith("."))
    except OSError as error:
        raise InvalidManifestError(argument, "", _reason(error)) from error
    if not found:
        raise InvalidManifestError(argument, "", f"the directory has no manifests (files in {', '.join(SUFFIXES)})")
    return found


def _text(name: str, path: Path | None, most: int) -> str:
    try:
        with path.open("rb") if path else _standard_input() as file:
            content = file.read(most + 1)
    except OSError as error:
        raise InvalidManifestError(name, "", _reason(error)) from error
    if len(content) > most:
        raise InvalidManifestError(name, "", f"it is larger than {most >> 20} MiB; split it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidManifestError(f"{name}:{line}", "", "it is not UTF-8 text, so it is not a manifest") from error


def _standard_input() -> AbstractContextManager[BinaryIO]:
    if sys.stdin is None:
        raise InvalidManifestError("standard input", "", "it is closed")
    return nullcontext(sys.stdin.buffer)


def _reason(error: OSError) -> str:
    return f"it cannot be read: {error.strerror or error}"


def _yaml(name: str, text: str) -> Iterator[tuple[str, object]]:
    from ciliumipam.cli.yaml_input import parse_yaml  # noqa: PLC0415 - PyYAML is optional, and --help must not wait for it

    return parse_yaml(name, text)


def _json(name: str, text: str) -> object:
    def mapping(items: list[tuple[str, object]]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, value in items:
            if key in result:
                reason = f"the key {key!r} stands twice in one object; remove one of the two"
                raise InvalidManifestError(name, "", reason)
            result[key] = value
        return result

    def constant(word: str) -> NoReturn:
        raise InvalidManifestError(name, "", f"{word} is not JSON")

    if not text.strip():
        raise InvalidManifestError(name, "", "it is empty; a manifest has at least apiVersion, kind and metadata")
    try:
        return json.loads(text, object_pairs_hook=mapping, parse_constant=constant)
    except json.JSONDecodeError as error:
        reason = f"it is not JSON: {error.msg} (column {error.colno})"
        raise InvalidManifestError(f"{name}:{error.lineno}", "", reason) from error
    except InvalidManifestError:
        raise
    except ValueError as error:
        raise InvalidManifestError(name, "", "a number in it has more digits than can be read") from error
    except RecursionError:
        raise InvalidManifestError(name, "", "it is nested too deeply to be a manifest") from None
