"""What it costs a language model to generate: tokens a second, and the memory of what it has read."""

import functools
from typing import Any

import numpy as np

from keras_kd._internal import raw_views, text_bytes
from keras_kd._keras import generation
from keras_kd._types import Tensors
from keras_kd.runtimes import timing

#: Timed calls of each model; each generates a batch of whole texts.
_ROUNDS = 10

#: Of each text, this part is the prompt.
_PROMPT = 0.25


def of(models: dict[str, Any], x: Tensors) -> dict[str, dict[str, Any]]:
    """Return "tokens_per_second" and "cache_bytes" of the models that generate texts, by name.

    The prompts, or the first quarter of each text, are given, and all are continued at once, up to the length that a
    model's preprocessor has, whatever ends a text; the sampler is the one with which the model was compiled. What
    counts is what is generated. The cache is that of one text; None where the model does not tell.

    Args:
        models: by name.
        x: a batch of texts, or anything else, for which no model generates.
    """
    tasks = {name: model for name, model in models.items() if _generates(model) and raw_views.has_text(x)}
    if not tasks:
        return {}
    prompts = _prompts(x)
    calls: dict[str, Any] = {
        name: functools.partial(task.generate, prompts, stop_token_ids=None) for name, task in tasks.items()
    }
    taken = timing.in_turns(calls, _ROUNDS, warm_up=1)
    return {
        name: {
            "tokens_per_second": _generated(task, prompts) / float(np.median(taken[name])),
            "cache_bytes": generation.cache_bytes(task, task.preprocessor.sequence_length),
        }
        for name, task in tasks.items()
    }


def _prompts(x: Any) -> Any:
    if isinstance(x, dict):
        return {"prompts": text_bytes.strings(x["prompts"])}
    return [text[: max(1, round(_PROMPT * len(text)))] for text in text_bytes.strings(x)]


def _generates(model: Any) -> bool:
    return callable(getattr(model, "generate", None)) and raw_views.is_per_token(model)


def _generated(task: Any, prompts: Any) -> int:
    """Return how many tokens are not of the prompts."""
    given = np.array(task.preprocessor.generate_preprocess(prompts)["padding_mask"])
    return int(given.size - given.sum())
