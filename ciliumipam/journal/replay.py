"""Does again what a journal tells of, and stops where anything comes out differently.

Each run of the journal (one `JournaledIpam`) gets a fresh `Ipam` of the version that is running, with the same identity. It is asked
the same, in the same batches, at the same times, and its stores answer what the journal says that they answered. Compared are: what it
asks of the stores and in which order, every write with its record and the revision that it expects, and every result and error
that callers are told; at the end of a run also every record that it knows. The first difference ends it.

So a journal of a version that reads or writes in another order diverges as well: replay it with the version that its first line
names. What the journal itself says of the records (`records`) needs no replay, and is read by every version that knows the format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from itertools import islice
from traceback import extract_tb
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ciliumipam.errors import InvalidJournalError, InvalidRequestError, IpamError
from ciliumipam.executor import Executor
from ciliumipam.ipam import Ipam
from ciliumipam.journal.lines import (
    Line,
    digest,
    dumps,
    error_to_document,
    plan_told,
    read_existing,
    read_lines,
    read_request,
    told_to_document,
)
from ciliumipam.journal.replay_store import Answer, Script, Wrote, read_answers, replay_store, show_answer, show_write
from ciliumipam.lease import NEVER, Moment
from ciliumipam.plan_file import plan_from_document
from ciliumipam.records import Entry, Key
from ciliumipam.repair_tasks import Repair
from ciliumipam.requests import ExistingBlock, Plan, Request
from ciliumipam.store import Store
from ciliumipam.tasks import Task

Ended: TypeAlias = Literal["equal", "not closed", "interrupted", "diverged"]
Progress: TypeAlias = Callable[[int], None]
"""Told the number of the line that is next, now and then."""

_SHOWN = 60
"""Lines of a difference that are shown."""
_TELL_EACH = 500


class Divergence(NamedTuple):
    """Where a replay came out differently.

    Attributes:
        line: Of the journal.
        run: Whose it is.
        calls: What had been asked; several that were decided together.
        what: What differs, as a sentence.
        journal: What the journal has there, in lines.
        replay: What the replay did instead.
    """

    line: int
    run: str
    calls: tuple[str, ...]
    what: str
    journal: tuple[str, ...]
    replay: tuple[str, ...]

    @property
    def difference(self) -> tuple[str, ...]:
        """The two as a unified diff."""
        return tuple(unified_diff(self.journal, self.replay, "journal", "replay", n=2, lineterm=""))

    def __str__(self) -> str:
        difference = self.difference
        more = [f"... and {len(difference) - _SHOWN} more lines"] if len(difference) > _SHOWN else []
        head = f"line {self.line} (run {self.run}): {self.what}"
        return "\n".join([head, *(f"asked: {call}" for call in self.calls), *difference[:_SHOWN], *more])


class Run(NamedTuple):
    """What the replay of one run came to.

    Attributes:
        identity: Of its `Ipam`.
        version: Of ciliumipam, that wrote it.
        first, last: Its lines.
        calls: Changes that were asked for, also those that failed.
        writes: Records that were written.
        digest: Over the records that it knew in the end.
        ended: `equal` where it was closed and the records are the same as then; `not closed` where that line is not there (its process
            was killed, or is still running): all lines came out equal; `interrupted` where it was at a moment that no line tells.
    """

    identity: str
    version: str
    first: int
    last: int
    calls: int
    writes: int
    digest: str
    ended: Ended


class Replayed(NamedTuple):
    """What a replay came to.

    Attributes:
        runs: In the order in which they began.
        notes: What somebody should know, and what is no error.
        divergence: Where it stopped, None where everything came out the same.
    """

    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    divergence: Divergence | None


def replay(source: str, until: int | None = None, progress: Progress | None = None) -> Replayed:
    """Do again what a journal tells of.

    Args:
        source: The file.
        until: The last line to replay; by default the last one.
        progress: Told now and then how far it is.

    Raises:
        InvalidJournalError: A line is damaged or missing, or is not of a journal.
        UnsupportedVersionError: A newer version wrote it, or a record in it.
        InvalidRequestError: There is no line `until`.
        OSError: The file cannot be read.

    Complexity:
        About what was done then, without the waiting for disks.
    """
    notes: list[str] = []
    ended: list[Run] = []
    running: dict[str, _Run] = {}
    divergence = None
    for line in _lines(source, until, notes, progress):
        if not line.nth and line.run in running:
            ended.append(running.pop(line.run).outcome())
        run = _run_of(source, line, running)
        if line.nth:
            divergence = run.redo(line)
            if divergence is not None:
                break
            if line.fields.get("do") == "close":  # whatever it knew can be forgotten
                ended.append(running.pop(line.run).outcome())
    ended += [run.outcome() for run in running.values()]
    return Replayed(tuple(sorted(ended, key=lambda run: run.first)), tuple(notes), divergence)


def records(source: str, until: int | None = None) -> dict[Key, Entry]:
    """The records as the process that wrote a line knew them after it, by what the journal says; nothing is decided again.

    The first line of a run is written before anything is read; there it is what the line before says.

    Args:
        source: The file.
        until: The number of the line; by default the last one.

    Raises:
        InvalidJournalError, UnsupportedVersionError, InvalidRequestError, OSError: As in `replay`.
    """
    running: dict[str, _Run] = {}
    known: dict[Key, Entry] = {}
    for line in _lines(source, until, [], None):
        run = _run_of(source, line, running)
        if line.nth:
            run.answers(line)
            known = run.told
        if line.fields.get("do") == "close":
            del running[line.run]
    return known


def _lines(source: str, until: int | None, notes: list[str], progress: Progress | None) -> Iterator[Line]:
    last = 0
    for line in read_lines(source, notes):
        if until is not None and line.number > until:
            return
        if progress is not None and line.number % _TELL_EACH == 0:
            progress(line.number)
        last = line.number
        yield line
    if not last:
        raise InvalidJournalError(source, 1, "nothing is in it")
    if until is not None and last < until:
        raise InvalidRequestError(f"{source} has no line {until}: its last one is {last}")


def _run_of(source: str, line: Line, running: dict[str, _Run]) -> _Run:
    """The run that a line belongs to, which may begin with it."""
    if not line.nth:
        running[line.run] = _Run(source, line)
        return running[line.run]
    run = running.get(line.run)
    if run is None:
        raise InvalidJournalError(source, line.number, f"run {line.run} does not begin in this file: its first lines are missing")
    if line.nth != run.nth + 1:
        reason = f"it is line {line.nth} of run {line.run}, and line {run.nth} of it came before: lines are missing"
        raise InvalidJournalError(source, line.number, reason)
    run.nth, run.last = line.nth, line.number
    return run


# ----------------------------------------------------------------------------------------------------------- the runs


class _Rerun(Ipam):
    """An `Ipam` whose time and tokens are those of the journal, and which waits for nothing."""

    def __init__(self, identity: str, stores: Sequence[Store]) -> None:
        super().__init__(stores[0], stores[-1], clock=lambda: self._at, identity=identity, moment=lambda: self._then)
        self._executor = Executor(stores[0], stores[-1], lambda _: None)
        self._at, self._then = 0.0, NEVER
        self._call: int | None = None
        self._said: tuple[ExistingBlock, ...] = ()
        self._listed = lambda _: self._said

    def _token(self) -> str:
        return f"{self._identity}-{self._call}"

    def prepare(self, source: str, fields: Mapping[str, Any]) -> Callable[[], object]:
        """What a line tells of, ready to be done; what it gives is what the callers are told."""
        match fields["do"]:
            case "decide" | "plan":
                asked = [read_request(document) for document in fields["asked"]]
                tasks = []
                for request, document in zip(asked, fields["asked"], strict=True):
                    self._at, self._call = document["now"], document.get("call")
                    self._said = read_existing(document.get("listed", ()))
                    self._then = Moment(document.get("boot", ""), document.get("moment", 0.0))
                    tasks.append(self._task(request))
                if fields["do"] == "plan":
                    return lambda: plan_told(self._plan(tasks[0]))
                return lambda: self._decided(asked, tasks)
            case "execute":
                plan, now = plan_from_document(fields["plan"], source), fields["now"]
                listed = read_existing(fields.get("listed", ()))
                return lambda: self._executed(plan, now, listed)
            case "read":
                return self._read
            case deed:
                raise ValueError(f"nothing that is known is {deed!r}")

    def _decided(self, asked: Sequence[Request | Repair], tasks: Sequence[Task]) -> list[dict[str, Any]]:
        self._decide(tasks)
        return list(map(told_to_document, asked, tasks))

    def _executed(self, plan: Plan, now: float, listed: Sequence[ExistingBlock]) -> None:
        self._execute(plan, now, listed)

    def _read(self) -> None:
        self._restored = False
        self._restore()

    def advance(self, now: float) -> None:
        """A look has moved the time."""
        self._view.advance(now)

    @property
    def entries(self) -> dict[Key, Entry]:
        """Every record that it knows."""
        return self._view.entries


class _Run:
    """One run while it is replayed."""

    def __init__(self, source: str, line: Line) -> None:
        self._source = source
        self._identity, self.first, self.last, self.nth = line.run, line.number, line.number, 0
        self._version = "?"
        self._calls = self._writes = 0
        self._ended: Ended = "not closed"
        self.told: dict[Key, Entry] = {}
        self._script = Script()
        try:
            self._version = str(line.fields["version"])
            ordered = line.fields["ordered"]
            able = zip(ordered, line.fields.get("together", [False] * len(ordered)), strict=True)
            self._rerun = _Rerun(line.run, [replay_store(self._script, ordered=one, together=other) for one, other in able])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._damaged(line, error) from error

    def _damaged(self, line: Line, error: Exception) -> InvalidJournalError:
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        return InvalidJournalError(self._source, line.number, f"it cannot be read: {reason}")

    def answers(self, line: Line) -> list[Answer]:
        """What the stores answered by a line; `told` is what the journal says of the records after it."""
        try:
            return read_answers(line.fields.get("answers", ()), self.told)
        except IpamError as error:
            raise self._damaged(line, error) from error
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, StopIteration) as error:
            raise self._damaged(line, error) from error

    def redo(self, line: Line) -> Divergence | None:
        """Do a line again."""
        fields = line.fields
        if fields.get("do") == "close":
            return self._close(line)
        answers = self.answers(line)
        raised = fields.get("raised")
        if self._ended == "interrupted" or (raised is not None and raised.get("interrupted")):
            self._ended = "interrupted"
            return None
        try:
            if "time" in fields:
                self._rerun.advance(fields["time"])
            work = self._rerun.prepare(self._source, fields)
        except (IpamError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(line, error) from error
        self._script.answers.extend(answers)
        self._calls += max(len(fields.get("asked", ())), fields["do"] == "execute")
        self._writes += sum(len(answer.writes) for answer in answers if isinstance(answer, Wrote) and answer.error is None)
        try:
            told = work()
        except BaseException as error:  # noqa: BLE001 - whatever it is: it is compared
            return self._compare(line, None, error)
        return self._compare(line, told, None)

    def _compare(self, line: Line, told: object, error: BaseException | None) -> Divergence | None:
        fields = line.fields
        diverged = self._script.diverged
        if diverged is not None:
            return self._diverge(line, diverged.what, diverged.journal, diverged.replay)
        if isinstance(error, KeyboardInterrupt):
            raise error
        found = None if error is None else error_to_document(error)
        if found != fields.get("raised"):
            return self._diverge(line, "it ends in another way", _show_end(fields.get("raised")), [*_show_end(found), *_where(error)])
        if self._script.answers:
            what = "the replay is done where the journal goes on"
            return self._diverge(line, what, show_answer(self._script.answers[0]), show_answer(None))
        told = json.loads(dumps(told))
        if error is None and told != fields.get("told"):
            return self._diverge(line, "the callers are told something else", _show(fields.get("told")), _show(told))
        return None

    def _close(self, line: Line) -> Divergence | None:
        if self._ended == "interrupted":
            return None
        entries = self._rerun.entries
        if digest(entries) == line.fields.get("digest"):
            self._ended = "equal"
            return None
        journal, found = (
            [line for key in sorted(known) for line in show_write("has", key, known[key].record, known[key].revision)]
            for known in (self.told, entries)
        )
        return self._diverge(line, "every call came out equal, and the records that are known in the end are others", journal, found)

    def _diverge(self, line: Line, what: str, journal: Sequence[str], found: Sequence[str]) -> Divergence:
        self._ended = "diverged"
        return Divergence(line.number, self._identity, tuple(_calls(line.fields)), what, tuple(journal), tuple(found))

    def outcome(self) -> Run:
        """What it came to."""
        return Run(
            self._identity, self._version, self.first, self.last, self._calls, self._writes, digest(self._rerun.entries), self._ended
        )


def _calls(fields: Mapping[str, Any]) -> Iterator[str]:
    """What a line was asked, in short."""
    if fields["do"] in ("read", "execute", "close"):
        yield {"read": "to read everything", "execute": "to execute a plan", "close": "to close"}[fields["do"]]
    for document in islice(fields.get("asked", ()), 20):
        name, value = next(iter(document.items()))
        text = dumps(value)
        yield f"{'a plan to ' if fields['do'] == 'plan' else ''}{name} {text if len(text) <= 200 else text[:200] + '...'}"


def _show(value: object) -> list[str]:
    return json.dumps(value, indent=1).splitlines()


def _show_end(raised: Mapping[str, Any] | None) -> list[str]:
    return ["it is done"] if raised is None else [f"{raised['error']}: {raised['says']}"]


def _where(error: BaseException | None) -> list[str]:
    """Where an error that is no answer to a caller came from."""
    if error is None or isinstance(error, IpamError):
        return []
    with suppress(IndexError):
        frame = extract_tb(error.__traceback__)[-1]
        return [f" raised at {frame.filename}:{frame.lineno}, in {frame.name}"]
    return []


__all__: Final = ["Divergence", "Replayed", "Run", "records", "replay"]
