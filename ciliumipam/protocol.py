"""Taking and releasing: what has to be written next so that a holder gets its pieces, or loses them, decided over a draft.

One code for a node that takes blocks and an owner that takes addresses. A holder's *claim* names every piece that it has or is
about to take, each under the fence that the ledger will give it, and is written first: so two calls of one holder meet in one
record, whichever pages they go for, and whoever comes after a crash finds out there what was begun. A piece named under a fence is
a ticket for one use: the fence is used up when it is filled and also when it is released unfilled (see `ledger`).

    take      claim names the pieces ─▶ pages are filled ─▶ (several pieces) everything is read once more
    release   (several pieces) claim marks them closing ─▶ pages are freed ─▶ claim forgets them

Every function here looks at where things stand and puts the next writes into the draft, however they came to stand there: by this
call, by another call of the same holder, or by one that crashed. Calling it again over what it wrote finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ciliumipam.draft import CLAIM, UNCLAIM, Draft
from ciliumipam.ledger import Ledger, Status, fill, free, status
from ciliumipam.records import ClaimPage, Holding, Key


class Level(Protocol):
    """What differs between blocks and addresses."""

    def claims_key(self, holder: str) -> Key:
        """Where the claims of a holder are kept."""
        ...

    def ledger_of(self, piece: Holding) -> tuple[Ledger, int] | None:
        """The ledger that decides a piece and the fence of its root; None if that ledger is closed or gone."""
        ...

    def is_closing(self, piece: Holding, claims: ClaimPage) -> bool:
        """Whether somebody began to release a piece, so that it has to be released whatever else happens."""
        ...

    def close_below(self, draft: Draft, piece: Holding) -> None:
        """End everything that could be written below a piece, before the piece is freed."""
        ...

    @property
    def marks(self) -> bool:
        """Whether the release of one of several pieces is marked in the claim first."""
        ...


class Standing(NamedTuple):
    """Where a holder stands.

    Attributes:
        holder: Who.
        key: Its claim page.
        pieces: What its claim names.
        held, pending, closing: Those of them that are held, may still be filled, are being released. The others are dead.
        tentative: Whether another call may still take the claim back.
    """

    holder: str
    key: Key
    pieces: tuple[Holding, ...]
    held: tuple[Holding, ...]
    pending: tuple[Holding, ...]
    closing: tuple[Holding, ...]
    tentative: bool

    @property
    def good(self) -> tuple[Holding, ...]:
        """What is held or may still be filled, in the order of the claim."""
        return tuple([piece for piece in self.pieces if piece in self.held or piece in self.pending])


def look(draft: Draft, level: Level, holder: str) -> Standing:
    """Where a holder stands, as the draft would leave it."""
    key = level.claims_key(holder)
    claims = draft.claims(key)
    pieces = claims.claims.get(holder, ())
    if not pieces:
        return Standing(holder, key, (), (), (), (), tentative=False)
    held, pending, closing = [], [], []
    for piece in pieces:
        place = level.ledger_of(piece)
        state = status(draft, *place, piece) if place is not None else Status.DEAD
        if state is Status.DEAD:
            continue
        if level.is_closing(piece, claims):
            closing.append(piece)
        elif state is Status.HELD:
            held.append(piece)
        else:
            pending.append(piece)
    return Standing(holder, key, pieces, tuple(held), tuple(pending), tuple(closing), holder in claims.tentative)


class Call:
    """What one call knows of its own writes: the claims that it wrote and nobody has touched since, and what it added to them."""

    __slots__ = ("_tried", "added", "wrote")

    def __init__(self) -> None:
        self.wrote: dict[str, tuple[Holding, ...]] = {}
        self.added: dict[str, tuple[Holding, ...]] = {}
        self._tried: dict[str, tuple[tuple[Holding, ...], tuple[Holding, ...]]] = {}

    def tries(self, standing: Standing, pieces: tuple[Holding, ...], chosen: tuple[Holding, ...]) -> None:
        """Note a claim that is about to be written."""
        self._tried[standing.holder] = (pieces, chosen)

    def settle(self, *, done: bool) -> None:
        """The round has ended. Unless all of it is known to be done, nothing counts as this call's own."""
        if done:
            for holder, (pieces, chosen) in self._tried.items():
                self.wrote[holder] = pieces
                self.added[holder] = self.added.get(holder, ()) + chosen
        self._tried.clear()

    def owns(self, standing: Standing) -> bool:
        """Whether the claim stands as this call wrote it, and no other call has relied on it."""
        return standing.tentative and self.wrote.get(standing.holder) == standing.pieces


def take(draft: Draft, level: Level, standing: Standing, chosen: tuple[Holding, ...], call: Call, *, group: bool) -> None:
    """Put what has to be written so that a holder holds what it may, and the pieces chosen for it.

    Args:
        draft: Where to put it.
        level: Blocks or addresses.
        standing: Where the holder stands in this draft; nothing of it is being released.
        chosen: Pieces that it gets in addition, each under the next fence of its run.
        call: This call's memory.
        group: Whether the call may yet take this back because it wants more than this holder's pieces.
    """
    pieces = standing.good + chosen
    owned = call.owns(standing)
    if pieces != standing.pieces or (standing.tentative and not owned):
        # relying on a claim that another call may still take back settles it; that call finds out and leaves it alone
        tentative = (owned or not standing.tentative) and (owned or (bool(chosen) and (group or len(pieces) > 1)))
        claims = draft.claims(standing.key)
        named = dict(claims.claims)
        if pieces:
            named[standing.holder] = pieces
        else:
            named.pop(standing.holder, None)
        marks = claims.tentative | {standing.holder} if tentative and pieces else claims.tentative - {standing.holder}
        closing = claims.closing.difference(standing.pieces) if claims.closing else claims.closing
        draft.put(standing.key, ClaimPage(named, marks, closing), CLAIM)
        if tentative:
            call.tries(standing, pieces, chosen)
    for piece in (*standing.pending, *chosen):
        place = level.ledger_of(piece)
        if place is not None:
            fill(draft, *place, piece)


def release(draft: Draft, level: Level, standing: Standing, pieces: Iterable[Holding]) -> None:
    """Put what has to be written so that a holder loses pieces: those given, and those whose release somebody began.

    What is held and what is pending are ended alike. The claim forgets them in a later round where it has to be marked first.
    """
    ending = {piece: None for piece in (*pieces, *standing.closing)}
    claims = draft.claims(standing.key)
    if level.marks and len(standing.pieces) > 1 and not claims.closing.issuperset(ending):
        draft.put(standing.key, claims._replace(closing=claims.closing | frozenset(ending)), CLAIM)
    alive = {*standing.held, *standing.pending, *standing.closing}
    for piece in ending:
        place = level.ledger_of(piece)
        if piece in alive and place is not None:
            level.close_below(draft, piece)
            free(draft, *place, piece)
    forget(draft, standing, {piece for piece in standing.pieces if piece in ending or piece not in alive})


def forget(draft: Draft, standing: Standing, pieces: set[Holding]) -> None:
    """Take pieces out of a holder's claim, and the holder out of the page when none are left."""
    claims = draft.claims(standing.key)
    named = dict(claims.claims)
    left = tuple([piece for piece in standing.pieces if piece not in pieces])
    if left:
        named[standing.holder] = left
    else:
        named.pop(standing.holder, None)
    marks = claims.tentative if left else claims.tentative - {standing.holder}
    draft.put(standing.key, ClaimPage(named, marks, claims.closing - pieces), UNCLAIM)
