"""`kd.compare`: one pass, plain numbers, tables for terminals, notebooks and Markdown."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats
from sklearn import metrics

import keras_kd as kd
from keras_kd.evaluation import measures
from tests.models import batch, dense, headed, linear

X, Y = batch(64)
Y = np.where(Y == 2, 0, Y)  # class 2 never appears
TEACHER, STUDENT = linear(1), linear(2)
MODELS = {"teacher": TEACHER, "alone": linear(3), "distilled": STUDENT}
NAUGHTY = "<script>alert('x')</script>|a"


def compared(models=None, data=(X, Y), **arguments):
    return kd.compare(models or MODELS, data, **{"rounds": 0, **arguments})


def logits(model, x=X):
    return model(x).numpy().astype("float64")


def test_quality_is_that_of_measure():
    comparison = compared()
    for name, model in MODELS.items():
        teacher = None if name == "teacher" else TEACHER
        assert comparison.quality[name] == pytest.approx(kd.evaluation.measure(model, (X, Y), teacher=teacher))
    assert (comparison.task, comparison.teacher, comparison.examples) == ("classification", "teacher", 64)


def test_another_name_may_be_the_teachers_or_none():
    assert "agreement" in compared(teacher="alone").quality["teacher"]
    assert all("agreement" not in each for each in compared(teacher=None).quality.values())
    assert "agreement" not in compared(teacher="alone").quality["alone"]


def test_a_softmax_headed_copy_gives_the_same_comparison():
    plain, other = (
        compared({"teacher": headed(1, head), "student": headed(2, head)}).to_dict() for head in ("logits", "softmax")
    )
    for name in ("teacher", "student"):
        mine, theirs = plain["models"][name], other["models"][name]
        assert mine["quality"] == pytest.approx(theirs["quality"], abs=1e-6, nan_ok=True)
        np.testing.assert_allclose(mine["calibration"], theirs["calibration"], atol=1e-6)
        assert (mine["confusion"], mine["f1"]) == (theirs["confusion"], theirs["f1"])


def test_the_data_are_read_once():
    reads = []

    def batches():
        for start in range(0, 64, 10):
            reads.append(start)
            yield X[start : start + 10], Y[start : start + 10]

    streamed = compared(data=batches())
    for name, quality in compared().quality.items():
        assert streamed.quality[name] == pytest.approx(quality)
    assert reads == list(range(0, 64, 10))


def test_a_shuffling_dataset_gives_the_numbers_of_arrays():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(64).batch(10)
    for name, quality in compared(data=dataset).quality.items():
        assert quality == pytest.approx(compared().quality[name], abs=1e-9)


def test_classes_and_confusions_are_those_of_scikit_learn():
    comparison, weights = compared(data=(X, Y, np.arange(1.0, 65.0))), np.arange(1.0, 65.0)
    for name, model in MODELS.items():
        predicted = logits(model).argmax(-1)
        both = {"labels": range(3), "average": None, "sample_weight": weights, "zero_division": np.nan}
        np.testing.assert_allclose(comparison.recall[name], metrics.recall_score(Y, predicted, **both))
        np.testing.assert_allclose(comparison.f1[name], metrics.f1_score(Y, predicted, **both))
        matrix = metrics.confusion_matrix(Y, predicted, labels=range(3), sample_weight=weights)
        np.testing.assert_allclose(comparison.confusions[name], matrix)
    np.testing.assert_allclose(comparison.support, np.bincount(Y, weights, 3))


@pytest.mark.slow
def test_the_examples_of_the_largest_divergence_are_kept_with_their_inputs():
    p, q = (special.softmax(logits(model), axis=-1) for model in (STUDENT, TEACHER))
    distances = stats.entropy(q, p, axis=-1)
    order = np.argsort(-distances)[:5]
    for batch_size in (7, 64):
        found = compared(worst=5, batch_size=batch_size).disagreements["distilled"]
        assert [each.index for each in found] == list(order)
        np.testing.assert_allclose([each.distance for each in found], distances[order], atol=1e-6)
        np.testing.assert_array_equal([each.x for each in found], X[order])
        np.testing.assert_allclose([each.student for each in found], p[order], atol=1e-6)
        np.testing.assert_allclose([each.teacher for each in found], q[order], atol=1e-6)
        assert [each.label for each in found] == list(Y[order])
    assert "teacher" not in compared().disagreements
    assert compared(worst=0).disagreements == {}


def test_disagreements_on_labels_are_of_all_labels_and_on_numbers_absolute():
    s, t = logits(STUDENT), logits(TEACHER)
    p, q = special.expit(s), special.expit(t)
    kl = np.mean(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)), axis=-1)
    distance = np.mean(np.abs(s - t), axis=-1)
    yes = (np.random.default_rng(0).random((64, 3)) < 0.5).astype(int)
    yes[0] = 1  # not one-hot
    for labels, expected, ours, theirs in ((yes, kl, p, q), (X[:, :3] + 0.5, distance, s, t)):
        found = compared(data=(X, labels), worst=5, batch_size=20).disagreements["distilled"]
        order = np.argsort(-expected)[:5]
        assert [each.index for each in found] == list(order)
        np.testing.assert_allclose([each.distance for each in found], expected[order], atol=1e-6)
        np.testing.assert_allclose([each.student for each in found], ours[order], atol=1e-6)
        np.testing.assert_allclose([each.teacher for each in found], theirs[order], atol=1e-6)
        np.testing.assert_allclose([each.label for each in found], labels[order])


def test_of_examples_at_one_distance_the_first_are_kept():
    x = np.tile(np.float32([[0], [1], [0]]), (400, 1))  # so many that a sort of another kind would mix them
    models = {"teacher": lambda x: x, "student": lambda x: 2 * x}
    found = compared(models, (x, x + 0.5), task="regression", worst=5, batch_size=1000).disagreements["student"]
    assert [(each.index, each.distance) for each in found] == [(place, 1.0) for place in (1, 4, 7, 10, 13)]


def test_examples_without_weight_keep_their_places():
    weights = np.where((np.arange(64) < 20) | (np.arange(64) > 50), 0.0, 1.0)  # whole batches at both ends
    comparison = compared(data=(X, Y, weights), batch_size=8)
    p, q = (special.softmax(logits(model), axis=-1) for model in (STUDENT, TEACHER))
    order = 20 + np.argsort(-stats.entropy(q, p, axis=-1)[20:51])[:8]
    assert [each.index for each in comparison.disagreements["distilled"]] == list(order)
    assert comparison.examples == 64


def test_many_classes_have_no_table_of_confusions():
    models = {"teacher": linear(1, classes=101), "student": linear(2, classes=101)}
    assert compared(models).confusions == {}


@pytest.mark.parametrize(
    ("labels", "task"), [(np.eye(3)[Y] + np.eye(3)[2], "multi-label"), (X[:, :3] + 0.5, "regression")]
)
def test_other_tasks_have_what_fits_them(labels, task):
    comparison = compared(data=(X, labels))
    assert comparison.task == task and len(comparison.disagreements["alone"]) == 8
    assert bool(comparison.calibration) == bool(comparison.class_names) == (task == "multi-label")
    assert comparison.confusions == {} and len(comparison.support) == (3 if task == "multi-label" else 0)
    json.loads(comparison.to_json())
    assert "teacher" in str(comparison)


def test_positions_are_found_in_their_examples():
    x = keras.Input((None, 4))
    models = {"teacher": keras.Model(x, dense(3, 1)(x)), "student": keras.Model(x, dense(3, 2)(x))}
    inputs = X.reshape(16, 4, 4)
    found = compared(models, (inputs, Y.reshape(16, 4)), batch_size=5).disagreements["student"][0]
    p, q = (special.softmax(logits(models[name], inputs), axis=-1) for name in ("student", "teacher"))
    assert found.index == np.argmax(stats.entropy(q, p, axis=-1).max(-1))
    np.testing.assert_array_equal(found.x, inputs[found.index])


def test_a_comparison_contains_costs(tmp_path):
    kd.export(STUDENT, tmp_path / "1", fresh=False)
    comparison = compared(rounds=10, memory=False, exports={"distilled": tmp_path / "1"}, batch_size=16)
    assert [cost.runtime for cost in comparison.costs["distilled"]] == ["Keras", "SavedModel"]
    assert comparison.costs["teacher"][0].batch == 16
    text = str(comparison)
    assert "peak memory" not in text  # what was not measured has no line
    assert "distilled (SavedModel)" in text and "10 calls" in text and "batches of 16" in text


def test_a_dataset_of_larger_batches_is_timed_in_its_own():
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(40)
    assert compared(data=dataset, rounds=10, memory=False).costs["teacher"][0].batch == 40


# Shown.


def test_the_text_is_aligned_and_marks_the_best():
    quality = str(compared(class_names=["a", "b", "c"])).split("\n\n")[0].splitlines()
    heading, rule, first = quality[:3]
    assert heading.split() == ["quality", *MODELS]
    assert len(rule) == len(heading) + 1 and set(rule) == {"-"}
    ends = [heading.index(name) + len(name) for name in MODELS]
    accuracies = [compared().quality[name]["accuracy"] for name in MODELS]
    for end, accuracy in zip(ends, accuracies, strict=True):
        star = "*" if accuracy == max(accuracies) else ""
        assert first[:end].endswith(f"{100 * accuracy:.2f} %"), first
        assert first[end : end + 1].strip() == star
    assert sum(line.startswith("KL") for line in quality) == 2


def test_a_measure_that_should_be_small_is_best_where_it_is():
    comparison = compared()
    losses = {name: each["nll"] for name, each in comparison.quality.items()}
    (line,) = [line for line in comparison.to_markdown().splitlines() if line.startswith("| log-loss")]
    cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
    assert [cell.startswith("**") for cell in cells] == [value == min(losses.values()) for value in losses.values()]


def test_yes_or_no_is_compared_with_thresholds_from_validation():
    def yes_or_no(seed):
        return keras.Sequential([keras.Input((4,)), dense(1, seed, activation="sigmoid")])

    models = {"teacher": yes_or_no(1), "student": yes_or_no(2)}
    y = (X[:, 0] > 0.5).astype("int64")
    comparison = compared(models, (X[32:], y[32:]), validation=(X[:32], y[:32]))
    assert comparison.task == "binary"
    titles = [line.title for line in comparison.as_tables()[0].lines]
    assert titles[:4] == ["accuracy", "F1", "PR-AUC", "ROC-AUC"] and "threshold from validation" in titles
    assert {"Brier score", "log-loss", "F1 at threshold"} <= set(titles) and "exact match" not in titles
    for name, model in models.items():
        p = np.ravel(model.predict(X, verbose=0))
        assert comparison.quality[name]["roc_auc"] == pytest.approx(metrics.roc_auc_score(y[32:], p[32:]))
        expected = kd.evaluation.measure(model, (X[32:], y[32:]), validation=(X[:32], y[:32]))["threshold"]
        assert comparison.quality[name]["threshold"] == expected


def two_outputs(seed):
    x = keras.Input((4,))
    return keras.Model(x, {"kind": dense(3, seed)(x), "flag": dense(1, seed, activation="sigmoid")(x)})


@pytest.mark.slow
@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_several_outputs_are_compared_in_one_call(form):
    models = {"teacher": two_outputs(1), "student": two_outputs(2)}
    labels = {"kind": Y, "flag": (X[:, 0] > 0).astype("int64")}
    weights = {"kind": np.linspace(0, 1, 64), "flag": np.linspace(1, 2, 64)}
    data = (X, labels, weights)
    whole = tf.data.Dataset.from_tensor_slices(data).batch(24) if form == "dataset" else data
    comparison = compared(models, whole, rounds=10, memory=False)
    assert comparison.task == "several outputs" and comparison.examples == 64
    for output, task in {"kind": "classification", "flag": "binary"}.items():
        one = {name: keras.Model(each.input, each.output[output]) for name, each in models.items()}
        expected = compared(one, (X, labels[output], weights[output]))
        assert comparison.outputs[output].task == expected.task == task
        for name in models:
            found = comparison.quality[name]
            for measure, value in expected.quality[name].items():
                assert found[f"{output}/{measure}"] == pytest.approx(value, abs=1e-6, nan_ok=True)
        np.testing.assert_allclose(comparison.outputs[output].recall["student"], expected.recall["student"])
    text = str(comparison)
    assert "kind: accuracy" in text and "flag: PR-AUC" in text and text.count("one example, p50") == 1
    assert "kind: recall by class" in text and "| flag: ROC-AUC |" in comparison.to_markdown()
    assert set(json.loads(comparison.to_json())["outputs"]) == {"kind", "flag"}


def test_outputs_without_labels_are_left_out():
    models = {"teacher": two_outputs(1), "student": two_outputs(2)}
    comparison = compared(models, (X, {"kind": Y}))
    assert comparison.task == "classification" and "accuracy" in comparison.quality["student"]


def test_a_vocabulary_is_not_compared_token_by_token():
    x = keras.Input((5,), dtype="int32")
    model = keras.Model(x, keras.layers.Dense(101)(keras.layers.Embedding(9, 4)(x)))
    words = np.arange(10).reshape(2, 5) % 9
    comparison = compared({"teacher": model, "student": model}, (words, words))
    assert comparison.class_names == [] and comparison.confusions == {} and len(comparison.as_tables()) == 1
    assert "perplexity" in comparison.quality["student"]


def test_times_within_the_noise_are_equally_good_and_none_is_best_where_all_are():
    time, size = measures.COSTS["p50_ms"], measures.COSTS["parameters"]
    assert measures.line(time, [1.0, 1.05, 2.0, None]).best == {0, 1}
    assert measures.line(time, [1.0, 1.05]).best == set()
    assert measures.line(size, [100, 105]).best == {0}
    assert measures.line(measures.COSTS["examples_per_second"], [100, 95, 50]).best == {0, 1}
    assert measures.line(measures.COSTS["p99_ms"], [1.0, 2.0]).best == set()  # a tail is noise for the most part


def of_export(runtime, path):
    rest = [field.name for field in dataclasses.fields(kd.evaluation.Cost)][2:]
    return kd.evaluation.Cost(runtime, path, **dict.fromkeys(rest, 1))


@pytest.mark.parametrize(
    ("paths", "places"),
    [
        (["m/student.tflite"], [""]),
        (["m/student.tflite", "m/student.int8.tflite"], [", student.tflite", ", student.int8.tflite"]),
        (["/m/1/s.tflite", "/m/2/s.tflite"], [", 1/s.tflite", ", 2/s.tflite"]),
        (["s.tflite", "m/s.tflite", "n/m/s.tflite"], [", s.tflite", ", m/s.tflite", ", n/m/s.tflite"]),
        (["m/s.tflite", "m/s.tflite"], [", s.tflite"] * 2),
    ],
)
def test_files_of_one_runtime_are_distinguished_by_the_shortest_part_of_their_paths(paths, places):
    costs = [of_export("Keras", None), *(of_export("LiteRT", path) for path in paths), of_export("SavedModel", "m/1")]
    expected = ["a", *(f"a (LiteRT{place})" for place in places), "a (SavedModel)"]
    assert measures.ways("a", costs) == expected


def test_a_function_has_no_parameters_that_could_be_best():
    def function(x):
        return tf.ensure_shape(tf.numpy_function(lambda x: x[:, :3], [x], "float32"), (None, 3))

    comparison = compared({"teacher": linear(1), "function": function}, rounds=10, memory=False)
    rows = {line.split("  ")[0]: line for line in str(comparison).splitlines()}
    assert rows["parameters"].split()[1:] == ["15", "-"] and rows["FLOPs for one example"].split()[4:] == ["27", "-"]
    assert comparison.to_dict()["models"]["function"]["costs"][0]["parameters"] is None


def test_the_classes_farthest_from_the_teacher_come_first():
    comparison = compared(class_names=["a", "b", "c"])
    table = str(comparison).split("\n\n")[1].splitlines()
    gaps = {
        name: max(abs(comparison.recall[each][place] - comparison.recall["teacher"][place]) for each in MODELS)
        for place, name in enumerate("ab")
    }
    assert [line.split()[0] for line in table[2:]] == [*sorted(gaps, key=lambda name: -gaps[name]), "c"]
    assert table[-1].split() == ["c", "-", "-", "-"]  # no examples


def test_a_class_has_the_teachers_recall_and_what_each_student_has_more_or_less_of_it_in_points():
    recall = {
        name: metrics.recall_score(Y, logits(model).argmax(-1), labels=range(2), average=None)
        for name, model in MODELS.items()
    }
    table = compared(class_names=["a", "b", "c"]).as_tables()[1]
    assert table.columns == list(MODELS)
    for line in table.lines[:2]:
        theirs, *ours = (each["ab".index(line.title)] for each in recall.values())
        assert line.cells == [f"{100 * theirs:.2f} %", *(f"{100 * (each - theirs):+.1f}" for each in ours)]
        assert line.best == set()


def test_the_text_has_ten_classes_and_the_tables_have_all():
    models = {"teacher": linear(1, classes=12), "student": linear(2, classes=12)}
    comparison = compared(models, batch(300, classes=12), class_names=[f"class {place}" for place in range(12)])
    whole = [line.title for line in comparison.as_tables()[1].lines]
    assert sorted(whole) == sorted(comparison.class_names)
    for text in (str(comparison), comparison.to_markdown(), comparison._repr_html_()):
        assert [name for name in whole if f"{name}<" in text or f"{name} " in text] == whole[:10]


def test_one_model_has_no_table_of_classes_and_two_have_one():
    assert [len(compared({"teacher": TEACHER, **more}).as_tables()) for more in ({}, {"student": STUDENT})] == [1, 2]


def test_measures_come_in_one_order_accuracy_first():
    first, *rest = (line.title for line in compared().as_tables()[0].lines)
    own = ["top-5 accuracy", "F1, macro", "log-loss", "Brier score", "calibration error"]
    theirs = ["agreement with teacher", "agreement where teacher is wrong"]
    assert [first, *rest] == ["accuracy", *own, *theirs, "KL(teacher || student)", "KL(student || teacher)"]


def test_the_dict_has_plain_numbers_of_each_model():
    comparison = compared(worst=2, histories={"alone": {"loss": [2.0, np.inf]}})
    found, predicted = comparison.to_dict(), logits(MODELS["alone"]).argmax(-1)
    assert (found["task"], found["teacher"], found["examples"]) == ("classification", "teacher", 64)
    assert (found["class_names"], found["support"]) == (["0", "1", "2"], list(np.bincount(Y, minlength=3)))
    assert list(found["models"]) == list(MODELS)
    one = found["models"]["alone"]
    recall = metrics.recall_score(Y, predicted, labels=range(3), average=None, zero_division=np.nan)
    assert one["recall"] == [*recall[:2], None]
    assert one["f1"] == pytest.approx(metrics.f1_score(Y, predicted, labels=range(3), average=None))
    assert one["confusion"] == metrics.confusion_matrix(Y, predicted, labels=range(3)).tolist()
    assert one["history"] == {"loss": [2.0, None]} and one["costs"] == []
    assert sum(share for _, _, share in one["calibration"]) == pytest.approx(1.0)
    assert [set(each) for each in one["disagreements"]] == [{"index", "distance", "label", "student", "teacher"}] * 2
    assert found["models"]["teacher"]["disagreements"] == []


def test_json_is_the_dict_and_has_no_numbers_that_json_lacks(tmp_path):
    comparison = compared({"teacher": TEACHER, "student": STUDENT}, (X, logits(TEACHER).argmax(-1)))
    assert np.isnan(comparison.quality["student"]["agreement_where_teacher_wrong"])
    text = comparison.to_json(tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text() == text
    assert json.loads(text) == comparison.to_dict()
    assert json.loads(text)["models"]["student"]["quality"]["agreement_where_teacher_wrong"] is None


def test_names_cannot_break_out_of_markdown_html_or_lines():
    comparison = compared(
        {"teacher": TEACHER, NAUGHTY + "\n\x1b[31m": STUDENT}, class_names=["a|b", NAUGHTY, "<b>\x1b[31m"]
    )
    markdown = comparison.to_markdown()
    assert "<script" not in markdown and "<b>" not in markdown and "\\|" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4}
    assert "\x1b" not in str(comparison) and "\x1b" not in markdown
    shown = comparison._repr_html_()
    assert "<script" not in shown and "<b>" not in shown and "&lt;script&gt;" in shown


def test_a_notebook_shows_the_tables():
    shown = compared()._repr_html_()
    assert shown.count("<table>") == 2 and "class=best" in shown and "64 examples" in shown
    assert "{" not in repr(compared())


def test_histories_may_be_what_fit_returns_or_its_dict():
    model = linear(9)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    history = model.fit(X, Y, epochs=2, verbose=0)
    expected = {"loss": history.history["loss"]}
    received = compared(histories={"alone": history, "distilled": history.history}).histories
    assert received == {"alone": expected, "distilled": expected}


def test_nothing_is_printed_but_a_bar_where_it_is_requested(capsys):
    compared()
    assert capsys.readouterr().out == ""
    for data in ((X, Y), ((X[:9], Y[:9]) for _ in range(3))):
        compared(data=data, verbose=1, batch_size=16)
        assert "/batch" in capsys.readouterr().out


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"teacher": "Teacher"}, "'Teacher'.*'distilled'.*None"),
        ({"exports": {"student": "x"}}, "`exports`.*'student'"),
        ({"histories": {"student": {}}}, "`histories`.*'student'"),
        ({"class_names": ["a"]}, "3 `class_names`.*1"),
        ({"rounds": 3}, "rounds=3"),
        ({"rounds": 10, "exports": {"alone": "missing"}}, "'missing'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        compared(**arguments)


def test_errors_that_need_no_data_come_before_the_data_are_read(tmp_path):
    def batches():
        raise AssertionError("read")
        yield

    for arguments in ({"rounds": 3}, {"exports": {"alone": tmp_path}}, {"task": "x"}, {"teacher": "x"}, {"top_k": 0}):
        with pytest.raises(ValueError, match="Expected"):
            compared(data=batches(), **arguments)


def test_models_without_names_are_refused():
    with pytest.raises(TypeError, match="by name.*list"):
        kd.compare([TEACHER, STUDENT], (X, Y))
