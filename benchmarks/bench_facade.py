"""The facade: allocate + release through `Ipam`, rollouts of thousands of nodes, restore, memory, import.

A pair is one `allocate` and one `release` of one owner, each decided, written and told. What stays in memory is measured in CPU
time, the best of many short batches, so that a busy machine disturbs it little. On SQLite the disk is most of it, so the clock
counts: our calls and bare commits of the same bytes take turns, and the medians are compared. A pair makes two commits and stands
against two bare ones.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from threading import Thread
from time import perf_counter, process_time

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore, Store
from ciliumipam.codec import Codec
from ciliumipam.journal import JournaledIpam
from ciliumipam.journal.replay import replay
from ciliumipam.records import Kind

Row = tuple[str, float, str]

LENGTHS = (24, 25, 26, 28)
AT_ONCE = 250


def everything(name: str, cidr: str, length: int | None = None) -> PoolSpec:
    v4, v6 = (length, None) if ":" not in cidr else (None, length)
    spec = PoolSpec(name=name, cidrs=[cidr], selector=NodeSelector.everything(), block_length_v4=v4, block_length_v6=v6)
    assert spec.families
    return spec


def filled(store: Store, nodes: int, held: int, length: int = 24) -> Ipam:
    """So many addresses held, the same number on every node."""
    ipam = Ipam(store)
    ipam.apply([everything("all", "10.0.0.0/8", length)], [Node(f"node-{number}") for number in range(nodes)])
    for number in range(nodes):
        for first in range(0, held // nodes, AT_ONCE):
            last = min(first + AT_ONCE, held // nodes)
            ipam.allocate(f"node-{number}", *(f"cbr0/{number}-{each}/eth0" for each in range(first, last)))
    return ipam


def pair(ipam: Ipam, batches: int, batch: int = 50) -> float:
    """Microseconds of one pair on the first node, in the best batch."""
    owners = [f"cbr0/pair-{number}/eth0" for number in range(batch)]
    best = float("inf")
    for _ in range(batches):
        begin = process_time()
        for owner in owners:
            ipam.allocate("node-0", owner, label="default/web-0")
            ipam.release("node-0", owner)
        best = min(best, process_time() - begin)
    return best / batch * 1e6


def memory_rows(quick: bool) -> list[Row]:  # noqa: FBT001 - every caller passes run()'s own flag on
    batches = 20 if quick else 200
    rows = []
    for held, nodes in ((0, 1), (1_000, 8), (10_000, 50), (100_000, 500)):
        if quick and held > 10_000:
            continue
        ipam = filled(MemoryStore(), nodes, held)
        rows.append((f"memory: pair, {held:,} held on {nodes} nodes with a /24", pair(ipam, batches), "µs"))
        if held == 100_000:
            rows += [restore_row(ipam)]
    for held in (1_000, 10_000) if quick else (1_000, 10_000, 100_000):
        rows.append((f"memory: pair, {held:,} held in one /14", pair(filled(MemoryStore(), 1, held, 14), batches), "µs"))
    return rows


def restore_row(ipam: Ipam) -> Row:
    """Reading everything, and what `allocate` builds out of it when it first needs it."""
    begin = process_time()
    ipam.refresh()
    held = len(ipam.allocations())
    return (f"memory: restore and list {held:,} allocations", process_time() - begin, "s")


class Bare:
    """One row of the same size, committed without anything of ours."""

    def __init__(self, path: Path, size: int) -> None:
        self.texts = ["a" * size, "b" * size]
        self.connection = sqlite3.connect(path, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE bare (name TEXT PRIMARY KEY, body TEXT)",
            "INSERT INTO bare VALUES ('a', '')",
        ):
            self.connection.execute(statement)

    def commit(self) -> None:
        self.texts.reverse()
        self.connection.execute("UPDATE bare SET body = ? WHERE name = 'a'", (self.texts[0],))


def written_by_one(store: Store) -> int:
    """Bytes of one page of addresses and one claim page, as they are stored, the largest of each."""
    kinds: tuple[Kind, ...] = ("address-page", "address-claims")
    codec = Codec()
    return sum(max(len(codec.encode(key, entry.record)) for key, entry in store.scan(kind).entries) for kind in kinds)


def sqlite_rows(quick: bool) -> list[Row]:  # noqa: FBT001 - every caller passes run()'s own flag on
    rows: list[Row] = []
    rounds = 20 if quick else 300
    for held, nodes in ((100, 1), (10_000, 100)):
        with tempfile.TemporaryDirectory() as name, SqliteStore(Path(name) / "ipam.db") as store:
            ipam = filled(store, nodes, held)
            bare = Bare(Path(name) / "bare.db", written_by_one(store))

            def ours(ipam: Ipam = ipam) -> None:
                ipam.allocate("node-0", "cbr0/pair/eth0", label="default/web-0")
                ipam.release("node-0", "cbr0/pair/eth0")

            def theirs(bare: Bare = bare) -> None:
                bare.commit()
                bare.commit()

            pair_cost, bare_cost = in_turns((ours, theirs), rounds)
            bare.connection.close()
        where = f"{held:,} held on {nodes} nodes"
        rows += [
            (f"sqlite: pair, {where}", pair_cost, "µs"),
            (f"bare: two commits of the same bytes, {where}", bare_cost, "µs"),
            (f"sqlite pair ÷ two bare commits, {where}", pair_cost / bare_cost, "x"),
        ]
    return rows


def journal_rows(quick: bool) -> list[Row]:  # noqa: FBT001 - every caller passes run()'s own flag on
    """What a journal costs: the same pair with and without, and the bytes of its two lines."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "journal"
        store = MemoryStore()
        ipam = filled(store, 50, 10_000)
        kept = JournaledIpam(store, journal=file)
        kept.refresh()
        first = file.stat().st_size
        batches = 20 if quick else 200
        pair(kept, 1, 1)
        before = file.stat().st_size
        spent = pair(kept, batches)
        size = (file.stat().st_size - before) / batches / 50
        rows = [
            ("memory: pair with a journal, 10,000 held on 50 nodes with a /24", spent, "µs"),
            ("memory: what the journal adds to a pair", spent - pair(ipam, batches), "µs"),
            ("journal: bytes of a pair", size, "bytes"),
            ("journal: bytes of the first reads, per allocation held", first / 10_000, "bytes"),
        ]
        kept.close_journal()
        begin = process_time()
        assert replay(str(file)).divergence is None
        rows.append(("replay: a pair", (process_time() - begin) / batches / 50 * 1e6, "µs"))
        with SqliteStore(Path(name) / "ipam.db") as database:
            ipam = filled(database, 1, 100)
            kept = JournaledIpam(database, journal=file)

            def work(ipam: Ipam) -> None:
                ipam.allocate("node-0", "cbr0/pair/eth0", label="default/web-0")
                ipam.release("node-0", "cbr0/pair/eth0")

            with_one, without = in_turns((lambda: work(kept), lambda: work(ipam)), 20 if quick else 300)
            kept.close_journal()
        return [*rows, ("sqlite: pair with a journal ÷ pair without, 100 held", with_one / without, "x")]


