"""What broke an earlier version: brokers that refuse, block, restart and limit, odd messages, files and stops.

Odd models are in test_attacks_model.
"""

import contextlib
import datetime
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pika.data
import pika.exceptions
import pytest

from parts.rabbitmq.prefetch import MOST
from parts.rabbitmq.producer import ENOUGH
from parts.rabbitmq.publisher import LARGEST
from support.node import Node, wait_until
from support.paths import ROOT
from support.pipeline import Pipeline, Process
from support.proxy import Proxy, Wire
from support.small_disk import small_disk

SLOW = {"MODEL": "support.odd_models:as_slow_as_told"}


def sample(sample_id: Any, body: Any) -> Dict[str, Any]:
    return {"id": sample_id, "body": body}


def labels(count: int) -> bytes:
    """A message for y_true or y_pred with so many samples, as long as ours are."""
    return json.dumps([sample(f"20261124T064104.{n:06}Z-f2939339", n / 7) for n in range(count)]).encode()


def peak(process: Process) -> int:
    """The most memory that a process has had so far, MiB."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


def url(vhost: Dict[str, str], query: str) -> str:
    return f"amqp://guest:guest@127.0.0.1:{vhost['RABBITMQ_PORT']}/{vhost.get('RABBITMQ_VHOST', '%2F')}?{query}"


@contextlib.contextmanager
def set_in_rabbitmq(node: Node, name: str, value: int) -> Iterator[None]:
    """A setting that it otherwise reads when it starts: 3.10 from its environment, 4 from a term made of that."""

    def put(number: str) -> None:
        node.ctl("eval", f"application:set_env(rabbit, {name}, {number}), persistent_term:put({name}, {number}).")

    before = node.ctl("eval", f"{{ok, V}} = application:get_env(rabbit, {name}), V.").strip()
    put(str(value))
    try:
        yield
    finally:
        put(before)


@contextlib.contextmanager
def full(node: Node, pipeline: Pipeline, queue: str, length: int) -> Iterator[None]:
    """The queue refuses what is published to it beyond so many messages."""
    policy = f"/policies/{pipeline.vhost}/full"
    definition = {"max-length": length, "overflow": "reject-publish"}
    pipeline.connect()
    probe = pipeline.channel.connection.channel()
    probe.queue_declare("probe", durable=True)
    probe.confirm_delivery()

    def refuses() -> bool:
        try:
            probe.basic_publish("", "probe", b"")
        except pika.exceptions.NackError:
            return True
        return False

    node.api("PUT", policy, {"pattern": f"^({queue}|probe)$", "definition": definition, "apply-to": "queues"})
    wait_until(refuses, 10, "the policy is applied")  # the management UI tells of it seconds later
    probe.close()
    try:
        yield
    finally:
        node.api("DELETE", policy)


# --- messages that RabbitMQ does not take -------------------------------------------------------------


@pytest.mark.any_rabbitmq
def test_an_answer_larger_than_rabbitmq_takes_is_set_aside_and_the_next_message_is_served(pipeline):
    question = b"[" + b",".join(b'{"id":%d,"body":[0]}' % n for n in range(10**6, 10**6 + 620_000)) + b"]"
    assert len(question) < LARGEST
    model = pipeline.connected("model")
    pipeline.publish("features", question)
    pipeline.publish("features", sample("next", [1]))
    properties, aside = pipeline.take("dead_letters", 30)
    assert aside == question
    assert properties.headers["x-reason"] == ("its answer of 17360001 bytes is larger than RabbitMQ takes, 16777216")
    assert json.loads(pipeline.take("y_pred")[1]) == sample("next", 1.0)
    assert model.output.count("connected to RabbitMQ") == 1


@pytest.mark.parametrize("moment", [1_700_000_000_000, 2**64 - 1])
def test_a_message_with_a_time_that_no_calendar_has_is_a_message_as_any_other(pipeline, monkeypatch, moment):
    """A client that counts milliseconds where seconds are due; pika gave the connection up, for ever."""
    monkeypatch.setattr(
        pika.data, "encode_value", lambda pieces, _: pieces.append(b"T" + struct.pack(">Q", moment)) or 9
    )
    headers = pika.BasicProperties(headers={"sent": datetime.datetime.now(datetime.timezone.utc)})
    pipeline.channel.basic_publish("", "features", json.dumps(sample("a", [1])).encode(), headers)
    monkeypatch.undo()
    model = pipeline.connected("model")
    assert json.loads(pipeline.take("y_pred")[1]) == sample("a", 1.0)
    assert model.output.count("connected to RabbitMQ") == 1


def test_a_message_with_tables_in_tables_in_its_headers_is_a_message_as_any_other(pipeline):
    """So many that pika cannot read them, and gave the connection up, for ever."""
    table: Dict[str, Any] = {}
    for _ in range(900):
        table = {"t": table}
    with deeper():
        properties = pika.BasicProperties(headers=table)
        pipeline.channel.basic_publish("", "features", json.dumps(sample("a", [1])).encode(), properties)
    model = pipeline.connected("model")
    assert json.loads(pipeline.take("y_pred")[1]) == sample("a", 1.0)
    assert model.output.count("connected to RabbitMQ") == 1


@contextlib.contextmanager
def deeper() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    yield
    sys.setrecursionlimit(before)


SPELLINGS = [
    ("-3", "-3.0"),
    ("-2.5", "-25e-1"),
    ("1e22", "10000000000000000000000"),
    ("5", "5.0"),
    ("-0.0", "0"),
    ("1e-7", "0.0000001"),
    ("-9007199254740993", "-9007199254740993"),
    ("1.5E3", "1500"),
    ("5e-324", "4.9e-324"),
    ('"a"', '"\\u0061"'),
    ("7", '"7"'),
]


@pytest.mark.any_rabbitmq
def test_an_id_makes_one_row_however_its_number_is_written_on_each_of_the_queues(pipeline):
    def publish(queue: str, sample_id: str, body: str) -> None:
        pipeline.publish(queue, f'{{"id":{sample_id},"body":{body}}}'.encode())

    pipeline.connected("model")
    metrics = pipeline.connected("metrics")
    for one, other in SPELLINGS:
        publish("features", one, "[1,2]")
        publish("y_true", other, "4")
    rows = pipeline.wait_for_rows(len(SPELLINGS))
    assert [row[1:] for row in rows] == [["4.0", "3.0", "1.0"]] * len(SPELLINGS)
    assert {row[0] for row in rows} >= {"-3", "-2.5", "1e+22", "5", "0", "a"}
    for one, other in SPELLINGS:
        publish("features", other, "[1,2]")
        publish("y_true", one, "4")
        publish("y_pred", other, "3")
    publish("features", '"end"', "[0]")
    publish("y_true", '"end"', "0")
    pipeline.wait_for_rows(len(SPELLINGS) + 1)
    assert metrics.stop() < 5
    assert "dropped" not in metrics.output
    assert pipeline.waiting("dead_letters") == 0


@pytest.mark.any_rabbitmq
def test_a_message_of_700_000_contradictions_takes_few_log_lines(pipeline):
    metrics = pipeline.connected("metrics")
    pipeline.publish("y_true", b"[" + b",".join(b'{"id":1,"body":%d}' % n for n in range(700_000)) + b"]")
    metrics.says("a later, different y_true is dropped").says("more contradictions")
    pipeline.publish("y_pred", sample(1, 0))
    assert pipeline.wait_for_rows(1) == [["1", "0.0", "0.0", "0.0"]]
    assert len(metrics.output.splitlines()) < 100  # twenty a second, while they are read


# --- a broker that refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["features", "y_true"])
def test_features_publishes_again_only_what_a_full_queue_refused(node, pipeline, queue):
    wire = Wire()
    proxy = Proxy(node.port, wire)
    tries = wire.tries[queue]
    try:
        with full(node, pipeline, queue, 3):
            source = pipeline.start("features", SAMPLES=200, INTERVAL=0.001, RABBITMQ_PORT=proxy.port)
            source.says("RabbitMQ refuses")
            wait_until(lambda: max(map(len, tries.values())) >= 3, 10, "it has tried again, twice")
        assert source.ends() == 0
    finally:
        proxy.close()
    other = {"features": "y_true", "y_true": "features"}[queue]
    assert all(len(times) == 1 for times in wire.tries[other].values())
    assert pipeline.waiting(queue) == pipeline.waiting(other) == 200  # so nothing came twice
    check_pauses(tries)
    assert source.output.count("WARNING RabbitMQ refuses") == 1
    source.says("all well again")
    assert source.output.count("connected to RabbitMQ") == 1


@pytest.mark.parametrize(
    ("script", "queue", "refusing"),
    [("model", "features", "y_pred"), ("model", "features", "dead_letters"), ("metrics", "y_true", "dead_letters")],
)
def test_an_answer_that_a_full_queue_refused_is_published_again_and_nothing_is_delivered_again(
    node, pipeline, script, queue, refusing
):
    wire = Wire()
    proxy = Proxy(node.port, wire)
    tries = wire.tries[refusing]
    body = {"y_pred": [1], "dead_letters": None}[refusing]
    try:
        with full(node, pipeline, refusing, 3):
            service = pipeline.connected(script, RABBITMQ_PORT=proxy.port)
            for number in range(30):
                pipeline.publish(queue, sample(f"s{number}", body))
            service.says("RabbitMQ refuses")
            wait_until(lambda: tries and max(map(len, tries.values())) >= 3, 10, "it has tried again, twice")
        wait_until(lambda: pipeline.waiting(refusing) == 30, 20, "all are answered")
        service.says("all well again")
        service.stop()  # and what was not acknowledged comes back
    finally:
        proxy.close()
    assert pipeline.waiting(queue) == 0
    assert wire.redelivered == wire.given_back  # no more than what was on its way when the hand became larger
    assert sum(len(times) == 1 for times in tries.values()) >= 3
    check_pauses(tries)
    assert service.output.count("WARNING RabbitMQ refuses") == 1


def test_a_bad_message_that_a_full_queue_refuses_does_not_hold_up_the_good_ones(node, pipeline):
    """Acknowledged in their order only, the good ones behind it would fill the model's hand."""
    n = 2 * MOST
    with full(node, pipeline, "dead_letters", 0):
        pipeline.publish("features", b"bad")
        for number in range(n):
            pipeline.publish("features", sample(f"s{number}", [1]))
        model = pipeline.connected("model")
        model.says("RabbitMQ refuses 1 message")
        wait_until(lambda: pipeline.waiting("y_pred") == n, 30, "all good ones are answered")
    assert pipeline.take("dead_letters")[1] == b"bad"
    assert model.stop() < 5
    assert pipeline.waiting("features") == 0


