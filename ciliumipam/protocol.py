"""Taking and releasing: what has to be written next so that a holder gets its pieces, or loses them, decided over a draft.

One code for a node that takes blocks and an owner that takes addresses. A holder's *claim* names every piece that it has or is
about to take, each under the fence that the ledger will give it, and is written first: so two calls of one holder meet in one
record, whichever pages they go for, and whoever comes after a crash finds out there what was begun. A piece named under a fence is
a ticket for one use: the fence is used up when it is filled and also when it is released unfilled (see `ledger`).

    take      claim names the pieces ─▶ pages are filled ─▶ (several pieces) everything is read once more
    release   (several pieces) claim marks them closing ─▶ pages are freed ─▶ claim forgets them

Every function here looks at where things stand and puts the next writes into the draft, however they came to stand there: by this
call, by another call of the same holder, or by one that crashed. Calling it again over what it wrote finds nothing left to do.

A claim may forget a piece only if nobody can hold it any more, and the claim page is all that is compared then. So this is
concluded from pages as they were written, never from what a draft would write, and only where it stays true (DEAD) or was read
after the claim (BLOCKED); else `Unsure` has everything read again, the claim first. What could be filled again once something else
is free (CROSSED) is made dead first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol, TypeVar

from ciliumipam.draft import CLAIM, UNCLAIM, Draft, Later
from ciliumipam.ledger import Ledger, Pages, Status, fill, free, status, use_up
from ciliumipam.records import ClaimPage, Holding, Key

_T = TypeVar("_T")
_NONE: tuple[Holding, ...] = ()


class Unsure(Exception):  # noqa: N818 - not an error: the pages are read again
    """What was read does not say what became of a piece."""

    def __init__(self, key: Key, piece: Holding) -> None:
        super().__init__(key, piece)
        self.key, self.piece = key, piece


class Level(Protocol):
    """What differs between blocks and addresses. Everything here is as it was written, without what a draft would change."""

    @property
    def pages(self) -> Pages:
        """Where pages are read."""
        ...

    def is_confirmed(self, key: Key) -> bool:
        """Whether everything was read again after the claim page as it is known now."""
        ...

    def claims_key(self, holder: str) -> Key:
        """Where the claims of a holder are kept."""
        ...

    def ledger_of(self, piece: Holding) -> tuple[Ledger, int] | None:
        """The ledger that decides a piece and the fence of its root; None if the holder has no such ledger, as far as is known."""
        ...

    def is_closing(self, piece: Holding, claims: ClaimPage) -> bool:
        """Whether somebody began to release a piece, so that it has to be released whatever else happens."""
        ...

    def close_below(self, draft: Draft, piece: Holding) -> int:
        """End everything that could be written below a piece, before the piece is freed; the last fence that was used there."""
        ...

    def cools_until(self, piece: Holding) -> float | None:
        """When somebody may get a piece again that is released now, in seconds since the epoch; None is at once."""
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
        tentative: Token of the call that may still take the claim back; "" for none.
        good: What is held or may still be filled, in the order of the claim.
    """

    holder: str
    key: Key
    pieces: tuple[Holding, ...]
    held: tuple[Holding, ...]
    pending: tuple[Holding, ...]
    closing: tuple[Holding, ...]
    tentative: str
    good: tuple[Holding, ...]


def look(draft: Draft, level: Level, holder: str) -> Standing:
    """Where a holder stands: its claim as the draft would leave it, its pieces as the pages were written.

    Raises:
        Unsure: What was read does not say it.
        Later: A piece is ended first that could become good again while nobody claims it.
    """
    key = level.claims_key(holder)
    claims = draft.claims(key)
    pieces = claims.claims.get(holder, ())
    if not pieces:
        return Standing(holder, key, (), (), (), (), "", ())
    pages = level.pages
    good, held, pending, closing = _NONE, _NONE, _NONE, _NONE
    for piece in pieces:
        place = level.ledger_of(piece)
        state = status(pages, *place, piece) if place is not None else Status.BLOCKED
        if state is Status.CROSSED and place is not None:
            if use_up(draft, *place, piece):
                raise Later
            state = Status.BLOCKED  # by a page that is old, or damaged
        if state is Status.TORN or (state is Status.BLOCKED and not level.is_confirmed(key)):
            raise Unsure(key, piece)
        if state is Status.HELD or state is Status.PENDING:
            if level.is_closing(piece, claims):
                closing += (piece,)
                continue
            good += (piece,)
            if state is Status.HELD:
                held += (piece,)
            else:
                pending += (piece,)
    return Standing(holder, key, pieces, held, pending, closing, claims.tentative.get(holder, ""), good)


