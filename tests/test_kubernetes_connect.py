"""Which cluster and who we are there: kubeconfigs, pods, programs that give credentials, and what is said where it does not work."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ciliumipam.errors import StoreClosedError, StoreRefusedError, StoreUnavailableError
from ciliumipam.kubernetes.api import Api, Resource
from ciliumipam.kubernetes.exec_credential import ExecError, ExecProgram
from ciliumipam.kubernetes.kubeconfig import Chosen, choose
from ciliumipam.kubernetes.lightkube_transport import LightkubeTransport, connect
from ciliumipam.kubernetes.store import KubernetesStore
from ciliumipam.testing.control_plane import ControlPlane

NAMESPACES = Resource("", "v1", "namespaces", "Namespace")
REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview")
TOKEN = {"token": "t"}
V1 = "client.authentication.k8s.io/v1"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def kubeconfig(path: Path, user: Mapping[str, Any], cluster: Mapping[str, Any], name: str = "here", **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": dict(cluster)}],
        "users": [{"name": name, "user": dict(user)}],
    }
    path.write_text(json.dumps(document | more))
    return path


def asked_as(user: Mapping[str, Any], plane: ControlPlane, tmp_path: Path, **cluster: Any) -> str:
    """Whom the real server takes us for."""
    fields = {"server": plane.url, "certificate-authority": str(plane.certificate)} | cluster
    with closing(LightkubeTransport(choose_from(kubeconfig(tmp_path / "config", user, fields)))) as transport:
        return who(Api(transport))


def who(api: Api) -> str:
    answer = api.create(REVIEWS, {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {"name": ""}})
    name: str = answer["status"]["userInfo"]["username"]
    return name


def choose_from(*files: Path, context: str | None = None) -> Chosen:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))
        return choose(context)


# -------------------------------------------------------------------------------------------------------- kubeconfigs


def test_without_any_kubeconfig_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError) as caught:
        connect()

    assert str(caught.value) == (
        f"store: cannot connect to Kubernetes: there is no kubeconfig: looked for {tmp_path}/.kube/config,"
        " and this is no pod with a service account; set KUBECONFIG"
    )


def test_an_unknown_context_names_those_that_are_known(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / ".kube/config", {"token": "t"}, {"server": "https://127.0.0.1:1"})

    with pytest.raises(StoreRefusedError) as caught:
        connect("prod")

    assert str(caught.value) == f"store: cannot connect to Kubernetes: {file} has no context 'prod'; known: here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "has no current-context: name one of none"),
        ("[]", "is no kubeconfig: not a mapping"),
        ("a: [", "cannot be read: while parsing"),
        ('{"contexts": [{"context": {}}]}', "contexts: an item without a name"),
        (
            '{"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "c"}}]}',
            "names the cluster 'c', which is not there; known: none",
        ),
        (
            '{"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "c"}}], "clusters": [{"name": "c", "cluster": {}}]}',
            "the cluster of context 'a' has no server",
        ),
    ],
    ids=["empty", "list", "broken", "nameless", "no-cluster", "no-server"],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)

    with pytest.raises(StoreRefusedError) as caught:
        choose_from(tmp_path / "config")

    assert said in str(caught.value)
    assert str(tmp_path / "config") in str(caught.value)


def test_of_several_kubeconfigs_the_first_that_has_a_name_counts_and_files_are_beside_theirs(tmp_path: Path) -> None:
    first = kubeconfig(tmp_path / "a/config", {"tokenFile": "token"}, {"server": "https://a", "certificate-authority": "ca.crt"}, "a")
    second = kubeconfig(
        tmp_path / "b/config",
        {"token": "b"},
        {"server": "https://b"},
        "b",
        users=[{"name": "a", "user": {}}, {"name": "b", "user": {"token": "b"}}],
    )

    assert choose_from(first, tmp_path / "missing", second) == Chosen(
        "a", first, {"server": "https://a", "certificate-authority": f"{tmp_path}/a/ca.crt"}, {"tokenFile": f"{tmp_path}/a/token"}
    )
    assert choose_from(first, second, context="b") == Chosen("b", second, {"server": "https://b"}, {"token": "b"})


@pytest.mark.parametrize(
    ("user", "cluster", "said"),
    [
        ({"auth-provider": {"name": "gcp"}}, {}, "auth-provider not supported"),
        ({"token": "t", "as-user-extra": {"a": ["b"]}}, {}, "as-user-extra is not supported"),
        ({"client-certificate": "none.crt", "client-key": "none.key"}, {}, "No such file"),
        ({}, {"certificate-authority-data": "bm8="}, "no start line"),
        ({}, {"certificate-authority-data": "-"}, "certificate-authority-data: "),
        ({}, {"certificate-authority-data": "bm8=", "insecure-skip-tls-verify": True}, ""),
        (
            {"exec": {"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "x"}},
            {},
            "exec.apiVersion is client.authentication.k8s.io/v1alpha1",
        ),
        ({"token": 5}, {}, "token"),
    ],
    ids=["auth-provider", "as-user-extra", "certificate", "ca", "base64", "both", "exec", "type"],
)
def test_credentials_that_cannot_be_used_are_refused(user: Any, cluster: Any, said: str, tmp_path: Path) -> None:
    kubeconfig(tmp_path / ".kube/config", user, {"server": "https://127.0.0.1:1"} | cluster)

    with pytest.raises(StoreRefusedError) as caught:
        connect()

    assert str(caught.value).startswith(f"store: cannot connect to Kubernetes: context 'here' of {tmp_path}/.kube/config: ")
    assert said in str(caught.value)


# ------------------------------------------------------------------------------------------------------- the connection


def test_a_server_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with socket.socket() as holder:  # as long as it has the port, which it does not listen on, nobody else does
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        chosen = choose_from(kubeconfig(tmp_path / "config", {"token": "t"}, {"server": f"https://127.0.0.1:{port}"}))

        with closing(LightkubeTransport(chosen)) as transport, pytest.raises(StoreUnavailableError) as caught:
            Api(transport, deadline=0.1).get(NAMESPACES, "default")

    assert not caught.value.unknown
    assert f"the API server at https://127.0.0.1:{port} cannot be reached: " in str(caught.value)
    assert "refused" in str(caught.value)


def test_a_certificate_that_is_not_trusted_is_refused_at_once(control_plane: ControlPlane, tmp_path: Path) -> None:
    chosen = choose_from(kubeconfig(tmp_path / "config", {"token": "t"}, {"server": control_plane.url}))

    with closing(LightkubeTransport(chosen)) as transport, pytest.raises(StoreRefusedError) as caught:
        Api(transport).get(NAMESPACES, "default")

    assert "is not trusted" in str(caught.value)
    assert "check certificate-authority and server of the kubeconfig" in str(caught.value)


def test_a_certificate_for_another_name_is_refused_and_that_name_can_be_told(control_plane: ControlPlane, tmp_path: Path) -> None:
    user = {"token": control_plane.tokens["admin"]}

    with pytest.raises(StoreRefusedError, match="is not trusted"):
        asked_as(user, control_plane, tmp_path, **{"tls-server-name": "elsewhere.example.com"})
    assert asked_as(user, control_plane, tmp_path, **{"tls-server-name": "kubernetes.default.svc"}) == "admin"


def test_a_client_certificate_is_shown_whether_it_is_data_or_a_file(control_plane: ControlPlane, tmp_path: Path) -> None:
    certificate, key = control_plane.certificate.read_bytes(), control_plane.private_key.read_bytes()
    (tmp_path / "c.crt").write_bytes(certificate)
    (tmp_path / "c.key").write_bytes(key)
    encoded = {"client-certificate-data": base64.b64encode(certificate).decode(), "client-key-data": base64.b64encode(key).decode()}

    for user in ({"client-certificate": "c.crt", "client-key": "c.key"}, encoded):
        with pytest.raises(StoreRefusedError, match="does not know who asks"):  # a certificate, but of nobody
            asked_as(user, control_plane, tmp_path)
    with pytest.raises(OSError, match=r"KEY_VALUES_MISMATCH|key values mismatch|no start line|PEM"):
        asked_as(encoded | {"client-key-data": base64.b64encode(b"no key").decode()}, control_plane, tmp_path)


def test_who_trusts_data_needs_no_file_and_who_trusts_everybody_nothing(control_plane: ControlPlane, tmp_path: Path) -> None:
    user = {"token": control_plane.tokens["admin"]}
    data = base64.b64encode(control_plane.certificate.read_bytes()).decode()

    assert asked_as(user, control_plane, tmp_path, **{"certificate-authority": None, "certificate-authority-data": data}) == "admin"
    assert asked_as(user, control_plane, tmp_path, **{"certificate-authority": None, "insecure-skip-tls-verify": True}) == "admin"


def test_a_token_that_is_not_known_says_401(control_plane: ControlPlane, tmp_path: Path) -> None:
    with pytest.raises(
        StoreRefusedError, match=r"does not accept the credentials \(401 Unauthorized\): log in again, or use another context"
    ):
        asked_as({"token": "wrong"}, control_plane, tmp_path)


def test_who_is_impersonated_has_no_more_rights_than_that(control_plane: ControlPlane, tmp_path: Path) -> None:
    user = {"token": control_plane.tokens["admin"], "as": "jane", "as-groups": ["net"]}

    assert asked_as(user, control_plane, tmp_path) == "jane"


def test_a_store_connects_by_the_name_of_a_context(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))

    with KubernetesStore.connect("ciliumipam") as store, suppress(StoreRefusedError):  # whether the definitions are there or not
        assert isinstance(store.scan("block-claims").revision, str)
    with pytest.raises(StoreClosedError):
        store.scan("block-claims")


def test_in_a_pod_the_service_account_is_used_and_its_token_is_read_again(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.crt").write_bytes(control_plane.certificate.read_bytes())
    (tmp_path / "token").write_text("outdated")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(control_plane.port))
    chosen = choose(account=tmp_path)
    assert (chosen.name, chosen.cluster["server"]) == ("in-cluster", control_plane.url)

    with closing(LightkubeTransport(chosen)) as transport:
        api = Api(transport)
        with pytest.raises(StoreRefusedError, match="401"):
            who(api)
        (tmp_path / "token").write_text(control_plane.tokens["admin"] + "\n")

        assert who(api) == "admin"


def test_a_kubeconfig_that_is_named_comes_before_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    file = kubeconfig(tmp_path / "config", {}, {"server": "https://a"})

    assert choose(account=tmp_path).cluster["server"] == "https://[fd00::1]:443"
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert choose(account=tmp_path).name == "here"


# ------------------------------------------------------------------------------------------------------------- programs


def program(folder: Path, body: str) -> Path:
    """A program that notes each run, and then does something."""
    file = folder / "login"
    file.write_text(f'#!/bin/sh\ncd "{folder}"\necho run >> runs\n{body}\n')
    file.chmod(0o755)
    return file


def printing(**status: Any) -> str:
    return f"printf '%s' '{json.dumps({'apiVersion': V1, 'kind': 'ExecCredential', 'status': status})}'"


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


def spec(command: Path | str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": V1, "command": str(command), "interactiveMode": "Never"} | more


def test_a_program_gives_the_token_and_is_asked_once(control_plane: ControlPlane, tmp_path: Path) -> None:
    program(tmp_path, printing(token=control_plane.tokens["admin"]))
    fields = {"server": control_plane.url, "certificate-authority": str(control_plane.certificate)}
    chosen = choose_from(kubeconfig(tmp_path / "config", {"exec": spec("./login")}, fields))

    with closing(LightkubeTransport(chosen)) as transport:
        assert [who(Api(transport)) for _ in range(3)] == ["admin"] * 3

    assert runs(tmp_path) == 1


def test_a_token_that_the_server_refuses_is_asked_for_again(control_plane: ControlPlane, tmp_path: Path) -> None:
    right = printing(token=control_plane.tokens["admin"])
    file = program(tmp_path, f"if [ $(wc -l < runs) -gt 1 ]; then {right}; else {printing(**TOKEN)}; fi")

    assert asked_as({"exec": spec(file)}, control_plane, tmp_path) == "admin"
    assert runs(tmp_path) == 2


def test_a_credential_that_expired_is_asked_for_again_and_others_are_not(tmp_path: Path) -> None:
    for expires, expected in (("2000-01-01T00:00:00Z", 3), ("2999-01-01T00:00:00Z", 1)):
        (tmp_path / "runs").unlink(missing_ok=True)
        given = ExecProgram(spec(program(tmp_path, printing(**TOKEN, expirationTimestamp=expires))), {}, tmp_path)

        assert [given.credential().token for _ in range(3)] == ["t"] * 3
        assert runs(tmp_path) == expected


def test_a_program_is_told_what_kubernetes_says_it_is_told(tmp_path: Path) -> None:
    file = program(tmp_path, f'echo "$KUBERNETES_EXEC_INFO" > info; echo "$1 $REGION" > rest; {printing(**TOKEN)}')
    asked = spec(file, args=["get-token"], env=[{"name": "REGION", "value": "eu"}], provideClusterInfo=True)

    ExecProgram(asked, {"server": "https://a"}, tmp_path).credential()

    info = json.loads((tmp_path / "info").read_text())
    assert info == {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False, "cluster": {"server": "https://a"}}}
    assert (tmp_path / "rest").read_text() == "get-token eu\n"


def test_a_program_may_give_a_certificate(control_plane: ControlPlane, tmp_path: Path) -> None:
    pem = {"clientCertificateData": control_plane.certificate.read_text(), "clientKeyData": control_plane.private_key.read_text()}
    (tmp_path / "credential").write_text(json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": pem}))
    file = program(tmp_path, "cat credential")

    with pytest.raises(StoreRefusedError, match="does not know who asks"):  # a certificate, but of nobody
        asked_as({"exec": spec(file)}, control_plane, tmp_path)
    (tmp_path / "credential").write_text((tmp_path / "credential").read_text().replace("BEGIN CERT", "BEGIN NO CERT"))
    with pytest.raises(StoreRefusedError, match="no credentials: its certificate cannot be used"):
        asked_as({"exec": spec(file)}, control_plane, tmp_path)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo no session >&2; exit 3", "login ended with status 3: no session"),
        ("exit 1", "login ended with status 1: it printed no reason"),
        ("echo hello", "login did not print an ExecCredential"),
        (printing(), "login printed an ExecCredential with neither a token nor a certificate and its key"),
        (printing(clientCertificateData="x"), "neither a token nor a certificate"),
        (printing(**TOKEN, expirationTimestamp="soon"), "login did not print an ExecCredential: ValueError"),
        (printing(**TOKEN).replace('/v1"', '/v1beta1"'), "printed an ExecCredential of client.authentication.k8s.io/v1beta1"),
    ],
    ids=["status", "silent", "text", "empty", "keyless", "expiry", "version"],
)
def test_a_program_that_gives_no_credential_says_why(body: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ExecError) as caught:
        ExecProgram(spec(program(tmp_path, body)), {}, tmp_path).credential()

    assert said in str(caught.value)


def test_a_program_that_is_not_there_is_told_with_its_hint(tmp_path: Path) -> None:
    missing = {"exec": spec("no-such-program-of-ours", installHint="brew install it")}
    chosen = choose_from(kubeconfig(tmp_path / "config", missing, {"server": "https://127.0.0.1:1"}))

    with closing(LightkubeTransport(chosen)) as transport, pytest.raises(StoreRefusedError) as caught:
        Api(transport).get(NAMESPACES, "default")

    assert str(caught.value) == (
        "store: cannot get namespaces default: no credentials: the program no-such-program-of-ours of the kubeconfig was not found; brew install it"
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"interactiveMode": "Always"}, "wants to ask questions"), ({"command": ""}, "exec.command is empty")],
    ids=["asks", "none"],
)
def test_a_program_that_cannot_be_run_is_refused_before(fields: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ExecError, match=said):
        ExecProgram(spec("x") | fields, {}, tmp_path)


# --------------------------------------------------------------------------------------------------------------- proxies


@contextmanager
def tunnel() -> Iterator[tuple[str, list[str]]]:
    """A proxy that does CONNECT, and what it was asked for."""
    asked: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += client.recv(1)
                line = head.decode().splitlines()[0]
                asked.append(line)
                host, _, port = line.split()[1].rpartition(":")
                server = socket.create_connection((host, int(port)))
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                Thread(target=pump, args=(client, server), daemon=True).start()
                Thread(target=pump, args=(server, client), daemon=True).start()

    Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        listener.close()


def test_the_proxy_of_the_kubeconfig_is_used(control_plane: ControlPlane, tmp_path: Path) -> None:
    with tunnel() as (url, asked):
        assert asked_as({"token": control_plane.tokens["admin"]}, control_plane, tmp_path, **{"proxy-url": url}) == "admin"

    assert asked == [f"CONNECT 127.0.0.1:{control_plane.port} HTTP/1.1"]


def test_the_proxy_of_the_environment_is_used_but_where_it_says_no(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = {"token": control_plane.tokens["admin"]}
    with tunnel() as (url, asked):
        monkeypatch.setenv("HTTPS_PROXY", url)
        assert asked_as(user, control_plane, tmp_path) == "admin"
        assert len(asked) == 1
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert asked_as(user, control_plane, tmp_path) == "admin"
        assert len(asked) == 1


# ------------------------------------------------------------------------------------------------------------ the client


def test_a_closed_transport_says_so(control_plane: ControlPlane) -> None:
    transport = LightkubeTransport(choose_from(control_plane.kubeconfig))
    transport.close()

    with pytest.raises(StoreUnavailableError, match="the connection has been closed"):
        Api(transport, deadline=0.1).get(NAMESPACES, "default")


def test_a_stream_whose_lines_come_in_pieces_is_read_line_by_line(tmp_path: Path) -> None:
    pieces = [b'{"a": "x\xc2\x85y"}', b"\n{", b'"b": 2}\n\n{"c"', b": 3}\n"]
    with answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces)
        + b"0\r\n\r\n"
    ) as server:
        chosen = choose_from(kubeconfig(tmp_path / "config", {"token": "t"}, {"server": server}))
        with closing(LightkubeTransport(chosen)) as transport, closing(transport.stream("/x", timeout=5.0)) as stream:
            assert list(stream) == [{"a": "x\x85y"}, {"b": 2}, {"c": 3}]


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives one answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(answer)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join(30)
