"""One connection of a client through the proxy: its requests, one after another, and what befalls them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ciliumipam.testing.api_proxy.faults import (
    Answer,
    Cut,
    EndWatch,
    Fault,
    Hold,
    Planted,
    Request,
    Silence,
    read_request,
)
from ciliumipam.testing.api_proxy.framing import FramingError, Head, chunk, read_body, read_head

T = TypeVar("T")

_REASONS = {
    403: "Forbidden",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Seen(NamedTuple):
    """A request that came by.

    Attributes:
        request: What it asked for.
        fault: What befell it.
        status: What the server, or the proxy in its place, answered; 0 where the server was not asked or did not answer.
    """

    request: Request
    fault: Fault | None
    status: int


class Peer(NamedTuple):
    """A client or the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send it, when the other side takes it."""
        self.writer.write(data)
        await self.writer.drain()

    def cut(self) -> None:
        """End the connection at once."""
        self.writer.transport.abort()


class Way:
    """What all connections have in common: whether anything passes, and what takes their requests. For the loop's thread only."""

    def __init__(self, take: Callable[[Request], Planted | None]) -> None:
        self.take = take
        self.seen: list[Seen] = []
        self.clients: set[Peer] = set()
        self.refusing = False
        self.passing = asyncio.Event()
        self.passing.set()

    def cut_all(self) -> None:
        """Cut every client off, once."""
        for client in self.clients:
            client.cut()

    def shut(self, *, silent: bool) -> None:
        """Let nothing pass."""
        if silent:
            self.passing.clear()
        else:
            self.refusing = True
            self.cut_all()

    def reopen(self) -> None:
        """Let everything pass."""
        self.refusing = False
        self.passing.set()


class _CutError(Exception):
    """The client is to be cut off here."""


@dataclass(slots=True)
class _Exchange:
    """A request, what takes it, and how it ended.

    What has happened is booked before the client is sent what shows it: who has the reply may look at once.
    """

    head: Head
    body: bytes
    request: Request
    planted: Planted | None
    seen: list[Seen]
    status: int = 0
    is_booked: bool = False

    @property
    def fault(self) -> Fault | None:
        return self.planted.fault if self.planted else None

    def happened(self) -> None:
        if self.planted:
            self.planted.happened()

    def book(self) -> None:
        """It has come by, if it is not booked already."""
        if not self.is_booked:
            self.is_booked = True
            self.seen.append(Seen(self.request, self.fault, self.status))

    async def hold(self) -> None:
        """Wait as long as the fault says."""
        if self.planted and isinstance(self.planted.fault, Hold):
            self.planted.happened()
            await _within(self.planted.released.wait(), self.planted.fault.seconds)


