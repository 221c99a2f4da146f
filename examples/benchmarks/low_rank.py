"""Fewer units, fewer ranks or fewer values: which of them keeps most accuracy in the same bytes?

    python examples/benchmarks/low_rank.py [--only dense] [--seeds 3] [--smoke]

A dense and a residual convolutional network learn scikit-learn's digits. Each is made smaller in three ways:

- "pruned": `kd.prune` removes units; statistics of normalisations are measured anew.
- "factorised": a kernel becomes two, by the singular values that are largest for the bytes of theirs; that of a
  convolution of 3 x 3 one of 3 x 1 and one of 1 x 3. A layer whose two kernels would be larger stays as it is.
- "clustered": the weights of each kernel have 16 values, found by k-means; a file holds 4 bits for each weight, and
  the values. Training moves the values.

All have the bytes of the clustered one at most, and learn as many steps from the model that they came from, under the
same cosine schedule. What is in 8 bits has kernels of 1 byte for each weight and a scale for each channel, rounded
after training, which LiteRT computes with; so that more units or ranks fit. Clusters make a file smaller and nothing
else: LiteRT has no operation that reads them, and kernels are unpacked to run. Bytes are those of the arrays in a file
of weights, without its headers. Printed are test accuracies in percent, mean and standard deviation over the seeds.

Seeds 0, 1 and 2 on one core, four minutes of it, 28 November 2026:

    dense                      bytes        accuracy   below the model
    the model                 35,880    92.38 ± 0.48       0.00 ± 0.00
    clustered                  5,160    92.21 ± 0.35       0.17 ± 0.17
    pruned                     4,987    91.65 ± 0.44       0.72 ± 0.10
    factorised                 5,160   62.83 ± 13.90     29.55 ± 14.20
    pruned, 8 bits             5,092    91.93 ± 0.70       0.45 ± 0.26
    factorised, 8 bits         5,044    92.21 ± 0.39       0.17 ± 0.44

    residual                   bytes        accuracy   below the model
    the model                 39,400    95.94 ± 0.54       0.00 ± 0.00
    clustered                  6,464    95.83 ± 0.44       0.11 ± 0.63
    pruned                     6,192    93.16 ± 0.88       2.78 ± 0.79
    factorised                 6,376    92.10 ± 1.59       3.84 ± 1.61
    pruned, 8 bits             6,330    95.77 ± 1.17       0.17 ± 0.73
    factorised, 8 bits         6,384    95.88 ± 0.59       0.06 ± 0.26

In the same bytes, 16 values keep more than fewer units or ranks in 32 bits. Beside fewer units or ranks in 8 bits, they
gain nothing that three seeds could show, and 8 bits also run.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from sklearn.cluster import KMeans

import keras_kd as kd

VALUES = 16
BATCH = 32
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(shape: tuple[int, ...]) -> keras.Model:
    """Return a network of 8,970 parameters for digits as a table."""
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    for _ in range(2):
        x = layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def residual(shape: tuple[int, ...]) -> keras.Model:
    """Return a network of 9,930 parameters: a convolution, and two residual blocks of two each."""
    inputs = keras.Input(shape)
    x = normalised(inputs, 2)
    for _ in range(2):
        x = layers.ReLU()(layers.Add()([x, normalised(normalised(x), linear=True)]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def normalised(x: keras.KerasTensor, strides: int = 1, linear: bool = False) -> keras.KerasTensor:
    x = layers.Conv2D(16, 3, strides, "same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return x if linear else layers.ReLU()(x)


MODELS: dict[str, Callable[[tuple[int, ...]], keras.Model]] = {"dense": dense, "residual": residual}


def shapes(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(each.shape) for each in model.weights]


def nbytes(weights: list[tuple[int, ...]], bits: int = 32) -> int:
    """Return the bytes of weights of some shapes, with kernels, which have two axes or more, of so many bits a weight.

    Those of 8 bits have a float32 for each channel beside them, those of 4 bits the values of the clusters.
    """
    beside = {32: lambda _: 0, 8: lambda shape: shape[-1], 4: lambda _: VALUES}[bits]
    of_kernels = sum(np.prod(each) * bits / 8 + 4 * beside(each) for each in weights if len(each) > 1)
    return round(of_kernels + sum(4 * np.prod(each) for each in weights if len(each) < 2))


def pruned(model: keras.Model, x: np.ndarray, budget: int, bits: int) -> keras.Model:
    """Remove units until the weights fit: bytes are nearly in proportion to parameters."""
    parameters = budget / nbytes(shapes(model), bits) * model.count_params()
    while True:
        small, _ = kd.prune(model, parameters=int(parameters), data=x[:512])
        if nbytes(shapes(small), bits) <= budget:
            return kd.pruning.recalibrate(small, x)
        parameters *= min(budget / nbytes(shapes(small), bits), 0.99)


def factorised(model: keras.Model, x: np.ndarray, budget: int, bits: int) -> keras.Model:
    """Keep the singular values that are largest for what they cost, of all layers together, until the weights fit."""
    found = [Factors(layer) for layer in model.layers if hasattr(layer, "kernel")]
    others = [shape for shape in shapes(model) if len(shape) < 2]
    for least in np.sort(np.concatenate([each.worth for each in found])):
        ranks = [max(1, int(np.sum(each.worth >= least))) for each in found]
        kernels = [shape for each, rank in zip(found, ranks, strict=True) for shape in each.shapes(rank)]
        if nbytes(others + kernels, bits) <= budget:
            break
    made = {each.layer.name: each.layers(rank) for each, rank in zip(found, ranks, strict=True)}
    return kd.pruning.recalibrate(with_layers(model, made), x)


class Factors:
    """The singular values of the kernel of a layer, as a matrix, and what each is worth."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        self.layer = layer
        kernel = np.asarray(layer.kernel)
        self.shape = kernel.shape if kernel.ndim == 4 else (1, 1, *kernel.shape)
        rows, columns, ins, outs = self.shape
        matrix = kernel.reshape(self.shape).transpose(0, 2, 1, 3).reshape(rows * ins, columns * outs)
        self.left, values, self.right = np.linalg.svd(matrix, full_matrices=False)
        self.root = np.sqrt(values)
        self.worth = values**2 / np.sum(values**2) / sum(matrix.shape)

    def shapes(self, rank: int) -> list[tuple[int, ...]]:
        """Return the shapes of two kernels, or of the one where it is smaller."""
        rows, columns, ins, outs = self.shape
        pair = [(rows, 1, ins, rank), (1, columns, rank, outs)]
        return pair if sum(map(np.prod, pair)) < np.prod(self.shape) else [self.shape]

    def layers(self, rank: int) -> keras.layers.Layer:
        """Return two layers in the place of one, or the one where it is smaller."""
        rows, columns, ins, outs = self.shape
        if len(self.shapes(rank)) == 1:
            return of_weights(self.layer, self.layer.get_config(), self.layer.get_weights())
        first = (self.left * self.root)[:, :rank].reshape(rows, ins, 1, rank).transpose(0, 2, 1, 3)
        second = (self.root[:, None] * self.right)[:rank].reshape(rank, columns, 1, outs).transpose(2, 1, 0, 3)
        config, bias = self.layer.get_config(), self.layer.get_weights()[1:]
        inner = {**config, "use_bias": False, "activation": "linear", "name": "first"}
        outer = {**config, "name": "second"}
        if "kernel_size" in config:
            inner |= {"filters": rank, "kernel_size": (rows, 1), "strides": (config["strides"][0], 1)}
            outer |= {"kernel_size": (1, columns), "strides": (1, config["strides"][1])}
        else:
            inner["units"] = rank
            first, second = first[0, 0], second[0, 0]
        pair = [of_weights(self.layer, inner, [first]), of_weights(self.layer, outer, [second, *bias])]
        return keras.Sequential(pair, name=self.layer.name)


