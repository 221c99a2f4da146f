"""How far an artefact may be from the student: by hand, and what an outlier must not excuse."""

import numpy as np
import pytest

from keras_kd.exporting.deviation import Tolerance, classes, measure

RANDOM = np.random.default_rng(0)


def by_hand(expected, of_scale, rounding=0.0):
    """By how much each row may differ, as in the docstring, in loops."""
    center = np.median([value for row in expected for value in row])
    size = [max(abs(value - center) for value in row) for row in expected]
    scale = sorted(size)[int(0.95 * (len(size) - 1))]
    p = max(min(of_scale, 2e-3), rounding)
    return [
        of_scale * max(own, scale) + p * max(abs(value) for value in row) + min(p, scale / 10)
        for own, row in zip(size, expected, strict=True)
    ]


@pytest.mark.parametrize("of_scale, rounding", [(1e-5, 0.0), (1e-5, 2e-2), (1e-2, 0.0), (0.4, 0.0)])
def test_the_worst_example_is_that_which_is_furthest_in_proportion_to_what_it_may_differ(of_scale, rounding):
    expected = RANDOM.normal(3, 2, size=(60, 4))
    expected[5] *= 50
    received = expected + RANDOM.normal(size=(60, 4))
    received[5] += 3
    allowed = by_hand(expected, of_scale, rounding)
    difference = np.abs(received - expected).max(-1)
    worst = max(range(60), key=lambda i: difference[i] / allowed[i])
    found = measure([expected[:25], expected[25:]], [received[:25], received[25:]], Tolerance(of_scale, rounding))
    assert worst != 5
    np.testing.assert_allclose([found.difference, found.allowed], [difference[worst], allowed[worst]], rtol=1e-9)


def test_an_outlier_does_not_excuse_the_others_and_may_itself_be_off_in_proportion():
    expected = RANDOM.normal(size=(300, 4))
    expected[7] = [300, -300, 0, 0]
    for row, wrong in ((8, True), (7, False)):
        received = expected.copy()
        received[row] += 5
        assert (measure([expected], [received], Tolerance(0.4)).ratio > 1) == wrong


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1.0, 1e6])
def test_a_wrong_output_is_found_in_any_unit(unit):
    expected = unit * RANDOM.normal(size=(100, 1))
    near = expected * (1 + 1e-6)
    assert measure([expected], [near], Tolerance(1e-5)).ratio < 1
    assert measure([expected], [-expected], Tolerance(1e-5)).ratio > 1
    assert measure([expected], [-expected], Tolerance(0.4)).ratio > 1


def test_scores_that_are_infinite_for_both_do_not_differ():
    expected = RANDOM.normal(size=(20, 3))
    expected[:, 1] = -np.inf
    assert measure([expected], [expected + 1e-7], Tolerance(1e-5)).ratio < 1
    received = np.where(np.isinf(expected), -50.0, expected)
    assert measure([expected], [received], Tolerance(0.4)).difference == np.inf


def test_nan_is_the_worst_difference_of_all():
    expected = RANDOM.normal(size=(20, 3))
    received = expected + 10
    received[3, 1] = np.nan
    found = measure([expected], [received], Tolerance(0.4))
    assert np.isnan(found.difference) and np.isnan(found.ratio)


def test_constant_outputs_may_be_off_by_a_part_of_themselves():
    expected = np.full((4, 1), 100.0)
    assert measure([expected], [expected + 1e-3], Tolerance(1e-5)).ratio < 1
    assert measure([expected], [expected + 1], Tolerance(1e-5)).ratio > 1
    one = np.concatenate([np.full((99, 1), 0.5), [[300.0]]])  # not by a part of an outlier
    assert measure([one], [one + np.linspace(0, 0.25, 100)[:, None]], Tolerance(0.4)).ratio > 1
    sparse = np.concatenate([np.zeros((97, 1)), [[1.0], [2.0], [60.0]]])  # by a part of the median of the others
    assert measure([sparse], [sparse + 0.79], Tolerance(0.4)).ratio < 1
    assert measure([sparse], [sparse + 0.82], Tolerance(0.4)).ratio > 1
    zeros = np.zeros((4, 1))
    assert measure([zeros], [zeros], Tolerance(1e-5)).ratio == 0
    assert measure([zeros], [zeros + 1e-9], Tolerance(1e-5)).ratio == np.inf


