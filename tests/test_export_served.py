"""`kd.export` with what a service needs around the student: raw inputs, a chosen kind of output, names of classes."""

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.exporting.output_heads import OutputHead, heads_of, scores_of
from keras_kd.exporting.serving import Served, check_head, serve
from tests.models import Subclassed, batch, dense, headed, linear, mlp, numbers, softmax

X, _ = batch(40)
NAMES = ("bag", "Überschuh", "coat")
RAW = np.random.default_rng(0).integers(0, 256, (40, 2, 2, 1)).astype("uint8")
export = functools.partial(kd.export, fresh=False)


def pictures(seed=1):
    """A student of pictures of 2 x 2, in logits."""
    return keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), dense(3, seed)], name="pictures")


def by_hand(student, raw=RAW):
    """The logits of `pictures` for raw bytes, in float64."""
    kernel, bias = (np.asarray(w, "float64") for w in student.get_weights())
    return raw.reshape(len(raw), 4) / 255.0 @ kernel + bias


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def signature_of(path):
    loaded = tf.saved_model.load(str(path))
    return loaded, loaded.signatures["serving_default"]


FRESH = """
import sys, numpy, tensorflow
raw = numpy.load(sys.argv[2])
model = tensorflow.saved_model.load(sys.argv[1])
first, second = model.signatures["serving_default"](input_0=tensorflow.constant(raw)), model.serve(raw[:3])
scores = [found["scores"].numpy() for found in (first, second)]
classes = [found["classes"].numpy().astype("S") for found in (first, second)]
numpy.savez(sys.argv[3], *scores, *classes)
assert "keras_kd" not in sys.modules
"""


@pytest.mark.slow
def test_bytes_go_in_and_probabilities_and_names_come_out_in_a_process_with_tensorflow_alone(tmp_path):
    student, path = pictures(), tmp_path / "models" / "1"
    rescaling = keras.layers.Rescaling(1 / 255)
    report = export(student, path, outputs="softmax", preprocessing=rescaling, class_names=NAMES, representative=RAW)
    assert report.passed and report["saved_model"].agreement == 1.0
    np.save(tmp_path / "raw.npy", RAW)
    files = [path, tmp_path / "raw.npy", tmp_path / "outputs.npz"]
    subprocess.run([sys.executable, "-P", "-c", FRESH, *files], cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path / "outputs.npz") as outputs:
        scores, few_scores, classes, few_classes = outputs.values()
    expected = softmax(by_hand(student))
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(few_scores, expected[:3], atol=1e-5)
    names = [NAMES[i] for i in expected.argmax(-1)]
    assert len(set(names)) > 1 and [name.decode() for name in classes] == names
    assert [name.decode() for name in few_classes] == names[:3]


def test_the_variables_are_the_students_alone_byte_for_byte(tmp_path):
    student = pictures()
    rescaling = keras.layers.Rescaling(1 / 255)
    export(student, tmp_path / "1", outputs="softmax", preprocessing=rescaling, class_names=NAMES, representative=RAW)
    export(student, tmp_path / "2")
    plain, served = (tmp_path / version / "variables" / "variables.data-00000-of-00001" for version in "21")
    weights = [w for v in tf.train.list_variables(str(tmp_path / "1" / "variables" / "variables")) for w in v[:1]]
    read = [tf.train.load_variable(str(tmp_path / "1" / "variables" / "variables"), name) for name in weights]
    received = sorted(each.tobytes() for each in read if isinstance(each, np.ndarray))
    assert received == sorted(weight.tobytes() for weight in numbers(student))
    assert abs(len(plain.read_bytes()) - len(served.read_bytes())) < 1000  # the description of the objects


