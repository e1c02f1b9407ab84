"""Scenarios for the interleaving checker: writers, what they run, and what their callers are told."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ciliumipam.block_tasks import BlockTask
from ciliumipam.errors import IpamError
from ciliumipam.partial_view import PartialView
from ciliumipam.records import Holding, Key
from ciliumipam.session import Answer, Get, Operation, restore, run
from ciliumipam.tasks import AllocateTask, Task
from ciliumipam.testing.raw import Told
from ciliumipam.view import View


class Together(NamedTuple):
    """A caller was told all of this at once. A release that ends a part of it ends it all, or came before all of it."""

    told: tuple[Told, ...]


class Begins(NamedTuple):
    """A call begins. What others had ended by then, it may not tell any more."""


class Aims(NamedTuple):
    """A call that was asked to sets out to end this holding."""

    at: Told


class Ended(NamedTuple):
    """A call that set out to end these holdings has returned."""

    told: frozenset[Told]


Event: TypeAlias = Begins | Aims | Ended | Together
EVENTS = (Begins, Aims, Ended, Together)

Program: TypeAlias = Generator[Operation | Event, Answer, str]
"""Yields operations and is sent their answers; yields what callers are told; returns how the call ended."""


@dataclass
class Actor:
    """One writer.

    Attributes:
        name: For traces.
        program: Starts it from the beginning.
        may_end: The outcomes that are right, as the names of errors or "done"; empty for any.
        apart: Whether each read is a step of its own. Without, reads that follow each other happen at one moment, which leaves
            out views that no moment looked like, and a great many states.
    """

    name: str
    program: Callable[[], Program]
    may_end: tuple[str, ...] = ("done",)
    apart: bool = False


_BETWEEN = Get(Key("node", "between-two-calls"))
"""A step at which nothing happens, so that others can come between two calls of one actor."""


def call(*tasks: Callable[[str], Task], name: str = "", attempts: int = 6, one_shot: bool = False) -> Callable[[], Program]:
    """A program that reads the store and runs tasks one after the other over the same view.

    Args:
        tasks: Make the tasks, anew for every run, each with a token of its own.
        name: What the tokens begin with.
        attempts: After how many rounds that went wrong a call gives up; few, since two calls can thwart each other for long.
        one_shot: Whether each task begins with a view in which everything is unknown, and nothing is read ahead.
    """

    def program() -> Program:
        view = View()
        if not one_shot:
            yield from restore(view)
        outcome = "done"
        for number, make in enumerate(tasks):
            task = make(f"{name}{number}")
            if number:
                yield _BETWEEN
            if one_shot:
                view = PartialView()
            yield Begins()
            session = run(view, [task], attempts=attempts)
            aimed: set[Holding] = set()
            answer: Answer = None
            try:
                while True:
                    operation = session.send(answer)
                    for piece in sorted(task.targets.keys() - aimed):
                        yield Aims(_told(piece, task.targets[piece]))
                    aimed.update(task.targets)
                    answer = yield operation
            except StopIteration:
                pass
            except IpamError as error:
                return type(error).__name__
            if aimed:
                yield Ended(frozenset(_told(piece, task.targets[piece]) for piece in aimed))
            if task.failed is not None:
                outcome = type(task.failed).__name__
                continue
            if isinstance(task, AllocateTask):
                for owner in task.request.owners:
                    mine = [each for each in task.result if each.owner == owner]
                    yield Together(tuple(Told(each.family, int(each.address), each.fence, owner, each.node) for each in mine))
            for piece in task.carved if isinstance(task, BlockTask) else ():
                yield Together((_told(piece, ""),))
        return outcome

    return program


def _told(piece: Holding, node: str) -> Told:
    return Told(piece.family, piece.network, piece.fence, piece.holder, node, piece.space)


@dataclass
class Scenario:
    """What is walked.

    Attributes:
        name: One sentence.
        setup: Tasks that are run first, alone and without faults.
        actors: Two to five writers.
        lost: How many answers may be lost in one run, before or after the effect.
        late: How many writes may be delivered late: the writer gives up on one, and it takes effect when it still fits.
        blocks_per_node: How many blocks of a family a node may have.
        prepare: Programs that are run after the setup, alone and without faults.
        by_force: Whether blocks are taken from nodes that may still use them.
    """

    name: str
    setup: Sequence[Callable[[str], Task]]
    actors: Sequence[Actor]
    lost: int = 0
    late: int = 0
    blocks_per_node: int = 1
    prepare: Sequence[Callable[[], Program]] = ()
    by_force: bool = False


__all__ = ["EVENTS", "Actor", "Aims", "Begins", "Ended", "Event", "Program", "Scenario", "Together", "call"]
