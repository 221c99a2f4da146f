"""Columns that travel with examples, and terms that count the examples which these choose."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import Joined, Term, losses
from tests import references
from tests.models import assert_same, dense, initial, mlp

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(1, 8, (12, 5)).astype("int32")
Y = RANDOM.integers(1, 8, (12, 5)).astype("int32")
WEIGHTS = (RANDOM.random((12, 5)) * (RANDOM.random((12, 5)) < 0.7)).astype("float32")
ORIGIN = np.array([0, 1, 2, 0, 0, 1, 2, 2, 1, 1, 0, 2])
CARRYING = Joined(X, columns={"origin": ORIGIN, "other": ORIGIN % 2})


def bigram(seed):
    """Return a model of ids to logits of the next one."""
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, dense(8, seed + 1)(keras.layers.Embedding(8, 6, embeddings_initializer=initial(seed))(ids)))


def halves(loss=losses.reverse_kl, **arguments):
    """Return a term for the rows of each of two kinds."""
    chosen = {"students": 0, "others": (1, 2)}
    return [Term(loss, rows={"origin": each}, name=name, **arguments) for name, each in chosen.items()]


def whole(loss=losses.reverse_kl, **arguments):
    return [Term(loss, **arguments)]


def distiller(terms, optimizer=None, loss=None, alpha=1.0, teacher=None, **arguments):
    made = kd.Distiller(student=bigram(1), teacher=teacher or bigram(5), terms=terms)
    made.compile(optimizer or keras.optimizers.SGD(0.5), loss, alpha=alpha, **{"run_eagerly": True, **arguments})
    return made


def cross_entropy(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def trained(made, x=CARRYING, y=Y, weights=WEIGHTS, epochs=1, **arguments):
    """Return the weights of a student after an epoch, and the logs."""
    given = {"sample_weight": weights, "batch_size": 5, "shuffle": False, "verbose": 0, **arguments}
    logs = made.fit(x, y, epochs=epochs, **given).history
    return made.student.get_weights(), logs


# What is counted


@pytest.mark.parametrize("name", ["reverse_kl", "hard_label"])  # which is not 0 where both sides are
def test_a_term_counts_its_rows_in_a_mean_over_all(name):
    student, teacher = RANDOM.normal(size=(2, 12, 5, 7))
    values = WEIGHTS * getattr(references, name)(student, teacher)
    outputs = [each.astype("float32") for each in (student, teacher)]
    rows = tf.constant(np.isin(ORIGIN, (1, 2)))
    value = Term(getattr(losses, name))(*outputs, sample_weight=tf.constant(WEIGHTS), rows=rows)
    assert float(value) == pytest.approx(values[np.isin(ORIGIN, (1, 2))].sum() / values.size, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_terms_that_share_the_rows_add_up_to_one_of_all(reduction):
    loss = cross_entropy(reduction=reduction, ignore_class=3)
    apart = trained(distiller(halves(), keras.optimizers.SGD(0.05), loss, alpha=0.6))
    together = trained(distiller(whole(), keras.optimizers.SGD(0.05), loss, alpha=0.6))
    assert_same(apart[0], together[0], 1e-6)
    for name in ("loss", "distillation_loss", "student_loss"):
        np.testing.assert_allclose(apart[1][name], together[1][name], rtol=1e-5)
    assert min(apart[1]["students"] + apart[1]["others"]) > 0


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 6), seed=st.integers(0, 2**32 - 1),
    values=st.sets(st.integers(-2, 3), min_size=1), mask=st.booleans(),
)  # fmt: skip
def test_each_row_is_of_one_of_two_terms(rows, seed, values, mask):
    random = np.random.default_rng(seed)
    student, teacher = random.normal(size=(2, rows, 3, 4)).astype("float32")
    column = random.integers(-2, 4, rows)
    chosen = kd._internal.row_choice.chosen({"c": sorted(values)}, {"c": column}, "term")
    np.testing.assert_array_equal(chosen, [each in values for each in column])
    given = {"student_mask": tf.constant(random.random((rows, 3)) < 0.6)} if mask else {}
    one, other, both = (
        float(Term(losses.skew_kl)(student, teacher, rows=each, **given)) for each in (chosen, ~chosen, None)
    )
    assert one + other == pytest.approx(both, rel=1e-5, abs=1e-6)


def test_a_row_has_to_have_one_of_the_values_of_each_column():
    columns = {"a": np.array([0, 0, 1, 1]), "b": np.array([[5], [6], [5], [7]], "uint8")}
    chosen = kd._internal.row_choice.chosen({"a": (0, 1), "b": (5, 7)}, columns, "term")
    np.testing.assert_array_equal(chosen, [True, False, True, True])


def test_what_other_rows_hold_changes_nothing():
    rows = tf.constant(ORIGIN == 0)
    student, teacher = RANDOM.normal(size=(2, 12, 5, 7)).astype("float32")
    found = []
    for other in (0.0, 7.0, np.nan, np.inf):
        sides = [tf.constant(np.where((ORIGIN == 0)[:, None, None], side, other)) for side in (student, teacher)]
        with tf.GradientTape() as tape:
            tape.watch(sides)
            value = Term(losses.reverse_kl)(*sides, rows=rows)
        gradient = tape.gradient(value, sides[0]).numpy()
        assert not np.any(gradient[ORIGIN != 0])
        found.append((value.numpy(), gradient))
    for value, gradient in found[1:]:
        assert value == found[0][0]
        np.testing.assert_array_equal(gradient, found[0][1])


def test_nothing_is_read_of_other_rows_beside_a_mask():
    student, teacher = RANDOM.normal(size=(2, 4, 5, 7)).astype("float32")
    mask, rows = np.ones((4, 5), bool), np.array([True, False, True, True])
    mask[0, 2:] = mask[1, 4:] = False
    expected = references.reverse_kl(student.astype("float64"), teacher.astype("float64"))
    expected = np.sum(np.where(mask & rows[:, None], expected, 0.0)) / mask.sum()
    student[1] = teacher[1] = np.inf
    student[0, 3] = np.nan
    student = tf.Variable(student)
    with tf.GradientTape() as tape:
        value = Term(losses.reverse_kl)(student, teacher, student_mask=tf.constant(mask), rows=tf.constant(rows))
    assert float(value) == pytest.approx(expected, rel=1e-5)
    gradient = tape.gradient(value, student).numpy()
    assert np.all(np.isfinite(gradient)) and np.any(gradient[0, :2]) and not np.any(gradient[1])


def test_a_bridge_and_a_transform_learn_from_the_rows_that_are_chosen():
    x, column = RANDOM.normal(size=(6, 4)).astype("float32"), np.array([0, 1, 0, 1, 1, 0])
    bridge = keras.layers.Dense(7, kernel_initializer="ones")
    term = Term(losses.squared_error, at=("hidden", "hidden"), bridge=bridge, rows={"c": 0}, sample_weight=None)
    made = kd.Distiller(student=mlp(1), teacher=mlp(2, units=7), terms=[term])
    made.compile("sgd", alpha=1.0)
    value = float(made.objective(Joined(x, columns={"c": column}))["loss"])
    alone = float(made.objective(Joined(x[column == 0], columns={"c": np.zeros(3, int)}))["loss"])
    assert value == pytest.approx(alone / 2, rel=1e-5)


def test_a_batch_without_rows_of_a_term_is_zero_and_moves_nothing():
    made = distiller(halves()[:1])
    weights, logs = trained(made, Joined(X, columns={"origin": np.ones(12, int)}))
    assert logs["loss"] == logs["distillation_loss"] == [0.0]
    assert_same(weights, bigram(1).get_weights())


def test_a_batch_of_no_rows_is_zero():
    parts = distiller(halves()).objective(Joined(X[:0], columns={"origin": ORIGIN[:0]}), Y[:0], WEIGHTS[:0])
    assert {name: float(each) for name, each in parts.items()} == dict.fromkeys(parts, 0.0)


# However the step is run


def test_a_fused_head_counts_the_same_rows():
    found = [
        trained(distiller([*halves(), *halves(losses.skew_kl, skew=0.2)][1:3], fused_head=way)) for way in (False, True)
    ]
    assert_same(found[1][0], found[0][0], 1e-6)
    for name, values in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], values, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("way", [{}, {"jit_compile": True}, {"steps_per_execution": 2}], ids=str)
@pytest.mark.parametrize("fused_head", [False, True])
def test_eager_graph_and_xla_agree(way, fused_head):
    expected = trained(distiller(halves()))
    way = {"run_eagerly": False, "jit_compile": False, **way}
    received = trained(distiller(halves(), fused_head=fused_head, **way))
    assert_same(received[0], expected[0], 1e-6)
    np.testing.assert_allclose(received[1]["students"], expected[1]["students"], rtol=1e-5)


@pytest.mark.slow
def test_batches_whose_gradients_are_accumulated_step_as_one():
    settings = {"learning_rate": 0.5, "gradient_accumulation_steps": 2}
    apart = trained(distiller(halves(), keras.optimizers.SGD(**settings)), batch_size=6, epochs=1)
    together = trained(distiller(halves(), keras.optimizers.SGD(0.5)), batch_size=12, epochs=1)
    assert_same(apart[0], together[0], 1e-6)


def test_evaluation_without_a_loss_counts_the_same_rows():
    made = distiller(halves())
    evaluated = made.evaluate(CARRYING, Y, sample_weight=WEIGHTS, batch_size=12, verbose=0, return_dict=True)
    parts = made.objective(CARRYING, Y, WEIGHTS)
    assert evaluated == pytest.approx({name: float(each) for name, each in parts.items()}, rel=1e-5)
    assert made.predict(CARRYING, verbose=0).shape == (12, 5, 8)


# How columns travel


def as_arrays():
    return CARRYING, Y, WEIGHTS


def as_a_dataset():
    return tf.data.Dataset.from_tensor_slices((CARRYING, Y, WEIGHTS)).batch(5), None, None


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(5 * index, 5 * index + 5)
        return Joined(X[rows], columns={"origin": ORIGIN[rows, None].astype("uint8")}), Y[rows], WEIGHTS[rows]


def as_batches():
    return Batches(), None, None


@pytest.mark.slow
@pytest.mark.parametrize("data", [as_arrays, as_a_dataset, as_batches])
def test_columns_travel_in_whatever_fit_takes(data):
    x, y, weights = data()
    made = distiller(halves())
    arguments = {"batch_size": 5} if y is not None else {"batch_size": None}
    assert_same(trained(made, x, y, weights, **arguments)[0], trained(distiller(halves()))[0], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["joined with columns", "columns put beside targets"])
def test_columns_travel_beside_the_targets_of_a_cache(tmp_path, before):
    columns = {"origin": ORIGIN}
    plain = tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS))
    carrying = tf.data.Dataset.from_tensor_slices((Joined(X, columns=columns), Y, WEIGHTS))
    cache = kd.TeacherCache(tmp_path / "cache", teacher=bigram(5), dtype="float32")
    cache.build(carrying if before else plain, verbose=0)
    if before:
        data = cache.join(carrying)
    else:
        both = tf.data.Dataset.zip(cache.join(plain), tf.data.Dataset.from_tensor_slices(ORIGIN))
        data = both.map(lambda example, origin: (example[0]._replace(columns={"origin": origin}), *example[1:]))
    made = distiller(halves(), teacher=kd.teachers.Cached(cache))
    received = trained(made, data.batch(5), None, None, batch_size=None)
    assert_same(received[0], trained(distiller(halves()))[0], 1e-5)
    arrays = cache.join(Joined(X, columns=columns))
    assert arrays.columns["origin"] is ORIGIN and arrays.inputs is X and set(arrays.targets) > {"logits"}


@pytest.mark.slow
def test_columns_are_kept_where_targets_are_kept_in_memory():
    teacher = kd.teachers.InMemory(bigram(5))
    assert_same(trained(distiller(halves(), teacher=teacher))[0], trained(distiller(halves()))[0], 1e-6)


@pytest.mark.slow
def test_columns_go_with_targets_joined_by_hand():
    targets = {"logits": bigram(5).predict(X, verbose=0)}
    made = distiller(halves(), teacher=kd.teachers.Cached(head="logits"))
    x = Joined(X, targets, {"origin": ORIGIN})
    assert_same(trained(made, x)[0], trained(distiller(halves()))[0], 1e-6)
    with pytest.raises(ValueError, match="examples that carry a teacher's targets"):
        made.objective(CARRYING, Y, WEIGHTS)


def test_a_distiller_names_the_columns_that_its_terms_and_its_teacher_read():
    made = distiller([*halves(), Term(losses.kl_divergence, rows={"other": 1})])
    assert made.columns == {"origin", "other"} and distiller(whole()).columns == set()

    class Choosing(kd.teachers.Teacher):
        def columns(self):
            return ("by",)

        def call(self, x, student, labels=None, step=0):
            return {"logits": tf.one_hot(x.columns["by"], 3)}

    one = kd.Distiller(student=mlp(1), teacher=Choosing(), terms=[Term(losses.kl_divergence)])
    assert one.columns == {"by"}
    one.compile("sgd", alpha=1.0)
    by = np.array([0, 2])
    value = one.objective(Joined(np.zeros((2, 4), "float32"), columns={"by": by}))["loss"]
    student = one.student.predict(np.zeros((2, 4)), verbose=0) / 2
    assert float(value) == pytest.approx(4 * np.mean(references.kl_divergence(student, np.eye(3)[by] / 2)), rel=1e-4)


# Refused


@pytest.mark.parametrize(
    "rows", [{}, {"a": ()}, {"a": 0.5}, {"a": [True]}, {"a": [[1]]}, "origin", [0], {"a": "0"}], ids=str
)
def test_what_chooses_no_rows_is_refused(rows):
    with pytest.raises(ValueError, match="`rows` of the term 'reverse_kl' to have the whole numbers.*Received: rows="):
        Term(losses.reverse_kl, rows=rows)


def test_examples_without_the_column_are_refused():
    for x, received in ((X, r"\[\]"), (Joined(X, columns={"source": ORIGIN}), r"\['source'\]")):
        with pytest.raises(ValueError, match=f"'students' expected examples with the column 'origin'.*{received}"):
            distiller(halves()).objective(x, Y, WEIGHTS)


@pytest.mark.parametrize("column", [np.ones(12), np.ones((12, 2), int), np.ones((), int), np.ones(12, bool)])
def test_a_column_that_has_no_whole_number_for_each_example_is_refused(column):
    with pytest.raises(ValueError, match="'origin' to have a whole number for each example"):
        distiller(halves()).objective(Joined(X, columns={"origin": column}), Y, WEIGHTS)


def test_rows_of_a_loss_with_one_value_for_the_batch_are_refused():
    term = Term(lambda student, teacher: tf.reduce_mean(student - teacher), rows={"c": 0}, name="mine")
    with pytest.raises(ValueError, match="'mine' counts those.*one value for the whole batch"):
        term(np.ones((2, 3), "float32"), np.ones((2, 3), "float32"), rows=tf.constant([True, False]))


def test_a_change_of_rows_that_carry_columns_is_refused():
    data = tf.data.Dataset.from_tensor_slices((Joined(X.astype("float32"), columns={"c": ORIGIN}), Y)).batch(4)
    with pytest.raises(ValueError, match="rows without columns, which would be changed as well.*'c'"):
        kd.augment.apply(data, kd.augment.MixUp())


def test_a_term_keeps_its_rows_in_its_config():
    config = json.loads(json.dumps(halves()[1].get_config()))
    assert Term.from_config(config).rows == {"origin": (1, 2)} == halves()[1].rows
    assert Term.from_config(whole()[0].get_config()).rows is None
