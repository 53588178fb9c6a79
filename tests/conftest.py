"""Real parts for the tests: a private RabbitMQ node, a virtual host a test, and the four scripts as processes."""

import textwrap
from pathlib import Path
from typing import Dict, Iterator, NamedTuple

import hypothesis
import pytest
import trustme

from support.node import ContainerNode, Node, find, free_ports, works
from support.pipeline import Pipeline

hypothesis.settings.register_profile("here", deadline=None)  # how long an example takes is no property
hypothesis.settings.load_profile("here")


class Certificates(NamedTuple):
    """A certificate authority, and what a broker of that authority needs."""

    authority: Path
    other_authority: Path
    port: int
    settings: str
    folder: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    folder.chmod(0o755)  # a container's user reads it too
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    (folder / "key.pem").chmod(0o644)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    [port] = free_ports(1)
    settings = f"""
        listeners.ssl.default = 127.0.0.1:{port}
        ssl_options.cacertfile = {folder}/authority.pem
        ssl_options.certfile = {folder}/certificate.pem
        ssl_options.keyfile = {folder}/key.pem
        ssl_options.verify = verify_none
        ssl_options.fail_if_no_peer_cert = false
    """
    return Certificates(folder / "authority.pem", folder / "other.pem", port, textwrap.dedent(settings), folder)


#: Deliveries not acknowledged for ten seconds close their channel, instead of half an hour, so that whoever
#: sits on a message anywhere in these tests is found. Looked at every second instead of every minute.
IMPATIENT = "[{rabbit, [{consumer_timeout, 10000}, {channel_tick_interval, 1000}]}]."


STATISTICS = "collect_statistics_interval = 1000\n"  # every second, not every five


@pytest.fixture(scope="session", params=[Node, ContainerNode], ids=["installed", "container"])
def node(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Node]:
    """The RabbitMQ that is installed here (3.10 on Debian 12), and with Docker the image's (4.x)."""
    if request.param is ContainerNode and not works("docker info"):
        pytest.skip("no Docker Engine runs here")
    if request.param is Node and not find("rabbitmq-server"):
        pytest.skip("no rabbitmq-server is installed here")
    node = request.param(certificates.settings + STATISTICS, IMPATIENT, [certificates.folder])
    try:
        yield node.start()
    finally:
        node.close()


@pytest.fixture
def vhost(node: Node, request: pytest.FixtureRequest) -> Iterator[Dict[str, str]]:
    """A virtual host for one test alone: the same queue names, other queues."""
    name = f"v{abs(hash(request.node.name))}"
    node.api("PUT", f"/vhosts/{name}")
    node.api("PUT", f"/permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    yield {**node.env, "RABBITMQ_VHOST": name}
    node.api("DELETE", f"/vhosts/{name}")


@pytest.fixture
def pipeline(vhost: Dict[str, str], tmp_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(vhost, tmp_path)
    yield pipeline
    pipeline.close()


@pytest.fixture
def without_broker(tmp_path: Path) -> Iterator[Pipeline]:
    """The scripts where no RabbitMQ listens."""
    pipeline = Pipeline({"RABBITMQ_HOST": "127.0.0.1", "RABBITMQ_PORT": "1"}, tmp_path)
    yield pipeline
    pipeline.close()
