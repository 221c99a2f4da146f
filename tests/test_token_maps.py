"""Tokens of images are read as maps, and transformers and convolutional networks learn from one another."""

import itertools

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import methods
from keras_kd._internal import token_maps
from keras_kd._internal.layer_reader import Reader

pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
from tests import backbones  # noqa: E402

IMAGES = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype("float32")


def read(model, name, x=IMAGES):
    """Return what is read of a model under a name."""
    x = {"images": x} if isinstance(model.input, dict) else x
    return np.array(keras.ops.convert_to_numpy(Reader(model, (name,))(x, training=False)[1][name]))


# Grids

SIZES = st.integers(1, 24)


@hypothesis.given(height=SIZES, width=SIZES, patch=st.sampled_from([1, 8, 14]), before=st.sampled_from([0, 1, 2, 5]))
def test_the_grid_of_an_image_is_among_those_that_are_found(height, width, patch, before):
    found = token_maps.found_grids(before + height * width, (height * patch, width * patch))
    assert ((before, height, width) in found) == (height * width > 1)
    for others, rows, columns in found:
        assert others + rows * columns == before + height * width and rows * width == columns * height


@pytest.mark.parametrize("side", range(4, 25))
@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_a_square_grid_of_16_and_more_is_found_alone(side, before):
    assert token_maps.found_grids(before + side**2, (1, 1)) == [(before, side, side)]


def test_nine_tokens_may_be_two_grids():
    assert token_maps.found_grids(9, (32, 32)) == [(0, 3, 3), (5, 2, 2)]


# Reading

EMBEDDINGS = {
    "vit": (backbones.vit, "vit_patching_and_embedding", 1),
    "vit without a class": (lambda: backbones.vit(use_class_token=False), "vit_patching_and_embedding", 0),
    "deit": (backbones.deit, "deit_patching_and_embedding", 2),
    "dinov2": (lambda: backbones.dinov2(0), "embeddings", 1),
    "dinov2 with registers": (backbones.dinov2, "embeddings", 5),
}


@pytest.mark.one_in(5)
@pytest.mark.parametrize("kind", EMBEDDINGS)
@pytest.mark.parametrize(("row", "column"), [(0, 1), (2, 3)])
def test_a_patch_of_the_image_is_the_cell_of_the_map_at_its_place(kind, row, column):
    build, layer, before = EMBEDDINGS[kind]
    model = build()
    changed = IMAGES.copy()
    changed[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1.0
    tokens = read(model, layer)
    first, second = read(model, f"{layer}:map"), read(model, f"{layer}:map", changed)
    np.testing.assert_array_equal(first, tokens[:, before:].reshape(2, 4, 4, 8))
    moved = np.any(np.abs(first - second) > 1e-4, axis=(0, 3))
    assert moved[row, column] and np.sum(moved) == 1


def test_an_image_may_have_other_sides():
    model = backbones.vit((16, 48, 3))
    x = np.zeros((2, 16, 48, 3), "float32")
    assert read(model, "vit_encoder:map", x).shape == (2, 2, 6, 8)


def test_a_nested_backbone_and_a_part_of_a_layer_are_read_as_maps():
    classifier = backbones.classifier(backbones.dinov2())
    name = f"{classifier.layers[1].name}/encoder:1/stage1"
    np.testing.assert_array_equal(read(classifier, f"{name}:map"), read(classifier, name)[:, 5:].reshape(2, 4, 4, 8))


def test_a_map_is_read_as_it_is_and_with_its_channels_last():
    inputs = keras.Input((3, 4, 5))
    first = keras.layers.UpSampling2D(2, data_format="channels_first", name="up")(inputs)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    received = read(keras.Model(inputs, first), "up:map", x)
    np.testing.assert_array_equal(received, np.repeat(np.repeat(x, 2, 2), 2, 3).transpose(0, 2, 3, 1))
    last = keras.layers.UpSampling2D(2, name="up")(inputs)
    np.testing.assert_array_equal(read(keras.Model(inputs, last), "up:map", x), np.repeat(np.repeat(x, 2, 1), 2, 2))


def test_a_layer_and_its_map_are_one_pass():
    model = backbones.vit(dropout_rate=0.5)
    _, found = Reader(model, ("vit_encoder", "vit_encoder:map"))(IMAGES, training=True)
    np.testing.assert_array_equal(found["vit_encoder:map"], found["vit_encoder"][:, 1:].numpy().reshape(2, 4, 4, 8))


def tokens_of(count):
    inputs = keras.Input((count, 3))
    return keras.Model(inputs, keras.layers.Dense(2, name="tokens")(inputs))


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (9, "'tokens' of the student to be one grid .* behind 0, 1, 2, 5 others. Received: 9 tokens, which are 2 "),
        (15, "Received: 15 tokens, which are 0 grids. Put a layer behind it that returns the map"),
        (None, r"'tokens' of the student to return tokens, .*a known number .*'tokens:map'. Received: \(None, None"),
    ],
)
def test_tokens_that_are_no_grid_are_refused(count, words):
    with pytest.raises(ValueError, match=words):
        Reader(tokens_of(count), ("tokens:map",), owner="student")


