"""Every teacher: what is true of all of them, what a user has to write for a new one, and the student as its own."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import Distiller, Joined, TeacherCache, Term, losses, teachers
from tests import completions_server, files, references
from tests.models import Subclassed, assert_same, batch, dense, initial, linear, mlp, numbers, softmax, statistical
from tests.test_objective import distill, fit

X, Y = batch()
SGD = keras.optimizers.SGD


def exits(seed, **named):
    """Return a model with an output for each name, of a kernel and a bias of its own after a common "trunk"."""
    inputs = keras.Input((4,))
    trunk = dense(5, seed, activation="tanh", name="trunk")(inputs)
    return keras.Model(inputs, {name: dense(3, seed + i, name=name)(trunk) for name, i in named.items()})


def frozen(folder):
    model = statistical(2)
    return mlp(1), teachers.Frozen(model), [Term(losses.kl_divergence)], [model]


def ensemble(folder):
    models = [mlp(2), statistical(3)]
    terms = [Term(losses.kl_divergence), Term(losses.squared_error, at=("scores", "scores"))]
    return mlp(1), teachers.Ensemble(models, [2.0, 1.0]), terms, models


def ema(folder):
    student = mlp(1, extra=keras.layers.BatchNormalization())  # which differs from its average before the first step
    return student, teachers.EMA(0.5), [Term(losses.kl_divergence), Term(losses.squared_error, at="hidden")], []


def own(folder):
    return exits(1, early=1, final=2), teachers.SelfTeacher(), [Term(losses.kl_divergence, at=("early", "final"))], []


def saved_model(folder):
    model = mlp(2)
    model.export(folder / "teacher", verbose=False)
    return mlp(1), teachers.SavedModel(folder / "teacher"), [Term(losses.kl_divergence)], []


@keras.saving.register_keras_serializable("tests")
class JoinedInFit(teachers.Cached):
    """Joins in `fit`, as the tests of all teachers give x as it is."""

    def before_fit(self, x, verbose="auto"):
        return self._cache.join(x)

    def call(self, x, student, labels=None, step=0):
        return super().call(x if isinstance(x, Joined) else self._cache.join(X), student, labels, step)


def cached(folder):
    model = statistical(2)
    cache = TeacherCache(folder, model, dtype="float32")
    cache.build(X, verbose=0)
    return mlp(1), JoinedInFit(cache), [Term(losses.kl_divergence)], [model]


def remembered(folder):
    model = statistical(2)
    return mlp(1), teachers.InMemory(model), [Term(losses.kl_divergence)], [model]


@keras.saving.register_keras_serializable("tests")
def scores(x):
    """Return three numbers for each row, by NumPy."""
    return np.tanh(x @ np.linspace(-1.0, 1.0, 12).reshape(4, 3).astype("float32"))


def python(folder):
    return mlp(1), teachers.Python(scores, outputs=3), [Term(losses.kl_divergence)], []


def onnx(folder):
    folder.mkdir(exist_ok=True)
    return mlp(1), teachers.ONNX(files.onnx(folder)), [Term(losses.kl_divergence)], []


def litert(folder):
    folder.mkdir(exist_ok=True)
    return mlp(1), teachers.LiteRT(files.litert(mlp(2), folder)), [Term(losses.kl_divergence)], []


@keras.saving.register_keras_serializable("tests")
class RoutedInFit(teachers.Routed):
    """Joins the column in `fit`, as the tests of all teachers give x as it is."""

    def before_fit(self, x, verbose="auto"):
        return _with_teachers(x)

    def call(self, x, student, labels=None, step=0):
        return super().call(x if isinstance(x, Joined) else _with_teachers(x), student, labels, step)


def _with_teachers(x):
    return Joined(x, columns={"teacher": np.arange(len(x)) % 3})


def routed(folder):
    models = [mlp(2), statistical(3)]
    teacher = RoutedInFit(dict(zip(range(3), [*models, models[0]], strict=True)), "teacher")
    return mlp(1), teacher, [Term(losses.kl_divergence)], models


@keras.saving.register_keras_serializable("tests")
class ServedOfNumbers(teachers.Served):
    """Asks for the tokens that numbers stand for."""

    def call(self, x, student, labels=None, step=0):
        return super().call(tokens_of(x), student, labels, step)


@keras.saving.register_keras_serializable("tests")
def tokens_of(x):
    return keras.ops.cast(keras.ops.clip(4.0 + 2.0 * x, 0.0, 7.0), "int32")


def served(folder):
    inputs = keras.Input((4,))
    words = keras.layers.Lambda(tokens_of)(inputs)
    words = keras.layers.Embedding(8, 5, embeddings_initializer=initial(1), name="hidden")(words)
    server = completions_server.shared()
    server.switch()
    teacher = ServedOfNumbers(server.url, completions_server.MODEL, classes=8, top_k=3)
    return keras.Model(inputs, dense(8, 2)(words)), teacher, [Term(losses.kl_divergence)], []


CASES = {
    teachers.Frozen: frozen,
    teachers.Cached: cached,
    teachers.InMemory: remembered,
    teachers.Ensemble: ensemble,
    teachers.EMA: ema,
    teachers.SelfTeacher: own,
    teachers.SavedModel: saved_model,
    teachers.Python: python,
    teachers.ONNX: onnx,
    teachers.LiteRT: litert,
    teachers.Routed: routed,
    teachers.Served: served,
}
ALL = pytest.mark.parametrize("make", CASES.values(), ids=lambda make: make.__name__)


def test_every_public_teacher_is_here():
    public = {each for _, each in inspect.getmembers(teachers, inspect.isclass) if issubclass(each, teachers.Teacher)}
    assert set(CASES) == public - {teachers.Teacher}


@pytest.mark.one_in(2)
@ALL
def test_eager_and_compiled_steps_agree(make, tmp_path):
    results = []
    for folder, eager in (("a", True), ("b", False)):
        student, teacher, terms, _ = make(tmp_path / folder)
        distiller = distill(student, teacher, terms, SGD(0.3), loss=None, alpha=1.0, run_eagerly=eager)
        results.append((fit(distiller, X, None, batch_size=4, epochs=2), numbers(student)))
    (logs, weights), (graph_logs, graph_weights) = results
    assert logs["loss"][0] > 1e-3 and logs.keys() == graph_logs.keys()
    for name, values in logs.items():
        assert graph_logs[name] == pytest.approx(values, abs=1e-6)
    assert_same(graph_weights, weights, 1e-6)


@pytest.mark.one_in(3)
@ALL
def test_the_users_models_stay_unchanged(make, tmp_path):
    student, teacher, terms, models = make(tmp_path)
    before = [(numbers(model), [v.trainable for v in model.variables], model.to_json()) for model in models]
    distiller = distill(student, teacher, terms, SGD(0.3), loss=None, alpha=1.0)
    fit(distiller, X, None, epochs=2)
    distiller.evaluate(X, verbose=0)
    for model, (weights, flags, config) in zip(models, before, strict=True):
        assert_same(numbers(model), weights)
        assert ([v.trainable for v in model.variables], model.to_json()) == (flags, config)
        assert not {id(v) for v in model.variables} & {id(v) for v in distiller.variables}


@ALL
def test_no_teacher_has_weights_that_the_distiller_trains(make, tmp_path):
    student, teacher, terms, _ = make(tmp_path)
    distiller = distill(student, teacher, terms, loss=None, alpha=1.0)
    assert {id(v) for v in distiller.trainable_variables} == {id(v) for v in student.trainable_variables}


@pytest.mark.parametrize(
    "make", [make for make in CASES.values() if make is not cached], ids=lambda make: make.__name__
)
def test_a_teacher_is_created_again_from_its_configuration(make, tmp_path):
    student, teacher, terms, _ = make(tmp_path)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(teacher))
    assert type(again) is type(teacher) and again.get_config().keys() == teacher.get_config().keys()
    first, second = (distill(student, each, terms, SGD(0.3), loss=None, alpha=1.0) for each in (teacher, again))
    fit(first, X, None)
    again.set_weights(teacher.get_weights())  # a configuration holds no weights
    received, expected = (float(each.objective(tf.constant(X))["loss"]) for each in (second, first))
    assert received == expected > 1e-4


# The heads of what the terms read, in the order of their names: "auto" is read as logits, a layer has values.
KINDS = {ensemble: ["auto", "values"], ema: ["auto", "values"], served: ["logits"]}
REACHING = {own: ("final",)}  # for these names, it has to see layers of the student


@ALL
def test_a_teacher_has_the_properties_that_its_kind_declares(make, tmp_path):
    student, teacher, terms, models = make(tmp_path)
    Distiller(student=student, teacher=teacher, terms=terms)
    names = [name for term in terms for name in term.teacher_names]
    outputs = teacher(tf.constant(X), {name: tf.ones((8, 3)) for name in names})
    shapes = {name: tuple(outputs[name].shape) for name in names if hasattr(outputs[name], "shape")}
    specs = teacher.specs()
    assert (specs is None) == (make in (saved_model, onnx, litert))
    known = {name: tuple((specs or outputs)[name].shape) for name in shapes}
    for name, shape in shapes.items():
        assert all(there in (None, here) for there, here in zip(known[name], shape, strict=True))
    assert [teacher.kind(name) for name in names] == KINDS.get(make, ["auto"])
    assert teacher.layers_of_student(tuple(names)) == REACHING.get(make, ())
    assert teacher.stateful() == ([teacher] if make is ema else [])
    changing = make in (ema, own, cached)  # with the student; or there is no model to run
    assert teacher.cacheable(tuple(names)) != changing


# A teacher of the user's own


class Oracle(teachers.Teacher):
    """Return the logits of a fixed table: all that has to be written is `call`."""

    def call(self, x, student, labels=None, step=0):
        return {"logits": keras.ops.ones_like(student["logits"]) * np.array([3.0, 0.0, -1.0], "float32")}


@pytest.mark.parametrize("eager", [True, False])
def test_a_teacher_needs_nothing_but_call(eager):
    student = linear(1)
    p, q = softmax(np.array([3.0, 0.0, -1.0]) / 2.0), softmax(student(X).numpy() / 2.0)
    distiller = distill(student, Oracle(), loss=None, alpha=1.0, temperature=2.0, run_eagerly=eager)
    expected = 4.0 * np.mean(np.sum(p * np.log(p / q), axis=-1))
    assert fit(distiller, X, None)["loss"] == pytest.approx([expected], rel=1e-5)
    assert float(distiller.evaluate(X, verbose=0, return_dict=True)["loss"]) == pytest.approx(expected, rel=1e-5)


class Listener(teachers.Teacher):
    """Record its arguments."""

    def __init__(self):
        super().__init__(name="listener")
        self.calls = []

    def call(self, x, student, labels=None, step=0):
        self.calls.append((x.numpy(), sorted(student), None if labels is None else labels.numpy(), int(step)))
        return {"logits": student["logits"] * 0.0}

    def after_step(self, student, step):
        self.calls.append((student.name, int(step)))


def test_a_teacher_is_given_the_batch_the_labels_and_the_step():
    teacher, student = Listener(), linear(1)
    fit(distill(student, teacher), batch_size=4)
    (x, names, labels, step), after, *_ = teacher.calls
    np.testing.assert_array_equal(x, X[:4])
    np.testing.assert_array_equal(labels, Y[:4])
    assert (names, step, after, len(teacher.calls)) == (["logits"], 0, (student.name, 1), 4)
    assert (teacher.calls[2][3], teacher.calls[3]) == (1, (student.name, 2))


def test_a_teacher_is_given_x_in_the_type_that_it_has():
    teacher, x = Listener(), X.astype("float64") + 1e-12
    teacher(tf.constant(x), {"logits": tf.zeros((len(X), 3))})
    assert teacher.calls[0][0].dtype == np.float64
    np.testing.assert_array_equal(teacher.calls[0][0], x)


def test_a_member_of_an_ensemble_is_given_the_batch_the_labels_and_the_step():
    member = Listener()
    fit(distill(linear(1), [linear(2), member]), epochs=2)
    for step, (x, names, labels, received) in enumerate(member.calls[::2]):
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(labels, Y)
        assert (names, received) == (["logits"], step)


def test_a_teacher_of_the_users_own_may_be_a_member_of_an_ensemble():
    student, member = linear(1), linear(2)
    p = (softmax(np.array([3.0, 0.0, -1.0])) + softmax(member(X).numpy())) / 2
    expected = np.mean(np.sum(p * np.log(p / softmax(student(X).numpy())), axis=-1))
    distiller = distill(student, [member, Oracle()], loss=None, alpha=1.0, temperature=1.0)
    assert fit(distiller, X, None)["loss"] == pytest.approx([expected], rel=1e-5)


def test_the_error_of_a_teacher_without_call_is_to_define_it():
    class Silent(teachers.Teacher):
        pass

    with pytest.raises(NotImplementedError, match=r"Silent must define call\(x, student, labels, step\)"):
        fit(distill(linear(1), Silent()))


# The student as its own teacher


class Recorder(keras.optimizers.SGD):
    """Keep the gradients, by path, and change nothing."""

    def apply_gradients(self, grads_and_vars):
        self.seen = {variable.path: gradient for gradient, variable in grads_and_vars}
        self.iterations.assign_add(1)


def gradients(student, terms, teacher=None):
    """Return the gradient of each of the student's weights, None as zeros."""
    optimizer = Recorder(0.0)
    fit(distill(student, teacher or teachers.SelfTeacher(), terms, optimizer, loss=None, alpha=1.0), X, None)
    by_path = {v.path: np.zeros(v.shape) for v in student.trainable_variables}
    return {**by_path, **{path: g.numpy() for path, g in optimizer.seen.items() if g is not None}}


