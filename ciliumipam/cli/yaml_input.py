"""YAML text to plain values, stricter than YAML itself.

A key that stands twice in one mapping is an error, since one of the two values would be lost. An alias is an error, since nine
lines of aliases grow into billions of values. Everything that is not text, a number, a boolean, null, a list or a mapping is an
error; only a timestamp stays the text that it is, as in Kubernetes. Values are built from the parser's events without recursion,
so that no nesting can exhaust the stack: the C parser's own composer dies of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import yaml
from yaml.constructor import SafeConstructor
from yaml.reader import ReaderError
from yaml.resolver import Resolver

from ciliumipam.errors import InvalidManifestError

MAX_DEPTH = 100
_TAG = "tag:yaml.org,2002:"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(name: str, text: str) -> Iterator[tuple[str, object]]:
    """Every document that is not empty, each with where it starts: "name:line".

    Raises:
        InvalidManifestError: Not YAML, or YAML that is not read (see the module); the line is named.

    Complexity:
        Linear in the text.
    """
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
            if isinstance(event, yaml.DocumentEndEvent) and builder.document is not None:
                yield f"{name}:{builder.line}", builder.document
    except yaml.MarkedYAMLError as error:
        at = f"{name}:{error.problem_mark.line + 1}" if error.problem_mark else name
        raise InvalidManifestError(at, "", f"it is not YAML: {error.problem or error.context}") from error
    except ReaderError as error:
        at = f"{name}:{text.count(chr(10), 0, error.position) + 1}"
        raise InvalidManifestError(at, "", "it has characters that no text has, so it is not a manifest") from error


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Missing:
    """Type of the key that an open mapping waits for."""


_MISSING = _Missing()


class _Builder:
    """Builds the document that the events describe; `document` and `line` are the last one's."""

    def __init__(self, name: str) -> None:
        self.document: object = None
        self.line = 1
        self._name = name
        self._open: list[
            tuple[list[Any] | dict[Any, Any], list[Any]]
        ] = []  # innermost last; a mapping's pending key beside it
        self._resolve: Callable[..., str] = Resolver().resolve
        constructor = SafeConstructor()
        self._scalars = {
            "null": constructor.construct_yaml_null,
            "bool": constructor.construct_yaml_bool,
            "int": constructor.construct_yaml_int,
            "float": constructor.construct_yaml_float,
        }

    def take(self, event: yaml.Event) -> None:
        """Take the parser's next event."""
        if isinstance(event, yaml.ScalarEvent):
            self._add(event, self._scalar(event))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
        elif isinstance(event, yaml.AliasEvent):
            self._fail(event, f"aliases (*{event.anchor}) are not read; write the value out")

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in {None, "!", _TAG + ("map" if is_mapping else "seq")}:
            self._fail(event, f"the tag {event.tag} is not read; a manifest holds plain values")
        if len(self._open) == MAX_DEPTH:
            self._fail(event, "it is nested too deeply to be a manifest")
        value: list[Any] | dict[Any, Any] = {} if is_mapping else []
        self._add(event, value)
        self._open.append((value, [_MISSING]))

    def _add(self, event: yaml.Event, value: object) -> None:
        if not self._open:
            self.document, self.line = value, _line(event)
            return
        parent, pending = self._open[-1]
        if isinstance(parent, list):
            parent.append(value)
        elif pending[0] is not _MISSING:
            parent[pending[0]] = value
            pending[0] = _MISSING
        elif isinstance(value, list | dict):
            self._fail(event, "a list or a mapping cannot be a key")
        elif value in parent:
            self._fail(event, f"the key {value!r} stands twice in one mapping; remove one of the two")
        else:
            pending[0] = value

    def _scalar(self, event: yaml.ScalarEvent) -> object:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = tag.removeprefix(_TAG)
        if kind in {"str", "timestamp", "value"}:
            return event.value
        construct = self._scalars.get(kind)
        if construct is None:
            what = "merge keys (<<) are" if kind == "merge" else f"the tag {tag} is"
            self._fail(event, f"{what} not read; a manifest holds plain values")
        try:
            return construct(yaml.ScalarNode(tag, event.value))
        except (ValueError, LookupError):  # too many digits, or a tag that lies about its value
            self._fail(event, f"{event.value[:40]!r} cannot be read as {kind}")

    def _fail(self, event: yaml.Event, reason: str) -> NoReturn:
        raise InvalidManifestError(f"{self._name}:{_line(event)}", "", reason)
