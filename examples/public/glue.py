"""GLUE with KerasHub: BERT-base, fine-tuned, teaches a BERT of 4 layers, beside what papers report of that depth.

    pip install -e ".[examples,text]"
    python examples/public/glue.py [--tasks sst2 mrpc qnli mnli] [--student small|first] [--seeds 3]

Teacher: the preset bert_base_en_uncased, fine-tuned here on each task. Student: bert_small_en_uncased, 4 layers of 512,
which was pretrained on its own (`small`); or the first 4 layers of BERT-base, as in PKD (`first`). Data: TensorFlow
Datasets. AdamW with a weight decay of 0.01, 128 tokens, batches of 32, the teacher 3 epochs at 2e-5, students 4 at
5e-5, a tenth of the steps for the way up. The soft targets of a teacher are computed once, and kept on disk. Scores are
those of the validation sets after the last epoch; papers often report those of GLUE's server, which takes predictions
alone, and choose settings for each task: temperature and alpha are one guess here, for all.

Stopped or killed at any moment, the same command goes on with the next epoch. Each training has a folder in
runs/public/glue, with a line for each epoch in log.csv. `--smoke`: two epochs of two steps with tiny models on texts
made of a few words, in a minute without a GPU. It was not run in full by those who wrote it: that needs a GPU.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
import warnings
from typing import Any

import glue_texts
import keras
import keras_hub
import numpy as np
import public_runs
import tensorflow as tf
from paper_optimizers import BertAdam, LinearDecay
from published import GLUE, beside

import keras_kd as kd

LENGTH, BATCH, LAYERS = 128, 32, 4
TEACHER, SMALL = "bert_base_en_uncased", "bert_small_en_uncased"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EPOCHS, RATES = {"teacher": 3, "student": 4}, {"teacher": 2e-5, "student": 5e-5}


def tiny(layers: int, width: int) -> tuple[Any, Any]:
    """Return backbone and preprocessor of the smoke test, with a vocabulary of its texts."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *glue_texts.GOOD, *glue_texts.OTHERS]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(words), num_layers=layers, num_heads=2, hidden_dim=width, intermediate_dim=width,
        max_sequence_length=16,
    )  # fmt: skip
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=words)
    return backbone, keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=16)


def preset(name: str) -> tuple[Any, Any]:
    """Return backbone and preprocessor, with the weights of their pretraining."""
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor.from_preset(name, sequence_length=LENGTH)
    return keras_hub.models.BertBackbone.from_preset(name), preprocessor


def first_layers(backbone: Any, count: int) -> Any:
    """Return a backbone of the embeddings, the first layers and the pooler of another one, with their weights."""
    config = backbone.get_config()
    config.pop("name")
    small = keras_hub.models.BertBackbone.from_config({**config, "num_layers": count})
    for layer in small.layers:
        layer.set_weights(backbone.get_layer(layer.name).get_weights())
    return small


