"""How long a node may rely on what it was told: the rule of the lease. `docs/explanation/node.md` argues it.

A node that keeps its addresses in a store of its own has a `Lease` there. Where there is none, the store itself decides about the
blocks, and nothing expires. A lease is good for `stop_after` seconds from the moment at which its last confirmation was *asked for*:
what the answer says was true at that moment or later. Seconds are those since the machine was started, suspension included
(CLOCK_BOOTTIME on Linux), so that nobody who sets a clock makes a lease longer, and a laptop that slept finds it expired.
"""

from __future__ import annotations

from typing import NamedTuple

from ciliumipam.errors import LeaseExpiredError
from ciliumipam.records import Key, Lease


class Moment(NamedTuple):
    """A time on one machine: the id of its start, and the seconds since then, those included in which it slept."""

    boot: str
    seconds: float


NEVER = Moment("", 0.0)
"""No time at all: whoever has only this can rely on no lease."""


def lease_key(node: str) -> Key:
    """Where the lease of a node is kept."""
    return Key("lease", node)


def why_expired(lease: Lease, moment: Moment) -> str:
    """Why nobody may rely on a lease at a time, as part of a sentence; "" if everybody may."""
    if lease.reason:
        return lease.reason
    if not lease.boot:
        return "its claim on its blocks was never confirmed"
    if moment.boot != lease.boot:
        return "the machine was started since its claim on its blocks was last confirmed, or this is another machine"
    age = moment.seconds - lease.confirmed
    if age < 0 or age > lease.stop_after:
        return f"its claim on its blocks was last confirmed {age:.0f} s ago, and holds for {lease.stop_after:g} s"
    return ""


def require(lease: Lease | None, moment: Moment) -> None:
    """Refuse to go on where a lease does not hold.

    Raises:
        LeaseExpiredError: It does not.
    """
    if lease is not None and (reason := why_expired(lease, moment)):
        raise LeaseExpiredError(lease.node, reason)
