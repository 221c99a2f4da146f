"""Every kind of data, structure and model that Keras takes.

Expected weights and losses are gradient descent in float64 NumPy on linear models: with logits s = x W + b,

    d/ds [alpha * T**2 * KL(softmax(t / T) || softmax(s / T))] = alpha * T * (softmax(s / T) - softmax(t / T))
    d/ds [(1 - alpha) * cross-entropy] = (1 - alpha) * (softmax(s) - onehot(y))

each times the example's weight and divided by the size of the batch.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

N, BATCH, FEATURES, CLASSES, RATE, T = 10, 4, 5, 3, 0.5, 3.0
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, FEATURES)).astype("float32")
Y = RNG.integers(0, CLASSES, size=N)
W = RNG.uniform(0.0, 2.0, size=N).astype("float32")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear(seed, name):
    dense = keras.layers.Dense(
        CLASSES,
        kernel_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seed),
        name=f"{name}_dense",
    )
    return keras.Sequential([keras.Input((FEATURES,)), dense], name=name)


def numbers(model):
    return [np.asarray(w, "float64") for w in model.get_weights()]


def logits(model, x=X):
    kernel, bias = numbers(model)
    return np.asarray(x, "float64") @ kernel + bias


def kl(student, teacher, temperature=1.0):
    """T**2 * KL(softmax(teacher / T) || softmax(student / T)), per example."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * np.sum(p * (np.log(p) - np.log(q)), axis=-1)


def descend(student, teacher, alpha, weight=None, x=X, labels=Y, epochs=2):
    """Kernel and bias of a linear student after gradient descent in order, with a ragged last batch."""
    kernel, bias = numbers(student)
    x, t = np.asarray(x, "float64"), logits(teacher, x)
    weight = np.ones(len(x)) if weight is None else weight
    for _ in range(epochs):
        for i in range(0, len(x), BATCH):
            part = slice(i, i + BATCH)
            s = x[part] @ kernel + bias
            slope = alpha * T * (softmax(s / T) - softmax(t[part] / T))
            if alpha < 1:
                slope += (1 - alpha) * (softmax(s) - np.eye(CLASSES)[labels[part]])
            slope *= weight[part, None] / len(s)
            kernel, bias = kernel - RATE * x[part].T @ slope, bias - RATE * slope.sum(0)
    return kernel, bias


