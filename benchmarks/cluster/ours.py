"""Our operator in a process of its own, as the benchmark starts it: says on standard output when it has read everything."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from time import perf_counter, sleep

from ciliumipam.kubernetes.lightkube_transport import connect
from ciliumipam.kubernetes.operator import Operator


def main() -> None:
    transport = connect()
    operator = Operator(transport)
    stop = threading.Event()
    runner = threading.Thread(target=operator.run, args=(stop,))
    runner.start()
    while not operator.cluster.is_synced():
        sleep(0.002)
    print(perf_counter(), flush=True)
    sys.stdin.read()  # until the benchmark closes it
    stop.set()
    operator.wake()
    runner.join()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), flush=True)


if __name__ == "__main__":
    main()
