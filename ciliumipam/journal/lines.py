"""What the lines of a journal say, both ways: JSON that a person can read, one line for each time that an `Ipam` decided.

`recording` writes them and `replay` reads them. Records are in the codec's form, and where a record replaces one that is known, only
what changed in it; requests, plans, outcomes and addresses are in the form of `plan_file`. Every line ends in a checksum: a journal
accuses the code of a divergence, so it must be sure that nobody changed the journal. A line without that end is one that a process
was killed in: nobody had been told of that call yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from ipaddress import ip_address
from itertools import compress, count
from json.encoder import encode_basestring_ascii
from operator import is_not
from typing import Any, Final, NamedTuple, TypeVar
from zlib import crc32

from ciliumipam import errors
from ciliumipam.cidr import parse_prefix
from ciliumipam.codec import Codec
from ciliumipam.demand import Demand
from ciliumipam.errors import InvalidJournalError, IpamError, UnsupportedVersionError
from ciliumipam.plan_file import allocation_to_document, outcome_to_document, plan_to_document
from ciliumipam.records import KINDS, ClaimPage, Entry, Key, NodeRecord, Page, PoolRecord, Record, Revision
from ciliumipam.repair_tasks import Repair, RepairAddresses, RepairBlocks
from ciliumipam.requests import (
    Allocate,
    Apply,
    Drain,
    ExistingBlock,
    ForceRelease,
    Grow,
    HandBack,
    Migrate,
    Plan,
    Rebalance,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
    RequestAddresses,
    Shrink,
)
from ciliumipam.tasks import Task

FORMAT: Final = 1
"""The newest format that this version writes and reads; the first line of every run carries its own."""

CODEC: Final = Codec(0)
"""Without a memory: what is encoded here are mostly pieces of pages, which nothing else should be compared with."""

_END = re.compile(rb',"crc":"([0-9a-f]{8})"\}')
_END_LENGTH = len(',"crc":"00000000"}')
_BEGIN = b'{"run":'
_NAMED: Final[dict[str, type[Any]]] = {
    "allocate": Allocate,
    "release": Release,
    "release_fenced": ReleaseFenced,
    "force_release": ForceRelease,
    "grow": Grow,
    "drain": Drain,
    "migrate": Migrate,
    "shrink": Shrink,
    "rebalance": Rebalance,
    "request": RequestAddresses,
    "hand_back": HandBack,
    "remove_node": RemoveNode,
    "remove_pool": RemovePool,
    "apply": Apply,
    "repair_blocks": RepairBlocks,
    "repair_addresses": RepairAddresses,
}
_NAMES: Final = {kind: name for name, kind in _NAMED.items()}
_OF_ADDRESSES = (Allocate, Release, ReleaseFenced, ForceRelease)

dumps: Final[Callable[[Any], str]] = json.JSONEncoder(separators=(",", ":")).encode
quote: Final[Callable[[str], str]] = encode_basestring_ascii
"""`dumps` of a text, which is most of a line, ten times as fast."""

_T = TypeVar("_T")


# ------------------------------------------------------------------------------------------------------- lines


class Line(NamedTuple):
    """A line of a journal.

    Attributes:
        number: Of the line in its file, from 1 on.
        run: The identity of the `Ipam` that wrote it.
        nth: How many lines that had written before.
        fields: All of it.
    """

    number: int
    run: str
    nth: int
    fields: Mapping[str, Any]


def to_line(run: str, number: int, *fields: str) -> bytes:
    """A line out of its fields, each as `"name":value`."""
    body = f'{{"run":{dumps(run)},"n":{number},{",".join(fields)}'.encode()
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def read_lines(source: str, notes: list[str]) -> Iterator[Line]:
    """The lines of a journal, each checked by itself.

    Args:
        source: The file.
        notes: What somebody should know, and what is no error, is added here.

    Raises:
        InvalidJournalError: A line was changed or is not of a journal; the error names it.
        UnsupportedVersionError: A newer version wrote it.
        OSError: The file cannot be read.
    """
    with open(source, "rb") as file:  # noqa: PTH123 - the same
        for number, raw in enumerate(file, 1):
            body = _body(source, number, raw.rstrip(b"\r\n"), notes)
            if body is not None:
                yield _line(source, number, body)


def _body(source: str, number: int, text: bytes, notes: list[str]) -> bytes | None:
    """A line without its checksum, None if it has none because its writer was killed."""
    end = _END.fullmatch(text[-_END_LENGTH:])
    if end is None:
        if text and not text.startswith(_BEGIN):
            raise InvalidJournalError(source, number, "this is no line of a journal")
        if text:
            notes.append(f"line {number} is incomplete: its process was killed while writing it, before anybody was told of that call")
        return None
    begin = 0
    while begin >= 0:  # more than one begin: another process went on where a killed one had left a part of a line
        body = text[begin:-_END_LENGTH]
        if crc32(body) == int(end[1], 16):
            if begin:
                notes.append(f"line {number} begins with what a process left that was killed while writing; nobody was told of that call")
            return body + b"}"
        begin = text.find(_BEGIN, begin + 1)
    raise InvalidJournalError(source, number, "it was changed or damaged: its checksum is not that of its text")


def _line(source: str, number: int, body: bytes) -> Line:
    try:
        fields = json.loads(body)
        run, before = fields["run"], fields["n"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidJournalError(source, number, f"it cannot be read: {error}") from error
    if not before and fields.get("journal", FORMAT) > FORMAT:
        raise UnsupportedVersionError(f"{source}, line {number}: the journal", str(fields["journal"]), str(FORMAT))
    return Line(number, run, before, fields)


# ----------------------------------------------------------------------------------------------------- records


def change_to_text(key: Key, record: Record | None, known: Record | None) -> str:
    """A record as fields of an object, only what changed since `known` where that is less.

    Complexity:
        O(slots) in C and O(changed slots) in Python for a page, O(holders) for claims.
    """
    kind, name = key
    head = f'"kind":"{kind}","name":{quote(name)}'
    if record is None:
        return f'{head},"record":null'
    part = ""
    if type(record) is Page and type(known) is Page and len(record.slots) == len(known.slots):
        old, new = known.slots, record.slots
        changed = [index for index in compress(count(), map(is_not, new, old)) if new[index] != old[index]]
        if 2 * len(changed) <= len(new):
            part = f',"slots":{changed}'
            record = record._replace(slots=tuple([new[index] for index in changed]))
    elif type(record) is ClaimPage and type(known) is ClaimPage:
        claims, gone = _apart(record.claims, known.claims)
        tentative, settled = _apart(record.tentative, known.tentative)
        part = f',"gone":{dumps(gone) if gone else "[]"}' + (f',"settled":{dumps(settled)}' if settled else "")
        record = ClaimPage(claims, tentative, record.closing, record.draining)
    return f'{head},"record":{CODEC.encode(key, record)}{part}'.replace("\n", "")


def _apart(now: Mapping[str, _T], before: Mapping[str, _T]) -> tuple[dict[str, _T], list[str]]:
    """What is new or another value, and what is gone."""
    return {name: value for name, value in now.items() if before.get(name) != value}, [name for name in before if name not in now]


def _together(before: Mapping[str, _T], changed: Mapping[str, _T], gone: Sequence[str]) -> dict[str, _T]:
    return {name: value for name, value in before.items() if name not in gone} | dict(changed)


def read_change(fields: Mapping[str, Any], known: Callable[[Key], Record | None]) -> tuple[Key, Record | None]:
    """The record that `change_to_text` wrote, over the same known one."""
    key = read_key((fields["kind"], fields["name"]))
    if fields["record"] is None:
        return key, None
    record = CODEC.decode(key, json.dumps(fields["record"]))
    before = known(key)
    if "slots" in fields:
        if type(record) is not Page or type(before) is not Page:
            raise ValueError(f"a part of {key}, which no line before it has whole")
        slots = list(before.slots)
        for index, slot in zip(fields["slots"], record.slots, strict=True):
            slots[index] = slot
        return key, record._replace(slots=tuple(slots))
    if "gone" in fields:
        if type(record) is not ClaimPage or type(before) is not ClaimPage:
            raise ValueError(f"a part of {key}, which no line before it has whole")
        claims = _together(before.claims, record.claims, fields["gone"])
        tentative = _together(before.tentative, record.tentative, fields.get("settled", ()))
        return key, record._replace(claims=claims, tentative=tentative)
    return key, record


def read_key(pair: Sequence[str]) -> Key:
    """A key out of its two parts."""
    kind, name = pair
    return Key(next(known for known in KINDS if known == kind), name)


def digest(entries: Mapping[Key, Entry]) -> str:
    """One number for records and revisions, the same however and in which order they came about. O(everything)."""
    found = sha256()
    for key in sorted(entries):
        record, revision = entries[key]
        found.update(f"{key}\n{revision}\n{CODEC.encode(key, record)}\n".encode())
    return found.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- requests


def request_to_document(request: Request | Repair) -> dict[str, Any]:
    """A request as plain values, under its name; what is not given is left out."""
    value: dict[str, Any]
    match request:
        case Allocate(node, owners, address, family, label):
            value = {"node": node, "owners": owners}
            if address is not None:
                value["address"] = str(address)
            if family is not None:
                value["family"] = family
            if label:
                value["label"] = label
        case Release(node, owners, missing_ok):
            value = {"node": node, "owners": owners, "missing_ok": True} if missing_ok else {"node": node, "owners": owners}
        case ReleaseFenced(address, fence, space):
            value = {"address": str(address), "fence": fence, "space": space}
        case ForceRelease(address, space):
            value = {"address": str(address), "space": space}
        case Apply(pools, nodes, existing):
            value = {
                "pools": [json.loads(CODEC.encode(Key("pool", each.name), PoolRecord(each, 0.0))) for each in pools],
                "nodes": [json.loads(CODEC.encode(Key("node", each.name), NodeRecord(each, 0.0))) for each in nodes],
                "existing": existing_to_document(existing),
            }
        case RepairBlocks() | RepairAddresses():
            value = request._asdict()
        case RequestAddresses(node, demand):
            value = {"node": node, "demand": [list(each) for each in demand]}
        case HandBack(node, block, fence, space):
            value = {"node": node, "block": str(block), "fence": fence, "space": space}
        case Shrink(pool, cidrs):
            value = {"pool": pool, "cidrs": list(map(str, cidrs))}
        case Grow() | Drain() | Migrate() | Rebalance() | RemoveNode() | RemovePool():
            value = {name: getattr(request, name) for name in request.__slots__}
    return {_NAMES[type(request)]: value}


def read_request(document: Mapping[str, Any]) -> Request | Repair:
    """The request that `request_to_document` gave."""
    ((name, value),) = ((name, value) for name, value in document.items() if name in _NAMED)
    fields = dict(value)
    if name == "apply":
        return Apply(
            tuple(_record("pool", each, PoolRecord).spec for each in fields["pools"]),
            tuple(_record("node", each, NodeRecord).node for each in fields["nodes"]),
            read_existing(fields["existing"]),
        )
    if "demand" in fields:
        fields["demand"] = tuple(Demand(*each) for each in fields["demand"])
    if "block" in fields:
        fields["block"] = parse_prefix(fields["block"])
    if "cidrs" in fields:
        fields["cidrs"] = tuple(map(parse_prefix, fields["cidrs"]))
    if "owners" in fields:
        fields["owners"] = tuple(fields["owners"])
    if "address" in fields:
        fields["address"] = ip_address(fields["address"])
    request: Request | Repair = _NAMED[name](**fields)
    return request


def existing_to_document(existing: Iterable[ExistingBlock]) -> list[dict[str, Any]]:
    """What nodes are said to have."""
    return [{**each._asdict(), "prefix": str(each.prefix)} for each in existing]


def read_existing(document: Iterable[Mapping[str, Any]]) -> tuple[ExistingBlock, ...]:
    """What `existing_to_document` gave."""
    return tuple(ExistingBlock(**{**each, "prefix": parse_prefix(each["prefix"])}) for each in document)


def _record(kind: Any, fields: Mapping[str, Any], expected: type[Any]) -> Any:
    record = CODEC.decode(Key(kind, fields["name"]), json.dumps(fields))
    assert isinstance(record, expected)  # noqa: S101 - the codec gives nothing else for this kind
    return record


# ----------------------------------------------------------------------------------------------------- answers


def told_to_document(request: Request | Repair, task: Task) -> dict[str, Any]:
    """What the caller of a call is told."""
    if task.failed is not None:
        return error_to_document(task.failed)
    if isinstance(request, _OF_ADDRESSES):
        return {"addresses": [allocation_to_document(each) for each in task.result]}
    return outcome_to_document(task.outcome)


def plan_told(plan: Plan) -> dict[str, Any]:
    """What is compared of a plan; its digest is over all of it, also over what it was decided over."""
    return {name: value for name, value in plan_to_document(plan).items() if name != "before"}


def error_to_document(error: BaseException) -> dict[str, Any]:
    """An error as its caller sees it."""
    return {"error": type(error).__name__, "says": str(error)}


def raised_to_document(error: BaseException) -> dict[str, Any]:
    """An error of a store, so that it can be raised again. One that is not ours is told by the one of ours that it is derived from."""
    for kind in type(error).__mro__:
        if issubclass(kind, IpamError) and getattr(errors, kind.__name__, None) is kind:
            return {"error": kind.__name__, "args": error.args}
    return error_to_document(error)


class Foreign(BaseException):
    """Stands for what a store raised that is no error of this library."""


def read_raised(document: Mapping[str, Any]) -> BaseException:
    """What `raised_to_document` told of, to be raised."""
    if "args" in document:
        kind = getattr(errors, document["error"])
        found = kind(*document["args"])
        assert isinstance(found, IpamError)  # noqa: S101 - nothing else is told with its arguments
        return found
    foreign: BaseException = type(document["error"], (Foreign,), {})(document["says"])
    return foreign


def read_revision(value: str | None) -> Revision | None:
    """A revision, None for none."""
    return None if value is None else Revision(value)
