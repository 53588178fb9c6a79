"""deploy/stack.yml on a swarm of one machine, which is made for the test and left again."""

import json
import os
import secrets
import subprocess
from typing import Any, Iterator, List

import pytest

from support.containers import docker
from support.node import free_ports, wait_until, works
from support.paths import ROOT

pytestmark = [
    pytest.mark.skipif(os.environ.get("CLUSTER") != "1", reason="takes four minutes: set CLUSTER=1"),
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.xdist_group("cluster"),  # one after the other
]

STACK = "stack-test"
SECOND = f"{STACK}-second"
SAMPLES = 4000  # in 80 seconds

#: For a container that knows the password: less work than rabbitmqctl, which may run out of time on a busy machine.
TYPES_OF_QUEUES = """
import base64, json, urllib.request
user = b"demo:" + open("/run/secrets/RABBITMQ_PASSWORD", "rb").read()
headers = {"Authorization": "Basic " + base64.b64encode(user).decode()}
request = urllib.request.Request("http://rabbitmq:15672/api/queues", headers=headers)
print(json.dumps({queue["name"]: queue["type"] for queue in json.load(urllib.request.urlopen(request, timeout=30))}))
"""


def names(*command: str) -> List[str]:
    return [name for name in docker(*command, "--format", "{{.Name}}").split() if name.startswith(STACK)]


def deploy(stack: str, ui_port: int, **settings: Any) -> None:
    """As the first lines of deploy/stack.yml say."""
    env = {**os.environ, "IMAGE": f"{STACK}:1", "UI_PORT": str(ui_port), "INTERVAL": "0.02"}
    env.update({name: str(value) for name, value in settings.items()})
    command = ["docker", "stack", "deploy", "--compose-file", "deploy/stack.yml", "--resolve-image", "never", stack]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)


def create_secrets(user: str, password: str) -> None:
    value = secrets.token_hex(16)
    docker("secret", "create", user, "-", text=f"default_user = demo\ndefault_pass = {value}\n")
    docker("secret", "create", password, "-", text=value)


@pytest.fixture(scope="module")
def ui_port() -> Iterator[int]:
    """That of the stack, which is deployed and publishes SAMPLES."""
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
        create_secrets("rabbitmq_user.conf", "RABBITMQ_PASSWORD")
        [port] = free_ports(1)
        deploy(STACK, port, SAMPLES=SAMPLES)
        yield port
    finally:
        docker("stack", "rm", STACK, SECOND, check=False)
        wait_until(
            lambda: not docker("ps", "--all", "--quiet", "--filter", f"name={STACK}"), 60, "no container is left"
        )
        docker("swarm", "leave", "--force", check=False)
        docker("volume", "rm", "--force", *names("volume", "ls"), check=False)
        docker("image", "rm", "--force", *(f"{STACK}:{tag}" for tag in ("1", "2", "hangs")), check=False)


def container(service: str, stack: str = STACK) -> str:
    """The running container of a service that has one."""
    return docker("ps", "--quiet", "--filter", f"name={stack}_{service}.1")


def ids(stack: str = STACK) -> List[str]:
    found = docker("exec", container("metrics", stack), "cat", "/app/logs/metric_log.csv", check=False)
    return [row.split(",")[0] for row in found.splitlines()[1:]]


def state(service: str) -> str:
    """What its newest task does."""
    return docker("service", "ps", f"{STACK}_{service}", "--format", "{{.CurrentState}}").split()[0]


def update(service: str, *options: str) -> str:
    """How the update of a service ended."""
    command = ["service", "update", "--no-resolve-image", "--detach=false", "--quiet", *options, f"{STACK}_{service}"]
    docker(*command, check=False)
    return docker("service", "inspect", "--format", "{{.UpdateStatus.State}}", f"{STACK}_{service}")


def images(service: str) -> List[str]:
    running = ["--filter", "desired-state=running", "--format", "{{.Image}}"]
    return docker("service", "ps", f"{STACK}_{service}", *running).split()


