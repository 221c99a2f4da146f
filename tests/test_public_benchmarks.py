"""The parts of examples/public: networks as large as the papers', their optimizers and batches, tables, kills."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import f1_score

from tests import references

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "public"


@pytest.fixture
def module(monkeypatch):
    """Import a module of the folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return __import__


def trainable(model):
    return sum(int(np.prod(each.shape)) for each in model.trainable_variables)


# Weights by hand: a convolution has size**2 * inputs * outputs, a normalisation 2 for each channel.


def of_resnet(depth, widths):
    total, before = 9 * 3 * widths[0] + 2 * widths[0], widths[0]
    for filters in widths[1:]:
        for _ in range((depth - 2) // 6):
            total += 9 * filters * (before + filters) + 4 * filters
            total += before * filters + 2 * filters if before != filters else 0
            before = filters
    return total + 100 * (before + 1)


def of_wide_resnet(depth, factor):
    total, before = 9 * 3 * 16, 16
    for filters in (16 * factor, 32 * factor, 64 * factor):
        for _ in range((depth - 4) // 6):
            total += 2 * before + 9 * before * filters + 2 * filters + 9 * filters**2
            total += before * filters if before != filters else 0
            before = filters
    return total + 2 * before + 100 * (before + 1)


def of_shuffle_v1():
    total, before = 3 * 24 + 48, 24
    for filters, blocks in ((240, 4), (480, 8), (960, 4)):
        for block in range(blocks):
            outputs = filters - before if block == 0 else filters
            middle, groups = outputs // 4, 1 if before == 24 else 3
            total += before * middle // groups + 9 * middle + middle * outputs // 3 + 4 * middle + 2 * outputs
            before = filters
    return total + 100 * (before + 1)


def of_shuffle_v2():
    total, before = 3 * 24 + 48, 24
    for filters, blocks in ((116, 3), (232, 7), (464, 3)):
        half = filters // 2
        total += 9 * before + 2 * before + before * half + 2 * half
        total += before * half + 2 * half + 9 * half + 2 * half + half**2 + 2 * half
        total += blocks * (half**2 + 2 * half + 9 * half + 2 * half + half**2 + 2 * half)
        before = filters
    return total + before * 1024 + 2 * 1024 + 100 * 1025


NETWORKS = {
    "resnet32x4": (of_resnet(32, (32, 64, 128, 256)), "7.43", 32),
    "resnet8x4": (of_resnet(8, (32, 64, 128, 256)), "1.23", 32),
    "wrn_40_2": (of_wide_resnet(40, 2), "2.26", 32),
    "wrn_16_2": (of_wide_resnet(16, 2), "0.70", 32),
    "shuffle_v1": (of_shuffle_v1(), None, 16),
    "shuffle_v2": (of_shuffle_v2(), None, 16),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_weights_the_stages_and_the_name_of_the_papers(name, module):
    expected, millions, side = NETWORKS[name]
    network = module("cifar_networks").NETWORKS[name](100)
    assert trainable(network) == expected and network.name == name
    assert millions in (None, f"{expected / 1e6:.2f}")
    for stage in range(3):
        assert network.get_layer(f"stage_{stage + 1}").output.shape[1:3] == (side >> stage, side >> stage)
    assert network.get_layer("pooled").output is network.get_layer("logits").input


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "shuffle_v1", "shuffle_v2"])
def test_a_network_is_saved_as_it_is(name, module, tmp_path):
    network = module("cifar_networks").NETWORKS[name](10)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    network.save(tmp_path / "network.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "network.keras")(x), network(x))


def test_channels_are_dealt_out_to_all_groups(module):
    x = np.arange(6.0).reshape(1, 1, 1, 6)  # of three groups: 0 1, 2 3, 4 5
    np.testing.assert_array_equal(module("cifar_networks").shuffled(x, 3)[0, 0, 0], [0, 2, 4, 1, 3, 5])


def test_a_convolution_in_groups_is_one_in_each(module):
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 6)).astype("float32")
    inputs = keras.Input((2, 2, 6))
    model = keras.Model(inputs, module("cifar_networks").grouped(inputs, 9, 3))
    kernels = [np.asarray(each[0, 0], "float64") for each in model.get_weights()]
    expected = np.concatenate([x[..., 2 * n : 2 * n + 2] @ kernel for n, kernel in enumerate(kernels)], axis=-1)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)