class Batches(keras.utils.PyDataset):
    def __init__(self, arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return -(-N // BATCH)

    def __getitem__(self, index):
        return tuple(a[index * BATCH : (index + 1) * BATCH] for a in self.arrays)


def forever(arrays):
    while True:
        yield from iter(Batches(arrays)[i] for i in range(3))


FIT = {
    "numpy": lambda a: dict(zip(("x", "y", "sample_weight"), a, strict=False), batch_size=BATCH, shuffle=False),
    "tf.data": lambda a: dict(x=tf.data.Dataset.from_tensor_slices(a).batch(BATCH)),
    "PyDataset": lambda a: dict(x=Batches(a), shuffle=False),
    "generator": lambda a: dict(x=forever(a), steps_per_epoch=3),
}


def distil(student, teacher, alpha=0.5, loss=CROSS_ENTROPY, rate=RATE, terms=None, **arguments):
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    distiller.compile(keras.optimizers.SGD(rate), loss, alpha=alpha, temperature=T, **arguments)
    return distiller


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", FIT)
@pytest.mark.parametrize("arrays, alpha", [((X,), 1.0), ((X, Y), 0.3), ((X, Y, W), 0.3)], ids=["x", "xy", "xyw"])
def test_every_source_of_data_gives_the_steps_of_gradient_descent(kind, arrays, alpha):
    student, teacher = linear(1, "student"), linear(2, "teacher")
    expected = descend(student, teacher, alpha, W if len(arrays) == 3 else None)
    distiller = distil(student, teacher, alpha, CROSS_ENTROPY if alpha < 1 else None)
    distiller.fit(**FIT[kind](arrays), epochs=2, verbose=0)
    for ours, theirs in zip(student.get_weights(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "validation",
    [
        (X, Y),
        (X, Y, W),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH),
        Batches((X, Y)),
    ],
    ids=["xy", "xyw", "tf.data", "PyDataset"],
)
def test_validation_data_of_every_kind_give_the_students_loss(validation):
    student = linear(1, "student")
    distiller = distil(student, linear(2, "teacher"), rate=0.0)
    history = distiller.fit(X, Y, verbose=0, validation_data=validation, validation_batch_size=BATCH).history
    losses = -np.log(softmax(logits(student)))[np.arange(N), Y]
    if isinstance(validation, tuple) and len(validation) == 3:
        losses = losses * W  # Keras divides by the number of examples, not by the weights
    np.testing.assert_allclose(history["val_loss"], losses.mean(), rtol=1e-5)


def test_a_label_free_fit_needs_neither_labels_nor_loss_in_any_form_of_x():
    forms = [X, tf.data.Dataset.from_tensor_slices(X).batch(BATCH), tf.constant(X)]
    for x in forms:
        student, teacher = linear(1, "student"), linear(2, "teacher")
        expected = descend(student, teacher, alpha=1.0)
        distiller = distil(student, teacher, alpha=1.0, loss=None)
        distiller.fit(x, batch_size=None if x is forms[1] else BATCH, epochs=2, shuffle=False, verbose=0)
        np.testing.assert_allclose(student.get_weights()[0], expected[0], atol=2e-6)


def test_label_free_validation_reports_the_distance_to_the_teacher():
    student, teacher = linear(1, "student"), linear(2, "teacher")
    distiller = distil(student, teacher, alpha=1.0, loss=None, rate=0.0)
    history = distiller.fit(X, validation_data=(X[:7],), verbose=0).history
    distances = kl(logits(student), logits(teacher), T)
    assert set(history) == {"loss", "distillation_loss", "val_loss", "val_distillation_loss"}
    np.testing.assert_allclose(history["distillation_loss"], distances.mean(), rtol=1e-5)
    np.testing.assert_allclose(history["val_distillation_loss"], distances[:7].mean(), rtol=1e-5)


def test_labels_given_with_alpha_1_and_no_loss_change_nothing():
    student, teacher = linear(1, "student"), linear(2, "teacher")
    expected = descend(student, teacher, alpha=1.0)
    distil(student, teacher, 1.0, None).fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(student.get_weights()[0], expected[0], atol=2e-6)


def two_inputs(form, seed, name):
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    dense = linear(seed, name).layers[-1]
    output = dense(keras.layers.Concatenate()([a, b]))
    return keras.Model({"dict": {"a": a, "b": b}, "list": [a, b], "tuple": (a, b)}[form], output, name=name)


@pytest.mark.parametrize(
    "form, source", [("dict", "numpy"), ("list", "numpy"), ("tuple", "tf.data"), ("dict", "tf.data")]
)
def test_several_inputs_in_a_dict_list_or_tuple(form, source):
    student, teacher = two_inputs(form, 1, "student"), two_inputs(form, 2, "teacher")
    expected = descend(student, teacher, 0.3)
    a, b = X[:, :2], X[:, 2:]
    x = {"dict": {"b": b, "a": a}, "list": [a, b], "tuple": (a, b)}[form]
    if source == "numpy":
        data = dict(x=x, y=Y, batch_size=BATCH, shuffle=False)
    else:
        data = dict(x=tf.data.Dataset.from_tensor_slices((x, Y)).batch(BATCH))
    distil(student, teacher, 0.3).fit(**data, epochs=2, verbose=0)
    np.testing.assert_allclose(student.get_weights()[0], expected[0], atol=2e-6)


def test_the_teacher_may_read_keys_that_the_student_does_not():
    student = keras.Model({"a": (a := keras.Input((FEATURES,), name="a"))}, linear(1, "student")(a))
    b = keras.Input((FEATURES,), name="b")
    teacher = keras.Model({"b": b}, linear(2, "teacher")(b))
    history = distil(student, teacher, rate=0.0).fit({"a": X, "b": 2 * X}, Y, verbose=0).history
    distance = kl(logits(student), logits(teacher, 2 * X), T).mean()
    np.testing.assert_allclose(history["distillation_loss"], distance, rtol=1e-5)


def detector(form, seed, name):
    """Classes and boxes from two linear layers, in a dict or a list."""
    x = keras.Input((FEATURES,))
    initial = keras.initializers.RandomNormal(seed=seed)
    kind = keras.layers.Dense(CLASSES, kernel_initializer=initial, name="kind")(x)
    box = keras.layers.Dense(2, kernel_initializer=initial, name="box")(x)
    return keras.Model(x, {"kind": kind, "box": box} if form == "dict" else [kind, box], name=name)


def affine(model, layer):
    kernel, bias = (np.asarray(w, "float64") for w in model.get_layer(layer).get_weights())
    return X @ kernel + bias


@pytest.mark.parametrize("form", ["dict", "list"])
def test_each_output_has_a_term_of_its_own(form):
    student, teacher = detector(form, 1, "student"), detector(form, 2, "teacher")
    terms = [
        kd.Term(kd.losses.kl_divergence, at="kind", name="soft_kind"),
        kd.Term(kd.losses.squared_error, at="box", weight=3.0, soften=False, name="soft_box"),
    ]
    boxes = RNG.normal(size=(N, 2)).astype("float32")
    y = {"kind": Y, "box": boxes} if form == "dict" else [Y, boxes]
    loss = {"kind": CROSS_ENTROPY, "box": "mse"} if form == "dict" else [CROSS_ENTROPY, "mse"]
    logs = distil(student, teacher, 0.25, loss, rate=0.0, terms=terms).fit(X, y, verbose=0).history
    soft_kind = kl(affine(student, "kind"), affine(teacher, "kind"), T).mean()
    soft_box = np.square(affine(student, "box") - affine(teacher, "box")).mean()
    hard = -np.log(softmax(affine(student, "kind")))[np.arange(N), Y].mean()
    hard += np.square(affine(student, "box") - boxes).mean()
    np.testing.assert_allclose(logs["soft_kind"], soft_kind, rtol=1e-5)
    np.testing.assert_allclose(logs["soft_box"], soft_box, rtol=1e-5)
    np.testing.assert_allclose(logs["student_loss"], hard, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], 0.25 * (soft_kind + 3 * soft_box) + 0.75 * hard, rtol=1e-5)


@pytest.mark.parametrize("form", ["dict", "list"])
def test_an_output_without_a_term_learns_nothing_from_the_teacher(form):
    student, teacher = detector(form, 1, "student"), detector(form, 2, "teacher")
    before = {name: student.get_layer(name).get_weights()[0] for name in ("kind", "box")}
    distiller = distil(student, teacher, 1.0, None, terms=[kd.Term(kd.losses.kl_divergence, at="kind")])
    distiller.fit(X, verbose=0)
    assert np.array_equal(student.get_layer("box").get_weights()[0], before["box"])
    assert not np.array_equal(student.get_layer("kind").get_weights()[0], before["kind"])


def test_values_are_not_softened_where_the_head_says_values():
    student, teacher = detector("dict", 1, "student"), detector("dict", 2, "teacher")
    term = kd.Term(kd.losses.squared_error, at="box")
    distiller = kd.Distiller(student=student, teacher=teacher, terms=[term], student_head={"box": "values"})
    distiller.compile(keras.optimizers.SGD(0.0), alpha=1.0, temperature=T)
    distance = np.square(affine(student, "box") - affine(teacher, "box")).mean()
    np.testing.assert_allclose(distiller.evaluate(X, verbose=0, return_dict=True)["loss"], distance, rtol=1e-5)


def test_outputs_may_be_named_apart_in_labels_weights_and_metrics():
    student, teacher = detector("dict", 1, "student"), detector("dict", 2, "teacher")
    distiller = distil(
        student,
        teacher,
        0.5,
        {"kind": CROSS_ENTROPY},
        rate=0.0,
        terms=[kd.Term(kd.losses.kl_divergence, at="kind")],
        metrics={"kind": ["accuracy"]},
    )
    y = {"kind": Y, "box": np.zeros((N, 2), "float32")}
    logs = distiller.fit(X, y, verbose=0).history
    correct = affine(student, "kind").argmax(-1) == Y
    np.testing.assert_allclose(logs["kind_accuracy"], correct.mean(), rtol=1e-6)


@keras.saving.register_keras_serializable("test_keras_data")
class Subclassed(keras.Model):
    """A linear model without a graph that Keras could walk."""

    def __init__(self, seed, **arguments):
        super().__init__(**arguments)
        self.dense = linear(seed, f"inner_{seed}").layers[-1]

    def call(self, x, training=None):
        return self.dense(x)


class Plain(keras.layers.Layer):
    """A layer that is no model and has no argument `training`."""

    def __init__(self, seed):
        super().__init__()
        self.dense = linear(seed, f"plain_{seed}").layers[-1]

    def call(self, x):
        return self.dense(x)


def of_kind(kind, seed, name):
    """One linear model, built in one of Keras's ways."""
    if kind == "subclassed":
        model = Subclassed(seed, name=name)
        model(X[:1])
    elif kind == "functional":
        x = keras.Input((FEATURES,))
        model = keras.Model(x, linear(seed, name).layers[-1](x), name=name)
    else:
        model = linear(seed, name)
    return model


@pytest.mark.parametrize(
    "student_kind, teacher_kind",
    [
        ("subclassed", "functional"),
        ("functional", "sequential"),
        ("sequential", "subclassed"),
        ("subclassed", "subclassed"),
    ],
)
def test_every_kind_of_student_learns_from_every_kind_of_teacher(student_kind, teacher_kind):
    student, teacher = of_kind(student_kind, 1, "student"), of_kind(teacher_kind, 2, "teacher")
    expected = descend(student, teacher, 0.3)
    distil(student, teacher, 0.3).fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(student.get_weights()[0], expected[0], atol=2e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Subclassed(1, name="student"),
        lambda: keras.Sequential(linear(1, "s").layers[-1:], name="student"),
    ],
    ids=["subclassed", "sequential"],
)
def test_a_student_that_is_not_built_yet_is_built_by_fit(make):
    student, teacher, twin = make(), linear(2, "teacher"), make()
    twin(X[:1])
    expected = descend(twin, teacher, 0.3)
    distil(student, teacher, 0.3).fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(student.get_weights()[0], expected[0], atol=2e-6)


