"""What holds for every public loss, over the table in tests/goldens.py: one line there tests a new loss here."""

import functools
import inspect
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import tree

import keras_kd as kd
from keras_kd import Term, losses
from tests import goldens, references
from tests.goldens import LOSSES, deviation, doubled, finite_differences, of_each, ours_and_gradient
from tests.models import assert_same, batch, mlp, numbers
from tests.test_methods import public_methods

#: Of the largest number of a case. float32 has 6e-8; the longest sums and differences here come to 2e-6.
TOLERANCE = 1e-5

every_loss = pytest.mark.parametrize("golden", LOSSES, ids=lambda golden: golden.name)
several = settings(max_examples=4, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def only(condition):
    """Run a test for the losses of which `condition` holds."""
    return pytest.mark.parametrize("golden", list(filter(condition, LOSSES)), ids=lambda golden: golden.name)


def term_of(golden, shapes, number=0):
    """Return a term on layers with the loss, built where it has weights, and the reference of (student, ...)."""
    arguments = golden.variants[number]
    if golden.weights is None:
        return Term(golden.loss, at=("a", "b"), **arguments), golden.bind(shapes, arguments)[1]
    layer = goldens.with_random_weights(golden.loss(**arguments), shapes)
    return Term(layer, at=("a", "b")), lambda student, teacher, labels: golden.reference(
        student, teacher, **golden.weights(layer)
    )


def term_value_and_gradient(term, inputs, **arguments):
    student, teacher, labels = tree.map_structure(lambda x: x if x is None else tf.convert_to_tensor(x), inputs)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = term(student, teacher, labels, **arguments)
    return float(value), tree.map_structure(np.array, tape.gradient(value, student, unconnected_gradients="zero"))


# The table.


def test_every_public_loss_is_in_the_table():
    public = {name for name, v in vars(losses).items() if getattr(v, "__module__", "").startswith("keras_kd.losses.")}
    assert public == {golden.name for golden in LOSSES}
    assert len(LOSSES) == len(public)


def test_every_method_is_named_by_the_losses_that_it_uses():
    assert public_methods() | {"backbone", "detector", "dino", "mgd", "ofa", "sdd", "vitkd", "vkd"} == {
        m for golden in LOSSES for m in golden.methods
    }


@every_loss
def test_the_table_has_three_shapes_and_sequences_for_logits(golden):
    assert len({str(shapes) for shapes in golden.shapes}) >= 3
    assert not golden.needs.startswith("L") or any(len(student) == 3 for student, _ in golden.shapes)


@every_loss
def test_the_table_has_the_labels_that_a_loss_needs(golden):
    function = golden.loss.call if inspect.isclass(golden.loss) else golden.loss
    assert ("labels" in inspect.signature(function).parameters) == (golden.labels is not None) == ("Y" in golden.needs)


# Values and gradients.


@every_loss
def test_values_equal_the_float64_reference(golden):
    for ours, reference, inputs in golden.cases():
        expected = reference(*doubled(inputs))
        assert np.shape(expected) == () or not golden.scalar
        values, _ = ours_and_gradient(ours, inputs)
        assert deviation(values, expected) < TOLERANCE


@pytest.mark.one_in(2)
@every_loss
def test_gradients_equal_finite_differences_of_the_reference(golden):
    for ours, reference, inputs in golden.cases():
        # Examples weigh differently, so that a gradient cannot be right in the sum alone.
        shape = np.shape(reference(*doubled(inputs)))
        cotangent = np.random.default_rng(5).uniform(0.5, 1.5, shape).astype("float32")
        _, gradient = ours_and_gradient(ours, inputs, cotangent)
        assert deviation(gradient, finite_differences(reference, inputs, cotangent)) < TOLERANCE


@only(lambda golden: golden.compares_distributions)  # their gradients are found by hand, for both sides
def test_gradients_on_a_teacher_that_learns_too_equal_finite_differences_of_the_reference(golden):
    for ours, reference, (student, teacher, labels) in golden.cases():
        of_teacher, expected = (lambda t, s, y, call=call: call(s, t, y) for call in (ours, reference))
        cotangent = np.random.default_rng(5).uniform(0.5, 1.5, student.shape[:-1]).astype("float32")
        cotangent = np.float32(0.7) if golden.scalar else cotangent
        _, gradient = ours_and_gradient(of_teacher, (teacher, student, labels), cotangent)
        slopes = finite_differences(expected, (teacher, student, labels), cotangent)
        # Of two classes, the correlation is 1 or -1 and its gradient 0, up to rounding.
        np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=TOLERANCE * np.max(np.abs(slopes)) + 1e-6)


