"""Blocks on demand in a cluster: operator and agents on a real API server, by the objects that both write to.

Clocks are the tests'. What etcd holds is also watched by `tests/cluster/overlap_watcher.py`, which shares no code with us.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from ciliumipam import Ipam
from ciliumipam.agent import NodeAgent
from ciliumipam.agent.node_agent import Round
from ciliumipam.cidr import parse_prefix
from ciliumipam.cli.main import main
from ciliumipam.demand import Demand, Watermark
from ciliumipam.errors import (
    BlockNeededError,
    InvalidRequestError,
    LeaseExpiredError,
    NodeExhaustedError,
    NotFoundError,
    NotInstalledError,
    StoreRefusedError,
)
from ciliumipam.kubernetes.answers import Resource
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.cilium_crds import PAIR
from ciliumipam.kubernetes.cluster import Cluster, ClusterStore
from ciliumipam.kubernetes.crds import CIDR_LEDGER, CIDR_POOL
from ciliumipam.kubernetes.guard import CILIUM_NODES, NODES
from ciliumipam.kubernetes.node_sources import CiliumNodeSource, NodeSource
from ciliumipam.kubernetes.objects import LEDGERS, POOLS
from ciliumipam.kubernetes.on_demand import refuse_short_grace
from ciliumipam.kubernetes.operator import Operator
from ciliumipam.kubernetes.promises import AGENT, BLOCKS, LEASE
from ciliumipam.kubernetes.reporter import Reporter, Subject
from ciliumipam.kubernetes.store import KubernetesStore
from ciliumipam.kubernetes.transport import NO_QUERY, Response, Stream, Transport
from ciliumipam.lease import Moment
from ciliumipam.records import Leased
from ciliumipam.store.memory import MemoryStore
from ciliumipam.testing.control_plane.binaries import Binaries
from ciliumipam.testing.control_plane.scratch import ScratchControlPlane

lightkube_transport = pytest.importorskip("ciliumipam.kubernetes.lightkube_transport", reason="the extra `kubernetes` is not installed")

_DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
_WATCHER = Path(__file__).parent / "cluster" / "overlap_watcher.py"


class Crash(BaseException):
    """A process ends here."""


class Time:
    """The one clock of a cluster."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def moment(self) -> Moment:
        return Moment("boot", self.now)


class Told(Reporter):
    """A reporter that remembers why nodes wait."""

    def __init__(self) -> None:
        self.waits: dict[str, str] = {}

    def node_waits(self, node: Subject, reason: str) -> None:
        self.waits[node.name] = reason


