"""Plans as documents: what is read back is what was decided, and it is carried out exactly or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, Store
from ciliumipam.audit import audit
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import InvalidManifestError, StalePlanError
from ciliumipam.plan_file import _digest, plan_from_document, plan_to_document
from ciliumipam.records import KINDS, Entry, Key
from ciliumipam.requests import (
    Allocate,
    Apply,
    Drain,
    ExistingBlock,
    ForceRelease,
    Grow,
    Migrate,
    Plan,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
)

NOW = 1_700_000_000.5
DUAL = PoolSpec(name="dual", cidrs=["10.0.0.0/20", "fd00::/60"], selector=NodeSelector.parse("!apart"), reuse_delay=30)
PAIR = PoolSpec(name="pair", cidrs=["10.1.0.0/20", "fd01::/60"], selector=NodeSelector.everything(), blocks_per_node=2, priority=-1)
APART = PoolSpec(name="apart", cidrs=["10.0.0.0/20"], selector=NodeSelector.parse("apart"), address_space="tenant-b", priority=1)

TIGHT = PoolSpec(name="dual", cidrs=["10.0.0.0/23"], selector=NodeSelector.everything())


def filled(cidr: str = "10.0.0.0/20") -> MemoryStore:
    """The same every time, with the same revisions; another CIDR gives another store with these revisions."""
    store = MemoryStore()
    ipam = Ipam(store, clock=lambda: NOW - 9, identity="first")
    dual = PoolSpec(name="dual", cidrs=[cidr, "fd00::/60"], selector=NodeSelector.parse("!apart"), reuse_delay=30)
    ipam.apply([dual, PAIR, APART], [Node("m"), Node("n"), Node("far", {"apart": ""})])
    ipam.allocate("m", "x", "y", label="default/web")
    ipam.allocate("far", "x")
    return store


def user(store: Store) -> Ipam:
    return Ipam(store, clock=lambda: NOW, identity="user")


def contents(store: Store) -> dict[Key, Entry]:
    return {key: entry for kind in KINDS for key, entry in store.scan(kind).entries}


def records(store: Store) -> dict[Key, Any]:
    return {key: entry.record for key, entry in contents(store).items()}


def through_text(plan: Plan) -> Plan:
    return plan_from_document(json.loads(json.dumps(plan_to_document(plan))), "plan.json")


X = ip_address("10.0.0.1")
X_FENCE = next(each.fence for each in Ipam(filled()).allocations("m") if each.address == X)
REQUESTS: dict[str, tuple[Request, Callable[[Ipam], object]]] = {
    "apply": (
        Apply((PoolSpec(name="new", cidrs=["10.9.0.0/16"], selector=NodeSelector.parse("new")),), (Node("o", {"new": ""}), Node("p"))),
        lambda ipam: ipam.apply(
            [PoolSpec(name="new", cidrs=["10.9.0.0/16"], selector=NodeSelector.parse("new"))], [Node("o", {"new": ""}), Node("p")]
        ),
    ),
    "apply nothing": (Apply(), lambda ipam: ipam.apply()),
    "adopt": (
        Apply((), (Node("o"),), (ExistingBlock("o", parse_prefix("10.0.9.0/24"), "dual", 5.5, "o.yaml"), ExistingBlock("o", parse_prefix("10.0.0.0/25")))),
        lambda ipam: ipam.apply(
            [], [Node("o")], [ExistingBlock("o", parse_prefix("10.0.9.0/24"), "dual", 5.5, "o.yaml"), ExistingBlock("o", parse_prefix("10.0.0.0/25"))]
        ),
    ),
    "apply a pool that is too small": (Apply((TIGHT,), (Node("o"),)), lambda ipam: ipam.apply([TIGHT], [Node("o")])),
    "allocate": (Allocate("n", ("a", "b"), label="default/é\U0001f4a5"), lambda ipam: ipam.allocate("n", "a", "b", label="default/é\U0001f4a5")),
    "allocate in another space": (Allocate("far", ("a",)), lambda ipam: ipam.allocate("far", "a")),
    "release": (Release("m", ("x", "y")), lambda ipam: ipam.release("m", "x", "y")),
    "release under a fence": (ReleaseFenced(X, X_FENCE), lambda ipam: ipam.release_fenced(X, X_FENCE)),
    "release by force": (ForceRelease(X, "tenant-b"), lambda ipam: ipam.force_release(X, "tenant-b")),
    "grow": (Grow("m", 3), lambda ipam: ipam.grow("m", 3)),
    "drain a pool": (Drain("pool", "dual"), lambda ipam: ipam.drain("pool", "dual")),
    "drain a node": (Drain("node", "n"), lambda ipam: ipam.drain("node", "n")),
    "drain a block": (Drain("block", "10.0.0.0/24"), lambda ipam: ipam.drain("block", "10.0.0.0/24")),
    "drain a block in another space": (
        Drain("block", "10.0.0.0/24", space="tenant-b"),
        lambda ipam: ipam.drain("block", "10.0.0.0/24", space="tenant-b"),
    ),
    "migrate": (Migrate("n", "pair"), lambda ipam: ipam.migrate("n", "pair")),
    "migrate what is in use": (Migrate("m", "pair"), lambda ipam: ipam.migrate("m", "pair")),
    "remove a node": (RemoveNode("n"), lambda ipam: ipam.remove_node("n")),
    "remove a node by force": (RemoveNode("m", force=True), lambda ipam: ipam.remove_node("m", force=True)),
    "remove a pool": (RemovePool("dual"), lambda ipam: ipam.remove_pool("dual")),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_plan_that_went_through_text_does_what_the_call_itself_does(name: str) -> None:
    request, call = REQUESTS[name]
    by_plan, by_text, by_call = filled(), filled(), filled()

    plan = user(by_plan).plan(request)
    given_by_plan = user(by_plan).execute(plan)
    given_by_text = user(by_text).execute(through_text(plan))
    call(user(by_call))

    assert records(by_text) == records(by_plan) == records(by_call)
    assert given_by_text == given_by_plan
    assert [each for each in audit(by_text, clock=lambda: NOW).findings if each.severity == "error"] == []


@pytest.mark.parametrize("name", REQUESTS)
def test_a_plan_is_read_back_whole(name: str) -> None:
    plan = user(filled()).plan(REQUESTS[name][0])

    assert through_text(plan) == plan._replace(steps=tuple(step._replace(slots=None) for step in plan.steps))
    assert type(through_text(plan).outcome) is type(plan.outcome)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_change_names_the_node_of_a_block_or_address_and_the_pool_of_a_block(name: str) -> None:
    ipam = user(filled())

    def held() -> set[tuple[str, str, str]]:
        blocks = {(str(block.prefix), block.node, block.pool) for block in ipam.blocks()}
        return blocks | {(str(each.address), each.node, "") for each in ipam.allocations()}

    plan = ipam.plan(REQUESTS[name][0])
    before = held()
    ipam.execute(plan)

    for change in plan.outcome.changes:
        if change.kind in ("pool", "node"):
            assert (change.node, change.pool) == ("", "")
        else:
            assert (change.name.removesuffix("/32").removesuffix("/128"), change.node, change.pool) in before | held()


def test_every_part_of_an_outcome_is_met_in_these_plans() -> None:
    outcomes = [user(filled()).plan(request).outcome for request, _ in REQUESTS.values()]

    assert {field for outcome in outcomes for field in outcome._fields if getattr(outcome, field)} == {
        "changes", "refusals", "conflicts", "blockers", "concerns",
    }  # fmt: skip


def test_how_a_document_is_laid_out_does_not_matter() -> None:
    plan = user(filled()).plan(REQUESTS["apply"][0])
    document = plan_to_document(plan)

    pretty = json.loads(json.dumps(document, indent=4, sort_keys=True, ensure_ascii=False))

    assert plan_from_document(pretty, "plan.json") == plan_from_document(document, "plan.json")


def test_equal_plans_give_equal_text() -> None:
    texts = {json.dumps(plan_to_document(user(filled()).plan(REQUESTS["migrate"][0]))) for _ in range(3)}

    assert len(texts) == 1


# -------------------------------------------------------------------------------------------------------- stale


def _executed_in_vain(store: Store, plan: Plan) -> tuple[str, ...]:
    """What a stale plan names; nothing may be written by it."""
    before = contents(store)
    with pytest.raises(StalePlanError) as caught:
        user(store).execute(through_text(plan))
    assert contents(store) == before
    assert caught.value.written == 0
    return caught.value.changed


RED = PoolSpec(name="red", cidrs=["10.8.0.0/16"], selector=NodeSelector.parse("red"))
MEANWHILE: dict[str, tuple[Callable[[Ipam], object], str]] = {
    "a pool changed": (lambda ipam: ipam.apply([PoolSpec(name="pair", cidrs=PAIR.cidrs, selector=PAIR.selector)]), "pool pair changed"),
    "a pool was removed": (lambda ipam: ipam.remove_pool("pair"), "pool pair is gone"),
    "a pool is new": (lambda ipam: ipam.apply([RED]), "pool red is new"),
    "a node changed": (lambda ipam: ipam.apply(nodes=[Node("m", {"rack": "r9"})]), "node m changed"),
    "a node drains": (lambda ipam: ipam.drain("node", "far"), "node far changed"),
    "a node is new": (lambda ipam: ipam.apply(nodes=[Node("zzz", {"apart": "", "other": ""})]), "node zzz is new"),
    "a node was removed": (lambda ipam: ipam.remove_node("far", force=True), "node far is gone"),
    "a page changed": (lambda ipam: ipam.grow("m", 2), "block-page 10.0.0.0/18 changed"),
}


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_a_plan_about_blocks_is_stale_when_anything_that_it_was_decided_over_changed(meanwhile: str) -> None:
    happens, named = MEANWHILE[meanwhile]
    for request in (Apply(nodes=(Node("o"),)), Grow("n", 2), Migrate("n", "pair"), Drain("block", "10.0.1.0/24")):
        store = filled()
        plan = user(store).plan(request)
        happens(Ipam(store, clock=lambda: NOW, identity="other"))

        assert named in _executed_in_vain(store, plan) or (meanwhile == "a page changed" and not plan.steps), request


@pytest.mark.parametrize(
    ("request_", "happens", "named"),
    [
        (Allocate("m", ("a",)), lambda ipam: ipam.allocate("m", "b"), "address-page 10.0.0.0/24 changed"),
        (Allocate("n", ("a",)), lambda ipam: ipam.allocate("n", "a"), "address-page 10.0.1.0/24 is new"),
        (Allocate("m", ("a",)), lambda ipam: ipam.remove_pool("dual"), "pool dual is gone"),
        (Allocate("m", ("a",)), lambda ipam: ipam.apply([PoolSpec(name="dual", cidrs=DUAL.cidrs, selector=DUAL.selector)]), "pool dual changed"),
        (Allocate("n", ("a",)), lambda ipam: ipam.remove_node("n"), "address-page 10.0.1.0/24 is new"),
        (Release("m", ("x",)), lambda ipam: ipam.release("m", "x"), "address-page 10.0.0.0/24 changed"),
        (ReleaseFenced(X, X_FENCE), lambda ipam: ipam.release("m", "y"), "address-page 10.0.0.0/24 changed"),
        (RemoveNode("n"), lambda ipam: ipam.allocate("n", "a"), "address-page 10.0.1.0/24 is new"),
        (RemoveNode("n"), lambda ipam: ipam.remove_node("n"), "node n is gone"),
        (RemovePool("dual"), lambda ipam: ipam.remove_pool("dual"), "pool dual is gone"),
    ],
)
def test_every_other_plan_is_stale_when_what_it_writes_changed(request_: Request, happens: Callable[[Ipam], object], named: str) -> None:
    store = filled()
    plan = user(store).plan(request_)
    happens(Ipam(store, clock=lambda: NOW, identity="other"))

    assert named in _executed_in_vain(store, plan)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_plan_is_executed_once(name: str) -> None:
    store = filled()
    plan = user(store).plan(REQUESTS[name][0])
    user(store).execute(through_text(plan))

    if plan.steps:
        assert _executed_in_vain(store, plan)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_plan_of_another_store_is_refused_although_its_revisions_are_the_same(name: str) -> None:
    store, other = filled(), filled("10.0.16.0/20")
    assert [(key.kind, entry.revision) for key, entry in contents(store).items()] == [(key.kind, entry.revision) for key, entry in contents(other).items()]

    assert "pool dual changed" in _executed_in_vain(other, user(store).plan(REQUESTS[name][0]))


def test_what_changes_while_a_plan_is_written_is_named_with_how_far_it_came() -> None:
    store = filled()

    class Racing(MemoryStore):
        """Somebody else is faster at the third write."""

        writes = 0

        def put(self, key: Key, record: Any, *, expect: Any) -> Any:
            Racing.writes += 1
            if Racing.writes == 3:
                present = self.get(key)
                super().put(key, record, expect=present.revision if present else expect)
            return super().put(key, record, expect=expect)

        put_in_order = None  # type: ignore[assignment]  # one by one, as a store that cannot do more

    racing = Racing()
    racing._entries = dict(store._entries)
    plan = user(store).plan(Apply(nodes=(Node("o"),)))

    with pytest.raises(StalePlanError) as caught:
        user(racing).execute(through_text(plan))

    assert caught.value.written == 2
    assert caught.value.changed == (f"{plan.steps[2].key} changed",)
    assert [each for each in audit(racing, clock=lambda: NOW).findings if each.severity == "error"] == []


# ------------------------------------------------------------------------------------------------------- edited

DOCUMENTS = [plan_to_document(user(filled()).plan(request)) for request, _ in REQUESTS.values()]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 300), st.integers(1 << 60, 1 << 200), st.floats(), st.text(max_size=5),
    st.sampled_from(("10.0.0.9", "10.0.0.0/24", "planned-0", "pool", [], {}, [[]], {"kind": "pool"}, "\ud800")),
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from _places(each, (*path, key))


PLACES = [list(_places(document)) for document in DOCUMENTS]


@st.composite
def edits(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A document, and the same with something left out, put in, or changed."""
    number = draw(st.integers(0, len(DOCUMENTS) - 1))
    document = json.loads(json.dumps(DOCUMENTS[number]))
    *above, last = draw(st.sampled_from(PLACES[number]))
    where = document
    for key in above:
        where = where[key]
    edit = draw(st.sampled_from(("leave out", "change", "put in")))
    if edit == "leave out":
        del where[last]
    elif edit == "change":
        where[last] = draw(VALUES)
    elif isinstance(where, dict):
        where[draw(st.text(max_size=5))] = draw(VALUES)
    else:
        where.insert(last, where[last])
    return DOCUMENTS[number], document


