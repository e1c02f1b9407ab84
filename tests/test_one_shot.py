"""`OneShot` beside `Ipam`: the same answers and the same records, whatever is read; and nothing that was not read is taken for free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore, Store, partial_view
from ciliumipam.audit import audit
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import (
    AlreadyAllocatedError,
    ConflictError,
    InvalidRequestError,
    IpamError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    OwnerHoldsError,
    StoreUnavailableError,
)
from ciliumipam.one_shot import OneShot
from ciliumipam.partial_view import PartialView, Unread
from ciliumipam.records import KINDS, Entry, Key, Kind, Record, Revision
from ciliumipam.store import Expect, Listing, Write
from ciliumipam.testing.crashing import check, held
from ciliumipam.testing.faults import Crash, FaultyStore, crash_after

ROOT = Path(__file__).parent.parent
EVERY = NodeSelector.everything()
NOW = 1_000_000.0
BOTH = PoolSpec(name="both", cidrs=["10.0.0.0/24", "fd00::/62"], selector=EVERY, block_length_v4=28, block_length_v6=64)


class Counting:
    """A store that says what was read."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.read: list[str] = []

    def get(self, key: Key) -> Entry | None:
        self.read.append(str(key))
        return self.inner.get(key)

    def scan(self, kind: Kind) -> Listing:
        self.read.append(f"all of {kind}")
        return self.inner.scan(kind)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        return self.inner.put(key, record, expect=expect)

    def delete(self, key: Key, *, expect: Revision) -> None:
        self.inner.delete(key, expect=expect)

    def close(self) -> None:
        self.inner.close()


def filled(pool: PoolSpec, *owners: str, store: Store | None = None, nodes: Sequence[str] = ("n",)) -> Store:
    store = store if store is not None else MemoryStore()
    ipam = Ipam(store, clock=lambda: NOW, identity="setup")
    ipam.apply([pool], [Node(name) for name in nodes])
    if owners:
        ipam.allocate(nodes[0], *owners)
    return store


def one(store: Store, node: str = "n", **more: Any) -> OneShot:
    defaults: dict[str, Any] = {"clock": lambda: NOW, "identity": "one"}
    return OneShot(store, node, **(defaults | more))


def records(store: Store) -> dict[Key, Record]:
    return {key: entry.record for kind in KINDS for key, entry in store.scan(kind).entries}


def told(call: Callable[[], Any]) -> Any:
    """What a call says, or how it ends."""
    try:
        return call()
    except IpamError as error:
        return repr(error)


# ------------------------------------------------------------------------------------------------ what it does


def test_an_owner_gets_an_address_of_each_family_once_and_loses_both() -> None:
    store = filled(BOTH)

    first = one(store).allocate("web", label="default/web")

    assert [(str(each.address), each.owner, each.label, each.pool) for each in first] == [
        ("10.0.0.1", "web", "default/web", "both"),
        ("fd00::1", "web", "default/web", "both"),
    ]
    assert one(store).allocate("web") == first == one(store).held("web") == Ipam(store).allocations("n")
    assert one(store).release("web") == first
    assert one(store).release("web") == () == one(store).held("web")


def test_given_addresses_are_given_and_only_their_families() -> None:
    store = filled(BOTH, "x")

    assert [str(each.address) for each in one(store).allocate("a", addresses=["fd00::9"])] == ["fd00::9"]
    assert [str(each.address) for each in one(store).allocate("b", addresses=["fd00::7", "10.0.0.9"])] == ["10.0.0.9", "fd00::7"]
    with pytest.raises(AlreadyAllocatedError):
        one(store).allocate("c", addresses=["10.0.0.8", "fd00::9"])
    assert one(store).held("c") == (), "all of the given ones, or none"
    with pytest.raises(OwnerHoldsError):
        one(store).allocate("b", addresses=["10.0.0.10"])
    with pytest.raises(InvalidRequestError, match=r"one IPv4 address on a node, but 2 are given: 10\.0\.0\.4, 10\.0\.0\.5"):
        one(store).allocate("c", addresses=["10.0.0.4", "10.0.0.5"])


