"""What a `fit` is like in which a student writes between the epochs."""

from typing import Any

from keras_kd._internal import raw_views


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


def check_same(settings: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuse rollouts that were saved with other settings."""
    for name, value in settings.items():
        if saved[name] != value:
            raise ValueError(
                f"Expected the rollouts that were saved, with {name} = {saved[name]!r}. Received: {value!r}. Make them "
                "with the same arguments, or begin in another folder."
            )
