"""Four students, three recipes, three seeds: which one to ship?

    python examples/compare_students.py                            # embedded digits
    python examples/compare_students.py --dataset fashion_mnist    # TensorFlow Datasets

The teacher is the quickstart's. Each student is trained alone, with label smoothing, and under each recipe, from the
same weights and on the same batches; recipes are chosen on the validation split, and the test split is read at the
end. The best run of each student is then exported, and compared with the teacher: quality, fidelity, size and latency
through the exported file. The page, with plots and the images on which they disagree most, needs no network.

Each run is saved in `--output`: after an interruption, the same command continues. `--processes` runs them in parallel.

On two CPU cores, seeds 0 to 2: about half an hour on Fashion-MNIST, once the teacher is trained. What it prints there
is in examples/benchmarks/RESULTS.md.
"""

import argparse
import dataclasses
import pathlib

import quiet

quiet.load_tensorflow()

import keras
import quickstart
import tensorflow as tf
from keras import layers
from quickstart import RECIPES, Recipe, count, get_teacher

import keras_kd as kd

tf.get_logger().setLevel("ERROR")  # evaluating many models is not a mistake in how tf.function is used

HOW = {
    "kd": {"temperature": 4.0, "alpha": 0.9},
    "standardized": {"terms": kd.methods.standardized(), "alpha": 0.9},
    "dkd": {"terms": kd.methods.dkd(), "temperature": 4.0, "alpha": 0.5},
}
MOST_MILLISECONDS = 1.0


def main() -> None:
    options, images = read_arguments()
    folder = options.output / images.name
    teacher = get_teacher(images, options.recipe, folder)
    few = tuple(values[: options.train_examples] for values in images.train)
    students, recipes = make_students(images), HOW
    if options.smoke:
        students, recipes = ({name: each[name] for name in list(each)[-2:]} for each in (students, recipes))
    result = kd.benchmark(
        students,
        teacher,
        few,
        images.validation,
        images.test,
        recipes,
        options.seeds,
        folder=folder / f"{options.train_examples}-examples-{options.epochs}-epochs",
        compile_arguments=quickstart.supervised(1e-3),
        epochs=options.epochs,
        executor="processes" if options.processes else None,
    )
    print(f"\n{result}\n")
    result.plot_pareto(folder / "pareto.png")
    compare(result, teacher, images, folder)


def make_students(images: kd.data.Images) -> dict[str, keras.Model]:
    """Return students of 1 to 51 thousand parameters (on 28 x 28 x 1), dense and convolutional."""

    def model(name: str, *body: layers.Layer) -> keras.Model:
        return keras.Sequential([layers.Input(images.input_shape), *body, layers.Dense(images.classes)], name=name)

    def separable(filters: int) -> list[layers.Layer]:
        return [
            layers.SeparableConv2D(filters, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
        ]

    return {
        "separable": model("separable", *separable(16), *separable(32), layers.GlobalAveragePooling2D()),
        "convolutional": model(
            "convolutional",
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
        ),
        "dense, 16": model("dense_16", layers.Flatten(), layers.Dense(16, activation="relu")),
        "dense, 64": model("dense_64", layers.Flatten(), layers.Dense(64, activation="relu")),
    }


def compare(result: kd.BenchmarkResult, teacher: keras.Model, images: kd.data.Images, folder: pathlib.Path) -> None:
    """Compare the best run of each student with the teacher, and print which to ship."""
    best = {name: result.best(name) for name in dict.fromkeys(run.student for run in result.runs)}
    models = {"teacher": teacher, **{name: keras.models.load_model(run.path) for name, run in best.items()}}
    exports = {name: export(model, folder / "exports" / name) for name, model in models.items()}
    comparison = kd.compare(
        models,
        images.test,
        exports=exports,
        histories={name: run.history for name, run in best.items()},
        class_names=images.class_names,
        verbose=1,
    )
    print(f"\n{comparison}\n")
    page = folder / "comparison.html"
    comparison.to_html(page)
    print(f"The page: {page}\nPareto plot: {folder / 'pareto.png'}\n")
    print(advice(comparison, {name: run.validation["accuracy"] for name, run in best.items()}))


def export(model: keras.Model, folder: pathlib.Path) -> pathlib.Path:
    """Export into the next free version."""
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    path = folder / str(max(versions, default=0) + 1)
    kd.export(model, path)
    return path


def advice(comparison: kd.Comparison, validation: dict[str, float]) -> str:
    """Return which student to ship: chosen by accuracy on the validation split, reported on test."""
    costs = {name: comparison.costs[name][-1] for name in validation}  # through the exported file
    quick = {name: validation[name] for name, cost in costs.items() if cost.p50_ms <= MOST_MILLISECONDS}
    small = min(costs, key=lambda name: costs[name].parameters)

    def described(name: str) -> str:
        cost = costs[name]
        return (
            f"{name!r}, {cost.parameters:,} parameters, {100 * comparison.quality[name]['accuracy']:.1f} % on test, "
            f"{cost.p50_ms:.2f} ms an image (median)"
        )

    where = f"within {MOST_MILLISECONDS:g} ms an image"
    first = f"{where}: {described(max(quick, key=quick.__getitem__))}" if quick else f"{where}: none of these"
    return f"To ship {first}.\nTo ship as the smallest file: {described(small)}."


def read_arguments() -> tuple[argparse.Namespace, kd.data.Images]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="default: digits; or a name in TensorFlow Datasets")
    parser.add_argument("--train-examples", type=count, help="for the students (default: 100 of digits, or 5000)")
    parser.add_argument("--epochs", type=count, help="of each run (default: 60 on digits, or 10)")
    parser.add_argument("--seeds", type=count, default=3, help="runs of each pair (default: 3)")
    parser.add_argument("--processes", action="store_true", help="side by side, a process for each two cores")
    parser.add_argument("--smoke", action="store_true", help="an epoch of two students, in seconds: does it run?")
    parser.add_argument("--output", type=pathlib.Path, default="runs/compare", help="default: runs/compare")
    options = parser.parse_args()
    options.recipe = RECIPES.get(options.dataset, Recipe())
    if options.smoke:
        options.seeds, options.epochs = 1, 1
        options.recipe = dataclasses.replace(options.recipe, teacher_epochs=1)
        options.output = options.output / "smoke"
    options.train_examples = options.train_examples or options.recipe.train_examples
    options.epochs = options.epochs or (60 if options.dataset == "digits" else 10)
    try:
        return options, kd.data.load(options.dataset)
    except (ValueError, ImportError, ConnectionError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
