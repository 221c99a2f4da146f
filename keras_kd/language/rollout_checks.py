"""What a `fit` is like in which a student writes between the epochs."""

from typing import Any

import keras

from keras_kd._internal import loss_functions, raw_views
from keras_kd._keras import accumulation
from keras_kd._types import Schedule
from keras_kd.language.decoding import check_whole
from keras_kd.losses._sequences import sequence_reverse_kl

#: How texts are drawn from a student's own distribution.
_PLAIN = {"temperature": 1, "top_p": 1}


def checked(student: Any) -> keras.Model:
    """Return a student; refuse what is no model."""
    if not isinstance(student, keras.Model):
        raise TypeError(f"Expected the student to be a keras.Model. Received: {student!r}")
    return student


def check_sizes(batch_size: int, generation_batch_size: int | None, every: int, replay: Schedule) -> None:
    """Refuse sizes that are no whole numbers from 1 on."""
    check_whole({"batch_size": batch_size, "every": every, **({} if callable(replay) else {"replay": replay})})
    if generation_batch_size is not None:
        check_whole({"generation_batch_size": generation_batch_size})


def check_followed(rollouts: Any, distiller: Any, steps_per_epoch: int | None) -> None:
    """Refuse the `fit` of a Distiller that does not go with rollouts; see `Rollouts.follow`."""
    if steps_per_epoch not in (None, len(rollouts)):
        raise ValueError(
            f"Expected no `steps_per_epoch`: an epoch of these rollouts has {len(rollouts)} steps, between which the "
            f"student writes. Received: {steps_per_epoch}. Make them with every={steps_per_epoch}."
        )
    if distiller.student is not rollouts.student:
        raise ValueError(
            f"Expected rollouts of the student that is trained, {distiller.student.name!r}. Received: those of "
            f"{rollouts.student.name!r}. Make them with student=distiller.student."
        )
    if raw_views.preprocessing(rollouts.student) is not None:
        raise ValueError(
            f"Expected a student that reads tokens, as rollouts are. {rollouts.student.name!r} has a preprocessor. Set "
            "it to None, and that of the teacher, once the Rollouts are made: student.preprocessor = None."
        )
    for term in distiller.terms:
        if loss_functions.unwrapped(term.loss) is sequence_reverse_kl:
            _check_its_own(rollouts.settings, term.name, accumulation.steps(distiller.optimizer))


def _check_its_own(settings: dict[str, Any], term: str, batches: int) -> None:
    """Refuse texts that the student as it is would not write, for a policy gradient.

    Args:
        settings: of the rollouts.
        term: name of the term.
        batches: of a step of the optimizer, between which the student does not change.
    """
    if settings["replay"] != 1 or batches % settings["every"]:
        raise ValueError(
            f"Expected texts of the student as it is, with every=1 and replay=1, for the term {term!r}: the gradient "
            f"of older ones is another. Received: every={settings['every']}, replay={settings['replay']}. Make the "
            "rollouts so, with a larger `batch_size`; let the optimizer have gradient_accumulation_steps=every; or "
            "take methods.gkd(beta=1.0), which learns from any text."
        )
    if any(settings[name] != value for name, value in _PLAIN.items()):
        raise ValueError(
            f"Expected texts that are drawn with temperature=1 and top_p=1, for the term {term!r}: its gradient is "
            f"that of the student's own distribution. Received: temperature={settings['temperature']!r}, "
            f"top_p={settings['top_p']!r}."
        )


def check_same(settings: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuse rollouts that were saved with other settings."""
    for name, value in settings.items():
        if saved[name] != value:
            raise ValueError(
                f"Expected the rollouts that were saved, with {name} = {saved[name]!r}. Received: {value!r}. Make them "
                "with the same arguments, or begin in another folder."
            )
