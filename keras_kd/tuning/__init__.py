"""Search for settings by KerasTuner: see `tune`."""

from keras_kd.tuning.results import Trial as Trial
from keras_kd.tuning.results import TuneResult as TuneResult
from keras_kd.tuning.tune import tune as tune
