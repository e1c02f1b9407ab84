"""What came out, as tables: for a terminal and for the page in `docs/`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.peers.course import CONTESTANTS, Case, Contestant, Curve, part
from benchmarks.peers.turns import Figure, Outcome, Outcomes

Rows = list[list[str]]


class Ratio(NamedTuple):
    """How often ours fits into theirs."""

    ours: Contestant
    peer: Contestant
    curve: Curve
    where: str
    theirs_ns: float
    ours_ns: float

    @property
    def value(self) -> float:
        return self.theirs_ns / self.ours_ns


def time(nanoseconds: float) -> str:
    """Three digits and a unit.

    >>> time(91.4), time(1234.0), time(4.9e6), time(2e9)
    ('91.4 ns', '1.23 µs', '4.90 ms', '2.00 s')
    """
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= size * 0.9995:
            return f"{digits(nanoseconds / size)} {unit}"
    return f"{digits(nanoseconds)} ns"


def digits(value: float) -> str:
    """Two below one, else three, or the whole number.

    >>> digits(0.00123), digits(0.456), digits(1.5), digits(15.54), digits(155.4), digits(15555.0)
    ('0.0012', '0.46', '1.50', '15.5', '155', '15,555')
    """
    if value < 0.995:
        return f"{float(f'{value:.2g}'):f}".rstrip("0")
    return f"{value:,.2f}" if value < 9.995 else f"{value:,.1f}" if value < 99.95 else f"{value:,.0f}"


def shown(outcome: Outcome) -> str:
    """A figure with half of what lies between its least and its most."""
    if isinstance(outcome, str):
        return outcome
    return f"{time(outcome.median)} ±{(outcome.high - outcome.low) / 2 / outcome.median:.0%}"


def times(curve: Curve, outcomes: Outcomes) -> Rows:
    """A row for each contestant, a column for each case."""
    job = next(iter(curve.cases.values())).job
    head = ["", *curve.cases]
    return [head, *([each.name, *(shown(outcomes[case, each.key]) for case in curve.cases.values())] for each in part(job))]


def ratios(curves: Iterable[Curve], outcomes: Outcomes) -> Iterator[Ratio]:
    """Of every peer and case to each of ours, where both have a figure."""
    for curve in curves:
        for where, case in curve.cases.items():
            ours = [each for each in part(case.job) if each.home == "ours"]
            for peer in part(case.job):
                theirs = outcomes[case, peer.key]
                if peer.home == "ours" or isinstance(theirs, str):
                    continue
                for each in ours:
                    mine = outcomes[case, each.key]
                    if isinstance(mine, Figure):
                        yield Ratio(each, peer, curve, where, theirs.median, mine.median)


def ratio_table(curve: Curve, outcomes: Outcomes) -> Rows:
    """A row for each peer and each of ours, a column for each case."""
    found = {(each.peer, each.ours, each.where): each.value for each in ratios([curve], outcomes)}
    rows = [["theirs ÷ ours", *curve.cases]]
    first = next(iter(curve.cases.values()))
    for peer in part(first.job):
        for ours in part(first.job):
            if peer.home != "ours" and ours.home == "ours":
                values = [found.get((peer, ours, where)) for where in curve.cases]
                rows.append([f"{peer.name} ÷ {ours.name}", *("" if each is None else digits(each) for each in values)])
    return rows


def unique(found: Iterable[Ratio]) -> list[Ratio]:
    """Without those of cases that several curves share."""
    seen: dict[tuple[Case, Contestant, Contestant], Ratio] = {}
    for each in found:
        seen.setdefault((each.curve.cases[each.where], each.peer, each.ours), each)
    return list(seen.values())


def score(found: Sequence[Ratio]) -> Rows:
    """For each peer and each of ours: in how many cases who is faster, and by how much."""
    rows = [["peer", "job", "ours", "cases", "we are faster", "we are slower", "least ratio", "largest ratio"]]
    for peer in CONTESTANTS:
        for ours in part(peer.job):
            values = [each.value for each in found if (each.peer, each.ours) == (peer, ours)]
            if values:
                faster = sum(value >= 1 for value in values)
                row = [peer.name, peer.job, ours.name, len(values), faster, len(values) - faster]
                rows.append([*map(str, row), digits(min(values)), digits(max(values))])
    return rows


def lost(found: Iterable[Ratio]) -> Rows:
    """Every case in which a peer is faster."""
    cells: dict[tuple[str, str, str], list[str]] = {}
    for each in found:
        if each.value < 1:
            cells.setdefault((each.ours.name, each.peer.name, each.curve.title), []).append(
                f"{each.where}: {digits(each.value)}"
            )
    return [["ours", "peer", "of", "theirs ÷ ours"], *([*key, ", ".join(where)] for key, where in sorted(cells.items()))]


def plain(rows: Rows) -> str:
    """Columns for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown(rows: Rows) -> str:
    """The same for a page; the first row is the head, and figures stand on the right."""
    head, *body = rows
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
