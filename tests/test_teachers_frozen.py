"""A trained model that teaches: its inputs, copies of it, functions and SavedModels in its place."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.ensemble import RandomForestClassifier

import keras_kd as kd
from keras_kd import Distiller, Term, losses, transforms
from keras_kd.teachers import Frozen, SavedModel
from tests import references
from tests.models import Subclassed, assert_same, batch, dense, headed, linear, mlp, numbers, softmax
from tests.test_objective import distill, fit

X, Y = batch()
RANDOM = np.random.default_rng(0)


def soft_log(student, teacher, x=X, terms=None, **arguments):
    """Return the distillation loss of a batch at T = 4: of a step that changes nothing, with these arguments."""
    distiller = distill(student, teacher, terms, loss=None, alpha=1.0, temperature=4.0, **arguments)
    if arguments:
        return fit(distiller, x, None, batch_size=8)["distillation_loss"][0]
    return float(distiller.objective(keras.tree.map_structure(tf.constant, x))["distillation_loss"])


def soft_loss(student, teacher):
    """Return it from logits, in float64."""
    return 16.0 * np.mean(references.kl_divergence(np.asarray(student) / 4.0, np.asarray(teacher) / 4.0))


# What the teacher is fed, and what the student


def eye(size, seed, name=None):
    """Return a model of square images: pooled with strides to 4 x 4, then three logits."""
    inputs = keras.Input((size, size, 1), name=name)
    return keras.Model(inputs, dense(3, seed)(keras.layers.Flatten()(keras.layers.AveragePooling2D(size // 4)(inputs))))


IMAGES = {
    name: RANDOM.normal(size=(8, size, size, 1)).astype("float32") for name, size in (("small", 96), ("large", 224))
}


def enlarge(x):
    return keras.ops.image.resize(x, (224, 224))


@pytest.mark.parametrize("eager", [True, False])
def test_two_image_sizes_come_from_one_dict(eager):
    student, teacher = eye(96, 1, "small"), eye(224, 2, "large")
    expected = soft_loss(student(IMAGES["small"]), teacher(IMAGES["large"]))
    assert soft_log(student, teacher, IMAGES, run_eagerly=eager) == pytest.approx(expected, rel=1e-5)


def test_a_teacher_may_enlarge_what_the_student_sees():
    student, teacher = eye(96, 1), eye(224, 2)
    expected = soft_loss(student(IMAGES["small"]), teacher(enlarge(IMAGES["small"])))
    received = soft_log(student, Frozen(teacher, preprocess=enlarge), IMAGES["small"], run_eagerly=False)
    assert received == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_model_of_keras_applications_reads_images_from_0_to_255():
    student = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), dense(3, 1)])
    teacher = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)
    preprocess = keras.applications.mobilenet_v2.preprocess_input
    images = RANDOM.integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    expected = soft_loss(student(images), np.log(teacher(images / np.float32(127.5) - 1.0)))
    floats = images.astype("float32")
    assert soft_log(student, Frozen(teacher, preprocess=preprocess), floats) == pytest.approx(expected, rel=1e-4)
    Frozen(teacher, preprocess=preprocess)(floats, {})
    np.testing.assert_array_equal(floats, images)  # of an array, it would change the numbers
    with pytest.raises(ValueError, match="take images of uint8.*tf.cast"):
        soft_log(student, Frozen(teacher, preprocess=preprocess), images)
    cast = Frozen(teacher, preprocess=lambda x: preprocess(tf.cast(x, "float32")))
    assert soft_log(student, cast, images) == pytest.approx(expected, rel=1e-4)


def test_a_teacher_may_choose_from_the_dict_by_itself():
    student, teacher = eye(96, 1, "small"), eye(224, 2, "whatever")
    expected = soft_loss(student(IMAGES["small"]), teacher(IMAGES["large"]))
    received = soft_log(student, Frozen(teacher, preprocess=lambda x: x["large"]), IMAGES)
    assert received == pytest.approx(expected, rel=1e-5)


def restless():
    """Return a model that passes images on in inference, and changes them in training."""
    layers = [
        keras.layers.RandomFlip(),
        keras.layers.RandomContrast(0.9),
        keras.layers.Dropout(0.5),
        keras.layers.BatchNormalization(epsilon=0.0),
        keras.layers.GaussianNoise(1.0),
    ]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers], name="restless")


@pytest.mark.parametrize(
    ("wrap", "how"),
    [
        *((wrap, "fit") for wrap in ("a model", "a function", "a member", "remembered", "a function as teacher")),
        *(("a model", how) for how in ("eager", "objective")),
        *(("a function as teacher", how) for how in ("eager", "objective")),
    ],
)
def test_preprocessing_is_in_inference_mode(wrap, how):
    x = np.random.default_rng(1).normal(size=(8, 4, 4, 1)).astype("float32")
    student, teacher, pre = eye(4, 1), eye(4, 2), restless()
    expected = soft_loss(student(x), teacher(x))
    before = numbers(pre)
    given = {
        "a model": lambda: Frozen(teacher, preprocess=pre),
        "a function": lambda: Frozen(teacher, preprocess=lambda x: pre(x) * 1.0),
        "a member": lambda: [Frozen(teacher, preprocess=pre)],
        "remembered": lambda: kd.teachers.InMemory(Frozen(teacher, preprocess=pre)),
        "a function as teacher": lambda: lambda x: teacher(pre(x)),
    }[wrap]()
    arguments = {"fit": {"run_eagerly": False}, "eager": {"run_eagerly": True}, "objective": {}}[how]
    assert soft_log(student, given, x, **arguments) == pytest.approx(expected, rel=1e-5)
    assert_same(numbers(pre), before)


def test_preprocessing_is_in_inference_mode_in_a_saved_model_and_a_cache(tmp_path):
    x = np.random.default_rng(1).normal(size=(8, 4, 4, 1)).astype("float32")
    student, teacher = eye(4, 1), eye(4, 2)
    expected = soft_loss(student(x), teacher(x))
    teacher.export(tmp_path / "teacher", verbose=0)
    saved = SavedModel(tmp_path / "teacher", preprocess=restless())
    assert soft_log(student, saved, x) == pytest.approx(expected, rel=1e-5)
    cache = kd.TeacherCache(tmp_path / "cache", teacher=Frozen(teacher, preprocess=restless()), dtype="float32")
    cache.build(x, verbose=0)
    distiller = distill(student, kd.teachers.Cached(cache), loss=None, alpha=1.0, temperature=4.0)
    assert fit(distiller, cache.join(x), None, batch_size=8)["loss"] == pytest.approx([expected], rel=1e-5)


def test_preprocessing_of_an_exported_student_is_in_inference_mode(tmp_path):
    x = np.random.default_rng(1).normal(size=(8, 4, 4, 1)).astype("float32")
    student = eye(4, 1)
    kd.export(student, tmp_path / "1", preprocessing=restless(), representative=x, fresh=False)
    exported = tf.saved_model.load(tmp_path / "1")
    np.testing.assert_allclose(exported.serve(x), student(x), atol=1e-5)


def image_and_text():
    """Return a teacher of images and captions, and a student of images alone."""
    image, text = keras.Input((6, 6, 1), name="image"), keras.Input((5,), dtype="int32", name="text")
    words = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(text))
    both = keras.layers.Concatenate()([keras.layers.Flatten()(image), words])
    inputs = keras.Input((6, 6, 1), name="image")
    student = keras.Model(inputs, dense(3, 1)(keras.layers.Flatten()(inputs)), name="student")
    return student, keras.Model({"image": image, "text": text}, dense(3, 2)(both), name="teacher")


PAIRS = {
    "image": RANDOM.normal(size=(8, 6, 6, 1)).astype("float32"),
    "text": RANDOM.integers(0, 9, (8, 5)).astype("int32"),
}


def test_a_teacher_of_images_and_texts_teaches_a_student_of_images(tmp_path):
    student, teacher = image_and_text()
    expected = soft_loss(student(PAIRS["image"]), teacher(PAIRS))
    distiller = distill(student, teacher, None, keras.optimizers.SGD(0.1), temperature=4.0, run_eagerly=False)
    data = tf.data.Dataset.from_tensor_slices((PAIRS, Y)).batch(8)
    assert distiller.fit(data, verbose=0).history["distillation_loss"] == pytest.approx([expected], rel=1e-5)
    kd.export(student, tmp_path / "student", fresh=False)
    exported = tf.saved_model.load(tmp_path / "student")
    (specs,) = exported.serve.input_signature
    assert tuple(specs.shape) == (None, 6, 6, 1)
    np.testing.assert_allclose(exported.serve(PAIRS["image"]), student(PAIRS["image"]), atol=1e-5)
    assert len(exported.variables) == len(student.variables)
    written = b"".join(path.read_bytes() for path in (tmp_path / "student").rglob("*") if path.is_file())
    assert b"embedding" not in written and numbers(teacher)[0].tobytes() not in written


def test_the_distiller_predicts_and_evaluates_the_student_on_the_dict():
    student, teacher = image_and_text()
    distiller = distill(student, teacher, metrics=["accuracy"], run_eagerly=False)
    expected = student.predict(PAIRS["image"], verbose=0)
    np.testing.assert_allclose(distiller.predict(PAIRS, verbose=0), expected, rtol=1e-6)
    accuracy = np.mean(expected.argmax(axis=-1) == Y)
    received = distiller.evaluate(PAIRS, Y, verbose=0, return_dict=True)
    assert float(received["accuracy"]) == pytest.approx(accuracy)
    probabilities = np.exp(expected) / np.exp(expected).sum(axis=-1, keepdims=True)
    assert float(received["loss"]) == pytest.approx(-np.mean(np.log(probabilities[np.arange(8), Y])), rel=1e-4)


def sequential(seed, name):
    return keras.Sequential([keras.Input((4,), name=name), dense(3, seed)])


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_sequential_model_chooses_from_the_dict_too(side):
    x = {"a": X, "b": X + 1.0}
    inputs = keras.Input((4,), name="a")
    functional = keras.Model(inputs, dense(3, 1)(inputs))
    student, teacher = (sequential(2, "b"), functional) if side == "student" else (functional, sequential(2, "b"))
    logits = {"a": functional(X), "b": sequential(2, None)(X + 1.0)}
    expected = soft_loss(*(logits.values() if side == "teacher" else reversed(logits.values())))
    assert soft_log(student, teacher, x) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", ["functional", "sequential"])
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_dict_without_the_students_input_is_refused_with_the_keys_it_has(method, make):
    inputs = keras.Input((4,), name="features")
    student = keras.Model(inputs, dense(3, 1)(inputs)) if make == "functional" else sequential(1, "features")
    distiller = distill(student, Frozen(linear(2), preprocess=lambda x: x["b"]))
    labels = () if method == "predict" else (Y,)
    with pytest.raises(ValueError, match=r"'features'.*\['a', 'b'\]"):
        getattr(distiller, method)({"a": X, "b": X}, *labels, verbose=0)


def test_a_thousand_classes_teach_ten_through_a_class_map():
    student, teacher = linear(1, classes=10), linear(2, classes=1000)
    groups = [*range(0, 900, 100), [900, 950, 999]]
    z = teacher(X).numpy().astype("float64")
    mapped = [
        np.log(np.sum(np.exp(z[:, group]), axis=-1)) if isinstance(group, list) else z[:, group] for group in groups
    ]
    term = Term(losses.kl_divergence, transform=transforms.ClassMap(groups, teacher_classes=1000))
    expected = soft_loss(student(X), np.stack(mapped, axis=-1))
    assert soft_log(student, teacher, terms=[term]) == pytest.approx(expected, rel=1e-5)


# Copies of another dtype, and elsewhere


def convolutional(activation=None):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, kernel_initializer=keras.initializers.HeNormal(seed=1))(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(inputs, dense(3, 1, activation=activation)(x))
    norm = model.get_layer("norm")
    norm.set_weights([np.random.default_rng(i).uniform(0.5, 2.0, w.shape) for i, w in enumerate(norm.get_weights())])
    return model


def nested():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, dense(3, 5)(keras.layers.Rescaling(2.0)(convolutional()(inputs))))


def ends_in_softmax():
    return convolutional("softmax")


def of_subclasses():
    model = Registered()
    model.build((None, 8, 8, 3))
    return model


class Registered(keras.Model):
    """A model without a graph; Keras makes it again from the arguments of its constructor."""

    def __init__(self, units=3, **arguments):
        super().__init__(**arguments)
        self.units = units
        self.flatten, self.layer = keras.layers.Flatten(), dense(units, 1)

    def build(self, shape):
        self.layer.build((None, 192))
        self.built = True

    def call(self, x):
        return self.layer(self.flatten(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


PHOTOS = RANDOM.normal(size=(16, 8, 8, 3)).astype("float32")


def outputs(teacher, x=PHOTOS):
    teacher.bind(mlp(1), ("logits",))
    return keras.ops.convert_to_numpy(keras.ops.cast(teacher(x, {})["logits"], "float32"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("make", [convolutional, nested, ends_in_softmax, of_subclasses])
def test_a_copy_in_half_precision_outputs_almost_the_same(make, dtype):
    model = make()
    before, dtypes = numbers(model), [(v.dtype, v.path) for v in model.variables]
    copy, original = Frozen(model, dtype=dtype), Frozen(model)
    received, expected = outputs(copy), outputs(original)
    if make is ends_in_softmax:  # logits are known up to a constant
        received, expected = (z - z.mean(axis=-1, keepdims=True) for z in (received, expected))
    assert 0.0 < np.max(np.abs(received - expected)) <= 0.01 * np.ptp(expected)
    used = copy._runs
    assert {v.dtype for v in used.variables if keras.backend.is_float_dtype(v.dtype)} == {dtype}
    assert used(PHOTOS).dtype == dtype
    assert not {id(v) for v in used.variables} & {id(v) for v in model.variables}
    assert_same(numbers(model), before)
    assert [(v.dtype, v.path) for v in model.variables] == dtypes and model(PHOTOS).dtype == "float32"


def test_half_precision_teaches_in_float32():
    student, teacher = linear(1), Frozen(mlp(2), dtype="bfloat16")
    logits = outputs(teacher, X)
    received = soft_log(student, teacher)
    assert received == pytest.approx(soft_loss(student(X), logits), rel=1e-5)
    assert received != pytest.approx(soft_loss(student(X), mlp(2)(X)), rel=1e-5)


ON_TWO_DEVICES = """
import json, sys
import keras, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.test_teachers_frozen import placed
json.dump([placed("CPU:1"), placed("/device:CPU:1"), placed(None)], open(sys.argv[1], "w"))
"""


def placed(device):
    """Train, and return the weights, the devices of variables, and the devices of operations that multiply matrices."""
    student, teacher = mlp(1), mlp(2)
    frozen = Frozen(teacher, device=device)
    terms = [Term(losses.kl_divergence), Term(losses.squared_error, at=("hidden", "hidden"))]
    distiller = distill(student, frozen, terms, keras.optimizers.SGD(0.5), run_eagerly=False, jit_compile="auto")
    fit(distiller, batch_size=4, epochs=2)

    def where(of):
        return sorted({str(v.value.device) for v in of.variables})

    call = tf.function(lambda x: frozen(x, {})["logits"]).get_concrete_function(tf.TensorSpec((None, 4)))
    inner = [f.graph for f in call.graph._functions.values()] if hasattr(call.graph, "_functions") else []
    operations = [op for graph in [call.graph, *inner] for op in graph.get_operations() if op.type == "MatMul"]
    return {
        "weights": [w.tolist() for w in student.get_weights()],
        "variables": [where(frozen._runs), where(teacher), where(student)],
        "operations": sorted({op.device for op in operations}),
        "eager": frozen(tf.constant(X), {})["logits"].device,
    }


@pytest.mark.slow
def test_a_copy_is_and_runs_on_another_device(tmp_path):
    root = pathlib.Path(kd.__file__).parent.parent
    command = [sys.executable, "-c", ON_TWO_DEVICES, tmp_path / "found.json"]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    *there, here = json.loads((tmp_path / "found.json").read_text())
    for found in there:
        (copy,), (original,), (student,) = found["variables"]
        assert copy.endswith("CPU:1") and original.endswith("CPU:0") and student.endswith("CPU:0")
        assert found["operations"] and all(each.endswith("CPU:1") for each in found["operations"])
        assert found["eager"].endswith("CPU:1")
        for received, expected in zip(found["weights"], here["weights"], strict=True):
            np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6)
    assert here["eager"].endswith("CPU:0") and not any(each.endswith("CPU:1") for each in here["operations"])


@pytest.mark.parametrize("device", ["GPU:7", "cpu", "CPU:1"])
def test_an_unknown_device_is_refused_with_the_available_ones(device):
    with pytest.raises(ValueError, match=rf"device.*\['CPU:0'.*{device}"):
        Frozen(linear(2), device=device)


def test_a_copy_on_the_only_device_is_a_copy():
    model = linear(2)
    teacher = Frozen(model, device="/cpu:0")
    np.testing.assert_array_equal(outputs(teacher, X), model(X))
    assert not {id(v) for v in teacher._runs.variables} & {id(v) for v in model.variables}


def test_the_head_of_an_unknown_output_is_refused_with_the_outputs_there_are():
    with pytest.raises(ValueError, match=r"`head` names \['kind'\]; the outputs of the teacher are \[.*'logits'"):
        Frozen(linear(2), head={"kind": "softmax"})


@pytest.mark.parametrize("dtype", ["float64", "int8", "half"])
def test_an_unknown_dtype_is_refused(dtype):
    with pytest.raises(ValueError, match=f"'bfloat16', 'float16'.*{dtype}"):
        Frozen(linear(2), dtype=dtype)


@pytest.mark.parametrize("arguments", [{"dtype": "bfloat16"}, {"device": "CPU:0"}], ids=str)
def test_a_model_that_keras_cannot_copy_is_refused(arguments):
    model = Subclassed(lambda x: x)
    model.built = True
    with pytest.raises(ValueError, match=f"(?s)can copy.*{model.name}.*get_config"):
        Frozen(model, **arguments)


# Functions


def table(x):
    return keras.ops.matmul(x, np.arange(12, dtype="float32").reshape(4, 3) / 12.0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("function", [table, lambda x: table(x)], ids=["function", "lambda"])
@pytest.mark.parametrize("eager", [True, False])
def test_a_function_of_x_is_a_teacher(function, eager):
    student = linear(1)
    expected = soft_loss(student(X), X @ np.arange(12).reshape(4, 3) / 12.0)
    assert soft_log(student, function, run_eagerly=eager) == pytest.approx(expected, rel=1e-5)


def test_a_function_is_given_x_in_the_type_that_it_has():
    teacher = Frozen(lambda x: (x - 1.0) * 2.0**40)
    x = tf.constant([[1.0 + 2.0**-40]], "float64")  # float32 rounds it to 1
    np.testing.assert_array_equal(teacher(x, {})["logits"], [[1.0]])


def test_a_function_of_a_dict_may_return_several_outputs():
    inputs = keras.Input((4,), name="a")
    student = keras.Model(inputs, {"kind": dense(3, 1)(inputs)})
    teacher = Frozen(lambda x: {"kind": table(x["b"]), "more": x["a"]})
    received = soft_log(student, teacher, {"a": X, "b": X + 1.0}, [Term(losses.kl_divergence, at="kind")])
    assert received == pytest.approx(soft_loss(student(X)["kind"], table(X + 1.0)), rel=1e-5)


# SavedModels


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the path of a teacher that Keras has exported, and of one that TensorFlow has written with two names."""
    keras.utils.clear_session(free_memory=False)
    folder = tmp_path_factory.mktemp("saved_models")
    linear(2).export(folder / "keras", verbose=False)
    linear(2, activation="softmax").export(folder / "softmax", verbose=False)
    module = tf.Module()
    module.kernel, module.bias = (tf.Variable(w) for w in linear(2).get_weights())
    spec = tf.TensorSpec((None, 4), tf.float32)
    score = tf.function(lambda x: {"scores": x @ module.kernel + module.bias}, input_signature=[spec])
    double = tf.function(lambda x: {"scores": 2.0 * (x @ module.kernel + module.bias)}, input_signature=[spec])
    tf.saved_model.save(module, folder / "tensorflow", signatures={"score": score, "double": double})
    return folder


