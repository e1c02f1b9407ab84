"""The real servers that tests run on: which programs, what a restart keeps, and that none outlives who started it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ciliumipam.testing.control_plane import (
    Binaries,
    ControlPlane,
    KubectlError,
    ScratchControlPlane,
    Server,
    ServerError,
    ServersMissingError,
    User,
    find_binaries,
    skip_reason,
)
from ciliumipam.testing.control_plane.server import Lease, Port

PATIENCE = 60.0
COMMAND = [sys.executable, "-m", "ciliumipam.testing.control_plane"]
PROGRAMS = ("etcd", "kube-apiserver", "kubectl")


def wait_until_gone(*pids: int) -> None:
    """Only once its parent has been told is a process gone, so a number is not used again before that."""
    deadline = time.monotonic() + PATIENCE
    while alive := [pid for pid in pids if is_there(pid)]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Which programs


@pytest.fixture
def nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable is set and PATH has one folder; returns that folder, which is empty."""
    for name in ("TEST_ASSET_ETCD", "TEST_ASSET_KUBE_APISERVER", "TEST_ASSET_KUBECTL", "KUBEBUILDER_ASSETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CILIUMIPAM_REQUIRE_GO", raising=False)
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put_programs(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


def test_a_variable_for_one_program_goes_before_the_folder_and_the_folder_before_path(
    nothing_given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_programs(nothing_given, *PROGRAMS)
    put_programs(tmp_path / "assets", *PROGRAMS)
    put_programs(tmp_path / "one", "server")

    assert find_binaries() == Binaries(*(nothing_given / name for name in PROGRAMS))

    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert find_binaries() == Binaries(*(tmp_path / "assets" / name for name in PROGRAMS))

    monkeypatch.setenv("TEST_ASSET_KUBE_APISERVER", str(tmp_path / "one" / "server"))
    assert find_binaries() == Binaries(
        tmp_path / "assets" / "etcd", tmp_path / "one" / "server", tmp_path / "assets" / "kubectl"
    )

    monkeypatch.delenv("KUBEBUILDER_ASSETS")
    assert find_binaries() == Binaries(nothing_given / "etcd", tmp_path / "one" / "server", nothing_given / "kubectl")


def test_a_kubectl_alone_on_path_is_that_of_somebodys_cluster(nothing_given: Path) -> None:
    put_programs(nothing_given, "kubectl")

    assert "neither KUBEBUILDER_ASSETS nor PATH has them, and there is no 'go' on PATH" in skip_reason()


def test_a_variable_that_names_no_program_is_an_error_and_never_passed_over(
    nothing_given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_programs(nothing_given, *PROGRAMS)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "nowhere"))

    with pytest.raises(
        ServersMissingError, match=r"KUBEBUILDER_ASSETS says that etcd is .*/nowhere/etcd, which is no program"
    ):
        find_binaries()
    with pytest.raises(ServersMissingError, match="KUBEBUILDER_ASSETS says"):
        skip_reason()


def test_what_is_missing_is_built_from_a_module_that_pins_its_version_and_not_taken_from_path(
    nothing_given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_programs(nothing_given, "kubectl")
    put_programs(tmp_path / "one", "etcd", "kube-apiserver")
    monkeypatch.setenv("TEST_ASSET_ETCD", str(tmp_path / "one" / "etcd"))
    monkeypatch.setenv("TEST_ASSET_KUBE_APISERVER", str(tmp_path / "one" / "kube-apiserver"))
    (tmp_path / "go.mod").write_text("module example\n")

    with pytest.raises(ServersMissingError, match=r"go\.mod requires no version of k8s\.io/kubernetes"):
        find_binaries(tmp_path)


def test_the_programs_say_which_version_they_are(server_binaries: Binaries) -> None:
    def said(*command: object) -> str:
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout

    server = said(server_binaries.kube_apiserver, "--version").split()[-1]

    assert server != "v0.0.0-master+$Format:%H$"
    assert server.startswith("v1.")
    assert server in said(server_binaries.kubectl, "version", "--client")
    assert "etcd Version: 3." in said(server_binaries.etcd, "--version")


# Servers and their leases, with a server that starts at once


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Lease]:
    with Lease(tmp_path / "lease") as lease:
        yield lease


def sleeper(lease: Lease, *command: str) -> Server:
    log = lease.path.with_name("log")
    return Server("sleeper", command or ("sleep", "1000"), lease=lease, log=log, ready=lambda: True)


def test_a_server_is_started_held_up_and_ended_by_what_it_is_told(lease: Lease) -> None:
    server = sleeper(lease)

    server.start()
    first = server.pid
    server.pause()
    assert wait_for_state(first, "T")
    server.resume()
    assert wait_for_state(first, "S")
    with pytest.raises(ServerError, match=f"sleeper runs already, as process {first}"):
        server.start()
    server.restart()
    second = server.pid
    assert not is_there(first)
    server.stop()

    assert not is_there(second)
    assert not server.running
    with pytest.raises(ServerError, match="sleeper does not run"):
        server.pause()
    server.kill()  # what is over can be ended again


def wait_for_state(pid: int, wanted: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
        if state.startswith(wanted):
            return True
    return False


def test_a_server_ends_when_the_last_holder_of_its_lease_lets_go(lease: Lease) -> None:
    server = sleeper(lease)
    server.start()
    other = Lease(lease.path)

    lease.end()
    with pytest.raises(ServerError, match=r"did not end within 0\.2 s"):
        server.wait_for_the_end(0.2)
    other.end()
    server.wait_for_the_end(PATIENCE)

    assert not server.running


def test_a_lease_taken_while_servers_of_earlier_holders_are_killed_waits_until_they_are_gone(lease: Lease) -> None:
    server = sleeper(lease)
    server.start()
    pid = server.pid

    lease.end()
    server.wait_for_the_end(PATIENCE)
    with Lease(lease.path):
        assert not is_there(pid)


def test_a_server_that_ends_by_itself_is_told_with_the_end_of_its_log(lease: Lease) -> None:
    server = sleeper(lease, "sh", "-c", "echo no such flag; exit 3")
    server._ready = lambda: False

    with pytest.raises(ServerError, match=r"(?s)sleeper ended by itself.*no such flag"):
        server.start()


def test_what_is_no_program_does_not_start(lease: Lease) -> None:
    server = sleeper(lease, "/nowhere/server")

    with pytest.raises(ServerError, match=r"(?s)sleeper did not start.*No such file.*/nowhere/server"):
        server.start()


def test_a_port_is_given_to_nobody_else_between_two_runs_of_the_server_on_it() -> None:
    port = Port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port.number))
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", port.number))

    port.give_up()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port.number))


