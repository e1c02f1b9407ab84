"""What pods do: they come, and they go."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Literal, NamedTuple

from hypothesis import strategies as st

from ciliumipam.node import Node


class PodStep(NamedTuple):
    """One step: `getattr(ipam, step.action)(step.node, step.owner)` does it with an `Ipam`, and any allocator has its own words.

    Attributes:
        action: What happens.
        node: The name of the node on which the pod is.
        owner: The pod's id, of which `Ipam` demands that it is never used again.
    """

    action: Literal["allocate", "release"]
    node: str
    owner: str


@st.composite
def churns(
    draw: st.DrawFn, nodes: Iterable[Node | str] = ("node-1",), *, min_size: int = 0, max_size: int = 40
) -> tuple[PodStep, ...]:
    """Pods that come and go on some nodes: a release names a pod that was allocated on that node and was not released since.

    No owner comes twice, so an allocation that fails for want of room may be followed by a release of that owner. Of three steps
    two allocate, so that small blocks run full. Shrinks to few pods: pod-1 on the first node.

    Args:
        nodes: Nodes, or their names.
        min_size: How many steps at least.
        max_size: How many at the most.
    """
    names = [node if isinstance(node, str) else node.name for node in nodes]
    held: list[tuple[str, str]] = []
    steps: list[PodStep] = []
    # each choice means something whatever came before it, so that Hypothesis can leave any of them out
    choices = st.tuples(st.sampled_from((False, False, True)), st.integers(0, 255))
    pods = count(1)
    for release, choice in draw(st.lists(choices, min_size=min_size, max_size=max_size)):
        if release and held:
            steps.append(PodStep("release", *held.pop(choice % len(held))))
        else:
            held.append((names[choice % len(names)], f"pod-{next(pods)}"))
            steps.append(PodStep("allocate", *held[-1]))
    return tuple(steps)
