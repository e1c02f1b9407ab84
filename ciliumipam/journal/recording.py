"""`JournaledIpam`: an `Ipam` that writes down what it cannot know, so that what it did can be done again elsewhere (`replay`).

What one `Ipam` does follows from its identity, from what it is asked, in the order and in the batches in which it decided, with the
time and the token of each call, and from what the stores answered. So that is a journal: one line each time that something was
decided, appended before any caller is told of it. Of what the stores answered only what was news is written: reads that found what
this process had last read or written are counted. Other writers' doings come in as reads that found something else; so the journal
of one process replays alone. What was written to the stores and told to the callers stands beside it, for the comparison.

A subclass, not an option: who keeps no journal pays nothing, `import ciliumipam` does not load it, and the hooks are what `Ipam` does
under its lock anyway: `_decide`, `_plan`, `_execute`, `_restore`.

**When the journal cannot be written** (the disk is full) the calls go on without it. It is there to find out what went wrong; it
must not be what goes wrong. The line is written after the deed, since only then it is known what to write: to fail the call then
would be to deny what is done, and to undo it might fail too. So the journal ends there, loudly: a log message of level ERROR, and
`journal_error`. It never goes on after a gap, over which nothing could be replayed. A journal that cannot be opened is an error
before anything is done.

**What survives**: each line is one `write` to a file opened for appending. After kill -9 every call that was answered is in the file.
After loss of power the last lines may be missing: nothing waits for the disk.
A call that never ended, because its process was killed in it, is not in the journal; what it wrote the next process reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import TypeVar

from ciliumipam._version import __version__
from ciliumipam.adopt import listing_of
from ciliumipam.block_tasks import BlockTask
from ciliumipam.errors import StoreRefusedError
from ciliumipam.ipam import Ipam
from ciliumipam.journal.lines import (
    FORMAT,
    change_to_text,
    digest,
    dumps,
    error_to_document,
    existing_to_document,
    plan_told,
    quote,
    raised_to_document,
    request_to_document,
    to_line,
    told_to_document,
)
from ciliumipam.observer import UNOBSERVED, Observer
from ciliumipam.plan_file import plan_to_document
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.repair_tasks import Repair
from ciliumipam.requests import Allocation, ExistingBlock, Plan, Request
from ciliumipam.store import ABSENT, Expect, Listing, Store, SupportsOrderedPuts, SupportsPutTogether, Write
from ciliumipam.tasks import AllocateTask, Task

_T = TypeVar("_T")
_R = TypeVar("_R", Revision, None)


class Recorder:
    """Collects what happens under the lock of one `Ipam`, and writes a line when that is released. Not thread-safe; the lock serialises.

    Attributes:
        open: Whether something is being decided.
        error: Why the journal has ended, None while it goes on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file, or create it for this user only.

        Raises:
            StoreRefusedError: It cannot be written.
        """
        self.path = os.fspath(path)
        self.open = False
        self.error: Exception | None = None
        self._known: dict[Key, Entry] = {}
        self._run = ""
        self._lines = 0
        self._process = os.getpid()
        self._answers: list[str] = []
        self._quiet = 0
        self._raised: BaseException | None = None
        try:
            self._file: int | None = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreRefusedError("journal", f"{self.path}: {_reason(error)}; name a file that this user may write") from error

    def head(self, identity: str, stores: Sequence[Store]) -> None:
        """Write the first line."""
        self._run = identity
        ordered = [isinstance(store, SupportsOrderedPuts) for store in stores]
        together = [isinstance(store, SupportsPutTogether) for store in stores]
        more = [f'"together":{dumps(together)}'] if any(together) else []
        self._write(f'"journal":{FORMAT}', f'"version":{dumps(__version__)}', f'"ordered":{dumps(ordered)}', *more, first=True)
        if self.error is not None:  # nothing was done yet: this is the time to say so
            raise StoreRefusedError("journal", f"{self.path}: {_reason(self.error)}") from self.error

    # ------------------------------------------------------------------------------------------------ sections

    def begin(self) -> None:
        """Something is about to be done."""
        self.open = self._file is not None
        self._answers, self._quiet, self._raised = [], 0, None

    def end(self, deed: str, asked: Callable[[], list[str]], told: Callable[[], list[str]], error: BaseException | None) -> None:
        """Write the line of what was just done, under its name. Raises nothing."""
        if not self.open:
            return
        try:
            self._count()
            ended = [f'"raised":{dumps(self._ended(error))}'] if error is not None else told()
            self._write(f'"do":"{deed}"', *asked(), f'"answers":[{",".join(self._answers)}]', *ended)
        except Exception as failure:  # noqa: BLE001 - what was done is done, and its caller has to hear of that
            self._stop(failure)
        self.open = False

    def _ended(self, error: BaseException) -> dict[str, object]:
        document = error_to_document(error)
        if not isinstance(error, Exception) and error is not self._raised:
            document["interrupted"] = True  # at a moment that nothing here tells
        return document

    def close(self, entries: dict[Key, Entry]) -> None:
        """Write the last line."""
        if self._file is None:
            return
        try:
            self._write('"do":"close"', f'"digest":"{digest(entries)}"')
        except Exception as failure:  # noqa: BLE001 - the stores have to be closed
            self._stop(failure)
        self._shut()

    def _write(self, *fields: str, first: bool = False) -> None:
        if self._file is None:
            return
        line = to_line(self._run, self._lines, *fields)
        try:
            if os.getpid() != self._process:
                raise OSError(0, "a process that was forked needs an Ipam and a journal of its own")  # noqa: TRY301 - the same end
            if first and os.lseek(self._file, 0, os.SEEK_END) and os.lseek(self._file, -1, os.SEEK_END) and os.read(self._file, 1) != b"\n":
                line = b"\n" + line  # a process was killed in its last line
            if os.write(self._file, line) != len(line):
                raise OSError(0, "there is no room left")  # noqa: TRY301 - the same end
        except OSError as error:
            self._stop(error)
        self._lines += 1

    def _stop(self, error: Exception) -> None:
        """End the journal, loudly."""
        import logging  # noqa: PLC0415 - loaded only for this

        self.open = False
        self.error = error
        self._shut()
        log = logging.getLogger("ciliumipam.journal")
        log.error("the journal %s ends here: %s; the calls go on, and are not journaled any more", self.path, _reason(error))

    def _shut(self) -> None:
        self._known.clear()
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None

    # ------------------------------------------------------------------------------------------------ answers

    def _count(self) -> None:
        if self._quiet:
            self._answers.append(str(self._quiet))
            self._quiet = 0

    def _answer(self, text: str, error: BaseException | None) -> None:
        self._count()
        if error is not None:
            self._raised = error
            text += f',"raised":{dumps(raised_to_document(error))}'
        self._answers.append(f"{{{text}}}")

    def knew(self) -> None:
        """Note a read that found what was known."""
        self._quiet += 1

    def read(self, verb: str, what: str, changed: Sequence[tuple[Key, Entry | None]], error: BaseException | None) -> None:
        """Note a read and what it found to be different."""
        try:
            found = []
            for key, entry in changed:
                text = change_to_text(key, entry.record if entry is not None else None, self._record(key))
                found.append(f'{{{text},"revision":{quote(entry.revision) if entry is not None else "null"}}}')
            self._answer(f'"{verb}":{what},"found":[{",".join(found)}]', error)
        except Exception as failure:  # noqa: BLE001 - see `end`
            self._stop(failure)
        for key, entry in changed:
            self._take(key, entry)

    def wrote(
        self, verb: str, writes: Sequence[tuple[Key, Record | None, Expect]], done: Sequence[Revision | None], error: BaseException | None
    ) -> None:
        """Note writes, and the revisions that they got. What changes in a record is told over what was known before all of them."""
        try:
            asked = []
            for key, record, expect in writes:
                text = change_to_text(key, record, self._record(key))
                asked.append(f'{{{text},"expect":{"null" if expect is ABSENT else quote(expect)}}}')
            self._answer(f'"{verb}":[{",".join(asked)}],"revisions":{dumps(done)}', error)
        except Exception as failure:  # noqa: BLE001 - see `end`
            self._stop(failure)
        for (key, record, _), revision in zip(writes, done, strict=False):
            self._take(key, Entry(record, revision) if record is not None and revision is not None else None)

    def _record(self, key: Key) -> Record | None:
        known = self._known.get(key)
        return known.record if known is not None else None

    def _take(self, key: Key, entry: Entry | None) -> None:
        if entry is None:
            self._known.pop(key, None)
        else:
            self._known[key] = entry

    def differs(self, key: Key, entry: Entry | None) -> bool:
        """Whether a record is not what is known. One revision of a key is one record: the stores promise it."""
        known = self._known.get(key)
        if entry is None or known is None:
            return entry is not known
        return known.revision != entry.revision

    def gone(self, kind: Kind, listing: Listing) -> list[tuple[Key, None]]:
        """What is known of a kind and is not in a listing. O(records of all kinds)."""
        found = {key for key, _ in listing.entries}
        return [(key, None) for key in sorted(key for key in self._known if key.kind == kind) if key not in found]


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else repr(error)


class _JournaledStore:
    """A store whose answers are noted while something is being decided."""

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self._store, self._recorder = store, recorder

    def get(self, key: Key) -> Entry | None:
        recorder = self._recorder
        try:
            entry = self._store.get(key)
        except BaseException as error:
            if recorder.open:
                recorder.read("get", dumps(key), (), error)
            raise
        if recorder.open:
            if recorder.differs(key, entry):
                recorder.read("get", dumps(key), ((key, entry),), None)
            else:
                recorder.knew()
        return entry

    def scan(self, kind: Kind) -> Listing:
        recorder = self._recorder
        try:
            listing = self._store.scan(kind)
        except BaseException as error:
            if recorder.open:
                recorder.read("scan", dumps(kind), (), error)
            raise
        if recorder.open:
            changed = [*recorder.gone(kind, listing), *(item for item in listing.entries if recorder.differs(*item))]
            if changed:
                recorder.read("scan", dumps(kind), changed, None)
            else:
                recorder.knew()
        return listing

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        return self._write("put", ((key, record, expect),), lambda: [self._store.put(key, record, expect=expect)])[0]

    def delete(self, key: Key, *, expect: Revision) -> None:
        def work() -> list[None]:
            self._store.delete(key, expect=expect)
            return [None]

        self._write("delete", ((key, None, expect),), work)

    def _write(self, verb: str, writes: Sequence[tuple[Key, Record | None, Expect]], work: Callable[[], list[_R]]) -> list[_R]:
        try:
            done = work()
        except BaseException as error:
            if self._recorder.open:
                self._recorder.wrote(verb, writes, (), error)
            raise
        if self._recorder.open:
            self._recorder.wrote(verb, writes, done, None)
        return done

    def close(self) -> None:
        self._store.close()


class _JournaledOrderedStore(_JournaledStore):
    """One that can also do several puts in one go."""

    def __init__(self, store: Store, ordered: SupportsOrderedPuts, recorder: Recorder) -> None:
        super().__init__(store, recorder)
        self._ordered = ordered  # the same object; Python has no type for being both

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        return self._write("put_in_order", writes, lambda: self._ordered.put_in_order(writes))


class _JournaledTogetherStore(_JournaledStore):
    """One at which several puts at once are quicker than one after another."""

    def __init__(self, store: Store, together: SupportsPutTogether, recorder: Recorder) -> None:
        super().__init__(store, recorder)
        self._together = together  # as above

    def put_together(self, writes: Sequence[Write]) -> list[Revision]:
        return self._write("put_together", writes, lambda: self._together.put_together(writes))


def _journaled(store: Store, recorder: Recorder) -> Store:
    if isinstance(store, SupportsOrderedPuts):  # which is never asked for anything together
        return _JournaledOrderedStore(store, store, recorder)
    if isinstance(store, SupportsPutTogether):
        return _JournaledTogetherStore(store, store, recorder)
    return _JournaledStore(store, recorder)


class JournaledIpam(Ipam):
    """An `Ipam` that keeps a journal of what it is asked, what it reads that is news to it, what it writes, and what it says.

    Several processes, or several of these in one process, may append to one file; one process forked from another may not go on with
    its parent's. The first thing that each writes is everything that it reads: a copy of the stores, as text.
    """

    def __init__(
        self,
        store: Store,
        addresses: Store | None = None,
        *,
        journal: str | os.PathLike[str],
        clock: Callable[[], float] = time.time,
        identity: str | None = None,
        observer: Observer = UNOBSERVED,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """As `Ipam`.

        Args:
            store: As there.
            addresses: As there.
            journal: The file, on a local disk; it is created, for this user only, or added to.
            clock: As there.
            identity: As there.
            observer: As there.
            timer: As there.

        Raises:
            StoreRefusedError: The journal cannot be written. Nothing was done.
        """
        recorder = self._recorder = Recorder(journal)
        other = addresses if addresses is not store else None
        given = [store] if other is None else [store, other]
        stores = [_journaled(each, recorder) for each in given]
        super().__init__(stores[0], stores[-1], clock=clock, identity=identity, observer=observer, timer=timer)
        self._listed = listing_of(store)
        recorder.head(self._identity, given)
        self._drawing = Lock()
        self._drawn: int | None = None
        self._asked: dict[Task, tuple[Request | Repair, int | None]] = {}
        self._time = self._view.free.now

    @property
    def journal_error(self) -> Exception | None:
        """Why the journal has ended, None while it goes on."""
        return self._recorder.error

    def close_journal(self) -> None:
        """Write the journal's last line, a digest of what is known, and keep none from now on. The stores stay open."""
        with self._lock:
            self._recorder.close(self._view.entries)

    def close(self) -> None:
        """Close the journal, then the stores."""
        self.close_journal()
        super().close()

    # ------------------------------------------------------------------------------------------------ what is asked

    def _task(self, request: Request | Repair) -> Task:
        with self._drawing:
            self._drawn = None
            task = super()._task(request)
            self._asked[task] = (request, self._drawn)
            return task

    def _token(self) -> str:
        token = super()._token()
        self._drawn = int(token.rpartition("-")[2])
        return token

    # ------------------------------------------------------------------------------------------------ what is done

    def _decide(self, tasks: Sequence[Task]) -> None:
        calls = [(*self._asked.pop(task), task) for task in tasks]
        self._section(
            "decide",
            lambda: super(JournaledIpam, self)._decide(tasks),
            lambda: [f'"asked":{dumps([_call(*each) for each in calls])}'],
            lambda _: [f'"told":{dumps([told_to_document(request, task) for request, _, task in calls])}'],
        )

    def _plan(self, task: Task) -> Plan:
        call = (*self._asked.pop(task), task)
        return self._section(
            "plan",
            lambda: super(JournaledIpam, self)._plan(task),
            lambda: [f'"asked":{dumps([_call(*call)])}'],
            lambda plan: [f'"told":{dumps(plan_told(plan))}'],
        )

    def _execute(self, plan: Plan, now: float, listed: Sequence[ExistingBlock]) -> tuple[Allocation, ...]:
        said = [f'"listed":{dumps(existing_to_document(listed))}'] if listed else []
        return self._section(
            "execute",
            lambda: super(JournaledIpam, self)._execute(plan, now, listed),
            lambda: [f'"plan":{dumps(plan_to_document(plan))}', f'"now":{dumps(now)}', *said],
        )

    def _restore(self) -> None:
        if self._restored or self._recorder.open:
            super()._restore()
        else:
            self._section("read", super()._restore)

    def _section(
        self,
        deed: str,
        work: Callable[[], _T],
        asked: Callable[[], list[str]] = list,
        told: Callable[[_T], list[str]] = lambda _: [],
    ) -> _T:
        """Do something under the lock, and write the line of it."""
        now = self._view.free.now
        # what has cooled depends on the time, which looks move too; they have no line of their own
        moved = [f'"time":{dumps(now)}'] if now != self._time else []
        self._recorder.begin()
        try:
            result = work()
        except BaseException as error:
            self._time = self._view.free.now
            self._recorder.end(deed, lambda: [*moved, *asked()], list, error)
            raise
        self._time = self._view.free.now
        self._recorder.end(deed, lambda: [*moved, *asked()], lambda: told(result), None)
        return result


def _call(request: Request | Repair, token: int | None, task: Task) -> dict[str, object]:
    document = request_to_document(request) | {"now": task.now}
    if isinstance(task, BlockTask) and task.listed:
        document["listed"] = existing_to_document(task.listed)
    if isinstance(task, AllocateTask) and task.leased:
        document |= {"boot": task.moment.boot, "moment": task.moment.seconds}
    return document if token is None else document | {"call": token}
