"""What node objects say against what the ledgers hold, and our pools against Cilium's own. Raw objects in, findings out; pure.

`ciliumipam.audit` judges the records by themselves. This adds what only a cluster has: the objects that agents of nodes really go by.
It reads them with nothing but `ipaddress`, so it shares nothing with the operator that wrote them.

CIDRs lie in each other or apart, never across. So one walk over all of them, sorted, with the ones that are open on a stack, meets
every pair that overlaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ciliumipam.audit import Finding
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Holding

KIND: Final = "ciliumipam.io/kind"
IGNORE: Final = "ipam.cilium.io/ignore"
CLUSTER_POOL_KEYS: Final = ("cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr")

_Network: TypeAlias = IPv4Network | IPv6Network
_Kind: TypeAlias = Literal["cluster pool", "pool", "block", "said"]
_SHOWN = 3


class ClusterObjects(NamedTuple):
    """What is read of a cluster, as the API gives it.

    Attributes:
        nodes: Nodes of the core group.
        cilium_nodes: CiliumNodes; none where they are not installed.
        cilium_config: The data of ConfigMap kube-system/cilium-config; empty where there is none.
        unlabelled: CIDRLedgers that no listing of a kind of records finds, since their label is lost or names no kind.
    """

    nodes: Sequence[Mapping[str, Any]]
    cilium_nodes: Sequence[Mapping[str, Any]] = ()
    cilium_config: Mapping[str, str] = MappingProxyType({})
    unlabelled: Sequence[Mapping[str, Any]] = ()


class _Piece(NamedTuple):
    """A CIDR and who has it: a node's name, a pool's, or the key in Cilium's configuration."""

    network: _Network
    kind: _Kind
    owner: str
    where: str = ""
    is_ours: bool = True


def audit_cluster(
    blocks: Iterable[Holding], pools: Iterable[PoolSpec], objects: ClusterObjects
) -> tuple[tuple[Finding, ...], dict[str, int]]:
    """Compare what nodes go by with what the ledgers hold.

    Args:
        blocks: What the ledgers show as held.
        pools: All pools.
        objects: What the cluster says.

    Returns:
        The findings, and how many of what were looked at.

    Complexity:
        O(n log n) for n CIDRs, and the pairs of those that overlap.
    """
    held = [_Piece(_network_of(block), "block", block.holder) for block in blocks]
    found: list[Finding] = []
    said = [*_said(found, "Node", objects.nodes), *_said(found, "CiliumNode", objects.cilium_nodes)]
    cluster = _cluster_pools(found, objects.cilium_config)
    ours = [_Piece(ip_network(str(cidr)), "pool", spec.name) for spec in pools for cidr in spec.cidrs]
    pairs = list(_overlapping([*cluster, *ours, *held, *said]))
    rightly = {(piece.owner, piece.network) for piece in held}
    found += _unheld(said, pairs, rightly)
    found += _twice(pairs, rightly)
    found += _against_cilium(pairs)
    known = {_name(each) for each in (*objects.nodes, *objects.cilium_nodes)}
    found += _unpublished(held, said, known)
    found += _left_over(held, objects)
    found += _unlabelled(objects.unlabelled)
    counts = {
        "Nodes": len(objects.nodes),
        "CiliumNodes": len(objects.cilium_nodes),
        "CIDRs that they say": len({(piece.owner, piece.network) for piece in said}),
    }
    return tuple(dict.fromkeys(found)), counts


# --------------------------------------------------------------------------------------------------- reading


def _said(found: list[Finding], kind: str, objects: Iterable[Mapping[str, Any]]) -> Iterator[_Piece]:
    """What node objects say; what of it is no CIDR is told."""
    for manifest in objects:
        name, where = _name(manifest), f"{kind} {_name(manifest)}"
        annotations = (manifest.get("metadata") or {}).get("annotations") or {}
        is_ours = kind == "Node" or annotations.get(IGNORE) == "true"
        for text in _cidrs(kind, manifest.get("spec") or {}):
            network = _parse(text)
            if network is None:
                what = f"it says {text!r}, which is no CIDR, so nobody can tell what the node uses"
                found.append(Finding("error", what, where, f"mend it: kubectl edit {kind.lower()} {name}"))
            else:
                yield _Piece(network, "said", name, where, is_ours)


