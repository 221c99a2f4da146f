"""Image data sets for examples and tests: scikit-learn's embedded digits, and TensorFlow Datasets by name.

They are held in memory as NumPy arrays, so that an example is about distillation and not about input
pipelines. Nothing here is needed to distil: `Distiller.fit` takes whatever Keras takes.
"""

import dataclasses
import difflib
import os
import re
import socket
import types
import urllib.parse
import urllib.request
from typing import Any

import numpy as np

Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Labelled images of one size, in three parts, each a tuple (x, y).

    x is float32 in [0, 1], (n, height, width, channels); y is int32, (n,), from 0 to `classes - 1`.

    Attributes:
        name: the name that the data set was loaded by.
        train: what is left of the training split, shuffled, so that the first k examples are a fair sample.
        validation: the examples held out from the training split.
        test: the data set's own test split, in its own order.
        class_names: one name per class, in the order of the labels.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    class_names: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height, width and channels, as `keras.Input` takes them."""
        return self.train[0].shape[1:]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def load(name: str = "digits", *, validation: float = 0.1, seed: int = 0) -> Images:
    """Load a data set into memory, downloading it where it is not prepared yet.

    "digits" comes with scikit-learn: 1,797 images of 8 x 8 pixels, writer after writer. The last third is the
    test split, so that a model is tested on people it has not learned from.

    Any other name is looked up in TensorFlow Datasets, which keeps its files in `~/tensorflow_datasets`, or
    where the environment variable `TFDS_DATA_DIR` points. A pixel takes four bytes: Fashion-MNIST is 220 MB.

    Args:
        name: "digits", or an image-classification set of TensorFlow Datasets, as "fashion_mnist" or
            "emnist/letters", with images of one size, 8 bits a value, and a training and a test split.
        validation: the fraction of the training split to hold out, in (0, 1).
        seed: decides which examples are held out, and the order of the others. The test split does not
            depend on it.

    Returns:
        The images, as `Images`.

    Raises:
        ValueError: `validation` is out of range, the name is unknown, or the set is not of that kind.
        ImportError: the extra `data` is not installed.
        ConnectionError: the set is not prepared on this machine, and cannot be downloaded.

    Example:
        >>> digits = load("digits")
        >>> digits.input_shape, digits.classes, len(digits.test[0])
        ((8, 8, 1), 10, 599)
    """
    if not 0.0 < validation < 1.0:
        raise ValueError(f"Expected `validation` to be a fraction in (0, 1). Received: validation={validation!r}")
    train, test, scale, class_names = _digits() if name == "digits" else _from_tfds(name)
    order = np.random.default_rng(seed).permutation(len(train[0]))
    held_out = round(validation * len(order))
    return Images(
        name=name,
        train=_convert(train, order[held_out:], scale),
        validation=_convert(train, order[:held_out], scale),
        test=_convert(test, slice(None), scale),
        class_names=class_names,
    )


def _convert(part: Part, rows: np.ndarray | slice, scale: float) -> Part:
    x, y = part
    return np.divide(x[rows], scale, dtype=np.float32), y[rows].astype(np.int32)


def _digits() -> tuple[Part, Part, float, tuple[str, ...]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(_missing("scikit-learn", "digits")) from error
    digits = load_digits()
    x, y = digits.images[..., np.newaxis].astype(np.uint8), digits.target
    end = len(x) * 2 // 3
    return (x[:end], y[:end]), (x[end:], y[end:]), 16.0, tuple(str(name) for name in digits.target_names)


def _from_tfds(name: str) -> tuple[Part, Part, float, tuple[str, ...]]:
    try:
        import importlib_resources  # noqa: F401  TensorFlow Datasets needs it and does not declare it
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(_missing("tensorflow-datasets", name)) from error
    builder = _builder(tfds, name)
    _check_features(tfds, name, builder.info.features)
    if not builder.is_prepared():
        _download(name, builder)
    splits = sorted(builder.info.splits)
    if not {"train", "test"} <= set(splits):
        raise ValueError(
            f"Expected {name!r} to have the splits 'train' and 'test'. Received: {splits}. Choose another data set."
        )
    train, test = (_read(tfds, builder, split) for split in ("train", "test"))
    return train, test, 255.0, tuple(builder.info.features["label"].names)


def _builder(tfds: types.ModuleType, name: str) -> Any:
    """Return the builder of a data set, or raise an error that lists close names."""
    try:
        # Given here as well, because TensorFlow Datasets reads the variable only when it is imported.
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except ValueError:
        known = ["digits", *tfds.list_builders()]
        if re.split("[/:]", name)[0] in known:
            raise  # an unknown configuration: the error of TensorFlow Datasets lists the known ones
        close = difflib.get_close_matches(name.lower().replace("-", "_"), known)
        hint = f"Close matches: {close}." if close else "tensorflow_datasets.list_builders() lists them all."
        raise ValueError(
            f"Expected 'digits' or the name of a data set in TensorFlow Datasets. Received: {name!r}. {hint}"
        ) from None


def _check_features(tfds: types.ModuleType, name: str, features: Any) -> None:
    """Raise a `ValueError` unless a set holds labelled images of one size; needs no download."""
    kinds = {key: type(feature) for key, feature in features.items()}
    if kinds.get("image") != tfds.features.Image or kinds.get("label") != tfds.features.ClassLabel:
        raise ValueError(
            f"Expected {name!r} to be an image-classification set, with the features 'image' and 'label'. "
            f"Received: { {key: kind.__name__ for key, kind in kinds.items()} }. Choose another data set."
        )
    image = features["image"]
    if None in image.shape or image.np_dtype != np.uint8:
        raise ValueError(
            f"Expected the images of {name!r} to have one size and 8 bits a value. "
            f"Received: shape {image.shape}, where None varies, and {np.dtype(image.np_dtype).name}. "
            "Choose another data set, or resize the images in a tf.data pipeline of your own."
        )


def _download(name: str, builder: Any) -> None:
    """Download and prepare a data set, or raise a `ConnectionError` that names an alternative."""
    from requests import RequestException

    try:
        _require_resolvable({urllib.parse.urlsplit(url).hostname for url in builder.url_infos or ()})
        builder.download_and_prepare()
    except (socket.gaierror, RequestException) as error:
        raise ConnectionError(
            f"Expected {name!r} to be prepared, or its source to be reachable. "
            f"Received: nothing in {str(builder.data_dir)!r}, and no connection ({error}). "
            "Set TFDS_DATA_DIR to a folder that holds it, connect to the network, or use 'digits'."
        ) from error


def _require_resolvable(hosts: set[str | None]) -> None:
    """Raise a `socket.gaierror` if no host has an address: TensorFlow Datasets would retry for minutes."""
    if urllib.request.getproxies():
        return  # the proxy resolves names
    failure = None
    for host in hosts:
        try:
            socket.getaddrinfo(host, None)
            return
        except socket.gaierror as error:
            failure = error
    if failure is not None:
        raise failure


def _read(tfds: types.ModuleType, builder: Any, split: str) -> Part:
    wanted = tfds.decode.PartialDecoding({"image": True, "label": True})
    rows = builder.as_dataset(split=split, batch_size=-1, decoders=wanted)
    return rows["image"].numpy(), rows["label"].numpy()


def _missing(package: str, name: str) -> str:
    return f'The data set {name!r} needs {package}. It was not found: pip install "keras_kd[data]"'
