"""The value of every published method on one batch, from its paper, in float64 NumPy; the defaults of all of them."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import bridges, losses, methods, schedules
from tests import goldens, references
from tests.test_methods import MAPS, VECTORS, X, Y, convolutional, public_methods


def seeded(seed, name, widths):
    model, random = convolutional(name, widths), np.random.default_rng(seed)
    model.set_weights([random.normal(scale=0.5, size=weight.shape) for weight in model.get_weights()])
    return model


STUDENT = seeded(0, "student", (3, 5))
WIDE = seeded(1, "wide", (6, 7))  # with the teacher's channels
TEACHER = seeded(2, "teacher", (6, 7))
PAIRS = [("stage_1", "stage_2"), ("stage_2", "stage_1")]  # of other channels and sizes


def read(model, name):
    """Return what a layer computes on X, in float64."""
    layer = model.get_layer(name)
    return np.asarray(keras.Model(model.inputs[0], layer.output)(X), "float64")


def of(pairs, student=STUDENT):
    return [(read(student, ours), read(TEACHER, theirs)) for ours, theirs in pairs]


def logits():
    return read(STUDENT, "scores"), read(TEACHER, "scores")


def softened(loss, temperature, *labels, transform=lambda z: z):
    """Return the mean of T**2 * loss(s / T, t / T)."""
    student, teacher = (transform(z) / temperature for z in logits())
    return temperature**2 * np.mean(loss(student, teacher, *labels))


def multi_level(terms):
    # Only the divergence has T**2.
    total = 0.0
    for temperature in (2, 3, 4, 5, 6):
        student, teacher = (z / temperature for z in logits())
        total += temperature**2 * np.mean(references.kl_divergence(student, teacher))
        total += references.class_correlation(student, teacher) + references.batch_correlation(student, teacher)
    return total


def projected(bridge, maps):
    """Return what a bridge between maps of one size makes: a dense layer on each position."""
    kernel, bias = (np.asarray(weight, "float64") for weight in bridge.get_weights())
    return maps @ kernel + bias


def through_bridges(loss, terms, pairs=MAPS):
    return sum(
        np.mean(loss(projected(term.bridge, student), teacher))
        for term, (student, teacher) in zip(terms, of(pairs), strict=True)
    )


def review(terms):
    return np.mean(
        goldens.review(fused(terms[0].bridge, [student for student, _ in of(MAPS)]), [t for _, t in of(MAPS)])
    )


def normalized(layer, x):
    """Return batch normalisation at inference, with the moving statistics."""
    gamma, beta, mean, variance = (np.asarray(weight, "float64") for weight in layer.get_weights())
    return (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta


def convolved(layer, x):
    """Return a convolution with zeros around the maps, and a bias if there is one."""
    kernel, *bias = (np.asarray(weight, "float64") for weight in layer.get_weights())
    side, (height, width) = len(kernel) // 2, x.shape[1:3]
    padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    total = sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in np.ndindex(*kernel.shape[:2]))
    return total + (bias[0] if bias else 0.0)


def nearest(x, size):
    """Return position floor(i * old / new) at i, as the paper's framework resizes."""
    rows, columns = (
        np.floor(np.arange(new) * old / new).astype(int) for new, old in zip(size, x.shape[1:3], strict=True)
    )
    return x[:, rows][:, :, columns]


def fused(fusion, maps):
    """Return ReviewKD's attention-based fusion: at the student's size, then brought to the teacher's."""
    found, deeper = [], None
    for stage in reversed(range(len(maps))):
        x = normalized(fusion.projection_norms[stage], convolved(fusion.projections[stage], maps[stage]))
        if deeper is not None:
            deeper = nearest(deeper, x.shape[1:3])
            share = convolved(fusion.attentions[stage], np.concatenate([x, deeper], axis=-1))
            share = 1 / (1 + np.exp(-share))
            x = x * share[..., :1] + deeper * share[..., 1:]
        deeper = nearest(x, fusion.sizes[stage])
        found.insert(0, normalized(fusion.output_norms[stage], convolved(fusion.outputs[stage], deeper)))
    return tuple(found)


