"""Makes calls of adapters; whatever comes of one is an outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any

from ciliumipam.testing.threads import together
from ciliumipam.testing.torture.protocol import (
    Allocator,
    Call,
    CallFailedError,
    CallHungError,
    CallRefusedError,
    Done,
    Exhausted,
    Failed,
    Given,
    Outcome,
    RangeExhaustedError,
    Refused,
    SupportsRestart,
    SupportsWriters,
    Writer,
)


def check(allocator: Allocator) -> None:
    """See that an adapter has the methods of what it claims.

    Raises:
        TypeError: It lacks one.
    """
    claims = allocator.claims
    if claims.restarts and not isinstance(allocator, SupportsRestart):
        raise TypeError(f"{type(allocator).__name__} claims restarts and has no method 'restart'")
    if claims.writers != "one" and not isinstance(allocator, SupportsWriters):
        raise TypeError(f"{type(allocator).__name__} claims two writers and has no method 'another'")


def outcome_of(writer: Writer, call: Call) -> Outcome:
    """Make a call."""
    try:
        if call.verb == "release":
            writer.release(call.owner, call.address)
            return Done()
        answer: Any = writer.allocate(call.owner, call.address)
    except RangeExhaustedError as error:
        return Exhausted(str(error))
    except CallRefusedError as error:
        return Refused(str(error))
    except Exception as error:  # noqa: BLE001 - whatever a stranger's allocator raises is the finding
        return failed(error)
    try:
        return Given(ip_address(str(answer)))
    except ValueError:
        return Failed(f"it answered {answer!r}, which is no address")


def outcomes_at_once(writers: Sequence[Writer], calls: Sequence[Call]) -> list[Outcome]:
    """Make calls at once, each in a thread of its own; the outcomes in the order of the calls."""
    works: list[Callable[[], Outcome]] = [partial(outcome_of, writers[call.writer], call) for call in calls]
    return together(*works)


def failed(error: Exception) -> Failed:
    """The outcome that an exception stands for."""
    text = str(error) if isinstance(error, CallFailedError) else f"{type(error).__name__}: {error}"
    return Failed(text, isinstance(error, CallHungError))
