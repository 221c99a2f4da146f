"""Rows without labels beside labelled ones: what each part of the objective counts, and what is refused."""

import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from tests.pages import blocks

ROWS, LABELLED, FEATURES, CLASSES = 8, 2, 3, 4
T, ALPHA = 2.0, 0.7
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(LABELLED, FEATURES)).astype("float32")
MORE = RANDOM.normal(size=(ROWS - LABELLED, FEATURES)).astype("float32")
IDS = np.array([3, 1])
ONE_HOT = np.eye(CLASSES, dtype="float32")[IDS]
SEVERAL = np.array([[1, 0, 1, 0], [0, 0, 1, 1]], "float32")
VALUES = RANDOM.normal(size=(LABELLED, CLASSES)).astype("float32")


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# Gradients of one row's loss by the logits z, in float64: of the labels y, and of the term with the teacher's logits t.
KINDS = {
    "class ids": (
        keras.losses.SparseCategoricalCrossentropy,
        {"from_logits": True},
        IDS,
        lambda z, y: softmax(z) - np.eye(CLASSES)[y],
        kd.losses.kl_divergence,
        lambda z, t: T * (softmax(z / T) - softmax(t / T)),
    ),
    "one-hot": (
        keras.losses.CategoricalCrossentropy,
        {"from_logits": True},
        ONE_HOT,
        lambda z, y: softmax(z) - y,
        kd.losses.kl_divergence,
        lambda z, t: T * (softmax(z / T) - softmax(t / T)),
    ),
    "several labels": (
        keras.losses.BinaryCrossentropy,
        {"from_logits": True},
        SEVERAL,
        lambda z, y: (sigmoid(z) - y) / z.shape[-1],
        kd.losses.binary_kl,
        lambda z, t: T * (sigmoid(z / T) - sigmoid(t / T)) / z.shape[-1],
    ),
    "yes or no": (
        keras.losses.BinaryCrossentropy,
        {"from_logits": True},
        SEVERAL[:, :1],
        lambda z, y: sigmoid(z) - y,
        kd.losses.binary_kl,
        lambda z, t: T * (sigmoid(z / T) - sigmoid(t / T)),
    ),
    "values": (
        keras.losses.MeanSquaredError,
        {},
        VALUES,
        lambda z, y: 2 * (z - y) / z.shape[-1],
        kd.losses.squared_error,
        lambda z, t: 2 * (z - t) / z.shape[-1],
    ),
}


def linear(weights, name=None):
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(weights.shape[1], use_bias=False)], name=name
    )
    model.set_weights([weights])
    return model


def moved(data, loss, term, first, taught, head="auto"):
    """Return by how much one step of gradient descent at the rate 1 moves the student's weights."""
    student, teacher = linear(first), kd.teachers.Frozen(linear(taught, "teacher"), head=head)
    terms = [kd.Term(term, sample_weight=None)]
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms, student_head=head)
    distiller.compile(keras.optimizers.SGD(1.0), loss, temperature=T, alpha=ALPHA, run_eagerly=True)
    distiller.fit(data.take(1), verbose=0, shuffle=False)
    return first.astype("float64") - student.get_weights()[0]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_mean_over_all_rows_of_the_term_and_over_labelled_rows_of_the_loss(kind, reduction):
    loss, arguments, y, of_labels, term, of_teacher = KINDS[kind]
    width = y.shape[1] if y.ndim == 2 else CLASSES
    first, taught = (RANDOM.normal(size=(FEATURES, width)).astype("float32") for _ in range(2))
    data = kd.augment.with_unlabelled((X, y), MORE, batch_size=ROWS, share=0.75)
    head = "values" if kind == "values" else "logits"
    step = moved(data, loss(reduction=reduction, **arguments), term, first, taught, head)
    x = np.concatenate([X, MORE]).astype("float64")
    # d/dW of alpha * 1/8 sum_all KL + (1 - alpha) * 1/2 sum_labelled CE, with z = x W
    gradient = ALPHA * x.T @ of_teacher(x @ first, x @ taught) / ROWS
    gradient += (1 - ALPHA) * x[:LABELLED].T @ of_labels(x[:LABELLED] @ first, y) / LABELLED
    np.testing.assert_allclose(step, gradient, atol=2e-6)


