"""Torture for allocators of IP addresses, anybody's, in any language: a small protocol, a driver that hunts, an oracle that judges.

`torture(adapter, seed=..., steps=...)` hunts, `replay(adapter, steps)` does again what was found. An adapter is a class with the
methods of `Allocator`; for a program that speaks JSON lines it is `LinesAllocator`. `machine` has the same for Hypothesis, and needs it.
"""

from ciliumipam.testing.torture.driver import RANGES, Fault, Report, replay, torture
from ciliumipam.testing.torture.lines import LinesAllocator
from ciliumipam.testing.torture.oracle import PROPERTIES
from ciliumipam.testing.torture.protocol import (
    Allocator,
    CallFailedError,
    CallHungError,
    CallRefusedError,
    Claims,
    RangeExhaustedError,
    SupportsRestart,
    SupportsWriters,
    Writer,
    hosts,
)
from ciliumipam.testing.torture.serving import serve
from ciliumipam.testing.torture.steps import Allocate, Open, Release, Restart, Step, Together, read_steps, to_lines

__all__ = [
    "PROPERTIES",
    "RANGES",
    "Allocate",
    "Allocator",
    "CallFailedError",
    "CallHungError",
    "CallRefusedError",
    "Claims",
    "Fault",
    "LinesAllocator",
    "Open",
    "RangeExhaustedError",
    "Release",
    "Report",
    "Restart",
    "Step",
    "SupportsRestart",
    "SupportsWriters",
    "Together",
    "Writer",
    "hosts",
    "read_steps",
    "replay",
    "serve",
    "to_lines",
    "torture",
]
