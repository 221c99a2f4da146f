"""Architectures to prune. Each is built by a function of `cut`, which stands where channels are read.

`cut(x, "layer")` is x in the model that is pruned. In the reference, it is x with zeros in the channels that were
removed from "layer": which ones these are, each architecture says by itself. What is no channel of a tensor, such as a
head, is cut in the weights: `ZEROED` names the weights that read it.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_kd._internal.model_graphs import functional

RANDOM = np.random.default_rng(0)
SIDE = 8


class Masked(layers.Layer):
    """Multiply the channels by 0 or 1."""

    def __init__(self, mask, **arguments):
        super().__init__(**arguments)
        self.mask = np.asarray(mask, "float32")
        self.supports_masking = True

    def call(self, x):
        """Return the channels that are left, and zeros."""
        return x * self.mask


def uncut(x, *names):
    """Return a tensor as it is."""
    return x


def images(channels=3):
    return keras.Input((SIDE, SIDE, channels), name="images")


def conv(x, filters, size=3, name=None, strides=1, **arguments):
    return layers.Conv2D(filters, size, strides, "same", name=name, **arguments)(x)


def normed(x, activation="relu"):
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def classified(x, name="scores", classes=3):
    return layers.Dense(classes, name=name)(x)


def mlp(cut):
    """Dense layers with batch normalisation, PReLU and dropout."""
    inputs = keras.Input((6,))
    x = cut(normed(layers.Dense(8, name="first")(inputs)), "first")
    x = layers.Dropout(0.3)(layers.PReLU()(layers.Dense(10, name="second")(x)))
    return keras.Model(inputs, classified(cut(x, "second")))


def vgg(cut):
    """Convolutions, then Flatten and dense layers."""
    inputs = images()
    x = cut(conv(inputs, 6, name="one", activation="relu"), "one")
    x = layers.MaxPooling2D()(conv(x, 8, name="two", activation="relu"))
    x = cut(layers.ZeroPadding2D(1)(x), "two")
    x = layers.Dense(12, activation="relu", name="hidden")(layers.Flatten()(x))
    return keras.Model(inputs, classified(cut(x, "hidden")))


def resnet(cut):
    """Two residual blocks, one with a projection; the second stage reads the first."""
    inputs = images()
    x = normed(conv(inputs, 8, name="stem"))
    y = cut(normed(conv(cut(x, "stem"), 8, name="inner")), "inner")
    x = layers.Activation("relu")(layers.Add(name="sum")([x, layers.BatchNormalization()(conv(y, 8, name="outer"))]))
    x = cut(x, "sum")
    y = cut(normed(conv(x, 12, name="inner_2", strides=2)), "inner_2")
    shortcut = layers.BatchNormalization()(conv(x, 12, 1, name="shortcut", strides=2, use_bias=False))
    x = layers.ReLU()(layers.Add(name="sum_2")([shortcut, layers.BatchNormalization()(conv(y, 12, name="outer_2"))]))
    return keras.Model(inputs, classified(cut(layers.GlobalAveragePooling2D()(x), "sum_2")))


def preactivated(cut):
    """A residual block whose normalisation comes first, written with operators."""
    inputs = images()
    x = conv(inputs, 8, name="stem")
    y = cut(normed(x), "stem")
    y = cut(normed(conv(y, 6, name="inner")), "inner")
    x = x + conv(y, 8, name="outer")
    x = normed(x * 0.5, "swish")
    return keras.Model(inputs, classified(cut(ops.mean(x, axis=(1, 2)), "outer")))


def densenet(cut):
    """Each layer reads all before it."""
    inputs = images()
    x = conv(inputs, 6, name="stem")
    names = ["stem"]
    for number in range(3):
        y = cut(normed(x), *names)
        y = cut(normed(conv(y, 8, 1, name=f"bottleneck_{number}")), f"bottleneck_{number}")
        x = layers.Concatenate()([x, conv(y, 4, name=f"grown_{number}")])
        names.append(f"grown_{number}")
    x = cut(normed(x), *names)
    x = layers.AveragePooling2D(2)(conv(x, 8, 1, name="transition"))
    return keras.Model(inputs, classified(cut(layers.GlobalMaxPooling2D()(normed(x)), "transition")))


def inception(cut):
    """Branches of several sizes side by side, joined by `keras.ops` too."""
    inputs = images()
    x = cut(conv(inputs, 6, name="stem", activation="relu"), "stem")
    one = conv(x, 4, 1, name="one")
    three = conv(cut(conv(x, 4, 1, name="reduce"), "reduce"), 6, name="three")
    pooled = conv(layers.AveragePooling2D(3, 1, "same")(x), 2, 1, name="pooled")
    x = ops.concatenate([one, three, pooled, inputs], axis=-1)
    x = layers.Dense(6, name="hidden")(layers.Flatten()(cut3(cut, normed(x), ["one", "three", "pooled"], 3)))
    return keras.Model(inputs, classified(cut(x, "hidden")))


def cut3(cut, x, names, more):
    """Cut the first channels of a tensor whose last ones, of the input, all stay."""
    return layers.Concatenate()([cut(x[..., :-more], *names), x[..., -more:]]) if cut is not uncut else x


def inverted(cut):
    """MobileNetV2: wide inside, depthwise, with a residual sum of what is narrow."""
    inputs = images()
    x = cut(normed(conv(inputs, 6, name="stem"), "relu6"), "stem")
    y = normed(conv(x, 12, 1, name="wide", use_bias=False), "relu6")
    y = normed(layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(cut(y, "wide")), "relu6")
    y = layers.BatchNormalization()(conv(cut(y, "wide"), 6, 1, name="narrow", use_bias=False))
    y = layers.Add(name="sum")([x, y])
    x = cut(y, "sum")
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu", name="double")(x)
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(cut(x, "double"))))


def squeezed(cut):
    """MobileNetV3: hard swish, and a factor for each channel from squeeze and excitation."""
    inputs = images()
    x = normed(conv(inputs, 8, name="stem"), "hard_silu")
    s = cut(layers.GlobalAveragePooling2D(keepdims=True)(x), "stem")
    s = cut(conv(s, 4, 1, name="squeeze", activation="relu"), "squeeze")
    s = conv(s, 8, 1, name="excite", activation="hard_sigmoid")
    x = layers.Multiply(name="scaled")([x, s])
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(cut(x, "scaled"))))


def efficient(cut):
    """EfficientNet: the same with a Reshape, swish and a depthwise convolution."""
    inputs = images()
    x = layers.Rescaling(1 / 2)(inputs)
    x = normed(conv(x, 8, name="stem"), "swish")
    x = cut(x, "stem")
    x = normed(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x), "swish")
    s = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    s = cut(conv(cut(s, "stem"), 4, 1, name="squeeze", activation="swish"), "squeeze")
    x = layers.Multiply()([x, conv(s, 8, 1, name="excite", activation="sigmoid")])
    x = normed(conv(cut(x, "stem"), 10, 1, name="top"), "swish")
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(cut(x, "top"))))


def grouped(cut):
    """ResNeXt: many small groups, which go as a whole."""
    inputs = images()
    x = cut(normed(conv(inputs, 12, 1, name="reduce")), "reduce")
    x = cut(normed(conv(x, 12, name="grouped", groups=6)), "grouped")
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(cut(conv(x, 8, 1, name="last"), "last"))))


def grouped_wide(cut):
    """Two wide groups, which lose the same channels each."""
    inputs = images()
    x = cut(normed(conv(inputs, 12, 1, name="reduce")), "reduce")
    x = cut(normed(conv(x, 8, name="grouped", groups=2)), "grouped")
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(x)))


def shuffled(cut):
    """ShuffleNet: channels are reordered between the groups."""
    inputs = images()
    x = cut(conv(inputs, 12, 1, name="wide"), "wide")
    x = ops.reshape(x, (-1, SIDE, SIDE, 4, 3))
    x = ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, SIDE, SIDE, 12))
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(cut(conv(x, 5, 1, name="last"), "last"))))


def separable(cut):
    """Separable convolutions."""
    inputs = images()
    x = layers.SeparableConv2D(8, 3, padding="same", name="first", activation="relu")(inputs)
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, padding="same", name="second")(cut(x, "first"))
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(cut(normed(x), "second"))))


def waves(cut):
    """Convolutions of one axis, transposed ones, PReLU with shared axes, group normalisation."""
    inputs = keras.Input((16, 2))
    x = layers.PReLU(shared_axes=[1])(layers.Conv1D(8, 3, padding="causal", name="first")(inputs))
    x = layers.Conv1D(8, 3, strides=2, padding="same", name="second")(cut(x, "first"))
    x = cut(layers.ReLU()(layers.GroupNormalization(4)(x)), "second")
    x = layers.Conv1DTranspose(6, 4, strides=2, padding="same", name="third")(x)
    x = cut(layers.DepthwiseConv1D(3, padding="same")(cut(x, "third")), "third")
    x = layers.SeparableConv1D(4, 3, name="fourth")(layers.UpSampling1D(2)(x))
    return keras.Model(inputs, classified(layers.GlobalMaxPooling1D()(cut(x, "fourth"))))


def unet(cut):
    """An encoder and a decoder, with what was before beside what comes back."""
    inputs = images()
    one = conv(inputs, 6, name="one", activation="relu")
    two = conv(layers.MaxPooling2D()(cut(one, "one")), 8, name="two", activation="relu")
    x = layers.Conv2DTranspose(6, 2, strides=2, name="up", activation="relu")(cut(two, "two"))
    x = cut(layers.Concatenate()([x, one]), "up", "one")
    x = conv(x, 5, name="merge", activation="elu")
    return keras.Model(inputs, conv(cut(x, "merge"), 2, 1, name="scores", activation="softmax"))


def shared(cut):
    """Two inputs read by the same layers."""
    inputs = [keras.Input((6,), name=name) for name in ("left", "right")]
    first, second = layers.Dense(8, "relu", name="first"), layers.Dense(6, "tanh", name="second")
    left, right = (second(cut(first(each), "first")) for each in inputs)
    x = layers.Concatenate()([layers.Subtract()([left, right]), layers.Maximum()([left, right])])
    return keras.Model(inputs, classified(cut(x, "second", "second")))


def nested(cut):
    """A backbone as a model in a model, in a model."""
    inner_inputs = keras.Input((SIDE, SIDE, 4))
    x = cut(conv(inner_inputs, 6, name="deep", activation="relu"), "backbone/inner/deep")
    inner = keras.Model(inner_inputs, conv(x, 5, name="deeper"), name="inner")
    outer_inputs = images()
    x = inner(cut(conv(outer_inputs, 4, name="stem"), "backbone/stem"))
    backbone = keras.Model(outer_inputs, layers.ReLU()(x), name="backbone")
    inputs = images()
    hidden = layers.Dense(8, "relu", name="hidden")
    head = keras.Sequential([keras.Input((5,)), hidden, layers.Dropout(0.1)], name="head")
    x = layers.GlobalAveragePooling2D()(cut(backbone(inputs), "backbone/inner/deeper"))
    return keras.Model(inputs, classified(cut(head(x), "head/hidden")))


def sequential(cut):
    """A Sequential model; in the reference its layers are called one by one."""
    stack = [
        layers.Conv2D(6, 3, name="one", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(8, 3, name="two"),
        layers.Flatten(),
        layers.Dense(3, name="scores"),
    ]
    if cut is uncut:
        return keras.Sequential([images(), *stack], name="sequential")
    inputs = images()
    x = cut(stack[0](inputs), "one")
    return keras.Model(inputs, stack[4](stack[3](cut(stack[2](stack[1](x)), "two"))))


def transformer(cut):
    """Attention and dense layers on a normalised stream, which stays."""
    inputs = keras.Input((5, 8))
    x = layers.LayerNormalization(name="norm")(inputs)
    x = inputs + layers.MultiHeadAttention(4, 3, value_dim=2, name="attention")(x, x)
    y = layers.LayerNormalization()(layers.Dense(8, name="projected")(x))
    y = cut(layers.Dense(12, "gelu", name="wide")(y), "wide")
    x = layers.LayerNormalization()(x + layers.Dense(8, name="narrow")(y))
    return keras.Model(inputs, classified(layers.GlobalAveragePooling1D()(x)))


def attentive(cut):
    """Attention without normalisation: its queries and outputs lose channels, too."""
    inputs = keras.Input((5, 6))
    x = layers.Dense(8, name="stream", activation="relu")(inputs)
    y = layers.MultiHeadAttention(2, 4, name="attention")(cut(x, "stream"), cut(x, "stream"))
    x = cut(x + y, "stream")
    y = layers.GroupQueryAttention(4, 6, 3, name="grouped")(x, x)
    x = layers.MultiHeadAttention(2, 4, output_shape=10, name="wider")(cut(y, "stream"), inputs)
    return keras.Model(inputs, classified(layers.GlobalAveragePooling1D()(cut(x, "wider"))))


def handwritten(cut):
    """Attention of dense layers, reshapes, transpositions and products of matrices."""
    inputs = keras.Input((5, 6))

    def heads(name):
        return ops.transpose(ops.reshape(layers.Dense(12, name=name)(inputs), (-1, 5, 4, 3)), (0, 2, 1, 3))

    query, key, value = (heads(name) for name in ("query", "key", "value"))
    scores = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / 3**0.5)
    x = layers.Permute((2, 1, 3))(ops.matmul(scores, value))
    x = layers.Reshape((5, 12))(x)
    return keras.Model(inputs, classified(layers.GlobalAveragePooling1D()(cut(x, "value"))))


def einsums(cut):
    """Heads of EinsumDense, normalised inside of each."""
    inputs = keras.Input((5, 6))
    x = layers.EinsumDense("abc,cde->abde", (5, 4, 3), bias_axes="de", activation="relu", name="split")(inputs)
    x = layers.EinsumDense("abde,dec->abc", (5, 8), bias_axes="c", name="joined")(x)
    return keras.Model(inputs, classified(layers.GlobalMaxPooling1D()(cut(x, "joined"))))


def tied(cut):
    """An embedding that is also the head."""
    inputs = keras.Input((5,), dtype="int32")
    table = layers.ReversibleEmbedding(7, 8, name="table")
    x = table(inputs)
    x = x + cut(layers.Dense(8, "tanh", name="mixed")(cut(x, "table")), "mixed")
    return keras.Model(inputs, table(cut(x, "table"), reverse=True))


def recurrent(cut):
    """LSTM, GRU and SimpleRNN, of an embedding with a mask; in both directions."""
    inputs = keras.Input((5,), dtype="int32")
    x = cut(layers.Embedding(7, 6, mask_zero=True, name="words")(inputs), "words")
    x = cut(layers.LSTM(6, return_sequences=True, name="lstm")(x), "lstm")
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(x)
    x = layers.TimeDistributed(layers.Dense(6, name="inner"), name="each")(cut(x, "both"))
    return keras.Model(inputs, classified(cut(layers.SimpleRNN(8, name="last")(cut(x, "each")), "last")))


def masked(cut):
    """A mask goes with the channels, to where a mean is taken."""
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 6, mask_zero=True, name="words")(inputs)
    x = layers.Dropout(0.1)(layers.Dense(8, "relu", name="hidden")(cut(x, "words")))
    return keras.Model(inputs, classified(layers.GlobalAveragePooling1D()(cut(x, "hidden"))))


def many(cut):
    """Two inputs, two outputs, in dicts."""
    inputs = {"image": images(), "numbers": keras.Input((4,), name="numbers")}
    x = conv(inputs["image"], 6, name="stem", activation="relu")
    x = layers.GlobalAveragePooling2D()(cut(x, "stem"))
    y = layers.Dense(6, "relu", name="hidden")(inputs["numbers"])
    z = layers.Average()([cut(x, "stem"), cut(y, "hidden")])
    z = layers.Dense(8, "relu", name="joint")(z)
    return keras.Model(inputs, {"scores": classified(cut(z, "joint")), "size": classified(cut(z, "joint"), "size", 1)})


def staying(cut):
    """Channels that meet the inputs in sums, groups, factors and attention over two axes, and stay; one layer's go."""
    inputs = images(4)
    x = layers.Add()([conv(inputs, 4, name="added"), inputs])
    x = layers.Multiply()([conv(x, 4, name="between"), conv(inputs, 4, name="grouped", groups=2)])
    x = layers.MultiHeadAttention(2, 3, attention_axes=(1, 2), name="over_maps")(x, x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x * layers.UnitNormalization()(conv(x, 4, name="unit")))
    x = cut(conv(layers.Concatenate()([x, conv(x, 3, activation="softmax", name="shares")]), 24, name="free"), "free")
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(x)))