def learn(*pairs):
    return [Term(losses.kl_divergence, at=pair, name="_".join(pair)) for pair in pairs]


@pytest.mark.parametrize("taught, silent", [(("a", "b"), ["b"]), (("b", "a"), ["a"]), (("c", "a"), ["a", "b"])])
def test_no_gradient_reaches_the_teachers_side(taught, silent):
    for path, gradient in gradients(exits(1, a=1, b=2, c=3), learn(taught)).items():
        assert np.any(gradient) == (path.split("/")[0] in (taught[0], "trunk"))
        assert not np.any(gradient) or path.split("/")[0] not in silent


def test_the_trunk_learns_as_from_a_teacher_that_is_another_model():
    student = exits(1, a=1, b=2)
    received = gradients(student, learn(("a", "b")))
    meant = [
        Term(losses.kl_divergence, at={"student": "a", "teacher": "b"}, name=each.name) for each in learn(("a", "b"))
    ]
    expected = gradients(student, meant, teachers.Frozen(exits(1, a=1, b=2)))
    assert received.keys() == expected.keys() and np.any(received["trunk/kernel"])
    for path, gradient in received.items():
        np.testing.assert_allclose(gradient, expected[path], rtol=0, atol=1e-7)


def test_own_weights_of_three_peers_get_gradients_only_where_the_peer_is_the_student():
    # Each one's own weights get the gradient of the two terms in which it is the student, and nothing else.
    pairs = [(one, other) for one in "abc" for other in "abc" if one != other]
    received = gradients(exits(1, a=1, b=2, c=3), learn(*pairs))
    for one in "abc":
        alone = gradients(exits(1, a=1, b=2, c=3), learn(*[pair for pair in pairs if pair[0] == one]))
        assert np.any(alone[f"{one}/kernel"])
        np.testing.assert_allclose(received[f"{one}/kernel"], alone[f"{one}/kernel"], rtol=0, atol=1e-6)


