"""The services on a real RabbitMQ: each alone, then all four together."""

import json
import math
import os
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import pytest

import features
from examples.diabetes import model as diabetes
from parts.rabbitmq.producer import ENOUGH
from support.node import wait_until
from support.paths import ROOT
from support.proxy import Proxy, Wire


def sample(sample_id, body):
    return {"id": sample_id, "body": body}


# --- features ---------------------------------------------------------------------------------------


def test_features_publishes_both_halves_of_each_sample_with_its_properties(pipeline):
    process = pipeline.start("features", SAMPLES=2, INTERVAL=0, SEED=1, N_FEATURES=3)
    assert process.ends() == 0
    assert "all 2 samples published and confirmed" in process.output
    random = np.random.default_rng(1)
    for _ in range(2):
        X, y_true = features.generate(random, 3, 0.1, 1)
        properties, body = pipeline.take("features")
        _, label = pipeline.take("y_true")
        sample_id = json.loads(body)["id"]
        assert json.loads(body) == sample(sample_id, X[0].tolist())
        assert json.loads(label) == sample(sample_id, y_true[0])
        assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
        assert properties.app_id == "features"
        assert abs(properties.timestamp - time.time()) < 60
    assert pipeline.waiting("features") == pipeline.waiting("y_true") == 0


def test_a_batch_is_an_array_and_the_last_one_is_as_short_as_it_must_be(pipeline):
    assert pipeline.start("features", SAMPLES=103, BATCH_SIZE=3, INTERVAL=0).ends() == 0
    batches = [json.loads(pipeline.take("features")[1]) for _ in range(35)]
    assert [len(batch) for batch in batches] == [3] * 34 + [1]
    ids = [item["id"] for batch in batches for item in batch]
    assert sorted(set(ids)) == ids  # they sort by time
    assert [item["id"] for _ in range(35) for item in json.loads(pipeline.take("y_true")[1])] == ids


def test_features_ends_when_its_last_sample_is_confirmed(pipeline):
    """Not an interval later, and not when somebody has made room for one more."""
    assert pipeline.start("features", SAMPLES=1, INTERVAL=600).ends() == 0
    assert pipeline.start("features", SAMPLES=ENOUGH - 1, INTERVAL=0).ends() == 0
    assert pipeline.waiting("features") == ENOUGH


def test_a_message_comes_every_interval(pipeline):
    process = pipeline.start("features", INTERVAL=0.2)
    for _ in range(5):
        pipeline.take("features")
    first, *_, last = [(time.monotonic(), json.loads(pipeline.take("features")[1])["id"]) for _ in range(6)]
    assert 0.8 < last[0] - first[0] < 3
    made = [datetime.strptime(sample_id.split("Z")[0], "%Y%m%dT%H%M%S.%f") for _, sample_id in (first, last)]
    assert 0.8 < (made[1] - made[0]).total_seconds() < 3  # its id tells when a sample was made
    process.stop()


def test_a_drift_is_added_to_every_true_value(pipeline):
    process = pipeline.start("features", SAMPLES=10, BATCH_SIZE=4, INTERVAL=0, NOISE=0, DRIFT="-2.5")
    assert process.ends() == 0
    pairs = [json.loads(pipeline.take(queue)[1]) for _ in range(3) for queue in ("features", "y_true")]
    sums = [sum(item["body"]) for message in pairs[::2] for item in message]
    labels = [item["body"] for message in pairs[1::2] for item in message]
    assert labels == pytest.approx([total - 2.5 for total in sums])


