"""`Ipam.repair`: whatever a crash leaves, wherever it comes, is finished or undone; what is held stays held.

Each call is stopped after every single one of its writes. A process that knows nothing then repairs; the audit, which shares no code
with it, has to find nothing broken and nothing begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, Store
from ciliumipam.audit import audit
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import NotFoundError, NotHeldError
from ciliumipam.records import KINDS, ClaimPage, Cooling, Holding, Key, Kind, Page, Record, Split
from ciliumipam.requests import Allocation, Applied, ExistingBlock
from ciliumipam.store import ABSENT
from ciliumipam.testing.faults import Crash, Fault, FaultyStore, crash_after
from ciliumipam.testing.raw import Told, judge

EVERY = NodeSelector.everything()
NOW = 1_700_000_000.0
DUAL = PoolSpec(name="dual", cidrs=["10.0.0.0/20", "fd00::/60"], selector=NodeSelector.parse("!apart"), reuse_delay=30)
PAIR = PoolSpec(
    name="pair", cidrs=["10.1.0.0/20", "fd01::/60"], selector=NodeSelector.parse("!apart"), blocks_per_node=2, priority=-1, reuse_delay=30
)
APART = PoolSpec(name="apart", cidrs=["10.0.0.0/20", "fd00::/60"], selector=NodeSelector.parse("apart"), address_space="tenant-b")
NODES = (Node("m"), Node("n"), Node("far", {"apart": ""}))


def new(store: Store, identity: str) -> Ipam:
    return Ipam(store, clock=lambda: NOW, identity=identity)


def filled() -> MemoryStore:
    """Nodes m, n and, in another address space, far: each with blocks of both families, and owners on all of them."""
    store = MemoryStore()
    ipam = new(store, "first")
    ipam.apply([DUAL, PAIR, APART], NODES)
    ipam.allocate("m", "x", "y")
    ipam.allocate("n", "z")
    ipam.release("n", "z")
    ipam.allocate("far", "x")
    return store


def copied(store: Store) -> MemoryStore:
    copy = MemoryStore()
    for kind in KINDS:
        for key, entry in store.scan(kind).entries:
            copy.put(key, entry.record, expect=ABSENT)
    return copy


def counted(store: Store) -> frozenset[Told]:
    """What the records alone show as held."""
    records: dict[tuple[str, str], Any] = {(kind, key.name): entry.record for kind in KINDS for key, entry in store.scan(kind).entries}
    return frozenset(judge(records, 8))


def wrong(store: Store) -> list[tuple[str, str, str]]:
    """What an audit calls broken or unfinished."""
    findings = audit(store, clock=lambda: NOW).findings
    return [(each.severity, each.where, each.what) for each in findings if each.severity != "notice"]


def contents(store: Store) -> dict[Key, Record]:
    return {key: entry.record for kind in KINDS for key, entry in store.scan(kind).entries}


class Act(NamedTuple):
    """A call, and what has to be there before it.

    Attributes:
        call: The call.
        before: What is done before.
        ends: What of that which was held before it may end.
    """

    call: Callable[[Ipam], object]
    before: Callable[[Ipam], object] = lambda _: None
    ends: Callable[[Told], bool] = lambda _: False


def blocks_of(*nodes: str) -> Callable[[Told], bool]:
    """Blocks of some nodes, and no address."""
    return lambda each: not each.node and each.holder in nodes


def addresses_of(node: str, *owners: str) -> Callable[[Told], bool]:
    """Addresses of some owners on a node."""
    return lambda each: each.node == node and each.holder in owners


def everything_of(node: str) -> Callable[[Told], bool]:
    """A node's blocks and all addresses in them."""
    return lambda each: (each.node or each.holder) == node


