"""Students that learn with the rounding of an 8-bit integer runtime (LiteRT) in their forward pass."""

from keras_kd.quantization.layers import FakeQuantize as FakeQuantize
from keras_kd.quantization.layers import QuantizedConv2D as QuantizedConv2D
from keras_kd.quantization.layers import QuantizedDense as QuantizedDense
from keras_kd.quantization.layers import QuantizedDepthwiseConv2D as QuantizedDepthwiseConv2D
from keras_kd.quantization.rewrite import quantization_aware as quantization_aware
