"""The slow twin of `ciliumipam.selector`: selectors straight from their definition, sharing no code with it.

Standard library only, no regular expression, no token: a text is cut at its commas and each piece is looked at by itself,
characters are checked one by one, a match walks through every value. For property tests, of ours and of anybody who writes a
selector. A label selector is a list of `(key, operator, values)`; None is the one that selects nothing. Node selector terms are
a list of pairs of such lists, on labels and on fields; an empty term is kept as it was read, and no node meets it.

Read the same text or mapping, and compare what is matched:

>>> matches(parse("rack in (r1,r2),!cordoned"), {"rack": "r1"})
True
>>> matches(read({"matchLabels": {"rack": "r1"}}), {"rack": "r2"})
False
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_letters, ascii_lowercase, digits
from typing import Any, TypeAlias

Expression: TypeAlias = tuple[str, str, frozenset[str]]
Term: TypeAlias = tuple[list[Expression], list[Expression]]

_SPACE = " \t\r\n"
_SPECIAL = "=!(),<>"


def is_label_value(text: str) -> bool:
    """Whether Kubernetes takes this as a label value."""
    return text == "" or _is_label_text(text)


def is_label_key(text: str) -> bool:
    """Whether Kubernetes takes this as a label key."""
    parts = text.split("/")
    if len(parts) == 1:
        return _is_label_text(parts[0])
    return len(parts) == 2 and is_subdomain(parts[0]) and _is_label_text(parts[1])


def is_subdomain(text: str) -> bool:
    """Whether Kubernetes takes this as a DNS-1123 subdomain, such as a node's name."""
    if len(text) > 253:
        return False
    for part in text.split("."):
        if not part or any(c not in ascii_lowercase + digits + "-" for c in part) or "-" in (part[0], part[-1]):
            return False
    return True


def _is_label_text(text: str) -> bool:
    alphanumeric = ascii_letters + digits
    if not 1 <= len(text) <= 63 or text[0] not in alphanumeric or text[-1] not in alphanumeric:
        return False
    return all(c in alphanumeric + "-_." for c in text)


def read(mapping: Mapping[str, object] | None) -> list[Expression] | None:
    """A LabelSelector mapping as expressions; None for None.

    Raises:
        ValueError: Kubernetes would refuse it.
    """
    if mapping is None:
        return None
    expressions: list[Expression] = []
    labels = mapping.get("matchLabels")
    if isinstance(labels, Mapping):
        expressions += [_expression(key, "In", [value]) for key, value in labels.items()]
    items = mapping.get("matchExpressions")
    if isinstance(items, Sequence):
        for item in items:
            if item["operator"] in ("Gt", "Lt"):
                raise ValueError(item)
            expressions.append(_expression(item["key"], item["operator"], item.get("values") or []))
    return expressions


def read_terms(items: Sequence[Mapping[str, Any] | None]) -> list[Term]:
    """A list of node selector terms as pairs of expressions, on labels and on fields.

    Raises:
        ValueError: Kubernetes would refuse it.
    """
    if not items:
        raise ValueError(items)
    terms: list[Term] = []
    for item in items:
        term: Term = ([], [])
        for part, name in enumerate(("matchExpressions", "matchFields")):
            for each in (item or {}).get(name) or []:
                read_one = _expression if name == "matchExpressions" else _on_name
                term[part].append(read_one(each["key"], each["operator"], each.get("values") or []))
        terms.append(term)
    return terms


def integer(text: str) -> int | None:
    """The signed 64-bit number that the text writes in decimal digits, if it does and nothing else."""
    sign, rest = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    number = 0
    for character in rest:
        if character not in digits:
            return None
        number = number * 10 + digits.index(character)
    if sign == "-":
        number = 0 - number
    return number if rest and -9_223_372_036_854_775_808 <= number <= 9_223_372_036_854_775_807 else None


def parse(text: str) -> list[Expression]:
    """The text form as expressions.

    Raises:
        ValueError: Kubernetes would refuse it, or it has a NUL.
    """
    if not text.strip(_SPACE):
        return []
    pieces, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return [_piece(piece.strip(_SPACE)) for piece in pieces]


