"""Leadership: what one candidate decides, any number of them against each other in simulated time, and two on the real API server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciliumipam.errors import InvalidRequestError, IpamError, StoreRefusedError, StoreUnavailableError
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.lease import LEASES, Election, Lease, Term
from ciliumipam.kubernetes.lightkube_transport import LightkubeTransport, connect
from ciliumipam.testing.control_plane import ControlPlane

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

# ------------------------------------------------------------------------------------------------- one candidate


def test_nobodys_lease_is_taken_at_once() -> None:
    assert Election("a").wants(None, 5.0, NOON) == Term("a", 15, "2026-01-01T12:00:00.000000Z", "2026-01-01T12:00:00.000000Z", 0)
    assert Election("a").wants(Term("", 1, "", "", 3), 5.0, NOON) == Term(
        "a", 15, "2026-01-01T12:00:00.000000Z", "2026-01-01T12:00:00.000000Z", 4
    )


def test_a_lease_of_another_is_taken_when_it_has_not_changed_for_its_own_duration_as_seen_from_here() -> None:
    election = Election("a", duration=15)
    theirs = Term("b", 40, "", "1999-12-31T23:59:59.000000Z", 7)  # their clock does not matter, and their duration does

    assert election.wants(theirs, 100.0, NOON) is None
    assert election.wants(theirs, 139.9, NOON) is None
    assert election.wants(theirs._replace(renewed="1999-12-31T23:59:59.000001Z"), 139.9, NOON) is None
    assert election.wants(theirs._replace(renewed="1999-12-31T23:59:59.000001Z"), 179.8, NOON) is None
    taken = election.wants(theirs._replace(renewed="1999-12-31T23:59:59.000001Z"), 179.9, NOON)
    assert taken is not None
    assert (taken.holder, taken.transitions) == ("a", 8)


def test_the_holder_renews_and_keeps_when_it_was_acquired() -> None:
    election = Election("a")
    first = election.wants(None, 0.0, NOON)
    assert first is not None
    election.won(first, 0.0)

    again = election.wants(first, 2.0, NOON + timedelta(seconds=2))

    assert again == first._replace(renewed="2026-01-01T12:00:02.000000Z")


def test_a_renewal_differs_even_where_the_time_of_day_stands_still() -> None:
    election = Election("a")
    first = election.wants(None, 0.0, NOON)
    assert first is not None

    again = election.wants(first, 2.0, NOON)

    assert again is not None
    assert again.renewed != first.renewed


def test_the_holder_leads_until_its_renewal_is_too_old_and_not_a_moment_longer() -> None:
    election = Election("a", duration=15, renew=10)
    assert not election.leads(0.0)
    election.won(Term("a", 15, "", "", 0), 3.0)

    assert election.leads(12.9)
    assert not election.leads(13.0)


def test_it_leads_no_more_once_it_has_lost() -> None:
    election = Election("a")
    election.won(Term("a", 15, "", "", 0), 3.0)

    election.lost()

    assert not election.leads(3.0)


def test_a_lease_that_is_not_as_it_was_left_is_a_disturbance_for_who_leads() -> None:
    election = Election("a")
    first = election.wants(None, 0.0, NOON)
    assert first is not None
    assert not election.disturbed(None, 0.0)
    assert not election.disturbed(first._replace(holder="b"), 0.0)
    election.won(first, 0.0)
    renewed = election.wants(first, 2.0, NOON + timedelta(seconds=2))

    assert not election.disturbed(first, 2.0)
    assert not election.disturbed(renewed, 2.0)  # its answer was lost
    assert election.leads(2.0)


@pytest.mark.parametrize("change", [{"renewed": "2026-01-01T11:00:00.000000Z"}, {"holder": "b"}, None])
def test_what_disturbs_the_leader_ends_its_leadership(change: dict[str, str] | None) -> None:
    election = Election("a")
    first = election.wants(None, 0.0, NOON)
    assert first is not None
    election.won(first, 0.0)

    assert election.disturbed(first._replace(**change) if change is not None else None, 1.0)  # type: ignore[arg-type] # texts only

    assert not election.leads(1.0)


@pytest.mark.parametrize(("duration", "renew"), [(10.0, 10.0), (10.0, 11.0), (15.0, 0.0), (0.9, 0.5)])
def test_times_that_leave_no_time_to_stop_in_are_refused(duration: float, renew: float) -> None:
    with pytest.raises(InvalidRequestError, match="is not safe to hold"):
        Election("a", duration, renew)


def test_a_candidate_without_an_identity_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="needs an identity"):
        Election("")


# ------------------------------------------------------------------------------- many candidates in simulated time


@dataclass
class World:
    """A register with compare-and-set, and the time that truly is. Nobody in it can read that time."""

    now: float = 0.0
    term: Term | None = None
    version: int = 0


@dataclass
class Actor:
    """A candidate whose monotonic clock started whenever it did, and whose time of day is anything."""

    election: Election
    offset: float
    skew: timedelta
    read: tuple[Term | None, int] | None = None
    wanted: Term | None = None
    started: float = field(default=0.0)

    def step(self, world: World) -> None:
        """One of the three moments of a try: the read, the sending, the arrival. Between them any time may pass."""
        clock = world.now + self.offset
        if self.read is None:
            self.read = world.term, world.version
        elif self.wanted is None:
            found = self.read[0]
            self.started = clock
            self.wanted = self.election.wants(found, clock, NOON + self.skew + timedelta(seconds=world.now))
            if self.wanted is None:
                self.read = None
                if found is not None and found.holder != self.election.identity:
                    self.election.lost()
        else:
            if self.read[1] == world.version:
                world.term, world.version = self.wanted, world.version + 1
                self.election.won(self.wanted, self.started)
            self.read = self.wanted = None


@settings(max_examples=200)
@given(
    actors=st.lists(st.tuples(st.floats(0, 1e6), st.timedeltas(-timedelta(days=9), timedelta(days=9))), min_size=2, max_size=4),
    steps=st.lists(st.tuples(st.sampled_from((0.0, 0.1, 2.0, 5.1, 9.9, 14.9, 15.1)), st.integers(0, 3), st.integers(1, 3)), min_size=10, max_size=60),
)
def test_never_do_two_lead_at_once_whatever_their_clocks_say_and_however_late_they_are(
    actors: list[tuple[float, timedelta]], steps: list[tuple[float, int, int]]
) -> None:
    world = World()
    everybody = [Actor(Election(f"actor-{i}", 15, 10), *clocks) for i, clocks in enumerate(actors)]

    for passes, who, moments in steps:
        world.now += passes
        for _ in range(moments):
            everybody[who % len(everybody)].step(world)
        leaders = [actor.election.identity for actor in everybody if actor.election.leads(world.now + actor.offset)]
        assert len(leaders) <= 1, leaders


def test_somebody_leads_again_soon_after_the_leader_has_died() -> None:
    world, chance = World(), random.Random(7)
    everybody = [Actor(Election(f"actor-{i}", 15, 10), 1000.0 * i, timedelta(0)) for i in range(3)]
    dead: Actor | None = None
    died_at = 0.0
    led: list[str] = []
    for _ in range(600):
        world.now += chance.uniform(0, 0.5)
        alive = [actor for actor in everybody if actor is not dead]
        chance.choice(alive).step(world)
        leaders = [actor for actor in alive if actor.election.leads(world.now + actor.offset)]
        if leaders and (not led or led[-1] != leaders[0].election.identity):
            led.append(leaders[0].election.identity)
        if leaders and dead is None and world.now > 30:
            dead, died_at = leaders[0], world.now
        if dead is not None and len(led) > 1:
            assert world.now - died_at < 25
            return
    raise AssertionError(led)


# ------------------------------------------------------------------------------------------ on the real API server


class Clock:
    """A monotonic clock that goes on only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def transport(control_plane: ControlPlane) -> Iterator[LightkubeTransport]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
        found = connect()
    yield found
    found.close()


