"""A fresh clone of this project, and Compose in it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
from conftest import ROOT, read_rows
from node import free_ports, wait_until, works

SERVICES = ["features", "metrics", "model", "plot", "rabbitmq"]


class Project:
    """A fresh clone, and Compose in it."""

    def __init__(self, compose: str, folder: Path, env: Dict[str, Any]) -> None:
        if not works(f"{compose} version"):
            pytest.skip(f"{compose} is not installed")
        files = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
        self.folder = folder
        self.csv = folder / "logs" / "metric_log.csv"
        self.picture = folder / "logs" / "error_distribution.png"
        self.amqp_port, self.ui_port = free_ports(2)
        self.name = f"demo{self.amqp_port}"
        self._command = [*compose.split(), "--project-name", self.name]
        self.env = {
            **os.environ,
            "AMQP_PORT": str(self.amqp_port),
            "UI_PORT": str(self.ui_port),
            "PLOT_INTERVAL": "1",
        }
        self.env.update({name: str(value) for name, value in env.items()})

    def run(self, *arguments: str) -> str:
        result = subprocess.run(
            [*self._command, *arguments], cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def inspect(self, service: str, what: str) -> List[str]:
        """One answer a container of the service, running or not; an empty one where there is nothing to say."""
        command = ["docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.name}"]
        ids = subprocess.check_output([*command, "--filter", f"label=com.docker.compose.service={service}"], text=True)
        inspect = ["docker", "inspect", "--format", what]
        return [subprocess.check_output([*inspect, container], text=True).strip() for container in ids.split()]

    def all_healthy(self) -> bool:
        return all(set(self.inspect(service, "{{.State.Health.Status}}")) == {"healthy"} for service in SERVICES)

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
