"""`ClusterReporter` tells people: by Events on nodes and pools, and by the status of CIDRPools.

The operator never waits for them: what is to be written is taken at once, the latest word of each object counts, and one thread
writes it. What has not changed is not written, so a cluster at rest sees no write.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from typing import Any, Final, NamedTuple

from ciliumipam.errors import ConflictError, IpamError
from ciliumipam.kubernetes.api import Api, Resource
from ciliumipam.kubernetes.conditions import status_of
from ciliumipam.kubernetes.events import EventQueue, Said, Severity
from ciliumipam.kubernetes.reporter import Reporter, Subject, subject_of
from ciliumipam.manifest import API_VERSION
from ciliumipam.requests import PoolStatus

POOLS: Final = Resource("ciliumipam.io", "v1alpha1", "cidrpools", "CIDRPool")
LOG: Final = logging.getLogger("ciliumipam.operator")
PACE: Final = 1.0
"""Seconds between two writes of one object at the least: of many rounds in a row the last one counts."""
_TRIES: Final = 4
_LONGEST_PAUSE: Final = 30.0


class _Due(NamedTuple):
    """What is to be said of a pool: its object as it was read, what became of it, or why it cannot be used."""

    manifest: Mapping[str, Any]
    pool: PoolStatus | None
    broken: str

    def status(self, manifest: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        """The status that an object should have."""
        generation = self.manifest.get("metadata", {}).get("generation", 0)
        return status_of(self.pool, generation, manifest.get("status"), now, self.broken)


class ClusterReporter(Reporter):
    """Writes Events, and what became of CIDRPools into their status. Thread-safe.

    Pools of other kinds have no status of ours, so Events tell of them. `start` begins a thread, `close` ends it.

    Args:
        api: The cluster.
        instance: Who says it, as the name of a pod.
        clock: A monotonic clock.
        wall: The time of day.
        pace: Seconds between two writes of one object at the least.
    """

    def __init__(
        self,
        api: Api,
        instance: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        pace: float = PACE,
    ) -> None:
        self._api, self._wall, self._pace = api, wall, pace
        self._events = EventQueue(api, instance, clock=clock, wall=wall)
        self._lock = Lock()
        self._due: dict[str, _Due] = {}
        self._broken: dict[tuple[str, str, str], str] = {}
        self._has_work, self._stops = Event(), Event()
        self._thread: Thread | None = None

    # ------------------------------------------------------------------------------------------------- being told

    def node_waits(self, node: Subject, reason: str) -> None:
        """A Warning on the node object."""
        self._say(node, "Warning", "Waiting", "Allocate", f"It waits for a block: {reason}")

    def block_given(self, node: Subject, blocks: Sequence[str]) -> None:
        """Nothing, which is what nodes see that never waited; to one that did, that it is over."""
        if self._events.stands(node, "Waiting"):
            self._events.forget(node, "Waiting")
            self._say(node, "Normal", "Served", "Allocate", f"It has {', '.join(blocks)} now")

    def conflict(self, node: Subject, block: str, reason: str) -> None:
        """A Warning on the node object."""
        self._say(node, "Warning", "Conflict", "Adopt", f"{block} cannot be its block: {reason}", block)

    def orphaned(self, node: Subject, blocks: Sequence[str], pool: str) -> None:
        """A Warning on the node object."""
        what = f"pool {pool} is gone or no longer covers {', '.join(blocks)}"
        self._say(node, "Warning", "Orphaned", "Read", f"{what}: the node keeps what it has, and nobody else gets it until the node goes", pool)

    def pool_broken(self, pool: Mapping[str, Any], reason: str) -> None:
        """A Warning on the pool object; on a CIDRPool its conditions besides."""
        subject = subject_of(pool)
        with self._lock:
            self._broken[(subject.kind, subject.namespace, subject.name)] = reason
        self._say(subject, "Warning", "Invalid", "Read", f"It cannot be used as a pool: {reason}")

    def pools(self, objects: Iterable[Mapping[str, Any]], statuses: Iterable[PoolStatus]) -> None:
        """Conditions and counts of CIDRPools, Events of others."""
        known = {each.spec.name: each for each in statuses}
        with self._lock:
            broken, self._broken = self._broken, {}
        now = self._wall()
        for manifest in objects:
            subject = subject_of(manifest)
            why = broken.get((subject.kind, subject.namespace, subject.name), "")
            pool = None if why else known.get(subject.name)
            if subject.api_version == API_VERSION and subject.kind == "CIDRPool":
                due = _Due(manifest, pool, why)
                if (pool is not None or why) and due.status(manifest, now) != manifest.get("status"):
                    with self._lock:
                        self._due[subject.name] = due
                    self._has_work.set()
            elif pool is not None and pool.conflicting is not None:
                what = f"It overlaps the older pool {pool.conflicting!r}, so it gives nothing to anybody: change the CIDRs of one of the two"
                self._say(subject, "Warning", "Conflicting", "Read", what)

    # ------------------------------------------------------------------------------------------------- writing

    def start(self) -> None:
        """Begin to write, in a thread of its own."""
        self._thread = Thread(target=self._run, name="ciliumipam-report", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is due, once, and end."""
        self._stops.set()
        self._has_work.set()
        if self._thread is not None:
            self._thread.join()

    def flush(self) -> None:
        """Write everything that is due.

        Raises:
            IpamError: The API server could not be asked, or refuses. What is left is due still.
        """
        failed: IpamError | None = None
        with self._lock:
            due, self._due = self._due, {}
        for name, each in due.items():
            try:
                self._write(name, each)
            except IpamError as error:  # one object that cannot be written must not stop the others
                failed = error
                with self._lock:
                    self._due.setdefault(name, each)
        self._events.write()
        if failed is not None:
            raise failed

    def _run(self) -> None:
        pause, told = self._pace, ""
        while True:
            self._has_work.wait()
            self._has_work.clear()
            try:
                self.flush()
                pause, told = self._pace, ""
            except IpamError as error:
                if str(error) != told:
                    told = str(error)
                    LOG.warning("what became of pools and nodes cannot be written: %s", error)
                self._has_work.set()
                pause = min(_LONGEST_PAUSE, 2 * pause + random.random() * self._pace)  # noqa: S311 - jitter, no secret
            if self._stops.is_set() or (self._stops.wait(pause) and not self._has_work.is_set()):
                return

    def _say(self, subject: Subject, severity: Severity, reason: str, action: str, note: str, about: str = "") -> None:
        if self._events.say(Said(subject, severity, reason, action, note, about)):
            self._has_work.set()

    def _write(self, name: str, due: _Due) -> None:
        manifest: Mapping[str, Any] | None = due.manifest
        for _ in range(_TRIES):
            if manifest is None or manifest["metadata"].get("uid") != due.manifest["metadata"].get("uid"):
                return  # it is gone, or another one of that name
            if manifest["metadata"].get("generation") != due.manifest["metadata"].get("generation"):
                return  # what is to be said was decided over an older spec; the next round decides over this one
            status = due.status(manifest, self._wall())
            if status == manifest.get("status"):
                return
            try:
                self._api.replace(POOLS, {**manifest, "status": status}, "status")
            except ConflictError:
                manifest = self._api.get(POOLS, name)
            else:
                return
        raise ConflictError(f"CIDRPool {name}", "the status that was read", "another one every time")
