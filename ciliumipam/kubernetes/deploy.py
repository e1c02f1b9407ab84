"""Manifests that run the operator in a cluster, and agents of nodes, as plain data: with no more rights than they need.

Of two replicas of the operator one leads. Agents run on every node, for those who want them.

They run in the network of their host, since pods get addresses only after an operator has given their nodes blocks; for the same reason
they tolerate every taint, and a node that is not ready.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ciliumipam.kubernetes.crds import MANAGED
from ciliumipam.kubernetes.rbac import BOUND, GRANTS, SOURCES, roles

NAME = "ciliumipam-operator"
NAMESPACE = "ciliumipam"
PORT = 9965
"""Where the operator tells of its health and its metrics, on every node that runs one."""

AGENT = "ciliumipam-agent"
AGENT_PORT = 9966
DIRECTORY = "/var/lib/ciliumipam"
"""Where an agent keeps the addresses of its node, on the node; the CNI plugin reads and writes `node.db` in it too."""

_SELECTED = {"app.kubernetes.io/name": "ciliumipam", "app.kubernetes.io/component": "operator"}
_LABELS = _SELECTED | MANAGED


def manifests(
    image: str,
    namespace: str = NAMESPACE,
    *,
    options: Sequence[str] = (),
    sources: Collection[str] = (),
    service_monitor: bool = False,
    agents: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Everything that the operator needs, in the order in which it can be applied. The definitions are not among it.

    Args:
        image: An image with `ciliumipam[kubernetes,prometheus]` in it; see docs/how-to/deploy-on-kubernetes.md.
        namespace: Where it runs; created with the rest.
        options: Further options of `ciliumipam operator`.
        sources: The kinds of objects that these options name as pools; more rights go with some.
        service_monitor: Also a ServiceMonitor for the Prometheus operator.
        agents: Also an agent on every node, with these further options of `ciliumipam agent`; None is without agents.
    """
    here = {"namespace": namespace}
    granted = [*GRANTS["operator"], *(grant for kind, grant in SOURCES.items() if kind in sources)]
    accounts = [account for account in GRANTS if account != "agent" or agents is not None]
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            # the network of the host is what the stricter levels forbid
            "metadata": {"name": namespace, "labels": MANAGED | {"pod-security.kubernetes.io/enforce": "privileged"}},
        },
        *(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": f"ciliumipam-{each}", **here, "labels": dict(MANAGED)}}
            for each in BOUND
            if each in accounts
        ),
        *(role for account in accounts for role in roles(account, namespace, granted if account == "operator" else None)),
        _deployment(image, here, options),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": NAME, **here, "labels": _LABELS},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": _SELECTED}},
        },
        *(() if agents is None else (_daemon_set(image, here, agents),)),
        *(_monitoring(here) if service_monitor else ()),
    ]


def _deployment(image: str, here: dict[str, str], options: Sequence[str]) -> dict[str, Any]:
    container = {
        "name": "operator",
        "image": image,
        "command": ["ciliumipam"],
        "args": ["operator", f"--listen=:{PORT}", f"--lease={here['namespace']}/{NAME}", *options],
        "ports": [{"name": "metrics", "containerPort": PORT, "hostPort": PORT}],
        "livenessProbe": _probe("/healthz", 10, 3),
        "readinessProbe": _probe("/readyz", 5, 2),
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    apart = {"labelSelector": {"matchLabels": _SELECTED}, "topologyKey": "kubernetes.io/hostname"}
    pod = {
        "serviceAccountName": NAME,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, **here, "labels": _LABELS},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": _SELECTED},
            # no further one beside the two: it could lack a node whose port is free
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
        },
    }


def _daemon_set(image: str, here: dict[str, str], options: Sequence[str]) -> dict[str, Any]:
    selected = _SELECTED | {"app.kubernetes.io/component": "agent"}
    container = {
        "name": "agent",
        "image": image,
        "command": ["ciliumipam"],
        "args": [
            *("agent", "$(NODE)", "--store=kubernetes:", f"--local=sqlite:{DIRECTORY}/node.db", "--register", f"--listen=:{AGENT_PORT}"),
            *options,
        ],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "ports": [{"name": "metrics", "containerPort": AGENT_PORT, "hostPort": AGENT_PORT}],
        "livenessProbe": _probe("/healthz", 10, 3),
        "readinessProbe": _probe("/readyz", 5, 2),
        "resources": {"requests": {"cpu": "10m", "memory": "48Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "store", "mountPath": DIRECTORY}],
        # the store is a file of the node, which root owns, as its CNI plugin runs as root
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {
        "serviceAccountName": AGENT,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "store", "hostPath": {"path": DIRECTORY, "type": "DirectoryOrCreate"}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": AGENT, **here, "labels": selected | MANAGED},
        "spec": {
            "selector": {"matchLabels": selected},
            # never two agents of one node: the older one would stop giving out addresses
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}},
            "template": {"metadata": {"labels": selected | MANAGED}, "spec": pod},
        },
    }


def _probe(path: str, period: int, failures: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "metrics"}, "periodSeconds": period, "failureThreshold": failures}


def _monitoring(here: dict[str, str]) -> tuple[dict[str, Any], ...]:
    metadata = {"name": NAME, **here, "labels": _LABELS}
    port = {"name": "metrics", "port": PORT, "targetPort": "metrics"}
    return (
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"clusterIP": "None", "selector": _SELECTED, "ports": [port]},
        },
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": metadata,
            "spec": {"selector": {"matchLabels": _SELECTED}, "endpoints": [{"port": "metrics"}]},
        },
    )


__all__ = ["AGENT", "AGENT_PORT", "DIRECTORY", "NAME", "NAMESPACE", "PORT", "manifests"]