CALLS = {
    "allocate both families": Act(lambda ipam: ipam.allocate("n", "p")),
    "allocate for several owners": Act(lambda ipam: ipam.allocate("n", "p", "q", "r")),
    "allocate for one who has, and one who has not": Act(lambda ipam: ipam.allocate("m", "x", "p")),
    "allocate a given address": Act(lambda ipam: ipam.allocate("n", "p", address="10.0.1.77")),
    "allocate in another space": Act(lambda ipam: ipam.allocate("far", "p", "q")),
    "release both families": Act(lambda ipam: ipam.release("m", "x"), ends=addresses_of("m", "x")),
    "release several owners": Act(lambda ipam: ipam.release("m", "x", "y"), ends=addresses_of("m", "x", "y")),
    "release by force": Act(lambda ipam: ipam.force_release("10.0.0.1"), ends=addresses_of("m", "x")),
    "release in another space": Act(lambda ipam: ipam.release("far", "x"), ends=addresses_of("far", "x")),
    "apply new nodes": Act(lambda ipam: ipam.apply(nodes=[Node("o"), Node("p"), Node("q", {"apart": ""})])),
    "apply a pool and its nodes": Act(
        lambda ipam: ipam.apply([PoolSpec(name="new", cidrs=["10.2.0.0/20", "fd02::/60"], selector=NodeSelector.parse("new"))], [Node("o", {"new": ""})])
    ),
    "apply a pool that shrinks": Act(
        lambda ipam: ipam.apply([PoolSpec(name="dual", cidrs=["10.0.1.0/24", "fd00::/60"], selector=NodeSelector.parse("!apart"))], [Node("o")])
    ),
    "adopt": Act(
        lambda ipam: ipam.apply(
            nodes=[Node("o")],
            existing=[ExistingBlock("o", parse_prefix("10.0.8.0/24")), ExistingBlock("o", parse_prefix("192.168.0.0/24"))],
        )
    ),
    "grow": Act(lambda ipam: ipam.grow("m", 3)),
    "drain a pool": Act(lambda ipam: ipam.drain("pool", "dual"), ends=blocks_of("n")),
    "drain a pool, going on": Act(lambda ipam: ipam.drain("pool", "dual"), lambda ipam: (ipam.drain("pool", "dual"), ipam.release("m", "x", "y")), ends=blocks_of("m", "n")),
    "drain a node": Act(lambda ipam: ipam.drain("node", "n"), ends=blocks_of("n")),
    "drain a node in another space": Act(lambda ipam: ipam.drain("node", "far"), lambda ipam: ipam.release("far", "x"), ends=blocks_of("far")),
    "drain a block": Act(lambda ipam: ipam.drain("block", "10.0.1.0/24"), ends=blocks_of("n")),
    "drain a block in another space": Act(lambda ipam: ipam.drain("block", "10.0.0.0/24", space="tenant-b"), lambda ipam: ipam.release("far", "x"), ends=blocks_of("far")),
    "let a pool take new ones again": Act(lambda ipam: ipam.drain("pool", "dual", cancel=True), lambda ipam: ipam.drain("pool", "dual")),
    "migrate an empty node": Act(lambda ipam: ipam.migrate("n", "pair"), ends=blocks_of("n")),
    "migrate a node in use": Act(lambda ipam: ipam.migrate("m", "pair")),
    "remove an empty node": Act(lambda ipam: ipam.remove_node("n"), ends=everything_of("n")),
    "remove a node by force": Act(lambda ipam: ipam.remove_node("m", force=True), ends=everything_of("m")),
    "remove a node in another space": Act(lambda ipam: ipam.remove_node("far", force=True), ends=everything_of("far")),
    "remove a node with many blocks": Act(lambda ipam: ipam.remove_node("m", force=True), lambda ipam: ipam.grow("m", 4), ends=everything_of("m")),
    "remove a pool": Act(lambda ipam: ipam.remove_pool("dual")),
    "repair": Act(lambda ipam: ipam.repair()),
}


def prepared(act: Act) -> MemoryStore:
    store = filled()
    act.before(new(store, "before"))
    return store


def crashes(act: Act) -> Iterator[tuple[int, MemoryStore, frozenset[Told]]]:
    """The store as it is after each write of a call that then dies, with what was held before the call."""
    start = prepared(act)
    before = counted(start)
    writes = 0
    while True:
        store = copied(start)
        try:
            act.call(new(FaultyStore(store, crash_after(writes)), "dies"))
        except Crash:
            yield writes, store, before
            writes += 1
            continue
        assert writes > 1 or act is CALLS["repair"], "the call did not even write twice"
        return


@pytest.mark.parametrize("name", CALLS)
def test_wherever_a_call_dies_a_repair_leaves_nothing_begun_and_frees_nothing_that_is_held(name: str) -> None:
    act = CALLS[name]
    for writes, store, before in crashes(act):
        applied = new(store, "repairs").repair()

        after = counted(store)
        assert wrong(store) == [], (writes, applied.changes)
        assert {each for each in before if not act.ends(each)} <= after, writes
        new(store, "looks").check_invariants()
        assert new(store, "again").repair().changes == (), writes
        assert counted(store) == after
        once_more = FaultyStore(store)  # the second one settled what the first one carved
        assert new(once_more, "once more").repair().changes == (), writes
        assert once_more.writes == 0, writes

        with suppress(NotFoundError, NotHeldError):  # what a release or a removal was about is done
            act.call(new(store, "the same call"))
        assert wrong(store) == [], writes


