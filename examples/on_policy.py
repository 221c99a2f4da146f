"""On-policy distillation: a language model learns on what it writes itself, and on what others write.

    python examples/on_policy.py

The texts of language_model.py, and GPT-2 of the same sizes from KerasHub (the extra "text"), which keeps the keys and
values of what it has read while it writes. Each student begins with the same weights, which have learned from an eighth
of the text, and goes on for 160 steps of 32 rows in one of six ways: on the text's labels, on the text under the
teacher, on the teacher's continuations as labels, and on its own, a quarter, a half or all of the rows. Printed are the
log-probability that the teacher gives to what it writes (nats a token), the shares of different tokens and pairs in
that, its perplexity on test text, and the seconds of writing, of the teacher and of the student.

Seeds 0, 1 and 2, mean and standard deviation; 50 minutes on two cores, beside other work, so that of the seconds only
the shares count:

                                 of the teacher        1 token       2 tokens      perplexity  writing  teacher  student
    teacher                              -5.113          0.128          0.761          165.05
    before                       -6.036 ± 0.077  0.121 ± 0.001  0.785 ± 0.007  290.47 ± 12.54
    labels alone                 -5.762 ± 0.040  0.118 ± 0.001  0.768 ± 0.006   272.47 ± 6.30        0        0       42
    off-policy                   -5.476 ± 0.009  0.130 ± 0.000  0.783 ± 0.003   196.49 ± 2.01        0       31       59
    teacher's text as labels     -5.864 ± 0.059  0.130 ± 0.001  0.800 ± 0.006   226.04 ± 4.94       97        0       44
    on-policy, a quarter         -5.462 ± 0.036  0.129 ± 0.001  0.777 ± 0.003   196.22 ± 2.28        8       35       72
    on-policy, half              -5.448 ± 0.041  0.129 ± 0.001  0.775 ± 0.006   196.13 ± 2.64       18       40       69
    on-policy                    -5.465 ± 0.032  0.129 ± 0.001  0.779 ± 0.004   196.33 ± 2.59       30       35       73

The teacher brings most of it, on whichever text: 0.29 nats and 76 of perplexity over labels alone. The student's own
text brings 0.01 to 0.03 nats more, within the spread of three seeds, and takes a fifth of the time; half of the rows
are as good as all. Text of the teacher as labels is worse than its probabilities on given text, and takes longest, as
the larger model writes. So short and small a training does not show what on-policy distillation is for, long texts that
go astray.
"""

import quiet

quiet.load_tensorflow()

import dataclasses
import time
from typing import Any

import keras
import keras_hub
import language_model
import numpy as np
import task
from language_model import spread

import keras_kd as kd
from keras_kd import evaluation

PROMPT = 16
WRITTEN = language_model.LENGTH - PROMPT


@dataclasses.dataclass
class Way:
    """How a student goes on: on labels alone where there is no teacher, else by the divergence from it."""

    student_share: float = 0.0
    teacher_share: float = 0.0
    is_distilled: bool = True


WAYS = {
    "labels alone": Way(is_distilled=False),
    "off-policy": Way(),
    "teacher's text as labels": Way(teacher_share=1.0, is_distilled=False),
    "on-policy, a quarter": Way(student_share=0.25),
    "on-policy, half": Way(student_share=0.5),
    "on-policy": Way(student_share=1.0),
}


@dataclasses.dataclass
class Sizes:
    """How long students go on, and how much they are asked to write."""

    epochs: int = 8
    steps: int = 20  # of an epoch, between which text is written
    batch: int = 32
    prompts: int = 256  # of test text


