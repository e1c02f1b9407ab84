"""One server process that can be stopped, killed, held up and started again, and that never outlives who uses it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

PATIENCE: Final = 120.0
"""Seconds until a server that is not ready, or not gone, counts as broken. A loaded machine takes many times the usual three."""

_KEEPER = Path(__file__).with_name("keeper.py")
_PAUSE = 0.02


class ServerError(RuntimeError):
    """A server did not start, or ended by itself; the text has the end of its log."""


class Lease:
    """Keeps servers alive: they end when all who hold a lease on the same file have let go of it or are dead."""

    def __init__(self, path: Path) -> None:
        """Take it; where servers of earlier holders are just being killed, wait until they are gone."""
        self.path = path
        self._file = path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def end(self) -> None:
        """Let go."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Port:
    """A free port of the loopback address that nobody else is given while this lives, also between two runs of the server on it.

    It is bound here, but not listened on; a server that sets SO_REUSEPORT may listen on it.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def give_up(self) -> None:
        """Let others have it."""
        self._socket.close()


class Server:
    """A server: a command, and a way to ask whether it is ready. Not for several threads at once."""

    def __init__(
        self, name: str, command: Sequence[str], *, lease: Lease, log: Path, ready: Callable[[], bool]
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        self._lease = lease
        self._ready = ready
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def pid(self) -> int:
        """The process id, while it runs."""
        if not self.running:
            raise ServerError(f"{self.name} does not run")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the process is there, ready or not."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it is ready.

        Args:
            wait: Whether to wait; `wait_until_ready` does it later.

        Raises:
            ServerError: It runs already, it ended, or it was not ready in time.
        """
        if self.running:
            raise ServerError(f"{self.name} runs already, as process {self._pid}")
        self._forget()
        self._keeper = subprocess.Popen(  # noqa: S603 - the command is ours
            [sys.executable, "-P", str(_KEEPER), str(self._lease.path), str(self.log), *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        told = self._answer()
        if not told:
            self.wait_for_the_end(PATIENCE)
            raise ServerError(f"{self.name} did not start. {self._end_of_log()}")
        self._pid = int(told)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it answers as it should.

        Raises:
            ServerError: It ended, or was not ready in time.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._ready():
            if not self.running:
                self._forget()
                raise ServerError(f"{self.name} ended by itself. {self._end_of_log()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} was not ready after {PATIENCE:g} s. {self._end_of_log()}")
            time.sleep(_PAUSE)

    def kill(self) -> None:
        """End it as loss of power would, but for what the kernel holds: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an administrator would: SIGTERM. The API server first finishes what it was asked."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it and start it again, with the same data on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Hold it up: it keeps its connections and answers nothing, until `resume`."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def wait_for_the_end(self, timeout: float | None = None) -> None:
        """Wait until the process is gone: because it was told so, or because nobody holds the lease any more.

        Raises:
            ServerError: It is still there after `timeout` seconds.
        """
        if self._keeper is None:
            return
        try:
            self._keeper.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"{self.name}, process {self._pid}, did not end within {timeout} s. Its log is {self.log}"
            ) from None
        self._forget()

    def _end(self, number: signal.Signals) -> None:
        if self.running:
            self._send(number)
        self.wait_for_the_end(PATIENCE)

    def _send(self, number: signal.Signals) -> None:
        if self._keeper is None or self._keeper.stdin is None or not self.running:
            raise ServerError(f"{self.name} does not run")
        with suppress(BrokenPipeError):  # it ended just now
            os.write(self._keeper.stdin.fileno(), f"{int(number)}\n".encode())
        self._answer()

    def _answer(self) -> bytes:
        """The keeper's next line; nothing if it has ended."""
        assert self._keeper is not None
        assert self._keeper.stdout is not None
        return self._keeper.stdout.readline()

    def _forget(self) -> None:
        if self._keeper is not None:
            for pipe in (self._keeper.stdin, self._keeper.stdout):
                if pipe is not None:
                    pipe.close()
            self._keeper = None

    def _end_of_log(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([f"The end of {self.log}:", *lines[-20:]])
