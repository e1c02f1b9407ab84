"""Which nodes may use a pool: label selectors with the semantics of Kubernetes, exactly.

A selector is a list of requirements, all of which must hold. It is written as a mapping (`LabelSelector`: `matchLabels` and
`matchExpressions`) or as text (`kubectl get -l`), and the two traps of the mapping are kept apart here by name:
**a selector that is absent selects nothing, an empty one selects everything** (`NodeSelector.nothing`, `.everything`).

Rules worth knowing, all from apimachinery's `labels` and `meta/v1`:

* `NotIn` and `!=` hold where the label is missing; `In`, `=` and `Exists` do not; `DoesNotExist` fails on a present empty value.
* Operators are case-sensitive; `In` and `NotIn` need a value, the other two take none; the empty text is a value.
* In text, `in` and `notin` are words only between a key and a list: `notin=in` is legal. `x=` means the value "", `x in ()` and
  a comma too many in a list as well, except that a list may not end in an even number of commas (so does the original).
* `>` and `<` compare numbers and belong to node selector terms; here they are refused.
* Refused where the original is careless: a NUL, at which its lexer stops, so that what follows would silently be ignored.

`In` with one value, `=`, `==` and an entry of `matchLabels` are the same requirement and compare equal. `pool` stands on this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from ciliumipam.errors import InvalidSelectorError
from ciliumipam.names import describe, label_key_problem, label_value_problem, shorten, unknown_field

Operator: TypeAlias = Literal["In", "NotIn", "Exists", "DoesNotExist"]

_TAKES_VALUES: dict[str, bool] = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
_TOKEN = re.compile(r"[ \t\r\n]*(==|!=|[=!(),<>]|[^ \t\r\n=!(),<>]+)")
_SYMBOLS = frozenset(("==", "!=", "=", "!", "(", ")", ",", "<", ">"))
_BINARY: dict[str, Operator] = {"=": "In", "==": "In", "!=": "NotIn", "in": "In", "notin": "NotIn"}
_SHOWN_VALUES = 8


class Requirement(NamedTuple):
    """One condition on one label. Made by the constructors of `NodeSelector`, which check it.

    Attributes:
        key: The label's key.
        operator: What must hold.
        values: Sorted and unique; empty for Exists and DoesNotExist.
    """

    key: str
    operator: Operator
    values: tuple[str, ...]

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet this requirement."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels

    def __str__(self) -> str:
        """The requirement in the text form."""
        if not self.values:
            return self.key if self.operator == "Exists" else f"!{self.key}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.operator == 'In' else '!='}{self.values[0]}"
        return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True, repr=False)
class NodeSelector:
    """A frozen set of requirements on node labels, all of which must hold.

    Attributes:
        expressions: The requirements in normal form (sorted), or None for the selector that selects nothing. Equal normal forms
            compare and hash equal.
    """

    expressions: tuple[Requirement, ...] | None
    _equal: tuple[tuple[str, str], ...] = field(init=False, compare=False, default=())
    _among: tuple[tuple[str, frozenset[str]], ...] = field(init=False, compare=False, default=())
    _not_among: tuple[tuple[str, frozenset[str]], ...] = field(init=False, compare=False, default=())
    _present: tuple[str, ...] = field(init=False, compare=False, default=())
    _absent: tuple[str, ...] = field(init=False, compare=False, default=())

    def __post_init__(self) -> None:
        """Check, sort, and sort out by operator, so that `matches` is set and dict look-ups only.

        Raises:
            InvalidSelectorError: A requirement that Kubernetes would refuse.
        """
        if self.expressions is None:
            return
        wanted = tuple(sorted(_checked(shorten(r.key), *r) for r in self.expressions))
        sets = [(r, frozenset(r.values)) for r in wanted]
        put = object.__setattr__
        put(self, "expressions", wanted)
        put(self, "_equal", tuple((r.key, r.values[0]) for r in wanted if r.operator == "In" and len(r.values) == 1))
        put(self, "_among", tuple((r.key, among) for r, among in sets if r.operator == "In" and len(among) > 1))
        put(self, "_not_among", tuple((r.key, among) for r, among in sets if r.operator == "NotIn"))
        put(self, "_present", tuple(r.key for r in wanted if r.operator == "Exists"))
        put(self, "_absent", tuple(r.key for r in wanted if r.operator == "DoesNotExist"))

    @classmethod
    def everything(cls) -> NodeSelector:
        """The selector that selects every node, as the empty LabelSelector does."""
        return cls(())

    @classmethod
    def nothing(cls) -> NodeSelector:
        """The selector that selects no node, as an absent LabelSelector does."""
        return cls(None)

    @classmethod
    def from_label_selector(cls, mapping: Mapping[str, object] | None) -> NodeSelector:
        """A Kubernetes LabelSelector as it stands in a manifest; None selects nothing, an empty mapping everything.

        Raises:
            InvalidSelectorError: A field that is unknown or has the wrong type, or a key, operator or value that Kubernetes would
                refuse. `expression` is the path inside the mapping, as in `matchExpressions[0].operator`.
        """
        if mapping is None:
            return cls.nothing()
        if not isinstance(mapping, Mapping):
            raise InvalidSelectorError(
                describe(mapping), "expected a mapping with matchLabels or matchExpressions, or nothing"
            )
        _check_fields("", mapping, ("matchLabels", "matchExpressions"))
        found: list[Requirement] = []
        labels = mapping.get("matchLabels")
        if labels is not None:
            if not isinstance(labels, Mapping):
                raise InvalidSelectorError(
                    "matchLabels", f"expected a mapping of text to text, found {describe(labels)}"
                )
            for key, value in labels.items():
                if not isinstance(key, str):
                    raise InvalidSelectorError("matchLabels", f"a label key is text, found {describe(key)}")
                path = f"matchLabels[{shorten(key)!r}]"
                found.append(_checked(path, key, "In", (_text(path, value),)))
        expressions = mapping.get("matchExpressions")
        if expressions is not None:
            if not isinstance(expressions, (list, tuple)):
                raise InvalidSelectorError("matchExpressions", f"expected a list, found {describe(expressions)}")
            found += [_read_expression(f"matchExpressions[{i}]", item) for i, item in enumerate(expressions)]
        return cls(tuple(found))

    @classmethod
    def parse(cls, text: str) -> NodeSelector:
        """The text form, as in `kubectl get nodes -l 'rack in (r1,r2),!cordoned'`; the empty text selects everything.

        Raises:
            InvalidSelectorError: Kubernetes would refuse the text, or it compares with `>` or `<`. `expression` is the text.
        """
        if not isinstance(text, str):
            raise InvalidSelectorError(describe(text), "expected text")
        return cls(tuple(_Parser(text).requirements()))

    @property
    def requirements(self) -> int:
        """How many requirements there are; each entry of `matchLabels` and each expression counts one."""
        return len(self.expressions or ())

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is selected. O(requirements), whatever the number of values."""
        if self.expressions is None:
            return False
        for key, value in self._equal:
            if labels.get(key) != value:
                return False
        for key, values in self._among:
            if labels.get(key) not in values:
                return False
        for key, values in self._not_among:
            if labels.get(key) in values:
                return False
        for key in self._present:
            if key not in labels:
                return False
        for key in self._absent:  # noqa: SIM110 - a generator would cost more than all of the above
            if key in labels:
                return False
        return True

    def explain(self, labels: Mapping[str, str]) -> str:
        """Why the labels match or do not: every requirement that failed, with what the node has instead."""
        if self.expressions is None:
            return "the selector selects nothing"
        failed = [_explain(r, labels.get(r.key)) for r in self.expressions if not r.holds(labels)]
        if failed:
            return "; ".join(failed)
        return f"the node meets {str(self)!r}" if self.expressions else "the selector selects every node"

    def to_label_selector(self) -> dict[str, object] | None:
        """The LabelSelector that `from_label_selector` reads back as an equal selector."""
        if self.expressions is None:
            return None
        labels: dict[str, str] = {}
        expressions: list[dict[str, object]] = []
        for key, operator, values in self.expressions:
            if operator == "In" and len(values) == 1 and key not in labels:
                labels[key] = values[0]
            elif values:
                expressions.append({"key": key, "operator": operator, "values": list(values)})
            else:
                expressions.append({"key": key, "operator": operator})
        return ({"matchLabels": labels} if labels else {}) | ({"matchExpressions": expressions} if expressions else {})

    def __str__(self) -> str:
        """The canonical text, which `parse` reads back; `nothing` has none in Kubernetes, so it is shown as `<nothing>`."""
        return "<nothing>" if self.expressions is None else ",".join(str(r) for r in self.expressions)

    def __repr__(self) -> str:
        """The call that makes an equal selector."""
        if not self.expressions:
            return f"NodeSelector.{'nothing' if self.expressions is None else 'everything'}()"
        return f"NodeSelector.parse({str(self)!r})"