class Wire:
    """A transport that can hold up a request."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
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
        self.before(method, path)
        return self._inner.request(method, path, query=query, body=body, content_type=content_type, timeout=timeout)

    def stream(self, path: str, *, query: Mapping[str, str] = NO_QUERY, timeout: float) -> Stream:
        return self._inner.stream(path, query=query, timeout=timeout)

    def close(self) -> None:
        self._inner.close()


class Place:
    """A cluster with its clock, operators and agents."""

    def __init__(self, connect: Callable[[], Transport], etcd: str) -> None:
        self.transport = connect()
        self.api = Api(self.transport)
        self.connect, self.etcd, self.time, self.told = connect, etcd, Time(), Told()
        self.wires: dict[str, Wire] = {}

    def clear(self) -> None:
        for resource in (NODES, CILIUM_NODES, POOLS, LEDGERS):
            for obj in self.api.list(resource).items:
                self.api.delete(resource, obj["metadata"]["name"])

    def pool(self, name: str, *cidrs: str, **spec: object) -> None:
        spec = {"cidrs": list(cidrs), "nodeSelector": {}, **spec}
        self.api.create(POOLS, {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": name}, "spec": spec})

    def node(self, name: str, *, cilium: bool = True, **labels: str) -> None:
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}
        self.api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        if cilium:
            self.cilium_node(name)

    def cilium_node(self, name: str) -> None:
        self.api.create(CILIUM_NODES, {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": name}, "spec": {}})

    def delete_node(self, name: str) -> None:
        for resource in (NODES, CILIUM_NODES):
            self.api.delete(resource, name)

    def cidrs(self, name: str) -> list[str]:
        return list(self.ipam_of(name).get("podCIDRs", []))

    def error(self, name: str) -> str:
        found = self.api.get(CILIUM_NODES, name) or {}
        return str(found.get("status", {}).get("ipam", {}).get("operator-status", {}).get("error", ""))

    def held(self) -> dict[str, list[str]]:
        with self.ipam() as ipam:
            return {name: sorted(str(block.prefix) for block in blocks) for name, blocks in ipam.held(closing=True).items()}

    def ipam(self) -> Ipam:
        """The facade as a command has it: nothing is followed."""
        return Ipam(ClusterStore(KubernetesStore(self.transport), Cluster(self.api)))

    def operator(self, **options: Any) -> Operator:
        self.wires["operator"] = wire = Wire(self.connect())
        asked: dict[str, Any] = {"grace": 150.0, "stop_after": 60.0, **options}
        return Operator(wire, clock=self.time, timer=self.time, reporter=self.told, **asked)

    def source(self, name: str, *, identity: str | None = None, register: bool = False) -> CiliumNodeSource:
        self.wires[name] = wire = Wire(self.connect())
        return CiliumNodeSource(Api(wire), name, identity=identity, register=register)

    def agent(self, name: str, store: MemoryStore | None = None, **watermark: float) -> NodeAgent:
        asked: dict[str, Any] = {"spare": 8, "slack": 8, "idle": 60.0, **watermark}
        return NodeAgent(self.source(name), store or MemoryStore(), name, watermark=Watermark(**asked), clock=self.time, moment=self.time.moment)

    def ask(self, name: str, count: int, pool: str = "*") -> None:
        """Say what a node asks for, as Cilium's agent does."""
        requested = [{"pool": pool, "needed": {"ipv4-addrs": count}}]
        self.api.patch(CILIUM_NODES, name, {"spec": {"ipam": {"pools": {"requested": requested}}}})

    def ipam_of(self, name: str) -> Mapping[str, Any]:
        found = self.api.get(CILIUM_NODES, name)
        assert found is not None
        return found["spec"].get("ipam", {})  # type: ignore[no-any-return]  # JSON

    def allocated(self, name: str) -> dict[str, list[str]]:
        return {each["pool"]: each["cidrs"] for each in self.ipam_of(name).get("pools", {}).get("allocated", [])}

    def note(self, name: str, which: str) -> Any:
        found = self.api.get(CILIUM_NODES, name)
        assert found is not None
        text = found["metadata"].get("annotations", {}).get(which)
        return json.loads(text) if text and which != AGENT else text

    def take_off(self, name: str, cidr: str, **annotations: None) -> None:
        """Hand a block back as Cilium's agent does: it takes it off `allocated` and nothing else."""
        left = [{"pool": pool, "cidrs": [each for each in cidrs if each != cidr]} for pool, cidrs in self.allocated(name).items()]
        patch: dict[str, Any] = {"spec": {"ipam": {"pools": {"allocated": [each for each in left if each["cidrs"]]}}}}
        self.api.patch(CILIUM_NODES, name, patch | ({"metadata": {"annotations": annotations}} if annotations else {}))

    def marks(self) -> list[str]:
        return [obj["metadata"]["name"] for obj in self.api.list(LEDGERS).items if obj["spec"]["kind"] == "node"]

    def fence(self, name: str, cidr: str) -> int:
        with self.ipam() as ipam:
            return next(block.fence for block in ipam.held(closing=True)[name] if str(block.prefix) == cidr)


def is_served(api: Api, resource: Resource) -> bool:
    try:
        api.list(resource)
    except NotInstalledError:
        return False
    return True


@pytest.fixture(scope="module")
def plane(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchControlPlane]:
    with ScratchControlPlane(tmp_path_factory.mktemp("demand"), server_binaries) as plane:
        yield plane