def two_layers(kind, seed, name):
    """A linear "hidden" layer of width 4, then the classes."""
    initial = keras.initializers.RandomNormal(seed=seed)
    hidden = keras.layers.Dense(4, kernel_initializer=initial, name="hidden")
    output = keras.layers.Dense(CLASSES, kernel_initializer=initial)
    if kind == "sequential":
        return keras.Sequential([keras.Input((FEATURES,)), hidden, output], name=name)
    x = keras.Input((FEATURES,))
    return keras.Model(x, output(hidden(x)), name=name)


@pytest.mark.slow
@pytest.mark.parametrize("student_kind, teacher_kind", [("functional", "sequential"), ("sequential", "functional")])
def test_functional_and_sequential_models_are_read_at_layers(student_kind, teacher_kind):
    student, teacher = two_layers(student_kind, 1, "student"), two_layers(teacher_kind, 2, "teacher")
    terms = [kd.Term(kd.losses.squared_error, at=("hidden", "hidden"))]
    logs = distil(student, teacher, rate=0.0, terms=terms).fit(X, Y, verbose=0).history
    expected = np.square(affine(student, "hidden") - affine(teacher, "hidden")).mean()
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("endpoint", ["serve", "serving_default"])
def test_a_saved_model_teaches_as_a_layer(tmp_path, endpoint):
    student, teacher = linear(1, "student"), linear(2, "teacher")
    teacher.export(tmp_path / "teacher", verbose=False)
    layer = keras.layers.TFSMLayer(str(tmp_path / "teacher"), call_endpoint=endpoint)
    expected = descend(student, teacher, 0.3)
    distil(student, layer, 0.3).fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(student.get_weights()[0], expected[0], atol=2e-6)


