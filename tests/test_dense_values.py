"""Values for each pixel: heatmaps of joints and depths, of which weights of pixels say what counts."""

import keras
import numpy as np
import pytest

from keras_kd import Term, losses
from tests.test_segmentation import logits, made, segmenter

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(4, 8, 8, 2)).astype("float32")
JOINTS = 5


def squared(one, other):
    return np.mean((one - other) ** 2, axis=-1)


def test_heatmaps_of_joints_count_where_a_pixel_has_a_weight():
    student, teacher = segmenter(1, outputs=JOINTS), segmenter(2, outputs=JOINTS)
    y = RANDOM.uniform(size=(4, 8, 8, JOINTS)).astype("float32")
    weights = (RANDOM.random((4, 8, 8)) < 0.4).astype("float32")
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    distiller = made(student, teacher, [Term(losses.squared_error, soften=False)], loss)
    received = distiller.objective(X, y, weights)
    for name, target in (("distillation_loss", logits(teacher, X)), ("student_loss", y)):
        expected = np.average(squared(logits(student, X), target), weights=weights)
        assert float(received[name]) == pytest.approx(expected, rel=1e-5)
    changed = np.where(weights[..., None] > 0, y, 1e6)
    assert float(distiller.objective(X, changed, weights)["loss"]) == pytest.approx(float(received["loss"]), rel=1e-6)


def test_a_joint_that_is_not_visible_counts_in_neither_part():
    def per_joint(seed):
        """Return a model with an output for each joint, which may have weights of its own."""
        model = segmenter(seed, outputs=2)
        parts = {f"joint_{n}": keras.layers.Lambda(lambda x, n=n: x[..., n : n + 1])(model.output) for n in (0, 1)}
        return keras.Model(model.input, {name: keras.layers.Identity(name=name)(x) for name, x in parts.items()})

    student, teacher = per_joint(1), per_joint(2)
    names = ("joint_0", "joint_1")
    y = {name: RANDOM.uniform(size=(4, 8, 8, 1)).astype("float32") for name in names}
    visible = {"joint_0": [1, 1, 0, 1], "joint_1": [0, 0, 1, 0]}
    weights = {name: np.ones((4, 8, 8), "float32") * np.reshape(each, (4, 1, 1)) for name, each in visible.items()}
    mean = {name: keras.losses.MeanSquaredError(reduction="mean_with_sample_weight") for name in names}
    terms = [Term(losses.squared_error, at=name, soften=False, name=f"at_{name}") for name in names]
    received = made(student, teacher, terms, mean).objective(X, y, weights)
    for name in names:
        ours, theirs = (np.asarray(model(X)[name], "float64") for model in (student, teacher))
        expected = squared(ours, theirs)[np.array(visible[name]) > 0].mean()
        assert float(received[f"at_{name}"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_depth_anything_teaches_a_convolutional_network_and_learns_from_one(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
    keras.utils.set_random_seed(0)
    encoder = keras_hub.models.DINOV2Backbone(
        patch_size=14, num_layers=4, hidden_dim=8, num_heads=2, intermediate_dim=16, num_register_tokens=0,
        image_shape=(84, 84, 3), position_embedding_shape=(84, 84),
    )  # fmt: skip
    backbone = keras_hub.models.DepthAnythingBackbone(
        image_encoder=encoder, reassemble_factors=[4, 2, 1, 0.5], neck_hidden_dims=[4, 4, 8, 8], fusion_hidden_dim=4,
        head_hidden_dim=4, head_in_index=-1, feature_keys=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    task = keras_hub.models.DepthAnythingDepthEstimator(
        backbone, depth_estimation_type="metric", max_depth=10.0, preprocessor=None
    )
    inputs = keras.Input((84, 84, 3))
    maps = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    small = keras.Model(inputs, {"depths": keras.layers.Conv2D(1, 1, name="depths")(maps)})
    images = RANDOM.uniform(size=(4, 84, 84, 3)).astype("float32")
    depths = {"depths": RANDOM.uniform(1, 9, (4, 84, 84, 1)).astype("float32")}
    weights = {"depths": (RANDOM.random((4, 84, 84)) < 0.5).astype("float32")}
    loss = {"depths": keras.losses.MeanAbsoluteError(reduction="mean_with_sample_weight")}
    terms = [Term(losses.absolute_error, at="depths", soften=False)]
    for student, teacher in ((small, task), (task, small)):
        optimizer = keras.optimizers.Adam(1e-2)
        distiller = made(student, teacher, terms, loss, optimizer=optimizer, run_eagerly=False, jit_compile=False)
        ours, theirs = (np.asarray(each(images, training=False)["depths"], "float64") for each in (student, teacher))
        expected = np.average(np.abs(ours - theirs)[..., 0], weights=weights["depths"])
        received = distiller.objective(images, depths, weights)
        assert float(received["distillation_loss"]) == pytest.approx(expected, rel=1e-4)
        logs = distiller.fit(images, depths, sample_weight=weights, epochs=4, verbose=0).history["loss"]
        assert logs[-1] < logs[0]
        student.save(tmp_path / "student.keras")
        again = keras.models.load_model(tmp_path / "student.keras")(images, training=False)["depths"]
        np.testing.assert_allclose(again, student(images, training=False)["depths"], atol=1e-5)
