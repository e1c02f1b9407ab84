"""`Ipam` against the oracle: any calls in any order, from objects that do not know of each other, with faults after any write.

The machine is `ciliumipam.testing.churn.World`, which `ciliumipam fuzz` drives by a seed. Here Hypothesis drives it, everything is
judged after every step, and what breaks is shrunk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ciliumipam.testing.churn import World
from ciliumipam.testing.churn_steps import KINDS, Steps
from ciliumipam.testing.churn_stores import Stores

chances = st.randoms(use_true_random=False)


class Machine(RuleBasedStateMachine):
    """Everything that `Ipam` can be asked, on one `MemoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.make_stores(), writers=2)

    def make_stores(self) -> Stores:
        return Stores("memory")

    def teardown(self) -> None:
        self.world.close()

    @initialize(chance=chances)
    def begin(self, chance: Random) -> None:
        self.world.do(Steps(chance, self.world).first())


def made(kind: str) -> Callable[[Machine, Random], None]:
    """A rule that does steps of a kind: each one its own, so that Hypothesis can leave some kinds out of a run."""

    def act(self: Machine, chance: Random) -> None:
        steps = Steps(chance, self.world)
        for step in [steps.make(kind), *steps.rest()]:
            note(json.dumps(step))
            self.world.do(step)

    act.__name__ = kind.replace(" ", "_")
    return rule(chance=chances)(act)


for each in KINDS:
    setattr(Machine, each.replace(" ", "_"), made(each))


class TwoStoresMachine(Machine):
    """Blocks in one store, addresses in another."""

    def make_stores(self) -> Stores:
        return Stores("two")


class SqliteMachine(Machine):
    """On a file, of which each writer has a handle of its own."""

    def make_stores(self) -> Stores:
        return Stores("sqlite")


def _share(part: int) -> settings:
    """A step costs some 30 ms, with the audit and a second reading after each: a part of what other properties get."""
    profile = settings()
    return settings(max_examples=max(5, profile.max_examples // part), stateful_step_count=max(15, profile.stateful_step_count // 2))


TestOneStore = Machine.TestCase
TestOneStore.settings = _share(3)
TestTwoStores = TwoStoresMachine.TestCase
TestTwoStores.settings = _share(5)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = _share(10)
