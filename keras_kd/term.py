"""Term: one loss, where it reads, how much it weighs. The only objective class.

A term reads both sides, and leaves out what does not count; `temperature` has the loss at a temperature, with its T**2,
`_internal` what a loss may be, what names mean, and the reduction to a mean. None of this is applied anywhere else.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops, tree

from keras_kd import bridges, schedules
from keras_kd._internal import ensemble_logits, loss_functions, reduction, row_choice, sparse_targets, term_names
from keras_kd._internal.loss_functions import Loss
from keras_kd._internal.sparse_targets import SparseTarget
from keras_kd._internal.term_names import At
from keras_kd._keras import compiled, masks, step_errors
from keras_kd._serialization import serializable
from keras_kd._types import Number, Schedule, Tensor, Tensors
from keras_kd.temperature import OF_DISTRIBUTIONS, SoftenedLoss, check_temperature

#: How bridges are made that have a name, from the shapes of both sides.
_BRIDGES = {"auto": bridges.auto, "orthogonal": bridges.orthogonal}


@serializable
class Term(keras.layers.Layer):
    """One part of what the student learns from the teacher.

    With s and t what is read on both sides, after `bridge` (student only) and `transform` (both)::

        value = mean over examples and positions of  T**2 * loss(s / T, stop_gradient(t) / T)      where softened
        value = mean over examples and positions of         loss(s, stop_gradient(t))              otherwise

    The mean counts what the loss given to `compile` for the same output counts, divided by the same::

        mean = sum_i c_i w_i value_i / D,   D = sum_i c_i,      the number of what counts
                                            D = sum_i c_i w_i   where that loss has reduction="mean_with_sample_weight"
                                            D = 1               where that loss has reduction="sum"

    with w_i the `sample_weight` or `class_weight`, and c_i 0 where Keras's mask of either side leaves i out, or where
    its label is the `ignore_class` of that loss, and 1 elsewhere.

    Args:
        loss: a function of (student, teacher) or (student, teacher, labels) that returns one value per example or
            position, as in `keras_kd.losses`; a `keras.layers.Layer` with that call, if it owns weights; or one of
            Keras's regression losses, as an object, a function or by its name, such as "huber": the teacher's side is
            its `y_true`. A loss that returns a scalar is taken as a mean over the batch: weights and masks do not apply
            to it.
        at: what to read: "logits", the name of an output of a model with several, a pair
            ("student_layer", "teacher_layer"), or a pair of tuples of names. "backbone/block4" reaches into a nested
            model; "block4:input" is what a layer reads, "dense:pre_activation" what its activation is applied to, and
            "attention:1" the second of several outputs of a layer, or "bert:pooled_output" the one with this key;
            "attention:query" (or key, value) what a `MultiHeadAttention` makes of its inputs, all heads side by side;
            "encoder:map" tokens of images as the map of their patches, without those of the class and registers, and
            "pooled:map" vectors as a map of one cell; "encoder:global" the token of the class, or the mean of a map.
            {"student": ..., "teacher": ...} is a pair, too, and how two outputs of different names are compared: as a
            pair, they could as well be meant to be both read.
        weight: factor of this term in the distillation loss, not negative; a number or a schedule.
        temperature: T, above 0, a number or a schedule. None is the compiled one.
        transform: a function applied to both sides before the temperature.
        bridge: a layer applied to the student's side, trained with the student and never exported; "auto" for the
            smallest projection that makes the shapes meet, found when the Distiller is made; "orthogonal" for a
            `bridges.OrthogonalProjection` to the teacher's channels.
        soften: whether T and T**2 apply. None: on outputs, unless their head is "values".
        sample_weight: the name of the output whose weights, mask and `ignore_class` decide what counts, such as "box"
            for a term that counts the boxes that the loss of "box" counts. "auto": the output that the term reads; for
            one that reads layers, the weights and the reduction of the one output, or the weights given for all. None:
            weights and labels do not matter, masks of what is read do: unlabelled examples count.
        rows: which examples are this term's: the whole numbers that a column of `keras_kd.Joined` may be, by its name,
            as in {"origin": (1, 2)}. The others add 0 to the sum, and count in D: two terms that share the examples of
            a batch add up to one of all. None: all are.
        name: name in the logs, of letters, digits, "_", "-" and ".". None: the loss's name, and the student's layer
            where it reads one.
        **loss_arguments: passed to `loss` by name. Those that are numbers of type float there may be schedules.

    Raises:
        ValueError: a weight, temperature, `at` or name out of range; a name of no Keras loss; a Keras loss that wants
            probabilities or labels, on logits.
        TypeError: `loss` is not callable; arguments for a loss that is an object.

    Example:
        >>> Term(losses.squared_error, at=("conv_2", "backbone/block4"), bridge=keras.layers.Conv2D(64, 1))
    """

    def __init__(
        self,
        loss: Loss | str,
        at: At = "logits",
        weight: Schedule = 1.0,
        *,
        temperature: Schedule | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        bridge: keras.layers.Layer | str | None = None,
        soften: bool | None = None,
        sample_weight: str | None = "auto",
        rows: row_choice.Rows | None = None,
        name: str | None = None,
        **loss_arguments: Any,
    ) -> None:
        loss = loss_functions.as_loss(loss, loss_arguments)
        self._pair = term_names.pair(at)
        self._named_sides = isinstance(at, dict)
        super().__init__(
            name=term_names.check_name(name) if name else term_names.default_name(loss, self._pair), dtype="float32"
        )
        if isinstance(at, str):
            loss_functions.check_suits_logits(loss, at)
        self.loss: Loss = loss
        self.at = at if isinstance(at, str) else self._pair
        self.weight = check_weight(self.name, weight)
        self.temperature = temperature if temperature is None else check_temperature(temperature)
        self.transform = transform
        self.bridge: Any = _check_bridge(bridge)
        self.soften = soften
        self.sample_weight = sample_weight
        self.rows = row_choice.checked(rows, self.name)
        self.loss_arguments = loss_arguments
        for argument in loss_functions.ranges(loss, loss_arguments, self.name):
            argument.check()
        self.supports_masking = True

    @property
    def student_names(self) -> tuple[str, ...]:
        """What this term reads from the student."""
        return term_names.as_tuple(self._pair[0])

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """What this term reads from the teacher."""
        return term_names.as_tuple(self._pair[1])

    @property
    def needs_labels(self) -> bool:
        """Whether the loss takes labels, by naming them."""
        return loss_functions.takes_labels(self.loss)

    @property
    def compares_distributions(self) -> bool:
        """Whether a constant added to all logits of an example, on either side, changes nothing."""
        return self.loss in OF_DISTRIBUTIONS and self.transform is None and self.bridge is None

    @property
    def _softened_loss(self) -> SoftenedLoss:
        """The loss with all that its values depend on; made anew, because a loaded term may be given another loss."""
        return SoftenedLoss(self.loss, self.loss_arguments, self.transform, self.name, self._pair)

    def ranges(self) -> list[schedules.Range]:
        """Return the schedules of this term, with the values that they may take."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return [
            schedules.Range(f"the weight of the term {self.name!r}", self.weight, 0.0),
            schedules.Range(f"the temperature of the term {self.name!r}", temperature, schedules.SMALLEST),
            *loss_functions.ranges(self.loss, self.loss_arguments, self.name),
        ]

    def check_outputs(self, student: Iterable[str], teacher: Iterable[str]) -> None:
        """Refuse a pair that may have been meant as two outputs.

        Args:
            student: the names of the student's outputs.
            teacher: the names of the teacher's outputs, or of all that it offers.

        Raises:
            ValueError: `at` is a pair of two names that are outputs on both sides.
        """
        ours, theirs = self._pair
        if isinstance(self.at, str) or self._named_sides or ours == theirs or not isinstance(ours, str):
            return
        if all({ours, theirs} <= set(names) for names in (student, teacher)):
            raise ValueError(
                f"Term {self.name!r} has at=({ours!r}, {theirs!r}), which compares the student's {ours!r} with the "
                f"teacher's {theirs!r}. Both models output both: give each output a term of its own, at={ours!r} and "
                f"at={theirs!r}. If that comparison is meant: at={{'student': {ours!r}, 'teacher': {theirs!r}}}."
            )

    def prepare(self, student: dict[str, Tensor], teacher: dict[str, Tensor] | None, softened: bool) -> None:
        """Build the bridge, and run the loss once on symbolic tensors, so that errors are raised at once.

        Args:
            student: symbolic tensors by name.
            teacher: symbolic tensors by name, or None where they are not known yet.
            softened: whether T applies where `soften` is None.
        """
        sides = self.pick(student, self._pair[0], "student")
        if isinstance(self.bridge, str):
            self.bridge = self._find_bridge(self.bridge, sides, teacher)
        if self.bridge is not None and not self.bridge.built:
            self.bridge.build(tree.map_structure(lambda side: side.shape, sides))
        known = self.pick(teacher, self._pair[1], "teacher") if teacher is not None else None
        softens = softened if self.soften is None else self.soften
        lacks = any(isinstance(each, schedules.Unsaved) for each in (self.loss, self.transform))  # until it is assigned
        if known is None and self.bridge is None and softens and not lacks:
            known = sides  # what is softened are the same classes on both sides
        if known is not None and not self.needs_labels:
            sides, targets = tree.map_structure(
                lambda side: keras.KerasTensor(side.shape, "float32"),  # as __call__ would cast them
                (sides, known),
            )
            with step_errors.in_own_words():
                self.compute_output_spec(sides, targets, softened=softened)
        self.built = True

    def _find_bridge(self, kind: str, side: Any, teacher: dict[str, Tensor] | None) -> keras.layers.Layer | None:
        if teacher is None or isinstance(side, tuple):
            raise ValueError(
                f'Term {self.name!r} has bridge="{kind}", for which one layer has to be read on each side, of models '
                "whose shapes are known: built Functional or Sequential ones. Give the bridge as a layer."
            )
        theirs: Any = self.pick(teacher, self._pair[1], "teacher")
        return _BRIDGES[kind](side.shape, theirs.shape)

    def pick(self, tensors: dict[str, Tensor], names: str | tuple[str, ...], owner: str) -> Tensors:
        """Return what `names` names in `tensors`: a tensor, or a tuple of them."""
        missing = [name for name in term_names.as_tuple(names) if name not in tensors]
        if missing:
            raise ValueError(
                f"Term {self.name!r} reads {missing[0]!r} from the {owner}, which offers {sorted(tensors)}. "
                "Name one of those with `at`, or, in a Functional or Sequential model, a layer as 'model/layer'."
            )
        return tensors[names] if isinstance(names, str) else tuple(tensors[name] for name in names)

    def read(self, student: dict[str, Tensor], teacher: dict[str, Tensor], **arguments: Any) -> Tensor:
        """Return the value of this term for outputs of the student and the teacher; see `call` for the arguments."""
        ours, theirs = self.sides(student, teacher)
        with step_errors.in_own_words():
            return self(ours, teacher=theirs, **arguments)  # by name: a `SparseTarget` is no tensor

    def sides(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> tuple[Tensors, Tensors]:
        """Return what this term reads of what the student and the teacher output."""
        return self.pick(student, self._pair[0], "student"), self.pick(teacher, self._pair[1], "teacher")

    def call(
        self,
        student: Tensors,
        teacher: Tensors | SparseTarget,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
        counted: Tensor | None = None,
        counting: compiled.Counting | None = None,
        rows: Tensor | None = None,
        temperature: Number = 1.0,
        softened: bool = False,
        step: Number = 0,
        training: bool = False,
        student_mask: Tensors | None = None,
        teacher_mask: Tensors | None = None,
    ) -> Tensor:
        """Return the term's value, a scalar in float32, scaled for the strategy as every Keras loss is.

        Args:
            student: logits or features, (batch, ...), or a tuple of them.
            teacher: the same from the teacher, or a `SparseTarget` of logits.
            labels: the dataset's y, where the loss takes labels.
            sample_weight: (batch,) or (batch, positions...), or None.
            counted: False for what the labels take out of the mean, (batch,) or (batch, positions...), or None.
            counting: how the values become one number; None as most of Keras's losses do, by their mean.
            rows: where examples are this term's, (batch,), or None for all.
            temperature: T, where softened.
            softened: whether T applies where `soften` is None.
            step: of the optimizer, for arguments of the loss that are schedules.
            training: whether the bridge is in training mode; Keras passes it on.
            student_mask: Keras mask of what is read from the student.
            teacher_mask: Keras mask of what is read from the teacher.
        """
        mask = reduction.merged_masks(student_mask, teacher_mask, *sparse_targets.masks_of(teacher))
        teacher = self._softened_loss.stopped(teacher)
        student = reduction.blanked(student, mask, rows)
        teacher = ensemble_logits.on_logits(lambda side: reduction.blanked(side, mask, rows), teacher)
        if self.bridge is not None:
            student = tree.map_structure(lambda side: ops.cast(side, "float32"), self.bridge(student))
            student = reduction.blanked(student, mask, rows)
        if self.transform is not None:
            transform = self.transform
            student = reduction.blanked(tree.map_structure(transform, student), mask, rows)
            teacher = ensemble_logits.on_logits(lambda side: reduction.blanked(transform(side), mask, rows), teacher)
        if mask is not None and loss_functions.is_plain(self.loss) and not tree.is_nested(student):
            masks.put(student, mask)  # for losses that compare positions with one another
        known: Any = labels
        if loss_functions.takes_counted(self.loss):
            known = loss_functions.Tokens(labels, reduction.counts(sample_weight, masks.merged(counted, mask)))
        if softened:
            loss_functions.check_suits_logits(self.loss, self.student_names[0])
        softened = softened if self.soften is None else self.soften
        values = self._softened_loss.values(student, teacher, known, temperature if softened else None, step)
        values = row_choice.only(values, rows, self.name)
        weight = reduction.fitting_weight(sample_weight, values, self.name, of_layers=isinstance(self.at, tuple))
        counting = counting or compiled.Counting()
        return reduction.reduced(values, weight, masks.merged(counted, mask), counting, self.name)

    def row_values(
        self,
        student: Tensor,
        teacher: Tensor | SparseTarget,
        labels: Tensor | loss_functions.Tokens | None = None,
        temperature: Number = 1.0,
        step: Number = 0,
    ) -> Tensor:
        """Return the values of a term on logits without a bridge, one for each row, which `call` would reduce.

        Args:
            student: logits, (rows, classes).
            teacher: the same from the teacher, or a `SparseTarget` of these rows.
            labels: class ids, (rows,), where the loss takes labels; with advantages for one of whole sequences.
            temperature: see `call`.
            step: see `call`.
        """
        stopped: Any = self._softened_loss.stopped(teacher)
        if self.transform is not None:
            student, stopped = self.transform(student), self.transform(stopped)
        loss_functions.check_suits_logits(self.loss, self.student_names[0])
        return self._softened_loss.values(student, stopped, labels, None if self.soften is False else temperature, step)

    def compute_mask(self, inputs: Tensors, previous_mask: Tensors | None = None) -> None:
        """Return None: a mean has no positions left."""

    def check_tail(self, tail: str | None, temperature: Schedule) -> None:
        """Refuse targets whose rest is a bucket where a term on logits needs more than its mass at T = 1.

        Args:
            tail: one of `sparse_targets.TAILS`, or None where all classes are given.
            temperature: the compiled one.

        Raises:
            ValueError: a temperature that is not 1, or may change; another loss, or a transform.
        """
        temperature = temperature if self.temperature is None else self.temperature
        self._softened_loss.check_tail(tail, None if self.soften is False else temperature)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, serialised."""
        serialize = keras.saving.serialize_keras_object
        owner = f"The term {self.name!r}'s"
        return {
            "loss": schedules.to_config(self.loss, f"{owner} loss"),
            "at": {"student": self._pair[0], "teacher": self._pair[1]} if self._named_sides else self.at,
            "weight": schedules.to_config(self.weight, f"{owner} weight"),
            "temperature": schedules.to_config(self.temperature, f"{owner} temperature"),
            "transform": schedules.to_config(self.transform, f"{owner} transform"),
            "bridge": self.bridge if isinstance(self.bridge, str) else serialize(self.bridge),
            "soften": self.soften,
            "sample_weight": self.sample_weight,
            "rows": self.rows,
            "name": self.name,
            **{name: schedules.to_config(each, f"{owner} {name}") for name, each in self.loss_arguments.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Term":
        """Make a term from `get_config`'s dict."""
        at, others = config["at"], {key: value for key, value in config.items() if key != "at"}
        if not isinstance(at, str):
            named = isinstance(at, dict)
            ours, theirs = map(term_names.as_names, (at["student"], at["teacher"]) if named else at)
            at = {"student": ours, "teacher": theirs} if named else (ours, theirs)
        return cls(at=at, **schedules.from_config(others))


def check_weight(name: str, weight: Schedule) -> Schedule:
    """Return a weight of at least 0, or raise an error that names its term, as far as a schedule's values are known."""
    values = [schedules.finite("weight", each) for each in schedules.known(weight)]
    if min(values) < 0:
        described = schedules.described("weight", weight)
        raise ValueError(f"Expected `weight` of term {name!r} to be at least 0. Received: {described}")
    return weight if callable(weight) else values[0]


def _check_bridge(bridge: Any) -> Any:
    named = isinstance(bridge, str) and bridge in _BRIDGES
    if bridge is not None and not named and not isinstance(bridge, keras.layers.Layer):
        raise TypeError(
            f'Expected `bridge` to be a keras.layers.Layer, "auto", "orthogonal" or None. Received: {bridge!r} of type '
            f"{type(bridge).__name__}"
        )
    return bridge
