"""The direction of a metric is the one that it declares, as in Keras's own callbacks; names are ignored."""

import inspect
import re

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import stages
from keras_kd._internal.metric_directions import direction, worth
from tests.benchmarks import LOSS, arguments, net, part
from tests.models import Scaled, linear, mlp, numbers

ARGUMENTS = {
    "MeanIoU": {"num_classes": 3},
    "IoU": {"num_classes": 3, "target_class_ids": [0]},
    "OneHotIoU": {"num_classes": 3, "target_class_ids": [0]},
    "OneHotMeanIoU": {"num_classes": 3},
    "BinaryIoU": {},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "MeanMetricWrapper": {"fn": lambda y_true, y_pred: y_pred},
}
KERAS = [
    name
    for name, value in vars(keras.metrics).items()
    if inspect.isclass(value) and issubclass(value, keras.metrics.Metric) and value is not keras.metrics.Metric
]


@keras.saving.register_keras_serializable("tests")
def dice(y_true, y_pred):
    return keras.ops.mean(y_pred, axis=-1)


@keras.saving.register_keras_serializable("tests")
class Delay(keras.metrics.Mean):
    """A metric of a user who declares, as Keras's do, that less is better."""

    def __init__(self, name="accuracy_of_the_clock", dtype=None):
        super().__init__(name, dtype)
        self._direction = "down"

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(keras.ops.mean(y_pred), None)


def compiled(metrics, model=None, **more) -> keras.Model:
    model = linear(1) if model is None else model
    model.compile("sgd", LOSS, metrics=metrics, **more)
    return model


def found(model, name) -> str:
    return direction(model, model, name)


@pytest.mark.parametrize("name", KERAS)
def test_every_metric_of_keras_has_the_direction_that_its_callbacks_find(name):
    model = compiled([getattr(keras.metrics, name)(**ARGUMENTS.get(name, {}), name="watched")])
    stopping = keras.callbacks.EarlyStopping("val_watched")
    stopping.set_model(model)
    model._compile_metrics.build(*[keras.KerasTensor((None, 3))] * 2)
    try:
        stopping._set_monitor_op()
    except ValueError:
        with pytest.raises(ValueError, match="Received: 'val_watched' with mode='auto'. Give mode='max'"):
            found(compiled(model._compile_metrics._user_metrics), "val_watched")
    else:
        expected = {keras.ops.greater: "max", keras.ops.less: "min"}[stopping.monitor_op]
        assert found(compiled(model._compile_metrics._user_metrics), "val_watched") == expected


@pytest.mark.parametrize(
    "metric, name, expected",
    [
        (keras.metrics.MeanIoU(3, sparse_y_pred=False), "mean_io_u", "max"),
        (keras.metrics.R2Score(), "r2_score", "max"),
        (keras.metrics.CosineSimilarity(), "cosine_similarity", "max"),
        (kd.metrics.Agreement(), "agreement", "max"),
        (keras.metrics.SparseTopKCategoricalAccuracy(2, name="hit_rate"), "hit_rate", "max"),
        (keras.metrics.AUC(curve="PR", name="pr"), "pr", "max"),
        (keras.metrics.MeanAbsoluteError(name="vaccine_loss"), "vaccine_loss", "min"),
        (keras.metrics.MeanSquaredError(name="f1_of_the_day"), "f1_of_the_day", "min"),
        (kd.metrics.ExpectedCalibrationError(), "expected_calibration_error", "min"),
        (Delay(), "accuracy_of_the_clock", "min"),
        ("mse", "mse", "min"),
        ("acc", "acc", "max"),
        (keras.losses.mean_squared_error, "mean_squared_error", "min"),
    ],
)
def test_a_direction_does_not_follow_from_a_name(metric, name, expected):
    model = compiled([metric, "accuracy"])
    assert found(model, name) == found(model, f"val_{name}") == expected
    assert found(compiled(None, weighted_metrics=[metric]), name) == expected


def test_losses_are_minimised():
    model = compiled(["accuracy"])
    assert found(model, "loss") == found(model, "val_loss") == "min"
    distiller = kd.Distiller(student=linear(1), teacher=linear(2))
    distiller.compile("sgd", LOSS, metrics=["accuracy"])
    for name in ("loss", "val_student_loss", "distillation_loss"):
        assert direction(distiller, distiller.student, name) == "min"
    assert direction(distiller, distiller.student, "val_accuracy") == "max"


