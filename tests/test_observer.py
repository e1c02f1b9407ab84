"""What observers are told, that telling changes nothing, and what Prometheus reads."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import ciliumipam.store
from ciliumipam import (
    Allocate,
    Apply,
    Demand,
    Ipam,
    MemoryStore,
    Node,
    NodeSelector,
    PoolSpec,
    SqliteStore,
    Store,
)
from ciliumipam.agent.metrics import AgentMetrics
from ciliumipam.block_tasks import ApplyTask
from ciliumipam.combining import Waiting
from ciliumipam.errors import (
    ConflictError,
    ExhaustedError,
    InvalidError,
    IpamError,
    NodeExhaustedError,
    NotFoundError,
    OverlapError,
    StalePlanError,
    StateError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ciliumipam.kubernetes.metrics import OperatorMetrics
from ciliumipam.meter import Meter
from ciliumipam.observer import CALLS, OUTCOMES, UNOBSERVED, Called, Decided, Event, Observer, StoreCalled
from ciliumipam.prometheus import PrometheusObserver, StateCollector
from ciliumipam.records import KINDS, Entry, Key, Kind, Record, Revision
from ciliumipam.store import Expect, Listing, Write

ROOT = Path(__file__).parent.parent
EVERYTHING = NodeSelector.everything()
SMALL = PoolSpec(name="small", cidrs=["10.0.0.0/29"], selector=EVERYTHING, block_length_v4=30)
"""Two blocks of two addresses for pods each."""


class Recorder:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        return events


class Clock:
    """Time passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class PlainStore:
    """A store without further capabilities, whose verbs take their time and fail when told to, before or after the effect."""

    TAKES: ClassVar[dict[str, float]] = {"get": 1.0, "scan": 2.0, "put": 10.0, "delete": 20.0}

    def __init__(self, clock: Clock | None = None) -> None:
        self.inner = MemoryStore()
        self.clock = clock or Clock()
        self.before: dict[str, list[BaseException]] = {}
        self.after: dict[str, list[BaseException]] = {}
        self.calls: list[str] = []

    def _do(self, verb: str, call: Callable[[], Any]) -> Any:
        self.calls.append(verb)
        self.clock.now += self.TAKES[verb]
        if self.before.get(verb):
            raise self.before[verb].pop(0)
        result = call()
        if self.after.get(verb):
            raise self.after[verb].pop(0)
        return result

    def get(self, key: Key) -> Entry | None:
        found: Entry | None = self._do("get", lambda: self.inner.get(key))
        return found

    def scan(self, kind: Kind) -> Listing:
        listing: Listing = self._do("scan", lambda: self.inner.scan(kind))
        return listing

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        revision: Revision = self._do("put", lambda: self.inner.put(key, record, expect=expect))
        return revision

    def delete(self, key: Key, *, expect: Revision) -> None:
        self._do("delete", lambda: self.inner.delete(key, expect=expect))

    def close(self) -> None:
        self.inner.close()


def contents(store: Store) -> list[Any]:
    return [store.scan(kind).entries for kind in KINDS]


def outcomes(events: Sequence[Event]) -> list[tuple[str, str]]:
    return [(event.call, event.outcome) for event in events if isinstance(event, Called)]


# ------------------------------------------------------------------------------------------------ what is told


def test_a_call_is_told_after_what_it_asked_of_the_store_and_times_add_up() -> None:
    clock, recorder = Clock(), Recorder()
    store = PlainStore(clock)
    ipam = Ipam(store, observer=recorder, timer=clock)

    ipam.apply([SMALL], [Node("a")])
    first = recorder.take()
    store.calls.clear()
    ipam.allocate("a", "x")
    second = recorder.take()

    assert first[: len(KINDS)] == [StoreCalled("store", "scan", "ok", 2.0)] * len(KINDS)
    for events in (first, second):
        seconds = sum(event.seconds for event in events if isinstance(event, StoreCalled))
        assert isinstance(events[-2], Decided)
        assert events[-2] == Decided(1, 0, seconds)
        assert isinstance(events[-1], Called)
        assert events[-1].seconds == seconds
    assert first[-1]._replace(seconds=0) == Called("apply", "ok", 0)
    assert second == [
        *(StoreCalled("store", verb, "ok", PlainStore.TAKES[verb]) for verb in store.calls),  # type: ignore[arg-type]  # verbs
        Decided(1, 0, clock.now - sum(event.seconds for event in first if isinstance(event, StoreCalled))),
        Called("allocate", "ok", second[-2].seconds),
    ]


class BugError(Exception):
    """No error of ours."""


@pytest.mark.parametrize(
    ("error", "outcome", "told"),
    [
        (StoreRefusedError("put", "full"), "store", "failed"),
        (StoreUnavailableError("put", "gone", False), "store", "unavailable"),
        (BugError(), "unexpected", "failed"),
        (KeyboardInterrupt(), "unexpected", "failed"),
    ],
)
def test_what_a_store_raises_is_told_of_the_store_and_of_the_call(
    error: BaseException, outcome: str, told: str
) -> None:
    recorder, store = Recorder(), PlainStore()
    ipam = Ipam(store, observer=recorder, timer=store.clock)
    ipam.apply([SMALL], [Node("a")])
    recorder.take()
    store.before["put"] = [error]
    begin = store.clock.now

    with pytest.raises(type(error)):
        ipam.allocate("a", "x")

    seconds = store.clock.now - begin
    assert recorder.take()[-3:] == [
        StoreCalled("store", "put", told, 10.0, type(error)),  # type: ignore[arg-type]  # a StoreOutcome
        Decided(1, 0, seconds),
        Called("allocate", outcome, seconds, type(error)),  # type: ignore[arg-type]  # an Outcome
    ]


