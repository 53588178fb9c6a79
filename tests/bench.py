"""Measures the pipeline beside the code that circulates, on one private broker in one run.

    python tests/bench.py [--runs 5] [--only PART ...] [--json FILE] [--png FILE]

Prints a table: each figure's median over the runs, its ratio to *textbook* and to *textbook made safe* (see
textbook.py), and what is aimed at. Run it on an otherwise idle machine: it uses all of it, for about half an hour.
"""

import argparse
import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
from conftest import ROOT, Pipeline, Process
from matplotlib.figure import Figure
from node import Node, free_ports, wait_until, works

import features
import messages
from metrics import Ledger, csv_line
from picture import sample_time

OURS, TEXTBOOK, SAFE = "ours", "textbook", "made safe"
BLOCK = 50_000  # rows that are new to a poll of plot


class Aim(NamedTuple):
    """Our median is to be at least, or at most, `factor` times what it is compared with."""

    factor: float
    than: str = ""  # another kind, the name of another line, or "" for the bare number
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.factor:,g}{' x ' * bool(self.than)}{self.than}"


def at_least(factor: float, than: str = "") -> Aim:
    return Aim(factor, than)


def at_most(factor: float, than: str = "") -> Aim:
    return Aim(factor, than, at_most=True)


class Line(NamedTuple):
    """One line of the table."""

    name: str
    unit: str
    aims: Sequence[Aim] = ()


Values = Dict[str, List[float]]  # by whose code it is, of each run


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

    def broker_pid(self) -> int:
        command = ["pgrep", "--newest", "--full", f"beam.*{self._node.folder.name}"]
        return int(subprocess.check_output(command, text=True))

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


def cpu_cost(bench: Bench, samples: int, batch: int) -> List[float]:
    """CPU microseconds a sample, end to end, of features, model, metrics and RabbitMQ."""
    pipeline = bench.pipeline()
    try:
        found = {service: pipeline.connected(service).popen.pid for service in ("metrics", "model")}
        source = pipeline.connected("features", SAMPLES=samples, INTERVAL=0, BATCH_SIZE=batch)
        found["features"] = source.popen.pid
        found["rabbitmq"] = bench.broker_pid()
        before = {name: cpu_seconds(pid) for name, pid in found.items()}
        last = dict(before)
        while not pipeline.csv.exists() or pipeline.csv.read_bytes().count(b"\n") <= samples:
            last["features"] = cpu_seconds(found["features"]) or last["features"]  # it ends before the others
            time.sleep(0.2)
        last.update({name: cpu_seconds(found[name]) for name in ("model", "metrics", "rabbitmq")})
        return [1e6 * (last[name] - before[name]) / samples for name in ("features", "model", "metrics", "rabbitmq")]
    finally:
        bench.end(pipeline)


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used; 0 when it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used if fields[0] != "Z" else 0.0


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


def latency(bench: Bench, kind: str, samples: int) -> Tuple[float, float]:
    """Milliseconds from a sample's making to its row, at 100 samples a second: the median and the 99th percentile."""
    pipeline = bench.pipeline()
    try:
        for service in ("metrics", "model"):
            start(pipeline, kind, service)
        start(pipeline, kind, "features", INTERVAL=0.01)
        rows = (line.split(",") for line in follow(pipeline.csv) if not line.startswith("id,"))
        found = [1000 * (time.time() - first_publish(row)) for row in islice(rows, samples)]
        return float(np.quantile(found, 0.5)), float(np.quantile(found, 0.99))
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


def scaling(bench: Bench, replicas: int) -> Tuple[float, float]:
    """Samples a second with so many replicas of a model of 20 ms, and the largest share of one, of a fair share."""
    pipeline = bench.pipeline()
    try:
        channel = pipeline.connect()
        models = [pipeline.start("tests/slow_model") for _ in range(replicas)]
        for process in models:
            process.says("connected to RabbitMQ")
        samples = 200 * replicas
        begun = time.monotonic()
        for number in range(samples):
            channel.basic_publish("", "features", messages.encode([f"s{number}"], [[1.0] * 10], is_batch=False))
        wait_until(
            lambda: channel.queue_declare("y_pred", passive=True).method.message_count >= samples, 100, "all answers"
        )
        rate = samples / (time.monotonic() - begun)
        for process in models:
            process.stop()
        shares = [int(re.findall(r"answered (\d+)", process.output)[0]) for process in models]
        return rate, max(shares) * replicas / samples
    finally:
        bench.end(pipeline)


