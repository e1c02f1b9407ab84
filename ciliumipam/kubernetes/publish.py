"""What node objects say of their blocks, and what has to be written so that they say what the ledger does. Pure.

Two places, by who hands out addresses on the nodes:

* `CiliumNode.spec.ipam.podCIDRs`, IPv4 first, for Cilium in cluster-pool mode, with `ipam.cilium.io/ignore: "true"`, so that a stock
  Cilium operator leaves the node to us; and `pools.allocated` where the node's agent uses pools (multi-pool mode). In cluster-pool mode
  the agent uses the first block of each family; further ones are listed behind it.
* `Node.spec.podCIDRs`, for every other CNI: one block of each family, and set once and for all, since the API server refuses every
  change of it.

Nothing is ever taken off a node object here but what its own agent has taken off `pools.allocated`. What it lists is in use: its agent
hands out addresses of it, or did. Where it lists what the ledger does not show as its own, it is left as it is, and somebody has to be
told. `promises` has what the annotations of an object with pools say.

Every patch names the `resourceVersion` of the object that it was decided over, so that it fails if anybody wrote to the object since.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_network
from sys import intern
from typing import Any, Final, NamedTuple

from ciliumipam.cidr import Prefix, parse_prefix
from ciliumipam.demand import Demand
from ciliumipam.errors import InvalidCidrError
from ciliumipam.kubernetes.promises import AGENT, BLOCKS, LEASE, blocks_text, read_blocks, read_requested
from ciliumipam.manifest import read_manifest
from ciliumipam.node import Node
from ciliumipam.records import Holding
from ciliumipam.requests import ExistingBlock

IGNORE: Final = "ipam.cilium.io/ignore"
"""Cilium's own annotation: its operator lets the node alone."""
DRAINING: Final = "ciliumipam.io/draining"
"""On a Node or CiliumNode, "true": it gets no block, and nothing new out of those that it has."""

_LONGEST_ERROR = 1000


class NodeObject(NamedTuple):
    """What is kept of a Node or CiliumNode.

    Attributes:
        api_version, kind: As in its manifest.
        uid: Its uid; another one is another object, whatever its name.
        node: Its name and labels.
        created: Its creation time, as text.
        owner: Uid of the Node that owns it, "" for none.
        draining: Whether it is annotated so.
        ignored: Whether it is annotated so that Cilium's operator lets it alone.
        cidrs: What it lists.
        allocated: What it lists by pool.
        uses_pools: Whether its agent asks for blocks by pool, or has some.
        error: What its status says for people.
        demand: What its agent asks for.
        blocks, lease: Its annotations of these names, as text.
    """

    api_version: str
    kind: str
    uid: str
    node: Node
    created: str
    owner: str
    draining: bool
    ignored: bool
    cidrs: tuple[str, ...]
    allocated: tuple[tuple[str, tuple[str, ...]], ...] = ()
    uses_pools: bool = False
    error: str = ""
    demand: tuple[Demand, ...] = ()
    blocks: str = ""
    lease: str = ""

    @property
    def listed(self) -> tuple[str, ...]:
        """Everything that it says is its own, as text."""
        return (*self.cidrs, *(cidr for _, cidrs in self.allocated for cidr in cidrs))


def read_node(obj: Mapping[str, Any]) -> NodeObject:
    """What is kept of a core Node.

    Raises:
        InvalidNameError: Its name or labels are none.
    """
    spec = obj.get("spec") or {}
    return NodeObject("v1", "Node", *_metadata(obj), tuple(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else ())))


def read_cilium_node(obj: Mapping[str, Any]) -> NodeObject:
    """What is kept of a CiliumNode.

    Raises:
        InvalidNameError: Its name or labels are none.
    """
    ipam = (obj.get("spec") or {}).get("ipam") or {}
    pools = ipam.get("pools") or {}
    allocated = tuple((each.get("pool") or "", tuple(each.get("cidrs") or ())) for each in pools.get("allocated") or ())
    status = ((obj.get("status") or {}).get("ipam") or {}).get("operator-status") or {}
    annotations = obj["metadata"].get("annotations") or {}
    return NodeObject(
        "cilium.io/v2",
        "CiliumNode",
        *_metadata(obj),
        tuple(ipam.get("podCIDRs") or ()),
        allocated,
        uses_pools=bool(allocated or pools.get("requested")) or BLOCKS in annotations or AGENT in annotations,
        error=status.get("error") or "",
        demand=read_requested(pools.get("requested")),
        blocks=annotations.get(BLOCKS) or "",
        lease=annotations.get(LEASE) or "",
    )


def _metadata(obj: Mapping[str, Any]) -> tuple[str, Node, str, str, bool, bool]:
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    owners = [each.get("uid", "") for each in metadata.get("ownerReferences") or () if each.get("kind") == "Node"]
    return (
        metadata.get("uid", ""),
        # thousands of nodes have the same labels, and each answer brings its own copies of them
        Node(metadata["name"], {intern(key): intern(value) for key, value in (metadata.get("labels") or {}).items()}),
        metadata.get("creationTimestamp") or "",
        owners[0] if owners else "",
        annotations.get(DRAINING) == "true",
        annotations.get(IGNORE) == "true",
    )


