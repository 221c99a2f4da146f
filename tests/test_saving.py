"""A Distiller on disk: small, without the teacher, and trained further as if never interrupted."""

import functools
import json
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from tests.models import assert_same, batch, linear, mlp, numbers

X, Y = batch(20)  # three batches an epoch, the last one ragged
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
Ramp = kd.schedules.Ramp


def compiled(student, teacher, terms=None, optimizer=None, loss=LOGITS, head="auto", **arguments):
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms, student_head=head)
    distiller.compile(optimizer or keras.optimizers.Adam(0.05), loss, metrics=["accuracy"], **arguments)
    return distiller, teacher


def with_numbers():
    student = mlp(1, extra=keras.layers.BatchNormalization())  # no Dropout: Keras does not save its random state
    return compiled(student, mlp(2), alpha=0.3, temperature=3.0)


def with_schedules():
    decay = keras.optimizers.schedules.PolynomialDecay(8.0, 6, 1.0)
    terms = [
        kd.Term(kd.losses.kl_divergence, weight=Ramp(0.0, 2.0, steps=6)),
        kd.Term(kd.losses.squared_error, temperature=4.0),
    ]
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 6), momentum=0.9)
    return compiled(mlp(1), mlp(2), terms, optimizer, alpha=Ramp(1.0, 0.2, steps=5), temperature=decay)


def with_a_bridge():
    bridge = keras.layers.Dense(9, kernel_initializer=keras.initializers.RandomNormal(seed=3))
    hint = kd.Term(kd.losses.squared_error, at=("hidden", "hidden"), weight=0.5, bridge=bridge)
    optimizer = keras.optimizers.Adam(0.05, gradient_accumulation_steps=2)  # an epoch ends in the middle of a pair
    return compiled(mlp(1), mlp(2, units=9), [kd.Term(kd.losses.kl_divergence), hint], optimizer)


def with_a_head():
    hidden_softmax = keras.Sequential([keras.Input((4,)), linear(1, activation="softmax"), keras.layers.Rescaling(1.0)])
    return compiled(hidden_softmax, mlp(2), loss="sparse_categorical_crossentropy", head="softmax")


def with_a_keras_loss():
    term = kd.Term(keras.losses.LogCosh(), at=("hidden", "hidden"), name="hint")
    return compiled(mlp(1), mlp(2), [term], keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True))


def with_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return compiled(mlp(1), mlp(2))
    finally:
        keras.config.set_dtype_policy("float32")


def with_kind_and_box():
    def model(seed):
        x = keras.Input((4,))
        return keras.Model(x, {"kind": linear(seed)(x), "box": linear(seed + 1)(x)})

    terms = [
        kd.Term(kd.losses.kl_divergence, at="kind"),
        kd.Term(kd.losses.squared_error, at="box", soften=False),
    ]
    distiller = kd.Distiller(student=model(1), teacher=(teacher := model(5)), terms=terms)
    distiller.compile("adam", {"kind": LOGITS}, loss_weights={"kind": 2.0})
    return distiller, teacher


CASES = [
    with_numbers,
    with_schedules,
    with_a_bridge,
    with_a_head,
    with_a_keras_loss,
    with_half_precision,
    with_kind_and_box,
]

FRESH = """
import sys, keras_kd
import keras, numpy
x, y, folders = numpy.load(sys.argv[1])["x"], numpy.load(sys.argv[1])["y"], sys.argv[2:]
for folder in folders:
    distiller = keras.models.load_model(folder + "/distiller.keras")
    distiller.teacher = keras.models.load_model(folder + "/teacher.keras")
    labels = {"kind": y, "box": y} if "box" in folder else y
    distiller.fit(x, labels, batch_size=8, shuffle=False, verbose=0)
    numpy.savez(folder + "/after.npz", *[numpy.array(v) for v in distiller.variables + distiller.optimizer.variables])
"""


