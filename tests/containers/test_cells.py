"""Two cells on one RabbitMQ, by the commands of docs/scaling.md as they stand."""

import os
from pathlib import Path
from typing import Iterator, List

import pytest

from support.containers import SERVICES, STARTED, Project, clone, docker
from support.node import call_api, wait_until, works
from support.pages import commands

SAMPLES = 1500  # of each cell, in half a minute: longer than it takes to kill metrics and bring it back

pytestmark = [
    pytest.mark.skipif(os.environ.get("CLUSTER") != "1", reason="takes a minute: set CLUSTER=1"),
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.xdist_group("cluster"),  # one after the other: the page calls the cell "second"
]


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Project]:
    """A clone in which the page is tried."""
    if docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project=second"):
        pytest.skip("a project called second is here already")
    project = Project("docker compose", tmp_path, {"INTERVAL": 0.02, "SAMPLES": SAMPLES})
    clone(tmp_path)
    try:
        yield project
    finally:
        project.cell("second").remove()
        project.remove()


def started(project: Project) -> List[List[str]]:
    return [project.inspect(service, STARTED) for service in [*SERVICES, "rabbitmq"]]


def published(project: Project) -> int:
    return project.run("logs", "features").count("y_true")


def test_two_cells_share_a_broker_and_nothing_else(first):
    begin, make, start, break_and_mend, end = commands("scaling.md", "Cells")
    second = first.cell("second")
    for text in (begin, make, start):
        first.type(text)
    second.wait_for_rows(100)
    before = started(first)
    kill, look, mend = break_and_mend.splitlines()
    first.type(kill)
    rows, samples = len(second.ids()), published(second)
    assert "y_pred" in first.type(look)
    first.wait_for_rows(SAMPLES - 1, 60)
    assert started(first) == before
    assert "WARNING" not in first.run("logs", *SERVICES)
    assert len(second.ids()) == rows < SAMPLES
    assert published(second) > samples

    first.type(mend)
    second.wait_for_rows(SAMPLES - 1, 60)
    assert len({*first.ids(), *second.ids()}) == len(first.ids()) + len(second.ids()) == 2 * SAMPLES
    wait_until(second.picture.exists, 20, "a picture of its own")

    first.type(end)
    assert [vhost["name"] for vhost in call_api(first.ui_port, "GET", "/vhosts")] == ["/"]
    assert not second.inspect("metrics", STARTED)
