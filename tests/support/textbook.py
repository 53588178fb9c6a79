"""The demo as it circulates in course repositories, to measure against; not an example to follow.

    python tests/support/textbook.py features|model|metrics|plot

One blocking connection kept open, transient queues, automatic acknowledgement, no confirms, a join in a dictionary,
and the whole CSV read for every picture. Otherwise as fast as that can be: no sleep without an INTERVAL, numbers made
by the thousand, the sum by Python, the CSV kept open. What is left, by a profiler, is pika: two thirds of features and
more than half of the model and of metrics. With SAFE=1 it is what people write when that loses data: durable
queues, a confirm awaited for each message, an acknowledgement for each, flush and fsync for each row.
"""

import json
import os
import sys
import time
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pika

SAFE = os.environ.get("SAFE") == "1"
SAMPLES = int(os.environ.get("SAMPLES", "0"))
INTERVAL = float(os.environ.get("INTERVAL", "0"))
CSV_FILE = os.environ.get("CSV_FILE", "metric_log.csv")
IMG_FILE = os.environ.get("IMG_FILE", "error_distribution.png")


def connect() -> Any:
    parameters = pika.ConnectionParameters(
        os.environ["RABBITMQ_HOST"], int(os.environ["RABBITMQ_PORT"]), os.environ.get("RABBITMQ_VHOST", "/")
    )
    channel = pika.BlockingConnection(parameters).channel()
    for queue in ("features", "y_true", "y_pred"):
        channel.queue_declare(queue=queue, durable=SAFE)
    if SAFE:
        channel.confirm_delivery()
    print("connected to RabbitMQ", flush=True)
    return channel


PROPERTIES = pika.BasicProperties(delivery_mode=2) if SAFE else None


def publish(channel: Any, queue: str, message: Dict[str, Any]) -> None:
    channel.basic_publish(exchange="", routing_key=queue, body=json.dumps(message), properties=PROPERTIES)


def samples() -> Iterator[Tuple[List[float], float]]:
    """The same as ours."""
    random = np.random.default_rng()
    while True:
        X = random.standard_normal((1000, 10)).round(4)
        yield from zip(X.tolist(), (X.sum(axis=1) + random.normal(0.0, 0.1, 1000)).tolist())


def features() -> None:
    channel = connect()
    for made, (x, y_true) in enumerate(samples()):
        if SAMPLES and made == SAMPLES:
            break
        message_id = time.time()
        publish(channel, "y_true", {"id": message_id, "body": y_true})
        publish(channel, "features", {"id": message_id, "body": x})
        if INTERVAL:
            time.sleep(INTERVAL)
    channel.connection.close()


def consume(channel: Any, handlers: Dict[str, Any]) -> None:
    for queue, handle in handlers.items():

        def callback(ch: Any, method: Any, _properties: Any, body: bytes, handle: Any = handle) -> None:
            handle(json.loads(body))
            if SAFE:
                ch.basic_ack(method.delivery_tag)

        channel.basic_consume(queue=queue, on_message_callback=callback, auto_ack=not SAFE)
    channel.start_consuming()


def model() -> None:
    channel = connect()
    consume(channel, {"features": lambda m: publish(channel, "y_pred", {"id": m["id"], "body": sum(m["body"])})})


def metrics() -> None:
    channel = connect()
    seen: Dict[str, Dict[Any, float]] = {"y_true": {}, "y_pred": {}}
    with open(CSV_FILE, "a") as file:
        file.write("id,y_true,y_pred,absolute_error\n")
        file.flush()

        def store(half: str, other: str, message: Dict[str, Any]) -> None:
            message_id = message["id"]
            seen[half][message_id] = message["body"]
            if message_id in seen[other]:
                y_true, y_pred = seen["y_true"].pop(message_id), seen["y_pred"].pop(message_id)
                file.write(f"{message_id},{y_true},{y_pred},{abs(y_true - y_pred)}\n")
                file.flush()  # for the plotter
                if SAFE:
                    os.fsync(file.fileno())

        consume(
            channel,
            {"y_true": lambda m: store("y_true", "y_pred", m), "y_pred": lambda m: store("y_pred", "y_true", m)},
        )


def plot() -> None:
    while True:
        if os.path.exists(CSV_FILE):
            draw(read())
        time.sleep(10)


def read() -> Any:
    import pandas as pd  # noqa: PLC0415  # only this one of the four needs it

    return pd.read_csv(CSV_FILE)


def draw(table: Any) -> None:
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    plt.figure()
    plt.hist(table["absolute_error"], bins=30)
    plt.savefig(IMG_FILE)
    plt.close()


if __name__ == "__main__":
    {"features": features, "model": model, "metrics": metrics, "plot": plot}[sys.argv[1]]()
