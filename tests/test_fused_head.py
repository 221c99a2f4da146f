"""Heads fused with the objective: equal to the way with all logits, and to float64 references of value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_kd as kd
from keras_kd import losses
from keras_kd.language.fused import blocks_for, fused
from keras_kd.language.vocabulary_heads import Product
from tests import references
from tests.models import initial

CLASSES, LENGTH = 13, 5
LARGE = 2_200  # a block of them is compiled
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.integers(0, CLASSES, (2, 11, LENGTH))
WEIGHTS = RANDOM.uniform(0.0, 2.0, (11, LENGTH)).astype("float32")
WEIGHTS[3] = 0.0
PROMPTS = np.where(np.arange(LENGTH) < 2, -100, Y)


def language_model(seed, width, head="tied", mask=False, dtype=None, classes=CLASSES):
    """A model of ids that ends in a product with its vocabulary."""
    ids = keras.Input((None,), dtype="int32")
    arguments = {"mask_zero": mask, "dtype": dtype}
    soft_cap = 2.0 if head == "capped" else None
    embedding = layers.ReversibleEmbedding(
        classes, width, head != "untied", initial(seed), logit_soft_cap=soft_cap, **arguments
    )
    dense = layers.Dense(width, "tanh", kernel_initializer=initial(seed + 1), name="body", dtype=dtype)
    hidden = dense(embedding(ids))
    if head == "dense":
        biased = {"kernel_initializer": initial(seed + 2), "bias_initializer": initial(seed + 3), "dtype": dtype}
        return keras.Model(ids, layers.Dense(classes, **biased)(hidden))
    return keras.Model(ids, embedding(hidden, reverse=True))


def cross_entropy(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def distiller(fused_head, student=None, teacher=None, loss=None, terms=None, optimizer=None, **arguments):
    made = kd.Distiller(
        student=student or language_model(1, 4), teacher=teacher or language_model(5, 6), terms=terms and terms()
    )
    optimizer = optimizer() if optimizer else keras.optimizers.SGD(0.1)
    settings = {"temperature": 2.0, "alpha": 0.4, "jit_compile": False, **arguments}
    made.compile(optimizer, loss or cross_entropy(), **settings, fused_head=fused_head)
    return made


def both_ways(make, *data, epochs=2, **arguments):
    """Train one way and the other, and compare logs, weights and evaluation."""
    found = []
    for fused_head in (False, True):
        made = make(fused_head)
        logs = made.fit(*data, batch_size=4, epochs=epochs, verbose=0, shuffle=False, **arguments).history
        weights = arguments.get("sample_weight")
        evaluated = made.evaluate(*data, sample_weight=weights, batch_size=4, verbose=0, return_dict=True)
        found.append((logs, made.student.get_weights(), evaluated, made))
    (logs, weights, evaluated, _), (others, other_weights, other_evaluated, fused_one) = found
    for name in logs:
        np.testing.assert_allclose(others[name], logs[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for one, other in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
    assert other_evaluated == pytest.approx(evaluated, rel=1e-5)
    return fused_one


@pytest.mark.slow
@pytest.mark.one_in(4)
@pytest.mark.parametrize("teacher", ["tied", "dense"])
@pytest.mark.parametrize("head", ["tied", "untied", "capped", "dense"])
def test_a_fused_head_trains_as_all_logits_do(head, teacher):
    both_ways(lambda way: distiller(way, language_model(1, 4, head), language_model(5, 6, teacher)), X, Y)


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("way", [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}])
def test_however_the_step_is_run(way):
    both_ways(lambda fused_head: distiller(fused_head, loss=cross_entropy(ignore_class=-100), **way), X, PROMPTS)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["dense", pytest.param("capped", marks=pytest.mark.slow)])
def test_large_blocks_are_compiled(head):
    def make(way):
        student, teacher = language_model(1, 4, head, classes=LARGE), language_model(5, 6, classes=LARGE)
        return distiller(way, student, teacher, loss=cross_entropy(ignore_class=-100))

    both_ways(make, X, PROMPTS, sample_weight=WEIGHTS)


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
@pytest.mark.parametrize("head", ["tied", "dense"])
def test_weights_masks_and_ignored_labels_count_as_elsewhere(reduction, head):
    def make(fused_head):
        loss, optimizer = cross_entropy(ignore_class=-100, reduction=reduction), lambda: keras.optimizers.SGD(0.01)
        student = language_model(1, 4, head, mask=True)
        return distiller(fused_head, student, loss=loss, optimizer=optimizer)

    both_ways(make, X, PROMPTS, sample_weight=WEIGHTS)


@pytest.mark.parametrize("masked", ["student", "teacher"])
@pytest.mark.parametrize("head", ["tied", "dense"])
def test_a_mask_counts_where_the_head_hands_it_on(head, masked):
    # A ReversibleEmbedding read in reverse drops the mask of what it reads, a Dense keeps it.
    found = []
    for way in (False, True):
        models = {
            "student": language_model(1, 4, head, mask=masked == "student"),
            "teacher": language_model(5, 6, head, mask=masked == "teacher"),
        }
        found.append({name: float(each) for name, each in distiller(way, **models).objective(X, Y).items()})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    unmasked = distiller(True, language_model(1, 4, head), language_model(5, 6, head)).objective(X, Y)
    assert (float(unmasked["loss"]) == pytest.approx(found[1]["loss"], rel=1e-4)) == (head == "tied")


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "terms",
    [
        lambda: [kd.Term(losses.reverse_kl), kd.Term(losses.jensen_shannon, weight=0.3, temperature=1.0, beta=0.2)],
        lambda: [kd.Term(losses.decoupled_kl, transform=kd.transforms.standardize)],
        lambda: [kd.Term(losses.skew_kl, skew=lambda step: 0.1 + 0.01 * tf.cast(step, "float32"), soften=False)],
        lambda: [kd.Term(losses.kl_divergence), kd.Term(losses.squared_error, at=("body", "body"), bridge="auto")],
        lambda: [kd.Term(losses.kl_divergence, sample_weight=None), kd.Term(losses.hard_label, name="hard")],
    ],
)
def test_terms_are_those_of_all_logits(terms):
    if terms()[-1].bridge == "auto":  # its first weights are drawn
        keras.utils.set_random_seed(0)

    def make(fused_head):
        keras.utils.set_random_seed(0)
        return distiller(fused_head, loss=cross_entropy(ignore_class=-100), terms=terms)

    both_ways(make, X, PROMPTS)


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("alpha", [0.0, 1.0, kd.schedules.Ramp(0.1, 0.9, 4)])
def test_alpha_weights_the_teacher(alpha):
    both_ways(lambda way: distiller(way, alpha=alpha, temperature=kd.schedules.Ramp(1.0, 3.0, 4)), X, Y)


@pytest.mark.slow
def test_a_loss_weight_multiplies_the_labels_part():
    both_ways(lambda way: distiller(way, loss_weights=2.5), X, Y)


@pytest.mark.slow
def test_without_labels_the_teacher_alone_is_learned():
    def make(way):
        made = distiller(way, alpha=1.0)
        made.compile(keras.optimizers.SGD(0.1), alpha=1.0, jit_compile=False, fused_head=way)
        return made

    both_ways(make, X)


@pytest.mark.slow
def test_a_student_in_mixed_precision_is_close_to_all_logits():
    logs = []
    for way in (False, True):
        student = language_model(1, 4, "dense", dtype="mixed_bfloat16")
        logs.append(distiller(way, student).fit(X, Y, batch_size=4, epochs=2, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(logs[1], logs[0], rtol=2e-3)


@pytest.mark.slow
def test_gradients_are_scaled_for_float16():
    both_ways(
        lambda way: distiller(
            way, optimizer=lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 64.0)
        ),
        X,
        Y,
    )


@pytest.mark.slow
def test_a_lora_student_moves_its_adapters_alone():
    def make(way):
        student = language_model(1, 4, "dense")
        for layer in student.layers:
            if hasattr(layer, "enable_lora"):
                layer.enable_lora(2)
        for weight in student.trainable_weights:
            weight.assign(np.random.default_rng(3).normal(0, 0.3, weight.shape))
        return distiller(way, student)

    made = both_ways(make, X, Y)
    assert all("lora" in weight.path or "bias" in weight.path for weight in made.student.trainable_weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
@pytest.mark.parametrize("classes", [CLASSES, pytest.param(LARGE, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("head", ["tied", "dense"])
def test_a_teacher_of_integers_whose_bias_is_trainable_teaches(head, mode, classes):
    def make(way):
        student, teacher = language_model(1, 4, classes=classes), language_model(5, 6, head, classes=classes)
        teacher.quantize(mode)
        return distiller(way, student, teacher)

    both_ways(make, X, Y)


@pytest.mark.slow
def test_adam_after_twenty_steps():
    both_ways(lambda way: distiller(way, optimizer=lambda: keras.optimizers.Adam(1e-3)), X, Y, epochs=7)


# The operation


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9), classes=st.integers(2, 7), size=st.integers(1, 5), by_class=st.booleans(),
    biased=st.booleans(), cap=st.sampled_from([None, 0.7]), seed=st.integers(0, 999),
)  # fmt: skip
def test_sums_and_gradients_are_those_of_a_float64_reference(rows, classes, size, by_class, biased, cap, seed):
    random = np.random.default_rng(seed)
    width = 3
    hidden, kernel = random.normal(size=(rows, width)), random.normal(size=(width, classes))
    bias, teacher = random.normal(size=classes), random.normal(size=(rows, classes))
    ids, weights = random.integers(0, classes, rows), np.array([0.3, 0.7])
    shares = random.uniform(0.0, 1.0, (rows, 2)) * (random.random((rows, 1)) < 0.7)
    product = hidden @ kernel + (bias if biased else 0.0)
    logits = product if cap is None else cap * np.tanh(product / cap)
    p, q = references._softmax(logits), references._softmax(teacher)
    values = np.stack([references.kl_divergence(logits, teacher), -np.log(p[np.arange(rows), ids])], axis=-1)
    slope = shares[:, :1] * weights[0] * (p - q) + shares[:, 1:] * weights[1] * (p - np.eye(classes)[ids])
    slope = slope if cap is None else slope * (1.0 - np.tanh(product / cap) ** 2)

    def of_logits(logits, teacher, ids):
        return [losses.kl_divergence(logits, teacher), keras.losses.sparse_categorical_crossentropy(ids, logits, True)]

    tensors = [tf.constant(each, "float32") for each in (hidden, kernel.T if by_class else kernel, bias)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        made = Product(tensors[1], tensors[2] if biased else None, by_class, cap, "float32")
        others = [tf.constant(teacher, "float32"), tf.constant(ids)]
        shares32, weights32 = tf.constant(shares, "float32"), tf.constant(weights, "float32")
        total, sums = fused(tensors[0], made, of_logits, others, shares32, weights32, size=size)
        total = 2.0 * total
    found = tape.gradient(total, tensors)
    np.testing.assert_allclose(sums, np.sum(shares * values, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(total, 2.0 * np.sum(shares * values @ np.diag(weights)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], 2.0 * slope @ kernel.T, rtol=0, atol=1e-5)
    of_kernel = 2.0 * hidden.T @ slope
    np.testing.assert_allclose(found[1], of_kernel.T if by_class else of_kernel, rtol=0, atol=1e-5)
    if biased:
        np.testing.assert_allclose(found[2], 2.0 * slope.sum(axis=0), rtol=0, atol=1e-5)


def cross_entropies(logits, ids):
    return [tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)]


@pytest.mark.parametrize("by_class", [True, False])
def test_a_compiled_loop_takes_any_number_of_rows(by_class, monkeypatch):
    monkeypatch.setattr("keras_kd.language.fused.MANY", 1)
    random = np.random.default_rng(0)
    kernel = tf.constant(random.normal(size=(7, 3) if by_class else (3, 7)), "float32")
    bias = tf.constant(random.normal(size=7), "float32")

    @tf.function(autograph=False)
    def run(hidden, ids, shares):
        with tf.GradientTape() as tape:
            watched = [hidden, kernel, bias]
            tape.watch(watched)
            product = Product(kernel, bias, by_class, None, "float32")
            total, sums = fused(hidden, product, cross_entropies, [ids], shares, tf.ones(1), size=4)
        return total, sums, *tape.gradient(total, watched)

    specs = [tf.TensorSpec((None, 3)), tf.TensorSpec((None,), "int32"), tf.TensorSpec((None, 1))]
    concrete = run.get_concrete_function(*specs)
    assert sum(node.attr["_XlaMustCompile"].b for node in concrete.graph.as_graph_def().library.function)
    for rows in (1, 4, 38, 41, 70):
        hidden, ids = random.normal(size=(rows, 3)), random.integers(0, 7, rows)
        shares = random.uniform(size=(rows, 1)) * (random.random((rows, 1)) < 0.8)
        p = references._softmax(hidden @ (kernel.numpy().T if by_class else kernel.numpy()) + bias.numpy())
        slope = shares * (p - np.eye(7)[ids])
        expected = np.sum(shares[:, 0] * -np.log(p[np.arange(rows), ids]))
        of_kernel = slope.T @ hidden if by_class else hidden.T @ slope
        of_hidden = slope @ (kernel.numpy() if by_class else kernel.numpy().T)
        given = [tf.constant(each, spec.dtype) for each, spec in zip((hidden, ids, shares), specs, strict=True)]
        total, sums, *found = concrete(*given)
        np.testing.assert_allclose([total, sums[0]], expected, rtol=1e-5)
        for one, right in zip(found, (of_hidden, of_kernel, slope.sum(axis=0)), strict=True):
            np.testing.assert_allclose(one, right, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_blocks_of_an_unknown_number_of_rows_are_few_numbers_and_at_most_a_quarter_more():
    rows = np.arange(1, 3_000)
    found = np.array([int(blocks_for(tf.constant(each, "int32"), None, 3)) for each in rows])
    needed = -(-rows // 3)
    assert np.all(found >= needed) and np.all(found <= 1.25 * needed) and len(set(found)) <= 4 * 10
    assert np.all(found[needed < 8] == needed[needed < 8])
    assert int(blocks_for(tf.constant(999), 999, 3)) == 333  # where it is known, no block is left empty


def test_rows_that_do_not_count_may_hold_anything():
    hidden, kernel = tf.constant([[1.0, 2.0], [np.nan, np.inf]]), tf.ones((2, 3))
    with tf.GradientTape() as tape:
        tape.watch([hidden, kernel])
        made = Product(kernel, None, False, None, "float32")
        ids = [tf.constant([1, 0])]
        shares = tf.constant([[1.0], [0.0]])
        total, _ = fused(
            hidden, made, lambda z, y: [tf.nn.sparse_softmax_cross_entropy_with_logits(y, z)], ids, shares, tf.ones(1)
        )
    assert float(total) == pytest.approx(np.log(3.0))
    assert all(np.isfinite(each).all() for each in tape.gradient(total, [hidden, kernel]))


# When it is chosen


def large(seed, classes=16_384):
    return language_model(seed, 2, classes=classes)


def is_fused(made):
    return made._untracked.fused is not None


def test_heads_are_fused_by_themselves_from_a_size_on():
    assert is_fused(distiller("auto", large(1), large(2)))
    assert not is_fused(distiller("auto", large(1, 16_383), large(2, 16_383)))
    assert not is_fused(distiller("auto", large(1), large(2), metrics=["accuracy"]))
    assert not is_fused(distiller(False, large(1), large(2)))


def test_another_teacher_is_fused_or_not():
    made = distiller("auto", large(1), large(2))
    made.teacher = kd.teachers.EMA()
    assert not is_fused(made)
    made.teacher = large(3)
    assert is_fused(made)


def unbuilt():
    return keras.Sequential([layers.Embedding(CLASSES, 4), layers.Dense(CLASSES)])


def regularised():
    ids = keras.Input((None,), dtype="int32")
    hidden = layers.Embedding(CLASSES, 4)(ids)
    return keras.Model(ids, layers.Dense(CLASSES, activity_regularizer="l2")(hidden))


def softmax_headed():
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, layers.Dense(CLASSES, "softmax")(layers.Embedding(CLASSES, 4)(ids)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": kd.teachers.EMA()}, "the teacher is neither a live model that ends in a product"),
        ({"teacher": softmax_headed()}, "the teacher is neither a live model"),
        ({"teacher": kd.teachers.Frozen(language_model(5, 6), device="CPU:0")}, "a device or a dtype of its own"),
        ({"student": softmax_headed()}, "the student does not end in a product"),
        ({"terms": lambda: [kd.Term(losses.squared_error)]}, "the loss of the term 'squared_error' is not one of .*kl"),
        ({"terms": lambda: [kd.Term(losses.kl_divergence, bridge=layers.Dense(CLASSES))]}, "'kl_divergence' compares"),
        ({"loss": keras.losses.CategoricalCrossentropy(from_logits=True)}, "not a keras.losses.SparseCategorical"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy()}, "not a keras.losses.SparseCategorical.*from_logits"),
        ({"metrics": ["accuracy"]}, "metrics need logits"),
        ({"student": regularised()}, "the student does not end in a product"),
        ({"student": unbuilt()}, "the student does not end in a product"),
    ],
)
def test_what_cannot_be_fused_is_refused_where_it_was_wanted(arguments, message):
    with pytest.raises(ValueError, match=message):
        distiller(True, **arguments)
    assert not is_fused(distiller("auto", **arguments))


def test_another_word_for_the_choice_is_refused():
    with pytest.raises(ValueError, match="`fused_head` to be True, False or \"auto\".*'always'"):
        distiller("always")


def test_labels_out_of_range_stop_the_step():
    made = distiller(True)
    with pytest.raises(ValueError, match=f"labels from 0 to {CLASSES - 1} for 'student_loss'"):
        made.fit(X, Y + CLASSES, verbose=0)


def test_a_file_keeps_the_choice(tmp_path):
    made = distiller(True)
    made.fit(X, Y, verbose=0)
    made.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), made.predict(X, verbose=0), atol=1e-6)
    loaded.teacher = language_model(5, 6)
    assert is_fused(loaded)
