"""A teacher that is no network: a function of NumPy arrays, or an estimator of scikit-learn."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import sklearn_models, unsupported_teachers
from keras_kd._internal.sklearn_models import is_estimator
from keras_kd._keras import step_errors
from keras_kd._serialization import serializable
from keras_kd._types import Tensors
from keras_kd.teachers.frozen import AroundFrozen, Frozen

#: How far from 1 the sum of a row of probabilities may be.
_ROUNDING = 1e-3


@serializable
class Python(AroundFrozen):
    """Run a function from NumPy arrays to NumPy arrays, or an estimator of scikit-learn, on every batch.

    TensorFlow waits for it in each step, on the processor. Where it takes longer than the student, let it run once:
    `teachers.InMemory(Python(forest))`, or a `TeacherCache`.

    Args:
        function: of x with arrays in the place of tensors, text as `str`; returns an array, (batch, ...), of which one
            number a row is a column, or a dict from names to arrays. Or a fitted estimator, of scikit-learn or with its
            protocol, as those of LightGBM and XGBoost: the probabilities of a classifier teach a softmax, those of the
            second of two classes a single sigmoid unit, those of several labels one unit each; what a regressor
            predicts teaches values. One that was fitted on a DataFrame is given one in each step, of a dict of columns
            by their names, or of an array with as many columns by their position.
        outputs: the shape of the function's output for one example, such as 10 for ten classes or (12, 10), or a dict
            from names to shapes. None: that of what it returns for one example of zeros, or of empty strings.
        preprocess: a function from the batch's x to what `function` reads, computed with TensorFlow, see
            `teachers.Frozen`.
        head: what the outputs of a function mean, see `teachers.Frozen`: "auto" takes them for logits. That of an
            estimator is known.

    Raises:
        TypeError: `function` is neither a function nor an estimator.
        ValueError: an estimator that is not fitted, is a classifier without `predict_proba`, or whose classes are
            integers other than 0, 1, 2, ...; `head` of an estimator; in `fit`: a DataFrame of other columns than an
            estimator was fitted on; in a step: a column that is missing, outputs of another shape or number of rows
            than expected, or probabilities of classes that do not add up to 1.

    Example:
        >>> distiller = Distiller(student=student, teacher=RandomForestClassifier().fit(x, y))
        >>> distiller = Distiller(student=student, teacher=pipeline.fit(df, y))  # fit(columns, y), by name
        >>> distiller = Distiller(student=student, teacher=Python(scores, outputs=10, head="logits"))
    """

    def __init__(
        self,
        function: Any,
        outputs: int | tuple[int | None, ...] | dict[str, Any] | None = None,
        preprocess: Callable[[Tensors], Tensors] | None = None,
        head: str | dict[str, str] = "auto",
    ) -> None:
        super().__init__(name="python")
        if not is_estimator(function) and (not callable(function) or isinstance(function, type)):
            received = f"{function!r} of type {type(function).__name__}. {unsupported_teachers.instead_of(function)}"
            raise TypeError(
                "Expected a function from NumPy arrays to NumPy arrays, or a fitted estimator with `predict`. "
                f"Received: {received}".rstrip()
            )
        if is_estimator(function) and head != "auto":
            raise ValueError(
                f'Expected head="auto" for an estimator, whose head is known. Received: head={head!r}. To choose what '
                f"is predicted, give a function: Python(estimator.predict_proba, head={head!r})."
            )
        self.function = function
        self.outputs = outputs
        self.preprocess = preprocess
        self.head = head
        self._frozen = self._of_units(0)
        self.built = True

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Choose between the classes and the one unit of a classifier of two classes, by the student."""
        outputs = getattr(student, "outputs", None) or []  # a Sequential that is not built has none
        self._frozen = self._of_units(outputs[0].shape[-1] if outputs else 0)
        super().bind(student, names)

    def before_fit(self, x: Tensors, verbose: int | str = "auto") -> Tensors:
        """Refuse a DataFrame that Keras would hand on as another table than an estimator was fitted on."""
        if is_estimator(self.function) and self.preprocess is None:
            sklearn_models.check_frame(self.function, x)
        return x

    def specs(self) -> dict[str, Any] | None:
        """Return a symbolic tensor for a single output whose shape was given, or is known of an estimator."""
        shapes = self._frozen.model.outputs
        return {"logits": keras.KerasTensor((None, *shapes[""]), "float32")} if shapes and "" in shapes else None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, the functions serialised; an estimator cannot be."""
        functions = {"function": self.function, "preprocess": self.preprocess}
        serialised = {name: keras.saving.serialize_keras_object(each) for name, each in functions.items()}
        return {**serialised, "outputs": self.outputs, "head": self.head}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Python":
        """Make a teacher from `get_config`'s dict."""
        given = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("function", "preprocess")}
        return cls(**{**config, **given})

    def _of_units(self, units: int | None) -> Frozen:
        """Return a teacher of a student that has a number of units."""
        function, outputs, head = self.function, self.outputs, self.head
        if is_estimator(function):
            function, known, head = _predictions(function, units)
            outputs = known if outputs is None else outputs
        assumed = 1 if is_estimator(self.function) else None  # of a regressor that takes no zeros, as of categories
        return Frozen(OfArrays(function, outputs, assumed), self.preprocess, head)


