"""The operator on a real API server. The server is this module's own: an operator serves every node that there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest

from ciliumipam import Ipam
from ciliumipam.errors import NotInstalledError, StalePlanError, StoreRefusedError
from ciliumipam.kubernetes.answers import Resource
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.cilium_crds import PAIR
from ciliumipam.kubernetes.cluster import SOURCES, Cluster, ClusterStore
from ciliumipam.kubernetes.crds import CIDR_LEDGER, CIDR_POOL
from ciliumipam.kubernetes.guard import CILIUM_NODES, NODES
from ciliumipam.kubernetes.objects import LEDGERS, POOLS
from ciliumipam.kubernetes.operator import Operator
from ciliumipam.kubernetes.reporter import Reporter, Round, Subject, WriteOutcome
from ciliumipam.kubernetes.store import KubernetesStore
from ciliumipam.kubernetes.transport import NO_QUERY, Response, Stream, Transport
from ciliumipam.records import Key
from ciliumipam.requests import Applied, Apply, Drain, Migrate, Request
from ciliumipam.testing.control_plane.access import ControlPlane
from ciliumipam.testing.control_plane.binaries import Binaries
from ciliumipam.testing.control_plane.scratch import ScratchControlPlane

lightkube_transport = pytest.importorskip("ciliumipam.kubernetes.lightkube_transport", reason="the extra `kubernetes` is not installed")

CONFIGS = SOURCES["CiliumNodeConfig"][0]._replace(namespace="default")
_DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
_PATIENCE = 120.0  # for broken code only: a busy machine may take its time


def eventually(what: Callable[[], object], *, why: Callable[[], object] = lambda: "") -> None:
    """Wait until something holds."""
    end = time.monotonic() + _PATIENCE
    while not what():
        assert time.monotonic() < end, f"it did not come to that: {why()}"
        time.sleep(0.01)


class Told(Reporter):
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.waits: dict[str, str] = {}
        self.given: list[tuple[str, tuple[str, ...]]] = []
        self.taken_over: list[tuple[str, str, str]] = []
        self.conflicts: dict[tuple[str, str], str] = {}
        self.orphans: dict[str, tuple[tuple[str, ...], str]] = {}
        self.gone: list[tuple[str, tuple[str, ...]]] = []
        self.broken: dict[str, str] = {}
        self.written: list[str] = []
        self.rounds: list[Round] = []
        self.concerns: dict[str, tuple[str, ...]] = {}

    def node_waits(self, node: Subject, reason: str) -> None:
        self.waits[node.name] = reason

    def block_given(self, node: Subject, blocks: Any) -> None:
        self.given.append((node.name, tuple(blocks)))

    def adopted(self, node: Subject, block: str, pool: str) -> None:
        self.taken_over.append((node.name, block, pool))

    def conflict(self, node: Subject, block: str, reason: str) -> None:
        self.conflicts[node.name, block] = reason

    def orphaned(self, node: Subject, blocks: Any, pool: str) -> None:
        self.orphans[node.name] = (tuple(blocks), pool)

    def node_gone(self, node: str, blocks: Any) -> None:
        self.gone.append((node, tuple(blocks)))

    def node_written(self, outcome: WriteOutcome, seconds: float) -> None:
        self.written.append(outcome)

    def pool_broken(self, pool: Mapping[str, Any], reason: str) -> None:
        self.broken[pool["metadata"]["name"]] = reason

    def pools(self, objects: Any, statuses: Any) -> None:
        self.concerns = {status.spec.name: status.concerns for status in statuses}

    def round_done(self, done: Round) -> None:
        self.rounds.append(done)

    def leads(self, leading: bool) -> None:
        raise AssertionError("no operator of these tests has a Lease")


class Wire:
    """A transport that counts, and can hold up a request."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self._lock = Lock()
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], object] = lambda method, path: None

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: object = None,
        content_type: str = "application/json",
        timeout: float = 30.0,
    ) -> Response:
        with self._lock:
            self.requests.append((method, path))
        self.before(method, path)
        return self._inner.request(method, path, query=query, body=body, content_type=content_type, timeout=timeout)

    def stream(self, path: str, *, query: Mapping[str, str] = NO_QUERY, timeout: float) -> Stream:
        return self._inner.stream(path, query=query, timeout=timeout)

    def close(self) -> None:
        self._inner.close()