@pytest.fixture(scope="module")
def connected(plane: ScratchControlPlane) -> Iterator[Callable[[], Transport]]:
    patch = pytest.MonkeyPatch()
    patch.setenv("KUBECONFIG", str(Path(plane.kubeconfig)))
    made: list[Transport] = []

    def connect() -> Transport:
        made.append(lightkube_transport.connect())
        return made[-1]

    api = Api(connect())
    for definition in (CIDR_POOL, CIDR_LEDGER, *PAIR):
        api.create(_DEFINITIONS, definition)
    end = time.monotonic() + 120
    while not all(is_served(api, resource) for resource in (POOLS, LEDGERS, CILIUM_NODES)):
        assert time.monotonic() < end, "the definitions are not served"
    yield connect
    for transport in made:
        transport.close()
    patch.undo()


@pytest.fixture
def place(connected: Callable[[], Transport], plane: ScratchControlPlane) -> Iterator[Place]:
    etcd = next(flag.partition("=")[2] for flag in plane.etcd.command if flag.startswith("--listen-client-urls="))
    place = Place(connected, etcd)
    yield place
    place.clear()


# ------------------------------------------------------------------------------------------------- what objects ask for


def test_a_node_gets_blocks_until_they_are_as_large_as_what_its_object_asks_for(place: Place) -> None:
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28}, reserved=["10.0.0.1-10.0.0.3", "10.0.0.40"])
    place.node("n1")
    place.ask("n1", 12)
    operator = place.operator()

    operator.sync_once()
    assert place.allocated("n1") == {"p": ["10.0.0.0/28", "10.0.0.16/28"]}, "11 addresses of the first one are not reserved"
    assert place.cidrs("n1") == ["10.0.0.0/28", "10.0.0.16/28"]
    place.ask("n1", 26)
    operator.sync_once()

    assert place.allocated("n1") == {"p": ["10.0.0.0/28", "10.0.0.16/28", "10.0.0.32/28"]}
    fences = {cidr: place.fence("n1", cidr) for cidr in place.cidrs("n1")}
    assert place.note("n1", BLOCKS) == fences
    assert place.note("n1", LEASE) == {"stopAfter": 60.0, "pools": {"p": {"reserved": ["10.0.0.1-10.0.0.3", "10.0.0.40"]}}}


def test_an_object_without_pools_is_written_to_as_before(place: Place) -> None:
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28})
    place.node("n1")

    place.operator().sync_once()

    assert place.cidrs("n1") == ["10.0.0.0/28"]
    assert (place.note("n1", BLOCKS), place.note("n1", LEASE), place.allocated("n1")) == (None, None, {})


def test_what_a_node_waits_for_and_behind_whom_is_said_on_its_object(place: Place) -> None:
    place.pool("p", "10.0.0.0/27", blockLength={"ipv4": 28})
    for name in ("n1", "n2"):
        place.node(name)
        place.ask(name, 28)

    place.operator().sync_once()

    assert [place.allocated(name) for name in ("n1", "n2")] == [{"p": ["10.0.0.0/28"]}, {"p": ["10.0.0.16/28"]}]
    assert "asks for 28 IPv4 addresses and has 14" in place.error("n1")
    assert "asks for 28 IPv4 addresses and has 14" in place.told.waits["n2"]


def test_a_command_does_not_change_what_a_node_asks_for(place: Place) -> None:
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28})
    place.node("n1")
    with place.ipam() as ipam, pytest.raises(StoreRefusedError, match=r"its agent does that, in spec\.ipam\.pools\.requested"):
        ipam.request("n1", [Demand("", 4, 5)])


# ------------------------------------------------------------------------------------------------------ handing back


def grown(place: Place, operator: Operator, *cidrs: str, **pool: Any) -> None:
    place.pool("p", *(cidrs or ("10.0.0.0/27",)), blockLength={"ipv4": 28}, **pool)
    place.node("n1")
    place.ask("n1", 28)
    operator.sync_once()
    assert place.allocated("n1") == {"p": ["10.0.0.0/28", "10.0.0.16/28"]}
    place.ask("n1", 8)


