"""The strict reader that every kind is read with: it walks one document and collects what is wrong with it.

Nothing is guessed and nothing unknown is skipped: an unknown field is a problem that names its path and the nearest valid one, a
wrong type names path, value found and value expected, and all problems of a document are told at once. A field that is `null` is
absent, as in Kubernetes. What is known and has no meaning here is listed as ignored; what a dump says of holdings and cannot be
adopted is listed as refused, and stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ciliumipam.cidr import Family, parse_prefix
from ciliumipam.errors import (
    InvalidCidrError,
    InvalidManifestError,
    InvalidNameError,
    InvalidPoolError,
    InvalidSelectorError,
)
from ciliumipam.names import describe, label_key_problem, label_value_problem, shorten, unknown_field, validate_name
from ciliumipam.pool import PoolSpec
from ciliumipam.selector import NodeSelector

MANIFEST = "a manifest, which is a mapping with apiVersion, kind and metadata"

LABELS = "matchLabels or matchExpressions"
TERMS = "nodeSelectorTerms"

_TOLD = 20
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    *("name", "labels", "annotations", "namespace", "generateName", "uid", "resourceVersion", "generation"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "finalizers"),
    *("managedFields", "selfLink"),
)
_WRITTEN_BY_TOOLS = ("kubectl.kubernetes.io/last-applied-configuration", "projectcalico.org/metadata")
_NO_SELECTOR = "it is required, since a selector that is absent selects nothing; write {} to select every node"

PathOf = Callable[[str, str, str], str]
"""The manifest's path of a field of PoolSpec: its name, "[index]" or "", and ".inner" or "" of an entry."""


def cidr_problem(error: InvalidCidrError) -> str:
    """The error's sentence, whatever the length of the text that is no CIDR."""
    return f"{shorten(error.value)!r} is not a usable CIDR: {shorten(error.reason, 160)}"


