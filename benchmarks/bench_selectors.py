"""Which of 1,000 selectors match each of 10,000 nodes: the index, beside trying each selector on each node.

A node has 10 to 20 labels, as clusters have them: a host name, a serial number and a time that no other node has, and zone, rack,
machine type, team, sizes and the like that many share; 22 keys in all. A selector has 1 to 3 requirements. `mixed`: half of the
requirements are In, the rest are the five other operators in equal parts; `pools`: one In on rack, team or host name, and up to
two of any kind; `own keys`: `team-17=true`, each selector with a key of its own, each node with three of them; the others have
one operator only.

`found`: an index that was just built answers for every node (so that all it keeps is looked up in this time). `found and listed`:
the same, and every match was taken into a list, which costs what there are matches. `every pair`: `NodeSelector.matches` on a
sample of the nodes, scaled to all. They take turns, and medians are told. A sample of the answers is compared with
`NodeSelector.matched`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import process_time

from ciliumipam.node import Node
from ciliumipam.requirement import Operator, Requirement
from ciliumipam.selector import NodeSelector, Term
from ciliumipam.selector_index import SelectorIndex

Row = tuple[str, float, str]

SELECTORS = 1_000
ROUNDS = 5
HOST = "kubernetes.io/hostname"
RACK = "topology.example.com/rack"
TEAM = "example.com/team"
SINCE = "example.com/provisioned-at"
SHARED = {
    "kubernetes.io/arch": ["amd64", "arm64"],
    "kubernetes.io/os": ["linux"],
    "node.kubernetes.io/instance-type": [f"m{i}.xlarge" for i in range(12)],
    "topology.kubernetes.io/region": [f"region-{i}" for i in range(3)],
    "topology.kubernetes.io/zone": [f"region-{i}{zone}" for i in range(3) for zone in "abc"],
    RACK: [f"rack-{i}" for i in range(200)],
    TEAM: [f"team-{i}" for i in range(20)],
    "example.com/environment": ["production", "staging", "test"],
    "example.com/kernel": [f"6.{i}" for i in range(6)],
    "example.com/generation": [str(i) for i in range(1, 9)],
    "example.com/cpus": [str(i) for i in (4, 8, 16, 32, 64, 96, 128)],
    "example.com/memory-gib": [str(i) for i in (16, 32, 64, 128, 256, 512)],
    "example.com/network": ["10g", "25g", "100g"],
    "example.com/storage": ["nvme", "hdd"],
    "example.com/gpu": ["a100", "h100", "l4"],
    "example.com/dedicated": ["ingress", "storage", "batch"],
    "node-role.kubernetes.io/control-plane": [""],
    "example.com/cordoned": ["true"],
    "example.com/virtual": ["true"],
}
SELDOM = {
    "example.com/storage": 0.6,
    "example.com/gpu": 0.1,
    "example.com/dedicated": 0.1,
    "node-role.kubernetes.io/control-plane": 0.01,
    "example.com/cordoned": 0.03,
    "example.com/virtual": 0.3,
}
NUMBERS = {"example.com/generation": 9, "example.com/cpus": 130, "example.com/memory-gib": 600, SINCE: 10**7}
OTHERS: list[Operator] = ["NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
MIXED: list[Operator] = ["In", "In", "In", "In", "In", *OTHERS]


def some_nodes(chance: random.Random, count: int) -> list[Node]:
    nodes = []
    for number in range(count):
        serial, since = f"{chance.randrange(16**8):08x}", str(chance.randrange(10**7))
        labels = {HOST: f"node-{number}", "example.com/serial": serial, SINCE: since}
        for key, values in SHARED.items():
            if chance.random() < SELDOM.get(key, 0.95):
                labels[key] = chance.choice(values)
        nodes.append(Node(f"node-{number}", labels))
    return nodes


def requirement(chance: random.Random, operator: Operator, keys: Sequence[str] = (*SHARED, HOST)) -> Requirement:
    if operator in {"Gt", "Lt"}:
        key = chance.choice(list(NUMBERS))
        return Requirement(key, operator, (str(chance.randrange(NUMBERS[key])),))
    key = chance.choice(keys)
    if operator in {"Exists", "DoesNotExist"}:
        return Requirement(key, operator, ())
    values = SHARED.get(key) or [f"node-{i}" for i in range(10_000)]
    return Requirement(key, operator, tuple({chance.choice(values) for _ in range(chance.choice((1, 1, 2, 3)))}))


def selector(chance: random.Random, operators: Sequence[Operator]) -> NodeSelector:
    wanted = [requirement(chance, chance.choice(operators)) for _ in range(chance.randint(1, 3))]
    return NodeSelector((Term(tuple(wanted)),))


def pool_selector(chance: random.Random, operators: Sequence[Operator]) -> NodeSelector:
    wanted = [requirement(chance, "In", (RACK, TEAM, HOST))]
    wanted += [requirement(chance, chance.choice(operators)) for _ in range(chance.randrange(3))]
    return NodeSelector((Term(tuple(wanted)),))


def timed(call: Callable[[], object]) -> float:
    begin = process_time()
    call()
    return process_time() - begin


def find(index: SelectorIndex, nodes: list[Node]) -> None:
    for node in nodes:
        index.matching(node.labels, node.name)


def find_and_list(index: SelectorIndex, nodes: list[Node]) -> None:
    for node in nodes:
        list(index.matching(node.labels, node.name))


def every_pair(selectors: list[NodeSelector], nodes: list[Node]) -> None:
    for node in nodes:
        labels, name = node.labels, node.name
        for each in selectors:
            each.matches(labels, name)


def compared(selectors: list[NodeSelector], nodes: list[Node]) -> None:
    index = SelectorIndex(selectors)
    for node in nodes:
        tried = [(position, each.matched(node.labels, node.name)) for position, each in enumerate(selectors)]
        assert list(index.matching(node.labels, node.name)) == [match for match in tried if match[1] is not None]


def rows_of(name: str, selectors: list[NodeSelector], nodes: list[Node], sample: int) -> list[Row]:
    compared(selectors, nodes[:sample])
    build, found, listed, pairs = [], [], [], []
    for number in range(ROUNDS):
        build.append(timed(partial(SelectorIndex, selectors)))
        found.append(timed(partial(find, SelectorIndex(selectors), nodes)))
        listed.append(timed(partial(find_and_list, SelectorIndex(selectors), nodes)))
        part = nodes[number * sample : (number + 1) * sample]
        pairs.append(timed(partial(every_pair, selectors, part)) * len(nodes) / sample)
    index = SelectorIndex(selectors)
    each = sum(len(index.matching(node.labels, node.name)) for node in nodes) / len(nodes)
    size = f"{len(nodes):,} x {len(selectors):,}, {name}"
    return [
        (f"found, {size}", median(found) * 1e3, "ms"),
        (f"found and listed, {size} ({each:.0f} a node)", median(listed) * 1e3, "ms"),
        (f"every pair, {size} (from {sample} nodes)", median(pairs) * 1e3, "ms"),
        (f"every pair ÷ found, {name}", median(pairs) / median(found), "x"),
        (f"build, {len(selectors):,} selectors, {name}", median(build) * 1e3, "ms"),
    ]


def one_match(text: str) -> Row:
    """One selector on one node, the best of many batches."""
    matches = NodeSelector.parse(text).matches
    labels = {HOST: "node-1", RACK: "rack-1", TEAM: "team-1", "example.com/cpus": "16", "kubernetes.io/os": "linux"}

    def batch() -> None:
        for _ in range(1_000):
            matches(labels)

    return f"matches, {text}", min(timed(batch) for _ in range(50)) * 1e6, "ns"


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002 - all benchmarks are called like this
    """All rows; `quick` takes fewer nodes."""
    chance = random.Random(1)
    nodes = some_nodes(chance, 500 if quick else 10_000)
    sample = 5 if quick else 25
    sets: dict[str, Sequence[Operator]] = {"mixed": MIXED}
    sets |= {f"all {operator}": [operator] for operator in ("In", *OTHERS)}
    rows = []
    for name, operators in sets.items():
        selectors = [selector(chance, operators) for _ in range(SELECTORS)]
        rows += rows_of(name, selectors, nodes, sample)
    rows += rows_of("pools", [pool_selector(chance, ["In", *OTHERS]) for _ in range(SELECTORS)], nodes, sample)
    owned = [f"team-{i}" for i in range(SELECTORS)]
    own_nodes = [Node(n.name, dict(n.labels) | dict.fromkeys(chance.sample(owned, 3), "true")) for n in nodes]
    rows += rows_of("own keys", [NodeSelector.parse(f"{key}=true") for key in owned], own_nodes, sample)
    texts = (f"{RACK}=rack-1", f"{RACK}=rack-2", f"{RACK} in (rack-1,rack-2),!cordoned", "example.com/cpus>8")
    return rows + [one_match(text) for text in texts]


if __name__ == "__main__":
    for label, value, unit in run():
        print(f"{label:<72} {value:>10.2f} {unit}")
