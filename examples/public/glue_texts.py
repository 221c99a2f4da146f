"""Tasks of GLUE from TensorFlow Datasets, their metrics, and a stand-in made of words that needs no file."""

import os
from typing import NamedTuple

import numpy as np

Texts = tuple[tuple[list[str], ...], np.ndarray]  # a list for each sentence of a pair, and the labels


class Task(NamedTuple):
    """A task of GLUE.

    Attributes:
        columns: names of its sentences, one or two.
        classes: how many there are.
        parts: what is scored on, by the name of the metric that it is given in: names of splits.
        metric: "accuracy" or "f1", of the class 1.
    """

    columns: tuple[str, ...]
    classes: int
    parts: dict[str, str]
    metric: str = "accuracy"


TASKS = {
    "sst2": Task(("sentence",), 2, {"": "validation"}),
    "mrpc": Task(("sentence1", "sentence2"), 2, {"": "validation"}, "f1"),
    "qnli": Task(("question", "sentence"), 2, {"": "validation"}),
    "mnli": Task(("premise", "hypothesis"), 3, {"": "validation_matched", ", mismatched": "validation_mismatched"}),
}


def glue(name: str) -> dict[str, Texts]:
    """Return the splits of a task that are learned from and scored on, downloaded where they are not there."""
    import tensorflow_datasets as tfds

    task = TASKS[name]
    found = {}
    for split in ("train", *task.parts.values()):
        rows = tfds.load(f"glue/{name}", split=split, batch_size=-1, data_dir=os.environ.get("TFDS_DATA_DIR"))
        sentences = tuple([text.decode() for text in rows[column].numpy()] for column in task.columns)
        found[split] = sentences, rows["label"].numpy().astype("int32")
    return found


#: Of the stand-in: the label is how often a good word stands in the last sentence.
GOOD, OTHERS = ["good", "great", "fine"], ["the", "film", "plot", "of", "and", "it", "was", "seen"]


def stand_in(name: str, rows: int) -> dict[str, Texts]:
    """Return texts of words in the place of each split, as many in each."""
    task, random = TASKS[name], np.random.default_rng(0)

    def text(good: int) -> str:
        return " ".join(random.permutation([*random.choice(GOOD, good), *random.choice(OTHERS, 6 - good)]))

    def part() -> Texts:
        y = random.integers(0, task.classes, rows).astype("int32")
        first = tuple([text(0) for _ in y] for _ in task.columns[1:])
        return (*first, [text(label) for label in y]), y

    return {split: part() for split in ("train", *task.parts.values())}


def score(metric: str, labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the accuracy, or the F1 of class 1, in percent."""
    if metric == "accuracy":
        return 100 * float(np.mean(labels == predicted))
    hits, found = np.sum((labels == 1) & (predicted == 1)), np.sum(labels == 1) + np.sum(predicted == 1)
    return 100 * float(2 * hits / max(found, 1))
