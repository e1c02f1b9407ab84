"""Calico's selector expressions, said as a selector of Kubernetes where that is possible.

Read with the grammar of libcalico-go: `all()`, `global()`, `has(key)`, `key == 'v'`, `!=`, `in {'a', 'b'}`, `not in`, joined by `&&`
and `||`, negated by `!`, with parentheses. Both languages agree on a label that a node does not have: `!=` and `not in` hold then,
everything else does not. `label_logic` multiplies the expression out.

What cannot be said is refused and named: `contains`, `starts with`, `ends with`, keys and values that no label can have, an
expression that selects no node, and one with too many terms.
"""

from __future__ import annotations

import re
from typing import Any

from ciliumipam.errors import InvalidSelectorError
from ciliumipam.manifest.label_logic import (
    MAX_TERMS,
    PRESENT,
    Terms,
    TooManyTermsError,
    Values,
    both,
    either,
    everything,
    inverse,
    requirements,
    where,
)
from ciliumipam.names import label_key_problem, label_value_problem, shorten

MAX_LENGTH = 4096
MAX_DEPTH = 50
"""Bounds on what is read: characters, and nested parentheses."""

_WORD = r"[A-Za-z0-9_./-]"
_TOKEN = re.compile(
    rf"(?:(?P<has>has)\([ \t]*(?P<key>{_WORD}+)[ \t]*\)|(?P<all>(?:all|global)\([ \t]*\))"
    rf"|(?P<text>\"[^\"]*\"|'[^']*')|(?P<symbol>==|!=|&&|\|\||[!(){{}},])|(?P<word>{_WORD}+))[ \t]*"
)
_IN_WORDS = re.compile(rf"(contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in|in)(?!{_WORD})[ \t]*")
_UNSAYABLE = ("contains", "startswith", "endswith")
_OPERATORS = ("==", "!=", "in", "notin", *_UNSAYABLE)


def translate(text: str) -> dict[str, Any]:
    """A selector for nodes in Kubernetes' form that selects exactly the nodes that the expression selects.

    Returns:
        A LabelSelector (`{}` where every node is selected), or `{"nodeSelectorTerms": [...]}` where one cannot say it.

    Raises:
        InvalidSelectorError: Calico would refuse it, Kubernetes cannot say it, it selects no node, or it is beyond the bounds;
            `expression` is the part that is meant.

    Complexity:
        Linear for expressions that a LabelSelector can say; every `&&` between parts of n and m terms costs O(n * m * `MAX_TERMS`).
    """
    if len(text) > MAX_LENGTH:
        raise InvalidSelectorError(shorten(text), f"it has {len(text)} characters, read are at most {MAX_LENGTH}")
    try:
        terms = requirements(_Parser(text).expression())
    except TooManyTermsError:
        reason = (
            f"multiplied out it has more than {MAX_TERMS} terms; make several pools of it, or put a label on the nodes"
        )
        raise InvalidSelectorError(shorten(text), reason) from None
    if not terms:
        raise InvalidSelectorError(shorten(text), "it selects no node, whatever its labels")
    if terms == [[]]:
        return {}
    if len(terms) == 1:
        return {"matchExpressions": terms[0]}
    return {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}


class _Parser:
    """Recursive descent over the tokens. Every method returns what its part selects, and leaves the tokens after it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self._depth = 0
        self._scan()

    def _scan(self) -> None:
        """Tokens as (kind, text). An operator in words is one only right after a key, so a label may be called `in`."""
        at = len(self._text) - len(self._text.lstrip(" \t"))
        while at < len(self._text):
            operator = _IN_WORDS.match(self._text, at) if self._tokens and self._tokens[-1][0] == "word" else None
            if operator:
                self._tokens.append(("symbol", re.sub(r"[ \t]", "", operator[1])))
                at = operator.end()
                continue
            token = _TOKEN.match(self._text, at)
            if not token:
                raise self._error(self._text[at:], "a label, has(label), all(), a quoted value or an operator")
            kind = token.lastgroup or ""
            self._tokens.append((kind, token["key"] if token["has"] else token[kind]))
            at = token.end()

    def expression(self) -> Terms:
        if not self._tokens:
            return everything()
        found = self._any()
        if self._at < len(self._tokens):
            raise self._error(self._rest(), "&&, || or the end")
        return found

    def _any(self) -> Terms:
        found = self._all()
        while self._take("||"):
            found = either(found, self._all())
        return found

    def _all(self) -> Terms:
        found = self._operation()
        while self._take("&&"):
            found = both(found, self._operation())
        return found

    def _operation(self) -> Terms:
        negated = False
        while self._take("!"):
            negated = not negated
        if self._take("("):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise InvalidSelectorError(shorten(self._rest()), f"parentheses are nested deeper than {MAX_DEPTH}")
            found = self._any()
            if not self._take(")"):
                raise self._error(self._rest(), "')'")
            self._depth -= 1
        else:
            found = self._condition()
        return inverse(found) if negated else found

    def _condition(self) -> Terms:
        kind, text = self._next()
        if kind == "all":
            self._at += 1
            return everything()
        if kind not in {"key", "word"}:
            raise self._error(self._rest(), "a label, has(label), all() or '('")
        self._at += 1
        problem = label_key_problem(text)
        if problem:
            raise InvalidSelectorError(shorten(text), f"no label in Kubernetes has this key: {problem}")
        if kind == "key":
            return where(text, PRESENT)
        operator = self._operator()
        if operator in _UNSAYABLE:
            words = operator.replace("with", " with")
            part = f"{shorten(text)} {words} {shorten(self._next()[1])}"
            raise InvalidSelectorError(part, f"Kubernetes' selectors have no {words!r}")
        if operator in {"in", "notin"}:
            values = self._values()
        elif operator in {"==", "!="}:
            values = frozenset((self._value(),))
        else:
            raise self._error(self._rest(), f"==, !=, in or not in after {shorten(text)!r}")
        missing = operator in {"!=", "notin"}
        return where(text, Values(values, listed=not missing, missing=missing))

    def _operator(self) -> str:
        kind, text = self._next()
        if kind != "symbol" or text not in _OPERATORS:
            return ""
        self._at += 1
        return text

    def _values(self) -> frozenset[str]:
        if not self._take("{"):
            raise self._error(self._rest(), "'{'")
        found: list[str] = []
        while not self._take("}"):
            found.append(self._value())
            if not self._take(",") and self._next() != ("symbol", "}"):
                raise self._error(self._rest(), "',' or '}'")
        return frozenset(found)

    def _value(self) -> str:
        kind, text = self._next()
        if kind != "text":
            raise self._error(self._rest(), "a value in quotes")
        self._at += 1
        value = text[1:-1]
        problem = label_value_problem(value)
        if problem:
            raise InvalidSelectorError(shorten(text), f"no label in Kubernetes has this value: {problem}")
        return value

    def _next(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, symbol: str) -> bool:
        found = self._next() == ("symbol", symbol)
        self._at += found
        return found

    def _rest(self) -> str:
        return " ".join(text for _, text in self._tokens[self._at : self._at + 8])

    def _error(self, found: str, expected: str) -> InvalidSelectorError:
        shown = repr(shorten(found, 40)) if found else "the end"
        return InvalidSelectorError(shorten(self._text), f"expected {expected}, found {shown}")
