"""The custom resource definitions of `ciliumipam.io`, as plain data: `CIDRPool`, which people write, and `CIDRLedger`, which we write.

A `CIDRPool` may be edited in every field, as a `PoolSpec` may be replaced by any other: what is held stays held, whatever its pool
becomes, so nothing of it is immutable. A `CIDRLedger` is one record of a store; what it is a record of never changes.

Needs Kubernetes 1.31: the first whose rules know CIDRs.
"""

from __future__ import annotations

from typing import Any

from ciliumipam.kubernetes.schema import Schema, column, fields, flag, listed, mapped, rule, text, whole
from ciliumipam.requirement import LABEL_OPERATORS, TERM_OPERATORS

GROUP = "ciliumipam.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
MANAGED = {"app.kubernetes.io/managed-by": "ciliumipam"}
"""The label of everything that we install. A definition without it is somebody else's and never touched."""

_LONGEST_RECORD = 1_500_000
"""Characters of a record: etcd takes no request above 1.5 MiB."""


def definition(
    plural: str, kind: str, spec: Schema, *, short: tuple[str, ...], about: str, status: Schema | None, columns: tuple[Schema, ...]
) -> dict[str, Any]:
    """A cluster-scoped definition of `ciliumipam.io`."""
    schema = fields(
        about,
        required=("spec",),
        apiVersion={"type": "string", "description": f"{API_VERSION}."},
        kind={"type": "string", "description": f"{kind}."},
        metadata={"type": "object", "description": "Name, labels and annotations, as of every object."},
        spec=spec,
        **({"status": status} if status else {}),
    )
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "labels": dict(MANAGED)},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "plural": plural,
                "singular": kind.lower(),
                "kind": kind,
                "listKind": f"{kind}List",
                "shortNames": list(short),
                "categories": ["ciliumipam"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "additionalPrinterColumns": list(columns),
                }
                | ({"subresources": {"status": {}}} if status else {})
            ],
        },
    }


def _requirement(operators: tuple[str, ...]) -> Schema:
    return fields(
        "One condition on a label.",
        required=("key", "operator"),
        key=text("Key of the label.", 317),
        operator=text(f"How the label's value is compared: one of {', '.join(operators)}.", 0, one_of=operators),
        values=listed("Values of the label: at least one for In and NotIn, none for Exists and DoesNotExist.", text("A value.", 63), 64),
    )


def _selector() -> Schema:
    term = fields(
        "Conditions that must all hold. One without any condition selects nothing.",
        matchExpressions=listed("Conditions on labels.", _requirement(TERM_OPERATORS), 16),
        matchFields=listed(
            "Conditions on the node's name.",
            fields(
                "One condition on the node's name.",
                required=("key", "operator"),
                key=text("metadata.name.", 0, one_of=("metadata.name",)),
                operator=text("In or NotIn.", 0, one_of=("In", "NotIn")),
                values=listed("Exactly one name of a node.", text("The name.", 253), 1),
            ),
            16,
        ),
    )
    return fields(
        "Which nodes: a LabelSelector with matchLabels and matchExpressions, where {} is every node; or nodeSelectorTerms.",
        matchLabels=mapped("Labels that a node must have, with these values.", text("Value of the label.", 63), 16),
        matchExpressions=listed("Conditions on labels that must all hold.", _requirement(LABEL_OPERATORS), 16),
        nodeSelectorTerms=listed("Terms of which one must hold. They stand alone, without matchLabels and matchExpressions.", term, 16),
    )


_LENGTHS = {
    "ipv4": whole("Prefix length of IPv4 blocks, as 24 in 10.0.1.0/24.", 1, 32),
    "ipv6": whole("Prefix length of IPv6 blocks, as 64 in fd00:0:0:1::/64.", 1, 128),
}

_SPACE = fields(
    "Blocks of one family. A count above 9223372036854775807 is told as that number.",
    blocks=whole("Blocks that the CIDRs make, at the pool's block length.", 0, (1 << 63) - 1),
    held=whole("Blocks that nodes hold. Their lengths may differ from the present one.", 0, (1 << 63) - 1),
    available=whole("Blocks that could be carved now.", 0, (1 << 63) - 1),
    cooling=whole("Addresses of blocks that were given back and wait for the reuse delay.", 0, (1 << 63) - 1),
    largestFree=whole("Prefix length of the largest free prefix. Absent where nothing is free.", 0, 128),
)

_CONDITION = fields(
    "One condition, in the form that all of Kubernetes uses.",
    required=("type", "status", "lastTransitionTime", "reason", "message"),
    type=text("Ready, Conflicting, Exhausted or Draining.", 316, least=1),
    status=text("Whether it holds: True, False or Unknown.", 0, one_of=("True", "False", "Unknown")),
    observedGeneration=whole("The metadata.generation that it tells of.", 0, (1 << 63) - 1),
    lastTransitionTime={"type": "string", "format": "date-time", "description": "When its status last changed."},
    reason=text("Why, as one word for programs.", 1024, least=1),
    message=text("Why, as a sentence for people.", 32768),
)

