"""`python -m ciliumipam.testing.torture ipam|ipam-memory|node`: lets an allocator of this library answer JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ciliumipam.testing.torture.ours import IpamAllocator, NodeAddresses
from ciliumipam.testing.torture.protocol import Allocator
from ciliumipam.testing.torture.serving import serve

OURS: dict[str, Callable[[], Allocator]] = {
    "ipam": lambda: IpamAllocator("sqlite"),
    "ipam-memory": lambda: IpamAllocator("memory"),
    "node": NodeAddresses,
}

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in OURS:
        sys.exit(f"say which: {', '.join(OURS)}")
    serve(OURS[name]())
