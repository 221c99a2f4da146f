"""Weights of 4 bits: which layers bear them, and what adapters get back from the model that a student was before.

    python examples/quantize.py

The texts and the student of language_model.py, trained alone on all texts for training, are the model in 32 bits, and
the teacher of what becomes of it in fewer. Its layers are quantised by Keras: all to 8 bits, all to 4 bits, or as
`quantization.sensitivity` plans it. In 4 bits, adapters of rank 4 learn for 150 steps from an eighth of the texts: from
their labels, or from the model in 32 bits. Printed are the perplexity on test text and the kilobytes of all weights.

Seeds 0, 1 and 2 of the adapters; Python 3.11, five minutes on two cores:

                                      perplexity      kB
    32 bits                               200.73     741
    8 bits                                200.75     211
    4 bits                                201.75     126
    as planned, noise of 0.001            200.93     191
    4 bits, adapters on labels     201.55 ± 0.11     152
    4 bits, adapters distilled     201.26 ± 0.05     152

8 bits cost nothing, 4 bits half a percent of the perplexity; the plan, which leaves the embedding at 8 bits, a tenth of
a percent. Under the model in 32 bits, adapters get back half of what 4 bits have cost, on labels a fifth.
"""

import quiet

quiet.load_tensorflow()

import dataclasses
from collections.abc import Iterator

import keras
import language_model
import numpy as np
import task
from keras import layers
from language_model import spread

import keras_kd as kd
from keras_kd import evaluation, quantization

RANK = 4


@dataclasses.dataclass
class Run:
    """The model in 32 bits, what it costs to quantise its layers, and what is found of others."""

    model: keras.Model
    texts: language_model.Texts
    sizes: language_model.Sizes
    steps: int
    costs: quantization.Sensitivity
    rows: dict[str, list[tuple[float, int]]] = dataclasses.field(default_factory=dict)

    def note(self, name: str, model: keras.Model) -> None:
        """Measure a model on test text."""
        perplexity = evaluation.measure(model, self.texts.test, text_bytes=self.texts.test_bytes)["perplexity"]
        nbytes = sum(np.asarray(each).nbytes for each in model.weights)
        self.rows.setdefault(name, []).append((perplexity, nbytes))
        print(f"{name}: {perplexity:.2f}, {nbytes / 1e3:,.0f} kB", flush=True)

    def quantized(self, mode: str) -> keras.Model:
        """Return the model with all layers in a mode that can be."""
        return self.costs.quantized({cost.layer: mode for cost in self.costs.costs})

    def heal(self, name: str, distilled: bool, seed: int) -> None:
        """Train adapters of the model in 4 bits, on labels or under the model in 32 bits."""
        keras.utils.set_random_seed(seed)
        student = trained = self.quantized("int4")
        for layer in adaptable(student):
            layer.enable_lora(RANK)
        numbers = {}
        if distilled:
            trained = kd.Distiller(student=student, teacher=self.model)
            numbers = {"temperature": 1.0, "alpha": 1.0}
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, self.steps))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trained.compile(optimizer, loss, run_eagerly=self.sizes.eager, **numbers)
        examples = language_model.examples_of(self.texts.few).shuffle(10_000, seed=seed).repeat()
        trained.fit(examples.batch(language_model.BATCH), steps_per_epoch=self.steps, verbose=0, shuffle=False)
        self.note(name, student)


def adaptable(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers that get adapters: dense ones, and those of attention. For the embedding, they are too large."""
    for layer in model.layers:
        if isinstance(layer, layers.MultiHeadAttention):
            yield from (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense)
        elif isinstance(layer, layers.Dense):
            yield layer


def print_rows(rows: dict[str, list[tuple[float, int]]]) -> None:
    print(f"\n{'':<28}{'perplexity':>16}{'kB':>8}")
    for name, found in rows.items():
        perplexities, nbytes = zip(*found, strict=True)
        print(f"{name:<28}{spread(list(perplexities)):>16}{nbytes[0] / 1e3:>8,.0f}")


def main() -> None:
    options = task.parser(__doc__).parse_args()
    seeds = options.seeds or (1 if options.smoke else 3)
    sizes = language_model.SMOKE if options.smoke else language_model.Sizes()
    texts = language_model.load(sizes)
    keras.utils.set_random_seed(0)
    model = language_model.transformer(sizes.vocabulary, *sizes.student)
    language_model.Trainer(texts, sizes).fit("in 32 bits", model, language_model.examples_of(texts.train))
    costs = quantization.sensitivity(model, texts.validation[0][: 4 if options.smoke else 128])
    print(f"\n{costs}\n")
    run = Run(model, texts, sizes, 2 if options.smoke else 150, costs)
    run.note("32 bits", model)
    run.note("8 bits", run.quantized("int8"))
    run.note("4 bits", run.quantized("int4"))
    run.note("as planned, noise of 0.001", costs.quantized(costs.plan(noise=0.001)))
    for seed in range(seeds):
        run.heal("4 bits, adapters on labels", False, seed)
        run.heal("4 bits, adapters distilled", True, seed)
    print_rows(run.rows)


if __name__ == "__main__":
    main()