@pytest.mark.parametrize("name", ["dice", "accuracy", "val_f1", "student_loss", "rain_loss"])
def test_a_direction_that_no_metric_declares_has_to_be_given(name):
    with pytest.raises(ValueError, match=rf"\['loss', 'mae'\]. Received: '{name}' with mode='auto'. Give mode='max'"):
        found(compiled([dice, "mae"]), name)
    assert direction(compiled([dice]), linear(1), name, "max") == "max"
    with pytest.raises(ValueError, match="Expected `mode` to be one of"):
        direction(compiled([dice]), linear(1), name, "larger")


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_metrics_of_several_outputs_are_found_by_their_names_in_the_logs(kind):
    inputs = keras.Input((4,))
    # The keys of a dict are the names of its outputs, whatever their layers are called.
    suffix = "_scores" if kind == "dict" else ""
    outputs = {name: keras.layers.Dense(3, name=name + suffix)(inputs) for name in ("rain", "snow")}
    model = keras.Model(inputs, outputs if kind == "dict" else list(outputs.values()))
    metrics = {"rain": ["accuracy", HIT["metrics"][0]], "snow": [Delay()]}
    model.compile("sgd", {"rain": LOSS, "snow": LOSS}, metrics=metrics)
    received = {name: found(model, name) for name in ("rain_accuracy", "rain_hit_rate", "rain_loss", "snow_loss")}
    assert received == {"rain_accuracy": "max", "rain_hit_rate": "max", "rain_loss": "min", "snow_loss": "min"}
    assert found(model, "val_snow_accuracy_of_the_clock") == "min"
    x, y = part(0)
    y = dict.fromkeys(outputs, y)
    logs = model.evaluate(x, y if kind == "dict" else list(y.values()), verbose=0, return_dict=True)
    assert set(received) <= set(logs)


def test_a_student_without_a_graph_has_metrics_too():
    model = Scaled()
    model(np.zeros((1, 4)))
    assert found(compiled(["accuracy", "mse"], model), "val_accuracy") == "max"
    model = compiled({"rain": ["accuracy"]}, model)
    with pytest.raises(ValueError, match="mode='auto'"):
        found(model, "rain_accuracy")


def test_finding_a_direction_leaves_the_metrics_unchanged():
    metric = keras.metrics.SparseCategoricalAccuracy(name="right")
    model = compiled(["accuracy", metric])
    found(model, "accuracy")
    x, y = part(0)
    logs = model.evaluate(x, y, verbose=0, return_dict=True)  # class ids: "accuracy" is of another kind than was tried
    np.testing.assert_allclose(logs["accuracy"], np.mean(np.argmax(model.predict(x, verbose=0), -1) == y), rtol=1e-6)
    assert logs["accuracy"] == logs["right"] == float(metric.result())


# What chooses by it.

HIT = {"metrics": [keras.metrics.SparseTopKCategoricalAccuracy(1, name="hit_rate")]}


def settings(**more) -> dict:
    return {"optimizer": keras.optimizers.Adam(0.05), "loss": LOSS, "run_eagerly": True, **HIT, **more}


@pytest.mark.slow
def test_a_benchmark_stars_the_recipe_that_learns(tmp_path):
    recipes = {"learns": {}, "cannot": {"optimizer": keras.optimizers.SGD(0.0)}}
    more = {"recipes": recipes, "label_smoothing": None, "seeds": 1, "epochs": 4, "compile_arguments": settings()}
    result = kd.benchmark(**arguments(tmp_path, **more))
    scores = {run.recipe: run.validation["hit_rate"] for run in result.runs}
    assert scores["learns"] > scores["cannot"] + 0.1
    best = max(scores, key=scores.get)
    assert result.best().recipe == best and [row.recipe for row in result.rows() if row.chosen] == [best]
    assert result.mode == kd.experiments.BenchmarkResult.load(tmp_path).mode == "max"


@pytest.mark.slow
def test_a_folder_has_the_metric_of_the_last_call(tmp_path):
    more = {"label_smoothing": None, "seeds": 1, "epochs": 1, "compile_arguments": settings()}
    kd.benchmark(**arguments(tmp_path, **more))
    result = kd.benchmark(**arguments(tmp_path, metric="loss", **more))
    loaded = kd.experiments.BenchmarkResult.load(tmp_path)
    assert (loaded.metric, loaded.mode) == (result.metric, result.mode) == ("loss", "min")


