"""The proxy that plants faults between a client and the API server: each does what it says, to the requests it is meant for."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPResponse, HTTPSConnection, IncompleteRead, RemoteDisconnected
from secrets import token_hex
from typing import Any

import pytest

from ciliumipam.testing.api_proxy import (
    WRITES,
    Answer,
    Cut,
    EndWatch,
    Fault,
    FaultProxy,
    Hold,
    Planted,
    Request,
    Seen,
    Silence,
)
from ciliumipam.testing.api_proxy.connection import Peer
from ciliumipam.testing.api_proxy.faults import read_request
from ciliumipam.testing.control_plane import Binaries, ControlPlane, KubectlError, ScratchControlPlane

PATIENCE = 60.0
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(control_plane) as proxy:
        yield proxy


class Client:
    """A client that keeps its connection, never tries anything twice and never reconnects by itself."""

    def __init__(self, plane: ControlPlane, port: int) -> None:
        context = ssl.create_default_context(cafile=str(plane.certificate))
        self.connection = HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context)
        self.token = plane.tokens["admin"]

    def send(self, method: str, path: str, body: object = None) -> HTTPResponse:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        return self.connection.getresponse()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        response = self.send(method, path, body)
        return response.status, json.loads(response.read())

    def create(self, name: str) -> tuple[int, Any]:
        return self.ask("POST", MAPS, {"metadata": {"name": name}})

    def watch(self, name: str, query: str = "") -> HTTPResponse:
        return self.send("GET", f"{MAPS}?watch=1&fieldSelector=metadata.name={name}{query}")


Connect = Callable[[ControlPlane, int], Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients, which are closed in the end."""
    clients: list[Client] = []

    def connect(plane: ControlPlane, port: int) -> Client:
        clients.append(Client(plane, port))
        clients[-1].connection.connect()
        clients[-1].connection.auto_open = False
        return clients[-1]

    yield connect
    for client in clients:
        client.connection.close()


@pytest.fixture
def client(control_plane: ControlPlane, proxy: FaultProxy, connect: Connect) -> Client:
    """A client through the proxy."""
    return connect(control_plane, proxy.port)


@pytest.fixture
def direct(control_plane: ControlPlane, connect: Connect) -> Client:
    """A client that reaches the server, whatever the proxy does."""
    return connect(control_plane, control_plane.port)


@pytest.fixture
def name() -> str:
    return f"proxied-{token_hex(4)}"  # several workers share the server


def test_what_no_fault_befalls_passes_as_it_is_over_one_connection(
    proxy: FaultProxy, client: Client, name: str
) -> None:
    assert client.create(name)[0] == 201
    assert client.create(name)[1]["reason"] == "AlreadyExists"
    status, stored = client.ask("GET", f"{MAPS}/{name}")
    stored["data"] = {"large": "x" * 700_000}
    assert (status, client.ask("PUT", f"{MAPS}/{name}", stored)[0]) == (200, 200)
    listed = client.ask("GET", MAPS)[1]
    assert stored["data"] in [item.get("data") for item in listed["items"]]
    head = client.send("HEAD", "/readyz")
    assert (head.status, head.read()) == (200, b"")
    assert client.ask("DELETE", f"{MAPS}/{name}")[0] == 200

    verbs = ["create", "create", "get", "update", "list", "head", "delete"]
    assert [seen.request.verb for seen in proxy.seen] == verbs
    assert [seen.status for seen in proxy.seen] == [201, 409, 200, 200, 200, 200, 200]
    assert {seen.fault for seen in proxy.seen} == {None}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (None, 201),
        (Hold(0), 201),
        (Hold(0, reply=True), 201),
        (Answer(503), 503),
        (Cut("torn"), 201),
    ],
    ids=str,
)
def test_a_request_is_booked_before_any_byte_of_its_reply_is_sent(
    monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy, client: Client, name: str, fault: Fault | None, status: int
) -> None:
    planted = proxy.plant(fault) if fault else None
    sent = booked_when_sent(monkeypatch, proxy, planted)

    with suppress(IncompleteRead):
        client.create(name)

    replies = [booked for data, booked in sent if data.startswith(b"HTTP/1.1")]
    assert replies == [([Seen(Request("create", MAPS), fault, status)], int(planted is not None))]


