"""What models cost: known sleeps, operations counted by hand, real files and real processes."""

import builtins
import gc
import itertools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.evaluation import costs, memory, model_runners, sizes
from keras_kd.evaluation.predictors import Predictor
from keras_kd.runtimes import model_files, timing
from tests.models import Subclassed, batch, dense, linear, mlp

X = batch(8)[0]


def milliseconds(seconds):
    return 1e3 * np.percentile(seconds, (50, 95, 99))


# Latency.


class Clock:
    """A clock that advances only where a test advances it: on a busy machine, the real one advances everywhere."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleeper(self, *lengths):
        """Return a function that takes so many milliseconds in turn, and returns what it is given."""
        each = itertools.cycle(lengths)

        def sleep(x=None):
            self.now += next(each) / 1e3
            return x

        return sleep


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_percentiles_are_those_of_the_timed_calls(clock):
    # Ten calls to warm up, then seven blocks of one untimed and ten timed calls, of which every seventh takes longer.
    taken = [60 if number % 7 == 0 else 20 for number in range(10 + 77)][10:]
    timed = np.reshape(taken, (7, 11))[:, 1:]
    received = timing.in_turns({"sleeper": clock.sleeper(60, *[20] * 6)}, rounds=70)["sleeper"]
    np.testing.assert_allclose(1e3 * received, timed.ravel())
    assert milliseconds(received) == pytest.approx([20, 60, 60])


def test_the_first_calls_are_not_in_the_times(clock):
    call = clock.sleeper(300, 300, *[1] * 11)
    np.testing.assert_allclose(timing.in_turns({"call": call}, rounds=10, warm_up=2)["call"], 0.001)


def test_a_slow_warm_up_ends_when_its_time_is_over(clock):
    calls = []

    def call():
        calls.append(clock.sleeper(400)())

    assert len(timing.in_turns({"call": call}, rounds=10, seconds=1)["call"]) == 10
    assert len(calls) == 3 + 11  # 1.2 s of warming up


def test_contestants_take_turns_in_blocks():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.in_turns(contestants, rounds=30, warm_up=1)
    assert {name: len(each) for name, each in times.items()} == {"a": 30, "b": 30}
    blocks = [calls[2:][start : start + 11] for start in range(0, 66, 11)]  # an untimed call, ten timed ones
    assert all(len(set(block)) == 1 for block in blocks)
    assert all({one[0], other[0]} == {"a", "b"} for one, other in zip(blocks[::2], blocks[1::2], strict=True))


def test_a_slow_contestant_is_timed_as_long_as_there_is_time(clock):
    times = timing.in_turns({"slow": clock.sleeper(20), "fast": lambda: None}, rounds=200, seconds=0.3)
    assert len(times["slow"]) == 20 and len(times["fast"]) == 200


def test_the_last_block_is_shorter_where_fewer_calls_are_left():
    calls = []
    times = timing.in_turns({"a": lambda: calls.append("a"), "b": lambda: None}, rounds=13, warm_up=1)
    assert [len(each) for each in times.values()] == [13, 13]
    assert len(calls) == 1 + 11 + 4  # one to warm up, ten and three timed, and an untimed one before each block


def test_the_garbage_collector_waits_for_the_timed_calls():
    collecting = []
    timing.in_turns({"call": lambda: collecting.append(gc.isenabled())}, rounds=10, warm_up=2)
    assert collecting == [True] * 2 + [False] * 11 and gc.isenabled()


def test_a_model_is_run_with_the_head_that_it_has():
    (output,) = model_runners.in_keras(Predictor("model", linear(1, activation="softmax")))(X)()
    np.testing.assert_allclose(output.sum(-1), 1.0, atol=1e-6)


def test_less_than_a_block_is_refused():
    with pytest.raises(ValueError, match="rounds=9"):
        timing.in_turns({}, rounds=9)


def slow(sleeper):
    """A model that sleeps, which TensorFlow runs."""
    return lambda x: tf.ensure_shape(tf.numpy_function(sleeper, [x], tf.float32), x.shape)


def test_a_model_is_timed_until_its_outputs_are_available(clock):
    (cost,) = costs.measured({"slow": slow(clock.sleeper(30))}, {}, X, 20, False)["slow"]
    assert [cost.p50_ms, cost.p95_ms, cost.p99_ms] == pytest.approx([30] * 3)
    assert cost.examples_per_second == pytest.approx(8 / 0.03)
    assert (cost.batch, cost.calls, cost.memory_bytes) == (8, 20, None)


def test_costs_are_those_of_each_way_of_running_a_model(monkeypatch, tmp_path):
    (tmp_path / "part").write_bytes(bytes(30))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part").write_bytes(bytes(12))
    rounds = []

    def in_turns(contestants, count):
        rounds.append(count)
        return {key: (1 + place) * np.arange(1, 102) / 1e3 for place, key in enumerate(contestants)}

    monkeypatch.setattr(timing, "in_turns", in_turns)
    monkeypatch.setattr(memory, "peaks", lambda ways, x: {key: 7 for key in ways})
    export = model_runners.Runner("SavedModel", lambda x: lambda: x, lambda x: x, tmp_path)
    plain, exported = costs.measured({"model": linear(1)}, {"model": [export]}, X, 60, True)["model"]
    assert rounds == [60, 12]  # a fifth of them for batches
    # Of 1, 2, ... 101 milliseconds the percentile q is q + 1; of the export all are twice as long.
    assert [plain.p50_ms, plain.p95_ms, plain.p99_ms] == pytest.approx([51, 96, 100])
    assert [exported.p50_ms, exported.p95_ms, exported.p99_ms] == pytest.approx([102, 192, 200])
    assert plain.examples_per_second == pytest.approx(8 / 0.051)
    assert exported.examples_per_second == pytest.approx(4 / 0.051)
    assert (plain.runtime, plain.path, plain.calls, plain.memory_bytes) == ("Keras", None, 101, 7)
    assert (exported.runtime, exported.path, exported.file_bytes) == ("SavedModel", str(tmp_path), 42)
    assert plain.file_bytes > 0 and plain.parameters == exported.parameters == 15
    assert costs.measured({"model": linear(1)}, {}, X, 20, False)["model"][0].memory_bytes is None
    assert rounds[2:] == [20, 10]  # ten at least


# Operations.


def flops(model, x):
    return sizes.flops(Predictor("model", model), x)


def test_products_count_two_for_each_multiplication():
    # 4 x 5 and 5 x 3 products, biases of 5 and 3; a tanh has no count.
    assert flops(mlp(1), X) == 2 * (4 * 5 + 5 * 3) + 5 + 3


def test_convolutions_count_two_for_each_multiplication():
    x = keras.Input((8, 8, 2))
    model = keras.Model(x, keras.layers.Conv2D(3, 3)(keras.layers.DepthwiseConv2D(3, padding="same")(x)))
    depthwise, plain = 2 * 8 * 8 * 2 * 9 + 8 * 8 * 2, 2 * 6 * 6 * 3 * 2 * 9 + 6 * 6 * 3
    assert flops(model, np.zeros((4, 8, 8, 2), "float32")) == depthwise + plain


def test_attention_counts_its_products_too():
    x = keras.Input((6, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, use_bias=False)
    model = keras.Model(x, attention(x, x))
    products = 4 * 6 * 8 * 8 + 2 * 2 * 6 * 6 * 4  # four projections, scores and mixture of two heads
    received = flops(model, np.zeros((3, 6, 8), "float32"))
    assert 2 * products <= received < 2 * products * 1.2  # scaling and softmax are the rest


def test_tensorflow_does_not_warn_while_it_counts_and_then_as_before(monkeypatch):
    before, levels, profiler = tf.get_logger().level, [], tf.compat.v1.profiler
    profile = profiler.profile

    def watched(**arguments):
        levels.append(tf.get_logger().level)
        return profile(**arguments)

    monkeypatch.setattr(profiler, "profile", watched)
    flops(linear(1), X)
    assert levels == [logging.ERROR] and tf.get_logger().level == before


def test_an_einsum_with_free_axes_counts():
    def model(x):
        return tf.einsum("...ij,jk->...ik", x, tf.ones((4, 5)))

    assert flops(model, np.zeros((2, 3, 7, 4), "float32")) == 2 * 3 * 7 * 4 * 5


def test_recurrence_has_no_count():
    x = keras.Input((6, 8))
    assert flops(keras.Model(x, keras.layers.LSTM(3)(x)), np.zeros((1, 6, 8), "float32")) is None


# Sizes.


def test_parameters_count_once_and_with_statistics():
    x, layer = keras.Input((4,)), dense(4, 1)
    shared = keras.Model(x, keras.layers.BatchNormalization()(layer(layer(x))))
    assert sizes.parameters(Predictor("shared", shared)) == 4 * 4 + 4 + 4 * 4
    assert sizes.parameters(Predictor("both", [linear(1), linear(2)])) == 2 * (4 * 3 + 3)


def test_a_model_without_weights_has_none_and_those_of_a_function_are_not_known():
    x = keras.Input((4,))
    rescaled = keras.Model(x, keras.layers.Rescaling(2.0)(x))
    assert sizes.parameters(Predictor("rescaled", rescaled)) == 0
    for unknown in (slow(None), kd.teachers.Frozen(slow(None)), [linear(1), slow(None)], [[slow(None)], linear(1)]):
        assert sizes.parameters(Predictor("unknown", unknown)) is None


def test_operations_of_python_have_no_count():
    x = keras.Input((4,))
    inside = keras.layers.Lambda(lambda x: tf.py_function(np.tanh, [x], tf.float32), output_shape=(4,))
    for model in (slow(np.tanh), keras.Model(x, inside(x))):
        assert flops(model, X) is None
    assert flops(lambda x: tf.matmul(x, tf.ones((4, 3))), X) == 2 * 4 * 3


@pytest.mark.slow
def test_the_file_is_as_large_as_that_of_the_model_that_was_never_compiled(tmp_path):
    model = mlp(1, units=50)
    model.save(tmp_path / "plain.keras")
    plain = (tmp_path / "plain.keras").stat().st_size
    model.compile("adam", "mse")
    model.fit(X, np.zeros((8, 3)), verbose=0)
    model.save(tmp_path / "trained.keras")
    assert sizes.file_size(model) == pytest.approx(plain, rel=0.02)
    assert sizes.file_size(model) < 0.9 * (tmp_path / "trained.keras").stat().st_size
    assert model.optimizer is not None


def test_a_model_that_keras_cannot_write_has_no_file():
    assert sizes.file_size(slow(None)) is None
    assert sizes.file_size(Subclassed(dense(3, 1))) is None  # its layer is no configuration


# Files.


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model of 9 million weights, 36 MB, and its exports."""
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    folder, x = tmp_path_factory.mktemp("exports"), keras.Input((3000,))
    model = keras.Model(x, keras.layers.Dense(3000)(x))
    kd.export(model, folder / "saved_model")
    kd.export(model, folder / "files", formats=("litert", "onnx", "keras"), fresh=False)
    return (
        model,
        folder / "saved_model",
        *(folder / "files" / f"student.{name}" for name in ("tflite", "onnx", "keras")),
    )


