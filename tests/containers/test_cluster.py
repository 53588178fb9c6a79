"""Three RabbitMQ nodes by deploy/cluster.yml, of which any may fail; not a line of the services knows of it."""

import os
import secrets
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import Callable, Iterator, List

import pika
import pytest

from support.containers import SERVICES, Project, clone, docker
from support.node import call_api, wait_until, works
from support.pages import commands

CLUSTER = "docker compose -f docker-compose.yml -f deploy/cluster.yml"
NODES = ["rabbitmq", "rabbitmq2", "rabbitmq3"]
SAMPLES = 10_000  # of each of two features, in twenty seconds: about as long as it takes to break and mend something

pytestmark = [
    pytest.mark.skipif(os.environ.get("CLUSTER") != "1", reason="takes five minutes: set CLUSTER=1"),
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.xdist_group("cluster"),  # its tests share one
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The cluster and all services but features."""
    env = {"RABBITMQ_ERLANG_COOKIE": secrets.token_hex(), "INTERVAL": 0.02, "BATCH_SIZE": 10, "SAMPLES": SAMPLES}
    project = Project(CLUSTER, tmp_path_factory.mktemp("cluster"), env)
    clone(project.folder)
    try:
        project.run("up", "--build", "--detach", "--scale", "features=0")
        yield project
    finally:
        project.remove()


def all_replicas_online(cluster: Project) -> bool:
    """Whether every queue, in every virtual host, is a quorum queue with its three replicas at work."""
    try:
        queues = call_api(cluster.ui_port, "GET", "/queues")
    except OSError:  # that node is away
        return False
    nodes = {f"rabbit@{name}" for name in NODES}
    return bool(queues) and all(q.get("type") == "quorum" and set(q.get("online", ())) == nodes for q in queues)


@contextmanager
def load(cluster: Project) -> Iterator[Callable[[float], float]]:
    """Two features publish while this block breaks something; then each of their samples has its one row.

    What it gives tells for how long, at most, no row came since a point in time.
    """
    before = len(cluster.ids())
    cluster.run("up", "--detach", "--scale", "features=2", "features")
    started = [cluster.inspect(name, "{{.State.StartedAt}}") for name in SERVICES]
    grown: List[float] = []  # when the CSV did
    done = threading.Event()

    def watch() -> None:
        size = csv_size(cluster)
        while not done.wait(0.05):
            if csv_size(cluster) != size:
                size = csv_size(cluster)
                grown.append(time.monotonic())

    def longest_pause(since: float) -> float:
        times = [since, *[at for at in grown if at > since], time.monotonic()]
        return max(after - before for before, after in zip(times, times[1:]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wait_for_growth(cluster)
        assert cluster.inspect("features", "{{.State.Status}}") == ["running"] * 2
        yield longest_pause
    finally:
        done.set()
        watcher.join()

    # A features that published all and had all confirmed exits with 0. None was started again meanwhile.
    ended = "{{.State.Status}} {{.State.ExitCode}}"
    wait_until(lambda: cluster.inspect("features", ended) == ["exited 0"] * 2, 90, "all samples are published")
    assert f"all {SAMPLES} samples published and confirmed" in cluster.run("logs", "--tail", "1", "features")
    wait_until(lambda: len(cluster.ids()) >= before + 2 * SAMPLES, 60, "a row for each sample")
    ids = cluster.ids()
    assert len(ids) == len(set(ids)) == before + 2 * SAMPLES
    assert [cluster.inspect(name, "{{.State.StartedAt}}") for name in SERVICES] == started
    assert {count for name in SERVICES for count in cluster.inspect(name, "{{.RestartCount}}")} == {"0"}


def csv_size(cluster: Project) -> int:
    return cluster.csv.stat().st_size if cluster.csv.exists() else 0


def wait_for_growth(cluster: Project, seconds: float = 60) -> None:
    """Wait for a hundred kilobytes more of rows, which are more than a thousand."""
    size = csv_size(cluster)
    wait_until(lambda: csv_size(cluster) > size + 100_000, seconds, "rows come")


def test_a_cluster_forms_by_itself_and_tells_prometheus_of_itself(cluster):
    nodes = call_api(cluster.ui_port, "GET", "/nodes")
    assert {node["name"] for node in nodes if node["running"]} == {f"rabbit@{name}" for name in NODES}
    wait_until(lambda: len(call_api(cluster.ui_port, "GET", "/queues")) == 4, 30, "all queues")
    wait_until(lambda: all_replicas_online(cluster), 60, "three replicas of each queue")
    for name in NODES:
        ask = f"import urllib.request as r; print(r.urlopen('http://{name}:15692/metrics').read().decode())"
        metrics = cluster.run("exec", "-T", "plot", "python", "-c", ask)
        assert f'rabbitmq_node="rabbit@{name}"' in metrics


def test_a_cluster_without_a_secret_does_not_start(cluster, monkeypatch):
    monkeypatch.setitem(cluster.env, "RABBITMQ_ERLANG_COOKIE", "")
    with pytest.raises(AssertionError, match="RABBITMQ_ERLANG_COOKIE is missing a value"):
        cluster.run("config", "--quiet")


def test_a_message_may_come_back_any_number_of_times(cluster):
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", cluster.amqp_port)) as connection:
        channel = connection.channel()
        channel.queue_declare("returned", durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", "returned", b"still here")
        for _ in range(50):  # RabbitMQ's own limit is 20
            method, _, body = channel.basic_get("returned")
            assert body == b"still here"
            channel.basic_reject(method.delivery_tag, requeue=True)
        channel.queue_delete("returned")


def test_a_cell_on_the_cluster_has_quorum_queues_and_a_csv_of_its_own(cluster):
    if docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project=second"):
        pytest.skip("a project called second is here already")
    _, make, *_ = commands("scaling.md", "Cells")
    _, start = commands("scaling.md", "A cluster")
    second, before = cluster.cell("second"), len(cluster.ids())
    try:
        cluster.type(make)
        cluster.type(start)
        wait_until(lambda: csv_size(second) > 100_000, 60, "rows of the cell")
        assert len(call_api(cluster.ui_port, "GET", "/queues/second")) == 4
        wait_until(lambda: all_replicas_online(cluster), 60, "three replicas of each queue")
        cluster.run("kill", "rabbitmq2")
        wait_for_growth(second)
        cluster.run("start", "rabbitmq2")
        wait_until(lambda: len(second.ids()) >= SAMPLES, 60, "all rows of the cell")
        assert len(set(second.ids())) == len(second.ids()) == SAMPLES
        assert len(cluster.ids()) == before
    finally:
        second.remove()
        call_api(cluster.ui_port, "DELETE", "/vhosts/second")
    wait_until(lambda: all_replicas_online(cluster), 90, "rabbitmq2 back in the cluster")


@pytest.mark.parametrize("node", NODES)
def test_a_killed_node_is_left_within_seconds_and_nothing_is_lost(cluster, node):
    with load(cluster) as longest_pause:
        begun = time.monotonic()
        cluster.run("kill", node)
        wait_for_growth(cluster)
        cluster.run("start", node)
        wait_until(lambda: all_replicas_online(cluster), 90, f"{node} back in the cluster")
        print(f"\nlongest pause with {node} killed: {longest_pause(begun):.1f} s")
        assert longest_pause(begun) < 15


def test_a_node_that_vanishes_from_the_network_is_left_too(cluster):
    [container] = cluster.inspect("rabbitmq", "{{.Id}}")
    network = f"{cluster.name}_default"
    with load(cluster) as longest_pause:
        begun = time.monotonic()
        docker("network", "disconnect", network, container)
        wait_for_growth(cluster, 90)
        print(f"\nlongest pause with rabbitmq cut off: {longest_pause(begun):.1f} s")
        docker("network", "connect", "--alias", "rabbitmq", network, container)
        wait_until(lambda: all_replicas_online(cluster), 90, "rabbitmq back in the cluster")
        assert longest_pause(begun) < 30


def test_two_nodes_are_killed_at_once_and_all_goes_on_when_they_are_back(cluster):
    with load(cluster) as longest_pause:
        begun = time.monotonic()
        cluster.run("kill", *NODES[:2])
        wait_until(lambda: longest_pause(begun) > 3, 30, "no row for three seconds")
        back = time.monotonic()
        cluster.run("start", *NODES[:2])
        wait_for_growth(cluster, 120)
        print(f"\nlongest pause with two killed: {longest_pause(begun):.1f} s, {longest_pause(back):.1f} of it after")
        wait_until(lambda: all_replicas_online(cluster), 90, "all nodes back in the cluster")


def test_a_rolling_restart_loses_nothing_and_restarts_no_service(cluster):
    for node in NODES:
        with load(cluster) as longest_pause:
            begun = time.monotonic()
            cluster.run("restart", node)
            wait_until(lambda: all_replicas_online(cluster), 90, f"{node} back in the cluster")
            print(f"\nlongest pause with {node} restarted: {longest_pause(begun):.1f} s")


def test_four_replicas_of_a_slow_model_are_three_and_a_half_times_as_fast_as_one(cluster):
    slow = {"MODEL": "examples.slow:predict", "INTERVAL": "0", "BATCH_SIZE": "1"}
    rates = {}
    for replicas in (1, 4):
        before, samples = len(cluster.ids()), 400 * replicas
        cluster.env.update(slow, SAMPLES=str(samples))
        cluster.run("rm", "--force", "--stop", "features", "model")
        cluster.run("up", "--detach", "--scale", f"model={replicas}", "--scale", "features=0")
        wait_until(partial(all_healthy, cluster, "model", replicas), 60, "all replicas of the model")
        cluster.run("up", "--detach", "--scale", "features=1", "features")
        cluster.wait_for_rows(before)
        begun, first = time.monotonic(), len(cluster.ids())
        cluster.wait_for_rows(before + samples - 1, 60)
        rates[replicas] = (before + samples - first) / (time.monotonic() - begun)
    print(f"\na model of 20 ms: {rates[1]:.1f}/s, four of it: {rates[4]:.1f}/s")
    assert rates[4] > 3.5 * rates[1]


def all_healthy(cluster: Project, service: str, replicas: int) -> bool:
    return cluster.inspect(service, "{{.State.Health.Status}}") == ["healthy"] * replicas
