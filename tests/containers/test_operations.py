"""What docs/operations.md tells an operator, by its commands as they stand."""

import os
import re
from typing import Iterator

import pytest

from support.containers import Project, clone
from support.node import call_api, wait_until, works
from support.pages import blocks, commands
from support.paths import ROOT

pytestmark = [
    pytest.mark.skipif(os.environ.get("CLUSTER") != "1", reason="takes a minute: set CLUSTER=1"),
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.xdist_group("cluster"),
]

READ = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone that runs; a sample a second, so that the log names each."""
    project = Project("docker compose", tmp_path_factory.mktemp("operations"), {"INTERVAL": 1})
    clone(project.folder)
    try:
        project.run("up", "--build", "--detach")
        project.wait_for_rows(5)
        yield project
    finally:
        project.remove()


def publish(project: Project, queue: str, body: str) -> None:
    message = {"properties": {"delivery_mode": 2}, "routing_key": queue, "payload": body, "payload_encoding": "string"}
    assert call_api(project.ui_port, "POST", "/exchanges/%2F/amq.default/publish", message)["routed"]


def test_each_figure_is_where_the_page_says(project):
    publish(project, "y_true", '{"id": "waits", "body": 1}')
    wait_until(lambda: "unmatched: 1 true value" in project.run("logs", "metrics"), 20, "it is told")
    [figures] = commands("operations.md", "Six figures")
    said = project.type(figures.replace("rows written", "y_true"))  # one a second: none is counted
    assert re.search(r"^features\s+\d+\s+\d+\s+1$", said, re.MULTILINE)
    assert "unmatched: 1 true value" in said
    assert 0 < float(said.splitlines()[-1]) < 1

    page = (ROOT / "docs" / "operations.md").read_text()
    [families] = re.findall(r"family: \[(.*)\]", page)
    query = "&".join(f"family={family}" for family in families.split(", "))
    url = f"http://rabbitmq:15692/metrics/detailed?{query}"
    told = project.run("exec", "-T", "features", "python", "-c", READ, url)
    for name in set(re.findall(r"rabbitmq_detailed_\w+", page)):
        assert f"\n{name}{{" in told

    [checks] = [text for text in commands("operations.md", "Rules that ring") if "awk" in text]
    project.type(checks)


def test_what_was_backed_up_is_all_there_again_after_a_restore(project):
    publish(project, "y_true", '{"id": "late", "body": 1}')
    project.run("stop", "model")
    seen = len(published(project))
    wait_until(lambda: len(published(project)) > seen + 3, 20, "some wait for the model")
    before = published(project)
    rows = {*project.ids()}
    assert len(before) > len(rows)
    [backup] = commands("operations.md", "Backup")
    project.type(backup)
    project.wait_for_rows(len(rows) + 3)  # it goes on, and what comes from now on is not in the backup
    restore, definitions = commands("operations.md", "Restore")
    project.type(restore)
    wait_until(lambda: {*before} <= {*project.ids()}, 60, "what waited for the model has its rows")
    assert rows <= {*project.ids()}
    publish(project, "y_pred", '{"id": "late", "body": 2}')
    wait_until(lambda: "late" in project.ids(), 20, "what waited for its other half has its row")
    assert len(project.ids()) == len({*project.ids()})
    project.type(definitions)


def published(project: Project) -> "list[str]":
    return re.findall(r"(\d{8}T\S+): y_true", project.run("logs", "features"))


def test_the_rules_are_of_queues_that_are_there():
    [_, rules] = [text for kind, text in blocks("operations.md")["Rules that ring"] if kind == "yaml"]
    assert {*re.findall(r"features|y_true|y_pred|dead_letters", rules)} == {
        "features",
        "y_true",
        "y_pred",
        "dead_letters",
    }


def test_the_way_out_of_a_damaged_state_is_what_troubleshooting_says(project):
    rows = len(project.ids())
    project.run("stop", "metrics")  # what is open it would not read again
    project.run("run", "--rm", "--no-deps", "metrics", "sh", "-c", "head -c 8192 /dev/urandom > state/metrics.db")
    project.run("start", "metrics")
    told = "The state /app/state/metrics.db is damaged"
    wait_until(lambda: told in project.run("logs", "metrics"), 20, "it is told")
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    [command] = re.findall(r"`(docker compose run [^`]* mv [^`]*)`", page)
    project.type(command)
    project.wait_for_rows(rows + 3)
    assert len(project.ids()) == len({*project.ids()})
