"""Several machines on this one: Docker Engines in network namespaces of their own, on a switch that has another."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List

from support.containers import docker
from support.node import wait_until, works

TOOLS = ["dockerd", "ip", "nsenter", "unshare"]  # of docker.io, iproute2 and util-linux


def missing() -> str:
    """What is needed here and isn't there."""
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    return ", ".join(lacking) or ("root" if os.geteuid() else "")


class Machines:
    """Machines with the numbers from 1 on, which reach each other and nothing else, until they are removed."""

    def __init__(self, count: int) -> None:
        self._folder = Path(tempfile.mkdtemp())  # short: a socket's path may have 107 characters
        self._name = f"demo{os.getpid()}-"  # of the namespaces
        self._engines: List[subprocess.Popen[bytes]] = []
        self._switch = f"{self._name}switch"
        self._ip("netns", "add", self._switch)
        self._ip("-netns", self._switch, "link", "add", "name", "switch", "type", "bridge")
        self._ip("-netns", self._switch, "link", "set", "switch", "up")
        for number in range(1, count + 1):
            self._start(number)
        for number in range(1, count + 1):
            wait_until(lambda: works(f"docker --host {self.host(number)} info"), 60, "its engine runs")  # noqa: B023

    def host(self, number: int) -> str:
        """Where its Docker Engine listens."""
        return f"unix://{self._folder}/{number}.sock"

    def address(self, number: int) -> str:
        return f"10.99.0.{10 + number}"

    def load(self, *images: str) -> None:
        """Bring these images of the usual engine to each machine."""
        archive = self._folder / "images.tar"
        docker("save", "--output", str(archive), *images)
        for number in range(1, len(self._engines) + 1):
            docker("--host", self.host(number), "load", "--input", str(archive))
        archive.unlink()

    def plug(self, number: int, state: str) -> None:
        """Take a machine from the network, `down`, or bring it back, `up`."""
        self._ip("-netns", self._switch, "link", "set", f"port{number}", state)

    def remove(self) -> None:
        for engine in self._engines:
            engine.terminate()  # and its containers with it
        for engine in self._engines:
            engine.wait(60)
        for number in range(1, len(self._engines) + 1):
            self._ip("netns", "delete", f"{self._name}{number}")
        self._ip("netns", "delete", self._switch)
        shutil.rmtree(self._folder)

    def _start(self, number: int) -> None:
        name, data = f"{self._name}{number}", self._folder / str(number)
        self._ip("netns", "add", name)
        port = ["name", f"port{number}", "netns", self._switch]
        self._ip("link", "add", "name", "eth0", "netns", name, "type", "veth", "peer", *port)
        self._ip("-netns", self._switch, "link", "set", f"port{number}", "master", "switch", "up")
        self._ip("-netns", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._ip("-netns", name, "link", "set", device, "up")
        # With the files of this machine, but for what an engine mounts and for the machine's name.
        enter = ["nsenter", f"--net=/run/netns/{name}", "unshare", "--mount", "--uts", "sh", "-c"]
        files = f"--data-root {data} --exec-root {data}.run --pidfile {data}.pid"
        engine = f"hostname machine{number}; exec dockerd --host {self.host(number)} {files}"
        with open(f"{data}.log", "wb") as log:
            self._engines.append(subprocess.Popen([*enter, engine], stdout=log, stderr=log))

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, timeout=60)
