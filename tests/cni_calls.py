"""Calls of CNI plugins as real processes, for the tests of `ciliumipam-cni`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

NETWORK = "pods"
BLOCKS = ("10.7.1.0/24", "fd07:1::/64")


class Answer(NamedTuple):
    """What a call came to; `said` is None where it said nothing."""

    code: int
    said: Any
    errors: str


def environment(command: str, container: str = "c1", interface: str = "eth0", arguments: str = "") -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": "/run/netns/none",
        "CNI_IFNAME": interface,
        "CNI_ARGS": arguments,
        "CNI_PATH": "/opt/cni/bin",
        "PATH": "/usr/bin:/bin",
    }


def network(store: Path, *, version: str = "1.1.0", name: str = NETWORK, **ipam: Any) -> dict[str, Any]:
    """A configuration; without `node` and `blocks` it has the usual blocks."""
    if "node" not in ipam and "blocks" not in ipam:
        ipam["blocks"] = list(BLOCKS)
    return {"cniVersion": version, "name": name, "type": "ptp", "ipam": {"type": "ciliumipam-cni", "store": f"sqlite:{store}", **ipam}}


def call(program: Path, command: str, stdin: Any, container: str = "c1", interface: str = "eth0", arguments: str = "", **more: str) -> Answer:
    """One call; the configuration is an object, or text as it is."""
    text = stdin if isinstance(stdin, str) else json.dumps(stdin)
    env = {**environment(command, container, interface, arguments), **more}
    done = subprocess.run([program], input=text, env=env, capture_output=True, text=True, timeout=120, check=False)
    return Answer(done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr)


def addresses(answer: Answer) -> list[str]:
    assert answer.code == 0, answer
    return [each["address"] for each in answer.said["ips"]]
