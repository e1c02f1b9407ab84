"""Every error that the package raises: one root, four families, by what the caller can do about it.

* `InvalidError`: the input can never work; mend it. Nothing was written.
* `StateError`: well formed, wrong moment; read again and decide.
* `ExhaustedError`: correct, but no room; wait, release, or grow.
* `StoreError`: the store failed or refused.

The attributes are the interface, the text is for people. Fields are positional and are also the exception's `args`, so every
error survives pickling and copying; the sentence is built when it is printed. `retryable` says whether reading again and trying
again can help without anybody changing anything.
"""

from __future__ import annotations

from typing import ClassVar

from ciliumipam.words import counted, moment


class IpamError(Exception):
    """Root of all errors of this package."""

    retryable: ClassVar[bool] = False


# ------------------------------------------------------------------------------------------------ invalid input


class InvalidError(IpamError, ValueError):
    """The input can never work. Nothing was written."""


class InvalidCidrError(InvalidError):
    """A text or value that is not a CIDR, or has host bits, the wrong family or an impossible length."""

    def __init__(self, value: str, reason: str) -> None:
        super().__init__(value, reason)
        self.value, self.reason = value, reason

    def __str__(self) -> str:
        return f"{self.value!r} is not a usable CIDR: {self.reason}"


class InvalidAddressError(InvalidError):
    """A text or value that is not an IP address."""

    def __init__(self, value: str, reason: str) -> None:
        super().__init__(value, reason)
        self.value, self.reason = value, reason

    def __str__(self) -> str:
        return f"{self.value!r} is not an IP address: {self.reason}"


class InvalidSelectorError(InvalidError):
    """A label selector, or a part of one, that Kubernetes would refuse."""

    def __init__(self, expression: str, reason: str) -> None:
        super().__init__(expression, reason)
        self.expression, self.reason = expression, reason

    def __str__(self) -> str:
        return f"selector {self.expression!r} is not valid: {self.reason}"


class InvalidNameError(InvalidError):
    """A name that Kubernetes would refuse, or an owner id that cannot be stored."""

    def __init__(self, kind: str, name: str, reason: str) -> None:
        super().__init__(kind, name, reason)
        self.kind, self.name, self.reason = kind, name, reason

    def __str__(self) -> str:
        return f"{self.name!r} is not a valid {self.kind}: {self.reason}"


class InvalidPoolError(InvalidError):
    """A pool with one or more problems; `problems` has all of them, each naming field and value."""

    def __init__(self, pool: str, problems: tuple[str, ...]) -> None:
        super().__init__(pool, problems)
        self.pool, self.problems = pool, problems

    def __str__(self) -> str:
        return f"pool {self.pool!r} is not valid: " + "; ".join(self.problems)


class OverlapError(InvalidError):
    """Two pools of one address space claim the same addresses."""

    def __init__(self, pool: str, cidr: str, other_pool: str, other_cidr: str) -> None:
        super().__init__(pool, cidr, other_pool, other_cidr)
        self.pool, self.cidr, self.other_pool, self.other_cidr = pool, cidr, other_pool, other_cidr

    def __str__(self) -> str:
        return (
            f"pool {self.pool!r} ({self.cidr}) overlaps pool {self.other_pool!r} ({self.other_cidr});"
            " pools of one address space must be disjoint: change one of the two CIDRs"
        )


class InvalidManifestError(InvalidError):
    """A manifest that cannot be read: `source` is the file or document, `path` the field inside it."""

    def __init__(self, source: str, path: str, reason: str) -> None:
        super().__init__(source, path, reason)
        self.source, self.path, self.reason = source, path, reason

    def __str__(self) -> str:
        return f"{self.source}: {self.path + ': ' if self.path else ''}{self.reason}"


class InvalidJournalError(InvalidError):
    """A journal that cannot be replayed: `source` is the file, `line` the first line in which something is wrong."""

    def __init__(self, source: str, line: int, reason: str) -> None:
        super().__init__(source, line, reason)
        self.source, self.line, self.reason = source, line, reason

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}: {self.reason}"


