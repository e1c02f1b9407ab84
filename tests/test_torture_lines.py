"""JSON lines in both directions, processes that misbehave, and the command that tortures them."""

from __future__ import annotations

import io
import json
import re
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from ciliumipam.cli.main import main
from ciliumipam.errors import InvalidRequestError
from ciliumipam.testing.torture import (
    Allocate,
    CallFailedError,
    CallHungError,
    CallRefusedError,
    Claims,
    LinesAllocator,
    Open,
    RangeExhaustedError,
    Release,
    replay,
    serve,
    torture,
)
from ciliumipam.testing.torture.lines import read_claims, write_claims
from ciliumipam.testing.torture.ours import IpamAllocator, NodeAddresses
from ciliumipam.testing.torture.protocol import Address, Call, Exhausted, Given

ROOT = Path(__file__).parent.parent
OURS = [sys.executable, "-m", "ciliumipam.testing.torture"]
SMALL = ip_network("10.0.0.0/30")
HELLO = '{"protocol": 1, "claims": {}}'


@pytest.fixture(autouse=True)
def _package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def script(*answers: str, then: str = "cat >/dev/null") -> list[str]:
    """A shell that gives these answers to the first requests, whatever they are, and then does something else."""
    lines = "".join(f"read -r _; printf '%s\\n' '{answer}'; " for answer in answers)
    return ["sh", "-c", lines + then]


def test_every_call_goes_through_the_pipe_and_back() -> None:
    with LinesAllocator([*OURS, "ipam-memory"]) as allocator:
        assert allocator.name == "IpamAllocator"
        assert allocator.claims == IpamAllocator.claims
        assert allocator.open(SMALL) == [("10.0.0.1", "10.0.0.2")]
        assert allocator.allocate("a", None) == "10.0.0.1"
        assert allocator.another().allocate("b", ip_address("10.0.0.2")) == "10.0.0.2"
        with pytest.raises(RangeExhaustedError, match="has 0 free IPv4 addresses"):
            allocator.allocate("c", None)
        with pytest.raises(CallRefusedError, match="is held by owner 'b'"):
            allocator.allocate("c", ip_address("10.0.0.2"))
        allocator.restart()
        allocator.another().release("a", None)
        both = allocator.together([Call("allocate", "c"), Call("allocate", "b", None, 1)])
        assert both == [Given(ip_address("10.0.0.1")), Given(ip_address("10.0.0.2"))]
        none, same = allocator.together([Call("allocate", "d"), Call("allocate", "b", None, 1)])
        assert isinstance(none, Exhausted)
        assert same == Given(ip_address("10.0.0.2"))
        with pytest.raises(CallRefusedError, match="pool"):
            allocator.open(ip_network("0.0.0.0/0"))


def test_in_our_own_allocators_nothing_is_found_through_the_pipe() -> None:
    with LinesAllocator([*OURS, "node"]) as allocator:
        report = torture(allocator, seed=3, steps=1000)

    assert report.ok, str(report)
    assert report.steps == 1000


class Talkative(NodeAddresses):
    """Prints, which must not get between the answers; and fails on an owner."""

    closed = False

    def allocate(self, owner: str, address: Address | None) -> Address:
        print("allocating for", owner)  # noqa: T201 - that is what it is for
        if owner == "broken":
            raise ZeroDivisionError("a tenth of nothing")
        return super().allocate(owner, address)

    def close(self) -> None:
        self.closed = True