# ---------------------------------------------------------------------------------------------------- what it lists


class Claims(NamedTuple):
    """What a node object lists.

    Attributes:
        existing: Blocks that the node is said to have.
        refused: A sentence for each entry that is no block.
    """

    existing: tuple[ExistingBlock, ...] = ()
    refused: tuple[str, ...] = ()


def claims(obj: NodeObject) -> Claims:
    """What a node object lists, as the manifest of it is read."""
    metadata = {"name": obj.node.name, "creationTimestamp": obj.created or None}
    spec: dict[str, Any] = {"podCIDRs": list(obj.cidrs)}
    if obj.kind == "CiliumNode":
        allocated = [{"pool": pool or None, "cidrs": list(cidrs)} for pool, cidrs in obj.allocated]
        spec = {"ipam": {**spec, "pools": {"allocated": allocated}}}
    document = {"apiVersion": obj.api_version, "kind": obj.kind, "metadata": metadata, "spec": spec}
    found = read_manifest(document, "cluster")
    return Claims(tuple(each for each in found.items if isinstance(each, ExistingBlock)), found.refused)


def lists(obj: NodeObject, block: Holding) -> bool:
    """Whether a node object lists any address of a block."""
    return any(prefix is None or prefix.overlaps(block.prefix) for prefix in map(_masked, obj.listed))


# ------------------------------------------------------------------------------------------------------- what to write


class Publication(NamedTuple):
    """What has to become of a node object.

    Attributes:
        patch: A merge patch for the object at its revision; None if it says already what it should.
        new: The blocks that it does not list yet.
        problem: Why it cannot say what the ledger does, for people; "" if it can.
        renamed: Blocks that it lists and whose fence it does not name.
    """

    patch: dict[str, Any] | None = None
    new: tuple[Holding, ...] = ()
    problem: str = ""
    renamed: tuple[Holding, ...] = ()


def pod_cidrs(held: Sequence[Holding]) -> tuple[str, ...]:
    """The blocks of a node as `podCIDRs` lists them: IPv4 first, each family in the order in which the node got them."""
    return tuple(str(block.prefix) for block in sorted(held, key=lambda block: block.family))


def handed_back(obj: NodeObject, held: Sequence[Holding], seen: Collection[Holding] = ()) -> tuple[Holding, ...]:
    """The blocks that the agent of a node has taken off its object: they were listed under their present fence, and are no more.

    Args:
        obj: A CiliumNode.
        held: What its node holds.
        seen: What this very object was seen to list, under these fences.
    """
    if not obj.uses_pools or not held:
        return ()
    listed = {_masked(cidr) for _, cidrs in obj.allocated for cidr in cidrs}
    named = read_blocks(obj.blocks) if obj.blocks else {}
    return tuple(block for block in held if block.prefix not in listed and (named.get(block.prefix) == block.fence or block in seen))


def listed_by_pool(obj: NodeObject, held: Sequence[Holding]) -> frozenset[Holding]:
    """The blocks of a node that its object lists by pool."""
    listed = {_masked(cidr) for _, cidrs in obj.allocated for cidr in cidrs}
    return frozenset(block for block in held if block.prefix in listed)


def publish_cilium(obj: NodeObject, revision: str, held: Sequence[Holding], back: Collection[Holding] = (), lease: str = "") -> Publication:
    """What a CiliumNode lacks of what its node holds.

    Args:
        obj: What it says.
        revision: Its version.
        held: What the node holds.
        back: What of it its agent has handed back.
        lease: The annotation for its agent.
    """
    foreign = _foreign(obj, held)
    if foreign:
        return Publication(None, (), _in_the_way(obj, foreign))
    if not obj.uses_pools:
        cidrs = pod_cidrs(held)
        if not held or (cidrs == obj.cidrs and obj.ignored):
            return Publication()
        metadata = {"resourceVersion": revision, "annotations": {IGNORE: "true"}}
        return Publication({"metadata": metadata, "spec": {"ipam": {"podCIDRs": list(cidrs)}}}, _new(held, cidrs, obj.cidrs))
    stay = [block for block in held if block not in back]
    cidrs, allocated = pod_cidrs(stay), _by_pool(stay, obj.allocated)
    by_pool = {cidr for _, some in allocated for cidr in some}
    # what is on its way back is named on, so that whoever takes over from here knows it too
    blocks = blocks_text(block for block in held if block in back or str(block.prefix) in by_pool) if held or obj.blocks else ""
    if (cidrs, allocated, blocks, lease) == (obj.cidrs, obj.allocated, obj.blocks, obj.lease) and (obj.ignored or not held):
        return Publication()
    annotations = {IGNORE: "true"} | ({BLOCKS: blocks} if blocks else {}) | ({LEASE: lease or None} if lease != obj.lease else {})
    pools = {"allocated": [{"pool": pool, "cidrs": list(some)} for pool, some in allocated]}
    patch = {"metadata": {"resourceVersion": revision, "annotations": annotations}, "spec": {"ipam": {"podCIDRs": list(cidrs), "pools": pools}}}
    named = read_blocks(obj.blocks) if obj.blocks else {}
    new = _new(stay, cidrs, obj.cidrs)
    renamed = tuple(block for block in stay if block not in new and str(block.prefix) in by_pool and named.get(block.prefix) != block.fence)
    return Publication(patch, new, "", renamed)


