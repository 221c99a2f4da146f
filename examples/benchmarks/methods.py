"""Every method of `keras_kd.methods` on one task: how good is the student, and what does a step cost?

    python examples/benchmarks/methods.py                       # Fashion-MNIST, all methods: about three hours
    python examples/benchmarks/methods.py --methods kd dkd      # some of them
    python examples/benchmarks/methods.py --smoke               # embedded digits: does it run?

Teacher, student, data and steps are the quickstart's: the student sees the first 5,000 labelled images for 20 epochs,
from the same initial weights and in the same order for all methods. A method's weights are its paper's, times a factor
that is picked from --factors on the validation split with one seed and a quarter of the epochs; the test split is read
once, for the table. Each run is saved in --output, so that an interrupted benchmark can be continued, and two
processes may share the work by --methods. Step costs are measured last, one step of each method and of KD in turns.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for the quickstart

import keras
import numpy as np
import quickstart
from models import build_student

import keras_kd as kd
from keras_kd import methods

TIMED_STEPS = 60
IN_SMOKE = ("kd", "fitnets", "sim")


@dataclasses.dataclass
class Method:
    """A published method on these models: its terms, and the alpha that its docstring names."""

    make: Callable[[keras.Model, keras.Model], list[kd.Term]]
    alpha: float = 0.5
    reuses_classifier: bool = False

    def distiller(self, seed: int, teacher: keras.Model, images: kd.data.Images, factor: float) -> kd.Distiller:
        keras.utils.set_random_seed(seed)
        student = build_student(images.input_shape, images.classes)
        if self.reuses_classifier:
            at = (student.layers[-2].name, hidden_layer(teacher))
            student = kd.bridges.with_teacher_classifier(student, teacher, at=at)
        distiller = kd.Distiller(student=student, teacher=teacher, terms=self.make(student, teacher))
        # Adam does not see the scale of the loss: a factor on the teacher's share is a factor on all weights.
        share = self.alpha if self.alpha == 1 else factor * self.alpha / (1 - self.alpha + factor * self.alpha)
        distiller.compile(**quickstart.supervised(3e-3), alpha=share)
        return distiller


def on_logits(name: str) -> Method:
    return Method(lambda student, teacher: getattr(methods, name)())


def on_stages(name: str, last: int = 0) -> Method:
    """Return a method that reads all pairs of stages, or the `last` ones."""
    return Method(lambda student, teacher: getattr(methods, name)(stages(student, teacher)[-last:]))


def all_methods() -> dict[str, Method]:
    return {
        "kd": Method(lambda s, t: methods.kd(), alpha=0.9),
        "standardized": Method(lambda s, t: methods.standardized(), alpha=0.9),
        **{name: on_logits(name) for name in ("dkd", "dist", "nkd", "multi_level", "ttm", "regression")},
        "multi_label": Method(lambda s, t: methods.multi_label(temperature=4.0)),
        **{name: on_stages(name) for name in ("fitnets", "attention_transfer", "nst", "vid", "cwd")},
        **{name: on_stages(name, 1) for name in ("pkt", "rkd", "similarity_preserving", "correlation", "crd")},
        # The stages of these models differ in width, so the last one's flow goes to itself.
        "fsp": Method(lambda s, t: methods.fsp(2 * stages(s, t)[-1:])),
        "review": Method(lambda s, t: methods.review(stages(s, t), t)),
        "sim": Method(lambda s, t: methods.sim(hidden_layer(t)), alpha=1.0, reuses_classifier=True),
        "kd + attention_transfer": Method(
            lambda s, t: methods.kd() + methods.attention_transfer(stages(s, t), weight=100.0), alpha=0.9
        ),
    }


def stages(student: keras.Model, teacher: keras.Model) -> list[tuple[str, str]]:
    return methods.suggest_pairs(student, teacher, verbose=False)


def hidden_layer(teacher: keras.Model) -> str:
    """Return the name of the layer that the teacher's classifier reads."""
    return [layer.name for layer in teacher.layers if isinstance(layer, keras.layers.Dense)][-2]


def main() -> None:
    options, images = read_arguments()
    recipe = options.recipe
    teacher = quickstart.get_teacher(images, recipe, options.output / images.name)
    few = tuple(values[: recipe.train_examples] for values in images.train)
    bench = Bench(teacher, images, few, options)
    rows = {name: bench.run(name, method) for name, method in options.chosen.items()}
    alone = bench.alone()
    costs = bench.costs(options.chosen)
    print_table(images, alone, rows, costs, options)


