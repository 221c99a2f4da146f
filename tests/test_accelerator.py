"""What only an accelerator shows: the numbers of a processor, in every precision, from either side of a cache.

Skipped where TensorFlow sees no GPU. All in float32 without TF32, whose products have ten bits.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd

pytestmark = pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="TensorFlow sees no GPU")

DEVICES = ["GPU:0", "CPU:0"]
ROWS, CLASSES = 64, 10


@pytest.fixture(autouse=True)
def whole_float32():
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(True)


def images():
    random = np.random.default_rng(0)
    return random.random((ROWS, 12, 12, 1), dtype="float32"), random.integers(0, CLASSES, ROWS)


def convolutions(width):
    return keras.Sequential(
        [
            layers.Input((12, 12, 1)),
            layers.Conv2D(width, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(name="flat"),
            layers.Dense(CLASSES),
        ]
    )


def recurrent(width):
    return keras.Sequential([layers.Input((12, 12)), layers.GRU(width, name="flat"), layers.Dense(CLASSES)])


def attention(width):
    x = inputs = layers.Input((12, 12))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, width)(x, x))
    x = layers.GlobalAveragePooling1D(name="flat")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


MODELS = {"convolutions": convolutions, "recurrent": recurrent, "attention": attention}


def data_of(kind):
    x, y = images()
    return (x if kind == "convolutions" else x[..., 0]), y


def models_of(kind):
    """Return a teacher and a student, with the same weights on every device."""
    with tf.device("CPU:0"):
        weights = [MODELS[kind](width).get_weights() for width in (16, 4)]
    models = [MODELS[kind](width) for width in (16, 4)]
    for model, values in zip(models, weights, strict=True):
        model.set_weights(values)
    return models


def compiled(distiller, **settings):
    distiller.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        temperature=3.0,
        alpha=0.7,
        **settings,
    )
    return distiller


def trained(device, kind, jit_compile=False, terms=None):
    """Return the losses of three steps and the weights after them."""
    keras.utils.set_random_seed(1)
    x, y = data_of(kind)
    with tf.device(device):
        teacher, student = models_of(kind)
        distiller = compiled(kd.Distiller(student=student, teacher=teacher, terms=terms), jit_compile=jit_compile)
        losses = [float(distiller.train_on_batch(x, y, return_dict=True)["loss"]) for _ in range(3)]
    return losses, [each.numpy() for each in student.trainable_variables]


def assert_same(one, other, rtol=1e-5):
    np.testing.assert_allclose(one[0], other[0], rtol=rtol)
    largest = max(np.abs(each).max() for each in other[1])  # the gradients of some weights are zero, but for rounding
    for ours, theirs in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * largest)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_are_those_of_a_processor(kind, jit_compile):
    assert_same(trained("GPU:0", kind, jit_compile), trained("CPU:0", kind))


@pytest.mark.parametrize(
    "terms",
    [
        [kd.Term(kd.losses.decoupled_kl)],
        [kd.Term(kd.losses.kl_divergence), kd.Term(kd.losses.similarity_preserving, at=("flat", "flat"))],
        [kd.Term(kd.losses.kl_divergence), kd.Term(kd.losses.rkd_angle, at=("flat", "flat"))],
        [kd.Term(kd.losses.class_correlation)],
    ],
    ids=["decoupled", "similarities", "angles", "correlations"],
)
def test_terms_are_those_of_a_processor(terms):
    assert_same(trained("GPU:0", "convolutions", terms=terms), trained("CPU:0", "convolutions", terms=terms))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kind", MODELS)
def test_mixed_precision_stays_near(kind, precision, jit_compile):
    expected = trained("CPU:0", kind)
    keras.config.set_dtype_policy(precision)
    try:
        found = trained("GPU:0", kind, jit_compile)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(found[0], expected[0], rtol=0.02)
    assert all(np.isfinite(each).all() for each in found[1])


@pytest.mark.parametrize("shape", [(16, 9000), (4096, 300), (4, 12, 9000)])
@pytest.mark.parametrize("name", ["kl_divergence", "reverse_kl", "jensen_shannon", "decoupled_kl"])
def test_losses_over_many_values_are_those_of_a_processor(name, shape):
    sides = np.random.default_rng(0).normal(scale=2.0, size=(2, *shape)).astype("float32")
    arguments = {"labels": np.zeros(shape[:-1], "int32")} if name == "decoupled_kl" else {}
    found = []
    for device in DEVICES:
        with tf.device(device), tf.GradientTape() as tape:
            student, teacher = tf.constant(sides[0]), tf.constant(sides[1])
            tape.watch(student)
            step = tf.function(lambda *both: getattr(kd.losses, name)(*both, **arguments))
            values = step(student, teacher)
        found.append(([values.numpy()], [tape.gradient(values, student).numpy()]))
    assert_same(*found)


@pytest.mark.parametrize("built_on", DEVICES)
def test_a_cache_built_on_one_device_joins_on_the_other(built_on, tmp_path):
    joins_on = next(each for each in DEVICES if each != built_on)
    x, y = data_of("convolutions")
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    losses = []
    cache = None
    for device in (built_on, joins_on):
        keras.utils.set_random_seed(1)
        with tf.device(device):
            teacher, student = models_of("convolutions")
            if cache is None:
                cache = kd.TeacherCache(tmp_path / "cache", teacher=teacher)
                cache.build(examples, batch_size=16)
                distiller, data = kd.Distiller(student=student, teacher=teacher), examples
            else:
                distiller, data = kd.Distiller(student=student, teacher=kd.teachers.Cached(cache)), cache.join(examples)
            compiled(distiller, jit_compile=False)
            history = distiller.fit(data.batch(16), shuffle=False, epochs=2, verbose=0).history
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_student_exported_on_an_accelerator_predicts_on_a_processor(tmp_path):
    x, _ = data_of("convolutions")
    keras.utils.set_random_seed(1)
    teacher, student = models_of("convolutions")
    distiller = compiled(kd.Distiller(student=student, teacher=teacher), jit_compile=False)
    distiller.fit(x, data_of("convolutions")[1], verbose=0)
    distiller.student.export(tmp_path / "student", verbose=False)
    with tf.device("CPU:0"):
        loaded = tf.saved_model.load(str(tmp_path / "student"))
        served = loaded.serve(x)
    np.testing.assert_allclose(served, student.predict(x, verbose=0), rtol=1e-5, atol=1e-5)
