"""Data sets: what is loaded, from where, and the errors when it cannot be."""

import socket
import sys
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from keras_kd import data


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Twenty training images, ten of them black and ten white, and four test images that need no download."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {
        "image": tfds.features.Image(shape=(4, 6, 3)),
        "label": tfds.features.ClassLabel(names=["black", "white"]),
        "file": tfds.features.Text(),
    }
    SPLITS = {"train": 20, "test": 4}

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.FEATURES))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.SPLITS.items()}

    def _generate_examples(self, count):
        for i in range(count):
            pixels = np.full((4, 6, 3), 255 * (i % 2), "uint8")
            yield i, {"image": pixels, "label": i % 2, "file": f"{i}.png"}


SOURCE = {"http://images.invalid/all.zip": None}


class TinyUntested(TinyImages):
    SPLITS = {"train": 4}


class TinyText(TinyImages):
    FEATURES = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}


class TinyRegression(TinyImages):
    FEATURES = {"image": tfds.features.Image(shape=(4, 6, 3)), "label": tfds.features.Scalar(np.int64)}


class TinyManySizes(TinyImages):
    FEATURES = TinyImages.FEATURES | {"image": tfds.features.Image(shape=(None, None, 3))}


class TinySixteenBits(TinyImages):
    FEATURES = TinyImages.FEATURES | {"image": tfds.features.Image(shape=(4, 6, 3), dtype=np.uint16)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(host, *arguments):
        raise socket.gaierror(f"no address for {host}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(urllib.request, "getproxies", dict)


def sorted_examples(*parts):
    """Return the examples of some parts as rows of pixels and label, in an order of their own."""
    rows = np.concatenate([np.column_stack([x.reshape(len(x), -1), y]) for x, y in parts])
    return rows[np.lexsort(rows.T)]


def test_digits_are_scikit_learns_with_the_last_third_as_test_split():
    digits, reference = data.load(), load_digits()
    x, y = np.float32(reference.images / 16)[..., np.newaxis], reference.target
    np.testing.assert_array_equal(digits.test[0], x[1198:])
    np.testing.assert_array_equal(digits.test[1], y[1198:])
    training = sorted_examples(digits.train, digits.validation)
    np.testing.assert_array_equal(training, sorted_examples((x[:1198], y[:1198])))


def test_digits_describe_themselves():
    digits = data.load("digits")
    assert (digits.name, digits.input_shape, digits.classes) == ("digits", (8, 8, 1), 10)
    assert digits.class_names == tuple("0123456789")
    for x, y in (digits.train, digits.validation, digits.test):
        assert (x.dtype, y.dtype) == ("float32", "int32")
        assert (x.min(), x.max()) == (0.0, 1.0)


def test_validation_is_the_requested_fraction_of_the_training_split():
    digits = data.load(validation=0.25)
    assert len(digits.validation[0]) == len(digits.validation[1]) == 300  # a quarter of 1198, rounded
    assert len(digits.train[0]) == len(digits.train[1]) == 898


def test_one_seed_gives_one_split():
    first, second = data.load(seed=3), data.load(seed=3)
    for part in ("train", "validation", "test"):
        for a, b in zip(getattr(first, part), getattr(second, part), strict=True):
            np.testing.assert_array_equal(a, b)


def test_another_seed_gives_another_validation_part_and_the_same_test_split():
    first, second = data.load(seed=0), data.load(seed=1)
    assert not np.array_equal(sorted_examples(first.validation), sorted_examples(second.validation))
    np.testing.assert_array_equal(first.test[0], second.test[0])


def test_the_first_training_examples_are_a_sample_of_all_classes():
    # In their own order, the first 100 examples are those of the first writers.
    digits, reference = data.load(), load_digits()
    assert not np.array_equal(digits.train[1][:100], reference.target[:100])
    assert np.bincount(digits.train[1][:100], minlength=10).min() > 0


@pytest.mark.parametrize("validation", [0.0, 1.0, -0.1, 2, float("nan")])
def test_a_validation_fraction_out_of_range_is_refused(validation):
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\). Received: validation="):
        data.load(validation=validation)


def test_a_set_of_tensorflow_datasets_is_prepared_and_loaded_by_name(folder):
    tiny = data.load("tiny_images", validation=0.2)
    assert (tiny.input_shape, tiny.classes, tiny.class_names) == ((4, 6, 3), 2, ("black", "white"))
    assert [len(part[0]) for part in (tiny.train, tiny.validation, tiny.test)] == [16, 4, 4]
    for x, y in (tiny.train, tiny.validation, tiny.test):
        assert (x.dtype, y.dtype) == ("float32", "int32")
        np.testing.assert_array_equal(x, np.ones_like(x) * y[:, None, None, None])
    assert (folder / "tiny_images").is_dir()


def test_a_prepared_set_needs_no_network(folder, monkeypatch, no_network):
    first = data.load("tiny_images")
    monkeypatch.setattr(TinyImages, "url_infos", SOURCE)
    again = data.load("tiny_images")
    np.testing.assert_array_equal(first.train[1], again.train[1])


def test_behind_a_proxy_names_are_left_to_it(folder, monkeypatch, no_network):
    monkeypatch.setattr(TinyImages, "url_infos", SOURCE)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"http": "http://proxy.invalid"})
    assert data.load("tiny_images").classes == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tiny_text",
            "image-classification set, with the features 'image' and 'label'. Received: .*'text': 'Text'",
        ),
        ("tiny_regression", "Received: .*'label': 'Scalar'"),
        ("tiny_many_sizes", r"one size and 8 bits a value. Received: shape \(None, None, 3\)"),
        ("tiny_sixteen_bits", r"Received: shape \(4, 6, 3\), where None varies, and uint16"),
    ],
)
def test_what_is_not_labelled_images_of_one_size_is_refused_before_it_is_downloaded(folder, name, message):
    with pytest.raises(ValueError, match=message):
        data.load(name)
    assert not list(folder.iterdir())


