"""How good the features of a frozen backbone are: a linear probe, and nearest neighbours."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_kd._internal import batches
from keras_kd._internal.number_formats import count
from keras_kd._types import Tensor, Tensors
from keras_kd.evaluation import measures
from keras_kd.teachers import as_teacher
from keras_kd.teachers.backbone_features import model_of, names_of

#: How the lines of the table are shown.
_LINES = {
    "linear": measures.Measure("linear probe", measures.percent, 1),
    "nearest": measures.Measure("nearest neighbours", measures.percent, 1),
    "features": measures.Measure("features", count, 0),
}


@dataclasses.dataclass(frozen=True)
class Probes:
    """What `probe` found. It prints as a table, and shows itself in a notebook.

    Attributes:
        quality: by backbone, the accuracy of the "linear" probe and of the "nearest" neighbours, 0 to 1, and how many
            numbers its "features" are.
        neighbours: how many decide about an example.
        examples: how many were learned from, and how many tested.
    """

    quality: dict[str, dict[str, float]]
    neighbours: int
    examples: tuple[int, int]

    def as_table(self) -> measures.Table:
        """Return what is printed."""
        lines = [
            measures.line(measure, [each[name] for each in self.quality.values()]) for name, measure in _LINES.items()
        ]
        lines[1] = lines[1]._replace(title=f"{self.neighbours} {lines[1].title}")
        learned, tested = self.examples
        return measures.Table(f"{tested:,} examples, {learned:,} labels", list(self.quality), lines)

    def __str__(self) -> str:
        return measures.as_text(self.as_table())

    def _repr_html_(self) -> str:
        return measures.as_fragment([self.as_table()], "Accuracy of what is read off frozen features.")


def probe(backbones: dict[str, Any], train: Any, test: Any, *, neighbours: int = 20, batch_size: int = 256) -> Probes:
    """Measure how good the features of frozen backbones are, by classifiers that read nothing else.

    The features are the global one of `methods.backbone`: the token of the class, or the mean of the last map; of a
    classifier, what is before its head. The linear probe is scikit-learn's `LogisticRegression` on features that were
    brought to mean 0 and variance 1; the nearest neighbours are those with the largest cosine, and each has a vote. No
    backbone is trained or changed.

    Args:
        backbones: by the names that the table shows: Functional or Sequential models, or `teachers.Frozen` of one that
            has a `preprocess`.
        train: what the classifiers learn from: (x, y), arrays, or batches of (x, y), without an end neither; y are
            class ids, or one-hot.
        test: what they are tested on, as `train`.
        neighbours: how many decide about an example, from 1 to the number of examples of `train`.
        batch_size: of arrays; it does not change the numbers.

    Returns:
        A `Probes`: print it.

    Raises:
        TypeError: not models by name, or not data.
        ValueError: a model without maps or tokens; `neighbours` out of range.
        ImportError: scikit-learn, of the extra `data`, is not installed.

    Example:
        >>> print(kd.probe({"distilled": student, "random": fresh, "teacher": teacher}, (x, y), (x_test, y_test)))

    Reference: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021, arXiv 2104.14294 (20
    nearest neighbours and a linear probe as measures of a backbone; its neighbours' votes are weighted).
    """
    if not isinstance(backbones, dict) or not backbones:
        raise TypeError(
            f'Expected backbones by name, as {{"distilled": student}}. Received: {type(backbones).__name__}'
        )
    quality, examples = {}, (0, 0)
    for name, backbone in backbones.items():
        (x, y), (x_test, y_test) = (_features(name, backbone, data, batch_size) for data in (train, test))
        if not 1 <= neighbours <= len(x):
            raise ValueError(
                f"Expected `neighbours` to be from 1 to {len(x)}, the examples that there are. Received: {neighbours!r}"
            )
        found = {kind: float(each.fit(x, y).score(x_test, y_test)) for kind, each in _classifiers(neighbours).items()}
        quality[name], examples = {**found, "features": x.shape[-1]}, (len(x), len(x_test))
    return Probes(quality, neighbours, examples)


def _features(name: str, backbone: Any, data: Any, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and the class ids of all examples."""
    owner = f"backbone {name!r}"
    read, teacher = names_of(model_of(backbone, owner), owner).whole, as_teacher(backbone)
    teacher.bind(keras.Sequential(), (read,))
    run, features, labels = None, [], []
    for x, y, _ in batches.of(data, batch_size):
        x = tree.map_structure(tf.convert_to_tensor, x)
        run = run or _traced(lambda x: ops.cast(teacher(x, {})[read], "float32"), x)
        features.append(np.asarray(run(x)))
        labels.append(_ids(y))
    if not features:
        raise ValueError("Expected examples to probe a backbone with. Received none.")
    return np.concatenate(features), np.concatenate(labels)


def _traced(function: Callable[[Tensors], Tensor], x: Tensors) -> Any:
    """Return a function of batches as x, of any number of examples; concrete, or TensorFlow warns of several models."""
    spec = tree.map_structure(lambda leaf: tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype), x)
    return tf.function(function).get_concrete_function(spec)


def _ids(y: Any) -> np.ndarray:
    labels = np.asarray(y)
    return np.argmax(labels, axis=-1) if labels.ndim > 1 and labels.shape[-1] > 1 else labels.ravel()


def _classifiers(neighbours: int) -> dict[str, Any]:
    """Return an unfitted classifier for each kind of probe."""
    try:
        from sklearn import linear_model, neighbors, pipeline, preprocessing
    except ImportError as error:
        raise ImportError('A probe needs scikit-learn. It was not found: pip install "keras_kd[data]"') from error
    linear = linear_model.LogisticRegression(max_iter=2000)
    return {
        "linear": pipeline.make_pipeline(preprocessing.StandardScaler(), linear),
        "nearest": neighbors.KNeighborsClassifier(neighbours, metric="cosine"),
    }
