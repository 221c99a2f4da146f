"""Backbones that learn from images alone: what is read, what is measured, the objective, data without labels, files."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import methods
from keras_kd._internal.layer_reader import Reader
from keras_kd.teachers import backbone_features
from tests import references

NAMES = ("dense_features", "global_features")
X = np.random.default_rng(0).uniform(size=(24, 8, 8, 1)).astype("float32")


def convolutional(widths=(3, 4), seed=1, name="student", head=False):
    """Return a backbone with a map of 2x2 at the end, or a classifier."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 1))
    for number, width in enumerate(widths, start=1):
        x = keras.layers.Conv2D(width, 3, 2, "same", activation="relu", name=f"stage_{number}")(x)
    if head:
        x = keras.layers.Dense(5, name="head")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name=name)


def of_tokens(seed=2, first=True, name="teacher"):
    """Return a backbone of tokens of 4x4 patches, with one of the class before them."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(6, activation="tanh")(keras.layers.Reshape((16, 4))(inputs))
    if first:
        mean = keras.layers.Dense(6)(keras.layers.GlobalAveragePooling1D()(x))
        x = keras.layers.Concatenate(axis=1)([keras.layers.Reshape((1, 6))(mean), x])
    return keras.Model(inputs, keras.layers.LayerNormalization(name="tokens")(x), name=name)


def read(model, name, x=X):
    return np.asarray(Reader(model, (name,))(x, training=False)[1][name], "float64")


def made(student, teacher, terms=None, **arguments):
    terms = terms or methods.backbone(student, teacher, X)
    distiller = kd.Distiller(student=student, teacher=teacher, terms=terms)
    settings = {"optimizer": keras.optimizers.Adam(0.01), "alpha": 1.0, "run_eagerly": True}
    distiller.compile(**{**settings, **arguments})
    return distiller


# What is read


def test_the_global_features_are_the_token_of_the_class_or_the_mean_of_the_map():
    tokens = read(of_tokens(), "tokens")
    np.testing.assert_array_equal(read(of_tokens(), "tokens:global"), tokens[:, 0])
    alone = of_tokens(first=False)
    np.testing.assert_allclose(read(alone, "tokens:global"), read(alone, "tokens").mean(axis=1), atol=1e-6)
    maps = convolutional()
    np.testing.assert_allclose(read(maps, "stage_2:global"), read(maps, "stage_2").mean(axis=(1, 2)), atol=1e-6)
    vectors = convolutional(head=True)
    np.testing.assert_array_equal(read(vectors, "head:global"), read(vectors, "head"))


def test_maps_with_their_channels_first_are_averaged_over_their_positions():
    inputs = keras.Input((8, 8, 1))
    moved = keras.layers.Permute((3, 1, 2))(keras.layers.Conv2D(3, 1)(inputs))
    maps = keras.layers.AveragePooling2D(2, data_format="channels_first", name="maps")(moved)
    model = keras.Model(inputs, maps)
    np.testing.assert_allclose(read(model, "maps:global"), read(model, "maps").mean(axis=(2, 3)), atol=1e-6)


def test_tokens_that_are_no_grid_have_no_global_feature():
    inputs = keras.Input((15, 3))
    model = keras.Model(inputs, keras.layers.Dense(2, name="tokens")(inputs))
    with pytest.raises(ValueError, match="'tokens' of the student to be one grid .*15 tokens, which are 0 grids"):
        Reader(model, ("tokens:global",), owner="student")


def test_the_last_maps_or_tokens_of_a_backbone_are_read_and_those_before_a_head():
    names = [
        backbone_features.names_of(model, "student")
        for model in (convolutional(), of_tokens(), convolutional(head=True))
    ]
    assert names == [("stage_2:map", "stage_2:global"), ("tokens:map", "tokens:global"), names[0]]
    nested = keras.Sequential([keras.Input((8, 8, 1)), convolutional(name="inner"), keras.layers.Flatten()])
    assert backbone_features.names_of(nested, "student").dense == "inner/stage_2:map"


def test_maps_of_one_position_are_passed_over_where_a_head_follows_alone():
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(3, 3, name="maps")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pooled")(maps)
    classifier = keras.Model(inputs, keras.layers.Flatten()(pooled))
    assert backbone_features.names_of(classifier, "teacher").dense == "maps:map"
    assert backbone_features.names_of(keras.Model(inputs, pooled), "teacher").dense == "pooled:map"
    flat = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(3, 8, name="only")(inputs)))
    assert backbone_features.names_of(flat, "teacher").dense == "only:map"


def test_models_without_maps_or_a_graph_are_refused_by_name():
    vectors = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="only")], name="vectors")
    with pytest.raises(ValueError, match=r"student 'vectors' to have a layer that returns a map.*\['only'\]"):
        methods.backbone(vectors, of_tokens(), X)
    with pytest.raises(TypeError, match="the teacher to be a keras.Model, or a keras_kd.teachers.Frozen.*of type str"):
        methods.backbone(convolutional(), "teacher.keras", X)
    with pytest.raises(TypeError, match="the student to be a keras.Model"):
        methods.backbone(kd.teachers.SelfTeacher, of_tokens(), X)


# What is measured


class Batches(keras.utils.PyDataset):
    """Batches of x alone."""

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return (X[12 * number : 12 * number + 12],)


def labelled():
    return tf.data.Dataset.from_tensor_slices((X, np.zeros(len(X)))).batch(7)


DATA = {
    "arrays": lambda: X,
    "tensor": lambda: tf.constant(X),
    "batches": lambda: tf.data.Dataset.from_tensor_slices(X).batch(5),
    "batches with labels": labelled,
    "arrays with labels": lambda: (X, np.zeros(len(X))),
    "batches of keras": lambda: Batches(),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", DATA)
def test_mean_and_variance_are_those_of_all_images_and_positions(kind):
    teacher = of_tokens()
    names = ("tokens:map", "tokens:global")
    found = backbone_features.statistics_of(kd.teachers.as_teacher(teacher), names, DATA[kind]())
    for name in names:
        values = read(teacher, name).reshape(-1, 6)
        np.testing.assert_allclose(found[name].mean, values.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[name].variance, values.var(axis=0), rtol=1e-5, atol=1e-7)


def test_a_few_images_are_read_and_of_arrays_such_from_everywhere(monkeypatch):
    monkeypatch.setattr(backbone_features, "_ROWS", 64)
    seen = []
    teacher = kd.teachers.Frozen(convolutional(), preprocess=lambda x: seen.append(np.array(x)) or x)
    sorted_rows = np.repeat(np.linspace(0, 1, 640), 64).reshape(640, 8, 8, 1).astype("float32")
    endless = tf.data.Dataset.from_tensor_slices(sorted_rows).batch(50).repeat()
    for data, last in ((sorted_rows, 630), (endless, 63)):
        seen.clear()
        backbone_features.statistics_of(teacher, ("stage_2:map",), data)
        rows = np.concatenate(seen)
        assert len(rows) == 64 and rows[-1, 0, 0, 0] == sorted_rows[last, 0, 0, 0]


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="Expected images.*Received none"):
        methods.backbone(convolutional(), of_tokens(), tf.data.Dataset.from_tensor_slices(X).take(0).batch(4))


# The objective


@pytest.mark.parametrize("teacher", [of_tokens, lambda: convolutional((5, 4), 3, "teacher")], ids=["tokens", "maps"])
def test_the_value_is_that_of_both_papers(teacher):
    student, teacher = convolutional(), teacher()
    terms = methods.backbone(student, teacher, X, weight=2.0, global_weight=0.5)
    received = made(student, teacher, terms).objective(X)
    expected = []
    for term, share in zip(terms, (0.9, 1.0), strict=True):
        [ours], [theirs] = term.student_names, term.teacher_names
        kernel, bias = (np.asarray(weight, "float64") for weight in term.bridge.get_weights())
        features, target = read(student, ours), read(teacher, theirs)
        if features.ndim == 4 and target.shape[1] == 4:
            features = np.asarray(keras.layers.Resizing(4, 4)(features.astype("float32")), "float64")
        rows = target.reshape(-1, target.shape[-1])
        values = references.standardized_features(
            features @ kernel + bias, target, rows.mean(axis=0), rows.var(axis=0), share
        )
        expected.append(values.mean())
    found = [float(received[name]) for name in NAMES]
    assert found == pytest.approx(expected, rel=1e-4)
    assert float(received["loss"]) == pytest.approx(2.0 * expected[0] + 0.5 * expected[1], rel=1e-4)


def test_equal_shapes_have_a_projection_too():
    student, teacher = convolutional(), convolutional(seed=5, name="teacher")
    assert [term.bridge.count_params() for term in made(student, teacher).terms] == [4 * 4 + 4] * 2


@pytest.mark.parametrize("eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_student_and_its_projections_learn(eagerly):
    student, teacher = convolutional(), of_tokens()
    distiller = made(student, teacher, run_eagerly=eagerly)
    before = [each.numpy() for each in distiller.trainable_variables]
    logs = distiller.fit(X, batch_size=24, epochs=6, verbose=0).history
    assert logs["loss"][-1] < 0.9 * logs["loss"][0]
    assert logs["loss"][0] == pytest.approx(logs["dense_features"][0] + logs["global_features"][0], rel=1e-5)
    assert len(before) == len(student.trainable_variables) + 4
    assert not any(map(np.array_equal, before, distiller.trainable_variables))


@pytest.mark.slow
def test_eager_graph_and_xla_train_alike():
    weights = []
    for way in ({"run_eagerly": True}, {"run_eagerly": False}, {"run_eagerly": False, "jit_compile": True}):
        student, teacher = convolutional(), of_tokens()
        keras.utils.set_random_seed(3)
        distiller = made(student, teacher, **way)
        distiller.fit(X, batch_size=8, epochs=2, verbose=0, shuffle=False)
        weights.append([each.numpy() for each in distiller.trainable_variables])
    for other in weights[1:]:
        for one, another in zip(weights[0], other, strict=True):
            np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-5)


def test_a_teacher_has_its_own_preprocessing():
    teacher = convolutional((5, 4), 3, "teacher")
    frozen = kd.teachers.Frozen(teacher, preprocess=lambda x: 2.0 * x - 1.0)
    [dense, _] = methods.backbone(convolutional(), frozen, X)
    np.testing.assert_allclose(dense.loss.mean, read(teacher, "stage_2:map", 2 * X - 1).mean(axis=(0, 1, 2)), rtol=1e-4)


# Data without labels


def folder_of(images, path):
    for number, image in enumerate(images):
        keras.utils.save_img(path / f"{number:02d}.png", 255 * image, scale=False)
    return keras.utils.image_dataset_from_directory(
        path, labels=None, image_size=(8, 8), color_mode="grayscale", batch_size=12, verbose=False
    )


UNLABELLED = {
    "arrays": lambda path: X,
    "dataset": lambda path: tf.data.Dataset.from_tensor_slices(X).shuffle(24).batch(12),
    "dataset of tuples": lambda path: tf.data.Dataset.from_tensor_slices((X,)).batch(12),
    "folder": lambda path: folder_of(X, path),
    "rows of tfds": lambda path: (
        tf.data.Dataset.from_tensor_slices({"image": X, "label": np.zeros(24)}).map(lambda row: row["image"]).batch(12)
    ),
    "augmented": lambda path: kd.augment.apply(
        tf.data.Dataset.from_tensor_slices(X).batch(12), kd.augment.RandomResizedCrop(), seed=0
    ),
    "batches of keras": lambda path: Batches(),
}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("kind", UNLABELLED)
def test_images_alone_are_enough(kind, tmp_path):
    data = UNLABELLED[kind](tmp_path)
    student, teacher = convolutional(), of_tokens()
    distiller = made(student, teacher, methods.backbone(student, teacher, data))
    before = [each.numpy() for each in distiller.trainable_variables]
    logs = distiller.fit(data, batch_size=12 if kind == "arrays" else None, verbose=0).history
    assert np.isfinite(logs["loss"][0]) and set(logs) == {"loss", "distillation_loss", *NAMES}
    assert not any(map(np.array_equal, before, distiller.trainable_variables))
    found = distiller.evaluate(X, verbose=0, return_dict=True)
    assert set(found) == {"loss", "distillation_loss", *NAMES}


# Caches


class Slope(keras.layers.Layer):
    """Return each pixel times its column: another map than the mirror image of this for the mirror image."""

    def call(self, x):
        return x * keras.ops.reshape(keras.ops.arange(1.0, 9.0), (1, 1, 8, 1))


def one_sided():
    """Return a teacher that is not equivariant to mirroring."""
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Concatenate(name="maps")([Slope()(inputs), inputs])
    return keras.Model(inputs, maps, name="teacher")


@pytest.mark.slow
def test_a_cache_has_the_features_of_the_image_and_those_of_its_mirror_image(tmp_path):
    teacher, student = one_sided(), convolutional()
    terms = methods.backbone(student, teacher, X)
    taps = [name for term in terms for name in term.teacher_names]
    cache = kd.TeacherCache(tmp_path, teacher, taps=taps, views=2, augment=kd.augment.mirrored)
    images = tf.data.Dataset.from_tensor_slices((X,))
    cache.build(images, verbose=0)
    joined, mirrored = cache.join(images).batch(24), X[:, :, ::-1]
    for epoch, seen in enumerate((X, mirrored)):
        cache.epoch = epoch
        [(x,)] = joined
        np.testing.assert_array_equal(x.inputs, seen)
        found = kd.teachers.Cached(cache)(x, {})
        for name in taps:
            np.testing.assert_allclose(found[name], read(teacher, name, seen), rtol=1e-3)
    features = read(teacher, "maps", X)[:, :, ::-1]  # mirroring the image's features is something else
    assert np.abs(features - read(teacher, "maps", mirrored)).max() > 1
    assert cache.info().views == 2


def test_a_cache_states_its_bytes_for_an_image_and_a_view(tmp_path):
    teacher, student = of_tokens(), convolutional()
    terms = methods.backbone(student, teacher, X)
    taps = [name for term in terms for name in term.teacher_names]
    found = {}
    for dtype in ("float16", "float32"):
        cache = kd.TeacherCache(tmp_path / dtype, teacher, taps=taps, dtype=dtype)
        cache.build(np.tile(X, (40, 1, 1, 1)), verbose=0)
        found[dtype] = cache.info().bytes_per_example
    numbers = 4 * 4 * 6 + 6  # a map of 4x4 and a vector, of 6 channels
    assert found["float16"] == pytest.approx(2 * numbers, abs=10) and "bytes an example and view" in str(cache.info())
    assert found["float32"] == pytest.approx(4 * numbers, abs=10)


@pytest.mark.slow
def test_a_cached_teacher_trains_as_the_live_one(tmp_path):
    losses = []
    for source in ("live", "cached"):
        student, teacher = convolutional(), of_tokens()
        terms = methods.backbone(student, teacher, X)
        data = tf.data.Dataset.from_tensor_slices((X,))
        if source == "cached":
            cache = kd.TeacherCache(
                tmp_path, teacher, taps=[name for term in terms for name in term.teacher_names], dtype="float32"
            )
            cache.build(data, verbose=0)
            data, teacher = cache.join(data), kd.teachers.Cached(cache)
        keras.utils.set_random_seed(7)
        distiller = made(student, teacher, terms)
        losses.append(distiller.fit(data.batch(8), epochs=3, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_an_image_is_mirrored_from_left_to_right_and_what_is_no_image_stays():
    x = {"image": tf.constant(X[0]), "size": tf.constant([1.0, 2.0])}
    for view, expected in ((0, X[0]), (1, X[0][:, ::-1]), (2, X[0])):
        found = kd.augment.mirrored(x, tf.constant([5, view], tf.int64))
        np.testing.assert_array_equal(found["image"], expected)
        np.testing.assert_array_equal(found["size"], [1.0, 2.0])
    with pytest.raises(ValueError, match="Expected images"):
        kd.augment.mirrored(tf.constant([1.0, 2.0]), tf.constant([0, 1], tf.int64))


# What is left of it: a plain backbone

KINDS = ("vit", "dinov2", "deit", "swin", "mit", "resnet", "densenet", "vgg", "mobilenet")
ALONE = """
import sys, keras, numpy
{imports}
backbone = keras.models.load_model(sys.argv[1])
numpy.save(sys.argv[2], backbone.predict(numpy.load(sys.argv[3]), verbose=0))
assert not [name for name in sys.modules if name.startswith("keras_kd")]
"""


def distilled(student, images):
    """Return a student after a short training."""
    inputs = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(5, 8, 8, activation="relu", name="patches")(inputs)
    teacher = keras.Model(inputs, maps, name="teacher")
    terms = methods.backbone(student, teacher, images)
    distiller = made(student, teacher, terms)
    distiller.fit(images, batch_size=4, epochs=1, verbose=0)
    return distiller.student


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "mobilenet"])
def test_it_ends_as_a_plain_backbone(kind, tmp_path):
    pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
    from tests import backbones

    images = np.random.default_rng(0).uniform(size=(8, 32, 32, 3)).astype("float32")
    built = backbones.ALL[kind]()
    kinds, names = type(built), [layer.name for layer in built.layers]
    student = distilled(built, images)
    assert student is built and type(student) is kinds and [layer.name for layer in student.layers] == names
    # Saved, and opened where there is no keras_kd.
    student.save(tmp_path / "backbone.keras")
    np.save(tmp_path / "images.npy", images)
    imports = "import keras_hub" if kind == "resnet" else ""
    files = [str(tmp_path / name) for name in ("backbone.keras", "features.npy", "images.npy")]
    subprocess.run([sys.executable, "-c", ALONE.format(imports=imports), *files], check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "features.npy"), student.predict(images, verbose=0), rtol=1e-4, atol=1e-5
    )
    # A classifier on top of it trains, the backbone too.
    before = [each.numpy() for each in student.trainable_variables]
    classifier = keras.Sequential([student, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    classifier.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True
    )
    logs = classifier.fit(images, np.arange(8) % 2, batch_size=4, epochs=3, verbose=0).history["loss"]
    assert logs[-1] < logs[0]
    assert any(not np.array_equal(one, other) for one, other in zip(before, student.trainable_variables, strict=True))


@pytest.mark.slow
@pytest.mark.one_in(8)
@pytest.mark.parametrize(("student", "teacher"), [(a, b) for a in KINDS for b in KINDS])
def test_every_backbone_learns_from_any_other(student, teacher):
    pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
    from tests import backbones

    images = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype("float32")
    ours, theirs = backbones.ALL[student](), backbones.ALL[teacher]()
    # At a smaller rate than elsewhere here, and without dropout and the statistics of one step's four images, of which
    # a step's own loss is as noisy as what it learns.
    distiller = made(ours, theirs, methods.backbone(ours, theirs, images), optimizer=keras.optimizers.Adam(1e-3))

    def loss():
        kd.pruning.recalibrate(ours, images)
        return float(distiller.objective(images)["loss"])

    before = loss()
    assert np.isfinite(distiller.fit(images, batch_size=4, epochs=3, verbose=0).history["loss"]).all()
    assert loss() < before


@pytest.mark.slow
def test_it_is_exported(tmp_path):
    student = distilled(keras.applications.MobileNetV3Small(
        (32, 32, 3), include_top=False, weights=None, minimalistic=True, alpha=0.35
    ), np.random.default_rng(0).uniform(size=(8, 32, 32, 3)).astype("float32"))  # fmt: skip
    report = kd.export(student, tmp_path / "1", fresh=False)
    assert report.passed