def test_every_family_of_errors_is_told_with_its_class() -> None:
    recorder = Recorder()
    ipam = Ipam(MemoryStore(), observer=recorder)
    ipam.apply([SMALL], [Node("a")])
    ipam.allocate("a", "x", "y")
    recorder.take()
    overlapping = PoolSpec(name="other", cidrs=["10.0.0.0/24"], selector=EVERYTHING)

    with pytest.raises(InvalidError):
        ipam.allocate("a", "x", address="nonsense")  # refused before it is queued
    with pytest.raises(OverlapError):
        ipam.apply([overlapping])
    with pytest.raises(StateError):
        ipam.release("a", "nobody")
    with pytest.raises(ExhaustedError):
        ipam.allocate("a", "z")

    told = [(each.call, each.outcome, each.error) for each in recorder.take() if isinstance(each, Called)]
    assert [(call, outcome) for call, outcome, _ in told] == [
        ("allocate", "invalid"),
        ("apply", "invalid"),
        ("release", "state"),
        ("allocate", "exhausted"),
    ]
    assert [error for _, _, error in told[1:]] == [OverlapError, NotFoundError, NodeExhaustedError]


def test_a_conflict_is_told_as_one_retry() -> None:
    store, recorder = MemoryStore(), Recorder()
    ipam, other = Ipam(store, observer=recorder), Ipam(store)
    ipam.apply([SMALL], [Node("a")])
    other.allocate("a", "x")
    recorder.take()

    ipam.allocate("a", "y")

    events = recorder.take()
    puts = [event for event in events if isinstance(event, StoreCalled) and event.verb == "put_in_order"]
    assert [(each.outcome, each.error) for each in puts] == [("conflict", ConflictError), ("ok", None)]
    assert [event.retries for event in events if isinstance(event, Decided)] == [1]
    ipam.allocate("a", "y")
    assert [event.retries for event in recorder.take() if isinstance(event, Decided)] == [0], "retries are of one batch"


