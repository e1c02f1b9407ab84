"""One store into another: equal afterwards, legal after every write, found out when somebody writes to either."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random

import pytest

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore, Store
from ciliumipam.audit import audit
from ciliumipam.demand import Demand
from ciliumipam.errors import ConflictError, IpamError, StateError, StoreUnavailableError
from ciliumipam.records import KINDS, Entry, Key, Kind, NodeRecord, Record, Revision
from ciliumipam.store import ABSENT, Expect, Listing
from ciliumipam.testing.faults import Crash, Fault, FaultyStore, crash_after
from ciliumipam.transfer import SourceChangedError, TargetInUseError, copy


def everything(store: Store) -> dict[Key, Record]:
    return {key: entry.record for kind in KINDS for key, entry in store.scan(kind).entries}


def lived_in(seed: int, store: Store | None = None) -> Store:
    """A store with a past: blocks and addresses of both families, some given back, pages that were closed and linked again."""
    random = Random(seed)
    store = MemoryStore() if store is None else store
    now = count(1000.0, 5.0)
    ipam = Ipam(store, clock=lambda: next(now), identity=f"past-{seed}")
    everybody = NodeSelector.everything()
    pools = [
        PoolSpec(name="both", cidrs=["10.0.0.0/20", "fd00::/56"], selector=NodeSelector.parse("rack=a"), reuse_delay=random.choice((0, 60))),
        PoolSpec(name="four", cidrs=["10.1.0.0/16"], selector=everybody, block_length_v4=random.choice((20, 24, 28))),
        PoolSpec(name="lab", cidrs=["10.0.0.0/16"], selector=NodeSelector.parse("lab"), address_space="lab"),
    ]
    nodes = [Node(f"node-{n}", {"rack": random.choice("ab")} | ({"lab": "x"} if n > 4 else {})) for n in range(7)]
    ipam.apply(pools, nodes)
    owners = count()
    for _ in range(60):
        node = random.choice(nodes).name
        try:
            match random.randrange(8):
                case 0:
                    ipam.remove_node(node, force=random.random() < 0.7)
                    ipam.apply(nodes=[each for each in nodes if each.name == node])
                case 1 | 2:
                    held = ipam.allocations(node)
                    if held:
                        ipam.release(node, random.choice(held).owner)
                case 3:
                    ipam.allocate(node, *(f"many-{next(owners)}" for _ in range(random.choice((2, 300)))))
                case _:
                    ipam.allocate(node, f"owner-{next(owners)}")
        except IpamError:
            continue
    return store


def errors(store: Store) -> list[str]:
    return [f"{each.where}: {each.what}" for each in audit(store).findings if each.severity == "error"]


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_has_every_record_of_the_source_and_an_equal_state(seed: int) -> None:
    source, target = lived_in(seed), MemoryStore()

    copied = copy(source, target)

    assert everything(target) == everything(source)
    assert copied.written == len(everything(source)) == sum(copied.records.values())
    assert copied.audit.counts == audit(source).counts
    left, right = Ipam(source, clock=lambda: 9e9), Ipam(target, clock=lambda: 9e9)
    assert (left.pools(), left.nodes(), left.allocations()) == (right.pools(), right.nodes(), right.allocations())
    right.check_invariants()


@pytest.mark.parametrize("seed", range(2))
def test_after_every_single_write_the_target_is_legal_and_the_same_call_goes_on_from_there(seed: int) -> None:
    source = lived_in(seed)
    known = set(errors(source))
    writes = FaultyStore(MemoryStore(), [])
    copy(source, writes)

    for done in range(0, writes.writes + 1, 1 + writes.writes // 60):
        inner = MemoryStore()
        with pytest.raises(Crash):
            copy(source, FaultyStore(inner, crash_after(done)))
        assert set(errors(inner)) <= known, f"after {done} writes"
        copied = copy(source, inner)
        assert everything(inner) == everything(source)
        assert copied.written <= len(everything(source))


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_handed_out_of_a_part_of_a_copy(seed: int) -> None:
    source = lived_in(seed)
    pools = len(source.scan("pool").entries)
    writes = FaultyStore(MemoryStore(), [])
    copy(source, writes)

    for done in range(1, writes.writes - pools + 1, 1 + writes.writes // 40):
        inner = MemoryStore()
        with pytest.raises(Crash):
            copy(source, FaultyStore(inner, crash_after(done)))
        ipam = Ipam(inner)
        assert ipam.apply().changes == ()
        for status in ipam.nodes():
            with pytest.raises(StateError):
                ipam.allocate(status.node.name, "newcomer")


def test_a_copy_keeps_what_nodes_ask_for() -> None:
    source, target = lived_in(1), MemoryStore()
    Ipam(source).request("node-1", [Demand("four", 4, 300), Demand("", 6, 7)])

    copy(source, target)

    assert {status.node.name: status.demand for status in Ipam(target).nodes() if status.demand} == {
        "node-1": (Demand("", 6, 7), Demand("four", 4, 300))
    }


def test_a_second_copy_writes_nothing() -> None:
    source, target = lived_in(1), MemoryStore()
    copy(source, target)

    assert copy(source, target).written == 0


def test_an_empty_store_is_copied_into_an_empty_one() -> None:
    copied = copy(MemoryStore(), MemoryStore())

    assert (copied.written, set(copied.records.values()), copied.audit.findings) == (0, {0}, ())


def test_a_target_that_holds_anything_else_is_refused_before_anything_is_written() -> None:
    source, target = lived_in(1), MemoryStore()
    target.put(Key("node", "stranger"), NodeRecord(Node("stranger"), 1.0), expect=ABSENT)

    with pytest.raises(TargetInUseError, match=r"node stranger.*nothing was written") as caught:
        copy(source, target)

    assert caught.value.keys == ("node stranger",)
    assert [*everything(target)] == [Key("node", "stranger")]


def test_a_target_that_holds_another_state_of_the_same_record_is_refused() -> None:
    source, target = lived_in(1), MemoryStore()
    copy(source, target)
    node = source.scan("node").entries[0][0].name
    Ipam(source).apply(nodes=[Node(node, {"moved": "yes"})])

    with pytest.raises(TargetInUseError, match=f"node {node}"):
        copy(source, target)


class Meddled:
    """A store to which somebody else writes at the n-th call of a verb."""

    def __init__(self, inner: Store, verb: str, at: int) -> None:
        self.inner, self._verb, self._left = inner, verb, at

    def _count(self, verb: str) -> None:
        if verb == self._verb:
            self._left -= 1
            if self._left == 0:
                self.inner.put(Key("node", "late"), NodeRecord(Node("late"), 1.0), expect=ABSENT)

    def get(self, key: Key) -> Entry | None:
        return self.inner.get(key)

    def scan(self, kind: Kind) -> Listing:
        self._count("scan")
        return self.inner.scan(kind)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        self._count("put")
        return self.inner.put(key, record, expect=expect)

    def delete(self, key: Key, *, expect: Revision) -> None:
        self.inner.delete(key, expect=expect)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("at", range(3, 17))
def test_a_source_that_changes_while_it_is_read_or_copied_is_found_out(at: int) -> None:
    target = MemoryStore()

    with pytest.raises(SourceChangedError, match="node late") as caught:
        copy(Meddled(lived_in(1), "scan", at), target)

    read_twice = 9  # nodes are the second kind of seven: what comes later is seen by the third reading, after the writing
    assert bool(everything(target)) is (caught.value.written > 0) is (at > read_twice)


@pytest.mark.parametrize("at", [1, 40, 120])
def test_a_target_that_somebody_else_writes_to_is_found_out(at: int) -> None:
    with pytest.raises(TargetInUseError, match=r"node late.*somebody else writes to it"):
        copy(lived_in(1), Meddled(MemoryStore(), "put", at))


def test_a_target_whose_record_changes_hands_is_a_conflict() -> None:
    with pytest.raises(ConflictError):
        copy(lived_in(1), FaultyStore(MemoryStore(), [Fault.NONE, Fault.CONFLICT]))


def test_a_write_of_which_nobody_knows_is_found_out_by_the_next_call() -> None:
    source, inner = lived_in(1), MemoryStore()
    with pytest.raises(StoreUnavailableError):
        copy(source, FaultyStore(inner, [Fault.NONE] * 9 + [Fault.LOST]))

    copy(source, inner)

    assert everything(inner) == everything(source)


@pytest.mark.parametrize("seed", range(2))
def test_between_backends_and_back_nothing_changes(seed: int, tmp_path: Path) -> None:
    source, back = lived_in(seed), MemoryStore()

    with SqliteStore(tmp_path / "a.db") as file:
        copy(source, file)
        copy(file, back)

    assert everything(back) == everything(source)


def test_progress_ends_with_everything_and_never_goes_back() -> None:
    source = lived_in(1)
    told: list[tuple[int, int]] = []

    copy(source, MemoryStore(), lambda done, total: told.append((done, total)))

    def rises(values: Sequence[int]) -> bool:
        return [*values] == sorted(values)

    assert rises([done for done, _ in told])
    assert {total for _, total in told} == {len(everything(source))}
    assert told[-1] == (len(everything(source)), len(everything(source)))
