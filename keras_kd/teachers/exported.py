"""Teachers that exist only as files: a SavedModel, an ONNX file, a LiteRT file."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from keras_kd._serialization import serializable
from keras_kd._types import Tensors
from keras_kd.runtimes import model_files
from keras_kd.teachers.frozen import AroundFrozen, Frozen
from keras_kd.teachers.python import OfArrays


@serializable
class SavedModel(AroundFrozen):
    """Run a SavedModel, of Keras, of TensorFlow Hub or of any other origin, as a frozen teacher.

    Args:
        path: folder of the SavedModel.
        signature: which of its signatures or endpoints to run: "serve" in what Keras exports, "serving_default" in most
            others. None takes the first of these two that is there.
        preprocess: a function from the batch's x to what the SavedModel reads, see `teachers.Frozen`.
        head: what its outputs mean, see `teachers.Frozen`; a SavedModel does not contain it, so "auto" takes them as
            logits.

    Raises:
        ValueError: there is no SavedModel at `path`, or it has no such signature; the message lists those it has.

    Example:
        >>> distiller = Distiller(student=student, teacher=SavedModel("teacher/1", head="softmax"))
    """

    def __init__(
        self,
        path: str,
        signature: str | None = None,
        preprocess: Callable[[Tensors], Tensors] | None = None,
        head: str | dict[str, str] = "auto",
    ) -> None:
        super().__init__(name="saved_model")
        self._path = str(path)  # a layer has a `path` already
        self.signature = _find_signature(self._path, signature)
        layer = keras.layers.TFSMLayer(self._path, call_endpoint=self.signature, trainable=False)
        self._frozen = Frozen(layer, preprocess, head)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "path": self._path,
            "signature": self.signature,
            "preprocess": keras.saving.serialize_keras_object(self._frozen.preprocess),
            "head": self._frozen.head,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SavedModel":
        """Make a teacher from `get_config`'s dict."""
        return cls(**{**config, "preprocess": keras.saving.deserialize_keras_object(config["preprocess"])})


class _File(AroundFrozen):
    """Run a file by its own runtime, on the processor, as a frozen teacher; see `ONNX` and `LiteRT`."""

    kind_of_file: ClassVar[str]

    def __init__(
        self,
        path: str | pathlib.Path,
        outputs: Sequence[str],
        preprocess: Callable[[Tensors], Tensors] | None,
        head: str | dict[str, str],
        how_to_open: dict[str, Any],
    ) -> None:
        if isinstance(outputs, str):
            raise TypeError(
                f"Expected `outputs` to be names in a list, as in outputs=[{outputs!r}]. Received: {outputs!r}"
            )
        super().__init__(name=self.kind_of_file)
        self._path = str(path)  # a layer has a `path` already
        self.outputs = tuple(outputs)
        self.how_to_open = how_to_open
        run = functools.partial(_run, _Runtime(self.kind_of_file, self._path, self.outputs, how_to_open))
        self._frozen = Frozen(OfArrays(run), preprocess, head)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        preprocess = keras.saving.serialize_keras_object(self._frozen.preprocess)
        given = {"path": self._path, "outputs": self.outputs, "preprocess": preprocess, "head": self._frozen.head}
        return {**given, **self.how_to_open}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make a teacher from `get_config`'s dict."""
        return cls(**{**config, "preprocess": keras.saving.deserialize_keras_object(config["preprocess"])})


@serializable
class ONNX(_File):
    """Run an ONNX file, of PyTorch, scikit-learn or any other origin, as a frozen teacher; needs `keras_kd[onnx]`.

    TensorFlow waits for onnxruntime in each step. Where it takes longer than the student, let it run once:
    `teachers.InMemory(ONNX(path))`, or a `TeacherCache`. A file that was exported for a fixed number of examples is
    given that many at a time.

    Args:
        path: of the file.
        outputs: names of those of its outputs to read; empty for all. A single one is "logits"; of several, each has
            its own name.
        preprocess: a function from the batch's x to what the file reads, computed with TensorFlow, as to move the
            channels of images to the front: an array, or a dict with the names of the file's inputs.
        head: what its outputs mean, see `teachers.Frozen`; a file does not contain it, so "auto" takes them as logits.
        providers: what onnxruntime runs it on, in the order of preference, such as `["CUDAExecutionProvider"]`: names,
            or pairs of a name and a dict of options. None: what onnxruntime takes by itself, in most of its packages
            the processor.

    Raises:
        ImportError: onnxruntime is not installed.
        TypeError: `outputs` is one name, not in a list.
        ValueError: there is no such file at `path`, it has no such output, or onnxruntime no such provider; in a step:
            other inputs than it has.

    Example:
        >>> teacher = ONNX("teacher.onnx", preprocess=lambda x: tf.transpose(x, (0, 3, 1, 2)))
    """

    kind_of_file = "onnx"

    def __init__(
        self,
        path: str | pathlib.Path,
        outputs: Sequence[str] = (),
        preprocess: Callable[[Tensors], Tensors] | None = None,
        head: str | dict[str, str] = "auto",
        providers: model_files.Providers | None = None,
    ) -> None:
        _check_providers(providers)
        super().__init__(path, outputs, preprocess, head, {"providers": providers})


