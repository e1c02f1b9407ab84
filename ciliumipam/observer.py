"""What an `Ipam` tells of its work while it runs: how often, how long, and how it ended. `prometheus` makes metrics of it.

An observer is told after the fact and while no lock is held, by the very thread that did the work, in the order in which things
came to pass there. So it may look at the `Ipam` (`pools`, `blocks`, ...), a slow one delays only the callers whose work it is
told of, and nothing that it does changes what was done: what it raises is logged and forgotten. State (how full a pool is) is not
told: who wants it asks the `Ipam` when it wants it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

CallName: TypeAlias = Literal[
    "allocate",
    "apply",
    "drain",
    "execute",
    "force_release",
    "grow",
    "hand_back",
    "migrate",
    "plan",
    "rebalance",
    "refresh",
    "release",
    "release_fenced",
    "remove_node",
    "remove_nodes",
    "remove_pool",
    "repair",
    "request",
    "shrink",
]
CALLS: Final[tuple[CallName, ...]] = get_args(CallName)
"""The methods of `Ipam` that are told of: all that change something or read the stores. By name."""

Outcome: TypeAlias = Literal["ok", "invalid", "state", "exhausted", "store", "unexpected"]
"""How a call ended: well, with an error of one of the four families of `errors`, or with something else, as a bug or Ctrl-C."""
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)

StoreName: TypeAlias = Literal["store", "addresses"]
"""Which store: after the arguments of `Ipam`. One that is used for both is `store`."""

Verb: TypeAlias = Literal["get", "scan", "put", "put_in_order", "put_together", "delete"]

StoreOutcome: TypeAlias = Literal["ok", "conflict", "unknown", "unavailable", "failed"]
"""How a verb of a store ended: well; another writer was faster; unavailable, and the write may have taken effect or not;
unavailable; or refused, closed, corrupt, or a bug."""
STORE_OUTCOMES: Final[tuple[StoreOutcome, ...]] = get_args(StoreOutcome)


class Called(NamedTuple):
    """A call of `Ipam` has ended.

    Attributes:
        call: The method.
        outcome: How it ended.
        seconds: What its caller waited, its turn and the stores included.
        error: The class of what it raised.
        refusals: How often a pool refused a node in it.
    """

    call: CallName
    outcome: Outcome
    seconds: float
    error: type[BaseException] | None = None
    refusals: int = 0


class Decided(NamedTuple):
    """Calls that waited together were decided and written in one go, well or not.

    Attributes:
        calls: How many.
        retries: How many writes met a conflict or had an unknown outcome, so that all was read and decided again.
        seconds: From when it was their turn.
    """

    calls: int
    retries: int
    seconds: float


class StoreCalled(NamedTuple):
    """A verb of a store has ended.

    Attributes:
        store: Which store.
        verb: What was asked of it.
        outcome: How it ended.
        seconds: How long it took.
        error: The class of what it raised.
    """

    store: StoreName
    verb: Verb
    outcome: StoreOutcome
    seconds: float
    error: type[BaseException] | None = None


Event: TypeAlias = Called | Decided | StoreCalled


class Observer(Protocol):
    """Who is told. Several threads may tell it at once."""

    def observe(self, event: Event) -> None:
        """Take note of an event. Events that it does not know it should ignore: later versions may have more.

        It must not call what the observed `Ipam` tells of (`CALLS`), which would never end.
        """
        ...


class Unobserved:
    """The observer that takes note of nothing. With this very one, `UNOBSERVED`, nothing is timed either."""

    def observe(self, event: Event) -> None:
        """Take no note."""


UNOBSERVED: Final = Unobserved()
