"""Three RabbitMQ nodes by deploy/cluster.yml, of which any may fail; not a line of the services knows of it."""

import os
import time
from contextlib import contextmanager
from functools import partial
from typing import Callable, Iterator

import pika
import pytest

from load import splits
from support import network
from support.cluster import NODES, Cluster, Growth, longest_pause
from support.containers import SERVICES, docker
from support.node import call_api, wait_until, works
from support.pages import commands

IMAGE = "rabbitmq:4-management"
UPGRADED = "rabbitmq:upgrade-test"  # the same under another name, made anew
SAMPLES = 10_000  # of each of two features, in twenty seconds: about as long as it takes to break and mend something

pytestmark = [
    pytest.mark.skipif(os.environ.get("CLUSTER") != "1", reason="takes eight minutes: set CLUSTER=1"),
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.xdist_group("cluster"),  # its tests share one
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), INTERVAL=0.02, BATCH_SIZE=10, SAMPLES=SAMPLES)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()
        docker("image", "rm", "--force", UPGRADED, check=False)


@contextmanager
def load(cluster: Cluster) -> Iterator[Callable[[float], float]]:
    """Two features publish while this block breaks something; then each of their samples has its one row.

    What it gives tells for how long, at most, no row came since a point in time.
    """
    before = len(cluster.ids())
    cluster.run("up", "--detach", "--no-deps", "--scale", "features=2", "features")
    started = [cluster.inspect(name, "{{.State.StartedAt}}") for name in SERVICES]
    with Growth(cluster.csv_size) as growth:
        wait_for_growth(cluster)
        assert cluster.inspect("features", "{{.State.Status}}") == ["running"] * 2
        yield lambda since: longest_pause(growth.times, since)

    # A features that published all and had all confirmed exits with 0. None was started again meanwhile.
    ended = "{{.State.Status}} {{.State.ExitCode}}"
    wait_until(lambda: cluster.inspect("features", ended) == ["exited 0"] * 2, 90, "all samples are published")
    assert f"all {SAMPLES} samples published and confirmed" in cluster.run("logs", "--tail", "1", "features")
    wait_until(lambda: len(cluster.ids()) >= before + 2 * SAMPLES, 60, "a row for each sample")
    ids = cluster.ids()
    assert len(ids) == len(set(ids)) == before + 2 * SAMPLES
    assert [cluster.inspect(name, "{{.State.StartedAt}}") for name in SERVICES] == started
    assert {count for name in SERVICES for count in cluster.inspect(name, "{{.RestartCount}}")} == {"0"}


def wait_for_growth(cluster: Cluster, seconds: float = 60) -> None:
    """Wait for a hundred kilobytes more of rows, which are more than a thousand."""
    size = cluster.csv_size()
    wait_until(lambda: cluster.csv_size() > size + 100_000, seconds, "rows come")


def test_a_cluster_forms_by_itself_and_tells_prometheus_of_itself(cluster):
    nodes = call_api(cluster.ui_port, "GET", "/nodes")
    assert {node["name"] for node in nodes if node["running"]} == {f"rabbit@{name}" for name in NODES}
    wait_until(lambda: len(call_api(cluster.ui_port, "GET", "/queues")) == 4, 30, "all queues")
    wait_until(cluster.all_replicas_online, 60, "three replicas of each queue")
    for name in NODES:
        ask = f"import urllib.request as r; print(r.urlopen('http://{name}:15692/metrics').read().decode())"
        metrics = cluster.run("exec", "-T", "plot", "python", "-c", ask)
        assert f'rabbitmq_node="rabbit@{name}"' in metrics


def test_a_cluster_without_a_secret_does_not_start(cluster, monkeypatch):
    monkeypatch.setitem(cluster.env, "RABBITMQ_ERLANG_COOKIE", "")
    with pytest.raises(AssertionError, match="RABBITMQ_ERLANG_COOKIE is missing a value"):
        cluster.run("config", "--quiet")


