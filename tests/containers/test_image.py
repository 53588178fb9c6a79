"""The image by itself: how it stops, what it makes of secrets, what a user may add to it."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest

from support.containers import SERVICES, docker
from support.node import wait_until, works
from support.paths import ROOT

pytestmark = pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here")


@pytest.fixture(scope="module", params=["3.9", "3.13"])
def image(request: pytest.FixtureRequest) -> Iterator[str]:
    """An image of what is here, with one package more."""
    tag = f"image-test:{request.param}-{os.getpid()}"
    settings = [f"PYTHON_VERSION={request.param}", "PACKAGES=humanize==4.13.0"]
    docker("build", "--quiet", "--tag", tag, *[f"--build-arg={setting}" for setting in settings], str(ROOT))
    yield tag
    docker("image", "rm", tag)


def holds_or_handles_a_stop(status: Path) -> bool:
    """Whether SIGTERM, the fifteenth signal, is held back or has a handler in the process with this status."""
    masks = re.findall(r"Sig(?:Blk|Cgt):\t(\w+)", status.read_text())
    return any(int(mask, 16) & 1 << 14 for mask in masks)


@pytest.mark.parametrize("service", SERVICES)
def test_a_stop_in_the_first_second_ends_a_service_with_code_zero(image, service):
    container = docker("run", "--detach", "--env=RABBITMQ_HOST=localhost", image, "python", f"{service}.py")
    try:
        status = Path(f"/proc/{docker('inspect', '--format', '{{.State.Pid}}', container)}/status")
        if not status.exists():
            pytest.skip("Docker runs its containers in another machine")
        wait_until(lambda: holds_or_handles_a_stop(status), 10, "the entrypoint has begun")
        begun = time.monotonic()
        docker("stop", container)  # kills after ten seconds
        took = time.monotonic() - begun
        said = docker("logs", container)
        assert (docker("inspect", "--format", "{{.State.ExitCode}}", container), said) == ("0", said)
        assert took < 5
    finally:
        docker("rm", "--force", container)


def test_a_secret_named_like_a_setting_is_that_setting_and_any_other_is_left_alone(image, tmp_path: Path):
    tmp_path.chmod(0o755)
    for name in ("MODEL", "TLS-KEY", "lower", "9TH", "A B"):
        (tmp_path / name).write_text(f"{name}'s $value\n")
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    env = json.loads(docker("run", "--rm", f"--volume={tmp_path}:/run/secrets:ro", image, "python", "-c", show))
    assert env["MODEL"] == "MODEL's $value"
    assert not {"TLS-KEY", "lower", "9TH", "A B"} & set(env)


def test_a_secret_that_cannot_be_read_is_told_and_no_default_takes_its_place(image, tmp_path: Path):
    tmp_path.chmod(0o755)
    (tmp_path / "RABBITMQ_PASSWORD").touch(0o600)
    command = ["docker", "run", "--rm", "--user=12345", f"--volume={tmp_path}:/run/secrets:ro", image, "true"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "/run/secrets/RABBITMQ_PASSWORD: Permission denied" in result.stderr


def test_packages_of_a_users_own_are_in_the_image(image):
    assert docker("run", "--rm", image, "python", "-c", "import humanize; print(humanize.intcomma(1000))") == "1,000"
