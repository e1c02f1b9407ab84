"""The ledger: a tree of pages in which every piece of a root prefix has at most one holder.

Blocks carved out of the address family and addresses allocated out of a block are pieces of two ledgers of the same shape, and
this module is the code of both. It is pure: it reads pages through a `Draft` and puts changed pages into it. `draft` orders what
it puts, `protocol` decides what to ask for, `docs/explanation/ledger.md` has the argument why it is safe.

    level 0          level 2            level 10           level 18           level 26
    4 slots of /2 ─▶ 256 slots of /10 ─▶ 256 slots of /18 ─▶ 256 slots of /26 ─▶ 64 slots of /32
    Split(fence) names the fence under which the page below counts

The discipline, in five rules:

1. *The slot counts, the page follows.* Every slot keeps the last fence that was used in it or anywhere below it, whatever becomes
   of it. A new holding or link takes one more than the last fences of all slots that it covers, and the slots of a page that it
   leads to begin at its fence. So for every address the fences grow, through all lengths of blocks that it was ever part of.
2. *A page counts only under a link that names its fence.* A page with an older fence than its link is void: whoever first fills
   it raises it to the link's fence in the same write, and its slots' last fences at least to that. A page with a newer fence is closed:
   nothing may be put into it, and the link is dead.
3. *Fill and free* compare-and-set the page, at a revision at which it was seen to count or to be void.
4. *Close* compare-and-sets an empty page to one more than the link's fence, pages further down first, before the slot above is
   used for anything else. A page that was never written is closed by creating it. This ends every late writer; and it uses up
   one fence more in every slot, which ends every claim on a piece of the page that was not filled yet. It uses up no later fence
   than that of the larger piece for which the page may have been closed.
5. *Nothing is deleted.*
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, Protocol

from ciliumipam.cidr import WIDTH, Family, Prefix
from ciliumipam.pool import DEFAULT_SPACE
from ciliumipam.records import Cooling, Holding, Key, Kind, Page, Slot, Split

ROOT_FENCE = 1
"""Fence of the root page of a block ledger. It is never closed."""


class Pages(Protocol):
    """Where pages are read."""

    def page(self, key: Key) -> Page | None:
        """The page, or None where there is none."""
        ...


class Drafts(Pages, Protocol):
    """Where pages are read as a draft would leave them, and put."""

    def put_page(self, key: Key, page: Page, level: int, slots: tuple[int, ...] | None, *, closing: bool = False) -> None:
        """Put a changed page; `slots` are the indexes that changed, None for perhaps all."""
        ...

    def locate(self, ledger: Ledger, fence: int, network: int, length: int) -> Spot | None:
        """What `locate` finds in this draft."""
        ...


class Ledger:
    """Where the pages of one ledger lie: levels, slots and keys. Immutable but for a cache of keys.

    Args:
        kind: Kind of its pages.
        root: The prefix that it covers.
        levels: Prefix lengths at which its pages lie, ascending, the root's first.
        space: Its address space.

    Attributes:
        next_levels: By level, the one below it; the width of an address below the last.
        sizes: By level, how many slots a page has.
    """

    __slots__ = ("_keys", "family", "kind", "levels", "next_levels", "root", "sizes", "space", "width")

    def __init__(self, kind: Kind, root: Prefix, levels: tuple[int, ...], space: str = DEFAULT_SPACE) -> None:
        self.kind, self.root, self.space = kind, root, space
        self.family: Family = root.family
        self.width = WIDTH[root.family]
        self.levels, self.next_levels, self.sizes = _shape(levels, self.width)
        self._keys: dict[tuple[int, int], Key] = {}

    def key(self, network: int, level: int) -> Key:
        """Key of the page at a level that covers an address."""
        shift = self.width - level
        place = (network >> shift, level)
        key = self._keys.get(place)
        if key is None:
            page = Prefix(self.family, network >> shift << shift, level)
            name = str(page) if self.kind == "block-page" or page == self.root else f"{self.root}+{page}"
            key = Key(self.kind, name if self.space == DEFAULT_SPACE else f"{self.space}@{name}")
            self._keys[place] = key
        return key

    def slot_network(self, page_network: int, level: int, index: int) -> int:
        """First address of a slot."""
        return page_network + (index << (self.width - self.next_levels[level]))


@lru_cache(maxsize=512)
def _shape(levels: tuple[int, ...], width: int) -> tuple[tuple[int, ...], dict[int, int], dict[int, int]]:
    """What all ledgers of one shape share: there may be one for each of 100,000 blocks."""
    below = (*levels[1:], width)
    sizes = {level: 1 << (deeper - level) for level, deeper in zip(levels, below, strict=True)}
    return levels, dict(zip(levels, below, strict=True)), sizes


def block_ledger(family: Family, space: str = DEFAULT_SPACE) -> Ledger:
    """The ledger of all blocks of a family in an address space, rooted at the whole family.

    Levels at 2, 10, 18, ...: the usual lengths share pages.
    """
    return Ledger("block-page", Prefix(family, 0, 0), (0, *range(2, WIDTH[family], 8)), space)


def address_ledger(block: Prefix, space: str = DEFAULT_SPACE) -> Ledger:
    """The ledger of the addresses of a block, rooted at it; its leaves have 256 addresses, or the block's if these are fewer."""
    first = block.length // 8 * 8 + 8
    return Ledger("address-page", block, (block.length, *range(first, WIDTH[block.family], 8)), space)


