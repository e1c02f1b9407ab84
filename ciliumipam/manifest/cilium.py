"""The kinds of `cilium.io`: what they say of pools, and what a `CiliumNode` says that its node holds.

`CiliumNodeConfig` is a pool in the form of the seed text: a selector and `spec.ipam.operator.clusterPool...`. Cilium's own form of
it (`spec.defaults`) configures its agent and holds no pool.

`CiliumPodIPPool` has no selector for nodes, so its pool serves every node; selectors for pods cannot be honoured and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ciliumipam.cidr import Family, parse_prefix
from ciliumipam.errors import InvalidCidrError, InvalidNameError
from ciliumipam.manifest.held import Told, held_blocks, refused_list, refused_mapping
from ciliumipam.manifest.reader import Reader
from ciliumipam.names import shorten, unknown_field, validate_name
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import ExistingBlock
from ciliumipam.selector import NodeSelector

NODE_VERSION = "cilium.io/v2"
VERSIONS = (NODE_VERSION, "cilium.io/v2alpha1")

_OPERATOR = "spec.ipam.operator"
_LISTS: tuple[tuple[Family, str, str], ...] = (
    (4, "clusterPoolIPv4PodCIDRs", "clusterPoolIPv4MaskSize"),
    (6, "clusterPoolIPv6PodCIDRs", "clusterPoolIPv6MaskSize"),
)
_FAMILIES: tuple[tuple[Family, str], ...] = ((4, "ipv4"), (6, "ipv6"))
_POD_SELECTORS = ("podSelector", "namespaceSelector")
_HOLDING = ("podCIDRs", "pools")
_SINGLE = ("pool", "ipv6-pool")
_NODE_IPAM = (
    *(*_HOLDING, *_SINGLE, "min-allocate", "max-allocate", "pre-allocate", "max-above-watermark", "static-ip-tags"),
    *("resourcepools", "resource-pools", "pod-cidr-allocation-threshold", "pod-cidr-release-threshold"),
)


def cilium_node_config(reader: Reader, document: Mapping[Any, object]) -> list[PoolSpec]:
    """A `CiliumNodeConfig` in the seed's form."""
    name, deleted = reader.pool_metadata(document)
    spec = reader.child(document, "spec", ("nodeSelector", "ipam"), idle=("defaults",))
    if spec is None:
        return []
    if spec.get("defaults") is not None and spec.get("ipam") is None:
        reason = f"it configures Cilium's agent and holds no pool; a pool needs {_OPERATOR}"
        reader.problem("spec.defaults", reason)
        return []
    selector = reader.selector("spec.nodeSelector", spec.get("nodeSelector"), NodeSelector.from_label_selector)
    if spec.get("ipam") is None:
        reader.problem("spec.ipam", f"it is required; the CIDRs belong into {_OPERATOR}.{_LISTS[0][1]}")
        return []
    ipam = reader.child(spec, "spec.ipam", ("operator",))
    known = tuple(field for _, *fields in _LISTS for field in fields)
    operator = None if ipam is None else reader.child(ipam, _OPERATOR, known)
    if operator is None:
        return []
    places = {family: f"{_OPERATOR}.{field}" for family, field, _ in _LISTS}
    cidrs = [_cidrs(reader, places, family, operator.get(field)) for family, field, _ in _LISTS]
    sizes = {f"block_length_v{family}": size_field for family, _, size_field in _LISTS}
    lengths: dict[str, Any] = {field: operator.get(size_field) for field, size_field in sizes.items()}
    paths = {field: f"{_OPERATOR}.{size_field}" for field, size_field in sizes.items()}
    return _pool(reader, name, selector, cidrs, paths, _OPERATOR, draining=deleted, **lengths)


