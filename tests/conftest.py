"""Real parts for the tests: a private RabbitMQ node, a virtual host a test, and the four scripts as processes."""

import os
import secrets
import shutil
import tempfile
import textwrap
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Type

import hypothesis
import pytest
import trustme

from parts.service import log
from support.node import ContainerNode, Node, find, free_ports, works
from support.pipeline import Pipeline
from support.share import share

hypothesis.settings.register_profile("here", deadline=None)  # how long an example takes is no property
hypothesis.settings.load_profile("here")


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Hears our log too, which is none of those that Python knows."""
    log.addHandler(caplog.handler)
    yield caplog
    log.removeHandler(caplog.handler)


class Certificates(NamedTuple):
    """A certificate authority, and what a broker of that authority needs."""

    authority: Path
    other_authority: Path
    port: int
    settings: str
    folder: Path


def make_certificates() -> Certificates:
    folder = Path(tempfile.mkdtemp(prefix="certificates-"))
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


class Shared(NamedTuple):
    """A node, and what encrypted connections to it need."""

    node: Node
    certificates: Certificates

    @classmethod
    def start(cls, kind: Type[Node]) -> "Shared":
        certificates = make_certificates()
        return cls(kind(certificates.settings + STATISTICS, IMPATIENT, [certificates.folder]).start(), certificates)

    def close(self) -> None:
        self.node.close()
        shutil.rmtree(self.certificates.folder)


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Type[Node], bool], Shared]]:
    """Gives the node of a kind that all tests share, or the one for tests that break or change the whole of it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes that run tests
    with ExitStack() as stack:
        found: Dict[str, Shared] = {}

        def get(kind: Type[Node], alone: bool) -> Shared:
            name = f"{kind.__name__}{'-alone' * alone}"
            if name not in found:
                found[name] = stack.enter_context(share(folder / name, partial(Shared.start, kind), Shared.close))
            return found[name]

        yield get


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("alone"):  # one after the other, on each kind of node
            item.add_marker(pytest.mark.xdist_group("alone, container" if "container" in item.name else "alone"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shared" in metafunc.fixturenames:
        kinds = {"installed": Node, "container": ContainerNode}
        if metafunc.definition.get_closest_marker("any_rabbitmq"):
            here = "installed" if find("rabbitmq-server") else "container"
            kinds = {here: kinds[here]}
        metafunc.parametrize("shared", kinds.values(), ids=list(kinds), indirect=True)


@pytest.fixture
def shared(request: pytest.FixtureRequest, nodes: Callable[[Type[Node], bool], Shared]) -> Shared:
    """The RabbitMQ that is installed here (3.10 on Debian 12), and with Docker the image's (4.x)."""
    if request.param is ContainerNode and not works("docker info"):
        pytest.skip("no Docker Engine runs here")
    if request.param is Node and not find("rabbitmq-server"):
        pytest.skip("no rabbitmq-server is installed here")
    return nodes(request.param, request.node.get_closest_marker("alone") is not None)


@pytest.fixture
def node(shared: Shared) -> Node:
    return shared.node


@pytest.fixture
def certificates(shared: Shared) -> Certificates:
    return shared.certificates


@pytest.fixture
def vhost(node: Node) -> Iterator[Dict[str, str]]:
    """A virtual host for one test alone: the same queue names, other queues."""
    name = f"v{secrets.token_hex(8)}"
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