def test_weights_of_labelled_rows_are_kept():
    loss, arguments, y, of_labels, term, of_teacher = KINDS["class ids"]
    given = np.array([3.0, 0.5], "float32")
    first, taught = (RANDOM.normal(size=(FEATURES, CLASSES)).astype("float32") for _ in range(2))
    data = kd.augment.with_unlabelled((X, y, given), MORE, batch_size=ROWS, share=0.75)
    step = moved(data, loss(**arguments), term, first, taught)
    x = np.concatenate([X, MORE]).astype("float64")
    gradient = ALPHA * x.T @ of_teacher(x @ first, x @ taught) / ROWS
    gradient += (1 - ALPHA) * x[:LABELLED].T @ (given[:, None] * of_labels(x[:LABELLED] @ first, y)) / LABELLED
    np.testing.assert_allclose(step, gradient, atol=2e-6)


@pytest.mark.parametrize("data", ["labelled rows", "both"])
def test_mixtures_beside_the_rows_leave_the_denominator_of_the_labels(data):
    loss, arguments, y, of_labels, term, of_teacher = KINDS["class ids"]
    first, taught = (RANDOM.normal(size=(FEATURES, CLASSES)).astype("float32") for _ in range(2))

    def make():
        batches = tf.data.Dataset.from_tensors((X, y))
        if data == "both":
            batches = kd.augment.with_unlabelled((X, y), MORE, batch_size=ROWS, share=0.75)
        return kd.augment.apply(batches, kd.augment.Beside(kd.augment.MixUp()), seed=1)

    [(x, _, _)] = make().take(1)  # the first epoch of a dataset that is made anew is the same
    step = moved(make(), loss(**arguments), term, first, taught)
    x = np.asarray(x, "float64")
    assert len(x) == 2 * (LABELLED if data == "labelled rows" else ROWS)
    gradient = ALPHA * x.T @ of_teacher(x @ first, x @ taught) / len(x)
    rows = X.astype("float64")
    gradient += (1 - ALPHA) * rows.T @ of_labels(rows @ first, y) / LABELLED
    np.testing.assert_allclose(step, gradient, atol=2e-6)


def test_the_student_alone_learns_from_the_labelled_rows_as_if_there_were_no_others():
    data = kd.augment.with_unlabelled((X, IDS), MORE, batch_size=ROWS, share=0.75)
    first = RANDOM.normal(size=(FEATURES, CLASSES)).astype("float32")
    students = [linear(first) for _ in range(2)]
    for student, given in zip(students, (data.take(1), tf.data.Dataset.from_tensors((X, IDS))), strict=True):
        student.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        student.fit(given, verbose=0, shuffle=False)
    np.testing.assert_allclose(*(student.get_weights()[0] for student in students), atol=1e-6)


def test_several_inputs_and_outputs_each_count_their_labels():
    inputs = {name: keras.Input((FEATURES,), name=name) for name in ("left", "right")}
    outputs = {name: keras.layers.Dense(2, name=f"to_{name}")(inputs[name]) for name in inputs}
    student = keras.Model(inputs, outputs)
    teacher = keras.models.clone_model(student)
    x, y = {"left": X, "right": X + 1}, {"left": IDS % 2, "right": VALUES[:, :2]}
    terms = [kd.Term(kd.losses.squared_error, at=name, sample_weight=None, name=f"of_{name}") for name in inputs]
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    loss = {"left": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "right": "mse"}
    distiller.compile("sgd", loss, alpha=0.5, run_eagerly=True)
    data = kd.augment.with_unlabelled((x, y), {"left": MORE, "right": MORE}, batch_size=ROWS, share=0.75)
    predicted = {name: np.asarray(each, "float64") for name, each in student.predict(x, verbose=0).items()}
    logits = predicted["left"]
    entropy = np.log(np.exp(logits).sum(-1)) - logits[np.arange(2), y["left"]]
    expected = entropy.mean() + np.mean((predicted["right"] - y["right"]) ** 2)
    batch = next(iter(data))
    assert float(distiller.objective(*batch)["student_loss"]) == pytest.approx(expected, rel=1e-5)
    both = np.concatenate([X, MORE]), np.concatenate([X + 1, MORE])
    fed = dict(zip(inputs, both, strict=True))
    ours, theirs = (model.predict(fed, verbose=0)["left"] for model in (student, teacher))
    assert float(distiller.objective(*batch)["of_left"]) == pytest.approx(np.mean((ours - theirs) ** 2), rel=1e-5)


