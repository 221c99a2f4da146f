"""Let a pruned model learn again from the one that it came from: which of its channels are which of the teacher's."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from keras_kd import losses
from keras_kd._internal.loss_functions import Loss
from keras_kd._types import Schedule
from keras_kd.pruning.prune_report import PruneReport
from keras_kd.pruning.saved_rounds import SavedRounds
from keras_kd.term import Term
from keras_kd.transforms import KeptChannels


class Match(NamedTuple):
    """A layer that a pruned model and the one that it came from both have.

    Attributes:
        layer: its name, as "model/layer".
        transform: what leaves the teacher's kept channels, for `Term(transform=...)`; None where all are kept.
    """

    layer: str
    transform: KeptChannels | None


def matched_layers(report: PruneReport) -> list[Match]:
    """Return the layers that a pruned model shares with the one that it came from, and which channels they share.

    Args:
        report: of `prune`.
    """
    return [
        Match(name, KeptChannels(report.channels[name][1].tolist(), report.channels[name][0]))
        if name in report.channels
        else Match(name, None)
        for name in report.shared
    ]


def feature_terms(
    report: PruneReport, at: Sequence[str], loss: Loss = losses.squared_error, weight: Schedule = 1.0
) -> list[Term]:
    """Compare layers of a pruned model with the kept channels of the same layers of the teacher, without a bridge.

    Args:
        report: of `prune`, or, after several rounds, of `rounds`.
        at: names of layers that both have.
        loss: of features.
        weight: of each term.

    Raises:
        ValueError: a layer is not in both.

    Example:
        >>> terms = kd.methods.kd() + kd.pruning.feature_terms(report, at=["stage_1", "stage_2"], weight=0.1)
    """
    known = {each.layer: each.transform for each in matched_layers(report)}
    missing = [name for name in at if name not in known]
    if missing:
        raise ValueError(f"Expected layers that both models have: {list(known)}. Received: {missing}")
    return [Term(loss, at=(name, name), transform=known[name], weight=weight) for name in at]


def rounds(
    model: keras.Model,
    prune: Callable[[keras.Model, float], tuple[keras.Model, PruneReport]],
    heal: Callable[[keras.Model, PruneReport], Any],
    shares: Sequence[float],
    folder: str | pathlib.Path | None = None,
    seed: int = 0,
) -> tuple[keras.Model, PruneReport]:
    """Prune and heal in turns, a little at a time.

    With a folder, the same call goes on with the first round that was not finished, however the one before has ended,
    and with further shares behind the same first ones, it adds rounds. A round that was stopped is made again from its
    beginning; in it, `heal` goes on with its own epochs where its `fit` has a `keras.callbacks.BackupAndRestore`.

    Args:
        model: where to begin, and what each round's student learns from.
        prune: from a model and a share of this round to a pruned model and its report.
        heal: trains the pruned model, in place; its report is that from `model` on.
        shares: one for each round, falling, as (0.8, 0.65, 0.5).
        folder: where to keep the model of each round, as a `.keras` file, and its report; None keeps nothing.
        seed: of what `prune` and `heal` draw, in each round another one.

    Returns:
        The last model, and the report from `model` to it.

    Raises:
        ValueError: no share; a folder of rounds of another model, with other shares or another seed, or a damaged one.

    Example:
        >>> counted = report.multiplications[0]
        >>> small, report = kd.pruning.rounds(
        ...     teacher,
        ...     prune=lambda model, share: kd.prune(model, multiplications=share * counted, data=x),
        ...     heal=lambda student, report: distil(kd.pruning.recalibrate(student, x)),
        ...     shares=(0.8, 0.65, 0.5),
        ...     folder="runs/rounds",
        ... )
    """
    kept = SavedRounds(folder, model, shares, seed)
    current, report = kept.last()
    for number in range(kept.done, len(shares)):
        keras.utils.set_random_seed(seed + number)
        current, new = prune(current, shares[number])
        report = new if report is None else new.after(report)
        heal(current, report)
        kept.keep(number, current, report)
    if report is None:
        raise ValueError("Expected a share for one round at least. Received: none")
    return current, report
