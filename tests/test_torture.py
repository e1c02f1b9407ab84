"""The oracle, the steps and the driver, one judgement at a time; then our own allocators under it, and in a Hypothesis machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from ciliumipam import Ipam, MemoryStore, Node, NodeAllocator, NodeSelector, PoolSpec
from ciliumipam.errors import ExhaustedError, InvalidRequestError, NodeExhaustedError
from ciliumipam.records import Entry, Key
from ciliumipam.testing.torture import (
    PROPERTIES,
    Allocate,
    CallFailedError,
    CallRefusedError,
    Claims,
    Open,
    RangeExhaustedError,
    Release,
    Restart,
    Step,
    Together,
    hosts,
    read_steps,
    replay,
    to_lines,
    torture,
)
from ciliumipam.testing.torture.machine import AllocatorMachine
from ciliumipam.testing.torture.oracle import Breach, Oracle
from ciliumipam.testing.torture.ours import IpamAllocator, NodeAddresses
from ciliumipam.testing.torture.protocol import (
    Address,
    Allocator,
    Call,
    Done,
    Exhausted,
    Failed,
    Given,
    Network,
    Outcome,
    Refused,
    Run,
)
from ciliumipam.testing.torture.shrinking import shrink

FOUR = ip_network("10.0.0.0/29")


def given(text: str) -> Given:
    return Given(ip_address(text))


def ask(owner: str, address: str | None = None, writer: int = 0) -> Call:
    return Call("allocate", owner, None if address is None else ip_address(address), writer)


def let_go(owner: str, address: str | None = None) -> Call:
    return Call("release", owner, None if address is None else ip_address(address))


def judged(answers: list[tuple[Call, Outcome]], claims: Claims = Claims(given=True), network: Network = FOUR) -> str:  # noqa: B008 - frozen
    """What the last answer breaks; those before it break nothing."""
    oracle = Oracle(network, hosts(network), claims)
    breaches: list[Breach | None] = [oracle.judge(*answer) for answer in answers]
    assert breaches[:-1] == [None] * (len(answers) - 1)
    return "" if (last := breaches[-1]) is None else last.broken


A1 = (ask("a"), given("10.0.0.1"))
B2 = (ask("b"), given("10.0.0.2"))
FULL = [(ask(owner), given(f"10.0.0.{number}")) for number, owner in enumerate("abcdef", 1)]
ANOTHER = Claims(again="another", release_by="address", given=True)
REFUSED = Claims(again="refused", given=True)
BOTH = Claims(release_by="both", again="another")
COOLS = Claims(cools=True, given=True)


@pytest.mark.parametrize(
    ("answers", "claims", "broken"),
    [
        ([A1, B2], Claims(), ""),
        ([A1, (ask("b"), given("10.0.0.1"))], Claims(), "duplicate"),
        ([A1, (ask("b"), given("10.0.0.8"))], Claims(), "outside"),
        ([A1, (ask("b"), given("fd00::2"))], Claims(), "outside"),
        ([(ask("a"), given("10.0.0.0"))], Claims(), "reserved"),
        ([(ask("a"), given("10.0.0.7"))], Claims(), "reserved"),
        ([A1, A1], Claims(), ""),
        ([A1, (ask("a"), given("10.0.0.2"))], Claims(), "again"),
        ([A1, (ask("a"), Refused())], Claims(), "again"),
        ([*FULL, (ask("a"), Exhausted())], Claims(), "again"),
        ([*FULL, (ask("g"), Exhausted())], Claims(), ""),
        ([*FULL, (ask("g"), Refused())], Claims(), ""),
        ([*FULL, (ask("g"), given("10.0.0.3"))], Claims(), "duplicate"),
        ([*FULL[:5], (ask("g"), Exhausted())], Claims(), "early"),
        ([*FULL[:5], (ask("g"), Refused())], Claims(), "refused"),
        ([A1, (ask("a"), Refused())], REFUSED, ""),
        ([A1, A1], REFUSED, "duplicate"),
        ([A1, (ask("a"), given("10.0.0.2"))], REFUSED, "again"),
        ([A1, (ask("a"), Exhausted())], REFUSED, "early"),
        ([*FULL, (ask("a"), Exhausted())], REFUSED, ""),
        ([A1, (ask("a"), given("10.0.0.2"))], ANOTHER, ""),
        ([A1, A1], ANOTHER, "duplicate"),
        ([(ask("a", "10.0.0.3"), given("10.0.0.3"))], Claims(), ""),
        ([(ask("a", "10.0.0.3"), given("10.0.0.4"))], Claims(), "other"),
        ([(ask("a", "10.0.0.3"), Refused())], Claims(), "refused"),
        ([(ask("a", "10.0.0.3"), Exhausted())], Claims(), "refused"),
        ([(ask("a", "10.0.0.7"), Refused())], Claims(), ""),
        ([(ask("a", "10.0.0.7"), Exhausted())], Claims(), "early"),
        ([(ask("a", "10.0.0.9"), Refused())], Claims(), ""),
        ([(ask("a", "fd00::1"), Refused())], Claims(), ""),
        ([A1, (ask("b", "10.0.0.1"), Refused())], Claims(), ""),
        ([A1, (ask("b", "10.0.0.1"), given("10.0.0.1"))], Claims(), "duplicate"),
        ([A1, (ask("a", "10.0.0.1"), given("10.0.0.1"))], Claims(), ""),
        ([A1, (ask("a", "10.0.0.1"), Refused())], Claims(), "again"),
        ([A1, (ask("a", "10.0.0.2"), Refused())], Claims(), ""),
        ([A1, (ask("a", "10.0.0.2"), given("10.0.0.2"))], Claims(), "again"),
        ([A1, (ask("a", "10.0.0.2"), given("10.0.0.1"))], Claims(), "duplicate"),
        ([A1, (let_go("a"), Done()), (ask("b"), given("10.0.0.1"))], Claims(), ""),
        ([A1, (let_go("a"), Refused())], Claims(), "kept"),
        ([A1, (let_go("b"), Refused()), (ask("b"), given("10.0.0.1"))], Claims(), "duplicate"),
        ([A1, (let_go("b"), Done()), (ask("b"), given("10.0.0.1"))], Claims(), "duplicate"),
        ([A1, (let_go("b", "10.0.0.1"), Done()), (ask("b"), given("10.0.0.1"))], ANOTHER, ""),
        ([A1, (let_go("b", "10.0.0.1"), Refused())], ANOTHER, "kept"),
        ([A1, (let_go("b", "10.0.0.1"), Refused())], BOTH, ""),
        ([A1, (let_go("b", "10.0.0.1"), Done()), (ask("b"), given("10.0.0.1"))], BOTH, "duplicate"),
        ([A1, (let_go("a", "10.0.0.1"), Done()), (ask("b"), given("10.0.0.1"))], BOTH, ""),
        ([*FULL, (let_go("a"), Done()), (ask("g"), Exhausted())], Claims(), "early"),
        ([*FULL, (let_go("a"), Done()), (ask("g"), Exhausted())], COOLS, ""),
        ([A1, (let_go("a"), Done()), (ask("b", "10.0.0.1"), Refused())], COOLS, ""),
        ([A1, (let_go("a"), Done()), (ask("b", "10.0.0.1"), Refused())], Claims(), "refused"),
        ([A1, (let_go("a"), Done()), (ask("b"), Exhausted())], COOLS, "early"),
        ([(ask("a"), Failed("no"))], Claims(), "failed"),
        ([(ask("a"), Failed("no", hung=True))], Claims(), "hung"),
        ([(ask("a"), Done())], Claims(), "failed"),
        ([(let_go("a"), given("10.0.0.1"))], Claims(), "failed"),
        ([(let_go("a"), Exhausted())], Claims(), "failed"),
    ],
)
def test_each_answer_is_judged_by_what_is_held_and_claimed(answers: list[tuple[Call, Outcome]], claims: Claims, broken: str) -> None:
    assert judged(answers, claims) == broken
    assert broken in {"", *PROPERTIES}


def test_a_duplicate_says_what_came_between() -> None:
    oracle = Oracle(FOUR, hosts(FOUR), Claims())
    oracle.judge(*A1)
    oracle.judge(*B2)
    oracle.judge(let_go("b"), Done())
    oracle.restarted()

    breach = oracle.judge(ask("c", writer=1), given("10.0.0.1"))

    assert breach is not None
    assert breach.sentence == (
        "gave 10.0.0.1 to c, although a holds it; since that was given, b released 10.0.0.2 and the allocator was restarted;"
        " another writer had given it"
    )


@pytest.mark.parametrize(
    ("offer", "right"),
    [
        ([("10.0.0.0", "10.0.0.7")], True),
        ([("10.0.0.4", "10.0.0.7"), ("10.0.0.0", "10.0.0.3")], True),
        ([], True),
        ([("10.0.0.0", "10.0.0.8")], False),
        ([("9.255.255.255", "10.0.0.1")], False),
        ([("10.0.0.2", "10.0.0.1")], False),
        ([("10.0.0.1", "10.0.0.4"), ("10.0.0.4", "10.0.0.5")], False),
    ],
)
def test_an_offer_is_made_of_runs_inside_the_range(offer: list[Run], right: bool) -> None:
    assert (Oracle(FOUR, offer, Claims()).offer_breach() is None) is right


@pytest.mark.parametrize(
    ("network", "options", "runs"),
    [
        ("10.0.0.0/29", {}, ["10.0.0.1 10.0.0.6"]),
        ("10.0.0.0/29", {"first": True}, ["10.0.0.0 10.0.0.6"]),
        ("10.0.0.0/29", {"last": True}, ["10.0.0.1 10.0.0.7"]),
        ("10.0.0.0/29", {"reserved": ["10.0.0.1", "10.0.0.3", "10.0.0.9"]}, ["10.0.0.2 10.0.0.2", "10.0.0.4 10.0.0.6"]),
        ("10.0.0.0/31", {}, ["10.0.0.0 10.0.0.1"]),
        ("10.0.0.0/32", {}, ["10.0.0.0 10.0.0.0"]),
        ("fd00::/64", {}, ["fd00::1 fd00::ffff:ffff:ffff:fffe"]),
        ("fd00::/127", {}, ["fd00:: fd00::1"]),
    ],
)
def test_hosts_says_what_the_usual_rules_leave(network: str, options: dict[str, Any], runs: list[str]) -> None:
    assert [f"{first} {last}" for first, last in hosts(ip_network(network), **options)] == runs


STEPS: list[Step] = [
    Open(ip_network("fd00::/126")),
    Allocate("a"),
    Allocate("b", ip_address("fd00::2"), writer=1),
    Allocate("c", of="a"),
    Release("a", of="b"),
    Release("b", ip_address("fd00::")),
    Restart(),
    Together(Allocate("a"), Release("b", writer=1)),
]


def test_steps_are_read_as_they_were_written() -> None:
    lines = to_lines(STEPS)

    assert read_steps("\n".join(["a hunt:", *(f"{line}   whatever was answered" for line in lines), "  {indented}"])) == STEPS
    assert lines[2] == '{"do": "allocate", "owner": "b", "address": "fd00::2", "writer": 1}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there are no steps"),
        ('{"do": "allocate", "owner": "a"}', "the first one with"),
        ("{nothing", "line 1 begins with a brace"),
        ('{"do": "open", "network": "10.0.0.1/30"}', "has host bits set"),
        ('{"do": "open", "network": "10.0.0.0/30"}\n{"do": "dance"}', "is no step"),
        ('{"do": "open", "network": "10.0.0.0/30"}\n{"do": "allocate", "owner": "a", "writer": 2}', "writer is 0 or 1"),
        ('{"do": "open", "network": "10.0.0.0/30"}\n{"do": "together", "calls": [{"do": "restart"}, {"do": "restart"}]}', "is no step"),
    ],
)
def test_what_is_no_list_of_steps_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        read_steps(text)


def test_steps_are_shrunk_into_a_small_range_with_owners_in_order_and_ends_at_the_end() -> None:
    steps: list[Step] = [
        Open(ip_network("10.0.0.0/26")),
        Together(Allocate("q7"), Release("m", writer=1)),
        Allocate("x", ip_address("10.0.0.62"), writer=1),
        Allocate("q7", of="x"),
        Restart(),
    ]

    def breaks(tried: Sequence[Step]) -> bool:
        opened = tried[0]
        assert isinstance(opened, Open)
        last = opened.network.broadcast_address - 1
        return any(isinstance(step, Allocate) and step.address == last for step in tried) and Restart() in tried

    assert shrink(steps, breaks) == [Open(ip_network("10.0.0.0/30")), Allocate("a", ip_address("10.0.0.2")), Restart()]


def test_steps_that_are_not_claimed_are_left_out_of_a_replay() -> None:
    report = replay(NodeAddressesWithoutRestart(), STEPS, times=1)

    assert report.ok
    assert report.answers["restart: left out"] == 1
    assert report.answers["at once: left out"] == 1


class NodeAddressesWithoutRestart(NodeAddresses):
    claims = Claims(given=True)


class Silent:
    """Serves nothing."""

    claims = Claims(families=(4,))

    def open(self, network: Network) -> list[Run]:
        raise CallRefusedError("too small" if network.prefixlen == 32 else "")

    def allocate(self, owner: str, address: Address | None) -> str:
        raise RangeExhaustedError

    def release(self, owner: str, address: Address | None) -> None:
        raise CallFailedError("nothing works")

    def close(self) -> None:
        pass


def test_a_range_that_is_refused_is_reported_and_no_fault() -> None:
    report = torture(Silent(), steps=50, ranges=["10.0.0.0/32", "10.0.0.0/31", "fd00::/64"])

    assert report.ok
    assert report.refused == {"10.0.0.0/32": "too small", "10.0.0.0/31": "no reason given"}
    assert not report.rounds


def test_ranges_of_no_family_that_is_claimed_are_an_error() -> None:
    with pytest.raises(ValueError, match="no range of fd00::/64 is of the families"):
        torture(Silent(), steps=5, ranges=["fd00::/64"])


class Claiming(Silent):
    def __init__(self, claims: Claims) -> None:
        self.claims = claims


@pytest.mark.parametrize(("claims", "says"), [(Claims(restarts=True), "'restart'"), (Claims(writers="turns"), "'another'")])
def test_a_claim_needs_its_method(claims: Claims, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        torture(Claiming(claims), steps=1)


def test_equal_seeds_do_equal_steps() -> None:
    one, two, other = (torture(NodeAddresses(), seed=seed, steps=400) for seed in (5, 5, 6))

    assert str(one) == str(two) != str(other)


# ----------------------------------------------------------------------------------------------------- our own


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (NodeAddresses, 2000),
        (lambda: NodeAddresses("lowest"), 1000),
        (lambda: NodeAddresses("random"), 1000),
        (lambda: IpamAllocator("memory"), 1000),
        (lambda: IpamAllocator("sqlite"), 250),
    ],
    ids=["node, next", "node, lowest", "node, random", "ipam, memory", "ipam, sqlite"],
)
def test_in_our_own_allocators_nothing_is_found(make: Callable[[], Allocator], steps: int) -> None:
    allocator = make()
    try:
        report = torture(allocator, seed=11, steps=steps)
    finally:
        allocator.close()

    assert report.ok, str(report)
    assert report.steps == steps
    assert report.answers["restart: done"] > 0


class Meanwhile(MemoryStore):
    """Something is done right before the n-th read from the moment on at which `reads` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.work: Callable[[], object] = bool

    def get(self, key: Key) -> Entry | None:
        self.reads -= 1
        if self.reads == 0:
            self.work()
        return super().get(key)


