"""Sentences for people, on standard error, so that standard output stays what was asked for."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a sentence on standard error."""
    print(f"ciliumipam: {plain(text)}", file=sys.stderr)


def plain(text: str) -> str:
    """The text with everything that does not print (line ends, terminal controls, undecodable names) as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
