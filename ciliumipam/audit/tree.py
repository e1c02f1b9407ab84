"""The pages of a store: where each lies, whether it counts, and whether what it shows can be.

A page of blocks covers a whole family (4 slots of a /2) or a prefix of 2, 10, 18, ... bits (256 slots each). A page of addresses
covers a block or, below that, a prefix of a multiple of 8 bits. A page counts under the fence that the slot above it names: a root
page of blocks under 1, the first page of a block's addresses under the fence by which the block is held. Pages of another address
space than the default one have it in front of their keys, as in "tenant-b@10.0.0.0/18"; spaces know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from ciliumipam.audit.findings import BACKUP, HARMLESS, REPAIR, Findings, in_space, moment
from ciliumipam.cidr import WIDTH, Family, Prefix, parse_prefix
from ciliumipam.errors import InvalidCidrError, InvalidNameError
from ciliumipam.names import validate_name
from ciliumipam.pool import DEFAULT_SPACE
from ciliumipam.records import Cooling, Holding, Key, Kind, Page, Slot, Split

_FAMILIES: tuple[Family, ...] = (4, 6)
_NAMED = 3
_LONGEST_DELAY = 315_360_000
"""Ten years in seconds, the longest that a pool may let anything cool."""


class _Place(NamedTuple):
    """Where a page lies: its address space, the root of its ledger, what the page covers, and its slots' prefix length."""

    kind: Kind
    space: str
    root: Prefix
    prefix: Prefix
    below: int

    @property
    def parent(self) -> _Place | None:
        """The page above, None for a root."""
        if self.prefix == self.root:
            return None
        length = max(self.prefix.length - 8, self.root.length)
        return _Place(self.kind, self.space, self.root, _cut(self.prefix, length), self.prefix.length)

    def child(self, slot: int) -> _Place:
        """The page below a slot."""
        family, network, width = self.prefix.family, self.prefix.network, WIDTH[self.prefix.family]
        prefix = Prefix(family, network + (slot << (width - self.below)), self.below)
        return _Place(self.kind, self.space, self.root, prefix, min(self.below + 8, width))

    def slot(self, network: int) -> int:
        """The slot that has an address."""
        return (network - self.prefix.network) >> (WIDTH[self.prefix.family] - self.below)


def _cut(prefix: Prefix, length: int) -> Prefix:
    shift = WIDTH[prefix.family] - length
    return Prefix(prefix.family, prefix.network >> shift << shift, length)


def _block_page(space: str, prefix: Prefix) -> _Place:
    """The page of blocks of a space that covers exactly a prefix, if there is one of that length."""
    below = min(prefix.length + 8, WIDTH[prefix.family]) if prefix.length else 2
    return _Place("block-page", space, Prefix(prefix.family, 0, 0), prefix, below)


