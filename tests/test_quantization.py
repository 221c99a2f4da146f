"""`kd.quantization_aware`: what it rounds, what it leaves unchanged, and that LiteRT's integers are the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd._internal import heads
from keras_kd.quantization import FakeQuantize
from keras_kd.quantization.layers import fake_quantize_kernel
from tests.models import assert_same, batch, dense, initial, mlp, numbers, softmax

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(64, 8, 8, 2)).astype("float32")
X, Y = batch(64)


def perturbed(model):
    """A model whose biases and statistics are not those of a fresh one."""
    random = np.random.default_rng(1)
    for variable in model.variables:
        if len(variable.shape) == 1 and "float" in variable.dtype:
            variable.assign(random.uniform(0.3, 1.5, variable.shape))
    return model


def weighted(kind, name, **arguments):
    if kind is layers.DepthwiseConv2D:
        return kind(3, padding="same", depthwise_initializer=initial(2), name=name, **arguments)
    return kind(4, 3, padding="same", kernel_initializer=initial(1), name=name, **arguments)


def convolutional(head=None):
    """All the layers that are covered, in one student with a skip connection."""
    inputs = keras.Input((8, 8, 2), name="images")
    x = weighted(layers.Conv2D, "stem", use_bias=False)(inputs)
    x = skip = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    x = weighted(layers.DepthwiseConv2D, "depthwise", depth_multiplier=2)(x)
    x = layers.Activation("relu6", name="depthwise_relu")(layers.BatchNormalization(scale=False)(x))
    x = layers.BatchNormalization(center=False)(weighted(layers.Conv2D, "point")(x))
    x = layers.ReLU(6.0)(layers.Add(name="sum")([x, skip]))
    x = layers.SeparableConv2D(4, 3, depth_multiplier=2, padding="same", use_bias=False, name="separable")(x)
    x = layers.SeparableConv2D(4, 1, activation="relu", name="thin")(layers.BatchNormalization(name="norm")(x))
    x = layers.ZeroPadding2D(1)(layers.MaxPooling2D()(x))
    x = layers.AveragePooling2D(2, strides=1)(layers.Conv2D(6, 3, activation="relu", name="last")(x))
    maps = layers.Reshape((3, 3, 6))(layers.Identity()(x))
    x = layers.Add()([layers.GlobalAveragePooling2D(name="pool")(maps), layers.GlobalMaxPooling2D()(maps)])
    x = layers.Dense(8, activation="relu")(layers.Dropout(0.2)(layers.Flatten()(x)))
    return perturbed(keras.Model(inputs, layers.Dense(3, activation=head, name="scores")(x), name="student"))


def small(head=None):
    """Two dense layers, named as those of `mlp`."""
    inputs = keras.Input((4,), name="numbers")
    x = dense(5, 3, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, dense(3, 4, activation=head, name="scores")(x))


def converted(model, tmp_path, route="keras"):
    """The LiteRT file of a quantisation-aware model, made without any data."""
    if route == "keras":
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
    else:
        model.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


class Integers:
    """A LiteRT file and its interpreter."""

    def __init__(self, content):
        interpreter = pytest.importorskip("ai_edge_litert.interpreter")
        self.interpreter = interpreter.Interpreter(model_content=content)
        self.interpreter.allocate_tensors()
        self.input, self.output = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]

    def __call__(self, x):
        scale, zero = self.input["quantization"]
        self.interpreter.set_tensor(self.input["index"], np.clip(np.rint(x / scale) + zero, -128, 127).astype("int8"))
        self.interpreter.invoke()
        scale, zero = self.output["quantization"]
        return (self.interpreter.get_tensor(self.output["index"]).astype("float64") - zero) * scale

    def kinds(self):
        return {detail["dtype"].__name__ for detail in self.interpreter.get_tensor_details()}


def affine(x, low, high):
    """The affine quantisation of the LiteRT specification, in float64: real = scale * (integer - zero point)."""
    scale = (high - low) / 255
    zero = np.rint(-128 - low / scale)
    return scale * (np.clip(np.rint(x / scale) + zero, -128, 127) - zero)


def rounding(low, high):
    layer = FakeQuantize()
    layer.build((None, 5))
    layer.minimum.assign(low)
    layer.maximum.assign(high)
    return layer


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.5, 0.0), (-0.013, 17.0)])
def test_activations_are_rounded_as_in_the_specification(low, high):
    x = np.linspace(low - 1, high + 1, 997).astype("float32")
    received = np.asarray(rounding(low, high)(x))
    # At a tie, float32 may fall to the other side: such values are one step off.
    step = (high - low) / 255
    off = np.abs(received - affine(np.float64(x), low, high))
    assert np.mean(off < 1e-3 * step) > 0.98
    assert off.max() < 1.01 * step
    assert len(np.unique(received)) <= 256
    assert 0.0 in received


@pytest.mark.parametrize("shape", [(5, 3), (3, 3, 4, 6)])
def test_kernels_are_rounded_by_channel_and_around_zero(shape):
    kernel = np.random.default_rng(3).normal(size=shape).astype("float32") * np.geomspace(
        0.01, 10, shape[-1], dtype="f"
    )
    exact = np.float64(kernel)
    scale = np.max(np.abs(exact.reshape(-1, shape[-1])), axis=0) / 127
    integers = np.rint(exact / scale)
    received = np.asarray(fake_quantize_kernel(tf.constant(kernel)))
    np.testing.assert_allclose(received, integers * scale, rtol=1e-5, atol=1e-6 * scale.max())
    assert (integers.min(), integers.max()) in ((-127, 127), (-127, integers.max()), (integers.min(), 127))


def test_a_kernel_of_zeros_stays_zero():
    assert not np.any(fake_quantize_kernel(tf.zeros((3, 2))))


def test_gradients_pass_straight_through_the_rounding():
    x, kernel = tf.constant([-1.5, -0.7, 0.2, 2.9, 3.5]), tf.constant([[0.31, -2.0], [0.77, 0.123]])
    layer = rounding(-1.0, 3.0)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        total = tf.reduce_sum(5.0 * layer(x)) + tf.reduce_sum(7.0 * fake_quantize_kernel(kernel))
    by_input, by_kernel = tape.gradient(total, [x, kernel])
    np.testing.assert_array_equal(by_input, [0, 5, 5, 5, 0])
    np.testing.assert_array_equal(by_kernel, np.full((2, 2), 7.0))


def test_ranges_follow_the_training_and_stay_at_inference():
    layer = rounding(-1.0, 1.0)
    x = np.array([[-3.0, 0.5, 2.0, 5.0, 1.0]], "float32")
    layer(x, training=False)
    assert (float(layer.minimum), float(layer.maximum)) == (-1.0, 1.0)
    layer(x, training=True)
    np.testing.assert_allclose([layer.minimum, layer.maximum], [0.99 * -1 + 0.01 * -3, 0.99 + 0.01 * 5], rtol=1e-6)


def test_a_range_holds_zero_and_survives_zeros_and_an_empty_batch():
    layer = rounding(0.0, 0.0)
    layer.calibrating = True
    np.testing.assert_allclose(layer(np.full((2, 5), 4.0, "float32")), 4.0)
    assert float(layer.minimum) == 0.0
    for x in (np.zeros((2, 5), "float32"), np.zeros((0, 5), "float32")):
        assert np.all(np.isfinite(layer(x)))
        assert float(layer.minimum) == 0.0 < float(layer.maximum) < 1e-4


def test_replicas_hold_the_mean_of_their_ranges():
    assert [(each.aggregation, each.trainable) for each in rounding(-1.0, 1.0).variables] == [("mean", False)] * 2


def test_fit_moves_the_ranges_and_predict_and_evaluate_do_not():
    model = kd.quantization_aware(small(), X)
    model.compile("sgd", "mse", run_eagerly=True)
    before = numbers(model)
    model.predict(X, verbose=0)
    model.evaluate(X, np.zeros((64, 3)), verbose=0)
    assert_same(numbers(model), before)
    model.fit(2 * X, np.zeros((64, 3)), batch_size=64, verbose=0)
    low = model.get_layer("numbers_quantized").minimum
    np.testing.assert_allclose(low, 0.99 * X.min() + 0.01 * 2 * X.min(), rtol=1e-5)


def test_a_folded_student_is_the_student_before_anything_is_rounded(monkeypatch):
    student = convolutional()
    monkeypatch.setattr(FakeQuantize, "call", lambda self, x, training=False: x)
    monkeypatch.setattr("keras_kd.quantization.layers.fake_quantize_kernel", lambda kernel: kernel)
    folded = kd.quantization_aware(student, IMAGES)
    expected = student.predict(IMAGES, verbose=0)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(folded.predict(IMAGES, verbose=0), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)


def test_the_student_is_unchanged():
    student = convolutional()
    before, config = numbers(student), student.get_config()
    model = kd.quantization_aware(student, IMAGES)
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(IMAGES, np.zeros((64, 3)), verbose=0)
    assert_same(numbers(student), before)
    assert student.get_config() == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "route"),
    [
        pytest.param(None, "keras", marks=pytest.mark.slow),
        ("softmax", "saved_model"),
        pytest.param("sigmoid", "keras", marks=pytest.mark.slow),
    ],
)
def test_the_litert_file_is_integers_throughout_and_outputs_the_same(head, route, tmp_path):
    model = kd.quantization_aware(convolutional(head), IMAGES)
    integers = Integers(converted(model, tmp_path, route))
    assert integers.input["dtype"] is integers.output["dtype"] is np.int8
    assert integers.kinds() == {"int8", "int32"}  # int32: biases and shapes
    received = np.concatenate([integers(image[np.newaxis]) for image in IMAGES])
    expected = model.predict(IMAGES, verbose=0)
    steps = np.abs(received - expected) / integers.output["quantization"][0]
    # Where float32 and integers fall to two sides of a tie, a value inside is one step off; the output moves along.
    assert steps.max() < 3.5
    assert steps.mean() < 0.75


@pytest.mark.slow
def test_the_ranges_of_the_file_are_those_that_were_learnt(tmp_path):
    model = kd.quantization_aware(convolutional(), IMAGES)
    for layer in model.layers:
        if isinstance(layer, FakeQuantize):
            layer.maximum.assign(3.0 * layer.maximum)
    integers = Integers(converted(model, tmp_path))
    for detail, name in ((integers.input, "images_quantized"), (integers.output, "scores")):
        layer = model.get_layer(name)
        scale = (float(layer.maximum) - float(layer.minimum)) / 255
        np.testing.assert_allclose(detail["quantization"][0], scale, rtol=1e-5)


@pytest.mark.slow
def test_a_saved_model_loads_without_custom_objects_and_can_be_trained_further(tmp_path):
    model = kd.quantization_aware(convolutional("softmax"), IMAGES)
    model.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))
    loaded.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", run_eagerly=True)
    losses = loaded.fit(IMAGES, np.zeros(64), epochs=3, batch_size=64, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def steps(model):
    """Return the layers of a model after its input, by kind and name."""
    return [(type(layer).__name__, layer.name) for layer in model.layers[1:]]


def test_each_value_is_rounded_once_and_probabilities_are_not():
    start = [("FakeQuantize", "numbers_quantized"), ("QuantizedDense", "hidden"), ("FakeQuantize", "hidden_quantized")]
    ends = {
        None: [("QuantizedDense", "scores_float"), ("FakeQuantize", "scores")],
        "softmax": [("QuantizedDense", "scores_float"), ("FakeQuantize", "scores_quantized"), ("Activation", "scores")],
    }
    for head, end in ends.items():
        assert steps(kd.quantization_aware(small(head), X)) == start + end


def test_nothing_is_rounded_between_a_convolution_its_normalisation_and_its_relu():
    stack = [weighted(layers.Conv2D, "conv"), layers.BatchNormalization(name="norm"), layers.ReLU(name="relu")]
    student = keras.Sequential([keras.Input((8, 8, 2), name="images"), *stack, layers.MaxPooling2D(name="pool")])
    assert steps(kd.quantization_aware(student, IMAGES)) == [
        ("FakeQuantize", "images_quantized"),
        ("QuantizedConv2D", "conv"),
        ("Identity", "norm"),
        ("ReLU", "relu"),
        ("FakeQuantize", "relu_quantized"),
        ("MaxPooling2D", "pool"),  # which takes and hands on the same integers
    ]


@pytest.mark.parametrize("head", [layers.Softmax(name="p"), layers.Activation("sigmoid", name="p")])
def test_a_layer_of_probabilities_follows_rounded_logits(head):
    student = keras.Sequential([keras.Input((4,), name="numbers"), dense(3, 4, name="logits"), head])
    model = kd.quantization_aware(student, X)
    assert steps(model)[1:] == [
        ("QuantizedDense", "logits"),
        ("FakeQuantize", "logits_quantized"),
        (type(head).__name__, "p"),
    ]
    np.testing.assert_allclose(model.predict(X, verbose=0), student.predict(X, verbose=0), atol=0.03)


def test_every_layer_keeps_its_name():
    student = convolutional("softmax")
    model = kd.quantization_aware(student, IMAGES)
    assert {layer.name for layer in student.layers} <= {layer.name for layer in model.layers}
    assert model.name == student.name
    assert heads.recognise(model.output) == "softmax"


@pytest.mark.parametrize("head", [None, "softmax", "sigmoid"])
def test_a_rounded_student_outputs_almost_the_same(head):
    student = small(head)
    received = kd.quantization_aware(student, X).predict(X, verbose=0)
    expected = student.predict(X, verbose=0)
    assert 0 < np.max(np.abs(received - expected)) < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("head", [None, "softmax"])
def test_terms_read_layers_by_name_and_recognise_the_head(head):
    teacher, student = mlp(1), small(head)
    model = kd.quantization_aware(student, X)
    terms = [
        kd.Term(kd.losses.kl_divergence),
        kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), name="features"),
    ]
    distiller = kd.Distiller(student=model, teacher=teacher, terms=terms)
    distiller.compile("sgd", alpha=1.0, temperature=2.0, run_eagerly=True)
    # In float64, from the weights, without the rounding: 4 * KL of the softmaxes at temperature 2. A softmax head that
    # was read as logits would be far away from it.
    hidden = np.maximum(X @ student.get_weights()[0] + student.get_weights()[1], 0)
    ours = softmax((hidden @ student.get_weights()[2] + student.get_weights()[3]) / 2)
    theirs = softmax(teacher.predict(X, verbose=0) / 2)
    expected = 4 * np.mean(np.sum(theirs * np.log(theirs / ours), axis=-1))
    received = distiller.fit(X, verbose=0, batch_size=64).history
    np.testing.assert_allclose(received["kl_divergence"][0], expected, rtol=0.03)
    first, bias = teacher.get_weights()[:2]
    features = np.mean((hidden - np.tanh(X @ first + bias)) ** 2)
    np.testing.assert_allclose(received["features"][0], features, rtol=0.03)


@pytest.mark.slow
def test_a_quantised_student_learns_from_a_teacher():
    images = kd.data.load("digits")
    x, y = images.train
    keras.utils.set_random_seed(0)

    def fresh(width):
        return keras.Sequential(
            [keras.Input(x.shape[1:]), layers.Flatten(), layers.Dense(width, "relu"), layers.Dense(10)]
        )

    teacher, student = fresh(32), fresh(8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(1e-2), loss)
    teacher.fit(x, y, epochs=20, batch_size=128, verbose=0)
    distiller = kd.Distiller(student=kd.quantization_aware(student, x[:100]), teacher=teacher)
    distiller.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"], alpha=0.9)
    distiller.fit(x, y, epochs=20, batch_size=128, verbose=0)
    assert distiller.evaluate(*images.test, verbose=0, return_dict=True)["accuracy"] > 0.8


def test_several_inputs_and_outputs_keep_their_names():
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    x = layers.Add()([first, second])
    student = keras.Model(
        {"first": first, "second": second}, [layers.Dense(2, name="a")(x), layers.Dense(3, name="b")(x)]
    )
    both = {"first": IMAGES[:, 0, :2].reshape(-1, 4), "second": IMAGES[:, 1, :2].reshape(-1, 4)}
    model = kd.quantization_aware(student, both)
    assert model.output_names == ["a", "b"]
    for received, expected in zip(model.predict(both, verbose=0), student.predict(both, verbose=0), strict=True):
        np.testing.assert_allclose(received, expected, atol=0.1)


def bad(*stack, shape=(8, 8, 2)):
    return keras.Sequential([keras.Input(shape), *stack])


def forked():
    """A convolution whose output goes into a normalisation, and somewhere else."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(2, 1)(inputs)
    return keras.Model(inputs, layers.Add()([layers.BatchNormalization(name="read twice")(x), x]))


