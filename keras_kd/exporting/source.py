"""What every format is written from."""

import dataclasses
import functools

import keras

from keras_kd import copies, distribution
from keras_kd.exporting.examples import Examples
from keras_kd.exporting.interface import Interface
from keras_kd.exporting.served import Served


@dataclasses.dataclass(frozen=True)
class Source:
    """A student (or what is served of it), what it takes and gives, and examples of both."""

    student: keras.Model
    interface: Interface
    examples: Examples

    @functools.cached_property
    def in_float32(self) -> keras.Model:
        """The student, or where it computes in 16 bits a float32 copy, for runtimes that want one."""
        narrow = any(layer.compute_dtype in ("float16", "bfloat16") for layer in distribution.all_layers(self.student))
        if not narrow:
            return self.student
        if isinstance(self.student, Served):
            return self.student.around(copies.copy_model(self.student.student, "float32"))
        return copies.copy_model(self.student, "float32")
