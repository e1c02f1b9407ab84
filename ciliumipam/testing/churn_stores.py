"""Where the lives of `churn` are lived: in memory, in two stores, or in a file with a handle for each writer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ciliumipam.store import Store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore


class Stores:
    """Where a world keeps its records, and how a writer gets at them.

    Args:
        kind: "memory": one `MemoryStore` for all writers. "two": blocks in one, addresses in another. "sqlite": a file, and a handle
            of its own for each writer.
        path: The file, which is new; by default one in a directory that goes with this object.
        synchronous: As `SqliteStore` has it.
    """

    def __init__(
        self,
        kind: Literal["memory", "two", "sqlite"] = "memory",
        path: Path | None = None,
        synchronous: Literal["FULL", "NORMAL"] = "NORMAL",
    ) -> None:
        self._shared = {"memory": (MemoryStore(),), "two": (MemoryStore(), MemoryStore()), "sqlite": ()}[kind]
        self._synchronous = synchronous
        self._directory = tempfile.mkdtemp() if kind == "sqlite" and path is None else None
        self._path = Path(self._directory) / "ipam.db" if self._directory is not None else path
        self._open: list[Store] = []

    def open(self) -> tuple[Store, ...]:
        """A handle: one store, or one for blocks and one for addresses."""
        if self._shared or self._path is None:
            return self._shared
        self._open.append(SqliteStore(self._path, synchronous=self._synchronous))
        return (self._open[-1],)

    def drop(self, handle: Iterable[Store]) -> None:
        """A handle is not needed any more."""
        for store in handle:
            if store in self._open:
                self._open.remove(store)
                store.close()

    def close(self) -> None:
        """Nothing of it is needed any more."""
        self.drop(list(self._open))
        if self._directory is not None:
            shutil.rmtree(self._directory)


__all__ = ["Stores"]
