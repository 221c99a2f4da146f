"""A trained model that teaches and does not change."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_kd._internal import layer_reader, raw_views, soft_targets, unsupported_teachers
from keras_kd._internal.cloning import copy_model
from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor, Tensors
from keras_kd.teachers.base import Teacher

_DTYPES = (None, "bfloat16", "float16")

#: What to do with a function such as a forest's.
_OF_NUMPY = (
    'Give it as keras_kd.teachers.Python(function, head="softmax"), which calls it in each step, or in InMemory once; '
    'head="sigmoid" for probabilities of labels, head="values" for values.'
)


@serializable
class Frozen(Teacher):
    """Run a trained model in inference mode on every batch. Its weights, statistics and flags stay as they are.

    A task of KerasHub reads raw strings or images by its own preprocessor, whatever the student reads; where the
    student's preprocessor makes the labels, as those of language models do, both read the student's tokens. With
    `preprocess`, or once its `preprocessor` is None, it reads what any other model would.

    Args:
        model: a built Keras model; any built callable layer, such as a `keras.layers.TFSMLayer`; or a function of x
            that computes with TensorFlow. For one of NumPy arrays, see `teachers.Python`.
        preprocess: a function from the batch's x to what this model reads: another image size, other keys of a dict,
            tokens. The student is fed x as it is, or, where x is a dict, the keys that it has inputs for. For a model
            of keras.applications on images from 0 to 255, its `preprocess_input`, which takes floats.
        head: what its outputs mean: "auto", "logits", "softmax", "sigmoid" or "values", or a dict from output name to
            one of these. "auto" recognises a softmax or sigmoid at the end of a model, also behind layers that only
            move values, and takes anything else for logits: for a function, give the head.
        device: where a copy of the model lives and runs, such as "GPU:1". None: where TensorFlow puts it.
        dtype: "bfloat16" or "float16": a copy of the model in half the memory predicts almost the same, on processors
            that are made for it in half the time. None: the model as it is.

    Raises:
        TypeError: `model` is not a Keras layer or a function.
        ValueError: `model` is not built, or cannot be copied as `device` or `dtype` requires; no such device; a
            language model with another vocabulary than the student; in a step: the function needs NumPy arrays, or
            the model numbers instead of strings.

    Example:
        >>> distiller = Distiller(student=student, teacher=Frozen(teacher, head="softmax"))
    """

    def __init__(
        self,
        model: keras.layers.Layer | Callable[[Tensors], Tensors],
        preprocess: Callable[[Tensors], Tensors] | None = None,
        head: str | dict[str, str] = "auto",
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        model = _as_layer(model)
        super().__init__(name=f"frozen_{model.name}")
        self.model = model
        self.preprocess = preprocess
        self.head = head
        self.device = _check_device(device)
        self.dtype_of_copy = _check_dtype(dtype)
        with self._placed():
            self._runs = copy_model(model, dtype) if device or dtype else model
        if device:
            self.supports_jit = False  # XLA compiles a step for one device
        self._reader = layer_reader.Reader(self._runs, head=head, owner="teacher")

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Check that the student is another model, and prepare the layers to be read."""
        ours = {id(variable) for variable in self._runs.variables}
        shared = [variable.path for variable in student.trainable_variables if id(variable) in ours]
        if shared:
            raise ValueError(
                "Expected the student and the teacher to be two models. "
                f"{student.name!r} would train weights of its own teacher: {shared[:3]}. "
                "Make the student from a copy (keras.models.clone_model), or freeze what they share."
            )
        raw_views.check_vocabularies(student, self.model)
        self._reader = layer_reader.Reader(self._runs, names, self.head, owner="teacher")

    def specs(self) -> dict[str, Any] | None:
        """Return the model's symbolic outputs and layers, or None for a model without a graph."""
        return self._reader.specs

    def kind(self, name: str) -> str:
        """Return the head of an output; a layer's features are "values"."""
        return self._reader.kind(name)

    def unrecognised(self, names: tuple[str, ...]) -> list[Teacher]:
        """Return itself, unless the heads are known, or plain layers of weights end the model."""
        return [self] if self._reader.in_doubt(names) else []

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return the model's own preprocessing, where it has one and no other was given."""
        if self.preprocess is not None or raw_views.preprocessing(self.model) is None:
            return super().views(x)
        return {f"of_{id(self.model)}": lambda raw: raw_views.view(self.model, raw)}

    def tokens(self) -> dict[str, Any] | None:
        """Return what distinguishes the model's own tokens from others."""
        return raw_views.tokens_of(self.model) if self.preprocess is None else None

    def cacheable(self, names: tuple[str, ...]) -> bool:
        """Return whether the model reads the same of an example in every epoch, which no masked language model does."""
        return super().cacheable(names) and not raw_views.is_random(self.model)

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Run the model on `x` and return its logits and features by name."""
        return self.read_by(self._reader, x)

    def read_by(self, reader: layer_reader.Reader, x: Tensors) -> dict[str, Any]:
        """Return what a reader of the model, or of a part of it, reads for `x`, by name."""
        with self._placed():
            view = self._view(soft_targets.without_targets(x))
            try:
                return reader(view, training=False)[1]
            except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
                if isinstance(self.model, keras.layers.Lambda) and re.search("[Ss]ymbolic *(tf.)?Tensor", str(error)):
                    raise ValueError(
                        f"Expected a teacher that computes with TensorFlow. {self.model.name!r} needs NumPy arrays. "
                        f"{_OF_NUMPY}"
                    ) from error
                raise

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, the model serialised."""
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "preprocess": keras.saving.serialize_keras_object(self.preprocess),
            "head": self.head,
            "device": self.device,
            "dtype": self.dtype_of_copy,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Frozen":
        """Make a teacher from `get_config`'s dict."""
        given = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("model", "preprocess")}
        return cls(**{**config, **given})

    def _view(self, x: Tensors) -> Tensors:
        """Return what the model reads of a batch, whether it was prepared with the data or is raw."""
        [(key, made_of)] = self.views(x).items()
        read = raw_views.of_teacher(x, key) if raw_views.are_made(x) else made_of(x)
        read = read if self.preprocess is None else self._preprocessed(self.preprocess, read)
        raw_views.check_text(self.model, read, "teacher")
        return read

    def _preprocessed(self, preprocess: Callable[[Tensors], Tensors], x: Tensors) -> Tensors:
        try:
            return preprocess(x)
        except TypeError as error:
            if not any(each.dtype == "uint8" for each in keras.tree.flatten(x) if each is not None):
                raise
            raise ValueError(
                f"Expected the `preprocess` of {self.name!r} to take images of uint8. Those of keras.applications take "
                "floats: Frozen(model, preprocess=lambda x: preprocess_input(tf.cast(x, 'float32')))."
            ) from error

    def _placed(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.device is None else tf.device(self.device)


class AroundFrozen(Teacher):
    """A frozen teacher of something that is no model of Keras, and has no layers to name."""

    _frozen: Frozen

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Prepare the outputs to be read."""
        self._frozen.bind(student, names)

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return what the frozen teacher reads."""
        return self._frozen.views(x)

    def kind(self, name: str) -> str:
        """Return the head of an output."""
        return self._frozen.kind(name)

    def unrecognised(self, names: tuple[str, ...]) -> list[Teacher]:
        """Return itself, unless the head is known."""
        return [self] if any(self.kind(name) == "auto" for name in names) else []

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return the outputs for `x` as logits or values by name."""
        return self._frozen(x, student)


def _as_layer(model: Any) -> keras.layers.Layer:
    """Return a built layer, or a layer around a function."""
    if not isinstance(model, keras.layers.Layer):
        instead = unsupported_teachers.instead_of(model)
        if instead or not callable(model):
            instead = instead or (_OF_NUMPY if hasattr(model, "predict") else "")
            raise TypeError(
                "Expected the teacher to be a Keras model or layer, a function of x, a fitted estimator or a "
                f"keras_kd.teachers.Teacher. Received: {model!r} of type {type(model).__name__}. {instead}".rstrip()
            )
        name = getattr(model, "__name__", "").strip("<>")
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)  # TensorFlow has no scope of another
        function = keras.layers.Lambda(model, autocast=False, name=name or None)
        function.built = True
        return function
    if not model.built and not isinstance(model, keras.layers.TFSMLayer):
        raise ValueError(
            f"Expected a trained teacher. {model.name!r} is not built: it has no weights yet. "
            "Call it on a batch and load its weights, or load it with keras.models.load_model."
        )
    return model


def _check_device(device: str | None) -> str | None:
    if device is None:
        return None
    known = [each.name.removeprefix("/device:") for each in tf.config.list_logical_devices()]
    if device.upper().removeprefix("/").removeprefix("DEVICE:") not in known:
        raise ValueError(f"Expected `device` to be one that TensorFlow sees: {known}. Received: device={device!r}")
    return device


def _check_dtype(dtype: str | None) -> str | None:
    if dtype not in _DTYPES:
        raise ValueError(f"Expected `dtype` to be one of {_DTYPES}. Received: dtype={dtype!r}")
    return dtype