def check_pauses(tries: Dict[bytes, List[float]]) -> None:
    for times in tries.values():
        assert all(later - earlier > 0.9 for earlier, later in zip(times, times[1:]))


def test_a_stop_while_rabbitmq_refuses_takes_less_than_five_seconds_and_leaves_what_is_not_answered(node, pipeline):
    with full(node, pipeline, "y_pred", 3):
        model = pipeline.connected("model")
        for number in range(30):
            pipeline.publish("features", sample(f"s{number}", [1]))
        model.says("RabbitMQ refuses")
        assert model.stop() < 5
    wait_until(lambda: pipeline.waiting("features") >= 27, 10, "what is not answered is back")


# --- queues that are there already --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"durable": False}, "inequivalent arg 'durable'"),
        ({"arguments": {"x-message-ttl": 60_000}}, "inequivalent arg 'x-message-ttl'"),
        ({"arguments": {"x-queue-type": "quorum"}}, "inequivalent arg 'x-queue-type'"),
        ({"arguments": {"x-max-length": 5}}, "inequivalent arg 'x-max-length'"),
        ({"auto_delete": True}, "inequivalent arg 'auto_delete'"),
        ({"exclusive": True}, "RESOURCE_LOCKED"),
    ],
)
def test_a_queue_that_is_there_with_other_properties_is_named_with_the_way_out(
    node, vhost, pipeline, settings, difference
):
    connection = pika.BlockingConnection(
        pika.ConnectionParameters(vhost["RABBITMQ_HOST"], node.port, vhost["RABBITMQ_VHOST"], heartbeat=0)
    )
    connection.channel().queue_declare("y_pred", **{"durable": True, **settings})
    model = pipeline.start("model", RABBITMQ_URL=url(vhost, "heartbeat=30")).says("next try in 1 s")
    [line, *_] = model.output.splitlines()
    assert difference in line
    assert "queue 'y_pred'" in line
    assert "the queue must be durable and have no arguments" in line
    assert "delete it in the management UI, or set another RABBITMQ_VHOST" in line
    assert "guest:guest" not in model.output
    connection.channel().queue_delete("y_pred")
    connection.close()
    model.says("connected to RabbitMQ")
    pipeline.publish("features", sample("a", [1]))
    pipeline.take("y_pred")


