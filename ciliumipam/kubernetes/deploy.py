"""Manifests that run the operator in a cluster, as plain data: two replicas of which one leads, with no more rights than they need.

They run in the network of their host, since pods get addresses only after an operator has given their nodes blocks; for the same reason
they tolerate every taint, and a node that is not ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ciliumipam.kubernetes.crds import MANAGED
from ciliumipam.kubernetes.rbac import BOUND, GRANTS, roles

NAME = "ciliumipam-operator"
NAMESPACE = "ciliumipam"
PORT = 9965
"""Where the operator tells of its health and its metrics, on every node that runs one."""

_SELECTED = {"app.kubernetes.io/name": "ciliumipam", "app.kubernetes.io/component": "operator"}
_LABELS = _SELECTED | MANAGED


def manifests(
    image: str, namespace: str = NAMESPACE, *, options: Sequence[str] = (), service_monitor: bool = False
) -> list[dict[str, Any]]:
    """Everything that the operator needs, in the order in which it can be applied. The definitions are not among it.

    Args:
        image: An image with `ciliumipam[kubernetes,prometheus]` in it; see docs/how-to/deploy-on-kubernetes.md.
        namespace: Where it runs; created with the rest.
        options: Further options of `ciliumipam operator`.
        service_monitor: Also a ServiceMonitor for the Prometheus operator.
    """
    here = {"namespace": namespace}
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
        ),
        *(role for account in GRANTS for role in roles(account, namespace)),
        _deployment(image, here, options),
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": NAME, **here, "labels": _LABELS},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": _SELECTED}},
        },
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


__all__ = ["NAME", "NAMESPACE", "PORT", "manifests"]
