"""Several teachers, of which each example asks one."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import Joined, teachers
from keras_kd._internal import soft_targets
from keras_kd._internal.row_routes import Routes
from keras_kd._internal.sparse_targets import SparseTarget
from keras_kd.teachers import Ensemble, Python, Routed
from tests import references, rolled
from tests.models import assert_same, batch, few, headed, linear, mlp, statistical, tagger
from tests.test_objective import distill, fit

X, Y = batch(12)
NUMBERS = np.array([0, 5, 5, 0, 0, 5, 0, 5, 0, 0, 0, 5])
HOW = [{"run_eagerly": True}, {"run_eagerly": False}, {"run_eagerly": False, "jit_compile": True}]


def routed(column="teacher", **arguments):
    return Routed({0: mlp(2), 5: statistical(3)}, column, **arguments)


def joined(x=X, numbers=NUMBERS):
    return Joined(x, columns={"teacher": numbers})


def by_hand(x=X, numbers=NUMBERS):
    """Return the logits of each row by its own teacher, which sees this row alone."""
    models = {0: mlp(2), 5: statistical(3)}
    return np.concatenate([models[number](row[None]) for row, number in zip(x, numbers, strict=True)])


def learned(teacher, x, **arguments):
    student = linear(1)
    fitting = {name: arguments.pop(name) for name in ("batch_size", "epochs") if name in arguments}
    distiller = distill(student, teacher, None, keras.optimizers.SGD(0.3), loss=None, alpha=1.0, **arguments)
    return fit(distiller, x, None, **{"batch_size": 4, "epochs": 2, **fitting})["loss"], student.get_weights()


def agree(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert_same(found[1], expected[1], 1e-5)


def of_targets(x=X, numbers=NUMBERS):
    return teachers.Cached(), Joined(x, {"logits": by_hand(x, numbers)})


@pytest.mark.one_in(6, group="routed")
@few
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 3), st.booleans())
def test_rows_come_back_in_the_order_of_the_batch(ways, width, xla):
    def run(way, rows):
        routes = Routes(way, 4)
        made = [routes.given(rows, number) * (10.0**number) for number in range(4)]
        return routes.joined(made)

    way, rows = np.array(ways), np.random.default_rng(0).normal(size=(len(ways), width)).astype("float32")
    compiled = tf.function(run, jit_compile=True) if xla else run
    np.testing.assert_allclose(compiled(tf.constant(way), tf.constant(rows)), rows * 10.0 ** way[:, None], rtol=1e-6)


@pytest.mark.one_in(6, group="routed")
@pytest.mark.parametrize("how", HOW, ids=["eager", "graph", "XLA"])
def test_each_row_learns_from_its_own_teacher(how):
    agree(learned(routed(), joined(), **how), learned(*of_targets()))


def test_the_loss_is_that_of_the_paper_row_by_row():
    losses, _ = learned(routed(), joined(), temperature=1.0, epochs=1, batch_size=len(X))
    expected = np.mean(references.kl_divergence(np.asarray(linear(1)(X), "float64"), by_hand().astype("float64")))
    assert losses == pytest.approx([expected], rel=1e-5)


@pytest.mark.one_in(6, group="routed")
@pytest.mark.parametrize("numbers", [NUMBERS[:1].repeat(12), np.full(12, 5), NUMBERS[:, None].astype("int8")])
@pytest.mark.parametrize("eager", [True, False])
def test_a_teacher_without_rows_and_any_type_of_column_are_right(numbers, eager):
    expected = learned(*of_targets(numbers=numbers.ravel()))
    agree(learned(routed(), joined(numbers=numbers), run_eagerly=eager), expected)


@pytest.mark.parametrize("eager", [True, False])
def test_a_teacher_runs_on_its_rows_alone(eager):
    seen = []

    def scores(x):
        seen.append(np.array(x))
        return np.tanh(x[:, :3])

    teacher = Routed({0: Python(scores, outputs=3, head="logits"), 5: mlp(2)}, "teacher")
    learned(teacher, joined(), run_eagerly=eager, epochs=1, batch_size=len(X))
    assert_same(seen, [X[NUMBERS == 0]])


@pytest.mark.one_in(6, group="routed")
def test_one_that_has_no_rows_reads_one_and_none_reads_nothing():
    def scores(x):
        assert len(x) > 0  # as estimators do
        return np.tanh(x[:, :3])

    teacher = Routed({0: Python(scores, outputs=3), 5: mlp(2)}, "teacher")
    expected = learned(mlp(2), X)
    agree(learned(teacher, joined(numbers=np.full(12, 5))), expected)


@pytest.mark.one_in(6, group="routed")
def test_a_teacher_may_have_several_numbers_and_runs_once():
    model = mlp(2)
    teacher = Routed({0: model, 1: model, 5: statistical(3)}, "teacher")
    assert len(teacher.members) == 2
    numbers = np.where(NUMBERS == 0, np.arange(12) % 2, 5)
    agree(learned(teacher, joined(numbers=numbers)), learned(*of_targets()))


@pytest.mark.one_in(6, group="routed")
@pytest.mark.parametrize("kind", ["tf.data", "a PyDataset"])
def test_data_carry_the_column(kind):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            rows = slice(4 * index, 4 * index + 4)
            return (joined(X[rows], NUMBERS[rows]),)

    data = tf.data.Dataset.from_tensor_slices((joined(),)).batch(4) if kind == "tf.data" else Batches()
    student = linear(1)
    distiller = distill(student, routed(), None, keras.optimizers.SGD(0.3), loss=None, alpha=1.0)
    logs = distiller.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    agree((logs, student.get_weights()), learned(*of_targets()))


@pytest.mark.one_in(6, group="routed")
def test_rollouts_name_the_teacher_by_where_a_row_is_from():
    seen = {"a": 0, "b": 0}

    def counting(name, seed):
        model = rolled.small(seed)

        def logits(x):
            seen[name] += len(x["token_ids"] if isinstance(x, dict) else x)
            return model(x)

        return teachers.Frozen(logits, head="logits")

    def on_policy(teacher, **arguments):
        student = rolled.small(1)
        data = rolled.rollouts(student, rolled.small(5))
        distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.gkd(beta=1.0))
        distiller.compile(keras.optimizers.SGD(0.1), alpha=1.0, **arguments)
        history = distiller.fit(data, epochs=1, verbose=0).history
        return history["loss"], student.get_weights(), data.origins

    same = Routed({0: rolled.small(5), 1: rolled.small(5), 2: rolled.small(5)}, "origin")
    one, several = on_policy(rolled.small(5)), on_policy(same)
    agree(several[:2], one[:2])
    by_origin = Routed({0: counting("a", 5), 1: counting("b", 6), 2: counting("b", 6)}, "origin")
    _, _, origins = on_policy(by_origin, run_eagerly=True)
    for name, rows in (("a", np.sum(origins == 0)), ("b", np.sum(origins != 0))):
        assert 0 < rows <= seen[name] <= rows + len(origins) // 4  # one row in a batch where it has none


@pytest.mark.slow
def test_features_masks_and_labels_are_routed():
    words = np.array([[1, 2, 0], [3, 0, 0], [4, 5, 1], [2, 2, 2]])
    numbers = np.array([1, 0, 1, 0])
    teacher = Routed({0: tagger(2), 1: tagger(3, mask=False)}, "teacher")
    teacher.bind(tagger(1), ("logits", "words"))
    found = teacher(Joined(words, columns={"teacher": numbers}), {})
    for name in ("logits", "words"):
        for row, number in enumerate(numbers):
            one = teachers.Frozen(tagger(3, mask=False) if number else tagger(2))
            one.bind(tagger(1), ("logits", "words"))
            np.testing.assert_allclose(found[name][row], one(words[row][None], {})[name][0], atol=1e-6)
    np.testing.assert_array_equal(found["logits"]._keras_mask, (words > 0) | (numbers == 1)[:, None])


@pytest.mark.one_in(6, group="routed")
def test_heads_are_undone_before_rows_are_put_together():
    kinds = {0: headed(2, "softmax"), 5: headed(3, "logits")}
    targets = np.concatenate([kinds[number](row[None]) for row, number in zip(X, NUMBERS, strict=True)])
    targets = np.where(NUMBERS[:, None] == 0, np.log(targets.clip(1e-30)), targets)
    found = learned(Routed(kinds, "teacher"), joined())
    agree(found, learned(teachers.Cached(), Joined(X, {"logits": targets})))


@pytest.mark.one_in(6, group="routed")
def test_members_keep_what_they_need_of_the_student_and_of_training():
    student = mlp(1)
    teacher = Routed({0: teachers.EMA(0.5), 5: mlp(2)}, "teacher")
    distiller = distill(student, teacher, None, keras.optimizers.SGD(0.3), loss=None, alpha=1.0)
    fit(distiller, joined(), None, batch_size=4, epochs=1)
    ema = teacher.teachers[0]
    assert distiller.stateful_teachers == [ema]
    assert any(np.any(a != b) for a, b in zip(ema.model.get_weights(), student.get_weights(), strict=True))
    assert set(distiller.columns) == {"teacher"}


@pytest.mark.slow
@pytest.mark.one_in(6, group="routed")
def test_a_routed_teacher_is_a_member_of_another_and_of_an_ensemble():
    inner = Routed({0: mlp(2), 5: statistical(3)}, "teacher")
    outer = Routed({0: inner, 5: inner}, "teacher")
    assert outer.columns() == ("teacher",)
    expected = learned(*of_targets())
    agree(learned(outer, joined()), expected)
    agree(learned(Ensemble([inner, routed()]), joined()), expected)


@pytest.mark.one_in(6, group="routed")
@pytest.mark.parametrize("how", HOW[:2], ids=["eager", "graph"])
def test_a_number_without_a_teacher_is_refused(how):
    numbers = np.where(np.arange(12) == 7, 9, NUMBERS)
    with pytest.raises(ValueError, match=r"the column 'teacher' to hold numbers of teachers, \[0, 5\]. Received: 9"):
        learned(routed(), joined(numbers=numbers), **how)


@pytest.mark.one_in(6, group="routed")
def test_under_xla_a_number_without_a_teacher_teaches_nothing():
    numbers = np.where(np.arange(12) == 7, -9, NUMBERS)
    losses, weights = learned(routed(), joined(numbers=numbers), **HOW[2], batch_size=12, epochs=1)
    assert np.isnan(losses).all()
    assert_same(weights, linear(1).get_weights())


@pytest.mark.parametrize("x", [X, Joined(X, columns={"other": NUMBERS}), joined(numbers=NUMBERS.astype("float32"))])
def test_examples_without_the_column_are_refused(x):
    with pytest.raises(ValueError, match="The teacher 'routed' expected .*column"):
        learned(routed(), x)


class Named(teachers.Teacher):
    """Name the k most probable classes of a model."""

    def __init__(self, model, k, tail="spread"):
        super().__init__()
        self.model, self.k, self.rest, self.built = model, k, tail, True

    def tail(self, name):
        return self.rest

    def kind(self, name):
        return "logits"

    def named(self, name):
        return self.k

    def call(self, x, student, labels=None, step=0):
        parts = soft_targets.encode(self.model(soft_targets.without_targets(x)), "logits", self.k, "float32")
        return {"logits": soft_targets.decode(parts, self.rest)}


@pytest.mark.one_in(6, group="routed")
@pytest.mark.parametrize("tail", ["spread", "bucket"])
@pytest.mark.parametrize("how", HOW, ids=["eager", "graph", "XLA"])
def test_targets_of_a_few_classes_stay_what_they_are(tail, how):
    teacher = Routed({0: Named(mlp(2), 2, tail), 5: Named(statistical(3), 2, tail)}, "teacher")
    assert teacher.named("logits") == 2 and teacher.tail("logits") == tail
    assert isinstance(teacher(joined(), {})["logits"], SparseTarget)
    parts = soft_targets.encode(tf.constant(by_hand()), "logits", 2, "float32")
    expected = learned(teachers.Cached(tail=tail), Joined(X, {"logits": parts}), temperature=1.0)
    agree(learned(teacher, joined(), temperature=1.0, **how), expected)


@pytest.mark.one_in(6, group="routed")
@pytest.mark.parametrize("other", [1, None])
def test_targets_of_other_forms_are_put_together_with_all_classes(other):
    second = statistical(3) if other is None else Named(statistical(3), other)
    teacher = Routed({0: Named(mlp(2), 2), 5: second}, "teacher")
    assert (teacher.named("logits"), teacher.tail("logits")) == ((None, None) if other is None else (1, "spread"))
    dense = [
        soft_targets.decode(soft_targets.encode(tf.constant(by_hand()), "logits", k, "float32")) for k in (2, other)
    ]
    expected = np.where(NUMBERS[:, None] == 0, *dense)
    agree(learned(teacher, joined()), learned(teachers.Cached(), Joined(X, {"logits": expected})))


def test_buckets_beside_all_classes_are_refused():
    teacher = Routed({0: Named(mlp(2), 2, "bucket"), 5: mlp(3)}, "teacher")
    with pytest.raises(ValueError, match="how classes are read that are not named.*'bucket'.*None"):
        teacher.bind(linear(1), ("logits",))


def test_buckets_of_other_classes_are_refused():
    teacher = Routed({0: Named(mlp(2), 2, "bucket"), 5: Named(mlp(3), 1, "bucket")}, "teacher")
    with pytest.raises(ValueError, match=r"as many classes under 'logits'.*\[2, 1\]. Give all of them one `top_k`"):
        learned(teacher, joined(), temperature=1.0)


REFUSALS = {
    "none": (lambda: Routed({}, "teacher"), "`teachers` to be a dict from whole numbers"),
    "a list": (lambda: Routed([mlp(2)], "teacher"), "`teachers` to be a dict from whole numbers"),
    "names": (lambda: Routed({"a": mlp(2)}, "teacher"), "`teachers` to be a dict from whole numbers"),
    "booleans": (lambda: Routed({True: mlp(2)}, "teacher"), "`teachers` to be a dict from whole numbers"),
    "no column": (lambda: Routed({0: mlp(2)}, ""), "`column` to be the name of a column"),
    "other classes": (
        lambda: distill(linear(1), Routed({0: mlp(2), 1: mlp(2, classes=4)}, "teacher")),
        r"all teachers of 'routed' to give 'logits' one shape.*\(None, 3\).*\(None, 4\)",
    ),
    "other heads": (
        lambda: distill(linear(1), Routed({0: headed(2, "softmax"), 1: headed(3, "sigmoid")}, "teacher")),
        "all teachers of 'routed' to share the head of 'logits'.*'softmax'.*'sigmoid'",
    ),
    "values beside logits": (
        lambda: distill(linear(1), Routed({0: mlp(2), 1: teachers.Frozen(mlp(3), head="values")}, "teacher")),
        "one meaning: values, or logits",
    ),
    "an ensemble": (
        lambda: learned(Routed({0: [mlp(2), mlp(3)], 5: mlp(4)}, "teacher"), joined()),
        "one prediction for each example. 'ensemble' has several",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_routed_is_refused(name):
    make, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.one_in(6, group="routed")
def test_an_average_of_logits_is_routed():
    teacher = Routed({0: Ensemble([mlp(2), mlp(2)], over="logits"), 5: statistical(3)}, "teacher")
    agree(learned(teacher, joined()), learned(*of_targets()))


def test_a_routed_teacher_is_made_again_of_its_configuration():
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(routed())))
    again = keras.saving.deserialize_keras_object(config)
    assert list(again.teachers) == [0, 5] and again.column == "teacher"


@pytest.mark.one_in(6, group="routed")
def test_a_distiller_is_saved_without_it(tmp_path):
    distiller = distill(linear(1), routed(), None, loss=None, alpha=1.0)
    fit(distiller, joined(), None)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = routed()
    assert np.isfinite(loaded.evaluate(joined(), verbose=0)).all()


# Targets that are kept


@pytest.mark.one_in(6, group="routed")
def test_a_routed_teacher_runs_once_in_memory():
    memory = teachers.InMemory(routed())
    agree(learned(memory, joined()), learned(*of_targets()))
    agree(learned(memory, joined(numbers=5 - NUMBERS)), learned(*of_targets(numbers=5 - NUMBERS)))


@pytest.mark.one_in(6, group="routed")
@pytest.mark.parametrize("kind", ["arrays", "tf.data", "x alone"])
def test_a_cache_keeps_what_each_row_learns(kind, tmp_path):
    cache = kd.TeacherCache(tmp_path, teacher=routed(), dtype="float32")
    examples = joined() if kind != "tf.data" else (joined(),)
    data = examples if kind == "arrays" else tf.data.Dataset.from_tensor_slices(examples)
    cache.build(data, batch_size=5, verbose=0)
    assert cache.columns == ("teacher",) and kd.TeacherCache(tmp_path).columns == ("teacher",)
    found = cache.join(data)
    whole = found if kind == "arrays" else next(iter(found.batch(12)))[0]
    np.testing.assert_allclose(whole.targets["logits"]["values"], by_hand(), atol=1e-6)
    np.testing.assert_array_equal(whole.inputs, X)
    np.testing.assert_array_equal(whole.columns["teacher"], NUMBERS)
    if kind == "arrays":
        agree(learned(teachers.Cached(cache), found), learned(*of_targets()))
    assert cache.verify(data, fraction=1.0).largest["logits"] < 1e-6


def test_a_cache_notices_that_a_row_names_another_teacher(tmp_path):
    cache = kd.TeacherCache(tmp_path, teacher=routed(), dtype="float32", check_bytes=8)
    cache.build(joined(), verbose=0)
    with pytest.raises(ValueError, match="Example 7"):
        cache.join(joined(numbers=np.where(np.arange(12) == 7, 0, NUMBERS)))
    with pytest.raises(ValueError, match="The cache expected examples with the column 'teacher'"):
        cache.join(X)


def test_a_cache_by_key_or_of_augmented_examples_is_refused(tmp_path):
    for arguments in ({"key": "id"}, {"augment": lambda x, seed: x}):
        with pytest.raises(ValueError, match="neither `key` nor `augment`.*'teacher'"):
            kd.TeacherCache(tmp_path, teacher=routed(), **arguments)