def test_a_benchmark_and_a_search_require_a_mode_before_anything_is_trained(tmp_path):
    message = "Received: 'dice' with mode='auto'. Give mode='max'"
    more = {"compile_arguments": settings(metrics=[dice]), "metric": "dice"}
    with pytest.raises(ValueError, match=message):
        kd.benchmark(**arguments(tmp_path / "benchmark", **more))
    given = arguments(tmp_path / "tune", **more)
    for name in ("students", "test", "recipes", "seeds"):
        del given[name]
    with pytest.raises(ValueError, match=message):
        kd.tune(student=net(), **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "min"])
def test_a_refinement_keeps_the_best_by_the_metrics_own_direction(mode):
    x, y = part(0)
    student = net()
    common = {"fit_arguments": {"x": x, "y": y, "epochs": 4, "verbose": 0, "validation_data": (x, y)}}
    _, record = stages.refine(student, monitor="val_hit_rate", mode=mode, compile_arguments=settings(), **common)
    logs = record[0].logs
    assert logs["best"] > logs["before"] if mode == "auto" else logs["best"] <= logs["before"]


def test_a_refinement_requires_a_mode_before_the_student_changes():
    x, y = part(0)
    student = net()
    before = numbers(student)
    common = {"fit_arguments": {"x": x, "y": y, "verbose": 0, "validation_data": (x, y)}}
    with pytest.raises(ValueError, match="'val_dice' with mode='auto'"):
        stages.refine(student, monitor="val_dice", compile_arguments=settings(metrics=[dice]), **common)
    assert all(np.array_equal(a, b) for a, b in zip(before, numbers(student), strict=True))


class Diary(keras.callbacks.Callback):
    """Keep the student's weights after every epoch."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(numbers(self.model.student))


def watched(checkpoint, metrics, rate=0.3) -> tuple[list, dict]:
    """Train a Distiller on labels that its validation data contradict: what it learns makes it look worse."""
    x, y = part(0)
    distiller = kd.Distiller(student=mlp(1), teacher=mlp(2))
    distiller.compile(keras.optimizers.SGD(rate), LOSS, metrics=metrics, alpha=0.1)
    diary = Diary()
    history = distiller.fit(
        x, y, validation_data=(x, (y + 1) % 3), epochs=3, verbose=0, callbacks=[diary, checkpoint]
    ).history
    return diary.weights, history


@pytest.mark.slow
@pytest.mark.parametrize("name, best", [("val_hit_rate", np.argmax), ("val_student_loss", np.argmin)])
def test_the_checkpoint_of_a_student_is_its_best_epoch(name, best, tmp_path):
    path = tmp_path / "student.keras"
    weights, history = watched(kd.callbacks.StudentCheckpoint(path, name, save_best_only=True), HIT["metrics"])
    kept = keras.saving.load_model(path).get_weights()
    for received, expected in zip(kept, weights[int(best(history[name]))], strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.slow
def test_a_checkpoint_requires_a_mode_before_the_first_step_where_it_compares(tmp_path):
    path = str(tmp_path / "student.keras")
    steps = []
    checkpoint = kd.callbacks.StudentCheckpoint(path, "val_dice", save_best_only=True)
    checkpoint.on_train_batch_end = lambda batch, logs=None: steps.append(batch)
    with pytest.raises(ValueError, match=re.escape("'val_dice' with mode='auto'")):
        watched(checkpoint, [dice])
    assert not steps and not list(tmp_path.iterdir())
    watched(kd.callbacks.StudentCheckpoint(path, "val_dice"), [dice])
    assert (tmp_path / "student.keras").exists()


def test_nan_is_worse_than_any_number():
    for better, ordered in (("max", [float("nan"), -1.0, 2.0]), ("min", [float("nan"), 2.0, -1.0])):
        assert sorted([2.0, float("nan"), -1.0], key=lambda each: worth(each, better))[1:] == ordered[1:]


def test_a_refinement_of_a_student_that_has_diverged_chooses_a_finite_epoch():
    x, y = part(0)
    student = net()
    good = student.get_weights()
    student.set_weights([np.full_like(each, np.nan) for each in good])
    mend = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: student.set_weights(good))
    common = {"x": x, "y": y, "verbose": 0, "validation_data": (x, y), "callbacks": [mend]}
    still = settings(optimizer=keras.optimizers.SGD(0.0))
    refined, _ = stages.refine(student, compile_arguments=still, fit_arguments=common)
    assert all(np.array_equal(a, b) for a, b in zip(refined.get_weights(), good, strict=True))
