"""What `make local` runs: a private RabbitMQ node and the four scripts, as `docker compose up` without building.

The node is the RabbitMQ that is installed here, else the image's in a container. Ctrl-C stops all.
"""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Callable, List, Optional

from deploy.node import ContainerNode, Node, find

SERVICES = ["features", "model", "metrics", "plot"]
FILES = {
    "CSV_FILE": "logs/metric_log.csv",
    "IMG_FILE": "logs/error_distribution.png",
    "STATE_FILE": ".local/metrics.db",
}


def main() -> int:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
    node = Node() if find("rabbitmq-server") else ContainerNode()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a model may print what this terminal cannot show
    processes: List[subprocess.Popen] = []
    readers: List[threading.Thread] = []
    on_signals(end)
    try:
        node.start()
        print(f"RabbitMQ's management UI: http://127.0.0.1:{node.ui_port} (guest, guest)", flush=True)
        for number, name in enumerate(SERVICES):
            process = subprocess.Popen(
                [sys.executable, f"{name}.py"],
                env={**FILES, **settings, **node.env, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                start_new_session=True,  # Ctrl-C is for this process, which stops them
            )  # fmt: skip
            processes.append(process)
            label = f"{name:8} |"
            if sys.stdout.isatty():
                label = f"\033[{32 + number}m{label}\033[0m"
            readers.append(threading.Thread(target=show, args=(label, process), daemon=True))
            readers[-1].start()
        # Features ends by itself after its SAMPLES; whoever ends with an error ends all.
        codes: List[Optional[int]] = [None]
        while None in codes and not any(codes):
            time.sleep(0.1)
            codes = [process.poll() for process in processes]
        return next(filter(None, codes), 0)
    except KeyboardInterrupt:
        return 0
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"no RabbitMQ: {error}", file=sys.stderr)
        return 1
    finally:
        on_signals(ignore)
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
            with suppress(OSError):  # what a model has started
                os.killpg(process.pid, signal.SIGKILL)
        for reader in readers:
            reader.join(1)  # what has left that group may hold the output open
        node.close()


def on_signals(handler: Callable[..., None]) -> None:
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, handler)


def end(*_: Any) -> None:
    """The first signal ends the wait; one more, as from a terminal that is closed, must not end the tidying up."""
    on_signals(ignore)
    raise KeyboardInterrupt


def ignore(*_: Any) -> None:
    pass


def show(label: str, process: subprocess.Popen) -> None:
    """Print what a process says, behind its name."""
    assert process.stdout
    try:
        for line in process.stdout:
            print(f"{label} {line}", end="", flush=True)
    except BrokenPipeError:  # nobody reads any more, as after `make local | head`: end as by Ctrl-C
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
