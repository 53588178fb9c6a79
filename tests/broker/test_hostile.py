"""Clumsy and hostile publishers, late labels, and file systems that fail."""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Iterator

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parts import messages
from support.node import wait_until
from support.small_disk import small_disk
from unit.test_messages import JSON, MALFORMED

NO_IDS = [
    "", "null", "true", "false", "[]", "{}", "[1]", '{"a":1}', '""', '" "', '"."', '"-a"', '"_a"', '"+1"', '":a"', '"a b"',
    '"a,b"', '"a\\"b"', '"a\'b"', '"a\\nb"', '"a\\rb"', '"a\\tb"', '"a\\u0000"', '"\\u0000"', '"=1+1"', '"@a"', '"a/b"',
    '"a\\\\b"', '"a;b"', '"a|b"', '"\u00e9"', '"a\u0301"', '"\U0001f600"', '"\\ud800"', '"%s"' % ("x" * 129), "NaN",
    "Infinity", "-Infinity", "1e999", "-1e999", "9" * 129, "01", "1.", ".5", "+1", "0x10", "1_000",
]  # fmt: skip
NO_NUMBERS = [
    "", "null", "true", "false", '"1"', '""', "[]", "[1]", "[[1]]", "{}", '{"x":1}', "NaN", "Infinity", "-Infinity",
    "1e999", "-1e999", "9" * 400, "01", "1.", "1,5", "0x1",
]  # fmt: skip
NO_VECTORS = [
    "", "null", "true", "1", "[]", '"[1]"', "{}", "[null]", "[true]", "[false,1]", '["1"]', "[[1]]", "[[1,2],[3]]", "[{}]",
    "[NaN]", "[1,Infinity]", "[1,-Infinity]", "[1e999]", "[1,2", "[1,]", "[,1]", "[%s]" % ("9" * 400),
]  # fmt: skip
STRUCTURES = [
    '{"id":"a","body":%s,"extra":null}',
    '{"Id":"a","body":%s}', '{"id":"a","Body":%s}', '{"id":"a","body":%s', '"id":"a","body":%s}', '{"id":"a" "body":%s}',
    "{'id':'a','body':%s}", '{"id":"a","body":%s}}', '{"id":"a","body":%s} x', '[{"id":"a","body":%s}', '{"id":"a","body":%s},',
    '[[{"id":"a","body":%s}]]', '{"":{"id":"a","body":%s}}', '\x00{"id":"a","body":%s}', '//x\n{"id":"a","body":%s}',
]  # fmt: skip
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"]


def malformed(good_body, bad_bodies):
    """More than a hundred messages that are wrong in one way each."""
    found = [
        *MALFORMED,
        b"[" * 200_000,
        b'{"id":"a","body":' * 50_000,
        b"\x80",
        b"\xc3",
        bytes(range(256)),
        b"\0" * 1000,
    ]
    found += [b'{"id":%s,"body":%s}' % (bad.encode("utf-8", "surrogatepass"), good_body.encode()) for bad in NO_IDS]
    found += [b'{"id":"h","body":%s}' % bad.encode() for bad in bad_bodies]
    found += [structure.replace("%s", good_body).encode() for structure in STRUCTURES]
    found += [f'{{"id":"a","body":{good_body}}}'.encode(encoding) for encoding in ENCODINGS]
    assert len(set(found)) >= 100
    return list(dict.fromkeys(found))


def publish_by_api(node, vhost, queue, body):
    answer = node.api(
        "POST",
        f"/exchanges/{vhost}/amq.default/publish",
        {
            "routing_key": queue, "properties": {},
            "payload": base64.b64encode(body).decode(), "payload_encoding": "base64",
        },
    )  # fmt: skip
    assert answer == {"routed": True}


