"""Distiller: trains a student under a teacher, through Keras's own `fit`. Everything meets here."""

import types
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_kd import preflight, schedules
from keras_kd._internal import (
    batches,
    heads,
    layer_reader,
    lora_adapters,
    raw_examples,
    raw_views,
    soft_targets,
    student_overrides,
    unlabelled_rows,
)
from keras_kd._internal.loss_tracker import LossTracker
from keras_kd._internal.written_examples import LiveTeacher, WrittenExamples
from keras_kd._keras import accumulation, compiled, gradients, layer_tree, loops, replicas, step_errors
from keras_kd._keras.trainer import Trainer
from keras_kd._serialization import serializable
from keras_kd._types import Number, Schedule, Tensor, Tensors
from keras_kd.language import fused_objective
from keras_kd.language.fused_objective import FusedObjective
from keras_kd.objective import Objective, check_alpha, check_terms, default_term, has_student_loss
from keras_kd.preflight import refusals
from keras_kd.teachers import Teacher, as_teacher
from keras_kd.teachers.base import AnyTeacher
from keras_kd.temperature import check_temperature
from keras_kd.term import Term


@serializable
class Distiller(Trainer):
    """Train a student on labels and on the predictions of a teacher.

    The objective: `alpha * sum(weight_i * term_i) + (1 - alpha) * student_loss + regularisation`.

    `fit`, `evaluate`, `predict`, callbacks and saving are Keras's own. `predict` and `evaluate` run the student alone
    (`evaluate` where there are labels and a loss; else it runs the teacher, too); after `fit` it is a plain Keras
    model, `distiller.student`. A student's own `compute_loss`, `compute_metrics`, `test_step` and `predict_step` are
    called, with what the Distiller was compiled with; `student_loss` is what its `compute_loss` returns, less its
    regularisation. No file that the Distiller or a callback writes holds the teacher: after loading, assign
    `distiller.teacher` before `fit`.

    Tasks of KerasHub, as student, teacher or both, take raw strings or images, each by its own preprocessor, until that
    is set to None. The labels and weights are those that the student's returns. A task whose adapters were enabled
    (LoRA) after its first `generate` goes on generating as before: compile it again.

    Args:
        student: the model that is trained.
        teacher: a trained Keras model, layer or function of x, which returns logits unless `teachers.Frozen(function,
            head=...)` is given; a `keras_kd.teachers.Teacher`; or a list of these, whose probabilities are averaged.
            None only for a Distiller that gets its teacher later.
        terms: what is learned from the teacher. None: `[Term(losses.kl_divergence)]`, plain knowledge distillation; for
            a student of one sigmoid unit, or of one logit under a teacher of one, `[Term(losses.binary_kl)]`.
        student_head: what the student's outputs mean (see `teachers.Frozen`), where "auto" does not recognise it.
        name: name of the model.

    Raises:
        TypeError: student, teacher or a term is of another type.
        ValueError: what does not fit together: one model twice, an unbuilt teacher, shapes, class counts, layer names,
            names of terms; a student that overrides `train_step`.

    Example:
        >>> distiller = Distiller(student=student, teacher=teacher)
        >>> distiller.compile(optimizer="adam", loss="sparse_categorical_crossentropy", temperature=4.0, alpha=0.5)
        >>> distiller.fit(x, y, epochs=10)

    Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531.
    """

    def __init__(
        self,
        *,
        student: keras.Model,
        teacher: AnyTeacher,
        terms: Iterable[Term] | None = None,
        student_head: str | dict[str, str] = "auto",
        name: str = "distiller",
    ) -> None:
        if not isinstance(student, keras.Model):
            raise TypeError(f"Expected the student to be a keras.Model. Received: {student!r}")
        student_overrides.check(student)
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
        # What must not be tracked: the teacher, and numbers that a restored checkpoint of the best weights must leave.
        self._untracked = types.SimpleNamespace(
            teacher=None,
            alpha=None,
            temperature=None,
            unlabelled=False,
            looked=False,
            fused=None,
            fused_head=False,
            loss_weights=None,
            accumulated=None,
            adapters=0,
            written=None,
        )
        self.student = student
        self.student_head = student_head
        self.terms = check_terms([default_term(student, student_head, teacher)] if terms is None else list(terms))
        names = [term.name for term in self.terms] if len(self.terms) > 1 else []
        self._means = LossTracker(["student_loss", "distillation_loss", *names])
        self.stateful_teachers: list[Teacher] = []  # tracked and saved, unlike `teacher`: what changes with the student
        self.built = student.built
        self.teacher = teacher

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
        *,
        temperature: Schedule = 2.0,
        alpha: Schedule = 0.5,
        fused_head: bool | str = "auto",
    ) -> None:
        """Set the objective: `alpha * sum(weight_i * term_i) + (1 - alpha) * student_loss + regularisation`.

        `alpha` weights the teacher, `1 - alpha` the labels; softened terms carry T**2, so that the temperature does not
        change which of the two dominates. Coming from the keras.io example or from torchdistill, where `alpha` weights
        the labels: `alpha=1 - alpha`. Coming from `keras.distillation`: `alpha=1 - student_loss_weight`.

        With `alpha=0.5` the objective is half of the `cross-entropy + weight * term` of most papers, regularisation
        aside, so that their learning rates and weight decays do not transfer. Under SGD, take twice the paper's
        learning rate and half its weight decay. The steps of Adam do not depend on the size of the objective; L2
        regularisers and thresholds for clipped gradients are halved there too.

        With the optimizer's `gradient_accumulation_steps`, batches step as the one batch that they make: each counts by
        what its means are divided by, so that 12 tokens and 2 step as 14. (Sums are averaged, as Keras does. Losses of
        whole batches, and those that layers add, count by the same.) A part of the objective that counts otherwise
        stops the training.

        All arguments but the last three are those of `keras.Model.compile`, in its order.

        Args:
            optimizer: as in `keras.Model.compile`.
            loss: the loss on labels, as in `keras.Model.compile`. None only with `alpha=1`, or where the student
                defines `compute_loss`; at `alpha=1`, a loss that is given is computed and logged. Without one,
                `evaluate` and validation report how far the student is from the teacher.
            loss_weights: as in `keras.Model.compile`.
            metrics: as in `keras.Model.compile`; they see the student's outputs, and need labels where these are given.
            weighted_metrics: as in `keras.Model.compile`.
            run_eagerly: as in `keras.Model.compile`.
            steps_per_execution: as in `keras.Model.compile`.
            jit_compile: as in `keras.Model.compile`. Under XLA, a step that a check stops changes no weights either,
                but no error is raised: the loss is NaN.
            auto_scale_loss: as in `keras.Model.compile`.
            temperature: T, above 0. A number, a Keras schedule, or a function of the optimizer's step. For terms that
                have none of their own: most of `methods` bring their paper's.
            alpha: weight of the teacher, 0 to 1. 0 is plain training, 1 needs no labels. A number, a Keras schedule, or
                a function of the optimizer's step. Values of schedules and functions are checked in each step.
            fused_head: whether the objective is computed from what both models multiply with their vocabularies, some
                positions at a time, so that no tensor of all logits exists. For language models under a live or cached
                teacher, with losses of `keras_kd.losses` on the logits,
                `SparseCategoricalCrossentropy(from_logits=True)` or no loss, and no metrics. "auto": where that holds,
                from 16,384 classes on. True: or an error names what is missing. False: never.

        Raises:
            ValueError: `alpha` or `temperature` out of range; `fused_head=True` where that cannot be; `alpha` below 1
                without a `loss`; under a strategy with several replicas: gradient accumulation, `steps_per_execution`
                above 1, XLA on processors.
        """
        check_temperature(temperature)
        check_alpha(alpha)
        if fused_head not in (True, False, "auto"):
            raise ValueError(f'Expected `fused_head` to be True, False or "auto". Received: fused_head={fused_head!r}')
        if loss is None and (callable(alpha) or alpha < 1) and not student_overrides.has(self.student, "compute_loss"):
            raise ValueError(
                f"Expected a `loss` for the labels' share of 1 - alpha. Received: loss=None, alpha={alpha!r}. "
                "Give a loss, or compile with alpha=1.0 to learn from the teacher alone."
            )
        compiled.forget(self)
        super().compile(
            optimizer,
            loss,
            loss_weights,
            metrics,
            weighted_metrics,
            run_eagerly,
            steps_per_execution,
            jit_compile,
            auto_scale_loss,
        )
        replicas.check_supported(self)
        self._untracked.accumulated = accumulation.Accumulation(self.optimizer)
        Objective(self).check_tails(temperature)
        self._untracked.fused_head, self._untracked.loss_weights = fused_head, loss_weights
        self._untracked.unlabelled = False
        self.temperature = temperature
        self.alpha = alpha
        self._untracked.fused = self._fused_objective()

    def call(self, inputs: Tensors, training: bool | None = None) -> Tensors:
        """Run the student; targets that the inputs may carry are ignored."""
        return self.student(layer_reader.select(self.student, soft_targets.inputs(inputs)), training=training)

    def fit(  # type: ignore[override]  # Keras's further arguments go by name
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        **keras_arguments: Any,
    ) -> keras.callbacks.History:
        """Train the student, as `keras.Model.fit` does; a teacher may prepare the data, and follow the epochs.

        Args:
            x: as in `keras.Model.fit`; or what `TeacherCache.join` returns; or raw examples, for tasks of KerasHub:
                strings as a list or an array, images, {"prompts": ..., "responses": ...} where the preprocessor takes
                that, or a tf.data.Dataset of batches of them.
            y: as in `keras.Model.fit`.
            batch_size: as in `keras.Model.fit`.
            epochs: as in `keras.Model.fit`.
            verbose: as in `keras.Model.fit`.
            callbacks: as in `keras.Model.fit`.
            **keras_arguments: the others of `keras.Model.fit`.

        Returns:
            Keras's History.

        Warns:
            UserWarning: before the first step: the outputs of a model or function look like probabilities, and are
                taken for logits; before a long training on arrays: the teacher is no better than guessing. See `check`.
        """
        x, y = batches.lists_as_arrays((x, y))
        if y is None and keras_arguments.get("sample_weight") is not None:
            raise ValueError(
                "Expected labels beside `sample_weight`: Keras drops the weights of arrays that have none. Received: "
                "y=None. Pass labels as y; with alpha=1.0 nothing is learned from them."
            )
        refusals.check_labels(y)
        unlabelled_rows.check(self, x)
        refusals.check_batch_size(batch_size)
        lora_adapters.check_kept(self.student, self._untracked.adapters)
        self._untracked.written = x if isinstance(x, WrittenExamples) else None
        if isinstance(x, WrittenExamples):
            validates = keras_arguments.get("validation_data") is not None
            x.follow(self, keras_arguments.pop("steps_per_epoch", None), validates)
            callbacks = loops.with_callbacks(callbacks, *x.callbacks(self._live_teacher()))
            keras_arguments["shuffle"] = False  # they are in an order of their own seed
        if self.teacher is not None:
            self._untracked.looked = preflight.warn_of_probabilities(self, x)
            weights = keras_arguments.get("sample_weight")
            preflight.warn_of_a_guessing_teacher(self, x, y, weights, batch_size or 32, epochs)
            x = self.teacher.before_fit(x, verbose)
            callbacks = loops.with_callbacks(callbacks, self.teacher.callbacks())
        if lora_adapters.count(self.student):
            callbacks = loops.with_callbacks(callbacks, [lora_adapters.Revival(self.student)])
        x, y, batch_size, keras_arguments = self._preparation.for_fit(x, y, batch_size, keras_arguments)
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, **keras_arguments)

    def prepared(self, x: Any, y: Any, sample_weight: Any, batch_size: int | None, *, predicts: bool) -> Any:
        """Return x, y, sample_weight and batch_size for `evaluate` or `predict`: of raw examples what models read."""
        x, y, sample_weight = batches.lists_as_arrays((x, y, sample_weight))
        return self._preparation.for_evaluation(x, y, sample_weight, batch_size, predicts)

    @property
    def _preparation(self) -> raw_examples.Preparation:
        """What makes each model's own view of raw examples."""
        return raw_examples.Preparation(self.student, self.teacher, self._runs_alone)

    def check(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        batches: int = 8,
        sample_weight: Any = None,
        epochs: int | None = None,
    ) -> "preflight.Report":
        """Report on a few batches before `fit`: is the teacher any good on them? See `preflight.check`."""
        return preflight.check(self, x, y, batch_size, batches, sample_weight, epochs)

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """Take one step: one forward pass of the student with every tap in it, one of the teacher."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._check_teacher()
        self._untracked.unlabelled |= not refusals.reads_labels(self, y)
        refusals.check_ready(self, y)
        accumulated = self._untracked.accumulated
        with tf.GradientTape() as tape, accumulated.counting() as divisors:
            parts, y_pred = self._parts(x, y, sample_weight, training=True, unrecorded=tape.stop_recording)
            scaled = self.optimizer.scale_loss(accumulated.weighted(parts["loss"], divisors))
        variables = self.trainable_variables
        gradients = replicas.clip_together(self.optimizer, tape.gradient(scaled, variables))
        gradients = step_errors.unless_stopped(self, parts["loss"], gradients)
        with tf.control_dependencies([scaled]):  # a step that a check has stopped is not counted either
            accumulated.make_room(divisors, gradients, variables)
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self.teacher.after_step(self.student, self.optimizer.iterations)
        return self._report(parts, x, y, y_pred, sample_weight)

    def test_step(self, data: Any) -> dict[str, Tensor]:
        """Evaluate the student alone; without labels or a loss, report how far it is from the teacher."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if student_overrides.has(self.student, "test_step"):
            return replicas.with_axis(student_overrides.test_step(self, (self._view(x), y, sample_weight)))
        if has_student_loss(self, y):
            hard, y_pred = self._evaluated(x, y, sample_weight)
            parts = {"student_loss": hard, "loss": hard + compiled.regularisation(self.student)}
        else:
            self._check_teacher()
            parts, y_pred = self._parts(x, y, sample_weight, training=False)
        return self._report(parts, x, y, y_pred, sample_weight)

    def predict_step(self, data: Any) -> Tensors:
        """Predict as the student does."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        view = layer_reader.select(self.student, soft_targets.inputs(x))
        return self.student.predict_step(keras.utils.pack_x_y_sample_weight(view))  # as Keras packs x without labels

    def objective(self, x: Tensors, y: Tensors = None, sample_weight: Tensors = None) -> dict[str, Tensor]:
        """Return every part of the objective for one batch, in inference mode, by its name in the logs.

        Args:
            x: inputs, (batch, ...), raw where a model preprocesses examples of its own.
            y: labels, or None.
            sample_weight: weights, or None.

        Returns:
            A scalar for "loss", "distillation_loss", each term, and "student_loss" where there are labels and a loss.
        """
        self._check_teacher()
        x, y, sample_weight = self._preparation.of_batch(batches.lists_as_arrays(x), y, sample_weight)
        return self._parts(x, y, sample_weight, training=False)[0]

    @property
    def teacher(self) -> Any:
        """The `keras_kd.teachers.Teacher` in use, or None. Assign what the constructor takes.

        Not tracked and not saved, unless it changes with the student (`teachers.EMA`).
        """
        return self._untracked.teacher

    @teacher.setter
    def teacher(self, teacher: AnyTeacher) -> None:
        if teacher is self.student:
            raise ValueError(
                f"Expected the student and the teacher to be two models. Received {self.student.name!r} as both. "
                "To learn from the student's own outputs, use keras_kd.teachers.SelfTeacher or EMA."
            )
        teacher = as_teacher(teacher) if teacher is not None else None
        ours = tuple(name for term in self.terms for name in term.student_names)
        theirs = tuple(name for term in self.terms for name in term.teacher_names)
        reader = layer_reader.Reader(self.student, ours, self.student_head, owner="student")
        if teacher is not None:
            teacher.bind(self.student, theirs)
            more = teacher.layers_of_student(theirs)
            reader = (
                layer_reader.Reader(self.student, (*ours, *more), self.student_head, owner="student")
                if more
                else reader
            )
            self.supports_jit = layer_tree.supports_jit(teacher)
        self._untracked.reader, self._untracked.teacher = reader, teacher
        self.stateful_teachers.clear()
        self.stateful_teachers.extend(teacher.stateful() if teacher is not None else [])
        with gradients.freed_with(self):
            Objective(self).prepare()
        self._untracked.fused = self._fused_objective()
        self._drop_train_function()

    @property
    def columns(self) -> set[str]:
        """Names of the columns of examples that the terms and the teacher read, see `keras_kd.Joined`."""
        of_teacher = () if self.teacher is None else self.teacher.columns()
        return {*of_teacher, *(name for term in self.terms for name in term.rows or ())}

    @property
    def temperature(self) -> Any:
        """The temperature, a number or a function of the step. Assigning a number needs no retrace."""
        return schedules.plain(self._untracked.temperature)

    @temperature.setter
    def temperature(self, temperature: Schedule) -> None:
        temperature = check_temperature(temperature)
        Objective(self).check_tails(temperature)
        self._assign("temperature", temperature)

    @property
    def alpha(self) -> Any:
        """The weight of the teacher, a number or a function of the step. Assigning a number needs no retrace."""
        return schedules.plain(self._untracked.alpha)

    @alpha.setter
    def alpha(self, alpha: Schedule) -> None:
        alpha = check_alpha(alpha)
        if alpha != 1.0 and not (compiled.has_loss(self) or student_overrides.has(self.student, "compute_loss")):
            raise ValueError(f"Expected alpha=1.0 where `compile` was given no `loss`. Received: alpha={alpha!r}.")
        self._assign("alpha", alpha)
        if alpha != 1.0 and self._untracked.unlabelled:
            self._drop_train_function()  # what was traced without labels would go on without alpha

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics of `compile`, of the parts of the objective, and of the student's layers."""
        return compiled.metrics(self, left_out=self.stateful_teachers)

    @property
    def output_names(self) -> list[str]:
        """Names of the student's outputs, by which `loss`, `metrics` and labels may be given."""
        return self.student.output_names

    def get_metrics_result(self) -> dict[str, Tensor]:
        """Return all metrics by name, without those of `compile` while no labels have built them."""
        given = compiled.container(self)
        results: dict[str, Tensor] = {}
        for metric in self.metrics:
            if metric is not given or compiled.is_built(metric):
                result = metric.result()
                result = result if isinstance(result, dict) else {metric.name: result}
                # A student may have a tracker named "loss" of its own: the Distiller's comes first, and stays.
                results |= {name: value for name, value in result.items() if name not in results}
        return results

    def get_config(self) -> dict[str, Any]:
        """Return the student, the terms and the head; of teachers, only one that changes with the student."""
        kept = {"teacher": keras.saving.serialize_keras_object(self.teacher)} if self._teacher_is_saved() else {}
        return {
            "student": keras.saving.serialize_keras_object(self.student),
            "adapters": max(self._untracked.adapters, lora_adapters.count(self.student)),
            **kept,
            "terms": [keras.saving.serialize_keras_object(term) for term in self.terms],
            "student_head": self.student_head,
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),  # a Functional student's file has none
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "Distiller":
        """Make a Distiller, mostly without a teacher: it predicts and evaluates, and needs one before `fit`."""
        config = schedules.from_config(config, custom_objects)
        dtype, count = config.pop("dtype"), config.pop("adapters", 0)
        distiller = cls(**{"teacher": None, **config})
        distiller._untracked.adapters = count
        distiller.dtype_policy = dtype
        return distiller

    def get_compile_config(self) -> dict[str, Any]:
        """Return the arguments of `compile`; functions that a file cannot hold have to be given again after loading."""
        if not self.compiled:
            return {}
        return {
            **super().get_compile_config(),
            "temperature": schedules.to_config(self.temperature, "distiller.temperature"),
            "alpha": schedules.to_config(self.alpha, "distiller.alpha"),
            "fused_head": self._untracked.fused_head,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with `get_compile_config`'s dict."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def save_own_variables(self, store: Any) -> None:
        """Save temperature and alpha, where they are numbers, and what Keras leaves out: random layers, counts."""
        super().save_own_variables(store)
        for number, generator in enumerate(layer_tree.seed_generators(self)):
            store[f"seed_{number}"] = ops.convert_to_numpy(generator.state)
        for name in ("temperature", "alpha"):
            if self.compiled and not callable(getattr(self, name)):
                store[name] = getattr(self, name)
        counted = self._untracked.accumulated.state() if self.compiled else None
        if counted is not None:
            store["counted"] = counted
        if self._untracked.written is not None:
            for name, value in self._untracked.written.state().items():
                store[f"rollouts_{name}"] = value

    def load_own_variables(self, store: Any) -> None:
        """Restore temperature and alpha as they were assigned last, and random layers where they were."""
        for number, generator in enumerate(layer_tree.seed_generators(self)):
            if f"seed_{number}" in store:
                generator.state.assign(store[f"seed_{number}"][()])
        for name in ("temperature", "alpha"):
            if name in store and not callable(getattr(self, name)):
                self._assign(name, float(store[name][()]))
        if "counted" in store and self.compiled:
            self._untracked.accumulated.restore(store["counted"][()])
        written = self._untracked.written
        if "rollouts_settings" in store and written is not None:
            written.restore({name: store[f"rollouts_{name}"][()] for name in written.state_names})

    def __setattr__(self, name: str, value: Any) -> None:
        """Send the teacher past Keras's tracker, which would count its weights as the Distiller's."""
        if name == "teacher":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        """Leave out the teacher: Keras saves what it finds here."""
        return [name for name in super().__dir__() if name != "teacher"]

    def _teacher_is_saved(self) -> bool:
        return any(teacher is self.teacher for teacher in self.stateful_teachers)

    def _read_student(self, x: Tensors, training: bool) -> tuple[Tensors, dict[str, Tensor]]:
        with heads.normalizing(self._untracked.normalizing):
            result = self._untracked.reader(self._view(x), training=training)
        self.built = True
        return result

    def _view(self, x: Tensors) -> Tensors:
        """Return what the student is given of a batch's x."""
        if self.teacher is None or raw_views.are_made(soft_targets.without_targets(x)):
            return soft_targets.inputs(x)
        return self.teacher.student_view(x)

    def _runs_alone(self, y: Tensors) -> bool:
        """Return whether a batch with labels y is evaluated by the student alone."""
        return has_student_loss(self, y) or student_overrides.has(self.student, "test_step")

    def _read_teacher(self, x: Tensors, student: dict[str, Tensor], y: Tensors) -> dict[str, Any]:
        with heads.normalizing(self._untracked.normalizing):
            return self.teacher(x, student, labels=y, step=self.optimizer.iterations)

    def _live_teacher(self) -> LiveTeacher | None:
        """Return what runs the teacher of each step on x and y, where that can be timed apart from the student."""
        names = tuple(name for term in self.terms for name in term.teacher_names)
        is_alone = self.teacher is not None and self.teacher.cacheable(names) and not replicas.are_several(self)
        if not is_alone or self._untracked.fused is not None:  # whose teacher's logits are never there as a whole
            return None

        def predict(x: Tensors, y: Tensors) -> dict[str, Any]:
            outputs = self._read_teacher(x, {}, y)
            kinds = {name: self.teacher.kind(name) for name in outputs}
            return {name: soft_targets.encode(outputs[name], kind, None, "float32") for name, kind in kinds.items()}

        return predict if self.run_eagerly else tf.function(predict, autograph=False, jit_compile=self.jit_compile)

    def _parts(self, x: Tensors, y: Tensors, sample_weight: Tensors, **how: Any) -> tuple[dict[str, Tensor], Tensors]:
        """Return every part of the objective by its name in the logs, and the student's outputs, if they were there."""
        if self._untracked.fused is not None:
            return self._untracked.fused.parts(x, y, sample_weight, **how), None
        return Objective(self).parts(x, y, sample_weight, **how)

    def _fused_objective(self) -> FusedObjective | None:
        """Return what computes the objective without logits, or None where they are computed."""
        wanted = self._untracked.fused_head
        if wanted is False or self.teacher is None or (wanted == "auto" and not fused_objective.pays(self)):
            return None
        hindrance = fused_objective.hindrance(self)
        if wanted is True and hindrance:
            raise ValueError(f"Expected what `fused_head=True` needs. Received what does not fit: {hindrance}.")
        return None if hindrance else FusedObjective(self)

    def _evaluated(self, x: Tensors, y: Tensors, sample_weight: Tensors) -> tuple[Tensor, Tensors]:
        """Return the labels' part in inference mode, and the student's outputs, if they were there."""
        if self._untracked.fused is not None:
            return self._untracked.fused.student_loss(x, y, sample_weight), None
        return Objective(self).student_loss(x, y, sample_weight)

    def shares(self, has_labels: bool) -> tuple[Number, Number]:
        """Return the weights of the teacher and of the labels in this step: `alpha` and `1 - alpha`, or 1 and 0."""
        alpha = schedules.at(self._untracked.alpha, self.optimizer.iterations) if has_labels else 1.0
        return alpha, 1.0 - alpha

    def _report(
        self, parts: dict[str, Tensor], x: Tensors, y: Tensors, y_pred: Tensors, sample_weight: Tensors
    ) -> dict[str, Tensor]:
        """Count a batch into the metrics, and return those that it has changed."""
        batch_size = replicas.batch_share(x)
        compiled.update_loss(self, parts["loss"], batch_size)
        self._means.update_state(parts, batch_size)
        silent = set(self._means.names) - parts.keys()
        if student_overrides.has(self.student, "compute_metrics"):
            results = student_overrides.compute_metrics(self, self._view(x), y, y_pred, sample_weight)
            results = self.get_metrics_result() | results | self._means.result()
        elif y is None or y_pred is None:
            silent |= compiled.names(self)
            results = self.get_metrics_result()
        else:
            results = self.compute_metrics(x, y, y_pred, sample_weight)
        refusals.check_log_names(self, self._means.names)
        return replicas.with_axis({name: value for name, value in results.items() if name not in silent})

    def before_training(self, iterator: Any) -> Any:
        """Make what the first step would make, which need not be traced twice then, and look at what it will read."""
        compiled.build_optimizer(self)
        self.before_evaluation(iterator)
        return iterator if self._untracked.looked else preflight.look_at_first_batch(self, iterator)

    def before_evaluation(self, iterator: Any) -> Any:
        """Make what the first step of an evaluation would make, and refuse names that would be twice in the logs."""
        own_loss = student_overrides.has(self.student, "compute_loss")  # it makes what the losses are given of y
        compiled.build_loss_and_metrics(self, iterator, self._untracked.reader.output, own_loss)
        refusals.check_log_names(self, self._means.names)
        return iterator

    def _assign(self, name: str, value: Schedule) -> None:
        """Set a number in place; put a function in its place, or back, with a new trace."""
        current = getattr(self._untracked, name)
        if isinstance(current, schedules.Adjustable) and not callable(value):
            current.assign(value)
        else:
            setattr(self._untracked, name, value if callable(value) else schedules.Adjustable(value))
            self._drop_train_function()

    def _drop_train_function(self) -> None:
        self._untracked.unlabelled = False
        if self.train_function is not None:
            self.make_train_function(force=True)
        self.test_function = None

    def _check_teacher(self) -> None:
        if self.teacher is None:
            raise ValueError(
                "This Distiller has no teacher: files do not hold it. Assign one: distiller.teacher = teacher."
            )
