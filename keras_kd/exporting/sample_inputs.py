"""The examples that a student and its artefacts are compared on."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._internal import batches
from keras_kd.exporting import random_inputs
from keras_kd.exporting.export_report import brief
from keras_kd.exporting.interface import Interface, Spec, declared_inputs, inputs_of, output_names
from keras_kd.exporting.serving import Unservable
from keras_kd.runtimes import model_files

#: Enough for the largest difference to be a large one, and for agreement in steps of a tenth of a per cent.
_MOST = 1000

_BATCH = 100

#: Sizes that free dimensions are tried with where nothing is given: the first that the student can be called on.
_SIZES = (8, 32, 128, 256)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs in batches, and the student's outputs.

    Attributes:
        batches: for each batch, the inputs in the order of the interface.
        labels: class ids or one-hot, by batch, where the dataset had some.
        expected: for each batch, the outputs in the order of the interface.
        weakness: why a comparison on them shows little; empty where it does not.
    """

    batches: list[list[np.ndarray]]
    labels: list[np.ndarray] | None
    expected: list[list[np.ndarray]]
    weakness: str = ""

    @property
    def count(self) -> int:
        """Number of examples."""
        return sum(len(batch[0]) for batch in self.batches)


def prepare(student: keras.Model, representative: Any) -> tuple[Interface, Examples]:
    """Find what the student takes and gives, and what outputs are expected of its artefacts.

    Raises:
        ValueError: the student does not declare what it takes and nothing is given; what is given does not fit or is
            not finite; or the student cannot be called on it, or not on one example at a time, or returns NaN.
    """
    declared = declared_inputs(student)
    if representative is None:
        return _drawn(student, declared)
    parts, labels = _read(representative, declared)
    if not parts:
        raise ValueError("Expected `representative` examples. Received none: an empty array or dataset.")
    inputs = inputs_of(parts) if declared is None else declared
    _check_finite(parts, tree.flatten(inputs))
    batches = [_fitting(batch, inputs) for batch in parts]
    try:
        expected, names = _outputs(student, inputs, batches)
    except Exception as error:  # whatever a layer raises
        hint = "Pass inputs that it can be called on."
        raise _uncallable(student, tree.flatten(inputs), batches[0], error, hint) from error
    return Interface(inputs, names), Examples(batches, labels, expected, _weakness([], expected))


def _drawn(student: keras.Model, inputs: Any) -> tuple[Interface, Examples]:
    """Draw inputs of the first size that the student can be called on."""
    if inputs is None:
        raise ValueError(
            f"Expected `representative` inputs: {student.name!r} is subclassed, or its `preprocessing` no built model, "
            "and does not declare its inputs. Pass a batch of them, as in keras_kd.export(student, path, "
            "representative=x[:16])."
        )
    specs = tree.flatten(inputs)
    free = any(size is None for spec in specs for size in spec.shape[1:])
    for size in _SIZES if free else _SIZES[:1]:
        drawn, unknown = random_inputs.draw(student, inputs, size)
        batch = tree.flatten(drawn)
        try:
            expected, names = _outputs(student, inputs, [batch])
        except Exception as error:  # as in `prepare`
            failure = error
            continue
        return Interface(inputs, names), Examples([batch], None, expected, _weakness(unknown, expected))
    hint = "Pass `representative` inputs, as in keras_kd.export(student, path, representative=x[:16])."
    raise _uncallable(student, specs, batch, failure, hint) from failure


def _outputs(
    student: keras.Model, inputs: Any, batches: list[list[np.ndarray]]
) -> tuple[list[list[np.ndarray]], tuple[str, ...]]:
    """Return the outputs for each batch, and their names; the student has to take single examples, too."""
    _check_sizes(student, inputs, batches[0])
    expected: list[list[np.ndarray]] = []
    names: tuple[str, ...] = ()
    for batch in [[leaf[:1] for leaf in batches[0]], *batches]:
        outputs = student(tree.pack_sequence_as(inputs, [tf.convert_to_tensor(leaf) for leaf in batch]), training=False)
        names = output_names(outputs)
        expected.append([np.asarray(output) for output in tree.flatten(outputs)])
    if any(_has_nan(leaf) for batch in expected for leaf in batch):
        raise ValueError(f"{student.name!r} returns nan.")
    return expected[1:], names


def _check_sizes(student: keras.Model, inputs: Any, batch: list[np.ndarray]) -> None:
    """Trace the student on free dimensions of such a size: a convolution that is larger returns any numbers."""
    if any(size is None for spec in tree.flatten(inputs) for size in spec.shape[1:]):
        specs = tree.pack_sequence_as(inputs, [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in batch])
        tf.function(lambda x: student(x, training=False), autograph=False).get_concrete_function(specs)


def _has_nan(output: np.ndarray) -> bool:
    return output.dtype.kind not in "SUOb" and bool(np.any(np.isnan(output.astype("float64"))))


def _uncallable(
    student: keras.Model, specs: list[Spec], batch: list[np.ndarray], error: Exception, hint: str
) -> Exception:
    """Return an error for a student that could not be called; what `Served` refuses is one already."""
    if isinstance(error, Unservable):
        return error
    tied = [f"{spec.name} of {spec.batch}" for spec in specs if spec.batch is not None]
    if tied:
        hint = f"It is built for batches of a fixed size, {', '.join(tied)}: build it with keras.Input(shape)."
    received = ", ".join(f"{spec.name} {leaf.shape} {leaf.dtype}" for spec, leaf in zip(specs, batch, strict=True))
    return ValueError(
        f"Expected a student that returns numbers for any number of examples. {student.name!r} does not for one or "
        f"for {received}. {hint} {brief(error)}"
    )