@pytest.mark.parametrize(
    "name, signature, factor",
    [
        ("keras", None, 1.0),
        ("keras", "serve", 1.0),
        ("keras", "serving_default", 1.0),
        ("tensorflow", "score", 1.0),
        ("tensorflow", "double", 2.0),
    ],
)
def test_a_saved_model_teaches_as_the_live_model(written, name, signature, factor):
    student = linear(1)
    teacher = SavedModel(written / name, signature)
    expected = soft_loss(student(X), factor * linear(2)(X).numpy())
    assert soft_log(student, teacher) == pytest.approx(expected, rel=1e-5)


def test_a_function_of_a_saved_model_that_is_no_signature_teaches(tmp_path):
    module = tf.Module()
    module.shifted = tf.function(lambda x: x + 1.0, input_signature=[tf.TensorSpec((None, 4), tf.float32)])
    tf.saved_model.save(module, tmp_path / "module")
    teacher = SavedModel(tmp_path / "module", "shifted")
    np.testing.assert_array_equal(teacher(tf.constant(X), {})["logits"], X + 1.0)


@pytest.mark.parametrize("eager", [True, False])
def test_a_saved_model_that_ends_in_softmax_teaches_with_a_declared_head(written, eager):
    student, live = linear(1), headed(2, "softmax")
    teacher = SavedModel(written / "softmax", head="softmax")
    assert soft_log(student, teacher, run_eagerly=eager) == pytest.approx(soft_log(student, live), rel=1e-5)


