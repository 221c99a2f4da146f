"""Models whose weights are what they compute with: without adapters beside them, and not as integers."""

import keras
import numpy as np

from keras_kd._internal import lora_adapters
from keras_kd._keras import layer_tree
from keras_kd.pruning import graph_walk
from keras_kd.pruning.kept_units import Choices
from keras_kd.pruning.opened_models import as_one_layer, only_layer, opened
from keras_kd.pruning.surgery import smaller
from keras_kd.quantization.layers import FakeQuantize


def check_floats(model: keras.Model) -> None:
    """Refuse a model with layers that are quantised: fewer units have other scales, which no longer fit.

    Raises:
        ValueError: it was quantised by Keras, or learns with the rounding of integers.
    """
    layers = layer_tree.all_layers(model)
    found = {each.name: each.quantization_mode for each in layers if each.quantization_mode is not None}
    found |= {each.name: "rounding" for each in layers if isinstance(each, FakeQuantize)}
    if found:
        raise ValueError(
            f"Expected a model of floats to prune. Received {model.name!r}, whose layers are quantised: {found}. "
            "Prune the model that it was before, let it learn again, and quantise what that gives."
        )


def without_adapters(model: keras.Model) -> keras.Model:
    """Return a model that computes the same without adapters (LoRA); the model itself where it has none.

    Which units matter is a question to the weights that adapters have changed, and an adapter of removed units would
    be one of another layer.
    """
    if not lora_adapters.count(model):
        return model
    whole = as_one_layer(model) if opened(model) is None else model
    merged = smaller(whole, Choices(graph_walk.trace(whole)).kept(np.array([], int)))
    return merged if whole is model else only_layer(merged)