class TogetherStore(PlainStore):
    """One at which several writes at once are quicker than one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[list[Key]] = []

    def put_together(self, writes: Sequence[Write]) -> list[Revision]:
        self.together.append([write.key for write in writes])
        return [self.inner.put(write.key, write.record, expect=write.expect) for write in writes]


@pytest.mark.parametrize("observed", [False, True])
def test_the_claims_of_many_nodes_are_put_together_under_an_observer_too(observed: bool) -> None:
    recorder, store = Recorder(), TogetherStore()
    ipam = Ipam(store, observer=recorder if observed else UNOBSERVED)

    ipam.apply([PoolSpec(name="p", cidrs=["10.0.0.0/20"], selector=EVERYTHING)], [Node(f"n{number}") for number in range(8)])

    claims = sorted(key for key, _ in store.inner.scan("block-claims").entries)
    assert len(claims) > 1
    assert store.together == [claims]
    told = [event for event in recorder.take() if isinstance(event, StoreCalled) and event.verb == "put_together"]
    assert [event.outcome for event in told] == ["ok"] * observed


def test_a_lost_answer_is_told_as_unknown_and_as_a_retry() -> None:
    recorder, store = Recorder(), PlainStore()
    ipam = Ipam(store, observer=recorder)
    ipam.apply([SMALL], [Node("a")])
    recorder.take()
    store.after["put"] = [StoreUnavailableError("put", "no answer", True)]

    ipam.allocate("a", "x")

    events = recorder.take()
    assert Counter(event.outcome for event in events if isinstance(event, StoreCalled))["unknown"] == 1
    assert [event.retries for event in events if isinstance(event, Decided)] == [1]
    assert outcomes(events) == [("allocate", "ok")]


def test_calls_that_waited_together_are_told_as_one_batch() -> None:
    recorder, store = Recorder(), PlainStore()
    ipam = Ipam(store, observer=recorder)
    ipam.apply([PoolSpec(name="p", cidrs=["10.0.0.0/24"], selector=EVERYTHING)], [Node("a")])
    recorder.take()
    others = [Thread(target=ipam.allocate, args=("a", f"owner-{number}")) for number in range(3)]
    put = store.inner.put

    def busy(key: Key, record: Record, *, expect: Expect) -> Revision:
        store.inner.put = put  # type: ignore[method-assign]  # only the first time
        for thread in others:
            thread.start()
        while len(ipam._combiner.queue) < len(others):
            pass
        return put(key, record, expect=expect)

    store.inner.put = busy  # type: ignore[method-assign]  # what a test may do
    ipam.allocate("a", "first")
    for thread in others:
        thread.join()

    events = recorder.take()
    assert sorted(event.calls for event in events if isinstance(event, Decided)) == [1, 3]
    assert outcomes(events) == [("allocate", "ok")] * 4


def test_batches_that_one_caller_decides_are_told_each_by_itself() -> None:
    clock, recorder = Clock(), Recorder()
    store = PlainStore(clock)
    ipam = Ipam(store, observer=recorder, timer=clock)
    ipam.apply([SMALL], [Node("a")])
    store.after["put"] = [StoreUnavailableError("put", "no answer", True)]
    ipam._combiner.queue.append(
        Waiting(ApplyTask(Apply(nodes=(Node("b"),)), 0.0, "token"))
    )  # of a caller that waits for the lock
    begin = clock.now
    recorder.take()

    ipam.allocate("a", "x")

    first, second = (event for event in recorder.events if isinstance(event, Decided))
    told = recorder.events.index(first)
    assert (first.calls, first.retries, second.calls, second.retries) == (1, 1, 1, 0)
    assert first.seconds == sum(event.seconds for event in recorder.events[:told])
    assert first.seconds + second.seconds == clock.now - begin


def test_a_conflict_of_a_plan_is_no_retry_of_the_next_call() -> None:
    recorder, store = Recorder(), PlainStore()
    ipam = Ipam(store, observer=recorder)
    ipam.apply([SMALL], [Node("a")])
    plan = ipam.plan(Allocate("a", ("x",)))
    store.before["put"] = [ConflictError("a key", "1", "2")]
    with pytest.raises(StalePlanError):
        ipam.execute(plan)
    recorder.take()

    ipam.allocate("a", "y")

    assert [event.retries for event in recorder.take() if isinstance(event, Decided)] == [0]


def test_two_stores_are_told_apart_and_one_given_twice_is_one() -> None:
    for names, stores in ({"store", "addresses"}, (MemoryStore(), MemoryStore())), ({"store"}, (MemoryStore(),) * 2):
        recorder = Recorder()
        ipam = Ipam(*stores, observer=recorder)
        ipam.apply([SMALL], [Node("a")])
        ipam.allocate("a", "x")

        assert {event.store for event in recorder.take() if isinstance(event, StoreCalled)} == names


def test_refusals_of_a_call_are_counted() -> None:
    recorder = Recorder()
    ipam = Ipam(MemoryStore(), observer=recorder)

    done = ipam.apply(
        [PoolSpec(name="rack", cidrs=["10.0.0.0/24"], selector=NodeSelector.parse("rack=a"))], [Node("a"), Node("b")]
    )

    assert len(done.refusals) == 2
    assert isinstance(recorder.events[-1], Called)
    assert recorder.events[-1].refusals == 2


def test_every_method_that_changes_or_reads_tells_its_own_name_once() -> None:
    recorder = Recorder()
    ipam = Ipam(MemoryStore(), observer=recorder)
    pools = [SMALL, PoolSpec(name="other", cidrs=["10.1.0.0/23"], selector=NodeSelector.parse("rack=a"))]
    ipam.apply(pools, [Node("a"), Node("b", {"rack": "a"})])
    (held,) = ipam.allocate("a", "x")
    recorder.take()
    plan = ipam.plan(Allocate("a", ("y",)))
    does: dict[str, Callable[[], object]] = {
        "execute": lambda: ipam.execute(plan),
        "allocate": lambda: ipam.allocate("a", "x"),
        "release_fenced": lambda: ipam.release_fenced(held.address, held.fence),
        "release": lambda: ipam.release("a", "y"),
        "force_release": lambda: ipam.force_release(ipam.allocate("a", "z")[0].address),
        "grow": lambda: ipam.grow("b", 2),
        "hand_back": lambda: ipam.hand_back("b", "10.1.1.0/24"),
        "request": lambda: ipam.request("b", [Demand("", 4, 10)]),
        "rebalance": lambda: ipam.rebalance("other", 24),
        "shrink": lambda: ipam.shrink("other", "10.1.1.0/24"),
        "drain": lambda: ipam.drain("node", "a"),
        "migrate": lambda: ipam.migrate("b", "other"),
        "refresh": ipam.refresh,
        "repair": ipam.repair,
        "remove_node": lambda: ipam.remove_node("b"),
        "remove_nodes": lambda: ipam.remove_nodes(["b"]),
        "remove_pool": lambda: ipam.remove_pool("other"),
        "apply": ipam.apply,
    }
    assert outcomes(recorder.take()) == [("plan", "ok")]

    for name, call in does.items():
        call()
        told = outcomes(recorder.take())
        assert told == [*([("allocate", "ok")] if name == "force_release" else []), (name, "ok")]

    assert sorted({*does, "plan"}) == list(CALLS)
    assert {name for name, method in vars(Ipam).items() if hasattr(method, "__wrapped__")} == set(CALLS)


def test_looking_is_not_told_but_what_it_reads_is() -> None:
    recorder, store = Recorder(), PlainStore()
    ipam = Ipam(store, observer=recorder)
    store.before["scan"] = [StoreUnavailableError("scan", "gone", False)]

    with pytest.raises(StoreUnavailableError):
        ipam.pools()
    first = recorder.take()
    ipam.pools()
    ipam.nodes()
    ipam.blocks()
    ipam.allocations()
    second = recorder.take()

    assert [event.outcome for event in first if isinstance(event, StoreCalled)] == ["unavailable"]
    assert [type(event) for event in second] == [StoreCalled] * len(KINDS)


# ------------------------------------------------------------------------------------------------ telling changes nothing


class Failing(Recorder):
    def observe(self, event: Event) -> None:
        super().observe(event)
        raise BugError


def test_what_an_observer_raises_is_logged_ever_more_seldom_and_the_call_is_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing, recorder = Failing(), Recorder()
    ipam, other = Ipam(MemoryStore(), observer=failing), Ipam(MemoryStore(), observer=recorder)

    with caplog.at_level(logging.ERROR, "ciliumipam.observer"):
        for each in (ipam, other):
            each.apply([SMALL], [Node("a")])
            assert [str(held.address) for held in each.allocate("a", "x")] == ["10.0.0.1"]
            with pytest.raises(NotFoundError):
                each.release("a", "nobody")

    assert [type(event) for event in failing.events] == [type(event) for event in recorder.events], "all are told"
    count = len(failing.events)
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [
        2**power for power in range(count.bit_length())
    ]
    assert all(record.exc_info and record.exc_info[0] is BugError for record in caplog.records)


def test_an_interrupt_while_an_observer_is_told_comes_through_and_frees_the_lock() -> None:
    class Interrupted:
        def observe(self, event: Event) -> None:
            if isinstance(event, Decided):
                raise KeyboardInterrupt

    ipam = Ipam(MemoryStore(), observer=Interrupted())

    with pytest.raises(KeyboardInterrupt):
        ipam.apply([SMALL], [Node("a")])

    assert [node.node.name for node in ipam.nodes()] == ["a"], "it was done"


def test_an_observer_may_look_at_the_ipam_since_no_lock_is_held() -> None:
    class Looking(Recorder):
        ipam: Ipam

        def observe(self, event: Event) -> None:
            super().observe(event)
            meter = self.ipam._meter
            assert meter is not None
            self.locked = meter._lock.locked()
            if not self.locked:
                self.blocks = len(self.ipam.blocks())

    looking = Looking()
    looking.ipam = Ipam(MemoryStore(), observer=looking)
    looking.ipam.apply([SMALL], [Node("a"), Node("b")])

    for event in looking.events:
        assert not looking.locked, f"the lock is held while {event} is told"
    assert looking.blocks == 2


def test_without_an_observer_the_timer_is_never_asked() -> None:
    def timer() -> float:
        pytest.fail("it was asked")

    ipam = Ipam(MemoryStore(), timer=timer)
    ipam.apply([SMALL], [Node("a")])
    ipam.allocate("a", "x")
    ipam.plan(Allocate("a", ("y",)))
    ipam.refresh()
    ipam.repair()
    UNOBSERVED.observe(Decided(1, 0, 0.0))

    assert ipam._meter is None


def test_a_timed_store_has_every_capability_of_the_store_and_no_other(tmp_path: Path) -> None:
    capabilities = [getattr(ciliumipam.store, name) for name in ciliumipam.store.__all__ if name.startswith("Supports")]
    assert capabilities
    for store in (MemoryStore(), SqliteStore(tmp_path / "db"), PlainStore()):
        timed, other = Meter(Recorder(), Clock()).stores(store, None)

        assert other is None
        for capability in capabilities:
            assert isinstance(timed, capability) == isinstance(store, capability), capability
        timed.close()
        with pytest.raises(StoreError):
            store.get(Key("pool", "p"))


OWNERS = st.sampled_from(["x", "y", "z", "w"])
NODES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), NODES, OWNERS),
        st.tuples(st.just("release"), NODES, OWNERS),
        st.tuples(st.just("remove_node"), NODES),
        st.tuples(st.just("node"), NODES),
        st.tuples(st.just("plan"), NODES, OWNERS),
        st.tuples(st.just("other"), NODES, OWNERS),
        st.tuples(st.just("fail"), st.sampled_from(["before", "after"]), st.booleans()),
    ),
    max_size=25,
)


def walk(ipam: Ipam, store: PlainStore, steps: Sequence[tuple[Any, ...]]) -> list[object]:
    """Do steps, beside another writer and on a store that fails; what came of each."""
    other = Ipam(store.inner, identity="other", clock=Clock())
    told: list[object] = []
    for action, *rest in [("pool",), *steps]:
        calls: dict[str, Callable[[], object]] = {
            "pool": lambda: ipam.apply([SMALL]),
            "allocate": lambda: ipam.allocate(*rest),  # noqa: B023 - called before the next step
            "release": lambda: ipam.release(*rest),  # noqa: B023 - the same
            "remove_node": lambda: ipam.remove_node(*rest),  # noqa: B023 - the same
            "node": lambda: ipam.apply(nodes=[Node(*rest)]),  # noqa: B023 - the same
            "plan": lambda: ipam.execute(ipam.plan(Allocate(rest[0], (rest[1],)))),  # noqa: B023 - the same
        }
        try:
            if action == "other":
                other.allocate(*rest)
            elif action == "fail":
                when, unknown = rest
                getattr(store, when).setdefault("put", []).append(StoreUnavailableError("put", "gone", unknown))
            else:
                told.append((action, calls[action]()))
        except IpamError as error:
            if action != "other":
                told.append((action, type(error), error.args))
    return told


@given(STEPS)
def test_an_observed_ipam_does_what_an_unobserved_one_does_and_tells_all_of_it(steps: list[tuple[Any, ...]]) -> None:
    stores, recorder, failing = [PlainStore() for _ in range(3)], Recorder(), Failing()
    observers: tuple[Observer, ...] = (UNOBSERVED, recorder, failing)
    ipams = [
        Ipam(store, identity="me", clock=Clock(), observer=observer)
        for store, observer in zip(stores, observers, strict=True)
    ]
    logging.getLogger("ciliumipam.observer").disabled = True  # a thousand failures are meant here
    try:
        bare, told, failed = (walk(ipam, store, steps) for ipam, store in zip(ipams, stores, strict=True))
    finally:
        logging.getLogger("ciliumipam.observer").disabled = False

    assert bare == told == failed
    assert contents(stores[0].inner) == contents(stores[1].inner) == contents(stores[2].inner)
    assert [event._replace(seconds=0.0) for event in recorder.events] == [
        event._replace(seconds=0.0) for event in failing.events
    ]
    plans = sum(isinstance(event, Called) and event.call == "plan" for event in recorder.events)
    executed = Counter(event.call for event in recorder.events if isinstance(event, Called))["execute"]
    calls = [event for event in recorder.events if isinstance(event, Called)]
    assert len(calls) == len(told) + executed, "a step that plans and executes makes two calls"
    assert sum(event.calls for event in recorder.events if isinstance(event, Decided)) == len(calls) - plans - executed
    assert Counter(event.verb for event in recorder.events if isinstance(event, StoreCalled)) == Counter(
        stores[1].calls
    )
    bad = sum(
        event.outcome in ("conflict", "unknown")
        for event in recorder.events
        if isinstance(event, StoreCalled) and event.verb in ("put", "delete")
    )
    executes = sum(  # a plan that is stale is not tried again
        event.outcome in ("state", "store") for event in calls if event.call == "execute"
    )
    retries = sum(event.retries for event in recorder.events if isinstance(event, Decided))
    assert bad - executes <= retries <= bad


# ------------------------------------------------------------------------------------------------ Prometheus


def scrape(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels, read back from the text that Prometheus gets."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


class Metrics:
    """An `Ipam` with both parts in a registry of its own."""

    def __init__(self, store: Store, **options: bool) -> None:
        self.registry = CollectorRegistry()
        self.clock = Clock()
        self.ipam = Ipam(store, observer=PrometheusObserver(self.registry), timer=self.clock)
        self.registry.register(StateCollector(self.ipam, **options))

    def __call__(self, name: str, **labels: str) -> float | None:
        return scrape(self.registry).get((f"ciliumipam_{name}", tuple(sorted(labels.items()))))


def test_calls_store_operations_and_retries_are_counted_and_timed() -> None:
    store = PlainStore()
    metrics = Metrics(store)
    store.clock = metrics.clock
    ipam = metrics.ipam
    assert metrics("calls_total", call="allocate", outcome="exhausted") == 0, "there before it is first counted"
    assert metrics("call_errors_total", error="NodeExhaustedError") == 0
    begin = metrics.clock.now  # the scrape has read the store
    ipam.apply(
        [PoolSpec(name="p", cidrs=["10.0.0.0/30"], selector=NodeSelector.parse("a=b"))],
        [Node("a", {"a": "b"}), Node("b")],
    )
    ipam.allocate("a", "x")
    store.after["put"] = [StoreUnavailableError("put", "no answer", True)]
    ipam.allocate("a", "y")
    with pytest.raises(NodeExhaustedError):
        ipam.allocate("a", "z")

    found = {
        name: metrics(name, **labels)
        for name, labels in {
            "calls_total": {"call": "allocate", "outcome": "ok"},
            "call_errors_total": {"error": "NodeExhaustedError"},
            "call_seconds_count": {"call": "allocate"},
            "store_operations_total": {"store": "store", "verb": "put", "outcome": "unknown"},
        }.items()
    }

    assert found == {
        "calls_total": 2,
        "call_errors_total": 1,
        "call_seconds_count": 3,
        "store_operations_total": 1,
    }
    assert metrics("calls_total", call="allocate", outcome="exhausted") == 1
    assert metrics("retries_total") == 1
    assert metrics("refusals_total") == 1
    assert metrics("batch_calls_sum") == metrics("batch_calls_count") == 4
    verbs = Counter(store.calls)
    for verb, count in verbs.items():
        labels = {"store": "store", "verb": verb}
        assert metrics("store_operation_seconds_count", **labels) == count
        assert metrics("store_operation_seconds_sum", **labels) == count * PlainStore.TAKES[verb]
    assert metrics("batch_seconds_sum") == metrics.clock.now - begin
    assert sum(metrics("call_seconds_sum", call=call) or 0 for call in CALLS) == metrics.clock.now - begin
    assert metrics("store_operation_seconds_bucket", store="store", verb="get", le="1.0") == verbs["get"]
    assert metrics("store_operation_seconds_bucket", store="store", verb="get", le="0.5") == 0


def test_an_error_counts_as_the_nearest_class_that_is_ours() -> None:
    class OutOfTapeError(StoreRefusedError):
        """What a store of somebody else's raises."""

    namesake = type("ConflictError", (Exception,), {})  # of another library
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    for error in (OutOfTapeError, IpamError, BugError, KeyboardInterrupt, namesake):
        observer.observe(Called("allocate", "unexpected", 0.0, error))

    counted = {
        labels: value for (name, labels), value in scrape(registry).items() if name == "ciliumipam_call_errors_total"
    }
    assert {labels[0][1]: value for labels, value in counted.items() if value} == {
        "StoreRefusedError": 1,
        "IpamError": 1,
        "unexpected": 3,
    }


