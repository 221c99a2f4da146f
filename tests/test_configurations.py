"""Random small configurations: their numbers are those of NumPy in float64, or a refusal has a reason known here.

15 are drawn in `make test`, 120 with KERAS_KD_THOROUGH=1, as in .ci/run; KERAS_KD_CONFIGURATIONS=1000 draws so many.
The reference runs the models' own layers, and computes every part of the objective from what they return with
`tests.references`; the labels' part is what Keras's `evaluate` returns for the student alone.
"""

import collections
import os
import pathlib
import re
import traceback
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import Term, losses
from tests import references
from tests.models import assert_same, initial, softmax

LIBRARY = pathlib.Path(kd.__file__).parent
COUNT = int(os.environ.get("KERAS_KD_CONFIGURATIONS", 120 if os.environ.get("KERAS_KD_THOROUGH") else 15))
OVER_CLASSES = [
    losses.kl_divergence,
    losses.reverse_kl,
    losses.jensen_shannon,
    losses.skew_kl,
    losses.skew_reverse_kl,
    losses.decoupled_kl,
    losses.normalized_kl,
    losses.enhanced_target,
    losses.inter_class_relation,
    losses.intra_class_relation,
    losses.class_correlation,
    losses.batch_correlation,
    losses.transformed_teacher,
    losses.squared_error,
    losses.cosine,
]
OVER_LABELS = [losses.binary_kl, losses.squared_error, losses.huber_error, losses.absolute_error]
OVER_VALUES = [losses.squared_error, losses.huber_error, losses.absolute_error, losses.teacher_bounded]
OVER_FEATURES = [losses.squared_error, losses.absolute_error, losses.cosine]
OVER_BATCHES = [
    losses.similarity_preserving,
    losses.pkt,
    losses.rkd_distance,
    losses.rkd_angle,
    losses.correlation_congruence,
    losses.contrastive,
]
POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]
SCALES = st.sampled_from([0.0, 1e-3, 1.0, 1.0, 100.0])
WEIGHTS = st.sampled_from([0.0, 0.1, 1.0, 10.0])
TEMPERATURES = st.sampled_from([0.1, 1.0, 4.0, 100.0]) | st.floats(0.2, 20)

ARRAYS = ["logits", "softmax", "sigmoid", "values"]
HEADS = [*ARRAYS, "positions"]

#: What may be special about a configuration, and the heads it is tried on.
KINDS = {
    "plain": HEADS,
    "adapted": ARRAYS,  # the first layer is a Normalization that has been adapted
    "average": HEADS,  # the teacher is the student's average, of a student that has adapted; the user has compiled it
    "axis": ["softmax"],  # a softmax over another axis than the last
    "bool": ["logits", "softmax"],  # labels of True and False
    "column": ["sigmoid"],  # the teacher is a function that returns one column of probabilities
    "copy": HEADS,  # the teacher is a copy on a device, of a model that has adapted
    "doubtful": ["sigmoid"],  # as "column", and nothing declares that these are probabilities
    "optional": ARRAYS,  # an input that may be None, and is
    "overridden": ARRAYS,  # the student has a loss and a prediction of its own
    "reshaped": ["softmax"],  # layers that move values follow the softmax
    "schedule": HEADS,  # alpha or the temperature leaves its range at the second step
}

NEED_LABELS = (losses.decoupled_kl, losses.normalized_kl, losses.enhanced_target, losses.teacher_bounded)

#: Losses that are a difference of numbers near 1: float32 loses the same at every temperature, times T**2.
CANCELLING = (
    losses.class_correlation,
    losses.batch_correlation,
    losses.cosine,
    losses.jensen_shannon,
    losses.skew_kl,
    losses.skew_reverse_kl,
)
ROUNDING = 1e-6

#: A graph rounds features of 16 bits at other places than the layers called one by one: once, where two are fused.
ROUNDING_OF_FEATURES = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}

#: Why a configuration may be refused, with what the message has to contain.
REASONS = {
    "weights without labels": "labels beside `sample_weight`",
    "a loss that needs labels": "learns from labels as well",
    "classes on another axis": "classes on the last axis.*axis 1",
    "a schedule that leaves its range": "(alpha|temperature).*step",
}

