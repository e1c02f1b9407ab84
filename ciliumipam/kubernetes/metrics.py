"""Metrics of the operator for Prometheus (extra `prometheus`). `docs/reference/metrics.md` lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ciliumipam.ipam import Ipam
from ciliumipam.kubernetes.reporter import Reporter, Round, Subject, WriteOutcome
from ciliumipam.prometheus import SECONDS, PrometheusObserver, StateCollector
from ciliumipam.requests import PoolStatus


class OperatorMetrics(Reporter):
    """Counts what the operator does, and what its `Ipam` does and knows. Thread-safe.

    Args:
        registry: Where the metrics are registered, by default in one of their own; each registry takes one of these.

    Raises:
        ValueError: The registry has metrics of these names.

    Attributes:
        observer: For the `Ipam` of the operator.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = CollectorRegistry() if registry is None else registry

        def counter(name: str, what: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"ciliumipam_operator_{name}", what, labels, registry=registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"ciliumipam_operator_{name}", what, registry=registry)

        def histogram(name: str, what: str) -> Histogram:
            return Histogram(f"ciliumipam_operator_{name}", what, buckets=SECONDS, registry=registry)

        self.observer = PrometheusObserver(registry)
        self._registry = registry
        self._state: StateCollector | None = None
        self._leading = gauge("leading", "1 if this operator is the one that acts, 0 if it is a standby.")
        self._nodes = gauge("nodes", "Nodes that there were in the last round.")
        self._waiting = gauge("nodes_waiting", "Nodes that should have blocks and did not, after the last round.")
        self._broken = gauge("pools_broken", "Pool objects that could not be used in the last round.")
        self._rounds = counter("rounds_total", "Rounds that have ended, by whether they came to their end.", ["outcome"])
        self._round_seconds = histogram("round_seconds", "Time that a round took: look, decide, write.")
        self._queue_seconds = histogram("queue_seconds", "Time from the first thing that made a round necessary to its start.")
        writes = counter("node_writes_total", "Writes to node objects, by how they ended.", ["outcome"])
        self._write_seconds = histogram("node_write_seconds", "Time that writes to node objects took.")
        self._adopted = counter("blocks_adopted_total", "Blocks taken over from what node objects said.")
        self._conflicts = counter("conflicts_total", "Times that a node object was found to say a block that cannot be the node's.")
        self._gone = counter("nodes_gone_total", "Nodes whose blocks were given back, since they were gone for the grace time.")
        self._handed_back = counter("blocks_handed_back_total", "Blocks that the agents of their nodes gave back, and that are free again.")

        self._not_followed = counter("follow_failures_total", "Times that a resource could not be listed or watched.", ["resource"])

        # a counter that first appears at 1 was never seen to rise
        self._writes = {outcome: writes.labels(outcome) for outcome in get_args(WriteOutcome)}
        self._ends = {outcome: self._rounds.labels(outcome) for outcome in ("ok", "failed")}
        self._found_broken = 0

    def show(self, ipam: Ipam | None) -> None:
        """Tell from now on how the pools and nodes of an `Ipam` stand, at every scrape; None ends it."""
        if self._state is not None:
            self._registry.unregister(self._state)
            self._state = None
        if ipam is not None:
            self._state = StateCollector(ipam)
            self._registry.register(self._state)

    def exposition(self) -> bytes:
        """All metrics of the registry in Prometheus' text format."""
        return generate_latest(self._registry)

    def adopted(self, node: Subject, block: str, pool: str) -> None:
        """Count it."""
        self._adopted.inc()

    def conflict(self, node: Subject, block: str, reason: str) -> None:
        """Count it."""
        self._conflicts.inc()

    def node_gone(self, node: str, blocks: Sequence[str]) -> None:
        """Count it."""
        self._gone.inc()

    def handed_back(self, node: str, block: str) -> None:
        """Count it."""
        self._handed_back.inc()

    def node_written(self, outcome: WriteOutcome, seconds: float) -> None:
        """Count it."""
        self._writes[outcome].inc()
        self._write_seconds.observe(seconds)

    def pool_broken(self, pool: Mapping[str, Any], reason: str) -> None:
        """Count it, for the round."""
        self._found_broken += 1

    def pools(self, objects: Iterable[Mapping[str, Any]], statuses: Iterable[PoolStatus]) -> None:
        """Say how many were broken; `StateCollector` tells the rest."""
        self._broken.set(self._found_broken)
        self._found_broken = 0

    def round_done(self, done: Round) -> None:
        """Count it."""
        self._ends["ok" if done.error is None else "failed"].inc()
        self._round_seconds.observe(done.seconds)
        self._queue_seconds.observe(done.queued)
        if done.error is None:
            self._nodes.set(done.nodes)
            self._waiting.set(done.waiting)

    def not_followed(self, resource: str) -> None:
        """Count it."""
        self._not_followed.labels(resource).inc()

    def leads(self, leading: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Say it."""
        self._leading.set(leading)
