"""`FaultProxy`: forwards requests to an API server, and does to them what is planted."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread
from typing import Self

from ciliumipam.testing.api_proxy.connection import Connection, Peer, Seen, Way
from ciliumipam.testing.api_proxy.faults import READS, WRITES, EndWatch, Fault, Planted, Request, Silence, Where
from ciliumipam.testing.api_proxy.framing import MOST
from ciliumipam.testing.control_plane.access import ControlPlane


class FaultProxy:
    """A proxy in front of an API server, on a free port of the loopback address, for as long as a `with` lasts.

    It speaks TLS with the API server's own certificate, so that a client needs nothing but a kubeconfig with another port, and sends a
    token, which clients in Go do over TLS only. It speaks HTTP/1.1, keeps connections alive as the server does, and cuts a client's
    connection where the server ends its own. Connections that are upgraded (exec, port-forward) it does not know.

    Each request meets at most one fault: the first planted that takes it. Chance comes out of one generator with `seed`, so it is the same
    again where requests come in the same order.
    """

    def __init__(self, plane: ControlPlane, *, seed: int = 0) -> None:
        self.port = 0
        self._plane = plane
        self._chance = Random(seed)  # noqa: S311 - seeded chance is not cryptography
        self._lock = Lock()
        self._planted: list[Planted] = []
        self._way = Way(self._take)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._started = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._run()), name="fault-proxy", daemon=True)

    @property
    def seen(self) -> Sequence[Seen]:
        """The requests that are over, in that order; a watch is over once it has ended.

        A request is here before its client can know: before the reply is sent, or a fault cuts the connection. Only one that ends for
        another reason (its client or the server has gone, `cut_connections`, `partition`) may come a moment later.
        """
        return tuple(self._way.seen)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of admin that leads through it."""
        return self.through(self._plane.kubeconfig)

    def through(self, kubeconfig: Path) -> Path:
        """The same as one of the control plane's kubeconfigs, but through the proxy."""
        token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
        return self._plane.write_kubeconfig(f"{kubeconfig.stem}-through-{self.port}", token, url=self.url)

    def plant(
        self,
        fault: Fault,
        *,
        verbs: Collection[str] | None = None,
        path: str = "*",
        skip: int = 0,
        times: int | None = 1,
        chance: float = 1.0,
    ) -> Planted:
        """Let a fault befall requests from now on.

        Args:
            fault: What happens to them.
            verbs: Which: of `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`. By default all, or `watch` for a fault that only a
                watch can have.
            path: Which: a pattern for the path, `*` is any text: `*/cidrledgers/*`.
            skip: Leave so many of them alone first.
            times: Befall so many of them; None is all.
            chance: Befall each only with this probability.

        Returns:
            The planted fault: wait for it, count it, release it.
        """
        if verbs is None:
            verbs = ("watch",) if isinstance(fault, EndWatch | Silence) else (*READS, *WRITES)
        planted = Planted(fault, Where(tuple(verbs), path, skip, times, chance), lambda event: self._call(event.set))
        with self._lock:
            self._planted.append(planted)
        return planted

    def clear(self) -> None:
        """Release all that is planted."""
        with self._lock:
            planted, self._planted = self._planted, []
        for each in planted:
            each.release()

    def cut_connections(self) -> None:
        """Cut all connections of clients, once, in whatever they are."""
        self._call(self._way.cut_all)

    @contextmanager
    def partition(self, *, silent: bool = False) -> Iterator[None]:
        """Let nobody reach the server meanwhile.

        Args:
            silent: As packets that are lost: connections stay and nothing passes, and what was sent meanwhile arrives afterwards, if its
                client has not gone. Otherwise connections are cut, and new ones as soon as they are made.
        """
        self._call(lambda: self._way.shut(silent=silent))
        try:
            yield
        finally:
            self._call(self._way.reopen)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if not self.port:
            raise RuntimeError(f"the proxy of {self._plane.url} did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop.set)
        self._thread.join()

    def _call(self, what: Callable[[], object]) -> None:
        """Have it done in the proxy's thread, and wait until it is. A proxy that has ended, or not begun, has nothing to do."""
        done = Event()

        def do() -> None:
            what()
            done.set()

        if self._thread.is_alive() and self._loop is not None:
            with suppress(RuntimeError):  # the loop ended just now
                self._loop.call_soon_threadsafe(do)
                while self._thread.is_alive() and not done.wait(0.1):
                    pass

    def _take(self, request: Request) -> Planted | None:
        with self._lock:
            return next((each for each in self._planted if each.befalls(request, self._chance.random)), None)

    async def _run(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
            accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            accepting.load_cert_chain(self._plane.certificate, self._plane.private_key)
            asking = ssl.create_default_context(cafile=str(self._plane.certificate))
            for context in (accepting, asking):
                context.set_alpn_protocols(["http/1.1"])
            connections: set[asyncio.Task[None]] = set()

            def connect() -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
                return asyncio.open_connection("127.0.0.1", self._plane.port, ssl=asking, limit=MOST)

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                connection = asyncio.ensure_future(Connection(Peer(reader, writer), connect, self._way).serve())
                connections.add(connection)
                connection.add_done_callback(connections.discard)

            server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=accepting, limit=MOST)
            self.port = server.sockets[0].getsockname()[1]
        finally:
            self._started.set()
        await self._stop.wait()
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0.01)  # the loop closes in its next turns what was cut