OVERFLOWING = {  # a student's outputs of hundreds, which float16 cannot square
    "kind": "plain",
    "head": "values",
    "teacher_head": "values",
    "classes": 5,
    "features": 4,
    "units": (5, 6),
    "examples": 5,
    "batch_size": 4,
    "scale": 100.0,
    "teacher_scale": 0.0,
    "policies": ("mixed_float16", "mixed_float16"),
    "terms": [(losses.squared_error, 0.1, None), (losses.teacher_bounded, 10.0, 0.1)],
    "hints": [(losses.pkt, 10.0), (losses.contrastive, 10.0)],
    "alpha": 1.0,
    "temperature": 1.0,
    "weights": None,
    "labels": True,
    "regularizer": "l2",
    "seed": 9,
}


@st.composite
def configurations(draw, kind):
    """Draw what to train on what, as plain values."""
    head = draw(st.sampled_from(KINDS[kind]))
    fewest = 2 if head in ("logits", "softmax", "positions") else 1
    over_logits = {"sigmoid": OVER_LABELS, "values": OVER_VALUES}.get(head, OVER_CLASSES)
    terms = draw(st.lists(st.tuples(st.sampled_from(over_logits), WEIGHTS, st.none() | TEMPERATURES), max_size=2))
    places = OVER_FEATURES + ([] if head == "positions" else OVER_BATCHES)
    hints = draw(st.lists(st.tuples(st.sampled_from(places), WEIGHTS), max_size=2, min_size=0 if terms else 1))
    drawn = {
        "kind": kind,
        "head": head,
        "teacher_head": draw(st.sampled_from(["logits", "softmax"])) if head in ("logits", "softmax") else head,
        "classes": draw(st.integers(fewest, 6)),
        "features": draw(st.integers(1, 5)),
        "units": draw(st.tuples(st.integers(1, 6), st.integers(1, 6))),
        "examples": draw(st.integers(1, 7)),
        "batch_size": draw(st.sampled_from([4, 16])),
        "scale": draw(SCALES),
        "teacher_scale": draw(SCALES),
        "policies": draw(st.tuples(st.sampled_from(POLICIES), st.sampled_from(POLICIES))),
        "terms": terms,
        "hints": hints,
        "alpha": draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1)),
        "temperature": draw(TEMPERATURES),
        "weights": draw(st.sampled_from([None, "some", "zeros"])),
        "labels": draw(st.sampled_from([True, True, True, False])),
        "regularizer": draw(st.sampled_from([None, "l2"])),
        "seed": draw(st.integers(0, 99)),
    }
    return specialised(drawn)


def specialised(drawn):
    """Return a configuration that its kind can be tried on."""
    policy, terms = drawn["policies"][0], drawn["terms"]
    one_column = {
        "classes": 1,
        "policies": (policy, "float32"),
        "hints": [],
        "terms": terms or [(losses.binary_kl, 1.0, None)],
    }
    small = min(drawn["scale"], 1.0), min(drawn["teacher_scale"], 1.0)
    special = {
        "axis": {"terms": terms or [(losses.kl_divergence, 1.0, None)]},
        "bool": {"classes": 2},
        "column": one_column,
        "doubtful": one_column,
        # Keras's loss has no logits behind a reshape, and rounds probabilities at 1e-7.
        "reshaped": {"scale": small[0], "teacher_scale": small[1], "teacher_head": "softmax"},
        "overridden": {"labels": True},
        "schedule": {  # in float32: float16 skips steps that overflow, and a step that is skipped is not counted
            "labels": True,
            "policies": ("float32", "float32"),
            "terms": [(loss, weight, None) for loss, weight, _ in terms],
        },
    }
    return {**drawn, **special.get(drawn["kind"], {})}


