"""`AgentService`: an agent as a process of its own: a round every few seconds, at once where there is more to do, and how it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event
from typing import Final

from ciliumipam.agent.ledger_source import SilentNodes
from ciliumipam.agent.node_agent import NodeAgent, Round
from ciliumipam.errors import IpamError, StoreError
from ciliumipam.health import Health

LOG: Final = logging.getLogger("ciliumipam.agent")
PATIENCE: Final = 900.0
"""Seconds after which an agent that has ended no round, well or not, counts as stuck."""
_AT_ONCE: Final = 16
"""Rounds that follow each other without a pause at the most."""


class AgentService:
    """Rounds until told to stop. One thread calls `run`; any may ask `healthz` and `readyz`.

    Args:
        agent: The agent.
        every: Seconds between rounds where nothing changes; a third of the time for which a confirmation holds is good.
        silent: Who gives back what silent nodes hold, if this process does so as well.
        told: Told of every round, and how long it took.
        clock: A monotonic clock.
    """

    def __init__(
        self,
        agent: NodeAgent,
        *,
        every: float = 10.0,
        silent: SilentNodes | None = None,
        told: Callable[[Round | IpamError, float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is done yet."""
        self._agent, self._every, self._silent, self._told, self._clock = agent, every, silent, told, clock
        self._pulse = clock()
        self._said = ""

    def run(self, stop: Event) -> None:
        """Do rounds until told to stop; the one that is under way is finished."""
        while not stop.is_set():
            for _ in range(_AT_ONCE):
                if not self.step() or stop.is_set():
                    break
            stop.wait(self._every)

    def step(self) -> bool:
        """One round, and a look at silent nodes. Returns whether another one may have something to do at once."""
        begun = self._clock()
        changed = False
        try:
            done: Round | IpamError = self._agent.round()
        except IpamError as error:
            done = error
        if isinstance(done, Round):
            changed = done.changed
            self._log(done)
        elif str(done) != self._said:  # a source that is away for an hour is no line every ten seconds
            self._said = str(done)
            LOG.log(
                logging.WARNING if isinstance(done, StoreError) else logging.ERROR,
                "node=%s cannot confirm its blocks: %s",
                self._agent.node,
                str(done),
            )
        if self._silent is not None:
            try:
                for name in self._silent.look():
                    LOG.warning("node=%s was silent for too long: its blocks go to others", name)
            except IpamError as error:
                LOG.warning("silent nodes cannot be looked for: %s", str(error))
        self._pulse = self._clock()
        self._told(done, self._pulse - begun)
        return changed

    def healthz(self) -> Health:
        """Whether rounds are done."""
        silence = self._clock() - self._pulse
        if silence > PATIENCE:
            return Health(is_well=False, says=f"the agent has ended no round for {silence:.0f} s")
        return Health(is_well=True, says="running")

    def readyz(self) -> Health:
        """Whether the node gives out addresses."""
        try:
            reason = self._agent.why_silent()
        except IpamError as error:
            reason = str(error)
        return Health(is_well=not reason, says=reason or "the node gives out addresses")

    def _log(self, done: Round) -> None:
        node = self._agent.node
        for what, blocks in (("adopted", done.adopted), ("lost", done.lost), ("handed back", done.handed_back)):
            for block in blocks:
                LOG.info("node=%s block=%s %s", node, block, what)
        said = "; ".join(
            (*done.waiting, *(f"block {block} was lost, and addresses of it are in use here" for block in done.orphans))
        )
        if said and said != self._said:
            LOG.warning("node=%s waits: %s", node, said)
        elif self._said and not said:
            LOG.info("node=%s has its blocks confirmed", node)
        self._said = said