@pytest.fixture
def api(transport: LightkubeTransport) -> Api:
    return Api(transport)


@pytest.fixture
def name() -> str:
    return f"lease-{uuid4().hex[:8]}"


def candidate(api: Api, name: str, identity: str, clock: Clock) -> Lease:
    return Lease(api, "default", name, identity, clock=clock, chance=lambda: 0.5)


def test_of_two_candidates_the_first_leads_and_the_other_takes_over_when_it_falls_silent(api: Api, name: str) -> None:
    clocks = Clock(), Clock()
    first, second = candidate(api, name, "first", clocks[0]), candidate(api, name, "second", clocks[1])

    assert first.step() == 2.0
    assert second.step() == pytest.approx(3.2)
    assert (first.leading, second.leading, second.holder) == (True, False, "first")

    clocks[1].now += 14.9
    second.step()
    assert not second.leading
    first.step()  # a renewal, which the second sees
    clocks[1].now += 14.9
    second.step()
    clocks[1].now += 14.9
    second.step()
    assert not second.leading

    clocks[0].now += 10.0
    assert not first.leading
    clocks[1].now += 0.1
    second.step()
    assert (second.leading, second.holder) == (True, "second")
    first.step()
    assert (first.leading, first.holder) == (False, "second")
    found = api.get(LEASES._replace(namespace="default"), name)
    assert found is not None
    assert found["spec"]["leaseTransitions"] == 1


