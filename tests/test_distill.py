"""`distill`: the search, the controls, the verdict, and what it refuses."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd.experiments import candidates, halving, paired_scores
from keras_kd.experiments.candidate_ranking import Scored
from keras_kd.experiments.candidates import Candidate
from keras_kd.experiments.distill_result import Verdict
from keras_kd.experiments.distill_verdict import of_length
from keras_kd.experiments.held_out import held_out
from tests.models import dense
from tests.pages import blocks

#: Read before a test changes the folder.
GUIDE = blocks("docs/one_call.md")
CLASSES, COLUMNS = 3, 4
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HOW = {"loss": LOSS, "metrics": ["accuracy"], "run_eagerly": True}
#: One candidate and one control: six trainings.
ONE = {"temperature": 2.0, "alpha": 0.9, "change": "", "unlabelled": 0.5, "learning_rate": 0.05}


def by_worth(found):
    return sorted(found, key=lambda each: each.worth, reverse=True)


def table(rows, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, COLUMNS)).astype("float32")
    return x, np.argmax(x @ WEIGHTS, -1).astype("int32")


WEIGHTS = np.random.default_rng(9).normal(size=(COLUMNS, CLASSES)).astype("float32")


def linear(kernel=None):
    model = keras.Sequential([keras.Input((COLUMNS,)), keras.layers.Dense(CLASSES)])
    if kernel is not None:
        model.set_weights([np.array(kernel, "float32"), np.zeros(CLASSES, "float32")])
    return model


def student():
    return keras.Sequential([keras.Input((COLUMNS,)), dense(8, 1, activation="relu"), dense(CLASSES, 2)])


def run(folder, teacher=None, train=None, **arguments):
    given = {"validation": table(60, 2), "unlabelled": table(240, 1)[0], "fixed": ONE, "budget": 400, "verbose": 0}
    given |= {"compile_arguments": HOW, "batch_size": 8, **arguments}
    return kd.distill(student, teacher or linear(5 * WEIGHTS), train or table(24), folder=folder, **given)


# The parts of the search


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(0, 5))
def test_candidates_differ_and_have_each_value_about_as_often(count, seed):
    values = candidates.space({}, has_unlabelled=True, changes=["mixtures"])
    found = candidates.drawn(values, count, seed)
    assert len(found) == len(set(found)) == count and all(each.teacher for each in found)
    assert found[0] == Candidate(**{name: each[0] for name, each in values.items()})
    for name, each in values.items():
        counts = [sum(getattr(one, name) == value for one in found) for value in each]
        assert max(counts) - min(counts) <= 2 + count // 4  # a candidate that is there already is drawn again


def test_where_there_are_fewer_candidates_all_are_tried():
    values = candidates.space({"alpha": 0.5, "learning_rate": [0.1, 0.2], "temperature": 1.0}, False, ["mixtures"])
    assert len(candidates.drawn(values, 12, 0)) == 4 and len(candidates.controls(values)) == 4


def test_the_best_of_each_side_reaches_the_end_with_the_steps_that_there_are():
    values = candidates.space({}, has_unlabelled=True, changes=["mixtures"])
    taught, controls = candidates.drawn(values, 12, 0), candidates.controls(values)
    steps = halving.rounds_of(20_000, taught, controls)
    spent = []

    def trial(candidate, count):
        spent.append(count)
        return Scored(
            candidate, count, -candidate.learning_rate - 0.1 * candidate.is_alone - 0.01 * bool(candidate.change)
        )

    rounds = halving.search(taught, controls, steps, trial, by_worth).rounds
    assert [len(each) for each in rounds] == [18, 5, 2]
    assert sum(spent) + 3 * steps[1] <= 20_000 < 1.01 * (sum(spent) + 3 * steps[1])
    assert [one / other for one, other in zip(steps[1:], steps, strict=False)] == pytest.approx([3, 3], rel=0.01)
    last = [each.candidate for each in rounds[-1]]
    assert [each.is_alone for each in last] == [False, True] and {each.learning_rate for each in last} == {0.001}
    second = [each.candidate for each in rounds[1] if each.candidate.is_alone]
    assert {each.change for each in second} == {"mixtures", ""} and last[1].change == ""
    with pytest.raises(ValueError, match=r"at least 600 steps, for 25 trainings.*Received: 590"):
        halving.rounds_of(590, taught, controls)


def test_the_best_of_each_side_is_the_best_of_all_lengths():
    values = candidates.space({"learning_rate": [0.1, 0.2, 0.3]}, has_unlabelled=False)
    taught, controls = candidates.drawn(values, 12, 0), candidates.controls(values)

    def trial(candidate, count):
        return Scored(candidate, count, {10: 0.2, 30: 0.5, 90: 0.4}[count] if candidate.is_alone else count / 100)

    found = halving.search(taught, controls, [10, 30, 90], trial, by_worth)
    assert (found.control.steps, found.control.worth) == (30, 0.5) and (found.taught.steps, found.best.steps) == (
        90,
        90,
    )
    same = halving.search(taught, controls, [10, 30, 90], lambda each, count: Scored(each, count, 0.5), by_worth)
    assert same.control.steps == same.taught.steps == 90  # of equals, the longest


def test_a_training_that_has_diverged_is_the_worst():
    values = candidates.space({"learning_rate": [0.1, 0.2, 0.3]}, has_unlabelled=False)
    taught = candidates.drawn(values, 12, 0)
    worth = {0.1: float("-inf"), 0.2: 0.5, 0.3: 0.4}
    found = halving.search(
        taught,
        candidates.controls(values),
        [10, 30, 90],
        lambda each, count: Scored(each, count, worth[each.learning_rate]),
        by_worth,
    )
    assert all(each.candidate.learning_rate == 0.2 for each in found.rounds[-1])
    assert found.best is found.control  # of equals


@settings(deadline=None, max_examples=30)
@given(st.integers(100, 400), st.floats(0.2, 0.6), st.integers(0, 3))
def test_rows_are_held_out_evenly_of_all_classes(count, share, seed):
    y = np.random.default_rng(seed).integers(0, 4, count)
    rest, taken = held_out((np.arange(count), y), share, seed)
    assert sorted([*rest[0], *taken[0]]) == list(range(count)) and len(taken[0]) == round(count * share)
    for label in range(4):
        # Every (count / taken)-th row of an order by class: of a run of n rows, n * taken / count down or up.
        assert abs(np.sum(taken[1] == label) - len(taken[1]) / count * np.sum(y == label)) < 1


def test_the_standard_error_of_a_mean_is_that_of_the_bootstrap():
    values = np.random.default_rng(0).normal(size=400)
    found = paired_scores.drawn_again(lambda rows: {"mean": float(values[rows].mean())}, 400)["mean"]
    np.testing.assert_allclose(found.std(ddof=1), values.std() / 20, rtol=0.25)  # 100 rounds: 7 percent


@pytest.mark.parametrize(
    ("worths", "gain", "error", "is_noted"),
    [
        # (taught, alone) of each round: the gain grows from 0.1 to 0.25, over a standard error of 0.05.
        ([(0.5, 0.5), (0.6, 0.5), (0.75, 0.5)], 0.2, 0.05, True),
        ([(0.5, 0.5), (0.6, 0.5), (0.75, 0.5)], 0.2, 0.08, False),
        ([(0.5, 0.5), (0.6, 0.5), (0.75, 0.5)], -0.1, 0.05, False),
        ([(0.9, 0.5), (0.6, 0.5), (0.75, 0.65)], 0.2, 0.0, False),
        ([(0.5, 0.5), (-np.inf, 0.5), (0.75, 0.5)], 0.2, 0.05, False),
        # Of a loss, worth is below 0; the teacher's part is better by 0.1 and then 0.4.
        ([(-3.0, -3.0), (-2.4, -2.5), (-1.8, -2.2)], 0.3, 0.1, True),
    ],
)
def test_a_gain_that_grows_with_the_steps_is_noted(worths, gain, error, is_noted):
    rounds = [
        [Scored(Candidate(), steps, taught), Scored(Candidate(), steps, taught - 1.0)]
        + [Scored(Candidate(teacher=False), steps, alone), Scored(Candidate(teacher=False), steps, alone - 0.1)]
        for steps, (taught, alone) in zip((100, 300, 900), worths, strict=True)
    ]
    verdict = Verdict(0.0, 0.0, None, gain, error, None, None, 10, "test")
    notes = of_length(rounds, verdict)
    (_, earlier), (_, last) = [(steps, taught - alone) for steps, (taught, alone) in enumerate(worths)][-2:]
    expected = f"from {earlier:.3g} at 300 steps to {last:.3g} at 900: a larger `budget`"
    assert [expected in note for note in notes] == [True] * is_noted


# The whole of it


@pytest.mark.slow
def test_a_student_is_chosen_trained_and_judged(tmp_path):
    x, y = table(300, 5)
    found = run(tmp_path / "a", test=(x, y))
    assert (
        found.pays and found.candidate == Candidate(**ONE) and found.steps in (each[0].steps for each in found.rounds)
    )
    said = np.argmax(found.student.predict(x, verbose=0), -1)
    np.testing.assert_allclose(found.verdict.student, np.mean(said == y), rtol=1e-6)
    assert found.verdict.teacher == 1.0 and found.verdict.examples == 300 and found.verdict.part == "test"
    expected = (found.verdict.student - found.verdict.control) / (1 - found.verdict.control)
    np.testing.assert_allclose(found.verdict.closed, expected, rtol=1e-6)
    right = [np.argmax(each, -1) == y for each in (found.student.predict(x, verbose=0),)]
    assert 0 < found.verdict.gain_error < 2 * right[0].std() / np.sqrt(300) + 0.03
    assert set(found.levers) == {"temperature", "unlabelled"}
    for words in ("of the lead", "What each lever brought", "distiller.fit(train", "with_unlabelled"):
        assert words in str(found)


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"unlabelled": 0.0},
        {"change": "mixtures"},
        {"change": "mixtures", "unlabelled": 0.0},
        {"terms": lambda: kd.methods.nkd(temperature=None)},
        {"terms": {"kd": lambda: kd.methods.kd(None), "nkd": lambda: kd.methods.nkd(temperature=None)}},
        {"changes": {"noise": kd.augment.Noise(table(24)[0], 0.2)}, "change": "noise"},
    ],
    ids=[
        "rows without labels",
        "labelled rows",
        "mixtures and rows without labels",
        "mixtures",
        "other terms",
        "one of two methods",
        "a change of one's own",
    ],
)
def test_the_printed_code_trains_the_same_student(choice, tmp_path):
    choice = dict(choice)
    terms, changes = choice.pop("terms", None), choice.pop("changes", None)
    found = run(tmp_path / "a", fixed={**ONE, **choice}, terms=terms, changes=changes)
    (x, y), unlabelled = table(24), table(240, 1)[0]
    keras.utils.set_random_seed(0)
    names = {"student": student(), "teacher": linear(5 * WEIGHTS), "x": x, "y": y, "unlabelled": unlabelled}
    names |= {"terms": terms, "changes": changes, "loss": LOSS, "kd": kd, "keras": keras, "tf": tf, "np": np}
    exec(found.code.replace("verbose=1", "verbose=0"), names)
    for one, other in zip(names["student"].get_weights(), found.student.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
def test_a_search_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    runs = sorted(path.name for path in (tmp_path / "whole" / "runs").iterdir())
    write = json.dumps
    count = []

    def stop(content, **arguments):
        count.append(isinstance(content, dict) and "seconds" in content)
        if sum(count) == 4:
            raise KeyboardInterrupt
        return write(content, **arguments)

    monkeypatch.setattr("keras_kd.experiments.distill_run.json.dumps", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "runs").glob("*.json")}
    again = run(tmp_path / "cut")
    assert len(kept) == 3 and all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert sorted(path.name for path in (tmp_path / "cut" / "runs").iterdir()) == runs
    for one, other in zip(again.student.get_weights(), whole.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
@pytest.mark.parametrize(
    ("teacher", "train"),
    [
        (linear(-WEIGHTS), None),
        (linear(np.zeros((COLUMNS, CLASSES))), None),
        (None, (table(60)[0], np.random.default_rng(0).integers(0, CLASSES, 60))),
    ],
    ids=["worse", "at chance", "random labels"],
)
def test_a_teacher_that_does_not_help_is_told(teacher, train, tmp_path):
    arguments = {} if train is None else {"validation": 0.4}
    found = run(tmp_path / "a", teacher=teacher, train=train or table(60), **arguments)
    if teacher is not None:
        assert (
            not found.pays and "does not pay here" in str(found) and "no lead that could be closed" in found.sentence()
        )
        assert found.verdict.gain == 0 and not found.levers and "student.fit(train" in found.code
    else:
        assert abs(found.verdict.gain) < 3 * found.verdict.gain_error + 0.2  # chance alone, and not called a success
        assert not found.pays or found.verdict.gain > 0


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
@pytest.mark.parametrize("kind", ["binary", "values", "named"])
def test_other_tasks_are_distilled(kind, tmp_path):
    (x, y), (x_val, y_val), more = table(40), table(60, 2), table(80, 1)[0]
    units, loss, metrics = 1, "mse", ["mae"]
    if kind == "binary":
        loss, metrics = (
            keras.losses.BinaryCrossentropy(from_logits=True),
            [keras.metrics.AUC(from_logits=True, name="auc")],
        )
        y, y_val = ((each == 1).astype("float32")[:, None] for each in (y, y_val))
    elif kind == "values":
        y, y_val = (each @ WEIGHTS[:, :1] for each in (x, x_val))
    else:
        units, loss, metrics = CLASSES, LOSS, ["accuracy"]
        x, x_val, more = ({"a": each[:, :2], "b": each[:, 2:]} for each in (x, x_val, more))

    def built(seed):
        if kind != "named":
            return keras.Sequential([keras.Input((COLUMNS,)), dense(units, seed)])
        inputs = {name: keras.Input((2,), name=name) for name in ("a", "b")}
        return keras.Model(inputs, dense(units, seed)(keras.layers.Concatenate()(list(inputs.values()))))

    teacher = built(3)
    kernel = {"binary": 4 * WEIGHTS[:, 1:2] - 4 * np.maximum(WEIGHTS[:, :1], WEIGHTS[:, 2:]), "values": WEIGHTS[:, :1]}
    teacher.set_weights([kernel.get(kind, 5 * WEIGHTS), np.zeros(units, "float32")])
    found = kd.distill(
        lambda: built(1), teacher, (x, y), (x_val, y_val), folder=tmp_path / "a", unlabelled=more, budget=400,
        compile_arguments={"loss": loss, "metrics": metrics, "run_eagerly": True}, fixed=ONE, batch_size=8, verbose=0,
    )  # fmt: skip
    assert found.metric == {"binary": "auc", "values": "mae", "named": "accuracy"}[kind]
    assert found.mode == ("min" if kind == "values" else "max")
    best = max(each.worth for each in found.rounds[-1])
    assert found.rounds[-1][0].worth == best and np.isfinite(found.verdict.gain)


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
def test_class_ids_are_mixed_as_probabilities_in_a_control(tmp_path):
    found = run(tmp_path / "a", teacher=linear(-WEIGHTS), fixed={**ONE, "change": ["mixtures", ""]}, budget=700)
    kinds = {each.candidate.change for each in found.rounds[1] if each.candidate.is_alone}
    assert kinds == {"mixtures", ""} and not found.pays


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
def test_a_class_without_labelled_rows_is_named(tmp_path):
    x, y = table(80)
    found = run(tmp_path / "a", train=(x[y != 2], y[y != 2]))
    assert any("No labelled row has the classes [2]" in each for each in found.notes)


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
def test_the_code_of_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in GUIDE:
        block.run(names)
    assert names["result"].pays and (tmp_path / "runs" / "one_call" / "student.keras").exists()


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": table(10), "validation": 0.2}, "at least 20 rows to choose on. Received: 2, 0.2 of 10"),
        ({"validation": table(7)}, "at least 20 rows to choose on. Received: 7"),
        ({"validation": 1.5}, "a share, above 0 and below 1. Received: 1.5"),
        (
            {"train": (np.full((24, COLUMNS), np.nan, "float32"), table(24)[1])},
            r"`train`.*24 rows, in the columns \[0, 1",
        ),
        ({"compile_arguments": {"loss": LOSS, "optimizer": "adam"}}, "without.*'optimizer'.*Received.*'optimizer'"),
        ({"compile_arguments": {**HOW, "temperature": 2.0}}, "without.*'temperature'.*which `fixed` "),
        ({"compile_arguments": {"metrics": ["accuracy"]}}, "with a loss of the labels"),
        ({"fixed": {"change": "crops"}}, r"'change' of \['mixtures', ''\]. Received: 'crops'"),
        ({"changes": {"": kd.augment.MixUp()}}, "`changes` to map names to changes.*Received: ''"),
        ({"changes": {"rows": kd.augment.Beside(kd.augment.MixUp())}}, "whose rows keep or mix their labels"),
        ({"fixed": {"rate": 1}}, r"to name levers.*Received: \['rate'\]"),
        ({"fixed": {"temperature": 0}}, "'temperature' above 0. Received: 0"),
        ({"fixed": {"unlabelled": 0.5}, "unlabelled": None}, "`unlabelled` rows for a share"),
        ({"budget": 100}, "`budget` of at least"),
        ({"metric": "f1"}, "f1"),
    ],
    ids=lambda each: each if isinstance(each, str) else "given",
)
def test_what_cannot_be_is_refused_before_any_training(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "a", **arguments)
    assert not list((tmp_path / "a").glob("runs/*.json"))


def test_a_student_of_several_outputs_is_refused_before_any_work(tmp_path):
    inputs = keras.Input((COLUMNS,))
    two = keras.Model(inputs, [dense(CLASSES, seed)(inputs) for seed in (1, 2)])
    with pytest.raises(ValueError, match="a student of one output. Received one of 2"):
        kd.distill(two, linear(WEIGHTS), table(200), folder=tmp_path / "a", compile_arguments=HOW, verbose=0)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("arguments", [{"budget": "20 minutes"}, {"budget": 5e3}, {"terms": {"kd": []}}, {"terms": {}}])
def test_other_types_are_refused(arguments, tmp_path):
    with pytest.raises(TypeError, match=rf"Expected `{next(iter(arguments))}` to be"):
        run(tmp_path / "a", **arguments)


@pytest.mark.slow
@pytest.mark.one_in(4, group="distill")
def test_a_folder_of_another_search_is_refused(tmp_path):
    run(tmp_path / "a")
    for name, value in {"seed": 1, "codes": [0], "budget": 600, "batch_size": 9}.items():
        with pytest.raises(ValueError, match=f"another `{name}`"):
            run(tmp_path / "a", **{name: value})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="holds something else"):
        run(tmp_path / "b")
    with pytest.raises(TypeError, match="`train` to be arrays"):
        run(tmp_path / "c", train=tf.data.Dataset.from_tensor_slices(table(24)).batch(4))