def contrast(terms):
    layer = terms[0].loss
    dense = {
        name: [np.asarray(weight, "float64") for weight in getattr(layer, name).get_weights()]
        for name in ("student_embedding", "teacher_embedding")
    }
    student, teacher = of(VECTORS)[0]
    bank = np.asarray(layer.bank, "float64")
    values = goldens.contrastive_memory(student, teacher, *dense.values(), bank, temperature=0.07)
    return 0.8 * np.mean(values)


def summed(loss, pairs):
    return sum(np.mean(loss(student, teacher)) for student, teacher in of(pairs))


#: For each method, its terms, and the value of its distillation loss, with the paper's weights written out.
VALUES = {
    "kd": (methods.kd, lambda terms: softened(references.kl_divergence, 4)),
    "standardized": (
        methods.standardized,
        lambda terms: 10 * softened(references.kl_divergence, 2, transform=references.standardize),
    ),
    "dkd": (methods.dkd, lambda terms: softened(references.decoupled_kl, 4, Y)),
    "dist": (
        methods.dist,
        lambda terms: sum(
            2 * softened(loss, 4) for loss in (references.inter_class_relation, references.intra_class_relation)
        ),
    ),
    "nkd": (methods.nkd, lambda terms: softened(references.normalized_kl, 1, Y)),
    "multi_level": (methods.multi_level, multi_level),
    "ttm": (methods.ttm, lambda terms: softened(references.transformed_teacher, 1)),
    "universal_logits": (
        methods.universal_logits,
        lambda terms: 1.5 * softened(references.universal_logits, 1),
    ),
    "deit": (methods.deit, lambda terms: softened(references.hard_label, 1)),
    "gkd": (methods.gkd, lambda terms: softened(references.jensen_shannon, 1)),
    "distillm": (methods.distillm, lambda terms: softened(references.skew_reverse_kl, 1)),
    "distilbert": (
        lambda: methods.distilbert(VECTORS),
        lambda terms: (
            5 * softened(references.kl_divergence, 2) + through_bridges(references.cosine, terms[1:], VECTORS)
        ),
    ),
    "minilm": (
        lambda: methods.minilm(MAPS, heads=1),
        lambda terms: sum(np.mean(references.token_relations(*pair)) for pair in of(MAPS)),
    ),
    "multi_label": (methods.multi_label, lambda terms: softened(references.binary_kl, 1)),
    "regression": (methods.regression, lambda terms: softened(references.squared_error, 1)),
    "fitnets": (lambda: methods.fitnets(MAPS), lambda terms: 100 * through_bridges(references.squared_error, terms)),
    "attention_transfer": (
        lambda: methods.attention_transfer(PAIRS),
        lambda terms: 1000 * summed(references.attention_transfer, PAIRS),
    ),
    "nst": (lambda: methods.nst(PAIRS), lambda terms: 50 * summed(references.nst, PAIRS)),
    "fsp": (
        lambda: methods.fsp(MAPS),
        lambda terms: 50 * np.mean(references.fsp(*zip(*of(MAPS, WIDE), strict=True))),
    ),
    "vid": (
        lambda: methods.vid(MAPS),
        lambda terms: through_bridges(
            lambda student, teacher: references.variational_information(student, teacher, np.array(5.0)), terms
        ),
    ),
    "cwd": (
        lambda: methods.cwd(MAPS),
        lambda terms: (
            3 * 16 * through_bridges(lambda student, teacher: references.channel_wise(student / 4, teacher / 4), terms)
        ),
    ),
    "pkt": (lambda: methods.pkt(VECTORS), lambda terms: 30000 * summed(references.pkt, VECTORS)),
    "rkd": (
        lambda: methods.rkd(VECTORS),
        lambda terms: 25 * summed(references.rkd_distance, VECTORS) + 50 * summed(references.rkd_angle, VECTORS),
    ),
    "similarity_preserving": (
        lambda: methods.similarity_preserving(VECTORS),
        lambda terms: 3000 * summed(references.similarity_preserving, VECTORS),
    ),
    "correlation": (
        lambda: methods.correlation(VECTORS),
        lambda terms: summed(references.correlation_congruence, VECTORS),
    ),
    "crd": (lambda: methods.crd(VECTORS, memory=16), contrast),
    "review": (lambda: methods.review(MAPS, TEACHER, width=4), review),
}  # fmt: skip


