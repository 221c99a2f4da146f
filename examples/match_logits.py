"""Methods that read logits: what is matched, beyond the softened probabilities?

    python examples/match_logits.py                            # all of them
    python examples/match_logits.py --method standardized ttm  # some of them

The task is that of task.py; weights and temperatures are the papers'. Test accuracy in percent, seeds 0, 1 and 2, four
minutes of processor time:

                                    mean ± sd       over alone          over kd
    alone                        85.92 ± 0.51
    kd                           91.71 ± 0.26     +5.79 ± 0.26
    standardized                 91.93 ± 0.48     +6.01 ± 0.77     +0.22 ± 0.59
    dkd                          91.71 ± 0.19     +5.79 ± 0.39     +0.00 ± 0.17
    dist                         91.71 ± 1.14     +5.79 ± 1.23     +0.00 ± 1.16
    nkd                          90.98 ± 0.50     +5.06 ± 0.82     -0.72 ± 0.63
    multi_level                  91.99 ± 0.33     +6.07 ± 0.77     +0.28 ± 0.54
    ttm                          88.81 ± 1.09     +2.89 ± 0.98     -2.89 ± 1.01

All are worth it, and none is better than plain KD by more than the spread of its gain. The weight of TTM is too small
for this task: benchmarks/methods.py, which picks a factor on the weights, takes ten times as much on Fashion-MNIST.
"""

import quiet

quiet.load_tensorflow()

import task
from report import Way, print_gains

from keras_kd import methods

#: Name -> (the method's terms at its paper's defaults, the alpha that its docstring names).
METHODS = {
    "standardized": (methods.standardized, 0.9),  # the shape of the logits, not their scale
    "dkd": (methods.dkd, 0.5),  # the label against the rest, and the rest among themselves, weighed apart
    "dist": (methods.dist, 0.5),  # correlations within an example and within a class, not values
    "nkd": (methods.nkd, 0.5),  # the label as the teacher believes it, and the rest renormalised
    "multi_level": (methods.multi_level, 0.5),  # five temperatures; correlations of classes and of examples
    "ttm": (methods.ttm, 0.5),  # only the teacher is softened
}
IN_SMOKE = ["multi_level"]


def main() -> None:
    parser = task.parser(__doc__)
    parser.add_argument("--method", nargs="+", choices=list(METHODS), metavar="NAME", help="some (default: all)")
    options = parser.parse_args()
    digits = task.make(options)
    names = options.method or (IN_SMOKE if options.smoke else METHODS)

    def distil(name: str) -> Way:
        make, alpha = METHODS[name]
        return lambda seed: digits.distilled(seed, name, make(), alpha)

    ways = [digits.alone, digits.distilled, *map(distil, names)]
    print_gains(ways, options.seeds, over=("alone", "kd"))


if __name__ == "__main__":
    main()
