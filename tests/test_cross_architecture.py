"""Methods between transformers and convolutional networks: values in float64, training, saving."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import losses, methods
from tests import references

X = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32")
Y = np.arange(8) % 4
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def convolutional(seed=1):
    """Return a student with a map and a vector before its logits."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(3, 3, strides=2, activation="relu", name="maps")(inputs)
    vectors = keras.layers.Dense(5, activation="relu", name="vectors")(keras.layers.Flatten()(maps))
    return keras.Model(inputs, keras.layers.Dense(4, name="scores")(vectors), name="student")


def of_tokens(seed=2):
    """Return a teacher of tokens."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    tokens = keras.layers.Dense(6, activation="tanh", name="tokens")(keras.layers.Reshape((16, 4))(inputs))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling1D()(tokens)), name="teacher")


def made(terms, student, teacher, **numbers):
    """Return a compiled Distiller."""
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    distiller.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, **{"run_eagerly": True, **numbers})
    return distiller


def assert_trained_and_saved(distiller, weights, epochs, folder):
    """Train a Distiller, all of whose weights move, with a number of them beside the student's; save and load it."""
    before = [each.numpy() for each in distiller.trainable_variables]
    assert len(before) == len(distiller.student.trainable_variables) + weights
    logs = distiller.fit(X, Y, epochs=epochs, verbose=0).history["distillation_loss"]
    assert logs[-1] < logs[0]
    pairs = zip(before, distiller.trainable_variables, strict=True)
    assert not any(np.array_equal(one, other) for one, other in pairs)
    distiller.save(folder / "distiller.keras")
    again = keras.models.load_model(folder / "distiller.keras")
    again.teacher = distiller.teacher
    assert float(again.objective(X, Y)["loss"]) == pytest.approx(float(distiller.objective(X, Y)["loss"]), rel=1e-6)


def read(model, name):
    return np.asarray(keras.Model(model.input, model.get_layer(name).output)(X), "float64")


@pytest.mark.parametrize(("temperature", "power"), [(1.0, 1.5), (3.0, 1.0)])
def test_ofa_compares_the_logits_of_each_stage_with_the_teachers(temperature, power):
    student, teacher = convolutional(), of_tokens()
    terms = methods.ofa(["maps", "vectors"], power, temperature, weight=0.5, stage_weight=2.0)
    distiller = made(terms, student, teacher)
    kernels = [[np.asarray(weight, "float64") for weight in term.bridge.get_weights()] for term in terms[1:]]
    features = [read(student, "maps").mean(axis=(1, 2)), read(student, "vectors")]
    heads = [x @ kernel + bias for x, (kernel, bias) in zip(features, kernels, strict=True)]
    target = np.asarray(teacher(X), "float64") / temperature
    values = [
        temperature**2 * np.mean(references.enhanced_target(z / temperature, target, Y, power))
        for z in (np.asarray(student(X), "float64"), *heads)
    ]
    received = distiller.objective(X, Y)
    assert [float(received[name]) for name in ("enhanced_target", "ofa_1", "ofa_2")] == pytest.approx(values, rel=1e-5)
    assert float(received["distillation_loss"]) == pytest.approx(
        0.5 * values[0] + 2 * (values[1] + values[2]), rel=1e-5
    )


def test_ofa_has_the_defaults_of_its_code_and_no_stage_that_is_not_named():
    [term] = methods.ofa()
    assert (term.weight, term.temperature, term.loss_arguments) == (1.0, 1.0, {"power": 1.5})
    first, stage = methods.ofa(["maps"])
    assert (stage.weight, stage.temperature, stage.name, stage.soften) == (1.0, 1.0, "ofa_1", True)
    with pytest.raises(TypeError, match=r"names of the student's layers. Received: 'maps'; give \['maps'\]"):
        methods.ofa("maps")