class InvalidRequestError(InvalidError):
    """A call whose arguments contradict each other."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


# ------------------------------------------------------------------------------------------------ wrong moment


class StateError(IpamError):
    """Well formed, but not possible as things stand. Nothing was written."""


class NotFoundError(StateError, LookupError):
    """A pool, node or owner that is not known; `known` names some that are."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(kind, name, known)
        self.kind, self.name, self.known = kind, name, known

    def __str__(self) -> str:
        hint = f"; known: {', '.join(self.known)}" if self.known else ""
        return f"no {self.kind} {self.name!r}{hint}"


class NoBlockError(StateError):
    """A node that holds no block of a family; `refusals` says pool by pool why."""

    def __init__(self, node: str, family: int, refusals: tuple[str, ...]) -> None:
        super().__init__(node, family, refusals)
        self.node, self.family, self.refusals = node, family, refusals

    def __str__(self) -> str:
        why = "; ".join(self.refusals) or "no pool has been applied"
        which = f"IPv{self.family} block" if self.family else "block"
        return f"node {self.node!r} has no {which}: {why}"


class LeaseExpiredError(StateError):
    """A node that may not rely on its blocks at present, so that it gives out no address; `reason` says why."""

    retryable = True

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(node, reason)
        self.node, self.reason = node, reason

    def __str__(self) -> str:
        return (
            f"node {self.node!r} gives out no address: {self.reason}; addresses that are held stay, and can be released;"
            " see that 'ciliumipam agent' runs there and reaches the store that decides about blocks"
        )


class AlreadyAllocatedError(StateError):
    """The address asked for is held by another owner."""

    def __init__(self, address: str, owner: str, label: str) -> None:
        super().__init__(address, owner, label)
        self.address, self.owner, self.label = address, owner, label

    def __str__(self) -> str:
        name = f" ({self.label})" if self.label else ""
        return f"{self.address} is held by owner {self.owner!r}{name}; release it first or ask for another address"


class BlockTakenError(StateError):
    """A block asked for by its prefix that is not wholly free; `reason` says what stands in the way."""

    def __init__(self, block: str, pool: str, reason: str) -> None:
        super().__init__(block, pool, reason)
        self.block, self.pool, self.reason = block, pool, reason

    def __str__(self) -> str:
        return f"{self.block} cannot be occupied in pool {self.pool!r}: {self.reason}; give that back first or take another block"


class PoolRefusedError(StateError):
    """A pool that may not serve a node, which was to be moved to it."""

    def __init__(self, pool: str, node: str, reason: str) -> None:
        super().__init__(pool, node, reason)
        self.pool, self.node, self.reason = pool, node, reason

    def __str__(self) -> str:
        return f"pool {self.pool!r} does not serve node {self.node!r}: {self.reason}"


class BlockNeededError(StateError):
    """A block that was to be handed back, but without which its node would have less than it should."""

    def __init__(self, block: str, node: str, reason: str) -> None:
        super().__init__(block, node, reason)
        self.block, self.node, self.reason = block, node, reason

    def __str__(self) -> str:
        return f"node {self.node!r} needs block {self.block}: {self.reason}"


class OwnerHoldsError(StateError):
    """The owner already holds another address of that family on the node."""

    def __init__(self, owner: str, held: str, asked: str) -> None:
        super().__init__(owner, held, asked)
        self.owner, self.held, self.asked = owner, held, asked

    def __str__(self) -> str:
        return f"owner {self.owner!r} already holds {self.held}, so it cannot get {self.asked} as well; release the first"


class OutOfRangeError(StateError):
    """An address or prefix outside everything that could serve it; `valid` names what could."""

    def __init__(self, value: str, where: str, valid: tuple[str, ...]) -> None:
        super().__init__(value, where, valid)
        self.value, self.where, self.valid = value, where, valid

    def __str__(self) -> str:
        return f"{self.value} is not in {self.where}; valid: {', '.join(self.valid) or 'nothing'}"


