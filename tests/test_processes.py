"""Real processes on one SQLite file, killed at any moment: what they were told is so, and what they left behind can be finished.

Run as a program this file is a worker: it allocates and releases until it is killed, and writes a line before and after each call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ciliumipam import Ipam, Node, NodeSelector, PoolSpec, SqliteStore, Store
from ciliumipam.audit import audit
from ciliumipam.errors import NodeExhaustedError, NotFoundError, RetriesExhaustedError
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.store import Expect, Listing

ROOT = Path(__file__).parent.parent
NODES = ("node-1", "node-2", "node-3")
WORKERS = 5
OPERATIONS = 2100
KILLS = 10


class OneByOne:
    """A store that cannot do several puts in one go, so that a process can be killed between any two of them."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def get(self, key: Key) -> Entry | None:
        return self._inner.get(key)

    def scan(self, kind: Kind) -> Listing:
        return self._inner.scan(kind)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        return self._inner.put(key, record, expect=expect)

    def delete(self, key: Key, *, expect: Revision) -> None:
        self._inner.delete(key, expect=expect)

    def close(self) -> None:
        self._inner.close()


# ------------------------------------------------------------------------------------------------------ the worker


def work(path: str, name: str, seed: int, inherited: list[tuple[str, str]]) -> None:
    """Allocate and release until killed."""
    random = Random(seed)
    store: Store = SqliteStore(path)
    ipam = Ipam(OneByOne(store) if seed % 2 else store)
    live = inherited
    numbers = iter(range(10**9))
    for node, owner in list(live):
        _allocate(ipam, node, [owner])
    while True:
        node = random.choice(NODES)
        mine = [owner for where, owner in live if where == node]
        act = random.randrange(10)
        if len(live) > 12 or act < 2:
            owners = random.sample(mine, min(len(mine), random.choice((1, 1, 3))))
            if owners:
                _release(ipam, node, owners)
                live = [pod for pod in live if pod not in {(node, owner) for owner in owners}]
        elif act == 2:
            _allocate(ipam, node, [f"shared-{random.randrange(6)}"])
        elif act == 3 and mine:
            _allocate(ipam, node, [random.choice(mine)])
        else:
            owners = [f"{name}-{next(numbers)}" for _ in range(random.choice((1, 1, 1, 3)))]
            if _allocate(ipam, node, owners):
                live += [(node, owner) for owner in owners]


def _say(kind: str, node: str, owners: list[str], *told: Any) -> None:
    os.write(1, (json.dumps([kind, time.monotonic_ns(), node, owners, *told]) + "\n").encode())


def _allocate(ipam: Ipam, node: str, owners: list[str]) -> bool:
    _say("allocate", node, owners)
    while True:
        with suppress(RetriesExhaustedError):
            try:
                given = ipam.allocate(node, *owners)
            except NodeExhaustedError:
                _say("refused", node, owners)
                return False
            _say("allocated", node, owners, [(each.owner, str(each.address), each.fence) for each in given])
            return True


def _release(ipam: Ipam, node: str, owners: list[str]) -> None:
    _say("release", node, owners)
    first = True
    while True:
        with suppress(RetriesExhaustedError):
            taken = ipam.release(node, *owners, missing_ok=True)
            _say("released", node, owners, [(each.owner, str(each.address), each.fence) for each in taken] if first else None)
            return
        first = False


# ------------------------------------------------------------------------------------------------------- the judge


class Stay(NamedTuple):
    """One owner's time with one address, as far as callers know: at least from `since` to `until`, in nanoseconds."""

    since: int
    until: int
    fence: int
    node: str
    owner: str


