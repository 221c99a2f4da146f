"""Ten times smaller in one call: prune a residual network, let it learn again, and write it in 8-bit integers.

    python examples/compress.py                            # embedded digits
    python examples/compress.py --dataset fashion_mnist    # TensorFlow Datasets

The residual network of prune.py learns from the training split, of which a tenth is held out to compare candidates on.
`kd.compress` looks for a LiteRT file of 8-bit integers that has a tenth of the bytes of the network's own, in 32 bits,
and an accuracy at most two points below. It prints its table, and what each seed's choice reaches on the test split.

Digits, 28 minutes beside other work, a part of what is printed:

    Seed 0
                                    parameters  multiplications      file     ms  accuracy
    --------------------------------------------------------------------------------------
    teacher, litert                    176,090        1,648,256  709.4 kB  0.067   97.20 %
    teacher, litert_int8               176,090        1,648,256  203.1 kB  0.075   97.20 %
    all file bytes                      47,388        1,097,528   69.4 kB  0.063   97.20 %
    all file bytes, a block less        48,993        1,092,176   69.7 kB  0.042   99.07 %
    50% of multiplications              44,412          823,542   66.6 kB  0.042   98.13 %
    * 25% of multiplications            14,643          397,204   33.5 kB  0.043   98.13 %
    from random weights, alone          14,643          397,204   33.5 kB  0.029   95.33 %
    from random weights, distilled      14,643          397,204   33.5 kB   0.04   97.20 %

    Mean of 3 seeds: 19.8 times smaller, 0.78 points above the teacher on test images
"""

import argparse
import dataclasses
import pathlib
import time

import quiet

quiet.load_tensorflow()

import keras
import numpy as np
import prune
import quickstart

import keras_kd as kd
from keras_kd.pruning import pruned_sizes

SMALLER = 10


def main() -> None:
    started = time.perf_counter()
    options = read_arguments()
    images = kd.data.load(options.dataset)
    few = 80 if options.smoke else prune.IMAGES
    images = dataclasses.replace(images, train=tuple(each[:few] for each in images.train))
    whole_epochs, epochs = (1, 1) if options.smoke else prune.EPOCHS[options.dataset]
    held_out = len(images.train[0]) // 10
    train, validation = (
        tuple(each[part] for each in images.train) for part in (slice(held_out, None), slice(held_out))
    )
    rows = []
    for seed in range(options.seeds):
        keras.utils.set_random_seed(seed)
        teacher = prune.residual(images.input_shape, images.classes, blocks=1 if options.smoke else 2)
        prune.train(teacher, dataclasses.replace(images, train=train), whole_epochs, seed)
        nbytes = pruned_sizes.file_bytes(teacher, "keras" if options.smoke else "litert", train[0][:16])
        target = {"litert_int8_bytes": nbytes / SMALLER, "accuracy_drop": 0.02}
        _, record = kd.compress(
            teacher,
            train,
            validation,
            target={"accuracy_drop": 0.9} if options.smoke else target,
            folder=options.output / f"{images.name}-{seed}",
            compile_arguments={"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
            test=images.test,
            widths=(0.5,) if options.smoke else (0.5, 0.25),
            epochs=epochs,
            learning_rate=3e-3,
            controls=not options.smoke,
            seed=seed,
        )
        print(f"\nSeed {seed}\n{record}", flush=True)
        record.plot(options.output / f"{images.name}-{seed}" / "front.png")
        gained = record.test[record.chosen.name] - record.test["teacher"]
        rows.append([nbytes / record.chosen.bytes, 100 * gained])
    smaller, gained = np.mean(rows, axis=0)
    side = "above" if gained > 0 else "below"
    print(
        f"\nMean of {len(rows)} seeds: {smaller:.1f} times smaller, "
        f"{abs(gained):.2f} points {side} the teacher on test images"
    )
    print(f"{options.output}\n{time.perf_counter() - started:.0f} seconds")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(prune.EPOCHS), default="digits")
    parser.add_argument("--seeds", type=quickstart.count, help="default: 3")
    parser.add_argument("--smoke", action="store_true", help="one seed, one candidate, no LiteRT: does it run?")
    parser.add_argument("--output", type=pathlib.Path, default="runs/compress", help="where all is kept")
    options = parser.parse_args()
    options.seeds = options.seeds or (1 if options.smoke else 3)
    return options


if __name__ == "__main__":
    main()
