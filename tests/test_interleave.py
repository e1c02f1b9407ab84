"""Every interleaving of small scenarios through the production code, and proof that the checker can fail.

Each planted fault takes out one rule; it is named after what it takes out, and has to be found in the scenario named with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ciliumipam import draft, ledger, levels, protocol, repair_tasks, tasks
from ciliumipam.draft import Draft
from ciliumipam.ledger import Status
from ciliumipam.records import Holding, Page
from ciliumipam.testing.interleave import Checker, Violation
from ciliumipam.testing.scenarios import scenarios

SCENARIOS = {scenario.name: scenario for scenario in scenarios()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_interleaving_breaks_an_invariant(name: str, record_property: Callable[[str, object], None]) -> None:
    walked = Checker(SCENARIOS[name]).walk()

    record_property("states", walked.states)
    assert walked.ends, "no run came to an end"


# ------------------------------------------------------------------------------------------------- planted faults

Patch = pytest.MonkeyPatch


def slots_forget_their_fences(patch: Patch) -> None:
    free = ledger.free
    patch.setattr(protocol, "free", lambda draft, tree, fence, holding, last, until=None: free(draft, tree, fence, holding, 0))


def the_fence_of_a_ticket_is_not_looked_at(patch: Patch) -> None:
    status = ledger.status

    def wrong(pages: Any, tree: Any, fence: int, holding: Holding) -> Status:
        found = status(pages, tree, fence, holding)
        later = holding._replace(fence=10**9)
        return Status.PENDING if found is Status.DEAD and status(pages, tree, fence, later) is Status.PENDING else found

    patch.setattr(protocol, "status", wrong)


def a_block_is_freed_without_closing_its_addresses(patch: Patch) -> None:
    patch.setattr(levels.BlockLevel, "close_below", lambda self, draft, piece: piece.fence)


def closing_does_not_raise_the_fence(patch: Patch) -> None:
    put_page = Draft.put_page

    def wrong(self: Draft, key: Any, page: Page, level: int, slots: Any, *, closing: bool = False) -> None:
        put_page(self, key, page._replace(fence=page.fence - 1) if closing else page, level, slots, closing=closing)

    patch.setattr(Draft, "put_page", wrong)


def a_ticket_is_compared_only_with_pages_as_they_are_written(patch: Patch) -> None:
    status = ledger.status

    def wrong(pages: Any, tree: Any, fence: int, holding: Holding) -> Status:
        found = status(pages, tree, fence, holding)
        spot = ledger.locate(pages, tree, fence, holding.network, holding.length)
        if found is not Status.DEAD or spot is None:
            return found
        written = spot.raw.slots[spot.start : spot.stop] if spot.raw is not None else ()
        if any(ledger.fence_of(slot) >= holding.fence for slot in written):
            return Status.DEAD
        return Status.BLOCKED if spot.covered_by is not None else Status.PENDING

    patch.setattr(protocol, "status", wrong)


def closing_does_not_end_claims_either(patch: Patch) -> None:
    a_ticket_is_compared_only_with_pages_as_they_are_written(patch)
    put_page = Draft.put_page

    def wrong(self: Draft, key: Any, page: Page, level: int, slots: Any, *, closing: bool = False) -> None:
        kept = tuple(slot - 1 if isinstance(slot, int) else slot for slot in page.slots)
        put_page(self, key, page._replace(slots=kept) if closing else page, level, slots, closing=closing)

    patch.setattr(Draft, "put_page", wrong)


def addresses_are_closed_after_their_block_is_freed(patch: Patch) -> None:
    patch.setattr(draft, "CLOSE", draft.DELETE)


def a_split_region_is_joined_without_closing_it(patch: Patch) -> None:
    patch.setattr(ledger, "_close_slot", lambda *_, **__: 0)


def a_closed_page_can_be_filled(patch: Patch) -> None:
    counted = ledger.counted
    patch.setattr(
        ledger, "counted", lambda raw, fence, slots: counted(raw, max(fence, raw.fence if raw else 0), slots)
    )
    patch.setattr("ciliumipam.view.View.is_closed", lambda self, block: False)


def claims_are_written_after_the_pages(patch: Patch) -> None:
    patch.setattr(protocol, "CLAIM", draft.UNCLAIM)
    patch.setattr(draft, "CLAIM", draft.UNCLAIM)


def claims_forget_before_the_pages_are_freed(patch: Patch) -> None:
    defaults = protocol.forget.__defaults__
    assert defaults is not None
    patch.setattr(protocol.forget, "__defaults__", (draft.CLAIM,))


def a_release_does_not_use_up_a_ticket(patch: Patch) -> None:
    free = ledger.free

    def wrong(drafted: Draft, tree: Any, fence: int, holding: Holding, last: int, until: float | None = None) -> None:
        if ledger.status(drafted, tree, fence, holding) is Status.HELD:
            free(drafted, tree, fence, holding, last)

    patch.setattr(protocol, "free", wrong)


def several_pieces_are_not_marked_before_they_are_freed(patch: Patch) -> None:
    patch.setattr(levels.AddressLevel, "marks", False)


def success_is_told_without_reading_again(patch: Patch) -> None:
    patch.setattr(tasks.AllocateTask, "verify", lambda self: ())


def a_failed_call_takes_back_what_another_relies_on(patch: Patch) -> None:
    take = protocol.take

    def wrong(drafted: Draft, level: Any, standing: Any, chosen: Any, call: Any, *, group: bool) -> None:
        take(drafted, level, standing if chosen else standing._replace(tentative=call.token), chosen, call, group=group)

    patch.setattr(tasks, "take", wrong)


def a_failed_call_takes_nothing_back(patch: Patch) -> None:
    patch.setattr(tasks.AllocateTask, "undo", lambda self, view, drafted: True)


def torn_pages_are_believed(patch: Patch) -> None:
    status = ledger.status
    patch.setattr(
        protocol, "status", lambda *args: Status.DEAD if status(*args) in (Status.TORN, Status.BLOCKED) else status(*args)
    )


def what_was_used_below_a_split_slot_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(ledger, "_is_used_up", lambda *_: False)


def a_ticket_is_forgotten_without_being_used_up(patch: Patch) -> None:
    patch.setattr(protocol, "use_up", lambda *_: False)


def closing_uses_up_one_more_fence_on_each_level(patch: Patch) -> None:
    close_slot = ledger._close_slot
    patch.setattr(ledger, "_close_slot", lambda *args, **more: close_slot(*args, **more) + 1)


def a_repair_marks_what_is_pending(patch: Patch) -> None:
    patch.setattr(repair_tasks, "cancel", protocol.release)


FAULTS: dict[Callable[[Patch], None], str] = {
    slots_forget_their_fences: "a release races an allocation of the same owner and one of another",
    the_fence_of_a_ticket_is_not_looked_at: "a release races an allocation of the same owner and one of another",
    a_block_is_freed_without_closing_its_addresses: "a block goes back and to another node while the first still allocates",
    closing_does_not_raise_the_fence: "a block goes back and to another node while the first still allocates",
    a_ticket_is_compared_only_with_pages_as_they_are_written: (
        "a block whose last page was never written goes back and to the same node again, with each read for itself"
    ),
    closing_does_not_end_claims_either: "a block goes back and to the same node again, with each read of both for itself",
    addresses_are_closed_after_their_block_is_freed: "a block goes back and to another node while the first still allocates",
    a_split_region_is_joined_without_closing_it: (
        "a split region is joined for a large block while a small one is claimed in it, by operators with other pools"
    ),
    a_closed_page_can_be_filled: "a block goes back and to another node while the first still allocates",
    what_was_used_below_a_split_slot_is_not_looked_at: (
        "a small block is taken and given back where a large one is claimed and not filled yet"
    ),
    a_ticket_is_forgotten_without_being_used_up: (
        "the same under earlier fences than the large one's, while another operator gives its node another block"
    ),
    closing_uses_up_one_more_fence_on_each_level: (
        "two operators give one node a large block, for which two pages are closed one below the other"
    ),
    claims_are_written_after_the_pages: "two calls of one owner",
    claims_forget_before_the_pages_are_freed: "a release races an allocation of the same owner and one of another",
    a_release_does_not_use_up_a_ticket: "an allocation that crashes anywhere, a second call, a release, writes delivered late",
    several_pieces_are_not_marked_before_they_are_freed: "both families, allocation against release of the same owner",
    success_is_told_without_reading_again: (
        "a caller with an old view asks for what another has released and given to somebody else"
    ),
    a_failed_call_takes_back_what_another_relies_on: (
        "two owners or none, while one of them calls alone and another takes what is left"
    ),
    a_failed_call_takes_nothing_back: (
        "both families, the second exhausted for one of two owners, which gives the first back"
    ),
    torn_pages_are_believed: "one owner goes for two pages at once",
    a_repair_marks_what_is_pending: "a repair beside two calls that are under way, over both families",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    fault(monkeypatch)

    with pytest.raises(Violation):
        Checker(SCENARIOS[FAULTS[fault]]).walk()