class ReservedAddressError(StateError):
    """An address that is never handed out: reserved by the pool, or the first or last of its block."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address} is never handed out: {self.reason}"


class CoolingAddressError(StateError):
    """The address asked for was released a short time ago. Nobody gets it before `until`, in seconds since the epoch."""

    def __init__(self, address: str, until: float) -> None:
        super().__init__(address, until)
        self.address, self.until = address, until

    def __str__(self) -> str:
        return (
            f"{self.address} was released and cools until {moment(self.until)}, so that nobody gets what is still sent to its last"
            " owner; wait until then or ask for another address"
        )


class StaleFenceError(StateError):
    """A release or write that names an earlier holding than the present one. Nothing was changed."""

    def __init__(self, piece: str, named: int, found: int) -> None:
        super().__init__(piece, named, found)
        self.piece, self.named, self.found = piece, named, found

    def __str__(self) -> str:
        return (
            f"{self.piece}: fence {self.named} is not the fence of a present holding (last fence: {self.found});"
            " nothing was changed: read who holds it now"
        )


class NotHeldError(StateError):
    """A block or address that nobody holds, or that somebody else holds."""

    def __init__(self, piece: str, reason: str) -> None:
        super().__init__(piece, reason)
        self.piece, self.reason = piece, reason

    def __str__(self) -> str:
        return f"{self.piece} cannot be released: {self.reason}"


class BlockNotEmptyError(StateError):
    """A block that still has addresses in use; `holders` names some of them. Or none in use, but some that cool.

    `until` is when the last of the `cooling` addresses may be used again, in seconds since the epoch.
    """

    def __init__(
        self,
        block: str,
        node: str,
        in_use: int,
        holders: tuple[str, ...],
        cooling: int = 0,
        until: float | None = None,
    ) -> None:
        super().__init__(block, node, in_use, holders, cooling, until)
        self.block, self.node, self.in_use, self.holders = block, node, in_use, holders
        self.cooling, self.until = cooling, until

    def __str__(self) -> str:
        which = f"block {self.block} of node {self.node!r} has"
        if self.cooling and not self.in_use:
            last = f", the last until {moment(self.until)}" if self.until is not None else ""
            return (
                f"{which} no address in use, but {counted(self.cooling, 'cooling address', 'cooling addresses')}{last};"
                " wait, since whoever gets the block next would not know of it"
            )
        more = ", ..." if self.in_use > len(self.holders) else ""
        them = "it" if self.in_use == 1 else "them"
        return (
            f"{which} {counted(self.in_use, 'address', 'addresses')} in use ({', '.join(self.holders)}{more});"
            f" release {them} first, or force it, which drops {them}"
        )


class StalePlanError(StateError):
    """A plan that no longer fits the store. Nothing of it after the named record was written."""

    retryable = True

    def __init__(self, changed: tuple[str, ...], written: int) -> None:
        super().__init__(changed, written)
        self.changed, self.written = changed, written

    def __str__(self) -> str:
        first = "its first write was" if self.written == 1 else f"its first {self.written} writes were"
        done = f"{first} done, which is a legal state" if self.written else "nothing was written"
        return f"the plan is stale: {'; '.join(self.changed)} since it was made; {done}; plan again"


# ------------------------------------------------------------------------------------------------ no room


class ExhaustedError(IpamError):
    """Correct, but there is no room. Wait, release, or grow."""


class NodeExhaustedError(ExhaustedError):
    """No address of a family is left in the blocks of a node. The counts say what was looked at.

    `cooling` addresses were released a short time ago; `due` is when the first of them is available, in seconds since the epoch.
    """

    def __init__(
        self,
        node: str,
        family: int,
        blocks: tuple[str, ...],
        capacity: int,
        in_use: int,
        reserved: int,
        wanted: int,
        cooling: int = 0,
        due: float | None = None,
    ) -> None:
        super().__init__(node, family, blocks, capacity, in_use, reserved, wanted, cooling, due)
        self.node, self.family, self.blocks = node, family, blocks
        self.capacity, self.in_use, self.reserved, self.wanted = capacity, in_use, reserved, wanted
        self.cooling, self.due = cooling, due

    def __str__(self) -> str:
        free = self.capacity - self.in_use - self.cooling - self.reserved
        cooling = f" {self.cooling} cooling," if self.cooling else ""
        if self.cooling and self.due is not None:
            cooling = f" {self.cooling} cooling (the first until {moment(self.due)}),"
        return (
            f"node {self.node!r} has {counted(free, f'free IPv{self.family} address', f'free IPv{self.family} addresses')},"
            f" {self.wanted} wanted: looked at {', '.join(self.blocks)}: {counted(self.capacity, 'address', 'addresses')},"
            f" {self.in_use} in use,{cooling} {self.reserved} reserved;"
            f" {'wait for those that cool, ' if self.cooling else ''}release addresses that are no longer used,"
            f" or give the node another block: ciliumipam grow {self.node} --blocks {len(self.blocks) + 1}"
        )


class PoolExhaustedError(ExhaustedError):
    """A pool has no free block of that length; `largest_free` is the longest run it could still give."""

    def __init__(self, pool: str, family: int, length: int, largest_free: int | None) -> None:
        super().__init__(pool, family, length, largest_free)
        self.pool, self.family, self.length, self.largest_free = pool, family, length, largest_free

    def __str__(self) -> str:
        left = f"the largest free prefix is a /{self.largest_free}" if self.largest_free is not None else "nothing is free"
        return (
            f"pool {self.pool!r} has no free IPv{self.family} /{self.length}: {left};"
            " add a CIDR to the pool, use a longer block length, or take blocks back from nodes that are gone"
        )


# ------------------------------------------------------------------------------------------------ the store


class StoreError(IpamError):
    """The store failed or refused."""


class ConflictError(StoreError):
    """A compare-and-set met another revision than the expected one. Nothing was written."""

    retryable = True

    def __init__(self, key: str, expected: str, found: str) -> None:
        super().__init__(key, expected, found)
        self.key, self.expected, self.found = key, expected, found

    def __str__(self) -> str:
        return f"{self.key} changed meanwhile: expected {self.expected}, found {self.found}"


class StoreUnavailableError(StoreError):
    """The store cannot be reached or is busy. With `unknown`, a write may or may not have taken effect."""

    retryable = True

    def __init__(self, operation: str, reason: str, unknown: bool = False) -> None:  # noqa: FBT001, FBT002 - args must pickle by position
        super().__init__(operation, reason, unknown)
        self.operation, self.reason, self.unknown = operation, reason, unknown

    def __str__(self) -> str:
        return f"store: {self.operation} failed: {self.reason}" + (
            "; whether it took effect is not known: repeat the call, it finds out by reading" if self.unknown else ""
        )


class StoreRefusedError(StoreError):
    """The store will not do this at all: read-only, full, not permitted, or not such a store."""

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation, self.reason = operation, reason

    def __str__(self) -> str:
        return f"store: cannot {self.operation}: {self.reason}"


class NotInstalledError(StoreRefusedError):
    """A Kubernetes API server that does not know a resource at all: its definition is not installed."""


class StoreClosedError(StoreError):
    """A call on a store that was closed."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation

    def __str__(self) -> str:
        return f"store: {self.operation} on a store that has been closed"


