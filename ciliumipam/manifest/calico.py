"""Calico's `IPPool`: one CIDR, cut into blocks for the nodes that an expression selects.

What makes Calico hand out less is honoured or refused; what tells it how to carry packets has no meaning here and is ignored. All
addresses of a block may be used, as in Calico; a pool that is disabled, or being deleted, takes nothing new; a node that finds a
pool full is served by the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import InvalidCidrError, InvalidSelectorError
from ciliumipam.manifest.calico_selector import translate
from ciliumipam.manifest.reader import Reader
from ciliumipam.pool import PoolSpec
from ciliumipam.selector import NodeSelector

VERSIONS = ("crd.projectcalico.org/v1", "projectcalico.org/v3")

_BLOCK_SIZE = {4: 26, 6: 122}
"""Calico's defaults."""
_READ = ("cidr", "blockSize", "nodeSelector", "disabled", "namespaceSelector", "allowedUses", "assignmentMode")
_IDLE = ("ipipMode", "vxlanMode", "natOutgoing", "disableBGPExport", "ipip", "nat-outgoing")
_USES = ("Workload", "Tunnel", "LoadBalancer")


def ip_pool(reader: Reader, document: Mapping[Any, object]) -> list[PoolSpec]:
    """An `IPPool` of Calico."""
    name, deleted = reader.pool_metadata(document)
    spec = reader.child(document, "spec", _READ, _IDLE)
    if spec is None:
        return []
    selector = _selector(reader, spec.get("nodeSelector"))
    _check_namespaces(reader, spec.get("namespaceSelector"))
    _check_uses(reader, spec.get("allowedUses"))
    if spec.get("assignmentMode") is not None:
        mode = reader.choice("spec.assignmentMode", spec["assignmentMode"], ("Automatic", "Manual"))
        if mode == "Manual":
            reason = "Manual: addresses are given out only to who names the pool, and here blocks go to nodes unasked; leave the pool out"
            reader.problem("spec.assignmentMode", reason)
    draining = reader.flag("spec.disabled", spec.get("disabled")) or deleted
    cidr = reader.text("spec.cidr", spec.get("cidr"), required=True)
    if cidr is None:
        return []
    length = _block_length(cidr, spec.get("blockSize"))

    def path_of(field: str, _index: str, _inner: str) -> str:
        return "spec.cidr" if field == "cidrs" else "spec.blockSize"

    flags = {"allow_first": True, "allow_last": True, "overflow": True, "draining": draining}
    return reader.pool(path_of, name, selector, cidrs=[cidr], **length, **flags)


def _block_length(cidr: str, size: object) -> dict[str, Any]:
    """The field of PoolSpec for the block size; none where the CIDR is not usable, so that only that is told."""
    try:
        family = parse_prefix(cidr).family
    except InvalidCidrError:
        return {}
    default = size is None or (type(size) is int and size == 0)
    return {f"block_length_v{family}": _BLOCK_SIZE[family] if default else size}


def _translated(reader: Reader, path: str, value: object) -> Mapping[str, object] | None:
    """The expression as a selector of Kubernetes; an empty one selects everything."""
    text = "" if value is None else reader.text(path, value)
    if text is None:
        return None
    try:
        return translate(text)
    except InvalidSelectorError as error:
        reader.problem(path, f"{error.expression!r}: {error.reason}")
        return None


def _selector(reader: Reader, value: object) -> NodeSelector | None:
    mapping = _translated(reader, "spec.nodeSelector", value)
    return None if mapping is None else NodeSelector.from_manifest(mapping)


def _check_namespaces(reader: Reader, value: object) -> None:
    path = "spec.namespaceSelector"
    mapping = _translated(reader, path, value)
    if mapping == {} and value:
        reader.ignore(path, "it selects everything")
    elif mapping:
        reader.problem(
            path, "it selects namespaces, and pools here are chosen by node; leave it out to serve every namespace"
        )


def _check_uses(reader: Reader, value: object) -> None:
    path = "spec.allowedUses"
    found = reader.items(path, value)
    uses = [reader.choice(f"{path}[{index}]", use, _USES) for index, use in enumerate(found or ())]
    if not uses or None in uses:
        return
    if "Workload" not in uses:
        reader.problem(
            path, "without Workload the pool is not for pods, and here it would serve them; leave the pool out"
        )
    for use in uses:
        if use != "Workload":
            reader.ignore(path, f"{use}: known, without meaning here")
