"""Let a teacher write what a student learns to write: sequence-level distillation.

Kim and Rush train the student on what the teacher generates, as on labels. Generation takes longer than training, so
that what is generated is kept in a folder, part by part, and goes on where it was killed.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_kd._internal import teacher_fingerprints
from keras_kd.language import prompt_tokens
from keras_kd.language.decoding import Sampling, check_sampling, check_share, check_whole, decoder
from keras_kd.language.generated_parts import Parts
from keras_kd.teachers import as_teacher
from keras_kd.teachers.base import AnyTeacher, Teacher


class Generated(NamedTuple):
    """Examples for `fit`: what a teacher wrote, of which all behind the prompts is learned, to the first stop token.

    Attributes:
        x: a dict of "token_ids", (examples, width), int32, and "padding_mask", bool: all tokens but the last.
        y: the tokens that follow, (examples, width), int32.
        sample_weight: 1 where the token that follows was generated, (examples, width), float32.
        teacher_score: mean log-probability of the tokens that were generated, under the teacher at T = 1, in nats,
            (examples,), float32.
        finished: whether the last of these is a stop token, (examples,), bool; else `length` cut the completion.
        prompt: number of the prompt, (examples,), int64.
    """

    x: dict[str, np.ndarray]
    y: np.ndarray
    sample_weight: np.ndarray
    teacher_score: np.ndarray
    finished: np.ndarray
    prompt: np.ndarray


def generate(
    teacher: AnyTeacher,
    prompts: Sequence[Any],
    folder: Any = None,
    *,
    length: int,
    stop_ids: Sequence[int] | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    samples: int = 1,
    best: int = 1,
    keep: float = 1.0,
    threshold: float = -math.inf,
    pad: int = 0,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int = 1,
) -> Generated:
    """Let a teacher continue prompts, and return what it wrote as examples to train a student on.

    With a `folder`, each batch is written to it once it is finished. Called again with the same arguments, what is
    there is read back, and generation goes on where it was; `best`, `keep`, `threshold` and `pad` may be others then.
    The same arguments give the same tokens, whatever else is in a batch.

    Args:
        teacher: a causal language model of token ids: a task of KerasHub, which generates by its `generate_step`; or
            any model, function or teacher of ids, (batch, tokens), or of a dict of "token_ids" and "padding_mask", that
            returns logits, (batch, tokens, vocabulary). It reads all tokens again for each new one.
        prompts: token ids of each, at least one token; of a task of KerasHub with its preprocessor, texts as well.
        folder: where to keep what is generated; None keeps nothing.
        length: tokens of a completion, at least 1, with its stop token. Prompts are never cut.
        stop_ids: tokens that end a completion. None: the end tokens of a task's own tokenizer; without one, all
            completions have `length` tokens.
        temperature: T of the distribution that tokens are drawn from; 0 takes the most likely token.
        top_p: tokens are drawn from the most likely ones that together have this probability, above 0 to 1.
        samples: completions of each prompt, at least 1; several need a `temperature` above 0.
        best: how many of these are kept, those with the best scores.
        keep: share of all examples that is then kept, those with the best scores, above 0 to 1.
        threshold: the least score of an example that is kept.
        pad: token that fills rows up.
        batch_size: completions that are generated, and kept, at a time.
        seed: of what is drawn.
        verbose: 1 shows progress and the time that is left, 0 nothing.

    Returns:
        Examples in the order of the prompts, see `Generated`. Let the mean go over what is learned, by
        `keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")`.

    Raises:
        ValueError: an argument out of range; an empty prompt; prompts that do not fit into the model; a folder that
            holds something else, with what differs; a damaged file; a teacher that predicts NaN; nothing is kept.
        TypeError: texts for a model without a tokenizer.

    Warns:
        UserWarning: how many completions were cut at `length`, where there are stop tokens.

    Example:
        >>> made = generate(teacher, [[5, 6], [7]], "completions", length=64, stop_ids=[2], keep=0.5)
        >>> student.fit(made.x, made.y, sample_weight=made.sample_weight)

    Reference: Kim and Rush, Sequence-Level Knowledge Distillation, 2016, arXiv 1606.07947.
    """
    teacher = as_teacher(teacher)
    stops = prompt_tokens.stop_ids(teacher, stop_ids)
    sampling = Sampling(length, temperature, top_p, stops)
    _check(sampling, samples, best, keep, batch_size)
    rows = prompt_tokens.of(teacher, prompts)
    prompt_tokens.check_fit(teacher, rows, length)
    settings = {
        **sampling._asdict(),
        "stop_ids": sorted(stops),
        "samples": samples,
        "seed": seed,
        "batch_size": batch_size,
        "prompts": teacher_fingerprints.of_arrays(np.asarray(row) for row in rows),
        **teacher_fingerprints.with_code(teacher, ("logits",)),
    }
    writer = _Writer(teacher, rows, sampling, samples, seed)
    tokens, counts, score, finished = Parts(folder, settings).run(
        writer.write, len(rows) * samples, batch_size, verbose
    )
    cut = int(np.sum(~finished)) if stops else 0
    if cut:
        warnings.warn(
            f"{cut} of {len(counts)} completions were cut at length={length}, before a stop token: see `finished`.",
            stacklevel=2,
        )
    chosen = _chosen(score, samples, best, keep, threshold)
    parts = [tokens[row, : counts[row]] for row in chosen]
    x, y, weights = _examples([rows[row // samples] for row in chosen], parts, pad)
    return Generated(x, y, weights, score[chosen], finished[chosen], chosen // samples)


class _Writer:
    """Generate the completions of some rows: of each prompt, `samples` behind one another."""

    def __init__(
        self, teacher: Teacher, prompts: list[np.ndarray], sampling: Sampling, samples: int, seed: int
    ) -> None:
        self._prompts, self._sampling, self._samples, self._seed = prompts, sampling, samples, seed
        self._teacher = teacher
        self._run = decoder(teacher, sampling)

    def write(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Return tokens, counts, scores and ends of the rows from the first to before the last."""
        length = self._sampling.length
        rows = range(first, last)
        prompts = [self._prompts[row // self._samples] for row in rows]
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        ids = np.zeros((len(prompts), prompt_tokens.width(self._teacher, int(lengths.max()) + length)), "int32")
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        ids, counts, score, finished = (np.asarray(each) for each in self._run(ids, lengths, self._uniforms(rows)))
        if not np.all(np.isfinite(score)):
            raise ValueError(
                f"Expected a teacher that predicts probabilities. {self._teacher.name!r} predicts NaN behind prompt "
                f"{(first + int(np.argmin(np.isfinite(score)))) // self._samples}."
            )
        tokens = np.zeros((len(prompts), length), "int32")
        for row, (start, count) in enumerate(zip(lengths, counts, strict=True)):
            tokens[row, :count] = ids[row, start : start + count]
        return {"tokens": tokens, "counts": counts, "score": score / counts.astype("float32"), "finished": finished}

    def _uniforms(self, rows: range) -> np.ndarray:
        drawn = [np.random.default_rng([self._seed, *divmod(row, self._samples)]) for row in rows]
        return np.stack([each.random(self._sampling.length, "float32") for each in drawn])


def _chosen(score: np.ndarray, samples: int, best: int, keep: float, threshold: float) -> np.ndarray:
    """Return the numbers of the rows that are kept, in their order."""
    order = np.argsort(-score.reshape(-1, samples), axis=1, kind="stable")[:, :best]
    chosen = np.sort((order + samples * np.arange(len(order))[:, None]).reshape(-1))
    count = math.ceil(round(keep * len(chosen), 6))  # 0.07 of 100 is 7 and not 8
    ranked = chosen[np.argsort(-score[chosen], kind="stable")][:count]
    kept = np.sort(ranked[score[ranked] >= threshold])
    if not len(kept):
        raise ValueError(
            f"Expected a `threshold` that an example reaches. Received: {threshold}; the best: {max(score)}"
        )
    return kept


def _examples(prompts: list[np.ndarray], completions: list[np.ndarray], pad: int) -> Any:
    """Return x, y and sample_weight: each token is to predict the one that follows."""
    rows = [np.concatenate(pair) for pair in zip(prompts, completions, strict=True)]
    ids = np.full((len(rows), max(map(len, rows))), pad, "int32")
    present, learned = (np.zeros(ids.shape, bool) for _ in range(2))
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[number, : len(row)], present[number, : len(row)] = row, True
        learned[number, len(prompt) : len(row)] = True
    return {"token_ids": ids[:, :-1], "padding_mask": present[:, :-1]}, ids[:, 1:], learned[:, 1:].astype("float32")


def _check(sampling: Sampling, samples: int, best: int, keep: float, batch_size: int) -> None:
    """Refuse numbers out of range."""
    check_sampling(sampling)
    check_whole({"samples": samples, "best": best, "batch_size": batch_size})
    check_share("keep", keep)
    if samples > 1 and sampling.temperature == 0:
        raise ValueError(f"Expected a `temperature` above 0 for samples={samples}, which would be equal at 0.")
    if best > samples:
        raise ValueError(f"Expected `best` to be at most `samples`. Received: best={best}, samples={samples}")
