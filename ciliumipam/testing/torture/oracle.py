"""The slow twin of any allocator of one range: who holds what, as a dictionary, and what may be answered.

Standard library only. It knows nothing of how addresses are found, so it never says which one must be given, only which may not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from ipaddress import ip_address
from itertools import islice
from typing import NamedTuple, Self

from ciliumipam.testing.torture.protocol import (
    Address,
    Call,
    Claims,
    Done,
    Exhausted,
    Failed,
    Given,
    Network,
    Outcome,
    Refused,
    Run,
)


class Breach(NamedTuple):
    """A property that an answer breaks.

    Attributes:
        broken: One of `PROPERTIES`.
        sentence: What was answered, and why it is wrong.
    """

    broken: str
    sentence: str


PROPERTIES = {
    "duplicate": "an address that somebody holds is given to nobody else",
    "outside": "an address lies in the range",
    "reserved": "an address that may not be given out is not",
    "early": "while an address is free, the range is not exhausted",
    "refused": "who may have an address gets one",
    "other": "who asks for a given address gets that one or none",
    "again": "an owner that asks again gets what the allocator claims: the same address, or a refusal",
    "kept": "what is held can be released by whoever holds it",
    "offer": "what may be given out of a range lies in it",
    "failed": "a call is answered",
    "hung": "a call is answered in time",
}
"""What is judged."""


class Holding(NamedTuple):
    """Who holds an address, by which writer, and the moment at which it was given."""

    owner: str
    writer: int
    since: int


class Oracle:
    """Judges the answers of an allocator of one range, and believes those that are right.

    Complexity:
        O(what is held) a call.
    """

    def __init__(self, network: Network, offer: Iterable[Run], claims: Claims) -> None:
        """Nothing is held.

        Args:
            network: The range.
            offer: What may be given out of it.
            claims: What may be held against the allocator.
        """
        self.network = network
        self.claims = claims
        self.runs = sorted((int(ip_address(str(first))), int(ip_address(str(last)))) for first, last in offer)
        self.held: dict[int, Holding] = {}
        self.last: dict[str, int] = {}
        self.released: set[int] = set()
        self._moment = 0
        self._restarted = 0
        self.freed: dict[int, str] = {}

    def copy(self) -> Self:
        """An oracle that goes on by itself from here."""
        other = copy(self)
        other.held, other.last, other.released = dict(self.held), dict(self.last), set(self.released)
        other.freed = dict(self.freed)
        return other

    # ------------------------------------------------------------------------------------------------- looking

    @property
    def free(self) -> int:
        """How many addresses can still be given."""
        return sum(last - first + 1 for first, last in self.runs) - len(self.held)

    @property
    def surely_free(self) -> int:
        """How many of them are not perhaps cooling."""
        return self.free - (len(self.released - self.held.keys()) if self.claims.cools else 0)

    def offered(self, number: int) -> bool:
        """Whether a number is an address that may be given out."""
        return any(first <= number <= last for first, last in self.runs)

    def free_numbers(self) -> Iterator[int]:
        """Those that can still be given, lowest first."""
        return (number for first, last in self.runs for number in range(first, last + 1) if number not in self.held)

    def of(self, owner: str) -> list[int]:
        """What an owner holds, lowest first."""
        return sorted(number for number, holding in self.held.items() if holding.owner == owner)

    def address(self, number: int) -> Address:
        """The address that a number stands for."""
        return type(self.network.network_address)(number)

    # ------------------------------------------------------------------------------------------------- judging

    def offer_breach(self) -> Breach | None:
        """What is wrong with the offer itself."""
        low, high = int(self.network.network_address), int(self.network.broadcast_address)
        before = low - 1
        for first, last in self.runs:
            if not before < first <= last <= high:
                text = f"{self.address(first)} to {self.address(last)}"
                return Breach("offer", f"offers {text} of {self.network}: not inside it, upside down, or twice")
            before = last
        return None

    def restarted(self) -> None:
        """The allocator was started again; that changes nothing of what is held."""
        self._moment += 1
        self._restarted = self._moment

    def judging(self, *answers: tuple[Call, Outcome]) -> tuple[Self, Breach | None]:
        """An oracle that goes on from here by answers to calls one after the other, and what the first wrong one breaks."""
        after = self.copy()
        return after, next(filter(None, (after.judge(*answer) for answer in answers)), None)

    def judge(self, call: Call, outcome: Outcome) -> Breach | None:
        """Take down an answer, and say what it breaks, if it breaks something."""
        self._moment += 1
        match outcome:
            case Failed(why, hung):
                return Breach("hung" if hung else "failed", f"{_ask(call)}: {why}")
            case Given() if call.verb == "release":
                return Breach("failed", f"{_ask(call)}: it was answered with the address {outcome}")
            case Done() if call.verb == "allocate":
                return Breach("failed", f"{_ask(call)}: it was answered with neither an address nor a reason")
            case Exhausted() if call.verb == "release":
                return Breach("failed", f"{_ask(call)}: it was answered with 'exhausted'")
            case _:
                return self._judge_release(call, outcome) if call.verb == "release" else self._judge_allocate(call, outcome)

    def _judge_allocate(self, call: Call, outcome: Outcome) -> Breach | None:
        mine, asked = self.of(call.owner), call.address
        match outcome:
            case Given(address):
                number = int(address)
                if address.version != self.network.version or address not in self.network:
                    return Breach("outside", f"gave {address} to {call.owner}, which lies outside {self.network}")
                if not self.offered(number):
                    return Breach("reserved", f"gave {address} to {call.owner}, which may not be given out of {self.network}")
                if number in mine and self.claims.again == "same" and (asked is None or asked == address):
                    return None
                if number in self.held:
                    return Breach("duplicate", self._duplicate(call, number))
                if mine and self.claims.again != "another":
                    must = "must get that one again" if self.claims.again == "same" else "must be refused"
                    return Breach("again", f"gave {address} to {call.owner}, which holds {self._some(mine)} and {must}")
                if asked is not None and asked != address:
                    return Breach("other", f"gave {address} to {call.owner}, which had asked for {asked}")
                self.held[number] = Holding(call.owner, call.writer, self._moment)
                return None
            case _ if mine and self.claims.again == "same" and (asked is None or int(asked) in mine):
                return Breach("again", f"{_ask(call)}: it holds {self._some(mine)} and must get that one again, but it is {outcome}")
            case _ if mine and self.claims.again != "another":
                return None if isinstance(outcome, Refused) or not self.free else self._early(call, outcome)
            case _ if asked is not None:
                return self._judge_denied(call, asked, outcome)
            case Exhausted() if self.surely_free:
                return self._early(call, outcome)
            case Refused() if self.surely_free:
                return Breach("refused", f"{_ask(call)}: {self._free()}, but it is {outcome}")
        return None

    def _judge_denied(self, call: Call, asked: Address, outcome: Outcome) -> Breach | None:
        number = int(asked)
        same_family = asked.version == self.network.version
        if same_family and self.offered(number) and number not in self.held and not (self.claims.cools and number in self.released):
            return Breach("refused", f"{_ask(call)}: that address is free, but it is {outcome}")
        if isinstance(outcome, Exhausted) and self.surely_free:
            return self._early(call, outcome)
        return None

    def _judge_release(self, call: Call, outcome: Outcome) -> Breach | None:
        match self.claims.release_by:
            case "owner":
                ends = self.of(call.owner)
            case "address":
                ends = [int(call.address)] if call.address is not None and int(call.address) in self.held else []
            case _:
                ends = [number for number in self.of(call.owner) if call.address is not None and number == int(call.address)]
        if ends and isinstance(outcome, Refused):
            return Breach("kept", f"{_ask(call)}: {call.owner} holds {self._some(ends)}, but it is {outcome}")
        for number in ends:
            self.last[self.held.pop(number).owner] = number
            self.released.add(number)
        self.freed[self._moment] = f"{call.owner} released {self._some(ends) if ends else 'what it does not hold'}"
        return None

    # ------------------------------------------------------------------------------------------------- saying

    def _duplicate(self, call: Call, number: int) -> str:
        holding = self.held[number]
        text = f"gave {self.address(number)} to {call.owner}, although {'it' if holding.owner == call.owner else holding.owner} holds it"
        if not self.free:
            text += " and none is left"
        between = [what for moment, what in self.freed.items() if moment > holding.since][-2:]
        if self._restarted > holding.since:
            between.append("the allocator was restarted")
        if between:
            text += "; since that was given, " + " and ".join(between)
        if holding.writer != call.writer:
            text += "; another writer had given it"
        return text

    def _early(self, call: Call, outcome: Outcome) -> Breach:
        return Breach("early", f"{_ask(call)}: it is {outcome}, although {self._free()}")

    def _free(self) -> str:
        shown = self._some(list(islice(self.free_numbers(), 4)))
        return f"one address is free ({shown})" if self.free == 1 else f"{self.free} addresses are free ({shown})"

    def _some(self, numbers: list[int]) -> str:
        return ", ".join(str(self.address(number)) for number in numbers[:3]) + (", ..." if len(numbers) > 3 else "")


def _ask(call: Call) -> str:
    """A call, as the beginning of a sentence."""
    if call.verb == "release":
        return f"{call.owner} releases {call.address}" if call.address is not None else f"{call.owner} releases what it holds"
    return f"{call.owner} asks for {call.address}" if call.address is not None else f"{call.owner} asks for an address"
