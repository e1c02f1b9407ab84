"""Steps: what the driver does, in a form that replays although the allocator may answer otherwise than the first time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any, Literal, TypeAlias

from ciliumipam.errors import InvalidRequestError
from ciliumipam.testing.torture.protocol import Address, Network


@dataclass(frozen=True)
class Open:
    """Begin anew with a range."""

    network: Network


@dataclass(frozen=True)
class Allocate:
    """An owner asks for an address: any, a given one, or the one that another owner `of` holds, or else held last."""

    owner: str
    address: Address | None = None
    of: str | None = None
    writer: int = 0


@dataclass(frozen=True)
class Release:
    """An owner releases an address: a given one, or the lowest that `of` holds, or else held last; without both, its own."""

    owner: str
    address: Address | None = None
    of: str | None = None
    writer: int = 0


@dataclass(frozen=True)
class Restart:
    """The allocator starts again."""


@dataclass(frozen=True)
class Together:
    """Two calls, each by a writer of its own, at once."""

    first: Allocate | Release
    second: Allocate | Release


Single: TypeAlias = Allocate | Release
Step: TypeAlias = Open | Allocate | Release | Restart | Together


def to_document(step: Step) -> dict[str, Any]:
    """A step as plain values."""
    match step:
        case Open(network):
            return {"do": "open", "network": str(network)}
        case Allocate():
            return {"do": "allocate", **_call(step)}
        case Release():
            return {"do": "release", **_call(step)}
        case Restart():
            return {"do": "restart"}
        case Together(first, second):
            return {"do": "together", "calls": [to_document(first), to_document(second)]}


def _call(call: Single) -> dict[str, Any]:
    fields = {"owner": call.owner, "address": call.address and str(call.address), "of": call.of, "writer": call.writer or None}
    return {name: value for name, value in fields.items() if value is not None}


def from_document(document: Any) -> Step:
    """Read a step.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        match document:
            case {"do": "open", "network": str(network)}:
                return Open(ip_network(network))
            case {"do": "allocate", "owner": str(owner)}:
                return Allocate(owner, _given(document), _of(document), _number(document))
            case {"do": "release", "owner": str(owner)}:
                return Release(owner, _given(document), _of(document), _number(document))
            case {"do": "restart"}:
                return Restart()
            case {"do": "together", "calls": [first, second]}:
                calls = from_document(first), from_document(second)
                if isinstance(calls[0], Allocate | Release) and isinstance(calls[1], Allocate | Release):
                    return Together(calls[0], calls[1])
            case _:
                pass
    except ValueError as error:
        raise InvalidRequestError(f"{json.dumps(document)} is no step: {error}") from error
    raise InvalidRequestError(
        f'{json.dumps(document)} is no step; a step is as {{"do": "allocate", "owner": "a"}}, and may be open, allocate,'
        " release, restart or together"
    )


def _given(document: dict[str, Any]) -> Address | None:
    return None if document.get("address") is None else ip_address(document["address"])


def _of(document: dict[str, Any]) -> str | None:
    of = document.get("of")
    return None if of is None else str(of)


def _number(document: dict[str, Any]) -> Literal[0, 1]:
    match document.get("writer", 0):
        case 0:
            return 0
        case 1:
            return 1
        case other:
            raise ValueError(f"writer is 0 or 1, not {other!r}")


def to_lines(steps: Iterable[Step]) -> list[str]:
    """Steps as lines of JSON."""
    return [json.dumps(to_document(step)) for step in steps]


def read_steps(text: str) -> list[Step]:
    """The steps that a report shows: of its JSON, or of every line that begins with a brace; all other lines are for people.

    Raises:
        InvalidRequestError: There are none, or what is there is no step or does not begin with `open`.
    """
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and "fault" in whole:
        documents: Sequence[Any] = (whole["fault"] or {}).get("steps", ())
    else:
        documents = [_line(number, line) for number, line in enumerate(text.splitlines(), 1) if line.startswith("{")]
    steps = [from_document(each) for each in documents]
    if not steps or not isinstance(steps[0], Open):
        raise InvalidRequestError('there are no steps to replay: they are lines as {"do": ...}, the first one with "open"')
    return steps


def _line(number: int, line: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(line)[0]  # a report has the answer behind it
    except ValueError as error:
        raise InvalidRequestError(f"line {number} begins with a brace and is no JSON: {error}") from error


def moved(step: Step, old: Network, new: Network) -> Step:
    """A step in another range: what is near an end of the one is as near that end of the other."""
    match step:
        case Open():
            return Open(new)
        case Together(first, second):
            return Together(_moved(first, old, new), _moved(second, old, new))
        case Restart():
            return step
        case Allocate() | Release():
            return _moved(step, old, new)


def _moved(call: Single, old: Network, new: Network) -> Single:
    if call.address is None or call.address.version != old.version:
        return call
    number, low, high = int(call.address), int(old.network_address), int(old.broadcast_address)
    near_end = number - low > high - number
    number += int(new.broadcast_address) - high if near_end else int(new.network_address) - low
    return replace(call, address=type(call.address)(min(max(number, 0), 2**old.max_prefixlen - 1)))


def name_of_owner(number: int) -> str:
    """The names a, b, ... z, then a1, b1, ..."""
    letter = chr(ord("a") + number % 26)
    return letter if number < 26 else f"{letter}{number // 26}"