class Reader:
    """Collects problems as (path, reason), and sentences on what is ignored or refused. Methods return None for what is unusable."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self.refused: list[str] = []
        self.problems: list[tuple[str, str]] = []
        self.cause: InvalidPoolError | None = None
        self.source = ""
        self.root = ""

    def begin(self, source: str) -> None:
        """Go on to a document without problems."""
        self.source, self.root, self.problems, self.cause = source, "", [], None

    def finish(self) -> None:
        """Raise the problems of the document, if there are any.

        Raises:
            InvalidManifestError: `path` is the place of the first, `reason` tells it and then every further one with its path.
        """
        if not self.problems:
            return
        (path, reason), *others = self.problems
        further = [f"{where}: {why}" if where else why for where, why in others[:_TOLD]]
        if len(others) > _TOLD:
            further.append(f"and {len(others) - _TOLD} more problems")
        raise InvalidManifestError(self.source, path, "; ".join((reason, *further))) from self.cause

    def problem(self, path: str, reason: str) -> None:
        """Note what makes the document unusable."""
        self.problems.append((self._full(path), reason))

    def ignore(self, path: str, reason: str = "known, without meaning here") -> None:
        """Note what is passed over."""
        self.ignored.append(f"{self.source}: {self._full(path)}: {reason}")

    def refuse(self, where: str, reason: str) -> None:
        """Note what a dump says of a holding and cannot be adopted."""
        self.refused.append(f"{self.source}: {where}: {reason}")

    def _full(self, path: str) -> str:
        return ".".join(part for part in (self.root, path) if part)

    # -------------------------------------------------------------------------------------------------- values

    def mapping(self, path: str, value: object, expected: str) -> Mapping[Any, object] | None:
        """A required mapping, its fields not checked yet."""
        if isinstance(value, Mapping):
            return value
        self.problem(path, f"expected {expected}; found {describe(value)}")
        return None

    def optional_mapping(self, path: str, value: object, expected: str) -> Mapping[Any, object]:
        """The same, empty where it is absent."""
        return {} if value is None else self.mapping(path, value, expected) or {}

    def child(
        self, parent: Mapping[Any, object], path: str, known: tuple[str, ...], idle: tuple[str, ...] = ()
    ) -> Mapping[Any, object] | None:
        """The mapping under the last name of the path, its fields checked; those that are `idle` are known and ignored."""
        fields = known + idle
        mapping = self.mapping(path, parent.get(path.rpartition(".")[2]), f"a mapping with {', '.join(fields[:6])}")
        self.fields(path, mapping or {}, known, idle)
        return mapping

    def fields(
        self, path: str, mapping: Mapping[Any, object], known: tuple[str, ...], idle: tuple[str, ...] = ()
    ) -> None:
        """Check that the mapping has no other fields than these."""
        dot = "." if path else ""
        for name, value in mapping.items():
            if name in idle:
                if value is not None:
                    self.ignore(f"{path}{dot}{name}")
            elif name not in known:
                at = f"{path}{dot}{shorten(name)}" if isinstance(name, str) else path
                self.problem(at, unknown_field(name, known + idle))

    def items(self, path: str, value: object) -> list[object] | None:
        """A list, empty where it is absent."""
        if value is None:
            return []
        if isinstance(value, (list, tuple)):
            return [*value]
        self.problem(path, f"expected a list, found {describe(value)}")
        return None

    def texts(self, path: str, value: object) -> list[str] | None:
        """A list of texts, empty where it is absent."""
        values = self.items(path, value)
        if values is None:
            return None
        texts = [self.text(f"{path}[{index}]", item) for index, item in enumerate(values)]
        return None if None in texts else [text for text in texts if text is not None]

    def text(self, path: str, value: object, *, required: bool = False) -> str | None:
        """A text; with `required` its absence is told as such."""
        if isinstance(value, str):
            return value
        if value is None and required:
            self.problem(path, "it is required")
        elif value is None or isinstance(value, (Mapping, list, tuple)):
            self.problem(path, f"expected text, found {describe(value)}")
        else:
            self.problem(path, f"expected text, found {describe(value)}; put it in quotes")
        return None

    def flag(self, path: str, value: object) -> bool:
        """A boolean that is false where it is absent."""
        if value is not None and not isinstance(value, bool):
            self.problem(path, f"expected true or false, found {describe(value)}")
        return value is True

    def choice(self, path: str, value: object, known: tuple[str, ...]) -> str | None:
        """One of a few words."""
        text = self.text(path, value)
        if text is None or text in known:
            return text
        self.problem(path, f"{describe(text)} is none of {', '.join(known)}")
        return None

    # ------------------------------------------------------------------------------------------------- objects

    def metadata(self, document: Mapping[Any, object], name_kind: str) -> tuple[str | None, Mapping[Any, object]]:
        """The name, if it is one, and all of the metadata; the fields of both levels are checked."""
        self.fields("", document, _TOP)
        metadata = self.child(document, "metadata", _METADATA)
        if metadata is None:
            return None, {}
        return self.name("metadata.name", metadata.get("name"), name_kind), metadata

    def name(self, path: str, value: object, name_kind: str) -> str | None:
        """A name as Kubernetes wants it."""
        name = self.text(path, value, required=True)
        if name is not None:
            try:
                validate_name(name_kind, name)
            except InvalidNameError as error:
                self.problem(path, str(error))
                return None
        return name

    def labels(self, metadata: Mapping[Any, object]) -> dict[str, str]:
        """The labels of a node."""
        given = self.optional_mapping("metadata.labels", metadata.get("labels"), "a mapping of label values by key")
        labels: dict[str, str] = {}
        for key, value in given.items():
            if not isinstance(key, str):
                self.problem("metadata.labels", f"a label key is text, found {describe(key)}")
                continue
            path = f"metadata.labels[{shorten(key)!r}]"
            problem = label_key_problem(key)
            if problem:
                self.problem(path, f"the key is not a label key: {problem}")
            text = self.text(path, value)
            problem = label_value_problem(text or "")
            if problem:
                self.problem(path, f"{describe(text)} is not a label value: {problem}")
            labels[key] = text or ""
        return labels

    def pool_metadata(self, document: Mapping[Any, object]) -> tuple[str | None, bool]:
        """A pool's name, and whether the pool is being deleted; what else somebody wrote there is ignored."""
        name, metadata = self.metadata(document, "pool name")
        for field in ("labels", "namespace"):
            if metadata.get(field) is not None:
                self.ignore(f"metadata.{field}")
        annotations = self.optional_mapping("metadata.annotations", metadata.get("annotations"), "a mapping of texts")
        for key in annotations:
            if key not in _WRITTEN_BY_TOOLS:
                self.ignore(f"metadata.annotations[{shorten(key) if isinstance(key, str) else describe(key)!r}]")
        return name, metadata.get("deletionTimestamp") is not None

    def selector(
        self, path: str, value: object, read: Callable[[Mapping[str, object]], NodeSelector], forms: str = LABELS
    ) -> NodeSelector | None:
        """A required selector; `read` makes it of the mapping, which has one of the `forms`."""
        if value is None:
            self.problem(path, _NO_SELECTOR)
            return None
        mapping = self.mapping(path, value, f"a mapping with {forms}")
        if mapping is None:
            return None
        try:
            return read(mapping)
        except InvalidSelectorError as error:
            self.problem(f"{path}.{error.expression}".rstrip("."), error.reason)
            return None

    def pool(self, path_of: PathOf, name: str | None, selector: NodeSelector | None, **fields: Any) -> list[PoolSpec]:
        """The pool, or its problems with their fields turned into paths of the manifest.

        A name or selector that was not usable is stood in for, so that the problems of the other fields are told as well.
        """
        try:
            chosen = NodeSelector.everything() if selector is None else selector
            return [PoolSpec(name=name or "unnamed", selector=chosen, **fields)]
        except InvalidPoolError as error:
            self.cause = error
            for problem in error.problems:
                place, _, reason = problem.partition(": ")
                field, bracket, rest = place.partition("[")
                index, end, inner = rest.partition("]")
                self.problem(path_of(field, bracket + index + end, inner), reason)
            return []

    def is_of_family(self, path: str, text: str, family: Family, right_place: str) -> bool:
        """Whether a CIDR may stand where one of this family is wanted; one that is no CIDR at all is left to the pool."""
        try:
            found = parse_prefix(text).family
        except InvalidCidrError:
            return True
        if found != family:
            reason = f"{text!r} is an IPv{found} CIDR where IPv{family} is wanted; it belongs into {right_place}"
            self.problem(path, reason)
        return found == family