class Connection:
    """A client's connection, with one of its own to the server."""

    def __init__(
        self,
        client: Peer,
        connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]],
        way: Way,
    ) -> None:
        self._client = client
        self._connect = connect
        self._way = way
        self._server: Peer | None = None

    async def serve(self) -> None:
        """Everything that the client asks, until it or the server ends it, or a fault does."""
        self._way.clients.add(self._client)
        try:
            while not self._way.refusing and (head := await self._next_head()):
                body = b"".join([piece async for piece in read_body(self._client.reader, head)])
                await self._way.passing.wait()
                request = read_request(head.first[0], head.first[1])
                exchange = _Exchange(head, body, request, self._way.take(request), self._way.seen)
                try:
                    goes_on = await self._exchange(exchange)
                finally:
                    exchange.book()
                if not goes_on:
                    break
        except (_CutError, FramingError, OSError, EOFError):
            pass  # whatever it was, the client sees a connection that ends
        finally:
            self._way.clients.discard(self._client)
            self._client.cut()
            self._leave_server()

    async def _next_head(self) -> Head | None:
        """The client's next request; None where it, or the server, has ended the connection."""
        asking = read_head(self._client.reader)
        if self._server is None:
            return await asking
        return await _unless(asking, self._server.reader.read(1))

    def _leave_server(self) -> None:
        if self._server is not None:
            self._server.cut()
            self._server = None

    async def _exchange(self, exchange: _Exchange) -> bool:
        """Pass one request on and its reply back. Returns whether the connection goes on."""
        fault = exchange.fault
        if fault == Cut("before"):
            exchange.happened()
            raise _CutError
        if isinstance(fault, Answer):
            exchange.status = fault.status
            exchange.happened()
            exchange.book()
            await self._client.send(_answer(fault))
            return not exchange.head.closes
        if isinstance(fault, Hold) and not fault.reply:
            await exchange.hold()
        if self._server is None:
            self._server = Peer(*await self._connect())
        await self._server.send(exchange.head.encode() + _framed(exchange.head, exchange.body))
        reply = await read_head(self._server.reader)
        if reply is None:
            raise _CutError
        exchange.status = reply.status
        if exchange.request.verb == "watch" and reply.status == 200:
            return await self._relay_watch(exchange, self._server, reply)
        return await self._relay(exchange, self._server, reply)

    async def _relay(self, exchange: _Exchange, server: Peer, reply: Head) -> bool:
        """Pass a whole reply back, or what a fault leaves of it."""
        none = exchange.head.first[0] == "HEAD" or reply.status in {204, 304}
        body = b"".join([piece async for piece in read_body(server.reader, reply, none=none)])
        fault = exchange.fault
        if isinstance(fault, Hold) and fault.reply:
            await exchange.hold()
        if isinstance(fault, Cut):
            exchange.happened()
            exchange.book()
            if fault.when == "torn":
                announced = b"%x\r\n" % len(body) if reply.chunked else b""
                await self._client.send(reply.encode() + announced + body[: len(body) // 2])
            raise _CutError
        await self._way.passing.wait()
        exchange.book()
        await self._client.send(reply.encode() + (b"" if none else _framed(reply, body)))
        return not (exchange.head.closes or reply.closes) and (
            none or reply.chunked or bool(reply.get("content-length"))
        )

    async def _relay_watch(self, exchange: _Exchange, server: Peer, reply: Head) -> bool:
        """Pass a watch back, line by line, until it ends or the client has gone."""
        fault = exchange.fault
        if isinstance(fault, Hold) and fault.reply:
            await exchange.hold()
        await self._way.passing.wait()
        await self._client.send(reply.encode())
        if isinstance(fault, Cut):
            exchange.happened()
            raise _CutError
        goes_on = await _unless(self._relay_lines(exchange, server, reply), self._client.reader.read(1))
        return bool(goes_on)

    async def _relay_lines(self, exchange: _Exchange, server: Peer, reply: Head) -> bool:
        """Pass the lines back. Returns whether the connection goes on."""
        ends = exchange.fault if isinstance(exchange.fault, EndWatch | Silence) else None
        lines = _lines(read_body(server.reader, reply))
        passed = 0
        while ends is None or passed < ends.events:
            line = await anext(lines, None)
            await self._way.passing.wait()
            if line is None:  # it ended by itself
                exchange.book()
                await self._client.send(chunk(b""))
                return not reply.closes
            await self._client.send(chunk(line))
            passed += 1
        return await self._end_watch(exchange, ends, lines)

    async def _end_watch(self, exchange: _Exchange, ends: EndWatch | Silence, lines: AsyncIterator[bytes]) -> bool:
        if isinstance(ends, Silence):
            exchange.happened()
            await asyncio.Event().wait()  # until the client goes
            return False
        if ends.how in {"clean", "expired"}:
            error = (
                chunk(json.dumps({"type": "ERROR", "object": _status(410)}).encode() + b"\n")
                if ends.how == "expired"
                else b""
            )
            self._leave_server()  # it goes on sending, and another one can be asked
            exchange.happened()
            exchange.book()
            await self._client.send(error + chunk(b""))
            return True
        line = await anext(lines, None) if ends.how == "torn" else None
        exchange.happened()
        exchange.book()
        if line:
            await self._client.send(chunk(line[: len(line) // 2]))
        raise _CutError


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines, each with its end, out of pieces of any length. Kubernetes sends an event of a watch as a line."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"


async def _unless(wanted: Coroutine[Any, Any, T], end: Coroutine[Any, Any, bytes]) -> T | None:
    """What is wanted, unless the other side ends its connection before; then None."""
    wanting, ending = asyncio.ensure_future(wanted), asyncio.ensure_future(end)
    try:
        await asyncio.wait({wanting, ending}, return_when=asyncio.FIRST_COMPLETED)
        return wanting.result() if wanting.done() else None
    finally:
        for task in (wanting, ending):
            task.cancel()
        await asyncio.gather(wanting, ending, return_exceptions=True)


async def _within(waiting: Coroutine[Any, Any, object], seconds: float | None) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(waiting, seconds)


def _framed(head: Head, body: bytes) -> bytes:
    """The body as its head announces it."""
    if not head.chunked:
        return body
    return (chunk(body) if body else b"") + chunk(b"")


def _status(code: int) -> dict[str, object]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "a fault that a test has planted",
        "reason": _REASONS.get(code, ""),
        "code": code,
    }


def _answer(fault: Answer) -> bytes:
    """A reply as the API server writes it."""
    body = json.dumps(_status(fault.status)).encode() + b"\n"
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    if fault.retry_after is not None:
        headers.append(("retry-after", str(fault.retry_after)))
    return Head(("HTTP/1.1", str(fault.status), "Planted"), tuple(headers)).encode() + body
