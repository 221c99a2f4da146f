"""What `fit` takes beside arrays: DataFrames are read as arrays elsewhere, sparse matrices refused by name."""

import keras
import pytest
from scipy import sparse

import keras_kd as kd
from tests.models import batch, linear

X, Y = batch(16)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def distiller(teacher=None):
    made = kd.Distiller(student=linear(1), teacher=teacher or linear(2))
    made.compile(keras.optimizers.SGD(0.0), LOSS, alpha=1.0, temperature=4.0, jit_compile=False)
    return made


def check(x, y, folder):
    return distiller().check(x, y).teacher_accuracy


def remembered(x, y, folder):
    return distiller(kd.teachers.InMemory(linear(2))).fit(x, verbose=0).history["loss"]


def cached(x, y, folder):
    cache = kd.TeacherCache(folder / f"cache of {type(x).__name__}", teacher=linear(2))
    cache.build(x, verbose=0)
    return distiller(kd.teachers.Cached(cache)).fit(cache.join(x), verbose=0).history["loss"]


def compared(x, y, folder):
    return kd.compare({"teacher": linear(2)}, (x, y), rounds=0).quality["teacher"]


def exported(x, y, folder):
    report = kd.export(linear(1), folder / type(x).__name__ / "1", representative=x, fresh=False)
    return [each.agreement for each in report.artefacts]


PLACES = [check, remembered, cached, compared, exported]


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("place", PLACES)
def test_a_frame_is_read_as_its_array(place, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    assert place(frame, pandas.Series(Y), tmp_path) == place(X, Y, tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.coo_array])
def test_a_sparse_matrix_is_refused_with_what_to_do(place, make, tmp_path):
    with pytest.raises(TypeError, match=r"Expected dense arrays.*sparse.*\(16, 4\).*toarray"):
        place(make(X), Y, tmp_path)
