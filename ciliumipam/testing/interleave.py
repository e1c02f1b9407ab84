"""The interleaving checker: every order in which the steps of several writers can happen, walked through the production code.

A *scenario* is a store as some calls left it, and a few *actors*: programs that run calls through `session.run`, the same
generators, tasks, views and ledger that `Ipam` uses. Only the store and the scheduler are replaced. Every read and every single
compare-and-set is one step; between any two of them every other actor may do any number of its own, or the actor may never go on
(a crash, or a sleeper that wakes up at the end). A scenario can add answers that are lost (before or after the effect) and writes
that are delivered late. Each state is visited once, and in each the invariants are checked over raw records (`testing.raw`) and
what was acknowledged to callers:

1. Everything acknowledged is held, by whom and where it was told, until a call that was asked to release it sets out to do so.
2. No two holdings that count overlap; no owner has two addresses of a family on a node; no node two blocks of a family.
3. Whatever counts is named by its holder's claim, so that it can be found and released.
4. A call ends as the scenario allows, however the others stand, and within a bounded number of steps of its own.
5. When all calls have ended and none gave up, nothing is held that no caller was told of: a call that fails leaves nothing.
6. Whatever begins to be held does so under a later fence than all that was ever held of its addresses, in blocks of any length.
7. Where a node keeps its addresses in a store of its own: what is told lies in a block that is the node's, at that moment by the
   store in which blocks are decided, and for as long as it is held, unless the scenario takes blocks by force.

An actor is a deterministic function of the answers that it got. So its state is named by these answers, found by running its
program along them, and remembered; a state of the whole is the records, the actors' names and what is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ciliumipam.draft import Step
from ciliumipam.errors import ConflictError, StoreUnavailableError
from ciliumipam.records import ClaimPage, Entry, Key, Record, Revision
from ciliumipam.session import Answer, Get, Operation, Pause, Put, Room, Scan, Written
from ciliumipam.store import ABSENT, Listing
from ciliumipam.testing.actors import EVENTS, Aims, Begins, Ended, Event, Program, Scenario, call
from ciliumipam.testing.blocking import Ahead
from ciliumipam.testing.raw import Counted, Told, counted_addresses, counted_blocks, judge

_STORE = ":"
"""Stands between a store that is a node's own and the kind of a record in it, or the address space of a holding."""


class Violation(AssertionError):  # noqa: N818 - as users of a checker say it
    """An invariant that broke, with the steps that led there."""


@dataclass
class Walked:
    """What a walk saw."""

    states: int = 0
    steps: int = 0
    ends: dict[str, int] = field(default_factory=dict)


class _Node:
    """An actor after some answers: what it does next, what it has told in getting there."""

    __slots__ = ("children", "depth", "events", "operation", "outcome", "parent")

    def __init__(self, parent: tuple[_Node, int] | None, depth: int) -> None:
        self.parent = parent
        self.depth = depth
        self.children: dict[int, _Node] = {}
        self.operation: Operation | None = None
        self.events: list[Event] = []
        self.outcome: str | None = None


class _Entry(NamedTuple):
    """One state of one record; a deleted one keeps its count, so that no revision comes twice."""

    key: Key
    record: Record | None
    revision: int


class _Ended(Exception):  # noqa: N818 - carries a sentence to where the trace is known
    """A call ended in a way that its scenario does not allow."""


class _State(NamedTuple):
    """Everything that the future depends on.

    Attributes:
        world: Entry number of every key, 0 where there never was one.
        nodes: Per actor, the number of its node.
        at: Per actor, the revisions of those writes of its present `Put` that are done.
        under_way: Writes that will be delivered late.
        lost, late: How many faults are still allowed.
        told: What was told and still binds.
        aimed: What somebody set out to end.
        ended: What somebody who set out to end it has returned from.
        before: Per actor, `ended` when its present call began.
        used: What was ever held, but for what lies in a piece that was held later.
    """

    world: tuple[int, ...]
    nodes: tuple[int, ...]
    at: tuple[tuple[int, ...], ...]
    under_way: tuple[tuple[Key, int, str], ...]
    lost: int
    late: int
    told: frozenset[Told]
    aimed: frozenset[Told]
    ended: frozenset[Told]
    before: tuple[frozenset[Told], ...]
    used: frozenset[Counted]


