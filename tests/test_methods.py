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
    "universal_logits": lambda teacher: methods.universal_logits(top_k=2),
    "deit": lambda teacher: methods.deit(),
    "gkd": lambda teacher: methods.gkd(),
    "distillm": lambda teacher: methods.distillm(),
    "distilbert": lambda teacher: methods.distilbert(VECTORS),
    "minilm": lambda teacher: methods.minilm(MAPS, heads=1),
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


def public_methods():
    """Return the names of all methods but those for texts that the student writes, which have tests of their own."""
    files = {name: getattr(value, "__module__", "") for name, value in vars(methods).items()}
    return {name for name, file in files.items() if file.startswith("keras_kd.methods.on_") and "policy" not in file}


def test_every_method_is_in_this_table():
    assert public_methods() == {*METHODS, "sim"}


# Layers that learn are tried in graphs as well; tests of the losses compare what each computes there.
@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "name, eagerly",
    [*((name, True) for name in METHODS), *((name, False) for name in ("fitnets", "vid", "crd", "review"))],
)
def test_a_method_trains_the_student_and_all_of_its_bridges(name, eagerly):
    widths = (3, 5) if name != "fsp" else (6, 7)
    student, teacher = convolutional("student", widths), convolutional("teacher", (6, 7))
    distiller = kd.Distiller(student=student, teacher=teacher, terms=METHODS[name](teacher))
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", cross_entropy, run_eagerly=eagerly)
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


def test_simkd_does_to_the_students_features_all_that_the_teacher_does_to_its_own():
    inputs = keras.Input((4,))
    features = keras.layers.Dense(5, name="features")(inputs)
    hidden = keras.layers.Dense(3, activation="tanh", bias_initializer="ones")(features)
    teacher = keras.Model(inputs, keras.layers.Dense(2, bias_initializer="ones")(hidden))
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="own"), keras.layers.Dense(2)])
    student = bridges.with_teacher_classifier(small, teacher, at=("own", "features"), projection="projected")
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in teacher.layers[-2:])
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    projected = keras.Model(student.input, student.get_layer("projected").output)(x).numpy().astype("float64")
    np.testing.assert_allclose(student(x), np.tanh(projected @ w1 + b1) @ w2 + b2, rtol=1e-5, atol=1e-6)
    # The student's own layer and the projection from 3 to 5; the layers of the teacher stay as they are.
    assert [v.shape for v in student.trainable_variables] == [(4, 3), (3,), (3, 5), (5,)]


def test_simkd_requires_a_plain_chain_after_the_teachers_features():
    inputs = keras.Input((4,))
    features = keras.layers.Dense(4, name="features")(inputs)
    teacher = keras.Model(inputs, keras.layers.Add()([features, inputs]))
    with pytest.raises(ValueError, match="plain chain of layers after 'features'.*takes 2 inputs"):
        bridges.with_teacher_classifier(keras.models.clone_model(teacher), teacher, at=("features", "features"))


def test_layers_of_one_stage_are_paired_and_the_reason_is_printed(capsys):
    pairs = methods.suggest_pairs(convolutional("student", (3, 5)), convolutional("teacher", (6, 7)))
    assert pairs == MAPS
    assert "8x8" in capsys.readouterr().out


def application(name):
    return getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3))