def test_of_two_candidates_that_read_the_same_only_one_takes_it(api: Api, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = candidate(api, name, "first", Clock()), candidate(api, name, "second", Clock())
    get = api.get

    def read_and_be_overtaken(*args: object) -> object:
        found = get(*args)  # type: ignore[arg-type] # handed on as they are
        monkeypatch.undo()
        second.step()
        return found

    monkeypatch.setattr(api, "get", read_and_be_overtaken)
    first.step()

    assert (first.leading, second.leading) == (False, True)


def test_a_lease_that_is_given_back_is_taken_without_waiting(api: Api, name: str) -> None:
    first, second = candidate(api, name, "first", Clock()), candidate(api, name, "second", Clock())
    first.step()
    second.step()

    assert first.release()
    second.step()

    assert (first.leading, second.leading) == (False, True)
    assert not first.release()  # it is the other's now
    assert second.leading


def test_run_tells_when_leadership_begins_and_ends_and_gives_it_back(api: Api, name: str) -> None:
    lease = Lease(api, "default", name, "first", retry=0.1)
    stop, began, told = Event(), Event(), []

    def tell(leading: bool) -> None:
        told.append(leading)
        began.set()

    thread = Thread(target=lease.run, args=(stop, tell, told.append))
    thread.start()
    assert began.wait(30)
    stop.set()
    thread.join(30)

    assert told == [True, False]
    found = api.get(LEASES._replace(namespace="default"), name)
    assert found is not None
    assert not found["spec"]["holderIdentity"]


def test_a_lease_that_went_back_in_time_ends_leadership_before_it_begins_anew(api: Api, name: str) -> None:
    clock = Clock()
    lease = candidate(api, name, "first", clock)
    lease.step()
    leases = LEASES._replace(namespace="default")
    old = api.get(leases, name)
    clock.now += 2.0
    lease.step()
    now = api.get(leases, name)
    assert old is not None
    assert now is not None
    api.replace(leases, {**now, "spec": old["spec"]})  # as from a backup

    assert lease.step() == 0.0
    assert not lease.leading
    lease.step()
    assert lease.leading


def test_who_cannot_renew_complains_and_stops_to_lead(api: Api, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stop = Clock(), Event()
    lease = candidate(api, name, "first", clock)
    lease.step()
    complaints: list[IpamError] = []

    def fail(*_: object) -> None:
        clock.now += 4
        if clock.now >= 1012:
            stop.set()
        raise StoreUnavailableError("get", "nobody answers")

    monkeypatch.setattr(api, "get", fail)
    monkeypatch.setattr(stop, "wait", lambda _: None)
    led: list[bool] = []
    lease.run(stop, led.append, complaints.append)

    assert led == [True, False]
    assert len(complaints) == 2, "one of three tries that ended in the same way, and that of giving it back"


def test_a_lease_in_a_namespace_that_is_not_there_says_how_to_make_it(api: Api) -> None:
    with pytest.raises(StoreRefusedError, match=r"there is no namespace nowhere; create it: kubectl create namespace nowhere"):
        Lease(api, "nowhere", "x", "a").step()


def test_a_write_that_took_long_counts_from_when_it_was_sent(api: Api, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    lease = candidate(api, name, "first", clock)
    create = api.create

    def slowly(*args: object) -> object:
        clock.now += 9.0
        return create(*args)  # type: ignore[arg-type] # handed on as they are

    monkeypatch.setattr(api, "create", slowly)
    lease.step()

    led = [lease.leading]
    clock.now += 1.0
    led.append(lease.leading)
    assert led == [True, False]


def test_retries_that_come_too_late_to_renew_are_refused(api: Api) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be renewed within 10 s"):
        Lease(api, "default", "x", "a", retry=10.0)
