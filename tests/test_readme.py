"""README's first lines print three accuracies, and each row of its table "You have, you type" trains."""

import html
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

import keras_kd as kd
from tests import completions_server, tasks
from tests.pages import ROOT, blocks

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TABLE = re.search(r"## You have, you type\n.*?\n\|---\|---\|\n(.*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
ROWS = dict(line.strip("| ").split(" | ", 1) for line in (TABLE[1] if TABLE else "").splitlines())
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 4)).astype("float32")
Y = (X @ RANDOM.normal(size=(4, 3))).argmax(-1)


@pytest.mark.slow
def test_the_first_lines_print_three_accuracies_of_which_the_distilled_is_above_the_students_alone(tmp_path):
    first = blocks("README.md")[0].code
    seeded = f"import keras\nkeras.utils.set_random_seed(0)\n{first}"
    run = subprocess.run([sys.executable, "-c", seeded], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = {
        name: float(share) for name, share in re.findall(r"^(teacher|alone|distilled) +([\d.]+)%$", run.stdout, re.M)
    }
    assert found["teacher"] > found["distilled"] > found["alone"] > 70
    assert (tmp_path / "student/1/saved_model.pb").is_file()


def small(units=3, activation=None, features=4):
    return keras.Sequential([keras.Input((features,)), layers.Dense(8, "relu"), layers.Dense(units, activation)])


def fitted(model, x, y, loss, epochs=20):
    model.compile(keras.optimizers.Adam(0.02), loss)
    model.fit(x, y, epochs=epochs, verbose=0)
    return model


def a_keras_model():
    return {"student": small(), "model": fitted(small(), X, Y, CROSS_ENTROPY)}


def a_model_of_keras_applications():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)
    x = RANDOM.integers(0, 256, (16, 32, 32, 3)).astype("float32")
    layer = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3, 2), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    student = keras.Sequential([keras.Input((32, 32, 3)), *layer])
    return {"student": student, "model": model, "x": x, "y": Y[:16]}


def a_kerashub_classifier():
    texts, labels = tasks.reviews()
    return {"small_task": tasks.classifier(1), "large_task": tasks.classifier(2), "x": texts, "y": labels}


def a_causal_language_model():
    texts, _ = tasks.reviews()
    return {"small_task": tasks.causal_lm(1), "large_task": tasks.causal_lm(2), "x": texts, "y": None}


def prompts_and_answers():
    def made(seed, units):
        keras.utils.set_random_seed(seed)
        ids, mask = keras.Input((None,), dtype="int32", name="token_ids"), keras.Input((None,), name="padding_mask")
        hidden = layers.Conv1D(units, 3, padding="causal", activation="tanh")(layers.Embedding(9, units)(ids))
        return keras.Model({"token_ids": ids, "padding_mask": mask}, layers.Dense(9)(hidden))

    prompts = [list(RANDOM.integers(1, 9, 3)) for _ in range(32)]
    answers = [list(np.repeat(each, 2)) for each in prompts]
    x, y, weights = kd.language.completions(prompts, answers, length=16, end=0)
    model = made(1, 16)
    model.compile(keras.optimizers.Adam(0.02), CROSS_ENTROPY)
    model.fit(x, y, sample_weight=weights, epochs=20, verbose=0)
    return {"student": made(0, 4), "model": model, "prompts": prompts, "answers": answers}


def trees():
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    forest, boosted = RandomForestClassifier(10, random_state=0).fit(X, Y), HistGradientBoostingClassifier().fit(X, Y)
    return {"student": small(), "forest": forest, "boosted": boosted}


def a_pipeline():
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    df = pd.DataFrame({"amount": X[:, 0], "age": X[:, 1], "country": np.array(["de", "fr"])[(X[:, 2] > 0).astype(int)]})
    encoder = make_column_transformer((OneHotEncoder(), ["country"]), remainder="passthrough")
    pipeline = make_pipeline(encoder, RandomForestClassifier(10, random_state=0)).fit(df, Y)
    inputs = {name: keras.Input((1,), name=name) for name in ("amount", "age")}
    student = keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(list(inputs.values()))))
    return {"student": student, "pipeline": pipeline, "df": df}


def an_onnx_file():
    kd.export(fitted(small(), X, Y, CROSS_ENTROPY), "files", formats=("onnx",), fresh=False)
    next(pathlib.Path("files").rglob("*.onnx")).rename("teacher.onnx")
    return {"student": small()}


def a_litert_file():
    kd.export(fitted(small(), X, Y, CROSS_ENTROPY), "files", formats=("litert",), fresh=False)
    next(pathlib.Path("files").rglob("*.tflite")).rename("teacher.tflite")
    return {"student": small()}


