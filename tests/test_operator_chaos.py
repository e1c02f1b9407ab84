"""The operator where everything fails: two of them, faults of the network, servers and operators that are killed, and one that sleeps.

The operator is the real command in a process of its own, on a real API server. Whether anything was given twice is judged by
`tests/cluster/overlap_watcher.py`, another process, which reads raw objects out of etcd, in the order in which they were changed.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ciliumipam.testing.api_proxy import WRITES, Answer, Cut, EndWatch, FaultProxy, Hold
from ciliumipam.testing.control_plane import Binaries, ScratchControlPlane

NODES = "/apis/cilium.io/v2/ciliumnodes"
POOLS = "/apis/ciliumipam.io/v1alpha1/cidrpools"
MERGE = "application/merge-patch+json"
ROOT = Path(__file__).parents[1]
SEED = ROOT / "docs" / "examples" / "seed"
PATIENCE = 120.0


def eventually(holds: Callable[[], object], what: str) -> None:
    """Poll until something holds; the deadline is for broken code only."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Cluster:
    """A control plane with our definitions, as somebody sees it who writes raw requests."""

    def __init__(self, plane: ScratchControlPlane) -> None:
        self.plane = plane
        self.context = ssl.create_default_context(cafile=str(plane.certificate))

    def ask(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.plane.port, context=self.context, timeout=30)
        headers = {"Authorization": f"Bearer {self.plane.tokens['admin']}", "Content-Type": content_type}
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            return answer.status, json.load(answer)
        finally:
            connection.close()

    def create_node(self, name: str, **labels: str) -> None:
        obj = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": name, "labels": labels}, "spec": {}}
        status, answer = self.ask("POST", NODES, obj)
        assert status == 201, answer

    def delete_node(self, name: str) -> None:
        status, answer = self.ask("DELETE", f"{NODES}/{name}")
        assert status == 200, answer

    def pool(self, name: str, cidrs: list[str], **spec: Any) -> None:
        """Create or change a pool."""
        obj = {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": name}}
        obj["spec"] = {"cidrs": cidrs, "nodeSelector": {}, **spec}
        status, answer = self.ask("POST", POOLS, obj)
        if status == 409:
            status, answer = self.ask("PATCH", f"{POOLS}/{name}", {"spec": obj["spec"]}, MERGE)
        assert status in {200, 201}, answer

    def nodes(self) -> dict[str, dict[str, Any]]:
        status, answer = self.ask("GET", NODES)
        while status in {429, 500, 503}:  # a server that was just started is not ready for every kind of object at once
            status, answer = self.ask("GET", NODES)
        return {item["metadata"]["name"]: item for item in answer["items"]}

    def held(self) -> dict[str, list[str]]:
        return {name: (item.get("spec") or {}).get("ipam", {}).get("podCIDRs") or [] for name, item in self.nodes().items()}

    def all_served(self) -> bool:
        return all(self.held().values())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Nothing is given twice, and nothing is taken from a node, from here to the end."""
        script = str(ROOT / "tests" / "cluster" / "overlap_watcher.py")
        etcd = next(flag.partition("=")[2] for flag in self.plane.etcd.command if flag.startswith("--listen-client-urls="))
        process = subprocess.Popen(
            [sys.executable, script, etcd, "/registry/cilium.io/ciliumnodes/"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            assert "ready" in json.loads(process.stdout.readline())
            yield
            told = process.communicate(timeout=PATIENCE)[0].splitlines()
        finally:
            process.kill()
            process.wait()
        lines = [json.loads(line) for line in told]
        assert [line for line in lines if "end" not in line] == []
        assert lines[-1]["end"]["nodes"] == len(self.nodes())

    def audit(self) -> None:
        """What `ciliumipam check` says is right: no finding that is an error."""
        done = run(self.plane.kubeconfig, "check", "--store", "kubernetes:")
        assert done.returncode == 0, done.stdout + done.stderr


def run(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    return subprocess.run([sys.executable, "-m", "ciliumipam", *arguments], capture_output=True, text=True, check=False, env=environment)


class OperatorProcess:
    """`ciliumipam operator` in a process, without leader election: several act at once."""

    def __init__(self, kubeconfig: Path, log: Path, *options: str) -> None:
        self.log = log
        self._command = [sys.executable, "-m", "ciliumipam", "operator", "--store", "kubernetes:", "--no-leader-election", *options]
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def operators(*some: tuple[Path, Path], options: tuple[str, ...]) -> Iterator[list[OperatorProcess]]:
    """Operators by kubeconfig and log."""
    running = [OperatorProcess(kubeconfig, log, *options) for kubeconfig, log in some]
    try:
        yield running
    finally:
        for each in running:
            each.kill()


@pytest.fixture
def cluster(server_binaries: Binaries, tmp_path: Path) -> Iterator[Cluster]:
    with ScratchControlPlane(tmp_path / "plane", server_binaries) as plane:
        done = run(plane.kubeconfig, "crds", "--install")
        assert done.returncode == 0, done.stderr
        yield Cluster(plane)


def test_the_story_through_kubectl_alone(cluster: Cluster, tmp_path: Path) -> None:
    kubectl = cluster.plane.kubectl

    def pod_cidrs(node: str) -> str:
        return kubectl("get", "ciliumnode", node, "-o", "jsonpath={.spec.ipam.podCIDRs}")

    def create(node: str) -> None:
        labels = {"kubernetes.io/hostname": node}
        core = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}
        theirs = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": node, "labels": labels}, "spec": {}}
        kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, (core, theirs))))

    with cluster.watched(), operators((cluster.plane.kubeconfig, tmp_path / "log"), options=("--grace", "1")):
        kubectl("apply", "-f", str(SEED / "node-1-ipam-config.yaml"), "-f", str(SEED / "node-2-ipam-config.yaml"))
        for node in ("node-1", "node-2", "node-3"):
            create(node)
        eventually(lambda: pod_cidrs("node-1") == '["10.0.1.0/24"]', "node-1 has no block")
        eventually(lambda: pod_cidrs("node-2") == '["10.0.2.0/24"]', "node-2 has no block")

        def why() -> str:
            return kubectl("get", "ciliumnode", "node-3", "-o", "jsonpath={.status.ipam.operator-status.error}")

        # it may be told first that there is no pool: nothing says which of two watches is served first
        eventually(lambda: "kubernetes.io/hostname" in (said := why()) and "node-3" in said, "node-3 is not told why it waits")
        assert pod_cidrs("node-3") == ""
        eventually(lambda: "node-3" in kubectl("get", "events.events.k8s.io", "-A", "-o", "yaml"), "there is no Event on node-3")

        kubectl("delete", "node", "node-2")
        kubectl("delete", "ciliumnode", "node-2")
        eventually(
            lambda: "10.0.2.0/24" not in run(cluster.plane.kubeconfig, "get", "blocks", "--store", "kubernetes:").stdout, "node-2's block is not back"
        )
        create("node-2")
        eventually(lambda: pod_cidrs("node-2") == '["10.0.2.0/24"]', "the new node-2 has no block")
        assert pod_cidrs("node-1") == '["10.0.1.0/24"]'


def test_two_operators_without_election_give_nothing_twice_whatever_fails(cluster: Cluster, tmp_path: Path) -> None:
    chance = Random(20261123)
    cluster.pool("p0", ["10.0.0.0/17"], blockLength={"ipv4": 26}, nodeSelector={"matchLabels": {"zone": "a"}})
    cluster.pool("p1", ["10.1.0.0/17", "fd00::/48"], blockLength={"ipv4": 25}, nodeSelector={"matchLabels": {"zone": "b"}})
    alive: list[str] = []
    with FaultProxy(cluster.plane, seed=7) as left, FaultProxy(cluster.plane, seed=8) as right, cluster.watched():
        faults = []
        for proxy in (left, right):
            for fault, verbs, often in (
                (Cut("after"), WRITES, 0.05),
                (Cut("before"), WRITES, 0.03),
                (Cut("torn"), WRITES, 0.02),
                (Answer(429, retry_after=0), (*WRITES, "get"), 0.02),
                (Answer(500), WRITES, 0.02),
                (EndWatch(events=5), ("watch",), 0.3),
                (EndWatch(events=3, how="expired"), ("watch",), 0.1),
            ):
                faults.append(proxy.plant(fault, verbs=verbs, times=None, chance=often))
        some = [(left.kubeconfig, tmp_path / "left.log"), (right.kubeconfig, tmp_path / "right.log")]
        with operators(*some, options=("--grace", "1")):
            for number in range(200):
                alive.append(f"n{number}")
                cluster.create_node(alive[-1], zone=chance.choice("ab"))
                if number % 4 == 3:
                    cluster.delete_node(alive.pop(chance.randrange(len(alive))))
                if number % 25 == 24:  # pools change under their nodes: another length, more room, a drain and its end
                    cluster.pool("p0", ["10.0.0.0/17"], blockLength={"ipv4": chance.choice((24, 25, 26, 27))}, nodeSelector={"matchLabels": {"zone": "a"}}, draining=number % 50 == 24)
                    cluster.pool("p1", ["10.1.0.0/17", *(["10.2.0.0/18"] if number > 100 else []), "fd00::/48"], blockLength={"ipv4": chance.choice((24, 25, 26))}, nodeSelector={"matchLabels": {"zone": "b"}})
            cluster.pool("p0", ["10.0.0.0/17"], nodeSelector={"matchLabels": {"zone": "a"}}, draining=False)
            eventually(cluster.all_served, "not every node was served while requests failed")
            while sum(fault.hits for fault in faults) <= 100:  # who is slow decides for many nodes at once, and sends fewer requests
                number += 1
                assert number < 1000, "requests meet no faults"
                alive.append(f"n{number}")
                cluster.create_node(alive[-1], zone=chance.choice("ab"))
                cluster.delete_node(alive.pop(chance.randrange(len(alive) - 1)))
                eventually(cluster.all_served, "a node was not served while requests failed")
            left.clear()
            right.clear()
            # what is gone gives back: the ledger holds for the living only
            eventually(lambda: run(cluster.plane.kubeconfig, "check", "--store", "kubernetes:").returncode == 0, "the check finds errors")
    assert sorted(cluster.held()) == sorted(alive)


@pytest.mark.parametrize("victim", ["operator", "apiserver", "etcd"])
def test_a_roll_out_completes_though_somebody_is_killed_in_it_again_and_again(cluster: Cluster, tmp_path: Path, victim: str) -> None:
    chance = Random(victim)
    cluster.pool("all", ["10.0.0.0/16", "fd00::/48"])
    for number in range(150):
        cluster.create_node(f"n{number}")
    with cluster.watched(), operators((cluster.plane.kubeconfig, tmp_path / "log"), options=()) as (operator,):
        for goal in sorted(chance.sample(range(5, 145), 3)):
            eventually(lambda goal=goal: sum(map(bool, cluster.held().values())) >= goal, f"no {goal} nodes were served")  # type: ignore[misc]  # mypy takes no default for a Callable[[], object]
            if victim == "operator":
                operator.kill()
                operator.start()
            else:
                (cluster.plane.apiserver if victim == "apiserver" else cluster.plane.etcd).kill()
                (cluster.plane.apiserver if victim == "apiserver" else cluster.plane.etcd).start()
                cluster.plane.apiserver.wait_until_ready()
        eventually(cluster.all_served, "not every node was served")
        held = cluster.held()
        assert {len(mine) for mine in held.values()} == {2}
        cluster.audit()
        operator.kill()
        operator.start()  # a last one that reads everything anew finds nothing to do
        eventually(lambda: "error=" not in operator.log.read_text()[-200:], "the operator fails")
    assert cluster.held() == held


def test_a_sleeper_that_wakes_after_its_block_went_to_another_node_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """The first operator has decided on n1's block, and its patch is on the way for a long time, the operator itself stopped meanwhile."""
    cluster.pool("tiny", ["10.0.0.0/24"], blockLength={"ipv4": 24})
    cluster.create_node("n1")
    with FaultProxy(cluster.plane) as proxy, cluster.watched():
        held = proxy.plant(Hold(), verbs=["patch"], path=f"{NODES}/n1")
        with operators((proxy.kubeconfig, tmp_path / "sleeper.log"), options=("--grace", "1")) as (sleeper,):
            held.wait()
            sleeper.signal(signal.SIGSTOP)
            with operators((cluster.plane.kubeconfig, tmp_path / "other.log"), options=("--grace", "1")):
                eventually(cluster.all_served, "the second operator did not publish what the first had decided")
                cluster.delete_node("n1")
                cluster.create_node("n2")
                eventually(lambda: cluster.held() == {"n2": ["10.0.0.0/24"]}, "the block did not go to the other node")
                cluster.create_node("n1")  # of the same name, and another uid: the patch on the way must not hit it
                held.release()
                sleeper.signal(signal.SIGCONT)
                eventually(lambda: "10.0.0.0/24" in str(cluster.nodes()["n1"].get("status")) or cluster.nodes()["n1"].get("status"), "n1 is not told why it waits")
                eventually(lambda: "n1" in (tmp_path / "sleeper.log").read_text(), "the sleeper does nothing")
                assert cluster.held() == {"n1": [], "n2": ["10.0.0.0/24"]}
                cluster.delete_node("n2")
                eventually(lambda: cluster.held() == {"n1": ["10.0.0.0/24"]}, "the block did not come back")
    assert ip_network(cluster.held()["n1"][0]).prefixlen == 24
