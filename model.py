"""model: reads samples from `features`, predicts, and publishes the predictions to `y_pred`.

    RABBITMQ_HOST=localhost python model.py

What has arrived together is predicted together, in one call. A message is acknowledged when RabbitMQ
has confirmed its answer. Any number of replicas share the work.
"""

import logging
from functools import partial
from itertools import islice
from typing import Any, Callable, Dict, List, Union

import numpy as np

import messages
import service
from broker import Broker, Delivery

PREFETCH = service.whole("PREFETCH", None, 1, 65535)  # deliveries in hand; unset = as suits the model's speed
MOST_PREFETCH = 2000  # of these

log = logging.getLogger("model")

Model = Callable[[np.ndarray], Any]  # (n_samples, n_features) float64 to n_samples numbers


def predict(X: np.ndarray) -> np.ndarray:
    """The model: each sample's prediction is the sum of its features. (n, d) to (n,)"""
    return X.sum(axis=1)


def answers(model: Model, samples: List[List[float]]) -> List[Union[float, str]]:
    """For each sample the model's prediction, or one sentence that says why there is none.

    Samples of the same width go to the model together. Where it fails, each half is tried by itself, so
    that one sample it cannot digest takes no other with it.
    """
    found: List[Union[float, str]] = [""] * len(samples)
    by_width: Dict[int, List[int]] = {}
    for index, sample in enumerate(samples):
        by_width.setdefault(len(sample), []).append(index)
    for indexes in by_width.values():
        X = np.array([samples[index] for index in indexes], dtype=np.float64)
        for index, answer in zip(indexes, _answers(model, X)):
            found[index] = answer
    return found


def _answers(model: Model, X: np.ndarray) -> List[Union[float, str]]:
    try:
        with np.errstate(all="ignore"):  # a sum beyond the largest float is reported below
            y_pred = np.asarray(model(X), dtype=np.float64)
        if y_pred.shape != (len(X),):
            raise ValueError(f"{len(X)} samples got an answer of shape {y_pred.shape}")
    except Exception as error:  # the model is the user's code: anything may come
        if len(X) == 1:
            return [f"the model failed on this sample: {type(error).__name__}: {error}"]
        half = len(X) // 2
        return _answers(model, X[:half]) + _answers(model, X[half:])
    finite = np.isfinite(y_pred)
    if finite.all():
        return y_pred.tolist()
    return [y if ok else f"the model predicted {y}" for y, ok in zip(y_pred.tolist(), finite)]


def main(model: Model = predict) -> None:
    service.start("model")
    broker = Broker("model", ["features", "y_pred"])
    progress = service.Progress("samples predicted")

    def answer(deliveries: List[Delivery]) -> None:
        decoded = [messages.decode(delivery.body, messages.finite_numbers) for delivery in deliveries]
        found = iter(answers(model, [sample for message in decoded for sample in message.bodies]))
        for delivery, message in zip(deliveries, decoded):
            mine = list(islice(found, len(message.ids)))
            good = [(sample_id, y) for sample_id, y in zip(message.ids, mine) if not isinstance(y, str)]
            if good:
                ids, y_pred = zip(*good)
                broker.publish("y_pred", messages.encode(ids, y_pred, message.is_batch), answers=delivery)
                progress.add(len(ids), partial("{}: y_pred {:.4f}".format, ids[-1], y_pred[-1]))
            faults = message.faults
            if len(good) < len(mine):
                failed = zip(message.positions(), mine)
                faults = {**faults, **{position: y for position, y in failed if isinstance(y, str)}}
            for piece, reason in messages.offending(delivery.body, message, faults):
                broker.set_aside(delivery, piece, reason)

    broker.consume(["features"], answer, PREFETCH or MOST_PREFETCH, adapt=PREFETCH is None)
    broker.every_second(progress.flush)
    broker.run()


if __name__ == "__main__":
    main()
