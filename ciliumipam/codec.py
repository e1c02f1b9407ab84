"""Records as text and back: JSON that a person can read in the `sqlite3` shell, one slot of a page on each line.

A change usually touches one slot of 256, so a `Codec` remembers the last text of the pages that it saw and encodes, or decodes, only
the lines that changed. The memory is a cache of a pure function: values and text stay exactly the same without it.

A page, the other kinds being plain objects in one line::

    {"format":1,"fence":1,"cursor":3,"slots":[
    4,                                                        free, its last holding had fence 4
    ["10.0.1.1",7,"cni/3f2a/eth0","default/web",1.5],         held: piece, fence, holder, label, since
    null,                                                     the same holding as the line above
    {"split":5},                                              decided by the page below, under fence 5
    {"cooling":6,"until":9.5}                                 free, its last holding had fence 6; not before that time
    ]}

What is in an address space of its own, block or address, has that as a sixth value.

Text is ASCII with JSON's escapes, so every string can be stored; only two surrogates side by side come back as the character that they
make. Reading is strict: a field that is missing, unknown, doubled or
of another type makes the record corrupt, a format above `FORMAT` is told as such and never guessed at. Any other spelling of the same
JSON (pretty-printed, or sent through an API server) is read as well, only slower. Stores that keep bytes stand on this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import compress, count
from json import dumps
from json.encoder import encode_basestring_ascii
from math import isfinite
from operator import is_not, ne
from threading import Lock
from typing import Any, NamedTuple, cast

from ciliumipam.cidr import WIDTH, Family, parse_address, parse_prefix
from ciliumipam.demand import Demand, normalize
from ciliumipam.errors import CorruptRecordError, InvalidAddressError, InvalidError, StoreRefusedError
from ciliumipam.node import Node
from ciliumipam.pool import DEFAULT_SPACE, BlockLengths, PoolSpec
from ciliumipam.records import (
    ClaimPage,
    Cooling,
    Holding,
    Key,
    Kind,
    Lease,
    Leased,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Slot,
    Split,
)
from ciliumipam.selector import NodeSelector
from ciliumipam.strict_json import (
    FORMAT,
    CorruptError,
    check_fields,
    finite,
    natural,
    raw_decode,
    read_object,
    seconds_of,
    shortened,
    texts,
    time_of,
    typed,
)

_MOST_SLOTS = 256
_SLOTS_BEGIN, _SLOTS_END, _NEXT = '"slots":[\n', "\n]}", ",\n"
_KIND: dict[Kind, type[Record]] = {
    "pool": PoolRecord,
    "node": NodeRecord,
    "block-page": Page,
    "block-claims": ClaimPage,
    "address-page": Page,
    "address-claims": ClaimPage,
    "lease": Lease,
}


class _Seen(NamedTuple):
    """A page's slots and the line of each, as last encoded or decoded. Never changed, only replaced."""

    slots: tuple[Slot, ...]
    lines: Sequence[str]


