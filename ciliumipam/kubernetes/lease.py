"""Who acts: leadership by a Lease of `coordination.k8s.io/v1`, with the meaning and the times that client-go gives it.

There is no fencing here: one who has lost the Lease learns of it only when it looks, and what it sent before may arrive afterwards.
So safety never depends on this. Two operators that act at once are as safe as one, and only get into each other's way; a Lease saves
that work. What keeps two from giving out the same block is compare-and-set on the ledger's pages.

`Election` decides and does nothing else; `Lease` asks the API server.

Whoever deletes the Lease object elects a second leader, for up to `renew` seconds.

* Whoever wants the Lease watches for how long it has not changed, by its *own* monotonic clock. The times written into it are for
  people, so that clocks which are apart do no harm; only clocks that run at different speeds would.
* The holder counts from *before* it sent its last successful renewal, the others from when they have *seen* it. With `renew` shorter
  than `duration` the holder has stopped before the first other may begin.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, Final, NamedTuple

from ciliumipam.errors import ConflictError, InvalidRequestError, IpamError
from ciliumipam.kubernetes.api import Api, Resource

LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
JITTER: Final = 1.2
"""How much longer than `retry` a candidate may wait, by chance, so that candidates do not come all at once."""


class Term(NamedTuple):
    """What a Lease says.

    Attributes:
        holder: Who has it, "" for nobody.
        duration: Whole seconds without renewal after which others may take it.
        acquired: When it was taken, as text.
        renewed: When it was renewed, as text.
        transitions: How often it went from one holder to another.
    """

    holder: str
    duration: int
    acquired: str
    renewed: str
    transitions: int

    @classmethod
    def of(cls, lease: Mapping[str, Any]) -> Term:
        """What an object says; of what it leaves out, nothing."""
        spec = lease.get("spec") or {}
        return cls(
            spec.get("holderIdentity") or "",
            spec.get("leaseDurationSeconds") or 0,
            spec.get("acquireTime") or "",
            spec.get("renewTime") or "",
            spec.get("leaseTransitions") or 0,
        )

    def to_spec(self) -> dict[str, Any]:
        """The spec of the object."""
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.duration,
            "acquireTime": self.acquired,
            "renewTime": self.renewed,
            "leaseTransitions": self.transitions,
        }


class Election:
    """The decisions of one candidate: what to write, and whether it leads. No I/O, no clock. Not thread-safe.

    All times are seconds of this candidate's own monotonic clock, but for `wall`, which is written for people.
    """

    def __init__(self, identity: str, duration: float = 15.0, renew: float = 10.0) -> None:
        """Lead nothing yet.

        Args:
            identity: A name that no other candidate has.
            duration: Seconds without renewal after which others may take the Lease.
            renew: Seconds after its last renewal at which the holder stops to lead.

        Raises:
            InvalidRequestError: The times leave the holder no time to stop in.
        """
        if not identity:
            raise InvalidRequestError("a candidate for a Lease needs an identity")
        if not 0 < renew < duration or duration < 1:
            raise InvalidRequestError(
                f"a Lease of {duration:g} s that is renewed within {renew:g} s is not safe to hold;"
                " the first must be longer than the second, and at least 1 s"
            )
        self.identity = identity
        self._duration, self._renew = duration, renew
        self._seen: Term | None = None
        self._sent: Term | None = None
        self._changed_at = 0.0
        self._until: float | None = None

    def disturbed(self, found: Term | None, now: float) -> bool:
        """Whether this candidate led, and the Lease is not as it left it; it leads no more then. An own write whose answer was lost is none.

        It is not as it was left where somebody took or changed it, and where etcd was restored from a backup: then nothing that was read before it
        counts, and there may be no other sign of it, since the server's revisions soon catch up with those that were seen.
        """
        if self._until is None or found in (self._seen, self._sent):
            return False
        self._until = None
        self._note(found, now)
        return True

    def wants(self, found: Term | None, now: float, wall: datetime) -> Term | None:
        """What to write over what was found, or None to wait.

        Args:
            found: What the Lease says now; None where there is none.
            now: When that was read, or later.
            wall: The time of day.
        """
        self._sent = self._next(found, now, wall)
        return self._sent

    def _next(self, found: Term | None, now: float, wall: datetime) -> Term | None:
        self._note(found, now)
        if found is None:
            return Term(self.identity, self._seconds, _text(wall), _text(wall), 0)
        if found.holder == self.identity:
            return found._replace(duration=self._seconds, renewed=_later(found.renewed, wall))
        if found.holder and now < self._changed_at + (found.duration or self._duration):
            return None
        return Term(self.identity, self._seconds, _text(wall), _later(found.renewed, wall), found.transitions + 1)

    def _note(self, found: Term | None, now: float) -> None:
        if found != self._seen:
            self._seen, self._changed_at = found, now

    def won(self, term: Term, started: float) -> None:
        """What was wanted has been written, by a request that was begun at that time."""
        self._seen, self._changed_at = term, started
        self._until = started + self._renew

    def lost(self) -> None:
        """Somebody else has it."""
        self._until = None

    def leads(self, now: float) -> bool:
        """Whether this candidate may act."""
        return self._until is not None and now < self._until

    @property
    def holder(self) -> str:
        """Who held it when it was last looked at, "" for nobody."""
        return self._seen.holder if self._seen is not None else ""

    @property
    def _seconds(self) -> int:
        return -int(-self._duration // 1)  # the API has whole seconds; never less than what was asked for


class Lease:
    """A candidate's way to leadership. One thread calls `step`, `run` and `release`; any thread may ask `leading`.

    Args:
        api: The cluster.
        namespace: Where the Lease is.
        name: Its name.
        identity: A name that no other candidate has, as of a pod and something random.
        duration: Seconds without renewal after which others may take it.
        renew: Seconds after its last renewal at which the holder stops to lead.
        retry: Seconds between two tries, of the holder to renew, of the others to take.
        clock: A monotonic clock.
        wall: The time of day, which is written for people only.
        chance: A number from 0 to 1, for the jitter.

    Raises:
        InvalidRequestError: The times leave the holder no time to stop in.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        renew: float = 10.0,
        retry: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._election = Election(identity, duration, renew)
        if not 0 < retry < renew:
            raise InvalidRequestError(f"a Lease that is tried every {retry:g} s cannot be renewed within {renew:g} s")
        self._api, self._leases, self._name = api, LEASES._replace(namespace=namespace), name
        self._retry, self._clock, self._wall, self._chance = retry, clock, wall, chance

    @property
    def leading(self) -> bool:
        """Whether this candidate may act now. It ends by itself when renewals do not come through."""
        return self._election.leads(self._clock())

    @property
    def holder(self) -> str:
        """Who held it when it was last looked at, "" for nobody."""
        return self._election.holder

    def step(self) -> float:
        """Try once to take or to renew it. Returns in how many seconds to try again.

        A Lease that is not as this candidate left it ends its leadership. It may win the next one at once, and has to read everything anew.

        Raises:
            IpamError: The API server could not be asked, or refuses. Leadership that there is ends by itself if that lasts.
        """
        lease = self._api.get(self._leases, self._name)
        started = self._clock()
        found = Term.of(lease) if lease is not None else None
        if self._election.disturbed(found, started):
            return 0.0  # whoever leads now ends that first
        wanted = self._election.wants(found, started, self._wall())
        if wanted is not None and self._write(lease, wanted):
            self._election.won(wanted, started)
            return self._retry
        if found is not None and found.holder != self._election.identity:
            self._election.lost()
        return self._retry * (1 + JITTER * self._chance())

    def run(self, stop: Event, tell: Callable[[bool], None], complain: Callable[[IpamError], None]) -> None:
        """Try again and again, until told to stop; then give the Lease back.

        Args:
            stop: Set to end it.
            tell: Called whenever leadership begins or ends.
            complain: Called with why the API server could not be asked, or what it refuses: once for as long as that is the same.
        """
        known, told = False, ""
        while not stop.is_set():
            try:
                pause, told = self.step(), ""
            except IpamError as error:
                if str(error) != told:
                    complain(error)
                pause, told = self._retry, str(error)
            if self.leading != known:
                known = not known
                tell(known)
            stop.wait(pause)
        if known:
            tell(False)  # noqa: FBT003 - the one thing that it says
        try:
            self.release()
        except IpamError as error:
            complain(error)

    def release(self) -> bool:
        """Give it back, so that nobody has to wait for it to expire. Returns whether there was something to give back.

        Raises:
            IpamError: The API server could not be asked, or refuses. It then expires by itself.
        """
        self._election.lost()
        lease = self._api.get(self._leases, self._name)
        if lease is None or (found := Term.of(lease)).holder != self._election.identity:
            return False
        return self._write(lease, found._replace(holder="", duration=1, renewed=_later(found.renewed, self._wall())))

    def _write(self, lease: dict[str, Any] | None, term: Term) -> bool:
        """Compare-and-set by the object's resourceVersion; whether it is written."""
        try:
            if lease is None:
                metadata = {"name": self._name, "namespace": self._leases.namespace}
                spec = term.to_spec()
                self._api.create(self._leases, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
            else:
                self._api.replace(self._leases, {**lease, "spec": {**(lease.get("spec") or {}), **term.to_spec()}})
        except ConflictError:
            return False
        return True


def _text(wall: datetime) -> str:
    """A time as Kubernetes' MicroTime."""
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _later(known: str, wall: datetime) -> str:
    """The time of day as text, and never the text that is there: a renewal that changes nothing is one that nobody sees."""
    text = _text(wall)
    return text if text != known else _text(wall + timedelta(microseconds=1))
