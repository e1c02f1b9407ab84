"""`Value`: what pools, nodes, selectors and requests have in common."""

from __future__ import annotations

import copy
import pickle
from ipaddress import ip_address
from typing import Any

import pytest

from ciliumipam import (
    Allocate,
    Apply,
    Drain,
    ForceRelease,
    Grow,
    HandBack,
    Migrate,
    Node,
    NodeSelector,
    PoolSpec,
    Rebalance,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    RequestAddresses,
    Shrink,
)
from ciliumipam.cidr import Prefix
from ciliumipam.demand import Demand
from ciliumipam.value import Value

ADDRESS = ip_address("10.0.0.1")
NODE = Node("n1", {"rack": "a"})
POOL = PoolSpec(name="p", cidrs=["10.0.0.0/24"], selector=NodeSelector.parse("rack=a"))
VALUES: list[Any] = [
    NODE,
    POOL,
    POOL.selector,
    Apply((POOL,), (NODE,)),
    Allocate("n1", ("a",), ADDRESS, 4, "x"),
    Release("n1", ("a",), True),
    ReleaseFenced(ADDRESS, 3, "tenant"),
    ForceRelease(ADDRESS, "tenant"),
    Grow("n1", 2),
    Drain("block", "10.0.0.0/24", True, "tenant"),
    Migrate("n1", "p"),
    RemoveNode("n1", True),
    RemovePool("p"),
    Shrink("p", (Prefix(4, 10 << 24, 24),)),
    Rebalance("p", 20, 4),
    RequestAddresses("n1", (Demand("p", 4, 7),)),
    HandBack("n1", Prefix(4, 10 << 24, 24), 3, "tenant"),
]


def test_every_class_of_values_is_tried() -> None:
    assert {type(each) for each in VALUES} == {each for each in Value.__subclasses__() if each.__module__.startswith("ciliumipam.")}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_copy_is_equal_and_a_value_of_another_class_is_not(value: Any) -> None:
    for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):  # noqa: S301 - our own
        assert again == value
        assert type(again) is type(value)
        assert hash(again) == hash(value)
        assert [getattr(again, name) for name in again._fields] == [getattr(value, name) for name in value._fields]
    assert [each for each in VALUES if each == value] == [value]
    assert value != tuple(getattr(value, name) for name in value._fields)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_nothing_of_a_value_can_be_set_added_or_deleted(value: Any) -> None:
    for name in (*type(value)._stored, "surprise"):
        with pytest.raises(AttributeError, match=f"'{name}' cannot be set: a {type(value).__name__} never changes; make another one"):
            setattr(value, name, None)
        with pytest.raises(AttributeError, match=f"'{name}' cannot be deleted: a {type(value).__name__} never changes"):
            delattr(value, name)
    assert not hasattr(value, "__dict__")


def test_each_field_makes_a_difference() -> None:
    assert Allocate("n1", ("a",)) != Allocate("n2", ("a",))
    assert Release("n1", ("a",)) != Release("n1", ("a",), missing_ok=True)
    assert RemoveNode("n1") != RemoveNode("n1", force=True)
    assert len({*VALUES, *VALUES}) == len(VALUES)


def test_a_value_shows_the_call_that_makes_it_and_is_matched_by_its_fields() -> None:
    assert repr(Release("n1", ("a",))) == "Release(node='n1', owners=('a',), missing_ok=False)"
    match VALUES[9]:
        case Drain(kind, name):
            assert (kind, name) == ("block", "10.0.0.0/24")
        case _:
            pytest.fail("no match")


def test_a_pool_with_other_fields_is_checked_like_any_other() -> None:
    other = POOL.replace(priority=7, cidrs=["10.1.0.0/16", "10.0.0.0/16"])

    assert other == PoolSpec(name="p", cidrs=["10.0.0.0/16", "10.1.0.0/16"], selector=POOL.selector, priority=7)
    with pytest.raises(ValueError, match="priority"):
        POOL.replace(priority="high")
    with pytest.raises(TypeError, match="colour"):
        POOL.replace(colour="green")
