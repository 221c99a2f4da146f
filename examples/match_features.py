"""Methods that read features: what inside the teacher should the student reproduce?

    python examples/match_features.py                          # all of them
    python examples/match_features.py --method fitnets review  # some of them

The task is that of task.py; weights are the papers'. Test accuracy in percent, seeds 0, 1 and 2:

                                    mean ± sd       over alone          over kd
    alone                        85.92 ± 0.51
    kd                           91.71 ± 0.26     +5.79 ± 0.26
    fitnets                      88.54 ± 0.26     +2.62 ± 0.54     -3.17 ± 0.33
    attention_transfer           82.03 ± 0.67     -3.90 ± 0.63     -9.68 ± 0.60
    nst                          85.64 ± 1.37     -0.28 ± 1.18     -6.07 ± 1.25
    fsp                          84.31 ± 2.90     -1.61 ± 3.41     -7.40 ± 3.15
    vid                          78.41 ± 1.14     -7.51 ± 1.26    -13.30 ± 1.17
    cwd                          84.81 ± 1.46     -1.11 ± 1.84     -6.90 ± 1.64
    review                       85.75 ± 1.39     -0.17 ± 1.73     -5.95 ± 1.55
    kd + fitnets                 91.26 ± 1.51     +5.34 ± 1.46     -0.45 ± 1.46
    sim                          91.32 ± 0.88     +5.40 ± 1.17     -0.39 ± 1.01

Alone, only the hints are worth it, and SimKD, which is as good as plain KD; nothing is better than that. The
papers' weights are made for deep networks on other data: benchmarks/methods.py picks a factor on them, and finds all of
them worth it on Fashion-MNIST.
"""

import quiet

quiet.load_tensorflow()

import keras
import task
from report import Way, print_gains

import keras_kd as kd
from keras_kd import methods

#: Name -> the method's terms at its paper's weights, given pairs of layers of the same stage and the teacher.
METHODS = {
    "fitnets": lambda pairs, teacher: methods.fitnets(pairs),  # the features, through a trained projection
    "attention_transfer": lambda pairs, teacher: methods.attention_transfer(pairs),  # where it looks: mean of squares
    "nst": lambda pairs, teacher: methods.nst(pairs),  # which neurons fire where
    "fsp": lambda pairs, teacher: methods.fsp(pairs[-1:] * 2),  # the flow from a stage to a stage of the same width
    "vid": lambda pairs, teacher: methods.vid(pairs),  # the features, where they can be predicted
    "cwd": lambda pairs, teacher: methods.cwd(pairs),  # where each channel is active; see segmentation.py
    "review": lambda pairs, teacher: methods.review(pairs, teacher),  # shallow stages, given the deeper ones
    "kd + fitnets": lambda pairs, teacher: methods.kd() + methods.fitnets(pairs, weight=1.0),
}
SIM = "sim"  # the student ends in the teacher's own classifier, and only learns to feed it
IN_SMOKE = ["fitnets", SIM]


def main() -> None:
    parser = task.parser(__doc__)
    parser.add_argument("--method", nargs="+", choices=[*METHODS, SIM], metavar="NAME", help="some (default: all)")
    options = parser.parse_args()
    digits = task.make(options)
    pairs = methods.suggest_pairs(digits.student(0), digits.teacher)  # prints them, and why
    names = options.method or (IN_SMOKE if options.smoke else [*METHODS, SIM])

    def distil(name: str) -> Way:
        if name == SIM:
            return lambda seed: reuse_classifier(digits, seed)
        return lambda seed: digits.distilled(seed, name, METHODS[name](pairs, digits.teacher), alpha=0.5)

    ways = [digits.alone, digits.distilled, *map(distil, names)]
    print_gains(ways, options.seeds, over=("alone", "kd"))


def reuse_classifier(digits: task.Task, seed: int) -> dict[str, float]:
    """SimKD: all that is learned is features; labels are not used."""
    hidden = [layer.name for layer in digits.teacher.layers if isinstance(layer, keras.layers.Dense)][-2]
    student = kd.bridges.with_teacher_classifier(digits.student(seed), digits.teacher, at=("flat", hidden))
    distiller = kd.Distiller(student=student, teacher=digits.teacher, terms=methods.sim(hidden))
    digits.fit(distiller, seed, alpha=1.0)
    return {SIM: digits.test(student)}


if __name__ == "__main__":
    main()
