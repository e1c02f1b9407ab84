"""The text form of selectors, as in `kubectl get nodes -l`, read as apimachinery's `labels.Parse` reads it.

* `in` and `notin` are words only between a key and a list: `notin=in` is legal. `x=` means the value "", `x in ()` and a comma
  too many in a list as well, except that a list may not end in an even number of commas (so does the original).
* `>` and `<` take one number; white space around any sign is skipped; no sign may follow them, so `x>=1` is refused.
* Refused where the original is careless: a NUL, at which its lexer stops, so that what follows would silently be ignored.
"""

from __future__ import annotations

import re

from ciliumipam.errors import InvalidSelectorError
from ciliumipam.names import shorten
from ciliumipam.requirement import Operator, Requirement, check_requirement

_TOKEN = re.compile(r"[ \t\r\n]*(==|!=|[=!(),<>]|[^ \t\r\n=!(),<>]+)")
_SYMBOLS = frozenset(("==", "!=", "=", "!", "(", ")", ",", "<", ">"))
_BINARY: dict[str, Operator] = {
    "=": "In",
    "==": "In",
    "!=": "NotIn",
    "in": "In",
    "notin": "NotIn",
    ">": "Gt",
    "<": "Lt",
}


def parse_requirements(text: str) -> list[Requirement]:
    """The requirements of a text, in its order; none for the empty one.

    Raises:
        InvalidSelectorError: Kubernetes would refuse the text, or it has a NUL. `expression` is the text.
    """
    return _Parser(text).requirements()


class _Parser:
    """One pass over the tokens of a selector's text. The end of the text is the token ""."""

    def __init__(self, text: str) -> None:
        self._text = text
        if "\0" in text:
            raise InvalidSelectorError(shorten(text), "it contains a NUL character")
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    def requirements(self) -> list[Requirement]:
        found: list[Requirement] = []
        while self._next():
            found.append(self._requirement())
            separator = self._take()
            if separator and separator != ",":
                raise self._error(separator, "a comma or the end")
            if separator and not self._next():
                raise self._error("", "a requirement after the comma")
        return found

    def _requirement(self) -> Requirement:
        negated = self._next() == "!"
        if negated:
            self._take()
        key = self._take()
        if not key or key in _SYMBOLS:
            raise self._error(key, "a label key")
        if negated or self._next() in {"", ","}:
            return check_requirement(shorten(self._text), key, "DoesNotExist" if negated else "Exists", ())
        word = self._take()
        operator = _BINARY.get(word)
        if operator is None:
            raise self._error(word, f"in, notin, =, ==, !=, > or < after {shorten(key)!r}")
        values = self._list() if word in {"in", "notin"} else {self._value()}
        return check_requirement(shorten(self._text), key, operator, values)

    def _value(self) -> str:
        if self._next() == ",":
            return ""
        value = self._take()  # empty at the end
        if value in _SYMBOLS:
            raise self._error(value, "a value")
        return value

    def _list(self) -> set[str]:
        opening = self._take()
        if opening != "(":
            raise self._error(opening, "'('")
        if self._next() == ")":
            self._take()
            return {""}
        values: set[str] = set()
        while True:
            word = self._take()
            if word == ",":
                # A comma stands for an empty value where nothing precedes it, and where a second comma or the end follows;
                # a second one is taken along with the first, so the list cannot end right after it.
                if not values or self._next() in {",", ")"}:
                    values.add("")
                if self._next() == ")":
                    break
                if self._next() == ",":
                    self._take()
                continue
            if not word or word in _SYMBOLS:
                raise self._error(word, "a value, ',' or ')'")
            values.add(word)
            if self._next() not in {",", ")"}:
                raise self._error(self._next(), "',' or ')'")
            if self._next() == ")":
                break
        self._take()
        return values

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._at += 1
        return token

    def _error(self, found: str, expected: str) -> InvalidSelectorError:
        shown = repr(shorten(found)) if found else "the end"
        return InvalidSelectorError(shorten(self._text), f"expected {expected}, found {shown}")
