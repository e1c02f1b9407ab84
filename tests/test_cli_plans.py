"""Plans on the command line: what is printed is what is done, exactly or not at all. And the commands that go on when asked again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ciliumipam import Ipam, SqliteStore
from ciliumipam.cli.main import main

ROOT = Path(__file__).parent.parent
SEED = str(ROOT / "docs" / "examples" / "seed")
DUAL = str(ROOT / "docs" / "examples" / "dual-stack")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
POOL = "apiVersion: ciliumipam.io/v1alpha1\nkind: CIDRPool\nmetadata: {name: %s}\nspec: {nodeSelector: {%s}, cidrs: [%s]}\n---\n"
NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: %s, labels: {rack: %s}}\n---\n"


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return [re.sub(" {2,}", " ", TIME.sub("TIME", line.strip())) for line in self.out.splitlines()]


class Cli:
    """Runs the command on one store, and keeps files beside it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.store = folder, folder / "ipam.db"
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        code = main([*arguments, "--store", f"sqlite:{self.store}"])
        return Answer(code, *self._capsys.readouterr())

    def file(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)

    def keep(self, *arguments: str, style: str = "json") -> str:
        """A file with what a command prints."""
        answer = self(*arguments, "-o", style)
        assert answer.code == 0, answer.err
        return self.file("plan.out", answer.out)

    def everything(self) -> list[Any]:
        return [self("get", kind, "-o", "json").json["items"] for kind in ("pools", "nodes", "blocks", "addresses")]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, capsys)


@pytest.fixture
def racks(cli: Cli) -> Cli:
    """Two racks with a pool each, and a spare pool for both."""
    text = POOL % ("rack-a", "matchLabels: {rack: a}", "10.1.0.0/22") + POOL % ("rack-b", "matchLabels: {rack: b}", "10.2.0.0/22")
    text += POOL % ("spare", "", "10.9.0.0/20") + NODE % ("node-a", "a") + NODE % ("node-b", "b")
    assert cli("apply", "-f", cli.file("racks.yaml", text)).code == 0
    return cli


# --------------------------------------------------------------------------------------------- plan and apply


@pytest.mark.parametrize("style", ["json", "yaml"])
def test_a_plan_is_carried_out_as_it_was_printed(cli: Cli, style: str) -> None:
    plan = cli.keep("plan", "-f", SEED, style=style)
    planned = json.loads(Path(plan).read_text()) if style == "json" else yaml.safe_load(Path(plan).read_text())
    assert not cli.store.exists()

    applied = cli("apply", "--plan", plan, "-o", "json")

    assert applied.code == 0, applied.err
    assert (planned["apiVersion"], planned["kind"]) == ("ciliumipam.io/v1alpha1", "Plan")
    assert applied.json["changes"] == planned["changes"]
    assert applied.json["addresses"] == []
    assert [block["block"] for block in cli("get", "blocks", "-o", "json").json["items"]] == ["10.0.1.0/24", "10.0.2.0/24"]
    assert cli("apply", "-f", SEED, "-o", "json").json["changes"] == []


def test_a_plan_that_was_carried_out_is_stale_and_says_what_changed(cli: Cli) -> None:
    plan = cli.keep("plan", "-f", SEED)
    cli("apply", "--plan", plan)
    before = cli.everything()

    again = cli("apply", "--plan", plan)

    assert (again.code, again.out) == (3, "")
    assert "the plan is stale: " in again.err
    assert "node node-1 is new" in again.err
    assert "nothing was written; plan again" in again.err
    assert cli.everything() == before


def test_a_plan_is_stale_as_soon_as_a_pool_or_node_is_another_one(racks: Cli) -> None:
    plan = racks.keep("plan", "-f", racks.file("more.yaml", NODE % ("node-c", "a")))
    racks("apply", "-f", racks.file("other.yaml", NODE % ("node-d", "b")))

    stale = racks("apply", "--plan", plan)

    assert stale.code == 3
    assert "node node-d is new" in stale.err
    assert [node["name"] for node in racks("get", "nodes", "-o", "json").json["items"]] == ["node-a", "node-b", "node-d"]


