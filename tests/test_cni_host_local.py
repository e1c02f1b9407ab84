"""Changing over from the real host-local and back: every address keeps its attachment."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ciliumipam.cni.install import install
from ciliumipam.testing.go_build import go_build, skip_reason
from tests.cni_calls import addresses, call, environment, network

needs_go = pytest.mark.skipif(bool(skip_reason()), reason=skip_reason())
PACKAGE = "github.com/containernetworking/plugins/plugins/ipam/host-local"


class Site:
    def __init__(self, folder: Path) -> None:
        self.networks = folder / "networks"
        self.directory = self.networks / "pods"
        self.store = folder / "node.db"
        self.file = folder / "10-pods.conflist"
        self.configure()
        install(folder)
        self.program = folder / "ciliumipam-cni"

    def configure(self, **ipam: Any) -> None:
        config = network(self.store, **ipam)
        self.config = config
        plugin = {key: value for key, value in config.items() if key not in ("name", "cniVersion")}
        self.file.write_text(json.dumps({"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "loopback"}, plugin]}))

    def command(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "ciliumipam.cni", name, "--config", str(self.file), "--directory", str(self.directory), *options]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    def files(self) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in self.directory.iterdir() if each.name[0] in "1f"}

    def host_local(self, command: str, container: str) -> list[str]:
        ipam = {"type": "host-local", "dataDir": str(self.networks), "ranges": [[{"subnet": "10.7.1.0/24"}], [{"subnet": "fd07:1::/64"}]]}
        config = {"cniVersion": "1.0.0", "name": "pods", "type": "ptp", "ipam": ipam}
        program = go_build(Path(__file__).parent / "cni_parts", PACKAGE)
        env = environment(command, container)
        done = subprocess.run([program], input=json.dumps(config), env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done
        return [each["address"] for each in json.loads(done.stdout)["ips"]] if done.stdout else []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@needs_go
def test_there_and_back_every_address_keeps_its_attachment(site: Site) -> None:
    before = {f"c{n}": site.host_local("ADD", f"c{n}") for n in range(20)}
    site.host_local("DEL", "c3")
    del before["c3"]
    files = site.files()

    dry = site.command("from-host-local", "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[-1]) == (0, "38 would be changed")
    assert not site.store.exists()
    done = site.command("from-host-local")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "38 changed")
    assert "hold 10.7.1.2 for pods/c0/eth0" in done.stdout
    assert site.command("from-host-local").stdout == "everything is as it should be\n"
    assert site.files() == files

    assert {container: addresses(call(site.program, "ADD", site.config, container)) for container in before} == before
    for container in ("c4", "c5"):
        assert call(site.program, "DEL", site.config, container).code == 0
        del before[container]
    new = addresses(call(site.program, "ADD", site.config, "new"))
    assert not {each for some in before.values() for each in some} & set(new)

    stale = site.command("to-host-local")
    assert stale.returncode == 1
    assert "c5 eth0, which the store does not say" in stale.stderr
    assert site.files() == files
    assert site.command("to-host-local", "--overwrite", "--dry-run").returncode == 0
    assert site.files() == files
    assert site.command("to-host-local", "--overwrite").returncode == 0
    there = {container: sorted(each.partition("/")[0] for each in some) for container, some in {**before, "new": new}.items()}
    found: dict[str, list[str]] = {}
    for name, text in site.files().items():
        container, interface = text.decode().split("\r\n")
        assert interface == "eth0"
        found.setdefault(container, []).append(name)
    assert {container: sorted(some) for container, some in found.items()} == there
    for container in there:
        site.host_local("DEL", container)
    assert site.files() == {}, "host-local knows every file for its own"


def reserve(site: Site, files: dict[str, str]) -> None:
    site.directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (site.directory / name).write_bytes(text.encode())


def test_with_a_conflict_nothing_is_changed_and_each_is_told(site: Site) -> None:
    call(site.program, "ADD", site.config, "mine", arguments="IP=10.7.1.5")
    of = {"10.7.1.1": "gw", "10.7.1.5": "other", "10.9.9.9": "far", "10.7.1.6": "two", "10.7.1.7": "two", "10.7.1.8": "ok"}
    reserve(site, {address: f"{container}\r\neth0" for address, container in of.items()})
    done = site.command("from-host-local")
    assert done.returncode == 1
    for words in ("is the gateway of block 10.7.1.0/24", "10.7.1.5 is held by owner 'pods/mine/eth0'", "10.9.9.9 is not in", "'pods/two/eth0' already holds 10.7.1.6"):
        assert words in done.stderr
    assert done.stderr.endswith("nothing was changed, for 4 of these stand in the way\n")
    assert addresses(call(site.program, "ADD", site.config, "free", arguments="IP=10.7.1.8"))[0] == "10.7.1.8/24"


def test_files_of_old_versions_name_no_interface_and_what_is_not_host_locals_is_told(site: Site) -> None:
    reserve(site, {"10.7.1.5": "old", "last_reserved_ip.0": "10.7.1.5", "odd": "?"})
    done = site.command("from-host-local", "--interface", "net1")
    assert done.stdout.splitlines() == ["left out odd: its name is no address", "hold 10.7.1.5 for pods/old/net1, whose file names no interface", "1 changed"]
    reserve(site, {"10.7.1.6": "../../etc"})
    assert "is no container's id" in site.command("from-host-local").stderr


@pytest.mark.parametrize("command", ["from-host-local", "to-host-local"])
def test_host_locals_lock_is_held_meanwhile(site: Site, command: str) -> None:
    call(site.program, "ADD", site.config, "mine")
    site.directory.mkdir(parents=True)
    with (site.directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = [sys.executable, "-m", "ciliumipam.cni", command, "--config", str(site.file), "--directory", str(site.directory)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while not any("->" in line and f" {process.pid} " in line for line in Path("/proc/locks").read_text().splitlines()):
            assert process.poll() is None, "it did not wait for the lock"
            assert time.monotonic() < end
            time.sleep(0.01)
        fcntl.flock(lock, fcntl.LOCK_UN)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_what_is_missing_is_named(site: Site) -> None:
    assert "is no directory" in site.command("from-host-local").stderr
    assert "does not exist" in site.command("to-host-local").stderr
    site.file.write_text('{"name": "pods", "type": "ptp", "ipam": {"type": "host-local"}}')
    done = site.command("from-host-local")
    assert (done.returncode, "no plugin in it has an 'ipam' with a 'store'" in done.stderr) == (2, True)