def test_other_ranks_are_no_map():
    with pytest.raises(ValueError, match=r"'back' of the teacher to return tokens.* Received: \(None, 2, 2, 2, 1\)"):
        inputs = keras.Input((8,))
        model = keras.Model(inputs, keras.layers.Reshape((2, 2, 2, 1), name="back")(inputs))
        Reader(model, ("back:map",), owner="teacher")


def test_vectors_are_a_map_of_one_cell():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="vectors")(inputs))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    np.testing.assert_array_equal(read(model, "vectors:map", x)[:, 0, 0], read(model, "vectors", x))
    assert read(model, "vectors:map", x).shape == (4, 1, 1, 2)


@pytest.mark.slow
def test_reviewkd_fuses_pooled_features_and_tokens_as_maps():
    student, teacher = (backbones.classifier(make()) for make in (backbones.resnet, backbones.vit))
    ours, theirs = student.layers[1].name, teacher.layers[1].name
    pooled = next(each.name for each in student.layers if each.name.startswith("global_average"))
    pairs = [
        (f"{ours}/stack0_block0_out", f"{theirs}/vit_encoder:map"),
        (f"{pooled}:map", f"{teacher.layers[-1].name}:input:map"),
    ]
    [term] = methods.review(pairs, teacher, width=4)
    assert term.bridge.sizes == ((4, 4), (1, 1)) and term.bridge.channels == (8, 8)
    distiller = kd.Distiller(student=student, teacher=teacher, terms=[term])
    distiller.compile(keras.optimizers.SGD(0.01), alpha=1.0, run_eagerly=True)
    logs = distiller.fit(IMAGES, batch_size=2, epochs=3, verbose=0).history["loss"]
    assert logs[-1] < logs[0]


# Pairs


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ("mobilenet", "vit", [("re_lu_16", "vit_encoder:map")]),
        ("vit", "resnet", [("vit_encoder:map", "stack1_block0_out")]),
        ("vit", "deit", [("vit_encoder:map", "deit_encoder:0:map")]),
        (
            "resnet",
            "dinov2",
            [
                ("conv1_relu", "encoder:1/stage1:map"),
                ("stack0_block0_out", "encoder:1/stage2:map"),
                ("stack1_block0_out", "layernorm:map"),
            ],
        ),
        (
            "dinov2",
            "swin",
            [
                ("encoder:1/stage1:map", "stage_0:map"),
                ("encoder:1/stage2:map", "stage_1:map"),
                ("layernorm:map", "norm:map"),
            ],
        ),
        ("resnet", "mit", [("stack0_block0_out", "output_level_0"), ("stack1_block0_out", "output_level_1")]),
    ],
)
def test_transformers_and_convolutional_networks_pair_up(student, teacher, expected):
    found = methods.suggest_pairs(backbones.ALL[student](), backbones.ALL[teacher](), verbose=False)
    assert found == expected


class Several(keras.layers.Layer):
    """Return the tokens, and where it is asked to their sum as well."""

    def call(self, x, with_sum=False):
        return (x, keras.ops.sum(x, axis=1)) if with_sum else x


def test_of_a_layer_that_was_asked_for_several_tensors_the_first_is_paired():
    inputs = keras.Input((6, 3))
    returned = Several(name="several")(keras.layers.Dense(2)(inputs), with_sum=True)
    model = keras.Model(inputs, returned)
    assert methods.suggest_pairs(model, tokens_of(6), verbose=False) == [("several:0", "tokens")]
    assert Reader(model, ("several:0",)).specs["several:0"].shape[1:] == (6, 2)


