"""Calico's selector expressions, said as a selector of Kubernetes where that is possible.

Read with the grammar of libcalico-go: `all()`, `global()`, `has(key)`, `key == 'v'`, `!=`, `in {'a', 'b'}`, `not in`, joined by `&&`
and `||`, negated by `!`, with parentheses. Both languages agree on a label that a node does not have: `!=` and `not in` hold then,
everything else does not.

Kubernetes knows no parentheses, so an expression is multiplied out. Every condition on one key is a set of values (or all but a
set of values), with or without "the label is missing"; such sets are closed under and, or and not. A conjunction is a dict of these
by key, an expression a list of conjunctions. Where two of them differ in one key only they are one, so that what a LabelSelector
can say comes out as one and not as terms. What cannot be said is refused and named: `contains`, `starts with`, `ends with`, and keys
and values that no label can have.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeAlias

from ciliumipam.errors import InvalidSelectorError
from ciliumipam.names import label_key_problem, label_value_problem, shorten

MAX_LENGTH = 4096
MAX_DEPTH = 50
MAX_TERMS = 64
"""Bounds on what is read: characters, nested parentheses, and terms that an expression is multiplied out to, at any time."""

_WORD = r"[A-Za-z0-9_./-]"
_TOKEN = re.compile(
    rf"(?:(?P<has>has)\([ \t]*(?P<key>{_WORD}+)[ \t]*\)|(?P<all>(?:all|global)\([ \t]*\))"
    rf"|(?P<text>\"[^\"]*\"|'[^']*')|(?P<symbol>==|!=|&&|\|\||[!(){{}},])|(?P<word>{_WORD}+))[ \t]*"
)
_OPERATOR = re.compile(rf"(contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in|in)(?!{_WORD})[ \t]*")
_TOO_MANY = f"multiplied out it has more than {MAX_TERMS} terms; make several pools of it, or put a label on the nodes"
_UNSAYABLE = ("contains", "startswith", "endswith")
_OPERATORS = ("==", "!=", "in", "notin", *_UNSAYABLE)


class _Values(NamedTuple):
    """What one label may be.

    Attributes:
        values: The values that it must be one of, if `listed`; else those that it must be none of.
        missing: Whether the node may have no such label.
    """

    values: frozenset[str]
    listed: bool
    missing: bool

    def both(self, other: _Values) -> _Values:
        missing = self.missing and other.missing
        if self.listed and other.listed:
            return _Values(self.values & other.values, listed=True, missing=missing)
        if self.listed:
            return _Values(self.values - other.values, listed=True, missing=missing)
        if other.listed:
            return _Values(other.values - self.values, listed=True, missing=missing)
        return _Values(self.values | other.values, listed=False, missing=missing)

    def inverse(self) -> _Values:
        return _Values(self.values, listed=not self.listed, missing=not self.missing)

    def either(self, other: _Values) -> _Values:
        return self.inverse().both(other.inverse()).inverse()

    def within(self, other: _Values) -> bool:
        return self.both(other) == self


_ANYTHING = _Values(frozenset(), listed=False, missing=True)
_NOTHING = _ANYTHING.inverse()
_PRESENT = _Values(frozenset(), listed=False, missing=False)

_All: TypeAlias = dict[str, _Values]
"""All of these hold; a key that is not in it may be anything. None of its values is `_ANYTHING` or `_NOTHING`."""


def translate(text: str) -> dict[str, Any]:
    """A selector for nodes in Kubernetes' form that selects exactly the nodes that the expression selects.

    Returns:
        A LabelSelector (`{}` where every node is selected), or `{"nodeSelectorTerms": [...]}` where one cannot say it.

    Raises:
        InvalidSelectorError: Calico would refuse it, Kubernetes cannot say it, it selects no node, or it is beyond the bounds;
            `expression` is the part that is meant.

    Complexity:
        O(tokens * `MAX_TERMS` ** 2) at worst; linear for expressions that a LabelSelector can say.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidSelectorError(shorten(text), f"it has {len(text)} characters, read are at most {MAX_LENGTH}")
    terms = [term for conjunction in _Parser(text).expression() for term in _terms(text, conjunction)]
    if not terms:
        raise InvalidSelectorError(shorten(text), "it selects no node, whatever its labels")
    if len(terms) > MAX_TERMS:
        raise InvalidSelectorError(shorten(text), _TOO_MANY)
    terms.sort(key=repr)
    if terms == [[]]:
        return {}
    if len(terms) == 1:
        return {"matchExpressions": terms[0]}
    return {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}


