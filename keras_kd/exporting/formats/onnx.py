"""The student as an ONNX file, for onnxruntime and what else reads it."""

import logging
import pathlib

from keras_kd._internal import log
from keras_kd.exporting.export_source import Source
from keras_kd.exporting.formats.format import Format

#: Read by every onnxruntime since 1.14, and the newest that tf2onnx writes.
_OPSET = 18


def write(source: Source, path: pathlib.Path) -> None:
    """Write an `.onnx` file with the inputs and outputs of the signature, the batch size free.

    Raises:
        ValueError: ONNX does not have an operation of the student.
    """
    import onnx
    import tf2onnx

    function = source.interface.signature(source.in_float32)
    captured = {id(placeholder) for _, placeholder in function.graph.captures}
    inputs = [tensor.name for tensor in function.inputs if id(tensor) not in captured]
    outputs = [tensor.name for tensor in function.outputs]
    with (
        log.at_level("tf2onnx", logging.CRITICAL),
        log.at_level("tensorflow", logging.CRITICAL),
    ):  # what they log as errors is raised below
        # `from_function` would make inputs of tensors that a layer keeps beside its variables, as Normalization does.
        graph = tf2onnx.tf_loader.from_function(function, inputs, outputs)
        names = tf2onnx.convert.tensor_names_from_structed(function, inputs, outputs)
        model, _ = tf2onnx.convert.from_graph_def(
            graph, input_names=inputs, output_names=outputs, opset=_OPSET, tensors_to_rename=names
        )
    lacking = sorted({node.op_type for node in model.graph.node if not onnx.defs.has(node.op_type, node.domain)})
    if lacking:
        raise ValueError(
            f"ONNX does not have operations that {source.student.name!r} needs: {', '.join(lacking)}. "
            "Use other layers, or leave this format out."
        )
    path.write_bytes(model.SerializeToString())


def variants(kinds: tuple[str | None, ...]) -> list[Format]:
    """Return the one format of an ONNX file."""
    return [Format("onnx", "student.onnx", write, "onnx", 1e-5, "onnx", ("onnx", "tf2onnx", "onnxruntime"))]
