"""Stores that answer what a journal says that they answered, and refuse to be asked anything else. For `replay`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from ciliumipam.journal.lines import CODEC, dumps, read_change, read_key, read_raised, read_revision
from ciliumipam.records import Entry, Key, Kind, Page, Record, Revision
from ciliumipam.store import ABSENT, Expect, Listing, Store, Write


class Read(NamedTuple):
    """A read that found something else than was known."""

    verb: str
    what: Key | Kind
    found: tuple[tuple[Key, Entry | None], ...]
    error: BaseException | None


class Wrote(NamedTuple):
    """Writes, and what became of them."""

    verb: str
    writes: tuple[tuple[Key, Record | None, Expect], ...]
    revisions: tuple[Revision | None, ...]
    error: BaseException | None


Answer: TypeAlias = int | Read | Wrote
"""A number is so many reads that found what was known."""


def read_answers(items: Sequence[Any], known: dict[Key, Entry]) -> list[Answer]:
    """What the stores answered, over what was known before; brings that up to date."""

    def record(key: Key) -> Record | None:
        return known[key].record if key in known else None

    answers: list[Answer] = []
    for item in items:
        if isinstance(item, int):
            answers.append(item)
            continue
        verb, what = next(iter(item.items()))
        error = read_raised(item["raised"]) if "raised" in item else None
        if verb in ("get", "scan"):
            found = [_entry(read_change(each, record), each["revision"]) for each in item["found"]]
            answers.append(Read(verb, read_key(what) if verb == "get" else what, tuple(found), error))
            changed = found
        else:
            writes = [(*read_change(each, record), read_revision(each["expect"]) or ABSENT) for each in what]
            revisions = tuple(map(read_revision, item["revisions"]))
            answers.append(Wrote(verb, tuple(writes), revisions, error))
            changed = [_entry((key, put), revision) for (key, put, _), revision in zip(writes, revisions, strict=False)]
        for key, entry in changed:
            _take(known, key, entry)
    return answers


def _entry(change: tuple[Key, Record | None], revision: str | None) -> tuple[Key, Entry | None]:
    key, record = change
    return key, Entry(record, Revision(revision)) if record is not None and revision is not None else None


def _take(known: dict[Key, Entry], key: Key, entry: Entry | None) -> None:
    if entry is None:
        known.pop(key, None)
    else:
        known[key] = entry


class DivergedError(BaseException):
    """Leaves the code that diverged; no code of the library may catch it and go on."""

    def __init__(self, what: str, journal: Sequence[str], replay: Sequence[str]) -> None:
        super().__init__(what)
        self.what, self.journal, self.replay = what, tuple(journal), tuple(replay)


class Script:
    """What the stores of one run answer next."""

    def __init__(self) -> None:
        self.known: dict[Key, Entry] = {}
        self.answers: deque[Answer] = deque()
        self.diverged: DivergedError | None = None

    def read(self, verb: str, what: Key | Kind) -> None:
        """A read: afterwards `known` has what it finds."""
        answer = self.answers[0] if self.answers else None
        if isinstance(answer, int):
            self.answers.popleft()
            if answer > 1:
                self.answers.appendleft(answer - 1)
            return
        if not isinstance(answer, Read) or (answer.verb, answer.what) != (verb, what):
            raise self._diverge("the replay asks the store for something else", answer, [f"{verb} {what}"])
        self.answers.popleft()
        for key, entry in answer.found:
            _take(self.known, key, entry)
        if answer.error is not None:
            raise answer.error

    def write(self, verb: str, writes: Sequence[tuple[Key, Record | None, Expect]]) -> list[Revision | None]:
        """Writes: the revisions that they got then, if they are the same ones."""
        answer = self.answers[0] if self.answers else None
        if not isinstance(answer, Wrote) or (answer.verb, answer.writes) != (verb, tuple([tuple(write) for write in writes])):
            what = "the replay writes something else" if isinstance(answer, Wrote) else "the replay writes where the journal does not"
            raise self._diverge(what, answer, [line for write in writes for line in show_write(verb, *write)])
        self.answers.popleft()
        for (key, record, _), revision in zip(writes, answer.revisions, strict=False):
            _take(self.known, *_entry((key, record), revision))
        if answer.error is not None:
            raise answer.error
        return list(answer.revisions)

    def _diverge(self, what: str, answer: Answer | None, found: Sequence[str]) -> BaseException:
        if self.diverged is None:  # what follows from the first one does not count
            self.diverged = DivergedError(what, show_answer(answer), found)
        return self.diverged


def show_answer(answer: Answer | None) -> list[str]:
    """An answer in lines; None is the end of them."""
    if answer is None:
        return ["nothing more is asked of the store"]
    if isinstance(answer, int):
        return [f"a read that finds what is known ({answer} of them)"]
    if isinstance(answer, Read):
        return [f"{answer.verb} {answer.what}"]
    return [line for write in answer.writes for line in show_write(answer.verb, *write)]


def show_write(verb: str, key: Key, record: Record | None, expect: Expect) -> list[str]:
    """A write in lines: one for each slot, holder or field."""
    head = [f"{verb} {key}", f" expects {'nothing to be there' if expect is ABSENT else f'revision {expect}'}"]
    if record is None:
        return head
    text = CODEC.encode(key, record)
    if isinstance(record, Page):
        first, *slots, _ = text.split("\n")
        return [*head, f" {first}", *(f"  slot {index}: {slot.rstrip(',')}" for index, slot in enumerate(slots))]
    fields = json.loads(text)
    holders = fields.pop("claims", {})
    return [
        *head,
        *(f"  {name}: {dumps(value)}" for name, value in fields.items()),
        *(f"  claims of {holder}: {dumps(pieces)}" for holder, pieces in holders.items()),
    ]


# --------------------------------------------------------------------------------------------------------- the stores


class _ReplayStore:
    """A store that answers what the journal says."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def get(self, key: Key) -> Entry | None:
        self._script.read("get", key)
        return self._script.known.get(key)

    def scan(self, kind: Kind) -> Listing:
        self._script.read("scan", kind)
        found = sorted((item for item in self._script.known.items() if item[0].kind == kind), key=lambda item: item[0])
        return Listing(tuple(found), Revision("replayed"))

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        return _revisions(self._script.write("put", [(key, record, expect)]))[0]

    def delete(self, key: Key, *, expect: Revision) -> None:
        self._script.write("delete", [(key, None, expect)])

    def close(self) -> None:
        """Nothing is open."""


class _OrderedReplayStore(_ReplayStore):
    """One that could do several puts in one go."""

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        return _revisions(self._script.write("put_in_order", writes))


class _TogetherReplayStore(_ReplayStore):
    """One at which several puts at once were quicker."""

    def put_together(self, writes: Sequence[Write]) -> list[Revision]:
        return _revisions(self._script.write("put_together", writes))


def replay_store(script: Script, *, ordered: bool, together: bool) -> Store:
    """A store that answers by a script, with the capabilities that that one had."""
    if ordered:
        return _OrderedReplayStore(script)
    return _TogetherReplayStore(script) if together else _ReplayStore(script)


def _revisions(found: Sequence[Revision | None]) -> list[Revision]:
    return [revision for revision in found if revision is not None]