@dataclasses.dataclass
class Run:
    """A trained teacher, and what all students begin with, learn from and are tested on."""

    teacher: keras.Model
    texts: language_model.Texts
    model_sizes: language_model.Sizes
    sizes: Sizes
    rows: dict[str, list[dict[str, float]]] = dataclasses.field(default_factory=dict)

    def begin(self, seed: int) -> list[np.ndarray]:
        """Return the weights of a student that has learned from text alone: those that all ways go on from."""
        trainer = language_model.Trainer(self.texts, self.model_sizes)
        keras.utils.set_random_seed(seed)
        student = self.student()
        trainer.fit("begun", student, language_model.examples_of(self.texts.few), seed)
        self.note("before", student, {})
        return student.get_weights()

    def student(self) -> keras.Model:
        return gpt2(self.model_sizes.vocabulary, *self.model_sizes.student)

    def go_on(self, name: str, weights: list[np.ndarray], seed: int) -> None:
        """Train a student in one of the ways, as many steps on as many tokens as in all others."""
        keras.utils.set_random_seed(seed)
        student = self.student()
        student.set_weights(weights)
        model = keras.Model(student.input, student.output)  # a task's own `fit` takes no rollouts
        numbers: dict[str, Any] = {"loss": of_labels()}
        if WAYS[name].is_distilled:
            kept = kd.teachers.InMemory(self.teacher, batch_size=128)
            model = kd.Distiller(student=student, teacher=kept, terms=kd.methods.gkd(beta=0.5))
            numbers = {"alpha": 1.0}
        rollouts = self.rollouts(name, student, seed)
        steps = self.sizes.epochs * self.sizes.steps
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
        model.compile(keras.optimizers.Adam(rate), run_eagerly=self.model_sizes.eager, **numbers)
        began = time.perf_counter()
        model.fit(rollouts, epochs=self.sizes.epochs, verbose=0, shuffle=False)
        whole = time.perf_counter() - began
        self.note(name, student, {**rollouts.spent, "learning": whole - sum(rollouts.spent.values())})

    def rollouts(self, name: str, student: keras.Model, seed: int) -> "Timed":
        """Return prompts from the text, and what is written behind them by the student, by the teacher, or the text."""
        way, (x, y) = WAYS[name], self.texts.few
        ids = x["token_ids"]
        weights = np.zeros(y.shape, "float32")
        weights[:, PROMPT - 1 :] = 1.0
        return Timed(
            list(ids[:, :PROMPT]),
            student=student,
            teacher=self.teacher,
            data=(read(ids[:, :-1]), y[:, :-1], weights[:, :-1]),
            length=WRITTEN,
            student_share=way.student_share,
            teacher_share=way.teacher_share,
            batch_size=self.sizes.batch,
            every=self.sizes.steps,
            seed=seed,
        )

    def note(self, name: str, model: keras.Model, seconds: dict[str, float]) -> None:
        """Let a model write behind prompts of test text, and note what the teacher thinks of it."""
        prompts = list(self.texts.test[0]["token_ids"][: self.sizes.prompts, :PROMPT])
        made = kd.language.generate(model, prompts, length=WRITTEN, temperature=1.0, batch_size=128, verbose=0)
        counts = made.sample_weight.sum()
        log_p = keras.ops.log_softmax(self.teacher.predict(made.x, batch_size=128, verbose=0))
        of_written = np.take_along_axis(np.asarray(log_p), made.y[..., None], -1)[..., 0]
        found = evaluation.measure(model, self.texts.test, text_bytes=self.texts.test_bytes)
        written = made.y[made.sample_weight > 0].reshape(len(prompts), WRITTEN)
        row = {
            "teacher": float((of_written * made.sample_weight).sum() / counts),
            **{f"distinct_{n}": distinct(written, n) for n in (1, 2)},
            "perplexity": found["perplexity"],
            **seconds,
        }
        self.rows.setdefault(name, []).append(row)
        print(f"{name}: {row['teacher']:.3f} nats a token under the teacher, {found['perplexity']:.1f}", flush=True)


class Timed(kd.language.Rollouts):
    """Adds up in how many seconds text was written, and read by the teacher."""

    def __init__(self, *arguments: Any, **numbers: Any) -> None:
        super().__init__(*arguments, **numbers)
        self.spent = {"writing": 0.0, "reading": 0.0}

    def on_epoch_begin(self) -> None:
        super().on_epoch_begin()
        self.spent["writing"] += self.times["rollouts_time"]
        self.spent["reading"] += self.times.get("rollouts_teacher_time", 0.0)


def gpt2(vocabulary: int, width: int, depth: int) -> keras_hub.models.CausalLM:
    """Return a language model that reads and writes token ids."""
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=vocabulary,
        num_layers=depth,
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=language_model.LENGTH,
        dropout=0.0,
    )
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)


def read(token_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return what GPT-2 reads of texts that have tokens everywhere."""
    return {"token_ids": token_ids, "padding_mask": np.ones(token_ids.shape, bool)}


def load(sizes: language_model.Sizes) -> language_model.Texts:
    """Return the texts as GPT-2 reads them."""
    texts = language_model.load(sizes)
    parts = {name: getattr(texts, name) for name in ("train", "few", "validation", "test")}
    return dataclasses.replace(texts, **{name: (read(x), y) for name, (x, y) in parts.items()})


def of_labels() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def distinct(tokens: np.ndarray, n: int) -> float:
    """Return the share of different sequences of n tokens among all."""
    found = np.lib.stride_tricks.sliding_window_view(tokens, n, axis=1).reshape(-1, n)
    return len(np.unique(found, axis=0)) / len(found)


def print_rows(rows: dict[str, list[dict[str, float]]]) -> None:
    heads = ("of the teacher", "1 token", "2 tokens", "perplexity", "writing", "teacher", "student")
    widths = (17, 15, 15, 16, 9, 9, 9)
    print("\n" + " " * 26 + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for name, found in rows.items():
        columns = {key: [each[key] for each in found] for key in found[0]}
        quality = [spread(columns[key], digits) for key, digits in QUALITY.items()]
        seconds = [f"{np.mean(columns[key]):.0f}" for key in ("writing", "reading", "learning") if key in columns]
        print(
            f"{name:<26}"
            + "".join(f"{value:>{width}}" for value, width in zip(quality + seconds, widths, strict=False))
        )


#: What is printed, and with how many digits.
QUALITY = {"teacher": 3, "distinct_1": 3, "distinct_2": 3, "perplexity": 2}


def main() -> None:
    options = task.parser(__doc__).parse_args()
    seeds = options.seeds or (1 if options.smoke else 3)
    model_sizes = language_model.SMOKE if options.smoke else language_model.Sizes()
    sizes = Sizes(1, 1, 4, 4) if options.smoke else Sizes()
    texts = load(model_sizes)
    keras.utils.set_random_seed(0)
    teacher = gpt2(model_sizes.vocabulary, *model_sizes.teacher)
    language_model.Trainer(texts, model_sizes).fit("teacher", teacher, language_model.examples_of(texts.train))
    run = Run(teacher, texts, model_sizes, sizes)
    run.note("teacher", teacher, {})
    for seed in range(seeds):
        weights = run.begin(seed)
        for name in WAYS:
            run.go_on(name, weights, seed)
    print_rows(run.rows)


if __name__ == "__main__":
    main()