def fit(distiller, epochs):
    labels = {"kind": Y, "box": Y} if isinstance(distiller.student(X[:1]), dict) else Y
    distiller.fit(X, labels, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


@pytest.mark.one_in(2, group="kills")
@pytest.mark.slow
def test_a_distiller_that_is_loaded_in_a_fresh_process_continues_as_if_never_interrupted(tmp_path):
    folders = {make: tmp_path / make.__name__ for make in CASES}
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    for make, folder in folders.items():
        distiller, teacher = make()
        fit(distiller, 1)
        folder.mkdir()
        distiller.save(folder / "distiller.keras")
        teacher.save(folder / "teacher.keras")
    command = [sys.executable, "-c", FRESH, tmp_path / "data.npz", *map(str, folders.values())]
    root = pathlib.Path(kd.__file__).parent.parent
    subprocess.run(command, cwd=root, check=True, timeout=300)  # one process for all: it takes long to start
    wrong = {}
    for make, folder in folders.items():
        whole, _ = make()
        fit(whole, 2)
        try:
            with np.load(folder / "after.npz") as after:
                assert_same(list(after.values()), numbers(whole) + numbers(whole.optimizer), 1e-6)
        except AssertionError as error:
            wrong[make.__name__] = str(error)
    assert not wrong


def test_numbers_that_were_assigned_after_compile_are_saved(tmp_path):
    distiller, _ = with_numbers()
    distiller.alpha, distiller.temperature = 0.75, 6.0
    distiller.save(tmp_path / "distiller.keras")
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    other, _ = with_numbers()
    other.load_weights(tmp_path / "distiller.weights.h5")
    for restored in (loaded, other):
        assert (restored.alpha, restored.temperature) == (0.75, 6.0)


@pytest.mark.slow
def test_a_loaded_distiller_predicts_and_evaluates_at_once_and_requires_a_teacher_before_fit(tmp_path):
    distiller, teacher = with_numbers()
    fit(distiller, 1)
    distiller.save(tmp_path / "distiller.keras")
    expected = distiller.student.predict(X, verbose=0), distiller.evaluate(X, Y, verbose=0)
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), expected[0], rtol=1e-6)
    np.testing.assert_allclose(loaded.evaluate(X, Y, verbose=0), expected[1], rtol=1e-6)
    assert loaded.teacher is None
    with pytest.raises(ValueError, match="distiller.teacher = "):
        loaded.fit(X, Y, verbose=0)
    loaded.teacher = teacher
    fit(loaded, 1)


@pytest.mark.parametrize("name", ["alpha", "temperature"])
def test_a_lambda_is_not_written_and_is_required_before_the_next_step(tmp_path, name):
    distiller, teacher = compiled(mlp(1), mlp(2), **{name: lambda step: 0.5})
    fit(distiller, 1)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    before = numbers(loaded.student)
    with pytest.raises(ValueError, match=f"distiller.{name}.*assign"):
        fit(loaded, 1)
    assert_same(numbers(loaded.student), before)
    setattr(loaded, name, lambda step: 0.5)
    fit(loaded, 1)
    fit(distiller, 1)
    assert_same(numbers(loaded.student), numbers(distiller.student), 1e-6)


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("where", ["transform", "weight", "temperature", "loss"])
def test_no_lambda_of_a_term_is_written_as_code(tmp_path, where):
    function = {
        "transform": lambda logits: 2.0 * logits,
        "loss": lambda student, teacher: keras.ops.mean(keras.ops.abs(student - teacher), axis=-1),
    }.get(where, lambda step: 0.5)
    arguments = {"loss": kd.losses.kl_divergence, where: function, "name": "soft"}
    distiller, _ = compiled(mlp(1), mlp(2), [kd.Term(**arguments)])
    try:
        distiller.save(tmp_path / "distiller.keras")
    except (TypeError, ValueError) as error:
        assert "soft" in str(error) and where in str(error) and "regist" in str(error)
    else:
        assert "__lambda__" not in config_of(tmp_path / "distiller.keras")
        keras.models.load_model(tmp_path / "distiller.keras").predict(X, verbose=0)


def test_a_distiller_without_compile_is_saved_and_loaded(tmp_path):
    distiller = kd.Distiller(student=mlp(1), teacher=mlp(2))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert_same(numbers(loaded.student), numbers(mlp(1)))


