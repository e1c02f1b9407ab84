"""What annotations of a CiliumNode tell the agent of its node, and what they tell us when it takes a block off its object. Pure.

* `ciliumipam.io/blocks`: the fence under which the node holds each block that `pools.allocated` lists, in the order in which it got
  them. It is written by the same patch that lists them. So of a block that it names under its present fence and that is listed no more,
  somebody took the block off the object after it had been there: its agent has handed it back.
* `ciliumipam.io/lease`: for how long a silent node may rely on its blocks (`stopAfter`), which of them take nothing new, and what of
  their pools matters for addresses. So an agent needs to read nothing but its own object.
* `ciliumipam.io/agent`: which agent process speaks for the node; written by the agent. It makes the operator write the two others.

Cilium's own agent replaces all annotations of its CiliumNode when it starts and when its Node changes (`pkg/nodediscovery`), and keeps
them when it hands back (`pkg/ipam`, which updates the object at the version that it knows). A lost annotation only costs time: a block
that is listed is annotated again, and one that is listed no more is listed again, unless the operator itself saw it listed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from ciliumipam.cidr import Family, Prefix, parse_prefix
from ciliumipam.demand import Demand, normalize
from ciliumipam.errors import IpamError
from ciliumipam.names import validate_name
from ciliumipam.pool import DEFAULT_SPACE, PoolSpec
from ciliumipam.ranges import format_range
from ciliumipam.records import Holding
from ciliumipam.selector import NodeSelector

BLOCKS: Final = "ciliumipam.io/blocks"
LEASE: Final = "ciliumipam.io/lease"
AGENT: Final = "ciliumipam.io/agent"
ANY_POOL: Final = "*"
"""The name in `pools.requested` that stands for whichever pool serves the node. No pool can have it, and it must not be empty there."""

_FAMILIES: Final[tuple[tuple[str, Family], ...]] = (("ipv4-addrs", 4), ("ipv6-addrs", 6))
_PLAIN = {"reserved": [], "reuseDelay": 0.0, "allowFirst": False, "allowLast": False, "addressPolicy": "next", "seed": 0, "keep": 1, "space": DEFAULT_SPACE}


class Promise(NamedTuple):
    """What a `ciliumipam.io/lease` says.

    Attributes:
        stop_after: Seconds; 0 if it says nothing.
        draining: Blocks that take nothing new.
        pools: What matters of the pools, by name, as in the annotation.
    """

    stop_after: float = 0.0
    draining: frozenset[str] = frozenset()
    pools: Mapping[str, Mapping[str, Any]] = {}

    def spec(self, name: str, blocks: Sequence[Prefix]) -> PoolSpec:
        """A pool as its blocks on the node show it.

        Raises:
            IpamError: What is said is no pool.
        """
        said = {**_PLAIN, **self.pools.get(name, {})}
        return PoolSpec(
            name=name,
            cidrs=blocks,
            selector=NodeSelector.everything(),
            reserved=said["reserved"],
            reuse_delay=said["reuseDelay"],
            allow_first=said["allowFirst"],
            allow_last=said["allowLast"],
            address_policy=said["addressPolicy"],
            seed=said["seed"],
            address_space=said["space"],
        )

    def keep(self, name: str) -> int:
        """How many blocks of each family a pool gives a node at once: fewer would come back."""
        return int(self.pools.get(name, {}).get("keep", 1))


@lru_cache(maxsize=256)
def read_blocks(text: str) -> Mapping[Prefix, int]:
    """The fences of a `ciliumipam.io/blocks`, in its order; what is none is left out."""
    found: dict[Prefix, int] = {}
    for cidr, fence in _object(text).items():
        try:
            prefix = parse_prefix(cidr)
        except IpamError:
            continue
        if type(fence) is int:
            found[prefix] = fence
    return found


@lru_cache(maxsize=256)
def read_promise(text: str) -> Promise:
    """What a `ciliumipam.io/lease` says; nothing if it is none."""
    said = _object(text)
    stop_after, draining, pools = said.get("stopAfter"), said.get("draining", []), said.get("pools", {})
    if type(stop_after) not in (int, float) or not isinstance(draining, list) or not isinstance(pools, dict):
        return Promise()
    return Promise(float(cast("float", stop_after)), frozenset(map(str, draining)), {k: v for k, v in pools.items() if isinstance(v, dict)})


def _object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def blocks_text(held: Iterable[Holding]) -> str:
    """The annotation that names the fences of blocks."""
    return _compact({str(block.prefix): block.fence for block in held})


def promise_text(stop_after: float, held: Sequence[Holding], pools: Mapping[str, PoolSpec], draining: Collection[Holding], *, leaves: bool) -> str:
    """The annotation for a node.

    Args:
        stop_after: For how long it may rely on its blocks.
        held: These.
        pools: All pools.
        draining: Those of them that drain by themselves.
        leaves: Whether the node drains.
    """
    said: dict[str, Any] = {"stopAfter": stop_after}
    idle = [str(block.prefix) for block in held if leaves or block in draining or not _serves(block, pools.get(block.label))]
    if idle:
        said["draining"] = idle
    mine: dict[str, list[Prefix]] = {}
    for block in held:
        mine.setdefault(block.label, []).append(block.prefix)
    told = {name: _of_pool(pools[name], blocks) for name, blocks in sorted(mine.items()) if name in pools}
    if any(told.values()):
        said["pools"] = {name: each for name, each in told.items() if each}
    return _compact(said)


def _serves(block: Holding, pool: PoolSpec | None) -> bool:
    return pool is not None and not pool.draining and pool.address_space == block.space and pool.covers(block.prefix)


def _of_pool(pool: PoolSpec, blocks: Sequence[Prefix]) -> dict[str, Any]:
    reserved = [
        format_range(family, max(first, block.network), min(last, block.last))
        for family, first, last in pool.reserved
        for block in blocks
        if block.family == family and first <= block.last and block.network <= last
    ]
    said = {
        "reserved": reserved,
        "reuseDelay": pool.reuse_delay,
        "allowFirst": pool.allow_first,
        "allowLast": pool.allow_last,
        "addressPolicy": pool.address_policy,
        "seed": pool.seed,
        "keep": pool.blocks_per_node,
        "space": pool.address_space,
    }
    return {key: value for key, value in said.items() if value != _PLAIN[key]}


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


# -------------------------------------------------------------------------------------------------------------- demand


def read_requested(requested: object) -> tuple[Demand, ...]:
    """What `pools.requested` asks for. What no pool could be asked for is left out, and of two entries for one pool the larger counts."""
    found: dict[tuple[str, Family], int] = {}
    for entry in requested if isinstance(requested, list) else ():
        name, needed = entry.get("pool") or "", entry.get("needed") or {}
        if name != ANY_POOL:
            try:
                validate_name("pool name", name)
            except IpamError:
                continue
        for key, family in _FAMILIES:
            count, side = needed.get(key), ("" if name == ANY_POOL else name, family)
            if type(count) is int and count > 0:
                found[side] = max(count, found.get(side, 0))
    return normalize(Demand(pool, family, count) for (pool, family), count in found.items())


def to_requested(demand: Iterable[Demand]) -> list[dict[str, Any]]:
    """Demand as `pools.requested` has it."""
    found: dict[str, dict[str, int]] = {}
    names = {family: key for key, family in _FAMILIES}
    for each in demand:
        found.setdefault(each.pool or ANY_POOL, {})[names[each.family]] = each.addresses
    return [{"pool": pool, "needed": needed} for pool, needed in sorted(found.items())]


__all__ = ["AGENT", "ANY_POOL", "BLOCKS", "LEASE", "Promise", "blocks_text", "promise_text", "read_blocks", "read_promise", "read_requested", "to_requested"]
