"""Leases of nodes that keep addresses in a store of their own, where they do not hold: then the node gives out no address."""

from __future__ import annotations

from collections.abc import Iterable

from ciliumipam.audit.findings import Findings
from ciliumipam.lease import Moment
from ciliumipam.records import Lease


def notice_leases(findings: Findings, leases: Iterable[Lease], moment: Moment | None) -> None:
    """Leases that do not hold at a time of this machine; without a time, those that no time could make hold. O(leases)."""
    for lease in leases:
        if lease.boot:  # without one it is the beat of a node in the store that nodes share, from which nothing is allocated
            why = lease.reason or (_ended(lease, moment) if moment is not None else "")
            if why:
                repair = f"see that 'ciliumipam agent {lease.node}' runs and reaches the store that decides about blocks"
                findings.notice(f"it gives out no address: {why}; what is held stays", f"node {lease.node}", repair)


def _ended(lease: Lease, moment: Moment) -> str:
    if lease.boot != moment.boot:
        return "since its blocks were last confirmed this machine was started, or it is another one"
    age = moment.seconds - lease.confirmed
    if 0 <= age <= lease.stop_after:
        return ""
    return f"its blocks were last confirmed {age:.0f} s ago, and that holds for {lease.stop_after:g} s"
