"""The student, its interface and its sample inputs, from which every format is written."""

import dataclasses
import functools
import pathlib

import keras
import numpy as np

from keras_kd._internal import cloning
from keras_kd._keras import layer_tree
from keras_kd.exporting.interface import Interface
from keras_kd.exporting.sample_inputs import Examples
from keras_kd.exporting.serving import Served

#: What students that compute in 16 bits may differ, which round more coarsely, in proportion to their numbers.
_ROUNDING = {"bfloat16": 2e-2, "float16": 2e-3}


@dataclasses.dataclass(frozen=True)
class Source:
    """A student (or what is served of it), what it takes and gives, and examples of both.

    Attributes:
        student: a built model.
        interface: of it.
        examples: of its inputs and outputs.
        folder: for files of no further use.
        fresh: convert and run in processes of their own.
        float_layers: that stay in float in a file of LiteRT's 8-bit integers, as "layer" or "model/layer".
    """

    student: keras.Model
    interface: Interface
    examples: Examples
    folder: pathlib.Path
    fresh: bool
    float_layers: tuple[str, ...] = ()

    @functools.cached_property
    def in_float32(self) -> keras.Model:
        """The student, or where it computes in 16 bits a float32 copy, for runtimes that want one."""
        if not self.rounding:
            return self.student
        if isinstance(self.student, Served):
            return self.student.around(cloning.copy_model(self.student.student, "float32"))
        return cloning.copy_model(self.student, "float32")

    @functools.cached_property
    def rounding(self) -> float:
        """What the student's own rounding may differ, in proportion; 0 for float32.

        The policy of a model with a graph, and of its inputs, is that of the session that made or loaded it, and
        nothing is computed in it; those of its layers count.
        """
        idle = (Served, keras.Sequential, keras.layers.InputLayer)
        layers = [layer for layer in layer_tree.all_layers(self.student) if not isinstance(layer, idle)]
        own = [layer for layer in layers if not getattr(layer, "operations", None)]  # a Functional model
        return max((_ROUNDING.get(layer.compute_dtype, 0.0) for layer in own), default=0.0)

    @functools.cached_property
    def batches(self) -> pathlib.Path:
        """A file of the examples, for processes of their own."""
        path = self.folder / "batches.npz"
        np.savez(path, *[leaf for batch in self.examples.batches for leaf in batch])
        return path
