"""No teacher: a student learns from an earlier student of its own size, or from its own last layer.

    python examples/born_again.py

The task is that of task.py, without its teacher. "generation 2" learns from fresh weights under the student alone, and
so on; at the end, all are averaged. "with an early exit" is the student after one training in which an exit, a dense
layer on the averaged maps of its last convolution, learned from labels and from the last layer.

Test accuracy in percent, seeds 0, 1 and 2; two minutes of processor time:

                                    mean ± sd       over alone
    alone                        85.92 ± 0.51
    generation 2                 85.81 ± 1.17     -0.11 ± 1.55
    generation 3                 85.75 ± 0.51     -0.17 ± 0.33
    all 3 averaged               86.09 ± 0.39     +0.17 ± 0.58
    with an early exit           83.58 ± 1.35     -2.34 ± 1.77
    the exit itself              83.97 ± 2.30     -1.95 ± 2.71

No gain is larger than its spread, and the exit costs a student as small as this one: it has no layers to spare.
"""

import quiet

quiet.load_tensorflow()

import itertools

import keras
import task
from report import print_gains

from keras_kd import stages

GENERATIONS = 3


def main() -> None:
    options = task.parser(__doc__).parse_args()
    keras.config.disable_interactive_logging()  # the lines of `stages`
    digits = task.make(options)

    def born_again(seed: int) -> dict[str, float]:
        """Train generation after generation; the first learns from labels and is the student alone."""
        seeds = itertools.count(seed, step=1000)
        arguments = digits.arguments(seed, temperature=2.0, alpha=0.5)
        _, record = stages.born_again(lambda: digits.student(next(seeds)), GENERATIONS, **arguments)
        generations = [stage.model for stage in record]
        rows = {f"generation {number}": digits.test(model) for number, model in enumerate(generations[1:], start=2)}
        averaged = {f"all {GENERATIONS} averaged": digits.test(stages.averaged(generations))}
        return {"alone": digits.test(generations[0]), **rows, **averaged}

    def exits(seed: int) -> dict[str, float]:
        """Attach an exit after a layer, which learns from labels and from the last output."""
        student = digits.student(seed)
        _, record = stages.self_distillation(student, ["conv_2"], **digits.arguments(seed, temperature=3.0, alpha=0.3))
        with_exits = record[0].model
        early = keras.Model(with_exits.inputs, with_exits.output["exit_1"])
        return {"with an early exit": digits.test(student), "the exit itself": digits.test(early)}

    print_gains([born_again, exits], options.seeds, over=("alone",))


if __name__ == "__main__":
    main()
