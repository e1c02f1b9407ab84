"""The CNI plugin under the real `ptp` and `bridge`, called by the real `cnitool`, in real network namespaces.

Two nodes are two namespaces with a wire between them, each with a store, a configuration and pods of its own. A namespace lives as long
as a process in it, and that ends with the tests, so whatever ends these leaves no namespace and no veth.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ciliumipam import Ipam
from ciliumipam.audit import audit
from ciliumipam.cni.install import install
from ciliumipam.store.sqlite import SqliteStore
from ciliumipam.testing.go_build import REQUIRED, go_build, skip_reason
from tests.cni_calls import call

MODULE = Path(__file__).parent / "cni_parts"
PLUGINS = "github.com/containernetworking/plugins/plugins"
PACKAGES = ("github.com/containernetworking/cni/cnitool", f"{PLUGINS}/main/ptp", f"{PLUGINS}/main/bridge", f"{PLUGINS}/ipam/host-local")
PODS = 20
WIRE = {1: ("192.0.2.1/30", "fd00:ffff::1/64"), 2: ("192.0.2.2/30", "fd00:ffff::2/64")}
BLOCKS = {1: ("10.61.1.0/24", "fd61:1::/64"), 2: ("10.61.2.0/24", "fd61:2::/64")}

# An echo to every address given, again and again until each has answered; prints those that have not.
PING = """
import os, select, socket, struct, sys, time
def sum16(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
v4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
v6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.getprotobyname("ipv6-icmp"))
mine, waiting, end = os.getpid() & 0xFFFF, set(sys.argv[1:]), time.monotonic() + 30
while waiting and time.monotonic() < end:
    for each in waiting:
        six = ":" in each
        echo = struct.pack("!BBHHH", 128 if six else 8, 0, 0, mine, 1)
        if not six: echo = struct.pack("!BBHHH", 8, 0, sum16(echo), mine, 1)
        try: (v6 if six else v4).sendto(echo, (each, 0))
        except OSError: pass
    again = time.monotonic() + 1
    while waiting and (left := again - time.monotonic()) > 0:
        for ready in select.select([v4, v6], [], [], left)[0]:
            data, sender = ready.recvfrom(2048)
            head = data[(data[0] & 15) * 4:] if ready is v4 else data
            if head[0] in (0, 129) and struct.unpack("!H", head[4:6])[0] == mine: waiting.discard(sender[0])
print(*sorted(waiting))
"""


def why_not() -> str:
    """Why these tests cannot run here; empty where they can, or have to."""
    if os.environ.get(REQUIRED):
        return ""
    missing = [each for each in ("ip", "nsenter", "unshare") if shutil.which(each) is None]
    if missing:
        return f"there is no {missing[0]!r} on PATH to make network namespaces with ({REQUIRED}=1 makes that a failure)"
    if subprocess.run(["unshare", "--net", "--mount", "ip", "link", "add", "probe", "type", "veth"], capture_output=True, check=False).returncode:
        return f"this user may not make network namespaces and veth pairs here ({REQUIRED}=1 makes that a failure)"
    return skip_reason()


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


def run(*command: str | Path, **more: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return str(done.stdout)


class Namespace:
    """A network namespace that only a process holds, which ends with its standard input: when it is closed, or its parent is killed."""

    def __init__(self) -> None:
        command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        self.pid = str(self._holder.pid)
        self.path = f"/proc/{self.pid}/ns/net"
        assert self._holder.stdout.readline() == "ready\n", "no namespace was made"

    def __str__(self) -> str:
        return self.path

    def close(self) -> None:
        self._holder.communicate()

    def run(self, *command: str | Path, **more: Any) -> str:
        return run("nsenter", f"--net={self.path}", *command, **more)


class Site:
    """Namespaces that go away, and the plugins' folder. What libcni remembers is kept in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.made: list[Namespace] = []
        for package in PACKAGES:
            (self.bin / package.rpartition("/")[2]).symlink_to(go_build(MODULE, package))
        self.program = self.bin / "ciliumipam-cni"
        install(self.bin)

    def namespace(self) -> Namespace:
        self.made.append(Namespace())
        return self.made[-1]

    def close(self) -> None:
        for each in self.made:
            each.close()