@pytest.mark.parametrize(
    "name, ends",
    [
        ("MobileNetV2", ["expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add", "out_relu"]),
        pytest.param(
            "EfficientNetV2B0",
            ["block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "top_activation"],
            marks=pytest.mark.slow,
        ),
        ("MobileNet", [f"conv_pw_{number}_relu" for number in (1, 3, 5, 11, 13)]),
        (
            "MobileNetV3Small",
            ["activation", "expanded_conv_project_bn", "expanded_conv_2_add", "expanded_conv_7_add", "activation"],
        ),
        ("ResNet50", ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"]),
        pytest.param(
            "DenseNet121", ["conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"], marks=pytest.mark.slow
        ),
    ],
)
def test_the_ends_of_stages_are_paired(name, ends):
    # Read off the architectures: the last block of each size; not what scales or pads the image, not the next block.
    x = inputs = keras.Input((64, 64, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    for width in (4, 5, 6, 7, 8):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", activation="relu", name=f"half_{width}")(x)
    student = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    pairs = methods.suggest_pairs(student, application(name), verbose=False)
    expected = [(f"half_{width}", end) for width, end in zip((4, 5, 6, 7, 8), ends, strict=True)]
    # Keras numbers the activations of MobileNetV3 as they are made.
    assert [
        (ours, theirs if not theirs.startswith("activation") else "activation") for ours, theirs in pairs
    ] == expected


def test_images_of_two_sizes_are_paired_by_the_first_maps():
    def model(size, stem):
        x = inputs = keras.Input((size, size, 1))
        for number, strides in enumerate((stem, 2, 2), start=1):
            x = keras.layers.Conv2D(2, 3, strides=strides, padding="same", name=f"conv_{number}")(x)
        return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))

    same = [(f"conv_{number}", f"conv_{number}") for number in (1, 2, 3)]
    assert methods.suggest_pairs(model(32, 1), model(64, 4), verbose=False) == same  # 32, 16, 8 and 16, 8, 4
    other = [("conv_2", "conv_1"), ("conv_3", "conv_2")]
    assert methods.suggest_pairs(model(32, 1), model(32, 2), verbose=False) == other  # 32, 16, 8 and 16, 8, 4


class PositionEmbedding(keras.layers.Layer):
    """Add a trained vector to each position, as KerasHub's layer does."""

    def build(self, shape):
        """Create the vectors."""
        self.positions = self.add_weight(shape=shape[1:])

    def call(self, x):
        """Add them."""
        return x + self.positions


def transformer(blocks, width, name):
    layers = keras.layers
    inputs = keras.Input((6,), dtype="int32")
    tokens = layers.Embedding(9, width, name="tokens")(inputs)
    x = layers.LayerNormalization(name="embedded")(layers.Add()([tokens, PositionEmbedding(name="positions")(tokens)]))
    for number in range(1, blocks + 1):
        mixed = layers.Add()([x, layers.MultiHeadAttention(1, width)(x, x)])
        x = layers.LayerNormalization(name=f"attention_{number}")(mixed)
        mixed = layers.Add()([x, layers.Dense(width)(layers.Dense(2 * width, activation="relu")(x))])
        x = layers.LayerNormalization(name=f"block_{number}")(mixed)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)), name=name)


def test_blocks_of_tokens_are_paired_and_their_embeddings_are_not():
    pairs = methods.suggest_pairs(transformer(2, 4, "student"), transformer(4, 6, "teacher"), verbose=False)
    expected = [("attention_1", "block_1"), ("block_1", "block_2"), ("attention_2", "block_3"), ("block_2", "block_4")]
    assert pairs == expected


def test_the_vectors_before_the_classifier_are_paired_whatever_follows_it():
    student = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(3), keras.layers.Softmax()]
    )
    assert methods.suggest_pairs(student, keras.models.clone_model(student), verbose=False) == [("hidden", "hidden")]


def test_a_decoder_is_read_at_its_end():
    def model(name):
        layers = keras.layers
        inputs = keras.Input((16, 16, 1))
        fine = layers.Conv2D(2, 3, padding="same", name="fine")(inputs)
        coarse = layers.Conv2D(2, 3, strides=2, padding="same", name="coarse")(fine)
        merged = layers.Concatenate()([layers.UpSampling2D()(coarse), fine])
        return keras.Model(inputs, layers.Conv2D(2, 3, padding="same", name="decoded")(merged), name=name)

    pairs = methods.suggest_pairs(model("student"), model("teacher"), verbose=False)
    assert sorted(pairs) == [("coarse", "coarse"), ("decoded", "decoded")]


def test_models_without_anything_in_common_are_refused_with_their_layers():
    vectors = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="only")], name="vectors")
    with pytest.raises(ValueError, match=r"Found no layers of 'vectors' and 'maps'.*\['only'\].*'stage_1'"):
        methods.suggest_pairs(vectors, convolutional("maps", (3, 5)))


@pytest.mark.parametrize("at", [[], ["ab"], [("a", "b", "c")], [("a", "b"), ("c",)]], ids=str)
def test_the_error_of_feature_methods_without_pairs_names_where_to_find_them(at):
    with pytest.raises(ValueError, match="suggest_pairs"):
        methods.fitnets(at)