def test_the_file_is_as_small_as_the_students_with_its_optimizer(tmp_path):
    student, plain = mlp(1, units=500), mlp(1, units=500)
    distiller, teacher = compiled(student, mlp(2, units=20_000))
    plain.compile(keras.optimizers.Adam(0.05), LOGITS, metrics=["accuracy"])
    for model, name in ((distiller, "distiller"), (plain, "plain"), (teacher, "teacher")):
        if model is not teacher:
            model.fit(X, Y, verbose=0)
        model.save(tmp_path / f"{name}.keras")
    ours, theirs, teachers = ((tmp_path / f"{name}.keras").stat().st_size for name in ("distiller", "plain", "teacher"))
    assert teachers > 5 * theirs
    assert ours <= 1.05 * theirs + 10 * 1024


def test_no_file_holds_the_teacher(tmp_path):
    distiller, teacher = with_a_bridge()
    secret = mlp(2, units=9)
    secret.get_layer("scores").name = "secret_scores"
    distiller.teacher = secret
    fit(distiller, 1)
    distiller.save(tmp_path / "distiller.keras")
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    for path in tmp_path.iterdir():
        written = path.read_bytes()
        assert numbers(distiller.student)[0].tobytes() in written
        for model in (teacher, secret):
            assert numbers(model)[0].tobytes() not in written
        assert b"secret" not in written
    config = json.loads(config_of(tmp_path / "distiller.keras"))["config"]
    assert "teacher" not in config


def test_the_teacher_is_neither_a_layer_nor_a_variable_of_the_distiller():
    distiller, teacher = with_a_bridge()
    theirs = {id(v) for v in teacher.variables}
    assert not theirs & {id(v) for v in distiller.variables}
    assert teacher not in distiller._flatten_layers()
    assert distiller.count_params() == distiller.student.count_params() + 5 * 9 + 9  # the bridge's kernel and bias


def test_the_loaded_student_is_saved_as_a_plain_model(tmp_path):
    distiller, _ = with_a_bridge()
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.student.save(tmp_path / "student.keras")
    assert "keras_kd" not in config_of(tmp_path / "student.keras")
    student = keras.models.load_model(tmp_path / "student.keras")
    assert_same(numbers(student), numbers(distiller.student))


# What users write themselves


def absolute(student, teacher):
    return keras.ops.mean(keras.ops.abs(student - teacher), axis=-1)


def halved(logits):
    return logits / 2.0


def a_half(step):
    return 0.5


def huber(student, teacher):
    """A loss of the name of one of Keras's."""
    return 3.0 * absolute(student, teacher)


class Weighted(keras.layers.Layer):
    """A loss with a weight."""

    def build(self, *shapes):
        self.factor = self.add_weight(shape=(), initializer="ones")
        self.built = True

    def call(self, student, teacher):
        return self.factor * absolute(student, teacher)


class Projection(keras.layers.Dense):
    """A bridge."""


class Distance(keras.losses.Loss):
    """A loss on the student's side."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule."""

    def __call__(self, step):
        return 0.5

    def get_config(self):
        return {}


OWN = {each.__name__: each for each in (absolute, halved, a_half, huber, Weighted, Projection, Distance, Halving)}
OF_USERS = {
    "loss": lambda: [kd.Term(absolute)],
    "a loss named as one of Keras's": lambda: [kd.Term(huber)],
    "transform": lambda: [kd.Term(kd.losses.kl_divergence, transform=halved)],
    "weight": lambda: [kd.Term(kd.losses.kl_divergence, weight=a_half)],
    "temperature": lambda: [kd.Term(kd.losses.kl_divergence, temperature=Halving())],
    "bridge": lambda: [kd.Term(absolute, at=("hidden", "hidden"), bridge=Projection(5), name="hint")],
    "layer": lambda: [kd.Term(Weighted(), at=("hidden", "hidden"))],
    "Keras loss": lambda: [kd.Term(Distance(), name="Distance")],
}


