"""Tasks of KerasHub as student, teacher or both: raw strings and images in, the numbers of a run on tokens out."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import teachers
from keras_kd._internal import cloning
from tests import references
from tests.models import assert_same, linear, softmax

pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
from tests.tasks import (  # noqa: E402
    CROSS_ENTROPY,
    OTHER_WORDS,
    byte_pair_classifier,
    causal_lm,
    classifier,
    distiller,
    image_classifier,
    masked_lm,
    photographs,
    reviews,
)

TEXTS, LABELS = reviews()
IMAGES, KINDS = photographs()
ARRAY = np.array(TEXTS, object)


def fit(made, x=TEXTS, y=LABELS, **arguments):
    """Fit in order, quietly; return the logs of each epoch."""
    return made.fit(x, y, **{"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, **arguments}).history


def other_classifier():
    """Return a teacher with other words, and shorter sequences, than the student."""
    return classifier(2, OTHER_WORDS, length=6)


def without_preprocessor(task):
    """Return a task that reads tokens."""
    task.preprocessor = None
    return task


def predicted(task, x=TEXTS):
    """Return the outputs of a task, as its `predict` does, which traces its preprocessor for that."""
    return np.array(task(task.preprocessor(x)))


def distance(made, x=TEXTS):
    """Return how far the student is from the teacher, as `evaluate` reports it without labels."""
    return float(made.evaluate(x, verbose=0, return_dict=True)["distillation_loss"])


def apart(student, teacher, temperature=2.0):
    """Return the mean of T**2 * KL(teacher || student), from the logits of both, (rows, classes)."""
    s, t = (np.asarray(each, "float64") / temperature for each in (student, teacher))
    return temperature**2 * np.mean(references.kl_divergence(s, t))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a Distiller of two classifiers with vocabularies of their own, trained on strings, its logs and a file."""
    file = tmp_path_factory.mktemp("trained") / "student.keras"
    made = distiller(classifier(1), other_classifier())
    validation = (TEXTS, list(LABELS))
    return made, fit(made, validation_data=validation, callbacks=[kd.callbacks.StudentCheckpoint(file)]), file


@pytest.mark.slow
def test_a_run_on_strings_is_the_run_on_tokens_made_by_hand(trained):
    student, teacher = classifier(1), other_classifier()
    ours, theirs = (task.preprocessor(TEXTS) for task in (student, teacher))
    x = {name: np.array(each) for name, each in ours.items()}
    x |= {f"teacher_{name}": np.array(each) for name, each in theirs.items()}
    assert x["token_ids"].shape != x["teacher_token_ids"].shape
    frozen = teachers.Frozen(
        without_preprocessor(teacher), preprocess=lambda x: {name: x[f"teacher_{name}"] for name in theirs}
    )
    made = distiller(without_preprocessor(student), frozen)
    logs = fit(made, x)
    assert logs["distillation_loss"][0] > 0.01
    np.testing.assert_allclose(trained[1]["loss"], logs["loss"], rtol=0, atol=1e-6)
    assert_same(trained[0].student.get_weights(), student.get_weights(), 1e-6)


