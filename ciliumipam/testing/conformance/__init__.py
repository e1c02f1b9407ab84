"""What every store must do: each sentence of the contract in `ciliumipam.store`, as tests that a backend inherits.

A backend author writes::

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self) -> Iterator[Store]:
            with closing(MyStore()) as store:
                yield store

and overrides, where there is such a thing: `peer`, the same records reached a second way (another connection, another process), so
that "by whomever" is tested across both; `losses`, ways in which a reply is lost; `forget`, which makes old changes expire. The number
in a test's name is that of its sentence, and what fails begins with the sentence. The tests measure no time: threads meet at a
barrier and then only race.
"""

from __future__ import annotations

import pytest

_PARTS = ("many_callers", "one_caller", "ordered_puts", "promises", "reader", "unknown_outcomes", "watching")
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in _PARTS)
)  # so that a failed assert shows its values everywhere

from ciliumipam.testing.conformance.many_callers import ManyCallers  # noqa: E402 - after the line above
from ciliumipam.testing.conformance.one_caller import OneCaller  # noqa: E402 - after the line above
from ciliumipam.testing.conformance.ordered_puts import OrderedPuts  # noqa: E402 - after the line above
from ciliumipam.testing.conformance.promises import PROMISES  # noqa: E402 - after the line above
from ciliumipam.testing.conformance.unknown_outcomes import UnknownOutcomes  # noqa: E402 - after the line above
from ciliumipam.testing.conformance.watching import Watching  # noqa: E402 - after the line above


class StoreConformance(Watching, UnknownOutcomes, OrderedPuts, ManyCallers, OneCaller):
    """Inherit, and override `store`. The tests of the last base run first: what is simple fails before what races."""


__all__ = ["PROMISES", "StoreConformance"]
