"""What each of ours may do in a cluster, and why: the least that it needs, as plain data.

* the **operator** gives nodes their blocks;
* the **checker** reads: `check`, `get`, `explain`, `export`;
* the **agent** of a node asks for blocks and hands them back, where agents are deployed;
* the **admin** is for people and programs who also change things through `--store kubernetes:` or `KubernetesStore`; it is bound to nobody;
* the **installer** is for who may install definitions without being an admin of the cluster; it is bound to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from ciliumipam.kubernetes.crds import MANAGED

Account: TypeAlias = Literal["operator", "checker", "agent", "admin", "installer"]

_READ = ("get", "list")
_FOLLOW = (*_READ, "watch")
_OURS = "ciliumipam.io"


class Grant(NamedTuple):
    """One rule, and why it is needed.

    Attributes:
        group: API group, "" for the core.
        resources: Plural names, with `/status` and the like.
        verbs: What may be done.
        why: For people who review it.
        names: Only these objects; none is all of them.
        namespace: Only there; "" is the whole cluster, "." the namespace of the operator.
    """

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    names: tuple[str, ...] = ()
    namespace: str = ""

    @property
    def rule(self) -> dict[str, Any]:
        """As it stands in a role."""
        rule = {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}
        return rule | ({"resourceNames": list(self.names)} if self.names else {})


LEASE = "ciliumipam-operator"
"""The Lease by which one of several operators leads."""

OPERATOR = (
    Grant(_OURS, ("cidrpools",), _FOLLOW, "which pools there are"),
    Grant(_OURS, ("cidrpools/status",), ("update",), "counts and conditions of pools"),
    Grant(_OURS, ("cidrledgers",), (*_FOLLOW, "create", "update", "delete"), "who holds which block"),
    Grant("cilium.io", ("ciliumnodeconfigs",), _FOLLOW, "pools in the form of CiliumNodeConfig"),
    Grant("cilium.io", ("ciliumnodes",), (*_FOLLOW, "patch"), "labels of nodes, the blocks that they have, and giving them some"),
    Grant("cilium.io", ("ciliumnodes/status",), ("patch",), "why a node has no block"),
    Grant("", ("nodes",), (*_FOLLOW, "patch"), "the same where blocks go to Node.spec.podCIDRs; and that a node is draining"),
    Grant("events.k8s.io", ("events",), ("get", "create", "patch", "delete"), "what `kubectl describe` shows of a node or pool"),
    Grant("coordination.k8s.io", ("leases",), ("create",), "leading: a Lease is created without a name", namespace="."),
    Grant("coordination.k8s.io", ("leases",), ("get", "update"), "leading", (LEASE,), "."),
)
SOURCES = {
    "CiliumPodIPPool": Grant("cilium.io", ("ciliumpodippools",), _FOLLOW, "pools in the form of CiliumPodIPPool"),
    "ClusterCIDR": Grant("networking.x-k8s.io", ("clustercidrs",), _FOLLOW, "pools in the form of ClusterCIDR"),
}
"""What the operator needs besides, by the kind of `--pools-from`."""
CHECKER = (
    Grant(_OURS, ("cidrpools", "cidrledgers"), _READ, "pools, and who holds which block"),
    Grant("cilium.io", ("ciliumnodes", "ciliumnodeconfigs"), _READ, "nodes, and pools in the form of CiliumNodeConfig"),
    Grant("", ("nodes",), _READ, "nodes"),
    Grant("", ("configmaps",), ("get",), "whether our pools overlap the cluster pool of a running Cilium", ("cilium-config",), "kube-system"),
)
AGENT = (
    Grant("cilium.io", ("ciliumnodes",), ("get", "patch", "create"), "its own CiliumNode: what it lists, asks for and hands back"),
    Grant("", ("nodes",), ("get",), "its own Node, which owns the CiliumNode, or lists the blocks itself"),
)
ADMIN = (
    *CHECKER[:3],
    Grant(_OURS, ("cidrpools", "cidrledgers"), ("watch", "create", "update", "delete"), "changing pools and who holds which block"),
    Grant("", ("nodes",), ("patch",), "draining nodes"),
    Grant("cilium.io", ("ciliumnodes",), ("patch",), "draining nodes that are no core Nodes"),
)
INSTALLER = (
    Grant("apiextensions.k8s.io", ("customresourcedefinitions",), ("get", "create", "update"), "`ciliumipam crds --install`"),
    Grant(_OURS, ("cidrpools", "cidrledgers"), ("get",), "that they are served"),
    Grant("cilium.io", ("ciliumnodes", "ciliumnodeconfigs"), ("get",), "that they are served"),
)
GRANTS: dict[Account, tuple[Grant, ...]] = {"operator": OPERATOR, "checker": CHECKER, "agent": AGENT, "admin": ADMIN, "installer": INSTALLER}
BOUND: tuple[Account, ...] = ("operator", "checker", "agent")
"""Those that have a service account."""


def roles(account: Account, namespace: str, grants: Iterable[Grant] | None = None) -> list[dict[str, Any]]:
    """The roles of one of ours, and their bindings where it has a service account.

    Args:
        account: Which one.
        namespace: Where its service account is.
        grants: Instead of those that it has.
    """
    name = f"ciliumipam-{account}"
    by_place: dict[str, list[Grant]] = {}
    for grant in GRANTS[account] if grants is None else grants:
        by_place.setdefault(namespace if grant.namespace == "." else grant.namespace, []).append(grant)
    objects = []
    for place, granted in sorted(by_place.items()):
        kind = "Role" if place else "ClusterRole"
        metadata: dict[str, Any] = {"name": name, "labels": dict(MANAGED)} | ({"namespace": place} if place else {})
        common: dict[str, Any] = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata}
        objects.append(common | {"rules": [grant.rule for grant in granted]})
        if account in BOUND:
            objects.append(
                common
                | {
                    "kind": f"{kind}Binding",
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
                }
            )
    return objects


__all__ = ["ADMIN", "AGENT", "BOUND", "CHECKER", "GRANTS", "INSTALLER", "LEASE", "OPERATOR", "SOURCES", "Account", "Grant", "roles"]