@pytest.mark.parametrize(
    "fault", [None, EndWatch(1, "clean"), EndWatch(1, "expired"), EndWatch(1, "torn"), Cut("after")], ids=str
)
def test_a_watch_is_booked_before_its_end_is_sent_and_not_before_it_ends(
    monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy, client: Client, direct: Client, name: str, fault: Fault | None
) -> None:
    planted = proxy.plant(fault, verbs=["watch"]) if fault else None
    direct.create(name)
    sent = booked_when_sent(monkeypatch, proxy, planted)

    with suppress(IncompleteRead):
        watching = client.watch(name, "" if fault else "&timeoutSeconds=1")
        if fault == EndWatch(1, "torn"):
            assert watching.readline()
            direct.ask("DELETE", f"{MAPS}/{name}")
        watching.read()

    booked = [booked for _, booked in sent[1:]]  # the first is the request, which goes to the server
    seen = Seen(Request("watch", MAPS), fault, 200)
    if fault == Cut("after"):
        assert booked == [([], 0)], "the end is the connection's"
        assert (list(proxy.seen), planted and planted.hits) == ([seen], 1)
    else:
        *before, last = booked
        assert before == [([], 0)] * len(before)
        assert last == ([seen], int(planted is not None))


def booked_when_sent(
    monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy, planted: Planted | None
) -> list[tuple[bytes, tuple[list[Seen], int]]]:
    """What the proxy sends from now on, either way, each with what it had seen by then and how often the fault had happened."""
    sent: list[tuple[bytes, tuple[list[Seen], int]]] = []
    send = Peer.send

    async def noted(self: Peer, data: bytes) -> None:
        sent.append((data, (list(proxy.seen), planted.hits if planted else 0)))
        await send(self, data)

    monkeypatch.setattr(Peer, "send", noted)
    return sent


def test_kubectl_goes_through_it_with_its_own_kubeconfig(
    control_plane: ControlPlane, proxy: FaultProxy, name: str
) -> None:
    control_plane.kubectl("create", "configmap", name, kubeconfig=proxy.kubeconfig)
    proxy.plant(Answer(403), verbs=["delete"])

    with pytest.raises(KubectlError, match="a fault that a test has planted"):
        control_plane.kubectl("delete", "configmap", name, kubeconfig=proxy.kubeconfig)

    assert name in control_plane.kubectl("get", "configmaps", kubeconfig=proxy.kubeconfig)


@pytest.mark.parametrize(("when", "there"), [("before", 404), ("after", 200), ("torn", 200)])
def test_a_cut_before_a_write_leaves_nothing_and_one_after_it_loses_only_the_reply(
    proxy: FaultProxy, client: Client, direct: Client, name: str, when: Any, there: int
) -> None:
    planted = proxy.plant(Cut(when), verbs=WRITES, path=MAPS)

    with pytest.raises((RemoteDisconnected, ConnectionResetError, IncompleteRead)) as caught:
        client.create(name)

    assert isinstance(caught.value, IncompleteRead) == (when == "torn")
    assert direct.ask("GET", f"{MAPS}/{name}")[0] == there
    assert planted.hits == 1


def test_an_answer_in_the_servers_place_keeps_the_connection_and_does_nothing(
    proxy: FaultProxy, client: Client, direct: Client, name: str
) -> None:
    proxy.plant(Answer(429, retry_after=7), times=2)

    first = client.send("POST", MAPS, {"metadata": {"name": name}})
    body = json.loads(first.read())
    second = client.create(name)
    third = client.create(name)

    assert (first.status, first.headers["Retry-After"]) == (429, "7")
    assert (body["kind"], body["code"], body["reason"]) == ("Status", 429, "TooManyRequests")
    assert (second[0], third[0]) == (429, 201)


def test_a_request_that_is_held_takes_effect_only_when_it_is_released(
    proxy: FaultProxy, client: Client, direct: Client, name: str
) -> None:
    held = proxy.plant(Hold(), verbs=["create"])
    with ThreadPoolExecutor() as pool:
        creating = pool.submit(client.create, name)
        held.wait()
        assert direct.ask("GET", f"{MAPS}/{name}")[0] == 404
        held.release()
        assert creating.result()[0] == 201


def test_a_request_whose_client_has_gone_still_arrives_late(
    proxy: FaultProxy, client: Client, direct: Client, name: str
) -> None:
    held = proxy.plant(Hold(), verbs=["create"])
    client.connection.request(
        "POST", MAPS, json.dumps({"metadata": {"name": name}}), {"Authorization": f"Bearer {client.token}"}
    )
    held.wait()
    client.connection.close()
    assert direct.ask("GET", f"{MAPS}/{name}")[0] == 404

    held.release()

    watching = direct.watch(name)
    assert json.loads(watching.readline())["type"] == "ADDED"


def test_a_reply_that_is_held_belongs_to_a_write_that_is_done(
    proxy: FaultProxy, client: Client, direct: Client, name: str
) -> None:
    held = proxy.plant(Hold(reply=True), verbs=["create"])
    with ThreadPoolExecutor() as pool:
        creating = pool.submit(client.create, name)
        held.wait()
        assert direct.ask("GET", f"{MAPS}/{name}")[0] == 200
        assert not creating.done()
        held.release()
        assert creating.result()[0] == 201


