"""Models as people write them, in the real service; and the way back for what they failed on."""

import json
import re
import signal
import subprocess
import sys
from typing import Any, Dict, List

import pika
import pytest

from support.node import wait_until
from support.pipeline import Process
from support.proxy import Proxy, Wire


def sample(sample_id: Any, body: Any) -> Dict[str, Any]:
    return {"id": sample_id, "body": body}


def odd(name: str) -> Dict[str, str]:
    return {"MODEL": f"support.odd_models:{name}"}


# --- models -----------------------------------------------------------------------------------------


@pytest.mark.any_rabbitmq
def test_whatever_a_model_raises_is_one_line_and_ends_no_service(pipeline):
    model = pipeline.connected("model", **odd("unlucky"))
    for number in range(10):
        pipeline.publish("features", sample(f"s{number}", [number]))
    pipeline.publish("features", sample("end", [100]))
    assert [json.loads(pipeline.take("y_pred")[1]) for _ in range(2)] == [sample("s0", 0.0), sample("end", 100.0)]
    reasons = {}
    for _ in range(9):
        properties, body = pipeline.take("dead_letters")
        reasons[json.loads(body)["id"]] = properties.headers["x-reason"].replace(
            "the model failed on this sample: ", ""
        )
    assert reasons["s1"] == "ValueError: \\ud800 (id s1)"
    assert reasons["s2"] == "Untold: its text cannot be told, RuntimeError (id s2)"
    assert reasons["s3"] == "SystemExit: 0 (id s3)"
    assert reasons["s7"].startswith("ValueError: two lines and xxx")
    assert len(reasons) == 9
    assert model.stop() < 5
    warnings = [line for line in model.output.splitlines() if "goes to dead_letters" in line]
    assert len(warnings) == 9 == model.output.count("WARNING")
    assert max(map(len, warnings)) < 700


@pytest.mark.any_rabbitmq
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("AClass", "it must be a function, or a method of an object, and is a class: make an object of it"),
        (
            "without_return",
            "it must answer one number for each sample, and gave None: does it end without a return?",
        ),
        (
            "complex_numbers",
            "it must answer one number for each sample, and gave a ndarray: TypeError: complex128 is not real",
        ),
        (
            "beside_a_thread",
            "it must answer one number for each sample, and gave None: does it end without a return?",
        ),
    ],
)
def test_what_is_no_model_ends_the_script_with_one_line_and_leaves_the_messages(pipeline, name, line):
    pipeline.publish("features", sample("a", [1, 2]))
    model = pipeline.start("model", **odd(name))
    assert model.ends() == 2
    assert model.output.splitlines()[-1] == f"MODEL='support.odd_models:{name}' is not allowed: {line}"
    wait_until(lambda: pipeline.waiting("features") == 1, 10, "the sample is there")
    assert pipeline.waiting("dead_letters") == 0


@pytest.mark.any_rabbitmq
def test_a_crash_of_a_models_native_code_says_where_it_was(pipeline):
    pipeline.publish("features", sample("a", [1, 2]))
    model = pipeline.start("model", **odd("crash"))
    assert model.ends() < 0
    assert "Segmentation fault" in model.output
    assert "odd_models.py" in model.output


@pytest.mark.any_rabbitmq
def test_a_sample_that_a_working_model_gives_no_number_for_is_set_aside_and_stops_nothing(pipeline):
    model = pipeline.connected("model", **odd("nothing_for_one_column"))
    for number, body in enumerate(([1, 2], [3], [4, 5])):
        pipeline.publish("features", sample(f"s{number}", body))
        if not number:
            assert json.loads(pipeline.take("y_pred")[1]) == sample("s0", 3.0)
    assert json.loads(pipeline.take("y_pred")[1]) == sample("s2", 9.0)
    properties, body = pipeline.take("dead_letters")
    assert json.loads(body) == sample("s1", [3])
    assert "gave None" in properties.headers["x-reason"]
    assert model.stop() < 5


@pytest.mark.any_rabbitmq
def test_a_number_is_an_answer_for_one_sample(pipeline):
    pipeline.connected("model", **odd("squeezed"))
    pipeline.publish("features", sample("a", [1, 2]))
    assert json.loads(pipeline.take("y_pred")[1]) == sample("a", 3.0)


@pytest.mark.any_rabbitmq
def test_of_many_samples_that_a_model_fails_on_twenty_a_second_are_logged(pipeline):
    model = pipeline.connected("model", **odd("good_from_a_hundred_on"))
    pipeline.publish("features", sample("good", [100]))
    pipeline.take("y_pred")
    for number in range(0, 3000, 10):
        pipeline.publish("features", [sample(f"s{number + n}", [n]) for n in range(10)])
    wait_until(lambda: pipeline.waiting("dead_letters") == 300, 30, "all are set aside")
    model.says("more dead letters")
    assert model.stop() < 5
    logged = model.output.count("goes to dead_letters")
    unlogged = sum(map(int, re.findall(r"(\d+) more dead letters? set aside", model.output)))
    assert logged + unlogged <= 300
    assert logged <= 200


