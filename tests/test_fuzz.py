"""The fuzzer: the same seed is the same run, what it judges is found when it breaks, and `ciliumipam fuzz` says how to see it again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore, protocol, tasks, view
from ciliumipam import release_tasks as releasing
from ciliumipam.audit import audit
from ciliumipam.cli.main import main
from ciliumipam.errors import StaleFenceError
from ciliumipam.testing.churn import World
from ciliumipam.testing.churn_calls import Step
from ciliumipam.testing.churn_steps import KINDS, Steps
from ciliumipam.testing.churn_stores import Stores
from ciliumipam.testing.faults import Crash, FaultyStore, Script, crash_after
from ciliumipam.testing.fuzz import fuzz, replay, shrink

ROOT = Path(__file__).parent.parent
POOL: Step = {
    "name": "p",
    "cidrs": ["10.0.0.0/26", "fd00::/62"],
    "terms": [[]],
    "length_v4": 28,
    "length_v6": 64,
    "others": [],
    "reserved": [],
    "first": False,
    "last": False,
    "priority": 0,
    "space": "default",
    "per_node": 1,
    "most": None,
    "overflow": False,
    "draining": False,
    "delay": 0.0,
    "policy": "next",
    "seed": 0,
    "carving": "lowest",
}


# ---------------------------------------------------------------------------------------------------- the figure


@pytest.mark.parametrize(("store", "steps"), [("memory", 600), ("two", 300), ("sqlite", 100)])
def test_a_slice_of_the_nightly_run_breaks_nothing(store: Any, steps: int) -> None:
    report = fuzz(2026, steps, lambda: Stores(store))

    assert report.failure is None, str(report.failure)
    assert report.steps == steps
    assert sum(report.faults.values()) > steps // 10


def test_stores_make_no_difference_and_neither_does_the_process() -> None:
    here = fuzz(11, 80)
    file = fuzz(11, 80, lambda: Stores("sqlite"))
    code = "from ciliumipam.testing.fuzz import fuzz; print(fuzz(11, 80).trace)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120)

    assert (here.trace, here.kinds, here.faults) == (file.trace, file.kinds, file.faults)
    assert there.stdout.strip() == here.trace
    assert fuzz(12, 80).trace != here.trace


def test_a_life_can_be_lived_alone() -> None:
    whole = fuzz(5, 120, life=40)
    last = fuzz(5, 40, first_life=2, life=40)

    assert (whole.lives, last.lives) == (3, 1)
    assert whole.kinds == sum((fuzz(5, 40, first_life=life, life=40).kinds for life in range(3)), last.kinds - last.kinds)


def test_every_kind_of_step_and_fault_comes_up() -> None:
    report = fuzz(1, 500)

    assert {"allocate", "release", "release fenced", "force release", "apply", "grow", "request", "hand back", "drain", "migrate"} <= {
        *report.kinds
    }
    assert {"remove node", "remove pool", "repair", "plan", "execute", "time", "read", "restart", "look", "cut", "heal"} <= {*report.kinds}
    assert {*report.faults} >= {"refused", "vanished", "lost", "conflict", "slow", "slow reply", "crash before", "crash after", "cut off"}
    assert report.crashes > 5


# ------------------------------------------------------------------------------------------------ what it finds


def planted(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    match fault:
        case "a release forgets the claim and leaves the page":
            monkeypatch.setattr(protocol, "free", lambda *arguments: None)
        case "nothing cools":
            monkeypatch.setattr(view.View, "cools_until", lambda self, pool, now: None)
        case "orphans give out addresses":
            monkeypatch.setattr(view.View, "is_orphan", lambda self, block: False)
        case "a release tells what was never held":
            monkeypatch.setattr(releasing, "_is_held", lambda pages, level, piece: pages is level.pages)
        case "the answer is told as it was decided, not as it was read again":
            monkeypatch.setattr(tasks.AllocateTask, "verify", lambda self: ())
            monkeypatch.setattr(protocol.Call, "owns", lambda self, standing: True)
        case _:
            pytest.fail(fault)


@pytest.mark.parametrize(
    ("fault", "seed", "life"),  # each is found early in such a run, so that little has to be left out
    [
        ("a release forgets the claim and leaves the page", 2, 30),
        ("nothing cools", 9, 30),
        ("orphans give out addresses", 12, 30),
        ("a release tells what was never held", 17, 60),
        ("the answer is told as it was decided, not as it was read again", 5, 30),
    ],
)
def test_a_planted_fault_is_found_and_cut_down_to_few_steps(fault: str, seed: int, life: int, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, fault)

    report = fuzz(seed, 20_000, life=life)

    failure = report.failure
    assert failure is not None
    assert len(failure.journal) <= 8
    again = replay(failure.journal)
    assert again is not None
    monkeypatch.undo()
    assert replay(failure.journal) is None


def test_a_bug_that_is_no_broken_invariant_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ipam, "grow", lambda self, node, blocks: {}[node])

    report = fuzz(3, 5000, life=60)

    assert report.failure is not None
    assert report.failure.broken.sentence.startswith("KeyError: 'n")
    assert [step["do"] for step in report.failure.journal] == ["grow"]
    assert str(report.failure).splitlines()[0] == f"broken: {report.failure.broken.sentence}"
    assert json.loads(str(report.failure).splitlines()[-1]) == report.failure.journal[-1]


def test_what_does_not_break_again_is_not_cut_down_to_nothing() -> None:
    world = World(Stores())
    steps = [Steps(Random(1), world).first()]

    broken = replay([{"do": "no such thing", "by": 0}])

    assert broken is not None
    assert broken.sentence == "ValueError: no step is called 'no such thing'"
    assert shrink(steps, broken) == steps


# --------------------------------------------------------------------------------------------------- single steps


def do(*steps: Step, stores: str = "memory") -> World:
    world = World(Stores(stores))  # type: ignore[arg-type]  # one of the three
    for step in ({"do": "apply", "by": 0, "pools": [POOL], "nodes": {"n0": {}, "n1": {}}}, *steps):
        world.do(json.loads(json.dumps(step)))
    return world


def allocate(by: int, *owners: str, **more: Any) -> Step:
    return {"do": "allocate", "by": by, "node": "n0", "owners": [*owners], **more}


def test_a_crashed_writer_is_started_again_and_another_one_finishes() -> None:
    world = do(allocate(1, "o0", "o1", faults="2*none, crash after"), allocate(2, "o0", "o1"))

    assert world.done["(crashes)"] == 1
    assert world.faults == {"crash after": 1}
    assert world.oracle.held.keys() == {("n0", "o0"), ("n0", "o1")}
    assert not world.oracle.ghosts


def test_a_writer_that_is_cut_off_does_nothing_until_it_is_healed() -> None:
    world = do({"do": "cut", "by": 1, "unknown": True}, allocate(1, "o0"))
    assert (world.oracle.held, world.faults) == ({}, {"cut off": 1})

    world.do({"do": "heal", "by": 1})
    world.do(allocate(1, "o0"))

    assert world.oracle.held.keys() == {("n0", "o0")}


def test_somebody_else_calls_while_a_write_is_slow() -> None:
    world = do(allocate(1, "o0", faults="none, slow", meanwhile=allocate(2, "o1")))

    assert world.done["allocate"] == 2
    assert world.faults == {"slow": 1}
    assert world.oracle.held.keys() == {("n0", "o0"), ("n0", "o1")}
    assert world.oracle.now == 1001


def test_a_plan_is_carried_out_later_or_refused() -> None:
    plan: Step = {"do": "plan", "by": 0, "of": allocate(0, "o0"), "name": "a"}
    execute: Step = {"do": "execute", "by": 1, "name": "a"}

    assert do(plan, execute).oracle.held.keys() == {("n0", "o0")}
    assert do(plan, allocate(2, "o1"), execute).oracle.held.keys() == {("n0", "o1")}


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_every_kind_are_what_json_holds(kind: str) -> None:
    world = do(allocate(0, "o0"))
    steps = Steps(Random(4), world)
    for step in [steps.make(kind), *steps.rest()]:
        assert json.loads(json.dumps(step))["do"]
        world.do(json.loads(json.dumps(step)))


def test_every_writer_has_a_handle_of_its_own_on_a_file(tmp_path: Path) -> None:
    stores = Stores("sqlite", tmp_path / "ipam.db", "FULL")
    world = World(stores, writers=2)
    world.do({"do": "apply", "by": 0, "pools": [POOL], "nodes": {"n0": {}}})
    world.do(allocate(1, "o0"))
    assert len({id(store) for store in stores._open}) == 3  # two writers and the judge

    world.do({"do": "restart", "by": 1})
    world.close()

    with SqliteStore(tmp_path / "ipam.db") as store:
        assert [each.owner for each in Ipam(store).allocations()] == ["o0", "o0"]


# ------------------------------------------------------------------------------------- what it has found already
# Each of these was in the library, and no other test had seen it.


def dual(*owners: str) -> MemoryStore:
    store = MemoryStore()
    ipam = Ipam(store)
    pool = PoolSpec(name="p", cidrs=["10.0.0.0/26", "fd00::/62"], selector=NodeSelector.everything(), block_length_v4=28)
    ipam.apply([pool], [Node("n")])
    if owners:
        ipam.allocate("n", *owners)
    return store


def test_owners_that_share_a_claim_page_are_told_each_address_once() -> None:
    released = Ipam(dual("o0", "o72")).release("n", "o0", "o72")

    assert sorted(str(each.address) for each in released) == ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]


@pytest.mark.parametrize("script", ["", "lost", "none, conflict", "none, lost", "2*none, lost"])
def test_a_release_does_not_tell_of_an_address_that_was_never_held(script: str) -> None:
    store = dual("x")
    with pytest.raises(Crash):
        Ipam(FaultyStore(store, crash_after(2))).allocate("n", "o")  # one family is there, the other one was begun
    assert [str(each.address) for each in Ipam(store).allocations() if each.owner == "o"] == ["10.0.0.2"]

    released = Ipam(FaultyStore(store, Script.parse(script))).release("n", "o")

    assert [str(each.address) for each in released] == ["10.0.0.2"]


def test_a_writer_that_hears_of_a_block_reads_its_pool_before_it_gives_out_of_it() -> None:
    spaces = [{**POOL, "space": space, "terms": terms} for space, terms in (("blue", [[["zone", "In", ["a"]]]]), ("default", [[]]), ("blue", [[]]))]
    world = World(Stores())
    world.do({"do": "apply", "by": 0, "pools": [spaces[0]], "nodes": {"n0": {}, "n1": {}, "n44": {}}})
    world.do({"do": "release", "by": 2, "node": "n44", "owners": ["o72"], "missing_ok": False})
    world.do({"do": "apply", "by": 1, "pools": [spaces[1]], "nodes": {}})
    world.do({"do": "release", "by": 2, "node": "n1", "owners": ["o87"], "missing_ok": False})
    world.do({"do": "apply", "by": 0, "pools": [spaces[2]], "nodes": {}})

    world.do({"do": "allocate", "by": 2, "node": "n44", "owners": ["o0"]})

    assert not world.oracle.held


def test_an_address_is_released_though_the_writer_knew_its_block_as_another_nodes() -> None:
    store, pool = MemoryStore(), PoolSpec(name="p", cidrs=["10.0.0.0/28"], selector=NodeSelector.everything(), block_length_v4=28)
    one, other = Ipam(store), Ipam(store)
    one.apply([pool], [Node("n1")])
    one.allocate("n1", "o")
    assert [block.node for block in other.blocks()] == ["n1"]
    one.release("n1", "o")
    one.remove_node("n1")
    one.apply([], [Node("n2")])
    (held,) = one.allocate("n2", "o")

    with pytest.raises(StaleFenceError):
        other.release_fenced(held.address, 1)
    assert Ipam(store).allocations() == (held,)
    assert other.release_fenced(held.address, held.fence) == held


def test_a_block_that_is_taken_back_while_it_is_marked_as_draining_is_not_marked() -> None:
    remove: Step = {"do": "remove node", "by": 0, "node": "n0", "force": True}
    drain: Step = {"do": "drain", "by": 1, "kind": "block", "name": "10.0.0.0/28", "space": "default", "cancel": False}

    world = do({**drain, "faults": "slow", "meanwhile": remove})

    assert not any(page.draining for (kind, _), page in world._records().items() if kind == "block-claims")


def test_a_pool_that_a_call_left_over_an_older_ones_space_serves_nobody() -> None:
    """Both may be applied only together; a call that broke off between the two leaves the new pool where the old one still is."""
    moved = {**POOL, "cidrs": ["10.9.0.0/24"]}
    world = do(
        {"do": "time", "seconds": 1.0},
        {"do": "apply", "by": 0, "pools": [{**POOL, "name": "a"}, moved], "nodes": {}, "faults": "none, crash before"},
        {"do": "apply", "by": 1},
        {"do": "apply", "by": 2, "nodes": {"n2": {}}},
    )

    assert world.read().pools.keys() == {"a", "p"}
    assert {block.pool for block in world.oracle.blocks["n2"]} == {"p"}


def test_what_was_being_adopted_is_finished_though_no_pool_is_left_meanwhile() -> None:
    existing = [["n2", "10.9.0.0/28", None, 5.0]]
    world = do(
        {"do": "apply", "by": 0, "nodes": {"n2": {"a": "b"}}, "existing": existing, "faults": "2*none, crash before"},
        {"do": "remove pool", "by": 1, "pool": "p"},
        {"do": "apply", "by": 1, "pools": [POOL]},
    )

    assert [(block.pool, str(block.network)) for block in world.oracle.blocks["n2"]] == [("", "10.9.0.0/28")]


def test_what_a_node_has_is_there_already_though_its_pool_went_to_another_address_space() -> None:
    have = [["n0", "10.0.0.0/28", None, 0.0], ["n2", "10.0.0.32/28", "p", 0.0]]
    world = do(
        {"do": "apply", "by": 0, "nodes": {"n2": {}}, "existing": have},
        {"do": "apply", "by": 1, "pools": [{**POOL, "space": "blue"}]},
        {"do": "apply", "by": 1, "existing": have},
    )

    there = {(block.space, str(block.network)) for block in world.oracle.blocks["n2"]}
    assert there == {("default", "10.0.0.32/28"), ("default", "fd00:0:0:2::/64")}


def test_who_read_while_another_call_was_slow_may_release_by_the_delay_that_it_read() -> None:
    later = {**POOL, "delay": 20.25}
    world = do(
        allocate(0, "o0"),
        {"do": "apply", "by": 0, "pools": [later], "faults": "slow", "meanwhile": {"do": "drain", "by": 2, "kind": "pool", "name": "no-pool"}},
        {"do": "release", "by": 2, "node": "n0", "owners": ["o0"]},
    )

    assert not world.oracle.held
    assert not world.oracle.cooling


def test_a_claim_on_an_address_of_another_address_space_is_not_filled() -> None:
    """What a block's fences say is of its own space: where a node gets the same prefix in another one, they begin anew."""
    store = MemoryStore()
    one, other = Ipam(store), Ipam(store)
    blue = PoolSpec(name="b", cidrs=["10.0.0.0/28"], selector=NodeSelector.everything(), block_length_v4=28, address_space="blue")
    one.apply([blue], [Node("n")])
    assert [str(each.address) for each in other.allocate("n", "o")] == ["10.0.0.1"]
    one.remove_node("n", force=True)
    one.remove_pool("b")
    one.apply([PoolSpec(name="p", cidrs=["10.0.0.0/28"], selector=NodeSelector.everything(), block_length_v4=28)], [Node("n")])

    other.apply([])  # reads pools and blocks, and not what owners claim
    given = other.allocate("n", "o")

    assert set(Ipam(store).allocations()) == set(given)
    assert [each for each in audit(store).findings if each.severity == "error"] == []