def _first_page(space: str, block: Prefix) -> _Place:
    """The first page of the addresses of a block."""
    return _Place("address-page", space, block, block, min(block.length // 8 * 8 + 8, WIDTH[block.family]))


def _place(key: Key) -> _Place:
    """Where the page of a key lies.

    Raises:
        ValueError: No page has such a key.
    """
    named, at, name = key.name.rpartition("@")
    space = named if at else DEFAULT_SPACE
    root_text, plus, page_text = name.partition("+")
    try:
        root, prefix = parse_prefix(root_text), parse_prefix(page_text if plus else root_text)
    except InvalidCidrError as error:
        raise ValueError(str(error)) from error
    width, length = WIDTH[root.family], prefix.length
    if key.kind == "block-page":
        if plus or (length and length % 8 != 2):
            raise ValueError("no page of blocks begins at that length")
        place = _block_page(space, prefix)
    elif prefix == root:
        place = _first_page(space, prefix)
    else:
        if length % 8 or not root.length < length < width or not root.covers(prefix):
            raise ValueError("no page of addresses of that block begins there")
        place = _Place(key.kind, space, root, prefix, length + 8)
    try:
        validate_name("address space", space)
    except InvalidNameError as error:
        raise ValueError("what stands before the @ is not the name of an address space") from error
    spelling = str(prefix) if key.kind == "block-page" or prefix == root else f"{root}+{prefix}"
    if key.name != (spelling if space == DEFAULT_SPACE else f"{space}@{spelling}"):
        raise ValueError("it is not in the one spelling that is looked for")
    return place


def _fence(slot: Slot) -> int:
    return slot if isinstance(slot, int) else slot.fence


def _runs(page: Page) -> Iterator[tuple[int, Holding]]:
    """Each holding of a page once, with the first of its slots."""
    seen: set[Holding] = set()
    for index, slot in enumerate(page.slots):
        if isinstance(slot, Holding) and slot not in seen:
            seen.add(slot)
            yield index, slot


class Tree:
    """All pages of one look, checked when it is made.

    Attributes:
        pages: The pages whose key and size are right.
        blocks: Every block that counts as held.
        addresses: Every address that counts as held, with the block that it is in.
    """

    def __init__(
        self,
        findings: Findings,
        pages: Mapping[Key, Page],
        claimed: Callable[[str, Prefix], int],
        nodes: Collection[str],
        now: float,
    ) -> None:
        """Walk and check everything. O(slots).

        Args:
            findings: Where to tell.
            pages: All pages.
            claimed: The last fence under which somebody claims a block of an address space.
            nodes: Names of the nodes that are known.
            now: In seconds since the epoch.
        """
        self._findings, self._claimed = findings, claimed
        self._keys: dict[_Place, Key] = {}
        self.pages: dict[_Place, Page] = {}
        self._counted: set[_Place] = set()
        for key, page in pages.items():
            self._take(key, page)
        spaces = sorted({place.space for place in self.pages if place.kind == "block-page"})
        roots = [_block_page(space, Prefix(family, 0, 0)) for space in spaces for family in _FAMILIES]
        self.blocks = [block for root in roots for block in self._walk(root, 1)]
        self._fences = {block.place: block.fence for block in self.blocks}
        self.addresses: list[tuple[Holding, Holding]] = []
        for block in self.blocks:
            self._check_closed(block, nodes)
            self.addresses += [(block, address) for address in self._walk(_first_page(*block.place), block.fence)]
        for place, page in self.pages.items():
            self._check_slots(place, page)
            self._check_fence(place, page)
            self._check_cooling(place, page, now)
            if place not in self._counted:
                self._check_void(place, page)

    def _take(self, key: Key, page: Page) -> None:
        try:
            place = _place(key)
        except ValueError as error:
            self._findings.error(f"the key is not that of a page, so nobody reads what is in it: {error}", key)
            return
        due = 1 << (place.below - place.prefix.length)
        if len(page.slots) != due:
            self._findings.error(f"the page has {len(page.slots)} slots, it should have {due}", key)
            return
        self.pages[place], self._keys[place] = page, key

    def _walk(self, place: _Place, fence: int) -> Iterator[Holding]:
        """Everything held in a page that counts under a fence, and below it."""
        page = self.pages.get(place)
        if page is None or page.fence != fence:
            if page is not None and page.fence == fence + 1 and place.parent is not None:
                what = f"the page is closed, but the page above still links to it (fence {fence})"
                repair = f"{HARMLESS}: the next call that needs the page links it anew"
                self._findings.notice(what, self._keys[place], repair)
            return
        self._counted.add(place)
        yield from (holding for _, holding in _runs(page))
        for index, slot in enumerate(page.slots):
            if isinstance(slot, Split):
                if place.below == WIDTH[place.prefix.family]:
                    what = f"slot {index} is split, but a single address has nothing below it"
                    self._findings.error(what, self._keys[place])
                else:
                    yield from self._walk(place.child(index), slot.fence)

    def _check_closed(self, block: Holding, nodes: Collection[str]) -> None:
        """Whether a block is on its way back."""
        page = self.pages.get(_first_page(*block.place))
        if page is not None and page.fence == block.fence + 1:
            delete = f"ciliumipam delete node {block.holder}"
            again = f"{REPAIR}, which gives it back and carves anew, as applying any manifest does, or: {delete}"
            what = f"node {block.holder} is giving the block back: its addresses are closed, and it gives out none"
            self._findings.unfinished(what, f"block {block.piece}", again if block.holder in nodes else f"{REPAIR}, or: {delete}")

    def _check_slots(self, place: _Place, page: Page) -> None:
        """That every holding stands where it belongs, and nowhere else."""
        prefix, width = place.prefix, WIDTH[place.prefix.family]
        for start, held in _runs(page):
            wrong = ""
            if held.space != place.space:
                wrong = f"says that it is in the address space {held.space!r}, which its page is not of"
            elif held.family != prefix.family:
                wrong = "is of the other family than its page"
            elif not prefix.covers(held.prefix) or held.network & (held.prefix.size - 1):
                wrong = "lies outside its page"
            elif held.length > place.below or held.length == prefix.length < width or (
                place.kind == "address-page" and held.length != width
            ):  # fmt: skip
                wrong = "belongs into another page, by its length"
            else:
                run = list(range(place.slot(held.network), place.slot(held.prefix.last) + 1))
                stands = [index for index in range(start, len(page.slots)) if page.slots[index] == held]
                if stands != run:
                    wrong = f"should stand in slots {run[0]} to {run[-1]}, and stands in {_shown(stands)}"
            if wrong:
                self._findings.error(f"{held.piece} held by {held.holder!r} (fence {held.fence}) {wrong}", self._keys[place])

    def _check_fence(self, place: _Place, page: Page) -> None:
        """That no page is ahead of the slot above it, which is written first and keeps its last fence."""
        key, above = self._keys[place], place.parent
        if above is not None:
            upper = self.pages.get(above)
            if upper is None:
                if page.fence:
                    self._findings.error(f"the page has fence {page.fence}, but the page above it is missing", key)
                return
            last = _fence(upper.slots[above.slot(place.prefix.network)])
        elif place.kind == "block-page":
            if page.fence != 1:
                self._findings.error(f"the root page has fence {page.fence}, but it always counts under 1", key)
            return
        else:
            last = self._block_fence(place.space, place.prefix)
        if page.fence > last + 1:
            ahead = f"the page has fence {page.fence}, but the slot above it never had a later one than {last}"
            self._findings.error(f"{ahead}: it was lost or rolled back", key)

    def _block_fence(self, space: str, block: Prefix) -> int:
        """The last fence under which a block was held, is held, or may still be taken by a claim."""
        place = _block_page(space, _cut(block, (block.length + 5) // 8 * 8 - 6 if block.length > 2 else 0))
        page = self.pages.get(place)
        slots = page.slots[place.slot(block.network) : place.slot(block.last) + 1] if page is not None else ()
        return max([self._claimed(space, block), *map(_fence, slots)])

    def _check_cooling(self, place: _Place, page: Page, now: float) -> None:
        """That nothing cools longer than any pool can ask for: some clock was wrong then."""
        late = [slot.until for slot in page.slots if isinstance(slot, Cooling) and slot.until > now + _LONGEST_DELAY]
        if late:
            slots = f"{len(late)} slots cool" if len(late) > 1 else "a slot cools"
            what = f"{slots} until {moment(max(late))}, which is more than ten years from now: a clock was wrong when it was released"
            way = "set the clocks of all writers right"
            if place.kind == "address-page":
                way += f", and to use it before: ciliumipam drain block {place.root}{in_space(place.space)}, which gives it back once it is empty"
            self._findings.notice(what, self._keys[place], way)

    def _check_void(self, place: _Place, page: Page) -> None:
        """That nothing is held in a page that does not count."""
        held = [holding for _, holding in _runs(page)]
        if not held:
            return
        why = "no slot above links to it under this fence"
        if place.parent is None and place.kind == "address-page":
            fence = self._fences.get((place.space, place.prefix))
            why = "nobody holds the block" if fence is None else f"the block is held under fence {fence}"
        names = ", ".join(f"{each.piece} by {each.holder!r}" for each in held[:_NAMED])
        more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
        what = f"the page (fence {page.fence}) does not count, since {why}, but it shows as held {names}{more}"
        self._findings.error(what, self._keys[place], f"{BACKUP}; until then nobody is protected who uses what it names")


def _shown(numbers: list[int]) -> str:
    """Numbers for people, the first few of them."""
    shown = ", ".join(map(str, numbers[:_NAMED]))
    return shown if len(numbers) <= _NAMED else f"{shown} and {len(numbers) - _NAMED} more, up to {numbers[-1]}"
