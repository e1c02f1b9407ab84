"""Where the time of a roll-out goes: 100,000 nodes get a block each, in memory, under Python's profiler, which is summed up by module.

`python -m benchmarks.profile_rollout [NODES]`. The profiler makes small functions look dearer than they are: the shares are right to
a few per cent, the seconds are not those of the benchmark.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.bench_facade import rollout


def shares(nodes: int, length: int) -> tuple[float, Counter[str]]:
    """Seconds under the profiler, and seconds spent in the code of each module itself, what is built in counted to its caller."""
    profile = cProfile.Profile()
    profile.enable()
    rollout(nodes, length)
    profile.disable()
    spent: Counter[str] = Counter()
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # not in the stubs
    for (file, _, _), (_, _, own, _, callers) in stats.items():
        if file.startswith(("~", "<")):  # built in or made by NamedTuple
            for (caller, _, _), (_, _, inside, _) in callers.items():
                spent[Path(caller).stem] += inside
        else:
            spent[Path(file).stem] += own
    return spent.total(), spent


def main() -> None:
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    total, spent = shares(nodes, 28)
    for module, seconds in spent.most_common(14):
        print(f"{seconds / total:6.1%}  {module}")


if __name__ == "__main__":
    main()
