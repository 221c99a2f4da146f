"""A linear probe and nearest neighbours of frozen features."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn import linear_model, neighbors

import keras_kd as kd

random = np.random.default_rng(0)
Y = np.arange(60) % 3
#: Images of which each class is bright at another place; the first column is noise.
X = random.uniform(0, 0.3, (60, 4, 4, 1)).astype("float32")
X[np.arange(60), Y + 1, Y + 1] += 1.0
TRAIN, TEST = (X[:45], Y[:45]), (X[45:], Y[45:])


def places(seed=0, units=4, head=0, name="places"):
    """Return a backbone whose mean over positions distinguishes places."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 1))
    maps = keras.layers.Conv2D(units, 4, padding="same", activation="relu")(inputs)
    output = keras.layers.Dense(head)(keras.layers.GlobalAveragePooling2D()(maps)) if head else maps
    return keras.Model(inputs, output, name=name)


def blind():
    """Return a backbone that outputs the same for all images."""
    inputs = keras.Input((4, 4, 1))
    return keras.Model(inputs, keras.layers.Conv2D(2, 1, kernel_initializer="zeros", bias_initializer="ones")(inputs))


def test_the_probes_are_scikit_learns_on_the_mean_of_the_last_map():
    model = places()
    found = kd.probe({"ours": model}, TRAIN, TEST, neighbours=5)
    features = [np.asarray(model(x)).mean(axis=(1, 2)) for x in (TRAIN[0], TEST[0])]
    scaled = [(each - features[0].mean(axis=0)) / features[0].std(axis=0) for each in features]
    linear = linear_model.LogisticRegression(max_iter=2000).fit(scaled[0], TRAIN[1]).score(scaled[1], TEST[1])
    nearest = neighbors.KNeighborsClassifier(5, metric="cosine").fit(features[0], TRAIN[1])
    assert found.quality == {"ours": {"linear": linear, "nearest": nearest.score(features[1], TEST[1]), "features": 4}}
    assert found.examples == (45, 15) and found.neighbours == 5


def test_nearest_neighbours_are_those_of_the_largest_cosine():
    # By hand: features of one direction are of one class, whatever their length.
    x = np.zeros((6, 2, 2, 2), "float32")
    x[:] = np.array([[1, 0], [9, 1], [0, 1], [1, 9], [0.2, 0], [0, 0.1]])[:, None, None]
    inputs = keras.Input((2, 2, 2))
    model = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    y = np.array([0, 0, 1, 1, 0, 1])
    assert kd.probe({"model": model}, (x[:4], y[:4]), (x[4:], y[4:]), neighbours=1).quality["model"]["nearest"] == 1.0


def test_what_sees_something_is_better_than_what_is_blind():
    found = kd.probe({"places": places(units=16), "blind": blind()}, TRAIN, TEST, neighbours=3).quality
    assert found["places"]["linear"] > 0.8 and found["blind"]["linear"] == pytest.approx(1 / 3)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("form", ["batches", "one-hot", "column", "endless never"])
def test_data_and_labels_may_come_in_any_form(form):
    expected = kd.probe({"model": places()}, TRAIN, TEST, neighbours=3).quality
    forms = {
        "batches": [tf.data.Dataset.from_tensor_slices(each).batch(7) for each in (TRAIN, TEST)],
        "one-hot": [(x, np.eye(3)[y]) for x, y in (TRAIN, TEST)],
        "column": [(x, y[:, None]) for x, y in (TRAIN, TEST)],
        "endless never": [(x, y, np.ones(len(y))) for x, y in (TRAIN, TEST)],
    }
    assert kd.probe({"model": places()}, *forms[form], neighbours=3, batch_size=8).quality == expected


def test_one_hot_labels_of_two_classes_are_ids():
    two = [(x[y < 2], y[y < 2]) for x, y in (TRAIN, TEST)]
    expected = kd.probe({"model": places()}, *two, neighbours=3).quality
    one_hot = [(x, np.eye(2)[y]) for x, y in two]
    assert kd.probe({"model": places()}, *one_hot, neighbours=3).quality == expected


def test_a_classifier_and_a_backbone_with_its_preprocessing_are_probed_before_the_head():
    bright = kd.teachers.Frozen(places(), preprocess=lambda x: x / 2)
    found = kd.probe({"backbone": places(), "classifier": places(head=3), "half": bright}, TRAIN, TEST).quality
    assert (
        found["backbone"] == found["classifier"] == found["half"]
    )  # neither probe sees a scale, of a ReLU without bias


def test_nothing_is_trained():
    model = places()
    before = model.get_weights()
    kd.probe({"model": model}, TRAIN, TEST)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.trainable


def test_it_prints_a_table():
    found = kd.probe({"ours": places(), "blind": blind()}, TRAIN, TEST, neighbours=3)
    lines = str(found).splitlines()
    assert lines[0].split() == ["15", "examples,", "45", "labels", "ours", "blind"]
    assert [line.split("  ")[0] for line in lines[2:]] == ["linear probe", "3 nearest neighbours", "features"]
    assert f"{100 * found.quality['ours']['linear']:.2f} %*" in lines[2] and lines[4].split() == ["features", "4", "2"]
    assert "<td class=best>" in found._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"backbones": {}}, TypeError, "Expected backbones by name"),
        ({"backbones": {"it": "file.keras"}}, TypeError, "the backbone 'it' to be a keras.Model"),
        ({"neighbours": 46}, ValueError, "from 1 to 45, the examples that there are. Received: 46"),
        ({"neighbours": 0}, ValueError, "Received: 0"),
        ({"train": X}, TypeError, "Received: ndarray"),
        ({"test": tf.data.Dataset.from_tensor_slices(TEST).take(0).batch(4)}, ValueError, "Received none"),
    ],
    ids=["none", "file", "many", "zero", "array", "empty"],
)
def test_what_cannot_be_probed_is_refused(arguments, error, words):
    given = {"backbones": {"model": places()}, "train": TRAIN, "test": TEST, **arguments}
    with pytest.raises(error, match=words):
        kd.probe(**given)
