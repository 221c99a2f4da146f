"""Several runs, each resumable: of recipes (`benchmark`), of settings (`tune`), of all a budget allows (`distill`)."""

from keras_kd.experiments.benchmark_result import BenchmarkResult as BenchmarkResult
from keras_kd.experiments.benchmark_result import Row as Row
from keras_kd.experiments.benchmark_result import Run as Run
from keras_kd.experiments.benchmarking import benchmark as benchmark
from keras_kd.experiments.candidate_ranking import Scored as Scored
from keras_kd.experiments.candidates import Candidate as Candidate
from keras_kd.experiments.distill_result import Distilled as Distilled
from keras_kd.experiments.distill_result import Verdict as Verdict
from keras_kd.experiments.distilling import distill as distill
from keras_kd.experiments.tune_result import Trial as Trial
from keras_kd.experiments.tune_result import TuneResult as TuneResult
from keras_kd.experiments.tuning import tune as tune
