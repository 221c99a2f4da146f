"""Progress of long work, printed or logged as Keras is set to do."""

import contextlib
import logging
import sys
from collections.abc import Iterator

import keras


def info(message: str) -> None:
    """Write a line to the screen, or to the log where the user has chosen that in Keras."""
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(message + "\n")
        sys.stdout.flush()
    else:
        logging.getLogger("keras_kd").info(message)


@contextlib.contextmanager
def quiet(active: bool = True) -> Iterator[None]:
    """Keep off the screen what Keras and this library would write there; it goes to the log.

    TensorFlow's warnings of retracing are left out in any case: where many models are trained in one process, each has
    to be traced.
    """
    was = keras.config.is_interactive_logging_enabled()
    if active:
        keras.config.disable_interactive_logging()
    tensorflow = logging.getLogger("tensorflow")
    tensorflow.addFilter(_is_not_of_retracing)
    try:
        yield
    finally:
        tensorflow.removeFilter(_is_not_of_retracing)
        # Whatever was called may have cleared Keras's session, and this setting with it.
        (keras.config.enable_interactive_logging if was else keras.config.disable_interactive_logging)()


@contextlib.contextmanager
def at_level(name: str, level: int) -> Iterator[None]:
    """Let a logger, by its name, write nothing below a level."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _is_not_of_retracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()
