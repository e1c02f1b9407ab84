"""A node with a lease gives out an address only while the lease holds, and only out of the blocks that it names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

import pytest

from ciliumipam.audit import audit
from ciliumipam.boot import boot_id, this_moment
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import LeaseExpiredError, NoBlockError
from ciliumipam.ipam import Ipam
from ciliumipam.lease import NEVER, Moment, lease_key, why_expired
from ciliumipam.node import Node
from ciliumipam.one_shot import OneShot
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Entry, Key, Kind, Lease, Leased, Record, Revision
from ciliumipam.requests import Allocate
from ciliumipam.selector import NodeSelector
from ciliumipam.store import ABSENT, Expect, Listing, Write
from ciliumipam.store.memory import MemoryStore
from ciliumipam.transfer import copy

BLOCK = parse_prefix("10.0.0.0/28")
OTHER = parse_prefix("10.0.0.16/28")
LEASE = Lease("n1", "boot-1", 100.0, 30.0, (Leased(BLOCK, 7),))


class Hand:
    """The hand of a clock that a test moves."""

    def __init__(self, seconds: float = 100.0, boot: str = "boot-1") -> None:
        self.now = Moment(boot, seconds)

    def __call__(self) -> Moment:
        return self.now


def node_store(lease: Lease | None = LEASE, blocks: int = 1) -> MemoryStore:
    store = MemoryStore()
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/24"], selector=NodeSelector.everything(), block_length_v4=28, blocks_per_node=blocks)
    Ipam(store).apply([pool], [Node("n1")])
    if lease is not None:
        store.put(lease_key("n1"), lease, expect=ABSENT)
    return store


def put_lease(store: MemoryStore, lease: Lease) -> None:
    known = store.get(lease_key(lease.node))
    store.put(lease_key(lease.node), lease, expect=known.revision if known is not None else ABSENT)


@pytest.mark.parametrize(
    ("moment", "lease", "reason"),
    [
        (Moment("boot-1", 100.0), LEASE, ""),
        (Moment("boot-1", 130.0), LEASE, ""),
        (Moment("boot-1", 131.0), LEASE, "its claim on its blocks was last confirmed 31 s ago, and holds for 30 s"),
        (Moment("boot-1", 99.0), LEASE, "its claim on its blocks was last confirmed -1 s ago, and holds for 30 s"),
        (Moment("boot-2", 101.0), LEASE, "the machine was started since its claim on its blocks was last confirmed, or this is another machine"),
        (Moment("boot-1", 101.0), LEASE._replace(reason="the source does not know it"), "the source does not know it"),
        (NEVER, LEASE._replace(boot=""), "its claim on its blocks was never confirmed"),
    ],
)
def test_a_lease_holds_from_the_question_on_and_for_its_time_on_the_same_start_of_the_machine(moment: Moment, lease: Lease, reason: str) -> None:
    assert why_expired(lease, moment) == reason


def test_without_a_lease_nothing_expires() -> None:
    ipam = Ipam(node_store(None), moment=lambda: NEVER)

    assert ipam.allocate("n1", "a")[0].address == IPv4Address("10.0.0.1")


def test_an_expired_lease_stops_new_addresses_and_lets_held_ones_go() -> None:
    hand = Hand()
    ipam = Ipam(node_store(), moment=hand)
    ipam.allocate("n1", "a")
    hand.now = Moment("boot-1", 130.5)

    for owner in ("a", "b"):
        with pytest.raises(LeaseExpiredError) as caught:
            ipam.allocate("n1", owner)
        assert (caught.value.node, caught.value.reason) == ("n1", "its claim on its blocks was last confirmed 30 s ago, and holds for 30 s")
    assert [each.owner for each in ipam.allocations("n1")] == ["a"]
    assert [each.address for each in ipam.release("n1", "a")] == [IPv4Address("10.0.0.1")]


def test_a_lease_that_was_renewed_by_another_process_is_seen_by_the_next_call() -> None:
    hand, store = Hand(200.0), node_store()
    ipam = Ipam(store, moment=hand)
    with pytest.raises(LeaseExpiredError):
        ipam.allocate("n1", "a")

    put_lease(store, LEASE._replace(confirmed=199.0))

    assert len(ipam.allocate("n1", "a")) == 1


@pytest.mark.parametrize("way", ["Ipam", "OneShot"])
def test_a_lease_that_is_renewed_while_a_call_is_under_way_is_not_taken_for_one_of_the_future(way: str) -> None:
    # "last confirmed -0 s ago": the time was asked for before the lease was read
    class Renewing(MemoryStore):
        """An agent renews the lease right before it is read, and once more before it is read again."""

        left = 2

        def get(self, key: Key) -> Entry | None:
            if key.kind == "lease" and self.left:
                self.left -= 1
                hand.now = hand.now._replace(seconds=hand.now.seconds + 5)
                put_lease(renewed, LEASE._replace(confirmed=hand.now.seconds))
            return renewed.get(key)

        def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
            return renewed.put_in_order(writes)

        def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
            return renewed.put(key, record, expect=expect)

        def scan(self, kind: Kind) -> Listing:
            return renewed.scan(kind)

    hand, renewed = Hand(), node_store()
    store = Renewing()
    call = Ipam(store, moment=hand).allocate if way == "Ipam" else lambda _, owner: OneShot(store, "n1", moment=hand).allocate(owner)

    assert [str(each.address) for each in call("n1", "a")] == ["10.0.0.1"]
    assert hand.now.seconds > 100


def test_addresses_come_only_out_of_blocks_that_the_lease_names() -> None:
    store = node_store(LEASE._replace(blocks=(Leased(OTHER, 1),)), blocks=2)
    ipam = Ipam(store, moment=Hand())
    assert {str(each.prefix) for each in ipam.blocks()} == {"10.0.0.0/28", "10.0.0.16/28"}

    assert [str(each.address) for each in ipam.allocate("n1", "a")] == ["10.0.0.17"]

    put_lease(store, LEASE._replace(blocks=(Leased(BLOCK, 1, "tenant-b"),)))
    with pytest.raises(NoBlockError, match=r"block 10\.0\.0\.16/28 is not in the node's lease: it was lost, or is on its way back"):
        ipam.allocate("n1", "b")


class Late(MemoryStore):
    """Does something just after the first page of addresses was written."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], None] | None = None

    def get(self, key: Key) -> Entry | None:
        if key.kind == "lease" and self.then is not None and self.scan("address-page").entries:
            then, self.then = self.then, None
            then()
        return super().get(key)


