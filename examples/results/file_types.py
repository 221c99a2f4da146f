"""The type of a file from its bytes: Google's magika teaches a small network of two convolutions.

    pip install -e ".[results]"
    python examples/results/file_types.py [--seeds 3] [--validation] [--record] [--smoke]

Teacher: the ONNX file in the package magika (Apache-2.0), which tells 214 types apart from the first and the last 1,024
bytes. Data: the files of the packages that are installed here, each under the licence of its package, and those of
Python's standard library; at most 20 of one suffix in a package, none twice. What is installed decides what is
measured. Whole packages are held out: a fifth of them for the test, a tenth to choose settings on.

The student reads the first and the last 512 bytes. Alone, it learns from the suffixes that belong to one type of
magika's list, which is a weak label: `.txt` holds anything, `.h` belongs to no type. Distilled, it learns from the
teacher alone, on the same files and those whose suffix tells nothing, for as many steps, without any label. Agreement
is that with the teacher on all files that are held out, accuracy that with the suffix, where it tells a type.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet
import recorded

recorded.require("file_types", {"magika": "magika", "onnxruntime": "onnxruntime", "ai_edge_litert": "ai-edge-litert"})
quiet.load_tensorflow()

import collections
import importlib.metadata
import json
import sysconfig
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from one_example import costs

import keras_kd as kd

MAGIKA = recorded.folder_of("magika")
MODEL = next(MAGIKA.glob("models/*/model.onnx"))
CONFIG = json.loads(MODEL.with_name("config.min.json").read_text())
TYPES = CONFIG["target_labels_space"]
EACH, BLOCK, PADDING = CONFIG["beg_size"], CONFIG["block_size"], CONFIG["padding_token"]
READ = 512  # bytes of either end that the student reads
OF_A_SUFFIX = 20  # files of a package
STEPS, BATCH, RATE = 1000, 64, 3e-3


def files() -> Iterator[tuple[str, pathlib.Path]]:
    """Yield the files of all packages that are installed, and of the standard library, with the name of the package."""
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"].lower()
        for file in package.files or ():
            yield name, pathlib.Path(str(package.locate_file(file)))
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    for folder, folders, names in os.walk(library):
        folders[:] = [each for each in folders if each != "site-packages"]
        for name in names:
            path = pathlib.Path(folder, name)
            yield f"python/{path.relative_to(library).parts[0]}", path


def chosen() -> dict[str, list[pathlib.Path]]:
    """Return some files of each package: of each suffix those whose names have the smallest checksums."""
    found: dict[str, dict[str, set[pathlib.Path]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for package, path in files():
        found[package][path.suffix.lower()].add(path)
    by_checksum = lambda path: (zlib.crc32(path.name.encode()), str(path))  # noqa: E731
    return {
        package: [path for paths in suffixes.values() for path in sorted(paths, key=by_checksum)[:OF_A_SUFFIX]]
        for package, suffixes in sorted(found.items())
    }


def bytes_of(path: pathlib.Path) -> np.ndarray | None:
    """Return what magika reads of a file: the first and the last bytes that are no white space, filled up; or None."""
    with open(path, "rb") as file:
        first = file.read(BLOCK)
        file.seek(max(0, path.stat().st_size - BLOCK))
        last = file.read(BLOCK)
    first, last = first.lstrip()[:EACH], last.rstrip()[-EACH:]
    if len(first) < CONFIG["min_file_size_for_dl"]:
        return None
    row = np.full(2 * EACH, PADDING, "int32")
    row[: len(first)] = list(first)
    row[2 * EACH - len(last) :] = list(last)
    return row


def label_of_suffix() -> dict[str, int]:
    """Return the type of each suffix that belongs to one type alone."""
    known = json.loads((MAGIKA / "config/content_types_kb.min.json").read_text())
    found = collections.defaultdict(list)
    for number, name in enumerate(TYPES):
        for suffix in known[name]["extensions"]:
            found[f".{suffix}"].append(number)
    return {suffix: numbers[0] for suffix, numbers in found.items() if len(numbers) == 1}


def part_of(package: str) -> str:
    """Return what a package is for, the same on every machine."""
    place = zlib.crc32(package.encode()) % 10
    return "test" if place < 2 else "validation" if place == 2 else "train"


def load(smoke: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the bytes of files and the types by suffix, -1 where that tells none, of each part."""
    labels, seen = label_of_suffix(), set()
    rows, types = collections.defaultdict(list), collections.defaultdict(list)
    packages = chosen()
    for package in list(packages)[: 40 if smoke else None]:
        for path in packages[package][: 5 if smoke else None]:
            row = bytes_of(path) if path.is_file() else None
            if row is None or row.tobytes() in seen:
                continue
            seen.add(row.tobytes())
            rows[part_of(package)].append(row)
            types[part_of(package)].append(labels.get(path.suffix.lower(), -1))
    counted = ", ".join(f"{len(each):,} files for {part}" for part, each in sorted(rows.items()))
    print(f"{len(packages):,} packages: {counted}", flush=True)
    return {part: (np.stack(rows[part]), np.array(types[part])) for part in rows}


