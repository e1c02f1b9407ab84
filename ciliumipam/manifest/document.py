"""Documents to items: which kind is read by what, lists of them, and nodes that two kinds tell of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from ciliumipam.manifest import calico, cilium, kubernetes, ours
from ciliumipam.manifest.reader import MANIFEST, Reader
from ciliumipam.names import shorten
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import ExistingBlock

Item: TypeAlias = PoolSpec | Node | ExistingBlock
Kind: TypeAlias = tuple[str, str]
"""apiVersion and kind."""


class Manifest(NamedTuple):
    """What one or more documents say.

    Attributes:
        items: Pools, nodes and blocks that nodes hold already, in the order of the documents.
        ignored: A sentence for each field that is known and has no meaning here.
        refused: A sentence for each holding in a dump that cannot be adopted. The rest of the dump stands.
    """

    items: tuple[Item, ...]
    ignored: tuple[str, ...]
    refused: tuple[str, ...]


def read_manifest(document: object, source: str) -> Manifest:
    """Read one document.

    Args:
        document: One object, or a `List` (`NodeList`, ...) of them, as a YAML or JSON reader gives it.
        source: The file or document, for errors.

    Raises:
        InvalidManifestError: The document cannot be used, with all that is wrong with it: `path` is the place of the first problem,
            `reason` tells the first and then every further one with its path.
    """
    return read_manifests([(source, document)])


def read_manifests(documents: Iterable[tuple[str, object]]) -> Manifest:
    """Read several documents, each with its source, as one.

    Where a core Node and a CiliumNode tell of one node, wherever they stand, the core Node's labels count.

    Raises:
        InvalidManifestError: As `read_manifest`, for the first document that cannot be used.
    """
    reader = Reader()
    items: list[Item] = []
    of_cilium: dict[int, str] = {}
    for source, document in documents:
        reader.begin(source)
        for kind, found in _read(reader, document):
            if found and kind == _CILIUM_NODE:
                of_cilium[len(items)] = source
            items += found
        reader.finish()
    return Manifest(_first_hand(reader, items, of_cilium), tuple(reader.ignored), tuple(reader.refused))


def _read(reader: Reader, document: object) -> Iterable[tuple[Kind, Sequence[Item]]]:
    """The objects of one document, each with its kind and its items."""
    mapping = reader.mapping("", document, MANIFEST)
    kind = None if mapping is None else _kind(reader, mapping)
    if mapping is None or kind is None:
        return
    listed = _LIST_KINDS.get(kind)
    if listed is None:
        yield kind, _KINDS[kind](reader, mapping)
        return
    reader.fields("", mapping, ("apiVersion", "kind", "metadata", "items"))
    for index, value in enumerate(reader.items("items", mapping.get("items")) or ()):
        reader.root = f"items[{index}]"
        inner = reader.mapping("", value, MANIFEST)
        if inner is None:
            continue
        if listed and "kind" not in inner and "apiVersion" not in inner:
            # An API server leaves both out of the items of a typed list.
            inner = {**inner, "apiVersion": kind[0], "kind": listed}
        inner_kind = _kind(reader, inner)
        if inner_kind in _LIST_KINDS:
            reader.problem("kind", "a List inside a List is not read; put its items into the outer one")
        elif inner_kind is not None:
            yield inner_kind, _KINDS[inner_kind](reader, inner)


def _kind(reader: Reader, document: Mapping[Any, object]) -> Kind | None:
    version, kind = (reader.text(field, document.get(field), required=True) for field in ("apiVersion", "kind"))
    if version is None or kind is None:
        return None
    if (version, kind) in _KINDS or (version, kind) in _LIST_KINDS:
        return version, kind
    reader.problem("kind", f"{shorten(kind)} ({shorten(version)}) is not a kind that is read here; known: {_known()}")
    return None


def _known() -> str:
    versions: dict[str, list[str]] = {}
    for version, kind in sorted(_KINDS):
        versions.setdefault(kind, []).append(version)
    kinds = [f"{kind} ({', '.join(some)})" for kind, some in sorted(versions.items())]
    return f"{', '.join(kinds)}, and List (v1) of these"


def _first_hand(reader: Reader, items: list[Item], of_cilium: Mapping[int, str]) -> tuple[Item, ...]:
    """The items without the nodes of CiliumNodes (their indices and sources are given) that a core Node tells of as well."""
    core = {item.name: item for index, item in enumerate(items) if isinstance(item, Node) and index not in of_cilium}
    kept: list[Item] = []
    for index, item in enumerate(items):
        first = core.get(item.name) if isinstance(item, Node) and index in of_cilium else None
        if first is None:
            kept.append(item)
        elif item != first:
            where = f"{of_cilium[index]}: CiliumNode {first.name}: metadata.labels"
            reader.ignored.append(f"{where}: they differ from those of the Node {first.name}, which count")
    return tuple(kept)


_CILIUM_NODE: Kind = (cilium.NODE_VERSION, "CiliumNode")
_KINDS: dict[Kind, Callable[[Reader, Mapping[Any, object]], Sequence[Item]]] = {
    (ours.API_VERSION, "CIDRPool"): ours.cidr_pool,
    (ours.API_VERSION, "CIDRBlock"): ours.cidr_block,
    **{(version, "CiliumNodeConfig"): cilium.cilium_node_config for version in cilium.VERSIONS},
    **{(version, "CiliumPodIPPool"): cilium.cilium_pod_ip_pool for version in cilium.VERSIONS},
    _CILIUM_NODE: cilium.cilium_node,
    ("v1", "Node"): kubernetes.node,
    **{(version, "ClusterCIDR"): kubernetes.cluster_cidr for version in kubernetes.CLUSTER_CIDR_VERSIONS},
    **{(version, "IPPool"): calico.ip_pool for version in calico.VERSIONS},
}
_LIST_KINDS: dict[Kind, str] = {
    ("v1", "List"): "",
    **{(version, f"{kind}List"): kind for version, kind in _KINDS},
}
"""List kinds by version and kind, and the kind of their items; a plain List has items of any kind."""
