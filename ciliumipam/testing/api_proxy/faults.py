"""What may go wrong between a client and the API server, and for which requests."""

from __future__ import annotations

from asyncio import Event
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from threading import Condition
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

READS: Final = ("get", "list", "watch")
WRITES: Final = ("create", "update", "patch", "delete")


class Request(NamedTuple):
    """A request as RBAC sees it.

    Attributes:
        verb: get, list, watch, create, update, patch or delete. What is no resource (`/readyz`, discovery) is got.
        path: Without the query.
    """

    verb: str
    path: str


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is cut.

    Attributes:
        when: `before`: the request never reaches the server. `after`: it took effect, and the reply is lost. `torn`: it took effect,
            and half of the reply's body arrives.
    """

    when: Literal["before", "after", "torn"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The proxy answers in the server's place, which never sees the request: 429 and 503 as an overloaded server does, 500, 504, 410, ...

    Attributes:
        status: The status.
        retry_after: What the header of that name says, in seconds.
    """

    status: int
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """The request is on its way for longer, or its reply.

    Attributes:
        seconds: For how long; without it until `Planted.release`.
        reply: Whether the server is asked first, so that the request has taken effect meanwhile.
    """

    seconds: float | None = None
    reply: bool = False


@dataclass(frozen=True, slots=True)
class EndWatch:
    """A watch ends.

    Attributes:
        events: After so many lines, bookmarks counted.
        how: `cut`: the connection. `clean`: as a server does it when its time is up. `torn`: cut within the next line. `expired`: with an
            ERROR that says that the revision is too old (410 Gone), then clean.
    """

    events: int = 0
    how: Literal["cut", "clean", "torn", "expired"] = "cut"


@dataclass(frozen=True, slots=True)
class Silence:
    """A watch falls silent: the connection stays, and nothing comes any more.

    Attributes:
        events: After so many lines, bookmarks counted.
    """

    events: int = 0


Fault = Cut | Answer | Hold | EndWatch | Silence


@dataclass(frozen=True, slots=True)
class Where:
    """Which requests a fault befalls.

    Attributes:
        verbs: Those with one of these verbs.
        path: Those whose path matches this, with `*` for any text.
        skip: But not the first so many of them.
        times: And not more than so many; None is all.
        chance: And each of them only with this probability.
    """

    verbs: Collection[str]
    path: str
    skip: int
    times: int | None
    chance: float

    def matches(self, request: Request) -> bool:
        """Whether it is one of those, chance and number aside."""
        return request.verb in self.verbs and fnmatchcase(request.path, self.path)


class Planted:
    """A fault that waits for its requests. `FaultProxy.plant` makes it; everything may be called from any thread.

    Attributes:
        fault: What it does.
        hits: How often it has happened: where the reply is lost or held, how often the request took effect.
        released: For the proxy's loop: set by `release`.
    """

    def __init__(self, fault: Fault, where: Where, let_go: Callable[[Event], None]) -> None:
        self.fault = fault
        self.hits = 0
        self._where = where
        self._skip = where.skip
        self._left = where.times
        self._let_go = let_go
        self._happened = Condition()
        self.released = Event()

    def wait(self, hits: int = 1, timeout: float = 60.0) -> None:
        """Wait until it has happened so often.

        Raises:
            TimeoutError: It has not.
        """
        with self._happened:
            if not self._happened.wait_for(lambda: self.hits >= hits, timeout):
                raise TimeoutError(f"{self.fault} happened {self.hits} times in {timeout:g} s, and not {hits}")

    def release(self) -> None:
        """Befall nothing any more, and let go of what is held."""
        self._left = 0
        self._let_go(self.released)

    def befalls(self, request: Request, chance: Callable[[], float]) -> bool:
        """Whether it takes this request, which then counts. For the proxy."""
        if self._left == 0 or not self._where.matches(request):
            return False
        if self._where.chance < 1 and chance() >= self._where.chance:
            return False
        if self._skip:
            self._skip -= 1
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def happened(self) -> None:
        """It has happened once more. For the proxy."""
        with self._happened:
            self.hits += 1
            self._happened.notify_all()


def read_request(method: str, target: str) -> Request:
    """What a method and a target ask for, by the rules of Kubernetes' paths."""
    url = urlsplit(target)
    parts = url.path.strip("/").split("/")
    below = {"api": 2, "apis": 3}.get(parts[0], len(parts))  # past the version
    rest = parts[below:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    if method != "GET":
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method, method.lower())
    elif not rest or len(rest) > 1:
        verb = "get"
    else:
        verb = "watch" if parse_qs(url.query).get("watch", [""])[0] in {"1", "true"} else "list"
    return Request(verb, url.path)
