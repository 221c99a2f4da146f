"""Teachers: where the targets come from."""

from keras_kd.teachers.base import Teacher as Teacher
from keras_kd.teachers.frozen import Frozen as Frozen
