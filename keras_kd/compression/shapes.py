"""The shapes of a model that `compress` tries: how wide, and with how many blocks."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from keras_kd._internal.files import readable, replace
from keras_kd._keras import layer_tree
from keras_kd.compression.limits import Limits
from keras_kd.pruning import find_blocks, recalibrate
from keras_kd.pruning.prepared_model import PreparedModel
from keras_kd.pruning.pruner import prepare, prune_prepared


class Shape(NamedTuple):
    """What `prune` is given.

    Attributes:
        name: for tables and folders.
        budget: arguments of `prune`; none for the model as it is.
        blocks: how many residual blocks are left out.
        is_least: whether it is as large as a limit of size allows.
    """

    name: str
    budget: dict[str, Any]
    blocks: int = 0
    is_least: bool = False


class Pruned(NamedTuple):
    """A model of a shape.

    Attributes:
        shape: see `Shape`.
        model: with the weights that are left.
        multiplications: for one example.
    """

    shape: Shape
    model: keras.Model
    multiplications: float


def shapes_of(teacher: keras.Model, limits: Limits, widths: Sequence[float]) -> list[Shape]:
    """Return the shapes to try: as large as each limit allows, once with a block less, and parts of the teacher."""
    found = []
    for budget in limits.budgets():
        (what,) = budget
        found.append(Shape(f"all {what.replace('_', ' ')}", budget, is_least=True))
        if find_blocks(teacher):
            found.append(Shape(f"all {what.replace('_', ' ')}, a block less", budget, 1, is_least=True))
    return [*found, *(Shape(f"{width:.0%} of multiplications", {"multiplications": width}) for width in widths)]


def pruned(teacher: keras.Model, shapes: Sequence[Shape], folder: pathlib.Path, how: dict[str, Any]) -> list[Pruned]:
    """Return a model of each shape that fits, the widest first; those that are there are read back.

    Parts of the teacher that have more multiplications than a limit allows are left out.

    Args:
        teacher: what is pruned.
        shapes: see `shapes_of`.
        folder: where to keep them.
        how: "importance", "data" and "round_to" of `prune`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare(teacher, how["importance"], how["data"])
    found = [_one(prepared, shape, folder, how) for shape in shapes]
    most = min((each.multiplications for each in found if each.shape.is_least and not each.shape.blocks), default=None)
    fitting = [each for each in found if each.shape.is_least or most is None or each.multiplications < most]
    return sorted(fitting, key=lambda each: -each.multiplications)


def _one(prepared: PreparedModel, shape: Shape, folder: pathlib.Path, how: dict[str, Any]) -> Pruned:
    path, record = folder / f"{shape.name}.keras", folder / f"{shape.name}.json"
    if not record.exists():
        model, report = prune_prepared(prepared, shape.budget, shape.blocks, how["round_to"])
        replace(path, recalibrate(model, how["data"]).save)
        content = {"multiplications": report.multiplications[1]}
        replace(record, lambda partial: partial.write_text(json.dumps(content)))
    with readable(record, f"Remove {str(folder)!r}, and the model is pruned again."):
        return Pruned(shape, load(path, prepared.model), json.loads(record.read_text())["multiplications"])


def load(path: pathlib.Path, teacher: keras.Model) -> keras.Model:
    """Return a model of a file, which has the teacher's classes."""
    own = {each.__name__: each for each in layer_tree.custom_classes(teacher)}
    with readable(path, "Remove its folder, and it is made again."):
        return keras.saving.load_model(path, custom_objects=own, compile=False)