@only(lambda golden: golden.needs.startswith("L"))
def test_values_and_gradients_stay_exact_at_a_temperature_of_20(golden):
    for ours, reference, (student, teacher, labels) in golden.cases():
        inputs = student / np.float32(20), teacher / np.float32(20), labels
        expected = 400 * reference(*doubled(inputs))
        values, gradient = ours_and_gradient(ours, inputs)
        np.testing.assert_allclose(400 * values, expected, rtol=1e-5, atol=1e-5)
        # T**2 of the loss, 1 / T of its argument. Pearson's correlation of two classes is 1 or -1, its gradient 0 up to
        # the rounding of 1 / norm**2 times 6e-8, here 1e-6, times T.
        np.testing.assert_allclose(20 * gradient, 20 * finite_differences(reference, inputs), rtol=1e-4, atol=5e-5)


@only(lambda golden: golden.compares_distributions)
def test_many_classes_far_apart_and_nearly_equal_stay_exact(golden):
    for case in golden.cases_of_many_classes():
        assert max(goldens.deviation_of_many_classes(case, numbers=3, step=golden.step)) < TOLERANCE


def test_the_correlation_over_many_classes_does_not_cancel_where_both_sides_are_nearly_equal():
    golden = next(golden for golden in LOSSES if golden.name == "inter_class_relation")
    shape = (4, 32000)
    teacher, change, _ = golden.inputs((shape, shape), scale=3.0)
    inputs = teacher + np.float32(0.03) * change, teacher, None
    # In float32, each logarithm is off by 5e-7, of differences of 0.1.
    assert max(goldens.deviation_of_many_classes((*golden.bind((shape, shape), {}), inputs))) < 1.5e-5


def test_the_rows_of_the_batch_correlation_average_to_the_papers():
    golden = next(golden for golden in LOSSES if golden.name == "batch_correlation")
    student, teacher, _ = golden.inputs(golden.shapes[0])
    paper = references.batch_correlation(student, teacher)
    assert float(np.mean(losses.batch_correlation(student, teacher))) == pytest.approx(paper, rel=1e-5)


@only(lambda golden: golden.labels == "classes")
@pytest.mark.parametrize("form", ["one-hot", "column", "float"])
def test_labels_may_come_in_any_form_that_keras_takes(golden, form):
    student, teacher, labels = golden.inputs(golden.shapes[2])
    forms = {"one-hot": np.eye(7, dtype="float32")[labels], "column": labels[..., None], "float": labels * 1.0}
    expected = golden.reference(*doubled((student, teacher)), labels)
    np.testing.assert_allclose(golden.loss(student, teacher, forms[form]), expected, rtol=1e-5)


# Zero, sign, invariances.


@only(lambda golden: golden.zero)
@given(seed=seeds, scale=st.sampled_from([0.01, 1.5, 200.0]))
@several
def test_a_student_that_equals_its_teacher_has_no_loss(golden, seed, scale):
    if golden.name == "intra_class_relation":
        scale = min(scale, 1.5)  # a class of probability 0 everywhere is constant, which correlates with nothing
    for shapes in golden.shapes:
        student, _, labels = golden.inputs(shapes, seed, scale)
        ours, _ = golden.bind((shapes[0], shapes[0]), {})
        np.testing.assert_allclose(ours(student, tree.map_structure(np.copy, student), labels), 0, atol=1e-6)


def test_a_transformed_teacher_is_matched_by_its_softened_logits():
    teacher = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    np.testing.assert_allclose(losses.transformed_teacher(0.3 * teacher, teacher, power=0.3), 0, atol=1e-6)


@pytest.mark.one_in(3)
@only(lambda golden: golden.nonnegative)
@given(seed=seeds, scale=st.sampled_from([0.01, 1.5, 200.0]))
@several
def test_a_loss_is_never_negative(golden, seed, scale):
    for shapes in golden.shapes:
        ours, _ = golden.bind(shapes, golden.variants[seed % len(golden.variants)])
        assert np.all(np.asarray(ours(*golden.inputs(shapes, seed, scale))) >= -1e-6)


def both(function):
    def change(student, teacher, random):
        changed = function(random)
        return of_each(student, changed), of_each(teacher, changed)

    return change


def one(side, function):
    def change(student, teacher, random):
        changed = function(random)
        return (of_each(student, changed), teacher) if side == "student" else (student, of_each(teacher, changed))

    return change


def permuted_channels(random):
    key = random.integers(2**32)  # one permutation for each width
    return lambda x: x[..., np.random.default_rng(key).permutation(x.shape[-1])]


def scaled(random):
    return lambda x: x * np.float32(random.uniform(0.2, 5.0))


