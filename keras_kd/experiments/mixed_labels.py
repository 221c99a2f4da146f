"""Labels that can be mixed, and what a teacher's term is for them."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_kd import methods
from keras_kd._types import Tensors
from keras_kd.term import Term

#: Of a cross-entropy on class ids, which cannot be mixed.
_SPARSE = "sparsecategoricalcrossentropy"

#: The method for each loss on labels, by the loss's name; for all others, values are reproduced.
_METHODS: dict[str, Callable[[None], list[Term]]] = {
    _SPARSE: methods.kd,
    "categoricalcrossentropy": methods.kd,
    "binarycrossentropy": methods.multi_label,
}


def name_of(loss: Any) -> str:
    """Return the name of a loss without its spelling: a name, a function or an instance."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return name.lower().replace("_", "")


def method_for(loss: Any) -> Callable[[], list[Term]]:
    """Return a function that makes the terms which match a teacher for a loss on labels, at a compiled temperature."""
    method = _METHODS.get(name_of(loss))
    return methods.regression if method is None else functools.partial(method, None)


def expression_for(loss: Any) -> str:
    """Return Python that makes these terms."""
    method = _METHODS.get(name_of(loss))
    return "kd.methods.regression()" if method is None else f"kd.methods.{method.__name__}(None)"


def is_exclusive(loss: Any) -> bool:
    """Return whether an example has one class."""
    return name_of(loss) in (_SPARSE, "categoricalcrossentropy")


def soft(loss: Any) -> Any:
    """Return the loss on labels for labels that a teacher predicts: probabilities, or values."""
    if name_of(loss) not in _METHODS:
        return "mse"
    return _on_probabilities(loss) if name_of(loss) == _SPARSE else loss


def is_softened(loss: Any) -> bool:
    """Return whether a temperature applies."""
    return name_of(loss) in _METHODS


def classes_of(student: keras.Model, x: Tensors) -> int:
    """Return how many classes a student has, from what it predicts for the first row of x."""
    first = tree.map_structure(lambda leaf: None if leaf is None else np.asarray(leaf)[:1], x)
    return int(student(first, training=False).shape[-1])


def mixable(labelled: tuple[Any, ...], loss: Any, classes: int) -> tuple[tuple[Any, ...], Any]:
    """Return labels, and a loss on them, of which mixtures can be made: class ids become probabilities.

    Args:
        labelled: x, y, and perhaps weights.
        loss: a name, a function, or an instance of `keras.losses.Loss`.
        classes: how many there are.
    """
    if name_of(loss) != _SPARSE:
        return labelled, loss
    x, y, *weights = labelled
    return (x, np.eye(classes, dtype="float32")[np.asarray(y).reshape(-1)], *weights), _on_probabilities(loss)


def mixable_code(loss: Any, classes: int) -> list[str]:
    """Return Python that does the same for `y` and `loss`; nothing where labels can be mixed as they are."""
    if name_of(loss) != _SPARSE:
        return []
    made = f"keras.losses.CategoricalCrossentropy(from_logits={_settings(loss)['from_logits']})"
    return [f"y, loss = np.eye({classes}, dtype='float32')[np.reshape(y, -1)], {made}"]


def _on_probabilities(loss: Any) -> keras.losses.Loss:
    settings = _settings(loss)
    return keras.losses.CategoricalCrossentropy(
        from_logits=settings["from_logits"], reduction=settings.get("reduction", "sum_over_batch_size")
    )


def _settings(loss: Any) -> dict[str, Any]:
    return dict(loss.get_config()) if isinstance(loss, keras.losses.Loss) else {"from_logits": False}
