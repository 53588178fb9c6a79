"""docs/tour.md word by word: the commands of each experiment on containers, and what the page says that one sees."""

import re
import statistics
import time
from datetime import datetime, timezone
from functools import partial
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from support.containers import SERVICES, Project, clone
from support.node import call_api, wait_until, works
from support.pages import blocks
from support.pipeline import read_rows

pytestmark = [
    pytest.mark.skipif(not works("docker info"), reason="no Docker Engine runs here"),
    pytest.mark.xdist_group("tour"),  # its tests share the containers
]

#: By the number of the experiment, or all of its heading.
BLOCKS = {heading.partition(".")[0]: found for heading, found in blocks("tour.md").items()}

#: What is another one in each log: ids, times, numbers.
VARYING = re.compile(r"…|\d{8}T[\d.]+Z-\w+|\d\d:\d\d:\d\d|(?<![\w-])-?\d+(?:\.\d+)?(?!\w)")


def like(line: str) -> str:
    """A pattern for lines that say the same with other ids, times and numbers; 0 stands for itself, … for anything."""
    line = " ".join(line.split())
    pattern, end = "", 0
    for found in VARYING.finditer(line):
        pattern += re.escape(line[end : found.start()])
        pattern += {"0": "0", "…": ".+?"}.get(found[0], r"(?!0 )[\w.:-]+")
        end = found.end()
    return pattern + re.escape(line[end:])