def test_a_saved_model_is_recognised_only_where_the_heads_of_all_names_are_known(written):
    for head, names, known in (
        ({"scores": "logits"}, ("scores",), True),
        ({"scores": "logits"}, ("scores", "logits"), False),
        ("auto", ("scores",), False),
    ):
        teacher = SavedModel(written / "tensorflow", "score", head=head)
        assert teacher.unrecognised(names) == ([] if known else [teacher])


def test_a_saved_model_may_preprocess(written):
    student = linear(1)
    teacher = SavedModel(written / "keras", preprocess=lambda x: 2.0 * x - 1.0)
    assert soft_log(student, teacher) == pytest.approx(soft_loss(student(X), linear(2)(2.0 * X - 1.0)), rel=1e-5)


@pytest.mark.parametrize("signature, words", [(None, "'serve' or 'serving_default'"), ("scores", "'scores'")])
def test_a_missing_signature_is_refused_with_the_available_ones(written, signature, words):
    with pytest.raises(ValueError, match=rf"tensorflow'.*{words}.*\['double', 'score'\].*signature"):
        SavedModel(written / "tensorflow", signature)


def test_a_folder_without_a_saved_model_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=f"SavedModel.*{path}"):
            SavedModel(path)


def test_the_layers_of_a_saved_model_cannot_be_read(written):
    distiller = Distiller(
        student=mlp(1),
        teacher=SavedModel(written / "keras"),
        terms=[Term(losses.squared_error, at=("hidden", "hidden"))],
    )
    distiller.compile("sgd", alpha=1.0)
    with pytest.raises(ValueError, match=r"'hidden' from the teacher.*\['logits'\]"):
        distiller.fit(X, verbose=0)


