"""Records as objects of the group `ciliumipam.io`, and back.

A pool is a `CIDRPool`: its `spec` is the pool as users write it, and since when it is there is the annotation `ciliumipam.io/since`, or the
time of its creation where `kubectl` created it. Every other record is a `CIDRLedger`: `spec.kind` and `spec.name` are its key, and
`spec.record` is the text of `codec.Codec`, a slot on each line, with a format number of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from hashlib import sha256
from math import isfinite
from secrets import token_hex
from typing import Any

from ciliumipam.codec import Codec
from ciliumipam.errors import CorruptRecordError, InvalidManifestError, InvalidNameError, StoreRefusedError
from ciliumipam.kubernetes.answers import Resource
from ciliumipam.kubernetes.api import WRITE
from ciliumipam.kubernetes.crds import GROUP, VERSION
from ciliumipam.manifest import pool_to_manifest, read_manifest
from ciliumipam.names import shorten, validate_name
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Entry, Key, Kind, PoolRecord, Record, Revision

POOLS = Resource(GROUP, VERSION, "cidrpools", "CIDRPool")
LEDGERS = Resource(GROUP, VERSION, "cidrledgers", "CIDRLedger")

KIND = "ciliumipam.io/kind"
"""The label by which the records of one kind are listed and watched."""
SINCE = "ciliumipam.io/since"
"""The annotation of a pool that says since when it is there, in seconds since the epoch."""

LARGEST_RECORD = 1_400_000
"""Bytes of a record inside its object. etcd takes requests of 1.5 MiB, in which metadata and managed fields have to stand as well."""

_MARK = "--"
_DIGEST = 16
_SLUG = 200
_LONGEST_NAME = 1024


def resource_of(kind: Kind) -> Resource:
    """What the records of a kind are."""
    return POOLS if kind == "pool" else LEDGERS


def labels_of(kind: Kind) -> str:
    """The selector of the records of a kind."""
    return "" if kind == "pool" else f"{KIND}={kind}"


def object_name(key: Key) -> str:
    """The name of a record's object: readable, and another one for each key.

    A pool has its own name. A ledger's is its kind, a dot and its name where that is a DNS-1123 subdomain without `--`; else what is
    readable of it, `--` and a digest. So two keys never meet but where their digests of 64 bits do, and a reader compares the key itself.

    Raises:
        StoreRefusedError: No object can have this key.
    """
    if key.kind == "pool":
        if not _is_subdomain(key.name):
            raise StoreRefusedError(f"find {key!r}", "the name of a pool is a DNS-1123 subdomain")
        return key.name
    plain = f"{key.kind}.{key.name}"
    if _MARK not in plain and _is_subdomain(plain):
        return plain
    if len(key.name) > _LONGEST_NAME:
        raise StoreRefusedError(
            f"find {key.kind} {shorten(key.name)}", f"its name has {len(key.name)} characters, allowed are {_LONGEST_NAME}"
        )
    try:
        digest = sha256(key.name.encode()).hexdigest()[:_DIGEST]
    except UnicodeEncodeError:
        raise StoreRefusedError(f"find {key!r}", "its name has a lone surrogate, which is no text for an API server") from None
    readable = re.sub(r"[^a-z0-9]+", "-", key.name.lower())[:_SLUG].strip("-")
    return f"{key.kind}.{readable or 'x'}{_MARK}{digest}"


def to_object(key: Key, record: Record, codec: Codec, present: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A record as the object to create; or to put over the `present` one, of which it keeps everything that is not ours.

    Raises:
        StoreRefusedError: It is not of the key's kind, or an object cannot hold it.
    """
    if key.kind == "pool":
        return _stamped(_pool_object(key, record, present))
    record_text = codec.encode(key, record)
    size = len(record_text) + sum(record_text.count(each) for each in '"\\\n')  # ASCII, and these are escaped again
    if size > LARGEST_RECORD:
        reason = f"it has {size} bytes, and an object of Kubernetes holds {LARGEST_RECORD} at the most; use shorter owner ids and labels"
        raise StoreRefusedError(f"store {key}", reason)
    spec = {"kind": key.kind, "name": key.name, "record": record_text}
    return _stamped(_new(LEDGERS, {"name": object_name(key), "labels": {KIND: key.kind}}) | {"spec": spec})


