"""A teacher that has been run before: its targets travel with the examples."""

from collections.abc import Callable
from typing import Any

import keras

from keras_kd._internal import batches, heads, raw_views, soft_targets, sparse_targets
from keras_kd._internal.ensemble_logits import of_kind
from keras_kd._serialization import serializable
from keras_kd._types import Number, Tensor, Tensors
from keras_kd.teachers.base import Teacher
from keras_kd.teachers.stored_targets import StoredTargets


@serializable
class Cached(Teacher):
    """Teach what is joined to the examples: by a `TeacherCache`, or by hand, as `keras_kd.Joined`.

    Targets joined by hand are arrays, or numbers in a DataFrame; those in files are read by NumPy or pandas.

    Args:
        cache: the `TeacherCache` that the dataset was joined with. With it, names, shapes and classes are checked
            before the first step, `bridge="auto"` works, and each epoch gets its view of a cache that has several.
        head: what targets joined by hand mean, see `teachers.Frozen`; a cache knows it of its own.
        tail: how the classes are read that top-k targets do not name, of which the mass alone is known. "spread":
            evenly over all of them, an approximation that has a value for each loss and temperature: the student
            learns an even rest. "bucket": as one class, at T = 1 alone; the divergence of the k + 1 masses is a lower
            bound of that of all classes, and the student orders the rest as it likes. For language models, take
            "bucket" and `temperature=1.0`.

    Of top-k targets, no tensor of all classes is made for `kl_divergence` and `hard_label`; nor, with "bucket", for
    `reverse_kl`, `jensen_shannon`, `skew_kl` and `skew_reverse_kl`, the losses that it has besides. Others make it of a
    few rows at a time from 8,192 classes on, and as a whole below, under XLA, and for a `transform` or a loss of your
    own. To look at them: `teacher(x, {})["logits"].dense()` has logits of all classes, the rest spread evenly.

    Raises:
        TypeError: `cache` is no cache; in `fit`: a column of lists among the targets.
        ValueError: an unknown head or tail; a bucket of an ensemble's members. Of a `Distiller`: a bucket under a
            temperature that is not 1, or a loss that reads each class.

    Example:
        >>> train = cache.join(dataset).shuffle(10_000).batch(128)
        >>> distiller = Distiller(student=student, teacher=Cached(cache))
    """

    def __init__(self, cache: StoredTargets | None = None, head: str = "auto", tail: str = "spread") -> None:
        if cache is not None and not isinstance(cache, StoredTargets):
            raise TypeError(
                f"Expected `cache` to be a keras_kd.TeacherCache. Received: {cache!r} of type {type(cache).__name__}"
            )
        super().__init__(name="cached")
        self._cache = cache
        self.head = heads.check(head)
        self._tail = sparse_targets.check_tail(tail)
        self._undo = heads.Head(head)
        self.built = True

    def bind(self, student: keras.Model, names: tuple[str, ...]) -> None:
        """Check that the cache holds what the terms read, for the student's tokens where it is a language model."""
        if self._cache is not None:
            raw_views.check_tokens(student, self._cache.tokens, f"the cache at {str(self._cache.path)!r}")
        if self._cache is not None and not set(names) <= set(self._cache.taps):
            raise ValueError(
                f"Expected the cache to hold what the terms read: {sorted(set(names))}. {str(self._cache.path)!r} "
                f"holds {sorted(self._cache.taps)}. Build one with taps={tuple(dict.fromkeys(names))}."
            )

    def specs(self) -> dict[str, Any] | None:
        """Return symbolic tensors of what the cache holds, or None where it is not built or not given."""
        return None if self._cache is None else self._cache.specs()

    def kind(self, name: str) -> str:
        """Return the head of the teacher that the cache was built with, or the one given here."""
        return self.head if self._cache is None else self._cache.kind(name)

    def tail(self, name: str) -> str | None:
        """Return how classes are read that the targets under a name do not name; None where a cache has all."""
        return self._tail if self._cache is None or self._cache.names_few(name) else None

    def views(self, x: Tensors) -> dict[str, Callable[[Tensors], Tensors]]:
        """Return nothing: there are targets in the place of views."""
        return {}

    def cacheable(self, names: tuple[str, ...]) -> bool:
        """Return False: there is no teacher to run."""
        return False

    def unrecognised(self, names: tuple[str, ...]) -> list[Teacher]:
        """Return itself, where targets are joined by hand."""
        return [self] if self._cache is None and self.head == "auto" else []

    def before_fit(self, x: Tensors, verbose: int | str = "auto") -> Tensors:
        """Let data be read before the first epoch begins, as Keras does under a strategy; read DataFrames as arrays."""
        self._follow(0)
        return x._replace(targets=batches.as_arrays(x.targets)) if soft_targets.have_targets(x) else x

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return a callback that sets the epoch of the cache."""
        return [keras.callbacks.LambdaCallback(on_epoch_begin=self._follow)]

    def call(self, x: Tensors, student: dict[str, Tensor], labels: Tensors = None, step: Number = 0) -> dict[str, Any]:
        """Return the targets in `x`."""
        if not soft_targets.have_targets(x):
            raise ValueError(
                "Expected examples that carry a teacher's targets: cache.join(dataset) before shuffle and batch, or "
                f"keras_kd.Joined(x, targets). Received x without targets: {x!r}. For validation data without targets, "
                "compile with a `loss`: evaluation then runs the student alone; at alpha=1 the loss is only logged."
            )
        if not isinstance(x.targets, dict) or "log_probabilities" in x.targets:
            raise ValueError(
                "Expected targets by the names that the terms read, as keras_kd.Joined(x, {'logits': targets}). "
                f"Received: {sorted(x.targets) if isinstance(x.targets, dict) else type(x.targets).__name__}"
            )
        marks = [name for name in x.targets if name.startswith(soft_targets.MARK)]
        if self._cache is not None and marks != [self._cache.mark]:
            raise ValueError(
                f"Expected examples joined by the cache at {str(self._cache.path)!r}. Received others. "
                "Several teachers: cache the ensemble, TeacherCache(path, teacher=[first, second])."
            )
        return {name: self._read(name, stored) for name, stored in x.targets.items() if name not in marks}

    def _read(self, name: str, stored: Any) -> Any:
        if not isinstance(stored, dict):
            return self._undo(stored)
        return of_kind(soft_targets.decode(stored, self._tail), self.kind(name))

    def get_config(self) -> dict[str, Any]:
        """Return head and tail; the cache is a place on a disk, to be given again."""
        return {"head": self.head, "tail": self._tail}

    def _follow(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._cache is not None:
            self._cache.epoch = epoch
