"""Metrics of an agent for Prometheus (extra `prometheus`). `docs/reference/metrics.md` lists them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ciliumipam.agent.node_agent import NodeAgent, Round
from ciliumipam.errors import IpamError
from ciliumipam.prometheus import SECONDS, PrometheusObserver, StateCollector


class AgentMetrics:
    """Counts what an agent does, and what its `Ipam` does and knows. Thread-safe.

    Args:
        registry: Where the metrics are registered, by default in one of their own.

    Attributes:
        observer: For the agent's `Ipam`.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Nothing is counted yet."""
        self._registry = registry = CollectorRegistry() if registry is None else registry
        self.observer = PrometheusObserver(registry)
        rounds = Counter(
            "ciliumipam_agent_rounds_total",
            "Rounds that have ended, by whether they came to their end.",
            ["outcome"],
            registry=registry,
        )
        self._ends = {outcome: rounds.labels(outcome) for outcome in ("ok", "failed")}
        self._seconds = Histogram(
            "ciliumipam_agent_round_seconds", "Time that a round took.", buckets=SECONDS, registry=registry
        )
        moves = Counter(
            "ciliumipam_agent_blocks_total", "Blocks that came and went, by how.", ["move"], registry=registry
        )
        self._moves = {move: moves.labels(move) for move in ("adopted", "lost", "handed_back")}
        self._orphans = Gauge(
            "ciliumipam_agent_orphans",
            "Blocks that were lost and whose addresses are still in use here.",
            registry=registry,
        )
        self._serving = Gauge(
            "ciliumipam_agent_serving",
            "1 if the node gives out addresses, 0 if its lease has ended or it has no block.",
            registry=registry,
        )

    def show(self, agent: NodeAgent) -> None:
        """Tell from now on how its blocks stand, at every scrape."""
        self._serving.set_function(lambda: float(not agent.why_silent()))
        self._registry.register(StateCollector(agent.ipam))

    def told(self, done: Round | IpamError, seconds: float) -> None:
        """Count a round."""
        self._seconds.observe(seconds)
        if not isinstance(done, Round):
            self._ends["failed"].inc()
            return
        self._ends["ok"].inc()
        self._orphans.set(len(done.orphans))
        for move, blocks in (("adopted", done.adopted), ("lost", done.lost), ("handed_back", done.handed_back)):
            self._moves[move].inc(len(blocks))

    def exposition(self) -> bytes:
        """All metrics of the registry in Prometheus' text format."""
        return generate_latest(self._registry)
