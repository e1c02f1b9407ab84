"""What commands that run for long share: an end by signals, and where they answer questions."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from logging import Logger
from threading import Event
from types import FrameType

from ciliumipam.errors import InvalidRequestError


@contextmanager
def stopped_by_signals(log: Logger) -> Iterator[Event]:
    """An event that the first SIGTERM or SIGINT sets; the second one ends the process at once."""
    stop = Event()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        log.info("signal=%s: finishing what is under way", signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parse_listen(text: str | None) -> tuple[str, int | None]:
    """The address and port of ADDRESS:PORT; an address of IPv6 stands in brackets, and an empty one is everywhere."""
    if text is None:
        return "", None
    address, colon, port = text.rpartition(":")
    if (
        not colon
        or not (port.isascii() and port.isdigit())
        or int(port) > 65535
        or (":" in address) != address.startswith("[")
    ):
        raise InvalidRequestError(f"--listen {text!r} is not ADDRESS:PORT, as in :9965, 127.0.0.1:9965 or [::1]:9965")
    return address.strip("[]"), int(port)