# The real servers


@pytest.fixture(scope="module")
def own(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchControlPlane]:
    users = [User("reader", ("readers", "people")), User("nobody")]
    with ScratchControlPlane(tmp_path_factory.mktemp("own"), server_binaries, users=users) as plane:
        yield plane


def names(plane: ControlPlane, kind: str = "namespaces") -> set[str]:
    return set(plane.kubectl("get", kind, "--output=name").split())


@pytest.mark.parametrize("server", ["etcd", "apiserver"])
def test_a_server_that_was_killed_comes_back_with_everything_on_the_same_port(
    own: ScratchControlPlane, server: str
) -> None:
    killed: Server = getattr(own, server)
    own.kubectl("create", "namespace", f"before-{server}")
    first = killed.pid

    killed.kill()
    assert not is_there(first)
    killed.start()
    own.apiserver.wait_until_ready()

    assert f"namespace/before-{server}" in names(own)
    own.kubectl("create", "namespace", f"after-{server}")


def test_what_came_after_a_snapshot_is_gone_when_it_is_restored(own: ScratchControlPlane) -> None:
    own.kubectl("create", "namespace", "kept")
    snapshot = own.snapshot("early")
    lost = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"lost-{n}"}} for n in range(60)]
    own.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": lost}))
    later = own.get("/api/v1/namespaces")[1]["metadata"]["resourceVersion"]

    own.restore(snapshot)

    assert {"namespace/kept", "namespace/lost-7"} & names(own) == {"namespace/kept"}
    assert int(own.get("/api/v1/namespaces")[1]["metadata"]["resourceVersion"]) < int(later), (
        "revisions go on from then"
    )


