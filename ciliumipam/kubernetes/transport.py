"""What is needed of an HTTP client to talk to an API server: raw verbs over plain values. Types only, so that any client can be adapted.

An adapter adds the server's address, credentials and TLS, and nothing else: it does not retry, does not follow what a status means, and
raises `TransportError` and nothing of its library. All of it is thread-safe but a `Stream`, which one thread reads and any may close.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, Self

NO_QUERY: Final[Mapping[str, str]] = MappingProxyType({})


class TransportError(Exception):
    """There is no answer.

    Attributes:
        reason: What happened, for people.
        unknown: The request may have reached the server, and may still take effect there. Otherwise it certainly does not.
        permanent: Trying again cannot help: a certificate that is not trusted, credentials that cannot be had.
    """

    def __init__(self, reason: str, unknown: bool, permanent: bool = False) -> None:  # noqa: FBT001, FBT002 - args must pickle by position
        super().__init__(reason, unknown, permanent)
        self.reason, self.unknown, self.permanent = reason, unknown, permanent

    def __str__(self) -> str:
        return self.reason


class Response(NamedTuple):
    """An answer, whatever its status.

    Attributes:
        status: The HTTP status.
        headers: With keys in lower case.
        body: The decoded JSON; the text where it is not JSON.
    """

    status: int
    headers: Mapping[str, str]
    body: Any


class Stream(Protocol):
    """An answer that comes line by line, each a JSON object."""

    def __iter__(self) -> Self:
        """The stream itself."""
        ...

    def __next__(self) -> dict[str, Any]:
        """The next line; waits for it. Ends when the server has closed the answer, or `close` was called.

        Raises:
            TransportError: The connection broke, nothing came for the `timeout` of the stream, or a line is not a JSON object.
        """
        ...

    def close(self) -> None:
        """End it, also while another thread waits in it. May be called more than once."""
        ...


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the transport
    """`Transport.stream` got an answer that is no stream: any status but 200."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


class Transport(Protocol):
    """Connections to one API server, with credentials."""

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
        """Ask once and wait for the answer.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            path: From the root of the server, already escaped.
            query: Parameters, not yet escaped.
            body: A value to send as JSON; None sends nothing.
            content_type: Of the body.
            timeout: Seconds to wait for a connection, and again for each part of the answer.

        Raises:
            TransportError: No answer came.
        """
        ...

    def stream(self, path: str, *, query: Mapping[str, str] = NO_QUERY, timeout: float) -> Stream:
        """GET an answer line by line.

        Args:
            path: As in `request`.
            query: As in `request`.
            timeout: Seconds of silence after which it is given up.

        Raises:
            Refusal: The server answered with another status than 200.
            TransportError: No answer came.
        """
        ...

    def close(self) -> None:
        """Close all connections; every later call raises `TransportError`."""
        ...


__all__ = ["NO_QUERY", "Refusal", "Response", "Stream", "Transport", "TransportError"]
