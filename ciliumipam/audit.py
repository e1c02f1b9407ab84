"""The second opinion: every invariant of a store checked again from its raw records, by nothing that wrote them.

Shares no code with the ledger, the view or the protocol: it knows how pages, claims and keys are laid out and which rules hold
between them (`docs/explanation/ledger.md`), and follows the pages from the roots by itself. It only lists, it never writes, so it
may run beside writers. Each listing is one moment, but six listings are not: whatever looks wrong is looked at again until it
stands still, so that a call that is under way is no finding.

* **error**: an invariant is broken. No crash explains it: a record was damaged, lost, restored from an old copy or edited.
* **unfinished**: legal, and what a call leaves behind that crashed or is under way; `repair` says what finishes it.
* **notice**: sound, and somebody may want to know.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeVar
from zlib import crc32

from ciliumipam.cidr import WIDTH, Family, Prefix, parse_prefix
from ciliumipam.errors import CorruptRecordError, InvalidCidrError
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec, pool_order
from ciliumipam.records import (
    ADDRESS_KINDS,
    KINDS,
    ClaimPage,
    Holding,
    Key,
    Kind,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Revision,
    Slot,
    Split,
)
from ciliumipam.store import Store

Severity: TypeAlias = Literal["error", "unfinished", "notice"]

_ORDER: tuple[Severity, ...] = ("error", "unfinished", "notice")
_LOOKS = 5
_FAMILIES: tuple[Family, ...] = (4, 6)
_NAMED = 3
_BACKUP = "stop what writes to the store, keep a copy of it, and restore this record from a backup"
_HARMLESS = "nothing needs to be done"
_R = TypeVar("_R", bound=Record)


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        severity: See the module.
        what: What is the matter, as a sentence.
        where: The record, block, address, owner, node or pool concerned.
        repair: What to do about it, as a command where there is one.
    """

    severity: Severity
    what: str
    where: str
    repair: str


class Audit(NamedTuple):
    """All findings, errors first, then by place; and how many of what were looked at."""

    findings: tuple[Finding, ...]
    counts: dict[str, int]


def audit(store: Store, addresses: Store | None = None) -> Audit:
    """Verify a store, or two, without writing.

    Args:
        store: Where pools, nodes and blocks are kept.
        addresses: Where addresses are kept; the same store if not given.

    Raises:
        StoreError: The store cannot be read. A record that is corrupt is a finding instead.

    Complexity:
        O(records), each page counting its slots; selectors of all pools are tried for nodes that hold no block. Reads everything
        twice where something looks wrong, up to five times where others keep writing.
    """
    looked = _read(store, addresses)
    result = _examine(looked)
    for _ in range(_LOOKS - 1):
        if all(finding.severity == "notice" for finding in result.findings):
            break
        again = _read(store, addresses)
        if again.revisions == looked.revisions:
            break
        seen = set(result.findings)
        looked, result = again, _examine(again)
        result = result._replace(findings=tuple([each for each in result.findings if each in seen or each.severity == "notice"]))
    return result


# --------------------------------------------------------------------------------------------------- reading


class _Look(NamedTuple):
    """Everything, as listed kind by kind."""

    records: dict[Kind, dict[Key, Record]]
    revisions: list[list[tuple[Key, Revision]]]
    corrupt: tuple[Finding, ...]


def _read(store: Store, addresses: Store | None) -> _Look:
    records: dict[Kind, dict[Key, Record]] = {}
    revisions: list[list[tuple[Key, Revision]]] = []
    corrupt: list[Finding] = []
    for kind in KINDS:
        try:
            listing = (addresses if addresses is not None and kind in ADDRESS_KINDS else store).scan(kind)
        except CorruptRecordError as error:
            what = f"the record cannot be read: {error.reason}; nothing of its kind was checked, nor what depends on it"
            corrupt.append(Finding("error", what, error.key, _BACKUP))
            continue
        records[kind] = {key: entry.record for key, entry in listing.entries}
        revisions.append([(key, entry.revision) for key, entry in listing.entries])
    return _Look(records, revisions, tuple(corrupt))