class Codec:
    """Encodes and decodes records. Thread-safe.

    Attributes:
        remembered: How many pages are remembered at most. A full page costs about 30 KB; 0 remembers nothing.
    """

    def __init__(self, remembered: int = 512) -> None:
        """Start with an empty memory of at most `remembered` pages."""
        self.remembered = remembered
        self._lock = Lock()
        self._seen: dict[Key, _Seen] = {}

    def encode(self, key: Key, record: Record) -> str:
        """The record as text. Equal records of one key give equal text.

        Raises:
            StoreRefusedError: The record is not of the key's kind, or has a time that is not finite.

        Complexity:
            O(slots) in C and O(changed slots) in Python for a remembered page, else O(slots).
        """
        if type(record) is not _KIND[key.kind]:
            raise StoreRefusedError(f"store {key}", f"a {type(record).__name__} is not a record of this kind")
        try:
            if isinstance(record, Page):
                return self._encode_page(key, record)
            if isinstance(record, ClaimPage):
                return _encode_claims(record)
            if isinstance(record, Lease):
                return dumps(_lease_fields(record), separators=(",", ":"))
            return dumps(
                _pool_fields(record) if isinstance(record, PoolRecord) else _node_fields(record), separators=(",", ":")
            )
        except ValueError as error:
            raise StoreRefusedError(f"store {key}", str(error)) from error

    def decode(self, key: Key, text: str) -> Record:
        """The record that was encoded under this key.

        Raises:
            CorruptRecordError: The text is not such a record; names the field.
            UnsupportedVersionError: The record has a newer format.

        Complexity:
            As `encode`.
        """
        try:
            if _KIND[key.kind] is Page:
                return self._decode_page(key, text)
            return _DECODERS[key.kind](read_object(key, text))
        except (CorruptError, InvalidError) as error:
            raise CorruptRecordError(str(key), str(error)) from error

    def _encode_page(self, key: Key, page: Page) -> str:
        slots, seen = page.slots, self._seen.get(key)
        if seen is not None and len(seen.slots) == len(slots):
            lines = list(seen.lines)
            changed = list(compress(count(), map(is_not, slots, seen.slots)))
            for index in changed:
                lines[index] = _line(slots, index)
                if index + 1 < len(slots):  # it may begin, or no longer be, "the same as above"
                    lines[index + 1] = _line(slots, index + 1)
        else:
            lines = [_line(slots, index) for index in range(len(slots))]
        self._remember(key, _Seen(slots, lines))
        head = f'{{"format":{FORMAT},"fence":{page.fence},"cursor":{page.cursor},{_SLOTS_BEGIN}'
        return f"{head}{_NEXT.join(lines)}{_SLOTS_END}"

    def _decode_page(self, key: Key, text: str) -> Page:
        head, begin, rest = text.partition(_SLOTS_BEGIN)
        if begin and rest.endswith(_SLOTS_END):
            fields = read_object(key, f'{head}"slots":[]}}')
            body = rest[: -len(_SLOTS_END)]
            lines = body.split(_NEXT) if body else []
        else:
            fields = read_object(key, text)
            lines = [dumps(item, separators=(",", ":")) for item in typed(list, fields, "slots")]
        check_fields(fields, ("fence", "cursor", "slots"))
        if len(lines) > _MOST_SLOTS:
            raise CorruptError(f"slots: {len(lines)} slots, a page has at most {_MOST_SLOTS}")
        seen = self._seen.get(key)
        if seen is not None and len(seen.lines) == len(lines):
            slots = list(seen.slots)
            changed: Iterable[int] = compress(count(), map(ne, lines, seen.lines))
        else:
            slots = [0] * len(lines)
            changed = range(len(lines))
        for index in changed:
            repeated = index > 0 and lines[index] == lines[index - 1]  # most slots of most pages: free, since the page is there
            slots[index] = slots[index - 1] if repeated else _read_line(lines, slots, index)
            while index + 1 < len(lines) and lines[index + 1] == "null":
                index += 1  # noqa: PLW2901 - a line that did not change, but the one that it repeats did
                slots[index] = _read_line(lines, slots, index)
        page = Page(natural(fields, "fence"), natural(fields, "cursor"), tuple(slots))
        self._remember(key, _Seen(page.slots, lines))
        return page

    def _remember(self, key: Key, seen: _Seen) -> None:
        with self._lock:
            self._seen.pop(key, None)
            self._seen[key] = seen
            if len(self._seen) > self.remembered:
                del self._seen[next(iter(self._seen))]


def room(text: str) -> tuple[int, ...] | None:
    """The slots of a page, as `Codec` spells it, that nobody holds. A twentieth of the cost of decoding; None for other spellings."""
    _, begin, rest = text.partition(_SLOTS_BEGIN)
    if not begin or not rest.endswith(_SLOTS_END):
        return None
    lines = rest[: -len(_SLOTS_END)].split(_NEXT)
    return tuple([index for index, line in enumerate(lines) if line[:2] != '["' and line != "null"])


# --------------------------------------------------------------------------------------------- slots and holdings