@pytest.mark.any_rabbitmq
def test_a_seed_makes_the_same_samples_whatever_the_batch_size(pipeline):
    def made(size, seed=3, **settings):
        pipeline.start("features", SAMPLES=12, BATCH_SIZE=size, INTERVAL=0, SEED=seed, **settings).ends()
        found: List[Tuple[str, Any]] = []
        while len(found) < 24:
            for queue in ("features", "y_true"):
                message = json.loads(pipeline.take(queue)[1])
                found += [(queue, item["body"]) for item in (message if size > 1 else [message])]
        return sorted(found, key=lambda each: each[0])

    assert made(1) == made(4) == made(12)
    data = {"DATASET": "examples/diabetes/diabetes.csv"}
    assert made(1, **data) == made(5, **data)
    assert made(1, **data) != made(1, seed=4, **data)  # a file's rows are shuffled


@pytest.mark.alone
def test_a_broker_that_blocks_publishers_makes_features_wait_and_loses_nothing(node, pipeline):
    pipeline.connected("model")
    pipeline.connected("metrics")
    node.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        process = pipeline.start("features", SAMPLES=5000, INTERVAL=0).says(
            "RabbitMQ blocks publishers (low on memory)"
        )
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.4")
    process.says("all well again (it was: RabbitMQ blocks publishers")
    assert process.ends() == 0
    pipeline.wait_for_rows(5000)


def test_at_full_speed_features_waits_for_consumers_that_keep_up_and_says_so(pipeline):
    sources = [pipeline.start("features", SAMPLES=6000, INTERVAL=0) for _ in range(2)]
    for source in sources:
        source.says("waiting for consumers that keep up: ")
    assert ENOUGH <= pipeline.waiting("features") <= 2 * ENOUGH  # as many as each may add
    idle = pipeline.start("features", INTERVAL=0)
    idle.says("waiting for consumers that keep up: ")
    assert idle.stop() < 5
    pipeline.connected("metrics")
    pipeline.connected("model")
    assert [source.ends(60) for source in sources] == [0, 0]  # none of the two is starved
    wait_until(lambda: pipeline.waiting("features") == 0, 20, "all is predicted")


def test_with_an_interval_features_waits_for_nobody(pipeline):
    assert pipeline.start("features", SAMPLES=600, INTERVAL=0.001).ends() == 0
    assert pipeline.waiting("features") == 600


# --- model ------------------------------------------------------------------------------------------


def test_the_model_answers_an_object_with_an_object_and_a_batch_with_a_batch(pipeline):
    pipeline.connected("model")
    pipeline.publish("features", sample("a", [1, 2.5]))
    pipeline.publish("features", [sample("b", [3]), sample(7, [0])])
    properties, body = pipeline.take("y_pred")
    assert json.loads(body) == sample("a", 3.5)
    assert (properties.app_id, properties.delivery_mode) == ("model", 2)
    assert json.loads(pipeline.take("y_pred")[1]) == [sample("b", 3.0), sample("7", 0.0)]


def test_the_model_sets_aside_what_it_cannot_read_and_goes_on(pipeline):
    model = pipeline.connected("model")
    bad = [b"not json", b'{"id":"a","body":["1"]}', b'{"id":"x","body":[1e308,1e308]}']
    for body in bad:
        pipeline.publish("features", body)
    pipeline.publish("features", b'[{"id":"b","body":[1]}, {"id":"c", "body":[null]}]')
    assert json.loads(pipeline.take("y_pred")[1]) == [sample("b", 1.0)]
    for body in [*bad, b'{"id":"c", "body":[null]}']:
        properties, aside = pipeline.take("dead_letters")
        assert aside == body
        assert (properties.headers["x-service"], properties.headers["x-queue"]) == ("model", "features")
        assert properties.headers["x-reason"] in model.output
    assert model.output.count("WARNING") == 4
    model.stop()
    assert pipeline.waiting("features") == 0


