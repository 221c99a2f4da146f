"""Targets that travel with the examples: what a teacher predicts for them, beside the inputs.

A teacher that is not run in the step has been run before: by a `TeacherCache`, by `teachers.InMemory`, or by somebody
else. The targets are joined to each example's x before any shuffle, so that nothing that happens to a dataset
afterwards can separate the two.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from keras import ops, tree

from keras_kd._internal import raw_views
from keras_kd._internal.ensemble_logits import Mixture
from keras_kd._internal.sparse_targets import SparseTarget, expanded, expanded_members, places
from keras_kd._keras import masks
from keras_kd._types import Tensor, Tensors, Tree

#: An empty entry among the targets whose name begins so identifies their cache.
MARK = "cache:"

#: What is stored under one name, by part: numbers, indices, masks.
Parts = dict[str, Tensor]

#: The part of the classes that a top-k target keeps carries their number in its name: no tensor could, in a graph.
_INDICES = "indices_of_"

#: The largest number that float16 holds.
_LARGEST_HALF = 65504.0

#: Logits, each as its distance to the largest, and behind them, in two entries whose sum it is, the largest.
_CENTRED = "centred"

#: The parts that hold what a teacher has computed.
NUMBERS = ("values", _CENTRED, "log_probabilities")

#: Heads whose outputs are read as they are, not up to a constant that softmax does not see.
_ABSOLUTE = ("sigmoid", "values")


class Joined(NamedTuple):
    """An x that carries more for each example: a teacher's targets, and columns. `fit` takes it for x.

    A cache makes it. Made by hand, it holds targets of any origin, in the order of x, under `teachers.Cached`; a
    dataset whose elements have no y yields `(Joined(x, targets),)`, as a bare pair would be taken for x and y. Columns
    go with any teacher; no model reads them. Those of examples that a cache joins are kept.

    Attributes:
        inputs: what the student is fed, or raw examples of which it makes that.
        targets: by name, logits or features, (batch, ...): an array, a DataFrame with a column for each class, or what
            `targets.TopK` returns; the names are those that the terms read.
        columns: by name, one whole number for each example, (batch,), such as where it comes from: `Term(rows=...)`
            chooses examples by it.

    Example:
        >>> x = kd.Joined(x, {"logits": probabilities_from_elsewhere})
        >>> kd.Distiller(student=student, teacher=kd.teachers.Cached(head="softmax"))
        >>> x = kd.Joined(x, columns={"source": source})
        >>> kd.Term(kd.losses.reverse_kl, rows={"source": 0})
    """

    inputs: Tensors
    targets: dict[str, Any] = {}
    columns: dict[str, Any] = {}


def inputs(x: Tensors) -> Tensors:
    """Return what the student is fed: x without what it may carry: targets, columns and the views of teachers."""
    return raw_views.of_student(without_targets(x))


def without_targets(x: Tensors) -> Tensors:
    """Return x without the targets and columns that it may carry."""
    return x.inputs if isinstance(x, Joined) else x


def have_targets(x: Any) -> TypeGuard[Joined]:
    """Return whether x carries targets."""
    return isinstance(x, Joined) and not (isinstance(x.targets, dict) and not x.targets)


def columns(x: Tensors) -> dict[str, Any]:
    """Return the columns that x may carry."""
    return x.columns if isinstance(x, Joined) else {}


def with_targets(x: Tensors, targets: dict[str, Any]) -> Joined:
    """Return x with targets, and the columns that it may carry."""
    return Joined(without_targets(x), targets, columns(x))


def with_columns(x: Tensors, columns: dict[str, Any]) -> Tensors:
    """Return x with columns, if there are any, and the targets that it may carry."""
    if not columns:
        return x
    return x._replace(columns=columns) if isinstance(x, Joined) else Joined(x, columns=columns)


def map_inputs(function: Callable[[Tensors], Tensors], x: Tensors) -> Tensors:
    """Apply a function to x, and leave the targets and columns that it may carry."""
    return x._replace(inputs=function(x.inputs)) if isinstance(x, Joined) else function(x)


def count(x: Any) -> int:
    """Return the number of examples in arrays or in a batch; an optional input may be None."""
    return len(next(leaf for leaf in tree.flatten(inputs(x)) if leaf is not None))


def map_arrays(function: Callable[[Any], Any], x: Tree) -> Tree:
    """Apply a function to each array, and leave None where an optional input is not given."""
    return tree.map_structure(lambda leaf: None if leaf is None else function(leaf), x)


def are_in(dataset: Any) -> bool:
    """Return whether the elements of a tf.data.Dataset carry targets."""
    spec = dataset.element_spec
    return isinstance(spec, tuple) and not isinstance(spec, Joined) and have_targets(spec[0])


def encode(output: Any, kind: str, top_k: int | None, dtype: str) -> Parts:
    """Return what a teacher outputs under one name as the parts that are stored, (batch, ...) each.

    In float32, logits are stored as they are. In float16, those of a softmax are stored as distances to the largest,
    and the largest with the precision of float32: a class that is likely is rounded least, whatever constant the
    teacher adds to all of them, and the logits that are read back are still the teacher's, for terms that read them as
    they are. With `top_k`, the parts are the logarithms of the k largest probabilities at T = 1, their classes, and the
    logarithm of the mass of all others. An ensemble's are those of its members, (batch, members, ...).

    Args:
        output: logits or features, (batch, ...), a `Mixture` of logits, or a `SparseTarget`, of which `top_k` named
            classes are kept, or all that it names.
        kind: their head, see `heads.KINDS`. Features and values are "values"; all else saturates: what is too large for
            float16 becomes the largest that it holds. "sigmoid" has a meaning for each label alone and is not centred.
        top_k: number of classes to keep of logits, or None.
        dtype: "float32" or "float16", of what is stored; "packed" for a top-k target that will be packed.
    """
    if dtype == "packed":
        dtype = "float16" if top_k is None or kind == "values" else "float32"
    parts: Parts = {}
    mask = masks.of(output)
    if mask is not None:
        parts["mask"] = ops.cast(mask, "bool")
    if isinstance(output, SparseTarget):
        return {**parts, **_of_named(output, top_k, dtype)}
    if isinstance(output, Mixture):
        parts["log_weights"] = _spread(output)
        output = ops.stack([ops.cast(each, "float32") for each in output.logits], axis=1)
    output = ops.cast(output, "float32")
    if top_k is None or kind == "values":
        has_classes = len(output.shape) > 1 and output.shape[-1] != 1
        if dtype == "float16" and has_classes and kind not in _ABSOLUTE:
            parts[_CENTRED] = _centred(output)
        else:
            parts["values"] = _narrowed(output, dtype, kind != "values")
        return parts
    logarithms = ops.log_softmax(output, axis=-1)
    largest, indices = ops.top_k(logarithms, top_k)
    classes = output.shape[-1]
    tail = _narrowed(_log_rest(logarithms, indices), dtype, True) if top_k < classes else None
    indices = ops.cast(indices, index_type(classes))
    return {**parts, **of_largest(_narrowed(largest, dtype, True), indices, tail, classes)}


def of_largest(log_probabilities: Any, indices: Any, log_tail: Any, classes: int) -> dict[str, Any]:
    """Return the parts of a top-k target.

    Args:
        log_probabilities: of the classes that are kept, (..., k).
        indices: these classes, each once in a row, (..., k).
        log_tail: the logarithm of the mass of all others, (...); not read where there are none.
        classes: how many there are.
    """
    tail = {"log_tail": log_tail} if indices.shape[-1] < classes else {}
    return {"log_probabilities": log_probabilities, part_of_indices(classes): indices, **tail}


def part_of_indices(classes: int) -> str:
    """Return the name of the part that holds the classes of a top-k target, with how many there are."""
    return f"{_INDICES}{classes}"


def decode(stored: Parts, tail: str | None = None) -> Any:
    """Return logits or features from their parts, in float32; of an ensemble a `Mixture`.

    Args:
        stored: see `encode`.
        tail: one of `sparse_targets.TAILS`, for a `SparseTarget` of a top-k target; None for logits of all classes,
            with an even rest.

    Raises:
        ValueError: members of an ensemble whose rest is a bucket.
    """
    if "values" in stored or _CENTRED in stored:
        output: Any = numbers(stored)
    else:
        name = _indices(stored)
        rest = ops.cast(stored["log_tail"], "float32") if "log_tail" in stored else None
        output = SparseTarget(stored[name], numbers(stored), rest, _classes(name), tail or "spread")
        output = expanded(output) if tail is None else output
    if "log_weights" in stored:
        [output] = expanded_members([output])
        members = tuple(output[:, m] for m in range(output.shape[1]))
        return Mixture(members, stored["log_weights"])
    if "mask" in stored:
        masks.put(output, stored["mask"])
    return output


def numbers(stored: Parts) -> Tensor:
    """Return what a teacher has computed as it is stored, without the classes of a top-k target, in float32."""
    if _CENTRED in stored:
        return _with_offset(stored[_CENTRED])
    return ops.cast(stored["values" if "values" in stored else "log_probabilities"], "float32")


def shape(stored: Parts) -> tuple[int, ...]:
    """Return the shape of one example's logits or features, of which `stored` has the parts, (batch, ...) each."""
    if "values" in stored:
        found = tuple(stored["values"].shape[1:])
    elif _CENTRED in stored:
        *found, classes = stored[_CENTRED].shape[1:]
        found = (*found, classes - 2)
    else:
        name = _indices(stored)
        found = (*stored[name].shape[1:-1], _classes(name))
    return found[1:] if "log_weights" in stored else found