def in_turns(works: tuple[Callable[[], None], ...], rounds: int) -> list[float]:
    """Median microseconds of each work, done in turn."""
    spent: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for times, work in zip(spent, works, strict=True):
            begin = perf_counter()
            work()
            times.append(perf_counter() - begin)
    return [median(times) * 1e6 for times in spent]


def thread_rows(quick: bool, threads: int = 8) -> list[Row]:  # noqa: FBT001 - every caller passes run()'s own flag on
    pairs = 10 if quick else 150
    rates = []
    for workers in (1, threads):
        with tempfile.TemporaryDirectory() as name, SqliteStore(Path(name) / "ipam.db") as store:
            ipam = filled(store, 1, 0)
            ipam.allocate("node-0", "first")

            def work(number: int, ipam: Ipam = ipam) -> None:
                for _ in range(pairs):
                    ipam.allocate("node-0", f"cbr0/{number}/eth0")
                    ipam.release("node-0", f"cbr0/{number}/eth0")

            running = [Thread(target=work, args=(number,)) for number in range(workers)]
            begin = perf_counter()
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            rates.append(2 * workers * pairs / (perf_counter() - begin))
    return [
        ("sqlite: 1 thread", rates[0], "ops/s"),
        (f"sqlite: {threads} threads, sharing commits", rates[1], "ops/s"),
        (f"sqlite: {threads} threads ÷ 1 thread", rates[1] / rates[0], "x"),
    ]


