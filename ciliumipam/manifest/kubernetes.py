"""Kinds of Kubernetes: core `Node`, with the `podCIDRs` that it holds, and the `ClusterCIDR` of node-ipam-controller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciliumipam.cidr import WIDTH, Family, parse_prefix
from ciliumipam.errors import InvalidCidrError
from ciliumipam.manifest.held import Told, held_blocks, refused_list, refused_mapping
from ciliumipam.manifest.reader import TERMS, Reader
from ciliumipam.names import describe
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import ExistingBlock
from ciliumipam.selector import NodeSelector

CLUSTER_CIDR_VERSIONS = ("networking.x-k8s.io/v1", "networking.k8s.io/v1alpha1")
"""Out of tree, and in tree (Kubernetes 1.25 to 1.28)."""

_FEWEST_HOST_BITS = 4
_FAMILIES: tuple[tuple[Family, str, str], ...] = ((4, "ipv4", "ipv6"), (6, "ipv6", "ipv4"))
"""Each with its field and the field of the other."""


def node(reader: Reader, document: Mapping[Any, object]) -> list[Node | ExistingBlock]:
    """A `Node`: name, labels, and what it holds; everything else that a Node has is known and not looked at."""
    name, metadata = reader.metadata(document, "node name")
    labels = reader.labels(metadata)
    if name is None or reader.problems:
        return []
    where = f"Node {name}"
    spec = refused_mapping(reader, f"{where}: spec", document.get("spec"))
    cidrs = refused_list(reader, f"{where}: spec.podCIDRs", spec.get("podCIDRs"))
    told = [Told(f"spec.podCIDRs[{index}]", value) for index, value in enumerate(cidrs)]
    if spec.get("podCIDR"):
        told.append(Told("spec.podCIDR", spec["podCIDR"]))
    return [Node(name, labels), *held_blocks(reader, where, name, metadata, told)]


def cluster_cidr(reader: Reader, document: Mapping[Any, object]) -> list[PoolSpec]:
    """A `ClusterCIDR`, which serves every node if it has no selector, and leaves a node to the next one if it is full."""
    name, deleted = reader.pool_metadata(document)
    spec = reader.child(document, "spec", ("nodeSelector", "perNodeHostBits", "ipv4", "ipv6"))
    if spec is None:
        return []
    selector: NodeSelector | None = NodeSelector.everything()
    if spec.get("nodeSelector") is not None:
        selector = reader.selector("spec.nodeSelector", spec["nodeSelector"], NodeSelector.from_terms, TERMS)
    cidrs: list[tuple[str, str]] = []
    usable = True
    for family, field, other in _FAMILIES:
        if spec.get(field) in (None, ""):
            continue
        text = reader.text(f"spec.{field}", spec[field])
        if text is not None and reader.is_of_family(f"spec.{field}", text, family, f"spec.{other}"):
            cidrs.append((text, f"spec.{field}"))
        else:
            usable = False
    if not cidrs and usable:
        reader.problem("spec", "it has neither ipv4 nor ipv6; give at least one CIDR")
    lengths = _lengths(reader, spec.get("perNodeHostBits"), [text for text, _ in cidrs])
    if not usable or not cidrs:
        return []

    def path_of(field: str, index: str, inner: str) -> str:
        if field == "cidrs" and index:
            return cidrs[int(index[1:-1])][1]
        return f"spec.nodeSelector{inner}" if field == "selector" else "spec.perNodeHostBits"

    texts = [text for text, _ in cidrs]
    return reader.pool(path_of, name, selector, cidrs=texts, overflow=True, draining=deleted, **lengths)


def _lengths(reader: Reader, bits: object, cidrs: list[str]) -> dict[str, Any]:
    """The block lengths that leave a node so many bits of an address, the same number in both families."""
    path = "spec.perNodeHostBits"
    if bits is None:
        reader.problem(path, "it is required; 8 gives a node an IPv4 /24 and an IPv6 /120")
        return {}
    if not isinstance(bits, int) or isinstance(bits, bool):
        reader.problem(path, f"expected a whole number, found {describe(bits)}")
        return {}
    if bits < _FEWEST_HOST_BITS:
        reader.problem(path, f"{describe(bits)} is too small, a node needs at least {_FEWEST_HOST_BITS}")
        return {}
    lengths = {}
    for text in cidrs:
        try:
            cidr = parse_prefix(text)
        except InvalidCidrError:
            continue  # the pool tells that
        most = WIDTH[cidr.family] - cidr.length
        if bits > most:
            reader.problem(path, f"{describe(bits)} is too large, {cidr} has {most} host bits")
        else:
            lengths[f"block_length_v{cidr.family}"] = WIDTH[cidr.family] - bits
    return lengths
