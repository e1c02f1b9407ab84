"""Builds programs written in Go into a cache, for tests and benchmarks that run real peers and real servers.

A program is built out of a Go module of ours, whose `go.mod` and `go.sum` pin every version: a package of that module (`./race`) or
of one that it requires (`github.com/owner/name/cmd/tool`, named by a `tool` line or by an import, so that its checksums are kept).
The Go command fetches what is missing through its module proxy. Built files lie in `$XDG_CACHE_HOME/ciliumipam/go`, else in
`~/.cache/ciliumipam/go`, under a name that changes with whatever could change the program; deleting that folder is always safe.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

REQUIRED = "CILIUMIPAM_REQUIRE_GO"
SETTINGS = ("GOVERSION", "GOOS", "GOARCH", "GOFLAGS")


class GoBuildError(RuntimeError):
    """A program was not built; the text says what the Go command said."""


class GoMissingError(GoBuildError):
    """There is no Go command."""


def skip_reason() -> str:
    """Why a test that builds Go programs is skipped here; empty where it has to run.

    With `CILIUMIPAM_REQUIRE_GO` set it always has to, so that a machine without Go fails instead of proving nothing.
    """
    if os.environ.get(REQUIRED) or shutil.which("go"):
        return ""
    return f"there is no 'go' on PATH to build this with ({REQUIRED}=1 makes that a failure)"


def go_build(module: Path, package: str, *, flags: Sequence[str] = (), name: str = "") -> Path:
    """Build one program, or find it in the cache.

    Several processes may ask at once: one builds, the others wait for it.

    Args:
        module: The folder of the Go module, with `go.mod` and `go.sum`.
        package: `./folder` of that module, or the import path of a package of a required one.
        flags: More arguments for `go build`, such as `-ldflags=-X main.version=1`.
        name: What the program's file is called, where the last part of `package` does not say it (`.../etcd/server/v3`).

    Returns:
        The path of the program.

    Raises:
        GoMissingError: There is no Go command.
        GoBuildError: The Go command failed.
    """
    name = name or package.rpartition("/")[2]
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"{name}-{_digest(module, package, flags)}"
    with (cache / f"{program.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                built = Path(folder) / name
                _go(module, "build", "-buildvcs=false", "-trimpath", *flags, "-o", str(built), package)
                built.replace(program)
    return program


def _cache() -> Path:
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "ciliumipam" / "go"


def _digest(module: Path, package: str, flags: Sequence[str]) -> str:
    """Stands for everything that the program is made of."""
    sources = [module / "go.mod", module / "go.sum"]
    if package.startswith("."):
        sources += sorted(module.rglob("*.go"))
    settings = json.loads(_go(module, "env", "-json", *SETTINGS))
    digest = hashlib.sha256(json.dumps([package, list(flags), settings], sort_keys=True).encode())
    for source in sources:
        if source.exists():
            content = source.read_bytes()
            digest.update(f"\n{source.relative_to(module).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:20]


def _go(module: Path, *arguments: str) -> str:
    """What the Go command printed, run in the module's folder."""
    command = shutil.which("go")
    if command is None:
        raise GoMissingError(
            f"{' '.join(('go', *arguments))}: there is no 'go' on PATH. Install Go, or add its folder to PATH; what is needed is in {module / 'go.mod'}."
        )
    # Programs without cgo run wherever they are copied, and need no C compiler.
    environment = {"CGO_ENABLED": "0", **os.environ}
    done = subprocess.run(  # noqa: S603 - arguments come from the caller's code
        [command, *arguments], cwd=module, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise GoBuildError(f"{' '.join(('go', *arguments))} failed in {module}:\n{done.stderr.strip()}")
    return done.stdout