@pytest.mark.slow
def test_evaluate_and_predict_on_strings_are_those_of_the_student(trained):
    made, student = trained[0], trained[0].student
    student.compile(loss=CROSS_ENTROPY, metrics=["accuracy"])
    made.compile("sgd", CROSS_ENTROPY, metrics=["accuracy"])
    received, expected = (each.evaluate(ARRAY, LABELS, verbose=0, return_dict=True) for each in (made, student))
    assert trained[1]["val_loss"][-1] == pytest.approx(float(expected["loss"]), abs=1e-6)
    for name, value in expected.items():
        assert float(received[name]) == pytest.approx(float(value), abs=1e-6)
    np.testing.assert_allclose(made.predict(TEXTS, verbose=0), student.predict(ARRAY, verbose=0), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_at_alpha_0_a_run_is_the_fit_of_the_task():
    arguments = {"class_weight": {0: 1.0, 1: 3.0}, "validation_split": 0.25, "epochs": 2, "batch_size": 8, "verbose": 0}
    made, alone = distiller(image_classifier(1, 8), image_classifier(2, 8), 0.01, alpha=0.0), image_classifier(1, 8)
    alone.compile(keras.optimizers.SGD(0.01), CROSS_ENTROPY, jit_compile=False)
    logs, expected = fit(made, IMAGES, KINDS, **arguments), alone.fit(IMAGES, KINDS, **arguments).history
    np.testing.assert_allclose(logs["val_loss"], expected["val_loss"], rtol=0, atol=1e-6)
    assert_same(made.student.get_weights(), alone.get_weights(), 1e-6)


FORMS = {
    "list": TEXTS,
    "array of str": np.array(TEXTS),
    "series": pd.Series(TEXTS),
    "tensor": tf.constant(TEXTS),
    "list of bytes": [each.encode() for each in TEXTS],
}


@pytest.mark.parametrize("form", FORMS)
def test_strings_come_in_any_form(form):
    made = distiller(classifier(1), other_classifier())
    assert made.objective(FORMS[form], LABELS) == made.objective(ARRAY, LABELS)


def test_a_dataset_is_read_batch_by_batch():
    made = distiller(classifier(1), teachers.EMA())
    data, _, size, _ = made._preparation.for_fit(
        tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(8), None, None, {}
    )
    received = [(x.student["token_ids"], y) for x, y in data]
    assert [len(y) for _, y in received] == [8, 8, 6] and size is None
    np.testing.assert_array_equal(
        np.concatenate([x for x, _ in received]), made.student.preprocessor(TEXTS)["token_ids"]
    )
    np.testing.assert_array_equal(np.concatenate([y for _, y in received]), LABELS)


def test_examples_are_shuffled_unless_fit_says_otherwise():
    made = distiller(image_classifier(1, 12), image_classifier(2, 8))
    for arguments, shuffles in (({}, True), ({"shuffle": False}, False)):
        data, *_ = made._preparation.for_fit(IMAGES, np.arange(12), 12, arguments)
        orders = [y.numpy().tolist() for _ in range(2) for _, y in data]
        assert (orders[0] != orders[1]) == shuffles and sorted(orders[0]) == list(range(12))


def test_floats_come_in_the_precision_of_keras():
    made = distiller(image_classifier(1, 8), image_classifier(2, 8))
    [(x, y)] = made._preparation.for_fit(IMAGES / 2, KINDS / 2, 12, {})[0]
    assert (x.student.dtype, y.dtype) == ("float32", "float32")


def test_models_preprocess_only_what_they_will_read():
    made = distiller(image_classifier(1, 8), teachers.InMemory(image_classifier(2, 8)))
    kept = kd.Joined(IMAGES, {"logits": np.zeros((12, 2), "float32")})
    [(x, _)] = made._preparation.for_fit(kept, KINDS, 12, {})[0]
    assert x.inputs.teachers == {} and x.inputs.student.shape == (12, 8, 8, 3)
    for y, count in ((KINDS, 0), (None, 1)):  # with labels, the student is evaluated alone
        [batch] = made.prepared(IMAGES, y, None, 12, predicts=False)[0]
        assert len(keras.utils.unpack_x_y_sample_weight(batch)[0].teachers) == count


# Language models


def next_letters(task, texts=TEXTS):
    """Return tokens, labels and weights that a causal language model is trained on, by hand."""
    x, y, weights = task.preprocessor(texts)
    return {name: np.array(each) for name, each in x.items()}, np.array(y), np.array(weights, "float32")


def perplexity(task):
    """Return exp of the mean cross-entropy of the letters that are no padding."""
    x, y, weights = next_letters(task)
    log_p = np.log(np.take_along_axis(np.array(keras.ops.softmax(task(x))), y[..., None], -1))[..., 0]
    return np.exp(-np.sum(log_p * weights) / np.sum(weights))


@pytest.mark.slow
def test_a_causal_language_model_learns_from_strings_what_it_learns_from_tokens():
    students = [causal_lm(1), causal_lm(1)]
    for each in students:
        keras.utils.set_random_seed(3)
        each.backbone.enable_lora(2)
    student, before = students[1], perplexity(students[1])
    frozen = [np.array(each) for each in student.non_trainable_variables]
    made = distiller(students[0], causal_lm(2, length=20), 1.0)
    fit(made, y=None)
    x, y, weights = next_letters(student)
    by_hand = distiller(without_preprocessor(student), without_preprocessor(causal_lm(2)), 1.0)
    fit(by_hand, x, y, sample_weight=weights)
    assert_same(made.student.get_weights(), student.get_weights(), 1e-6)
    assert_same([np.array(each) for each in made.student.non_trainable_variables], frozen)
    assert perplexity(made.student) < 0.95 * before
    made.student.compile(sampler="greedy", run_eagerly=True)
    assert made.student.generate("the f", max_length=9).startswith("the f")


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "int8"])
def test_a_fused_head_learns_from_strings_as_all_logits_do(mode):
    teacher = causal_lm(2)
    teacher.preprocessor(TEXTS)  # Keras quantises only what is built, tokenizers too
    if mode is not None:
        teacher.quantize(mode)
    runs = [distiller(causal_lm(1), teacher, 0.05, fused_head=way) for way in (False, True)]
    logs = [fit(each, y=None, validation_data=(TEXTS[:8],)) for each in runs]
    for name, values in logs[0].items():
        np.testing.assert_allclose(logs[1][name], values, rtol=1e-5, err_msg=name)
    assert_same(runs[1].student.get_weights(), runs[0].student.get_weights(), 1e-5)


