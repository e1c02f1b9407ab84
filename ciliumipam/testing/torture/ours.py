"""Adapters for the allocators of this library; also an example of one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ciliumipam import Ipam, MemoryStore, Node, NodeAllocator, NodeSelector, PoolSpec, SqliteStore, Store
from ciliumipam.addresses import Policy
from ciliumipam.errors import ExhaustedError, InvalidError, StateError
from ciliumipam.testing.torture.protocol import (
    Address,
    CallRefusedError,
    Claims,
    Network,
    RangeExhaustedError,
    Run,
    Writer,
    hosts,
)

_NODE = "node"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ExhaustedError as error:
        raise RangeExhaustedError(str(error)) from error
    except (StateError, InvalidError) as error:
        raise CallRefusedError(str(error)) from error


class IpamAllocator:
    """`Ipam` with one node, whose one block is the range, on a store that outlives the handles on it."""

    claims = Claims(given=True, restarts=True, writers="at once")

    def __init__(self, store: Literal["memory", "sqlite"] = "sqlite") -> None:
        """Choose a store. In SQLite each writer opens the file by itself; in memory both share what there is."""
        self._kind = store
        self._folder = tempfile.TemporaryDirectory()
        self._files = 0
        self._connect: Callable[[], Store] = MemoryStore
        self._handles: list[Ipam] = []

    def open(self, network: Network) -> list[Run]:
        """A new store with a pool of one block."""
        if self._kind == "memory":
            store = MemoryStore()
            self._connect = lambda: store
        else:
            self._files += 1
            path = Path(self._folder.name) / f"{self._files}.db"
            self._connect = lambda: SqliteStore(path, synchronous="NORMAL")
        length = network.prefixlen
        with _translated():
            pool = PoolSpec(
                name="pool",
                cidrs=[network],
                selector=NodeSelector.everything(),
                block_length_v4=length if network.version == 4 else None,
                block_length_v6=length if network.version == 6 else None,
            )
        self.restart()
        self._handles[0].apply(pools=[pool], nodes=[Node(_NODE)])
        return hosts(network)

    def restart(self) -> None:
        """New handles, which know only what is in the store."""
        self._drop()
        self._handles = [Ipam(self._connect())]

    def another(self) -> Writer:
        """A further handle on the store."""
        self._handles.append(Ipam(self._connect()))
        return _IpamWriter(self._handles[-1])

    def allocate(self, owner: str, address: Address | None) -> Address:
        """By the first handle."""
        return _IpamWriter(self._handles[0]).allocate(owner, address)

    def release(self, owner: str, address: Address | None) -> None:
        """By the first handle."""
        _IpamWriter(self._handles[0]).release(owner, address)

    def close(self) -> None:
        """Remove the files."""
        self._drop()
        self._folder.cleanup()

    def _drop(self) -> None:
        if self._kind == "sqlite":  # a store in memory is shared, and ends for all handles once it is closed
            for handle in self._handles:
                handle.close()
        self._handles = []


class _IpamWriter:
    def __init__(self, ipam: Ipam) -> None:
        self._ipam = ipam

    def allocate(self, owner: str, address: Address | None) -> Address:
        with _translated():
            return self._ipam.allocate(_NODE, owner, address=address)[0].address

    def release(self, owner: str, address: Address | None) -> None:  # noqa: ARG002 - an owner releases what it holds
        with _translated():
            self._ipam.release(_NODE, owner)


class NodeAddresses:
    """`NodeAllocator` with one block. What it keeps over a restart is what `holdings` tells, as a caller would keep it."""

    claims = Claims(given=True, restarts=True)

    def __init__(self, policy: Policy = "next") -> None:
        """Choose a policy."""
        self._policy: Policy = policy
        self._network: Network | None = None
        self._allocator = NodeAllocator()

    def open(self, network: Network) -> list[Run]:
        """A new allocator."""
        self._network = network
        self._allocator = NodeAllocator([network], policy=self._policy)
        return hosts(network)

    def restart(self) -> None:
        """A new allocator that is told what is held."""
        assert self._network is not None
        kept = self._allocator.holdings()
        self._allocator = NodeAllocator([self._network], policy=self._policy)
        for holding in kept:
            self._allocator.occupy(holding.address, holding.owner, holding.fence, holding.label)
        self._allocator.check_invariants()

    def allocate(self, owner: str, address: Address | None) -> Address:
        """Give an owner an address."""
        with _translated():
            return self._allocator.allocate(owner, address=address).address

    def release(self, owner: str, address: Address | None) -> None:  # noqa: ARG002 - an owner releases what it holds
        """Take back what an owner holds."""
        self._allocator.release(owner)

    def close(self) -> None:
        """Nothing is open."""
