"""Events (`events.k8s.io/v1`): what `kubectl describe` shows below a node or a pool.

The operator says again in every round what still stands. Here that becomes at most one Event for an object and reason: its name
follows from both, so that a restarted operator, or a second one, finds the Event that is there. Said again, its series is counted up,
and written at the most every `REFRESH` seconds; with other words it is written anew, since the server lets nobody change the words of
an Event. A budget bounds how many go out: at 5,000 waiting nodes the reason stands on each node anyway.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from threading import Lock
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ciliumipam.errors import ConflictError, NotFoundError
from ciliumipam.kubernetes.api import Api, Resource
from ciliumipam.kubernetes.reporter import Subject

EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event")
CONTROLLER: Final = "ciliumipam.io/operator"
REFRESH: Final = 1800.0
"""Seconds after which an Event that still stands is written again; the server forgets Events after an hour."""
MAX_NOTE: Final = 1024
"""The longest note that the server takes, in bytes."""
_REMEMBERED: Final = 20_000

Severity: TypeAlias = Literal["Normal", "Warning"]


class Said(NamedTuple):
    """One thing to be said of an object.

    Attributes:
        subject: The object.
        severity: Normal or Warning.
        reason: One word for programs.
        action: What the operator did or tried, one word.
        note: A sentence for people.
        about: What tells several things of one object and reason apart, as a CIDR.
    """

    subject: Subject
    severity: Severity
    reason: str
    action: str
    note: str
    about: str = ""

    @property
    def name(self) -> str:
        """The name of the Event: one for each object, reason and what it is about."""
        subject = self.subject
        parts = (subject.kind, subject.namespace, subject.name, subject.uid, self.reason, self.about)
        digest = sha256("\0".join(parts).encode()).hexdigest()
        return f"{subject.name[:220].rstrip('.-')}.{digest[:16]}"


@dataclass(slots=True)
class _Known:
    """What was written of an Event, and how often it was said."""

    note: str
    count: int
    written_at: float


class EventQueue:
    """Takes what is said, at once, and writes it when asked to. `say` from any thread, `write` from one.

    Args:
        api: The cluster.
        instance: Who says it, as the name of a pod.
        clock: A monotonic clock.
        wall: The time of day.
        rate: Events a second that may go out in the long run.
        burst: How many may go out at once.
    """

    def __init__(
        self,
        api: Api,
        instance: str,
        *,
        clock: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        rate: float = 5.0,
        burst: int = 100,
    ) -> None:
        self._api, self._instance, self._clock, self._wall = api, instance[:128], clock, wall
        self._rate, self._burst, self._budget, self._filled_at = rate, burst, float(burst), clock()
        self._lock = Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._due: OrderedDict[str, Said] = OrderedDict()
        self._left_out = 0

    @property
    def left_out(self) -> int:
        """How many were not written, since the budget was used up."""
        return self._left_out

    def say(self, said: Said) -> bool:
        """Take it. Returns whether there is anything to write."""
        said = said._replace(note=_cut(said.note))
        name, now = said.name, self._clock()
        with self._lock:
            known = self._known.get(name)
            if known is None:
                known = self._known[name] = _Known("", 0, now)
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
            self._known.move_to_end(name)
            known.count += 1
            if known.note == said.note and now < known.written_at + REFRESH:
                return False
            self._due[name] = said
            return True

    def stands(self, subject: Subject, reason: str) -> bool:
        """Whether this was said of the object, by this process, and not taken back."""
        with self._lock:
            return Said(subject, "Normal", reason, "", "").name in self._known

    def forget(self, subject: Subject, reason: str) -> None:
        """It no longer stands. The Event stays for people, until the server forgets it."""
        name = Said(subject, "Normal", reason, "", "").name
        with self._lock:
            self._known.pop(name, None)
            self._due.pop(name, None)

    def write(self) -> int:
        """Write what is due and within the budget. Returns how many were written.

        Raises:
            StoreError: The server could not be asked; what was not written is tried again.
        """
        written = 0
        while True:
            with self._lock:
                now = self._clock()
                self._budget = min(self._burst, self._budget + self._rate * (now - self._filled_at))
                self._filled_at = now
                if not self._due:
                    return written
                if self._budget < 1:
                    self._left_out += len(self._due)
                    self._due.clear()
                    return written
                self._budget -= 1
                name, said = self._due.popitem(last=False)
                known = self._known.get(name)
                count, before = (known.count, known.note) if known is not None else (1, "")
            try:
                self._put(name, said, count, before)
            except BaseException:
                with self._lock:
                    self._due.setdefault(name, said)
                raise
            with self._lock:
                if name in self._known:
                    self._known[name].note, self._known[name].written_at = said.note, now
            written += 1

    def _put(self, name: str, said: Said, count: int, before: str) -> None:
        events = EVENTS._replace(namespace=said.subject.namespace or "default")
        if before == said.note and self._count_up(events, name, count):
            return
        event = self._event(name, said, events.namespace)
        for _ in range(3):
            try:
                self._api.create(events, event)
            except ConflictError:
                found = self._api.get(events, name)
                if found is not None and found.get("note") == said.note:
                    seen = int((found.get("series") or {}).get("count") or 1)
                    if self._count_up(events, name, seen + 1):
                        return
                elif found is not None:
                    self._delete(events, found)
            else:
                return

    def _count_up(self, events: Resource, name: str, count: int) -> bool:
        """Say how often it was said; False where the Event is gone."""
        series = {"count": max(2, count), "lastObservedTime": _micro(self._wall())}
        try:
            self._api.patch(events, name, {"series": series})
        except NotFoundError:
            return False
        return True

    def _delete(self, events: Resource, found: dict[str, Any]) -> None:
        try:
            self._api.delete(events, found["metadata"]["name"], uid=found["metadata"]["uid"])
        except ConflictError:
            return  # somebody else did

    def _event(self, name: str, said: Said, namespace: str) -> dict[str, Any]:
        subject = said.subject
        regarding = {
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "name": subject.name,
            **({"uid": subject.uid} if subject.uid else {}),
            **({"namespace": subject.namespace} if subject.namespace else {}),
        }
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": _micro(self._wall()),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": said.action,
            "reason": said.reason,
            "regarding": regarding,
            "note": said.note,
            "type": said.severity,
        }


def _cut(note: str) -> str:
    """The note, as long as the server takes it."""
    octets = note.encode()
    return note if len(octets) <= MAX_NOTE else octets[: MAX_NOTE - 3].decode(errors="ignore") + "..."


def _micro(wall: datetime) -> str:
    """A time as Kubernetes' MicroTime."""
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
