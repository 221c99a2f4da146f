"""What a cache of the teacher costs, and what it saves.

    python examples/benchmarks/cache.py            # everything; about 50 minutes on two cores
    python examples/benchmarks/cache.py --only paper

Student and teacher are the quickstart's, on random images of 28 x 28 x 1 and on Fashion-MNIST; "live, large" has the
teacher of deployment.py, of eleven times the student's weights: a cached epoch costs the same under either. "wide"
trains the quickstart's teacher as the student. What is compared runs in turns, in a random order, in one process; the
figures are medians, and their ratios. Memory is the peak of a process of its own, less what it uses before:
of a build, and of a pass over the joined examples. The formats are read as `join` needs them: all examples, in their
order, one by one in the end.

The aims: an epoch of cached distillation at most 1.05 times one of the student's plain fit, and 0.5 times a live one; a
build at most 1.10 times `teacher.predict`; memory that does not grow with the number of examples; at most 45 bytes an
example and view for the top 10 of 1,000 classes, at most 1.05 times 2 bytes a class for all.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for models.py

import keras
import numpy as np
import tensorflow as tf
from aims import at_most
from models import build_large_teacher, build_student, build_teacher
from timing import in_turns

import keras_kd as kd

INPUT_SHAPE, CLASSES = (28, 28, 1), 10
BATCH = 128

Data = tuple[np.ndarray, np.ndarray] | tf.data.Dataset
Contestants = dict[str, Callable[[], object]]


def main() -> None:
    options = read_arguments()
    if options.memory_of:
        print(json.dumps(memory_of(*options.memory_of.split(":"))))
        return
    parts = {"build": builds, "speed": speed, "memory": memory, "size": sizes, "format": formats, "paper": paper}
    for name, part in parts.items():
        if options.only in (None, name):
            part(options)


# Time


def builds(options: argparse.Namespace) -> None:
    for label, data in data_sets(options):
        compare(label, predictions, data, options.rounds)


def speed(options: argparse.Namespace) -> None:
    for label, data in data_sets(options):
        compare(label, epochs, data, options.rounds)
        if label.startswith("Fashion-MNIST"):
            compare("Fashion-MNIST, kept in memory", functools.partial(epochs, kept=True), data, options.rounds)


def data_sets(options: argparse.Namespace) -> Iterator[tuple[str, Data]]:
    random = np.random.default_rng(0)
    x = random.random((options.examples, *INPUT_SHAPE), dtype=np.float32)
    y = random.integers(0, CLASSES, len(x), dtype=np.int32)
    yield "arrays, as they are given to fit", (x, y)
    yield "a tf.data.Dataset of arrays", tf.data.Dataset.from_tensor_slices((x, y)).with_options(untuned())
    try:
        images = fashion_mnist(options.examples)
    except (ImportError, ConnectionError) as error:
        print(f"\nLeft out: Fashion-MNIST as TensorFlow Datasets reads it. {error}")
        return
    yield "Fashion-MNIST, decoded in each pass", images.with_options(untuned())


def compare(label: str, made: Callable[[str, Data], Contestants], data: Data, rounds: int) -> None:
    """Print the medians and ratios of contestants, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        milliseconds = in_turns(made(folder, data), rounds, warm_up=1)
    print(f"\n\n{label}: {len(examples_of(data)):,} examples, batches of {BATCH}, {rounds} rounds\n")
    report(milliseconds)


def report(milliseconds: dict[str, np.ndarray]) -> None:
    for name, values in milliseconds.items():
        low, median, high = np.percentile(values, [25, 50, 75]) / 1e3
        print(f"{name:<28}{median:>8.2f} s  quartiles {low:.2f} to {high:.2f}")
    for over, under, limit in (
        ("cached", "plain", 1.05),
        ("cached, wide", "plain, wide", 1.05),
        ("cached", "live", 0.5),
        ("cached", "live, large", 0.5),
        ("build", "predict", 1.10),
    ):
        if over in milliseconds:
            ratio = np.median(milliseconds[over]) / np.median(milliseconds[under])
            print(f"{over + ' / ' + under:<28}{ratio:>8.3f}    {at_most(ratio, limit)}")


def predictions(folder: str, data: Data) -> Contestants:
    teacher, examples = build_teacher(INPUT_SHAPE, CLASSES), examples_of(data)
    x, size = (examples, 256) if isinstance(data, tuple) else (data.batch(256).prefetch(2), None)
    return {
        "predict": lambda: anew(teacher).predict(x, batch_size=size, verbose=0),
        "build": lambda: rebuilt(f"{folder}/again", teacher, examples),
    }


def examples_of(data: Data) -> np.ndarray | tf.data.Dataset:
    """Return what a cache is built for: of arrays, x alone."""
    return data[0] if isinstance(data, tuple) else data


