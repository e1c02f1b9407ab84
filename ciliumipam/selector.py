"""Which nodes may use a pool: selectors with the semantics of Kubernetes, exactly.

A selector is a list of terms, one of which must hold; a term is a list of requirements on a node's labels and name, all of which
must hold. It is written in one of three forms, and the traps between them are kept apart here by name:

* **LabelSelector** (`matchLabels`, `matchExpressions`): one term. **One that is absent selects nothing, an empty one
  everything** (`NodeSelector.nothing`, `.everything`). Source: apimachinery's `LabelSelectorAsSelector`.
* **Node selector terms** (`nodeSelectorTerms`, core/v1): any number of terms, also with `Gt`, `Lt` and `matchFields`. **An empty
  term selects nothing**, so it is dropped; a list of empty terms only is `nothing`; an empty list is refused, as the API does.
  Source: component-helpers' `nodeaffinity.NewNodeSelector` (the strict builder: the scheduler's lazy one ignores a broken term as
  long as another matches) and core validation's `ValidateNodeSelector`.
* **Text** (`kubectl get -l`): one term, also with `>` and `<`. Source: apimachinery's `labels.Parse`; see `selector_text`.

What all forms can say compares equal: `In` with one value, `=`, `==` and an entry of `matchLabels` are the same requirement.
`requirement` has the rules for one of them. `selector_index` matches many selectors at once; `pool` stands on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ciliumipam.errors import InvalidSelectorError
from ciliumipam.names import describe, shorten, unknown_field
from ciliumipam.requirement import (
    LABEL_OPERATORS,
    NAME_FIELD,
    ORDER_SIGNS,
    TERM_OPERATORS,
    Requirement,
    Test,
    check_name_requirement,
    check_requirement,
)
from ciliumipam.selector_text import parse_requirements
from ciliumipam.value import Value

_LABEL_FORM = ("matchLabels", "matchExpressions")
_TERMS_FORM = "nodeSelectorTerms"
_SHOWN_TERMS = 8


class Term(NamedTuple):
    """Requirements that must all hold. Made by the constructors of `NodeSelector`, which check it.

    Attributes:
        expressions: Requirements on labels, sorted.
        names: Requirements on the node's name, sorted.
    """

    expressions: tuple[Requirement, ...]
    names: tuple[Requirement, ...] = ()

    @property
    def requirements(self) -> int:
        """How many there are; each entry of `matchLabels` and each expression counts one, also one that is written twice."""
        return len(self.expressions) + len(self.names)

    def failing(self, labels: Mapping[str, str], name: str) -> list[str]:
        """Why it does not hold: a sentence for each requirement that fails."""
        failed = [each.explain(labels.get(each.key)) for each in self.expressions if not each.holds(labels)]
        if name:
            failed += [f"field {each.explain(name)}" for each in self.names if not each.holds({NAME_FIELD: name})]
        return failed

    def __str__(self) -> str:
        """The text form; requirements on the name, which that does not know, are marked as such."""
        return ",".join([*(str(each) for each in self.expressions), *(f"field {each}" for each in self.names)])


class NodeSelector(Value):
    """A frozen set of terms, one of which must hold for a node to be selected.

    Attributes:
        terms: In normal form (sorted, each once). No term selects nothing; one term without requirements selects everything, and
            cannot stand beside others. Equal normal forms compare and hash equal.
    """

    __slots__ = ("_only", "_tests", "terms")
    terms: tuple[Term, ...]
    _tests: tuple[tuple[int, tuple[Test, ...], tuple[Test, ...]], ...]
    _only: tuple[Test, ...] | None

    def __init__(self, terms: tuple[Term, ...]) -> None:
        """Check, sort, and turn requirements into look-ups.

        Raises:
            InvalidSelectorError: A requirement that Kubernetes would refuse, or an empty term beside others.
        """
        terms = tuple(sorted({_normal(term) for term in terms}))
        if len(terms) > 1 and not terms[0].requirements:
            raise InvalidSelectorError("terms", "a term without requirements cannot stand beside others")
        # More requirements first, so that the first term that holds is the one that counts.
        tests = [(term.requirements, _tests(term.expressions), _tests(term.names)) for term in terms]
        tests.sort(key=lambda test: -test[0])
        self._put(terms, tuple(tests), tests[0][1] if len(terms) == 1 and not terms[0].names else None)

    @classmethod
    def everything(cls) -> NodeSelector:
        """The selector that selects every node, as the empty LabelSelector does."""
        return cls((Term(()),))

    @classmethod
    def nothing(cls) -> NodeSelector:
        """The selector that selects no node, as an absent LabelSelector does."""
        return cls(())

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
        _check_fields("", mapping, _LABEL_FORM)
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
                found.append(check_requirement(path, key, "In", (_text(path, value),)))
        found += [
            check_requirement(*read, known=LABEL_OPERATORS) for read in _read_list("", "matchExpressions", mapping)
        ]
        return cls((Term(tuple(found)),))

    @classmethod
    def from_terms(cls, terms: Mapping[str, object] | Sequence[object]) -> NodeSelector:
        """Node selector terms as they stand in a manifest: the mapping with `nodeSelectorTerms`, or its list alone.

        Raises:
            InvalidSelectorError: There is no term, a field is unknown or has the wrong type, or Kubernetes would refuse a key,
                operator or value. `expression` is the path, as in `nodeSelectorTerms[0].matchFields[1].key`.
        """
        found: object = terms
        if isinstance(terms, Mapping):
            both = [name for name in _LABEL_FORM if name in terms]
            if both and _TERMS_FORM in terms:
                reason = f"it stands beside {_TERMS_FORM}; a selector is either a LabelSelector or a list of terms"
                raise InvalidSelectorError(both[0], reason)
            _check_fields("", terms, (_TERMS_FORM,))
            found = terms.get(_TERMS_FORM)
        if found is not None and not isinstance(found, (list, tuple)):
            raise InvalidSelectorError(_TERMS_FORM, f"expected a list of terms, found {describe(found)}")
        if not found:
            raise InvalidSelectorError(_TERMS_FORM, "it needs at least one term, as Kubernetes requires")
        read = [_read_term(f"{_TERMS_FORM}[{i}]", item) for i, item in enumerate(found)]
        return cls(tuple(term for term in read if term.requirements))

    @classmethod
    def from_manifest(cls, mapping: Mapping[str, object] | None) -> NodeSelector:
        """Either form: node selector terms where the mapping has the key `nodeSelectorTerms`, else a LabelSelector.

        Raises:
            InvalidSelectorError: As `from_terms` and `from_label_selector` say; also for keys of both forms side by side.
        """
        if isinstance(mapping, Mapping) and _TERMS_FORM in mapping:
            return cls.from_terms(mapping)
        return cls.from_label_selector(mapping)

    @classmethod
    def parse(cls, text: str) -> NodeSelector:
        """The text form, as in `kubectl get nodes -l 'rack in (r1,r2),!cordoned,cpus>15'`; the empty text selects everything.

        Raises:
            InvalidSelectorError: Kubernetes would refuse the text, or it has a NUL. `expression` is the text.
        """
        if not isinstance(text, str):
            raise InvalidSelectorError(describe(text), "expected text")
        return cls((Term(tuple(parse_requirements(text))),))

    @property
    def selects_nothing(self) -> bool:
        """Whether there is no term at all. A term may still be one that no node can meet, such as `a,!a`."""
        return not self.terms

    @property
    def requirements(self) -> int:
        """How many requirements its largest term has."""
        return self._tests[0][0] if self._tests else 0

    def matches(self, labels: Mapping[str, str], name: str = "") -> bool:
        """Whether a node is selected.

        Args:
            labels: The node's labels.
            name: The node's name. Where it is empty, requirements on the name are ignored, so that a term that has no others
                holds: this is what Kubernetes' `nodeaffinity` does for a node without a name.

        Complexity:
            O(requirements), whatever the number of values.
        """
        if self._only is None:
            return self.matched(labels, name) is not None
        for key, values, wanted in self._only:  # noqa: SIM110 - a generator would cost more than the look-ups
            if (labels.get(key) in values) is not wanted:
                return False
        return True

    def matched(self, labels: Mapping[str, str], name: str = "") -> int | None:
        """How many requirements the largest term that holds has; None where none holds. Arguments and cost as `matches`."""
        for requirements, expressions, names in self._tests:
            if _hold(expressions, labels) and (not name or _hold(names, {NAME_FIELD: name})):
                return requirements
        return None

    def explain(self, labels: Mapping[str, str], name: str = "") -> str:
        """Why a node is selected or not: every requirement that failed, with what the node has instead."""
        if not self.terms:
            return "the selector selects nothing"
        failed = [(term, term.failing(labels, name)) for term in self.terms]
        holding = [term for term, failing in failed if not failing]
        if holding:
            text = str(max(holding, key=lambda term: term.requirements))
            return f"the node meets {text!r}" if text else "the selector selects every node"
        if len(failed) == 1:
            return "; ".join(failed[0][1])
        more = len(failed) - _SHOWN_TERMS
        shown = [f"({i}) {'; '.join(failing)}" for i, (_, failing) in enumerate(failed[:_SHOWN_TERMS], start=1)]
        return f"none of {len(failed)} terms holds: {' '.join(shown)}{f' and {more} more' if more > 0 else ''}"

    def to_label_selector(self) -> dict[str, object] | None:
        """The LabelSelector that `from_label_selector` reads back as an equal selector; None for the one that selects nothing.

        Raises:
            InvalidSelectorError: A LabelSelector cannot say it: `expression` is the part, `to_terms` can.
        """
        if not self.terms:
            return None
        beyond = self._beyond_labels()
        if beyond is not None:
            part, reason = beyond
            raise InvalidSelectorError(part, f"a LabelSelector cannot say it: {reason}; node selector terms can")
        labels: dict[str, str] = {}
        expressions: list[dict[str, object]] = []
        for requirement in self.terms[0].expressions:
            key, operator, values = requirement
            if operator == "In" and len(values) == 1 and key not in labels:
                labels[key] = values[0]
            else:
                expressions.append(_written(requirement))
        return ({"matchLabels": labels} if labels else {}) | ({"matchExpressions": expressions} if expressions else {})

    def to_terms(self) -> dict[str, object]:
        """The mapping with `nodeSelectorTerms` that `from_terms` reads back as an equal selector.

        The selector that selects nothing is one empty term.

        Raises:
            InvalidSelectorError: The selector selects everything, which terms cannot say: to them an empty term selects nothing.
        """
        if self.terms and not self.terms[0].requirements:
            reason = "the selector selects everything, which node selector terms cannot say; an empty LabelSelector can"
            raise InvalidSelectorError(_TERMS_FORM, reason)
        terms = []
        for term in self.terms:
            parts = (("matchExpressions", term.expressions), ("matchFields", term.names))
            terms.append({name: [_written(each) for each in part] for name, part in parts if part})
        return {_TERMS_FORM: terms or [{}]}

    def to_manifest(self) -> dict[str, object]:
        """The mapping that `from_manifest` reads back as an equal selector: a LabelSelector where one can say it, else terms."""
        labels = self.to_label_selector() if self._beyond_labels() is None else None
        return self.to_terms() if labels is None else labels

    def _beyond_labels(self) -> tuple[str, str] | None:
        """The part of it that a LabelSelector cannot say, and why; None where it can say all."""
        if len(self.terms) > 1:
            return _TERMS_FORM, f"it has {len(self.terms)} terms, of which one must hold"
        for term in self.terms:
            if term.names:
                return "matchFields", "it matches the node's name"
            for each in term.expressions:
                if each.operator in ORDER_SIGNS:
                    return str(each), f"{each.operator} is not one of {', '.join(LABEL_OPERATORS)}"
        return None

    def __str__(self) -> str:
        """The canonical text, which `parse` reads back; what the text form cannot say is shown so that `parse` refuses it."""
        return " or ".join(str(term) for term in self.terms) if self.terms else "<nothing>"

    def __repr__(self) -> str:
        """The call that makes an equal selector."""
        if not self.requirements:
            return f"NodeSelector.{'everything' if self.terms else 'nothing'}()"
        if self._only is not None:
            return f"NodeSelector.parse({str(self)!r})"
        return f"NodeSelector.from_terms({self.to_terms()[_TERMS_FORM]!r})"


def _normal(term: Term) -> Term:
    expressions = (check_requirement(shorten(each.key), *each) for each in term.expressions)
    names = (check_name_requirement(shorten(each.key), *each) for each in term.names)
    return Term(tuple(sorted(expressions)), tuple(sorted(names)))


def _tests(requirements: tuple[Requirement, ...]) -> tuple[Test, ...]:
    """The look-ups, cheap ones first."""
    return tuple(each.test() for each in sorted(requirements, key=lambda each: TERM_OPERATORS.index(each.operator)))


def _hold(tests: tuple[Test, ...], labels: Mapping[str, str]) -> bool:
    for key, values, wanted in tests:  # noqa: SIM110 - a generator would cost more than the look-ups
        if (labels.get(key) in values) is not wanted:
            return False
    return True


def _written(requirement: Requirement) -> dict[str, object]:
    key, operator, values = requirement
    return {"key": key, "operator": operator} | ({"values": list(values)} if values else {})


def _read_term(path: str, item: object) -> Term:
    if item is None:
        return Term(())
    if not isinstance(item, Mapping):
        raise InvalidSelectorError(
            path, f"expected a mapping with matchExpressions or matchFields, found {describe(item)}"
        )
    _check_fields(path, item, ("matchExpressions", "matchFields"))
    expressions = [check_requirement(*read) for read in _read_list(path, "matchExpressions", item)]
    names = [check_name_requirement(*read) for read in _read_list(path, "matchFields", item)]
    return Term(tuple(expressions), tuple(names))


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


def _read_list(path: str, name: str, mapping: Mapping[Any, object]) -> list[tuple[str, str, str, list[str]]]:
    """The requirements of one field as (path, key, operator, values); none where the field is missing or null."""
    items = mapping.get(name)
    if items is None:
        return []
    inside = f"{path}.{name}" if path else name
    if not isinstance(items, (list, tuple)):
        raise InvalidSelectorError(inside, f"expected a list, found {describe(items)}")
    return [_read_expression(f"{inside}[{i}]", item) for i, item in enumerate(items)]


def _read_expression(path: str, item: object) -> tuple[str, str, str, list[str]]:
    if not isinstance(item, Mapping):
        raise InvalidSelectorError(path, f"expected a mapping with key, operator and values, found {describe(item)}")
    _check_fields(path, item, ("key", "operator", "values"))
    for name in ("key", "operator"):
        if item.get(name) is None:
            raise InvalidSelectorError(f"{path}.{name}", "it is required")
    key, operator = (_text(f"{path}.{name}", item[name]) for name in ("key", "operator"))
    values = item.get("values")
    if values is None:
        values = ()
    elif not isinstance(values, (list, tuple)):
        raise InvalidSelectorError(f"{path}.values", f"expected a list of texts, found {describe(values)}")
    return path, key, operator, [_text(f"{path}.values[{i}]", value) for i, value in enumerate(values)]