@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed"])
@pytest.mark.parametrize("outputs", ["logits", "softmax", "sigmoid", None])
@pytest.mark.parametrize("head", ["logits", "softmax", "sigmoid"])
def test_outputs_are_those_requested_whatever_the_student_ends_in(head, outputs, kind):
    student = headed(3, head, kind)
    if kind != "subclassed" and {head, outputs} == {"softmax", "sigmoid"}:
        with pytest.raises(ValueError, match=f"outputs='{head}' or 'logits': .*ends in a {head}.*outputs='{outputs}'"):
            serve(student, outputs, None, None)
        return
    served = tf.function(serve(student, outputs, None, None))
    kernel, bias = (np.asarray(w, "float64") for w in student.get_weights())
    turn = {"logits": lambda z: z, "softmax": softmax, "sigmoid": sigmoid}[outputs or head]
    np.testing.assert_allclose(served(X), turn(X @ kernel + bias), atol=1e-5)


ALL = ("saved_model", "litert", "onnx")


@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_bytes_and_names_in_every_format_that_is_for_services_and_devices(tmp_path, policy):
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="the extra litert is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    keras.config.set_dtype_policy(policy)
    try:
        student = pictures()
    finally:
        keras.config.set_dtype_policy("float32")
    report = export(
        student,
        tmp_path / "1",
        formats=ALL,
        quantize=(None, "int8"),
        outputs="softmax",
        preprocessing=lambda raw: tf.cast(raw, "float32") / 255.0,
        class_names=NAMES,
        representative=(RAW, by_hand(student).argmax(-1)),
    )
    assert report.passed, report
    assert abs(report["litert int8"].accuracy) < 0.1
    expected = softmax(by_hand(student))
    names = np.array(NAMES)[expected.argmax(-1)]
    session = runtime.InferenceSession(str(report["onnx"].path), providers=["CPUExecutionProvider"])
    classes, scores = session.run(["classes", "scores"], {"input_0": RAW})
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.array_equal(classes, names)
    for kind in ("float32", "int8"):
        run = litert.Interpreter(str(report[f"litert {kind}"].path)).get_signature_runner("serving_default")
        received = run(input_0=RAW[:1])
        assert [each.decode() for each in received["classes"]] == [names[0]]
        assert run.get_input_details()["input_0"]["dtype"] is np.uint8
    assert received["scores"].dtype == np.int8


def test_a_model_as_preprocessing_declares_the_inputs(tmp_path):
    raw = {"height": keras.Input((2,), name="height"), "width": keras.Input((2,), name="width")}
    before = keras.Model(raw, keras.layers.Concatenate()([raw["height"], raw["width"]]))
    student = linear(1)
    export(student, tmp_path / "1", preprocessing=before)
    loaded, signature = signature_of(tmp_path / "1")
    kernel, bias = student.get_weights()
    outputs = signature(height=tf.constant(X[:, :2]), width=tf.constant(X[:, 2:]))
    np.testing.assert_allclose(outputs["output_0"], X @ kernel + bias, atol=1e-5)
    del loaded


def test_statistics_of_a_normalisation_are_exported(tmp_path):
    before = keras.layers.Normalization()
    before.adapt(10 * X + 3)
    student = mlp(1)
    export(student, tmp_path / "1", preprocessing=before, representative=10 * X + 3)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    standardised = (X.astype("float64") - X.mean(0, dtype="float64")) / X.std(0, dtype="float64")
    first, bias, second, shift = (np.asarray(w, "float64") for w in student.get_weights())
    np.testing.assert_allclose(
        loaded.serve(10 * X + 3), np.tanh(standardised @ first + bias) @ second + shift, atol=1e-4
    )


def test_names_of_positions_and_of_a_student_without_a_graph(tmp_path):
    student = Subclassed(dense(3, 1))
    student.build((None, 5, 4))
    steps = np.random.default_rng(1).normal(size=(6, 5, 4)).astype("float32")
    export(student, tmp_path / "1", class_names=NAMES, representative=steps)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    outputs = loaded.serve(steps)
    kernel, bias = student.get_weights()
    np.testing.assert_allclose(outputs["scores"], steps @ kernel + bias, atol=1e-5)
    expected = np.array([name.encode() for name in NAMES])[(steps @ kernel + bias).argmax(-1)]
    assert np.array_equal(outputs["classes"].numpy().astype("S"), expected)


