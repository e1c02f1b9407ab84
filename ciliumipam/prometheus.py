"""Metrics for Prometheus (extra `prometheus`): what was done, by an observer, and how things stand, read when Prometheus asks.

`docs/reference/metrics.md` lists all of them. No label has a value that grows without end: no owner, no address, and nodes only
where they were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ciliumipam.cidr import WIDTH, Family
from ciliumipam.errors import IpamError
from ciliumipam.errors import __all__ as error_names
from ciliumipam.ipam import Ipam
from ciliumipam.observer import CALLS, OUTCOMES, STORE_OUTCOMES, Called, Decided, Event, StoreCalled
from ciliumipam.requests import Block, NodeStatus, PoolStatus

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    reason = "ciliumipam.prometheus needs prometheus-client: pip install 'ciliumipam[prometheus]'"
    raise ModuleNotFoundError(reason, name=error.name) from error

SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Upper bounds of durations: memory takes some 10 µs, a commit of SQLite 1 ms, an API server 10 ms and more."""
CALLS_AT_ONCE = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class PrometheusObserver:
    """Counts what one or more `Ipam` do. Thread-safe.

    Args:
        registry: Where the metrics are registered; each registry takes one of these.

    Raises:
        ValueError: The registry has metrics of these names.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, what: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"ciliumipam_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, labels: Sequence[str] = (), bounds: Sequence[float] = SECONDS) -> Histogram:
            return Histogram(f"ciliumipam_{name}", what, labels, buckets=bounds, registry=registry)

        calls = counter(
            "calls_total", "Calls of an Ipam that have ended, by method and by how they ended.", ["call", "outcome"]
        )
        errors = counter("call_errors_total", "Errors that calls of an Ipam have raised, by class.", ["error"])
        self._call_seconds = histogram(
            "call_seconds", "What callers of an Ipam waited, their turn and the stores included.", ["call"]
        )
        self._refusals = counter(
            "refusals_total", "Times that a pool refused a node in a call, which `explain` gives reasons for."
        )
        self._batch_calls = histogram(
            "batch_calls",
            "Calls that were decided and written in one go, since they waited together.",
            bounds=CALLS_AT_ONCE,
        )
        self._batch_seconds = histogram(
            "batch_seconds", "Time that deciding and writing one batch of calls took, during which other calls wait."
        )
        self._retries = counter(
            "retries_total",
            "Times that a batch was decided anew, since another writer was faster or an answer was lost.",
        )
        self._store_calls = counter(
            "store_operations_total",
            "Operations on the stores, by store, verb and how they ended: `conflict` is another writer that was faster,"
            " `unknown` a write whose answer was lost.",
            ["store", "verb", "outcome"],
        )
        self._store_seconds = histogram(
            "store_operation_seconds", "Time that operations on the stores took.", ["store", "verb"]
        )

        # a counter that first appears at 1 was never seen to rise, so what may be counted later is there from the start
        self._calls = {(call, outcome): calls.labels(call, outcome) for call in CALLS for outcome in OUTCOMES}
        self._errors = {name: errors.labels(name) for name in (*sorted(error_names), "unexpected")}
        self._waits: dict[str, Histogram] = {}
        self._stores: dict[tuple[str, str], tuple[dict[str, Counter], Histogram]] = {}

    def observe(self, event: Event) -> None:
        """Count an event."""
        if type(event) is StoreCalled:
            outcomes, seconds = self._stores.get((event.store, event.verb)) or self._add_store(event.store, event.verb)
            outcomes[event.outcome].inc()
            seconds.observe(event.seconds)
        elif type(event) is Decided:
            self._batch_calls.observe(event.calls)
            self._batch_seconds.observe(event.seconds)
            if event.retries:
                self._retries.inc(event.retries)
        elif type(event) is Called:
            self._calls[(event.call, event.outcome)].inc()
            (self._waits.get(event.call) or self._add_call(event.call)).observe(event.seconds)
            if event.error is not None:
                # a store may raise a class of its own: it counts as the nearest of ours
                known = (each.__name__ for each in event.error.__mro__ if issubclass(each, IpamError))
                self._errors[next((name for name in known if name in self._errors), "unexpected")].inc()
            if event.refusals:
                self._refusals.inc(event.refusals)

    def _add_call(self, call: str) -> Histogram:
        known = self._waits[call] = self._call_seconds.labels(call)
        return known

    def _add_store(self, store: str, verb: str) -> tuple[dict[str, Counter], Histogram]:
        outcomes: dict[str, Counter] = {
            outcome: self._store_calls.labels(store, verb, outcome) for outcome in STORE_OUTCOMES
        }
        known = self._stores[(store, verb)] = (outcomes, self._store_seconds.labels(store, verb))
        return known


_POOL = ("pool",)
_SPACE = ("pool", "family")
_STATES = ("available", "in_use", "cooling", "reserved")

_GAUGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "state_readable",
        "1 if the other gauges could be read at this scrape, 0 if not, and then they are not there.",
        (),
    ),
    ("pool_blocks", "Blocks that the CIDRs of a pool make, at its block length.", _SPACE),
    ("pool_blocks_held", "Blocks of a pool that nodes hold; their lengths may differ from its present one.", _SPACE),
    ("pool_blocks_available", "Blocks that a pool could give to nodes now.", _SPACE),
    ("pool_cooling_addresses", "Addresses of blocks that were given back to a pool and that no node gets yet.", _SPACE),
    ("pool_largest_free_addresses", "Size of the largest free prefix of a pool, 0 if nothing is free.", _SPACE),
    (
        "pool_fragmentation_ratio",
        "Share of the free addresses of a pool that is not in its largest free prefix.",
        _SPACE,
    ),
    (
        "pool_addresses",
        "Addresses of the blocks of a pool that nodes hold, by state: available, in_use, cooling, reserved. All four are the capacity.",
        (*_SPACE, "state"),
    ),
    ("pool_draining", "1 if a pool drains, so that it serves no node anew.", _POOL),
    ("pool_draining_blocks", "Blocks of a pool that drain.", _POOL),
    ("pool_orphan_blocks", "Blocks that nodes hold of a pool that is gone or no longer covers them.", _POOL),
    ("pool_conflicting", "1 if a pool overlaps an older one, so that it serves no node.", _POOL),
    ("pool_concerns", "Things that somebody should know of a pool; PoolStatus.concerns has them as sentences.", _POOL),
    ("nodes", "Nodes that are known.", ()),
    ("nodes_draining", "Nodes that drain.", ()),
    ("nodes_without_block", "Nodes that do not drain and have no block, so that no pod there gets an address.", ()),
    ("nodes_full", "Nodes that do not drain and have no address of a family available.", ("family",)),
    (
        "node_usage_ratio_max",
        "Share of the addresses for pods that is in use or cooling on the fullest node that does not drain.",
        ("family",),
    ),
)
_NODE_GAUGE = (
    "node_addresses",
    "Addresses of the blocks of a node, by state: available, in_use, cooling, reserved. All four are the capacity.",
    ("node", "family", "state"),
)


class StateCollector(Collector):
    """How pools and nodes stand, read from an `Ipam` at every scrape. Thread-safe. To be registered.

    What a store fails to tell shows as `ciliumipam_state_readable 0`; the other metrics of the process stay readable.

    Args:
        ipam: Whose pools and nodes.
        refresh: Whether to read the stores at every scrape. Needed where other processes write to them: without it, what they
            wrote is seen only once this `Ipam` has read it for a call of its own.
        per_node: Whether to tell the addresses of every node, which are 4 series for each of its families.

    Complexity:
        A scrape is O(pools + nodes + blocks); the `Ipam` makes its callers wait for about a third of that at a time.
    """

    def __init__(self, ipam: Ipam, *, refresh: bool = False, per_node: bool = False) -> None:
        self._ipam, self._refresh, self._per_node = ipam, refresh, per_node

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The metrics without values, so that registering reads no store."""
        return list(self._empty().values())

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The metrics as of now."""
        gauges = self._empty()
        try:
            if self._refresh:
                self._ipam.refresh()
            pools, nodes, blocks = self._ipam.pools(), self._ipam.nodes(), self._ipam.blocks()
        except IpamError:
            gauges["state_readable"].add_metric((), 0)
            return [gauges["state_readable"]]
        gauges["state_readable"].add_metric((), 1)
        for name, labels, value in (*_of_pools(pools, blocks), *_of_nodes(nodes)):
            gauges[name].add_metric(labels, value)
        if self._per_node:
            for node in nodes:
                for family, counts in node.utilization.items():
                    for state in _STATES:
                        gauges["node_addresses"].add_metric(
                            (node.node.name, _ip(family), state), getattr(counts, state)
                        )
        return list(gauges.values())

    def _empty(self) -> dict[str, GaugeMetricFamily]:
        wanted = (*_GAUGES, _NODE_GAUGE) if self._per_node else _GAUGES
        return {name: GaugeMetricFamily(f"ciliumipam_{name}", what, labels=labels) for name, what, labels in wanted}


def _of_pools(pools: Iterable[PoolStatus], blocks: Iterable[Block]) -> Iterator[tuple[str, tuple[str, ...], float]]:
    known = {pool.spec.name for pool in pools}
    orphans, draining = dict.fromkeys(known, 0), dict.fromkeys(known, 0)
    addresses = {(pool.spec.name, family): [0] * len(_STATES) for pool in pools for family in pool.spaces}
    for block in blocks:
        orphans[block.pool] = orphans.get(block.pool, 0) + block.orphan
        draining[block.pool] = draining.get(block.pool, 0) + block.draining
        counts = addresses.setdefault((block.pool, block.family), [0] * len(_STATES))
        for index, state in enumerate(_STATES):
            counts[index] += getattr(block.utilization, state)
    for pool in pools:
        for family, space in pool.spaces.items():
            labels = (pool.spec.name, _ip(family))
            yield "pool_blocks", labels, space.blocks
            yield "pool_blocks_held", labels, space.held
            yield "pool_blocks_available", labels, space.available
            yield "pool_cooling_addresses", labels, space.cooling
            yield (
                "pool_largest_free_addresses",
                labels,
                0 if space.largest is None else 1 << (WIDTH[family] - space.largest),
            )
            yield "pool_fragmentation_ratio", labels, space.fragmentation
        yield "pool_draining", (pool.spec.name,), pool.spec.draining
        yield "pool_conflicting", (pool.spec.name,), pool.conflicting is not None
        yield "pool_concerns", (pool.spec.name,), len(pool.concerns)
    for name, count in sorted(orphans.items()):
        yield "pool_orphan_blocks", (name,), count
    for name, count in sorted(draining.items()):
        yield "pool_draining_blocks", (name,), count
    for (name, family), counts in sorted(addresses.items()):
        for state, count in zip(_STATES, counts, strict=True):
            yield "pool_addresses", (name, _ip(family), state), count


def _of_nodes(nodes: Sequence[NodeStatus]) -> Iterator[tuple[str, tuple[str, ...], float]]:
    serving = [node for node in nodes if not node.draining]
    yield "nodes", (), len(nodes)
    yield "nodes_draining", (), len(nodes) - len(serving)
    yield "nodes_without_block", (), sum(not node.blocks for node in serving)
    usages: dict[Family, list[float]] = {}
    for node in serving:
        for family in node.utilization:
            usages.setdefault(family, []).append(_usage(node.blocks, family))
    for family, shares in sorted(usages.items()):
        yield "nodes_full", (_ip(family),), sum(share >= 1 for share in shares)
        yield "node_usage_ratio_max", (_ip(family),), max(shares)


def _usage(blocks: Iterable[Block], family: Family) -> float:
    """Share of the addresses for pods that is taken, of the blocks that serve: what drains does so only if nothing else does."""
    good = [block for block in blocks if block.family == family and not block.orphan]
    counts = [block.utilization for block in [block for block in good if not block.draining] or good]
    available = sum(each.available for each in counts)
    taken = sum(each.in_use + each.cooling for each in counts)
    return taken / (taken + available) if available else 1.0


def _ip(family: Family) -> str:
    return f"ipv{family}"