class Benchmark:
    """One task: its tokens, and how all models are trained on it."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.options, self.task = options, glue_texts.TASKS[name]
        self.folder = public_runs.folder(options) / name
        texts = glue_texts.stand_in(name, 8) if options.smoke else glue_texts.glue(name)
        _, self.preprocessor = tiny(1, 4) if options.smoke else preset(TEACHER)
        self.size = 4 if options.smoke else BATCH
        self.parts = {split: (self.tokens(sentences), y) for split, (sentences, y) in texts.items()}
        self.steps = -(-len(texts["train"][1]) // self.size)
        # A try is quicker without a graph.
        self.way: dict[str, Any] = {"run_eagerly": True} if options.smoke else {}

    def tokens(self, sentences: tuple[list[str], ...]) -> dict[str, np.ndarray]:
        """Return the tokens of all texts, which both models read."""
        rows = tf.data.Dataset.from_tensor_slices(sentences).batch(1024)
        found = list(rows.map(lambda *texts: self.preprocessor(texts, y=None), tf.data.AUTOTUNE).as_numpy_iterator())
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    def backbone(self, who: str) -> Any:
        """Return the teacher's or the student's backbone, pretrained."""
        if who == "teacher":
            return tiny(3, 12)[0] if self.options.smoke else preset(TEACHER)[0]
        if self.options.student == "first":
            return first_layers(self.backbone("teacher"), 2 if self.options.smoke else LAYERS)
        return tiny(2, 8)[0] if self.options.smoke else preset(SMALL)[0]

    def build(self, who: str) -> keras.Model:
        """Return a classifier of tokens."""
        return keras_hub.models.BertTextClassifier(self.backbone(who), self.task.classes, name=who)

    def train(self, who: str, way: str, seed: int, cache: Any = None) -> dict[str, Any]:
        """Train a model, or read its record."""
        epochs = 2 if self.options.smoke else EPOCHS[who]
        rows = tf.data.Dataset.from_tensor_slices(self.parts["train"])
        rows = (rows if cache is None else cache.join(rows)).shuffle(100_000, seed=seed)
        numbers = {} if cache is None else {"temperature": self.options.temperature, "alpha": self.options.alpha}
        if cache is not None:
            way = f"{way}-temperature-{self.options.temperature:g}-alpha-{self.options.alpha:g}"
        place = who if who == "teacher" else f"{self.options.student}/{way}"
        found = public_runs.trained(
            self.folder / place / f"seed-{seed}",
            lambda: self.build(who),
            None if cache is None else kd.teachers.Cached(cache),
            None,
            {
                "optimizer": BertAdam(LinearDecay(RATES[who], epochs * self.steps)),
                "loss": LOSS,
                "metrics": ["accuracy"],
                **numbers,
                **self.way,
            },
            {"x": rows.batch(self.size).prefetch(2), "epochs": epochs, "verbose": 0 if self.way else 2},
            self.score,
            seed,
        )
        print(f"{self.folder.name}, {place}, seed {seed}: {self.task.metric} {found['']:.2f} %", flush=True)
        return found

    def score(self, model: keras.Model) -> dict[str, float]:
        """Return the metric of each part that is scored, in percent."""
        found = {}
        for name, split in self.task.parts.items():
            x, y = self.parts[split]
            predicted = np.argmax(model.predict(x, batch_size=4 * self.size, verbose=0), axis=-1)
            found[name] = glue_texts.score(self.task.metric, y, predicted)
        return found

    def compared(self, seeds: int) -> dict[str, list[float]]:
        """Return the scores of the teacher, and of students alone and distilled, one for each seed."""
        record = self.train("teacher", "", 0)
        runs = {"teacher": [record], "alone": [self.train("student", "alone", seed) for seed in range(seeds)]}
        cache = self.soft_targets(record["path"])
        runs["kd"] = [self.train("student", "kd", seed, cache) for seed in range(seeds)]
        return {
            f"{way}{part}": [each[part] for each in records]
            for way, records in runs.items()
            for part in self.task.parts
        }

    def soft_targets(self, path: str) -> Any:
        """Return the cache of the teacher's logits for all texts of training, built where it is not there."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping variable loading")  # of an optimizer that KerasHub makes
            teacher = keras.models.load_model(path, compile=False)
        cache = kd.TeacherCache(self.folder / "soft-targets", teacher=teacher, dtype="float32")
        cache.build(tf.data.Dataset.from_tensor_slices(self.parts["train"]), batch_size=4 * self.size, verbose=0)
        return cache


def main() -> None:
    parser = public_runs.parser(__doc__, "runs/public/glue")
    parser.add_argument("--tasks", nargs="+", choices=glue_texts.TASKS, help="default: all four")
    parser.add_argument("--student", choices=["small", "first"], default="small", help="default: small")
    parser.add_argument("--temperature", type=float, default=5.0, help="default: 5")
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of the teacher (default: 0.5)")
    options = parser.parse_args()
    with public_runs.placed(options):
        for name in options.tasks or (["sst2", "mnli"] if options.smoke else list(glue_texts.TASKS)):
            found = Benchmark(name, options).compared(options.seeds or (1 if options.smoke else 3))
            print(f"\n{name}, {glue_texts.TASKS[name].metric} in percent, mean ± standard deviation\n")
            print(f"{beside(found, GLUE[name])}\n", flush=True)


if __name__ == "__main__":
    main()