def test_the_student_is_unchanged(tmp_path):
    student = headed(1, "softmax")
    before = numbers(student), student.get_config(), student.name
    export(student, tmp_path / "1", outputs="logits", class_names=NAMES)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    kernel, bias = student.get_weights()
    np.testing.assert_allclose(loaded.serve(X)["scores"], X @ kernel + bias, atol=1e-5)
    assert student.get_config() == before[1] and student.name == before[2]
    np.testing.assert_equal(numbers(student), before[0])


def test_a_name_that_is_not_that_of_the_largest_score_is_found():
    served = Served(linear(1), class_names=NAMES)
    scores, classes = np.eye(3, dtype="float32"), np.array([name.encode() for name in NAMES])
    assert scores_of(served, [classes, scores])[0] is scores
    with pytest.raises(ValueError, match="not that of its largest score"):
        scores_of(served, [classes[::-1], scores])


def test_names_of_every_batch_and_position_are_compared_with_the_scores():
    served = Served(linear(1), class_names=NAMES)
    batches = [np.random.default_rng(seed).normal(size=(5, 4, 3)).astype("float32") for seed in range(2)]
    given = [np.array([name.encode() for name in NAMES])[each.argmax(-1)] for each in batches]
    assert scores_of(served, [given[0], batches[0], given[1], batches[1]]) == batches
    with pytest.raises(ValueError, match="not that of its largest score"):
        scores_of(served, [given[0], batches[0], given[0], batches[1]])
    assert scores_of(linear(1), batches) is batches  # without names there is nothing to compare


def test_one_unit_is_cut_where_its_head_is_known_to_be_a_probability():
    sigmoid, softmax, logits = (headed(1, head) for head in ("sigmoid", "softmax", "logits"))
    one, plain = fraud("sigmoid"), fraud(None)
    assert heads_of(one, [1]) == [OutputHead(True, 0.5)]
    assert heads_of(plain, [1]) == heads_of(logits, [3]) == [OutputHead(False, None)]
    assert heads_of(softmax, [3]) == heads_of(sigmoid, [3]) == [OutputHead(True, None)]
    assert heads_of(Subclassed(dense(1, 1)), [1]) == [OutputHead(False, None)]
    # Where it is requested or has names, the threshold is the cut, of a logit its logarithm.
    assert heads_of(Served(plain, outputs="sigmoid"), [1]) == [OutputHead(True, 0.5)]
    assert heads_of(Served(one, outputs="logits"), [1]) == [OutputHead(False, 0.0)]
    assert heads_of(Served(one, class_names=("no", "yes"), threshold=0.8), [1]) == [OutputHead(True, 0.8)]
    named = heads_of(Served(plain, class_names=("no", "yes"), threshold=0.8), [1])
    assert named == [OutputHead(False, pytest.approx(np.log(4)))]


def test_checking_the_head_leaves_statistics_unchanged():
    student = Subclassed(keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(), dense(3, 1)]))
    student.build((None, 4))
    before = numbers(student)
    check_head(Served(student, outputs="softmax"), X)
    np.testing.assert_equal(numbers(student), before)


def several():
    inputs = keras.Input((4,))
    return keras.Model(inputs, {"a": dense(3, 1)(inputs), "b": dense(3, 2)(inputs)}, name="several")


