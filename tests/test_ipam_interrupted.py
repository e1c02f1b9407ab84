"""Calls that are cut short, raced, or asked in vain: what the next call makes of it, and what each refusal says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any

import pytest

from ciliumipam import Allocate, ExistingBlock, Ipam, MemoryStore, Node, NodeSelector, PoolSpec
from ciliumipam.allocator import Utilization
from ciliumipam.audit import audit
from ciliumipam.cidr import parse_prefix
from ciliumipam.draft import CLAIM, Draft, Later
from ciliumipam.errors import (
    ConflictError,
    CorruptRecordError,
    InvalidNameError,
    InvalidRequestError,
    IpamError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    PoolExhaustedError,
    PoolRefusedError,
    RetriesExhaustedError,
)
from ciliumipam.executor import Executor, drive
from ciliumipam.ledger import block_ledger
from ciliumipam.levels import AddressLevel
from ciliumipam.pool import BlockLengths
from ciliumipam.protocol import cancel, look
from ciliumipam.records import KINDS, ClaimPage, Key, Page, PoolRecord, Record, Revision
from ciliumipam.release_tasks import ReleaseTask
from ciliumipam.requests import Blocker, Concern, Drain, Grow, Release
from ciliumipam.session import restore, run
from ciliumipam.store import ABSENT, Expect, Write
from ciliumipam.tasks import AllocateTask, Task
from ciliumipam.testing.faults import Crash, Fault, FaultyStore, crash_after
from ciliumipam.view import View, address_claims_key, block_claims_key

EVERY = NodeSelector.everything()
NOW = 1000.0


def pool(*cidrs: str, name: str = "p", **fields: Any) -> PoolSpec:
    return PoolSpec(**{"name": name, "cidrs": cidrs, "selector": EVERY, **fields})


def new(store: Any) -> Ipam:
    return Ipam(store, clock=lambda: NOW)


def blocks(ipam: Ipam, node: str) -> list[str]:
    return [f"{block.pool} {block.prefix}" for status in ipam.nodes() if status.node.name == node for block in status.blocks]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def ipam(store: MemoryStore) -> Ipam:
    return new(store)


# ------------------------------------------------------------------------------------------------ cut short

CALLS: dict[str, Callable[[Ipam], object]] = {
    "apply a node": lambda ipam: ipam.apply(nodes=[Node("m")]),
    "grow": lambda ipam: ipam.grow("a", 2),
    "drain a block": lambda ipam: ipam.drain("block", "10.0.0.0/24"),
    "drain a pool": lambda ipam: ipam.drain("pool", "p"),
    "drain a node": lambda ipam: ipam.drain("node", "a"),
    "migrate": lambda ipam: ipam.migrate("a", "q"),
    "remove a node": lambda ipam: ipam.remove_node("a"),
}


AGAIN = ("apply a node", "grow", "drain a block", "migrate")


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("first", CALLS)
def test_whatever_call_was_cut_short_wherever_the_next_one_finishes_it_and_does_its_own(first: str, again: str) -> None:
    begun = MemoryStore()
    new(begun).apply([pool("10.0.0.0/22", "fd00::/62"), pool("10.1.0.0/22", "fd01::/62", name="q", priority=-1)], [Node("a"), Node("b")])
    for writes in range(10):
        store = MemoryStore()
        for kind in KINDS:
            for key, entry in begun.scan(kind).entries:
                store.put(key, entry.record, expect=ABSENT)
        with suppress(Crash):
            CALLS[first](new(FaultyStore(store, crash_after(writes))))
        ipam = new(store)

        with suppress(NotFoundError, NotHeldError, NoBlockError, PoolRefusedError):
            CALLS[again](ipam)
        ipam.apply()

        ipam.check_invariants()
        left = [(each.severity, each.where, each.what) for each in audit(store, clock=lambda: NOW).findings if each.severity != "notice"]
        assert left == [], f"after {writes} writes"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.VANISHED, Fault.CONFLICT])
def test_a_call_any_of_whose_writes_has_an_answer_that_nobody_knows_does_what_it_does_without(call: str, fault: Fault) -> None:
    def called(script: list[Fault]) -> tuple[FaultyStore, MemoryStore]:
        store = MemoryStore()
        faulty = FaultyStore(store)
        ipam = new(faulty)
        ipam.apply([pool("10.0.0.0/22", "fd00::/62"), pool("10.1.0.0/22", "fd01::/62", name="q", priority=-1)], [Node("a"), Node("b")])
        faulty.writes = 0
        faulty.play(script)
        CALLS[call](ipam)
        ipam.check_invariants()
        return faulty, store

    whole, expected = called([])
    for at in range(whole.writes):
        faulty, store = called([Fault.NONE] * at + [fault])

        assert faulty.fired == [fault]
        held = [(str(block.prefix), block.node, block.pool, block.draining) for block in new(store).blocks()]
        assert held == [(str(block.prefix), block.node, block.pool, block.draining) for block in new(expected).blocks()]
        assert [each for each in audit(store, clock=lambda: NOW).findings if each.severity != "notice"] == []


def test_an_adoption_that_was_cut_short_out_of_no_pool_keeps_nobody_from_being_served(store: MemoryStore) -> None:
    new(store).apply(nodes=[Node("a")])
    with suppress(Crash):
        new(FaultyStore(store, crash_after(1))).apply(existing=[ExistingBlock("a", parse_prefix("10.9.0.0/24"))])

    ipam = new(store)
    chosen = NodeSelector.parse("x")
    ipam.apply(
        [pool("10.0.0.0/22", selector=chosen), pool("10.9.0.0/24", name="far", selector=chosen, priority=-1, address_space="far")],
        [Node("b", {"x": ""})],
    )

    assert blocks(ipam, "b") == ["p 10.0.0.0/24"]
    assert [each for each in audit(store).findings if each.severity != "notice"] == []


def test_a_node_that_loses_one_family_to_another_node_in_the_middle_gives_back_the_other_one(store: MemoryStore) -> None:
    ipam, other = new(store), new(store)
    late = next(name for name in "bcdefgh" if block_claims_key(name) != block_claims_key("a"))
    ipam.apply([pool("10.1.0.0/24", "fd00::/64", selector=NodeSelector.parse("x"))], [Node(late)])
    ipam.drain("node", late)  # it gets what it has already, and no IPv4 block beside it

    def script() -> Iterator[Fault]:
        other.apply(existing=[ExistingBlock(late, parse_prefix("fd00::/64"))])  # after it was decided, before it is written
        yield Fault.NONE

    applied = new(FaultyStore(store, script())).apply(nodes=[Node("a", {"x": ""})])

    assert [(each.node, each.pool, each.family) for each in applied.refusals if each.node == "a"] == [("a", "p", 6)]
    assert [change for change in applied.changes if change.action == "carve"] == []
    assert [(block.node, str(block.prefix)) for block in new(store).blocks()] == [(late, "fd00::/64")]
    assert [each for each in audit(store).findings if each.severity != "notice"] == []


def test_a_claim_over_which_a_larger_block_was_given_meanwhile_comes_to_nothing(store: MemoryStore) -> None:
    other = new(store)
    late = next(name for name in "bcdefgh" if block_claims_key(name) != block_claims_key("a"))
    other.apply([pool("10.0.0.0/22")])

    def script() -> Iterator[Fault]:
        other.apply([pool("10.0.0.0/22", block_length_v4=23)], [Node(late)])
        yield Fault.NONE  # the node
        yield Fault.CRASH_AFTER  # its claim of 10.0.0.0/24

    faulty = FaultyStore(store)
    crashing = new(faulty)
    crashing.refresh()
    faulty.play(script())
    with pytest.raises(Crash):
        crashing.apply(nodes=[Node("a")])

    new(store).apply()

    assert [(block.node, str(block.prefix)) for block in new(store).blocks()] == [(late, "10.0.0.0/23"), ("a", "10.0.2.0/23")]
    assert audit(store).findings == ()


def test_what_a_node_that_is_gone_had_given_back_without_its_claim_is_forgotten() -> None:
    told = set()
    for writes in range(5):
        store = MemoryStore()
        new(store).apply([pool("10.0.0.0/22")], [Node("a")])
        with suppress(Crash):
            new(FaultyStore(store, crash_after(writes))).remove_node("a")
        entry = store.get(Key("node", "a"))
        if entry is not None:
            store.delete(Key("node", "a"), expect=entry.revision)
        told |= {str(change) for change in new(store).repair().changes}
        assert [each for each in audit(store).findings if each.severity == "unfinished"] == []

    assert told == {
        "repair block 10.0.0.0/24: of a: a claim named it that came to nothing; it is forgotten",
        "repair block 10.0.0.0/24: of a: it was being given back; it is now",
    }


def test_an_address_that_was_claimed_and_is_reserved_since_is_given_to_nobody(store: MemoryStore) -> None:
    ipam = new(store)
    ipam.apply([pool("10.0.0.0/24")], [Node("a")])
    with suppress(Crash):
        new(FaultyStore(store, crash_after(1))).allocate("a", "web")

    new(store).apply([pool("10.0.0.0/24", reserved=["10.0.0.1"])])

    assert [str(each.address) for each in new(store).allocate("a", "web")] == ["10.0.0.2"]
    assert audit(store).findings == ()


def test_an_address_in_a_block_that_is_on_its_way_back_cannot_be_released() -> None:
    told = set()
    for writes in range(6):
        store = MemoryStore()
        new(store).apply([pool("10.0.0.0/22")], [Node("a")])
        with suppress(Crash):
            new(FaultyStore(store, crash_after(writes))).remove_node("a")
        with pytest.raises(NotHeldError) as refused:
            new(store).force_release("10.0.0.1")
        told.add(refused.value.reason)

    assert told == {
        "nobody holds it",
        "its block 10.0.0.0/24 is on its way back, empty",
        "it is in no block that a node holds in the address space 'default'",
    }


def test_who_releases_an_address_that_no_claim_names_while_another_one_does_is_told_that_it_came_late(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/24")], [Node("a")])
    (given,) = new(store).allocate("a", "web")
    ((key, entry),) = store.scan("address-claims").entries
    store.put(key, ClaimPage({}, {}, frozenset(), frozenset()), expect=entry.revision)

    def reads() -> Iterator[Fault]:
        yield Fault.NONE  # the page, which shows it as held
        assert new(store).force_release("10.0.0.1").owner == "web"
        while True:
            yield Fault.NONE

    faulty = FaultyStore(store)
    late = new(faulty)
    late.refresh()
    faulty.play(reads=reads())
    with pytest.raises(NotHeldError) as refused:
        late.release_fenced("10.0.0.1", given.fence)

    assert refused.value.args == ("10.0.0.1", "somebody else released it just now")


def test_what_somebody_else_removed_is_gone_after_a_refresh(store: MemoryStore) -> None:
    ipam, other = new(store), new(store)
    ipam.apply([pool("10.0.0.0/24")], [Node("a"), Node("b")])
    other.remove_node("a")
    other.remove_pool("p")

    ipam.refresh()

    assert ([status.node.name for status in ipam.nodes()], ipam.pools()) == (["b"], ())


@pytest.mark.parametrize("remove", [lambda ipam: ipam.remove_pool("p"), lambda ipam: ipam.remove_node("a")], ids=["pool", "node"])
def test_a_removal_whose_last_answer_was_lost_says_that_it_is_done(store: MemoryStore, remove: Callable[[Ipam], object]) -> None:
    faulty = FaultyStore(store)
    ipam = new(faulty)
    ipam.apply(nodes=[Node("a")])
    ipam.apply([pool("10.0.0.0/24", selector=NodeSelector.parse("none"))])

    faulty.play([Fault.LOST])
    remove(ipam)

    assert faulty.fired == [Fault.LOST]
    assert len(ipam.pools()) + len(ipam.nodes()) == 1
    assert [each for each in audit(store).findings if each.severity != "notice"] == []


def test_a_migration_that_loses_the_last_block_after_it_began_takes_back_what_it_did(store: MemoryStore) -> None:
    ipam, other = new(store), new(store)
    late = next(name for name in "bcdefgh" if block_claims_key(name) != block_claims_key("a"))
    ipam.apply([pool("10.0.0.0/22", selector=NodeSelector.parse("x")), pool("10.1.0.0/24", name="q")], [Node("a", {"x": ""})])

    def script() -> Iterator[Fault]:
        other.apply(nodes=[Node(late)])  # after the migration has chosen, before it writes
        yield Fault.NONE

    faulty = FaultyStore(store, script())
    with pytest.raises(PoolExhaustedError) as refused:
        new(faulty).migrate("a", "q")

    assert refused.value.args == ("q", 4, 24, None)
    assert faulty.writes > 2, "it had begun"
    assert [(block.node, str(block.prefix), block.draining) for block in new(store).blocks()] == [
        ("a", "10.0.0.0/24", False),
        (late, "10.1.0.0/24", False),
    ]
    assert [each for each in audit(store).findings if each.severity != "notice"] == []


class Contested(MemoryStore):
    """A store in which somebody else is always faster."""

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        raise ConflictError(str(key), str(expect), "another one")

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        return [self.put(write.key, write.record, expect=write.expect) for write in writes]


def test_a_call_gives_up_after_a_hundred_lost_races_and_names_what_it_raced_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)

    with pytest.raises(RetriesExhaustedError) as error:
        new(Contested()).apply(nodes=[Node("a")])

    assert error.value.args == (100, "node a")
    assert len(pauses) == 98, "there is no pause after the first attempt, nor after the last"
    assert all(0 <= pause <= 0.2 for pause in pauses)


# ------------------------------------------------------------------------------------------------ in one round


def together(store: MemoryStore, *tasks: Task) -> None:
    """What one object does with calls that come at once: they share every write, which threads bring about only by chance."""
    view = View()
    executor = Executor(store, None, lambda _: None)
    drive(restore(view), executor.answer)
    drive(run(view, tasks), executor.answer)
    assert [task.failed for task in tasks] == [None] * len(tasks)
    assert [each for each in audit(store, clock=lambda: NOW).findings if each.severity != "notice"] == []


def allocate(owner: str, **more: Any) -> AllocateTask:
    return AllocateTask(Allocate("a", (owner,), **more), NOW, f"call of {owner}")


def given(store: MemoryStore) -> list[tuple[str, str]]:
    return [(each.owner, str(each.address)) for each in new(store).allocations()]


def neighbour(owner: str) -> str:
    """Another owner whose claims are in the same page."""
    return next(name for name in (f"x{n}" for n in range(10_000)) if address_claims_key("a", name) == address_claims_key("a", owner))


@pytest.mark.parametrize("release_first", [False, True])
def test_an_owner_that_allocates_and_releases_at_once_ends_as_one_of_the_two_orders_says(store: MemoryStore, release_first: bool) -> None:
    new(store).apply([pool("10.0.0.0/24")], [Node("a")])
    new(store).allocate("a", "web")
    tasks: list[Task] = [allocate("web", family=4), ReleaseTask(Release("a", ("web",)), NOW), allocate(neighbour("web"))]

    together(store, *(reversed(tasks) if release_first else tasks))

    left = dict(given(store))
    assert left.keys() - {"web"} == {neighbour("web")}
    assert len(set(left.values())) == len(left)


def test_two_calls_of_an_owner_whose_first_one_crashed_finish_it_together(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/24")], [Node("a")])
    with suppress(Crash):
        new(FaultyStore(store, crash_after(1))).allocate("a", "web")

    together(store, allocate("web"), allocate("web"))

    assert given(store) == [("web", "10.0.0.1")]


def test_who_asks_for_the_very_address_that_a_crashed_call_had_claimed_gets_it_and_the_owner_another_one(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/24")], [Node("a")])
    with suppress(Crash):
        new(FaultyStore(store, crash_after(1))).allocate("a", "web")

    together(store, allocate("db", address=IPv4Address("10.0.0.1")), allocate("web"))

    assert given(store) == [("db", "10.0.0.1"), ("web", "10.0.0.2")]


def test_what_was_claimed_and_is_reserved_since_is_undone_beside_another_call_of_the_same_page(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/24")], [Node("a")])
    with suppress(Crash):
        new(FaultyStore(store, crash_after(1))).allocate("a", "web")
    new(store).apply([pool("10.0.0.0/24", reserved=["10.0.0.1"])])

    together(store, allocate(neighbour("web")), allocate("web"))

    assert given(store) == [(neighbour("web"), "10.0.0.2"), ("web", "10.0.0.3")]


def test_two_crashed_calls_with_old_views_that_claimed_one_address_are_finished_with_two(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/24")], [Node("a")])
    faulty = [FaultyStore(store) for _ in range(2)]
    crashing = [new(each) for each in faulty]
    for ipam in crashing:
        ipam.refresh()
    owners = ("web", next(name for name in "abcdefgh" if address_claims_key("a", name) != address_claims_key("a", "web")))
    for ipam, each, owner in zip(crashing, faulty, owners, strict=True):
        each.play(crash_after(1))
        with pytest.raises(Crash):
            ipam.allocate("a", owner)

    assert sorted(str(each.address) for each in new(store).allocate("a", *owners)) == ["10.0.0.1", "10.0.0.2"]
    assert audit(store).findings == ()


def test_a_claim_of_a_clock_that_was_ahead_is_finished_although_the_address_still_cools_by_another_one(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/29", block_length_v4=29, reuse_delay=30, address_policy="lowest")], [Node("a")])
    new(store).allocate("a", "old")
    new(store).release("a", "old")
    ahead = Ipam(FaultyStore(store, crash_after(1)), clock=lambda: NOW + 60)
    with pytest.raises(Crash):
        ahead.allocate("a", "web")

    assert [str(each.address) for each in new(store).allocate("a", "web")] == ["10.0.0.1"]
    assert [each for each in audit(store, clock=lambda: NOW).findings if each.severity != "notice"] == []


def test_an_address_that_is_claimed_and_cools_cools_on_where_the_call_that_found_it_so_fails(store: MemoryStore) -> None:
    ipam = new(store)
    ipam.apply([pool("10.0.0.0/29", block_length_v4=29, reuse_delay=30, address_policy="lowest")], [Node("a")])
    ipam.allocate("a", "old")
    ipam.release("a", "old")
    with pytest.raises(Crash):
        Ipam(FaultyStore(store, crash_after(1)), clock=lambda: NOW + 60).allocate("a", "web")
    ipam.refresh()

    with pytest.raises(NodeExhaustedError):
        ipam.allocate("a", "web", *"bcdefg")

    assert [block.utilization for block in ipam.blocks()] == [Utilization(8, 5, 0, 1, 2)]
    ipam.check_invariants()


def test_who_cancels_beside_a_claim_of_the_same_page_waits_and_has_put_nothing(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/24")], [Node("a")])
    with suppress(Crash):
        new(FaultyStore(store, crash_after(1))).allocate("a", "web")
    view = View()
    drive(restore(view), Executor(store, None, lambda _: None).answer)
    draft, level = Draft(view), AddressLevel(view, "a", {}, NOW)
    standing = look(draft, level, "web")
    assert [piece.piece for piece in standing.pending] == ["10.0.0.1"]
    draft.put(standing.key, draft.claims(standing.key), CLAIM)
    before = draft.steps()

    with pytest.raises(Later):
        cancel(draft, level, standing, standing.pending)

    assert draft.steps() == before


# ------------------------------------------------------------------------------------------------ asked in vain

REFUSED = [
    ("drain no pool", lambda ipam: ipam.drain("pool", "red"), NotFoundError, ("pool", "red", ("p", "q"))),
    ("drain no node", lambda ipam: ipam.drain("node", "z"), NotFoundError, ("node", "z", ("a", "b"))),
    ("routes of no pool", lambda ipam: ipam.routes("red"), NotFoundError, ("pool", "red", ("p", "q"))),
    ("migrate no node", lambda ipam: ipam.migrate("z", "p"), NotFoundError, ("node", "z", ("a", "b"))),
    ("migrate to no pool", lambda ipam: ipam.migrate("a", "red"), NotFoundError, ("pool", "red", ("p", "q"))),
    ("migrate what drains", lambda ipam: ipam.migrate("b", "q"), PoolRefusedError, ("q", "b", "the node is draining; cancel that first")),
    (
        "grow what drains",
        lambda ipam: ipam.grow("b", 2),
        NoBlockError,
        ("b", 0, ("the node is draining; let it take new ones again with 'ciliumipam drain node --cancel'",)),
    ),
    ("grow no node", lambda ipam: ipam.grow("z", 2), NotFoundError, ("node", "z", ("a", "b"))),
    ("grow by nothing", lambda ipam: ipam.grow("a", 0), InvalidRequestError, ("a node has 1 to 65536 blocks of a family, not 0",)),
    (
        "grow by too many",
        lambda ipam: ipam.grow("a", 65537),
        InvalidRequestError,
        ("a node has 1 to 65536 blocks of a family, not 65537",),
    ),
    ("drain a cluster", lambda ipam: ipam.drain("cluster", "a"), InvalidRequestError, ("a 'cluster' cannot drain; valid: pool, node, block",)),
    ("a node by number", lambda ipam: ipam.allocate(5, "web"), InvalidNameError, ("node name", "the number 5", "a name is text")),
]


@pytest.mark.parametrize(("call", "kind", "args"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_a_call_in_vain_says_why_and_writes_nothing(
    store: MemoryStore, ipam: Ipam, call: Callable[[Ipam], object], kind: type[IpamError], args: tuple[object, ...]
) -> None:
    ipam.apply([pool("10.0.0.0/22"), pool("10.1.0.0/22", name="q", priority=-1)], [Node("a"), Node("b")])
    ipam.drain("node", "b")
    before = {key: entry for each in KINDS for key, entry in store.scan(each).entries}

    with pytest.raises(kind) as refused:
        call(ipam)

    assert refused.value.args == args
    assert {key: entry for each in KINDS for key, entry in store.scan(each).entries} == before


def test_what_a_block_or_a_pool_suffers_from_is_one_sentence() -> None:
    prefix = parse_prefix("10.0.0.0/24").to_network()

    assert str(Blocker("n", prefix, None, "", "", 0.0, "it is empty")) == "block 10.0.0.0/24 of node n: it is empty"
    assert str(Concern("p", "it is full")) == "pool p: it is full"
    assert str(Concern("", "1 block is an orphan")) == "1 block is an orphan"


def test_a_changed_override_of_block_lengths_is_told_with_before_and_after(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/16", "fd00::/56", block_lengths=(BlockLengths(NodeSelector.parse("big"), 22, None),))])

    applied = ipam.apply([pool("10.0.0.0/16", "fd00::/56", block_lengths=(BlockLengths(EVERY, 23, 62),))])

    assert [str(change) for change in applied.changes] == [
        "change pool p: blockLengths: big /22 -> every node /23 and /62",
    ]


def test_a_plan_tells_its_refusals(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/22", max_blocks_per_node=1)], [Node("a")])

    plan = ipam.plan(Grow("a", 2))

    assert [str(refusal) for refusal in plan.refusals] == ["pool p: it gives a node at most 1 IPv4 blocks; the node has 1 and wants 1 more"]
    assert ipam.plan(Drain("node", "a")).refusals == ()


def test_the_second_block_serves_when_the_first_is_full(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24", block_length_v4=30, blocks_per_node=2)], [Node("a")])

    given = [str(each.address) for owner in "wxyz" for each in ipam.allocate("a", owner)]

    assert given == ["10.0.0.1", "10.0.0.2", "10.0.0.5", "10.0.0.6"]


def test_a_node_that_has_all_that_its_own_pool_gives_it_grows_into_the_next_ones_that_overflow(ipam: Ipam) -> None:
    ipam.apply(
        [
            pool("10.0.0.0/22", max_blocks_per_node=1, overflow=True),
            pool("10.1.0.0/24", name="q", priority=-1, overflow=True),
            pool("fd00::/60", name="r", priority=-2),
            pool("10.3.0.0/24", name="s", priority=-3, overflow=True),
        ],
        [Node("a")],
    )

    ipam.grow("a", 2)
    assert blocks(ipam, "a") == ["p 10.0.0.0/24", "q 10.1.0.0/24"]
    ipam.grow("a", 3)
    assert blocks(ipam, "a") == ["p 10.0.0.0/24", "q 10.1.0.0/24", "s 10.3.0.0/24"]


def test_a_node_that_is_not_known_and_holds_an_orphan_is_told_both(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/24")], [Node("a")])
    entry = store.get(Key("node", "a"))
    assert entry is not None
    store.delete(Key("node", "a"), expect=entry.revision)
    new(store).remove_pool("p")

    with pytest.raises(NoBlockError) as refused:
        new(store).allocate("a", "web")

    assert refused.value.args == (
        "a",
        4,
        ("block 10.0.0.0/24 is an orphan: pool 'p' is gone or no longer covers it, so it takes nothing new", "the node is not known; apply it"),
    )


def test_a_pool_yields_to_the_older_one_that_it_overlaps_and_to_no_other(store: MemoryStore) -> None:
    for age, cidr in enumerate(("10.0.0.0/24", "10.1.0.0/24", "10.1.0.0/16")):
        store.put(Key("pool", f"p{age}"), PoolRecord(pool(cidr, name=f"p{age}"), float(age)), expect=ABSENT)

    assert [status.conflicting for status in new(store).pools()] == [None, None, "p1"]


def test_a_block_of_another_space_than_the_nodes_is_not_adopted(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24")], [Node("a")])
    there = ExistingBlock("a", parse_prefix("10.0.0.0/24"), None, 0.0, "a list", "blue")

    applied = ipam.apply(existing=[there])

    assert [(each.existing, each.reason) for each in applied.conflicts] == [
        (there, "it is in the address space 'blue', and the node's blocks are in 'default'")
    ]
    assert str(applied.conflicts[0]).startswith("a list: ")


def test_a_block_that_a_node_has_is_there_already_unless_it_is_said_to_be_in_another_space(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24", block_length_v4=24)], [Node("a")])
    ipam.apply([pool("10.0.0.0/24", block_length_v4=24, address_space="blue")])
    said = ExistingBlock("a", parse_prefix("10.0.0.0/24"))
    elsewhere = said._replace(address_space="blue")

    assert blocks(ipam, "a") == ["p 10.0.0.0/24"]
    assert ipam.apply(existing=[said, said._replace(address_space="default")]).conflicts == ()
    assert [(each.existing, each.reason) for each in ipam.apply(existing=[said, elsewhere]).conflicts] == [
        (elsewhere, "it is in the address space 'blue', and the node's blocks are in 'default'")
    ]


# ------------------------------------------------------------------------------------------------ a damaged store


@pytest.fixture
def closed(store: MemoryStore) -> MemoryStore:
    """The root of the block ledger is closed, which no call ever does."""
    store.put(block_ledger(4).key(0, 0), Page(2, 0, (0,) * 4), expect=ABSENT)
    return store


def test_a_block_that_no_claim_names_is_not_taken_back_until_a_repair_has_found_it(store: MemoryStore) -> None:
    new(store).apply([pool("10.0.0.0/22")], [Node("a")])
    ((key, entry),) = store.scan("block-claims").entries
    store.put(key, ClaimPage({}, {}, frozenset(), frozenset()), expect=entry.revision)

    applied = new(store).drain("node", "a")
    assert [str(change) for change in applied.changes] == ["drain node a: takes nothing new"]
    assert [str(block.prefix) for block in new(store).blocks()] == ["10.0.0.0/24"]

    new(store).repair()
    applied = new(store).drain("node", "a")
    assert [str(change) for change in applied.changes] == ["give back block 10.0.0.0/24: from node a to pool p"]
    assert new(store).blocks() == ()


def test_where_the_root_of_the_blocks_is_closed_nothing_is_adopted_or_carved(closed: MemoryStore) -> None:
    ipam = new(closed)

    applied = ipam.apply(nodes=[Node("a")], existing=[ExistingBlock("a", parse_prefix("10.0.0.0/24"))])
    assert [each.reason for each in applied.conflicts] == ["the ledger shows some of it as held; read again and check the store"]

    with pytest.raises(CorruptRecordError) as error:
        ipam.apply([pool("10.0.0.0/24")])
    assert error.value.args == ("10.0.0.0/24", "the pages show it as held, but it was found free")


def test_an_address_whose_page_lost_the_link_to_it_is_in_doubt_for_ever(store: MemoryStore) -> None:
    ipam = new(store)
    ipam.apply([pool("fd00::/62")], [Node("a")])
    ipam.allocate("a", "web")
    ((key, entry),) = [each for each in store.scan("address-page").entries if each[0].name == "fd00::/64"]
    assert isinstance(entry.record, Page)
    store.put(key, entry.record._replace(slots=(1,) * len(entry.record.slots)), expect=entry.revision)

    with pytest.raises(RetriesExhaustedError) as error:
        new(store).allocate("a", "web")

    assert error.value.attempts == 100
    assert "address-claims" in error.value.key


# ------------------------------------------------------------------------------------------------ groups of nodes


def test_a_node_that_moves_to_another_rack_gets_its_next_block_beside_those_of_that_rack(store: MemoryStore) -> None:
    ipam = new(store)
    spec = pool("10.0.0.0/20", carving="grouped", group_by="rack")
    ipam.apply([spec], [Node("a", {"rack": "1"}), Node("b", {"rack": "2"}), Node("c", {"rack": "2"})])
    ipam.apply(nodes=[Node("b", {"rack": "2", "x": ""})])
    assert ipam.routes("p") == new(store).routes("p")
    ipam.apply(nodes=[Node("a", {"rack": "2", "x": ""})])

    ipam.grow("a", 2)

    assert blocks(ipam, "a") == ["p 10.0.0.0/24", "p 10.0.1.0/24"]
    assert ipam.routes("p") == new(store).routes("p")
    ipam.check_invariants()


def test_a_pool_that_shrank_below_a_block_gives_out_nothing_of_it(ipam: Ipam) -> None:
    spec = {"carving": "grouped", "group_by": "rack"}
    ipam.apply([pool("10.0.0.0/22", **spec)], [Node("a", {"rack": "1"}), Node("b", {"rack": "2"})])

    ipam.apply([pool("10.0.0.0/26", "10.0.2.0/24", block_length_v4=28, **spec)], [Node("c", {"rack": "1"})])

    assert blocks(ipam, "a") == ["p 10.0.0.0/24"]
    assert blocks(ipam, "b") == ["p 10.0.2.0/24"]
    assert blocks(ipam, "c") == []
    ipam.check_invariants()
    ipam.remove_node("b")
    ipam.apply()
    assert blocks(ipam, "c") == ["p 10.0.2.0/28"]
    ipam.check_invariants()
    ipam.remove_node("a")
    ipam.apply(nodes=[Node("d", {"rack": "3"})])
    assert blocks(ipam, "d") == ["p 10.0.2.128/28"]
    assert ipam.pools()[0].spaces[4].available == (64 + 256) // 16 - 2
    ipam.check_invariants()


def test_what_a_block_larger_than_its_pool_covered_is_carved_once_it_is_given_back(ipam: Ipam) -> None:
    ipam.apply([pool("10.0.0.0/24")], [Node("a")])
    ipam.apply([pool("10.0.0.0/26", block_length_v4=28)], [Node("b")])
    assert blocks(ipam, "b") == []

    ipam.remove_node("a")
    ipam.apply()

    assert blocks(ipam, "b") == ["p 10.0.0.0/28"]
    ipam.check_invariants()
