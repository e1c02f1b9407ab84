"""Planted faults in the scenarios of one-shot callers (`test_interleave` walks them whole), and what holds although one is planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ciliumipam import draft, ledger, levels, partial_view, protocol
from ciliumipam.testing.interleave import Checker, Violation
from ciliumipam.testing.scenarios.one_shot import ONE_SHOT

SCENARIOS = {scenario.name: scenario for scenario in ONE_SHOT}
Patch = pytest.MonkeyPatch


def what_was_read_before_is_believed_after_a_conflict(patch: Patch) -> None:
    patch.setattr("ciliumipam.session._recover", lambda *_, **__: iter(()))


def several_pieces_are_not_marked_before_they_are_freed(patch: Patch) -> None:
    patch.setattr(levels.AddressLevel, "marks", False)


def claims_are_written_after_the_pages(patch: Patch) -> None:
    patch.setattr(protocol, "CLAIM", draft.UNCLAIM)
    patch.setattr(draft, "CLAIM", draft.UNCLAIM)


def a_release_does_not_use_up_a_ticket(patch: Patch) -> None:
    free = ledger.free

    def wrong(drafted: Any, tree: Any, fence: int, holding: Any, last: int, until: float | None = None) -> None:
        if ledger.status(drafted, tree, fence, holding) is ledger.Status.HELD:
            free(drafted, tree, fence, holding, last, until)

    patch.setattr(protocol, "free", wrong)


FAULTS: dict[Callable[[Patch], None], str] = {
    what_was_read_before_is_believed_after_a_conflict: "one-shot: the last address, against an Ipam",
    several_pieces_are_not_marked_before_they_are_freed: "one-shot: both families, an allocation against a release of the same owner and an Ipam",
    claims_are_written_after_the_pages: "one-shot: one owner twice, with answers that are lost and writes that come late",
    a_release_does_not_use_up_a_ticket: "one-shot: an allocation, a second one of the same owner by an Ipam, and a one-shot release",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)

    with pytest.raises(Violation):
        Checker(SCENARIOS[FAULTS[fault]]).walk()


@pytest.mark.parametrize("kind", ["address-page", "address-claims", "block-page", "node"])
def test_a_writer_that_takes_what_it_did_not_read_for_absent_still_gives_nothing_twice(kind: str, monkeypatch: Patch) -> None:
    """The second line of defence: what is written over a record that is there expects it to be absent, and fails."""
    ask = partial_view._Reading.ask
    monkeypatch.setattr(partial_view._Reading, "ask", lambda self, key: ask(self, key) if key.kind != kind else None)

    for name in ("one-shot: the last address, against an Ipam", "one-shot: one owner twice, with answers that are lost and writes that come late"):
        assert Checker(SCENARIOS[name]).walk().ends
