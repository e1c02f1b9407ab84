"""Labels, nodes, and fleets of nodes.

Labels are drawn from few keys and values, so that requirements meet them, and from what Kubernetes only just allows.
"""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from ciliumipam.node import Node
from ciliumipam.requirement import NAME_FIELD

_VALUES = {
    "rack": ("r1", "r2", "r3", "r4"),
    "zone": ("a", "b"),
    "size": ("small", "large"),
    "cpus": ("8", "16", "064"),
}
_ZONE_OF = {"r1": "a", "r2": "a", "r3": "b", "r4": "b"}
_ODD_KEYS = ("topology.kubernetes.io/zone", NAME_FIELD, "in", "A_b.c-1", "k" * 63, f"{'p' * 251}.p/k")
_ODD_VALUES = ("", "1", "notin", "A_b.c-1", "v" * 63, str((1 << 63) - 1), str(1 << 63))
_ODD_NAMES = ("ip-10-0-0-1.example.com", "0", "n" * 253)

# built once: Hypothesis looks a strategy through when it is new
_MIDDLE = st.text("aB1-_.", max_size=8)
_KEYS = st.sampled_from((*_VALUES, *_ODD_KEYS)) | _MIDDLE.map("k{}0".format)
_OTHER_VALUES = _MIDDLE.map("v{}0".format)
_NODE_NAMES = st.integers(1, 99).map("node-{}".format) | st.sampled_from(_ODD_NAMES)
_IN_A_FLEET = st.tuples(
    st.sampled_from(("node-{}",) * 3 + ("ip-10-0-0-{}.example.com", "{}")),
    st.tuples(*(st.none() | st.sampled_from([(key, value) for value in values]) for key, values in _VALUES.items())),
)


def label_keys() -> st.SearchStrategy[str]:
    """Keys of labels, with and without a prefix; they shrink to `rack`."""
    return _KEYS


@cache
def label_values(key: str = "rack") -> st.SearchStrategy[str]:
    """Values of labels, also the empty one and numbers; they shrink to one that is usual for the key, such as `r1`."""
    return st.sampled_from((*_VALUES.get(key, ()), *_ODD_VALUES)) | _OTHER_VALUES


@st.composite
def labels(draw: st.DrawFn, *, max_size: int = 4) -> dict[str, str]:
    """Labels of a node; they shrink to none, and to `{"rack": "r1"}`."""
    return {key: draw(label_values(key)) for key in draw(st.lists(_KEYS, max_size=max_size, unique=True))}


def node_names() -> st.SearchStrategy[str]:
    """Names of nodes: node-1, node-2, ..., and a few as clouds and mischief make them."""
    return _NODE_NAMES


def nodes() -> st.SearchStrategy[Node]:
    """Nodes with any labels; they shrink to node-1 without labels."""
    return st.builds(Node, _NODE_NAMES, labels())


@st.composite
def fleets(draw: st.DrawFn, *, min_size: int = 1, max_size: int = 6) -> tuple[Node, ...]:
    """The nodes of a cluster: names are unique, a rack lies in one zone; it shrinks to node-1 without labels.

    Args:
        min_size: How many nodes at least.
        max_size: How many at the most.
    """
    fleet = []
    for number, (form, pairs) in enumerate(draw(st.lists(_IN_A_FLEET, min_size=min_size, max_size=max_size)), start=1):
        chosen = dict(pair for pair in pairs if pair)
        if "rack" in chosen and "zone" in chosen:
            chosen["zone"] = _ZONE_OF[chosen["rack"]]
        fleet.append(Node(form.format(number), chosen))
    return tuple(fleet)
