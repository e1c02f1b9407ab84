"""As much of HTTP/1.1 as a proxy needs: where a message begins and ends (RFC 9112, sections 2 and 6)."""

from __future__ import annotations

from asyncio import IncompleteReadError, StreamReader
from collections.abc import AsyncIterator
from dataclasses import dataclass

MOST = 1 << 20
"""The longest line; the server's own limit for all headers is as large."""


class FramingError(ValueError):
    """What came is no HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a request or a reply, and its headers.

    Attributes:
        first: The words of the first line.
        headers: Lower-case names and values, in order.
    """

    first: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """The value of a header; empty where there is none."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self.get("transfer-encoding").lower() == "chunked"

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this message."""
        return "close" in self.get("connection").lower()

    @property
    def status(self) -> int:
        """The status of a reply."""
        return int(self.first[1])

    def encode(self) -> bytes:
        """The bytes that it came as."""
        lines = [" ".join(self.first), *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(reader: StreamReader) -> Head | None:
    """The next message's head; None where the connection has ended instead."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except IncompleteReadError as error:
        if error.partial:
            raise FramingError("the connection ended within a head") from error
        return None
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    words = tuple(first.split(" ", 2))
    if len(words) < 3:
        raise FramingError(f"{first!r} is no first line of HTTP/1.1")
    headers = []
    for line in lines:
        name, _, value = line.partition(":")
        headers.append((name.lower(), value.strip()))
    return Head(words, tuple(headers))


async def read_body(reader: StreamReader, head: Head, *, none: bool = False) -> AsyncIterator[bytes]:
    """The body in the pieces in which it arrives, without the framing of chunks.

    Args:
        reader: Where the head was read.
        head: The head.
        none: Whether there is none whatever the headers say: the reply to HEAD, 204, 304.

    Raises:
        IncompleteReadError: The connection ended within it.
    """
    if none:
        return
    if head.chunked:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            piece = await reader.readexactly(size + 2)
            yield piece[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
    elif length := head.get("content-length"):
        left = int(length)
        while left:
            piece = await reader.read(min(left, MOST))
            if not piece:
                raise IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece
    elif head.first[0].startswith(
        "HTTP/"
    ):  # a reply of unknown length goes on until the connection ends; a request has no body then
        while piece := await reader.read(MOST):
            yield piece


def chunk(piece: bytes) -> bytes:
    """One chunk; the empty one is the last."""
    return b"%x\r\n%s\r\n" % (len(piece), piece)