def test_no_count_is_lost_between_threads() -> None:
    metrics = Metrics(MemoryStore())
    ipam = metrics.ipam
    ipam.apply([PoolSpec(name="p", cidrs=["10.0.0.0/24"], selector=EVERYTHING)], [Node("a")])

    def work(number: int) -> None:
        for _ in range(50):
            ipam.allocate("a", f"owner-{number}")
            ipam.release("a", f"owner-{number}")

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (
        metrics("calls_total", call="allocate", outcome="ok")
        == metrics("calls_total", call="release", outcome="ok")
        == 200
    )
    assert metrics("batch_calls_sum") == 401
    assert metrics("call_seconds_count", call="allocate") == 200


def test_one_observer_serves_several_ipams_and_a_registry_takes_one_observer() -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    for _ in range(2):
        Ipam(MemoryStore(), observer=observer).apply()
    observer.observe(object())  # type: ignore[arg-type]  # of a later version

    assert scrape(registry)[("ciliumipam_calls_total", (("call", "apply"), ("outcome", "ok")))] == 2
    with pytest.raises(ValueError, match="ciliumipam"):
        PrometheusObserver(registry)


def test_pools_and_nodes_stand_as_they_stand() -> None:
    now = Clock()
    registry = CollectorRegistry()
    ipam = Ipam(MemoryStore(), clock=now)
    registry.register(StateCollector(ipam))
    rack = NodeSelector.parse("rack=a")
    ipam.apply(
        [
            PoolSpec(
                name="p",
                cidrs=["10.0.0.0/26", "fd00::/62"],
                selector=rack,
                block_length_v4=28,
                reserved=["10.0.0.1"],
                reuse_delay=60,
            ),
            PoolSpec(name="gone", cidrs=["10.1.0.0/28"], selector=NodeSelector.parse("rack=b")),
        ],
        [Node("a", {"rack": "a"}), Node("b", {"rack": "a"}), Node("c", {"rack": "b"}), Node("d"), Node("e")],
    )
    ipam.remove_pool("gone")
    ipam.drain("node", "e")
    ipam.allocate("a", *(f"o{number}" for number in range(9)))
    ipam.release("a", "o0")
    ipam.remove_node("b")

    found = {
        (name.removeprefix("ciliumipam_"), *(value for _, value in labels)): value
        for (name, labels), value in scrape(registry).items()
    }

    assert found == {
        ("state_readable",): 1,
        ("pool_blocks", "ipv4", "p"): 4,
        ("pool_blocks", "ipv6", "p"): 4,
        ("pool_blocks_held", "ipv4", "p"): 1,
        ("pool_blocks_held", "ipv6", "p"): 1,
        ("pool_blocks_available", "ipv4", "p"): 2,
        ("pool_blocks_available", "ipv6", "p"): 2,
        ("pool_cooling_addresses", "ipv4", "p"): 16,
        ("pool_cooling_addresses", "ipv6", "p"): 2.0**64,
        ("pool_largest_free_addresses", "ipv4", "p"): 32,
        ("pool_largest_free_addresses", "ipv6", "p"): 2.0**65,
        ("pool_fragmentation_ratio", "ipv4", "p"): 0,
        ("pool_fragmentation_ratio", "ipv6", "p"): 0,
        ("pool_addresses", "ipv4", "p", "available"): 4,
        ("pool_addresses", "ipv4", "p", "in_use"): 8,
        ("pool_addresses", "ipv4", "p", "cooling"): 1,
        ("pool_addresses", "ipv4", "p", "reserved"): 3,
        ("pool_addresses", "ipv6", "p", "available"): 2.0**64,
        ("pool_addresses", "ipv6", "p", "in_use"): 8,
        ("pool_addresses", "ipv6", "p", "cooling"): 1,
        ("pool_addresses", "ipv6", "p", "reserved"): found[("pool_addresses", "ipv6", "p", "reserved")],
        ("pool_addresses", "ipv4", "gone", "available"): found[("pool_addresses", "ipv4", "gone", "available")],
        ("pool_addresses", "ipv4", "gone", "in_use"): 0,
        ("pool_addresses", "ipv4", "gone", "cooling"): 0,
        ("pool_addresses", "ipv4", "gone", "reserved"): found[("pool_addresses", "ipv4", "gone", "reserved")],
        ("pool_draining", "p"): 0,
        ("pool_draining_blocks", "p"): 0,
        ("pool_draining_blocks", "gone"): 0,
        ("pool_orphan_blocks", "p"): 0,
        ("pool_orphan_blocks", "gone"): 1,
        ("pool_conflicting", "p"): 0,
        ("pool_concerns", "p"): 0,
        ("nodes",): 4,
        ("nodes_draining",): 1,
        ("nodes_without_block",): 1,
        ("nodes_full", "ipv4"): 1,  # c has an orphan only
        ("nodes_full", "ipv6"): 0,
        ("node_usage_ratio_max", "ipv4"): 1,
        ("node_usage_ratio_max", "ipv6"): 9 / 2**64,
    }