def test_a_slow_model_has_little_in_hand_and_a_fast_one_much(node, pipeline):
    n = 3000
    for number in range(n):
        pipeline.publish("features", sample(f"s{number}", [1.0]))
    slow = pipeline.connected("model", MODEL="examples.slow:predict")  # 20 ms a sample
    wait_until(lambda: pipeline.waiting("y_pred") > 50, 20, "it has found its pace")
    in_hand = n - pipeline.waiting("features") - pipeline.waiting("y_pred")
    assert in_hand <= 40  # a fraction of a second's work, and what is on its way
    assert slow.stop() < 5
    pipeline.start("model").says("connected to")
    wait_until(lambda: pipeline.waiting("y_pred") == n, 20, "all is answered once")
    consumers = f"/consumers/{pipeline.vhost}"
    wait_until(lambda: [c["prefetch_count"] > 100 for c in node.api("GET", consumers)] == [True], 20, "a full hand")


@pytest.mark.any_rabbitmq
def test_a_model_whose_answers_have_the_wrong_shape_ends_the_script_and_leaves_the_messages(pipeline, tmp_path):
    (tmp_path / "mine.py").write_text("def predict(X):\n    return X")
    pipeline.publish("features", sample("a", [1.0, 2.0]))
    process = pipeline.start("model", MODEL="mine:predict", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert process.ends() == 2
    assert process.output.splitlines()[-1] == (
        "MODEL='mine:predict' is not allowed: it must answer one number for each sample,"
        " and gave an array of shape (1, 2) for 1 sample"
    )
    (tmp_path / "mine.py").write_text("class Mine:\n    def predict(self, X):\n        return X[:, :1]\n\nm = Mine()")
    pipeline.connected("model", MODEL="mine:m.predict", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert json.loads(pipeline.take("y_pred")[1]) == sample("a", 1.0)


# --- metrics ----------------------------------------------------------------------------------------


def test_metrics_writes_a_row_when_both_halves_are_there_in_either_order(pipeline):
    pipeline.connected("metrics")
    pipeline.publish("y_pred", sample("a", 1))
    pipeline.publish("y_true", [sample("b", 2.5), sample("a", 0.75), sample(3.0, 1)])
    pipeline.publish("y_pred", [sample("b", 2), sample("3", 1)])
    assert sorted(pipeline.wait_for_rows(3)) == [
        ["3", "1.0", "1.0", "0.0"],
        ["a", "0.75", "1.0", "0.25"],
        ["b", "2.5", "2.0", "0.5"],
    ]


def test_metrics_begins_the_csv_before_the_first_message(pipeline):
    pipeline.connected("metrics")
    wait_until(pipeline.csv.exists, 5, "the CSV")
    assert pipeline.rows() == []


def test_a_label_that_comes_after_a_restart_finds_its_prediction(pipeline):
    metrics = pipeline.connected("metrics")
    pipeline.publish("y_pred", sample("late", 1))
    wait_until(lambda: pipeline.waiting("y_pred") == 0, 10, "the prediction is taken")
    metrics.stop()
    pipeline.connected("metrics")
    pipeline.publish("y_true", sample("late", 2))
    assert pipeline.wait_for_rows(1) == [["late", "2.0", "1.0", "1.0"]]


def test_late_labels_find_their_predictions_after_a_restart(pipeline):
    """As many as LATE says: a million is for an evening."""
    n = int(os.environ.get("LATE", "20000"))
    batches = [[sample(f"s{i}", float(i)) for i in range(start, start + 1000)] for start in range(0, n, 1000)]
    metrics = pipeline.connected("metrics")
    for batch in batches:
        pipeline.publish("y_pred", batch)
    metrics.says(f"unmatched: 0 true values, {n} predictions", 120)
    metrics.kill()
    pipeline.connected("metrics")
    for batch in reversed(batches):
        pipeline.publish("y_true", [sample(item["id"], item["body"] + 0.5) for item in batch])
    rows = pipeline.wait_for_rows(n, 300)
    assert all(row == [f"s{row[0][1:]}", f"{row[0][1:]}.5", f"{row[0][1:]}.0", "0.5"] for row in rows)


def test_repeated_halves_change_nothing_and_a_different_one_is_logged(pipeline):
    metrics = pipeline.connected("metrics")
    for queue, value in [("y_true", 1), ("y_true", 1), ("y_true", 5), ("y_pred", 1), ("y_pred", 1), ("y_true", 1)]:
        pipeline.publish(queue, sample("a", value))
    pipeline.publish("y_true", sample("end", 1))
    pipeline.publish("y_pred", sample("end", 1))
    assert ["a", "1.0", "1.0", "0.0"] in pipeline.wait_for_rows(2)
    metrics.says("a: a later, different y_true is dropped: 5.0")


def test_metrics_sets_aside_what_it_cannot_read_and_goes_on(pipeline):
    pipeline.connected("metrics")
    pipeline.publish("y_true", b'[{"id":"a","body":1},{"id":"=b","body":1}]')
    pipeline.publish("y_pred", b'{"id":"a","body":null}')
    pipeline.publish("y_pred", sample("a", 1))
    assert pipeline.wait_for_rows(1) == [["a", "1.0", "1.0", "0.0"]]
    found = [pipeline.take("dead_letters") for _ in range(2)]
    assert sorted((properties.headers["x-queue"], body) for properties, body in found) == [
        ("y_pred", b'{"id":"a","body":null}'),
        ("y_true", b'{"id":"=b","body":1}'),
    ]


def test_what_waits_unmatched_is_told_and_forgotten_when_asked(pipeline):
    metrics = pipeline.connected("metrics", PENDING_TTL=6)
    pipeline.publish("y_true", [sample("a", 1), sample("b", 1)])
    pipeline.publish("y_pred", sample("c", 1))
    metrics.says("unmatched: 2 true values, 1 prediction")
    metrics.says("forgotten after 6 s without their other half: 3")


def test_metrics_acknowledges_nothing_that_it_cannot_store_and_carries_on_when_it_can(pipeline):
    pipeline.csv.mkdir(parents=True)  # a folder stands where the CSV should be
    metrics = pipeline.connected("metrics").says("cannot store, so nothing is acknowledged")
    pipeline.publish("y_true", sample("a", 1))
    pipeline.publish("y_pred", sample("a", 1))
    wait_until(lambda: pipeline.waiting("y_true") + pipeline.waiting("y_pred") == 0, 10, "both are delivered")
    metrics.kill()
    wait_until(lambda: pipeline.waiting("y_true") == pipeline.waiting("y_pred") == 1, 10, "both are back")
    pipeline.connected("metrics")
    wait_until(lambda: pipeline.waiting("y_true") + pipeline.waiting("y_pred") == 0, 10, "both are delivered again")
    pipeline.csv.rmdir()
    pipeline.wait_for_rows(1)


# --- any of them ------------------------------------------------------------------------------------


def test_a_stop_under_load_finishes_what_was_begun(pipeline):
    model = pipeline.connected("model")
    n = 5000
    source = pipeline.connected("features", SAMPLES=n, INTERVAL=0.0001)
    wait_until(lambda: pipeline.waiting("y_pred") > 0, 20, "the model is at work")
    assert model.stop() < 5
    assert source.ends() == 0
    # What was answered is acknowledged, and what was not is back: nothing is done twice.
    wait_until(lambda: pipeline.waiting("features") + pipeline.waiting("y_pred") == n, 10, "all is accounted for")


def test_a_stop_between_two_tries_to_connect_makes_one_more_and_loses_nothing(node, pipeline):
    proxy = Proxy(node.port)
    try:
        process = pipeline.start("features", SAMPLES=100_000, INTERVAL=0.0001, RABBITMQ_PORT=proxy.port)
        wait_until(lambda: pipeline.waiting("features") > 1000, 20, "features is at work")
        proxy.refuse()
        process.says("next try in 5 s", 40)
        proxy.heal()
        assert process.stop() < 5
        assert "not confirmed" not in process.output
        assert process.output.count("connected to RabbitMQ") == 2
    finally:
        proxy.close()


@pytest.mark.alone
def test_features_says_what_was_not_confirmed_when_it_is_stopped_while_blocked(node, pipeline):
    node.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        process = pipeline.start("features", SAMPLES=300, INTERVAL=0).says("RabbitMQ blocks publishers")
        process.stop()
        assert "not confirmed before the stop: " in process.output
        assert "all 300 samples" not in process.output
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.4")


@pytest.mark.any_rabbitmq
def test_large_messages_do_not_pile_up_in_features(pipeline):
    process = pipeline.connected("features", INTERVAL=0, BATCH_SIZE=10_000).says("samples published")
    process.says("samples published in")
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.popen.pid}/status").read_text())[0])
    process.stop()
    assert peak < 200_000


@pytest.mark.parametrize("script", ["features", "model", "metrics"])
def test_a_stop_takes_less_than_five_seconds_and_exits_with_zero(pipeline, script):
    assert pipeline.connected(script).stop() < 5


def test_the_management_ui_shows_who_is_connected_and_consumes(node, pipeline, vhost):
    for script in ("features", "model", "metrics"):
        pipeline.connected(script)
    name = vhost["RABBITMQ_VHOST"]

    def consumers():
        return {c["queue"]["name"]: c["consumer_tag"] for c in node.api("GET", f"/consumers/{name}")}

    wait_until(lambda: set(consumers()) == {"features", "y_true", "y_pred"}, 20, "a consumer on each queue")
    assert consumers()["features"].startswith("model@")
    assert consumers()["y_true"].startswith("metrics@")

    def connections():
        found = node.api("GET", f"/vhosts/{name}/connections")
        return {c["client_properties"].get("connection_name", "").split("@")[0] for c in found}

    wait_until(lambda: connections() >= {"features", "model", "metrics"}, 20, "three named connections")
    queues = {q["name"]: q for q in node.api("GET", f"/queues/{name}")}
    assert set(queues) == {"features", "y_true", "y_pred", "dead_letters"}
    # RabbitMQ 4 itself adds the queue type that its policy or default decided on.
    assert all(q["durable"] and set(q["arguments"]) <= {"x-queue-type"} for q in queues.values())


def test_a_queue_that_is_deleted_is_declared_again_and_nothing_more_is_lost(pipeline):
    model = pipeline.connected("model")
    pipeline.channel.queue_delete("features")
    model.says("a queue was deleted or moved").says("next try in")
    wait_until(lambda: model.output.count("connected to") == 2, 10, "connected again")
    pipeline.channel.queue_delete("y_pred")
    pipeline.publish("features", sample("a", [1]))
    wait_until(lambda: model.output.count("connected to") == 3, 10, "connected once more")
    assert json.loads(pipeline.take("y_pred")[1]) == sample("a", 1.0)


def test_the_heartbeat_is_there_only_while_the_service_does_its_job(node, pipeline, tmp_path):
    beat = tmp_path / "heartbeat"
    metrics = pipeline.connected("metrics", HEARTBEAT_FILE=beat)
    wait_until(beat.exists, 5, "a heartbeat")
    pipeline.csv.unlink()
    pipeline.csv.mkdir()
    wait_until(lambda: not beat.exists(), 5, "no heartbeat while the CSV cannot be written")
    pipeline.csv.rmdir()
    wait_until(beat.exists, 5, "a heartbeat again")
    metrics.says("all well again")


# --- all together -----------------------------------------------------------------------------------


def test_the_four_together_write_right_rows_and_draw_them(pipeline):
    n, noise = 10_000, 0.3
    plot = pipeline.start("plot", PLOT_INTERVAL=0.5)
    plot.says("no rows yet")
    model, metrics = pipeline.connected("model"), pipeline.connected("metrics")
    assert pipeline.start("features", SAMPLES=n, BATCH_SIZE=10, INTERVAL=0, SEED=5, NOISE=noise).ends() == 0
    rows = sorted(pipeline.wait_for_rows(n))  # in the order of their making, as the ids sort by time

    random = np.random.default_rng(5)
    made = [features.generate(random, 10, noise, 10) for _ in range(n // 10)]
    assert [float(row[1]) for row in rows] == [y for _, y_true in made for y in y_true]
    assert [float(row[2]) for row in rows] == [float(np.sum(x)) for X, _ in made for x in X]
    errors = [float(row[3]) for row in rows]
    assert errors == [abs(float(row[1]) - float(row[2])) for row in rows]
    # E|noise| of a normal distribution, and the standard deviation of |noise|.
    expected, deviation = noise * math.sqrt(2 / math.pi), noise * math.sqrt(1 - 2 / math.pi)
    assert abs(np.mean(errors) - expected) < 3 * deviation / math.sqrt(n)

    plot.says(f"{n} rows, MAE {np.mean(errors):.4f}")
    for process in (model, metrics, plot):
        assert process.stop() < 5
    assert all(pipeline.waiting(queue) == 0 for queue in ("features", "y_true", "y_pred", "dead_letters"))


def test_a_model_and_a_data_set_of_the_users_own_take_the_place_of_the_sum(pipeline):
    pipeline.connected("model", MODEL="examples.diabetes.model:predict")
    pipeline.connected("metrics")
    source = pipeline.start(
        "features", DATASET="examples/diabetes/diabetes.csv", SAMPLES=442, INTERVAL=0, BATCH_SIZE=50
    )
    assert source.ends() == 0
    columns = (
        "age, sex, bmi, blood_pressure, total_cholesterol, ldl, hdl, cholesterol_ratio, log_triglycerides, glucose"
    )
    assert f"the features are {columns}, the label is progression" in source.output.splitlines()[0]
    rows = pipeline.wait_for_rows(442)
    table = np.loadtxt(ROOT / "examples/diabetes/diabetes.csv", delimiter=",", skiprows=1)
    found, expected = ({(y_true, round(y_pred, 6)) for y_true, y_pred in pairs} for pairs in (
        [(float(row[1]), float(row[2])) for row in rows],
        zip(table[:, -1], diabetes.predict(table[:, :-1])),
    ))  # fmt: skip
    assert found == expected
    assert np.mean([float(row[3]) for row in rows]) == pytest.approx(43.3, abs=0.05)


def test_replicas_of_every_service_write_each_row_once(pipeline):
    for script in ("model", "metrics") * 2:
        pipeline.connected(script)
    for process in [pipeline.start("features", SAMPLES=3000, INTERVAL=0, SEED=1) for _ in range(2)]:
        assert process.ends(60) == 0
    pipeline.wait_for_rows(6000)


@pytest.mark.alone
def test_a_restart_of_the_broker_is_waited_for_and_loses_and_repeats_nothing(node, pipeline):
    for script in ("model", "metrics"):
        pipeline.connected(script)
    source = pipeline.connected("features", SAMPLES=5000, INTERVAL=0.01, BATCH_SIZE=10)
    pipeline.wait_until_rows(100)
    node.stop()
    source.says("no connection to RabbitMQ")
    node.start()
    assert source.ends(60) == 0
    pipeline.wait_for_rows(5000)


def test_a_killed_features_leaves_no_row_twice_and_no_pair_unwritten(node, pipeline):
    pipeline.connected("model")
    pipeline.connected("metrics")
    wire = Wire()
    proxy = Proxy(node.port, wire)
    for _ in range(3):
        pipeline.connected("features", INTERVAL=0, RABBITMQ_PORT=proxy.port).says("samples published").kill()
    proxy.close()
    pairs = wire.confirmed_ids("y_true") & wire.confirmed_ids("features")
    wait_until(lambda: pairs <= {row[0] for row in pipeline.rows()}, 30, f"rows of the {len(pairs)} confirmed pairs")
    rows = pipeline.rows()
    assert len(rows) == len({row[0] for row in rows})