@pytest.mark.parametrize(
    "student, arguments, message",
    [
        (linear, {"outputs": "probabilities"}, r"'logits', 'softmax', 'sigmoid'\)\. Received: 'probabilities'"),
        (linear, {"class_names": "abc"}, "different strings.*Received: 'abc'"),
        (linear, {"class_names": ("a", "a", "b")}, "different strings"),
        (linear, {"class_names": (0, 1, 2)}, "different strings"),
        (linear, {"class_names": ()}, "different strings"),
        (linear, {"class_names": ("a", "b")}, "each of the 3 classes.*Received 2 class_names"),
        (several, {"outputs": "softmax"}, r"one output.*'several' has several: \['a', 'b'\]"),
        (functools.partial(linear, classes=1), {"outputs": "softmax"}, "outputs='sigmoid'.*one output an example"),
        (linear, {"preprocessing": keras.layers.Rescaling(0.5)}, "`representative` inputs.*`preprocessing`"),
        (linear, {"outputs": "softmax", "formats": ("saved_model", "keras")}, "without 'keras'.*in another call"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, student, arguments, message):
    student = student() if student is several else student(1)
    with pytest.raises(ValueError, match=message):
        export(student, tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []


def fraud(head, kind="functional"):
    """A student of one unit."""
    if kind == "subclassed":
        student = Subclassed(dense(1, 1, activation=head))
        student.build((None, 4))
        return student
    return linear(1, classes=1, activation=head)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "head, outputs, kind, threshold",
    [
        ("sigmoid", None, "functional", 0.5),
        ("sigmoid", None, "functional", 0.3),
        ("sigmoid", "logits", "functional", 0.7),
        ("sigmoid", "sigmoid", "subclassed", 0.3),
        (None, None, "functional", 0.7),
        (None, "sigmoid", "functional", 0.3),
        (None, "logits", "subclassed", 0.5),
        (None, "logits", "subclassed", 0.3),
    ],
)
def test_one_unit_has_two_names_and_a_threshold(tmp_path, head, outputs, kind, threshold):
    student, names = fraud(head, kind), ("legitimate", "fraud")
    report = export(student, tmp_path / "1", outputs=outputs, class_names=names, threshold=threshold, representative=X)
    logits = X.astype("float64") @ student.get_weights()[0] + student.get_weights()[1]
    chosen = sigmoid(logits[:, 0]) >= threshold
    assert 0 < chosen.mean() < 1 and report["saved_model"].agreement == 1.0
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    received = loaded.serve(X)
    np.testing.assert_allclose(
        received["scores"], sigmoid(logits) if "sigmoid" in (outputs or head or "") else logits, atol=1e-5
    )
    assert [each.decode() for each in received["classes"].numpy()] == [names[int(each)] for each in chosen]


def test_a_threshold_is_kept_where_a_student_of_16_bits_becomes_float32(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    student = linear(1, classes=1, activation="sigmoid", dtype="mixed_float16")
    arguments = {"class_names": ("no", "yes"), "threshold": 0.3, "formats": ("onnx",), "representative": X}
    report = export(student, tmp_path / "1", **arguments)
    session = runtime.InferenceSession(str(report["onnx"].path), providers=["CPUExecutionProvider"])
    classes, scores = session.run(["classes", "scores"], {"input_0": X})
    assert np.array_equal(classes == "yes", scores[:, 0] >= 0.3) and np.any((scores >= 0.3) & (scores < 0.5))


def test_probabilities_that_are_not_recognised_are_not_treated_as_logits_silently(tmp_path):
    with pytest.raises(ValueError, match="`outputs` beside `class_names`.*within 0 and 1.*outputs='sigmoid'"):
        export(fraud("sigmoid", "subclassed"), tmp_path / "1", class_names=("no", "yes"), representative=X)
    assert list(tmp_path.iterdir()) == []
    student = Subclassed(dense(3, 1, activation=lambda x: tf.nn.softmax(x)))  # Keras does not know of it
    student.build((None, 4))
    with pytest.warns(UserWarning, match="all within 0 and 1.*taken for logits"):
        export(student, tmp_path / "1", outputs="softmax", representative=X)


def test_one_unit_without_an_axis_has_names_too(tmp_path):
    x = keras.Input((4,))
    layer = dense(1, 1)
    student = keras.Model(x, layer(x)[:, 0])
    with pytest.raises(ValueError, match="two class_names"):
        export(student, tmp_path / "1", class_names=NAMES, representative=X)
    export(student, tmp_path / "1", class_names=("no", "yes"), representative=X)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    logits = (X.astype("float64") @ np.asarray(layer.kernel) + np.asarray(layer.bias))[:, 0]
    assert [each == b"yes" for each in loaded.serve(X)["classes"].numpy()] == list(logits >= 0)


def test_every_output_behind_a_preprocessing_is_compared(tmp_path):
    served = serve(several(), None, keras.layers.Rescaling(0.5), None)
    assert len(heads_of(served, [3, 3])) == 2
    report = export(several(), tmp_path / "1", preprocessing=keras.layers.Rescaling(0.5), representative=X)
    assert report["saved_model"].agreement == 1.0


def test_one_unit_is_named_in_every_format_and_its_accuracy_is_reported(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    student, x = fraud("sigmoid"), batch(200)[0]
    y = sigmoid(x @ student.get_weights()[0] + student.get_weights()[1])[:, 0] >= 0.5
    arguments = {"class_names": ("no", "yes"), "quantize": (None, "int8"), "formats": ALL}
    report = export(student, tmp_path / "1", representative=(x, y.astype("int64")), **arguments)
    assert report.passed, report
    assert [each.accuracy for each in report.artefacts][:2] == [0.0, 0.0]
    coarse = report["litert int8"]  # the labels are the student's own classes: it is always right
    assert coarse.agreement < 1 and coarse.accuracy == pytest.approx(coarse.agreement - 1)


def test_a_name_that_is_on_the_wrong_side_of_the_threshold_is_found():
    served = Served(fraud("sigmoid"), class_names=("no", "yes"), threshold=0.7)
    scores, classes = np.array([[0.1], [0.69], [0.9]], "float32"), np.array([b"no", b"no", b"yes"])
    assert scores_of(served, [classes, scores])[0] is scores
    scores_of(served, [np.array([b"no", b"yes", b"yes"]), np.array([[0.1], [0.6999], [0.9]], "float32")])  # rounded
    with pytest.raises(ValueError, match="not that of its largest score"):
        scores_of(served, [classes[::-1], scores])


@pytest.mark.parametrize(
    "head, arguments, message",
    [
        (
            "sigmoid",
            {"class_names": ("fraud",)},
            "two class_names.*the name below the threshold.*Received 1 class_names",
        ),
        ("sigmoid", {"class_names": NAMES}, "two class_names.*Received 3 class_names"),
        ("softmax", {"class_names": ("no", "yes")}, "softmax of the one unit of .* is always 1"),
        ("sigmoid", {"class_names": ("no", "yes"), "threshold": 1.0}, "between 0 and 1. Received: 1.0"),
        ("sigmoid", {"threshold": 0.3}, "Expected `class_names` beside `threshold`"),
    ],
)
@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_names_that_one_unit_does_not_choose_from_are_refused(tmp_path, head, arguments, message, kind):
    if (head, kind) == ("softmax", "subclassed"):
        arguments = {**arguments, "outputs": "softmax"}
    with pytest.raises(ValueError, match=message):
        export(fraud(head, kind), tmp_path / "1", representative=X, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_threshold_is_refused_for_several_classes(tmp_path):
    with pytest.raises(ValueError, match="one output an example.*3 classes, of which the largest is named"):
        export(linear(1), tmp_path / "1", class_names=NAMES, threshold=0.3)
    assert list(tmp_path.iterdir()) == []


def test_preprocessing_that_cannot_be_called_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"layer, a model or a function.*Received: 0\.5"):
        export(linear(1), tmp_path / "1", preprocessing=0.5)
