"""Kills, stops, cuts off and starves the services and the broker at full speed, then counts what came through.

    python tests/chaos.py [--seed N] [--seconds 60] [--shards 1]

Prints the samples, the faults by kind, the rows, and how many were lost or written twice; exits with 1 when
any was. Nothing depends on what the services say of themselves: a proxy on the wire between features and
RabbitMQ notes what features published and what RabbitMQ confirmed.
"""

import argparse
import collections
import random
import signal
import sqlite3
import sys
import tempfile
import time
import urllib.error
import urllib.parse
from http import HTTPStatus
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

import numpy as np
from conftest import STATISTICS, Pipeline, Process, read_rows
from node import Node, wait_until
from proxy import Proxy, Wire

import messages

SERVICES = {"features": 2, "model": 2, "metrics": 2, "plot": 1}
DRAIN_WITHIN = 120.0  # seconds for all that is queued in the end to become rows


def part(path: Path, shard: int) -> Path:
    """The file of a shard of metrics."""
    return path.with_name(f"{path.stem}.{shard}{path.suffix}") if shard else path


class Replica:
    """One process of a service, with its own way to the broker; started anew whenever it is killed."""

    def __init__(self, pipeline: Pipeline, proxy: Proxy, service: str, number: int, shards: int) -> None:
        self._pipeline = pipeline
        self.proxy = proxy
        self.service = service
        self._settings: Dict[str, Any] = {"RABBITMQ_PORT": proxy.port, "PLOT_INTERVAL": 1}
        if service == "features":
            self._settings.update(INTERVAL=0, BATCH_SIZE=(1, 10)[number % 2], SHARDS=shards)
        if service == "metrics":
            shard = number % shards
            self._settings.update(
                SHARD=shard, CSV_FILE=part(pipeline.csv, shard), STATE_FILE=part(pipeline.state, shard)
            )
        self.process = self.start()

    def start(self) -> Process:
        self.process = self._pipeline.start(self.service, **self._settings)
        return self.process

    def __str__(self) -> str:
        return f"{self.service} {self.process.popen.pid}"


class Chaos:
    """The faults, one method a kind; each returns when it is over."""

    def __init__(self, node: Node, replicas: List[Replica], rng: random.Random) -> None:
        self._node = node
        self._replicas = replicas
        self._rng = rng
        self.count: collections.Counter[str] = collections.Counter()

    def kinds(self) -> Tuple[List[Callable[[], None]], List[int]]:
        weights = {
            self.kill_a_service: 12,
            self.freeze_a_service: 5,
            self.cut_a_service_off: 5,
            self.stall_a_service: 4,
            self.close_all_connections: 4,
            self.raise_the_memory_alarm: 1,
            self.restart_the_broker: 1,
            self.kill_the_broker: 1,
        }
        return list(weights), list(weights.values())

    def strike(self) -> None:
        kinds, weights = self.kinds()
        [fault] = self._rng.choices(kinds, weights)
        fault()
        self.count[fault.__name__.replace("_", " ")] += 1

    def kill_a_service(self) -> None:
        victim = self._rng.choice(self._replicas)
        victim.process.kill()
        victim.start()

    def freeze_a_service(self) -> None:
        victim = self._rng.choice(self._replicas).process.popen
        victim.send_signal(signal.SIGSTOP)
        self._wait(0.2, 3)
        victim.send_signal(signal.SIGCONT)

    def cut_a_service_off(self) -> None:
        victim = self._rng.choice(self._replicas).proxy
        victim.refuse()
        self._wait(0, 2)
        victim.heal()

    def stall_a_service(self) -> None:
        victim = self._rng.choice(self._replicas).proxy
        victim.stall()
        self._wait(0.5, 4)
        if self._rng.random() < 0.5:
            victim.refuse()  # what was on its way never arrives
        victim.heal()

    def close_all_connections(self) -> None:
        for connection in self._node.api("GET", "/connections"):
            try:
                self._node.api("DELETE", f"/connections/{urllib.parse.quote(connection['name'])}")
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.NOT_FOUND:  # it has ended meanwhile
                    raise

    def raise_the_memory_alarm(self) -> None:
        self._node.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        self._node.ctl("set_vm_memory_high_watermark", "0.6")

    def restart_the_broker(self) -> None:
        self._node.stop()
        self._node.start()

    def kill_the_broker(self) -> None:
        self._node.stop(signal.SIGKILL)
        self._node.start()

    def _wait(self, low: float, high: float) -> None:
        time.sleep(self._rng.uniform(low, high))


