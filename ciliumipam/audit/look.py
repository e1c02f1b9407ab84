"""Looking at a store, or two, until what is seen stands still; and one examination of one look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from typing import NamedTuple, TypeVar

from ciliumipam.audit.claims import Claims
from ciliumipam.audit.draining import notice_draining
from ciliumipam.audit.findings import Finding, Findings
from ciliumipam.audit.leases import notice_leases
from ciliumipam.audit.notices import notice_blocks, notice_nodes, notice_pools
from ciliumipam.audit.snapshot import Snapshot
from ciliumipam.audit.tree import Tree
from ciliumipam.errors import CorruptRecordError
from ciliumipam.lease import Moment
from ciliumipam.pool import PoolSpec
from ciliumipam.records import (
    ADDRESS_KINDS,
    KINDS,
    ClaimPage,
    Holding,
    Key,
    Kind,
    Lease,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Revision,
)
from ciliumipam.store import Store

_LOOKS = 5
_R = TypeVar("_R", bound=Record)


class Audit(NamedTuple):
    """What an audit has found.

    Attributes:
        findings: All findings, errors first, then by place.
        counts: How many of what were looked at.
        blocks: What counts as held by nodes.
        pools: The pools that there are.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, int]
    blocks: tuple[Holding, ...] = ()
    pools: tuple[PoolSpec, ...] = ()


def audit(
    store: Store,
    addresses: Store | None = None,
    *,
    clock: Callable[[], float] = time,
    moment: Callable[[], Moment] | None = None,
) -> Audit:
    """Verify a store, or two, without writing.

    Args:
        store: Where pools, nodes and blocks are kept.
        addresses: Where addresses are kept; the same store if not given.
        clock: Seconds since the epoch, to tell what cools for too long.
        moment: The time in which the leases of this machine count, as `boot.this_moment`; without it none counts as ended.

    Raises:
        StoreError: The store cannot be read. A record that is corrupt is a finding instead.

    Complexity:
        O(records), each page counting its slots; the selectors of all pools are tried for nodes that hold no block. Reads
        everything twice where something looks wrong, and up to five times where others keep writing.
    """
    now = clock()
    looked = _look(store, addresses)
    result = _examine(looked, now, moment)
    for _ in range(_LOOKS - 1):
        if all(finding.severity == "notice" for finding in result.findings):
            break
        again = _look(store, addresses)
        if again.revisions == looked.revisions:
            break
        seen = set(result.findings)
        looked, result = again, _examine(again, now, moment)
        lasting = [each for each in result.findings if each in seen or each.severity == "notice"]
        result = result._replace(findings=tuple(lasting))
    return result


class _Look(NamedTuple):
    """Everything, as listed kind by kind."""

    records: dict[Kind, dict[Key, Record]]
    revisions: list[list[tuple[Key, Revision]]]
    corrupt: Findings


def _look(store: Store, addresses: Store | None) -> _Look:
    look = _Look({}, [], Findings())
    for kind in KINDS:
        try:
            listing = (addresses if addresses is not None and kind in ADDRESS_KINDS else store).scan(kind)
        except CorruptRecordError as error:
            what = f"the record cannot be read: {error.reason}; nothing of its kind was checked, nor what depends on it"
            look.corrupt.error(what, error.key)
            continue
        look.records[kind] = {key: entry.record for key, entry in listing.entries}
        look.revisions.append([(key, entry.revision) for key, entry in listing.entries])
    return look


def _examine(look: _Look, now: float, moment: Callable[[], Moment] | None) -> Audit:
    corrupt = look.corrupt.in_order()
    if corrupt:
        return Audit(corrupt, {f"{kind} records": len(found) for kind, found in look.records.items()})
    findings = Findings()
    records = look.records
    pools = _named(findings, _typed(findings, records["pool"], PoolRecord), lambda record: record.spec.name)
    nodes = _named(findings, _typed(findings, records["node"], NodeRecord), lambda record: record.node.name)
    pages = _typed(findings, records["block-page"], Page) | _typed(findings, records["address-page"], Page)
    block_claims = _typed(findings, records["block-claims"], ClaimPage)
    address_claims = _typed(findings, records["address-claims"], ClaimPage)

    claims = Claims(findings, block_claims, address_claims)
    tree = Tree(findings, pages, claims.last_fence, nodes.keys(), now)
    claims.check(tree.blocks, tree.addresses, nodes.keys())
    snapshot = Snapshot(pools, nodes, tree.blocks, tree.addresses, block_claims.values())
    notice_pools(findings, snapshot)
    notice_draining(findings, snapshot)
    notice_blocks(findings, snapshot)
    notice_nodes(findings, snapshot)
    leases = _named(findings, _typed(findings, records["lease"], Lease), lambda lease: lease.node)
    notice_leases(findings, leases.values(), moment() if moment is not None else None)
    counts = {
        "pools": len(pools),
        "nodes": len(nodes),
        "blocks": len(tree.blocks),
        "addresses": len(tree.addresses),
        "pages": len(tree.pages),
        "claims": sum(len(page.claims) for page in (*block_claims.values(), *address_claims.values())),
    }
    return Audit(findings.in_order(), counts, tuple(snapshot.blocks), tuple(record.spec for record in pools.values()))


def _typed(findings: Findings, records: Mapping[Key, Record], kind: type[_R]) -> dict[Key, _R]:
    """The records that are of their kind."""
    found: dict[Key, _R] = {}
    for key, record in records.items():
        if isinstance(record, kind):
            found[key] = record
        else:
            findings.error(f"the record is a {type(record).__name__}, which is not of its kind", key)
    return found


def _named(findings: Findings, records: Mapping[Key, _R], name_of: Callable[[_R], str]) -> dict[str, _R]:
    """Pools or nodes by the names that they have inside."""
    found: dict[str, _R] = {}
    for key, record in records.items():
        name = name_of(record)
        found[name] = record
        if name != key.name:
            findings.error(f"the record is of {key.kind} {name!r}", key)
    return found
