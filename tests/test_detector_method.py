"""RetinaNets of KerasHub as student and teacher: its own labels' loss, its own prediction, terms where it is sure."""

import importlib.util
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import losses, methods
from tests import references
from tests.models import mlp

keras_hub = pytest.importorskip("keras_hub")

SIZE, CLASSES, FORMAT = 32, 3, "xyxy"


def retinanet(filters=8, convolutions=0, seed=0, **changed):
    """Return a RetinaNet of two levels, whose heads have initial weights as in its paper."""
    keras.utils.set_random_seed(seed)
    size, classes = changed.pop("size", SIZE), changed.pop("classes", CLASSES)
    box_format = changed.pop("bounding_box_format", FORMAT)
    anchors = {"num_scales": 2, "aspect_ratios": [0.5, 1.0, 2.0], "anchor_size": 1.5, **changed}
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, filters, filters],
        stackwise_num_blocks=[1, 1, 1],
        stackwise_num_strides=[1, 2, 2],
        block_type="basic_block",
        image_shape=(size, size, 3),
    )
    pyramid = keras_hub.models.RetinaNetBackbone(encoder, 3, 4, use_p5=False, image_shape=(size, size, 3))
    scaled = keras_hub.layers.RetinaNetImageConverter(
        image_size=(size, size), scale=1 / 255, bounding_box_format=box_format
    )
    model = keras_hub.models.RetinaNetObjectDetector(
        pyramid,
        classes,
        bounding_box_format=box_format,
        anchor_generator=keras_hub.layers.AnchorGenerator(box_format, 3, 4, **anchors),
        pre_logits_num_conv_layers=convolutions,
        preprocessor=keras_hub.models.RetinaNetObjectDetectorPreprocessor(scaled),
        prediction_decoder=keras_hub.layers.NonMaxSuppression(box_format, from_logits=True, confidence_threshold=0.05),
    )
    random = np.random.default_rng(seed)
    for head, bias in ((model.classification_head, -1.0), (model.box_head, 0.0)):
        for weight in head.trainable_weights:
            weight.assign(random.normal(0.0, 0.02, weight.shape) if len(weight.shape) > 1 else 0.0 * weight + bias)
    return model


@pytest.fixture(scope="module")
def student():
    return retinanet()


@pytest.fixture(scope="module")
def teacher():
    return retinanet(filters=12, convolutions=1, seed=1)