def test_padding_counts_in_the_teachers_part_as_in_the_labels():
    # Keras divides by all positions, and padding adds nothing to the sum.
    student, teacher = causal_lm(1), causal_lm(2)
    x, y, weights = next_letters(student, ["the film", "a"])
    assert 0 < np.sum(weights) < weights.size
    parts = distiller(student, teacher).objective(["the film", "a"])
    s, t = (np.asarray(task(x), "float64") for task in (student, teacher))
    kl = 4.0 * references.kl_divergence(s / 2, t / 2)
    log_p = np.take_along_axis(np.log(np.asarray(keras.ops.softmax(s))), y[..., None], -1)[..., 0]
    assert float(parts["distillation_loss"]) == pytest.approx(np.sum(kl * weights) / weights.size, rel=1e-4)
    assert float(parts["student_loss"]) == pytest.approx(-np.sum(log_p * weights) / weights.size, rel=1e-4)


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("teacher", [lambda: masked_lm(1), lambda: teachers.EMA(0.5)], ids=["task", "average"])
def test_a_teacher_of_masked_tokens_reads_the_masks_that_the_student_reads(teacher, jit_compile):
    # With the student's weights it predicts the same, but for other masks.
    made = distiller(masked_lm(1), teacher(), 0.0, jit_compile=jit_compile)
    logs = fit(made, y=None, epochs=1)
    assert logs["distillation_loss"][0] < 1e-5 < 0.1 < logs["student_loss"][0]


@pytest.mark.slow
def test_a_teacher_in_8_bits_reads_strings_too():
    made = distiller(causal_lm(1), causal_lm(2))
    expected = float(made.objective(TEXTS)["distillation_loss"])
    teacher = causal_lm(2)
    teacher.preprocessor(TEXTS)  # Keras quantises only what is built, tokenizers too
    teacher.quantize("int8")
    made.teacher = teacher
    received = float(made.objective(TEXTS)["distillation_loss"])
    assert received != expected and received == pytest.approx(expected, rel=0.1)


# Images, and teachers of several kinds