@pytest.mark.slow
def test_costs_are_measured_through_each_export(exported):
    model, *paths = exported
    x = np.zeros((4, 3000), "float32")
    found = costs.measured({"big": model}, costs.exported({"big": paths}, {"big": model}), x, 10, True)["big"]
    assert [cost.runtime for cost in found] == ["Keras", "SavedModel", "LiteRT", "ONNX", "Keras file"]
    assert {cost.parameters for cost in found} == {3000 * 3001}
    assert {cost.flops for cost in found} == {2 * 3000 * 3000 + 3000}
    folder, *files = paths
    assert found[1].file_bytes == sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    assert [cost.file_bytes for cost in found[2:]] == [file.stat().st_size for file in files]
    for cost in found:
        assert 0 < cost.p50_ms <= cost.p95_ms <= cost.p99_ms
        assert cost.file_bytes > 4 * 3000 * 3000
        copies = 8 if cost.runtime == "Keras file" else 5  # Keras makes weights of its own before it reads the file's
        assert 0.9 * 36e6 < cost.memory_bytes < copies * 36e6  # some runtimes keep a copy or two


FILES = [
    ("saved_model", "", None),
    ("litert", "student.tflite", "ai_edge_litert"),
    ("onnx", "student.onnx", "onnxruntime"),
    ("keras", "student.keras", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "file", "package"), FILES)
