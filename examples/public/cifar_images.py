"""CIFAR-100 from TensorFlow Datasets in the papers' batches, and a stand-in of its shapes that needs no file."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import keras_kd as kd

CLASSES, SIDE, PADDING = 100, 32, 4
MEAN, DEVIATION = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of the papers' code


class Images(NamedTuple):
    """Images of 0 to 255, (n, 32, 32, 3), and their classes, (n,), for training and for the test."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def cifar100() -> Images:
    """Return all 50,000 images of training and all 10,000 of the test, downloaded where they are not there."""
    found = kd.data.load("cifar100", validation=1e-4)  # it holds some out, which the papers train on, too
    x, y = (np.concatenate(parts) for parts in zip(found.train, found.validation, strict=True))
    as_bytes = [np.rint(255 * images).astype("uint8") for images in (x, found.test[0])]
    return Images((as_bytes[0], y), (as_bytes[1], found.test[1]))


def stand_in(train: int, test: int) -> Images:
    """Return noise in the colour of its class, of as many images each."""
    random = np.random.default_rng(0)
    colours = random.uniform(64, 192, (CLASSES, 3))

    def part(rows: int) -> tuple[np.ndarray, np.ndarray]:
        y = random.integers(0, CLASSES, rows).astype("int32")
        x = colours[y][:, None, None] + random.normal(0, 16, (rows, SIDE, SIDE, 3))
        return np.clip(x, 0, 255).astype("uint8"), y

    return Images(part(train), part(test))


def batches(part: tuple[np.ndarray, np.ndarray], size: int, seed: int) -> tf.data.Dataset:
    """Return shuffled batches, each image padded by 4, cut to 32 x 32 at random, and mirrored every other time.

    Numbers of rows are shuffled, not images: a training that goes on draws all orders of the epochs before.
    """
    images, labels = map(tf.constant, part)
    order = tf.data.Dataset.range(len(labels)).shuffle(len(labels), seed=seed).batch(size)
    found = order.map(lambda rows: (tf.gather(images, rows), tf.gather(labels, rows)))
    return kd.augment.apply(found, cut_and_mirrored, seed=seed).map(lambda x, y: (normalised(x), y))


def evaluation_batches(part: tuple[np.ndarray, np.ndarray], size: int) -> tf.data.Dataset:
    """Return batches in order, unchanged."""
    return tf.data.Dataset.from_tensor_slices(part).batch(size).map(lambda x, y: (normalised(x), y))


def cut_and_mirrored(x: Any, seed: Any) -> Any:
    """Return images that are moved by up to 4 pixels, black where they end, and mirrored every other time."""
    rows = tf.shape(x)[0]
    moved = tf.random.stateless_uniform([2, rows, 1], seed, 0, 2 * PADDING + 1, tf.int32)
    places = moved + tf.range(SIDE)
    padded = tf.pad(x, [[0, 0], [PADDING, PADDING], [PADDING, PADDING], [0, 0]])
    cut = tf.gather(tf.gather(padded, places[0], axis=1, batch_dims=1), places[1], axis=2, batch_dims=1)
    mirrored = tf.random.stateless_uniform([rows, 1, 1, 1], seed + 1) < 0.5
    return tf.where(mirrored, cut[:, :, ::-1], cut)


def normalised(x: Any) -> Any:
    """Return images of mean 0 and variance 1 in each colour, about."""
    return (tf.cast(x, tf.float32) / 255.0 - MEAN) / DEVIATION
