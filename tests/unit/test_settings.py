"""Settings: a wrong one stops the script at once with one line and exit code 2; and stopping without a broker."""

import os
import re
import subprocess
import sys

import pytest

from support.paths import ROOT

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
    ("features", "DRIFT", "500:0.5"),
    ("features", "DRIFT", "nan"),
    ("features", "DRIFT", "1e291"),
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
    ("model", "RABBITMQ_HOST", "localhost:5672"),
    ("model", "RABBITMQ_HOST", "amqp://localhost"),
    ("model", "RABBITMQ_HOST", "local host"),
    ("model", "RABBITMQ_HOST", "a..b"),
    ("model", "RABBITMQ_HOST", "a,,b"),
    ("model", "LOG_LEVEL", "loud"),
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


#: Like the proxies of some libraries, which load what they stand for when they are asked for its class.
LAZY = """class Lazy:
    @property
    def __class__(self):
        raise FileNotFoundError("no model.joblib")
predict = Lazy()
"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (PATH, line 1)"),
        ("def predict(X:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines (PATH, line 1)"),
        ("import os, sys; sys.stderr = open(os.devnull, 'w'); 1 / 0", "ZeroDivisionError: division by zero (PATH"),
        ("exec(compile('1 / 0', '', 'exec'))", "ZeroDivisionError: division by zero (PATH, line 1)"),
        (LAZY, "FileNotFoundError: no model.joblib (PATH, line 4)"),
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


SECRETS = [
    "amqp://user:s3cret@host:port/",
    "amqp://:s3cret@/",
    "amqps://u:s3cret@h/?heartbeat=x",
    "user:s3cret@host",
    "amqp:user:s3cret@host",
    "amqp://user:pa#s3cret@host",
    "amqp://user:12#s3cret@host",
    "amqp://user:12/s3cret@host",
    "amqp://user:pa/s3cret@host:5672/",
    "amqp://user:pa?s3cret@host",
    "amqp://user:s3cret@@host",
    "amqp://user:a@s3cret@host",
    "amqp://user:s3cret",
    "amqp://user:s3cret@host/s3cret@",
    "user:s3cret",
    "http://user:s3cret@host",
]


def test_options_of_a_url_that_pika_would_stumble_over_later_are_refused_at_once(without_broker):
    process = without_broker.start("metrics", RABBITMQ_URL="amqp://localhost/?tcp_options={'X':1}")
    assert process.ends() == 2
    assert process.output.startswith("RABBITMQ_URL='***' is not allowed: ")


def test_a_url_that_asks_for_tries_without_a_word_has_a_line_for_each(without_broker):
    url = "amqp://127.0.0.1:1/?connection_attempts=1000&retry_delay=100"
    without_broker.start("model", RABBITMQ_URL=url).says("next try in 1 s")


@pytest.mark.parametrize("value", SECRETS)
@pytest.mark.parametrize("name", ["RABBITMQ_URL", "RABBITMQ_HOST"])
def test_a_wrong_address_is_refused_without_its_password(without_broker, name, value):
    process = without_broker.start("model", **{name: value})
    assert process.ends() == 2
    [line] = process.output.splitlines()
    assert name in line
    assert "s3cret" not in line


def test_no_part_of_a_url_but_host_and_port_is_logged(without_broker):
    process = without_broker.start("model", RABBITMQ_URL="amqp://us3r:pa%23%2F%40s3cret@127.0.0.1:1/vh0st")
    process.says("no connection to RabbitMQ at 127.0.0.1:1 (")
    assert not re.search("us3r|s3cret|vh0st", process.output)


STOP_AT_THE_FIRST_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"numpy", "pika", "msgspec", "matplotlib"} and self in sys.meta_path:
            sys.meta_path.remove(self)
            print("stopped at the import of", name, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("script", ["features", "model", "metrics", "plot"])
def test_a_stop_is_kept_from_the_first_import_on(without_broker, tmp_path, script):
    (tmp_path / "sitecustomize.py").write_text(STOP_AT_THE_FIRST_IMPORT)
    process = without_broker.start(script, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert process.ends(5) == 0, process.output
    assert "stopped at the import of" in process.output


@pytest.mark.parametrize("script", ["features", "model", "metrics"])
def test_without_a_broker_a_script_says_so_once_a_try_and_ends_when_asked(without_broker, script):
    process = without_broker.start(script).says("next try in 1 s").says("next try in 2 s")
    assert process.stop() < 5
    tries = [line for line in process.output.splitlines() if "no connection to RabbitMQ at 127.0.0.1:1" in line]
    assert "Connection refused" in tries[0]
    [*others, last] = process.output.splitlines()
    assert tries == others
    assert last.endswith("INFO    asked to stop")


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
