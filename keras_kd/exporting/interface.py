"""The inputs and outputs of a student, by name: the signature that all formats share."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_kd._types import Shape, Tensors
from keras_kd.exporting.serving import Served


@dataclasses.dataclass(frozen=True)
class Spec:
    """An input.

    Attributes:
        name: in all formats.
        shape: None where it is free, as the batch always is.
        dtype: its type.
        batch: the batch size that the student is built for; None for any.
    """

    name: str
    shape: Shape
    dtype: str
    batch: int | None = None

    def tensor(self) -> tf.TensorSpec:
        """Return the same for TensorFlow."""
        return tf.TensorSpec(self.shape, self.dtype, name=self.name)


@dataclasses.dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a student.

    Attributes:
        inputs: a `Spec`, or Specs in lists, tuples and dicts, as the student takes them.
        outputs: names of the outputs, in the order of `tree.flatten`.
    """

    inputs: Any
    outputs: tuple[str, ...]

    @property
    def specs(self) -> list[Spec]:
        """The inputs, in the order of `tree.flatten`."""
        return tree.flatten(self.inputs)

    def pack(self, tensors: list[Any]) -> Tensors:
        """Return flat inputs in the form that the student takes."""
        return tree.pack_sequence_as(self.inputs, tensors)

    def of_one(self) -> "Interface":
        """Return the interface of a student that takes one example at a time."""
        fixed = [dataclasses.replace(spec, shape=(1, *spec.shape[1:])) for spec in self.specs]
        return Interface(self.pack(fixed), self.outputs)

    def serve(self, student: keras.Model) -> Callable[..., Any]:
        """Return the student as a `tf.function` of one argument, in its own form."""
        specs = tree.map_structure(lambda spec: spec.tensor(), self.inputs)
        return tf.function(lambda x: student(x, training=False), input_signature=[specs], autograph=False)

    def signature(self, student: keras.Model) -> Any:
        """Return the student as a concrete function from named inputs to a dict of named outputs."""
        specs = {spec.name: spec.tensor() for spec in self.specs}
        function = tf.function(lambda **inputs: self.call(student, inputs), autograph=False)
        return function.get_concrete_function(**specs)

    def call(self, student: keras.Model, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the student's named outputs for named inputs."""
        outputs = student(self.pack([inputs[spec.name] for spec in self.specs]), training=False)
        return dict(zip(self.outputs, tree.flatten(outputs), strict=True))


def declared_inputs(student: keras.Model) -> Any:
    """Return the Specs of a student that declares its inputs, or None: a subclassed one does not."""
    first = student.first if isinstance(student, Served) else student
    if isinstance(first, keras.Sequential):
        tensors = first.inputs[0] if first.built and first.inputs else None
    else:
        tensors = getattr(first, "input", None)
    if tensors is None:
        return None
    return _named(tensors, lambda x: ((None, *x.shape[1:]), x.dtype, _given_name(x.name), x.shape[0]))


def inputs_of(batches: list[Any]) -> Any:
    """Infer Specs from batches of examples: axes that differ between batches are free, as is that of the batch."""
    shapes = [[tuple(leaf.shape) for leaf in tree.flatten(batch)] for batch in batches]
    common = iter([_common([each[i] for each in shapes]) for i in range(len(shapes[0]))])
    return _named(batches[0], lambda x: (next(common), _dtype(x.dtype), "", None))


def output_names(outputs: Tensors) -> tuple[str, ...]:
    """Return the keys of a dict of outputs, or output_0, output_1 and so on."""
    flat = tree.flatten(outputs)
    if isinstance(outputs, dict) and len(flat) == len(outputs):
        return tuple(_identifier(key) for key in sorted(outputs))
    return tuple(f"output_{i}" for i in range(len(flat)))


def _named(tensors: Any, describe: Callable[[Any], tuple[Shape, str, str, int | None]]) -> Any:
    described = [describe(leaf) for leaf in tree.flatten(tensors)]
    if isinstance(tensors, dict) and len(described) == len(tensors):
        names = [_identifier(key) for key in sorted(tensors)]
    else:
        names = [_identifier(name) or f"input_{i}" for i, (_, _, name, _) in enumerate(described)]
    if len(set(names)) < len(names):
        names = [f"{name}_{i}" for i, name in enumerate(names)]
    specs = [Spec(name, shape, dtype, size) for name, (shape, dtype, _, size) in zip(names, described, strict=True)]
    return tree.pack_sequence_as(tensors, specs)


def _given_name(name: str) -> str:
    """Return the name that a user gave an input, or none: Keras's own counts what a session has made before."""
    return "" if re.fullmatch(r"keras_tensor(_\d+)?", name) else name


def _common(shapes: list[Shape]) -> Shape:
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"Expected batches of `representative` of one rank. Received the shapes: {shapes[:4]}")
    return (None, *[sizes[0] if len(set(sizes)) == 1 else None for sizes in list(zip(*shapes, strict=True))[1:]])


def _dtype(dtype: Any) -> str:
    if dtype.kind in "SUO":
        return "string"
    return "float32" if dtype == "float64" else str(dtype)


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", str(name))