def fence_of(slot: Slot) -> int:
    """The last fence that was used in a slot."""
    return slot if type(slot) is int else slot.fence  # type: ignore[union-attr]  # mypy does not narrow by `type() is`


def counted(raw: Page | None, fence: int, slots: int) -> Page | None:
    """A page as it counts under a link: as it is, empty where it is void or missing, None where it is closed."""
    if raw is None:
        return Page(fence, 0, (fence,) * slots)
    if raw.fence == fence:
        return raw
    return Page(fence, 0, tuple([_raised(slot, fence) for slot in raw.slots])) if raw.fence < fence else None


def _raised(slot: Slot, fence: int) -> Slot:
    """A slot of a page that is used anew: nothing in it counts but its last fence, and how long it cools."""
    last = max(fence_of(slot), fence)
    return Cooling(last, slot.until) if type(slot) is Cooling else last


class Link(NamedTuple):
    """A link that has to be made: a slot of a page gets to name `fence` for the page below it."""

    level: int
    network: int
    page: Page
    slot: int
    fence: int


class Spot(NamedTuple):
    """Where a piece lies in a ledger as it stands.

    Attributes:
        level, network: The page that decides it.
        raw: That page as it was read, None where there is none.
        page: The same as it counts; where no link leads to it, as it would count if it were linked now.
        start, stop: The run of slots, `stop` excluded.
        links: The links that are missing on the way, top down.
        covered_by: The holding of a larger piece that covers it, if there is one.
    """

    level: int
    network: int
    raw: Page | None
    page: Page
    start: int
    stop: int
    links: tuple[Link, ...]
    covered_by: Holding | None


def locate(draft: Pages, ledger: Ledger, fence: int, network: int, length: int) -> Spot | None:
    """Walk from the root, which is linked under `fence`, to the page that decides a piece. None if the root is closed."""
    level, width = ledger.levels[0], ledger.width
    links: tuple[Link, ...] = ()
    covered: Holding | None = None
    raw = draft.page(ledger.key(network, level))
    page = raw if raw is not None and raw.fence == fence else counted(raw, fence, ledger.sizes[level])
    if page is None:
        return None
    below = ledger.next_levels[level]
    index = (network >> (width - below)) & (ledger.sizes[level] - 1)
    while below < length:
        slot = page.slots[index]
        raw = draft.page(ledger.key(network, below))
        if type(slot) is Split and (raw is None or raw.fence <= slot.fence):
            fence = slot.fence
        else:  # free, held, or a dead link: a new link must not name an older fence than the page's
            if type(slot) is Holding:
                covered = slot
            fence = max(fence_of(slot) + 1, raw.fence if raw is not None else 0)
            links += (Link(level, _masked(ledger, network, level), page, index, fence),)
        child = raw if raw is not None and raw.fence == fence else counted(raw, fence, ledger.sizes[below])
        assert child is not None  # noqa: S101 - the fence was chosen so
        if type(slot) is Cooling:  # what is not taken of it goes on to cool
            child = child._replace(slots=tuple([Cooling(fence_of(each), slot.until) for each in child.slots]))
        level, page, below = below, child, ledger.next_levels[below]
        index = (network >> (width - below)) & (ledger.sizes[level] - 1)
    stop = index + (1 << (below - length))
    return Spot(level, _masked(ledger, network, level), raw, page, index, stop, links, covered)