def test_a_server_answers_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    requests = [
        {"do": "hello", "protocol": 1},
        {"do": "open", "network": "fd00::/126"},
        {"do": "allocate", "owner": "a"},
        {"do": "allocate", "owner": "a", "address": "fd00::2"},
        {"do": "allocate", "owner": "broken"},
        {"do": "release", "owner": "a"},
        {"do": "restart"},
        {"do": "dance"},
    ]
    allocator, answers = Talkative(), io.StringIO()

    serve(allocator, requests=io.StringIO("".join(json.dumps(each) + "\n" for each in requests) + "no JSON\n"), answers=answers)

    hello, *others, dance, none = map(json.loads, answers.getvalue().splitlines())
    assert hello == {"protocol": 1, "name": "Talkative", "claims": write_claims(NodeAddresses.claims) | {"families": [4, 6]}}
    assert others == [
        {"offer": [["fd00::1", "fd00::2"]]},
        {"address": "fd00::1"},
        {"refused": "owner 'a' already holds fd00::1, so it cannot get fd00::2 as well; release the first"},
        {"failed": "ZeroDivisionError: a tenth of nothing"},
        {"done": True},
        {"done": True},
    ]
    assert dance == {"failed": 'there is no such request as {"do": "dance"}'}
    assert "JSONDecodeError" in none["failed"]
    assert capsys.readouterr().err.startswith("allocating for a\n")
    assert allocator.closed


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["./there-is-no-such-program"], "cannot be started: No such file"),
        (["sh", "-c", "echo first >&2; echo second >&2; exit 3"], "exit code 3 instead of answering .* first |     second"),
        (["sh", "-c", "kill -9 $$"], "it was killed by SIGKILL instead"),
        (["sh", "-c", "exec >&-; sleep 60"], "it closed its standard output instead"),
        (script("hello there"), "answered 'hello there', which is no JSON"),
        (script("[1]"), r"answered \[1\], which is no JSON object"),
        (script('{"protocol": 2}'), "it speaks protocol 2, and this is 1"),
        (script('{"claims": {}}'), "it speaks protocol None"),
        (script('{"protocol": 1, "claims": {"flies": true}}'), "claims 'flies', which is no claim; known: again, cools, families"),
        (script('{"protocol": 1, "claims": {"release_by": "owner"}}'), "which is no claim"),
        (script('{"protocol": 1, "claims": {"again": "never"}}'), '"same", "another", "refused"'),
        (script('{"protocol": 1, "claims": {"given": 1}}'), "claims given 1; known: true, false"),
        (script('{"protocol": 1, "claims": {"families": [5]}}'), r"families \[5\]; known: a list of 4, 6"),
        (script('{"protocol": 1, "claims": 7}'), "its claims are 7"),
    ],
)
def test_a_command_that_does_not_shake_hands_is_an_error_that_says_why(command: list[str], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        LinesAllocator(command)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (['{"offer": 3}'], "answered open without"),
        (['{"offer": [["10.0.0.1"]]}'], "answered open without"),
        (['{"offer": []}', '{"done": true}'], "in which there is no address"),
        (['{"offer": []}', '{"address": 5}'], "in which there is no address"),
        (['{"offer": []}', '{"failed": "on fire"}'], "on fire"),
        (['{"offer": []}', "Segmentation fault"], "which is no JSON; standard output is for answers"),
    ],
)
def test_an_answer_of_another_form_is_a_failed_call(answers: list[str], says: str) -> None:
    with LinesAllocator(script(HELLO, *answers)) as allocator:
        report = replay(allocator, [Open(SMALL), Allocate("a")])

    assert report.fault is not None
    assert report.fault.broken == "failed"
    assert says in report.fault.sentence


def test_a_release_and_calls_at_once_have_answers_of_their_own() -> None:
    with LinesAllocator(script(HELLO, '{"address": "10.0.0.1"}', '{"answers": []}', '{"answers": [3, {"done": 1}]}')) as allocator:
        with pytest.raises(CallFailedError, match=re.escape('and not by {"done": true}')):
            allocator.release("a", None)
        with pytest.raises(CallFailedError, match="of 2"):
            allocator.together([Call("allocate", "a"), Call("release", "b", None, 1)])
        one, two = allocator.together([Call("allocate", "a"), Call("release", "b", None, 1)])
        assert str(one) == "failed: it answered 3, which is no JSON object"
        assert str(two) == 'failed: it answered release by {"done": 1} and not by {"done": true}'