class World:
    """A cluster, and what tests do to it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.api = Api(transport)

    def install(self) -> None:
        for definition in (CIDR_POOL, CIDR_LEDGER, *PAIR):
            self.api.create(_DEFINITIONS, definition)
        for resource in (POOLS, LEDGERS, CILIUM_NODES, CONFIGS):
            eventually(lambda resource=resource: self._is_served(resource))  # type: ignore[misc]  # bound at once

    def _is_served(self, resource: Resource) -> bool:
        try:
            self.api.list(resource)
        except NotInstalledError:
            return False
        return True

    def clear(self) -> None:
        for resource in (NODES, CILIUM_NODES, POOLS, CONFIGS, LEDGERS):
            for obj in self.api.list(resource).items:
                self.api.delete(resource, obj["metadata"]["name"])

    def pool(self, name: str, *cidrs: str, selector: Mapping[str, Any] | None = None, **spec: object) -> None:
        spec = {"cidrs": list(cidrs), "nodeSelector": selector or {}, **spec}
        self.api.create(POOLS, {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": name}, "spec": spec})

    def edit_pool(self, name: str, **spec: object) -> None:
        self.api.patch(POOLS, name, {"spec": spec})

    def config(self, name: str, hostname: str, cidr: str) -> None:
        spec = {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": hostname}},
            "ipam": {"operator": {"clusterPoolIPv4PodCIDRs": [cidr]}},
        }
        metadata = {"name": name, "namespace": "default"}
        self.api.create(CONFIGS, {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumNodeConfig", "metadata": metadata, "spec": spec})

    def node(self, name: str, *, cilium: bool = True, ipam: Mapping[str, Any] | None = None, **labels: str) -> None:
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}
        self.api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        if cilium:
            self.cilium_node(name, ipam=ipam)

    def cilium_node(self, name: str, *, ipam: Mapping[str, Any] | None = None) -> None:
        spec = {"ipam": dict(ipam)} if ipam else {}
        self.api.create(CILIUM_NODES, {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": name}, "spec": spec})

    def delete_node(self, name: str) -> None:
        for resource in (NODES, CILIUM_NODES):
            if self.api.get(resource, name) is not None:
                self.api.delete(resource, name)

    def cidrs(self, name: str) -> list[str]:
        found = self.api.get(CILIUM_NODES, name)
        return list(found["spec"].get("ipam", {}).get("podCIDRs", [])) if found is not None else []

    def core_cidrs(self, name: str) -> list[str]:
        found = self.api.get(NODES, name)
        return list(found["spec"].get("podCIDRs", [])) if found is not None else []

    def error(self, name: str) -> str:
        found = self.api.get(CILIUM_NODES, name) or {}
        return str(found.get("status", {}).get("ipam", {}).get("operator-status", {}).get("error", ""))

    def all_cidrs(self) -> dict[str, list[str]]:
        return {obj["metadata"]["name"]: obj["spec"].get("ipam", {}).get("podCIDRs", []) for obj in self.api.list(CILIUM_NODES).items}

    def said(self) -> dict[str, list[str]]:
        return {name: sorted(cidrs) for name, cidrs in self.all_cidrs().items()}

    def held(self) -> dict[str, list[str]]:
        with self.ipam() as ipam:
            return {name: sorted(str(block.prefix) for block in blocks) for name, blocks in ipam.held(closing=True).items()}

    def ipam(self) -> Ipam:
        """The facade as a command has it: nothing is followed."""
        return Ipam(ClusterStore(KubernetesStore(self.transport), Cluster(self.api)))


def overlaps(listed: Mapping[str, list[str]]) -> list[tuple[str, str, str, str]]:
    """Pairs of blocks of different nodes that share an address."""
    every = sorted((ip_network(cidr), node) for node, cidrs in listed.items() for cidr in cidrs if ":" not in cidr)
    return [
        (one, str(left), other, str(right))
        for at, (left, one) in enumerate(every)
        for right, other in every[at + 1 : at + 20]
        if left.overlaps(right) and one != other
    ]


@pytest.fixture(scope="module")
def plane(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ScratchControlPlane(tmp_path_factory.mktemp("operator"), server_binaries) as plane:
        yield plane


@pytest.fixture(scope="module")
def connected(plane: ControlPlane) -> Iterator[Callable[[], Transport]]:
    patch = pytest.MonkeyPatch()
    patch.setenv("KUBECONFIG", str(Path(plane.kubeconfig)))
    made: list[Transport] = []

    def connect() -> Transport:
        made.append(lightkube_transport.connect())
        return made[-1]

    World(connect()).install()
    yield connect
    for transport in made:
        transport.close()
    patch.undo()


@pytest.fixture
def world(connected: Callable[[], Transport]) -> Iterator[World]:
    world = World(connected())
    yield world
    world.clear()


@pytest.fixture
def running(world: World, connected: Callable[[], Transport]) -> Callable[..., Any]:
    @contextmanager
    def run(**options: Any) -> Iterator[tuple[Operator, Told, Wire]]:
        wire, told, stop = Wire(connected()), Told(), Event()
        operator = Operator(wire, reporter=told, **options)
        thread = Thread(target=operator.run, args=(stop,))
        thread.start()
        try:
            yield operator, told, wire
        finally:
            stop.set()
            operator.wake()
            thread.join()

    return run


def test_the_story_of_the_seed(world: World, running: Callable[..., Any]) -> None:
    world.config("node-1-ipam-config", "node-1", "10.0.1.0/24")
    world.config("node-2-ipam-config", "node-2", "10.0.2.0/24")
    with running(grace=0.5) as (_, told, _wire):
        for name in ("node-1", "node-2", "node-3"):
            world.node(name)
        eventually(lambda: world.cidrs("node-1") == ["10.0.1.0/24"] and world.cidrs("node-2") == ["10.0.2.0/24"], why=lambda: told.waits)

        eventually(lambda: "kubernetes.io/hostname" in world.error("node-3"), why=lambda: told.waits)
        assert world.cidrs("node-3") == []
        eventually(lambda: "node-1-ipam-config" in told.waits.get("node-3", ""), why=lambda: told.waits)
        found = world.api.get(CILIUM_NODES, "node-1")
        assert found is not None
        assert found["metadata"]["annotations"]["ipam.cilium.io/ignore"] == "true"

        world.delete_node("node-2")
        eventually(lambda: ("node-2", ("10.0.2.0/24",)) in told.gone)

        world.config("node-3-ipam-config", "node-3", "10.0.3.0/24")
        eventually(lambda: world.cidrs("node-3") == ["10.0.3.0/24"])
        eventually(lambda: world.error("node-3") == "")
    assert [obj for obj in world.api.list(LEDGERS).items if obj["spec"]["kind"] == "node"] == []


def test_a_waiting_node_is_woken_when_a_node_that_is_gone_gives_its_block_back(world: World, running: Callable[..., Any]) -> None:
    world.pool("small", "10.0.0.0/24")
    with running(grace=0.3) as (_, told, _wire):
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
        world.node("b")
        eventually(lambda: "no free IPv4 /24" in world.error("b"), why=lambda: told.waits)

        world.delete_node("a")

        eventually(lambda: world.cidrs("b") == ["10.0.0.0/24"])
        eventually(lambda: world.error("b") == "")


def test_a_node_that_registers_again_within_the_grace_time_keeps_its_block(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/16")
    with running(grace=3600) as (operator, told, _):
        world.node("a")
        world.node("b")
        eventually(lambda: world.cidrs("a") and world.cidrs("b"))
        before = world.cidrs("a")
        world.delete_node("a")
        eventually(lambda: "a" in operator._absent)

        world.node("a")

        eventually(lambda: world.cidrs("a") == before)
        assert told.gone == []


def test_dual_stack_nodes_get_a_block_of_each_family_or_nothing(world: World, running: Callable[..., Any]) -> None:
    world.pool("dual", "10.0.0.0/23", "fd00::/64", blockLength={"ipv4": 24, "ipv6": 64})
    with running() as (_, told, _wire):
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24", "fd00::/64"])
        world.node("b")
        eventually(lambda: "IPv6" in world.error("b"), why=lambda: told.waits)
        assert world.cidrs("b") == []


def test_what_nodes_list_is_taken_over_the_oldest_first(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/16")
    world.node("old", ipam={"podCIDRs": ["10.0.7.0/24"]})
    time.sleep(1.1)  # a creationTimestamp has whole seconds
    world.node("young", ipam={"podCIDRs": ["10.0.7.0/24"]})
    world.node("elsewhere", ipam={"podCIDRs": ["192.168.0.0/24"]})
    with running() as (operator, told, _):
        eventually(lambda: ("young", "10.0.7.0/24") in told.conflicts)
        eventually(lambda: "drain the node and delete its CiliumNode" in world.error("young"))
        world.node("new")
        eventually(lambda: world.cidrs("new"))

        held = operator.ipam.held()
        assert [str(block.prefix) for block in held["old"]] == ["10.0.7.0/24"]
        assert [str(block.prefix) for block in held["elsewhere"]] == ["192.168.0.0/24"]
        assert ("old", "10.0.7.0/24", "p") in told.taken_over
        assert world.cidrs("young") == ["10.0.7.0/24"], "what a live node lists is never taken off it"
        assert "old" in told.conflicts["young", "10.0.7.0/24"]


def test_a_node_whose_agent_uses_pools_is_told_by_pool(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/16")
    with running():
        world.node("a", ipam={"pools": {"requested": [{"pool": "p", "needed": {"ipv4-addrs": 8}}]}})
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
    found = world.api.get(CILIUM_NODES, "a")
    assert found is not None
    assert found["spec"]["ipam"]["pools"]["allocated"] == [{"pool": "p", "cidrs": ["10.0.0.0/24"]}]


def test_blocks_written_to_core_nodes(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/16", "fd00::/56")
    with running(write_to="node") as (_, told, _wire):
        world.node("a", cilium=False)
        eventually(lambda: world.core_cidrs("a") == ["10.0.0.0/24", "fd00::/64"])

        world.pool("q", "10.9.0.0/16", selector={"matchLabels": {"several": "yes"}}, blocksPerNode=2)
        eventually(lambda: any("can be set once" in each for each in told.concerns.get("q", ())))
        world.node("b", cilium=False, several="yes")
        eventually(lambda: world.core_cidrs("b") == ["10.9.0.0/24"])
        eventually(lambda: "10.9.1.0/24" in told.waits.get("b", ""), why=lambda: told.waits)


def test_a_restart_over_nodes_that_have_their_blocks_writes_nothing_and_rest_asks_nothing(
    world: World, running: Callable[..., Any]
) -> None:
    world.pool("p", "10.0.0.0/16")
    names = [f"n{number}" for number in range(20)]
    with running():
        for name in names:
            world.node(name)
        eventually(lambda: all(world.all_cidrs().values()))
    before = world.all_cidrs()

    with running(resync=0.2) as (_, told, wire):
        eventually(lambda: len(told.rounds) >= 2)
        at_rest = len(wire.requests)
        eventually(lambda: len(told.rounds) >= 6)

        assert {method for method, _ in wire.requests} == {"GET"}
        assert wire.requests[at_rest:] == []
        assert all(done.error is None for done in told.rounds)
    assert world.all_cidrs() == before


def test_a_pool_that_drains_or_goes_takes_nothing_from_a_node_that_lives(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/24")
    with running(grace=0.3) as (operator, told, _):
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
        world.pool("q", "10.1.0.0/24")
        world.edit_pool("p", draining=True)
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24", "10.1.0.0/24"], why=lambda: world.cidrs("a"))
        world.api.delete(POOLS, "p")
        world.node("b")
        eventually(lambda: "b" in told.waits)

        with pytest.raises(StoreRefusedError, match=r"the CiliumNode a lists 10\.0\.0\.0/24"):
            world.ipam().remove_node("a", force=True)

        assert [str(block.prefix) for block in operator.ipam.held()["a"]] == ["10.0.0.0/24", "10.1.0.0/24"]
        assert world.cidrs("a") == ["10.0.0.0/24", "10.1.0.0/24"]
        world.delete_node("a")
        eventually(lambda: world.cidrs("b") == ["10.1.0.0/24"])


def test_a_broken_pool_stops_no_other(world: World, running: Callable[..., Any]) -> None:
    world.pool("good", "10.0.0.0/16")
    spec = {"nodeSelector": {"matchLabels": {"a": "b"}}, "ipam": {"operator": {"clusterPoolIPv4PodCIDRs": ["10.0.0.0/16"]}}}
    metadata = {"name": "good", "namespace": "default"}
    world.api.create(CONFIGS, {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumNodeConfig", "metadata": metadata, "spec": spec})
    with running() as (_, told, _wire):
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
        eventually(lambda: "an older object is the pool 'good' already" in told.broken.get("good", ""))


def test_two_operators_at_once(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/20", blockLength={"ipv4": 26})
    seen: list[Any] = []
    stop = Event()

    def watch() -> None:  # an eye of its own: objects as they are, at every moment
        listed, revision = world.api.list(CILIUM_NODES)
        now = {obj["metadata"]["name"]: obj["spec"].get("ipam", {}).get("podCIDRs", []) for obj in listed}
        events = world.api.watch(CILIUM_NODES, revision)

        def close() -> None:
            stop.wait()
            events.close()

        closer = Thread(target=close)
        closer.start()
        for event in events:
            name = event.object["metadata"]["name"]
            now[name] = event.object["spec"].get("ipam", {}).get("podCIDRs", []) if event.type != "DELETED" else []
            seen.extend(overlaps(now))
        closer.join()

    eye = Thread(target=watch)
    eye.start()
    try:
        with running(grace=0.2) as (_one, told_one, _), running(grace=0.3) as (_, told_other, _wire):
            for number in range(50):
                world.node(f"n{number}")
                if number == 20:
                    world.edit_pool("p", cidrs=["10.0.0.0/20", "10.3.0.0/22"])
                if number == 30:
                    world.pool("q", "10.1.0.0/20", priority=5, blockLength={"ipv4": 27})
                if number % 10 == 9:
                    world.delete_node(f"n{number - 5}")
                if number == 40:
                    world.edit_pool("p", draining=True)
            eventually(
                lambda: len(world.all_cidrs()) == 45 and all(world.all_cidrs().values()),
                why=lambda: (world.all_cidrs(), told_one.waits, told_other.waits),
            )
            eventually(lambda: world.said() == world.held(), why=lambda: (world.said(), world.held(), told_one.gone, told_other.gone))
            eventually(lambda: [obj for obj in world.api.list(LEDGERS).items if obj["spec"]["kind"] == "node"] == [])
    finally:
        stop.set()
        eye.join()
    assert seen == []
    with world.ipam() as ipam:
        ipam.check_invariants()


@pytest.mark.parametrize("object_stays", [False, True], ids=["the node goes and registers again", "the node stays"])
def test_an_operator_that_wakes_with_an_old_decision_publishes_nothing_of_it(
    world: World, running: Callable[..., Any], connected: Callable[[], Transport], object_stays: bool
) -> None:
    world.pool("p", "10.0.0.0/24")
    world.node("a")
    asleep, wake = Event(), Event()
    wire = Wire(connected())

    def fall_asleep(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith("/ciliumnodes/a"):
            asleep.set()
            wake.wait()

    wire.before = fall_asleep
    told = Told()
    sleeper = Operator(wire, reporter=told)
    thread = Thread(target=sleeper.sync_once)
    thread.start()
    asleep.wait()  # it has decided that 10.0.0.0/24 is a's, and is about to say so
    if object_stays:
        ipam = world.ipam()
        with pytest.raises(StoreRefusedError, match="kubectl delete node a"):  # its blocks are back by then
            ipam.remove_node("a", force=True)
        assert ipam.held(closing=True) == {}
        wake.set()  # nobody has written anything to a but who took its block
        thread.join()
        world.edit_pool("p", nodeSelector={"matchLabels": {"kubernetes.io/hostname": "b"}})
        world.node("b")
        with running():
            eventually(lambda: world.cidrs("b") == ["10.0.0.0/24"])
    else:
        world.delete_node("a")
        world.node("b")
        with running(grace=0.1):
            eventually(lambda: world.cidrs("b") == ["10.0.0.0/24"])
            world.node("a")
            wake.set()
            thread.join()

    assert told.written == ["conflict"]
    assert world.cidrs("a") == []
    assert world.cidrs("b") == ["10.0.0.0/24"]


def newer_format(page: dict[str, Any]) -> None:
    page["spec"]["record"] = page["spec"]["record"].replace('"format":1', '"format":2').replace("slots", "places")


def lost_label(page: dict[str, Any]) -> None:
    del page["metadata"]["labels"]["ciliumipam.io/kind"]


@pytest.mark.parametrize(("damage", "says"), [(newer_format, "has format 2, this version reads up to 1"), (lost_label, "kubectl label --overwrite")])
def test_a_page_that_cannot_be_read_is_left_alone_and_everything_else_goes_on(
    world: World, running: Callable[..., Any], damage: Callable[[dict[str, Any]], None], says: str
) -> None:
    world.pool("p", "10.0.0.0/8", blockLength={"ipv4": 24})
    with running(grace=0.2):
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
    (page,) = [obj for obj in world.api.list(LEDGERS).items if obj["spec"]["kind"] == "block-page" and "10.0.0.0/24" in obj["spec"]["record"]]
    damage(page)
    newer = world.api.replace(LEDGERS, page)

    with running(grace=0.2) as (operator, told, _):
        world.node("b")
        eventually(lambda: world.cidrs("b") == ["10.0.64.0/24"], why=lambda: (world.cidrs("b"), told.waits))
        eventually(lambda: says in told.waits.get("a", ""), why=lambda: told.waits)
        world.delete_node("a")
        world.node("c")
        eventually(lambda: world.cidrs("c") == ["10.0.65.0/24"])
        world.delete_node("b")
        eventually(lambda: "b" in dict(told.gone))

        assert "a" not in dict(told.gone)
        assert all(done.error is None for done in told.rounds)
        assert operator.cluster.ledger_now().unreadable
    assert world.api.get(LEDGERS, newer["metadata"]["name"]) == newer


def test_a_free_block_whose_addresses_cannot_be_read_is_given_to_nobody_and_stops_nobody(world: World, connected: Callable[[], Transport]) -> None:
    world.pool("p", "10.0.0.0/23")
    world.node("a")
    operator = Operator(connected(), grace=0.0)
    operator.sync_once()
    world.delete_node("a")
    operator.sync_once()
    assert world.held() == {}
    (page,) = [obj for obj in world.api.list(LEDGERS).items if obj["spec"]["kind"] == "address-page"]
    newer_format(page)
    world.api.replace(LEDGERS, page)
    world.node("b")
    world.node("c")

    told = Told()
    Operator(connected(), grace=0.0, reporter=told).sync_once()

    assert world.said() == {"b": ["10.0.1.0/24"], "c": []}
    assert "no free IPv4 /24" in told.waits["c"]


def test_a_node_is_not_gone_while_one_of_its_objects_is_there(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/24")
    with running(grace=0.05, resync=0.1) as (operator, told, _):
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
        world.api.delete(CILIUM_NODES, "a")
        eventually(lambda: "there is no CiliumNode to write it to yet" in told.waits.get("a", ""), why=lambda: told.waits)
        rounds = len(told.rounds)
        eventually(lambda: len(told.rounds) > rounds + 5)

        assert [str(block.prefix) for block in operator.ipam.held()["a"]] == ["10.0.0.0/24"]
        assert told.gone == []


def test_an_operator_that_sees_no_object_of_a_node_asks_the_server_before_it_takes_anything(
    world: World, running: Callable[..., Any], connected: Callable[[], Transport]
) -> None:
    world.pool("p", "10.0.0.0/24")
    with running():
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
    blind = Operator(connected(), grace=0.0)
    blind.cluster.refresh()
    for mirror in (blind.cluster.nodes, blind.cluster.cilium_nodes):
        known = mirror.get("a")
        assert known is not None
        mirror.forget("a", known.revision)
    blind.cluster.following = True  # what it knows is old from here on

    blind.sync_once()

    assert world.held() == {"a": ["10.0.0.0/24"]}
    assert world.cidrs("a") == ["10.0.0.0/24"]
    assert [obj for obj in world.api.list(LEDGERS).items if obj["spec"]["kind"] == "node"] == []


def test_a_mark_that_a_crash_left_is_carried_through(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/24")
    with running():
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
    store = ClusterStore(KubernetesStore(world.transport), Cluster(world.api))
    world.delete_node("a")
    held = Ipam(store).held()["a"]
    assert store.guard.release("a", held) == ""  # and here it crashed
    world.node("a")

    with running(grace=3600) as (_, told, _wire):
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"], why=lambda: told.waits)

        assert told.gone == [("a", ("10.0.0.0/24",))]
    assert [obj for obj in world.api.list(LEDGERS).items if obj["spec"]["kind"] == "node"] == []


def test_a_node_is_drained_by_its_annotation_alone(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/16")
    world.node("a")
    with world.ipam() as ipam:
        ipam.drain("node", "a")
    found = world.api.get(NODES, "a")
    assert found is not None
    assert found["metadata"]["annotations"] == {"ciliumipam.io/draining": "true"}
    with running() as (_, told, _wire):
        eventually(lambda: "ciliumipam.io/draining" in told.waits.get("a", ""))
        assert world.cidrs("a") == []
        with world.ipam() as ipam:
            ipam.drain("node", "a", cancel=True)
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])


def test_labels_of_the_core_node_count_and_change_what_waits(world: World, running: Callable[..., Any]) -> None:
    world.pool("p", "10.0.0.0/16", selector={"matchLabels": {"rack": "r1"}})
    with running() as (_, told, _wire):
        world.node("a")
        eventually(lambda: "rack" in world.error("a"), why=lambda: told.waits)
        world.api.patch(NODES, "a", {"metadata": {"labels": {"rack": "r1"}}})
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])


def test_an_operator_with_an_old_view_of_the_ledger_publishes_nothing_of_it(
    world: World, running: Callable[..., Any], connected: Callable[[], Transport]
) -> None:
    world.pool("p", "10.0.0.0/24")
    with running(grace=0.1):
        world.node("a")
        eventually(lambda: world.cidrs("a") == ["10.0.0.0/24"])
        old = Operator(connected())
        old.cluster.refresh()
        world.delete_node("a")
        world.node("b")
        eventually(lambda: world.cidrs("b") == ["10.0.0.0/24"])
        world.node("a")
        for mirror in (old.cluster.nodes, old.cluster.cilium_nodes):
            mirror.refresh()
        old.cluster.following = True  # it sees the new objects, and the ledger as it was when a had its block

        old.sync_once()

        assert world.cidrs("a") == []
        assert world.cidrs("b") == ["10.0.0.0/24"]


class Crash(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("writes", range(6))
def test_a_node_that_comes_back_with_its_block_while_it_is_being_taken_back_keeps_it(
    world: World, connected: Callable[[], Transport], writes: int
) -> None:
    """An agent that outlived its objects registers again with the podCIDRs that it had, and the operator had crashed in between."""
    world.pool("p", "10.0.0.0/24", blockLength={"ipv4": 25})
    world.node("a")
    Operator(connected()).sync_once()
    assert world.cidrs("a") == ["10.0.0.0/25"]
    world.delete_node("a")
    wire = Wire(connected())
    dying = Operator(wire, grace=0)
    dying.cluster.refresh()
    done: list[str] = []

    def crash(method: str, path: str) -> None:
        if method != "GET":
            done.append(path)
            if len(done) > writes:
                raise Crash

    wire.before = crash
    with suppress(Crash):
        dying.sync_once()
    world.node("a", ipam={"podCIDRs": ["10.0.0.0/25"]})
    world.node("b")
    world.node("c")
    told = Told()
    operator = Operator(connected(), grace=0, reporter=told)

    for _ in range(4):
        operator.sync_once()

    assert world.cidrs("a") == ["10.0.0.0/25"]
    assert sorted([world.cidrs("b"), world.cidrs("c")]) == [[], ["10.0.0.128/25"]]
    assert [str(block.prefix) for block in operator.ipam.held().get("a", ())] == ["10.0.0.0/25"]
    assert [obj for obj in world.api.list(LEDGERS).items if obj["spec"]["kind"] == "node"] == []


def test_what_a_node_lists_and_cannot_have_is_given_to_nobody_else(world: World, connected: Callable[[], Transport]) -> None:
    world.pool("p", "10.0.0.0/20", blockLength={"ipv4": 24})
    world.node("a", ipam={"podCIDRs": ["10.0.1.0/24"]})
    Operator(connected()).sync_once()
    world.node("b", ipam={"podCIDRs": ["10.0.0.0/22", "0.0.0.0/0"]})
    world.node("c")
    told = Told()

    Operator(connected(), reporter=told).sync_once()

    assert "node 'a' has 10.0.1.0/24" in told.conflicts["b", "10.0.0.0/22"]
    (given,) = world.cidrs("c")
    assert not ip_network(given).overlaps(ip_network("10.0.0.0/22"))


@pytest.mark.parametrize("who", ["the operator", "the store"])
def test_a_node_that_registers_while_it_is_asked_for_is_not_taken_for_gone(world: World, connected: Callable[[], Transport], who: str) -> None:
    """The answer says that there was none; what the watch tells before the answer is looked at came to be after it."""

    class Overtaken(Wire):
        def request(self, method: str, path: str, **options: Any) -> Response:
            answer = super().request(method, path, **options)
            if method == "GET" and path.endswith("/ciliumnodes/a"):
                world.cilium_node("a")
                created = world.api.get(CILIUM_NODES, "a")
                assert created is not None
                operator.cluster.cilium_nodes.learn(created)
            return answer

    operator = Operator(Overtaken(connected()))
    operator.cluster.refresh()

    if who == "the operator":
        operator._look_again("a")
    else:
        operator._store.get(Key("node", "a"))

    assert "a" in operator.cluster.node_states()


def test_blocks_that_no_claim_names_any_more_make_no_hot_loop(world: World, connected: Callable[[], Transport]) -> None:
    world.pool("p", "10.0.0.0/24")
    world.node("a")
    Operator(connected()).sync_once()
    world.delete_node("a")
    for obj in world.api.list(LEDGERS).items:
        if obj["spec"]["kind"] == "block-claims":  # somebody deleted it
            world.api.delete(LEDGERS, obj["metadata"]["name"])
    operator = Operator(connected(), grace=0)

    operator.sync_once()

    assert not operator._wake.is_set()
    with world.ipam() as ipam:
        ipam.repair()
    operator.sync_once()
    assert world.held() == {}
    assert [obj for obj in world.api.list(LEDGERS).items if obj["spec"]["kind"] == "node"] == []


def test_what_was_let_end_and_did_not_is_looked_at_anew_once_its_node_lists_it_again(world: World) -> None:
    world.pool("p", "10.0.0.0/24")
    world.node("a")
    with world.ipam() as ipam:
        ipam.apply()
        (block,) = ipam.held()["a"]
    cluster = Cluster(world.api)
    guard = ClusterStore(KubernetesStore(world.transport), cluster).guard
    assert guard.release("a", [block]) == ""  # and then whoever asked for it fails
    assert guard.is_released(block)
    world.api.patch(CILIUM_NODES, "a", {"spec": {"ipam": {"podCIDRs": ["10.0.0.0/24"]}}})

    assert "lists 10.0.0.0/24" in guard.release("a", [block])

    assert not guard.is_released(block)


def test_nodes_that_came_and_went_are_not_remembered(world: World, connected: Callable[[], Transport]) -> None:
    operator = Operator(connected())
    created = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "", "labels": {}}}
    for number in range(300):
        name = f"n{number}"
        operator.cluster.nodes.learn({**created, "metadata": {"name": name, "resourceVersion": str(2 * number + 1)}})
        operator._store.cluster.following = True
        operator._store.scan("node")
        operator.cluster.nodes.forget(name, str(2 * number + 2))

    assert len(operator.cluster._entries) < 150


def test_what_stands_wrong_for_many_rounds_is_logged_once_until_it_changes(
    world: World, connected: Callable[[], Transport], caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    operator = Operator(connected(), reporter=told)
    world.pool("p", "10.0.0.0/24")
    world.node("a", ipam={"podCIDRs": ["10.0.0.0/24"]})
    operator.sync_once()
    world.node("b", ipam={"podCIDRs": ["10.0.0.0/24"]})
    world.pool("q", "10.5.0.0/24")
    world.config("q", "nobody", "10.6.0.0/24")
    world.api.delete(POOLS, "p")
    caplog.clear()

    for _ in range(3):
        operator.sync_once()

    def logged() -> list[str]:
        return sorted(record.getMessage().partition(":")[0] for record in caplog.records if record.levelname == "WARNING")

    assert logged() == ["node=b block=10.0.0.0/24 conflict", "pool=p orphans=1", "pool=q kind=CiliumNodeConfig broken"]
    assert told.orphans == {"a": (("10.0.0.0/24",), "p")}
    world.pool("p", "10.0.0.0/24")
    operator.sync_once()
    world.api.delete(POOLS, "p")
    operator.sync_once()
    # the conflict names the pool, and a pool that went again is news
    assert logged().count("pool=p orphans=1") == 2


def test_a_pool_that_cannot_say_that_it_drains_is_refused_with_a_way_round_that_works(world: World) -> None:
    world.config("seed", "a", "10.0.0.0/24")
    world.node("a")
    with world.ipam() as ipam:
        ipam.apply()
        with pytest.raises(StoreRefusedError, match="a CiliumNodeConfig cannot say that it drains: apply the CIDRPool"):
            ipam.drain("pool", "seed")
        world.pool("seed", "10.0.0.0/24", selector={"matchLabels": {"kubernetes.io/hostname": "a"}})
        world.api.delete(CONFIGS, "seed")

        drained = ipam.drain("pool", "seed")

    assert [str(change) for change in drained.changes] == ["drain pool seed: takes nothing new"]
    assert [(each.node, str(each.block)) for each in drained.blockers] == [("a", "10.0.0.0/24")]


# ------------------------------------------------------------------------------------- the facade, before an operator has looked


GIVING: Mapping[str, Callable[[Ipam], object]] = {
    "apply": lambda ipam: ipam.apply(),
    "a plan that is carried out": lambda ipam: ipam.execute(ipam.plan(Apply())),
    "repair": lambda ipam: ipam.repair(),
    "grow": lambda ipam: ipam.grow("a", 2),
    "migrate": lambda ipam: ipam.migrate("a", "new"),
    "drain": lambda ipam: ipam.drain("pool", "old"),
}


@pytest.mark.parametrize("deed", GIVING)
def test_what_an_object_lists_and_no_operator_took_over_yet_is_given_to_nobody_else(world: World, deed: str) -> None:
    world.pool("old", "10.9.0.0/24", overflow=True)
    world.node("a", cilium=False)
    with world.ipam() as ipam:
        ipam.apply()
    world.pool("new", "10.0.0.0/22")
    world.node("z-agent", ipam={"podCIDRs": ["10.0.0.0/24"]})
    world.node("z-pooled", ipam={"pools": {"allocated": [{"pool": "new", "cidrs": ["10.0.1.0/24"]}]}})
    world.node("z-core", cilium=False)
    world.api.patch(NODES, "z-core", {"spec": {"podCIDR": "10.0.2.0/24", "podCIDRs": ["10.0.2.0/24"]}})
    if deed in ("apply", "a plan that is carried out", "repair"):
        world.node("b", cilium=False)

    with world.ipam() as ipam:
        GIVING[deed](ipam)

    held = world.held()
    assert held.pop("b" if "b" in held else "a") in (["10.0.3.0/24"], ["10.0.3.0/24", "10.9.0.0/24"])
    held.pop("a", None)
    taken_over = {"z-agent": ["10.0.0.0/24"], "z-core": ["10.0.2.0/24"], "z-pooled": ["10.0.1.0/24"]}
    assert held == (taken_over if deed in ("apply", "a plan that is carried out", "repair") else {})


def test_a_plan_is_stale_once_an_object_lists_what_it_gives_to_another(world: World) -> None:
    world.pool("p", "10.0.0.0/16")
    world.node("a")
    world.node("b")
    with world.ipam() as ipam:
        plan = ipam.plan(Apply())
        world.api.patch(CILIUM_NODES, "b", {"spec": {"ipam": {"podCIDRs": ["10.0.0.0/25"]}}})

        with pytest.raises(StalePlanError, match=r"node b has 10\.0\.0\.0/25 by now"):
            ipam.execute(plan)

    assert world.held() == {}


ENDING: Mapping[str, tuple[Request, Callable[[Ipam], Applied]]] = {
    "node": (Drain("node", "a"), lambda ipam: ipam.drain("node", "a")),
    "block": (Drain("block", "10.0.0.0/24"), lambda ipam: ipam.drain("block", "10.0.0.0/24")),
    "pool": (Drain("pool", "old"), lambda ipam: ipam.drain("pool", "old")),
    "migrate": (Migrate("a", "new"), lambda ipam: ipam.migrate("a", "new")),
}


@pytest.mark.parametrize("where", ["CiliumNode", "Node", "Node whose pool is gone"])
@pytest.mark.parametrize("deed", ENDING)
def test_what_an_object_lists_stays_and_is_told_whatever_would_take_it_also_beforehand(world: World, deed: str, where: str) -> None:
    world.pool("old", "10.0.0.0/23", selector={"matchExpressions": [{"key": "new", "operator": "DoesNotExist"}]}, blocksPerNode=2)
    world.node("a", cilium=where == "CiliumNode")
    with world.ipam() as ipam:
        ipam.apply()
    if where == "CiliumNode":
        world.api.patch(CILIUM_NODES, "a", {"spec": {"ipam": {"podCIDRs": ["10.0.0.0/24"]}}})
    else:
        world.api.patch(NODES, "a", {"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}})
    world.pool("new", "10.1.0.0/24")
    if where == "Node whose pool is gone":
        if deed == "pool":
            pytest.skip("there is no pool to drain")
        world.api.delete(POOLS, "old")
    request, carry_out = ENDING[deed]

    with world.ipam() as ipam:
        planned = ipam.plan(request).outcome
        done = carry_out(ipam)

    assert [(each.node, str(each.block)) for each in planned.blockers] == [("a", "10.0.0.0/24")]
    assert done.blockers == planned.blockers
    assert done.changes == planned.changes
    left = world.held()["a"]
    assert "10.0.0.0/24" in left
    assert ("10.0.1.0/24" in left) == (deed == "block"), "what no object lists goes back"


def test_a_block_that_an_object_lists_is_in_the_way_of_a_drain_and_is_said_to_be(world: World) -> None:
    world.pool("old", "10.0.0.0/24")
    world.node("a", ipam={"podCIDRs": ["10.0.0.0/24"]})
    with world.ipam() as ipam:
        ipam.apply()
    world.pool("new", "10.1.0.0/24")

    with world.ipam() as ipam:
        drained = ipam.drain("pool", "old")

    assert [(each.node, str(each.block), each.reason) for each in drained.blockers] == [
        (
            "a",
            "10.0.0.0/24",
            (
                "cluster: CiliumNode a: spec.ipam.podCIDRs[0] lists it, so the node may give out addresses of it at any moment: take the node"
                " out of service and delete its objects; its blocks go back after that"
            ),
        )
    ]
    assert world.held() == {"a": ["10.0.0.0/24", "10.1.0.0/24"]}
