"""A cluster as the store of the command: opened, and audited with what its node objects say."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager

from ciliumipam.audit import Audit, audit
from ciliumipam.audit.findings import ORDER, Finding
from ciliumipam.errors import InvalidRequestError, NotInstalledError
from ciliumipam.kubernetes.answers import Resource
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.audit import ClusterObjects, audit_cluster
from ciliumipam.kubernetes.cluster import DEFAULT_SOURCES, SOURCES, Cluster, ClusterStore
from ciliumipam.kubernetes.guard import CILIUM_NODES, NODES
from ciliumipam.kubernetes.lightkube_transport import connect
from ciliumipam.kubernetes.objects import KIND, LEDGERS
from ciliumipam.kubernetes.read_only import ReadOnlyTransport
from ciliumipam.kubernetes.store import KubernetesStore
from ciliumipam.records import KINDS

_CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", "kube-system")
_LOOKS = 3

wait: Callable[[float], None] = time.sleep
"""How the time between two looks passes."""


def sources() -> Sequence[str]:
    """The kinds of objects that are pools: those of $CILIUMIPAM_POOLS_FROM, with commas between them, else the usual ones.

    Raises:
        InvalidRequestError: One of them is none.
    """
    given = os.environ.get("CILIUMIPAM_POOLS_FROM", "")
    kinds = tuple(kind.strip() for kind in given.split(",") if kind.strip()) or DEFAULT_SOURCES
    for kind in kinds:
        if kind not in SOURCES:
            raise InvalidRequestError(f"$CILIUMIPAM_POOLS_FROM names {kind!r}, which is no kind of pool; known: {', '.join(SOURCES)}")
    return kinds


@contextmanager
def open_cluster(context: str | None, *, read_only: bool) -> Iterator[ClusterStore]:
    """The store of a cluster. Opened for reading only, nothing that is no GET leaves this process."""
    with closing(connect(context)) as connection:
        transport = ReadOnlyTransport(connection) if read_only else connection
        api = Api(transport)
        with closing(ClusterStore(KubernetesStore(transport, api=api), Cluster(api, sources=sources()))) as store:
            yield store
            store.guard.tidy()  # else nodes that are there would wait for an operator to do it


def audit_live(store: ClusterStore) -> Audit:
    """Audit records and node objects. What looks wrong is looked at again, since an operator may be at work."""
    result = _look(store)
    for _ in range(_LOOKS - 1):
        if all(finding.severity == "notice" for finding in result.findings):
            break
        wait(1.0)
        seen = set(result.findings)
        result = _look(store)
        result = result._replace(findings=tuple(each for each in result.findings if each in seen or each.severity == "notice"))
    return result


def _look(store: ClusterStore) -> Audit:
    """One look: node objects first, so that what they say was held by the time that the ledgers are read."""
    api = store.cluster.api
    config = api.get(_CONFIG_MAPS, "cilium-config") or {}
    unlabelled = _all(api, LEDGERS, f"{KIND} notin ({','.join(KINDS)})")
    objects = ClusterObjects(_all(api, NODES), _all(api, CILIUM_NODES), config.get("data") or {}, unlabelled)
    result = audit(store)
    found, counts = audit_cluster(result.blocks, result.pools, objects)
    live = {str(each["metadata"]["name"]) for each in (*objects.nodes, *objects.cilium_nodes)}
    findings = sorted((*(_in_cluster(finding, live) for finding in result.findings), *found), key=lambda each: (ORDER.index(each.severity), each.where, each.what))
    return result._replace(findings=tuple(findings), counts={**result.counts, **counts})


_DELETES = re.compile(r"ciliumipam delete node ([^\s,]+)(?: --force)?(, and apply it again)?")


def _in_cluster(finding: Finding, live: Collection[str]) -> Finding:
    """What is said of any store, as it can be done in a cluster: only kubectl ends a node that is there, and none is applied."""
    repair = finding.repair
    if repair.endswith(" goes on"):
        repair = (
            f"{repair.removesuffix(' goes on')} takes back what no object of a node lists; what one lists goes back when its node is gone:"
            " kubectl drain NODE, then kubectl delete node NODE"
        )
    repair = repair.replace("apply the node, or take the block back: ", "the operator takes it back after its grace time; where none runs: ")

    def by_kubectl(command: re.Match[str]) -> str:
        if command[1] not in live:
            return command[0]
        return f"kubectl delete node {command[1]}" + (", and let it register again" if command[2] else "")

    return finding._replace(repair=_DELETES.sub(by_kubectl, repair))


def _all(api: Api, resource: Resource, labels: str = "") -> Sequence[dict[str, object]]:
    try:
        return api.list(resource, labels=labels).items
    except NotInstalledError:
        return ()