def _line(slots: Sequence[Slot], index: int) -> str:
    slot = slots[index]
    if isinstance(slot, int):
        return int.__repr__(slot)
    if isinstance(slot, Split):
        return f'{{"split":{slot.fence}}}'
    if isinstance(slot, Cooling):
        return f'{{"cooling":{slot.fence},"until":{finite(slot.until)!r}}}'
    return "null" if index and slots[index - 1] == slot else _row(slot)


@lru_cache(maxsize=8192)
def _row(holding: Holding) -> str:
    """A holding as JSON; the same one stands in a page and in a claim page, and is read and written again with its neighbours."""
    since = float(holding.since)
    if not isfinite(since):
        raise ValueError(f"{holding.piece} of {holding.holder!r} has a time that is not finite: {since}")
    holder, label = encode_basestring_ascii(holding.holder), encode_basestring_ascii(holding.label)
    space = "" if holding.space == DEFAULT_SPACE else f",{encode_basestring_ascii(holding.space)}"
    return f'["{holding.piece}",{holding.fence},{holder},{label},{since!r}{space}]'


def _read_line(lines: Sequence[str], slots: Sequence[Slot], index: int) -> Slot:
    line = lines[index]
    try:
        value, end = raw_decode(line)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"slots[{index}]: not JSON: {shortened(line)}") from error
    except CorruptError as error:
        raise CorruptError(f"slots[{index}]: {error}") from error
    if end != len(line):
        raise CorruptError(f"slots[{index}]: not JSON: {shortened(line)}")
    if type(value) is list:
        return _holding(value, "slots", index)
    if type(value) is int and value >= 0:
        return value
    if value is None and index and isinstance(slots[index - 1], Holding):
        return slots[index - 1]
    if type(value) is dict and value.keys() == {"split"}:
        return Split(natural(value, "split", f"slots[{index}]."))
    if type(value) is dict and value.keys() == {"cooling", "until"}:
        until = seconds_of(value["until"])
        if until is not None:
            return Cooling(natural(value, "cooling", f"slots[{index}]."), until)
    raise CorruptError(f"slots[{index}]: neither free, held, split, cooling nor a repetition: {shortened(line)}")


def _holding(row: object, path: str, index: int) -> Holding:
    """A holding out of its list; `path` and `index` say where it stood."""
    if type(row) is list and (len(row) == 5 or (len(row) == 6 and type(row[5]) is str)):
        piece, fence, holder, label, since, *space = row
        if type(piece) is str and type(fence) is int and type(holder) is str and type(label) is str and fence >= 0:
            seconds = since if type(since) is float and isfinite(since) else seconds_of(since)
            if seconds is not None:
                try:
                    family, network, length = parse_prefix(piece) if "/" in piece else _address(piece)
                except InvalidError as error:
                    raise CorruptError(f"{path}[{index}][0]: {error}") from error
                return Holding(family, network, length, fence, holder, label, seconds, *space)
    raise CorruptError(f"{path}[{index}]: expected [piece, fence, holder, label, since] or a space as well, found {shortened(dumps(row))}")


_OCTETS = {str(number): number for number in range(256)}


def _address(text: str) -> tuple[Family, int, int]:
    """A single address as family, number, length. Addresses beside each other differ in their last part: the rest is remembered."""
    head, _, tail = text.rpartition(".")
    last = _OCTETS.get(tail)
    if last is not None:
        family, number = _first(head + ".0")
        return family, number + last, WIDTH[family]
    head, _, tail = text.rpartition(":")
    if head and len(tail) <= 4 and tail.isalnum() and tail.isascii() and "x" not in tail.lower():
        family, number = _first(head + ":0")
        return family, number + _hextet(text, tail), WIDTH[family]
    family, number = parse_address(text)
    return family, number, WIDTH[family]


_first = lru_cache(maxsize=4096)(parse_address)


def _hextet(text: str, tail: str) -> int:
    try:
        return int(tail, 16)
    except ValueError as error:
        raise InvalidAddressError(text, f"{tail!r} is not a number in hexadecimal") from error


