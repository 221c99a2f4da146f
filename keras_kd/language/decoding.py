"""Let a causal language model continue prompts, with the numbers that each prompt alone would give.

A task of KerasHub generates by its `generate_step`, which keeps the keys and values of what it has read; any other
model reads all tokens again for each new one. Random numbers come from outside, one for each row and token, so that
neither the batch nor an interruption changes what is drawn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_kd._internal import ensemble_logits, layer_reader, raw_views
from keras_kd._types import Tensor
from keras_kd.language import vocabulary_heads
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.frozen import Frozen


class Sampling(NamedTuple):
    """How a token is chosen.

    Attributes:
        length: tokens of a completion, at most.
        temperature: T of the distribution that is drawn from; 0 takes the most likely token.
        top_p: the most likely tokens that together have this probability are drawn from.
        stop_ids: tokens that end a completion.
    """

    length: int
    temperature: float
    top_p: float
    stop_ids: tuple[int, ...]


class Completions(NamedTuple):
    """What was generated behind each prompt.

    Attributes:
        token_ids: the prompts and what was generated, (rows, width).
        counts: how many tokens were generated, the stop token among them, (rows,).
        score: the sum of their log-probabilities at T = 1, (rows,).
        finished: whether the last one is a stop token, (rows,).
    """

    token_ids: Tensor
    counts: Tensor
    score: Tensor
    finished: Tensor


def check_sampling(sampling: Sampling) -> None:
    """Refuse a length, a temperature or a top_p out of range."""
    check_whole({"length": sampling.length})
    if not 0 <= sampling.temperature < math.inf:
        raise ValueError(f"Expected `temperature` to be at least 0. Received: temperature={sampling.temperature!r}")
    check_share("top_p", sampling.top_p)


def check_whole(numbers: Mapping[str, Any]) -> None:
    """Refuse what is no whole number from 1 on."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected `{name}` to be a whole number from 1 on. Received: {name}={value!r}")


def check_share(name: str, share: float) -> None:
    """Refuse a share that is not above 0, at most 1."""
    if not 0 < share <= 1:
        raise ValueError(f"Expected `{name}` to be above 0, at most 1. Received: {name}={share!r}")


def decoder(teacher: Teacher, sampling: Sampling) -> Callable[[Tensor, Tensor, Tensor], Completions]:
    """Return a compiled function of prompts, (rows, width), their lengths, (rows,), and uniforms, (rows, length).

    Args:
        teacher: predicts the next token; one that holds a task of KerasHub lets it generate.
        sampling: how a token is chosen.
    """
    model = getattr(teacher, "model", None)  # an ensemble has none
    step = _cached if hasattr(model, "generate_step") else _uncached

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None), "int32"),
            tf.TensorSpec((None,), "int32"),
            tf.TensorSpec((None, None)),
        ]
    )
    def run(token_ids: Tensor, lengths: Tensor, uniforms: Tensor) -> Completions:
        return step(teacher, _Loop(sampling, lengths, uniforms), token_ids, lengths)

    return run


def _cached(teacher: Any, loop: "_Loop", token_ids: Tensor, lengths: Tensor) -> Completions:
    """Generate by the task's own step, which calls what is its `sampler`."""
    task = teacher.model
    before = getattr(task, "sampler", None)  # of a task that was never compiled
    task.sampler = loop
    try:
        mask = tf.sequence_mask(lengths, tf.shape(token_ids)[1])
        task.generate_step({"token_ids": token_ids, "padding_mask": mask}, stop_token_ids=None)
    finally:
        task.sampler = before
    return loop.completions


def _uncached(teacher: Teacher, loop: "_Loop", token_ids: Tensor, lengths: Tensor) -> Completions:
    """Generate by a whole forward pass for each token."""
    logits_at = _by_hidden_states(teacher) or _by_logits(teacher)

    def following(prompt: Tensor, cache: Any, index: Tensor) -> tuple[Tensor, None, Any]:
        return logits_at(prompt, index - 1), None, cache

    loop(following, token_ids, index=tf.reduce_min(lengths))
    return loop.completions