def test_users_have_the_rights_of_their_names_and_groups_only(own: ScratchControlPlane) -> None:
    own.kubectl("create", "clusterrole", "readers", "--verb=list", "--resource=configmaps")
    own.kubectl("create", "clusterrolebinding", "readers", "--clusterrole=readers", "--group=readers")

    wait_until_allowed(own, "get", "configmaps", kubeconfig=own.kubeconfig_of("reader"))
    for user in ("reader", "nobody"):
        with pytest.raises(KubectlError, match=f'User "{user}" cannot list resource "nodes"') as caught:
            own.kubectl("get", "nodes", kubeconfig=own.kubeconfig_of(user))
        assert caught.value.code == 1
    with pytest.raises(KubectlError, match="cannot list resource"):
        own.kubectl("get", "configmaps", kubeconfig=own.kubeconfig_of("nobody"))


def test_a_service_account_is_known_at_once_and_has_its_own_rights(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "serviceaccount", "lister", "--namespace=default")
    account = "--serviceaccount=default:lister"
    kubeconfig = control_plane.kubeconfig_of_service_account("default", "lister")

    with pytest.raises(
        KubectlError, match='User "system:serviceaccount:default:lister" cannot list resource "namespaces"'
    ):
        control_plane.kubectl("get", "namespaces", kubeconfig=kubeconfig)
    control_plane.kubectl("create", "clusterrole", "lister", "--verb=list,get", "--resource=namespaces")
    control_plane.kubectl("create", "clusterrolebinding", "lister", "--clusterrole=lister", account)

    wait_until_allowed(control_plane, "get", "namespaces", kubeconfig=kubeconfig)


def wait_until_allowed(plane: ControlPlane, *arguments: str, kubeconfig: Path) -> None:
    """The API server hears of its own new rules only after a moment."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(KubectlError):
            plane.kubectl(*arguments, kubeconfig=kubeconfig)
            return
    pytest.fail(f"{arguments} is not allowed")


def test_nobody_but_the_owner_reads_the_tokens(own: ScratchControlPlane) -> None:
    secret = [own.folder / "tokens.csv", own.folder / "service-accounts.key", own.kubeconfig]

    assert [oct(path.stat().st_mode & 0o777) for path in secret] == ["0o600"] * 3


def test_neither_somebodys_kubeconfig_nor_somebodys_cluster_is_touched(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "theirs"))
    monkeypatch.setenv("HOME", str(tmp_path))

    assert "namespace/default" in names(control_plane)
    assert list(tmp_path.iterdir()) == []


def test_a_flag_that_the_api_server_does_not_know_is_told_and_leaves_nothing_running(
    server_binaries: Binaries, tmp_path: Path
) -> None:
    plane = ScratchControlPlane(tmp_path, server_binaries, apiserver_flags=["--no-such-flag"])

    with pytest.raises(ServerError, match=r"(?s)kube-apiserver ended by itself.*unknown flag: --no-such-flag"), plane:
        pytest.fail("it started")

    assert not plane.etcd.running
    assert not plane.apiserver.running


USING = """
import sys
from pathlib import Path
from ciliumipam.testing.control_plane import ScratchControlPlane, shared

