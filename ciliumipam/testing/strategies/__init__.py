"""Hypothesis strategies for what an allocator of CIDRs deals with: prefixes, labels, selectors, nodes, pools, and pods that come and go.

Every strategy makes valid values only, all of them unless it is told otherwise, with a bias to where off-by-ones live: the edges of a
family and of a prefix, neighbours, the longest name. And every value shrinks to what a person would have written as an example:

>>> from hypothesis import find
>>> from ciliumipam.testing.strategies import pools
>>> find(pools(families=[6]), lambda pool: pool.draining)
<PoolSpec pool-a: fd00::/64 in /64, for every node>

`places` has addresses, prefixes and ranges; `fleet` labels, nodes and fleets; `matching` requirements and selectors; `supply` pools and
sets of them; `pods` what pods do. What only a store sees, records and pages, is in `testing.record_strategies`.
"""

from ciliumipam.testing.strategies.fleet import fleets, label_keys, label_values, labels, node_names, nodes
from ciliumipam.testing.strategies.matching import label_selectors, requirements, selectors, term_selectors
from ciliumipam.testing.strategies.places import addresses, disjoint_prefixes, families, prefixes, range_texts
from ciliumipam.testing.strategies.pods import PodStep, churns
from ciliumipam.testing.strategies.supply import pool_sets, pools

__all__ = [
    "PodStep",
    "addresses",
    "churns",
    "disjoint_prefixes",
    "families",
    "fleets",
    "label_keys",
    "label_selectors",
    "label_values",
    "labels",
    "node_names",
    "nodes",
    "pool_sets",
    "pools",
    "prefixes",
    "range_texts",
    "requirements",
    "selectors",
    "term_selectors",
]
