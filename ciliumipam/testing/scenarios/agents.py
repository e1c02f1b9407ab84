"""Nodes with stores of their own: growth, hand-back, silence. `NodeAgent`, `LedgerSource`, `SilentNodes` and `OneShot`, as they are run.

An agent and a zombie are the same program, begun at the same state of the stores: either may stop anywhere, and go on at the end or
never. What one reads between two of its writes is read at one moment, unless the actor takes its reads apart.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from ciliumipam.agent import LedgerSource, NodeAgent, SilentNodes, Terms
from ciliumipam.demand import Demand, Watermark
from ciliumipam.draft import Step
from ciliumipam.errors import BlockNeededError, NodeExhaustedError, RetriesExhaustedError
from ciliumipam.ipam import Ipam
from ciliumipam.lease import Moment
from ciliumipam.node import Node
from ciliumipam.one_shot import OneShot
from ciliumipam.records import Leased
from ciliumipam.session import Put, Written
from ciliumipam.store import ABSENT, Expect
from ciliumipam.testing.actors import Actor, Begins, Program, Scenario, Together, call
from ciliumipam.testing.blocking import CLOCK, Run, SteppedStore, Tick, blocking
from ciliumipam.testing.raw import Told
from ciliumipam.testing.scenarios.calls import LATE, NOW, apply, node, pool

TERMS = Terms(stop_after=60, return_after=150, timeout=30)
"""The shortest return that goes with this stop."""
SPARING = Watermark(spare=0, slack=0, idle=0)
"""Whatever is not needed goes back at once."""
KEEPING = Watermark(spare=0, slack=9, idle=0)
"""Nothing goes back."""
_LOSSES = 1
_ENDS = (*LATE, "LeaseExpiredError", "ConflictError")


class Machine:
    """A node in one run of a program.

    Args:
        run: The run.
        name: The node.
        identity: Of the program; each has its own.
        watermark: Of its agent.
        source: The class of its source.
    """

    def __init__(self, run: Run, name: str, identity: str, watermark: Watermark, source: type[LedgerSource] = LedgerSource) -> None:
        self.run, self.name = run, name
        shared, own = SteppedStore(run), SteppedStore(run, name)
        self.source = source(shared, Node(name), TERMS, clock=_now)
        self.source.ipam = Ipam(shared, clock=_now, identity=f"{identity}-source", pause=_patience())
        self.agent = NodeAgent(self.source, own, name, watermark=watermark, moment=self._moment)
        self.agent.ipam = Ipam(own, clock=_now, identity=f"{identity}-own", pause=_patience(), moment=self._moment)
        self.plugin = OneShot(own, name, clock=_now, identity=f"{identity}-plugin", pause=_patience(), moment=self._moment)

    def _moment(self) -> Moment:
        return Moment("boot", self.run.seconds())

    def allocate(self, owner: str, *, by_plugin: bool = True) -> None:
        """Allocate, and tell the caller."""
        self.run.tell(Begins())
        found = self.plugin.allocate(owner) if by_plugin else self.agent.allocate(owner)
        space = f"{self.name}:default"
        self.run.tell(Together(tuple(Told(each.family, int(each.address), each.fence, each.owner, each.node, space) for each in found)))


def _now() -> float:
    return NOW


def _patience() -> Callable[[float], None]:
    """Nobody waits: that others come first is what is walked. Whoever has lost twice gives up, as in a crash."""
    lost = count(1)

    def pause(_: float) -> None:
        if next(lost) >= _LOSSES:
            raise RetriesExhaustedError(_LOSSES, "what is fought for")

    return pause


def on(name: str, identity: str, work: Callable[[Machine], object], watermark: Watermark = SPARING) -> Callable[[], Program]:
    """A program that works on a node."""
    return blocking(lambda run: work(Machine(run, name, identity, watermark)))


def _actor(identity: str, work: Callable[[Machine], object], watermark: Watermark = SPARING, *, name: str = "n1", apart: bool = False) -> Actor:
    return Actor(identity, on(name, identity, work, watermark), _ENDS, apart)


def _round(machine: Machine) -> None:
    machine.agent.round()


def _allocate(machine: Machine) -> None:
    machine.allocate("o")


def _first_block(machine: Machine) -> None:
    machine.agent.round()


def _second_block(machine: Machine) -> None:
    """The first block is full, the second empty, and the node asks for no more than the first has."""
    machine.agent.round()
    machine.plugin.allocate("x")
    machine.source.request((Demand("", 4, 2),))
    machine.agent.round()


class _Hesitant(LedgerSource):
    """A source that does not take anything back yet."""

    def hand_back(self, block: Leased) -> None:
        raise BlockNeededError(str(block.prefix), self.node, "not yet")


def _begun(machine: Machine) -> None:
    """The second block is on its way back: the lease says so and the node's own ledger of it is closed; the source has it still."""
    _second_block(machine)
    again = Machine(machine.run, machine.name, "begun", SPARING, _Hesitant)
    again.agent.round()


