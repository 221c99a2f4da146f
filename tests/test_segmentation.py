"""Predictions for each pixel: labels that do not count, other strides, weights of pixels, DeepLabV3+ and SegFormer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import losses, methods
from tests import references

CLASSES, IGNORED = 3, 255
X = np.random.default_rng(0).uniform(size=(4, 8, 8, 2)).astype("float32")
Y = np.random.default_rng(1).integers(0, CLASSES, (4, 8, 8))
Y[np.random.default_rng(2).random(Y.shape) < 0.3] = IGNORED
Y[0] = IGNORED  # an image without a label
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)


def segmenter(seed, stride=1, width=4, outputs=CLASSES):
    """Return a model of logits for each pixel, or for each cell of `stride` pixels, with the layer "maps" before."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 2))
    maps = keras.layers.Conv2D(width, 3, stride, "same", activation="tanh", name="maps")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(outputs, 1, name="scores")(maps))


class EachPixel(keras.layers.Layer):
    """Return a bias for each pixel and class."""

    def build(self, shape):
        """Create them."""
        self.bias = self.add_weight(shape=(8, 8, CLASSES), initializer="zeros")

    def call(self, x):
        """Return them for each image."""
        return keras.ops.zeros_like(x[..., :1]) + self.bias


def made(student, teacher, terms=None, loss=CROSS_ENTROPY, **arguments):
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    settings = {"optimizer": keras.optimizers.SGD(0.1), "alpha": 0.5, "run_eagerly": True, **arguments}
    distiller.compile(loss=loss, **settings)
    return distiller


def logits(model, x=X):
    return np.asarray(model(x, training=False), "float64")  # without it, DeepLabV3+ normalises by the batch


def test_ignored_pixels_count_in_neither_part_whatever_the_models_predict_there():
    student, teacher = segmenter(1), segmenter(2)
    received = made(student, teacher, methods.kd(temperature=2.0)).objective(X, Y)
    counts = Y != IGNORED
    values = 4 * references.kl_divergence(logits(student) / 2, logits(teacher) / 2)
    assert float(received["distillation_loss"]) == pytest.approx(values[counts].mean(), rel=1e-5)
    log_q = references._log_softmax(logits(student))
    nll = -np.take_along_axis(log_q, np.where(counts, Y, 0)[..., None], -1)[..., 0]
    assert float(received["student_loss"]) == pytest.approx(nll[counts].mean(), rel=1e-5)


def test_of_images_without_a_label_the_teacher_counts_where_labels_do_not_matter():
    student, teacher = segmenter(1), segmenter(2)
    term = kd.Term(losses.kl_divergence, temperature=2.0, sample_weight=None)
    values = 4 * references.kl_divergence(logits(student) / 2, logits(teacher) / 2)
    assert float(made(student, teacher, [term]).objective(X, Y)["kl_divergence"]) == pytest.approx(
        values.mean(), rel=1e-5
    )


def test_what_is_predicted_for_an_ignored_pixel_moves_no_weight():
    inputs, layer = keras.Input((8, 8, 2)), EachPixel()
    student = keras.Model(inputs, layer(inputs))
    y = np.where(np.arange(8)[:, None] < 3, 1, IGNORED) * np.ones((2, 8, 8), int)
    made(student, segmenter(2), methods.kd()).fit(X[:2], y, verbose=0)
    moved = np.any(layer.bias.numpy() != 0, axis=-1)
    assert moved[:3].all() and not moved[3:].any()


def test_weights_of_pixels_count_in_both_parts():
    student, teacher = segmenter(1), segmenter(2)
    weights = np.random.default_rng(3).uniform(0, 2, Y.shape).astype("float32")
    received = made(student, teacher, methods.kd(temperature=2.0)).objective(X, Y, weights)
    values = 4 * references.kl_divergence(logits(student) / 2, logits(teacher) / 2) * weights
    counts = Y != IGNORED
    assert float(received["distillation_loss"]) == pytest.approx(values[counts].sum() / counts.sum(), rel=1e-5)


def test_channel_wise_terms_compare_whole_images_of_which_one_pixel_counts():
    # The softmax over positions is of all pixels: an image counts where any of its pixels does.
    student, teacher = segmenter(1), segmenter(2)
    [term] = methods.cwd([("logits", "logits")])
    received = float(made(student, teacher, [term]).objective(X, Y)["channel_wise"])
    values = 16 * references.channel_wise(logits(student) / 4, logits(teacher) / 4)
    assert received == pytest.approx(values[1:].mean(), rel=1e-5)