def _checked(part: str, key: str, operator: str, values: Iterable[str]) -> Requirement:
    """A requirement in normal form; `part` is how an error names it."""
    problem = label_key_problem(key)
    if problem:
        raise InvalidSelectorError(part, f"the key {shorten(key)!r} is not a label key: {problem}")
    takes_values = _TAKES_VALUES.get(operator)
    if takes_values is None:
        raise InvalidSelectorError(part, f"operator {shorten(operator)!r} is not one of {', '.join(_TAKES_VALUES)}")
    normal = tuple(sorted(set(values)))
    if takes_values and not normal:
        raise InvalidSelectorError(part, f"{operator} needs at least one value")
    if normal and not takes_values:
        raise InvalidSelectorError(part, f"{operator} takes no values, found {len(normal)}")
    for value in normal:
        problem = label_value_problem(value)
        if problem:
            raise InvalidSelectorError(part, f"the value {shorten(value)!r} is not a label value: {problem}")
    return Requirement(key, cast("Operator", operator), normal)


def _check_fields(path: str, mapping: Mapping[Any, object], known: tuple[str, ...]) -> None:
    for name in mapping:
        if name not in known:
            dot = "." if path else ""
            raise InvalidSelectorError(
                f"{path}{dot}{shorten(name)}" if isinstance(name, str) else path, unknown_field(name, known)
            )


