"""Targets that exist already, in every form in which they are kept, against the same targets given dense."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd._internal import soft_targets
from tests.benchmarks import arguments
from tests.caches import CLASSES, data, student
from tests.models import assert_same, softmax, tagger
from tests.pages import blocks
from tests.test_objective import distill

ROWS, K = 40, 3
X, Y = data(ROWS)
RANDOM = np.random.default_rng(1)
LOGITS = RANDOM.normal(size=(ROWS, CLASSES)).astype("float32")
PROBABILITIES = softmax(LOGITS).astype("float32")
TINY = float(np.finfo("float32").tiny)
#: The K most probable classes in no order.
IDS = RANDOM.permuted(np.argsort(-LOGITS, axis=-1)[:, :K], axis=-1)
LOG_PROBABILITIES = np.log(np.take_along_axis(softmax(LOGITS), IDS, axis=-1))


def dense_of(ids, log_probabilities, classes):
    """Return the probabilities, in float64, row by row from the definition."""
    ids, given = np.asarray(ids), np.exp(np.asarray(log_probabilities, "float64"))
    found = np.zeros((*ids.shape[:-1], classes))
    for row in np.ndindex(ids.shape[:-1]):
        named = {c: p for c, p in zip(ids[row].tolist(), given[row], strict=True) if c >= 0}
        mass = sum(named.values())
        left = max(0.0, 1 - mass) / max(1, classes - len(named))
        found[row] = [max(TINY, named.get(c, left * max(1, mass)) / max(1, mass)) for c in range(classes)]
    return found


def log(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def trained(x, y=Y, head="auto", model=None, **arguments):
    """Return the weights after a few steps."""
    distiller = distill(model or student(), kd.teachers.Cached(head=head), optimizer="sgd", temperature=2.0)
    keras.utils.set_random_seed(5)
    distiller.fit(x, y, **{"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0, **arguments})
    return distiller.student.get_weights()


def joined(targets, x=X):
    return kd.Joined(x, {"logits": targets})


def top_k(ids=IDS, log_probabilities=LOG_PROBABILITIES, classes=CLASSES):
    return kd.targets.TopK(ids, log_probabilities, classes)


def read(targets):
    """Return the probabilities that a term will see."""
    return softmax(np.asarray(soft_targets.decode({name: tf.constant(each) for name, each in targets.items()})))


# What is known of the most probable classes


@st.composite
def rows(draw):
    shape = draw(st.sampled_from([(4,), (3, 2)]))
    classes = draw(st.integers(2, 9))
    k = draw(st.integers(1, classes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = random.normal(size=(*shape, classes)) * draw(st.sampled_from([0.1, 3.0, 30.0]))
    ids = np.argsort(random.normal(size=logits.shape), axis=-1)[..., :k]
    log_probabilities = np.log(np.maximum(np.take_along_axis(softmax(logits), ids, axis=-1), 1e-300))
    padding = random.random(ids.shape) < draw(st.sampled_from([0.0, 0.4]))
    padding[..., 0] = False
    return np.where(padding, -1, ids), np.where(padding, -np.inf, log_probabilities), classes


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(rows())
def test_the_most_probable_classes_are_their_definition(drawn):
    ids, log_probabilities, classes = drawn
    targets = kd.targets.TopK(ids, log_probabilities.astype("float32"), classes)
    np.testing.assert_allclose(read(targets), dense_of(*drawn), rtol=1e-4, atol=1e-6)
    assert soft_targets.shape(targets) == (*ids.shape[1:-1], classes)


def test_the_mass_of_the_others_is_spread_evenly():
    # 1 - 0.5 - 0.3 = 0.2 over two classes; beside padding, 1 - 0.4 = 0.6 over three.
    found = read(top_k([[2, 0], [1, -1]], log([[0.5, 0.3], [0.4, 0.0]]), classes=4))
    np.testing.assert_allclose(found, [[0.3, 0.1, 0.5, 0.1], [0.2, 0.4, 0.2, 0.2]], rtol=1e-5)


def test_probabilities_above_one_by_rounding_are_divided_by_their_sum():
    found = read(top_k([[2, 0]], log([[0.6, 0.405]]), classes=4))
    np.testing.assert_allclose(found, [[0.405 / 1.005, TINY, 0.6 / 1.005, TINY]], rtol=1e-4)


def test_a_class_of_probability_0_is_none_of_the_others():
    found = read(top_k([[2, 0]], log([[0.6, 0.0]]), classes=4))
    np.testing.assert_allclose(found, [[0.0, 0.2, 0.6, 0.2]], rtol=1e-5, atol=1e-30)


def test_all_classes_leave_nothing_for_others():
    ids = np.argsort(LOGITS, axis=-1)
    targets = top_k(ids, np.log(np.take_along_axis(PROBABILITIES, ids, axis=-1)))
    assert "log_tail" not in targets
    np.testing.assert_allclose(read(targets), PROBABILITIES, rtol=1e-4)


def test_positions_of_padding_alone_are_masked():
    targets = top_k([[[1, 0], [2, -1], [-1, -1]]], log([[[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]]), classes=5)
    np.testing.assert_array_equal(targets["mask"], [[True, True, False]])


def test_a_table_of_numbers_and_lists_are_arrays_too():
    of_tables = kd.targets.TopK(pd.DataFrame(IDS), pd.DataFrame(LOG_PROBABILITIES), CLASSES)
    of_lists = kd.targets.TopK(IDS.tolist(), LOG_PROBABILITIES.tolist(), CLASSES)
    for name, each in top_k().items():
        np.testing.assert_array_equal(of_tables[name], each)
        np.testing.assert_array_equal(of_lists[name], each)


REFUSED = {
    "shapes": ([[1, 2]], [[-1.0]], r"of one shape.*\(1, 2\) and \(1, 1\)"),
    "one axis": ([1, 2], [-1.0, -2.0], r"of one shape.*\(2,\) and \(2,\)"),
    "no rows": (np.zeros((0, 2), int), np.zeros((0, 2)), "of one shape"),
    "an id too large": ([[1, 6]], [[-1.0, -2.0]], "from 0 to 5.*-1 for padding. Received: 6"),
    "an id too small": ([[1, -2]], [[-1.0, -np.inf]], "from 0 to 5.*-1 for padding. Received: -2"),
    "an id twice": ([[3, 3]], [[-1.0, -2.0]], "each class once in a row.*Received 3 twice"),
    "nothing known": ([[1, 2], [-1, -1]], [[-1.0, -2.0], [-np.inf] * 2], "at least one class.*for example 1"),
    "NaN": ([[1, 2]], [[-1.0, np.nan]], "without NaN"),
    "padding with a probability": ([[1, -1]], [[-1.0, -2.0]], "-inf as the log-probability of padding.*-2.0"),
    "probabilities": ([[1, 2]], [[0.5, 0.3]], r"none above 0. Received: 0.5. Probabilities.*np\.log\(probabilities\)"),
    "logits": ([[1, 2]], [[4.0, -3.0]], "none above 0. Received: 4. Logits are none.*over all classes"),
    "another base": ([[1, 2]], [[-0.3, -0.4]], "add up to at most 1. Received rows that add up to 1.411"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_are_no_log_probabilities_of_classes_is_refused(name):
    ids, log_probabilities, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        top_k(ids, log_probabilities)


@pytest.mark.parametrize("classes", [2, True, 6.0])
def test_a_number_of_classes_below_k_is_refused(classes):
    with pytest.raises(ValueError, match="at least k = 3. Received: classes="):
        top_k(classes=classes)


@pytest.mark.parametrize(
    ("ids", "log_probabilities", "words"),
    [
        ([[1.0, 2.0]], [[-1.0, -2.0]], "`ids` to be an array of integers.*list of float64"),
        ([[1, 2], [3]], [[-1.0, -2.0], [-1.0]], "`ids` to be an array of integers.*fewer than k classes"),
        (IDS, pd.Series(list(LOG_PROBABILITIES)), r"`log_probabilities` to be an array of numbers.*Series.*np\.stack"),
    ],
)
def test_what_are_no_numbers_in_rows_is_refused(ids, log_probabilities, words):
    with pytest.raises(TypeError, match=words):
        top_k(ids, log_probabilities)


# In training


@pytest.fixture(scope="module")
def expected():
    """The weights after a few steps on dense probabilities, of all classes and of the most probable ones."""
    of_few = dense_of(IDS, LOG_PROBABILITIES, CLASSES).astype("float32")
    return {"all": trained(joined(PROBABILITIES), head="softmax"), "few": trained(joined(of_few), head="softmax")}


def table():
    return pd.DataFrame(PROBABILITIES, columns=[f"p{c}" for c in range(CLASSES)], index=np.arange(ROWS)[::-1])


FORMS = {
    "logits": ("all", "auto", lambda folder: LOGITS),
    "probabilities in 64 bits": ("all", "softmax", lambda folder: PROBABILITIES.astype("float64")),
    "a column for each class": ("all", "softmax", lambda folder: table()),
    "a column of lists": ("all", "softmax", lambda folder: np.stack(pd.Series(PROBABILITIES.tolist()))),
    "the most probable": ("few", "auto", lambda folder: top_k()),
    "the most probable, under a softmax": ("few", "softmax", lambda folder: top_k()),
    "the most probable, from a file": ("few", "auto", lambda folder: stored(folder, top_k())),
}


def stored(folder, targets):
    np.savez(folder / "targets.npz", **targets)
    return dict(np.load(folder / "targets.npz", allow_pickle=False))


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_targets_trains_as_dense_probabilities(name, expected, tmp_path):
    which, head, make = FORMS[name]
    assert_same(trained(joined(make(tmp_path)), head=head), expected[which], 1e-5)


@pytest.mark.parametrize("eager", [True, False])
def test_the_most_probable_classes_travel_in_a_dataset(expected, eager):
    examples = tf.data.Dataset.from_tensor_slices((joined(top_k()), Y))
    distiller = distill(student(), kd.teachers.Cached(), optimizer="sgd", temperature=2.0, run_eagerly=eager)
    distiller.fit(examples.batch(16), epochs=2, shuffle=False, verbose=0)
    assert_same(distiller.student.get_weights(), expected["few"], 1e-5)
    one_by_one = list(examples.shuffle(ROWS, seed=1).batch(7))
    found = np.concatenate([read(x.targets["logits"]) for (x, _) in one_by_one])
    seen = np.concatenate([x.inputs for (x, _) in one_by_one])
    order = [int(np.argmax((row == X).all(-1))) for row in seen]
    assert sorted(order) == list(range(ROWS)) != order
    np.testing.assert_allclose(found, dense_of(IDS, LOG_PROBABILITIES, CLASSES)[order], rtol=1e-4)


def test_positions_are_learned_from_as_dense_ones_and_masked_ones_not_at_all():
    words = RANDOM.integers(1, 6, (8, 5))
    logits = RANDOM.normal(size=(8, 5, 3))
    ids = np.argsort(-logits, axis=-1)[..., :2]
    logarithms = np.log(np.take_along_axis(softmax(logits), ids, axis=-1))
    length = np.arange(5) < RANDOM.integers(1, 6, (8, 1))
    dense = dense_of(ids, logarithms, 3).astype("float32")
    targets = top_k(np.where(length[..., None], ids, -1), np.where(length[..., None], logarithms, -np.inf), 3)
    found = []
    # A mean over the positions that count is one over all 40 that has these weights.
    for each, head, weight in ((dense, "softmax", length * 40 / length.sum()), (targets, "auto", np.ones((8, 5)))):
        terms = [kd.Term(kd.losses.kl_divergence)]
        distiller = distill(tagger(1, mask=False), kd.teachers.Cached(head=head), terms, "sgd", loss=None, alpha=1.0)
        distiller.fit(joined(each, words), np.zeros((8, 5)), sample_weight=weight.astype("float32"), verbose=0)
        found.append(distiller.student.get_weights())
    assert_same(*found, 1e-5)
    assert not np.allclose(found[0][0], tagger(1, mask=False).get_weights()[0], atol=1e-4)


def test_a_check_reads_the_most_probable_classes(expected):
    distiller = distill(student(), kd.teachers.Cached(), temperature=2.0)
    report = distiller.check(joined(top_k()), IDS[np.arange(ROWS), np.argmax(LOG_PROBABILITIES, -1)])
    assert report.teacher_accuracy == 1.0 and report.examples == ROWS


def test_other_numbers_of_examples_or_classes_are_refused():
    with pytest.raises(ValueError, match="40, 39"):
        trained(joined(top_k(IDS[1:], LOG_PROBABILITIES[1:])))
    with pytest.raises(ValueError, match=r"\(None, 6\).*\(None, 7\)|\(.*6\).*\(.*7\)"):
        trained(joined(top_k(classes=7)))


COLUMNS = {
    "series": (lambda rows: pd.Series(rows, name="probs"), r"a Series whose cells.*np\.stack\(df\['probs'\]\)"),
    "nameless": (lambda rows: pd.Series(rows), r"a Series whose cells.*np\.stack\(column\)"),
    "frame": (lambda rows: pd.DataFrame({"probs": rows}), r"a DataFrame whose cells.*np\.stack\(column\)"),
    "array": (lambda rows: pd.Series(rows).to_numpy(), r"a ndarray whose cells.*np\.stack\(column\)"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_lists_is_refused_with_the_line_that_reads_it(name):
    make, words = COLUMNS[name]
    for rows in (PROBABILITIES.tolist(), list(PROBABILITIES)):
        with pytest.raises(TypeError, match=f"^Expected numbers. Received: {words}"):
            trained(joined(make(rows)), head="softmax")


@pytest.mark.parametrize("targets", [PROBABILITIES, top_k()], ids=["array", "parts"])
def test_targets_without_a_name_are_refused_with_how_to_name_them(targets):
    words = r"^Expected targets by the names that the terms read, as keras_kd\.Joined\(x, \{'logits': targets\}\)"
    with pytest.raises(ValueError, match=words):
        trained(kd.Joined(X, targets))
    with pytest.raises(ValueError, match=words):
        trained(tf.data.Dataset.from_tensor_slices((kd.Joined(X, targets), Y)).batch(16), None, batch_size=None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_a_benchmark_trains_its_controls_without_the_targets(kind, tmp_path):
    x = joined(top_k())
    train = (x, Y) if kind == "arrays" else tf.data.Dataset.from_tensor_slices((x, Y)).batch(16)
    brief = {"seeds": 1, "epochs": 1, "label_smoothing": None, "students": {"net": student()}}
    parts = {"train": train, "validation": (X, Y), "test": (X, Y), "teacher": kd.teachers.Cached()}
    found = kd.benchmark(**arguments(tmp_path, **brief, **parts)).runs
    assert {run.recipe: "distillation_loss" in run.history for run in found} == {"alone": False, "kd": True}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """What a reader of the page has: files in all forms."""
    monkeypatch.chdir(tmp_path)
    np.save("probabilities.npy", PROBABILITIES)
    np.savez("served.npz", ids=IDS, logprobs=LOG_PROBABILITIES)
    table().to_parquet("one_column_per_class.parquet")
    columns = {"probabilities": PROBABILITIES, "ids": IDS, "logprobs": LOG_PROBABILITIES}
    lists = pd.DataFrame({"id": RANDOM.permutation(100)[:ROWS], **{name: list(each) for name, each in columns.items()}})
    lists.to_parquet("one_list_per_row.parquet")
    lists.sample(frac=1.0, random_state=0).to_parquet("in_another_order.parquet")
    return {"x": X, "y": Y, "ids_of_x": lists["id"].to_numpy()}


def found_in(x):
    """Return, in the order of X, the probabilities that data as `fit` takes them hold."""
    elements = [x[number] for number in range(len(x))] if isinstance(x, keras.utils.PyDataset) else x
    parts = [x] if isinstance(x, kd.Joined) else [each for each, _ in elements]
    targets = [each.targets["logits"] for each in parts]
    rows = [read(each) if isinstance(each, dict) else np.asarray(each) for each in targets]
    places = [int(np.argmax((row == X).all(-1))) for row in np.concatenate([each.inputs for each in parts])]
    return np.concatenate(rows)[np.argsort(places)]


@pytest.mark.slow
def test_the_code_of_the_page_trains_on_the_targets_of_each_example(page):
    first, *others = blocks("docs/targets.md")
    first.run(page)
    run, seen = page["distilled"], []

    def distilled(x, y, head="auto"):
        seen.append((head, found_in(x)))
        return run(x, y, head)

    page["distilled"] = distilled
    tf.config.run_functions_eagerly(True)
    try:
        for block in others:
            block.run(page)
    finally:
        tf.config.run_functions_eagerly(False)
    few = dense_of(IDS, LOG_PROBABILITIES, CLASSES)
    assert [head for head, _ in seen] == ["softmax"] * 2 + ["auto"] * 2 + ["softmax"] * 2 + ["auto"] + ["softmax"] * 2
    for head, each in seen:
        np.testing.assert_allclose(each, PROBABILITIES if head == "softmax" else few, rtol=1e-4)