def _cidrs(kind: str, spec: Mapping[str, Any]) -> Iterator[object]:
    if kind == "Node":
        yield from spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
        return
    ipam = spec.get("ipam") or {}
    yield from ipam.get("podCIDRs") or ()
    for entry in (ipam.get("pools") or {}).get("allocated") or ():
        yield from entry.get("cidrs") or ()


def _cluster_pools(found: list[Finding], config: Mapping[str, str]) -> list[_Piece]:
    """The CIDRs out of which Cilium's own operator serves; none where it serves by another mode."""
    if config.get("ipam", "cluster-pool") != "cluster-pool":
        return []
    pieces = []
    for key in CLUSTER_POOL_KEYS:
        for text in config.get(key, "").replace(",", " ").split():
            network = _parse(text)
            if network is None:
                what = f"{key} has {text!r}, which is no CIDR"
                found.append(Finding("notice", what, "ConfigMap kube-system/cilium-config", "mend it there"))
            else:
                pieces.append(_Piece(network, "cluster pool", key))
    return pieces


def _parse(text: object) -> _Network | None:
    """The network, host bits cut off as every agent does; None for what is none."""
    try:
        return ip_network(text, strict=False) if isinstance(text, str) and "/" in text else None
    except ValueError:
        return None


def _network_of(block: Holding) -> _Network:
    family = IPv4Network if block.family == 4 else IPv6Network
    return family((block.network, block.length))


def _name(manifest: Mapping[str, Any]) -> str:
    return str((manifest.get("metadata") or {}).get("name", ""))


# --------------------------------------------------------------------------------------------------- judging


def _overlapping(pieces: Iterable[_Piece]) -> Iterator[tuple[_Piece, _Piece]]:
    """Every pair that shares addresses, the wider one first."""
    order: dict[_Kind, int] = {"cluster pool": 0, "pool": 1, "block": 2, "said": 3}

    def place(piece: _Piece) -> tuple[int, int, int, int, str, str]:
        network = piece.network
        return network.version, int(network.network_address), network.prefixlen, order[piece.kind], piece.owner, piece.where

    around: list[_Piece] = []
    for piece in sorted(pieces, key=place):
        while around and not _covers(around[-1].network, piece.network):
            around.pop()
        for outer in around:
            yield outer, piece
        around.append(piece)


def _covers(outer: _Network, inner: _Network) -> bool:
    return outer.version == inner.version and int(inner.network_address) <= int(outer.broadcast_address)


def _unheld(
    said: Iterable[_Piece], pairs: Iterable[tuple[_Piece, _Piece]], rightly: set[tuple[str, _Network]]
) -> Iterator[Finding]:
    """What nodes say and no ledger shows as theirs."""
    wrong = [piece for piece in said if (piece.owner, piece.network) not in rightly]
    meets: dict[_Piece, list[_Piece]] = {piece: [] for piece in wrong}
    for pair in pairs:
        for piece, other in (pair, pair[::-1]):
            if piece in meets and other.kind in ("block", "pool"):
                meets[piece].append(other)
    for piece in wrong:
        blocks = [other for other in meets[piece] if other.kind == "block"]
        pool = next((other.owner for other in meets[piece] if other.kind == "pool"), None)
        kind = piece.where.partition(" ")[0].lower()
        edit = f"kubectl edit {kind} {piece.owner}" if kind == "ciliumnode" else f"delete the Node {piece.owner} and let it join anew"
        others = [f"{other.network} of node {other.owner}" for other in blocks if other.owner != piece.owner]
        if others:
            what = f"it says {piece.network}, and the ledger has given {_some(others)}: pods of two nodes may have one address"
            repair = f"stop the pods of node {piece.owner} that have addresses of it, then take it out: {edit}; the operator gives another one"
            yield Finding("error", what, piece.where, repair)
        elif blocks:
            what = f"it says {piece.network}, and the ledger has given the node {_some([str(other.network) for other in blocks])} instead"
            yield Finding("error", what, piece.where, f"stop the pods outside of that, then mend it: {edit}")
        elif pool is not None:
            what = f"it says {piece.network}, which is of pool {pool!r}, and no ledger shows it as held: another node may be given it"
            repair = f"the operator adopts it in its next round; if it runs and cannot, it says why: kubectl describe {kind} {piece.owner}"
            yield Finding("error", what, piece.where, repair)
        elif piece.is_ours and kind == "ciliumnode":
            what = f"it says {piece.network}, which is of no pool and in no ledger, so only this node knows of it"
            repair = f"apply a CIDRPool that covers it, and the operator adopts it; or take it out: {edit}"
            yield Finding("notice", what, piece.where, repair)