def of_weights(like: keras.layers.Layer, config: dict[str, Any], weights: list[np.ndarray]) -> keras.layers.Layer:
    layer = type(like).from_config(config)
    layer.build((None,) * (weights[0].ndim - 1) + (weights[0].shape[-2],))
    layer.set_weights(weights)
    return layer


def with_layers(model: keras.Model, made: dict[str, keras.layers.Layer]) -> keras.Model:
    """Return a copy with other layers in the place of some."""
    copy = keras.models.clone_model(
        model, clone_function=lambda layer: made.get(layer.name) or type(layer).from_config(layer.get_config())
    )
    for layer in model.layers:
        if layer.weights and layer.name not in made:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def kernels_of(model: keras.Model) -> list[keras.Variable]:
    return [each for each in model.weights if len(each.shape) > 1]


def clustered(model: keras.Model, x: np.ndarray, budget: int, bits: int) -> keras.Model:
    """Give the weights of each kernel 16 values."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for kernel in kernels_of(copy):
        flat = np.asarray(kernel).reshape(-1, 1)
        found = KMeans(VALUES, n_init=1, random_state=0).fit(flat)
        kernel.constraint = Shared(found.labels_)
        kernel.assign(kernel.constraint(kernel.value))
    return kd.pruning.recalibrate(copy, x)


class Shared(keras.constraints.Constraint):
    """Give weights of one cluster their mean, after each step."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.counts = np.bincount(labels, minlength=VALUES).astype("float32")

    def __call__(self, w: Any) -> Any:
        means = ops.segment_sum(ops.reshape(w, (-1,)), self.labels, VALUES) / self.counts
        return ops.reshape(ops.take(means, self.labels), w.shape)


