"""Runs the contestants, each in a process of its own, and lets them take turns."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks.peers.course import Case, Contestant, bitmap, part

ROOT = Path(__file__).parents[2]
BOUND = 1.0
"""Seconds that one pair may take. Who takes longer is ended, and has no figure but this one."""
SET_UP = 120.0
"""Seconds that it may take until all are ready."""
ENOUGH = 1.0
"""Seconds of pairs after which a contestant that had its least number of turns gets no more."""
LEAST = 3


class Pace(NamedTuple):
    rounds: int
    budget: float
    """Seconds of one turn; a pair that takes longer is one turn."""


FULL, QUICK = Pace(7, 0.02), Pace(2, 0.001)


class Figure(NamedTuple):
    """What one contestant needed for one pair: the median, least and most nanoseconds of its turns."""

    median: float
    low: float
    high: float


Outcome = Figure | str
"""The figure, or why there is none."""
Outcomes = dict[tuple[Case, str], Outcome]
TOO_LONG = f"> {BOUND:.0f} s"


class LateError(Exception):
    """No answer in time."""


class Runner:
    """One contestant's process for one case."""

    def __init__(self, contestant: Contestant, program: Path) -> None:
        self.contestant = contestant
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        command = [program] if contestant.home == "Go" else [sys.executable, "-m", "benchmarks.peers.worker"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def send(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, seconds: float) -> dict[str, Any]:
        """The answer to what was sent.

        Raises:
            LateError: There was none in time; the process is ended.
        """
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                self.process.kill()  # or it would go on beside the others
                raise LateError
            read = os.read(self.process.stdout.fileno(), 1 << 16)
            if not read:
                self.errors.seek(0)
                told = self.errors.read()[-2000:].decode(errors="replace")
                raise RuntimeError(f"{self.contestant.name} ended instead of answering:\n{told}")
            answer += read
        parsed: dict[str, Any] = json.loads(answer)
        return parsed


def race(case: Case, runners: Sequence[Runner], pace: Pace, places: dict[str, str]) -> dict[str, Outcome]:
    """One case: all are made ready, at once, then measured in turn, round by round."""
    outcomes: dict[str, Outcome] = {}
    turns: dict[str, list[float]] = {}
    ready: dict[str, Runner] = {}
    prepare = {"do": "prepare", "job": case.job, "pool": case.pool, "length": case.length, "held": bitmap(case), **places}
    measure = {"do": "measure", "budget": int(pace.budget * 1e9)}
    for runner in runners:
        runner.send({**prepare, "peer": runner.contestant.key})
    end = time.monotonic() + SET_UP
    for runner in runners:
        key = runner.contestant.key
        try:
            refused = runner.hear(max(0.0, end - time.monotonic())).get("refused")
        except LateError:
            refused = f"not ready after {SET_UP:.0f} s"
        if refused:
            outcomes[key] = refused
        else:
            ready[key], turns[key] = runner, []
    for number in range(pace.rounds + 1):  # the first round finds out how many pairs fit into a turn
        for key, runner in list(ready.items()):
            spent = turns[key]
            if len(spent) >= LEAST and sum(spent) > ENOUGH * 1e9:
                continue
            try:
                runner.send(measure)
                told = runner.hear(BOUND)
            except LateError:
                told = {"refused": TOO_LONG}
            if told.get("refused"):
                outcomes[key] = told["refused"]
                del ready[key]
            elif number:
                spent.append(told["nanoseconds"])
    for key in ready:
        outcomes[key] = Figure(median(turns[key]), min(turns[key]), max(turns[key]))
    return outcomes


def run(
    cases: Iterable[Case], program: Path, pace: Pace, places: dict[str, str], done: Callable[[Case, int], None]
) -> Outcomes:
    """All cases; `done` hears of each, and how many are left.

    Args:
        cases: What to measure; a case that occurs twice is measured once.
        program: `race`, built.
        pace: How long.
        places: `directory`, where host-local keeps its files, and `program`, host-local built.
        done: Called after each case.
    """
    outcomes: Outcomes = {}
    wanted = list(dict.fromkeys(cases))
    for number, case in enumerate(wanted):
        with ExitStack() as stack:
            runners = []
            for each in part(case.job):
                if each.most is not None and case.held > each.most:
                    outcomes[case, each.key] = f"not tried above {each.most:,}"
                else:
                    runners.append(stack.enter_context(Runner(each, program)))
            for key, outcome in race(case, runners, pace, places).items():
                outcomes[case, key] = outcome
        done(case, len(wanted) - number - 1)
    return outcomes


def versions(program: Path) -> dict[str, str]:
    """Of Go and of every module in the program."""
    about = Contestant("", "race", "Go", "")
    with Runner(about, program) as runner:
        runner.send({"do": "about"})
        told: dict[str, str] = runner.hear(SET_UP)["versions"]
    return told
