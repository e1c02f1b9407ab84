"""A node as the library sees it: a name and its labels, which `selector` matches."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ciliumipam.errors import InvalidNameError
from ciliumipam.names import describe, label_key_problem, label_value_problem, shorten, validate_name
from ciliumipam.value import Value


class Node(Value):
    """A node's name and labels. Immutable, hashable, equal by content whatever the order of the labels.

    Attributes:
        name: A DNS-1123 subdomain.
        label_pairs: The labels as pairs, sorted by key.
    """

    __slots__ = ("_labels", "label_pairs", "name")
    name: str
    label_pairs: tuple[tuple[str, str], ...]
    _labels: dict[str, str]

    def __init__(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Check and copy.

        Args:
            name: The node's name in Kubernetes.
            labels: Label values by key; None means no labels.

        Raises:
            InvalidNameError: Kubernetes would refuse the name, a label key or a label value.
        """
        validate_name("node name", name)
        pairs = dict(labels or {})
        for key, value in pairs.items():
            for kind, text, problem in (
                ("label key", key, label_key_problem),
                ("label value", value, label_value_problem),
            ):
                if not isinstance(text, str):
                    raise InvalidNameError(kind, describe(text), "it is not text")
                reason = problem(text)
                if reason:
                    raise InvalidNameError(kind, shorten(text), reason)
        self._put(name, tuple(sorted(pairs.items())), pairs)

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels by key, read-only."""
        return MappingProxyType(self._labels)

    def __repr__(self) -> str:
        """The call that makes an equal node."""
        return f"Node({self.name!r}, {dict(self.label_pairs)!r})"