def test_each_model_scales_and_resizes_images_for_itself():
    student, teacher = image_classifier(1, 8), image_classifier(2, 16, scale=1 / 127.5)
    made = distiller(student, teacher, alpha=1.0)
    made.compile("sgd", alpha=1.0)
    expected = apart(student.predict(IMAGES, verbose=0), teacher.predict(IMAGES, verbose=0))
    assert expected > 1e-3
    assert distance(made, IMAGES) == pytest.approx(expected, rel=1e-4)


def lengths(x):
    """Return how long each text is, and 0."""
    count = tf.cast(tf.strings.length(x), "float32") / 10
    return tf.stack([count, tf.zeros_like(count)], axis=-1)


class Length(teachers.Teacher):
    """A user's own teacher, of raw examples."""

    def call(self, x, student, labels=None, step=0):
        """Return logits."""
        return {"logits": lengths(x)}


@pytest.mark.slow
def test_teachers_of_every_kind_read_what_they_need():
    student, other = classifier(1), classifier(3)
    given = [
        other_classifier(),
        classifier(4),
        lengths,
        teachers.Python(lambda x: np.array([[len(text) / 10, 0] for text in x]), outputs=2),
        Length(),
        teachers.Frozen(other, preprocess=lambda x: other.preprocessor(tf.strings.upper(x))),
    ]
    made = kd.Distiller(student=student, teacher=given)
    made.compile("sgd", alpha=1.0)
    upper = predicted(other, [text.upper() for text in TEXTS])
    members = [predicted(given[0]), predicted(given[1]), *[np.array(lengths(TEXTS))] * 3, upper]
    p = np.mean([softmax(each / 2) for each in members], axis=0)
    q = softmax(predicted(student) / 2)
    assert distance(made) == pytest.approx(4.0 * np.mean(np.sum(p * np.log(p / q), axis=-1)), rel=1e-4)


class Chooses(Length):
    """One that reads other texts than the student."""

    def student_view(self, x):
        """Return the student's texts."""
        return x["short"]

    def call(self, x, student, labels=None, step=0):
        """Return logits."""
        return super().call(x["long"], student)


@pytest.mark.slow
def test_a_teacher_may_choose_the_texts_that_the_student_reads():
    long = [text + " and it" for text in TEXTS]
    made = kd.Distiller(student=classifier(1), teacher=Chooses())
    made.compile("sgd", alpha=1.0)
    expected = apart(predicted(made.student), lengths(long))
    assert float(made.objective({"short": TEXTS, "long": long})["loss"]) == pytest.approx(expected, rel=1e-4)
    assert distance(made, {"short": TEXTS, "long": long}) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_student_of_keras_on_strings_has_a_task_as_its_teacher():
    words = keras.layers.TextVectorization(output_mode="multi_hot", vocabulary=OTHER_WORDS)
    inputs = keras.Input((), dtype="string")
    student = keras.Model(inputs, keras.layers.Dense(2)(words(inputs)))
    teacher = other_classifier()
    made = kd.Distiller(student=student, teacher=teacher)
    made.compile("sgd", alpha=1.0)
    expected = apart(student(tf.constant(TEXTS)), predicted(teacher))
    assert distance(made) == pytest.approx(expected, rel=1e-4)


# Targets that are kept, files, reports


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("kept", ["memory", pytest.param("arrays", marks=pytest.mark.slow), "dataset"])
def test_targets_that_are_kept_teach_as_a_live_teacher_does(kept, trained, tmp_path):
    teacher, x, y, size = other_classifier(), TEXTS, LABELS, 8
    if kept == "memory":
        teacher = teachers.InMemory(teacher)
    else:
        cache = kd.TeacherCache(tmp_path, teacher, dtype="float32")
        given = TEXTS if kept == "arrays" else tf.data.Dataset.from_tensor_slices((TEXTS, LABELS))
        cache.build(given, verbose=0)
        x, teacher = cache.join(given), teachers.Cached(cache)
        x, y, size = (x, LABELS, 8) if kept == "arrays" else (x.batch(8), None, None)
    made = distiller(classifier(1), teacher)
    fit(made, x, y, batch_size=size)
    assert_same(made.student.get_weights(), trained[0].student.get_weights(), 1e-5)


