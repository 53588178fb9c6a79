"""Cuts, halves and slows the links of a cluster of three nodes under load, then counts what came through.

    python tests/load/splits.py [--seed N] [--runs 20] [--seconds 40]

As Jepsen tests queues (https://aphyr.com/posts/315-jepsen-rabbitmq): beside two features, a publisher a node
writes a history of what that node has confirmed to it, and publishes nothing again that it had no answer to. When the
network is whole again, each confirmed sample must have exactly one row, and each of features' samples too.

Prints a line a run: the faults, for how long each node and any node confirmed nothing to these publishers, for how long
no row came, the rows, and how many samples were lost, written twice or wrong; exits with 1 when any was. Needs Linux,
Docker, iptables, iproute2, and root or sudo without a password.
"""

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Set, Tuple

import pika

from support import network
from support.cluster import NODES, Cluster, Growth, longest_pause
from support.node import wait_until
from support.pipeline import read_rows

RATE = 500  # samples a second of each features
REPLICAS = 2
QUEUES = ["features", "y_true", "y_pred"]
WHOLE_WITHIN = 180.0  # seconds for nodes, services and queues to become again what they were


class Publisher(threading.Thread):
    """Publishes samples to one node alone; after an error, or ten seconds without a confirm, on another connection.

    A sample without an answer for both halves may become a row or not; it is not published again.
    """

    def __init__(self, host: network.Host, name: str) -> None:
        super().__init__(daemon=True)
        self._name = name
        self._enough = threading.Event()
        self._parameters = pika.ConnectionParameters(host.address, heartbeat=4, socket_timeout=3, stack_timeout=5)
        self._in_flight: Dict[int, str] = {}  # ids by the number of the message on its channel
        self._published = 0  # messages on this channel
        self._refused: Set[str] = set()  # ids
        self.tried: Dict[str, int] = {}  # true values by id
        self.confirmed: List[str] = []  # ids
        self.times: List[float] = []  # when each was confirmed

    def run(self) -> None:
        while not self._enough.wait(0.2):
            connection = pika.SelectConnection(
                self._parameters,
                on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
                on_open_error_callback=lambda connection, _: connection.ioloop.stop(),
                on_close_callback=lambda connection, _: connection.ioloop.stop(),
            )
            self._look(connection.ioloop, time.monotonic())
            connection.ioloop.start()

    def end(self) -> None:
        self._enough.set()
        self.join()

    def _look(self, loop: Any, begun: float) -> None:
        """Give this connection up, without a word, when nothing was confirmed on it for long."""
        if self._enough.is_set() or time.monotonic() - max([begun, *self.times[-1:]]) > 10:
            loop.stop()
        else:
            loop.call_later(0.2, lambda: self._look(loop, begun))

    def _on_channel(self, channel: Any) -> None:
        self._in_flight, self._published = {}, 0
        # A node that knows no such queue gives the message back, and then confirms it.
        channel.add_on_return_callback(lambda _channel, _method, _, body: self._refused.add(json.loads(body)["id"]))
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._publish(channel))

    def _publish(self, channel: Any) -> None:
        if not channel.is_open:
            return
        channel.connection.ioloop.call_later(0.01, lambda: self._publish(channel))
        if len(self._in_flight) < 100:
            number = len(self.tried) + 1
            sample_id = f"{self._name}-{number}"
            self.tried[sample_id] = number
            for queue, body in (("y_true", number), ("features", [number, 1])):
                self._published += 1
                self._in_flight[self._published] = sample_id
                message = json.dumps({"id": sample_id, "body": body}).encode()
                channel.basic_publish("", queue, message, pika.BasicProperties(delivery_mode=2), mandatory=True)

    def _on_confirm(self, frame: Any) -> None:
        newest = frame.method.delivery_tag
        numbers = [n for n in self._in_flight if n <= newest] if frame.method.multiple else [newest]
        for number in numbers:
            sample_id = self._in_flight.pop(number)
            other = number + 1 if number % 2 else number - 1
            if isinstance(frame.method, pika.spec.Basic.Nack):
                self._refused.add(sample_id)
            elif other not in self._in_flight and sample_id not in self._refused:
                self.confirmed.append(sample_id)
                self.times.append(time.monotonic())


