"""The fuzzer: lives of clusters out of a seed, judged while they are lived, and cut down to the steps that matter when one goes wrong.

    report = fuzz(seed=7, steps=100_000)
    assert report.failure is None, report.failure

A run is a row of *lives*. Each begins with an empty store, and with chance of its own: so a life can be lived again by itself, and
what goes wrong in it can be cut down to a few steps by trying without the others. The same seed gives the same run, on every store,
in every process and under every version of Python: `Report.trace` is a digest of all steps and answers.
"""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, TypeAlias

from ciliumipam.testing.churn import World
from ciliumipam.testing.churn_calls import Step
from ciliumipam.testing.churn_steps import Steps
from ciliumipam.testing.churn_stores import Stores

LIFE = 500
"""Steps of a life."""
EVERY = 100
"""After how many steps everything is judged."""

Ground: TypeAlias = Callable[[], Stores]
"""Makes an empty place for a life."""


class Broken(NamedTuple):
    """What went wrong.

    Attributes:
        sentence: What is broken.
        place: Where it was noticed, by which it is known again.
        at: Number of the step in its life.
    """

    sentence: str
    place: str
    at: int


@dataclass
class Failure:
    """An invariant that broke, and how to see that again.

    Attributes:
        seed: Of the run.
        life: Number of the life.
        broken: What went wrong, and at which of its steps.
        journal: Steps that are enough for it.
        lived: How many steps the life had until then.
    """

    seed: int
    life: int
    broken: Broken
    journal: list[Step]
    lived: int

    def __str__(self) -> str:
        lines = [f"broken: {self.broken.sentence}", f"  noticed in {self.broken.place}"]
        lines.append(f"  seed {self.seed}, life {self.life}, step {self.broken.at}; {len(self.journal)} of {self.lived} steps are enough:")
        return "\n".join([*lines, *(json.dumps(step) for step in self.journal)])


@dataclass
class Report:
    """What a run did.

    Attributes:
        lives: How many lives were begun.
        steps: How many steps were done; one that another writer does meanwhile is one more.
        kinds: Steps by kind.
        faults: Faults by kind.
        crashes: Writers that died.
        trace: A digest of all steps and answers.
        failure: What went wrong, if something did; the run ended with it.
    """

    lives: int = 0
    steps: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    trace: str = ""
    failure: Failure | None = None


def fuzz(
    seed: int,
    steps: int,
    ground: Ground = Stores,
    *,
    first_life: int = 0,
    life: int = LIFE,
    tell: Callable[[int], object] = lambda done: None,  # noqa: ARG005 - nobody is told
) -> Report:
    """Live until so many steps are done or something is broken.

    Args:
        seed: Any number.
        steps: How many steps at least; the last life is not lived to its end.
        ground: Where each life is lived.
        first_life: With which life to begin, to see one of them alone.
        life: Steps of a life.
        tell: Told now and then how many steps are done.
    """
    report = Report()
    number = first_life
    while report.steps < steps and report.failure is None:
        lived: list[Step] = []
        with closing(World(ground(), every=EVERY)) as world:
            broken = _live(world, Random(f"{seed}/{number}"), lived, min(life, steps - report.steps), report, tell)  # noqa: S311 - a seed
        if broken is not None:
            journal = shrink(lived, broken, ground)
            report.failure = Failure(seed, number, broken, journal, len(lived))
        report.lives += 1
        number += 1
    return report


def _live(world: World, chance: Random, lived: list[Step], most: int, report: Report, tell: Callable[[int], object]) -> Broken | None:
    """Live one life. `lived` is told its steps."""
    choose = Steps(chance, world)
    step = choose.first()
    broken = None
    while broken is None and len(lived) < most:
        lived.append(json.loads(json.dumps(step)))
        broken = _try(world, lived[-1], len(lived) - 1)
        if broken is None:
            step = choose.next()
        if not len(lived) % 50:
            tell(report.steps + len(lived))
    if broken is None:
        broken = _try(world, None, len(lived) - 1)
    report.steps += len(lived)
    report.crashes += world.done.pop("(crashes)", 0)
    report.kinds.update(world.done)
    report.faults.update(world.faults)
    report.trace = _digest(report.trace, world.trace)
    return broken


def _digest(*parts: str) -> str:
    from hashlib import sha256  # noqa: PLC0415 - of no other use here

    return sha256("/".join(parts).encode()).hexdigest()[:12]


def _try(world: World, step: Step | None, at: int) -> Broken | None:
    """Do a step, or judge everything at the end; whatever is raised is broken."""
    try:
        if step is None:
            world.judge_all()
        else:
            world.do(step)
    except Exception as error:  # noqa: BLE001 - whatever an `Ipam` raises that is no error of its own is a bug as well
        last = traceback.extract_tb(error.__traceback__)[-1]
        sentence = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return Broken(sentence, f"{last.filename.rpartition('/')[2]}:{last.lineno} {last.name}", at)
    return None


def replay(journal: Iterable[Step], ground: Ground = Stores, *, every: int = 1) -> Broken | None:
    """Do steps in an empty store, and judge everything after so many. What broke, or None."""
    with closing(World(ground(), every=every)) as world:
        at = -1
        for at, step in enumerate(journal):
            broken = _try(world, step, at)
            if broken is not None:
                return broken
        return _try(world, None, at)


def shrink(journal: Sequence[Step], broken: Broken, ground: Ground = Stores) -> list[Step]:
    """Leave out steps for as long as the same still breaks: halves first, then smaller parts, then what goes wrong within steps.

    Complexity:
        O(n log n) runs of n steps where few of them matter.
    """
    left = list(journal[: broken.at + 1])

    def breaks(steps: Sequence[Step]) -> bool:
        found = replay(steps, ground, every=EVERY)
        return found is not None and found.place == broken.place

    part = max(1, len(left) // 2)
    while True:
        at, before = 0, len(left)
        while at < len(left):
            without = left[:at] + left[at + part :]
            if breaks(without):
                left = without
            else:
                at += part
        if part == 1 and len(left) == before:
            break
        part = max(1, part // 2)
    for at, step in enumerate(left):
        for what in ("faults", "reads", "meanwhile", "existing"):
            if what in left[at]:
                simpler = [*left[:at], {name: value for name, value in left[at].items() if name != what}, *left[at + 1 :]]
                if breaks(simpler):
                    left = simpler
        assert step["do"] == left[at]["do"]
    return left


__all__ = ["Broken", "Failure", "Report", "fuzz", "replay", "shrink"]
