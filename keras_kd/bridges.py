"""Layers from the student's feature space to the teacher's. They are trained with the student and never exported."""

import math
from typing import Any

import keras
from keras import ops

from keras_kd._internal import layer_reader
from keras_kd._keras import tensor_origin
from keras_kd._serialization import serializable
from keras_kd._types import Shape, Tensor


def auto(student_shape: Shape, teacher_shape: Shape) -> keras.layers.Layer | None:
    """Return the smallest projection that turns the student's shape into the teacher's.

    A dense layer for vectors and tokens, a 1x1 convolution for maps; before it, where the sizes differ, an average over
    whole cells, a bilinear resizing, or an average over all positions; after it, tokens for a teacher that has tokens.

    Args:
        student_shape: (batch, ..., channels), as of a KerasTensor.
        teacher_shape: (batch, ..., channels).

    Returns:
        A layer made of Keras's own, or None where the shapes are the same.

    Raises:
        ValueError: there is no such projection, as from vectors to maps.

    Example:
        >>> auto((None, 8, 8, 16), (None, 4, 4, 64))  # average over 2x2, then a 1x1 convolution
    """
    if tuple(student_shape[1:]) == tuple(teacher_shape[1:]):
        return None
    channels, ours, theirs = teacher_shape[-1], tuple(student_shape[1:-1]), tuple(teacher_shape[1:-1])
    layers: list[keras.layers.Layer] = []
    if ours != theirs:
        layers += _meet(ours, theirs, student_shape, teacher_shape)
    if student_shape[-1] != channels:
        # On pooled positions and on tokens, a dense layer is the 1x1 convolution.
        layers.append(keras.layers.Dense(channels, name="projection"))
    return keras.Sequential(layers, name="bridge")


def orthogonal(student_shape: Shape, teacher_shape: Shape) -> keras.layers.Layer:
    """Return an `OrthogonalProjection` to the teacher's channels.

    Args:
        student_shape: (batch, ..., channels), as of a KerasTensor.
        teacher_shape: (batch, ..., channels).
    """
    return OrthogonalProjection(teacher_shape[-1])