def _text(path: str, value: object) -> str:
    if not isinstance(value, str):
        hint = "" if value is None or isinstance(value, (Mapping, list, tuple)) else "; put it in quotes"
        raise InvalidSelectorError(path, f"expected text, found {describe(value)}{hint}")
    return value


def _read_expression(path: str, item: object) -> Requirement:
    if not isinstance(item, Mapping):
        raise InvalidSelectorError(path, f"expected a mapping with key, operator and values, found {describe(item)}")
    _check_fields(path, item, ("key", "operator", "values"))
    for name in ("key", "operator"):
        if item.get(name) is None:
            raise InvalidSelectorError(f"{path}.{name}", "it is required")
    key, operator = (_text(f"{path}.{name}", item[name]) for name in ("key", "operator"))
    if operator in {"Gt", "Lt"}:
        reason = f"{operator} belongs to node selector terms; a label selector knows {', '.join(_TAKES_VALUES)}"
        raise InvalidSelectorError(f"{path}.operator", reason)
    values = item.get("values")
    if values is None:
        values = ()
    elif not isinstance(values, (list, tuple)):
        raise InvalidSelectorError(f"{path}.values", f"expected a list of texts, found {describe(values)}")
    return _checked(path, key, operator, [_text(f"{path}.values[{i}]", value) for i, value in enumerate(values)])


def _explain(requirement: Requirement, found: str | None) -> str:
    has = "the node has no such label" if found is None else f"the node has {found or 'an empty value'}"
    if not requirement.values:
        return f"{requirement.key} must be {'present' if requirement.operator == 'Exists' else 'absent'} but {has}"
    shown = ", ".join(value or '""' for value in requirement.values[:_SHOWN_VALUES])
    more = len(requirement.values) - _SHOWN_VALUES
    return (
        f"{requirement.key} {requirement.operator.lower()} ({shown}{f' and {more} more' if more > 0 else ''}) but {has}"
    )


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
            return _checked(shorten(self._text), key, "DoesNotExist" if negated else "Exists", ())
        word = self._take()
        if word in {"<", ">"}:
            reason = f"{key}{word} compares numbers, which belongs to node selector terms; use in, notin, =, != or !"
            raise InvalidSelectorError(shorten(self._text), reason)
        operator = _BINARY.get(word)
        if operator is None:
            raise self._error(word, f"in, notin, =, == or != after {shorten(key)!r}")
        values = self._list() if word in {"in", "notin"} else {self._value()}
        return _checked(shorten(self._text), key, operator, values)

    def _value(self) -> str:
        if self._next() in {"", ","}:
            return ""
        value = self._take()
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
