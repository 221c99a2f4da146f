"""Estimators that were fitted on DataFrames, as teachers of networks that are fed columns by their names."""

import re
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn import compose, ensemble, pipeline, preprocessing

import keras_kd as kd
from keras_kd._internal import sklearn_models
from keras_kd.teachers import Python
from tests.models import assert_same, dense, numbers
from tests.test_objective import distill
from tests.test_teachers_python import log, soft

RANDOM = np.random.default_rng(0)
ROWS = 24
DF = pd.DataFrame(
    {
        "age": RANDOM.integers(18, 90, ROWS),
        "amount": RANDOM.normal(size=ROWS),
        "country": RANDOM.choice(["de", "fr", "us"], ROWS),
    },
    index=RANDOM.permutation(ROWS),
)
Y = ((DF["amount"] > 0) & (DF["country"] != "us")).to_numpy().astype("int64")
COLUMNS = {name: DF[name].to_numpy() for name in DF}
NUMERIC = DF[["amount", "age"]]
ARRAY = NUMERIC.to_numpy("float32")


def tree_of(estimator, y=Y):
    """Return a pipeline that is fitted on the DataFrame, numbers and text."""
    numbers, text = preprocessing.StandardScaler(), preprocessing.OneHotEncoder()
    columns = compose.ColumnTransformer([("numbers", numbers, ["age", "amount"]), ("text", text, ["country"])])
    return pipeline.make_pipeline(columns, estimator).fit(DF, y)


def forest():
    return tree_of(ensemble.RandomForestClassifier(5, random_state=0))


def network(units=2, names=("amount", "age")):
    """Return a network that reads two of the columns."""
    inputs = {name: keras.Input((1,), name=name) for name in names}
    both = keras.layers.Concatenate()([inputs["amount"], keras.layers.Rescaling(0.01)(inputs["age"])])
    return keras.Model(inputs, dense(units, 1)(both))


def plain(units=2):
    inputs = keras.Input((2,))
    return keras.Model(inputs, dense(units, 1)(keras.layers.Rescaling([[1.0, 0.01]])(inputs)))


def outputs(student):
    return student({"amount": ARRAY[:, :1], "age": ARRAY[:, 1:]})


def softly(student, teacher, x, y=None, **arguments):
    """Return the logged loss of the teacher alone, at T = 4."""
    distiller = distill(student, teacher, loss=None, alpha=1.0, temperature=4.0, **arguments)
    return distiller.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0).history["loss"]


