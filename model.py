"""model: reads samples from `features`, predicts, and publishes the predictions to `y_pred`.

    RABBITMQ_HOST=localhost python model.py
    RABBITMQ_HOST=localhost MODEL=examples.diabetes.model:predict python model.py

What has arrived together is predicted together, in one call. A message is acknowledged when RabbitMQ has
confirmed its answer. Any number of replicas share the work.
"""

from functools import partial
from itertools import chain, islice
from typing import Iterator, List

from parts import service, settings  # first: from here on a request to stop is kept

# isort: split
import numpy as np

from parts import messages
from parts.inference import Inference, Unusable, load
from parts.rabbitmq.broker import Broker, Delivery, Message, aside

MODEL = settings.text("MODEL", "")  # module:callable, from the working folder or installed; unset = predict, below

progress = service.Progress("sample", "predicted")


def predict(X: np.ndarray) -> np.ndarray:
    """The model: each sample's prediction is the sum of its features. (n, d) to (n,)"""
    return X.sum(axis=1)


def answer(inference: Inference, deliveries: List[Delivery]) -> Iterator[Message]:
    """The predictions for these messages, one message each, and what of them is to be set aside."""
    progress.flush()
    decoded = [messages.decode(delivery.body, messages.FEATURES) for delivery in deliveries]
    samples = [sample for message in decoded for sample in message.bodies]
    tags = chain.from_iterable([delivery.tag] * len(message.ids) for delivery, message in zip(deliveries, decoded))
    found = iter(inference.answers(samples, [*tags]))
    for delivery, message in zip(deliveries, decoded):
        mine = list(zip(message.ids, message.positions, islice(found, len(message.ids))))
        good = [(sample_id, y) for sample_id, _, y in mine if not isinstance(y, str)]
        if good:
            ids, y_pred = zip(*good)
            yield Message("y_pred", messages.encode(ids, y_pred, message.is_batch), delivery)
            progress.add(partial("{}: y_pred {:.4f}".format, ids[-1], y_pred[-1]), len(ids))
        faults = {position: f"{y} (id {sample_id})" for sample_id, position, y in mine if isinstance(y, str)}
        for piece, reason in messages.offending(delivery.body, message, {**message.faults, **faults}):
            yield aside(delivery, piece, reason)


def main() -> None:
    service.start()
    broker = Broker("model", ["features", "y_pred"])
    try:
        broker.consume(["features"], partial(answer, Inference(load(MODEL) if MODEL else predict)))
        broker.run()
    except Unusable as error:  # no message is at fault: those in hand stay in their queue
        settings.refuse("MODEL", MODEL, str(error))


if __name__ == "__main__":
    main()
