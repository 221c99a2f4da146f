"""Targets on disk: run a function over a data set once, and join what it has returned to the examples.

What a teacher is, and how it becomes such a function, `keras_kd.TeacherCache` knows.
"""
