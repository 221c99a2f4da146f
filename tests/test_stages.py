"""Pipelines of fits: what each trains, and that a killed one ends as if it had not been."""

import collections
import inspect
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import stages
from tests.models import assert_same, batch, dense, linear, mlp, numbers, softmax

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X, Y = batch(24)


def arguments(epochs: int = 2, folder=None, optimizer="sgd", **more) -> dict:
    """Return the arguments of every stage; eager by default, as the steps are few."""
    more = {"run_eagerly": True, **more}
    return {
        "compile_arguments": {"optimizer": optimizer, "loss": LOSS, "metrics": ["accuracy"], **more},
        "fit_arguments": {"x": X, "y": Y, "batch_size": 8, "epochs": epochs, "verbose": 0, "validation_data": (X, Y)},
        "folder": folder,
    }


def named(units: int, name: str) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, "tanh"), keras.layers.Dense(3)], name=name)


def test_each_stage_of_a_chain_learns_from_the_one_before():
    teacher, assistant, student = named(20, "large"), named(9, "middle"), named(3, "small")
    before, started = numbers(teacher), time.perf_counter()
    trained, record = stages.teacher_assistants(teacher, [assistant], student, **arguments())
    assert trained is student
    assert sum(stage.seconds for stage in record) < time.perf_counter() - started
    assert [(stage.name, stage.teacher, stage.epochs) for stage in record] == [
        ("1-middle", "large", 2),
        ("2-small", "middle", 2),
    ]
    assert [stage.parameters for stage in record] == [assistant.count_params(), student.count_params()]
    assert all(stage.seconds > 0 and "val_accuracy" in stage.logs for stage in record)
    assert_same(numbers(teacher), before)


def test_a_chain_of_one_stage_is_a_distiller():
    student, twin, teacher = mlp(1), mlp(1), mlp(2)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    common = arguments(temperature=3.0, alpha=0.7, run_eagerly=False)
    common["fit_arguments"] = {"x": data, "epochs": 2, "verbose": 0}
    stages.teacher_assistants(teacher, [], student, **common)
    distiller = kd.Distiller(student=twin, teacher=teacher)
    distiller.compile("sgd", LOSS, temperature=3.0, alpha=0.7)
    distiller.fit(data, epochs=2, verbose=0)
    assert_same(numbers(student), numbers(twin), 1e-6)


@pytest.mark.slow
def test_assistants_made_from_the_teacher_shrink_by_equal_ratios():
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.Conv2D(32, 3, activation="relu")(inputs)
    x = keras.layers.add([x, keras.layers.Conv2D(32, 3, padding="same")(x)])
    teacher = keras.Model(inputs, keras.layers.Dense(5, name="scores")(keras.layers.GlobalAveragePooling2D()(x)))
    student = keras.Sequential([keras.Input((16, 16, 1)), keras.layers.Flatten(), keras.layers.Dense(5)])
    x, y = np.zeros((4, 16, 16, 1), "float32"), np.zeros(4, "int32")
    common = {**arguments(1), "fit_arguments": {"x": x, "y": y, "verbose": 0}}
    _, record = stages.teacher_assistants(teacher, 2, student, **common)
    sizes = [teacher.count_params(), *(stage.parameters for stage in record)]
    ratio = (sizes[-1] / sizes[0]) ** (1 / 3)
    np.testing.assert_allclose([b / a for a, b in zip(sizes, sizes[1:], strict=False)], ratio, rtol=0.25)
    assert record[0].model.output.shape == (None, 5)


def test_an_assistant_larger_than_its_teacher_is_warned_of():
    with pytest.warns(UserWarning, match="smaller than the one it learns from"):
        stages.teacher_assistants(named(4, "a"), [named(40, "b")], named(2, "c"), **arguments(1))


def test_assistants_are_not_made_from_a_teacher_without_a_graph():
    with pytest.raises(ValueError, match="to make 2 assistants from.*Give the assistants as models"):
        stages.teacher_assistants(lambda x: x[:, :3], 2, named(2, "small"), **arguments(1))


def test_terms_are_created_for_each_stage():
    def hints(student, teacher):
        return kd.methods.kd() + kd.methods.fitnets([("hidden", "hidden")], weight=0.1)

    _, record = stages.teacher_assistants(mlp(1, units=9), [mlp(2, units=7)], mlp(3), terms=hints, **arguments(1))
    assert all("squared_error_hidden" in stage.logs for stage in record)