def test_strides_pad_both_sides(module):
    # Of four pixels, padded by one, a stride of 2 reads pixels -1 to 1, and 1 to 3.
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, module("cifar_networks").convolved(inputs, 1, 3, 2))
    model.set_weights([np.ones((3, 3, 1, 1))])
    np.testing.assert_allclose(model(np.ones((1, 4, 4, 1)))[0, ..., 0], [[4, 6], [6, 9]])


# Optimizers


def by_hand(w, gradients, rates, l2, momentum):
    """SGD of PyTorch: v = momentum * v + g + l2 * w, then w -= rate * v; v in Keras's form, times the learning rate."""
    v = np.zeros_like(w)
    for gradient, rate in zip(gradients, rates, strict=True):
        v = momentum * v - rate * (gradient + l2 * w)
        w = w + v
    return w


def after(optimizer, w, gradients):
    variable = keras.Variable(w, dtype="float64")
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    return keras.ops.convert_to_numpy(variable)


def test_weight_decay_is_a_penalty_that_goes_through_the_momentum(module):
    random = np.random.default_rng(0)
    w, gradients = random.normal(size=5), random.normal(size=(6, 5))
    optimizers = module("paper_optimizers")
    made = optimizers.CoupledSGD(0.05, l2=0.3)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    expected = by_hand(w, gradients, [0.05] * 6, 0.3, 0.9)
    for each in (made, again):
        np.testing.assert_allclose(after(each, w, gradients), expected, rtol=1e-6)
    velocity, torch = np.zeros(5), w
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient + 0.3 * torch
        torch = torch - 0.05 * velocity
    np.testing.assert_allclose(expected, torch, rtol=1e-12)
    decoupled = after(keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.3), w, gradients)
    assert np.max(np.abs(decoupled - expected)) > 0.01


def test_all_weights_decay_under_a_distiller_too(module):
    inputs = keras.Input((2,))
    student = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Dense(2)(inputs)))
    import keras_kd as kd

    distiller = kd.Distiller(student=student, teacher=lambda x: tf.zeros_like(x))
    before = student.get_weights()
    distiller.compile(module("paper_optimizers").CoupledSGD(0.5, l2=0.1), alpha=1.0, jit_compile=False)
    x = np.zeros((4, 2), "float32")  # a constant output: no gradient reaches anything but beta, which is 0 already
    distiller.fit(x, epochs=1, verbose=0)
    for old, new in zip(before[:3], student.get_weights()[:3], strict=True):  # kernel, bias, gamma
        np.testing.assert_allclose(new, 0.95 * old, atol=1e-6)


def test_a_learning_rate_goes_down_after_an_epoch(module):
    rate = module("paper_optimizers").steps_down(0.5, 10, (2, 3))
    found = [float(rate(step)) for step in (0, 19, 20, 29, 30, 99)]
    np.testing.assert_allclose(found, [0.5, 0.5, 0.05, 0.05, 0.005, 0.005], rtol=1e-5)


def test_a_learning_rate_goes_up_and_down_in_straight_lines(module):
    rate = module("paper_optimizers").LinearDecay(2.0, steps=40, warmup=0.25)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    for each in (rate, again):
        np.testing.assert_allclose([float(each(step)) for step in (0, 5, 10, 25, 40, 50)], [0, 1, 2, 1, 0, 0])


def test_biases_and_norms_do_not_decay_in_the_fine_tuning_of_bert(module):
    optimizer = module("paper_optimizers").BertAdam(0.1, weight_decay=0.5)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    variables = [keras.Variable(np.ones(2), name=name) for name in ("kernel", "bias", "gamma", "beta")]
    optimizer.build(variables)
    optimizer.apply([keras.ops.zeros(2)] * 4)
    found = [float(each[0]) for each in variables]
    np.testing.assert_allclose(found, [0.95, 1, 1, 1])