# One meaning of logits


def wrapped(teacher, folder, x):
    """Return a teacher and its data, by what is between it and the Distiller."""
    teacher.export(folder / "teacher", verbose=0)
    x_in = keras.layers.Reshape((3,))(keras.layers.Reshape((1, 3))(teacher.output))
    yield "live", teacher, x
    yield "reshaped", keras.Model(teacher.input, x_in), x
    yield "ensemble of one", [teacher], x
    yield "ensemble of itself", [teacher, teacher], x
    yield "in 16 bits", Frozen(teacher, dtype="bfloat16"), x
    yield "SavedModel", SavedModel(folder / "teacher", head="softmax"), x
    yield "function", Frozen(lambda x: teacher(x) * 1.0, head="softmax"), x
    yield "remembered", kd.teachers.InMemory(teacher), x
    yield "by hand", kd.teachers.Cached(head="softmax"), kd.Joined(x, {"logits": teacher(x).numpy()})
    for name, arguments in {"float16": {}, "float32": {"dtype": "float32"}, "top 3": {"top_k": 3}}.items():
        cache = kd.TeacherCache(folder / name, teacher=teacher, **arguments)
        cache.build(x, verbose=0)
        yield f"cached, {name}", kd.teachers.Cached(cache), cache.join(x)


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("soften", [True, False])
def test_the_squared_error_of_a_softmax_is_the_same_however_the_teacher_is_wrapped(tmp_path, soften):
    def logarithms(model):
        z = X.astype("float64") @ model.get_weights()[0] + model.get_weights()[1]
        return np.log(softmax(z))

    student, teacher = linear(1, activation="softmax"), linear(2, activation="softmax")
    teacher.set_weights([teacher.get_weights()[0], teacher.get_weights()[1] + 7.0])  # which no probability shows
    expected = np.mean((logarithms(student) - logarithms(teacher)) ** 2)  # T cancels
    received = {}
    for name, given, x in wrapped(teacher, tmp_path, X):
        distiller = distill(student, given, [Term(losses.squared_error, soften=soften)], loss=None, alpha=1.0)
        received[name] = fit(distiller, x, None, batch_size=8)["loss"][0]
    rounded = {"in 16 bits": 2e-2, "cached, float16": 1e-3, "cached, top 3": 1e-3}
    assert received == {name: pytest.approx(expected, rel=rounded.get(name, 1e-5)) for name in received}


