"""The contestants of the benchmark of training: each runs steps on its own batches, and nothing else.

Every maker takes a `Task` and returns a function that runs `task.steps` training steps, compiled as Keras compiles its
own (XLA, where "auto" selects it), and waits for them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import keras_kd as kd

TEMPERATURE, ALPHA = 4.0, 0.5

Contestant = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        student: makes a student that ends in logits.
        teacher: makes a teacher, likewise.
        data: x and y of a few batches.
        batch_size: examples in a step.
        steps: training steps in a call.
        pairs: layers of student and teacher, for the terms on features; bridges are between those of two shapes.
        jit_compile: XLA for all contestants or for none; "auto" as Keras decides for a plain student.
    """

    student: Callable[[], keras.Model]
    teacher: Callable[[], keras.Model]
    data: tuple[np.ndarray, np.ndarray]
    batch_size: int
    steps: int = 1
    pairs: tuple[tuple[str, str], ...] = ()
    jit_compile: bool | str = "auto"

    def batches(self, x: Any = None) -> tf.data.Dataset:
        """Return batches from memory without end; their x is replaced where `x` is given."""
        x = self.data[0] if x is None else x
        examples = tf.data.Dataset.from_tensor_slices((x, self.data[1]))
        return examples.batch(self.batch_size, drop_remainder=True).cache().repeat().prefetch(2)


def plain(task: Task) -> Contestant:
    """`student.fit`, on labels alone."""
    student = task.student()
    student.compile(**supervised(task))
    return fitted(student, task.batches())


def forward(task: Task) -> Contestant:
    """The teacher's forward passes, alone."""
    teacher = task.teacher()
    images = tf.constant(task.data[0][: task.batch_size])
    predict = tf.function(lambda x: teacher(x, training=False), jit_compile=uses_xla(task))

    @tf.function
    def passes() -> tuple[tf.Tensor, tf.Tensor]:
        logits = predict(images)
        for number in tf.range(1, task.steps):
            # Each pass reads the one before, so that no compiler can move it out of the loop.
            nothing = 0.0 * tf.cast(tf.reshape(logits, [-1])[0], tf.float32) * tf.cast(number, tf.float32)
            logits = predict(images + tf.cast(nothing, images.dtype))
        return logits, tf.reshape(logits, [-1])[0]

    return lambda: passes()[1].numpy()  # one of them: all would take long from a GPU


def live(task: Task) -> Contestant:
    """A Distiller."""
    return distilled(task, task.teacher(), None, task.batches())


def features(task: Task) -> Contestant:
    """A Distiller with two more terms, on features."""
    return distilled(task, task.teacher(), [kd.Term(kd.losses.kl_divergence), *hints(task)], task.batches())


def cached(task: Task) -> Contestant:
    """A Distiller whose teacher has been run before; the targets come with the examples."""
    x = task.data[0]
    joined = kd.Joined(x, {"logits": task.teacher().predict(x, verbose=0)})
    return distilled(task, kd.teachers.Cached(), None, task.batches(joined))


def keras_distillation(task: Task) -> Contestant:
    """`keras.distillation`, with the loss that makes it distil."""
    return keras_distilled(task, [])


def keras_distillation_features(task: Task) -> Contestant:
    """The same with two more terms, on features."""
    more = [
        keras.distillation.FeatureDistillation(loss="mse", student_layer_name=ours, teacher_layer_name=theirs)
        for ours, theirs in task.pairs
    ]
    return keras_distilled(task, more)


def keras_io(task: Task) -> Contestant:
    """A Distiller in the manner of the keras.io example."""
    model = InTheMannerOfKerasIo(task.student(), task.teacher())
    model.compile(**supervised(task))
    return fitted(model, task.batches())


def floor(task: Task) -> Contestant:
    """A loop written by hand for the live teacher."""
    teacher = task.teacher()
    return by_hand(task, lambda x: (x, [teacher(x, training=False)]), task.batches())


def floor_cached(task: Task) -> Contestant:
    """A loop written by hand for targets that come with the examples."""
    x = task.data[0]
    targets = task.teacher().predict(x, verbose=0)
    return by_hand(task, lambda both: (both[0], [both[1]]), task.batches((x, targets)))


def floor_features(task: Task) -> Contestant:
    """A loop written by hand for the live teacher with two terms on features."""
    teacher = task.teacher()
    layers = {ours: teacher.get_layer(theirs).output for ours, theirs in task.pairs}
    tapped = keras.Model(teacher.inputs, [teacher.outputs[0], *layers.values()])
    shapes = {ours: layer.shape for ours, layer in layers.items()}
    return by_hand(task, lambda x: (x, list(tapped(x, training=False))), task.batches(), shapes)


