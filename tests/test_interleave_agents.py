"""Planted faults in what agents and their sources do (`test_interleave` walks the scenarios whole)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ciliumipam import demand_tasks, one_shot, tasks
from ciliumipam.agent import LedgerSource, NodeAgent, SilentNodes, node_agent
from ciliumipam.records import Lease
from ciliumipam.testing.interleave import Checker, Violation
from ciliumipam.testing.scenarios.agents import AGENTS

SCENARIOS = {scenario.name: scenario for scenario in AGENTS}
Patch = pytest.MonkeyPatch


def the_source_is_told_before_the_nodes_own_ledger_is_closed(patch: Patch) -> None:
    follow = NodeAgent._follow

    def wrong(self: Any, node: Any, usable: Any, known: Any) -> Any:
        lease = self._read()[1]
        for each in lease.returning if lease is not None else ():
            self._source.hand_back(each)
        return follow(self, node, usable, known)

    patch.setattr(NodeAgent, "_follow", wrong)


def the_source_does_not_compare_the_fence(patch: Patch) -> None:
    patch.setattr(
        LedgerSource, "hand_back", lambda self, block: self.ipam.hand_back(self.node, block.prefix, fence=None, space=block.space)
    )
    patch.setattr(demand_tasks, "why_needed", lambda *_: "")


def what_was_begun_to_go_back_is_adopted_again(patch: Patch) -> None:
    patch.setattr(node_agent, "_split", lambda grant, returning: (grant.blocks, ()))


def the_lease_is_not_looked_at_after_the_commit(patch: Patch) -> None:
    verify = tasks.AllocateTask.verify
    patch.setattr(tasks.AllocateTask, "verify", lambda self: [key for key in verify(self) if key.kind != "lease"])
    patch.setattr(one_shot, "require_lease", lambda *_: None)


def blocks_of_a_silent_node_are_taken_without_a_mark(patch: Patch) -> None:
    def wrong(self: Any, name: str, entry: Any, lease: Lease) -> None:
        self._ipam.remove_nodes([name], force=True)

    patch.setattr(SilentNodes, "_take", wrong)


def a_lease_does_not_expire(patch: Patch) -> None:
    patch.setattr(tasks, "require", lambda *_: None)
    patch.setattr(one_shot, "require_lease", lambda *_: None)


FAULTS: dict[Callable[[Patch], None], str] = {
    the_source_is_told_before_the_nodes_own_ledger_is_closed: "hand-back: an agent, an address of the block",
    the_source_does_not_compare_the_fence: "hand-back, begun: a zombie",
    what_was_begun_to_go_back_is_adopted_again: "hand-back, begun: an agent, and a zombie",
    the_lease_is_not_looked_at_after_the_commit: "silence: an address that is given out",
    blocks_of_a_silent_node_are_taken_without_a_mark: "silence: an agent that speaks again",
    a_lease_does_not_expire: "silence: an address that is given out",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)
    (scenario,) = [scenario for name, scenario in SCENARIOS.items() if name.startswith(FAULTS[fault])]

    with pytest.raises(Violation, match="was told to a caller"):
        Checker(scenario).walk()