def test_a_stale_plan_leaves_no_new_store_behind(racks: Cli, tmp_path: Path) -> None:
    plan = racks.keep("grow", "node-a", "--blocks", "2", "--dry-run")
    racks.store = tmp_path / "other.db"

    assert racks("apply", "--plan", plan).code == 3
    assert not racks.store.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("allocate", "node-a", "web", "db"),
        ("release", "node-a", "old"),
        ("release", "--address", "10.1.0.1", "--force"),
        ("grow", "node-a", "--blocks", "2"),
        ("drain", "pool", "rack-b"),
        ("drain", "node", "node-b"),
        ("drain", "block", "10.2.0.0/24"),
        ("migrate", "node-b", "--to", "spare"),
        ("delete", "node", "node-b"),
        ("delete", "node", "node-a", "--force"),
        ("delete", "pool", "rack-a"),
    ],
    ids=" ".join,
)
def test_every_dry_run_is_a_plan_that_does_what_the_command_would(racks: Cli, command: tuple[str, ...]) -> None:
    racks("allocate", "node-a", "old")
    before = racks.everything()
    plan = racks.keep(*command, "--dry-run")
    assert racks.everything() == before

    applied = racks("apply", "--plan", plan, "-o", "json")

    assert applied.code == 0, applied.err
    assert applied.json["changes"] == json.loads(Path(plan).read_text())["changes"] != []
    assert racks.everything() != before
    with SqliteStore(racks.store) as store:
        Ipam(store).check_invariants()


def test_the_plan_of_an_allocation_prints_its_addresses_when_it_is_done(racks: Cli) -> None:
    plan = racks.keep("allocate", "node-a", "web", "--label", "default/web", "--dry-run")

    (given,) = racks("apply", "--plan", plan, "-o", "json").json["addresses"]

    assert (given["address"], given["owner"], given["label"]) == ("10.1.0.1", "web", "default/web")
    assert [given] == racks("get", "addresses", "-o", "json").json["items"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind: List\napiVersion: v1\n", "it is not a plan"),
        ("kind: Plan\napiVersion: ciliumipam.io/v1alpha1\n", "cannot be read"),
        ("{}\n---\n{}\n", "a plan is one"),
        ("", "it is empty"),
        ("{", "not YAML"),
    ],
)
def test_what_is_no_plan_is_bad_input(cli: Cli, text: str, reason: str) -> None:
    answer = cli("apply", "--plan", cli.file("p.yaml", text))

    assert (answer.code, answer.out) == (2, "")
    assert "p.yaml" in answer.err
    assert reason in answer.err
    assert not cli.store.exists()