def shifted(random):
    """Add one number to all classes of an example or position."""
    return lambda x: x + random.uniform(-9, 9, (*x.shape[:-1], 1)).astype("float32")


def shifted_everywhere(random):
    number = np.float32(random.uniform(-9, 9))
    return lambda x: x + number


def shifted_channels(random):
    """Add one number to all positions of a channel."""
    return lambda x: x + random.uniform(-9, 9, (len(x), *[1] * (x.ndim - 2), x.shape[-1])).astype("float32")


def moved(random):
    """Add one vector to all examples."""
    return lambda x: x + random.uniform(-3, 3, (1, *x.shape[1:])).astype("float32")


def rotated(random):
    """Rotate the features of all examples."""

    def change(x):
        flat = x.reshape(len(x), -1)
        rotation, _ = np.linalg.qr(random.normal(size=2 * flat.shape[1:]))
        return (flat @ rotation).reshape(x.shape).astype("float32")

    return change


def rotated_last_axis(random):
    key = random.integers(2**32)

    def change(x):
        rotation, _ = np.linalg.qr(np.random.default_rng(key).normal(size=2 * x.shape[-1:]))
        return (x @ rotation).astype("float32")

    return change


CHANGES = {
    "channels": both(permuted_channels),
    "both shift": both(shifted_everywhere),
    "shared rotation": both(rotated_last_axis),
    **{
        f"{side} {name}": one(side, function)
        for side in ("student", "teacher")
        for name, function in {
            "channels": permuted_channels,
            "scale": scaled,
            "shift": shifted,
            "shift of channels": shifted_channels,
            "shift of all": moved,
            "rotation": rotated,
        }.items()
    },
}


def changed(name, inputs, expected, random):
    """Return changed inputs, and what their loss should be."""
    student, teacher, labels = inputs
    if name == "examples":
        order = random.permutation(len(tree.flatten(student)[0]))
        permuted = tree.map_structure(lambda x: x if x is None else x[order], inputs)
        return permuted, expected if np.ndim(expected) == 0 else expected[order]
    if name == "classes":
        order = random.permutation(student.shape[-1])
        if labels is not None:
            labels = labels[..., order] if labels.dtype.kind == "f" else np.argsort(order)[labels]
        return (student[..., order], teacher[..., order], labels), expected
    return (*CHANGES[name](student, teacher, random), labels), expected


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "golden, name",
    [pytest.param(golden, name, id=f"{golden.name}, {name}") for golden in LOSSES for name in golden.invariances],
)
@given(seed=seeds)
@several
def test_a_loss_has_the_invariances_of_its_formula(golden, name, seed):
    shapes = golden.shapes[seed % len(golden.shapes)]
    ours, reference = golden.bind(shapes, golden.variants[seed % len(golden.variants)])
    inputs = golden.inputs(shapes, seed)
    inputs, expected = changed(name, inputs, reference(*doubled(inputs)), np.random.default_rng(seed))
    # What is added, scaled or rotated is rounded to float32 before the loss sees it.
    np.testing.assert_allclose(ours(*inputs), expected, rtol=1e-3, atol=1e-4 * np.max(np.abs(expected)) + 1e-6)


# Extremes.


def signs(x, random):
    return (200 * random.choice([-1, 1], x.shape)).astype("float32")


def first_zero(x, random):
    return np.concatenate([np.zeros_like(x[:1]), x[1:]])


EXTREMES = {
    "plus and minus 200": (signs, signs),
    "constant": (lambda x, random: np.full_like(x, 1.5), lambda x, random: np.full_like(x, 0.5)),
    "constant student": (lambda x, random: np.full_like(x, 1.5), lambda x, random: x),
    "zero student": (lambda x, random: np.zeros_like(x), lambda x, random: x),
    "zero teacher": (lambda x, random: x, lambda x, random: np.zeros_like(x)),
    "zero": (lambda x, random: np.zeros_like(x), lambda x, random: np.zeros_like(x)),
    "one zero row": (first_zero, first_zero),
    "a batch of one": (lambda x, random: x[:1], lambda x, random: x[:1]),
    "a row twice": (lambda x, random: x[[0, *range(len(x))]], lambda x, random: x[[0, *range(len(x))]]),
    "all rows equal": (lambda x, random: x[[0] * len(x)], lambda x, random: x[[0] * len(x)]),
    "opposite rows": (lambda x, random: np.concatenate([x, -x]), lambda x, random: np.concatenate([x, -x])),
}


#: What float32 cannot distinguish from a constant or from 0, and float64 can: only finite there.
BEYOND_FLOAT32 = {
    ("pkt", "plus and minus 200"),  # of exactly opposite rows, the cosine is -1 + 6e-8, beside an epsilon of 1e-7
}


