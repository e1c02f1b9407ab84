"""What an import loads, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ciliumipam


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before), sep='\\n')"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("statement", ["import ciliumipam", "import ciliumipam.cli.main"])
def test_importing_the_package_loads_nothing_optional(statement: str) -> None:
    assert loaded_by(statement) & {"hypothesis", "netaddr", "pytest", "tabulate", "yaml"} == set()


def test_a_name_is_loaded_when_it_is_asked_for_and_nothing_else_with_it() -> None:
    assert {each for each in loaded_by("import ciliumipam") if each.startswith("ciliumipam")} == {"ciliumipam", "ciliumipam._version"}
    assert "ciliumipam.ipam" not in loaded_by("from ciliumipam import OneShot, SqliteStore")


def test_every_public_name_is_at_home_where_the_package_says() -> None:
    assert set(ciliumipam._HOMES) | {"__version__"} == set(ciliumipam.__all__) <= set(dir(ciliumipam))
    for name in ciliumipam.__all__:
        assert getattr(ciliumipam, name) is not None
    with pytest.raises(AttributeError, match="module 'ciliumipam' has no attribute 'Nothing'"):
        ciliumipam.Nothing  # type: ignore[attr-defined]  # noqa: B018 - that it is not there is the point
    everything: dict[str, object] = {}
    exec("from ciliumipam import *", everything)  # noqa: S102 - a star import stands at the top of a module only
    assert set(ciliumipam.__all__) <= everything.keys()


def test_a_one_shot_process_loads_only_what_a_call_needs() -> None:
    statement = "from ciliumipam.one_shot import OneShot; from ciliumipam.store.sqlite import SqliteStore"

    assert loaded_by(statement) & {"ast", "dataclasses", "hashlib", "inspect", "logging", "netaddr", "random", "sortedcontainers", "subprocess", "tempfile"} == set()
