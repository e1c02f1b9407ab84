"""How far long work is, in one line of a terminal that goes away again; nothing at all elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from ciliumipam.cli.text import is_terminal, plain

_ERASE = "\r\x1b[K"


class Progress:
    """A line on standard error while a `with` block runs."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self._shows = is_terminal(sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._show("")

    def tell(self, text: str) -> None:
        """Show what is being done."""
        self._show(f"{plain(text)} ...")

    def count(self, done: int, total: int, what: str = "records") -> None:
        """Show how much of it is done."""
        self._show(f"{done} of {total} {what}, {100 * done // max(total, 1)}%")

    def _show(self, text: str) -> None:
        if self._shows:
            print(_ERASE + text, end="", file=sys.stderr, flush=True)
