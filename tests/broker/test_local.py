"""`make local`: the node and the four scripts, on the RabbitMQ that is installed and on the image's."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest

from support.node import find, wait_until, works
from support.paths import ROOT
from support.pipeline import read_rows

INSTALLED = "from deploy import local"
#: Where rabbitmq-server isn't found.
CONTAINER = "from deploy import local; local.find = lambda _: None"


@pytest.mark.parametrize(
    "which",
    [
        pytest.param(INSTALLED, marks=pytest.mark.skipif(not find("rabbitmq-server"), reason="it isn't installed")),
        pytest.param(
            CONTAINER, marks=pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here")
        ),
    ],
    ids=["installed", "container"],
)
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_make_local_runs_everything_until_it_is_stopped_and_leaves_nothing_behind(which, sig, tmp_path: Path):
    csv, env = tmp_path / "rows.csv", environment(tmp_path)
    env["MODEL"] = "support.odd_models:with_a_program_that_it_forgets"
    env["PYTHONPATH"] = "tests"
    command = [sys.executable, "-c", f"{which}; import sys; sys.exit(local.main())"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(read_rows(csv)) > 5 and (tmp_path / "picture.png").exists(), 60, "rows and a picture")
    finally:
        process.send_signal(sig)
        process.send_signal(sig)  # a terminal that is closed may send two
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    for service in ("features", "model", "metrics"):
        assert f"{service:8} | " in said
    assert "RabbitMQ's management UI: http://127.0.0.1:" in said
    assert list((tmp_path / "temporary").iterdir()) == []


def environment(folder: Path) -> Dict[str, str]:
    """Files of the test's own."""
    (folder / "temporary").mkdir()
    return {
        **os.environ,
        "CSV_FILE": str(folder / "rows.csv"),
        "IMG_FILE": str(folder / "picture.png"),
        "STATE_FILE": str(folder / "state.db"),
        "INTERVAL": "0.1",
        "RABBITMQ_URL": "amqp://elsewhere",  # is for the services alone, not for a private node
        "TMPDIR": str(folder / "temporary"),
    }


@pytest.mark.skipif(not find("rabbitmq-server"), reason="it isn't installed")
def test_make_local_ends_when_a_service_refuses_its_setting(tmp_path: Path):
    env = {**environment(tmp_path), "MODEL": "nowhere:predict"}
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.local"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.wait(60) == 2
    finally:
        process.terminate()
    assert "model    | MODEL='nowhere:predict' is not allowed" in process.communicate()[0]


@pytest.mark.skipif(not find("rabbitmq-server"), reason="it isn't installed")
def test_make_local_ends_when_nobody_reads_what_it_says(tmp_path: Path):
    """As after `make local | head`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.local"],
        cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = process.stdout
    assert said
    try:
        wait_until(lambda: "connected" in said.readline(), 60, "a service is there")
        said.close()
        assert process.wait(30) == 0
    finally:
        process.terminate()
    assert process.stderr
    assert process.stderr.read() == ""
    assert list((tmp_path / "temporary").iterdir()) == []