def _holdings(rows: object, path: str) -> tuple[Holding, ...]:
    if type(rows) is not list:
        raise CorruptError(f"{path}: expected a list, found {shortened(dumps(rows))}")
    return tuple([_holding(row, path, index) for index, row in enumerate(rows)])  # faster than a generator


# ----------------------------------------------------------------------------------------------------- claim pages


def _encode_claims(page: ClaimPage) -> str:
    claims = ",".join(
        f"{encode_basestring_ascii(holder)}:[{','.join(map(_row, holdings))}]"
        for holder, holdings in sorted(page.claims.items())
    )
    tentative = ",".join(
        f"{encode_basestring_ascii(holder)}:{encode_basestring_ascii(token)}"
        for holder, token in sorted(page.tentative.items())
    )
    closing = ",".join(map(_row, sorted(page.closing)))
    draining = f',"draining":[{",".join(map(_row, sorted(page.draining)))}]' if page.draining else ""
    return f'{{"format":{FORMAT},"claims":{{{claims}}},"tentative":{{{tentative}}},"closing":[{closing}]{draining}}}'


def _decode_claims(fields: dict[str, Any]) -> ClaimPage:
    check_fields(fields, ("claims", "tentative", "closing"), ("draining",))
    claims = typed(dict, fields, "claims")
    return ClaimPage(
        {holder: _holdings(rows, f"claims[{holder!r}]") for holder, rows in claims.items()},
        _tokens(typed(dict, fields, "tentative")),
        frozenset(_holdings(fields["closing"], "closing")),
        frozenset(_holdings(fields["draining"], "draining")) if "draining" in fields else frozenset(),
    )


def _tokens(fields: dict[str, Any]) -> dict[str, str]:
    for holder, token in fields.items():
        if type(token) is not str:
            raise CorruptError(f"tentative[{holder!r}]: expected text, found {shortened(dumps(token))}")
    return fields


# ------------------------------------------------------------------------------------------------- pools and nodes


def _pool_fields(record: PoolRecord) -> dict[str, Any]:
    return {"format": FORMAT, "name": record.spec.name, "since": finite(record.since), "spec": record.spec.to_dict()}


_SCALARS = {
    "allowFirst": "allow_first",
    "allowLast": "allow_last",
    "priority": "priority",
    "addressSpace": "address_space",
    "blocksPerNode": "blocks_per_node",
    "maxBlocksPerNode": "max_blocks_per_node",
    "overflow": "overflow",
    "draining": "draining",
    "reuseDelaySeconds": "reuse_delay",
    "addressPolicy": "address_policy",
    "seed": "seed",
    "carving": "carving",
    "groupBy": "group_by",
}
"""Fields of a pool's `to_dict` that a `PoolSpec` takes as they are, and checks by itself."""


def _block_lengths(fields: object, path: str) -> BlockLengths:
    if type(fields) is not dict:
        raise CorruptError(f"{path.rstrip('.')}: expected an object, found {shortened(dumps(fields))}")
    check_fields(fields, ("nodeSelector",), ("ipv4", "ipv6"), path)
    lengths = [natural(fields, name, path) if name in fields else None for name in ("ipv4", "ipv6")]
    return BlockLengths(NodeSelector.from_manifest(typed(dict, fields, "nodeSelector", path)), *lengths)


def _decode_pool(fields: dict[str, Any]) -> PoolRecord:
    check_fields(fields, ("name", "since", "spec"))
    spec = typed(dict, fields, "spec")
    check_fields(spec, ("cidrs", "nodeSelector"), ("blockLength", "blockLengths", "reserved", *_SCALARS), "spec.")
    lengths = typed(dict, spec, "blockLength", "spec.") if "blockLength" in spec else {}
    check_fields(lengths, (), ("ipv4", "ipv6"), "spec.blockLength.")
    others = typed(list, spec, "blockLengths", "spec.") if "blockLengths" in spec else []
    pool = PoolSpec(
        name=typed(str, fields, "name"),
        cidrs=texts(spec, "cidrs", "spec."),
        selector=NodeSelector.from_manifest(typed(dict, spec, "nodeSelector", "spec.")),
        block_length_v4=natural(lengths, "ipv4", "spec.blockLength.") if "ipv4" in lengths else None,
        block_length_v6=natural(lengths, "ipv6", "spec.blockLength.") if "ipv6" in lengths else None,
        block_lengths=[_block_lengths(each, f"spec.blockLengths[{index}].") for index, each in enumerate(others)],
        reserved=texts(spec, "reserved", "spec.") if "reserved" in spec else (),
        **{field: spec[name] for name, field in _SCALARS.items() if name in spec},
    )
    return PoolRecord(pool, time_of(fields))