def _by_logits(teacher: Teacher) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of tokens and a place that returns the logits there, (rows, vocabulary)."""
    return lambda token_ids, place: next_logits(teacher, token_ids, tf.ones_like(token_ids, "bool"))[:, place]


def _by_hidden_states(teacher: Teacher) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return the same function for a model that ends in a product with its vocabulary, computed at that place alone."""
    head = vocabulary_heads.find(teacher.model) if isinstance(teacher, Frozen) else None
    if head is None or teacher.kind("logits") not in ("auto", "logits") or teacher.dtype_of_copy or teacher.device:
        return None
    graph: Any = layer_reader.functional(teacher.model)
    body = keras.Model(graph.input, head.hidden, name=teacher.model.name)
    reader = layer_reader.Reader(body, (), "values", owner="teacher")

    def logits_at(token_ids: Tensor, place: Tensor) -> Tensor:
        x = _inputs([teacher], token_ids, tf.ones_like(token_ids, "bool"))
        return head.logits()(teacher.read_by(reader, x)["logits"][:, place])

    return logits_at


def next_logits(teacher: Teacher, token_ids: Tensor, padding_mask: Tensor) -> Tensor:
    """Return a teacher's logits at each position, (rows, width, vocabulary)."""
    x = _inputs(getattr(teacher, "members", [teacher]), token_ids, padding_mask)
    return ensemble_logits.averaged(teacher(x, {})["logits"], 1.0, per_label=False)


def _inputs(teachers: Sequence[Teacher], token_ids: Tensor, padding_mask: Tensor) -> raw_views.Shared:
    by_name = {"token_ids": token_ids, "padding_mask": padding_mask}
    return raw_views.Shared(by_name if any(map(_reads_dict, teachers)) else token_ids)


def _reads_dict(teacher: Teacher) -> bool:
    """Return whether a teacher's model has a graph whose inputs go by name."""
    return isinstance(getattr(getattr(teacher, "model", None), "input", None), dict)


class _Loop:
    """Choose token after token; called as the samplers of KerasHub are, by `generate_step`.

    Attributes:
        completions: what the last call has generated.
    """

    def __init__(self, sampling: Sampling, lengths: Tensor, uniforms: Tensor) -> None:
        self._sampling = sampling
        self._lengths = lengths
        self._uniforms = uniforms
        self.completions: Any = None

    def __call__(
        self, next: Callable[..., Any], prompt: Tensor, cache: Any = None, index: Any = 0, **unused: Any
    ) -> Tensor:
        """Return the prompts with what was generated behind them.

        Args:
            next: a function of all tokens, a cache and a place that returns the logits of the token at this place, a
                hidden state and the cache.
            prompt: the prompts, (rows, width).
            cache: for `next`.
            index: the first place that is not a prompt's in each row.
            **unused: what `generate_step` knows more, of which masks and stop tokens are known here.
        """
        starts = tf.cast(self._lengths, "int32")
        ends = tf.minimum(starts + self._sampling.length, tf.shape(prompt)[1])

        def goes_on(prompt: Tensor, cache: Any, index: Tensor, counts: Tensor, score: Tensor, done: Tensor) -> Tensor:
            return tf.logical_not(tf.reduce_all(done | (index >= ends)))

        def choose(prompt: Tensor, cache: Any, index: Tensor, counts: Tensor, score: Tensor, done: Tensor) -> Any:
            logits, _, cache = next(prompt, cache, index)
            drawn = tf.clip_by_value(index - starts, 0, self._sampling.length - 1)
            uniform = tf.gather(self._uniforms, drawn, axis=1, batch_dims=1)
            token, log_p = chosen(tf.cast(logits, "float32"), uniform, self._sampling)
            open_now = (index >= starts) & (index < ends) & tf.logical_not(done)
            kept = tf.where(open_now, token, prompt[:, index])
            prompt = ops.slice_update(prompt, (0, index), kept[:, None])
            counts += tf.cast(open_now, "int32")
            score += tf.where(open_now, log_p, 0.0)
            return (
                prompt,
                cache,
                index + 1,
                counts,
                score,
                done | (open_now & _any_equal(token, self._sampling.stop_ids)),
            )

        rows = tf.shape(prompt)[0]
        given = (
            prompt,
            () if cache is None else cache,
            tf.cast(index, "int32"),
            tf.zeros([rows], "int32"),
            tf.zeros([rows]),
            tf.zeros([rows], "bool"),
        )
        prompt, _, _, counts, score, done = ops.while_loop(goes_on, choose, given)
        self.completions = Completions(prompt, counts, score, done)
        return prompt


