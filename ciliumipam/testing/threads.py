"""Threads that race on purpose: they meet at a barrier, and the interpreter switches between them as often as it can."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

_T = TypeVar("_T")


def together(*works: Callable[[], _T]) -> list[_T]:
    """Do all works at once, each in a thread of its own, which take turns as often as possible; returns what they return."""
    barrier = Barrier(len(works))
    interval = sys.getswitchinterval()

    def begin(work: Callable[[], _T]) -> _T:
        barrier.wait()
        return work()

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            return list(pool.map(begin, works))
    finally:
        sys.setswitchinterval(interval)