FORMS = {
    "columns": (lambda: COLUMNS, lambda teacher: teacher),
    "columns of one value": (lambda: {**COLUMNS, "age": COLUMNS["age"][:, None]}, lambda teacher: teacher),
    "more columns": (lambda: {**COLUMNS, "id": np.arange(ROWS)}, lambda teacher: teacher),
    "in memory": (lambda: COLUMNS, kd.teachers.InMemory),
    "ensemble": (lambda: COLUMNS, lambda teacher: [teacher, teacher]),
    "dataset": (lambda: tf.data.Dataset.from_tensor_slices((dict(DF),)).batch(ROWS), lambda teacher: teacher),
    "prepared": (
        lambda: {"amount": ARRAY[:, 0], "age": ARRAY[:, 1], "place": COLUMNS["country"]},
        lambda teacher: Python(teacher, preprocess=lambda x: {"country": x["place"], **x}),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_pipeline_of_numbers_and_text_teaches_by_the_names_of_columns(form, eager):
    make, wrap = FORMS[form]
    student, estimator = network(), forest()
    expected = soft(outputs(student), log(estimator.predict_proba(DF)))
    assert softly(student, wrap(estimator), make(), run_eagerly=eager) == pytest.approx([expected], rel=1e-5)


def test_a_cache_of_columns(tmp_path):
    student, estimator = network(), forest()
    cache = kd.TeacherCache(tmp_path, teacher=estimator, dtype="float32")
    cache.build(COLUMNS, verbose=0)
    expected = soft(outputs(student), log(estimator.predict_proba(DF)))
    assert softly(student, kd.teachers.Cached(cache), cache.join(COLUMNS)) == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("x", [ARRAY, NUMERIC], ids=["array", "frame"])
def test_an_array_has_the_columns_by_position(x, recwarn):
    student, estimator = plain(), ensemble.RandomForestClassifier(5, random_state=0).fit(NUMERIC, Y)
    expected = soft(student(ARRAY), log(estimator.predict_proba(NUMERIC)))
    assert softly(student, estimator, x) == pytest.approx([expected], rel=1e-5)
    assert not [each for each in recwarn if "feature names" in str(each.message)]


def test_one_logit_learns_the_second_class():
    student, estimator = network(1), forest()
    distiller = kd.Distiller(student=student, teacher=estimator)
    assert [term.loss for term in distiller.terms] == [kd.losses.binary_kl]
    assert distiller.teacher.kind("logits") == "sigmoid"


def test_a_regressor_that_knows_no_empty_category_teaches_values():
    student, estimator = network(1), tree_of(ensemble.RandomForestRegressor(5, random_state=0), DF["amount"])
    expected = np.mean((np.asarray(outputs(student), "float64")[:, 0] - estimator.predict(DF)) ** 2)
    assert softly(student, estimator, COLUMNS, terms=kd.methods.regression()) == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(
    ("package", "name"), [("lightgbm", "LGBMClassifier"), ("xgboost", "XGBClassifier")], ids=["lightgbm", "xgboost"]
)
def test_text_is_found_among_the_categories_of_boosted_trees(package, name):
    arguments = {"lightgbm": {"verbose": -1, "min_child_samples": 1}, "xgboost": {"enable_categorical": True}}[package]
    made = getattr(pytest.importorskip(package), name)(n_estimators=5, **arguments)
    table = DF.astype({"country": "category"})
    estimator, student = made.fit(table, Y), network()
    few = {name: each[DF["country"] == "us"] for name, each in COLUMNS.items()}  # whose codes would be others alone
    t = log(estimator.predict_proba(table[DF["country"] == "us"]))
    s = student({"amount": few["amount"][:, None], "age": few["age"][:, None]})
    assert softly(student, estimator, few) == pytest.approx([soft(s, t)], rel=1e-5)


# Errors


def test_a_missing_column_is_named_before_weights_change():
    student = network()
    before = numbers(student)
    x = {name: COLUMNS[name] for name in ("age", "amount")}
    for eager in (True, False):
        with pytest.raises(ValueError, match=r"Pipeline was fitted on\. Missing: \['country'\]\. Received: \['age'"):
            softly(student, forest(), x, run_eagerly=eager)
    assert_same(numbers(student), before)


WRONG = {
    "a column of two": ({**COLUMNS, "age": ARRAY}, r"one value a row in the column 'age'. Received: \(24, 2\)"),
    "another number of columns": (ARRAY, r"or an array with the 3 columns that Pipeline was fitted on.*\(24, 2\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_row_of_the_table_is_refused(name):
    x, words = WRONG[name]
    inputs = {"amount": keras.Input((1,), name="amount")}
    by_name = keras.Model(inputs, dense(2, 1)(inputs["amount"]))
    with pytest.raises(ValueError, match=words):
        softly(by_name if isinstance(x, dict) else plain(), forest(), x)


def test_columns_by_name_are_refused_where_the_estimator_has_none():
    estimator = ensemble.RandomForestClassifier(5).fit(ARRAY, Y)
    with pytest.raises(ValueError, match=r"one array of columns, as RandomForestClassifier has no.*\['age'"):
        softly(network(), estimator, {name: COLUMNS[name] for name in ("age", "amount")})


@pytest.mark.parametrize("wrap", [lambda teacher: teacher, kd.teachers.InMemory, lambda teacher: [teacher]])
def test_a_frame_of_columns_in_another_order_is_refused(wrap):
    estimator = ensemble.RandomForestClassifier(5).fit(NUMERIC, Y)
    with pytest.raises(ValueError, match=r"order, \['amount', 'age'\].*Received: \['age', 'amount'\]\. Give df\["):
        softly(plain(), wrap(estimator), NUMERIC[["age", "amount"]])
    softly(plain(), Python(estimator, preprocess=lambda x: x[:, ::-1]), NUMERIC[["age", "amount"]])


def test_series_by_name_are_their_arrays():
    assert softly(network(), forest(), dict(DF)) == pytest.approx(softly(network(), forest(), COLUMNS), rel=1e-6)


@pytest.mark.parametrize("x", [DF, NUMERIC.assign(sure=True)], ids=["frame", "bool"])
def test_text_of_pandas_is_refused_with_the_line_that_works(x):
    words = "Give columns by name, fit({name: df[name].to_numpy() for name in df}, y)"
    with pytest.raises(TypeError, match=re.escape(words)):
        softly(network(), forest(), x)


def test_pandas_is_named_where_it_is_missing(monkeypatch):
    estimator = forest()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="To give Pipeline the DataFrame that it expects: pip install pandas"):
        sklearn_models.as_fitted(estimator, COLUMNS)
