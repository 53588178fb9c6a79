"""Measures the pipeline beside the code that circulates, on one private broker in one run.

    python tests/load/bench.py [--quick] [--runs 5] [--only PART ...] [--before DIR] [--json FILE] [--png FILE]

Prints a table: each figure's median over the runs with its spread, and its ratio to *textbook* and *made safe* (see
support/textbook.py), or to the scripts of another checkout in DIR. The machine is to be idle otherwise: it uses all of
it, for about an hour; with --quick, the most telling lines once, in less than three minutes.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence

import numpy as np
from matplotlib.figure import Figure

from load import measure
from load.measure import BEFORE, OURS, SAFE, SERVICES, TEXTBOOK, Bench, C
from metrics import pair
from parts.csv_file import lines as csv_lines
from parts.ids import Ids
from parts.ledger import Ledger
from support.node import ContainerNode, Node, works
from support.paths import ROOT

BLOCK = 50_000  # rows that are new to a poll of plot

Measure = Callable[[], Sequence[float]]
Values = Dict[str, List[float]]  # by whose code it is, of each run


class Line(NamedTuple):
    """One line of the table."""

    name: str
    unit: str


class Part(NamedTuple):
    """Lines that are measured together, by one measurement for each kind."""

    lines: Sequence[Line]
    by: Mapping[str, Measure]


def whole(bench: Bench, quick: bool) -> Iterator[Part]:
    """The whole pipeline: how fast, at what cost, for how long, how late."""
    kinds = {TEXTBOOK: (1,), SAFE: () if quick else (1,), BEFORE: (1, 10, 100), OURS: (1, 10, 100)}
    rates = {(TEXTBOOK, 1): 4_000, (SAFE, 1): 400, (BEFORE, 100): 70_000, 1: 8_000, 10: 45_000, 100: 150_000}
    for batch in (1, 10, 100):
        name = f"end to end, batch {batch}"
        lines = [Line(name, "samples/s")]
        lines += [Line(f"{name}: CPU of {service}", "us a sample") for service in (*SERVICES, "RabbitMQ", "all")]
        by: Dict[str, Measure] = {}
        for kind, batches in kinds.items():
            samples = (4 if quick else 15) * rates.get((kind, batch), rates[batch])
            if batch in batches:
                by[kind] = partial(with_sum, partial(measure.end_to_end, bench, kind, batch, samples))
            elif kind == TEXTBOOK:  # knows no batches
                by[kind] = partial(with_sum, partial(measure.end_to_end, bench, kind, 1, samples // 20))
        yield Part(lines, by)
    name = "sustained, batch 100"
    lines = [Line(name, "samples/s"), Line(f"{name}: queued at half time", ""), Line(f"{name}: queued in the end", "")]
    kinds_now = [OURS] if quick else [TEXTBOOK, BEFORE, OURS]
    seconds = 20 if quick else 60
    yield Part(lines, {kind: partial(measure.sustained, bench, kind, 100, seconds) for kind in kinds_now})
    lines = [Line("latency at 100/s, median", "ms"), Line("latency at 100/s, p99", "ms")]
    kinds_now = [OURS] if quick else [TEXTBOOK, SAFE, BEFORE, OURS]
    yield Part(lines, {kind: partial(measure.latency, bench, kind, 500 if quick else 1000) for kind in kinds_now})


def with_sum(measured: Measure) -> List[float]:
    rate, *costs = measured()
    return [rate, *costs, sum(costs)]


def stages(bench: Bench, quick: bool) -> Iterator[Part]:
    """One service alone."""
    kinds = [TEXTBOOK, BEFORE, OURS] if quick else [TEXTBOOK, SAFE, BEFORE, OURS]
    samples = {TEXTBOOK: 40_000, SAFE: 4_000, BEFORE: 40_000, OURS: 40_000, C: 80_000}
    if bench.builds_model_in_c():
        kinds.append(C)
    else:
        print("model stage: without C, which needs cc and librabbitmq's headers (Debian: librabbitmq-dev)", flush=True)
    yield Part(
        [Line("model stage", "messages/s")],
        {kind: partial(measure.model_stage, bench, kind, samples[kind] // (2 if quick else 1)) for kind in kinds},
    )
    name = "metrics alone, batch 100"
    yield Part(
        [Line(name, "rows/s"), Line(f"{name}: CPU", "us a row")],
        {kind: partial(measure.metrics_stage, bench, kind, 200_000 if quick else 600_000) for kind in (BEFORE, OURS)},
    )
    if quick:
        return
    several: Dict[str, Dict[str, int]] = {
        "batch 100, 2 replicas": {"samples": 600_000, "replicas": 2},
        "batch 100, 2 cells": {"samples": 600_000, "cells": 2},
        "batch 1,000": {"samples": 1_600_000, "batch": 1_000},
        "batch 1,000, 2 cells": {"samples": 1_600_000, "batch": 1_000, "cells": 2},
    }
    for what, more in several.items():
        name = f"metrics alone, {what}"
        yield Part(
            [Line(name, "rows/s"), Line(f"{name}: CPU", "us a row")],
            {OURS: partial(measure.metrics_stage, bench, OURS, **more)},
        )
    for replicas in (1, 2, 4, 8):
        name = f"20 ms model, {replicas} replica{'s' * (replicas > 1)}"
        yield Part(
            [Line(name, "samples/s"), Line(f"{name}: largest share", "x fair")],
            {OURS: partial(measure.scaling, bench, replicas)},
        )
    for service in (*SERVICES, "plot"):
        yield Part(
            [Line(f"start, {service}", "s"), Line(f"memory, {service}", "MB")],
            {kind: partial(measure.at_rest, bench, kind, service) for kind in (BEFORE, OURS)},
        )


def parts_alone(folder: Path) -> Iterator[Part]:
    """What stands or falls with size: the join and the picture; and containers."""
    for waiting in (0, 100_000, 1_000_000):
        yield Part(
            [Line(f"join, {waiting:,} waiting", "pairs/s"), Line(f"join, memory of {waiting:,} waiting", "MB")],
            {OURS: partial(join, waiting)},
        )
    for written in (1_000_000, 10_000_000):
        yield Part([Line(f"join, {written:,} written", "pairs/s")], {OURS: partial(join_on_top_of, folder, written)})
    block = folder / "block.csv"
    y_true, noise = np.random.default_rng(1).standard_normal((2, BLOCK))
    block.write_bytes(csv_lines(list(zip(Ids().take(BLOCK), y_true.tolist(), (y_true + 0.1 * noise).tolist()))))
    for rows in (100_000, 1_000_000, 10_000_000):
        yield Part(
            [
                Line(f"plot, first read of {rows:,} rows", "CPU s"),
                Line(f"plot, poll at {rows:,} rows", "CPU s"),
                Line(f"plot, picture of {rows:,} rows", "CPU s"),
                Line(f"plot, memory after {rows:,} rows", "MB"),
            ],
            {kind: partial(plot_cost, block, kind, rows) for kind in (TEXTBOOK, OURS)},
        )
    if works("docker info"):
        lines = [Line("image", "MB"), Line("docker compose up to the first row", "s")]
        yield Part(lines, {OURS: partial(measure.compose_up, folder)})


def plot_cost(block: Path, kind: str, rows: int) -> Sequence[float]:
    """CPU seconds to read a CSV, then BLOCK new rows of it, and to draw them; most resident MB after the first."""
    command = [sys.executable, "tests/load/plot_cost.py", kind, str(block), str(rows // BLOCK)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    found = json.loads(subprocess.check_output(command, cwd=ROOT, env=env))
    return [found[what] for what in ("first", "poll", "picture", "peak")]


def join(waiting: int) -> List[float]:
    """Pairs a second that metrics' ledger joins while so many halves wait unmatched, and the MB that these cost."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ledger = Ledger(f"{folder}/log.csv", f"{folder}/metrics.db", pair)
        ids = Ids()
        before = resident()
        for _ in range(waiting // 5000):
            ledger.write([("y_true", ids.take(5000), [1.0] * 5000)])
        cost = resident() - before
        rate = join_rate(ledger)
        ledger.close()
        return [rate, cost]


def resident() -> float:
    """Resident MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@lru_cache
def ledger_with(folder: Path, written: int) -> Ledger:
    """A ledger that has written so many rows, as its state knows; they are not in its CSV."""
    state = folder / f"{written}.db"
    ledger = Ledger(str(folder / f"{written}.csv"), str(state), pair)
    ledger.write([])
    ids = Ids()
    with sqlite3.connect(state) as db:
        for _ in range(0, written, BLOCK):
            db.executemany("INSERT INTO written VALUES (?, 1.5, 1.25)", ((one,) for one in ids.take(BLOCK)))
    return ledger


def join_on_top_of(folder: Path, written: int) -> List[float]:
    return [join_rate(ledger_with(folder, written))]


def join_rate(ledger: Ledger) -> float:
    """Pairs a second of a ledger, 500 halves at a time, the two of a pair in neighbouring transactions."""
    os.sync()  # what made the ledger is not to be paid for here
    pairs = Ids().take(50_000)
    begun = time.perf_counter()
    for start_at in range(0, len(pairs), 500):
        some = pairs[start_at : start_at + 500]
        ledger.write([("y_true", some, [1.5] * len(some))])
        ledger.write([("y_pred", some, [1.25] * len(some))])
    return len(pairs) / (time.perf_counter() - begun)


def run(part: Part, runs: int) -> Dict[str, Values]:
    """Each line's figures, measured in turn, so that a machine that slows down does so for all."""
    values: Dict[str, Values] = {line.name: {kind: [] for kind in part.by} for line in part.lines}
    for _ in range(runs):
        for kind, measured in part.by.items():
            for line, value in zip(part.lines, measured()):
                values[line.name][kind].append(value)
    return values


def report(line: Line, values: Values) -> str:
    medians = {kind: statistics.median(found) for kind, found in values.items()}
    ours = medians.pop(OURS)
    others = "".join(f", {ours / value:.3g} x {kind} ({short(value)})" for kind, value in medians.items() if value)
    spread = f"{short(min(values[OURS]))} to {short(max(values[OURS]))}"
    return f"{line.name:40} {short(ours):>8} {line.unit} ({spread}){others}"


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def picture(table: Mapping[str, Values]) -> Figure:
    """Samples a second end to end, ours beside the others."""
    one = table["end to end, batch 1"]
    bars = [("textbook code made safe", one[SAFE], "0.6"), ("textbook code, loses data", one[TEXTBOOK], "0.6")]
    for batch in (1, 10, 100):
        name = f"this, batches of {batch}" if batch > 1 else "this"
        bars.append((name, table[f"end to end, batch {batch}"][OURS], "#0072b2"))
    labels, values, colors = zip(*bars)
    figure = Figure(figsize=(9, 3), dpi=150, layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(labels, [statistics.median(each) for each in values], color=colors)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("samples a second, end to end, on two cores with the broker on them")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of lines")
    parser.add_argument("--before", default="", help="another checkout, to compare with")
    parser.add_argument("--installed", action="store_true", help="the installed RabbitMQ, also where Docker runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path, help="needs the lines end to end")
    arguments = parser.parse_args()
    if arguments.png and arguments.only:
        parser.error("--png shows lines of several parts: not with --only")
    node = Node() if arguments.installed or not works("docker info") else ContainerNode()
    table: Dict[str, Values] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            bench = Bench(node.start(), Path(folder), arguments.before)  # type: ignore[arg-type]
            about: Dict[str, Any] = {
                "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "python": platform.python_version(),
                "rabbitmq": node.api("GET", "/overview")["rabbitmq_version"],
                "machine": f"{os.cpu_count()} x {processor()}",
            }
            print(about, flush=True)
            parts = [*whole(bench, arguments.quick), *stages(bench, arguments.quick)]
            parts += [] if arguments.quick else parts_alone(Path(folder))
            for part in parts:
                if arguments.only and not any(word in line.name for word in arguments.only for line in part.lines):
                    continue
                by = {kind: measured for kind, measured in part.by.items() if arguments.before or kind != BEFORE}
                table.update(run(Part(part.lines, by), 1 if arguments.quick else arguments.runs))
                for line in part.lines:
                    print(report(line, table[line.name]), flush=True)
    finally:
        node.close()
    if arguments.json:
        arguments.json.write_text(json.dumps({**about, "lines": table}, indent=1) + "\n")
    if arguments.png:
        picture(table).savefig(arguments.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
