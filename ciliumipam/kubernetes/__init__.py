"""Records and nodes in a Kubernetes API server.

`transport` says what is needed of an HTTP client, `lightkube_transport` is the default one (extra `kubernetes`), `api` is the verbs of
Kubernetes with its errors made ours, `objects` turns records into objects and back, `store` is the `KubernetesStore` on top of them.

`cluster` lays nodes and pools of a cluster over it, `operator` keeps a cluster as it should be, `service` is one replica of it with a
`lease`, `report` (Events, conditions), `metrics` and `health`. `audit` is a second opinion on all of it.
"""

from ciliumipam.kubernetes.operator import Operator
from ciliumipam.kubernetes.reporter import Reporter
from ciliumipam.kubernetes.service import OperatorService
from ciliumipam.kubernetes.store import KubernetesStore

__all__ = ["KubernetesStore", "Operator", "OperatorService", "Reporter"]