class Call:
    """What one call knows of itself.

    Attributes:
        token: Marks its claims over several pieces as its own; no other call ever has the same.
        added: What it set out to add, by holder, whatever came of it.
    """

    __slots__ = ("added", "token")

    def __init__(self, token: str) -> None:
        self.token = token
        self.added: dict[str, tuple[Holding, ...]] = {}

    def owns(self, standing: Standing) -> bool:
        """Whether this call may still take the claim back: it made it, and no other call has relied on it."""
        return standing.tentative == self.token


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
        marks = claims.tentative
        if standing.tentative or tentative:
            marks = _with(marks, standing.holder, call.token if tentative and pieces else None)
        call.added[standing.holder] = call.added.get(standing.holder, ()) + chosen
        closing = claims.closing.difference(standing.pieces) if claims.closing else claims.closing
        draining = claims.draining.difference(set(standing.pieces).difference(pieces)) if claims.draining else claims.draining
        draft.put(standing.key, ClaimPage(_with(claims.claims, standing.holder, pieces or None), marks, closing, draining), CLAIM)
    for piece in chosen:
        place = level.ledger_of(piece)
        if place is not None:  # pragma: no branch - chosen in a ledger that is there
            fill(draft, *place, piece)
    for piece in standing.pending:
        place = level.ledger_of(piece)
        state = status(draft, *place, piece) if place is not None else Status.BLOCKED
        if place is not None and state is Status.PENDING:
            fill(draft, *place, piece)
        elif state is not Status.HELD:  # another request of this round took it: see next round what becomes of that
            raise Later


def release(draft: Draft, level: Level, standing: Standing, pieces: Iterable[Holding]) -> None:
    """Put what has to be written so that a holder loses pieces: those given, and those whose release somebody began.

    What is held and what is pending are ended alike. The claim forgets them in a later round where it has to be marked first.
    """
    ending = [*pieces]
    if standing.closing:
        ending += [piece for piece in standing.closing if piece not in ending]
    if draft.claims_in(standing.key):  # what another request of this round relies on: see next round what becomes of that
        raise Later
    claims = draft.claims(standing.key)
    if level.marks and len(standing.pieces) > 1 and not claims.closing.issuperset(ending):
        draft.put(standing.key, claims._replace(closing=claims.closing | frozenset(ending)), CLAIM)
    alive = standing.held + standing.pending + standing.closing
    for piece in ending:
        place = level.ledger_of(piece)
        if piece in alive and place is not None:
            # what was never held has nothing below it, and nobody was told of it; if it is held by now, only the page that is freed
            # would tell
            pending = piece in standing.pending
            until = None if pending else level.cools_until(piece)
            last = piece.fence if pending else level.close_below(draft, piece)
            free(draft, *place, piece, last, until)
    forget(draft, standing, [piece for piece in standing.pieces if piece in ending or piece not in alive])


def cancel(draft: Draft, level: Level, standing: Standing, pieces: Collection[Holding]) -> None:
    """Put what ends pieces that are pending, only if they still are when it is written, and forget with them what is dead.

    Unlike `release` this marks nothing in the claim: by then a piece may be filled, and told to a caller who counts on it. Only its
    page says so, and there the compare-and-set fails.
    """
    if draft.claims_in(standing.key):
        raise Later
    for piece in pieces:
        place = level.ledger_of(piece)
        if place is not None:  # pragma: no branch - without a ledger it would not be pending
            free(draft, *place, piece, piece.fence)
    alive = standing.held + standing.pending + standing.closing
    forget(draft, standing, [piece for piece in standing.pieces if piece in pieces or piece not in alive])


def forget(draft: Draft, standing: Standing, pieces: Collection[Holding], phase: int = UNCLAIM) -> None:
    """Take pieces out of a holder's claim, and the holder out of the page when none are left."""
    claims = draft.claims(standing.key)
    left = tuple([piece for piece in standing.pieces if piece not in pieces])
    marks = claims.tentative
    if marks and not left:
        marks = _with(marks, standing.holder, None)
    closing = claims.closing.difference(pieces) if claims.closing else claims.closing
    draining = claims.draining.difference(pieces) if claims.draining else claims.draining
    draft.put(standing.key, ClaimPage(_with(claims.claims, standing.holder, left or None), marks, closing, draining), phase)


def _with(mapping: Mapping[str, _T], holder: str, value: _T | None) -> Mapping[str, _T]:
    """A copy with another value for a holder, or without the holder.

    A dict copies itself: `dict(it)` inserts all items one by one when one of them was taken out before, seven times slower.
    """
    changed = mapping.copy() if type(mapping) is dict else dict(mapping)
    if value is None:
        changed.pop(holder, None)
    else:
        changed[holder] = value
    return changed
