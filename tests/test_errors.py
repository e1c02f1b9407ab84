"""What each error says, to the letter: it is what a person reads at night. And that every error survives a pickle and a copy."""

from __future__ import annotations

import copy
import pickle

import pytest

from ciliumipam import errors
from ciliumipam.errors import (
    AlreadyAllocatedError,
    BlockNeededError,
    BlockNotEmptyError,
    BlockTakenError,
    ConflictError,
    CoolingAddressError,
    CorruptRecordError,
    InvalidAddressError,
    InvalidCidrError,
    InvalidJournalError,
    InvalidManifestError,
    InvalidNameError,
    InvalidPoolError,
    InvalidRequestError,
    InvalidSelectorError,
    IpamError,
    LeaseExpiredError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    NotInstalledError,
    OutOfRangeError,
    OverlapError,
    OwnerHoldsError,
    PoolExhaustedError,
    PoolRefusedError,
    ReservedAddressError,
    RetriesExhaustedError,
    RevisionExpiredError,
    StaleFenceError,
    StalePlanError,
    StoreClosedError,
    StoreRefusedError,
    StoreUnavailableError,
    UnsupportedVersionError,
)

NIGHT = 1_700_000_000.25
SENTENCES: list[tuple[IpamError, str]] = [
    (InvalidCidrError("10.0.0.5/24", "it has host bits"), "'10.0.0.5/24' is not a usable CIDR: it has host bits"),
    (InvalidAddressError("10.0.0", "it is short"), "'10.0.0' is not an IP address: it is short"),
    (InvalidSelectorError("a in", "no values"), "selector 'a in' is not valid: no values"),
    (InvalidNameError("node name", "A", "upper case"), "'A' is not a valid node name: upper case"),
    (InvalidPoolError("p", ("cidrs: none", "priority: 'x'")), "pool 'p' is not valid: cidrs: none; priority: 'x'"),
    (
        OverlapError("p", "10.0.0.0/8", "q", "10.1.0.0/16"),
        "pool 'p' (10.0.0.0/8) overlaps pool 'q' (10.1.0.0/16); pools of one address space must be disjoint: change one of the two CIDRs",
    ),
    (InvalidManifestError("a.yaml", "spec.cidr", "missing"), "a.yaml: spec.cidr: missing"),
    (InvalidManifestError("a.yaml", "", "no mapping"), "a.yaml: no mapping"),
    (InvalidJournalError("a.jsonl", 7, "no JSON"), "a.jsonl, line 7: no JSON"),
    (InvalidRequestError("no owner"), "no owner"),
    (NotFoundError("pool", "p"), "no pool 'p'"),
    (NotFoundError("pool", "p", ("q", "r")), "no pool 'p'; known: q, r"),
    (NoBlockError("n", 4, ("pool p: full", "pool q: drains")), "node 'n' has no IPv4 block: pool p: full; pool q: drains"),
    (BlockNeededError("10.0.0.0/24", "n", "it drains"), "node 'n' needs block 10.0.0.0/24: it drains"),
    (NoBlockError("n", 0, ()), "node 'n' has no block: no pool has been applied"),
    (
        LeaseExpiredError("n", "its claim on its blocks was last confirmed 95 s ago, and holds for 60 s"),
        ("node 'n' gives out no address: its claim on its blocks was last confirmed 95 s ago, and holds for 60 s; addresses that are held"
        " stay, and can be released; see that 'ciliumipam agent' runs there and reaches the store that decides about blocks"),
    ),
    (
        AlreadyAllocatedError("10.0.0.1", "net/x/eth0", "default/web"),
        "10.0.0.1 is held by owner 'net/x/eth0' (default/web); release it first or ask for another address",
    ),
    (AlreadyAllocatedError("10.0.0.1", "x", ""), "10.0.0.1 is held by owner 'x'; release it first or ask for another address"),
    (
        BlockTakenError("10.0.0.0/24", "p", "10.0.0.0/25 is held"),
        "10.0.0.0/24 cannot be occupied in pool 'p': 10.0.0.0/25 is held; give that back first or take another block",
    ),
    (PoolRefusedError("p", "n", "it drains"), "pool 'p' does not serve node 'n': it drains"),
    (
        OwnerHoldsError("x", "10.0.0.1", "10.0.0.2"),
        "owner 'x' already holds 10.0.0.1, so it cannot get 10.0.0.2 as well; release the first",
    ),
    (OutOfRangeError("10.9.0.1", "node 'n'", ("10.0.0.0/24", "fd00::/64")), "10.9.0.1 is not in node 'n'; valid: 10.0.0.0/24, fd00::/64"),
    (OutOfRangeError("10.9.0.1", "node 'n'", ()), "10.9.0.1 is not in node 'n'; valid: nothing"),
    (ReservedAddressError("10.0.0.0", "it is the first of its block"), "10.0.0.0 is never handed out: it is the first of its block"),
    (
        CoolingAddressError("10.0.0.1", NIGHT),
        ("10.0.0.1 was released and cools until 2023-11-14T22:13:21Z, so that nobody gets what is still sent to its last owner;"
        " wait until then or ask for another address"),
    ),
    (
        CoolingAddressError("10.0.0.1", 1e300),
        ("10.0.0.1 was released and cools until 1e+300 s after 1970, so that nobody gets what is still sent to its last owner;"
        " wait until then or ask for another address"),
    ),
    (
        StaleFenceError("10.0.0.1", 3, 5),
        "10.0.0.1: fence 3 is not the fence of a present holding (last fence: 5); nothing was changed: read who holds it now",
    ),
    (NotHeldError("10.0.0.1", "nobody holds it"), "10.0.0.1 cannot be released: nobody holds it"),
    (
        BlockNotEmptyError("10.0.0.0/24", "n", 3, ("x", "y")),
        "block 10.0.0.0/24 of node 'n' has 3 addresses in use (x, y, ...); release them first, or force it, which drops them",
    ),
    (
        BlockNotEmptyError("10.0.0.0/24", "n", 1, ("x",), cooling=2),
        "block 10.0.0.0/24 of node 'n' has 1 address in use (x); release it first, or force it, which drops it",
    ),
    (
        BlockNotEmptyError("10.0.0.0/24", "n", 0, (), cooling=2, until=NIGHT),
        ("block 10.0.0.0/24 of node 'n' has no address in use, but 2 cooling addresses, the last until 2023-11-14T22:13:21Z;"
        " wait, since whoever gets the block next would not know of it"),
    ),
    (
        BlockNotEmptyError("10.0.0.0/24", "n", 0, (), cooling=1),
        ("block 10.0.0.0/24 of node 'n' has no address in use, but 1 cooling address;"
        " wait, since whoever gets the block next would not know of it"),
    ),
    (
        StalePlanError(("node n was written",), 0),
        "the plan is stale: node n was written since it was made; nothing was written; plan again",
    ),
    (
        StalePlanError(("node n was written", "pool p is gone"), 1),
        "the plan is stale: node n was written; pool p is gone since it was made; its first write was done, which is a legal state; plan again",
    ),
    (
        StalePlanError(("node n was written",), 2),
        "the plan is stale: node n was written since it was made; its first 2 writes were done, which is a legal state; plan again",
    ),
    (
        NodeExhaustedError("n", 4, ("10.0.0.0/30",), 4, 1, 2, 2),
        ("node 'n' has 1 free IPv4 address, 2 wanted: looked at 10.0.0.0/30: 4 addresses, 1 in use, 2 reserved;"
        " release addresses that are no longer used, or give the node another block: ciliumipam grow n --blocks 2"),
    ),
    (
        NodeExhaustedError("n", 6, ("fd00::/127", "fd00::2/127"), 4, 1, 0, 1, cooling=3, due=NIGHT),
        ("node 'n' has 0 free IPv6 addresses, 1 wanted: looked at fd00::/127, fd00::2/127: 4 addresses, 1 in use,"
        " 3 cooling (the first until 2023-11-14T22:13:21Z), 0 reserved; wait for those that cool, release addresses that are no longer used,"
        " or give the node another block: ciliumipam grow n --blocks 3"),
    ),
    (
        NodeExhaustedError("n", 6, ("fd00::/127",), 2, 1, 0, 1, cooling=1),
        ("node 'n' has 0 free IPv6 addresses, 1 wanted: looked at fd00::/127: 2 addresses, 1 in use,"
        " 1 cooling, 0 reserved; wait for those that cool, release addresses that are no longer used,"
        " or give the node another block: ciliumipam grow n --blocks 2"),
    ),
    (
        PoolExhaustedError("p", 4, 24, 26),
        ("pool 'p' has no free IPv4 /24: the largest free prefix is a /26;"
        " add a CIDR to the pool, use a longer block length, or take blocks back from nodes that are gone"),
    ),
    (
        PoolExhaustedError("p", 4, 24, None),
        ("pool 'p' has no free IPv4 /24: nothing is free;"
        " add a CIDR to the pool, use a longer block length, or take blocks back from nodes that are gone"),
    ),
    (ConflictError("node/n", "revision 3", "revision 4"), "node/n changed meanwhile: expected revision 3, found revision 4"),
    (StoreUnavailableError("put", "it is busy"), "store: put failed: it is busy"),
    (
        StoreUnavailableError("put", "no answer", True),
        "store: put failed: no answer; whether it took effect is not known: repeat the call, it finds out by reading",
    ),
    (StoreRefusedError("write", "it is read-only"), "store: cannot write: it is read-only"),
    (NotInstalledError("list pools", "there are none"), "store: cannot list pools: there are none"),
    (StoreClosedError("get"), "store: get on a store that has been closed"),
    (
        CorruptRecordError("node/n", "no JSON"),
        "record node/n is corrupt: no JSON; run 'ciliumipam check' and restore it from a backup",
    ),
    (
        UnsupportedVersionError("store a.db", "7", "2"),
        "store a.db has format 7, this version reads up to 2; use a newer ciliumipam",
    ),
    (
        RevisionExpiredError("pool", "7"),
        (
            "the store does not know what happened to records of kind 'pool' after revision '7':"
            " list them again, and watch from the revision of that listing"
        ),
    ),
    (RetriesExhaustedError(1, "node/n"), "gave up after 1 attempt: other writers kept changing node/n; try again"),
    (RetriesExhaustedError(100, "node/n"), "gave up after 100 attempts: other writers kept changing node/n; try again"),
]


@pytest.mark.parametrize(("error", "sentence"), SENTENCES, ids=[f"{type(error).__name__}-{n}" for n, (error, _) in enumerate(SENTENCES)])
def test_an_error_says_what_and_what_helps_and_survives_pickle_and_copy(error: IpamError, sentence: str) -> None:
    for same in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):  # noqa: S301 - its own pickle
        assert type(same) is type(error)
        assert (str(same), same.args, vars(same)) == (sentence, error.args, vars(error))


def test_every_error_that_is_raised_has_its_sentence_here() -> None:
    families = {"ExhaustedError", "InvalidError", "IpamError", "StateError", "StoreError"}

    assert {type(error).__name__ for error, _ in SENTENCES} == set(errors.__all__) - families


def test_trying_again_can_help_only_where_somebody_else_was_in_the_way() -> None:
    retryable = {type(error).__name__ for error, _ in SENTENCES if error.retryable}

    assert retryable == {"ConflictError", "LeaseExpiredError", "RetriesExhaustedError", "RevisionExpiredError", "StalePlanError", "StoreUnavailableError"}
