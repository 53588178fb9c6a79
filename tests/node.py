"""A private RabbitMQ node, on free ports in a temporary folder, that touches no other one.

    python tests/node.py COMMAND [ARG ...]

runs a command beside such a node, told of it by RABBITMQ_HOST and RABBITMQ_PORT, and stops both in the end.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

# Debian's own /usr/sbin/rabbitmq-server changes to the user rabbitmq; the one behind it is the plain one.
FOLDERS = [Path("/usr/lib/rabbitmq/bin"), *map(Path, os.environ["PATH"].split(os.pathsep))]


def find(program: str) -> Optional[str]:
    """Where a program of RabbitMQ's is, None if it isn't installed."""
    return next((str(folder / program) for folder in FOLDERS if (folder / program).exists()), None)


def free_ports(count: int) -> List[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's first true value, looked at often; TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


class Node:
    """A RabbitMQ node with its management UI, reachable on loopback only."""

    def __init__(self, settings: str = "", advanced: str = "[].", files: Sequence[Path] = ()) -> None:
        """More `settings` as in rabbitmq.conf, what only advanced.config takes, and the files that they name."""
        self._files = files
        self.folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
        self.folder.chmod(0o755)
        self.port, self.ui_port, distribution, epmd = free_ports(4)
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.ui_port}\n"
            "loopback_users.guest = false\n"
            # The demo must also run on a small disk; the default alarm is meant for servers.
            "disk_free_limit.absolute = 10MB\n" + settings
        )
        (self.folder / "advanced.config").write_text(advanced)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        self.name = f"demo{self.port}@localhost"
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RABBITMQ_")},
            "HOME": str(self.folder),  # for a cookie of its own
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
        }
        self._server: Optional[subprocess.Popen] = None
        self._epmd: Optional[subprocess.Popen] = None

    @property
    def env(self) -> Dict[str, str]:
        """What a client needs to know."""
        return {"RABBITMQ_HOST": "127.0.0.1", "RABBITMQ_PORT": str(self.port)}

    def start(self) -> "Node":
        """Start the node; when this returns, it takes connections."""
        if not self._epmd:
            # Erlang's port mapper would otherwise stay behind as a daemon.
            self._epmd = self._run("epmd", "-address", "127.0.0.1", "-port", self._env["ERL_EPMD_PORT"])
        self._server = self._run(find("rabbitmq-server") or "rabbitmq-server")
        wait_until(self._is_up, 60, f"RabbitMQ node up; its log is in {self.folder / 'log'}")
        return self

    def _run(self, *command: str) -> subprocess.Popen:
        with open(self.folder / "output.log", "ab") as log:
            return subprocess.Popen(
                command, env=self._env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _is_up(self) -> bool:
        assert self._server
        if self._server.poll() is not None:
            raise RuntimeError("RabbitMQ ended:\n" + (self.folder / "output.log").read_text()[-2000:])
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return bool(self.api("GET", "/overview"))
        except OSError:
            return False

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """End the node, cleanly or with SIGKILL; its data stays for the next start."""
        server = self._server
        if server and server.poll() is None:
            os.killpg(server.pid, sig)
            server.wait(30)
            wait_until(lambda: not _group_lives(server.pid), 30, "the node's processes are gone")

    def close(self) -> None:
        """End the node and remove all that it left."""
        self.stop(signal.SIGKILL)
        if self._epmd:
            self._epmd.kill()
            self._epmd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ctl(self, *arguments: str) -> str:
        """What rabbitmqctl says."""
        command = [find("rabbitmqctl") or "rabbitmqctl", "--quiet", *arguments]
        return subprocess.run(command, env=self._env, check=True, capture_output=True, text=True, timeout=60).stdout

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the management API, as the UI itself makes it."""
        return call_api(self.ui_port, method, path, body)


class ContainerNode(Node):
    """The same in a container of an image, on the network of this machine."""

    IMAGE = "rabbitmq:4-management"

    def start(self) -> "Node":
        container = f"rabbitmq-{self.port}"
        if self._server:
            self._server = self._run("docker", "start", "--attach", container)
        else:
            own = {name: value for name, value in self._env.items() if name.startswith(("RABBITMQ_", "ERL_"))}
            for name in ("RABBITMQ_CONF_ENV_FILE", "RABBITMQ_MNESIA_BASE", "RABBITMQ_LOG_BASE", "RABBITMQ_PID_FILE"):
                del own[name]
            options = [f"--env={name}={value}" for name, value in own.items()]
            options += [f"--volume={path}:{path}:ro" for path in (self.folder, *self._files)]
            options += ["--network=host", f"--name={container}"]
            self._server = self._run("docker", "run", *options, self.IMAGE)
        wait_until(self._is_up, 60, f"RabbitMQ node up; docker logs {container}")
        return self

    def stop(self, sig: int = signal.SIGTERM) -> None:
        if self._server and self._server.poll() is None:
            self._docker("kill", f"--signal={signal.Signals(sig).name}", f"rabbitmq-{self.port}")
            self._server.wait(30)

    def close(self) -> None:
        self._docker("rm", "--force", "--volumes", f"rabbitmq-{self.port}")
        super().close()

    def ctl(self, *arguments: str) -> str:
        return self._docker("exec", f"rabbitmq-{self.port}", "rabbitmqctl", "--quiet", *arguments)

    def _docker(self, *arguments: str) -> str:
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def works(command: str) -> bool:
    """Whether a command can be run and exits with 0."""
    try:
        return subprocess.run(command.split(), capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


def call_api(port: int, method: str, path: str, body: Any = None) -> Any:
    """A call of the management API on a port of loopback."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api{path}", method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    request.add_header("Content-Type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=30) as response:
        text = response.read()
    return json.loads(text) if text else None


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    if not find("rabbitmq-server"):
        print("rabbitmq-server is not installed: https://www.rabbitmq.com/docs/download", file=sys.stderr)
        return 2
    node = Node()
    try:
        node.start()
        print(f"RabbitMQ's management UI: http://127.0.0.1:{node.ui_port} (guest, guest)", flush=True)
        command = subprocess.Popen(sys.argv[1:], env={**os.environ, **node.env})
        # Ctrl-C reaches the command too; it ends by itself, then the node is stopped.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: command.terminate())
        code = command.wait()
        return 0 if code == 128 + signal.SIGINT else code
    finally:
        node.close()


if __name__ == "__main__":
    sys.exit(main())
