"""Methods that read relations: which examples are similar to the teacher? The student's features may have any width.

    python examples/match_relations.py                   # all of them
    python examples/match_relations.py --method rkd crd  # some of them

The task is that of task.py; weights are the papers', those of RKD a tenth where it joins KD. Relations are of the
examples in one batch, here of ten; CRD compares with a memory of 4,096.

Test accuracy in percent, seeds 0, 1 and 2:

                                    mean ± sd       over alone          over kd
    alone                        85.92 ± 0.51
    kd                           91.71 ± 0.26     +5.79 ± 0.26
    pkt                          89.59 ± 0.84     +3.67 ± 0.88     -2.11 ± 0.82
    rkd                          89.04 ± 2.01     +3.12 ± 2.20     -2.67 ± 2.09
    similarity_preserving        89.32 ± 0.29     +3.39 ± 0.63     -2.39 ± 0.42
    correlation                  86.14 ± 0.93     +0.22 ± 0.82     -5.56 ± 0.84
    crd                          87.48 ± 0.88     +1.56 ± 0.39     -4.23 ± 0.63
    kd + rkd                     91.82 ± 0.58     +5.90 ± 0.84     +0.11 ± 0.67

All but the correlations are worth it; none is nearly as good as plain KD, and to KD, RKD adds less than its spread.
"""

import quiet

quiet.load_tensorflow()

import keras
import task
from report import Way, print_gains

from keras_kd import methods

#: Name -> the method's terms at its paper's weights, given one pair of layers: the last features on both sides.
METHODS = {
    "pkt": methods.pkt,  # which examples are neighbours, as probabilities
    "rkd": methods.rkd,  # distances of pairs and angles of triples
    "similarity_preserving": methods.similarity_preserving,  # rows of the Gram matrix
    "correlation": methods.correlation,  # Gaussian similarities
    "crd": methods.crd,  # distinguish an example from 4,096 others, as the teacher embeds them
    "kd + rkd": lambda at: methods.kd() + methods.rkd(at, distance_weight=2.5, angle_weight=5.0),
}
IN_SMOKE = ["crd"]


def main() -> None:
    parser = task.parser(__doc__)
    parser.add_argument("--method", nargs="+", choices=list(METHODS), metavar="NAME", help="some (default: all)")
    options = parser.parse_args()
    digits = task.make(options)
    hidden = [layer.name for layer in digits.teacher.layers if isinstance(layer, keras.layers.Dense)][-2]
    at = [("flat", hidden)]
    names = options.method or (IN_SMOKE if options.smoke else METHODS)

    def distil(name: str) -> Way:
        return lambda seed: digits.distilled(seed, name, METHODS[name](at), alpha=0.5)

    ways = [digits.alone, digits.distilled, *map(distil, names)]
    print_gains(ways, options.seeds, over=("alone", "kd"))


if __name__ == "__main__":
    main()
