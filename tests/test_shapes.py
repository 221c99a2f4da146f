"""Which shapes every public loss takes and refuses, over the table in tests/goldens.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import tree

import keras_kd as kd
from keras_kd import Term, losses
from tests.goldens import LOSSES
from tests.models import tagger

#: The trailing shapes of student and teacher may differ in any way.
RELATIONS = {
    "rkd_distance",
    "rkd_angle",
    "similarity_preserving",
    "pkt",
    "correlation_congruence",
    "ContrastiveMemory",
}

#: The student's maps may have other sizes and channels than the teacher's, but no other rank.
ANY_MAPS = {"attention_transfer", "nst"}

#: Maps of one shape.
ONE_SHAPE = {"hierarchical_pooling", "MaskedGeneration", "MaskedTokenGeneration"}

#: The student may have other classes than the teacher, at the same positions.
ANY_CLASSES = {"universal_logits"}

#: Vectors of the student, and of the teacher positions as well, which are averaged.
POOLED = {"standardized_huber"}

#: Vectors of any width at the same tokens: refused in tests/test_token_relations.py.
TOKENS = {"token_relations"}

#: Several maps on each side.
STAGES = {"fsp", "review"}

#: The teacher's boxes, and its logits at the same anchors: refused in tests/test_detection_losses.py.
BOXES = {"foreground_huber"}

#: Logits of several parts of an image: refused in tests/test_scale_decoupled.py.
PARTS = {"scale_decoupled_kl"}

#: Losses of which a single logit or position would be a distribution that is always certain.
WANTS_CLASSES = {golden.name for golden in LOSSES if golden.needs in ("L", "L, Y")} - {"binary_kl", "teacher_bounded"}

SAME = {golden.name for golden in LOSSES} - RELATIONS - ANY_MAPS - STAGES - ANY_CLASSES - TOKENS - BOXES


def of(names):
    """Run a test for the losses of these names."""
    tested = [golden for golden in LOSSES if golden.name in names]
    return pytest.mark.parametrize("golden", tested, ids=lambda golden: golden.name)


def called(golden, student_shape, teacher_shape):
    """Call a new loss through a term, eagerly, on numbers of these shapes."""
    student, teacher, labels = golden.inputs((student_shape, teacher_shape))
    loss = golden.loss(**golden.variants[0]) if golden.weights else golden.loss
    return Term(loss, at=("a", "b"))(*tree.map_structure(tf.convert_to_tensor, (student, teacher)), labels)


def refused(golden, student_shape, teacher_shape, words=None):
    """Assert that a `ValueError` names both shapes, or these words."""
    with pytest.raises(ValueError) as caught:
        called(golden, student_shape, teacher_shape)
    for word in words or (f"student {student_shape}", f"teacher {teacher_shape}"):
        assert word in str(caught.value)


def test_every_public_loss_is_in_one_of_the_groups():
    names = [*RELATIONS, *ANY_MAPS, *STAGES, *ANY_CLASSES, *TOKENS, *BOXES, *SAME]
    assert sorted(names) == sorted(golden.name for golden in LOSSES)
    differ = {golden.name for golden in LOSSES if any(s != t for s, t in golden.shapes)}
    assert differ == RELATIONS | ANY_MAPS | ANY_CLASSES | POOLED | TOKENS | BOXES | {"fsp"}


@of(SAME)
def test_another_number_of_classes_or_features_is_refused_with_both_shapes(golden):
    ours = golden.shapes[0][0]
    for width in (1, ours[-1] + 1):
        refused(golden, ours, (*ours[:-1], width))
        refused(golden, (*ours[:-1], width), ours)


@of((SAME | ANY_CLASSES) - ONE_SHAPE - POOLED - {"contrastive"})
def test_another_rank_is_refused_with_both_shapes(golden):
    ours = golden.shapes[0][0]
    refused(golden, ours, (*ours[:-1], 1, ours[-1]))
    refused(golden, (ours[0], 2, *ours[1:]), ours)


@of(ANY_MAPS | ONE_SHAPE)
def test_features_that_are_no_maps_are_refused_with_both_shapes(golden):
    ours = golden.shapes[0][0]
    for other in (ours[:-1], (*ours, 2), (ours[0], ours[-1])):
        refused(golden, ours, other, (str(ours), str(other)))
        refused(golden, other, ours, (str(ours), str(other)))


@of(ANY_MAPS | ONE_SHAPE)
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 4), (3, 4, 4, 4, 2)], ids=str)
def test_features_that_are_no_maps_are_refused_on_both_sides_too(golden, shape):
    refused(golden, shape, shape, ("Expected maps", str(shape)))


@of((SAME | ANY_CLASSES) - POOLED - {"contrastive"})
def test_other_positions_are_refused_with_both_shapes(golden):
    # A number of positions of 1 would broadcast in silence.
    maps = golden.name in ONE_SHAPE
    ours = (2, 3, 3, 4) if maps else (2, 3, 4)
    for positions in (1, 5):
        refused(golden, ours, (2, positions, *ours[2:]))
        refused(golden, (2, positions, *ours[2:]), ours)


@of(WANTS_CLASSES)
@pytest.mark.parametrize("shape", [(4, 1), (2, 3, 1)])
def test_a_single_class_is_refused_with_its_shape_and_the_losses_to_use(golden, shape):
    refused(golden, shape, shape, (f"student {shape}", "binary_kl", "squared_error"))


@of(SAME - WANTS_CLASSES - ONE_SHAPE - PARTS - {"channel_wise"})
def test_a_single_label_or_feature_is_enough_for_the_others(golden):
    assert np.isfinite(called(golden, (4, 1), (4, 1)))


@of(RELATIONS)
@pytest.mark.parametrize("teacher_shape", [(4, 1), (4, 7), (4, 2, 3), (4, 2, 2, 5)])
def test_relations_take_trailing_shapes_that_differ(golden, teacher_shape):
    for student_shape in ((4, 3), (4, 2, 2, 2)):
        assert np.isfinite(called(golden, student_shape, teacher_shape))


def test_embeddings_are_flattened_before_their_widths_are_compared():
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
    expected = losses.contrastive(student, teacher)
    np.testing.assert_array_equal(losses.contrastive(student.reshape(4, 2, 3), teacher), expected)


@of(STAGES)
def test_other_channels_of_a_stage_are_refused_with_both_shapes(golden):
    stages = [(2, 4, 4, 3), (2, 2, 2, 5)]
    # What FSP compares is (batch, channels of the first map, channels of the last).
    words = {
        "fsp": ("student (2, 3, 5)", "teacher (2, 3, 7)"),
        "review": ("student (2, 2, 2, 5)", "teacher (2, 2, 2, 7)"),
    }
    refused(golden, stages, [stages[0], (2, 2, 2, 7)], words[golden.name])


@of(STAGES)
def test_stages_that_do_not_pair_are_refused_with_all_shapes(golden):
    stages = [(2, 4, 4, 3), (2, 2, 2, 5)]
    for other in (stages[:1], stages[:1] * 3, stages[0]):
        shown = [str(shape) for shape in (*stages, *(other if isinstance(other, list) else [other]))]
        refused(golden, stages, other, ("maps on each side", *shown))
        refused(golden, other, stages, ("maps on each side", *shown))


@of({golden.name for golden in LOSSES if golden.labels == "classes"})
def test_labels_that_do_not_fit_are_refused_with_both_shapes(golden):
    # (2,) for (2, 2, 5) would broadcast, and one-hot labels of seven classes have a largest one, too.
    for shape, wrong in (((2, 2, 5), (2,)), ((4, 5), (3,)), ((4, 5), (4, 7)), ((4, 5), (4, 1, 1))):
        student, teacher, _ = golden.inputs((shape, shape))
        with pytest.raises(ValueError) as caught:
            golden.loss(student, teacher, np.zeros(wrong, "float32"))
        assert f"labels {wrong}" in str(caught.value) and f"student {shape}" in str(caught.value)


def test_true_values_that_do_not_fit_are_refused_with_both_shapes():
    x = np.ones((4, 5), "float32")
    for wrong in ((4, 1), (4,), (1, 5)):
        with pytest.raises(ValueError) as caught:
            losses.teacher_bounded(x, x, np.ones(wrong, "float32"))
        assert str(wrong) in str(caught.value) and "(4, 5)" in str(caught.value)


# Sizes that are unknown until data are seen.


@pytest.mark.slow
def test_sequences_of_unknown_length_can_be_related():
    names = RELATIONS - {"ContrastiveMemory"} | {"contrastive", "channel_wise"}
    terms = [Term(getattr(losses, name), at=("scores", "scores")) for name in sorted(names)]
    distiller = kd.Distiller(student=tagger(1), teacher=tagger(2), terms=terms)
    distiller.compile("sgd", alpha=1.0)
    for words in ([[1, 2, 3], [4, 5, 1], [2, 2, 3]], [[1, 2], [4, 5], [2, 2]]):
        logs = distiller.fit(np.array(words), verbose=0).history
        assert len(logs) == len(names) + 2 and np.isfinite(list(logs.values())).all()


@of(ANY_MAPS | ONE_SHAPE)
@pytest.mark.parametrize("shape", [(None, None, 4, 3), (None, 4, None, 3), (None, 4, 4, None)], ids=str)
def test_maps_of_unknown_size_are_refused_where_they_are_averaged(golden, shape):
    loss = golden.loss() if golden.weights else golden.loss
    with pytest.raises(ValueError, match="of known size"):
        loss(keras.KerasTensor(shape), keras.KerasTensor(shape))


def test_maps_of_unknown_size_can_be_compared_by_channel():
    def model(seed):
        inputs = keras.Input((None, None, 2))
        return keras.Model(inputs, keras.layers.Conv2D(3, 1, kernel_initializer="ones", name="map")(inputs))

    distiller = kd.Distiller(student=model(1), teacher=model(2), terms=[Term(losses.channel_wise, at=("map", "map"))])
    distiller.compile("sgd", alpha=1.0)
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 2)).astype("float32")
    assert distiller.fit(x, verbose=0).history["loss"] == [pytest.approx(0.0, abs=1e-6)]


@of(POOLED)
def test_a_student_with_positions_is_refused_by_losses_of_averages(golden):
    ours = golden.shapes[0][0]
    pooled = (ours[0], ours[-1])
    refused(golden, (ours[0], 2, *ours[1:]), ours, (str((ours[0], 2, *ours[1:])), str(pooled)))