@pytest.mark.one_in(2)
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")  # Keras, of one class
@pytest.mark.parametrize("kind", KINDS)
def test_random_configurations_have_the_numbers_of_numpy_or_are_refused_for_a_reason(kind, capsys):
    counts = collections.Counter()

    @settings(
        max_examples=2 * COUNT // 5 if kind == "plain" else max(1, 3 * COUNT // 5 // (len(KINDS) - 1)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a failure takes minutes
    )
    @given(configurations(kind))
    def check(drawn):
        counts[outcome(drawn)] += 1

    (example(OVERFLOWING)(check) if kind == "plain" else check)()
    with capsys.disabled():
        print(f"\n{kind}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    refused = {"schedule": "a schedule that leaves its range", "axis": "classes on another axis"}
    if kind in refused:
        assert set(counts) == {refused[kind]}
    else:
        assert counts["passed"] >= 0.6 * sum(counts.values())  # 8 or 9 in 10 have what they need


def outcome(drawn):
    """Train as drawn and check the numbers; return "passed", or the reason why it was refused."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(drawn["seed"])
    reason = due(drawn)
    try:
        distiller = compiled(drawn)
        before = distiller.student.get_weights()
        steps = Steps()
        epochs = 3 if drawn["kind"] == "schedule" else 1
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            logs = distiller.fit(**data(drawn), epochs=epochs, callbacks=[steps], shuffle=False, verbose=0).history
    except (ValueError, TypeError) as error:
        raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert raised_in.is_relative_to(LIBRARY), traceback.format_exc()
        assert reason is not None and re.search(REASONS[reason], str(error)), traceback.format_exc()
        if drawn["kind"] == "schedule":
            assert len(steps.weights) == 2  # one step was allowed, and the second has left nothing
            assert_same(distiller.student.get_weights(), steps.weights[-1])
        return reason
    assert reason is None, f"Expected a refusal: {reason}"
    assert any("look like probabilities" in str(each.message) for each in warned) == (drawn["kind"] == "doubtful")
    logs = {name: values[0] for name, values in logs.items()}
    if not np.isfinite(logs.get("mse", 0.0)):  # Keras squares a student's float16 in float16, in its own fit as well
        assert not np.isfinite(alone(distiller.student, drawn, metrics=["mse"])["mse"])
    logs.pop("mse", None)
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert all(np.array_equal(a, b) for a, b in zip(distiller.student.get_weights(), before, strict=True))
    for name, (expected, tolerance) in reference(drawn, distiller).items():
        assert logs[name] == pytest.approx(expected, rel=1e-4, abs=tolerance), f"{name}: {logs[name]}, not {expected}"
    if drawn["kind"] == "overridden":
        predicted = distiller.predict(data(drawn)["x"], verbose=0)
        np.testing.assert_allclose(predicted, 3.0 * distiller.student(data(drawn)["x"]), rtol=1e-6)
    return "passed"


def due(drawn):
    """Return the reason for which a configuration has to be refused, or None."""
    labelled = "y" in data(drawn)
    if drawn["kind"] == "axis":
        return "classes on another axis"
    if drawn["kind"] == "schedule":
        return "a schedule that leaves its range"
    if not labelled and drawn["weights"] is not None:
        return "weights without labels"
    if not labelled and any(loss in NEED_LABELS for loss, *_ in drawn["terms"]):
        return "a loss that needs labels"
    return None


def compiled(drawn):
    """Return a Distiller as drawn."""
    student = model(drawn, 0, drawn["head"], drawn["scale"], drawn["regularizer"])
    terms = [
        Term(loss, weight=weight, temperature=temperature, name=f"term_{number}")
        for number, (loss, weight, temperature) in enumerate(drawn["terms"])
    ]
    hints = [
        Term(loss, at=("hidden", "hidden"), weight=weight, bridge="auto", name=f"hint_{number}")
        for number, (loss, weight) in enumerate(drawn["hints"])
    ]
    head = drawn["head"] if drawn["head"] in ("sigmoid", "values") else "auto"
    distiller = kd.Distiller(student=student, teacher=teacher(drawn, head), terms=terms + hints, student_head=head)
    if drawn["kind"] == "average":  # whose accuracy the user has measured
        distiller.teacher.model.compile(loss=loss_of(drawn["head"]), metrics=["mse"], run_eagerly=True)
    distiller.compile(
        keras.optimizers.SGD(
            0.1 if drawn["kind"] == "schedule" else 0.0
        ),  # the numbers of all batches are those of one model
        loss_of(drawn["head"]) if "y" in data(drawn) else None,
        metrics=["mse"] if drawn["head"] == "values" else None,
        run_eagerly=True,
        **{"temperature": drawn["temperature"], "alpha": drawn["alpha"], **leaving(drawn)},
    )
    return distiller


def leaving(drawn):
    """Return a schedule that leaves its range at the second step."""
    if drawn["kind"] != "schedule":
        return {}
    if drawn["seed"] % 2:
        return {"alpha": lambda step: 0.5 + keras.ops.cast(step, "float32")}
    return {"temperature": lambda step: 1.0 - keras.ops.cast(step, "float32")}


class Steps(keras.callbacks.Callback):
    """Keep the student's weights after each step."""

    def on_train_begin(self, logs=None):
        self.weights = [self.model.student.get_weights()]

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.student.get_weights())