def test_a_plan_may_be_larger_than_a_manifest(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = cli.keep("plan", "-f", SEED)
    monkeypatch.setattr("ciliumipam.cli.input.MAX_BYTES", 100)

    assert cli("apply", "--plan", plan).code == 0


def test_a_plan_goes_through_a_pipe_between_two_processes(tmp_path: Path) -> None:
    command = f"{sys.executable} -m ciliumipam"
    line = f"{command} plan -f {SEED} -o json | {command} apply --plan - && {command} plan -f {SEED}"
    environment = {"CILIUMIPAM_STORE": f"sqlite:{tmp_path}/a.db", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    told = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=ROOT, env=environment)

    assert told.stdout.splitlines()[-2:] == ["Done: 6 added, 0 changed, 0 removed", "Plan: 0 to add, 0 to change, 0 to remove"]


def test_a_plan_document_of_several_removals_is_refused(racks: Cli) -> None:
    answer = racks("delete", "node", "node-a", "node-b", "--dry-run", "-o", "json")

    assert (answer.code, answer.out) == (2, "")
    assert "a plan is of one change" in answer.err
    assert racks("delete", "node", "node-a", "node-b", "--dry-run").code == 0


@pytest.mark.parametrize("style", ["name", "wide"])
def test_a_plan_has_no_style_that_would_hide_it(racks: Cli, style: str) -> None:
    assert racks("allocate", "node-a", "web", "--dry-run", "-o", style).code == 2
    assert racks("plan", "-f", SEED, "-o", style).code == 2


# ------------------------------------------------------------------------------------------------------ diffs


def test_a_diff_says_what_is_added_changed_orphaned_and_refused_and_sums_it_up(racks: Cli) -> None:
    text = POOL.replace("cidrs", "priority: 7, cidrs") % ("rack-a", "matchLabels: {rack: a}", "10.1.1.0/24")
    text += POOL % ("spare", "matchLabels: {rack: z}", "10.9.0.0/20") + NODE % ("node-x", "x")

    planned = racks("plan", "-f", racks.file("m.yaml", text))
    applied = racks("apply", "-f", racks.file("m.yaml", text))

    assert planned.lines == [
        "~ pool rack-a cidrs: 10.1.0.0/22 -> 10.1.1.0/24; priority: unset -> 7",
        "! block 10.1.0.0/24 of node node-a: pool rack-a no longer covers it",
        "~ pool spare nodeSelector: every node -> rack=z",
        "+ node node-x rack=x",
        "x node node-x is refused by",
        "pool rack-a: rack in (a) but the node has x",
        "pool rack-b: rack in (b) but the node has x",
        "pool spare: rack in (z) but the node has x",
        "Plan: 1 to add, 2 to change, 0 to remove, 1 orphaned, 1 refused",
    ]
    assert planned.err.splitlines()[-1] == "ciliumipam: nothing was written"
    assert applied.lines == [*planned.lines[:-1], "Done: 1 added, 2 changed, 0 removed, 1 orphaned, 1 refused"]
    assert applied.code == 0
    assert "ciliumipam: concern: pool rack-a: " in applied.err


def test_nothing_to_do_is_said_in_the_last_line_too(racks: Cli) -> None:
    assert racks("plan", "-f", str(racks.folder / "racks.yaml")).out == "Plan: 0 to add, 0 to change, 0 to remove\n"


def test_a_detail_that_a_terminal_would_obey_is_escaped(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    from ciliumipam import Applied, Change  # noqa: PLC0415
    from ciliumipam.cli.diff import write_diff  # noqa: PLC0415

    write_diff(Applied((Change("add", "node", "n", "x\x1b[2J\n"),)), "Done")

    assert capsys.readouterr().out == "  + node  n  x\\x1b[2J\\n\nDone: 1 added, 0 changed, 0 removed\n"


# ----------------------------------------------------------------------------------------- grow, drain, migrate


def test_grow_gives_what_is_missing_and_says_by_its_code_when_there_is_no_room(racks: Cli) -> None:
    grown = racks("grow", "node-a", "--blocks", "3", "-o", "json")
    again = racks("grow", "node-a", "--blocks", "3", "-o", "json")
    refused = racks("grow", "node-a", "--blocks", "9")

    assert (grown.code, [change["name"] for change in grown.json["changes"]]) == (0, ["10.1.1.0/24", "10.1.2.0/24"])
    assert (again.code, again.json["changes"]) == (0, [])
    assert refused.code == racks("grow", "node-a", "--blocks", "9", "--dry-run").code == 4
    assert refused.lines[0] == "x node node-a is refused by"
    assert "has no free IPv4 /24" in refused.lines[1]
    assert refused.lines[-1] == "Done: 0 added, 0 changed, 0 removed, 1 refused"


@pytest.mark.parametrize(("blocks", "phrase"), [("0", "1 to 65536"), ("many", "invalid int"), ("-1", "1 to 65536")])
def test_a_count_of_blocks_that_cannot_be_is_bad_input(racks: Cli, blocks: str, phrase: str) -> None:
    answer = racks("grow", "node-a", "--blocks", blocks)

    assert answer.code == 2
    assert phrase in answer.err


def test_a_drain_names_what_is_in_its_way_and_ends_when_that_is_gone(racks: Cli) -> None:
    racks("allocate", "node-a", "web", "--label", "default/web")

    first = racks("drain", "node", "node-a")
    second = racks("drain", "node", "node-a", "-o", "json")
    plan = racks.keep("drain", "node", "node-a", "--dry-run")
    racks("release", "node-a", "web")
    third = racks("drain", "node", "node-a")

    assert first.code == 6
    assert first.lines == [
        "> node node-a takes nothing new",
        "= block 10.1.0.0/24 of node node-a: 10.1.0.1 is held by web (default/web) since TIME",
        "Done: 0 added, 0 changed, 0 removed, 1 draining, 1 blocked",
    ]
    assert "the same command takes back the rest" in first.err
    assert second.code == 6
    assert (racks("drain", "node", "node-a", "--dry-run").code, racks("apply", "--plan", plan).code) == (0, 6)
    (blocker,) = second.json["blockers"]
    assert TIME.fullmatch(blocker.pop("since"))
    assert blocker == {
        "node": "node-a",
        "block": "10.1.0.0/24",
        "address": "10.1.0.1",
        "owner": "web",
        "label": "default/web",
        "reason": "10.1.0.1 is held by web (default/web)",
    }
    assert third.code == 0
    assert third.lines == ["- block 10.1.0.0/24 from node node-a to pool rack-a", "Done: 0 added, 0 changed, 1 removed"]
    assert racks("get", "node", "node-a").lines[1] == "node-a - - - - draining, no block"


def test_a_drain_that_is_cancelled_is_a_change_and_not_a_drain(racks: Cli) -> None:
    racks("drain", "pool", "rack-a", "--dry-run")
    racks("allocate", "node-a", "web")
    racks("drain", "pools", "rack-a")

    assert "draining" in racks("get", "pool", "rack-a").lines[1]
    assert racks("drain", "pool", "rack-a", "--cancel").lines == [
        "~ pool rack-a takes new ones again",
        "Done: 0 added, 1 changed, 0 removed",
    ]
    assert "draining" not in racks("get", "pool", "rack-a").lines[1]


def test_a_block_of_another_space_is_drained_by_its_space(racks: Cli) -> None:
    lab = POOL.replace("cidrs", "addressSpace: lab, cidrs") % ("lab", "matchLabels: {rack: lab}", "10.1.0.0/24")
    racks("apply", "-f", racks.file("lab.yaml", lab + NODE % ("node-l", "lab")))
    assert racks("get", "blocks", "node-l").lines[1].endswith("in space lab")

    assert racks("drain", "node", "node-l", "--space", "lab").code == 2
    racks("allocate", "node-l", "probe")
    in_lab = racks("drain", "block", "10.1.0.0/24", "--space", "lab")

    assert in_lab.code == 6
    assert {b["node"]: b["draining"] for b in racks("get", "block", "10.1.0.0/24", "-o", "json").json["items"]} == {
        "node-a": False,
        "node-l": True,
    }
    assert racks("release", "--address", "10.1.0.1", "--force").code == 3
    assert racks("release", "--address", "10.1.0.1", "--force", "--space", "lab").code == 0


def test_migrate_moves_a_node_and_names_who_stays(racks: Cli) -> None:
    racks("allocate", "node-a", "web")

    first = racks("migrate", "node-a", "--to", "spare")
    racks("release", "node-a", "web")
    second = racks("migrate", "node-a", "--to", "spare")
    refused = racks("migrate", "node-a", "--to", "rack-b")

    assert first.code == 6
    assert first.lines == [
        "> block 10.1.0.0/24 node node-a moves to pool spare",
        "+ block 10.9.0.0/24 for node node-a out of pool spare",
        "= block 10.1.0.0/24 of node node-a: 10.1.0.1 is held by web since TIME",
        "Done: 1 added, 0 changed, 0 removed, 1 draining, 1 blocked",
    ]
    assert (second.code, second.lines[0]) == (0, "- block 10.1.0.0/24 from node node-a to pool rack-a")
    assert (refused.code, refused.out) == (3, "")
    assert "rack in (b) but the node has a" in refused.err


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("grow", "absent", "--blocks", "2"), 3),
        (("drain", "node", "absent"), 3),
        (("drain", "pool", "absent"), 3),
        (("drain", "block", "10.77.0.0/24"), 3),
        (("drain", "block", "10.1.0.1/24"), 2),
        (("drain", "address", "10.1.0.1"), 2),
        (("migrate", "absent", "--to", "spare"), 3),
        (("migrate", "node-a", "--to", "absent"), 3),
        (("migrate", "node-a"), 2),
        (("grow", "node-a"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_what_is_not_there_changes_nothing(racks: Cli, command: tuple[str, ...], code: int) -> None:
    before = racks.everything()

    answer = racks(*command)

    assert (answer.code, answer.out) == (code, "")
    assert racks.everything() == before


# -------------------------------------------------------------------------------------------- what others wrote

CILIUM_NODE = """\
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: %s, labels: {rack: %s}, creationTimestamp: "%s"}
spec: {ipam: {podCIDRs: [%s]}}
---
"""


def test_what_nodes_have_is_adopted_and_what_cannot_be_is_named(racks: Cli) -> None:
    text = CILIUM_NODE % ("node-c", "a", "2024-01-01T00:00:00Z", "10.1.3.0/24") + CILIUM_NODE % (
        "node-d", "a", "2025-01-01T00:00:00Z", "10.1.3.0/24",
    )  # fmt: skip

    applied = racks("apply", "-f", racks.file("dump.yaml", text))
    as_json = racks("plan", "-f", racks.file("dump.yaml", text), "-o", "json")

    assert "+ block 10.1.3.0/24 of node node-c into pool rack-a" in applied.lines
    (conflict,) = [line for line in applied.lines if line.startswith("? ")]
    assert "node 'node-d' cannot have 10.1.3.0/24" in conflict
    assert applied.lines[-1].endswith("1 in conflict")
    assert [each["node"] for each in as_json.json["conflicts"]] == ["node-d"]
    assert "ciliumipam: conflict: " in as_json.err


def test_fields_without_meaning_are_told(racks: Cli) -> None:
    answer = racks("plan", "-f", str(ROOT / "docs" / "examples" / "dumps" / "ippools.yaml"))

    assert answer.code == 0
    assert re.search(r"^ciliumipam: ignored: .*ippools\.yaml.*natOutgoing", answer.err, re.MULTILINE)


def test_what_is_exported_makes_the_same_pools_nodes_and_blocks_elsewhere(racks: Cli, tmp_path: Path) -> None:
    racks("allocate", "node-a", "web", "--label", "default/web")
    racks("grow", "node-b", "--blocks", "2")
    exported = racks("export")
    file = racks.file("export.yaml", exported.out)
    assert racks("export", "-o", "json").json == yaml.safe_load(exported.out)
    kept = racks.everything()

    racks.store = tmp_path / "new.db"
    applied = racks("apply", "-f", file)

    assert applied.code == 0, applied.err
    blocks, fences = ("block", "node", "pool", "since"), racks.everything()[2]
    assert [{key: each[key] for key in blocks} for each in fences] == [{key: each[key] for key in blocks} for each in kept[2]]
    assert [node["name"] for node in racks.everything()[1]] == ["node-a", "node-b"]
    assert racks("export", "-o", "jsonpath={.items[*].kind}").out == "CIDRPool CIDRPool CIDRPool Node Node CIDRBlock CIDRBlock CIDRBlock"
    assert racks("export", "-o", "table").code == 2
