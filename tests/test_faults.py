"""`FaultyStore`: every fault does what it says, to reads and to writes, and the same seed plays the same faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec
from ciliumipam.errors import ConflictError, CoolingAddressError, StoreUnavailableError
from ciliumipam.records import Key, NodeRecord
from ciliumipam.store import ABSENT
from ciliumipam.testing.faults import (
    READ_FAULTS,
    WRITE_FAULTS,
    Crash,
    Fault,
    FaultyStore,
    Partition,
    Script,
    Surroundings,
    VirtualTime,
    crash_after,
)

A, B, C = (Key("node", name) for name in "abc")


def record(since: float) -> NodeRecord:
    return NodeRecord(Node("n"), since)


def filled(*keys: Key) -> MemoryStore:
    store = MemoryStore()
    for key in keys:
        store.put(key, record(1), expect=ABSENT)
    return store


@pytest.mark.parametrize(
    ("fault", "done", "unknown"),
    [(Fault.REFUSED, False, False), (Fault.VANISHED, False, True), (Fault.LOST, True, True)],
)
@pytest.mark.parametrize("operation", ["put", "delete", "get", "scan"])
def test_a_failure_comes_before_or_after_the_effect_and_says_what_is_known(operation: str, fault: Fault, done: bool, unknown: bool) -> None:
    inner = filled(A)
    present = inner.get(A)
    assert present is not None
    calls: dict[str, Callable[[FaultyStore], Any]] = {
        "put": lambda store: store.put(A, record(2), expect=present.revision),
        "delete": lambda store: store.delete(A, expect=present.revision),
        "get": lambda store: store.get(A),
        "scan": lambda store: store.scan("node"),
    }

    writes = operation in ("put", "delete")
    faulty = FaultyStore(inner, [fault] if writes else [], [] if writes else [fault])
    with pytest.raises(StoreUnavailableError) as error:
        calls[operation](faulty)

    assert error.value.unknown is unknown
    assert (inner.get(A) != present) is (done and writes)
    assert faulty.fired == [fault]
    calls["scan"](faulty)  # the script has ended


@pytest.mark.parametrize(("fault", "done"), [(Fault.CRASH_BEFORE, False), (Fault.CRASH_AFTER, True)])
def test_a_crash_is_nothing_that_a_library_may_catch(fault: Fault, done: bool) -> None:
    inner = filled()

    with pytest.raises(Crash):
        FaultyStore(inner, [fault]).put(A, record(1), expect=ABSENT)

    assert (inner.get(A) is not None) is done
    assert not issubclass(Crash, Exception)
    with pytest.raises(Crash):
        FaultyStore(inner, [], [fault]).get(A)


def test_a_planted_conflict_changes_nothing() -> None:
    inner = filled()
    faulty = FaultyStore(inner, [Fault.CONFLICT])

    with pytest.raises(ConflictError):
        faulty.put(A, record(1), expect=ABSENT)

    assert inner.get(A) is None
    assert (faulty.writes, faulty.fired) == (1, [Fault.CONFLICT])


def test_each_write_of_several_in_order_has_its_own_fault() -> None:
    inner = MemoryStore()
    ipam = Ipam(FaultyStore(inner, crash_after(2)))

    with pytest.raises(Crash):
        ipam.apply([], [Node("a"), Node("b"), Node("c")])

    assert len(inner.scan("node").entries) == 2


def test_a_slow_write_lets_another_writer_come_first() -> None:
    time = VirtualTime()
    inner = filled(A)
    present = inner.get(A)
    assert present is not None
    slow = FaultyStore(inner, [Fault.SLOW], around=Surroundings(sleep=time.sleep, latency=3))
    time.after(2, lambda: inner.put(A, record(2), expect=present.revision))

    with pytest.raises(ConflictError):
        slow.put(A, record(3), expect=present.revision)

    assert time() == 3
    found = inner.get(A)
    assert found is not None
    assert found.record == record(2)


def test_a_slow_reply_comes_after_others_have_acted_on_what_was_done() -> None:
    time = VirtualTime()
    inner = filled()
    seen: list[Any] = []
    slow = FaultyStore(inner, [Fault.SLOW_REPLY], [Fault.SLOW_REPLY], around=Surroundings(sleep=time.sleep))
    time.after(1, lambda: seen.append(inner.get(A)))
    time.after(1.5, lambda: inner.put(B, record(1), expect=ABSENT))

    slow.put(A, record(1), expect=ABSENT)
    assert seen != [None]
    assert slow.get(B) is None  # it was read before it was there
    assert inner.get(B) is not None


def test_a_cooldown_ends_while_a_write_is_slow() -> None:
    time = VirtualTime()
    inner = MemoryStore()
    slow = FaultyStore(inner, around=Surroundings(sleep=time.sleep, latency=60))
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/24"], selector=NodeSelector.everything(), reuse_delay=30)
    ipam = Ipam(slow, clock=time)
    ipam.apply([pool], [Node("n")])
    (first,) = ipam.allocate("n", "a")
    ipam.release("n", "a")
    with pytest.raises(CoolingAddressError):
        ipam.allocate("n", "b", address=first.address)

    slow.play([Fault.SLOW])
    ipam.allocate("n", "c")

    assert ipam.allocate("n", "b", address=first.address)[0].fence > first.fence


def test_time_that_nobody_gave_is_not_waited_for() -> None:
    slow = FaultyStore(filled(), [Fault.SLOW] * 1000, around=Surroundings(latency=3600))

    for number in range(1000):
        slow.put(Key("node", f"n{number}"), record(1), expect=ABSENT)


def test_virtual_time_does_what_was_set_in_its_order_and_once() -> None:
    time = VirtualTime(100)
    done: list[tuple[str, float]] = []
    time.after(5, lambda: done.append(("late", time())))

    def early() -> None:
        done.append(("early", time()))
        time.after(2, lambda: done.append(("then", time())))

    time.after(1, early)

    time.sleep(4)
    assert done == [("early", 101), ("then", 103)]
    time.sleep(4)
    assert done[2:] == [("late", 105)]
    assert time() == 108


def test_a_partition_cuts_off_some_handles_for_some_operations() -> None:
    inner = filled(A)
    around = Surroundings([Partition(frozenset({"x"}), 2, 4, unknown=True)])
    x, y = (FaultyStore(inner, name=name, around=around) for name in "xy")

    assert x.get(A) == y.get(A)  # 0 and 1
    with pytest.raises(StoreUnavailableError, match="handle 'x' is cut off") as error:
        x.put(B, record(1), expect=ABSENT)  # 2
    assert error.value.unknown
    assert y.scan("node").entries  # 3
    with pytest.raises(StoreUnavailableError):
        x.scan("node")  # 4
    assert x.scan("node").entries
    assert inner.get(B) is None
    assert around.operations == 6


def test_a_handle_is_cut_off_by_hand_until_it_is_healed() -> None:
    inner, around = filled(A), Surroundings()
    x, y = (FaultyStore(inner, name=name, around=around) for name in "xy")

    around.cut("x")
    with pytest.raises(StoreUnavailableError) as error:
        x.get(A)
    assert not error.value.unknown
    assert y.get(A)
    around.heal("x")
    assert x.get(A)


def test_a_stale_read_is_as_it_was_some_writes_ago() -> None:
    inner, around = filled(A), Surroundings(age=2)
    writer = FaultyStore(inner, around=around)
    reader = FaultyStore(inner, reads=[Fault.STALE] * 4, around=around)
    old = inner.get(A)
    assert old is not None
    writer.put(A, record(2), expect=old.revision)
    writer.put(B, record(1), expect=ABSENT)

    assert reader.get(A) == old
    assert reader.get(B) is None
    assert dict(reader.scan("node").entries) == {A: old}
    writer.put(C, record(1), expect=ABSENT)  # what happened to A is three writes ago now
    assert dict(reader.scan("node").entries) == {A: inner.get(A)}
    assert reader.get(A) == inner.get(A)


def test_a_torn_list_is_old_in_its_first_half() -> None:
    inner, around = filled(A, B), Surroundings(age=9)
    faulty = FaultyStore(inner, reads=[Fault.TORN], around=around)
    old = inner.get(A)
    assert old is not None
    present = inner.get(B)
    assert present is not None
    faulty.put(A, record(2), expect=old.revision)
    faulty.delete(B, expect=present.revision)
    faulty.put(C, record(1), expect=ABSENT)

    assert dict(faulty.scan("node").entries) == {A: old, B: present, C: inner.get(C)}
    assert dict(faulty.scan("node").entries) == {A: inner.get(A), C: inner.get(C)}


def test_with_no_memory_no_read_is_stale() -> None:
    inner, around = filled(A), Surroundings(age=0)
    faulty = FaultyStore(inner, reads=[Fault.STALE], around=around)
    old = inner.get(A)
    assert old is not None
    faulty.put(A, record(2), expect=old.revision)

    assert faulty.get(A) == inner.get(A)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: FaultyStore(filled(), [Fault.STALE]).put(A, record(1), expect=ABSENT), "a write cannot be stale"),
        (lambda: FaultyStore(filled(), [], [Fault.CONFLICT]).get(A), "a read cannot meet a conflict"),
        (lambda: FaultyStore(filled(), [], [Fault.TORN]).get(A), "one record cannot be torn"),
        (lambda: Script.parse("2*none, lots"), "'lots' is no fault"),
        (lambda: Script.parse("x*none"), "'x[*]none' is no fault"),
    ],
)
def test_a_fault_that_makes_no_sense_is_told(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_a_script_prints_as_what_it_is_read_from() -> None:
    script = Script.parse("2*none, lost, crash after")

    assert list(script) == [Fault.NONE, Fault.NONE, Fault.LOST, Fault.CRASH_AFTER]
    assert str(script) == "2*none, lost, crash after"
    assert Script.parse(str(script)) == script
    assert list(Script.parse("")) == []
    assert len(Script.parse("3*slow reply")) == 3


def test_the_same_seed_is_the_same_script_and_every_fault_comes_up() -> None:
    script = Script.seeded(7, rate=0.1, length=2000)

    assert script == Script.seeded(7, rate=0.1, length=2000)
    assert script != Script.seeded(8, rate=0.1, length=2000)
    assert str(Script.seeded(7, rate=0.2, length=20)) == (
        "none, slow reply, slow, none, slow, conflict, refused, 2*none, vanished, 5*none, crash before, none, refused, 2*none"
    )
    assert {fault for fault in script if fault is not Fault.NONE} == {*WRITE_FAULTS}
    assert 150 < sum(fault is not Fault.NONE for fault in script) < 250
    assert {*Script.seeded(1, rate=1, among=READ_FAULTS)} == {*READ_FAULTS}
    assert {*Script.seeded(1, rate=0)} == {Fault.NONE}
