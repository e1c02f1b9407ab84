"""What Kubernetes accepts as a name, a label key or a label value, and how a refused value is shown.

`selector`, `pool`, `node` and `manifest` stand on it. The rules are Kubernetes' own (DNS-1123 subdomains, qualified names);
they are checked with full matches over ASCII classes, since `$` lets a trailing newline pass and word characters are more than
Kubernetes' letters. Refused values are shown without ever printing a container or a huge number: a value out of a manifest may be
nested so deep that its text would fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from ciliumipam.errors import InvalidNameError

SUBDOMAIN_RULE = (
    "allowed are lower-case letters, digits, '-' and '.';"
    " every part between dots begins and ends with a letter or digit, as in node-1.example.com"
)
LABEL_TEXT_RULE = "allowed are letters, digits, '-', '_' and '.'; it begins and ends with a letter or digit"

_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LABEL_TEXT = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]*[A-Za-z0-9])?")


def validate_name(kind: str, text: str) -> str:
    """A pool's or node's name: a DNS-1123 subdomain, as Kubernetes wants it for both.

    Args:
        kind: What it names, for the error: "pool name", "node name".
        text: 1 to 253 lower-case letters, digits, `-` and `.`; every part between dots begins and ends with a letter or digit.

    Returns:
        The text unchanged.

    Raises:
        InvalidNameError: Kubernetes would refuse it.
    """
    if not isinstance(text, str):
        raise InvalidNameError(kind, describe(text), "a name is text")
    problem = _subdomain_problem(text)
    if problem:
        raise InvalidNameError(kind, shorten(text), problem)
    return text


def validate_owner(text: str) -> str:
    """An owner id: 1 to 253 printable characters without white space, the same in every store and on every line of a report.

    Printable is what `str.isprintable` says: no control or format characters, no lone surrogates (so it encodes as UTF-8).

    Returns:
        The text unchanged.

    Raises:
        InvalidNameError: It is empty, longer, or has such a character.
    """
    if not isinstance(text, str):
        raise InvalidNameError("owner id", describe(text), "an owner id is text")
    if text.isprintable() and " " not in text and 1 <= len(text) <= 253:
        return text
    if not 1 <= len(text) <= 253:
        raise InvalidNameError("owner id", shorten(text), f"it has {len(text)} characters, allowed are 1 to 253")
    position, character = next((n, each) for n, each in enumerate(text, 1) if each == " " or not each.isprintable())
    reason = f"character {position} is {character!a}; white space and unprintable characters are not allowed"
    raise InvalidNameError("owner id", text, reason)


def label_key_problem(text: str) -> str:
    """Why Kubernetes would refuse a label key, or "" if it would not: an optional DNS prefix and `/`, then 1 to 63 characters."""
    prefix, slash, name = text.rpartition("/")
    if slash and "/" in prefix:
        return "it has more than one '/'"
    if slash:
        problem = _subdomain_problem(prefix)
        if problem:
            return f"the part before '/': {problem}"
    if not name:
        return "its name part is empty"
    return _label_text_problem(name)


def label_value_problem(text: str) -> str:
    """Why Kubernetes would refuse a label value, or "" if it would not: 0 to 63 characters."""
    return _label_text_problem(text) if text else ""


def _subdomain_problem(text: str) -> str:
    if not text:
        return "it is empty"
    if len(text) > 253:
        return f"it has {len(text)} characters, allowed are 253"
    if not _SUBDOMAIN.fullmatch(text):
        return SUBDOMAIN_RULE
    return ""


def _label_text_problem(text: str) -> str:
    if len(text) > 63:
        return f"it has {len(text)} characters, allowed are 63"
    if not _LABEL_TEXT.fullmatch(text):
        return LABEL_TEXT_RULE
    return ""


def shorten(text: str, shown: int = 80) -> str:
    """The text, or its beginning where it is too long for a sentence."""
    return text if len(text) <= shown else text[:shown] + "..."


def describe(value: object) -> str:
    """A found value for a sentence: scalars are shown, containers and everything else only named. O(1)."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {shorten(value)!r}"
    if isinstance(value, bool):
        return "the boolean true" if value else "the boolean false"
    if isinstance(value, int):
        return f"the number {value}" if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"a value of type {type(value).__name__}"


def unknown_field(name: object, known: Collection[str]) -> str:
    """The sentence for a field that is not `known`: it names the one that is near, and all of them where they are few or none is near."""
    if not isinstance(name, str):
        return f"a field name is text, found {describe(name)}"
    from difflib import get_close_matches  # noqa: PLC0415 - loaded only for an error: most runs never need it

    nearest = get_close_matches(shorten(name), sorted(known), n=1, cutoff=0.5)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = f" (known: {', '.join(sorted(known))})" if not nearest or 1 < len(known) <= 8 else ""
    return f"unknown field{guess}{listed}"