def test_every_method_has_its_value_here():
    assert public_methods() == {*VALUES, "sim"}


@pytest.mark.parametrize("name", VALUES)
def test_a_method_has_the_value_of_its_paper(name):
    make, expected = VALUES[name]
    terms = make()
    distiller = kd.Distiller(student=WIDE if name == "fsp" else STUDENT, teacher=TEACHER, terms=terms)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    received = float(distiller.objective(X, Y)["distillation_loss"])
    assert received == pytest.approx(expected(terms), rel=1e-4)  # float32: PKT sums logarithms of ratios near 1


def with_random_weights(layer, shapes):
    layer.build(shapes)
    random = np.random.default_rng(0)
    layer.set_weights(
        [random.uniform(0.5, 1.5, weight.shape) * random.choice([-1, 1]) for weight in layer.get_weights()]
    )
    for norm in (*layer.projection_norms, *layer.output_norms):
        norm.moving_variance.assign(np.abs(norm.moving_variance.numpy()))
    return layer


@pytest.mark.parametrize(
    "ours, theirs",
    [([(8, 8), (4, 4)], [(8, 8), (4, 4)]), ([(8, 6), (5, 3)], [(6, 7), (3, 2)]), ([(4, 4), (2, 2)],) * 2],
)
def test_fused_stages_are_resized_as_in_the_papers_code(ours, theirs):
    shapes = [(2, *size, channels) for size, channels in zip(ours, (3, 5), strict=True)]
    fusion = with_random_weights(bridges.ReviewFusion(channels=(2, 4), sizes=theirs, width=3), shapes)
    maps = [np.random.default_rng(1).normal(size=shape).astype("float32") for shape in shapes]
    for received, expected in zip(fusion(maps), fused(fusion, [each.astype("float64") for each in maps]), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4 * np.max(np.abs(expected)))


# SimKD: the student's features go through the teacher's own classifier.


def reused():
    teacher = convolutional("teacher", (6, 7))
    student = bridges.with_teacher_classifier(convolutional("small", (3, 5)), teacher, at=("features", "features"))
    distiller = kd.Distiller(student=student, teacher=teacher, terms=methods.sim("features"))
    return distiller, student, teacher


