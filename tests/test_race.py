"""The race against the peers: everybody takes part, all hold the same, and what is told is what was measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.peers import turns
from benchmarks.peers.course import CONTESTANTS, Case, Curve, bitmap, case, curves, held, part
from benchmarks.peers.report import lost, markdown, plain, ratio_table, ratios, score, times, unique
from benchmarks.peers.turns import QUICK, TOO_LONG, Figure, Outcome, Outcomes, Runner, race
from ciliumipam.testing.go_build import skip_reason

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(bool(skip_reason()), reason=skip_reason())
def test_the_quick_race_ends_well_and_has_a_figure_for_everybody() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    for each in CONTESTANTS:
        rows = [line for line in ran.stdout.splitlines() if line.startswith(f"{each.name}  ")]
        assert any("±" in row for row in rows), f"{each.name} was not measured:\n{ran.stdout}"
    assert "Where a peer is faster" in ran.stdout
    for name in ("Go 1", "go-ipam v", "Kubernetes v", "host-local v", "whereabouts v"):
        assert name in ran.stdout


def test_what_is_held_is_the_same_for_all_and_as_much_as_is_said() -> None:
    for of in (case("address", 20, 32, 0.5), case("block", 16, 24, 0.9), case("address", 24, 32, 0.5, lowest=True)):
        numbers = list(held(of))
        bits = int(bitmap(of), 16)

        assert len(set(numbers)) == len(numbers) == of.held == bits.bit_count()
        assert all(bits >> number & 1 for number in numbers)

    full = set(held(case("address", 24, 32, 1.0)))
    assert set(range(1, 255)) - full == {128}, "the middle one stays free"
    assert set(range(256)) - set(held(case("block", 16, 24, 1.0))) == {128}
    assert list(held(case("address", 24, 32, 0.0))) == [1], "the gateway"
    assert list(held(case("address", 24, 32, 0.02, lowest=True))) == [1, 2, 3, 4, 5]


def test_every_curve_is_over_one_job_that_all_of_its_contestants_do() -> None:
    for quick in (False, True):
        for curve in curves(quick=quick):
            (job,) = {each.job for each in curve.cases.values()}
            assert {each.home for each in part(job)} == {"ours", "Go", "Python"}
            assert all(0 <= each.held < each.pieces for each in curve.cases.values())


@pytest.mark.parametrize("of", [case("address", 24, 32, 0.99), case("block", 16, 24, 0.9)])
def test_ours_and_the_python_peers_are_measured_on_what_is_held(
    of: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "BOUND", 60.0)  # what is too slow is another matter, and a busy machine is slow
    with ExitStack() as stack:
        runners = [stack.enter_context(Runner(each, tmp_path)) for each in part(of.job) if each.home != "Go"]
        outcomes = race(of, runners, QUICK, {})

    assert list(outcomes) == [each.key for each in part(of.job) if each.home != "Go"]
    for outcome in outcomes.values():
        assert isinstance(outcome, Figure)
        assert 0 < outcome.low <= outcome.median <= outcome.high


def test_who_takes_too_long_has_no_figure_and_who_is_not_ready_does_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    of = case("address", 24, 32, 0.5)
    core = part("address")[0]

    monkeypatch.setattr(turns, "BOUND", 0.0)
    with Runner(core, tmp_path) as runner:
        assert race(of, [runner], QUICK, {}) == {"core": TOO_LONG}

    monkeypatch.setattr(turns, "SET_UP", 0.0)
    with Runner(core, tmp_path) as runner:
        assert race(of, [runner], QUICK, {}) == {"core": "not ready after 0 s"}


def some(values: Iterable[Outcome]) -> tuple[Curve, Outcomes]:
    """One case of a job for blocks, with these outcomes, in the order of the contestants."""
    of = case("block", 16, 24, 0.5)
    outcomes = {(of, each.key): value for each, value in zip(part("block"), values, strict=True)}
    return Curve("blocks", "One /24 of a /16", "how full it is", {"half": of}), outcomes


def test_tables_tell_figures_ratios_and_losses() -> None:
    figures = [Figure(value, value * 0.9, value * 1.1) for value in (1000.0, 4000.0, 500.0, 2e6)]
    curve, outcomes = some([*figures, TOO_LONG, "refused"])

    assert [row[1] for row in times(curve, outcomes)] == [
        "half",
        "1.00 µs ±10%",
        "4.00 µs ±10%",
        "500 ns ±10%",
        "2.00 ms ±10%",
        "> 1 s",
        "refused",
    ]
    assert ratio_table(curve, outcomes)[1:5] == [
        ["Kubernetes CidrSet ÷ core", "0.5"],
        ["Kubernetes CidrSet ÷ CidrCarver", "0.12"],
        ["go-ipam ÷ core", "2,000"],
        ["go-ipam ÷ CidrCarver", "500"],
    ]
    assert ratio_table(curve, outcomes)[5:] == [[f"{n} ÷ {o}", ""] for n in ("netaddr IPSet", "ipaddress") for o in ("core", "CidrCarver")]

    found = unique([*ratios([curve], outcomes), *ratios([curve], outcomes)])
    assert score(found)[1:] == [
        ["Kubernetes CidrSet", "block", "core", "1", "0", "1", "0.5", "0.5"],
        ["Kubernetes CidrSet", "block", "CidrCarver", "1", "0", "1", "0.12", "0.12"],
        ["go-ipam", "block", "core", "1", "1", "0", "2,000", "2,000"],
        ["go-ipam", "block", "CidrCarver", "1", "1", "0", "500", "500"],
    ]
    assert lost(found)[1:] == [
        ["CidrCarver", "Kubernetes CidrSet", "One /24 of a /16", "half: 0.12"],
        ["core", "Kubernetes CidrSet", "One /24 of a /16", "half: 0.5"],
    ]
    assert plain([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc  d"
    assert markdown([["a", "b"], ["c", "d"]]) == "| a | b |\n| --- | ---: |\n| c | d |"


def test_a_picture_is_small_well_formed_and_the_same_for_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'bench'")
    from benchmarks.peers.pictures import draw  # noqa: PLC0415 - needs matplotlib

    curve, outcomes = some([*(Figure(value, value, value) for value in (1e3, 1.01e3, 1.02e3, 2e6, 3e6)), TOO_LONG])
    curve = curve._replace(cases={**curve.cases, "again": curve.cases["half"]})
    for name in ("one.svg", "two.svg"):
        draw(curve, outcomes, "a machine, a day", tmp_path / name)

    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert len(text) < 60_000
    words = [element.text for element in ET.fromstring(text).iter() if element.tag.endswith("text")]  # noqa: S314 - our own
    assert {each.name for each in part("block")} <= set(words)
    assert "a machine, a day" in words