@pytest.mark.slow
def test_generations_start_from_fresh_weights_and_are_averaged():
    starts = []

    def build():
        student = named(5, "student")
        starts.append(student.get_weights()[0])
        return student

    last, record = stages.born_again(build, 3, **arguments(run_eagerly=False))
    assert [stage.name for stage in record] == ["1-student", "2-student", "3-student"]
    assert [stage.teacher for stage in record] == ["labels", "student", "student"]
    assert last is record[-1].model
    assert all(np.abs(a - b).max() > 0.1 for a, b in zip(starts, starts[1:], strict=False))
    models = [stage.model for stage in record]
    expected = np.mean([softmax(model.predict(X, verbose=0)) for model in models], axis=0)
    np.testing.assert_allclose(softmax(stages.averaged(models).predict(X, verbose=0)), expected, atol=1e-6)


def test_models_that_end_in_a_softmax_are_averaged_unchanged():
    models = [linear(1, activation="softmax"), linear(2)]
    expected = np.mean([models[0].predict(X, verbose=0), softmax(models[1].predict(X, verbose=0))], axis=0)
    mean = stages.averaged(models)
    np.testing.assert_allclose(softmax(mean.predict(X, verbose=0)), expected, atol=1e-6)
    assert mean.name == "averaged"


def test_no_models_have_no_average():
    with pytest.raises(ValueError, match="at least one model"):
        stages.averaged([])


@pytest.mark.parametrize(
    "teacher, name",
    [
        (lambda: named(8, "teacher"), "teacher"),
        (lambda: [named(8, "a"), named(7, "b")], "a + b"),
        (lambda: lambda x: x[:, :3], "function"),
    ],
    ids=["model", "list", "function"],
)
def test_a_first_generation_may_have_a_teacher(teacher, name):
    _, record = stages.born_again(lambda: named(5, "student"), 1, teacher(), **arguments(1))
    assert [stage.teacher for stage in record] == [name]


def test_a_teacher_in_memory_prints_no_more_in_a_stage_than_fit(capsys):
    for verbose, expected in ((0, False), (2, True)):
        common = arguments(1)
        common["fit_arguments"]["verbose"] = verbose
        stages.born_again(lambda: named(5, "student"), 1, kd.teachers.InMemory(named(8, "teacher")), **common)
        assert ("MB of memory" in capsys.readouterr().out) == expected


def test_generations_from_the_same_weights_are_refused():
    with pytest.raises(ValueError, match="fresh weights"):
        stages.born_again(lambda: linear(1), 2, **arguments(1))


def hand_written_step(students: list[keras.Model], alpha: float, rate: float) -> list[list[np.ndarray]]:
    """One step of gradient descent of each peer on (1 - alpha) CE + alpha mean_others KL(p_other || p_own)."""
    probabilities = [tf.constant(softmax(student(X)), "float32") for student in students]
    after = []
    for number, student in enumerate(students):
        others = [p for m, p in enumerate(probabilities) if m != number]
        with tf.GradientTape() as tape:
            log_q = tf.nn.log_softmax(student(X, training=True))
            hard = -tf.reduce_mean(tf.gather(log_q, Y, batch_dims=1))
            soft = sum(tf.reduce_mean(tf.reduce_sum(p * (tf.math.log(p) - log_q), -1)) for p in others) / len(others)
            loss = (1 - alpha) * hard + alpha * soft
        gradients = tape.gradient(loss, student.trainable_variables)
        after.append(
            [v.numpy() - rate * g.numpy() for v, g in zip(student.trainable_variables, gradients, strict=True)]
        )
    return after


@pytest.mark.parametrize("count", [2, 3])
def test_a_mutual_step_is_one_hand_written_step_of_each_peer(count):
    students = [mlp(seed) for seed in range(1, count + 1)]
    expected = hand_written_step(students, alpha=0.4, rate=0.1)
    common = arguments(1, optimizer=keras.optimizers.SGD(0.1), temperature=1.0, alpha=0.4)
    common["fit_arguments"]["batch_size"] = len(X)
    trained, _ = stages.mutual(students, **common)
    for student, weights in zip(trained, expected, strict=True):
        assert_same([v.numpy() for v in student.trainable_variables], weights, 1e-6)


