"""`ciliumipam-cni`: the plugin where a runtime calls it, and a command for people otherwise."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Answer the runtime, or do what the arguments say."""
    if "CNI_COMMAND" in os.environ and len(sys.argv) == 1:
        from ciliumipam.cni.plugin import main as answer  # noqa: PLC0415 - each of the two loads what it needs

        answer()
    from ciliumipam.cni.command import run  # noqa: PLC0415 - the same

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
