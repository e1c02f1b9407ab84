"""What a call may have done that broke off, or that others came before: what the oracle has to read again, and what must be as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ciliumipam.pool import PoolSpec
from ciliumipam.requests import (
    Allocate,
    Apply,
    Drain,
    ForceRelease,
    Grow,
    HandBack,
    Migrate,
    Rebalance,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
    RequestAddresses,
    Shrink,
)
from ciliumipam.testing.churn_calls import existing_blocks
from ciliumipam.testing.ipam_oracle import IpamOracle
from ciliumipam.testing.oracle_values import Asked, HeldBlock, Reading
from ciliumipam.testing.pool_oracle import OraclePool


def learn(oracle: IpamOracle, reading: Reading, request: Request, twins: Mapping[PoolSpec, OraclePool], *, stale: bool) -> None:
    """Let the oracle take over what a call did, all of it, a part or nothing.

    Args:
        oracle: What was acknowledged.
        reading: What the records say now.
        request: What was asked.
        twins: The oracle's pool of each pool.
        stale: Whether the caller may not have known what others did.

    Raises:
        AssertionError: The call did what it was not asked for.
    """
    match request:
        case Apply():
            given = {spec.name: twins[spec] for spec in request.pools}
            labels = {node.name: dict(node.labels) for node in request.nodes}
            adopting = [(each.node, each.network) for each in existing_blocks(request)]
            oracle.learn(reading, pools=given, nodes=labels, carving=True, adopting=adopting)
        case Allocate() | Release():
            pods = [(request.node, owner) for owner in request.owners]
            taking = isinstance(request, Allocate)
            losing = oracle.ghosts & {*pods} if taking else pods
            oracle.learn(reading, gaining=pods if taking else [], losing=losing, stale=stale)
        case ReleaseFenced() | ForceRelease():
            pod = oracle.holder(request.space, request.address)
            oracle.learn(reading, losing=[pod] if pod is not None else [], stale=stale)
        case Grow():
            oracle.learn(reading, carving=True)
        case Drain():
            known = oracle.pools.get(request.name) if request.kind == "pool" else None
            given = {known.name: replace(known, draining=not request.cancel)} if known is not None else {}

            def leaving(node: str, block: HeldBlock) -> bool:
                where = {"pool": block.pool, "node": node, "block": str(block.network)}[request.kind]
                return where == request.name and not request.cancel

            oracle.learn(reading, pools=given, leaving=leaving, carving=True, marking=request.kind != "pool")
        case Migrate():

            def moving(node: str, block: HeldBlock) -> bool:
                return node == request.node and (block.pool != request.pool or oracle.is_orphan(block))

            oracle.learn(reading, leaving=moving, carving=True, marking=True)
        case RequestAddresses():
            asked: Asked = {(pool, family): count for pool, family, count in request.demand}
            oracle.learn(reading, carving=True, asking={request.node: asked})
        case HandBack():
            place = request.space, request.block.to_network()
            oracle.learn(reading, leaving=lambda node, block: node == request.node and (block.space, block.network) == place)
        case RemoveNode():
            oracle.learn(reading, leaving=lambda node, _: node == request.name, dropping=request.force, removing=request.name)
        case RemovePool():
            oracle.learn(reading, pools={request.name: None})
        case Shrink() | Rebalance():
            raise AssertionError("no life asks for it: tests/test_vacate.py judges it")


__all__ = ["learn"]
