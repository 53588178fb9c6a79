"""Measures the pipeline beside the code that circulates, on one private broker in one run.

    python tests/bench.py [--runs 5] [--only NAME ...] [--json FILE]

Prints a table: each figure's median over the runs, its ratio to *textbook* and to *textbook made safe* (see
textbook.py), and the ratio that is aimed at. Run it on an otherwise idle machine: it uses all of it.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Tuple

import numpy as np
from conftest import Pipeline, Process
from node import Node, wait_until

import features
import messages
from metrics import Ledger
from plot import sample_time

OURS, TEXTBOOK, SAFE = "ours", "textbook", "made safe"


class Line(NamedTuple):
    """One line of the table."""

    name: str
    unit: str
    aim: str
    values: Dict[str, List[float]]  # of each run, by whose code it is


class Bench:
    """What every measurement needs: a broker with empty queues, and services of one kind."""

    def __init__(self, node: Node, folder: Path) -> None:
        self._node = node
        self._folder = folder
        self._count = 0

    def pipeline(self) -> Pipeline:
        """A new virtual host and a new folder."""
        self._count += 1
        name = f"bench{self._count}"
        self._node.api("PUT", f"/vhosts/{name}")
        self._node.api("PUT", f"/permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        folder = self._folder / name
        (folder / "logs").mkdir(parents=True)
        return Pipeline({**self._node.env, "RABBITMQ_VHOST": name}, folder)

    def end(self, pipeline: Pipeline) -> None:
        pipeline.close()
        self._node.api("DELETE", f"/vhosts/bench{self._count}")


def start(pipeline: Pipeline, kind: str, service: str, **env: Any) -> Process:
    """A service, ours or the textbook's, connected."""
    if kind == OURS:
        return pipeline.connected(service, **env)
    return pipeline.start("tests/textbook", service, SAFE=int(kind == SAFE), **env).says("connected to RabbitMQ")


def end_to_end(bench: Bench, kind: str, samples: int, batch: int) -> float:
    """Samples a second from the first publish to the last row on disk, all four services at work."""
    pipeline = bench.pipeline()
    try:
        for service in ("metrics", "model"):
            start(pipeline, kind, service)
        pipeline.start(*(["plot"] if kind == OURS else ["tests/textbook", "plot"]))
        source = ["features"] if kind == OURS else ["tests/textbook", "features"]
        pipeline.start(*source, SAMPLES=samples, INTERVAL=0, BATCH_SIZE=batch, SAFE=int(kind == SAFE))
        wait_for_lines(pipeline.csv, samples + 1)
        end = time.time()
        return samples / (end - min(first_publish(row) for row in pipeline.rows()))
    finally:
        bench.end(pipeline)


def wait_for_lines(csv: Path, count: int, seconds: float = 300) -> None:
    """Until the CSV has so many lines; counted by what is new, to leave the processors to the services."""
    offset = lines = 0
    deadline = time.monotonic() + seconds
    while lines < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{lines} lines of {count} in {csv}")
        time.sleep(0.01)
        if csv.exists():
            with csv.open("rb") as file:
                file.seek(offset)
                new = file.read()
            offset += len(new)
            lines += new.count(b"\n")


def first_publish(row: List[str]) -> float:
    time_of_id = sample_time(row[0])
    assert time_of_id, row
    return time_of_id.timestamp()


def model_stage(bench: Bench, kind: str, samples: int) -> float:
    """Messages of one sample a second through the model alone: consumed, predicted, published, acknowledged."""
    pipeline = bench.pipeline()
    try:
        channel = pipeline.connect(durable=kind != TEXTBOOK)
        rng = np.random.default_rng(1)
        X, _ = features.generate(rng, samples, 10, 0.1)
        for number, x in enumerate(X.tolist()):
            channel.basic_publish("", "features", messages.encode([f"s{number}"], [x], is_batch=False))

        def answered() -> int:
            return channel.queue_declare("y_pred", passive=True).method.message_count

        start(pipeline, kind, "model")
        wait_until(answered, 20, "the first answers")
        begun, first = time.monotonic(), answered()
        wait_until(lambda: answered() >= samples, 300, "all answers")
        return (samples - first) / (time.monotonic() - begun)
    finally:
        bench.end(pipeline)


def latency(bench: Bench, kind: str, samples: int, quantile: float) -> float:
    """Milliseconds from a sample's making to its row, at 100 samples a second: this quantile of them."""
    pipeline = bench.pipeline()
    try:
        for service in ("metrics", "model"):
            start(pipeline, kind, service)
        start(pipeline, kind, "features", INTERVAL=0.01)
        rows = (line.split(",") for line in follow(pipeline.csv) if not line.startswith("id,"))
        found = [1000 * (time.time() - first_publish(row)) for row in islice(rows, samples)]
        return float(np.quantile(found, quantile))
    finally:
        bench.end(pipeline)


def follow(csv: Path) -> Iterator[str]:
    """The lines of a file as they come, seen within a millisecond."""
    wait_until(csv.exists, 20, "the CSV")
    with csv.open() as file:
        rest = ""
        while True:
            new = file.readline()
            if not new:
                time.sleep(0.0005)
            elif not new.endswith("\n"):
                rest += new
            else:
                yield rest + new
                rest = ""


