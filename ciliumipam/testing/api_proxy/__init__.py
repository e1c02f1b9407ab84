"""A proxy between clients and an API server that does to requests what networks and servers do to them, when a test says so.

    with FaultProxy(plane, seed=7) as proxy:                                      # any client, with proxy.kubeconfig
        proxy.plant(Cut("after"), verbs=["update"], path="*/cidrledgers/*")       # the write is done, the reply is lost
        proxy.plant(Answer(429, retry_after=1), times=3)
        proxy.plant(EndWatch(events=2, how="expired"))
        proxy.plant(Cut("before"), verbs=WRITES, chance=0.05, times=None)         # one write in twenty never arrives
        held = proxy.plant(Hold(reply=True), verbs=["create"])
        held.wait()                                                               # it has taken effect, and nobody knows yet
        held.release()
        with proxy.partition(silent=True): ...

It needs the standard library only.
"""

from ciliumipam.testing.api_proxy.connection import Seen
from ciliumipam.testing.api_proxy.faults import (
    READS,
    WRITES,
    Answer,
    Cut,
    EndWatch,
    Fault,
    Hold,
    Planted,
    Request,
    Silence,
)
from ciliumipam.testing.api_proxy.proxy import FaultProxy

__all__ = [
    "READS",
    "WRITES",
    "Answer",
    "Cut",
    "EndWatch",
    "Fault",
    "FaultProxy",
    "Hold",
    "Planted",
    "Request",
    "Seen",
    "Silence",
]
