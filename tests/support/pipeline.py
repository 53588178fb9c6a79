"""The four scripts as processes in one virtual host, and a client that is not ours."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import pika

from support.node import wait_until
from support.paths import ROOT

HEADER = "id,y_true,y_pred,absolute_error"


class Process:
    """A running script, or program; what it prints goes to a file."""

    def __init__(self, script: str, arguments: List[str], env: Dict[str, str], output: Path, root: Path) -> None:
        self.script = script
        self._output = output
        with output.open("wb") as file:
            self.popen = subprocess.Popen(
                [*([sys.executable] if script.endswith(".py") else []), script, *arguments],
                cwd=root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def says(self, text: str, seconds: float = 20) -> "Process":
        try:
            wait_until(lambda: text in self.output, seconds, f"{self.script} says {text!r}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it said:\n{self.output}") from None
        return self

    def ends(self, seconds: float = 20) -> int:
        return self.popen.wait(seconds)

    def stop(self, clean: bool = True) -> float:
        """Ask it to end; the seconds it took. It must exit with 0; if `clean`, having finished all."""
        begun = time.monotonic()
        self.popen.terminate()
        assert self.ends() == 0, self.output
        assert not clean or "cut off" not in self.output
        return time.monotonic() - begun

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


def read_rows(csv: Path) -> List[List[str]]:
    """The rows of a CSV that metrics writes, without its header; none where there is no file yet."""
    lines = csv.read_text().splitlines() if csv.exists() else []
    assert not lines or lines[0] == HEADER
    return [line.split(",") for line in lines[1:]]


class Pipeline:
    """The scripts in one virtual host, their files in one folder, and a client that is not ours."""

    def __init__(self, env: Dict[str, str], folder: Path, root: Path = ROOT) -> None:
        self._root = root  # of the checkout whose scripts they are
        self.vhost = env.get("RABBITMQ_VHOST", "/")
        self.csv = folder / "logs" / "metric_log.csv"
        self.image = folder / "logs" / "error_distribution.png"
        self.state = folder / "state" / "metrics.db"
        self._folder = folder
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RABBITMQ_")},
            "CSV_FILE": str(self.csv),
            "IMG_FILE": str(self.image),
            "STATE_FILE": str(self.state),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": f"{root}:{root}/tests",
            **env,
        }
        self._processes: List[Process] = []
        self._connection: Any = None

    def start(self, script: str, *arguments: str, **env: Any) -> Process:
        """Start a script, named without its .py, or the program at an absolute path."""
        output = self._folder / f"{Path(script).name}-{len(self._processes)}.log"
        settings = {**self._env, **{name: str(value) for name, value in env.items()}}
        script = script if Path(script).is_absolute() else f"{script}.py"
        process = Process(script, list(arguments), settings, output, self._root)
        self._processes.append(process)
        return process

    def connected(self, script: str, **env: Any) -> Process:
        return self.start(script, **env).says("connected to RabbitMQ")

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        self.close_client()

    def close_client(self) -> None:
        if self._connection and self._connection.is_open:
            self._connection.close()

    # --- what comes out ---

    def rows(self) -> List[List[str]]:
        """The CSV's rows so far, without its header."""
        return read_rows(self.csv)

    def wait_until_rows(self, count: int, seconds: float = 60) -> None:
        wait_until(
            lambda: self.csv.exists() and self.csv.read_bytes().count(b"\n") > count,
            seconds,
            f"{count} rows; there are {len(self.rows())}",
        )

    def wait_for_rows(self, count: int, seconds: float = 60) -> List[List[str]]:
        """Exactly so many rows, of as many ids."""
        self.wait_until_rows(count, seconds)
        rows = self.rows()
        assert len(rows) == count
        assert len({row[0] for row in rows}) == count
        return rows

    # --- a client that is not ours ---

    @property
    def channel(self) -> Any:
        if not self._connection or not self._connection.is_open:
            self.connect()
        return self._channel

    def connect(self, durable: bool = True) -> Any:
        """A channel of a new connection, on which the queues are declared."""
        env = self._env
        self._connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                env["RABBITMQ_HOST"], int(env["RABBITMQ_PORT"]), env.get("RABBITMQ_VHOST", "/"), heartbeat=0
            )
        )
        self._channel = self._connection.channel()
        for queue in ("features", "y_true", "y_pred", "dead_letters"):
            self._channel.queue_declare(queue, durable=durable)
        return self._channel

    def publish(self, queue: str, message: Any) -> None:
        """Publish bytes as they are, anything else as JSON; it survives a restart of the broker."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))

    def take(self, queue: str, seconds: float = 20) -> Any:
        """Take the next message from a queue: its properties and body."""
        found: Optional[Any] = wait_until(
            lambda: next((m for m in [self.channel.basic_get(queue, auto_ack=True)] if m[0]), None),
            seconds,
            f"a message in {queue}",
        )
        assert found
        return found[1], found[2]

    def waiting(self, queue: str) -> int:
        """Messages that are ready in a queue."""
        return self.channel.queue_declare(queue, passive=True).method.message_count