def test_a_node_that_nobody_knows_has_nothing_to_release_and_nothing_to_give() -> None:
    other = one(filled(BOTH), "other")

    assert other.release("web") == other.held("web") == other.release_others((), "") == ()
    assert other.usage() == {}
    with pytest.raises(NotFoundError, match="no node 'other'"):
        other.allocate("web")


def test_what_is_garbage_goes_and_what_others_have_stays() -> None:
    store = filled(BOTH, "net/a", "net/b", "other/a", "network/c")

    gone = one(store).release_others({"net/a"}, "net/")

    assert [(each.owner, str(each.address)) for each in gone] == [("net/b", "10.0.0.2"), ("net/b", "fd00::2")]
    assert sorted({each.owner for each in Ipam(store).allocations()}) == ["net/a", "network/c", "other/a"]


def test_garbage_of_many_owners_in_one_claim_page_goes_wholly() -> None:
    owners = [f"net/{number}" for number in range(150)]
    store = filled(PoolSpec(name="p", cidrs=["10.0.0.0/24", "fd00::/64"], selector=EVERY), *owners)

    gone = one(store).release_others({"net/7"}, "net/")

    assert len(gone) == 2 * 149
    assert [each.owner for each in Ipam(store).allocations()] == ["net/7", "net/7"]
    assert audit(store).findings == ()


def test_usage_counts_what_is_in_use_what_cools_and_what_is_reserved() -> None:
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/22"], selector=EVERY, block_length_v4=22, reserved=["10.0.0.10-10.0.0.19"], reuse_delay=60)
    store = filled(pool, *[f"o{number}" for number in range(300)])
    Ipam(store, clock=lambda: NOW).release("n", "o1", "o2")

    assert one(store).usage() == Ipam(store, clock=lambda: NOW).nodes()[0].utilization
    assert one(store).usage()[4] == (1024, 1024 - 298 - 2 - 12, 298, 2, 12)
    assert one(store, clock=lambda: NOW + 60).usage()[4].cooling == 0


def test_a_node_that_drains_gives_nothing() -> None:
    store = filled(BOTH, "x")
    Ipam(store).drain("node", "n")

    with pytest.raises(NoBlockError, match="the node is draining"):
        one(store).allocate("web")
    assert len(one(store).release("x")) == 2


def test_a_full_node_is_told_in_full() -> None:
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/29"], selector=EVERY, block_length_v4=30, blocks_per_node=2)
    store = filled(pool, "a", "b", "c", "d")

    with pytest.raises(NodeExhaustedError) as error:
        one(store).allocate("e")

    assert (error.value.capacity, error.value.in_use, error.value.reserved, error.value.blocks) == (8, 4, 4, ("10.0.0.0/30", "10.0.0.4/30"))


class Contested(MemoryStore):
    """A store in which somebody else is always faster."""

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        raise ConflictError(str(key), str(expect), "another one")

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        raise ConflictError(str(writes[0].key), str(writes[0].expect), "another one")


def test_nothing_is_begun_anew_after_the_deadline() -> None:
    store = filled(BOTH)
    contested = Contested()
    contested._entries = store._entries  # type: ignore[attr-defined]  # the same records
    pauses: list[float] = []

    with pytest.raises(StoreUnavailableError, match="the time is up"):
        one(contested, deadline=time.monotonic() - 1, pause=pauses.append).allocate("web")

    assert pauses == []


# ------------------------------------------------------------------------------------------------ what it reads