def sum_of_three():
    inputs = keras.Input((8, 8, 2))
    return keras.Model(inputs, layers.Add(name="three")([layers.Conv2D(2, 1)(inputs) for _ in range(3)]))


SHARED = layers.Dense(2, name="shared")
NOT_COVERED = {
    "'gate' \\(Activation\\): the activation 'swish'|'silu'": lambda: bad(layers.Activation("silu", name="gate")),
    "'hidden' \\(Dense\\): on inputs": lambda: bad(layers.Dense(3, name="hidden")),
    "'lone' \\(BatchNormalization\\): not the only": lambda: bad(layers.ReLU(), layers.BatchNormalization(name="lone")),
    "'leaky' \\(ReLU\\)": lambda: bad(layers.ReLU(negative_slope=0.1, name="leaky")),
    "'split' \\(Conv2D\\): 2 groups": lambda: bad(layers.Conv2D(2, 1, groups=2, name="split")),
    "'early' \\(Softmax\\): probabilities": lambda: bad(layers.Softmax(name="early"), layers.Flatten()),
    "'inner' \\(Sequential\\): a nested": lambda: bad(keras.Sequential([layers.Flatten()], name="inner")),
    "'shared' \\(Dense\\): called more": lambda: bad(layers.Flatten(), SHARED, SHARED, shape=(2,)),
    "'capped' \\(ReLU\\): not a plain": lambda: bad(layers.ReLU(max_value=4.0, name="capped")),
    "'late' \\(ReLU\\): not a plain": lambda: bad(layers.ReLU(threshold=0.5, name="late")),
    "'bent' \\(Dense\\): the activation 'tanh'": lambda: bad(layers.Dense(2, "tanh", name="bent"), shape=(2,)),
    "'even' \\(Dense\\): probabilities": lambda: bad(
        layers.Dense(2, "softmax", name="even"), layers.ReLU(), shape=(2,)
    ),
    "'swapped' \\(Conv2D\\): channels first": lambda: bad(
        layers.Conv2D(2, 1, data_format="channels_first", name="swapped")
    ),
    "'rows' \\(BatchNormalization\\): normalises": lambda: bad(
        layers.Conv2D(2, 1), layers.BatchNormalization(1, name="rows")
    ),
    "'read twice' \\(BatchNormalization\\): not the only": forked,
    "'three' \\(Add\\): 3 inputs": sum_of_three,
}


