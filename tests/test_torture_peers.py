"""Real allocators of others under torture; `docs/explanation/peers-tortured.md` has the long hunts.

A fault that is known is replayed here, so that it is noticed when its owner has mended it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ciliumipam.testing.go_build import go_build, skip_reason
from ciliumipam.testing.torture import LinesAllocator, Report, read_steps, replay, torture

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / "peers"
WITH_GO = pytest.mark.skipif(bool(skip_reason()), reason=skip_reason())
SMALL = ["10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30", "10.0.0.0/29", "fd00::/127", "fd00::/126", "fd00::/125"]


@pytest.fixture(autouse=True)
def _package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def peer(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests" / "peers" / f"{name}.py"), *arguments]


@pytest.fixture(scope="module")
def go_ipam() -> str:
    return str(go_build(PEERS, "./lines"))


def hunted(command: list[str], *, seed: int, steps: int) -> Report:
    with LinesAllocator(command, timeout=60) as allocator:
        return torture(allocator, seed=seed, steps=steps, ranges=SMALL)


def replayed(command: list[str], steps: str, times: int = 1) -> Report:
    with LinesAllocator(command, timeout=60) as allocator:
        return replay(allocator, read_steps(steps), times=times)


def broken(report: Report) -> str:
    return "" if report.fault is None else report.fault.broken


def test_in_the_ipset_of_netaddr_nothing_is_found() -> None:
    report = hunted(peer("ipset"), seed=1, steps=1000)

    assert report.ok, str(report)
    assert not report.refused


@WITH_GO
def test_in_a_go_ipam_that_releases_only_what_was_given_nothing_is_found(go_ipam: str) -> None:
    report = hunted([go_ipam, "careful"], seed=1, steps=400)

    assert report.ok, str(report)
    assert report.answers["at once: an address and an address"] > 0


@WITH_GO
@pytest.mark.parametrize(
    ("network", "kept_back"), [("10.0.0.0/30", "10.0.0.0"), ("10.0.0.0/30", "10.0.0.3"), ("fd00::/126", "fd00::")]
)
def test_go_ipam_gives_its_network_and_broadcast_address_once_somebody_released_them(
    go_ipam: str, network: str, kept_back: str
) -> None:
    steps = f"""
{{"do": "open", "network": "{network}"}}
{{"do": "allocate", "owner": "a", "address": "{kept_back}"}}
{{"do": "release", "owner": "a", "address": "{kept_back}"}}
{{"do": "allocate", "owner": "a", "address": "{kept_back}"}}
"""

    report = replayed([go_ipam], steps)

    assert broken(report) == "reserved"
    assert report.answers["allocate a given address: refused"] == 1
    assert report.answers["allocate a given address: an address"] == 1
    assert broken(replayed([go_ipam, "careful"], steps)) == ""


@WITH_GO
def test_in_a_host_local_that_is_called_as_specified_nothing_is_found() -> None:
    report = hunted(peer("host_local", "careful"), seed=1, steps=200)

    assert report.ok, str(report)
    assert {"10.0.0.0/32", "10.0.0.0/31", "fd00::/127"} >= {*report.refused}


@WITH_GO
def test_host_local_gives_a_second_address_to_a_container_that_asks_for_a_given_one() -> None:
    steps = """
{"do": "open", "network": "10.0.0.0/29"}
{"do": "allocate", "owner": "a"}
{"do": "allocate", "owner": "a"}
{"do": "allocate", "owner": "a", "address": "10.0.0.3"}
"""

    report = replayed(peer("host_local"), steps)

    assert broken(report) == "again"
    assert report.answers["allocate: refused"] == 1
    assert report.fault is not None
    assert report.fault.sentence == "gave 10.0.0.3 to a, which holds 10.0.0.2 and must be refused"


@WITH_GO
def test_host_local_is_exhausted_for_a_moment_by_a_request_that_it_refuses() -> None:
    steps = """
{"do": "open", "network": "10.0.0.0/30"}
{"do": "together", "calls": [{"do": "allocate", "owner": "a"}, {"do": "allocate", "owner": "b", "address": "10.0.0.3", "writer": 1}]}
"""

    report = replayed(peer("host_local"), steps, times=2000)

    assert broken(report) == "early", "in 2000 tries the two calls never met, or it is mended"