def run(node: Node, seed: int, seconds: float, folder: Path, shards: int = 1) -> Tuple[bool, str]:
    """One run on a node that looks at its queues every second; whether all is well, and the report."""
    rng = random.Random(seed)
    pipeline = Pipeline(node.env, folder)
    wire = Wire()
    proxies: List[Proxy] = []
    try:
        replicas = []
        for service, count in SERVICES.items():
            for number in range(count * shards if service == "metrics" else count):
                proxies.append(Proxy(node.port, wire if service == "features" else None))
                replicas.append(Replica(pipeline, proxies[-1], service, number, shards))
        chaos = Chaos(node, replicas, rng)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            chaos.strike()
            time.sleep(rng.uniform(0, 0.5))
        for replica in replicas:
            if replica.service == "features":
                replica.process.stop(clean=False)  # it may just be without a connection
        queues = ["features", *(messages.shard(half, n) for n in range(shards) for half in ("y_true", "y_pred"))]
        wait_until(lambda: _all_consumed(node, queues), DRAIN_WITHIN, "every queue is empty")
        for replica in replicas:
            if replica.service != "features":
                replica.process.stop()
        left = sum(pipeline.waiting(queue) for queue in queues)
        assert not left, f"{left} messages are left in the queues"
        return judge(seed, chaos.count, wire, pipeline, node, shards)
    finally:
        pipeline.close()
        for proxy in proxies:
            proxy.close()


def _all_consumed(node: Node, names: List[str]) -> bool:
    queues = [queue for queue in node.api("GET", "/queues") if queue["name"] in names]
    # The statistics lag behind by some seconds: a queue counts as empty when it was idle meanwhile.
    return len(queues) == len(names) and all(
        queue.get("messages", 1) == 0 and queue.get("messages_details", {}).get("rate", 1) == 0 for queue in queues
    )


def judge(
    seed: int, faults: "collections.Counter[str]", wire: Wire, pipeline: Pipeline, node: Node, shards: int = 1
) -> Tuple[bool, str]:
    """Compare the CSV with what passed over the wire."""
    rows = [row for shard in range(shards) for row in read_rows(part(pipeline.csv, shard))]
    written = {row[0]: row[1:] for row in rows}
    twice = len(rows) - len(written)
    labels = [messages.shard("y_true", shard) for shard in range(shards)]
    y_true = decoded({body for queue in labels for body in wire.published[queue]}, messages.finite_number)
    X = decoded(wire.published["features"], messages.finite_numbers)
    confirmed = {found for queue in labels for found in wire.confirmed_ids(queue)} & wire.confirmed_ids("features")
    lost = confirmed - written.keys()
    wrong = {
        sample_id
        for sample_id, (label, prediction, error) in written.items()
        if sample_id not in y_true
        or float(label) != y_true[sample_id]
        or float(prediction) != float(np.sum(X[sample_id]))
        or float(error) != abs(float(label) - float(prediction))
    }
    waiting = {found for shard in range(shards) for found in _waiting(part(pipeline.state, shard))}
    unexplained = waiting & confirmed
    dead = sum(queue.get("messages", 0) for queue in node.api("GET", "/queues") if queue["name"] == "dead_letters")
    named = f" ({', '.join(sorted(waiting)[:3])}{', …' if len(waiting) > 3 else ''})" if waiting else ""
    report = "\n".join(
        [
            f"seed {seed}: {len(confirmed)} samples confirmed of {len(X | y_true)} published",
            f"{sum(faults.values())} faults: " + ", ".join(f"{n} x {kind}" for kind, n in sorted(faults.items())),
            f"rows {len(rows)}, lost {len(lost)}, twice {twice}, wrong {len(wrong)}, set aside {dead}",
            f"halves whose partner was never confirmed: {len(waiting)}{named}, unexplained {len(unexplained)}",
        ]
    )
    return not (lost or twice or wrong or dead or unexplained), report


def decoded(bodies: Set[bytes], check: Callable[[Any], Any]) -> Dict[str, Any]:
    """Each sample of these messages by its id."""
    found: Dict[str, Any] = {}
    for body in bodies:
        message = messages.decode(body, check)
        found.update(zip(message.ids, message.bodies))
    return found


def _waiting(state: Path) -> Set[str]:
    with sqlite3.connect(state) as db:
        return {row[0] for row in db.execute("SELECT id FROM samples WHERE y_true IS NULL OR y_pred IS NULL")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--seconds", type=float, default=60, help="of faults; the end takes up to as long again")
    parser.add_argument("--shards", type=int, default=1, help="of metrics, two replicas each")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and nothing is left running
    print(f"seed {arguments.seed}, {arguments.seconds:g} s of faults", flush=True)
    node = Node(STATISTICS)
    try:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            good, report = run(node.start(), arguments.seed, arguments.seconds, Path(folder), arguments.shards)
    finally:
        node.close()
    print(report)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
