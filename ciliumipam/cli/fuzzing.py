"""`fuzz`: lives of clusters by chance, on a store that is made for it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ciliumipam.cli import codes
from ciliumipam.cli.progress import Progress
from ciliumipam.cli.store import parse_file
from ciliumipam.cli.style import write_document
from ciliumipam.cli.text import plain, say
from ciliumipam.errors import InvalidRequestError

if TYPE_CHECKING:
    from ciliumipam.testing.churn_stores import Stores
    from ciliumipam.testing.fuzz import Report

_SHOWN = 0.2
"""Seconds between two looks at how far it is."""


def fuzz(arguments: Namespace) -> int:
    """Live until enough steps are done or something is broken, and say what was done."""
    from ciliumipam.testing.fuzz import fuzz as run  # noqa: PLC0415 - no other command needs it

    ground = _ground(arguments.store, full=arguments.full)
    if arguments.journal is not None:
        return _replay(arguments, ground)
    began = time.monotonic()
    with Progress() as progress:
        report = run(
            arguments.seed, arguments.steps, ground, first_life=arguments.life, tell=_teller(progress, arguments.steps)
        )
    seconds = time.monotonic() - began
    if arguments.output.is_document:
        write_document(arguments.output, _values(report))
    else:
        _print(report, arguments.store or "memory:", seconds)
    if report.failure is None:
        return codes.DONE
    if not arguments.output.is_document:
        print(f"\n{plain(str(report.failure).partition(chr(10))[0])}")
        for line in str(report.failure).splitlines()[1:]:
            print(plain(line))
        print(f"\nto see it again: {_command(arguments, report)}")
    return codes.FOUND


def _ground(store: str | None, *, full: bool) -> Callable[[], Stores]:
    """Where lives are lived. The store of the environment is never touched: nothing but what is given here is.

    Raises:
        InvalidRequestError: It is no such place, or there is something already.
    """
    from ciliumipam.testing.churn_stores import Stores  # noqa: PLC0415 - no other command needs it

    if store in (None, "memory:", "two:"):
        if full:
            raise InvalidRequestError("--full goes with --store sqlite:PATH")
        return lambda: Stores("two" if store == "two:" else "memory")
    if not str(store).startswith("sqlite:"):
        raise InvalidRequestError(f"--store {store!r} is no place to fuzz; write memory:, two: or sqlite:PATH with a file that is not there")
    path = parse_file("--store", str(store))
    if path.exists() and path.stat().st_size:
        raise InvalidRequestError(f"{path} exists, and fuzzing begins each life with an empty store; name a file that is not there")

    def empty() -> Stores:
        for ending in ("", "-wal", "-shm"):
            Path(f"{path}{ending}").unlink(missing_ok=True)
        return Stores("sqlite", path, "FULL" if full else "NORMAL")

    return empty


def _replay(arguments: Namespace, ground: Callable[[], Stores]) -> int:
    from ciliumipam.testing.fuzz import replay  # noqa: PLC0415 - no other command needs it

    steps = []
    for number, line in enumerate(_read(arguments.journal).splitlines(), 1):
        try:
            steps.append(json.loads(line))
        except ValueError as error:
            raise InvalidRequestError(f"{arguments.journal}:{number}: no JSON: {error}") from None
    broken = replay(steps, ground)
    if broken is None:
        print(f"{len(steps)} steps, nothing broke")
        return codes.DONE
    print(plain(f"broken at step {broken.at}: {broken.sentence}"))
    return codes.FOUND


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InvalidRequestError(f"{name} cannot be read: {error}") from error


def _teller(progress: Progress, steps: int) -> Callable[[int], None]:
    """Shows how far it is, now and then."""
    last = [0.0]

    def tell(done: int) -> None:
        now = time.monotonic()
        if now - last[0] >= _SHOWN:
            last[0] = now
            progress.count(done, steps, "steps")

    return tell


def _print(report: Report, store: str, seconds: float) -> None:
    faults = sum(report.faults.values())
    print(f"{report.steps:,} steps in {report.lives:,} lives on {store}, {faults:,} faults, {report.crashes:,} crashes")
    print(f"steps: {_listed(report.kinds)}")
    print(f"faults: {_listed(report.faults)}")
    print(f"trace: {report.trace}")
    if report.failure is None:
        print("no invariant broke")
    say(f"{seconds:,.0f} seconds, {report.steps / max(seconds, 0.001):,.0f} steps a second")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _values(report: Report) -> dict[str, Any]:
    failure = report.failure
    return {
        "steps": report.steps,
        "lives": report.lives,
        "kinds": dict(sorted(report.kinds.items())),
        "faults": dict(sorted(report.faults.items())),
        "crashes": report.crashes,
        "trace": report.trace,
        "failure": None
        if failure is None
        else {
            "seed": failure.seed,
            "life": failure.life,
            "step": failure.broken.at,
            "what": failure.broken.sentence,
            "where": failure.broken.place,
            "journal": failure.journal,
        },
    }


def _command(arguments: Namespace, report: Report) -> str:
    failure = report.failure
    assert failure is not None  # noqa: S101 - the caller has one
    store = ["--store", arguments.store] if arguments.store else []
    full = ["--full"] if arguments.full else []
    words = ["ciliumipam", "fuzz", "--seed", str(failure.seed), "--life", str(failure.life), "--steps", str(failure.lived), *store, *full]
    return shlex.join(words)
