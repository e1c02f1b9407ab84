"""Ours in one run, with the machine and the target of the design where there is one. The peers: `python -m benchmarks.peers`."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from benchmarks import bench_addresses, bench_carver, bench_demand, bench_facade, bench_selectors, bench_stores

Run = Callable[[bool], list[tuple[str, float, str]]]

RUNS: dict[str, Run] = {
    "addresses": bench_addresses.run,
    "carver": bench_carver.run,
    "selectors": bench_selectors.run,
    "stores": bench_stores.run,
    "facade": bench_facade.run,
    "demand": bench_demand.run,
}

TARGETS: dict[str, str] = {
    "core next 10.": "≤ 3",
    "core lowest 10.": "≤ 3",
    "core next 2001": "≤ 4",
    "core lowest 2001": "≤ 4",
    "node 10.": "≤ 6",
    "mixed /24 to /28, churn, 20,000": "≤ 4",
    "first /64 out of an untouched /32": "≤ 30",
    "found, 10,000 x 1,000": "≤ 100",
    "memory: pair, ": "≤ 30",
    "memory: restore and list 100,000": "≤ 1",
    "sqlite pair ÷ two bare commits": "≤ 1.5",
    "demand, 5,000 nodes: what": "≤ 200",
    "demand, 5,000 nodes: who": "≤ 200",
    "memory: 5,000 nodes": "≤ 250",
    "memory: 100,000 nodes": "≤ 8",
    "largest resident size": "≤ 1,536",
    "memory per allocation": "≤ 300",
    "pages kept for a /64": "0",
    "import ciliumipam": "≤ 50",
}
"""By the beginning of a label. In the row's unit."""


def target(label: str) -> str:
    return next((text for start, text in TARGETS.items() if label.startswith(start)), "")


def machine() -> str:
    """Processor, cores, versions and day: a figure means nothing without them."""
    model = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        lines = described.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{model}, {os.cpu_count()} cores{load}; {platform.system()}; Python {platform.python_version()};"
        f" SQLite {sqlite3.sqlite_version}; {datetime.now(UTC):%Y-%m-%d}"
    )


def main(arguments: list[str]) -> None:
    quick = "--quick" in arguments
    begin = perf_counter()
    print(machine())
    for name, run in RUNS.items():
        print(f"\n{name:<68} {'measured':>12} {'':<8} target")
        for label, value, unit in run(quick):
            print(f"{label:<68} {value:>12,.2f} {unit:<8} {target(label)}".rstrip())
    print(f"\n{perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main(sys.argv[1:])
