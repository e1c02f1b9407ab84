"""For how long a silent node relies on its blocks, and after how long others get them."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

from ciliumipam.errors import InvalidRequestError


class Terms(NamedTuple):
    """The two times, in seconds, and how they relate. `docs/explanation/node.md` argues the relation.

    Attributes:
        stop_after: A node gives out no address when its last confirmation was asked for longer ago.
        return_after: The blocks of a node that was silent for longer go to others.
        timeout: What a request of the node may take at the most.
    """

    stop_after: float = 60.0
    return_after: float = 600.0
    timeout: float = 30.0

    @staticmethod
    def least_return(stop_after: float, timeout: float = 30.0) -> float:
        """The shortest time after which blocks may return from nodes that stop after a time."""
        return 2 * stop_after + timeout

    def check(self) -> Terms:
        """The same, where they fit together.

        Raises:
            InvalidRequestError: They do not.
        """
        for name, value in self._asdict().items():
            if not isfinite(value) or value <= 0:
                raise InvalidRequestError(f"{name} is a number of seconds above 0, not {value}")
        least = self.least_return(self.stop_after, self.timeout)
        if self.return_after < least:
            raise InvalidRequestError(
                f"blocks of a silent node cannot return after {self.return_after:g} s: with stop_after {self.stop_after:g} and"
                f" a time-out of {self.timeout:g} s it has to be at least {least:g} s, so that the node has stopped giving out of them"
            )
        return self