def rollout(nodes: int, length: int) -> tuple[float, float]:
    """Seconds until so many nodes have a block each out of 8 pools, and seconds until another process knows it all."""
    pools = [
        PoolSpec(
            name=f"pool-{number}",
            cidrs=[f"10.{32 * number}.0.0/11"],
            selector=NodeSelector.from_label_selector({"matchLabels": {"rack": str(number)}}),
            block_length_v4=length,
        )
        for number in range(8)
    ]
    known = [Node(f"node-{number}", {"rack": str(number % 8)}) for number in range(nodes)]
    store = MemoryStore()
    ipam = Ipam(store)
    begin = process_time()
    ipam.apply(pools, known)
    applied = process_time()
    Ipam(store).refresh()
    restored = process_time()
    assert len(store.scan("node").entries) == nodes
    return applied - begin, restored - applied


def rollout_rows(quick: bool) -> list[Row]:  # noqa: FBT001 - every caller passes run()'s own flag on
    rows: list[Row] = []
    for length in LENGTHS:
        best = min(rollout(5_000, length)[0] for _ in range(1 if quick else 5))
        rows.append((f"memory: 5,000 nodes, 8 pools, a /{length} each", best * 1e3, "ms"))
    if not quick:
        applied, restored = rollout(1_000, 28)
        rows.append(("memory: a node of 1,000, decide, record, restore", (applied + restored) / 1_000 * 1e6, "µs"))
        applied, restored = rollout(100_000, 28)
        rows += [
            ("memory: 100,000 nodes, decide, record, restore", applied + restored, "s"),
            ("memory: a node of 100,000, decide, record, restore", (applied + restored) / 100_000 * 1e6, "µs"),
            ("largest resident size so far", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB"),
        ]
    return rows


def bytes_per_allocation(nodes: int) -> float:
    """What one more allocation keeps in memory, in the store and in the facade together, its owner's text not counted."""
    ipam = filled(MemoryStore(), nodes, nodes)
    owners = [[f"cbr0/{number}+{each}/eth0" for each in range(AT_ONCE)] for number in range(nodes)]
    tracemalloc.start()
    for number in range(nodes):
        ipam.allocate(f"node-{number}", *owners[number])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / (nodes * AT_ONCE)


def first_of_a_64(nodes: int) -> list[Row]:
    """The first address of blocks that nobody has used yet."""
    store = MemoryStore()
    ipam = Ipam(store)
    ipam.apply([everything("six", "fd00::/48")], [Node(f"node-{number}") for number in range(nodes)])
    before = len(store.scan("address-page").entries)
    spent = []
    for number in range(nodes):
        begin = process_time()
        ipam.allocate(f"node-{number}", "first")
        spent.append(process_time() - begin)
    pages = (len(store.scan("address-page").entries) - before) / nodes
    return [
        ("memory: first address of an untouched /64", median(spent) * 1e6, "µs"),
        ("pages kept for a /64 before its first address", float(before), "pages"),
        ("pages written for the first address of a /64", pages, "pages"),
    ]


def import_row(rounds: int) -> Row:
    """CPU time of the best interpreter that imports the library, over that of the best one that does not."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        best = {}
        for code in ("pass", "import ciliumipam"):
            spent = []
            for _ in range(rounds + 1):  # the first one compiles
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[1])
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            best[code] = min(spent[1:])
    return ("import ciliumipam, over a bare interpreter", (best["import ciliumipam"] - best["pass"]) * 1e3, "ms")


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002 - all benchmarks here have this signature
    """(label, value, unit) of every measurement."""
    return [
        *memory_rows(quick),
        *sqlite_rows(quick),
        *thread_rows(quick),
        *journal_rows(quick),
        *rollout_rows(quick),
        ("memory per allocation, 250 a node, owner's text not counted", bytes_per_allocation(4 if quick else 40), "bytes"),
        *first_of_a_64(20 if quick else 200),
        import_row(3 if quick else 15),
    ]


if __name__ == "__main__":
    for label, value, unit in run(quick="--quick" in sys.argv[1:]):
        print(f"{label:<64} {value:>12.2f} {unit}")