def _predictions(estimator: Any, units: int | None) -> tuple[Callable[[Any], Any], Any, str]:
    """Return what predicts for a student of some units, the shape for one example, and the head."""
    sklearn_models.check_fitted(estimator)
    name = type(estimator).__name__
    classes = getattr(estimator, "classes_", None)
    if not hasattr(estimator, "predict_proba"):
        if classes is not None:
            raise ValueError(
                f"Expected a classifier with `predict_proba`. Received: {name}, which predicts classes alone. "
                "Calibrate it, as by sklearn.calibration.CalibratedClassifierCV, or give a function of its scores."
            )
        return functools.partial(_values, estimator), None, "values"
    if classes is None:
        raise ValueError(f"Expected a fitted classifier. Received: {name} without `classes_`. Call its `fit` first.")
    if isinstance(classes, list):  # several outputs
        if any(len(each) != 2 for each in classes):
            raise ValueError(
                f"Expected two classes for each output of a classifier of several. Received: {name} with "
                f"{[len(each) for each in classes]} classes. Give a function that returns a dict of arrays."
            )
        return functools.partial(_labels, estimator), len(classes), "sigmoid"
    _check_classes(name, np.asarray(classes))
    if len(classes) == 2 and units == 1:
        return functools.partial(_second, estimator), 1, "sigmoid"
    return functools.partial(_probabilities, estimator), len(classes), "softmax"


def _check_classes(name: str, classes: np.ndarray) -> None:
    if classes.dtype.kind in "iuf" and not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(
            f"Expected the classes of a classifier to be 0 to {len(classes) - 1}, the places in the student's output. "
            f"Received: {name} with the classes {classes.tolist()}. A class that it has not seen has no column: give a "
            "function that puts the columns of `predict_proba` in their places."
        )


def _values(estimator: Any, x: Any) -> np.ndarray:
    return np.asarray(estimator.predict(sklearn_models.as_fitted(estimator, x)))


def _probabilities(estimator: Any, x: Any) -> np.ndarray:
    found = np.asarray(estimator.predict_proba(sklearn_models.as_fitted(estimator, x)))
    sums = found.sum(-1)
    if np.any(np.abs(sums - 1) > _ROUNDING):
        raise ValueError(
            f"Expected `predict_proba` of {type(estimator).__name__} to return probabilities that add up to 1. "
            f"They add up to {sums[np.argmax(np.abs(sums - 1))]:.3f}. For several labels, give the function: "
            'keras_kd.teachers.Python(estimator.predict_proba, head="sigmoid").'
        )
    return found


def _second(estimator: Any, x: Any) -> np.ndarray:
    return _probabilities(estimator, x)[:, 1:]


def _labels(estimator: Any, x: Any) -> np.ndarray:
    found = estimator.predict_proba(sklearn_models.as_fitted(estimator, x))
    return np.stack([each[:, 1] for each in found], axis=-1)


