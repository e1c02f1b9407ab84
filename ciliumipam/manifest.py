"""Manifests to pools and nodes, and back: the shapes that users write, read from mappings. No YAML or JSON text in here.

Four kinds are read (beside lists of them):

* `CiliumNodeConfig` of `cilium.io`, in the form of the seed text: a selector and `spec.ipam.operator.clusterPool...`. It becomes
  a pool named as the manifest. Cilium's own form (`spec.defaults`) configures its agent and holds no pool.
* `CIDRPool` of `ciliumipam.io`: everything that `PoolSpec` can say.
* `Node` of Kubernetes' core: a name and labels; everything else that a Node has is known and not looked at.

Nothing is guessed and nothing unknown is skipped: an unknown field is an error that names its path and the nearest valid one, a
wrong type names path, value found and value expected, and all problems of a document are told at once. A field that is `null` is
absent, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ciliumipam.cidr import Family, parse_prefix
from ciliumipam.errors import (
    InvalidCidrError,
    InvalidManifestError,
    InvalidNameError,
    InvalidPoolError,
    InvalidSelectorError,
)
from ciliumipam.names import describe, label_key_problem, label_value_problem, shorten, unknown_field, validate_name
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.selector import NodeSelector

Item: TypeAlias = PoolSpec | Node

API_VERSION = "ciliumipam.io/v1alpha1"

_TOLD = 20
_CILIUM = ("cilium.io/v2", "cilium.io/v2alpha1")
_MANIFEST = "a manifest, which is a mapping with apiVersion, kind and metadata"
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    *("name", "labels", "annotations", "namespace", "generateName", "uid", "resourceVersion", "generation"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "finalizers"),
    *("managedFields", "selfLink"),
)
_OPERATOR = "spec.ipam.operator"
_LISTS: tuple[tuple[Family, str, str], ...] = (
    (4, "clusterPoolIPv4PodCIDRs", "clusterPoolIPv4MaskSize"),
    (6, "clusterPoolIPv6PodCIDRs", "clusterPoolIPv6MaskSize"),
)


def read_manifest(document: object, source: str) -> tuple[Item, ...]:
    """The pools and nodes of one document, in its order.

    Args:
        document: One object, or a `List` (`NodeList`, ...) of them, as a YAML or JSON reader gives it.
        source: The file or document, for errors.

    Raises:
        InvalidManifestError: The document cannot be used, with all that is wrong with it: `path` is the place of the first problem,
            `reason` tells the first and then every further one with its path.
    """
    reader = _Reader()
    items = reader.document(document)
    if reader.problems:
        (path, reason), *others = reader.problems
        further = [f"{where}: {why}" if where else why for where, why in others[:_TOLD]]
        if len(others) > _TOLD:
            further.append(f"and {len(others) - _TOLD} more problems")
        raise InvalidManifestError(source, path, "; ".join((reason, *further))) from reader.cause
    return tuple(items)


def pool_to_manifest(spec: PoolSpec) -> dict[str, Any]:
    """A pool as a `CIDRPool` manifest, which `read_manifest` reads back as an equal pool."""
    return {"apiVersion": API_VERSION, "kind": "CIDRPool", "metadata": {"name": spec.name}, "spec": spec.to_dict()}


class _Reader:
    """Walks one document and collects problems as (path, reason); a method returns None where it found one."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self.cause: InvalidPoolError | None = None
        self._root = ""

    def document(self, document: object) -> list[Item]:
        mapping = self._mapping("", document, _MANIFEST)
        if mapping is None:
            return []
        kind = self._kind(mapping)
        if kind is None:
            return []
        listed = _LIST_KINDS.get(kind)
        if listed is None:
            item = _KINDS[kind](self, mapping)
            return [] if item is None else [item]
        self._fields("", mapping, ("apiVersion", "kind", "metadata", "items"))
        items: list[Item] = []
        for index, value in enumerate(self._list("items", mapping.get("items")) or ()):
            self._root = f"items[{index}]"
            inner = self._mapping("", value, _MANIFEST)
            if inner is None:
                continue
            if listed and "kind" not in inner and "apiVersion" not in inner:
                # An API server leaves both out of the items of a typed list.
                inner = {**inner, "apiVersion": kind[0], "kind": listed}
            inner_kind = self._kind(inner)
            if inner_kind in _LIST_KINDS:
                self._problem("kind", "a List inside a List is not read; put its items into the outer one")
            elif inner_kind is not None:
                item = _KINDS[inner_kind](self, inner)
                items += [] if item is None else [item]
        return items

    def node(self, document: Mapping[Any, object]) -> Node | None:
        name, metadata = self._metadata(document, "node name")
        given = self._optional_mapping("metadata.labels", metadata.get("labels"), "a mapping of label values by key")
        labels: dict[str, str] = {}
        for key, value in given.items():
            if not isinstance(key, str):
                self._problem("metadata.labels", f"a label key is text, found {describe(key)}")
                continue
            path = f"metadata.labels[{shorten(key)!r}]"
            problem = label_key_problem(key)
            if problem:
                self._problem(path, f"the key is not a label key: {problem}")
            text = self._text(path, value)
            problem = label_value_problem(text or "")
            if problem:
                self._problem(path, f"{describe(text)} is not a label value: {problem}")
            labels[key] = text or ""
        return None if name is None or self.problems else Node(name, labels)

    def cidr_pool(self, document: Mapping[Any, object]) -> PoolSpec | None:
        name, _ = self._metadata(document, "pool name")
        spec = self._child(
            document, "spec", ("cidrs", "nodeSelector", "blockLength", "reserved", "allowFirst", "allowLast")
        )
        if spec is None:
            return None
        selector = self._selector(spec)
        cidrs = self._texts("spec.cidrs", spec.get("cidrs"))
        lengths = self._optional_mapping("spec.blockLength", spec.get("blockLength"), "a mapping with ipv4 and ipv6")
        self._fields("spec.blockLength", lengths, ("ipv4", "ipv6"))
        reserved = self._texts("spec.reserved", spec.get("reserved"))
        if cidrs is None:
            return None
        names = {
            "block_length_v4": (lengths, "ipv4", "spec.blockLength.ipv4"),
            "block_length_v6": (lengths, "ipv6", "spec.blockLength.ipv6"),
            "allow_first": (spec, "allowFirst", "spec.allowFirst"),
            "allow_last": (spec, "allowLast", "spec.allowLast"),
        }
        scalars = {field: mapping[key] for field, (mapping, key, _) in names.items() if mapping.get(key) is not None}

        def path_of(field: str, index: str) -> str:
            return names[field][2] if field in names else f"spec.{field}{index}"

        return self._pool(path_of, name, selector, cidrs=cidrs, reserved=reserved or (), **scalars)

    def cilium_node_config(self, document: Mapping[Any, object]) -> PoolSpec | None:
        name, _ = self._metadata(document, "pool name")
        spec = self._child(document, "spec", ("nodeSelector", "ipam", "defaults"))
        if spec is None:
            return None
        if spec.get("defaults") is not None and spec.get("ipam") is None:
            self._problem(
                "spec.defaults", "it configures Cilium's agent and holds no pool; a pool needs spec.ipam.operator"
            )
            return None
        selector = self._selector(spec)
        if spec.get("ipam") is None:
            self._problem("spec.ipam", f"it is required; the CIDRs belong into {_OPERATOR}.{_LISTS[0][1]}")
            return None
        ipam = self._child(spec, "spec.ipam", ("operator",))
        operator = (
            None
            if ipam is None
            else self._child(ipam, _OPERATOR, tuple(field for _, *fields in _LISTS for field in fields))
        )
        if operator is None:
            return None
        cidrs: list[str] = []
        paths: list[str] = []
        complete = True
        for family, list_field, _ in _LISTS:
            path = f"{_OPERATOR}.{list_field}"
            texts = self._texts(path, operator.get(list_field))
            complete &= texts is not None
            for index, text in enumerate(texts or ()):
                complete &= self._is_of_family(f"{path}[{index}]", text, family)
                cidrs.append(text)
                paths.append(f"{path}[{index}]")
        if not complete:
            return None
        sizes = {f"block_length_v{family}": size_field for family, _, size_field in _LISTS}

        def path_of(field: str, index: str) -> str:
            if field in sizes:
                return f"{_OPERATOR}.{sizes[field]}"
            return paths[int(index[1:-1])] if index else _OPERATOR

        lengths = {field: operator.get(size_field) for field, size_field in sizes.items()}
        return self._pool(path_of, name, selector, cidrs=cidrs, **lengths)

    def _pool(
        self, path_of: Callable[[str, str], str], name: str | None, selector: NodeSelector | None, **fields: Any
    ) -> PoolSpec | None:
        """The pool, or its problems with their fields turned into paths of the manifest.

        A name or selector that was not usable is stood in for, so that the problems of the other fields are told as well.
        """
        try:
            return PoolSpec(
                name=name or "unnamed", selector=NodeSelector.everything() if selector is None else selector, **fields
            )
        except InvalidPoolError as error:
            self.cause = error
            for problem in error.problems:
                field, _, reason = problem.partition(": ")
                base, bracket, index = field.partition("[")
                self._problem(path_of(base, bracket + index), reason)
            return None

    def _is_of_family(self, path: str, text: str, family: Family) -> bool:
        """Whether a CIDR may stand in this family's list; one that is no CIDR at all is left to the pool."""
        try:
            found = parse_prefix(text).family
        except InvalidCidrError:
            return True
        if found != family:
            right = next(name for other, name, _ in _LISTS if other == found)
            self._problem(
                path, f"{text!r} is an IPv{found} CIDR in the list for IPv{family}; it belongs into {_OPERATOR}.{right}"
            )
        return found == family

    def _selector(self, spec: Mapping[Any, object]) -> NodeSelector | None:
        value = spec.get("nodeSelector")
        if value is None:
            reason = "it is required, since a selector that is absent selects nothing; write {} to select every node"
            self._problem("spec.nodeSelector", reason)
            return None
        mapping = self._mapping("spec.nodeSelector", value, "a mapping with matchLabels or matchExpressions")
        try:
            return None if mapping is None else NodeSelector.from_label_selector(mapping)
        except InvalidSelectorError as error:
            self._problem(f"spec.nodeSelector.{error.expression}".rstrip("."), error.reason)
            return None

    def _kind(self, document: Mapping[Any, object]) -> tuple[str, str] | None:
        version, kind = (self._text(field, document.get(field), required=True) for field in ("apiVersion", "kind"))
        if version is None or kind is None:
            return None
        if (version, kind) in _KINDS or (version, kind) in _LIST_KINDS:
            return version, kind
        known = ", ".join(
            f"{kind} ({version})" for version, kind in sorted(_KINDS, key=lambda pair: (pair[1], pair[0]))
        )
        self._problem(
            "kind",
            f"{shorten(kind)} ({shorten(version)}) is not a kind that is read here; known: {known}, and List (v1) of these",
        )
        return None

    def _metadata(self, document: Mapping[Any, object], name_kind: str) -> tuple[str | None, Mapping[Any, object]]:
        self._fields("", document, _TOP)
        metadata = self._child(document, "metadata", _METADATA)
        if metadata is None:
            return None, {}
        name = self._text("metadata.name", metadata.get("name"), required=True)
        if name is not None:
            try:
                validate_name(name_kind, name)
            except InvalidNameError as error:
                self._problem("metadata.name", str(error))
                name = None
        return name, metadata

    def _child(self, parent: Mapping[Any, object], path: str, known: tuple[str, ...]) -> Mapping[Any, object] | None:
        """The mapping under the last name of the path, its fields checked."""
        mapping = self._mapping(path, parent.get(path.rpartition(".")[2]), f"a mapping with {', '.join(known[:6])}")
        self._fields(path, mapping or {}, known)
        return mapping

    def _fields(self, path: str, mapping: Mapping[Any, object], known: tuple[str, ...]) -> None:
        dot = "." if path else ""
        for name in mapping:
            if name not in known:
                self._problem(
                    f"{path}{dot}{shorten(name)}" if isinstance(name, str) else path, unknown_field(name, known)
                )

    def _mapping(self, path: str, value: object, expected: str) -> Mapping[Any, object] | None:
        if isinstance(value, Mapping):
            return value
        self._problem(path, f"expected {expected}; found {describe(value)}")
        return None

    def _optional_mapping(self, path: str, value: object, expected: str) -> Mapping[Any, object]:
        return {} if value is None else self._mapping(path, value, expected) or {}

    def _list(self, path: str, value: object) -> list[object] | None:
        if value is None:
            return []
        if isinstance(value, (list, tuple)):
            return list(value)
        self._problem(path, f"expected a list, found {describe(value)}")
        return None

    def _texts(self, path: str, value: object) -> list[str] | None:
        values = self._list(path, value)
        if values is None:
            return None
        texts = [self._text(f"{path}[{index}]", item) for index, item in enumerate(values)]
        return None if None in texts else [text for text in texts if text is not None]

    def _text(self, path: str, value: object, *, required: bool = False) -> str | None:
        if isinstance(value, str):
            return value
        if value is None and required:
            self._problem(path, "it is required")
        elif value is None or isinstance(value, (Mapping, list, tuple)):
            self._problem(path, f"expected text, found {describe(value)}")
        else:
            self._problem(path, f"expected text, found {describe(value)}; put it in quotes")
        return None

    def _problem(self, path: str, reason: str) -> None:
        self.problems.append((".".join(part for part in (self._root, path) if part), reason))


_KINDS: dict[tuple[str, str], Callable[[_Reader, Mapping[Any, object]], Item | None]] = {
    (API_VERSION, "CIDRPool"): _Reader.cidr_pool,
    **{(version, "CiliumNodeConfig"): _Reader.cilium_node_config for version in _CILIUM},
    ("v1", "Node"): _Reader.node,
}
_LIST_KINDS: dict[tuple[str, str], str] = {
    ("v1", "List"): "",
    **{(version, f"{kind}List"): kind for version, kind in _KINDS},
}
"""List kinds by version and kind, and the kind of their items; a plain List has items of any kind."""
