"""The race: builds the peers, runs ours and theirs in turn, prints figures and ratios.

`python -m benchmarks.peers` needs Go and takes some minutes; `--quick` shows that everything runs. `--svg DIRECTORY` draws the curves
as well (extra `bench`). `--docs` draws them into `docs/pictures` and writes the figures into `docs/explanation/speed.md`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.__main__ import machine
from benchmarks.peers.course import CONTESTANTS, Case, Curve, curves
from benchmarks.peers.report import lost, markdown, plain, ratio_table, ratios, score, times, unique
from benchmarks.peers.turns import FULL, QUICK, ROOT, Outcomes, run, versions
from ciliumipam.testing.go_build import GoMissingError, go_build

MODULE = Path(__file__).parent
HOST_LOCAL = "github.com/containernetworking/plugins/plugins/ipam/host-local"
PEERS = {
    "go-ipam": "github.com/metal-stack/go-ipam",
    "host-local": "github.com/containernetworking/plugins",
    "Kubernetes": "k8s.io/kubernetes",
    "whereabouts": "github.com/k8snetworkplumbingwg/whereabouts",
}
PAGE = ROOT / "docs" / "explanation" / "speed.md"
PICTURES = ROOT / "docs" / "pictures"
BEGIN, END = "<!-- written by python -m benchmarks.peers --docs -->", "<!-- until here -->"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few cases, each measured for a moment: the figures mean nothing")
    parser.add_argument("--svg", type=Path, metavar="DIRECTORY", help="draw the curves into it")
    parser.add_argument("--docs", action="store_true", help="draw the curves for docs/, and write the figures there")
    given = parser.parse_args(arguments)
    begin = perf_counter()
    print("Go programs are built, which takes minutes the first time ...", file=sys.stderr, flush=True)
    try:
        program = go_build(MODULE, "./race", flags=["-ldflags=-s -w"])
        host_local = go_build(MODULE, HOST_LOCAL)
    except GoMissingError as error:
        print(error, file=sys.stderr)
        return 1
    told = versions(program)
    where = machine()
    against = f"Go {told['go']}; " + ", ".join(f"{name} {told[module]}" for name, module in PEERS.items())
    all_curves = curves(quick=given.quick)
    shared = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as directory:
        files = f"host-local's files are in memory ({shared})" if shared.is_dir() else "host-local's files are on a disk"
        print(f"{where}\n{against}\n{files}", flush=True)
        outcomes = run(
            (case for curve in all_curves for case in curve.cases.values()),
            program,
            QUICK if given.quick else FULL,
            {"directory": directory, "program": str(host_local)},
            progress,
        )
    found = unique(ratios(all_curves, outcomes))
    for curve in all_curves:
        print(f"\n{curve.title}, by {curve.across}\n{plain(times(curve, outcomes))}\n\n{plain(ratio_table(curve, outcomes))}")
    print(f"\nAll cases, theirs ÷ ours\n{plain(score(found))}")
    print(f"\nWhere a peer is faster\n{plain(lost(found))}")
    folder = PICTURES if given.docs else given.svg
    if folder is not None:
        draw_all(all_curves, outcomes, f"{where}\n{against}; {files}. python -m benchmarks.peers", folder)
    if given.docs:
        write_page(f"{where}.\n{against}.\n{files[0].upper()}{files[1:]}.", all_curves, outcomes)
    print(f"\n{len(CONTESTANTS)} contestants, {perf_counter() - begin:.0f} s in all")
    return 0


def progress(case: Case, left: int) -> None:
    print(f"{case.job} of {case.pool}, {case.held:,} held: done, {left} to go", file=sys.stderr, flush=True)


def draw_all(all_curves: Sequence[Curve], outcomes: Outcomes, caption: str, folder: Path) -> None:
    from benchmarks.peers.pictures import draw  # noqa: PLC0415 - the extra `bench` is needed only here

    folder.mkdir(parents=True, exist_ok=True)
    for curve in all_curves:
        if len(curve.cases) > 1:
            draw(curve, outcomes, caption, folder / f"race-{curve.name}.svg")


def write_page(machine_and_peers: str, all_curves: Sequence[Curve], outcomes: Outcomes) -> None:
    """Put the figures between the page's two marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    found = unique(ratios(all_curves, outcomes))
    parts = [machine_and_peers]
    for curve in all_curves:
        parts += [
            f"### {curve.title}, by {curve.across}",
            f"![{curve.title}: nanoseconds of a pair, by {curve.across}](../pictures/race-{curve.name}.svg)",
            markdown(times(curve, outcomes)),
            markdown(ratio_table(curve, outcomes)),
        ]
    parts += ["### Where a peer is faster", markdown(lost(found)), "### All cases, theirs ÷ ours", markdown(score(found))]
    PAGE.write_text("\n\n".join([before + BEGIN, *parts, END]) + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
