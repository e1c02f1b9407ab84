"""An eye of its own on a cluster: what nodes are said to hold, as the raw objects say it, from one moment to the next.

Shares no code with what it judges: standard library only. Started by tests as a process:

    python overlap_watcher.py https://127.0.0.1:6443 TOKEN /apis/cilium.io/v2/ciliumnodes

It lists the objects, follows their changes one by one in the order in which the server made them (one kind of object has one order),
and keeps who holds which CIDRs. On standard output, one JSON object a line: first `{"ready": REVISION}`, then one line for each

* `overlap`: two objects hold parts of one CIDR at one moment,
* `changed`: an object that had CIDRs lost one of them or got others, though it is the same object (uid),
* `gap`: the server could not go on from where it was, so that something may have been missed,

and, when standard input ends, `{"end": {"events": N, "nodes": N, "cidrs": N}}` once everything up to then has been seen.
"""

import http.client
import json
import ssl
import sys
import threading
import time
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network


def tell(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Eye:
    def __init__(self, server: str, token: str, path: str) -> None:
        self.address, self.path = urlsplit(server), path
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.held: dict[str, tuple[str, tuple[Network, ...]]] = {}
        self.events = 0
        self.revision = ""

    def ask(self, query: str, timeout: float) -> http.client.HTTPResponse:
        assert self.address.hostname is not None
        # the certificate is one that the server made up for itself: nothing secret is read here
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(self.address.hostname, self.address.port, context=context, timeout=timeout)
        connection.request("GET", self.path + query, headers=self.headers)
        return connection.getresponse()

    def list(self) -> str:
        answer = json.load(self.ask("", 30))
        for item in answer["items"]:
            self.see("ADDED", item)
        return str(answer["metadata"]["resourceVersion"])

    def see(self, kind: str, item: dict[str, Any]) -> None:
        name, uid = item["metadata"]["name"], item["metadata"]["uid"]
        before = self.held.pop(name, ("", ()))
        if kind == "DELETED":
            return
        spec = item.get("spec") or {}
        told = (spec.get("ipam") or {}).get("podCIDRs") or spec.get("podCIDRs") or ()
        mine = tuple(ip_network(cidr) for cidr in told)
        if before[0] == uid and before[1] and before[1] != mine:
            tell(changed=name, had=[str(each) for each in before[1]], has=[str(each) for each in mine], revision=self.revision)
        for other, (_, theirs) in self.held.items() if mine else ():
            for left in mine:
                for right in theirs:
                    if left.version == right.version and left.overlaps(right):
                        tell(overlap=[name, other], cidrs=[str(left), str(right)], revision=self.revision)
        self.held[name] = uid, mine

    def follow(self, until: "Until") -> None:
        self.revision = self.list()
        tell(ready=self.revision)
        while not until.reached(self):
            try:
                self.watch(until)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.1)  # the server is away: nothing can happen there meanwhile

    def watch(self, until: "Until") -> None:
        query = f"?watch=1&allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion={self.revision}"
        answer = self.ask(query, 15)
        if answer.status == 410:
            self.gap()
            return
        if answer.status != 200:
            raise OSError(answer.status)
        for line in answer:
            event = json.loads(line)
            if event["type"] == "ERROR":
                if event["object"].get("code") == 410:
                    self.gap()
                return
            self.revision = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                self.events += 1
                self.see(event["type"], event["object"])
            if until.reached(self):
                return

    def gap(self) -> None:
        tell(gap=self.revision)
        self.held.clear()
        self.revision = self.list()


class Until:
    """The moment at which the test has closed our input: everything that the server had done by then is to be seen still."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.last = ""
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        sys.stdin.read()
        self.closed.set()

    def reached(self, eye: Eye) -> bool:
        if not self.closed.is_set():
            return False
        if not self.last:
            self.last = str(json.load(eye.ask("?limit=1", 30))["metadata"]["resourceVersion"])
        return int(eye.revision) >= int(self.last)


def main() -> None:
    eye = Eye(*sys.argv[1:4])
    eye.follow(Until())
    cidrs = sum(len(mine) for _, mine in eye.held.values())
    tell(end={"events": eye.events, "nodes": len(eye.held), "cidrs": cidrs})


if __name__ == "__main__":
    main()