# Objectives


@pytest.mark.parametrize("student", ["resnet8x4", "wrn_16_2"])
def test_labels_and_teacher_weigh_as_in_the_papers_code(student, module):
    import keras_kd as kd

    cifar100 = module("cifar100")
    models = [keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, bias_initializer="normal")]) for _ in range(2)]
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)).astype("float32"), random.integers(0, 5, 8)
    s, t = (np.asarray(model(x), "float64") for model in models)
    labels = -np.mean((s - np.log(np.sum(np.exp(s), axis=-1, keepdims=True)))[np.arange(8), y])
    beta = 6.0 if student == "wrn_16_2" else 8.0
    decoupled = 16 * np.mean(references.decoupled_kl(s / 4, t / 4, y, target_weight=1.0, non_target_weight=beta))
    expected = {
        "kd": 0.1 * labels + 0.9 * 16 * np.mean(references.kl_divergence(s / 4, t / 4)),
        "dkd": labels + decoupled,
    }
    for method, value in expected.items():
        made = kd.Distiller(student=models[0], teacher=models[1], terms=cifar100.TERMS[method](student, 10))
        made.compile("sgd", cifar100.LOSS, run_eagerly=True, **cifar100.weights(method))
        received = []
        for step in (0, 100, 1000):
            made.optimizer.iterations.assign(step)
            received.append(float(made.objective(x, y)["loss"]))
        assert received[2] == pytest.approx(value, rel=1e-5)
        half = labels + decoupled / 2 if method == "dkd" else value  # it grows for 20 epochs, here of 10 steps
        assert received[1] == pytest.approx(half, rel=2e-2)


# Batches


def test_an_image_is_moved_and_mirrored(module):
    images = module("cifar_images")
    x = np.random.default_rng(0).integers(1, 255, (64, 32, 32, 3)).astype("uint8")
    received = images.cut_and_mirrored(tf.constant(x), tf.constant([3, 4])).numpy()
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    places = []
    for image, found in zip(padded, received, strict=True):
        windows = {(a, b): image[a : a + 32, b : b + 32] for a in range(9) for b in range(9)}
        seen = {0: found.tobytes(), 1: found[:, ::-1].tobytes()}
        hits = [(*at, m) for at, each in windows.items() for m in (0, 1) if each.tobytes() == seen[m]]
        assert len(hits) == 1
        places += hits
    rows, columns, mirrored = map(np.array, zip(*places, strict=True))
    assert set(rows) == set(columns) == set(range(9)) and 16 < sum(mirrored) < 48
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.4 and abs(np.corrcoef(rows, mirrored)[0, 1]) < 0.4


def test_batches_are_the_same_for_a_seed_and_others_in_each_epoch(module):
    images = module("cifar_images")
    part = images.stand_in(20, 4).train
    epochs = [[(x.numpy(), y.numpy()) for x, y in data] for data in [images.batches(part, 8, 1)] for _ in range(2)]
    again = [(x.numpy(), y.numpy()) for x, y in images.batches(part, 8, 1)]
    assert [len(y) for _, y in again] == [8, 8, 4]
    for (x, y), (x_again, y_again) in zip(epochs[0], again, strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)
    ys = [np.concatenate([y for _, y in epoch]) for epoch in epochs]
    assert sorted(ys[0]) == sorted(part[1]) and list(ys[0]) != list(ys[1])
    first = next(iter(images.batches(tuple(each[:1] for each in part), 8, 2)))[0]
    assert np.any(first != next(iter(images.batches(tuple(each[:1] for each in part), 8, 1)))[0])
    continued = images.batches(part, 8, 1)
    next(iter(continued))  # as `stages` passes over the epochs that were run before a kill
    for (x, _), (x_again, _) in zip(epochs[1], continued, strict=True):
        np.testing.assert_array_equal(x, x_again)


