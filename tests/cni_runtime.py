"""A runtime for the test of a thousand ADDs: makes a process for each call, kills some, and prints what each was told.

Every tenth call is the installed executable. The others are forked with the plugin's modules loaded: such a process lives in the
store and not in its imports, so that is where most of the kills strike. `python -m tests.cni_runtime PROGRAM CONFIG FIRST END STEP`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

import ciliumipam.cni.node_store  # noqa: F401 - so that it is loaded in what is forked
from ciliumipam.cni import plugin
from tests.cni_calls import environment


def begin(program: str, config: bytes, n: int) -> tuple[int, int]:
    """Start one ADD; returns its process and where its answer comes."""
    given, config_in = os.pipe()
    answer, answer_in = os.pipe()
    os.write(config_in, config)
    os.close(config_in)
    process = os.fork()
    if process == 0:
        os.dup2(given, 0)
        os.dup2(answer_in, 1)
        env = environment("ADD", f"c{n}")
        if n % 10 == 0:
            os.execve(program, [program], env)  # noqa: S606 - the executable under test
        os.environ.clear()
        os.environ.update(env)
        plugin.main()
    os.close(given)
    os.close(answer_in)
    return process, answer


def main() -> None:
    program, config = sys.argv[1], sys.argv[2].encode()
    first, end, step = map(int, sys.argv[3:])
    chance = random.Random(first)
    life = {True: 0.5, False: 0.1}  # what a call of each kind took of late
    told = {}
    for n in range(first, end, step):
        doomed, kind = chance.random() < 0.2, n % 10 == 0
        begun = time.monotonic()
        process, answer = begin(program, config, n)
        if doomed:
            time.sleep(chance.uniform(0.0, life[kind]))  # a moment anywhere in the life of the process
            os.kill(process, signal.SIGKILL)
        with os.fdopen(answer, "rb") as file:
            said = file.read()
        _, status = os.waitpid(process, 0)
        if not doomed:
            life[kind] = time.monotonic() - begun
        told[n] = {"killed": os.WIFSIGNALED(status), "doomed": doomed, "said": json.loads(said) if said else None}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
