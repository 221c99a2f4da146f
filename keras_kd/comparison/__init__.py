"""How good, how faithful to its teacher, how large and how fast: models side by side, on the same data."""

from keras_kd.comparison.comparing import compare as compare
from keras_kd.comparison.costs import Cost as Cost
from keras_kd.comparison.quality import measure as measure
from keras_kd.comparison.record import Comparison as Comparison