def test_updates_of_the_model_lose_nothing_and_one_that_does_not_become_healthy_is_taken_back(ui_port):
    wait_until(lambda: len(ids()) > 200, 150, "rows")
    assert update("model", "--image", f"{STACK}:2") == "completed"
    assert images("model") == [f"{STACK}:2"] * 2
    # The image's own check waits for a minute; one that is at its end sooner spares the test that.
    soon = ["--health-start-period", "3s", "--health-interval", "2s", "--health-retries", "2"]
    assert update("model", "--image", f"{STACK}:hangs", *soon) == "rollback_completed"
    assert images("model") == [f"{STACK}:2"] * 2
    assert state("features") == "Running"  # so all of this took place under load
    wait_until(lambda: state("features") == "Complete", 120, "features has published its samples")
    wait_until(lambda: len(ids()) >= SAMPLES, 60, "all rows")
    assert len(set(ids())) == len(ids()) == SAMPLES


def test_the_stack_draws_replicates_and_hides_what_it_should(ui_port):
    wait_until(lambda: "rows, MAE" in docker("service", "logs", f"{STACK}_plot"), 60, "a picture of some rows")
    docker("exec", container("plot"), "test", "-s", "/app/logs/error_distribution.png")
    types = json.loads(docker("exec", container("model"), "python", "-c", TYPES_OF_QUEUES))
    assert types == dict.fromkeys(("features", "y_true", "y_pred", "dead_letters"), "quorum")
    inspected = json.loads(docker("service", "inspect", f"{STACK}_model"))[0]["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert "RABBITMQ_PASSWORD" not in str(inspected.get("Env"))
    assert docker("exec", container("model"), "cat", "/proc/sys/net/ipv4/tcp_retries2") == "5"
    read = "import urllib.request as r; print(r.urlopen('http://rabbitmq2:15692/metrics').read().decode())"
    assert 'rabbitmq_node="rabbit@rabbitmq2"' in docker("exec", container("plot"), "python", "-c", read)


def test_another_password_takes_the_place_of_the_first_and_nothing_is_lost(ui_port):
    """As docs/scaling.md says."""
    deploy(STACK, ui_port, SAMPLES=SAMPLES + 1)  # features begins anew
    before = len(ids())
    wait_until(lambda: len(ids()) > before + 200, 60, "rows under load")
    docker("exec", "-i", container("rabbitmq"), "rabbitmqctl", "change_password", "demo", text="another")
    docker("secret", "create", "RABBITMQ_PASSWORD.2", "-", text="another")
    deploy(STACK, ui_port, SAMPLES=1000, PASSWORD_SECRET="RABBITMQ_PASSWORD.2")
    for service in ("features", "model", "metrics"):
        finished = ["service", "inspect", "--format", "{{.UpdateStatus.State}}", f"{STACK}_{service}"]
        wait_until(lambda: docker(*finished, check=False) == "completed", 90, f"{service} is updated")  # noqa: B023
    docker("secret", "rm", "RABBITMQ_PASSWORD")  # nobody uses it
    wait_until(lambda: state("features") == "Complete", 90, "the new features has published its samples")
    # A sample of which one message was lost would wait for ever in metrics' state.
    wait_until(lambda: waiting() == 0, 60, "no half waits for its other one")
    assert len(set(ids())) == len(ids())
    assert "not confirmed before the stop" not in docker("service", "logs", f"{STACK}_features")


def waiting() -> int:
    connect = "import sqlite3; db = sqlite3.connect('/app/state/metrics.db')"
    count = "print(*db.execute('SELECT count(*) FROM waiting').fetchone())"
    return int(docker("exec", "--user", "1000", container("metrics"), "python", "-c", f"{connect}; {count}"))


def test_a_second_stack_beside_the_first_has_nothing_in_common_with_it(ui_port):
    create_secrets("second_user.conf", "second_password")
    [port] = free_ports(1)
    deploy(SECOND, port, SAMPLES=200, USER_SECRET="second_user.conf", PASSWORD_SECRET="second_password")
    wait_until(lambda: len(ids(SECOND)) == 200, 150, "its rows")
    assert not set(ids(SECOND)) & set(ids())