@pytest.mark.parametrize(
    "term",
    [
        Term(losses.squared_error),
        Term(losses.binary_kl, temperature=1.0),
        Term(losses.squared_error, at=("scores_read", "logits"), soften=False),
        Term(losses.squared_error, at=("logits", "scores_read"), soften=False),
        Term(losses.kl_divergence, transform=lambda z: 0.1 * z**2, temperature=1.0, name="transformed"),
    ],
    ids=["numbers", "labels", "a layer against an output", "an output against a layer", "transformed"],
)
def test_a_softmax_has_the_same_logits_beside_a_term_that_compares_distributions(term):
    def model(seed):
        x = keras.Input((4,))
        y = keras.layers.Identity(name="scores_read")(linear(seed)(x))
        return keras.Model(x, keras.layers.Softmax()(keras.layers.Rescaling(1.0, offset=5.0)(y)))

    def read(seed, side):
        z = X.astype("float64") @ linear(seed).get_weights()[0] + linear(seed).get_weights()[1]
        return np.log(softmax(z)) if side == "logits" else z

    distiller = distill(model(1), model(2), [Term(losses.kl_divergence), term], loss=None, alpha=1.0)
    s, t = read(1, term.student_names[0]), read(2, term.teacher_names[0])
    if term.transform is not None:
        s, t = term.transform(s), term.transform(t)
    expected = getattr(references, term.loss.__name__)(s, t).mean()
    assert fit(distiller, X, None)[term.name] == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize("head", ["sigmoid", None])
