"""A private RabbitMQ node on free ports, its files in a temporary folder: it touches no other one."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, TypeVar

AnyNode = TypeVar("AnyNode", bound="Node")

# Debian's own /usr/sbin/rabbitmq-server changes to the user rabbitmq; the one behind it is the plain one.
FOLDERS = [Path("/usr/lib/rabbitmq/bin"), *map(Path, os.environ["PATH"].split(os.pathsep))]


def find(program: str) -> Optional[str]:
    """Where a program of RabbitMQ's is, None if it isn't installed."""
    return next((str(folder / program) for folder in FOLDERS if (folder / program).exists()), None)


def works(command: str) -> bool:
    """Whether a command can be run and exits with 0."""
    try:
        return subprocess.run(command.split(), capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


def free_ports(count: int) -> List[int]:
    """Ports of loopback on which nobody listens.

    They lie below those that Linux and macOS give to outgoing connections: one of these could take a port before the
    node listens there, or while it restarts. (https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html)
    """
    ports: Set[int] = set()
    while len(ports) < count:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as s, suppress(OSError):  # somebody listens there
            s.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)


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
    """The RabbitMQ that is installed here, reachable on loopback only, with its management UI."""

    ADDRESS = "127.0.0.1"  # where it listens

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
        self.port, self.ui_port, distribution, epmd = free_ports(4)
        self.settings = self.folder / "rabbitmq.conf"
        self.settings.write_text(
            f"listeners.tcp.default = {self.ADDRESS}:{self.port}\n"
            f"management.tcp.ip = {self.ADDRESS}\nmanagement.tcp.port = {self.ui_port}\n"
            "loopback_users.guest = false\n"
            # The demo must also run on a small disk; the default alarm is meant for servers.
            "disk_free_limit.absolute = 10MB\n"
        )
        self.advanced = self.folder / "advanced.config"
        self.advanced.write_text("[].\n")
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RABBITMQ_")},
            "HOME": str(self.folder),  # for a cookie of its own
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"demo{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.settings),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.advanced),
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

    def start(self: AnyNode) -> AnyNode:
        """Start the node, also one that was stopped; when this returns, it takes connections."""
        self._server = self._launch()
        wait_until(self._is_up, 60, f"RabbitMQ node up; what it said is in {self.folder / 'output.log'}")
        return self

    def _launch(self) -> subprocess.Popen:
        if not self._epmd:
            # Erlang's port mapper would otherwise stay behind as a daemon.
            self._epmd = self._run("epmd", "-address", "127.0.0.1", "-port", self._env["ERL_EPMD_PORT"])
        return self._run(find("rabbitmq-server") or "rabbitmq-server")

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
            # Docker takes connections to a container's port before anyone listens behind it: ask for an answer. The
            # management UI is there by then. (https://github.com/rabbitmq/rabbitmq-server/issues/2405)
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"AMQP\0\0\x09\x01")
                return bool(connection.recv(1))
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


class ContainerNode(Node):
    """The same in a container, published on loopback only."""

    IMAGE = "rabbitmq:4-management"
    ADDRESS = "0.0.0.0"  # inside

    def __init__(self) -> None:
        super().__init__()
        self._env = dict(os.environ)  # the docker command finds its engine by the user's own settings
        self.container = f"rabbitmq-{self.port}"
        self.options = [
            f"--name={self.container}",
            *[f"--publish=127.0.0.1:{port}:{port}" for port in (self.port, self.ui_port)],
        ]

    def _launch(self) -> subprocess.Popen:
        if not self._server:
            # Pulls the image where it is missing, and tells of it.
            subprocess.run(["docker", "create", *self.options, self.IMAGE], check=True, stdout=subprocess.DEVNULL)
            # Not mounted: Docker Desktop shares some folders only.
            for file in (self.settings, self.advanced):
                file.chmod(0o644)  # RabbitMQ's user is to read it, whatever the umask
            self.docker("cp", str(self.settings), f"{self.container}:/etc/rabbitmq/conf.d/90-private.conf")
            self.docker("cp", str(self.advanced), f"{self.container}:/etc/rabbitmq/advanced.config")
        return self._run("docker", "start", "--attach", self.container)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        if self._server and self._server.poll() is None:
            self.docker("kill", f"--signal={signal.Signals(sig).name}", self.container)
            self._server.wait(30)

    def close(self) -> None:
        works(f"docker rm --force --volumes {self.container}")
        if self._server:
            self._server.wait(30)  # which notices a moment later that its container is gone
        super().close()

    def docker(self, *arguments: str) -> str:
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True