@pytest.mark.parametrize(("ours", "theirs"), [(2, 1), (1, 2), (4, 2)])
def test_maps_of_other_strides_meet_by_a_bridge(ours, theirs):
    student, teacher = segmenter(1, ours), segmenter(2, theirs, width=6)
    [term] = methods.cwd([("maps", "maps")])
    distiller = made(student, teacher, [term], loss=None, alpha=1.0)
    received = float(distiller.objective(X)["loss"])
    maps = [keras.Model(each.input, each.get_layer("maps").output) for each in (student, teacher)]
    size = 8 // theirs
    brought = tf.image.resize(maps[0](X), (size, size)) if ours > theirs else tf.nn.avg_pool2d(maps[0](X), 2, 2, "SAME")
    kernel, bias = (np.asarray(each, "float64") for each in term.bridge.get_weights())
    projected = np.asarray(brought, "float64") @ kernel + bias
    target = np.asarray(maps[1](X), "float64")
    assert received == pytest.approx(3 * 16 * references.channel_wise(projected / 4, target / 4).mean(), rel=1e-4)


def test_logits_of_a_coarser_student_are_resized_to_the_teachers():
    student, teacher = segmenter(1, stride=2), segmenter(2)
    resized = keras.layers.Resizing(8, 8)
    term = kd.Term(losses.kl_divergence, bridge=resized, temperature=2.0)
    received = float(made(student, teacher, [term], loss=None, alpha=1.0).objective(X)["loss"])
    brought = np.asarray(tf.image.resize(student(X), (8, 8)), "float64")
    expected = 4 * references.kl_divergence(brought / 2, logits(teacher) / 2).mean()
    assert received == pytest.approx(expected, rel=1e-4)


def test_logits_of_other_strides_are_refused_with_both_shapes_and_what_to_do():
    with pytest.raises(ValueError, match=r"student \(None, 4, 4, 3\), teacher \(None, 8, 8, 3\).*`bridge`"):
        made(segmenter(1, stride=2), segmenter(2))


@pytest.mark.parametrize("loss", [losses.absolute_error, losses.huber_error, losses.squared_error])
def test_depths_and_heat_maps_have_a_weight_for_each_pixel(loss):
    student, teacher = segmenter(1, outputs=1), segmenter(2, outputs=1)
    y, weights = np.random.default_rng(4).uniform(0, 2, (2, 4, 8, 8)).astype("float32")
    weights[:, :4] = 0.0  # no depth was measured there
    terms = [kd.Term(loss, soften=False)]
    received = made(student, teacher, terms, keras.losses.MeanAbsoluteError()).objective(X, y[..., None], weights)
    values = getattr(references, loss.__name__)(logits(student), logits(teacher))
    assert float(received["distillation_loss"]) == pytest.approx((values * weights).mean(), rel=1e-5)


# Of KerasHub


def deeplab():
    """Return DeepLabV3+ on images of 32 x 32, with an output for each pixel."""
    import keras_hub

    encoder = keras_hub.models.ResNetBackbone(
        [64], [3], [64, 16], [1, 1], [1, 2], block_type="basic_block", image_shape=(32, 32, 3)
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder, spatial_pyramid_pooling_key="P3", upsampling_size=2, dilation_rates=[1, 2],
        low_level_feature_key="P2", projection_filters=4, image_shape=(32, 32, 3),
    )  # fmt: skip
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=CLASSES)


def segformer():
    """Return SegFormer on images of 32 x 32, whose logits are of a quarter of them, resized."""
    import keras_hub

    from tests import backbones

    backbone = keras_hub.models.SegFormerBackbone(image_encoder=backbones.mit(), projection_filters=8)
    return keras_hub.models.SegFormerImageSegmenter(backbone, num_classes=CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["deeplab teaches segformer", "segformer teaches deeplab"])
def test_segmenters_of_kerashub_teach_one_another_pixels_and_maps(way, tmp_path):
    pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
    teacher, student = (deeplab(), segformer()) if way.startswith("deeplab") else (segformer(), deeplab())
    images = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype("float32")
    y = np.random.default_rng(1).integers(0, CLASSES, (4, 32, 32))
    y[:, :8] = IGNORED
    backbones = student.backbone.name, teacher.backbone.name  # their outputs are the last maps before the logits
    terms = methods.kd(temperature=2.0) + methods.cwd([backbones])
    optimizer = keras.optimizers.Adam(1e-3)
    distiller = made(student, teacher, terms, optimizer=optimizer, run_eagerly=False, jit_compile=False)
    received = distiller.objective(images, y)
    values = 4 * references.kl_divergence(logits(student, images) / 2, logits(teacher, images) / 2)
    assert float(received["kl_divergence"]) == pytest.approx(values[:, 8:].mean(), rel=1e-4)
    logs = distiller.fit(images, y, batch_size=4, epochs=4, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    student.save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), student.predict(images, verbose=0), atol=1e-5)
    quality = kd.evaluation.measure(student, (images, y), teacher=teacher, ignore_class=IGNORED)
    assert 0 <= quality["accuracy"] <= 1 and quality["kl_teacher_student"] > 0
