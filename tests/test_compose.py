"""The whole of `docker compose up --build`, in a clone that belongs to this or that user."""

import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest
from conftest import read_rows
from containers import Project
from node import call_api, wait_until, works

DIABETES = {"MODEL": "examples.diabetes.model:predict", "DATASET": "examples/diabetes/diabetes.csv"}
V2, V1 = "docker compose", "docker-compose"


pytestmark = pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here")


@pytest.fixture
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    compose, owner, env = request.param
    project = Project(compose, tmp_path, env)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, owner, owner)
    project.owner = owner  # type: ignore[attr-defined]
    try:
        yield project
    finally:
        project.run("down", "--volumes", "--timeout", "5")


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make clones of other users")


@needs_root
@pytest.mark.parametrize(
    "project",
    [(V2, 1000, {"PYTHON_VERSION": "3.9", "INTERVAL": 0.2})],
    ids=["v2-python3.9-uid1000"],
    indirect=True,
)
def test_compose_up_draws_a_picture_and_goes_on_whatever_is_killed(project):
    project.run("up", "--build", "--detach")
    begun = time.monotonic()
    seen = project.wait_for_rows(0)
    wait_until(lambda: " rows, MAE" in project.run("logs", "plot"), 45, "a histogram")
    assert time.monotonic() - begun < 45
    wait_until(project.all_healthy, 45, "every container healthy")
    assert project.owners() == {project.owner}

    consumers = {consumer["queue"]["name"] for consumer in call_api(project.ui_port, "GET", "/consumers")}
    assert consumers == {"features", "y_true", "y_pred"}
    for container in ("features", "model", "metrics", "plot"):
        status = project.run("exec", "-T", container, "cat", "/proc/1/status")
        assert re.search(rf"Uid:\t{project.owner}\t{project.owner}\t{project.owner}", status)
        assert re.search(r"CapEff:\t0+\nCapBnd:\t0+\n", status)
        assert "NoNewPrivs:\t1" in status
        assert project.inspect(container, "{{.HostConfig.ReadonlyRootfs}}") == ["true"]
    waits = "import plot; print(plot.unmatched('/app/state/metrics.db'))"  # through a volume that it cannot write to
    assert project.run("exec", "-T", "plot", "python", "-c", waits) == "('0', '0')\n"

    with socket.create_connection(("127.0.0.1", project.ui_port), 5):
        pass
    others = subprocess.check_output(["hostname", "--all-ip-addresses"], text=True).split()
    for address in [address for address in others if ":" not in address]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, project.ui_port), 5)

    for service in ("features", "model", "metrics", "plot"):
        project.run("kill", service)
        project.run("up", "--detach", service)
        seen = project.wait_for_rows(seen)
    project.run("restart", "rabbitmq")
    seen = project.wait_for_rows(seen)

    begun = time.monotonic()
    project.run("stop", "features", "model", "metrics", "plot")
    print(f"stopped in {time.monotonic() - begun:.1f} s")
    assert time.monotonic() - begun < 10
    begun = time.monotonic()
    project.run("stop")  # RabbitMQ, which takes as long again where other tests run beside
    print(f"RabbitMQ stopped in {time.monotonic() - begun:.1f} s")
    for service in ("features", "model", "metrics", "plot"):
        assert project.inspect(service, "{{.State.ExitCode}}") == ["0"]
    project.run("down")
    before = len(project.ids())
    project.run("up", "--detach")
    project.wait_for_rows(before)
    project.run("stop", "features")
    wait_until(lambda: queued(project) == 0, 30, "the queues are empty")
    # Of the last run alone: what features says it published, a line a sample or a summary.
    told = project.run("logs", "features")
    made = len(re.findall(r": y_true", told)) + sum(map(int, re.findall(r"(\d+) samples published", told)))
    assert len(project.ids()) - before >= made > 0


def queued(project: Project) -> int:
    return sum(queue.get("messages", 1) for queue in call_api(project.ui_port, "GET", "/queues"))


@needs_root
@pytest.mark.parametrize(
    "project",
    [
        (V1, 1234, {"PYTHON_VERSION": "3.13", "INTERVAL": 0, "BATCH_SIZE": 5, "SAMPLES": 3000}),
        (V2, 0, {"PYTHON_VERSION": "3.13", "INTERVAL": 0, "SAMPLES": 3000, **DIABETES}),
    ],
    ids=["v1-python3.13-uid1234", "v2-python3.13-root"],
    indirect=True,
)
def test_two_replicas_of_each_service_write_each_row_once(project):
    (project.folder / ".env").write_text("RABBITMQ_USER=demo\nRABBITMQ_PASSWORD=hunter2\n")
    project.run("up", "--build", "--detach", *[f"--scale={name}=2" for name in ("features", "model", "metrics")])
    assert project.wait_for_rows(5999) == 6000
    wait_until(lambda: project.inspect("features", "{{.State.Status}} {{.State.ExitCode}}") == ["exited 0"] * 2, 20, "")
    wait_until(lambda: "6000 rows, MAE" in project.run("logs", "plot"), 20, "a picture of all rows")
    assert project.owners() == {project.owner}
    logs = project.run("logs")
    assert "connected to RabbitMQ" in logs
    if "DATASET" in project.env:
        assert "442 rows of examples/diabetes/diabetes.csv: the features are age, sex," in logs
        errors = [float(row[3]) for row in read_rows(project.csv)]
        assert sum(errors) / len(errors) == pytest.approx(43.3, abs=2)
    assert "hunter2" not in logs
    assert "CapEff:\t0000000000000000" in project.run("exec", "-T", "metrics", "cat", "/proc/1/status")
