"""What a CIDRPool's status says: counts, and conditions with sentences for people. Pure: a `PoolStatus` in, plain values out.

| condition | True | False |
|---|---|---|
| Ready | it gives blocks to nodes | it is invalid, conflicts, drains or has nothing left: the message says which |
| Conflicting | it overlaps an older pool, and serves nobody | |
| Exhausted | a family of it has no block left to give | |
| Draining | it takes no new nodes; those that hold blocks keep them | |

`lastTransitionTime` is when the condition's status changed, and stays where only words change, as the API conventions want it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ciliumipam.names import shorten
from ciliumipam.requests import PoolStatus
from ciliumipam.words import counted

ConditionType: TypeAlias = Literal["Ready", "Conflicting", "Exhausted", "Draining"]
TYPES: Final[tuple[ConditionType, ...]] = ("Ready", "Conflicting", "Exhausted", "Draining")
Truth: TypeAlias = Literal["True", "False", "Unknown"]
MAX_MESSAGE: Final = 32_768
"""The longest message that `metav1.Condition` takes, in characters."""
MAX_COUNT: Final = (1 << 63) - 1
"""The largest whole number that the API takes. An IPv6 pool may make more blocks."""


class Finding(NamedTuple):
    """One condition without its times."""

    type: ConditionType
    status: Truth
    reason: str
    message: str


def status_of(
    pool: PoolStatus | None, generation: int, previous: Mapping[str, Any] | None, now: datetime, broken: str = ""
) -> dict[str, Any]:
    """The whole status that a CIDRPool should have.

    Args:
        pool: What became of the pool; None where it cannot be used.
        generation: The object's `metadata.generation` that this was decided over.
        previous: Its status as it is now; where only what this writes is the same, the result equals it.
        now: When it is decided.
        broken: Why it cannot be used; in words.
    """
    known = (previous or {}).get("conditions") or ()
    status: dict[str, Any] = {"observedGeneration": generation}
    if pool is not None:
        for family, space in sorted(pool.spaces.items()):
            counts = {"blocks": space.blocks, "held": space.held, "available": space.available, "cooling": space.cooling}
            largest = {} if space.largest is None else {"largestFree": space.largest}
            status[f"ipv{family}"] = {**{name: min(count, MAX_COUNT) for name, count in counts.items()}, **largest}
        status["orphans"] = pool.orphans
    status["conditions"] = conditions(findings(pool, broken), generation, known, now)
    return status


def findings(pool: PoolStatus | None, broken: str = "") -> tuple[Finding, ...]:
    """What is to be said of a pool, one finding a type."""
    if pool is None:
        why = broken or "it has not been read yet"
        return (
            Finding("Ready", "False", "Invalid" if broken else "Unread", f"It serves nobody: {why}"),
            *(Finding(each, "Unknown", "Unread", "This is not known of a pool that could not be read.") for each in TYPES[1:]),
        )
    empty = [family for family, space in sorted(pool.spaces.items()) if space.available == 0]
    conflicting = _conflicting(pool)
    draining = _draining(pool)
    exhausted = _exhausted(pool, empty)
    first = next((each for each in (conflicting, draining, exhausted) if each.status == "True"), None)
    ready = (
        Finding("Ready", "True", "Serving", f"It gives blocks to the nodes that it selects: {_left(pool)}.{_concerns(pool)}")
        if first is None
        else Finding("Ready", "False", first.reason, first.message)
    )
    return ready, conflicting, exhausted, draining


def conditions(
    found: Sequence[Finding], generation: int, previous: Sequence[Mapping[str, Any]], now: datetime
) -> list[dict[str, Any]]:
    """Findings with their times: that of a condition whose status is what it was stays. Others than these are kept.

    Args:
        found: What is to be said.
        generation: What it was decided over.
        previous: The conditions that are there.
        now: The time of those that change.
    """
    known = {each.get("type"): each for each in previous}
    result = []
    for each in found:
        old = known.get(each.type) or {}
        since = old.get("lastTransitionTime") if old.get("status") == each.status else None
        result.append(
            {
                "type": each.type,
                "status": each.status,
                "observedGeneration": generation,
                "lastTransitionTime": since or _text(now),
                "reason": each.reason,
                "message": shorten(each.message, MAX_MESSAGE - 3),
            }
        )
    types = {each.type for each in found}
    return [*result, *(dict(each) for each in previous if each.get("type") not in types)]


def _conflicting(pool: PoolStatus) -> Finding:
    if pool.conflicting is None:
        return Finding("Conflicting", "False", "Disjoint", "No other pool of its address space has any of its addresses.")
    what = (
        f"It overlaps the older pool {pool.conflicting!r}, so it gives nothing to anybody; what its nodes hold they keep."
        " Change the CIDRs of one of the two, or delete one."
    )
    return Finding("Conflicting", "True", "Overlap", what)


def _draining(pool: PoolStatus) -> Finding:
    if not pool.spec.draining:
        return Finding("Draining", "False", "Serving", "It is not being drained.")
    held = sum(space.held for space in pool.spaces.values())
    if held == 0:
        return Finding("Draining", "True", "Drained", "It takes no new nodes, and no node holds a block of it any more: it can be deleted.")
    what = f"It takes no new nodes; {counted(held, 'block of it is', 'blocks of it are')} still held."
    return Finding("Draining", "True", "Draining", what)


def _exhausted(pool: PoolStatus, empty: Sequence[int]) -> Finding:
    if not empty:
        return Finding("Exhausted", "False", "Available", f"There is room: {_left(pool)}.")
    families = " and ".join(f"IPv{family}" for family in empty)
    what = (
        f"No {families} block is left: {_left(pool)}. Add a CIDR to the pool, use a longer block length,"
        " or take blocks back from nodes that are gone."
    )
    return Finding("Exhausted", "True", "NoBlockLeft", what)


def _left(pool: PoolStatus) -> str:
    return ", ".join(f"{space.available} of {space.blocks} IPv{family} blocks are free" for family, space in sorted(pool.spaces.items()))


def _concerns(pool: PoolStatus) -> str:
    return "".join(f" But {each}." for each in pool.concerns)


def _text(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
