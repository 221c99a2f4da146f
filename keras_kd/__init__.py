"""Knowledge distillation for Keras 3 on TensorFlow: a large teacher trains a small student."""

import typing

if typing.TYPE_CHECKING:
    from keras_kd import augment as augment
    from keras_kd import data as data
    from keras_kd import evaluation as evaluation
    from keras_kd import exporting as exporting
    from keras_kd import language as language
    from keras_kd import methods as methods
    from keras_kd import pruning as pruning
    from keras_kd import quantization as quantization
    from keras_kd import stages as stages
    from keras_kd.compression import CompressionRecord as CompressionRecord
    from keras_kd.compression import compress as compress
    from keras_kd.evaluation import Comparison as Comparison
    from keras_kd.evaluation import Probes as Probes
    from keras_kd.evaluation import compare as compare
    from keras_kd.evaluation import probe as probe
    from keras_kd.experiments import BenchmarkResult as BenchmarkResult
    from keras_kd.experiments import Distilled as Distilled
    from keras_kd.experiments import TuneResult as TuneResult
    from keras_kd.experiments import benchmark as benchmark
    from keras_kd.experiments import distill as distill
    from keras_kd.experiments import tune as tune
    from keras_kd.exporting.export import export as export
    from keras_kd.pruning import PruneReport as PruneReport
    from keras_kd.pruning import prune as prune
    from keras_kd.quantization import quantization_aware as quantization_aware
    from keras_kd.teachers.teacher_cache import TeacherCache as TeacherCache

from keras_kd import _backend as _backend
from keras_kd import bridges as bridges
from keras_kd import callbacks as callbacks
from keras_kd import losses as losses
from keras_kd import metrics as metrics
from keras_kd import preflight as preflight
from keras_kd import schedules as schedules
from keras_kd import targets as targets
from keras_kd import teachers as teachers
from keras_kd import transforms as transforms
from keras_kd._internal.soft_targets import Joined as Joined
from keras_kd._lazy import attach as _attach
from keras_kd._version import __version__ as __version__
from keras_kd.distiller import Distiller as Distiller
from keras_kd.language import aligned as _aligned  # noqa: F401  # files may hold its layers, which Keras has to know
from keras_kd.local_logits import CellMeans as _CellMeans  # noqa: F401  # the same
from keras_kd.quantization import layers as _layers  # noqa: F401  # the same
from keras_kd.term import Term as Term

_LATER = {
    "augment": "keras_kd.augment",
    "data": "keras_kd.data",
    "evaluation": "keras_kd.evaluation",
    "exporting": "keras_kd.exporting",
    "language": "keras_kd.language",
    "methods": "keras_kd.methods",
    "pruning": "keras_kd.pruning",
    "quantization": "keras_kd.quantization",
    "stages": "keras_kd.stages",
    "CompressionRecord": "keras_kd.compression",
    "compress": "keras_kd.compression",
    "Comparison": "keras_kd.evaluation",
    "Probes": "keras_kd.evaluation",
    "compare": "keras_kd.evaluation",
    "probe": "keras_kd.evaluation",
    "BenchmarkResult": "keras_kd.experiments",
    "Distilled": "keras_kd.experiments",
    "TuneResult": "keras_kd.experiments",
    "benchmark": "keras_kd.experiments",
    "distill": "keras_kd.experiments",
    "tune": "keras_kd.experiments",
    "export": "keras_kd.exporting.export",
    "PruneReport": "keras_kd.pruning",
    "prune": "keras_kd.pruning",
    "quantization_aware": "keras_kd.quantization",
    "TeacherCache": "keras_kd.teachers.teacher_cache",
}

__getattr__, __dir__, __all__ = _attach(__name__, _LATER)
