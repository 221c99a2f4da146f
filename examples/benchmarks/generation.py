"""What it takes to write rollouts, against `generate` of KerasHub for the same prompts and as many tokens.

    python examples/benchmarks/generation.py [--rounds 5]
    python examples/benchmarks/generation.py --smoke     # a tiny model: does it run?

A GPT-2 of two blocks, width 128, 5,000 ids; 256 prompts of 16 tokens, 48 tokens behind each, none of which stops. Both
draw from the whole distribution at temperature 1, with the keys and values of what they have read kept. `generate` is
compiled as KerasHub does by itself, and is measured without XLA, too. Medians of the rounds in turns; the aim is 1.1 of
the faster one at the same batch size.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse

import keras_hub
import numpy as np
from aims import at_most
from timing import in_turns

import keras_kd as kd

PROMPT, WRITTEN, LIMIT = 16, 48, 1.1


def task(vocabulary: int, width: int, jit_compile: bool) -> keras_hub.models.CausalLM:
    """Return a language model that draws from its whole distribution."""
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=vocabulary,
        num_layers=2,
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=PROMPT + WRITTEN,
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler=keras_hub.samplers.RandomSampler(), jit_compile=jit_compile)
    return model


def generate(model: keras_hub.models.CausalLM, prompts: np.ndarray, batch: int) -> None:
    """Let KerasHub continue prompts."""
    ids = np.pad(prompts, ((0, 0), (0, WRITTEN)))
    mask = np.broadcast_to(np.arange(PROMPT + WRITTEN) < PROMPT, ids.shape)
    for first in range(0, len(ids), batch):
        part = slice(first, first + batch)
        model.generate({"token_ids": ids[part], "padding_mask": mask[part]}, stop_token_ids=None)


def rollouts(model: keras_hub.models.CausalLM, prompts: np.ndarray, batch: int) -> kd.language.Rollouts:
    return kd.language.Rollouts(
        list(prompts), student=model, length=WRITTEN, stop_ids=[], batch_size=batch, every=len(prompts) // batch
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one round: does it run?")
    options = parser.parse_args()
    vocabulary, width, rows, batches = (50, 16, 8, (4,)) if options.smoke else (5_000, 128, 256, (32, 128))
    prompts = np.random.default_rng(0).integers(1, vocabulary, (rows, PROMPT))
    plain, compiled = task(vocabulary, width, jit_compile=False), task(vocabulary, width, jit_compile=True)
    print(f"\nMilliseconds to write {rows * WRITTEN:,} tokens\n\n{'':<18}{'rollouts':>10}{'generate':>10}{'XLA':>10}")
    for batch in batches:
        ours = rollouts(plain, prompts, batch)
        contestants = {
            "rollouts": ours.on_epoch_begin,
            "generate": lambda batch=batch: generate(plain, prompts, batch),
            "XLA": lambda batch=batch: generate(compiled, prompts, batch),
        }
        rounds = 1 if options.smoke else options.rounds
        taken = {name: np.median(each) for name, each in in_turns(contestants, rounds, warm_up=1).items()}
        ratio = taken["rollouts"] / min(taken["generate"], taken["XLA"])
        cells = "".join(f"{each:>10.0f}" for each in taken.values())
        print(f"{f'batches of {batch}':<18}{cells}{ratio:>10.2f}  {at_most(ratio, LIMIT)}", flush=True)


if __name__ == "__main__":
    main()