class Splits:
    """The faults, one method a kind; each returns what it has done."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._rng = rng
        self.nodes = {name: network.Host(container) for name in NODES for container in cluster.inspect(name, "{{.Id}}")}
        self.services = {
            f"{service} {number}": network.Host(container)
            for service in ("features", "model", "metrics")
            for number, container in enumerate(cluster.inspect(service, "{{.Id}}"), 1)
        }

    def strike(self) -> str:
        """One fault, or two at once."""
        kinds: List[Callable[[], str]] = [
            self.one_node_alone,
            self.one_node_gone,
            self.every_node_alone,
            self.one_link,
            self.half_a_link,
            self.a_bad_link,
            self.a_slow_node,
            self.a_service_cut_off,
            self.a_service_half_cut_off,
        ]
        return " and ".join(kind() for kind in self._rng.sample(kinds, self._rng.choice([1, 1, 2])))

    def one_node_alone(self) -> str:
        """The other nodes don't reach it, whoever publishes and consumes does."""
        name, *others = self._shuffled()
        for other in others:
            self.nodes[name].cut(self.nodes[other].address)
        return f"{name} without the others"

    def one_node_gone(self) -> str:
        name, *others = self._shuffled()
        ends = [self.nodes[other] for other in others] + list(self.services.values())
        for address in [end.address for end in ends] + [self.nodes[name].gateway]:
            self.nodes[name].cut(address)
        return f"{name} alone"

    def every_node_alone(self) -> str:
        for name in NODES:
            for other in NODES:
                if other != name:
                    self.nodes[name].cut(self.nodes[other].address)
        return "every node without the others"

    def one_link(self) -> str:
        name, other, _ = self._shuffled()
        self.nodes[name].cut(self.nodes[other].address)
        return f"{name} x {other}"

    def half_a_link(self) -> str:
        name, other, _ = self._shuffled()
        self.nodes[name].deaf_to(self.nodes[other].address)
        return f"{name} deaf to {other}"

    def a_bad_link(self) -> str:
        name, other, _ = self._shuffled()
        share = self._rng.choice([0.1, 0.3, 0.6])
        self.nodes[name].cut(self.nodes[other].address, share)
        return f"{share:.0%} lost of {name} - {other}"

    def a_slow_node(self) -> str:
        name = self._rng.choice(NODES)
        rate = self._rng.choice(["300kbit", "1mbit", "3mbit"])
        self.nodes[name].slow(rate)
        return f"{name} at {rate}"

    def a_service_cut_off(self) -> str:
        """From two nodes: in two of three cases one of these is its own, and there is one to go to."""
        service, [name, other, _] = self._service(), self._shuffled()
        for node in (name, other):
            self.nodes[node].cut(self.services[service].address)
        return f"{service} x {name} and {other}"

    def a_service_half_cut_off(self) -> str:
        """It hears nothing of two nodes, or they nothing of it."""
        service, [name, other, _] = self._service(), self._shuffled()
        deaf = self._rng.choice([True, False])
        for node in (name, other):
            host, address = self.nodes[node], self.services[service].address
            host.mute_to(address) if deaf else host.deaf_to(address)
        return f"{service} deaf to {name} and {other}" if deaf else f"{name} and {other} deaf to {service}"

    def heal(self) -> None:
        for host in self.nodes.values():
            host.heal()

    def _shuffled(self) -> List[str]:
        return self._rng.sample(NODES, len(NODES))

    def _service(self) -> str:
        return self._rng.choice(list(self.services))