def student() -> keras.Model:
    """Return a network of two convolutions over the bytes of both ends."""
    inputs = keras.Input((2 * EACH,), dtype="int32")
    read = ops.concatenate([inputs[:, :READ], inputs[:, -READ:]], axis=1)
    hidden = layers.Embedding(PADDING + 1, 8)(read)
    hidden = layers.Conv1D(48, 8, strides=4, activation="relu")(hidden)
    hidden = layers.Conv1D(96, 5, strides=2, activation="relu")(hidden)
    pooled = [layers.GlobalMaxPooling1D()(hidden), layers.GlobalAveragePooling1D()(hidden)]
    return keras.Model(inputs, layers.Dense(len(TYPES))(layers.Concatenate()(pooled)))


def optimizer(steps: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))


def epochs_of(rows: int, steps: int) -> int:
    return max(1, round(steps / -(-rows // BATCH)))


def train_alone(seed: int, x: np.ndarray, y: np.ndarray, steps: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = student()
    x, y = x[y >= 0], y[y >= 0]
    epochs = epochs_of(len(x), steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(epochs * -(-len(x) // BATCH)), loss)
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def train_distilled(seed: int, teacher: kd.teachers.InMemory, x: np.ndarray, steps: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    distiller = kd.Distiller(student=student(), teacher=teacher)
    epochs = epochs_of(len(x), steps)
    distiller.compile(optimizer(epochs * -(-len(x) // BATCH)), temperature=1.0, alpha=1.0)
    distiller.fit(x, batch_size=BATCH, epochs=epochs, verbose=0)
    return distiller.student


def main() -> None:
    options = recorded.parser(__doc__).parse_args()
    parts = load(options.smoke)
    x, y = parts["train"]
    steps, seeds = (5, 1) if options.smoke else (STEPS, options.seeds)
    teacher = kd.teachers.ONNX(MODEL, head="softmax", providers=["CPUExecutionProvider"])
    memory = kd.teachers.InMemory(teacher)
    students: dict[str, list[keras.Model]] = {"alone": [], "distilled": []}
    for seed in range(seeds):
        students["alone"].append(train_alone(seed, x, y, steps))
        students["distilled"].append(train_distilled(seed, memory, x, steps))
        recorded.progress(seed)
    x, y = parts["validation" if options.validation else "test"]
    found = {kind: [classes(each, x) for each in models] for kind, models in students.items()}
    of_teacher, known = classes(teacher, x), y >= 0
    result = recorded.Result(
        task=f"type of a file, of {len(TYPES)}",
        teacher=f"magika {importlib.metadata.version('magika')}, ONNX",
        student=f"two convolutions, {student().count_params():,} weights, in 8 bits",
        measures=[
            recorded.of_runs("agreement with the teacher, %", of_teacher, found, of_teacher),
            recorded.of_runs("accuracy on suffixes, %", of_teacher[known], picked(found, known), y[known]),
        ],
        teacher_bytes=MODEL.stat().st_size,
        **costs(
            "file_types", lambda: teacher(x[:1], {})["logits"].numpy(), students["distilled"][0], x[:256], options,
            "dynamic",
        ),
    )  # fmt: skip
    recorded.finish("file_types", result, options, ["magika"])


def classes(model: Any, x: np.ndarray) -> np.ndarray:
    """Return the class of each row for a student or a teacher of keras_kd."""
    if isinstance(model, keras.Model):
        return model.predict(x, batch_size=256, verbose=0).argmax(1)
    batches = (model(x[start : start + 256], {})["logits"] for start in range(0, len(x), 256))
    return np.concatenate([np.argmax(each, axis=1) for each in batches])


def picked(found: dict[str, list[np.ndarray]], rows: np.ndarray) -> dict[str, list[np.ndarray]]:
    return {kind: [each[rows] for each in runs] for kind, runs in found.items()}


if __name__ == "__main__":
    main()
