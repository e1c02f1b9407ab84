"""What a plan would change, or what was changed, line by line with a sign, and summed up in the last line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from ciliumipam import Applied, Change, Refusal
from ciliumipam.cli.text import Colour, paint, plain
from ciliumipam.cli.values import moment
from ciliumipam.requests import Blocker


class _Sign(NamedTuple):
    """How an action is shown, and the words that count it before and after."""

    sign: str
    colour: Colour
    planned: str
    done: str


_ADD = _Sign("+", "green", "to add", "added")
_CHANGE = _Sign("~", "yellow", "to change", "changed")
_REMOVE = _Sign("-", "red", "to remove", "removed")
_DRAIN = _Sign(">", "cyan", "to drain", "draining")
_ORPHAN = _Sign("!", "magenta", "orphaned", "orphaned")
_REFUSED = _Sign("x", "red", "refused", "refused")
_BLOCKED = _Sign("=", "yellow", "blocked", "blocked")
_CONFLICT = _Sign("?", "red", "in conflict", "in conflict")
_SIGNS: Mapping[str, _Sign] = {
    "add": _ADD,
    "carve": _ADD,
    "adopt": _ADD,
    "allocate": _ADD,
    "change": _CHANGE,
    "repair": _CHANGE,
    "remove": _REMOVE,
    "give back": _REMOVE,
    "release": _REMOVE,
    "drain": _DRAIN,
    "orphan": _ORPHAN,
}
_ALWAYS = (_ADD, _CHANGE, _REMOVE)


def write_diff(outcome: Applied, tense: Literal["Plan", "Done"]) -> None:
    """Print what a request comes to."""
    counts = dict.fromkeys((*_ALWAYS, _DRAIN, _ORPHAN, _CONFLICT, _REFUSED, _BLOCKED), 0)
    kinds = max((len(change.kind) for change in outcome.changes), default=0)
    names = max((len(plain(change.name)) for change in outcome.changes), default=0)
    for change in outcome.changes:
        sign = _SIGNS[change.action]
        counts[sign] += 1
        _line(sign, f"{change.kind:<{kinds}}  {_padded(change, names)}")
    for conflict in outcome.conflicts:
        counts[_CONFLICT] += 1
        _line(_CONFLICT, str(conflict))
    for node, refusals in _by_node(outcome.refusals).items():
        counts[_REFUSED] += 1
        _line(_REFUSED, f"node {node} is refused by")
        for refusal in refusals:
            print(paint(f"      {plain(str(refusal))}", _REFUSED.colour))
    for blocker in outcome.blockers:
        counts[_BLOCKED] += 1
        _line(_BLOCKED, _blocked(blocker))
    words = [
        f"{count} {sign.planned if tense == 'Plan' else sign.done}" for sign, count in counts.items() if count or sign in _ALWAYS
    ]
    print(f"{tense}: {', '.join(words)}")


def _padded(change: Change, width: int) -> str:
    name = plain(change.name)
    return f"{name:<{width}}  {change.detail}" if change.detail else name


def _line(sign: _Sign, text: str) -> None:
    print(paint(f"  {sign.sign} {plain(text)}", sign.colour))


def _by_node(refusals: Iterable[Refusal]) -> dict[str, list[Refusal]]:
    found: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        found.setdefault(refusal.node, []).append(refusal)
    return found


def _blocked(blocker: Blocker) -> str:
    if blocker.address is None:
        return str(blocker)
    label = f" ({blocker.label})" if blocker.label else ""
    return f"block {blocker.block} of node {blocker.node}: {blocker.address} is held by {blocker.owner}{label} since {moment(blocker.since)}"
