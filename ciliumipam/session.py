"""Running tasks against a store without touching one: a generator that yields what to read and write next and is sent the answers.

The facade answers out of real stores, a dry run out of its own memory, and the interleaving checker of the testing kit one answer
at a time in every order there is; all three run this very code. A round: every open task puts its next writes into one draft, the
draft is written, and the view learns what was written. Whatever did not go as expected (a conflict, an answer that was lost) is
found out by reading the records again; then everything is decided anew. Errors are believed only after everything that they depend
on has been read again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ciliumipam.draft import Draft, Later, Step
from ciliumipam.errors import ConflictError, IpamError, RetriesExhaustedError, StoreError, StoreUnavailableError
from ciliumipam.ledger import Ledger
from ciliumipam.partial_view import Proposed, Unread
from ciliumipam.protocol import Unsure
from ciliumipam.records import ADDRESS_KINDS, KINDS, Entry, Holding, Key, Kind, Page, Revision, Split
from ciliumipam.store import Listing
from ciliumipam.tasks import Task
from ciliumipam.view import View, block_claims_key

ATTEMPTS = 100
"""Rounds that may go wrong before a call gives up."""


class Get(NamedTuple):
    """Read one record. The answer is its entry, or None."""

    key: Key


class Room(NamedTuple):
    """Whether it is worth while to read a page: the slots that nobody holds, or None where the store cannot tell. Nothing is decided by it."""

    key: Key


class Scan(NamedTuple):
    """Read all records of a kind. The answer is a listing."""

    kind: Kind


class Put(NamedTuple):
    """Do writes in order, each only if all before it were done. The answer is a `Written`."""

    steps: tuple[Step, ...]


class Pause(NamedTuple):
    """Wait a little, the longer the more attempts went wrong, and by chance. Nothing is answered."""

    attempt: int


class Written(NamedTuple):
    """What became of a `Put`.

    Attributes:
        revisions: Of the writes that are known to be done, the first ones; None for a delete.
        error: What ended it. Of the other writes nothing is known then.
    """

    revisions: tuple[Revision | None, ...]
    error: StoreError | None = None


Operation: TypeAlias = Get | Room | Scan | Put | Pause
Answer: TypeAlias = Entry | Listing | Written | tuple[int, ...] | None
Session: TypeAlias = Generator[Operation, Answer, None]


def restore(view: View, kinds: Iterable[Kind] = KINDS) -> Session:
    """Read everything of some kinds into the view."""
    for kind in kinds:
        answer = yield Scan(kind)
        assert isinstance(answer, Listing)  # noqa: S101 - the answer to a Scan
        view.load_all(kind, answer.entries)


def run(view: View, tasks: Sequence[Task], *, attempts: int = ATTEMPTS) -> Session:
    """Do what tasks ask for. Errors of one task are left in its `failed`; those of the store are raised.

    Raises:
        StoreError: The store failed, or other writers won in every round. What was written is legal; a later call goes on.
    """
    kinds: dict[Kind, None] = {}
    for task in tasks:
        kinds.update(dict.fromkeys(task.lists))
    if kinds:
        yield from restore(view, kinds)
    keys: dict[Key, None] = {}
    for task in tasks:
        keys.update(dict.fromkeys((yield from _before(view, task))))
    for key in keys:
        if view.needs(key):
            yield from _read(view, key)
    open_tasks = list(tasks)
    attempt = 0
    while open_tasks:
        revisions: Sequence[Revision | None] = ()
        error: StoreError | None = None
        try:
            steps, done, doubted, unsure = yield from _decide(view, open_tasks)
            if steps:
                answer = yield Put(tuple(steps))
                assert isinstance(answer, Written)  # noqa: S101 - the answer to a Put
                revisions, error = answer
                for task in open_tasks:
                    task.settle(done=error is None)
                for step, revision in zip(steps, revisions, strict=False):
                    entry = Entry(step.record, revision) if step.record is not None and revision is not None else None
                    view.written(step.key, entry, step.slots)
        finally:
            view.free.let_go()
        changed = error is not None
        if error is not None:
            attempt += 1
            yield from _recover(view, steps[len(revisions) :], error, attempt, last=attempt >= attempts)
        if not changed:
            doubtful = dict.fromkeys([key for task in done for key in task.verify()])
            for step in steps:
                doubtful.pop(step.key, None)
            for key in doubtful:
                changed |= yield from _read(view, key)
        if not changed:
            open_tasks = [task for task in open_tasks if task not in done] if len(done) < len(open_tasks) else []
        for task in doubted:
            task.reread = True
            yield from _reread(view, task, ())
            for key in (yield from _before(view, task)):
                yield from _read(view, key)
        if unsure:
            attempt += 1
            if attempt >= attempts:
                raise RetriesExhaustedError(attempt, str(unsure[0][1].key))
            for task, doubt in unsure:
                yield from _read(view, doubt.key)
                task.confirmed[doubt.key] = view.revision(doubt.key)
                yield from _reread(view, task, (doubt.piece,))


Decided: TypeAlias = tuple[list[Step], list[Task], list[Task], list[tuple[Task, Unsure]]]
"""Writes, the tasks that are done once they are, those whose error is in doubt, and those that have to read again."""


def _decide(view: View, tasks: Sequence[Task]) -> Generator[Operation, Answer, Decided]:
    """Let every task put its writes. Whatever they ask about that was not read is read, and then all decide anew."""
    while True:
        draft = Draft(view)
        try:
            done, doubted, unsure = _step(view, draft, tasks)
            return draft.steps(), done, doubted, unsure
        except Unread as unread:  # what was drafted so far is thrown away: it may be a part of what belongs together
            question = unread
            for task in tasks:
                task.settle(done=False)
        finally:
            draft.take_back()
        if isinstance(question, Proposed):
            room = yield Room(question.key)
            if question.is_full(room):  # type: ignore[arg-type]  # the answer to a Room
                continue
        yield from _read(view, question.key)


def _step(view: View, draft: Draft, tasks: Iterable[Task]) -> tuple[list[Task], list[Task], list[tuple[Task, Unsure]]]:
    """Let every task put its writes."""
    done: list[Task] = []
    doubted: list[Task] = []
    unsure: list[tuple[Task, Unsure]] = []
    for task in tasks:
        try:
            if task.step(view, draft) if task.failed is None else task.undo(view, draft):
                done.append(task)
        except Later:
            continue
        except Unsure as doubt:
            unsure.append((task, doubt))
        except StoreError:
            raise
        except IpamError as error:
            if task.reread:
                task.failed = error
            else:
                doubted.append(task)
    return done, doubted, unsure


def _before(view: View, task: Task) -> Generator[Operation, Answer, list[Key]]:
    """What a task has to read before its first step; what it must know in order to say so is read."""
    while True:
        try:
            return list(task.before(view))
        except Unread as unread:
            yield from _read(view, unread.key)


def _read(view: View, key: Key) -> Generator[Operation, Answer, bool]:
    entry = yield Get(key)
    assert entry is None or isinstance(entry, Entry)  # noqa: S101 - the answer to a Get
    return view.load(key, entry)


def _recover(view: View, steps: Sequence[Step], error: StoreError, attempt: int, *, last: bool) -> Session:
    """After writes of which nothing is known: read what they were about, or give up."""
    if not isinstance(error, ConflictError) and not (isinstance(error, StoreUnavailableError) and error.unknown):
        raise error
    if last:
        raise RetriesExhaustedError(attempt, getattr(error, "key", str(steps[0].key))) from error
    if attempt > 1:
        yield Pause(attempt)
    for step in steps:
        yield from _read(view, step.key)


def _reread(view: View, task: Task, pieces: Sequence[Holding]) -> Session:
    """Read again everything that an error of a task depends on, or what became of some pieces. What names others is read first."""
    node, keys = task.scope(view)
    if node is None:
        if not pieces:
            yield from restore(view, [kind for kind in KINDS if kind not in ADDRESS_KINDS])
        for piece in pieces:
            for key in (*_path(view, piece), view.address_ledger(piece).key(piece.network, piece.length)):
                yield from _read(view, key)
        return
    yield from restore(view, ("pool",))
    for key in (Key("node", node), *keys, block_claims_key(node)):
        yield from _read(view, key)
    for block in view.claims(block_claims_key(node)).claims.get(node, ()):
        for key in _path(view, block):
            yield from _read(view, key)
        yield from _read_tree(view, view.address_ledger(block))
    for key in keys if not pieces else ():  # once more: a page just read may be full of what another gave to this very owner
        yield from _read(view, key)


def _path(view: View, block: Holding) -> Iterator[Key]:
    ledger = view.block_ledger(block.family, block.space)
    for level in ledger.levels:
        if level < max(block.length, 1):
            yield ledger.key(block.network, level)


def _read_tree(view: View, ledger: Ledger) -> Session:
    """Read a ledger from its root down."""
    waiting = [(ledger.root.network, ledger.root.length)]
    while waiting:
        network, level = waiting.pop()
        yield from _read(view, ledger.key(network, level))
        page: Page | None = view.page(ledger.key(network, level))
        for index, slot in enumerate(page.slots if page is not None else ()):
            if type(slot) is Split:
                waiting.append((ledger.slot_network(network, level, index), ledger.next_levels[level]))