def test_a_delay_is_at_least_as_long_as_it_says(proxy: FaultProxy, client: Client, name: str) -> None:
    proxy.plant(Hold(0.3))
    began = time.monotonic()

    assert client.create(name)[0] == 201

    assert time.monotonic() - began >= 0.3


def test_a_fault_befalls_its_verbs_and_paths_only_after_those_it_skips_and_not_more_often_than_told(
    proxy: FaultProxy, client: Client, name: str
) -> None:
    proxy.plant(Answer(500), verbs=["get"], path=f"*/{name}", skip=1, times=2)

    client.create(name)
    statuses = [client.ask("GET", f"{MAPS}/{name}")[0] for _ in range(5)]

    assert client.ask("GET", MAPS)[0] == 200
    assert statuses == [200, 500, 500, 200, 200]


def test_the_first_planted_that_takes_a_request_is_the_one_that_happens(proxy: FaultProxy, client: Client) -> None:
    first = proxy.plant(Answer(500), times=None)
    second = proxy.plant(Answer(503), times=None)

    assert client.ask("GET", MAPS)[0] == 500
    first.release()
    assert client.ask("GET", MAPS)[0] == 503
    proxy.clear()
    assert client.ask("GET", MAPS)[0] == 200
    assert (first.hits, second.hits) == (1, 1)


def test_chance_is_the_same_again_for_the_same_seed(connect: Connect, control_plane: ControlPlane) -> None:
    def statuses(seed: int) -> list[int]:
        with FaultProxy(control_plane, seed=seed) as proxy:
            proxy.plant(Answer(503), chance=0.3, times=None)
            client = connect(control_plane, proxy.port)
            return [client.ask("GET", f"{MAPS}/nothing")[0] for _ in range(60)]

    assert statuses(1) == statuses(1) != statuses(2)
    assert 5 < statuses(1).count(503) < 35


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        (EndWatch(2), "cut"),
        (EndWatch(2, "torn"), "torn"),
        (EndWatch(2, "clean"), "clean"),
        (EndWatch(2, "expired"), "expired"),
        (EndWatch(0), "cut at once"),
        (Cut("after"), "cut at once"),
    ],
    ids=str,
)
def test_a_watch_ends_after_so_many_events_in_the_way_it_is_told(
    proxy: FaultProxy, client: Client, direct: Client, name: str, fault: Fault, end: str
) -> None:
    planted = proxy.plant(fault, verbs=["watch"])
    direct.create(name)
    watching = client.watch(name)
    if end != "cut at once":
        assert json.loads(watching.readline())["type"] == "ADDED"
        stored = direct.ask("GET", f"{MAPS}/{name}")[1]
        for number in range(2):
            stored["data"] = {"number": str(number)}
            stored = direct.ask("PUT", f"{MAPS}/{name}", stored)[1]
        assert json.loads(watching.readline())["object"]["data"] == {"number": "0"}

    if end in {"clean", "expired"}:
        rest = watching.read().splitlines()
        assert [json.loads(line)["object"]["reason"] for line in rest] == ["Expired"] * (end == "expired")
        assert client.ask("GET", f"{MAPS}/{name}")[0] == 200, "the connection can be used for more"
    elif end == "torn":
        with pytest.raises(IncompleteRead) as caught:
            watching.read()
        assert caught.value.partial.startswith(b'{"type":"MODIFIED"')
        assert b"\n" not in caught.value.partial
    else:
        with pytest.raises(IncompleteRead) as caught:
            watching.read()
        assert caught.value.partial == b""
    assert planted.hits == 1


def test_a_silent_watch_stays_open_and_says_nothing_while_others_hear(
    connect: Connect, proxy: FaultProxy, control_plane: ControlPlane, client: Client, direct: Client, name: str
) -> None:
    silence = proxy.plant(Silence(1))
    silent = client.watch(name)
    direct.create(name)
    assert json.loads(silent.readline())["type"] == "ADDED"
    silence.wait()
    hearing_client = connect(control_plane, proxy.port)
    hearing = hearing_client.watch(name)
    direct.ask("DELETE", f"{MAPS}/{name}")

    assert [json.loads(hearing.readline())["type"] for _ in range(2)] == ["ADDED", "DELETED"]
    client.connection.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        silent.readline()


def test_a_watch_that_the_server_ends_ends_as_it_does_there(
    proxy: FaultProxy, client: Client, direct: Client, name: str
) -> None:
    direct.create(name)

    lines = client.watch(name, "&timeoutSeconds=1").read().splitlines()

    assert [json.loads(line)["type"] for line in lines] == ["ADDED"]
    assert client.ask("GET", MAPS)[0] == 200


