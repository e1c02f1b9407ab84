"""Indented lines as a drawn tree."""

from __future__ import annotations

from collections.abc import Sequence

from ciliumipam.cli.text import drawable

_INDENT = 2


def as_tree(lines: Sequence[str]) -> list[str]:
    """Lines, each as deep as it is indented by steps of two, with branches instead of the indentation."""
    branch, last, trunk = ("├─ ", "└─ ", "│  ") if drawable("├└│─") else ("|- ", "`- ", "|  ")
    depths = [(len(line) - len(line.lstrip(" "))) // _INDENT for line in lines]
    found = []
    goes_on: list[bool] = []  # by depth: whether a later line hangs on the same trunk
    for index in range(len(lines) - 1, -1, -1):
        depth = depths[index]
        del goes_on[depth + 1 :]
        goes_on += [False] * (depth + 1 - len(goes_on))
        if depth:
            prefix = "".join(trunk if more else " " * len(trunk) for more in goes_on[1:depth])
            found.append(prefix + (branch if goes_on[depth] else last) + lines[index].lstrip(" "))
        else:
            found.append(lines[index])
        goes_on[depth] = True
    return found[::-1]