def test_a_process_that_does_not_answer_is_ended_and_the_next_open_starts_another() -> None:
    sleeps = script(HELLO, then="""read -r _; echo working >&2; echo '{"offer": []}'; sleep 60""")
    with LinesAllocator(sleeps) as allocator:
        allocator.open(SMALL)
        allocator._timeout = 0.3  # a start may take longer
        with pytest.raises(CallHungError, match=r"no answer to .* within 0.3 s; the last lines of its standard error:\n    working"):
            allocator.allocate("a", None)
        with pytest.raises(CallFailedError, match="it has ended"):
            allocator.allocate("a", None)
        allocator._timeout = 10
        assert allocator.open(SMALL) == []
        allocator._timeout = 0.3  # the end waits as long


def test_a_death_in_the_middle_is_a_fault_with_the_last_words() -> None:
    dies = script(HELLO, '{"offer": [["10.0.0.1", "10.0.0.2"]]}', then='read -r _; echo "panic: slice" >&2; exit 2')
    with LinesAllocator(dies) as allocator:
        report = replay(allocator, [Open(SMALL), Allocate("a"), Release("a")])

    assert report.fault is not None
    assert report.fault.broken == "failed"
    assert "exit code 2" in report.fault.sentence
    assert "panic: slice" in report.fault.sentence
    assert len(report.fault.steps) == 2


def test_claims_are_read_as_they_are_written() -> None:
    for claims in (Claims(), Claims(again="another", release_by="both", given=True, writers="turns", cools=True, families=(6,))):
        assert read_claims(json.loads(json.dumps(write_claims(claims)))) == claims


# ----------------------------------------------------------------------------------------------------- the command


FORGETFUL = """
    def restart(self):
        self.open(self._network)
"""
REFUSING = """
    def open(self, network):
        raise CallRefusedError(f"{network} is mine")
"""


def program(tmp_path: Path, change: str) -> list[str]:
    """A program that serves our allocator with something else in it."""
    path = tmp_path / "program.py"
    path.write_text(
        "from ciliumipam.testing.torture import CallRefusedError, serve\n"
        "from ciliumipam.testing.torture.ours import NodeAddresses\n\n\n"
        f"class Changed(NodeAddresses):{change}\n\nserve(Changed())\n"
    )
    return [sys.executable, str(path)]


def test_the_command_finds_a_fault_and_replays_it_from_its_own_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = program(tmp_path, FORGETFUL)

    assert main(["torture", "--seed", "4", "--steps", "500", "--range", "10.0.0.0/29", "--range", "fd00::/125", "--", *command]) == 1
    found = capsys.readouterr().out
    assert "broken: an address that somebody holds is given to nobody else (duplicate)" in found
    assert "\nthe same hunt: ciliumipam torture --seed 4 --steps 500 --range 10.0.0.0/29 --range fd00::/125 -- " in found
    (tmp_path / "found.txt").write_text(found)

    assert main(["torture", "--replay", str(tmp_path / "found.txt"), "-o", "json", "--", *command]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["fault"]["broken"] == "duplicate"
    assert [step["do"] for step in document["fault"]["steps"]] == ["open", "allocate", "restart", "allocate"]
    (tmp_path / "found.json").write_text(json.dumps(document))

    assert main(["torture", "--replay", str(tmp_path / "found.json"), "--", *command]) == 1
    assert "once more: ciliumipam torture --replay" in capsys.readouterr().out
    assert main(["torture", "--replay", str(tmp_path / "found.txt"), "--", *OURS, "node"]) == 0
    assert "nothing found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "5"], "the following arguments are required: -- COMMAND"),
        (["--steps", "0", "--", "true"], "'0' is not a whole number from 1 on"),
        (["--range", "10.0.0.1/8", "--", "true"], "has host bits set"),
        (["--range", "10.0.0.0/8", "--store", "sqlite:x", "--", "true"], "torture works on no store"),
        (["--replay", "/nowhere", "--", "true"], "/nowhere cannot be read"),
        (["--", "true"], "true: it ended with exit code 0 instead of answering"),
    ],
)
def test_bad_input_of_the_command_is_a_sentence_and_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["torture", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_an_allocator_that_serves_no_range_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["torture", "--range", "10.0.0.0/30", "--", *program(tmp_path, REFUSING)]) == 2
    assert "Changed serves none of the ranges (10.0.0.0/30: 10.0.0.0/30 is mine)" in capsys.readouterr().err
