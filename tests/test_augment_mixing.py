"""MixUp and CutMix: mixtures of rows and of their labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import keras_kd as kd
from keras_kd.augment.mixing import drawn, partners, shares

SEED = tf.constant([3, 5], tf.int64)
FEW = settings(max_examples=8, deadline=None)


def batches(*parts, size=4):
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


def table(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(scale=100.0, size=(rows, columns)).astype("float32")


@FEW
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 4), seed=st.integers(0, 99), alpha=st.sampled_from([0.01, 1, 3.0])
)
def test_mixtures_lie_between_two_rows_and_codes_are_those_of_one(rows, columns, seed, alpha):
    x = np.concatenate([table(rows, columns), np.arange(rows, dtype="float32")[:, None], np.ones((rows, 1), "f4")], 1)
    mixed = np.asarray(kd.augment.MixUp(alpha, codes=[columns])(x, tf.constant([seed, 1], tf.int64)))
    assert mixed.dtype == x.dtype and mixed.shape == x.shape
    draw = drawn(x, float(alpha), tf.constant([seed, 1], tf.int64))
    partner, share = np.asarray(draw.partner), np.asarray(draw.share, "float64")[:, None]
    np.testing.assert_allclose(
        mixed[:, :columns], (share * x + (1 - share) * x[partner])[:, :columns], rtol=1e-4, atol=1e-4
    )
    assert (mixed >= np.minimum(x, x[partner])).all() and (mixed <= np.maximum(x, x[partner])).all()
    assert all(code in (row, other) for code, row, other in zip(mixed[:, columns], range(rows), partner, strict=True))
    np.testing.assert_array_equal(mixed[:, -1], 1.0)


@FEW
@given(rows=st.integers(1, 30), seed=st.integers(0, 1000))
def test_each_row_is_the_partner_of_one_other(rows, seed):
    found = np.asarray(partners(rows, tf.constant([seed, 0], tf.int64)))
    assert sorted(found) == list(range(rows))
    assert rows == 1 or (found != np.arange(rows)).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha):
    found = np.asarray(shares(20_000, alpha, SEED), "float64")
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_shares_of_a_tiny_alpha_are_numbers_on_both_sides():
    found = np.asarray(shares(1000, 1e-4, SEED))
    assert np.isfinite(found).all() and 400 < (found > 0.5).sum() < 600


def test_codes_come_from_the_row_with_the_probability_of_its_share():
    draw = drawn(np.zeros((20_000, 1)), 1.0, SEED)
    share, own = np.asarray(draw.share), np.asarray(draw.own)
    for low in (0.0, 0.4, 0.8):
        inside = (share >= low) & (share < low + 0.2)
        assert own[inside].mean() == pytest.approx(low + 0.1, abs=0.03)


def test_entries_that_are_no_quantities_are_taken_from_one_row_together():
    rows = 64
    x = {
        "n": np.arange(rows),
        "word": np.array([b"%d" % row for row in range(rows)], object),
        "yes": np.arange(rows) % 2 == 0,
        "coded": np.arange(rows, dtype="float32"),
        "amount": table(rows, 2),
        "image": np.random.default_rng(0).integers(0, 256, (rows, 3, 3, 1)).astype("uint8"),
        "byte": np.arange(rows, dtype="uint8")[:, None],
    }
    mixed = {name: np.asarray(each) for name, each in kd.augment.MixUp(codes=["coded"])(x, SEED).items()}
    for name in ("word", "yes", "coded", "byte"):
        np.testing.assert_array_equal(mixed[name], x[name][mixed["n"]])
    assert not np.array_equal(mixed["n"], x["n"])
    assert {name: each.dtype for name, each in mixed.items()} == {name: each.dtype for name, each in x.items()}
    draw = drawn(x, 1.0, SEED)
    share, partner = np.asarray(draw.share, "float64")[:, None, None, None], np.asarray(draw.partner)
    expected = share * x["image"] + (1 - share) * x["image"][partner]
    np.testing.assert_allclose(mixed["image"], expected, atol=0.501)


def test_nan_stays_where_either_row_has_it():
    x = table(6, 2)
    x[1, 0] = np.nan
    partner = np.asarray(drawn(x, 1.0, SEED).partner)
    mixed = np.asarray(kd.augment.MixUp()(x, SEED))
    np.testing.assert_array_equal(np.isnan(mixed), np.isnan(x) | np.isnan(x[partner]))


@pytest.mark.parametrize("change", [kd.augment.MixUp(0.4), kd.augment.CutMix(0.4)], ids=["MixUp", "CutMix"])
def test_labels_are_mixed_by_the_shares_of_what_is_seen(change):
    # The images hold the label: the share of a class in the label is the share of its channel in the pixels.
    y = np.eye(5, dtype="float32")[np.arange(32) % 5]
    x = np.broadcast_to(y[:, None, None, :], (32, 6, 7, 5)).copy()
    mixed, labels, weights = change.with_labels(x, y, None, SEED)
    np.testing.assert_allclose(np.mean(mixed, axis=(1, 2)), labels, atol=1e-5)
    np.testing.assert_allclose(np.sum(labels, axis=-1), 1.0, atol=1e-6)
    assert weights is None and not np.array_equal(labels, y)


@pytest.mark.parametrize("y", [np.eye(4)[[0, 1, 2, 3]].astype("int32"), np.eye(4, dtype="float32") > 0, np.arange(4.0)])
def test_labels_that_can_be_averaged_are(y):
    _, labels, _ = kd.augment.MixUp().with_labels(table(4, 2), y, None, SEED)
    draw = drawn(table(4, 2), 1.0, SEED)
    share = np.asarray(draw.share, "float64").reshape(-1, *[1] * (y.ndim - 1))
    np.testing.assert_allclose(labels, share * y + (1 - share) * np.asarray(y)[np.asarray(draw.partner)], atol=1e-6)


def test_weighted_labels_count_by_their_weights():
    # For a loss that is linear in the labels, the mixture's weighted loss is m w_a loss_a + (1 - m) w_b loss_b.
    x, y, weight = table(6, 2), np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]], np.array([1, 2, 0, 0.5, 0, 3], "f4")
    _, labels, weights = kd.augment.MixUp().with_labels(x, y, weight, SEED)
    draw = drawn(x, 1.0, SEED)
    share, partner = np.asarray(draw.share, "float64"), np.asarray(draw.partner)
    loss = np.random.default_rng(0).random((6, 3))  # of each class, so that a row's is y . loss
    expected = share * weight * (y * loss).sum(1) + (1 - share) * weight[partner] * (y[partner] * loss).sum(1)
    np.testing.assert_allclose(np.asarray(weights) * (np.asarray(labels) * loss).sum(1), expected, atol=1e-6)


@pytest.mark.parametrize("change", [kd.augment.MixUp(labels="drop"), kd.augment.CutMix(labels="drop")])
def test_labels_that_are_dropped_leave_x_alone(change):
    x = np.random.default_rng(0).random((4, 5, 5, 1)).astype("float32")
    for data in (batches(x, np.arange(4)), batches(x, np.arange(4), np.ones(4))):
        made = kd.augment.apply(data, change)
        assert isinstance(made.element_spec, tf.TensorSpec)
    student, teacher = (
        keras.Sequential([keras.Input((5, 5, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]) for _ in "ab"
    )
    distiller = kd.Distiller(student=student, teacher=teacher)
    distiller.compile("sgd", alpha=1.0, run_eagerly=True)
    distiller.fit(made, verbose=0, shuffle=False)


def test_the_teacher_predicts_for_the_mixture_that_the_student_sees():
    seen = []

    def teacher(x):
        seen.append(np.asarray(x))
        return x

    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False)])
    student.set_weights([np.eye(3)])
    distiller = kd.Distiller(student=student, teacher=kd.teachers.Frozen(teacher, head="logits"))
    distiller.compile(keras.optimizers.SGD(0.0), alpha=1.0, run_eagerly=True)
    x = table(8, 3)
    history = distiller.fit(kd.augment.apply(batches(x), kd.augment.MixUp()), verbose=0, epochs=2, shuffle=False)
    assert history.history["loss"] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert not any(np.allclose(each[0], row) for each in seen for row in x)


@pytest.mark.parametrize("size", [4, 6], ids=["fits", "enlarged"])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_a_rectangle_comes_from_the_partner_and_the_rest_stays(alpha, size):
    x = {"small": np.arange(20)[:, None, None, None] * np.ones((1, 4, 5, 2)), "other": np.arange(20)}
    x["large"] = np.arange(20)[:, None, None, None] * np.ones((1, 2 * size, 10, 1), "uint8")
    pasted = {name: np.asarray(each) for name, each in kd.augment.CutMix(alpha)(x, SEED).items()}
    partner = np.asarray(drawn(x, alpha, SEED).partner)
    np.testing.assert_array_equal(pasted["other"], x["other"])
    for row, image in enumerate(pasted["large"][..., 0]):
        foreign = image == partner[row]
        assert (foreign | (image == row)).all()
        inside = foreign.any(1)[:, None] & foreign.any(0)[None, :]
        np.testing.assert_array_equal(foreign, inside)  # it is a rectangle
    if size == 4:  # twice as large: the same rectangle, up to the pixels of its border
        shares = (pasted["small"] != x["small"]).mean((1, 2, 3)), (pasted["large"] != x["large"]).mean((1, 2, 3))
        np.testing.assert_allclose(*shares, atol=0.3)
        assert np.corrcoef(*shares)[0, 1] > 0.9


def test_rectangles_have_the_area_that_the_paper_gives_them():
    x = np.zeros((5000, 16, 16, 1), "float32")
    _, labels, _ = kd.augment.CutMix().with_labels(x, np.ones((5000, 1), "float32") * 2, None, SEED)
    assert labels.shape == (5000, 1)
    y = np.zeros((5000, 1), "float32")
    y[::2] = 1.0
    # E[cut area] over m ~ U(0, 1) and a uniform centre: a side r keeps r - r**2 / 4 of the height, r = sqrt(1 - m).
    r = np.sqrt(1 - np.linspace(0, 1, 100_001))
    expected = np.mean((r - r**2 / 4) ** 2)
    image = np.arange(5000, dtype="float32")[:, None, None, None] * np.ones((1, 16, 16, 1), "float32")
    cut = np.mean(np.asarray(kd.augment.CutMix()(image, SEED)) != image)
    assert cut == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("change", [kd.augment.MixUp(0.4), kd.augment.CutMix(0.4)], ids=["MixUp", "CutMix"])
def test_a_batch_of_one_stays(change):
    x = np.random.default_rng(0).random((1, 3, 3, 1)).astype("float32")
    mixed, labels, _ = change.with_labels(x, np.ones((1, 2), "float32"), None, SEED)
    np.testing.assert_array_equal(mixed, x)
    np.testing.assert_array_equal(labels, [[1, 1]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kd.augment.MixUp(0.0), "alpha=0.0"),
        (lambda: kd.augment.MixUp(labels="keep"), "labels='keep'"),
        (lambda: kd.augment.CutMix(labels="keep"), "labels='keep'"),
        (lambda: kd.augment.apply(batches(table(4, 2), np.arange(4)), kd.augment.MixUp()), "to_categorical"),
        (lambda: kd.augment.apply(batches(table(4, 2), np.ones((4, 1), int)), kd.augment.MixUp()), "to_categorical"),
        (lambda: kd.augment.apply(batches(table(4, 2)), kd.augment.MixUp(codes=[2])), r"0 to 1.*\[2\]"),
        (lambda: kd.augment.apply(batches(table(4, 2)), kd.augment.MixUp(codes=["a"])), r"\['a'\]"),
        (lambda: kd.augment.MixUp(codes=["b"])({"a": table(4, 2)}, SEED), r"of \['a'\].*\['b'\]"),
        (lambda: kd.augment.MixUp(codes=[0])({"a": table(4, 2)}, SEED), r"\[0\]"),
        (lambda: kd.augment.CutMix()(table(4, 2), SEED), "Expected images"),
        (
            lambda: kd.augment.MixUp().with_labels(table(4, 2), np.eye(4, dtype="f4"), np.ones((4, 2)), SEED),
            "one weight",
        ),
    ],
    ids=range(11),
)
def test_errors_tell_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