@dataclasses.dataclass
class Bench:
    """Runs methods, and loads the results of those that were run before."""

    teacher: keras.Model
    images: kd.data.Images
    few: tuple[np.ndarray, ...]
    options: argparse.Namespace

    def run(self, name: str, method: Method) -> dict:
        factors = self.options.factors if method.alpha < 1 else [1.0]
        epochs = max(1, self.options.recipe.epochs // 4)
        found = [self._fit(name, method, 0, factor, epochs)["validation"] for factor in factors]
        factor = factors[int(np.argmax(found))] if len(factors) > 1 else factors[0]
        runs = [self._fit(name, method, seed, factor, self.options.recipe.epochs) for seed in range(self.options.seeds)]
        tests = [run["test"] for run in runs]
        print(f"{name}: factor {factor:g} (validation {max(found):.1%}), test {statistics.mean(tests):.2%}", flush=True)
        return {"factor": factor, "tests": tests}

    def alone(self) -> list[float]:
        runs = [self._fit("alone", None, seed, 0.0, self.options.recipe.epochs) for seed in range(self.options.seeds)]
        return [run["test"] for run in runs]

    def costs(self, chosen: dict[str, Method]) -> dict[str, float]:
        """Return what a step costs, as the median of its ratio to a step of KD that was run right after it."""
        basis = self._stepper(all_methods()["kd"])
        return {name: self._ratio(self._stepper(method), basis) for name, method in chosen.items()}

    def _ratio(self, step: Callable[[], object], basis: Callable[[], object]) -> float:
        ratios = []
        for _ in range(TIMED_STEPS):
            times = [time.perf_counter()]
            for run in (step, basis):
                run()
                times.append(time.perf_counter())
            ratios.append((times[1] - times[0]) / (times[2] - times[1]))
        return statistics.median(ratios[TIMED_STEPS // 10 :])

    def _stepper(self, method: Method) -> Callable[[], object]:
        distiller = method.distiller(0, self.teacher, self.images, 1.0)
        data = quickstart.batches(self.few, self.options.recipe.batch_size, 0).repeat()
        distiller.fit(data, steps_per_epoch=2, verbose=0, shuffle=False)
        distiller.make_train_function()
        steps = iter(data)
        return lambda: float(distiller.train_function(steps)["loss"])

    def _fit(self, name: str, method: Method | None, seed: int, factor: float, epochs: int) -> dict:
        path = self.options.output / self.images.name / f"{name.replace(' ', '')}-x{factor:g}-{epochs}-{seed}.json"
        if path.exists():
            return json.loads(path.read_text())
        if method is None:
            keras.utils.set_random_seed(seed)
            model = student = build_student(self.images.input_shape, self.images.classes)
            model.compile(**quickstart.supervised(3e-3))
        else:
            model = method.distiller(seed, self.teacher, self.images, factor)
            student = model.student
        started = time.perf_counter()
        train = quickstart.batches(self.few, self.options.recipe.batch_size, seed)
        model.fit(train, epochs=epochs, verbose=0, shuffle=False)
        result = {
            "validation": quickstart.accuracy(student, self.images.validation),
            "test": quickstart.accuracy(student, self.images.test),
            "seconds": time.perf_counter() - started,
        }
        print(
            f"  {name:<24} factor {factor:<5g} seed {seed} {epochs:>3} epochs: "
            f"validation {result['validation']:.1%} after {result['seconds']:.0f} s",
            flush=True,
        )
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(result))
        partial.rename(path)
        return result


def print_table(
    images: kd.data.Images,
    alone: list[float],
    rows: dict[str, dict],
    costs: dict[str, float],
    options: argparse.Namespace,
) -> None:
    seeds = len(alone)
    print(
        f"\n{images.name}: {options.recipe.train_examples:,} images, {options.recipe.epochs} epochs, {seeds} seeds. "
        "Test accuracy: mean and standard deviation.\n"
    )
    print(f"{'':<24}{'accuracy':>15}{'over alone':>12}{'over KD':>9}{'factor':>8}{'step over KD':>14}")
    base, plain = statistics.mean(alone), statistics.mean(rows["kd"]["tests"]) if "kd" in rows else float("nan")
    print(f"{'alone':<24}{spread(alone):>15}")
    for name, row in sorted(rows.items(), key=lambda item: -statistics.mean(item[1]["tests"])):
        mean = statistics.mean(row["tests"])
        print(
            f"{name:<24}{spread(row['tests']):>15}{100 * (mean - base):>+12.2f}{100 * (mean - plain):>+9.2f}"
            f"{row['factor']:>8g}{costs[name]:>14.2f}"
        )


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


def read_arguments() -> tuple[argparse.Namespace, kd.data.Images]:
    known = all_methods()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(known), metavar="NAME", help="some (default: all)")
    parser.add_argument("--factors", nargs="+", type=float, default=[0.1, 0.3, 1.0, 3.0, 10.0], help="on the weights")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--smoke", action="store_true", help="embedded digits, one seed, two epochs")
    parser.add_argument("--output", type=pathlib.Path, default="runs/methods", help="default: runs/methods")
    options = parser.parse_args()
    options.chosen = {name: known[name] for name in options.methods or (IN_SMOKE if options.smoke else known)}
    options.recipe = quickstart.Recipe()
    if options.smoke:
        options.recipe = dataclasses.replace(options.recipe, train_examples=100, epochs=2, teacher_epochs=1)
        options.seeds, options.factors = 1, [1.0]
    return options, kd.data.load("digits" if options.smoke else "fashion_mnist")


if __name__ == "__main__":
    main()