class Checker:
    """Walks one scenario.

    Args:
        scenario: What to walk.
        limit: Largest number of states; more is an error, so that a figure is always that of a complete walk.
        depth: Most steps that one actor may need.
    """

    def __init__(self, scenario: Scenario, *, limit: int = 5_000_000, depth: int = 1000) -> None:
        self.scenario = scenario
        self._limit, self._depth = limit, depth
        self._keys: list[Key] = []
        self._key_numbers: dict[Key, int] = {}
        self._entries: list[_Entry] = [_Entry(Key("node", ""), None, 0)]
        self._entry_numbers: dict[tuple[Key, Any, int], int] = {}
        self._listed: dict[tuple[str, tuple[int, ...]], int] = {}
        self._answers: list[Answer] = [None]
        self._answer_numbers: dict[Any, int] = {}
        self._nodes: list[_Node] = []
        self._node_numbers: dict[int, int] = {}
        self._before: frozenset[Told] = frozenset()
        self._live: list[tuple[_Node, Program] | None] = [None] * len(scenario.actors)
        self._verdicts: dict[tuple[int, ...], frozenset[Told]] = {}
        self._held: dict[tuple[int, ...], frozenset[Counted]] = {}

    # --------------------------------------------------------------------------------------------------- walking

    def walk(self) -> Walked:
        """Visit every state.

        Raises:
            Violation: An invariant broke; the text has the steps.
        """
        walked = Walked()
        start = self._start()
        self._before = self._check(start)
        seen: dict[_State, tuple[_State, str] | None] = {start: None}
        stack = [start]
        while stack:
            state = stack.pop()
            try:
                self._check(state)
                moves = list(self._moves(state))
            except (_Ended, AssertionError) as error:
                raise Violation(self._trace(seen, state, str(error))) from error
            if not moves:
                self._check_end(seen, state)
                outcomes = zip(self.scenario.actors, state.nodes, strict=True)
                ends = " ".join(f"{actor.name}={self._nodes[number].outcome}" for actor, number in outcomes)
                walked.ends[ends] = walked.ends.get(ends, 0) + 1
            for label, moved in moves:
                walked.steps += 1
                try:
                    after = moved._replace(used=self._use(state.used, state.world, moved.world))
                except AssertionError as error:
                    raise Violation(f"{self._trace(seen, state, str(error))}\n  {label}") from error
                if after not in seen:
                    seen[after] = (state, label)
                    stack.append(after)
            if len(seen) > self._limit:
                raise AssertionError(f"{self.scenario.name}: more than {self._limit} states")
        walked.states = len(seen)
        return walked

    def _trace(self, seen: dict[_State, tuple[_State, str] | None], state: _State, reason: str) -> str:
        lines = []
        came = seen[state]
        while came is not None:
            lines.append("  " + came[1])
            came = seen[came[0]]
        return "\n".join([f"{self.scenario.name}: {reason}", *reversed(lines)])

    def _start(self) -> _State:
        world: dict[Key, tuple[Record | None, int]] = {}
        numbers: tuple[int, ...] = ()
        used: frozenset[Counted] = frozenset()
        calls = [call(make, name=f"setup{number}") for number, make in enumerate(self.scenario.setup)]
        for start in (*calls, *self.scenario.prepare):
            program = start()
            answer: Answer = None
            try:
                while True:
                    operation = program.send(answer)
                    if isinstance(operation, EVENTS):
                        answer = None
                        continue
                    answer = self._alone(world, operation)
            except StopIteration as stop:
                if stop.value != "done":
                    raise AssertionError(f"{self.scenario.name}: the setup ended with {stop.value}") from None
            entries = {self._key(key): self._entry(key, record, revision) for key, (record, revision) in world.items()}
            before, numbers = numbers, tuple(entries[index] for index in range(len(self._keys)))
            used = self._use(used, before, numbers)
        count = len(self.scenario.actors)
        return _State(
            world=numbers,
            nodes=tuple(self._root(number) for number in range(count)),
            at=((),) * count,
            under_way=(),
            lost=self.scenario.lost,
            late=self.scenario.late,
            told=frozenset(),
            aimed=frozenset(),
            ended=frozenset(),
            before=(frozenset(),) * count,
            used=used,
        )

    def _alone(self, world: dict[Key, tuple[Record | None, int]], operation: Operation) -> Answer:
        if isinstance(operation, Get):
            record, revision = world.get(operation.key, (None, 0))
            return Entry(record, Revision(str(revision))) if record is not None else None
        if isinstance(operation, Scan):
            return Listing(
                tuple(
                    (key, Entry(record, Revision(str(revision))))
                    for key, (record, revision) in sorted(world.items())
                    if key.kind == operation.kind and record is not None
                ),
                Revision("0"),
            )
        if isinstance(operation, Put):
            revisions: list[Revision | None] = []
            for step in operation.steps:
                number = world[step.key][1] + 1 if step.key in world else 1
                world[step.key] = (step.record, number)
                revisions.append(Revision(str(number)) if step.record is not None else None)
            return Written(tuple(revisions))
        return None

    # ------------------------------------------------------------------------------------------------ numbering

    def _key(self, key: Key) -> int:
        number = self._key_numbers.get(key)
        if number is None:
            number = self._key_numbers[key] = len(self._keys)
            self._keys.append(key)
        return number

    def _entry(self, key: Key, record: Record | None, revision: int) -> int:
        name = (key, _hashable(record), revision)
        number = self._entry_numbers.get(name)
        if number is None:
            number = self._entry_numbers[name] = len(self._entries)
            self._entries.append(_Entry(key, record, revision))
        return number

    def _answer(self, name: Any, make: Callable[[], Answer]) -> int:
        number = self._answer_numbers.get(name)
        if number is None:
            number = self._answer_numbers[name] = len(self._answers)
            self._answers.append(make())
        return number

    # --------------------------------------------------------------------------------------------------- actors

    def _number(self, node: _Node) -> int:
        number = self._node_numbers.get(id(node))
        if number is None:
            number = self._node_numbers[id(node)] = len(self._nodes)
            self._nodes.append(node)
        return number

    def _root(self, actor: int) -> int:
        node = _Node(None, 0)
        program = self.scenario.actors[actor].program()
        self._advance(actor, node, program, lambda: next(program))
        return self._number(node)

    def _advance(self, actor: int, node: _Node, program: Program, resume: Callable[[], Operation | Event]) -> None:
        """Run a program to its next operation, noting what it tells."""
        try:
            event = resume()
            while isinstance(event, (*EVENTS, Pause, Room)):
                if not isinstance(event, (Pause, Room)):
                    node.events.append(event)
                event = next(program)
            node.operation = event
            self._live[actor] = (node, program)
        except StopIteration as stop:
            node.outcome = stop.value
            self._live[actor] = None

    def _child(self, actor: int, node: _Node, answer: int) -> _Node:
        child = node.children.get(answer)
        if child is not None:
            return child
        if node.depth >= self._depth:
            raise Violation(f"{self.scenario.name}: {self.scenario.actors[actor].name} does not end within {self._depth} steps")
        live = self._live[actor]
        program = live[1] if live is not None and live[0] is node else self._replay(actor, node)
        child = _Node((node, answer), node.depth + 1)
        self._advance(actor, child, program, lambda: program.send(self._answers[answer]))
        node.children[answer] = child
        return child

    def _replay(self, actor: int, node: _Node) -> Program:
        path = []
        at = node
        while at.parent is not None:
            at, answer = at.parent
            path.append(answer)
        program = self.scenario.actors[actor].program()
        event = next(program)
        while True:
            while isinstance(event, (*EVENTS, Pause, Room)):  # here no store can tell what room there is
                event = next(program)
            if not path:
                return program
            event = program.send(self._answers[path.pop()])

    # ---------------------------------------------------------------------------------------------------- moves

    def _moves(self, state: _State) -> Iterable[tuple[str, _State]]:
        for actor, number in enumerate(state.nodes):
            node = self._nodes[number]
            operation = node.operation
            name = self.scenario.actors[actor].name
            if isinstance(operation, (Get, Scan)):
                yield self._read(state, actor, name, operation)
            elif isinstance(operation, Put):
                yield from self._put(state, actor, name, operation)
        for index, (key, entry, expect) in enumerate(state.under_way):
            waiting = state.under_way[:index] + state.under_way[index + 1 :]
            at = self._key(key)
            if self._fits(state.world, at, expect):
                yield f"late: {key}", state._replace(world=_set(state.world, at, entry), under_way=waiting)
            else:
                yield f"late, in vain: {key}", state._replace(under_way=waiting)

    def _fits(self, world: tuple[int, ...], index: int, expect: str) -> bool:
        present = self._entries[_at(world, index)]
        return expect == ("" if present.record is None else str(present.revision))

    def _get(self, world: tuple[int, ...], key: Key) -> int:
        entry = _at(world, self._key(key))
        return self._answer(("get", entry), lambda: _as_entry(self._entries[entry]))

    def _read(self, state: _State, actor: int, name: str, operation: Get | Scan) -> tuple[str, _State]:
        """One read, or, where the actor does not take them apart, all that follow each other."""
        what = []
        following: Operation | None = operation
        while isinstance(following, (Get, Scan)):
            if isinstance(following, Get):
                what.append(str(following.key))
                state = self._after(state, actor, self._get(state.world, following.key))
            else:
                what.append(f"all of {following.kind}")
                state = self._after(state, actor, self._listing(state.world, following))
            if self.scenario.actors[actor].apart:
                break
            following = self._nodes[state.nodes[actor]].operation
        return f"{name} reads {', '.join(what)}", state

    def _peek(self, world: tuple[int, ...], operation: Operation) -> int:
        assert isinstance(operation, (Get, Scan))
        return self._get(world, operation.key) if isinstance(operation, Get) else self._listing(world, operation)

    def _listing(self, world: tuple[int, ...], operation: Scan) -> int:
        numbers = tuple(sorted(number for number in world if self._entries[number].key.kind == operation.kind))
        return self._answer(("scan", operation.kind, numbers), lambda: self._as_listing(numbers))

    def _as_listing(self, numbers: tuple[int, ...]) -> Listing:
        entries = sorted((self._entries[number] for number in numbers), key=lambda entry: entry.key)
        return Listing(tuple((each.key, found) for each in entries if (found := _as_entry(each)) is not None), Revision("0"))

    def _put(self, state: _State, actor: int, name: str, operation: Put) -> Iterable[tuple[str, _State]]:
        done = state.at[actor]
        step = operation.steps[len(done)]
        index = self._key(step.key)
        expect = "" if step.expect is ABSENT else str(step.expect)
        fits = self._fits(state.world, index, expect)
        revision = self._entries[_at(state.world, index)].revision + 1
        written = self._entry(step.key, step.record, revision) if fits else 0
        world = _set(state.world, index, written) if fits else state.world
        known = _revisions(operation.steps, done)
        if not fits:
            conflict = self._answer(("conflict", known), lambda: Written(known, ConflictError("record", "expected", "other")))
            yield f"{name} writes in vain: {step.key}", self._after(state, actor, conflict)
        elif len(done) + 1 < len(operation.steps):
            yield f"{name} writes {step.key}", state._replace(world=world, at=_set(state.at, actor, (*done, revision)))
        else:
            revisions = _revisions(operation.steps, (*done, revision))
            answer = self._answer(("done", revisions), lambda: Written(revisions))
            yield f"{name} writes {step.key}", self._after(state._replace(world=world), actor, answer)
        lost = StoreUnavailableError("put", "the answer was lost", True)  # noqa: FBT003 - its arguments are positional
        unknown = self._answer(("unknown", known), lambda: Written(known, lost))
        if state.lost:
            fewer = state._replace(lost=state.lost - 1)
            yield f"{name}: lost before {step.key}", self._after(fewer, actor, unknown)
            if fits:
                yield f"{name}: answer lost after {step.key}", self._after(fewer._replace(world=world), actor, unknown)
        if state.late and fits:
            waiting = tuple(sorted((*state.under_way, (step.key, written, expect))))
            fewer = state._replace(late=state.late - 1, under_way=waiting)
            yield f"{name}: will be late with {step.key}", self._after(fewer, actor, unknown)

    def _after(self, state: _State, actor: int, answer: int) -> _State:
        """The state after an actor got an answer: its next node, and what it told in getting there."""
        Ahead.read = lambda operation: self._answers[self._peek(state.world, operation)]
        try:
            child = self._child(actor, self._nodes[state.nodes[actor]], answer)
        finally:
            Ahead.read = None
        told, aimed, ended, before = state.told, state.aimed, state.ended, state.before
        for event in child.events:
            if isinstance(event, Aims):
                aimed |= {event.at}
                # of what was told together, a part that was aimed at before counts until the rest is aimed at as well
                told = frozenset(each for each in told if each not in aimed or each[3:] != event.at[3:])
            elif isinstance(event, Begins):
                before = _set(before, actor, ended)
            elif isinstance(event, Ended):
                ended |= event.told
            elif not (aimed - before[actor]).issuperset(event.told):
                self._check_blocks(state.world, event.told)
                told = told.union(event.told)
        if child.outcome is not None:
            allowed = (*self.scenario.actors[actor].may_end, "RetriesExhaustedError")
            if child.outcome not in allowed:
                name = self.scenario.actors[actor].name
                raise _Ended(f"{name} ended with {child.outcome}, allowed: {', '.join(allowed)}")
        return state._replace(
            nodes=_set(state.nodes, actor, self._number(child)), at=_set(state.at, actor, ()), told=told, aimed=aimed, ended=ended, before=before
        )

    # --------------------------------------------------------------------------------------------------- checks

    def _check(self, state: _State) -> frozenset[Told]:
        key = tuple(number for number in state.world if self._entries[number].record is not None)
        counted = self._verdicts.get(key)
        if counted is None:
            entries = [self._entries[number] for number in key]
            found: set[Told] = set()
            for store, records in _by_store(entries).items():
                found.update(each._replace(space=_space(store, each.space)) for each in judge(records, self.scenario.blocks_per_node))
            counted = self._verdicts[key] = frozenset(found)
        for told in state.told:
            if told not in counted:
                raise AssertionError(f"{told} was told to a caller and is not held")
        if not self.scenario.by_force:
            self._check_blocks(state.world, state.told)
        return counted

    def _check_blocks(self, world: tuple[int, ...], told: Iterable[Told]) -> None:
        """What is told of a store that is a node's own lies in a block that the shared store says is that node's."""
        for each in told:
            store, _, _ = each.space.rpartition(_STORE)
            if store and each.node and not any(
                block.holder == store and not block.node and block.family == each.family and block.first <= each.first <= block.last
                for block in self._counted(world)
                if _STORE not in block.space
            ):
                raise AssertionError(f"{each} was told to a caller, and lies in no block of the node")

    def _counted(self, world: tuple[int, ...]) -> frozenset[Counted]:
        """Every block and every address that counts."""
        pages = tuple(number for number in world if self._entries[number].key.kind.endswith(("block-page", "address-page")))
        held = self._held.get(pages)
        if held is None:
            found: set[Counted] = set()
            for store, records in _by_store([self._entries[number] for number in pages if self._entries[number].record is not None]).items():
                blocks = counted_blocks(records)
                every = (*blocks, *(each for block in blocks for each in counted_addresses(records, block)))
                found.update(each._replace(space=_space(store, each.space)) for each in every)
            held = self._held[pages] = frozenset(found)
        return held

    def _use(self, used: frozenset[Counted], before: tuple[int, ...], after: tuple[int, ...]) -> frozenset[Counted]:
        """What has ever been held, after a step; what begins to be held with it must have a fence of its own."""
        if after == before:
            return used
        for each in sorted(self._counted(after) - self._counted(before)):
            over = {other for other in used if each.overlaps(other)}
            for other in over:
                if other.fence >= each.fence:
                    raise AssertionError(f"{each} has no later fence than {other}, which was held before")
            used = frozenset((*(other for other in used if other not in over or not each.covers(other)), each))
        return used

    def _check_end(self, seen: dict[_State, tuple[_State, str] | None], state: _State) -> None:
        """When every call has ended, and none gave up, no address is held that nobody was told of: calls are all or nothing."""
        if any(self._nodes[number].outcome in ("RetriesExhaustedError", "LeaseExpiredError") for number in state.nodes):
            return  # a call whose lease ended leaves what it wrote: another one of the same owner may have been told
        for each in self._check(state) - self._before - state.told:
            if each.node:
                raise Violation(self._trace(seen, state, f"{each} is held when all calls have ended, and nobody was told"))