@pytest.mark.one_in(2)
@every_loss
def test_extremes_have_the_references_value_and_a_finite_gradient(golden):
    wrong = {}
    for extreme, (change_student, change_teacher) in EXTREMES.items():
        for number, shapes in enumerate(golden.shapes):
            ours, reference = golden.bind(shapes, golden.variants[number % len(golden.variants)])
            student, teacher, _ = golden.inputs(shapes)
            random = np.random.default_rng(2)
            student = of_each(student, functools.partial(change_student, random=random))
            teacher = of_each(teacher, functools.partial(change_teacher, random=random))
            inputs = student, teacher, golden.labels_like(student, random)
            expected = reference(*doubled(inputs))
            values, gradient = ours_and_gradient(ours, inputs)
            if not all(np.all(np.isfinite(side)) for side in (values, *tree.flatten(gradient))):
                wrong[extreme, shapes] = values, gradient
            elif (golden.name, extreme) not in BEYOND_FLOAT32 and not np.allclose(values, expected, 1e-5, 1e-5):
                wrong[extreme, shapes] = values, expected
    assert not wrong


def test_pkt_is_finite_for_opposite_examples():
    # (cos + 1) / 2 is 0 there, and a little below it in float32: the logarithm must not see that.
    random = np.random.default_rng(0)
    for _ in range(100):
        x = random.normal(size=(1, random.integers(1, 6))).astype("float32")
        assert np.all(np.isfinite(losses.pkt(np.concatenate([x, -x]), np.eye(2, dtype="float32"))))


@only(lambda golden: golden.name.startswith("rkd"))
def test_relations_of_examples_far_from_0_and_near_each_other_stay_exact(golden):
    student, teacher, _ = golden.inputs(golden.shapes[0])
    inputs = student + np.float32(1000), teacher - np.float32(1000), None
    # Centred, the features are of size 1; their squares would be of 1e6, of which float32 holds 0.06.
    np.testing.assert_allclose(golden.loss(*inputs[:2]), golden.reference(*doubled(inputs)[:2]), rtol=1e-4)


# Classes that are excluded by a logit of -inf.

every_distribution = only(lambda golden: golden.compares_distributions)

#: Where a probability meets one of exactly 0, the divergence is infinite.
INFINITE = {"enhanced_target", "kl_divergence", "decoupled_kl", "normalized_kl", "transformed_teacher", "binary_kl"}

#: What the loss is for k classes of which one is excluded on both sides, from the loss without it: means over classes.
OF_A_MEAN = {
    "binary_kl": lambda value, k: value * (k - 1) / k,
    "class_correlation": lambda value, k: value * (k - 1) / k,
    "intra_class_relation": lambda value, k: (value * (k - 1) + 1) / k,  # a constant class adds 1
}


def excluding(x, value=-np.inf):
    x = np.array(x)
    x[..., 1] = value
    return x


def excluded_cases(golden):
    for shapes in (golden.shapes[0], golden.shapes[2]):
        for arguments in golden.variants:
            student, teacher, labels = golden.inputs(shapes)
            labels = None if labels is None else np.where(labels == 1, 0, labels)
            infinite = golden.name in INFINITE and arguments.get("non_target_weight") != 0
            infinite = infinite or arguments.get("beta") == 0 or (golden.name, arguments) == ("skew_kl", {"skew": 0.0})
            infinite = infinite or (golden.name == "hard_label" and bool(np.any(np.argmax(teacher, axis=-1) == 1)))
            yield *golden.bind(shapes, arguments), student, teacher, labels, infinite


@only(lambda golden: golden.compares_distributions and golden.name != "inter_class_relation")
def test_a_class_that_both_sides_exclude_does_not_exist(golden):
    of_mean = OF_A_MEAN.get(golden.name, lambda value, k: value)
    for ours, reference, student, teacher, labels, _ in excluded_cases(golden):
        values, gradient = ours_and_gradient(ours, (excluding(student), excluding(teacher), labels))
        labels = labels if labels is None else labels - (labels > 1)
        without = np.delete(student, 1, -1), np.delete(teacher, 1, -1), labels
        expected = functools.partial(lambda f, k, *sides: of_mean(f(*sides), k), reference, student.shape[-1])
        assert deviation(values, expected(*doubled(without))) < TOLERANCE
        slopes = finite_differences(expected, without)
        np.testing.assert_allclose(gradient, np.insert(slopes, 1, 0.0, axis=-1), rtol=1e-4, atol=1e-6)


