"""Numbers of one's own for each prompt: the rows of a prompt carry them, and a teacher or a term is chosen by them."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import Joined, Term, losses, teachers
from keras_kd.language import Rollouts
from tests import references
from tests.test_rollouts import begun, bigram, chain, texts

TABLES = np.random.default_rng(0).normal(size=(3, 6, 6))
PROMPTS = [[number] for number in range(6)]
NUMBERS = np.array([7, 0, 0, 7, 0, 7])
TOPICS = np.arange(6) % 3


def routed():
    return teachers.Routed({0: bigram(TABLES[1]), 7: bigram(TABLES[2])}, "teacher")


def given(rows=5):
    """Return examples whose rows begin with token 5, with numbers that no prompt has in this order."""
    x = np.random.default_rng(1).integers(0, 5, (rows, 3))
    x[:, 0], x[:, 1] = 5, np.arange(rows)
    columns = {"teacher": np.array([7, 7, 0, 7, 0])[:rows], "topic": np.array([2, 0, 0, 1, 2])[:rows]}
    return Joined(x, columns=columns), (x + 1) % 6, np.ones(x.shape)


def rollouts(student, **arguments):
    settings = {
        "length": 3, "batch_size": 4, "every": 3, "replay": 2, "columns": {"teacher": NUMBERS, "topic": TOPICS},
        "data": given(), "teacher": bigram(TABLES[1]), "student_share": 0.4, "teacher_share": 0.3, "seed": 1,
    }  # fmt: skip
    return Rollouts(PROMPTS, student=student, **{**settings, **arguments})


@pytest.fixture(scope="module")
def shared():
    """Return rollouts that all may follow: a model that writes is traced once."""
    return rollouts(bigram(TABLES[0]))


def followed(data, teacher, terms=None):
    """Return a Distiller, and rollouts that are prepared for its `fit`, with what the teacher joins to them."""
    made = kd.Distiller(student=data.student, teacher=teacher, terms=terms or [Term(losses.reverse_kl)])
    made.compile(keras.optimizers.SGD(0.5), alpha=1.0, temperature=1.0, run_eagerly=True)
    data.follow(made)
    made.teacher.before_fit(data, verbose=0)
    data.begin()
    return made, data


def rows(data):
    """Return what all rows of an epoch read, learn, weigh and carry."""
    batches = [data[number] for number in range(len(data))]
    x = np.concatenate([soft.inputs for soft, *_ in batches])
    y, weights = (np.concatenate([batch[place] for batch in batches]) for place in (1, 2))
    columns = [batch[0].columns for batch in batches]
    return x, y, weights, {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}


def test_rows_carry_the_numbers_of_their_prompts_and_examples_as_long_as_they_are_used(shared):
    terms = [Term(losses.reverse_kl, rows={"topic": 1, "origin": 0})]
    _, data = followed(shared, routed(), terms)
    examples, *_ = given()
    for _ in range(4):
        x, _, _, columns = rows(begun(data))
        assert columns.keys() == {"teacher", "topic", "origin"} and set(columns["origin"]) == {0, 1, 2}
        of_data = columns["origin"] == 2
        for name, of_prompts in (("teacher", NUMBERS), ("topic", TOPICS)):
            expected = np.where(of_data, examples.columns[name][x[:, 1] % 5], of_prompts[x[:, 0]])
            np.testing.assert_array_equal(columns[name], expected)


def test_only_what_is_read_is_carried(shared):
    _, data = followed(shared, routed())
    assert begun(data)[0][0].columns.keys() == {"teacher"}
    _, data = followed(data, bigram(TABLES[1]))
    assert isinstance(begun(data)[0][0], np.ndarray)


@pytest.mark.parametrize("keep", [lambda teacher: teacher, teachers.InMemory], ids=["live", "in memory"])
def test_each_row_is_compared_with_the_teacher_of_its_prompt(keep, shared):
    made, data = followed(shared, keep(routed()))
    for _ in range(2):  # half of the rows of the second are those of the first
        begun(data)
        for number in range(len(data)):
            x, y, weights = data[number]
            ids = x.inputs
            of_rows = np.where((x.columns["teacher"] == 7)[:, None, None], TABLES[2][ids], TABLES[1][ids])
            expected = np.mean(weights * references.reverse_kl(TABLES[0][ids], of_rows))
            assert float(made.objective(x, y, weights)["loss"]) == pytest.approx(expected, rel=1e-5)
            assert teachers.InMemory is not keep or x.targets


def test_each_teacher_writes_behind_the_prompts_that_name_it():
    teacher = teachers.Routed({0: chain(*[1] * 6), 7: chain(*[2] * 6), 3: chain(*[2] * 6)}, "teacher")
    data = rollouts(chain(*[3] * 6), teacher=teacher, data=None, student_share=0.5, teacher_share=0.5, replay=1)
    origins = begun(data)._rows.origin
    assert 0 < np.mean(origins) < 1
    for row, origin, prompt in zip(data._rows.y, origins, data._rows.token_ids[:, 0], strict=True):
        assert row.tolist() == [{7: 2, 0: 1}[NUMBERS[prompt]] if origin else 3] * 3


@pytest.mark.slow
def test_trainings_under_live_and_kept_teachers_agree():
    found = []
    for keep in (lambda teacher: teacher, teachers.InMemory):
        made, data = followed(rollouts(bigram(TABLES[0])), keep(routed()))
        logs = made.fit(data, epochs=3, verbose=0).history
        found.append([logs["loss"], *made.student.get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_columns_change_nothing_that_is_written():
    student = bigram(TABLES[0])
    x, y, weights = given()
    plain = rollouts(student, columns=None, data=(x.inputs, y, weights))
    assert texts(begun(rollouts(student))) == texts(begun(plain))


def test_what_was_saved_is_restored_with_the_same_columns_alone(shared):
    student, state = shared.student, begun(shared).state()
    again = rollouts(student)
    again.restore(state)
    for name, value in state.items():
        np.testing.assert_array_equal(again.state()[name], value)
    for columns in ({"teacher": NUMBERS[::-1], "topic": TOPICS}, {"teacher": NUMBERS, "other": TOPICS}):
        with pytest.raises(ValueError, match="with prompts = "):
            rollouts(student, columns=columns, data=None, student_share=0.7).restore(state)


WHOLE = {"student_share": 1.0, "teacher_share": 0.0, "data": None}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"columns": {"teacher": NUMBERS[:5]}, **WHOLE}, r"each prompt, \(6,\).*'teacher', int64, \(5,\)"),
        ({"columns": {"teacher": NUMBERS / 2}, **WHOLE}, "a whole number for each prompt.*float64"),
        ({"columns": {"origin": NUMBERS}, **WHOLE}, "other names than 'origin'.*'origin'"),
        ({"columns": {"teacher": NUMBERS}}, r"the columns of the prompts, \['teacher'\]. Received: \['teacher', 'to"),
        ({"columns": None}, r"the columns of the prompts, \[\]. Received: \['teacher', 'topic'\]"),
        ({"data": (given()[0].inputs, *given()[1:])}, r"\['teacher', 'topic'\]. Received: \[\]. Give its x as"),
        ({"data": (given()[0]._replace(targets={"logits": 1}), *given()[1:])}, "`data` without targets"),
        ({"data": (Joined(given()[0].inputs, columns={"teacher": NUMBERS, "topic": TOPICS}), *given()[1:])},
         r"each example of `data`, \(5,\).*'teacher', int64, \(6,\)"),
        ({"teacher": routed(), "columns": {"topic": TOPICS}, "data": None, "student_share": 0.7},
         r"a column 'teacher' of the prompts.*Received: \['topic'\]. Give columns={'teacher': numbers}"),
        ({"teacher": teachers.Routed({0: bigram(TABLES[1])}, "teacher")},
         r"the column 'teacher' to hold numbers of teachers, \[0\]. Received: 7"),
        ({"teacher": routed(), "teacher_mix": 0.2}, r"tokens alone, under `teacher_mix`. .routed. reads"),
    ],
    ids=["few", "floats", "origin", "fewer", "none", "no columns of data", "targets", "examples", "no column", "number",
         "mixture"],
)  # fmt: skip
def test_columns_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rollouts(bigram(TABLES[0]), **arguments)


def test_a_teacher_of_another_column_says_where_columns_are_given(shared):
    made, data = followed(shared, teachers.Routed({0: bigram(TABLES[1])}, "language"))
    with pytest.raises(ValueError, match="expected examples with the column 'language'.*Rollouts have them as `col"):
        made.objective(*begun(data)[0])