class RevisionExpiredError(StoreError):
    """A watch cannot go on from a revision: the store has forgotten what came after it, or never gave it out."""

    retryable = True

    def __init__(self, kind: str, revision: str) -> None:
        super().__init__(kind, revision)
        self.kind, self.revision = kind, revision

    def __str__(self) -> str:
        return (
            f"the store does not know what happened to records of kind {self.kind!r} after revision {self.revision!r}:"
            " list them again, and watch from the revision of that listing"
        )


class CorruptRecordError(StoreError):
    """A record that cannot be read, or that contradicts the records beside it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"record {self.key} is corrupt: {self.reason}; run 'ciliumipam check' and restore it from a backup"


class UnsupportedVersionError(StoreError):
    """A store or record written by a newer version than this one can read."""

    def __init__(self, what: str, found: str, supported: str) -> None:
        super().__init__(what, found, supported)
        self.what, self.found, self.supported = what, found, supported

    def __str__(self) -> str:
        return f"{self.what} has format {self.found}, this version reads up to {self.supported}; use a newer ciliumipam"


class RetriesExhaustedError(StoreError):
    """Other writers won every time. What this call had already written is legal; the next call goes on from there."""

    retryable = True

    def __init__(self, attempts: int, key: str) -> None:
        super().__init__(attempts, key)
        self.attempts, self.key = attempts, key

    def __str__(self) -> str:
        return f"gave up after {counted(self.attempts, 'attempt', 'attempts')}: other writers kept changing {self.key}; try again"


__all__ = [name for name, value in list(globals().items()) if isinstance(value, type) and issubclass(value, IpamError)]