def cilium_pod_ip_pool(reader: Reader, document: Mapping[Any, object]) -> list[PoolSpec]:
    """A `CiliumPodIPPool`, which serves every node."""
    name, deleted = reader.pool_metadata(document)
    spec = reader.child(document, "spec", ("ipv4", "ipv6", "allowFirstIP", "allowLastIP", *_POD_SELECTORS))
    if spec is None:
        return []
    for field in _POD_SELECTORS:
        if spec.get(field) == {}:
            reader.ignore(f"spec.{field}", "it selects everything")
        elif spec.get(field) is not None:
            reason = "it selects pods, and pools here are chosen by node; leave it out to let every pod use the pool"
            reader.problem(f"spec.{field}", reason)
    flags = {
        "allow_first": reader.flag("spec.allowFirstIP", spec.get("allowFirstIP")),
        "allow_last": reader.flag("spec.allowLastIP", spec.get("allowLastIP")),
    }
    places = {family: f"spec.{field}.cidrs" for family, field in _FAMILIES}
    cidrs: list[list[tuple[str, str]] | None] = []
    lengths: dict[str, Any] = {}
    reserved: list[tuple[str, str]] = []
    for family, field in _FAMILIES:
        if spec.get(field) is None:
            continue
        part = reader.child(spec, f"spec.{field}", ("cidrs", "maskSize", "pool"))
        if part is None:
            cidrs.append(None)
            continue
        given = _cidrs(reader, places, family, part.get("cidrs"))
        if given == []:
            reader.problem(places[family], "it is required, with at least one CIDR")
        cidrs.append(given or None)
        if part.get("maskSize") is None:
            reader.problem(f"spec.{field}.maskSize", "it is required")
        lengths[f"block_length_v{family}"] = part.get("maskSize")
        reserved += _reserved_ranges(reader, f"spec.{field}.pool", part.get("pool"), given)
    if not cidrs:
        reader.problem("spec", "the pool has neither ipv4 nor ipv6; give at least one")
        return []
    paths = {f"block_length_v{family}": f"spec.{field}.maskSize" for family, field in _FAMILIES}
    return _pool(
        reader, name, NodeSelector.everything(), cidrs, paths, "spec", reserved, draining=deleted, **flags, **lengths
    )


def _cidrs(reader: Reader, places: Mapping[Family, str], family: Family, value: object) -> list[tuple[str, str]] | None:
    """The CIDRs of one family with their paths; None if one is no text or of the other family."""
    path = places[family]
    texts = reader.texts(path, value)
    if texts is None:
        return None
    other = next(place for kind, place in places.items() if kind != family)
    right = [reader.is_of_family(f"{path}[{i}]", text, family, other) for i, text in enumerate(texts)]
    return [(text, f"{path}[{i}]") for i, text in enumerate(texts)] if all(right) else None


def _reserved_ranges(
    reader: Reader, path: str, value: object, cidrs: list[tuple[str, str]] | None
) -> list[tuple[str, str]]:
    """The ranges under `pool`, a list of `{cidr, reservedRanges: [{start, end}]}`, as (text, path)."""
    known = {_canonical(text) for text, _ in cidrs or ()}
    found: list[tuple[str, str]] = []
    for index, item in enumerate(reader.items(path, value) or ()):
        at = f"{path}[{index}]"
        entry = reader.mapping(at, item, "a mapping with cidr, reservedRanges")
        if entry is None:
            continue
        reader.fields(at, entry, ("cidr", "reservedRanges"))
        cidr = reader.text(f"{at}.cidr", entry.get("cidr"), required=True)
        if cidr is not None and cidrs is not None and _canonical(cidr) not in known:
            reader.problem(f"{at}.cidr", f"{shorten(cidr)!r} is not one of the CIDRs of this family")
        for number, each in enumerate(reader.items(f"{at}.reservedRanges", entry.get("reservedRanges")) or ()):
            inside = f"{at}.reservedRanges[{number}]"
            span = reader.mapping(inside, each, "a mapping with start, end")
            if span is None:
                continue
            reader.fields(inside, span, ("start", "end"))
            ends = [reader.text(f"{inside}.{name}", span.get(name), required=True) for name in ("start", "end")]
            if None not in ends:
                found.append((f"{ends[0]}-{ends[1]}", inside))
    return found


