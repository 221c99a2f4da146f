"""`kd.export` without examples: ids and words of the student's vocabulary, sizes that it accepts, or an error."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_kd as kd
from keras_kd.exporting import sample_inputs
from keras_kd.exporting.sample_inputs import prepare
from tests.models import Subclassed, dense, linear, mlp, tagger

export = functools.partial(kd.export, fresh=False)


def drawn(student):
    """The inputs that are drawn for a student, by name, and why they are weak."""
    interface, found = prepare(student, None)
    return {spec.name: leaf for spec, leaf in zip(interface.specs, found.batches[0], strict=True)}, found.weakness


def ids(*, name="ids", shape=(5,), dtype="int32", rows=100):
    x = keras.Input(shape, dtype=dtype, name=name)
    return x, layers.Flatten()(layers.Embedding(rows, 3)(x))


class Inside(layers.Layer):
    """A layer with an embedding."""

    def __init__(self, rows):
        super().__init__()
        self.table = layers.Embedding(rows, 3)

    def call(self, x):
        return self.table(x)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "uint8"])
def test_ids_are_drawn_from_the_whole_range_of_their_embedding(dtype):
    x, y = ids(dtype=dtype)
    found, weakness = drawn(keras.Model(x, dense(3, 1)(y)))
    assert found["ids"].dtype == dtype and weakness == ""
    assert found["ids"].min() < 10 and 90 <= found["ids"].max() < 100 and len(np.unique(found["ids"])) > 30
    assert np.array_equal(found["ids"], np.round(found["ids"]))


def test_each_input_has_the_range_of_its_own_embedding():
    (a, left), (b, right) = ids(name="a", rows=7), ids(name="b", rows=1000)
    numbers = keras.Input((4,), name="numbers")
    found, weakness = drawn(keras.Model([b, numbers, a], layers.Concatenate()([left, right, numbers])))
    assert found["a"].max() < 7 and found["b"].max() > 500 and weakness == ""
    assert np.std(found["numbers"]) == pytest.approx(1, abs=0.3)


def test_each_input_of_a_nested_model_has_its_own_range():
    (a, left), (b, right) = ids(name="a", rows=7, dtype="float32"), ids(name="b", rows=1000)
    inner = keras.Model({"a": a, "b": b}, layers.Concatenate()([left, right]))
    outer = {"x": keras.Input((5,), name="x", dtype="int32"), "y": keras.Input((5,), name="y")}
    found, weakness = drawn(keras.Model(outer, inner({"b": outer["x"], "a": outer["y"]})))
    assert found["x"].max() > 500 and 4 < found["y"].max() < 7 and weakness == ""


def test_an_input_of_several_embeddings_has_ids_that_all_of_them_hold():
    x = keras.Input((2,), dtype="int32", name="columns")
    columns = [layers.Embedding(rows, 3)(x[:, i]) for i, rows in enumerate((9, 50))]
    found, weakness = drawn(keras.Model(x, layers.Concatenate()(columns)))
    assert 4 < found["columns"].max() < 9 and weakness == ""


@pytest.mark.parametrize("between", ["nested", "sequential", "reshape", "inside", "encoding", "one_hot", "lookup"])
def test_ids_are_followed_to_what_reads_them(between):
    x = keras.Input((4,), dtype="int32", name="ids")
    if between == "nested":
        inner = keras.Input((4,), dtype="int32")
        y = keras.Model(inner, layers.Embedding(40, 3)(inner))(x)
    elif between == "sequential":
        y = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(40, 3)])(x)
    elif between == "reshape":
        y = layers.Embedding(40, 3)(layers.Permute((2, 1))(layers.Reshape((2, 2))(x)))
    elif between == "one_hot":
        y = keras.ops.one_hot(x, 40)
    else:
        reader = {"inside": Inside(40), "encoding": layers.CategoryEncoding(40, output_mode="multi_hot")}
        y = reader.get(between, layers.IntegerLookup(vocabulary=list(range(20, 40)), output_mode="multi_hot"))(x)
    found, weakness = drawn(keras.Model(x, y))
    assert 30 <= found["ids"].max() < 40 and weakness == ""
    assert between != "lookup" or found["ids"].min() >= 20


@pytest.mark.parametrize("kind", ["lookup", "text", "hashing"])
def test_words_are_drawn_from_the_vocabulary(kind):
    x = keras.Input((), dtype="string", name="words")
    vocabulary = ["über", "b", "c", "d", "e", "f", "g", "h"]
    reader = {
        "lookup": layers.StringLookup(vocabulary=vocabulary, output_mode="one_hot"),
        "text": layers.TextVectorization(vocabulary=vocabulary, output_sequence_length=6),
        "hashing": layers.Hashing(50, output_mode="one_hot"),
    }[kind]
    found, weakness = drawn(keras.Model(x, keras.ops.cast(reader(x), "float32")))
    texts = [each.decode() for each in found["words"]]
    assert weakness == "" and len(set(texts)) >= (2 if kind == "text" else 5)
    if kind != "hashing":
        assert {word for text in texts for word in text.split()} <= set(vocabulary)
        assert max(len(text.split()) for text in texts) == (5 if kind == "text" else 1)


@pytest.mark.parametrize("dtype, largest", [("uint8", 255), ("int8", 127), ("int32", 255)])
def test_numbers_of_a_byte_are_drawn_for_inputs_that_take_any(dtype, largest):
    x = keras.Input((4, 4, 3), dtype=dtype, name="image")
    found, weakness = drawn(keras.Model(x, layers.Flatten()(layers.Rescaling(1 / 255)(x))))
    assert found["image"].dtype == dtype and weakness == ""
    assert found["image"].min() >= 0 and 0.8 * largest < found["image"].max() <= largest


def test_an_id_based_student_is_compared_on_more_than_one_id(tmp_path):
    report = export(tagger(1, words=50), tmp_path / "1")
    assert report.passed and report.note == ""
    _, found = prepare(tagger(1, words=50), None)
    assert len({tuple(row) for row in found.expected[0][0].reshape(-1, 3)}) > 30


@pytest.mark.parametrize("dtype", ["int32", "string"])
def test_values_that_cannot_be_known_are_in_the_report_and_a_warning(tmp_path, dtype):
    class Counting(layers.Layer):
        def call(self, x):
            return keras.ops.cast(tf.strings.length(x) if dtype == "string" else x, "float32")

    x = keras.Input((4,), dtype=dtype, name="code")
    student = keras.Model(x, dense(3, 1)(Counting()(x)))
    with pytest.warns(UserWarning, match=r"comparison is weak.*\['code'\].*`representative`"):
        report = export(student, tmp_path / "1")
    assert "weak" in report.note and report.note in str(report)
    values = drawn(student)[0]["code"]
    assert len(np.unique(values)) > 10 if dtype == "string" else np.array_equal(np.unique(values), [0, 1])
    assert report.note in (tmp_path / "1" / "export.json").read_text()
    given = np.array([["a", "bb", "c", "d"]]) if dtype == "string" else np.arange(8).reshape(2, 4)
    assert export(student, tmp_path / "2", representative=given).note == ""


def test_outputs_that_are_all_the_same_are_a_weak_comparison(tmp_path):
    with pytest.warns(UserWarning, match="outputs are the same for all examples"):
        report = export(mlp(1), tmp_path / "1", representative=np.ones((5, 4), "float32"))
    assert "the same for all" in report.note


# Sizes.


def deep():
    """A student of images of any size from 59 on."""
    x = keras.Input((None, None, 3), name="image")
    y = layers.Conv2D(4, 5, strides=2)(layers.MaxPooling2D(4)(x))
    return keras.Model(x, dense(3, 1)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 5, strides=2)(y))), name="deep")


def test_free_sizes_are_those_that_the_student_can_be_called_on(tmp_path):
    found, _ = drawn(deep())
    assert found["image"].shape == (16, 128, 128, 3)
    assert drawn(tagger(1))[0]["input_0"].shape == (16, 8)
    assert export(deep(), tmp_path / "1").passed


def test_examples_that_are_too_small_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'deep' does not for one or for image \(2, 16, 16, 3\) float32. Pass inputs"):
        export(deep(), tmp_path / "1", representative=np.ones((2, 16, 16, 3), "float32"))
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_a_student_that_no_size_fits_requires_examples(tmp_path):
    x = keras.Input((None, 4))
    student = keras.Model(x, dense(3, 1)(keras.ops.reshape(x, (-1, 5, 4))[:, 0] + 0 * x[:, 0]), name="five")
    with pytest.raises(ValueError, match=r"'five' does not.*Pass `representative` inputs, as in"):
        export(student, tmp_path / "1")
    assert export(student, tmp_path / "1", representative=np.ones((2, 5, 4)) * [[[1.0]], [[2.0]]]).passed


@pytest.mark.parametrize("given", [None, np.zeros((2, 5, 4), "float32")])
@pytest.mark.parametrize("kind", ["stateful", "reshaped"])
def test_a_student_that_is_tied_to_a_batch_size_is_refused_by_name(tmp_path, kind, given):
    x = keras.Input(batch_shape=(2, 5, 4), name="steps")
    y = layers.LSTM(3, stateful=True)(x) if kind == "stateful" else keras.ops.reshape(x, (2, 20))
    with pytest.raises(ValueError, match=r"'pair' does not.*batches of a fixed size, steps of 2.*keras.Input\(shape\)"):
        export(keras.Model(x, dense(3, 1)(y), name="pair"), tmp_path / "1", representative=given)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_size_that_is_declared_and_not_needed_does_not_matter(tmp_path):
    x = keras.Input(batch_shape=(2, 4))
    student = keras.Model(x, dense(3, 1)(x))
    export(student, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    many = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
    kernel, bias = student.get_weights()
    np.testing.assert_allclose(loaded.serve(many), many @ kernel + bias, atol=1e-5)


def test_a_student_whose_outputs_are_nan_is_refused_before_anything_is_written(tmp_path):
    student = linear(1)
    student.set_weights([np.full_like(w, np.nan) for w in student.get_weights()])
    with pytest.raises(ValueError, match="returns numbers.*returns nan"):
        export(student, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_scores_of_masked_classes_may_be_infinite(tmp_path):
    class Masked(layers.Layer):
        def call(self, x):
            return keras.ops.where(np.array([True, False, True]), x, -np.inf)

    x = keras.Input((4,))
    assert export(keras.Model(x, Masked()(dense(3, 1)(x))), tmp_path / "1").passed


def test_a_subclassed_student_still_requires_examples():
    student = Subclassed(dense(3, 1))
    student.build((None, 4))
    with pytest.raises(ValueError, match="representative.*subclassed"):
        prepare(student, None)
    assert sample_inputs.prepare(student, np.ones((3, 4)))[1].count == 3
