"""The life of a cluster, step by step, through real `Ipam`s on real stores, and judged after each: one machine for any driver.

A *step* is a mapping of plain values, which JSON can hold: what is asked, by which writer, and what goes wrong meanwhile. Whoever
drives chooses steps, by a seed (`fuzz`) or by Hypothesis (`tests/test_ipam_machine.py`); `churn_steps` makes them by chance. The same
steps end in the same records.

    world = World(Stores("memory"))
    world.do({"do": "apply", "by": 0, "pools": [...], "nodes": {"n0": {}}})
    world.do({"do": "allocate", "by": 1, "node": "n0", "owners": ["o0"], "faults": "2*none, crash after"})

What an answer says is judged at once, by the slow twin of `Ipam`. The records are read by the twin's own eyes after every step that
changes blocks or broke off; and from time to time, after every crash and at the end, everything is: the audit, what each `Ipam`
believes against what would be read, and all counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, TypeAlias

from ciliumipam.audit import audit
from ciliumipam.errors import IpamError, StalePlanError, StoreError
from ciliumipam.ipam import Ipam
from ciliumipam.plan_file import plan_from_document, plan_to_document
from ciliumipam.pool import PoolSpec
from ciliumipam.records import KINDS
from ciliumipam.requests import (
    Allocate,
    Applied,
    Apply,
    Drain,
    ForceRelease,
    Grow,
    HandBack,
    Migrate,
    Rebalance,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
    RequestAddresses,
    Shrink,
)
from ciliumipam.store import Store
from ciliumipam.testing.churn_calls import Step, existing_blocks, perform, to_request, to_told
from ciliumipam.testing.churn_counts import judge_counts
from ciliumipam.testing.churn_learning import learn
from ciliumipam.testing.churn_stores import Stores
from ciliumipam.testing.faults import Crash, FaultyStore, Script, Surroundings
from ciliumipam.testing.ipam_oracle import IpamOracle
from ciliumipam.testing.life_reading import read_records
from ciliumipam.testing.oracle_values import Reading, Told
from ciliumipam.testing.pool_oracle import OraclePool
from ciliumipam.testing.pool_values import Values, build

_OF_BLOCKS = (Apply, Grow, Drain, Migrate, RequestAddresses, HandBack, RemoveNode, RemovePool)
_READS_BLOCKS = (Apply, Grow, Drain, Migrate, RequestAddresses, HandBack, RemoveNode)

_Fact: TypeAlias = tuple[str, str, Any, int]
"""Node, owner, address and fence."""


@dataclass(eq=False)
class _Meanwhile:
    """What somebody does while a call is slow, that call, and what was held before and not any more afterwards."""

    step: Step
    outer: Request
    stale: bool
    done: bool = False
    ended: frozenset[_Fact] = frozenset()


class World:
    """A cluster, its writers, and what was acknowledged to their callers.

    Args:
        stores: Where everything is kept. Closed by `close`.
        writers: How many `Ipam`s there are that do not know of each other.
        every: After how many steps everything is judged.

    Attributes:
        oracle: What was acknowledged.
        pools: By name, the values that each was last given with.
        plans: Names of those that are kept.
        done: How many steps were done, by kind.
        faults: How many faults were played, by kind.
    """

    def __init__(self, stores: Stores, *, writers: int = 3, every: int = 1) -> None:
        self.oracle = IpamOracle()
        self.oracle.now = 1000.0
        self.pools: dict[str, Values] = {}
        self.plans: dict[str, tuple[str, Request, int]] = {}
        self.done: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.cut: set[int] = set()
        self._now = self.oracle.now
        self._every = every
        self._stores = stores
        self._inner = stores.open()
        self._around = Surroundings(sleep=self._dawdle, age=0)
        self._twins: dict[PoolSpec, OraclePool] = {}
        self._births = 0
        self._changes = 0
        self._due = False
        self._meanwhile: list[_Meanwhile] = []
        self._trace = sha256()
        self._handles: list[tuple[Store, ...]] = [()] * writers
        self._faulty: list[list[FaultyStore]] = [[] for _ in range(writers)]
        self.ipams = [self._start(writer) for writer in range(writers)]
        self._alone = [True] * writers
        self._fresh = [True] * writers

    @property
    def trace(self) -> str:
        """A digest of all steps and answers. Equal for equal steps, on every machine."""
        return self._trace.hexdigest()[:12]

    def close(self) -> None:
        """Close the stores."""
        self._stores.close()

    # -------------------------------------------------------------------------------------------------- doing

    def do(self, step: Step) -> None:
        """Do one step and judge it.

        Raises:
            AssertionError: An invariant broke.
            KeyError, ValueError: It is no step.
        """
        self._step(step)
        if self._due or not sum(self.done.values()) % self._every:
            self.judge_all()

    def _step(self, step: Step) -> None:
        kind = step["do"]
        self.done[kind] += 1
        self._trace.update(json.dumps(step, sort_keys=True).encode())
        if kind == "time":
            self._now += step["seconds"]
            self.oracle.now = self._now
            self._changes += 1
            return
        by = int(step["by"])
        match kind:
            case "restart":
                self._restart(by)
            case "read":
                self._quietly(by, self.ipams[by].refresh)
            case "look":
                with suppress(StoreError):
                    self.ipams[by].blocks()
            case "cut":
                self.cut.add(by)
                self._around.cut(f"w{by}", unknown=bool(step.get("unknown")))
            case "heal":
                self.cut.discard(by)
                self._around.heal(f"w{by}")
            case "repair":
                self._repair(by, step)
            case "plan":
                self._plan(by, step)
            case "execute":
                self._execute(by, step)
            case _:
                self._ask(by, step, self.request(step))

    def perform(self, by: int, request: Request) -> Any:
        """Make the call that a request stands for, as a writer does."""
        return perform(self.ipams[by], request)

    def handle(self, by: int) -> Sequence[Store]:
        """A writer's way to the stores, with all the faults that it meets."""
        return self._faulty[by]

    def request(self, step: Step) -> Request:
        """What a step asks of an `Ipam`."""
        return to_request(step, self._know)

    def _know(self, values: Values) -> PoolSpec:
        """Build a pool, and keep it, draining and not."""
        spec, twin = build(values)
        for draining in (False, True):
            self._twins[spec.replace(draining=draining)] = replace(twin, draining=draining)
        self.pools[spec.name] = values
        return spec

    def _start(self, by: int) -> Ipam:
        """A new process, so to speak."""
        self._stores.drop(self._handles[by])
        self._handles[by] = self._stores.open()
        self._births += 1
        self._faulty[by] = [FaultyStore(store, name=f"w{by}", around=self._around) for store in self._handles[by]]
        return Ipam(*self._faulty[by], clock=lambda: self._now, identity=f"w{by}-{self._births}", pause=lambda _: None)

    def _restart(self, by: int) -> None:
        self.ipams[by] = self._start(by)
        self._alone[by] = self._fresh[by] = True

    def _quietly(self, by: int, call: Callable[[], object]) -> bool:
        """Read everything; False if the store cannot be reached."""
        try:
            call()
        except StoreError:
            self._alone[by] = self._fresh[by] = False
            return False
        self._alone[by] = self._fresh[by] = True
        return True

    def _call(self, by: int, step: Step, call: Callable[[Ipam], Any], *, blocks: bool) -> Any:
        """What a call answers; None if it broke off. A crashed process is started again."""
        self._overtake(by, blocks=blocks)
        self._changes += 1
        writes, reads = (iter(Script.parse(step.get(what, ""))) for what in ("faults", "reads"))
        self.oracle.faulty = by in self.cut or any(step.get(what) for what in ("faults", "reads"))
        faulty = self._faulty[by]
        for store in faulty:
            store.play(writes, reads)
        answer = None
        try:
            answer = call(self.ipams[by])
        except Crash:
            self.done["(crashes)"] += 1
            self._due = True
            self._restart(by)
        except StalePlanError as error:
            self._fresh[by] = False
            answer = None if error.written else error
        except StoreError:
            self._alone[by] = self._fresh[by] = False  # it may not know what it has written
            if by in self.cut:
                self.faults["cut off"] += 1
        except IpamError as error:
            answer = error
        self._overtake(by, blocks=blocks)  # whoever read while this was slow has not seen what came after
        self.oracle.latest = self._now
        for store in faulty:
            self.faults.update(fault.value for fault in store.fired)
            store.fired.clear()
            store.play()
        self._trace.update(repr(type(answer).__name__ if isinstance(answer, (IpamError, Applied)) else answer).encode())
        return answer

    def _overtake(self, by: int, *, blocks: bool) -> None:
        """The other writers do not know what this one does."""
        for other in range(len(self.ipams)):
            if other != by:
                self._alone[other] = False
                self._fresh[other] &= not blocks

    def _dawdle(self, seconds: float) -> None:
        """Something takes its time: another writer comes first, if the step says so."""
        self._now += seconds
        if self._meanwhile:
            what = self._meanwhile.pop()
            what.done = True
            now = self.oracle.now
            self._learn(what.outer, stale=what.stale)  # as if it had broken off here
            before = self._facts()
            self._step(what.step)
            what.ended = before - self._facts()
            self.oracle.now = now

    # ------------------------------------------------------------------------------------------------- judging

    def _ask(self, by: int, step: Step, request: Request) -> None:
        """Make a call and judge the answer."""
        blocks = isinstance(request, _OF_BLOCKS)
        stale = not self._fresh[by]
        doubt = bool(self.oracle.limbo) and isinstance(request, Apply)

        def call(ipam: Ipam) -> Any:
            if doubt:
                ipam.refresh()  # a removal that broke off is finished by whoever reads everything, as the command does
            return self.perform(by, request)

        meanwhile = _Meanwhile(step["meanwhile"], request, stale) if "meanwhile" in step else None
        if meanwhile is not None:
            self._meanwhile.append(meanwhile)
        earlier = dict(self.oracle.pools)
        answer = self._call(by, step, call, blocks=blocks)
        if meanwhile in self._meanwhile:
            self._meanwhile.remove(meanwhile)
        retried = isinstance(request, Apply) and bool(request.existing) and self.oracle.faulty  # may go on from what it had adopted
        others = meanwhile is not None and meanwhile.done
        if answer is None or retried or others:
            self.oracle.earlier = earlier if others else {}
            self.oracle.faulty |= others
            self._learn(request, stale=stale or others)
            self.oracle.earlier = {}
            if answer is not None:
                self._check_told(request, answer, meanwhile.ended if meanwhile is not None else frozenset())
        else:
            self._fresh[by] |= isinstance(request, _READS_BLOCKS)
            self._judge(request, answer, stale=stale)
        self.oracle.now = self._now

    def _facts(self) -> frozenset[_Fact]:
        """What is acknowledged as held."""
        return frozenset((*pod, each.address, each.fence) for pod, facts in self.oracle.held.items() for each in facts.values())

    def _check_told(self, request: Request, answer: Any, ended: frozenset[_Fact]) -> None:
        """What can be said of an answer to a call during which others did something, and `ended` what may have been told before."""
        held = {(each.node, each.owner, each.address, each.fence) for each in self.read().found.addresses}
        if isinstance(answer, tuple) and not isinstance(answer, Applied) and isinstance(request, (Allocate, Release)):
            for each in answer:
                fact = (each.node, each.owner, each.address, each.fence)
                there = fact in held
                right = there == isinstance(request, Allocate) or fact in ended
                assert right, f"{request} was told {each}, but that is {'' if there else 'not '}held"

    def _judge(self, request: Request, answer: Any, *, stale: bool) -> None:
        oracle = self.oracle
        if isinstance(request, (Allocate, Release, ReleaseFenced, ForceRelease)):
            self._judge_addresses(request, answer, stale=stale)
            return
        reading = self.read()
        error = answer if isinstance(answer, IpamError) else None
        told = error if error is not None else to_told(answer) if isinstance(answer, Applied) else Told()
        match request:
            case Apply():
                labels = {node.name: dict(node.labels) for node in request.nodes}
                oracle.apply([self._twins[spec] for spec in request.pools], labels, existing_blocks(request), told, reading)
            case Grow():
                oracle.grow(request.node, request.blocks, told, reading)
            case Drain():
                oracle.drain(request.kind, request.name, request.cancel, request.space, told, reading)
            case Migrate():
                oracle.migrate(request.node, request.pool, told, reading)
            case RequestAddresses():
                oracle.request(request.node, {(pool, family): count for pool, family, count in request.demand}, told, reading)
            case HandBack():
                oracle.hand_back(request.node, request.block.to_network(), request.fence, request.space, told, reading)
            case RemoveNode():
                oracle.remove_node(request.name, force=request.force, answer=error)
            case RemovePool():
                oracle.remove_pool(request.name, error)
            case Shrink() | Rebalance():
                raise AssertionError("no life asks for it: tests/test_vacate.py judges it")
        self._match(reading)

    def _judge_addresses(self, request: Allocate | Release | ReleaseFenced | ForceRelease, answer: Any, *, stale: bool) -> None:
        oracle = self.oracle
        match request:
            case Allocate():
                pods = [(request.node, owner) for owner in request.owners]
                ghosts = oracle.ghosts & {*pods}
                if isinstance(answer, IpamError):  # what was begun and never given may cool by now, and be in the way
                    oracle.matches_cooling(self.read())
                oracle.allocate(pods, request.address, request.family, request.label, answer, stale=stale)
                if ghosts & oracle.ghosts:  # asked for one family, it may have finished what was begun for the other one
                    oracle.learn(self.read(), gaining=ghosts, losing=ghosts)
            case Release():
                pods = [(request.node, owner) for owner in request.owners]
                oracle.release(pods, missing_ok=request.missing_ok, answer=answer, stale=stale)
            case ReleaseFenced() | ForceRelease():
                pod = oracle.holder(request.space, request.address)
                fence = request.fence if isinstance(request, ReleaseFenced) else None
                oracle.release_address(request.space, request.address, fence, answer, stale=stale)
                if pod in oracle.ghosts:  # with it goes what an earlier call began to release
                    oracle.learn(self.read(), losing=[pod], stale=stale)

    def _learn(self, request: Request, *, stale: bool) -> None:
        reading = self.read()
        learn(self.oracle, reading, request, self._twins, stale=stale)
        self._match(reading)

    def _match(self, reading: Reading) -> None:
        """What is read is what was acknowledged, as of now: something that was slow may have ended later than it was decided."""
        self.oracle.now = self._now
        self.oracle.matches(reading)

    def _repair(self, by: int, step: Step) -> None:
        oracle = self.oracle
        doubt = bool(oracle.ghosts or oracle.limbo or oracle.unapplied)
        answer = self._call(by, step, lambda ipam: ipam.repair(), blocks=True)
        if answer is not None and not doubt:
            self._judge(Apply(), answer, stale=False)
        else:
            assert not isinstance(answer, IpamError), f"a repair was refused with {answer!r}"
            ghosts = {*oracle.ghosts}
            reading = self.read()
            oracle.learn(reading, gaining=ghosts, losing=ghosts, carving=True)
            self._match(reading)
        if answer is not None:
            oracle.ghosts.clear()
            oracle.limbo.clear()
            oracle.settled()
            assert not self.read().found.loose, f"left over after a repair: {self.read().found.loose}"

    def _plan(self, by: int, step: Step) -> None:
        """Decide now, to do it later or never: the plan is kept as text."""
        if not self._quietly(by, self.ipams[by].refresh):
            return
        request = self.request(step["of"])
        before = self._records()
        self.oracle.faulty = False
        try:
            plan = self.ipams[by].plan(request)
        except IpamError as error:
            assert self._records() == before, "a plan that was refused wrote something"
            self._judge(request, error, stale=False)
            return
        assert self._records() == before, "a plan wrote something"
        self.plans[step["name"]] = json.dumps(plan_to_document(plan)), request, self._changes

    def _execute(self, by: int, step: Step) -> None:
        """Carry a plan out, perhaps after somebody has changed something."""
        if step["name"] not in self.plans:
            return
        text, request, changes = self.plans.pop(step["name"])
        plan = plan_from_document(json.loads(text), "a test")
        same = changes == self._changes
        before = self._records()
        answer = self._call(by, step, lambda ipam: ipam.execute(plan), blocks=True)
        if isinstance(answer, StalePlanError):
            assert not same or "conflict" in step.get("faults", ""), f"nothing has changed, but the plan was refused: {answer}"
            assert self._records() == before, "a stale plan changed something"
        elif answer is None or not same:
            self._learn(request, stale=False)
        elif isinstance(request, (ReleaseFenced, ForceRelease)):
            self._judge(request, answer[0], stale=False)
        else:
            self._judge(request, answer if isinstance(request, (Allocate, Release)) else plan.outcome, stale=False)

    # -------------------------------------------------------------------------------------------- what always holds

    def _records(self) -> dict[tuple[str, str], Any]:
        return {(kind, key.name): entry.record for store in self._inner for kind in KINDS for key, entry in store.scan(kind).entries}

    def read(self) -> Reading:
        """What the records say."""
        records = self._records()
        known = {name: record for (kind, name), record in records.items() if kind == "node"}
        return Reading(
            {name: replace(self._twins[record.spec], since=record.since) for (kind, name), record in records.items() if kind == "pool"},
            {name: dict(record.node.labels) for name, record in known.items()},
            frozenset(name for name, record in known.items() if record.draining),
            read_records(records),
            {name: {(pool, family): count for pool, family, count in record.demand} for name, record in known.items() if record.demand},
        )

    def judge_all(self) -> None:
        """Judge everything there is.

        Raises:
            AssertionError: An invariant broke.
        """
        self._due = False
        oracle, reading = self.oracle, self.read()
        self._match(reading)
        if not (oracle.ghosts or oracle.limbo or oracle.unfinished):
            assert not reading.found.loose, f"left over, though nothing broke off: {reading.found.loose}"
        errors = [each for each in audit(*self._inner).findings if each.severity == "error"]
        assert not errors, f"the audit finds {errors}"
        fresh = Ipam(*self._inner, clock=lambda: self._now)
        self._judge_beliefs(fresh)
        judge_counts(fresh, oracle)

    def _judge_beliefs(self, fresh: Ipam) -> None:
        """What each writer knows is sound, and is what would be read, where nobody else wrote since."""
        now = _shown(fresh)
        for by, ipam in enumerate(self.ipams):
            if by in self.cut:
                continue
            ipam.check_invariants()
            if self._alone[by]:
                assert _shown(ipam) == now, f"writer {by} does not know what is there"
                for node in fresh.nodes():
                    assert ipam.explain(node.node.name) == fresh.explain(node.node.name), f"writer {by} explains {node.node.name} otherwise"


def _shown(ipam: Ipam) -> tuple[object, ...]:
    return ipam.pools(), ipam.nodes(), ipam.blocks(), ipam.allocations()


__all__ = ["World"]