class Host:
    """A node: its namespace, its configuration, and cnitool called in it."""

    def __init__(self, site: Site, name: str, config: dict[str, Any]) -> None:
        self.site = site
        self.namespace = site.namespace()
        self.store = site.folder / f"{name}.db"
        self.folder = site.folder / name
        self.cache = site.folder / f"{name}-cache"
        for each in (self.folder, self.cache):
            each.mkdir()
        self.config = config
        for plugin in config["plugins"]:
            plugin["ipam"] |= {"type": "ciliumipam-cni", "store": f"sqlite:{self.store}"}
        (self.folder / "10-pods.conflist").write_text(json.dumps(config))

    def tool(self, command: str, pod: Namespace, **env: str) -> subprocess.CompletedProcess[str]:
        """cnitool, with a /var/lib/cni of its own, where libcni keeps what ADD answered."""
        mount = f"mkdir -p /var/lib/cni && mount --bind '{self.cache}' /var/lib/cni && exec nsenter --net={self.namespace} \"$@\""
        words = [self.site.bin / "cnitool", command, self.config["name"], pod.path]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", mount, "sh", *words], capture_output=True, text=True, timeout=120, check=False,
            env={"PATH": os.environ["PATH"], "CNI_PATH": str(self.site.bin), "NETCONFPATH": str(self.folder), **env},
        )  # fmt: skip

    def add(self, pod: Namespace, **env: str) -> list[str]:
        done = self.tool("add", pod, **env)
        assert done.returncode == 0, done
        return [each["address"].partition("/")[0] for each in json.loads(done.stdout)["ips"]]

    def held(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with SqliteStore(self.store, read_only=True) as opened:
            assert list(audit(opened).findings) == []
            for each in Ipam(opened).allocations():
                if not each.owner.startswith("gateway:"):
                    found.setdefault(each.owner, []).append(str(each.address))
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    opened = Site(tmp_path)
    try:
        yield opened
    finally:
        opened.close()


def network(plugin: dict[str, Any], number: int, **ipam: Any) -> dict[str, Any]:
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    return {"cniVersion": "1.1.0", "name": "pods", "plugins": [plugin | {"ipam": {"blocks": list(BLOCKS[number]), "routes": routes, **ipam}}]}


def test_pods_of_two_nodes_reach_each_other_in_both_families(site: Site) -> None:
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True}
    hosts = {1: Host(site, "node1", network({"type": "ptp"}, 1)), 2: Host(site, "node2", network(bridge, 2))}
    hosts[1].namespace.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", hosts[2].namespace.pid)
    for number, host in hosts.items():
        other = 3 - number
        for own in WIRE[number]:
            host.namespace.run("ip", "address", "add", own, "dev", "wire", *(["nodad"] if ":" in own else []))
        host.namespace.run("ip", "link", "set", "wire", "up")
        for block, peer in zip(BLOCKS[other], WIRE[other], strict=True):
            host.namespace.run("ip", "route", "add", block, "via", peer.partition("/")[0])
        for path in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            host.namespace.run("sh", "-c", f"echo 1 >/proc/sys/{path.replace('.', '/')}")

    pods = {number: [site.namespace() for _ in range(PODS)] for number in hosts}
    everybody = [(number, pod) for number in hosts for pod in pods[number]]
    with ThreadPoolExecutor(4) as pool:
        told = dict(zip([pod for _, pod in everybody], pool.map(lambda each: hosts[each[0]].add(each[1]), everybody), strict=True))
    for number, host in hosts.items():
        assert sorted(map(sorted, host.held().values())) == sorted(sorted(told[pod]) for pod in pods[number])
        for pod in pods[number]:
            v4, v6 = told[pod]
            assert v4.startswith(f"10.61.{number}."), "an address out of its node's own block"
            assert v6.startswith(f"fd61:{number}::"), "an address out of its node's own block"
    all_addresses = [each for some in told.values() for each in some]
    assert len(set(all_addresses)) == 4 * PODS
    for _, pod in everybody:
        assert pod.run(sys.executable, "-IS", "-c", PING, *all_addresses).split() == [], f"{pod} does not reach these"

    for number, host in hosts.items():
        first = pods[number][0]
        assert host.tool("check", first).returncode == 0
        assert host.tool("status", first).returncode == 0
        assert host.tool("del", first).returncode == 0
        assert host.tool("del", first).returncode == 0
        assert host.tool("check", first).returncode != 0
        assert len(host.held()) == PODS - 1
        kept = sorted(host.held())[:3]
        valid = [{"containerID": each.split("/")[1], "ifname": "eth0"} for each in kept]
        plugin = {**host.config["plugins"][0], "name": "pods", "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
        assert call(site.program, "GC", plugin).code == 0
        assert sorted(host.held()) == kept


def test_a_check_tells_that_an_address_was_taken_away(site: Site) -> None:
    host = Host(site, "node1", network({"type": "ptp"}, 1))
    pod = site.namespace()
    v4, _ = host.add(pod)
    assert host.tool("check", pod).returncode == 0
    with SqliteStore(host.store) as opened:
        Ipam(opened).force_release(v4)
    done = host.tool("check", pod)
    assert done.returncode == 1
    assert v4 in done.stderr


def test_on_a_full_block_a_pod_is_refused_in_words_and_status_says_so_until_one_goes(site: Site) -> None:
    host = Host(site, "node1", network({"type": "bridge", "isGateway": True}, 1, blocks=["10.61.1.0/29"], routes=[]))
    pods = [site.namespace() for _ in range(6)]
    assert [host.add(pod) for pod in pods[:5]] == [[f"10.61.1.{n}"] for n in range(2, 7)]
    refused = host.tool("add", pods[5])
    assert refused.returncode == 1
    assert "0 free IPv4 addresses" in refused.stderr
    assert host.tool("del", pods[5]).returncode == 0, "a runtime sends a DEL after an ADD that failed"
    assert "no address is left" in host.tool("status", pods[5]).stderr
    assert host.tool("del", pods[2]).returncode == 0
    assert host.tool("status", pods[5]).returncode == 0
    assert host.add(pods[5]) == ["10.61.1.4"]


def test_behind_another_plugin_of_the_list_a_runtimes_gc_reaches_it(site: Site) -> None:
    config = network({"type": "ptp"}, 1)
    config["plugins"].append({"type": "ciliumipam-cni", "ipam": dict(config["plugins"][0]["ipam"])})
    host = Host(site, "node1", config)
    pods = [site.namespace() for _ in range(2)]
    first = host.add(pods[0], CNI_ARGS="IgnoreUnknown=1;IP=10.61.1.99")
    assert first[0] == "10.61.1.99"
    host.add(pods[1])
    assert host.tool("check", pods[0]).returncode == 0
    (host.cache / "results").rename(host.cache / "forgotten")  # else libcni would send a DEL before
    said = host.tool("gc", pods[0])
    assert "cni.dev/valid-attachments" in said.stderr, "cnitool does not say which attachments are valid, and frees nothing by that"
    assert len(host.held()) == 2
    assert host.tool("del", pods[0]).returncode == 0
    assert len(host.held()) == 1


def test_whatever_ends_these_tests_leaves_no_namespace() -> None:
    code = "import time; from tests.test_cni_networks import Namespace; made = Namespace(); print(made, flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=MODULE.parents[1], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    path = process.stdout.readline().strip()
    there = Path(path).exists()
    process.kill()
    process.communicate()
    assert there
    end = time.monotonic() + 30
    while Path(path).exists():
        assert time.monotonic() < end, f"{path} outlives the process that made it"
        time.sleep(0.01)