def test_images_of_the_mean_become_zero(module):
    images = module("cifar_images")
    x = np.array(images.MEAN)[None, None, None] * 255 * np.ones((2, 32, 32, 1))
    np.testing.assert_allclose(images.normalised(x + 255 * np.array(images.DEVIATION)), np.ones_like(x), atol=1e-5)


# What is published, and tables


def test_every_published_number_has_a_source_and_a_network(module):
    published, networks = module("published"), module("cifar_networks").NETWORKS
    for pair, figures in published.CIFAR_100.items():
        assert set(pair) <= set(networks) and {"teacher", "alone", "kd", "crd"} <= set(figures)
    figures = [
        each for table in (published.CIFAR_100, published.GLUE) for row in table.values() for each in row.values()
    ]
    assert len(figures) > 50 and all(each.source and 0 < float(each.value.split("/")[0]) < 100 for each in figures)
    assert set(published.GLUE) == set(module("glue_texts").TASKS)


def test_a_table_has_what_was_measured_beside_what_is_published(module):
    published = module("published")
    known = {"kd": published.Figure("74.92", "a table"), "teacher": published.Figure("75.61", "another")}
    assert published.beside({"kd": [70.0, 72.0], "mine": [60.0]}, known).splitlines() == [
        "         measured here  seeds  published",
        "kd        71.00 ± 1.41      2  74.92 [1]",
        "mine             60.00      1",
        "teacher                        75.61 [2]",
        "",
        "[1] a table",
        "[2] another",
    ]


def test_f1_is_that_of_scikit_learn(module):
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 2, (2, 50))
    texts = module("glue_texts")
    assert texts.score("f1", labels, predicted) == pytest.approx(100 * f1_score(labels, predicted))
    assert texts.score("accuracy", labels, predicted) == pytest.approx(100 * np.mean(labels == predicted))
    assert texts.score("f1", np.zeros(3, int), np.zeros(3, int)) == 0.0


COLUMNS = {
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "mnli": ("premise", "hypothesis"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_task_has_the_columns_of_its_data_set(name, module):
    import tensorflow_datasets as tfds

    task = module("glue_texts").TASKS[name]
    features = tfds.builder(f"glue/{name}").info.features
    assert set(task.columns) == set(features) - {"label", "idx"} and task.classes == features["label"].num_classes
    assert task.columns == COLUMNS[name]  # in the order of BERT's own code


def test_the_stand_in_has_the_form_of_the_task(module):
    texts = module("glue_texts").stand_in("mnli", 5)
    assert list(texts) == ["train", "validation_matched", "validation_mismatched"]
    for (premises, hypotheses), y in texts.values():
        assert len(premises) == len(hypotheses) == 5 and set(y) <= {0, 1, 2}
        good = module("glue_texts").GOOD
        assert [sum(word in good for word in text.split()) for text in hypotheses] == list(y)


# A kill


def started(script, folder):
    command = [sys.executable, str(FOLDER / script), "--smoke", "--output", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("script", ["cifar100.py", "glue.py"])
def test_a_benchmark_that_is_killed_goes_on_and_prints_its_table(script, tmp_path):
    killed = started(script, tmp_path)
    try:
        while not list(tmp_path.rglob("kd*/seed-0/*/state.npz")):  # the student's first epoch under a teacher
            assert killed.poll() is None, killed.communicate()[0]
            time.sleep(0.05)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    done = {path: path.read_text() for path in tmp_path.rglob("record.json")}
    again = started(script, tmp_path)
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "measured here" in printed and "published" in printed, printed
    assert done and all(path.read_text() == text for path, text in done.items())
    found = next(tmp_path.rglob("kd*/seed-0/record.json"))
    assert json.loads(found.read_text())["epochs"] == 2
    epochs = [line.split(",")[0] for line in (found.parent / "log.csv").read_text().splitlines()]
    assert epochs[0] == "epoch" and epochs[-1] == "1" and set(epochs[1:]) == {"0", "1"}