def test_a_watch_whose_client_goes_is_ended_at_the_server_too(proxy: FaultProxy, client: Client, name: str) -> None:
    client.watch(name)
    client.connection.close()

    deadline = time.monotonic() + PATIENCE
    while not any(seen.request.verb == "watch" for seen in proxy.seen):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_partition_cuts_what_is_there_and_whatever_comes(
    connect: Connect, control_plane: ControlPlane, proxy: FaultProxy, client: Client, name: str
) -> None:
    client.create(name)
    with proxy.partition():
        with pytest.raises((RemoteDisconnected, ConnectionError, ssl.SSLError)):
            client.create(name)
        with pytest.raises((RemoteDisconnected, ConnectionError, ssl.SSLError)):
            connect(control_plane, proxy.port).create(name)

    later = connect(control_plane, proxy.port)
    assert later.ask("GET", f"{MAPS}/{name}")[0] == 200


def test_what_was_sent_in_a_silent_partition_arrives_when_it_is_over(
    proxy: FaultProxy, client: Client, direct: Client, name: str
) -> None:
    client.ask("GET", MAPS)
    with ThreadPoolExecutor() as pool:
        with proxy.partition(silent=True):
            creating = pool.submit(client.create, name)
            time.sleep(0.2)
            assert direct.ask("GET", f"{MAPS}/{name}")[0] == 404
            assert not creating.done()
        assert creating.result()[0] == 201


def test_connections_are_cut_once_and_made_anew(
    connect: Connect, control_plane: ControlPlane, proxy: FaultProxy, client: Client
) -> None:
    client.ask("GET", MAPS)
    proxy.cut_connections()

    with pytest.raises((RemoteDisconnected, ConnectionError)):
        client.ask("GET", MAPS)
    again = connect(control_plane, proxy.port)
    assert again.ask("GET", MAPS)[0] == 200


def test_waiting_for_a_fault_that_does_not_happen_says_so(proxy: FaultProxy) -> None:
    planted = proxy.plant(Cut("before"))

    with pytest.raises(TimeoutError, match=r"Cut\(when='before'\) happened 0 times in 0\.01 s, and not 1"):
        planted.wait(timeout=0.01)


def test_a_client_hears_when_the_server_dies_and_reaches_it_when_it_is_back(
    connect: Connect, server_binaries: Binaries, tmp_path: Any
) -> None:
    with ScratchControlPlane(tmp_path, server_binaries) as plane, FaultProxy(plane) as proxy:
        client = connect(plane, proxy.port)
        assert client.ask("GET", MAPS)[0] == 200
        plane.apiserver.kill()

        assert client.connection.sock.recv(1) == b"", "an idle client hears of it as well"
        with pytest.raises((RemoteDisconnected, ConnectionError)):
            connect(plane, proxy.port).ask("GET", MAPS)
        plane.apiserver.start()

        again = connect(plane, proxy.port)
        assert again.ask("GET", MAPS)[0] == 200


@pytest.mark.parametrize(
    ("method", "target", "verb"),
    [
        ("GET", "/api/v1/nodes", "list"),
        ("GET", "/api/v1/nodes?limit=5&continue=x", "list"),
        ("GET", "/api/v1/nodes?watch=true&resourceVersion=5", "watch"),
        ("GET", "/api/v1/nodes?watch=0", "list"),
        ("GET", "/api/v1/nodes/node-1", "get"),
        ("PATCH", "/api/v1/nodes/node-1/status", "patch"),
        ("GET", "/api/v1/namespaces", "list"),
        ("GET", "/api/v1/namespaces/default", "get"),
        ("GET", "/api/v1/namespaces/default/events", "list"),
        ("GET", "/api/v1/namespaces/default/events/e", "get"),
        ("GET", "/apis/ciliumipam.io/v1alpha1/cidrpools", "list"),
        ("GET", "/apis/ciliumipam.io/v1alpha1/cidrpools/a", "get"),
        ("POST", "/apis/ciliumipam.io/v1alpha1/cidrledgers", "create"),
        ("PUT", "/apis/ciliumipam.io/v1alpha1/cidrledgers/a", "update"),
        ("DELETE", "/apis/ciliumipam.io/v1alpha1/cidrledgers/a", "delete"),
        ("GET", "/apis/ciliumipam.io/v1alpha1", "get"),
        ("GET", "/api", "get"),
        ("GET", "/readyz", "get"),
    ],
)
def test_a_request_is_read_as_rbac_reads_it(method: str, target: str, verb: str) -> None:
    assert read_request(method, target) == Request(verb, target.partition("?")[0])