@pytest.mark.slow
def test_what_is_saved_takes_strings_too(trained, tmp_path):
    trained[0].save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    student = keras.models.load_model(trained[2])
    expected = trained[0].objective(TEXTS, LABELS)["student_loss"]
    for each in (loaded, kd.Distiller(student=student, teacher=None)):
        each.teacher = other_classifier()
        each.compile("sgd", CROSS_ENTROPY)
        assert each.objective(TEXTS, LABELS)["student_loss"] == expected


@pytest.mark.parametrize("raw", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_classifier_is_exported(raw, tmp_path):
    student = classifier(1)
    arguments = {"preprocessing": student.preprocessor, "representative": ARRAY} if raw else {"fresh": False}
    report = kd.export(student, tmp_path / "1", **arguments)
    assert report["saved_model"].passed
    served = tf.saved_model.load(tmp_path / "1")
    x = (
        tf.constant(TEXTS)
        if raw
        else {name: tf.cast(each, "int32") for name, each in student.preprocessor(TEXTS).items()}
    )
    np.testing.assert_allclose(served.serve(x), predicted(student), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_classifier_of_byte_pairs_is_exported_with_its_tokenizer_in_which_words_are_kept(tmp_path):
    student = byte_pair_classifier(1)
    kd.export(student, tmp_path / "1", preprocessing=student.preprocessor, representative=ARRAY, fresh=False)
    served = tf.saved_model.load(tmp_path / "1")
    unseen = ["that plot", *TEXTS[:3]]
    for _ in range(2):  # the second time, the table of the words has them
        np.testing.assert_allclose(served.serve(tf.constant(unseen)), predicted(student, unseen), rtol=0, atol=1e-5)


@pytest.mark.parametrize("set_aside", [False, True])
def test_a_task_whose_preprocessor_was_used_is_copied(set_aside):
    task = classifier(1)
    expected = predicted(task)
    tokens = task.preprocessor(TEXTS)
    task = without_preprocessor(task) if set_aside else task
    copy = cloning.copy_model(task)
    np.testing.assert_array_equal(copy(tokens), expected)
    assert copy.preprocessor is task.preprocessor
    assert not {id(each) for each in copy.variables} & {id(each) for each in task.variables}


@pytest.mark.slow
def test_compare_times_a_task_through_files_that_take_tokens_and_text(tmp_path):
    student = classifier(1)
    kd.export(student, tmp_path / "tokens", representative=student.preprocessor(TEXTS), fresh=False)
    kd.export(student, tmp_path / "text", representative=ARRAY, preprocessing=student.preprocessor, fresh=False)
    exports = {"student": [tmp_path / "tokens", tmp_path / "text"]}
    comparison = kd.compare(
        {"student": student}, (TEXTS, LABELS), teacher=None, exports=exports, rounds=10, memory=False
    )
    costs = comparison.costs["student"]
    assert [each.runtime for each in costs] == ["Keras", "SavedModel", "SavedModel"]
    assert all(each.calls and each.file_bytes for each in costs)


@pytest.mark.slow
def test_check_and_compare_take_strings():
    student, teacher = classifier(1), other_classifier()
    accuracy = {
        name: float(np.mean(np.argmax(predicted(task), -1) == LABELS))
        for name, task in (("student", student), ("teacher", teacher))
    }
    report = distiller(student, teacher).check(TEXTS, LABELS)
    assert (report.student_accuracy, report.teacher_accuracy) == pytest.approx(tuple(accuracy.values()))
    comparison = kd.compare({"teacher": teacher, "student": student}, (TEXTS, list(LABELS)), rounds=0)
    assert {name: each["accuracy"] for name, each in comparison.quality.items()} == pytest.approx(accuracy)


def test_compare_measures_language_models_on_texts_alone():
    student, teacher = causal_lm(1), causal_lm(2)
    comparison = kd.compare({"teacher": teacher, "student": student}, TEXTS, rounds=0)
    for name, task in (("student", student), ("teacher", teacher)):
        assert np.exp(comparison.quality[name]["nll"]) == pytest.approx(perplexity(task), rel=1e-4)


# What does not fit together


def numeric():
    """Return a model of four numbers."""
    return linear(0, classes=2)


@pytest.mark.parametrize(
    ("student", "teacher", "x", "message"),
    [
        (numeric, lambda: linear(1, classes=2), TEXTS, "numbers for the student .* no `preprocessor`"),
        (numeric, other_classifier, TEXTS, "numbers for the student .* no `preprocessor`"),
        (lambda: classifier(1), numeric, TEXTS, "numbers for the teacher .* no `preprocessor`"),
        (
            lambda: causal_lm(1),
            lambda: causal_lm(2, more=["ab"]),
            TEXTS,
            "the vocabulary of the student.* 29 .* 30.*align",
        ),
        (lambda: causal_lm(1), lambda: causal_lm(2), np.zeros((4, 12), int), "raw text for .* `preprocessor` to None"),
        (lambda: classifier(1), other_classifier, (text for text in TEXTS), "lists of strings, .* of type generator"),
        (lambda: classifier(1), other_classifier, TEXTS[:5], r"as many labels .* lengths \[5, 22\]"),
        (
            lambda: classifier(1),
            other_classifier,
            tf.data.Dataset.from_tensors((TEXTS, LABELS)),
            "Dataset of batches .* Received `y`",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(student, teacher, x, message):
    y = None if student().outputs[0].shape[1:] == (None, 29) else LABELS
    with pytest.raises((TypeError, ValueError), match=message):
        fit(distiller(student(), teacher()), x, y)


def same_length():
    """Return a teacher with other words than the student."""
    return classifier(2, OTHER_WORDS)


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("teacher", "output", "transform", "warns"),
    [
        (same_length, "sequence_output", None, True),
        (lambda: classifier(2), "sequence_output", None, False),
        (same_length, "pooled_output", None, False),
        (same_length, "sequence_output", lambda tokens: keras.ops.mean(tokens, axis=1), False),
    ],
)
def test_features_of_the_tokens_of_two_tokenizers_are_warned_of(teacher, output, transform, warns):
    student, teacher = classifier(1), teacher()
    at = tuple(f"{task.backbone.name}:{output}" for task in (student, teacher))
    term = kd.Term(kd.losses.squared_error, at=at, transform=transform)
    made = kd.Distiller(student=student, teacher=teachers.InMemory(teacher), terms=[term])
    made.compile("sgd", CROSS_ENTROPY)
    advice = made.check(TEXTS, LABELS, batch_size=8).advice
    assert any("token by token" in each for each in advice) == warns


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="`validation_split` to leave examples on both sides. .*=0.99 of 12"):
        fit(distiller(image_classifier(1, 8), image_classifier(2, 8)), IMAGES, KINDS, validation_split=0.99)


def test_targets_of_masked_tokens_are_not_kept():
    with pytest.raises(ValueError, match="masks other tokens each time"):
        teachers.InMemory(masked_lm(1)).bind(masked_lm(2), ("logits",))


# Several devices


@pytest.mark.one_in(2, group="devices")
@pytest.mark.slow
def test_two_replicas_are_one_device(tmp_path):
    file = tmp_path / "found.npz"
    command = [sys.executable, "-m", "tests.tasks", str(file)]
    root = pathlib.Path(__file__).parents[1]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    found = dict(np.load(file))
    expected = {key.removeprefix("one "): value for key, value in found.items() if key.startswith("one ")}
    assert len(expected) > 20
    for key, value in expected.items():
        np.testing.assert_allclose(found[f"two {key}"], value, rtol=0, atol=1e-5, err_msg=key)
