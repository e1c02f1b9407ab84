"""Times what one `Ipam` does, for its observer. An `Ipam` without one has none of this.

Calls are timed by `observed` around the methods, the stores by wrapping them, which leaves the code between as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from threading import Lock
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from ciliumipam.errors import ConflictError, ExhaustedError, InvalidError, StateError, StoreError, StoreUnavailableError
from ciliumipam.observer import (
    Called,
    CallName,
    Decided,
    Event,
    Observer,
    Outcome,
    StoreCalled,
    StoreName,
    StoreOutcome,
    Verb,
)
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.requests import Applied
from ciliumipam.store import (
    Expect,
    Listing,
    Store,
    SupportsOrderedPuts,
    SupportsPutTogether,
    SupportsRoom,
    SupportsWatch,
    Write,
)


class Meter:
    """The lock of one `Ipam` that has an observer: what is noted under it is told when it has been released.

    Args:
        observer: Who is told.
        timer: Seconds from any start; it should not go back.
    """

    def __init__(self, observer: Observer, timer: Callable[[], float]) -> None:
        self.timer = timer
        self._observer = observer
        self._lock = Lock()
        self._events: list[Event] = []
        self._retries = 0
        self._begin = 0.0
        self._failures = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._begin = self.timer()
        self._retries = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        events, self._events = self._events, []
        self._lock.release()
        for event in events:
            self.tell(event)

    def decided(self, calls: int) -> None:
        """Note, under the lock, that calls were decided since it was taken or since the last such note."""
        now = self.timer()
        self._events.append(Decided(calls, self._retries, now - self._begin))
        self._begin, self._retries = now, 0

    def asked(self, store: StoreName, verb: Verb, begin: float, error: BaseException | None) -> None:
        """Note, under the lock, that a store was asked for something at `begin`."""
        if error is None:
            self._events.append(StoreCalled(store, verb, "ok", self.timer() - begin))
            return
        outcome = _store_outcome(error)
        self._retries += outcome in ("conflict", "unknown")
        self._events.append(StoreCalled(store, verb, outcome, self.timer() - begin, type(error)))

    def tell(self, event: Event) -> None:
        """Tell the observer, not under the lock. What it raises is logged: the first, second, fourth, eighth, ... time."""
        try:
            self._observer.observe(event)
        except Exception:  # whatever it is: what was done is done, and its caller has to hear of that
            import logging  # noqa: PLC0415 - loaded only for this

            self._failures += 1  # two threads may count one: the number is for people
            if self._failures.bit_count() == 1:
                log = logging.getLogger("ciliumipam.observer")
                log.exception("the observer failed, %d times so far, on %s; no call is affected", self._failures, event)

    def stores(self, store: Store, addresses: Store | None) -> tuple[Store, Store | None]:
        """The stores of an `Ipam`, with every verb timed."""
        other = _timed(addresses, "addresses", self) if addresses is not None and addresses is not store else None
        return _timed(store, "store", self), other


def _store_outcome(error: BaseException) -> StoreOutcome:
    if isinstance(error, ConflictError):
        return "conflict"
    if isinstance(error, StoreUnavailableError):
        return "unknown" if error.unknown else "unavailable"
    return "failed"


def _outcome(error: BaseException) -> Outcome:
    match error:
        case InvalidError():
            return "invalid"
        case StateError():
            return "state"
        case ExhaustedError():
            return "exhausted"
        case StoreError():
            return "store"
        case _:
            return "unexpected"


# ------------------------------------------------------------------------------------------------ the calls


class _Metered(Protocol):
    _meter: Meter | None


_W = TypeVar("_W", bound=_Metered)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def observed(call: CallName) -> Callable[[Callable[Concatenate[_W, _P], _R]], Callable[Concatenate[_W, _P], _R]]:
    """Make a method tell the observer of its object, if it has one, how it ended."""

    def decorate(method: Callable[Concatenate[_W, _P], _R]) -> Callable[Concatenate[_W, _P], _R]:
        @wraps(method)
        def metered(self: _W, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            meter = self._meter
            if meter is None:
                return method(self, *args, **kwargs)
            begin = meter.timer()
            try:
                result = method(self, *args, **kwargs)
            except BaseException as error:
                meter.tell(Called(call, _outcome(error), meter.timer() - begin, type(error)))
                raise
            refusals = len(result.refusals) if isinstance(result, Applied) else 0
            meter.tell(Called(call, "ok", meter.timer() - begin, None, refusals))
            return result

        return metered

    return decorate


# ------------------------------------------------------------------------------------------------ the stores


class _Asked:
    """Times one verb."""

    __slots__ = ("_begin", "_meter", "_store", "_verb")

    def __init__(self, meter: Meter, store: StoreName, verb: Verb) -> None:
        self._meter, self._store, self._verb = meter, store, verb

    def __enter__(self) -> None:
        self._begin = self._meter.timer()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._meter.asked(self._store, self._verb, self._begin, error)


class _TimedStore:
    """A store whose verbs are timed."""

    def __init__(self, store: Store, name: StoreName, meter: Meter) -> None:
        self._store, self._name, self._meter = store, name, meter

    def get(self, key: Key) -> Entry | None:
        with _Asked(self._meter, self._name, "get"):
            return self._store.get(key)

    def scan(self, kind: Kind) -> Listing:
        with _Asked(self._meter, self._name, "scan"):
            return self._store.scan(kind)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        with _Asked(self._meter, self._name, "put"):
            return self._store.put(key, record, expect=expect)

    def delete(self, key: Key, *, expect: Revision) -> None:
        with _Asked(self._meter, self._name, "delete"):
            self._store.delete(key, expect=expect)

    def close(self) -> None:
        self._store.close()


class _TimedOrderedStore(_TimedStore):
    """One that can also do several puts in one go."""

    def __init__(self, store: Store, ordered: SupportsOrderedPuts, name: StoreName, meter: Meter) -> None:
        super().__init__(store, name, meter)
        self._ordered = ordered  # the same object; Python has no type for being both

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        with _Asked(self._meter, self._name, "put_in_order"):
            return self._ordered.put_in_order(writes)


def _timed(store: Store, name: StoreName, meter: Meter) -> Store:
    timed = _TimedOrderedStore(store, store, name, meter) if isinstance(store, SupportsOrderedPuts) else _TimedStore(store, name, meter)
    if isinstance(store, SupportsPutTogether):
        together = store.put_together

        def put_together(writes: Sequence[Write]) -> list[Revision]:
            with _Asked(meter, name, "put_together"):
                return together(writes)

        vars(timed)["put_together"] = put_together
    if isinstance(store, SupportsRoom):
        vars(timed)["room"] = store.room  # as it is: a hint, which may be left out
    if isinstance(store, SupportsWatch):
        vars(timed)["watch"] = store.watch  # as it is: a watch waits, and how long says nothing of the store
    return timed
