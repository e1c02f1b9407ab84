"""`ciliumipam agent` as a process, and the commands that a node's demand has: options, endings, health, a crash and what is there after it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from ciliumipam import Ipam, Node, NodeSelector, PoolSpec, SqliteStore
from ciliumipam.cli.main import main
from ciliumipam.demand import Demand
from ciliumipam.lease import lease_key
from ciliumipam.records import Lease

Get = Callable[[str], tuple[int, str]]


@pytest.fixture
def shared(tmp_path: Path) -> str:
    """The store in which blocks are decided: room for four, and a node."""
    with Ipam(SqliteStore(tmp_path / "shared.db")) as ipam:
        everybody = NodeSelector.everything()
        ipam.apply([PoolSpec(name="pods", cidrs=["10.0.0.0/26"], selector=everybody, block_length_v4=28)], [Node("n1")])
    return f"sqlite:{tmp_path / 'shared.db'}"


@pytest.fixture
def own(tmp_path: Path) -> str:
    """The node's own store."""
    return f"sqlite:{tmp_path / 'node.db'}"


@contextmanager
def running(shared: str, own: str) -> Iterator[tuple[subprocess.Popen[str], Get]]:
    """An agent, and how to ask for its health."""
    command = [sys.executable, "-m", "ciliumipam", "agent", "n1", "--store", shared, "--local", own, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = next(found[1] for line in process.stderr if (found := re.search(r"listening port=(\d+)", line)))

        def get(path: str) -> tuple[int, str]:
            try:
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        yield process, get
    finally:
        process.kill()
        process.communicate(timeout=60)


def until_ready(process: subprocess.Popen[str], get: Get) -> None:
    """Read what the agent logs until it has a block."""
    assert process.stderr is not None
    while get("/readyz")[0] != 200:
        assert process.stderr.readline(), "it ended"


def test_an_agent_says_how_it_is_and_ends_well_when_it_is_told_to(shared: str, own: str) -> None:
    with running(shared, own) as (process, get):
        until_ready(process, get)
        assert get("/healthz") == (200, "running\n")
        assert get("/readyz") == (200, "the node gives out addresses\n")
        status, metrics = get("/metrics")
        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=60) == 0
        assert status == 200
        assert "ciliumipam_" in metrics


def test_an_agent_that_was_killed_goes_on_with_the_addresses_that_are_held(shared: str, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    with running(shared, own) as (process, get):
        until_ready(process, get)
        assert main(["allocate", "n1", "o1", "--store", own, "-o", "name"]) == 0
        first = capsys.readouterr().out
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
    with running(shared, own) as (process, get):
        until_ready(process, get)
        assert main(["allocate", "n1", "o1", "--store", own, "-o", "name"]) == 0
        assert capsys.readouterr().out == first == "address/10.0.0.1\n"
    assert main(["check", "--store", own]) == 0
    assert main(["check", "--store", shared]) == 0
    capsys.readouterr()
    assert main(["get", "blocks", "--store", own, "-o", "json"]) == 0
    blocks = [(block["node"], block["block"]) for block in json.loads(capsys.readouterr().out)["items"]]
    # with an address in use it asks for more than a block has; whether that was adopted before it was killed is left to chance
    assert blocks in ([("n1", "10.0.0.0/28")], [("n1", "10.0.0.0/28"), ("n1", "10.0.0.16/28")])


def test_check_on_a_nodes_own_store_says_that_its_lease_has_ended_and_what_to_do(shared: str, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "n1", "--once", "--store", shared, "--local", own]) == 0
    assert main(["allocate", "n1", "o1", "--store", own]) == 0
    assert main(["get", "nodes", "--store", own]) == 0
    capsys.readouterr()
    assert main(["check", "--store", own]) == 0
    assert "gives out no address" not in capsys.readouterr().out
    with SqliteStore(own.removeprefix("sqlite:")) as store:
        entry = store.get(lease_key("n1"))
        assert entry is not None
        assert isinstance(entry.record, Lease)
        store.put(lease_key("n1"), entry.record._replace(boot="another"), expect=entry.revision)

    assert main(["check", "--store", own]) == 0
    said = capsys.readouterr().out
    assert "it gives out no address: since its blocks were last confirmed this machine was started" in said
    assert "see that 'ciliumipam agent n1' runs" in said
    assert main(["allocate", "n1", "o2", "--store", own]) == 3
    assert main(["get", "nodes", "--store", own, "-o", "json"]) == 0
    (node,) = json.loads(capsys.readouterr().out)["items"]
    assert node["name"] == "n1"


def test_a_block_that_is_not_needed_is_handed_back_by_command(shared: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["request", "n1", "20", "--store", shared]) == 0
    assert main(["request", "n1", "0", "--store", shared]) == 0
    capsys.readouterr()

    assert main(["hand-back", "n1", "10.0.0.16/28", "--store", shared]) == 0

    assert "10.0.0.16/28" in capsys.readouterr().out
    assert main(["get", "blocks", "--store", shared, "-o", "json"]) == 0
    assert [each["block"] for each in json.loads(capsys.readouterr().out)["items"]] == ["10.0.0.0/28"]
    assert main(["hand-back", "n1", "10.0.0.16/28", "--store", shared]) == 3


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--listen", "nowhere"], 2),
        (["--stop-after", "60", "--return-after", "100"], 2),
        (["--local", "kubernetes:"], 2),
        (["--spare", "-1"], 2),
    ],
)
def test_options_that_cannot_be_are_refused(shared: str, own: str, options: list[str], code: int) -> None:
    local = [] if "--local" in options else ["--local", own]
    try:
        found = main(["agent", "n1", "--once", "--store", shared, *local, *options])
    except SystemExit as end:
        found = end.code if isinstance(end.code, int) else 1

    assert found == code


def test_a_node_that_the_source_does_not_know_is_told_by_the_exit_code(shared: str, own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "n9", "--once", "--store", shared, "--local", own]) == 3
    assert "n9" in capsys.readouterr().out


def test_request_and_hand_back_move_a_block_and_refuse_what_is_needed(shared: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = SqliteStore(shared.removeprefix("sqlite:"))
    ipam = Ipam(store)

    assert main(["request", "n1", "20", "--store", shared]) == 0
    assert "asks for 20 IPv4 addresses" in capsys.readouterr().out
    assert [str(block.prefix) for block in ipam.blocks()] == ["10.0.0.0/28", "10.0.0.16/28"]
    assert main(["hand-back", "n1", "10.0.0.16/28", "--store", shared]) == 3
    assert main(["request", "n1", "14", "--pool", "pods", "--family", "4", "--store", shared]) == 0
    assert main(["hand-back", "n1", "10.0.0.16/28", "--store", shared]) == 3
    ipam.refresh()
    assert ipam.nodes()[0].demand[-1] == Demand("pods", 4, 14)
    store.close()
