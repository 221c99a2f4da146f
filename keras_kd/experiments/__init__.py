"""Several runs, each resumable: students x recipes x seeds (`benchmark`), and a search for settings (`tune`)."""

from keras_kd.experiments.benchmark_result import BenchmarkResult as BenchmarkResult
from keras_kd.experiments.benchmark_result import Row as Row
from keras_kd.experiments.benchmark_result import Run as Run
from keras_kd.experiments.benchmarking import benchmark as benchmark
from keras_kd.experiments.tune_result import Trial as Trial
from keras_kd.experiments.tune_result import TuneResult as TuneResult
from keras_kd.experiments.tuning import tune as tune
