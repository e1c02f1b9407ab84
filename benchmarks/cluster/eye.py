"""When the nodes of a cluster got their blocks, by the clock of one watcher: the same for ours, for raw patches and for Cilium's."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from time import perf_counter
from typing import Any

from ciliumipam.testing.control_plane import ControlPlane

NODES = "/apis/cilium.io/v2/ciliumnodes"


def ask(plane: ControlPlane, method: str, path: str, body: object = None, *, timeout: float = 60) -> http.client.HTTPResponse:
    context = ssl.create_default_context(cafile=str(plane.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", plane.port, context=context, timeout=timeout)
    headers = {"Authorization": f"Bearer {plane.tokens['admin']}", "Content-Type": "application/json"}
    connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
    return connection.getresponse()


def read(plane: ControlPlane, path: str) -> dict[str, Any]:
    with ask(plane, "GET", path) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


class Eye:
    """Follows the CiliumNodes from now on.

    Attributes:
        seen: When each node was first seen with a block.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.seen: dict[str, float] = {}
        self._changed = threading.Condition()
        listing = read(plane, NODES)
        revision = listing["metadata"]["resourceVersion"]
        self.before = {item["metadata"]["name"] for item in listing["items"] if cidrs(item)}
        self._answer = ask(plane, "GET", f"{NODES}?watch=1&resourceVersion={revision}", timeout=600)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for line in self._answer:
            event = json.loads(line)
            now = perf_counter()
            name = event["object"]["metadata"]["name"]
            if event["type"] != "DELETED" and cidrs(event["object"]) and name not in self.seen and name not in self.before:
                with self._changed:
                    self.seen[name] = now
                    self._changed.notify_all()

    def wait(self, count: int, timeout: float) -> float:
        """When the last of so many nodes got its block."""
        with self._changed:
            done = self._changed.wait_for(lambda: len(self.seen) >= count, timeout)
        assert done, f"{len(self.seen)} of {count} nodes have a block after {timeout:g} s"
        return max(self.seen.values())

    def first(self) -> float:
        return min(self.seen.values())


def cidrs(obj: dict[str, Any]) -> list[str]:
    found: list[str] = ((obj.get("spec") or {}).get("ipam") or {}).get("podCIDRs") or []
    return found


def writes_and_reads(plane: ControlPlane) -> tuple[int, int]:
    """How many requests the server has counted that write, and how many that read; without watches and what it asks itself."""
    with ask(plane, "GET", "/metrics") as answer:
        text = answer.read().decode()
    counts = {"write": 0, "read": 0}
    for line in text.splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        labels, _, value = line.rpartition(" ")
        if 'verb="WATCH"' in labels or not any(group in labels for group in ('"ciliumipam.io"', '"cilium.io"', '"events.k8s.io"', 'resource="nodes"')):
            continue
        kind = "read" if any(f'verb="{verb}"' in labels for verb in ("GET", "LIST")) else "write"
        counts[kind] += int(float(value))
    return counts["write"], counts["read"]
