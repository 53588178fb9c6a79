"""What the picture costs: python tests/load/plot_cost.py ours|textbook BLOCK COUNT; for make bench.

BLOCK is a file with rows of the CSV. Makes a CSV with COUNT times these, reads and draws it; then once more with
another block at its end, as a poll finds it. Prints JSON: the CPU seconds of the first read, of the second, and of
the second picture, and the most resident memory, in MB, up to the first.
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Tuple


def ours(csv: str, image: str) -> Tuple[Callable[[], Any], Callable[[Any], None]]:
    from parts.follower import Follower  # noqa: PLC0415  # what each imports is part of its own memory
    from parts.image_file import save_image  # noqa: PLC0415
    from parts.picture import WORDS, draw  # noqa: PLC0415
    from parts.summary import Summary, fold  # noqa: PLC0415

    follower, summary = Follower(csv), Summary()

    def read() -> Summary:
        nonlocal summary
        assert follower.goes_on()
        for lines in follower.new_lines():
            summary = fold(summary, lines)
        return summary

    return read, lambda found: save_image(draw(found, follower.last_change, WORDS["en"]), image)


def textbook(csv: str, image: str) -> Tuple[Callable[[], Any], Callable[[Any], None]]:
    os.environ.update(CSV_FILE=csv, IMG_FILE=image)
    from support import textbook as module  # noqa: PLC0415

    return module.read, module.draw


def timed(work: Callable[[], Any]) -> Tuple[Any, float]:
    """What it returns, and the CPU seconds it took."""
    before = time.process_time()
    return work(), time.process_time() - before


def main(kind: str, block: str, count: int) -> None:
    rows = Path(block).read_bytes()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, open(f"{folder}/log.csv", "wb", buffering=0) as csv:
        csv.write(b"id,y_true,y_pred,absolute_error\n")
        for _ in range(count):
            csv.write(rows)
        read, draw = {"ours": ours, "textbook": textbook}[kind](csv.name, f"{folder}/picture.png")
        found, first = timed(read)
        draw(found)
        peak = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1000
        csv.write(rows)
        found, poll = timed(read)
        _, picture = timed(lambda: draw(found))
        print(json.dumps({"first": first, "poll": poll, "picture": picture, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