@pytest.mark.parametrize("eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_ofa_trains_the_student_and_its_heads_and_leaves_a_plain_student(eagerly, tmp_path):
    student, teacher = convolutional(), of_tokens()
    distiller = made(methods.ofa(["maps", "vectors"]), student, teacher, run_eagerly=eagerly)
    assert_trained_and_saved(distiller, 4, 3, tmp_path)


def test_at_a_power_of_1_the_target_is_the_teachers_and_above_it_the_label_counts_more():
    student, teacher = np.random.default_rng(0).normal(size=(2, 8, 4)).astype("float32")
    p, log_q = np.exp(references._log_softmax(teacher)), references._log_softmax(student)
    np.testing.assert_allclose(losses.enhanced_target(student, teacher, Y, 1.0), -np.sum(p * log_q, -1), rtol=1e-5)
    q = np.zeros((8, 4), "float32")  # where all log q are equal, the loss is the sum of the target's weights
    sums = [np.asarray(losses.enhanced_target(q, teacher, Y, power)) / np.log(4) for power in (1.0, 1.5, 3.0)]
    np.testing.assert_allclose(sums[0], 1.0, rtol=1e-6)
    label = [np.take_along_axis((1 + p) ** power - 1, Y[:, None], -1)[:, 0] for power in (1.5, 3.0)]
    assert np.all(label[0] < label[1]) and np.all(label[0] > np.take_along_axis(p, Y[:, None], -1)[:, 0])


# Masked generation


def drawn(over, masked, size, seed=0):
    """Return the mask of one step, (batch, height, width, channels), as the generator sees it."""
    keras.utils.set_random_seed(seed)
    layer = losses.MaskedGeneration(masked, over)
    layer.build(size, size)
    seen = []
    layer.generator = lambda maps: seen.append(np.array(maps)) or maps
    layer.built = True
    layer(np.ones(size, "float32"), np.zeros(size, "float32"), training=True)
    return seen[0]


@pytest.mark.parametrize("masked", [0.15, 0.5])
@pytest.mark.parametrize(("over", "axes", "others"), [("channels", (1, 2), (0, 3)), ("positions", (3,), (0, 1, 2))])
def test_whole_channels_or_positions_are_masked_with_their_probability(over, axes, others, masked):
    mask = drawn(over, masked, (64, 6, 7, 40))
    assert set(np.unique(mask)) == {0.0, 1.0}
    parts = mask.mean(axis=axes)
    assert np.all((parts == 0) | (parts == 1))
    deviation = np.sqrt(masked * (1 - masked) / parts.size)
    assert abs(np.mean(parts == 0) - masked) < 4 * deviation
    one = parts.reshape(64, -1)
    assert len(np.unique(one, axis=0)) > 60  # another for each example
    assert not np.array_equal(mask, drawn(over, masked, (64, 6, 7, 40), seed=1))
    np.testing.assert_array_equal(mask, drawn(over, masked, (64, 6, 7, 40)))


def test_the_value_of_a_step_is_that_of_the_masked_map():
    layer = losses.MaskedGeneration(0.4)
    student, teacher = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 5)).astype("float32")
    layer.build(student.shape, teacher.shape)
    layer.built = True
    generator, seen = layer.generator, []
    object.__setattr__(layer, "generator", lambda maps: seen.append(np.array(maps)) or generator(maps))
    value = layer(student, teacher, training=True)
    weights = [each.get_weights() for each in generator.layers]
    np.testing.assert_allclose(value, references.masked_generation(seen[0], teacher, *weights), rtol=1e-5)
    kept = np.where(seen[0] == 0, 0, student)
    np.testing.assert_array_equal(seen[0], kept)
    assert 0 < np.mean(seen[0] == 0) < 1


def test_masks_change_from_step_to_step_and_there_are_none_outside_of_training():
    layer = losses.MaskedGeneration(0.5, "positions")
    student, teacher = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 5)).astype("float32")
    values = [np.array(layer(student, teacher, training=training)) for training in (True, True, False, None)]
    assert np.all(values[0] != values[1]) and np.all(values[0] != values[2])
    np.testing.assert_array_equal(values[2], values[3])
    whole = losses.MaskedGeneration(0.0)
    whole.build(student.shape, teacher.shape)
    whole.built = True
    np.testing.assert_array_equal(whole(student, teacher, training=True), whole(student, teacher))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"masked": 1.0}, "a share from 0 to below 1. Received: masked=1.0"),
        ({"masked": -0.1}, "Received: masked=-0.1"),
        ({"over": "rows"}, r"one of \('channels', 'positions'\). Received: over='rows'"),
    ],
)
def test_what_cannot_be_masked_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        losses.MaskedGeneration(**arguments)


def test_a_generator_keeps_its_arguments_and_takes_maps_of_its_teachers_channels_alone():
    layer = losses.MaskedGeneration(0.4, "positions", name="own")
    assert layer.get_config() == {"masked": 0.4, "over": "positions", "name": "own"}
    maps = np.ones((2, 4, 4, 3), "float32")
    layer(maps, maps)
    with pytest.raises(ValueError, match=r"one shape.*\(2, 4, 4, 3\).*\(2, 4, 2, 3\)"):
        layer(maps, maps[:, :, :2])


def test_mgd_has_the_weights_of_its_code():
    [term] = methods.mgd([("maps", "tokens:map")])
    assert (term.weight, term.bridge, term.name) == (7e-5, "auto", "mgd_1")
    assert (term.loss.masked, term.loss.over) == (0.15, "channels")
    [other] = methods.mgd([("maps", "tokens:map")], 0.45, "positions", 5e-7)
    assert (other.loss.masked, other.loss.over, other.weight) == (0.45, "positions", 5e-7)
    for pairs in ([], ["maps"], [("maps",)]):
        with pytest.raises(ValueError, match="Expected pairs of layers"):
            methods.mgd(pairs)


@pytest.mark.parametrize(
    "way", ["eager", pytest.param("graph", marks=pytest.mark.slow), pytest.param("XLA", marks=pytest.mark.slow)]
)
def test_mgd_trains_a_convolutional_student_under_tokens(way, tmp_path):
    student, teacher = convolutional(), of_tokens()
    terms = methods.mgd([("maps", "tokens:map")], weight=0.01)
    distiller = made(terms, student, teacher, run_eagerly=way == "eager", jit_compile=way == "XLA")
    assert_trained_and_saved(distiller, 2 + 4, 4, tmp_path)
