"""How far two models are apart on the same examples, and how far they might be on others: a paired bootstrap."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd._internal import metric_directions

#: Returns a score of outputs, (examples, ...), for some of the labels.
Score = Callable[[Any, np.ndarray], float]


def score_of(metric: keras.metrics.Metric | None, loss: Any) -> Score:
    """Return the function that scores outputs by a metric of `compile`, or by the loss where there is none.

    Args:
        metric: an instance; its state is reset.
        loss: on labels, as given to `compile`.
    """
    if metric is None:
        function = keras.losses.get(loss)
        return lambda y, outputs: float(np.mean(keras.ops.convert_to_numpy(function(y, outputs))))

    def score(y: Any, outputs: np.ndarray) -> float:
        metric.reset_state()
        metric.update_state(y, outputs)
        return float(keras.ops.convert_to_numpy(metric.result()))

    return score


def of_student(student: keras.Model, data: tuple[Any, Any], metric: str, loss: Any) -> Score:
    """Return the function that scores outputs of a student.

    Args:
        student: compiled.
        data: x and y, of which a row is looked at: labels decide which accuracy "accuracy" is.
        metric: its name.
        loss: on labels, as given to `compile`.
    """
    one = tree.map_structure(lambda leaf: None if leaf is None else np.asarray(leaf)[:1], data)
    student.evaluate(*one, verbose=0)
    return score_of(metric_directions.metrics_of(student, student).get(metric), loss)


def drawn_again(
    function: Callable[[np.ndarray], dict[str, float]], count: int, rounds: int = 100
) -> dict[str, np.ndarray]:
    """Return numbers of examples that are drawn again and again, with replacement, (rounds,) by name.

    Their standard deviation over the rounds estimates the standard error of the number of all examples.

    Args:
        function: of the places of some examples, (count,).
        count: of the examples.
        rounds: how often.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    random = np.random.default_rng(0)
    found = [function(random.integers(0, count, count)) for _ in range(rounds)]
    return {name: np.array([each[name] for each in found]) for name in found[0]}
