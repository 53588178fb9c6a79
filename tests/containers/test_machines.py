"""deploy/stack.yml over three machines, of which one vanishes."""

import os
import secrets
import time
from pathlib import Path
from typing import Iterator, Tuple

import pytest

from support import machines
from support.cluster import Growth, longest_pause
from support.containers import clone, docker
from support.machines import Machines
from support.node import wait_until, works
from support.paths import ROOT
from support.swarm import Swarm

pytestmark = [
    pytest.mark.skipif(os.environ.get("CLUSTER") != "1", reason="takes three minutes: set CLUSTER=1"),
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.skipif(bool(machines.missing()), reason=f"no machines can be made here without {machines.missing()}"),
    pytest.mark.xdist_group("machines"),
]

STACK = "machines-test"
SAMPLES = 6000  # in two minutes

#: What asks for modules of the kernel that it may not have, IPsec and IPVS, and the same without.
MODULES = [
    ('    driver_opts:\n      encrypted: "true"\n', ""),
    ("    ports:\n      - target: 15672 # the management UI\n        published: ${UI_PORT:-15672}\n", ""),
    ("    deploy:\n      placement:\n", "    deploy:\n      endpoint_mode: dnsrr\n      placement:\n"),
]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Tuple[Machines, Swarm]]:
    """Machines in a swarm, each with a RabbitMQ node and in a zone of its own; the CSV is on the first."""
    clone(tmp_path)
    stack = tmp_path / "deploy" / "stack.yml"
    for with_module, without in MODULES:
        assert with_module in stack.read_text()
        stack.write_text(stack.read_text().replace(with_module, without))
    three = Machines(3)
    try:
        swarm = Swarm(STACK, tmp_path, three.host(1))
        docker("build", "--quiet", "--tag", f"{STACK}:1", str(ROOT))
        three.load(f"{STACK}:1", "rabbitmq:4-management")
        swarm.docker("swarm", "init", "--advertise-addr", three.address(1))
        token = swarm.docker("swarm", "join-token", "--quiet", "manager")
        for number in (2, 3):
            join = ["swarm", "join", "--token", token, "--advertise-addr", three.address(number)]
            docker("--host", three.host(number), *join, three.address(1))
        for number in (1, 2, 3):
            labels = [f"--label-add=rabbitmq{number}=yes", f"--label-add=zone={number}"]
            swarm.docker("node", "update", *labels, f"machine{number}")
        swarm.docker("node", "update", "--label-add=logs=yes", "machine1")
        swarm.docker("secret", "create", "erlang_cookie", "-", text=secrets.token_hex(32))
        swarm.create_secrets("rabbitmq_user.conf", "RABBITMQ_PASSWORD")
        yield three, swarm
    finally:
        three.remove()
        docker("image", "rm", "--force", f"{STACK}:1", check=False)


def test_a_cell_is_spread_over_machines_and_goes_on_without_one_of_them(three):
    network, swarm = three
    swarm.deploy(SAMPLES=SAMPLES)
    wait_until(lambda: len(swarm.ids()) > 200, 150, "rows")
    # A queue that was declared before all nodes had met gets its other replicas later.
    wait_until(lambda: all(len(queue.get("online", ())) == 3 for queue in swarm.queues()), 60, "three replicas of each")
    nodes = [swarm.running(service, "{{.Node}}") for service in ("rabbitmq", "rabbitmq2", "rabbitmq3")]
    assert nodes == [["machine1"], ["machine2"], ["machine3"]]
    assert len(set(swarm.running("model", "{{.Node}}"))) == 2

    [features] = swarm.running("features", "{{.Node}}")  # which would begin anew elsewhere
    number = 2 if features == "machine3" else 3
    gone = f"machine{number}"
    with Growth(swarm.csv_size) as growth:
        begun = time.monotonic()
        network.plug(number, "down")
        down = ["node", "inspect", "--format", "{{.Status.State}}", gone]
        wait_until(lambda: swarm.docker(*down) == "down", 60, "it is given up")
        wait_until(lambda: gone not in swarm.running("model", "{{.Node}}"), 60, "its model has moved")
        size = swarm.csv_size()
        wait_until(lambda: swarm.csv_size() > size, 60, "rows come")
        pause = longest_pause(growth.times, begun)
    print(f"\nlongest pause with {gone} gone: {pause:.1f} s")
    assert pause < 60
    assert swarm.state("features") == "Running"  # so this took place under load

    network.plug(number, "up")
    wait_until(lambda: swarm.state("features") == "Complete", 150, "features has published its samples")
    wait_until(lambda: len(swarm.ids()) >= SAMPLES, 60, "all rows")
    assert len(set(swarm.ids())) == len(swarm.ids()) == SAMPLES