def _returns_and_grows(machine: Machine) -> None:
    """A round that hands back; then the agent needs what it gave, gets the same block again and gives out of it."""
    machine.agent.round()
    _allocation_first(machine)


def _late(machine: Machine) -> None:
    """The end of a hand-back, by an agent that slept just before it."""
    _, lease = machine.agent._read()  # noqa: SLF001 - as a round begins
    machine.run.wait("asleep")
    for each in lease.returning if lease is not None else ():
        machine.source.hand_back(each)


def _round_and_allocation(machine: Machine) -> None:
    machine.agent.round()
    machine.allocate("o")


def _allocation_first(machine: Machine) -> None:
    """A pod that there is no address for; the agent asks for more, gets it, and the pod tries again."""
    try:
        machine.allocate("o", by_plugin=False)
    except NodeExhaustedError:
        machine.agent.round()
        machine.agent.round()
        machine.allocate("o", by_plugin=False)


def _clock(*seconds: float) -> Callable[[], Program]:
    """A clock that goes on by itself."""

    def work(run: Run) -> None:
        expect: Expect = ABSENT
        for each in seconds:
            answer = run.ask(Put((Step(CLOCK, Tick(each), expect, None),)))  # type: ignore[arg-type]  # no record of the library
            assert isinstance(answer, Written)
            assert answer.revisions[0] is not None
            expect = answer.revisions[0]

    return blocking(work)


def _watch(run: Run) -> None:
    """Whoever looks for silent nodes: once, later again, and what it takes goes to another node."""
    shared = SteppedStore(run)
    silent = SilentNodes(shared, TERMS, clock=run.seconds)
    silent._ipam = Ipam(shared, clock=_now, identity="watcher", pause=_patience())  # noqa: SLF001 - it would sleep
    silent.look()
    run.wait("between two looks")
    if silent.look():
        Ipam(shared, clock=_now, identity="watcher", pause=_patience()).apply(nodes=[Node("n2")])


ONE = apply(pool("p", "10.0.0.0/30", v4=30, reserved=["10.0.0.2"]), node("n1"))
"""One block of one address."""
TWO = apply(pool("p", "10.0.0.0/29", v4=30, reserved=["10.0.0.2", "10.0.0.6"]), node("n1"))
"""Two blocks of one address each."""

PREPARED = (on("n1", "prepare", _second_block, KEEPING),)
BEGUN = (on("n1", "prepare", _begun, KEEPING),)
GIVE = Actor("operator", call(apply(node("n2")), name="operator"), _ENDS)

AGENTS: tuple[Scenario, ...] = (
    Scenario(
        "hand-back: an agent, and another node's agent that takes the block and gives out of it",
        (TWO,),
        (_actor("agent", _round), _actor("other", _round_and_allocation, name="n2")),
        prepare=PREPARED,
        blocks_per_node=2,
    ),
    Scenario(
        "hand-back: an agent, an address of the block that is given out, and an operator with another node",
        (TWO,),
        (_actor("agent", _round), _actor("plugin", _allocate), GIVE),
        prepare=PREPARED,
        blocks_per_node=2,
    ),
    Scenario(
        "hand-back, begun: an agent, and a zombie after whose round an address is given out",
        (TWO,),
        (_actor("agent", _round), _actor("zombie", _round_and_allocation)),
        prepare=BEGUN,
        blocks_per_node=2,
    ),
    Scenario(
        "hand-back, begun: a zombie that slept before its last call, and an agent that needs the block again and gives out of it",
        (TWO,),
        (_actor("zombie", _late), _actor("agent", _returns_and_grows)),
        prepare=BEGUN,
        blocks_per_node=2,
    ),
    Scenario(
        "growth: two agents of a node, and an address after the round of one",
        (ONE,),
        (_actor("agent", _round_and_allocation), _actor("zombie", _round)),
    ),
    Scenario(
        "silence: an address that is given out, and a watcher that takes the node's block by force for another",
        (ONE,),
        (_actor("plugin", _allocate, apart=True), Actor("watcher", blocking(_watch)), Actor("clock", _clock(151))),
        prepare=(on("n1", "prepare", _first_block),),
        by_force=True,
    ),
    Scenario(
        "silence: an agent that speaks again and gives an address out, and the same watcher",
        (ONE,),
        (_actor("agent", _round_and_allocation), Actor("watcher", blocking(_watch)), Actor("clock", _clock(151))),
        prepare=(on("n1", "prepare", _first_block),),
        by_force=True,
    ),
)

__all__ = ["AGENTS"]
