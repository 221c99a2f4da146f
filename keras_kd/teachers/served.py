"""A teacher behind HTTP: a served language model that returns the most probable tokens at each position."""

import concurrent.futures
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd import targets
from keras_kd._internal import prompt_log_probabilities, soft_targets, sparse_targets
from keras_kd._internal.completion_server import CompletionServer, Question, Stopped, check_url
from keras_kd._keras import masks
from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor, Tensors
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.python import OfArrays


@serializable
class Served(Teacher):
    """Ask a server for the most probable tokens behind each of the student's, by the OpenAI protocol of completions.

    One request for each text, `POST {url}/completions` with its token ids as `prompt`, `echo=true`, `max_tokens=0` and
    `logprobs=top_k`, which vLLM and servers like it answer. With z_t the logits of the server's model at position t::

        target_t = top_k(log_softmax(z_t))

    A server has the distribution of token t + 1 at the place of that token, and nothing at the first: targets are moved
    by one place, and a token is added at the end of the prompt, so that each of the student's positions has one. The
    server has to take one token more than the student. Tokens that come back are compared with those that were sent.

    Nothing is requested for padding, which is where the "padding_mask" of a dict is False. As under any teacher, it
    counts unless its weight is 0 or the student masks it; it has the target of the text's last token then.

    Ask once, and train as often as you like: `TeacherCache(path, teacher=served, top_k=20)` goes on where a build was
    interrupted, under another `url`, too. In `fit`, and for text that the student writes itself
    (`language.Rollouts`), a request is sent in each step, and the processor waits for the answer.

    Args:
        url: of the API, as http://127.0.0.1:8000/v1, without user, password and query.
        model: as the server calls it. A cache takes it for the identity of the teacher.
        classes: units of the student's output, at least the size of the server's vocabulary.
        top_k: how many tokens to ask for at each position, 1 to `classes`; as many as the server allows. vLLM allows 20
            unless it is started with --max-logprobs.
        vocabulary: ids by the strings that the server returns for tokens. None: it is requested to return ids,
            `return_tokens_as_token_ids` of vLLM. Of tokens with the same string, as those of parts of a character, one
            remains, and what is no string of the vocabulary counts with the classes that are not named.
        tail: how the classes are read that are not named, see `teachers.Cached`.
        api_key: sent as a bearer token. None: that of the environment variable KERAS_KD_API_KEY, if it is set. It stays
            out of files, configurations and messages, and has to be given again after loading.
        in_flight: requests at a time.
        timeout: seconds to wait for an answer.
        attempts: how often a text is sent at most, where connections fail or the answer is 408, 429 or 5xx: after
            0.5 s, and twice as long each time up to a minute, or as long as the server asks for.

    Raises:
        ImportError: httpx is not installed, the extra `served`.
        ValueError: an argument out of range. In `fit` before the first step, and in a build before the first example:
            what the server refuses, as its model, the key, or too large a `top_k`; log-probabilities that it does not
            return. In a step: it has failed `attempts` times; it returns other tokens than it was sent; x is no tensor
            of token ids.

    Example:
        >>> teacher = Served("http://127.0.0.1:8000/v1", model="large", classes=151_936, top_k=20)
        >>> cache = TeacherCache("runs/served", teacher=teacher, top_k=20, dtype="packed")
        >>> cache.build(tokens, batch_size=64)
        >>> distiller = Distiller(student=student, teacher=Cached(cache, tail="bucket"))
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        classes: int,
        top_k: int = 20,
        vocabulary: dict[str, int] | None = None,
        tail: str = "spread",
        api_key: str | None = None,
        in_flight: int = 8,
        timeout: float = 60.0,
        attempts: int = 6,
    ) -> None:
        super().__init__(name="served")
        self.url, self.model = check_url(url), _check_model(model)
        _check_whole({"classes": classes, "top_k": top_k, "in_flight": in_flight, "attempts": attempts})
        _check_range(classes, top_k, timeout)
        self.classes, self.top_k = classes, top_k
        self.vocabulary = None if vocabulary is None else _check_vocabulary(vocabulary, classes)
        self.rest = sparse_targets.check_tail(tail)
        self.in_flight, self.timeout, self.attempts = in_flight, timeout, attempts
        self._server = CompletionServer(url, model, api_key, timeout, attempts)
        shapes = {"ids": (None, top_k), "log_probabilities": (None, top_k), "log_tail": (None,), "mask": (None,)}
        self._ask = OfArrays(self._of_batch, shapes)
        self.built = True

    def specs(self) -> dict[str, Any]:
        """Return a symbolic tensor of logits."""
        return {"logits": keras.KerasTensor((None, None, self.classes), "float32")}

    def kind(self, name: str) -> str:
        """Return "logits", of a softmax."""
        return "logits"

    def tail(self, name: str) -> str | None:
        """Return how classes are read that are not named; None where all are."""
        return self.rest if self.top_k < self.classes else None

    def named(self, name: str) -> int | None:
        """Return how many classes a target names."""
        return self.top_k

    def check_reachable(self) -> None:
        """Ask for one token, so that what the server refuses is known before any work."""
        self._of_batch({"ids": np.zeros((1, 1), "int32"), "present": np.ones((1, 1), bool)})

    def before_fit(self, x: Tensors, verbose: int | str = "auto") -> Tensors:
        """Check that the server answers."""
        self.check_reachable()
        return x

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return a `sparse_targets.SparseTarget` of "logits", masked where the server names no class of ours."""
        ids, present = _tokens(soft_targets.without_targets(x))
        found = self._ask({"ids": ids, "present": present})
        for each in found.values():
            each.set_shape((*ids.shape, *each.shape[2:]))
        tail = found["log_tail"] if self.top_k < self.classes else None
        named = ops.cast(found["ids"], "int32")  # which float32 holds exactly, up to 16 million
        target = sparse_targets.SparseTarget(named, found["log_probabilities"], tail, self.classes, self.rest)
        masks.put(target, ops.cast(found["mask"], "bool"))
        return {"logits": target}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments without `api_key`."""
        names = ("url", "model", "classes", "top_k", "vocabulary", "in_flight", "timeout", "attempts")
        return {**{name: getattr(self, name) for name in names}, "tail": self.rest}

    def _of_batch(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the parts of the targets of a batch, (batch, tokens, ...)."""
        shape = (*x["ids"].shape, self.top_k)
        ids, logarithms = np.full(shape, -1, "int32"), np.full(shape, -np.inf)
        rows = [row for row, present in enumerate(x["present"]) if present.any()]
        answers = self._answers([x["ids"][row][x["present"][row]].tolist() for row in rows])
        for row, (found, values) in zip(rows, answers, strict=True):
            ids[row], logarithms[row] = found[-1], values[-1]
            ids[row, x["present"][row]], logarithms[row, x["present"][row]] = found, values
        if not ids.size:  # what a replica gets of a batch that is too small for all
            return {
                **dict.fromkeys(("ids", "log_probabilities"), ids),
                **dict.fromkeys(("log_tail", "mask"), ids[..., 0]),
            }
        parts = targets.TopK(ids, logarithms, self.classes)
        return {
            "ids": parts[soft_targets.part_of_indices(self.classes)],
            "log_probabilities": parts["log_probabilities"],
            "log_tail": parts.get("log_tail", np.zeros(shape[:-1])),
            "mask": parts["mask"] | ~x["present"],
        }

    def _answers(self, texts: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ids and log-probabilities behind each token of some texts, in their order."""
        stopped = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(self.in_flight) as pool:
            answers = [pool.submit(self._answer, text, stopped) for text in texts]
            try:
                concurrent.futures.wait(answers)
            finally:
                stopped.set()
        failures = [each.exception() for each in answers]
        for failure in failures:
            if failure is not None and not isinstance(failure, Stopped):
                raise failure
        return [each.result() for each in answers]

    def _answer(self, text: list[int], stopped: threading.Event) -> tuple[np.ndarray, np.ndarray]:
        sent = [*text, text[-1]]  # what follows the last token does not depend on which token is there
        names = prompt_log_probabilities.Tokens(self.vocabulary)
        try:
            choice = self._server.choice(Question(sent, self.top_k, self.vocabulary is None), stopped)
            return prompt_log_probabilities.read(choice, sent, self.top_k, names)
        except ValueError:
            stopped.set()
            raise


def _tokens(x: Any) -> tuple[Tensor, Tensor]:
    """Return token ids, (batch, tokens), and where they are a text's."""
    ids = x.get("token_ids") if isinstance(x, dict) else x
    whole = isinstance(ids, (tf.Tensor, np.ndarray)) and len(ids.shape) == 2 and "int" in tf.as_dtype(ids.dtype).name
    if not whole or (isinstance(x, dict) and "segments" in x):
        raise ValueError(
            "Expected token ids, (batch, tokens), or a dict of 'token_ids' and 'padding_mask', one text in a row, for "
            f"a served teacher. Received: {tf.nest.map_structure(_described, x)}. Texts need the student's tokenizer "
            "or preprocessor; rows that language.packed has made need their examples one by one."
        )
    present = x.get("padding_mask") if isinstance(x, dict) else None
    return ops.convert_to_tensor(ids), ops.ones_like(ids, "bool") if present is None else ops.cast(present, "bool")


def _described(tensor: Any) -> str:
    return f"{getattr(tensor, 'dtype', type(tensor).__name__)} {tuple(getattr(tensor, 'shape', ()))}"


def _check_model(model: Any) -> str:
    if not isinstance(model, str) or not model:
        raise ValueError(f"Expected `model` to be the name that the server has for it. Received: model={model!r}")
    return model


def _check_whole(numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"Expected `{name}` to be a whole number from 1 on. Received: {name}={value!r}")


def _check_range(classes: int, top_k: int, timeout: Any) -> None:
    if top_k > classes or classes < 2:
        raise ValueError(
            f"Expected `top_k` to be from 1 to `classes`, at least 2. Received: top_k={top_k}, classes={classes}"
        )
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise ValueError(f"Expected `timeout` to be seconds, above 0. Received: timeout={timeout!r}")


def _check_vocabulary(vocabulary: Any, classes: int) -> dict[str, int]:
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError(
            f"Expected `vocabulary` to be a dict from strings to ids. Received: {type(vocabulary).__name__}. Such as "
            "{tokenizer.id_to_token(number): number for number in range(tokenizer.vocabulary_size())}."
        )
    wrong = [name for name, number in vocabulary.items() if not (type(number) is int and 0 <= number < classes)]
    if wrong:
        raise ValueError(
            f"Expected ids from 0 to {classes - 1} in `vocabulary`, below `classes`. Received: {wrong[0]!r}: "
            f"{vocabulary[wrong[0]]!r}."
        )
    return dict(vocabulary)