def _node_fields(record: NodeRecord) -> dict[str, Any]:
    labels = dict(record.node.label_pairs)
    fields = {"format": FORMAT, "name": record.node.name, "since": finite(record.since), "labels": labels}
    if record.draining:
        fields["draining"] = True
    if record.demand:
        fields["demand"] = [
            {"family": each.family, "addresses": each.addresses} | ({"pool": each.pool} if each.pool else {}) for each in record.demand
        ]
    return fields


def _decode_node(fields: dict[str, Any]) -> NodeRecord:
    check_fields(fields, ("name", "since", "labels"), ("draining", "demand"))
    labels = typed(dict, fields, "labels")
    node = Node(typed(str, fields, "name"), {key: typed(str, labels, key, "labels.") for key in labels})
    draining = typed(bool, fields, "draining") if "draining" in fields else False
    return NodeRecord(node, time_of(fields), draining, _demand(fields) if "demand" in fields else ())


def _demand(fields: dict[str, Any]) -> tuple[Demand, ...]:
    found = []
    for index, each in enumerate(typed(list, fields, "demand")):
        path = f"demand[{index}]."
        if type(each) is not dict:
            raise CorruptError(f"{path.rstrip('.')}: expected an object, found {shortened(dumps(each))}")
        check_fields(each, ("family", "addresses"), ("pool",), path)
        pool = typed(str, each, "pool", path) if "pool" in each else ""
        family = natural(each, "family", path)
        found.append(Demand(pool, cast("Family", family), natural(each, "addresses", path)))
    return normalize(found)


# ---------------------------------------------------------------------------------------------------------- leases


def _lease_fields(record: Lease) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "node": record.node,
        "boot": record.boot,
        "confirmed": finite(record.confirmed),
        "stopAfterSeconds": finite(record.stop_after),
        "blocks": [_leased_row(block) for block in record.blocks],
        "returning": [_leased_row(block) for block in record.returning],
        "reason": record.reason,
    }


def _leased_row(block: Leased) -> list[Any]:
    row = [str(block.prefix), block.fence]
    return row if block.space == DEFAULT_SPACE else [*row, block.space]


def _leased(fields: dict[str, Any], name: str) -> tuple[Leased, ...]:
    found = []
    for index, row in enumerate(typed(list, fields, name)):
        good = type(row) is list and (len(row) == 2 or (len(row) == 3 and type(row[2]) is str))
        if not good or type(row[0]) is not str or type(row[1]) is not int or row[1] < 0:
            raise CorruptError(f"{name}[{index}]: expected [block, fence] or a space as well, found {shortened(dumps(row))}")
        try:
            found.append(Leased(parse_prefix(row[0]), *row[1:]))
        except InvalidError as error:
            raise CorruptError(f"{name}[{index}][0]: {error}") from error
    return tuple(found)


def _decode_lease(fields: dict[str, Any]) -> Lease:
    check_fields(fields, ("node", "boot", "confirmed", "stopAfterSeconds", "blocks", "returning", "reason"))
    return Lease(
        typed(str, fields, "node"),
        typed(str, fields, "boot"),
        time_of(fields, "confirmed"),
        time_of(fields, "stopAfterSeconds"),
        _leased(fields, "blocks"),
        _leased(fields, "returning"),
        typed(str, fields, "reason"),
    )


_DECODERS: dict[Kind, Callable[[dict[str, Any]], Record]] = {
    "pool": _decode_pool,
    "node": _decode_node,
    "block-claims": _decode_claims,
    "address-claims": _decode_claims,
    "lease": _decode_lease,
}
