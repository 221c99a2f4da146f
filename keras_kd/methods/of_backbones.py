"""Methods for whole backbones, which learn from images alone."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_kd import bridges, losses
from keras_kd._internal import layer_reader
from keras_kd._types import Schedule, Shape
from keras_kd.methods._arguments import Pair, checked
from keras_kd.teachers import as_teacher
from keras_kd.teachers.backbone_features import Names, model_of, names_of, statistics_of
from keras_kd.term import Term


def backbone(
    student: keras.Model, teacher: Any, images: Any, weight: Schedule = 1.0, global_weight: Schedule = 1.0
) -> list[Term]:
    """Learn the features of a teacher's backbone from images alone, dense and global. Compile with alpha=1.

    The dense features are the last map, or the last tokens as the map of their patches; the global one is the token of
    the class where there is one, and the mean of the map elsewhere. The student's are projected to the teacher's
    channels and size, whose channels are standardised by their mean and variance over `images`: in a large backbone,
    few channels are hundreds of times as large as the others. The loss at each position is 0.9 of the cosine's and 0.1
    of the smooth L1 distance, that of the global features the cosine's, as in AM-RADIO; the channels are standardised
    as in Theia, here of the global features, too. The projection is a dense layer, trained with the student and not a
    part of it; both papers have larger ones.

    A classifier has features, too: those before its head. For a `TeacherCache`,
    `taps=[name for term in terms for name in term.teacher_names]`.

    Args:
        student: a Functional or Sequential model: a backbone of KerasHub or keras.applications, or one of your own.
        teacher: a Functional or Sequential model, or a `teachers.Frozen` of one with its `preprocess`.
        images: arrays, or batches, as for `fit`; of up to 1,024 of them the teacher's features are measured, once.
        weight: weight of the dense features' term, not negative.
        global_weight: weight of the global features' term, not negative.

    Returns:
        A list of two terms, "dense_features" and "global_features", each with a bridge of its own.

    Raises:
        TypeError: the teacher, or the student, is no model.
        ValueError: one has no graph, or neither maps nor tokens of images; no images.

    Example:
        >>> terms = kd.methods.backbone(student, teacher, images)
        >>> distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
        >>> distiller.compile("adam", alpha=1.0)
        >>> distiller.fit(images, epochs=100)

    Reference: Ranzinger et al., AM-RADIO: Agglomerative Vision Foundation Model, 2023, arXiv 2312.06709; Shang et al.,
    Theia: Distilling Diverse Vision Foundation Models for Robot Learning, 2024, arXiv 2407.20179.
    """
    (ours, our_shapes), (theirs, their_shapes) = _read(student, "student"), _read(teacher, "teacher")
    measured = statistics_of(as_teacher(teacher), theirs, images)
    kinds = (("dense_features", 0.9, weight), ("global_features", 1.0, global_weight))
    made = zip(kinds, ours, theirs, our_shapes, their_shapes, strict=True)
    return [
        Term(
            losses.StandardizedFeatures(measured[name].mean, measured[name].variance, cosine_share),
            at=(mine, name),
            weight=term_weight,
            bridge=_projection(our_shape, their_shape),
            name=term_name,
        )
        for (term_name, cosine_share, term_weight), mine, name, our_shape, their_shape in made
    ]


def dino(
    at: Sequence[Pair],
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    momentum: float = 0.9,
    weight: Schedule = 1.0,
) -> list[Term]:
    """Choose among the teacher's features as it does, each measured from its running mean (DINO). Compile with alpha=1.

    Images alone. The paper's features are the 65,536 outputs of a head that is trained with the teacher; downloaded
    backbones come without it, and their channels are read in its place: those of the token of the class, or the mean of
    a map, by "layer:global", and those of each patch by "layer:map".

    Args:
        at: pairs of layers, ("student_layer", "teacher_layer"), at least one.
        student_temperature: T of the student's side, above 0.
        teacher_temperature: T of the teacher's side, above 0; the authors' code goes from 0.04 to 0.07.
        momentum: of the running mean, 0 to below 1.
        weight: weight of each term, not negative.

    Returns:
        A list of one term per pair, each with a bridge, where shapes differ, and a running mean of its own.

    Raises:
        ValueError: no pairs; a number out of range.

    Example:
        >>> terms = kd.methods.dino([("top:global", "encoder:global"), ("top:map", "encoder:map")])

    Reference: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021, arXiv 2104.14294.
    """
    return [
        Term(
            losses.CenteredCrossEntropy(student_temperature, teacher_temperature, momentum),
            at=pair,
            weight=weight,
            bridge="auto",
            name=f"dino_{number}",
        )
        for number, pair in enumerate(checked(at), start=1)
    ]


def _read(backbone: Any, owner: str) -> tuple[Names, list[Shape]]:
    """Return the names of the dense and the global features of a backbone, and their shapes."""
    model = model_of(backbone, owner)
    names = names_of(model, owner)
    return names, [tuple(tensor.shape) for tensor in layer_reader.layer_outputs(model, names, owner)[1]]


def _projection(ours: Shape, theirs: Shape) -> Any:
    """Return a bridge with a dense layer, of equal shapes too: nothing that a ReLU returns is below 0."""
    return bridges.auto((*ours[:-1], None), theirs)
