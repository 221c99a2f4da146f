"""LiteRT files in more than one kind of number: 16 bits for activations, and layers that stay in float."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.compression.limits import limits_of
from keras_kd.exporting.formats import chosen
from keras_kd.exporting.formats.litert import output_layers
from keras_kd.exporting.litert_conversion import tensors_of
from tests.models import mlp

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

X = np.random.default_rng(0).normal(size=(60, 8, 8, 1)).astype("float32")

#: As LiteRT has them of layers "stem" and its activation, "dense", "dense_1", and "point" in the model "inner".
NAMES = [
    "serving_default_input_0:0",
    "functional_1_1/re_lu_1/Relu;functional_1_1/stem_1/convolution",
    "functional_1_1/inner_1/point_1/convolution",
    "functional_1_1/inner_1/point_1/Sigmoid",
    "functional_1_1/dense_1/MatMul",
    "functional_1_1/dense_1_2/MatMul",
    "StatefulPartitionedCall:0",
]


@pytest.mark.one_in(1)
@pytest.mark.parametrize(
    ("layer", "places"),
    [
        ("stem", [1]),
        ("re_lu", [1]),
        ("inner", [2, 3]),
        ("inner/point", [2, 3]),
        ("point", [2, 3]),
        ("dense", [4]),
        ("dense_1", [5]),
        ("other/point", []),
        ("convolution", []),
        ("sten", []),
    ],
)
def test_tensors_are_found_by_the_layers_that_they_are_of(layer, places):
    assert tensors_of(layer, NAMES) == [NAMES[place] for place in places]


def test_where_names_are_as_the_layers_have_them_they_are_found_too():
    assert tensors_of("stem", ["model/stem/convolution", "model/stems/convolution"]) == ["model/stem/convolution"]


def test_of_a_layer_that_is_called_twice_the_first_call_is_found():
    names = ["model/dense_3/MatMul", "model/dense_1/MatMul", "model/dense_1/BiasAdd"]
    assert tensors_of("dense", names) == names[1:]


def gated(seed=0):
    """A student with a gate, and a model in it; "dense" and "dense_1", which outputs, are told apart by a number."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    point = [keras.Input((8, 8, 8)), layers.Conv2D(16, 1, activation="swish", name="point")]
    x = layers.GlobalAveragePooling2D()(keras.Sequential(point, name="inner")(x))
    x = layers.Multiply()([x, layers.Dense(16, activation="sigmoid", name="dense")(x)])
    return keras.Model(inputs, layers.Dense(10, name="dense_1")(x))


def types_of(artefact):
    """The types of the inputs and outputs of a file, and of all its tensors by their shapes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artefact.path), experimental_preserve_all_tensors=True)
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    details = interpreter.get_tensor_details()
    return {end["dtype"] for end in ends}, {(tuple(each["shape"]), each["dtype"]) for each in details}


def test_the_layers_of_outputs_are_known_by_their_names():
    assert output_layers(gated()) == ["dense_1"]
    inputs, inner = keras.Input((8, 8, 1)), gated()
    assert output_layers(keras.Model(inputs, inner(inputs))) == [inner.name, f"{inner.name}/dense_1"]


@pytest.mark.slow
@pytest.mark.one_in(1)
@pytest.mark.parametrize(
    ("layer", "kernel"),
    [("stem", (8, 3, 3, 1)), ("inner/point", (16, 1, 1, 8)), ("dense", (16, 16)), ("dense_1", (10, 16))],
)
def test_one_layer_stays_in_float_and_the_others_become_integers(tmp_path, layer, kernel):
    arguments = {"formats": ("litert",), "quantize": "int8", "representative": X, "fresh": False}
    report = kd.export(gated(), tmp_path / "1", float_layers=[layer], **arguments)
    assert report.passed and report["litert int8"].note == f"In float: {layer}."
    ends, tensors = types_of(report["litert int8"])
    assert ends == {np.int8}
    for shape in ((8, 3, 3, 1), (16, 1, 1, 8), (16, 16), (10, 16)):
        assert ((shape, np.float32) in tensors) == (shape == kernel)
        assert ((shape, np.int8) in tensors) == (shape != kernel)


@pytest.mark.slow
def test_activations_of_16_bits_are_nearer_to_the_student_and_its_weights_have_8(tmp_path):
    arguments = {"formats": ("litert",), "representative": X}
    report = kd.export(gated(), tmp_path / "1", quantize=("int8", "int8x16"), **arguments)
    wide, narrow = report["litert int8x16"], report["litert int8"]
    assert report.passed and wide.path.name == "student.int8x16.tflite"
    assert wide.difference < 0.5 * narrow.difference
    ends, tensors = types_of(wide)
    assert ends == {np.int16} and np.float32 not in {kind for _, kind in tensors}
    assert ((16, 16), np.int8) in tensors and ((1, 8, 8, 8), np.int16) in tensors


@pytest.mark.slow
def test_columns_of_very_different_sizes_are_named_where_16_bits_are_too_coarse(tmp_path):
    x = np.random.default_rng(0).normal(size=(100, 2)).astype("float32") * np.array([1e5, 0.1], "float32")
    normalization = layers.Normalization()
    normalization.adapt(x)
    inputs = keras.Input((2,))
    student = keras.Model(inputs, layers.Dense(3)(normalization(inputs)))
    with pytest.raises(ValueError, match="one scale: are columns of an input, or channels, of very different sizes"):
        kd.export(student, tmp_path / "1", formats=("litert",), quantize="int8x16", representative=x, fresh=False)


@pytest.mark.slow
def test_a_layer_that_a_file_does_not_have_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"the file has no tensors of the layers \['gate'\]; it has \['serving"):
        arguments = {"formats": ("litert",), "quantize": "int8", "representative": X, "fresh": False}
        kd.export(gated(), tmp_path / "1", float_layers=["gate", "stem"], **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"float_layers": "gate", "quantize": "int8"}, "names of layers, as in float_layers=.*Received: 'gate'"),
        ({"float_layers": ["gate"], "quantize": "int8x16"}, "quantize='int8' beside `float_layers`.*'int8x16'"),
        ({"float_layers": ["gate"]}, "quantize='int8' beside `float_layers`.*Received: None"),
        ({"quantize": "int8x16"}, "Expected `representative` examples"),
    ],
    ids=["text", "wide", "none", "representative"],
)
@pytest.mark.one_in(1)
def test_what_does_not_fit_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        kd.export(mlp(1), tmp_path / "1", formats=("litert",), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_target_may_be_of_the_wider_format():
    limits = limits_of({"litert_int8x16_bytes": 20_000, "accuracy_drop": 0.01}, "accuracy")
    assert limits.kind == "litert_int8x16" and limits.sizes == {"bytes": 20_000.0}
    assert [each.of_scale for each in chosen(("litert",), "int8x16")] == [0.25]