@pytest.mark.parametrize(("few", "more", "steps"), [(8, 24, 4), (3, 24, 4), (30, 5, 15), (1, 1, 1), (2, 7, 2)])
def test_an_epoch_ends_when_all_rows_were_seen_and_all_batches_have_one_size(few, more, steps):
    x, others = np.arange(few, dtype="float32"), 100 + np.arange(more, dtype="float32")
    data = kd.augment.with_unlabelled((x, x), others, batch_size=8, share=0.75)
    read = [np.asarray(batch[0]) for batch in data]
    assert len(read) == int(data.cardinality()) == steps
    assert {len(each) for each in read} == {8}
    assert all((each[:2] < 100).all() and (each[2:] >= 100).all() for each in read)
    assert set(np.concatenate(read)) == {*x, *others}


def test_the_order_follows_from_the_seed_and_differs_in_each_epoch():
    def epochs(seed):
        data = kd.augment.with_unlabelled((X, IDS), MORE, batch_size=4, seed=seed)
        return [np.concatenate([np.asarray(x) for x, _, _ in data]) for _ in range(2)]

    first, again, other = epochs(0), epochs(0), epochs(1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, other)


def test_a_shuffled_dataset_begins_as_often_whatever_is_read_ahead():
    begun = []
    for wait in (0.0, 0.05):
        examples = tf.data.Dataset.range(3).shuffle(3, seed=0).map(lambda row: (row, row))
        data = kd.augment.with_unlabelled(examples, np.arange(40), batch_size=8, share=0.5)
        epochs = []
        for _ in range(3):
            epochs.append([np.asarray(x[:4]) for x, _, _ in data])
            time.sleep(wait)  # time to read ahead
        begun.append(epochs)
    np.testing.assert_array_equal(*begun)


def test_all_rows_of_a_pass_come_before_one_comes_again():
    rows = np.arange(7)
    data = kd.augment.with_unlabelled((rows, rows), np.arange(100, 160), batch_size=4, share=0.5)
    seen = np.concatenate([np.asarray(x[:2]) for x, _, _ in data])
    assert all(sorted(part) == list(range(7)) for part in np.split(seen[:56], 8))


def test_datasets_of_examples_are_taken_in_their_order_and_labels_of_the_rest_are_left_out():
    examples = tf.data.Dataset.from_tensor_slices((X, IDS))
    rest = tf.data.Dataset.from_tensor_slices((MORE, np.full(len(MORE), 9)))
    for others in (rest, rest.map(lambda x, y: x), MORE):
        [(x, y, weights)] = kd.augment.with_unlabelled(examples, others, batch_size=8, share=0.75)
        np.testing.assert_array_equal(x[:2], X)
        np.testing.assert_array_equal(y, [*IDS, *[0] * 6])
        np.testing.assert_array_equal(weights, [4, 4, *[0] * 6])
    np.testing.assert_array_equal(np.sort(np.asarray(x[2:]), axis=0), np.sort(MORE, axis=0))


def test_rows_of_any_type_and_structure_keep_it():
    x = {"image": np.zeros((3, 4, 4, 1), "uint8"), "word": np.array(["a", "b", "c"], object), "n": np.arange(3)}
    data = kd.augment.with_unlabelled((x, np.zeros((3, 2), "int32")), x, batch_size=2)
    given, y, weights = next(iter(data))
    assert {name: each.dtype.name for name, each in given.items()} == {"image": "uint8", "word": "string", "n": "int64"}
    assert given["image"].shape == (2, 4, 4, 1) and y.dtype == "int32" and weights.dtype == "float32"


@pytest.mark.parametrize("changed", [lambda d: d, lambda d: d.map(lambda x, y, w: (x, y, w)).repeat(2).prefetch(1)])
def test_a_term_that_would_leave_out_the_rows_without_labels_is_refused(changed):
    distiller = kd.Distiller(student=linear(np.zeros((3, 4))), teacher=linear(np.ones((3, 4)), "teacher"))
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"on_all_rows.*'kl_divergence' with sample_weight='auto'"):
        distiller.fit(changed(kd.augment.with_unlabelled((X, IDS), MORE, batch_size=8)), verbose=0)
    beside = kd.augment.apply(tf.data.Dataset.from_tensors((X, IDS)), kd.augment.Beside(kd.augment.MixUp()))
    with pytest.raises(ValueError, match="on_all_rows"):
        distiller.fit(changed(beside), verbose=0)


def test_a_term_that_reads_labels_counts_the_rows_that_have_one():
    terms = kd.augment.on_all_rows([kd.Term(kd.losses.decoupled_kl), kd.Term(kd.losses.kl_divergence)])
    assert [term.sample_weight for term in terms] == ["auto", None]
    of_all = [kd.Term(kd.losses.decoupled_kl, sample_weight=None)]
    for given in (terms, of_all):
        distiller = kd.Distiller(student=linear(np.zeros((3, 4))), teacher=linear(np.eye(3, 4), "t"), terms=given)
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        data = kd.augment.with_unlabelled((X, IDS), MORE, batch_size=8, share=0.75)
        if given is of_all:
            with pytest.raises(ValueError, match="reads labels, as some rows have none"):
                distiller.fit(data, verbose=0, shuffle=False)
        else:
            distiller.fit(data, verbose=0, shuffle=False)


