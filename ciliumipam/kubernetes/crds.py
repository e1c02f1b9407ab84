"""The custom resource definitions of `ciliumipam.io`, as plain data: `CIDRPool`, which people write, and `CIDRLedger`, which we write.

A `CIDRPool` may be edited in every field, as a `PoolSpec` may be replaced by any other: what is held stays held, whatever its pool
becomes, so nothing of it is immutable. A `CIDRLedger` is one record of a store; what it is a record of never changes.

Needs Kubernetes 1.31: the first whose rules know CIDRs.
"""

from __future__ import annotations

from typing import Any

from ciliumipam.kubernetes.rules import (
    block_length,
    cidr_rules,
    disjoint,
    grouping,
    label_key,
    label_keys,
    label_value,
    limits,
    other_lengths,
    reserved_inside,
    reserved_rules,
    selector_form,
    subdomain,
    value_count,
)
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
    about: str,
    spec: Schema,
    *,
    kind: str,
    short: tuple[str, ...],
    columns: tuple[Schema, ...],
    status: Schema | None = None,
    group: str = GROUP,
    versions: tuple[str, ...] = (VERSION,),
    namespaced: bool = False,
) -> dict[str, Any]:
    """A definition whose versions are one form under several names. The first of them is stored."""
    schema = fields(
        about,
        required=("spec",),
        spec=spec,
        more={"status": status} if status else {},
    )
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "labels": dict(MANAGED)},
        "spec": {
            "group": group,
            "scope": "Namespaced" if namespaced else "Cluster",
            "names": {
                "plural": plural,
                "singular": kind.lower(),
                "kind": kind,
                "listKind": f"{kind}List",
                "shortNames": list(short),
                "categories": [group.partition(".")[0]],
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": version == versions[0],
                    "schema": {"openAPIV3Schema": schema},
                    "additionalPrinterColumns": list(columns),
                }
                | ({"subresources": {"status": {}}} if status else {})
                for version in versions
            ],
        },
    }


def cidr(about: str, *more: Schema) -> Schema:
    """One CIDR."""
    return text(about, 49, rules=(*cidr_rules(), *more))


def _requirements(operators: tuple[str, ...], most: int, most_values: int) -> Schema:
    about = f"Conditions on labels that must all hold: {', '.join(operators)}."
    values = text("A value.", 63, rules=(label_value(),))
    one = fields(
        "One condition on a label.",
        required=("key", "operator"),
        rules=value_count(ordered="Gt" in operators),
        key=text("Key of the label.", 317, rules=(label_key(),)),
        operator=text(f"How the label's value is compared: {', '.join(operators)}.", 0, one_of=operators),
        values=listed("Values of the label: at least one for In and NotIn, none for Exists and DoesNotExist.", values, most_values),
    )
    return listed(about, one, most)


def label_selector(about: str, most_values: int = 128) -> Schema:
    """A LabelSelector."""
    value = text("Value of the label.", 63, rules=(label_value(),))
    return fields(
        about,
        matchLabels=mapped("Labels that a node must have, with these values.", value, 16, rules=(label_keys(),)),
        matchExpressions=_requirements(LABEL_OPERATORS, 16, most_values),
    )


def _selector(most_terms: int, most_expressions: int, most_values: int) -> Schema:
    name = fields(
        "One condition on the node's name.",
        required=("key", "operator", "values"),
        key=text("metadata.name.", 0, one_of=("metadata.name",)),
        operator=text("In or NotIn.", 0, one_of=("In", "NotIn")),
        values=listed("Exactly one name of a node.", text("The name.", 253, rules=(subdomain("node name"),)), 1, least=1),
    )
    term = fields(
        "Conditions that must all hold. One without any condition selects nothing.",
        matchExpressions=_requirements(TERM_OPERATORS, most_expressions, most_values),
        matchFields=listed("Conditions on the node's name.", name, most_expressions),
    )
    schema = label_selector(
        "Which nodes: a LabelSelector with matchLabels and matchExpressions, where {} is every node; or nodeSelectorTerms.",
        most_values,
    )
    terms = listed("Terms of which one must hold. They stand alone, without matchLabels and matchExpressions.", term, most_terms)
    return schema | {"properties": schema["properties"] | {"nodeSelectorTerms": terms}, "x-kubernetes-validations": list(selector_form())}


LENGTHS = {
    "ipv4": whole("Prefix length of IPv4 blocks, as 24 in 10.0.1.0/24.", 1, 32),
    "ipv6": whole("Prefix length of IPv6 blocks, as 64 in fd00:0:0:1::/64.", 1, 128),
}

_SPACE = fields(
    "Blocks of one family. A count above 9223372036854775807 is told as that number.",
    blocks=whole("Blocks that the CIDRs make, at the pool's block length.", 0),
    held=whole("Blocks that nodes hold. Their lengths may differ from the present one.", 0),
    available=whole("Blocks that could be carved now.", 0),
    cooling=whole("Addresses of blocks that were given back and wait for the reuse delay.", 0),
    largestFree=whole("Prefix length of the largest free prefix. Absent where nothing is free.", 0, 128),
)

