"""One condition on a node: when it holds, what Kubernetes refuses as one, how it is written and explained.

`selector` joins conditions into terms, `selector_text` reads them out of text, `selector_index` looks many of them up at once.
The rules are those of apimachinery's `labels.NewRequirement` and `Requirement.Matches`, and of `ValidateNodeSelector` in
Kubernetes' core validation for the one on a node's name:

* `NotIn` and `DoesNotExist` hold where the label is missing, all others do not; `DoesNotExist` fails on a present empty value.
* Operators are case-sensitive; `In` and `NotIn` need a value, `Exists` and `DoesNotExist` take none; the empty text is a value.
* `Gt` and `Lt` take one whole number of 64 bits and hold only where the label's value is one, too (`whole_number`). Since that
  number must be a label value as well, it cannot have a sign: `Lt 0` can be written, `Gt -1` cannot.
* A node's name is matched by `In` or `NotIn` with exactly one name.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias, cast

from ciliumipam.errors import InvalidNameError, InvalidSelectorError
from ciliumipam.names import label_key_problem, label_value_problem, shorten, validate_name

Operator: TypeAlias = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]

Test: TypeAlias = tuple[str, Container[str | None], bool]
"""A requirement as one look-up: it holds where (the label's value, or None, is in the container) is the truth value."""

NAME_FIELD = "metadata.name"
LABEL_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
ORDER_SIGNS: dict[str, str] = {"Gt": ">", "Lt": "<"}
TERM_OPERATORS = (*LABEL_OPERATORS, *ORDER_SIGNS)

_MISSING = (None,)
_WHOLE_NUMBER = re.compile(r"([+-]?)0*([0-9]{1,19})")
_SHOWN_VALUES = 8


class Requirement(NamedTuple):
    """One condition on one label, or on a node's name. Made by the constructors of `NodeSelector`, which check it.

    Attributes:
        key: The label's key; `metadata.name` for a name.
        operator: What must hold.
        values: Sorted and unique; empty for Exists and DoesNotExist, one number in its shortest form for Gt and Lt.
    """

    key: str
    operator: Operator
    values: tuple[str, ...]

    def test(self) -> Test:
        """The condition as one look-up, so that whoever matches need not know the operators."""
        match self.operator:
            case "In" | "NotIn":
                few = self.values if len(self.values) == 1 else frozenset(self.values)
                return self.key, few, self.operator == "In"
            case "Exists" | "DoesNotExist":
                return self.key, _MISSING, self.operator == "DoesNotExist"
            case "Gt" | "Lt":  # pragma: no branch - mypy checks that the match is exhaustive
                return self.key, _Beyond(int(self.values[0]), above=self.operator == "Gt"), True

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet this requirement."""
        key, values, wanted = self.test()
        return (labels.get(key) in values) is wanted

    def explain(self, found: str | None) -> str:
        """Why the requirement does not hold on a node that has this value, or None, instead."""
        has = "the node has no such label" if found is None else f"the node has {found or 'an empty value'}"
        match self.operator:
            case "Exists" | "DoesNotExist":
                return f"{self.key} must be {'present' if self.operator == 'Exists' else 'absent'} but {has}"
            case "Gt" | "Lt":
                no_number = found is not None and whole_number(found) is None
                number = ", which is no whole number of 64 bits" if no_number else ""
                side = "more" if self.operator == "Gt" else "less"
                return f"{self.key} must be {side} than {self.values[0]} but {has}{number}"
            case "In" | "NotIn":  # pragma: no branch - mypy checks that the match is exhaustive
                shown = ", ".join(value or '""' for value in self.values[:_SHOWN_VALUES])
                more = len(self.values) - _SHOWN_VALUES
                rest = f" and {more} more" if more > 0 else ""
                return f"{self.key} {self.operator.lower()} ({shown}{rest}) but {has}"

    def __str__(self) -> str:
        """The requirement in the text form."""
        if not self.values:
            return self.key if self.operator == "Exists" else f"!{self.key}"
        if self.operator in ORDER_SIGNS:
            return f"{self.key}{ORDER_SIGNS[self.operator]}{self.values[0]}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.operator == 'In' else '!='}{self.values[0]}"
        return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"


class _Beyond:
    """All texts of whole numbers above, or below, a number that is itself not among them."""

    __slots__ = ("_above", "_number")

    def __init__(self, number: int, *, above: bool) -> None:
        self._number, self._above = number, above

    def __contains__(self, text: object) -> bool:
        number = whole_number(text) if isinstance(text, str) else None
        return number is not None and (number > self._number if self._above else number < self._number)


def whole_number(text: str) -> int | None:
    """The number that Go's `strconv.ParseInt(text, 10, 64)` reads; None where that refuses the text.

    Python's `int` is more lenient: it takes underscores, white space, digits of other scripts, and numbers of any size.
    """
    if len(text) < 19 and text.isdecimal() and text.isascii():
        return int(text)
    found = _WHOLE_NUMBER.fullmatch(text)
    if found is None:
        return None
    number = int(found[1] + found[2])
    return number if -(1 << 63) <= number < 1 << 63 else None


def check_requirement(
    part: str, key: str, operator: str, values: Iterable[str], known: tuple[str, ...] = TERM_OPERATORS
) -> Requirement:
    """A requirement on a label, in normal form.

    Args:
        part: How an error names it.
        key: The label's key.
        operator: One of `known`.
        values: As written: Gt and Lt refuse the same number twice.
        known: The operators of the form that is read: `LABEL_OPERATORS` or `TERM_OPERATORS`.

    Raises:
        InvalidSelectorError: Kubernetes would refuse it.
    """
    problem = label_key_problem(key)
    if problem:
        raise InvalidSelectorError(part, f"the key {shorten(key)!r} is not a label key: {problem}")
    if operator not in known:
        raise _unknown_operator(part, operator, known, "node selector terms")
    given = tuple(values)
    if operator in {"In", "NotIn"} and not given:
        raise InvalidSelectorError(part, f"{operator} needs at least one value")
    if operator in {"Exists", "DoesNotExist"} and given:
        raise InvalidSelectorError(part, f"{operator} takes no values, found {len(given)}")
    if operator in ORDER_SIGNS and len(given) != 1:
        raise InvalidSelectorError(part, f"{operator} needs exactly one value, found {len(given)}")
    for value in given:
        problem = label_value_problem(value)
        if problem:
            raise InvalidSelectorError(part, f"the value {shorten(value)!r} is not a label value: {problem}")
    if operator in ORDER_SIGNS:
        number = whole_number(given[0])
        if number is None:
            reason = f"{operator} compares with a whole number of 64 bits, found {shorten(given[0])!r}"
            raise InvalidSelectorError(part, reason)
        given = (str(number),)
    return Requirement(key, cast("Operator", operator), tuple(sorted(set(given))))


def check_name_requirement(part: str, key: str, operator: str, values: Iterable[str]) -> Requirement:
    """A requirement on a field of the node, which can only be its name.

    Args:
        part: How an error names it.
        key: `metadata.name`.
        operator: In or NotIn.
        values: Exactly one node name, as written.

    Raises:
        InvalidSelectorError: Kubernetes would refuse it.
    """
    if key != NAME_FIELD:
        raise InvalidSelectorError(part, f"only {NAME_FIELD} can be matched as a field, found {shorten(key)!r}")
    if operator not in {"In", "NotIn"}:
        raise _unknown_operator(part, operator, ("In", "NotIn"), "matchExpressions")
    given = tuple(values)
    if len(given) != 1:
        raise InvalidSelectorError(part, f"{operator} on {NAME_FIELD} needs exactly one value, found {len(given)}")
    try:
        validate_name("node name", given[0])
    except InvalidNameError as error:
        reason = f"the value {error.name!r} is not a node name: {error.reason}"
        raise InvalidSelectorError(part, reason) from None
    return Requirement(NAME_FIELD, cast("Operator", operator), given)


def _unknown_operator(part: str, operator: str, known: Iterable[str], ordered: str) -> InvalidSelectorError:
    """That an operator is none of those known; `ordered` is where Gt and Lt can stand."""
    hint = f"; it belongs to {ordered}" if operator in ORDER_SIGNS else ""
    return InvalidSelectorError(part, f"operator {shorten(operator)!r} is not one of {', '.join(known)}{hint}")
