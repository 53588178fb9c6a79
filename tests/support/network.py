"""Cuts and slows the links of containers, by rules in their own network namespaces: on Linux, as root or by sudo."""

import os
import shutil
import subprocess
from typing import List

from support.containers import docker
from support.node import works

SUDO = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
TOOLS = ["nsenter", "iptables", "ip", "tc"]  # of util-linux, iptables and iproute2


def missing() -> str:
    """What is needed here and isn't there."""
    lacking = [tool for tool in TOOLS if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if not lacking and not works(" ".join([*SUDO, "nsenter", "--target", str(os.getpid()), "--net", "true"])):
        lacking = ["root"]
    return ", ".join(lacking)


class Host:
    """A running container's end of the network. It must not be started again meanwhile: the rules would be gone."""

    def __init__(self, container: str) -> None:
        form = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}} {{end}}"
        self._pid, self.address, self.gateway = docker("inspect", "--format", form, container).split()

    def deaf_to(self, address: str, share: float = 1) -> None:
        """Let nothing in that comes from there, or of a share of the packets nothing, at random."""
        self._rule("INPUT", "--source", address, share)

    def mute_to(self, address: str, share: float = 1) -> None:
        """Let nothing out that goes there."""
        self._rule("OUTPUT", "--destination", address, share)

    def cut(self, address: str, share: float = 1) -> None:
        self.deaf_to(address, share)
        self.mute_to(address, share)

    def slow(self, rate: str) -> None:
        """Send no faster than that; what is to go out waits for up to two seconds, and is dropped beyond."""
        limits = ["rate", rate, "burst", "16k", "latency", "2s"]
        self._run("tc", "qdisc", "add", "dev", self._device(), "root", "tbf", *limits)

    def heal(self) -> None:
        """Take all of this back."""
        self._run("iptables", "--wait", "--flush")  # the table `filter`, where a container has no rules of its own
        self._run("tc", "qdisc", "del", "dev", self._device(), "root", check=False)  # there may be none

    def _device(self) -> str:
        return self._run("ip", "-oneline", "-4", "route", "show", "default").split(" dev ")[1].split()[0]

    def _rule(self, chain: str, end: str, address: str, share: float) -> None:
        some: List[str] = []
        if share < 1:
            some = ["--match", "statistic", "--mode", "random", "--probability", str(share)]
        self._run("iptables", "--wait", "--append", chain, end, address, *some, "--jump", "DROP")

    def _run(self, *command: str, check: bool = True) -> str:
        enter = [*SUDO, "nsenter", "--target", self._pid, "--net"]
        result = subprocess.run([*enter, *command], capture_output=True, text=True, timeout=60, check=False)
        assert not check or result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
        return result.stdout