def test_a_teacher_that_reads_labels_is_refused():
    teachers = [linear(np.eye(3, 4), name) for name in ("first", "second")]
    ensemble = kd.teachers.Ensemble(teachers, weights="agreement")
    terms = [kd.Term(kd.losses.kl_divergence, sample_weight=None)]
    distiller = kd.Distiller(student=linear(np.zeros((3, 4))), teacher=ensemble, terms=terms)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="Give its weights as numbers"):
        distiller.fit(kd.augment.with_unlabelled((X, IDS), MORE, batch_size=8), verbose=0)


@pytest.mark.parametrize(("kind", "warned"), [("metrics", True), ("weighted_metrics", False)])
def test_metrics_that_see_no_weights_are_warned_of(kind, warned):
    terms = [kd.Term(kd.losses.kl_divergence, sample_weight=None)]
    distiller = kd.Distiller(student=linear(np.zeros((3, 4))), teacher=linear(np.eye(3, 4), "t"), terms=terms)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, **{kind: ["accuracy"]}, run_eagerly=True)
    data = kd.augment.with_unlabelled((X, IDS), MORE, batch_size=8, share=0.75)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        distiller.fit(data, verbose=0, shuffle=False)
    assert any("weighted_metrics" in str(each.message) for each in found) == warned


def test_other_data_are_not_looked_at():
    distiller = kd.Distiller(student=linear(np.zeros((3, 4))), teacher=linear(np.eye(3, 4), "t"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    distiller.fit(kd.augment.apply(tf.data.Dataset.from_tensors((X, IDS)), kd.augment.Noise(X)), verbose=0)


def test_targets_travel_with_both_kinds_of_rows():
    first, taught = (RANDOM.normal(size=(FEATURES, CLASSES)).astype("float32") for _ in range(2))
    given, rest = (kd.Joined(x, {"logits": x @ taught}) for x in (X, MORE))
    losses = []
    for source, labelled, more in (
        (kd.teachers.Cached(head="logits"), given, rest),
        (linear(taught, "teacher"), X, MORE),
    ):
        terms = [kd.Term(kd.losses.kl_divergence, sample_weight=None)]
        distiller = kd.Distiller(student=linear(first), teacher=source, terms=terms)
        distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        data = kd.augment.with_unlabelled((labelled, IDS), more, batch_size=ROWS, share=0.75)
        losses.append(distiller.fit(data, verbose=0, shuffle=False).history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, MORE), TypeError, r"tuple \(x, y\)"),
        (((X,), MORE), TypeError, r"tuple \(x, y\)"),
        (((X, IDS), MORE[:, :2]), ValueError, "same names, types and shapes"),
        (((X, IDS), MORE.astype(int)), ValueError, "same names, types and shapes"),
        ((({"a": X}, IDS), {"b": MORE}), ValueError, "same names, types and shapes"),
        (((X, IDS[:1]), MORE), ValueError, r"one length.*\[1, 2\]"),
        (((X, IDS), MORE[:0]), ValueError, "at least 1"),
        (((X, IDS), MORE, 1), ValueError, "from 2 on"),
        (((X, IDS), MORE, 8, 0.0), ValueError, "share=0.0"),
        (((X, IDS), MORE, 8, 1.0), ValueError, "share=1.0"),
        (((X, IDS), MORE, 8, 0.05), ValueError, "at least one row of either kind"),
        (((X, IDS), tf.data.Dataset.from_tensor_slices(MORE).repeat()), ValueError, "infinitely many"),
        (((X, IDS), tf.data.Dataset.from_tensor_slices(MORE).filter(lambda x: True)), ValueError, "unknown number"),
        (((X, IDS), tf.data.Dataset.from_tensors(tf.ragged.constant([[1.0]]))), TypeError, "dense"),
    ],
    ids=range(14),
)
def test_errors_tell_what_to_do(arguments, error, message):
    with pytest.raises(error, match=message):
        kd.augment.with_unlabelled(*arguments)


@pytest.mark.slow
def test_the_code_of_the_guide_runs():
    names: dict = {}
    for block in blocks("docs/more_data.md"):
        block.run(names)
    assert len(names["generated"]) == 2_000
