"""What each layer costs in a LiteRT file of 8-bit integers, by files in which it alone stays in float."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd as kd
from keras_kd.exporting import FileSensitivity, FloatLayer, file_sensitivity
from keras_kd.exporting.file_sensitivity import layer_names
from tests.models import mlp
from tests.test_export_mixed import X, gated

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

FOUND = FileSensitivity(
    0.5, 6_000, (FloatLayer("a", 0.4, 7_000), FloatLayer("b", 0.1, 6_500), FloatLayer("inner/c", 0.6, 6_100))
)


@pytest.mark.one_in(1)
@pytest.mark.parametrize(("count", "names"), [(0, []), (1, ["b"]), (2, ["b", "a"]), (9, ["b", "a"])])
def test_the_worst_layers_are_those_without_whose_integers_the_file_is_nearest(count, names):
    assert FOUND.worst(count) == names


def test_the_table_has_the_file_of_integers_and_the_layers_from_the_worst_on():
    rows = [line.split() for line in str(FOUND).splitlines()]
    assert rows[0] == ["in", "float", "noise", "bytes"]
    assert [row[0] for row in rows[2:]] == ["no", "b", "a", "inner/c"]
    assert rows[3][1:] == ["0.1", "6.5", "kB"] and rows[2][2:] == ["0.5", "6.0", "kB"]


def test_layers_have_the_names_that_export_takes():
    assert layer_names(gated())[:4] == ["stem", "batch_normalization", "re_lu", "inner/point"]
    assert layer_names(keras.Sequential([keras.layers.Dense(2)])) == []


@pytest.mark.one_in(1)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("a model", X), TypeError, "Expected a keras.Model. Received: 'a model' of type str"),
        ((mlp(1), None, []), ValueError, "Expected the names of `layers`"),
    ],
    ids=["type", "names"],
)
def test_what_cannot_be_measured_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        file_sensitivity(*arguments)


def noise_of(path, student, x):
    """The squared difference of a file's outputs by its own interpreter, in float64, relative to their variance."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], x.shape)
    interpreter.allocate_tensors()
    scale, zero = taken["quantization"]
    interpreter.set_tensor(taken["index"], np.clip(np.round(x / scale) + zero, -128, 127).astype("int8"))
    interpreter.invoke()
    scale, zero = given["quantization"]
    received = (interpreter.get_tensor(given["index"]).astype("float64") - zero) * scale
    expected = np.asarray(student(x), "float64")
    return np.mean((received - expected) ** 2) / np.var(expected)


@pytest.mark.slow
def test_a_cost_is_that_of_the_file_that_export_writes(tmp_path):
    student = gated()
    found = file_sensitivity(student, X, fresh=False)
    names = [each.layer for each in found.layers]
    assert names == ["stem", "inner/point", "global_average_pooling2d", "dense", "multiply", "dense_1"]
    arguments = {"formats": ("litert",), "quantize": "int8", "representative": X, "fresh": False}
    files = {"": kd.export(student, tmp_path / "whole", **arguments)["litert int8"]}
    for name in ("stem", "dense_1"):
        report = kd.export(student, tmp_path / name, float_layers=[name], **arguments)
        files[name] = report["litert int8"]
    costs = {each.layer: (each.noise, each.nbytes) for each in found.layers} | {"": (found.noise, found.nbytes)}
    for name, file in files.items():
        assert costs[name] == (pytest.approx(noise_of(file.path, student, X), rel=1e-4), file.size)
    assert len(set(costs.values())) > 4


@pytest.mark.slow
def test_a_layer_that_computes_over_several_scales_is_found_to_be_the_worst():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 4)).astype("float32")
    inputs = keras.Input((4,))
    norm = layers.LayerNormalization(name="norm", epsilon=1e-3)
    hidden = layers.Dense(4, name="hidden")(norm(layers.Dense(8, name="wide")(inputs)))
    student = keras.Model(inputs, layers.Dense(2, name="scores")(hidden))
    student.get_layer("wide").bias.assign(np.arange(8) % 4 == 0)
    found = file_sensitivity(student, x, ["hidden", "scores", "norm", "wide"], fresh=False)
    assert [each.layer for each in found.layers] == ["hidden", "scores", "norm", "wide"]
    assert found.worst(1) == ["norm"]
    with pytest.raises(ValueError, match=r"no tensors of the layers \['gate'\]"):
        file_sensitivity(student, x, ["gate"], fresh=False)
