"""Steps of `churn` that ask something of an `Ipam`: as requests, as calls, and their answers as the oracle takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, TypeAlias

from ciliumipam.cidr import parse_prefix
from ciliumipam.demand import Demand
from ciliumipam.ipam import Ipam
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import (
    Allocate,
    Applied,
    Apply,
    Drain,
    ExistingBlock,
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
from ciliumipam.testing.oracle_values import Existing, Told
from ciliumipam.testing.pool_values import Values, nodes_of

Step: TypeAlias = dict[str, Any]
"""What is done, in what JSON can hold; "do" names it."""


def to_request(step: Step, know: Callable[[Values], PoolSpec]) -> Request:
    """What a step asks; `know` makes a pool out of its plain values.

    Raises:
        ValueError: It asks nothing, or no step is called so.
    """
    match step["do"]:
        case "apply":
            existing = step.get("existing", ())
            return Apply(
                tuple(know(values) for values in step.get("pools", ())),
                nodes_of(step.get("nodes", {})),
                tuple(ExistingBlock(node, parse_prefix(text), pool, since, "a test") for node, text, pool, since in existing),
            )
        case "allocate":
            address = ip_address(step["address"]) if step.get("address") else None
            return Allocate(step["node"], tuple(step["owners"]), address, step.get("family"), step.get("label", ""))
        case "release":
            return Release(step["node"], tuple(step["owners"]), bool(step.get("missing_ok")))
        case "release fenced":
            return ReleaseFenced(ip_address(step["address"]), step["fence"], step["space"])
        case "force release":
            return ForceRelease(ip_address(step["address"]), step["space"])
        case "grow":
            return Grow(step["node"], step["blocks"])
        case "drain":
            return Drain(step["kind"], step["name"], bool(step.get("cancel")), step.get("space", "default"))
        case "migrate":
            return Migrate(step["node"], step["pool"])
        case "request":
            return RequestAddresses(step["node"], tuple(Demand(*each) for each in step["demand"]))
        case "hand back":
            return HandBack(step["node"], parse_prefix(step["block"]), step.get("fence"), step.get("space", "default"))
        case "remove node":
            return RemoveNode(step["node"], bool(step.get("force")))
        case "remove pool":
            return RemovePool(step["pool"])
        case other:
            raise ValueError(f"no step is called {other!r}")


def perform(ipam: Ipam, request: Request) -> Any:
    """Make the call that a request stands for."""
    match request:
        case Apply():
            return ipam.apply(request.pools, request.nodes, request.existing)
        case Allocate(node, owners, address, family, label):
            return ipam.allocate(node, *owners, address=address, family=family, label=label)
        case Release(node, owners, missing_ok):
            return ipam.release(node, *owners, missing_ok=missing_ok)
        case ReleaseFenced(address, fence, space):
            return ipam.release_fenced(address, fence, space)
        case ForceRelease(address, space):
            return ipam.force_release(address, space)
        case Grow(node, blocks):
            return ipam.grow(node, blocks)
        case Drain():
            return ipam.drain(request.kind, request.name, cancel=request.cancel, space=request.space)
        case Migrate(node, pool):
            return ipam.migrate(node, pool)
        case Shrink(pool, cidrs):
            return ipam.shrink(pool, *cidrs)
        case Rebalance(pool, length, family):
            return ipam.rebalance(pool, length, family=family)
        case RequestAddresses(node, demand):
            return ipam.request(node, demand)
        case HandBack(node, block, fence, space):
            return ipam.hand_back(node, block, fence=fence, space=space)
        case RemoveNode(name, force):
            return ipam.remove_node(name, force=force)
        case RemovePool(name):
            return ipam.remove_pool(name)


def to_told(answer: Applied) -> Told:
    """An outcome as the oracle takes it."""
    return Told(
        frozenset(refusal.node for refusal in answer.refusals),
        tuple((each.existing.node, each.existing.prefix.to_network()) for each in answer.conflicts),
        frozenset((each.node, each.block) for each in answer.blockers),
    )


def existing_blocks(request: Apply) -> Sequence[Existing]:
    """What an apply adopts, as the oracle takes it."""
    return [Existing(each.node, each.prefix.to_network(), each.pool, each.since) for each in request.existing]


__all__ = ["Step", "existing_blocks", "perform", "to_request", "to_told"]