def test_a_pool_that_overlaps_or_drains_or_is_in_pieces_shows_it() -> None:
    store = MemoryStore()
    here, there = Ipam(store, clock=Clock()), Ipam(MemoryStore(), clock=Clock())
    here.apply([SMALL])
    there.apply([SMALL, PoolSpec(name="young", cidrs=["10.2.0.0/29"], selector=EVERYTHING)])
    metrics = Metrics(store)
    (entry,) = [entry for key, entry in there._executor.store.scan("pool").entries if key.name == "young"]
    young = entry.record._replace(spec=PoolSpec(name="young", cidrs=["10.0.0.0/28"], selector=EVERYTHING), since=1.0)  # type: ignore[call-arg]  # a PoolRecord
    store.put(Key("pool", "young"), young, expect=ciliumipam.store.ABSENT)

    assert metrics("pool_conflicting", pool="young") == 1
    assert metrics("pool_conflicting", pool="small") == 0
    assert metrics("pool_largest_free_addresses", pool="small", family="ipv4") == 8
    here.apply(nodes=[Node("a"), Node("b")])
    metrics.ipam.refresh()
    assert metrics("pool_largest_free_addresses", pool="small", family="ipv4") == 0, "nothing is free"

    metrics = Metrics(MemoryStore())
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/29"], selector=EVERYTHING, block_length_v4=31)
    metrics.ipam.apply([pool], [Node("a"), Node("b"), Node("c")])
    metrics.ipam.remove_node("a")
    assert metrics("pool_fragmentation_ratio", pool="p", family="ipv4") == 0.5
    assert metrics("pool_largest_free_addresses", pool="p", family="ipv4") == 2

    assert metrics("pool_addresses", pool="p", family="ipv4", state="available") == 4, "of both blocks"

    metrics.ipam.drain("pool", "p")
    assert metrics("pool_draining", pool="p") == 1
    assert metrics("pool_draining_blocks", pool="p") == metrics("pool_blocks_held", pool="p", family="ipv4") == 2