def test_an_allocation_reads_what_it_depends_on_and_nothing_twice() -> None:
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/16"], selector=EVERY, block_length_v4=22)
    store = Counting(filled(pool, *[f"o{number}" for number in range(300)], nodes=["n", "o", "p"]))

    one(store).allocate("web")

    pages = [each for each in store.read if each.startswith("address-page")]
    assert pages == ["address-page 10.0.0.0/22", "address-page 10.0.0.0/22+10.0.0.0/24", "address-page 10.0.0.0/22+10.0.1.0/24"]
    assert len(store.read) == len(set(store.read)) == 3 + 4 + 5  # pages; the way to the block; node, its claims, its lease, pool, the owner's claims
    assert not [each for each in store.read if each.startswith("all")]


def test_full_pages_are_passed_over_and_the_same_address_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/16"], selector=EVERY, block_length_v4=21)
    owners = [f"o{number}" for number in range(1100)]
    with SqliteStore(tmp_path / "one.db") as ours:
        theirs = filled(pool, *owners)
        filled(pool, *owners, store=ours)
        asked: list[str] = []
        room = ours.room

        def noted(key: Key) -> tuple[int, ...] | None:
            asked.append(key.name)
            return room(key)

        monkeypatch.setattr(ours, "room", noted)
        for store in (ours, theirs):
            Ipam(store, clock=lambda: NOW).release("n", "o600")
        for owner in ("a", "b"):
            assert one(ours).allocate(owner) == Ipam(theirs, clock=lambda: NOW).allocate("n", owner)

        pages = [f"10.0.0.0/21+10.0.{page}.0/24" for page in range(5)]
        assert asked == [*pages[:3], *pages], "the third page had room once"
        assert one(ours).usage() == Ipam(theirs).nodes()[0].utilization
        for number in range(2046 - 1101):
            one(ours).allocate(f"more{number}")
        assert one(ours).usage()[4].available == 0
        with pytest.raises(NodeExhaustedError, match="2046 in use, 2 reserved"):
            one(ours).allocate("late")


def test_full_pages_stay_hidden_where_an_edited_pool_makes_the_index_anew() -> None:
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/16"], selector=EVERY, block_length_v4=21)
    store = filled(pool, "a")
    view = PartialView()
    (block,) = one(store)._asked(view, lambda: list(view.node_blocks("n")))
    view.hide(block, parse_prefix("10.0.0.0/24"))
    filled(pool.replace(reserved=["10.0.1.0-10.0.1.7"]), store=store)
    key = Key("pool", "p")
    view.load(key, store.get(key))

    (again,) = one(store)._asked(view, lambda: list(view.node_blocks("n")))

    assert again.addresses is not block.addresses
    assert again.addresses.pick() == parse_prefix("10.0.1.8/32").network


def test_a_release_reads_one_page_of_claims_where_nothing_is_held() -> None:
    store = Counting(filled(BOTH, "a"))

    assert one(store).release("b") == ()

    assert [each.partition(" ")[0] for each in store.read] == ["address-claims"]


def test_one_block_of_forty_is_read() -> None:
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/16"], selector=EVERY, block_length_v4=24, blocks_per_node=40, max_blocks_per_node=40)
    store = Counting(filled(pool, "a"))

    one(store).allocate("b")

    assert [each for each in store.read if each.startswith("address-page")] == ["address-page 10.0.0.0/24"]


def test_what_was_not_read_is_not_absent() -> None:
    view = PartialView()

    for key in (Key("address-page", "10.0.0.0/24"), Key("address-claims", "n/00")):
        with pytest.raises(Unread):
            view.page(key)
        with pytest.raises(Unread):
            view.claims(key)
        with pytest.raises(Unread):
            view.revision(key)
        view.load(key, None)
        assert view.page(key) is None
    for named in (view.pools, view.nodes):
        for ask in (lambda named=named: named["x"], lambda named=named: named.get("x"), lambda named=named: "x" in named):
            with pytest.raises(Unread):
                ask()
    view.load_all("pool", ())
    assert view.pools.get("x") is None
    with pytest.raises(KeyError):
        view.pools["x"]


# ------------------------------------------------------------------------------------------------ as Ipam does it


