"""What makes a run likely to lose to the labels alone, and shows in a few batches: labels, masks, gradients, steps."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_kd import schedules
from keras_kd._internal import raw_views
from keras_kd._internal.batches import Batch
from keras_kd._internal.number_formats import percent
from keras_kd._internal.output_labels import of_output
from keras_kd._keras import compiled, layer_tree, masks
from keras_kd.objective import Objective
from keras_kd.preflight.check_report import Report
from keras_kd.teachers.cached import Cached
from keras_kd.teachers.in_memory import InMemory
from keras_kd.term import Term

#: Under Adam at its learning rate of 1e-3, a distilled student is behind its labels for about so many steps times the
#: temperature, see examples/benchmarks/short_runs.py; at other rates for in inverse proportion as many.
_STEPS, _RATE = 50, 1e-3

#: At lower temperatures, and with less of the teacher, it is behind by little or not at all.
_SOFT, _MOSTLY_TEACHER = 3.0, 0.5

#: A share of ignored labels above this is no accident.
_MANY = 0.05


def advise(report: Report, distiller: Any, batches: list[Batch], steps: int | None) -> None:
    """Add advice to a report.

    Args:
        report: of the check.
        distiller: compiled, with its teacher.
        batches: to look at.
        steps: of the run, or None where that is not known.
    """
    found = [
        _too_few_steps(distiller, steps),
        *(advice for term in distiller.terms for advice in _about_labels(distiller, term, batches)),
        *_of_other_tokens(distiller),
        *_unmasked(distiller, batches[0]),
        *_without_gradient(distiller, batches[0]),
    ]
    report.advice.extend(each for each in found if each)


def _too_few_steps(distiller: Any, steps: int | None) -> str:
    optimizer = getattr(distiller.optimizer, "inner_optimizer", distiller.optimizer)
    if steps is None or not isinstance(optimizer, keras.optimizers.Adam):
        return ""
    temperature = max(float(schedules.first(_temperature(distiller, term))) for term in distiller.terms)
    alpha = float(schedules.first(distiller.alpha))
    needed = _STEPS * temperature * _RATE / max(float(optimizer.learning_rate), 1e-12)
    if temperature < _SOFT or alpha < _MOSTLY_TEACHER or alpha == 1.0 or steps >= needed:
        return ""
    return (
        f"The run has {steps:,} steps. At temperature={temperature:g}, alpha={alpha:g}, a student begins by learning "
        f"how large its logits have to be, and is mostly behind its labels alone for the first {needed:,.0f} or so: "
        "train longer, at a larger learning rate, or at a temperature of 1 to 2."
    )


def _temperature(distiller: Any, term: Term) -> Any:
    if not (Objective(distiller).softens(term) if term.soften is None else term.soften):
        return 1.0
    return distiller.temperature if term.temperature is None else term.temperature


def _about_labels(distiller: Any, term: Term, batches: list[Batch]) -> list[str]:
    reader, found = distiller._untracked.reader, []
    known, (name, *others) = reader.specs or {}, term.student_names
    if others or name not in known or reader.kind(name) == "values":
        return []
    try:
        labels = [of_output(term, reader, known, y) for _, y, _ in batches]
    except ValueError:  # `fit` raises it
        return []
    if any(each is None for each in labels):
        return []
    arrays = [np.asarray(each) for each in labels]
    classes: int = known[name].shape[-1] or 0
    if _are_mixed(arrays, classes) and (term.needs_labels or isinstance(distiller.teacher, Cached)):
        found.append(
            f"The labels are mixed, as by MixUp, and the term {term.name!r} "
            + (
                "takes the largest of each row for the label: methods.kd reads none."
                if term.needs_labels
                else "learns from targets that are joined: mix them with their examples, or let the teacher run live."
            )
        )
    share = _ignored_share(distiller, term, arrays)
    if share > _MANY and term.sample_weight == "auto" and arrays[0].ndim < len(known[name].shape):
        found.append(
            f"The loss ignores {percent(share)} of the labels, and with them the term {term.name!r} what the teacher "
            "predicts there. To learn from it, as for examples without labels: Term(..., sample_weight=None)."
        )
    return found


def _are_mixed(labels: list[np.ndarray], classes: int) -> bool:
    """Return whether rows of labels are probabilities of which the largest is not the same in all, as in smoothing."""
    if any(each.ndim < 2 or each.shape[-1] != classes or classes < 2 or each.dtype.kind != "f" for each in labels):
        return False
    rows = np.concatenate([each.reshape(-1, classes) for each in labels])
    largest = rows.max(-1)
    return bool(np.allclose(rows.sum(-1), 1.0, atol=1e-3) and np.ptp(largest) > 1e-3 and largest.min() < 1 - 1e-3)


def _ignored_share(distiller: Any, term: Term, labels: list[np.ndarray]) -> float:
    loss = distiller.loss
    loss = loss.get(term.student_names[0]) if isinstance(loss, dict) else loss
    ignored = compiled.ignored_class(loss)
    # Of the positions of a sequence, those that a loss ignores are what the student is not to learn.
    if ignored is None or any(np.squeeze(each).ndim > 1 for each in labels):
        return 0.0
    return float(np.mean(np.concatenate([each.ravel() for each in labels]) == ignored))


def _of_other_tokens(distiller: Any) -> list[str]:
    """Return advice for each term that compares features of tokens, of models with tokenizers that differ."""
    teacher = distiller.teacher.teacher if isinstance(distiller.teacher, InMemory) else distiller.teacher
    ours, theirs = raw_views.tokenizer(distiller.student), raw_views.tokenizer(getattr(teacher, "model", None))
    if ours is None or theirs is None or raw_views.vocabulary(ours) == raw_views.vocabulary(theirs):
        return []
    known = distiller._untracked.reader.specs or {}
    return [
        f"The term {term.name!r} compares features token by token, and the two tokenizers differ: a position is "
        "another piece of the text for each model. Compare what describes the whole text, as a pooled layer does, or "
        "pool with a `transform`."
        for term in distiller.terms
        if isinstance(term.at, tuple) and term.transform is None
        if any(len(known[name].shape) > 2 for name in term.student_names if name in known)
    ]


def _unmasked(distiller: Any, batch: Batch) -> list[str]:
    """Return advice where a mask is made, and neither it nor weights reach the positions that a term compares."""
    x, _, sample_weight = batch
    known = distiller._untracked.reader.specs or {}
    outputs = [known[name] for term in distiller.terms for name in term.student_names if name in known]
    if sample_weight is not None or not any(len(each.shape) == 3 and masks.of(each) is None for each in outputs):
        return []
    makers = [layer.name for layer in layer_tree.all_layers(distiller.student) if _makes_mask(layer)]
    if makers:
        return [
            f"The student's layer {makers[0]!r} makes a mask, and a layer behind it drops it, as Conv1D does, so "
            "that padding counts in the loss and in the terms. Give `sample_weight` of 0 for padded positions."
        ]
    padding = x.get("padding_mask") if isinstance(x, dict) else None
    if padding is not None and not np.all(np.asarray(padding)):
        return [
            "x has a 'padding_mask', and the student's outputs have no mask of Keras's, so that padding counts in the "
            "loss and in the terms. Give it as `sample_weight` as well."
        ]
    return []


def _makes_mask(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Masking) or bool(getattr(layer, "mask_zero", False))


def _without_gradient(distiller: Any, batch: Batch) -> list[str]:
    """Return advice for each term that moves no weight, though it is not 0."""
    weights = distiller.trainable_variables
    names = [term.name for term in distiller.terms]

    def run(x: Any, y: Any, sample_weight: Any) -> tuple[list[Any], list[Any]]:
        with tf.GradientTape(persistent=True) as tape:
            parts = distiller.objective(x, y, sample_weight)
        found = []
        for name in names:
            slopes = [each for each in tape.gradient(parts[name], weights) if each is not None]
            found.append(sum((tf.reduce_sum(tf.abs(_dense(each))) for each in slopes), tf.zeros(())))
        return [parts[name] for name in names], found

    step: Callable[..., Any] = run if distiller.run_eagerly else tf.function(run)
    values, slopes = tree.map_structure(float, step(*batch))
    return [
        f"The term {name!r} is {value:.3g} and has no gradient: no weight of the student changes it. Read a layer that "
        "is trained, by a loss that can be differentiated."
        for name, value, slope in zip(names, values, slopes, strict=True)
        if slope == 0.0 and abs(value) > 1e-6
    ]


def _dense(gradient: Any) -> Any:
    return tf.cast(gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient, "float32")
