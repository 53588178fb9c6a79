"""model: reads samples from `features`, predicts, and publishes the predictions to `y_pred`.

    RABBITMQ_HOST=localhost python model.py
    RABBITMQ_HOST=localhost MODEL=examples.diabetes.model:predict python model.py

What has arrived together is predicted together, in one call. A message is acknowledged when RabbitMQ
has confirmed its answer. Any number of replicas share the work.
"""

import importlib
import logging
import os
import sys
from functools import partial
from itertools import islice
from operator import attrgetter
from traceback import extract_tb
from typing import Any, Callable, Dict, List, Optional, Union

import numpy as np

import messages
import service
from broker import Broker, Delivery

MODEL = service.text("MODEL", "")  # module:callable, from the working folder or installed; unset = predict, below
PREFETCH = service.whole("PREFETCH", None, 1, 65535)  # deliveries in hand; unset = as suits the model's speed
MOST_PREFETCH = 2000  # of these

log = logging.getLogger("model")

Model = Callable[[np.ndarray], Any]  # (n_samples, n_features) float64 to n_samples numbers


def predict(X: np.ndarray) -> np.ndarray:
    """The model: each sample's prediction is the sum of its features. (n, d) to (n,)"""
    return X.sum(axis=1)


class Unusable(Exception):
    """What MODEL names cannot be the model; the text says why, in one line."""


def load(name: str) -> Model:
    """The function, or method of an object, that `module:callable` names. Raises Unusable."""
    module_name, colon, path = name.partition(":")
    if not module_name or not colon or not path:
        raise Unusable("it must be module:callable, as in examples.diabetes.model:predict")
    sys.path.insert(0, os.getcwd())  # where the script lies elsewhere
    try:
        found = attrgetter(path)(importlib.import_module(module_name))
    except (Exception, SystemExit) as error:  # the module is the user's code: anything may come
        log.debug("importing %s", module_name, exc_info=True)
        theirs = [frame for frame in extract_tb(error.__traceback__) if frame.filename[0] != "<"][2:]  # below importlib
        where = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
        raise Unusable(f"it must be there to import: {type(error).__name__}: {error}{where}") from error
    if not callable(found):
        raise Unusable(f"it must be callable, and is of type {type(found).__name__}")
    return found


def answers(model: Model, samples: List[List[float]]) -> List[Union[float, str]]:
    """For each sample the model's prediction, or one sentence that says why there is none.

    Samples of the same width go to the model together. Where it fails, each half is tried by itself, so
    that one sample it cannot digest takes no other with it. Raises Unusable where it answers anything else than
    a number a sample.
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
            answer = model(X)
    except Exception as error:  # the model is the user's code: anything may come
        if len(X) == 1:
            return [f"the model failed on this sample: {type(error).__name__}: {error}"]
        half = len(X) // 2
        return _answers(model, X[:half]) + _answers(model, X[half:])
    y_pred = _numbers(answer, len(X))
    finite = np.isfinite(y_pred)
    if finite.all():
        return y_pred.tolist()
    return [y if ok else f"the model predicted {y}" for y, ok in zip(y_pred.tolist(), finite)]


def _numbers(answer: Any, n_samples: int) -> np.ndarray:
    """What a model answered, as (n_samples,) float64; many give (n_samples, 1)."""
    must = f"for {n_samples} samples it must answer as many numbers, and"
    try:
        y_pred = np.asarray(answer, dtype=np.float64)
    except Exception as error:  # the answer is the user's too: a tensor of torch says in its own way that it won't
        raise Unusable(f"{must} gave a {type(answer).__name__}: {error}") from error
    if y_pred.shape not in {(n_samples,), (n_samples, 1)}:
        raise Unusable(f"{must} gave an array of shape {y_pred.shape}")
    return y_pred.ravel()


def main(model: Optional[Model] = None) -> None:
    service.start("model")
    try:
        serve(model or (load(MODEL) if MODEL else predict))
    except Unusable as error:  # no message is at fault: those in hand stay in their queue
        service.refuse(" ".join(f"MODEL={MODEL!r} is not allowed: {error}".split()))


def serve(model: Model) -> None:
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
                queue = messages.answer_queue(delivery.reply_to)
                broker.publish(queue, messages.encode(ids, y_pred, message.is_batch), answers=delivery)
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
