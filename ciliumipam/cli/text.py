"""Sentences for people on standard error, and what may go to a terminal: escapes instead of controls, colour, drawn characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final, Literal, TextIO, TypeAlias

Colour: TypeAlias = Literal["red", "green", "yellow", "magenta", "cyan"]

_CODES: Final[dict[Colour, int]] = {"red": 31, "green": 32, "yellow": 33, "magenta": 35, "cyan": 36}
_SHOWN = 10


def say(text: str) -> None:
    """Print a sentence on standard error."""
    print(f"ciliumipam: {plain(text)}", file=sys.stderr)


def say_some(sentences: Iterable[str]) -> None:
    """Print the first few of many sentences, and how many more there are."""
    listed = list(sentences)
    for sentence in listed[:_SHOWN]:
        say(sentence)
    if len(listed) > _SHOWN:
        say(f"... and {len(listed) - _SHOWN} more")


def plain(text: str) -> str:
    """The text with everything that does not print (line ends, terminal controls, undecodable names) as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at a stream, on something that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: Colour | None) -> str:
    """The text in colour, where standard output is a terminal and NO_COLOR is not set."""
    if colour is None or os.environ.get("NO_COLOR") or not is_terminal(sys.stdout):
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def drawable(characters: str) -> bool:
    """Whether the encoding of standard output has these characters."""
    try:
        characters.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True
