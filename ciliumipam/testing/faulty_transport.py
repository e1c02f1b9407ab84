"""`FaultyTransport`: requests that are lost, answers that are lost, answers that never were the server's, in front of a real server.

    faulty = FaultyTransport(connect())
    with faulty.playing(Fault.LOST):          # the next write is executed, and its answer is lost
        store.put(...)

A fault befalls writes only, unless it is said to befall reads as well; what is not befallen goes through. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from threading import Lock, Thread
from typing import Any

from ciliumipam.kubernetes.transport import NO_QUERY, Response, Stream, Transport, TransportError


class Fault(Enum):
    """What becomes of a request."""

    UNSENT = "unsent"
    """It is not sent, and that is known."""
    VANISHED = "vanished"
    """It is not sent, and nobody knows."""
    LOST = "lost"
    """It is executed, and its answer is lost."""
    LATE = "late"
    """Its answer is lost, and it is executed some time later, in a thread."""
    BROKEN = "broken"
    """It is executed, and something in between answers 502."""
    TIMED_OUT = "timed out"
    """It is executed, and the server says 504, as it does when etcd was too slow to tell."""
    SHED = "shed"
    """It is not executed: the flow control of the server answers 429."""
    AWAY = "away"
    """It is not executed: something in between answers 503 with Retry-After."""


_ANSWERS = {
    Fault.BROKEN: Response(502, {"content-type": "text/html"}, "<html>Bad Gateway</html>"),
    Fault.TIMED_OUT: Response(504, {"retry-after": "1"}, {"kind": "Status", "reason": "Timeout", "message": "etcdserver: request timed out"}),
    Fault.SHED: Response(429, {"retry-after": "1"}, {"kind": "Status", "reason": "TooManyRequests", "message": "too many requests"}),
    Fault.AWAY: Response(503, {"retry-after": "1"}, "no healthy upstream"),
}
_EXECUTED = (Fault.LOST, Fault.BROKEN, Fault.TIMED_OUT)


class FaultyTransport:
    """Another transport, with faults.

    Attributes:
        asked: Method and path of each request so far, in order.
        befallen: How many requests a fault has befallen.
    """

    def __init__(self, inner: Transport) -> None:
        """Without faults so far."""
        self._inner = inner
        self._lock = Lock()
        self._next: Callable[[str], Fault | None] = lambda _: None
        self._late: list[Thread] = []
        self.asked: list[tuple[str, str]] = []
        self.befallen = 0

    @contextmanager
    def playing(self, *faults: Fault, reads: bool = False, ever: bool = False) -> Iterator[FaultyTransport]:
        """These faults befall the next requests, one each in this order; the last one every further one too, if `ever`."""
        left = list(faults)

        def take(method: str) -> Fault | None:
            if (method == "GET" and not reads) or not left:
                return None
            return left[0] if ever and len(left) == 1 else left.pop(0)

        with self._lock:
            self._next = take
        try:
            yield self
        finally:
            with self._lock:
                self._next = lambda _: None
                late, self._late = self._late, []
            for thread in late:
                thread.join()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: object = None,
        content_type: str = "application/json",
        timeout: float = 30.0,
    ) -> Response:
        """Ask, or not."""

        def ask() -> Response:
            return self._inner.request(method, path, query=query, body=body, content_type=content_type, timeout=timeout)

        with self._lock:
            self.asked.append((method, path))
            fault = self._next(method)
            self.befallen += fault is not None
        if fault is None:
            return ask()
        if fault in _EXECUTED:
            ask()
        if fault is Fault.LATE:
            self._later(ask)
        if fault in _ANSWERS:
            return _ANSWERS[fault]
        raise TransportError(f"the request was {fault.value}", fault is not Fault.UNSENT)

    def _later(self, ask: Callable[[], Any]) -> None:
        def run() -> None:
            with suppress(TransportError):
                ask()

        thread = Thread(target=run)
        with self._lock:
            self._late.append(thread)
        thread.start()

    def stream(self, path: str, *, query: Mapping[str, str] = NO_QUERY, timeout: float) -> Stream:
        """GET an answer line by line."""
        with self._lock:
            self.asked.append(("WATCH", path))
        return self._inner.stream(path, query=query, timeout=timeout)

    def close(self) -> None:
        """Close the inner one."""
        self._inner.close()


__all__ = ["Fault", "FaultyTransport"]