def test_the_correlation_over_classes_counts_an_excluded_one_as_a_probability_of_0():
    golden = next(golden for golden in LOSSES if golden.name == "inter_class_relation")
    student, teacher, _ = golden.inputs(golden.shapes[2])
    values, gradient = ours_and_gradient(
        golden.bind(golden.shapes[2], {})[0], (excluding(student), excluding(teacher), None)
    )
    inputs = excluding(student, -1e4), excluding(teacher, -1e4), None
    assert deviation(values, golden.reference(*doubled(inputs[:2]))) < TOLERANCE
    slopes = finite_differences(lambda s, t, _: golden.reference(s, t), inputs)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


@only(lambda golden: golden.compares_distributions and golden.name != "reverse_kl")
def test_a_class_that_the_teacher_excludes_has_a_probability_of_0(golden):
    for ours, reference, student, teacher, labels, _ in excluded_cases(golden):
        values, gradient = ours_and_gradient(ours, (student, excluding(teacher), labels))
        if np.max(values) > 1e20:  # jensen_shannon with beta=1 is the reverse divergence
            continue
        inputs = student, excluding(teacher, -1e5), labels  # 0 in float64, at any power
        assert deviation(values, reference(*doubled(inputs))) < TOLERANCE
        np.testing.assert_allclose(gradient, finite_differences(reference, inputs), rtol=1e-4, atol=1e-6)


@every_distribution
def test_a_class_that_the_student_alone_excludes_leaves_the_others_a_finite_gradient(golden):
    for ours, reference, student, teacher, labels, infinite in excluded_cases(golden):
        values, gradient = ours_and_gradient(ours, (excluding(student), teacher, labels))
        inputs = excluding(student, -1e4), teacher, labels  # 0 in float64, and not yet so far that nothing else counts
        assert np.all(np.isfinite(gradient))
        slopes = np.delete(finite_differences(reference, inputs), 1, -1)
        np.testing.assert_allclose(np.delete(gradient, 1, -1), slopes, rtol=1e-3, atol=1e-5)
        assert np.max(values) > 1e25 if infinite else deviation(values, reference(*doubled(inputs))) < TOLERANCE


@pytest.mark.parametrize("arguments", [{"loss": losses.reverse_kl}, {"loss": losses.jensen_shannon, "beta": 1.0}])
def test_the_reverse_divergence_takes_probability_from_a_class_that_the_teacher_alone_excludes(arguments):
    student, teacher = np.zeros((1, 3), "float32"), np.float32([[0.0, -np.inf, 0.0]])
    value, gradient = term_value_and_gradient(Term(**arguments), (student, teacher, None))
    assert value == pytest.approx(1e30 / 3, rel=1e-5)  # q of 1/3 where p is 0
    # q is 1/3 and log(q / p) is log 2/3, for which 80 stands at the class; its mean under q is subtracted, times q.
    ratio = np.array([np.log(2 / 3), 80.0, np.log(2 / 3)])
    np.testing.assert_allclose(gradient[0], (ratio - np.mean(ratio)) / 3, rtol=1e-5)


def test_a_weight_of_zero_takes_an_infinite_divergence_away():
    student, teacher = np.float32([[0, -np.inf], [1, 2]]), np.float32([[0, 0], [2, 1]])
    weights = tf.constant([0.0, 1.0])
    value, gradient = term_value_and_gradient(
        Term(losses.kl_divergence), (student, teacher, None), sample_weight=weights
    )
    # p = (s, 1 - s) and q = (1 - s, s) with s = sigmoid(1), log s / (1 - s) = 1: KL = 2 s - 1; half of it is the mean.
    assert value == pytest.approx(np.tanh(0.5) / 2, rel=1e-5)
    assert not np.any(gradient[0]) and np.all(np.isfinite(gradient))


def test_the_label_may_be_the_only_class_that_is_not_excluded():
    # Nothing is left to be distributed over the others, and the label is certain on both sides.
    student, teacher = np.float32([[3, -np.inf, -np.inf]]), np.float32([[1, -np.inf, -np.inf]])
    for loss in (losses.decoupled_kl, losses.normalized_kl):
        values, gradient = ours_and_gradient(loss, (student, teacher, np.array([0])))
        np.testing.assert_array_equal(values, [0.0])
        assert not np.any(gradient)


@only(lambda golden: golden.labels == "classes")
@pytest.mark.parametrize("form", ["ids", "one-hot"])
def test_labels_may_be_bools(golden, form):
    student, teacher, _ = golden.inputs(((4, 2), (4, 2)))
    labels = np.array([True, False, True, True])
    received = labels if form == "ids" else np.stack([~labels, labels], axis=-1)
    expected = golden.reference(*doubled((student, teacher)), labels.astype(int))
    np.testing.assert_allclose(golden.loss(student, teacher, tf.constant(received)), expected, rtol=1e-5)