def index_type(classes: int) -> str:
    """Return the smallest type that can name a number of classes."""
    return "uint8" if classes <= 2**8 else "uint16" if classes <= 2**16 else "int32"


def nbytes(targets: Any) -> int:
    """Return the memory that targets take."""
    return sum(np.asarray(each).nbytes for each in tree.flatten(targets))


def _spread(mixture: Mixture) -> Tensor:
    """Return weights of the members for each example, of the rank of one member's logits."""
    logits = mixture.logits[0]
    weights = ops.cast(mixture.log_weights, "float32")
    if len(weights.shape) == len(logits.shape):
        return weights
    shape = (ops.shape(logits)[0], *[1] * (len(logits.shape) - 2), len(mixture.logits))
    return ops.broadcast_to(weights, shape)


def _narrowed(values: Tensor, dtype: str, is_output: bool) -> Tensor:
    if dtype == "float16" and is_output:
        values = ops.clip(values, -_LARGEST_HALF, _LARGEST_HALF)
    return ops.cast(values, dtype)


def _centred(logits: Tensor) -> Tensor:
    """Return logits in float16, (..., classes + 2), see `_CENTRED`; the sum of two float16 has 22 bits."""
    offset = ops.clip(ops.max(logits, axis=-1, keepdims=True), -_LARGEST_HALF, _LARGEST_HALF)
    high = ops.cast(offset, "float16")
    low = ops.cast(offset - ops.cast(high, "float32"), "float16")
    return ops.concatenate([_narrowed(logits - offset, "float16", True), high, low], axis=-1)


