"""Top-k targets of a language model: how far their divergence is from that of all classes, their size, and their time.

    python examples/benchmarks/sparse_targets.py            # about a minute on two CPU cores
    python examples/benchmarks/sparse_targets.py --smoke    # a small vocabulary: does it run?

64 distributions over 151,936 classes, seed 0, as language models have them: probabilities that fall with a power of the
rank, some sure of one class and some not, and a student whose logits are the teacher's with noise. Each number is the
mean of T**2 * KL(teacher || student) at T. "dense" has all classes. Of the k most probable classes and the mass of the
others, "bucket" makes one class of these, in teacher and student; "spread" spreads it evenly; "renormalised" divides
the k probabilities by their sum; "zero-filled" leaves the others out of the sum. A bucket has no value at T above 1,
where the mass of the others is not known.

A packed row is what TeacherCache(dtype="packed") stores of a token, "KL" what is lost by it at T = 1, "p" the largest
error of a probability. Decoding is timed in a tf.function, 4,096 tokens at a time.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported

import numpy as np
import tensorflow as tf
from aims import at_most

import keras_kd as kd
from keras_kd._internal.sparse_targets import SparseTarget
from keras_kd.cache.packed_classes import PackedClasses

CLASSES, SMOKE_CLASSES, ROWS, TOKENS = 151_936, 2_000, 64, 4_096
KEPT, TEMPERATURES = (8, 50, 256), (1.0, 2.0, 4.0)
#: Bytes of a token for k, and microseconds to decode one for 50.
SIZE_LIMITS, TIME_LIMIT = {20: 60, 50: 114}, 20.0
FILLINGS = ("dense", "bucket", "spread", "renormalised", "zero-filled")


def main() -> None:
    options = read_arguments()
    classes = SMOKE_CLASSES if options.smoke else CLASSES
    teacher, student = distributions(classes)
    print(f"\n\nKL times T**2 against {classes:,} classes, means of {ROWS} rows\n")
    print(f"{'':<16}" + "".join(f"{name:>14}" for name in FILLINGS))
    for temperature in TEMPERATURES:
        for k in KEPT:
            values = fillings(teacher, student, k, temperature)
            cells = "".join(f"{'-' if each is None else format(each, '.4f'):>14}" for each in values.values())
            print(f"{f'T = {temperature:g}, k = {k}':<16}{cells}", flush=True)
    print("\nA packed row\n")
    print(f"{'':<10}{'KL':>10}{'p':>10}{'us a token':>12}{'float16':>10}{'bytes':>8}")
    for k in (8, 20, 50, 256):
        lost, error, taken, nbytes = packed(teacher, k, 8 if options.smoke else TOKENS)
        limit = SIZE_LIMITS.get(k)
        aim = f"  {at_most(nbytes, limit, 'd')}" if limit and not options.smoke else ""
        print(f"{f'k = {k}':<10}{lost:>10.1e}{error:>10.4f}{taken:>12.1f}{6 * k + 2:>10}{nbytes:>8}{aim}", flush=True)
        if k == 50 and not options.smoke:
            print(f"{'decoding, k = 50':<40}{taken:>10.1f}  {at_most(taken, TIME_LIMIT, '.1f')}", flush=True)


def distributions(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities of the teacher, the most probable class first, and logits of the student."""
    random = np.random.default_rng(0)
    power, flat, peak = (
        random.uniform(0.8, 2.2, (ROWS, 1)),
        random.uniform(0, 5, (ROWS, 1)),
        random.exponential(3.0, ROWS),
    )
    logits = -power * np.log(np.arange(1, classes + 1) + flat) + random.normal(0, 0.6, (ROWS, classes))
    logits[:, 0] += peak
    student = logits + random.normal(0, 1.0, logits.shape)
    order = np.argsort(-logits, axis=-1)
    logits, student = (np.take_along_axis(each, order, axis=-1) for each in (logits, student))
    return log_softmax(logits), student


def fillings(teacher: np.ndarray, student: np.ndarray, k: int, temperature: float) -> dict[str, float | None]:
    """Return the divergence with all classes, and with the k first in each way."""
    ids = tf.tile(tf.range(k)[None], [ROWS, 1])
    rest = np.logaddexp.reduce(teacher[:, k:], axis=-1)
    logits, term = tf.constant(student, tf.float32), kd.Term(kd.losses.kl_divergence)
    named = [tf.constant(each, tf.float32) for each in (teacher[:, :k], rest)]
    values: dict[str, float | None] = {"dense": mean(term, logits, tf.constant(teacher, tf.float32), temperature)}
    for tail in ("bucket", "spread"):
        target = SparseTarget(ids, *named, teacher.shape[-1], tail)
        known = tail == "spread" or temperature == 1.0
        values[tail] = mean(term, logits, target, temperature) if known else None
    log_q = log_softmax(student / temperature)[:, :k]
    alone = log_softmax(teacher[:, :k] / temperature)
    even = (rest - np.log(teacher.shape[-1] - k)) / temperature + np.log(teacher.shape[-1] - k)
    among_all = log_softmax(np.concatenate([teacher[:, :k] / temperature, even[:, None]], axis=-1))[:, :k]
    for name, log_p in (("renormalised", alone), ("zero-filled", among_all)):
        values[name] = float(temperature**2 * np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)))
    return values


def mean(term: kd.Term, student: tf.Tensor, teacher: tf.Tensor | SparseTarget, temperature: float) -> float:
    return float(tf.reduce_mean(term.row_values(student, teacher, temperature=temperature)))


def packed(teacher: np.ndarray, k: int, tokens: int) -> tuple[float, float, float, int]:
    """Return what is lost, the largest error of a probability, microseconds to decode a token, and its bytes."""
    code, random = PackedClasses(k, teacher.shape[-1]), np.random.default_rng(0)
    ids = np.stack([random.choice(code.classes, k, replace=False) for _ in teacher])
    rest = np.logaddexp.reduce(teacher[:, k:], axis=-1)
    rows = code.encode(tf.constant(ids), *(tf.constant(each, tf.float32) for each in (teacher[:, :k], rest)))
    found, logarithms, log_rest = code.decode(rows)
    places = np.argmax(ids[:, :, None] == found.numpy()[:, None], axis=-1)
    read = np.concatenate([np.take_along_axis(logarithms.numpy(), places, axis=-1), log_rest[:, None]], axis=-1)
    known = np.concatenate([teacher[:, :k], rest[:, None]], axis=-1)
    lost = float(np.mean(np.sum(np.exp(known) * (known - read), axis=-1)))
    many, decode = tf.repeat(rows, max(1, tokens // ROWS), axis=0), tf.function(code.decode, autograph=False)
    decode(many)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        decode(many)[0].numpy()
        taken.append(1e6 * (time.perf_counter() - started) / len(many))
    return lost, float(np.abs(np.exp(known) - np.exp(read)).max()), float(np.median(taken)), code.nbytes


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small vocabulary: does it run?")
    return parser.parse_args()


if __name__ == "__main__":
    main()