def test_a_limit_of_queues_is_not_taken_for_a_queue_of_other_properties(node, pipeline):
    limits = f"/vhost-limits/{pipeline.vhost}/max-queues"
    node.api("PUT", limits, {"value": 1})
    model = pipeline.start("model").says("queue limit")
    assert "must be durable" not in model.output
    node.api("DELETE", limits)
    model.says("connected to RabbitMQ")


def test_a_virtual_host_that_is_deleted_is_waited_for(node, pipeline):
    name = pipeline.vhost
    services = [pipeline.connected(script) for script in ("model", "metrics")]
    services.append(pipeline.connected("features", INTERVAL=0.05))
    pipeline.wait_until_rows(5)
    node.api("DELETE", f"/vhosts/{name}")
    for service in services:
        service.says("next try in 1 s")
    node.api("PUT", f"/vhosts/{name}")
    node.api("PUT", f"/permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    pipeline.wait_until_rows(len(pipeline.rows()) + 5)
    assert all(service.stop() < 5 for service in services)
    rows = pipeline.rows()
    assert len({row[0] for row in rows}) == len(rows)


# --- how much is in hand ------------------------------------------------------------------------------


def some_seconds(pipeline: Pipeline) -> None:
    """Let a service that tries again every second do so: another one is its clock."""
    assert pipeline.start("features", SAMPLES=3, INTERVAL=1.5).ends() == 0


@pytest.mark.any_rabbitmq
def test_large_messages_after_many_small_ones_do_not_pile_up_in_metrics_that_cannot_store(node, pipeline):
    wire = Wire()
    proxy = Proxy(node.port, wire)
    try:
        metrics = pipeline.connected("metrics", RABBITMQ_PORT=proxy.port)
        for number in range(4000):
            for queue in ("y_true", "y_pred"):
                pipeline.publish(queue, sample(f"s{number}", 1))
        pipeline.wait_until_rows(4000)
        pipeline.csv.unlink()
        pipeline.csv.mkdir()  # a folder stands where the CSV should be
        metrics.says("cannot store, so nothing is acknowledged")
        large = labels(10_000)
        wire.given_back = 0
        for _ in range(120):
            for queue in ("y_true", "y_pred"):
                pipeline.publish(queue, large)
        some_seconds(pipeline)
        assert pipeline.waiting("y_true") > 60
        assert peak(metrics) < 130  # 30 and at most a third of the 160 MiB that were published
        # A quorum queue counts how often a message is given back to it, and RabbitMQ 4 drops it at the 20th time.
        assert wire.given_back < 240
        pipeline.csv.rmdir()
        metrics.says("all well again")
        wait_until(lambda: pipeline.waiting("y_true") + pipeline.waiting("y_pred") == 0, 60, "all is taken")
        assert peak(metrics) < 200
    finally:
        proxy.close()


@pytest.mark.any_rabbitmq
def test_large_messages_after_many_small_ones_do_not_pile_up_in_a_model_that_is_refused(node, pipeline):
    def batch(size: int) -> bytes:
        return json.dumps([sample(f"a{number}", [0.1234] * 10) for number in range(size)]).encode()

    model = pipeline.connected("model")
    for _ in range(4000):
        pipeline.publish("features", batch(1))
    wait_until(lambda: pipeline.waiting("y_pred") == 4000, 30, "its hand has grown")
    pipeline.channel.queue_purge("y_pred")
    with full(node, pipeline, "y_pred", 1):
        large = batch(8000)
        for _ in range(150):
            pipeline.publish("features", large)
        model.says("RabbitMQ refuses")
        some_seconds(pipeline)
        assert pipeline.waiting("features") > 75
        assert peak(model) < 150  # 40 and at most a third of the 120 MiB that were published, and answers
    model.says("all well again")
    wait_until(lambda: pipeline.waiting("y_pred") == 150 + 3, 60, "all is answered")
    assert peak(model) < 200


# --- calls that take long -----------------------------------------------------------------------------


def check_that_a_long_call_is_answered_once(node: Node, pipeline: Pipeline, env: Dict[str, Any], call: float) -> None:
    """One message of 100 samples, a second replica beside it; stopped, killed, and the broker restarted meanwhile."""

    def asked() -> Process:
        return wait_until(lambda: next((m for m in models if "asked for 100" in m.output), None), 30, "one is asked")

    settings = {**SLOW, **env, "SECONDS": call / 100}
    models = [pipeline.connected("model", **settings) for _ in range(2)]
    pipeline.publish("features", [sample(f"s{number}", [number]) for number in range(100)])
    first = asked()
    models.remove(first)
    assert first.stop(clean=False) < 5
    second = asked()
    models.remove(second)
    second.kill()
    models += [pipeline.connected("model", **settings) for _ in range(2)]
    third = asked()
    pipeline.close_client()
    node.stop()
    third.says("no connection to RabbitMQ")
    node.start()
    _, answer = pipeline.take("y_pred", 60 + 3 * call)
    assert json.loads(answer) == [sample(f"s{number}", float(number)) for number in range(100)]
    for model in models:
        assert model.stop(clean=False) < 5
    assert pipeline.waiting("features") == pipeline.waiting("y_pred") == pipeline.waiting("dead_letters") == 0


@pytest.mark.alone
def test_a_call_longer_than_heartbeats_allow_is_answered_once(node, pipeline, vhost):
    check_that_a_long_call_is_answered_once(node, pipeline, {"RABBITMQ_URL": url(vhost, "heartbeat=2")}, call=7)


@pytest.mark.skipif(not os.environ.get("LONG"), reason="takes ten minutes; LONG=1")
def test_a_call_of_100_seconds_is_answered_once(node, tmp_path):
    patient = type(node)().start()  # allows half an hour for a delivery, as RabbitMQ does by default
    pipeline = Pipeline(patient.env, tmp_path)
    try:
        check_that_a_long_call_is_answered_once(patient, pipeline, {}, call=100)
    finally:
        pipeline.close()
        patient.close()


@pytest.mark.alone
def test_messages_that_together_take_longer_than_the_delivery_timeout_are_answered_one_by_one(node, pipeline):
    with set_in_rabbitmq(node, "consumer_timeout", 3000):
        for number in range(8):
            pipeline.publish("features", sample(f"s{number}", [1]))
        model = pipeline.connected("model", **SLOW, SECONDS=0.6)
        wait_until(lambda: pipeline.waiting("y_pred") == 8, 20, f"all are answered; {model.output}")
    assert model.output.count("connected to RabbitMQ") == 1
    assert model.stop() < 5
    assert pipeline.waiting("y_pred") == 8


# --- stops ------------------------------------------------------------------------------------------


def test_a_stop_ends_well_when_a_call_ends_while_the_connection_is_being_closed(node, pipeline):
    proxy = Proxy(node.port)
    try:
        model = pipeline.connected(
            "model", RABBITMQ_PORT=proxy.port, MODEL="support.odd_models:done_just_after_the_stop"
        )
        pipeline.publish("features", sample("a", [1]))
        model.says("asked for 1")
        proxy.stall()  # so that RabbitMQ's goodbye does not come
        assert model.stop(clean=False) < 5
        assert "Traceback" not in model.output
    finally:
        proxy.close()
    wait_until(lambda: pipeline.waiting("features") == 1, 10, "the sample is back")


# --- files ------------------------------------------------------------------------------------------


@pytest.fixture
def small_state(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "state") as folder:
        yield folder


@pytest.mark.any_rabbitmq
def test_a_full_disk_of_the_state_is_told_once_while_it_lasts_and_loses_nothing(small_state, pipeline):
    pipeline.connected("model")
    metrics = pipeline.connected("metrics")
    source = pipeline.start("features", SAMPLES=1000, INTERVAL=0)
    metrics.says("cannot store, so nothing is acknowledged: database or disk is full")
    some_seconds(pipeline)
    assert metrics.output.count("cannot store") == 1
    subprocess.check_call(["mount", "-o", "remount,size=10m", small_state])
    pipeline.wait_for_rows(1003)
    metrics.says("all well again")
    assert source.ends() == 0


@pytest.mark.any_rabbitmq
def test_a_pipe_in_place_of_the_csv_is_told_and_waited_for(pipeline):
    pipeline.csv.parent.mkdir()
    os.mkfifo(pipeline.csv)
    metrics = pipeline.connected("metrics").says("is not a regular file")
    for queue in ("y_true", "y_pred"):
        pipeline.publish(queue, sample("a", 1))
    pipeline.csv.unlink()
    pipeline.wait_for_rows(1)
    assert metrics.stop() < 5


@pytest.mark.parametrize(
    ("script", "name", "csv_name"),
    [("plot", "IMG_FILE", "log"), ("metrics", "STATE_FILE", "log"), ("metrics", "STATE_FILE", "log-wal")],
)
def test_a_file_that_is_to_be_the_csv_too_is_refused_before_it_overwrites_the_rows(
    without_broker, script, name, csv_name
):
    csv = without_broker.csv.with_name(csv_name)
    csv.parent.mkdir()
    csv.write_text("id,y_true,y_pred,absolute_error\na,1.0,1.0,0.0\n")
    process = without_broker.start(script, **{"CSV_FILE": csv, name: f"{csv.parent}/../logs/log"})
    assert process.ends() == 2
    [line] = process.output.splitlines()
    assert line.startswith(f"{name}='")
    assert " is not allowed: it must be another file than CSV_FILE" in line
    assert csv.read_text() == "id,y_true,y_pred,absolute_error\na,1.0,1.0,0.0\n"
    assert [path.name for path in csv.parent.iterdir()] == [csv.name]


def test_a_picture_takes_the_place_of_no_pipe_and_no_device(without_broker):
    without_broker.image.parent.mkdir()
    os.mkfifo(without_broker.image)
    plot = without_broker.start("plot", PLOT_INTERVAL=0.2).says("no picture: ")
    assert without_broker.image.is_fifo()
    without_broker.image.unlink()
    plot.says("no rows yet")


def test_a_wrong_setting_ends_the_script_with_2_where_there_is_no_output_to_write_to(without_broker):
    command = ["sh", "-c", f"exec {sys.executable} model.py >&-"]
    env = {**os.environ, "LOG_LEVEL": "loud"}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.any_rabbitmq
def test_a_rabbitmq_that_reads_nothing_more_is_left_for_another_connection(pipeline: Pipeline, node: Node):
    """As a cluster's node may do after its network was split: its heartbeats go on."""
    proxy = Proxy(node.port)
    try:
        settings = {"RABBITMQ_PORT": proxy.port, "INTERVAL": 0.01, "SAMPLES": 300}
        services = {
            name: pipeline.start("tests/support/impatient", name, **settings).says("connected to RabbitMQ")
            for name in ("features", "model", "metrics")
        }
        proxy.deafen()
        for service in services.values():
            service.says("left RabbitMQ")
        assert (
            f"left RabbitMQ at 127.0.0.1:{proxy.port} (it has confirmed nothing for 2 s)" in services["features"].output
        )
        assert (
            f"left RabbitMQ at 127.0.0.1:{proxy.port} (it has answered nothing for 2 s)" in services["metrics"].output
        )
        proxy.heal()
        assert services["features"].says("all 300 samples published and confirmed", 30).ends() == 0
        pipeline.wait_for_rows(300)
        so_far = services["metrics"].output.count("left RabbitMQ")
        some_seconds(pipeline)
        some_seconds(pipeline)
        assert services["metrics"].output.count("left RabbitMQ") == so_far  # one that answers
    finally:
        proxy.close()


def in_the_process_of(queue: str, pipeline: Pipeline, node: Node, what: str) -> None:
    resource = f'rabbit_misc:r(<<"{pipeline.vhost}">>, queue, <<"{queue}">>)'
    node.ctl("eval", f"{{ok, Queue}} = rabbit_amqqueue:lookup({resource}), sys:{what}(amqqueue:get_pid(Queue)).")


def test_a_rabbitmq_that_does_not_tell_how_many_wait_is_left_for_another_connection(pipeline: Pipeline, node: Node):
    """As where the queue's process hangs: there is nothing to be confirmed then, and no room for more."""
    features = pipeline.start("tests/support/impatient", "features", INTERVAL=0, SAMPLES=2 * ENOUGH)
    features.says("waiting for consumers that keep up")
    in_the_process_of("y_true", pipeline, node, "suspend")
    features.says(f"left RabbitMQ at 127.0.0.1:{node.port} (it has answered nothing for 2 s)", 20)
    in_the_process_of("y_true", pipeline, node, "resume")
    pipeline.connected("model")
    pipeline.connected("metrics")
    assert features.ends(60) == 0
    pipeline.wait_for_rows(2 * ENOUGH)


def test_a_rabbitmq_that_does_not_tell_of_a_queue_is_left_for_another_connection(pipeline: Pipeline, node: Node):
    """As where the queue's process hangs."""
    pipeline.waiting("dead_letters")  # it is there
    in_the_process_of("dead_letters", pipeline, node, "suspend")
    model = pipeline.start("tests/support/impatient", "model")
    model.says(f"left RabbitMQ at 127.0.0.1:{node.port} (it has answered nothing for 2 s)", 20)
    in_the_process_of("dead_letters", pipeline, node, "resume")
    model.says("connected to RabbitMQ", 20)
    pipeline.publish("features", sample("a", [1, 2]))
    assert json.loads(pipeline.take("y_pred")[1]) == sample("a", 3.0)
    assert model.stop() < 5


def test_a_rabbitmq_that_delivers_none_of_what_waits_is_left_for_another_connection(pipeline: Pipeline, node: Node):
    """As it does after a cluster's network was split, with acknowledgements lost: it counts what is done as in hand."""
    model = pipeline.start("tests/support/impatient", "model", LOSE_ACKS=1, SECONDS=0.2, **SLOW).says(
        "connected to RabbitMQ"
    )
    for sample_id in "abc":
        pipeline.publish("features", sample(sample_id, [1, 2]))
    model.says("left RabbitMQ", 20).says("connected to RabbitMQ", 20)
    answers = [json.loads(pipeline.take("y_pred")[1])["id"] for _ in range(4)]
    assert answers == ["a", "a", "b", "c"]  # whose acknowledgement was lost comes again
    assert model.stop() < 5
    assert f"left RabbitMQ at 127.0.0.1:{node.port} (it delivers none of 2 messages in features)" in model.output


@pytest.mark.any_rabbitmq
def test_a_rabbitmq_whose_messages_wait_for_a_service_at_work_is_not_left(pipeline: Pipeline):
    pipeline.csv.mkdir(parents=True)
    metrics = pipeline.start("tests/support/impatient", "metrics").says("connected to RabbitMQ")
    for sample_id in "abc":
        for queue in ("y_true", "y_pred"):
            pipeline.publish(queue, sample(sample_id, 1))
    metrics.says("cannot store")
    some_seconds(pipeline)
    some_seconds(pipeline)
    pipeline.csv.rmdir()
    pipeline.wait_for_rows(3)
    assert metrics.stop() < 5
    assert "left RabbitMQ" not in metrics.output