# Models and data


class Doubled(keras.Model):
    """A student with a loss and a prediction of its own."""

    def compute_loss(self, *args, **kwargs):
        return 2.0 * super().compute_loss(*args, **kwargs)

    def predict_step(self, data):
        return 3.0 * super().predict_step(data)


class Second(keras.layers.Layer):
    """Return the second of two inputs; the first may be None."""

    def call(self, first, second):
        return second

    def compute_output_spec(self, first, second):
        return keras.KerasTensor(second.shape, second.dtype)


def teacher(drawn, head):
    """Return a teacher as drawn."""
    if drawn["kind"] == "average":
        return kd.teachers.EMA(0.5, head=head)
    if drawn["kind"] in ("column", "doubtful"):
        return kd.teachers.Frozen(column, head="sigmoid" if drawn["kind"] == "column" else "auto")
    device = "CPU:0" if drawn["kind"] == "copy" else None
    own = model(drawn, 1, drawn["teacher_head"], drawn["teacher_scale"], None)
    return kd.teachers.Frozen(own, head=head, device=device)


def column(x):
    """Return one column of probabilities, as scikit-learn's `predict_proba(x)[:, 1:]` does."""
    return tf.sigmoid(tf.reduce_sum(x, axis=-1, keepdims=True))


def model(drawn, which, head, scale, regularizer):
    """Return a student (0) or a teacher (1): a hidden layer, and a head."""
    policy = drawn["policies"][which]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)  # the model's own: by it, Keras scales the loss, and skips what overflows
    try:
        return layered(drawn, which, head, scale, regularizer)
    finally:
        keras.config.set_dtype_policy(before)


def layered(drawn, which, head, scale, regularizer):
    """Return the layers as a model, under the policy in force."""
    arguments = {"kernel_initializer": initial(drawn["seed"] + which)}
    hidden = keras.layers.Dense(drawn["units"][which], "tanh", name="hidden", **arguments)
    scores = keras.layers.Dense(drawn["classes"], name="scores", kernel_regularizer=regularizer, **arguments)
    activation = head if head in ("softmax", "sigmoid") else None
    if head == "positions":
        inputs = keras.Input((None,), dtype="int32")
        x = keras.layers.Embedding(5, 3, mask_zero=True)(inputs)
    else:
        inputs = x = keras.Input((drawn["features"],), dtype="float32", name="x")
    if drawn["kind"] == "optional":
        extra = keras.Input((1,), name="extra", optional=True)
        inputs, x = {"extra": extra, "x": inputs}, Second()(extra, x)
    if drawn["kind"] in ("adapted", "average", "copy") and head != "positions":
        adapted = keras.layers.Normalization()
        adapted.adapt(np.random.default_rng(drawn["seed"]).normal(1.0, 2.0, (50, drawn["features"])))
        x = adapted(x)
    outputs = scores(keras.layers.Rescaling(scale)(hidden(x)))
    if drawn["kind"] == "axis":
        outputs = keras.layers.Permute((2, 1))(keras.layers.RepeatVector(2)(outputs))
        return keras.Model(inputs, keras.layers.Softmax(axis=1)(outputs))
    # In float32, as Keras advises for heads.
    outputs = keras.layers.Activation(activation, dtype="float32")(outputs) if activation else outputs
    if drawn["kind"] == "reshaped":
        outputs = keras.layers.Reshape((1, drawn["classes"]), dtype="float32")(outputs)
        outputs = keras.layers.Flatten(dtype="float32")(outputs)
    made = Doubled if drawn["kind"] == "overridden" and which == 0 else keras.Model
    return made(inputs, outputs)


