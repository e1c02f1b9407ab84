"""Pieces of CRD schemas, so that `crds` reads like the objects that it describes.

Every piece has a description, since `kubectl explain` shows nothing else. Lists and maps are atomic: nobody owns a part of one, and
the server keeps no managedFields for each entry of them (56 bytes each).
"""

from __future__ import annotations

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]
"""A piece of an OpenAPI v3 schema, as it stands in a CustomResourceDefinition."""


def rule(rule: str, message: str = "", *, says: str = "", at: str = "") -> Schema:
    """One CEL rule.

    Args:
        rule: What must hold of `self`.
        message: What is told where it does not, as plain text.
        says: The same as a CEL expression, for a message that names the value. `message` is told where it fails.
        at: The field that is shown as wrong, as in ".cidrs"; by default the one that has the rule.
    """
    return (
        {"rule": rule}
        | ({"message": message} if message else {})
        | ({"messageExpression": says} if says else {})
        | ({"fieldPath": at} if at else {})
    )


def text(about: str, most: int, *, least: int = 0, one_of: tuple[str, ...] = (), rules: tuple[Schema, ...] = ()) -> Schema:
    """A text of at most so many characters."""
    schema: Schema = {"type": "string", "description": about}
    if one_of:
        return schema | {"enum": list(one_of)}
    return schema | {"maxLength": most} | ({"minLength": least} if least else {}) | _rules(rules)


def whole(about: str, least: int, most: int | None = None) -> Schema:
    """A whole number of 64 bits. The server compares with a limit as a float, so one near 2^63 cannot be given."""
    schema: Schema = {"type": "integer", "format": "int64", "description": about, "minimum": least}
    return schema if most is None else schema | {"maximum": most}


def flag(about: str) -> Schema:
    """True or false."""
    return {"type": "boolean", "description": about}


def listed(about: str, items: Schema, most: int, *, least: int = 0, rules: tuple[Schema, ...] = ()) -> Schema:
    """A list that is replaced as a whole."""
    schema = {"type": "array", "description": about, "maxItems": most, "x-kubernetes-list-type": "atomic", "items": items}
    return schema | ({"minItems": least} if least else {}) | _rules(rules)


def mapped(about: str, values: Schema, most: int, *, rules: tuple[Schema, ...] = ()) -> Schema:
    """A mapping with any keys that is replaced as a whole."""
    schema = {"type": "object", "description": about, "maxProperties": most, "x-kubernetes-map-type": "atomic"}
    return schema | {"additionalProperties": values} | _rules(rules)


def fields(about: str, /, *, required: tuple[str, ...] = (), rules: tuple[Schema, ...] = (), **properties: Schema) -> Schema:
    """An object with known fields."""
    schema: Schema = {"type": "object", "description": about, "properties": properties}
    return schema | ({"required": list(required)} if required else {}) | _rules(rules)


def column(name: str, of: str, path: str, about: str, *, wide: bool = False) -> Schema:
    """A column of `kubectl get`, or only of `kubectl get -o wide`."""
    return {"name": name, "type": of, "jsonPath": path, "description": about} | ({"priority": 1} if wide else {})


def _rules(rules: tuple[Schema, ...]) -> Schema:
    return {"x-kubernetes-validations": list(rules)} if rules else {}
