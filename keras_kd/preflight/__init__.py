"""What can be seen of a distillation before it has cost hours: `Distiller.check`, warnings, and what `fit` refuses."""

import typing

from keras_kd._lazy import attach as _attach

if typing.TYPE_CHECKING:
    from keras_kd.preflight.check_report import Report as Report
    from keras_kd.preflight.checking import check as check
    from keras_kd.preflight.checking import look_at_first_batch as look_at_first_batch
    from keras_kd.preflight.checking import warn_of_a_guessing_teacher as warn_of_a_guessing_teacher
    from keras_kd.preflight.checking import warn_of_probabilities as warn_of_probabilities

_LATER = {
    "Report": "keras_kd.preflight.check_report",
    "check": "keras_kd.preflight.checking",
    "look_at_first_batch": "keras_kd.preflight.checking",
    "warn_of_a_guessing_teacher": "keras_kd.preflight.checking",
    "warn_of_probabilities": "keras_kd.preflight.checking",
}

__getattr__, __dir__, __all__ = _attach(__name__, _LATER)