def test_classes_may_change_where_scores_are_near_to_the_largest():
    far, two, three = [1.0, -1.0, -1.0], [1.0, 0.95, -1.0], [1.0, 0.95, 0.96]
    expected = np.array([far] * 80 + [two] * 16 + [three] * 4)
    expected = np.concatenate([expected, -np.ones((100, 3)) + [2, 0, 0]])  # the median is -1, so that all sizes are 2
    found = measure([expected], [expected], Tolerance(0.4))
    # An eighth of 0.4 * 2 + 2e-3 + 2e-3 is 0.1: twice as far as the near ones.
    mean = 16 * 1 / 2 + 4 * 2 / 3
    variance = 16 * 1 / 4 + 4 * 2 / 9
    assert (found.positions, found.disagreements) == (200, 0)
    assert found.tolerated == pytest.approx(mean + 2 * np.sqrt(variance), rel=1e-9)
    # Rows that are nearer than 0.1005 and no eighth, but a ninth, would leave out.
    edge = np.where(expected == 0.95, 0.905, expected)
    edge = np.where(edge == 0.96, 0.905, edge)
    assert measure([edge], [edge], Tolerance(0.4)).tolerated == found.tolerated
    narrow = measure([expected], [expected], Tolerance(0.1))  # an eighth of 0.1 * 2 + 4e-3 is 0.026
    assert narrow.tolerated == 0


def test_no_class_may_change_where_margins_are_wide():
    expected = np.eye(4)[RANDOM.integers(0, 4, 100)]
    received = expected.copy()
    received[9] = received[9][[1, 2, 3, 0]]
    found = measure([expected], [received], Tolerance(0.4))
    assert (found.disagreements, found.tolerated) == (1, 0)


def test_steps_of_probabilities_excuse_differences_and_no_classes():
    expected = RANDOM.dirichlet(np.full(200, 50.0), size=100)  # all below 1 / 100
    received = np.zeros_like(expected)
    assert measure([expected], [received], Tolerance(0.4)).ratio > 1
    found = measure([expected], [received], Tolerance(0.4, resolution=2 / 128))
    assert found.ratio < 1 and found.disagreements > found.tolerated


@pytest.mark.parametrize("shape", [(50, 1), (50,)])
def test_one_unit_has_a_class_by_its_threshold(shape):
    expected = np.linspace(0.1, 0.9, 50).reshape(shape)
    received = expected + 0.1
    found = measure([expected], [received], Tolerance(0.4), cut=0.7)
    assert found.positions == 50
    assert found.disagreements == np.sum((expected >= 0.7) != (received >= 0.7)) > 0
    # The median is 0.5 and the scale the size of the 48th of 50: 0.392 (46 / 49 * 0.4, the sizes come in pairs).
    window = 0.4 * np.maximum(np.abs(expected - 0.5), np.sort(np.abs(expected - 0.5).ravel())[46]) + 2e-3 * expected
    near = np.sum(np.abs(expected - 0.7) <= (window + 2e-3) / 8)
    assert found.tolerated == pytest.approx(near / 2 + 2 * np.sqrt(near / 4))
    assert measure([expected], [received], Tolerance(0.4)).positions == 0


def test_batches_may_have_other_lengths_and_widths():
    expected = [RANDOM.normal(size=(5, n, 3)) for n in (2, 7)]
    found = measure(expected, [each[..., ::-1] for each in expected], Tolerance(1e-5))
    assert found.positions == 45
    assert found.disagreements == sum(np.sum(each.argmax(-1) != 1) for each in expected)
    assert measure([np.ones((2, 3)), np.ones((2, 5))], [np.ones((2, 3)), np.ones((2, 5))], Tolerance(1e-5)).ratio == 0


def test_classes_are_those_of_the_largest_score_or_beyond_the_cut():
    assert list(classes(np.array([[0.1, 0.9], [2.0, 1.0]]), None)) == [1, 0]
    assert list(classes(np.array([[0.3], [0.4]]), 0.4)) == [False, True]
    assert classes(np.array([[0.3], [0.4]]), None) is None