# ------------------------------------------------------------------------------------------------------ the judge


def judged(store: Store, blocks_per_node: int = 1) -> frozenset[Told]:
    records: dict[tuple[str, str], Any] = {(kind, key.name): entry.record for kind in KINDS for key, entry in store.scan(kind).entries}
    return frozenset(judge(records, blocks_per_node))


def put(store: Store, key: Key, edit: Callable[[Any], Record]) -> None:
    entry = store.get(key)
    assert entry is not None
    store.put(key, edit(entry.record), expect=entry.revision)


def test_the_judge_sees_every_address_space_and_nothing_that_only_cools() -> None:
    store = filled()

    found = judged(store)

    assert {(each.space, each.holder) for each in found if not each.node} == {("default", "m"), ("default", "n"), ("tenant-b", "far")}
    assert sorted((each.node, each.holder, each.family) for each in found if each.node) == sorted(
        (node, owner, family) for node, owner in (("m", "x"), ("m", "y"), ("far", "x")) for family in (4, 6)
    )


def test_to_the_judge_nothing_counts_below_a_slot_that_cools() -> None:
    store = filled()
    for name in ("10.0.0.0/10", "tenant-b@10.0.0.0/10"):
        put(
            store,
            Key("block-page", name),
            lambda page: page._replace(slots=tuple(Cooling(slot.fence, NOW) if isinstance(slot, Split) else slot for slot in page.slots)),
        )

    assert {(each.family, each.node) for each in judged(store)} == {(6, ""), (6, "m"), (6, "far")}


def _overlapping(store: Store) -> None:
    thief = Holding(4, 10 << 24, 26, 99, "thief", "", 0.0, "tenant-b")
    put(store, Key("block-page", "tenant-b@10.0.0.0/18"), lambda page: page._replace(slots=(thief, *page.slots[1:])))


def _in_two_spaces(store: Store) -> None:
    block = Holding(6, (0xFD00 << 112) + (9 << 64), 64, 99, "m", "", 0.0, "tenant-b")
    put(store, Key("block-page", "tenant-b@fd00::/58"), lambda page: page._replace(slots=(*page.slots[:36], *[block] * 4, *page.slots[40:])))


def _of_another_space(store: Store) -> None:
    put(store, Key("block-page", "tenant-b@10.0.0.0/18"), lambda page: page._replace(slots=tuple(slot._replace(space="c") if isinstance(slot, Holding) else slot for slot in page.slots)))


def _marked(store: Store, **marks: frozenset[Holding]) -> None:
    key = store.scan("block-claims").entries[0][0]
    put(store, key, lambda page: page._replace(**marks))


STRAY = Holding(4, 10 << 24, 24, 99, "m", "", 0.0)


@pytest.mark.parametrize(
    ("damage", "most", "says"),
    [
        (_overlapping, 1, "does not begin where its run begins"),
        (_in_two_spaces, 2, "blocks in address spaces"),
        (_of_another_space, 1, "lies in a page of the space 'tenant-b'"),
        (lambda store: _marked(store, draining=frozenset({STRAY})), 1, "is marked as draining"),
        (lambda store: _marked(store, closing=frozenset({STRAY})), 1, "is marked as closing"),
        (lambda store: lose(store, claim_keys(store)[:1]), 1, "no claim names it"),
        (lambda store: new(store, "grows").grow("m", 2), 1, "holds 2 pieces, allowed are 1"),
    ],
)
def test_the_judge_refuses_what_cannot_be(damage: Callable[[Store], object], most: int, says: str) -> None:
    store = filled()
    damage(store)

    with pytest.raises(AssertionError, match=says):
        judged(store, most)


# ------------------------------------------------------------------------------------------- beside other writers


class Between(FaultyStore):
    """Something else happens right before one of the writes."""

    def __init__(self, inner: Store, at: int, happens: Callable[[], object]) -> None:
        super().__init__(inner)
        self._at, self._happens = at, happens

    def _next(self, key: Key, operation: str) -> Fault:
        if self.writes == self._at:
            self._happens()
        return super()._next(key, operation)


def shape(store: Store) -> list[tuple[object, ...]]:
    """Who holds how much of what, whichever piece and fence it is."""
    return sorted((each.space, each.node, each.holder, each.family) for each in counted(store))


