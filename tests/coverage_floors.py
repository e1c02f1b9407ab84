"""What the last measured run of the tests covered: each floor with its figure, and 1 as the exit code below one.

`.venv/bin/python -m coverage run -m pytest -q -n auto && .venv/bin/python tests/coverage_floors.py` measures and tells. The pure core
is what pyproject.toml's contract of it lists, so that a module which joins it has to be covered at once.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).parent.parent
CORE = "What decides does no I/O"


def core_files(pyproject: Path) -> list[str]:
    """The files of the modules and packages that the contract of the pure core lists."""
    contracts = tomllib.loads(pyproject.read_text())["tool"]["importlinter"]["contracts"]
    (core,) = (contract for contract in contracts if contract["name"].startswith(CORE))
    paths = [pyproject.parent.joinpath(*module.split(".")) for module in core["source_modules"]]
    files = [str(path / "*" if path.is_dir() else path.with_suffix(".py")) for path in paths]
    assert all(path.is_dir() or path.with_suffix(".py").is_file() for path in paths), f"{pyproject} lists what is not there"
    return files


def main() -> int:
    """Print what is missing and how each floor stands."""
    measured = Coverage(data_file=str(ROOT / ".coverage"), config_file=str(ROOT / "pyproject.toml"))
    measured.combine(strict=True)
    measured.save()
    below = 0
    for name, include, floor in (("the pure core", core_files(ROOT / "pyproject.toml"), 100.0), ("ciliumipam", None, 95.0)):
        covered = measured.report(include=include)
        below += covered < floor
        sys.stdout.write(f"{name}: {covered:.2f} % of lines and branches, the floor is {floor:g} %\n\n")
    return min(below, 1)


if __name__ == "__main__":
    sys.exit(main())
