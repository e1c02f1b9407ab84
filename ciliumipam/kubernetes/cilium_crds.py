"""`CiliumNodeConfig` and `CiliumNode` for clusters without Cilium, as plain data. Never installed where Cilium's own are.

`CiliumNodeConfig` takes pools in the form `spec.ipam.operator.clusterPoolIPv4PodCIDRs`, which Cilium's own definition refuses, and Cilium's
form `spec.defaults`, which is no pool. As with Cilium it belongs to a namespace, and is served as `v2` and `v2alpha1`.

`CiliumNode` has what ciliumipam reads and writes; whatever else agents write into it is kept as it is.
"""

from __future__ import annotations

from ciliumipam.cidr import Family
from ciliumipam.kubernetes.crds import LENGTHS, cidr, definition, label_selector
from ciliumipam.kubernetes.rules import block_length, disjoint, of_family
from ciliumipam.kubernetes.schema import Schema, column, fields, listed, mapped, rule, text

FAMILIES: tuple[Family, ...] = (4, 6)
_KEPT = {"x-kubernetes-preserve-unknown-fields": True}


def _cluster_pool() -> Schema:
    lists: dict[Family, str] = {family: f"clusterPoolIPv{family}PodCIDRs" for family in FAMILIES}
    both = " + ".join(f"(has(self.{name}) ? self.{name} : [])" for name in lists.values())
    return fields(
        "The pool.",
        rules=(
            rule(
                f"size({both}) > 0",
                f"the pool has no CIDR; give at least one in {lists[4]}, as in 10.0.0.0/16",
            ),
            *(disjoint(f"self.{name}", f".{name}", optional=True) for name in lists.values()),
            *(
                each
                for family, name in lists.items()
                for each in block_length(family, f"(has(self.{name}) ? self.{name} : [])", f"self.clusterPoolIPv{family}MaskSize")
            ),
        ),
        **{
            name: listed(
                f"IPv{family} CIDRs without host bits that do not overlap.", cidr(f"An IPv{family} CIDR.", of_family(family)), 64
            )
            for family, name in lists.items()
        },
        **{
            f"clusterPoolIPv{family}MaskSize": LENGTHS[f"ipv{family}"]
            | {"description": f"Prefix length of the IPv{family} blocks that nodes get. Default: {24 if family == 4 else 64}."}
            for family in lists
        },
    )


CILIUM_NODE_CONFIG = definition(
    "A pool of blocks for the nodes that a selector selects; or configuration of Cilium's agent on them.",
    fields(
        "Which nodes, and what they get.",
        required=("nodeSelector",),
        rules=(
            rule(
                "has(self.ipam) || has(self.defaults)",
                "it is neither a pool, which needs ipam.operator.clusterPoolIPv4PodCIDRs, nor configuration of Cilium's agent (defaults)",
            ),
        ),
        nodeSelector=label_selector("Which nodes: matchLabels and matchExpressions, which must all hold. {} is every node."),
        ipam=fields(
            "The pool.",
            required=("operator",),
            operator=_cluster_pool(),
        ),
        defaults=mapped("Configuration of Cilium's agent, which ciliumipam does not look at.", text("A value.", 65536), 512),
    ),
    kind="CiliumNodeConfig",
    short=(),
    group="cilium.io",
    versions=("v2", "v2alpha1"),
    namespaced=True,
    columns=(
        column("IPv4", "string", ".spec.ipam.operator.clusterPoolIPv4PodCIDRs", "IPv4 CIDRs of the pool."),
        column("IPv6", "string", ".spec.ipam.operator.clusterPoolIPv6PodCIDRs", "IPv6 CIDRs of the pool."),
        column("Age", "date", ".metadata.creationTimestamp", "How long ago it was created."),
    ),
)

_NEEDED = {
    f"ipv{family}-addrs": {"type": "integer", "description": f"IPv{family} addresses that the node needs in all."} for family in (4, 6)
}
_POOL_NAME = text("Name of the pool.", 253, least=1)

CILIUM_NODE = definition(
    "A node as its network agent sees it.",
    fields(
        "What the node has. Fields that are not known here are kept.",
        ipam=fields(
            "Blocks of the node, out of which its pods get addresses.",
            podCIDRs=listed("The node's blocks, IPv4 first.", text("A CIDR.", 49), 4096),
            pools=fields(
                "Blocks by pool, for agents that use several pools.",
                requested=listed(
                    "What the agent needs.",
                    fields(
                        "What it needs of one pool.",
                        required=("pool",),
                        pool=_POOL_NAME,
                        needed=fields("How many addresses.", **_NEEDED),
                    ),
                    1024,
                ),
                allocated=listed(
                    "What it has got.",
                    fields(
                        "What it has got of one pool.",
                        required=("pool",),
                        pool=_POOL_NAME,
                        cidrs=listed("The blocks.", text("A CIDR.", 49), 4096),
                    )
                    | _KEPT,
                    1024,
                ),
            ),
        )
        | _KEPT,
        addresses=listed(
            "Addresses of the node itself.",
            fields("An address.", type=text("InternalIP, ExternalIP or CiliumInternalIP.", 253), ip=text("The address.", 49)),
            256,
        ),
    )
    | _KEPT,
    kind="CiliumNode",
    short=("cn", "ciliumn"),
    group="cilium.io",
    versions=("v2",),
    status=fields(
        "What became of the node. Fields that are not known here are kept.",
        ipam=fields(
            "What became of its blocks.",
            **{
                "operator-status": fields(
                    "What the operator has to say.",
                    error=text("Why the node has not what it should have. Empty where all is well.", 32768),
                )
                | _KEPT
            },
        )
        | _KEPT,
    )
    | _KEPT,
    columns=(
        column("PodCIDRs", "string", ".spec.ipam.podCIDRs", "The node's blocks."),
        column("Error", "string", ".status.ipam.operator-status.error", "Why the node has not what it should have."),
        column("Age", "date", ".metadata.creationTimestamp", "How long ago it was created."),
    ),
)
"""Read and written by agents of other projects too, so its lists are bounded generously."""

PAIR = (CILIUM_NODE_CONFIG, CILIUM_NODE)

__all__ = ["CILIUM_NODE", "CILIUM_NODE_CONFIG", "PAIR"]
