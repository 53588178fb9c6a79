"""From a name, `module:callable`, to a model; from samples to an answer, or a reason why there is none, for each.

The model is the user's code: whatever it raises or returns becomes one sentence that says what it was.
"""

import importlib
import inspect
import os
import sys
from operator import attrgetter
from traceback import extract_tb
from typing import Any, Callable, List, Set, Union

import numpy as np

from parts import service

Model = Callable[[np.ndarray], Any]  # (n_samples, n_features) float64 to n_samples numbers

#: Messages that a model may fail on before it has ever answered a sample: then it is the model that is wrong.
FIRST_FAILURES = 20
DEEPEST = 50_000  # calls in calls


class Unusable(Exception):
    """What MODEL names cannot be the model; the text says why."""


def load(name: str) -> Model:
    """The function, or method of an object, that `module:callable` names. Raises Unusable."""
    module_name, colon, path = name.partition(":")
    if not module_name or not colon or not path:
        raise Unusable("it must be module:callable, as in examples.diabetes.model:predict")
    try:
        sys.path.insert(0, os.getcwd())  # where the script lies elsewhere
        found = attrgetter(path)(importlib.import_module(module_name))
        service.listen()  # what was imported may have taken signals over, as servers' libraries do
        # Or have raised this; then a message of lists in lists in lists would overflow the stack of native code.
        sys.setrecursionlimit(min(sys.getrecursionlimit(), DEEPEST))
        _check(found)
    except Unusable:
        raise
    except BaseException as error:
        frames = extract_tb(error.__traceback__)[2:]  # below importlib
        theirs = [frame for frame in frames if frame.filename[:1] not in ("", "<")]  # no file is called so
        where = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
        raise Unusable(f"it must be there to import: {described(error)}{where}") from error
    return found


def _check(found: Any) -> None:
    """Raises Unusable where this cannot be a model, and whatever an object raises that is asked what it is."""
    if inspect.isclass(found):
        raise Unusable("it must be a function, or a method of an object, and is a class: make an object of it")
    if not callable(found):
        raise Unusable(f"it must be callable, and is of type {type(found).__name__}")
    try:
        inspect.signature(found, follow_wrapped=False).bind(np.empty((0, 0)))
    except TypeError as error:
        raise Unusable(f"it must take one argument, the array of samples: {error}") from error
    except ValueError:
        pass  # something built in that does not tell


class Inference:
    """Asks a model, and knows whether it has ever answered."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._has_answered = False
        self._failed_on: Set[int] = set()  # which messages, until it has

    def answers(self, samples: List[List[float]], messages: List[int]) -> List[Union[float, str]]:
        """For each sample the model's prediction, or one sentence that says why there is none.

        `messages` says, by any number, in which message each sample came. They go to the model together. Where that
        fails, as where they differ in width, each half is tried by itself, so that one sample it cannot digest takes no
        other with it. Raises Unusable where it answers anything else than a number a sample, and NotNow while it has
        never answered and fails on all that it is given.
        """
        if not samples:
            return []
        try:
            X = np.array(samples, dtype=np.float64)  # anew for each try: a model may change it, and then fail
            with np.errstate(all="ignore"):  # a sum beyond the largest float is reported below
                y_pred = numbers(self._model(X), len(X))
        except BaseException as error:
            if isinstance(error, Unusable) and not self._has_answered:
                raise
            if len(samples) == 1:
                return [self._failed(messages[0], f"the model failed on this sample: {described(error)}")]
            half = len(samples) // 2
            return self.answers(samples[:half], messages[:half]) + self.answers(samples[half:], messages[half:])
        self._has_answered = True
        finite = np.isfinite(y_pred)
        if finite.all():
            return y_pred.tolist()
        return [y if ok else f"the model predicted {y}" for y, ok in zip(y_pred.tolist(), finite)]

    def _failed(self, message: int, reason: str) -> str:
        if not self._has_answered:
            self._failed_on.add(message)
            if len(self._failed_on) > FIRST_FAILURES:
                raise service.NotNow(
                    f"the model has answered none of its first {FIRST_FAILURES} messages, the others wait: {reason}"
                )
        return reason


def numbers(answer: Any, n_samples: int) -> np.ndarray:
    """What a model answered, as (n_samples,) float64; many give (n_samples, 1). Raises Unusable."""
    must = "it must answer one number for each sample, and"
    if answer is None:
        raise Unusable(f"{must} gave None: does it end without a return?")
    try:
        found = np.ma.asanyarray(answer)
        if found.dtype.kind in "cmM":  # complex, a time span, a time
            raise TypeError(f"{found.dtype} is not real")
        y_pred = np.asarray(found.astype(np.float64).filled(np.nan))
    except BaseException as error:  # a tensor of torch says in its own way that it won't be an array
        raise Unusable(f"{must} gave a {type(answer).__name__}: {described(error)}") from error
    if y_pred.shape not in {(n_samples,), (n_samples, 1)} and not n_samples == y_pred.size == 1:
        raise Unusable(f"{must} gave an array of shape {y_pred.shape} for {service.counted(n_samples, 'sample')}")
    return y_pred.ravel()


def described(error: BaseException) -> str:
    """An exception's type and text, in one line that is not too long, whatever its text is."""
    try:
        text = " ".join(str(error).split())[:500]
    except BaseException as another:
        text = f"its text cannot be told, {type(another).__name__}"
    return f"{type(error).__name__}: {text}"