def run(cluster: Cluster, seed: int, seconds: float) -> Tuple[bool, str]:
    """One run on a cluster that is whole and has nothing to do; whether all is well, and the report."""
    rng = random.Random(seed)
    samples = int(seconds * RATE)
    settings = {"INTERVAL": "0.02", "BATCH_SIZE": str(RATE // 50), "SAMPLES": str(samples)}
    cluster.csv.unlink(missing_ok=True)  # metrics begins it anew
    cluster.run("rm", "--force", "--stop", "features")  # where a run before this one failed, it may be at work
    cluster.run("up", "--detach", "--scale", f"features={REPLICAS}", "features", **settings)
    splits = Splits(cluster, rng)
    publishers = [Publisher(host, f"{name}-{seed}") for name, host in splits.nodes.items()]
    faults: List[str] = []
    outcome = ""
    try:
        with Growth(cluster.csv_size) as growth, publishing(publishers):
            wait_until(lambda: growth.times and all(p.times for p in publishers), 60, "the first rows and confirms")
            begun = time.monotonic()
            while time.monotonic() < begun + seconds:
                fault, struck = splits.strike(), time.monotonic()
                time.sleep(rng.choice([rng.uniform(1, 5), rng.uniform(5, 25)]))  # some longer than net_ticktime
                splits.heal()
                healed = time.monotonic()
                faults.append(f"{fault} {healed - struck:.0f} s")
                time.sleep(rng.uniform(0, 5))
            wait_for_all_nodes(cluster, publishers, healed)
            each = ", ".join(f"{longest_pause(publisher.times, begun):.1f}" for publisher in publishers)
            anybody = longest_pause([at for publisher in publishers for at in publisher.times], begun)
            outcome = (
                f"each node confirmed nothing for {each} s, none anything for {anybody:.1f} s, no row for "
                f"{longest_pause(growth.times, begun):.1f} s, whole {time.monotonic() - healed:.0f} s after the last"
            )
        wait_for_the_rows(cluster, publishers, samples * REPLICAS)
        good = True
    except TimeoutError as error:
        good = False
        outcome += f" {error}"
    finally:
        splits.heal()
        cluster.run("start", "model", "metrics")
    rows, lost, twice, wrong = judge(cluster, publishers, samples * REPLICAS)
    report = f"seed {seed}: {', '.join(faults)}; {outcome}; {rows} rows, lost {lost}, twice {twice}, wrong {wrong}"
    return good and not (lost or twice or wrong), report


@contextlib.contextmanager
def publishing(publishers: Sequence[Publisher]) -> Iterator[None]:
    for publisher in publishers:
        publisher.start()
    try:
        yield
    finally:
        for publisher in publishers:
            publisher.end()


def wait_for_all_nodes(cluster: Cluster, publishers: Sequence[Publisher], healed: float) -> None:
    confirms = "every node confirms again"
    wait_until(lambda: all(p.times[-1] > healed for p in publishers), WHOLE_WITHIN, confirms)
    wait_until(cluster.is_whole, WHOLE_WITHIN, "every replica is online")


def wait_for_the_rows(cluster: Cluster, publishers: Sequence[Publisher], from_features: int) -> None:
    """Until all is published and nothing of it is left in a queue or in anybody's hands."""
    ended = "{{.State.Status}} {{.State.ExitCode}}"
    all_published = ["exited 0"] * REPLICAS  # and confirmed
    wait_until(lambda: cluster.inspect("features", ended) == all_published, WHOLE_WITHIN, "features has published all")
    expected = from_features + sum(len(publisher.confirmed) for publisher in publishers)

    def nothing_is_lost() -> bool:
        return cluster.csv_lines() > expected and not missing(set(cluster.ids()), publishers, from_features)

    wait_until(nothing_is_lost, WHOLE_WITHIN, f"{expected} rows")
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", cluster.amqp_port)) as connection:
        channel = connection.channel()

        def all_empty() -> bool:
            return not any(channel.queue_declare(queue, passive=True).method.message_count for queue in QUEUES)

        for service in ("model", "metrics"):  # what they had in hand and don't finish goes back to its queue
            wait_until(all_empty, WHOLE_WITHIN, "every queue is empty")
            cluster.run("stop", service)
        wait_until(all_empty, 5, "every queue is empty when its consumers have stopped")


def judge(cluster: Cluster, publishers: Sequence[Publisher], from_features: int) -> Tuple[int, int, int, int]:
    """How many rows there are, and how many samples were lost, written twice and written wrong."""
    rows = read_rows(cluster.csv)
    written = {row[0]: [float(number) for number in row[1:]] for row in rows}
    numbers = {sample_id: number for publisher in publishers for sample_id, number in publisher.tried.items()}
    wrong = 0
    for sample_id, (y_true, y_pred, error) in written.items():
        if sample_id in numbers:
            number = numbers[sample_id]
            wrong += (y_true, y_pred, error) != (number, number + 1, 1)
        else:  # from features, with a noise of 0.1: halves of two samples are rarely as close
            wrong += error != abs(y_true - y_pred) or error > 1
    return len(rows), missing(set(written), publishers, from_features), len(rows) - len(written), wrong


def missing(written: Set[str], publishers: Sequence[Publisher], from_features: int) -> int:
    """How many of the samples that were confirmed have no row."""
    ours = {sample_id for publisher in publishers for sample_id in publisher.tried}
    confirmed = {sample_id for publisher in publishers for sample_id in publisher.confirmed}
    return len(confirmed - written) + from_features - len(written - ours)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of the first run")
    parser.add_argument("--runs", type=int, default=1, help="each with the next seed")
    parser.add_argument("--seconds", type=float, default=40, help="of faults in a run, about; its end comes on top")
    parser.add_argument("--khepri", action="store_true", help="metadata as RabbitMQ 4.2 stores it, also in 4.0 and 4.1")
    arguments = parser.parse_args()
    if network.missing():
        parser.error(f"cannot cut links here without {network.missing()}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and nothing is left running
    all_good = True
    with tempfile.TemporaryDirectory(prefix="splits-") as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            wait_until(cluster.all_replicas_online, 120, "three replicas of each queue")
            if arguments.khepri:
                cluster.run("exec", "-T", "rabbitmq", "rabbitmqctl", "enable_feature_flag", "--opt-in", "khepri_db")
                wait_until(cluster.is_whole, 120, "the cluster with Khepri")
            for seed in range(arguments.seed, arguments.seed + arguments.runs):
                good, report = run(cluster, seed, arguments.seconds)
                print(report, flush=True)
                all_good = all_good and good
        finally:
            cluster.remove()
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