@pytest.mark.parametrize("ends", ["time", "block"])
def test_a_lease_that_ends_while_an_address_is_written_keeps_it_from_being_told(ends: str) -> None:
    hand, store = Hand(), Late()
    copy(node_store(), store)
    ipam = Ipam(store, moment=hand)

    def end() -> None:
        if ends == "time":
            hand.now = Moment("boot-1", 131.0)
        else:
            put_lease(store, LEASE._replace(reason="the block was lost"))

    store.then = end
    with pytest.raises(LeaseExpiredError):
        ipam.allocate("n1", "a")

    assert [each.owner for each in ipam.allocations("n1")] == ["a"], "the owner's next call finds it"


def test_a_plan_to_allocate_is_not_executed_under_a_lease_that_has_ended() -> None:
    hand, store = Hand(), node_store()
    ipam = Ipam(store, moment=hand)
    plan = ipam.plan(Allocate("n1", ("a",)))
    hand.now = Moment("boot-1", 131.0)

    with pytest.raises(LeaseExpiredError):
        ipam.execute(plan)
    hand.now = Moment("boot-1", 101.0)
    put_lease(store, LEASE._replace(blocks=()))
    with pytest.raises(LeaseExpiredError, match=r"block 10\.0\.0\.0/28 has left its lease since this was planned"):
        ipam.execute(plan)

    assert ipam.allocations("n1") == ()


def test_a_copy_carries_the_lease_and_the_audit_is_content() -> None:
    source, target = node_store(), MemoryStore()

    copied = copy(source, target)

    assert copied.records["lease"] == 1
    assert [str(each) for each in copied.audit.findings if each.severity == "error"] == []
    assert [str(each) for each in audit(target).findings if each.severity == "error"] == []


def test_this_machine_tells_the_time_since_its_start() -> None:
    first, second = this_moment(), this_moment()

    assert first.boot == second.boot == boot_id() != ""
    assert 0 < first.seconds <= second.seconds


def test_a_process_that_lives_for_one_call_obeys_the_lease_too() -> None:
    hand, store = Hand(), node_store()
    one = OneShot(store, "n1", moment=hand)
    assert [str(each.address) for each in one.allocate("a")] == ["10.0.0.1"]
    hand.now = Moment("boot-1", 131.0)

    with pytest.raises(LeaseExpiredError):
        one.allocate("b")

    assert [str(each.address) for each in one.release("a")] == ["10.0.0.1"]
