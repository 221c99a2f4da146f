"""Teachers that have been run before: kept in memory, joined by hand, together with a live one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from tests.caches import CLASSES, built, data, dataset, student, teacher
from tests.models import Subclassed, assert_same, dense
from tests.test_objective import distill

X, Y = data()
SGD = {"optimizer": "sgd", "temperature": 3.0, "alpha": 0.6}


def trained(by, x=X, y=Y, terms=None, **arguments):
    distiller = distill(student(), by, terms, **SGD)
    keras.utils.set_random_seed(5)
    distiller.fit(x, y, epochs=3, batch_size=20, verbose=0, **arguments)
    return distiller.student.get_weights()


class Counted(kd.teachers.Frozen):
    """Counts the examples that it has predicted."""

    predicted = 0

    def call(self, x, student, labels=None, step=0):
        tf.numpy_function(self._count, [tf.shape(x)[0]], [])
        return super().call(x, student, labels, step)

    def _count(self, number):
        self.predicted += int(number)


@pytest.mark.slow
def test_a_teacher_in_memory_trains_as_the_live_one():
    weight = np.linspace(0, 2, len(X)).astype("float32")
    terms = lambda: [kd.Term(kd.losses.kl_divergence), kd.Term(kd.losses.cosine, at=("scores", "scores"))]  # noqa: E731
    for live, known in (
        (teacher(), kd.teachers.InMemory(teacher(), batch_size=7)),
        ([teacher(1), teacher(2)], kd.teachers.InMemory([teacher(1), teacher(2)])),
    ):
        expected = trained(live, terms=terms(), sample_weight=weight)
        assert_same(trained(known, terms=terms(), sample_weight=weight), expected, 1e-6)


def test_a_teacher_in_memory_runs_once_for_each_example():
    counted = Counted(teacher())
    distiller = distill(student(), kd.teachers.InMemory(counted), **SGD)
    for _ in range(2):
        distiller.fit(X, Y, epochs=3, verbose=0, validation_data=(X, Y))
        assert counted.predicted == len(X)
    distiller.fit(X + 1, Y, verbose=0)  # other examples
    assert counted.predicted == 2 * len(X)


@pytest.mark.parametrize("wrap", [kd.teachers.InMemory, lambda teacher: [kd.teachers.InMemory(teacher)]])
def test_what_is_printed_while_a_teacher_predicts_follows_fit(capsys, wrap):
    line, bar, printed = f"50 examples, {50 * CLASSES * 4 / 1e6:.1f} MB of memory", "━", {}
    for verbose in (0, 1, 2, "auto"):
        distiller = distill(student(), wrap(teacher()), **SGD)
        distiller.fit(X, Y, epochs=0, verbose=verbose)
        printed[verbose] = capsys.readouterr().out
    assert printed[0] == ""
    assert all(line in printed[verbose] and "50/50" in printed[verbose] for verbose in (1, 2, "auto"))
    assert [bar in printed[verbose] for verbose in (1, 2, "auto")] == [True, False, True]


@pytest.mark.slow
def test_a_teacher_in_memory_still_predicts_for_other_examples():
    distiller = distill(student(), kd.teachers.InMemory(teacher()), **SGD)
    live = distill(student(), teacher(), **SGD)
    assert float(distiller.objective(X, Y)["loss"]) == pytest.approx(float(live.objective(X, Y)["loss"]))


@pytest.mark.slow
def test_a_teacher_in_memory_runs_again_for_other_names():
    known = kd.teachers.InMemory(teacher())
    trained(known)
    terms = lambda: [kd.Term(kd.losses.cosine, at=("scores", "scores"))]  # noqa: E731
    assert_same(trained(known, terms=terms()), trained(teacher(), terms=terms()), 1e-6)


@pytest.mark.slow
def test_a_validation_split_of_arrays_in_memory():
    known = trained(kd.teachers.InMemory(teacher()), validation_split=0.2)
    assert_same(known, trained(teacher(), validation_split=0.2), 1e-6)


@pytest.mark.parametrize("by", [kd.teachers.EMA, kd.teachers.SelfTeacher])
def test_a_teacher_that_changes_is_not_kept_in_memory(by):
    with pytest.raises(ValueError, match="let it run live"):
        distill(student(), kd.teachers.InMemory(by()), **SGD)


def test_datasets_are_not_kept_in_memory():
    distiller = distill(student(), kd.teachers.InMemory(teacher()), **SGD)
    with pytest.raises(ValueError, match="Expected arrays.*TeacherCache"):
        distiller.fit(dataset().batch(5), verbose=0)


@pytest.mark.slow
def test_targets_of_any_origin_are_joined_by_hand():
    logits = np.asarray(teacher()(X))
    probabilities = np.asarray(keras.ops.softmax(logits))
    expected = trained(teacher())
    assert_same(trained(kd.teachers.Cached(), kd.Joined(X, {"logits": logits})), expected, 1e-6)
    joined = kd.Joined(X, {"logits": probabilities})
    assert_same(trained(kd.teachers.Cached(head="softmax"), joined), expected, 1e-5)


def test_a_subclassed_student_learns_from_joined_targets():
    joined = kd.Joined(X, {"logits": np.asarray(teacher()(X))})
    model = Subclassed(dense(CLASSES, 1))
    distiller = distill(model, kd.teachers.Cached(), **SGD)
    distiller.fit(joined, Y, verbose=0)
    np.testing.assert_allclose(distiller.predict(joined, verbose=0), model.predict(X, verbose=0), atol=1e-6)


@pytest.mark.slow
def test_a_cached_and_a_live_teacher_make_an_ensemble(tmp_path):
    cache = built(tmp_path, X, teacher=teacher(1), dtype="float32")
    both = kd.teachers.Ensemble([kd.teachers.Cached(cache), teacher(2)])
    assert_same(trained(both, cache.join(X)), trained([teacher(1), teacher(2)]), 1e-6)


@pytest.mark.slow
def test_one_member_of_an_ensemble_may_be_in_memory():
    both = [kd.teachers.InMemory(teacher(1)), teacher(2)]
    assert_same(trained(both), trained([teacher(1), teacher(2)]), 1e-6)
    with pytest.raises(ValueError, match="whole ensemble at once"):
        trained([kd.teachers.InMemory(teacher(1)), kd.teachers.InMemory(teacher(2))])


@pytest.mark.parametrize("by", [lambda: kd.teachers.Cached(), lambda: kd.teachers.InMemory(teacher())])
def test_a_saved_distiller_continues_with_its_cache(tmp_path, by):
    joined = kd.Joined(X, {"logits": np.asarray(teacher()(X))})
    data_of = (lambda each: joined) if isinstance(by(), kd.teachers.Cached) else (lambda each: X)
    distiller = distill(student(), by(), optimizer="adam")
    distiller.fit(data_of(distiller), Y, verbose=0, shuffle=False)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    loaded.teacher = by()
    for each in (distiller, loaded):
        each.fit(data_of(each), Y, verbose=0, shuffle=False)
    assert_same(loaded.student.get_weights(), distiller.student.get_weights(), 1e-7)


def test_callbacks_may_be_given_in_every_form_of_keras():
    seen = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    distiller = distill(student(), kd.teachers.Cached(), **SGD)
    joined = kd.Joined(X, {"logits": np.asarray(teacher()(X))})
    for given in (note, [note], keras.callbacks.CallbackList([note], model=distiller)):
        distiller.fit(joined, Y, None, 1, 0, given)
    assert seen == [0, 0, 0]


def test_teachers_are_created_again_from_their_configurations():
    for each in (kd.teachers.Cached(head="softmax"), kd.teachers.InMemory(teacher(), batch_size=3)):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(each))
        assert type(again) is type(each)
        assert again.get_config().keys() == each.get_config().keys()
    with pytest.raises(ValueError, match="head"):
        kd.teachers.Cached(head="wrong")


@pytest.mark.slow
def test_a_teacher_in_memory_that_was_trained_runs_again():
    model = teacher()
    known = kd.teachers.InMemory(model)
    trained(known)
    model.set_weights(teacher(9).get_weights())
    assert_same(trained(known), trained(teacher(9)), 1e-6)


def test_a_teacher_in_memory_is_used_by_a_pipeline_of_stages():
    students = []
    for by in (teacher(), kd.teachers.InMemory(teacher())):
        trained_student, record = kd.stages.born_again(
            lambda: student(),
            1,
            teacher=by,
            compile_arguments={**SGD, "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
            fit_arguments={"x": X, "y": Y, "epochs": 2},
        )
        students.append(trained_student)
    first, second = (each.get_weights() for each in students)
    assert_same(second, first, 1e-6)
