"""The networks of the papers' tables on CIFAR-100, as the code of CRD and DKD has them, for images of 32 x 32 x 3.

Each ends in logits, and has the layers "stage_1" to "stage_3", maps of 32, 16 and 8 pixels a side (16, 8 and 4 in a
ShuffleNet), and "pooled", the features that the classifier reads. Padding, initial weights and the statistics of batch
normalisation are those of PyTorch, in which they were published.

Reference: Tian, Krishnan and Isola, Contrastive Representation Distillation, 2019, arXiv 1910.10699, and its code,
github.com/HobbitLong/RepDistiller.
"""

from collections.abc import Callable

import keras
from keras import initializers, layers

INPUT_SHAPE = (32, 32, 3)

#: Of the residual networks: a normal distribution of variance 2 / (outputs of a filter).
HE = initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
#: PyTorch's own for convolutions and dense layers: uniform up to 1 / sqrt(inputs of a filter).
TORCH = initializers.VarianceScaling(1 / 3, "fan_in", "uniform")

Initializer = initializers.Initializer


def convolved(x, filters: int, size: int, stride: int = 1, init: Initializer = HE):
    """Convolve without a bias, with size // 2 pixels of padding on each side, as in PyTorch."""
    if size > 1 and stride > 1:  # "same" would pad on one side alone
        x = layers.ZeroPadding2D(size // 2)(x)
        return layers.Conv2D(filters, size, stride, use_bias=False, kernel_initializer=init)(x)
    return layers.Conv2D(filters, size, stride, "same", use_bias=False, kernel_initializer=init)(x)


def depthwise(x, stride: int):
    """Convolve each channel by 3 x 3 of its own."""
    init = initializers.RandomUniform(-1 / 3, 1 / 3)  # TORCH, of the nine inputs of a filter
    x = layers.ZeroPadding2D(1)(x)
    return layers.DepthwiseConv2D(3, stride, use_bias=False, depthwise_initializer=init)(x)


def normed(x, relu: bool = True):
    """Normalise by the statistics of the batch, and apply ReLU."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x) if relu else x


def classified(name: str, inputs, x, classes: int, bias: str | None = None) -> keras.Model:
    """Return the network with its average over positions and its classifier."""
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    width = x.shape[-1]
    bound = width**-0.5
    start = bias or initializers.RandomUniform(-bound, bound)
    outputs = layers.Dense(classes, kernel_initializer=TORCH, bias_initializer=start, name="logits")(x)
    return keras.Model(inputs, outputs, name=name)


def resnet(name: str, depth: int, widths: tuple[int, int, int, int], classes: int) -> keras.Model:
    """Return a residual network of 6 n + 2 layers (He et al., 2015, arXiv 1512.03385)."""
    inputs = keras.Input(INPUT_SHAPE)
    x = normed(convolved(inputs, widths[0], 3))
    for stage, filters in enumerate(widths[1:], start=1):
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if stride > 1 or x.shape[-1] != filters:
                shortcut = normed(convolved(x, filters, 1, stride), relu=False)
            x = normed(convolved(x, filters, 3, stride))
            x = layers.Add()([normed(convolved(x, filters, 3), relu=False), shortcut])
            x = layers.ReLU(name=f"stage_{stage}" if block == (depth - 2) // 6 - 1 else None)(x)
    return classified(name, inputs, x, classes)


def wide_resnet(name: str, depth: int, factor: int, classes: int) -> keras.Model:
    """Return a wide residual network of 6 n + 4 layers (Zagoruyko and Komodakis, 2016, arXiv 1605.07146)."""
    inputs = keras.Input(INPUT_SHAPE)
    x = convolved(inputs, 16, 3)
    blocks = (depth - 4) // 6
    for stage, filters in enumerate((16 * factor, 32 * factor, 64 * factor), start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            before = normed(x)
            shortcut = x if x.shape[-1] == filters else convolved(before, filters, 1, stride)
            inner = convolved(normed(convolved(before, filters, 3, stride)), filters, 3)
            x = layers.Add(name=f"stage_{stage}" if block == blocks - 1 else None)([shortcut, inner])
    return classified(name, inputs, normed(x), classes, bias="zeros")


def shuffled(x, groups: int):
    """Deal the channels of each group out to all groups."""
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height, width, groups, channels // groups))(x)
    return layers.Reshape((height, width, channels))(layers.Permute((1, 2, 4, 3))(x))


def grouped(x, filters: int, groups: int):
    """Convolve by 1 x 1 within each group of channels; Keras's `groups` has no gradient on processors."""
    width = x.shape[-1] // groups
    parts = [x[..., start : start + width] for start in range(0, x.shape[-1], width)]
    found = [convolved(part, filters // groups, 1, init=TORCH) for part in parts]
    return layers.Concatenate()(found) if groups > 1 else found[0]


def shuffle_v1(classes: int) -> keras.Model:
    """Return ShuffleNet of three groups (Zhang et al., 2017, arXiv 1707.01083)."""
    inputs = keras.Input(INPUT_SHAPE)
    x = normed(convolved(inputs, 24, 1, init=TORCH))
    for stage, (filters, blocks) in enumerate(((240, 4), (480, 8), (960, 4)), start=1):
        for block in range(blocks):
            halves = block == 0
            new = filters - x.shape[-1] if halves else filters
            groups = 1 if stage == 1 and halves else 3
            inner = normed(grouped(x, new // 4, groups))
            inner = shuffled(inner, groups) if groups > 1 else inner
            inner = normed(depthwise(inner, 2 if halves else 1))
            inner = normed(grouped(inner, new, 3), relu=False)
            if halves:
                x = layers.AveragePooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
                x = layers.Concatenate()([inner, x])
            else:
                x = layers.Add()([inner, x])
            x = layers.ReLU(name=f"stage_{stage}" if block == blocks - 1 else None)(x)
    return classified("shuffle_v1", inputs, x, classes)


def shuffle_v2(classes: int) -> keras.Model:
    """Return ShuffleNet V2 at its width 1 (Ma et al., 2018, arXiv 1807.11164), which has no first stride here."""
    inputs = keras.Input(INPUT_SHAPE)
    x = normed(convolved(inputs, 24, 1, init=TORCH))
    for stage, (filters, blocks) in enumerate(((116, 3), (232, 7), (464, 3)), start=1):
        half = filters // 2
        left = normed(convolved(normed(depthwise(x, 2), relu=False), half, 1, init=TORCH))
        x = layers.Concatenate()([left, transformed(x, half, 2)])
        for _ in range(blocks):
            x = shuffled(x, 2)
            x = layers.Concatenate()([x[..., :half], transformed(x[..., half:], half, 1)])
        x = layers.Identity(name=f"stage_{stage}")(shuffled(x, 2))
    return classified("shuffle_v2", inputs, normed(convolved(x, 1024, 1, init=TORCH)), classes)


def transformed(x, filters: int, stride: int):
    """Return the branch of ShuffleNet V2 that is computed: 1 x 1, 3 x 3 of each channel, 1 x 1."""
    x = normed(convolved(x, filters, 1, init=TORCH))
    return normed(convolved(normed(depthwise(x, stride), relu=False), filters, 1, init=TORCH))


def resnet32x4(classes: int = 100) -> keras.Model:
    return resnet("resnet32x4", 32, (32, 64, 128, 256), classes)


def resnet8x4(classes: int = 100) -> keras.Model:
    return resnet("resnet8x4", 8, (32, 64, 128, 256), classes)


def wrn_40_2(classes: int = 100) -> keras.Model:
    return wide_resnet("wrn_40_2", 40, 2, classes)


def wrn_16_2(classes: int = 100) -> keras.Model:
    return wide_resnet("wrn_16_2", 16, 2, classes)


#: What builds each network, of a number of classes, by its name in the papers' code.
NETWORKS: dict[str, Callable[[int], keras.Model]] = {
    "resnet32x4": resnet32x4,
    "resnet8x4": resnet8x4,
    "wrn_40_2": wrn_40_2,
    "wrn_16_2": wrn_16_2,
    "shuffle_v1": shuffle_v1,
    "shuffle_v2": shuffle_v2,
}
