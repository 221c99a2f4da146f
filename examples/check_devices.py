"""Show where TensorFlow places a distillation on this machine, and what a step costs there.

    python examples/check_devices.py    # about a minute on two CPU cores, which are made to look like two devices

Nothing in keras_kd pins a device: with a GPU, teacher and student run on it without further code; under
`with tf.distribute.MirroredStrategy().scope():` on all of them. The table has a row for each strategy and precision:
the devices of the student's weights and of the teacher's outputs, the milliseconds of a step after the first two, and
the loss, which should differ between rows by no more than the precision does (2**-8 = 0.4 % for bfloat16).
"""

import argparse
import time

import quiet

quiet.load_tensorflow()

import keras
import numpy as np
import tensorflow as tf
from models import build_student, build_teacher

import keras_kd as kd

INPUT_SHAPE, CLASSES = (28, 28, 1), 10


def main() -> None:
    options = read_arguments()
    devices = make_devices()
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}. Devices: {', '.join(short(each) for each in devices)}"
    )
    print(f"{'strategy':<10}{'precision':<16}{'student':<18}{'teacher':<18}{'ms a step':>10}{'loss':>11}")
    strategies = {"default": tf.distribute.get_strategy()}
    if len(devices) > 1:
        strategies["mirrored"] = tf.distribute.MirroredStrategy(devices)
    for name, strategy in strategies.items():
        for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
            print(f"{name:<10}{precision:<16}{row(strategy, precision, options)}", flush=True)


def make_devices() -> list[str]:
    """Return the GPUs, or two logical devices of the processor."""
    if tf.config.list_physical_devices("GPU"):
        return [each.name for each in tf.config.list_logical_devices("GPU")]
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return [each.name for each in tf.config.list_logical_devices("CPU")]


def row(strategy: tf.distribute.Strategy, precision: str, options: argparse.Namespace) -> str:
    random = np.random.default_rng(0)
    x = random.random((options.batch_size, *INPUT_SHAPE), dtype=np.float32)
    y = random.integers(0, CLASSES, len(x))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(len(x)).cache().repeat()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        teacher = build_teacher(INPUT_SHAPE, CLASSES)
        keras.config.set_dtype_policy(precision)
        distiller = kd.Distiller(student=build_student(INPUT_SHAPE, CLASSES), teacher=teacher)
        keras.config.set_dtype_policy("float32")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(1e-3), loss, temperature=4.0, alpha=0.5)
    times = Times()
    history = distiller.fit(data, steps_per_epoch=options.steps, callbacks=[times], shuffle=False, verbose=0).history
    placed = {short(each.device) for each in strategy.experimental_local_results(distiller.student.weights[0].value)}
    outputs = strategy.run(lambda images: teacher(images, training=False), args=(tf.constant(x[:2]),))
    predicted_on = {short(each.device) for each in strategy.experimental_local_results(outputs)}
    where = f"{','.join(sorted(placed)):<18}{','.join(sorted(predicted_on)):<18}"
    return f"{where}{times.median():>10.1f}{history['loss'][0]:>11.6f}"


class Times(keras.callbacks.Callback):
    """Record the time of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.ends.append(time.perf_counter())

    def median(self) -> float:
        """Return milliseconds, without the first two steps, which compile."""
        return 1e3 * float(np.median(np.diff(self.ends[1:])))


def short(device: str) -> str:
    """Return "CPU:0" for TensorFlow's long name."""
    return device.rsplit("/", maxsplit=1)[-1].removeprefix("device:")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64, help="examples a step (default: 64)")
    parser.add_argument("--steps", type=int, default=50, help="steps of each row (default: 50)")
    options = parser.parse_args()
    for name, least in (("batch_size", 2), ("steps", 4)):
        received = getattr(options, name)
        if received < least:
            parser.error(f"argument --{name.replace('_', '-')}: expected at least {least}. Received: {received}")
    return options


if __name__ == "__main__":
    main()