def running(bench: Bench, service: str) -> Iterator[Process]:
    """A service that is connected, or for plot has drawn, and has nothing to do."""
    pipeline = bench.pipeline()
    try:
        yield pipeline.start(service, INTERVAL=60).says("no rows yet" if service == "plot" else "connected to")
    finally:
        bench.end(pipeline)


def seconds_to_start(bench: Bench, service: str) -> float:
    begun = time.monotonic()
    return next(time.monotonic() - begun for _ in running(bench, service))


def memory(bench: Bench, service: str) -> float:
    """Resident MB of a service that has just started."""
    for process in running(bench, service):
        status = Path(f"/proc/{process.popen.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000
    raise AssertionError


def join(waiting: int) -> Tuple[float, float]:
    """Pairs a second that metrics' ledger joins while so many halves wait unmatched, and the MB that these cost."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ledger = Ledger(f"{folder}/log.csv", f"{folder}/metrics.db")
        ids = features.Ids()
        before = resident()
        for _ in range(waiting // 5000):
            ledger.write([(sample_id, "y_true", 1.0) for sample_id in ids.take(5000)])
        cost = resident() - before
        pairs = ids.take(50_000)
        begun = time.perf_counter()
        for start_at in range(0, len(pairs), 500):
            some = pairs[start_at : start_at + 500]
            ledger.write([(sample_id, "y_true", 1.5) for sample_id in some])
            ledger.write([(sample_id, "y_pred", 1.25) for sample_id in some])
        rate = len(pairs) / (time.perf_counter() - begun)
        ledger.close()
        return rate, cost


def join_rate(waiting: int) -> float:
    return join(waiting)[0]


def join_memory(waiting: int) -> float:
    return join(waiting)[1]


def resident() -> float:
    """Resident MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measurements(bench: Bench) -> Iterator[Tuple[str, str, str, Mapping[str, Callable[[], float]]]]:
    """Every line of the table: its name, unit and aim, and what measures each kind once."""
    samples = {OURS: 20_000, TEXTBOOK: 6_000, SAFE: 2_000}
    yield (
        "end to end, batch 1", "samples/s", "1.8 x textbook, 8 x made safe",
        {kind: partial(end_to_end, bench, kind, n, 1) for kind, n in samples.items()},
    )  # fmt: skip
    for batch, n, aim in ((10, 50_000, "10 x"), (100, 300_000, "25 x, 60,000/s"), (1000, 300_000, "")):
        one_by_one = partial(end_to_end, bench, TEXTBOOK, samples[TEXTBOOK], 1)
        by = {OURS: partial(end_to_end, bench, OURS, n, batch), TEXTBOOK: one_by_one}
        yield f"end to end, batch {batch}", "samples/s", aim, by
    by = {kind: partial(model_stage, bench, kind, n) for kind, n in samples.items()}
    yield "model stage, batch 1", "messages/s", "1.5 x textbook, 10 x made safe", by
    for name, quantile, aim in (("median", 0.5, "10 ms"), ("p99", 0.99, "50 ms")):
        by = {kind: partial(latency, bench, kind, 1000, quantile) for kind in samples}
        yield f"latency at 100/s, {name}", "ms", f"under {aim}, less than made safe", by
    for waiting in (0, 1_000_000):
        yield (
            f"join, {waiting:,} waiting",
            "pairs/s",
            "within 20 % of none waiting",
            {OURS: partial(join_rate, waiting)},
        )
    yield "join, memory of 1,000,000", "MB", "under 50 MB", {OURS: partial(join_memory, 1_000_000)}
    for service, limit in (("features", 48), ("model", 48), ("metrics", 40), ("plot", 130)):
        yield f"memory, {service}", "MB", f"under {limit} MB", {OURS: partial(memory, bench, service)}
        yield f"start, {service}", "s", "under 0.7 s", {OURS: partial(seconds_to_start, bench, service)}


def run(by: Mapping[str, Callable[[], float]], runs: int) -> Dict[str, List[float]]:
    """Each kind's figures, measured in turn, so that a machine that slows down does so for all."""
    values: Dict[str, List[float]] = {kind: [] for kind in by}
    for _ in range(runs):
        for kind, measure in by.items():
            values[kind].append(measure())
    return values


def report(line: Line) -> str:
    medians = {kind: statistics.median(values) for kind, values in line.values.items()}
    ours = medians.pop(OURS)
    others = "".join(f", {ours / value:.2f} x {kind} ({value:,.4g})" for kind, value in medians.items())
    spread = f"{min(line.values[OURS]):,.4g} to {max(line.values[OURS]):,.4g}"
    return f"{line.name:26} {ours:>10,.4g} {line.unit} ({spread}){others}; aim: {line.aim or 'none'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    node = Node()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            bench = Bench(node.start(), Path(folder))
            lines = []
            for name, unit, aim, by in measurements(bench):
                if not arguments.only or any(part in name for part in arguments.only):
                    lines.append(Line(name, unit, aim, run(by, arguments.runs)))
                    print(report(lines[-1]), flush=True)
    finally:
        node.close()
    if arguments.json:
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        arguments.json.write_text(json.dumps({"when": when, "lines": [line._asdict() for line in lines]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
