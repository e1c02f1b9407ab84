"""The endpoints that a kubelet and a Prometheus ask: `/healthz`, `/readyz`, `/metrics`.

* `/healthz`: 200 while everything that should run runs. Anything else means: restart me.
* `/readyz`: 200 when the operator knows the cluster, whether it leads or stands by; the text says which, and what it cannot follow.
* `/metrics`: Prometheus' text format, 404 where no metrics were given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from threading import Thread
from typing import Final, NamedTuple

from ciliumipam.errors import InvalidRequestError

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Health(NamedTuple):
    """The answer to one question: whether all is well, and a sentence or more."""

    is_well: bool
    says: str


class HealthServer:
    """An HTTP server for the endpoints, in threads of its own.

    Args:
        address: Where it listens, "" for everywhere.
        port: Its port; 0 for one that is free.
        healthz: Asked for `/healthz`.
        readyz: Asked for `/readyz`.
        metrics: Asked for `/metrics`.

    Raises:
        InvalidRequestError: It cannot listen there.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        healthz: Callable[[], Health],
        readyz: Callable[[], Health],
        metrics: Callable[[], bytes] | None = None,
    ) -> None:
        questions = {"/healthz": healthz, "/readyz": readyz}
        try:
            self._server = _server(address, port, questions, metrics)
        except (OSError, OverflowError) as error:
            where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            reason = getattr(error, "strerror", None) or error
            raise InvalidRequestError(f"cannot listen on {where}: {reason}; another --listen ADDRESS:PORT may be free") from error
        self._thread = Thread(target=self._server.serve_forever, name="ciliumipam-health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _server(
    address: str, port: int, questions: Mapping[str, Callable[[], Health]], metrics: Callable[[], bytes] | None
) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "ciliumipam"
        sys_version = ""
        timeout = 10.0

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            question = questions.get(path)
            if question is not None:
                health = question()
                self._answer(200 if health.is_well else 503, health.says.encode() + b"\n", "text/plain; charset=utf-8")
            elif path == "/metrics" and metrics is not None:
                self._answer(200, metrics(), METRICS_TYPE)
            else:
                known = [*questions, *(("/metrics",) if metrics is not None else ())]
                self._answer(404, f"known here: {', '.join(known)}\n".encode(), "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
            """No line for each question: kubelets ask every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = AF_INET6 if ":" in address else AF_INET

    return Server((address, port), Handler)