def rounded(model: keras.Model) -> None:
    """Round kernels to 8 bits, with a scale for each channel."""
    for kernel in kernels_of(model):
        value = np.asarray(kernel)
        scale = np.abs(value).max(axis=tuple(range(value.ndim - 1))) / 127
        kernel.assign(np.round(value / np.maximum(scale, 1e-12)) * scale)


WAYS: dict[str, tuple[Any, int]] = {
    "clustered": (clustered, 4),
    "pruned": (pruned, 32),
    "factorised": (factorised, 32),
    "pruned, 8 bits": (pruned, 8),
    "factorised, 8 bits": (factorised, 8),
}


def train(trained: keras.Model, data: Any, rate: float, steps: int, seed: int, **arguments: float) -> None:
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    trained.compile(optimizer, SPARSE, steps_per_execution=10 if steps >= 10 else 1, **arguments)
    rows = tf.data.Dataset.from_tensor_slices(data).shuffle(2000, seed=seed).repeat()
    trained.fit(rows.batch(BATCH), steps_per_epoch=steps, verbose=0, shuffle=False)


def accuracy(model: keras.Model, data: tuple[np.ndarray, np.ndarray]) -> float:
    return 100 * float(np.mean(np.argmax(model(data[0], training=False), -1) == data[1]))


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, tuple[int, float]]:
    """Train a model, make it smaller in each way, and return bytes and accuracies."""
    images = kd.data.load("digits")
    keras.utils.set_random_seed(seed)
    model = MODELS[name](images.input_shape)
    train(model, images.train, 3e-3, options.steps, seed)
    found = {"the model": (nbytes(shapes(model)), accuracy(model, images.test))}
    budget = nbytes(shapes(model), 4)
    for way, (smaller, bits) in WAYS.items():
        student = smaller(model, images.train[0], budget, bits)
        distiller = kd.Distiller(student=student, teacher=model, terms=kd.methods.kd())
        train(distiller, images.train, options.rate, options.steps, seed + 1000, alpha=0.9)
        if bits == 8:
            rounded(student)
        found[way] = nbytes(shapes(student), bits), accuracy(student, images.test)
    print(f"  seed {seed}: " + ", ".join(f"{way} {value:.2f}" for way, (_, value) in found.items()), flush=True)
    return found


def main() -> None:
    options = read_arguments()
    started = time.perf_counter()
    for name in options.only:
        print(f"\n{name}")
        runs = [run(name, seed, options) for seed in range(options.seeds)]
        print(f"\n{name:<22}{'bytes':>10}{'accuracy':>16}{'below the model':>18}")
        for way in runs[0]:
            sizes, values = zip(*(each[way] for each in runs), strict=True)
            below = [each["the model"][1] - each[way][1] for each in runs]
            print(f"{way:<22}{statistics.mean(sizes):>10,.0f}{spread(values):>16}{spread(below):>18}")
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes")


def spread(values: Any) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME", help="one of them")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--steps", type=int, default=600, help="of each training (default: 600)")
    parser.add_argument("--rate", type=float, default=1e-2, help="at the beginning of healing (default: 0.01)")
    parser.add_argument("--smoke", action="store_true", help="one seed, few steps: does it run?")
    options = parser.parse_args()
    if options.smoke:
        options.seeds, options.steps = 1, 2
    return options


if __name__ == "__main__":
    main()
