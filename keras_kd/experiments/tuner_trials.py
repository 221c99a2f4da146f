"""The trials of a search, as KerasTuner calls them."""

import time
from typing import Any

import keras

from keras_kd._internal import teacher_fingerprints
from keras_kd._internal.log import info
from keras_kd._internal.number_formats import duration
from keras_kd.distiller import Distiller
from keras_kd.experiments import run_settings
from keras_kd.experiments.benchmark_run import Student, digests, fresh_student, fresh_terms, teacher_of_run
from keras_kd.experiments.data_splits import Part
from keras_kd.experiments.search_space import methods_of, parameter, weight_of
from keras_kd.experiments.tune_result import text
from keras_kd.stages.pipeline import fresh_arguments
from keras_kd.teachers.base import AnyTeacher
from keras_kd.teachers.ensemble import as_teacher
from keras_kd.teachers.in_memory import InMemory


class Search:
    """Build and fit a trial. KerasTuner's HyperModel is made of it, as importing KerasTuner has to wait.

    Args:
        student: see `tune`.
        teacher: see `tune`.
        parts: training and validation data.
        space: see `tune`.
        compile_arguments: see `tune`.
        seed: see `tune`.
        objective: its name in the logs.
        epochs: of each trial, at most.
        total: epochs of the whole search, about.
        talks: whether to print progress.
    """

    def __init__(
        self,
        student: Student,
        teacher: AnyTeacher,
        parts: dict[str, Part],
        space: dict[str, Any],
        compile_arguments: dict[str, Any],
        seed: int,
        objective: str,
        epochs: int,
        total: float,
        talks: bool,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.parts = parts
        self.space = space
        self.compile_arguments = compile_arguments
        self.seed = seed
        self.objective = objective
        self.given = epochs
        self.total = total
        self.talks = talks and keras.config.is_interactive_logging_enabled()
        self.remembered = InMemory(teacher)
        self.trials, self.epochs, self.kept = 0, 0, 0
        self.started = time.perf_counter()

    def describe(self) -> dict[str, Any]:
        """Return what decides the search, for comparison."""
        student = fresh_student(self.student, self.seed, "student")
        named = {name: run_settings.describe(getattr(self, name)) for name in ("space", "compile_arguments", "seed")}
        return {
            **named,
            **digests(self.teacher, self.parts),
            "student": list(teacher_fingerprints.of_teacher(as_teacher(student)).values()),
            "objective": self.objective,
        }

    def as_hypermodel(self, keras_tuner: Any) -> Any:
        """Return what KerasTuner calls."""
        search = self

        class Trials(keras_tuner.HyperModel):
            def build(self, hp: Any) -> Distiller:
                return search.build(hp)

            def fit(self, hp: Any, model: Distiller, **arguments: Any) -> keras.callbacks.History:
                return search.fit(hp, model, **arguments)

        return Trials()

    def build(self, hp: Any) -> Distiller:
        """Make the Distiller of a trial."""
        if not self.talks:
            keras.config.disable_interactive_logging()  # KerasTuner has just cleared Keras's session, and this with it
        student = fresh_student(self.student, self.seed, "student")
        numbers = [name for name in ("temperature", "alpha") if name in self.space]
        chosen: dict[str, Any] = {name: parameter(hp, name, self.space[name]) for name in numbers}
        methods = methods_of(self.space)
        method = methods[hp.Choice("method", list(methods)) if "method" in self.space else next(iter(methods))]
        terms = method(student, self.teacher) if callable(method) else fresh_terms(method)
        weights = {name: parameter(hp, weight_of(name), each) for name, each in self.space.get("weights", {}).items()}
        for term in terms:
            term.weight = weights.get(term.name, term.weight)
        teacher = teacher_of_run(terms, self.parts["train"], self.teacher, self.remembered)
        distiller = Distiller(student=student, teacher=teacher, terms=terms)
        distiller.compile(**fresh_arguments({**self.compile_arguments, **chosen}, distils=True))
        distiller.optimizer.build(distiller.trainable_variables)  # Hyperband goes on from a file that holds its state
        return distiller

    def go_on_from(self, tuning: Any) -> None:
        """Say where the search begins."""
        self.trials = len(completed(tuning))
        found = f"; {self.trials} trials are kept" if self.trials else ""
        self.kept = self.epochs = sum(epochs_of(trial, self.given) for trial in completed(tuning))
        info(f"tune: about {self.total:,.0f} epochs in all{found}")

    def fit(self, hp: Any, model: Distiller, **arguments: Any) -> keras.callbacks.History:
        """Train a trial, and report progress."""
        keras.utils.set_random_seed(self.seed)
        data = self.parts["train"].shuffled(self.seed, model.teacher)
        validation = self.parts["validation"].batches()
        history = model.fit(data, validation_data=validation, shuffle=False, **{**arguments, "verbose": 0})
        self.trials += 1
        self.epochs += len(history.epoch)
        values = history.history[self.objective]
        shown = ", ".join(f"{name} {text(value)}" for name, value in hp.values.items() if not name.startswith("tuner/"))
        pace = (time.perf_counter() - self.started) / (self.epochs - self.kept)
        left = max(0.0, self.total - self.epochs) * pace
        info(f"trial {self.trials}: {shown}: {self.objective} {values[-1]:.4f}; about {duration(left)} left")
        return history


def completed(tuning: Any) -> list[Any]:
    """Return KerasTuner's records of the trials that are finished."""
    return [trial for trial in tuning.oracle.trials.values() if trial.status == "COMPLETED"]


def epochs_of(trial: Any, given: int) -> int:
    """Return how many epochs a trial has run: Hyperband goes on from where an earlier trial stopped."""
    values = trial.hyperparameters.values
    return values["tuner/epochs"] - values["tuner/initial_epoch"] if "tuner/epochs" in values else given
