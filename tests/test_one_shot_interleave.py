"""Every interleaving of one-shot callers and `Ipam`s, and proof that it matters that what was not read is unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ciliumipam import partial_view, protocol, tasks
from ciliumipam.testing.interleave import Checker, Violation
from ciliumipam.testing.one_shot_scenarios import scenarios

SCENARIOS = {scenario.name: scenario for scenario in scenarios()}
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_interleaving_breaks_an_invariant(name: str, record_property: Callable[[str, object], None]) -> None:
    walked = Checker(SCENARIOS[name]).walk()

    record_property("states", walked.states)
    assert walked.ends, "no run came to an end"


def an_unread_page_of_addresses_is_taken_for_empty(patch: Patch) -> None:
    ask = partial_view._Reading.ask

    def wrong(self: Any, key: Any) -> None:
        if key.kind != "address-page":
            ask(self, key)

    patch.setattr(partial_view._Reading, "ask", wrong)


def unread_claims_are_taken_for_none(patch: Patch) -> None:
    ask = partial_view._Reading.ask

    def wrong(self: Any, key: Any) -> None:
        if key.kind != "address-claims":
            ask(self, key)

    patch.setattr(partial_view._Reading, "ask", wrong)


def what_was_read_before_is_believed_after_a_conflict(patch: Patch) -> None:
    patch.setattr("ciliumipam.session._recover", lambda *_, **__: iter(()))


def success_is_told_without_reading_again(patch: Patch) -> None:
    patch.setattr(tasks.AllocateTask, "verify", lambda self: ())


def a_release_does_not_use_up_a_ticket(patch: Patch) -> None:
    free = protocol.free

    def wrong(draft: Any, tree: Any, fence: int, holding: Any, last: int, until: float | None = None) -> None:
        if protocol.status(draft, tree, fence, holding) is protocol.Status.HELD:
            free(draft, tree, fence, holding, last, until)

    patch.setattr(protocol, "free", wrong)


FAULTS: dict[Callable[[Patch], None], str] = {
    an_unread_page_of_addresses_is_taken_for_empty: "one-shot: the last address, against an Ipam",
    unread_claims_are_taken_for_none: "one-shot: one owner twice, with answers that are lost and writes that come late",
    what_was_read_before_is_believed_after_a_conflict: "one-shot: the last address, against an Ipam",
    success_is_told_without_reading_again: "one-shot: both families, an allocation against a release of the same owner and an Ipam",
    a_release_does_not_use_up_a_ticket: "one-shot: an allocation, a second one of the same owner by an Ipam, and a one-shot release",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)

    with pytest.raises(Violation):
        Checker(SCENARIOS[FAULTS[fault]]).walk()
