"""What an audit says: findings, for a person who has been woken up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias

from ciliumipam.pool import DEFAULT_SPACE
from ciliumipam.records import Holding

Severity: TypeAlias = Literal["error", "unfinished", "notice"]

ORDER: tuple[Severity, ...] = ("error", "unfinished", "notice")
BACKUP = "stop what writes to the store, keep a copy of it, and restore this record from a backup"
HARMLESS = "nothing needs to be done"
REPAIR = "ciliumipam check --repair"


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        severity: An *error* is a broken invariant: no crash explains it, a record was damaged, lost, restored from an old copy or
            edited. *Unfinished* is legal, and what a call leaves behind that crashed or is under way; `repair` says what finishes
            it. A *notice* is sound, and somebody may want to know.
        what: What is the matter, as a sentence.
        where: The record, block, address, owner, node or pool concerned.
        repair: What to do about it, as a command where there is one.
    """

    severity: Severity
    what: str
    where: str
    repair: str


class Findings:
    """Where findings are collected."""

    def __init__(self) -> None:
        """None yet."""
        self._found: list[Finding] = []

    def error(self, what: str, where: object, repair: str = BACKUP) -> None:
        """Add an error."""
        self._found.append(Finding("error", what, str(where), repair))

    def unfinished(self, what: str, where: object, repair: str) -> None:
        """Add something unfinished."""
        self._found.append(Finding("unfinished", what, str(where), repair))

    def notice(self, what: str, where: object, repair: str) -> None:
        """Add a notice."""
        self._found.append(Finding("notice", what, str(where), repair))

    def in_order(self) -> tuple[Finding, ...]:
        """All of them, errors first, then by place."""
        return tuple(sorted(self._found, key=lambda each: (ORDER.index(each.severity), each.where, each.what)))


def in_space(space: str) -> str:
    """The option that a command needs for what is in an address space."""
    return "" if space == DEFAULT_SPACE else f" --space {space}"


def release_of(address: Holding, space: str) -> str:
    """The command that releases one holding of an address, and no later one."""
    return f"ciliumipam release --address {address.piece} --fence {address.fence}{in_space(space)}"


def moment(seconds: float) -> str:
    """A time for people, in UTC; as it was written where no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"second {seconds!r} of 1970"
