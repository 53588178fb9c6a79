"""Three RabbitMQ nodes by deploy/cluster.yml and the services, in a clone."""

import secrets
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterable, List

from support.containers import Project, clone
from support.node import call_api, works

NODES = ["rabbitmq", "rabbitmq2", "rabbitmq3"]


class Cluster(Project):
    def __init__(self, folder: Path, **env: Any) -> None:
        compose = "docker compose -f docker-compose.yml -f deploy/cluster.yml"
        super().__init__(compose, folder, {"RABBITMQ_ERLANG_COOKIE": secrets.token_hex(), **env})
        clone(folder)

    def start(self) -> None:
        """The nodes, and all services but features."""
        self.run("up", "--build", "--detach", "--scale", "features=0")

    def all_replicas_online(self) -> bool:
        """Whether every queue is a quorum queue with its three replicas at work."""
        try:
            queues = call_api(self.ui_port, "GET", "/queues")
        except OSError:  # that node is away
            return False
        nodes = {f"rabbit@{name}" for name in NODES}
        return bool(queues) and all(q.get("type") == "quorum" and set(q.get("online", ())) == nodes for q in queues)

    def is_whole(self) -> bool:
        """Whether every queue would do without this node, as it does while all three replicas are at work.

        It asks the replicas themselves. The management API goes on telling what a node that a split deposed as a
        queue's leader knew last of the queue.
        """
        [node] = self.inspect("rabbitmq", "{{.Id}}")
        return works(f"docker exec {node} rabbitmq-diagnostics check_if_node_is_quorum_critical")

    def csv_size(self) -> int:
        return self.csv.stat().st_size if self.csv.exists() else 0

    def csv_lines(self) -> int:
        return self.csv.read_bytes().count(b"\n") if self.csv.exists() else 0


class Growth(threading.Thread):
    """Notes when the CSV grows, of so many bytes, while the block lasts that it is the context of."""

    def __init__(self, csv_size: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._csv_size = csv_size
        self._done = threading.Event()
        self.times: List[float] = []

    def __enter__(self) -> "Growth":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        size = self._csv_size()
        while not self._done.wait(0.05):
            before, size = size, self._csv_size()
            if size != before:
                self.times.append(time.monotonic())


def longest_pause(times: Iterable[float], since: float) -> float:
    """Seconds, at most, from one of these times to the next, from a point in time to now."""
    ordered = [since, *sorted(at for at in times if at > since), time.monotonic()]
    return max(after - before for before, after in zip(ordered, ordered[1:]))