def test_what_drains_counts_as_taken_only_where_nothing_else_serves() -> None:
    metrics = Metrics(MemoryStore())
    metrics.ipam.apply([SMALL], [Node("a")])
    metrics.ipam.allocate("a", "x")
    assert metrics("node_usage_ratio_max", family="ipv4") == 0.5

    metrics.ipam.drain("block", "10.0.0.0/30")  # its replacement is empty, and x keeps the drained one
    assert metrics("pool_draining_blocks", pool="small") == 1
    assert metrics("node_usage_ratio_max", family="ipv4") == 0

    metrics.ipam.allocate("a", "y", "z")
    assert metrics("node_usage_ratio_max", family="ipv4") == 1
    assert metrics("nodes_full", family="ipv4") == 1, "one address of the block that drains is not given out"

    metrics = Metrics(MemoryStore())
    metrics.ipam.apply([PoolSpec(name="one", cidrs=["10.0.0.0/30"], selector=EVERYTHING)], [Node("a")])
    metrics.ipam.allocate("a", "x")
    metrics.ipam.drain("block", "10.0.0.0/30")
    assert metrics("pool_draining_blocks", pool="one") == 1
    assert metrics("node_usage_ratio_max", family="ipv4") == 0.5, "there is no other, so it still serves"


@given(
    st.lists(st.tuples(NODES, OWNERS, st.booleans()), max_size=20),
    st.integers(0, 120),
)
def test_gauges_are_what_a_recount_of_the_addresses_gives(steps: list[tuple[str, str, bool]], later: int) -> None:
    now = Clock()
    registry = CollectorRegistry()
    ipam = Ipam(MemoryStore(), clock=now)
    registry.register(StateCollector(ipam, per_node=True))
    cooling_pool = PoolSpec(
        name="small", cidrs=["10.0.0.0/29"], selector=EVERYTHING, block_length_v4=30, reuse_delay=60
    )
    ipam.apply([cooling_pool], [Node(name) for name in "abc"])
    released: dict[str, int] = Counter()
    for node, owner, back in steps:
        try:
            if back:
                released[node] += len(ipam.release(node, owner))
            else:
                ipam.allocate(node, owner)
        except IpamError:
            continue
    now.now = float(later)

    found = scrape(registry)

    held = Counter(each.node for each in ipam.allocations())
    served = {block.node: 4 for block in ipam.blocks()}
    cooling = released if later < 60 else Counter[str]()
    for node in "abc":
        counts = {
            state: found.get(("ciliumipam_node_addresses", (("family", "ipv4"), ("node", node), ("state", state))))
            for state in ("in_use", "cooling", "reserved", "available")
        }
        if node not in served:
            assert set(counts.values()) == {None}
            continue
        assert counts["in_use"] == held[node]
        assert counts["cooling"] == cooling[node]
        assert counts["reserved"] == 2
        assert sum(value or 0 for value in counts.values()) == 4
    assert found[("ciliumipam_nodes_without_block", ())] == 3 - len(served) == 1
    assert found[("ciliumipam_nodes_full", (("family", "ipv4"),))] == sum(
        held[node] + cooling[node] == 2 for node in served
    )
    assert found[("ciliumipam_node_usage_ratio_max", (("family", "ipv4"),))] == max(
        (held[node] + cooling[node]) / 2 for node in served
    )


