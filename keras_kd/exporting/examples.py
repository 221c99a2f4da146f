"""The examples that a student and its artefacts are compared on."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd._arrays import as_arrays
from keras_kd.exporting.interface import Interface, Spec, declared_inputs, inputs_of, output_names

#: Enough for the largest difference to be a large one, and for agreement in steps of a tenth of a per cent.
_MOST = 1000

_BATCH = 100
_DRAWN = 16


@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs in batches, and what the student says of them.

    Attributes:
        batches: for each batch, the inputs in the order of the interface.
        labels: class ids or one-hot, by batch, where the dataset had some.
        expected: for each batch, the outputs in the order of the interface.
    """

    batches: list[list[np.ndarray]]
    labels: list[np.ndarray] | None
    expected: list[list[np.ndarray]]

    @property
    def count(self) -> int:
        """Number of examples."""
        return sum(len(batch[0]) for batch in self.batches)

    def singles(self, most: int) -> Iterator[list[np.ndarray]]:
        """Yield examples in batches of one."""
        every = ([leaf[i : i + 1] for leaf in batch] for batch in self.batches for i in range(len(batch[0])))
        for _, single in zip(range(most), every, strict=False):
            yield single


def prepare(student: keras.Model, representative: Any) -> tuple[Interface, Examples]:
    """Find what the student takes and gives, and let it say what is expected of its artefacts.

    Raises:
        ValueError: the student does not say what it takes and nothing is given, or what is given does not fit.
    """
    declared = declared_inputs(student)
    if representative is None:
        batches, labels = [_draw(student, declared)], None
    else:
        batches, labels = _read(representative, declared)
    if not batches:
        raise ValueError("Expected `representative` examples. Received none: an empty array or dataset.")
    inputs = inputs_of(batches) if declared is None else declared
    batches = [_fitting(batch, inputs) for batch in batches]
    expected, outputs = [], None
    for batch in batches:
        x = tree.pack_sequence_as(inputs, [tf.convert_to_tensor(leaf) for leaf in batch])
        outputs = student(x, training=False)
        expected.append([np.asarray(output) for output in tree.flatten(outputs)])
    return Interface(inputs, output_names(outputs)), Examples(batches, labels, expected)


def _draw(student: keras.Model, specs: Any) -> Any:
    """Return random numbers; free dimensions other than the batch get 8."""
    if specs is None:
        raise ValueError(
            f"Expected `representative` inputs: {student.name!r} is subclassed, or its `preprocessing` no built model, "
            "and does not say what it takes. Pass a batch of them, as in keras_kd.export(student, path, "
            "representative=x[:16])."
        )
    random = np.random.default_rng(0)

    def draw(spec: Spec) -> np.ndarray:
        shape = (_DRAWN, *[size or 8 for size in spec.shape[1:]])
        if spec.dtype == "string":
            return np.full(shape, b"a")
        floating = keras.backend.is_float_dtype(spec.dtype)
        return random.normal(size=shape).astype(spec.dtype) if floating else np.zeros(shape, spec.dtype)

    return tree.map_structure(draw, specs)


def _read(representative: Any, specs: Any) -> tuple[list[Any], list[np.ndarray] | None]:
    """Return at most `_MOST` examples in batches, and their labels if there are any."""
    if not isinstance(representative, tf.data.Dataset):
        x, y = representative, None
        if isinstance(x, tuple) and (specs is None or len(tree.flatten(x)) != len(tree.flatten(specs))):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(x)
        x = tree.map_structure(np.asarray, as_arrays(x))
        count = min(len(tree.flatten(x)[0]), _MOST)
        starts = range(0, count, _BATCH)
        parts = [tree.map_structure(lambda leaf, i=i: leaf[i : min(i + _BATCH, count)], x) for i in starts]
        known = None if y is None else np.asarray(y)
        return parts, None if known is None else [known[i : min(i + _BATCH, count)] for i in starts]
    batches, labels, room = [], [], _MOST
    for element in _batched(representative, specs).as_numpy_iterator():
        x, y, _ = keras.utils.unpack_x_y_sample_weight(element)
        batches.append(tree.map_structure(lambda leaf, room=room: np.asarray(leaf)[:room], x))
        if isinstance(y, np.ndarray):
            labels.append(y[:room])
        room -= len(tree.flatten(batches[-1])[0])
        if room <= 0:
            break
    return batches, labels if len(labels) == len(batches) else None


def _batched(dataset: tf.data.Dataset, specs: Any) -> tf.data.Dataset:
    """Return batches; a dataset of single examples is told by the rank."""
    spec = dataset.element_spec
    x = tree.flatten(spec[0] if isinstance(spec, tuple) else spec)[0]
    alone = specs is not None and x.shape.rank == len(tree.flatten(specs)[0].shape) - 1
    return dataset.batch(_BATCH) if alone else dataset


def _fitting(batch: Any, inputs: Any) -> list[np.ndarray]:
    """Return the inputs of a batch in order and in the types of the interface."""
    leaves, specs = [np.asarray(leaf) for leaf in tree.flatten(batch)], tree.flatten(inputs)
    fits = len(leaves) == len(specs) and all(_fits(*pair) for pair in zip(leaves, specs, strict=True))
    if not fits or not len(leaves[0]):
        raise ValueError(
            f"Expected `representative` inputs as the student takes them: "
            f"{', '.join(f'{spec.name} {spec.shape} {spec.dtype}' for spec in specs)}. "
            f"Received: {', '.join(f'{leaf.shape} {leaf.dtype}' for leaf in leaves)}. Pass a batch or several of x."
        )
    return [
        leaf.astype("S") if spec.dtype == "string" else leaf.astype(spec.dtype)
        for leaf, spec in zip(leaves, specs, strict=True)
    ]


def _fits(leaf: np.ndarray, spec: Spec) -> bool:
    if (spec.dtype == "string") != (leaf.dtype.kind in "SUO") or leaf.ndim != len(spec.shape):
        return False
    return all(wanted in (None, size) for wanted, size in zip(spec.shape, leaf.shape, strict=True))