def _canonical(text: str) -> str:
    try:
        return str(parse_prefix(text))
    except InvalidCidrError:
        return text


def _pool(
    reader: Reader,
    name: str | None,
    selector: NodeSelector | None,
    cidrs: list[list[tuple[str, str]] | None],
    paths: Mapping[str, str],
    whole: str,
    reserved: list[tuple[str, str]] | None = None,
    **fields: Any,
) -> list[PoolSpec]:
    """A pool whose CIDRs and reserved ranges stand in several places; nothing if some are unusable. `whole` is the path of all."""
    if None in cidrs:
        return []
    flat = [each for some in cidrs for each in some or ()]
    listed = {"cidrs": flat, "reserved": reserved or []}

    def path_of(field: str, index: str, inner: str) -> str:
        if field in listed and index:
            return listed[field][int(index[1:-1])][1]
        return paths.get(field, f"spec.nodeSelector{inner}" if field == "selector" else whole)

    texts = {field: [text for text, _ in some] for field, some in listed.items()}
    return reader.pool(path_of, name, selector, **texts, **fields)


def cilium_node(reader: Reader, document: Mapping[Any, object]) -> list[Node | ExistingBlock]:
    """A `CiliumNode`: a node's labels, and the blocks that Cilium's operator gave it; the rest of it is Cilium's own."""
    name, metadata = reader.metadata(document, "node name")
    labels = reader.labels(metadata)
    if name is None or reader.problems:
        return []
    where = f"CiliumNode {name}"
    spec = refused_mapping(reader, f"{where}: spec", document.get("spec"))
    ipam = refused_mapping(reader, f"{where}: spec.ipam", spec.get("ipam"))
    for field in ipam:
        if field not in _NODE_IPAM:
            at = f"spec.ipam.{shorten(field)}" if isinstance(field, str) else "spec.ipam"
            reader.refuse(f"{where}: {at}", f"{unknown_field(field, _NODE_IPAM)}; what it holds is not adopted")
    for field in _SINGLE:
        if ipam.get(field):
            reason = "single addresses, as of the modes crd, eni and azure, are not adopted; reserve them in the pools"
            reader.refuse(f"{where}: spec.ipam.{field}", reason)
    told = [*_of_pools(reader, where, ipam.get("pools"))]
    cidrs = refused_list(reader, f"{where}: spec.ipam.podCIDRs", ipam.get("podCIDRs"))
    told += [Told(f"spec.ipam.podCIDRs[{index}]", value) for index, value in enumerate(cidrs)]
    return [Node(name, labels), *held_blocks(reader, where, name, metadata, told)]


def _of_pools(reader: Reader, where: str, value: object) -> Iterator[Told]:
    """What `pools.allocated` lists. What is `requested` there is a wish of Cilium's agent."""
    path = "spec.ipam.pools"
    pools = refused_mapping(reader, f"{where}: {path}", value)
    for field in pools:
        if field not in {"allocated", "requested"}:
            reason = f"{unknown_field(field, ('allocated', 'requested'))}; what it holds is not adopted"
            reader.refuse(f"{where}: {path}", reason)
    for index, item in enumerate(refused_list(reader, f"{where}: {path}.allocated", pools.get("allocated"))):
        at = f"{path}.allocated[{index}]"
        entry = refused_mapping(reader, f"{where}: {at}", item)
        pool = _pool_name(reader, f"{where}: {at}.pool", entry.get("pool"))
        for number, cidr in enumerate(refused_list(reader, f"{where}: {at}.cidrs", entry.get("cidrs"))):
            yield Told(f"{at}.cidrs[{number}]", cidr, pool)


def _pool_name(reader: Reader, where: str, value: Any) -> str | None:
    """The name of a pool; one that none can have is refused, and its blocks are adopted without it."""
    if value is None:
        return None
    try:
        return validate_name("pool name", value)
    except InvalidNameError as error:
        reader.refuse(where, f"{error}; its blocks are adopted as of no pool")
        return None
