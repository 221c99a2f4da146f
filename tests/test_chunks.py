"""Large vocabularies by chunks: the same numbers, without softmaxes of the size of the logits."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_kd import losses
from keras_kd.losses import _chunks
from tests import references

LABELS = np.random.default_rng(1).integers(0, 40, (2, 7))
FAMILY = [
    ("kl_divergence", ()),
    ("reverse_kl", ()),
    ("jensen_shannon", (0.3,)),
    ("skew_kl", ()),
    ("decoupled_kl", (LABELS,)),
    ("normalized_kl", (LABELS,)),
]


@pytest.fixture
def small_chunks(monkeypatch):
    """Let 40 classes count as many, in chunks of 3 rows, of which 14 rows leave a ragged one."""
    monkeypatch.setattr(_chunks, "LARGE", 40)
    monkeypatch.setattr(_chunks, "_CHUNK", 120)


def pair():
    random = np.random.default_rng(0)
    return (random.normal(scale=3, size=(2, 7, 40)).astype("float32") for _ in range(2))


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
    function = value_and_gradient if mode == "eager" else tf.function(value_and_gradient, jit_compile=mode == "xla")
    values, gradient = function(getattr(losses, name), student, teacher, weights, *further)
    np.testing.assert_allclose(values, getattr(references, name)(student, teacher, *further), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(_chunks, "LARGE", 41)
    _, plain = value_and_gradient(getattr(losses, name), student, teacher, weights, *further)
    np.testing.assert_allclose(gradient, plain, rtol=1e-5, atol=1e-5)


def test_a_batch_of_unknown_size_is_computed_in_chunks_too(small_chunks):
    student, teacher = pair()
    free = tf.TensorSpec((None, 7, 40))
    values = tf.function(losses.kl_divergence, input_signature=[free, free])(student, teacher)
    np.testing.assert_allclose(values, references.kl_divergence(student, teacher), rtol=1e-5, atol=1e-5)


def test_a_function_that_is_differentiated_from_outside_has_the_same_gradient(small_chunks, monkeypatch):
    student, teacher = (tf.convert_to_tensor(each) for each in pair())
    traced = tf.function(losses.kl_divergence).get_concrete_function(student, teacher)  # where nothing is recorded
    with tf.GradientTape() as tape:
        tape.watch(student)
        total = tf.reduce_sum(traced(student, teacher))
    received = tape.gradient(total, student)
    monkeypatch.setattr(_chunks, "LARGE", 41)
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