class Judge:
    """What the lines say. Those of one owner come in order; only shared owners have several workers, which never release them."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.held: dict[tuple[str, str], set[tuple[str, int]]] = {}
        self.unsure: set[tuple[str, str]] = set()
        self.stays: dict[str, list[Stay]] = {}
        self._since: dict[tuple[str, str, str, int], int] = {}
        self._new: set[tuple[str, str]] = set()
        self._ending: dict[tuple[str, str], set[tuple[str, int]]] = {}

    def hear(self, line: str) -> None:
        """Take over one line of a worker."""
        kind, now, node, owners, *told = json.loads(line)
        pods = [(node, owner) for owner in owners]
        if kind == "allocate":
            new = {pod for pod in pods if pod not in self.held and pod not in self.unsure}
            self._new |= {pod for pod in new if not pod[1].startswith("shared")}
            self.unsure |= new
            return
        if kind == "release":
            for pod in pods:
                self._end(pod, now)
            return
        self.acknowledged += 1
        if kind == "refused":
            self.unsure -= self._new.intersection(pods)
        elif kind == "allocated":
            for pod in pods:
                given = _of(pod, told[0])
                assert len(given) == 2, f"{pod} was given {given}"
                assert self.held.get(pod, given) == given, f"{pod} had {self.held[pod]} and was told {given}"
                if pod not in self.held:
                    self._since.update({(*pod, *each): now for each in given})
                self.held[pod] = given
            self.unsure.difference_update(pods)
        else:
            for pod in pods:
                certain = self._ending.pop(pod, None)
                assert told[0] is None or certain in (None, _of(pod, told[0])), f"{pod} had {certain} and was told {told[0]}"
            self.unsure.difference_update(pods)
        self._new.difference_update(pods)

    def _end(self, pod: tuple[str, str], now: int) -> None:
        self.unsure.add(pod)
        self._ending.pop(pod, None)
        if pod in self.held:
            self._ending[pod] = self.held[pod]
        for address, fence in self.held.pop(pod, ()):
            since = self._since[(*pod, address, fence)]
            self.stays.setdefault(address, []).append(Stay(since, now, fence, *pod))

    def end(self) -> None:
        """Assert that no address was with two owners at any time, and that fences grew."""
        for pod in list(self.held):
            for address, fence in self.held[pod]:
                since = self._since[(*pod, address, fence)]
                self.stays.setdefault(address, []).append(Stay(since, sys.maxsize, fence, *pod))
        for address, stays in self.stays.items():
            stays.sort()
            for earlier, later in pairwise(stays):
                assert earlier.until < later.since, f"{address} was with two: {earlier} and {later}"
                assert earlier.fence < later.fence or earlier[2:] == later[2:], f"{address}: the fence did not grow: {earlier} and {later}"


def _of(pod: tuple[str, str], told: list[tuple[str, str, int]]) -> set[tuple[str, int]]:
    return {(address, fence) for owner, address, fence in told if owner == pod[1]}


class Worker:
    """A process that works until it is killed."""

    def __init__(self, path: Path, number: int, seed: int, inherited: list[tuple[str, str]]) -> None:
        command = [sys.executable, __file__, str(path), f"w{number}", str(seed), json.dumps(inherited)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.name = f"w{number}"
        self.errors = path.parent / f"{self.name}.err"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        self.pods = {*inherited}

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            _, _, node, owners, *_ = json.loads(line)
            self.pods.update((node, owner) for owner in owners if not owner.startswith("shared"))
            yield line

    def kill(self) -> list[str]:
        """End it, wherever it is. Returns the lines that were not read yet."""
        self.process.kill()
        rest = list(self.lines())
        assert self.process.wait() == -9, self.errors.read_text()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return rest


def test_what_processes_were_told_survives_that_others_are_killed_at_any_moment(tmp_path: Path) -> None:
    random = Random(20)
    path = tmp_path / "ipam.db"
    ipam = Ipam(SqliteStore(path))
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/22", "fd00::/118"], selector=NodeSelector.everything(), block_length_v4=27)
    ipam.apply([pool], [Node(name) for name in NODES])
    judge = Judge()
    started = iter(range(10**6))
    workers = [Worker(path, next(started), seed, []) for seed in range(WORKERS)]
    kills = 0
    try:
        while judge.acknowledged < OPERATIONS or kills < KILLS:
            at = random.randrange(WORKERS)
            for _, line in zip(range(random.randint(1, 160)), workers[at].lines(), strict=False):
                judge.hear(line)
            if random.random() < 0.5:
                for line in workers[at].kill():
                    judge.hear(line)
                kills += 1
                left = sorted(pod for pod in workers[at].pods if pod in judge.held or pod in judge.unsure)
                workers[at] = Worker(path, next(started), at + WORKERS * kills, left)
    finally:
        rests = [worker.kill() for worker in workers]
    for rest in rests:
        for line in rest:
            judge.hear(line)

    # nothing is lost, nothing is there that nobody asked for, and nobody was told what another one was told
    judge.end()
    ipam.refresh()
    found: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for each in ipam.allocations():
        found.setdefault((each.node, each.owner), set()).add((str(each.address), each.fence))
    assert {pod: found.get(pod) for pod in judge.held} == judge.held
    assert set(found) <= set(judge.held) | judge.unsure
    assert not [finding for finding in audit(SqliteStore(path)).findings if finding.severity == "error"]

    # what is unfinished is finished as documented: by the owner's next allocation, or by a release
    for node, owner in sorted(judge.unsure):
        if random.random() < 0.5:
            with suppress(NodeExhaustedError):
                ipam.allocate(node, owner)
        else:
            with suppress(NotFoundError):
                ipam.release(node, owner)
    assert audit(SqliteStore(path)).findings == ()
    ipam.check_invariants()


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]), [(node, owner) for node, owner in json.loads(sys.argv[4])])
