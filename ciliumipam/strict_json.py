"""Reading a JSON object strictly: a field that is missing, unknown, doubled or of another type is named, and nothing is guessed at.

`codec` stands on it. Where several fields could be wrong, the first one that is asked for is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from json import JSONDecoder, dumps
from math import isfinite
from typing import Any, NoReturn, cast

from ciliumipam.errors import UnsupportedVersionError
from ciliumipam.records import Key

FORMAT = 1
"""The newest format that this version writes and reads; every record carries its own."""


class CorruptError(Exception):
    """Where in a record something is wrong, and what."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CorruptError(f"a field stands twice: {sorted(name for name, _ in pairs)}")
    return found


_decoder = JSONDecoder(object_pairs_hook=_unique)
_decode_object, raw_decode = _decoder.decode, _decoder.raw_decode


def read_object(key: Key, text: str) -> dict[str, Any]:
    """The fields of a record whose format this version reads; the format itself is taken out."""
    try:
        found = _decode_object(text)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"not JSON: {error}") from error
    if type(found) is not dict:
        raise CorruptError("not a JSON object")
    number = natural(found, "format")
    if number > FORMAT:
        raise UnsupportedVersionError(f"record {key}", str(number), str(FORMAT))
    if number < 1:
        raise CorruptError(f"format: {number}, the first one is 1")
    del found["format"]
    return found


def check_fields(found: dict[str, Any], required: Iterable[str], optional: Iterable[str] = (), path: str = "") -> None:
    """All that is required is there, and nothing but that and what is optional."""
    if found.keys() == set(required):
        return
    for name in required:
        if name not in found:
            _missing(path, name)
    unknown = sorted(found.keys() - {*required, *optional})
    if unknown:
        raise CorruptError(f"{path}{unknown[0]}: unknown field")


def _missing(path: str, name: str) -> NoReturn:
    raise CorruptError(f"{path}{name}: missing")


_EXPECTED: dict[type, str] = {int: "a number from 0 on", str: "text", list: "a list", dict: "an object"}


def typed(kind: type[Any], found: dict[str, Any], name: str, path: str = "") -> Any:
    """The field, of exactly this type."""
    if name not in found:
        _missing(path, name)
    value = found[name]
    if type(value) is not kind:
        raise CorruptError(
            f"{path}{name}: expected {_EXPECTED.get(kind, 'true or false')}, found {shortened(dumps(value))}"
        )
    return value


def natural(found: dict[str, Any], name: str, path: str = "") -> int:
    """The field, a number from 0 on."""
    value = cast("int", typed(int, found, name, path))
    if value < 0:
        raise CorruptError(f"{path}{name}: expected {_EXPECTED[int]}, found {value}")
    return value


def texts(found: dict[str, Any], name: str, path: str = "") -> list[str]:
    """The field, a list of texts."""
    values = typed(list, found, name, path)
    for index, value in enumerate(values):
        if type(value) is not str:
            raise CorruptError(f"{path}{name}[{index}]: expected text, found {shortened(dumps(value))}")
    return cast("list[str]", values)


def time_of(found: dict[str, Any], name: str = "since") -> float:
    """The field, a finite number of seconds."""
    seconds = seconds_of(found[name])
    if seconds is None:
        raise CorruptError(f"{name}: expected a finite number, found {shortened(dumps(found[name]))}")
    return seconds


def seconds_of(value: object) -> float | None:
    """A finite float; None for everything else. A whole number is what some API servers make of 1.0."""
    if type(value) is int and abs(value) < 1 << 63:
        return float(value)
    return value if type(value) is float and isfinite(value) else None


def finite(since: float) -> float:
    """The seconds as a float, to be written.

    Raises:
        ValueError: They are not finite.
    """
    if not isfinite(since):
        raise ValueError(f"the time is not finite: {since}")
    return float(since)


def shortened(text: str) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= 80 else text[:80] + "..."
