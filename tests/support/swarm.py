"""deploy/stack.yml on a Docker Swarm."""

import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any, Dict, List

from support.containers import docker

#: For a container that knows the password: less work than rabbitmqctl, which may run out of time on a busy machine.
QUEUES = """
import base64, urllib.request
user = b"demo:" + open("/run/secrets/RABBITMQ_PASSWORD", "rb").read()
headers = {"Authorization": "Basic " + base64.b64encode(user).decode()}
request = urllib.request.Request("http://rabbitmq:15672/api/queues", headers=headers)
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


class Swarm:
    """A swarm by the Docker Engine of one of its managers, the usual one or that at `host`."""

    def __init__(self, stack: str, folder: Path, host: str = "", **settings: Any) -> None:
        self.stack = stack
        self._folder = folder  # of the clone that is deployed
        self._host = ["--host", host] if host else []
        self._settings = {"IMAGE": f"{stack}:1", "INTERVAL": 0.02, **settings}

    def docker(self, *arguments: str, text: str = "", check: bool = True) -> str:
        return docker(*self._host, *arguments, text=text, check=check)

    def create_secrets(self, user: str, password: str) -> None:
        value = secrets.token_hex(16)
        self.docker("secret", "create", user, "-", text=f"default_user = demo\ndefault_pass = {value}\n")
        self.docker("secret", "create", password, "-", text=value)

    def deploy(self, stack: str = "", **settings: Any) -> None:
        """As the first lines of deploy/stack.yml say, once more under another name where one is given."""
        env = {name: str(value) for name, value in {**os.environ, **self._settings, **settings}.items()}
        command = ["stack", "deploy", "--compose-file", "deploy/stack.yml", "--resolve-image", "never"]
        subprocess.run(
            ["docker", *self._host, *command, stack or self.stack],
            cwd=self._folder, env=env, check=True, capture_output=True,
        )  # fmt: skip

    def container(self, service: str, stack: str = "") -> str:
        """The running container, on this machine, of a service that has one."""
        return self.docker("ps", "--quiet", "--filter", f"name={stack or self.stack}_{service}.1")

    def ids(self, stack: str = "") -> List[str]:
        """The ids in the CSV."""
        csv = self.docker("exec", self.container("metrics", stack), "cat", "/app/logs/metric_log.csv", check=False)
        return [row.split(",")[0] for row in csv.splitlines()[1:]]

    def queues(self) -> List[Dict[str, Any]]:
        """What the management UI tells of each; on the machine of metrics."""
        return json.loads(self.docker("exec", self.container("metrics"), "python", "-c", QUEUES))

    def csv_size(self) -> int:
        size = self.docker("exec", self.container("metrics"), "stat", "--format=%s", "/app/logs/metric_log.csv")
        return int(size)

    def state(self, service: str) -> str:
        """What its newest task does; nothing where the managers don't answer, as when one has just come back."""
        command = ["service", "ps", f"{self.stack}_{service}", "--format", "{{.CurrentState}}"]
        return self.docker(*command, check=False).partition(" ")[0]

    def running(self, service: str, what: str) -> List[str]:
        """This of each of its tasks that is to run."""
        chosen = ["--filter", "desired-state=running", "--format", what]
        return self.docker("service", "ps", f"{self.stack}_{service}", *chosen).split()
