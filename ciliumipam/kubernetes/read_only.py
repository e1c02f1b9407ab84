"""A `Transport` that reads only, for commands that promise to change nothing: whatever they do, no write leaves this process."""

from __future__ import annotations

from collections.abc import Mapping

from ciliumipam.errors import StoreRefusedError
from ciliumipam.kubernetes.transport import NO_QUERY, Response, Stream, Transport


class ReadOnlyTransport:
    """Passes on what reads and refuses the rest.

    Args:
        transport: Who is asked.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

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
        """Ask, if it is a GET.

        Raises:
            StoreRefusedError: It is not. Nothing was sent.
        """
        if method != "GET":
            raise StoreRefusedError(f"{method} {path}", "the cluster was opened for reading only")
        return self._transport.request(method, path, query=query, body=body, content_type=content_type, timeout=timeout)

    def stream(self, path: str, *, query: Mapping[str, str] = NO_QUERY, timeout: float) -> Stream:
        """Ask."""
        return self._transport.stream(path, query=query, timeout=timeout)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()
