"""A student far smaller than its teacher: does a model of a size in between help, and does a last stage on labels?

    python examples/teacher_assistants.py

The task is that of task.py, with a student of 850 parameters under a teacher of 14,978. The assistant is made from the
teacher, narrower in all layers; each stage has as many steps as the student alone. "refined": then labels alone, with a
small learning rate, and the best epoch by validation, the state before the first included.

Test accuracy in percent, seeds 0, 1 and 2; two minutes of processor time:

                                    mean ± sd       over alone      over direct
    alone                        81.52 ± 3.08
    direct                       89.87 ± 1.07     +8.35 ± 3.33
    direct, refined              89.87 ± 1.07     +8.35 ± 3.33     +0.00 ± 0.00
    by an assistant: assistant_1   87.42 ± 0.77     +5.90 ± 2.57     -2.45 ± 0.84
    by an assistant              86.20 ± 1.93     +4.67 ± 1.37     -3.67 ± 2.52
    by an assistant, refined     86.87 ± 0.79     +5.34 ± 2.30     -3.01 ± 1.43

The teacher itself helps most, and an assistant does not help: this gap is not too wide for one step. Refining
adds nothing to the best, and less than its spread to the other.
"""

import quiet

quiet.load_tensorflow()

import keras
import task
from models import build_small
from report import Way, print_gains

from keras_kd import stages


def main() -> None:
    options = task.parser(__doc__).parse_args()
    keras.config.disable_interactive_logging()  # the lines of `stages`
    digits = task.make(options)

    def alone(seed: int) -> dict[str, float]:
        student = digits.student(seed, build_small)
        digits.fit(student, seed)
        return {"alone": digits.test(student)}

    def chain(name: str, assistants: int) -> Way:
        """Train along a chain, then on labels alone with a small learning rate, as long as that helps on validation."""

        def run(seed: int) -> dict[str, float]:
            student = digits.student(seed, build_small)
            arguments = digits.arguments(seed, temperature=4.0, alpha=0.9)
            _, record = stages.teacher_assistants(digits.teacher, assistants, student, **arguments)
            rows = {f"{name}: {stage.model.name}": digits.test(stage.model) for stage in record[:-1]}
            rows[name] = digits.test(student)
            arguments["compile_arguments"]["optimizer"] = keras.optimizers.Adam(1e-3)
            arguments["fit_arguments"] |= {"validation_data": digits.images.validation, "epochs": digits.recipe.epochs}
            stages.refine(student, **arguments, monitor="val_accuracy")
            return {**rows, f"{name}, refined": digits.test(student)}

        return run

    ways = [alone, chain("direct", 0), chain("by an assistant", 1)]
    print_gains(ways, options.seeds, over=("alone", "direct"))


if __name__ == "__main__":
    main()