def metrics_stage(bench: Bench, replicas: int, shards: int, samples: int) -> float:
    """Rows a second that metrics alone writes from full queues, batches of 100."""
    pipeline = bench.pipeline()
    try:
        channel = pipeline.connect()
        queues = [messages.shard(half, n) for n in range(shards) for half in ("y_true", "y_pred")]
        for queue in queues:
            channel.queue_declare(queue, durable=True)
        ids = features.Ids()
        for number in range(samples // 100):
            some = ids.take(100)
            for half, value in (("y_true", 1.5), ("y_pred", 1.25)):
                body = messages.encode(some, [value] * 100, is_batch=True)
                channel.basic_publish("", messages.shard(half, number % shards), body)
        files = []
        for number in range(replicas):
            shard = number % shards
            files.append(pipeline.csv.with_name(f"{shard}.csv"))
            state = pipeline.state.with_name(f"{shard}.db")
            pipeline.connected("metrics", SHARD=shard, CSV_FILE=files[-1], STATE_FILE=state)

        row = len(csv_line((features.Ids().take(1)[0], 1.5, 1.25)))  # each is as long

        def rows() -> int:
            return sum(file.stat().st_size // row for file in set(files) if file.exists())

        wait_until(rows, 20, "the first rows")
        begun, first = time.monotonic(), rows()
        wait_until(lambda: rows() >= samples, 300, "all rows")
        return (samples - first) / (time.monotonic() - begun)
    finally:
        bench.end(pipeline)


def service_cost(bench: Bench, service: str) -> Tuple[float, float]:
    """Seconds until a service is connected, or for plot has drawn, and its resident MB then."""
    pipeline = bench.pipeline()
    try:
        begun = time.monotonic()
        process = pipeline.start(service, INTERVAL=60).says("no rows yet" if service == "plot" else "connected to")
        seconds = time.monotonic() - begun
        status = Path(f"/proc/{process.popen.pid}/status").read_text()
        return seconds, int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000
    finally:
        bench.end(pipeline)


def plot_cost(block: Path, kind: str, rows: int) -> Sequence[float]:
    """CPU seconds to read a CSV, then BLOCK new rows of it, and to draw them; most resident MB after the first."""
    command = [sys.executable, "tests/plot_cost.py", kind, str(block), str(rows // BLOCK)]
    found = json.loads(subprocess.check_output(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}))
    return [found[what] for what in ("first", "poll", "picture", "peak")]


def some_rows() -> List[Tuple[str, float, float]]:
    y_true, noise = np.random.default_rng(1).standard_normal((2, BLOCK))
    return list(zip(features.Ids().take(BLOCK), y_true.tolist(), (y_true + 0.1 * noise).tolist()))


def join(waiting: int) -> Tuple[float, float]:
    """Pairs a second that metrics' ledger joins while so many halves wait unmatched, and the MB that these cost."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ledger = Ledger(f"{folder}/log.csv", f"{folder}/metrics.db")
        ids = features.Ids()
        before = resident()
        for _ in range(waiting // 5000):
            ledger.write([(sample_id, "y_true", 1.0) for sample_id in ids.take(5000)])
        cost = resident() - before
        rate = join_rate(ledger)
        ledger.close()
        return rate, cost


@lru_cache
def ledger_with(folder: Path, written: int) -> Ledger:
    """A ledger that has written so many rows, as its state knows; they are not in its CSV."""
    state = folder / f"{written}.db"
    ledger = Ledger(str(folder / f"{written}.csv"), str(state))
    ledger.write([])
    ids = features.Ids()
    with sqlite3.connect(state) as db:
        for _ in range(0, written, BLOCK):
            db.executemany(
                "INSERT INTO samples VALUES (?, 1.5, 1.25, 0)", ((sample_id,) for sample_id in ids.take(BLOCK))
            )
        db.execute("UPDATE csv SET row_count = ?", (written,))
    return ledger


def join_on_top_of(folder: Path, written: int) -> float:
    return join_rate(ledger_with(folder, written))


def join_rate(ledger: Ledger) -> float:
    """Pairs a second of a ledger, 500 halves at a time, the two of a pair in neighbouring transactions."""
    os.sync()  # what made the ledger is not to be paid for here
    pairs = features.Ids().take(50_000)
    begun = time.perf_counter()
    for start_at in range(0, len(pairs), 500):
        some = pairs[start_at : start_at + 500]
        ledger.write([(sample_id, "y_true", 1.5) for sample_id in some])
        ledger.write([(sample_id, "y_pred", 1.25) for sample_id in some])
    return len(pairs) / (time.perf_counter() - begun)


def resident() -> float:
    """Resident MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def compose_up(folder: Path) -> Tuple[float, float]:
    """MB of the image, and seconds from `docker compose up`, the image built, to the first row."""
    clone = folder / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    amqp, ui = free_ports(2)
    env = {**os.environ, "AMQP_PORT": str(amqp), "UI_PORT": str(ui)}
    compose = partial(subprocess.run, cwd=clone, env=env, check=True, capture_output=True)
    command = ["docker", "compose", "--project-name", f"bench{amqp}"]
    compose([*command, "build"])
    try:
        begun = time.monotonic()
        compose([*command, "up", "--detach"])
        wait_for_lines(clone / "logs" / "metric_log.csv", 2)
        seconds = time.monotonic() - begun
        image = subprocess.check_output([*command, "images", "--quiet", "model"], cwd=clone, env=env, text=True).strip()
        size = int(subprocess.check_output(["docker", "image", "inspect", "--format", "{{.Size}}", image], text=True))
        return size / 1e6, seconds
    finally:
        compose([*command, "down", "--volumes", "--timeout", "5"])


Measure = Callable[[], Sequence[float]]


def single(measure: Callable[[], float]) -> Measure:
    return lambda: (measure(),)


def measurements(bench: Bench, folder: Path) -> Iterator[Tuple[Sequence[Line], Mapping[str, Measure]]]:
    """The lines of the table, and what measures them together, once, for each kind."""
    samples = {OURS: 20_000, TEXTBOOK: 6_000, SAFE: 2_000}
    yield (
        [Line("end to end, batch 1", "samples/s", [at_least(1.8, TEXTBOOK), at_least(8, SAFE)])],
        {kind: single(partial(end_to_end, bench, kind, n, 1)) for kind, n in samples.items()},
    )
    for batch, n in (1, 20_000), (100, 300_000):
        names = [f"CPU a sample, batch {batch}: {name}" for name in ("features", "model", "metrics", "RabbitMQ")]
        yield [Line(name, "us") for name in names], {OURS: partial(cpu_cost, bench, n, batch)}
    one_by_one = single(partial(end_to_end, bench, TEXTBOOK, samples[TEXTBOOK], 1))
    for batch, n, aims in (
        (10, 50_000, [at_least(10, TEXTBOOK)]),
        (100, 300_000, [at_least(25, TEXTBOOK), at_least(60_000)]),
        (1000, 300_000, []),
    ):
        by = {OURS: single(partial(end_to_end, bench, OURS, n, batch)), TEXTBOOK: one_by_one}
        yield [Line(f"end to end, batch {batch}", "samples/s", aims)], by
    yield (
        [Line("model stage", "messages/s", [at_least(1.5, TEXTBOOK), at_least(10, SAFE)])],
        {kind: single(partial(model_stage, bench, kind, n)) for kind, n in samples.items()},
    )
    yield (
        [
            Line("latency at 100/s, median", "ms", [at_most(10), at_most(1, SAFE)]),
            Line("latency at 100/s, p99", "ms", [at_most(50), at_most(1, SAFE)]),
        ],
        {kind: partial(latency, bench, kind, 1000) for kind in samples},
    )
    for replicas in (1, 2, 4, 8):
        aims = [at_least(7 / 8 * replicas, "20 ms model, 1 replica")] if replicas > 1 else []
        name = f"20 ms model, {replicas} replica{'s' * (replicas > 1)}"
        yield (
            [Line(name, "samples/s", aims), Line(f"{name}: largest share", "x fair", [at_most(1.5)])],
            {OURS: partial(scaling, bench, replicas)},
        )
    one = "metrics alone, 1 replica"
    for name, replicas, shards in (one, 1, 1), ("metrics alone, 2 replicas", 2, 1), ("metrics alone, 2 shards", 2, 2):
        aims = [at_least(1.2, one)] if shards > 1 else []
        by = {OURS: single(partial(metrics_stage, bench, replicas, shards, 400_000))}
        yield [Line(name, "rows/s", aims)], by
    for waiting in (0, 100_000, 1_000_000):
        beside = [at_least(0.8, "join, 0 waiting")] if waiting else []
        yield (
            [
                Line(f"join, {waiting:,} waiting", "pairs/s", beside),
                Line(f"join, memory of {waiting:,} waiting", "MB", [at_most(50)]),
            ],
            {OURS: partial(join, waiting)},
        )
    for written, beside in (1_000_000, []), (10_000_000, [at_least(0.8, "join, 1,000,000 written")]):
        by = {OURS: single(partial(join_on_top_of, folder, written))}
        yield [Line(f"join, {written:,} written", "pairs/s", beside)], by
    block = folder / "block.csv"
    block.write_text("".join(map(csv_line, some_rows())))
    poll = "plot, poll at {:,} rows"
    for rows in (100_000, 1_000_000, 10_000_000):
        last = rows == 10_000_000
        beside = [at_most(1.5, poll.format(100_000)), at_most(0.01, TEXTBOOK)] if last else []
        yield (
            [
                Line(f"plot, first read of {rows:,} rows", "CPU s", [at_most(10)] if last else []),
                Line(poll.format(rows), "CPU s", beside),
                Line(f"plot, picture of {rows:,} rows", "CPU s"),
                Line(f"plot, memory after {rows:,} rows", "MB", [at_most(150)] if last else []),
            ],
            {kind: partial(plot_cost, block, kind, rows) for kind in (OURS, TEXTBOOK)},
        )
    for service, limit in (("features", 48), ("model", 48), ("metrics", 40), ("plot", 130)):
        yield (
            [Line(f"start, {service}", "s", [at_most(0.7)]), Line(f"memory, {service}", "MB", [at_most(limit)])],
            {OURS: partial(service_cost, bench, service)},
        )
    if works("docker info"):
        lines = [Line("image", "MB"), Line("docker compose up to the first row", "s")]
        yield lines, {OURS: partial(compose_up, folder)}


def run(lines: Sequence[Line], by: Mapping[str, Measure], runs: int) -> Dict[str, Values]:
    """Each line's figures, measured in turn, so that a machine that slows down does so for all."""
    values: Dict[str, Values] = {line.name: {kind: [] for kind in by} for line in lines}
    for _ in range(runs):
        for kind, measure in by.items():
            for line, value in zip(lines, measure()):
                values[line.name][kind].append(value)
    return values


def report(line: Line, table: Mapping[str, Values]) -> str:
    medians = {kind: statistics.median(values) for kind, values in table[line.name].items()}
    ours = medians.pop(OURS)
    others = "".join(f", {ours / value:.3g} x {kind} ({short(value)})" for kind, value in medians.items())
    spread = f"{short(min(table[line.name][OURS]))} to {short(max(table[line.name][OURS]))}"
    verdicts = []
    for aim in line.aims:
        if aim.than and aim.than not in {*medians, *table}:
            continue  # that line was not asked for
        beside = medians.get(aim.than) or (statistics.median(table[aim.than][OURS]) if aim.than else 1.0)
        reached = ours <= aim.factor * beside if aim.at_most else ours >= aim.factor * beside
        verdicts.append(f"{aim}: {'reached' if reached else 'SHORT'}")
    return f"{line.name:36} {short(ours):>8} {line.unit} ({spread}){others}{'; ' * bool(verdicts)}{', '.join(verdicts)}"


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def picture(table: Mapping[str, Values]) -> Figure:
    """Samples a second end to end, ours beside the others."""
    by_batch = {batch: table[f"end to end, batch {batch}"] for batch in (1, 10, 100, 1000)}
    bars = [
        ("textbook code made safe", by_batch[1][SAFE], "0.6"),
        ("textbook code, loses data", by_batch[1][TEXTBOOK], "0.6"),
        *(
            (f"this, batches of {batch:,}" if batch > 1 else "this", by_batch[batch][OURS], "#0072b2")
            for batch in by_batch
        ),
    ]
    labels, values, colors = zip(*bars)
    figure = Figure(figsize=(9, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(labels, [statistics.median(each) for each in values], color=colors)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("samples a second, end to end, on two cores with the broker on them")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of lines")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path, help="needs the lines end to end")
    arguments = parser.parse_args()
    node = Node()
    table: Dict[str, Values] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            for lines, by in measurements(Bench(node.start(), Path(folder)), Path(folder)):
                if not arguments.only or any(part in line.name for part in arguments.only for line in lines):
                    table.update(run(lines, by, arguments.runs))
                    for line in lines:
                        print(report(line, table), flush=True)
    finally:
        node.close()
    if arguments.json:
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        version = ".".join(map(str, sys.version_info[:3]))
        arguments.json.write_text(json.dumps({"when": when, "python": version, "lines": table}, indent=1) + "\n")
    if arguments.png:
        picture(table).savefig(arguments.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
