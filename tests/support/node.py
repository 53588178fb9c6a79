"""The private RabbitMQ node of `make local`, and what tests ask of it."""

import base64
import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Dict, Sequence

from deploy import node
from deploy.node import find, free_ports, wait_until, works

__all__ = ["ContainerNode", "Node", "call_api", "find", "free_ports", "wait_until", "works"]


class Node(node.Node):
    """The RabbitMQ that is installed here."""

    def __init__(self, settings: str = "", advanced: str = "[].", files: Sequence[Path] = ()) -> None:
        """More `settings` as in rabbitmq.conf, what only advanced.config takes, and the files that they name."""
        super().__init__()
        with self.settings.open("a") as file:
            file.write(settings.replace("127.0.0.1", self.ADDRESS))
        self.advanced.write_text(advanced)

    def __getstate__(self) -> Dict[str, Any]:  # to another process, which cannot start or end it
        return {**self.__dict__, "_server": None, "_epmd": None}

    def ctl(self, *arguments: str) -> str:
        """What rabbitmqctl says."""
        command = [find("rabbitmqctl") or "rabbitmqctl", "--quiet", *arguments]
        return subprocess.run(command, env=self._env, check=True, capture_output=True, text=True, timeout=60).stdout

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the management API, as the UI itself makes it."""
        return call_api(self.ui_port, method, path, body)


class ContainerNode(Node, node.ContainerNode):
    """The image's, in a container."""

    def __init__(self, settings: str = "", advanced: str = "[].", files: Sequence[Path] = ()) -> None:
        super().__init__(settings, advanced, files)
        self.options += [f"--volume={path}:{path}:ro" for path in files]
        ports = re.findall(r"127\.0\.0\.1:(\d+)", settings)
        self.options += [f"--publish=127.0.0.1:{port}:{port}" for port in ports]

    def ctl(self, *arguments: str) -> str:
        return self.docker("exec", self.container, "rabbitmqctl", "--quiet", *arguments)


def call_api(port: int, method: str, path: str, body: Any = None) -> Any:
    """A call of the management API on a port of loopback."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api{path}", method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    request.add_header("Content-Type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=30) as response:
        text = response.read()
    return json.loads(text) if text else None
