"""Fixtures for pytest; name those that you want in your `conftest.py`: `control_plane = fixtures.control_plane`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ciliumipam.testing.control_plane.access import ControlPlane
from ciliumipam.testing.control_plane.binaries import Binaries, find_binaries, skip_reason
from ciliumipam.testing.control_plane.scratch import shared


@pytest.fixture(scope="session")
def server_binaries() -> Binaries:
    """The programs, for a test that starts a control plane of its own; it is skipped where they are not and cannot be built."""
    if reason := skip_reason():
        pytest.skip(reason)
    return find_binaries()


@pytest.fixture(scope="session")
def control_plane(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane for the whole session, one also where pytest-xdist runs several workers: tests choose names of their own."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "control-plane"
    with shared(folder, server_binaries) as plane:
        yield plane
