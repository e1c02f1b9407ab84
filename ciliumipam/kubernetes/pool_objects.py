"""Objects that describe pools: which kinds there are, and what is kept of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from typing import Any, Final, NamedTuple

from ciliumipam.errors import InvalidManifestError
from ciliumipam.kubernetes.answers import Resource
from ciliumipam.kubernetes.objects import POOLS, SINCE
from ciliumipam.manifest import read_manifest
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Entry

SOURCES: Final[Mapping[str, tuple[Resource, ...]]] = {
    "CIDRPool": (POOLS,),
    "CiliumNodeConfig": tuple(
        Resource("cilium.io", version, "ciliumnodeconfigs", "CiliumNodeConfig") for version in ("v2alpha1", "v2")
    ),
    "CiliumPodIPPool": tuple(
        Resource("cilium.io", version, "ciliumpodippools", "CiliumPodIPPool") for version in ("v2", "v2alpha1")
    ),
    "ClusterCIDR": (Resource("networking.x-k8s.io", "v1", "clustercidrs", "ClusterCIDR"),),
}
"""The kinds of objects that are read as pools, each with its versions in the order in which they are looked for."""
DEFAULT_SOURCES: Final = ("CIDRPool", "CiliumNodeConfig")

_POOL_METADATA = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "annotations")


@dataclass(frozen=True, slots=True)
class PoolObject:
    """An object that describes a pool. Equal if it describes the same; its status and version are of no account.

    Attributes:
        spec: The pool; None if it is none.
        since: Since when it is there, in seconds since the epoch.
        problem: Why it is none; "" if it is one, or does not mean to be one.
        generation: Its `metadata.generation`.
        uid: Its uid.
        manifest: The object, without what only the server needs.
    """

    spec: PoolSpec | None
    since: float
    problem: str
    generation: int
    uid: str
    manifest: Mapping[str, Any] = field(compare=False)


class Pools(NamedTuple):
    """All pools by name, what cannot be used (with the object and why), and all objects."""

    entries: dict[str, Entry]
    broken: list[tuple[Mapping[str, Any], str]]
    objects: list[Mapping[str, Any]]


def read_pool(obj: Mapping[str, Any]) -> PoolObject:
    """What is kept of an object that may describe a pool. Never fails: what is wrong with it is its `problem`."""
    metadata = {name: obj["metadata"][name] for name in _POOL_METADATA if name in obj["metadata"]}
    manifest = {**{name: value for name, value in obj.items() if name != "metadata"}, "metadata": metadata}
    generation, uid = int(metadata.get("generation") or 0), str(metadata.get("uid") or "")
    since = moment(metadata.get("creationTimestamp"))
    spec = obj.get("spec") or {}
    try:
        if obj["kind"] == "CiliumNodeConfig" and spec.get("ipam") is None:  # Cilium's own form configures its agent
            return PoolObject(None, since, "", generation, uid, manifest)
        since = float((metadata.get("annotations") or {}).get(SINCE) or since)
        if not isfinite(since):  # it has no place in an order by age, and is not even equal to itself
            return PoolObject(None, 0.0, f"annotation {SINCE}: {since} is no time", generation, uid, manifest)
        item = read_manifest(obj, f"{obj['kind']} {metadata['name']}").items[0]
        assert isinstance(item, PoolSpec)  # noqa: S101 - these kinds are read as nothing else
    except InvalidManifestError as error:
        return PoolObject(None, since, f"{error.path}: {error.reason}" if error.path else error.reason, generation, uid, manifest)
    except ValueError as error:
        return PoolObject(None, since, f"annotation {SINCE}: {error}", generation, uid, manifest)
    except Exception as error:  # noqa: BLE001 - whatever a definition of somebody else lets through, it stops no other pool
        return PoolObject(None, since, f"it cannot be read: {type(error).__name__}: {error}", generation, uid, manifest)
    return PoolObject(item, since, "", generation, uid, manifest)


def moment(text: str | None) -> float:
    """A time of Kubernetes in seconds since the epoch; 0 for none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


__all__ = ["DEFAULT_SOURCES", "SOURCES", "PoolObject", "Pools", "moment", "read_pool"]