def test_true_values_may_be_bools():
    student, teacher, labels = np.float32([[3.0]]), np.float32([[1.5]]), np.array([[True]])
    np.testing.assert_array_equal(losses.teacher_bounded(*map(tf.constant, (student, teacher, labels))), [4.0])


# Through Term.


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_in_is_float32_out(golden, dtype):
    shapes = golden.shapes[0]
    term, reference = term_of(golden, shapes)
    student, teacher, labels = golden.inputs(shapes)
    student, teacher = tree.map_structure(lambda x: tf.cast(x, dtype), (student, teacher))
    value = term(student, teacher, labels)
    assert value.dtype == tf.float32
    rounded = tree.map_structure(lambda x: tf.cast(x, "float64").numpy(), (student, teacher))
    expected = np.mean(reference(*rounded, doubled(labels) if labels is not None else None))
    assert float(value) == pytest.approx(expected, rel=1e-5)


@every_loss
def test_no_gradient_reaches_the_teacher(golden):
    term, _ = term_of(golden, golden.shapes[0])
    student, teacher, labels = golden.inputs(golden.shapes[0])
    student, teacher = tree.map_structure(tf.convert_to_tensor, (student, teacher))
    with tf.GradientTape() as tape:
        tape.watch((student, teacher))
        value = term(student, teacher, labels)
    ours, theirs = tape.gradient(value, (student, teacher))
    assert all(np.any(side) for side in tree.flatten(ours))
    assert all(side is None or not np.any(side) for side in tree.flatten(theirs))


@every_loss
def test_weights_count_in_the_mean_over_examples_or_not_at_all(golden):
    shapes = golden.shapes[0]
    term, reference = term_of(golden, shapes)
    inputs = golden.inputs(shapes)
    values = reference(*doubled(inputs))
    weights = np.linspace(0, 2, len(tree.flatten(inputs[0])[0])).astype("float32")
    value, _ = term_value_and_gradient(term, inputs, sample_weight=tf.constant(weights))
    weighted = values if golden.scalar else weights.reshape(-1, *[1] * (values.ndim - 1)) * values
    assert value == pytest.approx(np.mean(weighted), rel=1e-5)


@only(lambda golden: not golden.mixes)
def test_an_example_of_weight_zero_contributes_nothing(golden):
    for shapes in (golden.shapes[0], golden.shapes[2]):
        term, _ = term_of(golden, shapes)
        student, teacher, labels = golden.inputs(shapes)
        weights = tf.constant([0.0, 1.0, 0.5, 2.0][: len(tree.flatten(student)[0])])
        value, gradient = term_value_and_gradient(term, (student, teacher, labels), sample_weight=weights)
        other = tree.map_structure(lambda x: np.concatenate([x[:1] + 7, x[1:]]), student)
        again, other_gradient = term_value_and_gradient(term, (other, teacher, labels), sample_weight=weights)
        assert value == again
        assert all(not np.any(side[0]) for side in tree.flatten(gradient))
        assert_same(tree.flatten(other_gradient), tree.flatten(gradient))


@only(lambda golden: golden.mixes)
def test_the_docstring_of_a_loss_on_a_whole_batch_describes_weights(golden):
    words = " ".join(golden.loss.__doc__.split())
    assert re.search(r"[Ww]eights do not apply" if golden.scalar else r"[Ww]eights? (of 0|apply|applies)", words)


