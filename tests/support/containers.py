"""A fresh clone of this project, and Compose in it."""

import copy
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Set, TypeVar

import pytest

from support.node import free_ports, wait_until, works
from support.paths import ROOT
from support.pipeline import read_rows

SERVICES = ["features", "metrics", "model", "plot"]
STARTED = "{{.Id}} {{.State.StartedAt}} {{.RestartCount}}"  # which container, and since when


def docker(*arguments: str, text: str = "", check: bool = True) -> str:
    """What a docker command prints."""
    result = subprocess.run(
        ["docker", *arguments], input=text, capture_output=True, text=True, check=False, timeout=300
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


def clone(folder: Path) -> None:
    """A clone of what is here, with what isn't committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for file in filter(lambda file: (ROOT / file).is_file(), listed):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)


def clone_on_windows(folder: Path) -> None:
    """The same as Git for Windows makes it, and a .env as Windows' editors write it."""
    origin = folder.with_name("origin")
    origin.mkdir()
    clone(origin)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message=all"]):
        subprocess.run(["git", "-c", "core.autocrlf=false", *command], cwd=origin, check=True)
    subprocess.run(["git", "clone", "--quiet", "-c", "core.autocrlf=true", str(origin), str(folder)], check=True)
    (folder / ".env").write_bytes(b"# what is to stay\r\nRABBITMQ_USER=demo\r\nRABBITMQ_PASSWORD=hunter2\r\n")


P = TypeVar("P", bound="Project")


class Project:
    """Compose in a clone."""

    def __init__(self, compose: str, folder: Path, env: Dict[str, Any]) -> None:
        if not works(f"{compose} version"):
            pytest.skip(f"{compose} is not installed")
        self.folder = folder
        self.csv = folder / "logs" / "metric_log.csv"
        self.picture = folder / "logs" / "error_distribution.png"
        self.amqp_port, self.ui_port = free_ports(2)
        self.name = f"demo{self.amqp_port}"
        self._compose = compose.split()
        self.env = {
            **os.environ,
            "AMQP_PORT": str(self.amqp_port),
            "UI_PORT": str(self.ui_port),
            "PLOT_INTERVAL": "1",
        }
        self.env.update({name: str(value) for name, value in env.items()})

    def cell(self: P, name: str) -> P:
        """A cell of this name on the same RabbitMQ, once docs/scaling.md has made it."""
        cell = copy.copy(self)
        cell.name = name
        cell.env = {**self.env, "RABBITMQ_VHOST": name, "BROKER_NETWORK": f"{self.name}_default"}
        cell._compose = ["docker", "compose", "--file=docker-compose.yml", "--file=deploy/cell.yml"]
        cell.csv, cell.picture = (file.parent / name / file.name for file in (self.csv, self.picture))
        return cell

    def run(self, *arguments: str, **env: str) -> str:
        """What a Compose command prints, with settings for it alone."""
        result = subprocess.run(
            [*self._compose, "--project-name", self.name, *arguments], cwd=self.folder, env={**self.env, **env},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def type(self, commands: str) -> str:
        """What the commands of a page print, typed in the clone."""
        result = subprocess.run(
            ["sh", "-ec", commands], cwd=self.folder, env={**self.env, "COMPOSE_PROJECT_NAME": self.name},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def remove(self) -> None:
        """Take away all that Compose has made."""
        self.run("down", "--volumes", "--timeout", "5", "--rmi", "local")

    def inspect(self, service: str, what: str) -> List[str]:
        """One answer a container of the service, running or not; an empty one where there is nothing to say."""
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        ids = docker("ps", "--all", "--quiet", *filters).split()
        return [docker("inspect", "--format", what, container) for container in ids]

    def all_healthy(self) -> bool:
        return all(
            set(self.inspect(service, "{{.State.Health.Status}}")) == {"healthy"} for service in [*SERVICES, "rabbitmq"]
        )

    def ids(self) -> List[str]:
        """The ids in the CSV, in its order."""
        return [row[0] for row in read_rows(self.csv)]

    def wait_for_rows(self, more_than: int, seconds: float = 45) -> int:
        wait_until(lambda: len(self.ids()) > more_than, seconds, f"more rows than {more_than}")
        ids = self.ids()
        assert len(set(ids)) == len(ids)
        return len(ids)

    def owners(self) -> Set[int]:
        return {file.stat().st_uid for file in (self.csv, self.picture)}