def _masked(ledger: Ledger, network: int, level: int) -> int:
    shift = ledger.width - level
    return network >> shift << shift


def next_fence(draft: Pages, ledger: Ledger, spot: Spot) -> int | None:
    """Fence for a new holding of a spot's run, or None if something of it is held."""
    if spot.covered_by is not None:
        return None
    run = spot.page.slots[spot.start : spot.stop]
    if {*map(type, run)} == {int}:  # nearly always
        return max(run) + 1  # type: ignore[operator]  # mypy does not narrow by a set of types
    last = 0
    for index, slot in enumerate(run, spot.start):
        if type(slot) is int or type(slot) is Cooling:
            last = max(last, fence_of(slot))
            continue
        if type(slot) is Holding or _is_split_in_use(draft, ledger, spot, index, fence_of(slot)):
            return None
        below = ledger.slot_network(spot.network, spot.level, index)
        last = max(last, _last(draft, ledger, ledger.next_levels[spot.level], below, fence_of(slot)))
    return last + 1


def _last(draft: Pages, ledger: Ledger, level: int, network: int, fence: int) -> int:
    """The last fence that was used in a split slot, or in any page below it."""
    raw = draft.page(ledger.key(network, level))
    last = fence
    for index, slot in enumerate(raw.slots if raw is not None else ()):
        last = max(last, fence_of(slot))
        if type(slot) is Split:
            below = ledger.slot_network(network, level, index)
            last = max(last, _last(draft, ledger, ledger.next_levels[level], below, slot.fence))
    return last


def holdings(draft: Pages, ledger: Ledger, fence: int) -> Iterator[Holding]:
    """Everything that is held in a ledger, in address order. Cost: its pages."""
    return _below(draft, ledger, ledger.levels[0], ledger.root.network, fence)


def _below(draft: Pages, ledger: Ledger, level: int, network: int, fence: int) -> Iterator[Holding]:
    raw = draft.page(ledger.key(network, level))
    if raw is None or raw.fence != fence:  # never written, void or closed: nothing in it counts
        return
    previous: Slot = 0
    for index, slot in enumerate(raw.slots):
        if type(slot) is Holding:
            if slot is not previous and slot != previous:
                yield slot
        elif type(slot) is Split:
            below = ledger.slot_network(network, level, index)
            yield from _below(draft, ledger, ledger.next_levels[level], below, slot.fence)
        previous = slot


class Status(Enum):
    """What became of a holding that a claim names. Pages may have been read at different times, and long ago."""

    HELD = "held"
    """The ledger shows it."""
    PENDING = "pending"
    """Its run is free and its fence was not used there: it may still be filled."""
    DEAD = "dead"
    """It ended, or can never begin: its fence was used up, there or in a part of it. True for ever, however old the page that shows it."""
    BLOCKED = "blocked"
    """It lies in something larger that is held. If that was read after the claim, nobody can ever fill it."""
    CROSSED = "crossed"
    """A part of it is held under an older fence: it could be filled once that is free again. `use_up` ends it before."""
    TORN = "torn"
    """The pages were read while it was being filled or ended: no moment looked like this. They have to be read again."""


def status(pages: Pages, ledger: Ledger, fence: int, holding: Holding) -> Status:
    """What became of a holding that a claim names. Cost: the depth of the tree."""
    spot = locate(pages, ledger, fence, holding.network, holding.length)
    if spot is None:
        return Status.DEAD
    raw = spot.raw
    counts = raw is not None and not spot.links and raw.fence == spot.page.fence
    if raw is not None:
        first = raw.slots[spot.start]
        if first is holding or first == holding:
            return Status.HELD if counts else Status.TORN
    crossed = False
    for index in range(spot.start, spot.stop):
        slot = spot.page.slots[index]  # as it counts: a page that is missing or void begins at the fence of its link
        if fence_of(slot) >= holding.fence:
            return Status.DEAD
        if type(slot) is Holding or type(slot) is Split:
            if not counts:  # neither is in a page that is closed or void
                return Status.TORN
            if type(slot) is Split and _is_used_up(pages, ledger, spot, index, slot.fence, holding.fence):
                return Status.DEAD
            crossed = crossed or type(slot) is Holding or _is_split_in_use(pages, ledger, spot, index, slot.fence)
    if spot.covered_by is not None:
        return Status.BLOCKED
    return Status.CROSSED if crossed else Status.PENDING


