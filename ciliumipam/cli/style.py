"""How to print: the values of `-o`, and mappings and lists as JSON, YAML or through a template."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from importlib import import_module
from typing import Any, NamedTuple

from ciliumipam.cli.jsonpath import Template
from ciliumipam.errors import InvalidRequestError

DOCUMENTS = ("json", "yaml", "jsonpath")
LISTED = ("table", "wide", "name", *DOCUMENTS)
CHANGES = ("table", *DOCUMENTS)


class Style(NamedTuple):
    """One value of `-o`; with a template if it is jsonpath."""

    name: str
    template: Template | None = None

    @property
    def is_document(self) -> bool:
        """Whether a program reads what is printed."""
        return self.name in DOCUMENTS


TABLE = Style("table")
YAML = Style("yaml")


def parse_style(text: str) -> Style:
    """What `-o` says.

    Raises:
        ArgumentTypeError: There is no such style, or its template cannot be read.
    """
    name, equals, template = text.partition("=")
    if name == "jsonpath":
        if not equals:
            raise ArgumentTypeError("jsonpath needs a template, as in -o jsonpath='{.items[*].name}'")
        try:
            return Style(name, Template(template))
        except InvalidRequestError as error:
            raise ArgumentTypeError(str(error)) from error
    if equals or name not in LISTED:
        raise ArgumentTypeError(f"no such style {text!r}; known: {', '.join(LISTED[:-1])}, jsonpath=TEMPLATE")
    return Style(name)


def require(style: Style) -> None:
    """Load what printing in this style needs, so that its absence is found out before anything is changed.

    Raises:
        ModuleNotFoundError: The extra `cli` is not installed.
    """
    if style.name in ("table", "wide", "yaml"):
        import_module("yaml" if style.name == "yaml" else "tabulate")


def write_document(style: Style, value: Any, *, line: bool = False) -> None:
    """Print plain values in a style for programs.

    Args:
        style: JSON, YAML or a template.
        value: Mappings, lists and scalars.
        line: One of many: JSON in a line of its own, YAML as a document of its own.

    Raises:
        InvalidRequestError: The template does not fit the value.
    """
    if style.template is not None:
        print(style.template.render(value), end="")
    elif style.name == "yaml":
        print(("---\n" if line else "") + _yaml(value), end="")
    else:
        print(json.dumps(value, indent=None if line else 2))


def _yaml(value: Any) -> str:
    import yaml  # noqa: PLC0415 - optional, and slow to load

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # which of the two is known only here
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the library's signature; our own reader refuses aliases
            return True

    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False))