POOLS = st.builds(
    lambda policy, delay, kind: {
        "few": PoolSpec(name="p", cidrs=["10.0.0.0/28", "fd00::/124"], selector=EVERY, block_length_v4=28, address_policy=policy, reuse_delay=delay),
        "blocks": PoolSpec(
            name="p", cidrs=["10.0.0.0/27"], selector=EVERY, block_length_v4=30, blocks_per_node=5, address_policy=policy, reuse_delay=delay
        ),
        "pages": PoolSpec(  # a few addresses in each of eight pages
            name="p",
            cidrs=["10.0.0.0/21"],
            selector=EVERY,
            block_length_v4=21,
            reserved=[f"10.0.{page}.3-10.0.{page}.255" for page in range(8)],
            address_policy=policy,
            reuse_delay=delay,
        ),
    }[kind],
    st.sampled_from(["next", "lowest", "random"]),
    st.sampled_from([0, 5]),
    st.sampled_from(["few", "blocks", "pages"]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(0, 20)),
        st.tuples(st.just("allocate"), st.integers(0, 20)),
        st.tuples(st.just("allocate"), st.integers(0, 20)),
        st.tuples(st.just("give"), st.integers(0, 20)),
        st.tuples(st.just("release"), st.integers(0, 20)),
        st.tuples(st.just("time"), st.integers(1, 4)),
        st.tuples(st.just("drain"), st.booleans()),
    ),
    min_size=5,
    max_size=60,
)


@given(POOLS, STEPS)
def test_it_answers_and_writes_as_ipam_does(pool: PoolSpec, steps: list[tuple[str, int]]) -> None:
    compare(pool, steps)


def compare(pool: PoolSpec, steps: Sequence[tuple[str, int]]) -> None:
    """Do the same through a new `Ipam` and a new `OneShot` for each step, on a store each."""
    now = NOW

    def clock() -> float:
        return now

    theirs = filled(pool)
    ours = filled(pool)
    for number, (kind, which) in enumerate(steps):
        if kind == "time":
            now += which
            continue
        if kind == "drain":
            name = Ipam(theirs).blocks()[0].prefix
            for store in (theirs, ours):
                Ipam(store, clock=clock, identity=f"drain-{number}").drain("block", str(name), cancel=bool(which))
            continue
        ipam = Ipam(theirs, clock=clock, identity=f"call-{number}")
        short = OneShot(ours, "n", clock=clock, identity=f"call-{number}")
        owner = f"o{which}"
        if kind == "release":
            expected, found = told(partial(ipam.release, "n", owner, missing_ok=True)), told(partial(short.release, owner))
        else:
            address = f"10.0.{which % 3}.{which}" if kind == "give" else None
            expected = told(partial(ipam.allocate, "n", owner, address=address))
            found = told(partial(short.allocate, owner, addresses=[address] if address else ()))
        assert found == expected
        assert records(ours) == records(theirs)
        assert short.held(owner) == tuple(each for each in ipam.allocations("n") if each.owner == owner)
    assert one(ours, clock=clock).usage() == Ipam(theirs, clock=clock).nodes()[0].utilization


@pytest.mark.parametrize("kind", ["address-page", "address-claims", "block-page", "block-claims", "pool"])
def test_that_what_was_not_read_is_taken_for_absent_would_be_seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = partial_view._Reading.ask
    monkeypatch.setattr(partial_view._Reading, "ask", lambda self, key: ask(self, key) if key.kind != kind else None)
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/29"], selector=EVERY, block_length_v4=30, blocks_per_node=2, reuse_delay=5)

    with pytest.raises(AssertionError):
        compare(pool, [("allocate", 1), ("allocate", 2), ("allocate", 3), ("release", 1), ("drain", 0), ("allocate", 4)])


# ------------------------------------------------------------------------------------------------ crashes


