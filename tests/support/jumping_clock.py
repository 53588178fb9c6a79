"""Runs a service whose wall clock is wrong by as many seconds as stand in the file CLOCK, whenever it is asked.

CLOCK=/tmp/clock python tests/support/jumping_clock.py metrics
"""

import importlib
import os
import sys
import time
from pathlib import Path

CLOCK = Path(os.environ["CLOCK"])
right_time, right_time_ns = time.time, time.time_ns


def offset() -> float:
    return float(CLOCK.read_text() or 0)


time.time = lambda: right_time() + offset()  # type: ignore[assignment]
time.time_ns = lambda: right_time_ns() + int(offset() * 1e9)  # type: ignore[assignment]

if __name__ == "__main__":
    importlib.import_module(sys.argv[1]).main()