def test_a_block_that_was_handed_back_goes_to_another_node_after_the_delay_of_its_pool(place: Place) -> None:
    operator = place.operator()
    grown(place, operator, reuseDelaySeconds=100)
    place.node("n2")
    operator.sync_once()
    assert place.allocated("n2") == {}
    fence = place.fence("n1", "10.0.0.16/28")
    source = place.source("n1")
    source.confirm()

    source.hand_back(Leased(parse_prefix("10.0.0.16/28"), fence))
    source.hand_back(Leased(parse_prefix("10.0.0.16/28"), fence))
    operator.sync_once()
    assert place.marks() == []
    operator.sync_once()

    assert place.held() == {"n1": ["10.0.0.0/28"]}
    assert (place.cidrs("n1"), place.allocated("n1")) == (["10.0.0.0/28"], {"p": ["10.0.0.0/28"]})
    assert list(place.note("n1", BLOCKS)) == ["10.0.0.0/28"]
    place.time.now += 99
    operator.sync_once()
    assert place.cidrs("n2") == []
    place.time.now += 2
    operator.sync_once()
    assert place.cidrs("n2") == ["10.0.0.16/28"]
    assert place.fence("n2", "10.0.0.16/28") > fence


def test_a_hand_back_of_an_older_holding_takes_nothing(place: Place) -> None:
    operator = place.operator()
    grown(place, operator)
    fence = place.fence("n1", "10.0.0.16/28")
    source = place.source("n1")
    source.confirm()

    source.hand_back(Leased(parse_prefix("10.0.0.16/28"), fence - 1))
    source.hand_back(Leased(parse_prefix("10.9.0.0/28"), fence))
    operator.sync_once()

    assert place.held() == {"n1": ["10.0.0.0/28", "10.0.0.16/28"]}
    assert place.cidrs("n1") == ["10.0.0.0/28", "10.0.0.16/28"]


def test_an_agent_keeps_what_its_pool_gives_at_once(place: Place) -> None:
    operator = place.operator()
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28}, blocksPerNode=2)
    place.node("n1")
    place.ask("n1", 1)
    operator.sync_once()
    source = place.source("n1")

    (first, second) = source.confirm().blocks

    assert place.note("n1", LEASE)["pools"] == {"p": {"keep": 2}}
    with pytest.raises(BlockNeededError, match="pool p gives a node 2 blocks, and it would have 1"):
        source.hand_back(second.leased)
    assert [str(each.prefix) for each in (first, second)] == place.cidrs("n1")


@pytest.mark.parametrize("wiped", [False, True])
def test_cilium_s_own_agent_hands_back_by_taking_a_block_off_its_object(place: Place, *, wiped: bool) -> None:
    operator = place.operator(stop_after=None)
    grown(place, operator)
    operator.sync_once()  # it has seen its own write
    gone = {BLOCKS: None, AGENT: None} if wiped else {}

    place.take_off("n1", "10.0.0.16/28", **gone)
    operator.sync_once()
    operator.sync_once()

    assert place.held() == {"n1": ["10.0.0.0/28"]}
    assert (place.cidrs("n1"), place.allocated("n1")) == (["10.0.0.0/28"], {"p": ["10.0.0.0/28"]})
    assert list(place.note("n1", BLOCKS)) == ["10.0.0.0/28"]


def test_a_block_that_its_agent_lists_again_before_it_is_taken_stays(place: Place) -> None:
    operator = place.operator(stop_after=None)
    grown(place, operator)
    listed = place.ipam_of("n1")["pools"]["allocated"]
    place.take_off("n1", "10.0.0.16/28")

    def reclaim(method: str, path: str) -> None:
        if method == "POST" and "cidrledgers" in path:
            place.api.patch(CILIUM_NODES, "n1", {"spec": {"ipam": {"pools": {"allocated": listed}}}})

    place.wires["operator"].before = reclaim
    operator.sync_once()
    assert place.held() == {"n1": ["10.0.0.0/28", "10.0.0.16/28"]}
    operator.sync_once()

    assert place.cidrs("n1") == ["10.0.0.0/28", "10.0.0.16/28"]
    assert place.marks() == []


