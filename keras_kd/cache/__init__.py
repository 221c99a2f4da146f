"""The teacher runs once: a cache of its outputs that cannot lie."""

from keras_kd.cache.teacher_cache import TeacherCache as TeacherCache