def _examine(look: _Look) -> Audit:
    if look.corrupt:
        return Audit(look.corrupt, {f"{kind} records": len(found) for kind, found in look.records.items()})
    return _Examination(look.records).run()


class _Place(NamedTuple):
    """Where a page lies: the root of its ledger, what the page covers, and its slots' prefix length."""

    kind: Kind
    root: Prefix
    prefix: Prefix
    below: int

    @property
    def parent(self) -> _Place | None:
        """The page above, None for a root."""
        if self.prefix == self.root:
            return None
        length = max(self.prefix.length - 8, 0 if self.kind == "block-page" else self.root.length)
        return _Place(self.kind, self.root, _cut(self.prefix, length), self.prefix.length)

    def slot(self, network: int) -> int:
        """The slot that has an address."""
        return (network - self.prefix.network) >> (WIDTH[self.prefix.family] - self.below)


def _cut(prefix: Prefix, length: int) -> Prefix:
    shift = WIDTH[prefix.family] - length
    return Prefix(prefix.family, prefix.network >> shift << shift, length)


def _place(key: Key) -> _Place:
    """Where the page of a key lies.

    Raises:
        ValueError: No page has such a key.
    """
    root_text, plus, page_text = key.name.partition("+")
    try:
        root, prefix = parse_prefix(root_text), parse_prefix(page_text if plus else root_text)
    except InvalidCidrError as error:
        raise ValueError(str(error)) from error
    width, length = WIDTH[root.family], prefix.length
    if key.kind == "block-page":
        if plus or (length and length % 8 != 2):
            raise ValueError("no page of blocks begins at that length")
        root, below = Prefix(root.family, 0, 0), (min(length + 8, width) if length else 2)
    elif prefix == root:
        below = min(length // 8 * 8 + 8, width)
    else:
        below = length + 8
        if length % 8 or not root.length < length < width or not root.covers(prefix):
            raise ValueError("no page of addresses of that block begins there")
    if key.name != (str(prefix) if key.kind == "block-page" or prefix == root else f"{root}+{prefix}"):
        raise ValueError("it is not in the one spelling that is looked for")
    return _Place(key.kind, root, prefix, below)


def _fence(slot: Slot) -> int:
    return slot if isinstance(slot, int) else slot.fence


def _runs(page: Page) -> Iterator[tuple[int, Holding]]:
    """Each holding of a page once, with the first of its slots."""
    seen: set[Holding] = set()
    for index, slot in enumerate(page.slots):
        if isinstance(slot, Holding) and slot not in seen:
            seen.add(slot)
            yield index, slot


# ------------------------------------------------------------------------------------------------- examining


class _Examination:
    """One look, and what is found in it."""

    def __init__(self, records: Mapping[Kind, Mapping[Key, Record]]) -> None:
        self._records = records
        self._found: list[Finding] = []
        self._pages: dict[_Place, Page] = {}
        self._keys: dict[_Place, Key] = {}
        self._counted: set[_Place] = set()
        self._pools: dict[str, PoolRecord] = {}
        self._nodes: dict[str, NodeRecord] = {}
        self._blocks: list[Holding] = []
        self._addresses: list[tuple[Holding, Holding]] = []  # block, address
        self._by_node: dict[str, list[Holding]] = {}
        self._claimed: dict[Prefix, int] = {}

    def run(self) -> Audit:
        """Examine everything."""
        self._take_in()
        for family in _FAMILIES:
            root = _Place("block-page", Prefix(family, 0, 0), Prefix(family, 0, 0), 2)
            self._blocks += self._walk(root, 1)
        for block in self._blocks:
            self._by_node.setdefault(block.holder, []).append(block)
            self._look_into(block)
        for place, page in self._pages.items():
            self._check_slots(place, page)
            self._check_fence(place, page)
            if place not in self._counted:
                self._check_void(place, page)
        self._check_overlaps()
        self._check_claims()
        self._check_holders()
        self._notice_pools()
        self._notice_blocks()
        self._notice_nodes()
        self._found.sort(key=lambda finding: (_ORDER.index(finding.severity), finding.where, finding.what))
        counts = {
            "pools": len(self._pools),
            "nodes": len(self._nodes),
            "blocks": len(self._blocks),
            "addresses": len(self._addresses),
            "pages": len(self._pages),
            "claims": sum(len(page.claims) for kind in KINDS for _, page in self._of(kind, ClaimPage)),
        }
        return Audit(tuple(self._found), counts)

    def _error(self, what: str, where: object, repair: str) -> None:
        self._found.append(Finding("error", what, str(where), repair))

    def _unfinished(self, what: str, where: object, repair: str) -> None:
        self._found.append(Finding("unfinished", what, str(where), repair))

    def _notice(self, what: str, where: object, repair: str) -> None:
        self._found.append(Finding("notice", what, str(where), repair))

    def _of(self, kind: Kind, type_: type[_R]) -> list[tuple[Key, _R]]:
        return [(key, record) for key, record in self._records[kind].items() if isinstance(record, type_)]

    # ------------------------------------------------------------------------------------------------- records

    def _take_in(self) -> None:
        types: dict[Kind, type[Record]] = {
            "pool": PoolRecord,
            "node": NodeRecord,
            "block-page": Page,
            "block-claims": ClaimPage,
            "address-page": Page,
            "address-claims": ClaimPage,
        }
        for kind in KINDS:
            for key, record in self._records[kind].items():
                if not isinstance(record, types[kind]):
                    self._error(f"the record is a {type(record).__name__}, which is not of its kind", key, _BACKUP)
        for key, pool in self._of("pool", PoolRecord):
            self._pools[pool.spec.name] = pool
            if pool.spec.name != key.name:
                self._error(f"the record is of pool {pool.spec.name!r}", key, _BACKUP)
        for key, node in self._of("node", NodeRecord):
            self._nodes[node.node.name] = node
            if node.node.name != key.name:
                self._error(f"the record is of node {node.node.name!r}", key, _BACKUP)
        for kind in ("block-page", "address-page"):
            for key, page in self._of(kind, Page):
                self._take_page(key, page)
        for _, claims in self._of("block-claims", ClaimPage):
            for piece in (piece for pieces in claims.claims.values() for piece in pieces):
                self._claimed[piece.prefix] = max(piece.fence, self._claimed.get(piece.prefix, 0))

    def _take_page(self, key: Key, page: Page) -> None:
        try:
            place = _place(key)
        except ValueError as error:
            self._error(f"the key is not that of a page, so nobody reads what is in it: {error}", key, _BACKUP)
            return
        due = 1 << (place.below - place.prefix.length)
        if len(page.slots) != due:
            self._error(f"the page has {len(page.slots)} slots, it should have {due}", key, _BACKUP)
            return
        self._pages[place], self._keys[place] = page, key

    def _walk(self, place: _Place, fence: int) -> Iterator[Holding]:
        """Everything held in a page that counts under a fence, and below it."""
        page = self._pages.get(place)
        if page is None or page.fence != fence:
            if page is not None and page.fence == fence + 1 and place.parent is not None:
                what = f"the page is closed, but the page above still links to it (fence {fence})"
                self._unfinished(what, self._keys[place], f"{_HARMLESS}: the next call that needs the page links it anew")
            return
        self._counted.add(place)
        yield from (holding for _, holding in _runs(page))
        for index, slot in enumerate(page.slots):
            if isinstance(slot, Split):
                network = place.prefix.network + (index << (WIDTH[place.prefix.family] - place.below))
                child = Prefix(place.prefix.family, network, place.below)
                width = WIDTH[child.family]
                if place.below == width:
                    self._error(f"slot {index} is split, but a single address has nothing below it", self._keys[place], _BACKUP)
                    continue
                yield from self._walk(_Place(place.kind, place.root, child, min(place.below + 8, width)), slot.fence)

    def _look_into(self, block: Holding) -> None:
        """The addresses held in a block, and whether it is on its way back."""
        place = _root_of(block.prefix)
        root = self._pages.get(place)
        if root is not None and root.fence == block.fence + 1:
            finish = "apply any manifest again, which gives it back" if block.holder in self._nodes else ""
            finish += (" and carves anew, or " if finish else "") + f"ciliumipam delete node {block.holder}"
            what = f"node {block.holder} is giving the block back: its addresses are closed, and it gives out none"
            self._unfinished(what, f"block {block.piece}", finish)
        self._addresses += [(block, address) for address in self._walk(place, block.fence)]

    def _check_slots(self, place: _Place, page: Page) -> None:
        """That every holding stands where it belongs, and nowhere else."""
        key, prefix, width = self._keys[place], place.prefix, WIDTH[place.prefix.family]
        for start, held in _runs(page):
            text = f"{held.piece} held by {held.holder!r} (fence {held.fence})"
            if held.family != prefix.family:
                self._error(f"{text} is of the other family than its page", key, _BACKUP)
                continue
            if not prefix.covers(held.prefix) or held.network & (held.prefix.size - 1):
                self._error(f"{text} lies outside its page", key, _BACKUP)
                continue
            fits = place.below == held.length == width if place.kind == "address-page" else prefix.length < held.length
            if not fits or held.length > place.below:
                self._error(f"{text} belongs into another page, by its length", key, _BACKUP)
                continue
            run = range(place.slot(held.network), place.slot(held.prefix.last) + 1)
            stands = [index for index in range(start, len(page.slots)) if page.slots[index] == held]
            if stands != list(run):
                what = f"{text} should stand in slots {run.start} to {run.stop - 1}, and stands in {_ranges(stands)}"
                self._error(what, key, _BACKUP)

    def _check_fence(self, place: _Place, page: Page) -> None:
        """That no page is ahead of the slot above it, which is written first and keeps its last fence."""
        key, above = self._keys[place], place.parent
        if above is not None:
            upper = self._pages.get(above)
            if upper is None and page.fence:
                self._error(f"the page has fence {page.fence}, but the page above it is missing", key, _BACKUP)
            last = _fence(upper.slots[above.slot(place.prefix.network)]) if upper is not None else page.fence
        elif place.kind == "block-page":
            if page.fence != 1:
                self._error(f"the root page has fence {page.fence}, but it always counts under 1", key, _BACKUP)
            return
        else:
            last = self._block_fence(place.prefix)
        if page.fence > last + 1:
            what = f"the page has fence {page.fence}, but the slot above it never had a later one than {last}: it was lost or rolled back"
            self._error(what, key, _BACKUP)

    def _block_fence(self, block: Prefix) -> int:
        """The last fence under which a block was held, is held, or may still be taken by a claim."""
        level = (block.length + 5) // 8 * 8 - 6 if block.length > 2 else 0
        root = Prefix(block.family, 0, 0)
        place = _Place("block-page", root, _cut(block, level), min(level + 8, WIDTH[block.family]) if level else 2)
        page = self._pages.get(place)
        slots = page.slots[place.slot(block.network) : place.slot(block.last) + 1] if page is not None else ()
        return max([self._claimed.get(block, 0), *map(_fence, slots)])

    def _check_void(self, place: _Place, page: Page) -> None:
        """That nothing is held in a page that does not count."""
        held = [holding for _, holding in _runs(page)]
        if not held:
            return
        why = "no slot above links to it under this fence"
        if place.parent is None and place.kind == "address-page":
            fences = [block.fence for block in self._blocks if block.prefix == place.prefix]
            why = f"the block is held under fence {fences[0]}" if fences else "nobody holds the block"
        names = ", ".join(f"{each.piece} by {each.holder!r}" for each in held[:_NAMED])
        more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
        what = f"the page (fence {page.fence}) does not count, since {why}, but it shows as held {names}{more}"
        self._error(what, self._keys[place], f"{_BACKUP}; until then nobody is protected who uses what it names")

    def _check_overlaps(self) -> None:
        """That no two holdings share an address, neither blocks nor addresses."""
        for kind, pieces in (("block", self._blocks), ("address", [address for _, address in self._addresses])):
            outer: Holding | None = None
            for piece in sorted(set(pieces)):
                if outer is not None and outer.prefix.overlaps(piece.prefix):
                    left, right = (f"{each.piece} ({each.holder!r}, fence {each.fence})" for each in (outer, piece))
                    if kind == "block":
                        repair = f"stop the pods of node {piece.holder}, then: ciliumipam delete node {piece.holder} --force"
                    else:
                        repair = f"stop one of the two, then: ciliumipam release --address {piece.piece} --fence {piece.fence}"
                    self._error(f"two holders share addresses: {left} and {right}", f"{kind} {piece.piece}", repair)
                if outer is None or piece.family != outer.family or piece.prefix.last > outer.prefix.last:
                    outer = piece

    # -------------------------------------------------------------------------------------------------- claims

    def _check_claims(self) -> None:
        held_blocks, held = set(self._blocks), {(block.holder, address) for block, address in self._addresses}
        named_blocks: set[Holding] = set()
        named: set[tuple[str, Holding]] = set()
        for key, page in self._of("block-claims", ClaimPage):
            for node, pieces in self._claims(key, page, 256, ""):
                named_blocks.update(pieces)
                for piece in pieces:
                    if piece not in held_blocks:
                        finish = "apply any manifest again" if node in self._nodes else f"ciliumipam delete node {node}"
                        what = f"node {node} claims the block under fence {piece.fence}, but does not hold it: a call was cut short"
                        self._unfinished(what, f"block {piece.piece}", finish)
        for key, page in self._of("address-claims", ClaimPage):
            node = key.name.partition("/")[0]
            for owner, pieces in self._claims(key, page, 64, f"{node}/"):
                named.update((node, piece) for piece in pieces)
                for piece in pieces:
                    self._check_claimed(node, owner, piece, closing=piece in page.closing, held=(node, piece) in held)
        for block in sorted(held_blocks - named_blocks):
            what = f"node {block.holder} holds the block (fence {block.fence}), but no claim names it, so no call gives it back"
            self._error(what, f"block {block.piece}", _BACKUP)
        for node, address in sorted(held - named):
            what = f"owner {address.holder!r} on node {node} holds it (fence {address.fence}), but no claim names it"
            release = f"ciliumipam release --address {address.piece} --fence {address.fence}"
            self._error(what, f"address {address.piece}", f"if the owner no longer uses it: {release}")

    def _claims(self, key: Key, page: ClaimPage, buckets: int, prefix: str) -> Iterable[tuple[str, tuple[Holding, ...]]]:
        """The claims of a page, after checking that they belong into it and agree with its marks."""
        for holder, pieces in sorted(page.claims.items()):
            due = f"{prefix}{crc32(holder.encode()) % buckets:02x}"
            if key.name != due:
                self._error(f"the claim of {holder!r} belongs into {key.kind} {due}, so nobody finds it here", key, _BACKUP)
            if not pieces:
                self._error(f"the claim of {holder!r} names nothing", key, _BACKUP)
            for piece in pieces:
                if piece.holder != holder:
                    self._error(f"the claim of {holder!r} names {piece.piece} for {piece.holder!r}", key, _BACKUP)
        for piece in sorted(page.closing):
            if piece not in page.claims.get(piece.holder, ()):
                what = f"{piece.piece} of {piece.holder!r} (fence {piece.fence}) is marked as closing, but no claim names it"
                self._error(what, key, _BACKUP)
        for holder in sorted(page.tentative.keys() - page.claims.keys()):
            self._error(f"{holder!r} is marked as tentative, but has no claim", key, _BACKUP)
        return sorted(page.claims.items())

    def _check_claimed(self, node: str, owner: str, piece: Holding, *, closing: bool, held: bool) -> None:
        if held and not closing:
            return
        where, release = f"owner {owner} on node {node}", f"ciliumipam release {node} {owner}"
        if closing:
            self._unfinished(f"the release of {piece.piece} (fence {piece.fence}) was begun and not finished", where, release)
        elif any(block.prefix.covers(piece.prefix) for block in self._by_node.get(node, ())):
            what = f"the owner claims {piece.piece} under fence {piece.fence}, but does not hold it: a call was cut short"
            self._unfinished(what, where, f"ciliumipam allocate {node} {owner} finishes it, {release} ends it")
        else:
            what = f"the owner claims {piece.piece} (fence {piece.fence}), but the node no longer holds a block that has it"
            self._unfinished(what, where, f"{_HARMLESS}: the next call of that owner on that node forgets it")

    def _check_holders(self) -> None:
        """That nobody holds two pieces of a family: a node of all blocks, an owner of all addresses on a node."""
        blocks: dict[tuple[str, int], list[Holding]] = {}
        for block in self._blocks:
            blocks.setdefault((block.holder, block.family), []).append(block)
        for (node, family), pieces in sorted(blocks.items()):
            if len(pieces) > 1:
                what = f"the node holds {len(pieces)} IPv{family} blocks: {', '.join(piece.piece for piece in pieces)}"
                self._error(what, f"node {node}", f"move its pods away, then: ciliumipam delete node {node}, and apply it again")
        owners: dict[tuple[str, str, int], list[Holding]] = {}
        for block, address in self._addresses:
            owners.setdefault((block.holder, address.holder, address.family), []).append(address)
        for (node, owner, family), pieces in sorted(owners.items()):
            if len(pieces) > 1:
                what = f"the owner holds {len(pieces)} IPv{family} addresses: {', '.join(piece.piece for piece in pieces)}"
                repair = f"for each one that it does not use: ciliumipam release --address {pieces[-1].piece} --fence {pieces[-1].fence}"
                self._error(what, f"owner {owner} on node {node}", repair)

    # ------------------------------------------------------------------------------------------------- notices

    def _notice_pools(self) -> None:
        for name, other in sorted(_conflicts(self._pools.values()).items()):
            what = f"it overlaps the older pool {other!r}, so it serves nobody"
            self._notice(what, f"pool {name}", f"change its CIDRs and apply it again, or: ciliumipam delete pool {name}")
        wanted: dict[str, int] = {}
        ordered = sorted((record.spec for record in self._pools.values()), key=pool_order)
        for record in self._nodes.values():
            spec = self._serving(record.node, ordered)
            if spec is not None:
                wanted[spec.name] = wanted.get(spec.name, 0) + 1
        for name, count in sorted(wanted.items()):
            spec = self._pools[name].spec
            for family in spec.families:
                blocks = _usable_blocks(spec, family)
                if blocks < count:
                    what = f"it makes {blocks} IPv{family} blocks, but {count} nodes are or want to be served by it"
                    self._notice(what, f"pool {name}", "add a CIDR to the pool or make its block length longer, and apply it again")

    def _serving(self, node: Node, ordered: list[PoolSpec]) -> PoolSpec | None:
        """The pool that a node has its block from, or would be served by."""
        held = self._by_node.get(node.name)
        if held:
            record = self._pools.get(held[0].label)
            return record.spec if record is not None else None
        return next((spec for spec in ordered if spec.selector.matches(node.labels)), None)

    def _notice_blocks(self) -> None:
        inside: dict[Holding, list[Holding]] = {}
        for block, address in self._addresses:
            inside.setdefault(block, []).append(address)
        for block in self._blocks:
            where, node = f"block {block.piece}", block.holder
            record = self._pools.get(block.label)
            if node not in self._nodes:
                what = f"it is held by node {node}, which is not known"
                self._notice(what, where, f"apply the node, or take the block back: ciliumipam delete node {node}")
            if record is None or not record.spec.covers(block.prefix):
                gone = "is gone" if record is None else "no longer covers it"
                what = f"an orphan: its pool {block.label!r} {gone}, so it gives out no new addresses"
                repair = f"apply the pool with a CIDR that covers it, or once node {node} is empty: ciliumipam delete node {node}"
                self._notice(what, where, repair)
            elif node in self._nodes and not record.spec.selector.matches(labels := self._nodes[node].node.labels):
                why = record.spec.selector.explain(labels)
                what = f"node {node} keeps it, although pool {block.label!r} no longer selects the node: {why}"
                self._notice(what, where, f"to move the node: drain it, ciliumipam delete node {node}, and apply it again")
            if record is not None:
                self._notice_reserved(record.spec, block, inside.get(block, []))

    def _notice_reserved(self, spec: PoolSpec, block: Holding, addresses: list[Holding]) -> None:
        ranges = [(first, last) for family, first, last in spec.reserved if family == block.family]
        starts = [first for first, _ in ranges]
        first, last = block.network, block.prefix.last
        for address in addresses:
            at, number = bisect_right(starts, address.network) - 1, address.network
            edge = last - first > 1 and ((number == first and not spec.allow_first) or (number == last and not spec.allow_last))
            if edge or (at >= 0 and number <= ranges[at][1]):
                what = f"owner {address.holder!r} on node {block.holder} holds it, but pool {spec.name!r} has reserved it since"
                repair = f"if it has to be free: ciliumipam release --address {address.piece} --fence {address.fence}"
                self._notice(what, f"address {address.piece}", repair)

    def _notice_nodes(self) -> None:
        for name in sorted(self._nodes):
            held = self._by_node.get(name, [])
            record = self._pools.get(held[0].label) if held else None
            lacking = [] if record is None else sorted(set(record.spec.families) - {block.family for block in held})
            if not held:
                self._notice("it holds no block", f"node {name}", f"ciliumipam explain {name} says why")
            for family in lacking:
                self._notice(f"it holds no IPv{family} block", f"node {name}", f"ciliumipam explain {name} says why")


def _root_of(block: Prefix) -> _Place:
    """Where the first page of the addresses of a block lies."""
    return _Place("address-page", block, block, min(block.length // 8 * 8 + 8, WIDTH[block.family]))


def _ranges(numbers: list[int]) -> str:
    """Numbers for people, the first few of them."""
    shown = ", ".join(map(str, numbers[:_NAMED]))
    return shown if len(numbers) <= _NAMED else f"{shown} and {len(numbers) - _NAMED} more, up to {numbers[-1]}"


def _conflicts(records: Iterable[PoolRecord]) -> dict[str, str]:
    """Pools that overlap an older one which serves, with its name. O(c log c) for c CIDRs that are disjoint."""
    age = {record.spec.name: (record.since, record.spec.name) for record in records}
    pairs: set[tuple[str, str]] = set()
    around: list[tuple[Prefix, str]] = []
    for cidr, name in sorted((cidr, record.spec.name) for record in records for cidr in record.spec.cidrs):
        while around and not around[-1][0].covers(cidr):
            around.pop()
        pairs.update((name, other) for _, other in around if other != name)
        around.append((cidr, name))
    partners: dict[str, set[str]] = {}
    for left, right in pairs:
        partners.setdefault(left, set()).add(right)
        partners.setdefault(right, set()).add(left)
    found: dict[str, str] = {}
    for name in sorted(partners, key=lambda each: age[each]):
        older = [other for other in partners[name] if age[other] < age[name] and other not in found]
        if older:
            found[name] = min(older, key=lambda each: age[each])
    return found


def _usable_blocks(spec: PoolSpec, family: Family) -> int:
    """How many blocks of a family a pool makes that are not wholly reserved."""
    count = 0
    for cidr in spec.cidrs_of(family):
        bits = WIDTH[family] - spec.block_length(cidr)
        count += 1 << (spec.block_length(cidr) - cidr.length)
        for reserved_family, first, last in spec.reserved:
            if reserved_family == family:
                low, high = max(first, cidr.network), min(last, cidr.last)
                count -= max(0, ((high + 1) >> bits) - (-(-low >> bits)))
    return count


__all__ = ["Audit", "Finding", "audit"]
