"""Teachers: where the targets come from."""

from keras_kd.teachers.base import Teacher as Teacher
from keras_kd.teachers.cached import Cached as Cached
from keras_kd.teachers.ema import EMA as EMA
from keras_kd.teachers.ensemble import Ensemble as Ensemble
from keras_kd.teachers.ensemble import as_teacher as as_teacher
from keras_kd.teachers.exported import ONNX as ONNX
from keras_kd.teachers.exported import LiteRT as LiteRT
from keras_kd.teachers.exported import SavedModel as SavedModel
from keras_kd.teachers.frozen import Frozen as Frozen
from keras_kd.teachers.in_memory import InMemory as InMemory
from keras_kd.teachers.python import Python as Python
from keras_kd.teachers.routed import Routed as Routed
from keras_kd.teachers.self_teacher import SelfTeacher as SelfTeacher
from keras_kd.teachers.served import Served as Served
