"""The command, in this process: what each prints, what it writes, and what it answers to bad input."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ciliumipam import Node
from ciliumipam.cli import commands, tables, values
from ciliumipam.cli.main import main
from ciliumipam.cli.store import reading
from ciliumipam.cli.text import plain
from ciliumipam.errors import StoreRefusedError
from ciliumipam.records import Key, NodeRecord
from ciliumipam.store import ABSENT

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
SEED = str(EXAMPLES / "seed")
DUAL = str(EXAMPLES / "dual-stack")
FENCE = "the fence of the address in question"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def short(value: object) -> str:
    """A test's id out of a parameter."""
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return ascii(value).replace(f"{ROOT}/", "")[:70]


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def items(self) -> Any:
        return self.json["items"]


class Cli:
    """Runs the command on one store."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        code = main([*arguments, "--store", f"sqlite:{self.path}"])
        return Answer(code, *self._capsys.readouterr())

    def everything(self) -> list[Any]:
        return [self("get", kind, "-o", "json").items for kind in ("pools", "nodes", "blocks", "addresses")]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path / "ipam.db", capsys)


@pytest.fixture
def seed(cli: Cli) -> Cli:
    assert cli("apply", "-f", SEED).code == 0
    return cli


# ------------------------------------------------------------------------------------------------- the story


def test_the_seed_gives_each_node_its_cidr_and_its_pods_addresses_out_of_it(cli: Cli) -> None:
    applied = cli("apply", "-f", SEED, "-o", "json")
    assert {(c["action"], c["kind"], c["name"]) for c in applied.json["changes"]} >= {
        ("add", "pool", "node-1-ipam-config"),
        ("add", "node", "node-2"),
        ("carve", "block", "10.0.1.0/24"),
        ("carve", "block", "10.0.2.0/24"),
    }
    assert applied.err == f"ciliumipam: created the store {cli.path}\n"

    first = cli("allocate", "node-1", "default/web-0", "-o", "json").items
    assert cli("allocate", "node-2", "default/web-1").code == 0

    assert [{**each, "since": bool(TIME.fullmatch(each["since"])), "fence": each["fence"] > 0} for each in first] == [
        {
            "node": "node-1",
            "owner": "default/web-0",
            "label": "",
            "pool": "node-1-ipam-config",
            "block": "10.0.1.0/24",
            "address": "10.0.1.1",
            "family": 4,
            "fence": True,
            "since": True,
        }
    ]
    assert cli("get", "nodes", "-o", "json").items == [
        {
            "name": f"node-{n}",
            "labels": {"kubernetes.io/hostname": f"node-{n}"},
            "pools": [f"node-{n}-ipam-config"],
            "podCIDRs": [f"10.0.{n}.0/24"],
            "addresses": [f"10.0.{n}.1"],
            "spaces": ["default"],
            "utilization": {"ipv4": {"capacity": 256, "inUse": 1, "reserved": 2, "cooling": 0, "available": 253}},
            "demand": [],
            "draining": False,
            "drainingBlocks": [],
            "orphans": [],
        }
        for n in (1, 2)
    ]
    assert cli("get", "nodes").out.splitlines() == [
        "NAME    POOL                PODCIDRS     ADDRESSES    IN USE    STATUS",
        "node-1  node-1-ipam-config  10.0.1.0/24  10.0.1.1     1/254     ready",
        "node-2  node-2-ipam-config  10.0.2.0/24  10.0.2.1     1/254     ready",
    ]


def test_a_node_by_name_is_a_cilium_node(seed: Cli) -> None:
    expected = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": "node-1", "labels": {"kubernetes.io/hostname": "node-1"}},
        "spec": {"ipam": {"podCIDRs": ["10.0.1.0/24"]}},
    }

    assert yaml.safe_load(seed("get", "node", "node-1", "-o", "yaml").out) == expected
    assert seed("get", "ciliumnode", "node-1", "-o", "json").json == expected


def test_a_pool_by_name_is_a_manifest_that_can_be_applied_again(cli: Cli, tmp_path: Path) -> None:
    cli("apply", "-f", DUAL)
    manifest = cli("get", "pool", "rack-a", "-o", "yaml").out
    (tmp_path / "pool.yaml").write_text(manifest)

    assert yaml.safe_load(manifest)["spec"]["cidrs"] == ["10.64.0.0/16", "fd00:64::/48"]
    assert cli("apply", "-f", str(tmp_path / "pool.yaml"), "-o", "json").json["changes"] == []


def test_dual_stack_gives_an_address_of_each_family_and_one_can_be_asked_for(cli: Cli) -> None:
    cli("apply", "-f", DUAL)

    both = cli("allocate", "node-a", "web", "-o", "json").items
    six = cli("allocate", "node-a", "db", "--family", "6", "--label", "prod/db-0", "-o", "json").items

    assert [(each["family"], each["address"]) for each in both] == [(4, "10.64.0.11"), (6, "fd00:64::1")]
    assert [(each["family"], each["address"], each["label"]) for each in six] == [(6, "fd00:64::2", "prod/db-0")]
    row = re.sub(" {2,}", " | ", cli("get", "node", "node-a").out.splitlines()[1])
    assert row == "node-a | rack-a | 10.64.0.0/24, fd00:64::/64 | 10.64.0.11, fd00:64::1, fd00:64::2 | 1/244, 2/~2^64 | ready"


def test_an_owner_that_looks_like_a_number_stays_as_it_is(seed: Cli) -> None:
    seed("allocate", "node-1", "007", "1e5")

    assert re.findall(r"node-1 +(\S+) ", seed("get", "addresses").out) == ["007", "1e5"]


def test_a_table_of_nodes_shows_some_addresses_and_counts_the_rest(seed: Cli) -> None:
    seed("allocate", "node-1", *(f"owner-{n}" for n in range(5)))

    assert "10.0.1.1, 10.0.1.2, 10.0.1.3 +2 more" in seed("get", "nodes").out


# ------------------------------------------------------------------------------------------ options and stores


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_global_options_may_stand_anywhere(seed: Cli, capsys: pytest.CaptureFixture[str], place: int) -> None:
    words = ["get", "nodes", "node-1"]

    assert main([*words[:place], "--store", f"sqlite:{seed.path}", "-o", "json", *words[place:]]) == 0

    assert json.loads(capsys.readouterr().out)["kind"] == "CiliumNode"


@pytest.mark.parametrize(
    "words",
    [
        ("--address", "10.0.1.7", "allocate", "node-1", "a"),
        ("allocate", "--dry-run", "node-1", "a", "b"),
        ("allocate", "node-1", "--dry-run", "a", "b"),
        ("allocate", "node-1", "a", "--dry-run", "b"),
        ("allocate", "node-1", "a", "b", "--dry-run"),
        ("allocate", "--dry-run", "--", "node-1", "a", "b"),
        ("release", "node-2", "--dry-run", "a", "b"),
        ("release", "node-2", "a", "--dry-run", "b"),
    ],
    ids=short,
)
def test_options_of_a_command_may_stand_between_its_words(seed: Cli, words: tuple[str, ...]) -> None:
    seed("allocate", "node-2", "a", "b")
    answer = seed(*words, "-o", "json")

    if words[0] == "--address":  # it belongs to a command, so it has no meaning before one
        assert answer.code == 2
    else:
        assert [change["kind"] for change in answer.json["changes"]] == ["address", "address"]


def test_a_global_option_after_the_command_wins(seed: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            ["-o", "yaml", "--store", "sqlite:/absent", "get", "nodes", "-o", "json", "--store", f"sqlite:{seed.path}"]
        )
        == 0
    )
    assert len(json.loads(capsys.readouterr().out)["items"]) == 2


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({}, "home/.local/state/ciliumipam/ipam.db"),
        ({"XDG_STATE_HOME": "{tmp}/state"}, "state/ciliumipam/ipam.db"),
        ({"XDG_STATE_HOME": "relative"}, "home/.local/state/ciliumipam/ipam.db"),
        ({"XDG_STATE_HOME": "{tmp}/state", "CILIUMIPAM_STORE": ""}, "state/ciliumipam/ipam.db"),
        ({"XDG_STATE_HOME": "{tmp}/state", "CILIUMIPAM_STORE": "sqlite:{tmp}/other.db"}, "other.db"),
        ({"CILIUMIPAM_STORE": "sqlite:~/mine.db"}, "home/mine.db"),
    ],
)
def test_the_default_store_is_the_environments_else_one_in_the_state_directory(
    environment: dict[str, str],
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_STATE_HOME", "CILIUMIPAM_STORE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))

    assert main(["apply", "-f", SEED]) == 0
    assert capsys.readouterr().err == f"ciliumipam: created the store {tmp_path / path}\n"
    assert main(["apply", "-f", SEED]) == 0
    assert "created" not in capsys.readouterr().err
    assert (tmp_path / path).is_file()


@pytest.mark.parametrize("text", ["ipam.db", "sqlite:", "postgres:x", ""])
def test_a_store_that_cannot_be_named_is_bad_input(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "nodes", "--store", text]) == 2
    assert (
        capsys.readouterr().err
        == f"ciliumipam: --store {text!r} names no store; write sqlite:PATH, as in sqlite:ipam.db, or kubernetes:[CONTEXT]\n"
    )


COMMANDS_ON_A_STORE = [
    ("get", "pools"),
    ("get", "node", "node-1"),
    ("explain", "node-1"),
    ("check",),
    ("allocate", "node-1", "web"),
    ("allocate", "node-1", "web", "--dry-run"),
    ("release", "node-1", "web"),
    ("release", "--address", "10.0.1.1", "--force"),
    ("delete", "node", "node-1"),
    ("delete", "pool", "x", "--dry-run"),
]


@pytest.mark.parametrize("command", COMMANDS_ON_A_STORE, ids=short)
def test_a_store_that_is_absent_is_a_sentence_and_stays_absent(cli: Cli, command: tuple[str, ...]) -> None:
    answer = cli(*command)

    assert answer.code == 5
    assert answer.out == ""
    assert str(cli.path) in answer.err
    assert list(cli.path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "command", [*COMMANDS_ON_A_STORE, ("apply", "-f", SEED), ("plan", "-f", SEED)], ids=short
)
def test_a_file_that_is_no_store_is_a_sentence_and_stays_as_it_is(cli: Cli, command: tuple[str, ...]) -> None:
    cli.path.write_text("a diary, not a database\n" * 100)

    answer = cli(*command)

    assert (answer.code, answer.out, answer.err.count("\n")) == (5, "", 1)
    assert cli.path.read_text() == "a diary, not a database\n" * 100


def test_what_only_reads_cannot_write(seed: Cli) -> None:
    with reading(f"sqlite:{seed.path}") as store, pytest.raises(StoreRefusedError):
        store.put(Key("node", "x"), NodeRecord(Node("x"), 0.0), expect=ABSENT)


def test_a_state_directory_that_cannot_be_made_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("CILIUMIPAM_STORE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    assert main(["apply", "-f", SEED]) == 5
    told = capsys.readouterr().err
    assert f"{tmp_path}/file/ciliumipam" in told
    assert told.endswith("Not a directory\n")


# --------------------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize(
    ("command", "change"),
    [
        (("allocate", "node-1", "new"), ("allocate", "address", "10.0.1.2")),
        (("release", "node-1", "web"), ("release", "address", "10.0.1.1")),
        (("release", "--address", "10.0.1.1", "--fence", FENCE), ("release", "address", "10.0.1.1")),
        (("release", "--address", "10.0.1.1", "--force"), ("release", "address", "10.0.1.1")),
        (("delete", "node", "node-2"), ("give back", "block", "10.0.2.0/24")),
        (("delete", "node", "node-1", "--force"), ("remove", "node", "node-1")),
        (("delete", "pool", "node-1-ipam-config"), ("remove", "pool", "node-1-ipam-config")),
    ],
    ids=short,
)
def test_a_dry_run_prints_the_plan_and_writes_nothing(
    seed: Cli, command: tuple[str, ...], change: tuple[str, ...]
) -> None:
    fence = seed("allocate", "node-1", "web", "-o", "json").items[0]["fence"]
    command = tuple(str(fence) if word is FENCE else word for word in command)
    before = seed.everything()

    planned = seed(*command, "--dry-run", "-o", "json")

    assert change in {(c["action"], c["kind"], c["name"]) for c in planned.json["changes"]}
    assert planned.err.endswith("ciliumipam: nothing was written\n")
    assert seed.everything() == before
    assert seed(*command).code == 0
    assert seed.everything() != before


def test_a_plan_needs_no_store_and_makes_none(cli: Cli) -> None:
    answer = cli("plan", "-f", SEED)

    assert answer.code == 0
    assert re.search(r"^  \+ block +10\.0\.1\.0/24 ", answer.out, re.MULTILINE)
    assert list(cli.path.parent.iterdir()) == []


def test_a_plan_that_is_not_possible_fails_in_a_dry_run_as_it_would_for_real(seed: Cli) -> None:
    command = ("allocate", "node-1", "web", "--address", "10.0.1.0")
    for_real, dry = seed(*command), seed(*command, "--dry-run")

    assert for_real == dry
    assert for_real.code == 3


# ------------------------------------------------------------------------------------------ release and delete


def test_release_takes_every_address_of_an_owner(seed: Cli) -> None:
    seed("allocate", "node-1", "a", "b")

    released = seed("release", "node-1", "a", "-o", "json").items

    assert [(each["owner"], each["address"]) for each in released] == [("a", "10.0.1.1")]
    assert [each["owner"] for each in seed("get", "addresses", "-o", "json").items] == ["b"]


def test_a_release_by_fence_takes_only_the_holding_that_it_names(seed: Cli) -> None:
    fence = str(seed("allocate", "node-1", "a", "-o", "json").items[0]["fence"])

    stale = seed("release", "--address", "10.0.1.1", "--fence", str(int(fence) + 1))
    right = seed("release", "--address", "10.0.1.1", "--fence", fence, "-o", "json")

    assert stale.code == 3
    assert [each["owner"] for each in right.items] == ["a"]
    assert seed("release", "--address", "10.0.1.1", "--fence", fence).code == 3


def test_a_forced_release_says_who_lost_the_address(seed: Cli) -> None:
    seed("allocate", "node-1", "a", "--label", "default/web-0")

    answer = seed("release", "--address", "10.0.1.1", "--force")

    assert answer.err == "ciliumipam: by force: owner 'a' (default/web-0) on node 'node-1' has lost 10.0.1.1\n"
    assert seed("get", "addresses", "-o", "json").items == []


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        ((), "say whose addresses"),
        (("node-1",), "say whose addresses"),
        (("node-1", "a", "--fence", "1"), "--fence, --force and --space go with --address"),
        (("node-1", "a", "--force"), "--fence, --force and --space go with --address"),
        (("node-1", "a", "--address", "10.0.1.1", "--force"), "leave NODE and OWNER out"),
        (("--address", "10.0.1.1"), "needs one of --fence N"),
        (("--address", "10.0.1.1", "--fence", "1", "--force"), "needs one of --fence N"),
        (("--address", "10.0.1", "--force"), "'10.0.1' is not an IP address"),
    ],
)
def test_a_release_that_contradicts_itself_is_bad_input(seed: Cli, arguments: tuple[str, ...], phrase: str) -> None:
    seed("allocate", "node-1", "a")

    answer = seed("release", *arguments)

    assert answer.code == 2
    assert phrase in answer.err
    assert len(seed("get", "addresses", "-o", "json").items) == 1


def test_a_node_in_use_is_deleted_only_by_force(seed: Cli) -> None:
    seed("allocate", "node-1", "a")

    assert seed("delete", "node", "node-1").code == 3
    assert seed("delete", "node", "node-1", "--force").code == 0
    assert [node["name"] for node in seed("get", "nodes", "-o", "json").items] == ["node-2"]
    assert seed("get", "addresses", "-o", "json").items == []


def test_delete_stops_at_the_first_that_is_not_possible_and_tells_what_was_done(seed: Cli) -> None:
    seed("allocate", "node-1", "a")

    answer = seed("delete", "nodes", "node-2", "node-1", "-o", "json")

    assert answer.code == 3
    assert ("remove", "node-2") in {(c["action"], c["name"]) for c in json.loads(answer.out)["changes"]}
    assert [node["name"] for node in seed("get", "nodes", "-o", "json").items] == ["node-1"]


def test_deleting_a_pool_takes_nothing_and_leaves_orphans(seed: Cli) -> None:
    seed("allocate", "node-1", "a")

    assert seed("delete", "pool", "node-1-ipam-config").code == 0

    assert [(b["block"], b["orphan"]) for b in seed("get", "blocks", "-o", "json").items] == [
        ("10.0.1.0/24", True),
        ("10.0.2.0/24", False),
    ]
    assert "orphan" in seed("get", "blocks").out
    assert len(seed("get", "addresses", "-o", "json").items) == 1
    assert seed("delete", "pool", "node-2-ipam-config", "--force").code == 2


# ------------------------------------------------------------------------------------------------- get and co.


def test_blocks_and_addresses_are_found_by_every_name_they_have(seed: Cli) -> None:
    seed("allocate", "node-1", "a", "b")

    def found(kind: str, name: str) -> list[str]:
        return [
            each["address" if kind == "addresses" else "block"] for each in seed("get", kind, name, "-o", "json").items
        ]

    assert found("addresses", "node-1") == ["10.0.1.1", "10.0.1.2"]
    assert found("addresses", "b") == ["10.0.1.2"]
    assert found("addresses", "10.0.1.1") == ["10.0.1.1"]
    assert found("blocks", "node-2") == ["10.0.2.0/24"]
    assert found("blocks", "10.0.1.0/24") == ["10.0.1.0/24"]
    assert found("addresses", "node-2") == []


def test_an_ipv6_address_is_found_in_any_spelling(cli: Cli) -> None:
    cli("apply", "-f", DUAL)
    cli("allocate", "node-a", "web")

    assert [each["owner"] for each in cli("get", "address", "FD00:64:0::1", "-o", "json").items] == ["web"]


@pytest.mark.parametrize("kind", ["pool", "node", "block", "address"])
def test_what_is_not_there_is_a_sentence(seed: Cli, kind: str) -> None:
    answer = seed("get", kind, "absent")

    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith(f"ciliumipam: no {kind} 'absent'")


def test_pools_show_how_many_of_their_blocks_are_held(cli: Cli) -> None:
    cli("apply", "-f", DUAL)

    pools = {pool["name"]: pool for pool in cli("get", "pools", "-o", "json").items}

    assert pools["rack-a"]["blocks"] == {
        "ipv4": {"total": 256, "held": 2, "available": 254, "coolingAddresses": 0, "largestFree": 17, "fragmentation": 0.4961},
        "ipv6": {"total": 65536, "held": 2, "available": 65534, "coolingAddresses": 0, "largestFree": 49, "fragmentation": 0.5},
    }
    assert pools["rack-a"]["blockLength"] == {"ipv4": 24, "ipv6": 64}
    assert pools["rack-a"]["conflictsWith"] is None
    assert re.search(r"rack-a +10\.64\.0\.0/16, fd00:64::/48 +/24, /64 +2/256, 2/65536 ", cli("get", "pools").out)


def test_explain_says_why_a_node_has_what_it_has(seed: Cli) -> None:
    text = seed("explain", "node-1")
    value = seed("explain", "node-1", "-o", "json").json

    assert text.code == 0
    assert "10.0.1.0/24" in text.out
    assert value["node"] == "node-1"
    assert [line.strip() for line in value["lines"]] == [line.lstrip("├└─ ") for line in text.out.splitlines()]
    assert seed("explain", "absent").code == 3


def test_check_of_a_sound_store_counts_what_it_looked_at(seed: Cli) -> None:
    answer = seed("check")

    assert (answer.code, answer.err) == (0, "ciliumipam: no findings\n")
    assert answer.out.splitlines()[-1].startswith("checked: ")
    assert seed("check", "-o", "json").json["findings"] == []


@pytest.mark.parametrize(("severity", "code"), [("error", 1), ("unfinished", 0), ("notice", 0)])
def test_check_fails_only_for_errors(seed: Cli, monkeypatch: pytest.MonkeyPatch, severity: Any, code: int) -> None:
    from ciliumipam import audit  # noqa: PLC0415

    finding = audit.Finding(severity, what="a slot is torn", where="page \x1b[2J", repair="mend it")
    monkeypatch.setattr(audit, "audit", lambda _, **__: audit.Audit((finding,), {"pages": 3}))

    answer = seed("check")

    assert answer.code == code
    assert answer.out.splitlines()[1:] == [
        f"{severity:<10}  page \\x1b[2J  a slot is torn  mend it",
        "checked: 3 pages",
    ]


# ---------------------------------------------------------------------------------------------------- bad input

POOL = (
    "apiVersion: ciliumipam.io/v1alpha1\nkind: CIDRPool\nmetadata: {name: p}\nspec: {nodeSelector: {}, cidrs: [%s]}\n"
)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        (POOL % "10.0.0.300/24", "10.0.0.300/24"),
        (POOL % "10.0.0.1/24", "10.0.0.0/24"),
        (POOL % "0.0.0.0/0", "0.0.0.0/0"),
        (POOL % "''", "spec.cidrs[0]"),
        (POOL % "10.0.0.0/16, 10.0.1.0/24", "10.0.1.0/24 lies inside 10.0.0.0/16"),
        (POOL % "", "spec.cidrs"),
        (POOL % "10", "10"),
        (POOL.replace("cidrs", "cidr") % "10.0.0.0/16", "did you mean 'cidrs'"),
        (POOL.replace("name: p", "name: Pool_1") % "10.0.0.0/16", "Pool_1"),
        (POOL.replace("name: p", "name: 12") % "10.0.0.0/16", "12"),
        (POOL.replace("kind", "on") % "10.0.0.0/16", "kind"),
        (POOL.replace("{nodeSelector: {}", "{nodeSelector: {matchLabels: {a: on}}") % "10.0.0.0/16", "true"),
        ("- just\n- a list\n", "m.yaml:1"),
        ("just text", "m.yaml:1"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n", "Pod"),
        ("", "m.yaml: it is empty"),
    ],
    ids=short,
)
def test_a_bad_manifest_is_a_sentence_that_names_the_file_and_nothing_is_written(
    cli: Cli, tmp_path: Path, text: str, phrase: str
) -> None:
    (tmp_path / "m.yaml").write_text(text)

    answer = cli("apply", "-f", SEED, "-f", str(tmp_path / "m.yaml"))

    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert str(tmp_path / "m.yaml") in answer.err
    assert phrase in answer.err
    assert not cli.path.exists()


def test_pools_that_overlap_are_refused_together_and_leave_no_store_behind(cli: Cli, tmp_path: Path) -> None:
    other = (POOL % "10.0.1.0/24").replace("name: p", "name: q")
    (tmp_path / "m.yaml").write_text(f"{POOL % '10.0.0.0/16'}---\n{other}")

    answer = cli("apply", "-f", str(tmp_path / "m.yaml"))

    assert answer.code == 2
    assert "overlaps pool" in answer.err
    assert not cli.path.exists()


def test_manifests_come_from_standard_input_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((POOL % "10.9.0.0/16").encode())))

    assert cli("apply", "-f", "-").code == 0
    assert [pool["cidrs"] for pool in cli("get", "pools", "-o", "json").items] == [["10.9.0.0/16"]]


@pytest.mark.parametrize(
    ("arguments", "code", "phrase"),
    [
        (("allocate", "absent", "a"), 3, "no node 'absent'"),
        (("allocate", "node-1", "a", "a"), 2, "'a' is given twice"),
        (("allocate", "node-1", "a b"), 2, "owner id"),
        (("allocate", "node-1", ""), 2, "owner id"),
        (("allocate", "Node_1", "a"), 2, "node name"),
        (("allocate", "node-1", "a", "--address", "10.0.2.1"), 3, "10.0.1.0/24"),
        (("allocate", "node-1", "a", "--address", "10.0.1.255"), 3, "never handed out"),
        (("allocate", "node-1", "a", "--address", "10.0.1.9"), 3, "is held by owner 'holder' (default/holder)"),
        (("allocate", "node-1", "a", "--address", "10.0.1.256"), 2, "not an IP address"),
        (("allocate", "node-1", "a", "b", "--address", "10.0.1.10"), 2, "one owner"),
        (("allocate", "node-1", "a", "--address", "10.0.1.10", "--family", "6"), 2, "family"),
        (("allocate", "node-1", "a", "--family", "6"), 3, "IPv6"),
        (("allocate", "node-1", *(f"o-{n}" for n in range(254))), 4, "253 free IPv4 addresses, 254 wanted"),
        (("release", "node-1", "holder", "nobody"), 3, "nobody"),
        (("release", "node-2", "holder"), 3, "holder"),
        (("release", "--address", "10.0.1.10", "--force"), 3, "10.0.1.10"),
        (("release", "--address", "10.9.9.9", "--force"), 3, "10.9.9.9"),
        (("delete", "node", "absent"), 3, "no node 'absent'"),
        (("delete", "pool", "absent"), 3, "no pool 'absent'"),
    ],
    ids=short,
)
def test_what_is_not_possible_is_a_sentence_and_changes_nothing(
    seed: Cli, arguments: tuple[str, ...], code: int, phrase: str
) -> None:
    seed("allocate", "node-1", "holder", "--address", "10.0.1.9", "--label", "default/holder")
    before = seed.everything()

    answer = seed(*arguments)

    assert (answer.code, answer.out, answer.err.count("\n")) == (code, "", 1), answer.err
    assert phrase in answer.err
    assert seed.everything() == before


@pytest.mark.parametrize(
    "arguments",
    [(), ("frobnicate",), ("get", "pods"), ("apply",), ("get", "nodes", "-o", "xml"), ("get", "nodes", "--sto", "x")],
)
def test_unknown_words_are_bad_input(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert main(arguments) == 2
    assert "usage: ciliumipam" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--help",), ("apply", "--help"), ("--version",)])
def test_help_and_version_are_printed(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert main(arguments) == 0
    assert "ciliumipam" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- when the rim breaks


def failing(error: BaseException) -> Callable[[object], int]:
    def command(_: object) -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (
            KeyboardInterrupt(),
            130,
            "interrupted; what was written is complete in itself, and the same command goes on from there",
        ),
        (BrokenPipeError(), 141, None),
        (OSError(28, "No space left on device"), 74, "the output: No space left on device"),
        (
            ZeroDivisionError("by zero"),
            70,
            "internal error, please report it: ZeroDivisionError: by zero; 'python -X dev -m ciliumipam' instead of 'ciliumipam' shows where",
        ),
        (
            ModuleNotFoundError("No module named 'yaml'", name="yaml"),
            2,
            "this needs yaml, which comes with the extra 'cli': pip install 'ciliumipam[cli]'",
        ),
        (ModuleNotFoundError("No module named 'x'", name="x"), 70, None),
    ],
    ids=short,
)
def test_whatever_breaks_ends_in_a_sentence_and_its_own_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    sentence: str | None,
) -> None:
    monkeypatch.setattr(commands, "COMMANDS", {"check": failing(error)})

    assert main(["check"]) == code
    if sentence is not None:
        assert capsys.readouterr().err == f"ciliumipam: {sentence}\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_and_a_full_disk_leave_no_traceback(seed: Cli, unbuffered: str) -> None:
    def shell(text: str) -> subprocess.CompletedProcess[str]:
        line = text.format(f"{sys.executable} -m ciliumipam get nodes --store sqlite:{seed.path}")
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        return subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )

    gone, full, closed = shell("{} | true; exit ${{PIPESTATUS[0]}}"), shell("{} > /dev/full"), shell("{} >&-")

    assert gone.returncode in {0, 141}
    assert gone.stderr == ""
    assert (full.returncode, full.stderr) == (74, "ciliumipam: the output: No space left on device\n")
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize(("style", "module"), [("table", "tabulate"), ("yaml", "yaml")])
def test_without_the_extra_nothing_is_changed(
    seed: Cli, monkeypatch: pytest.MonkeyPatch, style: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    answer = seed("allocate", "node-1", "a", "-o", style)

    assert (answer.code, answer.err) == (
        2,
        f"ciliumipam: this needs {module}, which comes with the extra 'cli': pip install 'ciliumipam[cli]'\n",
    )
    assert seed("get", "addresses", "-o", "json").items == []


@pytest.mark.parametrize(
    ("since", "text"),
    [(0.0, "1970-01-01T00:00:00Z"), (1769860800.9, "2026-01-31T12:00:00Z"), (1e30, "1e+30 s after 1970")],
)
def test_a_time_is_utc_to_the_second(since: float, text: str) -> None:
    assert values.moment(since) == text


def test_what_a_terminal_would_obey_is_shown_as_an_escape() -> None:
    assert plain("web\x1b[31m\n\udc80é") == r"web\x1b[31m\n\udc80é"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (254, "254"), (2**32 - 1, "4294967295"), (2**64 - 2, "~2^64"), (2**64, "~2^64")]
)
def test_a_number_too_long_to_read_is_a_power_of_two(count: int, text: str) -> None:
    assert tables.size(count) == text