@pytest.mark.parametrize("read", range(1, 13))
def test_an_owner_that_another_writer_serves_meanwhile_is_not_told_that_the_node_is_exhausted(read: int) -> None:
    """Found by torture of `IpamAllocator("memory")` with seed 1: the owner's claims were read before the page that another filled."""
    store = Meanwhile()
    one, two = Ipam(store), Ipam(store)
    pool = PoolSpec(name="pool", cidrs=["10.0.0.0/31"], selector=NodeSelector.everything(), block_length_v4=31)
    one.apply(pools=[pool], nodes=[Node("node")])
    two.allocate("node", "a")
    one.allocate("node", "b")
    with pytest.raises(NodeExhaustedError):
        two.allocate("node", "c")
    one.release("node", "b")

    store.work, store.reads = lambda: one.allocate("node", "c"), read
    (late,) = two.allocate("node", "c")

    assert [late] == [each for each in one.allocations() if each.owner == "c"]


class Cooling:
    """`NodeAllocator` with a reuse delay that is never over."""

    claims = Claims(cools=True, given=True)

    def open(self, network: Network) -> list[Run]:
        self.allocator = NodeAllocator([network], reuse_delay=60)
        return hosts(network)

    def allocate(self, owner: str, address: Address | None) -> Address:
        try:
            return self.allocator.allocate(owner, address=address, now=0).address
        except ExhaustedError as error:
            raise RangeExhaustedError from error
        except Exception as error:
            raise CallRefusedError(str(error)) from error

    def release(self, owner: str, address: Address | None) -> None:
        self.allocator.release(owner, now=0)

    def close(self) -> None:
        pass


