"""Messages of long work, where Keras would put its own."""

import logging
import sys

import keras


def say(message: str) -> None:
    """Write a line to the screen, or to the log where the user has asked Keras for that."""
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(message + "\n")
        sys.stdout.flush()
    else:
        logging.getLogger("keras_kd").info(message)