def test_simkd_has_the_value_of_its_paper():
    distiller, student, teacher = reused()
    distiller.compile("sgd", alpha=1.0)
    expected = np.mean((read(student, "sim_projection") - read(teacher, "features")) ** 2)
    assert float(distiller.objective(X)["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_the_reused_classifier_does_not_train_with_labels_either(alpha):
    distiller, student, teacher = reused()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.5, weight_decay=0.1), loss, alpha=alpha)
    projection = student.get_layer("bridge").get_weights()
    distiller.fit(X, Y, epochs=2, verbose=0)
    assert all(np.any(a != b) for a, b in zip(student.get_layer("bridge").get_weights(), projection, strict=True))
    for ours, theirs in zip(student.get_layer("scores").get_weights(), teacher.layers[-1].get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_with_alpha_1_the_labels_of_simkd_have_no_effect():
    weights = []
    for labels in (Y, (Y + 1) % 4):
        keras.utils.set_random_seed(0)
        distiller, student, _ = reused()
        distiller.compile(
            keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True), alpha=1.0
        )
        distiller.fit(X, labels, shuffle=False, verbose=0)
        weights.append(student.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_twice_the_learning_rate_and_half_the_weight_decay_train_as_the_sum_of_papers_does():
    # Under SGD: a paper's loss is CE + KD, with a rate of 0.1 and a weight decay of 0.02.
    ours, papers = (keras.models.clone_model(STUDENT) for _ in range(2))
    ours.set_weights(STUDENT.get_weights()), papers.set_weights(STUDENT.get_weights())
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = kd.Distiller(student=ours, teacher=TEACHER)
    distiller.compile(
        keras.optimizers.SGD(0.2, momentum=0.9, weight_decay=0.01), cross_entropy, temperature=3.0, alpha=0.5
    )
    distiller.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.02)
    for _ in range(3):
        with tf.GradientTape() as tape:
            logits = papers(X)
            soft = keras.losses.KLDivergence()(*(tf.nn.softmax(z / 3) for z in (TEACHER(X), logits)))
            loss = cross_entropy(Y, logits) + 9 * soft
        optimizer.apply(tape.gradient(loss, [v.value for v in papers.trainable_variables]), papers.trainable_variables)
    for one, other in zip(ours.get_weights(), papers.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


# A bridge and padding.


def test_the_outputs_of_a_bridge_at_masked_positions_are_removed():
    # The bridge is x -> x + 1, and the second position of the first example is padding: its features count as 0, not 1.
    bridge = keras.layers.Dense(2, kernel_initializer="identity", bias_initializer="ones")
    student, teacher = np.random.default_rng(0).normal(size=(2, 3, 2, 2)).astype("float32")
    mask = np.array([[True, False], [True, True], [True, True]])
    term = kd.Term(losses.similarity_preserving, at=("a", "b"), bridge=bridge)
    received = term(student, teacher, student_mask=mask, teacher_mask=mask)
    ours, theirs = ((side.astype("float64") + shift) * mask[..., None] for side, shift in ((student, 1), (teacher, 0)))
    assert float(received) == pytest.approx(np.mean(references.similarity_preserving(ours, theirs)), rel=1e-5)


# Defaults.

PAIR = [("a", "b"), ("c", "d")]

#: What each method is by default: (method, paper, term, parameter, value), and values at the first step, in the middle
#: and at the end of what changes with the step, of a warm-up over 20 steps.
DEFAULTS = [
    ("kd", "1503.02531", 0, "temperature", 4.0),
    ("kd", "1503.02531", 0, "weight", 1.0),
    ("standardized", "2403.01427", 0, "temperature", 2.0),
    ("standardized", "2403.01427", 0, "weight", 10.0),
    ("dkd", "2203.08679", 0, "target_weight", 1.0),
    ("dkd", "2203.08679", 0, "non_target_weight", 8.0),
    ("dkd", "2203.08679", 0, "temperature", 4.0),
    ("dkd", "2203.08679", 0, "weight", 1.0),
    ("dkd, warm-up", "2203.08679", 0, "weight", (0.05, 0.5, 1.0)),
    ("dist", "2205.10536", 0, "weight", 2.0),
    ("dist", "2205.10536", 1, "weight", 2.0),
    ("dist", "2205.10536", 0, "temperature", 4.0),
    ("dist", "2205.10536", 1, "temperature", 4.0),
    ("nkd", "2303.13005", 0, "non_target_weight", 1.5),
    ("nkd", "2303.13005", 0, "temperature", 1.0),
    ("nkd", "2303.13005", 0, "weight", 1.0),
    *(
        ("multi_level", "MLKD, CVPR 2023", 3 * number + kind, parameter, value)
        for number, temperature in enumerate((2.0, 3.0, 4.0, 5.0, 6.0))
        for kind in range(3)  # a divergence, and two correlations that the T**2 of their terms is taken from
        for parameter, value in (("temperature", temperature), ("weight", 1.0 if kind == 0 else temperature**-2))
    ),
    ("universal_logits", "2402.12030", 0, "top_k", None),
    ("universal_logits", "2402.12030", 0, "temperature", 1.0),
    ("universal_logits", "2402.12030", 0, "weight", 1.5),
    ("ttm", "2402.11148", 0, "power", 0.1),
    ("ttm", "2402.11148", 0, "weighted", False),
    ("ttm", "2402.11148", 0, "weight", 1.0),
    ("ttm", "2402.11148", 0, "soften", False),
    ("deit", "2012.12877", 0, "weight", 1.0),
    ("deit", "2012.12877", 0, "soften", False),
    ("deit", "2012.12877", 0, "at", "logits"),
    ("gkd", "2306.13649", 0, "beta", 0.5),
    ("gkd", "2306.13649", 0, "temperature", 1.0),
    ("gkd", "2306.13649", 0, "weight", 1.0),
    ("distillm", "2402.03898", 0, "skew", 0.1),
    ("distillm", "2402.03898", 0, "loss", losses.skew_reverse_kl),
    ("distillm", "2402.03898", 0, "temperature", 1.0),
    ("distillm", "2402.03898", 0, "weight", 1.0),
    ("distilbert", "1910.01108", 0, "temperature", 2.0),
    ("distilbert", "1910.01108", 0, "weight", 5.0),
    ("distilbert", "1910.01108", 1, "weight", 1.0),
    ("minilm", "2012.15828", 0, "heads", 12),
    ("minilm", "2012.15828", 0, "weight", 1.0),
    ("multi_label", "1503.02531, per label", 0, "temperature", 1.0),
    ("multi_label", "1503.02531, per label", 0, "weight", 1.0),
    ("regression", "1312.6184", 0, "weight", 1.0),
    ("regression", "1312.6184", 0, "soften", False),
    ("regression", "1312.6184", 0, "at", "logits"),
    ("fitnets", "1412.6550", 0, "weight", 100.0),
    ("attention_transfer", "1612.03928", 0, "weight", 1000.0),
    ("nst", "1707.01219", 0, "weight", 50.0),
    ("fsp", "CVPR 2017", 0, "weight", 50.0),
    ("vid", "1904.05835", 0, "weight", 1.0),
    ("vid", "1904.05835", 0, "initial_variance", 5.0),
    ("cwd", "2011.13256", 0, "temperature", 4.0),
    ("cwd", "2011.13256", 0, "weight", 3.0),
    ("cwd", "2011.13256", 0, "soften", True),
    ("pkt", "1803.10837", 0, "weight", 30000.0),
    ("rkd", "1904.05068, distances", 0, "weight", 25.0),
    ("rkd", "1904.05068, angles", 1, "weight", 50.0),
    ("similarity_preserving", "1907.09682", 0, "weight", 3000.0),
    ("correlation", "1904.01802", 0, "weight", 1.0),
    ("crd", "1910.10699", 0, "dimension", 128),
    ("crd", "1910.10699", 0, "loss_temperature", 0.07),
    ("crd", "1910.10699", 0, "memory", 4096),
    ("crd", "1910.10699", 0, "weight", 0.8),
    ("review", "2104.09044", 0, "weight", 1.0),
    ("review", "2104.09044", 0, "width", 64),
    ("review, warm-up", "2104.09044", 0, "weight", (0.05, 0.5, 1.0)),
    ("sim", "2203.14001", 0, "weight", 1.0),
    ("sim", "2203.14001", 0, "at", ("sim_projection", "features")),
]

ARGUMENTS = {
    "fitnets": (PAIR,), "attention_transfer": (PAIR,), "nst": (PAIR,), "fsp": (PAIR,), "vid": (PAIR,), "cwd": (PAIR,),
    "pkt": (PAIR,), "rkd": (PAIR,), "similarity_preserving": (PAIR,), "correlation": (PAIR,), "crd": (PAIR,),
    "distilbert": (PAIR,), "minilm": (PAIR,), "review": (MAPS, TEACHER), "sim": ("features",),
}  # fmt: skip

#: What the losses and the parts around them are by default, beside tests/CONFORMANCE.md.
OTHERS = [
    (losses.jensen_shannon, {"beta": 0.5}),
    (losses.skew_kl, {"skew": 0.1}),
    (losses.skew_reverse_kl, {"skew": 0.1}),
    (losses.token_relations, {"heads": 1}),
    (losses.decoupled_kl, {"target_weight": 1.0, "non_target_weight": 8.0}),
    (losses.normalized_kl, {"non_target_weight": 1.5}),
    (losses.enhanced_target, {"power": 1.5}),
    (losses.transformed_teacher, {"power": 0.1, "weighted": False}),
    (losses.huber_error, {"delta": 1.0}),
    (losses.teacher_bounded, {"margin": 0.0}),
    (losses.correlation_congruence, {"gamma": 0.4, "order": 2}),
    (losses.contrastive, {"similarity_temperature": 0.07}),
    (losses.ContrastiveMemory, {"dimension": 128, "temperature": 0.07, "memory": 4096}),
    (losses.VariationalInformation, {"initial_variance": 5.0}),
    (losses.MaskedGeneration, {"masked": 0.15, "over": "channels"}),
    (losses.MaskedTokenGeneration, {"masked": 0.5}),
    (losses.CenteredCrossEntropy, {"student_temperature": 0.1, "teacher_temperature": 0.04, "momentum": 0.9}),
    (methods.vitkd, {"masked": 0.5, "shallow_weight": pytest.approx(2.25792), "weight": 3e-6}),
    (methods.dino, {"student_temperature": 0.1, "teacher_temperature": 0.04, "momentum": 0.9, "weight": 1.0}),
    (losses.StandardizedFeatures, {"mean": None, "variance": None, "cosine_share": 0.9}),
    (losses.foreground_huber, {"threshold": 0.5}),
    (losses.scale_decoupled_kl, {"complementary_weight": 2.0}),
    (methods.sdd, {"complementary_weight": 2.0, "temperature": 4.0, "weight": 1.0}),
    (methods.detector, {"class_weight": 1.0, "box_weight": 1.0, "neck_weight": 1.0, "threshold": 0.5}),
    (methods.backbone, {"weight": 1.0, "global_weight": 1.0}),
    (bridges.ReviewFusion, {"width": 64}),
    (kd.teachers.EMA, {"decay": 0.999}),
    (kd.Distiller.compile, {"temperature": 2.0, "alpha": 0.5}),
    (kd.Term, {"weight": 1.0, "temperature": None, "soften": None}),
]


def setting(term, name):
    """Return a parameter of a term, or of its loss or bridge."""
    if name == "loss_temperature":
        return term.loss.temperature
    if name in term.loss_arguments:
        return term.loss_arguments[name]
    if name == "width":
        return term.bridge.width
    return getattr(term if hasattr(term, name) else term.loss, name)


@pytest.mark.parametrize("method, paper, number, name, value", DEFAULTS)
def test_a_method_has_the_defaults_of_its_paper_at_every_step(method, paper, number, name, value):
    method, _, warm_up = method.partition(", ")
    steps = {"warmup_steps": 20} if warm_up else {}
    received = setting(getattr(methods, method)(*ARGUMENTS.get(method, ()), **steps)[number], name)
    if not isinstance(value, (float, tuple)) or name == "at":
        assert received == value and type(received) is type(value)
        return
    expected = value if isinstance(value, tuple) else (value,) * 3
    assert [float(schedules.at(received, step)) for step in (0, 9, 10**6)] == pytest.approx(expected, rel=1e-6)


def test_every_parameter_of_every_method_is_in_the_table():
    known = {(method.partition(",")[0], name) for method, _, _, name, _ in DEFAULTS}
    other_names = {
        ("dkd", "warmup_steps"): ("dkd", "weight"),
        ("review", "warmup_steps"): ("review", "weight"),
        ("dist", "inter_weight"): ("dist", "weight"),
        ("dist", "intra_weight"): ("dist", "weight"),
        ("multi_level", "temperatures"): ("multi_level", "temperature"),
        ("rkd", "distance_weight"): ("rkd", "weight"),
        ("rkd", "angle_weight"): ("rkd", "weight"),
        ("distillm", "reverse"): ("distillm", "loss"),
        ("distilbert", "cosine_weight"): ("distilbert", "weight"),
        ("crd", "temperature"): ("crd", "loss_temperature"),
        ("sim", "projection"): ("sim", "at"),
    }
    for method in (*VALUES, "sim"):
        for name, parameter in inspect.signature(getattr(methods, method)).parameters.items():
            key = other_names.get((method, name), (method, name))
            assert parameter.default is parameter.empty or key in known, key


@pytest.mark.parametrize("function, expected", OTHERS, ids=lambda each: getattr(each, "__qualname__", ""))
def test_losses_teachers_and_terms_have_these_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_without_a_warm_up_a_weight_is_a_number():
    for terms in (methods.dkd(weight=3.0), methods.review(MAPS, TEACHER, weight=3.0)):
        assert terms[0].weight == 3.0
