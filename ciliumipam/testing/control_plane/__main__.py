"""`python -m ciliumipam.testing.control_plane`: a control plane to play with, for as long as this runs or one command takes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ciliumipam.testing.control_plane.binaries import ServersMissingError, find_binaries
from ciliumipam.testing.control_plane.scratch import ScratchControlPlane
from ciliumipam.testing.control_plane.server import ServerError
from ciliumipam.testing.go_build import GoBuildError

USE = "python -m ciliumipam.testing.control_plane"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code, or that of the command that it was given."""
    parser = ArgumentParser(
        prog=USE,
        formatter_class=RawDescriptionHelpFormatter,
        description="Start an API server and etcd on free ports of this machine, say how to use them, and end them on Ctrl-C.",
        epilog="etcd, kube-apiserver and kubectl are those that TEST_ASSET_*, KUBEBUILDER_ASSETS or PATH name;\n"
        "else they are built with Go, which takes some minutes once.",
    )
    parser.add_argument("--build", action="store_true", help="only find or build the programs, and say where they are")
    parser.add_argument(
        "--folder",
        type=Path,
        help="keep everything here, and go on from what is here (default: a folder that is deleted)",
    )
    parser.add_argument(
        "command", nargs="*", help="run this with KUBECONFIG and kubectl, and end when it ends; write -- before it"
    )
    given = parser.parse_args(arguments)
    try:
        started = time.monotonic()
        binaries = find_binaries()
        if given.build:
            print(*binaries, sep="\n")
            print(f"found or built in {time.monotonic() - started:.0f} s")
            return 0
        # What ends a terminal or a service ends this in the same way as Ctrl-C does, so that the folder is deleted.
        # A script's shell lets what it starts with & ignore SIGINT; whoever sends that one here means it.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        with (
            TemporaryDirectory(prefix="ciliumipam-") as temporary,
            ScratchControlPlane(given.folder or Path(temporary), binaries) as plane,
        ):
            return _use(plane, given.command)
    except KeyboardInterrupt:
        return 0 if not given.command else 130
    except (GoBuildError, ServerError, ServersMissingError) as error:
        print(f"{USE}: {error}", file=sys.stderr)
        return 1


def _use(plane: ScratchControlPlane, command: Sequence[str]) -> int:
    folder = plane.folder / "bin"
    folder.mkdir(exist_ok=True)
    kubectl = folder / "kubectl"  # the built one's file has a longer name
    kubectl.unlink(missing_ok=True)
    kubectl.symlink_to(plane.binaries.kubectl)
    if command:
        path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PATH": path}
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - it is what the user asked for
    version = plane.get("/version")[1]["gitVersion"]
    print(f"kube-apiserver {version} listens on {plane.url}. In another terminal:\n")
    print(f"export KUBECONFIG={shlex.quote(str(plane.kubeconfig))}")
    print(f'export PATH={shlex.quote(str(folder))}:"$PATH"')
    print("kubectl get namespaces\n")
    print("Ctrl-C here ends it.", flush=True)
    while plane.etcd.running and plane.apiserver.running:
        time.sleep(0.5)
    raise ServerError(f"a server ended by itself; the logs are in {plane.folder}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
