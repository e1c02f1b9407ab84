"""Showing what changes: everything once, then each item that is new, changed or gone, until somebody interrupts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Literal, TypeAlias, TypeVar

from ciliumipam.cli import codes
from ciliumipam.cli.style import Style, write_document
from ciliumipam.cli.tables import Listed, layout

T = TypeVar("T")
Event: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED"]

wait: Callable[[float], None] = time.sleep
"""How the time between two looks passes."""


def watch(style: Style, listed: Listed[T], look: Callable[[], Iterable[T]], seconds: float) -> int:
    """Print items as they change, for ever.

    Args:
        style: How to print.
        listed: The kind.
        look: Everything that there is now.
        seconds: Time between two looks.

    Returns:
        The exit code of an interrupt, which is the only end.
    """
    show = _Shower(style, listed)
    known: dict[tuple[str, ...], T] = {}
    try:
        while True:
            now = {_identity(listed, item): item for item in look()}
            events: list[tuple[Event, T]] = [
                ("MODIFIED" if key in known else "ADDED", item) for key, item in now.items() if known.get(key) != item
            ]
            events += [("DELETED", item) for key, item in known.items() if key not in now]
            show(events)
            known = now
            wait(seconds)
    except KeyboardInterrupt:
        return codes.INTERRUPTED


def _identity(listed: Listed[T], item: T) -> tuple[str, ...]:
    """The name, and what tells two items of one name apart."""
    value = listed.value(item)
    return (listed.name(item), *(str(value[field]) for field in ("space", "node", "block", "owner") if field in value))


class _Shower(Generic[T]):
    """Prints events, in a table whose columns stay where they were at first."""

    def __init__(self, style: Style, listed: Listed[T]) -> None:
        self._style, self._listed = style, listed
        self._starts: list[int] = []

    def __call__(self, events: Sequence[tuple[Event, T]]) -> None:
        style = self._style
        if style.is_document:
            for event, item in events:
                write_document(style, {"type": event, "object": self._listed.value(item)}, line=True)
        elif style.name == "name":
            for _, item in events:
                print(self._listed.full_name(item))
        elif events:
            self._table([[event, *self._listed.cells(style, item)] for event, item in events])
        sys.stdout.flush()

    def _table(self, rows: Sequence[Sequence[str]]) -> None:
        head = ["EVENT", *self._listed.head(self._style)]
        if not self._starts:
            text = layout(head, [*rows, ["MODIFIED", *[""] * (len(head) - 1)]])
            lines = text.splitlines()
            at = 0
            for name in head:
                at = lines[0].index(name, at)
                self._starts.append(at)
                at += len(name)
            print("\n".join(lines[:-1]))
            return
        for row in rows:
            line = ""
            for start, cell in zip(self._starts, row, strict=True):
                line = f"{line:<{start}}" if len(line) < start else f"{line}  " if line else ""
                line += cell
            print(line.rstrip())
