"""Settings: a wrong one stops the script at once with one line and exit code 2; and stopping without a broker."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

WRONG = [
    ("features", "INTERVAL", "soon"),
    ("features", "INTERVAL", "-1"),
    ("features", "INTERVAL", "nan"),
    ("features", "BATCH_SIZE", "0"),
    ("features", "BATCH_SIZE", "1.5"),
    ("features", "BATCH_SIZE", "100000"),
    ("features", "SAMPLES", "-3"),
    ("features", "N_FEATURES", "0"),
    ("features", "NOISE", "-0.1"),
    ("features", "NOISE", "inf"),
    ("features", "SEED", "abc"),
    ("features", "DRIFT", "500"),
    ("features", "DRIFT", "0:0.5"),
    ("features", "DRIFT", "1.5:0.5"),
    ("features", "DRIFT", "5:nan"),
    ("features", "DRIFT", "5:1:2"),
    ("features", "DATASET", "/nowhere/data.csv"),
    ("features", "DATASET", "/dev/zero"),
    ("features", "DATASET", "README.md"),
    ("features", "RABBITMQ_PORT", "70000"),
    ("model", "MODEL", "predict"),
    ("model", "MODEL", "model:"),
    ("model", "MODEL", ".model:predict"),
    ("model", "MODEL", "nowhere.model:predict"),
    ("model", "MODEL", "examples.diabetes.model:nothing"),
    ("model", "MODEL", "examples.diabetes.model:FITTED"),
    ("features", "SHARDS", "0"),
    ("metrics", "SHARD", "100"),
    ("model", "PREFETCH", "0"),
    ("model", "RABBITMQ_HOST", "a,,b"),
    ("model", "LOG_LEVEL", "loud"),
    ("metrics", "PREFETCH", "65536"),
    ("metrics", "PENDING_TTL", "-1"),
    ("metrics", "RABBITMQ_URL", "http://localhost"),
    ("plot", "PLOT_INTERVAL", "0"),
    ("plot", "LOG_LEVEL", "7"),
    ("plot", "PLOT_LANG", "fr"),
]


@pytest.mark.parametrize(("script", "name", "value"), WRONG)
def test_a_wrong_setting_stops_the_script_with_one_line(without_broker, script, name, value):
    process = without_broker.start(script, **{name: value})
    assert process.ends() == 2
    [line] = process.output.splitlines()
    assert name in line
    assert value in line
    assert "must" in line


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (PATH, line 1)"),
        ("def predict(X:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines (PATH, line 1)"),
    ],
)
def test_a_model_that_cannot_be_imported_is_refused_with_the_place_in_one_line(
    without_broker, tmp_path, text, complaint
):
    path = tmp_path / "mine.py"
    path.write_text(text)
    process = without_broker.start("model", MODEL="mine:predict", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert process.ends() == 2
    [line] = process.output.splitlines()
    assert line.startswith("MODEL='mine:predict' is not allowed: ")
    assert complaint.replace("PATH", str(path)) in line


def test_a_model_is_found_in_the_working_folder_before_a_script_of_that_name(tmp_path):
    (tmp_path / "model.py").write_text("predict = 'not a function'")
    env = {**os.environ, "MODEL": "model:predict"}
    command = [sys.executable, str(ROOT / "model.py")]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "it must be callable, and is of type str" in result.stderr


@pytest.mark.parametrize(
    "url", ["amqp://user:secret@host:port/", "amqp://:secret@/", "amqps://u:secret@h/?heartbeat=x"]
)
def test_a_wrong_url_is_refused_without_its_password(without_broker, url):
    process = without_broker.start("model", RABBITMQ_URL=url)
    assert process.ends() == 2
    [line] = process.output.splitlines()
    assert "RABBITMQ_URL" in line
    assert "secret" not in line


@pytest.mark.parametrize("script", ["features", "model", "metrics"])
def test_without_a_broker_a_script_says_so_once_a_try_and_ends_when_asked(without_broker, script):
    process = without_broker.start(script).says("next try in 1 s").says("next try in 2 s")
    assert process.stop() < 5
    tries = [line for line in process.output.splitlines() if "no connection to RabbitMQ at 127.0.0.1:1" in line]
    assert "Connection refused" in tries[0]
    assert len(tries) == len(process.output.splitlines())


def test_several_hosts_are_tried_in_turn(without_broker):
    process = without_broker.start("model", RABBITMQ_HOST="127.0.0.1,localhost")
    process.says("at 127.0.0.1:1").says("at localhost:1")


def test_all_hosts_are_tried_between_two_pauses(without_broker):
    process = without_broker.start("model", RABBITMQ_HOST="127.0.0.1,localhost,127.0.0.1").says("next try in 1 s")
    assert re.findall(r"next try in (\S+) s", process.output)[:6] == ["0", "0", "0.5", "0", "0", "1"]


def test_a_host_that_is_not_known_is_tried_again(without_broker):
    without_broker.start("model", RABBITMQ_HOST="nowhere.invalid").says("next try in 0.5 s").says("next try in 1 s")


def test_plot_draws_without_data_and_ends_when_asked(without_broker):
    process = without_broker.start("plot").says("no rows yet")
    assert without_broker.image.read_bytes().startswith(b"\x89PNG")
    assert process.stop() < 5