def distilled(task: Task, teacher: Any, terms: list[kd.Term] | None, batches: tf.data.Dataset) -> Contestant:
    distiller = kd.Distiller(student=task.student(), teacher=teacher, terms=terms)
    distiller.compile(**supervised(task), temperature=TEMPERATURE, alpha=ALPHA)
    return fitted(distiller, batches)


def hints(task: Task) -> list[kd.Term]:
    return [
        kd.Term(kd.losses.squared_error, at=pair, name=f"hint_{number}", weight=0.1, bridge="auto")
        for number, pair in enumerate(task.pairs)
    ]


def keras_distilled(task: Task, more: list[Any]) -> Contestant:
    return fitted(keras_distiller(task, more), task.batches())


def keras_distiller(task: Task, more: list[Any]) -> keras.Model:
    # Its default loss does not distil: the string resolves to a function, and the softmax is skipped.
    soft = keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=keras.losses.KLDivergence())
    model = keras.distillation.Distiller(
        teacher=task.teacher(),  # one of its own: it sets the flags of its teacher
        student=task.student(),
        distillation_losses=[soft, *more] if more else soft,
        student_loss_weight=1 - ALPHA,
    )
    model.compile(**supervised(task))
    return model


class InTheMannerOfKerasIo(keras.Model):
    """The student's model with a teacher in its loss."""

    def __init__(self, student: keras.Model, teacher: keras.Model) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        teacher.trainable = False
        self.divergence = keras.losses.KLDivergence()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.student(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True) -> tf.Tensor:
        logits = self.teacher(x, training=False)
        soft = self.divergence(ops.softmax(logits / TEMPERATURE), ops.softmax(y_pred / TEMPERATURE)) * TEMPERATURE**2
        return ALPHA * soft + (1 - ALPHA) * super().compute_loss(x, y, y_pred, sample_weight)


def by_hand(
    task: Task, read: Callable[[Any], Any], batches: tf.data.Dataset, shapes: dict[str, Any] | None = None
) -> Contestant:
    """Return the smallest possible training step: no metrics but the loss, no checks, no weights, no masks.

    Args:
        task: what is trained.
        read: returns, for the x of a batch, the images and a list of the teacher's outputs.
        batches: see `Task`.
        shapes: for terms on features, the shape of the teacher's by the name of the student's layer.
    """
    student, shapes = task.student(), shapes or {}
    features = [student.get_layer(name).output for name in shapes]
    reader = keras.Model(student.inputs, [student.outputs[0], *features])
    bridges = [bridge(*both) for both in zip(features, shapes.values(), strict=True)]
    variables = [variable for model in (student, *bridges) for variable in model.trainable_variables]
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(variables)

    @tf.function(jit_compile=uses_xla(task))
    def step(x: Any, y: tf.Tensor) -> tf.Tensor:
        x, (targets, *theirs) = read(x)
        with tf.GradientTape() as tape:
            logits, *ours = keras.tree.flatten(reader(x, training=True))
            hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            teacher, log_student = tf.nn.softmax(targets / TEMPERATURE), tf.nn.log_softmax(logits / TEMPERATURE)
            entropy = tf.reduce_sum(teacher * tf.nn.log_softmax(targets / TEMPERATURE), -1)
            soft = TEMPERATURE**2 * (entropy - tf.reduce_sum(teacher * log_student, -1))
            loss = tf.reduce_mean(ALPHA * soft + (1 - ALPHA) * hard)
            for mine, other, meet in zip(ours, theirs, bridges, strict=True):
                loss += ALPHA * 0.1 * tf.reduce_mean(tf.math.squared_difference(meet(mine), other))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function
    def loop(iterator: Iterator) -> tf.Tensor:
        loss = step(*next(iterator))
        for _ in tf.range(1, task.steps):
            loss = step(*next(iterator))
        return loss

    iterator = iter(batches)
    return lambda: float(loop(iterator))


def bridge(features: Any, shape: Any) -> keras.layers.Layer:
    """Return the projection from a student's features to the teacher's shape, as a Distiller has it."""
    made = kd.bridges.auto(features.shape, shape) or keras.layers.Identity()
    made.build(features.shape)
    return made


def fitted(model: keras.Model, batches: tf.data.Dataset) -> Contestant:
    """Return the function that `fit` calls for its steps."""
    model.fit(batches, steps_per_epoch=2 * model.steps_per_execution, verbose=0, shuffle=False)
    model.make_train_function()
    iterator = iter(batches)
    return lambda: float(model.train_function(iterator)["loss"])  # waits until it is done


def uses_xla(task: Task) -> bool:
    """Return what a task's choice of XLA comes to."""
    if task.jit_compile != "auto":
        return bool(task.jit_compile)
    student = task.student()
    student.compile()
    return bool(student.jit_compile)


def supervised(task: Task) -> dict[str, Any]:
    return {
        "optimizer": keras.optimizers.Adam(1e-3),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "steps_per_execution": task.steps,
        "jit_compile": task.jit_compile,
    }