OTHERWISE = ("apply a pool that shrinks", "adopt")
"""Where a repair, which gives blocks to nodes that have none, rightly gives some between the new node and what else is applied."""


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_right_although_a_repair_comes_between_any_two_of_its_writes(name: str) -> None:
    act = CALLS[name]
    start = prepared(act)
    alone = copied(start)
    wanted = act.call(new(alone, "alone"))
    before = counted(start)
    at = 0
    while True:
        store = copied(start)
        paused = Between(store, at, new(store, "repairs").repair)
        found = act.call(new(paused, "paused"))

        assert [each for each in wrong(store) if each[0] == "error"] == [], at
        assert {each for each in before if not act.ends(each)} <= counted(store), at
        if name not in OTHERWISE:
            assert shape(store) == shape(alone), at
        _same_answer(found, wanted, store, at)
        new(store, "repairs again").repair()
        assert wrong(store) == [], at
        if paused.writes <= at:
            return
        at += 1


def _same_answer(found: object, wanted: object, store: Store, at: int) -> None:
    if isinstance(wanted, Applied):
        assert isinstance(found, Applied)
        assert [str(each) for each in found.blockers] == [str(each) for each in wanted.blockers], at
        return
    given = [wanted] if isinstance(wanted, Allocation) else wanted
    told = [found] if isinstance(found, Allocation) else found
    assert isinstance(given, (list, tuple))
    assert isinstance(told, (list, tuple))
    assert [(each.owner, each.family) for each in told] == [(each.owner, each.family) for each in given], at
    named = {(each.family, int(each.address), each.fence, each.owner, each.node) for each in told}
    now = {each[:5] for each in counted(store)}
    assert named <= now or not named & now, at