def test_of_an_object_that_says_nothing_an_operator_that_saw_nothing_takes_nothing(place: Place) -> None:
    first = place.operator(stop_after=None)
    grown(place, first)
    place.take_off("n1", "10.0.0.16/28", **{BLOCKS: None})

    second = place.operator(stop_after=None)
    second.sync_once()

    assert place.held() == {"n1": ["10.0.0.0/28", "10.0.0.16/28"]}
    assert place.allocated("n1") == {"p": ["10.0.0.0/28", "10.0.0.16/28"]}, "listed again: its agent hands it back once more"
    place.take_off("n1", "10.0.0.16/28")
    second.sync_once()
    assert place.held() == {"n1": ["10.0.0.0/28"]}


def test_a_block_that_was_not_listed_yet_is_listed_and_not_taken(place: Place) -> None:
    operator = place.operator()
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28})
    place.node("n1")
    place.ask("n1", 20)

    def crash(method: str, path: str) -> None:
        if method == "PATCH":
            raise Crash

    place.wires["operator"].before = crash
    with pytest.raises(Crash):
        operator.sync_once()
    assert place.held() == {"n1": ["10.0.0.0/28", "10.0.0.16/28"]}
    fence = place.fence("n1", "10.0.0.0/28")

    place.operator().sync_once()

    assert place.cidrs("n1") == ["10.0.0.0/28", "10.0.0.16/28"]
    assert place.fence("n1", "10.0.0.0/28") == fence


def test_an_operator_that_ends_anywhere_in_taking_a_block_back_is_followed_by_one_that_goes_on(place: Place) -> None:
    grown(place, place.operator(), "10.0.0.0/24")
    writes, crashed = 0, 0
    while crashed == writes:
        place.take_off("n1", "10.0.0.16/28")
        operator, left = place.operator(), writes
        writes += 1

        def crash(method: str, path: str) -> None:
            nonlocal left
            if method != "GET":
                left -= 1
                if left < 0:
                    raise Crash

        place.wires["operator"].before = crash
        try:
            operator.sync_once()
        except Crash:
            crashed += 1

        for _ in range(3):
            place.operator().sync_once()
        assert place.held() == {"n1": ["10.0.0.0/28"]}, f"after write {writes}"
        assert place.cidrs("n1") == ["10.0.0.0/28"]
        assert place.marks() == []
        place.ask("n1", 28)
        place.operator().sync_once()
        assert place.cidrs("n1") == ["10.0.0.0/28", "10.0.0.16/28"]
        place.ask("n1", 8)
    assert crashed >= 6, "the object, two touches, the mark, the ledger"


# ------------------------------------------------------------------------------------------------------------ agents


def test_an_agent_gets_blocks_grows_hands_back_and_respects_what_its_pool_reserves(place: Place) -> None:
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28}, reserved=["10.0.0.1-10.0.0.3"])
    place.node("n1")
    operator, agent = place.operator(), place.agent("n1")

    def rounds(count: int) -> list[Round]:
        done = []
        for _ in range(count):
            place.time.now += 10
            done.append(agent.round())
            operator.sync_once()
        return done

    rounds(3)
    assert place.cidrs("n1") == ["10.0.0.0/28"]
    assert [str(each.address) for each in agent.allocate("a")] == ["10.0.0.4"]
    for number in range(8):
        agent.allocate(f"o{number}")
    rounds(3)
    assert place.cidrs("n1") == ["10.0.0.0/28", "10.0.0.16/28"]
    assert place.ipam_of("n1")["pools"]["requested"] == [{"pool": "*", "needed": {"ipv4-addrs": 24}}]
    for number in range(8):
        agent.release(f"o{number}")
    done = rounds(12)

    assert [each.handed_back for each in done if each.handed_back] == []
    agent.release("a")
    done = rounds(12)
    assert [each.handed_back for each in done if each.handed_back] == [], "11 addresses are fewer than 8 and 8 more"
    assert place.held() == {"n1": ["10.0.0.0/28", "10.0.0.16/28"]}