def test_a_file_outputs_what_the_model_outputs(tmp_path, kind, file, package):
    package and pytest.importorskip(package)
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    model = keras.Model({"a": a, "b": b}, dense(3, 1)(keras.layers.Concatenate()([a, b])))
    kd.export(model, tmp_path / "1", formats=(kind,), fresh=False)
    runner = model_runners.of_export(tmp_path / "1" / file, model)
    x = {"b": X[:, :2].astype("float64"), "a": X, "not_of_this_model": X}
    one, all_of_them = runner({name: leaf[:1] for name, leaf in x.items()}), runner(x)
    expected = model({"a": X, "b": X[:, :2]})
    for call, count in ((one, 1), (all_of_them, 8), (one, 1)):
        np.testing.assert_allclose(call()[0], expected[:count], atol=1e-5)
    if package:
        with pytest.raises(ValueError, match="keys.*'a', 'c'"):
            model_runners.of_export(tmp_path / "1" / file)({"a": X, "c": X[:, :2]})


@pytest.mark.slow
def test_a_comparison_shows_each_file_with_its_runtime(tmp_path):
    pytest.importorskip("onnxruntime")
    model = linear(1)
    kd.export(model, tmp_path / "1", formats=("onnx", "keras"), fresh=False)
    exports = {"model": [tmp_path / "1" / "student.onnx", tmp_path / "1" / "student.keras"]}
    comparison = kd.compare({"model": model}, batch(8), teacher=None, exports=exports, rounds=10, memory=False)
    assert "model (ONNX)" in str(comparison) and "model (Keras file)" in str(comparison)
    comparison.to_html(tmp_path / "page.html")
    assert "model (ONNX)" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_a_keras_file_with_a_class_of_a_script_has_latency_and_no_memory(tmp_path):
    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    x = keras.Input((4,))
    model = keras.Model(x, Doubled()(x))
    model.save(tmp_path / "model.keras")
    _, cost = costs.measured({"m": model}, costs.exported({"m": tmp_path / "model.keras"}, {"m": model}), X, 10, True)[
        "m"
    ]
    assert cost.p50_ms > 0 and cost.file_bytes > 0 and cost.memory_bytes is None


