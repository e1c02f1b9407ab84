"""Plans as documents: what was decided today can be read by people, kept, and carried out tomorrow, exactly or not at all.

A document holds the writes, and every record that the decision was made over, whole: so a plan fits one store only, and where that
has changed meanwhile it can be told what did. A digest over all of it tells an edited document from the one that was decided: whoever
wants something else has to plan something else. Mappings in and out; text is the command's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from ciliumipam.cidr import parse_prefix
from ciliumipam.codec import Codec
from ciliumipam.draft import Step
from ciliumipam.errors import InvalidManifestError, IpamError
from ciliumipam.records import KINDS, Entry, Key, Kind, Record, Revision
from ciliumipam.requests import (
    Allocation,
    Applied,
    Blocker,
    Change,
    Concern,
    Conflict,
    ExistingBlock,
    Plan,
    Refusal,
)
from ciliumipam.store import ABSENT

API_VERSION = "ciliumipam.io/v1alpha1"
KIND = "Plan"

_T = TypeVar("_T")


def plan_to_document(plan: Plan) -> dict[str, Any]:
    """A plan as plain values. O(records that it writes or depends on)."""
    codec = Codec(0)
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        **outcome_to_document(plan.outcome),
        "addresses": [allocation_to_document(each) for each in plan.result],
        "now": plan.now,
        "lists": list(plan.lists),
        "before": [
            {**_key(key), "revision": None if entry is None else entry.revision, "record": _record(codec, key, entry and entry.record)}
            for key, entry in plan.before
        ],
        "steps": [
            {**_key(step.key), "expect": None if step.expect is ABSENT else step.expect, "record": _record(codec, step.key, step.record)}
            for step in plan.steps
        ],
    }
    return document | {"digest": _digest(document)}


def allocation_to_document(allocation: Allocation) -> dict[str, Any]:
    """An address in somebody's hands, as plain values."""
    return _plain(allocation)


def outcome_to_document(outcome: Applied) -> dict[str, Any]:
    """What came or would come of a request, as plain values."""
    return {
        "changes": [each._asdict() for each in outcome.changes],
        "refusals": [each._asdict() for each in outcome.refusals],
        "conflicts": [
            {**each.existing._asdict(), "prefix": str(each.existing.prefix), "reason": each.reason} for each in outcome.conflicts
        ],
        "blockers": [_plain(each) for each in outcome.blockers],
        "concerns": [each._asdict() for each in outcome.concerns],
    }


def plan_from_document(document: object, source: str) -> Plan:
    """The plan that a document holds.

    Args:
        document: What `plan_to_document` gave, as a JSON or YAML reader gives it back.
        source: The file, for errors.

    Raises:
        InvalidManifestError: It is not such a document, or was edited into something else.
    """
    if not isinstance(document, Mapping) or document.get("kind") != KIND or document.get("apiVersion") != API_VERSION:
        reason = f"it is not a plan; make one with: ciliumipam plan -f FILE -o json (kind {KIND}, apiVersion {API_VERSION})"
        raise InvalidManifestError(source, "", reason)
    codec = Codec(0)
    try:
        _check_digest(document)
        return Plan(
            tuple(_each(document, "steps", lambda item: _step(codec, item))),
            tuple(_each(document, "before", lambda item: _before(codec, item))),
            tuple(_kind(kind) for kind in document["lists"]),
            Applied(
                tuple(_each(document, "changes", lambda item: Change(**item))),
                tuple(_each(document, "refusals", lambda item: Refusal(**item))),
                tuple(_each(document, "conflicts", _conflict)),
                tuple(_each(document, "blockers", _blocker)),
                tuple(_each(document, "concerns", lambda item: Concern(**item))),
            ),
            tuple(_each(document, "addresses", _allocation)),
            float(document["now"]),
        )
    except (IpamError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        missing = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InvalidManifestError(source, "", f"the plan cannot be read: {missing}; make it again") from error


def _digest(document: Mapping[str, Any]) -> str:
    """Over everything but itself, however it is laid out."""
    fields = {name: value for name, value in document.items() if name != "digest"}
    return sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_digest(document: Mapping[str, Any]) -> None:
    if document["digest"] != _digest(document):
        raise ValueError("it was edited, its digest is that of another one")


def _key(key: Key) -> dict[str, Any]:
    return {"kind": key.kind, "name": key.name}


def _record(codec: Codec, key: Key, record: Record | None) -> Any:
    return None if record is None else json.loads(codec.encode(key, record))


def _plain(value: Allocation | Blocker) -> dict[str, Any]:
    fields = value._asdict()
    return {name: str(each) if name in ("block", "address") and each is not None else each for name, each in fields.items()}


def _each(document: Mapping[str, Any], name: str, read: Callable[[Any], _T]) -> list[_T]:
    return [read(item) for item in document[name]]


def _kind(kind: object) -> Kind:
    found = next((known for known in KINDS if known == kind), None)
    if found is None:
        raise ValueError(f"no kind of record {kind!r}")
    return found


def _read_key(item: Mapping[str, Any]) -> Key:
    if not isinstance(item["name"], str):
        raise TypeError(f"a name is text, found {item['name']!r}")
    return Key(_kind(item["kind"]), item["name"])


def _read_record(codec: Codec, key: Key, value: object) -> Record | None:
    return None if value is None else codec.decode(key, json.dumps(value))


def _revision(value: object) -> Revision:
    if not isinstance(value, str):
        raise TypeError(f"a revision is text, found {value!r}")
    return Revision(value)


def _before(codec: Codec, item: Mapping[str, Any]) -> tuple[Key, Entry | None]:
    key = _read_key(item)
    record = _read_record(codec, key, item["record"])
    return key, None if record is None else Entry(record, _revision(item["revision"]))


def _step(codec: Codec, item: Mapping[str, Any]) -> Step:
    key = _read_key(item)
    return Step(key, _read_record(codec, key, item["record"]), ABSENT if item["expect"] is None else _revision(item["expect"]), None)


def _conflict(item: Mapping[str, Any]) -> Conflict:
    fields = dict(item)
    reason = fields.pop("reason")
    return Conflict(ExistingBlock(**{**fields, "prefix": parse_prefix(fields["prefix"])}), reason)


def _blocker(item: Mapping[str, Any]) -> Blocker:
    address = None if item["address"] is None else ip_address(item["address"])
    return Blocker(**{**item, "block": ip_network(item["block"]), "address": address})


def _allocation(item: Mapping[str, Any]) -> Allocation:
    return Allocation(**{**item, "block": ip_network(item["block"]), "address": ip_address(item["address"])})
