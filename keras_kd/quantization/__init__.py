"""Students of integers: they learn with LiteRT's rounding in their forward pass, or with some layers in fewer bits."""

from keras_kd.quantization.layers import FakeQuantize as FakeQuantize
from keras_kd.quantization.layers import QuantizedConv2D as QuantizedConv2D
from keras_kd.quantization.layers import QuantizedDense as QuantizedDense
from keras_kd.quantization.layers import QuantizedDepthwiseConv2D as QuantizedDepthwiseConv2D
from keras_kd.quantization.rewrite import quantization_aware as quantization_aware
from keras_kd.quantization.sensitivity import LayerCost as LayerCost
from keras_kd.quantization.sensitivity import Sensitivity as Sensitivity
from keras_kd.quantization.sensitivity import sensitivity as sensitivity
