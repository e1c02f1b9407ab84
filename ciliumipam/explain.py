"""Why a node has the blocks that it has, or none: pool by pool, in the order in which they are asked; and behind whom it waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ciliumipam.addresses import BlockAddresses
from ciliumipam.errors import NotFoundError
from ciliumipam.pool import PoolSpec, pool_order
from ciliumipam.reconcile import Held, Pools, Want, own_pool, want
from ciliumipam.records import Holding, NodeRecord
from ciliumipam.requests import Explanation
from ciliumipam.view import View, block_claims_key
from ciliumipam.waiting import Stock, Waiting, ahead, waiting
from ciliumipam.words import counted

_SHOWN = 3


def explain(view: View, name: str) -> Explanation:
    """Explain a node. O(pools), and O(nodes) for one that waits for further blocks.

    Raises:
        NotFoundError: The node is neither applied nor holds a block.
    """
    held = [block.holding for block in view.node_blocks(name)]
    record = view.nodes.get(name)
    claims = view.claims(block_claims_key(name))
    claimed = claims.claims.get(name, ())
    if record is None and not claimed:
        raise NotFoundError("node", name, tuple(sorted(view.nodes)[:8]))
    title = f"node {name}"
    if record is None:
        title += " is not known, but holds blocks: apply it, or delete it to take them back"
    elif record.draining:
        title += " is draining: it gets no block, and nothing new out of those that it has"
    lines = [title]
    serving = {block.holding for block in view.node_blocks(name) if block.serves}
    lines += [
        "  " + (_block(view, block, serves=block in serving) if block in held else f"block {block.piece}: being taken or given back")
        for block in claimed
    ]
    if record is not None:
        lines += ["  " + line for line in _pools(view, record, Held(held, claims.draining))]
        lines += ["  " + line for line in _demand(view, record, Held(held, claims.draining))]
    return Explanation(name, tuple(lines))


def _block(view: View, block: Holding, *, serves: bool) -> str:
    counts: BlockAddresses = view.addresses(block)
    waiting = f", {counts.cooling} cooling" if counts.cooling else ""
    text = (
        f"block {block.piece} from pool {block.label or '(none)'}: {counts.in_use} of {counts.capacity} addresses in use,"
        f" {counts.reserved} reserved{waiting}, {counts.available} available"
    )
    if view.is_orphan(block):
        why = "its pool is gone or no longer covers it" if block.label else "no pool covers it"
        return f"{text}; an orphan: {why}, so it takes nothing new"
    if view.drains(block):
        return f"{text}; draining: " + ("serves until the node has another one" if serves else "takes nothing new")
    return text


def _pools(view: View, record: NodeRecord, held: Held) -> Iterator[str]:
    pools = Pools.of(view)
    if not pools.ordered:
        yield "no pool has been applied"
    wanted = want(record, pools, held)
    own = own_pool(pools, held)
    counts = {match.pool.name: match.requirements for match in pools.matching(record.node)}
    for place, spec in enumerate(sorted(pools.ordered, key=lambda spec: pool_order(spec, counts.get(spec.name))), 1):
        order = _order(spec, counts.get(spec.name, spec.selector.requirements))
        yield f"{place}. pool {spec.name} ({order}): {_verdict(view, record, pools, spec, wanted, own, held)}"


def _order(spec: PoolSpec, requirements: int) -> str:
    blocks = ", ".join(counted(spec.blocks(family), f"IPv{family} block", f"IPv{family} blocks") for family in spec.families)
    priority = f"priority {spec.priority}, " if spec.priority else ""
    return f"{priority}{counted(requirements, 'requirement', 'requirements')}, {blocks}"


def _verdict(
    view: View, record: NodeRecord, pools: Pools, spec: PoolSpec, wanted: Want, own: PoolSpec | None, held: Held
) -> str:
    node = record.node
    matches = spec.selector.matches(node.labels, node.name)
    why = spec.selector.explain(node.labels, node.name)
    offered = [offer.pool.name for offer in wanted.offers]
    serves = any(block.label == spec.name for block in held.blocks)
    if own is not None and own.name == spec.name:
        keeps = f"serves the node: {why}" if matches else f"serves the node, which keeps its blocks although its labels changed: {why}"
        more = _full(view, record, spec, wanted) if spec.name in offered else ""
        return keeps + (f"; but it has {more}" if more else "")
    if not matches:
        return f"refused: {why}" + ("; the node still holds blocks of it" if serves else "")
    if reason := pools.why_not(spec):
        return f"refused: {reason}" + ("; the node still holds blocks of it" if serves else "")
    refused = next((refusal.reason for refusal in wanted.refusals if refusal.pool == spec.name), "")
    if refused:
        return f"refused: {refused}"
    if spec.name in offered:
        first = offered[0]
        full = _full(view, record, spec, wanted)
        if full:
            return f"matches ({why}), but it has {full}"
        if spec.name == first:
            return f"will serve the node: {why}"
        return f"matches ({why}), and is asked when {first} is full"
    if own is not None:
        return f"matches ({why}), but the node keeps pool {own.name}, where its blocks came from"
    if offered:
        return f"matches ({why}), but pool {offered[-1]} comes first, and it does not overflow"
    if held.blocks and own is None:
        return f"matches ({why}), but the node holds orphans; move it with: ciliumipam migrate {node.name} --to {spec.name}"
    return f"matches ({why})"


def _demand(view: View, record: NodeRecord, held: Held) -> Iterator[str]:
    """What the node asks for, what it has of that, and what it waits for."""
    pools = Pools.of(view)
    stock = Stock(pools, held)
    waits = {each.demand: each for each in waiting(record, pools, held)}
    for demand in record.demand:
        which = f" of pool {demand.pool}" if demand.pool else ""
        text = f"asks for {demand.addresses} IPv{demand.family} addresses{which} and has {stock.addresses(demand.pool, demand.family)}"
        if demand in waits:
            yield f"{text}: {_waits(view, record, pools, waits[demand])}"
        elif stock.addresses(demand.pool, demand.family) >= demand.addresses or record.draining:
            yield text
        else:
            yield f"{text}: it waits for its first block, which nodes get before anybody gets a further one"


def _waits(view: View, record: NodeRecord, pools: Pools, mine: Waiting) -> str:
    reasons = [f"pool {refusal.pool}: {refusal.reason.partition(';')[0]}" for refusal in mine.refusals]
    for spec in mine.sources:
        family = mine.demand.family
        if reason := mine.limit(spec):
            reasons.append(f"pool {spec.name}: {reason}")
            continue
        chosen = view.free.choose(spec, record.node, family, ())
        cidr = spec.cidrs_of(family)[0]
        reason = f"it has no free IPv{family} /{spec.block_length_for(record.node, cidr)}" if chosen is None else "it can give more"
        everybody = (each for name in sorted(view.nodes) for each in waiting(view.nodes[name], pools, _held(view, name)))
        before = ahead(everybody, mine, spec)
        reasons.append(f"pool {spec.name}: {reason}, and {_behind(before, spec) or 'this node is the first that waits'}")
        if chosen is not None:
            return f"the next 'ciliumipam apply' serves those that wait ({'; '.join(reasons)})"
    return "it waits (" + "; ".join(reasons) + ")"


def _behind(before: Sequence[Waiting], spec: PoolSpec) -> str:
    told = []
    for each in before[:_SHOWN]:
        blocks = each.stock.blocks(spec.name, each.demand.family)
        have = each.stock.addresses(each.demand.pool, each.demand.family)
        told.append(f"{each.node} ({counted(blocks, 'block', 'blocks')}, {have} of {each.demand.addresses} addresses)")
    more = f" and {len(before) - _SHOWN} more" if len(before) > _SHOWN else ""
    return f"this node is behind {', '.join(told)}{more}" if told else ""


def _held(view: View, name: str) -> Held:
    return Held([block.holding for block in view.node_blocks(name)], view.claims(block_claims_key(name)).draining)


def _full(view: View, record: NodeRecord, spec: PoolSpec, wanted: Want) -> str:
    """What a pool lacks to give what it is asked for; "" if nothing."""
    offer = next(each for each in wanted.offers if each.pool.name == spec.name)
    full = []
    for family, _ in offer.blocks:
        if view.free.choose(spec, record.node, family, ()) is None:
            cidr = spec.cidrs_of(family)[0]
            full.append(f"no free IPv{family} /{spec.block_length_for(record.node, cidr)}")
    return " and ".join(full)
