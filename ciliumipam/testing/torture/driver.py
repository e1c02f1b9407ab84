"""`torture` hunts with a seed, `replay` does given steps again; both return a `Report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from random import Random
from typing import Any

from ciliumipam.testing.torture.choosing import Chooser, length_of_round
from ciliumipam.testing.torture.oracle import PROPERTIES, Breach
from ciliumipam.testing.torture.protocol import Allocator, Network
from ciliumipam.testing.torture.shrinking import shrink
from ciliumipam.testing.torture.steps import Open, Step, Together, to_document, to_lines
from ciliumipam.testing.torture.trial import Line, Trial

RANGES: tuple[str, ...] = (
    *("10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30", "10.0.0.0/29", "10.0.0.0/28", "10.0.0.0/26", "10.0.0.0/24", "10.0.0.0/16"),
    *("fd00::/128", "fd00::/127", "fd00::/126", "fd00::/125", "fd00::/124", "fd00::/120", "fd00::/64"),
)
"""Where a hunt goes if it is not told where."""

_WEIGHTS = {32: 3, 31: 3, 30: 6, 29: 6, 28: 4, 26: 2, 24: 1, 16: 1, 128: 3, 127: 3, 126: 6, 125: 4, 124: 3, 120: 1, 64: 1}
_RACES = 25
"""How often a list with calls at once is tried before it counts as right: whether they meet is chance."""
_HANG = 5_000
"""A call that is not answered in time costs as much as so many."""


@dataclass(frozen=True)
class Fault:
    """A property that an allocator broke.

    Attributes:
        broken: One of `PROPERTIES`.
        sentence: What it answered, and why that is wrong.
        lines: The steps to it and what was answered, as short as they could be made; the last answer is the wrong one.
        found_after: How many steps the hunt took.
        seen: Of how many replays of these steps how many broke it; only where two calls at once are among them.
    """

    broken: str
    sentence: str
    lines: tuple[Line, ...]
    found_after: int
    seen: tuple[int, int] | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """What `replay` takes."""
        return tuple(line.step for line in self.lines)


@dataclass
class Report:
    """What was done, and what was found.

    Attributes:
        seed: Of the hunt; None for a replay.
        steps: How many steps were done, without those of shrinking.
        rounds: How often each range was opened.
        refused: Ranges that the allocator does not serve, and its reasons.
        answers: How often each kind of step had each kind of answer.
        fault: What was found; a hunt ends with the first.
    """

    seed: int | None = None
    steps: int = 0
    rounds: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    fault: Fault | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.fault is None

    def to_document(self) -> dict[str, Any]:
        """Plain values."""
        fault = self.fault
        return {
            "seed": self.seed,
            "steps": self.steps,
            "rounds": dict(sorted(self.rounds.items())),
            "refused": dict(sorted(self.refused.items())),
            "answers": dict(sorted(self.answers.items())),
            "fault": fault
            and {
                "broken": fault.broken,
                "sentence": fault.sentence,
                "foundAfter": fault.found_after,
                "seen": fault.seen and list(fault.seen),
                "steps": [{**to_document(line.step), "answer": line.answer} for line in fault.lines],
            },
        }

    def __str__(self) -> str:
        """For people; `read_steps` finds the steps in it."""
        counts = ((self.steps, "step"), (sum(self.rounds.values()), "round"), (len(self.rounds), "range"))
        where = "{} in {} over {}".format(*(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts))
        seed = "" if self.seed is None else f"seed {self.seed}: "
        text = [f"{seed}{where}"]
        text += [f"  not served: {network}: {why}" for network, why in sorted(self.refused.items())]
        text += [f"  {count:>7} {what}" for what, count in sorted(self.answers.items())]
        if self.fault is None:
            return "\n".join([*text, "nothing found"])
        fault = self.fault
        lines = to_lines(fault.steps)
        width = min(max(map(len, lines)), 76)
        text += [
            f"broken: {PROPERTIES[fault.broken]} ({fault.broken})",
            f"  {fault.sentence}",
            f"found after {fault.found_after} steps; these {len(lines)} do it again"
            + ("" if fault.seen is None else f", {fault.seen[0]} times of {fault.seen[1]}: calls at once meet by chance")
            + ":",
            *(f"{line:<{width}}  {shown.answer}" for line, shown in zip(lines, fault.lines, strict=True)),
        ]
        return "\n".join(text)


def torture(
    allocator: Allocator,
    *,
    seed: int = 0,
    steps: int = 10_000,
    ranges: Sequence[str | Network] = RANGES,
    progress: Callable[[int, int], None] | None = None,
    shrink_calls: int = 50_000,
) -> Report:
    """Hunt for a broken property, round after round, each in a range that is opened anew.

    Equal seeds choose equal steps, as long as the allocator answers equally; which of two calls at once comes first is chance.

    Args:
        allocator: What is judged; it is not closed.
        seed: Where chance starts.
        steps: How many steps to do.
        ranges: CIDRs to do them in.
        progress: Is told how many steps are done of how many.
        shrink_calls: How many calls to spend on making what was found short.

    Raises:
        TypeError: The adapter lacks a method of what it claims.
        ValueError: None of the ranges is of a family that the allocator claims.
    """
    random = Random(seed)  # noqa: S311 - seeded chance is not cryptography
    trial = Trial(allocator)
    networks = [each for each in map(ip_network, ranges) if each.version in allocator.claims.families]
    if not networks:
        raise ValueError(f"no range of {', '.join(map(str, ranges))} is of the families {allocator.claims.families}")
    weights = [_WEIGHTS.get(each.prefixlen, 2) for each in networks]
    report = Report(seed)
    while report.steps < steps:
        opened = Open(random.choices(networks, weights)[0])
        breach = _begin(trial, opened, report)
        if breach is None and trial.refused is not None:
            if len(report.refused) == len({*networks}):
                break
            continue
        if breach is None:
            chooser = Chooser(random, trial)
            for _ in range(min(length_of_round(random, trial), steps - report.steps)):
                breach = trial.perform(chooser.choose())
                _count(report, trial)
                if progress is not None:
                    progress(report.steps, steps)
                if breach is not None:
                    break
        if breach is not None:
            report.fault = _shrunken(trial, breach, report.steps, shrink_calls)
            break
    return report


def replay(allocator: Allocator, steps: Sequence[Step], *, times: int | None = None) -> Report:
    """Do given steps, and judge every answer.

    Args:
        allocator: What is judged; it is not closed.
        steps: An `Open` first.
        times: How often to do them all, until something is found; by default once, or 25 times with calls at once among them.

    Raises:
        TypeError: The adapter lacks a method of what it claims.
    """
    trial, report = Trial(allocator), Report()
    for _ in range(times or (_RACES if _races(steps) else 1)):
        breach = _begin(trial, steps[0], report)
        for step in () if breach is not None or report.refused else steps[1:]:
            breach = trial.perform(step)
            _count(report, trial)
            if breach is not None:
                break
        if breach is not None:
            report.fault = Fault(breach.broken, breach.sentence, tuple(trial.lines), report.steps)
            break
    return report


def _begin(trial: Trial, opened: Step, report: Report) -> Breach | None:
    assert isinstance(opened, Open), "the first step opens a range"
    breach = trial.perform(opened)
    report.steps += 1
    name = str(opened.network)
    if trial.refused is not None:
        report.refused[name] = trial.refused
    else:
        report.rounds[name] += 1
    return breach


def _count(report: Report, trial: Trial) -> None:
    report.steps += 1
    report.answers[trial.lines[-1].kind] += 1


def _races(steps: Sequence[Step]) -> bool:
    return any(isinstance(step, Together) for step in steps)


def _shrunken(trial: Trial, breach: Breach, found_after: int, shrink_calls: int) -> Fault:
    """The fault with as few steps as can be found."""
    first = Fault(breach.broken, breach.sentence, tuple(trial.lines), found_after)
    best: dict[tuple[Step, ...], Fault] = {first.steps: first}
    start = trial.calls
    hangs = 0
    tries = 1

    def once(steps: Sequence[Step]) -> Fault | None:
        nonlocal hangs
        for step in steps:
            found = trial.perform(step)
            if found is not None:
                hangs += found.broken == "hung"
                if found.broken == breach.broken:
                    return Fault(found.broken, found.sentence, tuple(trial.lines), found_after)
                return None
            if trial.refused is not None:
                return None
        return None

    def breaks(steps: Sequence[Step]) -> bool:
        for _ in range(tries if _races(steps) else 1):
            if trial.calls - start + hangs * _HANG > shrink_calls:
                return False
            fault = once(steps)
            if fault is not None:
                # what comes after the wrong answer is not needed either
                best[tuple(steps)] = fault
                return True
        return False

    if _races(first.steps) and breach.broken != "hung":  # as often as is needed to see it in 19 cases of 20
        tries = _RACES
        seen = sum(once(first.steps) is not None for _ in range(_RACES))
        tries = min(_RACES, -(-3 * _RACES // max(seen, 1)))
    steps = tuple(shrink(first.steps, breaks))
    fault = best[steps]
    if not _races(steps) or breach.broken == "hung":
        return fault
    again = [once(fault.steps) is not None for _ in range(_RACES)]
    return Fault(fault.broken, fault.sentence, fault.lines, found_after, (sum(again), len(again)))

