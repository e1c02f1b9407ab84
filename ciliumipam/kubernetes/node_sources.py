"""A node's own object as the source of its blocks (`ciliumipam.agent.BlockSource`): its CiliumNode, or its Node.

Every write to the CiliumNode names the version that it was decided over, and the object has to name this process as its agent
(`ciliumipam.io/agent`). A process writes that once, when it starts. So what an earlier one had decided and sends later fails, also where
that one ran on another machine under the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from secrets import token_hex
from typing import Any, Final

from ciliumipam.agent.source import Grant, Granted
from ciliumipam.cidr import Prefix, parse_prefix
from ciliumipam.demand import Demand
from ciliumipam.errors import (
    BlockNeededError,
    ConflictError,
    InvalidCidrError,
    LeaseExpiredError,
    NotFoundError,
    RetriesExhaustedError,
)
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.guard import CILIUM_NODES, NODES
from ciliumipam.kubernetes.promises import AGENT, read_blocks, read_promise, to_requested
from ciliumipam.kubernetes.publish import NodeObject, read_cilium_node, read_node
from ciliumipam.records import Leased

_ATTEMPTS: Final = 20
_SHORTEST = 1.0


class CiliumNodeSource:
    """The CiliumNode of a node. One thread.

    Args:
        api: The server.
        node: The node's name.
        register: Whether to create the object where it is missing, owned by the Node of that name. Cilium's own agent does that too.
        identity: What names this process.
    """

    def __init__(self, api: Api, node: str, *, register: bool = False, identity: str | None = None) -> None:
        """Nothing is asked yet."""
        self._api, self.node, self._register = api, node, register
        self._identity = identity or token_hex(8)
        self._spoke = False

    def confirm(self) -> Grant:
        """Say what the object lists under a fence that the operator named.

        Raises:
            NotFoundError: There is no such object.
            LeaseExpiredError: Another process speaks for the node now.
        """
        obj = self._mine()
        said = read_cilium_node(obj)
        promise = read_promise(said.lease)
        if not promise.stop_after:
            why = "no operator has said yet for how long the node may rely on its blocks; ciliumipam operator does with --stop-after"
            return Grant(said.node, (), _SHORTEST, (), (why, *_told(said)))
        fences = read_blocks(said.blocks)
        found: dict[Prefix, str] = {}
        for pool, cidrs in said.allocated:
            for prefix in _prefixes(cidrs):
                if prefix in fences:
                    found[prefix] = pool
        by_pool: dict[str, list[Prefix]] = {}
        for prefix in fences:  # in the order in which the node got them
            if prefix in found:
                by_pool.setdefault(found[prefix], []).append(prefix)
        pools = tuple(promise.spec(name, blocks) for name, blocks in by_pool.items())
        spaces = {spec.name: spec.address_space for spec in pools}
        blocks = tuple(
            Granted(prefix, fence, found[prefix], not said.draining and str(prefix) not in promise.draining, spaces[found[prefix]])
            for prefix, fence in fences.items()
            if prefix in found
        )
        return Grant(said.node, blocks, promise.stop_after, pools, _told(said))

    def request(self, demand: tuple[Demand, ...]) -> bool:
        """Write what the node asks for, if the object does not say so already. The operator answers later, on the object."""
        wanted = to_requested(demand)

        def change(obj: dict[str, Any]) -> dict[str, Any] | None:
            present = ((obj.get("spec") or {}).get("ipam") or {}).get("pools", {}).get("requested") or []
            return None if present == wanted else {"pools": {"requested": wanted}}

        self._write(change)
        return False

    def hand_back(self, block: Leased) -> None:
        """Take a block off the object, if it lists it under this fence.

        Raises:
            BlockNeededError: Its pool gives a node so many blocks at once that it would come back.
        """

        def change(obj: dict[str, Any]) -> dict[str, Any] | None:
            said = read_cilium_node(obj)
            if read_blocks(said.blocks).get(block.prefix) != block.fence:
                return None
            pool = next((name for name, cidrs in said.allocated if block.prefix in _prefixes(cidrs)), None)
            if pool is None:
                return None
            stays = {name: [cidr for cidr in cidrs if block.prefix not in _prefixes([cidr])] for name, cidrs in said.allocated}
            least = read_promise(said.lease).keep(pool)
            left = sum(prefix.family == block.prefix.family for prefix in _prefixes(stays[pool]))
            if 1 < least > left:
                raise BlockNeededError(str(block.prefix), self.node, f"pool {pool} gives a node {least} blocks, and it would have {left}")
            return {
                "podCIDRs": [cidr for cidr in said.cidrs if block.prefix not in _prefixes([cidr])],
                "pools": {"allocated": [{"pool": name, "cidrs": cidrs} for name, cidrs in stays.items() if cidrs]},
            }

        self._write(change)

    def _mine(self) -> dict[str, Any]:
        """The object, once it names this process as its agent."""
        for _ in range(_ATTEMPTS):
            obj = self._api.get(CILIUM_NODES, self.node)
            if obj is None:
                obj = self._create()
                if obj is None:
                    continue
            metadata = obj["metadata"]
            if (metadata.get("annotations") or {}).get(AGENT) == self._identity:
                self._spoke = True
                return obj
            if self._spoke and (metadata.get("annotations") or {}).get(AGENT):
                raise LeaseExpiredError(self.node, "another agent speaks for the node now; end one of the two, and start the other one again")
            mine = {"metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": {AGENT: self._identity}}}
            try:
                obj = self._api.patch(CILIUM_NODES, self.node, mine)
            except ConflictError:
                continue
            self._spoke = True
            return obj
        raise RetriesExhaustedError(_ATTEMPTS, f"CiliumNode {self.node}")

    def _create(self) -> dict[str, Any] | None:
        """The object, created for the Node of its name; None if somebody else was faster."""
        if not self._register:
            raise NotFoundError("CiliumNode", self.node)
        owner = self._api.get(NODES, self.node)
        if owner is None:
            raise NotFoundError("Node", self.node)
        reference = {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": owner["metadata"]["uid"]}
        labels = owner["metadata"].get("labels") or {}
        metadata = {"name": self.node, "labels": labels, "annotations": {AGENT: self._identity}, "ownerReferences": [reference]}
        try:
            return self._api.create(CILIUM_NODES, {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": metadata, "spec": {}})
        except ConflictError:
            return None

    def _write(self, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        """Patch `spec.ipam` at the version that the patch was decided over; nothing where it says so already."""
        for _ in range(_ATTEMPTS):
            obj = self._mine()
            ipam = change(obj)
            if ipam is None:
                return
            try:
                self._api.patch(CILIUM_NODES, self.node, {"metadata": {"resourceVersion": obj["metadata"]["resourceVersion"]}, "spec": {"ipam": ipam}})
            except ConflictError:
                continue
            return
        raise RetriesExhaustedError(_ATTEMPTS, f"CiliumNode {self.node}")


class NodeSource:
    """The podCIDRs of a Node: one block of each family, set once. One thread.

    The fence is the second in which the Node was created: a block is its for as long as it is there, and a Node that registers anew
    under its name is younger.

    Args:
        api: The server.
        node: The node's name.
        stop_after: Seconds for which the node may rely on it. Whoever gives podCIDRs must not give them to another Node for at least
            `Terms.least_return` of that after the Node is gone: `ciliumipam operator --write-to node` with a fitting `--grace`.
    """

    def __init__(self, api: Api, node: str, stop_after: float) -> None:
        """Nothing is asked yet."""
        self._api, self.node, self._stop_after = api, node, stop_after
        self._waiting: tuple[str, ...] = ()

    def confirm(self) -> Grant:
        """Say what the Node lists.

        Raises:
            NotFoundError: There is no such Node.
        """
        obj = self._api.get(NODES, self.node)
        if obj is None:
            raise NotFoundError("Node", self.node)
        said = read_node(obj)
        since = int(datetime.fromisoformat(said.created).timestamp())
        blocks = tuple(Granted(prefix, since, "pod-cidrs", not said.draining) for prefix in _prefixes(said.cidrs))
        if not blocks:
            return Grant(said.node, (), self._stop_after, (), ("the Node has no podCIDRs yet",))
        return Grant(said.node, blocks, self._stop_after, (), self._waiting)

    def request(self, demand: tuple[Demand, ...]) -> bool:
        """Nothing can be asked for; `waiting` says so where the blocks are smaller than what is wanted."""
        obj = self._api.get(NODES, self.node)
        have: dict[int, int] = {}
        for prefix in _prefixes(read_node(obj).cidrs if obj is not None else ()):
            have[prefix.family] = have.get(prefix.family, 0) + prefix.last - prefix.network - 1
        self._waiting = tuple(
            f"the node asks for {each.addresses} IPv{each.family} addresses and has {max(0, have.get(each.family, 0))}: Node.spec.podCIDRs"
            " takes one block of each family and is set once; use --write-to ciliumnode, or shorter block lengths before nodes register"
            for each in demand
            if each.addresses > have.get(each.family, 0)
        )
        return False

    def hand_back(self, block: Leased) -> None:
        """Refuse: what a Node lists stays there for as long as it is there.

        Raises:
            BlockNeededError: Always.
        """
        raise BlockNeededError(str(block.prefix), self.node, "Node.spec.podCIDRs is set once, so nothing can be taken off it")


def _prefixes(cidrs: tuple[str, ...] | list[str]) -> list[Prefix]:
    found = []
    for cidr in cidrs:
        try:
            found.append(parse_prefix(cidr))
        except InvalidCidrError:
            continue  # nobody can have given it
    return found


def _told(said: NodeObject) -> tuple[str, ...]:
    return (said.error,) if said.error else ()


__all__ = ["CiliumNodeSource", "NodeSource"]
