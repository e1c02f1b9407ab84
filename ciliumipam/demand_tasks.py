"""The tasks by which a node gets and loses blocks as it needs them: asking for addresses, and handing an empty block back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ciliumipam.block_tasks import ReconcileTask
from ciliumipam.demand import Demand
from ciliumipam.draft import RECORD, Draft
from ciliumipam.drain_tasks import TakeBackTask, forget_owners, gives_back
from ciliumipam.errors import BlockNeededError, BlockNotEmptyError, NotFoundError, NotHeldError, StaleFenceError
from ciliumipam.ledger import holdings
from ciliumipam.levels import BlockLevel
from ciliumipam.protocol import Standing, look, release
from ciliumipam.reconcile import Held, Pools
from ciliumipam.records import Holding, Key
from ciliumipam.requests import Change, ExistingBlock, HandBack, RequestAddresses
from ciliumipam.view import View, block_claims_key
from ciliumipam.waiting import why_needed


class RequestTask(ReconcileTask):
    """What a node asks for, and what all nodes get by that."""

    def __init__(self, request: RequestAddresses, now: float, token: str, listed: Sequence[ExistingBlock] = ()) -> None:
        super().__init__(now, token, listed)
        self.request = request

    def _put_records(self, view: View, draft: Draft) -> None:
        name, demand = self.request.node, self.request.demand
        record = view.nodes.get(name)
        if record is None:
            raise NotFoundError("node", name, tuple(sorted(view.nodes)[:8]))
        if record.demand != demand:
            draft.put(Key("node", name), record._replace(demand=demand), RECORD)
            self._note(Change("change", "node", name, asks(demand)))


def asks(demand: Iterable[Demand]) -> str:
    """What a node asks for, in words."""
    told = [f"{each.addresses} IPv{each.family} addresses" + (f" of pool {each.pool}" if each.pool else "") for each in demand]
    return f"asks for {' and '.join(told)}" if told else "asks for no more than it gets at once"


class HandBackTask(TakeBackTask):
    """One empty block back from its node: its address ledger is closed, then the block is free."""

    def __init__(self, request: HandBack, now: float, token: str) -> None:
        super().__init__(now, token)
        self.request = request
        self._target: Holding | None = None

    def leaving(self, view: View) -> list[Holding]:
        """The block, if the node has it, or had it when this call began."""
        if self._target is not None:
            return [self._target]
        request = self.request
        claimed = view.claims(block_claims_key(request.node)).claims.get(request.node, ())
        found = [each for each in claimed if each.place == (request.space, request.block)]
        return [each for each in found if request.fence in (None, each.fence)]

    def scope(self, view: View) -> tuple[str | None, tuple[Key, ...]]:  # noqa: ARG002 - see the base
        return self.request.node, ()

    def step(self, view: View, draft: Draft) -> bool:
        view.advance(self.now)
        request = self.request
        level = BlockLevel(view, self.confirmed, self.now)
        standing = look(draft, level, request.node)
        mine = [each for each in self.leaving(view) if each in (*standing.held, *standing.closing)]
        if not mine:
            if self._target is None:
                raise self._absent(view)
            if standing.pieces != standing.good:  # a write was lost: the block is gone, and the claim still names it
                release(draft, level, standing, ())
            self._note(gives_back(self._target))
            return True
        (block,) = mine
        if block in standing.held:
            self._check(view, draft, standing, block)
        self._target = block
        self.targets[block] = ""
        forget_owners(draft, request.node, mine)
        release(draft, level, standing, mine)
        self._note(gives_back(block))
        return True

    def _check(self, view: View, draft: Draft, standing: Standing, block: Holding) -> None:
        node = self.request.node
        inside = list(holdings(draft, view.address_ledger(block), block.fence))
        if inside:
            names = tuple(f"{piece.piece} {piece.label or piece.holder}" for piece in inside[:5])
            raise BlockNotEmptyError(block.piece, node, len(inside), names)
        held = Held(standing.good, view.claims(standing.key).draining)
        reason = why_needed(view.nodes.get(node), Pools.of(view), held, block)
        if reason:
            raise BlockNeededError(block.piece, node, reason)

    def _absent(self, view: View) -> NotHeldError | StaleFenceError | NotFoundError:
        request = self.request
        if request.node not in view.nodes and not view.claims(block_claims_key(request.node)).claims.get(request.node):
            return NotFoundError("node", request.node, tuple(sorted(view.nodes)[:8]))
        for block in view.blocks():
            if block.place == (request.space, request.block) and block.holder == request.node and request.fence is not None:
                return StaleFenceError(block.piece, request.fence, block.fence)
        return NotHeldError(str(request.block), f"node {request.node!r} does not hold this very block")
