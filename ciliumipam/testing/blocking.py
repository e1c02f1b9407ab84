"""Programs for the interleaving checker out of code that blocks: an agent, a watcher, a one-shot caller, as they are run by users.

Such code calls its stores and waits. It is a function of the answers that it got, so there is no need to hold it in the middle of a
call: it is run from its beginning with the answers known so far, and left by an exception at the first question that has no answer
yet. What each run came to is remembered, so every list of answers is run along once.

Several stores are told apart by the kinds of their records: those of the store "n1" are of kinds "n1:lease", "n1:node" and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

from ciliumipam.draft import Step
from ciliumipam.errors import IpamError
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.session import Answer, Get, Operation, Put, Scan, Written
from ciliumipam.store import ABSENT, Expect, Listing
from ciliumipam.testing.actors import Event, Program


class Tick(NamedTuple):
    """The clock of a scenario, a record like others: seconds since the machine was started."""

    seconds: float


CLOCK = Key(cast("Kind", "clock"), "")
"""Where it stands."""


class _Unanswered(BaseException):
    """The code asks something that nobody has answered yet."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation


class Ahead:
    """Reads as they would be answered now, so that a run may go on to its next write at once.

    What it finds is right whenever the same is answered: programs are remembered by the answers that they got.

    Attributes:
        read: Answers a `Get` or a `Scan`.
    """

    read: Callable[[Operation], Answer] | None = None


class _Stage:
    """A program after some answers."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer  # kept, so that its id stays its own
        self.events: list[Event] = []
        self.operation: Operation | None = None
        self.outcome = ""
        self.after: dict[int, _Stage] = {}


class Run:
    """One run of a program along the answers that are known."""

    def __init__(self, answers: list[Answer], stage: _Stage) -> None:
        self._answers, self._next, self.stage = answers, 0, stage

    def ask(self, operation: Operation) -> Answer:
        """The answer, if there is one."""
        self._next += 1
        if self._next <= len(self._answers):
            return self._answers[self._next - 1]
        if Ahead.read is None or isinstance(operation, Put):
            raise _Unanswered(operation)
        answer = Ahead.read(operation)
        following = _Stage(answer)
        self.stage.operation, self.stage.after[id(answer)] = operation, following
        self.stage = following
        return answer

    def tell(self, event: Event) -> None:
        """Say what a caller was told. What was said before the last answer is known already."""
        if self._next >= len(self._answers):
            self.stage.events.append(event)

    def seconds(self) -> float:
        """Read the clock: a step, as every reading is."""
        entry = self.ask(Get(CLOCK))
        return cast("Tick", entry.record).seconds if isinstance(entry, Entry) else 0.0

    def wait(self, name: str) -> None:
        """A write that nobody reads, so that others can come between what would be one reading. The name is given once."""
        self.ask(Put((Step(Key(cast("Kind", "wait"), name), Tick(0), ABSENT, None),)))  # type: ignore[arg-type]  # no store keeps it


class SteppedStore:
    """A store each of whose operations is a step of the walk.

    Args:
        run: The run that it is asked in.
        name: Which store: "" is the one that nodes share.
    """

    def __init__(self, run: Run, name: str = "") -> None:
        self._run, self._name = run, name

    def get(self, key: Key) -> Entry | None:
        """Read one record."""
        entry = self._run.ask(Get(self._there(key)))
        assert entry is None or isinstance(entry, Entry)
        return entry

    def scan(self, kind: Kind) -> Listing:
        """Read all records of a kind."""
        listing = self._run.ask(Scan(self._kind(kind)))
        assert isinstance(listing, Listing)
        return Listing(tuple((Key(kind, key.name), entry) for key, entry in listing.entries), listing.revision)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Replace a record by compare-and-set."""
        (revision,) = self._write(Step(self._there(key), record, expect, None))
        assert revision is not None
        return revision

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Delete a record by compare-and-set."""
        self._write(Step(self._there(key), None, expect, None))

    def close(self) -> None:
        """Nothing is held."""

    def _write(self, step: Step) -> tuple[Revision | None, ...]:
        answer = self._run.ask(Put((step,)))
        assert isinstance(answer, Written)
        if answer.error is not None:
            raise answer.error
        return answer.revisions

    def _there(self, key: Key) -> Key:
        return Key(self._kind(key.kind), key.name)

    def _kind(self, kind: Kind) -> Kind:
        return cast("Kind", f"{self._name}:{kind}") if self._name else kind


def blocking(work: Callable[[Run], object]) -> Callable[[], Program]:
    """A program that does some work; it ends with "done" or the name of the `IpamError` that the work raises."""

    def stage(answers: list[Answer]) -> _Stage:
        first = _Stage(answers[-1] if answers else None)
        run = Run(answers, first)
        try:
            work(run)
            run.stage.outcome = "done"
        except _Unanswered as question:
            run.stage.operation = question.operation
        except IpamError as error:
            run.stage.outcome = type(error).__name__
        return first

    start = stage([])

    def program() -> Program:
        at, answers = start, list[Answer]()
        while True:
            yield from at.events
            if at.operation is None:
                return at.outcome
            answer = yield at.operation
            answers.append(answer)
            following = at.after.get(id(answer))
            if following is None:
                following = at.after[id(answer)] = stage(answers)
            at = following

    return program


__all__ = ["CLOCK", "Run", "SteppedStore", "Tick", "blocking"]