_CONDITION = fields(
    "One condition, in the form that all of Kubernetes uses.",
    required=("type", "status", "lastTransitionTime", "reason", "message"),
    type=text("Ready, Conflicting, Exhausted or Draining.", 316, least=1),
    status=text("Whether it holds: True, False or Unknown.", 0, one_of=("True", "False", "Unknown")),
    observedGeneration=whole("The metadata.generation that it tells of.", 0),
    lastTransitionTime={"type": "string", "format": "date-time", "description": "When its status last changed."},
    reason=text("Why, as one word for programs.", 1024, least=1),
    message=text("Why, as a sentence for people.", 32768),
)

_POOL_SPEC = fields(
    "What the pool is. Every field may be changed at any time; what nodes hold they keep.",
    required=("cidrs", "nodeSelector"),
    rules=(
        disjoint("self.cidrs", ".cidrs"),
        *block_length(4, "self.cidrs", "self.blockLength.ipv4", "self.blockLength"),
        *block_length(6, "self.cidrs", "self.blockLength.ipv6", "self.blockLength"),
        *other_lengths(4),
        *other_lengths(6),
        reserved_inside(),
        limits(),
        grouping(),
    ),
    cidrs=listed(
        "The addresses of the pool: CIDRs without host bits that do not overlap. With CIDRs of both families a node gets a block of each.",
        cidr("A CIDR, as 10.0.0.0/16 or fd00::/48."),
        128,
        rules=(rule("size(self) > 0", "the pool has no CIDR; give at least one, as in 10.0.0.0/16"),),
    ),
    nodeSelector=_selector(16, 16, 128),
    blockLength=fields(
        "Prefix lengths of the blocks that nodes get. By default 24 for IPv4; for IPv6 64, or 120 where a CIDR is narrower than that.",
        more=LENGTHS,
    ),
    blockLengths=listed(
        "Other block lengths for some nodes. The first entry that selects a node counts.",
        fields(
            "Block lengths for some nodes.",
            required=("nodeSelector",),
            rules=(
                rule(
                    "has(self.ipv4) || has(self.ipv6)",
                    "neither an IPv4 nor an IPv6 length is given; give one, or leave the entry out",
                ),
            ),
            nodeSelector=_selector(8, 8, 32),
            more=LENGTHS,
        ),
        16,
    ),
    reserved=listed(
        "Addresses of the pool that are never handed out.",
        text("An address, a CIDR, or two addresses and a dash, as 10.0.0.1-10.0.0.10.", 96, rules=reserved_rules()),
        100,
    ),
    allowFirst=flag("Whether the first address of a block is handed out. Default: false. Blocks of one or two addresses use all."),
    allowLast=flag("Whether the last address of a block is handed out. Default: false. Blocks of one or two addresses use all."),
    priority=whole("Of several pools that select a node, the one with the highest serves it. Default: 0.", -(1 << 31), (1 << 31) - 1),
    addressSpace=text(
        "CIDRs of pools of one address space may not overlap; those of different ones may. Default: default.",
        253,
        rules=(subdomain("address space"),),
    ),
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
    seed=whole("What random starts from. Default: 0.", 0),
    carving=text(
        "How blocks are picked: lowest; sparse leaves the neighbours free; grouped keeps nodes with one value of the label groupBy in one"
        " prefix. Default: lowest.",
        0,
        one_of=("lowest", "sparse", "grouped"),
    ),
    groupBy=text("Key of the label by which nodes are grouped, for the carving grouped only.", 317, rules=(label_key(empty=True),)),
)

_POOL_STATUS = fields(
    "What became of the pool. Written by the operator.",
    observedGeneration=whole("The metadata.generation that was last looked at.", 0),
    conditions={
        **listed("Whether the pool serves, and why not.", _CONDITION, 16),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    },
    ipv4=_SPACE,
    ipv6=_SPACE,
    orphans=whole("Blocks that came from the pool and that it no longer covers.", 0),
)

CIDR_POOL = definition(
    "A pool: CIDRs, the nodes that may have blocks of them, and how the blocks are cut.",
    _POOL_SPEC,
    kind="CIDRPool",
    short=("cpool",),
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
    "A record of the ledger that says which node holds which block. Written by ciliumipam; do not edit or delete it.",
    fields(
        "One record.",
        required=("kind", "name", "record"),
        kind=text(
            "What it is a record of. Never changes.",
            0,
            one_of=("block-page", "block-claims", "address-page", "address-claims", "lease", "node"),
        )
        | {"x-kubernetes-validations": [rule("self == oldSelf", "the kind of a record never changes")]},
        name=text(
            "The record's name among those of its kind. Never changes.",
            1024,
            rules=(rule("self == oldSelf", "the name of a record never changes"),),
        ),
        record=text("The record as text, a slot on each line.", _LONGEST_RECORD, least=2),
    ),
    kind="CIDRLedger",
    short=("cledger",),
    columns=(
        column("Kind", "string", ".spec.kind", "What it is a record of."),
        column("Record", "string", ".spec.name", "The record's name."),
        column("Age", "date", ".metadata.creationTimestamp", "How long ago it was created."),
    ),
)