def images(count=6, seed=0):
    """Return dim images with a bright rectangle each, its box and its class; no second object."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 60, (count, SIZE, SIZE, 3)).astype("float32")
    boxes, labels = np.full((count, 2, 4), -1.0, "float32"), np.full((count, 2), -1.0, "float32")
    for image, box, kind in zip(x, boxes, labels, strict=True):
        left, top = random.integers(0, 16, 2)
        box[0] = left, top, left + 14, top + 14
        kind[0] = random.integers(CLASSES)
        image[top : top + 14, left : left + 14, int(kind[0])] = 255
    return x, {"boxes": boxes, "labels": labels}


X, Y = images()


def label_losses():
    """Return the losses that KerasHub compiles a detector with."""
    return {
        "bbox_regression": keras.losses.Huber(reduction="sum"),
        "cls_logits": keras.losses.BinaryFocalCrossentropy(from_logits=True, reduction="sum"),
    }


def distiller(student, teacher, learned=None, rate=0.0, **arguments):
    terms = methods.detector(student, learned or teacher)
    made = kd.Distiller(student=student, teacher=teacher, terms=terms)
    made.compile(
        keras.optimizers.SGD(rate), label_losses(), run_eagerly=arguments.pop("run_eagerly", True), **arguments
    )
    return made


def read(model):
    """Return the logits, boxes and maps of a detector for the images, in float64."""
    x = model.preprocessor(X)
    maps = model.backbone(x, training=False)
    return {name: np.asarray(each, "float64") for name, each in {**model(x, training=False), **maps}.items()}


def test_each_part_equals_the_formula_on_what_both_models_output(student, teacher):
    parts = distiller(student, teacher, alpha=0.3).objective(X, Y)
    ours, theirs = read(student), read(teacher)
    expected = {
        "foreground_classes": references.foreground_kl(ours["cls_logits"], theirs["cls_logits"]),
        "foreground_boxes": references.foreground_huber(
            ours["bbox_regression"], (theirs["bbox_regression"], theirs["cls_logits"])
        ),
        "neck_P3": references.map_correlation(ours["P3"], theirs["P3"]),
        "neck_P4": references.map_correlation(ours["P4"], theirs["P4"]),
    }
    for name, value in expected.items():
        assert float(parts[name]) == pytest.approx(float(value), rel=1e-4), name
    assert float(parts["distillation_loss"]) == pytest.approx(sum(map(float, expected.values())), rel=1e-4)
    assert float(parts["student_loss"]) > 0
    loss = 0.3 * float(parts["distillation_loss"]) + 0.7 * float(parts["student_loss"])
    assert float(parts["loss"]) == pytest.approx(loss, rel=1e-4)


def test_weights_and_the_threshold_reach_their_terms(student, teacher):
    terms = methods.detector(student, teacher, class_weight=2.0, box_weight=3.0, neck_weight=4.0, threshold=0.7)
    assert [(term.name, term.weight) for term in terms] == [
        ("foreground_classes", 2.0),
        ("foreground_boxes", 3.0),
        ("neck_P3", 4.0),
        ("neck_P4", 4.0),
    ]
    assert terms[1].loss_arguments == {"threshold": 0.7}
    assert not any(term.soften for term in terms)  # a temperature would change which anchors count
    assert [term.loss for term in terms] == [
        losses.foreground_kl,
        losses.foreground_huber,
        *[losses.map_correlation] * 2,
    ]


@pytest.mark.slow
def test_at_alpha_0_the_student_learns_as_in_its_own_fit(teacher):
    alone, under = retinanet(), retinanet()
    under.set_weights(alone.get_weights())
    alone.compile(keras.optimizers.SGD(0.1), *label_losses().values(), run_eagerly=True)
    of_labels = distiller(under, teacher, rate=0.1, alpha=0.0)
    settings = {"batch_size": 3, "shuffle": False, "verbose": 0}
    ours, theirs = of_labels.fit(X, Y, **settings).history, alone.fit(X, Y, **settings).history
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-4, err_msg=name)
    for mine, other in zip(under.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    scores = of_labels.evaluate(X, Y, batch_size=6, verbose=0, return_dict=True)
    for name, value in alone.evaluate(X, Y, batch_size=6, verbose=0, return_dict=True).items():
        np.testing.assert_allclose(scores[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_graph_trains_as_eager_execution_does(teacher):
    histories, weights = [], []
    for eager in (True, False):
        student = retinanet()
        made = distiller(student, teacher, rate=0.1, run_eagerly=eager)
        histories.append(made.fit(X, Y, batch_size=3, shuffle=False, verbose=0).history)
        weights.append(student.get_weights())
    assert histories[0].keys() == histories[1].keys() and "cls_logits_loss" in histories[0]
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-3, err_msg=name)
    for eager, graph in zip(*weights, strict=True):
        np.testing.assert_allclose(graph, eager, atol=1e-4)


@pytest.mark.slow
def test_targets_in_memory_and_on_disk_are_those_of_the_live_teacher(student, teacher, tmp_path):
    # Nothing is learned at a rate of 0; batch statistics of the student move, so that each starts from the same.
    start = student.get_weights()
    found = []
    taps = list(dict.fromkeys(name for term in methods.detector(student, teacher) for name in term.teacher_names))
    cache = kd.TeacherCache(tmp_path / "cache", teacher, taps=taps, dtype="float32")
    cache.build(X, verbose=0)
    batches = tf.data.Dataset.from_tensor_slices((X, Y))
    joined = {"x": cache.join(batches).batch(6)}
    arrays = {"x": X, "y": Y, "batch_size": 6, "shuffle": False}
    ways = ((teacher, arrays), (kd.teachers.InMemory(teacher), arrays), (kd.teachers.Cached(cache), joined))
    for targets, data in ways:
        student.set_weights(start)
        history = distiller(student, targets, teacher).fit(**data, verbose=0).history
        found.append({name: values[0] for name, values in history.items()})
    student.set_weights(start)
    for each in found[1:]:
        assert each == pytest.approx(found[0], rel=1e-4)


def test_images_without_labels_teach_at_alpha_1(student, teacher):
    history = distiller(student, teacher, alpha=1.0).fit(X, batch_size=6, verbose=0).history
    assert "student_loss" not in history and history["foreground_classes"][0] > 0


@pytest.mark.slow
def test_a_check_before_training_reads_a_detectors_labels(student, teacher):
    report = distiller(student, teacher).check(X, Y)
    assert "teacher" in str(report)


def test_a_distiller_predicts_boxes_as_its_student_does(student, teacher):
    made = distiller(student, teacher)
    student.run_eagerly = True
    ours, theirs = made.predict(X, verbose=0), student.predict(X, verbose=0)
    assert set(ours) == {"boxes", "confidence", "labels", "num_detections"} and ours["num_detections"].max() > 1
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


LOADED = """
import sys
import keras, keras_hub, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/student.keras")
x, known = np.load(sys.argv[1] + "/x.npy"), np.load(sys.argv[1] + "/known.npz")
model.compile(run_eagerly=True)
found = model.predict(x, verbose=0)
for name in known:
    np.testing.assert_allclose(found[name], known[name], rtol=1e-4, atol=1e-4, err_msg=name)
