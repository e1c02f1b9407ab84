"""`.venv/bin/python tests/measure_coverage.py`: run all tests, say which lines and branches they miss, end with 1 below a floor.

The pure core, which has to be covered wholly, is what pyproject.toml's contract of it lists: a module that joins it needs its tests at
once. Hypothesis tries few examples, the same ones in every run: what only chance reaches does not count, and tracing costs less.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from math import floor
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).parent.parent
CORE = "What decides does no I/O"
FLOORS = {"the pure core": 100.0, "ciliumipam": 95.0}


def core_files() -> list[str]:
    """The files of the modules and packages that the contract of the pure core lists."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (core,) = (contract for contract in contracts if contract["name"].startswith(CORE))
    paths = [ROOT.joinpath(*module.split(".")) for module in core["source_modules"]]
    return [str(path / "*" if path.is_dir() else path.with_suffix(".py")) for path in paths]


def floor_of(percent: float) -> float:
    """With two decimals, and never rounded up: 99.999 % is not all."""
    return floor(percent * 100) / 100


def main(arguments: list[str]) -> int:
    """Args: `arguments` are pytest's; without any, all tests run, a process a core."""
    os.chdir(ROOT)
    measured = Coverage()
    measured.erase()
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", *(arguments or ["-q", "-n", "auto"])]
    failed = subprocess.run(command, env={**os.environ, "HYPOTHESIS_PROFILE": "few"}, check=False).returncode
    measured.combine(strict=True)
    measured.save()
    told = []
    for name, least in FLOORS.items():
        covered = measured.report(include=core_files() if least == 100 else None)
        told.append(f"{name}: {floor_of(covered):.2f} % of lines and branches, at least {least:g} % wanted\n")
        failed = failed or covered < least
    sys.stdout.writelines(told)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