def test_series_do_not_grow_with_nodes_and_owners_and_name_none() -> None:
    metrics = Metrics(MemoryStore())
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/16"], selector=EVERYTHING)
    metrics.ipam.apply([pool], [Node("node-zebra")])
    metrics.ipam.allocate("node-zebra", "owner-zebra", label="label-zebra")
    before = scrape(metrics.registry).keys()

    metrics.ipam.apply(nodes=[Node(f"node-{number}") for number in range(20)])
    for number in range(20):
        metrics.ipam.allocate(f"node-{number}", f"owner-{number}")

    after = scrape(metrics.registry).keys()
    assert before == after
    text = generate_latest(metrics.registry).decode()
    assert "zebra" not in text
    assert "node_addresses" not in text
    assert not re.search(r"10\.0\.\d", text)
    labels = {label for _, each in after for label, _ in each}
    assert labels == {"call", "outcome", "error", "store", "verb", "le", "pool", "family", "state"}


def test_a_store_that_cannot_be_read_costs_the_gauges_and_nothing_else() -> None:
    store = PlainStore()
    registry = CollectorRegistry()
    ipam = Ipam(store, observer=PrometheusObserver(registry))
    registry.register(StateCollector(ipam))
    assert store.calls == [], "registering reads nothing"
    store.before["scan"] = [StoreUnavailableError("scan", "gone", False)]

    broken = scrape(registry)
    mended = scrape(registry)

    gauges = {name for name, _ in broken if name.startswith(("ciliumipam_pool", "ciliumipam_node", "ciliumipam_state"))}
    assert gauges == {"ciliumipam_state_readable"}
    assert broken[("ciliumipam_state_readable", ())] == 0
    assert ("ciliumipam_calls_total", (("call", "apply"), ("outcome", "ok"))) in broken
    assert mended[("ciliumipam_state_readable", ())] == 1
    assert mended[("ciliumipam_nodes", ())] == 0
    labels = (("outcome", "unavailable"), ("store", "store"), ("verb", "scan"))
    assert mended[("ciliumipam_store_operations_total", labels)] == 1


