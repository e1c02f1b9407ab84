"""Hypothesis profiles: `dev` looks for something new at every run, `ci` finds the same in every run, `soak` looks long.

`few` is for measuring coverage: what only chance reaches is not covered. `mutation` fails fast.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from ciliumipam.store.sqlite import SqliteStore
from ciliumipam.testing.control_plane import fixtures

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("dev", max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=SLOW)
settings.register_profile(
    "ci",
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=SLOW,
)
settings.register_profile("soak", max_examples=5000, stateful_step_count=200, deadline=None, suppress_health_check=SLOW)
settings.register_profile(
    "few",
    max_examples=5,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=SLOW,
)
settings.register_profile(
    "mutation",  # thousands of runs that end at the first failure: what it shrinks to is of no interest
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=SLOW,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

server_binaries = fixtures.server_binaries
control_plane = fixtures.control_plane


@pytest.fixture(autouse=True)
def _stores_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test opened: Python 3.13 warns of every SQLite connection that is left to the collector."""
    opened: list[SqliteStore] = []
    init = SqliteStore.__init__

    def noted(self: SqliteStore, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        opened.append(self)

    monkeypatch.setattr(SqliteStore, "__init__", noted)
    yield
    for store in opened:
        store.close()
