"""What a pod waits for: ADD and DEL of the CNI plugin as whole processes, beside host-local, the real program.

`python -m benchmarks.cni` needs Go. Both have one IPv4 /18 and the same addresses held; calls of the two alternate. The last table says what
each millisecond of an ADD is: processes that do only the first part of it, and then more and more of it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

from ciliumipam import Ipam
from ciliumipam.cni.config import LOCAL
from ciliumipam.cni.install import install, script
from ciliumipam.store.sqlite import SqliteStore
from ciliumipam.testing.go_build import go_build

HELD = (0, 1_000, 4_000, 10_000)
CALLS = 30
AT_ONCE, MANY = 16, 160
SUBNET, FIRST = "10.64.0.0/18", ip_address("10.64.0.2")
PARTS = Path(__file__).parents[1] / "tests" / "cni_parts"
PACKAGE = "github.com/containernetworking/plugins/plugins/ipam/host-local"


class Contestant:
    def __init__(self, name: str, program: Path, ipam: dict[str, object]) -> None:
        self.name, self.program = name, program
        self.config = json.dumps({"cniVersion": "1.0.0", "name": "pods", "type": "ptp", "ipam": ipam}).encode()

    def call(self, command: str, container: str) -> float:
        """Seconds from the start of the process to its end."""
        env = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/x", "PATH": "/bin"}
        begin = time.perf_counter()
        subprocess.run([self.program], input=self.config, env=env, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begin


def ours(folder: Path, held: int) -> Contestant:
    install(folder)
    contestant = Contestant(
        "ciliumipam-cni", folder / "ciliumipam-cni", {"type": "x", "store": f"sqlite:{folder / 'node.db'}", "blocks": [SUBNET]}
    )
    contestant.call("ADD", "first")
    contestant.call("DEL", "first")
    with SqliteStore(folder / "node.db") as store:
        ipam = Ipam(store)
        for start in range(0, held, 1000):
            ipam.allocate(LOCAL, *(f"pods/{n:064x}/eth0" for n in range(start, min(held, start + 1000))))
    return contestant


def host_local(folder: Path, held: int) -> Contestant:
    contestant = Contestant(
        "host-local", go_build(PARTS, PACKAGE), {"type": "host-local", "dataDir": str(folder / "networks"), "ranges": [[{"subnet": SUBNET}]]}
    )
    contestant.call("ADD", "first")
    contestant.call("DEL", "first")
    for n in range(held):
        (folder / "networks" / "pods" / str(FIRST + n)).write_bytes(f"{n:064x}\r\neth0".encode())
    (folder / "networks" / "pods" / "last_reserved_ip.0").write_text(str(FIRST + max(held - 1, 0)))
    return contestant


def median(values: Sequence[float]) -> str:
    return f"{statistics.median(values) * 1000:7.1f}"


def alone(contestants: Sequence[Contestant], held: int) -> None:
    took: dict[tuple[str, str], list[float]] = {}
    for n in range(CALLS):
        for command in ("ADD", "DEL"):
            for each in contestants:
                took.setdefault((each.name, command), []).append(each.call(command, f"probe{n}"))
    first, second = (each.name for each in contestants)
    for command in ("ADD", "DEL"):
        ratio = statistics.median(took[first, command]) / statistics.median(took[second, command])
        print(f"{held:>7,} {command:<5}{median(took[first, command])} ms {median(took[second, command])} ms {ratio:7.2f}")


def together(contestants: Sequence[Contestant], held: int) -> None:
    rates = []
    for each in contestants:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            begin = time.perf_counter()
            for _ in pool.map(lambda n, each=each: each.call("ADD", f"many{n}"), range(MANY)):
                pass
            rates.append(MANY / (time.perf_counter() - begin))
    print(f"{held:>7,} {AT_ONCE} at once {rates[0]:7.1f} /s {rates[1]:7.1f} /s {rates[0] / rates[1]:7.2f}")


def where_it_goes(contestant: Contestant, folder: Path) -> None:
    """Parts of an ADD, each a process that does one thing more than the one before."""
    path = "\n".join(each for each in script().splitlines() if each.startswith(("import", "sys.path")))
    load = f"{path}\nimport ciliumipam.cni.plugin, ciliumipam.cni.node_store"
    database = folder / "bare.db"
    bare = "\n".join(
        (
            f"import sqlite3\nc = sqlite3.connect({str(database)!r}, isolation_level=None)",
            "c.execute('PRAGMA journal_mode = WAL')\nc.execute('PRAGMA synchronous = FULL')",
            "c.execute('CREATE TABLE IF NOT EXISTS t (k PRIMARY KEY, v)')\nfor n in range(2):",
            " c.execute('BEGIN IMMEDIATE')\n c.execute('REPLACE INTO t VALUES (?, ?)', (n, 'x' * 4000))\n c.execute('COMMIT')",
        )
    )
    end = "\nimport os\nos._exit(0)"
    steps = (("the interpreter", "pass"), ("imports", load), ("two bare commits of SQLite", f"{load}\n{bare}"))
    took: dict[str, list[float]] = {}
    for n in range(CALLS):
        for name, code in steps:
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-IS", "-c", code + end], check=True, env={})
            took.setdefault(name, []).append(time.perf_counter() - begin)
        took.setdefault("the rest: reading, deciding, answering", []).append(contestant.call("ADD", f"part{n}"))
    before = 0.0
    for name, times in took.items():
        now = statistics.median(times)
        print(f"  {name:<40}{(now - before) * 1000:7.1f} ms")
        before = now
    print(f"  {'one ADD':<40}{before * 1000:7.1f} ms")


def main() -> None:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; medians of {CALLS} whole processes")
    print(f"{'held':>7} {'':<5}{'ciliumipam-cni':>10} {'host-local':>10} {'ratio':>7}")
    for held in HELD:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            contestants = (ours(folder, held), host_local(folder, held))
            alone(contestants, held)
            together(contestants, held)
            if held == HELD[-1]:
                print(f"where one ADD goes, with {held:,} held:")
                where_it_goes(contestants[0], folder)


if __name__ == "__main__":
    main()