def _terms(text: str, conjunction: _All) -> list[list[dict[str, Any]]]:
    """The conjunction in Kubernetes' requirements. "Missing, or one of" is two terms there, everything else one."""
    terms: list[list[dict[str, Any]]] = [[]]
    for key, (values, listed, missing) in sorted(conjunction.items()):
        there: list[dict[str, Any]] = [{"key": key, "operator": "In" if listed else "NotIn", "values": sorted(values)}] if values else []
        gone: list[dict[str, Any]] = [{"key": key, "operator": "DoesNotExist"}]
        if listed:
            choices = ([there] if there else []) + ([gone] if missing else [])
        else:
            choices = [there if missing else [{"key": key, "operator": "Exists"}, *there]]
        if len(terms) * len(choices) > MAX_TERMS:
            raise InvalidSelectorError(shorten(text), _TOO_MANY)
        terms = [term + choice for term in terms for choice in choices]
    return terms


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
            operator = _OPERATOR.match(self._text, at) if self._tokens and self._tokens[-1][0] == "word" else None
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

    def expression(self) -> list[_All]:
        if not self._tokens:
            return [{}]
        found = self._any()
        if self._at < len(self._tokens):
            raise self._error(self._rest(), "&&, || or the end")
        return found

    def _any(self) -> list[_All]:
        found = self._all()
        while self._take("||"):
            for each in self._all():
                self._add(found, each)
        return found

    def _all(self) -> list[_All]:
        found = self._operation()
        while self._take("&&"):
            found = self._product(found, self._operation())
        return found

    def _operation(self) -> list[_All]:
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
        return self._negated(found) if negated else found

    def _condition(self) -> list[_All]:
        start = self._at
        kind, text = self._next()
        self._at += 1
        if kind == "all":
            return [{}]
        if kind not in {"key", "word"}:
            self._at = start
            raise self._error(self._rest(), "a label, has(label), all() or '('")
        problem = label_key_problem(text)
        if problem:
            raise InvalidSelectorError(shorten(text), f"no label in Kubernetes has this key: {problem}")
        if kind == "key":
            return _where(text, _PRESENT)
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
        return _where(text, _Values(values, listed=not missing, missing=missing))

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

    def _product(self, left: list[_All], right: list[_All]) -> list[_All]:
        """What is selected by both."""
        found: list[_All] = []
        for one in left:
            for other in right:
                both = _both(one, other)
                if both is not None:
                    self._add(found, both)
        return found

    def _negated(self, found: list[_All]) -> list[_All]:
        result: list[_All] = [{}]
        for conjunction in found:
            result = self._product(result, [{key: values.inverse()} for key, values in sorted(conjunction.items())])
        return result

    def _add(self, found: list[_All], new: _All) -> None:
        """Let `found` select what `new` selects as well, with as few terms as can be seen at a glance."""
        merged: _All | None = new
        while merged is not None:
            new = merged
            if any(_within(new, other) for other in found):
                return
            found[:] = [other for other in found if not _within(other, new)]
            merged = next((both for other in found if (both := _either(new, other)) is not None), None)
        found.append(new)
        if len(found) > MAX_TERMS:
            raise InvalidSelectorError(shorten(self._text), _TOO_MANY)

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


def _where(key: str, values: _Values) -> list[_All]:
    """The nodes whose label `key` is one of the values."""
    if values == _ANYTHING:
        return [{}]
    return [] if values == _NOTHING else [{key: values}]


def _both(one: _All, other: _All) -> _All | None:
    """Both conjunctions as one; None if no node meets both."""
    result = dict(one)
    for key, values in other.items():
        result[key] = values.both(result.get(key, _ANYTHING))
        if result[key] == _NOTHING:
            return None
    return result


def _within(one: _All, other: _All) -> bool:
    """Whether every node that `one` selects is selected by `other`."""
    return all(key in one and one[key].within(values) for key, values in other.items())


def _either(one: _All, other: _All) -> _All | None:
    """Both as one, if they name the same keys and differ in one only."""
    if one.keys() != other.keys():
        return None
    different = [key for key in one if one[key] != other[key]]
    if len(different) != 1:
        return None
    (key,) = different
    values = one[key].either(other[key])
    result = {**one, key: values}
    if values == _ANYTHING:
        del result[key]
    return result