def test_a_message_may_come_back_any_number_of_times(cluster):
    with connected(cluster, "/") as connection:
        channel = connection.channel()
        channel.queue_declare("returned", durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", "returned", b"still here")
        for _ in range(50):  # RabbitMQ's own limit is 20
            method, _, body = channel.basic_get("returned")
            assert body == b"still here"
            channel.basic_reject(method.delivery_tag, requeue=True)
        channel.queue_delete("returned")


@pytest.fixture(scope="module")
def second(cluster: Cluster) -> Iterator[Cluster]:
    """A cell on the cluster, as docs/scaling.md makes it."""
    if docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project=second"):
        pytest.skip("a project called second is here already")
    _, make, *_ = commands("scaling.md", "Cells")
    cell = cluster.cell("second")
    try:
        cluster.type(make)
        cluster.type(commands("scaling.md", "A cluster")[-1])
        yield cell
    finally:
        cell.remove()
        call_api(cluster.ui_port, "DELETE", "/vhosts/second")


def test_a_cell_on_the_cluster_has_quorum_queues_and_a_csv_of_its_own(cluster, second):
    before = len(cluster.ids())
    wait_until(lambda: second.csv_size() > 100_000, 60, "rows of the cell")
    assert len(call_api(cluster.ui_port, "GET", "/queues/second")) == 4
    wait_until(cluster.all_replicas_online, 60, "three replicas of each queue")
    cluster.run("kill", "rabbitmq2")
    wait_for_growth(second)
    cluster.run("start", "rabbitmq2")
    wait_until(lambda: len(second.ids()) >= SAMPLES, 60, "all rows of the cell")
    assert len(set(second.ids())) == len(second.ids()) == SAMPLES
    assert len(cluster.ids()) == before
    wait_until(cluster.all_replicas_online, 90, "rabbitmq2 back in the cluster")


def test_a_cluster_and_its_cell_are_all_there_again_after_a_restore(cluster, second):
    """As docs/operations.md says, with samples in the queues and halves that wait."""
    expected = {}
    for project, vhost in ((cluster, "/"), (second, "second")):
        project.run("stop", "model")
        project.run("up", "--detach", "--no-deps", "features")
        wait_until(lambda: depth(cluster, vhost) > 50, 30, "samples wait for the model")  # noqa: B023
        project.run("stop", "features")
        publish(cluster, vhost, "y_true", b'{"id": "late", "body": 1}')
        expected[project] = len(project.ids()) + 10 * depth(cluster, vhost)

    as_cluster = "export COMPOSE_FILE=docker-compose.yml:deploy/cluster.yml\n"
    [backup] = commands("operations.md", "Backup")
    stop_cell, restore_cell = commands("operations.md", "A cell's backup")
    restore, _ = commands("operations.md", "Restore")
    define_cell = stop_cell.splitlines()[0] + "\n"
    cluster.type(stop_cell + as_cluster + backup)
    cluster.type(define_cell + "cell down --volumes")
    cluster.type(as_cluster + restore)
    cluster.type(define_cell + restore_cell)

    for project, vhost in ((cluster, "/"), (second, "second")):
        # Those of the features that came up with the others, whose samples came after the backup.
        ended = "{{.State.Status}} {{.State.ExitCode}}"
        wait_until(lambda: project.inspect("features", ended) == ["exited 0"], 90, "all is published")  # noqa: B023
        publish(cluster, vhost, "y_pred", b'{"id": "late", "body": 2}')
        rows = expected[project] + SAMPLES + 1
        wait_until(lambda: len(project.ids()) >= rows, 60, "all rows")  # noqa: B023
        assert len(project.ids()) == len({*project.ids()}) == rows
    wait_until(cluster.all_replicas_online, 90, "three replicas of each queue")


def connected(cluster: Cluster, vhost: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", cluster.amqp_port, vhost))


def depth(cluster: Cluster, vhost: str) -> int:
    """How many messages wait in `features`."""
    with connected(cluster, vhost) as connection:
        return connection.channel().queue_declare("features", passive=True).method.message_count


def publish(cluster: Cluster, vhost: str, queue: str, body: bytes) -> None:
    with connected(cluster, vhost) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)


@pytest.mark.parametrize("node", NODES)
def test_a_killed_node_is_left_within_seconds_and_nothing_is_lost(cluster, node):
    with load(cluster) as longest_pause:
        begun = time.monotonic()
        cluster.run("kill", node)
        wait_for_growth(cluster)
        cluster.run("start", node)
        wait_until(cluster.all_replicas_online, 90, f"{node} back in the cluster")
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
        wait_until(cluster.all_replicas_online, 90, "rabbitmq back in the cluster")
        assert longest_pause(begun) < 30


@pytest.mark.skipif(bool(network.missing()), reason=f"cannot cut links here without {network.missing()}")
def test_a_network_that_splits_loses_and_repeats_nothing(cluster):
    wait_until(cluster.is_whole, 90, "a cluster that is whole")
    good, report = splits.run(cluster, seed=7, seconds=20)
    print(f"\n{report}")
    assert good, report


def test_two_nodes_are_killed_at_once_and_all_goes_on_when_they_are_back(cluster):
    with load(cluster) as longest_pause:
        begun = time.monotonic()
        cluster.run("kill", *NODES[:2])
        wait_until(lambda: longest_pause(begun) > 3, 30, "no row for three seconds")
        back = time.monotonic()
        cluster.run("start", *NODES[:2])
        wait_for_growth(cluster, 120)
        print(f"\nlongest pause with two killed: {longest_pause(begun):.1f} s, {longest_pause(back):.1f} of it after")
        wait_until(cluster.all_replicas_online, 90, "all nodes back in the cluster")


def test_an_upgrade_node_by_node_loses_nothing_and_restarts_no_service(cluster):
    """As docs/scaling.md says."""
    docker("build", "--tag", UPGRADED, "-", text=f"FROM {IMAGE}\nENV UPGRADED=yes\n")
    for file in ("docker-compose.yml", "deploy/cluster.yml"):
        path = cluster.folder / file
        path.write_text(path.read_text().replace(IMAGE, UPGRADED))
    for node in reversed(NODES):
        with load(cluster) as longest_pause:
            [old] = cluster.inspect(node, "{{.Id}}")
            begun = time.monotonic()
            cluster.run("exec", "-T", node, "rabbitmq-upgrade", "--timeout", "120", "await_online_quorum_plus_one")
            cluster.run("up", "--detach", "--no-deps", "--wait", node)
            wait_until(cluster.all_replicas_online, 90, f"{node} back in the cluster")
            took, pause = time.monotonic() - begun, longest_pause(begun)
            print(f"\nlongest pause with {node} upgraded: {pause:.1f} s of {took:.0f} s")
            assert cluster.inspect(node, "{{.Config.Image}}") == [UPGRADED]
            assert cluster.inspect(node, "{{.Id}}") != [old]
            assert pause < 15
    cluster.run("exec", "-T", "rabbitmq", "rabbitmqctl", "enable_feature_flag", "all")


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


def all_healthy(cluster: Cluster, service: str, replicas: int) -> bool:
    return cluster.inspect(service, "{{.State.Health.Status}}") == ["healthy"] * replicas
