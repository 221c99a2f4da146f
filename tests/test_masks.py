"""What Keras masks do to every public loss, over the table in tests/goldens.py: through Term, and in a Distiller."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import Term, losses
from keras_kd.losses import relations
from tests.goldens import LOSSES, doubled
from tests.models import dense, tagger
from tests.test_losses_all import term_of

#: A masked position leaves no trace: the loss is that of the valid positions, as if there had never been others.
LEFT_OUT = {
    "kl_divergence",
    "reverse_kl",
    "jensen_shannon",
    "skew_kl",
    "skew_reverse_kl",
    "decoupled_kl",
    "normalized_kl",
    "enhanced_target",
    "inter_class_relation",
    "class_correlation",  # zeros on both sides are equal probabilities: what they add to both matrices cancels
    "batch_correlation",  # the same
    "transformed_teacher",
    "hard_label",
    "universal_logits",
    "binary_kl",
    "squared_error",
    "absolute_error",
    "huber_error",
    "teacher_bounded",
    "cosine",
    "VariationalInformation",
    "StandardizedFeatures",
    "CenteredCrossEntropy",
}

#: A masked position is a zero on both sides, whatever it held; a masked example has no row in the mean.
ZEROS = {
    "intra_class_relation",
    "channel_wise",
    "rkd_distance",
    "rkd_angle",
    "similarity_preserving",
    "pkt",
    "correlation_congruence",
    "contrastive",
    "ContrastiveMemory",
}

#: Not tested here, and why.
EXCLUDED = {
    "attention_transfer": "wants maps, (batch, height, width, channels), for which no layer of Keras makes a mask",
    "nst": "wants maps",
    "fsp": "wants pairs of maps",
    "hierarchical_pooling": "wants maps",
    "review": "wants maps, one for each stage",
    "MaskedGeneration": "wants maps",
    "MaskedTokenGeneration": "wants maps",
    "standardized_huber": "averages positions, of images",
    "scale_decoupled_kl": "compares parts of an image",
    "foreground_kl": "compares anchors, for which no layer of Keras makes a mask",
    "foreground_huber": "compares anchors, and reads two outputs of the teacher",
    "map_correlation": "compares maps",
    "token_relations": "compares the positions of an example: tests/test_token_relations.py",
}

SHAPES = ((3, 4, 5), (3, 4, 5))  # (batch, time, classes or features)
STUDENT_MASK = np.array([[True, True, True, True], [True, True, False, True], [True, False, True, False]])
TEACHER_MASK = np.array([[True, True, True, True], [False, True, True, True], [False, True, False, True]])
VALID = STUDENT_MASK & TEACHER_MASK  # two positions of the second example, and none of the third
GARBAGE = pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])


def of(names):
    """Run a test for the losses of these names."""
    tested = [golden for golden in LOSSES if golden.name in names]
    return pytest.mark.parametrize("golden", tested, ids=lambda golden: golden.name)


def masked(values, mask):
    """Return a tensor with a Keras mask on it, as a layer would."""
    tensor = tf.constant(values)
    tensor._keras_mask = tf.constant(mask)
    return tensor


def filled(values, filling):
    """Put a number where either side is masked."""
    return np.where(VALID[..., None], values, np.float32(filling))


def value_and_gradient(term, student, teacher, labels=None, **arguments):
    student, teacher = masked(student, STUDENT_MASK), masked(teacher, TEACHER_MASK)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = term(student, teacher, labels, **arguments)
    return value.numpy(), tape.gradient(value, student, unconnected_gradients="zero").numpy()


def test_every_public_loss_is_here_or_excluded_with_a_reason():
    names = [*LEFT_OUT, *ZEROS, *EXCLUDED]
    assert sorted(names) == sorted(golden.name for golden in LOSSES)
    assert all(EXCLUDED.values())


@of(LEFT_OUT)
def test_a_masked_batch_has_the_loss_of_its_valid_positions(golden):
    for number in range(len(golden.variants)):
        term, reference = term_of(golden, SHAPES, number)
        student, teacher, labels = golden.inputs(SHAPES)
        value, _ = value_and_gradient(term, student, teacher, labels)
        valid = (student[VALID], teacher[VALID], None if labels is None else labels[VALID])
        assert value == pytest.approx(np.mean(reference(*doubled(valid))), rel=1e-5)


@of(ZEROS)
def test_a_masked_batch_has_the_loss_of_zeros_where_masked_and_no_row_for_a_masked_example(golden):
    term, reference = term_of(golden, SHAPES)
    student, teacher, _ = golden.inputs(SHAPES)
    value, _ = value_and_gradient(term, student, teacher)
    values = reference(*doubled((filled(student, 0.0), filled(teacher, 0.0), None)))
    assert value == pytest.approx(values if golden.scalar else np.mean(values[VALID.any(axis=1)]), rel=1e-5)


@pytest.mark.one_in(2)
@GARBAGE
@of(LEFT_OUT | ZEROS)
def test_garbage_in_masked_positions_changes_neither_value_nor_gradient(golden, garbage):
    term, _ = term_of(golden, SHAPES)
    student, teacher, labels = golden.inputs(SHAPES)
    value, gradient = value_and_gradient(term, student, teacher, labels)
    again, same = value_and_gradient(term, filled(student, garbage), filled(teacher, -garbage), labels)
    assert np.isfinite(value) and value == again
    np.testing.assert_array_equal(same, gradient)
    assert not np.any(gradient[~VALID]) and np.any(gradient[VALID])


@of(LEFT_OUT | ZEROS)
def test_a_batch_that_is_all_masked_has_a_finite_loss_and_moves_nothing(golden):
    term, _ = term_of(golden, SHAPES)
    student, teacher, labels = golden.inputs(SHAPES)
    student = masked(np.full_like(student, np.nan), np.zeros_like(VALID))
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = term(student, tf.constant(teacher), labels)
    assert np.isfinite(value) and not np.any(tape.gradient(value, student))


@GARBAGE
def test_a_memory_does_not_store_garbage(garbage):
    golden = next(golden for golden in LOSSES if golden.name == "ContrastiveMemory")
    student, teacher, _ = golden.inputs(SHAPES)
    banks = []
    for filling in (0.0, garbage):
        term, _ = term_of(golden, SHAPES)
        term.loss.bank.assign(np.ones(term.loss.bank.shape))
        value_and_gradient(term, student, filled(teacher, filling), training=True)
        banks.append(term.loss.bank.numpy())
    assert np.any(banks[0] != 1.0)
    np.testing.assert_array_equal(*banks)


def test_the_module_of_relations_documents_masks():
    assert "Masked positions are zeros on both sides" in " ".join(relations.__doc__.split())


# In a Distiller, with the masks of an Embedding.


WORDS = np.array([[1, 2, 3], [4, 5, 0], [2, 0, 0]])
PADDED = np.pad(WORDS, ((0, 0), (0, 2)))


def distiller_with(names):
    goldens = [golden for golden in LOSSES if golden.name in names and golden.labels is None]
    terms = [Term(golden.loss() if golden.weights else golden.loss, at=("scores", "scores")) for golden in goldens]
    distiller = kd.Distiller(student=tagger(1), teacher=tagger(2), terms=terms)
    distiller.compile(alpha=1.0)
    return distiller


def test_padding_changes_no_term_that_has_a_value_for_each_position():
    distiller = distiller_with(LEFT_OUT)
    short, long = distiller.objective(WORDS), distiller.objective(PADDED)
    assert len(short) == len(distiller.terms) + 2
    for name, value in short.items():
        assert float(long[name]) == pytest.approx(float(value), rel=1e-5), name


def test_padding_changes_no_relation_of_features_that_are_flattened():
    # A zero more in the features of every example adds nothing to products, lengths and distances.
    names = ZEROS - {"intra_class_relation", "channel_wise", "ContrastiveMemory"}
    distiller = distiller_with(names)
    short, long = distiller.objective(WORDS), distiller.objective(PADDED)
    for name, value in short.items():
        assert float(long[name]) == pytest.approx(float(value), rel=1e-5), name


def test_a_memory_needs_features_of_known_size():
    term = Term(losses.ContrastiveMemory(memory=8), at=("words", "words"))
    with pytest.raises(ValueError, match=r"known size.*\(None, None, 4\)"):
        kd.Distiller(student=tagger(1), teacher=tagger(2), terms=[term])


def test_a_masking_layer_in_the_student_is_enough():
    def model(seed):
        inputs = keras.Input((3, 2))
        return keras.Model(inputs, dense(4, seed)(keras.layers.Masking()(inputs)))

    student, teacher = model(1), model(2)
    distiller = kd.Distiller(student=student, teacher=teacher, terms=[Term(losses.squared_error)])
    distiller.compile(alpha=1.0)
    x = np.random.default_rng(0).normal(size=(2, 3, 2)).astype("float32")
    x[0, 1] = x[1] = 0.0
    s, t = doubled((np.array(student(x)), np.array(teacher(x))))
    expected = np.mean(np.square(s - t)[[0, 0], [0, 2]])
    assert float(distiller.objective(x)["loss"]) == pytest.approx(expected, rel=1e-5)
