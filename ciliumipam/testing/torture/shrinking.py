"""Makes a list of steps that breaks a property short and plain, by doing it again and again with parts left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from typing import TypeAlias

from ciliumipam.testing.torture.steps import (
    Allocate,
    Open,
    Release,
    Restart,
    Single,
    Step,
    Together,
    moved,
    name_of_owner,
)

Breaks: TypeAlias = Callable[[Sequence[Step]], bool]
"""Does steps from the beginning, and says whether they break the property."""


def shrink(steps: Sequence[Step], breaks: Breaks) -> list[Step]:
    """Find a shorter list that breaks the same property; none of its steps can be left out.

    Args:
        steps: A list that breaks it, an `Open` first.
        breaks: Tries a list. It may say no when it has had enough: what was found until then is returned.
    """
    found = _smaller_range(_in_turn(list(steps), breaks), breaks)
    while True:
        before = found
        found = _fewer(found, breaks)
        found = _plainer(found, breaks)
        found = _smaller_range(found, breaks)
        if found == before:
            return found


def _in_turn(steps: list[Step], breaks: Breaks) -> list[Step]:
    """No calls at once, where it is not they that break it: what comes out the same every time is shrunk a lot faster."""
    other: list[Step] = []
    for step in steps:
        other += [step.first, step.second] if isinstance(step, Together) else [step]
    return other if len(other) > len(steps) and breaks(other) else steps


def _smaller_range(steps: list[Step], breaks: Breaks) -> list[Step]:
    """In a range of few addresses what needs a full one needs few steps. Those of one or two have rules of their own: not them."""
    opened = steps[0]
    assert isinstance(opened, Open)
    old = opened.network
    for length in range(old.max_prefixlen - 2, max(old.prefixlen, old.max_prefixlen - 8), -1):
        new = ip_network(f"{old.network_address}/{length}")
        other = [moved(step, old, new) for step in steps]
        if breaks(other):
            return other
    return steps


def _fewer(steps: list[Step], breaks: Breaks) -> list[Step]:
    """Leave out runs of steps, long ones first, from the end; the `Open` stays."""
    size = max(len(steps) // 2, 1)
    while True:
        end = len(steps)
        while end > 1:
            start = max(1, end - size)
            shorter = steps[:start] + steps[end:]
            if breaks(shorter):
                steps = shorter
            end = start
        if size == 1:
            return steps
        size //= 2


def _plainer(steps: list[Step], breaks: Breaks) -> list[Step]:
    """Put plainer steps in the place of others: one call for two at once, the first writer, any address, owners named in order."""
    for number in count(1):
        if number >= len(steps):
            break
        for plain in _simpler(steps[number]):
            other = [*steps[:number], *plain, *steps[number + 1 :]]
            if breaks(other):
                steps = other
                break
    renamed = _renamed(steps)
    return renamed if renamed != steps and breaks(renamed) else steps


def _simpler(step: Step) -> Iterator[Sequence[Step]]:
    match step:
        case Together(first, second):
            yield [first]
            yield [second]
            yield [first, second]
            yield [second, first]
            yield from ([Together(one, second)] for one in _plainer_calls(first))
            yield from ([Together(first, two)] for two in _plainer_calls(second) if two.writer)
        case Allocate() | Release():
            yield from ([call] for call in _plainer_calls(step))
        case Open() | Restart():
            pass


def _plainer_calls(call: Single) -> Iterator[Single]:
    if call.address is not None or call.of is not None:
        yield replace(call, address=None, of=None)
    if call.writer:
        yield replace(call, writer=0)


def _renamed(steps: Sequence[Step]) -> list[Step]:
    """The same steps, the owners named a, b, c, ... in the order in which they come."""
    names: dict[str, str] = {}

    def name(owner: str) -> str:
        return names.setdefault(owner, name_of_owner(len(names)))

    def rename(call: Single) -> Single:
        return replace(call, owner=name(call.owner), of=None if call.of is None else name(call.of))

    renamed: list[Step] = []
    for step in steps:
        match step:
            case Allocate() | Release():
                renamed.append(rename(step))
            case Together(first, second):
                renamed.append(Together(rename(first), rename(second)))
            case Open() | Restart():
                renamed.append(step)
    return renamed
