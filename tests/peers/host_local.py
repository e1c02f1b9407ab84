"""host-local, CNI's own IPAM plugin: the real program, a process for each call, its files in a folder that goes away.

As a program this file answers the JSON lines of `ciliumipam torture`; it builds host-local with Go, once. With the argument
`careful` it is called as by a runtime that keeps to the specification and knows its ranges: no second ADD for a container that holds
an address, one call at a time for a container, and no request of an address that may not be given.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from typing import Any

from ciliumipam.testing.go_build import go_build
from ciliumipam.testing.torture import CallFailedError, CallRefusedError, Claims, RangeExhaustedError, serve
from ciliumipam.testing.torture.protocol import Address, Network, Run

MODULE = Path(__file__).parents[2] / "benchmarks" / "peers"
PACKAGE = "github.com/containernetworking/plugins/plugins/ipam/host-local"
NO = ("has been allocated to", "is not available in range set", "failed to allocate all requested IPs", "is subnet's gateway")


class HostLocal:
    """Owners are container ids. A second ADD for one is an error, as the CNI specification wants it."""

    claims = Claims(again="refused", given=True, restarts=True, writers="at once")

    def __init__(self, program: Path, *, careful: bool = False) -> None:
        self._program = str(program)
        self._careful = careful
        self._offer: tuple[Address, Address] = (ip_address("0.0.0.0"), ip_address("0.0.0.0"))  # noqa: S104 - nothing listens
        self._holders: set[str] = set()
        self._locks: defaultdict[str, AbstractContextManager[Any]] = defaultdict(Lock if careful else nullcontext)
        self._folder = tempfile.TemporaryDirectory()
        self._name = "range-0"
        self._subnet = ""

    def open(self, network: Network) -> list[Run]:
        """What it may give: not the first address, not the gateway, which is the second, and in IPv4 not the last."""
        self._name = f"range-{int(self._name.removeprefix('range-')) + 1}"
        self._subnet = str(network)
        self._holders.clear()
        probed = self._run("ADD", "probe", network=f"probe-{self._name}")
        if "msg" in probed:
            raise CallRefusedError(str(probed["msg"]))
        last = network.broadcast_address if network.version == 6 else network.broadcast_address - 1
        self._offer = (network.network_address + 2, last)
        return [self._offer]

    def restart(self) -> None:
        """There is no process that could forget anything."""

    def another(self) -> HostLocal:
        """Every call is a writer of its own."""
        return self

    def allocate(self, owner: str, address: Address | None) -> str:
        with self._locks[owner]:
            return self._add(owner, address)

    def _add(self, owner: str, address: Address | None) -> str:
        if self._careful and owner in self._holders:
            raise CallRefusedError(f"{owner} was added already")
        if self._careful and address is not None and not int(self._offer[0]) <= int(address) <= int(self._offer[1]):
            raise CallRefusedError(f"{address} may not be given")
        told = self._run("ADD", owner, "" if address is None else f"IP={address}")
        why = str(told.get("msg", ""))
        if "no IP addresses available" in why:
            raise RangeExhaustedError(why)
        if any(each in why for each in NO):
            raise CallRefusedError(why)
        if why:
            raise CallFailedError(why)
        (given,) = told["ips"]
        self._holders.add(owner)
        return str(given["address"]).partition("/")[0]

    def release(self, owner: str, address: Address | None) -> None:
        with self._locks[owner]:
            told = self._run("DEL", owner)
            if told:
                raise CallFailedError(str(told))
            self._holders.discard(owner)

    def close(self) -> None:
        self._folder.cleanup()

    def _run(self, command: str, owner: str, arguments: str = "", network: str = "") -> dict[str, Any]:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": owner,
            "CNI_NETNS": "/var/run/netns/none",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/",
            "CNI_ARGS": arguments,
        }
        ranges = [[{"subnet": self._subnet}]]
        config = {
            "cniVersion": "1.0.0",
            "name": network or self._name,
            "ipam": {"type": "host-local", "dataDir": self._folder.name, "ranges": ranges},
        }
        done = subprocess.run(
            [self._program], input=json.dumps(config), env=environment, capture_output=True, text=True, check=False
        )
        if done.stderr or (done.returncode and not done.stdout):
            raise CallFailedError(f"exit code {done.returncode}: {done.stderr.strip()}")
        told: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return told


if __name__ == "__main__":
    serve(HostLocal(go_build(MODULE, PACKAGE), careful="careful" in sys.argv[1:]))