class CoolingUnclaimed(Cooling):
    claims = Claims(given=True)


def test_what_cools_need_not_be_given_where_that_is_claimed() -> None:
    report, unclaimed = torture(Cooling(), steps=1500), torture(CoolingUnclaimed(), steps=1500)

    assert report.ok, str(report)
    assert unclaimed.fault is not None
    assert unclaimed.fault.broken in {"early", "refused"}


class NodeMachine(AllocatorMachine):
    def make_allocator(self) -> Allocator:
        return NodeAddresses()


TestNodeMachine = NodeMachine.TestCase
TestNodeMachine.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


class Forgetful(NodeAddresses):
    """Loses what was given last at a restart."""

    def restart(self) -> None:
        held = self._allocator.holdings()
        if held:
            self._allocator.release(held[-1].owner)
        super().restart()


class ForgetfulMachine(AllocatorMachine):
    def make_allocator(self) -> Allocator:
        return Forgetful()


def test_the_machine_finds_a_fault_and_shows_the_steps() -> None:
    with pytest.raises(AssertionError, match=r"\(duplicate\)|\(again\)") as caught:
        run_state_machine_as_test(
            ForgetfulMachine,
            settings=settings(
                max_examples=300, stateful_step_count=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
            ),
        )

    steps = read_steps(str(caught.value))
    assert Restart() in steps
    assert replay(Forgetful(), steps).fault is not None
    assert replay(NodeAddresses(), steps).ok
