"""Runs the four services for a while at about 500 samples a second and watches what they hold on to.

    python tests/load/soak.py [--minutes 30]

Prints each one's resident memory and open files after the first sixth of the time and in the end, and how many
lines it logged; exits with 1 when memory grew by more than 5 % or files by any after that first sixth.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple

from support.node import Node
from support.pipeline import Pipeline, Process

EVERY = 10.0  # seconds between two looks
GROWTH = 0.05


class Look(NamedTuple):
    """What a process holds."""

    memory: float  # MB, resident
    files: int


def look_at(process: Process) -> Look:
    proc = Path(f"/proc/{process.popen.pid}")
    pages = int((proc / "statm").read_text().split()[1])
    return Look(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(list((proc / "fd").iterdir())))


def run(minutes: float, folder: Path) -> bool:
    node = Node()
    pipeline = Pipeline(node.env, folder)
    looks: Dict[str, List[Look]] = {}
    try:
        node.start()
        processes = [pipeline.connected(name) for name in ("model", "metrics")]
        processes.append(pipeline.start("plot"))
        processes.append(pipeline.connected("features", INTERVAL=0.02, BATCH_SIZE=10))
        begun = time.monotonic()
        while time.monotonic() - begun < 60 * minutes:
            time.sleep(EVERY)
            for process in processes:
                looks.setdefault(process.script, []).append(look_at(process))
        seconds = time.monotonic() - begun
        rows = len(pipeline.rows())
        print(f"{minutes:g} minutes, {rows} rows, {rows / seconds:.0f} a second")
        good = True
        for process in processes:
            seen = looks[process.script]
            settled = seen[len(seen) // 6 :]
            # Memory breathes: the first and the last tenth of the settled time, each by its mean.
            part = max(1, len(settled) // 10)
            early, late = (sum(look.memory for look in some) / part for some in (settled[:part], settled[-part:]))
            lines = len(process.output.splitlines()) / seconds
            first = seen[: len(seen) // 6 + 1]
            # One that is open just when we look is no leak: what leaks is never closed again.
            files = max(look.files for look in first), min(look.files for look in settled[-part:])
            flat = late <= early * (1 + GROWTH) and files[1] <= files[0]
            good &= flat
            print(
                f"{process.script:12} {early:6.1f} MB -> {late:6.1f} MB ({late / early - 1:+.1%}),"
                f" open files {files[0]} -> {files[1]}, {lines:.2f} log lines a second{'' if flat else ' !'}"
            )
        return good
    finally:
        pipeline.close()
        node.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and nothing is left running
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return 0 if run(minutes, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