def one_sigmoid_unit():
    y = Y == 0
    model = fitted(small(1, "sigmoid"), X, y, "binary_crossentropy")
    return {"student": small(1, "sigmoid"), "model": model, "y": y, "loss": "binary_crossentropy"}


def several_labels():
    y = np.eye(3)[Y]
    model = fitted(small(3, "sigmoid"), X, y, "binary_crossentropy")
    return {"student": small(3, "sigmoid"), "model": model, "y": y, "loss": "binary_crossentropy"}


def values():
    y = X[:, :1] * 2 + 1
    return {"student": small(1), "model": fitted(small(1), X, y, "mse"), "y": y, "loss": "mse"}


def a_detector():
    def made():
        x = keras.Input((4,))
        hidden = layers.Dense(8, "relu")(x)
        sizes = {"cls": 3, "box": 4}
        return keras.Model(
            x, {k: layers.Reshape((2, n), name=k)(layers.Dense(2 * n)(hidden)) for k, n in sizes.items()}
        )

    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    y = {"cls": np.stack([Y, np.where(Y > 0, Y, -1)], -1), "box": RANDOM.normal(size=(64, 2, 4)).astype("float32")}
    loss = {"cls": ignoring, "box": "mse"}
    return {"student": made(), "model": fitted(made(), X, y, loss), "y": y, "loss": loss}


def a_segmentation_model():
    def made():
        x = keras.Input((8, 8, 1))
        return keras.Model(
            x, layers.Conv2D(3, 1)(layers.Conv2D(4, 3, padding="same", activation="relu", name="map")(x))
        )

    x = RANDOM.normal(size=(16, 8, 8, 1)).astype("float32")
    y = (x[..., 0] > 0).astype(int)
    return {"student": made(), "model": fitted(made(), x, y, CROSS_ENTROPY), "x": x, "y": y}


def targets_on_disk():
    np.save("probabilities.npy", keras.ops.softmax(fitted(small(), X, Y, CROSS_ENTROPY)(X)))
    return {"student": small()}


def the_most_probable_classes():
    return {"student": small(10), "ids": np.argsort(-X, -1)[:, :2], "log_probabilities": np.log([[0.6, 0.3]] * 64)}


def a_language_model_behind_http():
    server = completions_server.shared()
    server.switch()
    tokens = RANDOM.integers(0, 8, (16, 6))
    inputs = keras.Input((None,), dtype="int32")
    student = keras.Model(inputs, layers.Dense(8)(layers.Embedding(8, 8)(inputs)))
    return {"student": student, "url": server.url, "x": tokens[:, :-1], "y": tokens[:, 1:]}


def a_teacher_for_each_kind():
    german, english = (fitted(small(), X[rows], Y[rows], CROSS_ENTROPY) for rows in (slice(32), slice(32, 64)))
    return {"student": small(), "german": german, "english": english, "kinds": np.arange(64) // 32}


MADE = {
    "a Keras model": a_keras_model,
    "a model of `keras.applications`": a_model_of_keras_applications,
    "a KerasHub classifier": a_kerashub_classifier,
    "a causal language model": a_causal_language_model,
    "prompts and answers": prompts_and_answers,
    "trees": trees,
    "a pipeline": a_pipeline,
    "an ONNX file": an_onnx_file,
    "a LiteRT": a_litert_file,
    "one sigmoid unit": one_sigmoid_unit,
    "several labels": several_labels,
    "values": values,
    "a detector": a_detector,
    "a segmentation model": a_segmentation_model,
    "targets on disk": targets_on_disk,
    "the k most probable classes": the_most_probable_classes,
    "a language model behind HTTP": a_language_model_behind_http,
    "a teacher for each kind": a_teacher_for_each_kind,
}


def code_of(cell):
    """Return the code of a cell: what stands in backticks, of which assignments alone run."""
    parts = re.findall(r"`([^`]*)`", html.unescape(cell))
    return "\n".join(part for part in parts if re.match(r"\w+(, \w+)* = ", part))


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("have", ROWS)
def test_each_row_trains(have, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    [made] = [function for start, function in MADE.items() if have.startswith(start)]
    names = {"kd": kd, "np": np, "keras": keras, "x": X, "y": Y, "loss": CROSS_ENTROPY, **made()}
    exec(code_of(ROWS[have]), names)
    distiller, loss = names["distiller"], names["loss"]
    distiller.compile(keras.optimizers.Adam(0.01), loss, temperature=2.0, alpha=0.9, jit_compile=False)
    given = {"sample_weight": names["weights"]} if "weights" in names else {}
    logs = distiller.fit(names["x"], names["y"], epochs=4, verbose=0, **given).history["distillation_loss"]
    assert logs[-1] < logs[0]


def test_the_table_has_the_rows_that_are_tested():
    assert len(ROWS) == len(MADE)