def test_no_gradient_crosses_from_one_peer_to_another():
    a, b = linear(1), linear(2)
    inputs = keras.Input((4,))
    peers = keras.Model(inputs, {"a": a(inputs), "b": b(inputs)})
    terms = [kd.Term(kd.losses.kl_divergence, at=("a", "b"))]
    distiller = kd.Distiller(student=peers, teacher=kd.teachers.SelfTeacher(), terms=terms)
    distiller.compile("sgd", alpha=1.0)
    with tf.GradientTape() as tape:
        value = distiller.objective(X)["distillation_loss"]
    ours, theirs = a.trainable_variables, b.trainable_variables
    gradients = tape.gradient(value, ours + theirs)
    assert all(np.abs(g.numpy()).max() > 0 for g in gradients[: len(ours)])
    assert all(g is None or not np.any(g.numpy()) for g in gradients[len(ours) :])


def test_peers_of_one_name_and_of_other_sizes_learn_together():
    students = [named(5, "student"), named(7, "student")]
    _, record = stages.mutual(students, **arguments(1, run_eagerly=False))
    assert {"peer_1_from_peer_2", "peer_2_from_peer_1", "peer_1_loss", "val_peer_2_accuracy"} <= set(record[0].logs)


def exits_model() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3, strides=2, activation="relu", name="block_1")(inputs)
    y = keras.layers.Conv2D(4, 3, activation="relu", name="block_2")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(y)), name="net")


@pytest.mark.slow
def test_exits_are_trained_with_the_student_and_exported_or_not(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype("float32"), np.arange(12) % 3
    common = arguments(2, alpha=0.3, temperature=3.0, run_eagerly=False)
    common["fit_arguments"] = {"x": x, "y": y, "epochs": 2, "verbose": 0}
    student = exits_model()
    before = numbers(student)
    trained, record = stages.self_distillation(student, ["block_1", "block_2"], hint_weight=0.1, **common)
    assert trained is student
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, numbers(student), strict=True))
    assert {"exit_1_from_final", "exit_2_from_final", "hint_1", "final_loss"} <= set(record[0].logs)
    kd.export(student, tmp_path / "without", fresh=False)
    kd.export(record[0].model, tmp_path / "with", fresh=False)
    without, both = tf.saved_model.load(tmp_path / "without"), tf.saved_model.load(tmp_path / "with")
    assert set(both.serve(x)) == {"exit_1", "exit_2", "final"}
    np.testing.assert_allclose(both.serve(x)["final"], without.serve(x), atol=1e-6)


def test_hints_compare_each_exit_with_the_features_of_the_last_one():
    inputs = x = keras.Input((4,))
    for seed in (1, 2, 3):
        x = dense(5, seed, activation="tanh", name=f"block_{seed}")(x)
    student = keras.Model(inputs, dense(3, 4)(x))
    first, second, last = keras.Model(inputs, [student.get_layer(f"block_{n}").output for n in (1, 2, 3)]).predict(
        X, verbose=0
    )
    common = arguments(1, optimizer=keras.optimizers.SGD(0.0))
    common["fit_arguments"]["batch_size"] = len(X)
    _, record = stages.self_distillation(student, ["block_1", "block_2", "block_3"], hint_weight=0.1, **common)
    for name, features in (("hint_1", first), ("hint_2", second)):
        assert record[0].logs[name] == pytest.approx(np.mean((features - last) ** 2), rel=1e-4)
    assert "hint_3" not in record[0].logs


def test_an_exit_that_is_not_a_layer_is_named():
    with pytest.raises(ValueError, match=r"'block_9' to be an output or a layer of the student.*block_1"):
        stages.self_distillation(exits_model(), ["block_9"], **arguments())


def test_refinement_never_ends_below_where_it_began():
    student = mlp(1)
    before = student.get_weights()
    ruinous = arguments(3, optimizer=keras.optimizers.SGD(1e4))
    refined, record = stages.refine(student, **ruinous)
    assert_same(refined.get_weights(), before)
    assert record[0].logs["best"] == record[0].logs["before"] <= record[0].logs["val_loss"]


def test_refinement_ends_with_its_best_epoch():
    student = mlp(1)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((logs["val_loss"], student.get_weights()))
    )
    common = arguments(8, optimizer=keras.optimizers.SGD(2.0))
    common["fit_arguments"]["callbacks"] = [watch]
    refined, record = stages.refine(student, **common)
    best, weights = min(seen, key=lambda pair: pair[0])
    assert best < record[0].logs["before"]
    assert_same(refined.get_weights(), weights)
    np.testing.assert_allclose(record[0].logs["best"], best, rtol=1e-6)