def test_a_set_without_a_test_split_is_refused(folder):
    with pytest.raises(ValueError, match=r"splits 'train' and 'test'. Received: \['train'\]"):
        data.load("tiny_untested")


@pytest.mark.parametrize(
    ("name", "close"),
    [("fashion-mnist", "fashion_mnist"), ("fashion_mnst", "fashion_mnist"), ("digit", "digits")],
)
def test_the_error_of_an_unknown_name_lists_close_ones(name, close):
    with pytest.raises(ValueError, match=rf"Received: '{name}'. Close matches: .*'{close}'"):
        data.load(name)


def test_the_error_of_a_name_like_no_other_names_where_to_look():
    with pytest.raises(ValueError, match="list_builders"):
        data.load("qqqqqqqq")


def test_an_unknown_configuration_keeps_the_error_of_tensorflow_datasets():
    with pytest.raises(ValueError, match="BuilderConfig nosuch not found"):
        data.load("emnist/nosuch")


def test_without_data_and_network_the_error_comes_at_once_and_names_what_to_do(folder, monkeypatch, no_network):
    monkeypatch.setattr(TinyImages, "url_infos", SOURCE)
    with pytest.raises(ConnectionError, match="Set TFDS_DATA_DIR to a folder that holds it, connect") as caught:
        data.load("tiny_images")
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("digits", "sklearn.datasets", "scikit-learn"),
        ("fashion_mnist", "tensorflow_datasets", "tensorflow-datasets"),
        ("fashion_mnist", "importlib_resources", "tensorflow-datasets"),
    ],
)
def test_the_error_of_a_missing_package_names_the_extra_that_installs_it(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'needs {package}.*pip install "keras_kd\[data\]"'):
        data.load(name)


@pytest.mark.tfds
def test_fashion_mnist_is_complete(fashion_mnist):
    assert (fashion_mnist.input_shape, fashion_mnist.classes) == ((28, 28, 1), 10)
    assert [len(part[0]) for part in (fashion_mnist.train, fashion_mnist.validation, fashion_mnist.test)] == [
        54_000,
        6_000,
        10_000,
    ]
    assert fashion_mnist.class_names[0] == "T-shirt/top"
    # The set has 6,000 training and 1,000 test images of each class.
    labels = np.concatenate([fashion_mnist.train[1], fashion_mnist.validation[1]])
    np.testing.assert_array_equal(np.bincount(labels), [6_000] * 10)
    np.testing.assert_array_equal(np.bincount(fashion_mnist.test[1]), [1_000] * 10)


@pytest.mark.tfds
def test_fashion_mnist_pixels_have_their_published_statistics(fashion_mnist):
    # Mean 0.2860 and standard deviation 0.3530 of the 60,000 training images, the constants in common use.
    pixels = np.concatenate([fashion_mnist.train[0], fashion_mnist.validation[0]])
    np.testing.assert_allclose(pixels.mean(dtype="float64"), 0.2860, atol=5e-5)
    np.testing.assert_allclose(pixels.std(dtype="float64"), 0.3530, atol=5e-5)
