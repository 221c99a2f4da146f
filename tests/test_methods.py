"""Every published method trains, logs and exports; layers are found and paired."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import bridges, methods

X = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32")
Y = np.arange(8) % 4


def convolutional(name, widths, classes=4):
    """A model with maps of 8x8 and 4x4, features and logits."""
    x = inputs = keras.Input((8, 8, 1))
    for number, width in enumerate(widths, start=1):
        x = keras.layers.Conv2D(width, 3, strides=number, padding="same", activation="relu", name=f"stage_{number}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="scores")(x), name=name)


MAPS = [("stage_1", "stage_1"), ("stage_2", "stage_2")]
VECTORS = [("features", "features")]
METHODS = {
    "kd": lambda teacher: methods.kd(),
    "standardized": lambda teacher: methods.standardized(),
    "dkd": lambda teacher: methods.dkd(warmup_steps=3),
    "dist": lambda teacher: methods.dist(),
    "nkd": lambda teacher: methods.nkd(),
    "multi_level": lambda teacher: methods.multi_level(),
    "ttm": lambda teacher: methods.ttm(weighted=True),
    "multi_label": lambda teacher: methods.multi_label(),
    "regression": lambda teacher: methods.regression(),
    "fitnets": lambda teacher: methods.fitnets(MAPS),
    "attention_transfer": lambda teacher: methods.attention_transfer(MAPS),
    "nst": lambda teacher: methods.nst(MAPS),
    "fsp": lambda teacher: methods.fsp(MAPS),
    "vid": lambda teacher: methods.vid(MAPS),
    "cwd": lambda teacher: methods.cwd(MAPS),
    "pkt": lambda teacher: methods.pkt(VECTORS),
    "rkd": lambda teacher: methods.rkd(VECTORS),
    "similarity_preserving": lambda teacher: methods.similarity_preserving(VECTORS),
    "correlation": lambda teacher: methods.correlation(VECTORS),
    "crd": lambda teacher: methods.crd(VECTORS, dimension=4, memory=16),
    "review": lambda teacher: methods.review(MAPS, teacher, width=4),
}


def test_every_method_is_in_this_table():
    public = {name for name, value in vars(methods).items() if callable(value) and value.__module__ == methods.__name__}
    assert {name for name in public if not name.startswith("_")} == {*METHODS, "sim"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_the_student_and_all_of_its_bridges(name):
    widths = (3, 5) if name != "fsp" else (6, 7)
    student, teacher = convolutional("student", widths), convolutional("teacher", (6, 7))
    distiller = kd.Distiller(student=student, teacher=teacher, terms=METHODS[name](teacher))
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.array(v) for v in distiller.trainable_variables]
    logs = distiller.fit(X, Y, epochs=2, verbose=0).history
    assert np.all(np.isfinite(logs["distillation_loss"]))
    after = [np.array(v) for v in distiller.trainable_variables]
    still = [
        v.path for v, a, b in zip(distiller.trainable_variables, before, after, strict=True) if np.array_equal(a, b)
    ]
    # A layer that no term reads and no label reaches has nothing to learn from; labels reach all of the student.
    assert not still


def test_simkd_gives_a_plain_model_with_the_teachers_frozen_classifier():
    teacher = convolutional("teacher", (6, 7))
    student = bridges.with_teacher_classifier(convolutional("small", (3, 5)), teacher, at=("features", "features"))
    distiller = kd.Distiller(student=student, teacher=teacher, terms=methods.sim("features"))
    distiller.compile("adam", alpha=1.0)
    distiller.fit(X, verbose=0)
    np.testing.assert_array_equal(student.get_layer("scores").get_weights()[0], teacher.layers[-1].get_weights()[0])
    assert student(X).shape == (8, 4)


def test_layers_of_one_stage_are_paired_and_the_reason_is_printed(capsys):
    pairs = methods.suggest_pairs(convolutional("student", (3, 5)), convolutional("teacher", (6, 7)))
    assert pairs == MAPS
    assert "8x8" in capsys.readouterr().out


def test_feature_methods_without_pairs_say_where_to_find_them():
    with pytest.raises(ValueError, match="suggest_pairs"):
        methods.fitnets([])


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ((None, 5), (None, 7)),
        ((None, 6, 5), (None, 6, 7)),
        ((None, 6, 5), (None, 3, 7)),
        ((None, 8, 8, 3), (None, 8, 8, 6)),
        ((None, 8, 8, 3), (None, 4, 4, 3)),
        ((None, 7, 7, 3), (None, 4, 4, 6)),
        ((None, 8, 8, 3), (None, 6)),
        ((None, 6, 3), (None, 7)),
        ((None, 8, 8, 3), (None, 16, 7)),
    ],
    ids=str,
)
def test_the_smallest_bridge_makes_shapes_meet(ours, theirs):
    bridge = bridges.auto(ours, theirs)
    bridge.build(ours)
    assert tuple(bridge(np.ones((2, *ours[1:]), "float32")).shape) == (2, *theirs[1:])
    expected = 0 if ours[-1] == theirs[-1] else (ours[-1] + 1) * theirs[-1]
    assert bridge.count_params() == expected


def test_equal_shapes_need_no_bridge_and_impossible_ones_are_refused():
    assert bridges.auto((None, 8, 8, 3), (None, 8, 8, 3)) is None
    with pytest.raises(ValueError, match="knows no projection"):
        bridges.auto((None, 5), (None, 8, 8, 3))


def test_an_automatic_bridge_is_saved_as_the_layer_it_became(tmp_path):
    student, teacher = convolutional("student", (3, 5)), convolutional("teacher", (6, 7))
    distiller = kd.Distiller(student=student, teacher=teacher, terms=methods.fitnets(MAPS))
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(X, Y, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    logs = [model.fit(X, Y, verbose=0, shuffle=False).history["loss"] for model in (distiller, loaded)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)
