"""Files of teachers that no part of keras_kd has written."""

import numpy as np
import tensorflow as tf

WEIGHTS = np.linspace(-2.0, 2.0, 12, dtype="float32").reshape(4, 3)


def onnx(folder, batch=None, outputs=("scores",), inputs=("rows",)):
    """Write an ONNX file of `x @ WEIGHTS`, with each further output twice the one before; return its path."""
    import onnx as library
    from onnx import TensorProto, helper

    nodes = [helper.make_node("MatMul", [inputs[0], "weights"], [outputs[0]])]
    nodes += [helper.make_node("Add", [one, one], [two]) for one, two in zip(outputs, outputs[1:], strict=False)]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in outputs],
        [helper.make_tensor("weights", TensorProto.FLOAT, WEIGHTS.shape, WEIGHTS.ravel())],
    )
    path = folder / "teacher.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    library.save(model, str(path))
    return path


def litert(model, folder):
    """Write a LiteRT file of a Keras model by TensorFlow's converter; return its path."""
    path = folder / "teacher.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path