@serializable
class LiteRT(_File):
    """Run a LiteRT file (`.tflite`) as a frozen teacher; needs `keras_kd[litert]`.

    Args:
        path: of the file.
        outputs: see `ONNX`.
        preprocess: see `ONNX`.
        head: see `ONNX`.

    Raises:
        ImportError: LiteRT is not installed.
        ValueError: see `ONNX`.

    Example:
        >>> distiller = Distiller(student=student, teacher=LiteRT("teacher.tflite", head="softmax"))
    """

    kind_of_file = "litert"

    def __init__(
        self,
        path: str | pathlib.Path,
        outputs: Sequence[str] = (),
        preprocess: Callable[[Tensors], Tensors] | None = None,
        head: str | dict[str, str] = "auto",
    ) -> None:
        super().__init__(path, outputs, preprocess, head, {})


class _Runtime:
    """A file that is open, and what distinguishes it from others.

    Args:
        kind: of the file.
        path: of the file.
        outputs: names of outputs; none for all.
        how_to_open: further arguments of `model_files.open_file`.
    """

    def __init__(self, kind: str, path: str, outputs: tuple[str, ...], how_to_open: dict[str, Any]) -> None:
        if not pathlib.Path(path).is_file():
            raise ValueError(f"Expected `path` to be a file. Received: path={path!r}, which is none.")
        self.digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
        try:
            self.opened = model_files.open_file(kind, path, **how_to_open)
        except ImportError:
            raise
        except Exception as error:  # each runtime has its own
            raise ValueError(f"Expected a file for the runtime of {kind}. Received: {path!r}: {error}") from error
        known = self.opened.names
        unknown = [name for name in outputs if name not in known]
        if unknown:
            raise ValueError(f"Expected `outputs` to be among those of {path!r}, {list(known)}. Received: {unknown}")
        self.outputs = outputs or known

    def get_config(self) -> dict[str, Any]:
        """Return what is compared with the teacher of a cache."""
        return {"digest": self.digest}


def _check_providers(providers: model_files.Providers | None) -> None:
    """Refuse a provider that onnxruntime does not have: it would run on the processor, with a warning."""
    known = model_files.onnxruntime_module().get_available_providers()
    names = [each if isinstance(each, str) else each[0] for each in providers or ()]
    if not set(names) <= set(known):
        raise ValueError(
            f"Expected `providers` to be among those of the onnxruntime that is installed, {known}. Received: {names}. "
            "For those of GPUs, install onnxruntime-gpu in its place."
        )


def _run(runtime: _Runtime, x: Any) -> Any:
    """Return the one output that is read, or all of these by name."""
    found = dict(zip(runtime.opened.names, runtime.opened(x), strict=True))
    read = {name: found[name] for name in runtime.outputs}
    return next(iter(read.values())) if len(read) == 1 else read


def _find_signature(path: str, name: str | None) -> str:
    if not tf.saved_model.contains_saved_model(path):
        raise ValueError(f"Expected `path` to be the folder of a SavedModel. Received: path={path!r}, which is none.")
    loaded = tf.saved_model.load(path)
    endpoints = {name for name in dir(loaded) if not name.startswith("_") and _is_function(getattr(loaded, name))}
    known = sorted({*loaded.signatures, *endpoints})
    candidates = [name] if name is not None else ["serve", "serving_default"]
    found = [name for name in candidates if name in known]
    if not found:
        raise ValueError(
            f"Expected the SavedModel at {path!r} to have the signature {' or '.join(map(repr, candidates))}. "
            f"It has: {known}. Name one of those with `signature`."
        )
    return found[0]


def _is_function(value: Any) -> bool:
    return hasattr(value, "get_concrete_function")  # what a SavedModel restores has no public class