def fashion_mnist(examples: int) -> tf.data.Dataset:
    """Return images as floats from 0 to 1 and their labels, decoded as they are read."""
    kd.data.load("fashion_mnist")  # prepares it where it is not prepared, or raises an error with the reason
    import tensorflow_datasets as tfds

    data = tfds.load("fashion_mnist", split="train", as_supervised=True, data_dir=os.environ.get("TFDS_DATA_DIR"))
    floats = data.map(lambda image, label: (tf.cast(image, tf.float32) / 255.0, label), tf.data.AUTOTUNE)
    return floats.take(examples).apply(tf.data.experimental.assert_cardinality(min(examples, len(data))))


def cached(folder: str, data: Data) -> tuple[keras.Model, kd.TeacherCache]:
    teacher = build_teacher(INPUT_SHAPE, CLASSES)
    cache = kd.TeacherCache(f"{folder}/cache", teacher=teacher)
    cache.build(examples_of(data), verbose=0)
    return teacher, cache


def epochs(folder: str, data: Data, kept: bool = False) -> Contestants:
    """Return what is trained; `kept` in memory, behind the join for the joined, as TensorFlow Datasets' guides do."""
    teacher, cache = cached(folder, data)
    joined = cache.join(examples_of(data))
    if kept:
        data, joined = data.cache(), joined.cache()
    elif isinstance(data, tuple):
        joined = (joined, data[1])

    def plain(build: Callable[..., keras.Model]) -> Callable[[], object]:
        student = build(INPUT_SHAPE, CLASSES)
        student.compile(**supervised())
        return epoch(student, data)

    return {
        "plain": plain(build_student),
        "cached": epoch(distiller(kd.teachers.Cached(cache)), joined),
        "live": epoch(distiller(teacher), data),
        "live, large": epoch(distiller(build_large_teacher(INPUT_SHAPE, CLASSES)), data),
        "plain, wide": plain(build_teacher),
        "cached, wide": epoch(distiller(kd.teachers.Cached(cache), build_teacher), joined),
    }