#: What builds each of them, by name.
ALL = {
    each.__name__: each
    for each in (
        mlp, vgg, resnet, preactivated, densenet, inception, inverted, squeezed, efficient, grouped, grouped_wide,
        shuffled, separable, waves, unet, shared, nested, sequential, transformer, attentive, handwritten, einsums,
        tied, recurrent, masked, many, staying,
    )
}  # fmt: skip


#: The weights that read units which are no channels of a tensor, by architecture: the end of their path, and the axis.
ZEROED = {
    "transformer": {"attention:heads": [("attention/attention_output/kernel", 0)]},
    "attentive": {
        "attention:heads": [("attention/attention_output/kernel", 0)],
        "grouped:heads": [("grouped/attention_output/kernel", 0)],
        "wider:heads": [("wider/attention_output/kernel", 0)],
    },
    "recurrent": {
        "lstm": [("lstm_cell/recurrent_kernel", 0)],
        "last": [("simple_rnn_cell/recurrent_kernel", 0)],
        "both/forward_gru": [("forward_gru/gru_cell/recurrent_kernel", 0)],
        "both/backward_gru": [("backward_gru/gru_cell/recurrent_kernel", 0)],
    },
    "einsums": {"split": [("joined/kernel", 0)]},
}


def perturbed(model, seed=1):
    """Give a model random biases and statistics, as a trained one has."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(random.uniform(0.3, 1.5, variable.shape))
        else:
            variable.assign(random.normal(0, 1 / np.sqrt(np.prod(variable.shape[:-1])), variable.shape))
    return model


def data(model, rows=4, seed=2):
    """Return random inputs of a model, of its structure."""
    random = np.random.default_rng(seed)

    def draw(tensor):
        shape = (rows, *(size or 6 for size in tensor.shape[1:]))
        if "int" in tensor.dtype:
            return random.integers(0, 2 if "segment" in tensor.name else 7, shape)
        return random.normal(size=shape).astype("float32")

    return keras.tree.map_structure(draw, functional(model).input)
