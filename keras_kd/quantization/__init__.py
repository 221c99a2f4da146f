"""Students of integers: they learn with LiteRT's rounding in their forward pass, or with some layers in fewer bits."""

import typing

from keras_kd._lazy import attach as _attach

if typing.TYPE_CHECKING:
    from keras_kd.quantization.layer_sensitivity import LayerCost as LayerCost
    from keras_kd.quantization.layer_sensitivity import Sensitivity as Sensitivity
    from keras_kd.quantization.layer_sensitivity import sensitivity as sensitivity
    from keras_kd.quantization.layers import FakeQuantize as FakeQuantize
    from keras_kd.quantization.layers import QuantizedConv2D as QuantizedConv2D
    from keras_kd.quantization.layers import QuantizedDense as QuantizedDense
    from keras_kd.quantization.layers import QuantizedDepthwiseConv2D as QuantizedDepthwiseConv2D
    from keras_kd.quantization.rewrite import quantization_aware as quantization_aware

_LATER = {
    "FakeQuantize": "keras_kd.quantization.layers",
    "QuantizedConv2D": "keras_kd.quantization.layers",
    "QuantizedDense": "keras_kd.quantization.layers",
    "QuantizedDepthwiseConv2D": "keras_kd.quantization.layers",
    "quantization_aware": "keras_kd.quantization.rewrite",
    "LayerCost": "keras_kd.quantization.layer_sensitivity",
    "Sensitivity": "keras_kd.quantization.layer_sensitivity",
    "sensitivity": "keras_kd.quantization.layer_sensitivity",
}

__getattr__, __dir__, __all__ = _attach(__name__, _LATER)
