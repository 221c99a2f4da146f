"""How likely texts are under a model, and what a text weighs by a score."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_kd._internal import soft_targets
from keras_kd._types import Tensors
from keras_kd.language.decoding import next_logits
from keras_kd.language.rollout_rows import Rows
from keras_kd.losses._divergences import label_log_probability
from keras_kd.teachers import as_teacher
from keras_kd.teachers.base import AnyTeacher, Teacher

#: Returns a number for each text, (texts,), of x, y and sample_weight as `language.completions` returns them.
Score = Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], Any]


def mean_log_probability(model: AnyTeacher, x: Tensors, y: Any, sample_weight: Any, batch_size: int = 32) -> np.ndarray:
    """Return how likely each text is under a model: the mean over its n learned tokens of log p(y_t).

    A token is learned where `sample_weight` is above 0. The exponential of the result, from 0 to 1, is the geometric
    mean of the probabilities, which makes a weight of a text: see `score` of `Rollouts`.

    Args:
        model: a causal language model, a teacher of one, or a list of these, whose probabilities are averaged.
        x: token ids, (texts, tokens), or a dict of "token_ids" and "padding_mask", as `completions`, `generate` and
            `Rollouts` have it.
        y: the tokens that follow, (texts, tokens).
        sample_weight: above 0 where they are learned, (texts, tokens).
        batch_size: texts that the model reads at a time.

    Returns:
        Mean log-probability at T = 1, in nats, (texts,), float32; 0 of a text without a learned token.

    Example:
        >>> made = generate(student, prompts, length=64, temperature=1.0)
        >>> mean_log_probability(teacher, made.x, made.y, made.sample_weight)
    """
    teacher, x = as_teacher(model), soft_targets.without_targets(x)
    ids = np.asarray(x["token_ids"] if isinstance(x, dict) else x)
    mask = np.asarray(x["padding_mask"]) if isinstance(x, dict) else np.ones(ids.shape, bool)
    learned, labels = np.asarray(sample_weight) > 0, np.asarray(y)
    found = np.zeros(len(ids), "float32")
    for first in range(0, len(ids), batch_size):
        part = slice(first, first + batch_size)
        values = np.where(learned[part], log_probabilities(teacher, ids[part], mask[part], labels[part]), 0.0)
        found[part] = values.sum(axis=1) / np.maximum(learned[part].sum(axis=1), 1)
    return found


def log_probabilities(model: Teacher, ids: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the logarithm of the probability of each next token, (rows, width)."""
    logits = next_logits(model, ops.convert_to_tensor(ids), ops.convert_to_tensor(mask))
    return np.asarray(label_log_probability(ops.cast(logits, "float32"), ops.convert_to_tensor(labels)))


def weigh(rows: Rows, places: np.ndarray, score: Score | None) -> None:
    """Multiply the weights of all tokens of some rows by their score, if there is one.

    Raises:
        ValueError: a score that is not one number from 0 on for each row.
    """
    if score is None or not len(places):
        return
    x = {"token_ids": rows.token_ids[places], "padding_mask": rows.padding_mask[places]}
    found = np.asarray(score(x, rows.y[places], rows.sample_weight[places]), "float32")
    wrong = found[~(np.isfinite(found) & (found >= 0))]
    if found.shape != (len(places),) or wrong.size:
        raise ValueError(
            f"Expected `score` to return a finite number from 0 on for each text, ({len(places)},). Received: "
            f"{found.shape}" + (f", with {wrong[0]}." if wrong.size else ".")
        )
    rows.sample_weight[places] *= found[:, None]