def peer_loss(student, teacher):
    return 4.0 * np.mean(references.kl_divergence(student / 2.0, teacher / 2.0))


@pytest.mark.parametrize("eager", [True, False])
def test_layers_that_only_the_teachers_side_names_are_read(eager):
    inputs = keras.Input((4,))
    deep = dense(3, 3, name="deep")(dense(5, 2, activation="tanh", name="trunk")(inputs))
    student = keras.Model(inputs, dense(3, 1, name="scores")(keras.layers.ReLU()(deep)))
    s, t = student(X).numpy(), keras.Model(inputs, deep)(X).numpy()
    distiller = distill(
        student, teachers.SelfTeacher(), learn(("logits", "deep")), loss=None, alpha=1.0, run_eagerly=eager
    )
    assert fit(distiller, X, None)["loss"] == pytest.approx([peer_loss(s, t)], rel=1e-5)


class TwoExits(keras.Model):
    """A model without a graph and with two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Subclassed(dense(3, 1)), Subclassed(dense(3, 2))

    def build(self, shape):
        self.a.build(shape), self.b.build(shape)
        self.built = True

    def call(self, x):
        return {"a": self.a(x), "b": self.b(x)}


@pytest.mark.parametrize("built", [True, False])
def test_a_student_without_a_graph_can_be_its_own_teacher(built):
    student = TwoExits()
    if built:
        student.build((None, 4))
    distiller = distill(student, teachers.SelfTeacher(), learn(("a", "b")), SGD(0.5), loss=None, alpha=1.0)
    logs = fit(distiller, X, None, epochs=2)["loss"]
    fresh = {side: linear(seed)(X).numpy() for side, seed in (("a", 1), ("b", 2))}
    assert logs[0] == pytest.approx(peer_loss(fresh["a"], fresh["b"]), rel=1e-5) and logs[1] < logs[0]
    assert_same(student.b.get_weights(), linear(2).get_weights())
    assert np.any(student.a.get_weights()[0] != linear(1).get_weights()[0])


def test_a_name_that_the_student_has_not_is_refused_on_the_teachers_side_too():
    with pytest.raises(ValueError, match="'c'.*student.*'a', 'b'"):
        Distiller(student=exits(1, a=1, b=2), teacher=teachers.SelfTeacher(), terms=learn(("a", "c")))


def test_labels_and_peers_are_learned_together():
    student = exits(1, a=1, b=2)
    logits = {name: value.numpy() for name, value in student(X).items()}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = distill(
        student, teachers.SelfTeacher(), learn(("a", "b"), ("b", "a")), loss={"a": loss, "b": loss}, alpha=0.25
    )
    hard = sum(-np.mean(np.log(softmax(logits[name])[np.arange(len(Y)), Y])) for name in "ab")
    soft = peer_loss(logits["a"], logits["b"]) + peer_loss(logits["b"], logits["a"])
    received = fit(distiller, X, {"a": Y, "b": Y})["loss"]
    assert received == pytest.approx([0.25 * soft + 0.75 * hard], rel=1e-5)