# --------------------------------------------------------------------------------------------------- the command


def test_the_command_says_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuzz", "--seed", "3", "--steps", "150"]) == 0

    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"150 steps in 1 lives on memory:, \d+ faults, \d+ crashes", out[0])
    assert out[1].startswith("steps: ")
    assert out[2].startswith("faults: ")
    assert out[3] == f"trace: {fuzz(3, 150).trace}"
    assert out[4:] == ["no invariant broke"]


def test_the_command_fills_a_new_file_and_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CILIUMIPAM_STORE", f"sqlite:{tmp_path}/precious.db")
    store = f"sqlite:{tmp_path}/fuzz.db"

    assert main(["fuzz", "--steps", "60", "--store", store, "--full", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 60
    assert (tmp_path / "fuzz.db").exists()
    assert not (tmp_path / "precious.db").exists()
    assert main(["fuzz", "--steps", "60", "--store", store]) == 2
    assert "fuzz.db exists, and fuzzing begins each life with an empty store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--store", "redis:x"], "is no place to fuzz; write memory:, two: or sqlite:PATH"),
        (["--store", "memory:", "--full"], "--full goes with --store sqlite:PATH"),
        (["--steps", "0"], "'0' is not a whole number from 1 on"),
        (["--journal", "no such file"], "no such file cannot be read"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuzz", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_failure_names_the_command_that_shows_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, "orphans give out addresses")

    assert main(["fuzz", "--seed", "3", "--steps", "20000", "--store", "two:"]) == 1
    first = capsys.readouterr().out
    sentence = next(line for line in first.splitlines() if line.startswith("broken: "))
    command = first.splitlines()[-1].removeprefix("to see it again: ciliumipam ")
    assert "--store two:" in command
    assert main(command.split()) == 1
    assert sentence in capsys.readouterr().out

    journal = tmp_path / "steps.jsonl"
    journal.write_text("\n".join(line for line in first.splitlines() if line.startswith("{")))
    assert main(["fuzz", "--journal", str(journal)]) == 1
    monkeypatch.undo()
    assert main(["fuzz", "--journal", str(journal)]) == 0


def test_the_command_needs_neither_hypothesis_nor_pytest() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = sys.modules['pytest'] = None\n"
        "from ciliumipam.cli.main import main; sys.exit(main(['fuzz', '--steps', '20']))"
    )

    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=120).returncode == 0