def test_an_agent_stops_when_its_object_is_gone_and_goes_on_when_it_is_back(place: Place) -> None:
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28})
    place.node("n1")
    operator, agent = place.operator(), place.agent("n1")
    for _ in range(3):
        agent.round()
        operator.sync_once()
    agent.allocate("a")

    place.api.delete(CILIUM_NODES, "n1")
    with pytest.raises(NotFoundError, match="no CiliumNode 'n1'"):
        agent.round()
    with pytest.raises(LeaseExpiredError, match="no CiliumNode 'n1'"):
        agent.allocate("b")
    place.cilium_node("n1")
    for _ in range(3):
        agent.round()
        operator.sync_once()

    assert [str(each.address) for each in agent.allocate("a")] == ["10.0.0.1"]
    assert [str(each.address) for each in agent.allocate("b")] == ["10.0.0.2"]


def test_an_agent_registers_its_node_as_the_property_of_its_node(place: Place) -> None:
    place.node("n1", cilium=False, zone="a")
    with pytest.raises(NotFoundError, match="no CiliumNode 'n1'"):
        place.source("n1").confirm()

    grant = place.source("n1", register=True, identity="one").confirm()

    assert (grant.blocks, grant.waiting) == ((), ("no operator has said yet for how long the node may rely on its blocks; ciliumipam operator does with --stop-after",))
    found, node = place.api.get(CILIUM_NODES, "n1"), place.api.get(NODES, "n1")
    assert found is not None
    assert node is not None
    assert found["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node["metadata"]["uid"]}]
    assert found["metadata"]["labels"] == {"kubernetes.io/hostname": "n1", "zone": "a"}
    assert place.note("n1", AGENT) == "one"
    with pytest.raises(NotFoundError, match="no Node 'n2'"):
        place.source("n2", register=True).confirm()


def test_an_agent_that_sleeps_in_a_hand_back_takes_nothing_from_the_one_that_came_after_it(place: Place) -> None:
    operator = place.operator()
    grown(place, operator)
    zombie = place.source("n1", identity="first")
    block = next(each for each in zombie.confirm().blocks if str(each.prefix) == "10.0.0.16/28")
    asleep, wake, ended = Event(), Event(), list[BaseException]()

    def sleep(method: str, path: str) -> None:
        if method == "PATCH" and not asleep.is_set():
            asleep.set()
            assert wake.wait(60)

    place.wires["n1"].before = sleep

    def hand_back() -> None:
        try:
            zombie.hand_back(block.leased)
        except LeaseExpiredError as error:
            ended.append(error)

    thread = Thread(target=hand_back)
    thread.start()
    assert asleep.wait(60)
    successor = place.source("n1", identity="second")
    assert block in successor.confirm().blocks

    wake.set()
    thread.join()
    operator.sync_once()

    assert block in successor.confirm().blocks
    assert place.held() == {"n1": ["10.0.0.0/28", "10.0.0.16/28"]}
    assert [str(each) for each in ended] != []
    with pytest.raises(LeaseExpiredError, match="another agent speaks for the node now"):
        zombie.confirm()


def test_a_block_of_a_node_that_drains_takes_nothing_new(place: Place) -> None:
    operator = place.operator()
    grown(place, operator)
    place.api.patch(NODES, "n1", {"metadata": {"annotations": {"ciliumipam.io/draining": "true"}}})
    operator.sync_once()

    assert [each.serves for each in place.source("n1").confirm().blocks] == [False, False]


# ------------------------------------------------------------------------------------------------------------- terms


def test_an_operator_does_not_promise_more_than_its_grace_time_allows(place: Place) -> None:
    with pytest.raises(InvalidRequestError, match="with stop_after 60 and a time-out of 30 s it has to be at least 150 s"):
        place.operator(grace=149.0)


def test_an_operator_does_not_take_blocks_back_sooner_than_any_other_has_promised(place: Place) -> None:
    grown(place, place.operator())

    with pytest.raises(InvalidRequestError, match=r"CiliumNode n1 lets its agent rely on its blocks for 60 s.*--grace 150 or more"):
        refuse_short_grace(place.api, 149.0)
    refuse_short_grace(place.api, 150.0)
    operator = place.operator(grace=5.0, stop_after=None)
    other = place.operator()
    other.sync_once()
    operator.sync_once()
    place.delete_node("n1")
    operator.sync_once()
    place.time.now += 149
    operator.sync_once()
    assert place.held() == {"n1": ["10.0.0.0/28", "10.0.0.16/28"]}
    place.time.now += 2
    operator.sync_once()
    assert place.held() == {}


# ----------------------------------------------------------------------------------------------------- the commands


def test_the_command_is_an_agent_whose_source_is_the_object_of_its_node(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28})
    place.node("n1", cilium=False)
    local = f"sqlite:{tmp_path}/node.db"
    command = ["--store", "kubernetes:", "agent", "n1", "--local", local, "--register", "--once"]

    assert main(command) == 3
    assert "it has no block" in capsys.readouterr().out
    place.operator().sync_once()
    assert main(command) == 0
    assert capsys.readouterr().out == "node n1: the node gives out addresses\n"
    assert main(["--store", local, "get", "blocks", "-o", "json"]) == 0
    assert "10.0.0.0/28" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["agent", "n1"], "in a cluster a node keeps its addresses in a store of its own: name it with --local sqlite:PATH"),
        (["agent", "n1", "--local", "sqlite:DIR/n.db", "--return-after", "600"], "in a cluster the operator gives blocks of nodes that are gone"),
        (["operator", "--stop-after", "60", "--grace", "149"], "it has to be at least 150 s"),
        (["operator", "--grace", "149"], "CiliumNode n1 lets its agent rely on its blocks for 60 s"),
    ],
)
def test_commands_refuse_what_does_not_fit(
    options: list[str], sentence: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown(place, place.operator())

    assert main(["--store", "kubernetes:", *(each.replace("DIR", str(tmp_path)) for each in options)]) == 2
    assert sentence in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- core Nodes


def test_the_pod_cidrs_of_a_node_are_a_source_that_cannot_be_asked_for_more(place: Place) -> None:
    place.pool("p", "10.0.0.0/24", "fd00::/112", blockLength={"ipv4": 28, "ipv6": 120})
    place.node("n1", cilium=False)
    source = NodeSource(place.api, "n1", 20.0)
    assert (source.confirm().blocks, source.confirm().waiting) == ((), ("the Node has no podCIDRs yet",))
    place.operator(write_to="node", stop_after=None).sync_once()
    agent = NodeAgent(source, MemoryStore(), "n1", watermark=Watermark(spare=4, slack=4), clock=place.time, moment=place.time.moment)

    agent.round()
    for number in range(14):
        agent.allocate(f"o{number}")
    agent.round()
    (waits,) = agent.round().waiting

    assert [str(each.prefix) for each in source.confirm().blocks] == ["10.0.0.0/28", "fd00::/120"]
    assert waits.startswith("the node asks for 20 IPv4 addresses and has 14: Node.spec.podCIDRs takes one block of each family")
    with pytest.raises(BlockNeededError, match="set once"):
        source.hand_back(source.confirm().blocks[0].leased)
    with pytest.raises(NotFoundError, match="no Node 'n2'"):
        NodeSource(place.api, "n2", 20.0).confirm()


# -------------------------------------------------------------------------------------------------------- simulation


class Watcher:
    """The eye of its own on etcd."""

    def __init__(self, etcd: str) -> None:
        command = [sys.executable, str(_WATCHER), etcd, "/registry/cilium.io/ciliumnodes/"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert "ready" in json.loads(self._process.stdout.readline())

    def end(self) -> list[dict[str, Any]]:
        out, _ = self._process.communicate(timeout=60)
        return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(
    ("low", "every", "most"),
    [(15, 12, 0), (8, 2, 7)],
    ids=["by less than the slack: never", "by more: at most once in the idle time"],
)
def test_a_load_that_swings_moves_a_block_rarely(low: int, every: int, most: int, place: Place) -> None:
    place.pool("p", "10.0.0.0/24", blockLength={"ipv4": 28})
    place.node("n1")
    agent, operator, back, load = place.agent("n1", idle=60.0), place.operator(), 0, 0
    for step in range(60):
        place.time.now += 10
        target = low if step // every % 2 else 17
        while load < target and step > 2:
            with suppress(NodeExhaustedError):  # until what it asks for has come
                agent.allocate(f"o{load}")
            load += 1
        while load > target:
            load -= 1
            agent.release(f"o{load}")
        back += len(agent.round().handed_back)
        operator.sync_once()

    assert back == most
    assert place.marks() == []


def test_blocks_follow_a_load_that_moves_from_node_to_node(place: Place) -> None:
    names, spare, steps, second = ["n1", "n2", "n3"], 8, 180, 10.0
    place.pool("p", "10.0.0.0/25", "10.0.0.128/26", blockLength={"ipv4": 28})
    agents, load = {}, dict.fromkeys(names, 0)
    for name in names:
        place.node(name)
        agents[name] = place.agent(name, spare=spare, slack=spare, idle=60.0)
    operator, watcher = place.operator(), Watcher(place.etcd)
    moves: list[tuple[int, str, int]] = []
    below = dict.fromkeys(names, 0)
    most = dict.fromkeys(names, 0)
    for _ in range(3):
        for agent in agents.values():
            agent.round()
        operator.sync_once()

    for step in range(steps):
        place.time.now += second
        busy = names[step * 4 // steps % 3]
        for name, agent in agents.items():
            target = 60 if name == busy else 6
            for _ in range(min(5, abs(target - load[name]))):
                if load[name] < target:
                    agent.allocate(f"{name}/{load[name]}")
                    load[name] += 1
                else:
                    load[name] -= 1
                    agent.release(f"{name}/{load[name]}")
            before = len(agent.ipam.blocks())
            done = agent.round()
            moves += [(step, name, 1)] * len(done.adopted) + [(step, name, -1)] * len(done.handed_back)
            most[name] = max(most[name], before)
        operator.sync_once()

        held = [str(each.address) for agent in agents.values() for each in agent.ipam.allocations()]
        assert len(held) == len(set(held)) == sum(load.values())
        for name, agent in agents.items():
            (counts,) = [status.utilization[4] for status in agent.ipam.nodes()]
            below[name] = below[name] + 1 if counts.available < spare else 0
            assert below[name] <= 1, f"{name} at step {step} has {counts.available} addresses to give out"
        assert place.held() == {name: sorted(place.cidrs(name)) for name in names}

    flaps = [
        (step, name)
        for step, name, way in moves
        if way < 0 and any(other == name and step < later <= step + 30 and back > 0 for later, other, back in moves)
    ]
    assert flaps == []
    assert most == {"n1": 6, "n2": 6, "n3": 6}, "60 in use and 8 more are 76 in steps of 8, of which a block has 14"
    assert [sum(1 for _, name, way in moves if (name, way) == (each, 1)) for each in names] == [9, 5, 5], "n1 is busy twice"
    assert [sum(1 for _, name, way in moves if (name, way) == (each, -1)) for each in names] == [4, 4, 4]
    lines = watcher.end()
    assert [line for line in lines if "overlap" in line or "gap" in line] == []
    assert lines[-1]["end"]["nodes"] == 3
    assert place.marks() == []