def saved(folder, terms, **arguments):
    """Return a Distiller that was trained, and the file it was saved to."""
    distiller, _ = compiled(mlp(1), mlp(2), terms, keras.optimizers.SGD(0.1), run_eagerly=True, **arguments)
    fit(distiller, 1)
    distiller.save(folder / "distiller.keras")
    return distiller, folder / "distiller.keras"


def goes_on(loaded, distiller):
    """Assert that a loaded Distiller trains as the one that was saved."""
    loaded.teacher = mlp(2)
    for each in (loaded, distiller):
        fit(each, 1)
    assert_same(numbers(loaded.student), numbers(distiller.student), 1e-6)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("scope", [True, False], ids=["scope", "argument"])
@pytest.mark.parametrize("what", OF_USERS)
def test_objects_of_the_user_are_found_among_custom_objects(tmp_path, what, scope):
    distiller, path = saved(tmp_path, OF_USERS[what]())
    if scope:
        with keras.saving.custom_object_scope(OWN):
            loaded = keras.saving.load_model(path)
    else:
        loaded = keras.saving.load_model(path, custom_objects=OWN)
    goes_on(loaded, distiller)


@pytest.mark.parametrize("name", ["alpha", "temperature"])
def test_a_schedule_that_is_the_users_own_function_is_found_among_custom_objects(tmp_path, name):
    distiller, path = saved(tmp_path, None, **{name: a_half})
    loaded = keras.saving.load_model(path, custom_objects=OWN)
    assert getattr(loaded, name) is a_half
    goes_on(loaded, distiller)


@pytest.mark.parametrize("what", ["loss", "a loss named as one of Keras's", "transform", "weight"])
def test_a_function_that_is_not_found_is_required_before_the_next_step(tmp_path, what):
    _, path = saved(tmp_path, OF_USERS[what]())
    loaded = keras.saving.load_model(path)
    assert np.all(np.isfinite(loaded.predict(X, verbose=0)))
    before = numbers(loaded.student)
    with pytest.raises(ValueError, match="(loss|transform|weight) was a function.*assigned again"):
        loaded.teacher = mlp(2)  # which tries the terms
        fit(loaded, 1)
    assert_same(numbers(loaded.student), before)


class Called:
    """A function that is an object."""

    def __call__(self, student, teacher):
        return absolute(student, teacher)


@pytest.mark.parametrize("loss", [functools.partial(absolute), Called(), tf.function(absolute)], ids=lambda each: "")
def test_functions_without_a_name_do_not_prevent_a_trained_distiller_from_being_saved(tmp_path, loss):
    distiller, path = saved(tmp_path, [kd.Term(loss, name="own")])
    loaded = keras.saving.load_model(path)
    loaded.terms[0].loss = loss
    goes_on(loaded, distiller)


@pytest.mark.slow
def test_names_of_layers_and_terms_are_not_treated_as_custom_objects(tmp_path):
    distiller, path = saved(tmp_path, [kd.Term(absolute, at=("hidden", "hidden"), name="hint")])
    others = {"hidden": halved, "hint": halved, "distiller": halved, "logits": halved}
    goes_on(keras.saving.load_model(path, custom_objects={**OWN, **others}), distiller)


@keras.saving.register_keras_serializable("test_saving")
def registered(logits):
    return logits / 2.0


@pytest.mark.parametrize("transform", [registered, keras.activations.softplus, kd.transforms.standardize])
def test_a_function_that_keras_finds_needs_no_custom_objects(tmp_path, transform):
    distiller, path = saved(tmp_path, [kd.Term(kd.losses.kl_divergence, transform=transform)])
    loaded = keras.saving.load_model(path)
    assert loaded.terms[0].transform is transform
    goes_on(loaded, distiller)


class Mine(keras.Model):
    """A student without a graph."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.scores = keras.layers.Dense(3)

    def call(self, x):
        return self.scores(x)


def test_a_student_that_is_the_users_own_is_found_among_custom_objects(tmp_path):
    student = Mine()
    student(X)
    distiller, _ = compiled(student, mlp(2))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras", custom_objects={"Mine": Mine})
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), student.predict(X, verbose=0))