@pytest.mark.parametrize("monitor, larger", [("val_accuracy", True), ("val_loss", False)])
def test_refinement_finds_the_direction_of_a_metric(monitor, larger):
    _, record = stages.refine(mlp(1), monitor=monitor, **arguments(4, optimizer=keras.optimizers.Adam(0.05)))
    logs = record[0].logs
    assert logs["best"] > logs["before"] if larger else logs["best"] < logs["before"]


def test_refinement_needs_validation_data_and_a_known_monitor():
    common = arguments()
    with pytest.raises(ValueError, match=r"\['accuracy', 'loss'\]. Received: 'val_f1' with mode='auto'"):
        stages.refine(mlp(1), monitor="val_f1", **common)
    with pytest.raises(ValueError, match=r"val_accuracy.*val_loss.*Received: monitor='val_f1'"):
        stages.refine(mlp(1), monitor="val_f1", mode="max", **common)
    del common["fit_arguments"]["validation_data"]
    with pytest.raises(ValueError, match="validation_data"):
        stages.refine(mlp(1), **common)


def test_pseudo_labels_are_the_softened_probabilities_of_confident_predictions():
    teacher, threshold = linear(1), 0.6
    logits = teacher.predict(X, verbose=0)
    sure = softmax(logits).max(-1) >= threshold
    assert 0 < sure.sum() < len(X)
    x, y, kept = stages.soft_labels(teacher, X, threshold, labeled=(X[:3], Y[:3]), temperature=2.0, batch_size=7)
    np.testing.assert_array_equal(kept, sure)
    np.testing.assert_array_equal(x, np.concatenate([X[:3], X[sure]]))
    np.testing.assert_allclose(y, np.concatenate([np.eye(3)[Y[:3]], softmax(logits / 2.0)[sure]]), atol=1e-6)


def test_pseudo_labels_of_an_ensemble_are_averaged_probabilities():
    teachers = [linear(1), linear(2)]
    expected = np.mean([softmax(teacher.predict(X, verbose=0)) for teacher in teachers], axis=0)
    np.testing.assert_allclose(stages.soft_labels(teachers, X).y, expected, atol=1e-6)


def test_pseudo_labels_of_an_ensemble_are_chosen_at_temperature_1_whatever_their_own():
    teachers, temperature = [linear(1), linear(2)], 4.0
    logits = [teacher.predict(X, verbose=0) for teacher in teachers]
    plain = np.mean([softmax(each) for each in logits], axis=0)
    soft = np.mean([softmax(each / temperature) for each in logits], axis=0)
    threshold = float(np.median(plain.max(-1)))
    assert np.sum(plain.max(-1) >= threshold) == len(X) / 2  # another half by the probabilities at T = 4:
    at_4 = np.mean([each / temperature for each in logits], axis=0)
    assert np.any((softmax(at_4 * temperature).max(-1) >= threshold) != (plain.max(-1) >= threshold))
    _, y, kept = stages.soft_labels(teachers, X, threshold, temperature=temperature)
    np.testing.assert_array_equal(kept, plain.max(-1) >= threshold)
    np.testing.assert_allclose(y, soft[kept], atol=1e-6)


def test_a_student_of_pseudo_labels_is_one_fitted_on_them(tmp_path):
    student, twin, teacher = mlp(1), mlp(1), linear(5)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    common = {"compile_arguments": {"optimizer": "sgd", "loss": loss}, "folder": tmp_path}
    common["fit_arguments"] = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}
    trained, record = stages.pseudo_label(teacher, X, 0.5, student, labeled=(X[:3], Y[:3]), **common)
    x, y, _ = stages.soft_labels(teacher, X, 0.5, labeled=(X[:3], Y[:3]))
    twin.compile("sgd", loss)
    twin.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    assert_same(trained.get_weights(), twin.get_weights(), 1e-6)
    assert record[0].epochs == 2
    assert_same(keras.models.load_model(record[0].path).get_weights(), trained.get_weights())
    with pytest.raises(ValueError, match="without .'x'"):
        stages.pseudo_label(teacher, X, 0.5, student, **{**common, "fit_arguments": {"x": X}})


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_soft_labels_refuse_a_threshold_that_is_no_probability(threshold):
    with pytest.raises(ValueError, match=f"from 0 to 1.*threshold={threshold}"):
        stages.soft_labels(linear(1), X, threshold)


