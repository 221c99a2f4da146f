"""Let models continue prompts while one of them is trained: each time as they are now."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_kd.language.decoding import Sampling, decoder
from keras_kd.teachers.base import Teacher


class Writer:
    """Continue prompts by what a model predicts now.

    What is traced once is used as long as the model has the same variables. Adapters (LoRA) and quantisation give it
    others, which a function that was traced before would not read: it is traced again then.

    Args:
        model: as a teacher.
        sampling: how a token is chosen.
        width: tokens of a prompt and its completion, at most.
        rows: that are generated at a time. None: all that are wanted; where memory does not suffice, half as many from
            then on.
    """

    def __init__(self, model: Teacher, sampling: Sampling, width: int, rows: int | None) -> None:
        self._model, self._sampling = model, sampling
        self._width, self._rows = width, rows
        self._run: Any = None
        self._variables: list[Any] = []
        self._earlier = 0

    @property
    def traces(self) -> int:
        """How often generation was traced."""
        return self._earlier + (0 if self._run is None else self._run.experimental_get_tracing_count())

    def write(self, prompts: list[np.ndarray], uniforms: np.ndarray) -> list[np.ndarray]:
        """Return the tokens behind each prompt, up to its first stop token.

        Args:
            prompts: token ids of each.
            uniforms: from 0 to 1, one for each token to be drawn, (prompts, length).
        """
        self._trace_anew_if_changed()
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")  # a batch runs as long as its longest
        written: list[Any] = [None] * len(prompts)
        rest = order
        while len(rest):
            places = rest[: self._rows]
            try:
                made = self._batch([prompts[place] for place in places], uniforms[places])
            except tf.errors.ResourceExhaustedError:
                if len(places) == 1:
                    raise
                self._rows = len(places) // 2
                continue
            for place, tokens in zip(places, made, strict=True):
                written[place] = tokens
            rest = rest[len(places) :]
        return written

    def _batch(self, prompts: list[np.ndarray], uniforms: np.ndarray) -> list[np.ndarray]:
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        ids = np.zeros((len(prompts), self._width), "int32")
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        made, counts, score, _ = (np.asarray(each) for each in self._run(ids, lengths, uniforms))
        if not np.all(np.isfinite(score)):
            raise ValueError(
                f"Expected a model that predicts probabilities. {self._model.name!r} predicts NaN while it writes "
                "rollouts: lower the learning rate, or clip gradients, where training has led to this."
            )
        return [
            row[start : start + count].astype("int32") for row, start, count in zip(made, lengths, counts, strict=True)
        ]

    def _trace_anew_if_changed(self) -> None:
        variables = list(self._model.variables)
        same = len(variables) == len(self._variables) and all(map(_is, variables, self._variables))
        if self._run is None or not same:
            self._earlier = self.traces
            self._run, self._variables = decoder(self._model, self._sampling), variables


def _is(one: Any, other: Any) -> bool:
    return one is other