def _piece(piece: str) -> Expression:
    if piece.startswith("!"):
        return _expression(_word(piece[1:]), "DoesNotExist", [])
    for sign, operator in (("!=", "NotIn"), ("==", "In"), ("=", "In"), (">", "Gt"), ("<", "Lt")):
        key, found, value = piece.partition(sign)
        if found and "(" not in key:
            return _expression(_word(key), operator, [_word(value) if value.strip(_SPACE) else ""])
    if "(" in piece:
        head, _, rest = piece.partition("(")
        if not rest.endswith(")") or any(c in rest[:-1] for c in "()"):
            raise ValueError(piece)
        *key_words, operator = [word for word in _spaced(head) if word]
        if len(key_words) != 1 or operator not in ("in", "notin"):
            raise ValueError(piece)
        inside = rest[:-1]
        squeezed = "".join(c for c in inside if c not in _SPACE)
        commas_at_end = len(squeezed) - len(squeezed.rstrip(","))
        if commas_at_end and commas_at_end % 2 == 0:
            raise ValueError(piece)
        values = [_word(value) if value.strip(_SPACE) else "" for value in inside.split(",")]
        return _expression(_word(key_words[0]), {"in": "In", "notin": "NotIn"}[operator], values)
    return _expression(_word(piece), "Exists", [])


def _spaced(text: str) -> list[str]:
    for space in _SPACE:
        text = text.replace(space, " ")
    return text.split(" ")


def _word(text: str) -> str:
    word = text.strip(_SPACE)
    if not word or any(c in _SPACE + _SPECIAL for c in word):
        raise ValueError(text)
    return word


def _expression(key: str, operator: str, values: Sequence[str]) -> Expression:
    if not is_label_key(key) or not all(is_label_value(value) for value in values):
        raise ValueError(key, values)
    if operator in ("Gt", "Lt"):
        if len(values) != 1 or integer(values[0]) is None:
            raise ValueError(operator, values)
        return key, operator, frozenset([str(integer(values[0]))])
    if operator not in ("In", "NotIn", "Exists", "DoesNotExist") or bool(values) != (operator in ("In", "NotIn")):
        raise ValueError(operator, values)
    return key, operator, frozenset(values)


def _on_name(key: str, operator: str, values: Sequence[str]) -> Expression:
    if key != "metadata.name" or operator not in ("In", "NotIn") or len(values) != 1 or not is_subdomain(values[0]):
        raise ValueError(key, operator, values)
    return key, operator, frozenset(values)


def matches(expressions: Sequence[Expression] | None, labels: Mapping[str, str]) -> bool:
    """Whether the labels meet every expression; None selects nothing."""
    return expressions is not None and not failing(expressions, labels)


def matched(terms: Sequence[Term], labels: Mapping[str, str], name: str) -> int | None:
    """The most expressions that a term has which a node meets; None if it meets no term. Fields of a node without a name are met."""
    counts = []
    for on_labels, on_fields in terms:
        nothing_asked = not on_labels and not on_fields
        fields_met = name == "" or not failing(on_fields, {"metadata.name": name})
        if not nothing_asked and fields_met and not failing(on_labels, labels):
            counts.append(len(on_labels) + len(on_fields))
    return max(counts) if counts else None


def failing(expressions: Sequence[Expression], labels: Mapping[str, str]) -> list[Expression]:
    """The expressions that the labels do not meet."""
    failed = []
    for key, operator, values in expressions:
        present = [value for name, value in labels.items() if name == key]
        chosen = [value for value in present if any(value == candidate for candidate in values)]
        numbers = [integer(value) for value in present]
        limits = [integer(value) for value in values]
        compared = [
            (number, limit) for number in numbers for limit in limits if number is not None and limit is not None
        ]
        holds = {
            "In": bool(chosen),
            "NotIn": not chosen,
            "Exists": bool(present),
            "DoesNotExist": not present,
            "Gt": any(number > limit for number, limit in compared),
            "Lt": any(number < limit for number, limit in compared),
        }[operator]
        if not holds:
            failed.append((key, operator, values))
    return failed


__all__ = ["Expression", "Term", "failing", "integer", "is_label_key", "is_label_value", "is_subdomain", "matched", "matches", "parse", "read", "read_terms"]