def to_entry(obj: Mapping[str, Any], codec: Codec) -> tuple[Key, Entry]:
    """The record of an object.

    Raises:
        CorruptRecordError: The object is no such record; names the field.
        UnsupportedVersionError: The record has a newer format.
    """
    key = key_of(obj)
    record = pool_record(obj) if key.kind == "pool" else codec.decode(key, str(obj["spec"].get("record")))
    return key, Entry(record, Revision(str(obj["metadata"]["resourceVersion"])))


def key_of(obj: Mapping[str, Any]) -> Key:
    """The key of an object's record.

    Raises:
        CorruptRecordError: The name or the label of a `CIDRLedger` is not that of its key: it is a copy, or was changed by hand.
    """
    metadata = obj["metadata"]
    if obj["kind"] == POOLS.kind:
        return Key("pool", metadata["name"])
    key = named_key(obj)
    label = (metadata.get("labels") or {}).get(KIND)
    if label != key.kind:
        reason = f"its label {KIND} is {label!r}; mend it: kubectl label --overwrite cidrledger {metadata['name']} {KIND}={key.kind}"
        raise CorruptRecordError(f"{LEDGERS.plural} {metadata['name']}", reason)
    return key


def named_key(obj: Mapping[str, Any]) -> Key:
    """The key of a ledger's record, whatever its label.

    Raises:
        CorruptRecordError: The name of the object is not that of its key: it is a copy.
    """
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    key = Key(spec.get("kind", ""), spec.get("name", ""))
    if metadata["name"] != object_name(key):
        reason = f"it says that it is {key}, whose object is {object_name(key)}; if it is a copy, delete it: kubectl delete cidrledger {metadata['name']}"
        raise CorruptRecordError(f"{LEDGERS.plural} {metadata['name']}", reason)
    return key


def pool_record(obj: Mapping[str, Any]) -> PoolRecord:
    """The pool of a `CIDRPool`, as users may write it.

    Raises:
        CorruptRecordError: It is no usable pool, or its annotation is no time.
    """
    metadata = obj["metadata"]
    where = f"{POOLS.plural} {metadata['name']}"
    given = (metadata.get("annotations") or {}).get(SINCE)
    try:
        items = read_manifest(obj, f"CIDRPool {metadata['name']}").items
        since = float(given) if given is not None else datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
    except InvalidManifestError as error:
        raise CorruptRecordError(where, f"{error.path}: {error.reason}" if error.path else error.reason) from error
    except (ValueError, OverflowError) as error:
        raise CorruptRecordError(where, f"annotation {SINCE}: {error}") from error
    if not isfinite(since):
        raise CorruptRecordError(where, f"annotation {SINCE}: {since} is no time")
    spec = items[0]
    assert isinstance(spec, PoolSpec)  # noqa: S101 - a CIDRPool is read as nothing else
    return PoolRecord(spec, since)


def _pool_object(key: Key, record: Record, present: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(record, PoolRecord):
        raise StoreRefusedError(f"store {key}", f"a {type(record).__name__} is not a record of this kind")
    if key.name != record.spec.name:
        raise StoreRefusedError(f"store {key}", f"the pool is named {record.spec.name!r}, and an object has one name")
    if not isfinite(record.since):
        raise StoreRefusedError(f"store {key}", f"the time is not finite: {record.since}")
    manifest = pool_to_manifest(record.spec)
    obj = deepcopy(dict(present)) if present is not None else _new(POOLS, {"name": key.name})
    metadata = obj["metadata"]
    metadata["annotations"] = (metadata.get("annotations") or {}) | {SINCE: repr(float(record.since))}
    metadata.pop("managedFields", None)
    return obj | {"spec": manifest["spec"]}


def _new(resource: Resource, metadata: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": f"{resource.group}/{resource.version}", "kind": resource.kind, "metadata": metadata}


def _stamped(obj: dict[str, Any]) -> dict[str, Any]:
    """With a token that no other write has: the server would drop a write that changes nothing, and its writer is known again by it."""
    obj["metadata"].setdefault("annotations", {})[WRITE] = token_hex(16)
    return obj


def _is_subdomain(text: str) -> bool:
    try:
        validate_name("name", text)
    except InvalidNameError:
        return False
    return True


__all__ = [
    "KIND",
    "LARGEST_RECORD",
    "LEDGERS",
    "POOLS",
    "SINCE",
    "key_of",
    "labels_of",
    "named_key",
    "object_name",
    "pool_record",
    "resource_of",
    "to_entry",
    "to_object",
]
