"""Knowledge distillation for Keras 3 on TensorFlow: a large teacher trains a small student."""

from keras_kd import _backend as _backend
from keras_kd import bridges as bridges
from keras_kd import callbacks as callbacks
from keras_kd import data as data
from keras_kd import diagnostics as diagnostics
from keras_kd import losses as losses
from keras_kd import methods as methods
from keras_kd import metrics as metrics
from keras_kd import preflight as preflight
from keras_kd import quantization as quantization
from keras_kd import schedules as schedules
from keras_kd import stages as stages
from keras_kd import teachers as teachers
from keras_kd import transforms as transforms
from keras_kd.benchmarking import BenchmarkResult as BenchmarkResult
from keras_kd.benchmarking import benchmark as benchmark
from keras_kd.cache import TeacherCache as TeacherCache
from keras_kd.comparison import Comparison as Comparison
from keras_kd.comparison import compare as compare
from keras_kd.distiller import Distiller as Distiller
from keras_kd.exporting import export as export
from keras_kd.quantization import quantization_aware as quantization_aware
from keras_kd.targets import Joined as Joined
from keras_kd.terms import Term as Term
from keras_kd.tuning import TuneResult as TuneResult
from keras_kd.tuning import tune as tune

__version__ = "0.1.0"