def _with_offset(centred: Tensor) -> Tensor:
    wide = ops.cast(centred, "float32")
    return wide[..., :-2] + (wide[..., -2:-1] + wide[..., -1:])


def _log_rest(logarithms: Tensor, indices: Tensor) -> Tensor:
    """Return the logarithm of the probability of all classes but some, exact where it is tiny: not log(1 - sum)."""
    flat, columns = (ops.reshape(each, (-1, each.shape[-1])) for each in (logarithms, indices))
    named = places(ops.cast(columns, "int32"))
    nothing = ops.broadcast_to(ops.convert_to_tensor(float("-inf"), "float32"), ops.shape(named)[:1])
    rest = ops.logsumexp(ops.scatter_update(flat, named, nothing), axis=-1)
    return ops.reshape(rest, ops.shape(logarithms)[:-1])


def _of_named(target: SparseTarget, top_k: int | None, dtype: str) -> Parts:
    """Return the parts of a target with fewer of the classes that it names: the others count with the rest."""
    names = int(target.ids.shape[-1])
    kept = names if top_k is None else top_k
    logarithms, order = ops.top_k(target.log_probabilities, names)
    indices = ops.take_along_axis(ops.cast(target.ids, "int32"), order, axis=-1)[..., :kept]
    others = [] if target.log_tail is None else [target.log_tail[..., None]]
    rest = [logarithms[..., kept:], *others] if kept < names else others
    tail = ops.logsumexp(ops.concatenate(rest, axis=-1), axis=-1) if rest else None
    indices = ops.cast(indices, index_type(target.classes))
    tail = None if tail is None else _narrowed(tail, dtype, True)
    return of_largest(_narrowed(logarithms[..., :kept], dtype, True), indices, tail, target.classes)


def _indices(stored: Parts) -> str:
    found = [part for part in stored if part.startswith(_INDICES)]
    if not found:
        raise ValueError(
            f"Expected targets made by a cache or by targets.TopK, or tensors by name. Received the parts "
            f'{sorted(stored)}. Join your own as keras_kd.Joined(x, {{"logits": logits}}).'
        )
    return found[0]


def _classes(part: str) -> int:
    return int(part.removeprefix(_INDICES))