class Tour:
    """One part of the page, done block by block."""

    def __init__(self, project: Project, part: str) -> None:
        self.project = project
        self._blocks = iter(BLOCKS[part])
        self._since = ""  # when the last thing was done
        self._printed = ""  # by it

    def _next(self, kind: str) -> str:
        found, text = next(self._blocks, ("", ""))
        assert found == kind, text
        self._since, self._printed = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}", ""
        return text

    def writes_env(self) -> None:
        (self.project.folder / ".env").write_text(self._next("ini"))

    def types(self) -> None:
        """Run the next commands."""
        self._printed = self.project.type(self._next("sh"))

    def publishes(self, queue: str) -> None:
        """Publish the next payload as the management UI does."""
        message = {"routing_key": queue, "payload": self._next("json"), "payload_encoding": "string", "properties": {}}
        answer = call_api(self.project.ui_port, "POST", "/exchanges/%2F/amq.default/publish", message)
        assert answer == {"routed": True}

    def sees(self) -> None:
        """Wait for the next lines in what is printed and logged since the last thing done, each service's in order."""
        since, printed = self._since, self._printed
        lines: Dict[str, List[str]] = {}
        for line in self._next("").splitlines():
            lines.setdefault(line.partition(" ")[0], []).append(line)
        self._since, self._printed = since, printed
        for each in lines.values():
            pattern = re.compile(".*".join(map(like, each)))
            wait_until(partial(self._says, pattern), 30, "\n".join(each))

    def _says(self, pattern: "re.Pattern[str]") -> bool:
        return bool(pattern.search(self.said()))

    def said(self) -> str:
        return " ".join((self._printed + self.project.run("logs", "--no-color", "--since", self._since)).split())

    def queue(self, name: str) -> Dict[str, int]:
        """A queue's figures in the management UI."""
        return call_api(self.project.ui_port, "GET", f"/queues/%2F/{name}")

    def watches(self, queue: str, ready: int = 0, **figures: int) -> None:
        """Wait until the management UI shows at least so many messages ready, and these other figures."""

        def shown() -> bool:
            try:
                now = self.queue(queue)
            except OSError:  # RabbitMQ is starting
                return False
            return now.get("messages_ready", -1) >= ready and figures.items() <= now.items()

        wait_until(shown, 20, f"{queue}: at least {ready} ready, {figures}")

    def containers(self) -> Set[Tuple[str, str]]:
        """Each service and one of its containers, as it was started last."""
        what = "{{.Id}} {{.State.StartedAt}}"
        names = [*SERVICES, "rabbitmq"]
        return {(name, container) for name in names for container in self.project.inspect(name, what)}

    def row_count(self) -> int:
        return self.project.csv.read_bytes().count(b"\n") - 1

    def rows_of(self, features: str) -> int:
        """How many samples of this process of features, the end of their ids, have a row."""
        return self.project.csv.read_text().count(f"{features},")

    def speed(self) -> float:
        """Rows a second over five seconds at full speed, once they come."""
        first = self.row_count()
        wait_until(lambda: self.row_count() > first + 3000, 30, "rows at full speed")
        begun, first = time.monotonic(), self.row_count()
        wait_until(lambda: time.monotonic() > begun + 5, 10, "five seconds")
        return (self.row_count() - first) / (time.monotonic() - begun)

    def ends(self) -> None:
        """All of this part is done, and no sample has a second row."""
        assert next(self._blocks, None) is None
        ids = [line.partition(b",")[0] for line in self.project.csv.read_bytes().splitlines()]
        assert len(set(ids)) == len(ids)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone where the tour was begun."""
    project = Project("docker compose", tmp_path_factory.mktemp("tour"), {})
    clone(project.folder)
    try:
        start = Tour(project, "Start")
        start.writes_env()
        start.types()
        project.wait_for_rows(0)
        start.ends()
        yield project
        end = Tour(project, "The end")
        end.types()
        assert not end.containers()
    finally:
        project.remove()


@pytest.fixture
def tour(project: Project, request: pytest.FixtureRequest) -> Tour:
    """The part of the page with the number that the test has in its name."""
    return Tour(project, request.node.name.split("_")[1])


def test_1_a_queue_holds_what_nobody_takes(tour):
    before = tour.row_count()
    tour.types()
    tour.watches("features", ready=20, consumers=0)
    tour.sees()
    tour.types()
    tour.sees()
    assert tour.row_count() > before + 20
    tour.watches("features", messages_ready=0, consumers=1)
    tour.ends()


def test_2_a_message_that_a_killed_model_had_in_hand_comes_again(tour):
    tour.types()
    tour.sees()
    [features] = set(re.findall(r"(Z-\w+) and 399 more", tour.said()))
    tour.types()
    tour.watches("features", ready=1, messages_unacknowledged=0)
    assert tour.rows_of(features) == 0
    tour.types()
    tour.sees()
    assert tour.rows_of(features) % 400 == 0
    tour.types()
    tour.ends()


def test_3_replicas_share_the_work(tour):
    tour.types()
    tour.watches("features", ready=60)
    tour.types()
    tour.sees()
    tour.watches("features", messages_ready=0, consumers=4)
    consumers = call_api(tour.project.ui_port, "GET", "/consumers")
    in_hand = [consumer["prefetch_count"] for consumer in consumers if consumer["queue"]["name"] == "features"]
    assert len(in_hand) == 4
    assert all(5 <= prefetch <= 20 for prefetch in in_hand)
    tour.types()
    tour.ends()


def test_4_a_restart_of_the_broker_is_waited_for_by_containers_that_go_on(tour):
    before = tour.containers()
    tour.types()
    tour.sees()
    assert {name for name, _ in before - tour.containers()} == {"rabbitmq"}
    tour.watches("features", ready=1, consumers=0)
    tour.types()
    tour.sees()
    tour.ends()


def test_5_a_label_that_comes_late_finds_its_prediction(tour):
    tour.publishes("features")
    tour.sees()
    tour.watches("y_pred", messages_ready=0, messages_unacknowledged=0)
    tour.types()
    tour.sees()
    tour.publishes("y_true")
    wait_until(lambda: "late-1" in tour.project.ids(), 20, "its row")
    tour.types()
    tour.sees()
    assert ["late-1", "6.0", "6.5", "0.5"] in read_rows(tour.project.csv)
    tour.ends()


def test_6_dead_letters_come_back_when_the_model_is_mended(tour):
    tour.publishes("y_true")
    tour.sees()
    tour.watches("dead_letters", messages_ready=1)
    tour.types()
    tour.sees()
    failed = set(re.findall(r"failed on this sample: .*? \(id (\S+)\)", tour.said()))
    assert 1 <= len(failed) <= 20  # one where many had come meanwhile and were given to the model together
    tour.types()
    tour.sees()
    assert f"moved back: {len(failed)}" in tour.said()
    wait_until(lambda: failed <= set(tour.project.ids()), 20, "the rows of those that came back")
    tour.watches("dead_letters", messages_ready=1)
    tour.ends()


def test_7_a_drift_shows_in_the_errors(tour):
    tour.types()
    wait_until(lambda: len(tour.project.ids()) >= 80, 30, "some rows of a new CSV")
    before, known = tour.containers(), len(tour.project.ids())
    tour.types()
    assert {name for name, _ in before - tour.containers()} == {"features"}
    wait_until(lambda: len(tour.project.ids()) >= known + 60, 30, "some rows more")
    errors = [float(row[3]) for row in read_rows(tour.project.csv)]
    assert statistics.mean(errors[:known]) < 0.12
    assert statistics.mean(errors[-40:]) > 0.25
    tour.sees()
    wait_until(lambda: float(re.findall(r"rows, MAE ([\d.]+)", tour.said())[-1]) > 0.12, 10, "the picture tells of it")
    tour.types()
    tour.ends()


def test_8_batches_are_faster_and_the_queues_stay_short(tour):
    speeds = []
    for _ in range(3):
        tour.types()
        tour.sees()
        speeds.append(tour.speed())
        assert max(tour.queue(name)["messages"] for name in ("features", "y_true")) < 5000
    print(f"{speeds} rows/s")
    assert min(speeds[1:]) > 2 * speeds[0]  # six and twenty times, where nothing else runs
    tour.ends()
