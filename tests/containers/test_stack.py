"""deploy/stack.yml on a swarm of one machine, which is made for the test and left again."""

import json
import os
import secrets
import subprocess
from typing import Iterator, List

import pytest

from support.containers import docker
from support.node import free_ports, wait_until, works
from support.paths import ROOT

pytestmark = [
    pytest.mark.skipif(os.environ.get("CLUSTER") != "1", reason="takes two minutes: set CLUSTER=1"),
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.xdist_group("cluster"),  # one after the other
]

STACK = "stack-test"
SAMPLES = 4000


def names(*command: str) -> List[str]:
    return [name for name in docker(*command, "--format", "{{.Name}}").split() if name.startswith(STACK)]


@pytest.fixture
def stack() -> Iterator[None]:
    """The stack, deployed as its own first lines say."""
    if docker("info", "--format", "{{.Swarm.LocalNodeState}}") != "inactive":
        pytest.skip("this Docker Engine is in a swarm already")
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    password = secrets.token_hex(16)
    try:
        docker("build", "--quiet", "--tag", f"{STACK}:1", str(ROOT))
        docker("tag", f"{STACK}:1", f"{STACK}:2")
        labels = [f"--label-add={label}=yes" for label in ("rabbitmq1", "rabbitmq2", "rabbitmq3", "logs")]
        docker("node", "update", *labels, docker("node", "ls", "--quiet"))
        for name, secret in (
            ("erlang_cookie", secrets.token_hex(32)),
            ("rabbitmq_user.conf", f"default_user = demo\ndefault_pass = {password}\n"),
            ("RABBITMQ_PASSWORD", password),
        ):
            docker("secret", "create", name, "-", text=secret)
        [port] = free_ports(1)
        env = {**os.environ, "IMAGE": f"{STACK}:1", "UI_PORT": str(port)}
        env.update(INTERVAL="0.02", SAMPLES=str(SAMPLES))
        deploy = ["docker", "stack", "deploy", "--compose-file", "deploy/stack.yml", "--resolve-image", "never", STACK]
        subprocess.run(deploy, cwd=ROOT, env=env, check=True, capture_output=True)
        yield
    finally:
        docker("stack", "rm", STACK, check=False)
        wait_until(
            lambda: not docker("ps", "--all", "--quiet", "--filter", f"name={STACK}_"), 60, "no container is left"
        )
        docker("swarm", "leave", "--force", check=False)
        docker("volume", "rm", "--force", *names("volume", "ls"), check=False)
        docker("image", "rm", "--force", f"{STACK}:1", f"{STACK}:2", check=False)


def container(service: str) -> str:
    """The running container of a service that has one."""
    return docker("ps", "--quiet", "--filter", f"name={STACK}_{service}.1")


def rows() -> List[str]:
    found = docker("exec", container("metrics"), "cat", "/app/logs/metric_log.csv", check=False)
    return found.splitlines()[1:]


def state(service: str) -> str:
    return docker("service", "ps", f"{STACK}_{service}", "--format", "{{.CurrentState}}").split()[0]


def test_the_stack_comes_up_on_one_machine_and_an_update_of_the_model_loses_nothing(stack):
    wait_until(lambda: len(rows()) > 200, 150, "rows")
    docker("service", "update", "--image", f"{STACK}:2", "--no-resolve-image", "--detach=false", f"{STACK}_model")
    images = docker("service", "ps", f"{STACK}_model", "--filter", "desired-state=running", "--format", "{{.Image}}")
    assert images.split() == [f"{STACK}:2"] * 2
    assert state("features") == "Running"  # so the update took place under load
    wait_until(lambda: state("features") == "Complete", 120, "features has published its samples")
    wait_until(lambda: len(rows()) >= SAMPLES, 60, "all rows")
    ids = [row.split(",")[0] for row in rows()]
    assert len(set(ids)) == len(ids) == SAMPLES
    says = f"{SAMPLES} rows, MAE"
    wait_until(lambda: says in docker("service", "logs", f"{STACK}_plot"), 30, "a picture of all rows")
    docker("exec", container("plot"), "test", "-s", "/app/logs/error_distribution.png")
    quorum = {f"{name}\tquorum" for name in ("features", "y_true", "y_pred", "dead_letters")}
    # On a busy machine rabbitmqctl may run out of time.
    ask = ["exec", container("rabbitmq"), "rabbitmqctl", "--quiet", "list_queues", "name", "type"]
    wait_until(lambda: quorum <= set(docker(*ask, check=False).splitlines()), 60, "quorum queues")
    inspected = json.loads(docker("service", "inspect", f"{STACK}_model"))[0]["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert "RABBITMQ_PASSWORD" not in str(inspected.get("Env"))
