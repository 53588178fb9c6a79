"""What `make bench` measures: whole services, as processes, on a private broker. Each measurement is one function.

A kind is whose code runs: "ours", the "textbook"'s or the same "made safe" (see support/textbook.py), the scripts of
another checkout, "before", or for the model alone "C" (see model_stage.c).
"""

import os
import re
import shutil
import subprocess
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import numpy as np

import features
from parts import messages
from parts.ids import Ids
from parts.picture import sample_time
from support.node import ContainerNode, Node, free_ports, wait_until
from support.paths import ROOT
from support.pipeline import Pipeline, Process

OURS, TEXTBOOK, SAFE, BEFORE, C = "ours", "textbook", "made safe", "before", "C"
SERVICES = ("features", "model", "metrics")


class Bench:
    """A broker with empty queues for each measurement, and services of one kind on it."""

    def __init__(self, node: Node, folder: Path, before: str) -> None:
        self.node = node
        self._folder = folder
        self._before = Path(before).resolve()  # where a checkout to compare with lies
        self._count = count(1)
        self._broker = broker_pid(node)
        self._address = dict(node.env)
        if isinstance(node, ContainerNode):  # past Docker's proxy on loopback, which would take a third of a core
            network = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
            self._address["RABBITMQ_HOST"] = node.docker("inspect", "--format", network, node.container).strip()

    def pipeline(self, kind: str = OURS) -> Pipeline:
        """A new virtual host and a new folder."""
        vhost = f"bench{next(self._count)}"
        self.node.api("PUT", f"/vhosts/{vhost}")
        self.node.api("PUT", f"/permissions/{vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        folder = self._folder / vhost
        (folder / "logs").mkdir(parents=True)
        root = self._before if kind == BEFORE else ROOT
        return Pipeline({**self._address, "RABBITMQ_VHOST": vhost}, folder, root)

    @property
    def model_in_c(self) -> Path:
        return self._folder / "model_stage"

    def builds_model_in_c(self) -> bool:
        """Build it; whether that can be done here."""
        command = ["cc", "-O2", "tests/load/model_stage.c", "-lrabbitmq", "-o", str(self.model_in_c)]
        try:
            return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
        except OSError:  # no cc
            return False

    def end(self, pipeline: Pipeline) -> None:
        pipeline.close()
        self.node.api("DELETE", f"/vhosts/{pipeline.vhost}")

    def cpu(self, processes: Dict[str, Process]) -> Dict[str, float]:
        """CPU seconds used so far by each process and by RabbitMQ; those that have ended are left out."""
        found = {name: cpu_seconds(process.popen.pid) for name, process in processes.items()}
        found["RabbitMQ"] = cpu_seconds(self._broker)
        return {name: seconds for name, seconds in found.items() if seconds}


def broker_pid(node: Node) -> int:
    if isinstance(node, ContainerNode):
        lines = node.docker("top", node.container, "-eo", "pid,comm").splitlines()
        return next(int(line.split()[0]) for line in lines if "beam" in line)
    return int(subprocess.check_output(["pgrep", "--newest", "--full", f"beam.*{node.folder.name}"], text=True))


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used; 0 when it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used if fields[0] != "Z" else 0.0


def start(pipeline: Pipeline, kind: str, service: str, **env: Any) -> Process:
    """A service of this kind, connected, or for plot with its first picture drawn."""
    if kind in {OURS, BEFORE}:
        process = pipeline.start(service, **env)
    else:
        process = pipeline.start("tests/support/textbook", service, SAFE=int(kind == SAFE), **env)
    if service == "plot":
        wait_until(pipeline.image.exists, 30, "the first picture")
    else:
        process.says("connected to RabbitMQ")
    return process


class Rows:
    """Counts the rows of a CSV by what is new, to leave the processors to the services."""

    def __init__(self, csv: Path) -> None:
        self._csv = csv
        self._offset = 0
        self.count = -1  # of the header

    def look(self) -> int:
        if self._csv.exists():
            with self._csv.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            self._offset += len(new)
            self.count += new.count(b"\n")
        return self.count

    def wait_for(self, enough: int, seconds: float = 300) -> float:
        """Until there are so many; when that was."""
        wait_until(lambda: self.look() >= enough, seconds, f"{enough} rows; there are {self.count}")
        return time.monotonic()


def end_to_end(bench: Bench, kind: str, batch: int, samples: int) -> List[float]:
    """Samples a second, from the first row to the last; CPU microseconds a sample of each service and of RabbitMQ.

    All services are there and idle before; features begins to publish when it has connected.
    """
    pipeline = bench.pipeline(kind)
    try:
        processes = {name: start(pipeline, kind, name) for name in ("metrics", "model", "plot")}
        before = bench.cpu(processes)
        rows = Rows(pipeline.csv)
        processes["features"] = start(pipeline, kind, "features", SAMPLES=samples, INTERVAL=0, BATCH_SIZE=batch)
        begun = rows.wait_for(1)
        first, used = rows.count, {"features": 0.0, **before}

        def done() -> bool:
            used.update(bench.cpu(processes))  # features ends before the others
            return rows.look() >= samples

        wait_until(done, 300, "all rows")
        rate = (samples - first) / (time.monotonic() - begun)
        cost = [1e6 * (used[name] - before.get(name, 0.0)) / samples for name in (*SERVICES, "RabbitMQ")]
        return [rate, *cost]
    finally:
        bench.end(pipeline)


def sustained(bench: Bench, kind: str, batch: int, seconds: float) -> List[float]:
    """Samples a second in the second half of so many seconds at full speed; messages in the queues then and before."""
    pipeline = bench.pipeline(kind)
    try:
        for name in ("metrics", "model", "plot"):
            start(pipeline, kind, name)
        rows = Rows(pipeline.csv)
        start(pipeline, kind, "features", INTERVAL=0, BATCH_SIZE=batch)
        begun = rows.wait_for(1)
        found = []
        for at in (seconds / 2, seconds):
            wait_until(partial(reached, begun + at), seconds + 5, "time passes")
            found.append((time.monotonic(), rows.look(), depth(pipeline, kind)))
        (half, rows_then, depth_then), (whole, rows_now, depth_now) = found
        return [(rows_now - rows_then) / (whole - half), depth_then, depth_now]
    finally:
        bench.end(pipeline)


def reached(moment: float) -> bool:
    return time.monotonic() >= moment


def depth(pipeline: Pipeline, kind: str) -> int:
    """Messages that wait in all queues."""
    channel = pipeline.connect(durable=kind != TEXTBOOK)
    return sum(
        channel.queue_declare(queue, passive=True).method.message_count for queue in ("features", "y_true", "y_pred")
    )


def model_stage(bench: Bench, kind: str, samples: int) -> List[float]:
    """Messages of one sample a second through the model alone: consumed, predicted, published, acknowledged."""
    pipeline = bench.pipeline(kind)
    try:
        channel = pipeline.connect(durable=kind != TEXTBOOK)
        X, _ = features.generate(np.random.default_rng(1), 10, 0.1, samples)
        for number, x in enumerate(X.tolist()):
            channel.basic_publish("", "features", messages.encode([f"s{number}"], [x], is_batch=False))

        def answered() -> int:
            return channel.queue_declare("y_pred", passive=True).method.message_count

        if kind == C:
            pipeline.connected(str(bench.model_in_c))
        else:
            start(pipeline, kind, "model")
        wait_until(answered, 20, "the first answers")
        begun, first = time.monotonic(), answered()
        wait_until(lambda: answered() >= samples, 300, "all answers")
        return [(samples - first) / (time.monotonic() - begun)]
    finally:
        bench.end(pipeline)


def metrics_stage(
    bench: Bench, kind: str, samples: int, batch: int = 100, replicas: int = 1, cells: int = 1
) -> List[float]:
    """Rows a second that metrics alone writes from full queues; CPU microseconds a row of it.

    While all are at work: so many samples in messages of `batch`, and so many replicas, in each of the cells.
    """
    pipelines = [bench.pipeline(kind) for _ in range(cells)]
    try:
        for pipeline in pipelines:
            fill(pipeline, samples, batch)
        metrics = [pipeline.start("metrics") for pipeline in pipelines for _ in range(replicas)]
        processes = {str(number): process for number, process in enumerate(metrics)}
        rows = [Rows(pipeline.csv) for pipeline in pipelines]
        begun = max(each.wait_for(1) for each in rows)
        first = sum(each.look() for each in rows)
        before = bench.cpu(processes)
        wait_until(lambda: max(each.look() for each in rows) >= samples, 300, "all rows of a cell")
        seconds = time.monotonic() - begun
        written = sum(each.look() for each in rows) - first
        used = bench.cpu(processes)
        cost = sum(used[name] - before[name] for name in processes) / written
        return [written / seconds, 1e6 * cost]
    finally:
        for pipeline in pipelines:
            bench.end(pipeline)


def fill(pipeline: Pipeline, samples: int, batch: int) -> None:
    """Put both halves of so many samples into the queues of metrics, in messages of `batch`."""
    channel = pipeline.connect()
    ids = Ids()
    for _ in range(samples // batch):
        some = ids.take(batch)
        for half, value in (("y_true", 1.5), ("y_pred", 1.25)):
            channel.basic_publish("", half, messages.encode(some, [value] * batch, is_batch=True))


def latency(bench: Bench, kind: str, samples: int) -> List[float]:
    """Milliseconds from a sample's making to its row, at 100 samples a second: the median and the 99th percentile."""
    pipeline = bench.pipeline(kind)
    try:
        for name in ("metrics", "model"):
            start(pipeline, kind, name)
        wait_until(pipeline.csv.exists, 20, "the CSV")
        start(pipeline, kind, "features", INTERVAL=0.01)
        found: List[float] = []
        for line in follow(pipeline.csv):
            if not line.startswith("id,"):
                found.append(1000 * (time.time() - made_at(line.split(",")[0])))
            if len(found) == samples:
                return [float(np.quantile(found, 0.5)), float(np.quantile(found, 0.99))]
        raise AssertionError
    finally:
        bench.end(pipeline)


def made_at(sample_id: str) -> float:
    """The Unix time that an id tells: ours, or the textbook's, which is one."""
    if "T" not in sample_id:
        return float(sample_id)
    time_of_id = sample_time(sample_id)
    assert time_of_id, sample_id
    return time_of_id.timestamp()


def follow(csv: Path) -> Iterator[str]:
    """The lines of a file as they come, seen within a millisecond."""
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


def scaling(bench: Bench, replicas: int) -> List[float]:
    """Samples a second with so many replicas of a model of 20 ms, and the largest share of one, of a fair share."""
    pipeline = bench.pipeline()
    try:
        channel = pipeline.connect()
        models = [pipeline.start("model", MODEL="support.slow_model:predict") for _ in range(replicas)]
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
        return [rate, max(shares) * replicas / samples]
    finally:
        bench.end(pipeline)


def at_rest(bench: Bench, kind: str, service: str) -> List[float]:
    """Seconds until a service is connected, or for plot has drawn, and its resident MB then."""
    pipeline = bench.pipeline(kind)
    try:
        begun = time.monotonic()
        process = start(pipeline, kind, service, INTERVAL=60)
        seconds = time.monotonic() - begun
        status = Path(f"/proc/{process.popen.pid}/status").read_text()
        return [seconds, int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000]
    finally:
        bench.end(pipeline)


def compose_up(folder: Path) -> List[float]:
    """MB of the image, and seconds from `docker compose up`, the image built, to the first row."""
    clone = folder / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    amqp, ui = free_ports(2)
    env = {**os.environ, "AMQP_PORT": str(amqp), "UI_PORT": str(ui)}
    compose: Callable[..., Any] = partial(subprocess.run, cwd=clone, env=env, check=True, capture_output=True)
    command = ["docker", "compose", "--project-name", f"bench{amqp}"]
    compose([*command, "build"])
    try:
        begun = time.monotonic()
        compose([*command, "up", "--detach"])
        seconds = Rows(clone / "logs" / "metric_log.csv").wait_for(1) - begun
        image = subprocess.check_output([*command, "images", "--quiet", "model"], cwd=clone, env=env, text=True).strip()
        size = int(subprocess.check_output(["docker", "image", "inspect", "--format", "{{.Size}}", image], text=True))
        return [size / 1e6, seconds]
    finally:
        compose([*command, "down", "--volumes", "--timeout", "5"])