def test_inputs_are_quantised_as_the_file_specifies():
    details = {"dtype": np.int8, "quantization": (0.5, 3)}
    received = model_files.as_input(np.float32([0.0, 1.0, -0.7, 1000.0]), details)
    np.testing.assert_array_equal(received, np.int8([3, 5, 2, 127]))  # round(x / 0.5) + 3, clipped
    same = model_files.as_input(X, {"dtype": np.float32, "quantization": (0.0, 0)})
    np.testing.assert_array_equal(same, X)


def test_a_path_that_is_no_export_is_refused(tmp_path):
    (tmp_path / "model.h5").write_text("")
    for path in (tmp_path / "model.h5", tmp_path / "missing"):
        with pytest.raises(ValueError, match=f"SavedModel, or a .tflite, .onnx or .keras file.*{path.name}"):
            model_runners.of_export(path)


@pytest.mark.parametrize(
    ("file", "package", "extra"), [("m.tflite", "ai_edge_litert", "litert"), ("m.onnx", "onnxruntime", "onnx")]
)
def test_a_runtime_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, file, package, extra):
    (tmp_path / file).write_bytes(b"")
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith(package):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"keras_kd\[{extra}\]"):
        costs.exported({"m": tmp_path / file}, {"m": None})


def test_memory_that_cannot_be_measured_is_none():
    model, function = linear(1), slow(None)
    assert memory.peaks({"f": (model_runners.in_keras(Predictor("f", function)), function)}, X) == {"f": None}
    assert memory.peaks({"m": (model_runners.in_keras(Predictor("m", model)), model)}, X, seconds=0.01) == {"m": None}
