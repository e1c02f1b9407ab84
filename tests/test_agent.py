"""Agents with stores of their own: growth, hand-back, loss, silence, a second agent; by example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Barrier, Thread

import pytest

from ciliumipam.agent import LedgerSource, NodeAgent, Round, SilentNodes, Terms
from ciliumipam.agent.source import Granted
from ciliumipam.audit import audit
from ciliumipam.demand import Watermark
from ciliumipam.errors import (
    ConflictError,
    InvalidRequestError,
    LeaseExpiredError,
    NodeExhaustedError,
    NotFoundError,
    StoreUnavailableError,
)
from ciliumipam.ipam import Ipam
from ciliumipam.lease import Moment, lease_key
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Entry, Key, Lease, Leased
from ciliumipam.selector import NodeSelector
from ciliumipam.store import Store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore

TERMS = Terms(stop_after=60, return_after=300, timeout=30)


class Time:
    """The clocks of a machine, moved by a test."""

    def __init__(self) -> None:
        self.seconds, self.boot = 1000.0, "boot-1"

    def moment(self) -> Moment:
        return Moment(self.boot, self.seconds)


class Machine:
    """A node: its clock, its store, its agent."""

    def __init__(self, shared: Store, name: str, time: Time, own: Store | None = None, *, spare: int = 4) -> None:
        self.name, self.time, self.shared = name, time, shared
        self.own = own or MemoryStore()
        self.watermark = Watermark(spare=spare, slack=spare, idle=30)
        self.start()

    def start(self) -> None:
        source = LedgerSource(self.shared, Node(self.name), TERMS)
        self.agent = NodeAgent(source, self.own, self.name, watermark=self.watermark, moment=self.time.moment)

    def rounds(self, most: int = 8) -> list[Round]:
        """Rounds until nothing changes."""
        done = [self.agent.round()]
        while done[-1].changed and len(done) < most:
            done.append(self.agent.round())
        assert not done[-1].changed, "it does not come to rest"
        return done


def shared_store(cidr: str = "10.0.0.0/24", **options: object) -> MemoryStore:
    store = MemoryStore()
    pool = PoolSpec(name="p", cidrs=[cidr], selector=NodeSelector.everything(), block_length_v4=28, **options)  # type: ignore[arg-type]
    Ipam(store).apply([pool])
    return store


def blocks(store: Store) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in Ipam(store).blocks():
        found.setdefault(each.node, []).append(str(each.prefix))
    return found


def test_a_node_gets_its_first_block_and_gives_addresses_out_of_its_own_store() -> None:
    shared = shared_store(reserved=["10.0.0.1-10.0.0.3"])
    node = Machine(shared, "n1", Time())

    (first, second) = node.rounds()[:2]

    assert [str(each.prefix) for each in first.blocks] == ["10.0.0.0/28"]
    assert (first.adopted, second.adopted) == (("10.0.0.0/28",), ())
    assert [str(each.address) for each in node.agent.allocate("a")] == ["10.0.0.4"], "what the pool reserves is reserved here"
    assert [each.owner for each in Ipam(node.own).allocations()] == ["a"]
    assert Ipam(shared).allocations() == ()
    assert [each for each in audit(node.own).findings if each.severity == "error"] == []
    assert [each for each in audit(shared).findings if each.severity == "error"] == []


def test_a_node_grows_before_it_runs_dry_and_hands_back_what_it_does_not_need_any_more() -> None:
    shared, time = shared_store(), Time()
    node = Machine(shared, "n1", time)
    node.rounds()
    for number in range(13):
        node.agent.allocate(f"o{number}")
    assert len(blocks(shared)["n1"]) == 1
    node.rounds()
    assert blocks(shared) == {"n1": ["10.0.0.0/28", "10.0.0.16/28"]}
    assert blocks(node.own) == blocks(shared)

    node.agent.allocate("o13")
    assert str(node.agent.allocate("o14")[0].address) == "10.0.0.17"
    for number in range(2, 15):
        node.agent.release(f"o{number}")
    node.rounds()
    assert len(blocks(shared)["n1"]) == 2, "it has not been empty for long enough"
    time.seconds += 40
    done = node.rounds()

    assert [each.handed_back for each in done if each.handed_back] == [("10.0.0.16/28",)]
    assert blocks(node.own) == blocks(shared) == {"n1": ["10.0.0.0/28"]}
    lease = node.own.get(lease_key("n1"))
    assert lease is not None
    assert isinstance(lease.record, Lease)
    assert ([str(each.prefix) for each in lease.record.blocks], lease.record.returning) == (["10.0.0.0/28"], ())


def test_what_could_not_be_served_is_asked_for() -> None:
    shared = shared_store()
    node = Machine(shared, "n1", Time(), spare=0)
    node.rounds()
    for number in range(14):
        node.agent.allocate(f"o{number}")
    with pytest.raises(NodeExhaustedError):
        node.agent.allocate("late")

    node.rounds()

    assert str(node.agent.allocate("late")[0].address) == "10.0.0.17"


def test_a_node_that_cannot_confirm_stops_after_its_time_and_goes_on_when_it_can() -> None:
    shared, time = shared_store(), Time()
    node = Machine(shared, "n1", time)
    node.rounds()
    node.agent.allocate("a")
    time.seconds += 61

    with pytest.raises(LeaseExpiredError, match="last confirmed 61 s ago, and holds for 60 s"):
        node.agent.allocate("b")
    assert node.agent.why_silent() == "its claim on its blocks was last confirmed 61 s ago, and holds for 60 s"
    assert len(node.agent.release("a")) == 1
    node.rounds()

    assert node.agent.why_silent() == ""
    assert len(node.agent.allocate("b")) == 1


def test_a_node_with_a_lease_whose_blocks_are_not_adopted_yet_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    # it said "ready" between the two writes, and the allocation that followed found no block
    node = Machine(shared_store(), "n1", Time())
    node.rounds()
    node.own = MemoryStore()
    node.start()
    lacking = []
    follow = node.agent._follow

    def looks(known: Node, usable: Sequence[Granted], pools: Sequence[PoolSpec]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        lacking.append(node.agent.why_silent())
        return follow(known, usable, pools)

    monkeypatch.setattr(node.agent, "_follow", looks)
    node.rounds()

    assert lacking[0] == "it has not adopted its blocks yet"
    assert node.agent.why_silent() == ""


def test_after_a_reboot_nothing_is_given_before_the_source_has_confirmed() -> None:
    shared, time = shared_store(), Time()
    node = Machine(shared, "n1", time)
    node.rounds()
    time.boot, time.seconds = "boot-2", 1.0
    node.start()

    with pytest.raises(LeaseExpiredError, match="the machine was started since"):
        node.agent.allocate("a")
    node.rounds()

    assert len(node.agent.allocate("a")) == 1


def test_blocks_of_a_silent_node_go_to_others_and_what_it_still_holds_is_told_as_orphaned() -> None:
    shared, time, watch = shared_store("10.0.0.0/28"), Time(), Time()
    node = Machine(shared, "n1", time)
    node.rounds()
    node.agent.allocate("a")
    other = Machine(shared, "n2", watch)
    other.rounds()
    assert blocks(shared) == {"n1": ["10.0.0.0/28"]}
    silent = SilentNodes(shared, TERMS, clock=lambda: watch.seconds)
    assert silent.look() == ()
    for _ in range(6):
        watch.seconds += 50
        other.agent.round()
        assert silent.look() == ()
    watch.seconds += 1
    assert silent.look() == ("n1",)
    time.seconds += 301

    other.rounds()
    assert blocks(shared) == {"n2": ["10.0.0.0/28"]}
    assert len(other.agent.allocate("b")) == 1
    done = node.rounds()[-1]

    assert (done.lost, done.orphans) == ((), ("10.0.0.0/28",))
    assert node.agent.why_silent() == "it has no block"
    assert [each.owner for each in node.agent.release("a")] == ["a"]
    assert node.rounds()[-1].orphans == ()
    assert blocks(node.own) == {}


def test_a_beat_that_comes_after_the_mark_is_refused() -> None:
    shared = shared_store()
    node = Machine(shared, "n1", Time())
    node.rounds()
    entry = shared.get(lease_key("n1"))
    assert entry is not None
    assert isinstance(entry.record, Lease)
    marked = entry.record._replace(reason="it was silent for so long that its blocks are being given to others")
    shared.put(lease_key("n1"), marked, expect=entry.revision)

    with pytest.raises(LeaseExpiredError):
        node.agent.round()
    with pytest.raises(LeaseExpiredError, match="it was silent for so long"):
        node.agent.allocate("a")

    assert SilentNodes(shared, TERMS).look() == ("n1",), "who finds the mark goes on from there, without waiting"
    node.rounds()
    assert len(node.agent.allocate("a")) == 1, "it begins anew"


def test_a_node_that_the_source_does_not_know_stops_at_once() -> None:
    shared = shared_store()
    own = MemoryStore()
    agent = NodeAgent(LedgerSource(shared, "n1", TERMS), own, "n1")

    with pytest.raises(NotFoundError):
        agent.round()
    with pytest.raises(LeaseExpiredError, match="the source of its blocks says: no node 'n1'"):
        agent.allocate("a")


class Breaks(MemoryStore):
    """A store whose reads of the lease fail on demand."""

    broken = False

    def get(self, key: Key) -> Entry | None:
        if self.broken:
            raise StoreUnavailableError("get", "no route to host")
        return super().get(key)


def test_while_the_source_is_away_the_node_goes_on_by_its_lease() -> None:
    shared, time = Breaks(), Time()
    Ipam(shared).apply([PoolSpec(name="p", cidrs=["10.0.0.0/24"], selector=NodeSelector.everything(), block_length_v4=28)])
    node = Machine(shared, "n1", time)
    node.rounds()
    shared.broken = True
    time.seconds += 59

    with pytest.raises(StoreUnavailableError):
        node.agent.round()

    assert len(node.agent.allocate("a")) == 1


def test_of_two_agents_on_one_store_one_ends_its_round() -> None:
    shared, own, time = shared_store(), MemoryStore(), Time()
    first = Machine(shared, "n1", time, own)
    first.rounds()
    second = Machine(shared, "n1", time, own)
    confirm = first.agent._source.confirm

    def late() -> object:
        found = confirm()
        second.agent.round()
        return found

    first.agent._source.confirm = late  # type: ignore[method-assign, assignment]
    with pytest.raises(ConflictError):
        first.agent.round()


def test_in_one_store_blocks_come_and_go_without_a_lease() -> None:
    shared, time = shared_store(), Time()
    source = LedgerSource(shared, Node("n1"), TERMS, one_store=True)
    Ipam(shared).apply(nodes=[Node("n1")])
    agent = NodeAgent(source, shared, "n1", watermark=Watermark(spare=4, slack=4, idle=30), moment=time.moment)
    agent.round()
    for number in range(13):
        agent.allocate(f"o{number}")
    agent.round()
    assert len(blocks(shared)["n1"]) == 2
    for number in range(13):
        agent.release(f"o{number}")
    agent.round()
    time.seconds += 40

    assert [agent.round().handed_back, agent.round().handed_back] == [(), ()] or len(blocks(shared)["n1"]) == 1
    assert len(blocks(shared)["n1"]) == 1
    assert shared.scan("lease").entries == ()


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (Terms(60, 149, 30), "it has to be at least 150 s, so that the node has stopped giving out of them"),
        (Terms(0, 149, 30), "stop_after is a number of seconds above 0, not 0"),
        (Terms(60, float("inf"), 30), "return_after is a number of seconds above 0, not inf"),
    ],
)
def test_terms_that_do_not_fit_together_are_refused(terms: Terms, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        terms.check()
    with pytest.raises(InvalidRequestError):
        SilentNodes(MemoryStore(), terms)


def test_a_longer_stop_of_a_node_makes_the_wait_longer_whatever_was_configured() -> None:
    shared, watch = shared_store(), Time()
    agent = NodeAgent(LedgerSource(shared, Node("n1"), Terms(300, 700, 30)), MemoryStore(), "n1", moment=watch.moment)
    agent.round()
    silent = SilentNodes(shared, TERMS, clock=lambda: watch.seconds)
    silent.look()
    watch.seconds += 630
    assert silent.look() == ()
    watch.seconds += 1
    assert silent.look() == ("n1",)


class Counting(SqliteStore):
    """Counts commits."""

    commits = 0

    def put_in_order(self, writes: object) -> object:  # type: ignore[override]
        self.commits += 1
        return super().put_in_order(writes)  # type: ignore[arg-type]


def test_an_address_is_durable_when_it_is_told_and_calls_that_come_together_share_commits(tmp_path: Path) -> None:
    shared = shared_store("10.0.0.0/20")
    own = Counting(tmp_path / "node.db")
    node = Machine(shared, "n1", Time(), own, spare=256)
    node.rounds(60)
    node.rounds()
    before, barrier, told = own.commits, Barrier(16), []

    def work(number: int) -> None:
        barrier.wait()
        for index in range(4):
            found = node.agent.allocate(f"{number}/{index}")[0]
            with SqliteStore(tmp_path / "node.db", read_only=True) as other:  # another process would see it
                told.append(any(each.owner == found.owner for each in Ipam(other).allocations()))

    threads = [Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert told == [True] * 64
    assert own.commits - before < 64, "each call had a commit of its own"
    own.close()


def grown(shared: Store, time: Time) -> Machine:
    """A node with two blocks, the second one empty for long enough."""
    node = Machine(shared, "n1", time)
    node.rounds()
    for number in range(13):
        node.agent.allocate(f"o{number}")
    node.rounds()
    for number in range(13):
        node.agent.release(f"o{number}")
    node.rounds()
    time.seconds += 40
    return node


def lease_of(store: Store) -> Lease:
    entry = store.get(lease_key("n1"))
    assert entry is not None
    assert isinstance(entry.record, Lease)
    return entry.record


def test_when_the_source_is_told_the_lease_and_the_own_ledger_have_ended_the_block_already() -> None:
    shared = shared_store()
    node = grown(shared, Time())
    source = node.agent._source
    hand_back, seen = source.hand_back, []

    def watched(block: Leased) -> None:
        lease = lease_of(node.own)
        seen.append((block in lease.blocks, block in lease.returning, str(block.prefix) in blocks(node.own).get("n1", [])))
        hand_back(block)

    source.hand_back = watched  # type: ignore[method-assign]
    node.rounds()

    assert seen == [(False, True, False)]


def test_an_agent_that_wakes_up_in_a_hand_back_takes_nothing_from_its_successor() -> None:
    shared, time = shared_store(), Time()
    node = grown(shared, time)
    late: list[Leased] = []
    old = node.agent._source
    hand_back = old.hand_back

    def sleeps(block: Leased) -> None:
        late.append(block)
        raise StoreUnavailableError("put", "it sleeps here")

    old.hand_back = sleeps  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        node.rounds()
    assert blocks(node.own) == {"n1": ["10.0.0.0/28"]}
    node.start()
    before = node.agent._source.hand_back
    node.agent._source.hand_back = lambda block: None  # type: ignore[method-assign]
    for number in range(14):
        node.agent.allocate(f"p{number}")
    node.agent.round()
    assert late[0] not in lease_of(node.own).blocks, "what was begun to hand back is not adopted again under its fence"
    assert late[0] in lease_of(node.own).returning
    node.agent._source.hand_back = before  # type: ignore[method-assign]
    node.rounds()
    assert blocks(shared) == blocks(node.own) == {"n1": ["10.0.0.0/28", "10.0.0.32/28"]}, "the source wanted it to have as much: it got another one first"
    for number in range(14):
        node.agent.allocate(f"q{number}")
    node.rounds()
    again = [each for each in lease_of(node.own).blocks if each.prefix == late[0].prefix]

    hand_back(late[0])

    assert [each.fence > late[0].fence for each in again] == [True], "the node got it again, under a later fence"
    assert blocks(shared) == {"n1": ["10.0.0.0/28", "10.0.0.16/28", "10.0.0.32/28"]}, "the late call named an old one"