def publish_node(obj: NodeObject, revision: str, held: Sequence[Holding]) -> Publication:
    """What a core Node lacks of what it holds. Its `podCIDRs` can be set once."""
    first: dict[int, Holding] = {}
    for block in held:
        first.setdefault(block.family, block)
    one_each = sorted(first.values(), key=lambda block: block.family)
    cidrs = pod_cidrs(one_each)
    if not obj.cidrs and cidrs:
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)}
        return Publication({"metadata": {"resourceVersion": revision}, "spec": spec}, tuple(one_each), _further(held, one_each))
    foreign = _foreign(obj, held)
    if foreign:
        return Publication(None, (), _in_the_way(obj, foreign))
    missing = [block for block in held if str(block.prefix) not in obj.cidrs]
    if missing:
        what = ", ".join(block.piece for block in missing)
        return Publication(None, (), (
            f"the node also holds {what}, but its spec.podCIDRs is {_text(obj.cidrs)}, and Kubernetes lets that be set only once:"
            " drain and delete the Node and let it register again to use it"
        ))
    return Publication()


def _new(held: Sequence[Holding], cidrs: Sequence[str], listed: Sequence[str]) -> tuple[Holding, ...]:
    by_text = {str(block.prefix): block for block in held}
    return tuple(by_text[cidr] for cidr in cidrs if cidr not in listed)


def _further(held: Sequence[Holding], written: Sequence[Holding]) -> str:
    more = [block.piece for block in held if block not in written]
    if not more:
        return ""
    return (
        f"it also holds {', '.join(more)}, but Node.spec.podCIDRs takes one block of each family: give its pool blocksPerNode 1 and a"
        " shorter block length, or use a CNI that takes several"
    )


def _foreign(obj: NodeObject, held: Sequence[Holding]) -> list[str]:
    """What an object lists and the node does not hold."""
    known = {str(block.prefix) for block in held}
    if known.issuperset(obj.listed):
        return []
    prefixes = {block.prefix for block in held}
    return [cidr for cidr in obj.listed if cidr not in known and _masked(cidr) not in prefixes]


def _masked(text: str) -> Prefix | None:
    """The block that a text means, its host bits cut off as everything in Kubernetes does; None if it is none."""
    try:
        return parse_prefix(ip_network(text, strict=False))
    except (ValueError, InvalidCidrError):
        return None


def _in_the_way(obj: NodeObject, foreign: Sequence[str]) -> str:
    where = "spec.podCIDRs" if obj.kind == "Node" else "spec.ipam"
    return (
        f"the {obj.kind} lists {_text(foreign)} in its {where}, which is not the node's by the ledger, so it is left as it is:"
        f" drain the node and delete its {obj.kind}; it gets its own blocks when it registers again"
    )


def _by_pool(held: Sequence[Holding], listed: Sequence[tuple[str, Sequence[str]]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Blocks as `pools.allocated` lists them: by name of the pool, then IPv4 before IPv6, each sorted as text, as Cilium does.

    What is listed already stays under the name that it has there, whatever the ledger calls its pool: the agent serves pods by that name.
    """
    mine = {block.prefix for block in held}
    named = [(pool, prefix) for pool, cidrs in listed for prefix in map(_masked, cidrs) if prefix in mine]
    known = {prefix for _, prefix in named}
    named += [(block.label, block.prefix) for block in held if block.label and block.prefix not in known]  # of no pool: no name there
    found: dict[str, set[Prefix]] = {}
    for pool, prefix in named:
        if prefix is not None:
            found.setdefault(pool, set()).add(prefix)
    return tuple(
        (pool, tuple(str(prefix) for prefix in sorted(found[pool], key=lambda prefix: (prefix.family, str(prefix)))))
        for pool in sorted(found)
    )


def _text(cidrs: Sequence[str]) -> str:
    return ", ".join(cidrs)


# ------------------------------------------------------------------------------------------------------------- status


def error_patch(obj: NodeObject, reason: str) -> dict[str, Any] | None:
    """A merge patch for the status of a CiliumNode, so that it says why its node waits, or nothing any more; None if it does."""
    text = reason if len(reason) <= _LONGEST_ERROR else reason[: _LONGEST_ERROR - 3] + "..."
    if obj.kind != "CiliumNode" or obj.error == text:
        return None
    return {"status": {"ipam": {"operator-status": {"error": text}}}}


__all__ = [
    "DRAINING",
    "IGNORE",
    "Claims",
    "NodeObject",
    "Publication",
    "claims",
    "error_patch",
    "handed_back",
    "listed_by_pool",
    "lists",
    "pod_cidrs",
    "publish_cilium",
    "publish_node",
    "read_cilium_node",
    "read_node",
]