def chosen(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return a token for each row, and its log-probability at T = 1.

    The token is the most likely one, or the one at which the sum of probabilities passes a number.

    Args:
        logits: (rows, vocabulary).
        uniform: from 0 to 1, (rows,).
        sampling: temperature and top_p.
    """
    if sampling.temperature == 1:  # what is drawn has a probability above 0, of which there is a logarithm
        p = tf.nn.softmax(logits)
        token = _drawn_of_most_likely(p, uniform, sampling.top_p)
        return token, tf.math.log(tf.gather(p, token, axis=1, batch_dims=1))
    if sampling.temperature == 0:
        token = tf.argmax(logits, axis=-1, output_type="int32")
    else:
        token = _drawn_of_most_likely(tf.nn.softmax(logits / sampling.temperature), uniform, sampling.top_p)
    return token, tf.gather(tf.nn.log_softmax(logits), token, axis=1, batch_dims=1)


def _drawn_of_most_likely(p: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Return a token that is drawn from the most likely ones that together have a probability, (rows,)."""
    if top_p == 1:
        return _drawn(p, uniform)
    p, order = tf.math.top_k(p, p.shape[-1])
    p = tf.where(tf.cumsum(p, axis=-1, exclusive=True) < top_p, p, 0.0)
    return tf.gather(order, _drawn(p, uniform), axis=1, batch_dims=1)


def _drawn(p: Tensor, uniform: Tensor) -> Tensor:
    """Return the place at which the sum of weights passes a share of all of them, (rows,).

    A vocabulary is added up in blocks: first the block is found, then the place inside of it. A cumulative sum over all
    places takes a processor several times as long.
    """
    size, padding = _block(p.shape[-1])
    if padding:
        p = tf.pad(p, [[0, 0], [0, padding]])
    blocks = tf.reshape(p, (-1, p.shape[-1] // size, size))
    sums = tf.reduce_sum(blocks, axis=-1)
    block, rest = _passed(sums, uniform * tf.reduce_sum(sums, axis=-1))
    place, _ = _passed(tf.gather(blocks, block, axis=1, batch_dims=1), rest)
    return block * size + place


def _block(classes: int) -> tuple[int, int]:
    """Return the size of blocks, and how many classes have to be added for whole ones: none where a divisor is near."""
    root = math.isqrt(classes)
    divisor = next((size for size in range(root, 0, -1) if classes % size == 0), 1)
    return (classes // divisor, 0) if 4 * divisor >= root else (root, -classes % root)


def _passed(weights: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place at which the sum of weights passes a level, (rows,), and what is left of the level there.

    A place of weight 0 is never returned, whatever is rounded.
    """
    sums = tf.cumsum(weights, axis=-1)
    passed = tf.reduce_sum(tf.cast(sums <= level[:, None], "int32"), axis=-1)
    last = tf.reduce_sum(tf.cast(sums < sums[:, -1:], "int32"), axis=-1)
    place = tf.minimum(passed, last)
    before = tf.gather(sums - weights, place, axis=1, batch_dims=1)
    return place, tf.maximum(level - before, 0.0)


def _any_equal(tokens: Tensor, ids: Sequence[int]) -> Tensor:
    return tf.reduce_any(tokens[:, None] == tf.constant(list(ids), "int32"), axis=-1)
