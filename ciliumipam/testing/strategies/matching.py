"""Requirements and selectors of all forms that Kubernetes knows, on request such as select some nodes, or none of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from ciliumipam.node import Node
from ciliumipam.requirement import LABEL_OPERATORS, NAME_FIELD, ORDER_SIGNS, Operator, Requirement
from ciliumipam.selector import NodeSelector, Term
from ciliumipam.testing.strategies.fleet import label_keys, label_values, node_names

_MOST = (1 << 63) - 1
_OPPOSITES: dict[Operator, Operator] = {"In": "NotIn", "NotIn": "In", "Exists": "DoesNotExist", "DoesNotExist": "Exists", "Gt": "Lt", "Lt": "Gt"}

# built once: Hypothesis looks a strategy through when it is new
_OPERATORS: st.SearchStrategy[Operator] = st.sampled_from(tuple(_OPPOSITES))
_OF_LABELS: st.SearchStrategy[Operator] = st.sampled_from(tuple(each for each in _OPPOSITES if each in LABEL_OPERATORS))
_ON_NAME: st.SearchStrategy[Operator] = st.sampled_from(("In", "NotIn"))
_NUMBERS = st.integers(0, 20) | st.integers(0, _MOST)


@st.composite
def requirements(draw: st.DrawFn, *, compares: bool = True, on_name: bool = False) -> Requirement:
    """Requirements on a label; they shrink to `rack=r1`.

    Args:
        compares: Also with Gt and Lt, which only node selector terms and the text form know.
        on_name: On a node's name instead.
    """
    if on_name:
        return Requirement(NAME_FIELD, draw(_ON_NAME), (draw(node_names()),))
    key = draw(label_keys())
    operator = draw(_OPERATORS if compares else _OF_LABELS)
    # drawn also where it is not needed: with fewer choices, any other operator would count as simpler than In
    several = draw(_several_values(key))
    if operator in ORDER_SIGNS:
        return Requirement(key, operator, (str(draw(_NUMBERS)),))
    return Requirement(key, operator, several if operator in {"In", "NotIn"} else ())


@cache
def _several_values(key: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(label_values(key), min_size=1, max_size=3, unique=True).map(lambda values: tuple(sorted(values)))


class _Condition(NamedTuple):
    """A requirement, and whether it is one on the name: there may be a label that is called like that field."""

    requirement: Requirement
    on_name: bool

    def holds(self, node: Node) -> bool:
        return self.requirement.holds({NAME_FIELD: node.name} if self.on_name else node.labels)


def _on_label(requirement: Requirement) -> _Condition:
    return _Condition(requirement, on_name=False)


def _on_name(requirement: Requirement) -> _Condition:
    return _Condition(requirement, on_name=True)


_ON_LABELS = requirements(compares=False).map(_on_label)
_LABEL_TERMS = st.lists(_ON_LABELS, max_size=3)
_TERMS = st.lists(st.lists(requirements().map(_on_label) | requirements(on_name=True).map(_on_name), min_size=1, max_size=3), min_size=1, max_size=3)


@st.composite
def label_selectors(draw: st.DrawFn, *, selects: Iterable[Node] = (), refuses: Iterable[Node] = ()) -> NodeSelector:
    """Selectors that a LabelSelector can say; they shrink to the one that selects everything, and to `rack=r1`.

    Args:
        selects: Nodes that it selects, all of them.
        refuses: Nodes of which it selects none; not together with `selects`.
    """
    aim = _Aim.of(selects, refuses)
    found = draw(st.lists(_ON_LABELS, min_size=1, max_size=3) if aim.refuses else _LABEL_TERMS)
    return NodeSelector((_term(draw, found, aim),))


@st.composite
def term_selectors(draw: st.DrawFn, *, selects: Iterable[Node] = (), refuses: Iterable[Node] = ()) -> NodeSelector:
    """Selectors that are node selector terms: one or several, with Gt and Lt, on labels and on the name; they shrink to `rack=r1`.

    Args:
        selects: Nodes that it selects, all of them by one term.
        refuses: Nodes of which it selects none; not together with `selects`.
    """
    aim = _Aim.of(selects, refuses)
    many = draw(_TERMS)
    selecting = draw(st.integers(0, len(many) - 1)) if aim.selects else None
    free = _Aim((), ())
    return NodeSelector(tuple(_term(draw, found, aim if selecting in {None, number} else free) for number, found in enumerate(many)))


def selectors(*, selects: Iterable[Node] = (), refuses: Iterable[Node] = ()) -> st.SearchStrategy[NodeSelector]:
    """Selectors in both forms, as `label_selectors` and `term_selectors` make them; never the one that selects nothing.

    `NodeSelector.to_manifest` makes a document of one, and `str` its text where it has a single term that asks for labels only.
    """
    selects, refuses = tuple(selects), tuple(refuses)
    return label_selectors(selects=selects, refuses=refuses) | term_selectors(selects=selects, refuses=refuses)


class _Aim(NamedTuple):
    """The nodes that a selector is to select, or to refuse."""

    selects: tuple[Node, ...]
    refuses: tuple[Node, ...]

    @classmethod
    def of(cls, selects: Iterable[Node], refuses: Iterable[Node]) -> _Aim:
        aim = cls(tuple(selects), tuple(refuses))
        if aim.selects and aim.refuses:
            raise InvalidArgument("a selector can be asked to select nodes or to refuse nodes, not both")
        return aim


def _term(draw: st.DrawFn, found: list[_Condition], aim: _Aim) -> Term:
    """The conditions, changed where that is needed: all hold for each node that is to be selected, one for none to be refused."""
    if aim.refuses:
        failing = draw(st.integers(0, len(found) - 1))
        found[failing] = _changed(found[failing], aim.refuses, holds=False)
    made = [_changed(each, aim.selects, holds=True) for each in found]
    return Term(
        tuple(each.requirement for each in made if not each.on_name), tuple(each.requirement for each in made if each.on_name)
    )


def _changed(condition: _Condition, nodes: tuple[Node, ...], *, holds: bool) -> _Condition:
    """The condition, its opposite, or one about a value that no node has: the first that holds for all of the nodes, or for none."""
    requirement, on_name = condition
    seen = {node.name if on_name else node.labels.get(requirement.key) for node in nodes}
    unseen = next(value for number in range(len(nodes) + 1) if (value := f"elsewhere-{number}") not in seen)
    sure = Requirement(requirement.key, "NotIn" if holds else "In", (unseen,))
    for each in (requirement, *_opposite(requirement), sure):
        made = _Condition(each, on_name)
        if all(made.holds(node) is holds for node in nodes):
            return made
    raise AssertionError(f"{sure} holds for some of {nodes} and not for others")


def _opposite(requirement: Requirement) -> tuple[Requirement, ...]:
    """What holds where a requirement does not, if it can be written: of numbers, only where a node has one."""
    key, operator, values = requirement
    if operator in ORDER_SIGNS:
        number = int(values[0]) + (1 if operator == "Gt" else -1)
        if not 0 <= number <= _MOST:
            return ()
        values = (str(number),)
    return (Requirement(key, _OPPOSITES[operator], values),)
