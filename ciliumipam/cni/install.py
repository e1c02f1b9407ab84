"""The executable in a CNI bin directory: a few lines that begin the plugin with the interpreter and the packages that it is installed with.

Runtimes find a plugin by its file name and run it as it is, so the lines name everything absolutely. The interpreter begins with `-I` (no
environment variable and no folder of the caller changes what is loaded) and `-S` (no `site`, so no .pth files, each of which a pod would
wait for), and the packages' folders are named instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ciliumipam._version import __version__
from ciliumipam.errors import InvalidRequestError

NAME = "ciliumipam-cni"
MARK = "# ciliumipam-cni: written by 'ciliumipam-cni install'; by this line it may overwrite the file."
_LONGEST_FIRST_LINE = 127  # what every kernel reads of it


def script() -> str:
    """What the executable says. A process that ends after one call has no use for a collector, which takes 3 ms of it."""
    first = f"#!{sys.executable} -IS"
    if len(first.encode()) > _LONGEST_FIRST_LINE or any(each.isspace() for each in sys.executable):
        # Shell and Python read these lines each in its own way, as the scripts of pip do
        quoted = "'" + sys.executable.replace("'", "'\"'\"'") + "'"
        first = f"#!/bin/sh\n'''exec' {quoted} -IS \"$0\" \"$@\"\n' '''"
    return f"{first}\n{MARK}\n# ciliumipam {__version__}\nimport gc, sys\ngc.disable()\nsys.path[:0] = {_folders()!r}\nfrom ciliumipam.cni.plugin import main\nmain()\n"


def install(directory: Path, name: str = NAME) -> str:
    """Write the executable, try it, and put it in place; an older one of ours is replaced at once, for calls that begin meanwhile.

    Returns:
        What was done, as a sentence.

    Raises:
        InvalidRequestError: There is no such directory, it cannot be written, what is there is not ours, or what was written does not run.
    """
    if not directory.is_dir():
        raise InvalidRequestError(f"{directory} is no directory; name the one in which the runtime looks for plugins, as /opt/cni/bin")
    target = directory.absolute() / name
    if target.is_symlink() or (target.exists() and MARK.encode() not in target.read_bytes()[:4096]):
        raise InvalidRequestError(f"{target} was not written by 'ciliumipam-cni install'; move it away, or choose another --name")
    replaced = target.exists()
    fresh = target.with_name(f".{name}.{os.getpid()}")
    try:
        fresh.write_text(script())
        fresh.chmod(0o755)
        answer = _tried(fresh)
        fresh.replace(target)
    except OSError as error:
        raise InvalidRequestError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return f"{'replaced' if replaced else 'wrote'} {target}: ciliumipam {__version__}, run by {sys.executable}; it answers {answer}"


def _tried(program: Path) -> str:
    environment = {"CNI_COMMAND": "VERSION", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(  # noqa: S603 - the file that was just written
        [program], input='{"cniVersion": "1.1.0"}', env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise InvalidRequestError(f"what was written does not run, and was removed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def _folders() -> list[str]:
    """Where ciliumipam and what it needs are found; with an editable install these are several folders."""
    found = []
    for package in ("ciliumipam", "sortedcontainers", "netaddr"):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise InvalidRequestError(f"the package {package} is not installed for {sys.executable}")
        found.append(str(Path(spec.origin).absolute().parents[1]))
    return list(dict.fromkeys(found))
