"""Smaller in one call: prune, distil, round to integers, and take the smallest model that is good enough."""

from keras_kd.compression.compressing import compress as compress
from keras_kd.compression.compression_record import CompressionRecord as CompressionRecord
from keras_kd.compression.trained_points import Point as Point
