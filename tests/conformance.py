"""Print how far every loss and transform is from its float64 NumPy reference, as a Markdown table.

    TF_CPP_MIN_LOG_LEVEL=3 python -m tests.conformance > tests/CONFORMANCE.md

One CPU, about a minute. tests/test_conformance.py checks that the page lists what the library has.
"""

import inspect
from collections.abc import Callable, Iterator

import numpy as np

from keras_kd import losses, transforms
from tests.goldens import (
    LOSSES,
    TRANSFORMS,
    Golden,
    Transform,
    deviation,
    deviation_of_many_classes,
    doubled,
    finite_differences,
    ours_and_gradient,
)

HEAD = """# Conformance

Written by `python -m tests.conformance`: do not edit. Each loss is compared with a float64 NumPy reference that was
written from its paper (`tests/references.py`), over the shapes and arguments of `tests/goldens.py`, in eager float32.

- value: largest deviation over all cases, relative to the largest value of the case;
- gradient: the same for the gradient with respect to the student, against central finite differences of the reference.
  `tests/test_losses_all.py` fails above 1e-5;
- many classes: the same for the losses on logits with 1,000 and 32,000 classes, near the ends of their arguments' range
  too, for logits that are far apart (of standard deviation 6) and nearly equal (of 3, and 0.3 apart); the gradient at
  the classes where it is largest, and at some others;
- needs: L logits, F features, M maps, Y labels, A a bridge or trained weights of its own;
- p, q: softmax of teacher and student, which `Term` has divided by T; its T**2 is not part of the expression.

"""
COLUMNS = ("Loss", "Methods", "Expression per example", "Paper", "Needs", "Defaults")
MEASURED = ("Value", "Gradient", "Value, many classes", "Gradient, many classes")


def main() -> None:
    """Print the page."""
    print(HEAD + "\n".join(line((*row, *measured)) for row, measured in rows()))


def rows() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return what is known, and what is measured, of each line of the table."""
    yield COLUMNS, MEASURED
    yield ("---",) * len(COLUMNS), ("---:",) * len(MEASURED)
    for golden in LOSSES:
        yield of_loss(golden), (*measure(golden.cases()), *measure_many_classes(golden))
    for transform in TRANSFORMS:
        yield of_transform(transform), (*measure(cases(transform)), "", "")


def known_rows() -> list[tuple[str, ...]]:
    """Return the table without what is measured."""
    return [*map(of_loss, LOSSES), *map(of_transform, TRANSFORMS)]


def line(cells: tuple[str, ...]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def of_loss(golden: Golden) -> tuple[str, ...]:
    """Return what is known of a loss."""
    methods = ", ".join(f"`{method}`" for method in golden.methods)
    expression = f"`{golden.formula}`" + (", of the whole batch" if golden.scalar else "")
    return f"`{golden.name}`", methods, expression, golden.paper, golden.needs, defaults(golden.loss)


def of_transform(transform: Transform) -> tuple[str, ...]:
    """Return what is known of a transform."""
    function = getattr(transforms, transform.name)
    return f"`transforms.{transform.name}`", "", f"`{transform.formula}`", transform.paper, "L", defaults(function)


def defaults(function: Callable) -> str:
    """Return the arguments that have a default."""
    found = inspect.signature(function).parameters.values()
    return ", ".join(f"{p.name}={p.default}" for p in found if p.default is not p.empty and p.name != "name")


def cases(transform: Transform) -> list[tuple]:
    """Return a transform as if it were a loss."""
    found = []
    for seed, shape in enumerate(transform.shapes):
        x = (1.5 * np.random.default_rng(seed).normal(size=shape)).astype("float32")
        found.append((lambda x, *_: transform.call(x), lambda x, *_: transform.reference(x), (x, x, None)))
    return found


def measure(found: list[tuple]) -> tuple[str, str]:
    """Return the largest deviations of value and gradient."""
    values, gradients = [], []
    for ours, reference, inputs in found:
        expected = reference(*doubled(inputs))
        cotangent = np.random.default_rng(5).uniform(0.5, 1.5, np.shape(expected)).astype("float32")
        received, gradient = ours_and_gradient(ours, inputs, cotangent)
        slopes = finite_differences(reference, inputs, cotangent)
        values.append(deviation(received, expected))
        flat = max(np.max(np.abs(each)) for each in slopes) if isinstance(slopes, tuple) else np.max(np.abs(slopes))
        # Where the gradient is 0 by itself (two standardised logits), there is nothing to be relative to.
        gradients.append(deviation(gradient, slopes) if flat > 1e-6 else float(np.max(np.abs(gradient - slopes))))
    return f"{max(values):.0e}", f"{max(gradients):.0e}"


def measure_many_classes(golden: Golden) -> tuple[str, str]:
    """Return the largest deviations of value and gradient with many classes, or nothing where there are none."""
    if not golden.compares_distributions:
        return "", ""
    found = [deviation_of_many_classes(case, step=golden.step) for case in golden.cases_of_many_classes()]
    values, gradients = zip(*found, strict=True)
    return f"{max(values):.0e}", f"{max(gradients):.0e}"


def public_losses() -> set[str]:
    """Return the names of keras_kd.losses."""
    return {name for name, v in vars(losses).items() if getattr(v, "__module__", "").startswith("keras_kd.losses.")}


if __name__ == "__main__":
    main()
