"""The tokens of prompts, and how many a model reads, for all that continues them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_kd._internal import raw_views
from keras_kd.teachers.base import Teacher


def of(teacher: Teacher, prompts: Sequence[Any]) -> list[np.ndarray]:
    """Return the token ids of each prompt.

    Raises:
        ValueError: no prompts, or an empty one.
        TypeError: texts for a model without a tokenizer.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if texts:
        prompts = _of_texts(teacher, prompts)
    rows = [np.asarray(prompt) for prompt in prompts]
    wrong = [number for number, row in enumerate(rows) if row.ndim != 1 or not len(row) or row.dtype.kind not in "iu"]
    if wrong or not rows:
        raise ValueError(
            "Expected prompts of one token id or more each, without padding. Received "
            + (f"{prompts[wrong[0]]!r} as prompt {wrong[0]}." if wrong else "no prompts.")
        )
    return [row.astype("int32") for row in rows]


def _of_texts(teacher: Any, prompts: Sequence[Any]) -> list[np.ndarray]:
    """Return what the preprocessor of a task makes of texts, whatever their length."""
    tokenizer = raw_views.tokenizer(getattr(teacher, "model", None))
    if tokenizer is None or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(
            f"Expected token ids, or texts alone for a task of KerasHub with its preprocessor. Received {prompts[0]!r}."
        )
    longest = max(len(each) for each in tokenizer(list(prompts)))
    made = teacher.model.preprocessor.generate_preprocess(list(prompts), sequence_length=longest + 2)  # and a start
    ids, mask = (np.asarray(made[name]) for name in ("token_ids", "padding_mask"))
    return [row[present] for row, present in zip(ids, mask.astype(bool), strict=True)]


def stop_ids(teacher: Any, stop_ids: Sequence[int] | None) -> tuple[int, ...]:
    """Return the tokens that end a completion: those given, or the end tokens of a task's own tokenizer."""
    if stop_ids is not None:
        return tuple(int(each) for each in stop_ids)
    tokenizer = raw_views.tokenizer(getattr(teacher, "model", None))
    # Some tokenizers have a second one, as those of Llama 3.
    ends = [getattr(tokenizer, name, None) for name in ("end_token_id", "end_token2_id")]
    return tuple(int(each) for each in ends if each is not None)


def _limit(teacher: Any) -> int | None:
    """Return how many tokens a model reads at most, where it declares that."""
    model = getattr(teacher, "model", None)
    declared = getattr(getattr(model, "backbone", None), "max_sequence_length", None)
    if declared is not None:
        return int(declared)
    inputs = getattr(model, "inputs", None)
    return inputs[0].shape[1] if inputs else None


def width(teacher: Any, needed: int) -> int:
    """Return how many tokens a model is given: all that it takes where these are fixed."""
    inputs = getattr(getattr(teacher, "model", None), "inputs", None)
    fixed = inputs[0].shape[1] if inputs else None
    return needed if fixed is None else fixed


def check_fit(teacher: Any, prompts: list[np.ndarray], length: int) -> None:
    """Refuse prompts that are too long for the model with a completion of `length` tokens behind them.

    Refused is, too, a teacher that does not predict each token: it scores text, and cannot write.
    """
    if teacher.named("logits") is not None:
        raise ValueError(
            f"Expected a model that predicts each token, to write text with. {teacher.name!r} names the "
            f"{teacher.named('logits')} most probable ones. Let the student write, or take what the server has written "
            "as prompts and answers: keras_kd.language.completions."
        )
    limit = _limit(teacher)
    longest = max(map(len, prompts))
    if limit is not None and longest + length > limit:
        raise ValueError(
            f"Expected prompts and completions of at most {limit} tokens together, which {teacher.name!r} reads. "
            f"Received prompts of up to {longest} and length={length}. Lower `length`, or leave out long prompts."
        )
