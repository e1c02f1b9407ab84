"""What an import loads, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before), sep='\\n')"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("statement", ["import ciliumipam", "import ciliumipam.cli.main"])
def test_importing_the_package_loads_nothing_optional(statement: str) -> None:
    assert loaded_by(statement) & {"hypothesis", "netaddr", "pytest", "tabulate", "yaml"} == set()
