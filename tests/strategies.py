"""Train the same Distillers on one device, on two replicas, or as one of two workers, and write the results.

    python -m tests.strategies FILE.npz one|mirrored|worker

A process of its own each: devices have to be made, and workers to find each other, before TensorFlow starts. What is
compared is in tests/test_strategies.py.
"""

import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from sklearn import ensemble

import keras_kd as kd
from tests import completions_server
from tests.caches import jittered
from tests.models import dense, mlp, tagger

BATCH, CLASSES = 16, 3
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y and weights."""
    random = np.random.default_rng(rows)
    x = random.normal(size=(rows, 4)).astype("float32")
    return x, random.integers(0, CLASSES, rows), random.uniform(0, 2, rows).astype("float32")


def compiled(student, teacher, terms=None, loss=CROSS_ENTROPY, **arguments) -> kd.Distiller:
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    settings = {"temperature": 2.0, "alpha": 0.6, "metrics": ["accuracy"], **arguments}
    distiller.compile(keras.optimizers.SGD(0.3), loss, **settings)
    return distiller


# Each returns a Distiller and examples, of which the last batch is smaller: 73 = 4 * 16 + 9.


def schedules_and_an_ensemble(folder):
    """Alpha and temperature that change, two teachers, regularisation."""
    student = mlp(1, kernel_regularizer="l2")
    ramp = kd.schedules.Ramp(0.2, 0.9, 15)
    distiller = compiled(
        student, [mlp(2), mlp(3)], alpha=ramp, temperature=lambda step: 1.0 + 0.2 * tf.cast(step, tf.float32)
    )
    return distiller, tf.data.Dataset.from_tensor_slices(data(73)[:2])


def features_and_weights(folder):
    """A feature term with a bridge, and weights for the examples."""
    terms = [
        kd.Term(kd.losses.kl_divergence),
        kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), bridge=dense(7, 9), weight=0.5),
    ]
    return compiled(mlp(1), mlp(2, units=7), terms), tf.data.Dataset.from_tensor_slices(data(73))


def masks(folder):
    """Sequences of which the examples have different numbers of valid positions."""
    random = np.random.default_rng(0)
    words = random.integers(1, 6, (73, 5)) * (np.arange(5) < random.integers(1, 6, (73, 1)))
    return compiled(tagger(1), tagger(2)), tf.data.Dataset.from_tensor_slices((words, words % CLASSES))


def ignored_labels(folder):
    """Two outputs, each divided by what it counts itself: the weights of valid positions, and a sum."""
    random = np.random.default_rng(2)
    x = random.integers(1, 6, (73, 5))
    y = np.where(np.arange(5) < random.integers(1, 6, (73, 1)), x % CLASSES, -100)
    weights = random.uniform(0.5, 2, (73, 5)).astype("float32")
    arguments = {"from_logits": True, "ignore_class": -100}
    loss = {
        name: keras.losses.SparseCategoricalCrossentropy(reduction=reduction, **arguments)
        for name, reduction in {"a": "mean_with_sample_weight", "b": "sum"}.items()
    }
    terms = [kd.Term(kd.losses.kl_divergence, at="a"), kd.Term(kd.losses.kl_divergence, at="b", weight=0.01)]
    student, teacher = (two_taggers(seed) for seed in (1, 3))
    distiller = compiled(student, teacher, terms, loss, metrics=None, loss_weights={"a": 1.0, "b": 0.01})
    return distiller, tf.data.Dataset.from_tensor_slices((x, {"a": y, "b": y}, {"a": weights, "b": weights}))


def a_fused_head(folder):
    """A product with a vocabulary that is computed with its loss; weights, masks, ignored labels, an empty replica."""
    random = np.random.default_rng(4)
    words = random.integers(1, 6, (65, 5)) * (np.arange(5) < random.integers(1, 6, (65, 1)))
    y = np.where(random.random((65, 5)) < 0.3, -100, words % CLASSES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
    distiller = compiled(tagger(1), tagger(2), loss=loss, metrics=None, fused_head=True)
    return distiller, tf.data.Dataset.from_tensor_slices((words, y, random.uniform(0.5, 2, (65, 5)).astype("float32")))


def texts_of_two_origins(folder):
    """Terms that choose their rows by a column, of which a replica may have none; whole sequences."""
    random = np.random.default_rng(5)
    words = random.integers(1, 6, (65, 5)) * (np.arange(5) < random.integers(1, 6, (65, 1)))
    terms = [*kd.methods.distillm2(), *kd.methods.minillm()]
    distiller = compiled(tagger(1), tagger(2), terms, metrics=None, fused_head=False)
    x = kd.Joined(words, columns={"origin": np.arange(65) // 9 % 3})
    weights = random.uniform(0.5, 2, (65, 5)).astype("float32")
    return distiller, tf.data.Dataset.from_tensor_slices((x, words % CLASSES, weights))


def two_taggers(seed: int) -> keras.Model:
    """Return a model of two outputs for each position."""
    x = keras.Input((5,), dtype="int32")
    return keras.Model(x, {name: tagger(seed + place, mask=False)(x) for place, name in enumerate("ab")})


def cached_views(folder):
    """Targets from a cache that the workers build together, another view in each epoch."""
    examples = tf.data.Dataset.from_tensor_slices(data(73)[:2])
    cache = kd.TeacherCache(folder, mlp(2), top_k=2, dtype="float32", views=2, augment=jittered)
    cache.build(examples, batch_size=8, verbose=0)
    return compiled(mlp(1), kd.teachers.Cached(cache)), cache.join(examples)


def an_average(folder):
    """A teacher that follows the student; a last batch of one, of which a replica gets nothing."""
    return compiled(mlp(1), kd.teachers.EMA(0.8)), tf.data.Dataset.from_tensor_slices(data(65)[:2])


def targets_from_elsewhere(folder):
    """The most probable classes alone, joined by hand, and the others as one."""
    x, y, _ = data(73)
    logarithms = tf.nn.log_softmax(mlp(2)(x)).numpy()
    ids = np.argsort(-logarithms, axis=-1)[:, :2]
    targets = kd.targets.TopK(ids, np.take_along_axis(logarithms, ids, axis=-1), CLASSES)
    examples = (kd.Joined(x, {"logits": targets}), y)
    distiller = compiled(mlp(1), kd.teachers.Cached(tail="bucket"), temperature=1.0)
    return distiller, tf.data.Dataset.from_tensor_slices(examples)


def positions_that_count(folder):
    """Packed targets of the positions that a mask and weights leave in, read by an even rest."""
    random = np.random.default_rng(4)
    words = random.integers(1, 6, (73, 5)) * (np.arange(5) < random.integers(1, 6, (73, 1)))
    y, weights = random.integers(0, CLASSES, (73, 5)), random.integers(0, 3, (73, 5)).astype("float32")
    examples = tf.data.Dataset.from_tensor_slices((words, y, weights))
    cache = kd.TeacherCache(pathlib.Path(folder) / "positions", tagger(2), top_k=2, dtype="packed")
    cache.build(examples, batch_size=8, verbose=0)
    return compiled(tagger(1), kd.teachers.Cached(cache), metrics=None), cache.join(examples)


def a_forest(folder):
    """An estimator, which each replica calls."""
    x, y, _ = data(73)
    trees = ensemble.RandomForestClassifier(5, random_state=0).fit(x, y)
    return compiled(mlp(1), trees), tf.data.Dataset.from_tensor_slices((x, y))


def a_teacher_for_each_kind(folder):
    """A column that names a teacher, of which a replica may have no example, or no example at all."""
    x, y, _ = data(65)
    teacher = kd.teachers.Routed({0: mlp(2), 1: mlp(3)}, "kind")
    return compiled(mlp(1), teacher), tf.data.Dataset.from_tensor_slices(
        (kd.Joined(x, columns={"kind": np.arange(65) // 9 % 2}), y)
    )


def a_language_model_behind_http(folder):
    """A server that each replica asks about its rows; a last batch of one, of which a replica gets nothing."""
    words, server = np.random.default_rng(6).integers(0, 8, (65, 5)), completions_server.shared()
    teacher = kd.teachers.Served(server.url, completions_server.MODEL, classes=8, top_k=3, tail="bucket")
    distiller = compiled(tagger(1, words=8, classes=8, mask=False), teacher, temperature=1.0)
    return distiller, tf.data.Dataset.from_tensor_slices((words, (words + 1) % 8))


def a_backbone_without_labels(folder):
    """Maps and vectors of images alone, standardised by what was measured before the first step."""
    x = np.random.default_rng(7).uniform(size=(73, 8, 8, 1)).astype("float32")
    student, teacher = images_backbone(1, 3), images_backbone(2, 5)
    terms = kd.methods.backbone(student, teacher, x)
    distiller = compiled(student, teacher, terms, loss=None, alpha=1.0, metrics=None)
    return distiller, tf.data.Dataset.from_tensor_slices(x)


def images_backbone(seed: int, channels: int) -> keras.Model:
    """Return a model from images to maps."""
    inputs = keras.Input((8, 8, 1))
    initial = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    return keras.Model(
        inputs, keras.layers.Conv2D(channels, 3, 2, activation="relu", kernel_initializer=initial)(inputs)
    )


CASES = [
    schedules_and_an_ensemble,
    features_and_weights,
    masks,
    ignored_labels,
    a_fused_head,
    texts_of_two_origins,
    cached_views,
    an_average,
    targets_from_elsewhere,
    positions_that_count,
    a_forest,
    a_teacher_for_each_kind,
    a_language_model_behind_http,
    a_backbone_without_labels,
]


def main(file: str, kind: str) -> None:
    """Train each for 20 steps, and write the weights and the logs."""
    strategy = strategy_of(kind)
    found = {"replicas": np.array(strategy.num_replicas_in_sync)}
    for case in CASES:
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        with strategy.scope():
            distiller, examples = case(pathlib.Path(file).parent / f"cache-{kind}")
        history = distiller.fit(examples.batch(BATCH), epochs=4, shuffle=False, verbose=0).history
        evaluated = distiller.evaluate(examples.batch(BATCH), verbose=0, return_dict=True)
        found |= {f"{case.__name__} log {name}": np.array(values) for name, values in history.items()}
        found |= {f"{case.__name__} evaluated {name}": np.array(value) for name, value in evaluated.items()}
        teachers = distiller.stateful_teachers
        weights = [*distiller.trainable_variables, *(each for one in teachers for each in one.variables)]
        found |= {f"{case.__name__} weight {number}": np.array(each) for number, each in enumerate(weights)}
    if kind == "mirrored":
        found["refused"] = np.array(refused(strategy))
    np.savez(file, **found)


def refused(strategy: tf.distribute.Strategy) -> list[str]:
    """Return the error for each of the things that Keras cannot do on several replicas."""
    messages = []
    accumulated = {"gradient_accumulation_steps": 2}
    scaled = {**accumulated, "scaled": True}
    for arguments in ({"steps_per_execution": 2}, {"jit_compile": True}, accumulated, scaled):
        steps, is_scaled = arguments.pop("gradient_accumulation_steps", None), arguments.pop("scaled", False)
        with strategy.scope():
            distiller = kd.Distiller(student=mlp(1), teacher=mlp(2))
            optimizer = keras.optimizers.SGD(gradient_accumulation_steps=steps)
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if is_scaled else optimizer
            try:
                distiller.compile(optimizer, CROSS_ENTROPY, **arguments)
                messages.append("")
            except ValueError as error:
                messages.append(str(error))
    return messages


def strategy_of(kind: str) -> tf.distribute.Strategy:
    """Return a strategy, with devices for it."""
    if kind == "one":
        return tf.distribute.get_strategy()
    if kind == "worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(sys.argv[1], sys.argv[2])