@pytest.mark.parametrize("message", NOT_COVERED)
def test_layers_that_are_not_covered_are_named(message):
    with pytest.raises(ValueError, match=message):
        kd.quantization_aware(NOT_COVERED[message](), IMAGES)


def test_all_layers_that_are_not_covered_are_listed_with_what_is():
    student = bad(layers.Conv2DTranspose(2, 3, name="one"), layers.LayerNormalization(name="two"), layers.Flatten())
    with pytest.raises(ValueError, match=r"'one' \(Conv2DTranspose\).*'two' \(LayerNorm.*Covered: .*DepthwiseConv2D"):
        kd.quantization_aware(student, IMAGES)


def test_an_object_that_is_no_student_is_refused_before_any_work():
    with pytest.raises(TypeError, match=r"keras\.Model.*Received: 3"):
        kd.quantization_aware(3, IMAGES)
    with pytest.raises(ValueError, match="built Functional or Sequential"):
        kd.quantization_aware(keras.Sequential([layers.Dense(2)]), IMAGES)
    with pytest.raises(ValueError, match="without examples"):
        kd.quantization_aware(convolutional(), IMAGES[:0])
    for value in (np.inf, np.nan):
        x = np.where(np.arange(64)[:, None] == 5, value, X).astype("float32")
        with pytest.raises(ValueError, match="finite.*Received: 1 examples with inf or nan"):
            kd.quantization_aware(small(), x)
    whole = keras.Sequential([keras.Input((4,), dtype="int32", name="words"), layers.Flatten()])
    with pytest.raises(ValueError, match="floating-point inputs.*'words'"):
        kd.quantization_aware(whole, IMAGES)
