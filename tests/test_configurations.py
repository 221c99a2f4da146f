"""Random small configurations: none crashes but with an error of ours, none gives NaN, all add up.

30 are drawn in `make test`, 200 with KERAS_KD_THOROUGH=1, as in .ci/run; KERAS_KD_CONFIGURATIONS=1000 draws so many.
"""

import os
import pathlib
import traceback

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import Term, losses
from tests.models import initial

LIBRARY = pathlib.Path(kd.__file__).parent
COUNT = int(os.environ.get("KERAS_KD_CONFIGURATIONS", 200 if os.environ.get("KERAS_KD_THOROUGH") else 30))
DRAWN = settings(
    max_examples=COUNT,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a failure takes minutes
)

OVER_CLASSES = [
    losses.kl_divergence,
    losses.reverse_kl,
    losses.jensen_shannon,
    losses.skew_kl,
    losses.decoupled_kl,
    losses.normalized_kl,
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

OVERFLOWING = {  # a student's outputs of hundreds, which float16 cannot square
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
def configurations(draw):
    """Draw what to train on what, as plain values."""
    head = draw(st.sampled_from(["logits", "softmax", "sigmoid", "values", "positions"]))
    fewest = 2 if head in ("logits", "softmax", "positions") else 1
    over_logits = {"sigmoid": OVER_LABELS, "values": OVER_VALUES}.get(head, OVER_CLASSES)
    terms = draw(st.lists(st.tuples(st.sampled_from(over_logits), WEIGHTS, st.none() | TEMPERATURES), max_size=2))
    places = OVER_FEATURES + ([] if head == "positions" else OVER_BATCHES)
    hints = draw(st.lists(st.tuples(st.sampled_from(places), WEIGHTS), max_size=2, min_size=0 if terms else 1))
    return {
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


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")  # Keras, of one class
@DRAWN
@given(configurations())
@example(OVERFLOWING)
def test_nothing_breaks_and_all_adds_up(drawn):
    keras.utils.set_random_seed(drawn["seed"])
    try:
        distiller = compiled(drawn)
        regularisation = float(sum(distiller.student.losses, 0.0))
        logs = distiller.fit(**data(drawn), epochs=1, shuffle=False, verbose=0).history
    except (ValueError, TypeError) as error:
        raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert raised_in.is_relative_to(LIBRARY), traceback.format_exc()
        return
    logs = {name: values[0] for name, values in logs.items()}
    if not np.isfinite(logs.get("mse", 0.0)):  # Keras squares a student's float16 in float16, whoever trains it
        assert not np.isfinite(plain_error(distiller.student, drawn))
        del logs["mse"]
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert all(np.all(np.isfinite(weight)) for weight in distiller.student.get_weights())
    soft = logs["distillation_loss"]
    if len(distiller.terms) > 1:  # one alone is not logged again
        assert soft == pytest.approx(sum(term.weight * logs[term.name] for term in distiller.terms), rel=1e-4, abs=1e-5)
    alpha, hard = (1.0, 0.0) if "student_loss" not in logs else (drawn["alpha"], logs["student_loss"])
    expected = alpha * soft + (1 - alpha) * hard
    # Between batches the student's weights change, and with them their penalty: the sum is of the first batch only.
    if regularisation == 0 or drawn["examples"] <= drawn["batch_size"]:
        assert logs["loss"] == pytest.approx(expected + regularisation, rel=1e-4, abs=1e-5)


def compiled(drawn):
    """Return a Distiller as drawn."""
    student = model(drawn, 0, drawn["head"], drawn["scale"], drawn["regularizer"])
    teacher = model(drawn, 1, drawn["teacher_head"], drawn["teacher_scale"], None)
    terms = [
        Term(loss, weight=weight, temperature=temperature, name=f"term_{number}")
        for number, (loss, weight, temperature) in enumerate(drawn["terms"])
    ]
    hints = [
        Term(loss, at=("hidden", "hidden"), weight=weight, bridge="auto", name=f"hint_{number}")
        for number, (loss, weight) in enumerate(drawn["hints"])
    ]
    head = drawn["head"] if drawn["head"] in ("sigmoid", "values") else "auto"
    distiller = kd.Distiller(
        student=student,
        teacher=kd.teachers.Frozen(teacher, head=head),
        terms=terms + hints,
        student_head=head,
    )
    distiller.compile(
        keras.optimizers.SGD(1e-6),  # far from divergence, whatever is drawn
        loss_of(drawn["head"]) if drawn["labels"] or drawn["alpha"] < 1 else None,
        metrics=["mse"] if drawn["head"] == "values" else None,
        temperature=drawn["temperature"],
        alpha=drawn["alpha"],
        run_eagerly=True,
    )
    return distiller


def plain_error(student, drawn):
    """Return Keras's own metric of the student alone."""
    student.compile(loss="mse", metrics=["mse"], run_eagerly=True)
    examples = data(drawn)
    return student.evaluate(examples["x"], examples["y"], verbose=0, return_dict=True)["mse"]


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
        inputs = x = keras.Input((drawn["features"],), dtype="float32")
    outputs = scores(keras.layers.Rescaling(scale)(hidden(x)))
    # In float32, as Keras advises for heads.
    outputs = keras.layers.Activation(activation, dtype="float32")(outputs) if activation else outputs
    return keras.Model(inputs, outputs)


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
        y = random.integers(0, classes, shape)
    weights = {"some": random.uniform(0, 2, shape).astype("float32"), "zeros": np.zeros(shape, "float32"), None: None}
    given = {"y": y} if drawn["labels"] or drawn["alpha"] < 1 else {}
    return {"x": x, "sample_weight": weights[drawn["weights"]], "batch_size": drawn["batch_size"], **given}
