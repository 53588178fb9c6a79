"""The whole of `docker compose up --build`, in a clone that belongs to this or that user."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import pytest

from support.containers import SERVICES, Project, clone, clone_on_windows
from support.node import call_api, wait_until, works
from support.paths import ROOT
from support.pipeline import read_rows

DIABETES = {"MODEL": "examples.diabetes.model:predict", "DATASET": "examples/diabetes/diabetes.csv"}
V2, V1 = "docker compose", "docker-compose"


pytestmark = pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here")


@pytest.fixture
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """Compose in a clone that belongs to a user; to whoever runs the tests, where that is not root."""
    compose, owner, env = request.param
    project = Project(compose, tmp_path, env)
    clone(tmp_path)
    if os.getuid() == 0:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            os.chown(path, owner, owner)
    try:
        yield project
    finally:
        project.remove()


@pytest.mark.parametrize(
    "project",
    [(V2, 1000, {"PYTHON_VERSION": "3.9", "INTERVAL": 0.2})],
    ids=["v2-python3.9-uid1000"],
    indirect=True,
)
def test_compose_up_draws_a_picture_and_goes_on_whatever_is_killed(project):
    project.run("up", "--build", "--detach")
    begun = time.monotonic()
    owner = project.folder.stat().st_uid
    seen = project.wait_for_rows(0)
    wait_until(lambda: " rows, MAE" in project.run("logs", "plot"), 45, "a histogram")
    assert time.monotonic() - begun < 45
    wait_until(project.all_healthy, 45, "every container healthy")
    assert project.owners() == {owner}

    consumers = {consumer["queue"]["name"] for consumer in call_api(project.ui_port, "GET", "/consumers")}
    assert consumers == {"features", "y_true", "y_pred"}
    for container in SERVICES:
        status = project.run("exec", "-T", container, "cat", "/proc/1/status")
        assert re.search(rf"Uid:\t{owner}\t{owner}\t{owner}", status)
        assert re.search(r"CapEff:\t0+\nCapBnd:\t0+\n", status)
        assert "NoNewPrivs:\t1" in status
        assert project.inspect(container, "{{.HostConfig.ReadonlyRootfs}}") == ["true"]

    with socket.create_connection(("127.0.0.1", project.ui_port), 5):
        pass
    others = subprocess.check_output(["hostname", "--all-ip-addresses"], text=True).split()
    for address in [address for address in others if ":" not in address]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, project.ui_port), 5)

    running = {name: project.inspect(name, "{{.Id}}") for name in [*SERVICES, "rabbitmq"]}
    project.run("up", "--detach", DRIFT="0.3")
    again = {name: project.inspect(name, "{{.Id}}") for name in running}
    assert [name for name in running if again[name] != running[name]] == ["features"]
    seen = project.wait_for_rows(len(project.ids()) + 20)
    errors = [float(row[3]) for row in read_rows(project.csv)[-10:]]
    assert sum(errors) / len(errors) == pytest.approx(0.3, abs=0.15)

    for service in SERVICES:
        project.run("kill", service)
        project.run("up", "--detach", service)
        seen = project.wait_for_rows(seen)
    project.run("restart", "rabbitmq")
    seen = project.wait_for_rows(seen)

    begun = time.monotonic()
    project.run("stop", *SERVICES)
    print(f"stopped in {time.monotonic() - begun:.1f} s")
    assert time.monotonic() - begun < 10
    begun = time.monotonic()
    project.run("stop")  # RabbitMQ, which takes as long again where other tests run beside
    print(f"RabbitMQ stopped in {time.monotonic() - begun:.1f} s")
    for service in SERVICES:
        assert project.inspect(service, "{{.State.ExitCode}}") == ["0"]
    project.run("down")
    before = len(project.ids())
    project.run("up", "--detach")
    project.wait_for_rows(before)
    project.run("stop", "features")
    wait_until(lambda: queued(project) == 0, 30, "the queues are empty")
    # Of the last run alone: what features says it published, a line a sample or a summary.
    told = project.run("logs", "features")
    made = len(re.findall(r": y_true", told)) + sum(map(int, re.findall(r"(\d+) samples? published", told)))
    assert len(project.ids()) - before >= made > 0


def queued(project: Project) -> int:
    return sum(queue.get("messages", 1) for queue in call_api(project.ui_port, "GET", "/queues"))


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
    assert project.owners() == {project.folder.stat().st_uid}
    logs = project.run("logs")
    assert "connected to RabbitMQ" in logs
    if "DATASET" in project.env:
        assert "442 rows of examples/diabetes/diabetes.csv: the features are age, sex," in logs
        errors = [float(row[3]) for row in read_rows(project.csv)]
        assert sum(errors) / len(errors) == pytest.approx(43.3, abs=2)
    assert "hunter2" not in logs
    assert "CapEff:\t0000000000000000" in project.run("exec", "-T", "metrics", "cat", "/proc/1/status")


def test_a_clone_made_by_git_for_windows_comes_up(tmp_path):
    folder = tmp_path / "clone"
    clone_on_windows(folder)
    project = Project(V2, folder, {"INTERVAL": 0.2})
    try:
        project.run("up", "--build", "--detach")
        project.wait_for_rows(0)
        assert project.run("exec", "-T", "rabbitmq", "rabbitmqctl", "--quiet", "list_users").startswith(
            "user\ttags\ndemo\t"
        )
    finally:
        project.remove()


#: Prints the settings that a script asks for.
ASKED = """
import importlib, sys
from parts import settings
ask, asked = settings.text, set()
settings.text = lambda name, *more: asked.add(name) or ask(name, *more)
importlib.import_module(sys.argv[1])
print(*asked)
"""


def test_each_service_is_given_the_settings_that_it_reads_and_no_other():
    project = Project(V2, ROOT, {})
    given = json.loads(project.run("config", "--format", "json"))["services"]
    for service in SERVICES:
        command = [sys.executable, "-c", ASKED, service]
        asked = set(subprocess.check_output(command, cwd=ROOT, text=True).split())
        if "RABBITMQ_URL" in asked:
            asked.add("SSL_CERT_FILE")  # which Python's ssl reads
        assert set(given[service]["environment"]) == asked - {"HEARTBEAT_FILE"}  # the image's own