def _is_used_up(pages: Pages, ledger: Ledger, spot: Spot, index: int, link: int, fence: int) -> bool:
    below = ledger.slot_network(spot.network, spot.level, index)
    return _shows(pages, ledger, ledger.next_levels[spot.level], below, link, fence)


def _shows(pages: Pages, ledger: Ledger, level: int, network: int, link: int, fence: int) -> bool:
    """Whether a page that a slot is split into, or one below it, shows that a fence of a larger piece was used up.

    Where a page was closed, that was perhaps done for that very piece, before it is filled: then its slots have no later fence.
    """
    raw = pages.page(ledger.key(network, level))
    if raw is None:
        return False
    if raw.fence > link:
        return any(fence_of(slot) > fence for slot in raw.slots)
    for index, slot in enumerate(raw.slots):
        if fence_of(slot) >= fence:
            return True
        if type(slot) is Split:
            below = ledger.slot_network(network, level, index)
            if _shows(pages, ledger, ledger.next_levels[level], below, slot.fence, fence):
                return True
    return False


def _is_split_in_use(pages: Pages, ledger: Ledger, spot: Spot, index: int, fence: int) -> bool:
    below = ledger.slot_network(spot.network, spot.level, index)
    return next(_below(pages, ledger, ledger.next_levels[spot.level], below, fence), None) is not None


def fill(draft: Drafts, ledger: Ledger, fence: int, holding: Holding) -> None:
    """Put a holding that is PENDING into its page, with the links that lead there."""
    spot = draft.locate(ledger, fence, holding.network, holding.length)
    if spot is None or spot.covered_by is not None:
        raise AssertionError(f"{holding.piece} is not pending")
    _put_links(draft, ledger, spot)
    cursor = spot.stop % len(spot.page.slots) if holding.length == ledger.width else spot.page.cursor
    _put_run(draft, ledger, spot.level, spot.network, spot.page, spot.start, spot.stop, holding, cursor)


def free(draft: Drafts, ledger: Ledger, fence: int, holding: Holding, last: int, until: float | None = None) -> None:
    """End a holding that is HELD or PENDING: its run keeps a fence, so that nobody can fill it (again), however late.

    Links that are missing are made as for filling it. So a page that was closed for something larger, which is pending, changes only
    after the page where that would be filled: whoever still fills it finds out.

    Args:
        draft: Where to put it.
        ledger: The ledger.
        fence: The one under which its root counts.
        holding: What to end.
        last: The last fence that was used in the piece or below it; at least the holding's.
        until: When somebody may get it again, in seconds since the epoch; None is at once.
    """
    spot = locate(draft, ledger, fence, holding.network, holding.length)
    if spot is None or spot.covered_by is not None:
        return
    _put_links(draft, ledger, spot)
    ended = last if until is None else Cooling(last, until)
    _put_run(draft, ledger, spot.level, spot.network, spot.page, spot.start, spot.stop, ended)


def use_up(draft: Drafts, ledger: Ledger, fence: int, holding: Holding) -> bool:
    """Use up the fence of a holding that is CROSSED in a slot that is free, so that it is DEAD when that is written.

    There is one: the fence is one more than the last of some slot, and what is held there since would have a later one.

    Returns:
        Whether that slot was found. In pages that were read long ago, or are damaged, there may be none.
    """
    spot = locate(draft, ledger, fence, holding.network, holding.length)
    if spot is None or spot.links or spot.covered_by is not None:
        return False
    return _mark(draft, ledger, spot.level, spot.network, spot.page, spot.start, spot.stop, holding.fence)