@pytest.mark.any_rabbitmq
@pytest.mark.parametrize("queue", ["features", "y_true", "y_pred"])
def test_a_hundred_malformed_messages_are_set_aside_and_the_good_ones_between_them_counted(
    pipeline, node, vhost, queue
):
    services = [pipeline.connected("model"), pipeline.connected("metrics")]
    good, bad = ("[1,2]", NO_VECTORS) if queue == "features" else ("3", NO_NUMBERS)
    hostile = malformed(good, bad)
    for number, body in enumerate(hostile):
        publish_by_api(node, vhost["RABBITMQ_VHOST"], queue, body)
        if number % 10 == 0:
            pipeline.publish(queue, b'{"id":"good-%d","body":%s}' % (number, good.encode()))
    pipeline.publish(queue, b'[{"id":"good-x","body":%s},{"id":"bad","body":"x"}]' % good.encode())
    n_good = len(range(0, len(hostile), 10)) + 1
    for other, body in (("y_true", "3"), ("y_pred", "3")):
        if queue != other and not (queue == "features" and other == "y_pred"):
            for number in [*range(0, len(hostile), 10), "x"]:
                pipeline.publish(other, b'{"id":"good-%s","body":%s}' % (str(number).encode(), body.encode()))
    pipeline.wait_for_rows(n_good)
    expected = sorted([*hostile, b'{"id":"bad","body":"x"}'])
    wait_until(lambda: pipeline.waiting("dead_letters") >= len(expected), 20, "all are set aside")
    aside = [pipeline.take("dead_letters") for _ in range(pipeline.waiting("dead_letters"))]
    assert sorted(body for _, body in aside) == expected
    assert {properties.headers["x-queue"] for properties, _ in aside} == {queue}
    assert all(properties.headers["x-reason"] for properties, _ in aside)
    assert all(service.output.count("connected to RabbitMQ") == 1 for service in services)
    assert all(service.stop() < 5 for service in services)
    table = pd.read_csv(pipeline.csv)
    assert list(table.columns) == ["id", "y_true", "y_pred", "absolute_error"]
    assert (table.absolute_error == 0).all()


