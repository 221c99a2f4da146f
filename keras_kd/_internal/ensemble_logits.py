"""Logits of several teachers whose probabilities are to be averaged, once the temperature is known."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_kd._internal.sparse_targets import SparseTarget
from keras_kd._types import Number, Tensor


class Mixture(NamedTuple):
    """What an ensemble predicts: averaging probabilities has to wait for the temperature, which only a term knows.

    Attributes:
        logits: one tensor per member, (..., classes).
        log_weights: logarithms of weights that add up to 1, (members,) or (..., members).
    """

    logits: tuple[Tensor, ...]
    log_weights: Tensor


class OfLabels(Mixture):
    """The same of logits that are yes-or-no each: they are averaged label by label, unless a loss has classes."""


def of_kind(side: Any, kind: str) -> Any:
    """Return a mixture of a sigmoid head, see `heads.KINDS`, as one of independent labels; anything else as it is."""
    return OfLabels(*side) if isinstance(side, Mixture) and kind == "sigmoid" else side


def members(side: Tensor | Mixture) -> tuple[Tensor, ...]:
    """Return the logits of each member, or the one tensor that is no mixture."""
    return side.logits if isinstance(side, Mixture) else (side,)


def on_logits(function: Callable[[Any], Any], side: Any) -> Any:
    """Apply a function to a tensor, to each in a tuple of them, to the logits of each member, or of named classes."""
    if isinstance(side, SparseTarget):
        return side.of_numbers(function)
    if isinstance(side, Mixture):
        return side._replace(logits=tuple(function(each) for each in side.logits))
    return tuple(on_logits(function, each) for each in side) if isinstance(side, tuple) else function(side)


def averaged(side: Any, temperature: Number, per_label: bool | None) -> Any:
    """Return logits whose probabilities at `temperature` are the members' average there; a tensor stays as it is.

    T * logsumexp_m(log_softmax(z_m / T) + log w_m), exactly, plus what makes its softmax at T = 1 add up to 1: the same
    constant for each example as the logits of a softmax have (see `heads`). For labels that are judged one by one, the
    logit of the average of the sigmoids. The average of one member is its logits.

    Args:
        side: a tensor, a `Mixture`, or a tuple of them.
        temperature: T, above 0.
        per_label: whether each logit is a yes-or-no of its own; None where only the head decides, see `OfLabels`.
    """
    if isinstance(side, tuple) and not isinstance(side, Mixture):
        return tuple(averaged(each, temperature, per_label) for each in side)
    if not isinstance(side, Mixture):
        return side
    if len(side.logits) == 1:
        return side.logits[0]
    softened = [logits / temperature for logits in side.logits]
    if not (isinstance(side, OfLabels) if per_label is None else per_label):
        mean = _log_mean([ops.log_softmax(each, axis=-1) for each in softened], side.log_weights)
        return ops.log_softmax(temperature * mean, axis=-1)
    yes = _log_mean([ops.log_sigmoid(each) for each in softened], side.log_weights)
    no = _log_mean([ops.log_sigmoid(-each) for each in softened], side.log_weights)
    return temperature * (yes - no)


def _log_mean(log_probabilities: list[Tensor], log_weights: Tensor) -> Tensor:
    weighted = [each + log_weights[..., m : m + 1] for m, each in enumerate(log_probabilities)]
    return ops.logsumexp(ops.stack(weighted), axis=0)