class OfArrays(keras.layers.Layer):
    """Call a function of arrays on tensors, in eager code and in graphs.

    Args:
        function: see `Python`.
        outputs: see `Python`.
        assumed: `outputs` where that is not given and the function raises for an example of zeros; None for an error.
    """

    def __init__(self, function: Callable[[Any], Any], outputs: Any = None, assumed: Any = None) -> None:
        super().__init__(name="of_arrays", dtype="float32", autocast=False)
        self.function = function
        self.outputs = None if outputs is None else _shapes(outputs)
        self.assumed = assumed
        self.supports_jit = False  # XLA has no Python
        self._one_at_a_time = (
            threading.Lock()
        )  # of several replicas, each has a thread, and few functions are made for that
        self.built = True

    def call(self, x: Tensors) -> Any:
        """Return tensors in float32."""
        leaves = [each for each in tree.flatten(x) if each is not None]
        if self.outputs is None:
            self.outputs = self._of_zeros(x, leaves)
        shapes = self.outputs

        def run(*arrays: np.ndarray) -> list[np.ndarray]:
            with step_errors.in_a_graph(), self._one_at_a_time:
                return _checked(self._outputs(x, arrays), shapes, len(arrays[0]))

        found = tf.numpy_function(run, leaves, [tf.float32] * len(shapes), stateful=False)
        found = found if isinstance(found, (list, tuple)) else [found]  # it returns the one of one
        for each, shape in zip(found, shapes.values(), strict=True):
            each.set_shape((leaves[0].shape[0], *shape))
        return found[0] if "" in shapes else dict(zip(shapes, found, strict=True))

    def _outputs(self, x: Tensors, arrays: Any) -> dict[str, np.ndarray]:
        """Return what the function returns, by name; "" is that of what has none."""
        given = iter([_text(each) for each in arrays])
        found = self.function(tree.map_structure(lambda each: None if each is None else next(given), x))
        named = dict(sorted(found.items())) if isinstance(found, dict) else {"": found}
        return {name: _with_columns(np.asarray(each)) for name, each in named.items()}

    def _of_zeros(self, x: Tensors, leaves: list[Any]) -> dict[str, Any]:
        """Return the shapes of the outputs for one example of zeros."""
        specs = [(tuple(each.shape[1:]), each.dtype) for each in leaves]
        if any(None in shape for shape, _ in specs):
            raise ValueError(
                "Expected `outputs`, the shape of an output of the teacher for one example: it cannot be found out "
                f"with inputs of unknown shapes. Received: inputs of {[shape for shape, _ in specs]}."
            )
        zeros = [
            np.full((1, *shape), b"", object) if dtype == tf.string else np.zeros((1, *shape), dtype.as_numpy_dtype)
            for shape, dtype in specs
        ]
        try:
            found = self._outputs(x, zeros)
        except Exception as error:
            if self.assumed is not None:
                return _shapes(self.assumed)
            raise ValueError(
                "Expected a teacher that runs on one example of zeros, which shows the shape of its outputs. It raised "
                f"{type(error).__name__}: {error}\nIf a function cannot take zeros, give the shape of an output for "
                "one example, as in teachers.Python(function, outputs=1)."
            ) from error
        return {name: each.shape[1:] for name, each in found.items()}


def _with_columns(array: np.ndarray) -> np.ndarray:
    """Return one number a row as a column, as Keras reads it."""
    return array[:, None] if array.ndim == 1 else array


def _shapes(outputs: Any) -> dict[str, tuple[int | None, ...]]:
    if isinstance(outputs, dict):
        return {name: _shapes(each)[""] for name, each in sorted(outputs.items())}
    return {"": (outputs,) if isinstance(outputs, int) else tuple(outputs)}


def _checked(found: dict[str, Any], shapes: dict[str, tuple[int | None, ...]], rows: int) -> list[np.ndarray]:
    """Return the outputs in float32."""
    if found.keys() != shapes.keys():
        names = [sorted(each) if "" not in each else "an array" for each in (shapes, found)]
        raise ValueError(f"Expected the teacher's function to return {names[0]}. Received: {names[1]}.")
    arrays = {name: np.asarray(each, "float32") for name, each in found.items()}
    for name, each in arrays.items():
        expected = (rows, *shapes[name])
        same = len(each.shape) == len(expected) and all(
            size in (None, here) for here, size in zip(each.shape, expected, strict=True)
        )
        if not same:
            raise ValueError(
                f"Expected the teacher's function to return {repr(name) if name else 'an array'} of the shape "
                f"{expected}, a row for each example. Received: {each.shape}."
            )
    return list(arrays.values())


def _text(array: np.ndarray) -> np.ndarray:
    """Return an array of str of one of bytes."""
    if array.dtype != object:
        return array
    decoded = [each.decode() if isinstance(each, bytes) else each for each in array.ravel()]
    return np.array(decoded, object).reshape(array.shape)
