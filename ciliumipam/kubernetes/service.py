"""`OperatorService`: one replica of the operator, as it runs in a cluster: leadership, the operator while it leads, and how it is.

`Operator` can be embedded by itself. This puts around it what a process of its own needs: a Lease, so that of several replicas one
acts; answers for probes; metrics; and an end in which the round is finished and the Lease given back. A standby holds nothing in memory
and watches nothing: who takes over reads everything, which it would do anyway before it decides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from ciliumipam.errors import IpamError
from ciliumipam.health import Health
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.lease import Lease
from ciliumipam.kubernetes.objects import POOLS
from ciliumipam.kubernetes.operator import Operator
from ciliumipam.kubernetes.report import ClusterReporter
from ciliumipam.kubernetes.reporter import Reporter, Reporters, Round

if TYPE_CHECKING:
    from ciliumipam.kubernetes.metrics import OperatorMetrics

LOG: Final = logging.getLogger("ciliumipam.operator")
PATIENCE: Final = 900.0
"""Seconds after which an operator that has ended no round, well or not, counts as stuck."""


class OperatorService(Reporter):
    """One replica. One thread calls `run`; any may ask `healthz` and `readyz`.

    Args:
        api: The cluster.
        make: Makes the operator of a term of leadership, which tells the reporter that it is given.
        instance: The name of this replica.
        lease: How it becomes the one that acts; None if it is the only one, or need not be.
        metrics: Who shows metrics.
        clock: A monotonic clock.
    """

    def __init__(
        self,
        api: Api,
        make: Callable[[Reporter], Operator],
        instance: str,
        *,
        lease: Lease | None = None,
        metrics: OperatorMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._make, self._lease, self._metrics, self._clock = api, make, lease, metrics, clock
        self._cluster = ClusterReporter(api, instance)
        self._reporter = Reporters(*(() if metrics is None else (metrics,)), self._cluster, self)
        self._operator: Operator | None = None
        self._thread: Thread | None = None
        self._ends = Event()
        self._pulse = clock()
        self._knows = False

    def run(self, stop: Event) -> None:
        """Act, or stand by, until told to stop; then finish the round that is under way and give the Lease back.

        Raises:
            IpamError: The cluster cannot be asked, lacks our definitions, or refuses. Told at the start, so that nobody waits for it.
        """
        self._api.list(POOLS)
        self._cluster.start()
        try:
            if self._lease is None:
                self._lead(True)  # noqa: FBT003 - the one thing that it says
                stop.wait()
                self._lead(False)  # noqa: FBT003 - the one thing that it says
            else:
                self._lease.run(stop, self._lead, self._complain)
        finally:
            self._cluster.close()

    def healthz(self) -> Health:
        """Whether everything that should run runs."""
        thread = self._thread
        if thread is None:
            return Health(is_well=True, says=f"standby{self._leader()}")
        if not thread.is_alive() and not self._ends.is_set():
            return Health(is_well=False, says="the operator has ended by itself; its log says why")
        silence = self._clock() - self._pulse
        if silence > PATIENCE:
            return Health(is_well=False, says=f"the operator has ended no round for {silence:.0f} s{self._trouble(': ')}")
        return Health(is_well=True, says="leader")

    def readyz(self) -> Health:
        """Whether it knows the cluster, or stands by for the one that does."""
        if self._thread is not None:
            trouble = self._trouble("; ")
            if not self._knows:
                return Health(is_well=False, says=f"leader: it has not come to the end of a round yet{trouble}")
            return Health(is_well=not trouble, says=f"leader{trouble}")
        known = self._lease is not None and self._lease.holder
        return Health(is_well=True, says=f"standby{self._leader()}") if known else Health(is_well=False, says="nobody leads yet, as far as is known")

    def round_done(self, done: Round) -> None:
        """Take the pulse; with the first round that came to its end the state is known, and can be shown."""
        self._pulse = self._clock()
        if done.error is None and not self._knows:
            self._knows = True
            if self._metrics is not None and self._operator is not None:
                self._metrics.show(self._operator.ipam)

    def _lead(self, leading: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Begin to act, or finish the round and stop."""
        if leading:
            LOG.info("leading=true")
            self._ends, self._pulse = Event(), self._clock()
            self._operator = self._make(self._reporter)
            self._thread = Thread(target=self._operator.run, args=(self._ends,), name="ciliumipam-operator", daemon=True)
            self._thread.start()
        elif self._thread is not None:
            LOG.info("leading=false: the round that is under way is finished")
            self._ends.set()
            if self._operator is not None:
                self._operator.wake()
            self._thread.join()
            self._thread, self._operator, self._knows = None, None, False
            if self._metrics is not None:
                self._metrics.show(None)
        self._reporter.leads(leading)

    def _trouble(self, before: str) -> str:
        """What the operator cannot follow; "" if there is nothing of that kind."""
        operator = self._operator
        trouble = operator.cluster.trouble() if operator is not None else ""
        return before + trouble if trouble else ""

    def _leader(self) -> str:
        return f" for {self._lease.holder}" if self._lease is not None and self._lease.holder else ""

    def _complain(self, error: IpamError) -> None:
        LOG.warning("the Lease cannot be asked for: %s", error)