def loss_of(head):
    if head == "values":
        return "mse"
    if head == "sigmoid":
        return keras.losses.BinaryCrossentropy()
    return keras.losses.SparseCategoricalCrossentropy(from_logits=head != "softmax")


def data(drawn):
    """Return the arguments of `fit`."""
    random = np.random.default_rng(drawn["seed"])
    rows, classes, head = drawn["examples"], drawn["classes"], drawn["head"]
    if head == "positions":  # 0 is padding: whole rows of it, too
        x, shape = random.integers(0, 5, (rows, 3)) * random.integers(0, 2, (rows, 1)), (rows, 3)
    else:
        x, shape = random.normal(size=(rows, drawn["features"])).astype("float32"), (rows,)
    if head == "values":
        y = random.normal(size=(rows, classes)).astype("float32")
    elif head == "sigmoid":
        y = random.integers(0, 2, (rows, classes)).astype("float32")
    else:
        y = random.integers(0, classes, shape).astype("bool" if drawn["kind"] == "bool" else "int64")
    weights = {"some": random.uniform(0, 2, shape).astype("float32"), "zeros": np.zeros(shape, "float32"), None: None}
    given = {"y": y} if drawn["labels"] or drawn["alpha"] < 1 else {}
    x = {"extra": None, "x": x} if drawn["kind"] == "optional" else x
    return {"x": x, "sample_weight": weights[drawn["weights"]], "batch_size": drawn["batch_size"], **given}


# The reference


def reference(drawn, distiller):
    """Return, by the names of the logs, (what NumPy makes of what the models return, an absolute tolerance)."""
    sides, given = outputs_of(drawn, distiller), data(drawn)
    parts = collections.defaultdict(float)
    rounding = collections.defaultdict(float)
    for start in range(0, drawn["examples"], drawn["batch_size"]):
        rows = slice(start, start + drawn["batch_size"])
        share = len(sides["student"][rows]) / drawn["examples"]
        for number, (loss, weight, temperature) in enumerate(drawn["terms"]):
            t = (drawn["temperature"] if temperature is None else temperature) if drawn["head"] != "values" else 1.0
            labels = {"labels": given["y"][rows].astype("int64")} if loss in NEED_LABELS else {}
            if loss is losses.teacher_bounded:
                labels = {"labels": given["y"][rows]}
            value = t**2 * mean_of(loss, sides["student"] / t, sides["teacher"] / t, rows, sides["mask"], given, labels)
            parts[f"term_{number}"] += share * value
            close = rounding_of(loss, sides["student"][rows] / t, sides["teacher"][rows] / t)
            rounding[f"term_{number}"] = max(rounding[f"term_{number}"], ROUNDING, t**2 * close)
            parts["distillation_loss"] += share * weight * value
        for number, (loss, weight) in enumerate(drawn["hints"]):
            bridged = sides[f"hint_{number}"]
            value = mean_of(loss, bridged, sides["teacher_hidden"], rows, sides["mask"], given, {})
            parts[f"hint_{number}"] += share * value
            unit = ROUNDING_OF_FEATURES.get(drawn["policies"][0], ROUNDING)
            close = rounding_of(loss, bridged[rows], sides["teacher_hidden"][rows], unit)
            rounding[f"hint_{number}"] = max(rounding[f"hint_{number}"], 10 * ROUNDING, close)
            parts["distillation_loss"] += share * weight * value
    rounding["distillation_loss"] = sum(term.weight * rounding[term.name] for term in distiller.terms)
    if len(distiller.terms) == 1:  # one alone is not logged again
        parts = {"distillation_loss": parts["distillation_loss"]}
    penalty, alpha = float(sum(distiller.student.losses, 0.0)), 1.0
    parts["loss"] = parts["distillation_loss"] + penalty
    rounding["loss"] = rounding["distillation_loss"] + ROUNDING
    if "y" in given:
        alpha, hard = drawn["alpha"], alone(distiller.student, drawn)["loss"] - penalty
        parts["student_loss"] = hard
        parts["loss"] = alpha * parts["distillation_loss"] + (1 - alpha) * hard + penalty
    return {name: (float(value), rounding[name] or ROUNDING) for name, value in parts.items()}