with shared(Path(sys.argv[1])) as plane:
    if isinstance(plane, ScratchControlPlane):
        print(plane.etcd.pid, plane.apiserver.pid, plane.url, flush=True)
    else:
        print(plane.url, len(plane.kubectl("get", "namespaces")) > 0, flush=True)
    sys.stdin.read()
"""


def test_servers_live_as_long_as_anybody_who_shares_them_and_die_with_the_last_even_by_kill_9(
    server_binaries: Binaries, tmp_path: Path
) -> None:
    assets = {
        f"TEST_ASSET_{name.upper().replace('-', '_')}": str(path)
        for name, path in zip(PROGRAMS, server_binaries, strict=True)
    }

    def use() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", USING, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **assets},
            start_new_session=True,
        )

    with use() as first, use() as second:
        told = {process: read_line(process) for process in (first, second)}
        starter, other = sorted(told, key=lambda process: told[process].endswith("True"))
        etcd, apiserver, url = told[starter].split()
        assert told[other] == f"{url} True"

        os.killpg(starter.pid, signal.SIGKILL)  # with everything in its process group
        starter.wait(PATIENCE)
        with use() as third:
            assert read_line(third) == f"{url} True"
            assert is_there(int(etcd))
            assert is_there(int(apiserver))
            other.communicate("")
            third.kill()
        wait_until_gone(int(etcd), int(apiserver))


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# The command


def test_the_command_runs_a_command_and_returns_its_exit_code(server_binaries: Binaries) -> None:
    done = subprocess.run(
        [*COMMAND, "--", "sh", "-c", 'kubectl get namespaces -o name && echo "$KUBECONFIG" && exit 7'],
        capture_output=True,
        text=True,
        check=False,
    )

    *shown, kubeconfig = done.stdout.split()
    assert (done.returncode, done.stderr) == (7, "")
    assert "namespace/default" in shown
    assert not Path(kubeconfig).exists(), "its folder is deleted"


def test_the_command_says_how_to_use_what_it_started_and_ends_all_of_it_when_it_is_told(
    server_binaries: Binaries, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    with subprocess.Popen([*COMMAND, "--folder", str(folder)], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        shown = "".join(iter(running.stdout.readline, "Ctrl-C here ends it.\n"))
        exports = "\n".join(line for line in shown.splitlines() if line.startswith("export "))
        did = subprocess.run(
            ["bash", "-c", f"{exports}\nkubectl create namespace {running.pid}-n; kubectl get --raw /readyz"],
            capture_output=True,
            text=True,
            check=True,
        )
        running.terminate()  # test_docs.py presses Ctrl-C
        assert running.wait(PATIENCE) == 0

    assert did.stdout.endswith("created\nok")
    look = ["kubectl", "get", "namespace", f"{running.pid}-n", "-o", "name"]
    again = subprocess.run([*COMMAND, "--folder", str(folder), "--", *look], capture_output=True, text=True, check=True)
    assert again.stdout == f"namespace/{running.pid}-n\n", "a folder that was asked for is kept, and gone on from"


def test_the_command_says_in_a_sentence_what_it_lacks(nothing_given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("python -m ciliumipam.testing.control_plane: go env -json")
    assert "Install Go" in done.stderr


def test_building_alone_says_where_the_programs_are(server_binaries: Binaries) -> None:
    done = subprocess.run([*COMMAND, "--build"], capture_output=True, text=True, check=True)

    *paths, took = done.stdout.splitlines()
    assert paths == [str(path) for path in server_binaries]
    assert took.startswith("found or built in ")


def test_an_interrupt_ends_it_also_where_a_scripts_shell_had_it_ignored(server_binaries: Binaries) -> None:
    env = {**os.environ, **{f"TEST_ASSET_{name.upper().replace('-', '_')}": str(path) for name, path in zip(PROGRAMS, server_binaries, strict=True)}}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `sh` does for what it starts with &
    try:
        process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True, env=env)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        assert any("Ctrl-C" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(PATIENCE) == 0
        finally:
            process.terminate()