def _by_store(entries: Iterable[_Entry]) -> dict[str, dict[tuple[str, str], Any]]:
    """Records by the store that they are in, "" for the one that nodes share, then by kind and name."""
    found: dict[str, dict[tuple[str, str], Any]] = {"": {}}
    for each in entries:
        store, _, kind = each.key.kind.rpartition(_STORE)
        found.setdefault(store, {})[kind, each.key.name] = each.record
    return found


def _space(store: str, space: str) -> str:
    """An address space of a store, told apart from that of the others."""
    return f"{store}{_STORE}{space}" if store else space


def _as_entry(entry: _Entry) -> Entry | None:
    return Entry(entry.record, Revision(str(entry.revision))) if entry.record is not None else None


def _revisions(steps: Sequence[Step], done: tuple[int, ...]) -> tuple[Revision | None, ...]:
    return tuple(None if step.record is None else Revision(str(count)) for step, count in zip(steps, done, strict=False))


def _at(world: tuple[int, ...], index: int) -> int:
    return world[index] if index < len(world) else 0


def _set(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    if index >= len(values):
        values += ((0,) * (index + 1 - len(values)))
    return (*values[:index], value, *values[index + 1 :])


def _hashable(record: Record | None) -> Any:
    """A record as something that can be a key: claim pages have a mapping."""
    if isinstance(record, ClaimPage):
        return (tuple(sorted(record.claims.items())), tuple(sorted(record.tentative.items())), record.closing, record.draining)
    return record


__all__ = ["Checker", "Violation", "Walked"]