def _weakness(unknown: list[str], expected: list[list[np.ndarray]]) -> str:
    """Return why a comparison on these examples shows little, if it does."""
    if unknown:
        return (
            f"The comparison is weak: which values the inputs {unknown} take cannot be known from the student, and "
            "arbitrary ones were drawn. Pass `representative` inputs."
        )
    outputs = zip(*expected, strict=True)  # all batches of one output
    if sum(len(batch[0]) for batch in expected) > 1 and all(map(_is_constant, outputs)):
        return (
            "The comparison is weak: the student's outputs are the same for all examples. Pass others as "
            "`representative`."
        )
    return ""


def _is_constant(batches: tuple[np.ndarray, ...]) -> bool:
    return all(each.shape[1:] == batches[0].shape[1:] and np.all(each == batches[0][:1]) for each in batches)


def _read(representative: Any, specs: Any) -> tuple[list[Any], list[np.ndarray] | None]:
    """Return at most `_MOST` examples in batches, and their labels if there are any."""
    if isinstance(representative, tf.data.Dataset):
        data = _batched(representative, specs)
    else:
        x, y = representative, None
        if isinstance(x, tuple) and (specs is None or len(tree.flatten(x)) != len(tree.flatten(specs))):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(x)
        data = (x, y)
    parts, labels = [], []
    for x, y, _ in batches.of(data, _BATCH, labels=False, rows=_MOST):
        parts.append(tree.map_structure(np.asarray, x))
        labels += [np.asarray(y)] if batches.is_array(y) else []
    return parts, labels if len(labels) == len(parts) else None


def _batched(dataset: tf.data.Dataset, specs: Any) -> tf.data.Dataset:
    """Return batches; a dataset of single examples is recognised by the rank."""
    spec = dataset.element_spec
    x = tree.flatten(spec[0] if isinstance(spec, tuple) else spec)[0]
    alone = specs is not None and x.shape.rank == len(tree.flatten(specs)[0].shape) - 1
    return dataset.batch(_BATCH) if alone else dataset


def _fitting(batch: Any, inputs: Any) -> list[np.ndarray]:
    """Return the inputs of a batch in order and in the types of the interface."""
    leaves, specs = [np.asarray(leaf) for leaf in tree.flatten(batch)], tree.flatten(inputs)
    leaves = [_with_columns(*pair) for pair in zip(leaves, specs, strict=True)] if len(leaves) == len(specs) else leaves
    fits = len(leaves) == len(specs) and all(_fits(*pair) for pair in zip(leaves, specs, strict=True))
    if not fits or not len(leaves[0]):
        text = any(leaf.dtype.kind in "SUO" for leaf in leaves) and all(spec.dtype != "string" for spec in specs)
        hint = " Strings become those by `preprocessing`, as in preprocessing=task.preprocessor." if text else ""
        raise ValueError(
            f"Expected `representative` inputs as the student takes them: "
            f"{', '.join(f'{spec.name} {spec.shape} {spec.dtype}' for spec in specs)}. "
            f"Received: {', '.join(f'{leaf.shape} {leaf.dtype}' for leaf in leaves)}. "
            f"Pass a batch or several of x.{hint}"
        )
    return [
        model_files.plain(leaf) if spec.dtype == "string" else leaf.astype(spec.dtype)
        for leaf, spec in zip(leaves, specs, strict=True)
    ]


def _with_columns(leaf: np.ndarray, spec: Spec) -> np.ndarray:
    """Return one value a row as a column where the student has an input for one, as Keras does in `fit`."""
    return leaf[:, None] if leaf.ndim == 1 and spec.shape == (None, 1) else leaf


def _check_finite(parts: list[Any], specs: list[Spec]) -> None:
    """Refuse what no student predicts on, and LiteRT's converter crashes on."""
    batches = [[np.asarray(leaf) for leaf in tree.flatten(part)] for part in parts]
    for i, spec in enumerate(specs[: len(batches[0])]):
        rows = [_finite(batch[i], spec.dtype) for batch in batches]
        wrong = ~np.concatenate(rows)
        if np.any(wrong):
            raise ValueError(
                f"Expected `representative` inputs that are finite. Received: {spec.name} with inf or nan in "
                f"{np.sum(wrong)} of {len(wrong)} examples, the first at {np.argmax(wrong)} (as {spec.dtype}). "
                "Leave these examples out."
            )


def _finite(leaf: np.ndarray, dtype: str) -> np.ndarray:
    """Return which rows are finite, and are so in a type of floats that is narrower."""
    if leaf.dtype.kind != "f" or not leaf.ndim:
        return np.ones(leaf.shape[:1], bool)
    with np.errstate(over="ignore"):
        numbers = leaf.astype(dtype).astype("float32") if keras.backend.is_float_dtype(dtype) else leaf
    return np.isfinite(numbers).reshape(len(leaf), -1).all(axis=1)


def _fits(leaf: np.ndarray, spec: Spec) -> bool:
    if (spec.dtype == "string") != (leaf.dtype.kind in "SUO") or leaf.ndim != len(spec.shape):
        return False
    return all(wanted in (None, size) for wanted, size in zip(spec.shape, leaf.shape, strict=True))
