"""CIFAR-100 as the papers train on it: teachers, students alone, and students under each method, beside their numbers.

    pip install -e ".[examples]"
    python examples/public/cifar100.py [--pairs resnet32x4:resnet8x4 ...] [--methods kd dkd crd ...] [--seeds 3]

The pairs of CRD and DKD: ResNet-32x4 to ResNet-8x4, WRN-40-2 to WRN-16-2, ResNet-32x4 to ShuffleNet V1 and V2. The
data come by TensorFlow Datasets. All 50,000 images of training are learned from, each moved by up to 4 pixels and
mirrored every other time; SGD with momentum 0.9 and weight decay 5e-4 on all weights, batches of 64, 240 epochs at a
learning rate of 0.05 (ShuffleNets 0.01), a tenth of it after 150, 180 and 210; the test's accuracy after the last epoch
counts. The teacher is trained first, with the same command: no file of one exists for Keras.

Stopped or killed at any moment, the same command goes on with the next epoch. Each training has a folder in
runs/public/cifar100, with a line for each epoch in log.csv. `--smoke`: two epochs of two steps on noise in the colour
of its class, in a minute without a GPU.

It was not run in full by those who wrote it: that needs a GPU for days. What differs from the papers: the teacher,
which is trained anew; `crd` has a queue of the last 4,096 embeddings and InfoNCE, where the paper has a bank of all
images and a binary loss; the weight of `dkd` rises by steps in the first 20 epochs, where the paper's does by epochs;
`vid` and `fitnets` have bridges of one layer.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import quiet

quiet.load_tensorflow()

import argparse
from collections.abc import Callable
from typing import Any

import cifar_images
import keras
import public_runs
from cifar_networks import NETWORKS
from paper_optimizers import CoupledSGD, steps_down
from published import CIFAR_100, beside

import keras_kd as kd
from keras_kd import methods

EPOCHS, DECAYED_AFTER, BATCH = 240, (150, 180, 210), 64
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
STAGES = [(name, name) for name in ("stage_1", "stage_2", "stage_3")]
POOLED = [("pooled", "pooled")]
#: DKD's beta of each student, as in the configurations of its code; 8 for the others.
BETAS = {"wrn_16_2": 6.0}

#: The terms of each method, of (student's name, steps of an epoch). All but `kd` weigh labels and terms by 1 in the
#: papers' code: alpha = 0.5 halves both, so labels count twice here, and each weight is twice the paper's.
TERMS: dict[str, Callable[[str, int], list[kd.Term]]] = {
    "kd": lambda student, steps: methods.kd(temperature=4.0),
    "dkd": lambda student, steps: methods.dkd(
        non_target_weight=BETAS.get(student, 8.0), weight=2.0, warmup_steps=20 * steps
    ),
    "crd": lambda student, steps: methods.crd(POOLED, weight=1.6),
    "at": lambda student, steps: methods.attention_transfer(STAGES, weight=2000.0),
    "sp": lambda student, steps: methods.similarity_preserving(STAGES[-1:], weight=6000.0),
    "rkd": lambda student, steps: methods.rkd(POOLED, distance_weight=50.0, angle_weight=100.0),
    "pkt": lambda student, steps: methods.pkt(POOLED, weight=60000.0),
    "nst": lambda student, steps: methods.nst(STAGES, weight=100.0),
    "vid": lambda student, steps: methods.vid(STAGES, weight=2.0),
    "fitnets": lambda student, steps: methods.fitnets(STAGES[1:2], weight=200.0),
}


def weights(method: str) -> dict[str, float]:
    """Return how `compile` weighs labels and terms, as the papers' code does; nothing for a student alone."""
    if not method:
        return {}
    return {"alpha": 0.9} if method == "kd" else {"alpha": 0.5, "loss_weights": 2.0}


class Benchmark:
    """The data, and how all networks are trained on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder = public_runs.folder(options)
        self.images = cifar_images.stand_in(8, 10) if options.smoke else cifar_images.cifar100()
        self.size = 4 if options.smoke else BATCH
        self.epochs = 2 if options.smoke else EPOCHS
        self.steps = -(-len(self.images.train[1]) // self.size)
        self.test = cifar_images.evaluation_batches(self.images.test, 500)
        # A try is quicker without a graph.
        self.way: dict[str, Any] = {"run_eagerly": True} if options.smoke else {}

    def train(self, place: str, name: str, seed: int, teacher: Any = None, method: str = "") -> dict[str, Any]:
        """Train a network, or read its record."""
        rate = 0.01 if name.startswith("shuffle") else 0.05
        found = public_runs.trained(
            self.folder / place / f"seed-{seed}",
            lambda: NETWORKS[name](cifar_images.CLASSES),
            teacher,
            (lambda *models: TERMS[method](name, self.steps)) if method else None,
            {
                "optimizer": CoupledSGD(steps_down(rate, self.steps, DECAYED_AFTER)),
                "loss": LOSS,
                "metrics": ["accuracy"],
                **weights(method),
                **self.way,
            },
            {
                "x": cifar_images.batches(self.images.train, self.size, seed),
                "validation_data": self.test,
                "epochs": self.epochs,
                "verbose": 0 if self.way else 2,
            },
            self.score,
            seed,
        )
        print(f"{place}, seed {seed}: {found['accuracy']:.2f} %, {found['parameters']:,} parameters", flush=True)
        return found

    def score(self, model: keras.Model) -> dict[str, float]:
        """Return the accuracy on the test, in percent."""
        model.compile(loss=LOSS, metrics=["accuracy"], run_eagerly=bool(self.way))
        return {"accuracy": 100 * float(model.evaluate(self.test, verbose=0, return_dict=True)["accuracy"])}

    def compared(self, names: tuple[str, str], ways: list[str], seeds: int) -> dict[str, list[float]]:
        """Return the accuracies of a pair: the teacher's, and those of the student in each way, one for each seed."""
        trained = self.train(names[0], names[0], 0)
        teacher = keras.models.load_model(trained["path"], compile=False)
        teacher.trainable = False
        found = {"teacher": [trained["accuracy"]]}
        for way in ways:
            alone = way == "alone"
            place = names[1] if alone else f"{names[0]}-{names[1]}/{way}"
            given = {} if alone else {"teacher": teacher, "method": way}
            found[way] = [self.train(place, names[1], seed, **given)["accuracy"] for seed in range(seeds)]
        return found


def pair(text: str) -> tuple[str, str]:
    """Return teacher and student of "teacher:student"."""
    names = tuple(text.split(":"))
    if len(names) != 2 or not set(names) <= set(NETWORKS):
        raise argparse.ArgumentTypeError(f"expected teacher:student, each one of {', '.join(NETWORKS)}")
    return names


def main() -> None:
    parser = public_runs.parser(__doc__, "runs/public/cifar100")
    parser.add_argument("--pairs", nargs="+", type=pair, help="teacher:student (default: the papers' four pairs)")
    parser.add_argument("--methods", nargs="+", choices=TERMS, default=["kd", "dkd", "crd"], help="default: kd dkd crd")
    options = parser.parse_args()
    pairs = options.pairs or (list(CIFAR_100)[:1] if options.smoke else list(CIFAR_100))
    with public_runs.placed(options):
        benchmark = Benchmark(options)
        for names in pairs:
            seeds = options.seeds or (1 if options.smoke else 3)
            found = benchmark.compared(names, ["alone", *options.methods], seeds)
            print(f"\n{names[0]} to {names[1]}, accuracy in percent, mean ± standard deviation\n")
            print(f"{beside(found, CIFAR_100.get(names, {}))}\n", flush=True)


if __name__ == "__main__":
    main()
