"""Every fenced block of README and docs is run, or read, or is exempt with a reason.

`python` blocks of one page run in one namespace, from top to bottom; those with `>>>` as doctests; one whose first line is `# name.py`
is written to that file, for the commands after it. `console` blocks are commands
after `$ ` with the output that they print, run in a home directory of the page's own; a line `...` stands for any lines, and times
are compared as times only. A control plane that a page starts runs until the page ends, and what it says to export holds for the
commands after it. `yaml` and `json` blocks parse, and what is a manifest is read as one.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ciliumipam.cli.input import read_documents
from ciliumipam.manifest import read_manifest
from ciliumipam.testing.control_plane import Binaries

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXEMPT = {
    ("README.md", "sh"): "sets up a virtual environment over the network; .ci/run extracts both blocks and runs them",
}
SHOWN_ONLY = {"text": "a picture or a formula", "mermaid": "a picture"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
SERVERS = "python -m ciliumipam.testing.control_plane"
EXPORT = re.compile(r"""^export (\w+)='?([^'"\n]*?)'?(:"\$PATH")?$""", re.MULTILINE)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    assert text.count("\n```") % 2 == 0, f"{page}: a fence is not closed"
    for match in FENCE.finditer(text):
        yield Block(str(page.relative_to(ROOT)), text.count("\n", 0, match.start()) + 2, match[1], match[2])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_does_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if SERVERS in page.read_text():
        binaries: Binaries = request.getfixturevalue("server_binaries")  # may skip
        for name, program in zip(("ETCD", "KUBE_APISERVER", "KUBECTL"), binaries, strict=True):
            monkeypatch.setenv(f"TEST_ASSET_{name}", str(program))
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{make_command(tmp_path)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("CILIUMIPAM_STORE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    namespace: dict[str, Any] = {"__name__": "__page__"}

    with ExitStack() as servers:
        servers.callback(end_operator, tmp_path / "operator.pid")
        for block in blocks(page):
            if block.text.startswith(f"$ {SERVERS}\n"):
                start_servers(block, tmp_path, monkeypatch, servers)
            elif (block.page, block.language) not in EXEMPT and block.language not in SHOWN_ONLY:
                run(block, namespace, tmp_path)


def run(block: Block, namespace: dict[str, Any], home: Path) -> None:
    if block.language == "python" and ">>>" in block.text:
        example = doctest.DocTestParser().get_doctest(block.text, namespace, block.page, block.page, block.line)
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, clear_globs=False)
        assert result.failed == 0, f"{block.page}:{block.line}"
        namespace.update(example.globs)
    elif block.language == "python" and (named := FILE.match(block.text)):
        (home / named[1]).write_text(block.text)
    elif block.language == "python":
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), namespace)  # noqa: S102 - that is the test
    elif block.language == "console":
        run_console(block, home)
    elif block.language in {"yaml", "json"}:
        file = home / f"block.{block.language}"
        file.write_text(block.text)
        for source, document in read_documents(str(file)):
            if isinstance(document, dict) and document.get("kind") in {"CIDRPool", "CiliumNodeConfig", "Node", "List"}:
                read_manifest(document, source)
    else:
        pytest.fail(f"{block.page}:{block.line}: a block in {block.language!r} is neither run nor exempt")


def run_console(block: Block, home: Path) -> None:
    commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not commands[0].strip(), f"{block.page}:{block.line}: a console block begins with a command after '$ '"
    for command in commands[1:]:
        lines = command.splitlines()
        count = next((n for n, line in enumerate(lines, 1) if not line.endswith("\\")), len(lines))
        told = subprocess.run(
            ["bash", "-c", "\n".join(lines[:count])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=home,
            timeout=120,
        ).stdout
        expected, found = normal("\n".join(lines[count:]), home), normal(told, home)
        assert re.fullmatch(pattern_of(expected), found), (
            f"{block.page}:{block.line}: $ {lines[0]}\nshown:\n{expected}\nprinted:\n{found}"
        )


def start_servers(block: Block, home: Path, monkeypatch: pytest.MonkeyPatch, until: ExitStack) -> None:
    """Start the control plane that a block starts, check what it says, and let it run."""
    command = [sys.executable, *SERVERS.split()[1:]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=home)
    until.callback(interrupt, process)
    assert process.stdout is not None
    expected = block.text.split("\n", 1)[1]
    last = expected.splitlines()[-1]
    told = "".join(iter(process.stdout.readline, f"{last}\n")) + last
    pattern = pattern_of(normal(expected, home)).replace(r"\.\.\.", ".*")  # ports and folders
    assert re.fullmatch(pattern, normal(told, home)), f"{block.page}:{block.line}: printed:\n{told}"
    for name, value, path in EXPORT.findall(told):
        monkeypatch.setenv(name, f"{value}{os.pathsep}{os.environ['PATH']}" if path else value)


def end_operator(pid: Path) -> None:
    """End what a page that failed left running."""
    if pid.exists():
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Press Ctrl-C."""
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


def pattern_of(expected: str) -> str:
    return r"\n".join(r"(?:.*\n)*.*" if line == "..." else re.escape(line) for line in expected.splitlines())


def normal(text: str, home: Path) -> str:
    """What does not change from run to run."""
    return TIME.sub("TIME", "\n".join(line.rstrip() for line in text.strip().splitlines())).replace(
        str(home), "/home/you"
    )


def make_command(home: Path) -> Path:
    """A folder with `ciliumipam` and `python` in it, of the tree and the interpreter under test."""
    folder = home / "bin"
    folder.mkdir()
    for name, arguments in (("ciliumipam", "-m ciliumipam "), ("python", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        script.chmod(0o755)
    return folder


def test_a_console_block_that_shows_something_else_is_found(tmp_path: Path) -> None:
    run_console(Block("page", 1, "console", "$ echo a; echo b\na\nb\n$ printf 'x\\ny\\nz\\n'\nx\n...\nz\n"), tmp_path)

    for shown in ("a\n", "a\nb\nc\n", "a\nx\n"):
        with pytest.raises(AssertionError):
            run_console(Block("page", 1, "console", f"$ echo a; echo b\n{shown}"), tmp_path)


def test_readme_opens_with_the_two_commands() -> None:
    first, second, *_ = blocks(ROOT / "README.md")

    assert (first.language, second.language) == ("sh", "sh")
    assert "ciliumipam apply -f docs/examples/seed" in first.text
    assert "pytest" in second.text
    assert sum(block.language == "sh" for block in blocks(ROOT / "README.md")) == 2, (
        "only the two set-up blocks are exempt"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", FENCE.sub("", page.read_text()))

    assert [link for link in links if not (page.parent / link).exists()] == []
