"""`KubernetesStore` on a real API server: the contract of all stores, what the objects look like, and what it survives."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from ciliumipam.kubernetes.api import Api, Resource
from ciliumipam.kubernetes.crds import CIDR_LEDGER, CIDR_POOL
from ciliumipam.kubernetes.kubeconfig import choose
from ciliumipam.kubernetes.lightkube_transport import LightkubeTransport
from ciliumipam.kubernetes.objects import LEDGERS, POOLS
from ciliumipam.kubernetes.store import KubernetesStore
from ciliumipam.kubernetes.transport import Transport
from ciliumipam.store import Store
from ciliumipam.testing.conformance import StoreConformance
from ciliumipam.testing.control_plane import Binaries, ScratchControlPlane
from ciliumipam.testing.faults import VirtualTime
from ciliumipam.testing.faulty_transport import Fault, FaultyTransport

DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
CONTEXT = "ciliumipam"


def open_transport(plane: ScratchControlPlane) -> LightkubeTransport:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KUBECONFIG", str(plane.kubeconfig))
        return LightkubeTransport(choose(CONTEXT))


def until(holds: Callable[[], object], what: str, patience: float = 60.0) -> None:
    end = monotonic() + patience
    while not holds():
        assert monotonic() < end, f"{what} did not come true within {patience:g} s"
        sleep(0.05)


def install(api: Api) -> None:
    for definition in (CIDR_POOL, CIDR_LEDGER):
        api.create(DEFINITIONS, definition)

    def established(definition: dict[str, Any]) -> bool:
        found = api.get(DEFINITIONS, definition["metadata"]["name"]) or {}
        conditions = found.get("status", {}).get("conditions") or ()
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    for definition in (CIDR_POOL, CIDR_LEDGER):
        until(lambda definition=definition: established(definition), f"{definition['metadata']['name']} is established")


@pytest.fixture(scope="module")
def plane(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchControlPlane]:
    """Of this module alone: the contract wants an empty store, and the API server is restarted."""
    with ScratchControlPlane(tmp_path_factory.mktemp("plane"), server_binaries) as plane:
        with closing(open_transport(plane)) as transport:
            install(Api(transport))
        yield plane


@pytest.fixture(scope="module")
def transport(plane: ScratchControlPlane) -> Iterator[Transport]:
    with closing(open_transport(plane)) as transport:
        yield transport


@pytest.fixture
def empty(transport: Transport) -> Transport:
    """The transport to a server without any record."""
    for resource in (POOLS, LEDGERS):
        path = f"/apis/{resource.group}/{resource.version}/{resource.plural}"
        if Api(transport).list(resource).items:
            assert transport.request("DELETE", path).status == 200
    return transport


class TestOnARealServer(StoreConformance):
    """The contract, unchanged. The server is asked over a socket for each call, so that fewer of them race."""

    rounds = 10
    many = 250

    @pytest.fixture
    def store(self, empty: Transport) -> Iterator[Store]:
        with KubernetesStore(empty, api=Api(empty, page=100)) as store:
            yield store

    @pytest.fixture
    def peer(self, store: Store, plane: ScratchControlPlane) -> Iterator[Store]:
        transport = open_transport(plane)
        with KubernetesStore(transport, api=Api(transport, page=100), owned=True) as peer:
            yield peer

    @pytest.fixture
    def losses(self, store: Store, empty: Transport) -> Sequence[Callable[[], AbstractContextManager[Store]]]:
        faulty = FaultyTransport(empty)

        def losing(*faults: Fault, reads: bool = False, ever: bool = False) -> Callable[[], AbstractContextManager[Store]]:
            @contextmanager
            def enter() -> Iterator[Store]:
                time = VirtualTime()  # the waiting between two tries is not what is tested
                api = Api(faulty, deadline=5.0, sleep=time.sleep, clock=time)
                with faulty.playing(*faults, reads=reads, ever=ever):
                    yield KubernetesStore(faulty, api=api)

            return enter

        once = [losing(fault) for fault in Fault]
        ever = [losing(fault, reads=True, ever=True) for fault in (Fault.LOST, Fault.VANISHED, Fault.TIMED_OUT, Fault.SHED, Fault.UNSENT)]
        return [*once, *ever, losing(Fault.LATE, Fault.LOST), losing(Fault.VANISHED, Fault.BROKEN)]

    @pytest.fixture
    def forget(self, store: Store, plane: ScratchControlPlane) -> Callable[[], None]:
        return plane.apiserver.restart  # it remembers changes in its memory only
