"""One allocator beside the oracle: does steps, and judges every answer."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple

from ciliumipam.testing.torture.calling import check, failed, outcome_of, outcomes_at_once
from ciliumipam.testing.torture.oracle import Breach, Oracle
from ciliumipam.testing.torture.protocol import (
    Address,
    Allocator,
    Call,
    CallRefusedError,
    Claims,
    Failed,
    Given,
    Outcome,
    SupportsRestart,
    SupportsTogether,
    SupportsWriters,
    Writer,
)
from ciliumipam.testing.torture.steps import Allocate, Open, Release, Restart, Step, Together


class Line(NamedTuple):
    """A step that was done, what was answered, for people, and which sort of step had which sort of answer, for counting."""

    step: Step
    answer: str
    kind: str


class Trial:
    """An allocator from one `open` to the next.

    Attributes:
        lines: What was done since.
        calls: How many calls the allocator has got, in all trials.
        refused: Why the range is not served; None if it is.
    """

    def __init__(self, allocator: Allocator) -> None:
        """Nothing is open.

        Raises:
            TypeError: The adapter lacks a method of what it claims.
        """
        check(allocator)
        self._allocator = allocator
        self._claims: Claims = allocator.claims
        self._second: Writer | None = None
        self.lines: list[Line] = []
        self.calls = 0
        self.refused: str | None = None
        self._oracles: list[Oracle] = []

    @property
    def oracle(self) -> Oracle:
        """What is known, once a range is open. After calls at once it may be one of several things; then it is any of them."""
        return self._oracles[0]

    @property
    def doubtful(self) -> list[str]:
        """Owners of which it is not known what they hold."""
        held = [{(number, holding.owner) for number, holding in oracle.held.items()} for oracle in self._oracles]
        return sorted({owner for one in held[1:] for _, owner in one ^ held[0]})

    def perform(self, step: Step) -> Breach | None:
        """Do a step. What the allocator does not claim is left out."""
        match step:
            case Open():
                return self._open(step)
            case Restart():
                return self._restart(step)
            case Together(first, second):
                return self._together(step, self._call(first), self._call(second))
            case Allocate() | Release():
                call = self._call(step)
                outcome = self._make(call)
                told = f"{call.address}: {outcome}" if step.of is not None and call.address is not None else str(outcome)
                what = "allocate a given address" if call.verb == "allocate" and call.address is not None else call.verb
                self._note(step, told, f"{what}: {_sort(outcome)}")
                if len(self._oracles) == 1:
                    return self.oracle.judge(call, outcome)
                return self._judge([oracle.judging((call, outcome)) for oracle in self._oracles])

    # ------------------------------------------------------------------------------------------------- steps

    def _open(self, step: Open) -> Breach | None:
        self.lines = []
        self.refused = None
        self._second = None
        self.calls += 1
        try:
            offer = [(ip_address(str(first)), ip_address(str(last))) for first, last in self._allocator.open(step.network)]
        except CallRefusedError as error:
            self.refused = str(error) or "no reason given"
            self._note(step, f"refused: {self.refused}", "open: refused")
            return None
        except Exception as error:  # noqa: BLE001 - whatever a stranger's allocator raises is the finding
            return self._broke(step, f"opening {step.network}", failed(error))
        self._oracles = [Oracle(step.network, offer, self._claims)]
        runs = [str(first) if first == last else f"{first} to {last}" for first, last in offer]
        shown = ", ".join(runs[:4]) + (", ..." if len(runs) > 4 else "")
        self._note(step, f"may give {shown}" if runs else "may give nothing", "open: done")
        return self.oracle.offer_breach()

    def _note(self, step: Step, answer: str, kind: str) -> None:
        self.lines.append(Line(step, answer.partition("\n")[0], kind))

    def _broke(self, step: Step, doing: str, how: Failed) -> Breach:
        self._note(step, str(how), f"{doing.partition(' ')[0]}: failed")
        return Breach("hung" if how.hung else "failed", f"{doing}: {how.why}")

    def _restart(self, step: Restart) -> Breach | None:
        if not (self._claims.restarts and isinstance(self._allocator, SupportsRestart)):
            self._note(step, "left out: not claimed", "restart: left out")
            return None
        self._second = None
        self.calls += 1
        try:
            self._allocator.restart()
        except Exception as error:  # noqa: BLE001 - as above
            return self._broke(step, "restarting", failed(error))
        for oracle in self._oracles:
            oracle.restarted()
        self._note(step, "done", "restart: done")
        return None

    def _together(self, step: Together, first: Call, second: Call) -> Breach | None:
        """Two calls at once are right if they are right one after the other, in whichever order."""
        if self._claims.writers != "at once":
            self._note(step, "left out: not claimed", "at once: left out")
            return None
        self.calls += 2
        if isinstance(self._allocator, SupportsTogether):
            try:
                one, two = self._allocator.together((first, second))
            except Exception as error:  # noqa: BLE001 - as above
                one = two = failed(error)
        else:
            try:
                writers = (self._writer(0), self._writer(1))
                one, two = outcomes_at_once(writers, (first, second))
            except Exception as error:  # noqa: BLE001 - as above
                one = two = failed(error)
        self._note(step, f"{one} | {two}", f"at once: {' and '.join(sorted((_sort(one), _sort(two))))}")
        orders = (((first, one), (second, two)), ((second, two), (first, one)))
        breach = self._judge([oracle.judging(*order) for oracle in self._oracles for order in orders])
        return breach and breach._replace(sentence=f"two calls at once, in either order: {breach.sentence}")

    def _judge(self, judged: Sequence[tuple[Oracle, Breach | None]]) -> Breach | None:
        """Go on with what an answer leaves possible."""
        possible = {frozenset((number, holding.owner) for number, holding in oracle.held.items()): oracle for oracle, breach in judged if breach is None}
        if not possible:
            return judged[0][1]
        self._oracles = list(possible.values())
        return None

    # ------------------------------------------------------------------------------------------------- calls

    def _call(self, step: Allocate | Release) -> Call:
        writer = step.writer if self._claims.writers != "one" else 0
        if isinstance(step, Allocate):
            address = step.address if step.of is None else self._address_of(step.of)
            return Call("allocate", step.owner, address, writer)
        if self._claims.release_by == "owner":
            return Call("release", step.owner, None, writer)
        return Call("release", step.owner, step.address or self._address_of(step.of or step.owner), writer)

    def _address_of(self, owner: str) -> Address:
        """What it holds, else what it held last, else the first that may be given."""
        oracle = self.oracle
        first = oracle.runs[0][0] if oracle.runs else int(oracle.network.network_address)
        return oracle.address(next(iter(oracle.of(owner)), oracle.last.get(owner, first)))

    def _make(self, call: Call) -> Outcome:
        self.calls += 1
        try:
            writer = self._writer(call.writer)
        except Exception as error:  # noqa: BLE001 - as above
            return failed(error)
        return outcome_of(writer, call)

    def _writer(self, number: int) -> Writer:
        if number == 0 or not isinstance(self._allocator, SupportsWriters):
            return self._allocator
        if self._second is None:
            self._second = self._allocator.another()
        return self._second


def _sort(outcome: Outcome) -> str:
    return "an address" if isinstance(outcome, Given) else type(outcome).__name__.lower()