# --- one that fails on everything, and the way back ----------------------------------------------------


class Redeliver:
    """`python -m parts.rabbitmq.redeliver`."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def start(self, *arguments: str, **env: Any) -> Process:
        return self._pipeline.start("parts/rabbitmq/redeliver", *arguments, **env)

    def __call__(self, *arguments: str) -> str:
        process = self.start(*arguments)
        process.ends()
        return process.output


@pytest.fixture
def redeliver(pipeline):
    return Redeliver(pipeline)


def set_aside(pipeline: Any, body: bytes, headers: Any) -> None:
    pipeline.channel.basic_publish("", "dead_letters", body, pika.BasicProperties(headers=headers))


def bodies(pipeline: Any, queue: str) -> List[bytes]:
    return [pipeline.take(queue)[1] for _ in range(pipeline.waiting(queue))]


@pytest.mark.any_rabbitmq
def test_one_batch_that_the_model_fails_on_does_not_keep_it_from_the_others(pipeline):
    """Though it is the first that the model is ever given: its samples are many, and one message."""
    pipeline.publish("features", [sample(f"bad{number}", [1]) for number in range(30)])
    pipeline.publish("features", sample("good", [1] * 10))
    pipeline.connected("model", MODEL="examples.diabetes.model:predict")
    assert json.loads(pipeline.take("y_pred")[1])["id"] == "good"
    assert len(json.loads(pipeline.take("dead_letters")[1])) == 30


def test_a_model_that_fails_on_everything_keeps_the_most_and_goes_on_when_it_can(pipeline, redeliver, tmp_path):
    go, beat = tmp_path / "go", tmp_path / "beat"
    for number in range(200):
        pipeline.publish("features", sample(f"s{number}", [number]))
    pipeline.publish("features", b"no sample")
    model = pipeline.start("model", **odd("once_it_is_told"), GO=go, HEARTBEAT_FILE=beat)
    model.says("the model has answered none of its first 20 messages, the others wait: the model failed on")
    wait_until(lambda: not beat.exists(), 5, "it is unhealthy")
    assert pipeline.start("features", SAMPLES=4, INTERVAL=1).ends() == 0  # for three seconds of tries
    assert model.output.count("has answered none of its first 20 messages") == 1
    assert model.output.count("goes to dead_letters") == pipeline.waiting("dead_letters") <= 20
    assert pipeline.waiting("y_pred") == 0
    go.touch()
    model.says("all well again")
    wait_until(beat.exists, 5, "it is healthy")
    wait_until(lambda: pipeline.waiting("features") == 0, 10, "the rest is answered")
    dead = pipeline.waiting("dead_letters")
    assert "moved back: 0" in redeliver("another reason")
    set_aside(pipeline, b"by hand", None)
    wait_until(lambda: pipeline.waiting("dead_letters") == dead + 1, 10, "all are in their places again")
    failed = dead - 1
    assert f"moved back: {failed}" in redeliver("the model", "failed")
    wait_until(lambda: pipeline.waiting("y_pred") == 204, 10, "all are answered")
    found = [json.loads(body) for body in bodies(pipeline, "y_pred")]
    assert len({item["id"] for item in found}) == 204  # each once
    wait_until(lambda: pipeline.waiting("dead_letters") == 2, 10, "the others are in their place again")
    assert set(bodies(pipeline, "dead_letters")) == {b"no sample", b"by hand"}


def test_dead_letters_go_back_byte_for_byte_and_those_whose_queue_is_gone_stay(pipeline, redeliver):
    bad = b'{"id": "\xff"}'
    set_aside(pipeline, b"gone", {"x-queue": "gone", "x-reason": "a"})
    set_aside(pipeline, bad, {"x-queue": "features", "x-reason": "a", "x-service": "model"})
    set_aside(pipeline, b"also", {"x-queue": "y_true", "x-reason": "b"})
    said = redeliver()
    assert "moved back: 2" in said
    assert "gone" in said
    assert len(said.splitlines()) <= 2
    properties, body = pipeline.take("features")
    assert body == bad
    assert not properties.headers
    assert properties.delivery_mode == 2
    assert bodies(pipeline, "y_true") == [b"also"]
    wait_until(lambda: pipeline.waiting("dead_letters") == 1, 10, "the other stays")
    assert bodies(pipeline, "dead_letters") == [b"gone"]


@pytest.mark.any_rabbitmq
@pytest.mark.parametrize(
    "headers",
    [
        {"x-queue": 5},
        {"x-queue": ["features"]},
        {"x-queue": "q" * 300},
        {"x-queue": "ж" * 200},
        {"x-queue": "features", "x-reason": 7},
        {},
        None,
    ],
)
def test_headers_that_are_not_ours_hold_no_other_dead_letter_up(pipeline, redeliver, headers):
    set_aside(pipeline, b"odd", headers)
    set_aside(pipeline, b"ours", {"x-queue": "y_true", "x-reason": "b"})
    said = redeliver()
    assert "Traceback" not in said
    assert "moved back: " in said
    assert bodies(pipeline, "y_true") == [b"ours"]


def test_headers_that_pika_cannot_read_hold_no_other_dead_letter_up(pipeline, redeliver, monkeypatch):
    monkeypatch.setattr(pika.data, "encode_value", lambda pieces, _: pieces.append(b"T" + b"\xff" * 8) or 9)
    set_aside(pipeline, b"odd", {"x-queue": "a time beyond the year 9999"})
    monkeypatch.undo()
    set_aside(pipeline, b"ours", {"x-queue": "y_true", "x-reason": "b"})
    assert "moved back: 1" in redeliver()
    assert bodies(pipeline, "y_true") == [b"ours"]
    wait_until(lambda: pipeline.waiting("dead_letters") == 1, 10, "the other stays")


def test_redeliver_killed_in_the_middle_loses_nothing(node, pipeline, redeliver):
    sent = {b"%d" % number for number in range(2000)}
    for body in sent:
        set_aside(pipeline, body, {"x-queue": "features", "x-reason": "a"})
    wire = Wire()
    proxy = Proxy(node.port, wire)
    try:
        process = redeliver.start(RABBITMQ_PORT=proxy.port)
        wait_until(lambda: len(wire.published["features"]) > 100, 20, "it is at work")
        process.popen.send_signal(signal.SIGINT)  # as Ctrl-C
        assert process.popen.wait(2) == 128 + signal.SIGINT
    finally:
        proxy.close()
    wait_until(lambda: pipeline.waiting("dead_letters") + pipeline.waiting("features") >= 2000, 10, "all are there")
    assert 0 < pipeline.waiting("dead_letters") < 2000
    assert "moved back: " in redeliver()
    moved = bodies(pipeline, "features")
    assert set(moved) == sent
    assert len(moved) <= 2001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RABBITMQ_PORT", "1"),
        ("RABBITMQ_HOST", "nowhere.invalid"),
        ("RABBITMQ_PASSWORD", "s3cret"),
        ("RABBITMQ_VHOST", "nowhere"),
        ("RABBITMQ_URL", "amqps://guest:s3cret@127.0.0.1:PORT/"),
    ],
)
def test_redeliver_says_in_one_line_why_it_has_no_connection(node, redeliver, name, value):
    process = redeliver.start(**{name: value.replace("PORT", str(node.port))})
    assert process.ends() == 1
    [line] = process.output.splitlines()
    assert line.startswith("the rest stays in dead_letters: ")
    assert "s3cret" not in line


def test_redeliver_to_a_full_queue_says_so_and_keeps_the_rest(node, pipeline, redeliver):
    definition = {"max-length": 1, "overflow": "reject-publish"}
    policy = {"pattern": "^features$", "definition": definition, "apply-to": "queues"}
    for number in range(3):
        set_aside(pipeline, b"%d" % number, {"x-queue": "features", "x-reason": "a"})
    node.api("PUT", f"/policies/{pipeline.vhost}/full", policy)
    wait_until(lambda: node.api("GET", f"/queues/{pipeline.vhost}/features").get("policy") == "full", 10, "applied")
    said = redeliver()
    assert "the rest stays in dead_letters: " in said
    assert len(said.splitlines()) == 1
    wait_until(lambda: pipeline.waiting("dead_letters") + pipeline.waiting("features") == 3, 10, "all are there")


def test_the_way_back_is_told_as_it_stands_in_its_docstring(pipeline):
    command = ["-m", "parts.rabbitmq.redeliver"]
    result = subprocess.run(
        [sys.executable, *command],
        cwd=pipeline._root,
        env=pipeline._env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "moved back: 0\n")


@pytest.mark.any_rabbitmq
def test_a_module_that_takes_signals_and_loggers_over_keeps_the_model_neither_from_a_stop_nor_from_its_log(pipeline):
    model = pipeline.connected("model", MODEL="support.deaf_model:predict")
    pipeline.publish("features", sample("a", [1]))
    model.says("a: y_pred 1.0000")
    pipeline.publish("features", "no sample")
    model.says("goes to dead_letters")
    assert model.stop() < 5


@pytest.mark.any_rabbitmq
def test_a_worker_that_a_model_spawns_ends_when_the_model_ends_it(pipeline):
    """It imports the script again, and is not to take a signal for a request to stop the service."""
    model = pipeline.connected("model", **odd("with_workers_of_its_own"))
    pipeline.publish("features", sample("a", [1, 2]))
    assert json.loads(pipeline.take("y_pred")[1]) == sample("a", 3.0)
    assert "asked to stop" not in model.output
    assert model.stop() < 5


@pytest.mark.any_rabbitmq
def test_a_process_that_a_model_starts_does_not_hold_a_stop_up(pipeline):
    model = pipeline.connected("model", **odd("with_a_process_of_its_own"))
    pipeline.publish("features", sample("a", [1]))
    assert json.loads(pipeline.take("y_pred")[1]) == sample("a", 1.0)
    assert model.stop() < 3
    assert "cut off" not in model.output