def test_a_bug_while_reading_is_not_taken_for_a_store_that_fails() -> None:
    store = PlainStore()
    store.before["scan"] = [BugError()]
    registry = CollectorRegistry()
    registry.register(StateCollector(Ipam(store)))

    with pytest.raises(BugError):
        scrape(registry)


@pytest.mark.parametrize("refresh", [False, True])
def test_what_other_processes_write_is_seen_with_refresh(refresh: bool) -> None:
    store = MemoryStore()
    metrics = Metrics(store, refresh=refresh)
    assert metrics("nodes") == 0

    Ipam(store).apply([SMALL], [Node("a")])

    assert metrics("nodes") == (1 if refresh else 0)
    assert bool(metrics("calls_total", call="refresh", outcome="ok")) == refresh


def families() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name, type, labels and help of every metric: of any `Ipam`, then what only the operator has, and an agent."""
    observed, operated, agents = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    PrometheusObserver(observed)
    OperatorMetrics(operated)
    AgentMetrics(agents)
    found = []
    for registry in (observed, operated, agents):
        for collector in registry._collector_to_names:
            (metric,) = collector.describe()  # type: ignore[attr-defined]  # the collectors of the client itself
            found.append((metric.name, metric.type, tuple(collector._labelnames), metric.documentation))  # type: ignore[attr-defined]  # the same
        if registry is observed:
            gauges = StateCollector(Ipam(MemoryStore()), per_node=True).describe()
            found += [(gauge.name, gauge.type, tuple(gauge._labelnames), gauge.documentation) for gauge in gauges]
    told = [(f"{name}_total" if kind == "counter" else name, kind, *rest) for name, kind, *rest in found]
    return list(dict.fromkeys(told))  # the operator's `Ipam` is observed as any is


def test_names_and_help_keep_the_conventions() -> None:
    for name, kind, labels, text in families():
        assert re.fullmatch(r"ciliumipam_[a-z]+(_[a-z]+)*", name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert text.endswith("."), name
        assert text[0].isupper() or text[0].isdigit(), name
        assert set(labels) <= {"call", "outcome", "error", "store", "verb", "pool", "family", "state", "node", "resource", "move"}
        assert ("node" in labels) == (name == "ciliumipam_node_addresses")


def test_the_reference_lists_every_metric_as_it_is() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()

    rows = re.findall(r"^\| `(ciliumipam_\w+)` \| (\w+) \|(.*?)\| (.*?) \|$", page, re.MULTILINE)

    listed = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows]
    assert listed == families()
    for value in (*CALLS, *OUTCOMES, *ciliumipam.observer.STORE_OUTCOMES):
        assert f"`{value}`" in page, value


def test_every_metric_and_label_of_the_alerts_and_the_page_exists() -> None:
    page = (ROOT / "docs/how-to/watch-it-with-prometheus.md").read_text()
    (fence,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    rules = [rule for group in yaml.safe_load(fence)["groups"] for rule in group["rules"]]
    known = {name: labels for name, _, labels, _ in families()}
    names = {
        *known,
        *(f"{name}{suffix}" for name, kind, *_ in families() if kind == "histogram" for suffix in ("_count", "_sum")),
    }

    used = set(re.findall(r"\bciliumipam_[a-z_]+\b", page))
    assert used - names == set()
    assert [rule["alert"] for rule in rules if not {"expr", "for", "labels", "annotations"} <= rule.keys()] == []
    for rule in rules:
        (name, *others) = re.findall(r"ciliumipam_\w+", rule["expr"])
        assert name in known, others
        for matched, matcher in re.findall(r"(ciliumipam_\w+)\{(\w+)", rule["expr"]):
            assert matcher in known[matched]
        for _, label in re.findall(r"(\$labels\.)(\w+)", str(rule["annotations"])):
            assert label in known[name], f"{rule['alert']}: {name} has no label {label}"
    values = set(re.findall(r'outcome=~?"([\w|]+)"', page))
    assert {each for value in values for each in value.split("|")} <= {*OUTCOMES, *ciliumipam.observer.STORE_OUTCOMES}


# ------------------------------------------------------------------------------------------------ what is loaded


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_the_package_loads_neither_prometheus_nor_logging() -> None:
    code = "import ciliumipam, sys; print(sorted({'prometheus_client', 'ciliumipam.prometheus', 'logging'} & set(sys.modules)))"

    assert python(code) == "[]\n"


def test_without_prometheus_client_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["prometheus_client"] = None
try:
    import ciliumipam.prometheus
except ModuleNotFoundError as error:
    print(error)
"""

    assert python(code) == "ciliumipam.prometheus needs prometheus-client: pip install 'ciliumipam[prometheus]'\n"
