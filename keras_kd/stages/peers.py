"""Models that learn from each other, or from themselves, in one step."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import tree

from keras_kd import losses
from keras_kd._internal import layer_reader
from keras_kd._types import Tensors
from keras_kd.distiller import Distiller
from keras_kd.stages.pipeline import Pipeline, Record, fresh_metric
from keras_kd.teachers import SelfTeacher
from keras_kd.term import Term


def mutual(
    students: Sequence[keras.Model],
    *,
    compile_arguments: dict[str, Any],
    fit_arguments: dict[str, Any],
    folder: Any = None,
    seed: int = 0,
) -> tuple[list[keras.Model], Record]:
    """Let peers learn from the labels and from each other, in one step and without gradients between them.

    Each peer's share: (1 - alpha) * its loss on the labels + alpha * the mean over the others of its KL from them. The
    paper's T is 1 and its alpha 0.5.

    Args:
        students: two or more models with the same inputs and classes, of one output each.
        compile_arguments: see the module.
        fit_arguments: see the module.
        folder: see the module.
        seed: see the module.

    Returns:
        The trained students, and the record of one stage; its model has all of them, as outputs "peer_1", "peer_2"...

    Raises:
        ValueError: fewer than two students, or without a graph.

    Example:
        >>> (first, second), record = mutual([first, second], compile_arguments=..., fit_arguments=...)

    Reference: Zhang et al., Deep Mutual Learning, 2017, arXiv 1706.00384.
    """
    if len(students) < 2:
        raise ValueError(f"Expected at least two students. Received: {list(students)!r}")
    names = [f"peer_{number}" for number in range(1, len(students) + 1)]
    graphs = [graph_of(student, "students") for student in students]
    # A model of the same layers under another name: peers made by one function have one name.
    peers = [keras.Model(graph.input, graph.output, name=name) for name, graph in zip(names, graphs, strict=True)]
    inputs = like_inputs(graphs[0])
    both = keras.Model(inputs, {name: peer(inputs) for name, peer in zip(names, peers, strict=True)}, name="peers")
    terms = [
        Term(losses.kl_divergence, at=(ours, theirs), weight=1.0 / (len(names) - 1), name=f"{ours}_from_{theirs}")
        for ours in names
        for theirs in names
        if ours != theirs
    ]
    pipeline = Pipeline(compile_arguments, fit_arguments, folder, seed)
    _run_outputs(pipeline, both, names, terms, "each other")
    return list(students), pipeline.record


def self_distillation(
    student: keras.Model,
    exits: Sequence[str],
    *,
    compile_arguments: dict[str, Any],
    fit_arguments: dict[str, Any],
    hint_weight: float = 0.0,
    folder: Any = None,
    seed: int = 0,
) -> tuple[keras.Model, Record]:
    """Attach early exits to layers of the student and let them learn from its own output (BYOT).

    Each exit is a global average and a dense layer; it learns from the labels and from the last output. All parts of
    the student become better for it. The paper's T is 3 and its alpha 0.3.

    Args:
        student: a Functional or Sequential model with one output of logits.
        exits: names of its layers.
        compile_arguments: see the module.
        fit_arguments: see the module.
        hint_weight: weight of the squared error between an exit's features and the last exit's, through a projection;
            0 leaves it out.
        folder: see the module.
        seed: see the module.

    Returns:
        The trained student, without exits, and the record of one stage; its model has them, as outputs "exit_1"... and
        "final". Either can be exported.

    Raises:
        ValueError: no exits, a layer that is not there, a student without a graph.

    Example:
        >>> student, record = self_distillation(student, ["pool_1"], compile_arguments=..., fit_arguments=...)
        >>> export(record[0].model, "student_with_exits/1")

    Reference: Zhang et al., Be Your Own Teacher, 2019, arXiv 1905.08094.
    """
    if not exits:
        raise ValueError("Expected `exits` to name at least one layer of the student. Received none.")
    pipeline = Pipeline(compile_arguments, fit_arguments, folder, seed)
    pipeline.next_seed()
    with_exits, names, features = _with_exits(student, exits)
    terms = [Term(losses.kl_divergence, at=(name, "final"), name=f"{name}_from_final") for name in names]
    if hint_weight:
        terms += [
            Term(
                losses.squared_error, at=(each, features[-1]), bridge="auto", weight=hint_weight, name=f"hint_{number}"
            )
            for number, each in enumerate(features[:-1], start=1)
        ]
    _run_outputs(pipeline, with_exits, [*names, "final"], terms, "its last output")
    return student, pipeline.record


def graph_of(model: keras.Model, what: str) -> Any:
    """Return the graph of a built Functional or Sequential model, or raise an error where there is none."""
    graph = layer_reader.functional(model)
    if graph is None:
        raise ValueError(f"Expected {what} to be built Functional or Sequential models. Received: {model!r}")
    return graph


def like_inputs(graph: Any) -> Tensors:
    """Return fresh inputs like those of a graph."""
    return tree.map_structure(lambda each: keras.Input(each.shape[1:], dtype=each.dtype, name=each.name), graph.input)


#: What brings features of a rank to one vector per example.
_AVERAGES = {
    3: keras.layers.GlobalAveragePooling1D,
    4: keras.layers.GlobalAveragePooling2D,
    5: keras.layers.GlobalAveragePooling3D,
}


def _with_exits(student: keras.Model, exits: Sequence[str]) -> tuple[keras.Model, list[str], list[str]]:
    """Return the student with exits as outputs, their names, and the names of the features that they read."""
    graph, read = layer_reader.layer_outputs(student, tuple(exits), "student")
    outputs, features = {}, []
    for number, x in enumerate(read, start=1):
        if len(x.shape) in _AVERAGES:
            x = _AVERAGES[len(x.shape)]()(x)
        x = keras.layers.Identity(name=f"exit_{number}_features")(x)
        features.append(f"exit_{number}_features")
        outputs[f"exit_{number}"] = keras.layers.Dense(graph.output.shape[-1], name=f"exit_{number}_logits")(x)
    outputs["final"] = graph.output
    return keras.Model(graph.input, outputs, name=f"{student.name}_with_exits"), list(outputs)[:-1], features


def _run_outputs(pipeline: Pipeline, model: keras.Model, names: list[str], terms: list[Term], teacher: str) -> None:
    """Train a model whose outputs all learn from the same labels."""

    def prepare(arguments: dict[str, Any]) -> dict[str, Any]:
        loss, metrics = arguments.get("loss"), arguments.get("metrics")
        for_each = None if metrics is None else {name: tree.map_structure(fresh_metric, metrics) for name in names}
        return {**arguments, "loss": loss and dict.fromkeys(names, loss), "metrics": for_each}

    def label(y: Tensors) -> Tensors:
        return dict.fromkeys(names, y)

    distiller = Distiller(student=model, teacher=SelfTeacher(), terms=terms)
    pipeline.run(model, teacher, distiller, prepare=prepare, label=label)