@given(edits())
def test_an_edited_document_is_refused_unless_it_is_the_same(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    document, edited = both
    same = json.dumps(edited, sort_keys=True) == json.dumps(document, sort_keys=True)

    if same:
        assert plan_from_document(edited, "plan.json") == plan_from_document(document, "plan.json")
    else:
        with pytest.raises(InvalidManifestError, match=r"^plan\.json: "):
            plan_from_document(edited, "plan.json")


@given(edits())
def test_a_document_that_was_edited_by_somebody_who_knows_of_the_digest_is_a_plan_or_refused(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, edited = both
    edited["digest"] = _digest(edited)

    with suppress(InvalidManifestError):
        assert isinstance(plan_from_document(edited, "plan.json"), Plan)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "it is not a plan"),
        ([], "it is not a plan"),
        ({}, "it is not a plan"),
        ({"kind": "Plan", "apiVersion": "v2"}, "it is not a plan"),
        ({"kind": "CIDRPool", "apiVersion": "ciliumipam.io/v1alpha1"}, "it is not a plan"),
        ({"kind": "Plan", "apiVersion": "ciliumipam.io/v1alpha1"}, "the field 'digest' is missing"),
        (DOCUMENTS[0] | {"digest": "0" * 64}, "it was edited"),
        (DOCUMENTS[0] | {"digest": None}, "it was edited"),
        (DOCUMENTS[0] | {"lists": {1}}, "not JSON serializable"),
    ],
)
def test_what_is_no_plan_is_told(document: object, reason: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        plan_from_document(document, "file.yaml")

    assert reason in str(caught.value)
    assert "file.yaml" in str(caught.value)


def test_a_document_that_contains_itself_is_refused() -> None:
    document = dict(DOCUMENTS[0])
    document["steps"] = [document]

    with pytest.raises(InvalidManifestError, match="cannot be read"):
        plan_from_document(document, "file.yaml")


def test_a_document_that_is_nested_without_end_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(InvalidManifestError, match="cannot be read"):
        plan_from_document(DOCUMENTS[0] | {"steps": nested}, "file.yaml")