@every_loss
def test_a_term_is_created_again_from_its_config(golden):
    for number, arguments in enumerate(golden.variants):
        loss = golden.loss(**arguments) if golden.weights else golden.loss
        more = {} if golden.weights else arguments
        term = Term(loss, weight=2.0, temperature=3.0, soften=True, name=f"term_{number}", **more)
        config = json.loads(json.dumps(term.get_config()))
        again = Term.from_config(config)
        assert json.loads(json.dumps(again.get_config())) == config
        assert (again.loss is golden.loss) if not golden.weights else (again.loss.get_config() == loss.get_config())
        assert again.loss_arguments == more
        if not golden.weights:
            inputs = golden.inputs(golden.shapes[0])
            assert float(again(*inputs)) == float(term(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [{golden.name for golden in LOSSES} - {"rkd_angle"}, {"rkd_angle"}],  # few compilations, which are slow; one loop
    ids=["all but rkd_angle", "rkd_angle"],
)
def test_eager_graph_and_xla_agree(names):
    tested = [golden for golden in LOSSES if golden.name in names]
    calls = {golden.name: golden.bind(golden.shapes[0], golden.variants[0])[0] for golden in tested}
    inputs = {golden.name: golden.inputs(golden.shapes[0]) for golden in tested}
    inputs = tree.map_structure(lambda x: x if x is None else tf.convert_to_tensor(x), inputs)

    def everything(inputs):  # as arguments: constants would be computed by the compiler
        found = {}
        for name, (student, teacher, labels) in inputs.items():
            with tf.GradientTape() as tape:
                tape.watch(student)
                values = calls[name](student, teacher, labels)
                total = tf.reduce_sum(values)
            found[name] = values, tape.gradient(total, student, unconnected_gradients="zero")
        return found

    eager = everything(inputs)
    for jit in (False, True):
        compiled = tf.function(everything, jit_compile=jit, autograph=False)(inputs)
        for name, expected in eager.items():
            received, expected = tree.map_structure(np.array, (compiled[name], expected))
            assert deviation(received, expected) < TOLERANCE, (name, jit)


# Losses with weights of their own, and saving.


def test_the_variances_of_variational_information_start_at_their_argument():
    # student == teacher: what remains is log(v) / 2.
    for variance in (5.0, 0.25):
        x = np.ones((2, 3), "float32")
        value = losses.VariationalInformation(variance)(x, x)
        np.testing.assert_allclose(value, 0.5 * np.log(variance), rtol=1e-5)


def test_the_gradient_of_the_variances_is_that_of_the_reference():
    student, teacher = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    layer = goldens.with_random_weights(losses.VariationalInformation(), ((4, 3), (4, 3)))
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(layer(student, teacher))
    gradient = tape.gradient(value, layer.trainable_variables[0]).numpy()

    def reference(raw, teacher, labels):
        return np.mean(
            references.variational_information(doubled(student), teacher, np.log1p(np.exp(raw)) + 1e-5), keepdims=True
        )

    raw = layer.trainable_variables[0].numpy()
    assert deviation(gradient, finite_differences(reference, (raw, teacher, None))) < TOLERANCE


def test_a_memory_keeps_the_last_embeddings_first_in_first_out():
    layer = losses.ContrastiveMemory(dimension=2, memory=5)
    layer.build((None, 3), (None, 3))
    layer.teacher_embedding.set_weights([np.eye(3, 2), np.zeros(2)])
    layer.built = True

    def see(angles):
        teacher = np.array([[np.cos(angle), np.sin(angle), 9.0] for angle in angles], "float32")
        layer(np.ones_like(teacher), teacher, training=True)

    start = layer.bank.numpy()
    see([0.1, 0.2])
    np.testing.assert_allclose(layer.bank[2:], start[2:])
    see([0.3, 0.4])
    see([0.5, 0.6])  # rows 4 and, around the end, 0
    angles = np.arctan2(layer.bank[:, 1], layer.bank[:, 0])
    np.testing.assert_allclose(angles, [0.6, 0.2, 0.3, 0.4, 0.5], rtol=1e-5)
    layer(np.ones((2, 3), "float32"), np.ones((2, 3), "float32"), training=False)
    assert int(layer.position) == 1


def with_equal_embeddings(**arguments):
    """Return a contrastive memory whose two embeddings are the features themselves, of width 5."""
    layer = losses.ContrastiveMemory(dimension=5, **arguments)
    layer.build((None, 5), (None, 5))
    layer.built = True
    for dense in (layer.student_embedding, layer.teacher_embedding):
        dense.set_weights([np.eye(5), np.zeros(5)])
    return layer


def test_a_memory_larger_than_the_data_holds_no_negative_of_an_example_that_is_itself():
    layer, random = with_equal_embeddings(memory=20, temperature=0.5), np.random.default_rng(0)
    x = random.normal(size=(6, 5)).astype("float32")
    unit = references.l2_normalize(x)
    bank = []
    for _ in range(10):
        batch_ids = random.permutation(6)[:4]
        values = layer(x[batch_ids], x[batch_ids], training=True)
        if len(bank) >= 20:  # nothing is left of the random directions
            # The student is perfect. -log e**(1 / T) / (e**(1 / T) + sum of e**(cos / T) over all other examples).
            others = np.array([*batch_ids, *bank[-20:]])
            powers = np.exp(unit[batch_ids] @ unit[others].T / 0.5) * (batch_ids[:, None] != others)
            np.testing.assert_allclose(values, np.log1p(np.sum(powers, axis=1) / np.exp(1 / 0.5)), rtol=1e-5)
        bank += list(batch_ids)
    assert len(bank) == 40


def test_a_perfect_student_of_a_small_data_set_has_almost_no_loss_at_the_defaults():
    # Five orthogonal examples, 4096 in the bank and 410 in the batch, of which four in five are negatives.
    layer, x = with_equal_embeddings(), np.tile(np.eye(5, dtype="float32"), (82, 1))
    for _ in range(10):
        layer(x, x, training=True)
    np.testing.assert_allclose(layer(x, x), np.log1p((4096 + 410) * 4 / 5 * np.exp(-1 / 0.07)), rtol=1e-3)


def test_an_example_rounded_to_float32_is_that_example_and_another_one_is_not():
    layer, random = with_equal_embeddings(memory=2, temperature=1.0), np.random.default_rng(0)
    x = random.normal(size=(1, 5)).astype("float32")
    length = np.linalg.norm(x)
    direction = length * references.l2_normalize(random.normal(size=(1, 5)))
    for distance, negatives in ((1e-6, 0), (1e-2, 1)):
        other = (x + distance * direction).astype("float32")
        layer(np.concatenate([other, -x]), np.concatenate([other, -x]), training=True)  # fills the memory
        # The other one has a cosine of 1 up to 1e-4, and -x one of -1: log(1 + negatives + e**-2).
        np.testing.assert_allclose(layer(x, x), [np.log1p(negatives + np.exp(-2))], rtol=1e-3)


@pytest.mark.parametrize(
    "arguments", [{"dimension": 0}, {"memory": -1}, {"temperature": 0.0}, {"temperature": float("nan")}], ids=str
)
def test_a_memory_of_impossible_numbers_is_refused(arguments):
    with pytest.raises(ValueError, match="`dimension` of at least 1"):
        losses.ContrastiveMemory(**arguments)


@pytest.mark.parametrize("shapes", [((None, None, 3), (None, 4)), ((None, 3), (None, 4, None))], ids=str)
def test_embeddings_of_features_of_unknown_size_are_refused(shapes):
    with pytest.raises(ValueError, match="features of known size"):
        losses.ContrastiveMemory().build(*shapes)


@pytest.mark.parametrize("variance", [0.0, 1e-5, float("nan")])
def test_an_invalid_variance_is_refused(variance):
    with pytest.raises(ValueError, match="`initial_variance` to be above"):
        losses.VariationalInformation(variance)


X, Y = batch(16)
HIDDEN = ("hidden", "hidden")


def of_each_family():
    """Return a compiled Distiller with a logits, regression, feature and relation loss, and both layers."""
    terms = [
        Term(losses.decoupled_kl, transform=kd.transforms.standardize, non_target_weight=2.0),
        Term(losses.huber_error, at=HIDDEN, bridge=keras.layers.Dense(7, kernel_initializer=fixed(3)), delta=0.5),
        Term(losses.cosine, at="logits", soften=False),
        Term(losses.rkd_distance, at=HIDDEN, weight=3.0),
        Term(losses.VariationalInformation(2.0), at=HIDDEN, bridge=keras.layers.Dense(7, kernel_initializer=fixed(4))),
        Term(losses.ContrastiveMemory(dimension=3, memory=20), at=HIDDEN),
    ]
    teacher = mlp(2, units=7)
    distiller = kd.Distiller(student=mlp(1), teacher=teacher, terms=terms)
    distiller.compile(keras.optimizers.Adam(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return distiller, teacher


def fixed(seed):
    return keras.initializers.RandomNormal(seed=seed)


def fit(distiller, epochs=1):
    distiller.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


@pytest.mark.slow
def test_a_distiller_with_a_loss_of_each_family_is_restored_and_continues(tmp_path):
    distiller, teacher = of_each_family()
    fit(distiller)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = teacher
    assert [json.dumps(term.get_config()) for term in loaded.terms] == [
        json.dumps(term.get_config()) for term in distiller.terms
    ]
    assert_same(numbers(loaded), numbers(distiller))
    fit(loaded)
    fit(distiller)
    assert_same(numbers(loaded), numbers(distiller), 1e-6)


def test_the_weights_of_loss_layers_are_trained_and_saved():
    distiller, _ = of_each_family()
    layers = [term.loss for term in distiller.terms if isinstance(term.loss, keras.layers.Layer)]
    before = [numbers(layer) for layer in layers]
    fit(distiller)
    optimized = {variable.path for variable in distiller.trainable_variables}
    for layer, old in zip(layers, before, strict=True):
        assert {variable.path for variable in layer.trainable_variables} <= optimized
        for variable, was in zip(layer.variables, old, strict=True):
            assert np.any(variable.numpy() != was), variable.path


@pytest.mark.slow
def test_the_exported_student_has_no_weights_of_a_loss(tmp_path):
    distiller, _ = of_each_family()
    fit(distiller)
    kd.export(distiller.student, tmp_path / "student", fresh=False)
    exported = tf.saved_model.load(str(tmp_path / "student"))
    shapes = sorted(tuple(variable.shape) for variable in exported.variables)
    assert shapes == sorted(tuple(variable.shape) for variable in mlp(1).variables)
