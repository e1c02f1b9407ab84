"""`ciliumipam torture`: hunts for faults of an allocator of anybody's that speaks JSON lines, or does again what was found."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from ipaddress import ip_network
from pathlib import Path

from ciliumipam.cli import codes
from ciliumipam.cli.progress import Progress
from ciliumipam.cli.style import write_document
from ciliumipam.cli.text import plain
from ciliumipam.errors import InvalidCidrError, InvalidRequestError
from ciliumipam.testing.torture.driver import RANGES, Report, replay
from ciliumipam.testing.torture.driver import torture as hunt
from ciliumipam.testing.torture.lines import LinesAllocator
from ciliumipam.testing.torture.steps import Step, read_steps

_TOLD_EVERY = 100


def torture(arguments: Namespace) -> int:
    """Hunt, or replay; the exit code says whether something was found."""
    if arguments.store is not None:
        raise InvalidRequestError("torture works on no store; leave --store out")
    steps = _steps(arguments.replay) if arguments.replay is not None else None
    ranges = [_range(each) for each in arguments.ranges or RANGES]
    with LinesAllocator(arguments.command_line, timeout=arguments.timeout) as allocator, Progress() as progress:

        def tell(done: int, total: int) -> None:
            if done % _TOLD_EVERY == 0:
                progress.tell(f"{done} of {total} steps, {100 * done // total}%" if done < total else "making the steps fewer")

        if steps is not None:
            report = replay(allocator, steps)
        else:
            try:
                report = hunt(allocator, seed=arguments.seed, steps=arguments.steps, ranges=ranges, progress=tell)
            except ValueError as error:
                raise InvalidRequestError(str(error)) from error
        name = allocator.name
    if not report.rounds and report.fault is None:
        refusals = "; ".join(f"{network}: {why}" for network, why in sorted(report.refused.items()))
        raise InvalidRequestError(f"{name} serves none of the ranges ({refusals}); choose others with --range")
    _print(arguments, name, report)
    return codes.DONE if report.ok else codes.FOUND


def _print(arguments: Namespace, name: str, report: Report) -> None:
    again = ["ciliumipam", "torture"]
    if arguments.replay is None:
        again += ["--seed", str(arguments.seed), "--steps", str(arguments.steps)]
        again += [word for each in arguments.ranges or () for word in ("--range", each)]
    else:
        again += ["--replay", arguments.replay]
    command = f"{shlex.join(again)} -- {shlex.join(arguments.command_line)}"
    if arguments.output.is_document:
        write_document(arguments.output, {"allocator": name, "command": command, **report.to_document()})
        return
    for line in [name, *str(report).splitlines()]:
        print(plain(line))
    if report.fault is not None:
        print(f"the same hunt: {plain(command)}" if arguments.replay is None else f"once more: {plain(command)}")
        if arguments.replay is None:
            print(plain(f"only these steps: keep this output in a file; ciliumipam torture --replay FILE -- {shlex.join(arguments.command_line)}"))


def _steps(name: str) -> list[Step]:
    try:
        return read_steps(sys.stdin.read() if name == "-" else Path(name).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{name} cannot be read: {error}") from error


def _range(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise InvalidCidrError(text, str(error)) from error
