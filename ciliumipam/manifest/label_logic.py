"""And, or and not over conditions on labels, multiplied out to what Kubernetes' selectors can say.

Kubernetes knows no parentheses: its selectors are requirements that must all hold, or several such terms. Every condition on one
key is a set of values (or all but a set of values), with or without "the label is missing"; such sets are closed under and, or and
not. So a term here is a dict of these by key, and an expression a list of terms of which one must hold. Where two terms differ in
one key only they are one, so that what a LabelSelector can say comes out as one.

An expression can have exponentially many terms, so `TooManyTermsError` ends it at `MAX_TERMS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import Any, NamedTuple, TypeAlias

MAX_TERMS = 64
"""How many terms an expression may have, also on the way to the result."""


class TooManyTermsError(Exception):
    """Multiplied out, the expression has more than `MAX_TERMS` terms."""


class Values(NamedTuple):
    """What one label may be.

    Attributes:
        values: The values that it must be one of, if `listed`; else those that it must be none of.
        missing: Whether the node may have no such label.
    """

    values: frozenset[str]
    listed: bool
    missing: bool

    def both(self, other: Values) -> Values:
        """What this and the other allow."""
        missing = self.missing and other.missing
        if self.listed and other.listed:
            return Values(self.values & other.values, listed=True, missing=missing)
        if self.listed:
            return Values(self.values - other.values, listed=True, missing=missing)
        if other.listed:
            return Values(other.values - self.values, listed=True, missing=missing)
        return Values(self.values | other.values, listed=False, missing=missing)

    def inverse(self) -> Values:
        """What this does not allow."""
        return Values(self.values, listed=not self.listed, missing=not self.missing)

    def either(self, other: Values) -> Values:
        """What this or the other allows."""
        return self.inverse().both(other.inverse()).inverse()

    def within(self, other: Values) -> bool:
        """Whether the other allows everything that this allows."""
        return self.both(other) == self


PRESENT = Values(frozenset(), listed=False, missing=False)
_ANYTHING = Values(frozenset(), listed=False, missing=True)
_NOTHING = _ANYTHING.inverse()

Term: TypeAlias = dict[str, Values]
"""All of these hold; a key that is not in it may be anything. No value of it allows anything or nothing."""

Terms: TypeAlias = list[Term]
"""One of these holds."""


def everything() -> Terms:
    """What every node meets."""
    return [{}]


def where(key: str, values: Values) -> Terms:
    """The nodes whose label `key` is what `values` allow."""
    if values == _ANYTHING:
        return [{}]
    return [] if values == _NOTHING else [{key: values}]


def either(left: Terms, right: Terms) -> Terms:
    """What one or the other selects.

    Complexity:
        O(left * right * keys).
    """
    found = list(left)
    for term in right:
        _add(found, term)
    return found


def both(left: Terms, right: Terms) -> Terms:
    """What one and the other select.

    Complexity:
        O(left * right * `MAX_TERMS` * keys).
    """
    found: Terms = []
    for one in left:
        for other in right:
            term = _joined(one, other)
            if term is not None:
                _add(found, term)
    return found


def inverse(terms: Terms) -> Terms:
    """What is not selected."""
    found = everything()
    for term in terms:
        found = both(found, [{key: values.inverse()} for key, values in sorted(term.items())])
    return found


def requirements(terms: Terms) -> list[list[dict[str, Any]]]:
    """Terms as lists of Kubernetes' requirements, sorted; one empty list selects every node, no list none."""
    found = [*islice((each for term in terms for each in _requirements(term)), MAX_TERMS + 1)]
    if len(found) > MAX_TERMS:
        raise TooManyTermsError
    return sorted(found, key=repr)


def _requirements(term: Term) -> Iterator[list[dict[str, Any]]]:
    """One term; "missing, or one of" is two in Kubernetes, everything else one."""
    choices: list[list[list[dict[str, Any]]]] = []
    for key, (values, listed, missing) in sorted(term.items()):
        gone: list[dict[str, Any]] = [{"key": key, "operator": "DoesNotExist"}]
        there: list[dict[str, Any]] = []
        if values:
            there.append({"key": key, "operator": "In" if listed else "NotIn", "values": sorted(values)})
        if listed:
            choices.append(([there] if there else []) + ([gone] if missing else []))
        else:
            choices.append([there if missing else [{"key": key, "operator": "Exists"}, *there]])
    for chosen in product(*choices):
        yield [each for some in chosen for each in some]


def _add(found: Terms, new: Term) -> None:
    """Let `found` select what `new` selects as well: without terms that others cover, and with two made one where they can be."""
    merged: Term | None = new
    while merged is not None:
        new = merged
        if any(_within(new, other) for other in found):
            return
        found[:] = [other for other in found if not _within(other, new)]
        merged = next((one for other in found if (one := _merged(new, other)) is not None), None)
    found.append(new)
    if len(found) > MAX_TERMS:
        raise TooManyTermsError


def _joined(one: Term, other: Term) -> Term | None:
    """Both as one term; None if no node meets both."""
    result = dict(one)
    for key, values in other.items():
        result[key] = values.both(result.get(key, _ANYTHING))
        if result[key] == _NOTHING:
            return None
    return result


def _within(one: Term, other: Term) -> bool:
    """Whether every node that `one` selects is selected by `other`."""
    return all(key in one and one[key].within(values) for key, values in other.items())


def _merged(one: Term, other: Term) -> Term | None:
    """Either of them as one term, if they name the same keys and differ in one only."""
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