_POOL_SPEC = fields(
    "What the pool is. Every field may be changed at any time; what nodes hold they keep.",
    required=("cidrs", "nodeSelector"),
    cidrs=listed(
        "The addresses of the pool: CIDRs without host bits that do not overlap. With CIDRs of both families a node gets a block of each.",
        text("A CIDR, as 10.0.0.0/16 or fd00::/48.", 49),
        128,
        least=1,
    ),
    nodeSelector=_selector(),
    blockLength=fields(
        "Prefix lengths of the blocks that nodes get. By default 24 for IPv4; for IPv6 64, or 120 where a CIDR is narrower than that.",
        **_LENGTHS,
    ),
    blockLengths=listed(
        "Other block lengths for some nodes. The first entry that selects a node counts.",
        fields(
            "Block lengths for some nodes.",
            required=("nodeSelector",),
            nodeSelector=_selector(),
            **_LENGTHS,
        ),
        16,
    ),
    reserved=listed(
        "Addresses of the pool that are never handed out.",
        text("An address, a CIDR, or two addresses and a dash, as 10.0.0.1-10.0.0.10.", 128),
        128,
    ),
    allowFirst=flag("Whether the first address of a block is handed out. Default: false. Blocks of one or two addresses use all."),
    allowLast=flag("Whether the last address of a block is handed out. Default: false. Blocks of one or two addresses use all."),
    priority=whole("Of several pools that select a node, the one with the highest serves it. Default: 0.", -(1 << 31), (1 << 31) - 1),
    addressSpace=text("CIDRs of pools of one address space may not overlap; those of different ones may. Default: default.", 253),
    blocksPerNode=whole("How many blocks of a family a node gets at once. Default: 1.", 1, 65536),
    maxBlocksPerNode=whole("How many blocks of a family a node may hold at the most. Default: no limit.", 1, 65536),
    overflow=flag("Whether a node that finds this pool full is served by the next pool that selects it. Default: false."),
    draining=flag("Whether the pool gives out nothing new. Who holds something keeps it. Default: false."),
    reuseDelaySeconds={
        "type": "number",
        "description": "How long a released address, and a block that was given back, waits before anybody gets it again. Default: 0.",
        "minimum": 0,
        "maximum": 315_360_000,
    },
    addressPolicy=text("How addresses of a block are picked: next, lowest or random. Default: next.", 0, one_of=("next", "lowest", "random")),
    seed=whole("What random starts from. Default: 0.", 0, (1 << 63) - 1),
    carving=text(
        "How blocks are picked: lowest; sparse leaves the neighbours free; grouped keeps nodes with one value of the label groupBy in one"
        " prefix. Default: lowest.",
        0,
        one_of=("lowest", "sparse", "grouped"),
    ),
    groupBy=text("Key of the label by which nodes are grouped, for the carving grouped only.", 317),
)

_POOL_STATUS = fields(
    "What became of the pool. Written by the operator.",
    observedGeneration=whole("The metadata.generation that was last looked at.", 0, (1 << 63) - 1),
    conditions={
        **listed("Whether the pool serves, and why not.", _CONDITION, 16),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    },
    ipv4=_SPACE,
    ipv6=_SPACE,
    orphans=whole("Blocks that came from the pool and that it no longer covers.", 0, (1 << 63) - 1),
)

CIDR_POOL = definition(
    "cidrpools",
    "CIDRPool",
    _POOL_SPEC,
    short=("cpool",),
    about="A pool: CIDRs, the nodes that may have blocks of them, and how the blocks are cut.",
    status=_POOL_STATUS,
    columns=(
        column("CIDRs", "string", ".spec.cidrs", "The addresses of the pool."),
        column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether the pool serves nodes."),
        column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why, or why not."),
        column("IPv4 held", "integer", ".status.ipv4.held", "IPv4 blocks that nodes hold."),
        column("IPv4 free", "integer", ".status.ipv4.available", "IPv4 blocks that could be carved now."),
        column("IPv6 held", "integer", ".status.ipv6.held", "IPv6 blocks that nodes hold.", wide=True),
        column("IPv6 free", "integer", ".status.ipv6.available", "IPv6 blocks that could be carved now.", wide=True),
        column("Age", "date", ".metadata.creationTimestamp", "How long ago it was created."),
    ),
)

CIDR_LEDGER = definition(
    "cidrledgers",
    "CIDRLedger",
    fields(
        "One record.",
        required=("kind", "name", "record"),
        kind=text(
            "What it is a record of. Never changes.",
            0,
            one_of=("block-page", "block-claims", "address-page", "address-claims", "node"),
        )
        | {"x-kubernetes-validations": [rule("self == oldSelf", "the kind of a record never changes")]},
        name=text(
            "The record's name among those of its kind. Never changes.",
            1024,
            rules=(rule("self == oldSelf", "the name of a record never changes"),),
        ),
        record=text("The record as text, a slot on each line.", _LONGEST_RECORD, least=2),
    ),
    short=("cledger",),
    about="A record of the ledger that says which node holds which block. Written by ciliumipam; do not edit or delete it.",
    status=None,
    columns=(
        column("Kind", "string", ".spec.kind", "What it is a record of."),
        column("Record", "string", ".spec.name", "The record's name."),
        column("Age", "date", ".metadata.creationTimestamp", "How long ago it was created."),
    ),
)
