"""Smaller models of larger ones: fewer channels, heads, hidden units and blocks, and what lets them learn again."""

from keras_kd.pruning.healing import Match as Match
from keras_kd.pruning.healing import feature_terms as feature_terms
from keras_kd.pruning.healing import matched_layers as matched_layers
from keras_kd.pruning.healing import rounds as rounds
from keras_kd.pruning.prune_report import PruneReport as PruneReport
from keras_kd.pruning.prune_report import Width as Width
from keras_kd.pruning.pruned_sizes import file_bytes as file_bytes
from keras_kd.pruning.pruner import multiplications as multiplications
from keras_kd.pruning.pruner import prune as prune
from keras_kd.pruning.recalibration import recalibrate as recalibrate
from keras_kd.pruning.residual_blocks import find_blocks as find_blocks