def _meet(ours: Shape, theirs: Shape, student_shape: Shape, teacher_shape: Shape) -> list[keras.layers.Layer]:
    """Return layers that turn the student's positions into the teacher's."""
    rank = len(ours)
    if not theirs and rank == 1:
        return [keras.layers.GlobalAveragePooling1D()]
    if not theirs and rank == 2:
        return [keras.layers.GlobalAveragePooling2D()]
    if rank == 2 and len(theirs) == 1 and None not in ours:
        side = math.isqrt(theirs[0] or 0)
        if side * side == theirs[0]:
            grid = [] if ours == (side, side) else _meet(ours, (side, side), student_shape, teacher_shape)
            return [*grid, keras.layers.Reshape((side * side, student_shape[-1]))]
    if rank == 2 and len(theirs) == 2 and None not in (*ours, *theirs):
        if all(a % b == 0 for a, b in zip(ours, theirs, strict=True)):
            return [keras.layers.AveragePooling2D(tuple(a // b for a, b in zip(ours, theirs, strict=True)))]
        return [keras.layers.Resizing(*theirs)]
    if rank == 1 and len(theirs) == 1 and None not in (*ours, *theirs) and ours[0] % theirs[0] == 0:
        return [keras.layers.AveragePooling1D(ours[0] // theirs[0])]
    raise ValueError(
        f"bridge=\"auto\" knows no projection from the student's {tuple(student_shape)} to the teacher's "
        f"{tuple(teacher_shape)}. Give a layer of your own as `bridge`, or read other layers; tokens of images are "
        "read as the map of their patches by 'encoder:map'."
    )


@serializable
class AveragedHeads(keras.layers.Layer):
    """Average the student's head for the labels and its head for the teacher, outside of training.

    In training it returns the first, so that the loss on the labels trains that head alone; a term reads the other by
    its name, as in `methods.deit`. Predictions, evaluation and what is exported have the mean of both, as in the
    paper's code. In a vision transformer the heads read two tokens, of the class and of the distillation.

    Example:
        >>> heads = [keras.layers.Dense(10, name=name)(features) for name in ("label_head", "teacher_head")]
        >>> student = keras.Model(inputs, AveragedHeads()(heads))
        >>> distiller = Distiller(student=student, teacher=teacher, terms=methods.deit(("teacher_head", "logits")))

    Reference: Touvron et al., Training Data-Efficient Image Transformers & Distillation Through Attention, 2021,
    arXiv 2012.12877.
    """

    def build(self, shapes: list[Shape]) -> None:
        """Refuse anything but two heads of one shape."""
        if len(shapes) != 2 or tuple(shapes[0]) != tuple(shapes[1]):
            raise ValueError(
                "Expected two heads of one shape, for the labels and for the teacher, as in "
                f"AveragedHeads()([labels, teacher]). Received the shapes {shapes}."
            )

    def call(self, heads: list[Tensor], training: bool = False) -> Tensor:
        """Return the first head in training, the mean of both elsewhere."""
        labels, teacher = heads
        return labels if training else (labels + teacher) / 2.0


@serializable
class OrthogonalProjection(keras.layers.Layer):
    """Average features over positions, and turn them into the teacher's space without stretching any direction (VkD).

    The matrix has orthonormal columns, or rows where the teacher has more channels: angles and lengths of the student's
    features are kept as far as there is room, so that the student, not its bridge, has to learn. It is the Q of the
    decomposition of a trained matrix, whose R has a positive diagonal; the paper's code takes a matrix exponential.

    Args:
        channels: the teacher's.

    Example:
        >>> Term(losses.standardized_huber, at=("top", "encoder:map"), bridge="orthogonal")

    Reference: Miles, Elezi and Deng, VkD: Improving Knowledge Distillation using Orthogonal Projections, 2024,
    arXiv 2403.06213.
    """

    def __init__(self, channels: int, name: str = "orthogonal_projection") -> None:
        super().__init__(name=name, dtype="float32")
        self.channels = channels

    def build(self, shape: Shape) -> None:
        """Make the matrix for the student's channels."""
        ours = shape[-1]
        self.is_wider = self.channels > ours
        size = (max(ours, self.channels), min(ours, self.channels))
        self.kernel = self.add_weight(shape=size, initializer="orthogonal", name="kernel")

    def matrix(self) -> Tensor:
        """Return the projection, (student's channels, teacher's channels)."""
        q, r = ops.qr(ops.convert_to_tensor(self.kernel))
        q = q * ops.where(ops.diagonal(r) < 0, -1.0, 1.0)
        return ops.transpose(q) if self.is_wider else q

    def call(self, features: Tensor) -> Tensor:
        """Return (batch, teacher's channels) for (batch, ..., student's channels)."""
        positions = tuple(range(1, len(features.shape) - 1))
        return ops.matmul(ops.mean(features, axis=positions) if positions else features, self.matrix())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"channels": self.channels, "name": self.name}


@serializable
class ReviewFusion(keras.layers.Layer):
    """Fuse the student's stages from deep to shallow, each in the shape of the teacher's (ReviewKD).

    Stage n is projected to `width` channels, mixed with what has come up from stage n + 1 by two trained maps of
    attention, brought to the teacher's size, and sent through a 3x3 convolution to the teacher's channels. Sizes change
    by nearest neighbour, as in the paper's code: position i of n reads i * size // n. A bridge for a term that reads
    several layers on both sides, shallow first.

    Args:
        channels: the teacher's channels at each stage, shallow first.
        sizes: the teacher's (height, width) at each stage.
        width: channels in between.

    Raises:
        ValueError: not as many sizes as channels.

    Example:
        >>> ReviewFusion(channels=(64, 128), sizes=((14, 14), (7, 7)))

    Reference: Chen et al., Distilling Knowledge via Knowledge Review, 2021, arXiv 2104.09044.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        width: int = 64,
        name: str = "review_fusion",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        if len(channels) != len(sizes):
            raise ValueError(f"Expected as many sizes as channels. Received: channels={channels}, sizes={sizes}")
        self.channels = tuple(channels)
        self.sizes = tuple(tuple(size) for size in sizes)
        self.width = width
        layers = keras.layers
        self.projections = [layers.Conv2D(width, 1, use_bias=False) for _ in channels]
        self.projection_norms = [layers.BatchNormalization() for _ in channels]
        self.attentions = [layers.Conv2D(2, 1, activation="sigmoid") for _ in channels[:-1]]
        self.outputs = [layers.Conv2D(count, 3, padding="same", use_bias=False) for count in channels]
        self.output_norms = [layers.BatchNormalization() for _ in channels]

    def build(self, shapes: tuple[Shape, ...]) -> None:
        """Build every stage for the student's map shapes, shallow first."""
        for stage, shape in enumerate(shapes):
            height, width = self.sizes[stage]
            middle = (shape[0], height, width, self.width)
            self.projections[stage].build(shape)
            self.projection_norms[stage].build((*shape[:-1], self.width))
            self.outputs[stage].build(middle)
            self.output_norms[stage].build((*middle[:-1], self.channels[stage]))
            if stage < len(self.attentions):
                self.attentions[stage].build((*middle[:-1], 2 * self.width))

    def call(self, maps: tuple[Tensor, ...], training: bool | None = None) -> tuple[Tensor, ...]:
        """Return one map per stage, in the shapes of the teacher's, shallow first."""
        fused: list[Tensor] = []
        deeper = None
        for stage in reversed(range(len(self.channels))):
            x = self.projection_norms[stage](self.projections[stage](maps[stage]), training=training)
            if deeper is not None:
                deeper = _nearest(deeper, ops.shape(x)[1:3])
                share = self.attentions[stage](ops.concatenate([x, deeper], axis=-1))
                x = x * share[..., :1] + deeper * share[..., 1:]
            deeper = _nearest(x, self.sizes[stage])
            fused.insert(0, self.output_norms[stage](self.outputs[stage](deeper), training=training))
        return tuple(fused)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"channels": self.channels, "sizes": self.sizes, "width": self.width, "name": self.name}


def _nearest(maps: Tensor, size: Shape) -> Tensor:
    """Resize maps by nearest neighbour: position i reads floor(i * old / new); Keras's reads half a position later."""
    for axis, new in zip((1, 2), size, strict=True):
        old = ops.shape(maps)[axis]
        if maps.shape[axis] is None or old != new:
            maps = ops.take(maps, ops.arange(new, dtype="int32") * old // new, axis=axis)
    return maps


def with_teacher_classifier(
    student: keras.Model, teacher: keras.Model, at: tuple[str, str], projection: str = "sim_projection"
) -> keras.Model:
    """Put the teacher's own classifier on top of the student's features (SimKD).

    The features of one of the student's layers are projected to the shape of one of the teacher's, and what the teacher
    does after that layer is done to them, by frozen copies of its layers. The result is a plain Keras model, to be
    trained with `methods.sim` and exported as it is.

    Args:
        student: a Functional or Sequential model; its layers up to the one named are used, not copied.
        teacher: a Functional or Sequential model; after the layer named it is a plain chain of layers.
        at: (student layer, teacher layer).
        projection: name of the projected features, which `methods.sim` reads.

    Returns:
        A model from the student's inputs to the teacher's outputs.

    Raises:
        ValueError: a name that is not a layer; a teacher that is no chain after its layer.

    Example:
        >>> student = with_teacher_classifier(small, teacher, at=("features", "features"))

    Reference: Chen et al., Knowledge Distillation with the Reused Teacher Classifier, 2022, arXiv 2203.14001.
    """
    graph, [source] = layer_reader.layer_outputs(student, (at[0],), "student")
    target_graph, [target] = layer_reader.layer_outputs(teacher, (at[1],), "teacher")
    bridge = auto(source.shape, target.shape)
    x = source if bridge is None else bridge(source)
    x = keras.layers.Identity(name=projection)(x)
    for layer in _after(target_graph, target, at[1]):
        copy = type(layer).from_config(layer.get_config())
        x = copy(x)
        copy.set_weights(layer.get_weights())
        copy.trainable = False
    return keras.Model(graph.input, x, name=f"{student.name}_sim")


def _after(graph: Any, tensor: Any, name: str) -> list[keras.layers.Layer]:
    """Return the chain of layers from `tensor` to the output of a graph."""
    chain: list[keras.layers.Layer] = []
    current = graph.outputs[0]
    while current is not tensor:
        layer, _, inputs = tensor_origin.producer(current)
        if len(inputs) != 1:
            raise ValueError(
                f"Expected a plain chain of layers after {name!r} in the teacher. {layer.name!r} takes {len(inputs)} "
                "inputs. Name a later layer."
            )
        chain.insert(0, layer)
        current = inputs[0]
    return chain