def test_any_built_layer_teaches():
    for make in (lambda: linear(2, "teacher").layers[-1], lambda: Plain(2)):
        student, teacher = linear(1, "student"), make()
        teacher(X[:1])
        expected = descend(student, teacher, 0.3)
        distil(student, teacher, 0.3).fit(X, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        np.testing.assert_allclose(student.get_weights()[0], expected[0], atol=2e-6)


def test_a_list_of_outputs_of_a_subclassed_model_is_named_by_position():
    class Pair(Subclassed):
        def call(self, x, training=None):
            return [self.dense(x), 2.0 * self.dense(x)]

    student, teacher = Pair(1), Pair(2)
    teacher(X[:1])
    term = kd.Term(kd.losses.kl_divergence, at="output_1")
    logs = distil(student, teacher, 1.0, None, rate=0.0, terms=[term]).fit(X, verbose=0).history
    distance = kl(2 * logits(student), 2 * logits(teacher), T).mean()
    np.testing.assert_allclose(logs["distillation_loss"], distance, rtol=1e-5)


# Optional inputs


@keras.saving.register_keras_serializable("test_keras_data")
class OrZero(keras.layers.Layer):
    """Pass the second input on; the first, which may be left out, is added to it."""

    def call(self, extra, x):
        return x if extra is None else extra + x

    def compute_output_spec(self, extra, x):
        return keras.KerasTensor(x.shape, x.dtype)


def optional(form, seed):
    """Return `linear` after an input that may be None, which is the first."""
    extra = keras.Input((FEATURES,), name="extra", optional=True)
    x = keras.Input((FEATURES,), name="x")
    inputs = {"dict": {"extra": extra, "x": x}, "list": [extra, x]}[form]
    return keras.Model(inputs, linear(seed, f"inner_{form}_{seed}")(OrZero()(extra, x)))


def without(form, x):
    return {"dict": {"extra": None, "x": x}, "list": [None, x]}[form]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
@pytest.mark.parametrize("form", ["dict", "list"])
def test_an_optional_input_may_be_none(form, eager):
    student, teacher = optional(form, 1), optional(form, 2)
    expected = descend(linear(1, "a"), linear(2, "b"), 0.5)
    distiller = distil(student, teacher, run_eagerly=eager)
    x = without(form, X)
    distiller.fit(x, Y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    for received, wanted in zip(student.get_weights(), expected, strict=True):
        np.testing.assert_allclose(received, wanted, atol=1e-5)
    s = X @ np.asarray(expected[0]) + expected[1]
    hard = -np.log(softmax(s))[np.arange(N), Y].mean()
    assert distiller.evaluate(x, Y, verbose=0, return_dict=True)["loss"] == pytest.approx(hard, rel=1e-4)
    np.testing.assert_allclose(distiller.predict(x, verbose=0), s, atol=1e-4)


@pytest.mark.parametrize("how", ["train_on_batch", "generator", "InMemory", "Joined", "objective"])
def test_an_optional_input_may_be_none_wherever_data_are_given(how):
    form = "dict" if how == "generator" else "list"  # Keras takes no None in a list from a generator
    student, teacher, x = optional(form, 1), optional(form, 2), without(form, X)
    s, t = logits(linear(1, "a")), logits(linear(2, "b"))
    wanted = {"InMemory": kd.teachers.InMemory(teacher), "Joined": kd.teachers.Cached()}.get(how, teacher)
    distiller = distil(student, wanted, 1.0, None, rate=0.0, run_eagerly=True)
    if how == "generator":
        batches = (each for each in [(x, Y)] * 2)
        loss = distiller.fit(batches, steps_per_epoch=1, verbose=0).history["loss"][0]
    elif how == "train_on_batch":
        loss = distiller.train_on_batch(x, Y, return_dict=True)["loss"]
    elif how == "objective":
        loss = float(distiller.objective(x, Y)["loss"])
    else:
        x = kd.Joined(x, {"logits": t.astype("float32")}) if how == "Joined" else x
        loss = distiller.fit(x, Y, batch_size=BATCH, verbose=0).history["loss"][0]
    assert loss == pytest.approx(kl(s, t, T).mean(), rel=1e-5)


@pytest.mark.parametrize("form", ["dict", "list"])
def test_an_optional_input_may_be_none_where_layers_are_read(form):
    terms = [kd.Term(kd.losses.squared_error, at=("inner", "inner"))]
    models = []
    for seed in (1, 2):
        made = optional(form, seed)
        models.append(keras.Model(made.input, keras.layers.Dense(2)(made.output)))
        made.layers[-1].name = "inner"
    distiller = distil(*models, 1.0, None, rate=0.0, terms=terms, run_eagerly=True)
    expected = np.mean((logits(linear(1, "a")) - logits(linear(2, "b"))) ** 2)
    assert distiller.fit(without(form, X), Y, verbose=0).history["loss"] == pytest.approx([expected], rel=1e-5)


def test_a_sparse_input_stays_sparse_where_layers_are_read():
    def made(seed):
        x = keras.Input((FEATURES,), sparse=True)
        return keras.Model(x, linear(seed, f"sparse_{seed}").layers[-1](x))

    models = [made(1), made(2)]
    terms = [kd.Term(kd.losses.squared_error, at=tuple(each.layers[-1].name for each in models))]
    reader = kd.Distiller(student=models[0], teacher=models[1], terms=terms)._untracked.reader
    assert reader._tapped.inputs[0].sparse


@pytest.mark.parametrize("remembered", [True, False])
def test_check_reads_data_with_an_input_that_is_none(remembered):
    teacher = optional("dict", 2)
    distiller = distil(optional("dict", 1), kd.teachers.InMemory(teacher) if remembered else teacher)
    right = np.mean(logits(linear(2, "b")).argmax(axis=-1) == Y)
    report = distiller.check(without("dict", X), Y)
    assert (report.examples, report.teacher_accuracy) == (N, pytest.approx(right))


def test_checks_of_arrays_before_fit_read_those_with_an_input_that_is_none():
    def probabilities(x):
        return tf.nn.softmax(x["x"][:, :CLASSES])

    distiller = distil(optional("dict", 1), probabilities, run_eagerly=True)
    with pytest.warns(UserWarning, match="look like probabilities"):
        distiller.fit(without("dict", X), Y, verbose=0)
