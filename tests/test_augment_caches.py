"""Changed rows and targets that are kept: what goes together, and that the targets of other rows are never joined."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
IMAGES = np.random.default_rng(0).random((6, 5, 5, 1)).astype("float32")


def linear(shape=(3,), name=None):
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(2)]
    return keras.Sequential(layers, name=name)


def rows():
    return tf.data.Dataset.from_tensor_slices((X,))


def mixed():
    return kd.augment.apply(tf.data.Dataset.from_tensor_slices(X).batch(4), kd.augment.MixUp())


def fit(teacher, data, student):
    distiller = kd.Distiller(student=student, teacher=teacher)
    distiller.compile(keras.optimizers.SGD(0.1), alpha=1.0, temperature=1.0, run_eagerly=True)
    return distiller.fit(data, epochs=3, verbose=0, shuffle=False).history["loss"]


@pytest.fixture
def cache(tmp_path):
    made = kd.TeacherCache(tmp_path / "cache", teacher=linear(name="teacher"))
    made.build(rows(), verbose=0)
    return made


def test_rows_that_carry_targets_are_not_changed_afterwards():
    joined = tf.data.Dataset.from_tensor_slices((kd.Joined(X, {"logits": X[:, :2]}), X))
    for data in (joined, joined.map(lambda x, y: (x,)), joined.map(lambda x, y: x)):
        for change in (kd.augment.MixUp(labels="drop"), kd.augment.Noise(X), kd.augment.Beside(kd.augment.MixUp())):
            with pytest.raises(ValueError, match="rows before the change.*augment=keras_kd.augment.each"):
                kd.augment.apply(data.batch(4), change)


def test_targets_of_unmixed_rows_are_not_joined_to_mixtures(cache):
    with pytest.raises(ValueError, match="is another. Join it as it was, before any random step"):
        cache.join(mixed().unbatch())


@pytest.mark.slow
def test_rows_that_are_mixed_later_are_found_one_by_one(cache):
    late = rows().take(4).concatenate(mixed().unbatch().skip(4).map(lambda x: (x,)))
    with pytest.raises(ValueError, match="is not the one that the teacher saw"):
        fit(kd.teachers.Cached(cache), cache.join(late).batch(4), linear())


@pytest.mark.slow
def test_targets_of_unmixed_rows_are_not_found_by_their_keys(tmp_path):
    def keyed(x):
        return tf.data.Dataset.from_tensor_slices({"x": x, "id": np.arange(len(x))})

    inputs = {"x": keras.Input((3,), name="x"), "id": keras.Input((), name="id")}
    teacher = keras.Model(inputs, keras.layers.Dense(2)(inputs["x"]))
    cache = kd.TeacherCache(tmp_path, teacher=teacher, key="id")
    cache.build(keyed(X), verbose=0)
    changed = kd.augment.apply(keyed(X).batch(4), lambda x, seed: {**x, "x": x["x"] + 1.0}).unbatch()
    student = keras.Model(inputs, keras.layers.Dense(2)(inputs["x"]))
    with pytest.raises(ValueError, match="is not the one that the teacher saw"):
        fit(kd.teachers.Cached(cache), cache.join(changed).batch(4), student)


def test_a_cache_of_mixtures_that_differ_in_each_epoch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="begins otherwise when it is read again"):
        kd.TeacherCache(tmp_path, teacher=linear(name="teacher")).build(mixed().unbatch(), verbose=0)


def test_a_teacher_in_memory_refuses_rows_that_change():
    with pytest.raises(ValueError, match="may order or augment them anew"):
        fit(kd.teachers.InMemory(linear(name="teacher")), mixed(), linear())


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["memory", "cache"])
def test_targets_of_rows_that_are_made_once_are_kept(kept, tmp_path):
    teacher, more = linear(name="teacher"), kd.augment.smote(X, 20)
    start = linear()
    losses = []
    for source in ("live", kept):
        data, student = tf.data.Dataset.from_tensor_slices((more,)), keras.models.clone_model(start)
        student.set_weights(start.get_weights())
        if source == "live":
            losses.append(fit(teacher, data.batch(5), student))
        elif source == "memory":
            distiller = kd.Distiller(student=student, teacher=kd.teachers.InMemory(teacher))
            distiller.compile(keras.optimizers.SGD(0.1), alpha=1.0, temperature=1.0, run_eagerly=True)
            losses.append(distiller.fit(more, batch_size=5, epochs=3, verbose=0, shuffle=False).history["loss"])
        else:
            cache = kd.TeacherCache(tmp_path, teacher=teacher, dtype="float32")
            cache.build(data, verbose=0)
            losses.append(fit(kd.teachers.Cached(cache), cache.join(data).batch(5), student))
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_views_of_a_cache_are_the_live_teachers_of_the_same_seeds(tmp_path):
    augment = kd.augment.each(
        kd.augment.RandomResizedCrop(), kd.augment.KerasLayer(keras.layers.RandomFlip("horizontal"))
    )
    teacher, data = linear((5, 5, 1), "teacher"), tf.data.Dataset.from_tensor_slices((IMAGES,))
    cache = kd.TeacherCache(tmp_path, teacher=teacher, views=2, augment=augment, dtype="float32")
    cache.build(data, verbose=0)
    joined = cache.join(data)
    seen = []
    for epoch in range(3):
        cache.epoch = epoch
        for (x,) in joined.batch(6):
            seen.append(np.asarray(x.inputs))
            targets = kd.teachers.Cached(cache)(x, {})["logits"]
            np.testing.assert_allclose(targets, teacher(x.inputs), atol=1e-5)
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], IMAGES)
    np.testing.assert_array_equal(seen[0], seen[2])  # the third epoch repeats the first of two views


@pytest.mark.slow
def test_a_change_of_one_example_is_taken_by_a_cache(tmp_path):
    augment = kd.augment.each(kd.augment.Noise(X, 0.5))
    teacher = linear(name="teacher")
    cache = kd.TeacherCache(tmp_path, teacher=teacher, augment=augment, dtype="float32")
    cache.build(rows(), verbose=0)
    [(x,)] = cache.join(rows()).batch(12)
    np.testing.assert_allclose(kd.teachers.Cached(cache)(x, {})["logits"], teacher(x.inputs), atol=1e-5)
    assert (np.asarray(x.inputs) != X).all()
