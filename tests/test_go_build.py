"""Building Go programs: once for each state of the sources, whoever asks, and with an error that helps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ciliumipam.testing.go_build import GoBuildError, GoMissingError, go_build, skip_reason

needs_go = pytest.mark.skipif(bool(skip_reason()), reason=skip_reason())

# print needs no package, so nothing of the standard library is compiled.
PROGRAM = 'package main\n\nvar word = "first"\n\nfunc main() { print(word) }\n'


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Go module with one program, and a cache of its own beside the Go command's usual one."""
    if not skip_reason():
        kept = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True).stdout.strip()
        monkeypatch.setenv("GOCACHE", kept)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "module"
    (folder / "say").mkdir(parents=True)
    (folder / "go.mod").write_text("module example/said\n\ngo 1.21\n")
    (folder / "say" / "main.go").write_text(PROGRAM)
    return folder


def said(program: Path) -> str:
    return subprocess.run([program], capture_output=True, text=True, check=True).stderr


@needs_go
def test_a_program_is_built_once_for_each_state_of_its_sources_and_flags(module: Path, tmp_path: Path) -> None:
    first = go_build(module, "./say")
    built = first.stat().st_mtime_ns

    assert said(first) == "first"
    assert first.is_relative_to(tmp_path / "cache" / "ciliumipam" / "go")
    assert go_build(module, "./say") == first
    assert first.stat().st_mtime_ns == built, "it was built again"

    flagged = go_build(module, "./say", flags=["-ldflags=-X main.word=flagged"])
    (module / "say" / "main.go").write_text(PROGRAM.replace("first", "second"))
    second = go_build(module, "./say")

    assert [said(program) for program in (first, flagged, second)] == ["first", "flagged", "second"]
    assert not list(module.rglob("say-*")), "nothing is written into the tree"
    assert go_build(module, "./say", name="speak").name.startswith("speak-")


@needs_go
def test_processes_that_ask_at_once_get_the_same_program(module: Path) -> None:
    code = f"from pathlib import Path; from ciliumipam.testing.go_build import go_build; print(go_build(Path({str(module)!r}), './say'))"
    asking = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate()[0].strip() for process in asking}

    assert [process.returncode for process in asking] == [0, 0, 0]
    assert answers == {str(go_build(module, "./say"))}
    assert said(Path(answers.pop())) == "first"


@needs_go
def test_what_does_not_compile_tells_what_the_compiler_said_and_leaves_nothing(module: Path, tmp_path: Path) -> None:
    (module / "say" / "main.go").write_text("package main\n\nfunc main() { missing() }\n")

    with pytest.raises(GoBuildError, match=r"(?s)go build .*undefined: missing"):
        go_build(module, "./say")

    assert [path for path in (tmp_path / "cache" / "ciliumipam").rglob("say*") if path.suffix != ".lock"] == []


def test_without_go_it_says_so_and_tests_are_skipped_unless_go_is_required(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CILIUMIPAM_REQUIRE_GO", raising=False)

    assert "no 'go' on PATH" in skip_reason()
    with pytest.raises(GoMissingError, match="no 'go' on PATH"):
        go_build(module, "./say")

    monkeypatch.setenv("CILIUMIPAM_REQUIRE_GO", "1")
    assert skip_reason() == ""
