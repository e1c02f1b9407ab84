"""The command in a cluster: the real process, the real API server, and kubectl for everything that is not the command's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_hex
from socket import socket
from typing import Any, NamedTuple

import pytest

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec
from ciliumipam.cli.main import main
from ciliumipam.errors import StoreRefusedError
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.install import install
from ciliumipam.kubernetes.lightkube_transport import LightkubeTransport, connect
from ciliumipam.kubernetes.objects import POOLS
from ciliumipam.kubernetes.rbac import OPERATOR, roles
from ciliumipam.kubernetes.read_only import ReadOnlyTransport
from ciliumipam.kubernetes.report import ClusterReporter
from ciliumipam.kubernetes.reporter import subject_of
from ciliumipam.kubernetes.transport import NO_QUERY, Response
from ciliumipam.testing.control_plane import Binaries, ControlPlane, KubectlError, ScratchControlPlane

PATIENCE = 60.0


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"{what} did not come true within {PATIENCE:g} s"
        time.sleep(0.05)


def environment(kubeconfig: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CILIUMIPAM_")}
    return {**kept, "KUBECONFIG": str(kubeconfig), "CILIUMIPAM_STORE": "kubernetes:", **more}


@contextmanager
def opened(kubeconfig: Path) -> Iterator[LightkubeTransport]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        transport = connect()
    with closing(transport):
        yield transport


@pytest.fixture(scope="module")
def plane(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchControlPlane]:
    """Of this module alone: `check` looks at the whole cluster."""
    with ScratchControlPlane(tmp_path_factory.mktemp("plane"), server_binaries) as plane:
        with opened(plane.kubeconfig) as transport:
            list(install(transport))
        yield plane


@pytest.fixture
def cluster(plane: ScratchControlPlane) -> Iterator[ScratchControlPlane]:
    """The cluster with nothing of ours in it."""
    yield plane
    for kind in ("cidrpools", "cidrledgers", "ciliumnodes", "ciliumnodeconfigs", "nodes"):
        plane.kubectl("delete", kind, "--all", "--wait=false")
    plane.kubectl("delete", "configmap", "--namespace", "kube-system", "--ignore-not-found", "cilium-config")
    plane.kubectl("delete", "lease", "--namespace", "kube-system", "--ignore-not-found", "ciliumipam-operator")


def run(plane: ControlPlane, *words: str, text: str = "", kubeconfig: Path | None = None, **more: str) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "ciliumipam", *words],
        env=environment(kubeconfig or plane.kubeconfig, **more),
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def pool(name: str, *cidrs: str, **spec: Any) -> dict[str, Any]:
    spec = {"cidrs": [*cidrs], "nodeSelector": {}, **spec}
    return {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": name}, "spec": spec}


def node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def cilium_node(name: str, *cidrs: str, ignored: bool = False) -> dict[str, Any]:
    metadata = {"name": name, **({"annotations": {"ipam.cilium.io/ignore": "true"}} if ignored else {})}
    ipam = {"podCIDRs": [*cidrs]} if cidrs else {}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": metadata, "spec": {"ipam": ipam}}


def put(plane: ControlPlane, *objects: Mapping[str, Any]) -> None:
    plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def pod_cidrs(plane: ControlPlane, name: str) -> list[str]:
    return plane.kubectl("get", "ciliumnode", name, "-o", "jsonpath={.spec.ipam.podCIDRs[*]}").split()


def may(plane: ControlPlane, kubeconfig: Path, verb: str, resource: str) -> bool:
    """Whether somebody may do it in kube-system. The server hears of its own new rules a moment after they are written."""
    with suppress(KubectlError):  # its exit code says no
        plane.kubectl("auth", "can-i", verb, resource, "--namespace", "kube-system", kubeconfig=kubeconfig)
        return True
    return False


class Operator:
    """An operator in a process of its own."""

    def __init__(self, plane: ControlPlane, *words: str, kubeconfig: Path | None = None) -> None:
        self.log = plane.folder / f"operator-{token_hex(4)}.log"
        command = [sys.executable, "-m", "ciliumipam", "operator", "--listen", "127.0.0.1:0", *words]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment(kubeconfig or plane.kubeconfig), stderr=log)

    def ask(self, path: str) -> tuple[int, str]:
        port = re.search(r"listening port=(\d+)", self.log.read_text())
        if port is None:
            return 0, "it does not listen yet"
        connection = HTTPConnection("127.0.0.1", int(port[1]), timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode().strip()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    def end(self, number: signal.Signals = signal.SIGTERM) -> Ran:
        self.process.send_signal(number)
        return Ran(self.process.wait(PATIENCE), "", self.log.read_text())


@contextmanager
def operating(plane: ControlPlane, *words: str, kubeconfig: Path | None = None) -> Iterator[Operator]:
    operator = Operator(plane, *words, kubeconfig=kubeconfig)
    try:
        yield operator
    finally:
        if operator.process.poll() is None:
            operator.process.kill()
            operator.process.wait()


# ----------------------------------------------------------------------------------------------- the operator


def test_the_operator_serves_nodes_says_how_pools_stand_and_ends_with_its_round_done_and_its_lease_given_back(
    cluster: ScratchControlPlane,
) -> None:
    put(cluster, pool("green", "10.0.0.0/23", "fd00::/63"), node("n-1"), node("n-2"), cilium_node("n-1"), cilium_node("n-2"))

    with operating(cluster, "--log-format", "json") as operator:
        until(lambda: pod_cidrs(cluster, "n-1") and pod_cidrs(cluster, "n-2"), "both nodes are served")
        assert pod_cidrs(cluster, "n-1") == ["10.0.0.0/24", "fd00::/64"]
        assert pod_cidrs(cluster, "n-2") == ["10.0.1.0/24", "fd00:0:0:1::/64"]
        exhausted = 'jsonpath={.status.conditions[?(@.type=="Exhausted")].status} {.status.ipv4.held}'
        until(lambda: cluster.kubectl("get", "cidrpool", "green", "-o", exhausted) == "True 2", "the pool says that it is exhausted")
        until(lambda: operator.ask("/readyz") == (200, "leader"), "its first round is at its end")  # a moment after the status is written
        assert operator.ask("/healthz") == (200, "leader")
        metrics = operator.ask("/metrics")[1]
        assert 'ciliumipam_operator_node_writes_total{outcome="ok"} 2.0' in metrics
        assert 'ciliumipam_pool_blocks_held{family="ipv6",pool="green"} 2.0' in metrics

        put(cluster, cilium_node("n-3"))
        events = "jsonpath={.items[*].message}"
        until(
            lambda: "n-3" in (said := cluster.kubectl("get", "events", "--field-selector", "involvedObject.name=n-3", "-o", events)) or said,
            "an Event says why the third waits",
        )
        said = cluster.kubectl("get", "events", "--field-selector", "involvedObject.name=n-3", "-o", events)
        assert "It waits for a block: pool green" in said
        ended = operator.end()

    assert ended.code == 0
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert {line["node"] for line in lines if line.get("write") == "ok"} == {"n-1", "n-2"}
    assert cluster.kubectl("get", "lease", "--namespace", "kube-system", "ciliumipam-operator", "-o", "jsonpath={.spec.holderIdentity}") == ""


def test_a_replica_stands_by_until_the_leader_has_ended(cluster: ScratchControlPlane) -> None:
    put(cluster, pool("green", "10.0.0.0/16"))
    with operating(cluster) as first:
        until(lambda: first.ask("/readyz") == (200, "leader"), "the first leads")
        with operating(cluster) as second:
            until(lambda: second.ask("/readyz")[1].startswith("standby for "), "the second stands by")
            assert second.ask("/readyz")[0] == second.ask("/healthz")[0] == 200
            assert "ciliumipam_operator_leading 0.0" in second.ask("/metrics")[1]

            assert first.end(signal.SIGINT).code == 0

            until(lambda: second.ask("/readyz") == (200, "leader"), "the second leads")
            put(cluster, cilium_node("n-1"))
            until(lambda: pod_cidrs(cluster, "n-1") == ["10.0.0.0/24"], "the second serves")


def test_the_operator_works_with_the_rights_of_its_role_and_no_more(cluster: ScratchControlPlane) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ciliumipam-operator", "namespace": "kube-system"}}
    put(cluster, account, *roles("operator", "kube-system"), pool("green", "10.0.0.0/16"), node("n-1"), cilium_node("n-1"))
    kubeconfig = cluster.kubeconfig_of_service_account("kube-system", "ciliumipam-operator")
    until(lambda: may(cluster, kubeconfig, "list", "cidrpools"), "the rules for the cluster are known")
    until(lambda: may(cluster, kubeconfig, "create", "leases.coordination.k8s.io"), "the rules for the namespace are known")

    with operating(cluster, kubeconfig=kubeconfig) as operator:
        until(lambda: pod_cidrs(cluster, "n-1") == ["10.0.0.0/24"], "the node is served")
        ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        until(lambda: cluster.kubectl("get", "cidrpool", "green", "-o", ready) == "True", "the pool is ready")
        ended = operator.end()

    assert ended.code == 0
    assert "refused" not in ended.err
    assert "cannot" not in ended.err


def test_an_operator_that_may_not_list_one_kind_of_pools_serves_nobody_and_says_so_until_it_may(cluster: ScratchControlPlane) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ciliumipam-operator", "namespace": "kube-system"}}
    fewer = [grant for grant in OPERATOR if grant.resources != ("ciliumnodeconfigs",)]
    put(cluster, account, *roles("operator", "kube-system", fewer), pool("green", "10.0.0.0/16"), node("n-1"), cilium_node("n-1"))
    kubeconfig = cluster.kubeconfig_of_service_account("kube-system", "ciliumipam-operator")

    with operating(cluster, kubeconfig=kubeconfig) as operator:
        until(lambda: "ciliumnodeconfigs cannot be followed" in operator.ask("/readyz")[1], "it says what it lacks")
        status, said = operator.ask("/readyz")
        assert status == 503
        assert said.startswith("leader: it has not come to the end of a round yet; ciliumnodeconfigs cannot be followed: store: cannot list")
        assert "forbidden" in said
        assert 'ciliumipam_operator_follow_failures_total{resource="ciliumnodeconfigs"}' in operator.ask("/metrics")[1]
        assert pod_cidrs(cluster, "n-1") == []

        put(cluster, *roles("operator", "kube-system"))
        until(lambda: pod_cidrs(cluster, "n-1") == ["10.0.0.0/24"], "the node is served")
        until(lambda: operator.ask("/readyz") == (200, "leader"), "it is ready")


def test_an_operator_without_cilium_nodes_to_write_to_says_what_to_do(cluster: ScratchControlPlane) -> None:
    cluster.kubectl("delete", "crd", "ciliumnodes.cilium.io")
    try:
        until(lambda: cluster.get("/apis/cilium.io/v2/ciliumnodes")[0] == 404, "the definition is gone")
        put(cluster, pool("green", "10.0.0.0/16"), node("n-1"))
        with operating(cluster) as operator:
            events = ("get", "events", "--field-selector", "involvedObject.name=n-1", "-o", "jsonpath={.items[*].message}")
            until(lambda: "there are no CiliumNodes" in cluster.kubectl(*events), "an Event says why the node waits")
            said = cluster.kubectl(*events)
            ended = operator.end()
    finally:
        with opened(cluster.kubeconfig) as transport:
            list(install(transport))

    sentence = (
        "10.0.0.0/24 is for it, but there are no CiliumNodes in this cluster to write it to (customresourcedefinition ciliumnodes.cilium.io):"
        " Cilium brings them, else ciliumipam crds --install; for another CNI run the operator with --write-to node"
    )
    assert sentence in said
    assert f"node=n-1 waits: {sentence}" in ended.err


def test_an_operator_without_our_definitions_ends_at_once_and_says_what_to_do(plane: ScratchControlPlane) -> None:
    plane.kubectl("delete", "crd", "cidrpools.ciliumipam.io")
    try:
        until(lambda: plane.get("/apis/ciliumipam.io/v1alpha1/cidrpools")[0] == 404, "the definition is gone")
        ran = run(plane, "operator")
    finally:
        with opened(plane.kubeconfig) as transport:
            list(install(transport))

    assert ran.code == 5
    assert "ciliumipam crds --install" in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--listen", "9965"), "is not ADDRESS:PORT"),
        (("--listen", "::1:9965"), "is not ADDRESS:PORT"),
        (("--listen", ":99999"), "is not ADDRESS:PORT"),
        (("--lease", "x"), "is not NAMESPACE/NAME"),
        (("--lease", "Kube/x"), "is not a valid namespace"),
        (("--grace", "-1"), "is not a number of seconds from 0"),
        (("--threads", "65"), "is more than 64"),
        (("--pools-from", "ConfigMap"), "invalid choice"),
        (("--store", "sqlite:x"), "is no cluster; write kubernetes:[CONTEXT]"),
        (("-o", "json"), "cannot print 'json'"),
    ],
)
def test_what_the_operator_cannot_be_told_is_refused(words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ciliumipam.cli.main import main  # noqa: PLC0415 - every other test here starts the process

    assert main(["operator", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_wrong_kind_of_pool_in_the_environment_is_refused_before_the_cluster_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ciliumipam.cli.main import main  # noqa: PLC0415 - as above

    monkeypatch.setenv("CILIUMIPAM_POOLS_FROM", "Foo")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))  # asked first, it would be refused with 5; and a standby asks for pools only as a leader

    assert main(["operator"]) == 2
    assert "$CILIUMIPAM_POOLS_FROM names 'Foo', which is no kind of pool" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- the other commands


def test_pools_are_applied_through_the_command_and_nodes_only_through_kubectl(cluster: ScratchControlPlane, tmp_path: Path) -> None:
    put(cluster, node("n-1"))
    refused = run(cluster, "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": [pool("green", "10.0.0.0/16"), node("n-2")]}))
    assert refused.code == 2
    assert refused.err == (
        "ciliumipam: the manifests are of 1 node (n-2), and nodes of a cluster are made with kubectl: kubectl apply -f FILE;"
        " here only pools can be applied to it\n"
    )
    assert cluster.kubectl("get", "cidrpools", "-o", "name") == ""

    planned = run(cluster, "plan", "-o", "json", "-f", "-", text=json.dumps(pool("green", "10.0.0.0/16")))
    assert planned.code == 0, planned.err
    assert cluster.kubectl("get", "cidrpools,cidrledgers", "-o", "name") == ""
    done = run(cluster, "apply", "--plan", "-", text=planned.out)

    assert done.code == 0, done.err
    assert "10.0.0.0/24  for node n-1 out of pool green" in done.out
    assert cluster.kubectl("get", "cidrpools", "-o", "name") == "cidrpool.ciliumipam.io/green\n"
    checked = run(cluster, "check")
    assert checked.code == 0
    assert "node n-1 holds it, and no object says so" in checked.out  # an operator is not there


READING = (
    ("get", "pools"),
    ("get", "addresses"),
    ("explain", "n-1"),
    ("routes", "green"),
    ("export",),
    ("check",),
    ("grow", "n-1", "--blocks", "2", "--dry-run"),
    ("allocate", "n-1", "owner", "--dry-run"),
)


def test_commands_that_read_work_for_whoever_may_only_read(cluster: ScratchControlPlane) -> None:
    put(cluster, pool("green", "10.0.0.0/16"), node("n-1"), cilium_node("n-1"))
    assert run(cluster, "apply", "-f", "-", text=json.dumps(pool("blue", "10.1.0.0/16", priority=-1))).code == 0
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ciliumipam-checker", "namespace": "kube-system"}}
    put(cluster, account, *roles("checker", "kube-system"))
    kubeconfig = cluster.kubeconfig_of_service_account("kube-system", "ciliumipam-checker")
    until(lambda: may(cluster, kubeconfig, "list", "cidrpools"), "the rules are known")
    before = cluster.kubectl("get", "cidrpools,cidrledgers,nodes,ciliumnodes", "-o", "json")

    running = [
        subprocess.Popen([sys.executable, "-m", "ciliumipam", *words], env=environment(kubeconfig), stdout=-1, stderr=-1, text=True)
        for words in READING
    ]
    said = [process.communicate(timeout=PATIENCE) for process in running]
    for words, process, (out, err) in zip(READING, running, said, strict=True):
        assert process.returncode == 0, (words, err)
        assert out or words == ("get", "addresses"), words

    assert cluster.kubectl("get", "cidrpools,cidrledgers,nodes,ciliumnodes", "-o", "json") == before
    refused = run(cluster, "drain", "pool", "green", kubeconfig=kubeconfig)
    assert refused.code == 5
    assert "cidrpools" in refused.err


def test_a_transport_for_reading_sends_nothing_else(cluster: ScratchControlPlane) -> None:
    with opened(cluster.kubeconfig) as transport:
        api = Api(ReadOnlyTransport(transport))
        assert api.list(POOLS).items == []
        with pytest.raises(StoreRefusedError, match="opened for reading only"):
            api.create(POOLS, pool("green", "10.0.0.0/16"))
        assert api.list(POOLS).items == []


def test_draining_a_node_annotates_it_and_what_kubectl_does_is_left_to_kubectl(cluster: ScratchControlPlane) -> None:
    put(cluster, node("n-1"), node("n-2"))
    assert run(cluster, "apply", "-f", "-", text=json.dumps(pool("green", "10.0.0.0/16"))).code == 0

    drained = run(cluster, "drain", "node", "n-1")
    annotation = cluster.kubectl("get", "node", "n-1", "-o", r"jsonpath={.metadata.annotations.ciliumipam\.io/draining}")
    assert (drained.code, annotation) == (0, "true"), drained.err
    assert run(cluster, "drain", "node", "n-1", "--cancel").code == 0
    assert cluster.kubectl("get", "node", "n-1", "-o", r"jsonpath={.metadata.annotations.ciliumipam\.io/draining}") == ""

    deleted = run(cluster, "delete", "node", "n-2")
    assert deleted.code == 5
    assert "kubectl delete node n-2" in deleted.err

    cluster.kubectl("delete", "node", "n-2")
    gone = run(cluster, "delete", "node", "n-2")
    assert (gone.code, "give back" in gone.out or "- block" in gone.out) == (0, True), gone

    assert run(cluster, "drain", "pool", "green").code in (0, 6)
    assert cluster.kubectl("get", "cidrpool", "green", "-o", "jsonpath={.spec.draining}") == "true"
    assert run(cluster, "delete", "pool", "green").code == 0
    assert cluster.kubectl("get", "cidrpools", "-o", "name") == ""


def test_a_cluster_is_copied_into_a_file_that_says_the_same(cluster: ScratchControlPlane, tmp_path: Path) -> None:
    put(cluster, node("n-1"))
    assert run(cluster, "apply", "-f", "-", text=json.dumps(pool("green", "10.0.0.0/16"))).code == 0

    copied = run(cluster, "copy", "--from", "kubernetes:", "--to", f"sqlite:{tmp_path / 'backup.db'}")

    assert copied.code == 0, copied.err
    blocks = [run(cluster, "get", "blocks", "-o", "json", "--store", store).out for store in ("kubernetes:", f"sqlite:{tmp_path / 'backup.db'}")]
    assert blocks[0] == blocks[1]


def test_a_name_is_not_completed_where_the_cluster_does_not_answer(cluster: ScratchControlPlane, tmp_path: Path) -> None:
    with socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        kubeconfig = cluster.write_kubeconfig("silent", "token", url=f"https://127.0.0.1:{silent.getsockname()[1]}")
        line = "ciliumipam explain "
        answers = tmp_path / "answers"
        asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(answers)}
        done = subprocess.run(
            [sys.executable, "-m", "ciliumipam"], env=environment(kubeconfig, **asked), capture_output=True, text=True, check=False, timeout=20
        )

    assert done.returncode == 0
    assert "n-1" not in answers.read_text()


# ------------------------------------------------------------------------------------------------------------- check


def test_check_finds_what_nodes_use_and_ledgers_do_not_know_and_says_how_to_repair_it(cluster: ScratchControlPlane) -> None:
    put(cluster, node("n-1"), node("n-2"), node("n-3"))
    assert run(cluster, "apply", "-f", "-", text=json.dumps(pool("green", "10.0.0.0/16"))).code == 0
    put(
        cluster,
        cilium_node("n-1", "10.0.0.0/24", ignored=True),
        cilium_node("n-2", "10.0.0.0/24", ignored=True),  # that of n-1
        cilium_node("n-3", "10.0.9.0/24"),  # Cilium's own operator gave it
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cilium-config", "namespace": "kube-system"},
            "data": {"ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.0.0.0/8"},
        },
    )

    checked = run(cluster, "check", "-o", "json")

    assert checked.code == 1, checked.err
    found = {(each["severity"], each["where"], each["what"].split(",")[0]) for each in json.loads(checked.out)["findings"]}
    assert {
        ("error", "CiliumNode n-2", "it says 10.0.0.0/24"),
        ("error", "CiliumNode n-2", "CiliumNode n-1 says 10.0.0.0/24 and CiliumNode n-2 says 10.0.0.0/24: pods of two nodes may have one address"),
        ("error", "CiliumNode n-3", "it says 10.0.9.0/24"),
        ("error", "pool green", "its 10.0.0.0/16 overlaps 10.0.0.0/8"),
        ("unfinished", "block 10.0.1.0/24", "node n-2 holds it"),
        ("unfinished", "block 10.0.2.0/24", "node n-3 holds it"),
    } == {each for each in found if each[0] != "notice"}
    assert all(each["repair"] for each in json.loads(checked.out)["findings"])


def test_check_lists_a_ledger_whose_label_is_lost_and_says_how_to_repair_it(cluster: ScratchControlPlane) -> None:
    put(cluster, node("n-1"))
    assert run(cluster, "apply", "-f", "-", text=json.dumps(pool("green", "10.0.0.0/16"))).code == 0
    ledgers = json.loads(cluster.kubectl("get", "cidrledgers", "-o", "json"))["items"]
    (name,) = [each["metadata"]["name"] for each in ledgers if each["spec"]["kind"] == "block-page" and each["spec"]["name"].endswith("/18")]
    cluster.kubectl("label", "cidrledger", name, "ciliumipam.io/kind-")

    checked = run(cluster, "check", "-o", "json")

    assert checked.code == 1, checked.err
    (finding,) = [each for each in json.loads(checked.out)["findings"] if each["where"] == f"cidrledgers {name}"]
    assert finding["severity"] == "error"
    assert finding["what"] == "its label ciliumipam.io/kind is None, so it is left out of every listing, and what it holds counts as unknown"
    assert finding["repair"] == f"kubectl label --overwrite cidrledger {name} ciliumipam.io/kind=block-page"

    cluster.kubectl("label", "--overwrite", "cidrledger", name, "ciliumipam.io/kind=block-page")
    assert run(cluster, "check").code == 0


def test_check_tells_of_blocks_whose_node_is_gone(cluster: ScratchControlPlane) -> None:
    put(cluster, node("n-1"), node("n-2"))
    assert run(cluster, "apply", "-f", "-", text=json.dumps(pool("green", "10.0.0.0/16"))).code == 0
    cluster.kubectl("delete", "node", "n-2")

    checked = run(cluster, "check", "-o", "json")
    named = run(cluster, "check", "--store", "kubernetes:ciliumipam", "-o", "json")

    what, repair = "it is held by node n-2, which is not known", "the operator takes it back after its grace time; where none runs: ciliumipam"
    for ran, store in ((checked, ""), (named, " --store kubernetes:ciliumipam")):  # without it, the command would ask another store
        assert ("notice", "block 10.0.1.0/24", what, f"{repair}{store} delete node n-2") in [
            (each["severity"], each["where"], each["what"], each["repair"]) for each in json.loads(ran.out)["findings"]
        ]


def test_the_help_of_the_operator_names_the_store_that_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["operator", "--help"]) == 0

    said = capsys.readouterr().out
    assert "$CILIUMIPAM_STORE is not" in said
    assert "sqlite" not in said
    assert "--output" not in said


def test_check_recommends_nothing_that_a_cluster_refuses(cluster: ScratchControlPlane) -> None:
    put(cluster, pool("a", "10.0.0.0/16"), node("n-1"), cilium_node("n-1"), node("n-2"))
    run(cluster, "check", "--repair")
    put(cluster, cilium_node("n-1", "10.0.0.0/24"))
    assert run(cluster, "drain", "node", "n-1").code == 6
    assert run(cluster, "drain", "node", "n-2").code == 0

    findings = json.loads(run(cluster, "check", "-o", "json").out)["findings"]

    assert {each["where"]: each["repair"] for each in findings if each["where"].startswith("node ")} == {
        "node n-1": (
            "ciliumipam drain node n-1 takes back what no object of a node lists; what one lists goes back when its node is gone:"
            " kubectl drain NODE, then kubectl delete node NODE"
        ),
        "node n-2": "kubectl delete node n-2",
    }


# --------------------------------------------------------------------------------------------------- status of pools


class Counted:
    """Counts what is written."""

    def __init__(self, transport: LightkubeTransport) -> None:
        self.writes: list[str] = []
        self._transport = transport
        self.stream, self.close = transport.stream, transport.close

    def request(
        self, method: str, path: str, *, query: Mapping[str, str] = NO_QUERY, body: object = None,
        content_type: str = "application/json", timeout: float = 30.0,
    ) -> Response:  # fmt: skip
        if method != "GET":
            self.writes.append(f"{method} {path}")
        return self._transport.request(method, path, query=query, body=body, content_type=content_type, timeout=timeout)


def test_the_status_of_a_pool_is_written_when_it_differs_and_only_then(cluster: ScratchControlPlane) -> None:
    put(cluster, pool("green", "10.0.0.0/23"))
    ipam = Ipam(MemoryStore())
    spec = PoolSpec(name="green", cidrs=["10.0.0.0/23"], selector=NodeSelector.everything())
    ipam.apply([spec])
    with opened(cluster.kubeconfig) as transport:
        counted = Counted(transport)
        api = Api(counted)
        reporter = ClusterReporter(api, "operator-0")
        stale = api.list(POOLS).items

        reporter.pools(stale, ipam.pools())
        reporter.flush()
        assert counted.writes == ["PUT /apis/ciliumipam.io/v1alpha1/cidrpools/green/status"]
        fresh = api.list(POOLS).items
        assert fresh[0]["status"]["ipv4"]["available"] == 2

        reporter.pools(fresh, ipam.pools())
        reporter.flush()
        reporter.pools(stale, ipam.pools())  # what was read before the write: a conflict, and then nothing to do
        reporter.flush()
        assert len(counted.writes) == 2
        assert api.list(POOLS).items[0]["metadata"]["resourceVersion"] == fresh[0]["metadata"]["resourceVersion"]

        ipam.apply([], [Node("n-1"), Node("n-2")])
        reporter.pools(stale, ipam.pools())
        reporter.flush()
        ready = {each["type"]: each["status"] for each in api.list(POOLS).items[0]["status"]["conditions"]}
        assert ready == {"Ready": "False", "Conflicting": "False", "Exhausted": "True", "Draining": "False"}


def test_what_is_said_of_an_older_spec_of_a_pool_is_not_written(cluster: ScratchControlPlane) -> None:
    put(cluster, pool("green", "10.0.0.0/23"))
    ipam = Ipam(MemoryStore())
    ipam.apply([PoolSpec(name="green", cidrs=["10.0.0.0/23"], selector=NodeSelector.everything())])
    with opened(cluster.kubeconfig) as transport:
        api = Api(transport)
        stale = api.list(POOLS).items
        put(cluster, pool("green", "10.0.0.0/22"))
        reporter = ClusterReporter(api, "operator-0")

        reporter.pools(stale, ipam.pools())
        reporter.flush()

        assert "status" not in api.list(POOLS).items[0]


def test_a_broken_pool_says_why_on_its_conditions_and_a_foreign_one_by_an_event(cluster: ScratchControlPlane) -> None:
    put(cluster, pool("green", "10.0.0.0/23"))
    foreign = {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumNodeConfig", "metadata": {"name": "odd", "uid": "odd-uid"}}
    with opened(cluster.kubeconfig) as transport:
        api = Api(transport)
        objects = [*api.list(POOLS).items, foreign]
        reporter = ClusterReporter(api, "operator-0")
        for each in objects:
            reporter.pool_broken(each, "spec.cidrs: too few")
        reporter.pools(objects, ())
        reporter.flush()

        conditions = api.list(POOLS).items[0]["status"]["conditions"]
        assert (conditions[0]["status"], conditions[0]["reason"], conditions[0]["message"]) == (
            "False", "Invalid", "It serves nobody: spec.cidrs: too few",
        )  # fmt: skip
        said = cluster.kubectl("get", "events", "--field-selector", "involvedObject.uid=odd-uid", "-o", "jsonpath={.items[*].message}")
        assert said == "It cannot be used as a pool: spec.cidrs: too few"
        assert subject_of(foreign).uid == "odd-uid"


def test_who_had_to_wait_is_told_when_that_is_over_and_nobody_else_is(cluster: ScratchControlPlane) -> None:
    waited, served = (subject_of({**node(name), "metadata": {"name": name, "uid": f"{name}-uid"}}) for name in ("waited", "served"))
    with opened(cluster.kubeconfig) as transport:
        reporter = ClusterReporter(Api(transport), "operator-0", pace=0.01)
        reporter.node_waits(waited, "no pool")
        for each in (waited, served):
            reporter.block_given(each, ["10.0.0.0/24"])
        reporter.conflict(served, "10.0.9.0/24", "it is of another")
        reporter.start()  # only now: it writes what has been said as soon as it is said
        reporter.close()

    told = {
        name: cluster.kubectl("get", "events", "--field-selector", f"involvedObject.uid={name}-uid", "-o", "jsonpath={.items[*].message}")
        for name in ("waited", "served")
    }
    assert told == {"waited": "It has 10.0.0.0/24 now", "served": "10.0.9.0/24 cannot be its block: it is of another"}
