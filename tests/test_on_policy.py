"""The methods on texts that are written while the student learns: their values, their rows, and what they lead to."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd import Joined, Term, losses, methods
from keras_kd.language import Rollouts, sequence_reverse_kl
from keras_kd.methods import on_policy
from tests import references
from tests.test_rollouts import begun, bigram
from tests.test_row_choice import ORIGIN, WEIGHTS, X, Y
from tests.test_row_choice import bigram as small

#: method, paper, number of the term, parameter, published value.
DEFAULTS = [
    ("distillm2", "2503.07067", 0, "loss", losses.skew_kl),
    ("distillm2", "2503.07067", 1, "loss", losses.skew_reverse_kl),
    *(("distillm2", "2503.07067", number, "skew", 0.1) for number in (0, 1)),
    *(("distillm2", "2503.07067", number, "weight", 1.0) for number in (0, 1)),
    *(("distillm2", "2503.07067", number, "temperature", 1.0) for number in (0, 1)),
    ("distillm2", "2503.07067", 0, "rows", {"origin": (1, 2)}),
    ("distillm2", "2503.07067", 1, "rows", {"origin": (0,)}),
    ("minillm", "2306.08543", 0, "loss", sequence_reverse_kl),
    ("minillm", "2306.08543", 0, "normalized", True),
    ("minillm", "2306.08543", 0, "weight", 1.0),
    ("minillm", "2306.08543", 0, "temperature", 1.0),
    ("minillm", "2306.08543", 0, "rows", {"origin": (0,)}),
]


def setting(term, name):
    return term.loss_arguments[name] if name in term.loss_arguments else getattr(term, name)


@pytest.mark.parametrize("method, paper, number, name, value", DEFAULTS)
def test_a_method_has_the_defaults_of_its_paper(method, paper, number, name, value):
    assert setting(getattr(methods, method)()[number], name) == value
    assert paper in getattr(methods, method).__doc__


def test_every_parameter_of_every_method_is_in_the_table():
    known = {(method, name) for method, _, _, name, _ in DEFAULTS}
    others = {"reverse_weight": "weight", "student_rows": "rows", "teacher_rows": "rows", "column": "rows"}
    public = [
        each
        for name, each in vars(on_policy).items()
        if inspect.isfunction(each) and each.__module__ == on_policy.__name__
    ]
    assert {each.__name__ for each in public} == {method for method, *_ in DEFAULTS}
    for each in public:
        assert all((each.__name__, others.get(name, name)) in known for name in inspect.signature(each).parameters)


def logits():
    return [np.asarray(small(seed)(X), "float64") for seed in (1, 5)]


def objective(terms, column=ORIGIN, name="origin", **arguments):
    made = kd.Distiller(student=small(1), teacher=small(5), terms=terms)
    made.compile("sgd", alpha=1.0, run_eagerly=True, **arguments)
    return {name: float(each) for name, each in made.objective(Joined(X, columns={name: column}), Y, WEIGHTS).items()}


@pytest.mark.parametrize("fused_head", [False, True])
def test_distillm2_compares_each_text_by_where_it_is_from(fused_head):
    # Half of the sum of two means over as many texts each is the mean over all.
    students = np.isin(ORIGIN, 0)[:, None]
    values = np.where(students, references.skew_reverse_kl(*logits(), 0.1), references.skew_kl(*logits(), 0.1))
    parts = objective(methods.distillm2(), fused_head=fused_head)
    assert parts["loss"] == pytest.approx(np.mean(WEIGHTS * values), rel=1e-5)
    assert parts["skew_kl"] == pytest.approx(np.mean(WEIGHTS * ~students * values), rel=1e-5)


def test_distillm2_takes_another_column_and_another_share():
    students = np.isin(ORIGIN, 2)[:, None]
    values = np.where(students, 3 * references.skew_reverse_kl(*logits(), 0.4), 2 * references.skew_kl(*logits(), 0.4))
    terms = methods.distillm2(0.4, 3.0, 2.0, student_rows=[2], teacher_rows=[0, 1], column="by")
    assert objective(terms, name="by")["loss"] == pytest.approx(np.mean(WEIGHTS * values), rel=1e-5)


@pytest.mark.parametrize("fused_head", [False, True])
def test_minillm_has_the_value_of_the_reverse_divergence_of_the_students_texts(fused_head):
    values = (ORIGIN == 0)[:, None] * references.reverse_kl(*logits())
    parts = objective(methods.minillm(), fused_head=fused_head)
    assert parts["loss"] == pytest.approx(np.mean(WEIGHTS * values), rel=1e-5)


@pytest.mark.parametrize("origin", [0, 1])
def test_a_batch_of_one_origin_is_finite_and_all_of_one_term(origin):
    parts = objective(methods.distillm2(), np.full(12, origin))
    name, other = ("skew_reverse_kl", "skew_kl")[:: 1 if origin == 0 else -1]
    assert parts["loss"] == parts[name] > 0 == parts[other]


# What they lead to


def made_with(student, teacher, terms, steps, **arguments):
    made = kd.Distiller(student=student, teacher=teacher, terms=terms)
    rate = keras.optimizers.schedules.CosineDecay(0.05, steps)
    made.compile(keras.optimizers.Adam(rate), alpha=1.0, jit_compile=False, **arguments)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("terms", [methods.distillm2, methods.minillm])
def test_a_student_that_can_reaches_the_teacher(terms):
    random = np.random.default_rng(0)
    teacher, student = bigram(random.normal(size=(5, 5))), bigram(random.normal(size=(5, 5)))
    shares = {"student_share": 0.5, "teacher_share": 0.5} if terms is methods.distillm2 else {}
    rows = {"batch_size": 16, "every": 20} if terms is methods.distillm2 else {"batch_size": 128, "every": 1}
    data = Rollouts([[each] for each in range(5)], student=student, teacher=teacher, length=8, **rows, **shares)
    steps = 30 * rows["every"] if terms is methods.distillm2 else 120
    made_with(student, teacher, terms(), steps).fit(data, epochs=steps // rows["every"], verbose=0)
    ours, theirs = (np.array(tf.nn.softmax(model.get_weights()[0])) for model in (student, teacher))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-2)


def policies():
    """Return a student that writes one of two tokens, a or b, and a teacher that knows what follows each.

    Behind a, both write anything. Behind b, the teacher stops at once, with a token that the student never writes.
    """
    student, teacher = np.zeros((4, 4)), np.zeros((4, 4))
    student[0] = teacher[0] = [-20, 0, 0, -20]  # a is 1, b is 2
    student[1] = teacher[1] = [0, 0, 0, 0]
    teacher[2] = [-3, -3, -3, 3]
    return student, teacher


@pytest.mark.slow
def test_a_token_answers_for_what_it_leads_to_and_not_for_what_it_is_alone():
    # What is behind b differs from the teacher's. Token by token, a and b are equally right.
    student, teacher = policies()
    found = {}
    for name, terms in {"whole": methods.minillm(), "blind": methods.gkd(beta=1.0)}.items():
        model = bigram(student)
        data = Rollouts([[0]], student=model, length=2, batch_size=256, every=1, seed=1)
        made = kd.Distiller(student=model, teacher=bigram(teacher), terms=terms)
        made.compile(keras.optimizers.SGD(20.0), alpha=1.0, run_eagerly=True)
        made.fit(data, epochs=4, verbose=0)
        first = model.get_weights()[0][0]
        found[name] = first[1] - first[2]
    assert found["whole"] > 0.5 and abs(found["blind"]) < 1e-3


# Rollouts


@pytest.mark.slow
def test_rollouts_carry_origins_where_a_term_reads_them():
    student, teacher = bigram(2.0 * np.eye(4)), bigram(np.ones((4, 4)) - 2.0)
    shares = {"student_share": 0.5, "teacher_share": 0.5}
    data = Rollouts([[0], [1]], student=student, teacher=teacher, length=3, batch_size=8, every=3, **shares)
    assert isinstance(data[0][0], np.ndarray)
    made = kd.Distiller(student=student, teacher=teacher, terms=methods.distillm2())
    made.compile("sgd", alpha=1.0, run_eagerly=True)
    made.fit(data, verbose=0)
    carried = np.concatenate([data[number][0].columns["origin"] for number in range(3)])
    np.testing.assert_array_equal(np.sort(carried), np.sort(data.origins))
    assert 0 < carried.mean() < 1 and carried.dtype == "int32"
    plain = kd.Distiller(student=student, teacher=teacher, terms=methods.gkd())
    plain.compile("sgd", alpha=1.0, run_eagerly=True)
    plain.fit(data, verbose=0)
    assert isinstance(data[0][0], np.ndarray)


@pytest.mark.slow
def test_origins_go_with_targets_that_are_kept_in_memory():
    found = []
    for wrapped in (lambda model: model, kd.teachers.InMemory):
        student, teacher = bigram(-2.0 * np.eye(4)), bigram(np.arange(16.0).reshape(4, 4) % 3 - 1)
        shares = {"student_share": 0.5, "teacher_share": 0.5, "replay": 2}
        data = Rollouts([[0], [1]], student=student, teacher=teacher, length=3, batch_size=8, every=2, **shares)
        made = kd.Distiller(student=student, teacher=wrapped(teacher), terms=methods.distillm2())
        made.compile("sgd", alpha=1.0, run_eagerly=True)
        logs = made.fit(data, epochs=2, verbose=0).history
        found.append([logs["skew_kl"], logs["skew_reverse_kl"], *student.get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, batches, message",
    [
        ({"every": 2}, None, "every=1 and replay=1, for the term 'sequence_reverse_kl'.*Received: every=2, replay=1"),
        ({"every": 2}, 3, "Received: every=2, replay=1"),
        ({"every": 4}, 2, "gradient_accumulation_steps=every"),
        ({"replay": 2}, None, r"Received: every=1, replay=2.*take methods.gkd\(beta=1.0\)"),
        ({"temperature": 0.5}, None, "temperature=1 and top_p=1, for the term .*Received: temperature=0.5, top_p=1.0"),
        ({"top_p": 0.9}, None, "Received: temperature=1.0, top_p=0.9"),
    ],
    ids=str,
)
def test_a_policy_gradient_of_texts_that_are_not_the_students_as_it_is_is_refused(arguments, batches, message):
    student, teacher = bigram(np.eye(4)), bigram(np.eye(4))
    data = Rollouts([[0]], student=student, length=2, batch_size=4, **{"every": 1, **arguments})
    made = kd.Distiller(student=student, teacher=teacher, terms=[*methods.gkd(), *methods.minillm()])
    made.compile(keras.optimizers.SGD(gradient_accumulation_steps=batches), alpha=1.0)
    with pytest.raises(ValueError, match=message):
        data.follow(made)


@pytest.mark.parametrize("batches", [2, 4])
def test_between_steps_of_the_optimizer_a_student_stays_as_it_is(batches):
    student, teacher = bigram(np.eye(4)), bigram(np.eye(4))
    data = Rollouts([[0]], student=student, length=2, batch_size=4, every=2)
    made = kd.Distiller(student=student, teacher=teacher, terms=methods.minillm())
    made.compile(keras.optimizers.SGD(gradient_accumulation_steps=batches), alpha=1.0)
    data.follow(made)


@pytest.mark.slow
def test_a_policy_gradient_that_is_accumulated_is_that_of_one_batch():
    found = []
    for batch_size, every, batches in ((16, 1, None), (8, 2, 2)):
        student, teacher = (bigram(table) for table in policies())
        data = Rollouts([[0], [1]], student=student, length=3, batch_size=batch_size, every=every)
        made = kd.Distiller(student=student, teacher=teacher, terms=methods.minillm())
        optimizer = keras.optimizers.SGD(2.0, gradient_accumulation_steps=batches)
        made.compile(optimizer, alpha=1.0, run_eagerly=True)
        made.fit(data, epochs=4, verbose=0)
        found.append(student.get_weights()[0])
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


OURS, THEIRS = np.array([[0.2, 0.5, 0.1, 0.2], [0.6, 0.1, 0.2, 0.1]])


def mixed(share=0.25, ours=OURS, **arguments):
    student, teacher = (bigram(np.log(np.tile(each, (4, 1)))) for each in (ours, THEIRS))
    settings = {"length": 2, "batch_size": 500, "every": 4, **arguments}
    return begun(Rollouts([[0]], student=student, teacher=teacher, teacher_mix=share, **settings))


def learned(data):
    """Return the tokens that are learned, and their weights."""
    y, weights = (np.concatenate([data[number][place] for number in range(len(data))]) for place in (1, 2))
    return y, weights


def test_tokens_are_drawn_from_both_models_and_weigh_what_they_are_likely_without_the_teacher():
    y, weights = learned(mixed())
    together = 0.75 * OURS + 0.25 * THEIRS
    for place in range(2):
        shares = np.bincount(y[:, place], minlength=4) / len(y)
        np.testing.assert_allclose(shares, together, rtol=0, atol=4 * np.sqrt(0.25 / len(y)))
        weighted = np.bincount(y[:, place], weights[:, place]) / len(y)
        np.testing.assert_allclose(weighted, OURS, rtol=0, atol=0.05)
    np.testing.assert_allclose(weights, (OURS / together)[y], rtol=1e-5)
    assert np.max(weights) <= 1 / 0.75


@pytest.mark.slow
def test_tasks_of_kerashub_write_together():
    pytest.importorskip("keras_hub")
    from tests.tasks import causal_lm

    student, teacher = causal_lm(3), causal_lm(4)
    data = Rollouts(
        ["the film", "of"], student=student, teacher=teacher, teacher_mix=0.3, length=6, batch_size=4, every=1
    )
    rows = begun(data)._rows
    x = {"token_ids": rows.token_ids, "padding_mask": rows.padding_mask}
    probabilities = [np.asarray(tf.nn.softmax(model(x))) for model in (student, teacher)]
    q, p = (np.take_along_axis(each, rows.y[..., None], axis=-1)[..., 0] for each in probabilities)
    weights = q / (0.7 * q + 0.3 * p) * (rows.sample_weight > 0)
    np.testing.assert_allclose(rows.sample_weight, weights, rtol=1e-4)


def test_only_what_the_student_writes_is_mixed_and_only_what_is_learned_weighs():
    arguments = {"student_share": 0.5, "teacher_share": 0.5, "stop_ids": [1], "length": 3}
    data = mixed(0.5, **arguments)
    rows = data._rows
    students = rows.origin == 0
    assert np.all(np.isin(rows.sample_weight[~students], (0.0, 1.0)))
    behind = np.cumsum(rows.y == 1, axis=1) - (rows.y == 1) > 0
    assert not np.any(rows.sample_weight[behind]) and np.any(behind[students])
    inside = rows.sample_weight[students] > 0
    expected = (OURS / (0.5 * OURS + 0.5 * THEIRS))[rows.y[students]]
    np.testing.assert_allclose(rows.sample_weight[students][inside], expected[inside], rtol=1e-5)
    assert np.all(inside[:, 0])


def test_weighted_tokens_of_both_models_have_the_gradient_of_the_students_own():
    # Of one token, the gradient is exact, and so is its mean over what is drawn: all four tokens, by their likelihood.
    table = tf.Variable(np.log(OURS)[None, None].astype("float32"))
    together = 0.75 * OURS + 0.25 * THEIRS
    gradients = []
    for likely, weights in ((OURS, np.ones(4)), (together, OURS / together)):
        with tf.GradientTape() as tape:
            student = tf.tile(table, (4, 1, 1))
            teacher = np.tile(np.log(THEIRS), (4, 1, 1)).astype("float32")
            values = sequence_reverse_kl(student, teacher, np.arange(4)[:, None])[:, 0]
            total = tf.reduce_sum(values * (likely * weights).astype("float32"))
        gradients.append(tape.gradient(total, table))
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-7)


def test_without_a_share_of_the_teacher_texts_are_the_students_own_to_the_bit():
    rows = [
        mixed(share, batch_size=8, **arguments)._rows for share, arguments in ((0.0, {}), (0.0, {"teacher_share": 0.0}))
    ]
    for one, other in zip(*rows, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.all(np.isin(rows[0].sample_weight, (0.0, 1.0)))


@pytest.mark.parametrize(
    "share, arguments, message",
    [
        (1.0, {}, "`teacher_mix` to be at least 0 and below 1.*1.0"),
        (-0.1, {}, "`teacher_mix` to be at least 0 and below 1"),
        (0.2, {"temperature": 0.5}, "temperature=1 and top_p=1 under `teacher_mix`.*temperature=0.5"),
        (0.2, {"top_p": 0.9}, "temperature=1 and top_p=1 under `teacher_mix`.*top_p=0.9"),
    ],
    ids=["all", "less than nothing", "T", "top_p"],
)
def test_a_mixture_that_cannot_be_weighted_is_refused(share, arguments, message):
    with pytest.raises(ValueError, match=message):
        mixed(share, **arguments)


def test_a_mixture_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match="Expected a `teacher` for its share of 0.2 in each token. Received: none"):
        Rollouts([[0]], student=bigram(np.eye(4)), length=1, teacher_mix=0.2)


def test_a_row_that_is_not_the_students_does_not_enter_the_policy_gradient():
    found = []
    for other in (1, 5):
        x = np.where((ORIGIN == 0)[:, None], X, other)
        made = kd.Distiller(
            student=small(1), teacher=small(5), terms=[*methods.minillm(), Term(losses.kl_divergence, weight=0.0)]
        )
        made.compile(keras.optimizers.SGD(0.5), alpha=1.0, run_eagerly=True)
        made.fit(Joined(x, columns={"origin": ORIGIN}), Y, sample_weight=WEIGHTS, batch_size=12, verbose=0)
        found.append(made.student.layers[-1].get_weights()[0])
    np.testing.assert_array_equal(*found)