def test_the_squared_error_of_logits_that_no_softmax_made_is_that_of_the_logits(tmp_path, head):
    student, teacher = linear(1, activation=head), linear(2, activation=head)
    z, t = (X.astype("float64") @ each.get_weights()[0] + each.get_weights()[1] for each in (student, teacher))
    same = [teacher, teacher] if head else [teacher]  # the mean of two softmaxes knows nothing of a constant
    cache = kd.TeacherCache(tmp_path, teacher=same, dtype="float32")
    cache.build(X, verbose=0)
    given = {"live": teacher, "ensemble": same, "remembered": kd.teachers.InMemory(same)}
    for each, x in [*((each, X) for each in given.values()), (kd.teachers.Cached(cache), cache.join(X))]:
        distiller = distill(student, each, [Term(losses.squared_error)], loss=None, alpha=1.0, temperature=4.0)
        assert fit(distiller, x, None, batch_size=8)["loss"] == pytest.approx([np.mean((z - t) ** 2)], rel=1e-4)


# Teachers that need NumPy


def forest():
    return RandomForestClassifier(5, random_state=0).fit(X, Y)


NEED_NUMPY = {
    "a function": lambda: lambda x: forest().predict_proba(x),
    "a function of x.numpy()": lambda: lambda x: forest().predict_proba(x.numpy()),
    "remembered": lambda: kd.teachers.InMemory(Frozen(lambda x: forest().predict_proba(x), head="softmax")),
    "a member": lambda: [linear(2), Frozen(lambda x: forest().predict_proba(x), head="softmax")],
}


