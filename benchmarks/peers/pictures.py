"""Curves as SVG: small, the same for the same figures, readable on a light and on a dark page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.peers.course import Curve, part
from benchmarks.peers.report import time
from benchmarks.peers.turns import BOUND, TOO_LONG, Figure, Outcomes

COLOURS = {"ours": "#0b5fd0", "Go": "#b3470a", "Python": "#5f6672"}
STYLE: Any = {  # typed by matplotlib with the names that its very version knows
    "svg.fonttype": "none",
    "svg.hashsalt": "ciliumipam",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": True,
}
LEAST_GAP = 0.034
"""Between two labels, as a part of the height."""


def spread(places: list[float]) -> list[float]:
    """Places from low to high, moved apart so that labels do not lie over each other, and none above the top.

    >>> [round(place, 3) for place in spread([0.1, 0.11, 0.5])]
    [0.1, 0.134, 0.5]
    >>> [round(place, 3) for place in spread([0.98, 0.98, 0.98])]
    [0.932, 0.966, 1.0]
    """
    apart: list[float] = []
    for place in places:
        apart.append(max(place, apart[-1] + LEAST_GAP) if apart else place)
    limit = 1.0
    for number in reversed(range(len(apart))):
        apart[number] = min(apart[number], limit)
        limit = apart[number] - LEAST_GAP
    return apart


def draw(curve: Curve, outcomes: Outcomes, caption: str, path: Path) -> None:
    """One picture: cost of a pair, on a logarithmic scale, a line for each contestant with its name at its end."""
    with rc_context(STYLE):
        drawing = Drawing(figsize=(8.4, 5.4), facecolor="white")
        axes = drawing.add_axes((0.09, 0.15, 0.64, 0.71))
        cases = list(curve.cases.items())
        ends = []
        for each in part(cases[0][1].job):
            points = [(at, outcomes[case, each.key]) for at, (_, case) in enumerate(cases)]
            drawn = [(at, outcome.median) for at, outcome in points if isinstance(outcome, Figure)]
            over = [at for at, outcome in points if outcome == TOO_LONG]
            colour, width = COLOURS[each.home], 2.4 if each.home == "ours" else 1.3
            if drawn:
                axes.plot(*zip(*drawn, strict=True), color=colour, linewidth=width, marker="o", markersize=3.5)
            if over:
                if drawn:
                    reached = (drawn[-1][0], min(over)), (drawn[-1][1], BOUND * 1e9)
                    axes.plot(*reached, color=colour, linewidth=1, linestyle=":")
                axes.plot(over, [BOUND * 1e9] * len(over), color=colour, marker="^", markersize=6, linestyle="none")
            if drawn or over:
                last = max(drawn + [(at, BOUND * 1e9) for at in over])
                ends.append((last[1], last[0], each.name, colour, width))
        axes.set_yscale("log")
        axes.set_xticks(range(len(cases)), [name for name, _ in cases])
        axes.set_xlim(-0.15, len(cases) - 0.85)
        axes.set_xlabel(curve.across)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: time(value).replace(".00", "").replace(".0", "")))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", color="#d8dbe0", linewidth=0.6)
        axes.set_axisbelow(True)
        drawing.text(0.02, 0.95, f"{curve.title}: taking it and giving it back", size=12, weight="bold")
        told = "The median time of a pair; less is better. Ours is blue, in Go brown, in Python grey. A triangle: more than a second."
        drawing.text(0.02, 0.912, told, size=8.5, color="#444444")
        drawing.text(0.02, 0.02, caption, size=7, color="#444444")
        ends.sort()
        to_part = axes.transAxes.inverted()
        heights = [float(to_part.transform(axes.transData.transform((at, cost)))[1]) for cost, at, *_ in ends]
        for (cost, at, name, colour, width), height in zip(ends, spread(heights), strict=True):
            axes.annotate(
                name,
                xy=(at, cost),
                xytext=(1.03, height),
                textcoords="axes fraction",
                color=colour,
                weight="bold" if width > 2 else "normal",
                verticalalignment="center",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
            )
        drawing.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
