"""A method for detectors of KerasHub that predict for anchors: RetinaNet."""

from typing import Any

import keras

from keras_kd import losses
from keras_kd._internal.term_names import At
from keras_kd._types import Schedule
from keras_kd.teachers.backbone_features import model_of
from keras_kd.term import Term

#: The outputs of such a detector, by their names.
_CLASSES, _BOXES = "cls_logits", "bbox_regression"

#: What decides where an anchor is.
_ANCHORS = ("min_level", "max_level", "num_scales", "aspect_ratios", "anchor_size")

#: What decides what a box's four numbers mean.
_ENCODING = ("encoding_format", "box_variance")


def detector(
    student: keras.Model,
    teacher: Any,
    class_weight: Schedule = 1.0,
    box_weight: Schedule = 1.0,
    neck_weight: Schedule = 1.0,
    threshold: Schedule = 0.5,
) -> list[Term]:
    """Learn a teacher's classes, boxes and feature pyramid, where it is sure of objects. Compile with alpha=0.5.

    Anchors count for the classes by the teacher's highest class probability, as in FRS, and for the boxes where that is
    above a threshold; the maps of the pyramid are compared by the correlation of their channels (PKD). The labels' part
    is the student's own `compute_loss`, which sums up over what it has matched with objects; all terms are means, at a
    temperature of 1. For a `TeacherCache`, `taps=[name for term in terms for name in term.teacher_names]`.

    Args:
        student: a RetinaNet of KerasHub, or another detector with its outputs, anchors and feature pyramid.
        teacher: the same, with any backbone; or a `teachers.Frozen` of one with its `preprocess`.
        class_weight: weight of the classes' term, not negative.
        box_weight: weight of the boxes' term, not negative.
        neck_weight: weight of the term of each level of the pyramid, not negative; 10 in the authors' configuration of
            PKD for RetinaNet on COCO, where the student has no other term.
        threshold: probability from which on the teacher's boxes count, from 0 to 1.

    Returns:
        A list of terms, "foreground_classes", "foreground_boxes", and one for each level, as "neck_P3".

    Raises:
        TypeError: the teacher, or the student, is no model.
        ValueError: one is no such detector; other classes, anchors or encodings of boxes than the teacher's.

    Example:
        >>> distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.detector(student, teacher))
        >>> distiller.compile("adam", {"cls_logits": focal, "bbox_regression": huber}, alpha=0.5)

    Reference: Du et al., Distilling Object Detectors with Feature Richness, 2021, arXiv 2111.00674; Cao et al., PKD:
    General Distillation Framework for Object Detectors via Pearson Correlation Coefficient, 2022, arXiv 2207.02039.
    """
    learned = model_of(teacher, "teacher")
    for model, owner in ((student, "student"), (learned, "teacher")):
        _check_detector(model, owner)
    _check_pair(student, learned)
    boxes: At = {"student": _BOXES, "teacher": (_BOXES, _CLASSES)}
    named: dict[str, Any] = {"soften": False, "sample_weight": None}
    terms = [
        Term(losses.foreground_kl, at=_CLASSES, weight=class_weight, name="foreground_classes", **named),
        Term(losses.foreground_huber, boxes, box_weight, name="foreground_boxes", threshold=threshold, **named),
    ]
    for level in _levels(student):
        pair = (f"{_neck(student)}:{level}", f"{_neck(learned)}:{level}")
        terms.append(Term(losses.map_correlation, pair, neck_weight, name=f"neck_{level}", **named))
    return terms


def _check_detector(model: Any, owner: str) -> None:
    """Refuse what has no anchors, or other outputs."""
    if {_CLASSES, _BOXES} <= set(getattr(model, "output_names", ())) and hasattr(model, "anchor_generator"):
        return
    raise ValueError(
        f"Expected the {owner} to be a detector that predicts for anchors, as KerasHub's RetinaNetObjectDetector: with "
        f"an `anchor_generator`, and outputs {_CLASSES!r} and {_BOXES!r}. Received: {type(model).__name__} "
        f"{model.name!r} with the outputs {list(getattr(model, 'output_names', ()))}. The queries of a transformer, as "
        "D-FINE's, are in an order of each model's own, so that none of one belongs to one of the other."
    )


def _check_pair(student: Any, teacher: Any) -> None:
    """Refuse detectors whose outputs do not mean the same in the same place."""
    (anchors, classes), (other_anchors, other_classes) = (_shape(model)[1:] for model in (student, teacher))
    shapes = f"Received: student {_shape(student)}, teacher {_shape(teacher)}."
    if classes != other_classes:
        raise ValueError(
            f"Expected {_CLASSES!r} of the same classes, which are compared one by one. {shapes} Train the student's "
            "head for the teacher's classes."
        )
    if None not in (anchors, other_anchors) and anchors != other_anchors:
        raise ValueError(
            f"Expected {_CLASSES!r} and {_BOXES!r} of the same anchors, which are compared one by one: images of one "
            f"size, and one `anchor_generator`. {shapes}"
        )
    for what, part, names in (("anchors", "anchor_generator", _ANCHORS), ("encoding", "label_encoder", _ENCODING)):
        ours, theirs = ({name: getattr(getattr(one, part), name) for name in names} for one in (student, teacher))
        if ours != theirs:
            raise ValueError(
                f"Expected boxes of one {what}: the same numbers are another box elsewhere. Received: student {ours}, "
                f"teacher {theirs}. Give both models one `{part}`. {shapes}"
            )


def _shape(model: Any) -> tuple[int | None, ...]:
    """Return the shape of a detector's logits, (batch, anchors, classes)."""
    return tuple(model.outputs[list(model.output_names).index(_CLASSES)].shape)


def _levels(model: Any) -> list[str]:
    return [f"P{level}" for level in range(model.backbone.min_level, model.backbone.max_level + 1)]


def _neck(model: Any) -> str:
    """Return the name of the layer whose outputs are the levels of the feature pyramid."""
    return f"{model.backbone.name}/{model.backbone.feature_pyramid.name}"
