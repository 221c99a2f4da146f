"""Large vocabularies, by chunks or compiled: the same numbers, without softmaxes of the size of the logits."""

import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from keras_kd import losses
from keras_kd.losses import _many_values
from tests import references

LABELS = np.random.default_rng(1).integers(0, 40, (2, 7))
FAMILY = [
    ("kl_divergence", ()),
    ("reverse_kl", ()),
    ("jensen_shannon", (0.3,)),
    ("skew_kl", ()),
    ("skew_reverse_kl", ()),
    ("decoupled_kl", (LABELS,)),
    ("normalized_kl", (LABELS,)),
    ("enhanced_target", (LABELS,)),
    ("inter_class_relation", ()),
    ("binary_kl", ()),
    ("universal_logits", ()),
]


@pytest.fixture
def small_chunks(monkeypatch):
    """Let 40 classes count as many, in chunks of 3 rows, of which 14 rows leave a ragged one."""
    monkeypatch.setattr(_many_values, "LARGE", 40)
    monkeypatch.setattr(_many_values, "_CHUNK", 120)


@pytest.fixture
def compiled(monkeypatch):
    """Let any number of values be enough for XLA, and return the list of shapes that it compiles for."""
    shapes, compile_rows = [], _many_values._compiled

    def noted(function, rows, outputs):
        shapes.append(tuple(rows[0].shape))
        return compile_rows(function, rows, outputs)

    monkeypatch.setattr(_many_values, "MANY", 560)
    monkeypatch.setattr(_many_values, "_compiled", noted)
    return shapes


def pair():
    random = np.random.default_rng(0)
    return (random.normal(scale=3, size=(2, 7, 40)).astype("float32") for _ in range(2))


def traced(loss, **arguments):
    """Return a graph function of what `value_and_gradient` takes; as an argument, a loss would be unwrapped."""
    return tf.function(lambda *given: value_and_gradient(loss, *given), **arguments)


def value_and_gradient(loss, student, teacher, weights, *further):
    student, teacher = tf.convert_to_tensor(student), tf.convert_to_tensor(teacher)
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = loss(student, teacher, *further)
        total = tf.reduce_sum(values * weights)
    return values, tape.gradient(total, student)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize(("name", "further"), FAMILY, ids=[name for name, _ in FAMILY])
def test_chunks_give_the_reference_and_the_plain_gradient(name, further, mode, small_chunks, monkeypatch):
    student, teacher = pair()
    weights = np.arange(14, dtype="float32").reshape(2, 7)
    loss = getattr(losses, name)
    given = student, teacher, weights, *further
    values, gradient = (
        value_and_gradient(loss, *given) if mode == "eager" else traced(loss, jit_compile=mode == "xla")(*given)
    )
    np.testing.assert_allclose(values, getattr(references, name)(student, teacher, *further), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(_many_values, "LARGE", 41)
    _, plain = value_and_gradient(loss, *given)
    np.testing.assert_allclose(gradient, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["eager", "graph", "compiled"])
def test_a_teacher_of_more_classes_than_the_student_goes_the_same_ways(mode, small_chunks, compiled, monkeypatch):
    student, teacher = pair()
    teacher = np.concatenate([teacher, teacher[..., :9]], axis=-1)
    monkeypatch.setattr(_many_values, "MANY", 560 if mode == "compiled" else 2**20)
    given = student, teacher, np.arange(14, dtype="float32").reshape(2, 7)
    loss = losses.universal_logits
    values, gradient = value_and_gradient(loss, *given) if mode == "eager" else traced(loss)(*given)
    assert compiled == ([(14, 40)] if mode == "compiled" else [])
    np.testing.assert_allclose(values, references.universal_logits(student, teacher), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(_many_values, "LARGE", 50)
    _, plain = value_and_gradient(loss, *given)
    np.testing.assert_allclose(gradient, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "further"), FAMILY, ids=[name for name, _ in FAMILY])
def test_a_compiled_loss_has_the_value_of_the_reference_and_the_plain_gradient(name, further, compiled, monkeypatch):
    student, teacher = pair()
    weights = np.arange(14, dtype="float32").reshape(2, 7)
    values, gradient = traced(getattr(losses, name))(student, teacher, weights, *further)
    assert compiled == [(14, 40)]
    np.testing.assert_allclose(values, getattr(references, name)(student, teacher, *further), rtol=1e-5, atol=1e-5)
    _, plain = value_and_gradient(getattr(losses, name), student, teacher, weights, *further)  # eagerly, as it is
    np.testing.assert_allclose(gradient, plain, rtol=1e-5, atol=1e-5)


def test_an_array_in_a_graph_is_a_student_too(compiled):
    student, teacher = pair()
    values = tf.function(lambda teacher: losses.kl_divergence(student, teacher))(tf.constant(teacher))
    assert compiled == [(14, 40)]
    np.testing.assert_allclose(values, references.kl_divergence(student, teacher), rtol=1e-5, atol=1e-5)


def test_batches_of_unknown_size_are_compiled_where_one_example_has_many_values(compiled, monkeypatch):
    student, teacher = pair()
    free = tf.TensorSpec((None, 7, 40))
    monkeypatch.setattr(_many_values, "LARGE", 281)
    tf.function(losses.kl_divergence, input_signature=[free, free]).get_concrete_function()
    assert compiled == []
    monkeypatch.setattr(_many_values, "LARGE", 280)
    loss = tf.function(losses.kl_divergence, input_signature=[free, free])
    for rows in (2, 1):
        expected = references.kl_divergence(student[:rows], teacher[:rows])
        np.testing.assert_allclose(loss(student[:rows], teacher[:rows]), expected, rtol=1e-5, atol=1e-5)
    assert compiled == [(None, 40)]


@pytest.mark.parametrize(
    "setting", ["eager", "under XLA", "few values", "too many", "unknown length", "replicas", "an accelerator"]
)
def test_a_loss_is_not_compiled_by_itself_where_that_does_not_pay(setting, compiled, monkeypatch):
    student, teacher = pair()
    if setting == "few values":
        monkeypatch.setattr(_many_values, "MANY", 561)
    elif setting == "too many":
        monkeypatch.setattr(_many_values, "MOST", 560)
    elif setting == "replicas":
        monkeypatch.setattr(tf.distribute, "get_strategy", lambda: types.SimpleNamespace(num_replicas_in_sync=2))
    elif setting == "an accelerator":
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda: [tf.config.PhysicalDevice("GPU:0", "GPU")])
    loss = tf.function(losses.kl_divergence, jit_compile=setting == "under XLA")
    if setting == "unknown length":
        free = tf.TensorSpec((2, None, 40))
        loss = tf.function(losses.kl_divergence, input_signature=[free, free])
    if setting == "eager":
        values = losses.kl_divergence(tf.constant(student), tf.constant(teacher))
    else:
        values = loss(student, teacher)
    assert compiled == []
    np.testing.assert_allclose(values, references.kl_divergence(student, teacher), rtol=1e-5, atol=1e-5)