@pytest.mark.parametrize("name", [name for name in CALLS if name != "repair"])
def test_a_repair_of_what_a_call_left_is_right_although_the_same_call_comes_between_any_two_of_its_writes(name: str) -> None:
    act = CALLS[name]
    stopped = list(crashes(act))
    for writes, left, before in stopped[1 :: max(1, len(stopped) // 3)]:  # some of the states that it may have died in
        at = 0
        while True:
            store = copied(left)

            def again(store: MemoryStore = store) -> None:
                with suppress(NotFoundError, NotHeldError):
                    act.call(new(store, "the same call"))

            paused = Between(store, at, again)
            new(paused, "paused").repair()

            assert [each for each in wrong(store) if each[0] == "error"] == [], (writes, at)
            assert {each for each in before if not act.ends(each)} <= counted(store), (writes, at)
            new(store, "repairs again").repair()
            assert wrong(store) == [], (writes, at)
            if paused.writes <= at:
                break
            at += 1


# ------------------------------------------------------------------------------------------------- damaged stores


def lose(store: Store, keys: Iterable[Key]) -> None:
    for key in keys:
        entry = store.get(key)
        assert entry is not None
        store.delete(key, expect=entry.revision)


def claim_keys(store: Store) -> list[Key]:
    kinds: tuple[Kind, ...] = ("block-claims", "address-claims")
    return [key for kind in kinds for key, _ in store.scan(kind).entries]


@pytest.mark.parametrize("lost", [*range(len(claim_keys(filled()))), -1])
def test_claims_that_are_lost_are_named_again_and_everything_can_be_released_then(lost: int) -> None:
    store = filled()
    before = counted(store)
    keys = claim_keys(store)
    lose(store, keys if lost < 0 else [keys[lost]])

    changes = new(store, "repairs").repair().changes

    assert wrong(store) == []
    assert counted(store) == before
    assert all(change.action == "repair" and change.detail.endswith("no claim named it; it does again") for change in changes)
    ipam = new(store, "user")
    for node, owners in (("m", ("x", "y")), ("far", ("x",))):
        assert [each.owner for each in ipam.release(node, *owners)] == [owner for owner in owners for _ in (4, 6)]
    for node in ("m", "n", "far"):
        ipam.remove_node(node)
    assert counted(store) == frozenset()
    assert wrong(store) == []


def test_each_claim_that_is_named_again_is_told() -> None:
    store = filled()
    lose(store, claim_keys(store))

    changes = new(store, "repairs").repair().changes

    assert sorted(map(str, changes)) == [
        "repair address 10.0.0.1: of x: on far, no claim named it; it does again",
        "repair address 10.0.0.1: of x: on m, no claim named it; it does again",
        "repair address 10.0.0.2: of y: on m, no claim named it; it does again",
        "repair address fd00::1: of x: on far, no claim named it; it does again",
        "repair address fd00::1: of x: on m, no claim named it; it does again",
        "repair address fd00::2: of y: on m, no claim named it; it does again",
        "repair block 10.0.0.0/24: of far: no claim named it; it does again",
        "repair block 10.0.0.0/24: of m: no claim named it; it does again",
        "repair block 10.0.1.0/24: of n: no claim named it; it does again",
        "repair block fd00:0:0:1::/64: of n: no claim named it; it does again",
        "repair block fd00::/64: of far: no claim named it; it does again",
        "repair block fd00::/64: of m: no claim named it; it does again",
    ]


def test_a_claim_that_is_named_again_leaves_the_marks_of_others_in_its_page_alone() -> None:
    store = filled()
    ipam = new(store, "user")
    ipam.drain("block", "10.0.0.0/24")
    key = next(key for key in claim_keys(store) if "m" in getattr(contents(store)[key], "claims", {}) and key.kind == "block-claims")
    entry = store.get(key)
    assert entry is not None
    assert isinstance(entry.record, ClaimPage)
    lost = next(piece for piece in entry.record.claims["m"] if piece.family == 6)
    kept = tuple(piece for piece in entry.record.claims["m"] if piece != lost)
    store.put(key, entry.record._replace(claims={**entry.record.claims, "m": kept}), expect=entry.revision)
    assert [each[1:] for each in wrong(store)] == [
        ("block fd00::/64", f"node m holds the block (fence {lost.fence}), but no claim names it, so no call gives it back")
    ]

    new(store, "repairs").repair()

    repaired = contents(store)[key]
    assert isinstance(repaired, ClaimPage)
    assert set(repaired.claims["m"]) == {*kept, lost}
    assert {piece.piece for piece in repaired.draining} == {"10.0.0.0/24"}
    assert wrong(store) == []


def test_a_second_address_of_an_owner_that_no_claim_names_is_left_to_people() -> None:
    """Which of the two the owner uses is not to be seen."""
    store = filled()
    page = Key("address-page", "10.0.0.0/24")
    entry = store.get(page)
    assert entry is not None
    assert isinstance(entry.record, Page)
    second = Holding(4, (10 << 24) + 9, 32, 50, "x", "", NOW)
    slots = tuple(second if index == 9 else slot for index, slot in enumerate(entry.record.slots))
    store.put(page, entry.record._replace(slots=slots), expect=entry.revision)

    assert new(store, "repairs").repair().changes == ()
    assert [where for _, where, _ in wrong(store)] == ["address 10.0.0.9", "owner x on node m"]
    new(store, "user").release_fenced("10.0.0.9", 50)
    assert wrong(store) == []


def test_what_a_node_that_is_gone_had_only_begun_to_take_is_undone() -> None:
    store = filled()
    with pytest.raises(Crash):
        new(FaultyStore(store, crash_after(2)), "dies").apply(nodes=[Node("o")])
    lose(store, [Key("node", "o")])
    assert [each[1] for each in wrong(store)] == ["block 10.0.2.0/24", "block fd00:0:0:2::/64"]

    changes = new(store, "repairs").repair().changes

    assert [str(change) for change in changes] == [
        "repair block 10.0.2.0/24: of o: the node is gone; what was begun for it is undone",
        "repair block fd00:0:0:2::/64: of o: the node is gone; what was begun for it is undone",
    ]
    assert wrong(store) == []


def test_a_block_that_a_node_was_giving_back_which_is_gone_goes_back() -> None:
    act = CALLS["remove an empty node"]
    for writes, store, _ in crashes(act):
        going = {where.removeprefix("block ") for _, where, what in wrong(store) if "is giving the block back" in what}
        if going:
            lose(store, [Key("node", "n")])

            new(store, "repairs").repair()

            assert wrong(store) == [], writes
            assert not going & {str(block.prefix) for block in new(store, "looks").blocks() if block.node == "n"}
            return
    pytest.fail("no write leaves a block half given back")


def test_two_stores_are_repaired_together() -> None:
    cluster, local = filled(), MemoryStore()
    for kind in ("address-page", "address-claims"):
        for key, entry in cluster.scan(kind).entries:
            local.put(key, entry.record, expect=ABSENT)
            cluster.delete(key, expect=entry.revision)
    lose(local, [key for key, _ in local.scan("address-claims").entries])
    lose(cluster, claim_keys(cluster))

    Ipam(cluster, local, clock=lambda: NOW).repair()

    assert [each for each in audit(cluster, local, clock=lambda: NOW).findings if each.severity != "notice"] == []
    assert len(local.scan("address-claims").entries) == 3
