"""Mutation testing: changes the code in small ways and looks whether the tests notice. Needs the extra `mutation`.

For each module that `mutation.toml` names, mutmut runs the module's own tests against every mutant. What survives is compared with
the list of equivalent mutants in that file. The command fails if a mutant survives that is not in the list, if the list has one
that does not survive, if an entry has no reason, or if fewer than 90 % are killed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "mutation.toml"
KILLED = (1, 3)
"""Exit codes of pytest: tests failed, or pytest itself did, since the module could not even be used."""
SURVIVED = (0, 33)
"""All tests passed, or no test calls the function."""
TIMED_OUT = (-24, 24, 36, 152, 255)
"""What mutmut notes for a mutant that it ended, because it ran far longer than the tests do."""
LEAST = 0.9


class Mutant(NamedTuple):
    """One that survived.

    Attributes:
        function: Qualified name inside the module.
        change: The lines that differ.
    """

    function: str
    change: str


class Outcome(NamedTuple):
    """What became of the mutants of a module; those that ran out of time count as killed."""

    total: int
    killed: int
    timed_out: Counter[Mutant]
    survivors: Counter[Mutant]


def run(module: str, tests: Sequence[str], work: Path, jobs: int) -> Outcome:
    """Mutate one module in a folder of its own; what an earlier run there killed is not tried again."""
    work.mkdir(parents=True, exist_ok=True)
    for name in ("ciliumipam", "tests"):
        if not (work / name).exists():
            (work / name).symlink_to(ROOT / name)
    head = "[tool.mutmut] # tests/mutation.py adds the module and its tests\n"
    only = f"{head}only_mutate = ['ciliumipam/{module}.py']\npytest_add_cli_args_test_selection = {list(tests)!r}\n"
    config = (ROOT / "pyproject.toml").read_text("utf-8").replace(head, only)
    (work / "pyproject.toml").write_text(config, "utf-8")
    meta = work / "mutants" / "ciliumipam" / f"{module}.py.meta"
    again = [name for name, code in _codes(meta).items() if code == 0] if meta.exists() else []
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs)]
    for arguments in ([], again)[: 2 if again else 1]:
        done = subprocess.run(
            [*command, *arguments],
            cwd=work,
            env=os.environ | {"HYPOTHESIS_PROFILE": "mutation"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{done.stdout[-4000:]}\nmutmut ended with {done.returncode} for {module}")
    return _outcome(module, meta)


def _codes(meta: Path) -> dict[str, int | None]:
    found: dict[str, int | None] = json.loads(meta.read_text("utf-8"))["exit_code_by_key"]
    return found


def _outcome(module: str, meta: Path) -> Outcome:
    codes = _codes(meta)
    odd = {name: code for name, code in codes.items() if code not in (*SURVIVED, *KILLED, *TIMED_OUT)}
    if odd:
        sys.exit(f"{module}: no verdict for {odd}")
    source = meta.with_suffix("").read_text("utf-8")
    functions = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    lines = source.splitlines()
    survivors: Counter[Mutant] = Counter()
    timed_out: Counter[Mutant] = Counter()
    for name, code in codes.items():
        if code not in KILLED:
            mangled = name.rpartition(".")[2]
            stem = mangled.rpartition("__mutmut_")[0]
            before, after = (_text(functions[each], lines) for each in (f"{stem}__mutmut_orig", mangled))
            function = stem.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
            found = timed_out if code in TIMED_OUT else survivors
            found[Mutant(function, _change(before, after))] += 1
    return Outcome(len(codes), len(codes) - survivors.total(), timed_out, survivors)


def _text(function: ast.FunctionDef, lines: list[str]) -> list[str]:
    """A function without its name, which is the mutant's."""
    found = lines[function.lineno - 1 : function.end_lineno]
    return [found[0].replace(function.name, ""), *found[1:]]


def _change(before: list[str], after: list[str]) -> str:
    found = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
    old, new = (" / ".join(line[2:].strip() for line in found if line[0] == sign) for sign in "-+")
    return f"{old} => {new}"


def compare(module: str, outcome: Outcome, listed: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong between the mutants that survived and those that may. On a busy machine one of these may run out of time."""
    wrong = [
        f"{module}: no reason is given for {entry['change']!r} in {entry['function']}"
        for entry in listed
        if not entry["reason"].strip()
    ]
    known = Counter(Mutant(entry["function"], entry["change"]) for entry in listed)
    wrong += [
        f"{module}: listed, but it does not survive: {mutant.change!r} in {mutant.function}"
        for mutant in sorted((known - outcome.survivors - outcome.timed_out).elements())
    ]
    for mutant in sorted((outcome.survivors - known).elements()):
        entry = "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in mutant._asdict().items())
        wrong.append(f'{module}: survives, kill it or list it:\n[[modules.{module}.equivalent]]\n{entry}\nreason = ""')
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Mutate, compare, print; 1 if something is wrong."""
    modules = tomllib.loads(LIST.read_text("utf-8"))["modules"]
    parser = argparse.ArgumentParser(description="Mutation testing of the modules that tests/mutation.toml names.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"all by default: {' '.join(modules)}")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default: 2)")
    parser.add_argument("--work", type=Path, help="keep what was found here, and try again only what survived or is new")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.modules) - set(modules))
    if unknown:
        parser.error(f"tests/mutation.toml does not name {', '.join(unknown)}")
    wrong: list[str] = []
    all_killed = all_mutants = 0
    with tempfile.TemporaryDirectory() as scratch:
        for module in options.modules or modules:
            begun = time.monotonic()
            work = (options.work or Path(scratch)) / module
            outcome = run(module, modules[module]["tests"], work, options.jobs)
            listed = modules[module].get("equivalent", [])
            wrong += compare(module, outcome, listed)
            all_killed += outcome.killed
            all_mutants += outcome.total
            print(
                f"{module:14} {outcome.killed:5} of {outcome.total:5} killed ({outcome.killed / outcome.total:6.1%}),"
                f" {outcome.timed_out.total():3} of them by time, {len(listed):3} listed as equivalent, {time.monotonic() - begun:6.0f} s",
                flush=True,
            )
    print(f"{'all':14} {all_killed:5} of {all_mutants:5} killed ({all_killed / all_mutants:6.1%})")
    if all_killed < LEAST * all_mutants:
        wrong.append(f"fewer than {LEAST:.0%} are killed")
    for each in wrong:
        print(f"\n{each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