def test_a_message_of_16_mib_is_set_aside_whole_and_a_good_one_is_answered(pipeline):
    model = pipeline.connected("model")
    size = 16 * 1024 * 1024
    for body in (b"[" + b"{}," * (size // 3 - 1) + b"{}", b'{"id":"a","body":' + b"9" * (size - 18) + b"}"):
        pipeline.publish("features", body)
        assert pipeline.take("dead_letters", 60)[1] == body
    numbers = b'{"id":"a","body":[' + b"1," * (size // 2 - 20) + b"1]}"
    pipeline.publish("features", numbers)
    expected = messages.encode(["a"], [float(numbers.count(b"1"))], is_batch=False)
    assert pipeline.take("y_pred", 60)[1] == expected
    assert model.output.count("connected to RabbitMQ") == 1


@pytest.mark.any_rabbitmq
def test_what_a_fuzzer_publishes_ends_as_a_row_or_a_dead_letter(pipeline):
    services = [pipeline.connected("model"), pipeline.connected("metrics")]
    encoded = JSON.map(lambda value: json.dumps(value).encode())
    half_right = st.fixed_dictionaries({"id": st.sampled_from(["a", 1, ""]) | JSON, "body": JSON})
    sent = []

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(["features", "y_true", "y_pred"]), st.binary() | encoded | half_right.map(json.dumps))
    def publish(queue, body):
        body = body if isinstance(body, bytes) else body.encode()
        sent.append(body)
        pipeline.publish(queue, body)

    publish()
    wait_until(lambda: not any(map(pipeline.waiting, ("features", "y_true", "y_pred"))), 20, "all are consumed")
    pipeline.publish("features", b'{"id":"end","body":[1]}')
    pipeline.publish("y_true", b'{"id":"end","body":1}')
    wait_until(lambda: ["end", "1.0", "1.0", "0.0"] in pipeline.rows(), 20, "the service goes on")
    assert all(service.output.count("connected to RabbitMQ") == 1 for service in services)
    while pipeline.waiting("dead_letters"):
        _, aside = pipeline.take("dead_letters")
        assert any(aside in body for body in sent)


# --- late labels ------------------------------------------------------------------------------------


def test_a_half_that_waits_longer_than_the_delivery_timeout_holds_no_delivery(pipeline):
    metrics = pipeline.connected("metrics")
    pipeline.publish("y_true", b'{"id":"late","body":1}')
    pipeline.publish("features", b"never acknowledged")
    # Somebody who sits on a message as long is cut off; metrics is not.
    channel = pipeline.channel
    channel.basic_consume("features", lambda *_: None)

    def cut_off():
        channel.connection.process_data_events(0.1)
        return channel.is_closed

    wait_until(cut_off, 60, "a consumer that does not acknowledge is cut off")
    pipeline.close_client()
    pipeline.publish("y_pred", b'{"id":"late","body":1}')
    pipeline.wait_for_rows(1)
    assert "no connection" not in metrics.output


# --- file systems that fail -------------------------------------------------------------------------


@pytest.fixture
def small_logs(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "logs") as folder:
        yield folder


@pytest.mark.any_rabbitmq
def test_a_full_disk_stops_metrics_until_there_is_room_and_loses_nothing(small_logs, pipeline):
    filler = small_logs / "filler"
    filler.write_bytes(b"x" * 40 * 1024)
    model, metrics = pipeline.connected("model"), pipeline.connected("metrics")
    source = pipeline.start("features", SAMPLES=2000, INTERVAL=0)
    metrics.says("No space left on device")
    assert metrics.popen.poll() is None
    subprocess.check_call(["mount", "-o", "remount,size=1m", small_logs])
    pipeline.wait_for_rows(2000)
    metrics.says("all well again")
    assert source.ends() == 0
    assert model.stop() < 5


@pytest.mark.any_rabbitmq
def test_read_only_logs_stop_metrics_and_plot_until_they_are_writable(small_logs, pipeline):
    subprocess.check_call(["mount", "-o", "remount,ro", small_logs])
    pipeline.connected("model")
    metrics = pipeline.connected("metrics").says("cannot store, so nothing is acknowledged")
    plot = pipeline.start("plot", PLOT_INTERVAL=0.2).says("no picture: ")
    assert pipeline.start("features", SAMPLES=10, INTERVAL=0).ends() == 0
    subprocess.check_call(["mount", "-o", "remount,rw,size=1m", small_logs])
    pipeline.wait_for_rows(10)
    plot.says("10 rows")
    metrics.says("all well again")


@pytest.mark.any_rabbitmq
def test_metrics_waits_at_a_damaged_state_and_goes_on_when_it_is_moved_away(pipeline):
    metrics = pipeline.connected("metrics")
    pipeline.publish("y_true", b'[{"id":"a","body":1},{"id":"b","body":1}]')
    pipeline.publish("y_pred", b'[{"id":"a","body":1},{"id":"b","body":1}]')
    pipeline.wait_for_rows(2)
    metrics.stop()
    damaged = os.urandom(8192)
    pipeline.state.write_bytes(damaged)
    metrics = pipeline.connected("metrics").says("is damaged: move it away, and its ids are read back from the CSV")
    pipeline.publish("y_true", b'[{"id":"a","body":1},{"id":"c","body":1}]')
    pipeline.publish("y_pred", b'[{"id":"a","body":1},{"id":"c","body":1}]')
    wait_until(lambda: pipeline.waiting("y_true") + pipeline.waiting("y_pred") == 0, 10, "both are delivered")
    assert len(pipeline.rows()) == 2
    assert pipeline.state.read_bytes() == damaged
    pipeline.state.rename(pipeline.state.with_suffix(".damaged"))
    pipeline.wait_for_rows(3)
    metrics.says("all well again")


@pytest.mark.any_rabbitmq
def test_pictures_go_to_a_folder_that_is_made_when_it_is_missing(pipeline, tmp_path):
    image = tmp_path / "a" / "b" / "c.png"
    pipeline.start("plot", IMG_FILE=image).says("no rows yet")
    assert image.exists()


@pytest.mark.any_rabbitmq
def test_a_csv_edited_meanwhile_by_a_spreadsheet_is_appended_to_and_nothing_is_written_twice(pipeline):
    metrics = pipeline.connected("metrics")
    both = ("y_true", "y_pred")
    for queue in both:
        pipeline.publish(queue, b'[{"id":"a","body":1.25},{"id":"b","body":1}]')
    pipeline.wait_for_rows(2)
    # Saved anew, as a spreadsheet does: another file under the same name, other line ends, fewer digits.
    saved = pipeline.csv.with_suffix(".tmp")
    saved.write_bytes(pipeline.csv.read_bytes().replace(b"\n", b"\r\n").replace(b"1.25", b"1.3"))
    saved.replace(pipeline.csv)
    for queue in both:
        pipeline.publish(queue, b'[{"id":"a","body":1.25},{"id":"c","body":2}]')
    pipeline.wait_for_rows(3)
    assert [row[0] for row in pipeline.rows()] == ["a", "b", "c"]
    assert metrics.stop() < 5
