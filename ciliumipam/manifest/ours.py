"""The kinds of `ciliumipam.io`: `CIDRPool`, which says everything that `PoolSpec` can, and `CIDRBlock`, a block as it was exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import InvalidCidrError
from ciliumipam.manifest.held import claimed_since
from ciliumipam.manifest.reader import LABELS, TERMS, Reader, cidr_problem
from ciliumipam.pool import BlockLengths, PoolSpec
from ciliumipam.requests import ExistingBlock
from ciliumipam.selector import NodeSelector

API_VERSION = "ciliumipam.io/v1alpha1"

_SCALARS = {
    "allow_first": "allowFirst",
    "allow_last": "allowLast",
    "priority": "priority",
    "address_space": "addressSpace",
    "blocks_per_node": "blocksPerNode",
    "max_blocks_per_node": "maxBlocksPerNode",
    "overflow": "overflow",
    "draining": "draining",
    "reuse_delay": "reuseDelaySeconds",
    "address_policy": "addressPolicy",
    "seed": "seed",
    "carving": "carving",
    "group_by": "groupBy",
}
"""Fields of PoolSpec that are passed on as they are found, and their names in the manifest."""
_POOL = ("cidrs", "nodeSelector", "blockLength", "reserved", "allowFirst", "allowLast", "blockLengths")
_POOL_FIELDS = (*_POOL, *(name for name in _SCALARS.values() if name not in _POOL))
_LENGTHS = {"block_length_v4": "ipv4", "block_length_v6": "ipv6"}
_PATHS = {
    **_SCALARS,
    **{field: f"blockLength.{name}" for field, name in _LENGTHS.items()},
    "selector": "nodeSelector",
    "block_lengths": "blockLengths",
}
_INNER = {
    ".selector": ".nodeSelector",
    ".block_length": "",
    **{f".{field}": f".{name}" for field, name in _LENGTHS.items()},
}


def pool_to_manifest(spec: PoolSpec) -> dict[str, Any]:
    """A pool as a `CIDRPool` manifest, which `read_manifest` reads back as an equal pool."""
    return {"apiVersion": API_VERSION, "kind": "CIDRPool", "metadata": {"name": spec.name}, "spec": spec.to_dict()}


def cidr_pool(reader: Reader, document: Mapping[Any, object]) -> list[PoolSpec]:
    """A `CIDRPool`; one that is being deleted is draining."""
    name, deleted = reader.pool_metadata(document)
    spec = reader.child(document, "spec", _POOL_FIELDS)
    if spec is None:
        return []
    selector = _selector(reader, "spec.nodeSelector", spec)
    cidrs = reader.texts("spec.cidrs", spec.get("cidrs"))
    lengths = reader.optional_mapping("spec.blockLength", spec.get("blockLength"), "a mapping with ipv4 and ipv6")
    reader.fields("spec.blockLength", lengths, ("ipv4", "ipv6"))
    reserved = reader.texts("spec.reserved", spec.get("reserved"))
    some = _block_lengths(reader, spec.get("blockLengths"))
    if cidrs is None:
        return []
    fields = {field: spec[key] for field, key in _SCALARS.items() if spec.get(key) is not None}
    fields |= {field: lengths[key] for field, key in _LENGTHS.items() if lengths.get(key) is not None}
    if deleted and fields.get("draining", False) is False:
        fields["draining"] = True

    def path_of(field: str, index: str, inner: str) -> str:
        if field == "block_lengths" and index:
            index = f"[{[*some][int(index[1:-1])]}]"
        return f"spec.{_PATHS.get(field, field)}{index}{_INNER.get(inner, inner)}"

    fields |= {"cidrs": cidrs, "reserved": reserved or (), "block_lengths": tuple(some.values())}
    return reader.pool(path_of, name, selector, **fields)


def _block_lengths(reader: Reader, value: object) -> dict[int, BlockLengths]:
    """The lengths as they are found, by index, with a stand-in for a selector that is not usable."""
    found = {}
    for index, item in enumerate(reader.items("spec.blockLengths", value) or ()):
        path = f"spec.blockLengths[{index}]"
        entry = reader.mapping(path, item, "a mapping with nodeSelector, ipv4, ipv6")
        if entry is None:
            continue
        reader.fields(path, entry, ("nodeSelector", "ipv4", "ipv6"))
        selector = _selector(reader, f"{path}.nodeSelector", entry)
        lengths: list[Any] = [entry.get("ipv4"), entry.get("ipv6")]
        found[index] = BlockLengths(selector or NodeSelector.everything(), *lengths)
    return found


def _selector(reader: Reader, path: str, spec: Mapping[Any, object]) -> NodeSelector | None:
    return reader.selector(path, spec.get("nodeSelector"), NodeSelector.from_manifest, f"{LABELS}, or with {TERMS}")


def cidr_block(reader: Reader, document: Mapping[Any, object]) -> list[ExistingBlock]:
    """A `CIDRBlock`: who holds it. Its status is what was found, and nothing that can be wished for."""
    name, metadata = reader.metadata(document, "block name")
    spec = reader.child(document, "spec", ("node", "cidr", "pool", "addressSpace"))
    if spec is None:
        return []
    node = reader.name("spec.node", spec.get("node"), "node name")
    pool = None if spec.get("pool") is None else reader.name("spec.pool", spec.get("pool"), "pool name")
    space = spec.get("addressSpace")
    space = None if space is None else reader.name("spec.addressSpace", space, "address space")
    text = reader.text("spec.cidr", spec.get("cidr"), required=True)
    try:
        prefix = parse_prefix(text) if text is not None else None
    except InvalidCidrError as error:
        reader.problem("spec.cidr", cidr_problem(error))
        return []
    if name is None or node is None or prefix is None:
        return []
    where = f"CIDRBlock {name}: spec.cidr"
    since = claimed_since(reader, f"CIDRBlock {name}", metadata)
    return [ExistingBlock(node, prefix, pool, since, f"{reader.source}: {where}", space)]
