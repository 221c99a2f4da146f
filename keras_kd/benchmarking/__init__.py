"""Students x recipes x seeds in one call, with fair controls: see `benchmark`.

bench.py       plans the runs, does what is missing, says how long it will take
jobs.py        one run: a student, a recipe, a seed
parts.py       the data: training in an order that follows from the seed, validation, test
settings.py    what tells one run from another, so that what is kept is never mixed
workers.py     runs side by side: processes of this machine, Ray, any executor
results.py     the table; statistics.py and plot.py serve it
"""

from keras_kd.benchmarking.bench import benchmark as benchmark
from keras_kd.benchmarking.results import BenchmarkResult as BenchmarkResult
from keras_kd.benchmarking.results import Row as Row
from keras_kd.benchmarking.results import Run as Run
