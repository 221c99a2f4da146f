"""A student in one call: `kd.distill` searches how to train it, and tells whether the teacher was worth it.

    python examples/one_call.py

The digits as a table of 64 columns. The teacher, a wide network, has learned from all labels of the training split; the
student, of two layers of 16 units, has 150 of them, and all other images without theirs. Each training is kept, in
runs/one_call: stopped at any moment, the same command goes on.
"""

import quiet

quiet.load_tensorflow()

import argparse
import pathlib

import keras
from keras import layers

import keras_kd as kd

LABELLED = 150
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(width: int, dropout: float = 0.0) -> keras.Model:
    """Return a network of two hidden layers."""
    inputs = hidden = keras.Input((64,))
    for _ in range(2):
        hidden = layers.Dropout(dropout)(layers.Dense(width, activation="relu")(hidden))
    return keras.Model(inputs, layers.Dense(10)(hidden))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=20_000, help="steps of all trainings together (default: 20,000)")
    parser.add_argument("--output", type=pathlib.Path, default="runs/one_call", help="default: runs/one_call")
    parser.add_argument("--smoke", action="store_true", help="few candidates and steps: does it run?")
    options = parser.parse_args()
    digits = kd.data.load("digits")
    (x, y), validation, test = (
        (images.reshape(-1, 64), labels) for images, labels in (digits.train, digits.validation, digits.test)
    )
    keras.utils.set_random_seed(0)
    teacher = dense(256, dropout=0.5)
    teacher.compile("adam", LOSS)
    teacher.fit(x, y, epochs=1 if options.smoke else 40, verbose=0)

    one = {"temperature": 1.0, "alpha": 0.9, "change": "", "unlabelled": 0.75, "learning_rate": 1e-2}
    result = kd.distill(
        dense(16),
        teacher,
        (x[:LABELLED], y[:LABELLED]),
        validation,
        unlabelled=x[LABELLED:],
        test=test,
        folder=options.output / f"smoke-{options.budget}" if options.smoke else options.output / str(options.budget),
        compile_arguments={"loss": LOSS, "metrics": ["accuracy"]},
        budget=350 if options.smoke else options.budget,
        fixed=one if options.smoke else None,
    )
    print(f"\n{result}")


if __name__ == "__main__":
    main()
