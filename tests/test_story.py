"""The seed's story, end to end: the command in processes of its own, one store on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"


class Shell:
    """Runs `python -m ciliumipam` on one store, each command in a process of its own."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ciliumipam", "--store", f"sqlite:{self.store}", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)

    def json(self, *arguments: str) -> Any:
        answer = self.run(*arguments, "-o", "json")
        assert answer.returncode == 0, answer.stderr
        value = json.loads(answer.stdout)
        return value.get("items", value)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "ipam.db")


def test_the_seeds_story_from_the_manifests_to_the_last_address_and_back(shell: Shell) -> None:
    for name in ("node-1", "node-2"):  # kubectl apply -f node-1-ipam-config.yaml, as the text has it
        assert shell.run("apply", "-f", str(EXAMPLES / "seed" / f"{name}-ipam-config.yaml")).returncode == 0
    assert shell.json("get", "blocks") == []  # no node is known, so nothing is carved
    for name in ("node-1", "node-2"):
        assert shell.run("apply", "-f", str(EXAMPLES / "seed" / f"{name}.yaml")).returncode == 0

    assert {node["name"]: node["podCIDRs"] for node in shell.json("get", "nodes")} == {
        "node-1": ["10.0.1.0/24"],
        "node-2": ["10.0.2.0/24"],
    }
    shown = yaml.safe_load(shell.run("get", "ciliumnode", "node-1", "-o", "yaml").stdout)
    assert (shown["kind"], shown["spec"]["ipam"]["podCIDRs"]) == ("CiliumNode", ["10.0.1.0/24"])

    # node-1 is filled to its last address, by two calls
    first = shell.json("allocate", "node-1", "default/web-0")
    rest = shell.json("allocate", "node-1", *(f"default/web-{n}" for n in range(1, 254)))
    held = [ip_address(each["address"]) for each in first + rest]
    assert sorted(map(str, held)) == sorted(f"10.0.1.{n}" for n in range(1, 255))
    assert all(address in ip_network("10.0.1.0/24") for address in held)

    # it is refused one more, with what was looked at, and asking again for what is held is no refusal
    refused = shell.run("allocate", "node-1", "default/one-too-many")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "10.0.1.0/24" in refused.stderr
    assert "254 in use" in refused.stderr
    assert shell.json("allocate", "node-1", "default/web-0") == first

    # node-2 has not noticed
    other = shell.json("allocate", "node-2", "default/db-0")
    assert [each["address"] for each in other] == ["10.0.2.1"]
    assert {node["name"]: node["utilization"]["ipv4"]["inUse"] for node in shell.json("get", "nodes")} == {
        "node-1": 254,
        "node-2": 1,
    }

    # every process was a restart; what one released the next can have
    freed = shell.json("release", "node-1", "default/web-7")
    again = shell.json("allocate", "node-1", "default/one-too-many")
    assert [each["address"] for each in again] == [each["address"] for each in freed]
    assert again[0]["fence"] > freed[0]["fence"]
    late = shell.run("release", "--address", freed[0]["address"], "--fence", str(freed[0]["fence"]))
    assert late.returncode == 3
    assert shell.json("allocate", "node-1", "default/one-too-many") == again

    assert shell.run("check").returncode == 0


def test_applying_again_changes_nothing(shell: Shell) -> None:
    assert shell.json("apply", "-f", str(EXAMPLES / "seed"))["changes"] != []
    before = shell.json("get", "blocks")

    assert shell.json("apply", "-f", str(EXAMPLES / "seed"))["changes"] == []

    assert shell.json("get", "blocks") == before


def test_the_story_is_the_same_with_both_families(shell: Shell) -> None:
    shell.json("apply", "-f", str(EXAMPLES / "dual-stack"))

    nodes = {node["name"]: [ip_network(cidr) for cidr in node["podCIDRs"]] for node in shell.json("get", "nodes")}
    assert [[cidr.version for cidr in nodes[f"node-{letter}"]] for letter in "abc"] == [[4, 6], [4, 6], [4, 6]]
    assert [cidr.prefixlen for cidr in nodes["node-a"]] == [24, 64]
    assert [cidr.prefixlen for cidr in nodes["node-c"]] == [26, 120]
    everything = [cidr for cidrs in nodes.values() for cidr in cidrs]
    assert not any(a.version == b.version and a.overlaps(b) for i, a in enumerate(everything) for b in everything[:i])

    for name, cidrs in nodes.items():
        pod = shell.json("allocate", name, f"default/on-{name}")
        assert [each["family"] for each in pod] == [4, 6]
        assert all(ip_address(each["address"]) in cidr for each, cidr in zip(pod, cidrs, strict=True))

    # the small IPv4 block is full first; then nobody gets half of what was asked for
    shell.json("allocate", "node-c", *(f"default/fill-{n}" for n in range(61)))
    assert shell.run("allocate", "node-c", "default/one-too-many").returncode == 4
    assert not [each for each in shell.json("get", "addresses", "node-c") if each["owner"] == "default/one-too-many"]
    assert [each["family"] for each in shell.json("allocate", "node-c", "default/one-too-many", "--family", "6")] == [6]
    assert shell.run("check").returncode == 0


def test_a_node_that_is_gone_gives_its_cidr_to_the_next(shell: Shell, tmp_path: Path) -> None:
    shell.json("apply", "-f", str(EXAMPLES / "seed"))
    shell.json("allocate", "node-1", "default/web-0")
    assert shell.run("delete", "node", "node-1").returncode == 3

    shell.json("release", "node-1", "default/web-0")
    shell.json("delete", "node", "node-1")
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-9", "labels": {"kubernetes.io/hostname": "node-1"}},
    }
    (tmp_path / "node-9.json").write_text(json.dumps(node))
    shell.json("apply", "-f", str(tmp_path / "node-9.json"))

    blocks = shell.json("get", "blocks", "node-9")
    assert [(block["block"], block["fence"] > 1) for block in blocks] == [("10.0.1.0/24", True)]
    assert shell.run("check").returncode == 0
