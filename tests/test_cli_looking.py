"""What the command shows: every style of `get`, watching, trees, terminals, completion; and the work on whole stores."""

from __future__ import annotations

import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from ciliumipam import Allocate, Ipam, SqliteStore, Store
from ciliumipam.cli import watch
from ciliumipam.cli.main import main
from ciliumipam.cli.style import Style, write_document
from ciliumipam.cli.tree import as_tree
from ciliumipam.testing.faults import Crash, FaultyStore, crash_after

ROOT = Path(__file__).parent.parent
SEED = str(ROOT / "docs" / "examples" / "seed")
DUAL = str(ROOT / "docs" / "examples" / "dual-stack")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return [re.sub(" {2,}", " | ", TIME.sub("TIME", line.rstrip())) for line in self.out.splitlines()]


class Cli:
    """Runs the command on one store."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.store = folder, folder / "ipam.db"
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        code = main([*arguments, "--store", f"sqlite:{self.store}"])
        return Answer(code, *self._capsys.readouterr())

    def bare(self, *arguments: str) -> Answer:
        return Answer(main(arguments), *self._capsys.readouterr())

    def apply(self, text: str) -> Answer:
        (self.folder / "m.yaml").write_text(text)
        return self("apply", "-f", str(self.folder / "m.yaml"))


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, capsys)


@pytest.fixture
def seed(cli: Cli) -> Cli:
    assert cli("apply", "-f", SEED).code == 0
    return cli


@pytest.fixture
def dual(cli: Cli) -> Cli:
    assert cli("apply", "-f", DUAL).code == 0
    return cli


# ----------------------------------------------------------------------------------------------------- styles


def test_names_are_those_of_kubectl(seed: Cli) -> None:
    seed("allocate", "node-2", "web")

    assert seed("get", "nodes", "-o", "name").out == "node/node-1\nnode/node-2\n"
    assert seed("get", "pool", "node-2-ipam-config", "-o", "name").out == "pool/node-2-ipam-config\n"
    assert seed("get", "blocks", "node-1", "-o", "name").out == "block/10.0.1.0/24\n"
    assert seed("get", "addresses", "-o", "name").out == "address/10.0.2.1\n"
    assert seed("allocate", "node-1", "a", "-o", "name").out == "address/10.0.1.1\n"


def test_lists_are_items_and_a_template_sees_the_same_as_json(dual: Cli) -> None:
    value = dual("get", "nodes", "-o", "json").json

    assert [*value] == ["items"]
    assert yaml.safe_load(dual("get", "nodes", "-o", "yaml").out) == value
    names = dual("get", "nodes", "-o", 'jsonpath={range .items[*]}{.name}={.podCIDRs[0]}{"\\n"}{end}')
    assert names.out == "node-a=10.64.0.0/24\nnode-b=10.64.1.0/24\nnode-c=10.65.0.0/26\n"
    assert dual("get", "node", "node-a", "-o=jsonpath={.spec.ipam.podCIDRs[*]}").out == "10.64.0.0/24 fd00:64::/64"
    assert dual("allocate", "node-a", "x", "-o", "jsonpath={.items[*].address}").out == "10.64.0.11 fd00:64::1"
    assert dual("explain", "node-a", "-o", "jsonpath={.lines[0]}").out == "node node-a"


@pytest.mark.parametrize(
    ("style", "phrase"),
    [
        ("jsonpath", "needs a template"),
        ("jsonpath={.items", "at character 8"),
        ("jsonpath=.items", "nothing in braces"),
        ("json=x", "no such style 'json=x'"),
        ("xml", "known: table, wide, name, json, yaml, jsonpath=TEMPLATE"),
    ],
)
def test_a_style_that_is_none_is_bad_input_before_anything_is_read(cli: Cli, style: str, phrase: str) -> None:
    answer = cli("get", "nodes", "-o", style)

    assert (answer.code, answer.out) == (2, "")
    assert phrase in answer.err


def test_yaml_writes_a_value_out_each_time_since_our_own_reader_takes_no_alias(capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["x"]

    write_document(Style("yaml"), {"a": shared, "b": shared})

    assert capsys.readouterr().out == "a:\n- x\nb:\n- x\n"


def test_a_template_that_does_not_fit_is_bad_input(seed: Cli) -> None:
    answer = seed("get", "nodes", "-o", "jsonpath={.items[7].name}")

    assert (answer.code, answer.out) == (2, "")
    assert "there is no entry [7] in a list of 2" in answer.err


@pytest.mark.parametrize("command", [("explain", "node-1"), ("check",), ("delete", "node", "node-1"), ("completion", "bash")])
def test_a_style_that_a_command_has_not_is_refused_before_anything_is_done(seed: Cli, command: tuple[str, ...]) -> None:
    answer = seed(*command, "-o", "name")

    assert (answer.code, answer.out) == (2, "")
    assert f"{command[0]} cannot print 'name'" in answer.err
    assert len(seed("get", "nodes", "-o", "json").json["items"]) == 2


POOL = "apiVersion: ciliumipam.io/v1alpha1\nkind: CIDRPool\nmetadata: {name: %s}\nspec: {nodeSelector: {matchLabels: {rack: %s}}, %s}\n---\n"
NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: %s, labels: {rack: %s}}\n---\n"


def test_the_pool_that_ends_first_stands_first_with_a_bar_of_what_is_used(cli: Cli) -> None:
    text = POOL % ("a-roomy", "z", "cidrs: [10.3.0.0/16]") + POOL % ("half", "h", "cidrs: [10.2.0.0/23], priority: 3")
    text += POOL % ("z-full", "f", "cidrs: [10.1.0.0/24], draining: true") + NODE % ("n-1", "h")
    cli.apply(text.replace(", draining: true", "") + NODE % ("n-2", "f"))
    cli("drain", "pool", "z-full")

    table = cli("get", "pools")

    assert table.lines == [
        "NAME | CIDRS | BLOCK | BLOCKS HELD | USED | NODES | STATUS",
        "z-full | 10.1.0.0/24 | /24 | 1/1 | ██████████ 100% | rack=f | draining, full",
        "half | 10.2.0.0/23 | /24 | 1/2 | █████░░░░░ 50% | rack=h | ready",
        "a-roomy | 10.3.0.0/16 | /24 | 0/256 | ░░░░░░░░░░ 0% | rack=z | ready",
    ]
    wide = cli("get", "pools", "-o", "wide").lines
    assert wide[0].endswith("STATUS | SPACE | PRIORITY | DRAINING | AVAILABLE | COOLING | LARGEST FREE | FRAGMENTATION")
    assert wide[1].endswith("| default | 0 | yes | 0 | 0 | - | 0%")
    assert wide[2].endswith("| default | 3 | no | 1 | 0 | /24 | 0%")
    assert cli("get", "pools", "-o", "name").out == "pool/z-full\npool/half\npool/a-roomy\n"


def test_a_pool_is_shown_as_full_only_when_nothing_is_left(cli: Cli) -> None:
    nodes = "".join(NODE % (f"n-{number}", "a") for number in range(255))
    cli.apply(POOL % ("most", "a", "cidrs: [10.0.0.0/16]") + nodes)
    assert "█████████░ 99%" in cli("get", "pools").out

    cli.apply(NODE % ("last", "a"))

    assert "██████████ 100%" in cli("get", "pools").out


def test_concerns_about_pools_are_told_beside_the_table_and_inside_json(cli: Cli) -> None:
    cli.apply(POOL % ("small", "a", "cidrs: [10.0.0.0/24]") + NODE % ("n-1", "a") + NODE % ("n-2", "a"))

    table, value = cli("get", "pools"), cli("get", "pools", "-o", "json")

    (concern,) = value.json["items"][0]["concerns"]
    assert table.err == f"ciliumipam: pool small: {concern}\n"
    assert "selects 2" in concern
    assert value.err == ""


def test_nodes_and_blocks_show_orphans_draining_and_spaces(cli: Cli) -> None:
    cli.apply(POOL % ("lab", "a", "cidrs: [10.0.0.0/23], addressSpace: lab") + NODE % ("n-1", "a") + NODE % ("n-2", "a"))
    cli("allocate", "n-1", "web")
    cli("drain", "block", "10.0.0.0/24", "--space", "lab")
    assert cli("get", "blocks").lines[1].endswith("| draining, in space lab")
    assert cli("get", "nodes", "n-1").lines[1].endswith("| 1 block draining")
    assert cli("get", "nodes", "n-2", "-o", "wide").lines[1].endswith("| ready | - | lab | 0 | rack=a")
    cli("delete", "pool", "lab")

    assert cli("get", "nodes").lines[2].endswith("| 1 orphan")
    assert cli("get", "blocks").lines[2].endswith("| orphan: its pool is gone or no longer covers it, in space lab")
    assert cli("get", "blocks", "-o", "wide").lines[2].endswith("in space lab | lab | 0")
    node = cli("get", "nodes", "-o", "jsonpath={.items[?(@.name=='n-2')]}").json
    assert (node["orphans"], node["spaces"], node["draining"]) == (["10.0.1.0/24"], ["lab"], False)


# ------------------------------------------------------------------------------------------------------ trees


def test_lines_become_a_tree_at_any_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["node", "  a", "    a1", "      a1x", "    a2", "  b", "    b1"]

    assert as_tree(lines) == ["node", "├─ a", "│  ├─ a1", "│  │  └─ a1x", "│  └─ a2", "└─ b", "   └─ b1"]
    assert as_tree(["node"]) == ["node"]


def test_where_the_output_cannot_draw_a_tree_is_ascii_and_so_are_bars(seed: Cli) -> None:
    def run(*arguments: str) -> list[str]:
        command = [sys.executable, "-m", "ciliumipam", *arguments, "--store", f"sqlite:{seed.store}"]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()

    assert [line[:3] for line in run("explain", "node-1")] == ["nod", "|- ", "|- ", "`- "]
    assert "########## 100%" in run("get", "pools")[1]


# ------------------------------------------------------------------------------------------------------- watch


def script(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> list[float]:
    """Let something happen in each pause of a watch, and then interrupt it. Returns the lengths of the pauses."""
    waiting = iter(acts)
    pauses: list[float] = []

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        act = next(waiting, None)
        if act is None:
            raise KeyboardInterrupt
        act()

    monkeypatch.setattr(watch, "wait", wait)
    return pauses


def others(seed: Cli, act: Callable[[Ipam], object]) -> Callable[[], None]:
    """Something that another process does."""

    def run() -> None:
        with Ipam(SqliteStore(seed.store)) as ipam:
            act(ipam)

    return run


def test_a_watch_prints_everything_once_and_then_only_what_changes(seed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = script(
        monkeypatch,
        others(seed, lambda ipam: ipam.allocate("node-1", "web")),
        lambda: None,
        others(seed, lambda ipam: ipam.remove_node("node-2")),
        others(seed, lambda ipam: ipam.release("node-1", "web")),
    )

    answer = seed("get", "nodes", "--watch", "--interval", "7.5")

    assert answer.code == 130
    assert answer.err == ""
    assert answer.out.splitlines() == [
        "EVENT     NAME    POOL                PODCIDRS     ADDRESSES    IN USE    STATUS",
        "ADDED     node-1  node-1-ipam-config  10.0.1.0/24  -            0/254     ready",
        "ADDED     node-2  node-2-ipam-config  10.0.2.0/24  -            0/254     ready",
        "MODIFIED  node-1  node-1-ipam-config  10.0.1.0/24  10.0.1.1     1/254     ready",
        "DELETED   node-2  node-2-ipam-config  10.0.2.0/24  -            0/254     ready",
        "MODIFIED  node-1  node-1-ipam-config  10.0.1.0/24  -            0/254     ready",
    ]
    assert pauses == [7.5] * 5


def test_a_watch_for_programs_is_an_event_a_line(seed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    act = others(seed, lambda ipam: ipam.allocate("node-2", "web"))
    script(monkeypatch, act)
    events = [json.loads(line) for line in seed("get", "addresses", "-w", "-o", "json").out.splitlines()]
    assert [(each["type"], each["object"]["owner"]) for each in events] == [("ADDED", "web")]

    script(monkeypatch, others(seed, lambda ipam: ipam.release("node-2", "web")))
    told = seed("get", "addresses", "-w", "-o", 'jsonpath={.type} {.object.address}{"\\n"}')
    assert told.out == "ADDED 10.0.2.1\nDELETED 10.0.2.1\n"

    script(monkeypatch, act)
    documents = yaml.safe_load_all(seed("get", "blocks", "-w", "-o", "yaml").out)
    assert [(each["type"], each["object"]["utilization"]["inUse"]) for each in documents] == [("ADDED", 0), ("ADDED", 0), ("MODIFIED", 1)]

    script(monkeypatch, others(seed, lambda ipam: ipam.remove_pool("node-1-ipam-config")))
    assert seed("get", "pools", "-w", "-o", "name").out.splitlines()[-1] == "pool/node-1-ipam-config"


def test_what_is_watched_by_name_may_go_and_come_back(seed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def back() -> None:
        main(["apply", "-f", SEED, "--store", f"sqlite:{seed.store}", "-o", "jsonpath={.x}"])

    script(monkeypatch, others(seed, lambda ipam: ipam.remove_node("node-1")), back)

    told = seed("get", "node", "node-1", "-w", "-o", "jsonpath={.type} ").out

    assert told == "ADDED DELETED ADDED "
    assert seed("get", "node", "absent", "-w").code == 3


def test_a_row_that_is_longer_than_the_first_ones_pushes_the_others_aside(seed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, others(seed, lambda ipam: ipam.allocate("node-1", *(f"owner-{n}" for n in range(9)))))

    line = seed("get", "nodes", "-w").out.splitlines()[-1]

    assert re.sub(" {2,}", " | ", line) == (
        "MODIFIED | node-1 | node-1-ipam-config | 10.0.1.0/24 | 10.0.1.1, 10.0.1.2, 10.0.1.3 +6 more | 9/254 | ready"
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_an_interval_that_cannot_be_is_bad_input(seed: Cli, seconds: str) -> None:
    assert seed("get", "nodes", "-w", f"--interval={seconds}").code == 2


def test_an_interval_without_a_watch_means_nothing_and_is_refused(seed: Cli) -> None:
    assert seed("get", "nodes", "--interval", "3").code == 2


# --------------------------------------------------------------------------------------------------- terminals


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    variables = {**{key: value for key, value in os.environ.items() if key != "NO_COLOR"}, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ciliumipam", *arguments], stdout=theirs, stderr=theirs, env={**variables, **environment}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        shown += piece
        if not piece:
            break
    os.close(ours)
    process.wait()
    return shown.decode().replace("\r\n", "\n")


def test_colour_is_for_terminals_and_goes_with_no_color(cli: Cli) -> None:
    store = f"sqlite:{cli.store}"

    coloured = on_a_terminal("plan", "-f", SEED, "--store", store)
    bare = on_a_terminal("plan", "-f", SEED, "--store", store, NO_COLOR="1")
    dumb = on_a_terminal("plan", "-f", SEED, "--store", store, TERM="dumb")

    assert "\x1b[32m  + node   node-1 " in coloured
    assert "\x1b[32m" not in bare + dumb
    assert "  + node   node-1 " in bare
    assert "\x1b" not in dumb
    assert "\x1b" not in cli("plan", "-f", SEED).out


def test_progress_is_shown_on_a_terminal_only_and_wiped_away(seed: Cli) -> None:
    shown = on_a_terminal("copy", "--from", f"sqlite:{seed.store}", "--to", f"sqlite:{seed.folder}/copy.db")
    silent = seed.bare("copy", "--from", f"sqlite:{seed.store}", "--to", f"sqlite:{seed.folder}/other.db")

    assert re.search(r"\r\x1b\[K\d+ of \d+ records, 100%", shown)
    assert "\r\x1b[Kcopied: " in shown
    assert "\x1b" not in silent.err + silent.out


def test_a_bar_keeps_its_column_in_colour(seed: Cli) -> None:
    lines = on_a_terminal("get", "pools", "--store", f"sqlite:{seed.store}").splitlines()

    assert "\x1b[31m██████████ 100%\x1b[0m" in lines[1]
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in lines]
    assert plain[1].index("kubernetes.io") == plain[0].index("NODES")


# -------------------------------------------------------------------------------------------------- completion


def completions(line: str, store: Path, home: Path) -> list[str]:
    """What bash offers after a line, by the script that the command prints."""
    (home / "ciliumipam").write_text(f'#!/bin/sh\nexec {sys.executable} -m ciliumipam "$@"\n')
    (home / "ciliumipam").chmod(0o755)
    text = (
        'eval "$(ciliumipam completion bash)"; COMP_TYPE=9; COMP_POINT=${#COMP_LINE}; '
        'complete -p ciliumipam > /dev/null && _python_argcomplete ciliumipam; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {
        "PATH": f"{home}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CILIUMIPAM_STORE": f"sqlite:{store}", "COMP_LINE": line,
    }  # fmt: skip
    told = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True, env=environment)
    return [word.strip() for word in told.stdout.splitlines() if word.strip()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ciliumipam mi", ["migrate"]),
        ("ciliumipam get nodes ", ["node-1", "node-2"]),
        ("ciliumipam explain node-", ["node-1", "node-2"]),
        ("ciliumipam drain block ", ["10.0.1.0/24", "10.0.2.0/24"]),
        ("ciliumipam migrate node-1 --to node-2", ["node-2-ipam-config"]),
        ("ciliumipam release node-1 ", ["web"]),
        ("ciliumipam get nodes -o j", ["json", "jsonpath="]),
        ("ciliumipam get nodes --w", ["--watch"]),
        ("ciliumipam completion ", ["bash", "fish", "zsh"]),
        ("ciliumipam --store sqlite:/nowhere explain ", []),
    ],
)
def test_bash_completes_commands_options_and_the_names_in_the_store(seed: Cli, tmp_path: Path, line: str, words: list[str]) -> None:
    seed("allocate", "node-1", "web")

    assert sorted(completions(line, seed.store, tmp_path)) == words


@pytest.mark.parametrize(("shell", "phrase"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --command ciliumipam")])
def test_each_shell_gets_a_script_of_its_own(cli: Cli, shell: str, phrase: str) -> None:
    answer = cli.bare("completion", shell)

    assert (answer.code, answer.err) == (0, "")
    assert phrase in answer.out
    assert "ciliumipam" in answer.out


def test_completion_without_the_extra_is_a_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)

    answer = cli.bare("completion", "bash")

    assert answer.code == 2
    assert "pip install 'ciliumipam[cli]'" in answer.err


# ------------------------------------------------------------------------------------------------ check --repair


def crashed(path: Path) -> None:
    """Leave behind what an allocation leaves that died after its first write."""
    store: Store = SqliteStore(path)
    ipam = Ipam(FaultyStore(store, crash_after(1)), identity="crashed")
    with pytest.raises(Crash):
        ipam.allocate("node-1", "half")
    store.close()


def test_a_repair_finishes_what_a_crash_left_and_says_what_it_did(seed: Cli) -> None:
    crashed(seed.store)
    before = seed("check", "-o", "json").json["findings"]
    assert [each["severity"] for each in before] == ["unfinished"]

    repaired = seed("check", "--repair", "-o", "json")

    assert repaired.code == 0
    assert repaired.json["findings"] == []
    assert repaired.json["mended"] == before
    assert [change["action"] for change in repaired.json["changes"]] == ["repair"]
    assert seed("check", "-o", "json").json["findings"] == []


def test_a_repair_shows_what_it_did_and_what_it_mended(seed: Cli) -> None:
    crashed(seed.store)

    answer = seed("check", "--repair")

    assert answer.code == 0
    assert answer.lines[0].startswith(" | ~ address | 10.0.1.1 | of half: ")
    assert answer.lines[1] == "Done: 0 added, 1 changed, 0 removed"
    assert answer.lines[2].startswith("mended: owner half on node node-1: ")
    assert answer.lines[-1].startswith("checked: ")
    assert answer.err == "ciliumipam: no findings\n"


def test_what_no_repair_mends_is_told_before_the_error(seed: Cli) -> None:
    with closing(sqlite3.connect(seed.store)) as database:
        database.execute("UPDATE records SET body = 'torn' WHERE kind = 'block-page' AND name LIKE '10.%/18'")
        database.commit()

    answer = seed("check", "--repair")

    assert answer.code == 5
    assert "error" in answer.out
    assert "cannot be read" in answer.out
    assert "is corrupt" in answer.err


# ---------------------------------------------------------------------------------------------------------- copy


def test_a_copy_is_verified_and_goes_on_where_an_earlier_one_ended(seed: Cli) -> None:
    seed("allocate", "node-1", "web")
    other = seed.folder / "copy.db"
    words = ("copy", "--from", f"sqlite:{seed.store}", "--to", f"sqlite:{other}")

    first = seed.bare(*words)
    second = seed.bare(*words, "-o", "json")

    assert first.code == second.code == 0
    assert first.err == f"ciliumipam: created the store {other}\nciliumipam: no findings\n"
    assert first.lines[0] == "copied: 2 pool, 2 node, 4 block-page, 2 block-claims, 1 address-page, 1 address-claims, 0 lease"
    assert (second.json["written"], second.json["findings"], second.json["counts"]["addresses"]) == (0, [], 1)
    kept = [seed("get", kind, "-o", "json").out for kind in ("pools", "nodes", "blocks", "addresses")]
    seed.store = other
    assert [seed("get", kind, "-o", "json").out for kind in ("pools", "nodes", "blocks", "addresses")] == kept


def test_a_copy_into_a_store_that_is_in_use_changes_nothing(seed: Cli) -> None:
    target = f"sqlite:{seed.folder}/used.db"
    seed.bare("apply", "-f", DUAL, "--store", target)
    before = seed.bare("export", "--store", target)

    answer = seed.bare("copy", "--from", f"sqlite:{seed.store}", "--to", target)

    assert (answer.code, answer.out) == (3, "")
    assert "the target is not empty" in answer.err
    assert seed.bare("export", "--store", target) == before


@pytest.mark.parametrize(
    ("source", "target", "code", "phrase"),
    [
        ("sqlite:{db}", "sqlite:{db}", 2, "copy into another one"),
        ("sqlite:{db}", "sqlite:{dir}/../{name}/ipam.db", 2, "copy into another one"),
        ("sqlite:{dir}/absent.db", "sqlite:{dir}/new.db", 5, "absent.db"),
        ("{db}", "sqlite:{dir}/new.db", 2, "--from"),
        ("sqlite:{db}", "postgres:x", 2, "--to 'postgres:x' names no store"),
    ],
)
def test_a_copy_that_cannot_be_creates_nothing(seed: Cli, source: str, target: str, code: int, phrase: str) -> None:
    places = {"db": seed.store, "dir": seed.folder, "name": seed.folder.name}

    answer = seed.bare("copy", "--from", source.format(**places), "--to", target.format(**places))

    assert (answer.code, answer.out) == (code, "")
    assert phrase in answer.err
    assert not (seed.folder / "new.db").exists()


def test_a_copy_has_no_use_for_the_global_store(seed: Cli) -> None:
    assert seed("copy", "--from", f"sqlite:{seed.store}", "--to", f"sqlite:{seed.folder}/b.db").code == 2


def test_the_plan_of_a_store_does_not_fit_its_copy(seed: Cli) -> None:
    with Ipam(SqliteStore(seed.store)) as ipam:
        assert ipam.plan(Allocate("node-1", ("web",))).steps
    plan = seed("allocate", "node-1", "web", "--dry-run", "-o", "json").out
    (seed.folder / "plan.json").write_text(plan)
    seed.bare("copy", "--from", f"sqlite:{seed.store}", "--to", f"sqlite:{seed.folder}/b.db")

    seed.store = seed.folder / "b.db"

    assert seed("apply", "--plan", str(seed.folder / "plan.json")).code == 3