def mean_of(loss, student, teacher, rows, mask, given, labels):
    """Return the mean of a loss over a batch's examples or positions, by Keras's rules."""
    student, teacher = (np.where(mask[..., None], side, 0.0)[rows] for side in (student, teacher))
    mask, weights = mask[rows], given["sample_weight"]
    if loss in (losses.intra_class_relation, losses.class_correlation, losses.batch_correlation):
        student, teacher = (side.reshape(-1, side.shape[-1]) for side in (student, teacher))
    if loss is losses.batch_correlation:  # the formula's rows, whose mean is the reference's number
        p, q = softmax(teacher), softmax(student)
        values = np.sum((p @ p.T - q @ q.T) ** 2, axis=-1).reshape(mask.shape)
    else:
        values = getattr(references, loss.__name__)(student, teacher, **labels)
    if np.ndim(values) == 0:
        return values
    weighted = values if weights is None else values * weights[rows]
    return np.sum(weighted[mask]) / max(np.sum(mask), 1)


def rounding_of(loss, student, teacher, unit=ROUNDING):
    """Return by how much a loss may differ in float32: much, where it divides by what is next to nothing."""
    if loss in (losses.inter_class_relation, losses.intra_class_relation):  # by the spread of probabilities
        flat = (softmax(side.reshape(-1, side.shape[-1])) for side in (student, teacher))
        spread = min(np.min(np.std(p, axis=-1 if loss is losses.inter_class_relation else 0)) for p in flat)
        return min(2.0, ROUNDING + ROUNDING / max(spread, ROUNDING))
    if loss is losses.pkt:  # by the paper's 1e-7, where two examples are opposite
        s, t = (references._neighbour_probabilities(side) for side in (student, teacher))
        return ROUNDING * np.mean(t / (s + 1e-7))
    if loss in (losses.rkd_angle, losses.rkd_distance):  # by the distance of two examples
        flat = [side.reshape(len(side), -1) for side in (student, teacher)]
        apart = [np.linalg.norm(side[:, None] - side[None], axis=-1) + 9.0 * np.eye(len(side)) for side in flat]
        return min(2.0, ROUNDING + unit / max(np.min(apart), unit))
    return 4 * ROUNDING if loss in CANCELLING else 0.0


def outputs_of(drawn, distiller):
    """Return what student and teacher return for all examples, in float64: scores, features, bridged features."""
    x, student = data(drawn)["x"], distiller.student
    plain = x["x"] if drawn["kind"] == "optional" else x
    scores, hidden = read(student, x, drawn["head"])
    if drawn["kind"] == "average":
        theirs = scores, hidden
    elif drawn["kind"] in ("column", "doubtful"):
        p = column(plain).numpy().astype("float64")
        theirs = p if drawn["kind"] == "doubtful" else np.log(p) - np.log1p(-p), None
    else:
        theirs = read(distiller.teacher.model, x, drawn["teacher_head"])
    mask = plain != 0 if drawn["head"] == "positions" else np.ones(len(plain), bool)
    found = {"student": scores, "teacher": theirs[0], "teacher_hidden": theirs[1], "mask": mask}
    for term in distiller.terms[len(drawn["terms"]) :]:
        kernel, bias = (1.0, 0.0) if term.bridge is None else term.bridge.get_weights()
        found[term.name] = hidden if term.bridge is None else hidden @ kernel + bias
    return found


def read(made, x, head):
    """Return a model's scores, before any activation, and its hidden features; of a softmax, the logarithms."""
    layers = [made.get_layer(name).output for name in ("scores", "hidden")]
    returned = keras.Model(made.input, layers)(x, training=False)
    scores, hidden = (keras.ops.convert_to_numpy(keras.ops.cast(each, "float64")) for each in returned)
    return (scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True) if head == "softmax" else scores), hidden


def alone(student, drawn, **arguments):
    """Return what Keras makes of the student alone."""
    student.compile(loss=loss_of(drawn["head"]), run_eagerly=True, **arguments)
    return student.evaluate(**data(drawn), verbose=0, return_dict=True)
