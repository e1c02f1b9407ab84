"""The scenarios that the interleaving checker walks, by what they are about; `calls` is what they are written in."""

from __future__ import annotations

from ciliumipam.testing.actors import Scenario
from ciliumipam.testing.scenarios.addresses import ADDRESSES
from ciliumipam.testing.scenarios.agents import AGENTS
from ciliumipam.testing.scenarios.blocks import BLOCKS
from ciliumipam.testing.scenarios.hand_back import HAND_BACK
from ciliumipam.testing.scenarios.moves import MOVES
from ciliumipam.testing.scenarios.one_shot import ONE_SHOT
from ciliumipam.testing.scenarios.repairs import REPAIRS


def scenarios() -> list[Scenario]:
    """All that are walked in every test run."""
    return [*BLOCKS, *ADDRESSES, *HAND_BACK, *MOVES, *REPAIRS, *ONE_SHOT, *AGENTS]


__all__ = ["scenarios"]
