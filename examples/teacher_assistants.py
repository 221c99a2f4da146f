"""A student far smaller than its teacher: does a model of a size in between help, and does a last stage on labels?

    python examples/teacher_assistants.py

The task is that of task.py, with a student of 850 parameters under a teacher of 14,978. The assistant is made from the
teacher, narrower in all layers; each stage has as many steps as the student alone. "refined": then labels alone, with a
small learning rate, and the best epoch by validation, the state before the first included.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported

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
