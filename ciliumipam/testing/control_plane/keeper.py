"""Runs one server for as long as anybody holds its lease: `keeper.py LEASE LOG COMMAND...`.

Whoever needs the server holds a shared lock on the file LEASE. The keeper waits for the exclusive lock, which the kernel gives it when
the last holder has let go or is dead, however it died, and then kills the server. It runs in a session of its own, so that
neither Ctrl-C nor the signal that kills a whole test run reaches it or the server.

It prints the server's process id, then answers each line of its input, the number of a signal for the server, with a line. It ends when
the server does. It loads nothing but the standard library, and little of that: one starts with every server.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from threading import Thread


def _kill_when_let_go(lease: str, server: subprocess.Popen[bytes]) -> None:
    with open(lease, "rb") as file:  # noqa: PTH123 - pathlib takes as long to load as all the rest
        fcntl.flock(file, fcntl.LOCK_EX)
        server.kill()
        server.wait()  # who takes a lease anew waits here until this server is gone


def _pass_signals_on(server: subprocess.Popen[bytes]) -> None:
    while numbers := os.read(0, 100):  # not sys.stdin, whose lock a thread must not hold when the interpreter ends
        for number in numbers.split():
            server.send_signal(int(number))  # does nothing to a process that has ended, so never hits another
            _tell("sent")


def _tell(line: str) -> None:
    with suppress(BrokenPipeError):  # who started this may be dead, and others hold the lease
        os.write(1, f"{line}\n".encode())


def main(lease: str, log: str, *command: str) -> int:
    """Run the command until it ends or nobody wants it any more."""
    with open(log, "ab") as output:  # noqa: PTH123 - see above
        try:
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603 - it is what this is for
        except OSError as error:
            output.write(f"{error}\n".encode())
            return 127
    signal.signal(signal.SIGTERM, lambda *_: server.kill())
    Thread(target=_kill_when_let_go, args=(lease, server), daemon=True).start()
    _tell(str(server.pid))
    Thread(target=_pass_signals_on, args=(server,), daemon=True).start()
    return abs(server.wait())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
