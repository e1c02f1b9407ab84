"""An eye of its own on a cluster: what nodes are said to hold, as etcd has it, from one moment to the next.

Shares no code with what it judges: standard library only, and nothing between it and etcd. Started by tests as a process:

    python overlap_watcher.py http://127.0.0.1:2379 /registry/cilium.io/ciliumnodes/

It reads the objects under a prefix and follows their changes one by one, in the one order that etcd has for all of them, also over
restarts of etcd and of the API server. On standard output, one JSON object a line: first `{"ready": REVISION}`, then one line for each

* `overlap`: two objects hold parts of one CIDR at one moment,
* `changed`: an object that had CIDRs lost one of them or got others, though it is the same object (uid),
* `gap`: etcd no longer has what comes next, so that something may have been missed,

and, when standard input ends, `{"end": {"events": N, "nodes": N, "cidrs": N}}` once everything up to then has been seen.
"""

import http.client
import json
import sys
import threading
import time
from base64 import b64decode, b64encode
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network


def tell(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Eye:
    def __init__(self, etcd: str, prefix: str) -> None:
        self.address = urlsplit(etcd)
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        self.range = {"key": b64encode(prefix.encode()).decode(), "range_end": b64encode(end.encode()).decode()}
        self.held: dict[str, tuple[str, tuple[Network, ...]]] = {}
        self.versions: dict[str, int] = {}
        self.events = 0
        self.revision = 0

    def ask(self, path: str, body: object, timeout: float) -> http.client.HTTPResponse:
        assert self.address.hostname is not None
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=timeout)
        connection.request("POST", path, body=json.dumps(body), headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(answer.status)
        return answer

    def read(self) -> tuple[int, list[dict[str, Any]]]:
        answer = json.load(self.ask("/v3/kv/range", self.range, 30))
        return int(answer["header"]["revision"]), answer.get("kvs") or []

    def see(self, kv: dict[str, Any], *, gone: bool) -> None:
        name = b64decode(kv["key"]).decode().rpartition("/")[2]
        before = self.held.pop(name, ("", ()))
        self.versions.pop(name, None)
        if gone:
            return
        item = json.loads(b64decode(kv["value"]))
        self.versions[name] = int(kv["mod_revision"])
        uid, spec = item["metadata"]["uid"], item.get("spec") or {}
        mine = tuple(ip_network(cidr) for cidr in (spec.get("ipam") or {}).get("podCIDRs") or ())
        if before[0] == uid and before[1] and before[1] != mine:
            tell(changed=name, had=[str(each) for each in before[1]], has=[str(each) for each in mine], revision=self.revision)
        for other, (_, theirs) in self.held.items() if mine else ():
            for left in mine:
                for right in theirs:
                    if left.version == right.version and left.overlaps(right):
                        tell(overlap=[name, other], cidrs=[str(left), str(right)], revision=self.revision)
        self.held[name] = uid, mine

    def begin(self) -> None:
        self.revision, found = self.read()
        for kv in found:
            self.see(kv, gone=False)

    def follow(self, until: "Until") -> None:
        self.begin()
        tell(ready=self.revision)
        while not until.reached(self):
            try:
                self.watch(until)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.1)  # etcd is away: nothing can happen there meanwhile

    def watch(self, until: "Until") -> None:
        answer = self.ask("/v3/watch", {"create_request": {**self.range, "start_revision": str(self.revision + 1)}}, 0.5)
        for line in answer:
            result = json.loads(line)["result"]
            if int(result.get("compact_revision") or 0):
                tell(gap=self.revision)
                self.held.clear()
                self.versions.clear()
                self.begin()
                return
            for event in result.get("events") or ():
                self.revision = int(event["kv"]["mod_revision"])
                self.events += 1
                self.see(event["kv"], gone=event.get("type") == "DELETE")
            if until.reached(self):
                return


class Until:
    """The moment at which the test has closed our input: everything that etcd had by then is to be seen still."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        sys.stdin.read()
        self.closed.set()

    def reached(self, eye: Eye) -> bool:
        if not self.closed.is_set():
            return False
        present = {b64decode(kv["key"]).decode().rpartition("/")[2]: int(kv["mod_revision"]) for kv in eye.read()[1]}
        return present == eye.versions


def main() -> None:
    eye = Eye(*sys.argv[1:3])
    eye.follow(Until())
    cidrs = sum(len(mine) for _, mine in eye.held.values())
    tell(end={"events": eye.events, "nodes": len(eye.held), "cidrs": cidrs})


if __name__ == "__main__":
    main()
