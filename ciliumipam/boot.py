"""The time on this machine that leases count in."""

from __future__ import annotations

import time
from functools import cache

from ciliumipam.lease import NEVER, Moment

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@cache
def boot_id() -> str:
    """The id of this start of the machine, as Linux makes it up; "" where there is none."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:  # noqa: PTH123 - pathlib costs a CNI call more than the reading
            return file.read().strip()
    except OSError:
        return ""


def this_moment() -> Moment:
    """Now. A system without boot ids and CLOCK_BOOTTIME has no moment on which a lease could be relied."""
    boot = boot_id()
    return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME)) if boot else NEVER