def test_soft_labels_refuse_a_temperature_that_is_not_above_0():
    with pytest.raises(ValueError, match="temperature"):
        stages.soft_labels(linear(1), X, temperature=0.0)


def test_soft_labels_warn_the_caller_of_a_teacher_that_seems_to_output_probabilities():
    model = linear(1)
    with pytest.warns(UserWarning, match="look like probabilities.*taken for logits") as caught:
        stages.soft_labels(lambda x: tf.nn.softmax(model(x)), batch(32)[0])
    assert [each.filename for each in caught] == [__file__]


def test_a_teacher_without_confident_predictions_is_an_error():
    with pytest.raises(ValueError, match="sure of no example"):
        stages.soft_labels(linear(1), 1e-3 * X, 0.999)


def test_a_folder_of_another_plan_is_refused_and_unchanged(tmp_path):
    stages.teacher_assistants(mlp(1), [], named(3, "small"), **arguments(1, tmp_path))
    kept = (tmp_path / "1-small" / "done.json").read_bytes()
    with pytest.raises(ValueError, match="planned otherwise"):
        stages.teacher_assistants(mlp(1), [], named(3, "small"), **arguments(2, tmp_path))
    assert (tmp_path / "1-small" / "done.json").read_bytes() == kept


def test_a_finished_stage_is_loaded(tmp_path):
    first, record = stages.teacher_assistants(mlp(1), [], named(3, "small"), **arguments(2, tmp_path))
    second, again = stages.teacher_assistants(mlp(1), [], named(3, "small"), **arguments(2, tmp_path))
    assert_same(second.get_weights(), first.get_weights())
    assert again[0].seconds == record[0].seconds
    assert again[0].logs == record[0].logs
    assert_same(keras.models.load_model(again[0].path).get_weights(), first.get_weights())


def test_a_model_that_cannot_be_saved_is_found_before_any_work(tmp_path):
    class Plain(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.scores = layer

        def call(self, x):
            return self.scores(x)

    student = Plain(dense(3, 1))
    student(X)
    student.get_config = lambda: (_ for _ in ()).throw(NotImplementedError("no config"))
    with pytest.raises(NotImplementedError):
        stages.refine(student, **arguments(1, tmp_path))


def test_arguments_that_a_stage_cannot_take_are_named():
    common = arguments()
    common["fit_arguments"]["validation_split"] = 0.1
    with pytest.raises(ValueError, match="validation_split"):
        stages.refine(mlp(1), **common)
    common["fit_arguments"] = {"x": iter([(X, Y)])}
    with pytest.raises(ValueError, match="read again"):
        stages.born_again(lambda: named(3, "a"), 1, **common)


PIPELINES = ("teacher_assistants", "born_again", "mutual", "self_distillation", "pseudo_label", "refine")


@pytest.mark.parametrize("name", PIPELINES)
def test_the_seed_of_a_pipeline_is_0_by_default(name):
    assert inspect.signature(getattr(stages, name)).parameters["seed"].default == 0


def run_until_done(folder, *points) -> int:
    """Run the script again until it ends well; return how often it was killed."""
    for kills in range(len(points) + 1):
        run = subprocess.run([sys.executable, "-m", "tests.interrupted", folder, *points], capture_output=True)
        if run.returncode == 0:
            return kills
        assert run.returncode == -9, run.stderr.decode()[-2000:]
    raise AssertionError("killed more often than requested")


@pytest.mark.one_in(2, group="kills")
@pytest.mark.slow
def test_stages_killed_at_their_boundaries_and_within_end_as_if_they_had_not_been(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert run_until_done(whole) == 0
    points = ["1:epoch_1", "1:train_end", "2:train_begin", "2:epoch_0", "3:epoch_0", "3:epoch_1"]
    assert run_until_done(killed, *points) == len(points)
    with np.load(whole / "weights.npz") as expected, np.load(killed / "weights.npz") as received:
        assert_same([received[name] for name in received], [expected[name] for name in expected], 1e-6)
    epochs = collections.Counter((killed / "epochs.txt").read_text().split())
    # The epochs in which it was killed are run twice; no other is. Stage 3 is a refinement.
    once = {f"{stage}:{epoch}": 1 for stage in "123" for epoch in "012"}
    assert epochs == {**once, "1:1": 2, "2:0": 2, "3:0": 2, "3:1": 2}
