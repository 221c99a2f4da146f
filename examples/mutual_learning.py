"""No teacher: two students of one size learn from each other while they learn from their labels.

    python examples/mutual_learning.py

The task is that of task.py, without its teacher. Two models that are averaged are mostly better than one, so mutual
learning is compared with two that were trained alone: peer with student, average with average.

Test accuracy in percent, seeds 0, 1 and 2; a minute and a half of processor time:

                                    mean ± sd                over alone  over two alone, averaged
    alone                        85.92 ± 0.51
    two alone, averaged          85.92 ± 0.59              +0.00 ± 1.09
    mutual                       86.03 ± 0.59              +0.11 ± 0.10              +0.11 ± 1.17
    mutual, the other peer       86.20 ± 0.26              +0.28 ± 0.75              +0.28 ± 0.35
    mutual, averaged             86.64 ± 0.67              +0.72 ± 0.96              +0.72 ± 0.67

None of the gains is larger than its spread: with 100 images, two students of one size learn little from each other.
"""

import quiet

quiet.load_tensorflow()

import keras
import task
from report import print_gains

from keras_kd import stages


def main() -> None:
    options = task.parser(__doc__).parse_args()
    keras.config.disable_interactive_logging()  # the lines of `stages`
    digits = task.make(options)

    def pair(seed: int) -> list[keras.Model]:
        return [digits.student(seed), digits.student(seed + 1000)]

    def alone(seed: int) -> dict[str, float]:
        students = pair(seed)
        for student in students:
            digits.fit(student, seed)
        return {"alone": digits.test(students[0]), "two alone, averaged": digits.test(stages.averaged(students))}

    def mutual(seed: int) -> dict[str, float]:
        peers, _ = stages.mutual(pair(seed), **digits.arguments(seed, temperature=1.0, alpha=0.5))
        return {
            "mutual": digits.test(peers[0]),
            "mutual, the other peer": digits.test(peers[1]),
            "mutual, averaged": digits.test(stages.averaged(peers)),
        }

    print_gains([alone, mutual], options.seeds, over=("alone", "two alone, averaged"))


if __name__ == "__main__":
    main()