def test_text_and_other_tokens_of_one_length_are_paired_as_they_are():
    assert methods.suggest_pairs(backbones.vit(), backbones.vit(), verbose=False) == [("vit_encoder", "vit_encoder")]
    assert methods.suggest_pairs(tokens_of(4), tokens_of(6), verbose=False) == [("tokens", "tokens")]


def test_maps_that_embed_patches_belong_to_no_stage_of_a_convolutional_network():
    inputs = keras.Input(backbones.SHAPE)
    x = keras.layers.Conv2D(6, 4, strides=4, name="patches")(inputs)  # as large as the second stage of the other
    x = keras.layers.Reshape((64, 6), name="reshaped")(x)
    for block in (1, 2):
        x = keras.layers.Add(name=f"block_{block}")([x, keras.layers.Dense(6)(keras.layers.LayerNormalization()(x))])
    transformer = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))
    found = methods.suggest_pairs(transformer, backbones.resnet(), verbose=False)
    assert found == [("layer_normalization_1:map", "conv1_relu"), ("block_2:map", "stack1_block0_out")]


def test_the_grid_of_an_image_with_other_sides_is_printed(capsys):
    inputs = keras.Input((16, 48, 3))
    student = keras.Model(inputs, keras.layers.Conv2D(4, 3, strides=2, padding="same", name="maps")(inputs))
    methods.suggest_pairs(student, backbones.vit((16, 48, 3)))
    assert capsys.readouterr().out == "maps  ->  vit_encoder:map: maps of 8x24 and 2x6\n"


@pytest.mark.slow
def test_a_cache_keeps_the_map_that_a_live_teacher_would_return(tmp_path):
    teacher, student = backbones.vit(), backbones.classifier(backbones.resnet())
    name = f"{student.layers[1].name}/stack1_block0_out"
    losses = []
    cache = kd.TeacherCache(tmp_path, teacher, taps=("vit_encoder:map",), dtype="float32")
    cache.build(IMAGES, verbose=0)
    for x, given in ((IMAGES, teacher), (cache.join(IMAGES), kd.teachers.Cached(cache))):
        term = kd.Term(kd.losses.attention_transfer, at=(name, "vit_encoder:map"))
        distiller = kd.Distiller(student=student, teacher=given, terms=[term])
        distiller.compile(keras.optimizers.SGD(0.0), alpha=1.0, run_eagerly=True)
        losses.append(float(distiller.objective(x)["loss"]))
    assert losses[0] > 0 and losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_tokens_and_maps_without_a_name_that_makes_a_map_are_refused_with_it():
    student, teacher = backbones.mobilenet(), backbones.vit()
    with pytest.raises(ValueError, match=r"knows no projection .* tokens of images are read .*'encoder:map'"):
        kd.Distiller(student=student, teacher=teacher, terms=methods.fitnets([("re_lu_16", "vit_encoder")]))


def test_pairs_are_printed_with_the_sizes_of_their_maps(capsys):
    methods.suggest_pairs(backbones.mobilenet(), backbones.vit())
    assert capsys.readouterr().out == "re_lu_16  ->  vit_encoder:map: maps of 2x2 and 4x4\n"


@pytest.mark.slow
@pytest.mark.one_in(8)
@pytest.mark.parametrize(("student", "teacher"), list(itertools.product(backbones.ALL, backbones.ALL)))
def test_every_pair_of_backbones_that_fits_trains_a_step_and_any_other_is_refused_by_name(student, teacher):
    ours, theirs = (backbones.classifier(backbones.ALL[name]()) for name in (student, teacher))
    try:
        terms = methods.fitnets(methods.suggest_pairs(ours, theirs, verbose=False), weight=1.0)
        distiller = kd.Distiller(student=ours, teacher=theirs, terms=terms)
    except ValueError as error:
        assert ours.name in str(error) and theirs.name in str(error)
        return
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.01), loss, alpha=0.5, run_eagerly=True)
    assert np.isfinite(distiller.fit(IMAGES, np.array([0, 2]), batch_size=2, verbose=0).history["loss"][0])