def test_methods_can_be_added_to_one_another():
    teacher = convolutional("teacher", (6, 7))
    # DistilBERT's has that of `kd` in it.
    names = [term.name for name, method in METHODS.items() if name != "distilbert" for term in method(teacher)]
    assert len(set(names)) == len(names)


def test_the_numbers_of_a_contrastive_memory_reach_it():
    [term] = methods.crd(VECTORS, dimension=4, temperature=0.5, memory=16)
    assert (term.loss.dimension, term.loss.temperature, term.loss.memory) == (4, 0.5, 16)


@pytest.mark.parametrize("name", ["vid", "crd"])
def test_terms_with_weights_of_their_own_are_numbered_from_1(name):
    assert [term.name for term in getattr(methods, name)(MAPS)] == [f"{name}_1", f"{name}_2"]


def test_a_flow_needs_two_layers_to_go_between():
    with pytest.raises(ValueError, match="at least two pairs"):
        methods.fsp(MAPS[:1])
    assert [term.name for term in methods.fsp([*MAPS, *VECTORS])] == ["fsp_1", "fsp_2"]


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
def test_the_smallest_bridge_makes_shapes_equal(ours, theirs):
    bridge = bridges.auto(ours, theirs)
    bridge.build(ours)
    assert tuple(bridge(np.ones((2, *ours[1:]), "float32")).shape) == (2, *theirs[1:])
    expected = 0 if ours[-1] == theirs[-1] else (ours[-1] + 1) * theirs[-1]
    assert bridge.count_params() == expected


@pytest.mark.parametrize(
    "ours, theirs, cells",
    [
        ((None, 4, 6, 2), (None, 2, 2, 2), lambda x: x.reshape(3, 2, 2, 2, 3, 2).mean(axis=(2, 4))),
        ((None, 6, 2), (None, 3, 2), lambda x: x.reshape(3, 3, 2, 2).mean(axis=2)),
        ((None, 6, 2), (None, 2), lambda x: x.mean(axis=1)),
        ((None, 4, 6, 2), (None, 2), lambda x: x.mean(axis=(1, 2))),
        ((None, 2, 2, 2), (None, 4, 2), lambda x: x.reshape(3, 4, 2)),
        ((None, 4, 6, 2), (None, 4, 2), lambda x: x.reshape(3, 2, 2, 2, 3, 2).mean(axis=(2, 4)).reshape(3, 4, 2)),
    ],
    ids=lambda given: "" if callable(given) else str(given),
)
def test_a_bridge_averages_over_whole_cells_in_the_order_of_the_positions(ours, theirs, cells):
    x = np.random.default_rng(0).normal(size=(3, *ours[1:])).astype("float32")
    np.testing.assert_allclose(bridges.auto(ours, theirs)(x), cells(x.astype("float64")), rtol=1e-5, atol=1e-6)


def test_a_fusion_has_biases_in_its_attention_alone():
    fusion = bridges.ReviewFusion(channels=(2, 4), sizes=((4, 4), (2, 2)), width=3)
    fusion.build(((None, 4, 4, 5), (None, 2, 2, 6)))
    projections, attention, outputs = (5 + 6) * 3, 2 * 3 * 2 + 2, 3 * 3 * 3 * (2 + 4)
    normalisations = 2 * (3 + 3 + 2 + 4)  # a scale and a shift per channel, in the place of biases
    trained = sum(np.prod(variable.shape) for variable in fusion.trainable_variables)
    assert trained == projections + attention + outputs + normalisations


def test_a_fusion_of_stages_requires_one_size_for_each():
    with pytest.raises(ValueError, match="as many sizes as channels"):
        bridges.ReviewFusion(channels=(2, 4), sizes=((4, 4),))


def test_equal_shapes_need_no_bridge_and_impossible_ones_are_refused():
    assert bridges.auto((None, 8, 8, 3), (None, 8, 8, 3)) is None
    with pytest.raises(ValueError, match="knows no projection"):
        bridges.auto((None, 5), (None, 8, 8, 3))


@pytest.mark.slow
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