assert not any(name.startswith("keras_kd") for name in sys.modules)
"""


@pytest.mark.slow
def test_a_students_file_predicts_the_same_in_a_process_without_keras_kd(teacher, tmp_path):
    student = retinanet()
    distiller(student, teacher, rate=0.01).fit(X, Y, batch_size=6, verbose=0)
    student.run_eagerly = True
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "known.npz", **student.predict(X, verbose=0))
    student.save(tmp_path / "student.keras")
    subprocess.run([sys.executable, "-c", LOADED, tmp_path], check=True, cwd=tmp_path, timeout=200)


@pytest.mark.slow
def test_a_student_is_exported_with_the_outputs_that_it_is_called_for(student, tmp_path):
    formats = ["saved_model"]
    formats += ["litert"] if importlib.util.find_spec("ai_edge_litert") else []
    formats += ["onnx"] if importlib.util.find_spec("tf2onnx") else []
    images = np.random.default_rng(0).uniform(0, 1, (4, SIZE, SIZE, 3)).astype("float32")
    report = kd.export(student, tmp_path / "detector", formats=formats, representative=images)
    assert [each.name.split()[0] for each in report.artefacts if each.passed] == formats
    loaded = tf.saved_model.load(str(tmp_path / "detector"))  # which has the variables
    received = loaded.serve(images)
    for name, expected in student(images, training=False).items():  # raw: no boxes are decoded, none suppressed
        np.testing.assert_allclose(received[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


REFUSED = {
    "other classes": ({"classes": 4}, "same classes.*student \\(None, 120, 3\\), teacher \\(None, 120, 4\\)"),
    "larger images": ({"size": 64}, "same anchors.*student \\(None, 120, 3\\), teacher \\(None, 480, 3\\)"),
    "more anchors": ({"num_scales": 3}, "same anchors.*student \\(None, 120, 3\\), teacher \\(None, 180, 3\\)"),
    "anchors of another size": ({"anchor_size": 2.0}, "one anchors.*'anchor_size': 1.5.*'anchor_size': 2.0"),
    "anchors of another shape": ({"aspect_ratios": [1.0, 2.0, 3.0]}, "another box elsewhere"),
}


@pytest.mark.parametrize("changed, words", REFUSED.values(), ids=REFUSED)
def test_a_teacher_whose_outputs_mean_something_else_is_refused_with_both_shapes(student, changed, words):
    with pytest.raises(ValueError, match=words):
        methods.detector(student, retinanet(**changed))


@pytest.mark.parametrize("name, value", [("encoding_format", "center_yxhw"), ("box_variance", [0.1, 0.1, 0.2, 0.2])])
def test_boxes_of_another_encoding_are_refused(student, name, value):
    other = retinanet()
    setattr(other.label_encoder, name, value)
    with pytest.raises(ValueError, match=rf"one encoding.*{name}.*label_encoder"):
        methods.detector(student, other)


def test_a_teacher_that_returns_boxes_in_another_format_has_the_same_offsets():
    parts = distiller(retinanet(), retinanet(bounding_box_format="yxyx"), alpha=1.0).objective(X)
    for name in ("foreground_classes", "foreground_boxes"):  # the same weights
        assert float(parts[name]) == pytest.approx(0.0, abs=1e-6)


def test_a_model_without_anchors_is_refused_with_its_outputs(student):
    for models, owner in (((student, mlp(1)), "teacher"), ((mlp(1), student), "student")):
        with pytest.raises(ValueError, match=rf"Expected the {owner} to be a detector.*D-FINE"):
            methods.detector(*models)


def test_what_is_no_model_is_refused(student):
    with pytest.raises(TypeError, match="Expected the teacher"):
        methods.detector(student, types.SimpleNamespace())
