"""The head of each output that is compared: whether it has probabilities, and how a class is chosen."""

import dataclasses

import keras
import numpy as np

from keras_kd._internal import heads, layer_reader
from keras_kd.exporting.serving import THRESHOLD, Served, single, units_of


@dataclasses.dataclass(frozen=True)
class OutputHead:
    """What is known of an output.

    Attributes:
        probabilities: of a softmax or sigmoid.
        cut: where it is one class beside "none", the score from which it is chosen; else None.
    """

    probabilities: bool = False
    cut: float | None = None


def heads_of(student: keras.Model, widths: list[int]) -> list[OutputHead]:
    """Return what is known of each output.

    Args:
        student: what was exported.
        widths: units of each output.
    """
    if isinstance(student, Served):
        if student.requested is None and student.class_names is None:
            return heads_of(student.student, widths)
        kind, binary = student.requested or student.kind, "sigmoid" in (student.requested, student.kind)
        return [_head(kind, widths[0], student.cut if binary or student.class_names else None)]
    graph = layer_reader.functional(student)
    kinds = ["auto"] * len(widths) if graph is None else [heads.recognise(output) for output in graph.outputs]
    return [
        _head(kind, width, THRESHOLD if kind == "sigmoid" else None) for kind, width in zip(kinds, widths, strict=True)
    ]


def _head(kind: str, width: int, cut: float | None) -> OutputHead:
    return OutputHead(kind in ("softmax", "sigmoid"), cut if width == 1 else None)


def scores_of(student: keras.Model, outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return what is compared of an artefact's outputs: not the names, which go by its own scores.

    Args:
        student: what was exported.
        outputs: of all batches, each in the order of the interface.

    Raises:
        ValueError: a name is not that of the largest score.
    """
    if not isinstance(student, Served) or student.class_names is None:
        return outputs
    names = np.array([name.encode() for name in student.class_names])
    classes, scores = outputs[0::2], outputs[1::2]  # sorted, as the keys of a dict are
    for given, each in zip(classes, scores, strict=True):
        if not np.all((given == names[_chosen(student, each)]) | _undecided(student, each)):
            raise ValueError("a class that it names is not that of its largest score")
    return scores


def _chosen(student: Served, scores: np.ndarray) -> np.ndarray:
    one = units_of(scores.shape) == 1
    return (single(scores) >= student.cut).astype(int) if one else np.argmax(scores, -1)


def _undecided(student: Served, scores: np.ndarray) -> np.ndarray:
    """Return which scores of one unit are at the threshold: 8 bits round the threshold, too."""
    if units_of(scores.shape) != 1:
        return np.zeros(scores.shape[:-1], bool)
    step = max(abs(student.cut), float(np.max(np.abs(scores)))) / 100
    return np.abs(single(scores).astype("float32") - student.cut) <= step
