"""The same judgement as a Hypothesis state machine, for a test suite: inherit, and override `make_allocator`.

Calls at once are left to `torture`: which comes first is chance, and Hypothesis takes what comes out differently for a broken test.
"""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ciliumipam.testing.torture.oracle import PROPERTIES
from ciliumipam.testing.torture.protocol import Address, Allocator
from ciliumipam.testing.torture.steps import Allocate, Open, Release, Restart, Step, name_of_owner, to_lines
from ciliumipam.testing.torture.trial import Trial

_OWNERS = st.sampled_from([name_of_owner(number) for number in range(8)])
_WRITERS = st.integers(0, 1)
_FILLED = 64


class AllocatorMachine(RuleBasedStateMachine):
    """Allocates, releases and restarts; every answer is judged.

    Attributes:
        ranges: CIDRs to do it in.
    """

    ranges: tuple[str, ...] = (
        *("10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30", "10.0.0.0/29", "10.0.0.0/28"),
        *("fd00::/128", "fd00::/127", "fd00::/126", "fd00::/125", "fd00::/64"),
    )

    def __init__(self) -> None:
        """Make an allocator for one example."""
        super().__init__()
        self._allocator = self.make_allocator()
        self._claims = self._allocator.claims
        self._trial = Trial(self._allocator)

    def make_allocator(self) -> Allocator:
        """The adapter to test; it is closed after the example."""
        raise NotImplementedError

    @initialize(data=st.data())
    def open(self, data: st.DataObject) -> None:
        """Serve a range."""
        networks = [each for each in map(ip_network, self.ranges) if each.version in self._claims.families]
        self._do(Open(data.draw(st.sampled_from(networks), label="range")))
        assume(self._trial.refused is None)

    @rule(owner=_OWNERS, writer=_WRITERS)
    def allocate(self, owner: str, writer: int) -> None:
        """Any address."""
        self._do(Allocate(owner, writer=writer))

    @precondition(lambda self: self._claims.given)
    @rule(owner=_OWNERS, writer=_WRITERS, number=st.integers(-1, 20), from_end=st.booleans())
    def allocate_given(self, owner: str, writer: int, number: int, from_end: bool) -> None:  # noqa: FBT001 - Hypothesis names it
        """An address near an end, inside or just outside."""
        self._do(Allocate(owner, self._near(number, from_end=from_end), writer=writer))

    @rule(owner=_OWNERS, of=st.none() | _OWNERS, writer=_WRITERS)
    def release(self, owner: str, of: str | None, writer: int) -> None:
        """What is held, or not."""
        self._do(Release(owner, of=of, writer=writer))

    @precondition(lambda self: self._trial.oracle.free <= _FILLED)
    @rule(but=st.integers(0, 1))
    def fill(self, but: int) -> None:
        """Allocate until nothing is left, or one address."""
        for number in range(self._trial.oracle.free - but):
            self._do(Allocate(f"filling-{number}-{len(self._trial.lines)}"))

    @precondition(lambda self: self._claims.restarts)
    @rule()
    def restart(self) -> None:
        """Start again."""
        self._do(Restart())

    def teardown(self) -> None:
        """Close the allocator."""
        self._allocator.close()

    def _near(self, number: int, *, from_end: bool) -> Address:
        network = self._trial.oracle.network
        found = int(network.broadcast_address) - number if from_end else int(network.network_address) + number
        return self._trial.oracle.address(min(max(found, 0), 2**network.max_prefixlen - 1))

    def _do(self, step: Step) -> None:
        breach = self._trial.perform(step)
        if breach is not None:
            steps = to_lines(line.step for line in self._trial.lines)
            raise AssertionError("\n".join([f"{PROPERTIES[breach.broken]} ({breach.broken}): {breach.sentence}", *steps]))