def test_a_teacher_that_learns_too_has_its_gradient_where_a_loss_could_be_compiled(compiled):
    student, teacher = (tf.constant(each) for each in pair())

    @tf.function
    def gradients(student, teacher):
        with tf.GradientTape() as tape:
            tape.watch([student, teacher])
            value = tf.reduce_sum(losses.kl_divergence(student, teacher))
        return tape.gradient(value, [student, teacher])

    received = gradients(student, teacher)
    assert compiled == []
    q, p = (np.exp(each - np.logaddexp.reduce(each, -1, keepdims=True)) for each in np.float64([student, teacher]))
    ratio = np.log(p) - np.log(q)
    expected = q - p, p * (ratio - (p * ratio).sum(-1, keepdims=True))
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "chunk", "rows"),
    [("CPU", 120, 3), ("CPU", 559, 13), ("CPU", 560, None), ("GPU", 120, 6), ("GPU", 279, 13), ("GPU", 280, None)],
)
def test_chunks_are_as_large_as_a_device_needs(device, chunk, rows, monkeypatch):
    student, teacher = pair()
    sizes, by_chunks = [], _many_values._by_chunks
    monkeypatch.setattr(_many_values, "LARGE", 40)
    monkeypatch.setattr(_many_values, "_CHUNK", chunk)
    monkeypatch.setattr(_many_values, "_ACCELERATOR_CHUNK", 2 * chunk)
    monkeypatch.setattr(
        _many_values, "_by_chunks", lambda *given, size: [sizes.append(size), by_chunks(*given, size)][1]
    )
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda: [tf.config.PhysicalDevice("0", device)])
    values = losses.kl_divergence(tf.constant(student), tf.constant(teacher))
    assert sizes == ([] if rows is None else [rows])
    np.testing.assert_allclose(values, references.kl_divergence(student, teacher), rtol=1e-5, atol=1e-5)


def test_a_batch_of_unknown_size_is_computed_in_chunks_too(small_chunks):
    student, teacher = pair()
    free = tf.TensorSpec((None, None, 40))
    values = tf.function(losses.kl_divergence, input_signature=[free, free])(student, teacher)
    np.testing.assert_allclose(values, references.kl_divergence(student, teacher), rtol=1e-5, atol=1e-5)


def test_a_function_that_is_differentiated_from_outside_has_the_same_gradient(small_chunks, monkeypatch):
    student, teacher = (tf.convert_to_tensor(each) for each in pair())
    traced = tf.function(losses.kl_divergence).get_concrete_function(student, teacher)  # where nothing is recorded
    with tf.GradientTape() as tape:
        tape.watch(student)
        total = tf.reduce_sum(traced(student, teacher))
    received = tape.gradient(total, student)
    monkeypatch.setattr(_many_values, "LARGE", 41)
    _, expected = value_and_gradient(losses.kl_divergence, student, teacher, 1.0)
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-5)


MEASURE = """
import threading, time
import tensorflow as tf
from keras_kd import losses

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

logits = [tf.random.stateless_normal((4, 512, 50257), (seed, 0)) for seed in (1, 2)]

@tf.function
def step(student, teacher):
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = tf.reduce_mean(losses.kl_divergence(student, teacher))
    return value, tape.gradient(value, student)

step(*(one[:1, :2] for one in logits))
step.get_concrete_function(*logits)
before, peak, done = resident(), 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, resident())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
value, gradient = step(*logits)
value.numpy()
done.set()
watcher.join()
print(2 + (peak - before) / (4 * 512 * 50257 * 4))
"""


@pytest.mark.slow
def test_a_large_vocabulary_needs_the_logits_and_one_gradient_and_little_more():
    finished = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=300, check=True)
    assert float(finished.stdout) < 3 * 1.15
