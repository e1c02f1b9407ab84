r"""kubectl's JSONPath templates over plain values: `{.items[*].name}`, with `range`, filters, slices and text between.

Outside of braces is text. Inside stand, one after the other:

* a path: `.name`, `['name']`, `[0]`, `[-1]`, `[0,2]`, `[1:3]`, `[0:9:2]`, `[*]`, `.*`, `..name`, `[?(@.a=="b")]` with `==`, `!=`,
  `<`, `<=`, `>`, `>=` or nothing; it begins at the present value, after `$` at the whole one. A dot in a name is written `\.`;
* quoted text, as `{"\n"}`;
* `range PATH` ... `end`: everything between, for each value of the path.

Several values of a path are printed with a space between them, mappings and lists as JSON. A field that a value does not have is
nothing, as in kubectl. Everything else that does not fit is an error: a mistake in the template, an index that is out of range, a
field of something that is no mapping.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

from ciliumipam.errors import InvalidRequestError

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "/": "/"}
_NAME = re.compile(r"(?:[^\s.\[\]{}()'\"$@?*,=<>!\\]|\\.)+")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,99})(?:\.\d{1,99})?(?:[eE][-+]?\d{1,3})?", re.ASCII)
_SLICE = re.compile(r"\s*(-?\d{1,9})?\s*:\s*(-?\d{1,9})?\s*(?::\s*(-?\d{1,9})?\s*)?\]", re.ASCII)
_INDEX = re.compile(r"\s*(-?\d{1,9})\s*", re.ASCII)
_WORD = re.compile(r"(range|end)(?=[\s}])")
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_ORDERED = {"<", "<=", ">", ">="}
_DEEPEST = 20


class _Field(NamedTuple):
    name: str


class _Indices(NamedTuple):
    indices: tuple[int, ...]


class _Slice(NamedTuple):
    start: int | None
    stop: int | None
    step: int | None


class _Every(NamedTuple):
    """All values of a list or mapping."""


class _Below(NamedTuple):
    """The value and everything inside it, at any depth."""


class _Path(NamedTuple):
    from_root: bool
    steps: tuple[_Step, ...]


class _Filter(NamedTuple):
    left: _Path
    comparison: str
    right: _Path | _Literal | None


class _Literal(NamedTuple):
    value: Any


class _Range(NamedTuple):
    path: _Path
    body: tuple[_Part, ...]


_Step: TypeAlias = _Field | _Indices | _Slice | _Every | _Below | _Filter
_Part: TypeAlias = str | _Path | _Range


class Template:
    """A template that was read and can be filled in any number of times."""

    def __init__(self, text: str) -> None:
        """Read a template.

        Raises:
            InvalidRequestError: It cannot be read; the position is named.
        """
        self._text = text
        self._parts = _Parser(text).parts()

    def render(self, value: object) -> str:
        """The template filled in with a value.

        Raises:
            InvalidRequestError: The value has not the shape that the template asks for.
        """
        try:
            return "".join(self._render(self._parts, value, value))
        except _MisfitError as error:
            raise InvalidRequestError(f"the template {self._text!r} does not fit what is printed: {error}") from error

    def _render(self, parts: Iterable[_Part], root: object, here: object) -> Iterator[str]:
        for part in parts:
            if isinstance(part, str):
                yield part
            elif isinstance(part, _Path):
                yield " ".join(map(_text_of, _values(part, root, here)))
            else:
                for each in _values(part.path, root, here):
                    yield from self._render(part.body, root, each)


class _MisfitError(Exception):
    """A value that is not what a step needs."""


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return f"a list of {len(value)}" if isinstance(value, list) else json.dumps(value)


# ------------------------------------------------------------------------------------------------- evaluating


def _values(path: _Path, root: object, here: object) -> list[object]:
    found: list[object] = [root if path.from_root else here]
    below = False
    for step in path.steps:
        found = [inner for value in found for inner in _take(step, value, root, lenient=below)]
        below = isinstance(step, _Below)
    return found


def _take(step: _Step, value: object, root: object, *, lenient: bool) -> Iterator[object]:
    """What a step finds in a value; after `..` a value of another shape has nothing, else it is a misfit."""
    if isinstance(step, _Below):
        yield from _below(value)
    elif isinstance(step, _Field):
        if isinstance(value, Mapping):
            if step.name in value:
                yield value[step.name]
        elif not lenient and value is not None:
            hint = "; its entries are reached with [*]" if isinstance(value, list) else ""
            raise _MisfitError(f"there is no field {step.name!r} in {_kind(value)}{hint}")
    elif isinstance(step, _Every):
        if isinstance(value, (Mapping, list)):
            yield from value.values() if isinstance(value, Mapping) else value
        elif not lenient and value is not None:
            raise _MisfitError(f"[*] needs a list or a mapping, found {_kind(value)}")
    elif isinstance(value, list):
        yield from _from_list(step, value, root)
    elif not lenient and value is not None:
        raise _MisfitError(f"only a list has [...] entries, found {_kind(value)}")


def _from_list(step: _Indices | _Slice | _Filter, value: list[object], root: object) -> Iterator[object]:
    if isinstance(step, _Indices):
        for index in step.indices:
            if not -len(value) <= index < len(value):
                raise _MisfitError(f"there is no entry [{index}] in {_kind(value)}")
            yield value[index]
    elif isinstance(step, _Slice):
        yield from value[step.start : step.stop : step.step]
    else:
        yield from (each for each in value if _holds(step, root, each))


def _below(value: object) -> Iterator[object]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        yield each
        inner = list(each.values()) if isinstance(each, Mapping) else each if isinstance(each, list) else []
        waiting += reversed(inner)


def _holds(step: _Filter, root: object, here: object) -> bool:
    left = _one(_values(step.left, root, here))
    if step.right is None:
        return left is not None
    right = _Literal(step.right.value) if isinstance(step.right, _Literal) else _one(_values(step.right, root, here))
    if left is None or right is None:
        return step.comparison == "!=" and left is not right
    first, second = left.value, right.value
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (first, second))
    if not numbers and type(first) is not type(second):
        return step.comparison == "!="
    if step.comparison in _ORDERED and not numbers and not isinstance(first, str):
        raise _MisfitError(f"{_kind(first)} has no order, so {step.comparison} says nothing")
    return _OPERATORS[step.comparison](first, second)


def _one(values: Sequence[object]) -> _Literal | None:
    if len(values) > 1:
        raise _MisfitError(f"a filter compares one value, and its path has {len(values)}")
    return _Literal(values[0]) if values else None


# ---------------------------------------------------------------------------------------------------- reading


class _Parser:
    """Reads a template once, from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._depth = 0

    def parts(self) -> tuple[_Part, ...]:
        """The whole template."""
        if "{" not in self._text:
            self._fail("it has nothing in braces; write it as in {.items[*].name}")
        found, ended = self._sequence()
        if ended:
            self._fail("{end} without a {range}")
        return tuple(found)

    def _sequence(self) -> tuple[list[_Part], bool]:
        """Parts up to the end of the text or to an `end`; whether it was an `end`."""
        found: list[_Part] = []
        while self._at < len(self._text):
            brace = self._text.find("{", self._at)
            stop = len(self._text) if brace < 0 else brace
            if self._at < stop:
                found.append(self._text[self._at : stop])
            self._at = stop + 1
            if brace >= 0 and self._braces(found):
                return found, True
        return found, False

    def _braces(self, found: list[_Part]) -> bool:
        """What stands between braces, the opening one being read; whether it was an `end`."""
        empty = True
        while True:
            self._skip()
            if self._take("}"):
                if empty:
                    self._fail("nothing stands between the braces")
                return False
            empty = False
            word = _WORD.match(self._text, self._at)
            if word is not None and word[1] == "end":
                self._at = word.end()
                self._skip()
                self._expect("}")
                return True
            if word is not None:
                self._at = word.end()
                self._skip()
                path = self._path()
                self._skip()
                self._expect("}")
                self._depth += 1
                if self._depth > _DEEPEST:
                    self._fail(f"more than {_DEEPEST} ranges inside each other")
                body, ended = self._sequence()
                if not ended:
                    self._fail("a {range} has no {end}")
                self._depth -= 1
                found.append(_Range(path, tuple(body)))
                return False
            found.append(self._quoted() if self._peek() in ("'", '"') else self._path())

    def _path(self) -> _Path:
        start = self._at
        from_root = self._take("$")
        if not from_root:
            self._take("@")
        steps: list[_Step] = []
        while True:
            if self._take(".."):
                steps.append(_Below())
                if self._peek() != "[":
                    steps.append(self._name())
            elif self._take("."):
                if self._peek() not in ("", "}", "[", " ", ")", ",") or not self._alone(start):
                    steps.append(self._name())
            elif self._take("["):
                steps.append(self._brackets())
            elif self._at == start:
                if _NAME.match(self._text, self._at) is None:
                    self._fail("a path is expected here, as .name or [0]")
                steps.append(self._name())
            else:
                return _Path(from_root, tuple(steps))

    def _alone(self, start: int) -> bool:
        """Whether the dot that was just read is the first of its path, and so stands for the present value."""
        return self._text[start : self._at] in (".", "@.", "$.")

    def _name(self) -> _Field | _Every:
        if self._take("*"):
            return _Every()
        match = _NAME.match(self._text, self._at)
        if match is None:
            self._fail("a field's name is expected here")
        self._at = match.end()
        return _Field(re.sub(r"\\(.)", r"\1", match[0]))

    def _brackets(self) -> _Step:
        self._skip()
        if self._take("*"):
            self._skip()
            self._expect("]")
            return _Every()
        if self._take("?("):
            return self._filter()
        if self._peek() in ("'", '"'):
            name = self._quoted()
            self._skip()
            self._expect("]")
            return _Field(name)
        piece = _SLICE.match(self._text, self._at)
        if piece is not None:
            self._at = piece.end()
            start, stop, step = (None if each is None else int(each) for each in piece.groups())
            if step is not None and step < 1:
                self._fail("the step of a slice is at least 1")
            return _Slice(start, stop, step)
        indices: list[int] = []
        while True:
            match = _INDEX.match(self._text, self._at)
            if match is None:
                self._fail("expected an index, a slice, *, 'name' or ?(...) in the brackets")
            indices.append(int(match[1]))
            self._at = match.end()
            if not self._take(","):
                self._expect("]")
                return _Indices(tuple(indices))

    def _filter(self) -> _Filter:
        self._skip()
        left = self._path()
        self._skip()
        comparison = next((each for each in _OPERATORS if self._take(each)), "")
        right: _Path | _Literal | None = None
        if comparison:
            self._skip()
            right = self._operand()
            self._skip()
        self._expect(")")
        self._skip()
        self._expect("]")
        return _Filter(left, comparison, right)

    def _operand(self) -> _Path | _Literal:
        if self._peek() in ("'", '"'):
            return _Literal(self._quoted())
        if self._peek() in ("@", "$", "."):
            return self._path()
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self._take(word):
                return _Literal(value)
        match = _NUMBER.match(self._text, self._at)
        if match is None:
            self._fail("a value is expected here: 'text', a number, true, false, null or @.name")
        self._at = match.end()
        return _Literal(json.loads(match[0]))

    def _quoted(self) -> str:
        quote, start = self._text[self._at], self._at
        self._at += 1
        found = ""
        while self._at < len(self._text):
            character = self._text[self._at]
            self._at += 1
            if character == quote:
                return found
            if character == "\\":
                escape = self._text[self._at : self._at + 1]
                if escape not in _ESCAPES or not escape:
                    self._fail(f"\\{escape} is not an escape; known: {' '.join(chr(92) + each for each in _ESCAPES)}")
                character = _ESCAPES[escape]
                self._at += 1
            found += character
        self._at = start
        return self._fail("the quoted text has no end")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self) -> None:
        while self._peek().isspace():
            self._at += 1

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        if found:
            self._at += len(text)
        return found

    def _expect(self, text: str) -> None:
        if not self._take(text):
            found = repr(self._peek()) if self._peek() else "the end"
            self._fail(f"expected {text!r}, found {found}")

    def _fail(self, reason: str) -> NoReturn:
        at = min(self._at, len(self._text)) + 1
        raise InvalidRequestError(f"the jsonpath template {self._text!r} cannot be read, at character {at}: {reason}")