@pytest.mark.filterwarnings("ignore:The outputs of")
@pytest.mark.parametrize("name", NEED_NUMPY)
def test_a_function_of_arrays_is_refused_with_what_to_do(name):
    student = linear(1)
    distiller = distill(student, NEED_NUMPY[name](), run_eagerly=False)
    before = numbers(student)
    words = r"^Expected a teacher that computes with TensorFlow\..*NumPy.*teachers\.Python\(function, head=.softmax.\)"
    with pytest.raises(ValueError, match=words):
        fit(distiller)
    assert_same(numbers(student), before)


def test_an_error_that_a_function_raises_itself_is_not_explained_with_arrays():
    def wrong(x):
        raise ValueError("Expected images.")

    with pytest.raises(ValueError, match="Expected images") as raised:
        Frozen(wrong)(tf.constant(X), {})
    assert "NumPy" not in str(raised.value)


def test_what_a_forest_has_predicted_can_be_joined():
    probabilities, student = forest().predict_proba(X), linear(1)
    distiller = distill(student, kd.teachers.Cached(head="softmax"), loss=None, alpha=1.0, temperature=4.0)
    logits = np.log(np.maximum(probabilities, np.finfo("float32").tiny))
    received = fit(distiller, kd.Joined(X, {"logits": probabilities}), None)["loss"]
    assert received == pytest.approx([soft_loss(student(X), logits)], rel=1e-5)
