"""`Ipam` against the oracle: any calls in any order, from objects that do not know of each other, with faults after any write.

The machine is `ciliumipam.testing.churn.World`, which `ciliumipam fuzz` drives by a seed. Here Hypothesis drives it, everything is
judged after every step, and what breaks is shrunk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ciliumipam.one_shot import OneShot
from ciliumipam.requests import Allocate, Release, Request
from ciliumipam.testing.churn import World
from ciliumipam.testing.churn_calls import Step
from ciliumipam.testing.churn_steps import KINDS, Steps
from ciliumipam.testing.churn_stores import Stores

chances = st.randoms(use_true_random=False)


class Machine(RuleBasedStateMachine):
    """Everything that `Ipam` can be asked, on one `MemoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make_world()

    def make_world(self) -> World:
        return World(self.make_stores(), writers=2)

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


class OneShots(World):
    """What one owner of a node asks for, it asks a one-shot caller, which meets the same faults and knows nothing beforehand."""

    def perform(self, by: int, request: Request) -> Any:
        match request:
            case Allocate(node, (owner,), address, None, label):
                addresses = [address] if address is not None else []
                return self.one_shot(by, node).allocate(owner, addresses=addresses, label=label)
            case Release(node, (owner,), True):
                return self.one_shot(by, node).release(owner)
            case _:
                return super().perform(by, request)

    def one_shot(self, by: int, node: str) -> OneShot:
        self._births += 1
        (store,) = self.handle(by)
        return OneShot(store, node, clock=lambda: self._now, identity=f"one-{self._births}", pause=lambda _: None)

    def _ask(self, by: int, step: Step, request: Request) -> None:
        if not _asks_one_shot(request):
            super()._ask(by, step, request)
            return
        fresh, self._fresh[by] = self._fresh[by], True  # the oracle forgives nothing that only an old view would explain
        super()._ask(by, step, request)
        self._fresh[by] &= fresh  # the writer's own Ipam has seen nothing of it
        self._alone[by] = False


def _asks_one_shot(request: Request) -> bool:
    match request:
        case Allocate(_, (_,), _, None, _) | Release(_, (_,), True):
            return True
        case _:
            return False


class OneShotMachine(Machine):
    """One-shot callers between all that an `Ipam` can be asked."""

    def make_world(self) -> World:
        return OneShots(self.make_stores(), writers=2)


class OneShotSqliteMachine(OneShotMachine):
    """The same on a file."""

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
TestOneShot = OneShotMachine.TestCase
TestOneShot.settings = _share(4)
TestOneShotSqlite = OneShotSqliteMachine.TestCase
TestOneShotSqlite.settings = _share(10)
