"""Nodes rolled out on a real API server: raw patches alone, our operator, and Cilium's beside it, in one run on one server.

    python -m benchmarks.cluster                      # 1,000 and 5,000 nodes, and Cilium's operator with 1,000 (needs Go; builds once)
    python -m benchmarks.cluster --nodes 200 --no-cilium
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import ip_network
from itertools import islice
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from benchmarks.cluster.eye import NODES, Eye, read, writes_and_reads
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.guard import CILIUM_NODES
from ciliumipam.kubernetes.install import install
from ciliumipam.kubernetes.lightkube_transport import connect
from ciliumipam.kubernetes.objects import LEDGERS, POOLS
from ciliumipam.testing.control_plane import ScratchControlPlane
from ciliumipam.testing.go_build import go_build

THREADS = 8
HERE = Path(__file__).parent


def say(text: str) -> None:
    print(text, flush=True)


class Bench:
    def __init__(self, plane: ScratchControlPlane) -> None:
        self.plane = plane
        self.transport = connect()
        self.api = Api(self.transport)

    # ------------------------------------------------------------------------------------------------ what is there

    def nodes(self, count: int) -> None:
        """So many CiliumNodes, half of them in zone a, and none of any earlier part."""
        self.clear()

        def create(number: int) -> None:
            labels = {"zone": "ab"[number % 2]}
            obj = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": f"node-{number:05d}", "labels": labels}, "spec": {}}
            self.api.create(CILIUM_NODES, obj)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(create, range(count)))

    def clear(self) -> None:
        for resource in (CILIUM_NODES, POOLS, LEDGERS):
            names = [item["metadata"]["name"] for item in self.api.list(resource).items]
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(lambda name, resource=resource: self.api.delete(resource, name), names))

    def pool(self, name: str, cidr: str, labels: dict[str, str]) -> None:
        spec = {"cidrs": [cidr], "nodeSelector": {"matchLabels": labels}}
        obj = {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": name}, "spec": spec}
        self.api.create(POOLS, obj)

    # --------------------------------------------------------------------------------------------------- the parts

    def raw(self, count: int) -> float:
        """The patches alone, as our operator sends them: seconds."""
        self.nodes(count)
        objects = read(self.plane, NODES)["items"]
        blocks = islice(ip_network("10.0.0.0/8").subnets(new_prefix=24), count)

        def patch(item: tuple[dict[str, Any], object]) -> None:
            obj, block = item
            metadata = {"resourceVersion": obj["metadata"]["resourceVersion"], "annotations": {"ipam.cilium.io/ignore": "true"}}
            self.api.patch(CILIUM_NODES, obj["metadata"]["name"], {"metadata": metadata, "spec": {"ipam": {"podCIDRs": [str(block)]}}})

        eye = Eye(self.plane)  # a watcher costs the server something: all are measured under the same one
        began = perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(patch, zip(objects, blocks, strict=True)))
        return eye.wait(count, 300) - began

    @contextmanager
    def operator(self) -> Iterator[tuple[float, float, list[int]]]:
        """Ours in a process: when it was started, when it had read everything; after the end, the most memory it had, in KiB."""
        memory: list[int] = []
        began = perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.cluster.ours"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            synced = float(process.stdout.readline())  # perf_counter is one clock for all processes of a Linux machine
            yield began, synced, memory
            process.stdin.close()
            memory.append(int(process.stdout.readline()))
            process.wait(60)
        finally:
            process.kill()
            process.wait()

    def ours(self, count: int, raw: float, *, rest: bool) -> None:
        self.nodes(count)
        self.pool("all", "10.0.0.0/8", {})
        eye = Eye(self.plane)
        with self.operator() as (began, synced, memory):
            last = eye.wait(count, 300)
            whole = last - synced
            self.tell(f"ours, {count:,} nodes from nothing", whole, f"{count / whole:,.0f}/s, {whole / raw:.2f} x raw patches (target 1.25); {synced - began:.2f} s before it to start and list")
            sleep(3)
            if rest:
                writes, reads = writes_and_reads(self.plane)
                sleep(60)
                more_writes, more_reads = writes_and_reads(self.plane)
                self.tell(f"ours, {count:,} nodes, a minute at rest", 60, f"{more_writes - writes} writes, {more_reads - reads} reads but watches")
        self.tell_memory(f"ours, {count:,} nodes", memory)
        self.sizes()
        before = writes_and_reads(self.plane)[0]
        with self.operator() as (began, synced, memory):
            sleep(5)
            self.tell(f"ours, restart over {count:,} nodes", synced - began, f"to know everything; {writes_and_reads(self.plane)[0] - before} writes after it")
        self.tell_memory(f"ours, restarted over {count:,} nodes", memory)

    def half(self, count: int) -> None:
        self.nodes(count)
        self.pool("zone-a", "10.0.0.0/9", {"zone": "a"})
        eye = Eye(self.plane)
        with self.operator():
            eye.wait((count + 1) // 2, 300)
            sleep(count / 400 + 3)  # until the others have been told why they wait: that is no part of what follows
            began = perf_counter()
            self.pool("zone-b", "10.128.0.0/9", {"zone": "b"})
            whole = eye.wait(count, 300) - began
            self.tell(f"ours, a pool added for {count // 2:,} of {count:,} nodes", whole, f"{count // 2 / whole:,.0f}/s, from the pool's creation")

    @contextmanager
    def stock(self, program: Path, flags: Sequence[str] = ()) -> Iterator[None]:
        """Cilium's operator in a process."""
        command = [
            str(program),
            "--ipam=cluster-pool",
            "--enable-ipv4=true",
            "--enable-ipv6=false",
            "--cluster-pool-ipv4-cidr=10.0.0.0/8",
            "--cluster-pool-ipv4-mask-size=24",
            f"--k8s-kubeconfig-path={self.plane.kubeconfig}",
            "--identity-allocation-mode=crd",
            "--enable-k8s=true",
            *flags,
        ]
        with (self.plane.folder / "cilium.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                yield
            finally:
                process.kill()
                process.wait()

    def cilium_definitions(self, program: Path) -> None:
        """Let Cilium's operator install the definitions that it works with; ours works with them as well."""
        with self.stock(program):
            for path in (NODES, "/apis/cilium.io/v2/ciliumnodeconfigs"):
                while self.plane.get(path)[0] != 200:
                    sleep(0.2)

    def cilium(self, program: Path, count: int, name: str, flags: Sequence[str]) -> None:
        """Cilium's operator: nodes a second, from the first block to the last."""
        self.nodes(count)
        eye = Eye(self.plane)
        with self.stock(program, flags):
            last = eye.wait(count, 300)
        whole = last - eye.first()
        self.tell(f"Cilium's operator, {name}, {count:,} nodes", whole, f"{count / whole:,.0f}/s, from the first block to the last")

    # --------------------------------------------------------------------------------------------------- telling

    def tell(self, what: str, seconds: float, more: str) -> None:
        say(f"{what:<58} {seconds:8.2f} s   {more}")

    def tell_memory(self, what: str, kib: list[int]) -> None:
        say(f"{what + ', memory at most':<58} {kib[0] / 1024:8.0f} MiB (target 150)")

    def sizes(self) -> None:
        """What the server keeps for it, by kind of record."""
        found: dict[str, list[int]] = {}
        for item in self.api.list(LEDGERS).items:
            found.setdefault(item["spec"]["kind"], []).append(len(json.dumps(item)))
        for kind, sizes in sorted(found.items()):
            say(f"    {kind}: {len(sizes)} objects of {min(sizes):,} to {max(sizes):,} bytes, {sum(sizes):,} in all")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--cilium", type=Path, help="Cilium's operator, where it is built already")
    parser.add_argument("--no-cilium", action="store_true", help="leave Cilium's operator out")
    given = parser.parse_args()
    program = given.cilium
    if program is None and not given.no_cilium:
        program = go_build(HERE / "cilium_operator", "github.com/cilium/cilium/operator", flags=["-tags=ipam_provider_operator"])
    say(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, ScratchControlPlane(Path(folder)) as plane:
        os.environ["KUBECONFIG"] = str(plane.kubeconfig)
        bench = Bench(plane)
        if program is not None:
            bench.cilium_definitions(program)
        for line in install(bench.transport):
            say(f"    {line}")
        for count in given.nodes:
            raw = bench.raw(count)
            bench.tell(f"raw patches, {count:,} nodes, {THREADS} threads", raw, f"{count / raw:,.0f}/s")
            bench.ours(count, raw, rest=count == max(given.nodes))
            bench.half(count)
        if program is not None:
            for name, flags in (("default limits", []), ("unthrottled", ["--k8s-client-qps=10000", "--k8s-client-burst=10000"])):
                bench.cilium(program, min(1000, max(given.nodes)), name, flags)
        bench.clear()
        bench.transport.close()


if __name__ == "__main__":
    main()
