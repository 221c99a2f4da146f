"""What holds for every change: seeds, epochs, types, graphs, and what it refuses; views, noise and tokens."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_kd as kd

SEED = tf.constant([3, 5], tf.int64)
FEW = settings(max_examples=8, deadline=None)
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(8, 3)).astype("float32")
IMAGES = RANDOM.random((8, 6, 5, 3)).astype("float32")
TOKENS = RANDOM.integers(3, 50, (8, 12))
augment = kd.augment

CHANGES = {
    "MixUp": (augment.MixUp(0.4), TABLE),
    "MixUp of images": (augment.MixUp(), IMAGES),
    "CutMix": (augment.CutMix(), IMAGES),
    "Noise": (augment.Noise(TABLE), TABLE),
    "TokenNoise": (augment.TokenNoise(50, 0.4, 0.4), TOKENS),
    "RandomResizedCrop": (augment.RandomResizedCrop(), IMAGES),
    "KerasLayer": (augment.KerasLayer(keras.layers.RandomFlip()), IMAGES),
    "Beside": (augment.Beside(augment.MixUp()), TABLE),
    "a function": (augment.changes.Chain(lambda x, seed: x + tf.random.stateless_normal(tf.shape(x), seed)), TABLE),
}


def test_every_public_change_is_tested():
    public = {each for each in vars(augment).values() if isinstance(each, type) and issubclass(each, augment.Change)}
    assert public - {augment.Change} <= {type(change) for change, _ in CHANGES.values()}


def batches(x, size=4):
    return tf.data.Dataset.from_tensor_slices(x).batch(size)


def epochs(data, count=2):
    return [np.concatenate([np.asarray(each) for each in data]) for _ in range(count)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CHANGES)
def test_the_same_seed_gives_the_same_rows_in_a_graph_too(name):
    change, x = CHANGES[name]
    first = np.asarray(change(x, SEED))
    np.testing.assert_array_equal(first, change(x, SEED))
    np.testing.assert_allclose(first, tf.function(change)(tf.constant(x), SEED), rtol=1e-5, atol=1e-6)
    assert not np.array_equal(first, change(x, SEED + 1))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CHANGES)
def test_a_dataset_that_is_made_anew_repeats_its_epochs_which_differ(name):
    change, x = CHANGES[name]
    first, again, other = (epochs(augment.apply(batches(x), change, seed=seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])
    half = len(first[0]) // 2
    assert not np.array_equal(first[0][:half], first[0][half:])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CHANGES)
def test_types_shapes_and_the_number_of_batches_stay(name):
    change, x = CHANGES[name]
    data = tf.data.Dataset.from_tensor_slices(x).batch(4, drop_remainder=True)
    made = augment.apply(data, change)
    assert made.element_spec.dtype == data.element_spec.dtype
    assert made.element_spec.shape[1:] == data.element_spec.shape[1:]
    assert made.cardinality() == data.cardinality()
    if name not in ("Beside", "a function"):
        assert made.element_spec.shape[0] == 4


@pytest.mark.parametrize("name", ["MixUp of images", "CutMix", "RandomResizedCrop", "KerasLayer"])
def test_images_of_8_bits_are_those_of_floats_rounded(name):
    change, x = CHANGES[name]
    bits = (255 * x).astype("uint8")
    changed = change(bits, SEED)
    assert changed.dtype == "uint8"
    np.testing.assert_allclose(np.asarray(changed, "float32"), change(bits.astype("float32"), SEED), atol=0.51)


@pytest.mark.parametrize("name", CHANGES)
def test_labels_and_weights_of_rows_that_are_not_mixed_stay(name):
    change, x = CHANGES[name]
    if not change.mixes_rows:
        _, y, weight = change.with_labels(x, TABLE, TABLE[:, 0], SEED)
        assert y is TABLE
        np.testing.assert_array_equal(weight, TABLE[:, 0])


@pytest.mark.parametrize("name", [name for name, (change, _) in CHANGES.items() if not change.mixes_rows])
def test_one_example_is_changed_as_a_batch_of_one(name):
    change, x = CHANGES[name]
    np.testing.assert_allclose(
        augment.each(change)(x[0], SEED), augment.changes.Chain(change)(x[:1], SEED)[0], rtol=1e-6
    )


@pytest.mark.parametrize("name", ["MixUp", "CutMix", "Beside"])
def test_mixtures_of_one_example_are_refused(name):
    with pytest.raises(ValueError, match="live"):
        augment.each(CHANGES[name][0])


def test_changes_follow_each_other_each_by_a_seed_of_its_own():
    first, second = augment.Noise(TABLE), augment.Noise(TABLE)
    both = augment.changes.Chain(first, second)(TABLE, SEED) - TABLE
    one = np.asarray(augment.changes.Chain(first)(TABLE, SEED) - TABLE)
    assert np.abs(np.asarray(both) - 2 * one).min() > 1e-6


def test_copies_stand_beside_the_rows():
    x, y, weight = augment.Beside(lambda x, seed: -x).with_labels(TABLE, np.arange(8), None, SEED)
    np.testing.assert_array_equal(x, np.concatenate([TABLE, -TABLE]))
    np.testing.assert_array_equal(y, [*range(8), *[0] * 8])
    np.testing.assert_array_equal(weight, [2.0] * 8 + [0.0] * 8)
    _, y, weight = augment.Beside(lambda x, seed: x[:2]).with_labels(TABLE, np.eye(8), np.arange(8), SEED)
    np.testing.assert_allclose(weight, [*(1.25 * np.arange(8)), 0, 0])
    assert y.shape == (10, 8)
    x, y, weight = augment.Beside(lambda x, seed: x).with_labels(TABLE, None, None, SEED)
    assert (len(x), y, weight) == (16, None, None)


# Views of images.


def test_a_crop_is_what_bilinear_interpolation_finds_in_its_part():
    # Of an image whose pixels are their place, a crop is an even grid between two corners of the image.
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(7.0), indexing="ij")
    images = np.broadcast_to(np.stack([rows, columns], -1).astype("float32"), (200, 9, 7, 2))
    crops = np.asarray(augment.RandomResizedCrop((0.25, 0.5), (0.5, 2.0))(images, SEED), "float64")
    top, left, bottom, right = crops[:, 0, 0, 0], crops[:, 0, 0, 1], crops[:, -1, 0, 0], crops[:, 0, -1, 1]
    np.testing.assert_allclose(crops[:, :, 0, 0], np.linspace(top, bottom, 9, axis=1), atol=1e-4)
    np.testing.assert_allclose(crops[:, 0, :, 1], np.linspace(left, right, 7, axis=1), atol=1e-4)
    height, width = (bottom - top) / 8, (right - left) / 6
    assert (height > 0).all() and top.min() >= -1e-4 and bottom.max() <= 8 + 1e-4
    assert (height * width <= 0.5 + 1e-4).all() and (height * width)[(height < 1) & (width < 1)].min() >= 0.25 - 1e-4
    ratio = (width / height)[(height < 1 - 1e-6) & (width < 1 - 1e-6)]
    assert 0.5 - 1e-3 <= ratio.min() < 0.7 and 1.5 < ratio.max() <= 2 + 1e-3
    assert np.log(ratio).mean() == pytest.approx(0.0, abs=0.1)


def test_a_part_is_as_wide_to_its_height_as_the_ratio_has_it():
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(9.0), indexing="ij")
    image = np.stack([rows / 4, columns / 8], -1).astype("float32")[None]
    crop = np.asarray(augment.RandomResizedCrop((0.32, 0.32), (2, 2))(image, SEED))[0]
    np.testing.assert_allclose(crop[-1, -1] - crop[0, 0], [0.4, 0.8], atol=1e-5)


def test_the_whole_image_stays():
    np.testing.assert_allclose(augment.RandomResizedCrop((1, 1), (1, 1))(IMAGES, SEED), IMAGES, atol=1e-6)


def test_small_and_large_images_are_cut_at_the_same_place():
    large = np.broadcast_to(np.linspace(0, 1, 33, dtype="float32")[None, :, None, None], (8, 33, 33, 1))
    x = {"large": large, "small": large[:, ::4, ::4], "table": TABLE}
    cut = augment.RandomResizedCrop()(x, SEED)
    np.testing.assert_allclose(cut["small"], np.asarray(cut["large"])[:, ::4, ::4], atol=1e-5)
    np.testing.assert_array_equal(cut["table"], TABLE)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.RandomRotation(0.2),
        keras.layers.RandomCrop(3, 4),
        keras.layers.RandomBrightness(0.3, value_range=(0, 1)),
        keras.layers.RandomErasing(value_range=(0, 1)),
        pytest.param(keras.layers.RandAugment(value_range=(0, 1)), marks=pytest.mark.slow),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.one_in(2)
def test_random_layers_of_keras_follow_a_seed(layer):
    before = layer.get_config()
    first, again = (epochs(augment.apply(batches(IMAGES), augment.KerasLayer(layer), seed=1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert layer.get_config() == before


def test_a_flip_is_that_of_keras():
    flipped = np.asarray(augment.KerasLayer(keras.layers.RandomFlip("horizontal"))(IMAGES, SEED))
    turned = [np.array_equal(image, before[:, ::-1]) for image, before in zip(flipped, IMAGES, strict=True)]
    same = [np.array_equal(image, before) for image, before in zip(flipped, IMAGES, strict=True)]
    assert np.all(np.array(turned) | np.array(same)) and any(turned) and any(same)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: augment.KerasLayer(keras.layers.MixUp()), ValueError, "keras_kd.augment.MixUp"),
        (lambda: augment.KerasLayer(keras.layers.Dense(1)), TypeError, "random layer for images"),
        (lambda: augment.KerasLayer(keras.layers.RandomFlip())(TABLE, SEED), ValueError, r"\(8, 3\)"),
        (lambda: augment.RandomResizedCrop((0.5, 0.2)), ValueError, "scale"),
        (lambda: augment.RandomResizedCrop((0.5, 2.0)), ValueError, "at most 1"),
        (lambda: augment.RandomResizedCrop(ratio=(0, 2.0)), ValueError, "ratio"),
        (lambda: augment.RandomResizedCrop()(TABLE, SEED), ValueError, r"\(8, 3\)"),
        (lambda: augment.apply(TABLE, augment.MixUp()), TypeError, r"batch\(64\)"),
        (lambda: augment.apply(batches(TABLE)), ValueError, "at least one change"),
        (lambda: augment.apply(batches(TABLE), "mixup"), TypeError, "'mixup'"),
        (lambda: augment.apply(batches(TABLE), augment.MixUp(), seed=None), ValueError, "seed=None"),
        (lambda: augment.Change()(TABLE, SEED), NotImplementedError, "Change must define __call__"),
    ],
    ids=range(12),
)
def test_errors_tell_what_to_do(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Noise for tables.


def test_noise_has_the_spread_of_each_column_of_the_table():
    table = np.random.default_rng(1).normal(size=(5000, 4)) * [1.0, 100.0, 0.0, 5.0] + [0, 7, 1e6, 0]
    table[::2, 0] = np.nan
    noise = np.asarray(augment.Noise(table, 0.3, codes=[3])(table.astype("float32"), SEED), "float64") - table.astype(
        "f4"
    )
    np.testing.assert_array_equal(np.isnan(noise), np.isnan(table))
    spread = np.nanstd(noise, axis=0)
    np.testing.assert_allclose(spread, [0.3 * np.nanstd(table[:, 0]), 0.3 * np.std(table[:, 1]), 0, 0], rtol=0.05)
    assert np.corrcoef(noise[1::2, :2].T)[0, 1] == pytest.approx(0.0, abs=0.06)


def test_noise_of_a_dict_leaves_integers_and_codes():
    x = {"b": TABLE, "a": np.arange(8), "c": TABLE[:, 0]}
    noisy = augment.Noise(x, codes=["c"])(x, SEED)
    np.testing.assert_array_equal(noisy["a"], x["a"])
    np.testing.assert_array_equal(noisy["c"], x["c"])
    assert list(noisy) == ["b", "a", "c"] and (np.asarray(noisy["b"]) != TABLE).all()
    np.testing.assert_allclose(np.asarray(noisy["b"]), TABLE, atol=0.1 * 5 * TABLE.std())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.Noise(TABLE, 0.0), "scale=0.0"),
        (lambda: augment.Noise(TABLE, codes=[3]), "0 to 2"),
        (lambda: augment.Noise({"a": TABLE}, codes=["b"]), r"\['a'\].*'b'"),
        (lambda: augment.Noise({"a": TABLE})(TABLE, SEED), "structure"),
    ],
    ids=range(4),
)
def test_noise_refuses_what_it_does_not_know(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Noise for texts.


@FEW
@given(
    rows=st.integers(1, 5),
    length=st.integers(1, 9),
    drop=st.sampled_from([0.0, 0.5, 0.99]),
    replace=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_texts_keep_special_tokens_in_their_order_and_padding_at_the_end(rows, length, drop, replace, seed):
    random = np.random.default_rng(seed)
    ids = random.integers(1, 9, (rows, length))  # 1 and 2 are special
    lengths = random.integers(0, length + 1, rows)
    mask = np.arange(length) < lengths[:, None]
    x = {"token_ids": np.where(mask, ids, 0), "padding_mask": mask, "segment_ids": np.where(mask, ids, 0), "n": lengths}
    noise = augment.TokenNoise(20, drop, replace, special=(1, 2))
    noisy = {name: np.asarray(each) for name, each in noise(x, tf.constant([seed, 2], tf.int64)).items()}
    assert {name: (each.dtype, each.shape) for name, each in noisy.items()} == {
        name: (each.dtype, each.shape) for name, each in x.items()
    }
    for row in range(rows):
        before, after = x["token_ids"][row, : lengths[row]], noisy["token_ids"][row]
        left = noisy["padding_mask"][row].sum()
        np.testing.assert_array_equal(noisy["padding_mask"][row], np.arange(length) < left)
        np.testing.assert_array_equal(after == 0, np.arange(length) >= left)
        np.testing.assert_array_equal(
            [each for each in after if each in (1, 2)], [each for each in before if each in (1, 2)]
        )
        assert (after[:left] > 2).any() == (before > 2).any()
        origin = noisy["segment_ids"][row]  # which moves along and is not replaced
        assert (origin[left:] == 0).all()
        if replace == 0.0:
            np.testing.assert_array_equal(origin, after)
        if drop == 0.0:
            np.testing.assert_array_equal(origin, x["segment_ids"][row])
    np.testing.assert_array_equal(noisy["n"], lengths)


def test_tokens_are_left_out_and_replaced_as_often_as_is_asked():
    ids = np.full((2000, 50), 7)
    left_out = np.asarray(augment.TokenNoise(10, 0.2, 0.0)(ids, SEED)) == 0
    assert left_out.mean() == pytest.approx(0.2, abs=0.01)
    replaced = np.asarray(augment.TokenNoise(10, 0.0, 0.4, special=(3,))(ids, SEED))
    counts = np.bincount(replaced.ravel(), minlength=10) / replaced.size
    # Of 8 tokens that may be drawn, 0.4 / 8 each; token 7 keeps 0.6 more. 0 is padding, 3 special.
    expected = np.full(10, 0.05)
    expected[[0, 3]] = 0.0
    expected[7] += 0.6
    np.testing.assert_allclose(counts, expected, atol=0.005)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.TokenNoise(9, drop=1.0), "below 1"),
        (lambda: augment.TokenNoise(9, replace=1.5), "replace=1.5"),
        (lambda: augment.TokenNoise(2, special=(1,)), "vocabulary_size=2"),
        (lambda: augment.TokenNoise(9)(TABLE, SEED), "ids of tokens"),
        (lambda: augment.TokenNoise(9)({"ids": TOKENS}, SEED), "'token_ids'"),
        (lambda: augment.TokenNoise(9)(TOKENS[0], SEED), "ids of tokens"),
    ],
    ids=range(6),
)
def test_token_noise_refuses_what_it_does_not_know(make, message):
    with pytest.raises(ValueError, match=message):
        make()
