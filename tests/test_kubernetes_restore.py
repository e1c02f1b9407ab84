"""After etcd was restored from an older backup: what the ledgers know, what may happen, and what `docs/how-to/restore-an-etcd-backup.md` says to do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from ciliumipam.audit import Finding
from ciliumipam.cli.cluster import audit_live, open_cluster
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.install import install
from ciliumipam.kubernetes.lease import Lease
from ciliumipam.kubernetes.lightkube_transport import LightkubeTransport, connect
from ciliumipam.kubernetes.operator import Operator
from ciliumipam.kubernetes.service import OperatorService
from ciliumipam.testing.control_plane import Binaries, ScratchControlPlane


@pytest.fixture(scope="module")
def backup(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ScratchControlPlane, Path]]:
    """A cluster in which node-1 was served, and the backup that was made then."""
    with ScratchControlPlane(tmp_path_factory.mktemp("plane"), server_binaries) as plane:
        with opened(plane) as transport:
            list(install(transport))
            spec = {"cidrs": ["10.0.0.0/16"], "nodeSelector": {}}
            put(plane, {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": "green"}, "spec": spec})
            put(plane, node("node-1"))
            Operator(transport).sync_once()
        assert pod_cidrs(plane, "node-1") == ["10.0.0.0/24"]
        yield plane, plane.snapshot("monday")


@contextmanager
def opened(plane: ScratchControlPlane) -> Iterator[LightkubeTransport]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(plane.kubeconfig))
        transport = connect()
    with closing(transport):
        yield transport


def node(name: str, *cidrs: str) -> dict[str, Any]:
    ipam = {"podCIDRs": [*cidrs]} if cidrs else {}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": name}, "spec": {"ipam": ipam}}


def put(plane: ScratchControlPlane, *objects: dict[str, Any]) -> None:
    for each in objects:
        plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(each))


def pod_cidrs(plane: ScratchControlPlane, name: str) -> list[str]:
    return plane.kubectl("get", "ciliumnode", name, "-o", "jsonpath={.spec.ipam.podCIDRs[*]}").split()


def sync(plane: ScratchControlPlane) -> None:
    with opened(plane) as transport:
        Operator(transport).sync_once()


def errors(plane: ScratchControlPlane, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    monkeypatch.setattr("ciliumipam.cli.cluster.wait", lambda _: None)  # nobody else is at work
    with open_cluster(None, read_only=True) as store:
        return [each for each in audit_live(store).findings if each.severity != "notice"]


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(0.05)


def test_what_was_given_after_the_backup_is_not_known_and_is_given_again_unless_somebody_says_it(
    backup: tuple[ScratchControlPlane, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plane, monday = backup
    put(plane, node("node-2"))
    sync(plane)
    assert pod_cidrs(plane, "node-2") == ["10.0.1.0/24"]  # its pods have addresses of it from now on, whatever etcd says

    plane.restore(monday)

    assert plane.kubectl("get", "ciliumnodes", "-o", "name") == "ciliumnode.cilium.io/node-1\n"
    assert errors(plane, monkeypatch) == []  # nothing in etcd contradicts anything: the check cannot see it
    put(plane, node("node-3"))
    sync(plane)
    assert pod_cidrs(plane, "node-3") == ["10.0.1.0/24"]  # twice

    put(plane, node("node-2", "10.0.1.0/24"))  # its agent registers again, with what it uses
    sync(plane)
    found = {(each.where, each.what.split(":")[0]) for each in errors(plane, monkeypatch)}
    assert ("CiliumNode node-2", "it says 10.0.1.0/24, and the ledger has given 10.0.1.0/24 of node node-3") in found
    assert ("CiliumNode node-3", "CiliumNode node-2 says 10.0.1.0/24 and CiliumNode node-3 says 10.0.1.0/24") in found


def test_what_the_nodes_use_is_put_back_and_adopted_before_anything_is_given(
    backup: tuple[ScratchControlPlane, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plane, monday = backup
    plane.restore(monday)
    put(plane, node("node-2"), node("node-4"))
    sync(plane)
    now = {name: pod_cidrs(plane, name) for name in ("node-1", "node-2", "node-4")}
    assert now == {"node-1": ["10.0.0.0/24"], "node-2": ["10.0.1.0/24"], "node-4": ["10.0.2.0/24"]}

    plane.restore(monday)
    put(plane, node("node-2"), node("node-3"))  # one that is back without what it uses, and a new one
    for name, cidrs in now.items():
        put(plane, node(name, *cidrs))
    assert {(each.severity, each.where) for each in errors(plane, monkeypatch)} == {("error", "CiliumNode node-2"), ("error", "CiliumNode node-4")}

    sync(plane)

    assert {name: pod_cidrs(plane, name) for name in now} == now
    assert pod_cidrs(plane, "node-3") == ["10.0.3.0/24"]
    assert errors(plane, monkeypatch) == []


def test_a_replica_that_kept_running_over_the_restore_finds_out_by_its_lease_and_reads_everything_anew(
    backup: tuple[ScratchControlPlane, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plane, monday = backup
    plane.restore(monday)
    stop = Event()
    with opened(plane) as transport:
        lease = Lease(Api(transport, deadline=1.0), "default", "operator", "operator-0", duration=4, renew=3, retry=0.2)
        service = OperatorService(Api(transport), lambda reporter: Operator(transport, reporter=reporter), "operator-0", lease=lease)
        thread = Thread(target=service.run, args=(stop,))
        thread.start()
        try:
            put(plane, node("node-2"))
            until(lambda: pod_cidrs(plane, "node-2") == ["10.0.1.0/24"], "node-2 is served")

            plane.restore(monday)
            put(plane, node("node-2", "10.0.1.0/24"), node("node-3"))

            until(lambda: pod_cidrs(plane, "node-3"), "node-3 is served")
            assert pod_cidrs(plane, "node-3") == ["10.0.2.0/24"]
            assert pod_cidrs(plane, "node-2") == ["10.0.1.0/24"]
            until(lambda: not errors(plane, monkeypatch), "the check finds nothing")
        finally:
            stop.set()
            thread.join()
