"""What stands wrong for long is logged when it comes up or changes, not in every round: conflicts, broken pools, orphans."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ciliumipam.records import Entry, Holding, PoolRecord
from ciliumipam.requests import Conflict

_LOG = logging.getLogger("ciliumipam.operator")


def orphans_of(held: Mapping[str, Sequence[Holding]], pools: Mapping[str, Entry]) -> dict[str, list[Holding]]:
    """The blocks by node whose pool is gone or no longer covers them. Those that never were of a pool are none. O(blocks x CIDRs of a pool)."""
    specs = {name: entry.record.spec for name, entry in pools.items() if isinstance(entry.record, PoolRecord)}
    found: dict[str, list[Holding]] = {}
    for node, blocks in held.items():
        for block in blocks:
            spec = specs.get(block.label)
            if block.label and (spec is None or spec.address_space != block.space or not spec.covers(block.prefix)):
                found.setdefault(node, []).append(block)
    return found


class Standing:
    """Remembers what was logged and stands still. One thread."""

    def __init__(self) -> None:
        """Nothing was logged."""
        self._told: dict[tuple[str, ...], str] = {}

    def tell(
        self,
        conflicts: Iterable[Conflict],
        broken: Iterable[tuple[Mapping[str, Any], str]],
        orphans: Mapping[str, Sequence[Holding]],
    ) -> None:
        """Log of what stands now that which did not stand so before."""
        before, self._told = self._told, {}
        for conflict in conflicts:
            node, block = conflict.existing.node, str(conflict.existing.prefix)
            if self._is_new(before, ("conflict", node, block, conflict.existing.source), str(conflict)):
                _LOG.warning("node=%s block=%s conflict: %s", node, block, conflict)
        for manifest, problem in broken:
            name, kind = manifest["metadata"]["name"], manifest["kind"]
            if self._is_new(before, ("broken", kind, name, manifest["metadata"].get("namespace", "")), problem):
                _LOG.warning("pool=%s kind=%s broken: %s", name, kind, problem)
        by_pool: dict[str, list[str]] = {}
        for orphan in (each for blocks in orphans.values() for each in blocks):
            by_pool.setdefault(orphan.label, []).append(orphan.piece)
        for pool, pieces in sorted(by_pool.items()):
            # a line for each pool, not for each of thousands of blocks; they grow fewer as nodes go, which is no news
            if self._is_new(before, ("orphans", pool), ""):
                what = "the pool is gone or no longer covers them; their nodes keep them, and nobody else gets them until they come back"
                _LOG.warning("pool=%s orphans=%d: %s", pool, len(pieces), what)

    def _is_new(self, before: Mapping[tuple[str, ...], str], key: tuple[str, ...], text: str) -> bool:
        self._told[key] = text
        return before.get(key) != text


__all__ = ["Standing", "orphans_of"]