def _mark(draft: Drafts, ledger: Ledger, level: int, network: int, page: Page, start: int, stop: int, last: int) -> bool:
    """Let the first free slot of a run, or below it, say that a fence was used."""
    for index, slot in enumerate(page.slots[start:stop], start):
        if type(slot) is Split:
            below, deeper = ledger.slot_network(network, level, index), ledger.next_levels[level]
            child = counted(draft.page(ledger.key(below, deeper)), slot.fence, ledger.sizes[deeper])
            if child is not None:
                if _mark(draft, ledger, deeper, below, child, 0, len(child.slots), last):
                    return True
                continue
        if type(slot) is not Holding:  # what is split into a closed page is free
            ended = Cooling(max(last, slot.fence), slot.until) if type(slot) is Cooling else max(last, fence_of(slot))
            _put_run(draft, ledger, level, network, page, index, index + 1, ended)
            return True
    return False


def _put_links(draft: Drafts, ledger: Ledger, spot: Spot) -> None:
    for link in spot.links:
        _put_run(draft, ledger, link.level, link.network, link.page, link.slot, link.slot + 1, Split(link.fence))


def close(
    draft: Drafts, ledger: Ledger, level: int, network: int, fence: int, *, force: bool = False, until: float | None = None
) -> int:
    """Close the page that a link names under `fence`, and everything below it, the deepest first.

    With `force` what is held in it is dropped, and cools `until`; without, it must be empty. Closing what is closed changes nothing.

    Returns:
        The last fence that was used up in it or below it, which is more than `fence`.
    """
    key = ledger.key(network, level)
    raw = draft.page(key)
    if raw is None:
        raw = Page(0, 0, (0,) * ledger.sizes[level])
    elif raw.fence > fence:
        return _last(draft, ledger, level, network, fence)
    void = raw.fence < fence
    # one more than the last: whoever claimed something here and has not filled it yet did so under that fence at most
    end = max(fence, *map(fence_of, raw.slots)) + 1
    for index, slot in enumerate(raw.slots):
        if type(slot) is Holding and not (force or void):
            raise AssertionError(f"closing {key}, in which {slot.piece} is held")
        if type(slot) is Split:  # not one more again: a larger piece that is pending has no earlier fence than what is closed for it
            end = max(end, _close_slot(draft, ledger, level, network, index, slot, force=force or void, until=until))
    slots: tuple[Slot, ...] = (end,) * len(raw.slots)
    if ledger.kind == "address-page":
        # what cools says so on: whoever finishes a release that somebody began finds there how long the block has to
        ends = [slot.until if type(slot) is Cooling else until if type(slot) is Holding else None for slot in raw.slots]
        slots = tuple([Cooling(end, time) if time is not None else end for time in ends])
    draft.put_page(key, Page(fence + 1, 0, slots), level, None, closing=True)
    return end


def _close_slot(
    draft: Drafts, ledger: Ledger, level: int, network: int, index: int, slot: Split, *, force: bool, until: float | None = None
) -> int:
    """Close what a slot is split into; the last fence that was used up there."""
    below = ledger.slot_network(network, level, index)
    return close(draft, ledger, ledger.next_levels[level], below, slot.fence, force=force, until=until)


def _put_run(
    draft: Drafts,
    ledger: Ledger,
    level: int,
    network: int,
    page: Page,
    start: int,
    stop: int,
    value: Slot,
    cursor: int | None = None,
) -> None:
    """Put a page that counts with a run of slots set, closing what was split there, and raising the page if it was void."""
    key = ledger.key(network, level)
    raw = draft.page(key)
    fence, kept, slots = page
    raised = raw is not None and raw.fence != fence
    if raised and raw is not None:
        for index, slot in enumerate(raw.slots):
            if type(slot) is Split:
                _close_slot(draft, ledger, level, network, index, slot, force=True)
    if type(value) is not Split:
        for index, slot in enumerate(slots[start:stop], start):
            if type(slot) is Split:
                _close_slot(draft, ledger, level, network, index, slot, force=False)
    changed = list(slots)
    changed[start:stop] = [value] * (stop - start)
    where = None if raised or raw is None else tuple(range(start, stop))
    draft.put_page(key, Page(fence, kept if cursor is None else cursor, tuple(changed)), level, where)
