"""deploy/stack.yml on a swarm of one machine, which is made for the test and left again."""

import json
import os
import secrets
from typing import Iterator, List

import pytest

from support.containers import docker
from support.node import free_ports, wait_until, works
from support.paths import ROOT
from support.swarm import Swarm

pytestmark = [
    pytest.mark.skipif(os.environ.get("CLUSTER") != "1", reason="takes four minutes: set CLUSTER=1"),
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.xdist_group("cluster"),  # one after the other
]

STACK = "stack-test"
SECOND = f"{STACK}-second"
SAMPLES = 4000  # in 80 seconds


def names(*command: str) -> List[str]:
    return [name for name in docker(*command, "--format", "{{.Name}}").split() if name.startswith(STACK)]


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    """One with the stack, which publishes SAMPLES."""
    if docker("info", "--format", "{{.Swarm.LocalNodeState}}") != "inactive":
        pytest.skip("this Docker Engine is in a swarm already")
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        docker("build", "--quiet", "--tag", f"{STACK}:1", str(ROOT))
        docker("tag", f"{STACK}:1", f"{STACK}:2")
        hangs = f"FROM {STACK}:1\nRUN echo 'import time; time.sleep(3600)' > hangs.py\nENV MODEL=hangs:predict\n"
        docker("build", "--quiet", "--tag", f"{STACK}:hangs", "-", text=hangs)
        labels = [f"--label-add={label}=yes" for label in ("rabbitmq1", "rabbitmq2", "rabbitmq3", "logs")]
        docker("node", "update", *labels, docker("node", "ls", "--quiet"))
        docker("secret", "create", "erlang_cookie", "-", text=secrets.token_hex(32))
        [port] = free_ports(1)
        swarm = Swarm(STACK, ROOT, UI_PORT=port)
        swarm.create_secrets("rabbitmq_user.conf", "RABBITMQ_PASSWORD")
        swarm.deploy(SAMPLES=SAMPLES)
        yield swarm
    finally:
        docker("stack", "rm", STACK, SECOND, check=False)
        wait_until(
            lambda: not docker("ps", "--all", "--quiet", "--filter", f"name={STACK}"), 60, "no container is left"
        )
        docker("swarm", "leave", "--force", check=False)
        docker("volume", "rm", "--force", *names("volume", "ls"), check=False)
        docker("image", "rm", "--force", *(f"{STACK}:{tag}" for tag in ("1", "2", "hangs")), check=False)


def update(service: str, *options: str) -> str:
    """How the update of a service ended."""
    command = ["service", "update", "--no-resolve-image", "--detach=false", "--quiet", *options, f"{STACK}_{service}"]
    docker(*command, check=False)
    return docker("service", "inspect", "--format", "{{.UpdateStatus.State}}", f"{STACK}_{service}")


def test_updates_of_the_model_lose_nothing_and_one_that_does_not_become_healthy_is_taken_back(swarm):
    wait_until(lambda: len(swarm.ids()) > 200, 150, "rows")
    assert update("model", "--image", f"{STACK}:2") == "completed"
    assert swarm.running("model", "{{.Image}}") == [f"{STACK}:2"] * 2
    # The image's own check waits for a minute; one that is at its end sooner spares the test that.
    soon = ["--health-start-period", "3s", "--health-interval", "2s", "--health-retries", "2"]
    assert update("model", "--image", f"{STACK}:hangs", *soon) == "rollback_completed"
    assert swarm.running("model", "{{.Image}}") == [f"{STACK}:2"] * 2
    assert swarm.state("features") == "Running"  # so all of this took place under load
    wait_until(lambda: swarm.state("features") == "Complete", 120, "features has published its samples")
    wait_until(lambda: len(swarm.ids()) >= SAMPLES, 60, "all rows")
    assert len(set(swarm.ids())) == len(swarm.ids()) == SAMPLES


def test_the_stack_draws_replicates_and_hides_what_it_should(swarm):
    wait_until(lambda: "rows, MAE" in docker("service", "logs", f"{STACK}_plot"), 60, "a picture of some rows")
    docker("exec", swarm.container("plot"), "test", "-s", "/app/logs/error_distribution.png")
    types = {queue["name"]: queue["type"] for queue in swarm.queues()}
    assert types == dict.fromkeys(("features", "y_true", "y_pred", "dead_letters"), "quorum")
    inspected = json.loads(docker("service", "inspect", f"{STACK}_model"))[0]["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert "RABBITMQ_PASSWORD" not in str(inspected.get("Env"))
    assert docker("exec", swarm.container("model"), "cat", "/proc/sys/net/ipv4/tcp_retries2") == "5"
    read = "import urllib.request as r; print(r.urlopen('http://rabbitmq2:15692/metrics').read().decode())"
    assert 'rabbitmq_node="rabbit@rabbitmq2"' in docker("exec", swarm.container("plot"), "python", "-c", read)


def test_another_password_takes_the_place_of_the_first_and_nothing_is_lost(swarm):
    """As docs/scaling.md says."""
    swarm.deploy(SAMPLES=SAMPLES + 1)  # features begins anew
    before = len(swarm.ids())
    wait_until(lambda: len(swarm.ids()) > before + 200, 60, "rows under load")
    docker("exec", "-i", swarm.container("rabbitmq"), "rabbitmqctl", "change_password", "demo", text="another")
    docker("secret", "create", "RABBITMQ_PASSWORD.2", "-", text="another")
    swarm.deploy(SAMPLES=1000, PASSWORD_SECRET="RABBITMQ_PASSWORD.2")
    for service in ("features", "model", "metrics"):
        finished = ["service", "inspect", "--format", "{{.UpdateStatus.State}}", f"{STACK}_{service}"]
        wait_until(lambda: docker(*finished, check=False) == "completed", 90, f"{service} is updated")  # noqa: B023
    docker("secret", "rm", "RABBITMQ_PASSWORD")  # nobody uses it
    wait_until(lambda: swarm.state("features") == "Complete", 90, "the new features has published its samples")
    # A sample of which one message was lost would wait for ever in metrics' state.
    wait_until(lambda: waiting(swarm) == 0, 60, "no half waits for its other one")
    assert len(set(swarm.ids())) == len(swarm.ids())
    assert "not confirmed before the stop" not in docker("service", "logs", f"{STACK}_features")


def waiting(swarm: Swarm) -> int:
    connect = "import sqlite3; db = sqlite3.connect('/app/state/metrics.db')"
    count = "print(*db.execute('SELECT count(*) FROM waiting').fetchone())"
    return int(docker("exec", "--user", "1000", swarm.container("metrics"), "python", "-c", f"{connect}; {count}"))


def test_a_second_stack_beside_the_first_has_nothing_in_common_with_it(swarm):
    swarm.create_secrets("second_user.conf", "second_password")
    [port] = free_ports(1)
    swarm.deploy(SECOND, UI_PORT=port, SAMPLES=200, USER_SECRET="second_user.conf", PASSWORD_SECRET="second_password")
    wait_until(lambda: len(swarm.ids(SECOND)) == 200, 150, "its rows")
    assert not set(swarm.ids(SECOND)) & set(swarm.ids())