@pytest.mark.parametrize("name", ["allocate", "allocate given ones", "release", "release others"])
def test_a_call_that_is_killed_anywhere_is_finished_by_the_next_one(name: str) -> None:
    calls: dict[str, Callable[[OneShot], object]] = {
        "allocate": lambda it: it.allocate("a"),
        "allocate given ones": lambda it: it.allocate("a", addresses=["fd00::5", "10.0.0.5"]),
        "release": lambda it: it.release("x"),
        "release others": lambda it: it.release_others({"z"}, ""),
    }
    call = calls[name]
    whole = filled(BOTH, "x", "y", "z")
    counted = FaultyStore(whole, iter(()))
    call(one(counted))
    assert counted.writes >= 3
    for written in range(counted.writes + 1):
        store = filled(BOTH, "x", "y", "z")
        with pytest.raises(Crash):
            call(one(FaultyStore(store, iter(crash_after(written)))))
        check([store])

        call(one(store, identity="again"))

        check([store])
        assert held([store]) == held([whole])
        assert [each for each in audit(store).findings if each.severity != "notice"] == [], f"killed after {written} writes"


# ------------------------------------------------------------------------------------------------ processes


def work(path: str, name: str, seed: int) -> None:
    """Allocate and release until killed, each call with a store of its own, as a plugin does. A line before and after each."""
    random = Random(seed)
    mine: list[str] = []
    for number in range(10**9):
        with SqliteStore(path) as store:
            short = OneShot(store, "n")
            if len(mine) > 8 or (mine and random.random() < 0.4):
                owner = mine.pop(random.randrange(len(mine)))
                _say("release", owner)
                short.release(owner)
                _say("released", owner)
            else:
                owner = f"{name}-{number}"
                _say("allocate", owner)
                try:
                    given = short.allocate(owner)
                except NodeExhaustedError:
                    continue
                mine.append(owner)
                _say("allocated", owner, [str(each.address) for each in given])


def _say(*words: object) -> None:
    os.write(1, (json.dumps([time.monotonic_ns(), *words]) + "\n").encode())


def test_processes_that_are_killed_at_any_moment_give_nothing_twice_and_leave_nothing_that_garbage_collection_does_not_find(tmp_path: Path) -> None:
    random = Random(7)
    path = tmp_path / "ipam.db"
    with SqliteStore(path) as store:
        filled(PoolSpec(name="p", cidrs=["10.0.0.0/23", "fd00::/119"], selector=EVERY, block_length_v4=23, block_length_v6=119), store=store)
    names = iter(range(10**6))
    lines: list[list[Any]] = []

    def start() -> subprocess.Popen[str]:
        name = next(names)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, __file__, str(path), f"w{name}", str(name)], stdout=subprocess.PIPE, text=True, env=environment
        )

    def end(worker: subprocess.Popen[str]) -> None:
        worker.kill()
        assert worker.stdout is not None
        lines.extend(map(json.loads, worker.stdout))
        worker.wait()
        worker.stdout.close()

    workers = [start() for _ in range(4)]
    kills = 0
    try:
        while kills < 8 or len(lines) < 400:
            at = random.randrange(len(workers))
            out = workers[at].stdout
            assert out is not None
            lines.extend(json.loads(line) for _, line in zip(range(random.randrange(60)), out, strict=False))
            if random.random() < 0.4:
                end(workers[at])
                kills += 1
                workers[at] = start()
    finally:
        for worker in workers:
            end(worker)

    held_by: dict[str, list[str]] = {}
    for _, kind, owner, *more in sorted(lines):  # a release is told before it begins, an allocation after it has ended
        if kind == "allocated":
            taken = {address for addresses in held_by.values() for address in addresses}
            assert not taken & set(more[0]), f"{more[0]} was given twice"
            held_by[owner] = more[0]
        elif kind == "release":
            del held_by[owner]
    with SqliteStore(path) as store:
        assert not [each for each in audit(store).findings if each.severity == "error"]
        for owner, addresses in held_by.items():
            assert [str(each.address) for each in one(store).held(owner)] == addresses
        one(store).release_others(held_by, "")
        assert {each.owner for each in Ipam(store).allocations()} == set(held_by)
        assert audit(store).findings == ()


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
