"""TensorFlow without the lines that its libraries print as they are loaded."""

import os
import tempfile


def load_tensorflow() -> None:
    """Import TensorFlow, and drop what its libraries write to stderr meanwhile: no level of its log is above that.

    Where TF_CPP_MIN_LOG_LEVEL is set to less than 3, all of it is shown.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
    if level != "3":
        return
    shown = os.dup(2)
    with tempfile.TemporaryFile() as dropped:
        os.dup2(dropped.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(shown, 2)
            os.close(shown)
