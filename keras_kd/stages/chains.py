"""Chains of models in which each learns from the one before: assistants between two sizes, generations of one."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_kd._internal import layer_reader
from keras_kd._internal.cloning import narrower
from keras_kd.distiller import Distiller
from keras_kd.stages.peers import graph_of, like_inputs
from keras_kd.stages.pipeline import Pipeline, Record
from keras_kd.teachers.base import AnyTeacher
from keras_kd.term import Term

#: Makes the terms of a stage from its student and its teacher.
MakeTerms = Callable[[keras.Model, AnyTeacher], Sequence[Term]]


def teacher_assistants(
    teacher: AnyTeacher,
    assistants: Sequence[keras.Model] | int,
    student: keras.Model,
    *,
    compile_arguments: dict[str, Any],
    fit_arguments: dict[str, Any],
    terms: MakeTerms | None = None,
    folder: Any = None,
    seed: int = 0,
) -> tuple[keras.Model, Record]:
    """Distil along a chain, teacher -> assistants -> student, where the gap between the two ends is too wide.

    Args:
        teacher: a trained model or teacher.
        assistants: models, large to small; or how many: then they are made from the teacher, a Functional or Sequential
            model, with fewer units and filters in each layer, so that the sizes of the chain go down by equal ratios.
        student: the last in the chain.
        compile_arguments: see the module.
        fit_arguments: see the module.
        terms: makes the terms of each stage from (student, teacher); None for plain distillation.
        folder: see the module.
        seed: see the module.

    Returns:
        The trained student, and the record with one stage for each link.

    Raises:
        ValueError: a teacher that assistants cannot be made from.

    Example:
        >>> student, record = teacher_assistants(teacher, 2, student, compile_arguments=..., fit_arguments=...)

    Reference: Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, 2019, arXiv 1902.03393.
    """
    pipeline = Pipeline(compile_arguments, fit_arguments, folder, seed)
    if isinstance(assistants, int):
        pipeline.next_seed()
        assistants = _assistants(teacher, assistants, student)
    _check_chain([teacher, *assistants, student])
    for model in (*assistants, student):
        pipeline.next_seed()
        distiller = _distiller(model, teacher, terms)
        pipeline.run(model, _name(teacher), distiller)
        teacher = model
    return student, pipeline.record


def born_again(
    build_student: Callable[[], keras.Model],
    generations: int,
    teacher: AnyTeacher | None = None,
    *,
    compile_arguments: dict[str, Any],
    fit_arguments: dict[str, Any],
    terms: MakeTerms | None = None,
    folder: Any = None,
    seed: int = 0,
) -> tuple[keras.Model, Record]:
    """Train one architecture several times, each generation from fresh weights and from the one before.

    Args:
        build_student: returns the model with fresh weights each time that it is called.
        generations: how many, at least 1.
        teacher: of the first generation; None lets it learn from the labels alone.
        compile_arguments: see the module.
        fit_arguments: see the module.
        terms: makes the terms of each stage from (student, teacher); None for plain distillation.
        folder: see the module.
        seed: see the module.

    Returns:
        The last generation, and the record; `averaged([stage.model for stage in record])` is all of them as one.

    Raises:
        ValueError: `generations` below 1; two generations start from the same weights.

    Example:
        >>> student, record = born_again(build, 3, compile_arguments=..., fit_arguments=...)

    Reference: Furlanello et al., Born-Again Neural Networks, 2018, arXiv 1805.04770.
    """
    if generations < 1:
        raise ValueError(f"Expected `generations` to be at least 1. Received: generations={generations}")
    pipeline = Pipeline(compile_arguments, fit_arguments, folder, seed)
    before: list[np.ndarray] = []
    for _ in range(generations):
        pipeline.next_seed()
        student = build_student()
        fresh = student.get_weights()
        if before and all(np.array_equal(a, b) for a, b in zip(before, fresh, strict=True)):
            raise ValueError(
                "Expected `build_student` to give fresh weights. It gave the same ones twice: build the model anew in "
                "it, without a `seed` in its initializers."
            )
        before = fresh
        distiller = None if teacher is None else _distiller(student, teacher, terms)
        pipeline.run(student, "labels" if teacher is None else _name(teacher), distiller)
        teacher = student
    return student, pipeline.record


def averaged(models: Sequence[keras.Model]) -> keras.Model:
    """Return one model whose probabilities are the average of those of several models, as logits.

    Args:
        models: Functional or Sequential models with the same inputs and classes, each ending in logits or a softmax.

    Returns:
        A plain Keras model from their inputs to log-probabilities, (..., classes).

    Raises:
        ValueError: no models; a model without a graph.

    Example:
        >>> keras_kd.export(averaged([stage.model for stage in record]), "ensemble/1")
    """
    if not models:
        raise ValueError("Expected at least one model. Received none.")
    graphs = [graph_of(model, "models") for model in models]
    inputs = like_inputs(graphs[0])
    members = []
    for number, graph in enumerate(graphs, start=1):
        softmax = layer_reader.Reader(graph).kind("logits") == "softmax"
        member = keras.Model(graph.input, graph.output, name=f"member_{number}")(inputs)
        members.append(member if softmax else keras.layers.Softmax()(member))
    mean = keras.layers.Average()(members) if len(members) > 1 else members[0]
    # A probability that was rounded to 0 keeps the logarithm of the smallest float32.
    return keras.Model(inputs, ops.log(ops.maximum(mean, np.finfo("float32").tiny)), name="averaged")


def _distiller(student: keras.Model, teacher: AnyTeacher, terms: MakeTerms | None) -> Distiller:
    return Distiller(student=student, teacher=teacher, terms=None if terms is None else terms(student, teacher))


def _name(teacher: Any) -> str:
    return (
        " + ".join(map(_name, teacher)) if isinstance(teacher, (list, tuple)) else getattr(teacher, "name", "function")
    )


def _assistants(teacher: Any, count: int, student: keras.Model) -> list[keras.Model]:
    """Make models between teacher and student, whose sizes go down by equal ratios."""
    if layer_reader.functional(teacher) is None:
        raise ValueError(
            f"Expected a built Functional or Sequential teacher, to make {count} assistants from. Received: "
            f"{teacher!r}. Give the assistants as models."
        )
    large, small = teacher.count_params(), student.count_params()
    sizes = [large * (small / large) ** (number / (count + 1)) for number in range(1, count + 1)]
    return [narrower(teacher, size, name=f"assistant_{number}") for number, size in enumerate(sizes, start=1)]


def _check_chain(chain: list[Any]) -> None:
    for above, below in zip(chain, chain[1:], strict=False):
        if isinstance(above, keras.Model) and below.count_params() > above.count_params():
            warnings.warn(
                f"Expected each model of the chain to be smaller than the one it learns from. {below.name!r} has "
                f"{below.count_params():,} parameters, {above.name!r} {above.count_params():,}.",
                stacklevel=3,
            )
