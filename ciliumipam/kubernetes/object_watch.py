"""A watch that goes on: over clean closes, broken connections, silence and restarts of the server, without a gap and without a hot loop.

The server ends a watch after the time that we ask for; that is normal. Before each connection the server's present revision is asked for:
a server whose etcd was restored from an older backup has lower ones, and would leave out in silence what happens until it has caught up
with ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import randint, uniform
from threading import Event as Flag
from threading import Lock
from typing import Any, Literal, NamedTuple, Self

from ciliumipam.errors import RevisionExpiredError, StoreRefusedError, StoreUnavailableError
from ciliumipam.kubernetes.answers import Call, Resource, error_of, message_of, retry_after
from ciliumipam.kubernetes.transport import Refusal, Response, Stream, TransportError

_LIVES = (240, 480)
"""Seconds after which the server shall close it, drawn for each connection: many watches do not come back at once."""
_SHORT = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_REVISION = re.compile(r"[1-9][0-9]{0,30}")


class Event(NamedTuple):
    """One change of an object. `object` is its new state, or for DELETED its last."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: dict[str, Any]


class Source(NamedTuple):
    """Where a watch reads.

    Attributes:
        resource: What it watches.
        open_at: Begins a stream after a revision, for so many seconds.
        present: Asks for the server's revision now: any listing.
        deadline: Seconds for which failures one after another are borne.
        clock: Seconds that only grow.
    """

    resource: Resource
    open_at: Callable[[str, int], Stream]
    present: Callable[[], Response]
    deadline: float
    clock: Callable[[], float]


class ObjectWatch(Iterator[Event]):
    """Changes as they come. One thread iterates, any may close it."""

    def __init__(self, source: Source, revision: str) -> None:
        """Begin after a revision; nothing is asked before the first `next`."""
        self._source, self._revision = source, revision
        self._lock = Lock()
        self._closed = Flag()
        self._stream: Stream | None = None
        self._began = 0.0
        self._idle = 0
        self._failing: float | None = None

    @property
    def revision(self) -> str:
        """Where another watch can go on; bookmarks move it as well."""
        return self._revision

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next change; ends when closed.

        Raises:
            RevisionExpiredError: List again.
            StoreUnavailableError: The server could not be reached for the deadline. Go on, or watch again from `revision`.
            StoreRefusedError: It may not be watched, or there is no such resource.
        """
        while not self._closed.is_set():
            try:
                stream = self._stream or self._open()
                line = next(stream) if stream is not None else None
            except StopIteration:
                self._drop()
                self._rest()
            except TransportError as error:
                self._drop()
                if error.permanent:
                    raise StoreRefusedError(f"watch {self._source.resource}", error.reason) from error
                self._fail(error.reason)
            else:
                event = None if line is None else self._read(line)
                if event is not None:
                    return event
        self._drop()
        raise StopIteration

    def close(self) -> None:
        """End it, also while another thread waits in it."""
        self._closed.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()

    def _open(self) -> Stream | None:
        """A stream; None where there is none yet, after a pause."""
        answer = self._source.present()
        if answer.status != 200:
            self._refused(answer)
            return None
        present, wanted = numeric(_listed(answer.body)), numeric(self._revision)
        if present is None or wanted is None or present < wanted:
            raise RevisionExpiredError(str(self._source.resource), self._revision)
        self._began = self._source.clock()
        try:
            stream = self._source.open_at(self._revision, randint(*_LIVES))  # noqa: S311 - not cryptography
        except Refusal as refusal:
            self._refused(refusal.response)
            return None
        self._failing = None
        with self._lock:
            self._stream = stream
        if self._closed.is_set():  # by a thread that saw no stream yet
            stream.close()
        return stream

    def _read(self, line: dict[str, Any]) -> Event | None:
        """The change that a line tells of; None for what is none."""
        kind, found = line.get("type"), line.get("object")
        if kind == "ERROR":
            self._drop()
            self._refused(Response(int((found or {}).get("code") or 500), {}, found))
            return None
        try:
            revision = str(found["metadata"]["resourceVersion"])  # type: ignore[index] # what it is not is told below
        except (TypeError, KeyError):
            self._drop()
            self._fail(f"the watch told what is no event: {str(line)[:200]}")
            return None
        self._revision, self._idle, self._failing = revision, 0, None
        if kind in {"ADDED", "MODIFIED", "DELETED"}:
            return Event(kind, found)  # type: ignore[arg-type] # checked by the line above
        return None

    def _refused(self, response: Response) -> None:
        call = Call("watch", self._source.resource, revision=self._revision)
        wait = retry_after(response)
        if response.status < 500 and wait is None:
            raise error_of(call, response)
        self._fail(f"{response.status} {message_of(response)}", wait or 0.0)

    def _fail(self, reason: str, wait: float = 0.0) -> None:
        """Wait for the next try, or tell that there were enough."""
        now = self._source.clock()
        self._failing = now if self._failing is None else self._failing
        if now - self._failing > self._source.deadline:
            self._failing = None
            raise StoreUnavailableError(f"watch {self._source.resource}", reason)
        self._closed.wait(wait + self._pause())

    def _rest(self) -> None:
        """Wait after a clean close: longer each time where the streams are short and tell nothing."""
        if self._source.clock() - self._began > _SHORT:
            self._idle = 0
        self._closed.wait(self._pause())

    def _pause(self) -> float:
        self._idle += 1
        return uniform(0.5, 1.0) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._idle, 10))  # noqa: S311 - not cryptography

    def _drop(self) -> None:
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _listed(body: Any) -> str:
    metadata = body.get("metadata") if isinstance(body, dict) else None
    return str(metadata.get("resourceVersion") or "") if isinstance(metadata, dict) else ""


def numeric(revision: str) -> int | None:
    """A revision as a number: since Kubernetes 1.35 (KEP-5504) they may be compared, and with etcd they always could."""
    return int(revision) if _REVISION.fullmatch(revision) else None


__all__ = ["Event", "ObjectWatch", "Source", "numeric"]
