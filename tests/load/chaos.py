"""Kills, stops, cuts off and starves the services and the broker at full speed, then counts what came through.

    python tests/load/chaos.py [--seed N] [--seconds 60]

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
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

import numpy as np

from conftest import STATISTICS
from parts import messages
from support.node import Node, wait_until
from support.pipeline import Pipeline, Process, read_rows
from support.proxy import Proxy, Wire

SERVICES = {"features": 2, "model": 2, "metrics": 2, "plot": 1}
DRAIN_WITHIN = 120.0  # seconds for all that is queued in the end to become rows


#: Whose queue it is that refuses: while these stand still, it fills.
CONSUMERS = {"features": "model", "y_true": "metrics", "y_pred": "metrics"}


class Replica:
    """One process of a service, with its own way to the broker; started anew whenever it is killed."""

    def __init__(self, pipeline: Pipeline, proxy: Proxy, service: str, number: int, clock: Path) -> None:
        self._pipeline = pipeline
        self.proxy = proxy
        self.service = service
        self._command = [service]
        self._settings: Dict[str, Any] = {"RABBITMQ_PORT": proxy.port, "PLOT_INTERVAL": 1}
        if service == "features":
            self._settings.update(INTERVAL=(0, 0.001)[number % 2], BATCH_SIZE=(1, 10)[number % 2])
        if service == "model" and number:
            self._settings.update(MODEL="support.odd_models:slow_now_and_then")
        if service in {"features", "metrics"}:
            self._command = ["tests/support/jumping_clock", service]
            self._settings.update(CLOCK=clock, PENDING_TTL=3600)
        self.process = self.start()

    def start(self) -> Process:
        self.process = self._pipeline.start(*self._command, **self._settings)
        return self.process


class Chaos:
    """The faults, one method a kind; each returns when it is over."""

    def __init__(
        self, node: Node, pipeline: Pipeline, replicas: List[Replica], clock: Path, rng: random.Random
    ) -> None:
        self._node = node
        self._pipeline = pipeline
        self._clock = clock
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
            self.let_a_queue_refuse: 3,
            self.set_the_clock: 4,
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
            with suppress(urllib.error.HTTPError):  # it has ended meanwhile, or does just now
                self._node.api("DELETE", f"/connections/{urllib.parse.quote(connection['name'])}")

    def let_a_queue_refuse(self) -> None:
        """Nobody takes from it for a while, and it takes nothing more."""
        queue = self._rng.choice(list(CONSUMERS))
        idle = [replica.process.popen for replica in self._replicas if replica.service == CONSUMERS[queue]]
        for process in idle:
            process.send_signal(signal.SIGSTOP)
        self._pipeline.connect()  # so that it is there
        self._pipeline.close_client()
        # In two steps: a queue that learns both at once drops what is too much before it knows that it is to refuse.
        for length in (10**9, 1):
            definition = {"overflow": "reject-publish", "max-length": length}
            self._node.api("PUT", "/policies/%2F/full", {"pattern": f"^{queue}$", "definition": definition})
            wait_until(lambda: self._most_in(queue) == length, 20, "the policy is applied")  # noqa: B023
        self._wait(1, 2.5)
        self._node.api("DELETE", "/policies/%2F/full")
        for process in idle:
            process.send_signal(signal.SIGCONT)

    def _most_in(self, queue: str) -> int:
        policy = self._node.api("GET", f"/queues/%2F/{queue}").get("effective_policy_definition") or {}
        return policy.get("max-length", 0)

    def set_the_clock(self) -> None:
        self._clock.write_text(str(self._rng.choice([0, 7200, -7200, 1e6])))

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


def run(node: Node, seed: int, seconds: float, folder: Path) -> Tuple[bool, str]:
    """One run on a node that looks at its queues every second; whether all is well, and the report."""
    rng = random.Random(seed)
    clock = folder / "clock"
    clock.write_text("0")
    pipeline = Pipeline(node.env, folder)
    wire = Wire()
    proxies: List[Proxy] = []
    try:
        # A RabbitMQ that is killed in the second after a queue was declared may forget it, with all that it confirmed.
        pipeline.connect()
        pipeline.close_client()
        node.stop()
        node.start()
        replicas = []
        for service, count in SERVICES.items():
            for number in range(count):
                proxies.append(Proxy(node.port, wire if service == "features" else None))
                replicas.append(Replica(pipeline, proxies[-1], service, number, clock))
        chaos = Chaos(node, pipeline, replicas, clock, rng)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            chaos.strike()
            time.sleep(rng.uniform(0, 0.5))
        for replica in replicas:
            if replica.service == "features":
                replica.process.stop(clean=False)  # it may just be without a connection
        queues = ["features", "y_true", "y_pred"]
        wait_until(lambda: _all_consumed(node, queues), DRAIN_WITHIN, "every queue is empty")
        for replica in replicas:
            if replica.service != "features":
                replica.process.stop()
        pipeline.connect()
        left = sum(pipeline.waiting(queue) for queue in queues)
        assert not left, f"{left} messages are left in the queues"
        return judge(seed, chaos.count, wire, pipeline, node)
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
    seed: int, faults: "collections.Counter[str]", wire: Wire, pipeline: Pipeline, node: Node
) -> Tuple[bool, str]:
    """Compare the CSV with what passed over the wire."""
    rows = read_rows(pipeline.csv)
    written = {row[0]: row[1:] for row in rows}
    twice = len(rows) - len(written)
    y_true = decoded(wire.published["y_true"], messages.VALUES)
    X = decoded(wire.published["features"], messages.FEATURES)
    confirmed = wire.confirmed_ids("y_true") & wire.confirmed_ids("features")
    lost = confirmed - written.keys()
    wrong = {
        sample_id
        for sample_id, (label, prediction, error) in written.items()
        if sample_id not in y_true
        or float(label) != y_true[sample_id]
        or float(prediction) != float(np.sum(X[sample_id]))
        or float(error) != abs(float(label) - float(prediction))
    }
    waiting = _waiting(pipeline.state)
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


def decoded(bodies: Set[bytes], decoder: Any) -> Dict[str, Any]:
    """Each sample of these messages by its id."""
    found: Dict[str, Any] = {}
    for body in bodies:
        message = messages.decode(body, decoder)
        found.update(zip(message.ids, message.bodies))
    return found


def _waiting(state: Path) -> Set[str]:
    with sqlite3.connect(state) as db:
        return {row[0] for row in db.execute("SELECT id FROM waiting")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--seconds", type=float, default=60, help="of faults; the end takes up to as long again")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and nothing is left running
    print(f"seed {arguments.seed}, {arguments.seconds:g} s of faults", flush=True)
    node = Node(STATISTICS)
    try:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            good, report = run(node.start(), arguments.seed, arguments.seconds, Path(folder))
    finally:
        node.close()
    print(report)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