def untuned() -> tf.data.Options:
    """Return options without tf.data's tuning.

    Sometimes the end of a pass waits until this tuning wakes up, after 10 ms * (2**n - 1): more than the differences
    that are looked for.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def epoch(model: keras.Model, data: Data) -> Callable[[], object]:
    """Return a function that trains for one epoch; the pipeline is the same for all."""
    if isinstance(data, tuple):
        return lambda: model.fit(*data, batch_size=BATCH, epochs=1, verbose=0)
    batches = data.shuffle(10_000).batch(BATCH).prefetch(2)
    return lambda: model.fit(batches, epochs=1, verbose=0, shuffle=False)


def distiller(teacher: object, build: Callable[..., keras.Model] = build_student) -> kd.Distiller:
    made = kd.Distiller(student=build(INPUT_SHAPE, CLASSES), teacher=teacher)
    made.compile(**supervised(), temperature=4.0, alpha=0.5)
    return made


def supervised() -> dict:
    return {
        "optimizer": keras.optimizers.Adam(1e-3),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def anew(teacher: keras.Model) -> keras.Model:
    """Return the teacher with a function that is still to be traced, as that of a build is."""
    teacher.make_predict_function(force=True)
    return teacher


def rebuilt(folder: str, teacher: keras.Model, examples: np.ndarray | tf.data.Dataset) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    kd.TeacherCache(folder, teacher=teacher).build(examples, verbose=0)


# Memory


def memory(options: argparse.Namespace) -> None:
    print(f"\n{'memory, MB more':<16}{'examples':>12}{'build':>8}{'join':>8}")
    for count in (60_000, 600_000):
        with tempfile.TemporaryDirectory() as folder:
            found = {name: in_a_process(f"{name}:{count}:{folder}/cache") for name in ("build", "join")}
        print(f"{'':<16}{count:>12,}{found['build']:>8.0f}{found['join']:>8.0f}")


def in_a_process(what: str) -> float:
    command = [sys.executable, __file__, "--memory-of", what]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def memory_of(what: str, count: str, folder: str) -> float:
    """Return the memory in MB that a build or a pass takes; the examples are generated during the pass."""
    keras.utils.set_random_seed(0)  # the cache compares its teacher: it is the same in both processes
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(100)])
    cache = kd.TeacherCache(folder, teacher=model)
    numbers = tf.data.Dataset.range(int(count))
    examples = numbers.map(lambda number: tf.random.stateless_normal([64], [number, 0]), tf.data.AUTOTUNE)
    few = kd.TeacherCache(f"{folder}-few", teacher=model)
    few.build(examples.take(5_000), verbose=0)
    for _ in few.join(examples.take(5_000)).batch(BATCH):  # what is compiled and allocated once
        pass
    shutil.rmtree(f"{folder}-few")
    before = peak()
    if what == "build":
        cache.build(examples, verbose=0)
    else:
        for _ in cache.join(examples).batch(BATCH):
            pass
    return peak() - before


def peak() -> float:
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage would count the peak of the parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1]) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


# Size


def sizes(options: argparse.Namespace) -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 16)).astype("float32")
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(1000)])
    print(f"\nSize of 1,000 classes in float16\n\n{'':<40}{'bytes an example and view':>26}")
    for label, top_k, limit in (("top 10", 10, 45.0), ("all", None, 1.05 * 2 * 1000)):
        with tempfile.TemporaryDirectory() as folder:
            cache = kd.TeacherCache(folder, teacher=model, top_k=top_k)
            cache.build(x, verbose=0)
            each = cache.info().bytes_per_example
        print(f"{label:<40}{each:>26,.2f}  {at_most(each, limit, ',.0f')}")


# Formats


def formats(options: argparse.Namespace) -> None:
    """Read the same rows of 44 bytes from several formats, in their order."""
    rows = np.random.default_rng(0).integers(0, 256, (200_000, 44)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        contestants = {
            "TFRecord, 256 rows a record": tfrecord(folder / "blocks", rows, 256),
            "TFRecord, a row a record": tfrecord(folder / "rows", rows, 1),
        }
        with contextlib.suppress(ImportError):
            contestants["ArrayRecord, 256 rows a record"] = array_record(folder / "array", rows, 256)
        seconds = {name: values / 1e3 for name, values in in_turns(contestants, 7, warm_up=1).items()}
        print(f"\n{'format':<32}{'rows a second':>14}{'bytes a row':>13}")
        for (name, values), path in zip(seconds.items(), ("blocks", "rows", "array"), strict=False):
            size = (folder / path).stat().st_size / len(rows)
            print(f"{name:<32}{len(rows) / np.median(values):>14,.0f}{size:>13.1f}")


def tfrecord(path: pathlib.Path, rows: np.ndarray, block: int) -> Callable[[], object]:
    with tf.io.TFRecordWriter(str(path)) as file:
        for start in range(0, len(rows), block):
            file.write(rows[start : start + block].tobytes())
    data = tf.data.TFRecordDataset(str(path), buffer_size=2**20)
    return lambda: consume(data.map(split, tf.data.AUTOTUNE, deterministic=True).unbatch())


def array_record(path: pathlib.Path, rows: np.ndarray, block: int) -> Callable[[], object]:
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for start in range(0, len(rows), block):
        writer.write(rows[start : start + block].tobytes())
    writer.close()

    def records() -> Iterator[bytes]:
        reader = ArrayRecordReader(str(path))
        for start in range(0, reader.num_records(), 16):
            yield from reader.read(list(range(start, min(start + 16, reader.num_records()))))

    data = tf.data.Dataset.from_generator(records, output_signature=tf.TensorSpec((), tf.string))
    return lambda: consume(data.map(split, tf.data.AUTOTUNE, deterministic=True).unbatch())


def split(record: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.io.decode_raw(record, tf.uint8), [-1, 44])


def consume(data: tf.data.Dataset) -> None:
    for _ in data.batch(1024):
        pass


# On paper


def paper(options: argparse.Namespace) -> None:
    """Print what two large caches would take: the bytes are those of the layout, the rates are assumptions."""
    print(
        f"\nOn paper. Assumed: {options.teacher_rate:,} examples a second for a teacher's device, "
        f"{options.student_rate:,} for a student's\n"
    )
    head = ("cache", "rows", "bytes a row", "on disk", "shards", "device-hours", "read at")
    print("{:<40}{:>16}{:>13}{:>10}{:>8}{:>14}{:>12}".format(*head))
    for label, examples, views, classes, k in (
        ("ImageNet-1k, 300 views, top 10", 1_281_167, 300, 1000, 10),
        ("ImageNet-1k, 300 views, all classes", 1_281_167, 300, 1000, None),
        ("a billion examples, top 16 of 1,000", 10**9, 1, 1000, 16),
        ("a billion examples, top 16 of 100,000", 10**9, 1, 100_000, 16),
    ):
        row = 2 + (2 * classes if k is None else k * (2 + (2 if classes <= 65536 else 4)) + 2)
        per_record = kd.cache.shards.rows_per_record(row, 256)
        per_shard = kd.cache.shards.rows_per_shard(row, 256, examples, jobs=1)
        size = examples * views * (row + 16 / per_record)
        shards = views * math.ceil(examples / per_shard)
        hours = examples * views / options.teacher_rate / 3600
        print(
            f"{label:<40}{examples * views:>16,}{row:>13,}{size / 1e9:>7,.0f} GB{shards:>8,}{hours:>14,.0f}"
            f"{row * options.student_rate / 1e6:>7.1f} MB/s"
        )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=("build", "speed", "memory", "size", "format", "paper"), help="one part of it"
    )
    parser.add_argument("--examples", type=int, default=60_000, help="for the times (default: 60,000)")
    parser.add_argument("--rounds", type=int, default=9, help="for the times (default: 9)")
    parser.add_argument("--teacher-rate", type=int, default=1_000, help="examples a second, on paper (default: 1,000)")
    parser.add_argument(
        "--student-rate", type=int, default=10_000, help="examples a second, on paper (default: 10,000)"
    )
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
