"""How good, how faithful to its teacher, how large and how fast: models side by side, on the same data."""

from keras_kd.evaluation.comparing import compare as compare
from keras_kd.evaluation.comparison_result import Comparison as Comparison
from keras_kd.evaluation.costs import Cost as Cost
from keras_kd.evaluation.probing import Probes as Probes
from keras_kd.evaluation.probing import probe as probe
from keras_kd.evaluation.quality import measure as measure
