"""How good, how faithful to its teacher, how large and how fast: models side by side, on the same data."""

from keras_kd.comparison.quality import measure as measure