def _twice(pairs: Iterable[tuple[_Piece, _Piece]], rightly: set[tuple[str, _Network]]) -> Iterator[Finding]:
    """What two nodes say, unless the ledgers gave it to both (in two address spaces)."""
    for left, right in pairs:
        if left.kind == right.kind == "said" and left.owner != right.owner:
            if all((piece.owner, piece.network) in rightly for piece in (left, right)):
                continue
            what = f"{left.where} says {left.network} and {right.where} says {right.network}: pods of two nodes may have one address"
            repair = f"stop the pods of one of the two nodes, and take it out of that object; whose it is: ciliumipam get blocks {left.network}"
            yield Finding("error", what, right.where, repair)


def _against_cilium(pairs: Iterable[tuple[_Piece, _Piece]]) -> Iterator[Finding]:
    """Our pools and Cilium's, of which neither operator knows what the other one gives."""
    for pair in pairs:
        if {piece.kind for piece in pair} == {"cluster pool", "pool"}:
            theirs, ours = sorted(pair, key=lambda piece: piece.kind)
            what = (
                f"its {ours.network} overlaps {theirs.network}, out of which Cilium's own operator serves nodes"
                f" ({theirs.owner} in ConfigMap kube-system/cilium-config), and neither knows what the other one gave"
            )
            repair = "give the pool CIDRs outside of it, or take them out of Cilium's cluster pool"
            yield Finding("error", what, f"pool {ours.owner}", repair)


def _unpublished(held: Iterable[_Piece], said: Iterable[_Piece], known: set[str]) -> Iterator[Finding]:
    """What the ledgers hold for a node that is there, and no object says."""
    told = {(piece.owner, piece.network) for piece in said}
    served = {(piece.owner, piece.network.version) for piece in held if (piece.owner, piece.network) in told}
    for piece in held:
        if piece.owner in known and (piece.owner, piece.network) not in told:
            what = f"node {piece.owner} holds it, and no object says so, so the node does not use it"
            if (piece.owner, piece.network.version) in served:
                yield Finding("notice", what, f"block {piece.network}", "nothing needs to be done where the node can use one block only")
            else:
                repair = f"the operator writes it in its next round; if it runs and cannot, it says why: ciliumipam explain {piece.owner}"
                yield Finding("unfinished", what, f"block {piece.network}", repair)


def _left_over(held: Iterable[_Piece], objects: ClusterObjects) -> Iterator[Finding]:
    """CiliumNodes that hold blocks of ours and have no Node, in a cluster that has Nodes."""
    nodes = {_name(each) for each in objects.nodes}
    blocks: dict[str, list[str]] = {}
    for piece in held:
        blocks.setdefault(piece.owner, []).append(str(piece.network))
    for name in sorted({_name(each) for each in objects.cilium_nodes} - nodes) if nodes else ():
        if name in blocks:
            what = f"there is no Node of this name, and as long as this object is there, its blocks do not go back: {_some(blocks[name])}"
            repair = f"if the machine is gone for good: kubectl delete ciliumnode {name}; the operator takes its blocks back after the grace time"
            yield Finding("notice", what, f"CiliumNode {name}", repair)


def _unlabelled(ledgers: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    for manifest in ledgers:
        name, kind = _name(manifest), (manifest.get("spec") or {}).get("kind")
        label = ((manifest.get("metadata") or {}).get("labels") or {}).get(KIND)
        what = f"its label {KIND} is {label!r}, so it is left out of every listing, and what it holds counts as unknown"
        yield Finding("error", what, f"cidrledgers {name}", f"kubectl label --overwrite cidrledger {name} {KIND}={kind}")


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
